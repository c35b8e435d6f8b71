"""Moves the course to another owner or name on GitHub: `python -m tft_utils.course.address OWNER/NAME`.

pyproject.toml holds the address; badges, setup cells, links and CITATION.cff repeat it. All of them
change together. Outputs do not depend on it: notebooks that were fresh stay so.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tft_utils.course import notebooks
from tft_utils.files import ROOT, replace_file

GITHUB = "https://github.com/"


def current() -> str:
    """OWNER/NAME, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix(GITHUB)


def texts() -> list[Path]:
    """The files of the repository that are text; git knows which are its own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in sorted(set(listed.split("\0"))) if name]
    return [path for path in paths if path.is_file() and _is_text(path)]


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))


def move(new: str) -> list[Path]:
    """Writes the new address wherever the old one stands; returns the files that changed.

    Errors: `ValueError` for what is no OWNER/NAME.
    """
    new = new.removeprefix(GITHUB).removesuffix(".git").strip("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[\w.-]+", new):
        raise ValueError(f"expected OWNER/NAME, as in {current()}, found {new!r}")
    forms = {current(): new, pages(current()): pages(new)}
    fresh = [p for p in [*notebooks.all_notebooks(), *notebooks.pages()] if is_fresh(p)]
    changed = []
    for path in texts():
        text = moved = path.read_bytes().decode("utf-8")
        for old, becomes in forms.items():
            moved = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", becomes, moved)
        if moved != text:
            _write(path, moved)
            changed.append(path)
    for path in fresh:
        notebook = notebooks.parse(path)
        notebook["metadata"]["digest"] = notebooks.digest(notebook)
        _write(path, notebooks.canonical(notebook))
    return changed


def pages(address: str) -> str:
    """Where GitHub Pages shows a repository's site."""
    owner, _, name = address.partition("/")
    return f"{owner.lower()}.github.io/{name}"


def is_fresh(path: Path) -> bool:
    notebook = notebooks.parse(path)
    return notebook["metadata"].get("digest") == notebooks.digest(notebook)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit(f"expected OWNER/NAME; the course is at {current()}")
    try:
        print(*(path.relative_to(ROOT) for path in move(arguments[0])), sep="\n")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
