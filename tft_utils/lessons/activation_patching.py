"""Lesson 07, activation_patching: the effect of a patch, a knockout in the scan, a rank-one edit.

Figures of lesson 07: results in, a figure and its alt text out. Styles are those of `plots`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, STYLES
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


def _tensor(found: object, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {shape}, found {tuple(found.shape)}")
    return found


def check_effect(attempt) -> None:
    clean, corrupt = torch.tensor([4.0, 2.0, 3.0]), torch.tensor([-4.0, -6.0, 1.0])
    patched = torch.tensor([0.0, -4.0, 4.0])
    found = _tensor(attempt(patched, clean, corrupt), (3,), "one effect for each prompt")
    if torch.allclose(found, torch.tensor([0.5, 0.25, 1.5])):
        return
    mistakes = {
        "a patch that does nothing gets 1 and one that restores the clean run gets 0; measure from the "
        "corrupt run": (clean - patched) / (clean - corrupt),
        "you do not divide by the distance between both runs, so effects of two prompts cannot be "
        "compared": patched - corrupt,
        "you divide by the clean run's m; divide by its distance from the corrupt run's": (
            patched - corrupt
        )
        / clean,
        "an effect beyond 1 or below 0 is possible and says something; do not clip it": torch.tensor(
            [0.5, 0.25, 1.0]
        ),
    }
    for mistake, wrong in mistakes.items():
        if torch.allclose(found, wrong):
            raise Wrong(mistake)
    raise Wrong("the effect is the patched run's distance from the corrupt one, over the clean run's")


def _scan_case() -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(6, n, generator=draw) for n in (3, 2, 2))
    delta = 0.2 + torch.rand(6, 3, generator=draw)
    return u, delta, -0.2 - torch.rand(3, 2, generator=draw), B, C


def _masked(u, delta, A, B, C, sources, queries, decays: bool = True) -> Tensor:
    """The same by the matrix alpha[t,s] = d_s sum_n C_t B_s exp(A (S_t - S_s)), entries set to 0."""
    steps = delta.clone()
    if not decays:
        steps[list(sources)] = 0
    S = steps.cumsum(0)
    gap = (S[:, None] - S[None, :])[..., None] * A  # [query source channel n]
    alpha = (torch.exp(gap.clamp(max=0)) * C[:, None, None] * B[None, :, None]).sum(-1) * delta[None]
    alpha *= torch.ones(len(u), len(u)).tril()[..., None]
    whole = torch.einsum("tse,se->te", alpha, u)
    for q in queries:
        for s in sources:
            alpha[q, s] = 0
    y = torch.einsum("tse,se->te", alpha, u)
    if not decays:  # only the queries read the other state
        y = torch.where(torch.tensor([t in queries for t in range(len(u))])[:, None], y, whole)
    return y


def check_dual_state(attempt) -> None:
    case, sources, queries = _scan_case(), {1, 2}, {4}
    u, delta, A, B, C = case
    found = _tensor(attempt(*case, sources, queries), (6, 3), "y")
    if torch.allclose(found, _masked(*case, sources, queries), atol=1e-4):
        if not torch.allclose(attempt(*case, set(), {4}), _masked(*case, set(), set()), atol=1e-4):
            raise Wrong("with no source blocked, y must be that of the plain scan")
        return
    silent = u.clone()
    silent[list(sources)] = 0
    if torch.allclose(found, _masked(silent, *case[1:], set(), set()), atol=1e-4):
        raise Wrong("every position loses the sources; only the queries may: keep two states")
    if torch.allclose(found, _masked(*case, set(), set()), atol=1e-4):
        raise Wrong("nothing is blocked: at a query, read the state that never took in the sources")
    frozen = _masked(*case, sources, queries, decays=False)
    if torch.allclose(found[4], frozen[4], atol=1e-4):
        raise Wrong("the second state stands still at a source; it must decay there, and take in nothing")
    others = [t for t in range(6) if t not in queries]
    if not torch.allclose(found[others], _masked(*case, set(), set())[others], atol=1e-4):
        raise Wrong("positions that are no queries must read the whole state, as ever")
    raise Wrong(
        "the query's y is not C times a state that decays like the other and skips the sources' writes"
    )


def check_rank_one(attempt) -> None:
    draw = torch.Generator().manual_seed(1)
    W, k, v = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (4,), (3,)))
    root = torch.randn(4, 4, generator=draw)
    C = root @ root.T + 0.5 * torch.eye(4)
    before = W.clone()
    found = _tensor(attempt(W, k, v, C), (3, 4), "the new matrix")
    if not torch.equal(W, before):
        raise Wrong("you change the W you were given; return a new matrix")
    if torch.linalg.matrix_rank(found - W, atol=1e-4) > 1:
        raise Wrong("the change has a rank above one; it is the outer product of two vectors")
    if not torch.allclose(found @ k, v, atol=1e-3):
        if torch.allclose((found - W) @ k, v, atol=1e-3):
            raise Wrong("you add v to what W stored; only the difference v - W k is missing")
        raise Wrong("the new matrix does not store v: times k it must give v; mind the scale of u")
    if torch.allclose(found, W + torch.outer(v - W @ k, k / (k @ k)), atol=1e-4):
        raise Wrong("v is stored, but you ignore C: keys that are common elsewhere are moved too much")
    best = rank_one(W, k, v, C)
    if not torch.allclose(found, best, atol=1e-3):
        raise Wrong("v is stored, but another u moves the other keys less: solve C u = k")


DEPTH = "depth k/L (blocks applied / all blocks)"
LINES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "v")


def two_runs() -> tuple[Figure, str]:
    """A sketch: two runs over the same places, and one activation carried over."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 3.2))
    axis.set(xlim=(-2.3, 10.4), ylim=(-0.7, 2.9))
    axis.axis("off")
    for left, subject, ink, answer in (
        (0, "Lesor", STYLES[0]["color"], "lentils"),
        (6, "Kutor", STYLES[1]["color"], "cotton"),
    ):
        for x, word in enumerate(("in", subject, "grow")):
            axis.text(left + 1.2 * x, -0.45, word, ha="center", color=ink if x == 1 else "black")
            for y in range(3):
                axis.plot(
                    left + 1.2 * x,
                    y,
                    "o",
                    markersize=13,
                    markerfacecolor="white",
                    markeredgecolor=ink,
                    markeredgewidth=1.6,
                )
        axis.text(left + 1.2, 2.55, f"says {answer}", ha="center", color=ink)
    axis.plot(1.2, 1, "o", markersize=13, color=STYLES[0]["color"])
    axis.annotate(
        "",
        (7.0, 1),
        (1.45, 1),
        arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": STYLES[0]["color"]},
    )
    axis.text(4.2, 1.14, "put it in, run on", ha="center", color=STYLES[0]["color"])
    for y, label in enumerate(("words", "after block 1", "after block 2")):
        axis.text(-0.5, y, label, ha="right", va="center", color=GREY, fontsize=10)
    axis.text(9.3, 2.0, "what does it\nsay now?", ha="left", va="center", color=GREY, fontsize=10)
    alt = (
        "Two runs on prompts that differ in the subject; one activation of the clean run is put at "
        "the same place of the corrupt run, which then continues."
    )
    return figure, alt


def routes(
    found: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Sequence[str]]
) -> tuple[Figure, str]:
    """Mean effect of a residual patch: per kind (row of panels) and model (column) a map [role depth]."""
    models = list(next(iter(found.values())))
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(
            len(found), len(models), figsize=(9.2, 0.8 + 2.2 * len(found)), sharex=True, squeeze=False
        )
    said = []
    for line, (kind, maps) in zip(axes, found.items(), strict=True):
        for axis, (name, each) in zip(line, maps.items(), strict=True):
            last = each.shape[1] - 1
            image = axis.imshow(
                each.tolist(),
                vmin=0,
                vmax=1,
                cmap="viridis",
                aspect="auto",
                extent=(-0.5 / last, 1 + 0.5 / last, len(each) - 0.5, -0.5),
            )
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
                    axis.text(
                        x,
                        y,
                        f"{value:.1f}",
                        ha="center",
                        va="center",
                        fontsize=8.5,
                        color="white" if abs(value) > 0.6 else "black",
                    )
        axis.set_xticks(range(len(values[0])))
        axis.set_yticks(range(len(found)), found, fontsize=9)
        axis.set(title=name, xlabel="block")
        top = max(found, key=lambda part: float(found[part].max()))
        said.append(f"{name}: {top}, block {int(found[top].argmax())}, {float(found[top].max()):.2f}")
    figure.colorbar(image, ax=axes, label="effect of the patch")
    return figure, f"{title}: the strongest component. {'; '.join(said)}."


Clouds = Mapping[str, tuple[Tensor, Tensor]]  # an estimate -> exact and estimated effects [cell]


def estimates(found: Mapping[str, Mapping[str, Clouds]]) -> tuple[Figure, str]:
    """Estimated effects over exact ones [cell]: per kind (row of panels) and model (column) the named
    estimates, all on the same axes."""
    models = list(next(iter(found.values())))
    with plt.rc_context(RC):
        figure, axes = plt.subplots(
            len(found),
            len(models),
            figsize=(9, 0.6 + 3.2 * len(found)),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
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


def curves(
    panels: Mapping[str, Mapping[str, Sequence[Estimate]]],
    x: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
) -> tuple[Figure, str]:
    """Lines with 95 % bands, a panel a model on the same axes; the first in the model's style."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.5), sharex=True, sharey=True)
    said = []
    for axis, style, (name, lines) in zip(axes, STYLES, panels.items(), strict=True):
        for i, (label, found) in enumerate(lines.items()):
            look = style if i == 0 else {"color": GREY, "linestyle": LINES[i], "marker": MARKS[i]}
            axis.plot(x[name], [e.value for e in found], label=label, markersize=5, **look)
            axis.fill_between(
                x[name],
                [e.low for e in found],
                [e.high for e in found],
                color=look["color"],
                alpha=0.15,
                linewidth=0,
            )
            said.append(
                f"{name}, {label}: {found[0].value:.2f} to {found[-1].value:.2f}, "
                f"lowest {min(e.value for e in found):.2f}"
            )
        axis.set(title=name, xlabel=xlabel, ylim=(-0.05, 1.05))
        if all(isinstance(each, int) for each in x[name]):
            axis.set_xticks(x[name])
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel(ylabel)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {'; '.join(said)}."


def sweep(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    published: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> tuple[Figure, str]:
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
    known = {
        label: line
        for axis in axes
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        known.values(), known.keys(), frameon=False, loc="outside upper center", ncols=len(known)
    )
    return figure, f"The best block for an edit: {'; '.join(said)}."
