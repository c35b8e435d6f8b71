"""The rule of verdicts: planted effects get their word, and wrong words come as rarely as is said."""

import math
from collections import Counter

import numpy as np
import pytest

from tft_utils import stats
from tft_utils.course import verdicts
from tft_utils.course.verdicts import Plan, effect_of, verdict, what_would_decide, word_for
from tft_utils.stats import Estimate

DRAWS = 2000
EFFECT = 0.8  # of the Transformer, in the simulations


def effect(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value, 100, value - half, value + half)


def drawn(rng, value: float, seeds: int, spread: float, items: float = 0.02) -> list[Estimate]:
    """Effects of trained models that differ by `spread`, each measured with an error of `items`."""
    return [effect(x, stats.Z * items) for x in rng.normal(value, math.hypot(spread, items), seeds)]


def words(ratio: float, seeds: tuple[int, int], spread: tuple[float, float], basis=EFFECT) -> Counter:
    """Shares of the words over draws of (other architecture, Transformer)."""
    rng = np.random.default_rng([round(1000 * (ratio + 2)), *seeds])
    said = Counter(
        verdict(
            drawn(rng, ratio * EFFECT, seeds[0], spread[0]), drawn(rng, basis, seeds[1], spread[1])
        ).word
        for _ in range(DRAWS)
    )
    return Counter({word: said[word] / DRAWS for word in verdicts.WORDS})


# ---- planted ratios ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.0, "transfers"), (1.6, "transfers"), (0.5, "partly"), (0.0, "no"), (-1.0, "no")],
)
def test_a_planted_ratio_gets_its_word(ratio, word):
    """Three seeds that differ little."""
    assert words(ratio, (3, 3), (0.02, 0.02))[word] > 0.97


def test_seeds_that_differ_as_much_as_the_question_leave_it_open():
    said = words(0.5, (3, 3), (0.3, 0.1))
    assert said["undecided"] > 0.6
    assert said["transfers"] + said["no"] < 0.03


def test_a_technique_without_an_effect_on_the_transformer_has_no_basis():
    """By the interval's own error: it leaves out 0, on the better side, in 2.5 % of draws."""
    assert words(1.0, (3, 3), (0.1, 0.1), basis=0.0)["no basis"] > 0.96
    assert words(1.0, (3, 3), (0.1, 0.1), basis=-0.5)["no basis"] == 1


@pytest.mark.parametrize("seeds", [(3, 3), (2, 3), (1, 3)])
@pytest.mark.parametrize(
    ("ratio", "wrong"),
    [
        (0.75, ("transfers",)),
        (0.75, ("no", "partly", "at most partly")),  # these deny 3/4
        (0.25, ("transfers", "partly", "at least partly")),  # these deny 1/4
        (0.25, ("no",)),
    ],
)
def test_on_the_border_the_wrong_word_comes_at_its_rate(seeds, ratio, wrong):
    """2.5 %, and what 2,000 draws add by chance (two standard errors are .7 %)."""
    said = words(ratio, seeds, (0.1, 0.1))
    assert sum(said[word] for word in wrong) < 0.025 + 0.01


def test_seeds_that_differ_more_in_one_architecture_cost_little():
    """Ten times as much, in the one or in the other."""
    assert words(0.75, (3, 3), (0.2, 0.02))["transfers"] < 0.05 + 0.01
    assert words(0.75, (3, 3), (0.02, 0.2))["transfers"] < 0.05 + 0.01


def test_a_bootstrap_over_three_seeds_would_break_its_promise():
    """Seeds drawn again, then items: the 2.5 % end of the ratio is above 3/4 far too often."""
    rng = np.random.default_rng(0)
    own, theirs = (rng.normal(x, math.hypot(0.1, 0.02), (DRAWS, 3)) for x in (0.75 * EFFECT, EFFECT))
    wrong = 0
    for pair in zip(own, theirs, strict=True):
        again = [x[rng.integers(3, size=(1000, 3))] + rng.normal(0, 0.02, (1000, 3)) for x in pair]
        wrong += np.quantile(again[0].mean(1) / again[1].mean(1), 0.025) > 0.75
    assert wrong / DRAWS == pytest.approx(0.09, abs=0.015)


# ---- what would decide -------------------------------------------------------------------------------


def seen(value: float, seeds: int, spread: float, items: float = 0.02) -> list[Estimate]:
    """Effects whose mean and spread are exactly these."""
    steps = np.linspace(-1, 1, seeds)
    return [effect(x, stats.Z * items) for x in value + spread * steps / steps.std(ddof=1)]


@pytest.mark.parametrize(
    ("ratio", "spread", "word"),
    [
        (1.0, 0.1, "transfers"),
        (1.0, 0.2, "transfers"),
        (0.9, 0.05, "transfers"),
        (0.5, 0.1, "partly"),
        (0.4, 0.2, "partly"),
        (0.1, 0.1, "no"),
        (0.0, 0.2, "no"),
    ],
)
def test_the_planned_seeds_decide_planted_effects_and_fewer_do_not(ratio, spread, word):
    """Four of five is promised; `partly`, with two borders, gets a little more. Of half the seeds too few
    draws are decided."""
    (plan,) = what_would_decide(seen(ratio * EFFECT, 2, spread), seen(EFFECT, 2, spread))
    assert (plan.word, plan.seeds) == (word, plan.basis)
    planned, half = (
        words(ratio, (n, n), (spread, spread))[word] for n in (2 + plan.seeds, 1 + plan.seeds // 2)
    )
    assert verdicts.SURE - 0.03 < planned < 0.96
    assert half < verdicts.SURE - 0.05


def test_an_architecture_with_fewer_seeds_is_brought_to_as_many():
    plan = what_would_decide(seen(0.8, 2, 0.05), seen(EFFECT, 3, 0.05))[0]
    assert (plan.word, plan.seeds, plan.basis) == ("transfers", 1, 0)
    (alone,) = what_would_decide([effect(0.8)], seen(EFFECT, 2, 0.2))
    assert alone.seeds == alone.basis + 1


def test_items_decide_where_they_are_what_leaves_it_open():
    own, theirs = seen(0.72, 3, 0.01, items=0.1), seen(EFFECT, 3, 0.01, items=0.1)
    assert verdict(own, theirs).word == "at least partly"
    (plan,) = what_would_decide(own, theirs)
    assert (plan.seeds, plan.basis) == (0, 0)
    for times, decided in ((plan.times, True), (plan.times / 2, False)):
        rng, error = np.random.default_rng(1), 0.1 / math.sqrt(times)
        said = [
            verdict(
                [effect(x + rng.normal(0, 0.01), stats.Z * error) for x in [a] * 3],
                [effect(x + rng.normal(0, 0.01), stats.Z * error) for x in [b] * 3],
            ).word
            for a, b in rng.normal((0.72, EFFECT), error, (DRAWS, 2))
        ]
        assert (said.count(plan.word) / DRAWS > verdicts.SURE - 0.03) == decided


def test_where_neither_seeds_nor_items_suffice_both_are_planned():
    own, theirs = seen(0.68, 2, 0.03, items=0.05), seen(EFFECT, 2, 0.03, items=0.05)
    (plan,) = what_would_decide(own, theirs)
    assert plan.word == "transfers"
    assert plan.seeds > 0
    assert plan.times > 1


def test_what_nothing_in_reach_decides_is_said():
    assert what_would_decide(seen(0.75 * EFFECT, 2, 0.1), seen(EFFECT, 2, 0.1)) == []
    assert what_would_decide(seen(0.5, 2, 0.1), seen(-0.1, 2, 0.1)) == []


def test_one_seed_on_each_side_asks_for_a_second_of_both():
    second, items = what_would_decide([effect(0.5)], [effect(EFFECT, 0.3)])
    assert second == Plan(None, 1, 1, 1)
    assert (items.word, items.seeds, items.basis) == ("partly", 0, 0)


# ---- the interval ------------------------------------------------------------------------------------


def test_ends_solve_fiellers_equation():
    """At both ends the contrast own - r theirs lies q standard errors from 0, all found by hand."""
    own, theirs = [effect(x) for x in (0.5, 0.6, 0.7)], [effect(x) for x in (0.85, 0.9)]
    items = (0.02 / stats.Z) ** 2
    pooled = (0.01 + 0.01 + 0.025**2 * 2) / 3  # the Transformer's own .00125 is less
    variance = 0.01 / 3 + items, pooled / 2 + items
    ratio = verdict(own, theirs).ratio
    assert (ratio.value, ratio.n) == (pytest.approx(0.6 / 0.875), 3)
    for r in (ratio.low, ratio.high):
        squared = 3.182446305**2 * (variance[0] + r**2 * variance[1])  # Student's t, 3 degrees
        assert (0.6 - r * 0.875) ** 2 == pytest.approx(squared)
    assert ratio.low < ratio.value < ratio.high


def test_with_a_sure_basis_it_is_the_interval_of_the_effect_divided():
    sure = [Estimate(0.8, 100, 0.8, 0.8)]
    found = verdict([effect(0.4, 0.1)], sure).ratio
    assert found == pytest.approx((0.5, 1, 0.375, 0.625))


def test_one_seed_borrows_the_spread_of_the_other_side():
    alone = verdict([effect(0.6)], [effect(0.8)])
    spread = verdict([effect(0.6)], [effect(0.7), effect(0.8), effect(0.9)])
    assert alone.ratio.high - alone.ratio.low < 0.1 < spread.ratio.high - spread.ratio.low


def test_nothing_is_divided_by_nothing():
    exact = Estimate(1.0, 10, 1.0, 1.0)
    assert verdict([exact, exact], [exact, exact]) == ("transfers", (1.0, 2, 1.0, 1.0))
    assert verdict([exact], [Estimate(0.0, 10, 0.0, 0.0)]) == ("no basis", None)
    with pytest.raises(ValueError, match="expected effects of one trained model or more on both"):
        verdict([], [exact])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.76, 2.0, "transfers"),
        (0.75, 2.0, "at least partly"),
        (0.25, 0.75, "partly"),
        (0.24, 0.75, "at most partly"),
        (0.24, 0.76, "undecided"),
        (-1.0, 0.25, "at most partly"),
        (-1.0, 0.24, "no"),
    ],
)
def test_the_word_of_an_interval(low, high, word):
    assert word_for(low, high) == word


def test_an_effect_has_more_is_better_as_its_sign():
    score, control = Estimate(0.1, 40, 0.05, 0.2), Estimate(0.9, 50, 0.8, 0.95)
    lower = effect_of(score, control, "lower")
    assert lower == pytest.approx((0.8, 40, 0.8 - math.hypot(0.1, 0.1), 0.8 + math.hypot(0.05, 0.05)))
    higher = effect_of(score, control, "higher")
    assert (higher.value, higher.low, higher.high) == (-lower.value, -lower.high, -lower.low)


def test_an_effect_covers_the_difference_of_two_shares():
    """Newcombe (1998b), table II, case (a), method 10: 56/70 - 48/80 is .2, with [.0524, .3339]."""
    found = effect_of(stats.proportion(56, 70), stats.proportion(48, 80), "higher")
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4)) == (0.2, 0.0524, 0.3339)
