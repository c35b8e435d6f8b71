"""Our selective scan inside a transformers Mamba, against transformers' fallback and mambapy.

All contenders run in this process, interleaved, minimum of the repeats. Memory is what one
forward+backward adds to the peak resident set of a fresh, warmed-up process. "plain" is our scan
without numba.
"""

from typing import NamedTuple
from unittest import mock

import torch
from transformers import MambaConfig, MambaForCausalLM

from tests.benchmarks import measure
from tft_utils.architectures import mamba_scan as scan

VOCAB, THREADS = 512, 2
KINDS = ("ours", "plain", "fallback")


class Size(NamedTuple):
    """The model, its texts (the long ones are eight times as long), and how often each contender runs,
    for how many seconds."""

    width: int = 128
    layers: int = 8
    batch: int = 8
    pos: int = 128
    rounds: int = 3
    least: float = 0.5


FULL, TOY = Size(), Size(width=16, layers=1, batch=2, pos=8, rounds=1, least=0.0)


def run(size: Size = FULL) -> dict[str, dict]:
    fallback, mambapy, ours = model(size), model(size, use_mambapy=True), model(size)
    handle = scan.install(ours)
    short, long = tokens(size, size.pos), tokens(size, 8 * size.pos)
    often = {"rounds": size.rounds, "least": size.least}
    train = measure.fastest(
        {
            "ours": lambda: train_step(ours, short),
            "plain": without_numba(lambda: train_step(ours, short)),
            "mambapy": lambda: train_step(mambapy, short),
            "fallback": lambda: train_step(fallback, short),
            "ours, long": lambda: train_step(ours, long),
            "plain, long": without_numba(lambda: train_step(ours, long)),
        },
        **often,
    )
    infer = measure.fastest(
        {
            "ours": lambda: forward(ours, short),
            "plain": without_numba(lambda: forward(ours, short)),
            "fallback": lambda: forward(fallback, short),
        },
        **often,
    )
    handle.remove()
    memory = {kind: measure.fresh(step_memory, kind, size) for kind in KINDS}

    rows = {}
    for kind, label in (("ours", "scan"), ("plain", "scan (plain)")):
        for name, times, theirs in (
            ("forward+backward vs fallback, theirs/ours, at least 20", train, "fallback"),
            ("forward+backward vs mambapy, theirs/ours, at least 2.5", train, "mambapy"),
            ("forward vs fallback, theirs/ours, at least 3", infer, "fallback"),
        ):
            rows[f"{label}: {name}"] = measure.theirs_by_ours(times[kind], times[theirs])
        name = f"{label}: peak memory vs fallback, ours/theirs, at most 0.33"
        rows[name] = measure.ours_by_theirs(memory[kind], memory["fallback"], "MB")
        name = f"{label}: {8 * size.pos} vs {size.pos} tokens, ours/theirs, at most 9"
        rows[name] = measure.ours_by_theirs(train[f"{kind}, long"], train[kind])
    return rows


def model(size: Size, **options):
    torch.manual_seed(0)
    shape = {"hidden_size": size.width, "num_hidden_layers": size.layers, "state_size": 16}
    return MambaForCausalLM(MambaConfig(vocab_size=VOCAB, **shape, **options)).eval()


def tokens(size: Size, pos: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (size.batch, pos), generator=torch.Generator().manual_seed(0))


def train_step(model, ids):
    model(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()


def forward(model, ids):
    with torch.no_grad():
        model(ids, use_cache=False)


def without_numba(work):
    def plain(*args):
        with mock.patch.object(scan, "kernels", None):
            work(*args)

    return plain


def step_memory(kind: str, size: Size) -> float:
    """MB that one forward+backward of a contender adds to the peak of this process."""
    contender = model(size)
    handle = None if kind == "fallback" else scan.install(contender)

    def step(pos: int) -> None:
        train_step(contender, tokens(size, pos))

    work = without_numba(step) if kind == "plain" else step
    work(2)
    added = measure.added_memory(lambda: work(size.pos))
    if handle:
        handle.remove()
    return added
