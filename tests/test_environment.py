"""The environment check: one line per need, and a remedy for every problem it can find."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tft_utils import files
from tft_utils.course import environment

ROOT = Path(__file__).resolve().parent.parent


def test_ranges_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {Requirement(d).name: Requirement(d).specifier for d in project["dependencies"]}
    for need in map(Requirement, environment.NEEDS):
        assert need.specifier == declared[need.name], (
            f"expected {need.name}{declared[need.name]} as in pyproject.toml, found "
            f"{need.specifier} in tft_utils/course/environment.py: copy the range"
        )


def test_this_machine_is_ready(capsys):
    assert environment.report(), capsys.readouterr().out
    assert "FIX" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "ok"), [("2.13.0+cpu", True), ("2.8.1", False), ("3.0.0", False), ("2.9.0", True)]
)
def test_a_package_out_of_range_has_a_remedy(monkeypatch, version, ok):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    check = environment._package("torch>=2.9,<3")
    assert (check.found, check.ok) == (version, ok)
    assert 'pip install "torch>=2.9,<3"' in check.remedy


def test_a_missing_package_has_a_remedy(monkeypatch, capsys):
    monkeypatch.setattr(environment, "NEEDS", ("no-such-package>=1",))
    assert not environment.report()
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "no-such-package" in line)
    assert lines[at].startswith("FIX")
    assert "not installed" in lines[at]
    assert lines[at + 1].strip() == '-> run `pip install "no-such-package>=1"` and restart the kernel'


@pytest.mark.parametrize(
    ("version", "warned"),
    [((3, 11, 7), False), ((3, 12, 3), True), ((3, 12, 10), False), ((3, 13, 0), False)],
)
def test_a_python_that_loses_saved_values_is_usable_with_a_warning(monkeypatch, version, warned):
    monkeypatch.setattr(environment.sys, "version_info", version)
    check = environment._python()
    assert check.ok
    assert ("trace inside a function" in check.found) == warned


def test_an_old_python_and_little_memory_have_remedies(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(environment, "MEMORY_GIB", 1e6)
    for check in (environment._python(), environment._memory()):
        assert not check.ok
        assert check.remedy


def test_damaged_or_missing_organisms_have_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ORGANISMS", tmp_path)
    check = environment._organisms()
    assert not check.ok
    assert check.remedy == "run `git checkout -- data/organisms`"
