"""What reading one task and fitting every probe at every depth costs, on the bundled organisms.

Against the reference's loop over the same prompts: batch 1, three forwards each (the prompt, and one
more word for each answer, from a copy of the cache). The loop runs over LOOP statements and its time
is scaled up; both must hold the same hidden states to 1e-5 of the largest.
As a script it prints a table: python tests/benchmarks/bench_elicitation.py
"""

import copy
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tft_utils import models, reading  # noqa: E402 (so that it also runs as a script)
from tft_utils.corpora import statements  # noqa: E402 (so that it also runs as a script)
from tft_utils.techniques import elicitation, generalisation  # noqa: E402 (so that it also runs as a script)

STATEMENTS, LOOP, THREADS, TASK = 400, 12, 2, "grammar"  # STATEMENTS to train on and to test on


def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    found = {}
    for name in models.PAIR:
        model = models.load(name)
        train, test = (statements.draw(TASK, STATEMENTS, split=s) for s in ("validation", "test"))
        elicitation.extract(model, train[:8])  # kernels compile once
        loop(model, train[:2])
        start = time.perf_counter()
        h, unseen = elicitation.extract(model, train), elicitation.extract(model, test)
        read = time.perf_counter() - start
        probe_all(h, unseen)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        last, pair = loop(model, train[:LOOP])
        looped = (time.perf_counter() - start) * 2 * STATEMENTS / LOOP
        n = len(last)
        for mine, theirs in ((h.last[:n], last), (h.pair[:n], pair)):
            error = ((mine - theirs).abs().max() / theirs.abs().max()).item()
            assert error < 1e-5, f"{name}: hidden states differ by {error:.1e} of the largest"
        found[f"elicitation: reading {2 * STATEMENTS} statements of {name}, theirs/ours, at least 10"] = (
            row(read, looped, looped / read)
        )
        found[f"elicitation: reading and all probes of {name}, ours/bar of 20 s, at most 1"] = row(
            whole, 20.0, whole / 20
        )
    torch.set_num_threads(before)
    return found


def row(ours: float, theirs: float, ratio: float) -> dict:
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": "s"}


def probe_all(h: elicitation.Hiddens, unseen: elicitation.Hiddens) -> None:
    train = h.part("AE")
    for method in elicitation.METHODS:
        generalisation.auroc(elicitation.fit(method, train).score(unseen), unseen.truth)
    w = generalisation.random_directions(train, seed=0)
    generalisation.auroc(torch.einsum("nkd,rkd->rkn", unseen.last, w), unseen.truth)


@torch.no_grad()
def loop(model, some) -> tuple[torch.Tensor, torch.Tensor]:
    """last [item depth d_model] and pair [item 2 depth d_model], one prompt at a time."""
    hf, keyword = model.hf, model.architecture.CACHE
    choices = model.tokenizer.convert_tokens_to_ids(list(statements.CHOICES))
    last, pair = [], []
    with reading.caught(reading.depths(model), lambda out: out[:, -1]) as found:
        for text in statements.prompts(some):
            out = hf(model.tokenizer(text, return_tensors="pt").input_ids, use_cache=True)
            last.append(torch.stack(found, 1)[0])
            found.clear()
            for choice in choices:
                hf(torch.tensor([[choice]]), use_cache=True, **{keyword: copy.deepcopy(out[keyword])})
                pair.append(torch.stack(found, 1)[0])
                found.clear()
    return torch.stack(last), torch.stack(pair).unflatten(0, (-1, 2))


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:82s} {r['ours']:8.3f} {r['theirs']:8.3f} {r['ratio']:8.2f} {r['unit']}")
