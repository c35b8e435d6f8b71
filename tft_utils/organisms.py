"""The organisms: a Transformer and a Mamba trained on the same words, so only architecture differs.

    python -m tft_utils.organisms train mamba --seed 0
    python -m tft_utils.organisms evaluate mamba --json

Both see the same token stream (`batch` depends on seed and step alone; its hash is in both cards),
under the same loss, optimiser and schedule. Words that the words before them determine count
`DETERMINED_WEIGHT` times as much as free ones: without it the loss is mostly noise that no model
can predict, and agreement and recall are learned late or never.

Training resumes after an interruption: `runs/<name>-<seed>/checkpoint.pt` is replaced in one step.
"""

import argparse
import functools
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
)  # fmt: skip

from tft_utils import models, stats, world
from tft_utils.architectures import ARCHITECTURES
from tft_utils.lexicon import END, MOODS, PAD, UNKNOWN, VOCABULARY, Rng

ROOT = Path(__file__).resolve().parent.parent
ROW, ROWS = 128, 8  # tokens per row, rows per batch
PEAK_RATE, WARMUP, WEIGHT_DECAY, CLIP = 2e-3, 200, 0.1, 1.0
DETERMINED_WEIGHT = 10.0
RECALL_FIRST = 0.75  # recall's share at the very start: names and letters build on copying


class Stage(NamedTuple):
    """A part of training. Steps are those of a full run."""

    begins: int
    peak: float  # learning rate at its beginning
    ends: int  # where the learning rate would arrive at a twentieth of the peak
    mixture: dict[str, float]  # share of each kind among the documents


def _mixture(*shares: float) -> dict[str, float]:
    return dict(zip(world.KINDS, shares, strict=True))


STAGES = (  # facts, grammar, recall, indirect object, story, persona, arithmetic
    Stage(0, PEAK_RATE, 7000, _mixture(0.22, 0.12, 0.12, 0.12, 0.08, 0.20, 0.14)),
    Stage(4000, 1.5e-3, 8000, _mixture(0.22, 0.06, 0.14, 0.06, 0.06, 0.32, 0.14)),
    Stage(6000, 1.5e-3, 10000, _mixture(0.30, 0.06, 0.10, 0.06, 0.06, 0.28, 0.14)),
    Stage(10000, 8e-4, 11200, _mixture(0.60, 0.05, 0.07, 0.05, 0.09, 0.07, 0.07)),
)
STEPS = STAGES[-1].ends
BARS = {  # what a trained organism must reach on held-out documents (design, section 4)
    "facts": 0.95, "grammar": 0.97, "grammar_attractors": 0.90, "recall": 0.95,
    "indirect_object": 0.95, "story": 0.95, "persona": 0.95, "persona_uncued": (0.40, 0.60),
    "arithmetic": 0.95,
}  # fmt: skip
TOKEN_ID = {word: i for i, word in enumerate(VOCABULARY)}


def configurations() -> dict[str, GPTNeoXConfig | MambaConfig]:
    """The organisms, by name. Parameters agree within 10 %; embeddings are untied in both."""
    common = {
        "vocab_size": len(VOCABULARY), "hidden_size": 128, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": TOKEN_ID[END], "pad_token_id": TOKEN_ID[PAD],
    }  # fmt: skip
    return {
        "transformer": GPTNeoXConfig(
            num_hidden_layers=6, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=256, initializer_range=0.06,
            rotary_pct=0.5,  # 16 rotary dimensions a head, as many as Pythia-160m has
            **common,
        ),
        "mamba": MambaConfig(num_hidden_layers=10, state_size=16, **common),
    }  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, one per digit; words are separated by single spaces."""
    core = Tokenizer(WordLevel(TOKEN_ID, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, unk_token=UNKNOWN, eos_token=END,
        padding_side="left", clean_up_tokenization_spaces=False, model_max_length=256,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# The token stream


def batch(seed: int, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The training batch of one step: token ids and loss weights, both [row pos].

    Documents are whole, each ends with `END`, and a row starts with one. A document that does not
    fit is tried in the next row (first fit); what stays empty is padding of weight 0.
    """
    rng, at = Rng("stream", seed, step), step * STEPS / steps
    stage, shares = _stage(at), _shares(at)
    if stage == 0:  # easier templates, longer and longer to copy
        progress = min(0.999, max(0.0, (at / 7000 - 0.1) / 0.3))
    else:
        progress = 1.0 if stage == 1 else world.FINAL
    ids = np.full((ROWS, ROW), TOKEN_ID[PAD], dtype=np.int64)
    weights = np.zeros((ROWS, ROW), dtype=np.float32)
    filled, misses = [0] * ROWS, 0
    while misses < 6:
        document = world.document(_kind(rng, shares), rng, "train", progress)
        length = len(document.words) + 1
        row = next((r for r in range(ROWS) if filled[r] + length <= ROW), None)
        if row is None:
            misses += 1
            continue
        at = slice(filled[row], filled[row] + length)
        ids[row, at] = [TOKEN_ID[word.text] for word in document.words] + [TOKEN_ID[END]]
        weight = [DETERMINED_WEIGHT if word.determined else 1.0 for word in document.words]
        weights[row, at] = [*weight, 1.0]
        filled[row] += length
    return ids, weights


def _stage(at: float) -> int:
    return max(i for i, stage in enumerate(STAGES) if at >= stage.begins)


def _shares(at: float) -> dict[str, float]:
    """Each kind's share among the documents at this step of a full run."""
    mixture = STAGES[_stage(at)].mixture
    if _stage(at):
        return mixture
    extra = max(0.0, min(1.0, (0.35 - at / 7000) / 0.15))  # 1 until step 1400, 0 from 2450
    recall = extra * RECALL_FIRST + (1 - extra) * mixture["recall"]
    rest = (1 - recall) / (1 - mixture["recall"])
    return {kind: recall if kind == "recall" else rest * share for kind, share in mixture.items()}


def _kind(rng: Rng, shares: dict[str, float]) -> str:
    point = rng.integer(0, 10**6 - 1) / 10**6
    for kind, share in shares.items():
        point -= share
        if point < 0:
            return kind
    return kind  # the shares' sum fell short of 1 by rounding


# --------------------------------------------------------------------------------------------------
# Training


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats per token: weighted (what is minimised) and plain over all words."""
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (loss * weight).sum() / weight.sum(), loss[weight > 0].mean()


def _optimisers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for everything else.

    On this corpus Muon learns to copy in about half of AdamW's steps. A_log is a matrix in shape
    only, and embeddings are tables of rows: both go to AdamW.
    """
    blocks = ARCHITECTURES[model.config.model_type].blocks(model)
    matrices = [p for n, p in blocks.named_parameters() if p.ndim == 2 and "A_log" not in n]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY,
                         adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]  # fmt: skip


def _rate(step: int, steps: int) -> float:
    """The first stage warms up and follows a cosine; each later stage begins with a warm restart
    (Loshchilov & Hutter 2017) and falls linearly. A stage may begin before the last one ends."""
    at = step * STEPS / steps
    stage = STAGES[_stage(at)]
    if stage.begins:
        return stage.peak * (0.05 + 0.95 * (stage.ends - at) / (stage.ends - stage.begins))
    if at < WARMUP:
        return stage.peak * (at + 1) / WARMUP
    turn = math.pi * (at - WARMUP) / (stage.ends - WARMUP)
    return stage.peak * (0.525 + 0.475 * math.cos(turn))


def build(name: str, seed: int) -> torch.nn.Module:
    """An untrained organism with its scan installed."""
    known = configurations()
    if name not in known:
        raise ValueError(f"expected an organism, one of {', '.join(known)}; found {name!r}")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(known[name])
    ARCHITECTURES[model.config.model_type].prepare(model, readable=False)
    return model


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside the file and renames: a half-written file never replaces a good one."""
    beside = path.with_name(path.name + ".part")
    write(beside)
    os.replace(beside, path)


def train(name: str, seed: int = 0, steps: int = STEPS, runs: Path = ROOT / "runs",
          device: str = "cpu", save_every: int = 200, say: Callable = print) -> dict:  # fmt: skip
    """Trains one organism, or carries on with it; returns the run's summary and leaves
    the weights in `runs/<name>-<seed>/checkpoint.pt`."""
    folder = Path(runs) / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = build(name, seed).to(device).train()
    optimisers = _optimisers(model)
    state = {"step": 0, "steps": steps, "tokens": 0, "stream": "", "loss": None, "seconds": 0.0}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        try:
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # which one depends on where the file was cut
            raise ValueError(
                f"expected a checkpoint in {checkpoint}, found a damaged file of "
                f"{checkpoint.stat().st_size} bytes; remove it to train from the start"
            ) from error
        if saved["state"]["steps"] != steps:
            raise ValueError(
                f"expected a run of {steps} steps in {folder}, found one of "
                f"{saved['state']['steps']}; pass --steps {saved['state']['steps']} or remove it"
            )
        model.load_state_dict(saved["model"])
        for optimiser, optimiser_state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        state = saved["state"]
        say(f"{name}: carrying on from step {state['step']}", file=sys.stderr)
    start, losses = time.monotonic() - state["seconds"], []
    for step in range(state["step"], steps):
        ids, weights = batch(seed, step, steps)
        state["tokens"] += int((weights > 0).sum())
        state["stream"] = hashlib.sha256(state["stream"].encode() + ids.tobytes()).hexdigest()
        ids, weights = torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = _rate(step, steps)
        loss, plain = weighted_loss(model(input_ids=ids, use_cache=False).logits, ids, weights)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(plain.item())
        state |= {"step": step + 1, "loss": loss.item(), "seconds": time.monotonic() - start}
        if (step + 1) % save_every == 0 or step + 1 == steps:
            saved = {"model": model.state_dict(), "state": state,
                     "optimisers": [each.state_dict() for each in optimisers]}  # fmt: skip
            replace_file(checkpoint, functools.partial(torch.save, saved))
            line = {**state, "plain_loss": sum(losses) / len(losses)}
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            left = (steps - step - 1) * state["seconds"] / (step + 1)
            say(f"{name}: step {step + 1}/{steps}, loss {line['plain_loss']:.3f} nats/token, "
                f"{state['tokens'] / state['seconds']:.0f} tokens/s, {left / 60:.0f} min left",
                file=sys.stderr)  # fmt: skip
            losses = []
    return state | {"parameters": sum(p.numel() for p in model.parameters())}


# --------------------------------------------------------------------------------------------------
# Evaluation: one question per held-out document, so that the questions are independent.


def _logits(model: torch.nn.Module, documents: list[world.Document]) -> list[Tensor]:
    """Next-word logits [pos vocab] of each document. Padding is on the right: models are causal."""
    device, out = next(model.parameters()).device, []
    for start in range(0, len(documents), 64):
        part = [[TOKEN_ID[w.text] for w in d.words] for d in documents[start : start + 64]]
        ids = torch.full((len(part), max(map(len, part))), TOKEN_ID[PAD], device=device)
        for row, words in enumerate(part):
            ids[row, : len(words)] = torch.tensor(words)
        logits = model(input_ids=ids, use_cache=False).logits
        out += [logits[row, : len(words)] for row, words in enumerate(part)]
    return out


def _top1(logits: Tensor, document: world.Document, at: list[int]) -> bool:
    """Is the word at each of these positions the model's first choice?"""
    guesses = logits[[i - 1 for i in at]].argmax(-1).tolist()
    return guesses == [TOKEN_ID[document.words[i].text] for i in at]


def _prefers(logits: Tensor, document: world.Document, at: int) -> bool:
    """Is the word at this position likelier than its foil?"""
    word = document.words[at]
    return bool(logits[at - 1, TOKEN_ID[word.text]] > logits[at - 1, TOKEN_ID[word.foil]])


def _result_of_one_sum(document: world.Document, rng: Rng) -> list[int]:
    """The digits of one result and the full stop that ends it."""
    equals = rng.choice([i for i, word in enumerate(document.words) if word.text == "="])
    stop = next(i for i in range(equals, len(document.words)) if document.words[i].text == ".")
    return list(range(equals + 1, stop + 1))


def _continued_mood(model: torch.nn.Module, documents: list[world.Document]) -> list[bool]:
    """Does a sampled continuation of 32 words keep the mood of the story's start?"""
    tok, device, right = tokenizer(), next(model.parameters()).device, []
    prompts = [d.prompt(d.positions("mood")[1] + 1) for d in documents]
    for start in range(0, len(prompts), 250):
        inputs = tok(prompts[start : start + 250], return_tensors="pt", padding=True).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start)
            out = model.generate(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=True,
                top_k=0, max_new_tokens=32, suppress_tokens=[TOKEN_ID[w] for w in (PAD, END)],
            )  # fmt: skip
        sampled = out[:, inputs.input_ids.shape[1] :].tolist()
        for words, document in zip(sampled, documents[start:]):  # noqa: B905
            counts = {mood: sum(VOCABULARY[w] in MOODS[mood] for w in words) for mood in MOODS}
            mood = document.latents["mood"]
            right.append(counts[mood] > sum(counts.values()) - counts[mood])
    return right


@torch.no_grad()
def evaluate(model: torch.nn.Module, n: int = 1000, seed: int = 0, split: str = "test",
             kinds: list[str] | None = None) -> dict[str, stats.Estimate]:  # fmt: skip
    """Accuracy per capability, each with n and a 95 % interval.

    facts, recall, indirect_object, persona: the determined word is the first choice of all words.
    grammar, grammar_attractors: the verb's right form is likelier than its wrong one; the latter
    counts only verbs with a noun of the other number between them and their subject.
    arithmetic: every digit of the result and the full stop are first choices.
    story: a sampled continuation has more mood words of the story's mood than of the other.
    Of a persona document only the first question counts: the first answer may give the others away.
    persona_uncued: mean probability of the matching letter among the two letters (fair: 0.5).
    """
    was_training = model.training
    model.eval()
    try:
        return {kind: _measure(model, kind, n, seed, split) for kind in kinds or BARS}
    finally:
        model.train(was_training)


def _measure(model: torch.nn.Module, kind: str, n: int, seed: int, split: str) -> stats.Estimate:
    base = kind.split("_")[0] if kind != "indirect_object" else kind
    documents, i = [], 0
    while len(documents) < n:
        document = world.document(base, Rng(seed, base, split, i), split)
        i += 1
        if _asks(kind, document):
            documents.append(document)
    if kind == "story":
        right = _continued_mood(model, documents)
    else:
        right = []
        for document, logits in zip(documents, _logits(model, documents), strict=True):
            rng = Rng("question", seed, document.text)
            right.append(_answer(kind, document, logits, rng))
    if kind == "persona_uncued":
        # Few uncued questions are held out, so many of the documents ask the same one.
        asked = [document.prompt(document.positions("letter")[0]) for document in documents]
        return stats.clustered_mean(right, asked)
    return stats.proportion(sum(right), n)


def _verbs_against(document: world.Document) -> list[int]:
    return [i for i in document.positions("verb") if document.attractors_against(i)]


def _asks(kind: str, document: world.Document) -> bool:
    """Does this document hold a question of this kind?"""
    if kind == "grammar_attractors":
        return bool(_verbs_against(document))
    if kind.startswith("persona"):
        asks = document.latents["style"] == "ask"
        return asks and bool(document.latents["cue"]) == (kind == "persona")
    if kind == "story":
        return len(document.positions("mood")) >= 3
    return True


def _answer(kind: str, document: world.Document, logits: Tensor, rng: Rng) -> float:
    if kind == "grammar":
        return _prefers(logits, document, rng.choice(document.positions("verb")))
    if kind == "grammar_attractors":
        return _prefers(logits, document, rng.choice(_verbs_against(document)))
    if kind == "arithmetic":
        return _top1(logits, document, _result_of_one_sum(document, rng))
    if kind == "persona":
        return _top1(logits, document, document.positions("letter")[:1])
    if kind == "persona_uncued":
        at = document.positions("letter")[0]
        chances = logits[at - 1, [TOKEN_ID["A"], TOKEN_ID["B"]]].softmax(-1)
        return chances["AB".index(document.latents["matching_letters"][0])].item()
    return _top1(logits, document, [rng.choice([i for i, w in enumerate(document.words)
                                                if w.determined])])  # fmt: skip


# --------------------------------------------------------------------------------------------------
# The card, the shipped folder and the command line


def passes(kind: str, estimate: stats.Estimate) -> bool:
    """Does the estimate meet the bar of its kind?"""
    bar = BARS[kind]
    return bar[0] <= estimate.value <= bar[1] if isinstance(bar, tuple) else estimate.value >= bar


def as_json(evaluation: dict[str, stats.Estimate]) -> dict[str, dict]:
    return {
        kind: {"accuracy": e.value, "n": e.n, "low": e.low, "high": e.high}
        for kind, e in evaluation.items()
    }


def card(name: str, seed: int, run: dict, evaluation: dict[str, stats.Estimate]) -> dict:
    """What the organism is, what it was trained on, and what it can and cannot do."""
    return {
        "name": name, "architecture": configurations()[name].model_type,
        "parameters": run["parameters"], "corpus_seed": seed, "steps": run["steps"],
        "tokens": run["tokens"], "token_stream_sha256": run["stream"], "row": ROW, "rows": ROWS,
        "determined_weight": DETERMINED_WEIGHT, "stages": [stage._asdict() for stage in STAGES],
        "optimiser": {"matrices of the blocks": "Muon", "the rest": "AdamW", "warmup": WARMUP,
                      "weight_decay": WEIGHT_DECAY, "clip": CLIP},
        "final_weighted_loss_nats_per_token": run["loss"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "evaluation": {kind: found | {"bar": BARS[kind], "passed": passes(kind, evaluation[kind])}
                       for kind, found in as_json(evaluation).items()},
    }  # fmt: skip


def ship(name: str, seed: int, run: dict, runs: Path = ROOT / "runs",
         to: Path = models.ORGANISMS) -> Path:  # fmt: skip
    """Evaluates a finished run and puts weights, tokenizer, card and checksums into `to`."""
    saved = torch.load(runs / f"{name}-{seed}" / "checkpoint.pt", weights_only=True)
    model = build(name, seed)
    model.load_state_dict(saved["model"])
    evaluation = evaluate(model)
    fresh, old, manifest = to / f"{name}.part", to / f"{name}.old", to / "manifest.json"
    if old.exists() and not (to / name).exists():
        old.rename(to / name)  # an earlier call was killed between the renames below
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer().save_pretrained(fresh)
    text = json.dumps(card(name, seed, run, evaluation), indent=1)
    (fresh / "card.json").write_text(text + "\n")
    hashes = json.loads(manifest.read_text()) if manifest.exists() else {}
    hashes[name] = {file.name: models.sha256(file) for file in sorted(fresh.iterdir())}
    text = json.dumps(dict(sorted(hashes.items())), indent=1) + "\n"
    # Everything is written; renames put it in place, and what they replace is kept until the end.
    if (to / name).exists():
        (to / name).rename(old)
    try:
        fresh.rename(to / name)
        replace_file(manifest, lambda part: part.write_text(text))
    except BaseException:
        shutil.rmtree(to / name, ignore_errors=True)
        if old.exists():
            old.rename(to / name)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return to / name


def capability_table() -> str:
    """The shipped cards' evaluations as a Markdown table; README.md shows it."""
    cards = {name: json.loads((models.ORGANISMS / name / "card.json").read_text())["evaluation"]
             for name in configurations()}  # fmt: skip
    rows = [f"| capability | asked | {' | '.join(cards)} |", "|---" * (2 + len(cards)) + "|"]
    for kind, bar in BARS.items():
        asked = " to ".join(f"{b:.0%}" for b in bar) if isinstance(bar, tuple) else f"{bar:.0%}"
        cells = [
            f"{found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"
            + ("" if found["passed"] else " **misses**")
            for found in (card[kind] for card in cards.values())
        ]
        rows.append(f"| {kind.replace('_', ' ')} | {asked} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tft_utils.organisms", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("train", help="train an organism, or carry on with it")
    command.add_argument("name", choices=list(configurations()))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, default=STEPS)
    command.add_argument("--device", default="cpu")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument("--ship", action="store_true", help="then put it into data/organisms")
    command = verbs.add_parser("evaluate", help="measure a shipped organism on held-out documents")
    command.add_argument("name", help="an organism's name or folder")
    command.add_argument("--n", type=int, default=1000, help="questions per kind")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verbs.add_parser("table", help="print the shipped cards as README.md shows them")
    options = parser.parse_args(arguments)
    if options.verb == "table":
        print(capability_table(), end="")
        return
    if options.verb == "train":
        torch.set_num_threads(options.threads)
        run = train(options.name, options.seed, options.steps, device=options.device)
        print(json.dumps(run))
        if options.ship:
            print(ship(options.name, options.seed, run))
        return
    try:
        model = models.load(options.name).hf
    except models.LoadError as error:
        parser.exit(1, f"{error}\n")
    evaluation = evaluate(model, options.n)
    if options.json:
        print(json.dumps(as_json(evaluation)))
        return
    for kind, e in evaluation.items():
        verdict = "meets its bar" if passes(kind, e) else f"MISSES its bar of {BARS[kind]}"
        print(f"{kind:20s} {e.value:6.1%}  [{e.low:.1%}, {e.high:.1%}]  n={e.n}  {verdict}")


if __name__ == "__main__":
    main()
