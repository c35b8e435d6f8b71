"""A verdict is computed: does what a technique finds in the Transformer appear in another architecture?

    effect = score - control, more is better            one number a trained model
    ratio  = mean effect / the Transformer's mean effect     means over trainings (seeds)

What the ratio's 95 % interval leaves open decides the word (`word_for`). A technique without an effect
on the Transformer itself has no basis for a verdict.

The interval is Fieller's (1954) and not a bootstrap: of three seeds a bootstrap sees too little. With a
ratio of exactly 3/4, and seeds that differ by an eighth of the effect, it says `transfers` in 9 % of
draws, where 2.5 % are promised. `tests/test_verdicts.py` holds this, and what ours does: 2.5 % where
seeds differ as much in one architecture as in the other, 5 % where they differ ten times as much. An
architecture with one seed borrows the spread of the other's: its verdict is as good as that loan.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as students_t

from tft_utils.stats import Estimate, Z

PARTLY, FULLY = 0.25, 0.75  # of the Transformer's effect
WORDS = ("transfers", "at least partly", "partly", "at most partly", "no", "undecided", "no basis")


class Verdict(NamedTuple):
    """A word of `WORDS`, and the ratio behind it: n counts trained models of the other architecture."""

    word: str
    ratio: Estimate | None  # None without a basis


def effect_of(score: Estimate, control: Estimate, better: str) -> Estimate:
    """score - control where 'higher' scores are better, control - score where 'lower' ones are.

    The interval takes the two as independent (MOVER: Zou & Donner 2008, eq. 4); for a score and a
    control of the same items that is too wide rather than too narrow.
    """
    good, bad = (score, control) if better == "higher" else (control, score)
    value = good.value - bad.value
    below = math.hypot(good.value - good.low, bad.high - bad.value)
    above = math.hypot(good.high - good.value, bad.value - bad.low)
    return Estimate(value, min(score.n, control.n), value - below, value + above)


def verdict(effects: Sequence[Estimate], basis: Sequence[Estimate]) -> Verdict:
    """The verdict on an architecture from its effects, one of each seed, and the Transformer's.

    An estimate's interval is over items. All seeds answer the same items, so what items do by chance does
    not average out over them. Where an architecture has one seed, seeds of the other one say how much
    seeds differ; where both have one, nothing does, and the verdict is about these two models alone.
    Errors: `ValueError` where one side is empty.
    """
    if not effects or not basis:
        raise ValueError(
            f"expected effects of one trained model or more on both sides, found {len(effects)} and "
            f"{len(basis)} of the Transformer; measure both"
        )
    own, theirs = (math.fsum(e.value for e in side) / len(side) for side in (effects, basis))
    freedom = len(effects) + len(basis) - 2
    q = float(students_t.ppf(0.975, freedom)) if freedom else Z
    pooled = (_squares(effects) + _squares(basis)) / max(freedom, 1)
    of_own, of_theirs = (_variance(side, pooled) for side in (effects, basis))
    # Fieller: all ratios r whose contrast own - r theirs is within q standard errors of 0.
    square = theirs**2 - q**2 * of_theirs
    if square <= 0 or theirs <= 0:
        return Verdict("no basis", None)
    cross = own * theirs
    root = math.sqrt(max(cross**2 - square * (own**2 - q**2 * of_own), 0.0))
    low, high = (cross - root) / square, (cross + root) / square
    return Verdict(word_for(low, high), Estimate(own / theirs, len(effects), low, high))


def word_for(low: float, high: float) -> str:
    """What an interval of ratios leaves open, in a word. Each border is excluded at 2.5 %."""
    if low > FULLY:
        return "transfers"
    if high < PARTLY:
        return "no"
    if low >= PARTLY:
        return "partly" if high <= FULLY else "at least partly"
    return "at most partly" if high <= FULLY else "undecided"


def _squares(effects: Sequence[Estimate]) -> float:
    """Squared distances of an architecture's effects from their mean, in sum."""
    centre = math.fsum(effect.value for effect in effects) / len(effects)
    return math.fsum((effect.value - centre) ** 2 for effect in effects)


def _variance(effects: Sequence[Estimate], pooled: float) -> float:
    """Of the mean of an architecture's effects. How much its seeds differ is estimated from two or
    three: nothing below what both architectures say together is believed."""
    n = len(effects)
    of_seeds = max(_squares(effects) / (n - 1), pooled) if n > 1 else pooled
    of_items = math.fsum(((effect.high - effect.low) / (2 * Z)) ** 2 for effect in effects) / n
    return of_seeds / n + of_items
