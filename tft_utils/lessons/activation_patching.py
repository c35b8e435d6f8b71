"""Lesson 07, activation_patching: its exercises, and figures of patches, knockouts and edits."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong, close, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, VERMILION, band, panels, style
from tft_utils.stats import Estimate


def effect(patched, clean, corrupt):
    """How much of the way from the corrupt to the clean run a denoising patch goes: 0 nothing, 1 all.

    patched, clean, corrupt: the logit difference of each prompt in the three runs [prompt].
    """
    return (patched - corrupt) / (clean - corrupt)


def dual_state(u, delta, A, B, C, sources, queries):
    """The scan in which no source reaches any query: y [pos channel].

    u, delta [pos channel]; A [channel d_state], negative; B, C [pos d_state]; sources, queries: sets
    of positions. The state decays at a blocked source as it always does. Other positions read as ever.
    """
    whole = kept = torch.zeros_like(A)
    y = []
    for t in range(len(u)):
        decay = torch.exp(delta[t, :, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        whole = decay * whole + write
        kept = decay * kept + (0 if t in sources else write)
        y.append((kept if t in queries else whole) @ C[t])
    return torch.stack(y)


def rank_one(W, k, v, C):
    """W changed by a matrix of rank one, so that it stores v under the key k: [d_out d_in].

    W [d_out d_in]; k [d_in]; v [d_out]; C [d_in d_in]: the mean of k k^T over other keys, which are to
    notice as little as possible.
    """
    u = torch.linalg.solve(C, k)
    return W + torch.outer(v - W @ k, u / (u @ k))


def check_effect(attempt) -> None:
    clean, corrupt = torch.tensor([4.0, 2.0, 3.0]), torch.tensor([-4.0, -6.0, 1.0])
    patched = torch.tensor([0.0, -4.0, 4.0])
    answer = expect_tensor(attempt(patched, clean, corrupt), (3,), "one effect for each prompt")
    right = effect(patched, clean, corrupt)  # 0.5, 0.25, 1.5
    mistakes = {
        "a patch that does nothing gets 1 and one that restores the clean run gets 0; measure from the "
        "corrupt run": 1 - right,
        "you do not divide by the distance between both runs, so effects of two prompts cannot be "
        "compared": patched - corrupt,
        "you divide by the clean run's m; divide by its distance from the corrupt run's": (
            (patched - corrupt) / clean
        ),
        "an effect beyond 1 or below 0 is possible and says something; do not clip it": right.clamp(0, 1),
    }
    definition = "the effect is the patched run's distance from the corrupt one, over the clean run's"
    if not close(answer, right):
        refuse(answer, mistakes, definition)


def check_dual_state(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(6, n, generator=draw) for n in (3, 2, 2))
    delta = 0.2 + torch.rand(6, 3, generator=draw)
    A, query, none = -0.2 - torch.rand(3, 2, generator=draw), 4, set()
    answer = expect_tensor(attempt(u, delta, A, B, C, {1, 2}, {query}), (6, 3), "y")
    plain = dual_state(u, delta, A, B, C, none, none)
    if close(answer, dual_state(u, delta, A, B, C, {1, 2}, {query})):
        if not close(attempt(u, delta, A, B, C, none, {query}), plain):
            raise Wrong("with no source blocked, y must be that of the plain scan")
        return
    outside = torch.tensor([1, 0, 0, 1, 1, 1])[:, None]  # of the sources
    hints = {
        "every position loses the sources; only the queries may: keep two states": (u * outside, delta),
        "nothing is blocked: at a query, read the state that never took in the sources": (u, delta),
    }
    refuse(answer, {hint: dual_state(*case, A, B, C, none, none) for hint, case in hints.items()})
    hint = "the second state stands still at a source; it must decay there, and take in nothing"
    refuse(answer[query], {hint: dual_state(u, delta * outside, A, B, C, none, none)[query]})
    others = [t for t in range(6) if t != query]
    if not close(answer[others], plain[others]):
        raise Wrong("positions that are no queries must read the whole state, as ever")
    raise Wrong(
        "the query's y is not C times a state that decays like the other and skips the sources' writes"
    )


def check_rank_one(attempt) -> None:
    draw = torch.Generator().manual_seed(1)
    W, k, v = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (4,), (3,)))
    root = torch.randn(4, 4, generator=draw)
    C, before = root @ root.T + 0.5 * torch.eye(4), W.clone()
    answer = expect_tensor(attempt(W, k, v, C), (3, 4), "the new matrix")
    if not torch.equal(W, before):
        raise Wrong("you change the W you were given; return a new matrix")
    if torch.linalg.matrix_rank(answer - W, atol=1e-4) > 1:
        raise Wrong("the change has a rank above one; it is the outer product of two vectors")
    if not torch.allclose(answer @ k, v, atol=1e-3):
        if torch.allclose((answer - W) @ k, v, atol=1e-3):
            raise Wrong("you add v to what W stored; only the difference v - W k is missing")
        raise Wrong("the new matrix does not store v: times k it must give v; mind the scale of u")
    if close(answer, W + torch.outer(v - W @ k, k / (k @ k))):
        raise Wrong("v is stored, but you ignore C: keys that are common elsewhere are moved too much")
    if not torch.allclose(answer, rank_one(W, k, v, C), atol=1e-3):
        raise Wrong("v is stored, but another u moves the other keys less: solve C u = k")


DEPTH = "depth k/L (blocks applied / all blocks)"
DASHES = (("--", "s"), (":", "^"), ("-.", "v"))  # of lines after the first, with their markers
GREYS = [{"color": GREY, "linestyle": dash, "marker": mark} for dash, mark in DASHES]


def two_runs() -> tuple[Figure, str]:
    """A sketch: two runs over the same places, and one activation carried over."""
    figure, ((axis,),) = panels(1, 1, (9, 3.2))
    axis.set(xlim=(-2.3, 10.4), ylim=(-0.7, 2.9))
    axis.axis("off")
    ring = {"marker": "o", "markersize": 13, "markerfacecolor": "white", "linestyle": ""}
    for left, subject, ink, answer in ((0, "Lesor", BLUE, "lentils"), (6, "Kutor", VERMILION, "cotton")):
        for i, word in enumerate(("in", subject, "grow")):
            x = left + 1.2 * i
            axis.text(x, -0.45, word, ha="center", color=ink if i == 1 else "black")
            axis.plot([x] * 3, range(3), markeredgecolor=ink, markeredgewidth=1.6, **ring)
        axis.text(left + 1.2, 2.55, f"says {answer}", ha="center", color=ink)
    axis.plot(1.2, 1, **ring | {"markerfacecolor": BLUE, "markeredgecolor": BLUE})
    axis.annotate("", (7, 1), (1.45, 1), arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": BLUE})
    axis.text(4.2, 1.14, "put it in, run on", ha="center", color=BLUE)
    for y, label in enumerate(("words", "after block 1", "after block 2")):
        axis.text(-0.5, y, label, ha="right", va="center", color=GREY, fontsize=10)
    axis.text(9.3, 2.0, "what does it\nsay now?", va="center", color=GREY, fontsize=10)
    alt = (
        "Two runs on prompts that differ in the subject; one activation of the clean run is put at "
        "the same place of the corrupt run, which then continues."
    )
    return figure, alt


def routes(
    maps: Mapping[str, Mapping[str, Tensor]], roles: Mapping[str, Sequence[str]]
) -> tuple[Figure, str]:
    """Mean effect of a residual patch: per kind (row of panels) and model (column) a map [role depth],
    whose rows `roles` names."""
    n = len(next(iter(maps.values())))
    figure, axes = panels(len(maps), n, (4.6 * n, 0.8 + 2.2 * len(maps)), sharex=True)
    said = []
    for line, (kind, of_kind) in zip(axes, maps.items(), strict=True):
        for axis, (name, effects) in zip(line, of_kind.items(), strict=True):
            rows, last = effects.tolist(), effects.shape[1] - 1
            extent = (-0.5 / last, 1 + 0.5 / last, len(rows) - 0.5, -0.5)
            image = axis.imshow(rows, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=extent)
            axis.set_title(f"{name}: {kind}", fontsize=11)
            axis.set_yticks(range(len(rows)), roles[kind] if axis is line[0] else [""] * len(rows))
            axis.grid(visible=False)
            arrives = next((str(k) for k, value in enumerate(rows[-1]) if value > 0.5), "none")
            said.append(f"{kind}, {name}: k = {arrives} of {last}")
    for axis in axes[-1]:
        axis.set_xlabel(DEPTH)
    figure.colorbar(image, ax=axes, label="effect of the patch")
    alt = f"The last word holds more than half of the answer from a depth on. {'; '.join(said)}."
    return figure, alt


def parts(maps: Mapping[str, Mapping[str, Tensor]], title: str) -> tuple[Figure, str]:
    """Effect of each component in each block: per model a map, component -> effects [block]."""
    figure, axes = panels(1, len(maps), (4.7 * len(maps), 3.6))
    said = []
    for axis, (name, effects) in zip(axes[0], maps.items(), strict=True):
        rows = torch.stack(list(effects.values())).cpu()
        image = axis.imshow(rows.tolist(), vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
        for y, x in (rows.abs() >= 0.05).nonzero().tolist():
            ink = "white" if rows[y, x].abs() > 0.6 else "black"
            axis.text(x, y, f"{rows[y, x]:.1f}", ha="center", va="center", fontsize=8.5, color=ink)
        axis.set_xticks(range(rows.shape[1]))
        axis.set_yticks(range(len(rows)), effects, fontsize=9)
        axis.set(title=name, xlabel="block")
        axis.grid(visible=False)
        top, block = divmod(int(rows.nan_to_num(-math.inf).argmax()), rows.shape[1])
        said.append(f"{name}: {list(effects)[top]}, block {block}, {rows[top, block]:.2f}")
    figure.colorbar(image, ax=axes, label="effect of the patch")
    return figure, f"{title}: the strongest component. {'; '.join(said)}."


Clouds = Mapping[str, tuple[Tensor, Tensor]]  # an estimate -> exact and estimated effects [cell]


def estimates(clouds: Mapping[str, Mapping[str, Clouds]]) -> tuple[Figure, str]:
    """Estimated effects over exact ones [cell]: per kind (row of panels) and model (column) two named
    estimates, all on the same axes."""
    n, shared = len(next(iter(clouds.values()))), {"sharex": True, "sharey": True}
    figure, axes = panels(len(clouds), n, (4.5 * n, 0.6 + 3.2 * len(clouds)), **shared)
    looks, said = ({"color": GREY, "marker": "^"}, {"color": BLUE, "marker": "o"}), []
    for line, (kind, of_kind) in zip(axes, clouds.items(), strict=True):
        for axis, (name, by_label) in zip(line, of_kind.items(), strict=True):
            axis.plot([0, 1], [0, 1], color="black", linewidth=1)
            for look, (label, (exact, estimate)) in zip(looks, by_label.items(), strict=True):
                axis.scatter(exact.tolist(), estimate.tolist(), s=12, alpha=0.5, label=label, **look)
                said.append(f"{kind}, {name}, {label}: {(exact - estimate).abs().mean():.2f}")
            axis.set(title=f"{name}: {kind}", xlim=(-0.4, 1.3), ylim=(-0.4, 1.6))
        line[0].set_ylabel("estimated effect")
    for axis in axes[-1]:
        axis.set_xlabel("exact effect")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure, f"Mean distance of the estimate from the exact effect: {'; '.join(said)}."


def curves(
    lines: Mapping[str, Mapping[str, Sequence[Estimate]]],
    x: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
) -> tuple[Figure, str]:
    """Lines with 95 % bands, a panel a model on the same axes; the first in the model's style."""
    figure, axes = panels(1, len(lines), (4.6 * len(lines), 3.5), sharex=True, sharey=True)
    said = []
    for axis, (name, by_label) in zip(axes[0], lines.items(), strict=True):
        for i, (label, estimates) in enumerate(by_label.items()):
            look = GREYS[(i - 1) % len(GREYS)] if i else style(name)
            band(axis, x[name], estimates, label, markersize=5, **look)
            if values := [e.value for e in estimates if e.n]:
                ends = f"{values[0]:.2f} to {values[-1]:.2f}, lowest {min(values):.2f}"
                said.append(f"{name}, {label}: {ends}")
        axis.set(title=name, xlabel=xlabel, ylim=(-0.05, 1.05))
        if all(isinstance(place, int) for place in x[name]):
            axis.set_xticks(x[name])
        axis.legend(frameon=False, fontsize=9)
    axes[0, 0].set_ylabel(ylabel)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {'; '.join(said)}."


Points = tuple[Sequence[float], Sequence[float]]  # relative depths, scores


def sweep(
    scores: Mapping[str, Mapping[str, Sequence[float]]], published: Mapping[str, Mapping[str, Points]]
) -> tuple[Figure, str]:
    """An edit's score by layer: per panel the models over relative depth, and in grey the published
    sweeps of another model (label -> its points)."""
    figure, axes = panels(1, len(scores), (9.2, 3.6), sharex=True, sharey=True)
    said, known = [], {}
    for axis, (title, by_model) in zip(axes[0], scores.items(), strict=True):
        for name, values in by_model.items():
            x = [i / (len(values) - 1) for i in range(len(values))]
            axis.plot(x, values, label=name, **style(name))
            best = max(range(len(values)), key=values.__getitem__)
            said.append(f"{title}, {name}: block {best} with {values[best]:.2f}")
        for marker, (label, points) in zip("^v", published[title].items(), strict=False):
            axis.plot(*points, color=GREY, linestyle=":", marker=marker, label=label)
        axis.set(title=title, xlabel="block / last block", ylim=(-0.03, 1.03))
        lines, labels = axis.get_legend_handles_labels()
        known |= dict(zip(labels, lines, strict=True))
    axes[0, 0].set_ylabel("score (harmonic mean)")
    figure.legend(known.values(), known, frameon=False, loc="outside upper center", ncols=len(known))
    return figure, f"The best block for an edit: {'; '.join(said)}."
