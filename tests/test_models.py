"""The verbs read what plain PyTorch reads, and every load that fails says why in one sentence."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hub
import nnsight
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import toy
from transformers.utils import logging as transformers_logging

from tft_utils import files, models, reading
from tft_utils.architectures import mamba_scan as scan
from tft_utils.corpora import published
from tft_utils.files import LoadError
from tft_utils.models import load
from tft_utils.organisms import evaluation, training

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tft_utils"
MODULES = sorted(PACKAGE.rglob("[!_]*.py"))
NAMELESS = [p for p in MODULES if p.parent in (PACKAGE, PACKAGE / "techniques", PACKAGE / "corpora")]
PROMPT = "The capital of Zabar is"
TEXTS = ["The keys near the old cabinet", "mila : red . tomo : blue . mila :", "2 7 + 1 5 ="]
CACHE = {"gpt_neox": "past_key_values", "mamba": "cache_params"}  # how transformers calls it


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Untrained organisms on disk, by name."""
    root, found = tmp_path_factory.mktemp("models"), {}
    for name in models.PAIR:
        found[name] = root / name
        model = training.build(name, seed=1)
        model.save_pretrained(found[name])
        evaluation.tokenizer().save_pretrained(found[name])
    return found


@pytest.fixture(scope="module", params=models.PAIR)
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def model(folder) -> models.Model:
    return load(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refused(*args, **options) -> str:
    """The sentence with which a load is refused: what was expected, what was found, what to do."""
    start = time.monotonic()
    with pytest.raises(LoadError) as failure:
        load(*args, **options)
    sentence = str(failure.value)
    assert "expected " in sentence, sentence
    assert "found " in sentence, sentence
    assert "; " in sentence, sentence
    assert "\n" not in sentence, sentence
    assert len(sentence) < 600, sentence
    assert time.monotonic() - start < 15, "a refusal must not keep the reader waiting"
    return sentence


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def ids(model, text: str = PROMPT) -> torch.Tensor:
    return model.tokenizer(text, return_tensors="pt").input_ids


# --- the verbs read and write what they say ------------------------------------------------------


def test_residual_and_logits_equal_plain_hooks(model):
    bare, seen = training.build(model_name(model), seed=1).eval(), {}
    blocks = next(m for m in bare.modules() if isinstance(m, torch.nn.ModuleList))
    embedding = next(m for m in bare.modules() if isinstance(m, torch.nn.Embedding))
    for k, module in enumerate([embedding, *blocks]):
        module.register_forward_hook(lambda m, args, out, k=k: seen.update({k: out}))
    with torch.no_grad():
        logits = bare(input_ids=ids(model)).logits
        with model.trace(PROMPT):
            found = nnsight.save([model.residual(k) for k in range(model.n_layers + 1)])
            found_logits = model.logits.save()
    assert len(seen) == model.n_layers + 1
    for k, h in enumerate(found):
        assert h.shape == (1, 5, 128)
        torch.testing.assert_close(h, seen[k], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_logits, logits, rtol=1e-5, atol=1e-5)
    assert (found[0] - found[-1]).abs().max() > 1e-3, "the blocks did nothing"


def model_name(model) -> str:
    return next(n for n in models.PAIR if training.ORGANISMS[n]["model_type"] == model.config.model_type)


def test_final_residual_to_logits(model):
    with torch.no_grad(), model.trace(PROMPT):
        h = model.residual(model.n_layers).save()
        logits = model.logits.save()
        output = model.output.logits.save()
    torch.testing.assert_close(model.to_logits(h), logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(output, logits, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model.to_logits(h[0, -1]), logits[0, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_set_and_in_place_edit_agree_and_act_forward_only(model, k):
    k, at = k % (model.n_layers + 1), 2
    direction = torch.randn(128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with model.trace(PROMPT):
            plain = model.logits.save()
        with model.trace(PROMPT):
            model.residual(k)[:, at] += direction
            in_place = model.logits.save()
        with model.trace(PROMPT):
            h = model.residual(k).clone()
            h[:, at] = h[:, at] + direction
            model.set_residual(k, h)
            by_set = model.logits.save()
    torch.testing.assert_close(in_place, by_set, rtol=0, atol=1e-6)
    changed = (in_place - plain).abs().amax(-1)[0]
    assert changed[:at].max() == 0, "an edit reached the past"
    assert changed[at] > 1e-3, "the edit did nothing at its own position"
    assert (changed[at + 1 :] > 1e-6).all() == (k < model.n_layers), (
        "an edit before the last mixer must reach every later position, one after it none"
    )


def test_a_block_that_gives_a_tuple_has_its_stream_read_and_replaced():
    rwkv = toy("rwkv")
    with torch.no_grad():
        expected = reading.streams(rwkv, ids(rwkv))
        for k in range(rwkv.n_layers + 1):
            with rwkv.trace(PROMPT):
                h = rwkv.residual(k).save()
            torch.testing.assert_close(h, expected[k], rtol=1e-6, atol=1e-6)
            with rwkv.trace(PROMPT):
                rwkv.set_residual(k, torch.zeros_like(expected[k]))
                zeroed = rwkv.residual(k).save()
                logits = rwkv.logits.save()
            assert not zeroed.any()
            assert (logits - rwkv.to_logits(expected[-1])).abs().max() > 1e-3


def test_mixer_output_equals_a_hook_and_explains_the_residual(model):
    bare, seen = training.build(model_name(model), seed=1).eval(), {}
    blocks = next(m for m in bare.modules() if isinstance(m, torch.nn.ModuleList))
    for l, block in enumerate(blocks):
        children = dict(block.named_children())
        mixer = children["attention" if "attention" in children else "mixer"]
        mixer.register_forward_hook(
            lambda m, args, out, l=l: seen.update({l: out[0] if isinstance(out, tuple) else out})
        )
        if "mlp" in children:
            block.mlp.register_forward_hook(lambda m, a, out, l=l: seen.update({("mlp", l): out}))
    with torch.no_grad():
        bare(input_ids=ids(model))
        with model.trace(PROMPT):
            h, mixed = nnsight.save([model.residual(0)]), nnsight.save([])
            for l in range(model.n_layers):
                mixed.append(model.mixer_output(l))
                h.append(model.residual(l + 1))
    for l in range(model.n_layers):
        torch.testing.assert_close(mixed[l], seen[l], rtol=1e-5, atol=1e-5)
        whole = mixed[l] + seen.get(("mlp", l), 0)  # attention and MLP are parallel in GPT-NeoX
        torch.testing.assert_close(h[l + 1] - h[l], whole, rtol=0, atol=1e-5)
        assert mixed[l].abs().max() > 1e-4


def test_mixer_output_can_be_ablated_in_place(model):
    with torch.no_grad():
        with model.trace(PROMPT):
            plain = model.residual(1).save()
        with model.trace(PROMPT):
            before = model.residual(0).save()
            model.mixer_output(0)[:] = 0
            after = model.residual(1).save()
    assert (after - plain).abs().max() > 1e-4
    if not hasattr(model.hf.base_model.layers[0], "mlp"):
        torch.testing.assert_close(after, before)


def test_blocks_outside_the_model_are_refused(model):
    for k in (-1, model.n_layers + 1):
        sentence = f"expected a depth k from 0 to {model.n_layers}; found {k}"
        with pytest.raises(ValueError, match=sentence), model.trace(PROMPT):
            model.residual(k).save()
        with pytest.raises(ValueError, match=sentence), model.trace(PROMPT):
            model.set_residual(k, torch.zeros(1, 5, 128))


def test_batches_with_left_padding_equal_single_prompts(model):
    for k in (1, model.n_layers):
        with torch.no_grad(), model.trace(TEXTS):
            batch = model.residual(k).save()
            logits = model.logits.save()
        for row, text in enumerate(TEXTS):
            with torch.no_grad(), model.trace(text):
                alone = model.residual(k).save()
                alone_logits = model.logits.save()
            n = alone.shape[1]
            torch.testing.assert_close(batch[row, -n:], alone[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(logits[row, -n:], alone_logits[0], rtol=0, atol=1e-5)


def test_state_is_live_and_shaped_as_documented(model):
    name = CACHE[model.config.model_type]
    prompt, after = ids(model), torch.tensor([[7]])
    shapes = {"keys": (1, 4, 5, 32), "values": (1, 4, 5, 32), "ssm": (1, 256, 16), "conv": (1, 256, 4)}

    @torch.no_grad()
    def continuation(edited: str | None) -> torch.Tensor:
        cache = getattr(model.hf(input_ids=prompt, use_cache=True), name)
        for l in range(model.n_layers):
            for key, part in model.state(cache, l).items():
                assert part.shape == shapes[key], f"layer {l}, {key}"
                if l == 2 and key == edited:
                    part.copy_(part.flip(-1))
        return model.hf(input_ids=after, use_cache=True, **{name: cache}).logits[0, -1]

    with torch.no_grad():
        whole = model.hf(input_ids=torch.cat([prompt, after], 1)).logits[0, -1]
        cache = getattr(model.hf(input_ids=prompt, use_cache=True), name)
    torch.testing.assert_close(continuation(None), whole, rtol=1e-5, atol=1e-5)
    first, second = map(continuation, model.state(cache, 2))
    assert (first - whole).abs().max() > 1e-4, "the first part of the state is not live"
    assert (second - whole).abs().max() > 1e-4, "the second part of the state is not live"
    assert (first - second).abs().max() > 1e-4, "both parts are the same"


def test_generate_is_greedy_on_its_own_logits(model):
    found = model.generate(PROMPT, max_new_tokens=4, do_sample=False)
    expected = ids(model)
    for _ in range(4):
        with torch.no_grad():
            logits = model.hf(input_ids=expected, use_cache=False).logits
        expected = torch.cat([expected, logits[:, -1:].argmax(-1)], 1)
    assert found.tolist() == expected.tolist()


def test_generate_can_be_steered_through_the_verbs(model):
    plain = model.generate(PROMPT, max_new_tokens=2, do_sample=False)
    with model.generate(PROMPT, max_new_tokens=2, do_sample=False) as tracer:
        model.residual(model.n_layers)[:, -1] *= -1
        steered = tracer.result.save()
    assert steered.shape == plain.shape
    assert steered[0, 5] != plain[0, 5]


# --- options -------------------------------------------------------------------------------------


def test_readable_and_fast_agree(folder, model):
    readable = load(folder, readable=True)
    with torch.no_grad():
        with model.trace(TEXTS):
            expected = model.logits.save()
        with readable.trace(TEXTS):
            found = readable.logits.save()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_readable_mamba_lets_nnsight_edit_a_state(folders):
    mamba, at = load(folders["mamba"], readable=True), 2
    assert set(scan.TAPS) >= {"state", "discrete_A", "y"}
    with torch.no_grad():
        with mamba.trace(PROMPT):
            plain = mamba.logits.save()
        with mamba.trace(PROMPT) as tracer:
            state = scan.tap(mamba.mixer(3), "state")
            for _ in tracer.iter[at]:
                before = state.output.save()
                state.output = torch.zeros_like(before)
            edited = mamba.logits.save()
    assert before.shape == (1, 256, 16)
    assert before.abs().max() > 0
    changed = (edited - plain).abs().amax(-1)[0]
    assert changed[:at].max() == 0
    assert (changed[at:] > 0).all()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_tied_embeddings(folder, copy, dtype, tied):
    if tied:
        config = training.configuration(folder.name)
        config.tie_word_embeddings = True
        shutil.rmtree(copy)
        torch.manual_seed(0)
        training.AutoModelForCausalLM.from_config(config).save_pretrained(copy)
        evaluation.tokenizer().save_pretrained(copy)
    reference, model = load(copy), load(copy, dtype=dtype)
    shared = model.hf.get_input_embeddings().weight is model.hf.get_output_embeddings().weight
    assert shared == tied
    assert {p.dtype for p in model.hf.parameters()} == {dtype}
    with torch.no_grad():
        with reference.trace(PROMPT):
            expected = reference.logits.save()
        with model.trace(PROMPT):
            h = nnsight.save([model.residual(k) for k in range(model.n_layers + 1)])
            logits = model.logits.save()
        ours = model.to_logits(h[-1])
    scale = expected.abs().max()
    rounding = {torch.float64: 1e-6, torch.bfloat16: 0.02, torch.float16: 0.003}[dtype]
    assert (ours.float() - logits.float()).abs().max() <= rounding * scale
    error = (logits.float() - expected).abs().max() / scale
    assert error < {torch.float64: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]
    assert model.generate(PROMPT, max_new_tokens=2).shape == (1, 7)
    if dtype == torch.float64:
        assert logits.dtype == dtype
        for k in range(1, model.n_layers + 1):
            assert (h[k] != h[k].float()).any(), f"residual {k} was rounded to float32"
            # What a block receives must not be rounded either: the next difference is exact.
            with torch.no_grad(), model.trace(PROMPT):
                before = model.residual(k - 1).save()
                mixed = model.mixer_output(k - 1).save()
                after = model.residual(k).save()
            if not hasattr(model.hf.base_model.layers[0], "mlp"):
                assert torch.equal(before + mixed, after)


@pytest.mark.parametrize("dtype", [torch.int8, "float32", None])
def test_other_dtypes_are_refused(folder, dtype):
    assert "dtype=torch.float32" in refused(folder, dtype=dtype)


def test_unknown_devices_are_refused(folder):
    assert "use device='cpu'" in refused(folder, device="toaster")


def test_a_gpu_that_is_not_there_is_refused(folder):
    device = f"cuda:{torch.cuda.device_count()}" if torch.cuda.is_available() else "cuda"
    sentence = refused(folder, device=device)
    assert f"'{device}' to be a device of this machine" in sentence
    assert "use device='cpu'" in sentence


def test_auto_never_takes_a_device_without_float64(folder, monkeypatch):
    """Apple's GPU: there it says so of itself; elsewhere, that it is not there."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert load(folder, device="auto").hf.device.type == "cpu"
    assert "with float64, found" in refused(folder, device="mps")


def test_cuda_gives_the_same_numbers(folder):
    if not torch.cuda.is_available():
        pytest.skip("skipped: no CUDA")
    with torch.no_grad():
        with load(folder).trace(TEXTS) as tracer:
            expected = tracer.result.save()
        with load(folder, device="cuda").trace(TEXTS) as tracer:
            found = tracer.result.save()
    torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=0, atol=1e-3)


# --- names and folders ---------------------------------------------------------------------------


def test_a_folder_works_wherever_a_name_does(folder, model, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with torch.no_grad():
        expected = model.hf(input_ids=ids(model)).logits
    names = [folder, str(folder), f"./{folder.name}", Path(folder.name), f"{folder}/"]
    for name, scale in zip(names, ["tiny", "small", "tiny", "tiny", "paper"], strict=True):
        found = load(name, scale)
        with torch.no_grad():
            logits = found.hf(input_ids=ids(found)).logits
        assert torch.equal(logits, expected), f"{name!r} is another model"


def test_load_models_loads_the_names_of_a_scale_in_order(bundle):
    pair = models.load_models(dtype=torch.float64)
    assert {name: m.config.model_type for name, m in pair.items()} == {
        "transformer": "gpt_neox",
        "mamba": "mamba",
    }
    assert [m.hf.dtype for m in pair.values()] == [torch.float64] * 2
    assert list(models.load_models(["mamba"])) == ["mamba"]
    assert load().config.model_type == "gpt_neox"


def test_a_local_load_prints_nothing(folder, capfd):
    enabled = transformers_logging.is_progress_bar_enabled()
    load(folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled() == enabled


@pytest.mark.parametrize("name", models.PAIR)
def test_bundled_organisms_load(name):
    model = load(name)
    assert model.config.model_type == training.ORGANISMS[name]["model_type"]
    assert not model.hf.training


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("mambaa", "mamba"), ("Mamba", "mamba"), ("transfomer", "transformer"), ("mamb", "mamba")],
)
@pytest.mark.parametrize("scale", models.SCALES)
def test_unknown_name_suggests_the_nearest(typed, meant, scale):
    sentence = refused(typed, scale)
    assert f"did you mean '{meant}'?" in sentence
    assert f"found '{typed}'" in sentence


def test_unknown_name_far_from_all_lists_them():
    assert "use one of transformer, mamba" in refused("xyz")
    assert "use one of transformer, mamba" in refused(Path("/no/such/folder"))


def test_unknown_scale_lists_the_scales():
    assert "found 'huge'; use one of 'tiny', 'small', 'paper'" in refused("mamba", "huge")


# --- bundled organisms: checksums ----------------------------------------------------------------


@pytest.fixture
def bundle(folders, tmp_path, monkeypatch) -> Path:
    """A data/organisms of our own, with a manifest."""
    root, manifest = tmp_path / "organisms", {}
    for name, folder in folders.items():
        to = root / f"{name}-0"
        shutil.copytree(folder, to)
        manifest[to.name] = {f.name: files.sha256(f) for f in to.iterdir()}
    (root / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr(files, "ORGANISMS", root)
    return root


def test_an_intact_bundle_loads(bundle):
    assert [m.n_layers for m in models.load_models().values()] == [6, 10]


@pytest.mark.parametrize("by", ["name", "path", "relative path"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_flipped_bit_is_noticed(bundle, file, by, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    path = bundle / "mamba-0" / file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    sentence = refused({"name": "mamba", "path": path.parent}.get(by, "organisms/mamba-0"))
    assert f"{path} with SHA-256" in sentence
    assert "git checkout -- data/organisms" in sentence
    assert load("transformer").n_layers == 6, "the other organism is intact"


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"mamba-0": 1}'])
def test_a_manifest_that_cannot_be_used_is_refused(bundle, text):
    path = bundle / "manifest.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    sentence = refused("mamba")
    assert str(path) in sentence
    assert "git checkout -- data/organisms" in sentence


@pytest.fixture
def population(bundle, folders) -> Path:
    """The same with a second seed of `mamba`, its weights in float16, and no transformer."""
    listed = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    del listed["transformer-0"]
    folder = bundle / "mamba-1"
    shutil.copytree(folders["mamba"], folder)
    load(folders["mamba"]).hf.half().save_pretrained(folder)
    listed[folder.name] = {f.name: files.sha256(f) for f in folder.iterdir()}
    (bundle / "manifest.json").write_text(json.dumps(listed), encoding="utf-8")
    return bundle


def test_a_seed_is_loaded_in_float32_from_what_is_stored(population):
    assert files.seeds() == {"mamba": [0, 1]}
    first, second = (load("mamba", **options).hf.state_dict() for options in ({}, {"seed": 1}))
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor.half().float())
        assert second[key].dtype == torch.float32
    assert any(not torch.equal(second[key], first[key]) for key in first)
    assert list(models.load_models(["mamba"], seed=1)) == ["mamba"]


def test_an_organism_that_only_the_population_has_loads_by_its_name(population, monkeypatch):
    monkeypatch.delitem(models.SCALES["tiny"], "mamba")
    assert load("mamba").n_layers == 10


def test_a_damaged_seed_is_noticed(population):
    path = population / "mamba-1" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert f"{path} with SHA-256" in refused("mamba", seed=1)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "mamba",
            {"seed": 3},
            "expected a trained organism mamba of seed 3, found seeds 0, 1; train it with "
            "`python -m tft_utils.organisms train mamba --seed 3 --ship`",
        ),
        ("transformer", {"seed": 0}, "expected a trained organism transformer of seed 0, found none; tr"),
        ("mambaa", {"seed": 0}, "did you mean 'mamba'?"),
    ],
)
def test_a_seed_that_is_not_there_is_refused(population, name, options, sentence):
    assert sentence in refused(name, **options)


def test_a_missing_file_and_a_missing_organism_are_refused(bundle):
    (bundle / "mamba-0" / "tokenizer.json").unlink()
    assert "tokenizer.json with SHA-256" in refused("mamba")
    shutil.rmtree(bundle / "mamba-0")
    assert "found no file" in refused("mamba")


# --- damaged and foreign folders -----------------------------------------------------------------


CUTS = {  # a place in the file, from its size and its header's length
    "empty": lambda size, header: 0,
    "in the length": lambda size, header: 5,
    "after the length": lambda size, header: 8,
    "in the header": lambda size, header: 8 + header // 2,
    "after the header": lambda size, header: 8 + header,
    "halfway": lambda size, header: size // 2,
    "last byte": lambda size, header: size - 1,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_weights_that_were_cut_are_refused(copy, cut):
    path = copy / "model.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little")
    os.truncate(path, cut(path.stat().st_size, header))
    sentence = refused(copy)
    assert str(path) in sentence
    assert "delete it, then download or restore it again" in sentence


def test_weights_with_bytes_too_many_are_refused(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"expected {path.stat().st_size - 1} bytes" in refused(copy)


@pytest.mark.parametrize(
    "header", [b"not json", b"[1, 2]", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": []}}', b"\xff"]
)
def test_weights_with_a_garbage_header_are_refused(copy, header):
    path = copy / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
    assert str(path) in refused(copy)
    path.write_bytes(header * 100)  # its first eight bytes read as an absurd length
    assert str(path) in refused(copy)


def test_weights_without_any_tensor_are_refused(copy):
    save_file({}, copy / "model.safetensors")
    assert "expected every weight of the model" in refused(copy)


def test_a_missing_weight_is_not_replaced_by_random_numbers(copy):
    path = copy / "model.safetensors"
    weights = load_file(path)
    gone = sorted(name for name in weights if "layers.3" in name)[0]
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    assert gone in refused(copy)


def test_weights_of_another_size_are_refused(copy):
    edit_json(copy / "config.json", hidden_size=64)
    assert "found RuntimeError: " in refused(copy)


def shard(folder: Path) -> dict[str, str]:
    """Splits the weights into two files with an index, as large models come."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, index = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(w.nbytes for w in weights.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}), encoding="utf-8"
    )
    return index


def test_sharded_weights_load(copy, model):
    shard(copy)
    found = load(copy)
    for (name, a), (_, b) in zip(model.hf.named_parameters(), found.hf.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_cut_or_missing_shard_is_refused(copy):
    last = copy / sorted(shard(copy).values())[-1]
    os.truncate(last, last.stat().st_size - 1)
    assert str(last) in refused(copy)
    last.unlink()
    assert f"found no {last.name}" in refused(copy)
    for text in ("{", "[]", '{"weight_map": 3}'):
        (copy / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        assert "model.safetensors.index.json" in refused(copy)


def test_pickled_weights_are_refused(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    sentence = refused(copy)
    assert "expected weights in the safetensors format" in sentence
    assert "found pytorch_model.bin" in sentence
    (copy / "pytorch_model.bin").unlink()
    assert "found no weights" in refused(copy)


def test_remote_code_never_runs(copy, model):
    (copy / "evil.py").write_text("raise SystemExit('remote code ran')", encoding="utf-8")
    edit_json(
        copy / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )
    assert load(copy).tokenizer.decode([7]) == model.tokenizer.decode([7])
    edit_json(copy / "config.json", auto_map={"AutoConfig": "evil.Config"})
    assert "would run its own code (auto_map)" in refused(copy)


@pytest.mark.parametrize("kind", ["gpt2", "bert", None])
def test_an_unsupported_architecture_is_refused(copy, kind):
    edit_json(copy / "config.json", model_type=kind)
    sentence = refused(copy)
    assert "expected an architecture among gpt_neox, " in sentence
    assert f"found {kind!r}" in sentence


@pytest.mark.parametrize(
    "head", ["BertForMaskedLM", "T5ForConditionalGeneration", "BertModel", "T5EncoderModel"]
)
def test_a_model_that_predicts_no_next_word_is_refused(copy, head):
    edit_json(copy / "config.json", model_type="bert", architectures=[head])
    sentence = refused(copy)
    assert f"found {head} in {copy}; take one whose class ends in ForCausalLM" in sentence


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        ({}, "take state-spaces/mamba-130m-hf instead"),
        ({"d_model": 2560, "n_layer": 64, "ssm_cfg": None}, "take state-spaces/mamba-2.8b-hf instead"),
        ({"d_model": 64}, "take the one of this size that ends in -hf instead"),
        ({"d_model": [768]}, "take the one of this size that ends in -hf instead"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "take the one of this size that ends in -hf instead"),
    ],
)
def test_the_original_format_is_refused_with_what_to_take_instead(copy, change, instead):
    original = {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True}
    (copy / "config.json").write_text(json.dumps(original | change), encoding="utf-8")
    sentence = refused(copy)
    assert sentence.endswith(instead)
    assert "found one in the authors' own" in sentence


def test_a_folder_without_config_is_refused(copy):
    (copy / "config.json").unlink()
    assert f"found no config.json in {copy}; check the path" in refused(copy)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "null", "\x00"])
def test_a_config_that_is_no_json_object_is_refused(copy, text):
    (copy / "config.json").write_text(text, encoding="utf-8")
    assert str(copy / "config.json") in refused(copy)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "wide"}, {"hidden_size": -128}, {"num_hidden_layers": None}]
)
def test_a_config_with_nonsense_is_refused(copy, change):
    edit_json(copy / "config.json", **change)
    refused(copy)


def test_a_folder_without_tokenizer_is_refused(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "expected a tokenizer" in refused(copy)
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "expected a model and its tokenizer" in refused(copy)


@pytest.fixture(scope="module")
def fresh_process(tmp_path_factory) -> dict:
    """What a new Python process says: CUDA packages that must not be imported, no network."""
    poisoned = tmp_path_factory.mktemp("poisoned")
    for name in ("mamba_ssm", "causal_conv1d"):
        (poisoned / name).mkdir()
        (poisoned / name / "__init__.py").write_text(
            f"import sys\nsys.poisoned = [*getattr(sys, 'poisoned', []), '{name}']\n"
            "raise ImportError('poisoned')",
            encoding="utf-8",
        )
    # An architecture's own file imports transformers' model, which looks for such packages itself.
    names = [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in MODULES]
    names = ["architectures", *(name for name in names if not name.startswith("architectures."))]
    code = f"""
import importlib, json, sys, time
for name in {names}:
    importlib.import_module(f"tft_utils.{{name}}")
found = {{"imported": getattr(sys, "poisoned", [])}}
start = time.monotonic()
try:
    importlib.import_module("tft_utils.models").load("mamba", "small")
except RuntimeError as error:
    found["sentence"] = str(error)
found["seconds"] = time.monotonic() - start
try:
    import mamba_ssm
except ImportError:
    found["poison"] = sys.poisoned
print(json.dumps(found))
"""
    path = os.pathsep.join([str(poisoned), os.environ["PYTHONPATH"]])
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(poisoned)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


# --- memory --------------------------------------------------------------------------------------


class Memory:
    """Stands in for psutil.virtual_memory()."""

    def __init__(self, available: float) -> None:
        self.available = available


def test_a_huge_local_model_is_refused_before_its_weights_are_read(copy):
    edit_json(copy / "config.json", hidden_size=32768, intermediate_size=131072, num_hidden_layers=64)
    (copy / "model.safetensors").write_bytes(b"never read")
    sentence = refused(copy)
    assert "GiB of free memory on cpu" in sentence
    assert "use a smaller scale" in sentence
    needed = float(sentence.split("expected ")[1].split(" GiB")[0])
    blocks = {"transformer": 12, "mamba": 6}  # times layers times width squared
    lowest = 64 * 32768**2 * 4 * 1.2 * min(blocks.values()) / 2**30
    assert needed > lowest


def test_memory_counts_parameters_and_dtype(copy, model, monkeypatch):
    parameters = sum(p.numel() for p in model.hf.parameters())
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda s=size: Memory(1.19 * parameters * s))
        assert "GiB of free memory" in refused(copy, dtype=dtype)
        monkeypatch.setattr(psutil, "virtual_memory", lambda s=size: Memory(1.21 * parameters * s))
        assert load(copy, dtype=dtype).hf.dtype == dtype


def test_a_model_too_large_for_one_gpu_is_split_over_all(copy, model, monkeypatch):
    """The GPUs are made up: what is asked of transformers is tested, and that the sum must suffice. That
    blocks then work where they lie is in test_architectures."""
    given, ends, plain = {}, [0, 1], models.AutoModelForCausalLM.from_pretrained

    def from_pretrained(folder, device_map=None, **options):
        given["device_map"] = device_map
        hf, found = plain(folder, **options)
        hf.hf_device_map = dict(enumerate(ends))
        return hf, found

    def gpus(share: float) -> None:
        """Two, each with room for this share of the model."""
        room = share * 1.2 * 4 * sum(p.numel() for p in model.hf.parameters())
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room, room))

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(models, "_check_device_and_dtype", lambda device, dtype: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus(0.7)
    assert load(copy, device="auto").is_split
    assert given == {"device_map": "auto"}
    assert "GiB of free memory on cuda for" in refused(copy, device="cuda"), "one was asked for"
    ends[1] = "disk"
    assert "found some left on disk" in refused(copy, device="auto")
    gpus(0.4)
    assert "GiB of free memory on cuda:0 and cuda:1 for" in refused(copy, device="auto")


# --- the hub -------------------------------------------------------------------------------------


class Hub:
    """Stands in for the hub: hands out one folder and notes what was asked for."""

    def __init__(self, monkeypatch, folder: Path, online: bool = True) -> None:
        import huggingface_hub.utils

        self.folder, self.online, self.asked = folder, online, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", self.nothing_cached)
        monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: self)

    def nothing_cached(self, **commit: str) -> None:
        raise LookupError

    def head(self, url: str, timeout: float) -> None:
        assert timeout <= 10
        if not self.online:
            raise ConnectionError("no route to host")

    def download(self, repo_id, revision, repo_type, allow_patterns, local_files_only):
        self.asked.append((repo_id, revision, tuple(allow_patterns), local_files_only))
        if isinstance(self.folder, Exception):
            raise self.folder
        return str(self.folder)


def test_the_hub_is_asked_for_pinned_safetensors_only(copy, folder, monkeypatch):
    hub = Hub(monkeypatch, copy)
    assert load(folder.name, "small").n_layers > 0
    source = models.SCALES["small"][folder.name]
    assert [a[:2] for a in hub.asked] == [source[:2]] * 2
    assert hub.asked[0][2] == ("*.json",)
    assert set(hub.asked[1][2]) == {"*.json", "*.safetensors", "*.txt"}
    assert not any(a[3] for a in hub.asked)


def test_a_cached_model_loads_without_a_network(copy, folder, monkeypatch):
    hub = Hub(monkeypatch, copy, online=False)
    assert load(folder.name, "small").n_layers > 0
    assert all(a[3] for a in hub.asked), "offline, only the local cache can answer"


def test_every_source_is_pinned():
    for scale, known in models.SCALES.items():
        for name, source in known.items():
            if isinstance(source, Path):
                assert source == files.ORGANISMS / f"{name}-0"
            else:
                assert len(source.revision) == 40, f"{name} at {scale}"
                int(source.revision, 16)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_too_little_memory_is_noticed_before_the_weights_are_downloaded(copy, folder, scale, monkeypatch):
    (copy / "model.safetensors").unlink()
    hub = Hub(monkeypatch, copy)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2**20))
    sentence = refused(folder.name, scale)
    assert "GiB of free memory on cpu" in sentence
    assert [a[2] for a in hub.asked] == [("*.json",)], "weights were asked for"


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("xet\nbroke"), KeyError()])
def test_a_download_that_fails_is_one_sentence(error, monkeypatch):
    Hub(monkeypatch, error)
    sentence = refused("mamba", "small")
    assert type(error).__name__ in sentence
    assert "connect to the network, or use scale='tiny', which needs none" in sentence


def test_weights_of_the_older_format_are_read_as_tensors_alone(tmp_path, monkeypatch):
    """Of the one source that has no others: nothing in that file can run."""
    folder = hub.write(tmp_path / "rwkv", "rwkv", pickled=True)
    asked, file = Hub(monkeypatch, folder).asked, folder / "pytorch_model.bin"
    found = load("rwkv", "small").hf.state_dict()
    assert all(torch.equal(found[name], part) for name, part in torch.load(file).items())
    assert set(asked[1][2]) == {"*.json", "*.bin", "*.txt"}
    os.truncate(file, file.stat().st_size // 2)
    assert "expected a model and its tokenizer" in refused("rwkv", "small")
    torch.save({"head.weight": RunsCode(str(tmp_path / "ran"))}, file)
    assert "expected a model and its tokenizer" in refused("rwkv", "small")
    assert not (tmp_path / "ran").exists()


class RunsCode:
    """Makes a folder when it is unpickled by whoever believes all that a pickle says."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_repository_without_safetensors_is_refused(copy, folder, monkeypatch):
    (copy / "model.safetensors").unlink()
    Hub(monkeypatch, copy)
    assert "expected weights in the safetensors format" in refused(folder.name, "small")


@pytest.mark.parametrize("name", models.PAIR)
def test_no_network_is_one_sentence_at_once(name, tmp_path, monkeypatch):
    """The real huggingface_hub, behind the blocked sockets of this process."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for offline in (False, True):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        sentence = refused(name, "small")
        assert models.SCALES["small"][name].repository in sentence
        assert "scale='tiny'" in sentence


@pytest.fixture
def loopback(folder, tmp_path, monkeypatch):
    """A model hub with one repository; behind a captive portal, everything is its login page."""
    source = models.SCALES["small"][folder.name]
    with hub.serving({source.repository: folder}) as server:
        server.source = source
        hub.point_to(server.endpoint, tmp_path / "cache", monkeypatch)
        yield server


def test_a_complete_cache_asks_nobody(loopback, folder):
    expected = load(folder.name, "small").hf.state_dict()
    assert loopback.asked
    loopback.asked.clear()
    for loopback.is_portal in (False, True):
        found = load(folder.name, "small").hf.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not loopback.asked


def test_a_cache_without_a_list_of_its_files_is_used_behind_a_captive_portal(loopback, folder, tmp_path):
    """Older versions of huggingface_hub kept no list."""
    repository, revision = loopback.source[:2]
    snapshots = tmp_path / "cache" / f"models--{repository.replace('/', '--')}" / "snapshots"
    shutil.copytree(folder, snapshots / revision)
    loopback.is_portal = True
    assert load(folder.name, "small").n_layers > 0
    (snapshots / revision / "model.safetensors").unlink()
    assert "expected weights in the safetensors format" in refused(folder.name, "small")
    loopback.is_portal = False
    assert load(folder.name, "small").n_layers > 0, "the hub completes it"


def test_a_cache_that_lacks_a_file_is_completed(loopback, folder, tmp_path):
    load(folder.name, "small")
    for weights in tmp_path.glob("cache/*/snapshots/*/*.safetensors"):
        weights.unlink()
    loopback.is_portal = True
    assert loopback.source.repository in refused(folder.name, "small")
    loopback.is_portal = False
    assert load(folder.name, "small").n_layers > 0


def test_a_cached_data_set_is_used_behind_a_captive_portal(loopback, tmp_path):
    source = models.Source("somebody/sets", "0" * 40)
    snapshot = tmp_path / "cache" / "datasets--somebody--sets" / "snapshots" / source.revision
    loopback.is_portal = True
    with pytest.raises(LoadError, match="the dataset somebody/sets .* or use a local folder"):
        published.question_sets(source)
    snapshot.mkdir(parents=True)
    with pytest.raises(LoadError, match=f"expected JSON in {snapshot}"):
        published.question_sets(source)


def test_a_captive_portal_and_no_cache_is_one_sentence(loopback, folder):
    loopback.is_portal = True
    sentence = refused(folder.name, "small")
    assert loopback.source.repository in sentence
    assert "connect to the network, or use scale='tiny', which needs none" in sentence


def test_offline_mode_of_the_environment(fresh_process):
    assert "scale='tiny'" in fresh_process["sentence"]
    assert fresh_process["seconds"] < 15, "huggingface_hub retried"


# --- the rules of the package --------------------------------------------------------------------

ARCHITECTURE_NAMES = ("mamba", "gpt_neox", "gptneox", "transformer", "pythia", "rwkv")


def named_in_conditions(source: str) -> list[str]:
    """The conditions of a Python source that mention an architecture by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        conditions = [getattr(node, "test", None), *getattr(node, "ifs", [])]
        if isinstance(node, ast.Compare | ast.MatchValue | ast.MatchClass):
            conditions.append(node)
        for condition in filter(None, conditions):
            words = re.findall(r"\w+", ast.unparse(condition).lower())
            if any(name in word for name in ARCHITECTURE_NAMES for word in words):
                found.append(f"line {condition.lineno}: {ast.unparse(condition)}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        'if kind == "mamba": pass',
        'x = 1 if "Mamba" in name else 2',
        "[m for m in a if isinstance(m, MambaMixer)]",
        'while model_type.startswith("gpt_neox"): pass',
        'match kind:\n case "rwkv": pass',
        "ok = config.is_transformer == 1",
    ],
)
def test_the_rule_catches_what_it_should(source):
    assert named_in_conditions(source)


@pytest.mark.parametrize("path", NAMELESS, ids=lambda path: path.name)
def test_no_technique_knows_an_architecture_by_name(path):
    found = named_in_conditions(path.read_text(encoding="utf-8"))
    assert not found, (
        f"expected no architecture's name in a condition of {path.name}, found {found}: put what "
        "differs into tft_utils/architectures"
    )


def texts_of_no_encoding(source: str) -> list[str]:
    """Where a Python source opens, reads or writes text in whatever encoding the machine prefers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name, *owner = ast.unparse(node.func).split(".")[::-1]
        arguments = ast.unparse(node.args + [k.value for k in node.keywords])
        binary = re.search(r"'[rwax+]*b[rwax+]*'", arguments) or owner[:1] == ["Image"]
        if name in ("read_text", "write_text") or name == "open" and not binary:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    ("source", "is_named"),
    [
        ("Path(a).read_text()", True),
        ("beside.write_text(text)", True),
        ("open(path)", True),
        ("path.open('w')", True),
        ("open(path, mode='a')", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("path.open(mode='xb')", False),
        ("PIL.Image.open(path)", False),
    ],
)
def test_the_rule_on_encodings_catches_what_it_should(source, is_named):
    assert bool(texts_of_no_encoding(source)) == is_named


@pytest.mark.parametrize("room", ["tft_utils", "tests"])
def test_every_text_is_read_and_written_in_a_named_encoding(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        found = texts_of_no_encoding(path.read_text(encoding="utf-8"))
        assert not found, f'{path.name}: {found}: add encoding="utf-8"'


def test_cuda_packages_are_not_imported_with_the_package(fresh_process):
    assert fresh_process["imported"] == []
    assert fresh_process["poison"] == ["mamba_ssm"], "the poison itself must work"


@pytest.mark.parametrize("name", models.SCALES["tiny"])
def test_an_untrained_twin_starts_where_training_does(name):
    model = models.load(name)
    twin = models.untrained(model, seed=3)
    weights = twin.hf.state_dict()
    assert weights.keys() == model.hf.state_dict().keys()
    for key, value in training.build(name, 3).state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=0)
    assert twin.tokenizer is model.tokenizer
    assert not twin.hf.training
