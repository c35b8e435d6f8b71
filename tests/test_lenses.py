"""Lenses: the fused loss against autograd, a planted map, the recipe to beat, bytes, files, figures."""

import csv
import math
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.toys import toy
from tft_utils import models, reading, stats
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.files import DATA
from tft_utils.lessons import lenses as figures
from tft_utils.models import load
from tft_utils.techniques import lenses
from tft_utils.techniques.lenses import Lens, Texts

NAMES = (*models.PAIR, "mamba-tied")
STEPS, BATCH = 60, 256

pytestmark = pytest.mark.usefixtures("without_gradients")


def texts_of(n: int, split: str) -> list[str]:
    """n documents of each kind."""
    return [d.text for kind in world.KINDS for d in world.documents(kind, n, split=split)]


class Trained(SimpleNamespace):
    """A model, a lens trained on it, and what both lenses cost on held-out texts."""


@pytest.fixture(scope="module", params=NAMES)
def trained(request) -> Trained:
    model = load(request.param)
    source = lenses.cached(model, lenses.encode(model, texts_of(32, "train")), BATCH)
    held_out = lenses.encode(model, texts_of(12, "test"))
    lens, logit = figures.train(model, source, STEPS), lenses.logit_lens(model)
    states = lenses.residuals(model, held_out.ids, held_out.counted)
    return Trained(
        model=model,
        source=source,
        lens=lens,
        texts=held_out,
        states=states,
        of_lens=lenses.measure(model, lens, held_out),
        of_logit=lenses.measure(model, logit, held_out),
    )


def small(model_type: str, vocab: int | None = 50, dtype=torch.float32, **changes) -> models.Model:
    """A random model of three blocks, loud enough to have opinions; its norms are not the identity.
    vocab None: all of the world's words."""
    changes |= {"initializer_range": 0.3, "tie_word_embeddings": False}
    model = toy(model_type, dtype=dtype, **changes | ({"vocab_size": vocab} if vocab else {}))
    weight = model.module("final_norm").weight.data
    weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) * 1.5 + 0.5)
    return model


def random_states(model, words: int, seed: int = 0) -> Tensor:
    """Streams [k word d_model] of no text."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(model.n_layers + 1, words, model.config.hidden_size, generator=draw)


def random_texts(model, n: int = 6, pos: int = 10, seed: int = 0) -> Texts:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.hf.config.vocab_size, (n, pos), generator=draw)
    counted = torch.arange(pos) < torch.randint(2, pos, (n, 1), generator=draw)
    return Texts(ids, counted, torch.full((n,), 40.0, dtype=torch.float64))


def random_lens(model, size: float = 0.1) -> Lens:
    draw = torch.Generator().manual_seed(1)
    A, b = vars(lenses.logit_lens(model)).values()
    return Lens(size * torch.randn(A.shape, generator=draw), size * torch.randn(b.shape, generator=draw))


EACH_TYPE = pytest.mark.parametrize("model_type", ARCHITECTURES)


# --------------------------------------------------------------------------------------------------
# The definitions: depth, the last depth, the two forms


@pytest.mark.parametrize("name", NAMES)
def test_residuals_are_those_that_nnsight_reads_at_depth_k(name):
    model = load(name)
    text = texts_of(1, "test")[0]
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    found = lenses.residuals(model, ids, torch.ones_like(ids, dtype=torch.bool))
    with model.trace(text):
        streams = []
        for k in range(model.n_layers + 1):
            streams.append(model.residual(k))
        streams = streams.save()
    assert found.shape == (model.n_layers + 1, ids.shape[1], 128)
    for ours, theirs in zip(found, streams, strict=True):
        assert torch.equal(ours, theirs[0])


@EACH_TYPE
def test_residuals_are_the_streams_of_the_open_blocks(model_type):
    model = small(model_type, vocab=None)
    ids, mask = reading.tokens(model, texts_of(1, "test")[:3])
    ours, theirs = lenses.residuals(model, ids, mask.bool()), reading.streams(model, ids)[:, mask.bool()]
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a - b).abs().max() < 1e-4 * b.abs().max(), k


def test_at_the_last_depth_a_lens_is_the_model(trained):
    model, texts = trained.model, trained.texts
    logits = model.hf(texts.ids, use_cache=False).logits[texts.counted]
    (found,) = lenses.log_probs(model, trained.lens.translate(trained.states[:, :200])[-1:])
    assert torch.allclose(found[0], logits[:200].log_softmax(-1), atol=1e-5)
    truth = F.cross_entropy(logits, texts.ids[:, 1:][texts.counted[:, :-1]], reduction="sum").double()
    assert trained.of_lens.ce[:, -1].sum().item() == pytest.approx(truth.item(), rel=1e-5)
    assert trained.of_lens.kl[:, -1].abs().max() < 1e-3  # nats in a whole text
    assert torch.equal(trained.of_lens.ce[:, -1], trained.of_logit.ce[:, -1])


@EACH_TYPE
def test_a_lens_starts_as_the_logit_lens_and_translates_by_depth(model_type):
    model = small(model_type)
    states = random_states(model, 5)
    assert torch.equal(lenses.logit_lens(model).translate(states), states)
    lens = random_lens(model)
    moved = lens.translate(states)
    for k in range(3):
        by_hand = torch.stack([r + lens.A[k] @ r + lens.b[k] for r in states[k]])
        assert torch.allclose(moved[k], by_hand, atol=1e-5)
    assert torch.equal(moved[3], states[3])


# --------------------------------------------------------------------------------------------------
# The fused loss


@EACH_TYPE
@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_divergence_and_its_gradients_are_autograds(model_type, rows, bias, monkeypatch):
    """Against full logits in float64, for every depth by itself, in chunks that do not divide it."""
    monkeypatch.setattr(lenses, "ROWS", rows)
    model, exact = small(model_type), small(model_type, dtype=torch.float64)
    if bias:
        values = 2 * torch.randn(50, generator=torch.Generator().manual_seed(4))
        model.module("unembedding").bias = torch.nn.Parameter(values)
        exact.module("unembedding").bias = torch.nn.Parameter(values.double())
    states = 2 * random_states(model, 7)
    weights = torch.tensor([1.0, 2.0, 3.0])
    with torch.enable_grad():
        A, b = (tensor.requires_grad_() for tensor in vars(random_lens(model)).values())
        kl = lenses.divergence(model, Lens(A, b), states)
        ours = [kl, *torch.autograd.grad((kl * weights).sum(), [A, b])]
        A, b = (tensor.detach().double().requires_grad_() for tensor in (A, b))
        x = states.double()
        target = exact.to_logits(x[-1]).log_softmax(-1)
        depths = []
        for k in range(3):
            log_q = exact.to_logits(x[k] + x[k] @ A[k].T + b[k]).log_softmax(-1)
            depths.append((target.exp() * (target - log_q)).sum(-1).mean())
        kl = torch.stack(depths)
        truth = [kl, *torch.autograd.grad((kl * weights.double()).sum(), [A, b])]
    for got, true in zip(ours, truth, strict=True):
        assert torch.allclose(got.double(), true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))


@pytest.mark.parametrize("bias", [False, True])
def test_a_second_derivative_is_right_or_refused(bias):
    """The fused one has none. With a bias autograd does it, and agrees with finite differences."""
    model = small("gpt_neox")
    if bias:
        model.module("unembedding").bias = torch.nn.Parameter(torch.linspace(-1, 1, 50))
    states, lens = random_states(model, 5), random_lens(model)
    along = torch.randn(lens.b.shape, generator=torch.Generator().manual_seed(3))

    def slope(b: Tensor) -> Tensor:
        kl = lenses.divergence(model, Lens(lens.A, b), states).sum()
        return torch.autograd.grad(kl, b, create_graph=True)[0]

    with torch.enable_grad():
        b = lens.b.requires_grad_()
        if not bias:
            with pytest.raises(NotImplementedError, match="expected one derivative, found"):
                slope(b)
            return
        (second,) = torch.autograd.grad((slope(b) * along).sum(), b)
        up, down = (slope((b + step * along).detach().requires_grad_()) for step in (0.01, -0.01))
    assert torch.allclose(second, (up - down) / 0.02, rtol=1e-2, atol=1e-3 * float(second.abs().max()))


def test_mean_row_is_the_softmax_average_and_survives_large_logits():
    draw = torch.Generator().manual_seed(0)
    x, rows = 100 * torch.randn(5, 8, generator=draw), torch.randn(30, 8, generator=draw)
    mean, log_sum = lenses.mean_row(x, rows)
    logits = (x @ rows.T).double()
    assert torch.allclose(mean.double(), logits.softmax(-1) @ rows.double(), atol=1e-4)
    assert torch.allclose(log_sum.double(), logits.logsumexp(-1), rtol=1e-5)


@EACH_TYPE
def test_bfloat16_weights_keep_float32_losses(model_type):
    model, exact = small(model_type, dtype=torch.bfloat16), small(model_type)
    states = random_states(model, 40)
    lens = random_lens(exact)
    with torch.enable_grad():
        A, b = (each.requires_grad_() for each in vars(lens).values())
        kl = lenses.divergence(model, Lens(A, b), states.bfloat16())
        (gradient,) = torch.autograd.grad(kl.sum(), A)
        reference = lenses.divergence(exact, Lens(A, b), states)
        (truth,) = torch.autograd.grad(reference.sum(), A)
    assert kl.dtype == gradient.dtype == torch.float32
    assert torch.allclose(kl, reference, rtol=0.05)
    assert (gradient - truth).norm() < 0.05 * truth.norm()


def test_never_more_than_a_chunk_of_logits_exists(monkeypatch):
    """Also where the vocabulary is 50 k: the largest tensor of a training step stays that small."""
    monkeypatch.setattr(lenses, "ROWS", 64)
    model = small("gpt_neox", vocab=50_304)
    states = random_states(model, 150)
    with torch.enable_grad(), torch.profiler.profile(profile_memory=True) as profile:
        A, b = (each.requires_grad_() for each in vars(random_lens(model)).values())
        lenses.divergence(model, Lens(A, b), states).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    chunk = 64 * 50_304 * 4
    assert largest <= 1.1 * chunk < 150 * 50_304 * 4 / 2


# --------------------------------------------------------------------------------------------------
# Training


def test_a_planted_affine_map_is_recovered():
    """The last state is a known map of the one before it: the lens must find that map.

    A LayerNorm follows, which sees neither the mean nor the length of its input, so the map is found
    up to both: what is compared is what the norm makes of held-out states, and the KL is zero.
    """
    model = small("gpt_neox", vocab=200, hidden_size=16, num_attention_heads=2)
    draw = torch.Generator().manual_seed(3)
    B, shift = 0.3 * torch.randn(16, 16, generator=draw), torch.randn(16, generator=draw)

    def states(step: int) -> Tensor:
        own = torch.Generator().manual_seed(step)
        r = torch.randn(3, 400, 16, generator=own)
        return torch.cat([r, (r[2] + r[2] @ B.T + shift)[None]])

    lens = figures.train(model, states, 400)
    new = states(10_000)
    found = lens.translate(new)
    assert lenses.divergence(model, lens, new)[2] < 2e-3
    assert lenses.divergence(model, lenses.logit_lens(model), new)[2] > 0.5
    for got, true in zip(F.layer_norm(found[2], (16,)), F.layer_norm(new[3], (16,)), strict=True):
        assert F.cosine_similarity(got, true, dim=0) > 0.998
    center = torch.eye(16) - 1 / 16
    maps = [center @ (torch.eye(16) + each) for each in (lens.A[2], B)]
    assert F.cosine_similarity(maps[0].flatten(), maps[1].flatten(), dim=0) > 0.99
    assert lenses.divergence(model, lens, new)[0] > 0.1  # unrelated states tell it nothing


def test_tuned_is_below_logit_at_every_depth_and_falls_with_depth(trained):
    gain = trained.of_lens.minus(trained.of_logit)
    assert all(e.high < 0 for e in gain[:-1]), gain
    assert gain[-1].value == 0
    ce = trained.of_lens.ce
    for k in range(ce.shape[1] - 1):  # monotone within the interval of the paired difference
        assert stats_of(ce[:, k + 1] - ce[:, k], trained.texts).low < 0.0


def stats_of(amounts: Tensor, texts: Texts) -> stats.Estimate:
    return stats.ratio(amounts, texts.counted.sum(1))


def train_as_published(model, source, steps: int) -> lenses.Lens:
    """The published recipe (Belrose et al. 2023; Paulo et al. 2024): SGD with Nesterov momentum .9 at
    rate .1 falling linearly, weight decay 1e-3, one gradient norm over all depths clipped at 1."""
    A, b = (zeros.requires_grad_() for zeros in vars(lenses.logit_lens(model)).values())
    optimiser = torch.optim.SGD([A, b], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        optimiser.zero_grad()
        with torch.enable_grad():
            lenses.divergence(model, lenses.Lens(A, b), source(step)).sum().backward()
        torch.nn.utils.clip_grad_norm_([A, b], 1.0)
        optimiser.step()
    return lenses.Lens(A.detach(), b.detach())


def test_ours_beats_the_published_recipe_at_every_depth(trained):
    theirs = train_as_published(trained.model, trained.source, STEPS)
    gain = trained.of_lens.minus(lenses.measure(trained.model, theirs, trained.texts))
    assert all(e.value < 0 for e in gain[:-1]), [round(e.value, 3) for e in gain]


def test_kl_is_the_expected_gap_of_cross_entropies(trained):
    """With next words drawn from the model, ce(lens) - ce(model) is the KL, within the noise of the
    draw. On the world's documents the two differ by how far the model itself is off."""
    model, texts = trained.model, trained.texts
    text = torch.arange(len(texts.ids)).repeat_interleave(texts.counted.sum(1))
    h = trained.lens.translate(trained.states)
    own = torch.cat([part[0] for part in lenses.log_probs(model, h[-1:])]).exp()
    draws = torch.multinomial(own, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    ce, kl, _ = lenses.scores(model, h, draws)
    for k in range(len(h) - 1):
        gap = torch.zeros(len(texts.ids), dtype=torch.float64)
        gap.index_add_(0, text, (ce[k] - ce[-1] - kl[k]).double())
        found = stats_of(gap, texts)
        assert abs(found.value) < 2.6 / 1.96 * (found.high - found.value), (k, found)


def test_a_lens_trained_on_shuffled_targets_reads_nothing(trained):
    """It beats the best constant answer, the frequencies of the held-out words themselves, by no more
    than its few steps leave of the logit lens that it starts as. One that is trained in the same way on
    the words' own targets beats it by far."""
    model, texts, recipe = trained.model, trained.texts, {"steps": STEPS, "rate": 0.02}
    control = figures.train(model, figures.shuffled(trained.source), **recipe)
    found = lenses.measure(model, control, texts).nats_per_word("ce")
    counts = texts.ids[:, 1:][texts.counted[:, :-1]].bincount().double()
    constant = torch.special.entr(counts / counts.sum()).sum().item()
    assert all(e.value > constant - 0.15 for e in found[:-1]), (constant, found)
    lens = figures.train(model, trained.source, **recipe)
    tuned = lenses.measure(model, lens, texts).nats_per_word("ce")
    assert all(e.value < constant - 0.8 for e in tuned), (constant, tuned)


@EACH_TYPE
def test_a_cached_source_deals_out_the_words_of_all_texts(model_type):
    model = small(model_type)
    texts = random_texts(model, n=2 * reading.BATCH + 1)
    whole = lenses.residuals(model, texts.ids, texts.counted)
    n = whole.shape[1]
    cache = lenses.cached(model, texts, n)
    truth = whole[-1, :, 0].argsort()
    rounding = 1e-6 * whole.abs().max().item()  # of float32, in batches of other sizes
    for states in (cache(0), cache(1)):
        assert states.shape == whole.shape
        assert torch.allclose(states[:, states[-1, :, 0].argsort()], whole[:, truth], atol=rounding)
    assert torch.equal(cache(1), lenses.cached(model, texts, n)(1))  # step and seed decide
    assert not torch.equal(cache(0), cache(1))
    half = lenses.cached(model, texts, n // 2)  # two steps an epoch
    epoch = torch.cat([half(2), half(3)], 1)[-1, :, 0].sort().values
    assert torch.allclose(epoch, whole[-1, truth, 0], atol=1e-5)
    with pytest.raises(ValueError, match=f"expected a batch of 1 to {n} words, found 9999; choose"):
        lenses.cached(model, texts, 9999)


@EACH_TYPE
def test_lenses_do_not_hang_on_torchs_default_dtype(model_type):
    """A notebook that works in float64 elsewhere trains and reads the same lens."""
    model = small(model_type, vocab=None)
    texts = lenses.encode(model, texts_of(2, "test"))
    case = world_questions.cases("fact", 1)[0]

    def everything() -> list[Tensor]:
        source = lenses.cached(model, texts, 20)
        results = []
        for recipe in (figures.train, train_as_published):
            lens = recipe(model, figures.shuffled(source), 3)
            costs = lenses.measure(model, lens, texts)
            results += [lens.A, lens.b, costs.ce, costs.kl, costs.entropy]
            results += [lenses.trajectory(model, lens, case.prompt).chances]
            results += [lenses.known(model, lens, [case.prompt], [case.answer], [case.foil])]
        return results

    usual = everything()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        in_float64 = everything()
    finally:
        torch.set_default_dtype(before)
    for a, b in zip(usual, in_float64, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@EACH_TYPE
def test_a_model_that_overflows_in_float16_is_told_to_use_bfloat16(model_type):
    sentence = "^expected finite {}, found numbers that are not, as when float16 overflows; load the "
    sentence += r"model with dtype=torch\.bfloat16, which has the range of float32$"
    case = world_questions.cases("fact", 1)[0]
    asked = ([case.prompt], [case.answer])
    model = small(model_type, vocab=None, dtype=torch.float16)
    texts = lenses.encode(model, texts_of(2, "test"))
    try:
        model.hf(texts.ids, use_cache=False)
    except RuntimeError as error:
        pytest.skip(f"skipped loudly: transformers cannot run {model_type} in float16 ({error})")
    source, lens = lenses.cached(model, texts, 20), lenses.logit_lens(model)
    assert figures.train(model, source, 3).A.isfinite().all()  # float16 as such is no fault
    model.module("unembedding").weight.data *= 60_000  # now the logits overflow, if nothing bounds them
    recipes = (figures.train, train_as_published) if not model.capped else ()
    for recipe in recipes:
        with pytest.raises(ValueError, match=sentence.format("translators")):
            recipe(model, source, 3)
        for reads in (
            lambda: lenses.measure(model, lens, texts),
            lambda: lenses.known(model, lens, *asked),
        ):
            with pytest.raises(ValueError, match=sentence.format("logits")):
                reads()
    model.module("embedding").weight.data[:, ::2] = 60_000  # and now the streams
    model.module("embedding").weight.data[:, 1::2] = -60_000
    model.module("output", 1).weight.data.fill_(60_000)
    for reads in (
        lambda: lenses.cached(model, texts, 20),
        lambda: lenses.trajectory(model, lens, case.prompt),
    ):
        with pytest.raises(ValueError, match=sentence.format("residual streams")):
            reads()
    wider = small(model_type, vocab=None, dtype=torch.bfloat16)
    wider.module("unembedding").weight.data *= 60_000
    lens = figures.train(wider, lenses.cached(wider, texts, 20), 3)
    assert lens.A.isfinite().all()
    assert lenses.measure(wider, lens, texts).ce.isfinite().all()


def test_training_on_cuda_in_bfloat16():
    if not torch.cuda.is_available():
        pytest.skip("skipped loudly: no CUDA")
    model = load("mamba", device="cuda", dtype=torch.bfloat16)
    texts = lenses.encode(model, texts_of(10, "train"))
    lens = figures.train(model, lenses.cached(model, texts, 256), 40)
    gain = lenses.measure(model, lens, texts).minus(
        lenses.measure(model, lenses.logit_lens(model), texts)
    )
    assert lens.A.dtype == torch.float32
    assert lens.A.is_cuda
    assert all(e.high < 0 for e in gain[:-1])


# --------------------------------------------------------------------------------------------------
# Units, files, errors


def test_units_and_intervals_by_hand():
    """Two texts, two depths: sums over sums; and the interval of a ratio against a bootstrap."""
    ce = torch.tensor([[8.0, 4.0], [4.0, 2.0]], dtype=torch.float64)
    found = lenses.Measured(ce, ce / 2, ce / 4, torch.tensor([2, 4]), torch.tensor([10.0, 20.0]))
    assert [e.value for e in found.nats_per_word("ce")] == [2.0, 1.0]
    assert [e.value for e in found.bits_per_byte("kl")] == pytest.approx(
        [6 / math.log(2) / 30, 3 / math.log(2) / 30]
    )
    assert found.nats_per_word("entropy")[0].n == 2
    assert torch.equal(found.excess, torch.tensor([[4.0, 0.0], [2.0, 0.0]], dtype=torch.float64))
    draw = torch.Generator().manual_seed(0)
    units = torch.randint(5, 40, (200,), generator=draw)
    amounts = units * (1 + torch.rand(200, generator=draw))
    linear = stats.ratio(amounts, units)
    rows = np.stack([amounts.numpy(), units.numpy()], 1)
    boot = stats.bootstrap(rows, lambda r: r[:, 0].sum() / r[:, 1].sum(), seed=0)
    assert linear.value == pytest.approx(boot.value)
    assert linear.high - linear.low == pytest.approx(boot.high - boot.low, rel=0.1)
    with pytest.raises(ValueError, match="expected at least 2 independent values"):
        stats.ratio(torch.ones(1), torch.ones(1))


def test_bytes_count_every_word_but_the_first_with_its_space():
    model = load("transformer")
    sentences = texts_of(2, "test")
    texts = lenses.encode(model, sentences)
    for text, n_bytes, counted in zip(sentences, texts.n_bytes, texts.counted, strict=True):
        words = text.split()
        assert n_bytes == sum(len(f" {word}".encode()) for word in words[1:])
        assert counted.sum() == len(words) - 1
    one = lenses.encode(model, sentences[0])
    assert torch.equal(one.ids, lenses.encode(model, sentences[:1]).ids)
    with pytest.raises(ValueError, match="at least 2 tokens, found 'The'; leave it out"):
        lenses.encode(model, ["The keys", "The"])
    with pytest.raises(ValueError, match="expected texts of one token or more .* found 0 texts"):
        lenses.encode(model, [])


def byte_level(size: int, space: bool = False, mark: bool = False, nfc: bool = False) -> SimpleNamespace:
    """What `encode` needs of a model, with a byte-level BPE tokenizer of `size` tokens. space: it puts
    one before a text; mark: it begins a text with a token of its own; nfc: it composes letters."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    bpe.decoder, bpe.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=True)
    if nfc:
        bpe.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    bpe.train_from_iterator(["🙂🙁😀 smile at me"], trainer)
    if mark:
        bpe.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    return SimpleNamespace(tokenizer=tokenizer, hf=SimpleNamespace(device="cpu"))


@pytest.mark.parametrize(
    ("text", "size", "options", "first", "n_bytes"),
    [
        ("🙂 smile at me", 257, {}, "ð", 15),  # 16 in all, of which the first token has one
        ("🙂 smile at me", 258, {}, "ðŁ", 14),
        ("🙂 smile at me", 259, {}, "ðŁĻ", 13),
        ("🙂 smile at me", 300, {"space": True}, "ĠðŁĻ", 13),  # a space that is not in the text
        (" 🙂 smile at me", 300, {"space": True}, "ĠðŁĻ", 13),  # and one that is
        (" 🙂 smile at me", 300, {}, "Ġ", 16),
        ("🙂 smile at me", 300, {"mark": True}, "<s>", 16),
        ("me\nat señor", 300, {}, "me", 10),
        ("smile at sen\u0303or", 300, {"nfc": True}, "smil", 12),  # bytes of the text as it is written
    ],
)
def test_bytes_are_those_of_the_text_where_a_token_ends_within_a_character(
    text, size, options, first, n_bytes
):
    model = byte_level(size, **options)
    tokens = model.tokenizer(text).tokens()
    assert tokens[0] == first
    assert lenses.encode(model, [text]).n_bytes.tolist() == [n_bytes]
    if "nfc" not in options:  # so a token has one letter for each byte
        assert n_bytes == sum(map(len, tokens[1:]))


@EACH_TYPE
def test_measure_equals_a_plain_loop(model_type):
    model, lens = small(model_type), random_lens(small(model_type))
    texts = random_texts(model)
    found = lenses.measure(model, lens, texts)
    logits = model.hf(texts.ids, use_cache=False).logits
    for i in range(len(texts.ids)):
        n = int(texts.counted[i].sum())
        states = lenses.residuals(model, texts.ids[i : i + 1], texts.counted[i : i + 1])
        p = logits[i, :n].log_softmax(-1)
        for k, h in enumerate(lens.translate(states)):
            q = model.to_logits(h).log_softmax(-1)
            ce = F.nll_loss(q, texts.ids[i, 1 : n + 1], reduction="sum")
            kl = F.kl_div(q, p, log_target=True, reduction="sum")
            entropy = -(q.exp() * q).sum()
            ours = [getattr(found, metric)[i, k].item() for metric in ("ce", "kl", "entropy")]
            assert ours == pytest.approx([ce.item(), kl.item(), entropy.item()], rel=1e-4, abs=1e-4)


def test_measurements_of_other_texts_are_not_compared():
    model = small("gpt_neox")
    lens = lenses.logit_lens(model)
    one = lenses.measure(model, lens, random_texts(model))
    other = lenses.measure(model, lens, random_texts(model, n=3))
    with pytest.raises(ValueError, match="two measurements of the same texts"):
        one.minus(other)


# --------------------------------------------------------------------------------------------------
# When does a model know?


@pytest.mark.parametrize("name", models.PAIR)
def test_known_at_the_last_depth_is_what_the_model_answers(name):
    model = load(name)
    lens = lenses.logit_lens(model)
    for kind, foils in (("fact", False), ("agreement", True), ("induction", False)):
        cases = world_questions.cases(kind, 12)
        prompts, answers, wrong, *_ = zip(*cases, strict=True)
        found = lenses.known(model, lens, prompts, answers, wrong if foils else None)
        assert found.shape == (12, model.n_layers + 1)
        for case, right in zip(cases, found[:, -1], strict=True):
            logits = model.hf(**model.tokenizer(case.prompt, return_tensors="pt")).logits[0, -1]
            answer, foil = model.tokenizer.convert_tokens_to_ids([case.answer, case.foil])
            assert right == (logits[answer] > logits[foil] if foils else logits.argmax() == answer)


def test_a_trajectory_ends_with_the_models_words():
    model = load("mamba")
    text = world_questions.cases("fact", 1)[0].prompt
    found = lenses.trajectory(model, lenses.logit_lens(model), text)
    logits = model.hf(**model.tokenizer(text, return_tensors="pt")).logits[0]
    assert found.words == text.split()
    assert found.guesses[-1] == model.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    assert len(found.guesses) == len(found.chances) == model.n_layers + 1
    assert torch.allclose(found.chances[-1], logits.softmax(-1).amax(-1), atol=1e-5)


def test_tokens_are_spelled_as_one_reads_them():
    """A byte-level tokenizer writes a space as a letter of its own, before the word that follows it."""
    model = byte_level(400)
    words = lenses.spelled(
        model, model.tokenizer("The keys  near\n\nthe door", return_tensors="pt").input_ids[0]
    )
    assert not any(mark in word for word in words for mark in "ĠĊ")
    assert all(word and word == word.strip() for word in words), "space is in quotes"
    assert re.sub(r"'( |\\n)+'", "", "".join(words)) == "Thekeysnearthedoor"


# --------------------------------------------------------------------------------------------------
# Published figures, and ours


def test_published_curves_are_the_papers_re_indexed(shared_dir):
    """Layer i means k = i for Pythia and k = i + 1 for Mamba and RWKV (reference/paper.md, 3.3)."""
    with open(DATA / "published" / "tuned_lens.csv", newline="", encoding="utf-8") as file:
        ours = {(r["model"], r["lens"], int(r["k"])): r for r in csv.DictReader(file)}
    with open(shared_dir / "published" / "paper_tuned_lens.csv", newline="", encoding="utf-8") as file:
        theirs = list(csv.DictReader(file))
    compared = 0
    for row in theirs:
        shift = row["family"] != "pythia"
        if row["lens"] == "baseline" or row["metric"] == "kl":
            continue
        key = (f"{row['family']}-{row['size']}", row["lens"], int(row["layer"]) + shift)
        if key in ours:
            found = float(ours[key][f"{row['metric']}_bits_per_byte"])
            assert found == pytest.approx(float(row["value"]), abs=1e-4)
            compared += 1
    assert compared == 2 * sum(key[1] != "model" for key in ours)


def curve(*values: float) -> list[stats.Estimate]:
    return [stats.Estimate(v, 10, v - 0.1, v + 0.1) for v in values]


def drawn(names: tuple[str, ...] = models.PAIR):
    """Every figure, for these models."""
    chances = torch.tensor([[0.2, 0.9], [0.4, 1.0]])
    guesses = {name: [["a", "db"[i % 2 == 0]], ["c", "d"]] for i, name in enumerate(names)}
    said = {name: lenses.Trajectory(["x", "y"], rows, chances) for name, rows in guesses.items()}
    names_of = ("logit lens", "tuned lens", "shuffled targets")
    three = dict(zip(names_of, (curve(3, 2, 1), curve(2, 1.5, 1), curve(4, 4, 1)), strict=True))
    yield figures.early_exits()
    yield figures.trajectories(said)
    yield figures.lens_curves(dict.fromkeys(names, three), "cross-entropy (nats per word)")
    yield figures.transfer_maps({name: torch.eye(4) for name in names}, "nats per word")
    lines = {name: curve(0.2, 0.6) for name in names} | {f"{names[-1]}, control": curve(0, 0)}
    yield figures.knowing({"fact": lines, "agreement": lines})
    line = {"logit lens": ([0, 0.5], [4.0, 1.0]), "tuned lens": ([0, 0.5], [2.0, 1.0])}
    theirs = dict.fromkeys(figures.PUBLISHED, line)
    yield figures.beside_published({"theirs": theirs, "ours": dict.fromkeys(names, line)})


@pytest.mark.parametrize("names", [("mamba",), models.PAIR, ("mamba-tied", "mamba", "transformer", "x")])
def test_figures_are_fit_for_a_page_and_the_same_on_every_run(names):
    known = {*(plots.style(name)["color"] for name in (*models.PAIR, *names, "rwkv")), plots.GREY}
    first = []
    for figure, alt in drawn(names):
        assert not plots.unfit(figure, alt)
        for axis in figure.axes:
            assert {line.get_color() for line in axis.lines} <= known
        first.append(plots.png(figure))
    second = [plots.png(figure) for figure, _ in drawn(names)]
    assert first == second
    plt.close("all")


def test_a_model_looks_the_same_wherever_it_stands():
    figure, _ = figures.knowing({"fact": {"mamba": curve(0, 1), "transformer": curve(0, 1)}})
    for line in figure.axes[0].lines:
        look = plots.style(line.get_label())
        assert (line.get_color(), line.get_marker()) == (look["color"], look["marker"])
        assert line.get_linestyle() == figures.LENSES["tuned lens"]["linestyle"]
    plt.close("all")


def test_alt_texts_state_the_numbers():
    alts = [alt for _, alt in drawn()]
    assert "transformer says 'd' from k = 1 of 1 on and mamba says 'd' from k = 0 of 1 on" in alts[1]
    assert "mamba, logit lens: 3.00 at k = 0, 2.00 half-way" in alts[2]
    assert alts[4].endswith(
        "half-way, fact: transformer 60%, mamba 60%; agreement: transformer 60%, mamba 60%."
    )
    assert "ours, mamba: 4.0 then 2.0" in alts[5]
    plt.close("all")
