"""Lesson 07, activation_patching: its exercises, and figures of patches, knockouts and edits."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, Drawn, Lines, Map, arrow, canvas, each, style, write
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
    expect_equal(
        attempt(patched, clean, corrupt), right, "one effect for each prompt", mistakes, definition
    )


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


DASHES = (("--", "s"), (":", "^"), ("-.", "v"))  # of lines after the first, with their markers
GREYS = [{"color": GREY, "linestyle": dash, "marker": mark} for dash, mark in DASHES]
BY_PATCH = "effect of the patch"


def two_runs() -> Drawn:
    """A sketch: two runs over the same places, and one activation carried over."""
    figure, (axis,) = canvas((9, 3.2), (-2.3, 10.4), (-0.7, 2.9))
    ring = {"marker": "o", "markersize": 13, "markerfacecolor": "white", "linestyle": ""}
    for left, subject, ink, answer in (
        (0, "Lesor", BLUE, "lentils"),
        (6, "Kutor", plots.VERMILION, "cotton"),
    ):
        for i, word in enumerate(("in", subject, "grow")):
            x = left + 1.2 * i
            write(axis, x, -0.4, word, color=ink if i == 1 else "black")
            axis.plot([x] * 3, range(3), markeredgecolor=ink, markeredgewidth=1.6, **ring)
        write(axis, left + 1.2, 2.6, f"says {answer}", color=ink)
    axis.plot(1.2, 1, **ring | {"markerfacecolor": BLUE, "markeredgecolor": BLUE})
    arrow(axis, (1.45, 1), (7, 1), linewidth=2, color=BLUE)
    write(axis, 4.2, 1.2, "put it in, run on", color=BLUE)
    for y, label in enumerate(("words", "after block 1", "after block 2")):
        write(axis, -0.5, y, label, ha="right", color=GREY, fontsize=10)
    write(axis, 9.7, 2.0, "what does it\nsay now?", color=GREY, fontsize=10)
    return figure, (
        "Two runs on prompts that differ in the subject; one activation of the clean run is put at "
        "the same place of the corrupt run, which then continues."
    )


def routes(maps: Mapping[str, Mapping[str, Tensor]], roles: Mapping[str, Sequence[str]]) -> Drawn:
    """Mean effect of a residual patch: per kind (row of panels) and model (column) a map [role depth],
    whose rows `roles` names."""
    grid = {}
    for kind, of_kind in maps.items():
        for name, effects in of_kind.items():
            half = 0.5 / (effects.shape[1] - 1)
            extent = (-half, 1 + half, len(effects) - 0.5, -0.5)
            grid[f"{name}: {kind}"] = Map(effects.cpu(), roles[kind], extent=extent)
    look = {"size": (4.6, 2.6), "columns": len(of_kind), "sharex": True, "sharey": "row"}
    figure, _ = plots.maps(grid, BY_PATCH, plots.DEPTH, "", **look)

    def arrives(effects: Tensor) -> str:
        most = (k for k, value in enumerate(effects[-1]) if value > 0.5)
        return f"k = {next(most, 'none')} of {effects.shape[1] - 1}"

    said = "The last word holds more than half of the answer from a depth on"
    return figure, f"{said}. {each(maps, arrives)}."


def parts(maps: Mapping[str, Mapping[str, Tensor]], title: str) -> Drawn:
    """Effect of each component in each block: per model a map, component -> effects [block]."""
    grid, said = {}, []
    for name, effects in maps.items():
        rows = torch.stack(list(effects.values())).cpu()
        cells = [[f"{x:.1f}" if abs(x) >= 0.05 else "" for x in row] for row in rows.tolist()]
        grid[name] = Map(rows, list(effects), range(rows.shape[1]), cells)
        top, block = divmod(int(rows.nan_to_num(-math.inf).argmax()), rows.shape[1])
        said.append(f"{name}: {list(effects)[top]}, block {block}, {rows[top, block]:.2f}")
    figure, _ = plots.maps(grid, BY_PATCH, "block", "", (-1, 1))
    return figure, f"{title}: the strongest component. {'; '.join(said)}."


Clouds = Mapping[str, tuple[Tensor, Tensor]]  # an estimate -> exact and estimated effects [cell]


def estimates(clouds: Mapping[str, Mapping[str, Clouds]]) -> Drawn:
    """Estimated effects over exact ones [cell]: per kind (row of panels) and model (column) two named
    estimates, all on the same axes."""
    grid = {f"{kind}, {name}": row for kind, of_kind in clouds.items() for name, row in of_kind.items()}
    columns = len(grid) // len(clouds)
    figure, axes = plots.titled(grid, "exact effect", "estimated effect", (4.5, 3.4), columns)
    looks = {"color": GREY, "marker": "^"}, {"color": BLUE, "marker": "o"}
    for axis, by_label in zip(axes, grid.values(), strict=True):
        axis.plot([0, 1], [0, 1], color="black", linewidth=1)
        for look, (label, (exact, estimate)) in zip(looks, by_label.items(), strict=True):
            axis.scatter(exact.tolist(), estimate.tolist(), s=12, alpha=0.5, label=label, **look)
    axes[0].set(xlim=(-0.4, 1.3), ylim=(-0.4, 1.6))
    plots.legend(figure)
    said = each(grid, lambda both: f"{(both[0] - both[1]).abs().mean():.2f}")
    return figure, f"Mean distance of the estimate from the exact effect: {said}."


def curves(lines: Lines, x: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Drawn:
    """Lines with 95 % bands, a panel a model on the same axes; the first in the model's style."""

    def look(name: str, label: str, at: int) -> dict:
        return {"markersize": 5} | (GREYS[(at - 1) % len(GREYS)] if at else style(name))

    def ends(line: Sequence[Estimate]) -> str:
        values = [e.value for e in line if e.n]
        return f"{values[0]:.2f} to {values[-1]:.2f}, lowest {min(values):.2f}"

    figure, _ = plots.curves(lines, xlabel, ylabel, look, ylim=(-0.05, 1.05), x=x)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {each(lines, ends)}."


Points = tuple[Sequence[float], Sequence[float]]  # relative depths, scores


def sweep(
    scores: Mapping[str, Mapping[str, Sequence[float]]], published: Mapping[str, Mapping[str, Points]]
) -> Drawn:
    """An edit's score by layer: per panel the models over relative depth, and in grey the published
    sweeps of another model (label -> its points)."""
    lines = {title: dict(by_model) for title, by_model in scores.items()}
    for title, others in published.items():
        lines[title] |= {label: dict(zip(*line, strict=True)) for label, line in others.items()}

    def look(title: str, label: str, at: int) -> dict:
        ours = len(scores[title])
        return style(label) if at < ours else {"color": GREY, "linestyle": ":", "marker": "^v"[at - ours]}

    names = "block / last block", "score (harmonic mean)"
    figure, _ = plots.curves(lines, *names, look, ylim=(-0.03, 1.03))
    said = each(scores, lambda line: f"block {line.index(max(line))} with {max(line):.2f}")
    return figure, f"The best block for an edit: {said}."
