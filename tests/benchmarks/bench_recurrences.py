"""RWKV's and Griffin's recurrences by our scan, against the loops over words in transformers.

"loop" is the recurrence alone, "model" a whole organism; forward and backward, contenders take turns.
"""

from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention

from tests.benchmarks import measure
from tft_utils.architectures import linear_scan, rwkv
from tft_utils.organisms import training

THREADS = 2


class Size(NamedTuple):
    """Texts, their words, channels; how often each contender runs, and for how many seconds."""

    batch: int = 8
    pos: int = 128
    width: int = 128
    rounds: int = 3
    least: float = 0.5


FULL, TOY = Size(), Size(batch=1, pos=6, width=4, rounds=1, least=0.0)


def run(size: Size = FULL) -> dict[str, dict]:
    rows = {}
    for name, loops in (("rwkv", of_rwkv(size)), ("griffin", of_griffin(size))):
        rows |= compared(f"{name}: loop", loops, size)
        ids = torch.randint(3, 700, (size.batch, size.pos), generator=torch.Generator().manual_seed(0))
        rows |= compared(
            f"{name}: model", [(model, [*model.parameters()], ids) for model in models(name)], size
        )
    return rows


def compared(what: str, contenders: list[tuple], size: Size) -> dict[str, dict]:
    """Seconds of ours and theirs, and how far their gradients are apart."""

    def step(function, parameters, *inputs) -> list[torch.Tensor]:
        out = function(*inputs)
        loss = getattr(out, "logits", out).square().sum()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    ours, theirs = (step(*contender) for contender in contenders)
    apart = max(
        float((a - b).norm() / b.norm())
        for a, b in zip(ours, theirs, strict=True)
        if b is not None and b.any()
    )
    works = {
        str(i): (lambda contender=contender: step(*contender)) for i, contender in enumerate(contenders)
    }
    times = measure.fastest(works, size.rounds, size.least)
    bar = ", at least 3" if what.endswith("loop") else ""
    return {
        f"{what}, forward+backward, theirs/ours{bar}": measure.theirs_by_ours(times["0"], times["1"]),
        f"{what}, relative difference of gradients, over 1e-5, at most 1": measure.ours_by_theirs(
            apart, 1e-5, ""
        ),
    }


def drawn(size: Size, seed: int) -> torch.Tensor:
    shape = (size.batch, size.pos, size.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_rwkv(size: Size) -> list[tuple]:
    """Both contenders for keys, values, decay and bonus."""
    m = training.build("rwkv", 0).rwkv.blocks[0].attention
    m.time_decay, m.time_first = (
        torch.nn.Parameter(part.detach()[: size.width].clone()) for part in (m.time_decay, m.time_first)
    )
    k, v = (drawn(size, seed).requires_grad_() for seed in range(2))
    parameters = [k, v, m.time_decay, m.time_first]

    def ours():
        return rwkv.frozen(m, k, None)[0](v[..., None])[..., 0]

    def theirs():
        return rwkv_linear_attention(m.time_decay, m.time_first, k, v)[0]

    return [(ours, parameters), (theirs, parameters)]


def of_griffin(size: Size) -> list[tuple]:
    """Both contenders for inputs and decays."""
    x, a = drawn(size, 0).requires_grad_(), drawn(size, 1).sigmoid().requires_grad_()
    reset = torch.arange(size.pos)[None, :, None] == 0

    def ours():
        return linear_scan.linear_scan(a * ~reset, x)

    def theirs():
        return RecurrentGemmaRglru._rnn_scan(None, x, a, reset, None)[0]

    return [(ours, [x, a]), (theirs, [x, a])]


def models(name: str) -> list[torch.nn.Module]:
    """An organism with our scan, and in transformers alone, with the same weights, none of them 0."""
    ours = training.build(name, 0).train()
    with torch.no_grad():
        for i, parameter in enumerate(ours.parameters()):
            draw = torch.Generator().manual_seed(i)
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    theirs = AutoModelForCausalLM.from_config(training.configuration(name)).train()
    theirs.load_state_dict(ours.state_dict())
    return [ours, theirs]
