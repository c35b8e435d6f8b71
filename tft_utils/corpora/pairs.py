"""The world's ground truth: pairs that differ in one cause, edits of facts, documents for probes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tft_utils.corpora.lexicon import (
    BEHAVIOURS,
    CUE_SENTENCES,
    ENTITIES,
    FACTS,
    LETTERS,
    MOODS,
    NAMES,
    NOUNS,
    OBJECTS,
    RELATIONS,
    STORY_SENTENCES,
    Rng,
)
from tft_utils.corpora.world import (
    SPLITS,
    Document,
    Draft,
    Word,
    add_agreement,
    add_exchange,
    add_fact,
    add_question,
    check_split,
    draw_exchange,
    draw_key,
    phrasings_of,
    questions_under,
    tell_story,
)


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


def _pairs(n: int, seed: int, split: str, name: str, make: Callable[[Rng, int], Pair]) -> list[Pair]:
    check_split(split)
    return [make(Rng(seed, "pairs", name, split, i), i) for i in range(n)]


def minimal_pairs(n: int, seed: int = 0, split: str = "test", attractors: int = 1) -> list[Pair]:
    """A grammatical sentence and the same sentence with the verb's other form (as in BLiMP)."""

    def make(rng: Rng, i: int) -> Pair:
        draft = Draft()
        add_agreement(draft, rng, split, attractors)
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
            draft = Draft()
            add_fact(draft, subject, relation, phrasing)
            docs.append(Document("facts", tuple(draft), {"facts": [(subject, relation)]}))
        at = docs[0].positions("object")[0]
        return Pair(*docs, at, answer, docs[1].words[at].text)

    return _pairs(n, seed, split, "facts", make)


def indirect_object_pairs(n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """The same two names; in `corrupt` the other one gives, so the receiver is swapped too."""

    def make(rng: Rng, i: int) -> Pair:
        names = rng.sample(NAMES, 2)
        template, place, thing, giver = draw_exchange(rng, split, names)
        docs = []
        for who in (giver, next(name for name in names if name != giver)):
            draft = Draft()
            add_exchange(draft, template, *names, who, place, thing)
            docs.append(Document("indirect_object", tuple(draft), {"names": names}))
        at = docs[0].positions("receiver")[0]
        return Pair(*docs, at, docs[0].words[at].text, docs[1].words[at].text)

    return _pairs(n, seed, split, "indirect_object", make)


def mood_pairs(n: int, seed: int = 0, split: str = "test") -> list[Pair]:
    """The same story told in a good and in a bad mood; `position` is its last mood word."""

    def make(rng: Rng, i: int) -> Pair:
        while True:
            (_, story) = draw_key(rng, split, lambda: ("story", rng.integer(0, 10**9)))
            docs = [
                Document("story", tuple(d), latents)
                for d, latents in (tell_story(story, mood) for mood in MOODS)
            ]
            if at := docs[0].positions("mood"):
                return Pair(*docs, at[-1], docs[0].words[at[-1]].text, docs[1].words[at[-1]].text)

    return _pairs(n, seed, split, "mood", make)


def persona_questions(behaviour: str, split: str = "test") -> list[Pair]:
    """Each question of the split without a cue, answered with the behaviour and without it (Rimsky et al.
    2023), once with A and once with B as the matching letter.
    """
    _known_behaviour(behaviour)
    check_split(split)
    return [
        _answered([_persona(behaviour, side, question, letter) for side in ("matching", "other")])
        for question in questions_under(behaviour, "", split)
        for letter in LETTERS
    ]


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
        asked = [set(questions_under(behaviour, cue, split)) for cue in both]
        question = rng.choice(
            [q for q in questions_under(behaviour, "", split) if q in asked[0] & asked[1]]
        )
        fits = [
            sentence
            for sentence in CUE_SENTENCES
            if not (" a C " in sentence and any(cue[0] in "aeiou" for cue in both))
        ]
        sentence, letter = rng.choice(fits), LETTERS[i % 2]
        sides = zip(("matching", "other"), both, strict=True)
        return _answered(
            [_persona(behaviour, side, question, letter, cue, sentence) for side, cue in sides]
        )

    return _pairs(n, seed, split, f"cued/{behaviour}", make)


def _known_behaviour(behaviour: str) -> None:
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"expected a behaviour, one of {', '.join(BEHAVIOURS)}; found {behaviour!r}")


def _persona(
    behaviour: str,
    persona: str,
    question: tuple[str, str, str],
    letter: str,
    cue: str = "",
    sentence: str = "",
) -> Document:
    """A question whose matching option stands at `letter`, answered as a persona does, behind its cue."""
    draft = Draft()
    if cue:
        draft.fill(sentence, C={"text": cue, "role": "cue"})
    answer = letter if persona == "matching" else LETTERS[letter == LETTERS[0]]
    add_question(draft, behaviour, question, letter, answer, determined=bool(cue))
    latents = {"behaviour": behaviour, "persona": persona, "cue": cue, "style": "ask"}
    return Document("persona", tuple(draft), latents | {"matching_letters": [letter]})


def _answered(documents: list[Document]) -> Pair:
    """Two documents that differ in the letter of their answer."""
    at = documents[0].positions("letter")[0]
    return Pair(*documents, at, *(document.words[at].text for document in documents))


def fact_edits(n: int, seed: int = 0, neighbours: int = 4) -> list[FactEdit]:
    """n facts to change, each of another subject and relation, with `neighbours` other subjects."""
    drawn = Rng(seed, "edits").sample([(e, r) for e in ENTITIES for r in RELATIONS], n)
    return [
        _fact_edit(Rng(seed, "edit", *entity, relation), entity, relation, neighbours)
        for entity, relation in drawn
    ]


def _fact_edit(rng: Rng, entity: tuple[str, ...], relation: str, neighbours: int) -> FactEdit:
    def question(subject: tuple[str, ...], relation: str, phrasing: str) -> tuple[str, str, int]:
        draft = Draft()
        add_fact(draft, subject, relation, phrasing)
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
        prompt,
        subject,
        old,
        new,
        tuple(question(entity, relation, phrasings[split][0])[0] for split in SPLITS[1:]),
        tuple(asked(e, relation) for e in [e for e in rest if e not in kin][:neighbours]),
        tuple(asked(e, relation) for e in kin),
        (said, at),
        tuple(asked(entity, other) for other in others),
    )


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


def _probe_sentence(rng: Rng, train: bool, pick: Callable) -> tuple[Draft, dict]:
    nouns = pick(tuple(NOUNS))
    while True:
        draft = Draft()
        add_agreement(draft, rng, "test", rng.integer(1, 3), nouns)
        if Rng("frame", frame(draft)).chance(0.5) == train:
            return draft, {}


def _probe_story(rng: Rng, train: bool, pick: Callable) -> tuple[Draft, dict]:
    (_, seed) = draw_key(rng, "test", lambda: ("story", rng.integer(0, 10**9)))
    return tell_story(seed, rng.choice(list(MOODS)), pick)


def _probe_persona(rng: Rng, train: bool, pick: Callable) -> tuple[list[Word], dict]:
    """One question under a cue. Of each behaviour's three cue sentences, one is for testing."""
    while True:
        at, template = rng.integer(0, len(BEHAVIOURS) - 1), rng.integer(0, 2)
        name, persona = list(BEHAVIOURS)[at], rng.choice(("matching", "other"))
        behaviour, sentence = BEHAVIOURS[name], CUE_SENTENCES[template]
        cue = rng.choice(pick(getattr(behaviour, f"{persona}_cues")))
        fillers = pick(tuple(behaviour.fillers))
        questions = [q for q in questions_under(name, cue, "test") if q[0] in fillers]
        wanted = ((at + template) % 3 != 0) == train and not (cue[0] in "aeiou" and " a C " in sentence)
        if wanted and questions:
            break
    letter = rng.choice(LETTERS)
    document = _persona(name, persona, rng.choice(questions), letter, cue, sentence)
    return list(document.words), document.latents


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
