"""All depths x all probes of one organism: one closed-form solve against a loop of scikit-learn fits.

Both fit the six tasks of lesson 05 to the same vectors of the residual stream, and are asked about
new words (known ones where there are no new ones). Theirs: LogisticRegression as it comes but for
enough iterations and vectors of like scale, one fit a depth. Their runs take turns on two threads.
The lesson's whole probing, with reading, controls, both sites and five seeds, has its own line.
As a script it prints a table: python tests/benchmarks/bench_probes.py
"""

import sys
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tft_utils import models, probes  # noqa: E402 (after the path, so that it also runs as a script)

THREADS = 2
EVERY = 3  # theirs fits every third depth, and its time counts threefold


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
            probes.probe(parts, len(probes.TASKS[task].classes))
        whole = time.perf_counter() - start
        ours, theirs, means = compare(collected)
        gap = 100 * (sum(b - a for a, b in means.values()) / len(means))
        worst = max(means, key=lambda task: means[task][1] - means[task][0])
        rows |= {
            f"probes: {name}, all depths, tasks and sites, five seeds, with reading, at most 10":
                row(whole, 10.0, 10.0 / whole, "s"),
            f"probes: {name}, one solve vs scikit-learn at each depth, theirs/ours, at least 10":
                row(ours, theirs, theirs / ours, "s"),
            f"probes: {name}, accuracy over tasks and depths, theirs - ours, at most 0.5":
                row(*(100 * sum(both) / len(means) for both in zip(*means.values(), strict=True)),
                    gap, "points"),
            f"probes: {name}, accuracy in their best task ({worst}), theirs - ours":
                row(*(100 * each for each in means[worst]),
                    100 * (means[worst][1] - means[worst][0]), "points"),
        }  # fmt: skip
    torch.set_num_threads(before)
    return rows


def row(ours: float, theirs: float, ratio: float, unit: str) -> dict:
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit}


def compare(collected: dict) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Seconds of each, and task -> both accuracies, means over the depths that both fitted."""
    ours = theirs = 0.0
    means = {}
    for task, parts in collected.items():
        train, test = parts["train"], parts.get("new", parts["known"])
        x, asked = train.x["residual"], test.x["residual"]
        start = time.perf_counter()
        W, b = probes.discriminant(x, train.label[None], len(probes.TASKS[task].classes))
        right = (probes.choose(asked, W, b)[:, 0] == test.label).double().mean(1)
        middle = time.perf_counter()
        scores = []
        for k in range(0, x.shape[1], EVERY):
            scale = x[:, k].std()
            with threadpool_limits(1):  # products this small are faster on one thread
                fit = LogisticRegression(max_iter=1000).fit(x[:, k] / scale, train.label)
            scores.append(fit.score(asked[:, k] / scale, test.label))
        ours += middle - start
        theirs += (time.perf_counter() - middle) * x.shape[1] / len(scores)
        means[task] = float(right[::EVERY].mean()), sum(scores) / len(scores)
    return ours, theirs, means


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:88s} {r['ours']:8.3f} {r['theirs']:8.3f} {r['ratio']:8.2f} {r['unit']}")
