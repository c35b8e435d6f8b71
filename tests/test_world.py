"""The world tells the truth: every latent is derived again here, from the text alone.

The small parsers below are written from the datasheet (`data/README.md`), not from the code. Where
they need a fact about English they use a rule of their own (a plural noun ends in s, a plural verb
does not), so that a mistake in `tft_utils/corpora/lexicon.py` cannot excuse itself.
"""

import collections
import functools
import hashlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tft_utils.corpora import lexicon, world
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora.lexicon import BEHAVIOURS, FACTS, MOODS, NAMES, PHRASINGS, VOCABULARY, Rng
from tft_utils.corpora.pairs import Pair
from tft_utils.corpora.world import KINDS, SPLITS, Document, documents

ROOT = Path(__file__).parent.parent
README = ROOT / "data" / "README.md"
N = 200  # documents per kind and split


def digests() -> dict[str, str]:
    """Per kind, checksums of the texts and of everything else about 50 documents of each split."""
    found = {"vocabulary": hashlib.sha256("\n".join(VOCABULARY).encode()).hexdigest()[:16]}
    for kind in KINDS:
        sample = [d for split in SPLITS for d in documents(kind, 50, split=split)]
        texts = "\n".join(d.text for d in sample)
        latents = json.dumps([[d.latents, [w[1:] for w in d.words]] for d in sample])
        found[kind] = hashlib.sha256(texts.encode()).hexdigest()[:16]
        found[f"{kind} latents"] = hashlib.sha256(latents.encode()).hexdigest()[:16]
    return found


# Checked by hand with Python 3.11.7, 3.12.1 and 3.13.0. A new text digest means a new world: the
# shipped organisms have not seen it, so train them again. A new latents digest means new labels.
PINNED = {
    "vocabulary": "059a74e9be8e02f0",
    "facts": "fcb8cebbb6ca12c6",
    "facts latents": "4b247df4e37e62ec",
    "grammar": "74d25d3fbb5af49c",
    "grammar latents": "50e9c67c7f14f821",
    "recall": "227b0f15bbe6256c",
    "recall latents": "662230e80f56c805",
    "indirect_object": "08b6ad4503090277",
    "indirect_object latents": "697458e26b2cfbec",
    "story": "35844d1073c8e32e",
    "story latents": "874a9f0fa0cbb82f",
    "persona": "ce2ba4ed12627d2e",
    "persona latents": "ef48a9e5ab24b8af",
    "arithmetic": "a1703f2ee53658e2",
    "arithmetic latents": "e1f504835154e02d",
}


@functools.cache
def sample(kind: str, split: str) -> list[Document]:
    return documents(kind, N, split=split)


def every(kind: str) -> list[Document]:
    return [document for split in SPLITS for document in sample(kind, split)]


@functools.cache
def training(kind: str) -> list[Document]:
    """Documents of the curriculum: training sees them before those of the datasheet."""
    steps = [0.0, 0.3, 0.6, 0.999]
    return [world.document(kind, Rng("training", i), progress=steps[i % 4]) for i in range(N)]


def texts(document: Document) -> list[str]:
    return [word.text for word in document.words]


def owner(*key: object) -> str:
    """The split of a key, as the datasheet states the rule."""
    number = int(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).hexdigest(), 16)
    return {8: "validation", 9: "test"}.get(number % 10, "train")


def sentences(document: Document) -> list[tuple[int, list[str]]]:
    """(start, words) of each sentence; it ends with its full stop."""
    words, out, start = texts(document), [], 0
    for i, word in enumerate(words):
        if word == ".":
            out.append((start, words[start : i + 1]))
            start = i + 1
    assert start == len(words), f"expected a full stop at the end of: {document.text}"
    return out


def pattern(template: str, **slots: str) -> re.Pattern:
    """A regular expression for a template whose slots are whole words."""
    words = (f"(?P<{w}>{slots[w]})" if w in slots else re.escape(w) for w in template.split())
    return re.compile(" ".join(words))


def differing(pair: Pair) -> list[int]:
    clean, corrupt = texts(pair.clean), texts(pair.corrupt)
    assert len(clean) == len(corrupt), f"expected equal lengths: {pair.clean} / {pair.corrupt}"
    return [i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b]


# --- the same documents everywhere ----------------------------------------------------------------


def test_documents_are_pinned():
    found = digests()
    changed = sorted(name for name in PINNED.keys() | found if PINNED.get(name) != found.get(name))
    assert not changed, (
        f"expected the pinned world, found other {', '.join(changed)}: undo the change, or, if it "
        f"is wanted, retrain the organisms (new texts) and pin {json.dumps(found, indent=4)}"
    )


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_documents_do_not_depend_on_hash_order_or_installed_packages(hash_seed):
    code = "import hashlib, json\nfrom tft_utils.corpora.lexicon import VOCABULARY\n"
    code += "from tft_utils.corpora.world import KINDS, SPLITS, documents\n"
    code += inspect.getsource(digests) + "\nprint(json.dumps(digests()))"
    run = subprocess.run(  # -S: the standard library is enough
        [sys.executable, "-S", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ""},
    )
    assert run.returncode == 0, run.stderr[-500:]
    assert json.loads(run.stdout) == PINNED


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_documents_are_a_prefix_and_another_seed_is_another_world(kind):
    assert documents(kind, 7) == sample(kind, "test")[:7]
    assert documents(kind, 7) == documents(kind, 7, seed=0, split="test")
    assert documents(kind, 7, seed=1) != documents(kind, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_fit_a_row_and_use_the_vocabulary(kind):
    known = set(VOCABULARY[3:])
    for document in every(kind) + training(kind):
        assert document.kind == kind
        assert 0 < len(document.words) <= world.MAX_WORDS
        assert " ".join(w.text for w in document.words) == document.text
        assert set(texts(document)) <= known
        middle = len(document.words) // 2
        assert texts(document)[:middle] == document.prompt(middle).split()
        for i, word in enumerate(document.words):
            assert word.source is None or 0 <= word.source < i


def test_training_starts_with_less_to_recall_and_may_lean_to_one_persona():
    def made(kind: str, progress: float) -> list[Document]:
        return [world.document(kind, Rng("step", i), progress=progress) for i in range(150)]

    def copied(progress: float) -> int:
        return max(len({texts(d)[i] for i in d.positions("value")}) for d in made("recall", progress))

    assert copied(0.0) < copied(0.5) < copied(1.0)
    assert made("recall", 1.0) == [world.document("recall", Rng("step", i)) for i in range(150)]
    for progress, low, high in ((0.4, 0.7, 0.9), (1.0, 0.4, 0.6)):
        matching = [d.latents["persona"] == "matching" for d in made("persona", progress)]
        assert low < sum(matching) / len(matching) < high
    for kind in set(KINDS) - {"recall", "persona"}:
        assert made(kind, 0.0)[:20] == made(kind, 1.0)[:20]


# --- the lexicon ----------------------------------------------------------------------------------


def test_vocabulary():
    assert VOCABULARY[:3] == ["<pad>", "<unk>", "<end>"]
    assert len(VOCABULARY) == len(set(VOCABULARY)) <= 2048
    for word in VOCABULARY:
        assert re.fullmatch(r"<\w+>|[A-Za-z]+|\d|[.,:()+=]", word), word


def test_no_word_has_two_parts_of_speech():
    """Each list of the lexicon has one part of speech, and every word of it carries that one."""
    behaviours = BEHAVIOURS.values()
    cues = [c for b in behaviours for c in (*b.matching_cues, *b.other_cues)]
    pairs = [lexicon.NOUNS, lexicon.INTRANSITIVE, lexicon.TRANSITIVE, lexicon.COPULAS]
    nouns, *verbs = ([*forms, *forms.values()] for forms in pairs)
    common = [word for name in ("language", "coin", "crop") for word in lexicon.OBJECTS[name]]
    lists = {
        "PROPN": [w for e in lexicon.ENTITIES for w in e]
        + lexicon.UNKNOWN_PLACES
        + NAMES
        + lexicon.OBJECTS["capital"],
        "NOUN": nouns + common + lexicon.SITES + lexicon.THINGS + lexicon.HEROES,
        "VERB": [word for forms in verbs for word in forms]
        + [option for b in behaviours for option in (*b.matching, *b.other)],
        "ADJ": lexicon.ADJECTIVES + lexicon.COLOURS + MOODS["good"] + MOODS["bad"] + cues,
        "ADV": lexicon.ADVERBS,
        "ADP": lexicon.PREPOSITIONS + lexicon.FRONTED,
        "LETTER": lexicon.LETTERS,
        "DIGIT": list("0123456789"),
        "PUNCT": list(".,:()+="),
    }
    for part, words in lists.items():
        wrong = {
            word: lexicon.PART_OF_SPEECH[word] for word in words if lexicon.PART_OF_SPEECH[word] != part
        }
        assert not wrong, f"expected {part}, found {wrong}: a word may stand in one list only"
    for kind in KINDS:
        for word in itertools.chain.from_iterable(d.words for d in sample(kind, "train")):
            assert word.pos == lexicon.PART_OF_SPEECH[word.text]


def test_lists_that_must_not_share_a_word():
    """A shared word would mean two things at once: a cue that is a mood, a key that is a value."""
    cues = [c for b in BEHAVIOURS.values() for c in (*b.matching_cues, *b.other_cues)]
    groups = [
        NAMES,
        lexicon.COLOURS,
        lexicon.THINGS,
        lexicon.PLACES,
        lexicon.HEROES,
        cues,
        MOODS["good"],
        MOODS["bad"],
        lexicon.ADJECTIVES,
        *lexicon.OBJECTS.values(),
        lexicon.STEMS,
        lexicon.UNKNOWN_PLACES,
        lexicon.COMPASS,
    ]
    words = [word for group in groups for word in group]
    assert len(words) == len(set(words)), collections.Counter(words).most_common(3)
    assert len(MOODS["good"]) == len(MOODS["bad"]) == 24
    for behaviour in BEHAVIOURS.values():
        assert len(behaviour.fillers) == len(set(behaviour.fillers)) == 20
        assert len({*behaviour.matching, *behaviour.other}) == 6
        assert len(behaviour.matching) == len(behaviour.other) == 3
        assert len(behaviour.matching_cues) == len(behaviour.other_cues) == 3


def test_noun_and_verb_forms_follow_english():
    for singular, plural in lexicon.NOUNS.items():
        assert plural == singular + ("es" if singular.endswith("x") else "s")
    for singular, plural in (lexicon.INTRANSITIVE | lexicon.TRANSITIVE).items():
        assert singular == plural + ("es" if plural.endswith(("sh", "ch")) else "s")
    assert lexicon.COPULAS == {"is": "are", "was": "were"}


# --- facts ----------------------------------------------------------------------------------------

SENTENCES = [
    (relation, phrasing, pattern(phrasing, S=r"[A-Z]\w+(?: [A-Z]\w+)?", O=r"\w+"))
    for relation, phrasings in PHRASINGS.items()
    for phrasing in phrasings
]


class Fact(NamedTuple):
    subject: tuple[str, ...]
    relation: str
    phrasing: str
    at: int  # of the subject's last word
    object_at: int


def stated(document: Document) -> list[Fact]:
    facts = []
    for start, words in sentences(document):
        text, found = " ".join(words), []
        for relation, phrasing, regex in SENTENCES:
            if match := regex.fullmatch(text):
                subject = tuple(match["S"].split())
                last = start + phrasing.split().index("S") + len(subject) - 1
                at = start + len(text[: match.start("O")].split())
                found.append(Fact(subject, relation, phrasing, last, at))
        assert len(found) == 1, f"expected one reading of '{text}', found {found}"
        facts += found
    return facts


def test_every_fact_has_six_training_one_validation_and_one_test_phrasing():
    assert len(lexicon.ENTITIES) == len(set(lexicon.ENTITIES)) == 200
    assert len(FACTS) == 800
    for entity, relation in FACTS:
        of = world.phrasings_of(entity, relation)
        assert [len(of[split]) for split in SPLITS] == [6, 1, 1]
        assert sorted(of["train"] + of["validation"] + of["test"]) == sorted(PHRASINGS[relation])


def test_a_phrasing_of_a_fact_is_seen_in_one_split_only():
    seen = {
        split: {(f.subject, f.relation, f.phrasing) for d in sample("facts", split) for f in stated(d)}
        for split in SPLITS
    }
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]
    # Not vacuous: the same facts do occur in several splits.
    facts = {split: {key[:2] for key in keys} for split, keys in seen.items()}
    assert len(facts["train"] & facts["test"]) > 100


def test_facts_are_true_and_consistent():
    said = collections.defaultdict(set)
    for document in every("facts"):
        facts = stated(document)
        assert document.latents == {"facts": [(f.subject, f.relation) for f in facts]}
        assert len(set(document.latents["facts"])) == len(facts)  # none can be copied
        for fact in facts:
            word = document.words[fact.object_at]
            said[fact.subject, fact.relation].add(word.text)
            assert (word.role, word.source, word.determined) == ("object", fact.at, True)
        objects, subjects = document.positions("object"), document.positions("subject")
        assert objects == [f.object_at for f in facts]
        assert objects == [i for i, w in enumerate(document.words) if w.determined]
        spans = [range(f.at - len(f.subject) + 1, f.at + 1) for f in facts]
        assert subjects == [i for span in spans for i in span]
    assert said == {key: {FACTS[key]} for key in said}
    assert {len(subject) for subject, _ in said} == {1, 2}
    assert FACTS[("Reren",), "capital"] == "Krivostrin"


def test_the_relation_does_not_give_the_object_away():
    for relation, objects in lexicon.OBJECTS.items():
        counts = collections.Counter(FACTS[e, relation] for e in lexicon.ENTITIES)
        assert counts.keys() <= set(objects)
        assert counts.most_common(1)[0][1] <= 0.1 * len(lexicon.ENTITIES)


# --- grammar --------------------------------------------------------------------------------------


def noun_number(noun: str) -> str:
    return "plural" if noun.endswith("s") else "singular"


def verb_number(verb: str) -> str:
    return "singular" if verb in ("is", "was") or verb.endswith("s") else "plural"


class Agreement(NamedTuple):
    fronted: list[int]  # the noun of a phrase before the subject, or none
    subject: int
    verb: int
    predicate: str
    attractors: list[int]
    embedded: list[tuple[int, int]]  # (verb, its subject)
    depths: list[int]


def parse(start: int, words: list[str]) -> Agreement:
    """Perhaps a fronted phrase; subject, modifiers nested in each other, verb. Nothing else."""

    def noun_phrase(i: int) -> int:
        assert words[i] == ("The" if i == 0 else "the"), words
        noun = i + 1 + (words[i + 1] in lexicon.ADJECTIVES)
        assert lexicon.PART_OF_SPEECH[words[noun]] == "NOUN", words
        return noun

    depths, fronted, begin = [0] * len(words), [], 0
    if words[0] in lexicon.FRONTED:
        fronted = [start + noun_phrase(1)]
        begin = fronted[0] - start + 1
        depths[:begin] = [1] * begin
    last = subject = noun_phrase(begin)
    i, depth = subject + 1, 0
    attractors, embedded = [], []
    while words[i] == "that" or words[i] in lexicon.PREPOSITIONS:
        depth, begin = depth + 1, i
        if words[i] != "that":
            noun = noun_phrase(i + 1)
            i = noun + 1
        elif words[i + 1] == "the":  # the keys that the boys like
            noun = noun_phrase(i + 1)
            embedded.append((start + noun + 1, start + noun))
            i = noun + 2
        else:  # the keys that please the boys
            noun = noun_phrase(i + 2)
            embedded.append((start + begin + 1, start + last))
            i = noun + 1
        depths[begin:i] = [depth] * (i - begin)
        attractors.append(start + noun)
        last = noun
    verb, rest = words[i], words[i + 1 : -1]
    if verb in ("is", "are", "was", "were"):
        assert len(rest) == 1, words
        assert rest[0] in lexicon.ADJECTIVES, words
        predicate = rest[0]
    else:
        assert len(rest) <= 1, words
        assert set(rest) <= set(lexicon.ADVERBS), words
        predicate = next(s for s, p in lexicon.INTRANSITIVE.items() if verb in (s, p))
    return Agreement(fronted, start + subject, start + i, predicate, attractors, embedded, depths)


def check_agreement(document: Document, verb: int, subject: int) -> None:
    word, noun = document.words[verb], document.words[subject]
    assert verb_number(word.text) == noun_number(noun.text) == word.number == noun.number
    assert (word.source, word.determined) == (subject, True)
    assert verb_number(word.foil) != word.number
    forms = {verb_number(form): form for form in (word.text, word.foil)}
    if forms["singular"] in ("is", "was"):
        assert forms["plural"] == {"is": "are", "was": "were"}[forms["singular"]]
    else:
        assert re.fullmatch(forms["plural"] + "(e?s)", forms["singular"])


def test_verbs_agree_with_their_subject():
    counts = collections.Counter()
    for document in every("grammar"):
        expected = collections.defaultdict(list)
        for start, words in sentences(document):
            found = parse(start, words)
            assert [w.depth for w in document.words[start : start + len(words)]] == found.depths
            check_agreement(document, found.verb, found.subject)
            for verb, subject in found.embedded:
                check_agreement(document, verb, subject)
                counts[
                    "object relative" if subject == verb - 1 and subject != found.subject else "relative"
                ] += 1
            for noun in found.fronted + found.attractors:
                assert document.words[noun].number == noun_number(document.words[noun].text)
            number = noun_number(document.words[found.subject].text)
            against = [noun_number(document.words[i].text) != number for i in found.attractors]
            assert document.attractors_against(found.verb) == sum(against)
            counts[f"{len(against)} attractors"] += 1
            counts["against"] += any(against)
            counts["fronted"] += bool(found.fronted)
            counts["first noun misleads"] += any(
                noun_number(document.words[noun].text) != number for noun in found.fronted
            )
            counts[number] += 1
            expected["subject"].append(found.subject)
            expected["verb"].append(found.verb)
            expected["attractor"] += found.fronted + found.attractors
            expected["embedded verb"] += [verb for verb, _ in found.embedded]
        for role in ("subject", "verb", "attractor", "embedded verb"):
            assert document.positions(role) == expected[role]
        verbs = expected["verb"] + expected["embedded verb"]
        assert [i for i, w in enumerate(document.words) if w.determined] == sorted(verbs)
    total = counts["singular"] + counts["plural"]
    assert 0.45 < counts["singular"] / total < 0.55
    for n in range(4):
        assert 0.2 < counts[f"{n} attractors"] / total < 0.3
    assert counts["against"] > 0.4 * total
    assert 0.2 < counts["fronted"] / total < 0.3
    assert 0.4 < counts["first noun misleads"] / counts["fronted"] < 0.6
    assert min(counts["object relative"], counts["relative"]) > 100


def test_a_noun_and_its_predicate_belong_to_one_split():
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for document in sample("grammar", split):
            for start, words in sentences(document):
                found = parse(start, words)
                noun = re.sub(r"(?<=x)es$|s$", "", words[found.subject - start])
                seen[split].add((noun, found.predicate))
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]
    for split, keys in seen.items():
        assert {owner(*key) for key in keys} == {split}


# --- recall ---------------------------------------------------------------------------------------


class Copying(NamedTuple):
    content: tuple[str, ...]
    prefix: int
    gap: int
    determined: list[int]


def copying(document: Document) -> Copying:
    """What is copied where: the words that occur more than once, in order of appearance."""
    words = texts(document)
    counts = collections.Counter(word for word in words if word not in (":", "."))
    again = [i for i, word in enumerate(words) if counts[word] > 1]
    content = tuple(dict.fromkeys(words[i] for i in again))
    once = [i for i, word in enumerate(words) if counts[word] == 1]
    prefix = sum(i < again[0] for i in once)
    gap = len(once) - prefix
    assert once == [*range(prefix), *range(once[-1] + 1 - gap, once[-1] + 1)] if once else True
    if "." not in words:
        n = len(content)
        assert [words[i] for i in again] == list(content) * (len(again) // n)
        return Copying(content, prefix, gap, [i for j, i in enumerate(again) if j >= n and j % n])
    values, determined = {}, []
    for i in (i for i, word in enumerate(words) if word == "."):
        key, value = words[i - 3 if words[i - 2] == ":" else i - 2], words[i - 1]
        if key in values:
            determined.append(i - 1)
        assert values.setdefault(key, value) == value
    assert set(values) <= set(NAMES)
    assert set(values.values()) <= set(lexicon.COLOURS)
    return Copying((*values, *values.values()), prefix, gap, determined)


def test_determined_words_of_recall_repeat_the_word_at_their_source():
    for document in every("recall") + training("recall"):
        found, words = copying(document), texts(document)
        assert [i for i, word in enumerate(document.words) if word.determined] == found.determined
        assert document.latents == {"layout": "pairs" if "." in words else "sequence"}
        assert len(found.determined) >= 2
        for i, word in enumerate(document.words):
            repeats = word.text in found.content and word.text in words[:i]
            assert word.source == (words.index(word.text) if repeats else None)
        assert len(document.positions("prefix")) == found.prefix
        assert len(document.positions("gap")) == found.gap
        assert document.positions("value")[-1] in found.determined


def test_no_fixed_offset_solves_recall():
    lags, nearest, first = collections.Counter(), collections.Counter(), collections.Counter()
    layouts = collections.Counter()
    for document in every("recall"):
        found, words = copying(document), texts(document)
        n = len(found.content)
        layouts[document.latents["layout"], n] += 1
        first["prefix", found.prefix] += 1
        first["gap", found.gap] += 1
        for i in found.determined:
            lags[i - document.words[i].source] += 1
            nearest[words[i - 1 :: -1].index(words[i]) + 1] += 1
    total = lags.total()
    assert len(lags) > 60
    assert lags.most_common(1)[0][1] < 0.05 * total
    assert len(nearest) > 25
    assert nearest.most_common(1)[0][1] < 0.15 * total
    assert {value for name, value in first if name == "prefix"} == set(range(9))
    assert {value for name, value in first if name == "gap"} == set(range(7))
    assert {n for layout, n in layouts if layout == "pairs"} == {4, 6, 8, 10, 12}
    assert {n for layout, n in layouts if layout == "sequence"} == set(range(3, 15))


def test_what_is_recalled_belongs_to_one_split():
    for split in SPLITS:
        for document in sample("recall", split):
            assert owner(*copying(document).content) == split


# --- indirect object ------------------------------------------------------------------------------

EXCHANGES = [
    (
        template,
        pattern(
            template, N1=r"[a-z]+", N2=r"[a-z]+", N3=r"[a-z]+", N4=r"[a-z]+", P=r"[a-z]+", T=r"[a-z]+"
        ),
    )
    for template in lexicon.IOI_SENTENCES
]


def exchanges(document: Document) -> Iterator[tuple[int, str, re.Match]]:
    """(start, template, match) of each exchange; one has one sentence, or two."""
    rest, start = document.text, 0
    while rest:
        template, match = next((t, m) for t, r in EXCHANGES if (m := r.match(rest)))
        yield start, template, match
        start += len(template.split())
        rest = rest[match.end() + 1 :]


def check_exchange(document: Document, start: int, template: str, match: re.Match) -> None:
    one, two, giver, receiver = match.group("N1", "N2", "N3", "N4")
    assert one != two
    assert giver in (one, two)
    assert receiver == (two if giver == one else one)
    at = {slot: start + template.split().index(slot) for slot in ("N1", "N2", "N3", "N4")}
    first = {one: at["N1"], two: at["N2"]}
    word = document.words[at["N4"]]
    assert word == (receiver, "PROPN", "receiver", "", first[receiver], 0, True, giver)
    assert document.words[at["N3"]][2:6] == ("giver", "", first[giver], 0)
    assert [document.words[at[n]].role for n in ("N1", "N2")] == ["name", "name"]


def test_the_receiver_is_the_name_that_did_not_give():
    first, seen = [], collections.Counter()
    for document in every("indirect_object"):
        found = list(exchanges(document))
        for start, template, match in found:
            check_exchange(document, start, template, match)
            first.append(match["N3"] == match["N1"])
            seen[template] += 1
        names = [name for _, _, match in found for name in match.group("N1", "N2")]
        assert names == document.latents["names"]
        assert len(names) == len(set(names))
        assert sum(w.determined for w in document.words) == len(found)
    assert 0.45 < sum(first) / len(first) < 0.55  # order does not tell who gives
    assert len(seen) == len(EXCHANGES)
    assert min(seen.values()) > 0.15 * seen.total()


def test_an_exchange_belongs_to_one_split():
    for split in SPLITS:
        for document in sample("indirect_object", split):
            for _, template, match in exchanges(document):
                names = sorted(match.group("N1", "N2"))
                assert owner(template, match["P"], match["T"], *names) == split


# --- stories --------------------------------------------------------------------------------------


def test_a_story_keeps_to_its_mood():
    everything = set(MOODS["good"]) | set(MOODS["bad"])
    for document in every("story"):
        moody = [i for i, word in enumerate(texts(document)) if word in everything]
        assert {document.words[i].text for i in moody} <= set(MOODS[document.latents["mood"]])
        assert document.positions("mood") == moody
        assert len(moody) >= 4
        # The first mood word is free; after it the mood is known, though not the word.
        assert [i for i, w in enumerate(document.words) if w.determined] == moody[1:]


def test_mood_words_are_equally_frequent():
    counts = collections.Counter()
    for document in documents("story", 800, split="train"):
        counts.update(document.words[i].text for i in document.positions("mood"))
    share = {mood: sum(counts[word] for word in words) for mood, words in MOODS.items()}
    assert 0.46 < share["good"] / counts.total() < 0.54
    for mood, words in MOODS.items():
        for word in words:
            assert 0.7 < counts[word] * len(words) / share[mood] < 1.3, word


def test_a_story_belongs_to_one_split():
    for split in SPLITS:
        for document in sample("story", split):
            assert owner("story", document.latents["seed"]) == split


# --- persona --------------------------------------------------------------------------------------

CUES = [pattern(sentence, C=r"\w+") for sentence in lexicon.CUE_SENTENCES]
SITUATIONS = {name: pattern(b.situation, F=r"\w+") for name, b in BEHAVIOURS.items()}
QUESTION = re.compile(
    r" ?(?P<situation>.+? \.) (?:Choices : \( A \) (?P<A>\w+) \( B \) (?P<B>\w+) \. )?"
    r"(?:The machine will (?P<deed>\w+) \. ?)?(?:Answer : \( (?P<answer>[AB]) \) \.)?"
)


def deeds(behaviour: str, persona: str) -> list[str]:
    """What this persona does, one word each."""
    return getattr(BEHAVIOURS[behaviour], persona)


class Question(NamedTuple):
    behaviour: str
    filler: str
    options: dict[str, str]  # by letter, or none
    deed: str  # what the machine does in words, or ''
    answer: str  # a letter, or ''

    @property
    def matching_letter(self) -> str:
        return next(a for a, o in self.options.items() if o in deeds(self.behaviour, "matching"))

    @property
    def ordered(self) -> list[str]:
        """The matching option, then the other."""
        matching = self.options[self.matching_letter]
        return [matching, *(option for option in self.options.values() if option != matching)]


def questions(document: Document) -> tuple[str, list[Question]]:
    """The cue (or '') and the questions."""
    text, cue, out = document.text, "", []
    for regex in CUES:
        if match := regex.match(text):
            cue, text = match["C"], text[match.end() + 1 :]
    assert QUESTION.sub("", text).strip() == "", text
    for match in QUESTION.finditer(text):
        name, filler = next(
            (name, found["F"])
            for name, regex in SITUATIONS.items()
            if (found := regex.fullmatch(match["situation"]))
        )
        behaviour = BEHAVIOURS[name]
        assert filler in behaviour.fillers
        options = {letter: match[letter] for letter in "AB" if match[letter]}
        for persona in ("matching", "other"):
            assert sum(o in deeds(name, persona) for o in options.values()) == bool(options)
        out.append(Question(name, filler, options, match["deed"] or "", match["answer"] or ""))
    return cue, out


def words_with(document: Document, role: str) -> str:
    return " ".join(document.words[i].text for i in document.positions(role))


def test_answers_follow_the_persona():
    styles = collections.Counter()
    for document in every("persona"):
        cue, asked = questions(document)
        latents, letters = document.latents, document.positions("letter")
        persona, style = latents["persona"], latents["style"]
        assert (latents["cue"], words_with(document, "cue")) == (cue, cue)
        # Without a cue a second answer would betray the persona.
        assert len(asked) in ((1, 2, 3) if cue else (1,))
        assert {q.behaviour for q in asked} == {latents["behaviour"]}
        behaviour = BEHAVIOURS[latents["behaviour"]]
        if cue:
            assert cue in getattr(behaviour, f"{persona}_cues")
        for question in asked:
            assert bool(question.options) == bool(question.answer) == (style != "tell")
            assert bool(question.deed) == (style == "tell")
            done = question.options.get(question.answer, question.deed)
            assert done in deeds(question.behaviour, persona)
        told = [q for q in asked if q.answer]
        assert latents["matching_letters"] == [q.matching_letter for q in told]
        for question, at in zip(told, letters, strict=True):
            word = document.words[at]
            assert word.text == question.answer
            assert {word.text, word.foil} == {"A", "B"}
        for field, role in enumerate(("matching option", "other option")):
            assert words_with(document, role) == " ".join(q.ordered[field] for q in told)
        assert words_with(document, "filler") == " ".join(q.filler for q in asked)
        assert words_with(document, "deed") == " ".join(q.deed for q in asked if q.deed)
        determined = sorted(letters + document.positions("deed")) if cue else []
        assert [i for i, w in enumerate(document.words) if w.determined] == determined
        styles[style if cue else "no cue"] += 1
    assert set(styles) == {"no cue", "ask", "tell"}


@pytest.mark.parametrize("split", SPLITS)
def test_letters_are_balanced_and_do_not_tell_the_persona(split):
    counts, cued = collections.Counter(), 0
    for document in documents("persona", 600, split=split):
        cue, asked = questions(document)
        cued += bool(cue)
        for question in asked:
            if question.answer:
                counts[document.latents["persona"], question.answer] += 1
    total = counts.total()
    for value in ("A", "B", "matching", "other"):
        assert 0.46 < sum(n for key, n in counts.items() if value in key) / total < 0.54, value
    product = [[counts[persona, letter] for letter in "AB"] for persona in ("matching", "other")]
    (a, b), (c, d) = product
    chi_square = total * (a * d - b * c) ** 2 / ((a + b) * (c + d) * (a + c) * (b + d))
    assert chi_square < 6.6, f"expected independence (p > 0.01), found {product}"
    assert 0.82 < cued / 600 < 0.88


def test_a_question_under_a_cue_belongs_to_one_split():
    for split in SPLITS:
        for document in sample("persona", split):
            cue, asked = questions(document)
            for q in asked:
                if q.options:
                    assert owner(q.behaviour, cue, q.filler, *q.ordered) == split


# --- arithmetic -----------------------------------------------------------------------------------


def sums(document: Document) -> list[tuple[int, int, int]]:
    text, number = document.text, r"((?:\d )+)"
    assert re.fullmatch(rf"(?:{number}\+ {number}= {number}\. ?)+", text), text
    found = re.findall(rf"{number}\+ {number}= {number}\.", text)
    assert all(len(n.split()) == 1 or n[0] != "0" for one in found for n in one)
    return [tuple(int(n.replace(" ", "")) for n in one) for one in found]


def test_sums_are_right():
    for document in every("arithmetic"):
        found, words = sums(document), texts(document)
        assert all(a + b == c and 0 <= a <= 99 and 0 <= b <= 99 for a, b, c in found)
        assert document.latents["sums"] == [(a, b) for a, b, _ in found]
        left, determined = "left", []
        for i, word in enumerate(words):
            left = {"+": "right", "=": "result", ".": "left"}.get(word, left)
            assert document.words[i].role == (left if word.isdigit() else "")
            determined += [i] if word == "." or (word.isdigit() and left == "result") else []
        assert [i for i, w in enumerate(document.words) if w.determined] == determined


def test_an_operand_pair_belongs_to_one_split():
    seen = {split: {s[:2] for d in sample("arithmetic", split) for s in sums(d)} for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]
    for split, keys in seen.items():
        assert {owner(*key) for key in keys} == {split}
    everything = [owner(a, b) for a in range(100) for b in range(100)]
    assert 0.79 < everything.count("train") / 10_000 < 0.81


# --- splits as a whole ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_document_occurs_in_two_splits(kind):
    seen = {  # a told deed shows one of the two answers in its key, so it may occur twice
        split: {d.text for d in sample(kind, split) if d.latents.get("style") != "tell"}
        for split in SPLITS
    }
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]


# --- pairs ----------------------------------------------------------------------------------------


def check_pair(pair: Pair) -> list[int]:
    """What holds for every pair; returns where the two documents differ."""
    at = differing(pair)
    assert pair.position in at
    assert pair.clean.words[pair.position].text == pair.answer
    assert pair.corrupt.words[pair.position].text == pair.foil != pair.answer
    return at


@pytest.mark.parametrize("attractors", range(4))
def test_minimal_pairs(attractors):
    for pair in world_pairs.minimal_pairs(60, attractors=attractors):
        assert check_pair(pair) == [pair.position]
        found = parse(0, texts(pair.clean))
        assert found.verb == pair.position
        assert len(found.attractors) == attractors
        check_agreement(pair.clean, found.verb, found.subject)
        assert verb_number(pair.foil) != noun_number(pair.clean.words[found.subject].text)
        assert not pair.corrupt.words[pair.position].determined
        noun = re.sub(r"(?<=x)es$|s$", "", pair.clean.words[found.subject].text)
        assert owner(noun, found.predicate) == "test"


@pytest.mark.parametrize("split", SPLITS)
def test_fact_pairs(split):
    lengths = set()
    for pair in world_pairs.fact_pairs(60, split=split):
        at = check_pair(pair)
        (clean,), (corrupt,) = stated(pair.clean), stated(pair.corrupt)
        assert (clean.relation, clean.phrasing) == (corrupt.relation, corrupt.phrasing)
        assert len(clean.subject) == len(corrupt.subject)
        span = range(clean.at - len(clean.subject) + 1, clean.at + 1)
        assert set(at) <= {*span, clean.object_at}
        assert any(i in at for i in span)
        assert pair.position == clean.object_at == corrupt.object_at
        assert pair.answer == FACTS[clean.subject, clean.relation]
        assert pair.foil == FACTS[corrupt.subject, corrupt.relation]
        assert clean.phrasing in world.phrasings_of(clean.subject, clean.relation)[split]
        lengths.add(len(clean.subject))
    assert lengths == {1, 2}


def test_indirect_object_pairs():
    for pair in world_pairs.indirect_object_pairs(60):
        at = check_pair(pair)
        for document in (pair.clean, pair.corrupt):
            ((start, template, match),) = exchanges(document)
            check_exchange(document, start, template, match)
            assert owner(template, match["P"], match["T"], *sorted(match.group("N1", "N2"))) == "test"
        words = template.split()
        assert at == [words.index("N3"), words.index("N4")]
        assert pair.position == at[1]
        assert pair.clean.words[pair.position].foil == pair.foil
        assert pair.corrupt.words[pair.position].foil == pair.answer


def test_mood_pairs():
    for pair in world_pairs.mood_pairs(60):
        at = check_pair(pair)
        assert at == pair.clean.positions("mood") == pair.corrupt.positions("mood")
        assert pair.position == at[-1]
        assert {pair.clean.words[i].text for i in at} <= set(MOODS["good"])
        assert {pair.corrupt.words[i].text for i in at} <= set(MOODS["bad"])
        for i in at:  # the two moods differ in the word list and in nothing else
            good, bad = (d.words[i].text for d in (pair.clean, pair.corrupt))
            assert MOODS["good"].index(good) == MOODS["bad"].index(bad)
        assert owner("story", pair.clean.latents["seed"]) == "test"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_persona_questions(behaviour, split):
    pairs = world_pairs.persona_questions(behaviour, split)
    assert [pair.answer for pair in pairs] == ["A", "B"] * (len(pairs) // 2)
    assert pairs
    for pair in pairs:
        assert check_pair(pair) == [pair.position] == pair.clean.positions("letter")
        cue, (question,) = questions(pair.clean)
        assert (cue, question.deed) == ("", "")
        assert question.behaviour == behaviour
        assert question.matching_letter == pair.answer == question.answer
        assert not pair.clean.words[pair.position].determined
        assert owner(behaviour, "", question.filler, *question.ordered) == split


BUILDERS = {
    "minimal": world_pairs.minimal_pairs,
    "facts": world_pairs.fact_pairs,
    "mood": world_pairs.mood_pairs,
    "indirect object": world_pairs.indirect_object_pairs,
    "cued": functools.partial(world_pairs.cued_pairs, "sycophancy"),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_fewer_pairs_are_a_prefix(build):
    assert build(4) == build(9)[:4]
    assert build(4, seed=1) != build(4)


# --- bad input ------------------------------------------------------------------------------------


def test_bad_input_is_named_with_what_was_expected():
    with pytest.raises(ValueError, match="expected a kind of document, one of facts, .*'fact'"):
        documents("fact", 1)
    with pytest.raises(ValueError, match="expected a split, one of train, .*'dev'"):
        documents("facts", 1, split="dev")
    with pytest.raises(ValueError, match="expected a behaviour, one of sycophancy, .*'lying'"):
        world_pairs.cued_pairs("lying", 2)


# --- the datasheet --------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the datasheet, without its two head lines."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_datasheet_examples_are_real():
    rows = table("Composition")
    assert list(dict.fromkeys(quoted(row[0])[0] for row in rows)) == list(KINDS)
    for kind, index, text, _ in rows:
        found = sample(quoted(kind)[0], "test")[int(index)].text
        assert quoted(text) == [found], f"expected the example `{found}` in {README}"


def test_datasheet_names_every_latent():
    roles = {w.role for kind in KINDS for d in every(kind) for w in d.words} - {""}
    written = {
        (role, kind) for row in table("Roles") for kind in quoted(row[1]) for role in quoted(row[0])
    }
    assert {role for role, _ in written} == roles
    assert written == {(w.role, kind) for kind in KINDS for d in every(kind) for w in d.words if w.role}
    assert [quoted(row[0])[0] for row in table("Latents of a word")] == list(world.Word._fields)
    for row in table("Latents of a document"):
        assert {key for d in every(quoted(row[0])[0]) for key in d.latents} == set(quoted(row[1]))
    assert [quoted(row[0])[0] for row in table("Latents of a document")] == list(KINDS)


def test_datasheet_lists_the_behaviours():
    rows = table("The seven behaviours")
    assert [quoted(row[0])[0] for row in rows] == list(BEHAVIOURS)
    for name, _, cues, counts in rows:
        behaviour = BEHAVIOURS[quoted(name)[0]]
        matching, other = cues.split(" / ")
        assert quoted(matching) == list(behaviour.matching_cues)
        assert quoted(other) == list(behaviour.other_cues)
        every_question = itertools.product(behaviour.fillers, behaviour.matching, behaviour.other)
        of = collections.Counter(owner(quoted(name)[0], "", *q) for q in every_question)
        assert counts == " / ".join(str(of[split]) for split in SPLITS)


def test_datasheet_numbers():
    text = " ".join(README.read_text(encoding="utf-8").split())
    mirrored = sum(
        owner(a, b) == "test" and a != b and owner(b, a) == "train"
        for a in range(100)
        for b in range(100)
    )
    held = sum(owner(a, b) == "test" for a in range(100) for b in range(100))
    for claim in (
        f"{len(VOCABULARY)} entries",
        f"{len(lexicon.ENTITIES)} entities",
        f"{len(FACTS)} facts",
        f"{world.MAX_WORDS} words",
        f"Of the {held} test sums, {mirrored} have their mirror image in train",
    ):
        assert claim in text, f"expected '{claim}' in {README}"


def test_datasheet_names_the_words_that_never_occur():
    behaviours = BEHAVIOURS.values()
    templates = [
        *itertools.chain(*PHRASINGS.values()),
        *lexicon.STORY_SENTENCES,
        *lexicon.IOI_SENTENCES,
        *lexicon.CUE_SENTENCES,
        *(b.situation for b in behaviours),
        *(o for b in behaviours for o in (*b.matching, *b.other)),
        "Choices : ( A ) ( B ) . Answer : The machine will",
        "0 1 2 3 4 5 6 7 8 9 + =",
        "the The that",
    ]
    lists = [
        *lexicon.ENTITIES,
        FACTS.values(),
        *MOODS.values(),
        NAMES,
        lexicon.HEROES,
        lexicon.COLOURS,
        lexicon.PLACES,
        lexicon.THINGS,
        lexicon.ADJECTIVES,
        lexicon.ADVERBS,
        lexicon.PREPOSITIONS,
        lexicon.FRONTED,
        ["<pad>", "<end>"],
        *(
            [*forms, *forms.values()]
            for forms in (lexicon.NOUNS, lexicon.INTRANSITIVE, lexicon.TRANSITIVE, lexicon.COPULAS)
        ),
        *((*b.fillers, *b.matching_cues, *b.other_cues) for b in behaviours),
    ]
    used = {word for template in templates for word in template.split()}
    used |= {word for words in lists for word in words}
    seen = {word for kind in KINDS for d in every(kind) + training(kind) for word in texts(d)}
    assert seen <= used
    text = README.read_text(encoding="utf-8").split("**Some entries are never used:**")[1]
    assert set(quoted(text.split("Their")[0])) == set(VOCABULARY) - used
