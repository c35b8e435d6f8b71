"""Lenses: what a model would say after k of its L blocks.

The residual stream after k blocks is r_k; the final norm is n, the unembedding U. The logit lens
(nostalgebraist 2020) reads every depth with the last two steps of the model; the tuned lens
(Belrose et al. 2023, arXiv 2303.08112, eq. 8) first lets an affine *translator* take r_k to what the
last depth would hold:

    logit lens   z = U n(r_k)
    tuned lens   z = U n(r_k + A_k r_k + b_k)       A_k, b_k start at zero: it starts as a logit lens

k = 0 is the embedding and k = L is the model itself, which has no translator. How translators are
trained is in `lens_training`; here is what a lens is, and what it says.

    texts = encode(model, ["The capital of Zabar is Dovella ."])
    measure(model, logit_lens(model), texts).bits_per_byte("ce")        # an Estimate for each depth

The model may be a `models.Model`, or anything with its `hf`, `architecture` and `tokenizer`.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tft_utils import reading
from tft_utils.files import replace_file
from tft_utils.stats import Estimate, ratio
from tft_utils.techniques import relevance

ROWS = 512  # words whose logits exist at one time
METRICS = ("ce", "kl", "entropy")


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
    n_bytes = [
        len(decode(row[:n]).encode()) - len(decode(row[:1]).encode())
        for row, n in zip(ids, lengths, strict=True)
    ]
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
    with reading.caught(reading.depths(model), lambda out: out[counted]) as found:
        model.hf(input_ids=ids, use_cache=False, logits_to_keep=1)
    return torch.stack([each.to(model.hf.dtype) for each in found])


def by_length(texts: Texts, read: int) -> Iterator[Tensor]:
    """The rows of all texts, `read` at a time, those of similar length together: little padding."""
    return texts.counted.sum(1).argsort(stable=True).split(read)


def some(texts: Texts, rows: Tensor) -> tuple[Tensor, Tensor]:
    """ids and counted of some texts, without the padding that only longer ones need."""
    rows = rows.to(texts.ids.device)
    longest = int(texts.counted[rows].sum(1).max()) + 1
    return texts.ids[rows, :longest], texts.counted[rows, :longest]


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
            raise ValueError(
                "expected two measurements of the same texts, found other texts; measure "
                "both lenses on one `Texts`"
            )
        gaps = getattr(self, metric) - getattr(other, metric)
        return [ratio(column, self.n_words) for column in gaps.T]

    @property
    def excess(self) -> Tensor:
        """Cross-entropy beyond the model's own [text k]: what is missing before the last depth."""
        return self.ce - self.ce[:, -1:]


@torch.no_grad()
def measure(model, lens: Lens, texts: Texts, read: int = 64) -> Measured:
    """Cross-entropy, KL and entropy of a lens at every depth, on texts it was not trained on."""
    shape = (len(texts), len(lens.A) + 1)
    sums = {metric: torch.zeros(shape, dtype=torch.float64) for metric in METRICS}
    for rows in by_length(texts, read):
        ids, counted = some(texts, rows)
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
    ids, counted = some(texts, torch.arange(len(texts)))
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
def known(
    model, lens: Lens, prompts: Sequence[str], answers: Sequence[str], foils: Sequence[str] | None = None
) -> Tensor:
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
