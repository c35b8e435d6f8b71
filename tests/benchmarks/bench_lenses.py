"""Lens training at the size of Pythia-160m: ours against a straightforward implementation.

Both get the same random residual streams of 12 depths, width 768, norm, unembedding to 50,304 words
and translators, in float32, and make the gradients of KL(model || lens) for all depths. The
straightforward one has the full logits of a depth at a time, and one backward pass a depth. The runs
take turns, seconds are the minimum of the repeats. Memory is what a step adds to the peak resident
set of a fresh process. The products with the unembedding alone are timed too, two for a word at each
depth and one for its target: nothing that computes these gradients exactly can take less.
As a script it prints a table: python tests/benchmarks/bench_lenses.py
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import added_memory, fastest  # noqa: E402
from tft_utils.techniques import lens_training, lenses  # noqa: E402 (after the path, so that it also runs as a script)

VOCAB, D_MODEL, DEPTHS, WORDS, THREADS = 50_304, 768, 12, 512, 2


def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    model, lens, states = problem()
    gradients = {}
    seconds = fastest(
        {
            "ours": lambda: gradients.update(ours=step(fused, model, lens, states)),
            "theirs": lambda: gradients.update(theirs=step(straightforward, model, lens, states)),
            "products": lambda: multiply(model, states),
        },
        rounds=2,
    )
    ours, theirs = gradients["ours"], gradients["theirs"]
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
    speed = {name: DEPTHS * WORDS / each for name, each in seconds.items()}
    torch.set_num_threads(before)
    memory = {kind: peak_memory(kind) for kind in WORK}
    return {
        "lenses: words * depths a second, ours/theirs, at least 3": row(
            speed["ours"], speed["theirs"], speed["ours"] / speed["theirs"], "1/s"
        ),
        "lenses: words * depths a second, products alone/theirs": row(
            speed["products"], speed["theirs"], speed["products"] / speed["theirs"], "1/s"
        ),
        "lenses: peak memory of a step, ours/theirs, at most 0.33": row(
            memory["ours"], memory["theirs"], memory["ours"] / memory["theirs"], "MB"
        ),
        "lenses: gradients, relative difference, at most 1e-4": row(error, 1e-4, error, ""),
    }


def row(ours: float, theirs: float, ratio: float, unit: str) -> dict:
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit}


def problem() -> tuple[SimpleNamespace, lenses.Lens, torch.Tensor]:
    """A norm and an unembedding as a model; random streams that grow, translators away from zero."""
    torch.manual_seed(0)
    norm, linear = torch.nn.LayerNorm(D_MODEL), torch.nn.Linear(D_MODEL, VOCAB, bias=False)
    linear.weight.data.normal_(0, 0.1)
    hf = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    parts = SimpleNamespace(final_norm=lambda _: norm, unembedding=lambda _: linear)
    for parameter in (*norm.parameters(), *linear.parameters()):
        parameter.requires_grad_(False)
    states = torch.randn(DEPTHS + 1, WORDS, D_MODEL).cumsum(0)
    lens = lenses.Lens(0.01 * torch.randn(DEPTHS, D_MODEL, D_MODEL), torch.randn(DEPTHS, D_MODEL))
    return SimpleNamespace(hf=hf, architecture=parts), lens, states


def step(loss, model, lens, states) -> list[torch.Tensor]:
    """Gradients of both tensors of the lens."""
    A, b = (each.clone().requires_grad_() for each in (lens.A, lens.b))
    loss(model, lenses.Lens(A, b), states)
    return [A.grad, b.grad]


def fused(model, lens, states) -> None:
    lens_training.divergence(model, lens, states).sum().backward()


def straightforward(model, lens, states) -> None:
    norm, linear = model.architecture.final_norm(None), model.architecture.unembedding(None)
    target = linear(norm(states[-1])).log_softmax(-1)
    for k in range(DEPTHS):
        r = states[k]
        logits = linear(norm(r + r @ lens.A[k].T + lens.b[k]))
        kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="sum") / WORDS
        kl.backward()


@torch.no_grad()
def multiply(model, states) -> None:
    """To logits and back, in chunks into one array, as often as the gradients need it."""
    rows = lenses.unembedding(model)
    scratch = torch.empty(lenses.ROWS, VOCAB)
    for k, depth in enumerate(states):
        for part in depth.split(lenses.ROWS):
            torch.mm(part, rows.mT, out=scratch)
            if k < DEPTHS:
                scratch @ rows


WORK = {"ours": fused, "theirs": straightforward}


def peak_memory(kind: str) -> float:
    """MB that one step adds to the peak of a fresh process; Linux only."""
    command = [sys.executable, __file__, "--memory", kind]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def print_memory(kind: str) -> None:
    torch.set_num_threads(THREADS)
    model, lens, states = problem()
    step(WORK[kind], model, lens, states[:, :2])
    print(added_memory(lambda: step(WORK[kind], model, lens, states)))


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print_memory(sys.argv[-1])
    else:
        for name, r in run().items():
            print(f"{name:75s} {r['ours']:11.6g} {r['theirs']:11.6g} {r['ratio']:10.3g} {r['unit']}")
