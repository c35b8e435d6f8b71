"""Exercises check themselves: every wrong answer is refused with its hint, every solution is right.

The whole lesson, as committed, is run by nbmake (see the Makefile): with the references, which are the
solutions to the letter (tests/contract.py), and in a kernel of its own.
"""

import copy
import sys
import types
from pathlib import Path

import contract
import nbformat
import pytest
import shell
import torch

from tft_utils.course import grading, notebooks
from tft_utils.course.exercises import NotAttempted, Wrong, check, close, expect_tensor, refuse

PATHS = notebooks.all_notebooks()
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

# --------------------------------------------------------------------------------------------------
# check


def double(x):
    return 2 * x


def check_double(attempt):
    if attempt(3) != 6:
        raise Wrong(f"double(3) is 6, found {attempt(3)}; add x to itself")


@pytest.fixture
def answers(monkeypatch):
    """A lesson `fake` with one exercise, `double`."""
    module = types.ModuleType("tft_utils.lessons.fake")
    vars(module).update(double=double, check_double=check_double)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("answers")
class TestCheck:
    def test_a_right_attempt_is_returned(self, capsys):
        attempt = lambda x: x + x  # noqa: E731
        assert check("fake/double", attempt) is attempt
        assert capsys.readouterr().out == "fake/double: right\n"

    def test_an_untouched_stub_gives_the_reference(self, capsys):
        def stub(x):
            raise NotAttempted

        assert check("fake/double", stub) is double
        assert capsys.readouterr().out == "fake/double: not attempted, the reference is used\n"

    def test_a_wrong_attempt_gets_its_hint(self):
        with pytest.raises(Wrong, match=r"^fake/double: double\(3\) is 6, found 9; add x"):
            check("fake/double", lambda x: x * x)

    def test_an_attempt_that_stops_is_wrong_and_its_line_is_named(self):
        def attempt(x):
            half = x / 0
            return half

        with pytest.raises(Wrong, match=r"line 2 of your function .* ZeroDivisionError: division"):
            check("fake/double", attempt)

    def test_a_result_that_the_check_cannot_use_is_wrong(self, monkeypatch):
        monkeypatch.setattr(sys.modules["tft_utils.lessons.fake"], "check_double", lambda f: f(1).shape)
        with pytest.raises(Wrong, match="cannot use what your function returns: AttributeError"):
            check("fake/double", lambda x: x)

    def test_what_is_no_function_is_wrong(self):
        with pytest.raises(Wrong, match="expected a function, found 6; run the cell that defines"):
            check("fake/double", 6)

    def test_an_unknown_exercise_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="found 'triple'; use one of double"):
            check("fake/triple", double)

    @pytest.mark.parametrize("name", ["no_such/double", "double", ""])
    def test_an_unknown_lesson_is_explained(self, name):
        with pytest.raises(ValueError, match="expected a name like 'start_here/last_word'"):
            check(name, double)


def test_an_answer_of_another_kind_or_shape_is_named():
    answer = torch.zeros(2, 3)
    assert expect_tensor(answer, (2, 3), "weights") is answer
    with pytest.raises(Wrong, match=r"^expected weights as a tensor, found list; return one tensor$"):
        expect_tensor([0.0], (1,), "weights")
    with pytest.raises(Wrong, match=r"^expected weights of shape \(3, 2\), found \(2, 3\); turn it$"):
        expect_tensor(answer, (3, 2), "weights", "turn it")


def test_a_known_mistake_gives_its_hint():
    answer, mistakes = torch.ones(3), {"one too few": torch.zeros(3), "no sum": torch.ones(3) + 1e-6}
    assert close(answer, mistakes["no sum"])
    assert not close(answer, torch.ones(1))
    with pytest.raises(Wrong, match="^no sum$"):
        refuse(answer, mistakes, "something else")
    with pytest.raises(Wrong, match="^something else$"):
        refuse(2 * answer, mistakes, "something else")
    assert refuse(2 * answer, mistakes) is None


# --------------------------------------------------------------------------------------------------
# Forms of a lesson


def solution_of(notebook: dict, base: str) -> str:
    """What the fence of an exercise's solution cell holds."""
    (found,) = contract.FENCE.findall(contract.source(notebook, base + "-solution"))
    return found


TRY = """{answer}

import re
from tft_utils.course.exercises import Wrong, check
expected = {regex!r}
try:
    check("{lesson}/{name}", {name})
except Wrong as hint:
    assert re.search(expected, str(hint)), f"expected a hint like '{{expected}}', found: {{hint}}"
else:
    assert False, "this wrong answer was taken for right; sharpen check_{name}"
"""


KEPT = {"setup", "parameters", "exercise", "check"}  # tags of cells that stay whole


def tried(notebook: dict, lesson: str, wrong: dict) -> dict:
    """Each check meets every wrong answer, then the solution; the lesson ends after its last check.

    Answers may use what the lesson names, but not its results: the lesson as committed does its work.
    """
    cells, last = [], 0
    for cell in copy.deepcopy(notebook)["cells"]:
        if cell["cell_type"] == "code" and not KEPT.intersection(contract.tags(cell)):
            cell["source"] = grading.names_only(cell["source"])
        if "check" in contract.tags(cell):
            base = cell["id"].removesuffix("-check")
            name = base.removeprefix("ex-").replace("-", "_")
            for i, (answer, regex) in enumerate(wrong[name]):
                text = TRY.format(answer=answer, lesson=lesson, name=name, regex=regex)
                cells.append(nbformat.v4.new_code_cell(text, id=f"{base}-wrong-{i}"))
            answer = solution_of(notebook, base)
            cells.append(nbformat.v4.new_code_cell(answer, id=f"{base}-solved"))
            last = len(cells) + 1
        cells.append(cell)
    return nbformat.from_dict(notebook | {"cells": cells[:last]})


def run(path: Path, notebook: dict, seconds: float = notebooks.SECONDS_PER_CELL) -> dict[str, str]:
    """What each check said in a run of what `tried` made of the notebook at `path`; a failure names file
    and cell."""
    code = [(cell["id"], cell["source"]) for cell in contract.cells(notebook, "code")]
    *_, last = ran = shell.in_a_fork(code, path.parent, seconds)
    if last.error:
        pytest.fail(f"{path.name}, cell {last.cell}: {last.error}")
    checks = {cell["id"] for cell in contract.cells(notebook, "code", "check")}
    said = {cell: text for cell, text, _ in ran if cell in checks}
    for cell, text in said.items():
        if ": right\n" not in text:
            pytest.fail(f"{path.name}, cell {cell}: it says '{text}' of the solution")
    return said


@EACH
def test_wrong_answers_are_refused_and_solutions_right(path: Path):
    wrong = contract.wrong_answers(path)
    run(path, tried(notebooks.parse(path), contract.lesson_of(path), wrong))


# The tests of these tests: one small lesson, right and broken.

LESSON = """
import sys, types
sys.path.insert(0, {root!r})
from tft_utils.course.exercises import NotAttempted, Wrong, check

def judge(attempt):
    if attempt(3) != 6:
        raise Wrong("add x to itself")

sys.modules["tft_utils.lessons.small"] = answers = types.ModuleType("small")
answers.double, answers.check_double = (lambda x: 2 * x), judge
"""


def small_lesson(solution: str = "return x + x") -> dict:
    solution = f"```python\ndef double(x):\n    {solution}\n```"
    new, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    return nbformat.v4.new_notebook(
        cells=[
            new(LESSON.format(root=str(contract.ROOT)), id="setup", metadata={"tags": ["setup"]}),
            new(
                "def double(x):\n    raise NotAttempted",
                id="ex-double-stub",
                metadata={"tags": ["exercise"]},
            ),
            new(
                'double = check("small/double", double)',
                id="ex-double-check",
                metadata={"tags": ["check"]},
            ),
            text(solution, id="ex-double-solution", metadata={"tags": ["solution"]}),
            new("raise RuntimeError('after the last check')", id="end"),
        ]
    )


PATH = notebooks.NOTEBOOKS / "99_small.ipynb"


WRONG = [("def double(x):\n    return x * x", "add x"), ("def double(x):\n    return 0", "add")]


def try_small(wrong: list, solution: str = "return x + x", seconds: float = 60) -> dict[str, str]:
    return run(PATH, tried(small_lesson(solution), "small", {"double": wrong}), seconds)


def test_a_broken_solution_is_caught_by_name():
    with pytest.raises(
        pytest.fail.Exception, match="99_small.ipynb, cell ex-double-check: Wrong: small/double: add x"
    ):
        try_small(WRONG, "return x * x")
    with pytest.raises(pytest.fail.Exception, match="ex-double-check: it says '.*not attempted"):
        try_small(WRONG, "raise NotAttempted")


def test_a_refused_wrong_answer_passes_and_an_accepted_one_is_caught_by_name():
    assert try_small(WRONG) == {"ex-double-check": "small/double: right\n"}
    right = [*WRONG, ("def double(x):\n    return x + x", "add")]
    with pytest.raises(pytest.fail.Exception, match="cell ex-double-wrong-2: .*taken for right"):
        try_small(right)
    other = [("def double(x):\n    return 0", "divide"), *WRONG]
    with pytest.raises(pytest.fail.Exception, match="wrong-0: .*hint like 'divide', found: .*add x"):
        try_small(other)


@pytest.mark.parametrize(
    ("answer", "seconds", "reason"),
    [
        ("import time; time.sleep(60)", 4, "no answer within 4 s"),
        ("import os; os._exit(0)", 60, "the process broke off"),
    ],
)
def test_an_answer_that_never_ends_or_ends_all_is_caught_by_name(answer, seconds, reason):
    with pytest.raises(pytest.fail.Exception, match=f"cell ex-double-wrong-0: {reason}"):
        try_small([(f"def double(x):\n    {answer}", "add x")], seconds=seconds)


def test_what_a_lesson_changes_stays_in_it():
    """A mode of torch, a module, what another one holds: the next lesson finds them as they were."""
    lesson = tried(small_lesson(), "small", {"double": WRONG})
    begins = "import sys, torch\nassert torch.is_grad_enabled() and not hasattr(sys, 'left')\n"
    begins += "torch.set_grad_enabled(False)\nsys.left = 1\n"
    lesson["cells"][0]["source"] = begins + lesson["cells"][0]["source"]
    for _ in range(2):
        run(PATH, lesson)
    assert "tft_utils.lessons.small" not in sys.modules
