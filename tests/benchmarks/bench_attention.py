"""Mamba's hidden attention at mamba-130m's layer shapes, against the published triple loop.

The loop is written from the formula (Ali et al. 2024): one product of decays for every query and
source. It gives every channel's matrix; what is plotted of them, there and here, is their mean over
channels. What lesson 02 draws instead, the contributions of sources, is measured for 32 queries: its
time beside that at a quarter of the length, its memory beside that of every channel's matrix. All
contenders run in this process, interleaved, on two threads; seconds are the minimum of the repeats.
Memory is what a call adds to the peak resident set of a fresh process.
"""

from typing import NamedTuple

import torch
from transformers import MambaConfig

from tests.benchmarks import measure
from tests.benchmarks.shapes import random_model
from tft_utils.architectures import mamba, recurrent
from tft_utils.techniques import attention

THREADS = 2
QUERIES = 32


class Size(NamedTuple):
    """The layer's width, a length for the loop, a long one, how often each contender runs, for how many
    seconds."""

    width: int = 768
    short: int = 64
    long: int = 1024
    rounds: int = 12
    least: float = 0.5


FULL, TOY = Size(), Size(width=16, short=6, long=48, rounds=1, least=0.0)


@torch.no_grad()
def run(size: Size = FULL) -> dict[str, dict]:
    short, quarter, long = (mixing(size, pos) for pos in (size.short, size.long // 4, size.long))
    by_loop = triple_loop(short.core)
    error = (short.weights("scan") - by_loop).abs().max() / by_loop.abs().max()
    assert error < 1e-5, f"the maps differ by {error} of the largest: a speed means nothing"
    times = measure.fastest(
        {
            "loop": lambda: triple_loop(short.core).mean(1),
            "mean": lambda: short.weights("scan").mean(1),
            "row": lambda: short.weights("scan", torch.tensor([size.short - 1])),
            "quarter": lambda: last_contributions(quarter),
            "long": lambda: last_contributions(long),
        },
        rounds=size.rounds,
        least=size.least,
    )
    channels = long.u.shape[-1]
    memory, every = measure.fresh(added_memory, size), size.long**2 * channels * 4 / 2**20  # MB
    what = f"{QUERIES} queries' contributions"
    return {
        f"attention: mean map at {size.short} vs loop, theirs/ours": (
            measure.theirs_by_ours(times["mean"], times["loop"])
        ),
        f"attention: one query of every channel at {size.short} vs loop, theirs/ours": (
            measure.theirs_by_ours(times["row"], times["loop"])
        ),
        f"attention: {what}, {size.long} vs {size.long // 4} words, ours/theirs": (
            measure.ours_by_theirs(times["long"], times["quarter"])
        ),
        f"attention: memory, {what} at {size.long} vs every channel, ours/theirs, at most 0.05": (
            measure.ours_by_theirs(memory, every, "MB")
        ),
    }


def mixing(size: Size, pos: int) -> recurrent.Mixing:
    """What a fresh Mamba layer does on random input."""
    model = random_model(MambaConfig(hidden_size=size.width, num_hidden_layers=1, vocab_size=2))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model.mixing(0, torch.randn(1, pos, size.width, generator=draw))


def triple_loop(m: mamba.Scan) -> torch.Tensor:
    """alpha [batch channel query source]: for each query and source, the decays between them."""
    decay = torch.exp(m.delta[..., None] * m.A)  # [batch pos channel n]
    written = m.delta[..., None] * m.B[:, :, None]
    batch, pos, channels = m.delta.shape
    alpha = m.delta.new_zeros(batch, channels, pos, pos)
    for t in range(pos):
        for s in range(t + 1):
            kept = m.delta.new_ones(batch, channels, m.A.shape[1])
            for k in range(s + 1, t + 1):
                kept = kept * decay[:, k]
            alpha[:, :, t, s] = (m.C[:, t, None] * kept * written[:, s]).sum(-1)
    return alpha


def last_contributions(m: recurrent.Mixing) -> torch.Tensor:
    """Of every source to the last queries [batch query source]."""
    return attention.contributions(m, torch.arange(m.u.shape[1])[-QUERIES:])


@torch.no_grad()
def added_memory(size: Size) -> float:
    """MB that the last queries' contributions at the long length add to the peak of this process."""
    long = mixing(size, size.long)
    last_contributions(mixing(size, 2))
    return measure.added_memory(lambda: last_contributions(long))
