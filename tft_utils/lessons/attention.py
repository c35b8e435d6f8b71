"""Lesson 02, attention: the matrix inside a scan, what heads follow, and how not to misread it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import CONTROL, Drawn, Line, Lines, Map, arrow, canvas, each, style, write


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


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draws) for shape in shapes]


def check_unroll(attempt) -> None:
    delta, A, B, C = _random((5, 3), (3, 2), (5, 2), (5, 2))
    delta, A = 0.3 + delta.abs() / 2, -0.3 - A.abs() / 2
    weights = expect_tensor(attempt(delta, A, B, C), (3, 5, 5), "weights [channel query source]")
    if close(weights, unroll(delta, A, B, C)):
        long = torch.full((200, 1), 5.0)  # gaps of up to 1,000: exp of them is infinite
        if not attempt(long, torch.tensor([[-1.0]]), *torch.ones(2, 200, 1)).isfinite().all():
            raise Wrong(
                "right on five words, not finite on 200: for a source after its query the gap is "
                "negative and its exponential explodes; cut the gap off at 0 before exp"
            )
        return
    if weights.triu(1).abs().max() > 1e-6:
        raise Wrong("a word reads words after it; sources after the query get weight 0")
    passed, own = delta.cumsum(0).T, delta.T[:, :, None]
    gap = (passed[:, :, None] - passed[:, None, :]).clamp(min=0)

    def with_gap(gap: Tensor, written: Tensor = own * B, read: Tensor = C) -> Tensor:
        kept = torch.exp(gap[..., None] * A[:, None, None])
        return torch.einsum("tn,ctsn,csn->cts", read, kept, written).tril()

    early, late = with_gap(gap + own.mT), with_gap((gap - own).clamp(min=0))
    exchanged = with_gap(gap, own * C, B)
    mistakes = {
        "the source's own step fades it already: what is written at s fades from s + 1 on": early,
        "the last step is missing: what is written at s also fades at the query itself": late,
        "the step size is missing from what is written: delta times B": with_gap(gap, B.expand(3, 5, 2)),
        "nothing fades: each later word keeps exp(delta A) of it": with_gap(torch.zeros_like(gap)),
        "B and C are exchanged: the source writes with B, the query reads with C": exchanged,
    }
    otherwise = (
        "expected weight [c, t, s] to be the sum over n of C_t exp(A (delta_{s+1} + ... + delta_t)) "
        "delta_s B_s; try one channel with one entry on paper"
    )
    refuse(weights, mistakes, otherwise)


def check_lag_profile(attempt) -> None:
    queries, rows = torch.tensor([4, 5, 7]), torch.arange(3)
    (weights,) = _random((2, 3, 9))
    truth = lag_profile(weights, queries, 4)
    ahead = [weights[:, rows, (queries + k).clamp(max=8)].mean(1) for k in range(4)]
    by_row = lag_profile(weights, rows, 4)
    mistakes = {
        "you look ahead: k words back from t is t - k": torch.stack(ahead, 1),
        "you add the weights up; take their mean over the queries": 3 * truth,
        "your lag 0 is the word before; lag 0 is the query itself": lag_profile(weights, queries - 1, 4),
        "your lags are in reverse order: k = 0 comes first": truth.flip(1),
        "the source of row i is queries[i] - k, not i - k: rows start at the first query": by_row,
    }
    otherwise = "expected entry [h, k] to be the mean over i of weights[h, i, queries[i] - k]"
    expect_equal(attempt(weights, queries, 4), truth, "profiles [head lag]", mistakes, otherwise)


def check_to_words(attempt) -> None:
    alpha, D, sigma, taps, gate = _random((2, 6, 6), (2,), (6, 2), (3, 2), (6, 2))
    alpha = alpha.tril()
    by, one = partial(to_words, alpha), torch.ones(6, 2)
    weights, truth = attempt(alpha.clone(), D, sigma, taps, gate), by(D, sigma, taps, gate)
    if close(expect_tensor(weights, (2, 6, 6), "weights [channel query source]"), truth):
        return
    if weights.triu(1).abs().max() > 1e-6:
        raise Wrong(
            "a word reads words after it: tap j takes column s to column s - j, and the first j "
            "columns fall off; they do not come back at the other end"
        )
    on_c = by(D, sigma, torch.ones(1, 2), gate)  # a single tap: nothing moves yet
    ahead = sum(t[:, None, None] * pad(on_c, (j, 0))[..., :6].tril() for j, t in enumerate(taps))
    by_source = by(D, sigma, taps, one) * gate.T[:, None]
    mistakes = {
        "the skip is missing: D u_t also goes into the output": by(0 * D, sigma, taps, gate),
        "u is not c: the activation's factor sigma_s belongs to each column": by(D, one, taps, gate),
        "the gate is missing: each row is multiplied by its query's gate": by(D, sigma, taps, one),
        "the gate belongs to the query, so to rows; you multiplied columns": by_source,
        "you move columns the wrong way: tap j brings x_k into u_{k+j}, so column k + j is for k": ahead,
        "the taps are in reverse order: taps[0] meets the word itself": by(D, sigma, taps.flip(0), gate),
        "only the first tap arrives: add up all of them": by(D, sigma, taps[:1], gate),
    }
    scale = math.sqrt(float((weights**2).sum() / (truth**2).sum()))
    otherwise = (
        "expected gate_t (alpha + D on the diagonal)[t, k + j] sigma_{k+j} taps[j], summed over j; "
        f"yours is {scale:.2g} times as large"
    )
    refuse(weights, mistakes, otherwise)


def two_ways_to_read() -> Drawn:
    """A weight in each machine: one score there, a path through the state here."""
    titles = "Transformer: a weight is a score", "Mamba: a weight is a path"
    figure, (scores, path) = canvas((9.2, 3.2), (-0.6, 3.9), (-0.4, 2.6), *titles)
    of_score, of_path = ({"color": style(name)["color"]} for name in ("transformer", "mamba"))
    thin, bold = {"linewidth": 1.2}, {"linewidth": 2.6}
    for x, word in enumerate(("mila", "red", ".", "mila")):
        for axis, colour, end in ((scores, of_score, (3, 1.6)), (path, of_path, (x, 0.95))):
            write(axis, x, 0, word, fontsize=13)
            arrow(axis, (x, 0.2), end, **colour | bold if x == 1 else thin)
        write(path, x, 1.2, "state", fontsize=10, edge=of_path["color"])
        if x < 3:
            arrow(path, (x + 0.32, 1.2), (x + 0.68, 1.2), **of_path | bold if x else thin)
    arrow(path, (3, 1.45), (3, 2.15), **of_path | bold)
    write(scores, 3, 1.85, "softmax(q · k) times v", **of_score)
    steps = (1.43, 0.6, "write B"), (1.55, 1.42, "keep"), (2.55, 1.42, "keep"), (3.4, 1.8, "read C")
    for x, y, said in steps:
        write(path, x, y, said, fontsize=10, **of_path)
    write(path, 2.4, 2.35, "write · keep · keep · read, times u", **of_path)
    return figure, (
        "Left: the last word has an arrow from each word, weighed by a score. Right: from the second "
        "word a path leads through write, keep, keep and read to the last word."
    )


def head_maps(heads: Sequence[Tensor], n_words: int) -> Drawn:
    """A small map [query source] for each head of each layer; heads: [head query source] a layer."""
    places = itertools.product(range(len(heads[0])), range(len(heads)))  # a row of panels for each head
    grid = {f"block {layer}, head {head}": Map(heads[layer][head]) for head, layer in places}
    names = "attention weight", "source word", "query word"
    look = {"size": (1.54, 1.6), "columns": len(heads), "sharex": True, "sharey": True}
    figure, axes = plots.maps(grid, *names, **look)
    for axis in axes:
        axis.title.set_fontsize(9)
    back = [float(head.diagonal(-1).mean()) for layer in heads for head in layer]
    return figure, (
        f"Maps of {len(back)} heads on a text of {n_words} words. Number of heads with most "
        f"weight on the word before: {sum(b > 0.5 for b in back)}."
    )


def lag_maps(profiles: Tensor, periods: Sequence[int], labels: Sequence[str]) -> Drawn:
    """Profiles [period unit lag] as one map a period, rows labelled, the same scale for all."""
    titles = [f"text repeats after {period} words" for period in periods]
    grid = {title: Map(profile, labels) for title, profile in zip(titles, profiles, strict=True)}
    names = "mean attention weight", "lag (words back)", "block, head"
    figure, _ = plots.maps(grid, *names, size=(4.6, 5.6), sharex=True, sharey=True)
    peaks = profiles.argmax(-1)
    strong = profiles.amax(-1).amin(0) > 0.5
    moved = (strong & (peaks[1] - peaks[0] == periods[1] - periods[0])).sum()
    return figure, (
        f"Mean attention of {len(labels)} heads by lag: in {int(moved)} heads with a strong "
        f"peak it moves when the period goes from {periods[0]} to {periods[1]}."
    )


def around(models: Lines, offsets: Sequence[int]) -> Drawn:
    """Per model the mean weight at positions around the match: a raw map, then a better one."""

    def look(name: str, kind: str, at: int) -> dict:
        return style(name) if at else CONTROL | {"linestyle": ":"}

    names = "source, words after the match", "share of the row"
    figure, axes = plots.curves(models, *names, look, ylim=(0, None), x=offsets)
    for axis in axes:
        axis.axvline(0, color="#BBBBBB", linewidth=1.5, zorder=0)
    said = each(models, lambda shares: f"{offsets[shares.index(max(shares))]:+d}")
    return figure, f"Position of the peak against the word to copy: {said}."


def by_block(models: Mapping[str, Line], controls: Mapping[str, Line], ylabel: str) -> Drawn:
    """A value per block and model over relative depth; controls are thin and grey."""
    lines = plots.with_controls(models, controls)
    figure, _ = plots.curves({"": lines}, "block / last block", ylabel, ylim=(-0.03, 1.03))
    peaks = " and ".join(
        f"{name} at block {int(np.argmax(shares))} with {max(shares):.0%}"
        for name, shares in models.items()
    )
    top = max(map(max, controls.values()))
    return figure, f"{ylabel} peaks for {peaks}; the control stays at or below {top:.0%}."


def word_maps(words: Sequence[str], maps: Mapping[str, Tensor], label: str) -> Drawn:
    """Maps [query source] over the same words, side by side: non-negative ones on one scale from 0,
    signed ones on one scale around 0. The first word has one source only and may exceed the scale."""
    most = max(float(weights[1:].abs().max()) for weights in maps.values())
    low = -most if any(bool((weights < 0).any()) for weights in maps.values()) else 0
    grid = {name: Map(weights, words, words, turn=90) for name, weights in maps.items()}
    figure, _ = plots.maps(grid, label, "source", "query", (low, most), size=(4.9, 4.6), sharey=True)
    sources = {name: int(weights[-1].abs().argmax()) for name, weights in maps.items()}
    said = " and ".join(
        f"{name}'s strongest source is '{words[at]}', word {at + 1}" for name, at in sources.items()
    )
    return figure, f"For the last word '{words[-1]}', {said}."
