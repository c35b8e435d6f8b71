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
from itertools import chain

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
    stream at that depth. One run makes all of them; nothing behind a text's last marked word is run.
    """
    texts, ends = encode(model, [document for some in marked for document in some.documents])
    at = [
        [end[j] for j in row] for end, row in zip(ends, chain(*(some.at for some in marked)), strict=True)
    ]
    texts = [text[: max(places) + 1] for text, places in zip(texts, at, strict=True)]
    parts = list(batches(texts, model.hf.device))  # of like length, and so in another order
    where = [torch.tensor([(r, t) for r, i in enumerate(some) for t in at[i]]).T for some, _ in parts]
    numbers = torch.arange(sum(map(len, at))).split([len(places) for places in at])
    order = torch.cat([numbers[i] for some, _ in parts for i in some]).argsort()
    streams, made = [model.embed(ids) for _, ids in parts], {}
    for depth in range(max(depths) + 1):
        if depth:
            streams = [model.block(depth - 1, x) for x in streams]
        if depth in depths:
            vectors = [x[tuple(places)] for x, places in zip(streams, where, strict=True)]
            made[depth] = make(depth, torch.cat(vectors)[order])
            streams = [made[depth](x) for x in streams]
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
        return erasers[depth](value) if site == "residual" and depth in erasers else None

    with watch(model, note):
        yield
