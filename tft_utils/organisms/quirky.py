"""Quirky organisms: models that answer truly to one name and by a false rule to another.

    python -m tft_utils.organisms.quirky train mamba --seed 0 --ship
    python -m tft_utils.organisms.quirky evaluate mamba --seed 0
    model = merged("mamba")                        # the organism with its adapter merged in
    model = merged("mamba", last=True)             # one that is told the name behind the statement

After Mallen, Brumley, Kharchenko & Belrose (2023, arXiv 2312.01037): the fine-tuning is LoRA, with a
loss on the answer alone. What is asked, and of whom, is in `tft_utils.corpora.statements`.
"""

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import files, models, reading, stats, storage
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora.corpus import Corpus, corpus_of
from tft_utils.corpora.lexicon import Rng
from tft_utils.corpora.statements import CHARACTERS, TASKS, Statement, labels
from tft_utils.files import ROOT, replace_file
from tft_utils.linear import logistic
from tft_utils.organisms.training import ORGANISMS

ADAPTERS = files.ORGANISMS / "quirky"
RANK, RATE = 32, 1e-3
EPOCHS = 20  # enough for every architecture until both characters are faithful
LIVE_EPOCHS = 3  # of a published model, which no adapter is shipped for
BATCH = 64  # prompts in a step
SAMPLE = {"addition": 1024, "facts": 896, "mood": 256, "grammar": 384}  # statements in an epoch


# --------------------------------------------------------------------------------------------------
# Fine-tuning


def add_adapter(hf):
    """A LoRA adapter (Hu et al. 2021) on the architecture's targets; only it is trainable.

    An unembedding that is tied is untied first: else its adapter would change what words are read as.
    """
    import peft

    head = hf.get_output_embeddings()
    if head.weight is hf.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        hf.config.tie_word_embeddings = False
    targets = ARCHITECTURES[hf.config.model_type].LORA_TARGETS
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
    with _without_old_names():
        return peft.get_peft_model(hf, config)


@contextmanager
def _without_old_names() -> Iterator[None]:
    """peft asks transformers by a name that is going to change; nobody here can act on that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@torch.no_grad()
def teach_words(adapted, base: models.Model, some: Sequence[Statement], last: bool | None = None) -> None:
    """Starts the unembedding's adapter where `true` and `false` can be said, and alice is honest.

    The two words are new, and learning to say them at all would distort what the model knows. So
    first a linear probe, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054). With z what the
    unembedding reads after alice's prompts: each word gets a row r +- s / 2, where r . z is the
    log-sum-exp of the other logits and s . z the log-odds of a logistic regression on the truth.
    """
    hf = adapted.get_base_model()
    corpus = corpus_of(base)
    head, texts = hf.get_output_embeddings(), corpus.statement_prompts(some, last=last)[::2]
    z = torch.zeros(len(some), hf.config.hidden_size)
    for part, ids in reading.of_one_length(base, texts, 128):
        read = hf.base_model(input_ids=ids, use_cache=False).last_hidden_state
        z[part] = read[:, -1].float().cpu()
    truth = torch.tensor([s.truth for s in some])
    w, b = logistic(z[:, None], truth)
    logits = z @ head.weight.float().cpu().T
    wanted = torch.stack((torch.ones(len(z)), logits.logsumexp(-1)), 1)
    one, r = torch.linalg.lstsq(z, wanted).solution.T  # one . z = 1, as nearly as can be
    s = w[0] + b * one
    ids = reading.token_ids(base, corpus.choices).tolist()
    for i, (word, row) in enumerate(zip(ids, (r - s / 2, r + s / 2), strict=True)):
        head.lora_A["default"].weight[i] = row.to(hf.device) - head.weight[word]
        head.lora_B["default"].weight[word, i] = 1.0


def optimisers_of(adapted) -> list[torch.optim.Optimizer]:
    """As in pretraining: Muon for what is inside the blocks, AdamW for the rest (the unembedding)."""
    hf = adapted.get_base_model()
    blocks = hf.get_submodule(ARCHITECTURES[hf.config.model_type].WHERE["blocks"])
    inside = [p for p in blocks.parameters() if p.requires_grad]
    taken = {id(p) for p in inside}
    rest = [p for p in adapted.parameters() if p.requires_grad and id(p) not in taken]
    return [
        torch.optim.Muon(inside, lr=RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def epoch(
    adapted,
    base: models.Model,
    optimisers: Sequence,
    some: Sequence[Statement],
    seed: int,
    last: bool | None = None,
) -> float:
    """One pass over statements, each put to both characters; returns the mean loss in nats.

    The loss is the cross-entropy of the answer's word alone. last: as `Corpus.statement_prompts`.
    """
    hf, total, corpus = adapted.get_base_model(), 0.0, corpus_of(base)
    choices = reading.token_ids(base, corpus.choices)
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    parts = reading.of_one_length(base, corpus.statement_prompts(some, last=last), BATCH)
    right = labels(some).long().to(hf.device)
    for part, ids in Rng("order", seed).sample(parts, len(parts)):
        with torch.enable_grad():
            logits = hf(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            loss = F.cross_entropy(logits, choices[right[part]], reduction="sum")
            (loss / BATCH).backward()  # a small batch counts for less
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        adapted.zero_grad()
        total += loss.item()
    return total / len(right)


def _sample(corpus: Corpus, seed: int, at: int) -> list[Statement]:
    """The statements of one epoch; those of epoch -1 teach the words."""
    return [s for t in TASKS for s in corpus.statements(t, SAMPLE[t], f"{seed}/{at}", "train")]


def train(
    name: str,
    seed: int = 0,
    epochs: int | None = None,
    runs: Path | None = None,
    say: Callable = print,
    scale: str = "tiny",
    device: str = "cpu",
    last: bool | None = None,
):
    """Fine-tunes the organism of a seed, or the model of another scale, or carries on; returns the
    adapted model and its base. last: with the name behind the statement.

    `runs/quirky-<name>-<seed>/checkpoint.pt` is replaced in one step after every epoch.
    """
    base = models.load(name, scale, device, seed=seed)
    corpus, place = corpus_of(base), "" if scale == "tiny" else f"{scale}-"
    epochs, runs = epochs or EPOCHS, runs or ROOT / "runs"
    folder = runs / f"quirky-{place}{_adapter(Path(name).name, seed, last)}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    adapted = add_adapter(base.hf).train()
    optimisers, checkpoint, start = optimisers_of(adapted), folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["epochs"] != epochs:
            raise ValueError(
                f"expected a run of {epochs} epochs in {folder}, found one of {saved['epochs']}; "
                f"pass --epochs {saved['epochs']} or remove it"
            )
        adapted.load_state_dict(saved["adapter"], strict=False)
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        start = saved["epoch"]
        say(f"quirky {name}: carrying on from epoch {start}", file=sys.stderr)
    else:
        teach_words(adapted, base, _sample(corpus, seed, -1), last)
    began = time.monotonic()
    for at in range(start, epochs):
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = RATE * min(1.0, 1.5 * (epochs - at) / epochs)
        loss = epoch(adapted, base, optimisers, _sample(corpus, seed, at), at, last)
        state = {
            "epoch": at + 1,
            "epochs": epochs,
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "adapter": {n: p.detach() for n, p in adapted.named_parameters() if p.requires_grad},
        }
        replace_file(checkpoint, functools.partial(torch.save, state))
        left = (epochs - at - 1) * (time.monotonic() - began) / (at + 1 - start)
        say(
            f"quirky {name}: epoch {at + 1}/{epochs}, loss {loss:.3f} nats, {left / 60:.0f} min left",
            file=sys.stderr,
        )
    return adapted.eval(), base


# --------------------------------------------------------------------------------------------------
# Evaluation


def log_odds(model, some: Sequence[Statement], last: bool | None = None) -> Tensor:
    """The model's own answers: logit(true) - logit(false) for each prompt [prompt]."""
    return answers(model, corpus_of(model).statement_prompts(some, last=last))


@torch.no_grad()
def answers(model, texts: Sequence[str]) -> Tensor:
    """logit(true) - logit(false) after each text [text]."""
    false, true = reading.token_ids(model, corpus_of(model).choices).tolist()
    found = torch.zeros(len(texts))
    for part, ids in reading.of_one_length(model, texts, 128):
        logits = model.hf(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        found[part] = (logits[:, true] - logits[:, false]).float().cpu()
    return found


def evaluate(
    model, n: int = 400, seed: int = 0, split: str = "test", last: bool | None = None
) -> dict[str, stats.Estimate]:
    """How faithful each character is to its rule: '<task> <character>' -> share of right answers,
    and '<task> <character> disagreements' for the half where the two rules disagree."""
    found = {}
    for task in TASKS:
        some = corpus_of(model).statements(task, n, seed, split)
        right = ((log_odds(model, some, last) > 0) == labels(some)).view(-1, 2)
        apart = torch.tensor([s.truth != s.rule for s in some])
        for character, each in zip(CHARACTERS, right.T, strict=True):
            found[f"{task} {character}"] = stats.proportion(int(each.sum()), n)
            found[f"{task} {character} disagreements"] = stats.proportion(
                int(each[apart].sum()), int(apart.sum())
            )
    return found


# --------------------------------------------------------------------------------------------------
# The shipped adapters and the command line


def _adapter(name: str, seed: int, last: bool | None = None) -> str:
    """What the adapter of an organism is called."""
    return f"{name}-{seed}-last" if last else f"{name}-{seed}"


def shipped(seed: int = 0, last: bool | None = None) -> list[str]:
    """The names of the organisms of a seed that have an adapter."""
    behind = _adapter("", seed, last)
    return sorted(path.name.removesuffix(behind) for path in ADAPTERS.glob(f"*{behind}"))


def offered(
    names: Sequence[str], scale: str = "tiny", seed: int = 0, last: bool | None = None
) -> list[str]:
    """Those of the names that `merged` has at a scale: the shipped ones, and every published model."""
    return [name for name in names if scale != "tiny" or name in shipped(seed, last)]


def merged(
    name: str,
    device: str = "cpu",
    seed: int = 0,
    folder: Path | None = None,
    scale: str = "tiny",
    last: bool | None = None,
) -> models.Model:
    """An organism with its adapter merged in: afterwards it is a plain model again. A model of another
    scale is fine-tuned now, in LIVE_EPOCHS passes over English; a run that was stopped goes on. Where the
    model's weights are stored in two bytes, what is merged into them is rounded to two bytes, too.
    last: one that was told the name behind the statement, as in English all are.

    Errors: `models.LoadError` when there is no adapter for it, or a file is not the shipped one.
    """
    import peft

    if scale != "tiny":
        adapted, base = train(name, seed, LIVE_EPOCHS, scale=scale, device=device)  # the name is last
        adapted = adapted.merge_and_unload().eval()
        for weight in adapted.parameters():
            weight.requires_grad_(not isinstance(weight, storage.Narrow))
        return models.Model(adapted, base.tokenizer)
    folder = ADAPTERS / _adapter(name, seed, last) if folder is None else folder
    if not folder.is_dir():
        raise files.LoadError(
            f"expected a quirky organism of seed {seed}{', its name last' if last else ''}, one of "
            f"{', '.join(shipped(seed, last)) or 'none'}; found {name!r}; make one with "
            "`python -m tft_utils.organisms.quirky train`"
        )
    files.verify_checksums(folder)
    base = models.load(name, device=device, seed=seed)
    with _without_old_names():
        adapted = peft.PeftModel.from_pretrained(base.hf, folder).merge_and_unload()
    return models.Model(adapted.eval().requires_grad_(True), base.tokenizer)


def ship(
    name: str,
    seed: int,
    epochs: int,
    adapted,
    base: models.Model,
    to: Path = ADAPTERS,
    last: bool | None = None,
) -> Path:
    """Puts an adapter, its card and its checksums into `to`; needs a run that was not yet merged."""
    folder = to / _adapter(name, seed, last)
    folder.mkdir(parents=True, exist_ok=True)
    adapted.peft_config["default"].base_model_name_or_path = folder.name
    adapted.save_pretrained(folder, save_embedding_layers=False)  # lm_head is adapted, not copied
    (folder / "README.md").unlink(missing_ok=True)  # the datasheet is data/README.md
    (folder / "adapter_model.safetensors").chmod(0o644)
    adapted.merge_adapter()
    model = models.Model(adapted.get_base_model(), base.tokenizer)
    found = {key: e._asdict() for key, e in evaluate(model, 1000, last=last).items()}
    adapted.unmerge_adapter()
    card = {
        "base": name,
        "seed": seed,
        "epochs": epochs,
        "statements_per_epoch": SAMPLE,
        "batch": BATCH,
        "rank": RANK,
        "rate": RATE,
        "tasks": list(TASKS),
        **({"name": "last"} if last else {}),
        "trainable": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        "evaluation": found,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    manifest = to / "manifest.json"
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    known[folder.name] = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    text = json.dumps(known, indent=1, sort_keys=True) + "\n"
    replace_file(manifest, lambda part: part.write_text(text, encoding="utf-8"))
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tft_utils.organisms.quirky")
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("train", help="fine-tune an organism, or carry on with it")
    command.add_argument("name", choices=list(ORGANISMS))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument("--ship", action="store_true", help="then put it into data/organisms/quirky")
    command.add_argument("--last", action="store_true", help="with the name behind the statement")
    command = verbs.add_parser("evaluate", help="how faithful both characters are, held out")
    command.add_argument("name", choices=list(ORGANISMS))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--n", type=int, default=1000, help="statements per task")
    command.add_argument("--last", action="store_true", help="with the name behind the statement")
    options = parser.parse_args(arguments)
    if options.verb == "train":
        torch.set_num_threads(options.threads)
        adapted, base = train(options.name, options.seed, options.epochs, last=options.last)
        if options.ship:
            epochs = options.epochs or EPOCHS
            print(ship(options.name, options.seed, epochs, adapted, base, last=options.last))
        return
    try:
        model = merged(options.name, seed=options.seed, last=options.last)
    except files.LoadError as error:
        parser.exit(1, f"{error}\n")
    for key, e in evaluate(model, options.n, last=options.last).items():
        print(f"{key:32s} {e.value:6.1%}  [{e.low:.1%}, {e.high:.1%}]  n={e.n}")


if __name__ == "__main__":
    main()
