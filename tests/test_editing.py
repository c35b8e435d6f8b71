"""Editing: the update against its definition, side by side against the weights, scores by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from toys import toy
from transformers import PreTrainedTokenizerFast

from tft_utils import models, reading
from tft_utils.corpora import lexicon, world
from tft_utils.corpora import pairs as world_pairs
from tft_utils.lessons import knockout_and_edits as answers
from tft_utils.models import Model, load
from tft_utils.techniques import editing
from tft_utils.techniques.editing import Scores, Update

N = 8

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def wanted() -> list[world_pairs.FactEdit]:
    return world_pairs.fact_edits(N)


@pytest.fixture(scope="module")
def found(model, wanted) -> tuple[list[torch.Tensor], Update]:
    moments = editing.moments(model)
    return moments, editing.rome(model, wanted, 0, moments[0])


@contextmanager
def edited(model, update: Update, edit: int) -> Iterator[None]:
    """Within: the model's weight holds one edit. Afterwards it is what it was, bit for bit."""
    weight = editing.memory(model, update.layer, update.place).weight
    before = weight.detach().clone()
    try:
        weight += torch.outer(update.left[edit], update.right[edit])
        yield
    finally:
        weight.copy_(before)


READS = {"transformer": "attention.query_key_value", "mamba": "mixer.in_proj"}


@pytest.fixture(scope="module", params=models.PAIR)
def reads(request) -> tuple[Model, str]:
    """A model, and the matrix its mixer reads with: not the one an architecture calls its memory."""
    return load(request.param), READS[request.param]


# --------------------------------------------------------------------------------------------------
# The world's questions


def test_questions_about_an_edit_are_true_facts_and_share_no_prompt_with_it():
    for edit in world_pairs.fact_edits(60, seed=3):
        words = edit.prompt.split()
        entity = next(
            e
            for e in sorted(lexicon.ENTITIES, key=len, reverse=True)
            if tuple(words[edit.subject - len(e) + 1 : edit.subject + 1]) == e
        )
        relation = next(
            r
            for r in lexicon.RELATIONS
            if lexicon.FACTS[entity, r] == edit.old
            and edit.new in {lexicon.FACTS[e, r] for e in lexicon.ENTITIES}
        )
        assert edit.new != edit.old
        stated = []
        for split in ("validation", "test"):  # training never states this fact so
            before = world.phrasings_of(entity, relation)[split][0].split(" O ")[0].split()
            stated.append(" ".join(" ".join(entity) if word == "S" else word for word in before))
        assert list(edit.paraphrases) == stated
        assert edit.prompt not in edit.paraphrases
        assert len(edit.neighbours) == 4
        assert len(edit.others) == 2
        for prompt, answer in (*edit.neighbours, *edit.kin):
            name = next(
                e for e in sorted(lexicon.ENTITIES, key=len, reverse=True) if " ".join(e) in prompt
            )
            assert lexicon.FACTS[name, relation] == answer
            assert bool(set(name) & set(entity)) == ((prompt, answer) in edit.kin)
        for prompt, answer in edit.others:
            assert " ".join(entity) in prompt
            assert answer in {lexicon.FACTS[entity, r] for r in lexicon.RELATIONS if r != relation}


def test_the_first_edits_do_not_depend_on_how_many_there_are():
    assert world_pairs.fact_edits(3) == world_pairs.fact_edits(20)[:3]


# --------------------------------------------------------------------------------------------------
# The update


def test_keys_and_moments_are_the_inputs_of_the_module(model, monkeypatch):
    documents = world.documents("facts", 3, split="train")
    texts = [document.text for document in documents]
    corpus = SimpleNamespace(texts=lambda n, split: texts)
    monkeypatch.setattr(editing, "corpus_of", lambda model: corpus)
    found = editing.moments(model)
    assert len(found) == model.n_layers
    total, n = 0, 0
    for document in documents:
        with model.trace(document.text, use_cache=False):
            keys = attrgetter(model.kind(1).memory)(model.blocks[1]).input[0].save()
        total, n = total + keys.T @ keys, n + len(keys)
    expected = total / n
    expected += editing.RIDGE * expected.diagonal().mean() * torch.eye(len(expected))
    assert torch.allclose(found[1], expected, rtol=1e-4, atol=1e-5)


def test_the_update_stores_the_value_and_moves_other_keys_least(model, wanted, found):
    """Among all matrices M with M k = v, left right^T has the least trace(M C M^T)."""
    moments, update = found
    rows = editing.contexts(model, wanted)
    at = torch.arange(len(rows.ids))
    keys = editing.inputs(model, rows.ids)[0][at, rows.at["subject"]].unflatten(0, (N, -1)).mean(1)
    assert torch.allclose((update.right * keys).sum(-1), torch.ones(N), atol=1e-4)  # u . k = 1
    C, i = moments[0].double(), 2
    best = torch.outer(update.left[i], update.right[i]).double()
    draw, key = torch.Generator().manual_seed(0), keys[i].double()
    cost = torch.trace(best @ C @ best.T)
    for _ in range(5):
        other = torch.randn(best.shape, generator=draw, dtype=torch.float64)
        other -= torch.outer(other @ key, key) / (key @ key)  # leaves k where it is
        slope = torch.trace(other @ C @ best.T)  # half the derivative of the cost along it
        assert slope.abs() < 1e-3 * (cost * torch.trace(other @ C @ other.T)).sqrt()
    plain = torch.outer(update.left[i].double(), key) / (key @ key)  # without C
    assert torch.trace(plain @ C @ plain.T) > 1.01 * cost


def test_no_change_is_longer_than_its_leash(model, wanted, found, monkeypatch):
    moments, _ = found
    for leash in (0.01, editing.LEASH):
        monkeypatch.setattr(editing, "LEASH", leash)
        update = editing.rome(model, wanted, 1, moments[1])
        rows = editing.contexts(model, wanted)
        at = torch.arange(len(rows.ids))
        keys = editing.inputs(model, rows.ids)[1][at, rows.at["subject"]].unflatten(0, (N, -1))
        weight = editing.memory(model, 1).weight
        # left = (bare value + change) - mean value
        change = update.left + (keys.mean(1) - keys[:, 0]) @ weight.T
        length = (keys[:, 0] @ weight.T).norm(dim=-1)
        assert (change.norm(dim=-1) <= leash * length * (1 + 1e-4)).all()


def test_descent_stops_once_the_new_object_is_nearly_certain(model, wanted, found, monkeypatch):
    moments, early = found
    monkeypatch.setattr(editing, "STOP", -1.0)  # never
    late = editing.rome(model, wanted, 0, moments[0])
    assert early.left.norm(dim=-1).mean() < 0.9 * late.left.norm(dim=-1).mean()
    monkeypatch.setattr(editing, "STOP", 1e9)  # at once: only the key's mean differs from the bare key
    none = editing.rome(model, wanted, 0, moments[0])
    keys, weight = editing.keys_of(model, wanted, 0), editing.memory(model, 0).weight
    assert torch.allclose(none.left, (keys[:, 0] - keys.mean(1)) @ weight.T, atol=1e-4)


def test_the_update_is_the_lessons_answer(model, wanted, found):
    moments, update = found
    key, W = editing.keys_of(model, wanted, 0)[2].mean(0), editing.memory(model, 0).weight.detach()
    new = answers.rank_one(W, key, W @ key + update.left[2], moments[0])
    assert torch.allclose(new, W + torch.outer(update.left[2], update.right[2]), atol=1e-3)


def test_the_lessons_tests_are_the_scores(model, wanted, found):
    _, update = found
    scores = editing.scores(model, wanted, update)
    for i, fact in enumerate(wanted):

        def says(prompt: str, i=i) -> str:
            return model.tokenizer.decode(editing.said(model, update, [prompt], [i]).argmax()).strip()

        shares = answers.five_tests(fact, says)
        expected = torch.tensor([float(scores.top[test][i]) for test in editing.SCORES])
        assert list(shares) == list(editing.SCORES)
        assert torch.allclose(torch.tensor(list(shares.values())), expected, equal_nan=True)


def test_the_weights_are_asked_for_no_gradient(model, wanted, found):
    assert all(p.grad is None for p in model.hf.parameters())


def test_another_matrix_of_the_block_is_edited_as_the_memory_is(reads, wanted):
    """Side by side equals the edited weight, nothing else changes, and it comes back bit for bit."""
    model, place = reads
    update = editing.rome(model, wanted, 0, editing.moments(model, place=place)[0], place)
    weight = model.module("block", 0).get_submodule(place).weight
    assert editing.memory(model, 0, place).weight is weight
    assert (update.left.shape[1], update.right.shape[1]) == weight.shape
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    together = editing.said(model, update, [edit.prompt for edit in wanted], range(N))
    for i in (0, 3):
        ids = reading.tokens(model, wanted[i].prompt).ids
        with edited(model, update, i):
            changed = [p for name, p in model.hf.named_parameters() if not torch.equal(p, before[name])]
            logits = model.hf(input_ids=ids, use_cache=False).logits[0, -1]
        assert len(changed) == 1
        assert changed[0] is weight
        assert torch.allclose(together[i], logits.log_softmax(-1), atol=1e-4)
    assert torch.equal(weight, next(before[n] for n, p in model.hf.named_parameters() if p is weight))


def test_a_place_that_is_no_linear_module_is_refused(model):
    with pytest.raises(ValueError, match=r"expected a place, one of .*; found 'attn'"):
        editing.memory(model, 0, "attn")


def test_side_by_side_is_editing_the_weights(model, wanted, found):
    _, update = found
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    texts = [edit.prompt for edit in wanted]
    together = editing.said(model, update, texts, range(N))
    for i in (0, 3):
        ids = reading.tokens(model, texts[i]).ids
        with edited(model, update, i):
            changed = [
                name for name, p in model.hf.named_parameters() if not torch.equal(p, before[name])
            ]
            logits = model.hf(input_ids=ids, use_cache=False).logits[0, -1]
        assert len(changed) == 1
        assert torch.allclose(together[i], logits.log_softmax(-1), atol=1e-4)
    for name, p in model.hf.named_parameters():
        assert torch.equal(p, before[name]), name


# --------------------------------------------------------------------------------------------------
# Words of several tokens


def in_pieces(model_type: str, answers: bool, across: list[str] | None = None) -> Model:
    """A random model with a byte-level vocabulary in which most words are several tokens, and answers
    are one each if `answers`. across: texts in which a token may begin in one word and end in another; a
    mark stands before each text then."""
    texts = [
        document.text for kind in world.KINDS for document in world.documents(kind, 5, split="train")
    ]
    if answers:
        texts += [f" {word}" for words in lexicon.OBJECTS.values() for word in words] * 1000
    texts += 100 * (across or [])
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    if across:
        bpe.add_special_tokens(["<s>"])
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
        )
    hf = toy(model_type, dtype=torch.float32, vocab_size=bpe.get_vocab_size(), initializer_range=0.2).hf
    return Model(hf, PreTrainedTokenizerFast(tokenizer_object=bpe))


@pytest.fixture
def of_the_world(model, monkeypatch):
    """Such a model is asked about the world, whose facts are edited here."""
    corpus = editing.corpus_of(model)
    monkeypatch.setattr(editing, "corpus_of", lambda model: corpus)


def ask_by_hand(model, texts, subjects, answers) -> reading.Asked:
    """Where the decoded text ends with the subject's last word: found token by token."""
    positions = []
    for text, at in zip(texts, subjects, strict=True):
        row, start = model.tokenizer(text).input_ids, " ".join(text.split()[: at + 1])
        (end,) = [i for i in range(len(row)) if model.tokenizer.decode(row[: i + 1]) == start]
        positions.append(end)
    return reading.ask(model, texts, [f" {word}" for word in answers], at={"subject": positions})


def test_the_subjects_last_token_is_found_where_tokens_cross_words(wanted):
    """There the text up to the subject, tokenized alone, has other tokens than the whole text."""
    model = in_pieces("mamba", answers=True, across=[edit.prompt for edit in wanted[::2]])
    cut = 0
    for edit in wanted:
        start = " ".join(edit.prompt.split()[: edit.subject + 1])
        (at,) = editing._ask(model, [edit.prompt], [edit.subject], [edit.new]).at["subject"].tolist()
        row = model.tokenizer(edit.prompt).input_ids
        before, read = (model.tokenizer.decode(row[1 : at + i]) for i in (0, 1))
        assert len(before) < len(start) <= len(read)  # the first token that ends the subject
        assert read.startswith(start)
        cut += len(model.tokenizer(start).input_ids) - 1 != at
    assert cut, "no token crosses a word: the test asks nothing"


@pytest.mark.usefixtures("of_the_world")
@pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])
def test_edits_are_made_and_scored_in_tokens(model_type, wanted, monkeypatch):
    model = in_pieces(model_type, answers=True)
    subject = editing.contexts(model, wanted, prefixes=0).at["subject"]
    assert all(subject > torch.tensor([edit.subject for edit in wanted]))  # counted in words: elsewhere
    moments = editing.moments(model)[1]
    update = editing.rome(model, wanted, 1, moments)
    monkeypatch.setattr(editing, "_ask", ask_by_hand)
    by_hand = editing.rome(model, wanted, 1, moments)
    assert torch.equal(update.left, by_hand.left)
    assert torch.equal(update.right, by_hand.right)
    scores = editing.scores(model, wanted, update, ("efficacy",))
    for i, edit in enumerate(wanted):
        new, old = model.tokenizer.convert_tokens_to_ids([f"Ġ{edit.new}", f"Ġ{edit.old}"])
        with edited(model, update, i):
            logits = model.hf(torch.tensor([model.tokenizer(edit.prompt).input_ids])).logits[0, -1]
        assert scores.likelier["efficacy"][i] == (logits[new] > logits[old]).float()
        assert scores.top["efficacy"][i] == (logits.argmax() == new).float()
    assert scores.likelier["efficacy"].any()


@pytest.mark.usefixtures("of_the_world")
def test_an_object_of_several_tokens_is_refused(wanted):
    model = in_pieces("mamba", answers=False)
    moments = editing.moments(model)[1]
    with pytest.raises(ValueError, match=r"expected words of one token each, found ' \w+'"):
        editing.rome(model, wanted, 1, moments)
    with pytest.raises(ValueError, match=r"expected words of one token each, found ' \w+'"):
        editing.scores(model, wanted, None)


# --------------------------------------------------------------------------------------------------
# Scores


def test_scores_of_the_model_as_it_was_are_its_knowledge(model, wanted):
    found = editing.scores(model, wanted, None)
    for score in ("efficacy", "paraphrase"):
        assert found.estimate(score).value == 0
        assert found.estimate(score, "likelier").value == 0
    for score in ("neighbourhood", "other relations"):
        assert found.estimate(score).value > 0.95


def test_scores_are_counted_by_edit(model, wanted, found):
    _, update = found
    scores = editing.scores(model, wanted, update)
    for i in (0, 5):
        texts = list(wanted[i].paraphrases)
        new, old = model.tokenizer.convert_tokens_to_ids([wanted[i].new, wanted[i].old])
        logits = editing.said(model, update, texts, [i] * len(texts))
        assert scores.top["paraphrase"][i] == (logits.argmax(-1) == new).float().mean()
        assert scores.likelier["paraphrase"][i] == (logits[:, new] > logits[:, old]).float().mean()
    without_kin = [not edit.kin for edit in wanted]
    assert scores.top["kin"].isnan().tolist() == without_kin


def test_some_scores_are_those_of_all(model, wanted, found):
    _, update = found
    whole = editing.scores(model, wanted, update)
    part = editing.scores(model, wanted, update, ("paraphrase", "kin"))
    assert list(part.top) == ["paraphrase", "kin"]
    for name in part.top:
        assert torch.equal(part.top[name].nan_to_num(-1), whole.top[name].nan_to_num(-1))


def test_an_estimate_leaves_out_edits_without_a_question():
    values = {"kin": torch.tensor([1.0, torch.nan, 0.0, 1.0])}
    found = Scores(values, values).estimate("kin")
    assert found.n == 3
    assert found.value == pytest.approx(2 / 3)


def test_the_first_layer_can_be_edited(model, wanted, found):
    """On a few edits; the lesson's claims hold for a hundred."""
    _, update = found
    scores = editing.scores(model, wanted, update)
    assert scores.estimate("efficacy").value >= 0.85
    assert scores.estimate("paraphrase").value >= 0.75
    assert scores.estimate("neighbourhood").value >= 0.75


def test_a_random_direction_of_the_same_length_edits_nothing(model, wanted, found):
    _, update = found
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(update.left.shape, generator=draw)
    left *= update.left.norm(dim=-1, keepdim=True) / left.norm(dim=-1, keepdim=True)
    scores = editing.scores(model, wanted, update._replace(left=left))
    assert scores.estimate("efficacy").value <= 0.25


def test_facts_that_every_model_answers_come_first(capsys):
    model, facts = load("mamba"), world_pairs.fact_pairs(12, seed=1)
    wrong = [facts[i]._replace(answer=facts[i].foil, foil=facts[i].answer) for i in (0, 4)]
    mixed = [wrong[0], *facts[1:4], facts[1], wrong[1], *facts[5:], wrong[0]]
    assert len({fact.clean.text for fact in facts}) == 12
    ordered = answers.known_first({"mamba": model}, mixed)
    assert ordered == [*facts[1:4], *facts[5:], facts[1], *wrong, wrong[0]]
    assert "11 of 14 prompts" in capsys.readouterr().out
