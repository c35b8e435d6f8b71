"""Lesson 08, steering: references, checks and figures."""

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill

import numpy as np
import torch
from matplotlib.ticker import PercentFormatter

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_equal
from tft_utils.course.plots import BLUE, GREEN, GREY, VERMILION, Drawn, arrow, canvas, style, write
from tft_utils.stats import Estimate
from tft_utils.techniques.steering import Sweep

in_points = partial(PercentFormatter, xmax=1, decimals=0, symbol="")  # shows shares in points
KINDS = {  # of steering
    "residual": {"color": BLUE, "marker": "o"},
    "state": {"color": VERMILION, "marker": "s"},
    "both": {"color": GREY, "marker": "^"},
    "residual, first word": {"color": GREEN, "marker": "D"},
}


def steering_vector(behaving, other):
    """The direction [d] from texts of one side [n d] and of the other [m d]: a mean difference."""
    return behaving.mean(0) - other.mean(0)


def matching_probability(logits, matching, other):
    """Share of the matching letter among the two letters [prompt].

    logits: next-word logits [prompt vocab]; matching, other: token ids of the letters [prompt].
    """
    letters = torch.stack([matching, other], 1)
    return logits.gather(1, letters).softmax(1)[:, 0]


def order_averaged(values, asks):
    """One mean per question, in the order in which questions first occur.

    values: one number for each prompt; asks: the question that each prompt asks.
    """
    together = {}
    for value, question in zip(values, asks, strict=True):
        together.setdefault(question, []).append(value)
    return [sum(found) / len(found) for found in together.values()]


def check_steering_vector(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    planted = torch.tensor([3.0, 0.0, -2.0, 0.5])
    behaving = torch.randn(6, 4, generator=draw) + 10 + planted
    other = torch.randn(4, 4, generator=draw) + 10
    truth = behaving.mean(0) - other.mean(0)
    mistakes = {
        "the sign is turned: the direction leads from the other texts to the behaving ones": -truth,
        "you scale it to length 1; then a multiplier of 1 no longer means 'as far apart as the texts "
        "are'": truth / truth.norm(),
        "you add up the texts; with 6 on one side and 4 on the other that is no difference of "
        "means": behaving.sum(0) - other.sum(0),
        "that is the mean of one side; what both sides share must go": behaving.mean(0),
        "you halve it; the multiplier 1 should lead from one side's mean to the other's": truth / 2,
    }
    otherwise = "it is not the mean of one side minus the mean of the other"
    expect_equal(attempt(behaving, other), truth, "the direction", mistakes, otherwise)


def check_matching_probability(attempt) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 4.0, 1.0, -1.0], [1.0, 1.0, 5.0, 5.0]])
    matching, other = torch.tensor([0, 2, 0]), torch.tensor([2, 0, 1])
    chances, rows = logits.softmax(1), torch.arange(3)
    right, wrong = chances[rows, matching], chances[rows, other]
    values = logits.gather(1, torch.stack([matching, other], 1))
    mistakes = {
        "that is p(matching letter) among all words; divide by the two letters' sum, or nonsense "
        "counts as the other answer": right,
        "that is the share of the other letter": wrong / (right + wrong),
        "you use the first prompt's letters for all; each prompt has its own matching one": chances[:, 0]
        / (chances[:, 0] + chances[:, 2]),
        "you divide logits; turn them into probabilities first": values[:, 0] / values.sum(1),
    }
    answer, truth = attempt(logits, matching, other), right / (right + wrong)
    otherwise = "it is not p(matching) / (p(matching) + p(other)) of each prompt"
    expect_equal(answer, truth, "the matching probabilities", mistakes, otherwise)


def check_order_averaged(attempt) -> None:
    values, asks = [0.9, 0.2, 0.3, 0.6, 0.5], ["lamp", "bell", "lamp", "bell", "rope"]
    answer = attempt(values, asks)
    if not isinstance(answer, list):
        raise Wrong(f"expected a list of numbers, found {type(answer).__name__}")
    if len(answer) == len(values):
        raise Wrong("one number per question, not per prompt: two letter orders are no two questions")
    if len(answer) == 1:
        raise Wrong("that is one mean of everything; an interval needs one number per question")
    truth, numbers = [0.6, 0.4, 0.5], [round(value, 9) for value in answer]
    if numbers == truth:
        return
    if sorted(numbers) == sorted(truth):
        raise Wrong("keep the order in which the questions first occur")
    if numbers == [0.9, 0.2, 0.5]:
        raise Wrong("you keep one letter order and drop the other; average both")
    if numbers == [1.2, 0.8, 0.5]:
        raise Wrong("you add the orders up; divide by how many there are")
    raise Wrong("expected the mean over the prompts of each question")


def two_places() -> Drawn:
    """A sketch: what can be steered at a word of either model."""
    figure, axes = canvas((9, 3.1), (-0.6, 4.0), (-0.4, 2.3), "Transformer", "Mamba")
    looks = [{"color": style(name)["color"]} for name in ("transformer", "mamba")]
    for axis, look in zip(axes, looks, strict=True):
        for x, word in enumerate(("...", "Answer", ":", "(")):
            write(axis, x, -0.2, word, fontsize=13)
            arrow(axis, (x, 0.05), (x, 2.0))
        write(axis, 3.08, 1.5, "+ m v", ha="left", fontsize=14, weight="bold", **look)
        write(axis, 3.08, 1.15, "residual\nstream", ha="left", fontsize=9, va="top", **look)
    for x in range(3):
        arrow(axes[0], (x + 0.05, 0.6), (2.95, 1.0), connectionstyle="arc3,rad=-0.1", **looks[0])
        arrow(axes[1], (x + 0.05, 0.8), (x + 0.95, 0.8), **looks[1])
    write(axes[1], 2.5, 0.5, "+ m s", fontsize=14, weight="bold", **looks[1])
    write(axes[1], 2.5, 0.3, "state", fontsize=9, va="top", **looks[1])
    return figure, (
        "In both models a vector can be added to the residual stream of the last word; in Mamba "
        "also to the state that reaches that word."
    )


def maps(rows: Mapping[str, Mapping[str, Sweep]]) -> Drawn:
    """Mean effect in points over depth k/L x multiplier m: row -> column -> sweep, on shared axes.

    Every row has the same columns. Depths and multipliers that a panel lacks stay grey there.
    """
    columns = list(next(iter(rows.values())))
    swept = [cells for row in rows.values() for cells in row.values()]
    known = sorted({m for cells in swept for m in cells.multipliers})
    many, margin = len(columns) > 3, 0.5 / min(cells.n_layers for cells in swept)
    grid, effects = {}, {}
    for name, row in rows.items():
        for column, cells in row.items():
            effect = 100 * (cells.matching - cells.unsteered).mean(-1).cpu()
            shown = np.full((cells.n_layers + 1, len(known)), np.nan)
            shown[np.ix_(cells.depths, [known.index(m) for m in cells.multipliers])] = effect
            half = 0.5 / cells.n_layers
            extent = (-0.5, len(known) - 0.5, -half, 1 + half)
            grid[f"{name}, {column}"] = plots.Map(shown, extent=extent, origin="lower")
            effects.setdefault(name if many else column, []).append(effect)
    look = {"size": (1.5, 1.7) if many else (3.1, 2.9), "columns": len(columns)}
    names, share = ("effect (points)", "multiplier m", "k/L"), {"sharex": True, "sharey": True}
    figure, axes = plots.maps(grid, *names, (-50, 50), **look, **share)
    ticks = range(0, len(known), len(known) - 1) if many else range(len(known))
    for at, axis in enumerate(axes):
        row, column = divmod(at, len(columns))
        axis.set_xticks(ticks, [f"{known[i]:g}" for i in ticks], rotation=90)
        title = "" if row else columns[column]
        axis.set_title(title.replace(" ", "\n") if many else title, fontsize=10)
        axis.set_facecolor("#DDDDDD")
        if not column:
            axis.set_ylabel(f"{fill(list(rows)[row], 12)}\nk/L")
    axes[0].set(xlim=(-0.5, len(known) - 0.5), ylim=(-margin, 1 + margin), yticks=(0, 0.5, 1))
    said = "; ".join(
        f"{part} from {min(e.min() for e in found):+.0f} to {max(e.max() for e in found):+.0f}"
        for part, found in effects.items()
    )
    return figure, f"Effect on the matching probability in points: {said}."


def reach(rows: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]) -> Drawn:
    """Per behaviour, how far each model was steered down and up, with 95 % intervals.

    rows: 'model, place' -> behaviour -> its two ends.
    """
    ends = {name: {b: list(both) for b, both in row.items()} for name, row in rows.items()}
    xlabel = "effect on the matching probability (points); dotted: 20"
    size = (8, 1.2 + 0.5 * len(next(iter(rows.values()))))

    def look(title: str, name: str, at: int) -> dict:
        return style(name.partition(",")[0])

    figure, (axis,) = plots.dot_panels({"": ends}, xlabel, (-0.65, 0.65), look, size=size)
    for edge in (-0.2, 0, 0.2):
        axis.axvline(edge, color=GREY, linewidth=1, linestyle=":" if edge else "-")
    axis.xaxis.set_major_formatter(in_points())
    least = {
        name: min(min(-down.value, up.value) for down, up in row.values()) for name, row in rows.items()
    }
    said = "; ".join(
        f"{name} moves every behaviour by at least {100 * e:.0f} points each way"
        for name, e in least.items()
    )
    return figure, f"Steering on held-out questions: {said}."


def both_ways(rows: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Drawn:
    """Range of the matching probability. Of each row: model -> kind of steering -> behaviour -> share."""
    columns, groups = max(map(len, rows)), {}
    for row in rows:
        groups |= row | {" " * (len(groups) + at): {} for at in range(len(row), columns)}

    def look(title: str, kind: str, at: int) -> dict:
        return KINDS[kind]

    grid = {"size": (2.9, 3.3), "columns": columns}
    figure, axes = plots.dot_panels(groups, "range (points)", (-0.03, 1.05), look, **grid)
    axes[0].xaxis.set_major_formatter(in_points())
    for axis in axes:
        axis.tick_params(labelbottom=True)  # also where the panel below is empty
    said = plots.each(groups, lambda row: f"median {100 * np.median(list(row.values())):.0f}")
    return figure, f"Range of the matching probability in points. {said}."


def moods(curves: Mapping[str, Sequence[tuple[float, Estimate, float]]]) -> Drawn:
    """Per model (multiplier, share of good continuations, perplexity ratio): two panels."""
    figure, (good, harm) = plots.titled(["", ""], "multiplier m", size=(4.6, 3.4), sharey=False)
    said = []
    for name, rows in curves.items():
        m, shares, ratios = zip(*rows, strict=True)
        plots.curve(good, shares, m, name, bars=True, **style(name))
        plots.curve(harm, ratios, m, **style(name))
        said.append(
            f"{name} from {shares[0].value:.0%} to {shares[-1].value:.0%} good continuations "
            f"at {ratios[-1]:.2f} times the perplexity"
        )
    good.set(ylabel="good-mood continuations (%)", ylim=(-0.03, 1.03))
    good.yaxis.set_major_formatter(in_points())
    harm.axhline(1.2, color=GREY, linewidth=1, linestyle=":")
    harm.set_ylabel("perplexity, steered / unsteered")
    plots.legend(figure)
    return figure, f"Stories that began badly: {'; '.join(said)}."


def labellings(models: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Drawn:
    """Reach under every labelling of six cues: model -> behaviour -> (10 labellings, 18 cancelled).

    The first labelling is the true one. The mirrors are drawn as the negatives: reach is odd.
    """
    groups, said = {}, []
    for name, rows in models.items():
        mirrored = {b: [*ways, *(-x for x in ways)] for b, (_, ways) in rows.items()}
        groups[name] = {
            "true labels": {b: labels[:1] for b, (labels, _) in rows.items()},
            "the 19 others": {b: [*labels[1:], *(-x for x in labels)] for b, (labels, _) in rows.items()},
            "cancelled, 36 ways": mirrored,
        }
        top = sum(labels[0] > max(map(abs, labels[1:])) for labels, _ in rows.values())
        far = max(map(max, mirrored.values()))
        said.append(
            f"in {name} the true labels reach farthest for {top} of {len(rows)} behaviours, "
            f"cancelled ones at most {100 * far:.0f} points"
        )

    def look(name: str, series: str, at: int) -> dict:
        dot = {"color": style(name)["color"], "marker": "o"}
        return (dot, dot | {"markerfacecolor": "none"}, {"color": GREY, "marker": "|"})[at]

    xlabel, size = "reach, up minus down (points)", (max(4.7, 9 / len(models)), 4.8)
    figure, axes = plots.dot_panels(groups, xlabel, (-1.05, 1.05), look, size=size)
    axes[0].xaxis.set_major_formatter(in_points())
    return figure, f"Every labelling of six cue words: {'; '.join(said)}."


def told(texts: Mapping[str, tuple[str, str]]) -> Drawn:
    """What each model went on to say: model -> (prompt, continuation)."""
    figure, (axis,) = canvas((9, 1.3 * len(texts)), (0, 1), (-len(texts), 0))
    for y, (name, (prompt, text)) in enumerate(texts.items()):
        left = {"ha": "left", "va": "top"}
        write(axis, 0, -y, name, color=style(name)["color"], weight="bold", **left)
        write(axis, 0, -y - 0.28, fill(f"{prompt} ...", 110), color=GREY, fontsize=10, **left)
        write(axis, 0, -y - 0.6, fill(f"... {text}", 110), fontsize=10, **left)
    return figure, " ".join(f"{name} goes on: '{text}'." for name, (_, text) in texts.items())
