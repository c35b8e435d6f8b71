"""Which exercises are right in the notebooks of a class:

    python -m tft_utils.course.grading SUBMISSIONS       # a folder for each learner: a table

Your own notebooks: `progress`.

Of a submitted notebook only the exercises' functions are taken, found by their names. They run in the
committed lesson, of which only what names things is left (`names_only`), each notebook in a process of
its own with limits of time and memory, in an empty folder, its output thrown away. So a broken or endless
answer spoils its own row. It is no sandbox: whoever grades strangers uses a container.
"""

import argparse
import ast
import json
import linecache
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tft_utils.course import notebooks

SECONDS, GIB = 120, 6.0  # what one notebook may take
AT_ONCE = 2
KEPT = {"setup", "parameters"}  # tags of cells that run whole
RIGHT, WRONG, OPEN = "right", "wrong", "not attempted"


class Graded(NamedTuple):
    """One exercise of one notebook. state: RIGHT, WRONG, OPEN, or why it was never judged."""

    exercise: str
    state: str
    hint: str = ""


def names_only(source: str) -> str:
    """What names things in a cell: its imports, functions and constants, without the work. A default that
    only the work would name is None."""

    def kept(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            names = all(isinstance(target, ast.Name) for target in node.targets)
            return names and isinstance(node.value, ast.Constant)
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))

    def text(node: ast.stmt) -> str:
        whole = ast.unparse(node)
        defaults = node.args.defaults if isinstance(node, ast.FunctionDef) else []
        if all(isinstance(each, ast.Constant) for each in defaults):
            return whole
        node.args.defaults = [ast.Constant(None) for _ in defaults]
        bare = textwrap.indent(ast.unparse(node), "    ")
        return f"try:\n{textwrap.indent(whole, '    ')}\nexcept NameError:\n{bare}"

    return "\n".join(text(node) for node in ast.parse(source).body if kept(node))


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", ()))


def exercise_of(cell: dict) -> str:
    """'ex-last-word-check' -> 'last_word'."""
    return cell["id"].removeprefix("ex-").removesuffix("-check").removesuffix("-stub").replace("-", "_")


def exercises(lesson: Path) -> list[str]:
    """The names of a lesson's exercises, in order."""
    return [exercise_of(c) for c in notebooks.parse(lesson)["cells"] if "check" in tags(c)]


def lesson_of(path: Path) -> Path | None:
    """The committed lesson that a file is of, by its name: '01a_two_machines (copy).ipynb' is of 01."""
    return next((lesson for lesson in notebooks.all_notebooks() if lesson.stem in path.name), None)


def answer(submitted: dict, name: str) -> str | None:
    """The last code cell of a notebook that defines a function `name`, or begins to."""
    found = None
    for cell in submitted.get("cells", ()):
        source = "".join(cell.get("source", ""))
        if cell.get("cell_type") == "code" and f"\ndef {name}(" in f"\n{source}":
            found = source
    return found


# --------------------------------------------------------------------------------------------------
# In a process of its own


class _Shell:
    """Stands for IPython in a cell with magics: they do nothing here."""

    def __getattr__(self, _: str):
        return lambda *_, **__: None


def _run(source: str, name: str, space: dict) -> None:
    """Runs a cell. Its source can be looked up, as nnsight does with whatever traces."""
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), space)


def judge(path: Path, lesson: Path) -> Iterator[Graded]:
    """Judges a notebook in this process, exercise by exercise. A wrong answer is replaced by the
    reference, so that later ones can use it."""
    from IPython.core.inputtransformer2 import TransformerManager

    from tft_utils.course.exercises import NotAttempted, Wrong, check

    submitted = json.loads(path.read_text(encoding="utf-8"))
    short, plain = lesson.stem.split("_", 1)[1], TransformerManager().transform_cell
    space: dict = {"__name__": "__main__", "get_ipython": _Shell}
    for cell in notebooks.parse(lesson)["cells"]:
        if cell["cell_type"] != "code" or "exercise" in tags(cell):
            continue
        if "check" not in tags(cell):
            source = plain(cell["source"])
            _run(source if KEPT & tags(cell) else names_only(source), cell["id"], space)
            continue
        name = exercise_of(cell)
        state, hint, used = OPEN, "", None
        try:
            if (source := answer(submitted, name)) is not None:
                _run(plain(source), name, space)
                used = check(f"{short}/{name}", space[name])
                state = RIGHT if used is space[name] else OPEN
        except Wrong as wrong:
            state, hint = WRONG, str(wrong).removeprefix(f"{short}/{name}: ")
        except Exception as error:
            state, hint = WRONG, f"the cell stops with {type(error).__name__}: {error}"
        if used is None:

            def stub(*_, **__):
                raise NotAttempted

            used = check(f"{short}/{name}", stub)
        space[name] = used
        yield Graded(name, state, hint)


# --------------------------------------------------------------------------------------------------
# From outside


def grade(path: Path, seconds: float = SECONDS, gib: float = GIB) -> list[Graded]:
    """Judges a notebook in a process of its own; exercises that it did not reach say why.

    Errors: `ValueError` for a file that is of no lesson.
    """
    lesson = lesson_of(path)
    if lesson is None:
        stems = ", ".join(each.stem for each in notebooks.all_notebooks())
        raise ValueError(f"expected a notebook of a lesson, one of {stems}; found {path.name}; rename it")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "graded"
        out.touch()
        command = [sys.executable, "-m", __spec__.name, "--judge", str(path.resolve()), str(out)]
        away = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        root = str(Path(__file__).parents[2])
        found = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        process = subprocess.Popen(
            command, cwd=folder, env=found | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **away
        )
        reason = _watch(process, seconds, gib)
        lines = out.read_text(encoding="utf-8").splitlines()
    judged = [Graded(*json.loads(line)) for line in lines]
    left = exercises(lesson)[len(judged) :]
    return judged + [Graded(name, reason or "the process broke off") for name in left]


def _watch(process: subprocess.Popen, seconds: float, gib: float) -> str:
    """Waits for a process; beyond a limit kills it with all that it started, and says which limit."""
    import psutil

    end, reason = time.monotonic() + seconds, ""
    while process.poll() is None and not reason:
        if time.monotonic() > end:
            reason = f"no answer within {seconds:g} s"
        try:
            family = psutil.Process(process.pid)
            used = sum(p.memory_info().rss for p in (family, *family.children(recursive=True)))
        except psutil.Error:  # it ended meanwhile
            used = 0
        if used > gib * 2**30:
            reason = f"more than {gib:g} GiB of memory"
        time.sleep(0.1)
    with suppress(ProcessLookupError, PermissionError):  # also what it started and left behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return reason


class Row(NamedTuple):
    learner: str
    lesson: str
    graded: list[Graded]


def grade_class(folder: Path, seconds: float = SECONDS, gib: float = GIB) -> list[Row]:
    """Every notebook below a folder, the learner being the folder that it is in. A file of no lesson
    gets a row that says so."""
    paths = [p for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]

    def row(path: Path) -> Row:
        learner = path.parent.relative_to(folder).as_posix()
        try:
            return Row(learner, path.stem, grade(path, seconds, gib))
        except ValueError as error:
            return Row(learner, path.stem, [Graded("", str(error))])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(row, paths))


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown: how many exercises are right, and what is to say of the others."""
    lines = ["| learner | lesson | right | of | the others |", "|---|---|---|---|---|"]
    for learner, lesson, graded in rows:
        rest = [f"{g.exercise}: {g.state}".removeprefix(": ") for g in graded if g.state != RIGHT]
        n = sum(g.state == RIGHT for g in graded)
        of = sum(bool(g.exercise) for g in graded)
        lines.append(f"| {learner} | {lesson} | {n} | {of} | {'; '.join(rest)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tft_utils.course.grading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, help="submissions, a folder for each learner")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each notebook")
    parser.add_argument("--gib", type=float, default=GIB, help="memory of each notebook")
    parser.add_argument("--judge", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.judge:
        path, out = options.judge
        with out.open("a", encoding="utf-8") as file:
            for graded in judge(path, lesson_of(path)):
                print(json.dumps(graded), file=file, flush=True)
    elif options.folder and options.folder.is_dir():
        print(table(grade_class(options.folder, options.seconds, options.gib)), end="")
    else:
        found = options.folder or "none"
        parser.exit(1, f"expected a folder of submissions, found {found}; your own notebooks: progress\n")


if __name__ == "__main__":
    main()
