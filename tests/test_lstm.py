"""The LSTM is PyTorch's in blocks; frozen it is linear, and what it refuses is what the reason says."""

import pytest
import torch
from toys import toy

from tft_utils.architectures import Unsupported
from tft_utils.organisms import quirky, training
from tft_utils.techniques import attention


@pytest.fixture
def model():
    return toy("lstm")


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 700, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_model_is_pytorchs_lstm_in_pre_norm_blocks(model, ids):
    x = model.embed(ids)
    for block in model.hf.lstm.blocks:
        theirs, m = torch.nn.LSTM(32, 32, batch_first=True).double(), block.mixer
        weights = [m.in_proj.weight, m.recurrent.weight, m.in_proj.bias, torch.zeros_like(m.in_proj.bias)]
        for parameter, weight in zip(theirs.parameters(), weights, strict=True):
            parameter.copy_(weight)
        scale = x.square().mean(-1, keepdim=True).add(block.norm.eps).rsqrt()
        x = x + theirs(x * scale * block.norm.weight)[0] @ m.out_proj.weight.T
    torch.testing.assert_close(model.hf(ids).logits, model.to_logits(x))


@torch.no_grad()
def test_it_generates_alike_with_and_without_its_state(model, ids):
    words = [
        model.hf.generate(input_ids=ids, max_new_tokens=5, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*words)
    assert words[0].shape == (2, 14)


@torch.no_grad()
def test_frozen_it_is_linear_but_a_word_has_no_one_weight_for_another(model, ids):
    points = {}

    def record(name, value, t=None):
        points[name] = value
        return value

    model.block(0, model.embed(ids), record)
    mixing, drive = points["mixing"], points["drive"]
    torch.testing.assert_close(mixing(drive), points["read-out"])
    other = torch.randn_like(drive)
    torch.testing.assert_close(mixing(2 * drive - other), 2 * mixing(drive) - mixing(other))
    one = torch.zeros_like(drive)
    one[:, 0, 64] = 1  # the candidate of one channel at the first word
    reached = mixing(one)[:, 2].abs() > 1e-9
    assert reached.sum(1).min() > 16, "the channel's value goes to many channels"
    for asked in (lambda: model.mixing(0, model.embed(ids)), lambda: list(attention.mixings(model, ids))):
        with pytest.raises(Unsupported, match="lstm has no hidden attention: even frozen"):
            asked()


def test_an_adapter_is_called_and_merges(ids):
    adapted = quirky.add_adapter(toy("lstm", dtype=torch.float32).hf)
    lora = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    for parameter in lora.values():
        torch.nn.init.normal_(parameter, std=0.1)
    before = adapted(input_ids=ids).logits
    before.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in lora.values())
    torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, before, rtol=1e-5, atol=1e-5)


def test_forget_gates_start_open():
    mixer = training.build("lstm", 0).lstm.blocks[0].mixer
    inside, forget, *rest = mixer.in_proj.bias.chunk(4)
    assert (forget == 1).all()
    assert not torch.stack([inside, *rest]).any()
