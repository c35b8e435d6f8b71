"""Contrasts: texts of two sides, and the direction in a model that leads from one to the other.

Contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681), on recurrent models by Paulo
et al. (2024, arXiv 2404.05971, section 2). Let r_k be a word's residual stream after k blocks, and S_k
the state that block k carries to this word from the words before it. At the last words of texts,

    v_k = E[r_k | behaviour] - E[r_k | not]         s_k = E[S_k | behaviour] - E[S_k | not]

    vectors = directions(model, cued("refusal"))            # the behaviour's, and its controls
    vectors = directions(model, announced("refusal"))       # the same, read at the cue word itself

S is read only where it is compressed, that is, has one size at every length. Texts that differ in their
last word alone, as those of `announced`, have the same S: its direction is zero. To add directions to
what a model computes: `tft_utils.techniques.steering`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora.questions import Contrast


@dataclass(frozen=True)
class Direction:
    """What to add to a word's residual stream after k blocks, and to the states that reach it."""

    residual: Tensor  # [k d_model], k = 0 ... n_layers
    state: tuple[dict[str, Tensor], ...]  # per block: compressed part -> [...]


def directions(model, contrast: Contrast, relabel: bool = False) -> dict[str, Direction]:
    """The mean difference of a contrast and its controls, from one pass over the texts.

    'behaviour': as labelled. 'letters', if the texts go with letters: those that go with the first
    minus the others, whatever they say. relabel: also what `relabelled` names, for a contrast of cues.
    """
    behaviour, other = ([side] if isinstance(side, str) else list(side) for side in contrast[:2])
    texts, sizes = behaviour + other, (len(behaviour), len(other))
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
        for name, splits in ways.items()
        for i, (one, two) in enumerate(splits)
    }
    return {name: sign @ means for name, sign in signs.items()}


@torch.no_grad()
def weighted(model, texts: Sequence[str], weights: dict[str, Tensor]) -> dict[str, Direction]:
    """Sums over texts, each with weights [text], of what a model holds at the last word of a text.

    One pass over the texts serves any number of contrasts. Sums are in float32 at least.
    """
    ids, mask = reading.tokens(model, texts, side="left")
    dtype = torch.promote_types(model.hf.dtype, torch.float32)
    w = torch.stack(list(weights.values())).to(ids.device, dtype)
    # Texts with the same words before their last one share their state, and so its weight: what
    # cancels is then zero, and not what rounding leaves of it.
    _, before = F.pad(ids[:, :-1], (0, 1)).unique(dim=0, return_inverse=True)
    shared = torch.zeros_like(w).index_add_(1, before, w)
    shared[shared.abs() < 1e-5 * w.abs().amax(1, keepdim=True)] = 0
    w_state = shared[:, before] / before.bincount()[before]
    places = [(layer, part) for layer in range(model.n_layers) for part in model.kind(layer).compressed]
    residual, states = 0, dict.fromkeys(places, 0)
    for some in reading.padded_alike(model, mask):
        start = ids.shape[1] - int(mask[some].sum(1).max())
        words, seen = ids[some, start:], mask[some, start:]
        if model.lacks("continuation"):  # it hands out no state, and has a stream all the same
            last = reading.streams(model, words)[:, :, -1].to(dtype)
            residual += torch.einsum("wt,ktd->wkd", w[:, some], last)
            continue
        cache = carried(model, words[:, :-1], seen[:, :-1])
        for layer, part in places:
            S = model.state(cache, layer)[part].to(dtype)
            states[layer, part] += torch.tensordot(w_state[:, some], S, 1)
        with reading.caught(reading.depths(model), lambda stream: stream[:, -1].to(dtype)) as r:
            reading.run(model, words[:, -1:], seen, cache)
        residual += torch.stack([w[:, some] @ at_depth for at_depth in r], 1)
    state = [
        {part: states[layer, part] for part in model.kind(layer).compressed}
        for layer in range(model.n_layers)
    ]
    return {
        label: Direction(residual[i], tuple({part: S[i] for part, S in of.items()} for of in state))
        for i, label in enumerate(weights)
    }


def carried(model, ids: Tensor, mask: Tensor | None = None):
    """The cache that ids [text pos] leave to the next word; mask: 0 at padding, on the left."""
    if not ids.shape[1]:
        raise ValueError("expected texts of two words or more, found one of one; take longer texts")
    return reading.run(model, ids, mask)[0]
