"""Lesson 06, latent_knowledge: a probe with a threshold, the CCS loss, and an unusual computation."""

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def mean_difference(x, y):
    """w [d], b: a probe from activations x [item d] and labels y [item]; w . x + b > 0 says true.

    w has length 1 and points from the mean of the false items to that of the true ones; b puts 0
    half-way between the two means.
    """
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
    w = (mu1 - mu0) / (mu1 - mu0).norm()
    return w, -w @ (mu0 + mu1) / 2


def ccs_loss(p0, p1):
    """Consistency plus confidence, averaged over the items of p0 and p1 [item].

    p0, p1: the probe's probability of `true` after the answer false, and after the answer true.
    """
    consistency = (p0 - (1 - p1)).square().mean()
    confidence = torch.minimum(p0, p1).square().mean()
    return consistency + confidence


def unusual(usual, some):
    """Squared Mahalanobis distances [item] of some [item depth] from usual [item' depth]."""
    away = some - usual.mean(0)
    return (away * torch.linalg.solve(torch.cov(usual.T), away.T).T).sum(1)


def _number(found: object, what: str) -> float:
    if not (isinstance(found, Tensor) and found.numel() == 1):
        raise Wrong(f"expected {what} as one number in a tensor, found {found!r}")
    return found.item()


def check_mean_difference(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3 == 0  # a third is true
    x = torch.randn(60, 4, generator=draw) + 3 * y[:, None] * torch.tensor([1.0, 0, 0, 2.0]) + 5
    found = attempt(x, y)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Wrong("return two things: the direction w and the bias b")
    w, b = found
    if not (isinstance(w, Tensor) and w.shape == (4,)):
        raise Wrong("expected w of shape (4,), one number per feature; average over the items")
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
    wanted = (mu1 - mu0) / (mu1 - mu0).norm()
    if torch.allclose(w / w.norm(), -wanted, atol=1e-4):
        raise Wrong("w points from true to false; scores above 0 must say true")
    if not torch.allclose(w / w.norm(), wanted, atol=1e-4):
        raise Wrong("w is not along the difference of the two means; take each mean over its label")
    if abs(w.norm().item() - 1) > 1e-4:
        raise Wrong(f"w has length {w.norm():.2f}; divide it by its length")
    b, middle = _number(b, "b"), (-wanted @ (mu0 + mu1) / 2).item()
    if abs(b) < 1e-6:
        raise Wrong(
            "b is 0, so almost every score has the same sign: activations are far from 0; put 0 "
            "half-way between the two means"
        )
    if abs(b + (wanted @ x.mean(0)).item()) < 1e-3:
        raise Wrong(
            "b puts 0 at the mean of all items, which moves with the share of true ones; put it "
            "half-way between the two means"
        )
    if abs(b - middle) > 1e-3:
        raise Wrong(f"half-way between the two means the score must be 0; there b is {middle:.2f}")


def check_ccs_loss(attempt) -> None:
    p0, p1 = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.7, 0.5, 0.3])
    found = _number(attempt(p0, p1), "the loss")
    mistakes = {
        "only the consistency; without confidence, 0.5 everywhere would be perfect":
            (p0 - (1 - p1)).square().mean(),
        "only the confidence": torch.minimum(p0, p1).square().mean(),
        "consistency asks that p0 and 1 - p1 agree, because one of the two answers is right; yours "
        "asks that p0 and p1 agree":
            (p0 - p1).square().mean() + torch.minimum(p0, p1).square().mean(),
        "square the smaller probability before you average": (p0 - (1 - p1)).square().mean()
            + torch.minimum(p0, p1).mean(),
        "confidence punishes the smaller of the two probabilities, not the larger":
            (p0 - (1 - p1)).square().mean() + torch.maximum(p0, p1).square().mean(),
        "average over the items, do not add them up": 3 * ccs_loss(p0, p1),
    }  # fmt: skip
    if abs(found - ccs_loss(p0, p1).item()) < 1e-5:
        return
    for mistake, value in mistakes.items():
        if abs(found - value.item()) < 1e-5:
            raise Wrong(mistake)
    raise Wrong(f"for p0 = {p0.tolist()} and p1 = {p1.tolist()} the loss is {ccs_loss(p0, p1):.4f}")


def check_unusual(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    usual = torch.randn(200, 3, generator=draw) @ mix + 4
    some = torch.randn(5, 3, generator=draw) + 4
    found = attempt(usual, some)
    if not (isinstance(found, Tensor) and found.shape == (5,)):
        raise Wrong("expected one distance per item of `some`, a tensor of shape (5,)")
    away, S, whole = some - usual.mean(0), torch.cov(usual.T), unusual(usual, some)
    mistakes = {
        "you measure plain distance: divide by the covariance of the usual items, so that what "
        "varies much counts little": away.square().sum(1),
        "you divide each depth by its own variance only; the covariances between depths count too":
            (away.square() / S.diagonal()).sum(1),
        "centre on the mean of the usual items, not on that of the new ones":
            ((some - some.mean(0)) * torch.linalg.solve(S, (some - some.mean(0)).T).T).sum(1),
        "you multiply by the covariance; solve with it": (away @ S * away).sum(1),
        "you return the distance; leave it squared": whole.sqrt(),
        "take the covariance of the usual items, not of the new ones":
            (away * torch.linalg.lstsq(torch.cov(some.T), away.T).solution.T).sum(1),
    }  # fmt: skip
    if torch.allclose(found, whole, rtol=1e-2):
        return
    for mistake, value in mistakes.items():
        if torch.allclose(found, value, rtol=1e-3):
            raise Wrong(mistake)
    raise Wrong("sum over depths of away times S^-1 away, with S the covariance of the usual items")
