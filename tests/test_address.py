"""One command moves the course: in a copy, no old address is left, and what was fresh is fresh."""

import shutil
import subprocess
from pathlib import Path

import contract
import pytest

from tft_utils.course import address, claims, notebooks
from tft_utils.files import ROOT

OLD = contract.REPOSITORY.removeprefix(address.GITHUB)
NEW = "/".join(("Some-Body", "rnn.course"))  # in pieces, for this file is moved as well
START, SECOND = notebooks.all_notebooks()[:2]


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """All text of the repository, in a repository of its own; of the notebooks the first one is fresh,
    the second one stale."""
    for path in address.texts():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "site.txt").write_text(f"https://{address.pages(OLD)}/", encoding="utf-8")
    (tmp_path / "other.txt").write_text(f"{OLD}-two, my-{OLD}", encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(address, "ROOT", tmp_path)
    data = tmp_path / "data"
    places = {"ROOT": tmp_path, "NOTEBOOKS": tmp_path / "notebooks", "DATA": data}
    for name, place in (places | {"ORGANISMS": data / "organisms"}).items():
        monkeypatch.setattr(notebooks, name, place)
    for name in ("REGISTRY", "SCOREBOARD"):
        monkeypatch.setattr(claims, name, data / f"{name.lower()}.json")
    for name, stamp in ((START.name, notebooks.digest), (SECOND.name, lambda _: "0" * 64)):
        path = tmp_path / "notebooks" / name
        notebook = notebooks.parse(path)
        notebook["metadata"]["digest"] = stamp(notebook)
        path.write_text(notebooks.canonical(notebook), encoding="utf-8")
    return tmp_path


def texts(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in address.texts()
    }


def test_a_course_moves_there_and_back(copy, capsys):
    before = texts(copy)
    address.main([NEW])
    after, changed = texts(copy), capsys.readouterr().out.split()
    left = [name for name, text in after.items() if OLD in text and name != "other.txt"]
    assert not left, f"{left} still name {OLD}: see tft_utils/course/address.py"
    lessons = {f"notebooks/{path.name}" for path in notebooks.all_notebooks()}
    assert set(changed) >= {"pyproject.toml", "CITATION.cff", "README.md", "site.txt"} | lessons
    assert after["site.txt"] == "/".join(("https:/", "some-body.github.io", "rnn.course", ""))
    assert 'name = "transfer-from-transformers"' in after["pyproject.toml"]
    for path in notebooks.all_notebooks():
        assert path.read_text(encoding="utf-8") == notebooks.canonical(notebooks.parse(path))
    assert address.is_fresh(copy / "notebooks" / START.name)
    assert not address.is_fresh(copy / "notebooks" / SECOND.name)
    address.main([f"https://github.com/{OLD}.git"])
    assert texts(copy) == before


@pytest.mark.parametrize("new", ["course", "a/b/c", "https://example.org/a/b", "a b/c", ""])
def test_what_is_no_address_is_refused(new):
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        address.move(new)
