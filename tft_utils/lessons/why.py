"""Lesson 10, why: which part of a machine decides, and how many trained models it takes to say so."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as students_t

from tft_utils import models, stats
from tft_utils.course import standings
from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    Drawn,
    canvas,
    points,
    style,
    titled,
    write,
)


def difference(own, seeds, least=0.0):
    """own's mean minus the seeds' mean, and the ends of its 95 % interval: three numbers.

    The spread is that of `seeds`, two values or more, and never below `least`; `own` is one or more.
    """
    n, m = len(seeds), len(own)
    centre = sum(seeds) / n
    squares = sum((x - centre) ** 2 for x in seeds)
    spread = max(math.sqrt(squares / (n - 1)), least)
    half = students_t.ppf(0.975, n - 1) * spread * math.sqrt(1 / m + 1 / n)
    gap = sum(own) / m - centre
    return gap, gap - half, gap + half


def permutation_p(own, seeds):
    """The share of all ways to deal the values into groups of these sizes whose means are at least as
    far apart as they were dealt, in either direction. Sizes, not names, tell the groups apart."""
    values = [*own, *seeds]

    def apart(chosen):
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        return abs(sum(values[i] for i in chosen) / len(own) - sum(rest) / len(rest))

    ways = list(itertools.combinations(range(len(values)), len(own)))
    seen = apart(tuple(range(len(own))))
    return sum(apart(way) >= seen - 1e-12 for way in ways) / len(ways)


def smallest_p(n_own, n_seeds):
    """The smallest p that `permutation_p` can give for groups of these sizes, however far apart."""
    ways = math.comb(n_own + n_seeds, n_own)
    if n_own == n_seeds:
        return 2 / ways  # the two groups may change names
    return 1 / ways


def false_rate(differs, n_own, n_seeds, spread, items, draws, seed):
    """How often `differs(own, seeds)` says True of trained models that differ by luck alone.

    A value is one model's: luck in training (standard deviation `spread`) plus luck of its items
    (`items`), both normal. Draws that many comparisons of n_own models with n_seeds models.
    """
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(draws):
        luck = rng.normal(0, spread, n_own + n_seeds)
        values = luck + rng.normal(0, items, n_own + n_seeds)
        wrong += differs(values[:n_own], values[n_own:])
    return wrong / draws


def seeds_needed(gap, spread, most=200):
    """The fewest seeds a side, from 2 to `most`, that show a true gap in four of five cases; None: more.

    A t test with n seeds a side sees a gap that is (t + 0.84) standard errors long, where t is its own
    97.5 % point and 0.84 the normal's 80 % point.
    """
    for n in range(2, most + 1):
        error = spread * math.sqrt(2 / n)
        if abs(gap) >= (students_t.ppf(0.975, 2 * n - 2) + 0.84) * error:
            return n
    return None


def holm(p):
    """Each p value of a list, corrected for how many there are (Holm 1979), in the list's order.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below one
    that was smaller before, and none rises above 1.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, before = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        before = max(before, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = before
    return corrected


def judged(own, seeds, low, high, p):
    """The word for a changed model against the seeds of its base, in one measure.

    low, high: the interval of the difference; p: corrected. One changed model may be `outside the seeds`;
    two or more may say `differs`. A quarter: of the seeds' mean, on both sides of 0.
    """
    apart = low > 0 or high < 0
    quarter = abs(sum(seeds) / len(seeds)) / 4
    if apart and p < 0.05:
        return "differs" if len(own) > 1 else "outside the seeds"
    if apart:
        return "apart, not after Holm"
    if -quarter < low and high < quarter:
        return "same within a quarter"
    return "open"


def anything_p(values, n_own):
    """Whether the first n_own models differ from the others in anything: one p for all measures.

    values [model measure]. The share of all ways to choose n_own models that lie at least as far from
    the rest: the mean over measures of the distance of means, in units of a measure's spread over all
    models. Measures in which no model differs are left out.
    """
    spread = values.std(0)
    values = values[:, spread > 0] / spread[spread > 0]

    def apart(chosen):
        own = np.isin(np.arange(len(values)), chosen)
        return abs(values[own].mean(0) - values[~own].mean(0)).mean()

    ways = itertools.combinations(range(len(values)), n_own)
    far = np.array([apart(way) for way in ways])  # the first way is as it was
    return (far >= far[0] - 1e-12).mean()


# --------------------------------------------------------------------------------------------------
# What there is to compare


FACTORS = {  # organism: (the base it differs from, the part that was changed)
    "mamba-tied": ("mamba", "tying"),
    "mamba-unconvolved": ("mamba", "convolution"),
    "mamba-unselective": ("mamba", "selection"),
    "mamba-unpenalised": ("mamba", "write penalty"),
    "mamba-state4": ("mamba", "state size, 4"),
    "mamba-state64": ("mamba", "state size, 64"),
    "transformer-deep": ("transformer", "depth"),
}


class Measured(NamedTuple):
    """One number of each trained model."""

    name: str
    of: dict[str, dict[int, float]]  # model -> seed -> value
    items: dict[str, float]  # model -> the standard error by items alone


def measured(board: Mapping, cards: Mapping[str, Mapping[int, Mapping]]) -> list[Measured]:
    """What the cards and the board say: the capabilities, then each technique's effect."""
    found = []
    kinds = dict.fromkeys(
        k for of_seeds in cards.values() for c in of_seeds.values() for k in c["evaluation"]
    )
    for kind in kinds:
        of = {
            name: {seed: card["evaluation"][kind] for seed, card in of_seeds.items()}
            for name, of_seeds in cards.items()
        }
        found.append(
            Measured(
                f"can do: {kind.replace('_', ' ')}",
                {name: {seed: x["accuracy"] for seed, x in known.items()} for name, known in of.items()},
                {name: statistics.fmean(map(_error, known.values())) for name, known in of.items()},
            )
        )
    rows: dict[str, Measured] = {}
    for row in board["rows"]:
        name = f"{row['technique']}: {row['metric']}"
        one = rows.setdefault(name, Measured(name, {}, {}))
        effects = {int(seed): score["effect"] for seed, score in row["seeds"].items()}
        one.of[row["architecture"]] = {seed: e["value"] for seed, e in effects.items()}
        one.items[row["architecture"]] = statistics.fmean(map(_error, effects.values()))
    return found + list(rows.values())


def _error(interval: Mapping) -> float:
    return (interval["high"] - interval["low"]) / (2 * stats.Z)


def missing(board: Mapping, cards: Mapping) -> list[str]:
    """A sentence for each factor that nothing can be said of, or not all."""
    on_board, said = standings.seeds_of(board), []
    for name, (base, part) in FACTORS.items():
        if name not in cards:
            said.append(
                f"{part}: {name} is not trained; `python -m tft_utils.organisms train {name} --ship`"
            )
        elif name not in on_board:
            said.append(f"{part}: {name} is trained, its lessons are not run; `make scoreboard`")
        elif len(on_board.get(base, ())) < 2:
            said.append(f"{part}: {base} has no second seed on the board; `make scoreboard`")
    return said


def repeated(board: Mapping, names: Sequence[str]) -> list[str]:
    """Those of the models that the board has of two seeds or more, in their order. Without any: the
    course's pair, and a sentence that says so."""
    on_board = standings.seeds_of(board)
    if found := [name for name in names if len(on_board.get(name, ())) > 1]:
        return found
    print(f"seeds are compared here, and the board has no two of {', '.join(names)}: see the pair's")
    return list(models.PAIR)


class Compared(NamedTuple):
    """A factor's organisms against the seeds of its base, in one measure."""

    part: str
    base: str
    name: str  # of the measure
    own: list[float]
    seeds: list[float]
    gap: float
    low: float
    high: float
    p: float  # of the t statistic behind the interval
    corrected: float = math.nan  # for the measures of the part
    word: str = ""

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


WORDS = ("differs", "outside the seeds", "apart, not after Holm", "same within a quarter", "open")
FAR = WORDS[:2]  # what is said of a difference


def compared(
    measures: Sequence[Measured], difference: Callable, correct: Callable, judge: Callable
) -> list[Compared]:
    """Every factor in every measure that both it and two seeds of its base have.

    Where all seeds agree, as at 100 %, the luck of items is the least spread, on whichever side it is
    larger. p values are corrected for the measures of a part: a part is one question.
    """
    found = []
    for organism, (base, part) in FACTORS.items():
        rows = []
        for measure in measures:
            own = list(measure.of.get(organism, {}).values())
            seeds = list(measure.of.get(base, {}).values())
            if not own or len(seeds) < 2:
                continue
            least = max(measure.items[name] for name in (base, organism))
            gap, low, high = difference(own, seeds, least)
            half, critical = (high - low) / 2, float(students_t.ppf(0.975, len(seeds) - 1))
            t = abs(gap) * critical / half if half > 0 else math.inf if gap else 0.0
            p = float(2 * students_t.sf(t, len(seeds) - 1))
            rows.append(Compared(part, base, measure.name, own, seeds, gap, low, high, p))
        for row, p in zip(rows, correct([row.p for row in rows]), strict=True):
            word = judge(row.own, row.seeds, row.low, row.high, p)
            found.append(row._replace(corrected=p, word=word))
    return found


def by_part(rows: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Each part's comparisons, in the order of `FACTORS`."""
    found: dict[str, list[Compared]] = {}
    for row in rows:
        found.setdefault(row.part, []).append(row)
    return found


def models_of(rows: Sequence[Compared]) -> tuple[np.ndarray, int]:
    """Of a part's comparisons: a row for each model, the changed ones first, a column for each measure
    that all of them have [model measure]; and how many are changed."""
    sizes = [(len(row.own), len(row.seeds)) for row in rows]
    whole = max(sizes)
    kept = [[*row.own, *row.seeds] for row, size in zip(rows, sizes, strict=True) if size == whole]
    return np.array(kept).T, whole[0]


def said_of(part: str, rows: Sequence[Compared], p: float) -> str:
    """What the comparisons of one part say, in a sentence; p: of `anything_p`."""
    counts = {word: [row for row in rows if row.word == word] for word in WORDS}
    named = {
        word: "; ".join(f"{row.name}, {row.gap:+.2f}" for row in some[:3]) if word in FAR else ""
        for word, some in counts.items()
    }
    said = ", ".join(
        f"{len(some)} {word}" + (f" ({named[word]})" if named[word] else "")
        for word, some in counts.items()
        if some
    )
    own, seeds = len(rows[0].own), len(rows[0].seeds)
    return (
        f"* **{part}**, {own} against {seeds} of {rows[0].base}: of {len(rows)} measures {said}. In all "
        f"together: p = {p:.2g}, where {smallest_p(own, seeds):.2g} is the least."
    )


def table(rows: Sequence[Compared]) -> str:
    """Factor x technique in Markdown: the seeds of each base, mean and spread; of each part the
    difference, its interval and its word. What lies farthest apart stands first."""
    parts, names = by_part(rows), {}
    for row in sorted(rows, key=lambda row: row.corrected):
        names.setdefault(row.name, {})[row.part] = row
    bases = list(dict.fromkeys(row.base for row in rows))
    lines = []
    for name, of_part in names.items():
        seeds = {row.base: row.seeds for row in of_part.values()}
        lines.append(
            (
                name,
                *(
                    f"{statistics.fmean(seeds[b]):.2f} ± {statistics.stdev(seeds[b]):.2f}"
                    if b in seeds
                    else ""
                    for b in bases
                ),
                *(_cell(of_part.get(part)) for part in parts),
            )
        )
    return standings.markdown(("measure", *(f"seeds of {b}" for b in bases), *parts), lines)


def _cell(row: Compared | None) -> str:
    if row is None:
        return ""
    word = f"**{row.word}**, p {row.corrected:.2g}" if row.word in FAR else row.word
    return f"{row.gap:+.2f} [{row.low:+.2f}, {row.high:+.2f}], {word}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


# --------------------------------------------------------------------------------------------------
# Figures


def two_sources() -> Drawn:
    """What one model a side shows, and what several do."""
    figure, axes = canvas((9, 3.0), (-0.3, 3.4), (-0.6, 1.25), "one seed a side", "several seeds a side")
    shown = (([0.35], [0.75]), ([0.35, 0.62, 0.85, 0.5], [0.75, 0.42, 0.55, 0.9]))
    for axis, (base, changed) in zip(axes, shown, strict=True):
        for x, values, colour, marker, name in (
            (1, base, BLUE, "o", "as it was"),
            (2, changed, VERMILION, "s", "one part changed"),
        ):
            axis.plot([x] * len(values), values, marker, color=colour, markersize=9)
            write(axis, x, -0.25, name)
        axis.annotate("", (1, base[0]), (2, changed[0]), arrowprops={"arrowstyle": "<->", "color": GREY})
    write(axes[0], 1.5, 1.1, "the part, or luck?")
    write(axes[1], 1.5, 1.1, "mostly luck", color=BLACK)
    return figure, "With one model a side a gap may be luck; with four a side the two clouds overlap."


def luck(rates: Mapping[str, Mapping[float, float]]) -> Drawn:
    """How often a rule calls two samples of one thing different; rule -> spread over items -> share."""
    figure, (axis,) = titled([""], "spread of seeds / error by items", "false differences", (7.2, 3.6))
    for (name, curve), marker, dash in zip(rates.items(), "os^D", ("-", "--", "-.", ":"), strict=False):
        axis.plot(
            list(curve), list(curve.values()), marker=marker, linestyle=dash, label=name, color=BLACK
        )
    axis.axhline(0.05, color=GREY, linestyle=":", linewidth=1)
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=9)
    said = "; ".join(f"{name}: {_ends(curve)}" for name, curve in rates.items())
    return figure, f"Share of false differences where nothing differs but luck. {said}. Promised: 0.05."


def _ends(curve: Mapping[float, float]) -> str:
    xs = list(curve)
    return f"{curve[xs[0]]:.2f} at a ratio of {xs[0]:g}, {curve[xs[-1]]:.2f} at {xs[-1]:g}"


def seeds_of_one(measures: Sequence[Measured], names: Sequence[str], model: str) -> Drawn:
    """The seeds of one model in some measures, each on its own line."""
    size = 8, 1.2 + 0.42 * len(names)
    figure, (axis,) = titled([""], "effect (score - control)", size=size)
    at = {measure.name: measure for measure in measures}
    said = []
    for row, name in enumerate(names):
        values = at[name].of[model]
        for i, (seed, value) in enumerate(values.items()):  # in steps: equal values stay legible
            y = row + 0.25 * (i - (len(values) - 1) / 2)
            axis.plot(value, y, color=style(model)["color"], marker=f"${seed}$", markersize=7)
        axis.plot([min(values.values()), max(values.values())], [row, row], color=GREY, zorder=0)
        said.append(f"{name}: {_listed(list(values.values()))}")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    return figure, f"Seeds of {model}, by number, where they differ most. {'; '.join(said)}."


def factors(rows: Sequence[Compared]) -> Drawn:
    """Every comparison as a point, in half-widths of its interval; what is beyond 6 is an arrow at 6."""
    parts = by_part(rows)
    size = 8, 1.6 + 0.6 * len(parts)
    figure, (axis,) = titled(
        [""], "difference / half-width of its 95 % interval (arrow: beyond 6)", size=size
    )
    for y, of_part in enumerate(parts.values()):
        for i, row in enumerate(of_part):
            ratio = row.gap / row.half if row.half else 0.0
            x = max(-6.0, min(6.0, ratio))
            look = {"color": VERMILION, "marker": "s"} if abs(x) > 1 else {"color": GREY, "marker": "o"}
            if x != ratio:
                look["marker"] = "<" if x < 0 else ">"
            points(axis, [y + 0.5 * (i / max(1, len(of_part) - 1) - 0.5)], [x], markersize=4, **look)
        far = max(of_part, key=lambda row: abs(row.gap / row.half) if row.half else 0.0)
        if far.half and abs(far.gap / far.half) > 1:
            x = max(-6.0, min(6.0, far.gap / far.half))
            write(axis, x, y - 0.38, far.name, fontsize=8, ha="left" if x < 0 else "right")
    for border in (-1, 1):
        axis.axvline(border, color=BLACK, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(parts)), parts)
    axis.set(xlim=(-6.3, 6.3), ylim=(len(parts) - 0.4, -0.6))
    beyond = [f"{row.part}, {row.name}" for row in rows if row.word in FAR]
    named = f"Outside the seeds: {'; '.join(beyond[:4])}" if beyond else "None is outside the seeds"
    return (
        figure,
        f"{len(rows)} comparisons of {len(parts)} changed parts with seeds of their base. {named}.",
    )


# --------------------------------------------------------------------------------------------------
# Checks


def _number(answer, what: str) -> float:
    try:
        return float(answer)
    except (TypeError, ValueError):
        raise Wrong(f"expected {what} as a number, found {type(answer).__name__}") from None


def check_difference(attempt) -> None:
    own, seeds = [0.2, 0.4], [0.9, 0.7, 0.95]
    found = attempt(list(own), list(seeds))
    if not isinstance(found, tuple) or len(found) != 3:
        raise Wrong("expected three numbers: the gap and the two ends of its interval")
    gap, low, high = (_number(x, "each of the three") for x in found)
    truth = difference(own, seeds)
    if not math.isclose(gap, truth[0], rel_tol=1e-6):
        if math.isclose(gap, -truth[0], rel_tol=1e-6):
            raise Wrong("the gap is own's mean minus the seeds' mean; yours is the other way round")
        raise Wrong(f"the gap of {own} and {seeds} is {truth[0]:.4f}, found {gap:.4f}")
    half, wanted = (high - low) / 2, (truth[2] - truth[1]) / 2
    if not math.isclose((low + high) / 2, gap, abs_tol=1e-6):
        raise Wrong("the interval reaches as far above the gap as below it")
    n, m = len(seeds), len(own)
    mistakes = {
        "divide the squares by n - 1, not by n: the mean was estimated from the same values": math.sqrt(
            (n - 1) / n
        ),
        "with three seeds the interval takes Student's t with n - 1 degrees of freedom, 4.3, not the "
        "normal's 1.96": stats.Z / students_t.ppf(0.975, n - 1),
        "the error of `own` is missing: sqrt(1 / m + 1 / n)": math.sqrt(1 / n) / math.sqrt(1 / m + 1 / n),
        "the error of the seeds' mean is missing: sqrt(1 / m + 1 / n)": math.sqrt(1 / m)
        / math.sqrt(1 / m + 1 / n),
        "the degrees of freedom are n - 1, those of the seeds alone": students_t.ppf(0.975, n)
        / students_t.ppf(0.975, n - 1),
    }
    for hint, factor in mistakes.items():
        if math.isclose(half, wanted * factor, rel_tol=1e-6):
            raise Wrong(hint)
    if not math.isclose(half, wanted, rel_tol=1e-6):
        raise Wrong(f"the half-width is {wanted:.4f}, found {half:.4f}: t times spread times error")
    for seeds, least in (([1.0, 1.0], 0.1), ([0.9, 0.7, 0.95], 0.01)):
        if not np.allclose(attempt([0.5], seeds, least), difference([0.5], seeds, least)):
            raise Wrong("the spread is never below `least`: take the larger of the two")


def check_permutation_p(attempt) -> None:
    cases = {
        "an odd one out": ([0.1], [0.9, 0.8, 0.85]),
        "one inside": ([0.82], [0.9, 0.8, 0.7]),
        "two and two": ([0.1, 0.2], [0.8, 0.9]),
        "ties": ([1.0], [1.0, 1.0, 0.5]),
    }
    for what, (own, seeds) in cases.items():
        found, truth = _number(attempt(list(own), list(seeds)), "p"), permutation_p(own, seeds)
        if math.isclose(found, truth, rel_tol=1e-6):
            continue
        ways = math.comb(len(own) + len(seeds), len(own))
        if math.isclose(found, truth / 2, rel_tol=1e-6):
            raise Wrong(f"{what}: count both directions; `abs` of the difference of means")
        if math.isclose(found, truth - 1 / ways, abs_tol=1e-9):
            raise Wrong(
                f"{what}: the way it was dealt counts too, and so do ties: at least as far apart, `>=`"
            )
        if found > 1:
            raise Wrong(f"{what}: p is a share of the {ways} ways, found {found:.3g}")
        raise Wrong(f"{what}, {own} against {seeds}: p is {truth:.3f}, found {found:.3f}")


def check_smallest_p(attempt) -> None:
    for n_own, n_seeds in ((1, 3), (1, 2), (2, 3), (3, 3), (4, 4), (8, 4)):
        found, truth = _number(attempt(n_own, n_seeds), "p"), smallest_p(n_own, n_seeds)
        if math.isclose(found, truth, rel_tol=1e-9):
            continue
        if n_own == n_seeds and math.isclose(found, truth / 2, rel_tol=1e-9):
            raise Wrong(
                f"{n_own} against {n_seeds}: groups of one size can change names, and the means stay as "
                "far apart: two ways"
            )
        if math.isclose(found, 2 / math.comb(n_own + n_seeds, n_own), rel_tol=1e-9):
            raise Wrong(
                f"{n_own} against {n_seeds}: with groups of two sizes only one way is the farthest"
            )
        raise Wrong(f"{n_own} against {n_seeds}: the smallest p is {truth:.4f}, found {found:.4f}")


def check_false_rate(attempt) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def note(own, seeds) -> bool:
        seen.append((np.array(own, dtype=float), np.array(seeds, dtype=float)))
        return len(seen) % 4 == 0

    rate = _number(attempt(note, 2, 3, 0.3, 0.4, 2000, 0), "a share")
    if len(seen) != 2000:
        raise Wrong(f"asked for 2000 comparisons, `differs` was called {len(seen)} times")
    if {(len(own), len(seeds)) for own, seeds in seen} != {(2, 3)}:
        raise Wrong("each comparison is of n_own models with n_seeds models, in this order")
    if not math.isclose(rate, 0.25, abs_tol=1e-9):
        raise Wrong(f"`differs` said True in a quarter of the draws, your share is {rate:.4g}")
    values = np.array([np.concatenate(pair) for pair in seen])
    if np.ptp(values, axis=0).max() == 0:
        raise Wrong("every comparison draws the same numbers: make the generator before the loop, once")
    spread, right = values.std(), math.hypot(0.3, 0.4)
    if abs(values.mean()) > 0.05:
        raise Wrong("nothing differs: both kinds of luck have the mean 0")
    for size, what in ((0.3, "the luck of items is"), (0.4, "the luck of training is")):
        if abs(spread - size) < 0.03:
            raise Wrong(f"{what} missing: a value is the sum of both")
    if abs(spread - right) > 0.03:
        raise Wrong(
            f"values should vary by {right:.2f}, the root of the summed squares; found {spread:.2f}"
        )
    shared = abs(np.corrcoef(values.T) - np.eye(5)).max()
    if shared > 0.15:
        raise Wrong("each model has luck of its own: draw one number a model")
    seen.clear()
    attempt(note, 2, 3, 0.3, 0.4, 2000, 0)  # drawn one by one or all at once, the seed decides
    if not np.allclose([np.concatenate(pair) for pair in seen], values):
        raise Wrong("the same seed should give the same draws: make one generator from it, once")


def check_seeds_needed(attempt) -> None:
    for gap, spread in ((1.0, 0.1), (0.5, 0.3), (-0.5, 0.3), (0.2, 0.2), (0.1, 0.3)):
        found, truth = attempt(gap, spread), seeds_needed(gap, spread)
        if found == truth:
            continue
        if gap < 0 and found is None:
            raise Wrong("a gap below 0 is as large as one above: take its absolute value")
        if found is None:
            raise Wrong(f"a gap of {gap} with a spread of {spread} needs {truth} seeds, found None")
        if isinstance(found, int) and found < truth:
            raise Wrong(
                f"gap {gap}, spread {spread}: {truth} seeds a side, found {found}; is the error that of "
                "a difference, sqrt(2 / n), and is 0.84 added to t?"
            )
        raise Wrong(f"gap {gap}, spread {spread}: the fewest seeds a side are {truth}, found {found}")
    if attempt(0.001, 1.0) is not None:
        raise Wrong("where even `most` seeds are too few, return None")


def check_holm(attempt) -> None:
    for p in ([0.01, 0.04, 0.03], [0.04, 0.5, 0.001, 0.04], [0.9, 0.6]):
        found, truth = attempt(list(p)), holm(p)
        if not isinstance(found, list) or len(found) != len(p):
            raise Wrong("expected a list with one corrected value for each p")
        if np.allclose(found, truth):
            continue
        if np.allclose(sorted(found), sorted(truth)):
            raise Wrong("the values are right and stand in another order than the list's")
        if max(found) > 1:
            raise Wrong("no p value is above 1: take the smaller of it and 1")
        if np.allclose(found, [min(1.0, len(p) * x) for x in p]):
            raise Wrong(
                "this is Bonferroni: all are multiplied by their number; Holm's next factor is one less"
            )
        raise Wrong(
            f"of {p} Holm makes {[round(x, 3) for x in truth]}, found "
            f"{[round(float(x), 3) for x in found]}; none may fall below one that was smaller before"
        )


def check_judged(attempt) -> None:
    seeds, one, two = [0.8, 0.9, 1.0], [0.2], [0.2, 0.3]
    cases = (  # what is given, and the hint where the word is another one
        ((two, seeds, -0.9, -0.4, 0.01), "two changed models, far apart after correction"),
        ((one, seeds, -0.9, -0.4, 0.01), "one changed model never differs: it is outside the seeds"),
        ((one, seeds, 0.4, 0.9, 0.01), "a difference may be above 0, too"),
        ((one, seeds, -0.9, -0.4, 0.2), "the interval leaves out 0, and the corrected p is too large"),
        ((one, seeds, 0.01, 0.1, 0.3), "the interval leaves out 0, which stands before the quarter"),
        ((one, seeds, -0.1, 0.2, 0.6), "both ends lie within a quarter of 0.9, which is 0.225"),
        ((one, seeds, -0.3, 0.2, 0.6), "one end lies outside the quarter: the part may yet matter"),
        ((one, [-0.8, -0.9, -1.0], -0.1, 0.2, 0.6), "the seeds' mean may be below 0: take its size"),
    )
    for given, hint in cases:
        found, truth = attempt(*given), judged(*given)
        if found not in WORDS:
            raise Wrong(f"expected one of {', '.join(WORDS)}, found {found!r}")
        if found != truth:
            raise Wrong(f"{hint}: expected '{truth}', found '{found}'")


def check_anything_p(attempt) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (5, 6))
    values[:, 3] = 0.5  # nobody differs
    values[:2, :2] += [0.9, -0.9]  # in two directions
    values[:, 5] *= 100  # one wide measure
    for n_own in (1, 2):
        found = _number(attempt(values.copy(), n_own), "p")
        truth, ways = anything_p(values, n_own), math.comb(len(values), n_own)
        if math.isclose(found, truth, rel_tol=1e-6):
            continue
        if found == 0 or math.isnan(found):
            raise Wrong("a measure in which no model differs has a spread of 0: leave it out")
        if found > 1:
            raise Wrong(f"p is a share of the {ways} ways, found {found:.3g}")
        if math.isclose(found, truth - 1 / ways, abs_tol=1e-9):
            raise Wrong(
                "the way it was counts too, `>=`; and the spread is that of all models, changed or not"
            )
        raise Wrong(
            f"p is {truth:.3f}, found {found:.3f}: divide each measure by its spread over all models, "
            "take each distance without its sign, and only then the mean over measures"
        )
