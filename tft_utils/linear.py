"""Linear solvers, all depths at once: logistic regression, discriminant analysis, shrinkage."""

import torch
import torch.nn.functional as F
from torch import Tensor

DECAY = 1e-3  # of logistic regression: mean cross-entropy + DECAY |w|^2

STEPS, CLOSE = 50, 1e-9  # of its solver: at most so many; done when a step changes so little

JITTER = 1e-9  # of a covariance matrix without any spread


def logistic(x: Tensor, y: Tensor, decay: float = DECAY) -> tuple[Tensor, Tensor]:
    """Binary logistic regression at all depths at once: w [depth d], b [depth]; w . x + b > 0 is yes.

    x [n depth d], y [n] bool. Minimises mean cross-entropy + decay |w|^2 (scikit-learn's C is
    1 / (2 n decay)) by Newton's method in float64, each depth's step halved until it goes down.
    """
    mean = x.double().mean(0)  # [depth d]
    X = F.pad(x.double() - mean, (0, 1), value=1.0).transpose(0, 1)  # [depth n d+1]
    n, sign = len(x), 2.0 * y.double() - 1
    pull = torch.full_like(X[0, 0], 2 * decay)
    pull[-1] = 0  # the bias is free

    def loss(w: Tensor) -> Tensor:
        fit = F.softplus(-sign * (X @ w[..., None])[..., 0]).mean(1)
        return fit + (pull * w.square()).sum(-1) / 2

    w = torch.zeros_like(X[:, 0])
    for _ in range(STEPS):
        p = torch.sigmoid((X @ w[..., None])[..., 0])
        gradient = ((p - y.double())[:, None] @ X)[:, 0] / n + pull * w
        curved = X * (p * (1 - p) / n)[..., None]
        step = torch.linalg.solve(X.mT @ curved + torch.diag(pull + 1e-12), gradient)
        if (gradient * step).sum(-1).max() < CLOSE**2:
            break
        before = loss(w)
        while (worse := loss(w - step) > before + 1e-15).any():
            step[worse] /= 2
        w = w - step
    return w[:, :-1].to(x.dtype), (w[:, -1] - (w[:, :-1] * mean).sum(-1)).to(x.dtype)


def discriminant(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Linear discriminant analysis, in closed form: W [depth task class d], b [depth task class].

    x [n depth d]; y [task n] whole numbers below `classes`: several labellings of the same items, which
    share one covariance matrix a depth. The class is the argmax of W x + b. Within-class covariances
    are shrunk (`shrink`).
    """
    X = torch.empty(*x.transpose(0, 1).shape, dtype=torch.float64).copy_(x.transpose(0, 1))
    mean = X.mean(1, keepdim=True)
    X -= mean  # in place, as below: fresh memory costs more than the sums
    depths, n, d = X.shape
    truth = F.one_hot(y, classes).double()  # [task n class]
    share = truth.mean(1)  # [task class]
    sums = (truth.transpose(0, 1).flatten(1).T @ X).view(depths, *share.shape, d)
    means = sums / (n * share.clamp(min=1e-12))[..., None]
    within = means.mT @ (-share[..., None] * means)  # minus the covariance between [depth task d d]
    within += (X.mT @ X).div_(n)[:, None]
    shrink(within, n)
    within.diagonal(dim1=-2, dim2=-1).mul_(1 + JITTER).add_(JITTER)
    W = torch.cholesky_solve(means.mT, torch.linalg.cholesky(within)).mT
    b = share.clamp(min=1e-12).log() - (W * means).sum(-1) / 2
    return W, b - (W @ mean[..., None, :].mT)[..., 0]


def shrink(S: Tensor, n: int) -> Tensor:
    """Draws covariances S [... d d] of n items towards t I, t their mean variance, in place.

    a S + (1 - a) t I, with the a of least expected squared error as d and n grow alike, and not below
    0: 1 - a = (tr S)^2 / n / |S - t I|^2 (Bodnar, Gupta & Parolya 2014, arXiv 1308.2608, with their
    target as t I; d t = tr S).
    """
    d = S.shape[-1]
    t = S.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
    off = torch.linalg.vector_norm(S, dim=(-2, -1)).square()[..., None] - d * t.square()
    a = (1 - (d * t).square() / n / off.clamp(min=torch.finfo(S.dtype).tiny)).clamp(min=0)
    S *= a[..., None]
    S.diagonal(dim1=-2, dim2=-1).add_((1 - a) * t)
    return S


def choose(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """The class of each item: x [n depth d] -> [depth task n]."""
    scores = x.to(W.dtype).transpose(0, 1) @ W.flatten(1, 2).mT  # [depth n task*class]
    return (scores.unflatten(-1, b.shape[1:]) + b[:, None]).argmax(-1).mT
