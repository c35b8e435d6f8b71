"""What one explanation costs on mamba-130m shapes (random weights), one prompt of 256 tokens.

Against a plain forward pass with our scan, and against the same rules through transformers' own
scan, a Python loop. Interleaved, minimum of the repeats. The loop keeps every state of every layer
for its backward, so that comparison has few of the 24 layers, on both sides; both must give every
word the same relevance to 1e-3 of the largest.
"""

from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import torch
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba

from tests.benchmarks import measure
from tft_utils.architectures import mamba
from tft_utils.architectures import mamba_scan as scan
from tft_utils.techniques import relevance

THREADS = 1


class Size(NamedTuple):
    """The model and its prompt, the layers beside the loop, and how often each contender runs."""

    width: int = 768
    layers: int = 24
    few: int = 8
    pos: int = 256
    rounds: int = 5
    rounds_of_loop: int = 2


FULL = Size()
TOY = Size(width=16, layers=2, few=1, pos=8, rounds=1, rounds_of_loop=1)


def run(size: Size = FULL) -> dict[str, dict]:
    model, asked = question(size, size.layers)
    passes = measure.fastest(
        {"explain": lambda: relevance.explain(model, asked), "forward": lambda: forward(model, asked)},
        rounds=size.rounds,
    )
    (few, asked_few), (bare, _) = (question(size, size.few, installed=given) for given in (True, False))
    words = {}
    through = measure.fastest(
        {
            "ours": lambda: words.update(ours=relevance.explain(few, asked_few)),
            "loop": lambda: words.update(loop=explain_by_loop(bare, asked_few)),
        },
        rounds=size.rounds_of_loop,
    )
    error = (words["ours"] - words["loop"]).abs().max() / words["loop"].abs().max()
    assert error < 1e-3, f"the explanations differ by {error}: a speed means nothing"
    return {
        "relevance: explanation vs forward pass, ours/theirs, at most 3": (
            measure.ours_by_theirs(passes["explain"], passes["forward"])
        ),
        f"relevance: explanation vs transformers' loop, {size.few} layers, theirs/ours, at least 10": (
            measure.theirs_by_ours(through["ours"], through["loop"])
        ),
    }


def question(size: Size, layers: int, installed: bool = True) -> tuple[SimpleNamespace, relevance.Asked]:
    """A random model, with our scan or as transformers makes it, and a random prompt."""
    torch.manual_seed(0)
    hf = MambaForCausalLM(MambaConfig(hidden_size=size.width, num_hidden_layers=layers)).eval()
    if installed:
        mamba.prepare(hf, readable=False)
    ids = torch.randint(0, hf.config.vocab_size, (1, size.pos))
    with torch.no_grad():
        embeddings = mamba.embedding(hf)(ids)
    asked = relevance.Asked(ids, embeddings, torch.ones_like(ids), torch.tensor([0]), None)
    return SimpleNamespace(hf=hf, architecture=mamba), asked


@torch.no_grad()
def forward(model: SimpleNamespace, asked: relevance.Asked) -> None:
    relevance.score(model, asked, asked.embeddings)


def explain_by_loop(model: SimpleNamespace, asked: relevance.Asked) -> torch.Tensor:
    """The same rules, which get transformers' scan where they call ours; the model has none of ours."""
    calls = 0

    def loop(*tensors, initial_state=None, **options):
        nonlocal calls
        calls += 1
        return modeling_mamba.mamba_selective_scan(*tensors, **options)

    with mock.patch.object(scan, "selective_scan", loop):
        words = relevance.explain(model, asked)
    assert calls == len(mamba.blocks(model.hf)), f"{calls} scans were the loop's: a speed means nothing"
    return words
