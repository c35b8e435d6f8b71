"""Relevance: how much each word of a prompt counts for one prediction.

Layer-wise relevance propagation (LRP) as modified gradient x input. Every module is rewritten so
that its output is linear in what relevance may flow through, plus constants. Then, for an explained
number f, activations x of any layer, biases b, and one backward pass of plain autograd,

    R_i = x_i df/dx_i                                  the relevance of one activation
    f = sum_i R_i + sum_b b df/db (+ leak)             the conservation identity

Which modules, and how, stands in the architecture's file as named rule sets: AttnLRP (Achtibat et
al. 2024, arXiv 2402.05602, whose softmax rule leaks) and CP-LRP (Ali et al. 2022, arXiv 2202.07304)
for softmax attention; MambaLRP (Jafari et al. 2024, arXiv 2406.07592) and two variants for
the selective scan. Under a rule set values stay as they were; only gradients change.

    asked = ask(model, ["The capital of Zabar is"], ["Dovella"])
    explain(model, asked)                            # [batch pos]
    conservation(model, asked)                       # where all of f went
    curves(model, asked, explain(model, asked))      # is the explanation faithful?

The model may be a `models.Model`, or anything with its `hf` and `architecture`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora.questions import Case
from tft_utils.techniques import attention

METHODS = ("lrp", "gradient x input", "integrated gradients", "leave one out", "rollout", "random")
IG_STEPS = 32  # points on the path of integrated gradients
WORDS = 8192  # words in one forward pass of `curves`


@dataclass(frozen=True)
class Asked:
    """Prompts as a model reads them, padded on the left, and what is explained about each: the
    answer's logit after the last word, minus that of the foil where there is one."""

    ids: Tensor  # [batch pos]
    embeddings: Tensor  # [batch pos d_model]
    mask: Tensor  # [batch pos], 0 at padding
    answers: Tensor  # token ids [batch]
    foils: Tensor | None

    def __len__(self) -> int:
        return len(self.ids)


def ask(
    model, prompts: Sequence[str], answers: Sequence[str], foils: Sequence[str] | None = None
) -> Asked:
    """Tokenizes questions. Answers and foils are one token each, one for each prompt."""
    inputs = model.tokenizer(list(prompts), return_tensors="pt", padding=True).to(model.hf.device)
    with torch.no_grad():
        embeddings = model.architecture.embedding(model.hf)(inputs.input_ids)
    answers, foils = (
        None if words is None else _ids(model, words, len(prompts)) for words in (answers, foils)
    )
    return Asked(inputs.input_ids, embeddings, inputs.attention_mask, answers, foils)


def _ids(model, words: Sequence[str], n: int) -> Tensor:
    found = [model.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    if len(found) != n or any(len(tokens) != 1 for tokens in found):
        raise ValueError(
            f"expected {n} words of one token each, one for each prompt, found {len(found)}: "
            f"{list(words)[:3]} as {found[:3]}; most tokenizers need a leading space"
        )
    return torch.tensor(found, device=model.hf.device)[:, 0]


def score(model, asked: Asked, embeddings: Tensor) -> Tensor:
    """The explained number when the model reads other embeddings [k*batch pos d_model], k variants
    of the whole batch one after the other: [k*batch]."""
    k = len(embeddings) // len(asked)
    mask = None if asked.mask.all() else asked.mask.repeat(k, 1)
    logits = model.hf(
        inputs_embeds=embeddings, attention_mask=mask, use_cache=False, logits_to_keep=1
    ).logits[:, -1]
    if not logits.isfinite().all():
        raise ValueError(
            "expected finite logits, found others; if the model runs in float64, ask prompts of "
            "equal length, because there transformers' attention cannot read padding"
        )
    found = logits.gather(1, asked.answers.repeat(k)[:, None])[:, 0]
    if asked.foils is None:
        return found
    return found - logits.gather(1, asked.foils.repeat(k)[:, None])[:, 0]


# ---- the rules and the identity ------------------------------------------------------------------


@contextmanager
def rules(model, name: str | None = None, without: Collection[str] = ()) -> Iterator[None]:
    """Within: the model's gradients follow a rule set (None: the architecture's first).

    without: single rules to leave out. Works also where nnsight's `.source` has rewritten a module,
    but within nnsight does not see the modules that have a rule. Everything is put back at the end.
    """
    parts = model.architecture
    name = next(iter(parts.RULE_SETS)) if name is None else name
    for what, found, known in (
        ("a rule set", {name}, parts.RULE_SETS),
        ("rules to leave out", set(without), parts.RULES),
    ):
        if not found <= set(known):
            raise ValueError(f"expected {what} among {', '.join(known)}; found {sorted(found)}")
    before = []
    try:
        for module, forward in parts.relevance_rules(model.hf, name, without):
            before.append((module, module.__dict__.get("forward")))  # nnsight's, if it wrapped it
            module.forward = partial(forward, module)
        yield
    finally:
        for module, forward in before:
            del module.forward
            if forward is not None:
                module.forward = forward


class Ledger(NamedTuple):
    """Where the explained number of one prompt went: f = words + biases + leak, and a gap."""

    f: float
    words: Tensor  # [pos]
    biases: float
    leak: float

    @property
    def gap(self) -> float:
        """What the identity misses, as a share of |f|: rounding, or a rule that does not conserve."""
        return abs(self.f - float(self.words.sum()) - self.biases - self.leak) / abs(self.f)


@torch.enable_grad()
def conservation(model, asked: Asked, name: str | None = None, without: Collection[str] = ()) -> Ledger:
    """The conservation identity on one prompt, each term computed on its own."""
    if len(asked) != 1:
        raise ValueError(f"expected one prompt, found {len(asked)}; ask one at a time")
    parts = model.architecture
    leak_of = parts.relevance_leak(next(iter(parts.RULE_SETS)) if name is None else name)
    leaky = [parts.mixer(block) for block in parts.blocks(model.hf)] if leak_of else []
    biases = [p for key, p in model.hf.named_parameters() if key.endswith("bias")]
    x = asked.embeddings.clone().requires_grad_()
    with rules(model, name, without), reading.caught(leaky, lambda output: output[1]) as weights:
        f = score(model, asked, x)
    if any(each is None for each in weights):
        raise ValueError(
            "expected mixers that hand out their weights, found none; load the model with "
            "attn_implementation='eager', as `models.load` does"
        )
    of_x, *rest = torch.autograd.grad(f.sum(), [x, *biases, *weights], allow_unused=True)
    kept = [(b * g).sum() for b, g in zip(biases, rest, strict=False) if g is not None]
    leaks = [leak_of(a, g).sum() for a, g in zip(weights, rest[len(biases) :], strict=True)]
    return Ledger(
        f.item(),
        (x * of_x).sum(-1)[0].detach(),
        sum(map(Tensor.item, kept)),
        sum(map(Tensor.item, leaks)),
    )


# ---- methods: each gives every word of every prompt a number -------------------------------------


def explain(model, asked: Asked, method: str = "lrp", seed: int = 0) -> Tensor:
    """Relevance of each word [batch pos], 0 at padding.

    method: one of METHODS, or the name of a rule set. 'lrp' is the architecture's first rule set;
    'leave one out' runs the model once for each word, without it; 'rollout' is that of attention,
    or of the attention that is hidden in a mixer (`attention`).
    """
    f, sets = partial(score, model, asked), model.architecture.RULE_SETS
    if method == "lrp" or method in sets:
        found = flow(model, asked, None if method == "lrp" else method)[0]
    elif method == "gradient x input":
        found = gradient_x_input(f, asked.embeddings)
    elif method == "integrated gradients":
        found = integrated_gradients(f, asked.embeddings, mean_embedding(model))
    elif method == "leave one out":
        found = leave_one_out(model, asked)
    elif method == "rollout":
        found = _rollout(model, asked)
    elif method == "random":
        found = torch.rand(asked.mask.shape, generator=torch.Generator().manual_seed(seed))
    else:
        known = ", ".join((*METHODS, *sets))
        raise ValueError(f"expected a method among {known}; found {method!r}")
    return found.to(asked.mask.device) * asked.mask


@torch.enable_grad()
def flow(model, asked: Asked, name: str | None = None, without: Collection[str] = ()) -> Tensor:
    """Relevance of each word's residual stream after k = 0 ... L blocks [k batch pos].

    k = 0 is the relevance of the words themselves. What leaves a position between two depths has
    moved to another one, or stayed with a bias.
    """
    x = asked.embeddings.clone().requires_grad_()
    blocks = model.architecture.blocks(model.hf)
    with rules(model, name, without), reading.caught(blocks, lambda output: output) as streams:
        f = score(model, asked, x)
    streams = [x, *streams]
    gradients = torch.autograd.grad(f.sum(), streams)
    return torch.stack([(x * g).sum(-1) for x, g in zip(streams, gradients, strict=True)]).detach()


@torch.enable_grad()
def gradient_x_input(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x df/dx summed over the last axis, for f: [batch pos d_model] -> [batch]. Gives [batch pos]."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    return (x * gradient).sum(-1).detach()


def integrated_gradients(
    f: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, steps: int = IG_STEPS
) -> Tensor:
    """x - baseline, times the mean gradient on the straight line between them: [batch pos].

    Midpoint rule (Sundararajan et al. 2017, arXiv 1703.01365, eq. 3). As steps grow, the sum over a
    prompt becomes f(x) - f(baseline).
    """
    away, found = x - baseline, torch.zeros_like(x[..., 0])
    for step in range(steps):
        missing = (steps - step - 0.5) / steps * away  # what this point lacks of x
        found += gradient_x_input(lambda d, lacks=missing: f(baseline + d - lacks), away)
    return found / steps


@torch.no_grad()
def leave_one_out(model, asked: Asked) -> Tensor:
    """How much of the explained number each word takes with it when the mean embedding stands in
    for it, the last word included: [batch pos]."""
    pos = asked.ids.shape[1]
    alone = torch.eye(pos + 1, dtype=torch.bool, device=asked.ids.device)[:, :pos]  # last: none
    found = _without(model, asked, alone[:, None].expand(-1, len(asked), -1), mean_embedding(model))
    return (found[-1] - found[:-1]).T


def _rollout(model, asked: Asked) -> Tensor:
    """The last row of the rollout of all layers' contributions, for each prompt by itself."""
    found = torch.zeros_like(asked.embeddings[..., 0])
    for row, (ids, mask) in enumerate(zip(asked.ids, asked.mask.bool(), strict=True)):
        layers = attention.read(model, ids[mask][None])
        maps = [attention.contributions(mixing)[0] for mixing in layers]
        found[row, mask] = attention.rollout(maps)[-1].to(found.dtype)
    return found


def mean_embedding(model) -> Tensor:
    """The vocabulary's mean embedding [d_model]: what stands in for a word that is removed."""
    return model.architecture.embedding(model.hf).weight.detach().mean(0)


# ---- faithfulness --------------------------------------------------------------------------------


@torch.no_grad()
def curves(
    model, asked: Asked, relevance: Tensor, steps: int = 8, baseline: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The explained number while words are removed, the most and the least relevant first.

    relevance [batch pos]; returns (most, least), each [batch steps+1]: after step j the share
    j / steps of a prompt's words is replaced by `baseline` [d_model] (None: the mean embedding).
    The last word always stays, because it asks the question.
    """
    baseline = mean_embedding(model) if baseline is None else baseline
    removable = asked.mask.bool().clone()
    removable[:, -1] = False
    counts = removable.sum(1)[:, None] * torch.arange(steps + 1, device=removable.device) / steps
    gone = []
    for values in (-relevance, relevance):
        order = values.masked_fill(~removable, torch.inf).argsort(dim=1, stable=True)
        rank = order.argsort(dim=1)  # [batch pos]: 0 goes first
        gone += [rank < n[:, None] for n in counts.round().unbind(1)]
    found = _without(model, asked, torch.stack(gone), baseline).T
    return found[:, : steps + 1], found[:, steps + 1 :]


def _without(model, asked: Asked, gone: Tensor, baseline: Tensor) -> Tensor:
    """The explained number without some words, gone [variant batch pos]: [variant batch].

    Equal variants, such as those with all words or with none, are computed once.
    """
    different, back = gone.unique(dim=0, return_inverse=True)
    found = []
    for part in different.split(max(1, WORDS // asked.mask.numel())):
        embeddings = torch.where(part[..., None], baseline, asked.embeddings).flatten(0, 1)
        found.append(score(model, asked, embeddings).unflatten(0, (len(part), -1)))
    return torch.cat(found)[back]


def abpc(most: Tensor, least: Tensor) -> Tensor:
    """The area between both curves of each prompt [batch], in units of the explained number.

    0 if the order says nothing; large if the words on top are the ones that count.
    """
    return (least - most).mean(-1)


# ---- questions whose causes the world knows ------------------------------------------------------


def hits(relevance: Tensor, asked: Asked, questions: Sequence[Case], top: int = 3) -> list[bool]:
    """For each question, whether a cause is among the `top` words of its prompt by relevance."""
    starts = (asked.mask == 0).sum(1).tolist()
    best = relevance.masked_fill(asked.mask == 0, -torch.inf).topk(top).indices.tolist()
    return [
        any(start + cause in row for cause in case.causes)
        for start, row, case in zip(starts, best, questions, strict=True)
    ]
