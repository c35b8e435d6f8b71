"""Intervals for the numbers the course reports. Everything here is 95 %, two-sided."""

import math
from typing import NamedTuple

Z = 1.959963984540054  # the normal distribution's 97.5 % point


class Estimate(NamedTuple):
    """A number with its sample size and 95 % interval."""

    value: float
    n: int
    low: float
    high: float


def proportion(successes: int, n: int) -> Estimate:
    """A share of n independent trials, with Wilson's score interval (Wilson 1927, eq. 4).

    Unlike value +- 2 standard errors, it keeps its width at 0 % and 100 %.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"expected 0 <= successes <= n with n > 0; found {successes} of {n}")
    share, shrink = successes / n, 1 + Z**2 / n
    middle = (share + Z**2 / (2 * n)) / shrink
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / shrink
    # At 0 and n successes one end is exact; rounding must not push it past the value.
    return Estimate(share, n, min(share, middle - half), max(share, middle + half))


def mean(values: list[float]) -> Estimate:
    """The mean of independent values, with its normal-theory interval."""
    n = len(values)
    if n < 2:
        raise ValueError(f"expected at least 2 values for an interval; found {n}")
    centre = math.fsum(values) / n
    variance = math.fsum((v - centre) ** 2 for v in values) / (n - 1)
    half = Z * math.sqrt(variance / n)
    return Estimate(centre, n, centre - half, centre + half)


def clustered_mean(values: list[float], clusters: list[str]) -> Estimate:
    """The mean of values that repeat: those of one cluster count as one observation's worth.

    The interval uses the cluster-robust variance with the small-sample factor G / (G - 1)
    (Liang & Zeger 1986); n counts values, not clusters.
    """
    if len(set(clusters)) < 2:
        raise ValueError(
            f"expected at least 2 clusters for an interval; found {len(set(clusters))}"
        )
    sums: dict[str, float] = {}
    centre = math.fsum(values) / len(values)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - centre
    variance = math.fsum(s**2 for s in sums.values()) * len(sums) / (len(sums) - 1)
    half = Z * math.sqrt(variance) / len(values)
    return Estimate(centre, len(values), centre - half, centre + half)
