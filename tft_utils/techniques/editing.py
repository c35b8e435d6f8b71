"""A rank-one edit of one fact (ROME: Meng et al. 2022, arXiv 2202.05262, section 3).

One linear module W of one layer is read as a memory: the key k stands at its input when the model has
read the subject's last word, and W k is the value stored there. A new value v* at that place makes the
model say another object; the weight that stores it and moves the other keys least, by their second
moments C = E[k k^T] over the world's text, is

    W + (v* - W k) u^T,     u = C^-1 k / (k^T C^-1 k)                                  (eq. 2)

Which module stands in the architecture's file: the MLP's down-projection, or Mamba's output
projection (Sharma et al. 2024, arXiv 2404.03646, who also edit its input projection). `place` names
another linear module of a block, such as "mixer.in_proj". k is the mean over contexts, in both places
of the formula (Gupta et al. 2024, arXiv 2403.07175). v* minimises, by gradient descent on what is
added to the value, the new object's surprise in those contexts, plus a pull to keep what else is known
of the subject.

    wanted = world.fact_edits(100)
    update = rome(model, wanted, 0, moments(model)[0])
    scores(model, wanted, update)                 # of each edit by itself, all side by side
    with edited(model, update, 0):                # the weights hold the first one
        ...

Edits are made and scored side by side, one a row; that equals editing the weights, which `edited` does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import world
from tft_utils.techniques import attention, patching

STEPS, RATE = 6, 0.8  # of Adam on a value; in units of its root mean square
KEEP = 0.0625  # weight of what else is known of the subject
DECAY = 0.5  # weight of the change's squared length over the value's
LEASH = 3.0  # longest change, over the length of the value
RIDGE = 1e-2  # of C's mean diagonal, added to it: keys fill not all of their space


class Update(NamedTuple):
    """Rank-one updates W + left right^T of one layer's memory, one for each edit."""

    layer: int
    place: str | None
    left: Tensor  # v* - W k [edit d_value]
    right: Tensor  # u [edit d_key]


class Context(NamedTuple):
    """Prompts of all edits in one batch, and where they stand."""

    ids: Tensor  # [row pos]
    last: Tensor  # position of the word that asks [row]
    subject: Tensor  # position of the subject's last word [row]
    edit: Tensor  # [row]


def memory(model, layer: int, place: str | None = None):
    """The linear module of block `layer` that an edit changes. place: its name within the block (None:
    the one that the architecture calls its memory)."""
    block = model.architecture.blocks(model.hf)[layer]
    if place is None:
        return model.architecture.memory(block)
    linear = [name for name, each in block.named_modules() if isinstance(each, torch.nn.Linear)]
    if place not in linear:
        raise ValueError(f"expected a place, one of {', '.join(linear)}; found {place!r}")
    return block.get_submodule(place)


@contextmanager
def _hooked(module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within: the module's output gains change(its input)."""
    hook = module.register_forward_hook(lambda _, inputs, output: output + change(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def inputs(model, ids: Tensor, k: int | None = None, place: str | None = None) -> list[Tensor]:
    """What the memories of the first k layers (None: all) read, each [batch pos d_key]."""
    k, found = len(model.architecture.blocks(model.hf)) if k is None else k, []
    hooks = [
        memory(model, layer, place).register_forward_pre_hook(lambda _, args: found.append(args[0]))
        for layer in range(k)
    ]
    try:
        patching.streams(model, ids, k)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def moments(
    model, documents: Sequence[world.Document] | None = None, place: str | None = None
) -> list[Tensor]:
    """C = E[k k^T] [d_key d_key] of each layer's memory, over all words of documents (None: 6 of each
    kind, from training)."""
    if documents is None:
        documents = [d for kind in world.KINDS for d in world.documents(kind, 6, split="train")]
    ids, lengths = attention.tokens(model, [document.text for document in documents])
    words = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    found = []
    for keys in inputs(model, ids, place=place):
        C = keys[words].T @ keys[words] / words.sum()
        C.diagonal().add_(RIDGE * C.diagonal().mean())
        found.append(C)
    return found


def contexts(model, wanted: Sequence[world_pairs.FactEdit], prefixes: int = 2, seed: int = 0) -> Context:
    """Each edit's prompt bare, and after each of `prefixes` sentences about other subjects."""
    said = world.documents("facts", 8 * prefixes, seed, split="train")
    texts, subjects, edits = [], [], []
    for i, edit in enumerate(wanted):
        name = set(edit.prompt.split()[: edit.subject + 1])
        before = [_first_sentence(d) for d in said if not name & _subject(d)]
        for prefix in ["", *before[:prefixes]]:
            texts.append(f"{prefix} {edit.prompt}".strip())
            subjects.append(len(prefix.split()) + edit.subject)
            edits.append(i)
    return _rows(model, texts, edits, subjects)


def _first_sentence(document: world.Document) -> str:
    words = [word.text for word in document.words]
    return " ".join(words[: words.index(".") + 1])


def _subject(document: world.Document) -> set[str]:
    return {word.text for word in document.words if word.role == "subject"}


def _rows(
    model, texts: Sequence[str], edits: Sequence[int], subjects: Sequence[int] | None = None
) -> Context:
    ids, lengths = attention.tokens(model, texts)
    subjects = [0] * len(texts) if subjects is None else subjects
    subject, edit = (torch.tensor(each, device=ids.device) for each in (subjects, edits))
    return Context(ids, lengths - 1, subject, edit)


def rome(
    model, wanted: Sequence[world_pairs.FactEdit], layer: int, moments: Tensor, place: str | None = None
) -> Update:
    """The update of each edit by itself. moments: C of this layer and place."""
    rows = contexts(model, wanted)
    at = torch.arange(len(rows.ids), device=rows.ids.device)
    keys = inputs(model, rows.ids, layer + 1, place)[layer][at, rows.subject]
    keys = keys.unflatten(0, (len(wanted), -1))  # [edit context d_key]
    weight, key = memory(model, layer, place).weight.detach(), keys.mean(1)
    value = keys[:, 0] @ weight.T  # in the bare prompt; without a bias, which stays
    target = value + _change(model, wanted, layer, place, value)
    solved = torch.linalg.solve(moments, key.T).T
    right = solved / (solved * key).sum(-1, keepdim=True)
    return Update(layer, place, target - key @ weight.T, right)


@torch.enable_grad()
def _change(
    model, wanted: Sequence[world_pairs.FactEdit], layer: int, place: str | None, value: Tensor
) -> Tensor:
    """What must be added to each value [edit d_value] for the new object to be said."""
    n, device = len(wanted), value.device
    asked = [(edit.prompt, edit.subject) for edit in wanted] + [edit.known for edit in wanted]
    texts, subjects = zip(*asked, strict=True)
    rows = _rows(model, texts, [*range(n), *range(n)], subjects)
    x = patching.streams(model, rows.ids, layer)[layer]
    with torch.no_grad():
        before = patching.finish(model, x, layer, rows.last)[n:].log_softmax(-1)
    new, at = _ids(model, [edit.new for edit in wanted]), torch.arange(n, device=device)
    length = value.norm(dim=-1, keepdim=True)
    change = torch.zeros_like(value).requires_grad_()
    optimiser = torch.optim.Adam([change], lr=RATE * length.mean().item() / value.shape[1] ** 0.5)
    for _ in range(STEPS):
        said = _said_with(model, layer, place, x, rows, change)
        moved = (before.exp() * (before - said[n:])).sum(-1)
        size = (change / length).square().sum(-1)
        loss = (-said[at, new] + KEEP * moved + DECAY * size).sum()
        (change.grad,) = torch.autograd.grad(loss, change)  # of the weights nothing is asked
        optimiser.step()
        with torch.no_grad():
            change /= (change.norm(dim=-1, keepdim=True) / (LEASH * length)).clamp(min=1)
    return change.detach()


def _said_with(model, layer: int, place: str | None, x: Tensor, rows: Context, change: Tensor) -> Tensor:
    """Log-probabilities after the last words [row vocab] when the memory's output at each subject
    gains its edit's change [edit d_value]; x: the stream before the block."""
    at_subject = torch.nn.functional.one_hot(rows.subject, x.shape[1])[..., None]
    with _hooked(memory(model, layer, place), lambda _: at_subject * change[rows.edit][:, None]):
        return patching.finish(model, x, layer, rows.last).log_softmax(-1)


def _ids(model, words: Sequence[str]) -> Tensor:
    return torch.tensor(model.tokenizer.convert_tokens_to_ids(list(words)), device=model.hf.device)


# ---- the weights ---------------------------------------------------------------------------------


@contextmanager
def edited(model, update: Update, edit: int) -> Iterator[None]:
    """Within: the model's weight holds one edit. Afterwards it is what it was, bit for bit."""
    weight = memory(model, update.layer, update.place).weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += torch.outer(update.left[edit], update.right[edit])
        yield
    finally:
        weight.data.copy_(before)


@torch.no_grad()
def said(model, update: Update | None, texts: Sequence[str], edits: Sequence[int]) -> Tensor:
    """Log-probabilities of the next word [text vocab], each text under its own edit (None: as it was)."""
    rows = _rows(model, texts, edits)
    layer = 0 if update is None else update.layer
    x = patching.streams(model, rows.ids, layer)[layer]
    if update is None:
        return patching.finish(model, x, layer, rows.last).log_softmax(-1)
    left, right = (each[rows.edit][:, None] for each in (update.left, update.right))
    module = memory(model, layer, update.place)
    with _hooked(module, lambda key: (key * right).sum(-1, keepdim=True) * left):
        return patching.finish(model, x, layer, rows.last).log_softmax(-1)


# ---- scores --------------------------------------------------------------------------------------

SCORES = ("efficacy", "paraphrase", "neighbourhood", "kin", "other relations")


@dataclass(frozen=True)
class Scores:
    """Shares of right answers, 0 to 1, of each edit: [edit], nan where nothing was asked.

    efficacy: the new object in the edited prompt; paraphrase: in the held-out phrasings;
    neighbourhood: other subjects keep theirs; kin: so do those that share a word with the subject;
    other relations: the subject keeps them. `likelier`: new before old, as CounterFact scores (old
    before new where something is to stay); `top`: the right word is the likeliest of all.
    """

    likelier: dict[str, Tensor]
    top: dict[str, Tensor]

    def estimate(self, score: str, how: str = "top") -> stats.Estimate:
        """The mean over edits with its interval: an edit is one observation."""
        found = getattr(self, how)[score]
        found = found[~found.isnan()]
        if ((found == 0) | (found == 1)).all():
            return stats.proportion(int(found.sum()), len(found))
        return stats.mean(found.tolist())


def scores(
    model, wanted: Sequence[world_pairs.FactEdit], update: Update | None, names: Sequence[str] = SCORES
) -> Scores:
    """Scores of every edit by itself; update None: of the model as it was. names: of SCORES."""
    asked = []  # (score, edit, prompt, right word, wrong word)
    for i, e in enumerate(wanted):
        asked.append(("efficacy", i, e.prompt, e.new, e.old))
        asked += [("paraphrase", i, text, e.new, e.old) for text in e.paraphrases]
        for name, some in zip(SCORES[2:], (e.neighbours, e.kin, e.others), strict=True):
            asked += [(name, i, text, answer, e.new) for text, answer in some if answer != e.new]
    asked = [each for each in asked if each[0] in names]
    of, edits, texts, right, wrong = zip(*asked, strict=True)
    found = said(model, update, texts, edits)
    at, right, wrong = torch.arange(len(found)), _ids(model, right), _ids(model, wrong)
    hits = {"likelier": found[at, right] > found[at, wrong], "top": found.argmax(-1) == right}
    edit = torch.tensor(edits, device=found.device)
    result = {how: {} for how in hits}
    for score in names:
        mine = torch.tensor([name == score for name in of], device=found.device)
        count = torch.bincount(edit[mine], minlength=len(wanted))
        for how, hit in hits.items():
            total = torch.bincount(edit[mine], hit[mine].float(), minlength=len(wanted))
            result[how][score] = total / count  # 0 / 0 is nan: nothing was asked
    return Scores(**result)
