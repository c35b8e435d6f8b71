"""Lens training at the size of Pythia-160m: ours against a straightforward implementation.

Both get the same random residual streams of 12 depths, width 768, norm, unembedding to 50,304 words
and translators, in float32, and make the gradients of KL(model || lens) for all depths. The
straightforward one has the full logits of a depth at a time, and one backward pass a depth. The runs
take turns, seconds are the minimum of the repeats. Memory is what a step adds to the peak resident
set of a fresh process. The products with the unembedding alone are timed too, two for a word at each
depth and one for its target: nothing that computes these gradients exactly can take less.
"""

from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from tests.benchmarks import measure
from tft_utils.techniques import lenses

THREADS = 2


class Size(NamedTuple):
    """The model's shape, the words of a step, and how often each contender runs."""

    vocab: int = 50_304
    d_model: int = 768
    depths: int = 12
    words: int = 512
    rounds: int = 2


FULL, TOY = Size(), Size(vocab=500, d_model=16, depths=2, words=20, rounds=1)


def run(size: Size = FULL) -> dict[str, dict]:
    model, lens, states = problem(size)
    gradients = {}
    seconds = measure.fastest(
        {
            "ours": lambda: gradients.update(ours=step(fused, model, lens, states)),
            "theirs": lambda: gradients.update(theirs=step(straightforward, model, lens, states)),
            "products": lambda: multiply(model, states),
        },
        rounds=size.rounds,
    )
    ours, theirs = gradients["ours"], gradients["theirs"]
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
    speed = {name: size.depths * size.words / least for name, least in seconds.items()}
    memory = {kind: measure.fresh(step_memory, kind, size) for kind in WORK}
    return {
        "lenses: words * depths a second, ours/theirs, at least 3": (
            measure.ours_by_theirs(speed["ours"], speed["theirs"], "1/s")
        ),
        "lenses: words * depths a second, products alone/theirs": (
            measure.ours_by_theirs(speed["products"], speed["theirs"], "1/s")
        ),
        "lenses: peak memory of a step, ours/theirs, at most 0.33": (
            measure.ours_by_theirs(memory["ours"], memory["theirs"], "MB")
        ),
        "lenses: gradients, relative difference, at most 1e-4": measure.row(error, 1e-4, error, ""),
    }


def problem(size: Size) -> tuple[SimpleNamespace, lenses.Lens, torch.Tensor]:
    """A norm and an unembedding as a model; random streams that grow, translators away from zero."""
    torch.manual_seed(0)
    d, depths = size.d_model, size.depths
    norm, linear = torch.nn.LayerNorm(d), torch.nn.Linear(d, size.vocab, bias=False)
    linear.weight.data.normal_(0, 0.1)
    hf = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    modules = {"final_norm": norm, "unembedding": linear}
    for parameter in (*norm.parameters(), *linear.parameters()):
        parameter.requires_grad_(False)
    states = torch.randn(depths + 1, size.words, d).cumsum(0)
    lens = lenses.Lens(0.01 * torch.randn(depths, d, d), torch.randn(depths, d))
    return SimpleNamespace(hf=hf, module=modules.get, capped=False), lens, states


def step(loss, model, lens, states) -> list[torch.Tensor]:
    """Gradients of both tensors of the lens."""
    A, b = (tensor.clone().requires_grad_() for tensor in (lens.A, lens.b))
    loss(model, lenses.Lens(A, b), states)
    return [A.grad, b.grad]


def fused(model, lens, states) -> None:
    lenses.divergence(model, lens, states).sum().backward()


def straightforward(model, lens, states) -> None:
    norm, linear = model.module("final_norm"), model.module("unembedding")
    target = linear(norm(states[-1])).log_softmax(-1)
    for k, r in enumerate(states[:-1]):
        logits = linear(norm(r + r @ lens.A[k].T + lens.b[k]))
        kl = F.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="sum") / len(r)
        kl.backward()


@torch.no_grad()
def multiply(model, states) -> None:
    """To logits and back, in chunks into one array, as often as the gradients need it."""
    rows = model.module("unembedding").weight
    scratch = torch.empty(lenses.ROWS, len(rows))
    for k, depth in enumerate(states):
        for words in depth.split(lenses.ROWS):
            logits = torch.mm(words, rows.mT, out=scratch[: len(words)])
            if k < len(states) - 1:
                logits @ rows


WORK = {"ours": fused, "theirs": straightforward}


def step_memory(kind: str, size: Size) -> float:
    """MB that one step adds to the peak of this process."""
    model, lens, states = problem(size)
    step(WORK[kind], model, lens, states[:, :2])
    return measure.added_memory(lambda: step(WORK[kind], model, lens, states))
