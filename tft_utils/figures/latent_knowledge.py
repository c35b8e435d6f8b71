"""Figures of lesson 06: results in, a figure and its alt text out. Styles are those of `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tft_utils.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate


def known_and_said() -> tuple[Figure, str]:
    """One statement, two names, two answers, and a probe that reads before the answer."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(8.4, 2.9))
    axis.set(xlim=(-0.2, 10.2), ylim=(-0.4, 3.2))
    axis.axis("off")
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "linewidth": 1.8}
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 0, "shrinkB": 2}
    for y, name, said, style in ((2.5, "alice :", "true", STYLES[0]), (0.9, "bob :", "false", STYLES[1])):
        axis.text(3.3, y, "a statement", ha="center", va="center", fontsize=12)
        axis.text(1.4, y, name, ha="center", va="center", fontsize=12, weight="bold")
        axis.text(6, y, "what the model\nholds here", ha="center", va="center", fontsize=10,
                  bbox=box | {"edgecolor": style["color"]})  # fmt: skip
        axis.text(9.2, y, f"says “{said}”", ha="center", va="center", fontsize=12,
                  color=style["color"])  # fmt: skip
        axis.annotate("", (4.9, y), (4.3, y), arrowprops=arrow)
        axis.annotate("", (8.25, y), (7.1, y), arrowprops=arrow)
    axis.annotate("", (6, 1.4), (6, 2.0), arrowprops=arrow | {"linestyle": "--"})
    axis.text(6.15, 1.7, "a probe trained above is read off below", va="center", fontsize=10)
    axis.text(6, 0.0, "does it still say what is true?", ha="center", fontsize=10.5, weight="bold")
    alt = ("The same statement is put to alice and to bob, who answer differently; a probe trained on "
           "the activations for alice is read off on those for bob.")  # fmt: skip
    return figure, alt


def by_depth(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
             chosen: Mapping[str, Mapping[str, int]]) -> tuple[Figure, str]:  # fmt: skip
    """AUROC against depth, one line per task: a row of panels per part, a column per model.

    curves: part -> model -> task -> a value per depth; chosen: model -> task -> depth, marked by a
    ring.
    """
    looks = (("#0072B2", "-"), ("#E69F00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(len(curves), 2, figsize=(9, 5.4), sharex=True, sharey=True)
    for row, (part, models) in zip(axes, curves.items(), strict=True):
        for axis, (name, tasks) in zip(row, models.items(), strict=True):
            for (colour, dash), (task, values) in zip(looks, tasks.items(), strict=True):
                depth, k = len(values) - 1, chosen[name][task]
                axis.plot([i / depth for i in range(depth + 1)], values, color=colour, linestyle=dash,
                          linewidth=2, label=task)  # fmt: skip
                axis.plot(k / depth, values[k], color=colour, marker="o", markersize=8,
                          markerfacecolor="white", markeredgewidth=2, zorder=3)  # fmt: skip
            axis.axhline(0.5, color="black", linewidth=0.8)
            axis.set(title=f"{name}: {part}", ylim=(-0.05, 1.05),
                     xlabel="depth k/L (blocks applied / all blocks)")  # fmt: skip
            axis.label_outer()
        row[0].set_ylabel("AUROC against the truth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    part, models = list(curves.items())[-1]
    ends = "; ".join(
        f"{name}: " + ", ".join(f"{task} {tasks[task][k]:.2f}" for task, k in chosen[name].items())
        for name, tasks in models.items()
    )  # fmt: skip
    return figure, f"AUROC by depth; {part}, at the depth chosen on alice's items, {ends}."


def transfer(table: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
             published: Mapping[str, float]) -> tuple[Figure, str]:  # fmt: skip
    """AUROC per method, a panel per task, their mean, and the mean over all items; published values
    as grey diamonds.

    table: panel -> model -> method -> estimate; `published` belongs to the last panel.
    """
    panels = list(table)
    methods = list(next(iter(table[panels[0]].values())))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(10.5, 4.3), sharex=True, sharey=True)
    for axis, panel in zip(axes, panels, strict=True):
        for shift, style, (name, found) in zip((-0.17, 0.17), STYLES, table[panel].items(), strict=True):
            y = [i + shift for i in range(len(methods))]
            values = [found[method].value for method in methods]
            spread = [[v - found[m].low for v, m in zip(values, methods, strict=True)],
                      [found[m].high - v for v, m in zip(values, methods, strict=True)]]  # fmt: skip
            axis.errorbar(values, y, xerr=spread, label=name, color=style["color"],
                          marker=style["marker"], linestyle="none", capsize=2, markersize=5)  # fmt: skip
        if panel == panels[-1]:
            at = [(value, methods.index(m)) for m, value in published.items() if m in methods]
            axis.plot(*zip(*at, strict=True), color=GREY, marker="D", linestyle="none", markersize=5,
                      label="published Transformers")  # fmt: skip
        axis.axvline(0.5, color="black", linewidth=0.8)
        axis.set(title=panel, xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    axes[len(panels) // 2].set_xlabel("AUROC against the truth, bob's hard items")
    for axis in axes:
        axis.set_xlabel(axis.get_xlabel() or " ")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    best = "; ".join(
        f"{panel}: " + ", ".join(
            f"{name} {max(found, key=lambda m: found[m].value)} with "
            f"{max(e.value for e in found.values()):.2f}"
            for name, found in table[panel].items()
        )
        for panel in panels[-2:]
    )  # fmt: skip
    return figure, f"AUROC of each method on bob's hard items, by task. Best in the panels {best}."


def roc(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], areas: Mapping[str, Estimate],
        before: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        areas_before: Mapping[str, Estimate]) -> tuple[Figure, str]:  # fmt: skip
    """ROC curves: false alarms against detections, one line per model; thin before fine-tuning."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(5.4, 4.2))
    for found, sizes, width, when in ((curves, areas, 2.0, "quirky"),
                                      (before, areas_before, 1.0, "before")):  # fmt: skip
        for style, (name, (alarms, hits)) in zip(STYLES, found.items(), strict=True):
            axis.plot(alarms, hits, label=f"{name}, {when}: area {sizes[name].value:.2f}",
                      color=style["color"], linestyle=style["linestyle"], linewidth=width)  # fmt: skip
    axis.plot((0, 1), (0, 1), color=GREY, linewidth=0.8)
    axis.set(xlabel="alice's items flagged (share)", ylabel="bob's items flagged (share)")
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    found = " and ".join(
        f"{areas[name].value:.2f} for {name} ({areas_before[name].value:.2f} before fine-tuning)"
        for name in curves
    )
    return figure, f"ROC curves of the anomaly detector; the area under them is {found}."
