"""Every command that a page names is there; forms for issues and the changelog are sound."""

import re
import shlex
from pathlib import Path

import contract
import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/teaching.md", "docs/hosts.md"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def commands(text: str) -> list[list[str]]:
    """The words of each command in a page, in backticks or in a block of shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    parts = [part for line in lines + spans for part in re.split(r"&&|\|", line.split("  #")[0])]
    begins = ("make ", "python ", "pytest ", "ruff ")
    return [shlex.split(part) for part in parts if part.strip().startswith(begins)]


def missing(words: list[str]) -> str:
    """What a command names and the repository lacks; NAME stands for what a contributor adds."""
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        return next((target for target in targets if target not in TARGETS), "")
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("tft_utils", "tests"):
        module = ROOT.joinpath(*words[2].split("."))
        if not (module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()):
            return words[2]
    files = [word for word in words if word.startswith("tests/") and "NAME" not in word]
    return next((file for file in files if not (ROOT / file).exists()), "")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page):
    found = commands((ROOT / page).read_text(encoding="utf-8"))
    assert found
    for words in found:
        assert not missing(words), f"{page} says `{' '.join(words)}`: there is no {missing(words)}"


def test_commands_are_seen_and_what_is_missing_is_named():
    block = "make no-such   # a note\npython -m tft_utils.nothing X | pytest tests/no.py\n"
    page = f"Run `make lab`.\n```sh\n{block}```\n"
    assert [missing(words) for words in commands(page)] == [
        *("no-such", "tft_utils.nothing", "tests/no.py"),
        "",
    ]


def test_each_addition_has_one_command():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (an? [^|]+?) \| `([^`]+)` \|$", text, re.M))
    form = yaml.safe_load(
        (ROOT / ".github" / "ISSUE_TEMPLATE" / "addition.yml").read_text(encoding="utf-8")
    )
    for kind in form["body"][0]["attributes"]["options"]:
        assert not missing(shlex.split(rows[kind]))
        assert f"## Add {kind}\n" in text


@pytest.mark.parametrize("page", PAGES[1:])
def test_links_of_a_page_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    for link in links:
        if not re.match(r"\w+:", link):
            assert not contract.unresolved(ROOT / page, link), f"{page}: {link} leads nowhere"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_can_show(form):
    """https://docs.github.com: syntax for issue forms."""
    found = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert found == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= found.keys() <= {"name", "description", "labels", "body"}
    ids = [field["id"] for field in found["body"]]
    assert len(ids) == len(set(ids))
    for field in found["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
        assert field["type"] != "dropdown" or field["attributes"]["options"]


def test_the_changelog_begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d+\.\d+\.\d+)", text, re.M)[1] == contract.PROJECT["version"]


def test_the_table_of_hosts_has_lessons_that_exist():
    """`python -m tests.benchmarks.hosts` measures them."""
    text = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d[a-z]?_\w+) \| ([\d,]+) \| (\d+) \|$", text, re.M)
    assert rows
    assert {name for name, *_ in rows} <= {path.stem for path in contract.notebooks.all_notebooks()}
