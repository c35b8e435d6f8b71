"""A full grid of residual patches on 32 fact prompts, against one nnsight trace per cell.

A cell is one prompt, one depth, one position: the unit in which published code patches. The second
contender batches the 32 prompts of a depth and a position into one trace. All numbers are of the
bundled organisms, on one thread; the grids must agree to 1e-5. Seconds are CPU time, the minimum of
the repeats for ours. As a script it prints a table: python tests/benchmarks/bench_patching.py
"""

import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tft_utils import models  # noqa: E402 (after the path, to run as a script)
from tft_utils.corpora import pairs as world_pairs  # noqa: E402 (after the path, to run as a script)
from tft_utils.techniques import patching  # noqa: E402 (after the path, to run as a script)

PROMPTS = 32


@torch.no_grad()
def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {}
    for name in models.PAIR:
        model = models.load(name)
        asked = patching.ask(model, world_pairs.fact_pairs(PROMPTS, seed=1))
        ours = min(timed(lambda m=model, a=asked: patching.grid(m, a))[0] for _ in range(4))
        found = patching.grid(model, asked).values
        for what, bar, contender in (
            ("one trace per cell", ", at least 10", by_cell),
            ("one trace per depth and position", "", by_batch),
        ):
            seconds, values = timed(lambda m=model, a=asked, c=contender: c(m, a))
            error = (values - found)[found.isfinite()].abs().max()
            assert error < 1e-5, f"{name}: the grids differ by {error}: a speed means nothing"
            rows[f"patching: {name}'s grid vs {what}, theirs/ours{bar}"] = {
                "ours": ours,
                "theirs": seconds,
                "ratio": seconds / ours,
                "unit": "s CPU",
            }
    torch.set_num_threads(before)
    return rows


def timed(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def m_of(model, asked, ids):
    logits = model.hf(input_ids=ids, use_cache=False).logits
    return asked.difference(logits[torch.arange(len(ids)), asked.last])


def normalised(model, asked, m):
    """m of each cell [depth pair pos] as effects; as `grid` does it, but for the depths together."""
    of_clean, of_corrupt = (m_of(model, asked, ids)[:, None] for ids in (asked.clean, asked.corrupt))
    return (m - of_corrupt) / (of_clean - of_corrupt)


def residuals(model, ids):
    with model.trace(ids, use_cache=False):
        found = [model.residual(k) for k in range(model.n_layers + 1)]
        found = torch.stack(found).save()
    return found


def by_cell(model, asked):
    clean = residuals(model, asked.clean)
    m = torch.zeros(clean.shape[:3])
    for i, last in enumerate(asked.last.tolist()):
        ids, one = asked.corrupt[i : i + 1, : last + 1], asked[torch.tensor([i])]
        for k in range(model.n_layers + 1):
            for at in range(last + 1):
                with model.trace(ids, use_cache=False):
                    model.residual(k)[:, at] = clean[k, i, at]
                    logits = model.logits[:, -1].save()
                m[k, i, at] = one.difference(logits)[0]
    return normalised(model, asked, m)


def by_batch(model, asked):
    clean, rows = residuals(model, asked.clean), torch.arange(len(asked))
    m = torch.zeros(clean.shape[:3])
    for k in range(model.n_layers + 1):
        for at in range(asked.clean.shape[1]):
            with model.trace(asked.corrupt, use_cache=False):
                model.residual(k)[:, at] = clean[k, :, at]
                logits = model.logits[rows, asked.last].save()
            m[k, :, at] = asked.difference(logits)
    return normalised(model, asked, m)


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:80s} {r['ours']:9.4f} {r['theirs']:9.4f} {r['ratio']:8.3f} {r['unit']}")
