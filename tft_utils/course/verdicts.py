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

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from scipy.special import stdtrit

from tft_utils.stats import Estimate, Z

PARTLY, FULLY = 0.25, 0.75  # of the Transformer's effect
WORDS = ("transfers", "at least partly", "partly", "at most partly", "no", "undecided", "no basis")
DECIDED = ("transfers", "partly", "no")  # the others leave a border open
MOST = 100  # seeds on a side, or times the items, beyond which nobody plans
TIMES = 20  # the items, where seeds are added as well
SURE = 0.8  # how often a plan must decide


class Verdict(NamedTuple):
    """A word of `WORDS`, and the ratio behind it: n counts trained models of the other architecture."""

    word: str
    ratio: Estimate | None  # None without a basis


class Plan(NamedTuple):
    """What would decide an open verdict, if effects and spread are what was seen."""

    word: str | None  # of `DECIDED`; None: one seed on each side says nothing about seeds
    seeds: int  # more trainings of the architecture
    basis: int  # and of the Transformer
    times: int  # the items


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
    freedom, pooled = _pooled(effects, basis)
    q = quantile(freedom)
    variances = [_variance(side, pooled) for side in (effects, basis)]
    own, theirs = _means(effects, basis)
    ends = _fieller(own, theirs, *variances, q)
    if ends is None:
        return Verdict("no basis", None)
    return Verdict(word_for(*ends), Estimate(own / theirs, len(effects), *ends))


def what_would_decide(effects: Sequence[Estimate], basis: Sequence[Estimate]) -> list[Plan]:
    """The fewest seeds, and the fewest items, that decide an open verdict in four of five cases.

    Seeds alone, items alone, or, where neither does, both. An empty list: nothing in reach (`MOST`).
    The means, the spread of seeds and the error by items are taken for the truth, as they were seen;
    from few seeds that is a rough guess. Both sides are brought to the same number of seeds. An interval
    must clear each border that its word excludes with room for a new draw: as a noncentral t does
    (Johnson & Welch 1940), once for a word with one border, more for `partly`, which has two, and where
    the basis may turn out to be none. Where both sides have one seed, nothing says how much seeds differ:
    the plan is a second of each, and its word is None.
    """
    own, theirs = len(effects), len(basis)

    def fewest(most_items: int, most_seeds: int = MOST) -> list[Plan]:
        for m in range(min(own, theirs), most_seeds + 1):
            of_own, of_basis = max(m, own), max(m, theirs)
            if _planned(effects, basis, of_own, of_basis, most_items):
                times = range(1, most_items + 1)
                said = [(f, _planned(effects, basis, of_own, of_basis, f)) for f in times]
                f, word = next(pair for pair in said if pair[1])
                return [Plan(word, of_own - own, of_basis - theirs, f)]
        return []

    by_items = fewest(MOST, min(own, theirs))
    if own == theirs == 1:
        return [Plan(None, 1, 1, 1), *by_items]
    return [*fewest(1), *by_items] or fewest(TIMES)


def _planned(effects, basis, m_own: int, m_basis: int, times_items: float = 1) -> str | None:
    """The word that so many seeds and items would give in four of five cases; None: none of `DECIDED`."""
    freedom, pooled = _pooled(effects, basis)
    df = m_own + m_basis - 2 if freedom else 0
    q = quantile(df)
    variances = [
        _variance(side, pooled, m, times_items) for side, m in ((effects, m_own), (basis, m_basis))
    ]
    own, theirs = _means(effects, basis)

    def room(borders: int) -> float:
        power = NormalDist().inv_cdf(1 - (1 - SURE) / borders)
        return power * math.sqrt(1 + q**2 / (2 * df)) if df else power

    for borders in (1, 2):
        # A basis that is hardly there may be none in a new draw: then 0 is one border more.
        more = theirs < (q + 2 * room(borders)) * math.sqrt(variances[1])
        ends = _fieller(own, theirs, *variances, q + room(borders + more))
        word = word_for(*ends) if ends else "no basis"
        if word in DECIDED and (word == "partly") == (borders == 2):
            return word
    return None


def _fieller(
    own: float, theirs: float, of_own: float, of_theirs: float, q: float
) -> tuple[float, float] | None:
    """All ratios r whose contrast own - r theirs is within q standard errors of 0, by their ends; the
    last two numbers are the means' variances. None: 0 is among what `theirs` may be."""
    square = theirs**2 - q**2 * of_theirs
    if square <= 0 or theirs <= 0:
        return None
    cross = own * theirs
    root = math.sqrt(max(cross**2 - square * (own**2 - q**2 * of_own), 0.0))
    return (cross - root) / square, (cross + root) / square


def word_for(low: float, high: float) -> str:
    """What an interval of ratios leaves open, in a word. Each border is excluded at 2.5 %."""
    if low > FULLY:
        return "transfers"
    if high < PARTLY:
        return "no"
    if low >= PARTLY:
        return "partly" if high <= FULLY else "at least partly"
    return "at most partly" if high <= FULLY else "undecided"


@functools.cache
def quantile(freedom: int) -> float:
    """Student's t, two-sided at 95 %; the normal's where nothing is known of seeds."""
    return float(stdtrit(freedom, 0.975)) if freedom else Z


def _means(*sides: Sequence[Estimate]) -> list[float]:
    return [math.fsum(effect.value for effect in side) / len(side) for side in sides]


def _pooled(effects: Sequence[Estimate], basis: Sequence[Estimate]) -> tuple[int, float]:
    """Degrees of freedom, and what both architectures say together about the variance of seeds."""
    freedom = len(effects) + len(basis) - 2
    return freedom, (_squares(effects) + _squares(basis)) / max(freedom, 1)


def _squares(effects: Sequence[Estimate]) -> float:
    """Squared distances of an architecture's effects from their mean, in sum."""
    (centre,) = _means(effects)
    return math.fsum((effect.value - centre) ** 2 for effect in effects)


def _variance(
    effects: Sequence[Estimate], pooled: float, seeds: int | None = None, times_items: float = 1
) -> float:
    """Of the mean of an architecture's effects, or of so many seeds of it with so many times the items.
    How much its seeds differ is estimated from two or three: nothing below what both architectures say
    together is believed."""
    n = len(effects)
    of_seeds = max(_squares(effects) / (n - 1), pooled) if n > 1 else pooled
    of_items = math.fsum(((effect.high - effect.low) / (2 * Z)) ** 2 for effect in effects) / n
    return of_seeds / (seeds or n) + of_items / times_items
