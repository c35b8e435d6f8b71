"""Figures of lesson 07: results in, a figure and its alt text out. Styles are those of `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate

DEPTH = "depth k/L (blocks applied / all blocks)"
LINES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "v")


def two_runs() -> tuple[Figure, str]:
    """A sketch: two runs over the same places, and one activation carried over."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 3.2))
    axis.set(xlim=(-2.3, 10.4), ylim=(-0.7, 2.9))
    axis.axis("off")
    for left, subject, ink, answer in ((0, "Lesor", STYLES[0]["color"], "lentils"),
                                       (6, "Kutor", STYLES[1]["color"], "cotton")):  # fmt: skip
        for x, word in enumerate(("in", subject, "grow")):
            axis.text(left + 1.2 * x, -0.45, word, ha="center", color=ink if x == 1 else "black")
            for y in range(3):
                axis.plot(left + 1.2 * x, y, "o", markersize=13, markerfacecolor="white",
                          markeredgecolor=ink, markeredgewidth=1.6)  # fmt: skip
        axis.text(left + 1.2, 2.55, f"says {answer}", ha="center", color=ink)
    axis.plot(1.2, 1, "o", markersize=13, color=STYLES[0]["color"])
    axis.annotate("", (7.0, 1), (1.45, 1), arrowprops={"arrowstyle": "-|>", "linewidth": 2,
                  "color": STYLES[0]["color"]})  # fmt: skip
    axis.text(4.2, 1.14, "put it in, run on", ha="center", color=STYLES[0]["color"])
    for y, label in enumerate(("words", "after block 1", "after block 2")):
        axis.text(-0.5, y, label, ha="right", va="center", color=GREY, fontsize=10)
    axis.text(9.3, 2.0, "what does it\nsay now?", ha="left", va="center", color=GREY, fontsize=10)
    alt = ("Two runs on prompts that differ in the subject; one activation of the clean run is put at "
           "the same place of the corrupt run, which then continues.")  # fmt: skip
    return figure, alt


def routes(found: Mapping[str, Mapping[str, Tensor]],
           rows: Mapping[str, Sequence[str]]) -> tuple[Figure, str]:  # fmt: skip
    """Mean effect of a residual patch: per kind (row of panels) and model (column) a map [role depth]."""
    models = list(next(iter(found.values())))
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(len(found), len(models), figsize=(9.2, 0.8 + 2.2 * len(found)),
                                    sharex=True, squeeze=False)  # fmt: skip
    said = []
    for line, (kind, maps) in zip(axes, found.items(), strict=True):
        for axis, (name, each) in zip(line, maps.items(), strict=True):
            last = each.shape[1] - 1
            image = axis.imshow(each.tolist(), vmin=0, vmax=1, cmap="viridis", aspect="auto",
                                extent=(-0.5 / last, 1 + 0.5 / last, len(each) - 0.5, -0.5))  # fmt: skip
            axis.set_title(f"{name}: {kind}", fontsize=11)
            axis.set_yticks(range(len(each)), rows[kind] if axis is line[0] else [""] * len(each))
            arrives = int((each[-1] > 0.5).float().argmax())
            said.append(f"{kind}, {name}: k = {arrives} of {last}")
    for axis in axes[-1]:
        axis.set_xlabel(DEPTH)
    figure.colorbar(image, ax=axes, label="effect of the patch")
    return (
        figure,
        f"The last word holds more than half of the answer from a depth on. {'; '.join(said)}.",
    )


def parts(panels: Mapping[str, Mapping[str, Tensor]], title: str) -> tuple[Figure, str]:
    """Effect of each component in each block: per panel a map [component block]."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 3.6))
    said = []
    for axis, (name, found) in zip(axes, panels.items(), strict=True):
        values = [each.tolist() for each in found.values()]
        image = axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if abs(value) >= 0.05:
                    axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8.5,
                              color="white" if abs(value) > 0.6 else "black")  # fmt: skip
        axis.set_xticks(range(len(values[0])))
        axis.set_yticks(range(len(found)), found, fontsize=9)
        axis.set(title=name, xlabel="block")
        top = max(found, key=lambda part: float(found[part].max()))
        said.append(
            f"{name}: {top}, block {int(found[top].argmax())}, {float(found[top].max()):.2f}"
        )
    figure.colorbar(image, ax=axes, label="effect of the patch")
    return figure, f"{title}: the strongest component. {'; '.join(said)}."


Clouds = Mapping[str, tuple[Tensor, Tensor]]  # an estimate -> exact and estimated effects [cell]


def estimates(found: Mapping[str, Mapping[str, Clouds]]) -> tuple[Figure, str]:
    """Estimated effects over exact ones [cell]: per kind (row of panels) and model (column) the named
    estimates, all on the same axes."""
    models = list(next(iter(found.values())))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(len(found), len(models), figsize=(9, 0.6 + 3.2 * len(found)),
                                    sharex=True, sharey=True, squeeze=False)  # fmt: skip
    looks = ({"color": GREY, "marker": "^"}, {"color": STYLES[0]["color"], "marker": "o"})
    said = []
    for line, (kind, panels) in zip(axes, found.items(), strict=True):
        for axis, (name, clouds) in zip(line, panels.items(), strict=True):
            axis.plot([0, 1], [0, 1], color="black", linewidth=1)
            for look, (label, (exact, estimate)) in zip(looks, clouds.items(), strict=True):
                axis.scatter(exact.tolist(), estimate.tolist(), s=12, alpha=0.5, label=label, **look)
                error = float((exact - estimate).abs().mean())
                said.append(f"{kind}, {name}, {label}: {error:.2f}")
            axis.set(title=f"{name}: {kind}", xlim=(-0.4, 1.3), ylim=(-0.4, 1.6))
        line[0].set_ylabel("estimated effect")
    for axis in axes[-1]:
        axis.set_xlabel("exact effect")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure, f"Mean distance of the estimate from the exact effect: {'; '.join(said)}."


def curves(panels: Mapping[str, Mapping[str, Sequence[Estimate]]], x: Mapping[str, Sequence[float]],
           xlabel: str, ylabel: str) -> tuple[Figure, str]:  # fmt: skip
    """Lines with 95 % bands, a panel a model on the same axes; the first in the model's style."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.5), sharex=True, sharey=True)
    said = []
    for axis, style, (name, lines) in zip(axes, STYLES, panels.items(), strict=True):
        for i, (label, found) in enumerate(lines.items()):
            look = style if i == 0 else {"color": GREY, "linestyle": LINES[i], "marker": MARKS[i]}
            axis.plot(x[name], [e.value for e in found], label=label, markersize=5, **look)
            axis.fill_between(x[name], [e.low for e in found], [e.high for e in found],
                              color=look["color"], alpha=0.15, linewidth=0)  # fmt: skip
            said.append(f"{name}, {label}: {found[0].value:.2f} to {found[-1].value:.2f}, "
                        f"lowest {min(e.value for e in found):.2f}")  # fmt: skip
        axis.set(title=name, xlabel=xlabel, ylim=(-0.05, 1.05))
        if all(isinstance(each, int) for each in x[name]):
            axis.set_xticks(x[name])
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel(ylabel)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {'; '.join(said)}."


def sweep(panels: Mapping[str, Mapping[str, Sequence[float]]],
          published: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
          ) -> tuple[Figure, str]:  # fmt: skip
    """An edit's score by layer: per panel both models over relative depth, and in grey the published
    sweeps of another model (label -> relative depths and scores)."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.6), sharex=True, sharey=True)
    said = []
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for style, (name, values) in zip(STYLES, lines.items(), strict=True):
            x = [i / (len(values) - 1) for i in range(len(values))]
            axis.plot(x, values, label=name, **style)
            best = max(range(len(values)), key=values.__getitem__)
            said.append(f"{title}, {name}: block {best} with {values[best]:.2f}")
        for marker, (label, points) in zip("^v", published[title].items(), strict=False):
            axis.plot(*points, color=GREY, linestyle=":", marker=marker, label=label)
        axis.set(title=title, xlabel="block / last block", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("score (harmonic mean)")
    known = {label: line for axis in axes
             for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(
        known.values(), known.keys(), frameon=False, loc="outside upper center", ncols=len(known)
    )
    return figure, f"The best block for an edit: {'; '.join(said)}."
