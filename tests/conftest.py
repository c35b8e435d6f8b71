"""What every test shares: no network, still figures, `../shared`, and an honest list of skips."""

import os
from pathlib import Path

import matplotlib
import pytest
import torch

from tft_utils import models

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"
# What `make test-fast` leaves out: lessons that run, browsers, the site, trainings, and what takes long.
SLOW = {
    "files": (
        "test_small",
        "test_grading",
        "test_browser",
        "test_site",
        "test_benchmarks",
        "test_address",
    ),
    "fixtures": ("finished", "killed"),
    "tests": (
        "test_wrong_answers_are_refused_and_solutions_right",
        "test_one_run_a_day_gives_the_boards_numbers_again",
        "test_the_cards_stream_is_what_this_code_makes",
        "test_shipped_weights_score_what_their_card_says",
        "test_a_factor_is_off_and_the_others_are_on_after_training",
        "test_the_unpenalised_mamba_differs_in_its_loss_alone",
        "test_relevance_is_more_faithful_than_gradients_and_chance",
        "test_a_lens_trained_on_shuffled_targets_reads_nothing",
        "test_adapters_that_are_told_the_name_last_are_others",
        "test_characters_are_as_faithful_as_the_card_says",
        "test_shipping_and_loading_give_the_trained_model_back",
        "test_execute_where_text_is_not_utf_8",
    ),
}
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures, name = getattr(item, "fixturenames", ()), getattr(item, "originalname", "")
        runs = item.path.stem == "test_scoreboard" and "lesson" in fixtures  # a toy, in a kernel
        slow = (
            item.path.stem in SLOW["files"] or name in SLOW["tests"] or {*SLOW["fixtures"]} & {*fixtures}
        )
        if runs or slow:
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what this machine could not check, so that green is not mistaken for complete."""
    reports = [r for r in terminalreporter.getreports("skipped") if isinstance(r.longrepr, tuple)]
    for lack in LACKING:
        tests = [r.nodeid for r in reports if lack.lower() in r.longrepr[2].lower()]
        if tests:
            terminalreporter.write_line(f"skipped for lack of {lack}: {', '.join(tests)}")
