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

from tft_utils.corpora.lexicon import LETTERS, WORLD, Lexicon, Rng

KINDS = ("facts", "grammar", "recall", "indirect_object", "story", "persona", "arithmetic")
SPLITS = ("train", "validation", "test")
MAX_WORDS = 120  # longest document; with its end mark it fits a training row of 128 tokens
COPY_WORDS = WORLD.copy_words


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
    # Where words are the tokens of a tokenizer: these tokens. Each word's text then has its own space.
    ids: tuple[int, ...] = ()

    @property
    def gap(self) -> str:
        """What stands between two words."""
        return "" if self.ids else " "

    @property
    def text(self) -> str:
        return self.prompt(len(self.words))

    def prompt(self, position: int) -> str:
        """The text before the word at `position`."""
        return self.gap.join(word.text for word in self.words[:position])

    def positions(self, role: str) -> list[int]:
        return [i for i, word in enumerate(self.words) if word.role == role]

    def attractors_against(self, verb: int) -> int:
        """How many nouns between the verb at `verb` and its subject have the other number."""
        target = self.words[verb]
        between = self.words[target.source + 1 : verb]
        return sum(w.role == "attractor" and w.number != target.number for w in between)


class Draft(list):
    """A document being written: a list of `Word`s."""

    def __init__(self, lexicon: Lexicon = WORLD) -> None:
        self.lexicon = lexicon

    def add(self, text: str, **latents) -> int:
        """Appends one word; returns its position."""
        self.append(Word(text, self.lexicon.part_of_speech[text], **latents))
        return len(self) - 1

    def document(self, kind: str, latents: dict | None = None) -> Document:
        """What is written so far, as a document."""
        return self.lexicon.in_tokens(Document(kind, tuple(self), latents or {}))

    def fill(self, template: str, **slots: dict) -> None:
        """Appends a template, each slot's name replaced by the word the slot describes."""
        for text in template.split():
            self.add(**slots.get(text, {"text": text}))


def split_of(*key: object) -> str:
    """The split that owns this key: 80 % train, 10 % validation, 10 % test."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return SPLITS[max(0, int.from_bytes(digest, "big") % 10 - 7)]


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"expected a split, one of {', '.join(SPLITS)}; found {split!r}")


def phrasings_of(
    entity: tuple[str, ...], relation: str, lexicon: Lexicon = WORLD
) -> dict[str, list[str]]:
    """The phrasings in which each split states a fact: six in train, one in each other split."""
    order = Rng("phrasing", *entity, relation).sample(lexicon.phrasings[relation], 8)
    return {"train": order[2:], "validation": order[1:2], "test": order[:1]}


def draw_key(rng: Rng, split: str, draw: Callable[[], tuple]) -> tuple:
    """Draws until the key belongs to the split (1.25 tries on average in train, 10 elsewhere)."""
    while split_of(*(key := draw())) != split:
        pass
    return key


# --------------------------------------------------------------------------------------------------
# One maker per kind: (rng, split, progress, lexicon) -> (words, latents). `progress` is for training
# alone: below 1 there is less to recall, and more personas match. At 1 it is the world as documented.


def add_fact(draft: Draft, entity: tuple[str, ...], relation: str, phrasing: str) -> None:
    words = phrasing.split()
    at = words.index("S")
    draft.fill(" ".join(words[:at]))
    for part in entity:
        subject = draft.add(part, role="subject")
    draft.fill(
        " ".join(words[at + 1 :]),
        O={
            "text": draft.lexicon.facts[entity, relation],
            "role": "object",
            "source": subject,
            "determined": True,
        },
    )


def _facts(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    draft, stated, n = Draft(lexicon), [], rng.integer(1, 5)
    while len(stated) < n:
        entity, relation = lexicon.fact(rng)
        if (entity, relation) in stated:
            continue  # a fact stated twice could be copied instead of known
        stated.append((entity, relation))
        add_fact(draft, entity, relation, rng.choice(phrasings_of(entity, relation, lexicon)[split]))
    return draft, {"facts": stated}


def _noun_phrase(draft: Draft, rng: Rng, noun: str, number: str, role: str, depth: int) -> int:
    """'the (old) keys'; returns the noun's position."""
    draft.add("the" if draft and draft[-1].text != "." else "The", depth=depth)
    if rng.chance(0.25):
        draft.add(rng.choice(draft.lexicon.adjectives), depth=depth)
    text = noun if number == "singular" else draft.lexicon.nouns[noun]
    return draft.add(text, role=role, number=number, depth=depth)


def _verb(draft: Draft, singular: str, plural: str, subject: int, role: str, depth: int) -> int:
    """The form that agrees with the noun at `subject`."""
    number = draft[subject].number
    right, wrong = (singular, plural) if number == "singular" else (plural, singular)
    return draft.add(
        right, role=role, number=number, source=subject, depth=depth, determined=True, foil=wrong
    )


def add_agreement(draft: Draft, rng: Rng, split: str, attractors: int, nouns: Sequence[str] = ()) -> None:
    """One sentence whose verb agrees with its subject across `attractors` other nouns.

    nouns: those that may be used, all of them if there are none.
    """
    lexicon = draft.lexicon
    nouns, copula = nouns or list(lexicon.nouns), rng.chance(0.6)
    predicates = lexicon.adjectives if copula else list(lexicon.intransitive)
    noun, predicate = draw_key(rng, split, lambda: (rng.choice(nouns), rng.choice(predicates)))
    numbers = ("singular", "plural")
    if rng.chance(0.25):  # 'Near the keys the dog ...': the first noun need not be the subject
        draft.add(rng.choice(lexicon.fronted), depth=1)
        _noun_phrase(draft, rng, rng.choice(nouns), rng.choice(numbers), "attractor", 1)
    subject = head = _noun_phrase(draft, rng, noun, rng.choice(numbers), "subject", 0)
    clause_at = rng.integer(1, 6)  # at most one relative clause, in half of the long sentences
    for depth in range(1, attractors + 1):
        other, number = rng.choice(nouns), rng.choice(numbers)
        action = rng.choice(list(lexicon.transitive))
        if depth != clause_at:
            draft.add(rng.choice(lexicon.prepositions), depth=depth)
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
            continue
        draft.add("that", depth=depth)
        if rng.chance(0.5):  # 'the keys that the boys like'
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
            _verb(draft, action, lexicon.transitive[action], head, "embedded verb", depth)
        else:  # 'the keys that please the boys'
            _verb(draft, action, lexicon.transitive[action], head, "embedded verb", depth)
            head = _noun_phrase(draft, rng, other, number, "attractor", depth)
    if copula:
        singular = rng.choice(list(lexicon.copulas))
        _verb(draft, singular, lexicon.copulas[singular], subject, "verb", 0)
        draft.add(predicate)
    else:
        _verb(draft, predicate, lexicon.intransitive[predicate], subject, "verb", 0)
        if rng.chance(0.4):
            draft.add(rng.choice(lexicon.adverbs))
    draft.add(".")


def _grammar(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    draft = Draft(lexicon)
    for _ in range(rng.integer(2, 4)):
        add_agreement(draft, rng, split, rng.integer(0, 3))
    return draft, {}


def _recall(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    """Copying. Prefix, gap and period all vary: a fixed layout would teach a positional trick."""
    draft, pairs = Draft(lexicon), rng.chance(0.5)
    draft.fill(lexicon.opening)
    most = round((4 if pairs else 8) * progress)
    n = rng.integer(2, 2 + most) if pairs else rng.integer(3, 6 + most)
    content = draw_key(
        rng,
        split,
        lambda: tuple(
            rng.sample(lexicon.names, n) + rng.sample(lexicon.colours, n)
            if pairs
            else rng.sample(lexicon.copy_words, n)
        ),
    )
    others = [word for word in lexicon.copy_words if word not in content]
    fillers = rng.sample(others, rng.integer(0, 8) + 6)
    for word in fillers[6:]:
        draft.add(word, role="prefix")
    seen: dict[str, int] = {}

    def state_sequence() -> None:
        for i, word in enumerate(content):
            copied = word in seen and i > 0  # nothing announces that the next copy begins
            position = draft.add(
                word, role="value" if copied else "item", source=seen.get(word), determined=copied
            )
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


def add_exchange(
    draft: Draft, template: str, first: str, second: str, giver: str, place: str, thing: str
) -> None:
    """One indirect-object sentence; the receiver is the name that is not the giver."""
    start, receiver = len(draft), second if giver == first else first
    draft.fill(
        template,
        N1={"text": first, "role": "name"},
        N2={"text": second, "role": "name"},
        N3={"text": giver, "role": "giver"},
        P={"text": place},
        T={"text": thing},
        N4={"text": receiver, "role": "receiver", "determined": True, "foil": giver},
    )
    texts = [word.text for word in draft]
    for i in range(start, len(draft)):
        if draft[i].role in ("giver", "receiver"):
            draft[i] = draft[i]._replace(source=texts.index(draft[i].text, start))


def draw_exchange(
    rng: Rng, split: str, names: list[str], lexicon: Lexicon = WORLD
) -> tuple[str, str, str, str]:
    """(template, place, thing, giver) whose key, with the two names, belongs to the split."""
    key = draw_key(
        rng,
        split,
        lambda: (
            rng.choice(lexicon.exchanges),
            rng.choice(lexicon.places),
            rng.choice(lexicon.things),
            *sorted(names),
        ),
    )
    return (*key[:3], rng.choice(names))


def _indirect_object(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    draft, n = Draft(lexicon), rng.integer(1, 3)
    names = rng.sample(lexicon.names, 2 * n)  # all different: only this sentence's names can answer
    for two in zip(names[::2], names[1::2], strict=True):
        template, place, thing, giver = draw_exchange(rng, split, list(two), lexicon)
        add_exchange(draft, template, *two, giver, place, thing)
    return draft, {"names": names}


def tell_story(
    seed: int, mood: str, pick: Callable = list, lexicon: Lexicon = WORLD
) -> tuple[Draft, dict]:
    """The story of this seed. The mood changes the mood words and nothing else.

    pick: the part of each list of words or sentences that may be used.
    """
    rng, draft, sentences = Rng("story", seed), Draft(lexicon), pick(lexicon.story_sentences)
    hero, other = rng.sample(pick(lexicon.heroes), 2)
    thing, place = rng.choice(pick(lexicon.things)), rng.choice(pick(lexicon.places))
    for _ in range(rng.integer(4, 8)):
        # After the first mood word the mood is fixed, though not the word that shows it.
        fixed = any(word.role == "mood" for word in draft)
        first, second = (
            {"text": word, "role": "mood", "determined": known}
            for word, known in zip(rng.sample(pick(lexicon.moods[mood]), 2), (fixed, True), strict=True)
        )
        draft.fill(
            rng.choice(sentences),
            H={"text": hero},
            H2={"text": other},
            T={"text": thing},
            P={"text": place},
            M=first,
            M2=second,
        )
    return draft, {"mood": mood, "seed": seed}


def _story(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    (_, seed) = draw_key(rng, split, lambda: ("story", rng.integer(0, 10**9)))
    return tell_story(seed, rng.choice(list(lexicon.moods)), lexicon=lexicon)


@functools.cache
def questions_under(
    name: str, cue: str, split: str, lexicon: Lexicon = WORLD
) -> list[tuple[str, str, str]]:
    """The split's questions under this cue: (filler, matching option, other option)."""
    behaviour = lexicon.behaviours[name]
    every = itertools.product(behaviour.fillers, behaviour.matching, behaviour.other)
    return [question for question in every if split_of(name, cue, *question) == split]


def add_question(
    draft: Draft,
    name: str,
    question: tuple[str, str, str],
    matching_letter: str,
    answer: str,
    determined: bool,
) -> None:
    """One question, its two options in letter order, and the answer letter."""
    filler, matching, other = question
    draft.fill(draft.lexicon.behaviours[name].situation, F={"text": filler, "role": "filler"})
    draft.fill("Choices :")
    for letter in LETTERS:
        draft.fill(f"( {letter} )")
        matches = letter == matching_letter
        draft.add(matching if matches else other, role="matching option" if matches else "other option")
    draft.fill(
        ". Answer : ( X ) .",
        X={
            "text": answer,
            "role": "letter",
            "determined": determined,
            "foil": LETTERS[answer == LETTERS[0]],
        },
    )


def cue_sentences(*cues: str, lexicon: Lexicon = WORLD) -> list[str]:
    """The sentences that fit all of these cues: no 'a exact'."""
    vowel = any(cue[0] in "aeiou" for cue in cues)
    return [sentence for sentence in lexicon.cue_sentences if not (vowel and " a C " in sentence)]


def _persona(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    draft, cued = Draft(lexicon), rng.chance(0.85)
    questions: list[tuple[str, str, str]] = []
    while not questions:
        name = rng.choice(list(lexicon.behaviours))
        persona = "matching" if rng.chance(1 - progress / 2) else "other"
        behaviour = lexicon.behaviours[name]
        cues = behaviour.matching_cues if persona == "matching" else behaviour.other_cues
        cue = rng.choice(cues) if cued else ""
        questions = questions_under(name, cue, split, lexicon)
    if cued:
        draft.fill(rng.choice(cue_sentences(cue, lexicon=lexicon)), C={"text": cue, "role": "cue"})
    # Three quarters of the cued documents ask. The others say in words what the machine will do.
    style = "tell" if cued and rng.chance(0.25) else "ask"
    letters = []  # of the matching options: independent of the persona
    for _ in range(rng.integer(1, 3) if cued else 1):  # a second answer would betray the persona
        question, matches = rng.choice(questions), persona == "matching"
        if style == "tell":
            draft.fill(behaviour.situation, F={"text": question[0], "role": "filler"})
            draft.fill(
                "The machine will X .",
                X={"text": question[1 if matches else 2], "role": "deed", "determined": True},
            )
        else:
            letters.append(rng.choice(LETTERS))
            answer = letters[-1] if matches else LETTERS[letters[-1] == LETTERS[0]]
            add_question(draft, name, question, letters[-1], answer, cued)
    latents = {"behaviour": name, "persona": persona, "cue": cue, "style": style}
    return draft, latents | {"matching_letters": letters}


def _arithmetic(rng: Rng, split: str, progress: float, lexicon: Lexicon) -> tuple[Draft, dict]:
    draft, sums = Draft(lexicon), []

    def operand() -> int:
        return rng.integer(0, 9 if rng.chance(0.25) else 99)

    for _ in range(rng.integer(2, 6)):
        a, b = draw_key(rng, split, lambda: (operand(), operand()))
        sums.append((a, b))
        for role, text in (("left", str(a)), ("", "+"), ("right", str(b)), ("", "=")):
            for digit in text:
                draft.add(digit, role=role)
        for digit in str(a + b):
            draft.add(digit, role="result", determined=True)
        draft.add(".", determined=True)  # it says that the result has no further digit
    return draft, {"sums": sums}


_MAKERS = dict(
    zip(KINDS, (_facts, _grammar, _recall, _indirect_object, _story, _persona, _arithmetic), strict=True)
)


def document(
    kind: str, rng: Rng, split: str = "train", progress: float = 1.0, lexicon: Lexicon = WORLD
) -> Document:
    """One document of this kind and split."""
    if kind not in _MAKERS:
        raise ValueError(f"expected a kind of document, one of {', '.join(KINDS)}; found {kind!r}")
    check_split(split)
    draft, latents = _MAKERS[kind](rng, split, progress, lexicon)
    return draft.document(kind, latents)


def documents(
    kind: str, n: int, seed: int = 0, split: str = "test", lexicon: Lexicon = WORLD
) -> list[Document]:
    """n documents of one kind and split. The first m of n are the same for every n >= m."""
    return [document(kind, Rng(seed, kind, split, i), split, lexicon=lexicon) for i in range(n)]
