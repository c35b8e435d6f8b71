"""What a probe's score is worth where its labels do not reach: from alice's easy to bob's hard items.

    run = transfer("LR", train.part("AE"), test.part("AE"), test.part("BH"), seeds=(0, 1, 2))
    mean_auroc([run.scored(run.far.apart)], seed=0)     # where the two characters' labels differ

Mallen, Brumley, Kharchenko & Belrose (2023, arXiv 2312.01037): the earliest informative depth, the
performance gap recovered. Scores come from the probes of `tft_utils.techniques.elicitation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tft_utils.stats import RESAMPLES, Estimate, drawn
from tft_utils.techniques.elicitation import Hiddens, features, fit

DIRECTIONS = 400  # of the random control


def auroc(score: Tensor, y: Tensor) -> Tensor:
    """The chance that a true item scores higher than a false one; ties count half. [... item] -> [...].

    Errors: `ValueError` when a label does not occur.
    """
    if y.all() or not y.any():
        raise ValueError(
            f"expected items with both labels for an AUROC, found {len(y)} items with {int(y.sum())} true"
        )
    true, false = score[..., y].contiguous(), score[..., ~y].sort(-1).values.contiguous()
    below = torch.searchsorted(false, true) + torch.searchsorted(false, true, right=True)
    return below.double().mean(-1) / (2 * false.shape[-1])


def random_directions(train: Hiddens, seed: int, method: str = "LR") -> Tensor:
    """Random directions [direction depth feature] in what a method reads, each turned so that it ranks
    the training items' own labels rather right than wrong."""
    draw, x = torch.Generator().manual_seed(seed), features(train, method)
    w = torch.randn(DIRECTIONS, x.shape[-1], generator=draw)
    sign = torch.sign(auroc(torch.einsum("nkd,rd->rkn", x, w), train.label) - 0.5)
    return w[:, None] * sign[..., None].to(w.dtype)


def earliest_informative(aurocs: Tensor) -> Tensor:
    """The first depth that reaches 95 % of the best depth's AUROC above chance, in distribution
    [... depth] -> [...]. Where no depth is better than chance: the middle one.
    """
    gain = aurocs - 0.5
    best = gain.amax(-1, keepdim=True)
    first = (gain >= 0.95 * best).int().argmax(-1)
    return torch.where(best[..., 0] > 0, first, aurocs.shape[-1] // 2)


class Scored(NamedTuple):
    """Scores of one task's items; several rows of scores count as one, their mean AUROC."""

    score: Tensor  # [row item]
    truth: Tensor  # [item]
    about: Tensor  # [item]: items about the same thing are drawn together
    weight: float = 1.0  # in a mean: a half where a task's items are compared in two groups


@dataclass(frozen=True)
class Transfer:
    """A method trained on one part, tested near to it and far from it, with several probe seeds."""

    near: Tensor  # AUROC on the part like the training items, where the depth is chosen [seed depth]
    depths: tuple[int, ...]  # the earliest informative depth of each seed
    far: Hiddens
    score: Tensor  # on the far part [seed depth item]

    def by_depth(self, mask: Tensor) -> Tensor:
        """AUROC against the truth on the far items of a mask [seed depth]."""
        return auroc(self.score[..., mask], self.far.truth[mask])

    def scored(self, mask: Tensor) -> Scored:
        """The far items of a mask at the chosen depths: a row of scores per seed."""
        rows = [score[depth] for score, depth in zip(self.score, self.depths, strict=True)]
        return Scored(torch.stack(rows)[:, mask], self.far.truth[mask], self.far.about[mask])


def transfer(method: str, train: Hiddens, near: Hiddens, far: Hiddens, seeds: Sequence[int]) -> Transfer:
    """Trains one of `elicitation.METHODS` on resampled items (one draw with replacement a seed) and
    tests near and far. The depth is chosen on `near` alone: nothing that is tested chooses.
    """
    nears, scores = [], []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        items = train.where(torch.randint(len(train), (len(train),), generator=draw))
        probe = fit(method, items, seed)
        nears.append(auroc(probe.score(near), near.truth))
        scores.append(probe.score(far))
    depths = tuple(int(earliest_informative(each)) for each in nears)
    return Transfer(torch.stack(nears), depths, far, torch.stack(scores))


def by_chance(method: str, train: Hiddens, near: Hiddens, far: Hiddens, seed: int) -> Tensor:
    """Scores on the far part [direction item] of random directions in what a method reads. Each is
    turned on the training items and read at its own earliest informative depth, as a probe is."""
    w = random_directions(train, seed, method)
    close, away = (torch.einsum("nkd,rkd->rkn", features(part, method), w) for part in (near, far))
    depths = earliest_informative(auroc(close, near.truth))
    return away[torch.arange(len(away)), depths]


def spread(aurocs: Tensor) -> Estimate:
    """The mean of random directions' AUROCs [direction], and the range of the middle 95 % of them."""
    low, high = aurocs.quantile(torch.tensor([0.025, 0.975], dtype=aurocs.dtype)).tolist()
    return Estimate(float(aurocs.mean()), len(aurocs), low, high)


def mean_auroc(tasks: Sequence[Scored], seed: int) -> Estimate:
    """The AUROC's mean over seeds and tasks, with a 95 % interval over what the items are about.

    Clusters are drawn within each task. A draw weights items by how often their cluster came up; the
    AUROC is then a weighted mean over pairs of a true and a false item.
    """
    value, draws, whole = 0.0, 0.0, sum(task.weight for task in tasks)
    for task, (score, truth, about, share) in enumerate(tasks):
        wins = score[:, truth, None] - score[:, None, ~truth]  # [row true false]
        wins = ((wins > 0).double() + (wins == 0).double() / 2).mean(0).numpy()
        names, cluster = np.unique(about.numpy(), return_inverse=True)
        weight = drawn(len(names), RESAMPLES, (seed, task))[:, cluster]
        true, false = weight[:, truth.numpy()], weight[:, ~truth.numpy()]
        value += wins.mean() * share / whole
        pairs = (true.sum(1) * false.sum(1)).astype(float)
        pairs[pairs == 0] = np.nan  # a draw without one of the labels has no AUROC: it does not count
        draws = draws + ((true @ wins) * false).sum(1) / pairs * share / whole
    low, high = np.nanquantile(draws, (0.025, 0.975)).tolist()
    return Estimate(float(value), sum(len(task.truth) for task in tasks), low, high)
