"""A rank-one edit of one fact (ROME: Meng et al. 2022, arXiv 2202.05262, section 3).

One linear module W of one layer is read as a memory: the key k stands at its input when the model has
read the subject's last word, and W k is the value stored there. A new value v* at that place makes the
model say another object; the weight that stores it and moves the other keys least, by their second
moments C = E[k k^T] over the text of the model's corpus, is

    W + (v* - W k) u^T,     u = C^-1 k / (k^T C^-1 k)                                  (eq. 2)

Which module stands in the architecture's `Kind`: the MLP's down-projection, or Mamba's output
projection (Sharma et al. 2024, arXiv 2404.03646, who also edit its input projection). `place` names
another linear module of a block, such as "mixer.in_proj". k is the mean over contexts, in both places
of the formula (Gupta et al. 2024, arXiv 2403.07175). v* minimises, by gradient descent on what is
added to the value, the new object's surprise in the bare prompt, plus a pull to keep what else is known
of the subject, and stops once that surprise is below 0.05 (the published code stops where its whole loss
is). The published code also averages the surprise over contexts; here the bare prompt stands alone.

    wanted = pairs.fact_edits(100)
    update = rome(model, wanted, 0, moments(model)[0])
    scores(model, wanted, update)                 # of each edit by itself, all side by side

Edits are made and scored side by side, one a row; that equals editing the weights.
A `FactEdit` counts words; positions here are tokens, of which a word may have several. An object is one.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import reading, stats
from tft_utils.corpora import world
from tft_utils.corpora.corpus import corpus_of
from tft_utils.corpora.pairs import FactEdit
from tft_utils.reading import Asked

STEPS, RATE = 6, 0.8  # of Adam on a value; in units of its root mean square
STOP = 0.05  # surprise of the new object at which its value is good enough
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


def memory(model, layer: int, place: str | None = None):
    """The linear module of block `layer` that an edit changes. place: its name within the block (None:
    the one that the architecture calls its memory)."""
    if place is None:
        return model.module("memory", layer)
    block = model.module("block", layer)
    linear = [name for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)]
    if place not in linear:
        raise ValueError(f"expected a place, one of {', '.join(linear)}; found {place!r}")
    return block.get_submodule(place)


@torch.no_grad()
def inputs(model, ids: Tensor, k: int | None = None, place: str | None = None) -> list[Tensor]:
    """What the memories of the first k layers (None: all) read, each [batch pos d_key]."""
    k, keys = model.n_layers if k is None else k, []
    with ExitStack() as hooks:
        for layer in range(k):
            module = memory(model, layer, place)
            hooks.enter_context(reading.hooked(module, lambda key, _: keys.append(key)))
        reading.streams(model, ids, k)
    return keys


def moments(model, place: str | None = None) -> list[Tensor]:
    """C = E[k k^T] [d_key d_key] of each layer's memory, over all words of 6 documents of each kind, from
    training."""
    ids, mask = reading.tokens(model, corpus_of(model).texts(6, split="train"))
    by_layer = []
    for keys in inputs(model, ids, place=place):
        words = keys[mask.bool()]
        C = words.T @ words / len(words)
        C.diagonal().add_(RIDGE * C.diagonal().mean())
        by_layer.append(C)
    return by_layer


def contexts(model, wanted: Sequence[FactEdit], prefixes: int = 2, seed: int = 0) -> Asked:
    """Each edit's prompt bare, and after each of `prefixes` sentences about other subjects."""
    documents = corpus_of(model).documents("facts", 8 * prefixes, seed, split="train")
    told = [_first_sentence(document) for document in documents]
    texts, subjects, answers = [], [], []
    for edit in wanted:
        name = set(edit.prompt.split()[: edit.subject + 1])
        before = [sentence for subject, sentence in told if not name & subject]
        for prefix in ["", *before[:prefixes]]:
            texts.append(f"{prefix} {edit.prompt}".strip())
            subjects.append(len(prefix.split()) + edit.subject)
            answers.append(edit.new)
    return _ask(model, texts, subjects, answers)


def _first_sentence(document: world.Document) -> tuple[set[str], str]:
    """The words of all subjects of a document, and its first sentence."""
    texts = [word.text for word in document.words]
    subjects = document.gap.join(texts[i] for i in document.positions("subject"))
    return set(subjects.split()), document.prompt(texts.index(".") + 1)


def _ask(model, texts: Sequence[str], subjects: Sequence[int], answers: Sequence[str]) -> Asked:
    """Prompts with the position of the subject's last token; subjects: of its last word among words."""
    encoded, ends = model.tokenizer(list(texts)), []
    for i, (text, at) in enumerate(zip(texts, subjects, strict=True)):
        letter = len(" ".join(text.split()[: at + 1])) - 1  # the subject's last
        ends.append(encoded.char_to_token(i, letter))
    return reading.ask(model, texts, _spaced(answers), at={"subject": ends})


def _spaced(words: Sequence[str]) -> list[str]:
    """Words as they go on from a prompt."""
    return [f" {word}" for word in words]


@torch.no_grad()
def keys_of(model, wanted: Sequence[FactEdit], layer: int, place: str | None = None) -> Tensor:
    """Each edit's key in every context, the bare prompt first: [edit context d_key]."""
    asked = contexts(model, wanted)
    keys = inputs(model, asked.ids, layer + 1, place)[layer]
    return keys[torch.arange(len(asked)), asked.at["subject"]].unflatten(0, (len(wanted), -1))


def rome(
    model, wanted: Sequence[FactEdit], layer: int, moments: Tensor, place: str | None = None
) -> Update:
    """The update of each edit by itself. moments: C of this layer and place.

    Errors: `ValueError` for a new object that is not one token of the model's tokenizer.
    """
    keys = keys_of(model, wanted, layer, place)
    weight, key = memory(model, layer, place).weight.detach(), keys.mean(1)
    value = keys[:, 0] @ weight.T  # in the bare prompt; without a bias, which stays
    target = value + _change(model, wanted, layer, place, value)
    solved = torch.linalg.solve(moments, key.T).T
    right = solved / (solved * key).sum(-1, keepdim=True)
    return Update(layer, place, target - key @ weight.T, right)


@torch.enable_grad()
def _change(model, wanted: Sequence[FactEdit], layer: int, place: str | None, value: Tensor) -> Tensor:
    """What must be added to each value [edit d_value] for the new object to be said."""
    n, new = len(wanted), [edit.new for edit in wanted]
    prompts = [(edit.prompt, edit.subject) for edit in wanted] + [edit.known for edit in wanted]
    asked = _ask(model, *zip(*prompts, strict=True), 2 * new)
    x = reading.streams(model, asked.ids, layer)[layer]
    at_subject = reading.at_positions(asked, asked.at["subject"])[..., None]
    with torch.no_grad():
        before = reading.finish(model, x, layer, asked.last)[n:].log_softmax(-1)
    length = value.norm(dim=-1, keepdim=True)
    change = torch.zeros_like(value).requires_grad_()
    optimiser = torch.optim.Adam([change], lr=RATE * length.mean().item() / value.shape[1] ** 0.5)
    done, found = torch.zeros(n, dtype=torch.bool, device=value.device), torch.zeros_like(value)

    def changed(_, output: Tensor) -> Tensor:
        return output + at_subject * change.repeat(2, 1)[:, None]

    for _ in range(STEPS):
        with reading.hooked(memory(model, layer, place), changed):
            said = reading.finish(model, x, layer, asked.last).log_softmax(-1)
        surprise = -asked[:n].score(said[:n])
        found = torch.where(done[:, None], found, change.detach())
        done |= surprise.detach() < STOP
        if done.all():
            return found
        moved = (before.exp() * (before - said[n:])).sum(-1)
        size = (change / length).square().sum(-1)
        loss = (surprise + KEEP * moved + DECAY * size).sum()
        (change.grad,) = torch.autograd.grad(loss, change)  # of the weights nothing is asked
        optimiser.step()
        with torch.no_grad():
            change /= (change.norm(dim=-1, keepdim=True) / (LEASH * length)).clamp(min=1)
    return torch.where(done[:, None], found, change.detach())


# ---- scores --------------------------------------------------------------------------------------

SCORES = ("efficacy", "paraphrase", "neighbourhood", "kin", "other relations")


@torch.no_grad()
def said(model, update: Update | None, texts: Sequence[str], edits: Sequence[int]) -> Tensor:
    """Log-probabilities of the next word [text vocab], each text under its own edit (None: as it was)."""
    prompts, layer, place = reading.tokens(model, texts), *((0, None) if update is None else update[:2])

    def change(key: Tensor, output: Tensor) -> Tensor | None:
        if update is None:
            return None
        left, right = (part[list(edits)][:, None] for part in update[2:])
        return output + (key * right).sum(-1, keepdim=True) * left

    x = reading.streams(model, prompts.ids, layer)[layer]
    with reading.hooked(memory(model, layer, place), change):
        return reading.finish(model, x, layer, prompts.lengths - 1).log_softmax(-1)


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
        shares = getattr(self, how)[score]
        shares = shares[~shares.isnan()]
        if not len(shares):
            return stats.NOTHING
        if ((shares == 0) | (shares == 1)).all():
            return stats.proportion(int(shares.sum()), len(shares))
        return stats.mean(shares.tolist())


def scores(
    model, wanted: Sequence[FactEdit], update: Update | None, names: Sequence[str] = SCORES
) -> Scores:
    """Scores of every edit by itself; update None: of the model as it was. names: of SCORES.

    Errors: `ValueError` for an object that is not one token of the model's tokenizer.
    """
    asked = []  # (score, edit, prompt, right word, wrong word)
    for i, e in enumerate(wanted):
        asked.append(("efficacy", i, e.prompt, e.new, e.old))
        asked += [("paraphrase", i, text, e.new, e.old) for text in e.paraphrases]
        for name, questions in zip(SCORES[2:], (e.neighbours, e.kin, e.others), strict=True):
            asked += [(name, i, text, answer, e.new) for text, answer in questions if answer != e.new]
    of, edits, texts, right, wrong = zip(*(row for row in asked if row[0] in names), strict=True)
    prompts = reading.ask(model, texts, _spaced(right), _spaced(wrong))
    log_probs = said(model, update, texts, edits)
    hits = {"likelier": prompts.score(log_probs) > 0, "top": prompts.right(log_probs)}
    edit, shares = torch.tensor(edits, device=log_probs.device), {how: {} for how in hits}
    for score in names:
        mine = torch.tensor([name == score for name in of], device=edit.device)
        count = torch.bincount(edit[mine], minlength=len(wanted))
        for how, hit in hits.items():
            total = torch.bincount(edit[mine], hit[mine].float(), minlength=len(wanted))
            shares[how][score] = total / count  # 0 / 0 is nan: nothing was asked
    return Scores(**shares)
