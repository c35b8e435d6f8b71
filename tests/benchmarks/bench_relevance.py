"""What one explanation costs on mamba-130m shapes (random weights), one prompt of 256 tokens.

Against a plain forward pass with our scan, and against the same rules through transformers' own
scan, a Python loop. Interleaved, minimum of the repeats. The loop keeps every state of every layer
for its backward, so that comparison has few of the 24 layers, on both sides; both must give every
word the same relevance to 1e-3 of the largest.
"""

from typing import NamedTuple
from unittest import mock

import torch
from transformers import MambaConfig
from transformers.models.mamba import modeling_mamba

from tests.benchmarks import measure
from tests.benchmarks.shapes import random_model
from tft_utils import models
from tft_utils.architectures import mamba_scan as scan
from tft_utils.reading import Asked
from tft_utils.techniques import relevance

THREADS = 1


class Size(NamedTuple):
    """The model and its prompt, the layers beside the loop, and how often each contender runs."""

    width: int = 768
    layers: int = 24
    few: int = 8
    pos: int = 256
    rounds: int = 5
    rounds_of_loop: int = 2


FULL = Size()
TOY = Size(width=16, layers=2, few=1, pos=8, rounds=1, rounds_of_loop=1)


def run(size: Size = FULL) -> dict[str, dict]:
    model, few = (
        random_model(MambaConfig(hidden_size=size.width, num_hidden_layers=layers))
        for layers in (size.layers, size.few)
    )
    ids = torch.randint(50_000, (1, size.pos), generator=torch.Generator().manual_seed(0))
    asked = Asked(ids, last=torch.tensor([size.pos - 1]), answers=torch.tensor([0]))
    passes = measure.fastest(
        {"explain": lambda: relevance.explain(model, asked), "forward": lambda: forward(model, asked)},
        rounds=size.rounds,
    )
    words = {}
    through = measure.fastest(
        {
            "ours": lambda: words.update(ours=relevance.explain(few, asked)),
            "loop": lambda: words.update(loop=explain_by_loop(few, asked)),
        },
        rounds=size.rounds_of_loop,
    )
    error = (words["ours"] - words["loop"]).abs().max() / words["loop"].abs().max()
    assert error < 1e-3, f"the explanations differ by {error}: a speed means nothing"
    return {
        "relevance: explanation vs forward pass, ours/theirs, at most 3": (
            measure.ours_by_theirs(passes["explain"], passes["forward"])
        ),
        f"relevance: explanation vs transformers' loop, {size.few} layers, theirs/ours, at least 10": (
            measure.theirs_by_ours(through["ours"], through["loop"])
        ),
    }


@torch.no_grad()
def forward(model: models.Model, asked: Asked) -> None:
    model.hf(asked.ids, use_cache=False, logits_to_keep=1)


def explain_by_loop(model: models.Model, asked: Asked) -> torch.Tensor:
    """The same rules, which get transformers' scan, outside a mixer its loop, where they call ours."""
    calls = 0

    def loop(*tensors, initial_state=None, **options):
        nonlocal calls
        calls += 1
        return modeling_mamba.mamba_selective_scan(*tensors, **options)

    with mock.patch.object(scan, "selective_scan", loop):
        words = relevance.explain(model, asked)
    assert calls == model.n_layers, f"{calls} scans were the loop's: a speed means nothing"
    return words
