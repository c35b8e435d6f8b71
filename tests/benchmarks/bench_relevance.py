"""What one explanation costs on mamba-130m shapes (random weights), one prompt of 256 tokens.

Against a plain forward pass with our scan, and against the same rules through transformers' own
scan, a Python loop. Interleaved, minimum of the repeats. The loop keeps every state of every layer
for its backward, so that comparison has LAYERS of the 24 layers, on both sides.
As a script it prints a table: python tests/benchmarks/bench_relevance.py
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import fastest  # noqa: E402
from tft_utils.architectures import mamba  # noqa: E402
from tft_utils.architectures import mamba_scan as scan  # noqa: E402 (after the path, so that it also runs as a script)
from tft_utils.techniques import relevance  # noqa: E402 (after the path, so that it also runs as a script)

POS, LAYERS, THREADS = 256, 8, 1


def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    loop = modeling_mamba.mamba_selective_scan.__wrapped__  # before `install` replaces it
    model, asked = question(24)
    passes = fastest(
        {"explain": lambda: relevance.explain(model, asked), "forward": lambda: forward(model, asked)},
        repeats=5,
    )
    few, asked_few = question(LAYERS)
    through = fastest(
        {
            "ours": lambda: relevance.explain(few, asked_few),
            "loop": lambda: with_scan(loop, lambda: relevance.explain(few, asked_few)),
        },
        repeats=2,
    )
    torch.set_num_threads(before)
    return {
        "relevance: explanation vs forward pass, ours/theirs, at most 3": row(
            passes["explain"], passes["forward"], passes["explain"] / passes["forward"]
        ),
        f"relevance: explanation vs transformers' loop, {LAYERS} layers, theirs/ours, at least 10": row(
            through["ours"], through["loop"], through["loop"] / through["ours"]
        ),
    }


def row(ours: float, theirs: float, ratio: float) -> dict:
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": "s"}


def question(layers: int) -> tuple[SimpleNamespace, relevance.Asked]:
    torch.manual_seed(0)
    hf = MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=layers)).eval()
    mamba.prepare(hf, readable=False)
    ids = torch.randint(0, hf.config.vocab_size, (1, POS))
    with torch.no_grad():
        embeddings = mamba.embedding(hf)(ids)
    asked = relevance.Asked(ids, embeddings, torch.ones_like(ids), torch.tensor([0]), None)
    return SimpleNamespace(hf=hf, architecture=mamba), asked


@torch.no_grad()
def forward(model: SimpleNamespace, asked: relevance.Asked) -> None:
    relevance.score(model, asked, asked.embeddings)


def with_scan(function, work) -> None:
    with mock.patch.object(scan, "selective_scan", function):
        work()


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:82s} {r['ours']:8.3f} {r['theirs']:8.3f} {r['ratio']:8.2f} {r['unit']}")
