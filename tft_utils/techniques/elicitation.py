"""Eliciting latent knowledge (ELK): probes that should say what a model knows, whatever it answers.

    h = extract(model, statements.draw("addition", 600))       # one reading, every depth
    probe = fit("LR", h.part("AE"), seed=0)                    # alice, easy: labels can be trusted
    auroc(probe.score(h.part("BH")), h.part("BH").truth)       # bob, hard: [depth]

Mallen, Brumley, Kharchenko & Belrose (2023, arXiv 2312.01037); CCS is Burns, Ye, Klein & Steinhardt
(2022, arXiv 2212.03827). Symbols: h the residual stream [depth d_model] at the last word before the
answer; h0, h1 the same at the word of the answer, once `false` and once `true` (a contrast pair).
What a score is worth (`auroc` and the rest) is in `tft_utils.techniques.generalisation`.

Every probe is one affine score per depth, fitted at all depths at once: score = w . x + b with
x = h, or x = (h0, h1) for the methods in PAIRED. Signs mean something: a score above 0 says `true`.
A probe learns from its training items alone, normalisation included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from concept_erasure import LeaceFitter
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora import statements
from tft_utils.corpora.corpus import corpus_of
from tft_utils.linear import discriminant, logistic

PARTS = ("A", "B", "AE", "AH", "BE", "BH")
EASY, HARD = 0.25, 0.75  # difficulty quantiles
PAIRED = ("LR on pair", "mean difference on pair", "CCS", "CRC")
METHODS = ("LR", "mean difference", "LDA", *PAIRED)
UNSUPERVISED = ("CCS", "CRC")  # labels set only their scale and sign
RESTARTS, CCS_DECAY = 10, 0.01
STEPS = 80  # ten times as many move the mean AUROC of the four tasks by 0.01


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
    quantile: Tensor  # of difficulty, among the statements that were given [item]
    about: Tensor  # a number for what the statement is about [item]: what an interval counts

    def __len__(self) -> int:
        return len(self.bob)

    @property
    def label(self) -> Tensor:
        """What the character who was asked should say [item]."""
        return torch.where(self.bob, self.rule, self.truth)

    @property
    def apart(self) -> Tensor:
        """Where the two characters' labels differ [item]."""
        return self.truth != self.rule

    def where(self, mask: Tensor) -> "Hiddens":
        """The items of a mask or of indices [item]."""
        return replace(self, **{f.name: getattr(self, f.name)[mask] for f in fields(self)})

    def part(self, name: str) -> "Hiddens":
        """'A' or 'B' for the character, then nothing, 'E' or 'H': the easy or the hard quarter."""
        return self.where(_belongs(name, self.bob, self.quantile))

    def at(self, depth: int) -> "Hiddens":
        """One depth alone, for what is not asked of every depth."""
        one = torch.tensor([depth])
        return replace(self, last=self.last[:, one], pair=self.pair[:, :, one])


def _belongs(part: str, bob: Tensor, quantile: Tensor) -> Tensor:
    """Which items belong to a part [item]."""
    if part not in PARTS:
        raise ValueError(f"expected a part, one of {', '.join(PARTS)}; found {part!r}")
    mask = bob if part[0] == "B" else ~bob
    if part[1:] == "E":
        mask = mask & (quantile <= EASY)
    if part[1:] == "H":
        mask = mask & (quantile >= HARD)
    return mask


@torch.no_grad()
def extract(
    model,
    some: Sequence[statements.Statement],
    parts: Sequence[str] = ("A", "B"),
    rows: int = 128,
    names: Sequence[str] = statements.CHARACTERS,
    last: bool | None = None,
) -> Hiddens:
    """Reads each prompt of the parts once, and both answers as one more word on from there.

    names: who stands where alice and bob do, such as a name that nobody told the model about.
    last: the name stands behind the statement, as in `Corpus.statement_prompts`.

    The answers are variants of one more word, so neither sees the other, whatever a model carries on.
    The last depth is what the final norm reads, before the norm. Easy and hard are quarters of all
    the statements with the same two labels, read or not.
    """
    bob = torch.arange(2 * len(some)) % 2 == 1
    quantile = torch.tensor(statements.quartiles(some)).repeat_interleave(2)
    truth, rule = torch.tensor([[s.truth, s.rule] for s in some]).repeat_interleave(2, 0).T
    wanted = torch.stack([_belongs(part, bob, quantile) for part in parts]).any(0)
    prompts = corpus_of(model).statement_prompts(some, names, last)
    texts = [text for text, read in zip(prompts, wanted, strict=True) if read]
    if not texts:
        raise ValueError(f"expected statements in {', '.join(parts)}, found none; take more of them")
    last, pair, log_odds = _read(model, texts, rows)
    labels = (each[wanted] for each in (bob, truth, rule, quantile, _numbers(some)))
    return Hiddens(last, pair, log_odds, *labels)


def _read(model, texts: Sequence[str], rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """last [item depth d_model], pair [item 2 depth d_model] and log-odds [item] of prompts."""
    choices = reading.token_ids(model, corpus_of(model).choices)
    order, values = [], []
    for part, ids in reading.of_one_length(model, texts, rows):
        order += part
        last, pair, logits = _answered(model, ids, choices)
        false, true = logits[:, choices].T
        values.append([each.float().cpu() for each in (last, pair, true - false)])
    back = torch.tensor(order).argsort()
    return tuple(torch.cat(each)[back] for each in zip(*values, strict=True))


def _answered(model, ids: Tensor, choices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The stream at the last word [item depth d_model] and at both answers [item 2 depth d_model], and
    the logits between them [item vocab]."""

    def at_last(ids: Tensor) -> Tensor:
        return reading.streams(model, ids)[:, :, -1].transpose(0, 1)

    if model.lacks("continuation"):  # each answer is read with all that is before it
        last = at_last(ids)
        rows = (torch.cat((ids, choice.expand(len(ids), 1)), 1) for choice in choices)
        return last, torch.stack([at_last(row) for row in rows], 1), model.to_logits(last[:, -1])
    with reading.caught(reading.depths(model), lambda out: out[:, -1]) as streams:
        cache, logits = reading.run(model, ids)
    x = [model.embed(choices)[None, :, None].expand(len(ids), -1, -1, -1)]
    for layer in range(model.n_layers):
        past = {name: carried[:, None] for name, carried in model.state(cache, layer).items()}
        x.append(model.block(layer, x[-1], past=past | {"mask": torch.ones_like(ids)}))
    return torch.stack(streams, 1), torch.stack(x, 2)[..., 0, :], logits


def _numbers(some: Sequence[statements.Statement]) -> Tensor:
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


def lr(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression with a ridge (`logistic`). The best w is a mix of the items, so where they
    are fewer than the features it is sought among their mixes: the same w for less."""
    if len(x) >= x.shape[-1]:
        return logistic(x, y)
    wide = x.double()
    Q = torch.linalg.qr((wide - wide.mean(0)).permute(1, 2, 0)).Q  # [depth feature item]
    w, b = logistic(torch.einsum("nkd,kdm->nkm", wide, Q), y)
    return (Q @ w[..., None])[..., 0].to(x.dtype), b.to(x.dtype)


def mean_difference(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """w = (mu1 - mu0) / |mu1 - mu0|; b puts 0 half-way between the two means."""
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
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
    CCS. Errors: `ValueError` when a label does not occur.
    """
    if method not in METHODS:
        raise ValueError(f"expected a method, one of {', '.join(METHODS)}; found {method!r}")
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
        how = {"LR": lr, "mean difference": mean_difference, "LDA": lda}
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


def ccs(pair: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The best of RESTARTS minima of the loss at each depth, by one L-BFGS over all of them."""
    maps = leace(pair)
    x = normalised(pair, maps)
    size = x.square().mean((0, 1, 3), keepdim=True).sqrt().clamp(min=1e-12)  # one number a depth
    x = x / size
    rows = x.permute(2, 1, 0, 3).flatten(1, 2)  # [depth answer*item d]
    depth, _, d = rows.shape
    draw = torch.Generator().manual_seed(seed)
    w = F.normalize(torch.randn(depth, RESTARTS, d, generator=draw), dim=-1).requires_grad_()
    b = torch.zeros(depth, RESTARTS, requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def losses() -> Tensor:
        p = torch.sigmoid(w @ rows.mT + b[..., None]).unflatten(-1, (2, -1))
        return ccs_loss(*p.permute(2, 3, 0, 1))  # each probability [item depth restart]

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


def crc(pair: Tensor) -> tuple[Tensor, Tensor]:
    """The first principal component of h1 - h0, with the answer erased (Burns et al. 2022, app. G)."""
    maps = leace(pair)
    x = normalised(pair, maps)
    difference = (x[:, 1] - x[:, 0]).transpose(0, 1)
    difference = difference - difference.mean(1, keepdim=True)
    w = torch.linalg.svd(difference, full_matrices=False).Vh[:, 0]
    return on_pair(w, maps)
