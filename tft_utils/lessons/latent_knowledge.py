"""Lesson 06, latent_knowledge: a probe with a threshold, the CCS loss, and an unusual computation.

Figures of lesson 06: results in, a figure and its alt text out. Styles are those of `plots`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, panels, style
from tft_utils.stats import Estimate


def mean_difference(x, y):
    """w [d], b: a probe from activations x [item d] and labels y [item]; w . x + b > 0 says true.

    w has length 1 and points from the mean of the false items to that of the true ones; b puts 0
    half-way between the two means.
    """
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
    w = (mu1 - mu0) / (mu1 - mu0).norm()
    return w, -w @ (mu0 + mu1) / 2


def ccs_loss(p0, p1):
    """Consistency plus confidence, averaged over the items of p0 and p1 [item].

    p0, p1: the probe's probability of `true` after the answer false, and after the answer true.
    """
    consistency = (p0 - (1 - p1)).square().mean()
    confidence = torch.minimum(p0, p1).square().mean()
    return consistency + confidence


def unusual(usual, some):
    """Squared Mahalanobis distances [item] of some [item depth] from usual [item' depth]."""
    away = some - usual.mean(0)
    return (away * torch.linalg.solve(torch.cov(usual.T), away.T).T).sum(1)


def _number(found: object, what: str) -> float:
    if not (isinstance(found, Tensor) and found.numel() == 1):
        raise Wrong(f"expected {what} as one number in a tensor, found {found!r}")
    return found.item()


def check_mean_difference(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3 == 0  # a third is true
    x = torch.randn(60, 4, generator=draw) + 3 * y[:, None] * torch.tensor([1.0, 0, 0, 2.0]) + 5
    found = attempt(x, y)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Wrong("return two things: the direction w and the bias b")
    w, b = found
    if not (isinstance(w, Tensor) and w.shape == (4,)):
        raise Wrong("expected w of shape (4,), one number per feature; average over the items")
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
    wanted = (mu1 - mu0) / (mu1 - mu0).norm()
    if torch.allclose(w / w.norm(), -wanted, atol=1e-4):
        raise Wrong("w points from true to false; scores above 0 must say true")
    if not torch.allclose(w / w.norm(), wanted, atol=1e-4):
        raise Wrong("w is not along the difference of the two means; take each mean over its label")
    if abs(w.norm().item() - 1) > 1e-4:
        raise Wrong(f"w has length {w.norm():.2f}; divide it by its length")
    b, middle = _number(b, "b"), (-wanted @ (mu0 + mu1) / 2).item()
    if abs(b) < 1e-6:
        raise Wrong(
            "b is 0, so almost every score has the same sign: activations are far from 0; put 0 "
            "half-way between the two means"
        )
    if abs(b + (wanted @ x.mean(0)).item()) < 1e-3:
        raise Wrong(
            "b puts 0 at the mean of all items, which moves with the share of true ones; put it "
            "half-way between the two means"
        )
    if abs(b - middle) > 1e-3:
        raise Wrong(f"half-way between the two means the score must be 0; there b is {middle:.2f}")


def check_ccs_loss(attempt) -> None:
    p0, p1 = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.7, 0.5, 0.3])
    found = _number(attempt(p0, p1), "the loss")
    mistakes = {
        "only the consistency; without confidence, 0.5 everywhere would be perfect": (p0 - (1 - p1))
        .square()
        .mean(),
        "only the confidence": torch.minimum(p0, p1).square().mean(),
        "consistency asks that p0 and 1 - p1 agree, because one of the two answers is right; yours "
        "asks that p0 and p1 agree": (p0 - p1).square().mean() + torch.minimum(p0, p1).square().mean(),
        "square the smaller probability before you average": (p0 - (1 - p1)).square().mean()
        + torch.minimum(p0, p1).mean(),
        "confidence punishes the smaller of the two probabilities, not the larger": (p0 - (1 - p1))
        .square()
        .mean()
        + torch.maximum(p0, p1).square().mean(),
        "average over the items, do not add them up": 3 * ccs_loss(p0, p1),
    }
    if abs(found - ccs_loss(p0, p1).item()) < 1e-5:
        return
    for mistake, value in mistakes.items():
        if abs(found - value.item()) < 1e-5:
            raise Wrong(mistake)
    raise Wrong(f"for p0 = {p0.tolist()} and p1 = {p1.tolist()} the loss is {ccs_loss(p0, p1):.4f}")


def check_unusual(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    usual = torch.randn(200, 3, generator=draw) @ mix + 4
    some = torch.randn(5, 3, generator=draw) + 4
    found = attempt(usual, some)
    if not (isinstance(found, Tensor) and found.shape == (5,)):
        raise Wrong("expected one distance per item of `some`, a tensor of shape (5,)")
    away, S, whole = some - usual.mean(0), torch.cov(usual.T), unusual(usual, some)
    mistakes = {
        "you measure plain distance: divide by the covariance of the usual items, so that what "
        "varies much counts little": away.square().sum(1),
        "you divide each depth by its own variance only; the covariances between depths count too": (
            away.square() / S.diagonal()
        ).sum(1),
        "centre on the mean of the usual items, not on that of the new ones": (
            (some - some.mean(0)) * torch.linalg.solve(S, (some - some.mean(0)).T).T
        ).sum(1),
        "you multiply by the covariance; solve with it": (away @ S * away).sum(1),
        "you return the distance; leave it squared": whole.sqrt(),
        "take the covariance of the usual items, not of the new ones": (
            away * torch.linalg.lstsq(torch.cov(some.T), away.T).solution.T
        ).sum(1),
    }
    if torch.allclose(found, whole, rtol=1e-2):
        return
    for mistake, value in mistakes.items():
        if torch.allclose(found, value, rtol=1e-3):
            raise Wrong(mistake)
    raise Wrong("sum over depths of away times S^-1 away, with S the covariance of the usual items")


def known_and_said() -> tuple[Figure, str]:
    """One statement, two names, two answers, and a probe that reads before the answer."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(8.4, 2.9))
    axis.set(xlim=(-0.2, 10.2), ylim=(-0.4, 3.2))
    axis.axis("off")
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "linewidth": 1.8}
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 0, "shrinkB": 2}
    colours = (style(name)["color"] for name in ("transformer", "mamba"))
    for y, name, said, colour in zip(
        (2.5, 0.9), ("alice :", "bob :"), ("true", "false"), colours, strict=True
    ):
        axis.text(3.3, y, "a statement", ha="center", va="center", fontsize=12)
        axis.text(1.4, y, name, ha="center", va="center", fontsize=12, weight="bold")
        holds, edge = "what the model\nholds here", box | {"edgecolor": colour}
        axis.text(6, y, holds, ha="center", va="center", fontsize=10, bbox=edge)
        axis.text(9.2, y, f"says “{said}”", ha="center", va="center", fontsize=12, color=colour)
        axis.annotate("", (4.9, y), (4.3, y), arrowprops=arrow)
        axis.annotate("", (8.25, y), (7.1, y), arrowprops=arrow)
    axis.annotate("", (6, 1.4), (6, 2.0), arrowprops=arrow | {"linestyle": "--"})
    axis.text(6.15, 1.7, "a probe trained above is read off below", va="center", fontsize=10)
    axis.text(6, 0.0, "does it still say what is true?", ha="center", fontsize=10.5, weight="bold")
    alt = (
        "The same statement is put to alice and to bob, who answer differently; a probe trained on "
        "the activations for alice is read off on those for bob."
    )
    return figure, alt


def by_depth(
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    chosen: Mapping[str, Mapping[str, int]],
) -> tuple[Figure, str]:
    """AUROC against depth, one line per task: a row of panels per part, a column per model.

    curves: part -> model -> task -> a value per depth; chosen: model -> task -> depth, marked by a
    ring.
    """
    looks = (("#0072B2", "-"), ("#E69F00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
    columns = len(chosen)
    figure, axes = panels(len(curves), columns, (max(5.4, 4.5 * columns), 5.4), sharex=True, sharey=True)
    for row, (part, models) in zip(axes, curves.items(), strict=True):
        for axis, (name, tasks) in zip(row, models.items(), strict=True):
            for (colour, dash), (task, values) in zip(looks, tasks.items(), strict=True):
                depth = [k / (len(values) - 1) for k in range(len(values))]
                axis.plot(depth, values, color=colour, linestyle=dash, linewidth=2, label=task)
                ring = {"marker": "o", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 2}
                k = chosen[name][task]
                axis.plot(depth[k], values[k], color=colour, zorder=3, **ring)
            axis.axhline(0.5, color="black", linewidth=0.8)
            axis.set(title=f"{name}: {part}", ylim=(-0.05, 1.05))
            axis.set_xlabel("depth k/L (blocks applied / all blocks)")
            axis.label_outer()
        row[0].set_ylabel("AUROC against the truth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    part, models = list(curves.items())[-1]
    ends = "; ".join(
        f"{name}: " + ", ".join(f"{task} {tasks[task][k]:.2f}" for task, k in chosen[name].items())
        for name, tasks in models.items()
    )
    return figure, f"AUROC by depth; {part}, at the depth chosen on alice's items, {ends}."


def transfer(
    table: Mapping[str, Mapping[str, Mapping[str, Estimate]]], published: Mapping[str, float]
) -> tuple[Figure, str]:
    """AUROC per method, a panel per task, their mean, and the mean over all items; published values
    as grey diamonds.

    table: panel -> model -> method -> estimate; `published` belongs to the last panel.
    """
    titles = list(table)
    names, methods = list(table[titles[0]]), list(next(iter(table[titles[0]].values())))
    figure, axes = panels(1, len(titles), (10.5, 4.3), sharex=True, sharey=True)
    for axis, title in zip(axes[0], titles, strict=True):
        for i, (name, by_method) in enumerate(table[title].items()):
            y = [at + 0.34 * (i - (len(names) - 1) / 2) for at in range(len(methods))]
            estimates = [by_method[method] for method in methods]
            error = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
            look = style(name) | {"linestyle": "none", "markersize": 5}
            axis.errorbar([e.value for e in estimates], y, xerr=error, label=name, capsize=2, **look)
        axis.axvline(0.5, color="black", linewidth=0.8)
        axis.set(title=title, xlim=(-0.04, 1.04), xticks=(0, 0.5, 1), xlabel=" ")
    known = {method: value for method, value in published.items() if method in methods}
    at = [methods.index(method) for method in known]
    look = {"color": GREY, "marker": "D", "linestyle": "none", "markersize": 5}
    axes[0, -1].plot(list(known.values()), at, label="published Transformers", **look)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].invert_yaxis()
    axes[0, len(titles) // 2].set_xlabel("AUROC against the truth, bob's hard items")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    best = {
        title: ", ".join(
            f"{name} {max(by_method, key=lambda m: by_method[m].value)} with "
            f"{max(e.value for e in by_method.values()):.2f}"
            for name, by_method in table[title].items()
        )
        for title in titles[-2:]
    }
    said = "; ".join(f"{title}: {row}" for title, row in best.items())
    return figure, f"AUROC of each method on bob's hard items, by task. Best in the panels {said}."


def roc(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    areas: Mapping[str, Estimate],
    before: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    areas_before: Mapping[str, Estimate],
) -> tuple[Figure, str]:
    """ROC curves: false alarms against detections, one line per model; thin before fine-tuning."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(5.4, 4.2))
    for lines, sizes, width, when in ((curves, areas, 2, "quirky"), (before, areas_before, 1, "before")):
        for name, (alarms, hits) in lines.items():
            look = style(name) | {"marker": "", "linewidth": width}
            axis.plot(alarms, hits, label=f"{name}, {when}: area {sizes[name].value:.2f}", **look)
    axis.plot((0, 1), (0, 1), color=GREY, linewidth=0.8)
    axis.set(xlabel="alice's items flagged (share)", ylabel="bob's items flagged (share)")
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    said = " and ".join(
        f"{areas[name].value:.2f} for {name} ({areas_before[name].value:.2f} before fine-tuning)"
        for name in curves
    )
    return figure, f"ROC curves of the anomaly detector; the area under them is {said}."
