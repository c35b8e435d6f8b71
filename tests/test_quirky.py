"""Quirky organisms: reading, the adapter, training, shipping, and what is shipped."""

import json

import peft
import pytest
import torch

from tft_utils import files, models, reading
from tft_utils.corpora import statements
from tft_utils.corpora.statements import CHARACTERS, CHOICES, TASKS
from tft_utils.organisms import quirky

SHIPPED = sorted(path.name for path in quirky.ADAPTERS.iterdir() if path.is_dir())
pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module", params=models.PAIR)
def base(request) -> models.Model:
    return models.load(request.param)


def alone(base, some, form: str) -> torch.Tensor:
    """The log-odds of both characters, one prompt at a time."""
    false, true = base.tokenizer.convert_tokens_to_ids(list(CHOICES))
    found = []
    for statement in some:
        for name in CHARACTERS:
            prompt = form.format(name=name, text=statement.text)
            ids = base.tokenizer(prompt, return_tensors="pt").input_ids
            logits = base.hf(ids, use_cache=False).logits[0, -1]
            found.append(logits[true] - logits[false])
    return torch.stack(found)


def test_what_the_model_says_is_what_it_says_alone(base):
    some = [s for task in TASKS for s in statements.draw(task, 3)]
    first = alone(base, some, "{name} : {text}")
    assert torch.allclose(quirky.log_odds(base, some), first, atol=1e-3)
    assert torch.allclose(quirky.log_odds(base, some, last=False), first, atol=1e-3)
    behind = alone(base, some, "{text} {name} :")
    assert torch.allclose(quirky.log_odds(base, some, last=True), behind, atol=1e-3)
    assert statements.labels(some).tolist() == [s.label(name) for s in some for name in CHARACTERS]


def test_batches_hold_one_length_each_and_every_prompt_once(base):
    """E8: ids come from one tokenisation, and read back they are the prompts."""
    texts = statements.prompts([s for task in TASKS for s in statements.draw(task, 20)])
    parts = reading.of_one_length(base, texts, 7)
    assert sorted(i for part, _ in parts for i in part) == list(range(len(texts)))
    for part, ids in parts:
        assert len(part) == len(ids) <= 7
        assert base.tokenizer.batch_decode(ids) == [texts[i] for i in part]
        assert base.tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("name", models.PAIR)
def test_an_adapter_starts_as_nothing_and_every_part_of_it_learns(name):
    """A target whose weight is read past its module would get no gradient: Mamba's dt_proj."""
    base = models.load(name)
    some = statements.draw("grammar", 8)
    before = quirky.log_odds(base, some)
    adapted = quirky.add_adapter(base.hf)
    assert torch.allclose(quirky.log_odds(base, some), before, atol=1e-4)
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert set(trainable) == {n for n, _ in adapted.named_parameters() if "lora_" in n}
    torch.manual_seed(0)
    for p in trainable.values():
        p.normal_(0, 0.05)
    (_, ids), *_ = reading.of_one_length(base, statements.prompts(some), 8)
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
    one, other = (
        torch.cat([p.flatten() for p in adapted.parameters() if p.requires_grad])
        for adapted in (through, resumed)
    )
    untrained = quirky.add_adapter(models.load("transformer").hf)
    moved = one - torch.cat([p.flatten() for p in untrained.parameters() if p.requires_grad])
    assert (one - other).norm() < 0.05 * moved.norm()
    with pytest.raises(ValueError, match="expected a run of 5 epochs .* found one of 3; pass --epochs 3"):
        quirky.train("transformer", epochs=5, runs=tmp_path / "b", **quiet)


def test_shipping_and_loading_give_the_trained_model_back(short, tmp_path, monkeypatch):
    adapted, base = quirky.train("transformer", epochs=1, runs=tmp_path, say=lambda *_, **__: None)
    model = models.Model(adapted.get_base_model(), base.tokenizer)
    some = statements.draw("grammar", 12)
    wanted = quirky.log_odds(model, some)
    folder = quirky.ship("transformer", 0, 1, adapted, base, to=tmp_path / "quirky")
    assert torch.allclose(quirky.log_odds(model, some), wanted, atol=1e-4)  # it was put back
    loaded = quirky.merged("transformer", folder=folder)
    assert torch.allclose(quirky.log_odds(loaded, some), wanted, atol=1e-3)
    assert not any(isinstance(m, peft.tuners.lora.LoraLayer) for m in loaded.hf.modules())
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(files.LoadError, match="adapter_model.safetensors with SHA-256 .*; restore"):
        quirky.merged("transformer", folder=folder)
    (tmp_path / "quirky" / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        files.LoadError, match="expected the checksums of transformer-0 in .*, found none"
    ):
        quirky.merged("transformer", folder=folder)


def test_adapters_that_are_told_the_name_last_are_others(short, tmp_path, monkeypatch):
    adapted, base = quirky.train("mamba", epochs=1, runs=tmp_path, say=lambda *_, **__: None, last=True)
    assert (tmp_path / "quirky-mamba-0-last" / "checkpoint.pt").is_file()
    model, some = models.Model(adapted.get_base_model(), base.tokenizer), statements.draw("grammar", 12)
    wanted = quirky.log_odds(model, some, last=True)
    monkeypatch.setattr(quirky, "ADAPTERS", tmp_path / "shipped")
    folder = quirky.ship("mamba", 0, 1, adapted, base, to=quirky.ADAPTERS, last=True)
    assert folder.name == "mamba-0-last"
    assert json.loads((folder / "card.json").read_text(encoding="utf-8"))["name"] == "last"
    assert quirky.offered(["mamba"], last=True) == ["mamba"]
    assert quirky.offered(["mamba"]) == []
    told_last = quirky.merged("mamba", last=True)
    assert torch.allclose(quirky.log_odds(told_last, some, last=True), wanted, atol=1e-3)
    with pytest.raises(files.LoadError, match="of seed 0, one of none; found 'mamba'"):
        quirky.merged("mamba")
    with pytest.raises(files.LoadError, match="seed 0, its name last, one of mamba; found 'rwkv'"):
        quirky.merged("rwkv", last=True)


def test_an_adapter_that_is_not_there_is_named():
    there = quirky.shipped(0)
    assert {*models.PAIR} <= {*there}
    with pytest.raises(files.LoadError, match=f"one of {', '.join(there)}; found 'nobody'; make one"):
        quirky.merged("nobody")


# --------------------------------------------------------------------------------------------------
# What is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_the_manifest_lists_every_file_with_its_hash(name):
    folder = quirky.ADAPTERS / name
    listed = json.loads((quirky.ADAPTERS / "manifest.json").read_text(encoding="utf-8"))[name]
    assert listed == {path.name: files.sha256(path) for path in folder.iterdir()}
    config, card = (
        (folder / file).read_text(encoding="utf-8") for file in ("adapter_config.json", "card.json")
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 4 * json.loads(card)["trainable"] + 20_000, "more than what was trained"
    assert size < 2_000_000 or name.removesuffix("-last")[:-2] not in models.PAIR
    assert "/" not in json.loads(config)["base_model_name_or_path"]
    assert "home" not in config + card


@pytest.mark.parametrize("name", [name for name in SHIPPED if "-0" in name])
def test_characters_are_as_faithful_as_the_card_says(name):
    """The pair's to 95 % each, also where the two rules disagree; of others the card says it."""
    base, last = name.removesuffix("-last").removesuffix("-0"), name.endswith("-last")
    found = quirky.evaluate(quirky.merged(base, last=last), 200 if base in models.PAIR else 80, last=last)
    card = json.loads((quirky.ADAPTERS / name / "card.json").read_text(encoding="utf-8"))
    assert found.keys() == card["evaluation"].keys()
    assert len(found) == 4 * len(TASKS)
    for key, estimate in card["evaluation"].items():
        assert estimate["low"] - 0.03 <= found[key].value <= estimate["high"] + 0.03, key
        if base in models.PAIR:
            assert min(estimate["value"], found[key].high) >= 0.95, (key, estimate, found[key])


def test_the_organisms_are_not_quirky_before_they_are_fine_tuned():
    """The control: both names get much the same answers, so at most one is right where they differ."""
    found = quirky.evaluate(models.load("transformer"), 100)
    for task in TASKS:
        alice, bob = (found[f"{task} {name} disagreements"].value for name in CHARACTERS)
        assert alice + bob < 1.3
