"""A whole steering sweep: every depth x 8 multipliers x all prompts, against the published loop.

The loop is the reference's (rnngineering, steer.py): each prompt is read whole and alone, once for
each depth and multiplier. Two fairer loops stand beside it without a bar: all prompts in one batch;
and a batch that reads the last word alone, from a copy of the cache. All cells of a loop cost the
same, so a loop is timed on one depth and two multipliers, one at the published shapes, and scaled
up; the loop over prompts on ten prompts, two at the published shapes. Ours is never scaled.
Interleaved, minimum of the repeats; the numbers are compared first.
"""

import copy
from typing import NamedTuple

import torch
from transformers import GPTNeoXConfig, MambaConfig

from tests.benchmarks import measure
from tests.benchmarks.shapes import random_model
from tft_utils import models, reading
from tft_utils.corpora import lexicon
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora.lexicon import Rng
from tft_utils.corpora.questions import Question
from tft_utils.techniques import steering
from tft_utils.techniques.contrasts import Direction
from tft_utils.techniques.steering import MULTIPLIERS

THREADS = 2


class Size(NamedTuple):
    """Prompts for the bundled organisms, of which a loop reads `alone`, and how often each contender
    runs; the published shapes, and the prompts for them, with their length."""

    prompts: int = 50
    alone: int = 10
    rounds: int = 2
    width: int = 768
    layers: tuple[int, int] = (24, 12)
    few: int = 2
    words: int = 64


FULL = Size()
TOY = Size(prompts=2, alone=1, rounds=1, width=96, layers=(2, 2), words=8)


@torch.no_grad()
def run(size: Size = FULL) -> dict[str, dict]:
    rows, bar = {}, ", at least 20"
    for name in models.PAIR:
        asked = world_questions.questions("corrigibility")[: size.prompts]
        rows |= compare(name, models.load(name), asked, size.alone, MULTIPLIERS[:2], bar, size.rounds)
    asked, multipliers = prompts_of(size), MULTIPLIERS[:1]
    rows |= compare("mamba-130m", random_model(mamba(size)), asked, size.few, multipliers, bar, 1)
    rows |= compare("pythia-160m", random_model(pythia(size)), asked, size.few, multipliers, "", 1)
    return rows


def mamba(size: Size) -> MambaConfig:
    return MambaConfig(hidden_size=size.width, num_hidden_layers=size.layers[0], vocab_size=50280)


def pythia(size: Size) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers[1],
        num_attention_heads=12,
        intermediate_size=4 * size.width,
        vocab_size=50304,
    )


def prompts_of(size: Size) -> list[Question]:
    rng = Rng("steering benchmark")
    words = lexicon.VOCABULARY[3:]  # behind the special tokens
    texts = [" ".join(rng.choice(words) for _ in range(size.words)) for _ in range(size.few)]
    return [Question(f"{text} ", *lexicon.LETTERS, str(i)) for i, text in enumerate(texts)]


def random_direction(model, asked: list[Question]) -> Direction:
    stream = steering.read_once(model, asked[:1]).residual[:, 0]
    return Direction(torch.randn(stream.shape) * stream.std(), ({},) * model.n_layers)


def compare(
    name: str, model, asked: list[Question], alone: int, multipliers, bar: str, rounds: int
) -> dict:
    """Our whole sweep, and loops over `alone` single prompts and `multipliers` of a middle depth."""
    direction, k = random_direction(model, asked), model.n_layers // 2
    ids = reading.tokens(model, [q.prompt for q in asked], side="left").ids
    letters = steering.letter_tokens(model, asked)
    cache, _ = reading.run(model, ids[:, :-1])
    depths = model.n_layers + 1

    def pushed(m: float):
        """What changes the last word of a stream."""
        change = m * direction.residual[k]
        return lambda _, stream: torch.cat([stream[:, :-1], stream[:, -1:] + change], 1)

    def whole(rows: slice, m: float) -> torch.Tensor:
        with reading.hooked(reading.depths(model)[k], pushed(m)):
            logits = model.hf(ids[rows], use_cache=False, logits_to_keep=1).logits
        return matching(logits[:, -1], letters[rows])

    def from_cache(m: float) -> torch.Tensor:
        with reading.hooked(reading.depths(model)[k], pushed(m)):
            _, logits = reading.run(model, ids[:, -1:], cache=copy.deepcopy(cache))
        return matching(logits, letters)

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
    times = measure.fastest(work, rounds)
    rows = {}
    for loop in ("prompt by prompt", "in a batch", "from a cache"):
        cells = depths * len(MULTIPLIERS) / len(multipliers)
        theirs = times[loop] * cells * (len(asked) / alone if loop == "prompt by prompt" else 1)
        label = f"steering: {name}, {depths} depths, {len(asked)} prompts, vs {loop}, theirs/ours"
        label += bar if loop == "prompt by prompt" else ""
        rows[label] = measure.theirs_by_ours(times["ours"], theirs)
    return rows


def matching(logits: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
    """The matching letter's share of both letters' probability, from logits [prompt vocab]: [prompt]."""
    return logits.gather(1, letters).softmax(-1)[:, 0]
