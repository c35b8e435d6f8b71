"""All depths x all probes of one organism: one closed-form solve against a loop of scikit-learn fits.

Both fit the six tasks of lesson 05, and each task's control, to the same vectors of the residual
stream. Theirs is the same estimator, one fit a depth and labelling: LinearDiscriminantAnalysis by
least squares, shrunk by the amount of scikit-learn's own Ledoit-Wolf estimate. It runs on one thread,
where products this small are faster, ours on two; they take turns, and each one's shorter time counts.
Accuracies are those on new words (known ones where there are no new ones) and, for controls, on known.
Logistic regression as scikit-learn ships it is another estimator. It is there for its accuracy alone.
The lesson's whole probing, with reading, controls, both sites and five seeds, has its own line.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tests.benchmarks import measure
from tft_utils import linear, models
from tft_utils.corpora import tasks
from tft_utils.techniques import probes

THREADS = 2
EVERY = 3  # logistic regression, which is not timed, is fitted at every third depth


class Size(NamedTuple):
    """Which tasks, how many documents of each part, and how often both fit."""

    tasks: Sequence[str] = tuple(tasks.TASKS)
    documents: Mapping[str, int] = probes.SIZES
    rounds: int = 2


FULL = Size()
TOY = Size(("number",), {"train": 40, "known": 20, "new": 20}, rounds=1)


@torch.no_grad()
def run(size: Size = FULL) -> dict[str, dict]:
    rows = {}
    for name in models.PAIR:
        whole, collected = measure.timed(probing, models.load(name), size)
        compared = [compare(task, parts, size.rounds) for task, parts in collected.items()]
        times, right = zip(*compared, strict=True)
        real, control, other = 100 * np.mean(right, 0)  # each [ours, theirs], over tasks and depths
        rows |= {
            f"probes: {name}, all depths, tasks, sites, with reading, bar of 10 s/ours, at least 1": (
                measure.theirs_by_ours(whole, 10.0)
            ),
            f"probes: {name}, one solve vs scikit-learn's LDA at each depth, theirs/ours, at least 10": (
                measure.theirs_by_ours(*np.sum(times, 0))
            ),
            f"probes: {name}, accuracy, theirs - ours, at most 0.5": points(*real),
            f"probes: {name}, accuracy on the controls, theirs - ours": points(*control),
            f"probes: {name}, accuracy, logistic regression (another estimator), theirs - ours": (
                points(*other)
            ),
        }
    return rows


def points(ours: float, theirs: float) -> dict:
    return measure.row(ours, theirs, theirs - ours, "points")


def probing(model, size: Size) -> dict[str, dict[str, probes.Labelled]]:
    """All that the lesson does, and the vectors on which it does it."""
    collected = probes.collect(model, size.tasks, size.documents)
    for task, parts in collected.items():
        for site in parts["train"].x:
            probes.probe(parts, len(tasks.TASKS[task].classes), site)
    return collected


def compare(
    task: str, parts: dict[str, probes.Labelled], rounds: int
) -> tuple[list[float], list[list[float]]]:
    """Seconds of ours and theirs; accuracy of both for the labels, the control, and for the labels
    with logistic regression as theirs."""
    classes, train, known = len(tasks.TASKS[task].classes), parts["train"], parts["known"]
    tests = parts.get("new", known), known
    draws = [probes.control_labels(part.cause, train.label, 0) for part in (train, known)]
    labels, truth = torch.stack([train.label, draws[0]]), (tests[0].label, draws[1])
    x, asked = train.x["residual"], [test.x["residual"] for test in tests]
    guesses = {}

    def ours() -> None:
        W, b = linear.discriminant(x, labels, classes)
        guesses["ours"] = [
            linear.choose(test, W[:, [i]], b[:, [i]])[:, 0].numpy() for i, test in enumerate(asked)
        ]

    def theirs() -> None:
        with threadpool_limits(1):
            guesses["theirs"] = [
                np.array(loop(x.numpy(), y, test.numpy(), classes))
                for y, test in zip(labels.numpy(), asked, strict=True)
            ]

    times = measure.fastest({"ours": ours, "theirs": theirs}, rounds)
    right = [  # of the labels and the control, by ours and theirs [depth]
        [(guess == true.numpy()).mean(1) for guess in both]
        for *both, true in zip(guesses["ours"], guesses["theirs"], truth, strict=True)
    ]
    right.append([right[0][0][::EVERY], logistic(x, train.label, asked[0], truth[0])])
    return list(times.values()), [[accuracy.mean() for accuracy in both] for both in right]


def loop(x: np.ndarray, y: np.ndarray, asked: np.ndarray, classes: int) -> list[np.ndarray]:
    """The guesses [depth][n] of one fit at each depth."""
    guesses = []
    for k in range(x.shape[1]):
        X, test = x[:, k].astype(float), asked[:, k].astype(float)
        means = np.stack([X[y == c].mean(0) if (y == c).any() else X[0] for c in range(classes)])
        amount = ledoit_wolf_shrinkage(X - means[y], assume_centered=True)
        fit = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=amount).fit(X, y)
        guesses.append(fit.predict(test))
    return guesses


def logistic(x, y, asked, truth) -> np.ndarray:
    """Accuracy of LogisticRegression as it comes, but for enough iterations and like scales [depth]."""
    scores = []
    for k in range(0, x.shape[1], EVERY):
        scale = x[:, k].std()
        with threadpool_limits(1):
            fit = LogisticRegression(max_iter=1000).fit(x[:, k] / scale, y)
        scores.append(fit.score(asked[:, k] / scale, truth))
    return np.array(scores)
