"""Eliciting latent knowledge (ELK): probes that should say what a model knows, whatever it answers.

    h = extract(model, quirky.statements("addition", 600))     # one reading, every depth
    probe = fit("LR", h.part("AE"), seed=0)                    # alice, easy: labels can be trusted
    auroc(probe.score(h.part("BH")), h.part("BH").truth)       # bob, hard: [depth]

Mallen, Brumley, Kharchenko & Belrose (2023, arXiv 2312.01037); CCS is Burns, Ye, Klein & Steinhardt
(2022, arXiv 2212.03827). Symbols: h the residual stream [depth d_model] at the last word before the
answer; h0, h1 the same at the word of the answer, once `false` and once `true` (a contrast pair).

Every probe is one affine score per depth, fitted at all depths at once: score = w . x + b with
x = h, or x = (h0, h1) for the methods in PAIRED. Signs mean something: a score above 0 says `true`.
A probe learns from its training items alone, normalisation included.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from concept_erasure import LeaceFitter
from torch import Tensor

from tft_utils import quirky
from tft_utils.probes import discriminant, logistic
from tft_utils.stats import RESAMPLES, Estimate

PAIRED = ("LR on pair", "mean difference on pair", "CCS", "CRC")
METHODS = ("LR", "mean difference", "LDA", *PAIRED, "random")
UNSUPERVISED = ("CCS", "CRC")  # labels set only their scale and sign
EASY, HARD = 0.25, 0.75  # difficulty quantiles
DECAY = 1e-3  # of LR: mean cross-entropy + DECAY |w|^2
RESTARTS, STEPS, CCS_DECAY = 10, 60, 0.01
DIRECTIONS = 1000  # of the random control


# --------------------------------------------------------------------------------------------------
# One reading


@dataclass(frozen=True)
class Hiddens:
    """What a model holds while it answers; one item is a statement put to one character.

    Slices are made by `part`, so every probe and test set comes from one reading.
    """

    last: Tensor  # h [item depth d_model]
    pair: Tensor  # h0, h1 [item 2 depth d_model]
    log_odds: Tensor  # the model's own answer: logit(true) - logit(false) [item]
    bob: Tensor  # who was asked [item]
    truth: Tensor  # alice's label [item]
    rule: Tensor  # bob's label [item]
    quantile: Tensor  # of difficulty, among the statements read [item]
    about: Tensor  # a number for what the statement is about [item]: what an interval counts

    def __len__(self) -> int:
        return len(self.bob)

    @property
    def label(self) -> Tensor:
        """What the character who was asked should say [item]."""
        return torch.where(self.bob, self.rule, self.truth)

    def where(self, mask: Tensor) -> "Hiddens":
        """The items of a mask or of indices [item]."""
        return replace(self, **{f.name: getattr(self, f.name)[mask] for f in fields(self)})

    def part(self, name: str) -> "Hiddens":
        """'A' or 'B' for the character, then nothing, 'E' or 'H': the easy or the hard quarter."""
        if name not in ("A", "B", "AE", "AH", "BE", "BH"):
            raise ValueError(f"expected a part, one of A, B, AE, AH, BE, BH; found {name!r}")
        mask = self.bob if name[0] == "B" else ~self.bob
        if name[1:] == "E":
            mask = mask & (self.quantile <= EASY)
        if name[1:] == "H":
            mask = mask & (self.quantile >= HARD)
        return self.where(mask)

    def disagreements(self) -> "Hiddens":
        """The items where the two characters' labels differ."""
        return self.where(self.truth != self.rule)


@contextmanager
def _reading(model) -> Iterator[list[Tensor]]:
    """A list that holds the last word's residual stream [row d_model] at every depth of each run."""
    parts, found = model.architecture, []
    modules = [parts.embedding(model.hf), *parts.blocks(model.hf)]
    hooks = [module.register_forward_hook(lambda _, inputs, out: found.append(out[:, -1]))
             for module in modules]  # fmt: skip
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def extract(model, some: Sequence[quirky.Statement], rows: int = 128) -> Hiddens:
    """Reads each prompt once, and both answers from copies of its cache.

    The copies are rows of their own, so no answer sees the other one, whatever a model carries on.
    The last depth is what the final norm reads, before the norm.
    """
    hf, tokenizer, keyword = model.hf, model.tokenizer, model.architecture.CACHE
    choices = torch.tensor(tokenizer.convert_tokens_to_ids(list(quirky.CHOICES)), device=hf.device)
    texts, last = quirky.prompts(some), None
    log_odds = torch.zeros(len(texts))
    with _reading(model) as found:
        for part, ids in quirky.batches(tokenizer, texts, rows):
            out = hf(ids.to(hf.device), use_cache=True, logits_to_keep=1)
            asked = torch.stack(found, 1).float().cpu()
            found.clear()
            cache, both = out[keyword], choices.repeat(len(part))[:, None]
            cache.reorder_cache(torch.arange(len(part), device=hf.device).repeat_interleave(2))
            hf(both, use_cache=True, logits_to_keep=1, **{keyword: cache})
            said = torch.stack(found, 1).float().cpu().unflatten(0, (-1, 2))
            found.clear()
            if last is None:
                last = asked.new_zeros(len(texts), *asked.shape[1:])
                pair = said.new_zeros(len(texts), *said.shape[1:])
            last[part], pair[part] = asked, said
            false, true = out.logits[:, -1, choices].float().cpu().T
            log_odds[part] = true - false
    truth, rule = torch.tensor([[s.truth, s.rule] for s in some]).repeat_interleave(2, 0).T
    return Hiddens(
        last, pair, log_odds, bob=torch.arange(len(texts)) % 2 == 1, truth=truth, rule=rule,
        quantile=torch.tensor(quirky.quartiles(some)).repeat_interleave(2), about=_numbers(some),
    )  # fmt: skip


def _numbers(some: Sequence[quirky.Statement]) -> Tensor:
    """A number for what each item is about [item]."""
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(s.key, len(seen)) for s in some]).repeat_interleave(2)


# --------------------------------------------------------------------------------------------------
# Probes: x [item depth feature], y [item] -> w [depth feature], b [depth]


@dataclass(frozen=True)
class Probe:
    """An affine score per depth."""

    method: str
    w: Tensor  # [depth feature]
    b: Tensor  # [depth]

    def score(self, h: Hiddens) -> Tensor:
        """[depth item]; above 0 says `true`."""
        return torch.einsum("nkf,kf->kn", features(h, self.method), self.w) + self.b[:, None]


def features(h: Hiddens, method: str) -> Tensor:
    """What a method reads: h, or h0 and h1 side by side [item depth feature]."""
    return torch.cat((h.pair[:, 0], h.pair[:, 1]), -1) if method in PAIRED else h.last


def _means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the items labelled false, and of those labelled true: [depth feature] each."""
    return x[~y].mean(0), x[y].mean(0)


def mean_difference(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """w = (mu1 - mu0) / |mu1 - mu0|; b puts 0 half-way between the two means."""
    mu0, mu1 = _means(x, y)
    w = F.normalize(mu1 - mu0, dim=-1)
    return w, -(w * (mu0 + mu1)).sum(-1) / 2


def lda(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """w = S^-1 (mu1 - mu0), S the covariance within the classes, shrunk towards a sphere: with fewer
    items than features S alone has no inverse."""
    W, b = discriminant(x, y.long()[None], 2)  # [depth task class feature]
    return (W[:, 0, 1] - W[:, 0, 0]).to(x.dtype), (b[:, 0, 1] - b[:, 0, 0]).to(x.dtype)


def fit(method: str, h: Hiddens, seed: int = 0) -> Probe:
    """Fits a method at every depth to the labels of the characters who were asked.

    CCS and CRC see no label but for the scale and sign of their score (`_platt`). The seed starts
    CCS and draws the random directions. Errors: `ValueError` when a label does not occur.
    """
    if method not in METHODS[:-1]:
        raise ValueError(f"expected a method, one of {', '.join(METHODS[:-1])}; found {method!r}")
    y = h.label
    if y.all() or not y.any():
        raise ValueError(
            f"expected items with both labels to fit {method}, found {len(y)} items with "
            f"{int(y.sum())} true; take more statements"
        )
    if method == "CCS":
        w, b = ccs(h.pair, seed)
    elif method == "CRC":
        w, b = crc(h.pair)
    else:
        how = {"LR": logistic, "mean difference": mean_difference, "LDA": lda}
        w, b = how[method.removesuffix(" on pair")](features(h, method), y)
    probe = Probe(method, w, b)
    return _platt(probe, h) if method in UNSUPERVISED else probe


def _platt(probe: Probe, h: Hiddens) -> Probe:
    """Scale and bias of a score by logistic regression on it (Platt 1999): log-odds, rightly signed."""
    score = probe.score(h)
    spread = score.std(1).clamp(min=1e-12)
    scale, bias = logistic((score / spread[:, None]).T[..., None], h.label)
    scale = scale[:, 0] / spread
    return Probe(probe.method, probe.w * scale[:, None], probe.b * scale + bias)


# ---- contrast pairs without labels -------------------------------------------------------------


def leace(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Erases which answer was put (Belrose et al. 2023): a map per side A [2 depth d d], c [2 depth d].

    After A h + c, no linear classifier tells h0 from h1. The map is the same for both sides.
    """
    side = torch.tensor([0.0, 1.0]).repeat(len(pair))
    A, c = [], []
    for x in pair.flatten(0, 1).unbind(1):  # depths
        eraser = LeaceFitter.fit(x, side).eraser
        P = torch.eye(x.shape[1]) - eraser.proj_left @ eraser.proj_right
        A.append(P)
        c.append(eraser.bias - P @ eraser.bias)
    return torch.stack(A).expand(2, -1, -1, -1), torch.stack(c).expand(2, -1, -1)


def burns(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Each side centred, and divided by its features' mean root mean square deviation: A, c as above."""
    mean = pair.mean(0)
    spread = (pair - mean).square().mean(0).sqrt().mean(-1, keepdim=True).clamp(min=1e-12)
    A = torch.eye(pair.shape[-1]) / spread[..., None]
    return A, -mean / spread


NORMALISATIONS: dict[str, Callable] = {"leace": leace, "burns": burns}


def normalised(pair: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
    """Both sides through their maps [item 2 depth d_model]."""
    A, c = maps
    return torch.einsum("skij,nskj->nski", A, pair) + c


def on_pair(w: Tensor, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The score w . (A1 h1 + c1) - w . (A0 h0 + c0) as w [depth 2*d_model], b [depth] on (h0, h1)."""
    A, c = maps
    (w0, w1), (b0, b1) = torch.einsum("ki,skij->skj", w, A), (c * w).sum(-1)
    return torch.cat((-w0, w1), -1), b1 - b0


def ccs_loss(p0: Tensor, p1: Tensor) -> Tensor:
    """Consistency and confidence, over items [item ...]: mean (p0 - (1 - p1))^2 + mean min(p0, p1)^2.

    Burns et al. (2022), equations 1 and 2.
    """
    return (p0 - (1 - p1)).square().mean(0) + torch.minimum(p0, p1).square().mean(0)


def ccs(pair: Tensor, seed: int, normalisation: str = "leace") -> tuple[Tensor, Tensor]:
    """The best of RESTARTS minima of the loss at each depth, by one L-BFGS over all of them."""
    maps = NORMALISATIONS[normalisation](pair)
    x = normalised(pair, maps)
    size = x.square().mean((0, 1, 3), keepdim=True).sqrt().clamp(min=1e-12)  # one number a depth
    x = x / size
    depth, d = x.shape[2:]
    draw = torch.Generator().manual_seed(seed)
    w = F.normalize(torch.randn(depth, RESTARTS, d, generator=draw), dim=-1).requires_grad_()
    b = torch.zeros(depth, RESTARTS, requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=STEPS, line_search_fn="strong_wolfe")

    def losses() -> Tensor:
        p0, p1 = torch.sigmoid(torch.einsum("nskd,krd->snkr", x, w) + b)
        return ccs_loss(p0, p1)

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = losses().sum() + CCS_DECAY / 2 * w.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(closure)
    with torch.no_grad():
        best = losses().argmin(1)
        w = w[torch.arange(depth), best] / size[0, 0]
    return on_pair(w.detach(), maps)


def crc(pair: Tensor, normalisation: str = "leace") -> tuple[Tensor, Tensor]:
    """The first principal component of h1 - h0, with the answer erased (Burns et al. 2022, app. G)."""
    maps = NORMALISATIONS[normalisation](pair)
    x = normalised(pair, maps)
    difference = (x[:, 1] - x[:, 0]).transpose(0, 1)
    difference = difference - difference.mean(1, keepdim=True)
    w = torch.linalg.svd(difference, full_matrices=False).Vh[:, 0]
    return on_pair(w, maps)


# --------------------------------------------------------------------------------------------------
# What a score is worth


def auroc(score: Tensor, y: Tensor) -> Tensor:
    """The chance that a true item scores higher than a false one; ties count half. [... item] -> [...].

    Errors: `ValueError` when a label does not occur.
    """
    if y.all() or not y.any():
        raise ValueError(
            f"expected items with both labels for an AUROC, found {len(y)} items with "
            f"{int(y.sum())} true"
        )
    true, false = score[..., y].contiguous(), score[..., ~y].sort(-1).values
    below = torch.searchsorted(false, true) + torch.searchsorted(false, true, right=True)
    return below.double().mean(-1) / (2 * false.shape[-1])


def random_scores(train: Hiddens, test: Hiddens, seed: int) -> Tensor:
    """Scores along random directions [depth DIRECTIONS item], whose signs are set on the training
    items' own labels."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(train.last.shape[-1], DIRECTIONS, generator=draw)
    sign = torch.sign(auroc((train.last @ w).permute(1, 2, 0), train.label) - 0.5)
    return (test.last @ w).permute(1, 2, 0) * sign[..., None].to(test.last.dtype)


def earliest_informative(aurocs: Tensor) -> int:
    """The first depth that reaches 95 % of the best depth's AUROC above chance, in distribution.

    Where no depth is better than chance: the middle one.
    """
    gain = aurocs - 0.5
    if gain.max() <= 0:
        return len(aurocs) // 2
    return int((gain >= 0.95 * gain.max()).nonzero()[0])


@dataclass(frozen=True)
class Transfer:
    """A method trained on one part, tested near to it and far from it, with several probe seeds."""

    near: Tensor  # AUROC on the part like the training items, where the depth is chosen [seed depth]
    far: Tensor  # AUROC against the truth on the far part [seed depth]
    depths: tuple[int, ...]  # the earliest informative depth of each seed
    far_part: Hiddens
    score: Tensor  # on the far part, at those depths [seed item], or [direction item] at random

    @property
    def scored(self) -> "Scored":
        return Scored(self.score, self.far_part.truth, self.far_part.about)


def transfer(method: str, train: Hiddens, near: Hiddens, far: Hiddens, seeds: Sequence[int]) -> Transfer:
    """Trains on resampled items (one draw with replacement a seed) and tests near and far.

    The depth is chosen on `near` alone: nothing that is tested chooses.
    """
    nears, fars, scores, depths = [], [], [], []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        items = train.where(torch.randint(len(train), (len(train),), generator=draw))
        if method == "random":
            close, away = (random_scores(items, part, seed) for part in (near, far))
            nears.append(auroc(close, near.truth).mean(1))
            fars.append(auroc(away, far.truth).mean(1))
        else:
            probe = fit(method, items, seed)
            away = probe.score(far)
            nears.append(auroc(probe.score(near), near.truth))
            fars.append(auroc(away, far.truth))
        depths.append(earliest_informative(nears[-1]))
        scores.append(away[depths[-1]].view(-1, len(far)))
    return Transfer(torch.stack(nears), torch.stack(fars), tuple(depths), far, torch.cat(scores))


class Scored(NamedTuple):
    """Scores of one task's items; several rows of scores count as one, their mean AUROC."""

    score: Tensor  # [seed item]
    truth: Tensor  # [item]
    about: Tensor  # [item]: items about the same thing are drawn together


def mean_auroc(tasks: Sequence[Scored], seed: int) -> Estimate:
    """The AUROC's mean over seeds and tasks, with a 95 % interval over what the items are about."""
    value, draws = _resampled(tasks, seed)
    low, high = np.nanquantile(draws, (0.025, 0.975)).tolist()
    return Estimate(value, sum(len(task.truth) for task in tasks), low, high)


def auroc_difference(a: Sequence[Scored], b: Sequence[Scored], seed: int) -> Estimate:
    """`mean_auroc` of a minus that of b, on the same items, which are drawn for both together."""
    for one, other in zip(a, b, strict=True):
        if not (torch.equal(one.truth, other.truth) and torch.equal(one.about, other.about)):
            raise ValueError(
                "expected the same items on both sides, found others; extract both models on the same "
                "statements and take the same part"
            )
    (first, draws), (second, others) = (_resampled(each, seed) for each in (a, b))
    low, high = np.nanquantile(draws - others, (0.025, 0.975)).tolist()
    return Estimate(first - second, sum(len(task.truth) for task in a), low, high)


def _resampled(tasks: Sequence[Scored], seed: int) -> tuple[float, np.ndarray]:
    """The mean AUROC and its bootstrap draws [draw]: clusters are drawn within each task.

    A draw weights items by how often their cluster came up; the AUROC is then a weighted mean over
    pairs of a true and a false item.
    """
    rng, value, draws = np.random.default_rng(seed), 0.0, 0.0
    for score, truth, about in tasks:
        wins = score[:, truth, None] - score[:, None, ~truth]  # [seed true false]
        wins = ((wins > 0).double() + (wins == 0).double() / 2).mean(0).numpy()
        names, cluster = np.unique(about.numpy(), return_inverse=True)
        weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, cluster]
        true, false = weight[:, truth.numpy()], weight[:, ~truth.numpy()]
        value += wins.mean() / len(tasks)
        pairs = (true.sum(1) * false.sum(1)).astype(float)
        pairs[pairs == 0] = np.nan  # a draw without one of the labels has no AUROC: it does not count
        draws = draws + ((true @ wins) * false).sum(1) / pairs / len(tasks)
    return float(value), draws


def recovered_gap(probe: float, floor: float, ceiling: float) -> float:
    """The performance gap recovered: how far a probe gets from the floor to the ceiling.

    Errors: `ValueError` for a gap under 0.1: the ratio would be noise.
    """
    if ceiling - floor < 0.1:
        raise ValueError(
            f"expected a ceiling at least 0.1 above the floor, found {ceiling:.3f} and {floor:.3f}: "
            "there is no gap to recover; compare the AUROCs themselves"
        )
    return (probe - floor) / (ceiling - floor)


def anomaly(usual: Tensor, some: Tensor, diagonal: bool = False) -> Tensor:
    """How unlike the usual items some are: squared Mahalanobis distance [item].

    usual, some: a probe's scores [depth item]. diagonal: less the distance that ignores how depths
    go together, so that only broken relations between depths count.
    """
    mean = usual.mean(1, keepdim=True)
    covariance = torch.cov(usual.double())
    covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(usual))
    away = (some - mean).double()
    distance = (away * torch.linalg.solve(covariance, away)).sum(0)
    if diagonal:
        distance = distance - (away.square() / covariance.diagonal()[:, None]).sum(0)
    return distance
