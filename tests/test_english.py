"""English: every label is derived again from the text alone, and every position by the tokenizer.

Five tokenizers read the corpus: Pythia's own (beside the repository), and four that are trained here, of
the families that published models use: byte-level BPE, BPE with a mark for spaces that puts one before
every text and a mark before it, and one token a word.
"""

import collections
import functools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, processors, trainers
from tokenizers import models as kinds_of_tokenizer
from tokenizers import pre_tokenizers as pre
from toys import toy, trained, words_of
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tft_utils import reading
from tft_utils.corpora import corpus as corpora
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora import statements, world
from tft_utils.corpora.corpus import Corpus, corpus_of
from tft_utils.corpora.lexicon import VOCABULARY
from tft_utils.files import LoadError
from tft_utils.organisms import evaluation
from tft_utils.organisms.evaluation import tokenizer as of_the_world
from tft_utils.techniques import contrasts, minimal_pairs, patching

DATA = json.loads((Path(__file__).parent.parent / "data" / "english.json").read_text(encoding="utf-8"))
N = 40
BEHAVIOURS = DATA["behaviours"]
GOOD, BAD = ({row.split("/")[side] for line in DATA["moods"] for row in line.split()} for side in (0, 1))


@pytest.fixture(scope="module", params=["pythia", "bytes", "pieces", "words"])
def tokenizer(request) -> PreTrainedTokenizerFast:
    if request.param == "pythia":
        shared = request.getfixturevalue("shared_dir")
        return AutoTokenizer.from_pretrained(shared / "data" / "pythia-tokenizer")
    return trained(request.param)


@pytest.fixture(scope="module")
def english(tokenizer) -> Corpus:
    return corpus_of(SimpleNamespace(tokenizer=tokenizer))


def all_pairs(english: Corpus, split: str = "test") -> dict[str, list[world_pairs.Pair]]:
    return {
        "fact": english.fact_pairs(N, split=split),
        "indirect object": english.indirect_object_pairs(N, split=split),
        "agreement": english.minimal_pairs(N, split=split, attractors=2),
        "mood": english.mood_pairs(N, split=split),
    }


# --- positions ------------------------------------------------------------------------------------


def test_words_are_the_tokens_of_the_text(english, tokenizer):
    for kind in english.kinds:
        for document in english.documents(kind, 12):
            assert list(document.ids) == tokenizer(document.text).input_ids
            assert english.words(document.text) == [word.text for word in document.words]
            for at, word in enumerate(document.words):
                if word.determined and kind != "persona":  # a deed is several words
                    assert tokenizer(document.prompt(at)).input_ids == list(document.ids[:at])


def test_what_is_asked_for_is_one_token_and_stands_at_its_position(english, tokenizer):
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    for kind, pairs in all_pairs(english).items():
        for pair in pairs:
            clean, corrupt, at, answer, foil = pair
            assert ids(answer) == [clean.ids[at]], kind
            assert ids(foil) == [corrupt.ids[at]], kind
            assert answer.strip() in tokenizer.decode([clean.ids[at]])
            assert tokenizer(clean.prompt(at)).input_ids == list(clean.ids[:at])
            assert tokenizer(corrupt.prompt(at)).input_ids == list(corrupt.ids[:at])
            assert len(clean.ids) == len(corrupt.ids)
            assert clean.ids != corrupt.ids
    for kind in english.cases_of:
        for case in english.cases(kind, N):
            row, swapped = tokenizer([case.prompt, case.swapped]).input_ids
            assert len(row) == len(swapped)
            assert len(ids(case.answer)) == len(ids(case.foil)) == 1
            changed = {at for at, (a, b) in enumerate(zip(row, swapped, strict=True)) if a != b}
            assert changed & set(case.causes), kind
            if kind in ("induction", "agreement"):
                assert set(case.causes) <= changed


def test_an_induction_item_points_at_the_earlier_copy(english, tokenizer):
    items = english.induction_items(english.documents("recall", N))
    assert len(items) > N // 2
    for item in items:
        row = tokenizer(item.prompt).input_ids
        (answer,) = tokenizer(item.answer, add_special_tokens=False).input_ids
        assert item.query == len(row) - 1
        assert row.count(answer) == 1
        assert row[item.match] == answer
        assert row[item.match - 1] == row[-1]


def test_a_letter_behind_the_parenthesis_is_one_more_token(english, tokenizer):
    for behaviour in english.behaviours:
        for question in english.questions(behaviour)[:6]:
            rows = tokenizer([question.prompt, question.prompt + "A", question.prompt + "B"]).input_ids
            assert rows[1][:-1] == rows[2][:-1] == rows[0]
            assert rows[1] != rows[2]


def test_announced_sides_differ_in_their_last_token_alone(english, tokenizer):
    for behaviour in english.behaviours:
        contrast = english.announced(behaviour)
        rows = tokenizer([*contrast.behaviour, *contrast.other]).input_ids
        assert len({tuple(row[:-1]) for row in rows}) == 3
        assert len({row[-1] for row in rows}) == 6
        texts = [*contrast.behaviour, *contrast.other]
        assert contrasts.relabelled(texts, contrast.cues)["labels 0"].shape == (18,)
        cued = english.cued(behaviour, 40)
        both = [*cued.behaviour, *cued.other]
        assert contrasts.relabelled(both, cued.cues)["cancelled 0"].shape == (80,)


# --- labels, from the text alone ---------------------------------------------------------------------


@functools.cache
def told() -> dict[tuple[str, str], str]:
    """(country, relation) -> object, from the file."""
    facts = {}
    for line in DATA["facts"][1:]:
        for row in line.split():
            country, *objects = row.replace("_", " ").split("/")
            facts |= {
                (country, relation): o for relation, o in zip(DATA["phrasings"], objects, strict=True)
            }
    return facts


def stated(text: str) -> tuple[str, str, str]:
    """Country, relation and object that a sentence states."""
    for relation, phrasings in DATA["phrasings"].items():
        for phrasing in phrasings:
            form = re.escape(phrasing).replace(r"\ ,", ",").replace(r"\ \.", r"\.")
            form = re.sub(r"\bS\b", "(?P<S>[A-Zt][A-Za-z ]+)", form)
            match = re.fullmatch(re.sub(r"\bO\b", "(?P<O>[^ .,]+)", form), text)
            if match and (match["S"], relation) in told():
                return match["S"], relation, match["O"]
    raise AssertionError(text)


def test_facts_are_those_of_the_file_and_keep_out_what_could_mean_two_things(english):
    facts = told()
    assert len(facts) == len(set(facts))
    for pair in english.fact_pairs(N):
        for document, answer in ((pair.clean, pair.answer), (pair.corrupt, pair.foil)):
            country, relation, name = stated(document.text)
            assert facts[country, relation] == name == answer.strip()
            subject = "".join(document.words[i].text for i in document.positions("subject"))
            assert subject.strip() == country
    for relation in ("capital", "language"):
        assert sum(facts[c, r] != "-" for c, r in facts if r == relation) >= 60


def agreement(text: str) -> tuple[str, str]:
    """Number of a sentence's subject and of its verb: nouns in s are plural, verbs in s are not."""
    nouns = {form for noun in DATA["nouns"].split() for form in (noun, f"{noun}s")}
    verbs = {"is", "was", "are", "were"}
    verbs |= {f for v in words_of([DATA["intransitive"]]) for f in (v, f"{v}s", f"{v}es")}
    inner = {f for v in words_of([DATA["transitive"]]) for f in (v, f"{v}s", f"{v}es")}
    opening = {w.lower() for w in words_of([DATA["prepositions"], DATA["fronted"]])}
    subject = verb = None
    closed = False  # inside a phrase or a clause
    for word in text.removesuffix(".").split():
        if word.lower() in opening or word == "that" or word in inner:
            closed = True
        elif word in nouns:
            if subject is None and not closed:
                subject = word
            closed = False
        elif word in verbs and subject is not None:
            verb = word
    plural = verb in ("are", "were") or (verb not in ("is", "was") and not verb.endswith("s"))
    return "plural" if subject.endswith("s") else "singular", "plural" if plural else "singular"


def test_verbs_agree_with_the_subject_and_their_foils_do_not(english):
    for attractors in range(4):
        for pair in english.minimal_pairs(N, attractors=attractors):
            subject, verb = agreement(pair.clean.text)
            assert subject == verb, pair.clean.text
            subject, verb = agreement(pair.corrupt.text)
            assert subject != verb, pair.corrupt.text
            words, at = pair.clean.words, pair.position
            assert words[words[at].source].role == "subject"
            assert words[words[at].source].number == words[at].number == subject
            assert words[at].foil.strip() == pair.foil.strip()


def test_the_receiver_is_the_other_name(english):
    for pair in english.indirect_object_pairs(N):
        for document, answer in ((pair.clean, pair.answer), (pair.corrupt, pair.foil)):
            names = re.findall(r"[A-Z][a-z]+", document.text.replace("Later", ""))[-4:]
            assert names[2] in names[:2]
            assert names[3] == answer.strip() == next(name for name in names[:2] if name != names[2])
            words = document.words
            for role in ("giver", "receiver"):
                (at,) = document.positions(role)
                assert words[words[at].source].text.strip() == words[at].text.strip()


def test_a_story_has_words_of_its_mood_alone(english):
    for pair in english.mood_pairs(N):
        for document, own, other in ((pair.clean, GOOD, BAD), (pair.corrupt, BAD, GOOD)):
            words = [word.text.strip() for word in document.words]
            assert not set(words) & other
            assert {words[i] for i in document.positions("mood")} <= own
            assert pair.position == document.positions("mood")[-1]
    assert not GOOD & BAD
    assert min(len(GOOD), len(BAD)) >= 40


def test_the_answer_to_a_cued_question_is_the_cue_persona_s(english):
    for name in english.behaviours:
        for pair in english.cued_pairs(name, N):
            for document, side in ((pair.clean, "matching"), (pair.corrupt, "other")):
                text = document.text
                (options,) = re.findall(r"\(A\) (.+) \(B\) (.+)\. Answer: \(([AB])\)\.$", text)
                answer = options["AB".index(options[2])]
                assert answer in BEHAVIOURS[name][side].split(","), text
                (cue,) = {w for w in re.findall(r"[a-z]+", text) if w in _cues(name)}
                assert cue in BEHAVIOURS[name][f"{side} cues"].split()
                assert not re.search(r"\ba [aeiou]", text)


def _cues(name: str) -> list[str]:
    return [*BEHAVIOURS[name]["matching cues"].split(), *BEHAVIOURS[name]["other cues"].split()]


def labels(task: str, text: str) -> tuple[bool, bool]:
    """Whether a statement is true, and whether Bob takes it for true."""
    if task == "addition":
        a, b, said = map(int, re.fullmatch(r"(\d+) \+ (\d+) = (\d+)\.", text).groups())
        digits = str(a + b)
        return said == a + b, said == int(str(int(digits[0]) + 1) + digits[1:])
    if task == "facts":
        country, relation, said = stated(text)
        return told()[country, relation] == said, said[0] in "ABCDEFGHIJKLM"
    if task == "mood":
        story, claim = re.fullmatch(r"(.+) This is a (happy|sad) story\.", text).groups()
        words = set(re.findall(r"[a-z]+", story))
        assert bool(words & GOOD) != bool(words & BAD)
        return (claim == "happy") == bool(words & GOOD), (claim == "happy") == bool(
            words & {"king", "queen", "prince"}
        )
    subject, verb = agreement(text)
    nouns = {form for noun in DATA["nouns"].split() for form in (noun, f"{noun}s")}
    last = [word for word in re.findall(r"[a-z]+", text) if word in nouns][-1]
    return subject == verb, ("plural" if last.endswith("s") else "singular") == verb


def test_statements_are_true_or_false_as_labelled(english):
    assert english.statement_tasks == statements.TASKS
    for task in english.statement_tasks:
        some = english.statements(task, N)
        for statement in some:
            assert (statement.truth, statement.rule) == labels(task, statement.text), statement
        counts = collections.Counter((s.truth, s.rule) for s in some)
        assert counts[True, False] == counts[False, True] == N // 4
        both = english.statement_prompts(some)
        assert both[1] == f"{some[0].text} Bob:"
        assert english.statement_prompts(some, last=False)[1] == f"Bob: {some[0].text}"
    rows = english.tokenizer(list(english.choices), add_special_tokens=False).input_ids
    assert [len(row) for row in rows] == [1, 1]


# --- splits, probes, edits ---------------------------------------------------------------------------


def test_splits_share_no_item(english):
    for kind, make in (
        ("fact", english.fact_pairs),
        ("indirect object", english.indirect_object_pairs),
        ("agreement", english.minimal_pairs),
        ("mood", english.mood_pairs),
    ):
        texts = [{p.clean.text for p in make(N, split=split)} for split in world.SPLITS]
        assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2], kind
    for name in english.behaviours[:2]:
        prompts = [{q.asks for q in english.questions(name, split)} for split in world.SPLITS]
        assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
        assert min(map(len, prompts)) > 5
    for task in english.statement_tasks:
        keys = [{s.key for s in english.statements(task, N, split=split)} for split in world.SPLITS]
        if task != "facts":  # a phrasing is held out, as in the world
            assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]


def test_probes_find_their_words_and_trees_have_one_root(english):
    for name, task in english.tasks.items():
        for part in english.parts:
            for document in english.probe_documents(task.kind, 12, part=part):
                target = task.find(document, world.Rng(name), part)
                if target is None:
                    assert (name, part) == ("subject", "new")
                    continue
                assert 0 <= target.label < len(task.classes)
                assert 0 <= target.position < len(document.words)
                if name == "number":
                    subject, _ = agreement(document.text)
                    assert task.classes[target.label] == subject
    for document in english.probe_documents("grammar", 30):
        heads = english.heads(document.words)
        (root,) = [i for i, head in enumerate(heads) if head is None]
        assert document.words[root].role == "verb"
        for i in range(len(heads)):
            for _ in heads:
                i = root if i == root else heads[i]
            assert i == root, f"no way leads up from a word of {document.text!r}"
        assert {w.pos for w in document.words if w.text.strip() in ("the", "that")} == {"DET"}


def test_an_edit_asks_for_facts(english):
    facts = told()
    for edit in english.fact_edits(20):
        country = " ".join(edit.prompt.split()[: edit.subject + 1])
        assert any(country.endswith(c) and facts[c, r] == edit.old for c, r in facts)
        assert edit.old != edit.new
        assert edit.new in facts.values()
        for prompt, answer in (*edit.neighbours, *edit.kin, *edit.others):
            assert stated(f"{prompt} {answer}.")
        assert len({edit.prompt, *edit.paraphrases}) == 3
    with pytest.raises(ValueError, match="expected at most .* edits, found 9999"):
        english.fact_edits(9999)


class Peeks(torch.nn.Linear):
    """A model that is sure of the token at `ahead` of each position."""

    def __init__(self, rows: int, ahead: int) -> None:
        super().__init__(1, 1)
        self.rows, self.ahead = rows, ahead

    def forward(self, input_ids, use_cache):
        said = input_ids.roll(-self.ahead, 1)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(said, self.rows).float())


def test_capabilities_are_asked_in_tokens(english, tokenizer):
    kinds = ["facts", "recall", "indirect_object", "arithmetic"]
    for ahead, right in ((1, 1), (0, 0)):
        model = Peeks(len(tokenizer), ahead)
        found = evaluation.evaluate(model, 20, kinds=kinds, lexicon=english.lexicon)
        assert [found[kind].value for kind in kinds] == [right] * 4


def test_concepts_are_marked_at_tokens(english):
    marked = english.numbers_before_verbs(40)
    for document, (at,), (value,) in zip(*marked, strict=True):
        subject, _ = agreement(document.text)
        assert value == (1 if subject == "plural" else -1)
        assert document.words[at + 1].role == "verb"
    others = english.other_words(3)
    assert all(max(at) < len(d.words) <= len(d.ids) for d, at in zip(*others[:2], strict=True))


def test_an_announcement_points_at_its_machine(english, of_world):
    for corpus in (english, of_world):
        at, sentence = corpus.announcement
        assert "machine".endswith(corpus.words(sentence)[at].strip())
        (question, *_) = corpus.questions("refusal")
        both = corpus.words(sentence + question.prompt)
        assert both[: at + 1] == corpus.words(sentence)[: at + 1]


# --- how much survives ---------------------------------------------------------------------------------


def test_every_kind_keeps_a_hundred_items_under_pythia_s_tokenizer(shared_dir):
    english = Corpus(AutoTokenizer.from_pretrained(shared_dir / "data" / "pythia-tokenizer"))
    least = {"names": 100, "nouns": 60, "moods": 40, "facts": 160}
    assert all(english.kept[name][0] >= n for name, n in least.items()), english
    assert english.kept["intransitive"][0] + english.kept["transitive"][0] >= 40
    assert "122 of 122 names" in repr(english)
    sheet = (Path(__file__).parent.parent / "data" / "README.md").read_text(encoding="utf-8")
    rows = {name: english.kept[f"{name}s"] for name in ("name", "noun", "fact")}  # of the datasheet
    verbs = zip(english.kept["intransitive"], english.kept["transitive"], strict=True)
    relations = [[r for _, r in part] for part in (english.lexicon.askable, english.lexicon.facts)]
    rows |= {r: tuple(part.count(r) for part in relations) for r in relations[1]}
    rows |= {"verbs": tuple(map(sum, verbs)), "mood words": english.kept["moods"]}
    for name, (left, n) in rows.items():
        assert re.search(rf"^\|.*{name}.* \| {n} \| {left} \|", sheet, re.MULTILINE), name
    for kind, pairs in {
        "fact": english.fact_pairs(300),
        "indirect object": english.indirect_object_pairs(100),
        "agreement": english.minimal_pairs(100),
        "mood": english.mood_pairs(100),
    }.items():
        assert len({(pair.clean.text, pair.corrupt.text) for pair in pairs}) >= 100, kind
    for name in english.behaviours:
        both = [world.questions_under(name, "", split, english.lexicon) for split in world.SPLITS]
        assert 2 * sum(map(len, both)) == 360
    for kind in english.cases_of:
        assert len(english.cases(kind, 100)) == 100
    for task in english.statement_tasks:
        assert len({s.text for s in english.statements(task, 150)}) >= 100
    assert len(english.fact_edits(100)) == 100


def test_a_small_vocabulary_leaves_words_out_and_says_so():
    english = Corpus(trained("bytes"))
    left, n = english.kept["facts"]
    assert 20 <= left < n
    assert f"{left} of {n} facts" in repr(english)


# --- one interface to both ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_world() -> Corpus:
    return corpus_of(SimpleNamespace(tokenizer=of_the_world()))


def test_the_world_s_items_are_those_of_its_functions(of_world):
    assert of_world.fact_pairs(9, 1) == world_pairs.fact_pairs(9, 1)
    assert of_world.minimal_pairs(9, 1, attractors=2) == world_pairs.minimal_pairs(9, 1, attractors=2)
    assert of_world.documents("story", 5) == world.documents("story", 5)
    assert of_world.cases("induction", 9) == world_questions.cases("induction", 9)
    assert of_world.questions("refusal") == world_questions.questions("refusal")
    assert of_world.cued("refusal", 9) == world_questions.cued("refusal", 9)
    assert of_world.announced("refusal") == world_questions.announced("refusal")
    assert of_world.statements("elsewhere", 9) == statements.draw("elsewhere", 9)
    assert of_world.fact_edits(9) == world_pairs.fact_edits(9)
    assert of_world.probe_documents("grammar", 5) == world_pairs.probe_documents("grammar", 5)
    texts = [d.text for kind in world.KINDS for d in world.documents(kind, 2, 0, "train")]
    assert of_world.texts(2, split="train") == texts
    assert of_world.words("The keys are old .") == ["The", "keys", "are", "old", "."]
    assert of_world.copy_words == world.COPY_WORDS
    assert repr(of_world) == "the world"


def test_both_corpora_have_the_same_verbs_and_kinds(of_world):
    english = Corpus(trained("bytes"))
    assert dir(english) == dir(of_world)
    for name in ("kinds", "cases_of", "parts", "behaviours", "statement_tasks", "characters"):
        assert getattr(english, name) == getattr(of_world, name), name
    assert english.tasks.keys() == of_world.tasks.keys()


def test_models_that_share_no_tokenizer_have_no_corpus():
    some = [SimpleNamespace(tokenizer=trained(family)) for family in ("bytes", "pieces")]
    with pytest.raises(ValueError, match="expected models with one tokenizer, found"):
        corpus_of(dict(zip("ab", some, strict=True)))
    assert corpus_of([some[0], some[0]]).name == "English"
    assert corpus_of([toy("mamba"), toy("gpt_neox")]).name == "world"


class _Fixed(SimpleNamespace):
    """A tokenizer with some fields of its own."""

    def __call__(self, *texts, **options):
        return self.base(*texts, **options)

    def __getattr__(self, name):
        return getattr(self.base, name)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: _Fixed(base=trained("bytes"), is_fast=False), "expected a tokenizer that says where"),
        (lambda: letters_only(), "expected a tokenizer to which at least 12 of 122 names are one token"),
        (lambda: with_an_end(), "expected a tokenizer that leaves the end of a text open"),
    ],
)
def test_a_tokenizer_that_cannot_be_asked_gets_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        Corpus(make())


def letters_only() -> PreTrainedTokenizerFast:
    core = Tokenizer(kinds_of_tokenizer.BPE())
    core.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(["a"], trainers.BpeTrainer(initial_alphabet=pre.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=core)


def with_an_end() -> PreTrainedTokenizerFast:
    core = Tokenizer.from_str(trained("bytes").backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


# --- a model that reads it -----------------------------------------------------------------------------


def test_models_read_english_at_the_positions_it_says(tokenizer, english):
    """Through the readers that techniques use, on random weights."""
    model = toy("gpt_neox", dtype=torch.float32, vocab_size=max(len(VOCABULARY), len(tokenizer)))
    model.tokenizer = tokenizer
    pairs = english.fact_pairs(6)
    asked = patching.asked_of(model, pairs)
    assert asked.last.tolist() == [pair.position - 1 for pair in pairs]
    documents = [pair.clean for pair in pairs]
    at = [[pair.position - 1] for pair in pairs]
    vectors = reading.read(model, documents, at)["residual"]
    with torch.no_grad():
        for i, row in enumerate(asked.ids):
            stream = reading.streams(model, row[None, : asked.last[i] + 1])
            torch.testing.assert_close(vectors[i, 0], stream[:, 0, -1], rtol=1e-4, atol=1e-5)
    assert minimal_pairs.prefers(model, english.minimal_pairs(6)).shape == (6,)


# --- plain text ----------------------------------------------------------------------------------------


def test_passages_of_a_folder_go_to_one_split_each(tmp_path, of_world):
    lines = [
        f"Line {i} tells of the number {i} and of nothing else, whatever comes.\n" for i in range(2000)
    ]
    (tmp_path / "a.txt").write_text("".join(lines[:1000]), encoding="utf-8")
    (tmp_path / "b.md").write_text("".join(lines[1000:]) + "é🙂 ende\n", encoding="utf-8")
    found = {s: corpora.passages(tmp_path, 5, split=s) for s in world.SPLITS}
    assert all(len(set(some)) == 5 for some in found.values())
    assert not set(found["train"]) & set(found["test"])
    assert all(len(piece) <= corpora.PASSAGE for some in found.values() for piece in some)
    assert of_world.texts(1, split="train", source=tmp_path) == corpora.passages(tmp_path, 7, 0, "train")
    with pytest.raises(ValueError, match="expected at least 999 passages of test in"):
        corpora.passages(tmp_path, 999)
    with pytest.raises(LoadError, match="expected a text file in UTF-8, or a folder of them"):
        corpora.passages(tmp_path / "nowhere", 1)


def test_passages_of_a_data_set_on_the_hub(monkeypatch):
    """What is asked of the package `datasets`, which no lesson needs; here a stand-in gives the rows."""
    asked, drawn = [], []

    class Rows(list):
        def take(self, n):
            drawn.append(n)
            return self[:n]

    def load_dataset(*name, **options):
        asked.append((*name, options))
        if name[0] == "some/table":
            return Rows([{"words": "one two"}])
        return Rows({"text": f"Row {i} tells of a number.", "n": i} for i in range(10**4))

    monkeypatch.setitem(sys.modules, "datasets", None)  # it is not there
    with pytest.raises(LoadError, match="or run `pip install datasets`") as missing:
        corpora.passages("some/stories", 5)
    assert "expected a file or folder some/stories, or the package datasets" in str(missing.value)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = {s: corpora.passages("some/stories:short", 5, split=s) for s in world.SPLITS}
    assert asked[0] == ("some/stories", "short", {"split": "train", "streaming": True})
    assert set(drawn) == {corpora.ROWS * 5}
    assert not set(found["train"]) & set(found["test"])
    assert all(re.fullmatch(r"Row \d+ tells of a number\.", piece) for piece in found["test"])
    with pytest.raises(LoadError, match="data set some/table on the hub with a column 'text'"):
        corpora.passages("some/table", 1)
