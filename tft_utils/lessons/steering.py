"""Lesson 08, steering: references, checks and figures."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from tft_utils.course.exercises import Wrong, close, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREEN, GREY, RC, VERMILION, panels, points, side_by_side, style
from tft_utils.stats import Estimate
from tft_utils.techniques.steering import Sweep

KINDS = {  # of steering: colour and marker
    "residual": (BLUE, "o"),
    "state": (VERMILION, "s"),
    "both": (GREY, "^"),
    "residual, first word": (GREEN, "D"),
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
    answer = expect_tensor(attempt(behaving, other), (4,), "the direction")
    mistakes = {
        "the sign is turned: the direction leads from the other texts to the behaving ones": -truth,
        "you scale it to length 1; then a multiplier of 1 no longer means 'as far apart as the texts "
        "are'": truth / truth.norm(),
        "you add up the texts; with 6 on one side and 4 on the other that is no difference of "
        "means": behaving.sum(0) - other.sum(0),
        "that is the mean of one side; what both sides share must go": behaving.mean(0),
        "you halve it; the multiplier 1 should lead from one side's mean to the other's": truth / 2,
    }
    if not close(answer, truth):
        refuse(answer, mistakes, "it is not the mean of one side minus the mean of the other")


def check_matching_probability(attempt) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 4.0, 1.0, -1.0], [1.0, 1.0, 5.0, 5.0]])
    matching, other = torch.tensor([0, 2, 0]), torch.tensor([2, 0, 1])
    chances, rows = logits.softmax(1), torch.arange(3)
    right, wrong = chances[rows, matching], chances[rows, other]
    values = logits.gather(1, torch.stack([matching, other], 1))
    answer = expect_tensor(attempt(logits, matching, other), (3,), "the matching probabilities")
    mistakes = {
        "that is p(matching letter) among all words; divide by the two letters' sum, or nonsense "
        "counts as the other answer": right,
        "that is the share of the other letter": wrong / (right + wrong),
        "you use the first prompt's letters for all; each prompt has its own matching one": chances[:, 0]
        / (chances[:, 0] + chances[:, 2]),
        "you divide logits; turn them into probabilities first": values[:, 0] / values.sum(1),
    }
    if not close(answer, right / (right + wrong)):
        refuse(answer, mistakes, "it is not p(matching) / (p(matching) + p(other)) of each prompt")


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


def two_places() -> tuple[Figure, str]:
    """A sketch: what can be steered at a word of either model."""
    figure, (axes,) = panels(1, 2, (9, 3.1), sharey=True)
    colours = [style(name)["color"] for name in ("transformer", "mamba")]
    for axis, colour, title in zip(axes, colours, ("Transformer", "Mamba"), strict=True):
        axis.set(xlim=(-0.6, 4.0), ylim=(-0.4, 2.3), title=title)
        axis.axis("off")
        for x, word in enumerate(("...", "Answer", ":", "(")):
            axis.text(x, -0.2, word, ha="center", va="center", fontsize=13)
            axis.annotate("", (x, 2.0), (x, 0.05), arrowprops={"arrowstyle": "-|>", "color": GREY})
        axis.text(3.08, 1.45, "+ m v", color=colour, fontsize=14, weight="bold")
        axis.text(3.08, 1.15, "residual\nstream", color=colour, fontsize=9, va="top")
    look, state = ({"arrowstyle": "-|>", "linewidth": 1.8, "color": colour} for colour in colours)
    look |= {"connectionstyle": "arc3,rad=-0.1"}
    for x in range(3):
        axes[0].annotate("", (2.95, 1.0), (x + 0.05, 0.6), arrowprops=look)
        axes[1].annotate("", (x + 0.95, 0.8), (x + 0.05, 0.8), arrowprops=state)
    axes[1].text(2.5, 0.42, "+ m s", color=colours[1], fontsize=14, weight="bold", ha="center")
    axes[1].text(2.5, 0.3, "state", color=colours[1], fontsize=9, ha="center", va="top")
    return figure, (
        "In both models a vector can be added to the residual stream of the last word; in Mamba "
        "also to the state that reaches that word."
    )


def maps(rows: Mapping[str, Mapping[str, Sweep]]) -> tuple[Figure, str]:
    """Mean effect in points over depth k/L x multiplier m: row -> column -> sweep, on shared axes.

    Every row has the same columns. Depths and multipliers that a panel lacks stay grey there.
    """
    columns = list(next(iter(rows.values())))
    swept = [cells for row in rows.values() for cells in row.values()]
    known = sorted({m for cells in swept for m in cells.multipliers})
    many, margin = len(columns) > 3, 0.5 / min(cells.n_layers for cells in swept)
    ticks = range(0, len(known), len(known) - 1) if many else range(len(known))
    wide, high = (1.3, 1.45) if many else (2.6, 2.6)
    size = (1.4 + wide * len(columns), 0.7 + high * len(rows))
    options = {"sharex": True, "sharey": True, "squeeze": False, "figsize": size}
    with plt.rc_context(RC | {"axes.grid": False, "axes.facecolor": "#DDDDDD", "font.size": 10}):
        figure, axes = plt.subplots(len(rows), len(columns), **options)
    said = []
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        effects = {}
        for axis, (column, cells) in zip(line, row.items(), strict=True):
            effects[column] = 100 * (cells.matching - cells.unsteered).mean(-1).cpu()
            shown = np.full((cells.n_layers + 1, len(known)), np.nan)
            shown[np.ix_(cells.depths, [known.index(m) for m in cells.multipliers])] = effects[column]
            half = 0.5 / cells.n_layers
            look = {"cmap": "RdBu_r", "vmin": -50, "vmax": 50, "origin": "lower", "aspect": "auto"}
            image = axis.imshow(shown, extent=(-0.5, len(known) - 0.5, -half, 1 + half), **look)
            axis.set_title(column.replace(" ", "\n", many) if axis in axes[0] else "", fontsize=10)
        if many:
            effects = {name: torch.cat(list(effects.values()))}
        said += [f"{part} from {each.min():+.0f} to {each.max():+.0f}" for part, each in effects.items()]
        line[0].set_ylabel(f"{fill(name, 12)}\nk/L")
    for axis in axes[-1]:
        axis.set(xlim=(-0.5, len(known) - 0.5), ylim=(-margin, 1 + margin), yticks=(0, 0.5, 1))
        axis.set_xticks(ticks, [f"{known[i]:g}" for i in ticks], rotation=90)
        axis.set_xlabel("m" if many else "multiplier m")
    figure.colorbar(image, ax=axes, label="effect (points)", shrink=0.8, aspect=30)
    return figure, f"Effect on the matching probability in points: {'; '.join(said)}."


def _in_points(axis: plt.Axes, behaviours: Sequence[str], xlabel: str, low: float, high: float) -> None:
    """A row for each behaviour; shares along x, shown in points."""
    axis.set_yticks(range(len(behaviours)), [b.replace("_", " ") for b in behaviours])
    axis.set(xlabel=xlabel, xlim=(low, high), ylim=(len(behaviours) - 0.5, -0.5))
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}")


def reach(rows: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]) -> tuple[Figure, str]:
    """Per behaviour, how far each model was steered down and up, with 95 % intervals.

    rows: 'model, place' -> behaviour -> its two ends.
    """
    behaviours = list(next(iter(rows.values())))
    figure, ((axis,),) = panels(1, 1, (8, 0.9 + 0.5 * len(behaviours)))
    for edge in (-0.2, 0, 0.2):
        axis.axvline(edge, color=GREY, linewidth=1, linestyle=":" if edge else "-")
    said = []
    for shift, (name, row) in zip(side_by_side(len(rows), 0.32), rows.items(), strict=True):
        look, ends = style(name.partition(",")[0]), [row[b] for b in behaviours]
        heights = [i + shift for i in range(len(ends))]
        line = look | {"marker": "", "linewidth": 1}
        axis.plot([[e.value for e in side] for side in zip(*ends, strict=True)], [heights] * 2, **line)
        estimates, twice = [e for pair in ends for e in pair], [y for y in heights for _ in range(2)]
        points(axis, twice, estimates, label=name, **look)
        least = min(min(-down.value, up.value) for down, up in ends)
        said.append(f"{name} moves every behaviour by at least {100 * least:.0f} points each way")
    xlabel = "effect on the matching probability (points); dotted: 20"
    _in_points(axis, behaviours, xlabel, -0.65, 0.65)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    return figure, f"Steering on held-out questions: {'; '.join(said)}."


def both_ways(rows: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> tuple[Figure, str]:
    """Range of the matching probability. Of each row: model -> kind of steering -> behaviour -> share."""
    n, most = len(rows), max(map(len, rows))
    figure, axes = panels(n, most, (1.6 + 2.8 * most, 3.1 * n), sharex=True, sharey=True)
    said, shown = [], {}
    for axis in axes.flat:
        axis.axis("off")
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, kinds) in zip(line, row.items(), strict=False):
            axis.axis("on")
            for shift, (kind, values) in zip(side_by_side(len(kinds), 0.24), kinds.items(), strict=True):
                (colour, marker), y = KINDS[kind], np.arange(len(values)) + shift
                look = {"color": colour, "marker": marker, "linestyle": ""}
                (shown[kind],) = axis.plot(list(values.values()), y, **look)
                said.append(f"{title}, {kind}: median {100 * np.median(list(values.values())):.0f}")
            lowest = axis.get_subplotspec().is_last_row()
            _in_points(axis, list(values), "range (points)" if lowest else "", -0.03, 1.05)
            axis.tick_params(labelbottom=True)
            axis.set_title(title, fontsize=12)
    legend = {"frameon": False, "loc": "outside upper center", "ncols": len(shown)}
    figure.legend(shown.values(), shown.keys(), **legend)
    return figure, f"Range of the matching probability in points. {'; '.join(said)}."


def moods(curves: Mapping[str, Sequence[tuple[float, Estimate, float]]]) -> tuple[Figure, str]:
    """Per model (multiplier, share of good continuations, perplexity ratio): two panels."""
    figure, ((good, harm),) = panels(1, 2, (9.2, 3.3))
    said = []
    for name, rows in curves.items():
        m, shares, ratios = zip(*rows, strict=True)
        good.plot(m, [e.value for e in shares], label=name, **style(name))
        points(good, m, shares, upright=True, **style(name))
        harm.plot(m, ratios, **style(name))
        said.append(
            f"{name} from {shares[0].value:.0%} to {shares[-1].value:.0%} good continuations "
            f"at {ratios[-1]:.2f} times the perplexity"
        )
    good.set(xlabel="multiplier m", ylabel="good-mood continuations (%)", ylim=(-0.03, 1.03))
    good.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f}")
    harm.axhline(1.2, color=GREY, linewidth=1, linestyle=":")
    harm.set(xlabel="multiplier m", ylabel="perplexity, steered / unsteered")
    good.legend(frameon=False)
    return figure, f"Stories that began badly: {'; '.join(said)}."


def labellings(
    models: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> tuple[Figure, str]:
    """Reach under every labelling of six cues: model -> behaviour -> (10 labellings, 18 cancelled).

    The first labelling is the true one. The mirrors are drawn as the negatives: reach is odd.
    """
    figure, (axes,) = panels(1, len(models), (max(6, 4.7 * len(models)), 4.2), sharey=True, sharex=True)
    said = []
    for axis, (name, rows) in zip(axes, models.items(), strict=True):
        dot = {"color": style(name)["color"], "marker": "o", "linestyle": ""}
        hollow, tick = dot | {"markerfacecolor": "none"}, dot | {"color": GREY, "marker": "|"}
        for i, (labels, cancelled) in enumerate(rows.values()):
            for x, shift, label, look in (
                (labels[:1], 0, "true labels", dot),
                ([*labels[1:], *(-x for x in labels)], 0, "the 19 others", hollow),
                ([*cancelled, *(-x for x in cancelled)], 0.3, "cancelled, 36 ways", tick),
            ):
                axis.plot(x, [i + shift] * len(x), label="" if i else label, **look)
        _in_points(axis, list(rows), "reach, up minus down (points)", -1.05, 1.05)
        axis.set_title(name)
        top = sum(labels[0] > max(map(abs, labels[1:])) for labels, _ in rows.values())
        far = max(abs(x) for _, cancelled in rows.values() for x in cancelled)
        said.append(
            f"in {name} the true labels reach farthest for {top} of {len(rows)} behaviours, "
            f"cancelled ones at most {100 * far:.0f} points"
        )
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return figure, f"Every labelling of six cue words: {'; '.join(said)}."


def told(texts: Mapping[str, tuple[str, str]]) -> tuple[Figure, str]:
    """What each model went on to say: model -> (prompt, continuation)."""
    figure, axes = panels(len(texts), 1, (9, 1.3 * len(texts)))
    for axis, (name, (prompt, text)) in zip(axes[:, 0], texts.items(), strict=True):
        axis.axis("off")
        axis.text(0, 1, name, color=style(name)["color"], weight="bold", va="top")
        axis.text(0, 0.72, fill(f"{prompt} ...", 110), color=GREY, fontsize=10, va="top")
        axis.text(0, 0.4, fill(f"... {text}", 110), fontsize=10, va="top")
    return figure, " ".join(f"{name} goes on: '{text}'." for name, (_, text) in texts.items())
