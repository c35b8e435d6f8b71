"""The world: small English-like documents whose every cause is known.

A document is a list of `Word`s. Each word carries the latents that produced it (part of speech,
number, role, the position it copies from, ...), so that "the technique found it" can be checked.
`KINDS` names the kinds of document; `data/README.md` is their datasheet.

Everything follows from integers and strings through `Rng` and `split_of`, so a seed gives the same
documents on every machine and Python version.

Held-out data: every document owes its split to *keys* (a fact's phrasing, an operand pair, a noun
and its predicate, ...). A key belongs to one split, so it never occurs in another.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tft_utils.lexicon import (
    ADJECTIVES,
    ADVERBS,
    BEHAVIOURS,
    COLOURS,
    COPULAS,
    CUE_SENTENCES,
    ENTITIES,
    FACTS,
    FRONTED,
    HEROES,
    INTRANSITIVE,
    IOI_SENTENCES,
    LETTERS,
    MOODS,
    NAMES,
    NOUNS,
    OBJECTS,
    PART_OF_SPEECH,
    PHRASINGS,
    PLACES,
    PREPOSITIONS,
    RELATIONS,
    STORY_SENTENCES,
    THINGS,
    TRANSITIVE,
    Rng,
)  # fmt: skip

KINDS = ("facts", "grammar", "recall", "indirect_object", "story", "persona", "arithmetic")
SPLITS = ("train", "validation", "test")
MAX_WORDS = 120  # longest document; with its end mark it fits a training row of 128 tokens
COPY_WORDS = NAMES + COLOURS + THINGS + PLACES  # what recall documents are made of


class Word(NamedTuple):
    """One word and what made it. Positions are indices into the document's words."""

    text: str
    pos: str  # part of speech
    role: str = ""  # its part in the document: 'subject', 'attractor', 'value', 'letter', ...
    number: str = ""  # 'singular' or 'plural', for nouns and agreeing verbs
    source: int | None = None  # where its cause stands: a verb's subject, a copy's original
    depth: int = 0  # number of phrases and clauses the word is nested in
    # The words before it fix it (of a verb: its number; a mood word: its mood; a deed: whose it is).
    determined: bool = False
    foil: str = ""  # the word that would be right had its cause been the opposite one


@dataclass(frozen=True)
class Document:
    """A document, its kind, and the latents that hold for all of it."""

    kind: str
    words: tuple[Word, ...]
    latents: dict = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def prompt(self, position: int) -> str:
        """The text before the word at `position`."""
        return " ".join(word.text for word in self.words[:position])

    def positions(self, role: str) -> list[int]:
        return [i for i, word in enumerate(self.words) if word.role == role]

    def attractors_against(self, verb: int) -> int:
        """How many nouns between the verb at `verb` and its subject have the other number."""
        target = self.words[verb]
        between = self.words[target.source + 1 : verb]
        return sum(w.role == "attractor" and w.number != target.number for w in between)


class Pair(NamedTuple):
    """Two documents of equal length that differ in one cause.

    At `position` the right word is `answer` in `clean`, and `foil` had the cause been the other.
    """

    clean: Document
    corrupt: Document
    position: int
    answer: str
    foil: str


class FactEdit(NamedTuple):
    """A fact to change, and what to ask before and after: questions are prompts whose next word is
    the object of a fact."""

    prompt: str  # the fact, in a phrasing that training used
    subject: int  # position of the subject's last word
    old: str  # the object it has
    new: str  # the object it shall have: another one of the same relation
    paraphrases: tuple[str, ...]  # the same fact in its two held-out phrasings
    neighbours: tuple[tuple[str, str], ...]  # the relation of others, those with `old` first
    kin: tuple[tuple[str, str], ...]  # the relation of subjects that share a word with this one
    known: tuple[str, int]  # another relation of the subject, as prompt and subject
    others: tuple[tuple[str, str], ...]  # its remaining relations


class _Draft(list):
    """A document being written: a list of `Word`s."""

    def add(self, text: str, **latents) -> int:
        """Appends one word; returns its position."""
        self.append(Word(text, PART_OF_SPEECH[text], **latents))
        return len(self) - 1

    def fill(self, template: str, **slots: dict) -> None:
        """Appends a template, each slot's name replaced by the word the slot describes."""
        for text in template.split():
            self.add(**slots.get(text, {"text": text}))


def split_of(*key: object) -> str:
    """The split that owns this key: 80 % train, 10 % validation, 10 % test."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return SPLITS[max(0, int.from_bytes(digest, "big") % 10 - 7)]


def phrasings_of(entity: tuple[str, ...], relation: str) -> dict[str, list[str]]:
    """The phrasings in which each split states a fact: six in train, one in each other split."""
    order = Rng("phrasing", *entity, relation).sample(PHRASINGS[relation], 8)
    return {"train": order[2:], "validation": order[1:2], "test": order[:1]}


def _draw(rng: Rng, split: str, draw: Callable[[], tuple]) -> tuple:
    """Draws until the key belongs to the split (1.25 tries on average in train, 10 elsewhere)."""
    while split_of(*(key := draw())) != split:
        pass
    return key


# --------------------------------------------------------------------------------------------------
# One maker per kind: (rng, split, progress) -> (words, latents). `progress` is for training alone:
# below 1 there is less to recall, and more personas match. At 1 it is the world as documented.


def _state_fact(draft: _Draft, entity: tuple[str, ...], relation: str, phrasing: str) -> None:
    words = phrasing.split()
    at = words.index("S")
    draft.fill(" ".join(words[:at]))
    for part in entity:
        subject = draft.add(part, role="subject")
    draft.fill(" ".join(words[at + 1 :]), O={
        "text": FACTS[entity, relation], "role": "object", "source": subject, "determined": True})


def _facts(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    draft, stated, n = _Draft(), [], rng.integer(1, 5)
    while len(stated) < n:
        entity, relation = rng.choice(ENTITIES), rng.choice(RELATIONS)
        if (entity, relation) in stated:
            continue  # a fact stated twice could be copied instead of known
        stated.append((entity, relation))
        _state_fact(draft, entity, relation, rng.choice(phrasings_of(entity, relation)[split]))
    return draft, {"facts": stated}


def _noun_phrase(draft: _Draft, rng: Rng, noun: str, number: str, role: str, depth: int) -> int:
    """'the (old) keys'; returns the noun's position."""
    draft.add("the" if draft and draft[-1].text != "." else "The", depth=depth)
    if rng.chance(0.25):
        draft.add(rng.choice(ADJECTIVES), depth=depth)
    text = noun if number == "singular" else NOUNS[noun]
    return draft.add(text, role=role, number=number, depth=depth)


def _verb(draft: _Draft, singular: str, plural: str, subject: int, role: str, depth: int) -> int:
    """The form that agrees with the noun at `subject`."""
    number = draft[subject].number
    right, wrong = (singular, plural) if number == "singular" else (plural, singular)
    return draft.add(right, role=role, number=number, source=subject, depth=depth,
                     determined=True, foil=wrong)  # fmt: skip


def _agreement(draft: _Draft, rng: Rng, split: str, attractors: int,
               nouns: Sequence[str] = tuple(NOUNS)) -> None:  # fmt: skip
    """One sentence whose verb agrees with its subject across `attractors` other nouns."""
    copula = rng.chance(0.6)
    predicates = ADJECTIVES if copula else list(INTRANSITIVE)
    noun, predicate = _draw(rng, split, lambda: (rng.choice(nouns), rng.choice(predicates)))
    numbers = ("singular", "plural")
    if rng.chance(0.25):  # 'Near the keys the dog ...': the first noun need not be the subject
        draft.add(rng.choice(FRONTED), depth=1)
        _noun_phrase(draft, rng, rng.choice(nouns), rng.choice(numbers), "attractor", 1)
    subject = head = _noun_phrase(draft, rng, noun, rng.choice(numbers), "subject", 0)
    clause_at = rng.integer(1, 6)  # at most one relative clause, in half of the long sentences
    for depth in range(1, attractors + 1):
        other, number = rng.choice(nouns), rng.choice(numbers)
        action = rng.choice(list(TRANSITIVE))
        if depth != clause_at:
            draft.add(rng.choice(PREPOSITIONS), depth=depth)
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
            continue
        draft.add("that", depth=depth)
        if rng.chance(0.5):  # 'the keys that the boys like'
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
            _verb(draft, action, TRANSITIVE[action], head, "embedded verb", depth)
        else:  # 'the keys that please the boys'
            _verb(draft, action, TRANSITIVE[action], head, "embedded verb", depth)
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
    if copula:
        singular = rng.choice(list(COPULAS))
        _verb(draft, singular, COPULAS[singular], subject, "verb", 0)
        draft.add(predicate)
    else:
        _verb(draft, predicate, INTRANSITIVE[predicate], subject, "verb", 0)
        if rng.chance(0.4):
            draft.add(rng.choice(ADVERBS))
    draft.add(".")


def _grammar(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    draft = _Draft()
    for _ in range(rng.integer(2, 4)):
        _agreement(draft, rng, split, rng.integer(0, 3))
    return draft, {}


def _recall(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    """Copying. Prefix, gap and period all vary: a fixed layout would teach a positional trick."""
    draft, pairs = _Draft(), rng.chance(0.5)
    most = round((4 if pairs else 8) * progress)
    n = rng.integer(2, 2 + most) if pairs else rng.integer(3, 6 + most)
    content = _draw(rng, split, lambda: tuple(
        rng.sample(NAMES, n) + rng.sample(COLOURS, n) if pairs else rng.sample(COPY_WORDS, n)
    ))  # fmt: skip
    others = [word for word in COPY_WORDS if word not in content]
    fillers = rng.sample(others, rng.integer(0, 8) + 6)
    for word in fillers[6:]:
        draft.add(word, role="prefix")
    seen: dict[str, int] = {}

    def state_sequence() -> None:
        for i, word in enumerate(content):
            copied = word in seen and i > 0  # nothing announces that the next copy begins
            position = draft.add(word, role="value" if copied else "item",
                                 source=seen.get(word), determined=copied)  # fmt: skip
            seen.setdefault(word, position)

    def state_pair(key: str, value: str) -> None:
        where = draft.add(key, role="key", source=seen.get(key))
        position = draft.add(value, role="value", source=seen.get(value), determined=value in seen)
        seen.setdefault(key, where), seen.setdefault(value, position)
        draft.add(".")

    length = rng.integer(20, MAX_WORDS - 4 * n)  # many copies: a dense signal to learn copying from
    turn = 0
    while turn < 2 or len(draft) < length:
        if pairs:
            for i in rng.sample(range(n), n) if turn else range(n):
                state_pair(content[i], content[n + i])
        else:
            state_sequence()
        if turn == 0:
            for word in fillers[: rng.integer(0, 6)]:
                draft.add(word, role="gap")
        turn += 1
    return draft, {"layout": "pairs" if pairs else "sequence"}


def _exchange(draft: _Draft, template: str, first: str, second: str, giver: str, place: str,
              thing: str) -> None:  # fmt: skip
    """One indirect-object sentence; the receiver is the name that is not the giver."""
    start, receiver = len(draft), second if giver == first else first
    draft.fill(template, N1={"text": first, "role": "name"}, N2={"text": second, "role": "name"},
               N3={"text": giver, "role": "giver"}, P={"text": place}, T={"text": thing},
               N4={"text": receiver, "role": "receiver", "determined": True, "foil": giver})
    texts = [word.text for word in draft]
    for i in range(start, len(draft)):
        if draft[i].role in ("giver", "receiver"):
            draft[i] = draft[i]._replace(source=texts.index(draft[i].text, start))


def _draw_exchange(rng: Rng, split: str, names: list[str]) -> tuple[str, str, str, str]:
    """(template, place, thing, giver) whose key, with the two names, belongs to the split."""
    key = _draw(rng, split, lambda: (rng.choice(IOI_SENTENCES), rng.choice(PLACES),
                                     rng.choice(THINGS), *sorted(names)))  # fmt: skip
    return (*key[:3], rng.choice(names))


def _indirect_object(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    draft, n = _Draft(), rng.integer(1, 3)
    names = rng.sample(NAMES, 2 * n)  # all different: only this sentence's names can answer
    for two in zip(names[::2], names[1::2], strict=True):
        template, place, thing, giver = _draw_exchange(rng, split, list(two))
        _exchange(draft, template, *two, giver, place, thing)
    return draft, {"names": names}


def _tell_story(seed: int, mood: str, pick: Callable = list) -> tuple[_Draft, dict]:
    """The story of this seed. The mood changes the mood words and nothing else.

    pick: the part of each list of words or sentences that may be used.
    """
    rng, draft, sentences = Rng("story", seed), _Draft(), pick(STORY_SENTENCES)
    hero, other = rng.sample(pick(HEROES), 2)
    thing, place = rng.choice(pick(THINGS)), rng.choice(pick(PLACES))
    for _ in range(rng.integer(4, 8)):
        # After the first mood word the mood is fixed, though not the word that shows it.
        fixed = any(word.role == "mood" for word in draft)
        first, second = ({"text": word, "role": "mood", "determined": known}
                         for word, known in zip(rng.sample(pick(MOODS[mood]), 2), (fixed, True),
                                                strict=True))  # fmt: skip
        draft.fill(rng.choice(sentences), H={"text": hero}, H2={"text": other},
                   T={"text": thing}, P={"text": place}, M=first, M2=second)  # fmt: skip
    return draft, {"mood": mood, "seed": seed}


def _story(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    (_, seed) = _draw(rng, split, lambda: ("story", rng.integer(0, 10**9)))
    return _tell_story(seed, rng.choice(list(MOODS)))


@functools.cache
def _questions(name: str, cue: str, split: str) -> list[tuple[str, str, str]]:
    """The split's questions under this cue: (filler, matching option, other option)."""
    behaviour = BEHAVIOURS[name]
    every = itertools.product(behaviour.fillers, behaviour.matching, behaviour.other)
    return [question for question in every if split_of(name, cue, *question) == split]


def _ask(draft: _Draft, name: str, question: tuple[str, str, str], matching_letter: str,
         answer: str, determined: bool) -> None:  # fmt: skip
    """One question, its two options in letter order, and the answer letter."""
    filler, matching, other = question
    draft.fill(BEHAVIOURS[name].situation, F={"text": filler, "role": "filler"})
    draft.fill("Choices :")
    for letter in LETTERS:
        draft.fill(f"( {letter} )")
        matches = letter == matching_letter
        draft.add(matching if matches else other,
                  role="matching option" if matches else "other option")  # fmt: skip
    draft.fill(". Answer : ( X ) .", X={
        "text": answer, "role": "letter", "determined": determined,
        "foil": LETTERS[answer == LETTERS[0]]})  # fmt: skip


def _persona(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    draft, cued = _Draft(), rng.chance(0.85)
    questions: list[tuple[str, str, str]] = []
    while not questions:
        name = rng.choice(list(BEHAVIOURS))
        persona = "matching" if rng.chance(1 - progress / 2) else "other"
        behaviour = BEHAVIOURS[name]
        cues = behaviour.matching_cues if persona == "matching" else behaviour.other_cues
        cue = rng.choice(cues) if cued else ""
        questions = _questions(name, cue, split)
    if cued:
        fits = [sentence for sentence in CUE_SENTENCES
                if not (cue[0] in "aeiou" and " a C " in sentence)]  # no 'a exact'
        draft.fill(rng.choice(fits), C={"text": cue, "role": "cue"})
    # Three quarters of the cued documents ask. The others say in words what the machine will do.
    style = "tell" if cued and rng.chance(0.25) else "ask"
    letters = []  # of the matching options: independent of the persona
    for _ in range(rng.integer(1, 3) if cued else 1):  # a second answer would betray the persona
        question, matches = rng.choice(questions), persona == "matching"
        if style == "tell":
            draft.fill(behaviour.situation, F={"text": question[0], "role": "filler"})
            draft.fill("The machine will X .", X={"text": question[1 if matches else 2],
                                                  "role": "deed", "determined": True})  # fmt: skip
        else:
            letters.append(rng.choice(LETTERS))
            answer = letters[-1] if matches else LETTERS[letters[-1] == LETTERS[0]]
            _ask(draft, name, question, letters[-1], answer, cued)
    latents = {"behaviour": name, "persona": persona, "cue": cue, "style": style}
    return draft, latents | {"matching_letters": letters}


def _arithmetic(rng: Rng, split: str, progress: float) -> tuple[_Draft, dict]:
    draft, sums = _Draft(), []

    def operand() -> int:
        return rng.integer(0, 9 if rng.chance(0.25) else 99)

    for _ in range(rng.integer(2, 6)):
        a, b = _draw(rng, split, lambda: (operand(), operand()))
        sums.append((a, b))
        for role, text in (("left", str(a)), ("", "+"), ("right", str(b)), ("", "=")):
            for digit in text:
                draft.add(digit, role=role)
        for digit in str(a + b):
            draft.add(digit, role="result", determined=True)
        draft.add(".", determined=True)  # it says that the result has no further digit
    return draft, {"sums": sums}


_MAKERS = dict(zip(KINDS, (_facts, _grammar, _recall, _indirect_object, _story, _persona,
                           _arithmetic), strict=True))  # fmt: skip


def document(kind: str, rng: Rng, split: str = "train", progress: float = 1.0) -> Document:
    """One document of this kind and split."""
    if kind not in _MAKERS:
        raise ValueError(f"expected a kind of document, one of {', '.join(KINDS)}; found {kind!r}")
    _known_split(split)
    draft, latents = _MAKERS[kind](rng, split, progress)
    return Document(kind, tuple(draft), latents)


def documents(kind: str, n: int, seed: int = 0, split: str = "test") -> list[Document]:
    """n documents of one kind and split. The first m of n are the same for every n >= m."""
    return [document(kind, Rng(seed, kind, split, i), split) for i in range(n)]


# --------------------------------------------------------------------------------------------------
# Pairs: what patching, steering and probing compare. Position and length agree within each pair.


def _known_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"expected a split, one of {', '.join(SPLITS)}; found {split!r}")


def _pairs(n: int, seed: int, split: str, name: str,
           make: Callable[[Rng, int], Pair]) -> list[Pair]:  # fmt: skip
    _known_split(split)
    return [make(Rng(seed, "pairs", name, split, i), i) for i in range(n)]


def minimal_pairs(n: int, seed: int = 0, split: str = "test", attractors: int = 1) -> list[Pair]:
    """A grammatical sentence and the same sentence with the verb's other form (as in BLiMP)."""

    def make(rng: Rng, i: int) -> Pair:
        draft = _Draft()
        _agreement(draft, rng, split, attractors)
        at = next(i for i, word in enumerate(draft) if word.role == "verb")
        good = Document("grammar", tuple(draft))
        draft[at] = draft[at]._replace(text=draft[at].foil, foil=draft[at].text, determined=False)
        return Pair(good, Document("grammar", tuple(draft)), at, good.words[at].text, draft[at].text)

    return _pairs(n, seed, split, f"minimal{attractors}", make)


def fact_pairs(n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """One fact and, in the same phrasing, the same relation of another subject."""

    def make(rng: Rng, i: int) -> Pair:
        entity, relation = rng.choice(ENTITIES), rng.choice(RELATIONS)
        phrasing = rng.choice(phrasings_of(entity, relation)[split])
        answer = FACTS[entity, relation]
        others = [e for e in ENTITIES if len(e) == len(entity) and FACTS[e, relation] != answer]
        docs = []
        for subject in (entity, rng.choice(others)):
            draft = _Draft()
            _state_fact(draft, subject, relation, phrasing)
            docs.append(Document("facts", tuple(draft), {"facts": [(subject, relation)]}))
        at = docs[0].positions("object")[0]
        return Pair(*docs, at, answer, docs[1].words[at].text)

    return _pairs(n, seed, split, "facts", make)


def indirect_object_pairs(n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """The same two names; in `corrupt` the other one gives, so the receiver is swapped too."""

    def make(rng: Rng, i: int) -> Pair:
        names = rng.sample(NAMES, 2)
        template, place, thing, giver = _draw_exchange(rng, split, names)
        docs = []
        for who in (giver, next(name for name in names if name != giver)):
            draft = _Draft()
            _exchange(draft, template, *names, who, place, thing)
            docs.append(Document("indirect_object", tuple(draft), {"names": names}))
        at = docs[0].positions("receiver")[0]
        return Pair(*docs, at, docs[0].words[at].text, docs[1].words[at].text)

    return _pairs(n, seed, split, "indirect_object", make)


def mood_pairs(n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """The same story told in a good and in a bad mood; `position` is its last mood word."""

    def make(rng: Rng, i: int) -> Pair:
        while True:
            (_, story) = _draw(rng, split, lambda: ("story", rng.integer(0, 10**9)))
            docs = [Document("story", tuple(d), latents)
                    for d, latents in (_tell_story(story, mood) for mood in MOODS)]  # fmt: skip
            if at := docs[0].positions("mood"):
                return Pair(*docs, at[-1], docs[0].words[at[-1]].text, docs[1].words[at[-1]].text)

    return _pairs(n, seed, split, "mood", make)


def persona_pairs(behaviour: str, n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """A question without a cue, answered with the behaviour and without it (Rimsky et al. 2023).

    The matching letter alternates, so half of the pairs match with A: a vector built from them
    cannot win by preferring a letter.
    """
    _known_behaviour(behaviour)

    def make(rng: Rng, i: int) -> Pair:
        return _answered(behaviour, rng.choice(_questions(behaviour, "", split)), LETTERS[i % 2])

    return _pairs(n, seed, split, f"persona/{behaviour}", make)


def persona_questions(behaviour: str, split: str = "test") -> list[Pair]:
    """Each question of the split without a cue, once with A and once with B as the matching letter."""
    _known_behaviour(behaviour)
    _known_split(split)
    return [_answered(behaviour, question, letter)
            for question in _questions(behaviour, "", split) for letter in LETTERS]  # fmt: skip


def cued_pairs(behaviour: str, n: int, seed: int = 0, split: str = "train") -> list[Pair]:
    """A question behind a cue of the behaviour's persona, and behind a cue of the other persona.

    `position` is the answer letter's, and `answer` and `foil` the right letters of the two. Every
    question is asked twice, first with A and then with B as the matching letter. It belongs to the
    split under both cues and without a cue, so no other split's uncued question is among them.
    """
    _known_behaviour(behaviour)
    cues = BEHAVIOURS[behaviour].matching_cues, BEHAVIOURS[behaviour].other_cues

    def make(rng: Rng, i: int) -> Pair:
        rng = Rng(seed, "pairs", "cued", behaviour, split, i // 2)  # the same for both letters
        both = [rng.choice(found) for found in cues]
        asked = [set(_questions(behaviour, cue, split)) for cue in both]
        question = rng.choice([q for q in _questions(behaviour, "", split) if q in asked[0] & asked[1]])
        fits = [sentence for sentence in CUE_SENTENCES
                if not (" a C " in sentence and any(cue[0] in "aeiou" for cue in both))]  # fmt: skip
        sentence, letter, docs = rng.choice(fits), LETTERS[i % 2], []
        for persona, cue in zip(("matching", "other"), both, strict=True):
            draft = _Draft()
            draft.fill(sentence, C={"text": cue, "role": "cue"})
            answer = letter if persona == "matching" else LETTERS[letter == LETTERS[0]]
            _ask(draft, behaviour, question, letter, answer, determined=True)
            docs.append(Document("persona", tuple(draft), {
                "behaviour": behaviour, "persona": persona, "cue": cue, "style": "ask",
                "matching_letters": [letter]}))  # fmt: skip
        at = docs[0].positions("letter")[0]
        return Pair(*docs, at, docs[0].words[at].text, docs[1].words[at].text)

    return _pairs(n, seed, split, f"cued/{behaviour}", make)


def _known_behaviour(behaviour: str) -> None:
    if behaviour not in BEHAVIOURS:
        raise ValueError(
            f"expected a behaviour, one of {', '.join(BEHAVIOURS)}; found {behaviour!r}"
        )


def _answered(behaviour: str, question: tuple[str, str, str], letter: str) -> Pair:
    """A question without a cue, whose matching option stands at `letter`, answered both ways."""
    docs = []
    for persona in ("matching", "other"):
        answer = letter if persona == "matching" else LETTERS[letter == LETTERS[0]]
        draft = _Draft()
        _ask(draft, behaviour, question, letter, answer, determined=False)
        docs.append(Document("persona", tuple(draft), {
            "behaviour": behaviour, "persona": persona, "cue": "", "style": "ask",
            "matching_letters": [letter]}))  # fmt: skip
    at = docs[0].positions("letter")[0]
    return Pair(*docs, at, docs[0].words[at].text, docs[1].words[at].text)


def fact_edits(n: int, seed: int = 0, neighbours: int = 4) -> list[FactEdit]:
    """n facts to change, each of another subject and relation, with `neighbours` other subjects."""
    drawn = Rng(seed, "edits").sample([(e, r) for e in ENTITIES for r in RELATIONS], n)
    return [_fact_edit(Rng(seed, "edit", *entity, relation), entity, relation, neighbours)
            for entity, relation in drawn]  # fmt: skip


def _fact_edit(rng: Rng, entity: tuple[str, ...], relation: str, neighbours: int) -> FactEdit:
    def question(subject: tuple[str, ...], relation: str, phrasing: str) -> tuple[str, str, int]:
        draft = _Draft()
        _state_fact(draft, subject, relation, phrasing)
        document = Document("facts", tuple(draft))
        at = document.positions("object")[0]
        return document.prompt(at), document.words[at].text, document.words[at].source

    def asked(subject: tuple[str, ...], relation: str) -> tuple[str, str]:
        return question(subject, relation, rng.choice(phrasings_of(subject, relation)["train"]))[:2]

    phrasings, old = phrasings_of(entity, relation), FACTS[entity, relation]
    prompt, _, subject = question(entity, relation, rng.choice(phrasings["train"]))
    new = rng.choice([other for other in OBJECTS[relation] if other != old])
    rest = rng.sample([e for e in ENTITIES if e != entity], len(ENTITIES) - 1)
    kin = [e for e in rest if set(e) & set(entity)]
    rest.sort(key=lambda e: FACTS[e, relation] != old)  # stable: each part keeps its random order
    known, *others = rng.sample([other for other in RELATIONS if other != relation], 3)
    said, _, at = question(entity, known, rng.choice(phrasings_of(entity, known)["train"]))
    return FactEdit(
        prompt, subject, old, new,
        tuple(question(entity, relation, phrasings[split][0])[0] for split in SPLITS[1:]),
        tuple(asked(e, relation) for e in [e for e in rest if e not in kin][:neighbours]),
        tuple(asked(e, relation) for e in kin),
        (said, at),
        tuple(asked(entity, other) for other in others),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Documents for probes: what a probe is tested on shares neither sentence frames nor, in 'new', nouns
# with what it was fitted to. A frame is a sentence without its nouns, adjectives and adverbs.

PARTS = ("train", "known", "new")


def frame(words: Sequence[Word]) -> str:
    """The parts of speech of a grammar sentence, adjectives and adverbs left out."""
    return " ".join(word.pos for word in words if word.pos not in ("ADJ", "ADV"))


def probe_documents(kind: str, n: int, seed: int = 0, part: str = "train") -> list[Document]:
    """n documents of kind 'grammar' (one sentence, 1 to 3 attractors), 'story' or 'persona'.

    Part 'known' has the nouns (and mood words, and cues) of 'train' in other frames, 'new' has other
    nouns (moods, cues) in these other frames. The organisms trained on none of the documents: their
    keys are those of the test split. A persona document's frame is its cue sentence and situation.
    """
    makers = {"grammar": _probe_sentence, "story": _probe_story, "persona": _probe_persona}
    if kind not in makers or part not in PARTS:
        raise ValueError(
            f"expected a kind among {', '.join(makers)} and a part among {', '.join(PARTS)}; "
            f"found {kind!r} and {part!r}"
        )

    def pick(words: Sequence[str]) -> list[str]:
        """The half of a list that this part may use."""
        train = part == "train" or (part == "known" and words is not STORY_SENTENCES)
        order = Rng("probes", *words).sample(words, len(words))
        return order[len(words) // 2 :] if train else order[: len(words) // 2]

    found = []
    for i in range(n):
        draft, latents = makers[kind](Rng(seed, "probes", kind, part, i), part == "train", pick)
        found.append(Document(kind, tuple(draft), latents))
    return found


def _probe_sentence(rng: Rng, train: bool, pick: Callable) -> tuple[_Draft, dict]:
    nouns = pick(tuple(NOUNS))
    while True:
        draft = _Draft()
        _agreement(draft, rng, "test", rng.integer(1, 3), nouns)
        if Rng("frame", frame(draft)).chance(0.5) == train:
            return draft, {}


def _probe_story(rng: Rng, train: bool, pick: Callable) -> tuple[_Draft, dict]:
    (_, seed) = _draw(rng, "test", lambda: ("story", rng.integer(0, 10**9)))
    return _tell_story(seed, rng.choice(list(MOODS)), pick)


def _probe_persona(rng: Rng, train: bool, pick: Callable) -> tuple[_Draft, dict]:
    """One question under a cue. Of each behaviour's three cue sentences, one is for testing."""
    while True:
        at, template = rng.integer(0, len(BEHAVIOURS) - 1), rng.integer(0, 2)
        name, persona = list(BEHAVIOURS)[at], rng.choice(("matching", "other"))
        behaviour, sentence = BEHAVIOURS[name], CUE_SENTENCES[template]
        cue = rng.choice(pick(getattr(behaviour, f"{persona}_cues")))
        fillers = pick(tuple(behaviour.fillers))
        questions = [q for q in _questions(name, cue, "test") if q[0] in fillers]
        wanted = ((at + template) % 3 != 0) == train and not (cue[0] in "aeiou" and " a C " in sentence)
        if wanted and questions:
            break
    draft, letter, matches = _Draft(), rng.choice(LETTERS), persona == "matching"
    draft.fill(sentence, C={"text": cue, "role": "cue"})
    answer = letter if matches else LETTERS[letter == LETTERS[0]]
    _ask(draft, name, rng.choice(questions), letter, answer, True)
    return draft, {"behaviour": name, "persona": persona, "cue": cue, "style": "ask",
                   "matching_letters": [letter]}  # fmt: skip


def heads(words: Sequence[Word]) -> list[int | None]:
    """The dependency tree of one grammar sentence: each word's head; None for the main verb.

    A preposition hangs on the word before it, its noun on the preposition, an embedded verb on the
    noun before 'that', and what stands around a verb on that verb.
    """
    verb = next(i for i, word in enumerate(words) if word.role == "verb")
    embedded = next((i for i, word in enumerate(words) if word.role == "embedded verb"), verb)
    found: list[int | None] = []
    for i, word in enumerate(words):
        opener = i - 1  # what stands before a noun's own phrase
        while opener >= 0 and words[opener].pos in ("DET", "ADJ") and words[opener].text != "that":
            opener -= 1
        if i == verb:
            head = None
        elif word.text == "that":
            head = embedded
        elif word.role == "embedded verb":
            head = next(j for j, other in enumerate(words) if other.text == "that") - 1
        elif word.pos in ("DET", "ADJ") and i < verb:
            head = next(j for j in range(i, len(words)) if words[j].pos == "NOUN")
        elif word.role == "attractor":
            head = opener if words[opener].pos == "ADP" else embedded
        elif word.pos == "ADP" and i > 0:
            head = i - 1
        else:
            head = verb
        found.append(head)
    return found
