"""Run every `bench_*.py` beside this file, print one table and write `build/bench.json`.

With names (`lenses probes`), run those alone and print the table.
"""

import json
import os
import platform
import sys
import traceback
from pathlib import Path

import torch

from tests.benchmarks import measure
from tft_utils.files import replace_file

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "build" / "bench.json"
COLUMNS = ("name", "ours", "theirs", "ratio", "unit")


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


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def run(modules: dict[str, str], results: Path | None) -> tuple[dict[str, dict], dict[str, str]]:
    """All rows, and name -> error of the benchmarks {name: module} that failed; the others go on.

    Both stand in `results`, if given, after each benchmark: an interrupted run keeps what it has.
    """
    rows, failed = {}, {}
    for name, module in modules.items():
        print(f"running {name} ...", file=sys.stderr, flush=True)
        try:
            rows |= measure.fresh(measure.rows_of, module)
        except Exception as error:
            traceback.print_exception(error)
            failed[name] = f"{type(error).__name__}: {error}"
        if results:
            write(results, {"machine": machine(), "results": rows, "failed": failed})
    return rows, failed


def machine() -> dict:
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def main(asked: list[str]) -> None:
    files = sorted(HERE.glob("bench_*.py"))
    modules = {file.stem.removeprefix("bench_"): f"{__package__}.{file.stem}" for file in files}
    unknown = [name for name in asked if name not in modules]
    if unknown:
        sys.exit(
            f"expected benchmarks among {', '.join(modules)}, found {', '.join(unknown)}; "
            "leave the names out to run all"
        )
    modules = {name: modules[name] for name in asked} or modules
    rows, failed = run(modules, None if asked else RESULTS)
    if rows:
        print(table(rows))
    if not asked:
        print(f"\nwritten to {RESULTS.relative_to(ROOT)}")
    if failed:
        errors = "".join(f"\n  {name}: {error}" for name, error in failed.items())
        sys.exit(f"{len(failed)} of {len(modules)} benchmarks failed:{errors}")


if __name__ == "__main__":
    main(sys.argv[1:])
