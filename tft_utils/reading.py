"""Every way in which words enter a model, and activations leave it. One of each.

    tokens(model, texts)             ids and mask; on the side where a use needs its padding
    ask(model, prompts, answers)     prompts, and what is asked after each: an answer, a foil
    streams, finish                  the residual stream of a run, open block by block; and its end
    run(model, ids, mask, cache)     transformers' own forward, on from a cache
    caught(modules, pick), watch     hooks: a list of what modules give; see and replace values
    read(model, documents, at)       what stands at some words of many documents, at every depth

Padding stands on the right, where the words of a causal model never see it, so that blocks need no
mask. Only what goes on from a cache needs its last words side by side, and pads on the left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tft_utils.architectures.recurrent import keep
from tft_utils.corpora.world import Document

BATCH = 64  # texts that are read together


# ---- words ---------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """Texts as a model reads them."""

    ids: Tensor  # [text pos]
    mask: Tensor  # [text pos], 1 at words, 0 at padding

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text [text]."""
        return self.mask.sum(1)


def tokens(model, texts: str | Sequence[str], side: str = "right") -> Tokens:
    """Texts as token ids, padded on one side, 'right' or 'left'. One string is one text.

    Errors: `ValueError` for no text, an empty text, or another side.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    rows = model.tokenizer(texts).input_ids if texts else []
    if side not in ("left", "right") or not rows or not all(rows):
        raise ValueError(
            f"expected texts of one token or more and a side 'left' or 'right', found {len(texts)} "
            f"texts, {sum(not row for row in rows)} of them empty, and {side!r}"
        )
    ids = _padded(rows, side, model.tokenizer.pad_token_id or 0)
    mask = _padded([[1] * len(row) for row in rows], side)
    return Tokens(ids.to(model.hf.device), mask.to(model.hf.device))


def _padded(rows: Sequence[Sequence[int]], side: str = "right", value: int = 0) -> Tensor:
    """Rows of numbers side by side [row pos]."""
    rows = [torch.tensor(row) for row in rows]
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def token_ids(model, words: Sequence[str]) -> Tensor:
    """The token of each word [word].

    Errors: `ValueError` for a word that is not exactly one token of this tokenizer.
    """
    words = [words] if isinstance(words, str) else list(words)
    rows = [model.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    unknown = model.tokenizer.unk_token_id
    wrong = [w for w, row in zip(words, rows, strict=True) if len(row) != 1 or row[0] == unknown]
    if wrong:
        raise ValueError(
            f"expected words of one token each, found {wrong[0]!r}, which is not; give words that this "
            "tokenizer knows, most of them with their leading space"
        )
    return torch.tensor(rows, device=model.hf.device)[:, 0]


@dataclass(frozen=True)
class Asked:
    """Prompts, padded on the right, and what is asked after the last word of each."""

    ids: Tensor  # [prompt pos]
    last: Tensor  # position of the word that asks [prompt]
    answers: Tensor  # token ids [prompt]
    foils: Tensor | None = None  # token ids of a wrong answer [prompt]
    # The same prompts with another cause, where the foil is right [prompt pos].
    corrupt: Tensor | None = None
    at: Mapping[str, Tensor] = field(default_factory=dict)  # positions that count, by name [prompt]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor | slice) -> "Asked":
        foils, corrupt = (None if x is None else x[rows] for x in (self.foils, self.corrupt))
        at = {name: positions[rows] for name, positions in self.at.items()}
        return Asked(self.ids[rows], self.last[rows], self.answers[rows], foils, corrupt, at)

    @property
    def mask(self) -> Tensor:
        """Where a prompt has words [prompt pos]."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) <= self.last[:, None]

    def score(self, logits: Tensor) -> Tensor:
        """The answer's logit after the last word, minus the foil's where there is one.

        logits [k*prompt vocab], k variants of all prompts one after the other: [k*prompt].
        """
        times = len(logits) // len(self)
        of_answer = logits.gather(1, self.answers.repeat(times)[:, None])[:, 0]
        if self.foils is None:
            return of_answer
        return of_answer - logits.gather(1, self.foils.repeat(times)[:, None])[:, 0]

    def right(self, logits: Tensor) -> Tensor:
        """Whether the answer is the likeliest of all words: logits [prompt vocab] -> [prompt]."""
        return logits.argmax(-1) == self.answers


def ask(
    model,
    prompts: str | Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str] | None = None,
    corrupt: Sequence[str] | None = None,
    at: Mapping[str, Sequence[int]] | None = None,
) -> Asked:
    """Prompts for a run of the model; answers and foils are one token each, one for each prompt.

    corrupt: prompts of the same lengths that differ in one cause. at: positions in tokens, by name.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    ids, mask = tokens(model, prompts)
    answers, foils = (None if words is None else token_ids(model, words) for words in (answers, foils))
    for words in (answers, foils):
        if words is not None and len(words) != len(prompts):
            raise ValueError(
                f"expected one answer for each of {len(prompts)} prompts, found {len(words)}"
            )
    other = None
    if corrupt is not None:
        other, lengths = tokens(model, corrupt).ids, tokens(model, corrupt).lengths
        if not torch.equal(lengths, mask.sum(1)):
            raise ValueError(
                f"expected pairs of prompts of equal length in tokens, found {mask.sum(1).tolist()[:8]} "
                f"and {lengths.tolist()[:8]}; take pairs that differ in words of one token"
            )
        if same := int((ids == other).all(1).sum()):
            raise ValueError(
                f"expected pairs whose prompts differ, found {same} with two equal prompts; in a minimal "
                "pair only the answer differs: use pairs that change the cause"
            )
    last = mask.sum(1) - 1
    positions = {name: torch.tensor(list(p), device=ids.device) for name, p in (at or {}).items()}
    for name, where in positions.items():
        if (where > last).any():
            raise ValueError(
                f"expected {name!r} within each prompt, found a position behind its last word"
            )
    return Asked(ids, last, answers, foils, other, positions)


def at_positions(asked: Asked, *positions: Tensor) -> Tensor:
    """Mask [prompt pos] that is true at each of the positions [prompt]."""
    mask = torch.zeros_like(asked.ids, dtype=torch.bool)
    for where in positions:
        mask[torch.arange(len(asked), device=where.device), where] = True
    return mask


def encode(model, documents: Sequence[Document]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of each document, and where each of its words ends among them."""
    known: dict[str, list[int]] = {}
    rows, ends = [], []
    for document in documents:
        if document.ids:  # words are tokens already
            rows.append(list(document.ids[: len(document.words)]))
            ends.append(list(range(len(rows[-1]))))
            continue
        row, at = [], []
        for i, word in enumerate(document.words):
            text = " " * (i > 0) + word.text
            if text not in known:
                known[text] = model.tokenizer(text, add_special_tokens=False).input_ids
            row += known[text]
            at.append(len(row) - 1)
        rows.append(row)
        ends.append(at)
    return rows, ends


def batches(
    rows: Sequence[Sequence[int]], device, exact: bool = False, size: int = BATCH, ordered: bool = True
) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, ids [batch pos]) of rows of tokens of like length, padded on the right; exact: of equal
    length, so that nothing is padded; ordered False: in the rows' own order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if ordered else list(range(len(rows)))
    while order:
        part = [i for i in order[:size] if not exact or len(rows[i]) == len(rows[order[0]])]
        order = order[len(part) :]
        yield part, _padded([rows[i] for i in part]).to(device)


def of_one_length(model, texts: Sequence[str], size: int = BATCH) -> list[tuple[list[int], Tensor]]:
    """(indices, ids [batch pos]) of texts of one length together, so that nothing is padded and every
    model reads every row exactly as it would alone."""
    return list(batches(model.tokenizer(list(texts)).input_ids, model.hf.device, exact=True, size=size))


def padded_alike(model, mask: Tensor, size: int = BATCH) -> list[Tensor]:
    """Which rows of a mask [text pos] to read together: `size` of like length, or of one length where an
    architecture would read padding on the left as words."""
    lengths = mask.sum(1)
    if not model.lacks("padding on the left"):
        return list(lengths.argsort(stable=True).split(size))
    return [some for n in lengths.unique() for some in (lengths == n).nonzero()[:, 0].split(size)]


# ---- runs, open block by block ---------------------------------------------------------------------


@torch.no_grad()
def streams(model, ids: Tensor, k: int | None = None) -> Tensor:
    """The residual stream of a run on ids [batch pos], after 0 ... k blocks (None: all of them):
    [depth batch pos d_model]."""
    x = [model.embed(ids)]
    for layer in range(model.n_layers if k is None else k):
        x.append(model.block(layer, x[-1]))
    return torch.stack(x)


def finish(model, x: Tensor, k: int, last: Tensor, puts: Mapping[int, Callable] | None = None) -> Tensor:
    """Logits after the word at `last` [batch vocab] of a run that has the residual stream
    x [batch pos d_model] after k blocks. puts: layer -> the `put` of its block."""
    for layer in range(k, model.n_layers):
        x = model.block(layer, x, (puts or {}).get(layer, keep))
    return model.to_logits(x[torch.arange(len(x), device=x.device), last])


# ---- runs of transformers ---------------------------------------------------------------------------


def run(model, ids: Tensor, mask: Tensor | None = None, cache=None):
    """Reads ids [text pos] on from a cache: (cache, the last word's logits [text vocab]).

    mask covers the words in the cache too, and is 0 at padding, which stands on the left. A recurrent
    model has no use for it after the first pass.
    Errors: `ValueError` where padding stands on the right: the last words would not be words.
    `Unsupported` from an architecture without a cache, or that would read padding as words.
    """
    if mask is not None and not mask[:, -1].all():
        raise ValueError(
            "expected padding on the left, found it on the right; use tokens(..., side='left')"
        )
    model.requires("continuation")
    if mask is not None and (mask.all() or (cache is not None and model.compressed)):
        mask = None
    if mask is not None:
        model.requires("padding on the left")
    keyword = model.architecture.CACHE
    out = model.hf(ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **{keyword: cache})
    return out[keyword], out.logits[:, -1]


def depths(model) -> list[torch.nn.Module]:
    """The modules whose output is the residual stream after k = 0 ... n_layers blocks."""
    return [model.module("embedding"), *(model.module("block", layer) for layer in range(model.n_layers))]


@contextmanager
def hooked(module: torch.nn.Module, change: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Within plain forward passes, change(input, output) takes the place of the module's output (None:
    leaves it). A module that gives a tuple has its first element changed."""

    def hook(module, inputs, output):
        whole = output if isinstance(output, tuple) else (output,)
        changed = change(inputs[0] if inputs else None, whole[0])
        if changed is None:
            return None
        changed = changed.to(whole[0].device)  # blocks may lie on several
        return (changed, *whole[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def caught(modules: Sequence[torch.nn.Module], pick: Callable = lambda output: output) -> Iterator[list]:
    """A list that fills with pick(output) of each module, in the order in which they run."""
    caught_values: list = []
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(hooked(module, lambda _, output: caught_values.append(pick(output))))
        yield caught_values


@contextmanager
def watch(model, note: Callable[[str, int, Tensor], Tensor | None]) -> Iterator[None]:
    """note(site, depth, value) sees the residual stream at every depth and every mixer's output in
    plain forward passes; what it returns, if anything, takes the value's place."""
    modules = [("residual", k, module) for k, module in enumerate(depths(model))]
    modules += [("mixer", layer, model.module("mixer", layer)) for layer in range(model.n_layers)]
    with ExitStack() as stack:
        for site, depth, module in modules:
            stack.enter_context(hooked(module, lambda _, value, s=site, k=depth: note(s, k, value)))
        yield


@torch.no_grad()
def read(model, documents: Sequence[Document], at: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What stands at m words of each document: site -> [n m depth d].

    at: positions of words [n m]. Sites: 'residual' after k = 0 ... L blocks; 'mixer', what block
    k's mixer adds. Models are causal: nothing behind a document's last such word is run.
    """
    rows, ends = encode(model, documents)
    where = [[end[i] for i in row] for end, row in zip(ends, at, strict=True)]
    rows = [row[: max(places) + 1] for row, places in zip(rows, where, strict=True)]
    where = torch.tensor(where)
    n, m, L, d = *where.shape, model.n_layers, model.config.hidden_size
    vectors = {"residual": torch.zeros(n, m, L + 1, d), "mixer": torch.zeros(n, m, L, d)}
    for part, ids in batches(rows, model.hf.device):
        at_row = torch.arange(len(part))[:, None]

        def note(site, depth, value, part=part, at_row=at_row):
            vectors[site][part, :, depth] = value[at_row, where[part]].float().cpu()

        with watch(model, note):
            model.hf.base_model(input_ids=ids, use_cache=False)
    return vectors


@torch.no_grad()
def read_state(
    model, documents: Sequence[Document], at: Sequence[int], layers: Sequence[int]
) -> dict[str, Tensor]:
    """What these layers carry once the word at `at` [n] is read: part -> [n layer size].

    Only parts of a fixed size, which all of the past has to share; empty when there are none.
    """
    parts = model.kind(layers[0]).compressed
    if not parts:
        return {}
    rows, ends = encode(model, documents)
    rows = [row[: end[i] + 1] for row, end, i in zip(rows, ends, at, strict=True)]
    carried: dict[str, list] = {part: [None] * len(rows) for part in parts}
    for some, ids in batches(rows, model.hf.device, exact=True):
        cache = model.hf.base_model(input_ids=ids, use_cache=True)[model.architecture.CACHE]
        states = [model.state(cache, layer) for layer in layers]
        for name in parts:
            stacked = torch.stack([state[name].flatten(1).float().cpu() for state in states], 1)
            for row, i in zip(stacked, some, strict=True):
                carried[name][i] = row
    return {name: torch.stack(rows) for name, rows in carried.items()}
