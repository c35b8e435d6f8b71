"""Erasing a concept from a running model, and controls that move its vectors as far elsewhere.

    erasers = fit_erasers(model, depths, [tasks.numbers_before_verbs(300), tasks.other_words(8)])
    with erased(model, erasers):
        ...                                          # plain forward passes, without number
    far = distances(model, erasers, words)           # {depth: mean square}, for controls that move as far
    control = one_by_one(model, far, marked, make)   # make(depth, x): say, along(mean, length * u, b)

LEACE (Belrose et al. 2023, arXiv 2306.03819) by its authors' package.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from concept_erasure import LeaceEraser, LeaceFitter
from torch import Tensor

from tft_utils.corpora.tasks import Marked
from tft_utils.reading import batches, encode, watch

Eraser = Callable[[Tensor], Tensor]


@torch.no_grad()
def one_by_one(
    model, depths: Collection[int], marked: Sequence[Marked], make: Callable[..., Eraser]
) -> dict[int, Eraser]:
    """What `make` makes at each of these depths, from the stream that the ones below it leave.

    make(depth, x) gets the marked words' vectors [n d] there, list by list, and returns what changes the
    stream at that depth. One run makes all of them.
    """
    documents = [document for some in marked for document in some.documents]
    tokens, ends = encode(model, documents)
    _, ids = next(batches(tokens, model.hf.device, size=len(tokens), ordered=False))
    at = [row for some in marked for row in some.at]
    where = [(i, end[j]) for i, (end, row) in enumerate(zip(ends, at, strict=True)) for j in row]
    rows, columns = torch.tensor(where).T
    made: dict[int, Eraser] = {}

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site != "residual" or depth not in depths:
            return None
        made[depth] = make(depth, value[rows, columns])
        return made[depth](value)

    with watch(model, note):
        model.hf.base_model(input_ids=ids, use_cache=False)
    return made


def fit_erasers(model, depths: Collection[int], marked: Sequence[Marked]) -> dict[int, Eraser]:
    """LEACE of the concept in the residual stream at each of these depths, in one run.

    Each eraser is fitted to what the ones below it leave: afterwards no linear map of the marked words'
    vectors predicts the concept better than a constant does (Belrose et al. 2023, theorem 3.1).
    """
    z = torch.cat([torch.tensor(some.value).flatten() for some in marked]).double()[:, None]

    def leace(depth: int, x: Tensor) -> Eraser:
        eraser = LeaceFitter.fit(x.double().cpu(), z).eraser
        return LeaceEraser(*(part.to(x) for part in (eraser.proj_left, eraser.proj_right, eraser.bias)))

    return one_by_one(model, depths, marked, leace)


def distances(model, erasers: Mapping[int, Eraser], words: Marked) -> dict[int, float]:
    """Mean squared distance by which the eraser of each depth moves these words, those below at work."""
    squares: dict[int, float] = {}

    def measure(depth: int, x: Tensor) -> Eraser:
        squares[depth] = (erasers[depth](x) - x).double().square().sum(-1).mean().item()
        return erasers[depth]

    one_by_one(model, erasers, [words], measure)
    return squares


def along(mean: Tensor, a: Tensor, b: Tensor) -> Eraser:
    """What takes ((x - mean) . b) a from each vector x: LEACE with its own a, a control with another."""

    def take(x: Tensor) -> Tensor:
        centre, write, read = (part.to(x) for part in (mean, a, b))
        return x - ((x - centre) @ read)[..., None] * write

    return take


@contextmanager
def erased(model, erasers: Mapping[int, Eraser]) -> Iterator[None]:
    """Inside, plain forward passes erase at the erasers' depths, at every word."""

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site == "residual" and depth in erasers:
            return erasers[depth](value)
        return None

    with watch(model, note):
        yield
