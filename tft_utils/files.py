"""Files: where the data is, checksums, and writes that never leave half a file behind."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
ORGANISMS = DATA / "organisms"


class LoadError(RuntimeError):
    """A model could not be loaded; the message says what to do."""


@contextmanager
def explain(expected: str, repair: str) -> Iterator[None]:
    """Turns whatever a library raises inside into one sentence."""
    try:
        yield
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0].rstrip(":. ")
        raise LoadError(f"expected {expected}, found {found}; {repair}") from error


def read_json(path: Path, repair: str) -> dict:
    """A JSON object from a file, or a `LoadError` that ends with how to repair it."""
    with explain(f"a JSON object in {path}", repair):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


REPAIR = "restore it with `git checkout -- data/organisms`"


def seeds() -> dict[str, list[int]]:
    """Which seeds of which organism are in `ORGANISMS`, by its manifest: folders are `<name>-<seed>`."""
    found: dict[str, list[int]] = {}
    for folder in read_json(ORGANISMS / "manifest.json", REPAIR):
        name, _, seed = folder.rpartition("-")
        if seed.isdecimal():
            found.setdefault(name, []).append(int(seed))
    return {name: sorted(known) for name, known in found.items()}


def verify_checksums(folder: Path) -> None:
    """Every file of a shipped folder is the one that `manifest.json` beside it lists.

    Errors: `LoadError` that names the first file that differs.
    """
    manifest, repair = folder.parent / "manifest.json", REPAIR
    listed = read_json(manifest, repair).get(folder.name)
    if not isinstance(listed, dict):
        raise LoadError(f"expected the checksums of {folder.name} in {manifest}, found none; {repair}")
    for name, expected in listed.items():
        path = folder / name
        found = sha256(path) if path.is_file() else "no file"
        if found != expected:
            raise LoadError(
                f"expected {path} with SHA-256 {expected[:12]}..., found {found[:12]}; {repair}"
            )


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside the file and renames: a half-written file never replaces a good one, nor stays."""
    beside = path.with_name(path.name + ".part")
    try:
        write(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
