"""What every test shares: no network, still figures, `../shared`, and an honest list of skips."""

import os
from pathlib import Path

import matplotlib
import pytest
import torch

from tft_utils import models

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"
LACKING = ("../shared", "CUDA", "Chromium", "SmolLM2", "textgenrnn", "axe-core")

# pytest-socket (pyproject.toml) guards this process; these two guard every process it starts.
os.environ["TFT_BLOCK_NETWORK"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(TESTS / "offline"), os.environ.get("PYTHONPATH")])
)

# In this process only: kernels inherit the environment and must keep their inline figures.
matplotlib.use("Agg")
os.environ.pop("MPLBACKEND", None)
os.environ.pop("TFT_CLAIMS", None)  # claims are asserted here, in kernels too


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The reference material beside the repository, which a plain clone does not have."""
    if not SHARED.is_dir():
        pytest.skip("skipped loudly: ../shared is not beside the repository")
    return SHARED


@pytest.fixture(scope="module")
def without_gradients():
    """As in the lessons: whoever needs gradients switches them on."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=models.PAIR)
def model(request) -> models.Model:
    """Each organism of the pair in turn."""
    return models.load(request.param)


@pytest.fixture(scope="module")
def mamba() -> models.Model:
    return models.load("mamba")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what this machine could not check, so that green is not mistaken for complete."""
    reports = [r for r in terminalreporter.getreports("skipped") if isinstance(r.longrepr, tuple)]
    for lack in LACKING:
        tests = [r.nodeid for r in reports if lack.lower() in r.longrepr[2].lower()]
        if tests:
            terminalreporter.write_line(f"skipped for lack of {lack}: {', '.join(tests)}")
