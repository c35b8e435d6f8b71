"""The notebook tool: one file per lesson, executed, canonical, and known to be fresh.

python -m tft_utils.course.notebooks execute [PATH ...]   run, write outputs and digest, canonical JSON,
                                                   and data/claims.json from every notebook
python -m tft_utils.course.notebooks verify [PATH ...]    check all that without running anything
"""

import ast
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tft_utils.course import claims
from tft_utils.files import DATA, ORGANISMS, ROOT, replace_file
from tft_utils.models import SCALES

NOTEBOOKS = ROOT / "notebooks"
SECONDS = 60  # budget of a notebook on two idle cores
SECONDS_PER_CELL = 300  # a machine that is busy, not a budget
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def all_notebooks() -> list[Path]:
    """The lessons, in their order: their names begin with a number."""
    return sorted(path for path in NOTEBOOKS.glob("*.ipynb") if path.name[:2].isdigit())


def number(lesson: Path | str) -> str:
    """'05a' of notebooks/05a_linguistic_probing.ipynb; a long lesson has a and b."""
    return Path(lesson).name.partition("_")[0]


def pages() -> list[Path]:
    """The notebooks that are no lesson: nothing is to be learned by doing, nothing is claimed."""
    return sorted(set(NOTEBOOKS.glob("*.ipynb")) - set(all_notebooks()))


def results_read(notebook: dict) -> list[Path]:
    """Which of the lessons' own results, and of all organisms' cards, it stands on, by what its code
    names."""
    code = "\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    code = code.replace("standings import over_seeds", "")  # what is shown beside one's own numbers
    names = {"standings": claims.SCOREBOARD, "claims.REGISTRY": claims.REGISTRY}
    found = [path for name, path in names.items() if name in code]
    return found + (sorted(ORGANISMS.glob("*/card.json")) if "standings.cards" in code else [])


def digest(notebook: dict) -> str:
    """What the outputs depend on: the code cells, what they import of `tft_utils`, themselves or through
    one another, and the data that lessons read; the lessons' own results for a notebook that stands on
    them."""
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = hashlib.sha256(json.dumps(code).encode())
    data = sorted(filter(_is_read, DATA.rglob("*")))
    data += [path for path in results_read(notebook) if path.is_file()]
    if any("over_seeds" in cell for cell in code):
        data.append(claims.SCOREBOARD)
    for path in sorted(_imported(code)) + data:
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _imported(code: list[str]) -> set[Path]:
    """The package's files behind the imports of code cells. An architecture is chosen while a lesson
    runs, so whoever imports one of them is taken to import all."""
    found: set[Path] = set()
    shell = re.compile(r"^(\s*)[!%].*$", flags=re.MULTILINE)  # lines that are not Python
    waiting = {path for cell in code for path in _files_of_imports(shell.sub(r"\1pass", cell))}
    while waiting:
        path = waiting.pop()
        found.add(path)
        beside = path.parent.glob("*.py") if path.parent.name == "architectures" else ()
        waiting |= {*beside, *_files_of_imports(path.read_text(encoding="utf-8"))} - found
    return found


def _files_of_imports(code: str) -> Iterator[Path]:
    """The package's files that a text imports, with the packages that they lie in."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            for i in range(1, len(parts) + 1 if parts[0] == "tft_utils" else 1):
                place = ROOT.joinpath(*parts[:i])
                yield from filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))


def _is_read(path: Path) -> bool:
    """Whether lessons read a file of the data: no text about it, none of their own results, and of the
    organisms those that the lessons stand on."""
    if not path.is_file() or path.suffix == ".md" or path in (claims.REGISTRY, claims.SCOREBOARD):
        return False
    if not path.is_relative_to(ORGANISMS):
        return True
    read = {folder.name for folder in SCALES["tiny"].values()}
    return not read.isdisjoint(path.relative_to(ORGANISMS).parts)


def canonical(notebook: dict) -> str:
    """The one text of a notebook: sorted keys, indent 1, no timing, no widget state."""
    cells = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell = cell | {"metadata": {"tags": tags} if tags else {}}
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(list(filter(_is_lasting, _joined(cell["outputs"]))))
        cells.append(cell)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    if "digest" in notebook["metadata"]:
        metadata["digest"] = notebook["metadata"]["digest"]
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _joined(outputs: list[dict]) -> list[dict]:
    """Printed text arrives in pieces that differ from run to run; a stretch becomes one piece."""
    joined: list[dict] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            joined[-1] = last | {"text": last["text"] + output["text"]}
        else:
            joined.append(output)
    return joined


def _is_lasting(output: dict) -> bool:
    """Widgets mean something only while the kernel runs; so does progress: lines that end ' ...'."""
    lines = output.get("text", "").splitlines()
    progress = output.get("name") == "stderr" and all(line.endswith(" ...") for line in lines)
    return not progress and WIDGET not in output.get("data", {})


def parse(path: Path) -> dict:
    """The notebook with each source and each output text as one string."""
    import nbformat

    return nbformat.read(path, as_version=4)


def execute(path: Path) -> None:
    """Runs a notebook from top to bottom in a fresh kernel and writes what it showed."""
    from nbclient import NotebookClient

    notebook = parse(path)
    # The digest is taken first: a change of the package during the run must read as stale.
    fresh = digest(notebook)
    NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    notebook["metadata"]["digest"] = fresh
    replace_file(path, lambda part: part.write_text(canonical(notebook), encoding="utf-8"))


def problems(path: Path) -> list[str]:
    """What is wrong with a committed notebook, in one sentence each; nothing is run."""
    notebook, found = parse(path), []
    if path.read_text(encoding="utf-8") != canonical(notebook):
        found.append("its JSON is not canonical")
    if notebook["metadata"].get("digest") != digest(notebook):
        found.append("its outputs are older than its code, tft_utils or data")
    return [f"{path.name}: {problem}; run `make notebooks`" for problem in found]


def registry_problems(paths: list[Path], registry: Path) -> list[str]:
    """Does the committed registry hold what the outputs of these notebooks claim?"""
    committed = registry.read_text(encoding="utf-8") if registry.is_file() else ""
    if committed == claims.registry_text(claims.collect(paths)):
        return []
    return [f"{registry.name}: it differs from the notebooks' claims; run `make notebooks`"]


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in ("execute", "verify"):
        sys.exit("expected `execute` or `verify`, then notebooks (default: all)")
    paths = [Path(a).resolve() for a in arguments[1:]] or [*all_notebooks(), *pages()]
    if arguments[0] == "verify":
        found = [problem for path in paths for problem in problems(path)]
        sys.exit("\n".join(found + registry_problems(all_notebooks(), claims.REGISTRY)) or 0)
    later = [path for path in paths if path in pages()]  # they may read what the lessons claim
    for path in [path for path in paths if path not in later]:
        _execute_in_time(path)
    registry = claims.registry_text(claims.collect(all_notebooks()))
    replace_file(claims.REGISTRY, lambda part: part.write_text(registry, encoding="utf-8"))
    for path in later:
        _execute_in_time(path)


def _execute_in_time(path: Path) -> None:
    print(f"executing {path.name} ...", file=sys.stderr)
    start = time.monotonic()
    execute(path)
    seconds = time.monotonic() - start
    over = f", over its budget of {SECONDS} s unless this machine is busy" * (seconds > SECONDS)
    print(f"{path.name}: {seconds:.0f} s{over}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
