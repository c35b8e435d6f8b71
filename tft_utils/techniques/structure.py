"""Structural probes: a linear map under which squared distances are distances in a syntax tree.

    some = trees(model, "train", 200)                # vectors of whole sentences, with their trees
    B = structural_probe(some, "distance")           # [depth d rank], all depths at once
    tree_scores(trees(model, "new", 80), B, "distance")        # [depth sentence]

Hewitt & Manning (2019, NAACL).
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import spearmanr
from torch import Tensor

from tft_utils.corpora.corpus import corpus_of
from tft_utils.reading import read

TINY = 1e-30  # a distance of 0 would be no edge at all


class Trees(NamedTuple):
    """Sentences of one part with their dependency trees; padded on the right."""

    x: Tensor  # [sentence pos depth d]
    distance: Tensor  # edges between each two words [sentence pos pos]
    depth: Tensor  # edges from the root [sentence pos]
    length: Tensor  # words, the full stop left out [sentence]


def trees(model, part: str, n: int, seed: int = 0) -> Trees:
    """n sentences of the model's corpus, read whole, with the trees of `pairs.heads`."""
    corpus = corpus_of(model)
    documents = corpus.probe_documents("grammar", n, seed, part)
    length = torch.tensor([len(d.words) - 1 for d in documents])
    most = int(length.max())
    at = [[min(i, len(d.words) - 2) for i in range(most)] for d in documents]
    x = read(model, documents, at)["residual"]
    distance, depth = torch.zeros(n, most, most), torch.zeros(n, most)
    for row, (document, words) in enumerate(zip(documents, length.tolist(), strict=True)):
        heads, links = corpus.heads(document.words)[:words], np.zeros((words, words))
        root = heads.index(None)
        links[[i for i in range(words) if i != root], heads[:root] + heads[root + 1 :]] = 1
        distance[row, :words, :words] = torch.from_numpy(shortest_path(links, directed=False))
        depth[row, :words] = distance[row, root, :words]
    return Trees(x, distance, depth, length)


def another_tree(some: Trees) -> Trees:
    """The control: each sentence with the tree of another sentence of equal length."""
    order = torch.arange(len(some.length))
    for length in some.length.unique():
        same = (some.length == length).nonzero()[:, 0]
        order[same] = same.roll(1)
    return some._replace(distance=some.distance[order], depth=some.depth[order])


def structural_probe(some: Trees, what: str, rank: int = 16, steps: int = 60, seed: int = 0) -> Tensor:
    """B [depth d rank] whose squared lengths are tree distances or depths (Hewitt & Manning 2019).

    'distance' minimises the mean over sentences and pairs of | d(i, j) - |B (h_i - h_j)|^2 |, 'depth'
    the same of | depth(i) - |B h_i|^2 |: equations 1 to 3. Adam on all depths at once, on whitened
    vectors: a few long directions would else slow all others down.
    """
    whiten, real = _whitening(some), _real(some)
    words = some.x[real].transpose(0, 1) @ whiten  # [depth word d]
    draw = torch.Generator().manual_seed(seed)
    B = torch.randn(whiten.shape[-1], rank, generator=draw) / whiten.shape[-1] ** 0.5
    B = B.repeat(len(whiten), 1, 1)
    optimiser = torch.optim.Adam([B], lr=0.02)
    weight = _inside(some, what) / len(some.length)
    y = torch.zeros(len(whiten), *real.shape, rank)
    for _ in range(steps):
        y[:, real] = words @ B
        B.grad = words.mT @ _gradient(some, y, what, weight)[:, real]
        optimiser.step()
    return whiten @ B


def _gradient(some: Trees, y: Tensor, what: str, weight: Tensor) -> Tensor:
    """Of the sum of weight x |measured - true|, by y [depth sentence pos rank]; faster in closed form."""
    pull = _measured(y, what).sub_(getattr(some, what)).sign_().mul_(weight)
    if what == "depth":
        return 2 * pull[..., None] * y
    # The pull is symmetric: each pair counts twice, once from either end.
    return 4 * (pull.sum(-1, keepdim=True) * y - pull @ y)


def _whitening(some: Trees, ridge: float = 0.1) -> Tensor:
    """A map [depth d d] to vectors of like spread in all directions, small ones held back."""
    x = some.x[_real(some)].transpose(0, 1).double()  # [depth word d]
    x = x - x.mean(1, keepdim=True)
    size, V = torch.linalg.eigh(x.mT @ x / x.shape[1])
    size = size + ridge * size.mean(-1, keepdim=True)
    return (V / size.sqrt()[:, None]).float()


def _measured(y: Tensor, what: str) -> Tensor:
    """Squared lengths [depth sentence pos], or between words [depth sentence pos pos]."""
    length = y.square().sum(-1)
    if what == "depth":
        return length
    return (y @ y.mT).mul_(-2).add_(length[..., None]).add_(length[..., None, :]).clamp_(min=0)


def _real(some: Trees) -> Tensor:
    """Which places have a word, and are not padding [sentence pos]."""
    return torch.arange(some.depth.shape[1]) < some.length[:, None]


def _inside(some: Trees, what: str) -> Tensor:
    """1 / how many there are at words, or pairs of words, of the sentence; 0 at padding."""
    real = _real(some).float()
    inside = real if what == "depth" else real[:, :, None] * real[:, None]
    return inside / inside.flatten(1).sum(1).view(-1, *[1] * (inside.dim() - 1))


def tree_scores(some: Trees, B: Tensor, what: str) -> Tensor:
    """Each sentence's score at every depth [depth sentence].

    'distance': the share of the tree's edges in the minimum spanning tree of the measured distances
    (UUAS). 'depth': Spearman's correlation with the true depths.
    """
    found = _measured(torch.einsum("spkd,kdr->kspr", some.x, B), what)
    if what == "distance":
        return _edges_found(found, some) / (some.length - 1)
    scores = [
        [
            spearmanr(row[:n], true[:n]).statistic
            for row, true, n in zip(each, some.depth.numpy(), some.length.tolist(), strict=True)
        ]
        for each in found.numpy()
    ]
    return torch.tensor(scores, dtype=torch.float64)


def chain_scores(some: Trees) -> Tensor:
    """The share of edges that each sentence [sentence] gets right if every word is linked to the next.

    It reads no vector: what word order alone gives away.
    """
    return (some.distance.diagonal(1, 1, 2) == 1).sum(1).double() / (some.length - 1)


def _edges_found(measured: Tensor, some: Trees) -> Tensor:
    """How many edges of its tree each sentence's minimum spanning tree has [depth sentence]."""
    edges = torch.zeros(measured.shape[:2], dtype=torch.float64)
    for (k, row), n in zip(np.ndindex(*edges.shape), some.length.tolist() * len(edges), strict=True):
        i, j = minimum_spanning_tree(measured[k, row, :n, :n].numpy() + TINY).nonzero()
        edges[k, row] = (some.distance[row, i, j] == 1).sum()
    return edges
