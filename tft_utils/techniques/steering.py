"""Steering: add a direction to what a model computes, and see whether its answers follow.

A word of a prompt is steered by r_k + m v_k, S_k + m s_k, or both: its residual stream after k blocks,
the state that reaches it in block k, a multiplier m of either sign, and a direction (v, s) of
`tft_utils.techniques.contrasts`, which names the papers.

    vector = directions(model, cued("refusal"))["behaviour"]         # tft_utils.techniques.contrasts
    ready = read_once(model, questions("refusal", "validation"))     # nothing is chosen on test questions
    sweep(model, ready, vector).matching                             # [depth multiplier prompt]
    respond(model, ready, k, {"residual": changes})                  # one cell, a change for each prompt

A question is answered with one of two letters, and asked in both letter orders, so that preferring a
letter moves nothing. Its *matching probability* is p(matching letter) / (p(A) + p(B)), its *nonsense*
1 - p(A) - p(B). Probabilities and effects are shares: 0.2 is 20 points.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.architectures.recurrent import wide
from tft_utils.corpora.questions import Question
from tft_utils.techniques.contrasts import Direction, carried

MULTIPLIERS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
RESIDUAL = "residual"


@dataclass(frozen=True)
class Ready:
    """Prompts that were read once: all that a sweep needs of them. See `read_once`."""

    residual: Tensor  # of the last word, unsteered [k prompt d_model]
    past: tuple[dict[str, Tensor], ...]  # what reaches that word in each block [prompt 1 ...], and 'mask'
    letters: Tensor  # token ids of the matching letter and the other [prompt 2]
    whole: "Streams | None" = None  # where an architecture hands out nothing that reaches it: all words


@torch.no_grad()
def read_once(model, asked: Sequence[Question]) -> Ready:
    """Reads each prompt once up to the word before its last, and takes one step from there."""
    letters = letter_tokens(model, asked)
    if model.lacks("continuation"):
        whole = read_word(model, asked, 0)
        return Ready(whole.residual[:, torch.arange(len(letters)), whole.last], (), letters, whole)
    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left")
    together = [torch.arange(len(ids))]
    if model.lacks("padding on the left"):
        together = reading.padded_alike(model, mask, len(ids))
    residual, pasts = zip(*(_step(model, ids[some], mask[some]) for some in together), strict=True)
    order = torch.cat(together).argsort()

    def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:  # where all was read together: no copy
        return torch.cat(parts, dim).index_select(dim, order) if len(parts) > 1 else parts[0]

    past = tuple(
        {name: joined([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*pasts, strict=True)
    )
    return Ready(joined(residual, 1), past, letters)


def _step(model, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Of prompts that are read together: the last word's stream [k prompt d_model], and what reaches it
    in each block."""
    before = mask[:, :-1]
    start = int((~before.any(0)).sum())  # what all of them have as padding
    cache = carried(model, ids[:, start:-1], before[:, start:])
    x, past = [model.embed(ids[:, -1:])], []
    for layer in range(model.n_layers):
        state = {name: part[:, None] for name, part in model.state(cache, layer).items()}
        past.append(state | {"mask": before})
        x.append(model.block(layer, x[-1][:, None], past=past[-1])[:, 0])
    return torch.stack(x)[:, :, 0], past


def letter_tokens(model, asked: Sequence[Question]) -> Tensor:
    """The tokens that the letters become behind their prompts: matching and other [question 2].

    Errors: `ValueError` where a letter is not exactly one more token, or both are the same one.
    """
    texts = [q.prompt + letter for q in asked for letter in ("", q.matching, q.other)]
    rows, pairs = model.tokenizer(texts).input_ids, []
    for q, prompt, *answered in zip(asked, rows[::3], rows[1::3], rows[2::3], strict=True):
        ends = [row[len(prompt) :] for row in answered]
        kept = all(row[: len(prompt)] == prompt for row in answered)
        if not kept or [len(end) for end in ends] != [1, 1] or ends[0] == ends[1]:
            raise ValueError(
                f"expected {q.matching!r} and {q.other!r} to be one more token each behind "
                f"{q.prompt[-20:]!r}, found {ends}; end the prompt where a token ends"
            )
        pairs.append([end[0] for end in ends])
    return torch.tensor(pairs, device=model.hf.device)


@dataclass(frozen=True)
class Sweep:
    """The answers under every steering of one kind."""

    depths: tuple[int, ...]
    multipliers: tuple[float, ...]
    matching: Tensor  # [depth multiplier prompt]
    nonsense: Tensor  # [depth multiplier prompt]
    unsteered: Tensor  # matching probability without steering [prompt]


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

    parts: 'residual', compressed parts of the state, or both kinds. At depth k the state that reaches
    the k-th block is changed, then the residual stream behind that block. Only blocks at or behind the
    change run, for one word, for all prompts and multipliers at once.
    """
    states, depths = _checked(model, direction, parts, depths)
    cells = []
    for k in depths:
        vectors = {part: direction.state[k - 1][part] for part in states & direction.state[k - 1].keys()}
        vectors |= {RESIDUAL: direction.residual[k]} if RESIDUAL in parts else {}
        changes = {part: _times(multipliers, v, ready.residual)[None] for part, v in vectors.items()}
        cells.append(_letters(_steered(model, ready, k, changes), ready.letters))
    unsteered, _ = _letters(model.to_logits(ready.residual[-1][:, None]), ready.letters)
    answers = (torch.stack(values).transpose(1, 2) for values in zip(*cells, strict=True))
    return Sweep(tuple(depths), tuple(multipliers), *answers, unsteered[:, 0])


@dataclass(frozen=True)
class Streams:
    """Prompts of which an earlier word is steered. See `read_word`."""

    residual: Tensor  # of all words, unsteered [k prompt pos d_model]
    word: int  # the steered word's position, in tokens
    last: Tensor  # position of the word that answers [prompt]
    letters: Tensor  # token ids of the matching letter and the other [prompt 2]


def read_word(model, asked: Sequence[Question], word: int) -> Streams:
    """Reads each prompt once, to steer its word at a position counted from the beginning."""
    ids, mask = reading.tokens(model, [q.prompt for q in asked])
    if not 0 <= word < int(mask.sum(1).min()):
        raise ValueError(
            f"expected a word from 0 to {int(mask.sum(1).min()) - 1}, found {word}; steer a word that "
            "every prompt has"
        )
    letters = letter_tokens(model, asked)
    return Streams(reading.streams(model, ids), word, mask.sum(1) - 1, letters)


@torch.no_grad()
def respond(model, read: Ready | Streams, depth: int, changes: Mapping[str, Tensor]):
    """Matching probability and nonsense [prompt] with changes added at one depth.

    changes: part -> what is added to it, one for each prompt [prompt ...]. 'residual': behind block
    `depth`. Parts of a state: in that block, before the last word; only for what `read_once` gives.
    """
    states = changes.keys() - {RESIDUAL}
    if isinstance(read, Streams):
        if states:
            raise ValueError(
                f"expected a change of the residual stream, found {', '.join(sorted(states))}; states "
                "are steered before the last word: read the prompts with read_once"
            )
        x = read.residual[depth].clone()
        x[:, read.word] += changes[RESIDUAL].to(x)
        logits = reading.finish(model, x, depth, read.last)
    else:
        each = {part: change[:, None] for part, change in changes.items()}
        logits = _steered(model, read, depth, each)[:, 0]
    return tuple(answer[:, 0] for answer in _letters(logits[:, None], read.letters))


def _steered(model, ready: Ready, k: int, changes: Mapping[str, Tensor]) -> Tensor:
    """Logits [prompt variant vocab] of the last word with changes [prompt variant ...] at depth k."""
    states, variants = changes.keys() - {RESIDUAL}, max(change.shape[1] for change in changes.values())
    if ready.whole:
        return _reread(model, ready.whole, k, changes[RESIDUAL])
    start = k - 1 if states else k
    x = ready.residual[start][:, None, None].expand(-1, variants, -1, -1)  # [prompt variant 1 d_model]
    if states:
        past = dict(ready.past[start])
        past |= {part: past[part] + changes[part].to(past[part]) for part in states}
        x = model.block(start, x, past=past)
    if RESIDUAL in changes:
        x = x + changes[RESIDUAL].to(x)[:, :, None]
    for layer in range(k, model.n_layers):
        x = model.block(layer, x, past=ready.past[layer])
    return model.to_logits(x[:, :, 0])


def _reread(model, read: Streams, k: int, change: Tensor) -> Tensor:
    """The same where nothing can be carried to the last word: all words are read for every variant."""
    variants, x = change.shape[1], read.residual[k].repeat_interleave(change.shape[1], 0)
    last = read.last.repeat_interleave(variants)
    x[torch.arange(len(x)), last] += change.flatten(0, 1).to(x)
    return reading.finish(model, x, k, last).unflatten(0, (-1, variants))


def _checked(model, direction: Direction, parts, depths) -> tuple[set[str], Sequence[int]]:
    """The parts that are states, and the depths (None: all at which there are such)."""
    compressed = [set(model.kind(layer).compressed) for layer in range(model.n_layers)]
    states = set(parts) - {RESIDUAL}
    if not parts or not states <= set().union(*compressed):
        raise ValueError(
            f"expected parts among {', '.join((RESIDUAL, *sorted(set().union(*compressed))))}, found "
            f"{', '.join(parts) or 'none'}; this architecture has no other compressed state"
        )
    if states and not any(block[part].any() for block in direction.state for part in states & set(block)):
        raise ValueError(
            "expected a direction of the state, found zeros: its texts differ in their last word alone, "
            "and the state is read before it; take texts that differ earlier"
        )
    known = [k for k in range(model.n_layers + 1) if not states or (k and states & compressed[k - 1])]
    if not set(depths or ()) <= set(known):
        raise ValueError(
            f"expected depths from {known[0]} to {known[-1]}, found {list(depths)}; no state has depth 0"
        )
    return states, known if depths is None else depths


def _times(multipliers: float | Sequence[float] | Tensor, vector: Tensor, like: Tensor) -> Tensor:
    """Each multiplier times a vector [...]: [multiplier ...], as precise as what it is added to."""
    m = torch.as_tensor(multipliers, dtype=like.dtype, device=like.device).reshape(-1)
    return torch.tensordot(m, vector.to(m), 0)


def _letters(logits: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
    """Matching probability and nonsense [prompt variant] of logits [prompt variant vocab]. Where a state
    overflows there is no probability, and more nonsense than any."""
    logits = wide(logits)
    two = logits.gather(-1, letters[:, None].expand(-1, logits.shape[1], -1))
    nonsense = 1 - (two.logsumexp(-1) - logits.logsumexp(-1)).exp()
    return two.softmax(-1)[..., 0], nonsense.nan_to_num(nan=torch.inf)


# ---- open-ended text -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Push:
    """One way to steer: what, how hard, at which depths, and which parts."""

    direction: Direction
    multiplier: float | Tensor  # one for all texts, or one for each [text]
    depths: tuple[int, ...]
    parts: tuple[str, ...] = (RESIDUAL,)


@contextmanager
def _pushed(model, cache, push: Push | None) -> Iterator[None]:
    """Changes a cache's states; within, adds to the residual stream of every word that is read."""
    with ExitStack() as stack:
        if push:
            states, _ = _checked(model, push.direction, push.parts, push.depths)
        for k in push.depths if push else ():
            for part in states & set(model.kind(k - 1).compressed):
                state = model.state(cache, k - 1)[part]
                state += _times(push.multiplier, push.direction.state[k - 1][part], state)
            if RESIDUAL in push.parts:

                def add(_, stream: Tensor, vector: Tensor = push.direction.residual[k]) -> Tensor:
                    return stream + _times(push.multiplier, vector[None], stream)

                stack.enter_context(reading.hooked(reading.depths(model)[k], add))
        yield


def _even(model, texts: str | Sequence[str]) -> reading.Tokens:
    """Texts of one length in tokens."""
    rows = reading.tokens(model, texts)
    if not rows.mask.all():
        lengths = sorted(set(rows.lengths.tolist()))
        raise ValueError(f"expected texts of one length, found {lengths} tokens; cut them to one length")
    return rows


@torch.no_grad()
def continuations(
    model, prompts: str | Sequence[str], n: int, push: Push | None = None, seed: int = 0
) -> list[str]:
    """n sampled tokens behind each prompt, at temperature 1. Prompts have one length.

    The state is changed once, before the prompt's last word; the residual stream at that word and at
    every word that follows.
    """
    ids = _even(model, prompts).ids
    draw = torch.Generator(ids.device).manual_seed(seed)
    cache, sampled = carried(model, ids[:, :-1]), [ids[:, -1:]]
    with _pushed(model, cache, push):
        for _ in range(n):
            cache, logits = reading.run(model, sampled[-1], cache=cache)
            logits[:, model.tokenizer.all_special_ids] = -torch.inf
            sampled.append(torch.multinomial(wide(logits).softmax(-1), 1, generator=draw))
    return model.tokenizer.batch_decode(torch.cat(sampled[1:], 1))


@torch.no_grad()
def surprise(model, texts: str | Sequence[str], start: int, push: Push | None = None) -> list[float]:
    """Mean nats per token from token `start` on, for each text; steered as a continuation would be."""
    ids = _even(model, texts).ids
    cache = carried(model, ids[:, : start - 1])
    with _pushed(model, cache, push):
        logits = model.hf(ids[:, start - 1 : -1], **{model.architecture.CACHE: cache}).logits
    nats = -wide(logits).log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]
    return nats.mean(-1).tolist()
