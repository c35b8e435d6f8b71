"""Steering: add a direction to what a model computes, and see whether its answers follow.

A word of a prompt is steered by r_k + m v_k, S_k + m s_k, or both: its residual stream after k blocks,
the state that reaches it in block k, a multiplier m of either sign, and a direction (v, s) of
`tft_utils.techniques.contrasts`, which names the papers.

    found = directions(model, cued("refusal"))                       # tft_utils.techniques.contrasts
    swept = sweep(model, read_once(model, questions("refusal", "validation")), found["behaviour"])
    k, m = best(swept, +1)                                           # never chosen on test questions
    test = read_once(model, questions("refusal"))
    effect(sweep(model, test, found["behaviour"], [m], depths=[k]), k, m)

A question is answered with one of two letters, and asked in both letter orders, so that preferring a
letter moves nothing. Its *matching probability* is p(matching letter) / (p(A) + p(B)), its *nonsense*
1 - p(A) - p(B). Probabilities and effects are shares: 0.2 is 20 points.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tft_utils import reading, stats
from tft_utils.corpora.questions import Question
from tft_utils.techniques.contrasts import Direction, run, tokenize

MULTIPLIERS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
RESIDUAL = "residual"


# ---- the sweep -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """Prompts that were read once: all that a sweep needs of them. See `read_once`."""

    residual: Tensor  # of the last word, unsteered [k prompt d_model]
    past: tuple[dict[str, Tensor], ...]  # what each block carries to that word [prompt 1 ...]
    mask: Tensor  # of the words before it [prompt pos], 0 at padding
    letters: Tensor  # token ids of the matching letter and the other [prompt 2]
    asks: tuple[str, ...]


@torch.no_grad()
def read_once(model, asked: Sequence[Question]) -> Ready:
    """Reads each prompt once up to the word before its last, and takes one step from there."""
    ids, mask = tokenize(model, [q.prompt for q in asked])
    cache, _ = run(model, ids[:, :-1], mask[:, :-1])
    past = tuple(
        {name: part[:, None] for name, part in model.state(cache, layer).items()}
        for layer in range(model.n_layers)
    )
    x = model.architecture.embedding(model.hf)(ids[:, -1:])
    seen = [x]
    for layer in range(model.n_layers):
        x = model.architecture.step(model.hf, layer, x, past[layer], mask[:, :-1])
        seen.append(x)
    return Ready(
        torch.cat(seen, 1).transpose(0, 1),
        past,
        mask[:, :-1],
        letter_tokens(model, asked),
        tuple(q.asks for q in asked),
    )


def letter_tokens(model, asked: Sequence[Question]) -> Tensor:
    """The tokens that the letters become behind their prompts: matching and other [question 2].

    Errors: `ValueError` where a letter is not exactly one more token, or both are the same one.
    """
    prompts = model.tokenizer([q.prompt for q in asked]).input_ids
    both = [
        model.tokenizer([q.prompt + getattr(q, side) for q in asked]).input_ids
        for side in ("matching", "other")
    ]
    found = []
    for q, prompt, *texts in zip(asked, prompts, *both, strict=True):
        ends = [tokens[len(prompt) :] for tokens in texts]
        kept = all(tokens[: len(prompt)] == prompt for tokens in texts)
        if not kept or [len(end) for end in ends] != [1, 1] or ends[0] == ends[1]:
            raise ValueError(
                f"expected {q.matching!r} and {q.other!r} to be one more token each behind "
                f"{q.prompt[-20:]!r}, found {ends}; end the prompt where a token ends"
            )
        found.append([end[0] for end in ends])
    return torch.tensor(found, device=model.hf.device)


@dataclass(frozen=True)
class Sweep:
    """The answers under every steering of one kind."""

    n_layers: int
    depths: tuple[int, ...]
    multipliers: tuple[float, ...]
    matching: Tensor  # [depth multiplier prompt]
    nonsense: Tensor  # [depth multiplier prompt]
    unsteered: Tensor  # matching probability without steering [prompt]
    asks: tuple[str, ...]


@torch.no_grad()
def sweep(
    model,
    ready: Ready,
    direction: Direction,
    multipliers: Sequence[float] = MULTIPLIERS,
    parts: Sequence[str] = (RESIDUAL,),
    depths: Sequence[int] | None = None,
) -> Sweep:
    """Steers the last word at every depth by every multiplier, and repeats no work.

    parts: 'residual', parts of the architecture's COMPRESSED state, or both kinds. At depth k the
    state that reaches the k-th block is changed, then the residual stream behind that block. Only
    blocks at or behind the change run, for one word, for all prompts and multipliers at once.
    """
    states, depths = _checked(model, parts, depths)
    m = torch.tensor(multipliers, dtype=ready.residual.dtype, device=ready.residual.device)
    cells = []
    for k in depths:
        if states:
            past = dict(ready.past[k - 1])
            for name in states:
                past[name] = past[name] + torch.tensordot(m, direction.state[k - 1][name], 0)
            entering = ready.residual[k - 1][:, None].expand(-1, len(m), -1)
            x = model.architecture.step(model.hf, k - 1, entering, past, ready.mask)
        else:
            x = ready.residual[k][:, None].expand(-1, len(m), -1)
        if RESIDUAL in parts:
            x = x + m[:, None] * direction.residual[k]
        for layer in range(k, model.n_layers):
            x = model.architecture.step(model.hf, layer, x, ready.past[layer], ready.mask)
        cells.append(_letters(_logits(model, x), ready.letters))
    matching, nonsense = (torch.stack(found).transpose(1, 2) for found in zip(*cells, strict=True))
    unsteered, _ = _letters(_logits(model, ready.residual[-1][:, None]), ready.letters)
    return Sweep(
        model.n_layers, tuple(depths), tuple(multipliers), matching, nonsense, unsteered[:, 0], ready.asks
    )


@torch.no_grad()
def naive_sweep(
    model,
    asked: Sequence[Question],
    direction: Direction,
    multipliers: Sequence[float] = MULTIPLIERS,
    parts: Sequence[str] = (RESIDUAL,),
    depths: Sequence[int] | None = None,
    word: int = -1,
) -> Sweep:
    """The same by runs of the whole prompts at each depth, at any word.

    word: the steered word's position, counted from the prompt's end if negative. Prompts of several
    lengths: only from the end.
    """
    _, depths = _checked(model, parts, depths)
    ids, mask = tokenize(model, [q.prompt for q in asked])
    letters = letter_tokens(model, asked)

    def answers(push: Push | None, times: int) -> list[Tensor]:
        """Matching probability and nonsense [time prompt]."""
        words, cache, at = ids.repeat(times, 1), None, word % ids.shape[1]
        if at:
            cache, _ = run(model, words[:, :at], mask.repeat(times, 1)[:, :at])
        with _pushed(model, cache, push, once=True):
            _, logits = run(model, words[:, at:], mask.repeat(times, 1), cache)
        return [found.view(times, -1) for found in _letters(logits[:, None], letters.repeat(times, 1))]

    m = torch.tensor(multipliers, device=ids.device).repeat_interleave(len(asked))[:, None, None]
    cells = [answers(Push(direction, m, (k,), tuple(parts)), len(multipliers)) for k in depths]
    matching, nonsense = (torch.stack(found) for found in zip(*cells, strict=True))
    return Sweep(
        model.n_layers,
        tuple(depths),
        tuple(multipliers),
        matching,
        nonsense,
        answers(None, 1)[0][0],
        tuple(q.asks for q in asked),
    )


def _checked(model, parts: Sequence[str], depths: Sequence[int] | None) -> tuple[list, Sequence[int]]:
    """The parts that are states, and the depths (None: all)."""
    known = (RESIDUAL, *model.architecture.COMPRESSED)
    if not parts or not set(parts) <= set(known):
        raise ValueError(
            f"expected parts among {', '.join(known)}, found {', '.join(parts) or 'none'}; this "
            "architecture has no other compressed state"
        )
    states = [part for part in parts if part != RESIDUAL]
    depths = range(bool(states), model.n_layers + 1) if depths is None else depths
    if not set(depths) <= set(range(bool(states), model.n_layers + 1)):
        raise ValueError(
            f"expected depths from {int(bool(states))} to {model.n_layers}, found {list(depths)}; a "
            "state belongs to a block, so it has no depth 0"
        )
    return states, depths


def _letters(logits: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
    """Matching probability and nonsense [prompt variant] of logits [prompt variant vocab]."""
    two = logits.gather(-1, letters[:, None].expand(-1, logits.shape[1], -1))
    return two.softmax(-1)[..., 0], 1 - (two.logsumexp(-1) - logits.logsumexp(-1)).exp()


def _logits(model, residual: Tensor) -> Tensor:
    parts = model.architecture
    normed, unembedding = parts.final_norm(model.hf)(residual), parts.unembedding(model.hf)
    return unembedding(normed.to(unembedding.weight.dtype)).float()


def best(swept: Sweep, sign: int, nonsense: float = 0.1) -> tuple[int, float]:
    """(depth, multiplier of this sign) of the largest mean effect in its direction.

    Cells with more mean nonsense than `nonsense` do not count: a broken answer is no behaviour.
    """
    shift = sign * (swept.matching - swept.unsteered).mean(-1)
    allowed = swept.nonsense.mean(-1) <= nonsense
    allowed &= torch.tensor([sign * m > 0 for m in swept.multipliers], device=shift.device)
    if not allowed.any():
        raise ValueError(
            f"expected a cell of sign {sign:+d} with nonsense of at most {nonsense}, found none; "
            "sweep smaller multipliers"
        )
    flat = shift.masked_fill(~allowed, -torch.inf).flatten()
    # Where effects saturate, the gentlest multiplier that reaches the top is the best one.
    near = (flat >= flat.max() - 0.005).nonzero()[:, 0].tolist()
    i, j = min(
        (divmod(at, len(swept.multipliers)) for at in near),
        key=lambda cell: abs(swept.multipliers[cell[1]]),
    )
    return swept.depths[i], swept.multipliers[j]


def shifts(swept: Sweep, depth: int, multiplier: float) -> list[float]:
    """Change of each prompt's matching probability at one cell."""
    at = swept.depths.index(depth), swept.multipliers.index(multiplier)
    return (swept.matching[at] - swept.unsteered).tolist()


def effect(swept: Sweep, depth: int, multiplier: float) -> stats.Estimate:
    """Change of the mean matching probability at one cell, with an interval over questions."""
    return stats.clustered_mean(shifts(swept, depth, multiplier), list(swept.asks))


# ---- open-ended text -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Push:
    """One way to steer: what, how hard, at which depths, and which parts."""

    direction: Direction
    multiplier: float | Tensor  # one for all texts, or one for each [text 1 1]
    depths: tuple[int, ...]
    parts: tuple[str, ...] = (RESIDUAL,)


@contextmanager
def _pushed(model, cache, push: Push | None, once: bool = False) -> Iterator[None]:
    """Changes a cache's states; within, adds to the residual stream of every word that is read, or
    `once`: of the first word of a pass."""
    hooks = []
    for k in push.depths if push else ():
        for name in push.parts:
            if name == RESIDUAL:
                change = push.multiplier * push.direction.residual[k]
                hooks.append(reading.depths(model)[k].register_forward_hook(_adder(change, once)))
            else:
                state = model.state(cache, k - 1)[name]
                state += push.multiplier * push.direction.state[k - 1][name].to(state.dtype)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adder(change: Tensor, once: bool):
    def add(module, inputs, out: Tensor) -> Tensor:
        out = out.clone()
        out[:, : 1 if once else None] += change.to(out.dtype)
        return out

    return add


def _even(model, texts: Sequence[str]) -> Tensor:
    ids, mask = tokenize(model, texts)
    if not mask.all():
        lengths = sorted(set(mask.sum(1).tolist()))
        raise ValueError(
            f"expected texts of one length, found lengths {lengths} in tokens; cut them, or call "
            "once for each length"
        )
    return ids


@torch.no_grad()
def continuations(
    model, prompts: Sequence[str], n: int, push: Push | None = None, seed: int = 0
) -> list[str]:
    """n sampled tokens behind each prompt, at temperature 1. Prompts have one length.

    The state is changed once, before the prompt's last word; the residual stream at that word and at
    every word that follows.
    """
    ids = _even(model, prompts)
    draw = torch.Generator(ids.device).manual_seed(seed)
    (cache, _), sampled = run(model, ids[:, :-1]), [ids[:, -1:]]
    with _pushed(model, cache, push):
        for _ in range(n):
            cache, logits = run(model, sampled[-1], cache=cache)
            logits[:, model.tokenizer.all_special_ids] = -torch.inf
            sampled.append(torch.multinomial(logits.float().softmax(-1), 1, generator=draw))
    return model.tokenizer.batch_decode(torch.cat(sampled[1:], 1))


@torch.no_grad()
def surprise(model, texts: Sequence[str], start: int, push: Push | None = None) -> list[float]:
    """Mean nats per token from token `start` on, for each text; steered as a continuation would be."""
    ids = _even(model, texts)
    cache, _ = run(model, ids[:, : start - 1])
    with _pushed(model, cache, push):
        logits = model.hf(ids[:, start - 1 : -1], **{model.architecture.CACHE: cache}).logits
    chances = logits.float().log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]
    return (-chances.mean(-1)).tolist()
