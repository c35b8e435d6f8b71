"""Colab, Binder and Docker, as far as a machine without them can tell.

tests/colab.json holds the versions that Colab publishes of the packages that this course needs. The setup
cell runs against them in a shell that records: what pip would bring then stands beside what Colab has.
"""

import importlib.metadata
import json
import re
import shlex
import sys
import types
from pathlib import Path

import contract
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

from tft_utils.course import environment, notebooks

ROOT = Path(__file__).parent.parent
COLAB = json.loads((ROOT / "tests" / "colab.json").read_text(encoding="utf-8"))
DEPENDENCIES = {Requirement(d).name: Requirement(d) for d in contract.PROJECT["dependencies"]}
TESTED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    if "==" in line
)


class Shell:
    """Stands for Colab's IPython: notes shell commands and magics, and runs none."""

    def __init__(self):
        self.commands, self.magics = [], []

    def system(self, command: str) -> None:
        self.commands.append(command)

    def run_line_magic(self, name: str, line: str, **_) -> None:
        self.magics.append((name, line))


@pytest.fixture
def colab(monkeypatch) -> Shell:
    """What the setup cell does where `google.colab` is loaded."""
    shell = Shell()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = contract.source(notebooks.parse(notebooks.all_notebooks()[0]), "setup")
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    return shell


@pytest.fixture
def packages(monkeypatch) -> dict[str, str]:
    """The versions that the environment check sees: Colab's own, to be changed by a test."""
    found = dict(COLAB["packages"])

    def version(name: str) -> str:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(environment, "ON_COLAB", True)
    monkeypatch.setattr(environment.sys, "version_info", (*map(int, COLAB["python"].split(".")),))
    return found


def installed(shell: Shell) -> list[Requirement]:
    (line,) = (line for name, line in shell.magics if name == "pip")
    return [Requirement(word) for word in shlex.split(line) if word[0] != "-" and word != "install"]


def outside(versions: dict[str, str], needs) -> set[str]:
    """The needs that these versions do not meet."""
    return {n.name for n in needs if not n.specifier.contains(versions.get(n.name, "0"))}


def test_the_setup_cell_brings_what_colab_lacks_and_nothing_else(colab):
    needs = [Requirement(need) for need in environment.NEEDS]
    brought = installed(colab)
    assert {r.name for r in brought} == outside(COLAB["packages"], needs)
    assert all(r.specifier == DEPENDENCIES[r.name].specifier for r in brought)


def test_after_the_setup_cell_colab_is_ready(colab, packages, capsys):
    for requirement in installed(colab):
        assert requirement.specifier.contains(TESTED[requirement.name])
        packages[requirement.name] = TESTED[requirement.name]
    assert environment.report(problems_only=True)
    assert capsys.readouterr().out == ""


def test_what_else_colab_holds_otherwise_is_known(colab):
    """Packages that the course needs and no lesson imports, at versions outside the course's range."""
    brings = {r.name for r in installed(colab)}
    names = [Requirement(r) for r in importlib.metadata.requires("transformers") if "extra" not in r]
    follows = {r.name.replace("-", "_"): r for r in names if r.name in ("tokenizers", "huggingface-hub")}
    others = outside(
        {name.replace("huggingface-hub", "huggingface_hub"): v for name, v in COLAB["packages"].items()},
        DEPENDENCIES.values(),
    )
    assert others - brings == {
        *follows,  # transformers brings its own
        *("jupyterlab", "ipython", "ipykernel"),  # Colab is the front end, and brings its kernel
    }
    for name, requirement in follows.items():
        assert not requirement.specifier.contains(COLAB["packages"][name.replace("_", "-")])


def test_what_colab_lacks_or_holds_too_old_is_said_with_a_remedy(packages, capsys):
    packages.pop("scipy")
    packages["torch"] = "2.6.0"
    assert not environment.report(problems_only=True)
    said = capsys.readouterr().out
    assert "ok " not in said
    for need, found in (("torch>=2.9,<3", "2.6.0"), ("scipy>=1.13,<2", "not installed")):
        assert re.search(rf"FIX  {re.escape(need)} +{found}\n     -> run `%pip install \"{need}\"`", said)
    assert "Runtime > Restart session" in said
    assert said.endswith("Not ready: repair the lines marked FIX, from the top.\n")


def test_the_setup_cell_fetches_the_course_enters_it_and_checks(colab):
    clone, check = colab.commands
    assert shlex.split(clone)[:2] == ["git", "clone"]
    assert shlex.split(clone)[-2:] == [contract.REPOSITORY, "/content/course"]
    assert ("cd", "-q /content/course/notebooks") in colab.magics
    assert check == "cd .. && python -m tft_utils.course.environment"
    assert sys.path[0] == ".."


def test_each_lesson_pulls_the_same_setup():
    paths = [*notebooks.all_notebooks(), *notebooks.pages()]
    first, *others = (contract.source(notebooks.parse(path), "setup") for path in paths)
    assert all(other == first for other in others)


# --------------------------------------------------------------------------------------------------
# Binder and Docker: their files name what is there, and agree with what is tested

WHEELS = "https://download.pytorch.org/whl/cpu"
MATRIX = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))[
    "jobs"
]["test"]["strategy"]["matrix"]["python"]


def test_binder_installs_what_is_tested():
    """repo2docker runs `pip install -r binder/requirements.txt` in the repository's root."""
    assert (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8") == f"python-{MATRIX[0]}\n"
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and line[0] != "#"] == [
        f"--extra-index-url {WHEELS}",
        "-c ../constraints.txt",
        "-e .",
    ]
    assert (ROOT / "binder" / "../constraints.txt").is_file()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with what follows it."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M).replace(
        "\\\n", " "
    )
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def test_the_dockerfile_names_what_is_there():
    steps = instructions()
    assert {name for name, _ in steps} <= set("FROM RUN COPY WORKDIR ENV EXPOSE USER CMD".split())
    assert steps[0] == ("FROM", f"python:{MATRIX[0]}-slim")
    for name, rest in steps:
        if name == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), rest
    (install,) = (rest for name, rest in steps if name == "RUN" and "pip install" in rest)
    assert f"--extra-index-url {WHEELS}" in install
    assert "-c constraints.txt -e ." in install
    name, command = steps[-1]
    assert (name, json.loads(command)[0]) == ("CMD", "jupyter")
    assert "jupyterlab" in DEPENDENCIES
    users = [rest for name, rest in steps if name == "USER"]
    assert users
    assert "root" not in users


def test_what_docker_leaves_out_is_not_in_git():
    """The image holds the repository as committed: what .dockerignore names is git's own or ignored."""
    ignored = {
        line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    } | {".git"}
    left_out = [
        line.strip("/") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ]
    assert ".git" in left_out
    assert ".venv" in left_out
    assert set(left_out) <= ignored
