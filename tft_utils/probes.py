"""Probes: what a linear map reads from a vector, and what breaks when it is erased.

    reading = read(model, documents, positions)            # site -> [item depth d], one run
    found = probe("number", {"train": ..., "known": ..., "new": ...})   # accuracies at all depths

Control tasks and selectivity: Hewitt & Liang (2019, arXiv 1909.03368). Structural probe: Hewitt &
Manning (2019, NAACL). Erasure: LEACE (Belrose et al. 2023, arXiv 2306.03819) by its authors' package.
Minimal pairs in the format of BLiMP (Warstadt et al. 2020, arXiv 1912.00582).
"""

import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from concept_erasure import LeaceEraser, LeaceFitter, optimal_linear_shrinkage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import spearmanr
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

DECAY = 1e-3  # of logistic regression: mean cross-entropy + DECAY |w|^2
STEPS, CLOSE = 50, 1e-9  # of its solver: at most so many; done when a step changes so little
SIZES = {"train": 700, "known": 200, "new": 200}  # documents
BATCH = 64


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
    are shrunk towards the identity as far as n asks for (Ledoit & Wolf's target, optimal amount).
    """
    x = x.double().transpose(0, 1)  # [depth n d]
    mean = x.mean(1, keepdim=True)
    X = x - mean
    truth = F.one_hot(y, classes).double()  # [task n class]
    share = truth.mean(1)  # [task class]
    means = (truth.mT @ X[:, None]) / (len(y[0]) * share.clamp(min=1e-12))[..., None]
    between = means.mT @ (share[..., None] * means)  # [depth task d d]
    within = optimal_linear_shrinkage((X.mT @ X / X.shape[1])[:, None] - between, X.shape[1])
    jitter = 1e-9 + 1e-9 * within.diagonal(dim1=-2, dim2=-1).mean(-1)
    within = within + jitter[..., None, None] * torch.eye(X.shape[-1], dtype=X.dtype)
    W = torch.linalg.solve(within, means.mT).mT
    b = share.clamp(min=1e-12).log() - (W * means).sum(-1) / 2
    return W, b - (W @ mean[:, :, :, None])[..., 0]


def choose(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """The class of each item: x [n depth d] -> [depth task n]."""
    scores = x.to(W.dtype).transpose(0, 1)[:, None] @ W.mT + b[:, :, None]
    return scores.argmax(-1)


# --------------------------------------------------------------------------------------------------
# Reading


def encode(model, documents: Sequence[world.Document]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of each document, and where each of its words ends among them."""
    known: dict[str, list[int]] = {}
    tokens, ends = [], []
    for document in documents:
        row, at = [], []
        for i, word in enumerate(document.words):
            text = " " * (i > 0) + word.text
            if text not in known:
                known[text] = model.tokenizer(text, add_special_tokens=False).input_ids
            row += known[text]
            at.append(len(row) - 1)
        tokens.append(row)
        ends.append(at)
    return tokens, ends


def _batches(
    rows: Sequence[Sequence[int]], device, exact: bool = False
) -> Iterator[tuple[list, Tensor]]:
    """(indices, tokens [batch pos]) of rows of like length; padded on the right, or of equal length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        part = [i for i in order[:BATCH] if not exact or len(rows[i]) == len(rows[order[0]])]
        order = order[len(part) :]
        ids = torch.zeros(len(part), len(rows[part[-1]]), dtype=torch.long)
        for row, i in enumerate(part):
            ids[row, : len(rows[i])] = torch.tensor(rows[i])
        yield part, ids.to(device)


@contextmanager
def _watch(model, note: Callable[[str, int, Tensor], Tensor | None]) -> Iterator[None]:
    """note(site, depth, value) sees the residual stream at every depth and every mixer's output in
    plain forward passes; what it returns, if anything, takes the value's place."""
    modules = [("residual", k, model._at_depth(k)._module) for k in range(model.n_layers + 1)]
    modules += [("mixer", k, model.mixer(k)._module) for k in range(model.n_layers)]

    def hook(site: str, depth: int) -> Callable:
        def run(module, inputs, output):
            whole = output if isinstance(output, tuple) else (output,)
            changed = note(site, depth, whole[0])
            if changed is None:
                return None
            return (changed, *whole[1:]) if isinstance(output, tuple) else changed

        return run

    with ExitStack() as stack:
        for site, depth, module in modules:
            stack.callback(module.register_forward_hook(hook(site, depth)).remove)
        yield


@torch.no_grad()
def read(
    model, documents: Sequence[world.Document], at: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """What stands at m words of each document: site -> [n m depth d].

    at: positions of words [n m]. Sites: 'residual' after k = 0 ... L blocks; 'mixer', what block
    k's mixer adds. Models are causal: nothing behind a document's last such word is run.
    """
    tokens, ends = encode(model, documents)
    where = [[end[i] for i in row] for end, row in zip(ends, at, strict=True)]
    tokens = [row[: max(some) + 1] for row, some in zip(tokens, where, strict=True)]
    where = torch.tensor(where)
    shape = (*where.shape, model.n_layers, model.config.hidden_size)
    found = {
        "residual": torch.zeros(*shape[:2], shape[2] + 1, shape[3]),
        "mixer": torch.zeros(shape),
    }
    for part, ids in _batches(tokens, model.hf.device):
        rows = torch.arange(len(part))[:, None]

        def note(site, depth, value, part=part, rows=rows):
            found[site][part, :, depth] = value[rows, where[part]].float().cpu()

        with _watch(model, note):
            model.hf.base_model(input_ids=ids, use_cache=False)
    return found


@torch.no_grad()
def read_state(model, documents: Sequence[world.Document], at: Sequence[int]) -> dict[str, Tensor]:
    """What each layer carries once the word at `at` [n] is read: part -> [n layer size].

    Only parts of a fixed size, which all of the past has to share; empty when there are none.
    """
    parts = model.architecture.COMPRESSED
    if not parts:
        return {}
    tokens, ends = encode(model, documents)
    rows = [row[: end[i] + 1] for row, end, i in zip(tokens, ends, at, strict=True)]
    found: dict[str, list] = {part: [None] * len(rows) for part in parts}
    for some, ids in _batches(rows, model.hf.device, exact=True):
        cache = model.hf(input_ids=ids, use_cache=True)[model.architecture.CACHE]
        carried = [model.state(cache, layer) for layer in range(model.n_layers)]
        for name in parts:
            stacked = torch.stack([each[name].flatten(1).float().cpu() for each in carried], 1)
            for row, i in zip(stacked, some, strict=True):
                found[name][i] = row
    return {name: torch.stack(rows) for name, rows in found.items()}


# --------------------------------------------------------------------------------------------------
# Tasks: which word is probed, for what, and which word is the cause


class Item(NamedTuple):
    position: int  # of the probed word
    label: int
    cause: str  # the word that the label comes from: a control task gives it a random label


class Task(NamedTuple):
    kind: str  # of document
    classes: tuple[str, ...]
    find: Callable[
        [world.Document, Rng, str], Item | None
    ]  # (document, rng, part) -> what to probe


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
    position = document.positions("letter")[0] - 1
    return Item(
        position, ("other", "matching").index(document.latents["persona"]), document.latents["cue"]
    )


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
            x = read(
                model,
                documents,
                list(
                    zip(*([item.position for item in some] for some in items.values()), strict=True)
                ),
            )
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


def probe(parts: Mapping[str, Labelled], classes: int, seeds: int = 5) -> dict[str, Probed]:
    """Accuracy of linear probes at every depth of every site: site -> `Probed`.

    Each seed draws the training items anew, with replacement, and gives the control new labels; the
    intervals resample seeds and test items both.
    """
    return {site: _probe(parts, site, classes, seeds) for site in parts["train"].x}


def _probe(parts: Mapping[str, Labelled], site: str, classes: int, seeds: int) -> Probed:
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


def crossed(values: Tensor, resamples: int = 1000) -> list[stats.Estimate]:
    """Per depth the mean of values [seed depth n], with the 95 % percentiles of a bootstrap that
    resamples seeds and items both. Right-or-wrong values get
    at least Wilson's interval for n items."""
    values = values.double()
    seeds, _, n = values.shape
    rng = np.random.default_rng(0)
    by_seed = torch.from_numpy(rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds)
    by_item = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), resamples) / n)
    drawn = torch.einsum("rs,srk->rk", by_seed, by_item @ values.mT)
    ends = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0)
    found = []
    for mean, low, high in zip(values.mean((0, 2)).tolist(), *ends.tolist(), strict=True):
        if values.unique().numel() <= 2:  # right or wrong
            wilson = stats.proportion(round(mean * n), n)
            low, high = min(low, wilson.low), max(high, wilson.high)
        found.append(stats.Estimate(mean, n, min(low, mean), max(high, mean)))
    return found


def travelled(model, distance: int, k: int, sizes: Mapping[str, int] = SIZES,
              seed: int = 0) -> dict[str, Labelled]:  # fmt: skip
    """The subject's number, so many words behind the subject and still before its verb.

    Sites, for `probe`: 'residual' after k blocks, and where the model carries something of fixed size
    the parts of block k's state, all [n 1 d].
    """
    found = {}
    for name, n in sizes.items():
        documents = [d for d in world.probe_documents("grammar", 2 * n, seed, name)
                     if d.positions("verb")[0] - d.positions("subject")[0] > distance][:n]  # fmt: skip
        at = [d.positions("subject")[0] + distance for d in documents]
        items = [_number(d, Rng(), name) for d in documents]
        x = {"residual": read(model, documents, [[i] for i in at])["residual"][:, 0, k : k + 1]}
        x |= {site: held[:, k - 1 : k] for site, held in read_state(model, documents, at).items()}
        found[name] = Labelled(x, torch.tensor([item.label for item in items]),
                               [item.cause for item in items])  # fmt: skip
    return _compact(found)


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


# --------------------------------------------------------------------------------------------------
# Structural probes


class Trees(NamedTuple):
    """Sentences of one part with their dependency trees; padded on the right."""

    x: Tensor  # [sentence pos depth d]
    distance: Tensor  # edges between each two words [sentence pos pos]
    depth: Tensor  # edges from the root [sentence pos]
    length: Tensor  # words, the full stop left out [sentence]


def trees(model, part: str, n: int, seed: int = 0) -> Trees:
    """n sentences of the world, read whole, with the trees of `world.heads`."""
    documents = world.probe_documents("grammar", n, seed, part)
    length = torch.tensor([len(d.words) - 1 for d in documents])
    most = int(length.max())
    at = [[min(i, len(d.words) - 2) for i in range(most)] for d in documents]
    x = read(model, documents, at)["residual"]
    distance, depth = torch.zeros(n, most, most), torch.zeros(n, most)
    for row, document in enumerate(documents):
        ups = [_path_up(world.heads(document.words), i) for i in range(length[row])]
        for i, up in enumerate(ups):
            depth[row, i] = len(up) - 1
            for j, other in enumerate(ups):
                shared = len(set(up) & set(other))
                distance[row, i, j] = len(up) + len(other) - 2 * shared
    return Trees(x, distance, depth, length)


def _path_up(heads: list[int | None], i: int) -> list[int]:
    """The word and all above it."""
    path = [i]
    while heads[path[-1]] is not None:
        path.append(heads[path[-1]])
    return path


def another_tree(some: Trees) -> Trees:
    """The control: each sentence with the tree of another sentence of equal length."""
    order = torch.arange(len(some.length))
    for length in some.length.unique():
        same = (some.length == length).nonzero()[:, 0]
        order[same] = same.roll(1)
    return some._replace(distance=some.distance[order], depth=some.depth[order])


@torch.enable_grad()
def structural_probe(
    some: Trees, what: str, rank: int = 16, steps: int = 60, seed: int = 0
) -> Tensor:
    """B [depth d rank] whose squared lengths are tree distances or depths (Hewitt & Manning 2019).

    'distance' minimises the mean over sentences and pairs of | d(i, j) - |B (h_i - h_j)|^2 |, 'depth'
    the same of | depth(i) - |B h_i|^2 |: equations 1 to 3. Adam on all depths at once, on whitened
    vectors: a few long directions would else slow all others down.
    """
    whiten = _whitening(some)
    x = some.x.permute(2, 0, 1, 3) @ whiten[:, None]  # [depth sentence pos d]
    draw = torch.Generator().manual_seed(seed)
    B = torch.randn(x.shape[-1], rank, generator=draw) / x.shape[-1] ** 0.5
    B = B.repeat(len(x), 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([B], lr=0.02)
    weight = _inside(some, what) / len(some.length)
    for _ in range(steps):
        optimiser.zero_grad()
        error = (_measured(x, B, what) - getattr(some, what)).abs()
        (error * weight).sum().backward()
        optimiser.step()
    return whiten @ B.detach()


def _whitening(some: Trees, ridge: float = 0.1) -> Tensor:
    """A map [depth d d] to vectors of like spread in all directions, small ones held back."""
    real = torch.arange(some.depth.shape[1]) < some.length[:, None]
    x = some.x[real].transpose(0, 1).double()  # [depth word d]
    x = x - x.mean(1, keepdim=True)
    size, V = torch.linalg.eigh(x.mT @ x / x.shape[1])
    size = size + ridge * size.mean(-1, keepdim=True)
    return (V / size.sqrt()[:, None]).float()


def _measured(x: Tensor, B: Tensor, what: str) -> Tensor:
    """Squared lengths [depth sentence pos], or between words [depth sentence pos pos]."""
    y = x @ B[:, None]
    length = y.square().sum(-1)
    if what == "depth":
        return length
    return (length[..., None] + length[..., None, :] - 2 * y @ y.mT).clamp(min=0)


def _inside(some: Trees, what: str) -> Tensor:
    """1 / how many there are at words, or pairs of words, of the sentence; 0 at padding."""
    real = (torch.arange(some.depth.shape[1]) < some.length[:, None]).float()
    inside = real if what == "depth" else real[:, :, None] * real[:, None]
    return inside / inside.flatten(1).sum(1).view(-1, *[1] * (inside.dim() - 1))


def tree_scores(some: Trees, B: Tensor, what: str) -> Tensor:
    """Each sentence's score at every depth [depth sentence].

    'distance': the share of the tree's edges in the minimum spanning tree of the measured distances
    (UUAS). 'depth': Spearman's correlation with the true depths.
    """
    found = _measured(some.x.permute(2, 0, 1, 3), B, what).numpy()
    scores = np.zeros(found.shape[:2])
    for row, n in enumerate(some.length.tolist()):
        for k in range(len(found)):
            if what == "depth":
                scores[k, row] = spearmanr(found[k, row, :n], some.depth[row, :n]).statistic
                continue
            tree = minimum_spanning_tree(found[k, row, :n, :n] + 1e-9).toarray() > 0
            scores[k, row] = (tree & (some.distance[row, :n, :n] == 1).numpy()).sum() / (n - 1)
    return torch.from_numpy(scores)


# --------------------------------------------------------------------------------------------------
# Minimal pairs and surprisal


class MinimalPair(NamedTuple):
    """A grammatical sentence, an ungrammatical one, and the phenomenon they test."""

    good: str
    bad: str
    name: str


def read_blimp(path: str | Path) -> list[MinimalPair]:
    """Minimal pairs from a file of BLiMP: a JSON object a line, with sentence_good, sentence_bad, UID."""
    pairs = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            pairs.append(MinimalPair(*(str(found[key])
                                       for key in ("sentence_good", "sentence_bad", "UID"))))  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected in line {number} of {path} a JSON object with sentence_good, sentence_bad and "
                f"UID, found {line[:60]!r} ({type(error).__name__}); take a .jsonl file of BLiMP"
            ) from error
    return pairs


@torch.no_grad()
def surprisal(model, texts: Sequence[str]) -> list[Tensor]:
    """-log2 p(token | the tokens before it) of every token, in bits: one [pos] a text.

    A text is read behind the end mark that separates documents. Errors: `ValueError` for a text with
    a word that the model does not have.
    """
    start = model.tokenizer.eos_token_id
    rows = []
    for text in texts:
        row = model.tokenizer(text, add_special_tokens=False).input_ids
        unknown = model.tokenizer.unk_token_id
        if unknown is not None and unknown in row and model.tokenizer.unk_token not in text:
            missing = next(w for w in text.split() if model.tokenizer(w).input_ids[0] == unknown)
            raise ValueError(
                f"expected sentences in the model's words, found {missing!r} in {text!r}; take a model "
                "with a larger vocabulary"
            )
        rows.append([start, *row])
    found: list = [None] * len(rows)
    for part, ids in _batches(rows, model.hf.device):
        logits = model.hf(input_ids=ids, use_cache=False).logits[:, :-1].float()
        bits = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none").cpu() / np.log(2)
        for i, row in zip(part, bits, strict=True):
            found[i] = row[: len(rows[i]) - 1]
    return found


def judge(model, pairs: Sequence[MinimalPair]) -> Tensor:
    """Whether the grammatical sentence as a whole is the likelier one [pair] (ties are wrong)."""
    bits = surprisal(model, [text for pair in pairs for text in pair[:2]])
    good, bad = torch.tensor([each.double().sum() for each in bits]).view(-1, 2).T
    return good < bad


# --------------------------------------------------------------------------------------------------
# Erasure


class Marked(NamedTuple):
    """Words of documents, each with the value of a concept, 0 where it has none."""

    documents: list[world.Document]
    at: list[list[int]]  # positions [document m]
    value: list[list[float]]  # of the concept [document m]


def numbers_before_verbs(n: int, seed: int = 0) -> Marked:
    """The word before the main verb of n sentences, with its subject's number: 1 plural, -1 singular.

    As often one as the other, so that the mean is 0, as it is for words without a number.
    """
    documents: dict[int, list] = {0: [], 1: []}
    for document in world.probe_documents("grammar", 2 * n, seed, "train"):
        item = _number(document, Rng(), "train")
        if len(documents[item.label]) < n // 2:
            documents[item.label].append((document, [item.position], [2.0 * item.label - 1]))
    return Marked(*map(list, zip(*documents[0], *documents[1], strict=True)))


def other_words(n: int, seed: int = 0, each: int = 8, words: int = 40) -> Marked:
    """Some of the first words of n documents of every kind but grammar: they have no number to lose."""
    kinds = [kind for kind in world.KINDS if kind != "grammar"]
    documents = [replace(d, words=d.words[:words])
                 for kind in kinds for d in world.documents(kind, n, seed, "train")]  # fmt: skip
    at = [[Rng(seed, "other", i, j).integer(0, len(d.words) - 1) for j in range(each)]
          for i, d in enumerate(documents)]  # fmt: skip
    return Marked(documents, at, [[0.0] * each for _ in documents])


@torch.no_grad()
def fit_erasers(model, depths: Collection[int], marked: Sequence[Marked]) -> dict[int, LeaceEraser]:
    """LEACE of the concept in the residual stream at each of these depths, in one run.

    Each eraser is fitted to what the ones below it leave: afterwards no linear map of the marked words'
    vectors predicts the concept better than a constant does (Belrose et al. 2023, theorem 3.1).
    """
    documents = [document for some in marked for document in some.documents]
    tokens, ends = encode(model, documents)
    ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
    for i, row in enumerate(tokens):
        ids[i, : len(row)] = torch.tensor(row)
    where = [
        (i, ends[i][j])
        for i, row in enumerate(at for some in marked for at in some.at)
        for j in row
    ]
    rows, columns = torch.tensor(where).T
    z = torch.cat([torch.tensor(some.value).flatten() for some in marked]).double()[:, None]
    erasers: dict[int, LeaceEraser] = {}

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site != "residual" or depth not in depths:
            return None
        erasers[depth] = LeaceFitter.fit(value[rows, columns].double().cpu(), z).eraser
        return erasers[depth](value.double().cpu()).to(value)

    with _watch(model, note):
        model.hf.base_model(input_ids=ids.to(model.hf.device), use_cache=False)
    return erasers


def random_erasers(erasers: Mapping[int, LeaceEraser], seed: int = 0) -> dict[int, LeaceEraser]:
    """The control: orthogonal projections that remove as many directions, drawn at random."""
    draw, found = torch.Generator().manual_seed(seed), {}
    for k, eraser in erasers.items():
        rank = int(torch.linalg.matrix_rank(eraser.proj_left @ eraser.proj_right))
        Q, _ = torch.linalg.qr(
            torch.randn(len(eraser.P), rank, generator=draw, dtype=torch.float64)
        )
        found[k] = LeaceEraser(Q, Q.T, eraser.bias)
    return found


@contextmanager
def erased(model, erasers: Mapping[int, LeaceEraser]) -> Iterator[None]:
    """Inside, plain forward passes erase from the residual stream at the erasers' depths, at every
    word."""

    def note(site: str, depth: int, value: Tensor) -> Tensor | None:
        if site == "residual" and depth in erasers:
            return erasers[depth](value.double().cpu()).to(value)
        return None

    with _watch(model, note):
        yield


@torch.no_grad()
def prefers(model, pairs: Sequence[world.Pair]) -> Tensor:
    """Whether the right word is likelier than its foil at each pair's position [pair]."""
    tokens, ends = encode(model, [pair.clean for pair in pairs])
    rows = [row[: end[p.position - 1] + 1] for row, end, p in zip(tokens, ends, pairs, strict=True)]
    first = [[model.tokenizer(" " + word, add_special_tokens=False).input_ids[0]
              for word in (p.answer, p.foil)] for p in pairs]  # fmt: skip
    found = torch.zeros(len(pairs), dtype=torch.bool)
    for part, ids in _batches(rows, model.hf.device):
        logits = model.hf(input_ids=ids, use_cache=False).logits
        for row, i in zip(logits, part, strict=True):
            right, wrong = row[len(rows[i]) - 1, first[i]]
            found[i] = bool(right > wrong)
    return found
