"""Exercises check themselves; every lesson runs with its solutions and refuses wrong answers.

The third form of a lesson, as committed, is run by nbmake (see the Makefile).
"""

import ast
import copy
import sys
import types
from pathlib import Path

import contract
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tft_utils.course import notebooks
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


def solved(notebook: dict) -> dict:
    """Every stub replaced by the fence of its solution cell."""
    notebook = copy.deepcopy(notebook)
    for cell in contract.cells(notebook, "code", "exercise"):
        solution = contract.source(notebook, cell["id"].removesuffix("-stub") + "-solution")
        (cell["source"],) = contract.FENCE.findall(solution)
    return notebook


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


def names_only(source: str) -> str:
    """What names things in a cell: its imports, functions and constants, without the work."""

    def kept(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            names = all(isinstance(target, ast.Name) for target in node.targets)
            return names and isinstance(node.value, ast.Constant)
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))

    return "\n".join(ast.unparse(node) for node in ast.parse(source).body if kept(node))


def attacked(notebook: dict, lesson: str, wrong: dict) -> dict:
    """Each check first meets every wrong answer; the lesson ends after its last check.

    Answers may use what the lesson names, but not its results: the two other forms do its work.
    """
    cells, last = [], 0
    for cell in copy.deepcopy(notebook)["cells"]:
        if cell["cell_type"] == "code" and not KEPT.intersection(contract.tags(cell)):
            cell["source"] = names_only(cell["source"])
        if "check" in contract.tags(cell):
            base = cell["id"].removesuffix("-check")
            name, stub = base.removeprefix("ex-").replace("-", "_"), cells[-1]
            for i, (answer, regex) in enumerate(wrong[name]):
                text = TRY.format(answer=answer, lesson=lesson, name=name, regex=regex)
                cells.append(nbformat.v4.new_code_cell(text, id=f"{base}-wrong-{i}"))
            cells.append(nbformat.v4.new_code_cell(stub["source"], id=f"{base}-stub-again"))
            last = len(cells) + 1
        cells.append(cell)
    return nbformat.from_dict(notebook | {"cells": cells[:last]})


def run(path: Path, notebook: dict, form: str) -> dict:
    """Executes a form of the notebook at `path`; a failure names file, form and cell."""
    client = NotebookClient(
        nbformat.from_dict(notebook),
        timeout=notebooks.SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        return client.execute()
    except CellExecutionError as error:
        failed = next(
            c["id"]
            for c in client.nb.cells
            if any(output["output_type"] == "error" for output in c.get("outputs", ()))
        )
        pytest.fail(f"{path.name}, {form}, cell {failed}: {error.ename}: {error.evalue}")


@EACH
def test_every_solution_is_right(path: Path):
    done = run(path, solved(notebooks.parse(path)), "solved")
    for cell in contract.cells(done, "code", "check"):
        said = "".join(output.get("text", "") for output in cell["outputs"])
        assert ": right\n" in said, f"{path.name}, solved, cell {cell['id']}: it says '{said}'"


@EACH
def test_every_wrong_answer_is_refused_with_its_hint(path: Path):
    wrong = contract.wrong_answers(path)
    run(path, attacked(notebooks.parse(path), contract.lesson_of(path), wrong), "wrong answers")


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


def test_a_broken_solution_is_caught_by_name():
    broken = solved(small_lesson("return x * x"))
    with pytest.raises(
        pytest.fail.Exception,
        match=("99_small.ipynb, solved, cell ex-double-check: Wrong: small/double: add x"),
    ):
        run(PATH, broken, "solved")


def test_a_refused_wrong_answer_passes_and_an_accepted_one_is_caught_by_name():
    wrong = [("def double(x):\n    return x * x", "add x"), ("def double(x):\n    return 0", "add")]
    done = run(PATH, attacked(small_lesson(), "small", {"double": wrong}), "wrong answers")
    (checked,) = contract.cells(done, "code", "check")
    assert checked["outputs"][0]["text"].endswith("not attempted, the reference is used\n")
    right = wrong + [("def double(x):\n    return x + x", "add")]
    with pytest.raises(pytest.fail.Exception, match="cell ex-double-wrong-2: .*taken for right"):
        run(PATH, attacked(small_lesson(), "small", {"double": right}), "wrong answers")
    other = [("def double(x):\n    return 0", "divide"), *wrong]
    with pytest.raises(pytest.fail.Exception, match="wrong-0: .*hint like 'divide', found: .*add x"):
        run(PATH, attacked(small_lesson(), "small", {"double": other}), "wrong answers")
