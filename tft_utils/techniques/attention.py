"""Who reads whom: maps of what positions exchange, for every architecture, and the cuts that test them.

A mixer frozen on one input is linear in its values: unit u (a head, a channel) of query t gets
sum_s weights[u,t,s] values[u,s]. Everything here works on that `Mixing`, see `architectures.softmax`
and `architectures.recurrent`.

Maps, [batch query source] or [batch unit query source], zero where source > query:

    pattern           weights[u,t,s] itself; for a Mamba one signed, unnormalised matrix a channel
    value-weighted    || weights[u,t,s] values[u,s] W_u ||           (Kobayashi et al. 2020)
    contributions     || sum_u weights[u,t,s] values[u,s] W_u ||     what source s adds to the
                      mixer's output at t: one map per layer, and the default for figures
    rollout           product over layers of (map + I) / 2           (Abnar & Zuidema 2020)

A cut, `block`, returns the next-word logits of the model so changed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import reading, stats
from tft_utils.corpora.questions import Item
from tft_utils.reading import Asked

PRODUCTS = 2**23  # numbers in the largest array that `contributions` builds
LEAST = 1e-300  # of a row: less than that is nothing


@torch.no_grad()
def mixings(model, ids: Tensor, layers: Iterable[int] | None = None) -> Iterator:
    """The `Mixing` of each layer (None: all, in order) on these ids [batch pos], made when asked for."""
    layers, x = set(range(model.n_layers) if layers is None else layers), model.embed(ids)
    for layer in range(max(layers) + 1):
        frozen = []
        x = _through(model, layer, x, frozen.append) if layer in layers else model.block(layer, x)
        yield from frozen


def _through(model, layer: int, x: Tensor, change: Callable[..., Tensor | None]) -> Tensor:
    """Block `layer` on x; what change(its `Mixing`) gives, if it does, is added to its mixer's output."""
    model.requires("hidden attention")
    points, mixing = {}, model.kind(layer).mixing

    def put(name: str, value, t: int | None = None):
        points.setdefault(name, value)
        if name == "mixing":
            getattr(value, "pattern", None)  # once read, it is what the block mixes with
        if name != "mixer":
            return value
        added = change(mixing.of(points, model.module("output", layer)))
        return value if added is None else value + added.to(value.dtype)

    put.points = (*mixing.points, "mixer")
    return model.block(layer, x, put)


# ---- maps ----------------------------------------------------------------------------------------


def contributions(mixing, queries: Tensor | None = None) -> Tensor:
    """Length of what each source adds to the mixer's output [batch query source].

    These vectors and a constant add up to the output exactly. As many queries and units are worked
    on together as keep each scratch array at PRODUCTS numbers.
    """
    values, (units, width, d_model) = mixing.values(), mixing.projection.shape
    batch, _, pos, _ = values.shape
    queries = torch.arange(pos, device=values.device) if queries is None else queries
    lengths = values.new_zeros(batch, len(queries), pos)
    step = max(1, PRODUCTS // (batch * pos * d_model))
    for q in range(0, len(queries), step):
        chunk = queries[q : q + step]
        last = int(chunk.max()) + 1
        group = max(1, PRODUCTS // (batch * pos * width * len(chunk)))
        vectors = 0  # [batch query source d_model]
        for u in range(0, units, group):
            few = list(range(u, min(u + group, units)))
            weights = mixing.weights("operator", chunk, few)[..., :last]
            products = weights[..., None] * values[:, few, None, :last]  # [b unit query source width]
            flat = products.permute(0, 2, 3, 1, 4).flatten(3)
            vectors = vectors + flat @ mixing.projection[few].flatten(0, 1)
        lengths[:, q : q + step, :last] = vectors.norm(dim=-1)
    return lengths


def value_weighted(mixing, queries: Tensor | None = None) -> Tensor:
    """Length of what each source adds through each unit alone [batch unit query source]."""
    gram = mixing.projection @ mixing.projection.mT  # [unit width width]: |v W|^2 = v gram v
    values = mixing.values()
    lengths = ((values @ gram) * values).sum(-1).clamp(min=0).sqrt()  # [batch unit source]
    return mixing.weights("operator", queries).abs() * lengths[:, :, None]


def row_normalised(maps: Tensor) -> Tensor:
    """Each row [... source] of a map divided by its sum of absolute values; all-zero rows stay."""
    maps = maps.abs()
    return maps / maps.sum(-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Attention rollout through layers, first layer first: [... query source], rows sum to 1.

    Each non-negative map is row-normalised, and half of every position stays where it is: the
    residual stream. Row t says how much of each word could have reached position t.
    """
    if not maps:
        raise ValueError("expected the map of at least one layer; found none")
    if any((layer < 0).any() for layer in maps):
        raise ValueError(
            "expected maps without negative entries, found some; take their absolute values, or "
            "`contributions`"
        )
    eye = reached = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    for layer in maps:
        reached = (0.5 * row_normalised(layer) + 0.5 * eye) @ reached
    return reached


def agreement(a: Tensor, b: Tensor) -> float:
    """Rank correlation (Spearman) of two maps [query source] over all sources before the query."""
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(
            f"expected two maps [query source] of one size; found {list(a.shape)} and {list(b.shape)}"
        )
    before = torch.ones_like(a, dtype=torch.bool).tril(-1)
    ranks = torch.stack([x[before].argsort().argsort().double() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


# ---- lags ----------------------------------------------------------------------------------------


class Repeats(NamedTuple):
    """Sequences `prefix S gap S` of random words, all different but for the second S: it repeats the
    first S `period` positions later."""

    ids: Tensor  # [batch pos]
    queries: Tensor  # the second S without its last word: the next word can be copied
    period: int


def repeats(
    words: Sequence[int], periods: Sequence[int] = (10, 14), n: int = 8, batch: int = 16, seed: int = 0
) -> list[Repeats]:
    """Random repetitions of n words out of the token ids `words`, for each period.

    The second S stands at the same place for every period, so that nothing but the period differs.
    """
    start = max(periods) + 2
    if not 2 <= n <= min(periods) or len(words) < start:
        raise ValueError(
            f"expected 2 <= n <= {min(periods)}, the shortest period, and at least {start} words; "
            f"found n = {n} and {len(words)} words"
        )
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(len(words), generator=draw)[:start] for _ in range(batch)])
    once = torch.as_tensor(words)[order]
    queries = torch.arange(start, start + n - 1)
    return [
        Repeats(torch.cat([once, once[:, start - period :][:, :n]], 1), queries, period)
        for period in periods
    ]


@dataclass(frozen=True)
class LagProfiles:
    """How far back the units of one layer look while a model repeats, for several periods."""

    periods: tuple[int, ...]
    profiles: Tensor  # mean weight on the source k positions back [period unit lag]
    first: Tensor  # mean weight on the first position [unit]


def of_units(mixing, queries: Tensor) -> Tensor:
    """The weights of each head or channel [batch unit query source]."""
    return mixing.weights("operator", queries)


def entries(mixing) -> list:
    """The mixing through one entry of the state at a time, in all units together, without a skip.

    Where units share what they write and read with, an entry is what they have in common. Empty where
    the core has no `entry`.
    """
    core = getattr(mixing, "core", None)
    few = [core.entry(n) for n in range(getattr(core, "entries", 0))]
    return [replace(mixing, core=one, D=torch.zeros_like(mixing.D)) for one in few]


def of_entries(mixing, queries: Tensor) -> Tensor:
    """The contributions through each entry of the state [batch entry query source]."""
    return torch.stack([contributions(one, queries) for one in entries(mixing)], 1)


def lag_profiles(model, runs: Sequence[Repeats], view: Callable = of_units) -> list[LagProfiles]:
    """The profiles of each layer over repetitions of two periods or more.

    view: what is profiled of a mixing. Rows are normalised, so that softmax attention and signed hidden
    attention share one scale.
    """
    if len({run.period for run in runs}) < 2:
        raise ValueError(
            "expected repetitions of at least two periods, found one; a unit that looks back a "
            "fixed number of words cannot be told from one that follows the repetition"
        )
    device, by_layer = model.hf.device, []
    back = torch.arange(min(int(run.queries.min()) for run in runs) + 1, device=device)
    for layer in zip(*(mixings(model, run.ids.to(device)) for run in runs), strict=True):
        profiles, first = [], []
        for mixing, queries in zip(layer, (run.queries.to(device) for run in runs), strict=True):
            maps = row_normalised(view(mixing, queries))
            sources = (queries[:, None] - back).expand(*maps.shape[:2], -1, -1)  # [... query lag]
            profiles.append(maps.gather(-1, sources).mean((0, 2)))
            first.append(maps[..., 0].mean((0, 2)))
        periods = tuple(run.period for run in runs)
        by_layer.append(LagProfiles(periods, torch.stack(profiles), torch.stack(first).mean(0)))
    return by_layer


class UnitClass(NamedTuple):
    """What a unit follows: 'fixed' (lag words back), 'match' (lag words after the earlier copy of
    the present word), 'first' (the first position) or 'spread' (none of these stands out)."""

    kind: str
    lag: int | None
    score: float  # mean weight on what it follows, in the period where that is least


def classify(layer: LagProfiles, floor: float = 0.25) -> list[UnitClass]:
    """The class of each unit. A unit whose weights stay below `floor` everywhere is 'spread'.

    A peak that stays at one lag in every period is a fixed lag; a peak that moves with the period
    follows the match.
    """
    moved = torch.tensor(layer.periods, device=layer.first.device) - layer.periods[0]
    heights, peaks = layer.profiles.max(-1)  # [period unit]
    classes = []
    for height, peak, first in zip(heights.T, peaks.T, layer.first.tolist(), strict=True):
        best = UnitClass("spread", None, height.min().item())
        if (peak == peak[0]).all():
            best = UnitClass("fixed", int(peak[0]), height.min().item())
        elif (peak - peak[0] == moved).all():
            best = UnitClass("match", layer.periods[0] - int(peak[0]), height.min().item())
        if first > best.score:
            best = UnitClass("first", None, first)
        classes.append(best if best.score >= floor else UnitClass("spread", None, best.score))
    return classes


# ---- the world's ground truth ---------------------------------------------------------------------


def asked_of(model, items: Sequence[Item]) -> Asked:
    """Items for a run of the model; `at` has their 'match' and 'query'.

    Errors: `ValueError` for a tokenizer that splits words, whose positions are not the items'.
    """
    prompts, answers, match, query = zip(*items, strict=True)
    if reading.tokens(model, prompts).lengths.tolist() != [at + 1 for at in query]:
        raise ValueError(
            "expected a tokenizer with one token per word, found prompts of other lengths; "
            "induction items are questions about the organisms' world: use scale='tiny'"
        )
    return reading.ask(model, prompts, answers, at={"match": match, "query": query})


def accuracy(logits: Tensor, asked: Asked) -> stats.Estimate:
    """How often the answer is the likeliest word of all: logits [prompt pos vocab]."""
    right = asked.right(logits[torch.arange(len(asked)), asked.last])
    return stats.proportion(int(right.sum()), len(asked))


@dataclass(frozen=True)
class Matches:
    """Where one layer's contributions to the query come from, over induction items."""

    offsets: Tensor  # strongest source, relative to the match [item]
    share: float  # mean share of the match among all contributions
    top: stats.Estimate  # how often the match itself is the strongest source


def _rows(mixing, asked: Asked, view: Callable) -> list[Tensor]:
    """view(mixing, query) of each item by itself, [... source] of its own words."""
    return [
        view(mixing.row(i, q + 1), asked.last[i : i + 1])[0, ..., 0, :]
        for i, q in enumerate(asked.last.tolist())
    ]


def matches(model, asked: Asked, layers: Iterable[int] | None = None) -> list[Matches]:
    """For each layer (None: all) which source contributes most to the query of each item."""
    match, by_layer = asked.at["match"], []
    for mixing in mixings(model, asked.ids, layers):
        rows = _rows(mixing, asked, contributions)
        offsets = torch.stack([row.argmax() for row in rows]) - match
        shares = [(row[m] / row.sum()).item() for row, m in zip(rows, match.tolist(), strict=True)]
        top = stats.proportion(int((offsets == 0).sum()), len(offsets))
        by_layer.append(Matches(offsets, sum(shares) / len(shares), top))
    return by_layer


def carried(mixing, asked: Asked, view: Callable = value_weighted) -> Tensor:
    """What each unit alone brings from the match to the query: mean length over items [unit].

    view(mixing, query): lengths [batch ... query source], such as `value_weighted` or `contributions`;
    the axes between stay.
    """
    rows = zip(_rows(mixing, asked, view), asked.at["match"].tolist(), strict=True)
    return torch.stack([row[..., match] for row, match in rows]).mean(0)


def carried_by_all(mixing, asked: Asked) -> float:
    """What all units together bring from the match to the query: mean length over items."""
    return carried(mixing, asked, contributions).item()


# ---- cuts ----------------------------------------------------------------------------------------


class NothingLeft(ValueError):
    """Softmax attention has no source left for a query, in some rows [batch] of the words."""

    def __init__(self, empty: Tensor, queries: Tensor) -> None:
        super().__init__(
            f"expected at least one source left for each query, found {int(empty.sum())} of "
            f"{int(queries.sum())} queries with none; leave each one, such as the query itself"
        )
        self.rows = empty.any(1)


@torch.no_grad()
def block(
    model, ids: Tensor, layers: Iterable[int], sources: Tensor, queries: Tensor, spread: bool = True
) -> Tensor:
    """Next-word logits [batch pos vocab] when, in these layers, no source reaches any query.

    sources, queries [batch pos]: masks. Softmax attention shares a blocked source's weight among
    the others, as if its score were minus infinity; a recurrence loses it. spread: also block the
    positions after a source whose values still hold its word (the reach of a convolution). What a
    query reads of itself past the mixing, such as a skip, stays.
    Errors: `NothingLeft` when softmax attention would have no source left for a query.
    """

    def change(mixing) -> Tensor:
        cut = _spread(sources, mixing.spread if spread else 0)
        return mixing.read_out(_lost(mixing, cut, queries)) * queries[..., None]

    x, layers = model.embed(ids), set(layers)
    for layer in range(model.n_layers):
        x = _through(model, layer, x, change) if layer in layers else model.block(layer, x)
    return model.to_logits(x)


def _lost(mixing, sources: Tensor, queries: Tensor) -> Tensor:
    """How the mixed values [batch unit pos width] change when nothing is read of the sources."""
    values, cut = mixing.values(mixing.levels[0]), sources[:, None, :, None]
    if not mixing.normalised:
        return -mixing.mix(values * cut)
    # What is left is summed, and in float64: a recurrence that forgets fast may leave e^-80 of a row, of
    # which a difference from the whole would be rounding.
    left = mixing.mix((~cut).expand(-1, values.shape[1], -1, 1).double())  # share of each row
    empty = (left[..., 0] < LEAST).any(1) & queries
    if empty.any():
        raise NothingLeft(empty, queries)
    kept = mixing.mix(values.double() * ~cut) / left.clamp(min=LEAST)
    return kept.to(values.dtype) - mixing.mix(values)


def _spread(sources: Tensor, reach: int) -> Tensor:
    """The mask [batch pos] and the `reach` positions after each of its own."""
    wider = sources.clone()
    for j in range(1, reach + 1):
        wider[:, j:] |= sources[:, :-j]
    return wider
