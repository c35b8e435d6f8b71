"""Grading: each answer judged, each broken, endless or hostile notebook only in its own row."""

import copy
import json
import re
import time
from pathlib import Path

import contract
import nbformat
import pytest

from tft_utils.course import grading, notebooks
from tft_utils.course.grading import OPEN, RIGHT, WRONG

START = notebooks.NOTEBOOKS / "00_start_here.ipynb"
NAMES = grading.exercises(START)
FIRST, SECOND = NAMES[:2]


def submission(answers: dict[str, str]) -> dict:
    """The first lesson, some of its stubs replaced."""
    notebook = copy.deepcopy(notebooks.parse(START))
    for cell in contract.cells(notebook, "code", "exercise"):
        cell["source"] = answers.get(grading.exercise_of(cell), cell["source"])
    return notebook


def solutions() -> dict[str, str]:
    notebook = notebooks.parse(START)
    found = {}
    for cell in contract.cells(notebook, "code", "check"):
        base = cell["id"].removesuffix("-check")
        (found[grading.exercise_of(cell)],) = contract.FENCE.findall(
            contract.source(notebook, base + "-solution")
        )
    return found


def instead(name: str, text: str) -> dict[str, str]:
    """An answer to an exercise that does something else."""
    return {name: f"def {name}(*_, **__):\n    {text}\n"}


def graded_class(folder: Path) -> dict[str, grading.Row]:
    """The rows of a class, by learner."""
    answer, _ = contract.wrong_answers(START)[FIRST][0]
    flood = "print('x' * 10**8)\nopen('big', 'wb').write(b'x' * 10**7)\n"
    learners = {
        "ada": submission(solutions()),
        "bea": submission({FIRST: f"%time\n{flood}{answer}", SECOND: f"def {SECOND}(*_:\n"}),
        "fay": submission(instead(SECOND, "import os; os._exit(1)")),
        "hal": submission(instead(FIRST, "keep = [bytearray(2**27) for _ in range(99)]; print(keep)")),
    }
    for name, notebook in learners.items():
        hand_in(folder, name, notebook)
    (folder / "ivo").mkdir()
    (folder / "ivo" / START.name).write_text("{", encoding="utf-8")
    (folder / "ivo" / "essay.ipynb").write_text("{}", encoding="utf-8")
    found = grading.grade_class(folder, seconds=600, gib=2)  # for a busy machine: nobody needs them
    assert not list(folder.rglob("big")), "answers run in an empty folder"
    return {f"{row.learner} {row.lesson}".removesuffix(f" {START.stem}"): row for row in found}


def hand_in(folder: Path, learner: str, notebook: dict) -> None:
    (folder / learner).mkdir(parents=True)
    nbformat.write(nbformat.from_dict(notebook), folder / learner / START.name)


def states(row: grading.Row) -> list[str]:
    return [graded.state for graded in row.graded]


def test_each_learner_gets_what_the_notebook_deserves(tmp_path):
    """One test, for one run of the class."""
    start, n = time.monotonic(), len(NAMES)
    rows = graded_class(tmp_path / "class")
    # Five learners, two at a time, take three turns: half of that is more than one needs to begin.
    took = round((time.monotonic() - start) / 2)
    assert states(rows["ada"]) == [RIGHT] * n
    assert states(rows["bea"]) == [WRONG, WRONG] + [OPEN] * (n - 2)
    assert states(rows["fay"]) == [OPEN] + ["the process broke off"] * (n - 1)
    assert states(rows["hal"]) == ["more than 2 GiB of memory"] * n
    assert states(rows["ivo"]) == ["the process broke off"] * n
    _, hint = contract.wrong_answers(START)[FIRST][0]
    assert re.search(hint, rows["bea"].graded[0].hint)
    (graded,) = rows["ivo essay"].graded
    assert graded.state.startswith("expected a notebook of a lesson, one of 00_start_here, 01a_")
    text = grading.table(list(rows.values()))
    assert f"| ada | {START.stem} | {n} | {n} |  |" in text
    assert f"| fay | {START.stem} | 0 | {n} | {FIRST}: not attempted" in text
    assert "| ivo | essay | 0 | 0 | expected a notebook" in text
    begun = tmp_path / "begun"
    endless = instead(FIRST, f"import time; open({str(begun)!r}, 'w'); time.sleep(9999)")
    hand_in(tmp_path / "endless", "dan", submission(endless))
    (row,) = grading.grade_class(tmp_path / "endless", seconds=took, gib=2)
    assert states(row) == [f"no answer within {took} s"] * n
    assert begun.exists(), "the limit ended something else than the answer"


def test_the_last_definition_counts():
    cells = [
        {"cell_type": "code", "source": "def f(x):\n    return 1"},
        {"cell_type": "code", "source": ["def f(x):\n", "    return 2"]},
        {"cell_type": "markdown", "source": "def f(x):"},
    ]
    assert grading.answer({"cells": cells}, "f").endswith("return 2")
    assert grading.answer({"cells": cells}, "g") is None
    assert grading.answer(json.loads("{}"), "f") is None


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        grading.main([str(tmp_path / "none")])
    assert "expected a folder of submissions" in capsys.readouterr().err


def test_a_default_that_only_the_work_names_does_not_stop_what_follows():
    cell = (
        "rows = list(range(3))\nSIZE = 2\n\ndef f(x, size=SIZE, some=rows):\n    return x, size, some\n"
    )
    space = {}
    exec(grading.names_only(cell), space)
    assert space["f"](1) == (1, None, None)
    exec(grading.names_only(cell.replace("some=rows", "some=(0,)")), space)
    assert space["f"](1) == (1, 2, (0,))
