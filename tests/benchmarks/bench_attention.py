"""Mamba's hidden attention at mamba-130m's layer shapes, against the published triple loop.

The loop is written from the formula (Ali et al. 2024): one product of decays for every query and
source. It gives every channel's matrix; what is plotted of them, there and here, is their mean over
channels, which `Mixing.summed` makes without building any. All contenders run in this process,
interleaved, on two threads; seconds are the minimum of the repeats. Memory is what one map adds to
the peak resident set of a fresh process.
"""

from typing import NamedTuple

import torch

from tests.benchmarks import measure
from tft_utils.architectures.mamba import Mixing
from tft_utils.techniques import attention

THREADS = 2


class Size(NamedTuple):
    """A layer's shape, three lengths in words, how often each contender runs, for how many seconds."""

    d_inner: int = 1536
    d_state: int = 16
    d_model: int = 768
    short: int = 64
    middle: int = 256
    long: int = 1024
    rounds: int = 12
    least: float = 0.5


FULL = Size()
TOY = Size(d_inner=16, d_state=4, d_model=8, short=6, middle=12, long=24, rounds=1, least=0.0)


@torch.no_grad()
def run(size: Size = FULL) -> dict[str, dict]:
    short, middle, long = (mixing(size, pos) for pos in (size.short, size.middle, size.long))
    by_loop = triple_loop(short)
    error = (mean_map(short) - by_loop.mean(1)).abs().max() / by_loop.mean(1).abs().max()
    assert error < 1e-5, f"the maps differ by {error}: a speed means nothing"
    assert torch.allclose(short.weights("scan"), by_loop, rtol=1e-4, atol=1e-6)
    times = measure.fastest(
        {
            "loop": lambda: triple_loop(short).mean(1),
            "mean": lambda: mean_map(short),
            "every": lambda: short.weights("scan"),
            "row": lambda: short.weights("scan", torch.tensor([size.short - 1])),
            "mean, middle": lambda: mean_map(middle),
            "mean, long": lambda: mean_map(long),
        },
        rounds=size.rounds,
        least=size.least,
    )
    rows = {
        f"attention: mean map at {size.short} vs loop, theirs/ours, at least 100": (
            measure.theirs_by_ours(times["mean"], times["loop"])
        ),
        f"attention: every channel's matrix at {size.short} vs loop, theirs/ours": (
            measure.theirs_by_ours(times["every"], times["loop"])
        ),
        f"attention: one query of every channel at {size.short} vs loop, theirs/ours": (
            measure.theirs_by_ours(times["row"], times["loop"])
        ),
        f"attention: mean map, {size.long} vs {size.middle} words, ours/theirs, at most 20": (
            measure.ours_by_theirs(times["mean, long"], times["mean, middle"])
        ),
    }
    every = size.long**2 * size.d_inner * 4 / 2**20  # MB of all channels' matrices
    for kind in WORK:
        name = f"attention: memory, {kind} at {size.long} vs every channel, ours/theirs, at most 0.05"
        rows[name] = measure.ours_by_theirs(measure.fresh(memory, kind, size), every, "MB")
    return rows


def mixing(size: Size, pos: int) -> Mixing:
    """A random layer whose step sizes and decay rates are spread as in a fresh Mamba."""
    draw = torch.Generator().manual_seed(0)
    d_inner, d_state = size.d_inner, size.d_state

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    per_position = {name: normal(1, pos, d_inner) for name in ("x", "u", "sigma", "gate")}
    return Mixing(
        **per_position,
        delta=0.001 * 100 ** torch.rand(1, pos, d_inner, generator=draw),
        A=-torch.arange(1.0, d_state + 1).repeat(d_inner, 1),
        B=normal(1, pos, d_state),
        C=normal(1, pos, d_state),
        D=normal(d_inner),
        taps=normal(4, d_inner),
        conv_bias=normal(d_inner),
        projection=normal(d_inner, 1, size.d_model),
        bias=normal(size.d_model),
    )


def triple_loop(m: Mixing):
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


def mean_map(m: Mixing):
    """The mean over channels of alpha [batch query source]."""
    ones = torch.ones_like(m.delta)
    return m.summed(ones, ones) / m.delta.shape[-1]


WORK = {
    "mean map": mean_map,
    "32 queries' contributions": lambda m: attention.contributions(
        m, torch.arange(m.delta.shape[1])[-32:]
    ),
}


@torch.no_grad()
def memory(kind: str, size: Size) -> float:
    """MB that one map of the long text adds to the peak of this process."""
    m = mixing(size, size.long)
    mean_map(mixing(size, 2))
    return measure.added_memory(lambda: WORK[kind](m))
