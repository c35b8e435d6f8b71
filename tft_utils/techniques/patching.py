"""Activation patching: put a part of one run into another, and see what the answer does.

Two prompts of equal length differ in one cause: the clean one is answered a, the corrupt one with the
foil b. With m = logit(a) - logit(b) after the last word, and m* the same in a patched run, the
normalised effect of a patch is

    denoising   clean activation into the corrupt run:   (m* - m_corrupt) / (m_clean - m_corrupt)
    noising     corrupt activation into the clean run:   (m_clean - m*) / (m_clean - m_corrupt)

0: the patch did nothing; 1: it alone moved the whole answer (Vig et al. 2020; Meng et al. 2022; Zhang
& Nanda 2024 on the logit difference). A denoising patch finds what suffices, a noising one what is
needed. Which components a block has stands in the architecture's file.

    asked = ask(model, world.fact_pairs(32))
    found = grid(model, asked)                      # every depth x position, all prompts
    attribution(model, asked, steps=5)              # an estimate of all of it, by gradients
    knockout(model, asked, sources, queries, 2)     # who must not reach whom, window by window
    transplant(model, asked, at)                    # what a run carries past a position

Cells of a grid are batched: all that patch the same depth run side by side, from the residual stream
at that depth on. `model` may be a `models.Model`, or anything with its `hf` and `architecture`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tft_utils import stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.techniques import attention

WORDS = 1024  # words that run side by side


@dataclass(frozen=True)
class Asked:
    """Pairs of prompts as a model reads them, padded on the right, and the two answers."""

    clean: Tensor  # token ids [pair pos]
    corrupt: Tensor  # token ids [pair pos]
    last: Tensor  # position of the word that asks [pair]
    answers: Tensor  # token ids [pair]
    foils: Tensor  # token ids [pair]

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Tensor) -> "Asked":
        return Asked(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def cells(self) -> Tensor:
        """Mask [pair pos] of where a patch can matter: from the first different word to the last."""
        pos = torch.arange(self.clean.shape[1], device=self.clean.device)
        first = (self.clean != self.corrupt).float().argmax(1)
        return (pos >= first[:, None]) & (pos <= self.last[:, None])

    def difference(self, logits: Tensor) -> Tensor:
        """m from the logits after the last word [pair vocab]: [pair]."""
        of_answer, of_foil = (logits.gather(1, ids[:, None]) for ids in (self.answers, self.foils))
        return (of_answer - of_foil)[:, 0]


def ask(model, pairs: Sequence[world_pairs.Pair]) -> Asked:
    """Pairs for a run of the model, whose tokenizer must give one token per word."""
    clean, lengths = attention.tokens(model, [pair.clean.prompt(pair.position) for pair in pairs])
    corrupt, others = attention.tokens(model, [p.corrupt.prompt(p.position) for p in pairs])
    wanted = torch.tensor([pair.position for pair in pairs], device=lengths.device)
    if not (torch.equal(lengths, wanted) and torch.equal(others, wanted)):
        raise ValueError(
            "expected one token per word, found prompts of other lengths; pairs are about the "
            "organisms' world: use scale='tiny'"
        )
    if same := int((clean == corrupt).all(1).sum()):
        raise ValueError(
            f"expected pairs whose prompts differ, found {same} with two equal prompts; in a minimal "
            "pair only the answer differs: use pairs that change the cause"
        )
    answers, foils = (
        torch.tensor(model.tokenizer.convert_tokens_to_ids(list(words)), device=clean.device)
        for words in zip(*((pair.answer, pair.foil) for pair in pairs), strict=True)
    )
    return Asked(clean, corrupt, lengths - 1, answers, foils)


def at_positions(asked: Asked, *positions: Tensor) -> Tensor:
    """Mask [pair pos] that is true at each of the positions [pair]."""
    mask = torch.zeros_like(asked.clean, dtype=torch.bool)
    for each in positions:
        mask[torch.arange(len(asked), device=each.device), each] = True
    return mask


# ---- runs ----------------------------------------------------------------------------------------


def keep(name: str, value: Tensor, t: int | None = None) -> Tensor:
    """The `put` that changes nothing."""
    return value


@torch.no_grad()
def streams(model, ids: Tensor, k: int | None = None) -> Tensor:
    """The residual stream of a run [depth batch pos d_model], after 0 ... k blocks (None: all)."""
    parts = model.architecture
    found = [parts.embedding(model.hf)(ids)]
    for layer in range(len(parts.blocks(model.hf)) if k is None else k):
        found.append(parts.run_block(model.hf, layer, found[-1], keep))
    return torch.stack(found)


def finish(
    model,
    x: Tensor,
    k: int,
    last: Tensor,
    puts: Mapping[int, Callable] | None = None,
    stepwise: bool = False,
) -> Tensor:
    """Logits after the word at `last` [batch vocab] of a run that has the residual stream
    x [batch pos d_model] after k blocks. puts: layer -> what its components become (`run_block`)."""
    parts, puts = model.architecture, puts or {}
    for layer in range(k, len(parts.blocks(model.hf))):
        x = parts.run_block(model.hf, layer, x, puts.get(layer, keep), stepwise and layer in puts)
    x = parts.final_norm(model.hf)(x[torch.arange(len(x), device=x.device), last])
    return parts.unembedding(model.hf)(x)


def held(model, x: Tensor, layer: int, component: str) -> Tensor:
    """What a component of block `layer` holds when the block reads x: [batch pos ...]."""
    found = []

    def record(name: str, value: Tensor, t: int | None = None) -> Tensor:
        if name == component:
            found.append(value)
        return value

    stepwise = component in model.architecture.STEPWISE
    model.architecture.run_block(model.hf, layer, x, record, stepwise)
    return torch.stack(found, 1) if stepwise else found[0]


def replace(component: str, where: Tensor, value: Tensor) -> Callable:
    """A `put` that gives a component other values [batch pos ...] where the mask [batch pos] says so;
    of heads the mask may be [batch pos head]."""

    def put(name: str, old: Tensor, t: int | None = None) -> Tensor:
        if name != component:
            return old
        mask, new = (where, value) if t is None else (where[:, t], value[:, t])
        return torch.where(mask[(...,) + (None,) * (old.dim() - mask.dim())], new, old)

    return put


def _check_component(model, component: str) -> None:
    known = ("residual", *model.architecture.COMPONENTS, *model.architecture.STEPWISE)
    if component not in known:
        raise ValueError(f"expected a component, one of {', '.join(known)}; found {component!r}")


# ---- grids ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """Normalised effects of patches, one for each depth, prompt and position.

    depth is k = 0 ... L for the residual stream, the layer 0 ... L-1 for a component (of a window its
    first layer). Positions after a prompt's last word hold nan, those before the first difference 0.
    """

    values: Tensor  # [depth pair pos]
    last: Tensor  # [pair]

    def __getitem__(self, rows: Tensor | slice) -> "Effects":
        return Effects(self.values[:, rows], self.last[rows])

    def at(self, positions: Tensor) -> Tensor:
        """The effect at one position of each prompt [pair]: [depth pair]."""
        return self.values[:, torch.arange(len(positions)), positions]

    def strongest(self, depth: int) -> Tensor:
        """The position with the largest effect of each prompt: [pair]."""
        return self.values[depth].nan_to_num(-torch.inf).argmax(-1)


@torch.no_grad()
def grid(
    model,
    asked: Asked,
    component: str = "residual",
    window: int = 1,
    noising: bool = False,
    where: Tensor | None = None,
) -> Effects:
    """Patches each (depth, position) of every prompt by itself, one position at a time.

    window: patch the component in this many layers at once, from each layer on. where [pair pos]: only
    at these positions, the others hold nan.
    """
    _check_component(model, component)
    ids = (asked.corrupt, asked.clean) if noising else (asked.clean, asked.corrupt)
    donor, base = (streams(model, each) for each in ids)
    where = torch.ones_like(asked.clean, dtype=torch.bool) if where is None else where
    row, at = (asked.cells() & where).nonzero().T
    order = asked.last[row].argsort()  # prompts of like length run side by side, without their padding
    row, at = row[order], at[order]
    n_layers, stepwise = len(donor) - 1, component in model.architecture.STEPWISE
    depths = n_layers + (component == "residual")
    found = donor.new_zeros(depths, *asked.clean.shape)
    step = max(1, WORDS // asked.clean.shape[1])
    for k in range(depths):
        layers = range(k, min(k + window, n_layers)) if component != "residual" else ()
        values = {layer: held(model, donor[layer], layer, component) for layer in layers}
        for r, p in zip(row.split(step), at.split(step), strict=True):
            some, end = asked[r], int(asked.last[r].max()) + 1
            x, here = base[k][r, :end], at_positions(some, p)[:, :end]
            if component == "residual":
                x = torch.where(here[..., None], donor[k][r, :end], x)
            puts = {layer: replace(component, here, value[r, :end]) for layer, value in values.items()}
            found[k, r, p] = some.difference(finish(model, x, k, some.last, puts, stepwise))
    before = asked.difference(finish(model, base[-1], n_layers, asked.last))
    return _effects(model, asked, donor, base, (found - before[:, None]).masked_fill(~where, torch.nan))


def _effects(model, asked: Asked, donor: Tensor, base: Tensor, change: Tensor) -> Effects:
    """Effects from the change of m by each cell [depth pair pos], and the streams of both runs."""
    of_donor, of_base = (
        asked.difference(finish(model, run[-1], len(run) - 1, asked.last)) for run in (donor, base)
    )
    values = torch.where(asked.cells(), change / (of_donor - of_base)[:, None], 0 * change)
    beyond = torch.arange(change.shape[-1], device=change.device) > asked.last[:, None]
    return Effects(values.masked_fill(beyond, torch.nan), asked.last)


# ---- attribution patching ------------------------------------------------------------------------


def attribution(model, asked: Asked, component: str = "residual", steps: int = 1) -> Effects:
    """Estimates what `grid` measures with denoising, from gradients: (clean - corrupt) . dm/da.

    One backward pass estimates every depth and position (Nanda 2023; Syed et al. 2023). steps = 1
    takes the gradient at the corrupt run; more steps average it over the midpoints of a straight
    line between the embeddings of both runs (Hanna et al. 2024), where norms and softmax have bent.
    """
    _check_component(model, component)
    if component in model.architecture.STEPWISE:
        raise ValueError(
            f"expected a component that exists for all positions at once, found {component!r}; its "
            "steps have no common gradient: use grid"
        )
    with torch.no_grad():
        runs = [streams(model, ids) for ids in (asked.clean, asked.corrupt)]
        clean, corrupt = (_all_held(model, run, component) for run in runs)
    slope = [torch.zeros_like(each) for each in clean]
    for i in range(steps):
        share = 0 if steps == 1 else (i + 0.5) / steps
        start = runs[1][0] + share * (runs[0][0] - runs[1][0])
        for total, gradient in zip(slope, _gradients(model, asked, start, component), strict=True):
            total += gradient / steps
    found = torch.stack(
        [((a - b) * g).flatten(2).sum(-1) for a, b, g in zip(clean, corrupt, slope, strict=True)]
    )
    with torch.no_grad():
        return _effects(model, asked, *runs, found)


def attribution_by_depth(model, asked: Asked, steps: int = 5) -> Effects:
    """Like `attribution` of the residual stream, on a straight line for each depth: between the streams
    of both runs at that depth, not between their words.

    So nothing below a depth bends the line, and the effects of one depth add up to 1. It takes `steps`
    passes for each depth in place of `steps` in all.
    """
    with torch.no_grad():
        clean, corrupt = runs = [streams(model, ids) for ids in (asked.clean, asked.corrupt)]
    found = []
    for k, (a, b) in enumerate(zip(clean, corrupt, strict=True)):
        shares = ((i + 0.5) / steps for i in range(steps))
        slope = sum(_slope(model, asked, torch.lerp(b, a, share), k) for share in shares) / steps
        found.append(((a - b) * slope).sum(-1))
    with torch.no_grad():
        return _effects(model, asked, *runs, torch.stack(found))


@torch.enable_grad()
def _slope(model, asked: Asked, x: Tensor, k: int) -> Tensor:
    """dm/dx where the run's stream after k blocks is x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(asked.difference(finish(model, x, k, asked.last)).sum(), x)[0]


def _all_held(model, run: Tensor, component: str) -> list[Tensor]:
    """What a component holds at each depth of a run with these streams [depth batch pos d_model]."""
    if component == "residual":
        return list(run)
    return [held(model, x, layer, component) for layer, x in enumerate(run[:-1])]


@torch.enable_grad()
def _gradients(model, asked: Asked, x: Tensor, component: str) -> tuple[Tensor, ...]:
    """dm/da of each depth's component in the run from the embeddings x."""
    found, parts = [], model.architecture

    def record(name: str, value: Tensor, t: int | None = None) -> Tensor:
        if name == component:
            found.append(value)
        return value

    x = x.detach().requires_grad_()
    for layer in range(len(parts.blocks(model.hf))):
        record("residual", x)
        x = parts.run_block(model.hf, layer, x, record)
    record("residual", x)
    logits = finish(model, x, len(parts.blocks(model.hf)), asked.last)
    return torch.autograd.grad(asked.difference(logits).sum(), found)


# ---- what is carried, and who reads it -----------------------------------------------------------


@torch.no_grad()
def transplant(
    model,
    asked: Asked,
    at: Tensor,
    parts: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Normalised effect [pair] when all words up to the one at `at` [pair] are read in the clean run,
    and the corrupt run goes on from what was carried.

    parts: what is handed over, names of the architecture's `state` (None: all of it); layers: of
    these layers (None: all). The rest stays as the corrupt run had it.
    """
    if ((at < 0) | (at >= asked.last)).any():
        raise ValueError(
            f"expected each cut before the last word, found {at.tolist()} with last words "
            f"{asked.last.tolist()}; what comes after the cut must be read"
        )
    n_layers = len(model.architecture.blocks(model.hf))
    layers = range(n_layers) if layers is None else layers
    whole, before = (
        asked.difference(finish(model, streams(model, ids)[-1], n_layers, asked.last))
        for ids in (asked.clean, asked.corrupt)
    )
    found = torch.empty_like(whole)
    for cut in at.unique():
        rows = (at == cut).nonzero()[:, 0]
        found[rows] = _transplanted(model, asked[rows], int(cut) + 1, parts, layers)
    return (found - before) / (whole - before)


def _transplanted(
    model, asked: Asked, cut: int, parts: Sequence[str] | None, layers: Sequence[int]
) -> Tensor:
    """m of each corrupt prompt that goes on from what the clean one carried."""
    architecture = model.architecture

    def carried(ids: Tensor):
        return model.hf(input_ids=ids[:, :cut], use_cache=True)[architecture.CACHE]

    donor, mixed = carried(asked.clean), carried(asked.corrupt)
    for layer in layers:
        source, target = (architecture.state(cache, layer) for cache in (donor, mixed))
        if unknown := set(parts or ()) - set(target):
            raise ValueError(f"expected parts among {', '.join(target)}; found {sorted(unknown)}")
        for name in target if parts is None else parts:
            target[name].copy_(source[name])
    out = model.hf(input_ids=asked.corrupt[:, cut:], use_cache=True, **{architecture.CACHE: mixed})
    rows = torch.arange(len(asked), device=asked.last.device)
    return asked.difference(out.logits[rows, asked.last - cut])


@torch.no_grad()
def knockout(
    model, asked: Asked, sources: Tensor, queries: Tensor, window: int, spread: bool = True
) -> Tensor:
    """Whether the answer is still the likeliest word when no source reaches any query: [window pair].

    sources, queries: masks [pair pos]. Window i blocks them in layers i ... i + window - 1, in the
    clean run (Geva et al. 2023; Endy et al. 2025 for the scan's dual state). spread: as in
    `attention.block`, which does the blocking.
    """
    n_layers = len(model.architecture.blocks(model.hf))
    if not 1 <= window <= n_layers:
        raise ValueError(f"expected a window of 1 to {n_layers} layers; found {window}")
    at, found = torch.arange(len(asked), device=asked.last.device), []
    for first in range(n_layers - window + 1):
        layers = range(first, first + window)
        logits = attention.block(model, asked.clean, layers, sources, queries, spread)
        found.append(logits[at, asked.last].argmax(-1) == asked.answers)
    return torch.stack(found)


# ---- comparing two estimates ---------------------------------------------------------------------


def rank_agreement(exact: Effects, estimate: Effects, floor: float, seed: int = 0) -> stats.Estimate:
    """Rank correlation (Spearman) of two sets of effects, prompts resampled.

    Over the cells whose exact effect is larger than `floor` in size: where a patch does nothing, ranks
    are noise.
    """
    kept = (exact.values.abs() > floor) & estimate.values.isfinite()  # nan is not larger than anything
    pair = kept.nonzero()[:, 1].numpy()
    places = [each.values[kept].unique(return_inverse=True)[1].numpy() for each in (exact, estimate)]

    def correlation(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=kept.shape[1])[pair]  # how often each cell was drawn
        a, b = (_ranks(place, times) for place in places)
        a, b = (each - np.average(each, weights=times) for each in (a, b))
        return (times * a * b).sum() / math.sqrt((times * a * a).sum() * (times * b * b).sum())

    return stats.bootstrap(range(kept.shape[1]), correlation, seed)


def _ranks(place: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The rank of each number [n] that occurs `times`; equal ones share the mean of theirs. place: of
    a number among the different ones, sorted."""
    count = np.bincount(place, times)
    return (count.cumsum() - (count - 1) / 2)[place]


def out_of_order(exact: Effects, estimate: Effects, apart: float) -> Tensor:
    """The share of pairs of cells that an estimate puts in the wrong order, in each prompt: [pair].

    Of all cells that do anything, the pairs whose exact effects are more than `apart` apart: with two
    effects of 1.00 and 0.99, an order is noise. nan where a prompt has no such pair.
    """
    shares = []
    for a, b in zip(exact.values.unbind(1), estimate.values.unbind(1), strict=True):
        kept = (a.nan_to_num() != 0) & b.isfinite()
        a, b = a[kept], b[kept]
        wrong = b[:, None] <= b  # of each pair, the first should be larger
        shares.append(wrong[a[:, None] - a > apart].float().mean())
    return torch.stack(shares)
