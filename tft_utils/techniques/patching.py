"""Activation patching: put a part of one run into another, and see what the answer does.

Two prompts of equal length differ in one cause: the clean one is answered a, the corrupt one with the
foil b. With m = logit(a) - logit(b) after the last word, and m* the same in a patched run, the
normalised effect of a patch is

    denoising   clean activation into the corrupt run:   (m* - m_corrupt) / (m_clean - m_corrupt)
    noising     corrupt activation into the clean run:   (m_clean - m*) / (m_clean - m_corrupt)

0: the patch did nothing; 1: it alone moved the whole answer (Vig et al. 2020; Meng et al. 2022; Zhang
& Nanda 2024 on the logit difference). A denoising patch finds what suffices, a noising one what is
needed. Which components a block has stands in its `Kind`; `components` lists those of a model.

    asked = asked_of(model, pairs.fact_pairs(32))
    effects = grid(model, asked)                    # every depth x position, all prompts
    attribution(model, asked, steps=5)              # an estimate of all of it, by gradients
    knockout(model, asked, sources, queries, 2)     # who must not reach whom, window by window
    transplant(model, asked, at)                    # what a run carries past a position

Cells of a grid are batched: all that patch the same depth run side by side, from the residual stream
at that depth on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora.pairs import Pair
from tft_utils.reading import Asked, at_positions
from tft_utils.techniques import attention

WORDS = 1024  # words that run side by side


def asked_of(model, pairs: Sequence[Pair]) -> Asked:
    """Pairs for a run of the model: `ids` are the clean prompts, `corrupt` the others.

    Errors: `ValueError` for a tokenizer that splits words, whose positions are not the pairs'.
    """
    clean = [pair.clean.prompt(pair.position) for pair in pairs]
    if reading.tokens(model, clean).lengths.tolist() != [pair.position for pair in pairs]:
        raise ValueError(
            "expected pairs whose words are this tokenizer's tokens, found prompts of other lengths; "
            "take them from the model's own corpus, `corpus_of(model)`"
        )
    corrupt = [pair.corrupt.prompt(pair.position) for pair in pairs]
    answers, foils = zip(*((pair.answer, pair.foil) for pair in pairs), strict=True)
    return reading.ask(model, clean, answers, foils, corrupt)


def cells(asked: Asked) -> Tensor:
    """Mask [pair pos] of where a patch can matter: from the first different word to the last."""
    pos = torch.arange(asked.ids.shape[1], device=asked.ids.device)
    return asked.mask & (pos >= (asked.ids != asked.corrupt).float().argmax(1)[:, None])


# ---- one component -------------------------------------------------------------------------------


def components(model) -> list[str]:
    """What a block reads, 'residual', and all that some block of the model lets one replace."""
    kinds = [model.kind(layer) for layer in range(model.n_layers)]
    names = [name for kind in kinds for name in (*kind.components, *kind.stepwise)]
    return list(dict.fromkeys(["residual", *names]))


def _depths(model, component: str) -> list[int]:
    """Where a model has a component: k = 0 ... L for the residual stream, else some of its layers."""
    if component not in (known := components(model)):
        raise ValueError(f"expected a component, one of {', '.join(known)}; found {component!r}")
    if component == "residual":
        return list(range(model.n_layers + 1))
    kinds = [model.kind(layer) for layer in range(model.n_layers)]
    return [k for k, kind in enumerate(kinds) if component in kind.components + kind.stepwise]


def held(model, x: Tensor, layer: int, component: str) -> Tensor:
    """What a component of block `layer` holds when the block reads x: [batch pos ...]."""
    if component == "residual":
        return x
    if layer not in _depths(model, component):
        raise ValueError(f"expected a component of block {layer}, found {component!r}, which it lacks")
    values = []

    def put(name: str, value, t: int | None = None):
        if name == component:
            values.append(value)
        return value

    put.points, put.stepwise = (component,), component in model.kind(layer).stepwise
    model.block(layer, x, put)
    return torch.stack(values, 1) if put.stepwise else values[0]


def replace(model, layer: int, component: str, where: Tensor, value: Tensor) -> Callable:
    """A `put` for block `layer` that gives a component other values [batch pos ...] where the mask
    [batch pos] says so; of heads the mask may be [batch pos head]."""

    def put(name: str, old, t: int | None = None):
        if name != component:
            return old
        mask, new = (where, value) if t is None else (where[:, t], value[:, t])
        return torch.where(mask[(...,) + (None,) * (old.dim() - mask.dim())], new, old)

    put.points = (component,)
    put.stepwise = component != "residual" and component in model.kind(layer).stepwise
    return put


# ---- grids ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """Normalised effects of patches, one for each depth, prompt and position.

    depth is k = 0 ... L for the residual stream, the layer 0 ... L-1 for a component: nan where a block
    lacks it. Positions after a prompt's last word hold nan, those before the first difference 0.
    """

    values: Tensor  # [depth pair pos]
    last: Tensor  # [pair]

    def __getitem__(self, rows: Tensor | slice) -> "Effects":
        return Effects(self.values[:, rows], self.last[rows])

    def at(self, positions: Tensor) -> Tensor:
        """The effect at one position of each prompt [pair]: [depth pair]."""
        return self.values[:, torch.arange(len(positions)), positions]


@torch.no_grad()
def grid(
    model, asked: Asked, component: str = "residual", noising: bool = False, where: Tensor | None = None
) -> Effects:
    """Patches each (depth, position) of every prompt by itself, one position at a time.

    where [pair pos]: only at these positions, the others hold nan.
    """
    depths, of_stream = _depths(model, component), component == "residual"
    ids = (asked.corrupt, asked.ids) if noising else (asked.ids, asked.corrupt)
    donor, base = (reading.streams(model, run) for run in ids)
    where = torch.ones_like(asked.ids, dtype=torch.bool) if where is None else where
    row, at = (cells(asked) & where).nonzero().T
    order = asked.last[row].argsort()  # prompts of like length run side by side, without their padding
    row, at = row[order], at[order]
    before, step = _m(model, asked, base), max(1, WORDS // asked.ids.shape[1])
    change = donor.new_full((model.n_layers + of_stream, *asked.ids.shape), torch.nan)
    change[depths] = 0
    for k in depths:
        value = held(model, donor[k], k, component)
        # Where both runs hold the same, as at a word that both prompts share, a patch does nothing.
        moves = (donor[k] != base[k]).any(-1)[row, at] if of_stream else slice(None)
        rows, places = row[moves], at[moves]
        for i in range(0, len(rows), step):
            r, p = rows[i : i + step], places[i : i + step]
            few, end = asked[r], int(asked.last[r].max()) + 1
            put = replace(model, k, component, at_positions(few, p)[:, :end], value[r, :end])
            x, puts = put("residual", base[k][r, :end]), {} if of_stream else {k: put}
            change[k, r, p] = few.score(reading.finish(model, x, k, few.last, puts)) - before[r]
    return _effects(model, asked, donor, base, change.masked_fill(~where, torch.nan))


def _m(model, asked: Asked, run: Tensor) -> Tensor:
    """m [pair] of a run with these streams [depth pair pos d_model]."""
    return asked.score(reading.finish(model, run[-1], model.n_layers, asked.last))


@torch.no_grad()
def _effects(model, asked: Asked, donor: Tensor, base: Tensor, change: Tensor) -> Effects:
    """Effects from the change of m by each cell [depth pair pos], and the streams of both runs."""
    whole = _m(model, asked, donor) - _m(model, asked, base)
    values = torch.where(cells(asked), change / whole[:, None], 0 * change)
    return Effects(values.masked_fill(~asked.mask, torch.nan), asked.last)


# ---- attribution patching ------------------------------------------------------------------------


def attribution(model, asked: Asked, steps: int = 1) -> Effects:
    """Estimates what `grid` measures in the residual stream with denoising, from gradients:
    (clean - corrupt) . dm/dx.

    One backward pass estimates every depth and position (Nanda 2023; Syed et al. 2023). steps = 1
    takes the gradient at the corrupt run; more steps average it over the midpoints of a straight
    line between the embeddings of both runs (Hanna et al. 2024), where norms and softmax have bent.
    """
    clean, corrupt = (reading.streams(model, ids) for ids in (asked.ids, asked.corrupt))
    shares = [0.0] if steps == 1 else [(i + 0.5) / steps for i in range(steps)]
    starts = (torch.lerp(corrupt[0], clean[0], share) for share in shares)
    slope = sum(torch.stack(_slopes(model, asked, x, 0)) for x in starts) / steps
    return _effects(model, asked, clean, corrupt, ((clean - corrupt) * slope).sum(-1))


@torch.enable_grad()
def _slopes(model, asked: Asked, x: Tensor, k: int) -> tuple[Tensor, ...]:
    """dm/dx after k, k + 1 ... L blocks, in the run whose stream after k blocks is x."""
    x = [x.detach().requires_grad_()]
    for layer in range(k, model.n_layers):
        x.append(model.block(layer, x[-1]))
    m = asked.score(reading.finish(model, x[-1], model.n_layers, asked.last))
    return torch.autograd.grad(m.sum(), x)


# ---- what is carried, and who reads it -----------------------------------------------------------


@torch.no_grad()
def transplant(model, asked: Asked, at: Tensor, parts: Sequence[str] | None = None) -> Tensor:
    """Normalised effect [pair] when all words up to the one at `at` [pair] are read in the clean run,
    and the corrupt run goes on from what was carried.

    parts: what is handed over, names of the model's `state` (None: all of it). The rest stays as the
    corrupt run had it.
    """
    model.requires("continuation")
    at = at.to(asked.last.device)
    if ((at < 0) | (at >= asked.last)).any():
        raise ValueError(
            f"expected each cut before the last word, found {at.tolist()} with last words "
            f"{asked.last.tolist()}; what comes after the cut must be read"
        )
    whole, before = (_m(model, asked, reading.streams(model, ids)) for ids in (asked.ids, asked.corrupt))
    m = torch.empty_like(whole)
    for cut in at.unique():
        rows = (at == cut).nonzero()[:, 0]
        m[rows] = _transplanted(model, asked[rows], int(cut) + 1, parts)
    return (m - before) / (whole - before)


def _transplanted(model, asked: Asked, cut: int, parts: Sequence[str] | None) -> Tensor:
    """m of each corrupt prompt that goes on from what the clean one carried."""
    donor, mixed = (reading.run(model, ids[:, :cut])[0] for ids in (asked.ids, asked.corrupt))
    states = [[model.state(cache, k) for cache in (donor, mixed)] for k in range(model.n_layers)]
    known = dict.fromkeys(name for _, target in states for name in target)
    if unknown := set(parts or ()) - set(known):
        raise ValueError(f"expected parts among {', '.join(known)}; found {sorted(unknown)}")
    for source, target in states:
        for name in target.keys() & set(known if parts is None else parts):
            target[name].copy_(source[name])
    keyword = {model.architecture.CACHE: mixed}
    logits = model.hf(input_ids=asked.corrupt[:, cut:], use_cache=True, **keyword).logits
    return asked.score(logits[torch.arange(len(asked)), asked.last - cut])


@torch.no_grad()
def blocked(
    model, asked: Asked, layers: Sequence[int], sources: Tensor, queries: Tensor, spread: bool = True
) -> Tensor:
    """Whether the answer is still the likeliest word when in these layers no source reaches any query
    [pair]: 1, 0, or nan where softmax attention would have nothing left to read.

    sources, queries: masks [pair pos], in the clean run. spread: as in `attention.block`.
    """
    try:
        logits = attention.block(model, asked.ids, layers, sources, queries, spread)
    except attention.NothingLeft as nothing:  # go on with the other prompts
        right, others = torch.full_like(asked.last, torch.nan, dtype=torch.float32), ~nothing.rows
        if others.any():
            rest = asked[others], layers, sources[others], queries[others]
            right[others] = blocked(model, *rest, spread)
        return right
    return asked.right(logits[torch.arange(len(asked)), asked.last]).float()


def knockout(
    model, asked: Asked, sources: Tensor, queries: Tensor, window: int, spread: bool = True
) -> Tensor:
    """`blocked` window by window: in layers i ... i + window - 1 for each i [window pair] (Geva et al.
    2023; Endy et al. 2025 for the scan's dual state)."""
    if not 1 <= window <= model.n_layers:
        raise ValueError(f"expected a window of 1 to {model.n_layers} layers; found {window}")
    windows = (range(i, i + window) for i in range(model.n_layers - window + 1))
    return torch.stack([blocked(model, asked, w, sources, queries, spread) for w in windows])
