"""Lessons on SmolLM2, from the first cell to the last, in the smaller sizes of tests/test_small.py: does
each run where the model knows the answers? In their own sizes: `python -m tests.real.lessons`.
"""

import pytest
import torch
from test_small import PATHS, SMALLER, quick, run

from tests.benchmarks.true_shapes import write
from tests.real.conftest import unpacked
from tests.real.lessons import BY_NAME, LESSONS, RANDOM
from tft_utils import models

__all__ = ["quick"]  # the fixture
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """Models that have learned nothing, with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("random")
    return {name: write(folder / name, config, str(unpacked())) for name, config in RANDOM.items()}


@pytest.mark.parametrize("path", [p for p in PATHS if p.stem.startswith(LESSONS)], ids=lambda p: p.stem)
@pytest.mark.usefixtures("quick")
@torch.enable_grad()  # as in a fresh kernel
def test_a_lesson_runs_on_smollm2(path, random, monkeypatch):
    smollm2 = unpacked()
    by_name = random["gpt_neox"] if path.stem.startswith(BY_NAME) else smollm2
    known = {"smollm2": smollm2, "transformer": by_name, "mamba": random["mamba"]}
    monkeypatch.setitem(models.SCALES, "small", known)
    # Every depth of 04 is a product with 49,152 words: a step takes ten seconds, its map ten minutes.
    fewer = {"RATE = 80,": "RATE = 2,", "(model, 3,": "(model, 1,"}
    monkeypatch.setitem(SMALLER, "04_lenses", SMALLER["04_lenses"] | fewer)
    problems = run(path, SCALE="small", MODELS=("smollm2",), DEVICE="cpu")
    assert not problems, "\n".join(problems)
