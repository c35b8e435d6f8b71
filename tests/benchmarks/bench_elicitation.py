"""What reading one task and fitting every probe at every depth costs, on the bundled organisms.

Against the reference's loop over the same prompts: batch 1, three forwards each (the prompt, and one
more word for each answer, from a copy of the cache). The loop runs over few statements and its time
is scaled up; both must hold the same hidden states to 1e-5 of the largest.
"""

import copy
from typing import NamedTuple

import torch

from tests.benchmarks import measure
from tft_utils import models, reading
from tft_utils.corpora import statements
from tft_utils.techniques import elicitation, generalisation

THREADS, TASK = 2, "grammar"


class Size(NamedTuple):
    """Statements to train on, and as many to test on; how many of them the loop reads."""

    statements: int = 400
    looped: int = 12


FULL, TOY = Size(), Size(statements=16, looped=2)


def run(size: Size = FULL) -> dict[str, dict]:
    rows, n = {}, 2 * size.statements
    for name in models.PAIR:
        model = models.load(name)
        train, test = (
            statements.draw(TASK, size.statements, split=split) for split in ("validation", "test")
        )
        elicitation.extract(model, train[:8])  # kernels compile once
        loop(model, train[:2])
        read, (h, unseen) = measure.timed(read_both, model, train, test)
        probed, _ = measure.timed(probe_all, h, unseen)
        looped, by_loop = measure.timed(loop, model, train[: size.looped])
        for ours, theirs in zip((h.last, h.pair), by_loop, strict=True):
            error = ((ours[: len(theirs)] - theirs).abs().max() / theirs.abs().max()).item()
            assert error < 1e-5, f"{name}: hidden states differ by {error:.1e} of the largest"
        rows[f"elicitation: reading {n} statements of {name}, theirs/ours, at least 10"] = (
            measure.theirs_by_ours(read, looped * n / size.looped)
        )
        rows[f"elicitation: reading and all probes of {name}, ours/bar of 20 s, at most 1"] = (
            measure.ours_by_theirs(read + probed, 20.0)
        )
    return rows


def read_both(model, *drawn: list[statements.Statement]) -> list[elicitation.Hiddens]:
    return [elicitation.extract(model, some) for some in drawn]


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
