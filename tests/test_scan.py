"""The selective scan against a float64 reference, transformers, its cache and nnsight."""

import contextlib
import gc
import json
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from nnsight import NNsight
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba

from tft_utils import models
from tft_utils.architectures import mamba_scan as scan
from tft_utils.architectures.mamba_scan import (
    TAPS,
    install,
    selective_scan,
    selective_scan_loop,
    tap,
    use_cuda_kernels,
)

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SHAPES = [(2, 6, 1, 16), (1, 5, 2, 3), (2, 19, 37, 5), (1, 300, 128, 16)]  # 300 > BLOCK


@pytest.fixture(autouse=True)
def nothing_installed():
    """Models that earlier tests loaded keep their scan installed; here it starts from nothing."""
    scan._remove(list(scan._shared().hooks))


@pytest.fixture(params=["numba", "plain", "loop"])
def path(request, monkeypatch):
    """Each implementation in turn."""
    if request.param == "loop":
        return selective_scan_loop
    if request.param == "plain":
        monkeypatch.setattr(scan, "kernels", None)
    elif scan.kernels is None:
        pytest.skip("skipped: no numba")
    return selective_scan


def reference(u, delta, A, B, C, D, z, delta_bias, initial_state):
    """One step, one sequence position at a time, straight from the equations; returns y, h_T."""
    h, outputs = initial_state, []
    for t in range(u.shape[2]):
        d = F.softplus(delta[:, :, t] + delta_bias)
        h = torch.einsum("ben,ben->ben", torch.exp(torch.einsum("be,en->ben", d, A)), h)
        h = h + torch.einsum("be,bn,be->ben", d, B[:, :, t], u[:, :, t])
        y = torch.einsum("ben,bn->be", h, C[:, :, t]) + D * u[:, :, t]
        outputs.append(y * z[:, :, t] * torch.sigmoid(z[:, :, t]))
    return torch.stack(outputs, -1), h


def random_inputs(batch, d_inner, pos, d_state, shift=0.0, seed=0):
    """Float64 inputs by name; shift moves the raw step sizes towards 0 or towards large."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g).double()

    sequence, state = (batch, d_inner, pos), (batch, d_state, pos)
    values = (
        normal(*sequence),
        normal(*sequence) + shift,
        -torch.exp(normal(d_inner, d_state)),
        normal(*state),
        normal(*state),
        normal(d_inner),
        normal(*sequence),
        normal(d_inner),
        normal(batch, d_inner, d_state),
    )
    return dict(zip(NAMES, values, strict=True))


def results_and_gradients(function, inputs, dtype):
    """y, last state and the gradient of every input, from random gradients on both outputs."""
    leaves = {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}
    y, last = function(**leaves)
    g = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(dtype) for x in (y, last)]
    gradients = torch.autograd.grad([y, last], list(leaves.values()), grads)
    named = {f"d {name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {"y": y.detach(), "last state": last.detach()} | named


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        error = (found[name].double() - expected[name]).norm()
        assert error <= tolerance * expected[name].norm() + 1e-300, name


def whole(path):
    return lambda **inputs: path(**inputs, delta_softplus=True, return_last_state=True)


def small_model(seed=0, **options):
    """An eval-mode Mamba whose states matter: larger weights than the default."""
    torch.manual_seed(seed)
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, **options)
    model = MambaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.x_proj.weight.mul_(8)
            layer.mixer.dt_proj.bias.add_(2)
    return model


@contextlib.contextmanager
def installed(model, fast=True):
    handle = install(model, fast)
    try:
        yield model
    finally:
        handle.remove()


def tokens(batch=2, pos=12):
    return torch.randint(0, 50, (batch, pos), generator=torch.Generator().manual_seed(0))


# ---- the pure functions -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(path, shape, dtype):
    inputs = random_inputs(*shape)
    expected = results_and_gradients(reference, inputs, torch.float64)
    found = results_and_gradients(whole(path), inputs, dtype)
    assert found["y"].dtype == dtype
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("shift", [-18.0, 40.0])  # Delta about 1e-8 and 40: a_t near 1 and 0
def test_extreme_step_sizes(path, shift):
    inputs = {name: x.float().double() for name, x in random_inputs(2, 7, 33, 4, shift).items()}
    expected = results_and_gradients(reference, inputs, torch.float64)
    for dtype, tolerance in TOLERANCE.items():
        assert_close(results_and_gradients(whole(path), inputs, dtype), expected, tolerance)


def test_decay_that_underflows_stays_finite(path):
    inputs = random_inputs(1, 3, 20, 2) | {"A": torch.full((3, 2), -1e6, dtype=torch.float64)}
    for x in results_and_gradients(whole(path), inputs, torch.float32).values():
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 5e-16)])
def test_decay_is_exp_to_rounding(path, dtype, tolerance):
    """No input, h_0 = C = 1 and A = -1: what is left of the scan is y = exp(-Delta)."""
    delta = torch.linspace(0, 80, 5001, dtype=dtype)[None, :, None]
    ones = torch.ones(1, 5001, 1, dtype=dtype)
    C = torch.ones(1, 1, 1, dtype=dtype)
    y = path(0 * ones, delta, -ones[0], C, C, initial_state=ones)
    expected = torch.exp(-delta.double())
    assert ((y.double() - expected) / expected).abs().max() < tolerance


def test_nan_is_not_hidden(path):
    inputs = random_inputs(1, 3, 5, 2)
    inputs["delta"][0, 1, 2] = float("nan")
    y = path(**inputs)
    assert y[0, 1, 2:].isnan().all()
    assert y[0, 1, :2].isfinite().all()


def test_optional_arguments_default_to_absent(path):
    inputs = random_inputs(2, 3, 9, 4)
    inputs["delta"] = F.softplus(inputs["delta"])
    y = path(*(inputs[name] for name in ("u", "delta", "A", "B", "C")))
    neutral = inputs | {
        "delta": inputs["delta"].expm1().log(),
        "D": torch.zeros(3),
        "delta_bias": torch.zeros(3),
        "z": torch.full((2, 3, 9), 50.0),
        "initial_state": torch.zeros(2, 3, 4),
    }
    torch.testing.assert_close(y, reference(**neutral)[0] / 50, rtol=1e-10, atol=1e-12)


def test_gradcheck(path):
    leaves = [x.requires_grad_() for x in random_inputs(2, 3, 18, 2).values()]  # 18 > CHUNK
    function = lambda *x: whole(path)(**dict(zip(NAMES, x, strict=True)))  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves)


def test_gradgradcheck(path):
    leaves = [x.requires_grad_() for x in random_inputs(1, 2, 18, 2).values()]  # 18 > CHUNK
    function = lambda *x: whole(path)(**dict(zip(NAMES, x, strict=True)))  # noqa: E731
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("wanted", NAMES)
def test_second_derivative_of_one_input_alone(path, wanted):
    """Also where the step size is made from u, and where an output has no gradient to give."""
    inputs = random_inputs(2, 3, 18, 2)
    leaf = inputs[wanted].requires_grad_()
    found = []
    for function in (whole(path), reference):
        y, last = function(**inputs | {"delta": inputs["delta"] + inputs["u"].square()})
        (first,) = torch.autograd.grad(y.square().sum() + last.sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        found.append({"first": first.detach(), "second": second})
    assert found[1]["second"].norm() > 0
    assert_close(*found, 1e-10)


def test_gradient_through_last_state_alone(path):
    inputs = random_inputs(2, 3, 18, 2)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    names = ("u", "delta", "A", "B", "initial_state")
    wanted = [leaves[name] for name in names]
    found = torch.autograd.grad(whole(path)(**leaves)[1].square().sum(), wanted)
    expected = torch.autograd.grad(reference(**leaves)[1].square().sum(), wanted)
    assert_close(*(dict(zip(names, x, strict=True)) for x in (found, expected)), 1e-10)


def test_every_split_equals_the_whole(path):
    inputs = random_inputs(2, 5, 20, 3)
    y, last = whole(path)(**inputs)
    along = [name for name in NAMES if inputs[name].dim() == 3 and name != "initial_state"]
    for cut in range(1, 20):
        first = inputs | {name: inputs[name][..., :cut] for name in along}
        y_1, middle = whole(path)(**first)
        second = inputs | {name: inputs[name][..., cut:] for name in along}
        y_2, end = whole(path)(**second | {"initial_state": middle})
        torch.testing.assert_close(torch.cat([y_1, y_2], -1), y, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-12)


def test_agrees_with_transformers(path):
    inputs = random_inputs(2, 8, 40, 16)
    inputs = {name: x.float() for name, x in inputs.items() if name != "initial_state"}
    theirs = modeling_mamba.mamba_selective_scan.__wrapped__
    arguments = [inputs[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    expected = theirs(*arguments, delta_softplus=True, return_last_state=True)
    found = path(*arguments, delta_softplus=True, return_last_state=True)
    for ours, their in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-5, atol=1e-5)


def test_bfloat16_inputs_keep_a_float32_state(path):
    exact = {name: x.bfloat16() for name, x in random_inputs(2, 5, 40, 4).items()}
    rounded = {name: x.double() for name, x in exact.items()}
    kept = {name: exact[name].float() for name in ("A", "D", "delta_bias")}  # as transformers does
    y, last = whole(path)(**exact | kept)
    expected, expected_last = reference(**rounded)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert (y.double() - expected).norm() < 1e-2 * expected.norm()
    assert (last.double() - expected_last).norm() < 1e-5 * expected_last.norm()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(scan.kernels is None, reason="skipped: no numba")
@pytest.mark.parametrize("openmp", [True, False])
def test_result_does_not_depend_on_threads(openmp, two_threads, monkeypatch):
    if not openmp:
        monkeypatch.setattr(scan.kernels, "_openmp", None)
    inputs = random_inputs(3, 300, 20, 4)
    found = [results_and_gradients(whole(selective_scan), inputs, torch.float32)]
    torch.set_num_threads(1)
    found.append(results_and_gradients(whole(selective_scan), inputs, torch.float32))
    for name in ("y", "last state", "d u", "d A", "d initial_state"):
        assert torch.equal(found[0][name], found[1][name]), name


@pytest.mark.skipif(scan.kernels is None, reason="skipped: no numba")
@pytest.mark.parametrize("openmp", [True, False])
def test_threads_share_a_kernel_and_report_its_failure(openmp, two_threads, monkeypatch):
    if not openmp:
        monkeypatch.setattr(scan.kernels, "_openmp", None)
    shares = []
    scan.kernels._run(lambda *share: shares.append(share))
    assert sorted(shares) == [(0, 2), (1, 2)]
    with pytest.raises(ZeroDivisionError):
        scan.kernels._run(lambda first, stride: 1 // (1 - first))


@pytest.mark.parametrize("function", [selective_scan, selective_scan_loop])
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("delta", (2, 5, 8), r"expected delta of shape \[2, 5, 7\].*found \[2, 5, 8\]"),
        ("A", (4, 3), r"expected A of shape \[5, 3\]"),
        ("B", (2, 7, 3), r"expected B of shape \[2, 3, 7\].*found \[2, 7, 3\]"),
        ("C", (1, 3, 7), r"expected C of shape"),
        ("D", (1,), r"expected D of shape \[5\]"),
        ("z", (2, 7, 5), r"expected z of shape"),
        ("delta_bias", (5, 1), r"expected delta_bias of shape"),
        ("initial_state", (2, 3, 5), r"expected initial_state of shape \[2, 5, 3\]"),
        ("u", (5, 7), r"expected u \[batch d_inner pos\]"),
        ("u", (2, 5, 0), r"pos >= 1"),
    ],
)
def test_wrong_shapes_are_named(function, name, shape, message):
    inputs = random_inputs(2, 5, 7, 3) | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=message):
        function(**inputs)


# ---- inside transformers ------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(1,), (5,), (11,), (3, 4), (1, 1)])
@pytest.mark.parametrize("fast", [True, False])
def test_cached_continuation_by_any_number_of_tokens(fast, cuts):
    ids = tokens()
    pieces = ids.split([*cuts, 12 - sum(cuts)], 1)
    with installed(small_model(), fast) as model, torch.no_grad():
        expected = model(ids).logits
        past, found = None, []
        for piece in pieces:
            output = model(piece, cache_params=past, use_cache=True)
            past = output.cache_params
            found.append(output.logits)
    assert expected.std() > 0.05
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-5, atol=1e-5)


def test_transformers_alone_still_restarts_from_zero():
    """The trap this module fixes: when it is gone upstream, the hook in `install` can go too."""
    model, ids = small_model(), tokens()
    with torch.no_grad():
        past = model(ids[:, :6], use_cache=True).cache_params
        found = model(ids[:, 6:], cache_params=past, use_cache=True).logits
        assert (found - model(ids).logits[:, 6:]).abs().max() > 1e-3


def test_state_does_not_leak_between_calls():
    ids = tokens()
    with installed(small_model()) as model, torch.no_grad():
        expected = model(ids, use_cache=False).logits
        past = model(ids, use_cache=True).cache_params
        model(ids, cache_params=past, use_cache=True)
        assert torch.equal(model(ids, use_cache=False).logits, expected)
        with pytest.raises(RuntimeError):  # a forward that fails half way
            model.backbone.layers[0].mixer(torch.zeros(2, 3, 7), cache_params=past)
        assert not vars(scan._shared().running)


def test_backward_through_a_continued_cache():
    """The mixer overwrites its cache after the scan read it; the gradient must not notice."""
    ids, gradients = tokens(), []
    for fast in (True, False):
        with installed(small_model(), fast) as model:
            with torch.no_grad():
                past = model(ids[:, :6], use_cache=True).cache_params
            logits = model(ids[:, 6:], cache_params=past, use_cache=True).logits
            logits.log_softmax(-1)[..., 0].sum().backward()
            gradients.append({name: p.grad.double() for name, p in model.named_parameters()})
    assert_close(*gradients, 1e-5)


def hvp_by_grad(f, x, v):
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad(first, x, v)[0]


def hvp_by_backward(f, x, v):
    f(x).backward(create_graph=True)
    first, x.grad = x.grad, None
    first.backward(v)
    return x.grad


def hvp_by_differences(f, x, v, step=1e-3):
    ahead, behind = (torch.autograd.grad(f(at), at)[0] for at in (x + step * v, x - step * v))
    return (ahead - behind) / (2 * step)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_second_derivative_through_the_bundled_mamba(path):
    """Every route gives what finite differences and plain transformers give."""
    folder = models.files.ORGANISMS / "mamba-0"
    ours = models.load(folder, dtype=torch.float64, readable=path is selective_scan_loop).hf
    plain = MambaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for block in plain.backbone.layers:
        block.residual_in_fp32 = False  # as `load` does: it would round to float32
    embeddings = ours.get_input_embeddings()(torch.tensor([[5, 6, 7, 8]])).detach()
    f, theirs = (
        lambda e, hf=hf: hf(inputs_embeds=e).logits.log_softmax(-1)[0, -1, 3] for hf in (ours, plain)
    )
    x, v = embeddings.requires_grad_(), torch.ones_like(embeddings)
    expected = torch.autograd.functional.hvp(theirs, x, v)[1]
    found = {
        "hvp": torch.autograd.functional.hvp(f, x, v)[1],
        "grad twice": hvp_by_grad(f, x, v),
        "backward": hvp_by_backward(f, x, v),
        "differences": hvp_by_differences(f, x, v),
    }
    assert expected.norm() > 10  # a curvature worth comparing
    assert_close(found, dict.fromkeys(found, expected), 1e-3)
    assert_close({"hvp": found["hvp"]}, {"hvp": expected}, 1e-6)  # theirs computes in float32


def test_install_and_remove_restore_everything():
    before = {name: getattr(modeling_mamba, name) for name in scan.KERNELS}
    model, other, ids = small_model(), small_model(1), tokens()
    with torch.no_grad():
        expected = model(ids).logits
    first, second = install(model), install(other, fast=False)
    assert modeling_mamba.causal_conv1d_fn is scan._dispatch_convolution
    first.remove()
    first.remove()  # twice is harmless
    assert modeling_mamba.mamba_selective_scan is scan._dispatch  # `other` still needs it
    second.remove()
    assert {name: getattr(modeling_mamba, name) for name in scan.KERNELS} == before
    for m in (model, other):
        for layer in m.backbone.layers:
            assert not layer.mixer._forward_pre_hooks
            assert not layer.mixer._forward_hooks
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)


def test_a_second_install_replaces_the_first():
    model, originals = small_model(), scan._shared().originals
    first, second = install(model), install(model, fast=False)
    wrapped = NNsight(model)
    with wrapped.trace(tokens()):
        state = tap(wrapped.backbone.layers[0].mixer, "state").output.save()
    assert state.shape == (2, 32, 4), "the loop, whose states can be read, came second"
    assert [len(layer.mixer._forward_hooks) for layer in model.backbone.layers] == [1, 1]
    second.remove()
    first.remove()
    assert {name: getattr(modeling_mamba, name) for name in scan.KERNELS} == originals


def test_nothing_grows_with_loads():
    def load_and_run():
        model = small_model()
        install(model)
        model(tokens())
        return weakref.ref(model)

    models = [load_and_run() for _ in range(3)]
    gc.collect()
    assert [model() for model in models] == [None] * 3
    assert not scan._shared().hooks


RELOADS = {
    "reload": "importlib.reload(scan)",
    # What %autoreload does. It stops half way, at the classes that refer to each other behind every
    # autograd.Function, and reports that.
    "autoreload": "with contextlib.suppress(RecursionError): superreload(scan)",
    "import": "del sys.modules[scan.__name__]; scan = importlib.import_module(scan.__name__)",
}
AFTER_RELOADS = """
import contextlib, importlib, json, sys
sys.modules["numba"] = None  # the copied kernels would be compiled again
import torch
from IPython.extensions.autoreload import superreload
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba
from tft_utils.architectures import mamba_scan as scan

def originals():
    return [getattr(modeling_mamba, name) for name in scan.KERNELS]

def model():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    return MambaForCausalLM(config).double().eval()

@torch.no_grad()
def error(model):
    "Of logits that continue from a cache; a scan that restarts from zero is far off."
    ids = torch.arange(12)[None]
    past = model(ids[:, :6], use_cache=True).cache_params
    return (model(ids[:, 6:], cache_params=past).logits - model(ids).logits[:, 6:]).abs().max().item()

before, found, kept = originals(), {}, [model()]
without = error(kept[0])
handles = [scan.install(kept[0])]
for name, reload in json.loads(sys.argv[1]).items():
    there = scan.__dict__["_dispatch"]
    exec(reload)
    found[name] = {"reloaded": scan.__dict__["_dispatch"] is not there, "old": error(kept[-1])}
    kept.append(model())
    handles.append(scan.install(kept[-1]))
    found[name] |= {"new": error(kept[-1]), "oldest": error(kept[0])}
for handle in handles[:-1]:
    handle.remove()
found["last"] = error(kept[-1])
handles[-1].remove()
print(json.dumps(found | {"without": without, "restored": originals() == before}))
"""


def test_reloading_forgets_nothing(tmp_path):
    """Old models keep their scan, new ones get it, the last one removed restores transformers."""
    package = models.files.ROOT / "tft_utils"
    shutil.copytree(package, tmp_path / "tft_utils", ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run(
        [sys.executable, "-c", AFTER_RELOADS, json.dumps(RELOADS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found.pop("restored")
    assert found.pop("without") > 1e-6
    assert found.pop("last") < 1e-12
    for name in RELOADS:
        assert found[name].pop("reloaded"), name
        assert max(found[name].values()) < 1e-12, name


def test_each_model_keeps_its_own_scan(monkeypatch):
    used = []
    for name in ("selective_scan", "selective_scan_loop"):
        function = getattr(scan, name)
        spy = lambda *a, f=function, n=name, **k: (used.append(n), f(*a, **k))[1]  # noqa: E731
        monkeypatch.setattr(scan, name, spy)
    fast, readable, untouched = small_model(), small_model(), small_model()
    with installed(fast), installed(readable, fast=False), torch.no_grad():
        logits = [model(tokens()).logits for model in (fast, readable, untouched)]
    assert used == ["selective_scan"] * 2 + ["selective_scan_loop"] * 2
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-5, atol=1e-5)


def test_install_without_mamba_says_so():
    with pytest.raises(ValueError, match="found no MambaMixer in Linear"):
        install(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("train", [False, True])
def test_fast_and_loop_agree_in_a_model(train):
    outcome = []
    for fast in (True, False):
        with installed(small_model().train(train), fast) as model:
            logits = model(tokens()).logits
            logits.log_softmax(-1)[..., 0].sum().backward()
            gradients = {name: p.grad for name, p in model.named_parameters()}
            outcome.append({"logits": logits.detach()} | gradients)
    assert_close(*({n: x.double() for n, x in found.items()} for found in outcome), 1e-5)


def test_left_padding_changes_nothing():
    ids = tokens(1, 7)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 5 + [1] * 7])
    both = torch.cat([padded, tokens(1, 12)])
    mask = torch.cat([mask, torch.ones(1, 12, dtype=torch.long)])
    with installed(small_model()) as model, torch.no_grad():
        expected = model(ids).logits[0]
        found = model(both, attention_mask=mask).logits[0, 5:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---- nnsight ------------------------------------------------------------------------------------


@pytest.fixture
def readable():
    with installed(small_model(), fast=False) as model:
        yield NNsight(model)


def test_taps_read_what_they_name(readable):
    ids, found, mixer = tokens(), {}, readable.backbone.layers[1].mixer
    for name in TAPS:
        with readable.trace(ids):
            value = tap(mixer, name).output.save()
        found[name] = value.detach()
    with readable.trace(ids) as tracer:
        state = tap(mixer, "state")
        states = list().save()  # noqa: C408 (nnsight gives `list()` a save)
        for _ in tracer.iter[:12]:
            states.append(state.output)
    with readable.trace(ids):
        out_proj_input = mixer.out_proj.input.save()
    A, h = -torch.exp(mixer.A_log.detach()), torch.stack([h.detach() for h in states], 2)
    close = torch.testing.assert_close
    close(found["discrete_A"], torch.exp(found["delta"][..., None] * A[:, None]))
    close(h[:, :, 0], found["deltaB_u"][:, :, 0])
    close(h[:, :, 1:], found["discrete_A"][:, :, 1:] * h[:, :, :-1] + found["deltaB_u"][:, :, 1:])
    close(found["state"], h[:, :, 0])  # outside tracer.iter: the first step
    close(found["y"], torch.einsum("betn,btn->bet", h, found["read"]), rtol=1e-5, atol=1e-5)
    close(found["y_t"], found["y"][:, :, 0])
    close(found["gated"], (found["y"] + found["skip"]) * found["gate"])
    close(found["gated"].transpose(1, 2), out_proj_input.detach())
    u = found["skip"] / mixer.D.detach()[:, None]
    close(found["silu"], u)
    close(found["deltaB_u"], found["discrete_B"] * u[..., None], rtol=1e-4, atol=1e-6)


def test_editing_one_state_reaches_later_positions_only(readable):
    ids, t, mixer = tokens(), 5, readable.backbone.layers[0].mixer
    with readable.trace(ids):
        before = readable.output.logits.save()
    with readable.trace(ids) as tracer:
        state = tap(mixer, "state")
        for _ in tracer.iter[t]:
            state.output = torch.zeros_like(state.output)
        after = readable.output.logits.save()
    change = (after - before).abs().amax((0, 2))
    assert (change[:t] == 0).all()
    assert (change[t:] > 1e-4).all()


def test_gradient_of_a_state_inside_a_trace(readable):
    ids, mixer = tokens(), readable.backbone.layers[0].mixer
    with readable.trace(ids) as tracer:
        state = tap(mixer, "state")
        for _ in tracer.iter[5]:
            h = state.output
        logits = readable.output.logits
        with logits[:, 5:].sum().backward():
            gradient = h.grad.save()
    assert gradient.shape == (2, 32, 4)
    assert gradient.norm() > 0


def test_fast_scan_inside_a_trace_on_two_threads():
    before = torch.get_num_threads()
    with installed(small_model()) as model:
        expected = model(tokens()).logits
        wrapped = NNsight(model)
        try:
            torch.set_num_threads(2)
            with wrapped.trace(tokens()):
                y = wrapped.backbone.layers[0].mixer.source.mamba_selective_scan_0.output[0]
                logits = wrapped.output.logits.save()
                with logits.sum().backward():
                    gradient = y.grad.save()
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert gradient.norm() > 0


def test_scan_from_several_threads_at_once():
    """Each thread gets what it would get alone, also while the others share the pool."""
    cases = [random_inputs(2, 300, 40, 4, seed=seed) for seed in range(4)]
    expected = [results_and_gradients(whole(selective_scan), x, torch.float32) for x in cases]
    with ThreadPoolExecutor(4) as pool:
        work = lambda x: results_and_gradients(whole(selective_scan), x, torch.float32)  # noqa: E731
        found = list(pool.map(work, cases * 3))
    for one, other in zip(found, expected * 3, strict=True):
        for name in ("y", "last state", "d u", "d A", "d initial_state"):
            assert torch.equal(one[name], other[name]), name


# ---- CUDA ---------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="skipped: no CUDA")


def test_cuda_kernels_refuse_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with (
        pytest.raises(RuntimeError, match="expected a CUDA device.*found no CUDA device"),
        use_cuda_kernels(),
    ):
        pass


@cuda
def test_values_and_gradients_on_cuda():
    inputs = random_inputs(2, 19, 37, 5)
    expected = results_and_gradients(reference, inputs, torch.float64)
    on_gpu = {name: x.cuda() for name, x in inputs.items()}
    found = results_and_gradients(whole(selective_scan), on_gpu, torch.float32)
    assert_close({name: x.cpu() for name, x in found.items()}, expected, 1e-5)


@cuda
def test_agrees_with_the_mamba_ssm_kernels():
    pytest.importorskip("mamba_ssm", reason="skipped: no mamba_ssm")
    pytest.importorskip("causal_conv1d", reason="skipped: no causal_conv1d")
    with installed(small_model().cuda()) as model, torch.no_grad():
        ids = tokens().cuda()
        plain = model(ids, use_cache=False).logits
        with use_cuda_kernels():
            assert modeling_mamba.mamba_selective_scan is not scan._dispatch
            fused = model(ids, use_cache=False).logits
        assert modeling_mamba.mamba_selective_scan is scan._dispatch
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("words", [1, 2])
def test_few_words_in_bfloat16(words):
    """A half of one word keeps the stride of both halves when it is cast, and less memory."""
    model, ids = models.load("mamba", dtype=torch.bfloat16), torch.tensor([[5, 6][:words]])
    logits = model.hf(ids, use_cache=True).logits
    assert (logits - models.load("mamba").hf(ids).logits).abs().max() < 0.5
