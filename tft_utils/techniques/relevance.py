"""Relevance: how much each word of a prompt counts for one prediction.

Layer-wise relevance propagation (LRP) as modified gradient x input. Every block is written so that
its output is linear in what relevance may flow through, plus constants. Then, for an explained
number f, activations x of any layer, biases b, and one backward pass of plain autograd,

    R_i = x_i df/dx_i                                  the relevance of one activation
    f = sum_i R_i + sum_b b df/db (+ leak)             the conservation identity

What counts as a constant stands in the architecture's file as named rule sets, each a share of the
gradient for points of the open block: AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, whose
softmax rule leaks) and CP-LRP (Ali et al. 2022, arXiv 2202.07304) for softmax attention; MambaLRP
(Jafari et al. 2024, arXiv 2406.07592) and two variants for the selective scan. Under a rule set
values stay as they were; only gradients change.

    asked = reading.ask(model, ["The capital of Zabar is"], ["Dovella"])
    explain(model, asked)                            # [prompt pos]
    conservation(model, asked)                       # where all of f went
    curves(model, asked, explain(model, asked))      # is the explanation faithful?

What is explained is `asked.score`: the answer's logit after the last word, minus the foil's where
there is one.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora.questions import Case
from tft_utils.reading import Asked
from tft_utils.techniques import attention

METHODS = ("lrp", "gradient x input", "integrated gradients", "leave one out", "rollout", "random")
IG_STEPS = 32  # points on the path of integrated gradients
WORDS = 8192  # words in one forward pass of `curves`


def score(model, asked: Asked, embeddings: Tensor | None = None) -> Tensor:
    """The explained number [k*prompt] when the model reads other embeddings [k*prompt pos d_model], k
    variants of all prompts one after the other (None: those of the prompts)."""
    x = model.embed(asked.ids) if embeddings is None else embeddings
    return asked.score(reading.finish(model, x, 0, asked.last.repeat(len(x) // len(asked))))


# ---- the rules and the identity ------------------------------------------------------------------


def rule_set(model, name: str | None = None) -> str:
    """The name of a rule set that the model's architecture has (None: its first).

    Errors: `Unsupported` where there are no rules, `ValueError` for an unknown name.
    """
    model.requires("relevance")
    known = model.architecture.RULE_SETS
    if name is not None and name not in known:
        raise ValueError(f"expected a rule set among {', '.join(known)}; found {name!r}")
    return next(iter(known)) if name is None else name


def shares(model, last: Tensor, name: str | None = None, without: Collection[str] = ()) -> Callable:
    """The `put` of a rule set: values stay, gradients are scaled.

    last: position of the word that asks [prompt]. without: rules to leave out, whose points then keep
    all of their gradient.
    """
    points, rules = model.architecture.RULE_SETS[rule_set(model, name)], model.architecture.RULES
    if unknown := sorted(set(without) - set(rules)):
        raise ValueError(f"expected rules to leave out among {', '.join(rules)}; found {unknown}")
    whole = {point for rule in without for point in rules[rule]}

    def put(point: str, value):
        share = 1 if point in whole else points.get(point, 1)
        if isinstance(share, tuple):  # value [prompt pos ...]
            earlier, at_last = share
            asks = torch.arange(value.shape[1], device=last.device) == last[:, None]
            share = torch.where(asks, at_last, earlier).to(value.dtype)
            share = share.reshape(*asks.shape, *(1,) * (value.dim() - 2))
        elif share in (0, 1):
            return value if share else value.detach()
        return torch.lerp(value.detach(), value, share)  # the value, with this share of its gradient

    return put


def _open_run(model, asked: Asked, put: Callable) -> tuple[list[Tensor], Tensor]:
    """The residual stream after k = 0 ... L blocks, each [prompt pos d_model], and the explained number
    [prompt]: a run whose every point went through `put`."""
    streams = [model.embed(asked.ids).detach().requires_grad_()]
    for layer in range(model.n_layers):
        streams.append(model.block(layer, streams[-1], put))
    at_last = streams[-1][torch.arange(len(asked), device=asked.last.device), asked.last]
    return streams, asked.score(model.to_logits(at_last, put))


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
    put, patterns = shares(model, asked.last, name, without), []
    leak = getattr(model.architecture, "LEAKS", {}).get(rule_set(model, name))

    def put_and_watch(point: str, value):
        if leak and hasattr(value, "pattern"):  # once read, it is what the block mixes with
            patterns.append(value.pattern)
        return put(point, value)

    (x, *_), f = _open_run(model, asked, put_and_watch)
    biases = [p for key, p in model.hf.named_parameters() if key.endswith("bias")]
    of_x, *gradients = torch.autograd.grad(f.sum(), [x, *biases, *patterns], allow_unused=True)
    of_biases, of_patterns = gradients[: len(biases)], gradients[len(biases) :]
    return Ledger(
        f.item(),
        (x * of_x).sum(-1)[0].detach(),
        sum((b * g).sum().item() for b, g in zip(biases, of_biases, strict=True) if g is not None),
        sum(leak(a, g).sum().item() for a, g in zip(patterns, of_patterns, strict=True)),
    )


# ---- methods: each gives every word of every prompt a number -------------------------------------


def explain(model, asked: Asked, method: str = "lrp", seed: int = 0) -> Tensor:
    """Relevance of each word [prompt pos], 0 at padding.

    method: one of METHODS, or the name of a rule set. 'lrp' is the architecture's first rule set;
    'leave one out' runs the model once for each word, without it; 'rollout' is that of attention,
    or of the attention that is hidden in a mixer (`attention`).
    """
    f, x = partial(score, model, asked), model.embed(asked.ids).detach()
    draw = torch.Generator().manual_seed(seed)
    methods = {
        "lrp": lambda: flow(model, asked)[0],
        "gradient x input": lambda: gradient_x_input(f, x),
        "integrated gradients": lambda: integrated_gradients(f, x, mean_embedding(model)),
        "leave one out": lambda: leave_one_out(model, asked),
        "rollout": lambda: _rollout(model, asked),
        "random": lambda: torch.rand(asked.ids.shape, generator=draw).to(x.device),
    }
    for name in getattr(model.architecture, "RULE_SETS", {}):
        methods[name] = lambda name=name: flow(model, asked, name)[0]
    if method not in methods:
        raise ValueError(f"expected a method among {', '.join(methods)}; found {method!r}")
    return methods[method]() * asked.mask


@torch.enable_grad()
def flow(model, asked: Asked, name: str | None = None, without: Collection[str] = ()) -> Tensor:
    """Relevance of each word's residual stream after k = 0 ... L blocks [k prompt pos].

    k = 0 is the relevance of the words themselves. What leaves a position between two depths has
    moved to another one, or stayed with a bias.
    """
    streams, f = _open_run(model, asked, shares(model, asked.last, name, without))
    gradients = torch.autograd.grad(f.sum(), streams)
    return torch.stack([(x * g).sum(-1) for x, g in zip(streams, gradients, strict=True)]).detach()


@torch.enable_grad()
def gradient_x_input(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x df/dx summed over the last axis, for f: [prompt pos d_model] -> [prompt]. Gives [prompt pos]."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    return (x * gradient).sum(-1).detach()


def integrated_gradients(
    f: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, steps: int = IG_STEPS
) -> Tensor:
    """x - baseline, times the mean gradient on the straight line between them: [prompt pos].

    Midpoint rule (Sundararajan et al. 2017, arXiv 1703.01365, eq. 3). As steps grow, the sum over a
    prompt becomes f(x) - f(baseline).
    """
    away, total = x - baseline, torch.zeros_like(x[..., 0])
    for step in range(steps):
        missing = (steps - step - 0.5) / steps * away  # what this point lacks of x
        total += gradient_x_input(lambda d, lacks=missing: f(baseline + d - lacks), away)
    return total / steps


@torch.no_grad()
def leave_one_out(model, asked: Asked) -> Tensor:
    """How much of the explained number each word takes with it when the mean embedding stands in
    for it, the last word included: [prompt pos]."""
    pos = asked.ids.shape[1]
    alone = torch.eye(pos + 1, dtype=torch.bool, device=asked.ids.device)[:, :pos]  # last: none
    scores = _without(model, asked, alone[:, None].expand(-1, len(asked), -1), mean_embedding(model))
    return (scores[-1] - scores[:-1]).T


def _rollout(model, asked: Asked) -> Tensor:
    """The last row of the rollout of all layers' contributions, for each prompt by itself."""
    rows, ends, by_layer = torch.zeros(asked.ids.shape), (asked.last + 1).tolist(), []
    for mixing in attention.mixings(model, asked.ids):
        by_layer.append([attention.contributions(mixing.row(i, end))[0] for i, end in enumerate(ends)])
    for row, end, *maps in zip(rows, ends, *by_layer, strict=True):
        row[:end] = attention.rollout(maps)[-1]
    return rows.to(asked.ids.device)


def mean_embedding(model) -> Tensor:
    """The vocabulary's mean embedding [d_model]: what stands in for a word that is removed."""
    return model.module("embedding").weight.detach().mean(0)


# ---- faithfulness --------------------------------------------------------------------------------


@torch.no_grad()
def curves(
    model, asked: Asked, relevance: Tensor, steps: int = 8, baseline: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The explained number while words are removed, the most and the least relevant first.

    relevance [prompt pos]; returns (most, least), each [prompt steps+1]: after step j the share
    j / steps of a prompt's words is replaced by `baseline` [d_model] (None: the mean embedding).
    The last word always stays, because it asks the question.
    """
    baseline = mean_embedding(model) if baseline is None else baseline
    removable = asked.mask & ~reading.at_positions(asked, asked.last)
    counts = removable.sum(1)[:, None] * torch.arange(steps + 1, device=removable.device) / steps
    gone = []
    for values in (-relevance, relevance):
        order = values.masked_fill(~removable, torch.inf).argsort(dim=1, stable=True)
        rank = order.argsort(dim=1)  # [prompt pos]: 0 goes first
        gone += [rank < n[:, None] for n in counts.round().unbind(1)]
    scores = _without(model, asked, torch.stack(gone), baseline).T
    return scores[:, : steps + 1], scores[:, steps + 1 :]


def _without(model, asked: Asked, gone: Tensor, baseline: Tensor) -> Tensor:
    """The explained number without some words, gone [variant prompt pos]: [variant prompt].

    Equal variants, such as those with all words or with none, are computed once.
    """
    different, back = gone.unique(dim=0, return_inverse=True)
    x, scores = model.embed(asked.ids), []
    for variants in different.split(max(1, WORDS // asked.ids.numel())):
        embeddings = torch.where(variants[..., None], baseline, x).flatten(0, 1)
        scores.append(score(model, asked, embeddings).unflatten(0, (len(variants), -1)))
    return torch.cat(scores)[back]


def abpc(most: Tensor, least: Tensor) -> Tensor:
    """The area between both curves of each prompt [prompt], in units of the explained number.

    0 if the order says nothing; large if the words on top are the ones that count.
    """
    return (least - most).mean(-1)


# ---- questions whose causes the world knows ------------------------------------------------------


def hits(relevance: Tensor, asked: Asked, questions: Sequence[Case], top: int = 3) -> list[bool]:
    """For each question, whether a cause is among the `top` words of its prompt by relevance."""
    best = relevance.masked_fill(~asked.mask, -torch.inf).topk(top).indices.tolist()
    return [bool({*case.causes} & {*row}) for case, row in zip(questions, best, strict=True)]
