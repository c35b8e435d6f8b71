"""Memory and time of each lesson, for docs/hosts.md: `python -m tests.benchmarks.hosts [NOTEBOOK ...]`.

One after another, each in a process of its own; nothing is written but rows of the table.
"""

import resource
import subprocess
import sys
from pathlib import Path

from nbclient import NotebookClient

from tft_utils.course import notebooks


def row(path: Path) -> str:
    """Lesson, highest resident size of its kernel in MB, CPU seconds. To be asked once a process."""
    NotebookClient(
        notebooks.parse(path),
        timeout=3600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    return f"| {path.stem} | {used.ru_maxrss * 1024 / 1e6:,.0f} | {seconds:.0f} |"


if __name__ == "__main__":
    paths = [Path(argument).resolve() for argument in sys.argv[1:]] or notebooks.all_notebooks()
    if len(paths) == 1:
        print(row(paths[0]))
    else:
        for path in paths:
            subprocess.run([sys.executable, "-m", __spec__.name, str(path)], check=True)
