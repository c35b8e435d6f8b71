"""Figures of lesson 08, steering."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from tft_utils.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate
from tft_utils.steering import Sweep

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
        axes[0].annotate("", (2.95, 1.0), (x + 0.05, 0.6), arrowprops=arrow | {
            "color": STYLES[0]["color"], "connectionstyle": "arc3,rad=-0.1"})  # fmt: skip
        axes[1].annotate("", (x + 0.95, 0.8), (x + 0.05, 0.8),
                         arrowprops=arrow | {"color": STYLES[1]["color"]})  # fmt: skip
    axes[1].text(2.5, 0.42, "+ m s", color=STYLES[1]["color"], fontsize=14, weight="bold",
                 ha="center")  # fmt: skip
    axes[1].text(2.5, 0.3, "state", color=STYLES[1]["color"], fontsize=9, ha="center", va="top")
    alt = ("In both models a vector can be added to the residual stream of the last word; in Mamba "
           "also to the state that reaches that word.")  # fmt: skip
    return figure, alt


def maps(panels: Mapping[str, Mapping[str, Sweep]]) -> tuple[Figure, str]:
    """Mean effect in points over depth x multiplier: a panel for each model and kind, one scale."""
    flat = [(f"{name}: {kind}", cells)
            for name, kinds in panels.items() for kind, cells in kinds.items()]  # fmt: skip
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(flat), figsize=(3.1 * len(flat), 3.4), squeeze=False)
    said = []
    for axis, (title, cells) in zip(axes[0], flat, strict=True):
        points = 100 * (cells.matching - cells.unsteered).mean(-1)
        image = axis.imshow(points.numpy(), cmap="RdBu_r", vmin=-50, vmax=50, origin="lower",
                            aspect="auto")  # fmt: skip
        axis.set_xticks(range(len(cells.multipliers)), [f"{m:g}" for m in cells.multipliers],
                        rotation=90, fontsize=9)  # fmt: skip
        axis.set_yticks(range(len(cells.depths)), cells.depths, fontsize=9)
        axis.set(title=title, xlabel="multiplier m")
        axis.title.set_fontsize(11)
        said.append(f"{title} from {points.min():+.0f} to {points.max():+.0f}")
    axes[0, 0].set_ylabel("depth k (blocks applied)")
    figure.colorbar(image, ax=axes, label="effect (points)", shrink=0.9)
    return figure, f"Effect on the matching probability in points: {'; '.join(said)}."


def reach(rows: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]) -> tuple[Figure, str]:
    """Per behaviour, how far each model was steered down and up, with 95 % intervals."""
    behaviours = list(next(iter(rows.values())))
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.5 * len(behaviours)))
    for shift, style, (name, found) in zip((-GAP, GAP), STYLES, rows.items(), strict=True):
        for i, behaviour in enumerate(behaviours):
            ends = found[behaviour]
            axis.plot([100 * e.value for e in ends], [i + shift] * 2, color=style["color"],
                      linestyle=style["linestyle"], linewidth=1)  # fmt: skip
            axis.errorbar([100 * e.value for e in ends], [i + shift] * 2, color=style["color"],
                          xerr=[[100 * (e.value - e.low) for e in ends],
                                [100 * (e.high - e.value) for e in ends]],
                          marker=style["marker"], linestyle="", capsize=3,
                          label=name if i == 0 else None)  # fmt: skip
    axis.axvline(0, color=GREY, linewidth=1)
    for edge in (-20, 20):
        axis.axvline(edge, color=GREY, linewidth=1, linestyle=":")
    axis.set_yticks(range(len(behaviours)), [b.replace("_", " ") for b in behaviours])
    axis.set(xlabel="effect on the matching probability (points); dotted: 20", xlim=(-65, 65),
             ylim=(len(behaviours) - 0.5, -0.5))  # fmt: skip
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    least = {name: min(min(-down.value, up.value) for down, up in found.values())
             for name, found in rows.items()}  # fmt: skip
    said = "; ".join(f"{name} moves every behaviour by at least {100 * each:.0f} points each way"
                     for name, each in least.items())  # fmt: skip
    return figure, f"Steering on held-out questions: {said}."


def both_ways(ours: Mapping[str, Mapping[str, float]], published: Mapping[str, Mapping[str, float]],
              ) -> tuple[Figure, str]:  # fmt: skip
    """Range of the matching probability per kind of steering: published models beside ours."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.9), sharey=True)
    looks = [*STYLES, {"color": GREY, "marker": "^"}]
    said = []
    for axis, title, found in zip(axes, ("published: Mamba-2.8b", "here: Mamba"), (published, ours),
                                  strict=True):  # fmt: skip
        behaviours = list(next(iter(found.values())))
        for i, (look, (kind, values)) in enumerate(zip(looks, found.items(), strict=False)):
            y = np.arange(len(behaviours)) + GAP * (i - (len(found) - 1) / 2)
            axis.plot([100 * values[b] for b in behaviours], y, label=kind, color=look["color"],
                      marker=look["marker"], linestyle="")  # fmt: skip
            said.append(f"{title}, {kind}: median {100 * np.median(list(values.values())):.0f}")
        axis.set_yticks(range(len(behaviours)), [b.replace("_", " ") for b in behaviours])
        axis.set(title=title, xlabel="range over depths and multipliers (points)", xlim=(-3, 105),
                 ylim=(len(behaviours) - 0.5, -0.5))  # fmt: skip
    axes[0].legend(frameon=False, loc="lower right")
    return figure, f"Range of the matching probability in points. {'; '.join(said)}."


def moods(curves: Mapping[str, Sequence[tuple[float, Estimate, float]]]) -> tuple[Figure, str]:
    """Per model (multiplier, share of good continuations, perplexity ratio): two panels."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.3))
    said = []
    for style, (name, points) in zip(STYLES, curves.items(), strict=True):
        m, shares, ratios = zip(*points, strict=True)
        axes[0].errorbar(m, [100 * e.value for e in shares], label=name, capsize=3, **style,
                         yerr=[[100 * (e.value - e.low) for e in shares],
                               [100 * (e.high - e.value) for e in shares]])  # fmt: skip
        axes[1].plot(m, ratios, label=name, **style)
        said.append(f"{name} from {shares[0].value:.0%} to {shares[-1].value:.0%} good continuations "
                    f"at {ratios[-1]:.2f} times the perplexity")  # fmt: skip
    axes[0].set(xlabel="multiplier m", ylabel="good-mood continuations (%)", ylim=(-3, 103))
    axes[1].axhline(1.2, color=GREY, linewidth=1, linestyle=":")
    axes[1].set(xlabel="multiplier m", ylabel="perplexity, steered / unsteered")
    axes[0].legend(frameon=False)
    return figure, f"Stories that began badly: {'; '.join(said)}."
