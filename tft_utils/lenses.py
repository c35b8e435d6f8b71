"""Lenses: what a model would say after k of its L blocks.

The residual stream after k blocks is r_k; the final norm is n, the unembedding U. The logit lens
(nostalgebraist 2020) reads every depth with the last two steps of the model; the tuned lens
(Belrose et al. 2023, arXiv 2303.08112, eq. 8) first lets an affine *translator* take r_k to what the
last depth would hold:

    logit lens   z = U n(r_k)
    tuned lens   z = U n(r_k + A_k r_k + b_k)       A_k, b_k start at zero: it starts as a logit lens

k = 0 is the embedding and k = L is the model itself, which has no translator. A translator learns to
minimise KL(model || lens) at the same word. With q = softmax(z), p the model's own distribution and
e(q) = sum_v q_v U_v, the mean unembedding row,

    KL = log sum exp z - x . e(p) + const,     dKL/dx = e(q) - e(p),     x = n(...)

so one number and one vector a word are all that training needs of the vocabulary: `mean_row`.

    texts = encode(model, ["The capital of Zabar is Dovella ."])
    lens = train(model, cached(model, texts, 2048), steps=200)
    measure(model, lens, texts).bits_per_byte("ce")        # an Estimate for each depth

The model may be a `models.Model`, or anything with its `hf`, `architecture` and `tokenizer`.
"""

import functools
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tft_utils import relevance
from tft_utils.organisms import replace_file
from tft_utils.stats import Estimate, Z

ROWS = 256  # words whose logits exist at one time
METRICS = ("ce", "kl", "entropy")
RATE, BETAS = 0.08, (0.8, 0.9)  # of Adam; for matrices at width 128, and less for wider ones
RIDGE = 0.3  # of a depth's mean variance: what counts as a direction of little variance
SAY_EVERY, SAVE_EVERY = 5.0, 60.0  # seconds between two lines of progress, and two checkpoints


# ---- texts and residual streams --------------------------------------------------------------------


class Texts(NamedTuple):
    """Texts as a model reads them, padded on the right: the models are causal."""

    ids: Tensor  # [text pos]
    counted: Tensor  # [text pos], True where a next word follows; only these are read
    n_bytes: Tensor  # [text], UTF-8 bytes of the words that follow, each with the space before it

    def __len__(self) -> int:
        return len(self.ids)


def encode(model, texts: Sequence[str]) -> Texts:
    """Tokenizes texts of at least two tokens each. Bytes are those of the decoded text after its
    first token, so a space belongs to the word that it comes before."""
    ids, lengths = _padded(model, texts)
    if min(lengths) < 2:
        raise ValueError(
            f"expected texts of at least 2 tokens, found {texts[int(lengths.argmin())]!r}; leave it out, "
            "because nothing follows its first token"
        )
    decode, device = model.tokenizer.decode, model.hf.device
    n_bytes = [len(decode(row[:n]).encode()) - len(decode(row[:1]).encode())
               for row, n in zip(ids, lengths, strict=True)]  # fmt: skip
    counted = torch.arange(ids.shape[1]) < lengths[:, None] - 1
    return Texts(ids.to(device), counted.to(device), torch.tensor(n_bytes, dtype=torch.float64))


def _padded(model, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """ids [text pos] with zeros on the right, and lengths [text]."""
    rows = [torch.tensor(model.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    if not rows:
        raise ValueError("expected at least one text, found none; give a list of texts")
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([*map(len, rows)])


@torch.no_grad()
def residuals(model, ids: Tensor, counted: Tensor) -> Tensor:
    """The residual stream after k = 0 ... L blocks at the counted words [k word d_model], in the
    model's dtype; ids and counted [text pos]."""
    parts, found = model.architecture, []
    modules = [parts.embedding(model.hf), *parts.blocks(model.hf)]
    hooks = [module.register_forward_hook(lambda _, inputs, output: found.append(output[counted]))
             for module in modules]  # fmt: skip
    try:
        model.hf(input_ids=ids, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([each.to(model.hf.dtype) for each in found])


def streamed(model, texts: Texts, batch: int, seed: int = 0) -> Callable[[int], Tensor]:
    """step -> residuals [k word d_model] of `batch` texts, which the model reads at that step.

    Every text comes once an epoch. A step's texts follow from seed and step alone.
    """

    def read(step: int) -> Tensor:
        return residuals(model, *_some(texts, _drawn(len(texts), batch, step, seed)))

    return read


def cached(model, texts: Texts, batch: int, seed: int = 0, read: int = 64) -> Callable[[int], Tensor]:
    """step -> residuals [k word d_model] of `batch` words, mixed from all texts, which the model reads
    once, `read` texts at a time, and which are kept: word * (L + 1) * d_model numbers."""
    states = torch.cat([residuals(model, *_some(texts, rows)) for rows in _by_length(texts, read)], 1)

    def pick(step: int) -> Tensor:
        return states[:, _drawn(states.shape[1], batch, step, seed).to(states.device)]

    return pick


def _by_length(texts: Texts, read: int) -> Iterator[Tensor]:
    """All texts, those of similar length together: little padding."""
    return texts.counted.sum(1).argsort(stable=True).split(read)


def _some(texts: Texts, rows: Tensor) -> tuple[Tensor, Tensor]:
    """ids and counted of some texts, without the padding that only longer ones need."""
    rows = rows.to(texts.ids.device)
    longest = int(texts.counted[rows].sum(1).max()) + 1
    return texts.ids[rows, :longest], texts.counted[rows, :longest]


def _drawn(n: int, batch: int, step: int, seed: int) -> Tensor:
    """The items of a step when all n are dealt out in a new order every epoch."""
    if not 0 < batch <= n:
        raise ValueError(f"expected a batch of 1 to {n} items, found {batch}; choose a smaller one")
    epoch, at = divmod(step, n // batch)
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=draw)[at * batch : (at + 1) * batch]


# ---- the lens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lens:
    """One translator for each depth k < L. All zeros: the logit lens."""

    A: Tensor  # [k d_model d_model], float32
    b: Tensor  # [k d_model]

    def translate(self, states: Tensor, k: int | None = None) -> Tensor:
        """r + A r + b in float32 for states [k word d_model]: depth by depth, the last as it is.
        With k: every depth by translator k, where k = L is none."""
        states = states.float()
        if k is None:
            moved = torch.baddbmm(self.b[:, None], states[:-1], self.A.mT)
            return torch.cat([states[:-1] + moved, states[-1:]])
        return states if k == len(self.A) else states + states @ self.A[k].T + self.b[k]


def logit_lens(model) -> Lens:
    """The lens whose translators do nothing."""
    parts = model.architecture
    n, d = len(parts.blocks(model.hf)), parts.unembedding(model.hf).weight.shape[1]
    return Lens(torch.zeros(n, d, d, device=model.hf.device), torch.zeros(n, d, device=model.hf.device))


def normed(model, h: Tensor) -> Tensor:
    """n(h) [... d_model] as the unembedding reads it, in the model's dtype."""
    norm, dtype = model.architecture.final_norm(model.hf), model.hf.dtype
    return norm(h.to(dtype)).to(dtype)


def unembedding(model) -> Tensor:
    """U [vocab d_model]."""
    linear = model.architecture.unembedding(model.hf)
    if linear.bias is not None:
        raise ValueError("expected an unembedding without bias, found one; a lens has no place for it")
    return linear.weight.detach()


# ---- training: all depths in one pass --------------------------------------------------------------


@torch.no_grad()
def mean_row(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Under q = softmax(x . rows) the mean row sum_v q_v rows_v [word d_model] and log sum exp [word],
    both float32, for x [word d_model] and rows [vocab d_model].

    The logits of at most `ROWS` words exist at a time, in one float32 array that is used again.
    """
    mean, log_sum = torch.empty_like(x, dtype=torch.float32), x.new_empty(len(x), dtype=torch.float32)
    scratch = x.new_empty(min(ROWS, len(x)), len(rows))
    for part, out, total in zip(x.split(ROWS), mean.split(ROWS), log_sum.split(ROWS), strict=True):
        logits = torch.mm(part, rows.mT, out=scratch[: len(part)])
        z = logits.float()  # the same memory when it is float32 already
        most = z.amax(-1, keepdim=True)
        z.sub_(most).exp_()
        sums = z.sum(-1, keepdim=True)
        torch.div(logits.copy_(z) @ rows, sums, out=out)
        total.copy_((most + sums.log())[:, 0])
    return mean, log_sum


class _Divergence(torch.autograd.Function):
    """KL(p || q) [k word] of q = softmax(x . rows), x [k word d_model], from p = softmax(final . rows).

    The gradient e(q) - e(p) is made on the way forward, while the logits exist.
    """

    @staticmethod
    def forward(ctx, x: Tensor, final: Tensor, rows: Tensor) -> Tensor:
        target, own = mean_row(final, rows)
        mean, log_sum = mean_row(x.flatten(0, 1), rows)
        ctx.save_for_backward((mean.view(x.shape) - target).to(x.dtype))
        away = ((final.float() - x.float()) * target).sum(-1)
        return log_sum.view(x.shape[:-1]) - own + away

    @staticmethod
    def backward(ctx, given: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * given[..., None].to(gradient.dtype), None, None


def divergence(model, lens: Lens, states: Tensor) -> Tensor:
    """Mean KL(model || lens) of each depth [k] in nats a word, k < L, for states [k word d_model];
    differentiable in the translators."""
    x = normed(model, lens.translate(states))
    return _Divergence.apply(x[:-1], x[-1].detach(), unembedding(model)).mean(-1)


def train(model, source: Callable[[int], Tensor], steps: int, checkpoint: Path | None = None,
          say: Callable = print) -> Lens:  # fmt: skip
    """Trains the translators of all depths at once on source(0) ... source(steps - 1).

    Adam, each depth on its own, in coordinates where the residual stream is white (`_whitened`):
    A = M P and b = c - M P mean for what is learned, M and c, which start at zero. The rate falls
    linearly to zero. checkpoint: a file that is written every minute and that a later call with the
    same source carries on from.
    """
    center, P, scale = _whitened(source(0))
    M = torch.zeros_like(P, requires_grad=True)
    c = torch.zeros_like(center, requires_grad=True)
    rates = (RATE * 128 / len(P[0]), RATE)  # a sum over more inputs moves further: Yang et al. 2022
    optimiser = torch.optim.Adam([{"params": [each]} for each in (M, c)], betas=BETAS)
    parameters, done = {"M": M, "c": c}, 0
    identity = {"digest": digest(model), "steps": steps}
    if checkpoint is not None and checkpoint.exists():
        saved = _carried_on(checkpoint, identity)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
        optimiser.load_state_dict(saved["optimiser"])
        done = saved["step"]
        say(f"lens: carrying on from step {done} ...", file=sys.stderr)

    def lens() -> Lens:
        A = M @ P
        return Lens(A, (c * scale - center @ A.mT)[:, 0])

    def save(step: int) -> None:
        whole = {name: each.detach() for name, each in parameters.items()} | identity
        whole |= {"optimiser": optimiser.state_dict(), "step": step}
        replace_file(checkpoint, functools.partial(torch.save, whole))

    start = said = kept = time.monotonic()
    for step in range(done, steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        with torch.enable_grad():
            kl = divergence(model, lens(), source(step))
            optimiser.zero_grad()
            kl.sum().backward()
        optimiser.step()
        now, last = time.monotonic(), step + 1 == steps
        if now - said > SAY_EVERY or last:
            said, left = now, (steps - step - 1) * (now - start) / (step + 1 - done)
            say(f"lens: step {step + 1}/{steps}, KL {kl.mean():.3f} nats, {left:.0f} s left ...",
                file=sys.stderr)  # fmt: skip
        if checkpoint is not None and (now - kept > SAVE_EVERY or last):
            kept = now
            save(step + 1)
    with torch.no_grad():
        return lens()


def _whitened(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each depth k < L of states [k word d_model]: the mean [k 1 d_model], P [k d_model d_model]
    and the typical size of a coordinate [k 1 1]. P (r - mean) is about as large in every direction of
    much variance; as the stream comes, a few directions dwarf the others, which then learn slowly."""
    r = states[:-1].float()
    center = r.mean(1, keepdim=True)
    covariance = (r - center).mT @ (r - center) / r.shape[1]
    values, vectors = torch.linalg.eigh(covariance.double())
    mean = values.mean(-1, keepdim=True)
    gains = (mean / (values.clamp(min=0) + RIDGE * mean)).sqrt()
    P = (vectors * gains[:, None]) @ vectors.mT
    return center, P.float(), mean.sqrt()[..., None].float()


def _carried_on(checkpoint: Path, identity: dict) -> dict:
    try:
        saved = torch.load(checkpoint, weights_only=True)
    except Exception as error:  # which one depends on where the file was cut
        raise ValueError(
            f"expected a lens's checkpoint in {checkpoint}, found a damaged file; remove it to train "
            "from the start"
        ) from error
    for key, value in identity.items():
        if saved[key] != value:
            raise ValueError(
                f"expected a checkpoint with {key} {value} in {checkpoint}, found {saved[key]}; "
                "remove it, or train with the model and the steps it was written for"
            )
    return saved


def train_as_published(model, source: Callable[[int], Tensor], steps: int) -> Lens:
    """The published recipe (Belrose et al. 2023; Paulo et al. 2024), for comparison: SGD with Nesterov
    momentum 0.9 at rate 0.1 falling linearly, weight decay 1e-3, and one gradient norm, over all
    depths together, clipped at 1."""
    A, b = (each.requires_grad_() for each in vars(logit_lens(model)).values())
    optimiser = torch.optim.SGD([A, b], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        with torch.enable_grad():
            optimiser.zero_grad()
            divergence(model, Lens(A, b), source(step)).sum().backward()
        torch.nn.utils.clip_grad_norm_([A, b], 1.0)
        optimiser.step()
    return Lens(A.detach(), b.detach())


def shuffled(source: Callable[[int], Tensor], seed: int = 0) -> Callable[[int], Tensor]:
    """A source whose last states belong to other words of the batch: the control. All that a lens can
    learn from it is what the model says on average."""

    def read(step: int) -> Tensor:
        states = source(step).clone()
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        order = torch.randperm(states.shape[1], generator=draw).to(states.device)
        states[-1] = states[-1, order]
        return states

    return read


# ---- on disk ---------------------------------------------------------------------------------------


def digest(model) -> str:
    """SHA-256 of the model's weights, their names and their dtypes: what a lens belongs to."""
    found = hashlib.sha256()
    for name, weight in sorted(model.hf.named_parameters()):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        flat = weight.detach().cpu().contiguous().view(torch.uint8).flatten()
        found.update(memoryview(flat.numpy()))
    return found.hexdigest()


def save(lens: Lens, model, path: Path) -> None:
    """Writes a lens as safetensors, with the digest of the model that it was trained on."""
    tensors = {name: each.cpu().contiguous() for name, each in vars(lens).items()}
    metadata = {"model_sha256": digest(model), "form": "r + A r + b"}
    replace_file(Path(path), lambda part: safetensors.torch.save_file(tensors, part, metadata))


def load(path: Path, model) -> Lens:
    """Reads a lens. Errors: `ValueError` when the file is no lens, or one of another model."""
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("model_sha256", "none")
            tensors = {name: file.get_tensor(name) for name in ("A", "b")}
    except Exception as error:
        raise ValueError(
            f"expected a lens in {path}, found {str(error).splitlines()[0]}; train one and save it "
            "there with `lenses.save`"
        ) from error
    if found != (own := digest(model)):
        raise ValueError(
            f"expected a lens of the model with SHA-256 {own[:12]}..., found one of {found[:12]}... in "
            f"{path}; load the model it was trained on, in the same dtype, or train a new lens"
        )
    return Lens(**{name: each.to(model.hf.device) for name, each in tensors.items()})


# ---- what a lens says ------------------------------------------------------------------------------


def log_probs(model, h: Tensor) -> Iterator[Tensor]:
    """log softmax U n(h) in float32 for states h [... word d_model], `ROWS` words at a time:
    [... word vocab]."""
    x, rows = normed(model, h), unembedding(model)
    step = max(1, ROWS // max(1, math.prod(x.shape[:-2])))
    for part in x.split(step, dim=-2):
        yield (part @ rows.mT).float().log_softmax(-1)


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
        """One estimate for each depth k, in nats per token; n counts texts."""
        return self._per(metric, self.n_words)

    def bits_per_byte(self, metric: str) -> list[Estimate]:
        """One estimate for each depth k, in bits per UTF-8 byte, spaces counted; n counts texts."""
        return self._per(metric, self.n_bytes * math.log(2))

    def _per(self, metric: str, units: Tensor) -> list[Estimate]:
        if metric not in METRICS:
            raise ValueError(f"expected a metric among {', '.join(METRICS)}; found {metric!r}")
        return [ratio(column, units) for column in getattr(self, metric).T]

    def minus(self, other: "Measured", metric: str = "ce") -> list[Estimate]:
        """The difference to another lens on the same texts, text by text, in nats per token."""
        if not torch.equal(self.n_bytes, other.n_bytes):
            raise ValueError("expected two measurements of the same texts, found other texts; measure "
                             "both lenses on one `Texts`")  # fmt: skip
        gaps = getattr(self, metric) - getattr(other, metric)
        return [ratio(column, self.n_words) for column in gaps.T]

    @property
    def excess(self) -> Tensor:
        """Cross-entropy beyond the model's own [text k]: what is missing before the last depth."""
        return self.ce - self.ce[:, -1:]


def ratio(amounts: Tensor, units: Tensor) -> Estimate:
    """sum amounts / sum units over texts [text], with its 95 % interval (linearised: Cochran 1977,
    eq. 6.13): texts are the independent observations, not words."""
    amounts, units, n = amounts.double().cpu(), units.double().cpu(), len(units)
    if n < 2:
        raise ValueError(f"expected at least 2 texts for an interval; found {n}")
    value = float(amounts.sum() / units.sum())
    error = (n / (n - 1) * (amounts - value * units).square().sum()).sqrt() / units.sum()
    return Estimate(value, n, value - Z * float(error), value + Z * float(error))


@torch.no_grad()
def measure(model, lens: Lens, texts: Texts, read: int = 64) -> Measured:
    """Cross-entropy, KL and entropy of a lens at every depth, on texts it was not trained on."""
    shape = (len(texts), len(lens.A) + 1)
    sums = {metric: torch.zeros(shape, dtype=torch.float64) for metric in METRICS}
    for rows in _by_length(texts, read):
        ids, counted = _some(texts, rows)
        h = lens.translate(residuals(model, ids, counted))
        following = ids[:, 1:][counted[:, :-1]]
        text = rows.repeat_interleave(counted.sum(1).cpu())
        for metric, values in zip(METRICS, scores(model, h, following), strict=True):
            sums[metric].index_add_(0, text, values.T.double().cpu())
    return Measured(**sums, n_words=texts.counted.sum(1).cpu(), n_bytes=texts.n_bytes)


def scores(model, h: Tensor, following: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(ce, kl, entropy), each [k word] in nats, of translated states h [k word d_model], the last of
    which is the model's own; following: ids [word]."""
    found, start = [], 0
    for log_q in log_probs(model, h):
        ids = following[start : (start := start + log_q.shape[1])]
        ce = -_of(log_q, ids)
        p, q = log_q[-1].exp(), log_q.exp()
        own = (p * log_q[-1]).sum(-1)
        kl = own - torch.einsum("wv,kwv->kw", p, log_q)
        found.append((ce, kl, -(q * log_q).sum(-1)))
    return tuple(torch.cat(parts, 1) for parts in zip(*found, strict=True))


def _of(log_q: Tensor, ids: Tensor) -> Tensor:
    """The entries [k word] of log_q [k word vocab] at ids [word]."""
    return log_q.gather(-1, ids.expand(len(log_q), -1)[..., None])[..., 0]


@torch.no_grad()
def layer_transfer(model, lens: Lens, texts: Texts) -> Tensor:
    """What translator i costs on the states of depth j beyond depth j's own translator, in nats per
    token [i j]: 0 on the diagonal. The last row reads with no translator, as a logit lens does."""
    ids, counted = _some(texts, torch.arange(len(texts)))
    states, following = residuals(model, ids, counted), ids[:, 1:][counted[:, :-1]]
    found = []
    for i in range(len(states)):
        h = torch.cat([lens.translate(states, i), states[-1:].float()])
        found.append(scores(model, h, following)[0][:-1].mean(1))
    ce = torch.stack(found)
    return ce - ce.diagonal()


class Trajectory(NamedTuple):
    """What a lens says about one text, depth by depth."""

    words: list[str]  # [pos], the text
    guesses: list[list[str]]  # [k pos], the likeliest next word
    chances: Tensor  # [k pos], its probability


@torch.no_grad()
def trajectory(model, lens: Lens, text: str) -> Trajectory:
    """The likeliest next word after every word of a text, at every depth k."""
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    ids = ids.to(model.hf.device)
    h = lens.translate(residuals(model, ids, torch.ones_like(ids, dtype=torch.bool)))
    best = [part.max(-1) for part in log_probs(model, h)]
    spell = model.tokenizer.convert_ids_to_tokens
    guesses = torch.cat([each.indices for each in best], 1).tolist()
    chances = torch.cat([each.values for each in best], 1).exp()
    return Trajectory(spell(ids[0].tolist()), [spell(row) for row in guesses], chances.cpu())


# ---- when does a model know? -----------------------------------------------------------------------


@torch.no_grad()
def known(model, lens: Lens, prompts: Sequence[str], answers: Sequence[str],
          foils: Sequence[str] | None = None) -> Tensor:  # fmt: skip
    """Whether each answer is the lens's first choice after its prompt [prompt k]; with foils, whether
    it is likelier than its foil. Answers and foils are one token each."""
    asked = relevance.ask(model, prompts, answers, foils)
    ids, lengths = _padded(model, prompts)
    last = torch.arange(ids.shape[1]) == lengths[:, None] - 1
    h = lens.translate(residuals(model, ids.to(model.hf.device), last.to(model.hf.device)))
    found, start = [], 0
    for log_q in log_probs(model, h):
        rows = slice(start, start := start + log_q.shape[1])
        if foils is None:
            found.append(log_q.argmax(-1) == asked.answers[rows])
        else:
            found.append(_of(log_q, asked.answers[rows]) > _of(log_q, asked.foils[rows]))
    return torch.cat(found, 1).T.cpu()


def settled(right: Tensor) -> Tensor:
    """The first depth from which on an answer stays right, for right [prompt k]; L + 1 where it is
    wrong at the end."""
    return right.shape[1] - right.int().flip(1).cummin(1).values.sum(1)
