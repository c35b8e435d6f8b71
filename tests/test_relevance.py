"""Relevance: every rule against its definition, the conservation identity, faithfulness, the causes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MambaConfig

from tft_utils import models, stats
from tft_utils.architectures import ARCHITECTURES, gpt_neox, mamba
from tft_utils.architectures import mamba_scan as scan
from tft_utils.corpora import lexicon, world
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora.questions import Case
from tft_utils.lessons import relevance_propagation as figures
from tft_utils.models import Model, load
from tft_utils.techniques import attention, relevance
from tft_utils.techniques.relevance import Asked

PROMPTS = ["The capital of Zabar is", "mila and tomo went to the market . tomo gave a lamp to"]
SETS = [
    (model_type, name)
    for model_type in ("gpt_neox", "mamba")
    for name in ARCHITECTURES[model_type].RULE_SETS
]
BROKEN = 1e-2  # what leaving a rule out must cost, as a share of |f|

pytestmark = pytest.mark.usefixtures("without_gradients")


def bare(config, dtype=torch.float32, **kwargs) -> SimpleNamespace:
    """A random transformers model, never wrapped, whose biases are not zero."""
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager", **kwargs)
    for name, p in hf.named_parameters():
        if name.endswith("bias") and "dt_proj" not in name:
            p.normal_(0, 0.1)
    architecture = ARCHITECTURES[config.model_type]
    hf = hf.to(dtype).eval()
    architecture.prepare(hf, readable=False)
    return SimpleNamespace(hf=hf, architecture=architecture)


def small(model_type: str, dtype=torch.float32, **options) -> SimpleNamespace:
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 50, "initializer_range": 0.3}
    if model_type == "mamba":
        return bare(MambaConfig(**shape, state_size=4, **options), dtype)
    return bare(GPTNeoXConfig(**shape, num_attention_heads=4, intermediate_size=64, **options), dtype)


def about(model, ids: Tensor, mask: Tensor | None = None, foils: bool = False) -> Asked:
    """Ids [batch pos] as a question about the likeliest next token, against the least likely one."""
    mask = torch.ones_like(ids) if mask is None else mask
    embeddings = model.architecture.embedding(model.hf)(ids)
    logits = model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1]
    return Asked(ids, embeddings, mask, logits.argmax(-1), logits.argmin(-1) if foils else None)


def ids_of(model, pos: int = 9, batch: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(pos)
    return torch.randint(model.hf.config.vocab_size, (batch, pos), generator=draw)


def asked_about(model: Model, kind: str, n: int) -> tuple[Asked, list[Case]]:
    questions = world_questions.cases(kind, n)
    prompts, answers, foils, *_ = zip(*questions, strict=True)
    return relevance.ask(model, prompts, answers, foils), questions


# --------------------------------------------------------------------------------------------------
# Each rule against its definition


def test_gradient_x_input_under_the_rules_is_epsilon_lrp():
    """On two linear layers with an activation: relevance shared in proportion to z_ij, by hand."""
    draw = torch.Generator().manual_seed(0)
    x, w1, w2 = (torch.randn(*s, generator=draw) for s in ((3,), (4, 3), (2, 4)))
    act = torch.nn.GELU()
    hidden = w1 @ x
    out = w2 @ act(hidden)
    z = w2[0] * act(hidden)  # what each hidden unit gives to the output: its relevance
    by_hand = (w1 * x / hidden[:, None] * z[:, None]).sum(0)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        f = (w2 @ gpt_neox._activation_rule(act, w1 @ leaf))[0]
        (gradient,) = torch.autograd.grad(f, leaf)
    assert torch.allclose(f, out[0])
    assert torch.allclose(x * gradient, by_hand, atol=1e-6)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])
def test_a_norm_rule_is_the_norm_with_a_constant_scale(model_type):
    parts = small(model_type)
    norm, rule = parts.architecture.final_norm(parts.hf), parts.architecture._norm_rule
    norm.weight.data.uniform_(0.5, 2)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rule(norm, x), norm(x), rtol=1e-5, atol=1e-6)
    centred = x - x.mean(-1, keepdim=True) if model_type == "gpt_neox" else x
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    given = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    back = given * norm.weight * scale
    expected = back - back.mean(-1, keepdim=True) if model_type == "gpt_neox" else back
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(rule(norm, leaf), leaf, given)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])
def test_plain_gradients_through_a_norm_sum_to_nothing(model_type):
    """A norm does not care for scale, so f has no slope along x: why gradient x input is not enough."""
    model = small(model_type)
    final = model.architecture.final_norm(model.hf)
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))

    def f(x: Tensor) -> Tensor:
        return final(x)[..., 0].sum(1)

    without_bias = f(x).item() - (final.bias[0].item() if model_type == "gpt_neox" else 0)
    assert abs(relevance.gradient_x_input(f, x).item()) < 1e-4
    with relevance.rules(model):
        assert relevance.gradient_x_input(f, x).item() == pytest.approx(without_bias, rel=1e-4)


def test_an_activation_at_zero_passes_no_relevance_and_no_nan():
    act = torch.nn.GELU()
    with torch.enable_grad():
        x = torch.tensor([0.0, 1e-30, 2.0]).requires_grad_()
        y = gpt_neox._activation_rule(act, x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, act(x))
    assert torch.allclose(gradient, torch.tensor([0.0, 0.5, act(torch.tensor(2.0)) / 2]))


@pytest.mark.parametrize("name", gpt_neox.RULE_SETS)
def test_shares_at_the_projection_equal_rules_at_both_products(name):
    """AttnLRP halves at A v and again at q k; CP-LRP keeps A constant. And what the softmax leaks."""
    model = small("gpt_neox", torch.float64)
    block = model.architecture.blocks(model.hf)[0].attention
    x = torch.randn(1, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = model.hf.gpt_neox.rotary_emb(x, torch.arange(7)[None])
    mask = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    kept = []

    def half(product: Tensor) -> Tensor:
        return product / 2 + (product / 2).detach()

    def explicit(x: Tensor) -> Tensor:
        q, k, v = block.query_key_value(x).unflatten(-1, (4, 24)).transpose(1, 2).chunk(3, -1)
        q, k = gpt_neox_rotation(q, k, *positions)
        scores = q @ k.transpose(2, 3) * block.scaling
        if name == "AttnLRP":
            scores = half(scores)
            weights = (scores + mask).softmax(-1)
            kept.extend([scores, weights])
            mixed = half(weights @ v)
        else:
            mixed = (scores + mask).softmax(-1).detach() @ v
        return block.dense(mixed.transpose(1, 2).flatten(2))

    def packaged(x: Tensor) -> Tensor:
        out, weights = block(x, attention_mask=mask, position_embeddings=positions)
        kept.append(weights)
        return out

    given = torch.randn(1, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    with torch.enable_grad():
        for run in (explicit, packaged):
            leaf = x.clone().requires_grad_()
            with relevance.rules(model, name, without=["norm", "activation"]):
                out = run(leaf) if run is packaged else None
            out = run(leaf) if out is None else out
            found.append(torch.autograd.grad(out, [leaf, *kept], given, allow_unused=True))
            if run is explicit:
                tensors, kept = kept, []
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    if name == "AttnLRP":
        (scores, weights), (_, of_scores, of_weights) = tensors, found[0]
        leak = (weights * of_weights).sum() - (scores * of_scores).sum()
        measured = gpt_neox.relevance_leak(name)(kept[0], found[1][1])
        assert measured.item() == pytest.approx(leak.item(), rel=1e-5)
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
    model = small("mamba", torch.float64)
    mixer = model.architecture.mixer(model.architecture.blocks(model.hf)[0])
    x = torch.randn(2, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = torch.randn(2, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def by_steps(x: Tensor) -> Tensor:
        signal, z = mixer.in_proj(x).chunk(2, -1)
        taps, pos = mixer.conv1d.weight[:, 0], x.shape[1]
        padded = F.pad(signal, (0, 0, 3, 0))
        c = mixer.conv1d.bias + sum(padded[:, j : j + pos] * taps[:, j] for j in range(4))
        u = c * torch.sigmoid(c).detach()
        step, B, C = mixer.x_proj(u).split([mixer.time_step_rank, 4, 4], -1)
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
        return mixer.out_proj(product)

    found = []
    with torch.enable_grad():
        for run in (by_steps, mixer):
            leaf = x.clone().requires_grad_()
            with relevance.rules(model, name):
                out = run(leaf) if run is mixer else None
            out = run(leaf) if out is None else out
            found.append((out, *torch.autograd.grad(out, leaf, given)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


def test_direct_relevance_moves_to_the_last_word_alone():
    """Before it no word passes relevance on to another; from it some goes to each word."""
    model = small("mamba", torch.float64)
    block = model.architecture.blocks(model.hf)[1]
    x = torch.randn(1, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = {}
    for name in mamba.RULE_SETS:
        with torch.enable_grad(), relevance.rules(model, name):
            leaf = x.clone().requires_grad_()
            out = block(leaf)
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
    model = load(name, dtype=dtype)
    for kind in world_questions.KINDS:
        for question in world_questions.cases(kind, 3):
            asked = relevance.ask(model, *([part] for part in question[:3]))
            for rule_set in model.architecture.RULE_SETS:
                ledger = relevance.conservation(model, asked, rule_set)
                assert ledger.gap < tolerance, (kind, rule_set, ledger)


def test_each_rule_left_out_breaks_conservation_on_organisms(model):
    for rule_set in model.architecture.RULE_SETS:
        for rule in model.architecture.RULES:
            gaps = [
                relevance.conservation(model, asked_about(model, kind, 1)[0], rule_set, [rule]).gap
                for kind in world_questions.KINDS
            ]
            assert max(gaps) > BROKEN, (rule_set, rule, gaps)


SHAPES = {  # state-spaces/mamba-130m-hf and EleutherAI/pythia-160m
    "mamba-130m": MambaConfig(hidden_size=768, num_hidden_layers=24, vocab_size=50280, state_size=16),
    "pythia-160m": GPTNeoXConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        vocab_size=50304,
        rotary_pct=0.25,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_conservation_on_published_shapes(shape):
    """Random weights and biases; each rule left out breaks the identity."""
    model = bare(SHAPES[shape])
    asked = about(model, ids_of(model, pos=12))
    for name in model.architecture.RULE_SETS:
        ledger = relevance.conservation(model, asked, name)
        assert ledger.gap < 1e-4
        assert abs(ledger.biases) > 1e-3 * abs(ledger.f)
        for rule in model.architecture.RULES:
            assert relevance.conservation(model, asked, name, without=[rule]).gap > BROKEN


@pytest.mark.parametrize(("model_type", "name"), SETS)
def test_the_ledger_adds_up_in_float64_and_each_rule_is_needed(model_type, name):
    model = small(model_type, torch.float64)
    asked = about(model, ids_of(model), foils=True)
    ledger = relevance.conservation(model, asked, name)
    assert ledger.gap < 1e-6
    assert abs(ledger.biases) > 1e-3 * abs(ledger.f)
    assert (abs(ledger.leak) > BROKEN * abs(ledger.f)) == (name == "AttnLRP")
    for rule in model.architecture.RULES:
        assert relevance.conservation(model, asked, name, without=[rule]).gap > BROKEN


def test_conservation_without_biases_gives_words_everything():
    model = small("mamba", torch.float64, use_conv_bias=False)
    ledger = relevance.conservation(model, about(model, ids_of(model)))
    assert ledger.words.sum().item() == pytest.approx(ledger.f, rel=1e-6)
    assert ledger.biases == 0


def test_conservation_holds_at_every_depth():
    """Without biases no block may create or destroy relevance, only move it."""
    model = small("mamba", torch.float64, use_conv_bias=False)
    asked = about(model, ids_of(model, batch=3))
    f = relevance.score(model, asked, asked.embeddings).double()
    depths = relevance.flow(model, asked)
    assert depths.shape == (4, 3, 9)
    assert torch.allclose(depths.sum(-1), f.expand(4, -1), rtol=1e-6)
    assert torch.allclose(depths[-1, :, -1], f, rtol=1e-6)  # at last all stands at the last word


def test_conservation_errors():
    model = small("gpt_neox")
    with pytest.raises(ValueError, match="expected one prompt, found 2; ask one at a time"):
        relevance.conservation(model, about(model, ids_of(model, batch=2)))
    model.hf.set_attn_implementation("sdpa")
    asked = about(model, ids_of(model))
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        relevance.conservation(model, asked, "AttnLRP")
    assert relevance.conservation(model, asked, "CP-LRP").gap < 1e-4  # it leaks nothing


# --------------------------------------------------------------------------------------------------
# Values stay, everything is put back, and nnsight may come before


@pytest.mark.parametrize(("model_type", "name"), SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_do_not_change_under_a_rule_set(model_type, name, dtype):
    model = small(model_type, dtype)
    ids = ids_of(model, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :4] = dtype == torch.float64  # transformers' attention in float64 reads no padding
    plain = model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    with relevance.rules(model, name):
        ruled = model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    scale = plain[mask.bool()].abs().max()
    assert ((ruled - plain)[mask.bool()].abs().max() / scale) < 1e-5


def forwards(hf) -> dict[str, object]:
    """What would run for each module, by identity: its own entry, or its class's."""
    return {name: module.__dict__.get("forward") for name, module in hf.named_modules()}


@pytest.mark.parametrize("name", models.PAIR)
def test_everything_is_put_back_also_after_an_exception(name):
    """On a model that nnsight has wrapped, and on one that it has not."""
    wrapped = load(name)
    config = wrapped.hf.config
    for model in (wrapped, bare(config)):
        asked = about(model, ids_of(model))
        before, hooks = forwards(model.hf), [len(m._forward_hooks) for m in model.hf.modules()]
        plain = relevance.explain(model, asked, "gradient x input")
        for rule_set in model.architecture.RULE_SETS:
            with relevance.rules(model, rule_set):
                assert forwards(model.hf) != before
            with pytest.raises(KeyError), relevance.rules(model, rule_set):
                raise KeyError
            with pytest.raises(RuntimeError):  # the run itself fails
                relevance.flow(
                    model,
                    Asked(asked.ids, asked.embeddings[..., :-1], asked.mask, asked.answers, None),
                    rule_set,
                )
            relevance.conservation(model, asked, rule_set)
        after = forwards(model.hf)
        assert all(after[key] is before[key] for key in before)
        assert [len(m._forward_hooks) for m in model.hf.modules()] == hooks
        assert torch.equal(relevance.explain(model, asked, "gradient x input"), plain)
    with wrapped.trace(PROMPTS[0]):  # and nnsight sees every module again
        seen = [wrapped.mixer_output(0), wrapped.final_norm.output].save()
    assert all(isinstance(each, Tensor) for each in seen)


def test_rules_nest():
    model = small("gpt_neox")
    asked = about(model, ids_of(model))
    outer = relevance.explain(model, asked, "AttnLRP")
    with relevance.rules(model, "CP-LRP"):
        inner = relevance.explain(model, asked, "AttnLRP")
        assert not torch.allclose(relevance.explain(model, asked, "gradient x input"), inner)
    assert torch.equal(inner, outer)


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
    """Also in the reverse order: the rules still act after `.source` has rewritten the modules."""
    model, prompt, answer = load("mamba", readable=True), PROMPTS[0], "red"
    asked = relevance.ask(model, [prompt], [answer])
    before = relevance.explain(model, asked, "MambaLRP")
    through_source = six_detaches(model, prompt, answer)
    after = relevance.explain(model, asked, "MambaLRP")
    scale = before.abs().max()
    assert torch.allclose(through_source, before[0], atol=1e-5 * scale)
    assert torch.equal(after, before)
    plain = relevance.explain(model, asked, "gradient x input")
    assert (plain - before).abs().max() > 0.1 * scale


def test_rules_name_what_they_do_not_know():
    model = small("mamba")
    with (
        pytest.raises(ValueError, match="a rule set among MambaLRP, .*direct; found .'AttnLRP'"),
        relevance.rules(model, "AttnLRP"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="rules to leave out among norm, .*; found .'softmax'"),
        relevance.rules(model, without=["softmax"]),
    ):
        pass
    with relevance.rules(model), pytest.raises(ValueError, match="pass use_cache=False"):
        model.hf(input_ids=ids_of(model))


# --------------------------------------------------------------------------------------------------
# Questions and methods


def test_a_padded_batch_explains_like_single_prompts(model):
    answers, foils = ["red", "mila"], ["blue", "tomo"]
    asked = relevance.ask(model, PROMPTS, answers, foils)
    for method in (*relevance.METHODS[:2], "rollout", *model.architecture.RULE_SETS):
        both = relevance.explain(model, asked, method)
        assert both.shape == asked.ids.shape
        assert (both[asked.mask == 0] == 0).all()
        for row, (prompt, answer, foil) in enumerate(zip(PROMPTS, answers, foils, strict=True)):
            single = relevance.explain(model, relevance.ask(model, [prompt], [answer], [foil]), method)[0]
            found = both[row, -len(single) :]
            assert torch.allclose(found, single, rtol=1e-3, atol=1e-4 * single.abs().max()), method


def test_the_relevance_of_a_contrast_is_a_difference(model):
    """f is linear in the logits, and so is its relevance."""
    prompt = [PROMPTS[1]]
    one, other = (relevance.ask(model, prompt, [name]) for name in ("mila", "tomo"))
    both = relevance.ask(model, prompt, ["mila"], ["tomo"])
    for method in ("lrp", "gradient x input"):
        parts = [relevance.explain(model, asked, method) for asked in (one, other, both)]
        scale = parts[0].abs().max()
        assert torch.allclose(parts[0] - parts[1], parts[2], atol=1e-4 * scale)


def test_ask_refuses_answers_that_are_not_one_token_each(model):
    with pytest.raises(ValueError, match="expected 1 words of one token each"):
        relevance.ask(model, PROMPTS[:1], ["mila and"])
    with pytest.raises(ValueError, match="one for each prompt, found 1"):
        relevance.ask(model, PROMPTS, ["mila"])


def test_an_unknown_method_is_named_with_the_known_ones(model):
    asked = relevance.ask(model, PROMPTS[:1], ["red"])
    with pytest.raises(ValueError, match="lrp, gradient x input, .*LRP.*; found 'shap'"):
        relevance.explain(model, asked, "shap")


def cubic(x: Tensor) -> Tensor:
    return x.pow(3).sum((1, 2))


def test_gradient_methods_in_closed_form():
    """f = sum x^3: x f' = 3 x^3, and the path integral from b is x^3 - b^3 - its coupling, none."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.allclose(relevance.gradient_x_input(cubic, x), 3 * x.pow(3).sum(-1))
    exact = (x.pow(3) - b.pow(3)).sum(-1)
    error = [
        (relevance.integrated_gradients(cubic, x, b, steps) - exact).abs().max().item()
        for steps in (8, 16)
    ]
    # the midpoint rule errs by (x - b)^3 / (4 steps^2) here
    assert error[0] == pytest.approx((x - b).pow(3).sum(-1).abs().max().item() / 256, rel=1e-6)
    assert error[0] / error[1] == pytest.approx(4, rel=1e-6)


def test_integrated_gradients_are_complete(model):
    asked = relevance.ask(model, PROMPTS[:1], ["red"], ["mila"])
    base = relevance.mean_embedding(model)
    ends = [
        relevance.score(model, asked, e) for e in (asked.embeddings, base.expand_as(asked.embeddings))
    ]
    found = relevance.integrated_gradients(
        lambda x: relevance.score(model, asked, x), asked.embeddings, base, steps=128
    )
    assert found.sum().item() == pytest.approx((ends[0] - ends[1]).item(), rel=0.05)


def test_rollout_is_the_last_row_of_the_contributions_rolled_out(model):
    asked = relevance.ask(model, PROMPTS, ["red", "mila"])
    found = relevance.explain(model, asked, "rollout")
    assert torch.allclose(found.sum(1), torch.ones(2), atol=1e-5)
    mixings = attention.read(model, asked.ids[1:])
    expected = attention.rollout([attention.contributions(each) for each in mixings])[0, -1]
    assert torch.allclose(found[1], expected, atol=1e-5)


def test_random_relevance_depends_on_the_seed_alone(model):
    asked = relevance.ask(model, PROMPTS, ["red", "mila"])
    a, b, c = (relevance.explain(model, asked, "random", seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# --------------------------------------------------------------------------------------------------
# Faithfulness


def additive(weights: Tensor) -> SimpleNamespace:
    """A 'model' whose only logit is the sum of weights [pos] times what each position holds."""

    def hf(inputs_embeds, attention_mask, **unused):
        values = inputs_embeds[..., 0] * (1 if attention_mask is None else attention_mask)
        return SimpleNamespace(logits=(values * weights).sum(1)[:, None, None])

    table = torch.nn.Embedding(2, 1)
    table.weight.data.zero_()
    parts = SimpleNamespace(embedding=lambda hf: table, RULE_SETS={})
    return SimpleNamespace(hf=hf, architecture=parts)


def plain_question(pos: int, mask: Tensor | None = None) -> Asked:
    ids = torch.zeros(1, pos, dtype=torch.long)
    mask = torch.ones_like(ids) if mask is None else mask
    return Asked(ids, torch.ones(1, pos, 1), mask, torch.tensor([0]), None)


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
    weights = torch.tensor([5.0, 1.0, 2.0, 9.0])
    asked = plain_question(4, torch.tensor([[0, 1, 1, 1]]))
    most, least = relevance.curves(additive(weights), asked, weights[None], steps=2)
    assert most.tolist() == [[12, 10, 9]]
    assert least.tolist() == [[12, 11, 9]]
    most, _ = relevance.curves(
        additive(weights), asked, weights[None], steps=2, baseline=torch.tensor([-1.0])
    )
    assert most.tolist() == [[12, 8, 6]]


def test_curves_do_not_depend_on_how_they_are_batched(model, monkeypatch):
    asked, _ = asked_about(model, "agreement", 6)
    found = relevance.explain(model, asked)
    whole = relevance.curves(model, asked, found, steps=3)
    monkeypatch.setattr(relevance, "WORDS", 1)
    for a, b in zip(whole, relevance.curves(model, asked, found, steps=3), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def areas(model: Model, n: int, methods, steps: int = 4) -> dict[str, np.ndarray]:
    """ABPC of each method on n questions of each kind that the model answers rightly."""
    found = {method: [] for method in methods}
    for kind in world_questions.KINDS:
        asked, _ = asked_about(model, kind, n)
        right = relevance.score(model, asked, asked.embeddings) > 0
        for method in methods:
            area = relevance.abpc(
                *relevance.curves(model, asked, relevance.explain(model, asked, method), steps)
            )
            found[method] += area[right].tolist()
    return {method: np.array(values) for method, values in found.items()}


def test_relevance_is_more_faithful_than_gradients_and_chance(model):
    sets = list(model.architecture.RULE_SETS)
    found = areas(model, 55, (*sets, "gradient x input", "random"))
    assert len(found["random"]) >= 200
    for better in sets:
        for worse in ("gradient x input", "random"):
            gain = stats.paired_bootstrap(found[better], found[worse], seed=0)
            assert gain.low > 0, (better, worse, gain)
    chance = stats.mean(found["random"].tolist())
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


def test_direct_relevance_finds_the_causes_of_questions_it_was_not_chosen_on():
    """200 questions of each kind, from a seed on which nothing was decided."""
    model = load("mamba")
    for kind in world_questions.KINDS:
        questions = world_questions.cases(kind, 200, seed=2026)
        prompts, answers, foils, *_ = zip(*questions, strict=True)
        asked = relevance.ask(model, prompts, answers, foils)
        found = relevance.hits(relevance.explain(model, asked, "direct"), asked, questions)
        assert np.mean(found) >= 0.95, kind


def test_hits_counts_causes_among_the_top_words():
    asked = plain_question(5, torch.tensor([[0, 1, 1, 1, 1]]))
    scores = torch.tensor([[9.0, 1.0, 4.0, 3.0, 2.0]])
    for cause, top, hit in ((1, 1, True), (0, 3, False), (0, 4, True), (3, 3, True), (3, 2, False)):
        question = Case("", "", "", (cause,), "")
        assert relevance.hits(scores, asked, [question], top) == [hit], (cause, top)


def test_the_swapped_prompt_turns_the_answer_into_the_foil(model):
    for kind in world_questions.KINDS:
        asked, questions = asked_about(model, kind, 12)
        prompts, answers, foils, causes, swapped = zip(*questions, strict=True)
        other = relevance.ask(model, swapped, answers, foils)
        for prompt, changed, at in zip(prompts, swapped, causes, strict=True):
            words, new = prompt.split(), changed.split()
            assert len(words) == len(new)
            assert any(words[i] != new[i] for i in at)
        assert (relevance.score(model, asked, asked.embeddings) > 0).sum() >= 11
        assert (relevance.score(model, other, other.embeddings) < 0).sum() >= 11


def test_leave_one_out_in_closed_form():
    weights = torch.tensor([3.0, 1.0, 4.0])
    found = relevance.explain(additive(weights), plain_question(3), "leave one out")
    assert found.tolist() == [[3, 1, 4]]
    found = relevance.explain(
        additive(weights), plain_question(3, torch.tensor([[0, 1, 1]])), "leave one out"
    )
    assert found.tolist() == [[0, 1, 4]]


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
                assert tuple(named) in world.ENTITIES
            else:
                assert named[0] in {*lexicon.NOUNS, *lexicon.NOUNS.values()}
    with pytest.raises(ValueError, match="a kind of question, one of induction, .*; found 'mood'"):
        world_questions.cases("mood", 1)


def test_relevance_is_a_property_of_the_weights(model):
    """Sanity check (Adebayo et al. 2018): relevance in a model with random weights finds no causes."""
    asked, questions = asked_about(model, "indirect object", 40)
    untrained = bare(model.hf.config)
    embeddings = untrained.architecture.embedding(untrained.hf)(asked.ids)
    found = [
        relevance.explain(model, asked),
        relevance.explain(untrained, replace(asked, embeddings=embeddings)),
    ]
    trained, chance = (np.mean(relevance.hits(each, asked, questions, top=2)) for each in found)
    assert trained > 0.9
    assert chance < trained - 0.3


# --------------------------------------------------------------------------------------------------
# Figures


def test_figures_say_what_they_show():
    words, shares = (
        ["a", "b", "c"],
        {"A": torch.tensor([0.1, 0.9, 0.0]), "B": torch.tensor([0.6, -0.2, 0.3])},
    )
    figure, alt = figures.word_shares([figures.Reading("kind", words, shares, [1])])
    assert "'b' for A and 'a' for B" in alt
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "• b", "c"]
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["+.10", "+.90", "+.00"]
    depth = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0]])
    _, alt = figures.by_depth(words, {"A": depth, "B": depth.roll(1, 0)})
    assert "A holds more than half there from k = 1 of 2" in alt
    most, least = (
        [stats.Estimate(value, 9, value, value) for value in row] for row in ((8, 0, 0), (8, 6, 0))
    )
    panels = {name: {"LRP": (most, least), "random": (least, least)} for name in "AB"}
    figure, alt = figures.removals(panels, "logits")
    assert "mean gap in logits: A 2.0, B 2.0." in alt
    assert all(axis.get_xlabel() for axis in figure.axes)
    figure, alt = figures.handed_back()
    lengths = {}
    for patch in figure.axes[0].patches:
        lengths[patch.get_y()] = lengths.get(patch.get_y(), 0) + patch.get_width()
    assert list(lengths.values()) == pytest.approx([10] * 4)  # conserved in the sketch, too
