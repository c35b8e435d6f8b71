"""Probes: what a linear map reads from a vector, at all depths at once, and its control.

    collected = collect(model)                       # task -> part -> vectors and labels
    found = probe(collected["number"], 2)            # accuracies at all depths of the residual stream

Control tasks and selectivity: Hewitt & Liang (2019, arXiv 1909.03368).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import stats, world
from tft_utils.lexicon import (
    ADJECTIVES,
    ADVERBS,
    COPULAS,
    FRONTED,
    INTRANSITIVE,
    NOUNS,
    TRANSITIVE,
    Rng,
)  # fmt: skip
from tft_utils.reading import read, read_state

DECAY = 1e-3  # of logistic regression: mean cross-entropy + DECAY |w|^2
STEPS, CLOSE = 50, 1e-9  # of its solver: at most so many; done when a step changes so little
JITTER = 1e-9  # of a covariance matrix without any spread
SIZES = {"train": 500, "known": 200, "new": 200}  # documents


# --------------------------------------------------------------------------------------------------
# Two linear classifiers, all depths at once


def logistic(x: Tensor, y: Tensor, decay: float = DECAY) -> tuple[Tensor, Tensor]:
    """Binary logistic regression at all depths at once: w [depth d], b [depth]; w . x + b > 0 is yes.

    x [n depth d], y [n] bool. Minimises mean cross-entropy + decay |w|^2 (scikit-learn's C is
    1 / (2 n decay)) by Newton's method in float64, each depth's step halved until it goes down.
    """
    mean = x.double().mean(0)  # [depth d]
    X = F.pad(x.double() - mean, (0, 1), value=1.0).transpose(0, 1)  # [depth n d+1]
    n, sign = len(x), 2.0 * y.double() - 1
    pull = torch.full_like(X[0, 0], 2 * decay)
    pull[-1] = 0  # the bias is free

    def loss(w: Tensor) -> Tensor:
        fit = F.softplus(-sign * (X @ w[..., None])[..., 0]).mean(1)
        return fit + (pull * w.square()).sum(-1) / 2

    w = torch.zeros_like(X[:, 0])
    for _ in range(STEPS):
        p = torch.sigmoid((X @ w[..., None])[..., 0])
        gradient = ((p - y.double())[:, None] @ X)[:, 0] / n + pull * w
        curved = X * (p * (1 - p) / n)[..., None]
        step = torch.linalg.solve(X.mT @ curved + torch.diag(pull + 1e-12), gradient)
        if (gradient * step).sum(-1).max() < CLOSE**2:
            break
        before = loss(w)
        while (worse := loss(w - step) > before + 1e-15).any():
            step[worse] /= 2
        w = w - step
    return w[:, :-1].to(x.dtype), (w[:, -1] - (w[:, :-1] * mean).sum(-1)).to(x.dtype)


def discriminant(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Linear discriminant analysis, in closed form: W [depth task class d], b [depth task class].

    x [n depth d]; y [task n] whole numbers below `classes`: several labellings of the same items, which
    share one covariance matrix a depth. The class is the argmax of W x + b. Within-class covariances
    are shrunk (`shrink_`).
    """
    X = torch.empty(*x.transpose(0, 1).shape, dtype=torch.float64).copy_(x.transpose(0, 1))
    mean = X.mean(1, keepdim=True)
    X -= mean  # in place, as below: fresh memory costs more than the sums
    depths, n, d = X.shape
    truth = F.one_hot(y, classes).double()  # [task n class]
    share = truth.mean(1)  # [task class]
    sums = (truth.transpose(0, 1).flatten(1).T @ X).view(depths, *share.shape, d)
    means = sums / (n * share.clamp(min=1e-12))[..., None]
    within = means.mT @ (-share[..., None] * means)  # minus the covariance between [depth task d d]
    within += (X.mT @ X).div_(n)[:, None]
    shrink_(within, n)
    within.diagonal(dim1=-2, dim2=-1).mul_(1 + JITTER).add_(JITTER)
    W = torch.cholesky_solve(means.mT, torch.linalg.cholesky(within)).mT
    b = share.clamp(min=1e-12).log() - (W * means).sum(-1) / 2
    return W, b - (W @ mean[..., None, :].mT)[..., 0]


def shrink_(S: Tensor, n: int) -> Tensor:
    """Draws covariances S [... d d] of n items towards t I, t their mean variance, in place.

    a S + (1 - a) t I, with the a of least expected squared error as d and n grow alike, and not below
    0: 1 - a = (tr S)^2 / n / |S - t I|^2 (Bodnar, Gupta & Parolya 2014, arXiv 1308.2608, with their
    target as t I; d t = tr S).
    """
    d = S.shape[-1]
    t = S.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
    off = torch.linalg.vector_norm(S, dim=(-2, -1)).square()[..., None] - d * t.square()
    a = (1 - (d * t).square() / n / off.clamp(min=torch.finfo(S.dtype).tiny)).clamp(min=0)
    S *= a[..., None]
    S.diagonal(dim1=-2, dim2=-1).add_((1 - a) * t)
    return S


def choose(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """The class of each item: x [n depth d] -> [depth task n]."""
    scores = x.to(W.dtype).transpose(0, 1) @ W.flatten(1, 2).mT  # [depth n task*class]
    return (scores.unflatten(-1, b.shape[1:]) + b[:, None]).argmax(-1).mT


# --------------------------------------------------------------------------------------------------
# Tasks: which word is probed, for what, and which word is the cause


class Item(NamedTuple):
    position: int  # of the probed word
    label: int
    cause: str  # the word that the label comes from: a control task gives it a random label


class Task(NamedTuple):
    kind: str  # of document
    classes: tuple[str, ...]
    find: Callable[[world.Document, Rng, str], Item | None]  # in a document of this part


LEMMA = {form: i for i, pair in enumerate(NOUNS.items()) for form in pair}
OPEN = ("NOUN", "VERB", "ADJ", "ADP", "ADV")  # parts of speech with words to spare for testing
NUMBERS = ("singular", "plural")


@functools.cache
def _new_words() -> frozenset[str]:
    """Half of the verbs, adjectives, prepositions and adverbs, with all their forms. The documents
    split the nouns."""
    verbs = [*INTRANSITIVE.items(), *TRANSITIVE.items(), *COPULAS.items()]
    words = {
        "VERB": verbs,
        "ADJ": [(word,) for word in ADJECTIVES],
        "ADP": [(word, word.lower()) for word in FRONTED],
        "ADV": [(word,) for word in ADVERBS],
    }
    halves = [Rng("probed", pos).sample(some, len(some) // 2) for pos, some in words.items()]
    return frozenset(word for half in halves for forms in half for word in forms)


def _part_of_speech(document: world.Document, rng: Rng, part: str) -> Item | None:
    words = [(i, w) for i, w in enumerate(document.words) if w.pos in OPEN
             and (w.pos == "NOUN" or (w.text in _new_words()) == (part == "new"))]  # fmt: skip
    pos = rng.choice(sorted({w.pos for _, w in words}))  # not mostly nouns
    i, word = rng.choice([(i, w) for i, w in words if w.pos == pos])
    return Item(i, OPEN.index(pos), word.text)


def _depth(document: world.Document, rng: Rng, part: str) -> Item:
    depth = rng.choice(sorted({w.depth for w in document.words}))
    i, word = rng.choice([(i, w) for i, w in enumerate(document.words) if w.depth == depth])
    return Item(i, depth, word.text)


def _number(document: world.Document, rng: Rng, part: str) -> Item:
    verb = document.positions("verb")[0]
    subject = document.words[document.words[verb].source]
    return Item(verb - 1, NUMBERS.index(subject.number), subject.text)


def _subject(document: world.Document, rng: Rng, part: str) -> Item | None:
    if part == "new":
        return None  # the noun is the answer, so it has to be known
    verb = document.positions("verb")[0]
    subject = document.words[document.words[verb].source]
    return Item(verb - 1, LEMMA[subject.text], document.words[verb - 1].text)


def _mood(document: world.Document, rng: Rng, part: str) -> Item:
    """At the full stop behind the second mood word or later."""
    first, second = document.positions("mood")[:2]
    stop = next(i for i in range(second, len(document.words)) if document.words[i].text == ".")
    return Item(stop, list(world.MOODS).index(document.latents["mood"]), document.words[first].text)


def _persona(document: world.Document, rng: Rng, part: str) -> Item:
    """At the bracket before the answer's letter."""
    matching = document.latents["persona"] == "matching"
    return Item(document.positions("letter")[0] - 1, int(matching), document.latents["cue"])


TASKS: dict[str, Task] = {
    "part of speech": Task("grammar", OPEN, _part_of_speech),
    "depth": Task("grammar", ("0", "1", "2", "3"), _depth),
    "number": Task("grammar", NUMBERS, _number),
    "subject": Task("grammar", tuple(NOUNS), _subject),
    "mood": Task("story", tuple(world.MOODS), _mood),
    "persona": Task("persona", ("other", "matching"), _persona),
}


class Labelled(NamedTuple):
    """Vectors of one task and part, with what they are to be classified as."""

    x: dict[str, Tensor]  # site -> [n depth d]
    label: Tensor  # [n]
    cause: list[str]


def collect(model, tasks: Sequence[str] = tuple(TASKS), sizes: Mapping[str, int] = SIZES,
            seed: int = 0) -> dict[str, dict[str, Labelled]]:  # fmt: skip
    """task -> part -> vectors and labels. A document is run once, for all tasks of its kind."""
    found: dict[str, dict[str, Labelled]] = {task: {} for task in tasks}
    for kind in dict.fromkeys(TASKS[task].kind for task in tasks):
        mine = [task for task in tasks if TASKS[task].kind == kind]
        for part, n in sizes.items():
            documents = world.probe_documents(kind, n, seed, part)
            items = {task: [TASKS[task].find(d, Rng(seed, task, part, i), part)
                            for i, d in enumerate(documents)] for task in mine}  # fmt: skip
            items = {task: some for task, some in items.items() if None not in some}
            if not items:
                continue
            at = [[item.position for item in each] for each in zip(*items.values(), strict=True)]
            x = read(model, documents, at)
            for j, (task, some) in enumerate(items.items()):
                found[task][part] = Labelled({site: v[:, j] for site, v in x.items()},
                                             torch.tensor([item.label for item in some]),
                                             [item.cause for item in some])  # fmt: skip
    return found


# --------------------------------------------------------------------------------------------------
# Probing: on new words, on known words, and for what is not there


class Probed(NamedTuple):
    """Per depth, with 95 % intervals: accuracy on new and known words, the control's on known words,
    and selectivity, which is known - control (Hewitt & Liang 2019, section 2.2)."""

    known: list[stats.Estimate]
    control: list[stats.Estimate]
    selectivity: list[stats.Estimate]
    new: list[stats.Estimate]  # empty where there can be none


def control_labels(causes: Sequence[str], labels: Tensor, seed: int) -> Tensor:
    """Labels that the words do not have [n]: each cause draws one, as often as it is among `labels`."""
    pool = labels.tolist()
    drawn = {cause: Rng("control", seed, cause).choice(pool) for cause in set(causes)}
    return torch.tensor([drawn[cause] for cause in causes])


def probe(parts: Mapping[str, Labelled], classes: int, site: str = "residual",
          seeds: int = 5) -> Probed:  # fmt: skip
    """Accuracy of linear probes at every depth of a site.

    Each seed draws the training items anew, with replacement, and gives the control new labels; the
    intervals resample seeds and test items both.
    """
    train, hits = parts["train"], {"known": [], "control": [], "new": []}
    x = train.x[site]
    for seed in range(seeds):
        draw = torch.randint(len(x), (len(x),), generator=torch.Generator().manual_seed(seed))
        wrong = control_labels(train.cause, train.label, seed)
        W, b = discriminant(x[draw], torch.stack([train.label, wrong])[:, draw], classes)
        for name in parts.keys() - {"train"}:
            part = parts[name]
            guess = choose(part.x[site], W, b)  # [depth task n]
            hits[name].append(guess[:, 0] == part.label)
            if name == "known":
                wrong = control_labels(part.cause, train.label, seed)
                hits["control"].append(guess[:, 1] == wrong)
    right = {name: torch.stack(some).double() for name, some in hits.items() if some}
    return Probed(crossed(right["known"]), crossed(right["control"]),
                  crossed(right["known"] - right["control"]),
                  crossed(right["new"]) if "new" in right else [])  # fmt: skip


@functools.cache
def _resampled(n: int, resamples: int = 1000) -> Tensor:
    """How often each of n comes, as shares, when n are drawn with replacement [resamples n]."""
    rng = np.random.default_rng(n)
    return torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), resamples) / n)


def crossed(values: Tensor) -> list[stats.Estimate]:
    """Per depth the mean of values [seed depth n] with a 95 % interval, over seeds and items both.

    It is the percentiles of a bootstrap that resamples both. Right-or-wrong values get at least
    Wilson's interval for n items.
    """
    values = values.double()
    seeds, _, n = values.shape
    drawn = torch.einsum("rs,srk->rk", _resampled(seeds), _resampled(n) @ values.mT)
    ends = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0)
    binary = values.unique().numel() <= 2  # right or wrong
    found = []
    for mean, low, high in zip(values.mean((0, 2)).tolist(), *ends.tolist(), strict=True):
        if binary:
            wilson = stats.proportion(round(mean * n), n)
            low, high = min(low, wilson.low), max(high, wilson.high)
        found.append(stats.Estimate(mean, n, min(low, mean), max(high, mean)))
    return found


def travelled(model, distances: Sequence[int], k: int, sizes: Mapping[str, int] = SIZES,
              seed: int = 0) -> dict[int, dict[str, Labelled]]:  # fmt: skip
    """The subject's number, so many words behind the subject and still before its verb.

    The same sentences at every distance. Sites, for `probe`: 'residual' after k blocks, and where the
    model carries something of fixed size the parts of block k's state, all [n 1 d].
    """
    found: dict[int, dict[str, Labelled]] = {distance: {} for distance in distances}
    for part, n in sizes.items():
        documents = [d for d in world.probe_documents("grammar", 3 * n, seed, part)
                     if d.positions("verb")[0] - d.positions("subject")[0] > max(distances)]  # fmt: skip
        documents = documents[:n]
        subjects = [d.positions("subject")[0] for d in documents]
        items = [_number(d, Rng(), part) for d in documents]
        label, cause = torch.tensor([item.label for item in items]), [item.cause for item in items]
        x = read(model, documents, [[i + j for j in distances] for i in subjects])["residual"]
        for j, distance in enumerate(distances):
            held = read_state(model, documents, [i + distance for i in subjects], [k - 1])
            found[distance][part] = Labelled({"residual": x[:, j, k : k + 1], **held}, label, cause)
    return {distance: _compact(parts) for distance, parts in found.items()}


def _compact(parts: dict[str, Labelled], most: int = 200) -> dict[str, Labelled]:
    """Sites wider than `most` in their training items' first principal axes."""
    for site, x in parts["train"].x.items():
        if x.shape[-1] <= most:
            continue
        mean = x.mean(0)
        A = (x - mean).double().transpose(0, 1)  # [depth n d], n < d
        size, U = torch.linalg.eigh(A @ A.mT)
        keep = slice(-min(most, len(x) - 1), None)
        axes = A.mT @ (U[..., keep] / size[:, None, keep].clamp(min=1e-12).sqrt())
        for part in parts.values():
            moved = (part.x[site] - mean).double().transpose(0, 1) @ axes
            part.x[site] = moved.transpose(0, 1).float()
    return parts
