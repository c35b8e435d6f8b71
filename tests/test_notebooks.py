"""Every committed notebook keeps the contract; every rule catches the breach it is there for.

Nothing is run here but two tiny notebooks; tests/test_exercises.py runs the lessons.
"""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import contract
import nbformat
import pytest

from tft_utils.course import claims, notebooks
from tft_utils.files import ROOT, replace_file

PATHS, PAGES = notebooks.all_notebooks(), notebooks.pages()
EACH = pytest.mark.parametrize("path", [*PATHS, *PAGES], ids=lambda path: path.stem)
START = notebooks.NOTEBOOKS / "00_start_here.ipynb"


@pytest.mark.parametrize(
    ("path", "rule"),
    [(path, rule) for path in [*PATHS, *PAGES] for rule in contract.rules_of(path)],
    ids=lambda x: getattr(x, "__name__", getattr(x, "stem", "")),
)
def test_committed_notebook_keeps_the_contract(path: Path, rule: Callable):
    found = contract.problems(path, notebooks.parse(path), [rule])
    assert not found, "\n".join(found)


@EACH
def test_committed_notebook_is_canonical_and_fresh(path: Path):
    found = notebooks.problems(path)
    assert not found, "\n".join(found)


def test_committed_registry_is_what_the_notebooks_claim():
    found = notebooks.registry_problems(PATHS, claims.REGISTRY)
    assert not found, "\n".join(found)


# --------------------------------------------------------------------------------------------------
# The tests of the tests: break a copy, see the breach named with its cell.


def cell(notebook: dict, cell_id: str) -> dict:
    return next(c for c in notebook["cells"] if c["id"] == cell_id)


def replaced(cell_id: str, old: str, new: str, times: int = 1) -> Callable[[dict], None]:
    """A breach: text in a cell's source becomes another."""

    def breach(notebook: dict) -> None:
        target = cell(notebook, cell_id)
        assert old in target["source"], f"the breach finds no '{old}' in {cell_id}"
        target["source"] = target["source"].replace(old, new, times)

    return breach


def added(cell_id: str, text: str) -> Callable[[dict], None]:
    """A breach: a cell's source grows."""

    def breach(notebook: dict) -> None:
        cell(notebook, cell_id)["source"] += "\n" + text

    return breach


def image(notebook: dict, cell_id: str = "idea-figure") -> dict:
    return next(o for o in cell(notebook, cell_id)["outputs"] if "image/png" in o.get("data", {}))


def record(notebook: dict, cell_id: str = "claim-transplant") -> dict:
    outputs = cell(notebook, cell_id)["outputs"]
    return next(o["data"][claims.MIME] for o in outputs if claims.MIME in o.get("data", {}))


def moved(cell_id: str, to: int) -> Callable[[dict], None]:
    def breach(notebook: dict) -> None:
        notebook["cells"].remove(found := cell(notebook, cell_id))
        notebook["cells"].insert(to, found)

    return breach


def tagged(cell_id: str, *tags: str) -> Callable[[dict], None]:
    return lambda notebook: cell(notebook, cell_id)["metadata"].update(tags=list(tags))


def shows(cell_id: str, output: dict) -> Callable[[dict], None]:
    return lambda notebook: cell(notebook, cell_id)["outputs"].append(output)


HTML = {"output_type": "display_data", "data": {"text/html": "<b>"}, "metadata": {}}
STDERR = {"output_type": "stream", "name": "stderr", "text": "UserWarning: old"}
ERROR = {"output_type": "error", "ename": "NameError", "evalue": "x", "traceback": []}
BREACHES = {  # what is broken -> how, and the problem it must give
    "minor": (lambda n: n.update(nbformat_minor=4), "expected nbformat 4.5"),
    "kernel": (lambda n: n["metadata"]["kernelspec"].update(name="julia"), "kernel python3"),
    "widgets": (lambda n: n["metadata"].update(widgets={}), "holds widget state"),
    "schema": (lambda n: n["cells"][0].update(colour="red"), "it is not valid nbformat"),
    "id": (lambda n: cell(n, "toy").update(id="Toy_1"), "cell Toy_1: its id is no slug"),
    "id twice": (lambda n: cell(n, "toy").update(id="tf"), "cell tf: its id is used twice"),
    "tag": (tagged("toy", "hidden"), r"cell toy: unknown tags \['hidden'\]"),
    "section missing": (lambda n: cell(n, "fool").update(id="fooled"), "cell fool: it is missing"),
    "section early": (moved("limits", 3), "cell [a-z]+: it stands too early"),
    "section heading": (replaced("limits", "## Limits", "## Bounds"), "cell limits: .*the heading"),
    "glance": (replaced("glance", "| Run time |", "| Runtime |"), "cell glance: .*'| Run time |"),
    "recap unfolded": (replaced("recap", "<details>", ""), "cell recap: expected a folded part"),
    "heading order": (replaced("pair-q", "### Meet", "#### Meet"), "cell pair-q: heading .* level 4"),
    "two titles": (replaced("limits", "## Limits", "# Limits"), "cell limits: heading .* level 1"),
    "setup": (added("setup", "import os"), "cell setup: it differs from that of 00_start_here"),
    "setup long": (added("setup", "\n" * 9 + "1"), "cell setup: expected at most 8 lines"),
    "parameters": (added("parameters", "N = 3"), r"cell parameters: expected SCALE \(str\), MODELS"),
    "one model": (replaced("parameters", '("transformer", "mamba")', '"mamba"'), "MODELS \\(tuple"),
    "no models": (replaced("parameters", '"transformer", "mamba"', ""), "MODELS \\(tuple"),
    "numbers": (replaced("parameters", '("transformer", "mamba")', "(1, 2)"), "MODELS \\(tuple"),
    "a call": (replaced("parameters", '("transformer", "mamba")', "tuple(ab)"), "MODELS \\(tuple"),
    "no parameters": (tagged("parameters"), "cell parameters: expected one code cell"),
    "badge": (replaced("title", "main/notebooks/00", "main/notebooks/01"), "cell title: .*badge"),
    "map": (replaced("title", "README.md#the-lessons", "README.md"), "cell title: expected a link"),
    "link": (added("map", "[a file](no_such.md)"), "cell map: link 'no_such.md' leads nowhere"),
    "anchor": (added("map", "[a part](../README.md#no-such)"), "no heading #no-such"),
    "own anchor": (added("map", "[a part](#No-such)"), "no heading #No-such"),
    "image": (
        added("map", "![a badge](https://example.org/badge.svg)"),
        "cell map: image https://example.org/badge.svg comes from another host",
    ),
    "link text": (added("map", "[here](../README.md)"), "cell map: link text 'here' says nothing"),
    "not run": (lambda n: cell(n, "toy-run").update(execution_count=None), "cell toy-run: .*not run"),
    "error": (shows("toy-run", ERROR), "cell toy-run: it shows the error NameError"),
    "stderr": (shows("toy-run", STDERR), "cell toy-run: it shows 'UserWarning: old' on stderr"),
    "html": (shows("toy-run", HTML), "cell toy-run: it shows text/html"),
    "alt": (lambda n: image(n).update(metadata={}), "cell idea-figure: an image has the alt text ''"),
    "caption": (lambda n: cell(n, "idea-figure")["outputs"].pop(), "cell idea-figure: .*'Figure 1"),
    "image alt": (added("idea", "![](../docs/transplant.png)\n*It moves.*"), "has no alt text"),
    "image caption": (added("idea", "![A plot.](../docs/transplant.png)"), "has no caption"),
    "image lost": (added("idea", "![A plot.](lost.png)\n*It moves.*"), "'lost.png' leads nowhere"),
    "cells": (lambda n: n["cells"].extend(n["cells"]), r"it has \d+ cells, at most 80"),
    "words": (added("idea", "word " * 4500), r"it has \d+ words, at most 4500"),
    "lines": (added("toy-run", "1\n" * 18), r"cell toy-run: it has \d+ lines, at most 18"),
    "size": (lambda n: image(n)["data"].update({"image/png": "A" * 500_000}), "kB, at most 400"),
    "word": (added("idea", "Simply look."), "cell idea: it says 'Simply'; delete"),
    "word in code": (added("toy-run", "# obviously"), "cell toy-run: it says 'obviously'"),
    "pip": (added("toy-run", "%pip install x"), "cell toy-run: it is not plain Python"),
    "pip in a string": (added("toy-run", "run = 'pip install x'"), "cell toy-run: it installs"),
    "widget": (added("toy-run", "import ipywidgets"), "cell toy-run: it uses ipywidgets"),
    "network": (added("toy-run", "from urllib.request import urlopen"), "toy-run: it imports urllib"),
    "traces": (
        added("toy-run", "for p in [x for x in 'ab']:\n    with model.trace(p):\n        1"),
        "cell toy-run: it traces more than once beside a comprehension",
    ),
    "traces twice": (
        added("toy-run", "with m.trace(1):\n    1\nwith m.trace(2):\n    {x for x in 'ab'}"),
        "cell toy-run: it traces more than once beside a comprehension",
    ),
    "no exercise": (tagged("ex-last-word"), "has answers to last_word, which is no exercise"),
    "exercise cells": (moved("ex-last-word-check", 0), "cell ex-last-word: expected the four cells"),
    "exercise tag": (tagged("ex-last-word-check"), "cell ex-last-word-check: .*the tag 'check'"),
    "difficulty": (replaced("ex-last-word", "minutes", "min"), "ex-last-word: .*'Difficulty"),
    "hint": (replaced("ex-last-word", "<summary>Hint", "<summary>", -1), "ex-last-word: .*folded hint"),
    "check": (replaced("ex-last-word-check", "start_here/", ""), "ex-last-word-check: expected `last"),
    "committed attempt": (
        lambda n: cell(n, "ex-last-word-check")["outputs"].clear(),
        "cell ex-last-word-check: its output says ''; put the stub back",
    ),
    "stub": (replaced("ex-last-word-stub", "model, prompt", "prompt"), "ex-last-word-stub: expected"),
    "stub filled in": (
        replaced("ex-last-word-stub", "raise NotAttempted", "return 1"),
        "cell ex-last-word-stub: expected one function",
    ),
    "solution": (
        replaced("ex-last-word-solution", "n_layers + 1", "n_layers"),
        "cell ex-last-word-solution: its python fence is not the reference last_word",
    ),
    "claim untagged": (tagged("claim-transplant"), "cell claim-transplant: the tag 'claim'"),
    "claim unrun": (lambda n: cell(n, "claim-transplant")["outputs"].clear(), "it shows no claim"),
    "claim of another": (lambda n: record(n).update(name="other/x"), "claim other/x: begin its name"),
    "real models": (replaced("real", "## On real models", "## On models"), "cell limits: .*'## On real"),
    "no cost": (replaced("real", "GB", "much"), "cell limits: .*what real models cost, in GB"),
    "verdict": (replaced("glance", "**foundation**", "**no**"), "cell glance: its verdict is no"),
    "percent": (added("claim-after", "It moves 37.21 %."), "cell claim-after: no claim says 37.21 %"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_named(breach: str):
    break_it, message = BREACHES[breach]
    notebook = notebooks.parse(START)
    break_it(notebook)
    with pytest.raises(AssertionError, match=rf"(?s)00_start_here\.ipynb.*{message}"):
        raise AssertionError("\n".join(contract.problems(START, notebook)))


PAGE_BREACHES = {
    "no title": (lambda n: cell(n, "title").update(id="top"), "cell title: it is missing"),
    "a claim": (tagged("setup", "setup", "claim"), r"tags of a lesson, \['claim'\]"),
    "a percentage": (added("how", "In 37 % it holds."), "cell how: no claim says 37 %"),
    "badge": (replaced("title", "scoreboard.ipynb", "x.ipynb"), "cell title: .*badge"),
}


@pytest.mark.parametrize("breach", PAGE_BREACHES)
def test_a_breach_of_a_page_is_named(breach: str):
    break_it, message = PAGE_BREACHES[breach]
    (page,) = PAGES
    notebook = notebooks.parse(page)
    break_it(notebook)
    with pytest.raises(AssertionError, match=rf"(?s){page.name}.*{message}"):
        raise AssertionError("\n".join(contract.problems(page, notebook, contract.PAGE_RULES)))


CONDITIONS = {
    "if name == 'mamba':\n    pass": "mamba",
    "x = 1 if model is transformer else 2": "transformer",
    "[n for n in pair if 'Mamba' in n]": "Mamba",
    "match kind:\n    case 'gpt_neox':\n        pass": "gpt_neox",
    "x = (kind == 'rwkv') * 2": "rwkv",
    "while isinstance(model.hf, MambaForCausalLM):\n    pass": "MambaForCausalLM",
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_an_architecture_in_a_condition_is_named(text: str):
    notebook = notebooks.parse(START)
    cell(notebook, "toy-run")["source"] += "\n" + text
    found = contract.problems(START, notebook, [contract.code])
    assert found == [
        f"{START.name}, cell toy-run: a condition names '{CONDITIONS[text]}'; put what differs into data."
    ]


def test_architectures_as_data_are_welcome():
    notebook = notebooks.parse(START)
    cell(notebook, "toy-run")["source"] += (
        "\nfor k in range(mamba.n_layers):\n    assert transformer.n_layers >= 0\npair = {'Mamba': mamba}"
    )
    assert not contract.problems(START, notebook, [contract.code])


def test_a_percentage_is_bound_to_a_claim_or_a_setting():
    notebook = notebooks.parse(START)
    record(notebook).update(value=0.3721, expect=None)
    cell(notebook, "toy-run")["source"] += "\nshare = 0.1234"
    cell(notebook, "limits")["source"] += "37.2 %, 37 % and 12.3% with a 95 % interval, not `88 %`"
    assert not contract.problems(START, notebook, [contract.claimed])


def test_exercise_without_wrong_answers_is_named(monkeypatch):
    monkeypatch.setattr(contract, "wrong_answers", lambda path: {})
    found = contract.problems(START, notebooks.parse(START), [contract.exercises])
    assert any("cell ex-last-word: fewer than 2 wrong answers" in problem for problem in found)


def test_a_lesson_that_leaves_little_to_write_is_named(monkeypatch):
    monkeypatch.setattr(contract, "WRITTEN", 1000)
    found = contract.problems(START, notebooks.parse(START), [contract.exercises])
    assert any(re.search(r"its exercises have \d\d lines, at least 1000", problem) for problem in found)
    assert contract.lines_of_code('def f(x):\n    """A.\n\n    B."""\n\n    return "no"\n') == 2


def test_neighbours_must_be_linked(monkeypatch):
    """A lesson that gets a neighbour must link to it, in both directions."""
    after = START.with_name("01_next.ipynb")
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [START, after])
    notebook = notebooks.parse(START)
    title = cell(notebook, "title")
    title["source"] = title["source"].replace("01a_two_machines.ipynb", "elsewhere.ipynb")
    found = contract.problems(START, notebook, [contract.navigation])
    assert any("cell title: expected a link to 01_next.ipynb" in problem for problem in found)
    found = contract.problems(after, notebook, [contract.navigation])
    assert any("cell title: expected a link to 00_start_here.ipynb" in problem for problem in found)


# --------------------------------------------------------------------------------------------------
# The tool


def test_a_changed_cell_reads_as_stale_and_a_foreign_save_as_not_canonical(tmp_path):
    path = tmp_path / START.name
    text = START.read_text(encoding="utf-8")
    path.write_text(text.replace("SEED = 0", "SEED = 1", 1), encoding="utf-8")
    assert any("older than its code" in problem for problem in notebooks.problems(path))
    path.write_text(text.replace('\n "cells"', '\n  "cells"', 1), encoding="utf-8")
    assert any("not canonical" in problem for problem in notebooks.problems(path))


def test_the_digest_covers_code_package_and_data(tmp_path, monkeypatch):
    package, data = tmp_path / "tft_utils", tmp_path / "data"
    organisms = data / "organisms"
    adapter = organisms / "quirky" / "mamba-0"
    files = {
        package / "__init__.py": "",
        package / "a.py": "from tft_utils.room import deep",
        package / "room" / "__init__.py": "",
        package / "room" / "deep.py": "from tft_utils import a, architectures",
        package / "architectures" / "__init__.py": "",
        package / "architectures" / "one.py": "",
        package / "other.py": "import tft_utils.a",
    }
    for folder in (
        *{file.parent for file in files},
        organisms / "mamba-0",
        organisms / "mamba-1",
        adapter,
    ):
        folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    for name, value in {"ROOT": tmp_path, "DATA": data, "ORGANISMS": organisms}.items():
        monkeypatch.setattr(notebooks, name, value)
    for name in ("REGISTRY", "SCOREBOARD"):
        monkeypatch.setattr(claims, name, data / f"{name.lower()}.json")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import tft_utils.a", id="one")])
    seen = [notebooks.digest(notebook)]
    for file in list(files)[:-1]:
        file.write_text(f"{files[file]}\nx = 1", encoding="utf-8")
        seen.append(notebooks.digest(notebook))
    for file in (data / "facts.json", organisms / "mamba-0" / "config.json", adapter / "card.json"):
        file.write_text("x", encoding="utf-8")
        seen.append(notebooks.digest(notebook))
    (data / "facts.json").rename(data / "other.json")
    seen.append(notebooks.digest(notebook))
    notebook["cells"][0]["source"] = "2"
    seen.append(notebooks.digest(notebook))
    assert len(set(seen)) == len(seen)
    reads = {
        "standings.read_board()": claims.SCOREBOARD,
        "claims.REGISTRY": claims.REGISTRY,
        "over_seeds()": claims.SCOREBOARD,
    }
    for code, result in reads.items():  # the lessons' own results, where a notebook stands on them
        notebook["cells"][0]["source"] = code
        before = notebooks.digest(notebook)
        result.write_text(code, encoding="utf-8")
        assert notebooks.digest(notebook) != before
    notebook["cells"][0]["source"] = "2"
    for file in (  # what no output depends on
        claims.REGISTRY,
        claims.SCOREBOARD,
        package / "other.py",
        data / "README.md",
        organisms / "manifest.json",
        organisms / "mamba-1" / "config.json",
    ):
        file.write_text("x", encoding="utf-8")
        assert notebooks.digest(notebook) == seen[-1]


def test_canonical_text_drops_what_lasts_no_longer_than_a_kernel():
    widget = {
        "output_type": "display_data",
        "metadata": {},
        "data": {notebooks.WIDGET: {"model_id": "1"}, "text/plain": "IntSlider()"},
    }
    pieces = [
        {"output_type": "stream", "name": name, "text": text}
        for name, text in (
            ("stdout", "a\n"),
            ("stderr", "measuring"),
            ("stderr", " ...\n"),
            ("stdout", "b\n"),
            ("stderr", "Warning: c\n"),
        )
    ]
    one = nbformat.v4.new_code_cell("1", id="one", outputs=[widget, *pieces])
    one["metadata"] = {"execution": {"iopub.status.busy": "now"}, "tags": ["optional"]}
    notebook = nbformat.v4.new_notebook(cells=[one], metadata={"widgets": {"state": {}}})
    found = json.loads(notebooks.canonical(copy.deepcopy(notebook)))
    assert [o["text"] for o in found["cells"][0]["outputs"]] == ["a\nb\n", "Warning: c\n"]
    assert found["cells"][0]["metadata"] == {"tags": ["optional"]}
    assert found["metadata"] == {"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}}
    assert notebooks.canonical(found) == notebooks.canonical(notebook)


def test_a_stale_registry_is_refused(tmp_path):
    registry = tmp_path / "claims.json"
    assert notebooks.registry_problems(PATHS, registry)  # there is none
    records = claims.collect(PATHS)
    registry.write_text(claims.registry_text(records), encoding="utf-8")
    assert not notebooks.registry_problems(PATHS, registry)
    records[0]["value"] += 0.01
    registry.write_text(claims.registry_text(records), encoding="utf-8")
    assert notebooks.registry_problems(PATHS, registry) == [
        "claims.json: it differs from the notebooks' claims; run `make notebooks`"
    ]


def test_verify_names_what_is_stale_and_says_nothing_when_all_is_well(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(claims, "REGISTRY", tmp_path / "claims.json")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "tiny.ipynb")
    notebooks.main(["execute"])
    with pytest.raises(SystemExit) as clean:
        notebooks.main(["verify"])
    assert clean.value.code == 0
    (tmp_path / "tiny.ipynb").write_text(
        (tmp_path / "tiny.ipynb").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    claims.REGISTRY.unlink()
    with pytest.raises(SystemExit) as stale:
        notebooks.main(["verify"])
    assert str(stale.value.code).splitlines() == [
        "tiny.ipynb: its JSON is not canonical; run `make notebooks`",
        "claims.json: it differs from the notebooks' claims; run `make notebooks`",
    ]


def test_execute_runs_in_order_and_writes_canonical_output(tmp_path):
    cell = nbformat.v4.new_code_cell("1 + 1", id="sum")
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    notebooks.execute(path)
    assert not notebooks.problems(path)
    output = notebooks.parse(path)["cells"][0]["outputs"][0]
    assert output["data"]["text/plain"] == "2"


def test_a_failing_cell_leaves_the_file_as_it_was(tmp_path):
    cell = nbformat.v4.new_code_cell("assert False, 'no'", id="fails")
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="no"):
        notebooks.execute(path)
    assert path.read_bytes() == before


ELSEWHERE = """
import locale, pathlib, sys
from tft_utils.course import claims, notebooks
assert "utf" not in locale.getpreferredencoding().lower()
notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1])
claims.REGISTRY = notebooks.NOTEBOOKS / "claims.json"
notebooks.main(["execute"])
"""


def test_execute_where_text_is_not_utf_8(tmp_path):
    cell = nbformat.v4.new_code_cell("print('naïve – 🙂')", id="wide")
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        env=os.environ | old,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    notebook = notebooks.parse(path)
    assert path.read_text(encoding="utf-8") == notebooks.canonical(notebook)
    assert notebook["cells"][0]["outputs"][0]["text"] == "naïve – 🙂\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["claims.json", "tiny.ipynb"]


@pytest.mark.parametrize("failure", [UnicodeEncodeError("cp1252", "🙂", 0, 1, ""), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, failure):
    path = tmp_path / "tiny.ipynb"
    path.write_text("good", encoding="utf-8")

    def write(part: Path) -> None:
        part.write_text("half", encoding="utf-8")
        raise failure

    with pytest.raises(type(failure)):
        replace_file(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.ipynb"]
    assert path.read_text(encoding="utf-8") == "good"
