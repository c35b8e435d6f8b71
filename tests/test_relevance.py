"""Relevance: every rule against its definition, the conservation identity, faithfulness, the causes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import toy
from transformers import AutoModelForCausalLM

from tft_utils import models, reading, stats
from tft_utils.architectures import gpt_neox, mamba
from tft_utils.architectures import mamba_scan as scan
from tft_utils.architectures.recurrent import keep
from tft_utils.corpora import lexicon
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora.questions import Case
from tft_utils.course import plots
from tft_utils.lessons import relevance_propagation as figures
from tft_utils.models import Model, load
from tft_utils.reading import Asked
from tft_utils.techniques import attention, relevance

PROMPTS = ["The capital of Zabar is", "mila and tomo went to the market . tomo gave a lamp to"]
BROKEN = 1e-2  # what leaving a rule out must cost, as a share of |f|

pytestmark = pytest.mark.usefixtures("without_gradients")


def about(model: Model, pos: int = 9, batch: int = 1) -> Asked:
    """Random ids as a question about the likeliest next token."""
    draw = torch.Generator().manual_seed(pos)
    ids = torch.randint(model.config.vocab_size, (batch, pos), generator=draw)
    answers = model.hf(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
    return Asked(ids, torch.full((batch,), pos - 1), answers)


def asked_about(model: Model, kind: str, n: int) -> tuple[Asked, list[Case]]:
    questions = world_questions.cases(kind, n)
    prompts, answers, foils, *_ = zip(*questions, strict=True)
    return reading.ask(model, prompts, answers, foils), questions


def cut(name: str, value):
    """The `put` under which every point is a constant."""
    return value.detach()


def put_of(model: Model, name: str | None = None, without: tuple = (), pos: int = 7):
    return relevance.shares(model, torch.tensor([pos - 1]), name, without)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------
# Each rule against its definition


def test_gradient_x_input_under_the_rules_is_epsilon_lrp():
    """On two linear layers with an activation: relevance shared in proportion to z_ij, by hand."""
    x, w1, w2 = noise(0, 3), noise(1, 4, 3), noise(2, 2, 4)
    act = torch.nn.GELU()
    hidden = w1 @ x
    z = w2[0] * act(hidden)  # what each hidden unit gives to the output: its relevance
    by_hand = (w1 * x / hidden[:, None] * z[:, None]).sum(0)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        f = (w2 @ gpt_neox.activate(act, w1 @ leaf, cut))[0]
        (gradient,) = torch.autograd.grad(f, leaf)
    assert torch.allclose(f, (w2 @ act(hidden))[0])
    assert torch.allclose(x * gradient, by_hand, atol=1e-9)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])
def test_a_norm_rule_is_the_norm_with_a_constant_scale(model_type):
    model = toy(model_type)
    norm = model.module("final_norm")
    norm.weight.data.uniform_(0.5, 2)
    x, given = noise(0, 2, 5, 32), noise(1, 2, 5, 32)
    centred = x - x.mean(-1, keepdim=True) if model_type == "gpt_neox" else x
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    back = given * norm.weight * scale
    expected = back - back.mean(-1, keepdim=True) if model_type == "gpt_neox" else back
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        out = model.architecture.final(model.hf, leaf, put_of(model))
        (gradient,) = torch.autograd.grad(out, leaf, given)
    assert torch.allclose(out, norm(x).double(), rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])
def test_plain_gradients_through_a_norm_sum_to_nothing(model_type):
    """A norm does not care for scale, so f has no slope along x: why gradient x input is not enough."""
    model, x = toy(model_type), noise(0, 1, 1, 32)
    bias = getattr(model.module("final_norm"), "bias", torch.zeros(1))[0].item()
    sums = {}
    for name, put in (("plain", keep), ("ruled", put_of(model))):

        def f(x: Tensor, put=put) -> Tensor:
            return model.architecture.final(model.hf, x, put)[..., 0].sum(1)

        sums[name] = relevance.gradient_x_input(f, x).item()
    assert abs(sums["plain"]) < 1e-4
    assert sums["ruled"] == pytest.approx(f(x).item() - bias, rel=1e-4)


def test_an_activation_at_zero_passes_no_relevance_and_no_nan():
    act = torch.nn.GELU()
    with torch.enable_grad():
        x = torch.tensor([0.0, 1e-30, 2.0]).requires_grad_()
        y = gpt_neox.activate(act, x, cut)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, act(x))
    assert torch.allclose(gradient, torch.tensor([0.0, 0.5, act(torch.tensor(2.0)) / 2]))


@pytest.mark.parametrize("name", gpt_neox.RULE_SETS)
def test_shares_at_the_projection_equal_rules_at_both_products(name):
    """AttnLRP halves at A v and again at q k; CP-LRP keeps A constant. And what the softmax leaks."""
    model = toy("gpt_neox")
    block = model.module("block", 0)
    rotation = model.hf.gpt_neox.rotary_emb(noise(0, 1), torch.arange(7)[None])
    later = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)
    x, given = noise(0, 1, 7, 32), noise(1, 1, 7, 32)

    def half(product: Tensor) -> Tensor:
        return product / 2 + (product / 2).detach()

    def explicit(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        qkv = block.attention.query_key_value(block.input_layernorm(x)).unflatten(-1, (4, 24))
        q, k, v = qkv.transpose(1, 2).chunk(3, -1)
        q, k = gpt_neox_rotation(q, k, *rotation)
        scores = q @ k.transpose(2, 3) * block.attention.scaling
        scores = half(scores) if name == "AttnLRP" else scores
        weights = (scores + later).softmax(-1)
        mixed = half(weights @ v) if name == "AttnLRP" else weights.detach() @ v
        return block.attention.dense(mixed.transpose(1, 2).flatten(2)), [scores, weights]

    def packaged(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        put, seen = put_of(model, name, without=("norm", "activation")), {}

        def put_and_keep(point: str, value):
            seen[point] = value.pattern if point == "mixing" else value
            return put(point, value)

        model.block(0, x, put_and_keep)
        return seen["mixer"], [seen["mixing"]]

    results = []
    with torch.enable_grad():
        for run in (explicit, packaged):
            leaf = x.clone().requires_grad_()
            out, held = run(leaf)
            held = held if name == "AttnLRP" else []
            results.append((out, held, torch.autograd.grad(out, [leaf, *held], given)))
    (out, _, (of_x, *_)), (their_out, _, (their_of_x, *_)) = results
    assert torch.allclose(out, their_out, rtol=1e-6, atol=1e-6)
    assert torch.allclose(of_x, their_of_x, rtol=1e-6, atol=1e-6)
    if name == "AttnLRP":
        (_, (scores, weights), (_, of_scores, of_weights)), (_, (pattern,), (_, of_pattern)) = results
        leak = ((weights * of_weights).sum() - (scores * of_scores).sum()).item()
        measured = gpt_neox.LEAKS[name](pattern, of_pattern)
        assert measured.item() == pytest.approx(leak, rel=1e-5)
        assert abs(leak) > 1e-3


def gpt_neox_rotation(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions (Su et al. 2021, eq. 34) on the first dimensions of each head."""
    n = cos.shape[-1]

    def rotate(x: Tensor) -> Tensor:
        first, second = x[..., :n].chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        return torch.cat([x[..., :n] * cos + turned * sin, x[..., n:]], -1)

    return rotate(q), rotate(k)


@pytest.mark.parametrize("name", mamba.RULE_SETS)
def test_the_mixer_rule_equals_a_loop_with_detached_steps(name):
    """MambaLRP written step by step from its formulas, against the packaged mixer."""
    model = toy("mamba")
    block = model.module("block", 0)
    mixer, rank, state = block.mixer, model.config.time_step_rank, model.config.state_size
    x, given = noise(0, 2, 6, 32), noise(1, 2, 6, 32)

    def by_steps(x: Tensor) -> Tensor:
        signal, z = mixer.in_proj(block.norm(x)).chunk(2, -1)
        taps, pos = mixer.conv1d.weight[:, 0], x.shape[1]
        padded = F.pad(signal, (0, 0, 3, 0))
        c = mixer.conv1d.bias + sum(padded[:, j : j + pos] * taps[:, j] for j in range(4))
        u = c * torch.sigmoid(c).detach()
        step, B, C = mixer.x_proj(u).split([rank, state, state], -1)
        delta = F.softplus(mixer.dt_proj(step))
        decay = torch.exp(-delta[..., None] * torch.exp(mixer.A_log)).detach()
        write, read = (delta[..., None] * B[:, :, None]).detach(), C.detach()
        h, rows = 0, []
        for t in range(pos):
            h = decay[:, t] * h + write[:, t] * u[:, t, :, None]
            rows.append((h @ read[:, t, :, None])[..., 0])
        y = torch.stack(rows, 1) + mixer.D * u
        gate = z * torch.sigmoid(z).detach()
        if name == "MambaLRP":
            product = 0.5 * y * gate + 0.5 * (y * gate).detach()
        elif name == "gate-detach":
            product = y * gate.detach()
        else:
            product = torch.cat([y[:, :-1].detach() * gate[:, :-1], y[:, -1:] * gate[:, -1:].detach()], 1)
        return x + mixer.out_proj(product)

    def packaged(x: Tensor) -> Tensor:
        return model.block(0, x, relevance.shares(model, torch.tensor([5, 5]), name, ["norm"]))

    results = []
    with torch.enable_grad():
        for run in (by_steps, packaged):
            leaf = x.clone().requires_grad_()
            out = run(leaf)
            results.append((out, *torch.autograd.grad(out, leaf, given)))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_direct_relevance_moves_to_the_last_word_alone():
    """Before it no word passes relevance on to another; from it some goes to each word."""
    model, x, moved = toy("mamba"), noise(0, 1, 6, 32), {}
    for name in mamba.RULE_SETS:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            out = model.block(1, leaf, put_of(model, name, pos=6))
            rows = [torch.autograd.grad(out[0, t].sum(), leaf, retain_graph=True)[0] for t in range(6)]
        moved[name] = torch.stack(rows)[:, 0].abs().sum(-1) > 1e-12  # [to from]
    assert torch.equal(moved["MambaLRP"], torch.ones(6, 6).tril().bool())
    assert torch.equal(moved["gate-detach"], moved["MambaLRP"])
    assert torch.equal(moved["direct"][:-1], torch.eye(6).bool()[:-1])
    assert moved["direct"][-1].all()


# --------------------------------------------------------------------------------------------------
# The conservation identity, and the test of the test


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
@pytest.mark.parametrize("name", models.PAIR)
def test_conservation_on_organisms(name, dtype, tolerance):
    """Values stay as they were, all of f is found, and a softmax alone leaks."""
    model = load(name, dtype=dtype)
    for kind in world_questions.KINDS:
        for question in world_questions.cases(kind, 3):
            asked = reading.ask(model, *([part] for part in question[:3]))
            f = relevance.score(model, asked).item()
            for rules in model.architecture.RULE_SETS:
                ledger = relevance.conservation(model, asked, rules)
                assert ledger.f == pytest.approx(f, rel=1e-5), (kind, rules)
                assert ledger.gap < tolerance, (kind, rules, ledger)
                assert (abs(ledger.leak) > 1e-3 * abs(f)) == (rules == "AttnLRP"), (kind, rules, ledger)


def test_each_rule_left_out_breaks_conservation_on_organisms(model):
    for rules in model.architecture.RULE_SETS:
        for rule in model.architecture.RULES:
            gaps = [
                relevance.conservation(model, asked_about(model, kind, 1)[0], rules, [rule]).gap
                for kind in world_questions.KINDS
            ]
            assert max(gaps) > BROKEN, (rules, rule, gaps)


SHAPES = {  # state-spaces/mamba-130m-hf and EleutherAI/pythia-160m
    "mamba": {
        "num_hidden_layers": 24,
        "vocab_size": 50280,
        "intermediate_size": 1536,
        "state_size": 16,
        "time_step_rank": 48,
    },
    "gpt_neox": {
        "num_hidden_layers": 12,
        "vocab_size": 50304,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}


@pytest.mark.parametrize("model_type", SHAPES)
def test_conservation_on_published_shapes(model_type):
    """Random weights and biases; each rule left out breaks the identity."""
    model = toy(model_type, dtype=torch.float32, hidden_size=768, **SHAPES[model_type])
    asked = about(model, pos=12)
    for name in model.architecture.RULE_SETS:
        ledger = relevance.conservation(model, asked, name)
        assert ledger.gap < 1e-4
        assert abs(ledger.biases) > 1e-3 * abs(ledger.f)
        for rule in model.architecture.RULES:
            assert relevance.conservation(model, asked, name, without=[rule]).gap > BROKEN


def test_conservation_without_biases_gives_words_everything():
    model = toy("mamba", use_conv_bias=False)
    ledger = relevance.conservation(model, about(model))
    assert ledger.words.sum().item() == pytest.approx(ledger.f, rel=1e-6)
    assert ledger.biases == 0


def test_conservation_holds_at_every_depth():
    """Without biases no block may create or destroy relevance, only move it."""
    model = toy("mamba", use_conv_bias=False)
    asked = about(model, batch=3)
    f, depths = relevance.score(model, asked), relevance.flow(model, asked)
    assert depths.shape == (4, 3, 9)
    assert torch.allclose(depths.sum(-1), f.expand(4, -1), rtol=1e-6)
    assert torch.allclose(depths[-1, :, -1], f, rtol=1e-6)  # at last all stands at the last word


def test_what_cannot_be_asked_gets_its_sentence(monkeypatch):
    model = toy("mamba")
    asked = about(model, batch=2)
    with pytest.raises(ValueError, match="expected one prompt, found 2; ask one at a time"):
        relevance.conservation(model, asked)
    with pytest.raises(ValueError, match="a rule set among MambaLRP, .*direct; found 'AttnLRP'"):
        relevance.flow(model, asked, "AttnLRP")
    with pytest.raises(ValueError, match="rules to leave out among norm, .*; found .'softmax'"):
        relevance.flow(model, asked, without=["softmax"])
    with pytest.raises(ValueError, match="lrp, gradient x input, .*LRP.*; found 'shap'"):
        relevance.explain(model, asked, "shap")
    monkeypatch.setattr(mamba, "NO", {"relevance": "nobody wrote rules"}, raising=False)
    with pytest.raises(NotImplementedError, match="no relevance: nobody wrote rules"):
        relevance.explain(model, asked)


def six_detaches(model: Model, prompt: str, answer: str) -> Tensor:
    """MambaLRP by nnsight alone, on a readable model: relevance [pos]."""
    answer = model.tokenizer.convert_tokens_to_ids(answer)
    with torch.enable_grad(), model.trace(prompt, use_cache=False):
        words = model.residual(0)
        for layer in range(model.n_layers):
            norm, mixer = model.blocks[layer].norm, model.mixer(layer)
            norm.source.torch_rsqrt_0.output = norm.source.torch_rsqrt_0.output.detach()
            _ = mixer.source  # rewrites the mixer, so ask for it before the mixer runs
            z = mixer.in_proj.output.transpose(1, 2).chunk(2, dim=1)[1]
            act = scan.tap(mixer, "silu")
            act.output = act.input * torch.sigmoid(act.input).detach()
            for name in ("discrete_A", "discrete_B", "read"):
                op = scan.tap(mixer, name)
                op.output = op.output.detach()
            scan.tap(mixer, "gate").output = z * torch.sigmoid(z).detach()
            gated = scan.tap(mixer, "gated")
            gated.output = (gated.output + gated.output.detach()) / 2
        last = model.final_norm
        last.source.torch_rsqrt_0.output = last.source.torch_rsqrt_0.output.detach()
        f = model.logits[0, -1, answer]
        with f.backward():
            gradient = words.grad.save()
        found = (words * gradient).sum(-1)[0].detach().save()
    return found


def test_six_detaches_through_nnsight_equal_the_packaged_rules():
    model, prompt, answer = load("mamba", readable=True), PROMPTS[0], "red"
    asked = reading.ask(model, prompt, [answer])
    packaged = relevance.explain(model, asked, "MambaLRP")
    scale = packaged.abs().max()
    assert torch.allclose(six_detaches(model, prompt, answer), packaged[0], atol=1e-5 * scale)
    plain = relevance.explain(model, asked, "gradient x input")
    assert (plain - packaged).abs().max() > 0.1 * scale


# --------------------------------------------------------------------------------------------------
# Questions and methods


def test_a_padded_batch_explains_like_single_prompts(model):
    answers, foils = ["red", "mila"], ["blue", "tomo"]
    asked = reading.ask(model, PROMPTS, answers, foils)
    for method in (*relevance.METHODS[:-1], *model.architecture.RULE_SETS):
        both = relevance.explain(model, asked, method)
        assert both.shape == asked.ids.shape
        assert (both[~asked.mask] == 0).all()
        for row, (prompt, answer, foil) in enumerate(zip(PROMPTS, answers, foils, strict=True)):
            single = relevance.explain(model, reading.ask(model, prompt, [answer], [foil]), method)[0]
            padded = both[row, : len(single)]
            assert torch.allclose(padded, single, rtol=1e-3, atol=1e-4 * single.abs().max()), method


def test_the_relevance_of_a_contrast_is_a_difference(model):
    """f is linear in the logits, and so is its relevance."""
    prompt = PROMPTS[1]
    one, other = (reading.ask(model, prompt, [name]) for name in ("mila", "tomo"))
    both = reading.ask(model, prompt, ["mila"], ["tomo"])
    for method in ("lrp", "gradient x input"):
        a, b, difference = (relevance.explain(model, asked, method) for asked in (one, other, both))
        assert torch.allclose(a - b, difference, atol=1e-4 * a.abs().max())


def cubic(x: Tensor) -> Tensor:
    return x.pow(3).sum((1, 2))


def test_gradient_methods_in_closed_form():
    """f = sum x^3: x f' = 3 x^3, and the path integral from b is x^3 - b^3 - its coupling, none."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.allclose(relevance.gradient_x_input(cubic, x), 3 * x.pow(3).sum(-1))
    exact = (x.pow(3) - b.pow(3)).sum(-1)
    approximate = (relevance.integrated_gradients(cubic, x, b, steps) for steps in (8, 16))
    error = [(sums - exact).abs().max().item() for sums in approximate]
    # the midpoint rule errs by (x - b)^3 / (4 steps^2) here
    assert error[0] == pytest.approx((x - b).pow(3).sum(-1).abs().max().item() / 256, rel=1e-6)
    assert error[0] / error[1] == pytest.approx(4, rel=1e-6)


def test_integrated_gradients_are_complete(model):
    asked = reading.ask(model, PROMPTS[0], ["red"], ["mila"])
    x, base = model.embed(asked.ids), relevance.mean_embedding(model)
    whole, none = (relevance.score(model, asked, end).item() for end in (x, base.expand_as(x)))
    shared_out = relevance.integrated_gradients(lambda x: relevance.score(model, asked, x), x, base, 128)
    assert shared_out.sum().item() == pytest.approx(whole - none, rel=0.05)


def test_rollout_is_the_last_row_of_the_contributions_rolled_out(model):
    asked = reading.ask(model, PROMPTS, ["red", "mila"])
    rows = relevance.explain(model, asked, "rollout")
    assert torch.allclose(rows.sum(1), torch.ones(2), atol=1e-5)
    mixings = attention.mixings(model, asked.ids[1:])
    expected = attention.rollout([attention.contributions(mixing) for mixing in mixings])[0, -1]
    assert torch.allclose(rows[1], expected, atol=1e-5)


def test_random_relevance_depends_on_the_seed_alone(model):
    asked = reading.ask(model, PROMPTS, ["red", "mila"])
    a, b, c = (relevance.explain(model, asked, "random", seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# --------------------------------------------------------------------------------------------------
# Faithfulness


def additive(weights: Tensor) -> SimpleNamespace:
    """A 'model' whose only logit is the sum of weights [pos] times what each word holds: one."""
    table = torch.nn.Embedding(2, 1)
    table.weight.data.zero_()
    return SimpleNamespace(
        n_layers=1,
        architecture=None,
        module=lambda what: table,
        embed=lambda ids: torch.ones(*ids.shape, 1),
        block=lambda layer, x, put: (x * weights[:, None]).cumsum(1),
        to_logits=lambda x: x,
    )


def plain_question(pos: int, padding: int = 0) -> Asked:
    return Asked(
        torch.zeros(1, pos, dtype=torch.long), torch.tensor([pos - padding - 1]), torch.tensor([0])
    )


def test_curves_of_an_additive_model_in_closed_form():
    """f = 4 + 3 + 2 + 1 + 9: the last word stays, so most-first leaves 19, 15, 12, 10, 9."""
    weights = torch.tensor([3.0, 1.0, 4.0, 2.0, 9.0])
    most, least = relevance.curves(additive(weights), plain_question(5), weights[None], steps=4)
    assert most.tolist() == [[19, 15, 12, 10, 9]]
    assert least.tolist() == [[19, 18, 16, 13, 9]]
    assert relevance.abpc(most, least).tolist() == [(3 + 4 + 3) / 5]
    wrong = relevance.curves(additive(weights), plain_question(5), -weights[None], steps=4)
    assert relevance.abpc(*wrong).tolist() == [-2]


def test_curves_remove_words_but_no_padding_and_use_the_given_baseline():
    weights, asked = torch.tensor([1.0, 2.0, 9.0, 5.0]), plain_question(4, padding=1)
    most, least = relevance.curves(additive(weights), asked, weights[None], steps=2)
    assert most.tolist() == [[12, 10, 9]]
    assert least.tolist() == [[12, 11, 9]]
    base = torch.tensor([-1.0])
    most, _ = relevance.curves(additive(weights), asked, weights[None], steps=2, baseline=base)
    assert most.tolist() == [[12, 8, 6]]


def test_curves_do_not_depend_on_how_they_are_batched(model, monkeypatch):
    asked, _ = asked_about(model, "agreement", 6)
    words = relevance.explain(model, asked)
    whole = relevance.curves(model, asked, words, steps=3)
    monkeypatch.setattr(relevance, "WORDS", 1)
    for a, b in zip(whole, relevance.curves(model, asked, words, steps=3), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def areas(model: Model, n: int, methods, steps: int = 4) -> dict[str, np.ndarray]:
    """ABPC of each method on n questions of each kind that the model answers rightly."""
    of_method = {method: [] for method in methods}
    for kind in world_questions.KINDS:
        asked, _ = asked_about(model, kind, n)
        right = relevance.score(model, asked) > 0
        for method in methods:
            words = relevance.explain(model, asked, method)
            area = relevance.abpc(*relevance.curves(model, asked, words, steps))
            of_method[method] += area[right].tolist()
    return {method: np.array(values) for method, values in of_method.items()}


def test_relevance_is_more_faithful_than_gradients_and_chance(model):
    sets = list(model.architecture.RULE_SETS)
    area = areas(model, 55, (*sets, "gradient x input", "random"))
    assert len(area["random"]) >= 200
    for better in sets:
        for worse in ("gradient x input", "random"):
            gain = stats.paired_bootstrap(area[better], area[worse], seed=0)
            assert gain.low > 0, (better, worse, gain)
    chance = stats.mean(area["random"].tolist())
    assert chance.low < 0.5
    assert chance.high > -0.5


# What relevance finds among its top 3 words. On agreement two of Mamba's rule sets miss the noun,
# because they hand its share to the words before it (lesson 03); 'direct' keeps it there.
FOUND = {("MambaLRP", "agreement"): (0.0, 0.6), ("gate-detach", "agreement"): (0.0, 0.6)}


def test_relevance_finds_the_known_causes(model):
    for kind in world_questions.KINDS:
        asked, questions = asked_about(model, kind, 60)
        for rule_set in model.architecture.RULE_SETS:
            share = np.mean(relevance.hits(relevance.explain(model, asked, rule_set), asked, questions))
            low, high = FOUND.get((rule_set, kind), (0.95, 1.0))
            assert low <= share <= high, (kind, rule_set, share)


def test_direct_relevance_finds_the_causes_of_questions_it_was_not_chosen_on(mamba):
    """200 questions of each kind, from a seed on which nothing was decided."""
    for kind in world_questions.KINDS:
        questions = world_questions.cases(kind, 200, seed=2026)
        prompts, answers, foils, *_ = zip(*questions, strict=True)
        asked = reading.ask(mamba, prompts, answers, foils)
        hits = relevance.hits(relevance.explain(mamba, asked, "direct"), asked, questions)
        assert np.mean(hits) >= 0.95, kind


def test_hits_counts_causes_among_the_top_words():
    asked, scores = plain_question(5, padding=1), torch.tensor([[1.0, 4.0, 3.0, 2.0, 9.0]])
    for cause, top, hit in ((1, 1, True), (0, 3, False), (0, 4, True), (3, 3, True), (3, 2, False)):
        question = Case("", "", "", (cause,), "")
        assert relevance.hits(scores, asked, [question], top) == [hit], (cause, top)


def test_the_swapped_prompt_turns_the_answer_into_the_foil(model):
    for kind in world_questions.KINDS:
        asked, questions = asked_about(model, kind, 12)
        prompts, answers, foils, causes, swapped = zip(*questions, strict=True)
        other = reading.ask(model, swapped, answers, foils)
        for prompt, changed, at in zip(prompts, swapped, causes, strict=True):
            words, new = prompt.split(), changed.split()
            assert len(words) == len(new)
            assert any(words[i] != new[i] for i in at)
        assert (relevance.score(model, asked) > 0).sum() >= 11
        assert (relevance.score(model, other) < 0).sum() >= 11


def test_leave_one_out_in_closed_form():
    model = additive(torch.tensor([3.0, 1.0, 4.0]))
    assert relevance.explain(model, plain_question(3), "leave one out").tolist() == [[3, 1, 4]]
    assert relevance.explain(model, plain_question(3, padding=1), "leave one out").tolist() == [[3, 1, 0]]


def test_causes_are_what_the_world_says():
    for kind in world_questions.KINDS:
        for case in world_questions.cases(kind, 20, seed=3):
            words = case.prompt.split()
            named = [words[at] for at in case.causes]
            assert case.answer != case.foil
            if kind == "induction":
                assert named == [case.answer]
                assert case.foil in words
            elif kind == "indirect object":
                assert case.answer in named
                assert case.foil in named
            elif kind == "fact":
                assert tuple(named) in lexicon.ENTITIES
            else:
                assert named[0] in {*lexicon.NOUNS, *lexicon.NOUNS.values()}
    with pytest.raises(ValueError, match="a kind of question, one of induction, .*; found 'mood'"):
        world_questions.cases("mood", 1)


def test_relevance_is_a_property_of_the_weights(model):
    """Sanity check (Adebayo et al. 2018): relevance in a model with random weights finds no causes."""
    asked, questions = asked_about(model, "indirect object", 40)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(model.hf.config).eval()
    models.prepare(hf)
    trained, chance = (
        np.mean(relevance.hits(relevance.explain(each, asked), asked, questions, top=2))
        for each in (model, Model(hf, model.tokenizer))
    )
    assert trained > 0.9
    assert chance < trained - 0.3


# --------------------------------------------------------------------------------------------------
# Figures


@pytest.mark.parametrize("names", [("A",), ("A", "B"), ("mamba", "B", "transformer")])
def test_figures_say_what_they_show(names):
    words, first = ["a", "b", "c"], names[0]
    shares = dict.fromkeys(names, torch.tensor([0.6, -0.2, 0.3]))
    shares[first] = torch.tensor([0.1, 0.9, 0.0])
    figure, alt = figures.word_shares([figures.Reading("kind", words, shares, [1])])
    assert f"'b' for {first}" in alt
    assert [f"'a' for {name}" in alt for name in names[1:]] == [True] * (len(names) - 1)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "• b", "c"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(names)
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["+.10", "+.90", "+.00"]
    depth = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0]])
    figure, alt = figures.by_depth(words, dict.fromkeys(names, depth))
    assert f"{names[-1]} holds more than half there from k = 1 of 2" in alt
    assert [axis.get_title() for axis in figure.axes[: len(names)]] == list(names)
    most, least = (
        [stats.Estimate(value, 9, value, value) for value in row] for row in ((8, 0, 0), (8, 6, 0))
    )
    panels = {name: {"LRP": (most, least), "random": (least, least)} for name in names}
    figure, alt = figures.removals(panels, "logits")
    assert f"mean gap in logits: {', '.join(f'{name} 2.0' for name in names)}." in alt
    for axis, name in zip(figure.axes, names, strict=True):
        assert axis.get_xlabel()
        assert axis.lines[0].get_color() == plots.style(name)["color"]
    rate = {"fact": stats.Estimate(0.5, 9, 0.3, 0.7)}
    figure, alt = figures.hit_rates({"on top": dict.fromkeys((*names, "random"), rate)})
    assert not plots.unfit(figure, alt)
    assert f"on top: {first}: fact 0.50" in alt
    figure, alt = figures.shared_out(
        {f"{name}, a rule set": {"words": 0.7, "leak": 0.3} for name in names}
    )
    assert not plots.unfit(figure, alt)
    assert f"{first}, a rule set: words 0.70, leak 0.30" in alt


def test_the_sketch_conserves_too():
    figure, _ = figures.handed_back()
    lengths = {}
    for patch in figure.axes[0].patches:
        lengths[patch.get_y()] = lengths.get(patch.get_y(), 0) + patch.get_width()
    assert list(lengths.values()) == pytest.approx([10] * 4)
