"""Lesson 01a: what the notebook computes by hand, against the library, closed forms and real caches."""

import math

import pytest
import torch
import torch.nn.functional as F
from toys import check_figures

from tft_utils import models
from tft_utils.architectures import mamba_scan as scan
from tft_utils.corpora import world
from tft_utils.lessons import two_machines as answers
from tft_utils.lessons import two_machines as figures

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}  # the library rounds angles and A to float32
TEXTS = [world.documents(kind, 1, seed=3)[0].text for kind in ("facts", "grammar", "persona")]


@pytest.fixture(scope="module", params=TOLERANCE, ids=["float32", "float64"])
def pair(request):
    return models.load_models(dtype=request.param)


@torch.no_grad()
def mixer_calls(model, text):
    """Every mixer with what it read [pos d_model] and its output, from hooks of plain PyTorch."""
    calls = []
    hooks = [
        model.module("mixer", layer).register_forward_hook(
            lambda module, inputs, output: calls.append((module, inputs[0][0], output))
        )
        for layer in range(model.n_layers)
    ]
    model.hf(**model.tokenizer(text, return_tensors="pt"), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert len(calls) == model.n_layers
    return calls


def assert_equal(found, expected, what):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE[expected.dtype], f"{what}: {error:.1e}"


@torch.no_grad()
def test_every_head_and_attention_layer_equals_the_library(pair):
    for text in TEXTS:
        for i, (layer, x, (output, weights)) in enumerate(mixer_calls(pair["transformer"], text)):
            by_hand, heads = answers.attention_by_hand(layer, x)
            assert_equal(by_hand, output[0], f"output of layer {i}")
            for head, (found, expected) in enumerate(zip(heads, weights[0], strict=True)):
                assert_equal(found, expected, f"weights of layer {i}, head {head}")


@torch.no_grad()
def test_every_mixer_equals_the_library(pair):
    for text in TEXTS:
        for i, (layer, x, output) in enumerate(mixer_calls(pair["mamba"], text)):
            assert_equal(answers.mixer_by_hand(layer, x), output[0], f"layer {i}")


def inputs(pos=9, d_inner=5, d_state=3):
    g = torch.Generator().manual_seed(0)
    shapes = [(pos, d_inner), (pos, d_inner), (d_inner, d_state), (pos, d_state), (pos, d_state)]
    u, delta, A, B, C = (torch.randn(*shape, generator=g).double() for shape in shapes)
    return u, delta.exp(), -A.exp(), B, C


def test_scan_by_hand_equals_the_fast_scan():
    u, delta, A, B, C = inputs()
    expected = scan.selective_scan(u.T[None], delta.T[None], A, B.T[None], C.T[None])[0].T
    torch.testing.assert_close(answers.scan(u, delta, A, B, C), expected)


def test_scan_on_paper():
    ones, A = torch.ones(3, 1), torch.tensor([[-math.log(2)]])
    u, delta = torch.tensor([[4.0], [6.0], [2.0]]), torch.tensor([[1.0], [0.0], [2.0]])
    y = answers.scan(u, delta, A, ones, ones)
    torch.testing.assert_close(y[:, 0], torch.tensor([4.0, 4.0, 5.0]))


def test_the_ladder_ends_at_the_scan():
    u, delta, A, _, _ = inputs()
    one = torch.ones(len(u), 1).double()
    expected = answers.scan(u, delta, A[:, :1], one, one)
    torch.testing.assert_close(answers.selective(u, delta, A[:, 0]), expected)
    a = torch.exp(A[:, 0])
    torch.testing.assert_close(answers.leaky(u, a), answers.selective(u, torch.ones_like(u), A[:, 0]))


def test_plain_rnn_equals_pytorch():
    rnn = torch.nn.RNN(2, 3, bias=False)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    found = answers.plain_rnn(x, rnn.weight_hh_l0, rnn.weight_ih_l0)
    torch.testing.assert_close(found, rnn(x)[0])


def test_convolve_equals_pytorch():
    conv = torch.nn.Conv1d(5, 5, 4, groups=5, padding=3)
    signal = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    found = answers.convolve(signal, conv.weight[:, 0], conv.bias)
    torch.testing.assert_close(found, conv(signal.T[None])[0, :, :9].T)


def test_rotated_queries_and_keys_know_their_distance_alone():
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double()
    scores = answers.rotate(q.expand(9, 8), 6) @ answers.rotate(k.expand(9, 8), 6).T
    for distance in range(-8, 9):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand(len(diagonal)))
    assert scores[:, 0].unique().numel() == 9


def test_attend_equals_pytorch():
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(answers.attend(q, k, v)[1], expected)


def test_crossover_is_where_the_real_caches_cross():
    transformer, mamba = models.load_models().values()

    def kept(model, n):
        with torch.no_grad():
            cache = model.hf(input_ids=torch.full((1, n), 5), use_cache=True)[1]
        parts = [model.state(cache, i).values() for i in range(model.n_layers)]
        return sum(part.numel() for layer in parts for part in layer)

    n = answers.crossover(transformer.config, mamba.config)
    assert kept(transformer, n - 1) <= kept(mamba, n - 1)
    assert kept(transformer, n) > kept(mamba, n)


def all_figures():
    yield figures.two_blocks()
    for names in ("A", "AB", "ABC"):
        yield figures.kept_numbers([1, 5, 9], {name: [1, 5, 9] for name in names}, 7)


def test_figures_are_fit_for_a_page_and_the_same_each_time():
    check_figures(all_figures)
