"""All depths x all probes of one organism: one closed-form solve against a loop of scikit-learn fits.

Both fit the six tasks of lesson 05, and each task's control, to the same vectors of the residual
stream. Theirs is the same estimator, one fit a depth and labelling: LinearDiscriminantAnalysis by
least squares, shrunk by the amount of scikit-learn's own Ledoit-Wolf estimate. It runs on one thread,
where products this small are faster, ours on two; they take turns, and each one's shorter time counts.
Accuracies are those on new words (known ones where there are no new ones) and, for controls, on known.
Logistic regression as scikit-learn ships it is another estimator. It is there for its accuracy alone.
The lesson's whole probing, with reading, controls, both sites and five seeds, has its own line.
As a script it prints a table: python tests/benchmarks/bench_probes.py
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tft_utils import linear, models  # noqa: E402 (after the path, so that it also runs as a script)
from tft_utils.corpora import tasks  # noqa: E402 (after the path, so that it also runs as a script)
from tft_utils.techniques import probes  # noqa: E402 (after the path, so that it also runs as a script)

THREADS = 2
EVERY = 3  # logistic regression, which is not timed, is fitted at every third depth


@torch.no_grad()
def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    rows = {}
    for name in models.PAIR:
        model = models.load(name)
        start = time.perf_counter()
        collected = probes.collect(model)
        for task, parts in collected.items():
            for site in parts["train"].x:
                probes.probe(parts, len(tasks.TASKS[task].classes), site)
        whole = time.perf_counter() - start
        compared = [compare(task, parts) for task, parts in collected.items()]
        times, right = zip(*compared, strict=True)
        ours, theirs = np.sum(times, 0)
        real, control, other = 100 * np.mean(right, 0)  # each [ours, theirs], over tasks and depths
        rows |= {
            f"probes: {name}, all depths, tasks and sites, five seeds, with reading, at most 10": row(
                whole, 10.0, 10.0 / whole, "s"
            ),
            f"probes: {name}, one solve vs scikit-learn's LDA at each depth, theirs/ours, at least 10": row(
                ours, theirs, theirs / ours, "s"
            ),
            f"probes: {name}, accuracy, theirs - ours, at most 0.5": row(
                *real, real[1] - real[0], "points"
            ),
            f"probes: {name}, accuracy on the controls, theirs - ours": row(
                *control, control[1] - control[0], "points"
            ),
            f"probes: {name}, accuracy, logistic regression (another estimator), theirs - ours": row(
                *other, other[1] - other[0], "points"
            ),
        }
    torch.set_num_threads(before)
    return rows


def row(ours: float, theirs: float, ratio: float, unit: str) -> dict:
    return {"ours": float(ours), "theirs": float(theirs), "ratio": float(ratio), "unit": unit}


def compare(task: str, parts: dict[str, probes.Labelled]) -> tuple[list[float], list[list[float]]]:
    """Seconds of ours and theirs; accuracy of both for the labels, the control, and for the labels
    with logistic regression as theirs."""
    classes, train, known = len(tasks.TASKS[task].classes), parts["train"], parts["known"]
    tests = parts.get("new", known), known
    draws = [probes.control_labels(part.cause, train.label, 0) for part in (train, known)]
    labels, truth = torch.stack([train.label, draws[0]]), (tests[0].label, draws[1])
    x, asked = train.x["residual"], [test.x["residual"] for test in tests]
    times = []
    for _ in range(2):
        start = time.perf_counter()
        W, b = linear.discriminant(x, labels, classes)
        guess = [linear.choose(some, W[:, [i]], b[:, [i]])[:, 0] for i, some in enumerate(asked)]
        middle = time.perf_counter()
        with threadpool_limits(1):
            theirs = np.array(
                [
                    loop(x.numpy(), *each, classes)
                    for each in zip(labels.numpy(), [some.numpy() for some in asked], strict=True)
                ]
            )
        times.append((middle - start, time.perf_counter() - middle))
    found = [
        [(mine == true).double().mean(1).numpy(), (other == true.numpy()).mean(1)]
        for mine, other, true in zip(guess, theirs, truth, strict=True)
    ]
    found.append([found[0][0][::EVERY], logistic(x, train.label, asked[0], truth[0])])
    return np.min(times, 0).tolist(), [[each.mean() for each in both] for both in found]


def loop(x: np.ndarray, y: np.ndarray, asked: np.ndarray, classes: int) -> list[np.ndarray]:
    """The guesses [depth][n] of one fit at each depth."""
    found = []
    for k in range(x.shape[1]):
        X, test = x[:, k].astype(float), asked[:, k].astype(float)
        means = np.stack([X[y == c].mean(0) if (y == c).any() else X[0] for c in range(classes)])
        amount = ledoit_wolf_shrinkage(X - means[y], assume_centered=True)
        fit = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=amount).fit(X, y)
        found.append(fit.predict(test))
    return found


def logistic(x, y, asked, truth) -> np.ndarray:
    """Accuracy of LogisticRegression as it comes, but for enough iterations and like scales [depth]."""
    scores = []
    for k in range(0, x.shape[1], EVERY):
        scale = x[:, k].std()
        with threadpool_limits(1):
            fit = LogisticRegression(max_iter=1000).fit(x[:, k] / scale, y)
        scores.append(fit.score(asked[:, k] / scale, truth))
    return np.array(scores)


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:92s} {r['ours']:8.3f} {r['theirs']:8.3f} {r['ratio']:8.2f} {r['unit']}")
