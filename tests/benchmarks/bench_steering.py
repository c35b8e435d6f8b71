"""A whole steering sweep: every depth x 8 multipliers x all prompts, against the published loop.

The loop is the reference's (rnngineering, steer.py): each prompt is read whole and alone, once for
each depth and multiplier. Two fairer loops stand beside it without a bar: all prompts in one batch;
and a batch that reads the last word alone, from a copy of the cache. All cells of a loop cost the
same, so a loop is timed on one depth and two multipliers, one at the published shapes, and scaled
up; the loop over prompts on ten prompts, two at the published shapes. Ours is never scaled.
Interleaved, minimum of the repeats; the numbers are compared first. As a script it prints a table:
python tests/benchmarks/bench_steering.py
"""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import fastest  # noqa: E402
from tft_utils import models, reading  # noqa: E402 (after the path, so that it also runs as a script)
from tft_utils.architectures import ARCHITECTURES  # noqa: E402
from tft_utils.corpora import questions as world_questions  # noqa: E402
from tft_utils.corpora.questions import Question  # noqa: E402
from tft_utils.techniques import contrasts, steering  # noqa: E402 (after the path, so that it also runs as a script)
from tft_utils.techniques.contrasts import Direction  # noqa: E402
from tft_utils.techniques.steering import MULTIPLIERS, Push  # noqa: E402

THREADS, PROMPTS = 2, 50
FEW, WORDS = 2, 64  # prompts and their length at the published shapes
SHAPES = {
    "mamba-130m": lambda: MambaForCausalLM(
        MambaConfig(hidden_size=768, num_hidden_layers=24, vocab_size=50280)
    ),
    "pythia-160m": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            vocab_size=50304,
            attn_implementation="eager",
        )
    ),
}


@torch.no_grad()
def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    rows = {}
    for name in models.PAIR:
        asked = world_questions.questions("corrigibility")[:PROMPTS]
        rows |= compare(name, models.load(name), asked, 10, MULTIPLIERS[:2], ", at least 20", 2)
    for name, make in SHAPES.items():
        bar = ", at least 20" if "mamba" in name else ""
        rows |= compare(name, random_model(make), prompts_of(WORDS), 2, MULTIPLIERS[:1], bar, 1)
    torch.set_num_threads(before)
    return rows


def random_model(make) -> SimpleNamespace:
    """A model of published shape, and a tokenizer whose words are numbers."""
    torch.manual_seed(0)
    hf = make().eval()
    parts = ARCHITECTURES[hf.config.model_type]
    parts.prepare(hf, readable=False)

    def tokenizer(texts):
        return SimpleNamespace(input_ids=[[int(word) for word in text.split()] for text in texts])

    return SimpleNamespace(
        hf=hf,
        architecture=parts,
        tokenizer=tokenizer,
        state=parts.state,
        n_layers=hf.config.num_hidden_layers,
    )


def prompts_of(words: int) -> list[Question]:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(2, 50000, (FEW, words), generator=draw).tolist()
    return [Question(" ".join(map(str, row)) + " ", "0", "1", str(i)) for i, row in enumerate(rows)]


def random_direction(model, asked: list[Question]) -> Direction:
    ready = steering.read_once(model, asked[:1])
    return Direction(torch.randn(ready.residual[:, 0].shape) * ready.residual[:, 0].std(), ())


def compare(
    name: str, model, asked: list[Question], alone: int, multipliers, bar: str, repeats: int
) -> dict:
    """Our whole sweep, and loops over `alone` single prompts and `multipliers` of a middle depth."""
    direction, k = random_direction(model, asked), model.n_layers // 2
    ids, mask = contrasts.tokenize(model, [q.prompt for q in asked])
    letters = steering.letter_tokens(model, asked)
    cache, _ = contrasts.run(model, ids[:, :-1])
    depths = model.n_layers + 1

    def whole(rows: slice, m: float):
        def add(module, inputs, out):
            out = out.clone()
            out[:, -1] += m * direction.residual[k]
            return out

        hook = reading.depths(model)[k].register_forward_hook(add)
        logits = model.hf(ids[rows], use_cache=False, logits_to_keep=1).logits
        hook.remove()
        return steering._letters(logits, letters[rows])[0][:, 0]

    def from_cache(m: float):
        kept = copy.deepcopy(cache)
        with steering._pushed(model, kept, Push(direction, m, (k,))):
            _, logits = contrasts.run(model, ids[:, -1:], cache=kept)
        return steering._letters(logits[:, None], letters)[0][:, 0]

    work = {
        "ours": lambda: steering.sweep(model, steering.read_once(model, asked), direction),
        "prompt by prompt": lambda: [
            whole(slice(i, i + 1), m) for m in multipliers for i in range(alone)
        ],
        "in a batch": lambda: [whole(slice(None), m) for m in multipliers],
        "from a cache": lambda: [from_cache(m) for m in multipliers],
    }
    fast = work["ours"]().matching[k, : len(multipliers)]
    for loop in ("in a batch", "from a cache"):
        error = (torch.stack(work[loop]()) - fast).abs().max()
        assert error < 1e-4, f"{name}, {loop}: the sweeps differ by {error}: a speed means nothing"
    times = fastest(work, repeats)
    rows = {}
    for loop in ("prompt by prompt", "in a batch", "from a cache"):
        cells = depths * len(MULTIPLIERS) / len(multipliers)
        theirs = times[loop] * cells * (len(asked) / alone if loop == "prompt by prompt" else 1)
        label = f"steering: {name}, {depths} depths, {len(asked)} prompts, vs {loop}, theirs/ours"
        rows[label + (bar if loop == "prompt by prompt" else "")] = {
            "ours": times["ours"],
            "theirs": theirs,
            "ratio": theirs / times["ours"],
            "unit": "s",
        }
    return rows


if __name__ == "__main__":
    for name, r in run().items():
        print(f"{name:95s} {r['ours']:9.3f} {r['theirs']:9.3f} {r['ratio']:8.1f} {r['unit']}")
