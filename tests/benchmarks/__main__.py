"""Run every `bench_*.py` beside this file, print one table and write `build/bench.json`."""

import importlib
import json
import os
import platform
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "build" / "bench.json"
COLUMNS = ("name", "ours", "theirs", "ratio", "unit")


def write_json(path: Path, content: dict) -> None:
    """Write to a neighbour first: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def table(rows: dict[str, dict]) -> str:
    """Align names and units left, numbers right."""
    cells = [COLUMNS] + [
        (name, *(f"{row[column]:.4g}" for column in COLUMNS[1:4]), row["unit"])
        for name, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [name.ljust(widths[0])]
            + [number.rjust(width) for number, width in zip(numbers, widths[1:4], strict=True)]
            + [unit]
        )
        for name, *numbers, unit in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main() -> None:
    machine = {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    rows: dict[str, dict] = {}
    for file in sorted(HERE.glob("bench_*.py")):
        print(f"running {file.stem} ...", file=sys.stderr, flush=True)
        rows |= importlib.import_module(f"tests.benchmarks.{file.stem}").run()
        # After each file, so that an interrupted run keeps what it has measured.
        write_json(RESULTS, {"machine": machine, "results": rows})
    if not rows:
        sys.exit(f"no benchmark found: {HERE} holds no bench_*.py that returns a measurement")
    print(table(rows))
    print(f"\nwritten to {RESULTS.relative_to(HERE.parent.parent)}")


if __name__ == "__main__":
    main()
