"""Whole lessons on SmolLM2: `python -m tests.real.lessons [NOTEBOOK ...]`, after `make real`.

Each runs as committed, with SCALE = "small" and MODELS = ("smollm2",), on the CPU, in a process and a
copy of the course of its own. Printed is a row a lesson: highest resident size of its kernel, CPU time,
cells that ran of all, and what stopped. Its claims go to build/real/claims-<lesson>.json. It
takes hours; a kernel that has used LIMIT CPU seconds is stopped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.true_shapes import lesson
from tests.real.conftest import BUILD, unpacked
from tft_utils.course import notebooks

LIMIT = 5400
LESSONS = ("00", "02", "03", "04", "05", "07")


def run(path: Path) -> None:
    """Prints the row of a lesson and keeps its claims."""
    with tempfile.TemporaryDirectory() as temporary:
        course = Path(temporary)
        for part in ("tft_utils", "notebooks", "data", "tests"):
            shutil.copytree(notebooks.NOTEBOOKS.parent / part, course / part)
        (course / "notebooks" / "smollm2").symlink_to(unpacked())
        asked = [sys.executable, "-m", __spec__.name, "--one", f"notebooks/{path.name}"]
        subprocess.run(asked, cwd=course, env=os.environ | {"PYTHONPATH": temporary}, check=True)
        claims = course / "build" / "claims-small.json"
        if claims.exists():
            shutil.copy(claims, BUILD / f"claims-{path.stem}.json")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        parameters = {"SCALE": "small", "MODELS": ("smollm2",), "DEVICE": "cpu"}
        print(lesson(Path(arguments[1]).resolve(), LIMIT, **parameters), flush=True)
    else:
        given = [Path(argument) for argument in arguments]
        for each in given or [p for p in notebooks.all_notebooks() if p.name.startswith(LESSONS)]:
            run(each)
