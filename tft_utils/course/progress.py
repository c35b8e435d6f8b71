"""Which exercises of which lessons are right, from your own notebooks:

    python -m tft_utils.course.progress                  # lessons in this folder, or else in notebooks/
    python -m tft_utils.course.progress NOTEBOOK ...     # notebooks that lie elsewhere

It reads what is saved. A lesson without an answer costs no time; each other one is judged as `grading`
judges a class.
"""

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from tft_utils.course import grading, notebooks


def attempted(path: Path) -> list[str]:
    """The exercises of a notebook whose functions do something. Runs nothing."""
    lesson, notebook = grading.lesson_of(path), notebooks.parse(path)
    names = grading.exercises(lesson) if lesson else []
    answers = {name: grading.answer(notebook, name) for name in names}
    return [name for name, text in answers.items() if text is not None and not _is_stub(text)]


def _is_stub(text: str) -> bool:
    try:
        last = ast.parse(text).body[-1]
    except SyntaxError:  # begun, and broken
        return False
    return isinstance(last, ast.FunctionDef) and ast.unparse(last.body[-1]) == "raise NotAttempted"


def report(paths: Sequence[Path] = ()) -> None:
    """Prints for each notebook with answers how many are right, and what is to say of the others.

    paths: default: the lessons in the current folder; if it has none, the course's."""
    here = [path for path in sorted(Path().glob("*.ipynb")) if grading.lesson_of(path)]
    none = True
    for path in paths or here or notebooks.all_notebooks():
        lesson = grading.lesson_of(path)
        if not path.is_file() or lesson is None:
            print(f"{path}: expected a notebook of a lesson; check the path and its name")
        elif begun := attempted(path):
            judged = [graded for graded in grading.grade(path) if graded.exercise in begun]
            right, n = sum(g.state == grading.RIGHT for g in judged), len(grading.exercises(lesson))
            print(f"{lesson.stem}: {right} of {n} right")
            for g in judged:
                if g.state != grading.RIGHT:
                    print(f"    {g.exercise}: {g.state}" + f". {g.hint}" * bool(g.hint))
            none = False
    if none:
        print("No saved notebook holds an answer of yours yet.")


if __name__ == "__main__":
    report([Path(argument) for argument in sys.argv[1:]])
