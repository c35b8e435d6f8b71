"""The intervals equal other derivations of the same formula, and cover what they promise to."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 0), (-1, 5), (6, 5), (1, 0), (-1, -1), (0, -3), (0.5, 3)]
)
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"expected 0 <= successes <= n .* found {successes} of {n}"):
        stats.proportion(successes, n)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_values_are_refused(values):
    with pytest.raises(ValueError, match=f"at least 2 independent values .* found {len(values)}"):
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
    with pytest.raises(ValueError, match=f"at least 2 independent values .* found {min(n, 1)}"):
        stats.clustered_mean([0.1] * n, ["a"] * n)


def test_clustered_mean_wants_a_cluster_for_each_value():
    with pytest.raises(ValueError, match="the same length"):
        stats.clustered_mean([0.1, 0.2, 0.3], ["a", "b"])


# --------------------------------------------------------------------------------------------------
# Bootstrap


def exact_bca(values: list[float], statistic) -> tuple[float, float]:
    """The BCa interval from all n^n resamples and the closed form of the mean's acceleration."""
    draws = np.sort([statistic(np.array(d)) for d in itertools.product(values, repeat=len(values))])
    value, deviations = statistic(np.array(values)), np.array(values) - np.mean(values)
    normal = NormalDist()
    z0 = normal.inv_cdf(np.mean(draws < value) + np.mean(draws == value) / 2)
    a = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    ends = [normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (-1.959964, 1.959964)]
    return tuple(np.quantile(draws, ends))


def test_bootstrap_equals_the_exact_bca_interval(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 40_000)
    values = [0.1, 0.3, 0.4, 1.1, 2.9]  # skewed, so that both corrections matter
    found = stats.bootstrap(values, np.mean, seed=0)
    low, high = exact_bca(values, np.mean)
    assert found[:2] == (pytest.approx(np.mean(values)), 5)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    plain = np.quantile([np.mean(d) for d in itertools.product(values, repeat=5)], [0.025, 0.975])
    assert abs(found.low - plain[0]) > 0.05  # and not the plain percentile interval
    assert found.high - plain[1] > 0.1


def test_bootstrap_of_a_large_sample_is_the_normal_interval():
    """Closed form: mean +- z * standard error, where nothing is skewed."""
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    found, half = stats.bootstrap(values, np.mean, seed=1), 1.96 * values.std() / math.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(
    ("draw", "statistic", "truth", "n"),
    [
        ("normal", np.mean, 0.0, 20),
        ("exponential", np.mean, 1.0, 40),
        ("exponential", np.median, math.log(2), 40),
        ("normal", np.std, 1.0, 40),
    ],
)
def test_bootstrap_covers_the_truth(monkeypatch, draw, statistic, truth, n):
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    samples = getattr(np.random.default_rng(4), draw)(size=(200, n))
    found = [stats.bootstrap(values, statistic, seed=i) for i, values in enumerate(samples)]
    assert 0.89 < np.mean([e.low <= truth <= e.high for e in found]) < 0.98


def test_bootstrap_resamples_rows():
    """A correlation needs both of its numbers from the same row."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=300)
    rows = np.stack([x, 0.6 * x + 0.8 * rng.normal(size=300)], axis=1)
    found = stats.bootstrap(rows, lambda r: np.corrcoef(r.T)[0, 1], seed=0)
    assert found.n == 300
    z, half = np.arctanh(found.value), 1.96 / math.sqrt(297)  # Fisher's transformation
    assert (found.low, found.high) == pytest.approx((np.tanh(z - half), np.tanh(z + half)), abs=0.03)


def test_bootstrap_depends_on_its_seed_alone():
    values = np.random.default_rng(6).normal(size=30)
    np.random.seed(1)  # noqa: NPY002  (the global generator must not matter)
    first = stats.bootstrap(values, np.mean, seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert stats.bootstrap(values, np.mean, seed=3) == first
    assert stats.bootstrap(values, np.mean, seed=4) != first
    assert all(type(x) in (int, float) for x in first)


def test_bootstrap_of_equal_values_has_no_width():
    assert stats.bootstrap([0.5] * 4, np.mean, seed=0) == (0.5, 4, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_bootstrap_refuses_too_few_values(values):
    with pytest.raises(ValueError, match=f"at least 2 values .* found {len(values)}"):
        stats.bootstrap(values, np.mean, seed=0)


def test_paired_bootstrap_is_the_bootstrap_of_differences():
    rng = np.random.default_rng(7)
    item = rng.normal(0, 5, size=80)  # what both results of an item share
    a, b = item + rng.normal(1, 1, size=80), item + rng.normal(0, 1, size=80)
    found = stats.paired_bootstrap(a, b, seed=0)
    assert found == stats.bootstrap(a - b, np.mean, seed=0)
    half = 1.96 * (a - b).std() / math.sqrt(80)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1)
    apart = np.hypot(a.std(), b.std()) / math.sqrt(80)
    assert found.high - found.low < apart  # pairing removes what the items share


def test_paired_bootstrap_covers_the_truth(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    rng = np.random.default_rng(8)
    item, gain = rng.exponential(9, size=(200, 30)), rng.exponential(2, size=(200, 30))
    found = [stats.paired_bootstrap(i + g, i, seed=0) for i, g in zip(item, gain, strict=True)]
    assert 0.89 < np.mean([e.low <= 2 <= e.high for e in found]) < 0.98


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1, 2, 3]), ([[1], [2]], [[1], [2]]), ([1], 1)])
def test_paired_bootstrap_wants_pairs(a, b):
    with pytest.raises(ValueError, match="expected two equally long lists of numbers, found shapes"):
        stats.paired_bootstrap(a, b, seed=0)


def test_the_interval_of_a_ratio_stays_in_order_where_units_sum_below_zero():
    amounts, units = torch.tensor([1.0, 2.0, 2.5]), torch.tensor([-1.0, -2.0, -4.0])
    found, mirrored = stats.ratio(amounts, units), stats.ratio(amounts, -units)
    assert found.low < found.value < found.high
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))
