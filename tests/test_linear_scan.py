"""The scans of RWKV and Griffin against float64 loops, against transformers, and differentiated twice."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tft_utils.architectures import linear_scan as scan
from tft_utils.architectures import recurrent
from tft_utils.organisms import training

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
SHAPES = [(1, 1, 1), (2, 7, 5), (3, 40, 130)]


@pytest.fixture(params=["numba", "plain"])
def path(request, monkeypatch):
    """Each implementation in turn."""
    if request.param == "plain":
        monkeypatch.setattr(scan, "kernels", None)
    elif scan.kernels is None:
        pytest.skip("skipped: no numba")


def drawn(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def linear(a, x, before):
    """One word at a time, straight from the equation."""
    rows = []
    for a_t, x_t in zip(a.unbind(1), x.unbind(1), strict=True):
        before = a_t * before + x_t
        rows.append(before)
    return torch.stack(rows, 1)


def log_sums(k, w, before):
    """From the definition: the logarithm of a sum over all earlier words."""
    rows = []
    for t in range(k.shape[1]):
        terms = [before - (t + 1) * w, *(k[:, s] - (t - s) * w for s in range(t + 1))]
        rows.append(torch.stack(terms).logsumexp(0))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_of_both(path, shape, dtype):
    batch, _, width = shape
    a, x, before = drawn(shape, dtype).sigmoid(), drawn(shape, dtype, 1), drawn((batch, width), dtype, 2)
    w = drawn((width,), dtype, 3).exp()
    r = drawn(shape, torch.float64, 4)
    for ours, reference, inputs in (
        (scan.linear_scan, linear, (a, x, before)),
        (scan.log_sums, log_sums, (3 * x, w, before)),
    ):
        here = [part.clone().requires_grad_() for part in inputs]
        exact = [part.double().requires_grad_() for part in inputs]
        y, expected = ours(*here), reference(*exact)
        ours_gradients = torch.autograd.grad(y, here, r.to(dtype))
        gradients = torch.autograd.grad(expected, exact, r)
        for mine, right in zip((y, *ours_gradients), (expected, *gradients), strict=True):
            assert mine.dtype == dtype
            assert (mine.double() - right).norm() <= 3 * TOLERANCE[dtype] * right.norm()


def test_nothing_before_is_no_word(path):
    k, w = drawn((2, 6, 3), torch.float32), drawn((3,), torch.float32).exp()
    found = scan.log_sums(k, w, torch.full((2, 3), -1e38))
    assert torch.equal(found[:, 0], k[:, 0])
    expected = log_sums(k.double(), w.double(), torch.full((2, 3), -torch.inf, dtype=torch.float64))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    x = drawn((2, 6, 3), torch.float32, 1)
    assert torch.equal(scan.linear_scan(k, x), scan.linear_scan(k, x, torch.zeros(2, 3)))


def test_first_and_second_derivatives(path):
    shape = (2, 4, 3)
    a, x, before = (
        drawn(shape, torch.float64),
        drawn(shape, torch.float64, 1),
        drawn((2, 3), torch.float64),
    )
    w = drawn((3,), torch.float64, 3).exp()
    for function, inputs in ((scan.linear_scan, (a, x, before)), (scan.log_sums, (x, w, before))):
        inputs = tuple(part.clone().requires_grad_() for part in inputs)
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("bonus", [True, False])
@pytest.mark.parametrize("past", [True, False])
def test_a_recurrence_of_one_key_is_scanned_as_it_is_stepped(path, past, bonus):
    shape = (2, 3, 6, 4, 1)  # batch, variant, pos, head, key

    def part(seed):
        return drawn(shape, torch.float64, seed).sigmoid()

    def step(name, value, t=None):
        return value

    step.stepwise = True
    frozen = recurrent.Recurrence(
        part(1),
        part(2),
        part(3),
        bonus=part(4)[..., 0] if bonus else None,
        past=drawn((2, 1, 4, 1, 5), torch.float64, 5) if past else None,
    )
    v = drawn((*shape[:-1], 5), torch.float64, 6)
    stepped = recurrent.replace(frozen, put=step)(v)
    torch.testing.assert_close(frozen(v), stepped)
    one = recurrent.replace(frozen, past=None)
    torch.testing.assert_close(one(v)[0, 0], one._at((0, 0))(v[0, 0]))


@pytest.fixture(params=["rwkv", "griffin"])
def pair(request) -> tuple:
    """One organism with our scan, and the same in transformers alone; no weight is 0."""
    ours = training.build(request.param, 0).train()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    theirs = AutoModelForCausalLM.from_config(training.configuration(request.param)).train()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_gradients_are_those_of_transformers(pair, path):
    ids = torch.randint(3, 700, (2, 40), generator=torch.Generator().manual_seed(1))
    for model in pair:
        model(input_ids=ids, use_cache=False).logits.logsumexp(-1).square().mean().backward()
    compared = 0
    for (name, ours), theirs in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm(), name
        compared += bool(theirs.grad.any())
    assert compared > 40


@torch.no_grad()
def test_the_state_of_rwkv_is_that_of_transformers(path):
    ours, theirs = (
        training.build("rwkv", 0).eval(),
        AutoModelForCausalLM.from_config(training.configuration("rwkv")).eval(),
    )
    for parameter in ours.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(3, 700, (2, 12), generator=torch.Generator().manual_seed(1))
    states = [None, None]
    for part in (ids[:, :5], ids[:, 5:7], ids[:1, 7:8].expand(2, -1), ids[:, 8:]):
        runs = [
            model(part, state=state, use_cache=True)
            for model, state in zip((ours, theirs), states, strict=True)
        ]
        if part.shape[1] > 1:  # of one word transformers mixes up the rows: see `rwkv.prepare`
            torch.testing.assert_close(runs[0].logits, runs[1].logits, rtol=1e-4, atol=1e-4)
            *shifts, A, one, log_weight = runs[0].state
            *right, total, weights, exponent = runs[1].state
            right += [total / weights, torch.ones_like(one), exponent + weights.log()]
            for mine, theirs_is in zip((*shifts, A, one, log_weight), right, strict=True):
                torch.testing.assert_close(mine, theirs_is, rtol=1e-4, atol=1e-5)
        states = [runs[0].state, [s.clone() for s in runs[0].state]]
