"""Probes: what a linear map reads from a vector, at all depths at once, and its control.

    collected = collect(model)                       # task -> part -> vectors and labels
    found = probe(collected["number"], 2)            # accuracies at all depths of the residual stream

Control tasks and selectivity: Hewitt & Liang (2019, arXiv 1909.03368).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import stats
from tft_utils.corpora.corpus import corpus_of
from tft_utils.corpora.lexicon import Rng
from tft_utils.corpora.tasks import number
from tft_utils.linear import choose, discriminant
from tft_utils.reading import read, read_state
from tft_utils.stats import crossed

SIZES = {"train": 500, "known": 200, "new": 200}  # documents


class Labelled(NamedTuple):
    """Vectors of one task and part, with what they are to be classified as."""

    x: dict[str, Tensor]  # site -> [n depth d]
    label: Tensor  # [n]
    cause: list[str]


def collect(
    model, tasks: Sequence[str] | None = None, sizes: Mapping[str, int] = SIZES, seed: int = 0
) -> dict[str, dict[str, Labelled]]:
    """task -> part -> vectors and labels, of these tasks of the model's corpus (None: of all). A document
    is run once, for all tasks of its kind."""
    corpus = corpus_of(model)
    tasks = tuple(corpus.tasks) if tasks is None else tasks
    collected: dict[str, dict[str, Labelled]] = {task: {} for task in tasks}
    for kind in dict.fromkeys(corpus.tasks[task].kind for task in tasks):
        mine = [task for task in tasks if corpus.tasks[task].kind == kind]
        for part, n in sizes.items():
            documents = corpus.probe_documents(kind, n, seed, part)
            targets = {
                task: [
                    corpus.tasks[task].find(d, Rng(seed, task, part, i), part)
                    for i, d in enumerate(documents)
                ]
                for task in mine
            }
            targets = {task: row for task, row in targets.items() if None not in row}
            if not targets:
                continue
            at = [[target.position for target in row] for row in zip(*targets.values(), strict=True)]
            x = read(model, documents, at)
            for j, (task, row) in enumerate(targets.items()):
                collected[task][part] = Labelled(
                    {site: v[:, j] for site, v in x.items()},
                    torch.tensor([target.label for target in row]),
                    [target.cause for target in row],
                )
    return collected


class Probed(NamedTuple):
    """Per depth, with 95 % intervals: accuracy on known words, their control's, selectivity, which is
    known - control (Hewitt & Liang 2019, section 2.2); accuracy on new words, and their control's."""

    known: list[stats.Estimate]
    control: list[stats.Estimate]
    selectivity: list[stats.Estimate]
    new: list[stats.Estimate]  # empty where there can be none
    new_control: list[stats.Estimate]  # the same probe as `control`, on new words' drawn labels


def control_labels(causes: Sequence[str], labels: Tensor, seed: int) -> Tensor:
    """Labels that the words do not have [n]: each cause draws one, as often as it is among `labels`."""
    pool = labels.tolist()
    drawn = {cause: Rng("control", seed, cause).choice(pool) for cause in set(causes)}
    return torch.tensor([drawn[cause] for cause in causes])


def probe(parts: Mapping[str, Labelled], classes: int, site: str = "residual", seeds: int = 5) -> Probed:
    """Accuracy of linear probes at every depth of a site.

    Each seed draws the training items anew, with replacement, and gives the control new labels; the
    intervals resample seeds and test items both.
    """
    train, hits = parts["train"], {}
    x = train.x[site]
    for seed in range(seeds):
        draw = torch.randint(len(x), (len(x),), generator=torch.Generator().manual_seed(seed))
        wrong = control_labels(train.cause, train.label, seed)
        W, b = discriminant(x[draw], torch.stack([train.label, wrong])[:, draw], classes)
        for name in parts.keys() - {"train"}:
            part = parts[name]
            guess = choose(part.x[site], W, b)  # [depth task n]
            wrong = control_labels(part.cause, train.label, seed)
            for task, truth in enumerate((part.label, wrong)):
                hits.setdefault((name, task), []).append(guess[:, task] == truth)
    right = {key: torch.stack(rows).double() for key, rows in hits.items()}
    return Probed(
        crossed(right["known", 0]),
        crossed(right["known", 1]),
        crossed(right["known", 0] - right["known", 1]),
        *(crossed(right["new", task]) if ("new", task) in right else [] for task in (0, 1)),
    )


def travelled(
    model, distances: Sequence[int], k: int, sizes: Mapping[str, int] = SIZES, seed: int = 0
) -> dict[int, dict[str, Labelled]]:
    """The subject's number, so many words behind the subject and still before its verb.

    The same sentences at every distance. Sites, for `probe`: 'residual' after k blocks, and where the
    model carries something of fixed size the parts of block k's state, all [n 1 d].
    """
    kept: dict[int, dict[str, Labelled]] = {distance: {} for distance in distances}
    for part, n in sizes.items():
        documents = [
            d
            for d in corpus_of(model).probe_documents("grammar", 3 * n, seed, part)
            if d.positions("verb")[0] - d.positions("subject")[0] > max(distances)
        ]
        documents = documents[:n]
        subjects = [d.positions("subject")[0] for d in documents]
        targets = [number(d, Rng(), part) for d in documents]
        label, cause = torch.tensor([t.label for t in targets]), [t.cause for t in targets]
        x = read(model, documents, [[i + j for j in distances] for i in subjects])["residual"]
        for j, distance in enumerate(distances):
            held = read_state(model, documents, [i + distance for i in subjects], [k - 1])
            kept[distance][part] = Labelled({"residual": x[:, j, k : k + 1], **held}, label, cause)
    return {distance: _compact(parts) for distance, parts in kept.items()}


def _compact(parts: dict[str, Labelled], most: int = 200) -> dict[str, Labelled]:
    """Sites wider than `most` in their training items' first principal axes."""
    for site, x in parts["train"].x.items():
        if x.shape[-1] <= most:
            continue
        mean = x.mean(0)
        _, _, V = torch.linalg.svd((x - mean).double().transpose(0, 1), full_matrices=False)
        axes = V[:, : min(most, len(x) - 1)].mT
        for part in parts.values():
            moved = (part.x[site] - mean).double().transpose(0, 1) @ axes
            part.x[site] = moved.transpose(0, 1).float()
    return parts
