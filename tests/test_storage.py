"""Weights in two bytes, arithmetic in float32: what comes out is what the rounded weights say."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import toy

from tft_utils import models, storage
from tft_utils.architectures import ARCHITECTURES
from tft_utils.files import LoadError
from tft_utils.organisms import quirky

NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
TEXT = "The capital of Zabar is"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    """A model of random weights, on disk."""
    path, made = tmp_path_factory.mktemp(request.param), toy(request.param, dtype=torch.float32)
    made.hf.save_pretrained(path)
    made.tokenizer.save_pretrained(path)
    return path


def rounded(folder, dtype) -> models.Model:
    """The same in float32, after the matrices of its blocks were rounded by hand."""
    model = models.load(folder)
    blocks = model.hf.get_submodule(model.architecture.WHERE["blocks"])
    for module in blocks.modules():
        if type(module) is torch.nn.Linear:
            module.weight.data = module.weight.data.to(dtype).float()
    return model


def run(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Every residual stream, and the logits."""
    with torch.no_grad(), model.trace(TEXT):
        streams = [model.residual(k) for k in range(model.n_layers + 1)]
        streams = torch.stack(streams).save()
        logits = model.logits.save()
    return streams, logits


@NARROW
def test_it_is_the_model_of_the_rounded_weights(folder, dtype):
    exact, model = rounded(folder, dtype), models.load(folder, storage_dtype=dtype)
    for found, expected in zip(run(model), run(exact), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.equal(run(model)[1], run(models.load(folder))[1]), "something was rounded"
    ids = torch.tensor([[5, 6, 7, 8]])
    for layer in range(model.n_layers):
        x = exact.embed(ids)
        torch.testing.assert_close(model.block(layer, x), exact.block(layer, x), **CLOSE)


def test_the_way_back_goes_through_the_same_weights(folder):
    ids, found = torch.tensor([[5, 6, 7, 8, 9, 10]]), []
    for model in (rounded(folder, torch.bfloat16), models.load(folder, storage_dtype=torch.bfloat16)):
        x = start = model.embed(ids).detach().requires_grad_()
        for layer in range(model.n_layers):
            x = model.block(layer, x)
        (gradient,) = torch.autograd.grad(model.to_logits(x)[0, -1, 7], start)
        found.append(gradient)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5 * found[0].abs().max().item())


def test_the_matrices_of_the_blocks_take_half_and_all_else_is_exact(folder):
    exact, model = models.load(folder), models.load(folder, storage_dtype=torch.bfloat16)
    there, narrow = dict(exact.hf.named_parameters()), storage.matrices(model.hf)
    for name, parameter in model.hf.named_parameters():
        assert parameter.dtype == torch.float32
        kept = getattr(parameter, "kept", None)
        assert (kept is None) == (name.removesuffix(".weight") not in narrow)
        expected = there[name] if kept is None else there[name].bfloat16().float()
        assert torch.equal(parameter, expected), name
    halved = sum(2 * part.weight.numel() for part in storage.matrices(exact.hf).values())
    assert halved
    assert storage.size(exact.hf) - storage.size(model.hf) == halved


@pytest.mark.parametrize("left", ["both", "unembedding"])
def test_tied_embeddings_stay_tied_and_exact(tmp_path, left):
    """Some files hold a tied matrix twice, or by its second name."""
    made = toy("mamba", dtype=torch.float32, tie_word_embeddings=True)
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["backbone.embeddings.weight"].clone()
    if left == "unembedding":
        del weights["backbone.embeddings.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    model = models.load(tmp_path, storage_dtype=torch.bfloat16)
    read, written = model.module("embedding").weight, model.module("unembedding").weight
    assert read is written
    assert torch.equal(read, made.module("embedding").weight)


@pytest.fixture
def one(tmp_path):
    made = toy("gpt_neox", dtype=torch.float32)
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_nothing_wide_is_kept_for_the_way_back(one):
    model, kept = models.load(one, storage_dtype=torch.bfloat16), []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append((x.dtype, x.shape, x.kept))
        return x

    linear = model.module("output", 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        linear(torch.randn(3, linear.in_features, requires_grad=True))
    assert [(dtype, size) for dtype, size, _ in kept] == [(torch.float32, linear.weight.T.shape)]
    assert kept[0][2].dtype == torch.bfloat16


def test_an_untrained_twin_is_stored_alike(one):
    twin, exact = (
        models.untrained(models.load(one, storage_dtype=stored)) for stored in (torch.bfloat16, None)
    )
    assert storage.stored_in(twin.hf) == torch.bfloat16
    assert twin.module("output", 0).weight.dtype == torch.float32
    assert torch.equal(twin.module("embedding").weight, exact.module("embedding").weight)
    assert storage.stored_in(exact.hf) is None


WRITES = {
    "zero": lambda w: w.zero_(),
    "copy": lambda w: w.copy_(w + 1),
    "data": lambda w: w.data.add_(1),
    "row": lambda w: w.__setitem__(0, 2.0),
    "turned": lambda w: w.T[1:3].mul_(0.5),
    "out": lambda w: torch.mul(w, 3, out=w),
    "many": lambda w: torch._foreach_add_([w[:2], w[3:]], 1),
    "parts": lambda w: w.chunk(2)[1].sub_(w.split(4)[0][:3]),
    "itself": lambda w: w.add_(w),
    "diagonal": lambda w: w.diagonal().add_(w[0] + 0),
    "row of its own": lambda w: w[1:].mul_(w[0]),
    "assigned": lambda w: setattr(w, "data", w.data * 2 + 1),
    "masked": lambda w: w.masked_fill_(w > 0, 3.0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_stays_and_is_rounded(write):
    linear = torch.nn.Linear(5, 7)
    wide, kept = linear.weight.detach().bfloat16().float(), linear.weight.detach().bfloat16()
    linear.weight = torch.nn.Parameter(storage.Narrow(kept), requires_grad=False)
    with torch.no_grad():
        write(wide)
        write(linear.weight)
    wide = wide.bfloat16().float()
    assert torch.equal(linear.weight, wide)
    x = torch.randn(3, 5)
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, wide, linear.bias))


def test_a_narrow_tensor_is_read_like_any_other():
    plain = torch.randn(4, 6).bfloat16().float()
    narrow = torch.nn.Parameter(storage.Narrow(plain.bfloat16()), requires_grad=False)
    assert (narrow.dtype, narrow.shape, narrow.T.shape) == (plain.dtype, plain.shape, plain.T.shape)
    assert narrow.tolist() == plain.tolist()
    assert (narrow.numpy() == plain.numpy()).all()
    assert repr(plain) in repr(narrow.data)
    for read in (lambda w: w @ w.T, lambda w: w.sum(), lambda w: w[1, 2].item(), lambda w: w.double()):
        found = read(narrow)
        assert not isinstance(found, storage.Narrow)
        assert found == read(plain) if isinstance(found, float) else torch.equal(found, read(plain))
    for twin in (copy.deepcopy(narrow), narrow.clone(), narrow.detach().to("cpu", copy=True)):
        assert isinstance(twin, storage.Narrow)
        twin.zero_()
        assert torch.equal(narrow, plain)
    whole = torch.nn.Linear(6, 4)
    whole.weight = narrow
    moved = copy.deepcopy(whole).to("meta")
    assert (moved.weight.device.type, moved.weight.kept.dtype) == ("meta", torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: setattr(w, "data", torch.zeros(3, 4)), r"expected \[4, 4\] numbers .* found \[3, 4\]"),
        (lambda w: setattr(w, "data", w.data.double()), "found .* torch.float64; load the model without"),
        (lambda w: w.view(torch.int32), "expected a tensor that lies in float32"),
        (lambda w: w.resize_(2, 2), "expected a write that keeps the shape"),
    ],
)
def test_what_cannot_be_kept_in_two_bytes_is_refused(change, sentence):
    narrow = torch.nn.Parameter(storage.Narrow(torch.ones(4, 4).bfloat16()), requires_grad=False)
    with torch.no_grad(), pytest.raises(TypeError, match=sentence):
        change(narrow)
    assert torch.equal(narrow, torch.ones(4, 4))


@pytest.mark.parametrize("kind", ["gpt_neox", "mamba"])
def test_an_adapter_merges_into_what_is_kept(kind, tmp_path):
    made = toy(kind, dtype=torch.float32)
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    model, ids = models.load(tmp_path, storage_dtype=torch.bfloat16), torch.tensor([[5, 6, 7, 8]])
    before = model.hf(ids).logits.detach()
    adapted = quirky.add_adapter(model.hf)
    draw = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.02, generator=draw)
    with torch.no_grad():
        expected = adapted(ids).logits
        merged = adapted.merge_and_unload()
        moved, error = (
            (merged(ids).logits - before).abs().max(),
            (merged(ids).logits - expected).abs().max(),
        )
    assert storage.stored_in(merged) == torch.bfloat16
    assert error < 0.02 * moved


def test_a_weight_beyond_float16_is_refused(one):
    weights = load_file(one / "model.safetensors")
    name = next(name for name in weights if name.endswith("dense.weight"))
    weights[name][0, 0] = 70_000.0
    save_file(weights, one / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        LoadError, match="^expected weights that torch.float16 can hold.*; use torch.bfloat16$"
    ):
        models.load(one, storage_dtype=torch.float16)
    assert models.load(one, storage_dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float64),
        (torch.float16, torch.bfloat16),
        ("bfloat16", torch.float32),
    ],
    ids=str,
)
def test_another_pair_of_dtypes_is_refused(one, stored, dtype):
    with pytest.raises(LoadError, match="expected storage_dtype=torch.bfloat16 or torch.float16 beside"):
        models.load(one, storage_dtype=stored, dtype=dtype)


def test_the_models_of_paper_are_stored_in_bfloat16():
    kept = {scale: {s.stored for s in models.SCALES[scale].values()} for scale in ("small", "paper")}
    assert kept == {"small": {None}, "paper": {torch.bfloat16}}
