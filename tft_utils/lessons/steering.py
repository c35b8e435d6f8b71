"""Lesson 08, steering: references and checks.

Figures of lesson 08, steering.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate
from tft_utils.techniques.steering import Sweep


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


def _tensor(found: object, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {shape}, found {tuple(found.shape)}")
    return found


def check_steering_vector(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    planted = torch.tensor([3.0, 0.0, -2.0, 0.5])
    behaving = torch.randn(6, 4, generator=draw) + 10 + planted
    other = torch.randn(4, 4, generator=draw) + 10
    truth = behaving.mean(0) - other.mean(0)
    found = _tensor(attempt(behaving, other), (4,), "the direction")
    mistakes = {
        "the sign is turned: the direction leads from the other texts to the behaving ones": -truth,
        "you scale it to length 1; then a multiplier of 1 no longer means 'as far apart as the texts "
        "are'": truth / truth.norm(),
        "you add up the texts; with 6 on one side and 4 on the other that is no difference of means": behaving.sum(
            0
        )
        - other.sum(0),
        "that is the mean of one side; what both sides share must go": behaving.mean(0),
        "you halve it; the multiplier 1 should lead from one side's mean to the other's": truth / 2,
    }
    if torch.allclose(found, truth, atol=1e-5):
        return
    for mistake, wrong in mistakes.items():
        if torch.allclose(found, wrong, atol=1e-5):
            raise Wrong(mistake)
    raise Wrong("it is not the mean of one side minus the mean of the other")


def check_matching_probability(attempt) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 4.0, 1.0, -1.0], [1.0, 1.0, 5.0, 5.0]])
    matching, other = torch.tensor([0, 2, 0]), torch.tensor([2, 0, 1])
    chances, rows = logits.softmax(1), torch.arange(3)
    right, wrong = chances[rows, matching], chances[rows, other]
    found = _tensor(attempt(logits, matching, other), (3,), "the matching probabilities")
    if torch.allclose(found, right / (right + wrong), atol=1e-5):
        return
    if torch.allclose(found, right, atol=1e-5):
        raise Wrong(
            "that is p(matching letter) among all words; divide by the two letters' sum, or nonsense "
            "counts as the other answer"
        )
    if torch.allclose(found, wrong / (right + wrong), atol=1e-5):
        raise Wrong("that is the share of the other letter")
    if torch.allclose(found, chances[:, 0] / (chances[:, 0] + chances[:, 2]), atol=1e-5):
        raise Wrong("you use the first prompt's letters for all; each prompt has its own matching one")
    values = logits.gather(1, torch.stack([matching, other], 1))
    if torch.allclose(found, values[:, 0] / values.sum(1), atol=1e-5):
        raise Wrong("you divide logits; turn them into probabilities first")
    raise Wrong("it is not p(matching) / (p(matching) + p(other)) of each prompt")


def check_order_averaged(attempt) -> None:
    values, asks = [0.9, 0.2, 0.3, 0.6, 0.5], ["lamp", "bell", "lamp", "bell", "rope"]
    found = attempt(values, asks)
    if not isinstance(found, list):
        raise Wrong(f"expected a list of numbers, found {type(found).__name__}")
    truth = [0.6, 0.4, 0.5]
    if len(found) == len(values):
        raise Wrong("one number per question, not per prompt: two letter orders are no two questions")
    if len(found) == 1:
        raise Wrong("that is one mean of everything; an interval needs one number per question")
    if len(found) == 3 and all(abs(a - b) < 1e-9 for a, b in zip(found, truth, strict=True)):
        return
    if sorted(round(each, 9) for each in found) == sorted(truth):
        raise Wrong("keep the order in which the questions first occur")
    if [round(each, 9) for each in found] == [0.9, 0.2, 0.5]:
        raise Wrong("you keep one letter order and drop the other; average both")
    if [round(each, 9) for each in found] == [1.2, 0.8, 0.5]:
        raise Wrong("you add the orders up; divide by how many there are")
    raise Wrong("expected the mean over the prompts of each question")


GAP = 0.16  # between the rows of one behaviour


def two_places() -> tuple[Figure, str]:
    """A sketch: what can be steered at a word of either model."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.1), sharey=True)
    words = ["...", "Answer", ":", "("]
    for axis, style, title in zip(axes, STYLES, ("Transformer", "Mamba"), strict=True):
        axis.set(xlim=(-0.6, 4.0), ylim=(-0.4, 2.3), title=title)
        axis.axis("off")
        for x, word in enumerate(words):
            axis.text(x, -0.2, word, ha="center", va="center", fontsize=13)
            axis.annotate("", (x, 2.0), (x, 0.05), arrowprops={"arrowstyle": "-|>", "color": GREY})
        axis.text(3.08, 1.45, "+ m v", color=style["color"], fontsize=14, weight="bold")
        axis.text(3.08, 1.15, "residual\nstream", color=style["color"], fontsize=9, va="top")
    arrow = {"arrowstyle": "-|>", "linewidth": 1.8}
    for x in range(3):
        axes[0].annotate(
            "",
            (2.95, 1.0),
            (x + 0.05, 0.6),
            arrowprops=arrow | {"color": STYLES[0]["color"], "connectionstyle": "arc3,rad=-0.1"},
        )
        axes[1].annotate(
            "", (x + 0.95, 0.8), (x + 0.05, 0.8), arrowprops=arrow | {"color": STYLES[1]["color"]}
        )
    axes[1].text(2.5, 0.42, "+ m s", color=STYLES[1]["color"], fontsize=14, weight="bold", ha="center")
    axes[1].text(2.5, 0.3, "state", color=STYLES[1]["color"], fontsize=9, ha="center", va="top")
    alt = (
        "In both models a vector can be added to the residual stream of the last word; in Mamba "
        "also to the state that reaches that word."
    )
    return figure, alt


def maps(rows: Mapping[str, Mapping[str, Sweep]]) -> tuple[Figure, str]:
    """Mean effect in points over depth k/L x multiplier m: row -> column -> sweep, on shared axes.

    Every row has the same columns. Depths and multipliers that a panel lacks stay grey there.
    """
    columns = list(next(iter(rows.values())))
    known = sorted({m for found in rows.values() for cells in found.values() for m in cells.multipliers})
    many = len(columns) > 3
    ticks = range(0, len(known), len(known) - 1) if many else range(len(known))
    wide, high = (1.3, 1.45) if many else (2.6, 2.6)
    with plt.rc_context(RC | {"axes.grid": False, "axes.facecolor": "#DDDDDD", "font.size": 10}):
        figure, axes = plt.subplots(
            len(rows),
            len(columns),
            sharex=True,
            sharey=True,
            squeeze=False,
            figsize=(1.4 + wide * len(columns), 0.7 + high * len(rows)),
        )
    said = []
    for line, (name, found) in zip(axes, rows.items(), strict=True):
        effects = []
        for axis, (column, cells) in zip(line, found.items(), strict=True):
            points = 100 * (cells.matching - cells.unsteered).mean(-1)
            effects.append(points)
            shown = np.full((len(cells.depths), len(known)), np.nan)
            shown[:, [known.index(m) for m in cells.multipliers]] = points
            ends = [(cells.depths[i] + side) / cells.n_layers for i, side in ((0, -0.5), (-1, 0.5))]
            image = axis.imshow(
                shown,
                cmap="RdBu_r",
                vmin=-50,
                vmax=50,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(-0.5, len(known) - 0.5, *ends),
            )
            axis.set_title(column.replace(" ", "\n", many) if axis in axes[0] else "", fontsize=10)
        groups = {name: torch.cat(effects)} if many else dict(zip(found, effects, strict=True))
        said += [f"{part} from {each.min():+.0f} to {each.max():+.0f}" for part, each in groups.items()]
        line[0].set_ylabel(f"{fill(name, 12)}\nk/L")
    for axis in axes[-1]:
        axis.set(
            xlim=(-0.5, len(known) - 0.5),
            ylim=(-0.09, 1.09),
            yticks=(0, 0.5, 1),
            xlabel="m" if many else "multiplier m",
        )
        axis.set_xticks(ticks, [f"{known[i]:g}" for i in ticks], rotation=90)
    figure.colorbar(image, ax=axes, label="effect (points)", shrink=0.8, aspect=30)
    return figure, f"Effect on the matching probability in points: {'; '.join(said)}."


def reach(rows: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]) -> tuple[Figure, str]:
    """Per behaviour, how far each model was steered down and up, with 95 % intervals."""
    behaviours = list(next(iter(rows.values())))
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.5 * len(behaviours)))
    for shift, style, (name, found) in zip((-GAP, GAP), STYLES, rows.items(), strict=True):
        for i, behaviour in enumerate(behaviours):
            ends = found[behaviour]
            axis.plot(
                [100 * e.value for e in ends],
                [i + shift] * 2,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=1,
            )
            axis.errorbar(
                [100 * e.value for e in ends],
                [i + shift] * 2,
                color=style["color"],
                xerr=[[100 * (e.value - e.low) for e in ends], [100 * (e.high - e.value) for e in ends]],
                marker=style["marker"],
                linestyle="",
                capsize=3,
                label=name if i == 0 else None,
            )
    axis.axvline(0, color=GREY, linewidth=1)
    for edge in (-20, 20):
        axis.axvline(edge, color=GREY, linewidth=1, linestyle=":")
    axis.set_yticks(range(len(behaviours)), [b.replace("_", " ") for b in behaviours])
    axis.set(
        xlabel="effect on the matching probability (points); dotted: 20",
        xlim=(-65, 65),
        ylim=(len(behaviours) - 0.5, -0.5),
    )
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    least = {
        name: min(min(-down.value, up.value) for down, up in found.values())
        for name, found in rows.items()
    }
    said = "; ".join(
        f"{name} moves every behaviour by at least {100 * each:.0f} points each way"
        for name, each in least.items()
    )
    return figure, f"Steering on held-out questions: {said}."


def both_ways(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> tuple[Figure, str]:
    """Range of the matching probability: model -> kind of steering -> behaviour -> share."""
    kinds = list(dict.fromkeys(kind for found in panels.values() for kind in found))
    more = ({"color": GREY, "marker": "^"}, {"color": "#009E73", "marker": "D"})
    looks = dict(zip(kinds, (*STYLES, *more), strict=False))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(
            2, len(panels) // 2, figsize=(10, 6.2), sharex=True, sharey=True, squeeze=False
        )
    said, shown = [], {}
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=True):
        behaviours = list(next(iter(found.values())))
        for i, (kind, values) in enumerate(found.items()):
            y = np.arange(len(behaviours)) + 1.5 * GAP * (i - (len(found) - 1) / 2)
            (shown[kind],) = axis.plot(
                [100 * values[b] for b in behaviours],
                y,
                color=looks[kind]["color"],
                marker=looks[kind]["marker"],
                linestyle="",
            )
            said.append(f"{title}, {kind}: median {100 * np.median(list(values.values())):.0f}")
        axis.set_yticks(range(len(behaviours)), [b.replace("_", " ") for b in behaviours])
        axis.set(xlim=(-3, 105), ylim=(len(behaviours) - 0.5, -0.5))
        axis.set_title(title, fontsize=12)
    axes[-1, axes.shape[1] // 2].set_xlabel("range over depths and multipliers (points)")
    figure.legend(
        shown.values(), shown.keys(), frameon=False, loc="outside upper center", ncols=len(shown)
    )
    return figure, f"Range of the matching probability in points. {'; '.join(said)}."


def moods(curves: Mapping[str, Sequence[tuple[float, Estimate, float]]]) -> tuple[Figure, str]:
    """Per model (multiplier, share of good continuations, perplexity ratio): two panels."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.3))
    said = []
    for style, (name, points) in zip(STYLES, curves.items(), strict=True):
        m, shares, ratios = zip(*points, strict=True)
        axes[0].errorbar(
            m,
            [100 * e.value for e in shares],
            label=name,
            capsize=3,
            **style,
            yerr=[[100 * (e.value - e.low) for e in shares], [100 * (e.high - e.value) for e in shares]],
        )
        axes[1].plot(m, ratios, label=name, **style)
        said.append(
            f"{name} from {shares[0].value:.0%} to {shares[-1].value:.0%} good continuations "
            f"at {ratios[-1]:.2f} times the perplexity"
        )
    axes[0].set(xlabel="multiplier m", ylabel="good-mood continuations (%)", ylim=(-3, 103))
    axes[1].axhline(1.2, color=GREY, linewidth=1, linestyle=":")
    axes[1].set(xlabel="multiplier m", ylabel="perplexity, steered / unsteered")
    axes[0].legend(frameon=False)
    return figure, f"Stories that began badly: {'; '.join(said)}."


def labellings(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> tuple[Figure, str]:
    """Reach under every labelling of six cues: model -> behaviour -> (10 labellings, 18 cancelled).

    The first labelling is the true one. The mirrors are drawn as the negatives: reach is odd.
    """
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 4.2), sharey=True, sharex=True)
    said = []
    for axis, style, (name, found) in zip(axes, STYLES, panels.items(), strict=True):
        for i, (labels, cancelled) in enumerate(found.values()):
            other = [*labels[1:], *(-each for each in labels)]
            for values, shift, look in (
                (labels[:1], 0, {"label": "true labels", "marker": "o", "color": style["color"]}),
                (
                    other,
                    0,
                    {
                        "label": "the 19 others",
                        "marker": "o",
                        "color": style["color"],
                        "markerfacecolor": "none",
                    },
                ),
                (
                    [*cancelled, *(-each for each in cancelled)],
                    0.3,
                    {"label": "cancelled, 36 ways", "marker": "|", "color": GREY},
                ),
            ):
                axis.plot(
                    [100 * v for v in values],
                    [i + shift] * len(values),
                    linestyle="",
                    **look | ({"label": None} if i else {}),
                )
        axis.set_yticks(range(len(found)), [b.replace("_", " ") for b in found])
        axis.set(
            title=name,
            xlabel="reach, up minus down (points)",
            xlim=(-105, 105),
            ylim=(len(found) - 0.5, -0.5),
        )
        top = sum(labels[0] > max(map(abs, labels[1:])) for labels, _ in found.values())
        far = max(abs(each) for _, cancelled in found.values() for each in cancelled)
        said.append(
            f"in {name} the true labels reach farthest for {top} of {len(found)} behaviours, "
            f"cancelled ones at most {100 * far:.0f} points"
        )
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure, f"Every labelling of six cue words: {'; '.join(said)}."


def told(texts: Mapping[str, tuple[str, str]]) -> tuple[Figure, str]:
    """What each model went on to say: model -> (prompt, continuation)."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(len(texts), 1, figsize=(9, 1.3 * len(texts)), squeeze=False)
    for axis, style, (name, (prompt, text)) in zip(axes[:, 0], STYLES, texts.items(), strict=True):
        axis.axis("off")
        axis.text(0, 1, name, color=style["color"], weight="bold", va="top")
        axis.text(0, 0.72, fill(f"{prompt} ...", 110), color=GREY, fontsize=10, va="top")
        axis.text(0, 0.4, fill(f"... {text}", 110), fontsize=10, va="top")
    return figure, " ".join(f"{name} goes on: '{text}'." for name, (_, text) in texts.items())
