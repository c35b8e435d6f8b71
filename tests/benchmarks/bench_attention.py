"""Mamba's hidden attention at mamba-130m's layer shapes, against the published triple loop.

The loop is written from the formula (Ali et al. 2024): one product of decays for every query and
source. It gives every channel's matrix; what is plotted of them, there and here, is their mean over
channels, which `Mixing.summed` makes without building any. All contenders run in this process,
interleaved, on two threads; seconds are the minimum of the repeats. Memory is what one map adds to
the peak resident set of a fresh process. As a script it prints a table:
python tests/benchmarks/bench_attention.py
"""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import added_memory, fastest  # noqa: E402
from tft_utils.architectures.mamba import Mixing  # noqa: E402
from tft_utils.techniques import attention  # noqa: E402 (after the path, so that it also runs as a script)

D_INNER, D_STATE, D_MODEL, THREADS = 1536, 16, 768, 2
SHORT, MIDDLE, LONG = 64, 256, 1024


@torch.no_grad()
def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    short, middle, long = (mixing(pos) for pos in (SHORT, MIDDLE, LONG))
    by_loop = triple_loop(short)
    error = (mean_map(short) - by_loop.mean(1)).abs().max() / by_loop.mean(1).abs().max()
    assert error < 1e-5, f"the maps differ by {error}: a speed means nothing"
    assert torch.allclose(short.weights("scan"), by_loop, rtol=1e-4, atol=1e-6)
    times = fastest(
        {
            "loop": lambda: triple_loop(short).mean(1),
            "mean": lambda: mean_map(short),
            "every": lambda: short.weights("scan"),
            "row": lambda: short.weights("scan", torch.tensor([SHORT - 1])),
            "mean, middle": lambda: mean_map(middle),
            "mean, long": lambda: mean_map(long),
        },
        rounds=12,
        least=0.5,
    )
    torch.set_num_threads(before)
    every = LONG**2 * D_INNER * 4 / 2**20  # MB of all channels' matrices
    memory = {kind: peak_memory(kind) for kind in WORK}
    rows = {
        f"attention: mean map at {SHORT} vs loop, theirs/ours, at least 100": row(
            times["mean"], times["loop"], times["loop"] / times["mean"], "s"
        ),
        f"attention: every channel's matrix at {SHORT} vs loop, theirs/ours": row(
            times["every"], times["loop"], times["loop"] / times["every"], "s"
        ),
        f"attention: one query of every channel at {SHORT} vs loop, theirs/ours": row(
            times["row"], times["loop"], times["loop"] / times["row"], "s"
        ),
        f"attention: mean map, {LONG} vs {MIDDLE} words, ours/theirs, at most 20": row(
            times["mean, long"], times["mean, middle"], times["mean, long"] / times["mean, middle"], "s"
        ),
    }
    for kind, used in memory.items():
        name = f"attention: memory, {kind} at {LONG} vs every channel, ours/theirs, at most 0.05"
        rows[name] = row(used, every, used / every, "MB")
    return rows


def row(ours, theirs, ratio, unit):
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit}


def mixing(pos: int) -> Mixing:
    """A random layer whose step sizes and decay rates are spread as in a fresh Mamba."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    per_position = {name: normal(1, pos, D_INNER) for name in ("x", "u", "sigma", "gate")}
    return Mixing(
        **per_position,
        delta=0.001 * 100 ** torch.rand(1, pos, D_INNER, generator=draw),
        A=-torch.arange(1.0, D_STATE + 1).repeat(D_INNER, 1),
        B=normal(1, pos, D_STATE),
        C=normal(1, pos, D_STATE),
        D=normal(D_INNER),
        taps=normal(4, D_INNER),
        conv_bias=normal(D_INNER),
        projection=normal(D_INNER, 1, D_MODEL),
        bias=normal(D_MODEL),
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
    "32 queries' contributions": lambda m: attention.contributions(m, torch.arange(LONG)[-32:]),
}


def peak_memory(kind):
    """MB that one map of LONG words adds to the peak of a fresh process; Linux only."""
    command = [sys.executable, __file__, "--memory", kind]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@torch.no_grad()
def print_memory(kind):
    torch.set_num_threads(THREADS)
    m = mixing(LONG)
    mean_map(mixing(2))
    print(added_memory(lambda: WORK[kind](m)))


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print_memory(sys.argv[-1])
    else:
        for name, r in run().items():
            print(f"{name:80s} {r['ours']:9.4f} {r['theirs']:9.4f} {r['ratio']:8.3f} {r['unit']}")
