"""Intervals for the numbers the course reports. Everything here is 95 %, two-sided."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000  # of a bootstrap
Z = 1.959963984540054  # the normal distribution's 97.5 % point


class Estimate(NamedTuple):
    """A number with its sample size and 95 % interval."""

    value: float
    n: int
    low: float
    high: float


NOTHING = Estimate(math.nan, 0, math.nan, math.nan)  # where there is nothing to measure


def proportion(successes: int, n: int) -> Estimate:
    """A share of n independent trials, with Wilson's score interval (Wilson 1927, eq. 4).

    Unlike value +- 2 standard errors, it keeps its width at 0 % and 100 %.
    """
    if not 0 <= successes <= n or n == 0 or successes % 1:
        raise ValueError(f"expected 0 <= successes <= n with n > 0, both whole; found {successes} of {n}")
    from scipy.stats import binomtest  # a third of a second, which many processes never need

    share = successes / n
    low, high = binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    # At 0 and n successes one end is exact; rounding must not push it past the value.
    return Estimate(share, n, min(share, float(low)), max(share, float(high)))


def ratio(amounts: Tensor, units: Tensor) -> Estimate:
    """sum amounts / sum units over observations [n], with its 95 % interval (linearised: Cochran 1977,
    eq. 6.13): texts are the independent observations, not words."""
    amounts, units, n = amounts.double().cpu(), units.double().cpu(), len(units)
    if n < 2:
        raise ValueError(f"expected at least 2 independent values for an interval; found {n}")
    value = float(amounts.sum() / units.sum())
    error = (n / (n - 1) * (amounts - value * units).square().sum()).sqrt() / units.sum().abs()
    return Estimate(value, n, value - Z * float(error), value + Z * float(error))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with its normal-theory interval."""
    return ratio(torch.tensor(values, dtype=torch.float64), torch.ones(len(values)))


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean of values that repeat: those of one cluster count as one observation's worth.

    It is the ratio of the clusters' sums and sizes, whose variance is the cluster-robust one with the
    small-sample factor G / (G - 1) (Liang & Zeger 1986); n counts values, not clusters.
    """
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.bincount(cluster, values)
    return ratio(torch.from_numpy(sums), torch.from_numpy(sizes))._replace(n=len(values))


def bootstrap(values: Sequence, statistic: Callable[[np.ndarray], float], seed: int) -> Estimate:
    """Any statistic of independent observations, with its BCa interval (Efron 1987, section 3).

    values: [n ...], one observation a row; statistic: such an array -> one number. The percentiles
    of the resampled statistic are shifted for its bias (z0) and its skew (a, by the jackknife).
    A value that all observations share gets an interval without width: resampling cannot see what
    did not occur. For shares use `proportion`.
    """
    values, n = np.asarray(values), len(values)
    if n < 2:
        raise ValueError(f"expected at least 2 values for an interval; found {n}")
    from scipy import stats  # as in `proportion`

    value, rng = float(statistic(values)), np.random.default_rng(seed)
    with warnings.catch_warnings():  # where all observations agree, there is no bias or skew
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (np.arange(n),),
            lambda rows: statistic(values[rows]),
            n_resamples=RESAMPLES,
            batch=100,
            rng=rng,
        )
    low, high = found.confidence_interval
    if math.isnan(low):
        low, high = np.quantile(found.bootstrap_distribution, (0.025, 0.975))
    return Estimate(value, n, float(low), float(high))


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int) -> Estimate:
    """The mean of a - b over pairs [n], with its BCa interval: one pair is one observation."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"expected two equally long lists of numbers, found shapes {a.shape} and {b.shape}; "
            "give the two results of each item in the same order"
        )
    return bootstrap(a - b, np.mean, seed)


@functools.lru_cache(maxsize=32)
def drawn(n: int, resamples: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """How often each of n comes when n are drawn with replacement [resample n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)


def crossed(values: Tensor) -> list[Estimate]:
    """Per depth the mean of values [seed depth n] with a 95 % interval, over seeds and items both.

    It is the percentiles of a bootstrap that resamples both. Right-or-wrong values get at least
    Wilson's interval for n items.
    """
    values = values.double()
    seeds, _, n = values.shape
    of_seeds, of_items = (torch.from_numpy(drawn(k, 1000, k) / k) for k in (seeds, n))
    means = torch.einsum("rs,srk->rk", of_seeds, of_items @ values.mT)
    ends = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype), dim=0)
    binary = bool(((values == 0) | (values == 1)).all())  # right or wrong
    found = []
    for mean, low, high in zip(values.mean((0, 2)).tolist(), *ends.tolist(), strict=True):
        if binary:
            wilson = proportion(round(mean * n), n)
            low, high = min(low, wilson.low), max(high, wilson.high)
        found.append(Estimate(mean, n, min(low, mean), max(high, mean)))
    return found
