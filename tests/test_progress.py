"""Progress: only lessons with answers are judged, each answer as grading judges it."""

import json
from pathlib import Path

import contract
import pytest

from tft_utils.course import grading, notebooks, progress

PATHS = notebooks.all_notebooks()
START = PATHS[0]
NAMES = grading.exercises(START)
FIRST, SECOND = NAMES[:2]


@pytest.fixture
def own(tmp_path) -> Path:
    """A learner's copy of the first lesson: one answer, one that cannot be read, stubs."""
    notebook = notebooks.parse(START)
    answers = {FIRST: f"def {FIRST}(*_):\n    return None\n", SECOND: f"def {SECOND}(*_:\n"}
    for cell in contract.cells(notebook, "code", "exercise"):
        cell["source"] = answers.get(grading.exercise_of(cell), cell["source"])
    path = tmp_path / f"{START.stem} (mine).ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def test_committed_lessons_hold_no_answer_and_cost_no_run(monkeypatch, capsys):
    monkeypatch.setattr(grading, "grade", lambda path: pytest.fail(f"{path.name} was judged"))
    progress.report()
    assert capsys.readouterr().out == "No saved notebook holds an answer of yours yet.\n"


def test_answers_are_told_from_stubs(own):
    assert progress.attempted(own) == [FIRST, SECOND]


def test_what_is_said_of_a_notebook(own, monkeypatch, capsys):
    """Judging is tested where grading is; here, what becomes of it."""
    judged = [grading.Graded(FIRST, grading.RIGHT), grading.Graded(SECOND, grading.WRONG, "close it")]
    judged += [grading.Graded(name, grading.OPEN) for name in NAMES[2:]]
    monkeypatch.setattr(grading, "grade", lambda path: judged)
    progress.report([own, own.with_name("essay.ipynb")])
    right, wrong, lost = capsys.readouterr().out.splitlines()
    monkeypatch.chdir(own.parent)
    progress.report()  # what lies here goes before what the course has
    assert capsys.readouterr().out.splitlines() == [right, wrong]
    assert right == f"{START.stem}: 1 of {len(NAMES)} right"
    assert wrong == f"    {SECOND}: wrong. close it"
    assert "essay.ipynb: expected a notebook of a lesson" in lost


def test_lesson_00_shows_it_and_grading_names_it(capsys):
    assert "progress.report()" in contract.source(notebooks.parse(START), "progress")
    with pytest.raises(SystemExit):
        grading.main([])
    assert "your own notebooks: progress" in capsys.readouterr().err
