"""A full grid of residual patches on 32 fact prompts, against one nnsight trace per cell.

A cell is one prompt, one depth, one position: the unit in which published code patches. The second
contender batches the 32 prompts of a depth and a position into one trace. All numbers are of the
bundled organisms, on one thread; the grids must agree to 1e-5. Seconds are CPU time, the minimum of
the repeats for ours.
"""

import time
from typing import NamedTuple

import torch

from tests.benchmarks import measure
from tft_utils import models
from tft_utils.corpora import pairs as world_pairs
from tft_utils.techniques import patching

THREADS = 1


class Size(NamedTuple):
    """Prompts, and how often our grid runs."""

    prompts: int = 32
    rounds: int = 4


FULL, TOY = Size(), Size(prompts=1, rounds=1)


@torch.no_grad()
def run(size: Size = FULL) -> dict[str, dict]:
    rows = {}
    for name in models.PAIR:
        model = models.load(name)
        asked = patching.asked_of(model, world_pairs.fact_pairs(size.prompts, seed=1))
        ours, grid = min(
            (timed(patching.grid, model, asked) for _ in range(size.rounds)), key=lambda pair: pair[0]
        )
        for what, bar, contender in (
            ("one trace per cell", ", at least 10", by_cell),
            ("one trace per depth and position", "", by_batch),
        ):
            theirs, values = timed(contender, model, asked)
            error = (values - grid.values)[grid.values.isfinite()].abs().max()
            assert error < 1e-5, f"{name}: the grids differ by {error}: a speed means nothing"
            label = f"patching: {name}'s grid vs {what}, theirs/ours{bar}"
            rows[label] = measure.theirs_by_ours(ours, theirs, "s CPU")
    return rows


def timed(work, *args):
    return measure.timed(work, *args, clock=time.process_time)


def m_of(model, asked, ids):
    logits = model.hf(input_ids=ids, use_cache=False).logits
    return asked.score(logits[torch.arange(len(ids)), asked.last])


def normalised(model, asked, m):
    """m of each cell [depth pair pos] as effects; as `grid` does it, but for the depths together."""
    of_clean, of_corrupt = (m_of(model, asked, ids)[:, None] for ids in (asked.ids, asked.corrupt))
    return (m - of_corrupt) / (of_clean - of_corrupt)


def residuals(model, ids):
    with model.trace(ids, use_cache=False):
        streams = [model.residual(k) for k in range(model.n_layers + 1)]
        streams = torch.stack(streams).save()
    return streams


def by_cell(model, asked):
    clean = residuals(model, asked.ids)
    m = torch.zeros(clean.shape[:3])
    for i, last in enumerate(asked.last.tolist()):
        ids, one = asked.corrupt[i : i + 1, : last + 1], asked[torch.tensor([i])]
        for k in range(model.n_layers + 1):
            for at in range(last + 1):
                with model.trace(ids, use_cache=False):
                    model.residual(k)[:, at] = clean[k, i, at]
                    logits = model.logits[:, -1].save()
                m[k, i, at] = one.score(logits)[0]
    return normalised(model, asked, m)


def by_batch(model, asked):
    clean, rows = residuals(model, asked.ids), torch.arange(len(asked))
    m = torch.zeros(clean.shape[:3])
    for k in range(model.n_layers + 1):
        for at in range(asked.ids.shape[1]):
            with model.trace(asked.corrupt, use_cache=False):
                model.residual(k)[:, at] = clean[k, :, at]
                logits = model.logits[rows, asked.last].save()
            m[k, :, at] = asked.score(logits)
    return normalised(model, asked, m)
