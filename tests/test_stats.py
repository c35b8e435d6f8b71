"""The intervals equal other derivations of the same formula, and cover what they promise to."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from tft_utils import stats

# Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3: Wilson without continuity.
PUBLISHED = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


def test_z_is_the_normal_quantile():
    assert pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-12) == stats.Z


@pytest.mark.parametrize(("successes", "n", "low", "high"), PUBLISHED)
def test_wilson_equals_published_values(successes, n, low, high):
    found = stats.proportion(successes, n)
    assert (found.value, found.n) == (successes / n, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000, 10**6])
def test_wilson_ends_solve_the_quadratic(n):
    """At the ends p the share lies z standard errors away: (share - p)^2 = z^2 p (1 - p) / n."""
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        share, z2 = successes / n, stats.Z**2
        low, high = sorted(np.roots([1 + z2 / n, -2 * share - z2 / n, share**2]).real)
        found = stats.proportion(successes, n)
        assert found.low == pytest.approx(low, abs=1e-7)
        assert found.high == pytest.approx(high, abs=1e-7)
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("n", [1, 3, 20, 500, 12345])
def test_wilson_at_none_and_all(n):
    """Closed forms: [0, z^2/(n+z^2)] and its mirror image, exact at the impossible side."""
    none, every = stats.proportion(0, n), stats.proportion(n, n)
    far = stats.Z**2 / (n + stats.Z**2)
    assert none[:3] == (0, n, 0)
    assert none.high == pytest.approx(far, rel=1e-12)
    assert every.value == every.high == 1
    assert every.low == pytest.approx(1 - far, rel=1e-12)


def test_wilson_mirrors():
    for successes in range(21):
        a, b = stats.proportion(successes, 20), stats.proportion(20 - successes, 20)
        assert a.low == pytest.approx(1 - b.high, abs=1e-12)
        assert a.high == pytest.approx(1 - b.low, abs=1e-12)


@pytest.mark.parametrize(("p", "n"), [(0.5, 30), (0.9, 100), (0.95, 500), (0.98, 1000)])
def test_wilson_covers_the_truth(p, n):
    rng = np.random.default_rng(0)
    found = [stats.proportion(int(k), n) for k in rng.binomial(n, p, size=4000)]
    coverage = np.mean([e.low <= p <= e.high for e in found])
    assert 0.93 < coverage < 0.97


def test_mean_equals_numpy():
    values = np.random.default_rng(0).normal(3, 2, size=50)
    found = stats.mean(values.tolist())
    half = 1.96 * values.std(ddof=1) / math.sqrt(50)
    assert found.n == 50
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert found.low == pytest.approx(values.mean() - half, abs=1e-4)
    assert found.high == pytest.approx(values.mean() + half, abs=1e-4)


def test_mean_covers_the_truth():
    samples = np.random.default_rng(1).uniform(0, 1, size=(3000, 40))
    found = [stats.mean(row.tolist()) for row in samples]
    assert 0.93 < np.mean([e.low <= 0.5 <= e.high for e in found]) < 0.965


def test_mean_keeps_small_differences_beside_large_values():
    found = stats.mean([1e9, 1e9 + 1, 1e9 + 2])
    assert found.value == 1e9 + 1
    assert found.high - found.value == pytest.approx(stats.Z / math.sqrt(3), rel=1e-6)


def test_mean_of_equal_values_has_no_width():
    assert stats.mean([0.5, 0.5, 0.5]) == (0.5, 3, 0.5, 0.5)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (1, 0), (-1, -1), (0, -3)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(
        ValueError, match=f"expected 0 <= successes <= n .* found {successes} of {n}"
    ):
        stats.proportion(successes, n)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_values_are_refused(values):
    with pytest.raises(ValueError, match=f"at least 2 values .* found {len(values)}"):
        stats.mean(values)


def test_clustered_mean_counts_a_repeated_value_once():
    values, clusters = [0.2, 0.8, 0.5, 0.9], ["a", "b", "c", "d"]
    once = stats.clustered_mean(values, clusters)
    thrice = stats.clustered_mean(values * 3, clusters * 3)
    assert thrice.n == 12
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    # With one value a cluster it is the ordinary interval of the mean.
    assert tuple(once) == pytest.approx(tuple(stats.mean(values)))


def test_clustered_mean_equals_the_sandwich():
    """Regression on a constant: variance = G / (G - 1) times the sum of e_g e_g' over n^2."""
    rng = np.random.default_rng(2)
    clusters, values = rng.integers(0, 9, size=60), rng.normal(size=60)
    found = stats.clustered_mean(values.tolist(), [str(c) for c in clusters])
    same = clusters[:, None] == clusters[None]
    errors = values - values.mean()
    deviation = np.sqrt(9 / 8 * (errors @ same @ errors)) / 60
    assert found.value == pytest.approx(values.mean())
    assert found.n == 60
    assert found.high - found.value == pytest.approx(stats.Z * deviation)
    assert found.value - found.low == pytest.approx(stats.Z * deviation)


def test_clustered_mean_covers_the_truth_where_the_plain_one_does_not():
    rng, clusters = np.random.default_rng(3), [str(i % 60) for i in range(300)]
    draws = [np.tile(rng.normal(size=60), 5).tolist() for _ in range(1500)]
    robust = [stats.clustered_mean(values, clusters) for values in draws]
    plain = [stats.mean(values) for values in draws]
    assert 0.92 < np.mean([e.low <= 0 <= e.high for e in robust]) < 0.97
    assert np.mean([e.low <= 0 <= e.high for e in plain]) < 0.75


@pytest.mark.parametrize("n", [0, 1, 2])
def test_clustered_mean_refuses_a_single_cluster(n):
    with pytest.raises(ValueError, match=f"at least 2 clusters .* found {min(n, 1)}"):
        stats.clustered_mean([0.1] * n, ["a"] * n)


def test_clustered_mean_wants_a_cluster_for_each_value():
    with pytest.raises(ValueError, match="shorter"):
        stats.clustered_mean([0.1, 0.2, 0.3], ["a", "b"])
