"""Erasing a concept from a running model, and the control that erases as much of something else.

    erasers = fit_erasers(model, depths, [tasks.numbers_before_verbs(300), tasks.other_words(8)])
    with erased(model, erasers):
        ...                                          # plain forward passes, without number

LEACE (Belrose et al. 2023, arXiv 2306.03819) by its authors' package.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from concept_erasure import LeaceEraser, LeaceFitter
from torch import Tensor

from tft_utils.corpora.tasks import Marked
from tft_utils.reading import batches, encode, watch


@torch.no_grad()
def fit_erasers(model, depths: Collection[int], marked: Sequence[Marked]) -> dict[int, LeaceEraser]:
    """LEACE of the concept in the residual stream at each of these depths, in one run.

    Each eraser is fitted to what the ones below it leave: afterwards no linear map of the marked words'
    vectors predicts the concept better than a constant does (Belrose et al. 2023, theorem 3.1).
    """
    documents = [document for some in marked for document in some.documents]
    tokens, ends = encode(model, documents)
    _, ids = next(batches(tokens, model.hf.device, size=len(tokens), ordered=False))
    at = [row for some in marked for row in some.at]
    where = [(i, end[j]) for i, (end, row) in enumerate(zip(ends, at, strict=True)) for j in row]
    rows, columns = torch.tensor(where).T
    z = torch.cat([torch.tensor(some.value).flatten() for some in marked]).double()[:, None]
    erasers: dict[int, LeaceEraser] = {}

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site != "residual" or depth not in depths:
            return None
        eraser = LeaceFitter.fit(value[rows, columns].double().cpu(), z).eraser
        parts = eraser.proj_left, eraser.proj_right, eraser.bias
        erasers[depth] = LeaceEraser(*(part.to(value) for part in parts))
        return erasers[depth](value)

    with watch(model, note):
        model.hf.base_model(input_ids=ids, use_cache=False)
    return erasers


def random_erasers(erasers: Mapping[int, LeaceEraser], seed: int = 0) -> dict[int, LeaceEraser]:
    """The control: orthogonal projections that remove as many directions, drawn at random."""
    draw, controls = torch.Generator().manual_seed(seed), {}
    for k, eraser in erasers.items():
        rank = int(torch.linalg.matrix_rank(eraser.proj_left @ eraser.proj_right))
        drawn = torch.randn(len(eraser.bias), rank, generator=draw).to(eraser.bias)
        Q = torch.linalg.qr(drawn).Q
        controls[k] = LeaceEraser(Q, Q.T, eraser.bias)
    return controls


@contextmanager
def erased(model, erasers: Mapping[int, LeaceEraser]) -> Iterator[None]:
    """Inside, plain forward passes erase at the erasers' depths, at every word."""

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site == "residual" and depth in erasers:
            return erasers[depth](value)
        return None

    with watch(model, note):
        yield
