"""Lesson 06, latent_knowledge: a probe with a threshold, the CCS loss, and an unusual computation."""

from collections.abc import Mapping, Sequence

import torch

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, expect_two, refuse
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, listed, style, write
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


def check_mean_difference(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3 == 0  # a third is true
    x = torch.randn(60, 4, generator=draw) + 3 * y[:, None] * torch.tensor([1.0, 0, 0, 2.0]) + 5
    w, b = expect_two(attempt(x, y), "the direction w and the bias b")
    expect_tensor(w, (4,), "w", "it has one number per feature; average over the items")
    (right, middle), unit = mean_difference(x, y), w / w.norm()
    if not close(unit, right):
        turned = "w points from true to false; scores above 0 must say true"
        along = "w is not along the difference of the two means; take each mean over its label"
        refuse(unit, {turned: -right}, along)
    if not close(w, unit):
        raise Wrong(f"w has length {w.norm():.2f}; divide it by its length")
    mistakes = {
        "b is 0, so almost every score has the same sign: activations are far from 0; put 0 "
        "half-way between the two means": 0 * middle,
        "b puts 0 at the mean of all items, which moves with the share of true ones; put it "
        "half-way between the two means": -right @ x.mean(0),
    }
    otherwise = f"half-way between the two means the score must be 0; there b is {middle:.2f}"
    expect_equal(b, middle, "b", mistakes, otherwise)


def check_ccs_loss(attempt) -> None:
    p0, p1 = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.7, 0.5, 0.3])
    truth = ccs_loss(p0, p1)
    consistency, confidence = (p0 - (1 - p1)).square().mean(), torch.minimum(p0, p1).square().mean()
    mistakes = {
        "only the consistency; without confidence, 0.5 everywhere would be perfect": consistency,
        "only the confidence": confidence,
        "consistency asks that p0 and 1 - p1 agree, because one of the two answers is right; yours "
        "asks that p0 and p1 agree": (p0 - p1).square().mean() + confidence,
        "square the smaller probability before you average": consistency + torch.minimum(p0, p1).mean(),
        "confidence punishes the smaller of the two probabilities, not the larger": consistency
        + torch.maximum(p0, p1).square().mean(),
        "average over the items, do not add them up": 3 * (consistency + confidence),
    }
    otherwise = f"for p0 = {p0.tolist()} and p1 = {p1.tolist()} the loss is {truth:.4f}"
    expect_equal(attempt(p0, p1), truth, "the loss, one number,", mistakes, otherwise)


def check_unusual(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    usual = torch.randn(200, 3, generator=draw) @ mix + 4
    some = torch.randn(5, 3, generator=draw) + 4
    away, S, whole = some - usual.mean(0), torch.cov(usual.T), unusual(usual, some)
    centred = some - some.mean(0)

    def distances(x: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        return (x * torch.linalg.lstsq(covariance, x.T).solution.T).sum(1)

    mistakes = {
        "you measure plain distance: divide by the covariance of the usual items, so that what "
        "varies much counts little": away.square().sum(1),
        "you divide each depth by its own variance only; the covariances between depths count too": (
            distances(away, S.diagonal().diag())
        ),
        "centre on the mean of the usual items, not on that of the new ones": distances(centred, S),
        "you multiply by the covariance; solve with it": (away @ S * away).sum(1),
        "you return the distance; leave it squared": whole.sqrt(),
        "take the covariance of the usual items, not of the new ones": distances(away, torch.cov(some.T)),
    }
    otherwise = "sum over depths of away times S^-1 away, with S the covariance of the usual items"
    answer = expect_tensor(attempt(usual, some), (5,), "the distances, one per item of `some`,")
    if not torch.allclose(answer, whole, rtol=1e-2):  # a covariance by n or by n - 1
        refuse(answer, mistakes, otherwise)


MODELS = "transformer", "mamba", "mamba-tied", "mamba2"
LOOKS = [style(name) | {"marker": "", "linewidth": 2} for name in MODELS]  # of four tasks


def known_and_said() -> Drawn:
    """One statement, two names, two answers, and a probe that reads before the answer."""
    figure, (axis,) = canvas((8.4, 2.9), (-0.2, 10.2), (-0.4, 3.2))
    for y, name, said, look in ((2.5, "alice :", "true", LOOKS[0]), (0.9, "bob :", "false", LOOKS[1])):
        colour = look["color"]
        write(axis, 3.3, y, "a statement", fontsize=12)
        write(axis, 1.4, y, name, fontsize=12, weight="bold")
        write(axis, 6, y, "what the model\nholds here", fontsize=10, edge=colour)
        write(axis, 9.2, y, f"says “{said}”", fontsize=12, color=colour)
        arrow(axis, (4.3, y), (4.9, y))
        arrow(axis, (7.1, y), (8.25, y))
    arrow(axis, (6, 2.0), (6, 1.4), linestyle="--")
    write(axis, 6.15, 1.7, "a probe trained above is read off below", fontsize=10, ha="left")
    write(axis, 6, 0.1, "does it still say what is true?", fontsize=10.5, weight="bold")
    return figure, (
        "The same statement is put to alice and to bob, who answer differently; a probe trained on "
        "the activations for alice is read off on those for bob."
    )


def by_depth(
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    chosen: Mapping[str, Mapping[str, int]],
) -> Drawn:
    """AUROC against depth, one line per task: a row of panels per part, a column per model.

    curves: part -> model -> task -> a value per depth; chosen: model -> task -> depth, marked by a
    ring.
    """
    lines = {f"{name}: {part}": row for part, models in curves.items() for name, row in models.items()}
    names, grid = (plots.DEPTH, "AUROC against the truth"), {"columns": len(chosen)}
    grid["size"] = (max(9.4 / len(chosen), 4.5), 3)
    figure, axes = plots.curves(lines, *names, LOOKS, ylim=(-0.05, 1.05), **grid)
    for axis, (title, tasks) in zip(axes, lines.items(), strict=True):
        axis.axhline(0.5, color="black", linewidth=0.8)
        depths = chosen[title.partition(":")[0]]
        for look, (task, values) in zip(LOOKS, tasks.items(), strict=True):
            k = depths[task]
            ring = {"marker": "o", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 2}
            axis.plot(k / (len(values) - 1), values[k], color=look["color"], zorder=3, **ring)
    part, last = list(curves.items())[-1]
    ends = {name: {task: last[name][task][k] for task, k in row.items()} for name, row in chosen.items()}
    said = listed(ends, ".2f")
    return figure, f"AUROC by depth; {part}, at the depth chosen on alice's items, {said}."


def transfer(
    table: Mapping[str, Mapping[str, Mapping[str, Estimate]]], published: Mapping[str, float]
) -> Drawn:
    """AUROC per method, a panel per task, their mean, and the mean over all items; published values
    as grey diamonds.

    table: panel -> model -> method -> estimate; `published` belongs to the last panel.
    """
    *_, last = table
    methods = list(next(iter(table[last].values())))
    figure, axes = plots.dot_panels(table, " ", (-0.04, 1.04), size=(1.75, 4.5))
    for axis in axes:
        axis.axvline(0.5, color="black", linewidth=0.8)
        axis.set_xticks((0, 0.5, 1))
    known = {method: value for method, value in published.items() if method in methods}
    at = [methods.index(method) for method in known]
    label = "published Transformers"
    axes[-1].plot(known.values(), at, label=label, color=GREY, marker="D", linestyle="", markersize=5)
    axes[len(axes) // 2].set_xlabel("AUROC against the truth, bob's hard items")
    plots.legend(figure)

    def best(by_method: Mapping[str, Estimate]) -> str:
        method = max(by_method, key=lambda method: by_method[method].value)
        return f"{method} with {by_method[method].value:.2f}"

    said = listed(dict(list(table.items())[-2:]), best)
    return figure, f"AUROC of each method on bob's hard items, by task. Best in the panels {said}."


def roc(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    areas: Mapping[str, Estimate],
    before: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    areas_before: Mapping[str, Estimate],
) -> Drawn:
    """ROC curves: false alarms against detections, one line per model; thin before fine-tuning."""
    xlabel, ylabel = (f"{who}'s items flagged (share)" for who in ("alice", "bob"))
    figure, (axis,) = plots.titled([""], xlabel, ylabel, (6.4, 4.2))
    for lines, sizes, width, when in ((curves, areas, 2, "quirky"), (before, areas_before, 1, "before")):
        for name, (alarms, hits) in lines.items():
            look = style(name) | {"marker": "", "linewidth": width}
            axis.plot(alarms, hits, label=f"{name}, {when}: area {sizes[name].value:.2f}", **look)
    axis.plot((0, 1), (0, 1), color=GREY, linewidth=0.8)
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    said = " and ".join(
        f"{areas[name].value:.2f} for {name} ({areas_before[name].value:.2f} before fine-tuning)"
        for name in curves
    )
    return figure, f"ROC curves of the anomaly detector; the area under them is {said}."
