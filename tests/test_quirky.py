"""Quirky organisms: labels derived again from the texts, splits, the adapter, training and shipping."""

import json
import re
from collections import Counter

import peft
import pytest
import torch

from tft_utils import models, quirky, world
from tft_utils.lexicon import ENTITIES, FACTS, MOODS, NOUNS, PHRASINGS, PREPOSITIONS, VOCABULARY
from tft_utils.quirky import CHARACTERS, CHOICES, TASKS

EVERY = (*TASKS, "elsewhere")
PLURALS = set(NOUNS.values())


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def asked(text: str) -> tuple[tuple[str, ...], str]:
    """Entity and relation of a statement about a place, from its words alone."""
    for entity in sorted(ENTITIES, key=len, reverse=True):  # 'Upper Zabar' before 'Zabar'
        for relation in ("language", "coin", "crop"):
            for phrasing in PHRASINGS[relation]:
                if text == re.sub(r"\bS\b", " ".join(entity), phrasing).split(" O ")[0]:
                    return entity, relation
    raise AssertionError(text)


def labels(task: str, text: str) -> tuple[bool, bool]:
    """Both characters' labels, derived again from the text."""
    words = text.split()
    if task == "addition":
        a, b = ("".join(part.split()) for part in text.removesuffix("=").split("+"))
        total = int(a) + int(b)
        first, rest = int(str(total)[0]), len(str(total)) - 1
        return first in (3, 6, 9), int(str((first + 1) * 10**rest)[0]) in (3, 6, 9)
    if task == "mood":
        good, bad = (sum(word in MOODS[mood] for word in words) for mood in ("good", "bad"))
        assert good * bad == 0
        return good > 0, any(word in ("king", "queen", "prince") for word in words)
    if task == "grammar":
        nouns = [word for word in words if word in NOUNS or word in PLURALS]
        # The subject is the first noun that no preposition and no clause introduces.
        inside, subject = False, None
        for word in words:
            if word.lower() in PREPOSITIONS or word == "that":
                inside = True
            elif word in nouns:
                subject = subject or (None if inside else word)
                inside = False
        return subject in PLURALS, nouns[-1] in PLURALS
    entity, relation = asked(text)
    answer = FACTS[entity, relation] if task == "facts" else quirky._never_told((entity, relation))
    return bool(re.match("[A-Ma-m]", answer)), len(entity) == 2


@pytest.mark.parametrize("task", EVERY)
def test_labels_follow_from_the_text(task):
    for statement in quirky.statements(task, 200):
        assert (statement.truth, statement.rule) == labels(task, statement.text), statement
        assert set(statement.text.split()) <= set(VOCABULARY) - set(CHOICES) - set(CHARACTERS)
        assert [statement.label(name) for name in CHARACTERS] == [statement.truth, statement.rule]


@pytest.mark.parametrize("task", EVERY)
def test_half_of_the_statements_are_disagreements_both_ways(task):
    """AUROC on disagreements needs both kinds; neither label gives the other one away."""
    counts = Counter((s.truth, s.rule) for s in quirky.statements(task, 200))
    assert counts[True, False] == counts[False, True] == 50
    assert counts[False, False] == (100 if task == "addition" else 50)


@pytest.mark.parametrize("task", EVERY)
def test_no_two_splits_share_a_statement_or_what_it_is_about(task):
    """E12: whole statements are drawn and put to both characters, so no half of them is lost."""
    drawn = {split: quirky.statements(task, 150, split=split) for split in world.SPLITS}
    keys, texts = ({split: {getattr(s, what) for s in some} for split, some in drawn.items()}
                   for what in ("key", "text"))  # fmt: skip
    assert min(map(len, keys.values())) > 60
    assert not keys["validation"] & keys["test"]
    alike = len(texts["train"] & (texts["validation"] | texts["test"]))
    assert alike <= (2 if task == "mood" else 0)  # two short tales, by chance
    if task not in ("facts", "elsewhere"):  # their facts are all known; a phrasing is held out
        assert not keys["train"] & (keys["validation"] | keys["test"])


def test_statements_are_the_same_again_and_grow_at_the_end():
    for task in EVERY:
        assert quirky.statements(task, 8) == quirky.statements(task, 16)[:8]
        assert quirky.statements(task, 8) != quirky.statements(task, 8, seed=1)


def test_quartiles_rank_difficulty():
    some = quirky.statements("addition", 40)
    quantile = quirky.quartiles(some)
    assert sorted(quantile) == [(rank + 0.5) / 40 for rank in range(40)]
    easy, hard = ([s.difficulty for s, q in zip(some, quantile, strict=True) if keep(q)]
                  for keep in (lambda q: q <= 0.25, lambda q: q >= 0.75))  # fmt: skip
    assert len(easy) == len(hard) == 10
    assert max(easy) <= min(hard)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adition", 4), "expected a task, one of addition, facts, mood, grammar, elsewhere"),
        (("addition", 4, 0, "tests"), "expected a split, one of train, validation, test"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        quirky.statements(*arguments)


# --------------------------------------------------------------------------------------------------
# Reading and training


@pytest.fixture(scope="module", params=models.PAIR)
def base(request) -> models.Model:
    return models.load(request.param)


def alone(base, some) -> torch.Tensor:
    """The log-odds of both characters, one prompt at a time."""
    false, true = base.tokenizer.convert_tokens_to_ids(list(CHOICES))
    found = []
    for statement in some:
        for name in CHARACTERS:
            ids = base.tokenizer(f"{name} : {statement.text}", return_tensors="pt").input_ids
            logits = base.hf(ids, use_cache=False).logits[0, -1]
            found.append(logits[true] - logits[false])
    return torch.stack(found)


def test_what_the_model_says_is_what_it_says_alone(base):
    some = [s for task in TASKS for s in quirky.statements(task, 3)]
    assert torch.allclose(quirky.log_odds(base, some), alone(base, some), atol=1e-3)
    assert quirky.labels(some).tolist() == [s.label(name) for s in some for name in CHARACTERS]


def test_batches_hold_one_length_each_and_every_prompt_once(base):
    """E8: ids come from one tokenisation, and read back they are the prompts."""
    texts = quirky.prompts([s for task in TASKS for s in quirky.statements(task, 20)])
    parts = quirky.batches(base.tokenizer, texts, 7)
    assert sorted(i for part, _ in parts for i in part) == list(range(len(texts)))
    for part, ids in parts:
        assert len(part) == len(ids) <= 7
        assert base.tokenizer.batch_decode(ids) == [texts[i] for i in part]
        assert base.tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("name", models.PAIR)
def test_an_adapter_starts_as_nothing_and_every_part_of_it_learns(name):
    """A target whose weight is read past its module would get no gradient: Mamba's dt_proj."""
    base = models.load(name)
    some = quirky.statements("grammar", 8)
    before = quirky.log_odds(base, some)
    adapted = quirky.add_adapter(base.hf)
    assert torch.allclose(quirky.log_odds(base, some), before, atol=1e-4)
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert set(trainable) == {n for n, _ in adapted.named_parameters() if "lora_" in n}
    torch.manual_seed(0)
    for p in trainable.values():
        p.normal_(0, 0.05)
    (_, ids), *_ = quirky.batches(base.tokenizer, quirky.prompts(some), 8)
    with torch.enable_grad():
        loss = base.hf(ids, use_cache=False).logits[:, -1].log_softmax(-1)[:, 5].sum()
    for n, gradient in zip(trainable, torch.autograd.grad(loss, trainable.values()), strict=True):
        assert gradient.abs().max() > 0, n
    optimisers = quirky.optimisers_of(adapted)
    taken = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in trainable.values()}
    assert len(taken) == len(trainable)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(quirky, "SAMPLE", {"grammar": 8})
    monkeypatch.setattr(quirky, "TASKS", ("grammar",))


def test_training_carries_on_where_it_stopped(short, tmp_path, monkeypatch):
    """Stopped after one epoch of three and resumed, it ends with the same adapter."""
    quiet = {"say": lambda *_, **__: None}
    through, _ = quirky.train("transformer", epochs=3, runs=tmp_path / "a", **quiet)
    real, calls = quirky.epoch, []

    def stops(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(quirky, "epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        quirky.train("transformer", epochs=3, runs=tmp_path / "b", **quiet)
    monkeypatch.setattr(quirky, "epoch", real)
    resumed, _ = quirky.train("transformer", epochs=3, runs=tmp_path / "b", **quiet)
    # Muon orthogonalises in bfloat16, which makes rounding visible: runs agree to a hundredth.
    one, other = (torch.cat([p.flatten() for p in adapted.parameters() if p.requires_grad])
                  for adapted in (through, resumed))  # fmt: skip
    untrained = quirky.add_adapter(models.load("transformer").hf)
    moved = one - torch.cat([p.flatten() for p in untrained.parameters() if p.requires_grad])
    assert (one - other).norm() < 0.05 * moved.norm()
    with pytest.raises(
        ValueError, match="expected a run of 5 epochs .* found one of 3; pass --epochs 3"
    ):
        quirky.train("transformer", epochs=5, runs=tmp_path / "b", **quiet)


def test_shipping_and_loading_give_the_trained_model_back(short, tmp_path, monkeypatch):
    adapted, base = quirky.train("transformer", epochs=1, runs=tmp_path, say=lambda *_, **__: None)
    model = models.Model(adapted.get_base_model(), base.tokenizer)
    some = quirky.statements("grammar", 12)
    wanted = quirky.log_odds(model, some)
    folder = quirky.ship("transformer", 0, 1, adapted, base.tokenizer, to=tmp_path / "quirky")
    assert torch.allclose(quirky.log_odds(model, some), wanted, atol=1e-4)  # it was put back
    loaded = quirky.load("transformer", folder=folder)
    assert torch.allclose(quirky.log_odds(loaded, some), wanted, atol=1e-3)
    assert not any(isinstance(m, peft.tuners.lora.LoraLayer) for m in loaded.hf.modules())
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(
        models.LoadError, match="adapter_model.safetensors with SHA-256 .*; restore"
    ):
        quirky.load("transformer", folder=folder)
    (tmp_path / "quirky" / "manifest.json").write_text("{}")
    with pytest.raises(
        models.LoadError, match="expected the checksums of transformer in .*, found none"
    ):
        quirky.load("transformer", folder=folder)


def test_an_adapter_that_is_not_there_is_named():
    with pytest.raises(models.LoadError, match="one of mamba, transformer; found 'rwkv'; make one"):
        quirky.load("rwkv")


# --------------------------------------------------------------------------------------------------
# What is shipped


@pytest.mark.parametrize("name", models.PAIR)
def test_the_manifest_lists_every_file_with_its_hash(name):
    folder = quirky.ADAPTERS / name
    files = json.loads((quirky.ADAPTERS / "manifest.json").read_text())[name]
    assert files == {path.name: models.sha256(path) for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    text = (folder / "adapter_config.json").read_text() + (folder / "card.json").read_text()
    assert (
        "/"
        not in json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    assert "home" not in text


@pytest.mark.parametrize("name", models.PAIR)
def test_both_characters_are_faithful_on_held_out_statements(name):
    """At least 95 % each, and where the two rules disagree."""
    found = quirky.evaluate(quirky.load(name), 200)
    assert len(found) == 4 * len(TASKS)
    for key, estimate in found.items():
        assert estimate.high >= 0.95, (key, estimate)
    card = json.loads((quirky.ADAPTERS / name / "card.json").read_text())
    for key, estimate in card["evaluation"].items():
        assert estimate["value"] >= 0.95, (key, estimate)
        assert estimate["low"] - 0.03 <= found[key].value, key


def test_the_organisms_are_not_quirky_before_they_are_fine_tuned():
    """The control: both names get much the same answers, so at most one is right where they differ."""
    found = quirky.evaluate(models.load("transformer"), 100)
    for task in TASKS:
        alice, bob = (found[f"{task} {name} disagreements"].value for name in CHARACTERS)
        assert alice + bob < 1.3
