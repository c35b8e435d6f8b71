"""Lenses: what a model would say after k of its L blocks.

The residual stream after k blocks is r_k; the final norm is n, the unembedding U. The logit lens
(nostalgebraist 2020) reads every depth with the last two steps of the model; the tuned lens
(Belrose et al. 2023, arXiv 2303.08112, eq. 8) first lets an affine *translator* take r_k to what the
last depth would hold:

    logit lens   z = U n(r_k)
    tuned lens   z = U n(r_k + A_k r_k + b_k)       A_k, b_k start at zero: it starts as a logit lens

k = 0 is the embedding and k = L is the model itself, which has no translator. Translators learn to
minimise KL(model || lens) at the same word. With q = softmax(z) the lens's distribution, p the model's
own and e(q) = sum_v q_v U_v, the mean unembedding row,

    KL = log sum exp z - x . e(p) + const,     dKL/dx = e(q) - e(p),     x = n(r + A r + b)

so one number and one vector a word are all that training needs of the vocabulary: `mean_row`.

    texts = encode(model, ["The capital of Zabar is Dovella ."])
    states = cached(model, texts, 256)(step)               # what a step of training reads
    divergence(model, lens, states)                        # its loss, differentiable in the translators
    measure(model, lens, texts).bits_per_byte("ce")        # an Estimate for each depth
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tft_utils import reading
from tft_utils.stats import Estimate, ratio

ROWS = 512  # words whose logits exist at one time


def finite(numbers: Tensor, what: str) -> Tensor:
    """The numbers, as they are. Errors: `ValueError` where one of them has overflowed."""
    if not numbers.isfinite().all():
        raise ValueError(
            f"expected finite {what}, found numbers that are not, as when float16 overflows; load the "
            "model with dtype=torch.bfloat16, which has the range of float32"
        )
    return numbers


# ---- texts and residual streams --------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Texts as a model reads them, padded on the right: the models are causal."""

    ids: Tensor  # [text pos]
    counted: Tensor  # [text pos], True where a next word follows; only these are read
    n_bytes: Tensor  # [text], UTF-8 bytes of the text behind its first token

    @property
    def n_words(self) -> Tensor:
        """How many words of each text are read [text]."""
        return self.counted.sum(1)

    def batches(self) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(texts, ids, counted) of all texts, those of like length together: little padding."""
        rows = [row[: n + 1] for row, n in zip(self.ids.tolist(), self.n_words.tolist(), strict=True)]
        for texts, ids in reading.batches(rows, self.ids.device):
            yield texts, ids, self.counted[texts, : ids.shape[1]]


def encode(model, texts: str | Sequence[str]) -> Texts:
    """Tokenizes texts of at least two tokens each. A space belongs to the word that it comes before."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    ids, mask = reading.tokens(model, texts)
    lengths = mask.sum(1)
    if lengths.min() < 2:
        raise ValueError(
            f"expected texts of at least 2 tokens, found {texts[int(lengths.argmin())]!r}; leave it out, "
            "because nothing follows its first token"
        )
    counted = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None] - 1
    n_bytes = [_bytes_that_follow(model.tokenizer, text) for text in texts]
    return Texts(ids, counted, torch.tensor(n_bytes, dtype=torch.float64))


def _bytes_that_follow(tokenizer, text: str) -> int:
    """UTF-8 bytes of a text behind its first token, which may end within a character."""
    encoded = tokenizer(text)
    span, token = encoded.token_to_chars(0), encoded.tokens()[0]
    if span is None:  # a mark before the text
        return len(text.encode())
    if "ByteLevel" not in repr(tokenizer.backend_tokenizer.decoder):
        return len(text[span.end :].encode())
    put_before = "" if text.startswith(" ") else "Ġ"  # some tokenizers put a space before a text
    return len(text.encode()) - len(token.removeprefix(put_before))  # a letter for each byte


@torch.no_grad()
def residuals(model, ids: Tensor, counted: Tensor) -> Tensor:
    """The residual stream after k = 0 ... L blocks at the counted words [k word d_model], in the
    model's dtype; ids and counted [text pos]."""
    with reading.caught(reading.depths(model), lambda stream: stream[counted]) as streams:
        model.hf.base_model(input_ids=ids, use_cache=False)
    return finite(torch.stack([stream.to(model.hf.dtype) for stream in streams]), "residual streams")


# ---- the lens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lens:
    """One translator for each depth k < L. All zeros: the logit lens."""

    A: Tensor  # [k d_model d_model], float32
    b: Tensor  # [k d_model]

    def __post_init__(self) -> None:
        finite(self.A, "translators")
        finite(self.b, "translators")

    def translate(self, states: Tensor) -> Tensor:
        """r + A r + b in float32 for states [k word d_model]: depth by depth, the last as it is."""
        states = states.float()
        moved = torch.baddbmm(self.b[:, None], states[:-1], self.A.mT)
        return torch.cat([states[:-1] + moved, states[-1:]])


def logit_lens(model) -> Lens:
    """The lens whose translators do nothing."""
    rows, n = model.module("unembedding").weight, model.n_layers
    d, options = rows.shape[1], {"dtype": torch.float32, "device": rows.device}
    return Lens(torch.zeros(n, d, d, **options), torch.zeros(n, d, **options))


# ---- training: the words, the loss and its gradient -------------------------------------------------


def cached(model, texts: Texts, batch: int, seed: int = 0) -> Callable[[int], Tensor]:
    """step -> residuals [k word d_model] of `batch` words, mixed from all texts, which the model reads
    once, and which are kept: word * (L + 1) * d_model numbers. Every word comes once an epoch."""
    states = torch.cat([residuals(model, ids, counted) for _, ids, counted in texts.batches()], 1)
    if not 0 < batch <= (n := states.shape[1]):
        raise ValueError(f"expected a batch of 1 to {n} words, found {batch}; choose another size")

    def pick(step: int) -> Tensor:
        epoch, at = divmod(step, n // batch)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        words = torch.randperm(n, generator=draw)[at * batch : (at + 1) * batch]
        return states[:, words.to(states.device)]

    return pick


@torch.no_grad()
def mean_row(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Under q = softmax(x . rows) the mean row sum_v q_v rows_v [word d_model] and log sum exp [word],
    both float32, for x [word d_model] and rows [vocab d_model].

    The logits of at most `ROWS` words exist at a time, in one array that is used again.
    """
    mean, log_sum = (torch.empty_like(x, dtype=torch.float32), x.new_empty(len(x), dtype=torch.float32))
    scratch = x.new_empty(min(ROWS, len(x)), len(rows))
    for words, out, total in zip(x.split(ROWS), mean.split(ROWS), log_sum.split(ROWS), strict=True):
        logits = torch.mm(words, rows.mT, out=scratch[: len(words)])
        z = logits.float()  # the same memory when it is float32 already
        most = z.amax(-1, keepdim=True)
        z.sub_(most).exp_()
        sums = z.sum(-1, keepdim=True)
        torch.div(logits.copy_(z) @ rows, sums, out=out)
        total.copy_((most + sums.log())[:, 0])
    return mean, log_sum


class _Divergence(torch.autograd.Function):
    """KL(p || q) [k word] of q = softmax(x . rows), x [k word d_model], from p = softmax(final . rows).

    The gradient e(q) - e(p) is made on the way forward, while the logits exist. It has no graph.
    """

    @staticmethod
    def forward(ctx, x: Tensor, final: Tensor, rows: Tensor) -> Tensor:
        target, own = mean_row(final, rows)
        mean, log_sum = mean_row(x.flatten(0, 1), rows)
        ctx.save_for_backward(mean.view(x.shape).sub_(target).to(x.dtype))
        away = ((final.float() - x.float()) * target).sum(-1)
        return log_sum.view(x.shape[:-1]) - own + away

    @staticmethod
    def backward(ctx, given: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise NotImplementedError(
                "expected one derivative, found create_graph=True; differentiate `model.to_logits` twice"
            )
        (gradient,) = ctx.saved_tensors
        return gradient * given[..., None].to(gradient.dtype), None, None


def divergence(model, lens: Lens, states: Tensor) -> Tensor:
    """Mean KL(model || lens) of each depth [k] in nats a word, k < L, for states [k word d_model];
    differentiable in the translators."""
    h, norm, linear = lens.translate(states), model.module("final_norm"), model.module("unembedding")
    if model.capped or linear.bias is not None:  # logits are more than x . rows: leave it to autograd
        few = h.split(max(1, ROWS // len(h)), 1)
        kl = [checkpoint(_plain, model, words, use_reentrant=False) for words in few]
        return torch.cat(kl, 1).mean(-1)
    x = norm(h.to(model.hf.dtype)).to(linear.weight.dtype)
    return _Divergence.apply(x[:-1], x[-1].detach(), linear.weight.detach()).mean(-1)


def _plain(model, h: Tensor) -> Tensor:
    """KL(model || lens) [k word], k < L, by all logits of states h [k word d_model]."""
    log_q = model.to_logits(h).float().log_softmax(-1)
    return (log_q[-1].exp() * (log_q[-1] - log_q[:-1])).sum(-1)


# ---- what a lens says ------------------------------------------------------------------------------


def log_probs(model, h: Tensor) -> Iterator[Tensor]:
    """log softmax U n(h) in float32 for states h [... word d_model], `ROWS` words at a time:
    [... word vocab]."""
    step = max(1, ROWS // max(1, math.prod(h.shape[:-2])))
    for words in h.split(step, dim=-2):
        log_q = model.to_logits(words).float().log_softmax(-1)
        finite(log_q[..., 0], "logits")  # one that overflows spoils all of its word
        yield log_q


@dataclass(frozen=True)
class Measured:
    """What a lens costs on some texts, summed over the words of each: [text k], in nats.

    ce: cross-entropy of the word that follows. kl: KL(model || lens). entropy: of the lens.
    """

    ce: Tensor
    kl: Tensor
    entropy: Tensor
    n_words: Tensor  # [text]
    n_bytes: Tensor  # [text]

    def nats_per_word(self, metric: str) -> list[Estimate]:
        """One estimate of 'ce', 'kl' or 'entropy' for each depth k, in nats per token; n counts texts."""
        return [ratio(column, self.n_words) for column in getattr(self, metric).T]

    def bits_per_byte(self, metric: str) -> list[Estimate]:
        """The same in bits per UTF-8 byte, spaces counted."""
        return [ratio(column, self.n_bytes * math.log(2)) for column in getattr(self, metric).T]

    def minus(self, other: "Measured") -> list[Estimate]:
        """How much more cross-entropy than another lens on the same texts, text by text, in nats per
        token."""
        if not torch.equal(self.n_bytes, other.n_bytes):
            raise ValueError(
                "expected two measurements of the same texts, found others; measure both on one `Texts`"
            )
        return [ratio(column, self.n_words) for column in (self.ce - other.ce).T]

    @property
    def excess(self) -> Tensor:
        """Cross-entropy beyond the model's own [text k]: what is missing before the last depth."""
        return self.ce - self.ce[:, -1:]


@torch.no_grad()
def measure(model, lens: Lens, texts: Texts) -> Measured:
    """Cross-entropy, KL and entropy of a lens at every depth, on texts it was not trained on."""
    sums = torch.zeros(3, len(texts.ids), len(lens.A) + 1, dtype=torch.float64)
    for rows, ids, counted in texts.batches():
        h = lens.translate(residuals(model, ids, counted))
        text = torch.tensor(rows).repeat_interleave(counted.sum(1).cpu())
        costs = scores(model, h, ids[:, 1:][counted[:, :-1]])
        sums.index_add_(1, text, costs.mT.cpu().double())
    return Measured(*sums, n_words=texts.n_words.cpu(), n_bytes=texts.n_bytes)


def scores(model, h: Tensor, following: Tensor) -> Tensor:
    """ce, kl and entropy [metric k word] in nats, of translated states h [k word d_model], the last of
    which is the model's own; following: the ids of the next words [word]."""
    columns, start = [], 0
    for log_q in log_probs(model, h):
        ids = following[start : (start := start + log_q.shape[1])]
        ce = -log_q.gather(-1, ids.expand(len(log_q), -1)[..., None])[..., 0]
        p, q = log_q[-1].exp(), log_q.exp()
        kl = (p * log_q[-1]).sum(-1) - torch.einsum("wv,kwv->kw", p, log_q)
        columns.append(torch.stack([ce, kl, -(q * log_q).sum(-1)]))
    return torch.cat(columns, -1)


def spelled(model, ids: Tensor) -> list[str]:
    """Tokens [pos] as one reads them, without the space before a word; nothing but space is in quotes."""
    words = [model.tokenizer.decode([i]) for i in ids.tolist()]
    return [word.strip() or repr(word) for word in words]


class Trajectory(NamedTuple):
    """What a lens says about one text, depth by depth."""

    words: list[str]  # [pos], the text
    guesses: list[list[str]]  # [k pos], the likeliest next word
    chances: Tensor  # [k pos], its probability


@torch.no_grad()
def trajectory(model, lens: Lens, text: str) -> Trajectory:
    """The likeliest next word after every word of a text, at every depth k."""
    ids, mask = reading.tokens(model, text)
    h = lens.translate(residuals(model, ids, mask.bool()))
    chances, guesses = zip(*(log_q.max(-1) for log_q in log_probs(model, h)), strict=True)
    likeliest = [spelled(model, row) for row in torch.cat(guesses, 1)]
    return Trajectory(spelled(model, ids[0]), likeliest, torch.cat(chances, 1).exp().cpu())


@torch.no_grad()
def known(model, lens: Lens, prompts, answers, foils: Sequence[str] | None = None) -> Tensor:
    """Whether each answer is the lens's first choice after its prompt [prompt k]; with foils, whether
    it is likelier than its foil. Answers and foils are one token each."""
    asked = reading.ask(model, prompts, answers, foils)
    h = lens.translate(residuals(model, asked.ids, reading.at_positions(asked, asked.last)))
    right = asked.right if foils is None else lambda logits: asked.score(logits) > 0
    return torch.stack([right(finite(model.to_logits(state), "logits")) for state in h], 1).cpu()
