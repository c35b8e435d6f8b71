"""Lenses: the fused loss against autograd, a planted map, the recipe it must beat, files, figures."""

import csv
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MambaConfig

from tft_utils import models, stats
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.files import DATA
from tft_utils.lessons import lenses as figures
from tft_utils.models import load
from tft_utils.techniques import lens_training, lenses
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
    source = lens_training.cached(model, lenses.encode(model, texts_of(32, "train")), BATCH)
    held_out = lenses.encode(model, texts_of(12, "test"))
    lens, logit = lens_training.train(model, source, STEPS), lenses.logit_lens(model)
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


def small(model_type: str, vocab: int = 50, dtype=torch.float32) -> SimpleNamespace:
    """A random transformers model whose norms are not the identity; no tokenizer."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "vocab_size": vocab,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    heads = {"num_attention_heads": 2, "intermediate_size": 32}
    config = MambaConfig(**shape) if model_type == "mamba" else GPTNeoXConfig(**shape, **heads)
    hf, architecture = AutoModelForCausalLM.from_config(config), ARCHITECTURES[model_type]
    architecture.final_norm(hf).weight.data.uniform_(0.5, 2)
    hf = hf.to(dtype).eval()
    architecture.prepare(hf, readable=False)
    return SimpleNamespace(hf=hf, architecture=architecture)


def random_texts(model, n: int = 6, pos: int = 10, seed: int = 0) -> Texts:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.hf.config.vocab_size, (n, pos), generator=draw)
    counted = torch.arange(pos) < torch.randint(2, pos, (n, 1), generator=draw)
    return Texts(ids, counted, torch.full((n,), 40.0, dtype=torch.float64))


def random_lens(model, size: float = 0.1) -> Lens:
    draw = torch.Generator().manual_seed(1)
    A, b = vars(lenses.logit_lens(model)).values()
    return Lens(size * torch.randn(A.shape, generator=draw), size * torch.randn(b.shape, generator=draw))


EACH_TYPE = pytest.mark.parametrize("model_type", ["gpt_neox", "mamba"])


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
    states = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lenses.logit_lens(model).translate(states), states)
    lens = random_lens(model)
    moved = lens.translate(states)
    for k in range(3):
        by_hand = torch.stack([r + lens.A[k] @ r + lens.b[k] for r in states[k]])
        assert torch.allclose(moved[k], by_hand, atol=1e-5)
        assert torch.allclose(lens.translate(states, k)[1], lens.translate(states[1:2], k)[0])
        assert torch.allclose(lens.translate(states, k)[k], moved[k], atol=1e-5)
    assert torch.equal(moved[3], states[3])
    assert torch.equal(lens.translate(states, 3), states)


# --------------------------------------------------------------------------------------------------
# The fused loss


@EACH_TYPE
@pytest.mark.parametrize("rows", [3, 256])
def test_the_fused_divergence_and_its_gradients_are_autograds(model_type, rows, monkeypatch):
    """Against full logits in float64, for every depth by itself, in chunks that do not divide it."""
    monkeypatch.setattr(lens_training, "ROWS", rows)
    model, exact = small(model_type), small(model_type, dtype=torch.float64)
    states = 2 * torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        A, b = (each.requires_grad_() for each in vars(random_lens(model)).values())
        kl = lens_training.divergence(model, Lens(A, b), states)
        found = [kl, *torch.autograd.grad((kl * torch.tensor([1.0, 2.0, 3.0])).sum(), [A, b])]
        A, b = (each.detach().double().requires_grad_() for each in (A, b))
        rows_of, x = lenses.unembedding(exact), states.double()
        norm = exact.architecture.final_norm(exact.hf)
        target = (norm(x[-1]) @ rows_of.T).log_softmax(-1)
        each = []
        for k in range(3):
            log_q = (norm(x[k] + x[k] @ A[k].T + b[k]) @ rows_of.T).log_softmax(-1)
            each.append((target.exp() * (target - log_q)).sum(-1).mean())
        kl = torch.stack(each)
        weighted = (kl * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).sum()
        truth = [kl, *torch.autograd.grad(weighted, [A, b])]
    for ours, theirs in zip(found, truth, strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_mean_row_is_the_softmax_average_and_survives_large_logits():
    draw = torch.Generator().manual_seed(0)
    x, rows = 100 * torch.randn(5, 8, generator=draw), torch.randn(30, 8, generator=draw)
    mean, log_sum = lens_training.mean_row(x, rows)
    logits = (x @ rows.T).double()
    assert torch.allclose(mean.double(), logits.softmax(-1) @ rows.double(), atol=1e-4)
    assert torch.allclose(log_sum.double(), logits.logsumexp(-1), rtol=1e-5)


@EACH_TYPE
def test_bfloat16_weights_keep_float32_losses(model_type):
    model, exact = small(model_type, dtype=torch.bfloat16), small(model_type)
    states = torch.randn(4, 40, 16, generator=torch.Generator().manual_seed(0))
    lens = random_lens(exact)
    with torch.enable_grad():
        A, b = (each.requires_grad_() for each in vars(lens).values())
        kl = lens_training.divergence(model, Lens(A, b), states.bfloat16())
        (gradient,) = torch.autograd.grad(kl.sum(), A)
        reference = lens_training.divergence(exact, Lens(A, b), states)
        (truth,) = torch.autograd.grad(reference.sum(), A)
    assert kl.dtype == gradient.dtype == torch.float32
    assert torch.allclose(kl, reference, rtol=0.05)
    assert (gradient - truth).norm() < 0.05 * truth.norm()


def test_never_more_than_a_chunk_of_logits_exists(monkeypatch):
    """Also where the vocabulary is 50 k: the largest tensor of a training step stays that small."""
    monkeypatch.setattr(lens_training, "ROWS", 64)
    model = small("gpt_neox", vocab=50_304)
    states = torch.randn(4, 150, 16, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad(), torch.profiler.profile(profile_memory=True) as profile:
        A, b = (each.requires_grad_() for each in vars(random_lens(model)).values())
        lens_training.divergence(model, Lens(A, b), states).sum().backward()
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
    model = small("gpt_neox", vocab=200)
    draw = torch.Generator().manual_seed(3)
    B, shift = 0.3 * torch.randn(16, 16, generator=draw), torch.randn(16, generator=draw)

    def states(step: int) -> Tensor:
        own = torch.Generator().manual_seed(step)
        r = torch.randn(3, 400, 16, generator=own)
        return torch.cat([r, (r[2] + r[2] @ B.T + shift)[None]])

    lens = lens_training.train(model, states, 400)
    new = states(10_000)
    found = lens.translate(new)
    assert lens_training.divergence(model, lens, new)[2] < 2e-3
    assert lens_training.divergence(model, lenses.logit_lens(model), new)[2] > 0.5
    for got, true in zip(F.layer_norm(found[2], (16,)), F.layer_norm(new[3], (16,)), strict=True):
        assert F.cosine_similarity(got, true, dim=0) > 0.998
    center = torch.eye(16) - 1 / 16
    maps = [center @ (torch.eye(16) + each) for each in (lens.A[2], B)]
    assert F.cosine_similarity(maps[0].flatten(), maps[1].flatten(), dim=0) > 0.99
    assert lens_training.divergence(model, lens, new)[0] > 0.1  # unrelated states tell it nothing


def test_tuned_is_below_logit_at_every_depth_and_falls_with_depth(trained):
    gain = trained.of_lens.minus(trained.of_logit)
    assert all(e.high < 0 for e in gain[:-1]), gain
    assert gain[-1].value == 0
    ce = trained.of_lens.ce
    for k in range(ce.shape[1] - 1):  # monotone within the interval of the paired difference
        assert stats_of(ce[:, k + 1] - ce[:, k], trained.texts).low < 0.0


def stats_of(amounts: Tensor, texts: Texts) -> stats.Estimate:
    return stats.ratio(amounts, texts.counted.sum(1))


def test_ours_beats_the_published_recipe_at_every_depth(trained):
    theirs = lens_training.train_as_published(trained.model, trained.source, STEPS)
    gain = trained.of_lens.minus(lenses.measure(trained.model, theirs, trained.texts))
    assert all(e.value < 0 for e in gain[:-1]), [round(e.value, 3) for e in gain]


def test_kl_is_the_expected_gap_of_cross_entropies(trained):
    """With next words drawn from the model, ce(lens) - ce(model) is the KL, within the noise of the
    draw. On the world's documents the two differ by how far the model itself is off."""
    model, texts = trained.model, trained.texts
    text = torch.arange(len(texts)).repeat_interleave(texts.counted.sum(1))
    h = trained.lens.translate(trained.states)
    own = torch.cat([part[0] for part in lenses.log_probs(model, h[-1:])]).exp()
    draws = torch.multinomial(own, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    ce, kl, _ = lenses.scores(model, h, draws)
    for k in range(len(h) - 1):
        gap = torch.zeros(len(texts), dtype=torch.float64)
        gap.index_add_(0, text, (ce[k] - ce[-1] - kl[k]).double())
        found = stats_of(gap, texts)
        assert abs(found.value) < 2.6 / 1.96 * (found.high - found.value), (k, found)


def test_a_lens_trained_on_shuffled_targets_reads_nothing(trained):
    """It does not beat the best constant answer, the frequencies of the held-out words themselves."""
    model, texts = trained.model, trained.texts
    control = lens_training.train(model, lens_training.shuffled(trained.source), STEPS)
    found = lenses.measure(model, control, texts).nats_per_word("ce")
    counts = texts.ids[:, 1:][texts.counted[:, :-1]].bincount().double()
    constant = torch.special.entr(counts / counts.sum()).sum().item()
    assert all(e.value > constant for e in found[:-1]), (constant, found)
    tuned = trained.of_lens.nats_per_word("ce")
    assert all(e.value < constant - 0.8 for e in tuned), (constant, tuned)


@EACH_TYPE
def test_streamed_and_cached_sources_hold_the_same_words(model_type):
    model = small(model_type)
    texts = random_texts(model)
    whole = lenses.residuals(model, texts.ids, texts.counted)
    n = whole.shape[1]
    stream, cache = (
        lens_training.streamed(model, texts, 2),
        lens_training.cached(model, texts, n, read=4),
    )
    by_stream = torch.cat([stream(step) for step in range(3)], 1)
    for found in (by_stream, cache(0), cache(1)):
        assert found.shape == whole.shape
        order, truth = found[-1, :, 0].argsort(), whole[-1, :, 0].argsort()
        assert torch.allclose(found[:, order], whole[:, truth], atol=1e-5)
    assert torch.equal(cache(1), lens_training.cached(model, texts, n)(1))  # step and seed decide
    assert not torch.equal(cache(0), cache(1))
    with pytest.raises(ValueError, match="expected a batch of 1 to 6 items, found 9; choose a smaller"):
        lens_training.streamed(model, texts, 9)(0)


def test_training_resumes_to_the_same_lens(tmp_path, monkeypatch):
    model = small("gpt_neox")
    source = lens_training.streamed(model, random_texts(model), 3)
    whole = lens_training.train(model, source, 12, say=lambda *a, **k: None)
    monkeypatch.setattr(lens_training, "SAVE_EVERY", 0.0)
    checkpoint, said = tmp_path / "lens.pt", []

    def until_seven(step: int) -> Tensor:
        if step == 7:
            raise KeyboardInterrupt
        return source(step)

    with pytest.raises(KeyboardInterrupt):
        lens_training.train(model, until_seven, 12, checkpoint, say=lambda *a, **k: None)
    again = lens_training.train(model, source, 12, checkpoint, say=lambda text, **k: said.append(text))
    assert said[0] == "lens: carrying on from step 7 ..."
    assert said[-1].startswith("lens: step 12/12, KL ")
    assert all(line.endswith(" ...") for line in said)
    assert torch.allclose(whole.A, again.A, atol=1e-6)
    assert torch.allclose(whole.b, again.b, atol=1e-6)
    with pytest.raises(ValueError, match="checkpoint with steps 20 .* found 12; remove it"):
        lens_training.train(model, source, 20, checkpoint)
    with pytest.raises(ValueError, match="expected a checkpoint with digest"):
        lens_training.train(small("mamba"), source, 12, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match="found a damaged file; remove it"):
        lens_training.train(model, source, 12, checkpoint)


def test_training_on_cuda_in_bfloat16():
    if not torch.cuda.is_available():
        pytest.skip("skipped loudly: no CUDA")
    model = load("mamba", device="cuda", dtype=torch.bfloat16)
    texts = lenses.encode(model, texts_of(10, "train"))
    lens = lens_training.train(model, lens_training.cached(model, texts, 256), 40)
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
    with pytest.raises(ValueError, match="expected a metric among ce, kl, entropy; found 'loss'"):
        found.nats_per_word("loss")
    draw = torch.Generator().manual_seed(0)
    units = torch.randint(5, 40, (200,), generator=draw)
    amounts = units * (1 + torch.rand(200, generator=draw))
    linear = stats.ratio(amounts, units)
    rows = np.stack([amounts.numpy(), units.numpy()], 1)
    boot = stats.bootstrap(rows, lambda r: r[:, 0].sum() / r[:, 1].sum(), seed=0)
    assert linear.value == pytest.approx(boot.value)
    assert linear.high - linear.low == pytest.approx(boot.high - boot.low, rel=0.1)
    with pytest.raises(ValueError, match="expected at least 2 texts"):
        stats.ratio(torch.ones(1), torch.ones(1))


def test_bytes_count_every_word_but_the_first_with_its_space():
    model = load("transformer")
    some = texts_of(2, "test")
    texts = lenses.encode(model, some)
    for text, found, counted in zip(some, texts.n_bytes, texts.counted, strict=True):
        words = text.split()
        assert found == sum(len(f" {word}".encode()) for word in words[1:])
        assert counted.sum() == len(words) - 1
    with pytest.raises(ValueError, match="at least 2 tokens, found 'The'; leave it out"):
        lenses.encode(model, ["The keys", "The"])
    with pytest.raises(ValueError, match="expected at least one text, found none"):
        lenses.encode(model, [])


@EACH_TYPE
def test_measure_equals_a_plain_loop(model_type):
    model, lens = small(model_type), random_lens(small(model_type))
    texts = random_texts(model)
    found = lenses.measure(model, lens, texts, read=4)
    logits = model.hf(texts.ids, use_cache=False).logits
    for i in range(len(texts)):
        n = int(texts.counted[i].sum())
        states = lenses.residuals(model, texts.ids[i : i + 1], texts.counted[i : i + 1])
        p = logits[i, :n].log_softmax(-1)
        for k, h in enumerate(lens.translate(states)):
            q = (lenses.normed(model, h) @ lenses.unembedding(model).T).log_softmax(-1)
            ce = F.nll_loss(q, texts.ids[i, 1 : n + 1], reduction="sum")
            kl = F.kl_div(q, p, log_target=True, reduction="sum")
            entropy = -(q.exp() * q).sum()
            ours = [getattr(found, metric)[i, k].item() for metric in lenses.METRICS]
            assert ours == pytest.approx([ce.item(), kl.item(), entropy.item()], rel=1e-4, abs=1e-4)


def test_layer_transfer_is_a_lens_whose_translators_are_all_one():
    model = small("mamba")
    lens, texts = random_lens(model, 0.3), random_texts(model)
    found = lenses.layer_transfer(model, lens, texts)
    assert found.shape == (4, 4)
    assert torch.equal(found.diagonal(), torch.zeros(4))
    own = lenses.measure(model, lens, texts).nats_per_word("ce")
    for i in range(3):
        same = Lens(lens.A[i].expand(3, -1, -1), lens.b[i].expand(3, -1))
        foreign = lenses.measure(model, same, texts).nats_per_word("ce")
        for j in range(3):
            assert found[i, j].item() == pytest.approx(foreign[j].value - own[j].value, abs=1e-4)
    logit = lenses.measure(model, lenses.logit_lens(model), texts).nats_per_word("ce")
    assert found[3, 1].item() == pytest.approx(logit[1].value - own[1].value, abs=1e-4)


def test_a_lens_on_disk_belongs_to_its_model(tmp_path):
    model, path = small("gpt_neox"), tmp_path / "lens.safetensors"
    lens = random_lens(model)
    lenses.save(lens, model, path)
    again = lenses.load(path, model)
    assert torch.equal(lens.A, again.A)
    assert torch.equal(lens.b, again.b)
    before = lenses.digest(model)
    model.architecture.unembedding(model.hf).weight[0, 0] += 1
    assert lenses.digest(model) != before
    with pytest.raises(ValueError, match="expected a lens of the model with SHA-256 .* same dtype"):
        lenses.load(path, model)
    path.write_bytes(b"no lens")
    with pytest.raises(ValueError, match="expected a lens in .*; train one and save it"):
        lenses.load(path, model)


def test_measurements_of_other_texts_are_not_compared():
    model = small("gpt_neox")
    lens = lenses.logit_lens(model)
    one = lenses.measure(model, lens, random_texts(model))
    other = lenses.measure(model, lens, random_texts(model, n=3))
    with pytest.raises(ValueError, match="two measurements of the same texts"):
        one.minus(other)


def test_an_unembedding_with_a_bias_is_refused():
    model = small("gpt_neox")
    linear = model.architecture.unembedding(model.hf)
    linear.bias = torch.nn.Parameter(torch.zeros(50))
    with pytest.raises(ValueError, match="expected an unembedding without bias"):
        lenses.unembedding(model)


# --------------------------------------------------------------------------------------------------
# When does a model know?


def test_settled_depths_by_hand():
    T, F_ = True, False
    right = torch.tensor([[F_, F_, T, T], [T, F_, T, T], [T, T, T, T], [F_, T, T, F_]])
    assert lenses.settled(right).tolist() == [2, 2, 0, 4]


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


# --------------------------------------------------------------------------------------------------
# Published figures, and ours


def test_published_curves_are_the_papers_re_indexed(shared_dir):
    """Layer i means k = i for Pythia and k = i + 1 for Mamba and RWKV (reference/paper.md, 3.3)."""
    with open(DATA / "published" / "tuned_lens.csv", newline="") as file:
        ours = {(r["model"], r["lens"], int(r["k"])): r for r in csv.DictReader(file)}
    with open(shared_dir / "published" / "paper_tuned_lens.csv", newline="") as file:
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


def drawn():
    chances = torch.tensor([[0.2, 0.9], [0.4, 1.0]])
    two = {"logit": curve(3, 2, 1), "tuned": curve(2, 1.5, 1), "control": curve(4, 4, 1)}
    yield figures.early_exits()
    panels = {"A": ([["a", "b"], ["c", "d"]], chances), "B": ([["a", "d"], ["c", "d"]], chances)}
    yield figures.trajectories(panels, ["x", "y"])
    yield figures.lens_curves({"A": two, "B": two}, "cross-entropy (nats per word)")
    yield figures.transfer_maps({"A": torch.eye(4), "B": torch.eye(5)}, "nats per word")
    lines = {"A": curve(0.2, 0.6), "B": curve(0, 1), "control": curve(0, 0)}
    yield figures.knowing({"fact": lines, "agreement": lines})
    line = {"logit lens": ([0, 0.5], [4.0, 1.0]), "tuned lens": ([0, 0.5], [2.0, 1.0])}
    yield figures.beside_published({"theirs": dict.fromkeys("ABC", line), "ours": {"A": line}})


def test_figures_are_fit_for_a_page_and_the_same_on_every_run():
    known = {*(style["color"] for style in plots.STYLES), plots.GREY}
    first = []
    for figure, alt in drawn():
        assert not plots.unfit(figure, alt)
        for axis in figure.axes:
            assert {line.get_color() for line in axis.lines} <= known
        first.append(plots.png(figure))
    second = [plots.png(figure) for figure, _ in drawn()]
    assert first == second
    plt.close("all")


def test_alt_texts_state_the_numbers():
    alts = [alt for _, alt in drawn()]
    assert "A says 'd' from k = 1 of 1 on and B says 'd' from k = 0 of 1 on" in alts[1]
    assert "A, logit: 3.00 at k = 0, 2.00 half-way" in alts[2]
    assert "fact, A 60%; fact, B 100%" in alts[4]
    assert "ours, A: 4.0 then 2.0" in alts[5]
    plt.close("all")
