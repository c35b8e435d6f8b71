"""Lesson 02, attention: the matrix inside a scan, what heads follow, and how not to misread it."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, STYLES


def unroll(delta, A, B, C):
    """The weights with which a scan reads its inputs: [channel query source].

    delta: step sizes [pos channel]; A: decay rates [channel d_state], all negative;
    B, C: write and read vectors [pos d_state].
    """
    passed = delta.cumsum(0).T  # [channel pos]
    gap = passed[:, :, None] - passed[:, None, :]  # between source and query
    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])  # [channel query source n]
    written = delta.T[:, :, None] * B  # [channel source n]
    return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()


def lag_profile(weights, queries, lags):
    """Mean weight on the word k back, over the queries, for k = 0 to lags - 1: [head lag].

    weights: [head query source], its rows belong to the positions in queries [query].
    """
    rows = torch.arange(len(queries))
    return torch.stack([weights[:, rows, queries - k].mean(1) for k in range(lags)], dim=1)


def to_words(alpha, D, sigma, taps, gate):
    """The weights from the convolution's input x to the gated output: [channel query source].

    alpha: weights on u [channel query source]; D: skip weight [channel]; sigma: u = sigma * c
    [pos channel]; taps: the convolution's weight j words back [step channel]; gate: [pos channel].
    """
    on_u = alpha + D[:, None, None] * torch.eye(alpha.shape[-1])
    on_c = on_u * sigma.T[:, None]
    on_x = torch.zeros_like(on_c)
    for j, tap in enumerate(taps):
        n = on_c.shape[-1] - j
        on_x[..., :n] += tap[:, None, None] * on_c[..., j:]
    return gate.T[:, :, None] * on_x


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def _expect_shape(found, shape: tuple[int, ...], what: str) -> None:
    if not torch.is_tensor(found):
        raise Wrong(f"expected one tensor, found {type(found).__name__}; return {what}")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {list(shape)}, found {list(found.shape)}")


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draws) for shape in shapes]


def check_unroll(attempt) -> None:
    draws = torch.Generator().manual_seed(1)
    delta = 0.3 + torch.rand(5, 3, generator=draws)
    A = -0.3 - torch.rand(3, 2, generator=draws)
    B, C = _random((5, 2), (5, 2))
    found = attempt(delta, A, B, C)
    _expect_shape(found, (3, 5, 5), "weights [channel query source]")
    truth = unroll(delta, A, B, C)
    if _close(found, truth):
        long = torch.full((200, 1), 5.0)  # gaps of up to 1,000: exp of them is infinite
        if not attempt(long, torch.tensor([[-1.0]]), *torch.ones(2, 200, 1)).isfinite().all():
            raise Wrong(
                "right on five words, not finite on 200: for a source after its query the gap is "
                "negative and its exponential explodes; cut the gap off at 0 before exp"
            )
        return
    if found.triu(1).abs().max() > 1e-6:
        raise Wrong("a word reads words after it; sources after the query get weight 0")
    written = delta.T[:, :, None] * B
    passed = delta.cumsum(0).T
    gap = (passed[:, :, None] - passed[:, None, :]).clamp(min=0)

    def with_gap(gap: Tensor, written: Tensor = written) -> Tensor:
        kept = torch.exp(gap[..., None] * A[:, None, None])
        return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()

    mistakes = {
        "the source's own step fades it already: what is written at s fades from s + 1 on": with_gap(
            gap + delta.T[:, None, :]
        ),
        "the last step is missing: what is written at s also fades at the query itself": with_gap(
            (gap - delta.T[:, :, None]).clamp(min=0)
        ),
        "the step size is missing from what is written: delta times B": with_gap(gap, B.expand(3, 5, 2)),
        "nothing fades: each later word keeps exp(delta A) of it": with_gap(torch.zeros_like(gap)),
        "B and C are exchanged: the source writes with B, the query reads with C": torch.einsum(
            "sn,ctsn,tn,cs->cts", C, torch.exp(gap[..., None] * A[:, None, None]), B, delta.T
        ).tril(),
    }
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    raise Wrong(
        "expected weight [c, t, s] to be the sum over n of C_t exp(A (delta_{s+1} + ... + delta_t)) "
        "delta_s B_s; try one channel with one entry on paper"
    )


def check_lag_profile(attempt) -> None:
    queries = torch.tensor([4, 5, 7])
    (weights,) = _random((2, 3, 9))
    found = attempt(weights, queries, 4)
    _expect_shape(found, (2, 4), "profiles [head lag]")
    truth = lag_profile(weights, queries, 4)
    if _close(found, truth):
        return
    rows = torch.arange(3)
    ahead = [weights[:, rows, (queries + k).clamp(max=8)].mean(1) for k in range(4)]
    mistakes = {
        "you add the weights up; take their mean over the queries": 3 * truth,
        "your lag 0 is the word before; lag 0 is the query itself": lag_profile(weights, queries - 1, 4),
        "your lags are in reverse order: k = 0 comes first": truth.flip(1),
        "the source of row i is queries[i] - k, not i - k: rows start at the first query": lag_profile(
            weights, rows, 4
        ),
    }
    if _close(found[:, 0], torch.stack(ahead, 1)[:, 0]) and _close(found[:, 1], ahead[1]):
        raise Wrong("you look ahead: k words back from t is t - k")
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    raise Wrong("expected entry [h, k] to be the mean over i of weights[h, i, queries[i] - k]")


def check_to_words(attempt) -> None:
    alpha, D, sigma, taps, gate = _random((2, 6, 6), (2,), (6, 2), (3, 2), (6, 2))
    alpha = alpha.tril()
    before = alpha.clone()
    found = attempt(alpha, D, sigma, taps, gate)
    if not torch.equal(alpha, before):
        raise Wrong("you change alpha in place; build a new tensor instead")
    _expect_shape(found, (2, 6, 6), "weights [channel query source]")
    truth = to_words(alpha, D, sigma, taps, gate)
    if _close(found, truth):
        return
    if found.triu(1).abs().max() > 1e-6:
        raise Wrong(
            "a word reads words after it: tap j takes column s to column s - j, and the first j "
            "columns fall off; they do not come back at the other end"
        )
    on_c = (alpha + D[:, None, None] * torch.eye(6)) * sigma.T[:, None]
    forward = torch.zeros_like(on_c)
    for j, tap in enumerate(taps):
        forward[..., j:] += tap[:, None, None] * on_c[..., : 6 - j]
    mistakes = {
        "the skip is missing: D u_t also goes into the output": to_words(alpha, 0 * D, sigma, taps, gate),
        "u is not c: the activation's factor sigma_s belongs to each column": to_words(
            alpha, D, torch.ones_like(sigma), taps, gate
        ),
        "the gate is missing: each row is multiplied by its query's gate": to_words(
            alpha, D, sigma, taps, torch.ones_like(gate)
        ),
        "the gate belongs to the query, so to rows; you multiplied columns": to_words(
            alpha, D, sigma, taps, torch.ones_like(gate)
        )
        * gate.T[:, None],
        "you move columns the wrong way: tap j brings x_k into u_{k+j}, so column k + j counts for k": gate.T[
            :, :, None
        ]
        * forward.tril(),
        "the taps are in reverse order: taps[0] meets the word itself": to_words(
            alpha, D, sigma, taps.flip(0), gate
        ),
        "only the first tap arrives: add up all of them": to_words(alpha, D, sigma, taps[:1], gate),
    }
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    scale = math.sqrt(float((found**2).sum() / (truth**2).sum()))
    raise Wrong(
        "expected gate_t (alpha + D on the diagonal)[t, k + j] sigma_{k+j} taps[j], summed over j; "
        f"yours is {scale:.2g} times as large"
    )


def two_ways_to_read() -> tuple[Figure, str]:
    """A weight in each machine: one score there, a path through the state here."""
    words = ["mila", "red", ".", "mila"]
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.2), sharey=True)
    for axis, title in zip(
        axes, ("Transformer: a weight is a score", "Mamba: a weight is a path"), strict=True
    ):
        axis.set(xlim=(-0.6, 3.9), ylim=(-0.4, 2.6), title=title)
        axis.axis("off")
        for x, word in enumerate(words):
            axis.text(x, 0, word, ha="center", va="center", fontsize=13)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.2, "color": GREY, "shrinkA": 3, "shrinkB": 3}
    for x in range(4):
        bold = {"color": STYLES[0]["color"], "linewidth": 2.6} if x == 1 else {}
        axes[0].annotate("", (3, 1.6), (x, 0.2), arrowprops=arrow | bold)
    axes[0].text(3, 1.8, "softmax(q · k) times v", ha="center", color=STYLES[0]["color"])
    bold = {"color": STYLES[1]["color"], "linewidth": 2.6}
    for x in range(4):
        axes[1].annotate("", (x, 0.95), (x, 0.2), arrowprops=arrow | (bold if x == 1 else {}))
        axes[1].text(
            x,
            1.2,
            "state",
            ha="center",
            va="center",
            fontsize=10,
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": STYLES[1]["color"]},
        )
        if x < 3:
            axes[1].annotate("", (x + 0.68, 1.2), (x + 0.32, 1.2), arrowprops=arrow | (bold if x else {}))
            if x:
                axes[1].text(x + 0.5, 1.36, "keep", ha="center", fontsize=10, color=bold["color"])
    axes[1].annotate("", (3, 2.15), (3, 1.45), arrowprops=arrow | bold)
    axes[1].text(1.08, 0.55, "write B", fontsize=10, color=bold["color"])
    axes[1].text(3.08, 1.75, "read C", fontsize=10, color=bold["color"])
    axes[1].text(3.8, 2.3, "write · keep · keep · read, times u", ha="right", color=bold["color"])
    alt = (
        "Left: the last word has an arrow from each word, weighed by a score. Right: from the second "
        "word a path leads through write, keep, keep and read to the last word."
    )
    return figure, alt


def head_maps(maps: Sequence[Tensor], n_words: int) -> tuple[Figure, str]:
    """A small map [query source] for each head of each layer; maps: [head query source] a layer."""
    heads = len(maps[0])
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(heads, len(maps), figsize=(9.2, 6.4), sharex=True, sharey=True)
    for layer, column in enumerate(axes.T):
        for head, axis in enumerate(column):
            image = axis.imshow(maps[layer][head], vmin=0, vmax=1, cmap="viridis")
            axis.set_title(f"block {layer}, head {head}", fontsize=9)
            axis.tick_params(labelsize=8)
        column[-1].set_xlabel("source word", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("query word", fontsize=9)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    back = [float(each.diagonal(-1).mean()) for layer in maps for each in layer]
    return figure, (
        f"Maps of {len(back)} heads on a text of {n_words} words. Number of heads with most "
        f"weight on the word before: {sum(b > 0.5 for b in back)}."
    )


def lag_maps(profiles: Tensor, periods: Sequence[int], labels: Sequence[str]) -> tuple[Figure, str]:
    """Profiles [period unit lag] as one map a period, rows labelled, the same scale for all."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(periods), figsize=(9.2, 5.6), sharey=True)
    for axis, period, profile in zip(axes, periods, profiles, strict=True):
        image = axis.imshow(profile, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set(title=f"text repeats after {period} words", xlabel="lag (words back)")
        axis.set_xticks(range(0, profile.shape[-1], 2))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axes[0].set_ylabel("block, head")
    figure.colorbar(image, ax=axes, label="mean attention weight")
    peaks = profiles.argmax(-1)
    strong = profiles.amax(-1).amin(0) > 0.5
    moved = (strong & (peaks[1] - peaks[0] == periods[1] - periods[0])).sum()
    return figure, (
        f"Mean attention of {len(labels)} heads by lag: in {int(moved)} heads with a strong "
        f"peak it moves when the period goes from {periods[0]} to {periods[1]}."
    )


def around(
    panels: Mapping[str, Mapping[str, Sequence[float]]], offsets: Sequence[int]
) -> tuple[Figure, str]:
    """Per panel the mean weight at positions around the match: a raw map, then a better one."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.4), sharex=True, sharey=True)
    said = []
    raw = {"color": GREY, "linestyle": ":", "marker": "^"}
    for axis, better, (name, lines) in zip(axes, STYLES, panels.items(), strict=True):
        axis.axvline(0, color="#BBBBBB", linewidth=1.5)
        for style, (kind, values) in zip((raw, better), lines.items(), strict=True):
            axis.plot(offsets, values, label=kind, **style)
            peak = offsets[max(range(len(offsets)), key=values.__getitem__)]
            said.append(f"{name}, {kind}: {peak:+d}")
        axis.set(title=name, xlabel="source, words after the match", xticks=offsets, ylim=(0, None))
        axis.legend(frameon=False, fontsize=9, loc="upper left")
    axes[0].set_ylabel("share of the row")
    return figure, f"Position of the peak against the word to copy: {'; '.join(said)}."


def by_block(
    found: Mapping[str, Sequence[float]], controls: Mapping[str, Sequence[float]], ylabel: str
) -> tuple[Figure, str]:
    """A value per block and model over relative depth; controls are thin and grey."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7.4, 3.6))
    for style, (name, values) in zip(STYLES, found.items(), strict=True):
        x = [i / (len(values) - 1) for i in range(len(values))]
        axis.plot(x, values, label=name, **style)
        axis.plot(
            x,
            controls[name],
            label=f"{name}, control",
            **style | {"color": GREY, "linewidth": 1, "markersize": 3},
        )
    axis.set(xlabel="block / last block", ylabel=ylabel, ylim=(-0.03, 1.03))
    axis.legend(frameon=False)
    peaks = " and ".join(
        f"{name} at block {max(range(len(v)), key=v.__getitem__)} with {max(v):.0%}"
        for name, v in found.items()
    )
    top = max(value for values in controls.values() for value in values)
    return figure, f"{ylabel} peaks for {peaks}; the control stays at or below {top:.0%}."


def word_maps(words: Sequence[str], maps: Mapping[str, Tensor], label: str) -> tuple[Figure, str]:
    """Maps [query source] over the same words, side by side: non-negative ones on one scale from 0,
    signed ones on one scale around 0. The first word has one source only and may exceed the scale."""
    most = max(float(each[1:].abs().max()) for each in maps.values())
    signed = any(bool((each < 0).any()) for each in maps.values())
    colours, low = ("RdBu_r", -most) if signed else ("viridis", 0)
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(maps), figsize=(4.6 * len(maps) + 0.6, 4.6), sharey=True, squeeze=False
        )
    said = []
    for axis, (name, each) in zip(axes[0], maps.items(), strict=True):
        image = axis.imshow(each, cmap=colours, vmin=low, vmax=most)
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
        axis.set_yticks(range(len(words)), words, fontsize=8)
        axis.set(title=name, xlabel="source")
        source = int(each[-1].abs().argmax())
        said.append(f"{name}'s strongest source is '{words[source]}', word {source + 1}")
    axes[0][0].set_ylabel("query")
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure, f"For the last word '{words[-1]}', {' and '.join(said)}."
