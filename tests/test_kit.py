"""The teaching kit: what is handed out holds no answer, what is taught from holds all."""

import ast
import copy
import json
import re
from pathlib import Path

import contract
import pytest

from tft_utils.course import grading, kit, notebooks

PATHS = notebooks.all_notebooks()
START = PATHS[0]
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
KEPT = {"form", "budgets", "language", "code"}  # rules that a lesson to hand out keeps whole


def bodies(notebook: dict) -> dict[str, str]:
    """Each exercise's solution without its first lines, which the stub has as well."""
    found = {}
    for cell in contract.cells(notebook, "markdown", "solution"):
        (text,) = contract.FENCE.findall(cell["source"])
        (function,) = ast.parse(text).body
        at = function.body[1].lineno if len(function.body) > 1 else function.lineno
        found[function.name] = "\n".join(text.splitlines()[at - 1 :])
    return found


@EACH
def test_what_is_handed_out_holds_no_answer(path: Path):
    whole = notebooks.parse(path)
    given = kit.student(whole)
    text = "\n".join(cell["source"] for cell in given["cells"])
    for name, body in bodies(whole).items():
        assert body not in text, f"the solution of {name} is handed out"
        assert f"def {name}(" in text, f"the stub of {name} is missing"
    assert "<summary>Solution" not in text
    assert "<summary>Notes for an instructor" not in text
    assert not any(cell.get("outputs") for cell in given["cells"])


@EACH
def test_what_is_handed_out_is_a_lesson(path: Path):
    given = kit.student(notebooks.parse(path))
    rules = [rule for rule in contract.RULES if rule.__name__ in KEPT]
    assert not contract.problems(path, given, rules)
    missing = {cell for cell, _ in contract.sections(path, given)}
    assert missing == {"teach"}
    names = grading.exercises(path)
    checks = [grading.exercise_of(cell) for cell in contract.cells(given, "code", "check")]
    assert checks == names == list(kit.exercises(given))
    links = re.findall(
        r"\]\(([^)\s]+)\)", "\n".join(c["source"] for c in contract.cells(given, "markdown"))
    )
    siblings = {each.name for each in PATHS}
    for link in links:
        inner = link in siblings or contract.to_come(link)
        assert inner or re.match("#|https?:", link), f"{link} leads out of the kit"


def test_a_pasted_solution_is_graded_right(tmp_path):
    """In a lesson as handed out: one exercise solved, one wrong, the others left."""
    whole, given = notebooks.parse(START), kit.student(notebooks.parse(START))
    solved, missed, *others = grading.exercises(START)
    answer, _ = contract.wrong_answers(START)[missed][0]
    base = contract.cells(whole, "code", "check")[0]["id"].removesuffix("-check")
    (solution,) = contract.FENCE.findall(contract.source(whole, f"{base}-solution"))
    for cell in contract.cells(given, "code", "exercise"):
        cell["source"] = {solved: solution, missed: answer}.get(grading.exercise_of(cell), cell["source"])
    file = tmp_path / f"{START.stem} (1).ipynb"
    file.write_text(json.dumps(given), encoding="utf-8")
    found = {graded.exercise: graded.state for graded in grading.judge(file, START)}
    assert found == {solved: grading.RIGHT, missed: grading.WRONG} | dict.fromkeys(others, grading.OPEN)


@EACH
def test_what_is_taught_from_holds_all(path: Path):
    whole = notebooks.parse(path)
    taught = kit.instructor(whole, kit.mistakes(path))
    text = "\n".join(cell["source"] for cell in taught["cells"])
    for body in bodies(whole).values():
        assert body in text
    for name, known in contract.wrong_answers(path).items():
        fold = contract.source(taught, f"ex-{name.replace('_', '-')}-mistakes")
        assert fold.count("Hint: *") == len(known), name
        assert all(answer in fold for answer, _ in known)
    front = contract.source(taught, "instructor")
    assert kit.NOTES.search(contract.source(whole, "teach"))[1].strip() in front
    assert f"| {kit.minutes(whole)} |" in front
    assert not contract.problems(path, taught, [contract.form, contract.language])


@EACH
def test_the_minutes_of_a_lesson_add_up(path: Path):
    """The first table rounds to five minutes what the exercises say."""
    notebook = notebooks.parse(path)
    said = int(re.search(r"(\d+) minutes of exercises", contract.source(notebook, "glance"))[1])
    exercises = kit.minutes(notebook) - kit.reading(notebook)
    assert abs(said - exercises) < 5, f"the exercises of {path.stem} take {exercises} minutes"
    assert 0 < kit.reading(notebook) == kit.minutes(notebook, [])


@EACH
def test_slides_show_each_figure_and_each_question(path: Path):
    whole = notebooks.parse(path)
    deck = kit.slides(whole)

    outputs = [o for c in contract.cells(whole, "code") for o in c["outputs"]]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    shown = [cell for cell in deck["cells"] if "attachments" in cell]
    assert len(shown) == len(figures)
    for cell, output in zip(shown, figures, strict=True):
        assert cell["source"].startswith(f"![{output['metadata']['image/png']['alt'][:9]}")
        assert re.search(r"\n\n\*Figure \d+\. .+\*$", cell["source"])
    text = "\n".join(cell["source"] for cell in contract.cells(deck, "markdown"))
    for prediction in re.findall(r"^\*\*Prediction \d:\*\*.*", contract.source(whole, "predict"), re.M):
        assert prediction in text
    assert len(re.findall("^### .*(?:own|question).*", text, re.M)) == 1, (
        "each lesson has an open question"
    )
    assert "<details>" not in text
    ids = [cell["id"] for cell in deck["cells"]]
    assert len(ids) == len(set(ids))


def test_a_page_of_slides_fetches_nothing():
    deck = kit.slides(notebooks.parse(START))
    page = kit.page(copy.deepcopy(deck))
    assert page.count("<section") == 2 * len(deck["cells"])  # reveal stacks them
    assert f"<title>{deck['metadata']['title']}</title>" in page
    assert (
        page.count('alt="') == page.count('src="data:image/png') == str(deck).count("'attachments'") > 0
    )
    assert "No description has been provided" not in page
    assert "def effects" not in page, "slides show no code"
    fetched = re.findall(r"(?:src|@import|url\()\s*=?\s*[\"']?((?:https?:)?//[^\"')]*)", page)
    assert not fetched
    assert not re.search(r"<link|<script[^>]+src|<iframe", page)


def test_the_plans_name_every_lesson_and_their_times_are_the_lessons():
    text = kit.GUIDE.read_text(encoding="utf-8")
    lessons = {notebooks.number(path): notebooks.parse(path) for path in PATHS}
    assert kit.plan(text, lessons) == text, "a lesson's times changed: run `make kit`"
    weeks = text[text.index("### Eight weeks") :].splitlines()
    planned = {
        number.strip(" ,")
        for row in weeks
        if row.startswith("| ")
        for number in row.split("|")[2].split()
    }
    assert lessons.keys() <= planned, "a lesson is in no week of docs/teaching.md"


def test_a_hint_reads_as_text():
    assert (
        kit.plain(r"found \(1, 2\).*one \d+ and|or none$") == "found (1, 2) ... one ... and, or: or none"
    )
