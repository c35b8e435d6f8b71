"""Questions: induction items, questions with known causes, cued persona questions.

Everything takes a lexicon. It is the world's unless another one is given: see `corpora.corpus`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import world
from tft_utils.corpora.lexicon import LETTERS, WORLD, Lexicon


class Item(NamedTuple):
    """A word that can only be copied: the text before it holds it once, after the same word."""

    prompt: str
    answer: str
    match: int  # position of the earlier copy of the answer
    query: int  # position of the prompt's last word, whose earlier copy stands before the match


def induction_items(documents: Sequence[world.Document], lexicon: Lexicon = WORLD) -> list[Item]:
    """One item for each document that has one: independent questions with a known source."""
    items = []
    for i, document in enumerate(documents):
        words = [word.text for word in document.words]
        once = [
            at
            for at in range(2, len(words))
            if document.words[at].determined
            and words[:at].count(words[at]) == 1
            and words[: at - 1].count(words[at - 1]) == 1
            and words[words.index(words[at]) - 1] == words[at - 1]
        ]
        if once:
            at = once[i % len(once)]
            answer = lexicon.spoken(words[at])
            items.append(Item(document.prompt(at), answer, words.index(words[at]), at - 1))
    return items


class Case(NamedTuple):
    """A question, a wrong answer to it, where the words stand that decide between the two, and the
    same prompt with those words changed so that the wrong answer is right."""

    prompt: str
    answer: str
    foil: str
    causes: tuple[int, ...]
    swapped: str


KINDS = ("induction", "fact", "indirect object", "agreement")


def cases(kind: str, n: int, seed: int = 0, lexicon: Lexicon = WORLD) -> list[Case]:
    """n questions of one of KINDS, from held-out documents.

    The causes: the earlier copy of the answer; the words of the subject; the receiver's name and
    the giver; the noun that the verb agrees with, past another noun.
    """
    if kind == "induction":
        return _induction(n, seed, lexicon)
    if kind not in KINDS:
        raise ValueError(f"expected a kind of question, one of {', '.join(KINDS)}; found {kind!r}")
    make, role = {
        "fact": (world_pairs.fact_pairs, "subject"),
        "agreement": (world_pairs.minimal_pairs, None),
        "indirect object": (world_pairs.indirect_object_pairs, "giver"),
    }[kind]
    asked = []
    for pair in make(n, seed, lexicon=lexicon):
        words, source = pair.clean.words[: pair.position], pair.clean.words[pair.position].source
        causes = {source} | {at for at, word in enumerate(words) if word.role == role}
        corrupt = pair.corrupt
        if kind == "agreement":  # the pair differs in the verb, not in its noun
            other = {words[source].text: _other_number(words[source].text, lexicon)}
            corrupt = _changed(corrupt, other, [source])
        prompt, swapped = pair.clean.prompt(pair.position), corrupt.prompt(pair.position)
        asked.append(Case(prompt, pair.answer, pair.foil, tuple(sorted(causes)), swapped))
    return asked


def _changed(document: world.Document, other: dict[str, str], at: Sequence[int]) -> world.Document:
    """The document with some of its words at these positions replaced, for a prompt."""
    words = list(document.words)
    for i in at:
        words[i] = words[i]._replace(text=other.get(words[i].text, words[i].text))
    return replace(document, words=tuple(words))


def _other_number(noun: str, lexicon: Lexicon) -> str:
    """Keys for key, and key for keys, behind the space that it has."""
    bare, plurals = noun.strip(), lexicon.nouns
    other = plurals[bare] if bare in plurals else next(s for s, p in plurals.items() if p == bare)
    return noun.replace(bare, other)


def _induction(n: int, seed: int, lexicon: Lexicon) -> list[Case]:
    asked = []
    for document in world.documents("recall", 2 * n, seed, lexicon=lexicon):
        for item in induction_items([document], lexicon):
            original = document.words[item.match]
            foil = next(
                word.text
                for word in document.words
                if word.role == original.role and word.text != original.text
            )
            other = {original.text: foil, foil: original.text}
            swapped = _changed(document, other, range(item.query + 1)).prompt(item.query + 1)
            foil = lexicon.spoken(foil)
            asked.append(Case(item.prompt, item.answer, foil, (item.match,), swapped))
    return asked[:n]


class Question(NamedTuple):
    """A question whose answer is one of two letters. `prompt` + letter is the answered text."""

    prompt: str  # up to and including the opening parenthesis
    matching: str  # the letter of the answer that shows the behaviour
    other: str
    asks: str  # the same for both letter orders: an interval counts it once


class Contrast(NamedTuple):
    """Texts of one side and the other."""

    behaviour: Sequence[str]
    other: Sequence[str]
    first: Sequence[bool] = ()  # in pairs: does the behaviour's text go with the first letter?
    cues: Sequence[str] = ()  # three words of one side, then three of the other: one in each text


def questions(behaviour: str, split: str = "test", lexicon: Lexicon = WORLD) -> list[Question]:
    """The questions about a behaviour without a persona cue, each in both letter orders."""
    asked = []
    for pair in world_pairs.persona_questions(behaviour, split, lexicon):
        asks = pair.clean.gap.join(
            word.text
            for role in ("filler", "matching option", "other option")
            for word in pair.clean.words
            if word.role == role
        )
        prompt = pair.clean.prompt(pair.position) + pair.clean.gap
        asked.append(Question(prompt, pair.answer, pair.foil, asks))
    return asked


def cued(behaviour: str, n: int = 120, seed: int = 0, lexicon: Lexicon = WORLD) -> Contrast:
    """Training questions behind a cue of the behaviour, or of its opposite, in n pairs."""
    pairs = world_pairs.cued_pairs(behaviour, n, seed, lexicon=lexicon)
    sides = [[doc.prompt(pair.position) for doc in (pair.clean, pair.corrupt)] for pair in pairs]
    first = [pair.answer == LETTERS[0] for pair in pairs]
    return Contrast(*zip(*sides, strict=True), first, _cues(behaviour, lexicon))


def announced(behaviour: str, lexicon: Lexicon = WORLD) -> Contrast:
    """The sentences that announce a persona, up to the cue word. No question, so no letter.

    The two sides differ in their last word alone, so nothing that was read before it tells them apart.
    """
    cues = _cues(behaviour, lexicon)
    texts = [
        [f"{sentence.split(' C ')[0]} {cue}" for cue in side for sentence in lexicon.cue_sentences]
        for side in (cues[:3], cues[3:])
    ]
    return Contrast(*texts, cues=cues)


def answered(asked: Sequence[Question]) -> Contrast:
    """Questions with the letter of the one answer, or of the other: the published recipe.

    The two sides differ in their last word alone, so nothing that was read before it tells them apart.
    """
    return Contrast(
        [q.prompt + q.matching for q in asked],
        [q.prompt + q.other for q in asked],
        [q.matching == LETTERS[0] for q in asked],
    )


def _cues(behaviour: str, lexicon: Lexicon) -> tuple[str, ...]:
    return (*lexicon.behaviours[behaviour].matching_cues, *lexicon.behaviours[behaviour].other_cues)
