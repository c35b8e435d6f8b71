"""Lesson 02, attention: the matrix inside a scan, what heads follow, and how not to misread it.

The checks of cuts know the truth from plain PyTorch, so they also judge answers that avoid nnsight.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tft_utils import models, reading
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import CONTROL, Drawn, Line, Lines, Map, arrow, canvas, each, style, write
from tft_utils.techniques import attention


def entry_attention(delta, rate, written, read):
    """The weights with which one entry of one channel's state reads its inputs: [query source].

    delta, written, read: the word's step size, its B and its C for this entry, each [pos];
    rate: the entry's A, one negative number.
    """
    weights = torch.zeros(len(delta), len(delta))
    for t in range(len(delta)):
        for s in range(t + 1):
            since = delta[s + 1 : t + 1].sum()  # the steps of all words after s, up to t
            kept = math.exp(rate * since)
            weights[t, s] = read[t] * kept * delta[s] * written[s]
    return weights


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


def follows(profiles, periods, floor=0.25):
    """What a head follows: "fixed" or "match", and its lag; or "spread", and None.

    profiles: its mean weight on the word k back [period lag], in texts of two periods. The lag counts
    words back, for a match words after the earlier copy. floor: the lowest peak that counts.
    """
    heights, peaks = profiles.max(-1)
    near, far = peaks.tolist()
    if heights.min() < floor:
        return "spread", None
    if near == far:
        return "fixed", near
    if far - near == periods[1] - periods[0]:
        return "match", periods[0] - near
    return "spread", None


def resampled(model, ids, units, donors):
    """Logits [batch pos vocab] when units (layer -> its units) say at each word what they say at another.

    donors [batch pos]: the place of that other word among all words of the batch, row after row.
    """
    with model.trace(ids):
        for layer in sorted(units):
            said = model.unit_outputs(layer).unflatten(-1, (model.units(layer), -1))
            for unit in units[layer]:
                by_word = said[..., unit, :].flatten(0, 1)  # [word width]
                said[..., unit, :] = by_word[donors]
        logits = model.logits.save()
    return logits


def rollout(maps):
    """How much of each word could have reached each position [query source].

    maps: a map of each block, first to last, [query source]; rows sum to 1.
    """
    stays = torch.eye(len(maps[0]), dtype=maps[0].dtype)
    reached = stays
    for weights in maps:
        step = 0.5 * weights + 0.5 * stays  # half of every position stays where it is
        reached = step @ reached  # a later block reads what earlier ones wrote
    return reached


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


def contribution(mixing, query):
    """Length of what each word adds to the mixer's output at one position: [source].

    mixing: of one prompt. query: that position.
    """
    queries = torch.tensor([query], device=mixing.projection.device)
    weights = mixing.weights("operator", queries)[0, :, 0]  # [unit source]
    values = mixing.values("operator")[0]  # [unit source width]
    vectors = torch.einsum("us,usw,uwd->sd", weights, values, mixing.projection)
    return vectors.norm(dim=-1)


def cut(model, ids, layer, source, query):
    """Logits [1 pos vocab] when, in one block, one position reads nothing from another.

    ids [1 pos]. Where rows of weights sum to 1, what is left of the row is made to sum to 1 again.
    """
    (mixing,) = attention.mixings(model, ids, [layer])
    level, queries = mixing.levels[0], torch.tensor([query], device=ids.device)
    weights = mixing.weights(level, queries)[0, :, 0]  # [unit source]
    left = weights.clone()
    left[:, source] = 0
    if mixing.normalised:
        left = left / left.sum(-1, keepdim=True)
    values = mixing.values(level)[0]  # [unit source width]
    change = values.new_zeros(1, *values.shape)
    change[0, :, query] = torch.einsum("us,usw->uw", left - weights, values)
    with model.trace(ids):
        model.mixer_output(layer)[:] += mixing.read_out(change)
        logits = model.logits.save()
    return logits


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draws) for shape in shapes]


def _wrong_unrolls(delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> dict[str, Tensor]:
    """hint -> the weights [channel query source] that this mistake gives."""
    passed, own = delta.cumsum(0).T, delta.T[:, :, None]
    gap = (passed[:, :, None] - passed[:, None, :]).clamp(min=0)

    def with_gap(gap: Tensor, written: Tensor = own * B, read: Tensor = C) -> Tensor:
        kept = torch.exp(gap[..., None] * A[:, None, None])
        return torch.einsum("tn,ctsn,csn->cts", read, kept, written).tril()

    early, late = with_gap(gap + own.mT), with_gap((gap - own).clamp(min=0))
    unstepped = with_gap(gap, B.expand(*own.shape[:2], B.shape[1]))
    exchanged = with_gap(gap, own * C, B)
    return {
        "the source's own step fades it already: what is written at s fades from s + 1 on": early,
        "the last step is missing: what is written at s also fades at the query itself": late,
        "the step size is missing from what is written: delta times B": unstepped,
        "nothing fades: each later word keeps exp(delta A) of it": with_gap(torch.zeros_like(gap)),
        "B and C are exchanged: the source writes with B, the query reads with C": exchanged,
    }


def _refuse_scan(weights: Tensor, *scan: Tensor) -> None:
    """Refuses weights [channel query source] that are not those of `unroll` on the same tensors."""
    truth = unroll(*scan)
    if close(weights, truth):
        return
    if weights.triu(1).abs().max() > 1e-6:
        raise Wrong("a word reads words after it; sources after the query get weight 0")
    if close(weights, truth.tril(-1)):
        raise Wrong("a word also reads itself: s runs up to t, and nothing has faded yet")
    otherwise = (
        "expected weight [t, s] to be read C_t times exp(A (delta_{s+1} + ... + delta_t)) times delta_s "
        "times written B_s, summed over entries; try one channel with one entry on paper"
    )
    refuse(weights, _wrong_unrolls(*scan), otherwise)


def check_entry_attention(attempt) -> None:
    delta, written, read = _random((5,), (5,), (5,))
    delta, rate = 0.3 + delta.abs() / 2, -0.7
    weights = expect_tensor(attempt(delta, rate, written, read), (5, 5), "weights [query source]")
    _refuse_scan(weights[None], delta[:, None], torch.tensor([[rate]]), written[:, None], read[:, None])


def check_unroll(attempt) -> None:
    delta, A, B, C = _random((5, 3), (3, 2), (5, 2), (5, 2))
    delta, A = 0.3 + delta.abs() / 2, -0.3 - A.abs() / 2
    weights = expect_tensor(attempt(delta, A, B, C), (3, 5, 5), "weights [channel query source]")
    _refuse_scan(weights, delta, A, B, C)
    long = torch.full((200, 1), 5.0)  # gaps of up to 1,000: exp of them is infinite
    if not attempt(long, torch.tensor([[-1.0]]), *torch.ones(2, 200, 1)).isfinite().all():
        raise Wrong(
            "right on five words, not finite on 200: for a source after its query the gap is negative "
            "and its exponential explodes; cut the gap off at 0 before exp"
        )


def check_follows(attempt) -> None:
    def seen(*peaks: tuple[int, float], **options):
        """What the attempt says of peaks (lag, height), one in each text."""
        profiles = torch.full((2, 16), 0.01)
        for row, (lag, height) in zip(profiles, peaks, strict=True):
            row[lag] = height
        answer = attempt(profiles, (10, 14), **options)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], str)):
            raise Wrong(f'expected two things like "fixed", 3; found {answer!r}; return both')
        return answer

    low, both = ((9, 0.8), (13, 0.2)), ((3, 0.2), (3, 0.2))
    cases = (
        (((3, 0.8), (3, 0.7)), "fixed", 3, "a peak that stays at its lag in both texts is a fixed lag"),
        (((9, 0.8), (13, 0.7)), "match", 1, "a peak that moves with the period follows the match"),
        (both, "spread", None, "no peak here reaches `floor`; that is spread"),
        (low, "spread", None, "the lower one of the two peaks must reach `floor`, too"),
        (((9, 0.8), (11, 0.7)), "spread", None, "it moved by 2 and the period by 4: it follows neither"),
    )
    for peaks, kind, lag, hint in cases:
        found = seen(*peaks)
        if found[0] != kind:
            raise Wrong(f"for peaks at lags {peaks[0][0]} and {peaks[1][0]} you say {found[0]}: {hint}")
        if found == ("match", 9):
            raise Wrong("a match's lag counts from the earlier copy, which stands one period back")
        if lag is not None and found[1] != lag:
            raise Wrong(f"for peaks at lags {peaks[0][0]} and {peaks[1][0]} expected lag {lag}")
    if seen(*both, floor=0.1)[0] != "fixed":
        raise Wrong("use `floor`, and not a number of your own")


@functools.cache
def _pair() -> dict[str, models.Model]:
    return models.load_models()


def _prompts(model) -> Tensor:
    """Two texts of seven words [batch pos]."""
    texts = ["mila red tomo blue mila red tomo", "The dogs near the cat run ."]
    return reading.tokens(model, texts).ids


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=1e-3, atol=2e-3)


@torch.no_grad()
def _hooked(model, ids: Tensor, units: Mapping[int, Sequence[int]], said_instead) -> Tensor:
    """Logits of plain PyTorch when units say what said_instead(what they say [batch pos width]) is."""

    def edit(layer: int):
        def hook(module, args):
            said = args[0].clone().unflatten(-1, (model.units(layer), -1))
            for unit in units[layer]:
                said[..., unit, :] = said_instead(said[..., unit, :].clone())
            return (said.flatten(2),)

        return hook

    hooks = [model.module("output", at).register_forward_pre_hook(edit(at)) for at in units]
    try:
        return model.hf(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()


def _from(donors: Tensor, said: Tensor) -> Tensor:
    """What each word says [batch pos width], taken from the words at donors [batch pos]."""
    return said.flatten(0, 1)[donors]


@torch.no_grad()
def check_resampled(attempt) -> None:
    for name, model in _pair().items():
        ids, units = _prompts(model), {1: [0, 2], 3: [1]}
        donors = torch.randint(ids.numel(), ids.shape, generator=torch.Generator().manual_seed(0))
        rest = {at: sorted({*range(model.units(at))} - {*some}) for at, some in units.items()}
        whole = {at: range(model.units(at)) for at in units}
        elsewhere = partial(_from, donors)
        same_text = partial(_from, donors % 7 + torch.tensor([[0], [7]]))
        ways = {
            "": (units, elsewhere),
            "your edit changes nothing: assign into what `model.unit_outputs` gives": ({}, None),
            "you set the units to 0; they say what they say at another word": (units, torch.zeros_like),
            "you resample whole blocks; only the chosen units": (whole, elsewhere),
            "you resample all units but the chosen ones": (rest, elsewhere),
            "each word takes from its own text; `donors` counts through the batch": (units, same_text),
        }
        logits = attempt(model, ids, units, donors)
        shape = (*ids.shape, model.config.vocab_size)
        logits = expect_tensor(logits, shape, "logits [batch pos vocab]", "return `model.logits`, saved")
        hints = (hint for hint, way in ways.items() if _same(logits, _hooked(model, ids, *way)))
        otherwise = (
            f"on {name}, the logits are not those of a run in which each chosen unit says at word "
            "[b, t] what it says at word donors[b, t] of the flattened batch"
        )
        if hint := next(hints, otherwise):
            raise Wrong(hint)


def check_rollout(attempt) -> None:
    maps = [draw.abs().tril() for draw in _random(*[(4, 4)] * 3)]
    maps = [weights / weights.sum(-1, keepdim=True) for weights in maps]
    eye, (a, b, c) = torch.eye(4), maps
    half = [(weights + eye) / 2 for weights in maps]
    mistakes = {
        "the order is reversed: a later block reads what earlier ones wrote, so it stands on the left": (
            rollout(maps[::-1])
        ),
        "you leave out the residual stream: half of every position stays where it is": c @ b @ a,
        "you add to the maps without halving: rows must sum to 1": (c + eye) @ (b + eye) @ (a + eye),
        "you average the maps; a path through several blocks is a product": sum(half) / 3,
        "you apply the last block only; go on from `reached`": half[2],
    }
    otherwise = "expected the product over blocks of (map + identity) / 2, the last block on the left"
    given = [weights.clone() for weights in maps]
    expect_equal(attempt(given), rollout(maps), "the rollout [query source]", mistakes, otherwise)


@torch.no_grad()
def check_contribution(attempt) -> None:
    for name, model in _pair().items():
        (mixing,) = attention.mixings(model, _prompts(model)[:1], [3])
        query = torch.tensor([5])
        truth = attention.contributions(mixing, query)[0, 0]
        found = expect_tensor(attempt(mixing, 5), truth.shape, "lengths [source]")
        if _same(found, truth):
            continue
        alone = attention.value_weighted(mixing, query)[0, :, 0]  # [unit source]
        weights, values = mixing.weights("operator", query)[0, :, 0], mixing.values("operator")[0]
        signed = torch.einsum("us,usw,uwd->sd", weights, values, mixing.projection)
        mistakes = {
            "you add up lengths; first add up the vectors of all units": alone.sum(0),
            "you average lengths; first add up the vectors of all units": alone.mean(0),
            "these are weights; multiply each by the value that it carries": weights.sum(0),
            "you add up the numbers of each vector; take its length, `norm`": signed.sum(-1),
        }
        if _same(found, (weights[..., None] * values).sum(0).norm(dim=-1)):
            raise Wrong("the output projection is missing: each unit writes through its own part of it")
        otherwise = f"on {name}, expected the length of the sum over units of weight x value W"
        refuse(found, mistakes, otherwise)


@torch.no_grad()
def check_cut(attempt) -> None:
    for name, model in _pair().items():
        ids, layer, source, query = _prompts(model)[:1], 2, 1, 4
        at = torch.arange(ids.shape[1])[None]

        def blocked(sources, queries, model=model, ids=ids, layer=layer):
            return attention.block(model, ids, [layer], sources, queries, spread=False)

        truth = blocked(at == source, at == query)
        logits, lacks = attempt(model, ids, layer, source, query), "return `model.logits`, saved"
        logits = expect_tensor(logits, truth.shape, "logits [1 pos vocab]", lacks)
        if _same(logits, truth):
            continue
        (mixing,) = attention.mixings(model, ids, [layer])
        level = mixing.levels[0]
        values, weights = mixing.values(level), mixing.weights(level)
        lost = torch.zeros_like(values)
        lost[:, :, query] = weights[:, :, query, source, None] * values[:, :, source]
        wrong = {
            "your edit changes nothing: add to `model.mixer_output(layer)` in place": 0 * lost,
            "you add what should go: the change is what is left minus what was there": lost,
            "the rest of the row must sum to 1 again where the row did: see `mixing.normalised`": -lost,
        }
        for hint, change in wrong.items():
            if _same(logits, _with_change(model, ids, layer, mixing.read_out(change))):
                raise Wrong(hint)
        if _same(logits, blocked(at == query, at == source)):
            raise Wrong("source and query are exchanged: the query reads, the source is read")
        if _same(logits, blocked(at == source, (at > source) & (at >= 0))):
            raise Wrong("you cut the source for every later word; only the query loses it")
        raise Wrong(
            f"on {name}, the logits differ from those of a run whose query reads nothing of the source; "
            "take weights and values of the first level, `mixing.levels[0]`"
        )


def _with_change(model, ids: Tensor, layer: int, change: Tensor) -> Tensor:
    """Logits when `change` is added to what the mixer of a layer writes."""

    def put(name: str, value, t: int | None = None):
        return value + change if name == "mixer" else value

    put.points, x = ("mixer",), model.embed(ids)
    for at in range(model.n_layers):
        x = model.block(at, x, put) if at == layer else model.block(at, x)
    return model.to_logits(x)


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


def rows(mixing, asked, view):
    """The row of each item's query in a map, its numbers without sign and with the sum 1."""
    for i, query in enumerate(asked.last.tolist()):
        yield attention.row_normalised(view(mixing.row(i, query + 1), asked.last[i : i + 1]))[0, 0]


def on_u(mixing):
    """The mixing as if its convolution were not there: its sources are u, and not words."""
    plain = {"sigma": torch.ones_like(mixing.sigma), "taps": torch.ones_like(mixing.taps[:1])}
    return replace(mixing, x=mixing.u, **plain)


def of_u(mixing, queries):
    """Contributions whose sources are u, which the scan reads, and not words."""
    return attention.contributions(on_u(mixing), queries)


def mixed_and_given(model, prompt):
    """For each block of a prompt: what its mixer mixes with, and what it gives [pos d_model].

    Both of one run, the library's own: two runs drift apart by rounding, block by block.
    """
    with model.trace(prompt):
        run = [(model.residual(i), model.mixer_output(i)[0]) for i in range(model.n_layers)].save()
    for layer, (x, given) in enumerate(run):
        yield model.mixing(layer, x), given


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
    blocks, units = range(len(heads)), range(len(heads[0]))
    if len(heads) <= 8:  # a row of panels for each head
        grid = {f"block {k}, head {h}": Map(heads[k][h]) for h, k in itertools.product(units, blocks)}
        names, look = ("source word", "query word"), {"size": (1.54, 1.6), "columns": len(blocks)}
    else:  # a column for each head, or the figure gets wider than any page
        grid = {f"{k}, head {h}": Map(heads[k][h]) for k, h in itertools.product(blocks, units)}
        names, look = ("source", "query"), {"size": (0.95, 1.0), "columns": len(units)}
    figure, axes = plots.maps(grid, "attention weight", *names, **look, sharex=True, sharey=True)
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
    """Per model the mean weight at positions around the match: raw maps in grey, then the best one."""

    def look(name: str, kind: str, at: int) -> dict:
        if at == len(models[name]) - 1:
            return style(name)
        return CONTROL | {"linestyle": ":-"[at], "marker": "^v"[at]}

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


def one_map(mixing, unit: int, level: str, words: Sequence[str], title: str) -> Drawn:
    """A map [query source] of a block: its contributions, or one unit's weights at a level; for a level
    it lacks, its last one. The first word has one source only and may exceed the scale."""
    if level == "contributions":
        weights, label = attention.contributions(mixing)[0].cpu(), f"all {mixing.unit}s"
    else:
        level = level if level in mixing.levels else mixing.levels[-1]
        unit = min(unit, len(mixing.projection) - 1)
        weights, label = mixing.weights(level, units=[unit])[0, 0].cpu(), f"{mixing.unit} {unit}"
    most = float(weights[1:].abs().max())
    scale = (-most if bool((weights < 0).any()) else 0, most)  # signed weights: around 0
    grid = {f"{title}, {label}": Map(weights, words, words, turn=90)}
    figure, _ = plots.maps(grid, level, "source", "query", scale, size=(5.6, 4.6))
    at = int(weights[-1].abs().argmax())
    return figure, f"Strongest source of the last word '{words[-1]}': '{words[at]}', word {at + 1}."
