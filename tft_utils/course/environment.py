"""Is this machine ready for the course? One line per thing checked, with the remedy when it is not.

Introduced in lesson 00; its setup cell is every lesson's setup cell. On Colab that cell also runs
`python -m tft_utils.course.environment`, which prints what is not well, and nothing else.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
from typing import NamedTuple

import psutil
import torch
from packaging.requirements import Requirement

from tft_utils import files

NEEDS = (  # the packages a lesson imports; pyproject.toml holds the same ranges
    "torch>=2.9,<3",
    "transformers>=5.20,<5.30",
    "nnsight>=0.8.1,<0.9",
    "numpy>=2.0,<3",
    "matplotlib>=3.10,<4",
    "ipywidgets>=7.7,<9",
    "safetensors>=0.8,<1",
    "scipy>=1.13,<2",
    "peft>=0.18,<0.22",
    "concept-erasure>=0.2.4,<0.3",
)
ON_COLAB = "COLAB_RELEASE_TAG" in os.environ
MEMORY_GIB = 2.0  # free memory the lessons need at scale `tiny`


class Check(NamedTuple):
    """One thing that was checked, what was found, and what to do about it when it is not well."""

    what: str
    found: str
    ok: bool
    remedy: str = ""


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 12) <= tuple(sys.version_info[:3]) < (3, 12, 10):  # CPython issue 130809
        # A comprehension beside a repeated trace hides the names that the trace should set.
        found += ": in a loop, trace inside a function"
    return Check(
        "Python 3.11 or newer",
        found,
        sys.version_info >= (3, 11),
        "install Python 3.11 or newer and run `make lab` again",
    )


def _package(need: str) -> Check:
    requirement, remedy = Requirement(need), f'run `pip install "{need}"` and restart the kernel'
    if ON_COLAB:
        remedy = f'run `%pip install "{need}"` in a cell, then Runtime > Restart session, then all cells'
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(need, "not installed", False, remedy)
    # A local build such as 2.13.0+cpu counts as its public version.
    ok = requirement.specifier.contains(found.split("+")[0], prereleases=True)
    return Check(need, found, ok, remedy)


def _organisms() -> Check:
    what = "organisms with the shipped checksums"
    try:
        names = list(json.loads((files.ORGANISMS / "manifest.json").read_text(encoding="utf-8")))
        for name in names:
            files.verify_checksums(files.ORGANISMS / name)
    except (OSError, files.LoadError) as error:
        return Check(what, str(error), False, "run `git checkout -- data/organisms`")
    return Check(what, ", ".join(names), True)


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    return Check(
        f"{MEMORY_GIB:g} GiB of free memory",
        f"{free:.1f} GiB",
        free >= MEMORY_GIB,
        "close other notebooks or programs",
    )


def _kernels() -> Check:
    """Optional, and never used for interpretability: see `mamba_scan.use_cuda_kernels`."""
    packages = [p for p in ("mamba_ssm", "causal_conv1d") if importlib.util.find_spec(p)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    found = f"{device}; kernels: {', '.join(packages) or 'none'}"
    return Check("GPU and CUDA kernels (optional)", found, True)


def checks() -> list[Check]:
    """Everything a lesson needs, in the order to repair it."""
    return [_python(), *map(_package, NEEDS), _organisms(), _memory(), _kernels()]


def report(problems_only: bool = False) -> bool:
    """Prints one line per check; True when every needed thing is there. With `problems_only`, prints
    what is not well alone."""
    found = checks()
    for check in found:
        if not (check.ok and problems_only):
            print(f"{'ok ' if check.ok else 'FIX'}  {check.what:42s} {check.found}")
        if not check.ok:
            print(f"     -> {check.remedy}")
    ready = all(check.ok for check in found)
    if not (ready and problems_only):
        print("Ready." if ready else "Not ready: repair the lines marked FIX, from the top.")
    return ready


if __name__ == "__main__":
    report(problems_only=True)
