"""Contrasts: texts of two sides, and the direction in a model that leads from one to the other.

Contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681), on recurrent models by Paulo
et al. (2024, arXiv 2404.05971, section 2). Let r_k be a word's residual stream after k blocks, and S_k
the state that block k carries to this word from the words before it. At the last words of texts,

    v_k = E[r_k | behaviour] - E[r_k | not]         s_k = E[S_k | behaviour] - E[S_k | not]

    found = directions(model, cued("refusal"))              # the behaviour's, and its controls
    found = directions(model, announced("refusal"))         # the same, read at the cue word itself

S is read only where it is compressed, that is, has one size at every length. `tft_utils.techniques.steering`
adds the directions to what a model computes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora.questions import Contrast

BATCH = 64  # texts that are read together


# ---- directions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direction:
    """What to add to a word's residual stream after k blocks, and to the states that reach it."""

    residual: Tensor  # [k d_model], k = 0 ... n_layers
    state: tuple[dict[str, Tensor], ...]  # per block: part -> [...]; parts of architecture.COMPRESSED


def directions(model, contrast: Contrast, relabel: bool = False) -> dict[str, Direction]:
    """The mean difference of a contrast and its controls, from one pass over the texts.

    'behaviour': as labelled. 'letters', if the texts go with letters: those that go with the first
    minus the others, whatever they say. relabel: also what `relabelled` names, for a contrast of cues.
    """
    texts = [*contrast.behaviour, *contrast.other]
    sizes = len(contrast.behaviour), len(contrast.other)
    sign = torch.tensor([1 / sizes[0]] * sizes[0] + [-1 / sizes[1]] * sizes[1])
    weights = {"behaviour": sign}
    if contrast.first:
        weights["letters"] = sign * (2.0 * torch.tensor(contrast.first).repeat(2) - 1)
    if relabel:
        weights |= relabelled(texts, contrast.cues)
    return weighted(model, texts, weights)


def relabelled(texts: Sequence[str], cues: Sequence[str]) -> dict[str, Tensor]:
    """Weights [text] under which the six cues, three of either side, change their labels.

    All texts of a cue change together: a label belongs to a cue, not to a question. Each cue counts
    alike. 'labels 0' ... 'labels 9': three cues against the other three. The first are the true labels;
    the others keep a third of them, or turn a third. 'cancelled 0' ... 'cancelled 17': one cue of either
    side against another of either, so nothing of the label is left. With their mirrors, the negatives,
    these are all 20 and all 36 ways.

    Errors: `ValueError` where there are not six cues, each in a text, and one in every text.
    """
    holds = torch.tensor([[float(cue in text.split()) for text in texts] for cue in cues])
    if len(cues) != 6 or not (holds.sum(0) == 1).all() or not holds.any(1).all():
        raise ValueError(
            f"expected six cues, each in some of the texts and one in every text, found "
            f"{', '.join(cues) or 'no cues'} in {len(texts)} texts; take more texts, or texts of cues"
        )
    means = holds / holds.sum(1, keepdim=True)
    ways = {
        "labels": [
            (three, set(cues) - set(three))
            for three in itertools.combinations(cues, 3)
            if three[0] == cues[0]
        ],
        "cancelled": [
            ((a, c), (b, d))
            for a, b in itertools.combinations(cues[:3], 2)
            for c, d in itertools.permutations(cues[3:], 2)
        ],
    }
    signs = {
        f"{name} {i}": torch.tensor([((cue in one) - (cue in two)) / len(one) for cue in cues])
        for name, found in ways.items()
        for i, (one, two) in enumerate(found)
    }
    return {name: sign @ means for name, sign in signs.items()}


@torch.no_grad()
def weighted(model, texts: Sequence[str], weights: dict[str, Tensor]) -> dict[str, Direction]:
    """Sums over texts, each with weights [text], of what a model holds at the last word of a text.

    One pass over the texts serves any number of contrasts.
    """
    w, names = (torch.stack(list(weights.values())).to(model.hf.device), model.architecture.COMPRESSED)
    order, sums = sorted(range(len(texts)), key=lambda i: len(texts[i])), None  # short with short
    for start in range(0, len(texts), BATCH):
        some = order[start : start + BATCH]
        ids, mask = tokenize(model, [texts[i] for i in some])
        part, cache = w[:, some], run(model, ids[:, :-1], mask[:, :-1])[0]
        read = [
            torch.tensordot(part, model.state(cache, layer)[name].to(part.dtype), 1)
            for layer in range(model.n_layers)
            for name in names
        ]
        with reading.caught(reading.depths(model), lambda out: out[:, -1]) as depths:
            run(model, ids[:, -1:], mask, cache)
        read.append(torch.stack([part @ r.to(part.dtype) for r in depths], 1))
        sums = read if sums is None else [a + b for a, b in zip(sums, read, strict=True)]
    *states, residual = sums
    return {
        label: Direction(
            residual[i],
            tuple(
                {name: states[layer * len(names) + j][i] for j, name in enumerate(names)}
                for layer in range(model.n_layers)
            ),
        )
        for i, label in enumerate(weights)
    }


# ---- reading texts up to a word ------------------------------------------------------------------


def tokenize(model, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """ids [text pos], padded on the left, and mask [text pos], 0 at padding."""
    found = model.tokenizer(list(texts)).input_ids
    ids = torch.zeros(len(found), max(map(len, found)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(found):
        ids[row, ids.shape[1] - len(tokens) :] = torch.tensor(tokens)
        mask[row, ids.shape[1] - len(tokens) :] = 1
    return ids.to(model.hf.device), mask.to(model.hf.device)


def run(model, ids: Tensor, mask: Tensor | None = None, cache=None):
    """Reads ids [text pos] on from a cache: (cache, the last word's logits [text vocab]).

    mask covers the words in the cache too. A recurrent model has no use for it after the first pass.
    """
    keyword = model.architecture.CACHE
    if mask is not None and (mask.all() or (cache is not None and model.architecture.COMPRESSED)):
        mask = None
    out = model.hf(ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **{keyword: cache})
    return out[keyword], out.logits[:, -1]
