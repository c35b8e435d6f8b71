"""The organisms: models of several architectures, trained on the same words.

    python -m tft_utils.organisms train mamba --seed 0
    python -m tft_utils.organisms evaluate mamba --json

All see the same token stream (`batch` depends on seed and step alone; its hash is in every card),
under the same loss, optimiser and schedule. Words that the words before them determine count
`DETERMINED_WEIGHT` times as much as free ones: without it the loss is mostly noise that no model
can predict, and agreement and recall are learned late or never.

Nothing in a loss behind a final norm holds a block's write to the size of the stream that it meets.
Without a penalty (`Writes`) some blocks of a Mamba come to write vectors 10 to 50 times as long as all
that stood there before. `UNPENALISED` is trained without, to show what follows from it.

Training resumes after an interruption: `runs/<name>-<seed>/checkpoint.pt` is replaced in one step.
"""

import argparse
import functools
import hashlib
import json
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
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from tft_utils import files, models, stats
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora import world
from tft_utils.corpora.lexicon import END, PAD, VOCABULARY, Rng
from tft_utils.files import ROOT, replace_file
from tft_utils.organisms.evaluation import BARS, TOKEN_ID, as_json, evaluate, passes, tokenizer

ROW, ROWS = 128, 8  # tokens per row, rows per batch
STEPS, WARMUP, COOLDOWN = 9000, 200, 3600  # the rate rises, stays, and falls over the last steps
PEAK_RATE, WEIGHT_DECAY, CLIP = 2e-3, 0.1, 1.0
DETERMINED_WEIGHT = 10.0
LONGEST_WRITE = 3.0  # the bar: a block's mean write, in units of the stream that it meets
WRITE_PENALTY = 1e-2  # of the mean squared length of a block's write, in units of the stream it meets
UNPENALISED = "mamba-unpenalised"  # the one organism that is trained without it
MIXTURE = {  # share of each kind among the documents
    "facts": 0.28,
    "grammar": 0.10,
    "recall": 0.10,
    "indirect_object": 0.08,
    "story": 0.10,
    "persona": 0.22,
    "arithmetic": 0.12,
}
RECALL_FIRST = 0.75  # recall's share at the very start: names and letters build on copying
PERSONA_LATER = 0.6  # persona's share from step 6200 to 7000: letters are learned last


_TRANSFORMER = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 256,
    "initializer_range": 0.06,
    "rotary_pct": 0.5,  # 16 rotary dimensions a head, as many as Pythia-160m has
}
_MAMBA = {"model_type": "mamba", "num_hidden_layers": 10, "state_size": 16}
# name -> what differs from `COMMON`; all have 1.25 to 1.5 million parameters
ORGANISMS: dict[str, dict] = {
    "transformer": _TRANSFORMER,
    "mamba": _MAMBA,
    "mamba2": {
        "model_type": "mamba2",
        "num_hidden_layers": 10,
        "state_size": 32,
        "num_heads": 8,
        "head_dim": 32,
        "n_groups": 1,
        "chunk_size": 64,
    },
    "xlstm": {"model_type": "xlstm", "num_hidden_layers": 6, "num_heads": 4},
    "rwkv": {
        "model_type": "rwkv",
        "num_hidden_layers": 6,
        "intermediate_size": 512,
        "rescale_every": 0,  # or evaluation would change the weights
    },
    "griffin": {
        "model_type": "recurrent_gemma",
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 768,
    },
    "gated_deltanet": {
        "model_type": "qwen3_next",
        "num_hidden_layers": 6,
        "layer_types": 2 * ["linear_attention", "linear_attention", "full_attention"],
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "num_experts": 0,
    },
    "lstm": {"model_type": "lstm", "num_hidden_layers": 8},
    # One factor each. As deep as mamba, and no larger than the transformer:
    "transformer-deep": _TRANSFORMER | {"num_hidden_layers": 10, "intermediate_size": 208},
    # Lesson 04's question: the same Mamba whose unembedding is its embedding.
    "mamba-tied": _MAMBA | {"tie_word_embeddings": True},
    # A convolution of one word only scales and shifts each channel.
    "mamba-unconvolved": _MAMBA | {"conv_kernel": 1},
    "mamba-unselective": _MAMBA,  # see `_unselect`, among the `CHANGES`
    UNPENALISED: _MAMBA,
    "mamba-state4": _MAMBA | {"state_size": 4},
    "mamba-state64": _MAMBA | {"state_size": 64},  # 1.73 million parameters: the state brings its own
}
COMMON = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 128,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": TOKEN_ID[END],
    "pad_token_id": TOKEN_ID[PAD],
}


def configuration(name: str) -> PreTrainedConfig:
    """The configuration of an organism.

    Errors: `ValueError` for a name that is none.
    """
    if name not in ORGANISMS:
        raise ValueError(f"expected an organism, one of {', '.join(ORGANISMS)}; found {name!r}")
    settings = COMMON | ORGANISMS[name]
    ARCHITECTURES[settings["model_type"]]  # imported: it may be one that transformers lacks
    return AutoConfig.for_model(**settings)


# --------------------------------------------------------------------------------------------------
# The token stream


def batch(seed: int, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The training batch of one step: token ids and loss weights, both [row pos].

    Documents are whole, each ends with `END`, and a row starts with one. A document that does not
    fit is tried in the next row (first fit); what stays empty is padding of weight 0.
    """
    rng, at = Rng("stream", seed, step), step * STEPS / steps
    shares = _shares(at)
    ids = np.full((ROWS, ROW), TOKEN_ID[PAD], dtype=np.int64)
    weights = np.zeros((ROWS, ROW), dtype=np.float32)
    filled, misses = [0] * ROWS, 0
    while misses < 6:
        kind = _kind(rng, shares)
        document = world.document(kind, rng, "train", _progress(kind, at))
        length = len(document.words) + 1
        row = next((r for r in range(ROWS) if filled[r] + length <= ROW), None)
        if row is None:
            misses += 1
            continue
        place = slice(filled[row], filled[row] + length)
        ids[row, place] = [TOKEN_ID[word.text] for word in document.words] + [TOKEN_ID[END]]
        weight = [DETERMINED_WEIGHT if word.determined else 1.0 for word in document.words]
        weights[row, place] = [*weight, 1.0]
        filled[row] += length
    return ids, weights


def _shares(at: float) -> dict[str, float]:
    """Each kind's share among the documents at this step of a full run."""
    first = max(0.0, min(1.0, (2450 - at) / 1050))  # 1 until step 1400, 0 from 2450
    kind, share = ("persona", PERSONA_LATER) if 6200 <= at < 7000 else ("recall", MIXTURE["recall"])
    if first:
        share += first * (RECALL_FIRST - share)
    rest = (1 - share) / (1 - MIXTURE[kind])
    return MIXTURE | {k: rest * v for k, v in MIXTURE.items()} | {kind: share}


def _progress(kind: str, at: float) -> float:
    """How far a kind's documents have grown into those of the datasheet at this step of a full run.

    Recall grows at first. Personas are one-sided later, for a while: which option an answer letter
    names is learned from them, and then that the cue decides. Balanced from the start, the two are
    worth nothing without each other, and Mamba stays at chance.
    """
    if kind == "recall":
        return min(1.0, max(0.0, (at - 700) / 2100))
    if kind == "persona" and 6200 <= at < 6800:
        return 0.4 if at < 6400 else 0.7  # 80 %, then 65 % of the personas match
    return 1.0


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

    On this corpus Muon learns to copy in about half of AdamW's steps. Matrices are the weights of linear
    modules: others have that shape only, and embeddings are tables of rows. Both go to AdamW.
    """
    blocks = model.get_submodule(ARCHITECTURES[model.config.model_type].WHERE["blocks"])
    matrices = [module.weight for module in blocks.modules() if isinstance(module, torch.nn.Linear)]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(
            matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, constant, then a linear fall to a twentieth (Hu et al. 2024)."""
    at = step * STEPS / steps
    return PEAK_RATE * min(1.0, (at + 1) / WARMUP, 0.05 + 0.95 * (STEPS - at) / COOLDOWN)


class Writes:
    """Measures, at every forward pass, how long each block's write is for the stream that it meets."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._lengths: list[Tensor] = []  # of stream and write, squared: a block's [2 row pos]
        self._stream: Tensor | None = None  # what the first block adds to, where it is not what it reads
        where = ARCHITECTURES[model.config.model_type].WHERE
        self._hooks = [
            block.register_forward_hook(self._note, with_kwargs=True)
            for block in model.get_submodule(where["blocks"])
        ]
        if "stream" in where:
            begins = model.get_submodule(where["stream"])
            self._hooks.append(begins.register_forward_hook(self._begin))

    def _begin(self, module, args, output) -> None:
        self._stream = output

    def _note(self, block, args, kwargs, output) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        before, self._stream = before if self._stream is None else self._stream, None
        after = output[0] if isinstance(output, tuple) else output
        self._lengths.append(torch.stack([before, after - before]).square().sum(-1))

    def remove(self) -> None:
        """Measures no more."""
        for hook in self._hooks:
            hook.remove()

    def take(self) -> Tensor:
        """Squared lengths since the last call, of stream and write [block 2 row pos]."""
        lengths, self._lengths = torch.stack(self._lengths), []
        return lengths

    def penalty(self, counted: Tensor) -> Tensor:
        """The mean over blocks and counted words [row pos] of |write|^2 / |stream|^2."""
        stream, write = self.take()[:, :, counted].unbind(1)  # a stream may be 0 at padding
        return (write / stream).mean()


class HeldOut(NamedTuple):
    """What a model does on held-out documents, each read by itself."""

    loss: float  # nats per word behind the first
    writes: dict[str, list[float]]  # kind -> of each block, mean length of write / of the stream it meets


@torch.no_grad()
def on_held_out(model: torch.nn.Module, n: int = 60) -> HeldOut:
    """Loss and write lengths on n documents of each kind."""
    writes, ratios, losses = Writes(model), {}, []
    for kind in world.KINDS:
        lengths = 0.0
        for document in world.documents(kind, n, split="test"):
            ids = torch.tensor([[TOKEN_ID[word.text] for word in document.words]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits
            losses.append(F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none"))
            lengths = lengths + writes.take().sqrt().sum((2, 3))  # [block 2]
        stream, write = lengths.T
        ratios[kind] = [round(ratio, 3) for ratio in (write / stream).tolist()]
    writes.remove()
    return HeldOut(round(torch.cat(losses).mean().item(), 4), ratios)


def build(name: str, seed: int) -> torch.nn.Module:
    """An untrained organism with its scan installed."""
    config = configuration(name)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    if name in CHANGES:
        CHANGES[name](model)
    models.prepare(model)
    return model


@torch.no_grad()
def _unselect(model: torch.nn.Module) -> None:
    """A Mamba whose step sizes, B and C are learned but the same at every word, in transformers' class.

    All three are read from channel 0 alone, whose convolution reads nothing: it holds its bias, 1. The
    weights that this fixes get no gradient, and so stay.
    """
    for block in model.backbone.layers:
        m = block.mixer
        m.conv1d.bias[0] = 1.0
        channels = torch.arange(m.intermediate_size)
        learned = {
            m.conv1d.weight: (channels > 0)[:, None, None],
            m.conv1d.bias: channels > 0,
            m.x_proj.weight: channels == 0,
        }
        m.conv1d.weight[0] = 0.0
        m.x_proj.weight[:, 1:] = 0.0
        for parameter, mask in learned.items():
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient))


@torch.no_grad()
def _start_as_published(model: torch.nn.Module) -> None:
    """RWKV's authors start these matrices at 0. transformers does not: its first writes are 8 times as
    long as the stream."""
    for block in model.rwkv.blocks:
        mix, mlp = block.attention, block.feed_forward
        for linear in (mix.key, mix.receptance, mix.output, mlp.value, mlp.receptance):
            linear.weight.zero_()


CHANGES: dict[str, Callable] = {"mamba-unselective": _unselect, "rwkv": _start_as_published}


def train(
    name: str,
    seed: int = 0,
    steps: int = STEPS,
    runs: Path = ROOT / "runs",
    device: str = "cpu",
    save_every: int = 200,
    say: Callable = print,
) -> dict:
    """Trains one organism, or carries on with it; returns the run's summary and leaves
    the weights in `runs/<name>-<seed>/checkpoint.pt`."""
    folder = Path(runs) / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model = build(name, seed).to(device).train()
    optimisers, writes = _optimisers(model), Writes(model)
    penalty = 0.0 if name == UNPENALISED else WRITE_PENALTY
    state = {
        "write_penalty": penalty,
        "step": 0,
        "steps": steps,
        "tokens": 0,
        "stream": "",
        "loss": None,
        "seconds": 0.0,
    }
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
        state |= saved["state"]
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
        (loss + penalty * writes.penalty(weights > 0)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(plain.item())
        state |= {"step": step + 1, "loss": loss.item(), "seconds": time.monotonic() - start}
        if (step + 1) % save_every == 0 or step + 1 == steps:
            saved = {
                "model": model.state_dict(),
                "state": state,
                "optimisers": [each.state_dict() for each in optimisers],
            }
            replace_file(checkpoint, functools.partial(torch.save, saved))
            line = {**state, "plain_loss": sum(losses) / len(losses)}
            with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            left = (steps - step - 1) * state["seconds"] / (step + 1)
            say(
                f"{name}: step {step + 1}/{steps}, loss {line['plain_loss']:.3f} nats/token, "
                f"{state['tokens'] / state['seconds']:.0f} tokens/s, {left / 60:.0f} min left",
                file=sys.stderr,
            )
            losses = []
    return state | {"parameters": sum(p.numel() for p in model.parameters())}


# --------------------------------------------------------------------------------------------------
# The card, the shipped folder and the command line


def card(
    name: str, seed: int, run: dict, evaluation: dict[str, stats.Estimate], held_out: HeldOut
) -> dict:
    """What the organism is, what it was trained on, and what it can and cannot do; run: as of `train`."""
    longest = max(ratio for ratios in held_out.writes.values() for ratio in ratios)
    return {
        "name": name,
        "architecture": ORGANISMS[name]["model_type"],
        "parameters": run["parameters"],
        "corpus_seed": seed,
        "steps": run["steps"],
        "tokens": run["tokens"],
        "token_stream_sha256": run["stream"],
        "row": ROW,
        "rows": ROWS,
        "determined_weight": DETERMINED_WEIGHT,
        "write_penalty": run["write_penalty"],
        "mixture": MIXTURE,
        "recall_first": RECALL_FIRST,
        "persona_later": PERSONA_LATER,
        "optimiser": {
            "matrices of the blocks": "Muon",
            "the rest": "AdamW",
            "rate": PEAK_RATE,
            "warmup": WARMUP,
            "cooldown": COOLDOWN,
            "weight_decay": WEIGHT_DECAY,
            "clip": CLIP,
        },
        "final_weighted_loss_nats_per_token": run["loss"],  # of the last batch, which the seed draws
        "held_out_loss_nats_per_word": held_out.loss,
        "hours": round(run["seconds"] / 3600, 2),
        "stored": "float16",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "evaluation": {
            kind: found | {"bar": BARS[kind], "passed": passes(kind, evaluation[kind])}
            for kind, found in as_json(evaluation).items()
        },
        "write_over_stream": {
            "longest": longest,
            "bar": LONGEST_WRITE,
            "passed": longest <= LONGEST_WRITE,
            "by kind and block": held_out.writes,
        },
    }


def ship(name: str, seed: int, run: dict, runs: Path = ROOT / "runs", to: Path = files.ORGANISMS) -> Path:
    """Evaluates a finished run and puts weights, tokenizer, card and checksums into `to`.

    Weights are stored as float16, and what is stored is what is evaluated, in float32.
    """
    saved = torch.load(Path(runs) / f"{name}-{seed}" / "checkpoint.pt", weights_only=True)
    model = build(name, seed)
    model.load_state_dict(saved["model"])
    model = model.half().float().eval()
    text = json.dumps(card(name, seed, run, evaluate(model), on_held_out(model)), indent=1)
    name = f"{name}-{seed}"
    fresh, old, manifest = to / f"{name}.part", to / f"{name}.old", to / "manifest.json"
    if old.exists() and not (to / name).exists():
        old.rename(to / name)  # an earlier call was killed between the renames below
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.half().save_pretrained(fresh)
    tokenizer().save_pretrained(fresh)
    (fresh / "card.json").write_text(text + "\n", encoding="utf-8")
    hashes = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    hashes[name] = {file.name: files.sha256(file) for file in sorted(fresh.iterdir())}
    text = json.dumps(dict(sorted(hashes.items())), indent=1) + "\n"
    # Everything is written; renames put it in place, and what they replace is kept until the end.
    if (to / name).exists():
        (to / name).rename(old)
    try:
        fresh.rename(to / name)
        replace_file(manifest, lambda part: part.write_text(text, encoding="utf-8"))
    except BaseException:
        shutil.rmtree(to / name, ignore_errors=True)
        if old.exists():
            old.rename(to / name)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return to / name


def capability_table() -> str:
    """The cards of all shipped organisms as a Markdown table, a row each; README.md shows it."""
    asked = [f"{b[0]:.0%} to {b[1]:.0%}" if isinstance(b, tuple) else f"{b:.0%}" for b in BARS.values()]
    rows = [
        [
            "organism",
            *(kind.replace("_", " ") for kind in BARS),
            "longest write",
            "held-out loss",
            "hours",
        ],
        ["---"] * (4 + len(BARS)),
        ["asked", *asked, f"{LONGEST_WRITE:g}", "", ""],
    ]
    for name in files.read_json(files.ORGANISMS / "manifest.json", files.REPAIR):
        found = files.read_json(files.ORGANISMS / name / "card.json", files.REPAIR)
        results = [(f"{e['accuracy']:.1%}", e["passed"]) for e in found["evaluation"].values()]
        write = found["write_over_stream"]
        results.append((f"{write['longest']:.2f}", write["passed"]))
        cells = [text if passed else f"**{text}**" for text, passed in results]
        rows.append([name, *cells, *(str(found[k]) for k in ("held_out_loss_nats_per_word", "hours"))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tft_utils.organisms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("train", help="train an organism, or carry on with it")
    command.add_argument("name", choices=list(ORGANISMS))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, default=STEPS)
    command.add_argument("--device", default="cpu")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument("--runs", type=Path, default=ROOT / "runs", help="where checkpoints are")
    command.add_argument("--ship", action="store_true", help="then put it into data/organisms")
    command = verbs.add_parser("evaluate", help="measure a shipped organism on held-out documents")
    command.add_argument("name", help="an organism's name or folder")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--n", type=int, default=1000, help="questions per kind")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verbs.add_parser("table", help="print the shipped cards as README.md shows them")
    options = parser.parse_args(arguments)
    if options.verb == "table":
        print(capability_table(), end="")
        return
    if options.verb == "train":
        torch.set_num_threads(options.threads)
        run = train(options.name, options.seed, options.steps, options.runs, options.device)
        print(json.dumps(run))
        if options.ship:
            print(ship(options.name, options.seed, run, options.runs))
        return
    try:
        model = models.load(options.name, seed=options.seed).hf
    except files.LoadError as error:
        parser.exit(1, f"{error}\n")
    evaluation = evaluate(model, options.n)
    if options.json:
        print(json.dumps(as_json(evaluation)))
        return
    for kind, e in evaluation.items():
        verdict = "meets its bar" if passes(kind, e) else f"MISSES its bar of {BARS[kind]}"
        print(f"{kind:20s} {e.value:6.1%}  [{e.low:.1%}, {e.high:.1%}]  n={e.n}  {verdict}")
