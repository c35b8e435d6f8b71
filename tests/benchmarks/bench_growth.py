"""How work grows with the length of a text: an explanation, a lens step, a grid, for every architecture.

An untrained organism of each reads random words. An explanation is LRP of the last word; a lens step the
streams of a text and the gradients of KL(model || lens) at every depth; a grid the residual patches of
every depth at a few positions. Ratios are to the shortest text: those of linear work are the lengths'.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from tests.benchmarks import measure
from tft_utils import models, reading
from tft_utils.organisms import training
from tft_utils.organisms.evaluation import tokenizer
from tft_utils.techniques import lenses, patching, relevance

THREADS = 1
ORGANISMS = {training.ORGANISMS[name]["model_type"]: name for name in reversed(training.ORGANISMS)}


class Size(NamedTuple):
    """Words of a text, patched positions, how often each work runs, and how many architectures do it."""

    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    positions: int = 2
    rounds: int = 2
    architectures: int = len(ORGANISMS)


FULL, TOY = Size(), Size(lengths=(6, 9), positions=1, rounds=1, architectures=2)


def run(size: Size = FULL) -> dict[str, dict]:
    rows = {}
    for name in list(ORGANISMS.values())[::-1][: size.architectures]:
        model = models.Model(training.build(name, 0).eval(), tokenizer())
        for what, work in WORK.items():
            seconds = measure.fastest(
                {str(n): work(model, asked_of(model, n), size) for n in size.lengths}, size.rounds
            )
            shortest, *longer = size.lengths
            for n in longer:
                rows[f"{name}: {what}, {n} words/{shortest}, {n / shortest:g} is linear"] = (
                    measure.ours_by_theirs(seconds[str(n)], seconds[str(shortest)])
                )
    return rows


def asked_of(model, words: int) -> reading.Asked:
    """One random text, and another that differs in its first word."""
    ids = torch.randint(
        3, model.config.vocab_size, (1, words), generator=torch.Generator().manual_seed(0)
    )
    corrupt = torch.cat([3 + (ids[:, :1] + 1) % 700, ids[:, 1:]], 1)
    answers, foils = torch.tensor([[3], [4]])
    return reading.Asked(ids, torch.tensor([words - 1]), answers, foils, corrupt)


def explanation(model, asked: reading.Asked, size: Size) -> Callable:
    return lambda: relevance.explain(model, asked)


def lens_step(model, asked: reading.Asked, size: Size) -> Callable:
    lens = lenses.logit_lens(model)
    A, b = (tensor.clone().requires_grad_() for tensor in (lens.A, lens.b))

    def step() -> None:
        states = reading.streams(model, asked.ids)[:, 0]
        lenses.divergence(model, lenses.Lens(A, b), states).sum().backward()

    return step


def grid(model, asked: reading.Asked, size: Size) -> Callable:
    where = torch.zeros_like(asked.ids, dtype=torch.bool)
    where[:, : size.positions] = True
    return lambda: patching.grid(model, asked, where=where)


WORK = {"explanation": explanation, "lens step": lens_step, "grid": grid}
