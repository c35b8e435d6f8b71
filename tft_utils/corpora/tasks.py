"""What probes look for: a word of a document, its label, and the word that the label comes from."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tft_utils.corpora import pairs, world
from tft_utils.corpora.lexicon import NOUNS, WORLD, Lexicon, Rng


class Target(NamedTuple):
    """What is probed in a document."""

    position: int  # of the probed word
    label: int
    cause: str  # the word that the label comes from: a control task gives it a random label


class Task(NamedTuple):
    kind: str  # of document
    classes: tuple[str, ...]
    find: Callable[[world.Document, Rng, str], Target | None]  # in a document of this part


LEMMA = {form: i for i, pair in enumerate(NOUNS.items()) for form in pair}  # of the world
OPEN = ("NOUN", "VERB", "ADJ", "ADP", "ADV")  # parts of speech with words to spare for testing
NUMBERS = ("singular", "plural")


@functools.cache
def _new_words(lexicon: Lexicon) -> frozenset[str]:
    """Half of the verbs, adjectives, prepositions and adverbs, with all their forms. The documents
    split the nouns."""
    verbs = [*lexicon.intransitive.items(), *lexicon.transitive.items(), *lexicon.copulas.items()]
    words = {
        "VERB": verbs,
        "ADJ": [(word,) for word in lexicon.adjectives],
        "ADP": [(word, word.lower()) for word in lexicon.fronted],
        "ADV": [(word,) for word in lexicon.adverbs],
    }
    halves = [Rng("probed", pos).sample(some, len(some) // 2) for pos, some in words.items()]
    return frozenset(word for half in halves for forms in half for word in forms)


def _part_of_speech(lexicon: Lexicon, document: world.Document, rng: Rng, part: str) -> Target | None:
    new = _new_words(lexicon)
    words = [
        (i, w)
        for i, w in enumerate(document.words)
        if w.pos in OPEN and (w.pos == "NOUN" or (w.text.strip() in new) == (part == "new"))
    ]
    pos = rng.choice(sorted({w.pos for _, w in words}))  # not mostly nouns
    i, word = rng.choice([(i, w) for i, w in words if w.pos == pos])
    return Target(i, OPEN.index(pos), word.text)


def _depth(document: world.Document, rng: Rng, part: str) -> Target:
    depth = rng.choice(sorted({w.depth for w in document.words}))
    i, word = rng.choice([(i, w) for i, w in enumerate(document.words) if w.depth == depth])
    return Target(i, depth, word.text)


def number(document: world.Document, rng: Rng, part: str) -> Target:
    """The subject's number, at the word before the main verb."""
    verb = document.positions("verb")[0]
    subject = document.words[document.words[verb].source]
    return Target(verb - 1, NUMBERS.index(subject.number), subject.text)


def _subject(lexicon: Lexicon, document: world.Document, rng: Rng, part: str) -> Target | None:
    if part == "new":
        return None  # the noun is the answer, so it has to be known
    verb = document.positions("verb")[0]
    subject = document.words[document.words[verb].source]
    noun = next(i for i, forms in enumerate(lexicon.nouns.items()) if subject.text.strip() in forms)
    return Target(verb - 1, noun, document.words[verb - 1].text)


def _mood(lexicon: Lexicon, document: world.Document, rng: Rng, part: str) -> Target:
    """At the full stop behind the second mood word or later."""
    first, second = document.positions("mood")[:2]
    stop = next(i for i in range(second, len(document.words)) if document.words[i].text == ".")
    return Target(stop, list(lexicon.moods).index(document.latents["mood"]), document.words[first].text)


def _persona(document: world.Document, rng: Rng, part: str) -> Target:
    """At the bracket before the answer's letter."""
    matching = document.latents["persona"] == "matching"
    return Target(document.positions("letter")[0] - 1, int(matching), document.latents["cue"])


def tasks_of(lexicon: Lexicon) -> dict[str, Task]:
    """What probes look for in documents of this lexicon's words."""
    part_of_speech, subject, mood = (
        functools.partial(find, lexicon) for find in (_part_of_speech, _subject, _mood)
    )
    return {
        "part of speech": Task("grammar", OPEN, part_of_speech),
        "depth": Task("grammar", ("0", "1", "2", "3"), _depth),
        "number": Task("grammar", NUMBERS, number),
        "subject": Task("grammar", tuple(lexicon.nouns), subject),
        "mood": Task("story", tuple(lexicon.moods), mood),
        "persona": Task("persona", ("other", "matching"), _persona),
    }


TASKS = tasks_of(WORLD)


# ---- words with the value of a concept


class Marked(NamedTuple):
    """Words of documents, each with the value of a concept, 0 where it has none."""

    documents: list[world.Document]
    at: list[list[int]]  # positions [document m]
    value: list[list[float]]  # of the concept [document m]


def numbers_before_verbs(n: int, seed: int = 0, lexicon: Lexicon = WORLD) -> Marked:
    """The word before the main verb of n sentences, with its subject's number: 1 plural, -1 singular.

    As often one as the other, so that the mean is 0, as it is for words without a number.
    """
    documents: dict[int, list] = {0: [], 1: []}
    for document in pairs.probe_documents("grammar", 2 * n, seed, "train", lexicon):
        target = number(document, Rng(), "train")
        if len(documents[target.label]) < n // 2:
            documents[target.label].append((document, [target.position], [2.0 * target.label - 1]))
    return Marked(*map(list, zip(*documents[0], *documents[1], strict=True)))


def other_words(
    n: int, seed: int = 0, each: int = 8, words: int = 24, lexicon: Lexicon = WORLD
) -> Marked:
    """Some of the first words of n documents of every kind but grammar: they have no number to lose."""
    kinds = [kind for kind in world.KINDS if kind != "grammar"]
    documents = [
        replace(d, words=d.words[:words])
        for kind in kinds
        for d in world.documents(kind, n, seed, "train", lexicon)
    ]
    at = [
        [Rng(seed, "other", i, j).integer(0, len(d.words) - 1) for j in range(each)]
        for i, d in enumerate(documents)
    ]
    return Marked(documents, at, [[0.0] * each for _ in documents])
