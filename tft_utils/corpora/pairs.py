"""Ground truth: pairs that differ in one cause, edits of facts, documents for probes.

Everything takes a lexicon. It is the world's unless another one is given: see `corpora.corpus`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tft_utils.corpora.lexicon import LETTERS, WORLD, Lexicon, Rng
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
    cue_sentences,
    draw_exchange,
    draw_key,
    phrasings_of,
    questions_under,
    tell_story,
)


class Pair(NamedTuple):
    """Two documents of equal length that differ in one cause.

    At `position` the right word is `answer` in `clean`, and `foil` had the cause been the other. Both
    are what a tokenizer makes that word of by itself: most tokenizers need the leading space.
    """

    clean: Document
    corrupt: Document
    position: int
    answer: str
    foil: str


class FactEdit(NamedTuple):
    """A fact to change, and what to ask before and after: questions are prompts whose next word is
    the object of a fact. Objects are bare words; positions count the words of a prompt."""

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


def minimal_pairs(
    n: int, seed: int = 0, split: str = "test", attractors: int = 1, lexicon: Lexicon = WORLD
) -> list[Pair]:
    """A grammatical sentence and the same sentence with the verb's other form (as in BLiMP)."""

    def make(rng: Rng, i: int) -> Pair:
        draft = Draft(lexicon)
        add_agreement(draft, rng, split, attractors)
        good = draft.document("grammar")
        at = next(i for i, word in enumerate(draft) if word.role == "verb")
        draft[at] = draft[at]._replace(text=draft[at].foil, foil=draft[at].text, determined=False)
        return _pair([good, draft.document("grammar")], "verb", lexicon)

    return _pairs(n, seed, split, f"minimal{attractors}", make)


def fact_pairs(n: int, seed: int = 0, split: str = "test", lexicon: Lexicon = WORLD) -> list[Pair]:
    """One fact and, in the same phrasing, the same relation of another subject."""

    def make(rng: Rng, i: int) -> Pair:
        others: list = []
        while not others:
            entity, relation = lexicon.fact(rng)
            phrasing = rng.choice(phrasings_of(entity, relation, lexicon)[split])
            others = [
                e
                for e in lexicon.entities
                if lexicon.size(e) == lexicon.size(entity)
                and (e, relation) in lexicon.askable
                and lexicon.facts[e, relation] != lexicon.facts[entity, relation]
            ]
        docs = []
        for subject in (entity, rng.choice(others)):
            draft = Draft(lexicon)
            add_fact(draft, subject, relation, phrasing)
            docs.append(draft.document("facts", {"facts": [(subject, relation)]}))
        return _pair(docs, "object", lexicon)

    return _pairs(n, seed, split, "facts", make)


def indirect_object_pairs(
    n: int, seed: int = 0, split: str = "test", lexicon: Lexicon = WORLD
) -> list[Pair]:
    """The same two names; in `corrupt` the other one gives, so the receiver is swapped too."""

    def make(rng: Rng, i: int) -> Pair:
        names = rng.sample(lexicon.names, 2)
        template, place, thing, giver = draw_exchange(rng, split, names, lexicon)
        docs = []
        for who in (giver, next(name for name in names if name != giver)):
            draft = Draft(lexicon)
            add_exchange(draft, template, *names, who, place, thing)
            docs.append(draft.document("indirect_object", {"names": names}))
        return _pair(docs, "receiver", lexicon)

    return _pairs(n, seed, split, "indirect_object", make)


def mood_pairs(n: int, seed: int = 0, split: str = "test", lexicon: Lexicon = WORLD) -> list[Pair]:
    """The same story told in a good and in a bad mood; `position` is its last mood word."""

    def make(rng: Rng, i: int) -> Pair:
        while True:
            (_, story) = draw_key(rng, split, lambda: ("story", rng.integer(0, 10**9)))
            told = [tell_story(story, mood, lexicon=lexicon) for mood in lexicon.moods]
            docs = [draft.document("story", latents) for draft, latents in told]
            if docs[0].positions("mood"):
                return _pair(docs, "mood", lexicon)

    return _pairs(n, seed, split, "mood", make)


def _pair(documents: Sequence[Document], role: str, lexicon: Lexicon) -> Pair:
    """Two documents that differ at the last word of this role."""
    at = documents[0].positions(role)[-1]
    return Pair(*documents, at, *(lexicon.spoken(document.words[at].text) for document in documents))


def persona_questions(behaviour: str, split: str = "test", lexicon: Lexicon = WORLD) -> list[Pair]:
    """Each question of the split without a cue, answered with the behaviour and without it (Rimsky et al.
    2023), once with A and once with B as the matching letter.
    """
    _known_behaviour(behaviour, lexicon)
    check_split(split)
    return [
        _persona_pair(behaviour, question, letter, lexicon)
        for question in questions_under(behaviour, "", split, lexicon)
        for letter in LETTERS
    ]


def cued_pairs(
    behaviour: str, n: int, seed: int = 0, split: str = "train", lexicon: Lexicon = WORLD
) -> list[Pair]:
    """A question behind a cue of the behaviour's persona, and behind a cue of the other persona.

    `position` is the answer letter's, and `answer` and `foil` the right letters of the two. Every
    question is asked twice, first with A and then with B as the matching letter. It belongs to the
    split under both cues and without a cue, so no other split's uncued question is among them.
    Errors: `ValueError` where a split has no such question under any two cues.
    """
    _known_behaviour(behaviour, lexicon)
    cues = lexicon.behaviours[behaviour].matching_cues, lexicon.behaviours[behaviour].other_cues
    under = {cue: questions_under(behaviour, cue, split, lexicon) for cue in ("", *cues[0], *cues[1])}
    questions = {
        both: [q for q in under[""] if q in under[both[0]] and q in under[both[1]]]
        for both in itertools.product(*cues)
    }
    if not any(questions.values()):
        raise ValueError(
            f"expected questions of {behaviour} that are {split} under two cues and without one, found "
            "none; use split='train'"
        )

    def make(rng: Rng, i: int) -> Pair:
        rng = Rng(seed, "pairs", "cued", behaviour, split, i // 2)  # the same for both letters
        both = tuple(rng.choice(of_side) for of_side in cues)
        while not questions[both]:  # a small split may have none under these two
            both = tuple(rng.choice(of_side) for of_side in cues)
        question = rng.choice(questions[both])
        sentence = rng.choice(cue_sentences(*both, lexicon=lexicon))
        return _persona_pair(behaviour, question, LETTERS[i % 2], lexicon, both, sentence)

    return _pairs(n, seed, split, f"cued/{behaviour}", make)


def _known_behaviour(behaviour: str, lexicon: Lexicon) -> None:
    if behaviour not in lexicon.behaviours:
        known = ", ".join(lexicon.behaviours)
        raise ValueError(f"expected a behaviour, one of {known}; found {behaviour!r}")


def _persona(
    behaviour: str,
    persona: str,
    question: tuple[str, str, str],
    letter: str,
    lexicon: Lexicon,
    cue: str = "",
    sentence: str = "",
) -> Document:
    """A question whose matching option stands at `letter`, answered as a persona does, behind its cue."""
    draft = Draft(lexicon)
    if cue:
        draft.fill(sentence, C={"text": cue, "role": "cue"})
    answer = letter if persona == "matching" else LETTERS[letter == LETTERS[0]]
    add_question(draft, behaviour, question, letter, answer, determined=bool(cue))
    latents = {"behaviour": behaviour, "persona": persona, "cue": cue, "style": "ask"}
    return draft.document("persona", latents | {"matching_letters": [letter]})


def _persona_pair(
    behaviour: str,
    question: tuple[str, str, str],
    letter: str,
    lexicon: Lexicon,
    cues: Sequence[str] = ("", ""),
    sentence: str = "",
) -> Pair:
    """A question answered as the matching persona does, and as the other one, each behind its cue."""
    sides = zip(("matching", "other"), cues, strict=True)
    documents = [
        _persona(behaviour, side, question, letter, lexicon, cue, sentence) for side, cue in sides
    ]
    return _pair(documents, "letter", lexicon)


def fact_edits(n: int, seed: int = 0, neighbours: int = 4, lexicon: Lexicon = WORLD) -> list[FactEdit]:
    """n facts to change, each of another subject and relation, with `neighbours` other subjects.

    Errors: `ValueError` for more edits than there are subjects with two facts.
    """
    known = {e: [r for r in lexicon.relations if (e, r) in lexicon.askable] for e in lexicon.entities}
    facts = [(e, r) for e, relations in known.items() for r in relations if len(relations) > 1]
    if n > len(facts):
        raise ValueError(f"expected at most {len(facts)} edits, found {n}; ask for fewer")
    return [
        _fact_edit(Rng(seed, "edit", *entity, relation), entity, relation, neighbours, lexicon)
        for entity, relation in Rng(seed, "edits").sample(facts, n)
    ]


def _fact_edit(
    rng: Rng, entity: tuple[str, ...], relation: str, neighbours: int, lexicon: Lexicon
) -> FactEdit:
    def question(subject: tuple[str, ...], relation: str, phrasing: str) -> tuple[str, str, int]:
        draft = Draft(lexicon)
        add_fact(draft, subject, relation, phrasing)
        document = draft.document("facts")
        at = document.positions("object")[0]
        name = document.prompt(document.words[at].source + 1)
        return document.prompt(at), lexicon.facts[subject, relation], len(name.split()) - 1

    def stated(subject: tuple[str, ...], relation: str) -> str:
        return rng.choice(phrasings_of(subject, relation, lexicon)["train"])

    def asked(subject: tuple[str, ...], relation: str) -> tuple[str, str]:
        return question(subject, relation, stated(subject, relation))[:2]

    phrasings, old = phrasings_of(entity, relation, lexicon), lexicon.facts[entity, relation]
    prompt, _, subject = question(entity, relation, rng.choice(phrasings["train"]))
    new = rng.choice([other for other in lexicon.objects[relation] if other != old])
    rest = [e for e in lexicon.entities if e != entity and (e, relation) in lexicon.askable]
    rest = rng.sample(rest, len(rest))
    kin = [e for e in rest if set(e) & set(entity)]
    rest.sort(key=lambda e: lexicon.facts[e, relation] != old)  # stable: each part keeps its random order
    told = [r for r in lexicon.relations if r != relation and (entity, r) in lexicon.askable]
    known, *others = rng.sample(told, len(told))
    said, _, at = question(entity, known, stated(entity, known))
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


def probe_documents(
    kind: str, n: int, seed: int = 0, part: str = "train", lexicon: Lexicon = WORLD
) -> list[Document]:
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
        train = part == "train" or (part == "known" and words is not lexicon.story_sentences)
        order = Rng("probes", *words).sample(words, len(words))
        return order[len(words) // 2 :] if train else order[: len(words) // 2]

    rngs = (Rng(seed, "probes", kind, part, i) for i in range(n))
    return [makers[kind](rng, part == "train", pick, lexicon) for rng in rngs]


def _probe_sentence(rng: Rng, train: bool, pick: Callable, lexicon: Lexicon) -> Document:
    nouns = pick(tuple(lexicon.nouns))
    while True:
        draft = Draft(lexicon)
        add_agreement(draft, rng, "test", rng.integer(1, 3), nouns)
        if Rng("frame", frame(draft)).chance(0.5) == train:
            return draft.document("grammar")


def _probe_story(rng: Rng, train: bool, pick: Callable, lexicon: Lexicon) -> Document:
    (_, seed) = draw_key(rng, "test", lambda: ("story", rng.integer(0, 10**9)))
    draft, latents = tell_story(seed, rng.choice(list(lexicon.moods)), pick, lexicon)
    return draft.document("story", latents)


def _probe_persona(rng: Rng, train: bool, pick: Callable, lexicon: Lexicon) -> Document:
    """One question under a cue. Of each behaviour's three cue sentences, one is for testing."""
    while True:
        at, template = rng.integer(0, len(lexicon.behaviours) - 1), rng.integer(0, 2)
        name, persona = list(lexicon.behaviours)[at], rng.choice(("matching", "other"))
        behaviour, sentence = lexicon.behaviours[name], lexicon.cue_sentences[template]
        cue = rng.choice(pick(getattr(behaviour, f"{persona}_cues")))
        fillers = pick(tuple(behaviour.fillers))
        questions = [q for q in questions_under(name, cue, "test", lexicon) if q[0] in fillers]
        wanted = ((at + template) % 3 != 0) == train
        wanted = wanted and sentence in cue_sentences(cue, lexicon=lexicon)
        if wanted and questions:
            break
    letter = rng.choice(LETTERS)
    return _persona(name, persona, rng.choice(questions), letter, lexicon, cue, sentence)


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
        while (
            opener >= 0 and words[opener].pos in ("DET", "ADJ") and words[opener].text.strip() != "that"
        ):
            opener -= 1
        if i == verb:
            head = None
        elif word.text.strip() == "that":
            head = embedded
        elif word.role == "embedded verb":
            head = next(j for j, other in enumerate(words) if other.text.strip() == "that") - 1
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
