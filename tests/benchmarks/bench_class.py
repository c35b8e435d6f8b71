"""A class of thirty hands in lesson 00, and some of it is hostile: is it graded within ten minutes?

Each row must be what its notebook deserves. In the table `ours` is the time it takes, `theirs` the bar.
"""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests import contract
from tests.benchmarks import measure
from tft_utils.course import grading, notebooks
from tft_utils.course.grading import OPEN, RIGHT, WRONG

THREADS = 1
BAR = 600.0  # seconds on two cores
GIB = 2.0
LESSON = notebooks.all_notebooks()[0]
NAMES = grading.exercises(LESSON)
FIRST, N = NAMES[0], len(NAMES)


class Size(NamedTuple):
    """Learners of each kind, and the limit of a notebook in seconds."""

    right: int = 8
    wrong: int = 8
    empty: int = 4
    endless: int = 3
    writes: int = 3
    floods: int = 2
    hoards: int = 1
    exits: int = 1
    seconds: float = grading.SECONDS

    def learners(self) -> dict[str, int]:
        return {kind: n for kind, n in self._asdict().items() if kind != "seconds"}


FULL = Size()
TOY = Size(right=0, wrong=0, empty=0, endless=0, writes=0, floods=0, hoards=0, exits=1, seconds=600)


def answers(kind: str) -> dict[str, str]:
    """Exercise -> the source that a learner of this kind puts in place of the stub."""
    notebook = notebooks.parse(LESSON)
    solved = {
        name: contract.FENCE.findall(contract.source(notebook, f"ex-{name.replace('_', '-')}-solution"))[
            0
        ]
        for name in NAMES
    }
    begins = {
        "endless": f"def {FIRST}(*_):\n    while True:\n        pass\n",
        "writes": "open('big', 'wb').write(b'x' * 10**8)\n" + solved[FIRST],
        "floods": "print('x' * 10**8)\n" + solved[FIRST],
        "hoards": f"def {FIRST}(*_):\n    return [bytearray(2**27) for _ in range(99)]\n",
        "exits": f"def {FIRST}(*_):\n    import os\n\n    os._exit(0)\n",
    }
    wrong = {name: known[0][0] for name, known in contract.wrong_answers(LESSON).items()}
    return {"right": solved, "wrong": wrong, "empty": {}}.get(kind) or {FIRST: begins.get(kind, "")}


def deserved(kind: str, seconds: float) -> list[str]:
    """The states of its exercises."""
    begun = [RIGHT, *[OPEN] * (N - 1)]
    return {
        "right": [RIGHT] * N,
        "wrong": [WRONG] * N,
        "empty": [OPEN] * N,
        "endless": [f"no answer within {seconds:g} s"] * N,
        "writes": begun,
        "floods": begun,
        "hoards": [f"more than {GIB:g} GiB of memory"] * N,
        "exits": ["the process broke off"] * N,
    }[kind]


def hand_in(folder: Path, kind: str, i: int) -> None:
    notebook, filled = notebooks.parse(LESSON), answers(kind)
    for cell in contract.cells(notebook, "code", "exercise"):
        cell["source"] = filled.get(grading.exercise_of(cell), cell["source"])
    place = folder / f"{kind}-{i}"
    place.mkdir()
    (place / LESSON.name).write_text(json.dumps(notebook), encoding="utf-8")


def run(size: Size = FULL) -> dict[str, dict]:
    learners = size.learners()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, n in learners.items():
            for i in range(n):
                hand_in(folder, kind, i)
        start = time.monotonic()
        rows = grading.grade_class(folder, size.seconds, GIB)
        seconds = time.monotonic() - start
        left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {LESSON.name}, f"answers left {left} behind"
    for row in rows:
        found = [graded.state for graded in row.graded]
        expected = deserved(row.learner.rpartition("-")[0], size.seconds)
        assert found == expected, f"{row.learner}: expected {Counter(expected)}, found {Counter(found)}"
    assert len(rows) == sum(learners.values())
    return {f"grading {len(rows)} notebooks, ours/bar": measure.ours_by_theirs(seconds, BAR)}
