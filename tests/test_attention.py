"""Maps equal their definitions in float64, and the circuits they show are the ones the models use."""

import re
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import nnsight
import pytest
import torch
from torch import Tensor

from tests.toys import toy
from tft_utils import files, models, reading
from tft_utils.architectures import mamba_scan as scan
from tft_utils.architectures import recurrent
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora import world
from tft_utils.course import notebooks, plots, widgets
from tft_utils.lessons import attention as figures
from tft_utils.models import load
from tft_utils.techniques import attention

TEXTS = ["The keys near the old cabinet", "mila red . tomo blue . mila", "2 7 + 1 5 ="]

pytestmark = pytest.mark.usefixtures("without_gradients")


def step_sizes(pos: int, channels: int, dtype=torch.float64, largest: float = 0.1) -> Tensor:
    """Step sizes between 0.001 and `largest`, evenly spread in their logarithm."""
    draw = torch.rand(1, pos, channels, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return 0.001 * (largest / 0.001) ** draw


def random_mixing(
    pos: int,
    channels: int = 12,
    d_state: int = 5,
    largest: float = 0.1,
    batch: int = 1,
    dtype=torch.float64,
) -> recurrent.Mixing:
    draw = torch.Generator().manual_seed(pos)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype)

    per_position = {name: normal(batch, pos, channels) for name in ("x", "u", "sigma", "gate")}
    core = scan.Scan(
        delta=step_sizes(pos, channels, dtype, largest).expand(batch, -1, -1),
        A=-torch.exp(normal(channels, d_state)),
        B=normal(batch, pos, d_state),
        C=normal(batch, pos, d_state),
    )
    return recurrent.Mixing(
        core,
        **per_position,
        D=normal(channels),
        taps=normal(4, channels),
        conv_bias=normal(channels),
        projection=normal(channels, 1, 6),
        bias=normal(6),
    )


def triple_loop(m: scan.Scan) -> Tensor:
    """alpha from its definition: one product of decays for each query and source."""
    _, pos, channels = m.delta.shape
    decay = torch.exp(m.delta[..., None] * m.A)  # [batch pos channel n]
    alpha = m.delta.new_zeros(len(m.delta), channels, pos, pos)
    for t in range(pos):
        for s in range(t + 1):
            kept = torch.ones_like(decay[:, 0])
            for k in range(s + 1, t + 1):
                kept = kept * decay[:, k]
            written = m.delta[:, s, :, None] * m.B[:, s, None]
            alpha[:, :, t, s] = (m.C[:, t, None] * kept * written).sum(-1)
    return alpha


def rebuilt(mixing) -> Tensor:
    """The mixer's output from the operator, unit by unit: [batch pos d_model]."""
    mixed = mixing.weights() @ mixing.values()  # [batch unit pos width]
    return torch.einsum("buqw,uwd->bqd", mixed, mixing.projection) + mixing.constant()


def ids_of(model, *texts: str) -> Tensor:
    return reading.tokens(model, texts).ids


def with_outputs(model, ids: Tensor) -> list[tuple]:
    """The mixing of every layer and what transformers' own mixer gives."""
    with model.trace(ids):
        outputs = nnsight.save([model.mixer_output(layer) for layer in range(model.n_layers)])
    return list(zip(attention.mixings(model, ids), outputs, strict=True))


def error(mixing, output: Tensor) -> float:
    return float((rebuilt(mixing).float() - output.float()).abs().max() / output.abs().max())


# --- hidden attention is exact -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("transformer", torch.float32, 1e-5),
        ("transformer", torch.float64, 1e-6),  # transformers' softmax is in float32
        ("mamba", torch.float32, 1e-5),
        ("mamba", torch.float64, 1e-6),  # and so are its decay rates
    ],
)
def test_the_operator_is_the_mixer_in_every_layer_of_the_organism(name, dtype, tolerance):
    model = load(name, dtype=dtype)
    text = " ".join(world.documents("recall", 1, seed=3)[0].text.split()[:60])
    for layer, (mixing, output) in enumerate(with_outputs(model, ids_of(model, text))):
        assert error(mixing, output) < tolerance, f"{name}, layer {layer}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_the_operator_is_the_mixer_at_the_shapes_of_mamba_130m(dtype, tolerance):
    model = toy(
        "mamba",
        dtype=dtype,
        hidden_size=768,
        state_size=16,
        num_hidden_layers=2,
        intermediate_size=1536,
        time_step_rank=48,
    )
    for layer in range(2):  # as trained ones have: steps from small to large, any decay
        mixer = model.module("mixer", layer)
        torch.nn.init.normal_(mixer.A_log, 1.0, 1.0)
        torch.nn.init.normal_(mixer.D)
        torch.nn.init.normal_(mixer.x_proj.weight, std=0.1)
    for mixing, output in with_outputs(model, torch.randint(64, (1, 40))):
        assert mixing.weights(units=[0]).shape == (1, 1, 40, 40)
        assert len(mixing.projection) == 1536
        assert error(mixing, output) < tolerance


def test_mixings_are_those_of_the_streams(model):
    ids = ids_of(model, *TEXTS)
    stream = reading.streams(model, ids)
    for layer, mixing in zip((1, 4), attention.mixings(model, ids, [4, 1]), strict=True):
        alone = model.mixing(layer, stream[layer])
        torch.testing.assert_close(mixing.weights(), alone.weights(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixing.values(), alone.values(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pos", [1, 2, 3, 5, 16, 17, 31, 33, 50])
def test_alpha_equals_the_triple_loop_by_every_way_to_it(pos):
    m = random_mixing(pos, batch=2)
    alpha = triple_loop(m.core)
    torch.testing.assert_close(m.weights("scan"), alpha, rtol=1e-12, atol=1e-12)
    queries, few = torch.tensor([pos - 1, 0, pos // 2]), [3, 0]
    torch.testing.assert_close(
        m.weights("scan", queries, few), alpha[:, few][:, :, queries], rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(m.mix(m.values("scan")), alpha @ m.values("scan"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pos", [2, 20])
def test_each_level_adds_what_it_says(pos):
    m = random_mixing(pos)
    skip = triple_loop(m.core) + torch.diag_embed(m.D[None, :, None].expand(1, -1, pos))
    torch.testing.assert_close(m.weights("skip"), skip)
    operator = torch.zeros_like(skip)
    for t in range(pos):
        for k in range(t + 1):
            for s in range(k, min(k + 4, t + 1)):  # the convolution brings x_k into u_k ... u_{k+3}
                operator[0, :, t, k] += m.gate[0, t] * skip[0, :, t, s] * m.sigma[0, s] * m.taps[s - k]
    torch.testing.assert_close(m.weights(), operator)
    torch.testing.assert_close(m.weights("operator"), m.weights())
    assert not torch.equal(m.values("scan"), m.values("operator"))


def test_groups_and_blocks_do_not_change_the_numbers(monkeypatch):
    m = random_mixing(37)
    alpha, whole = m.weights(), attention.contributions(m)
    monkeypatch.setattr(scan, "WORKSPACE", 37 * 5 * 5)  # five channels at a time
    monkeypatch.setattr(scan, "BLOCK", 7)
    monkeypatch.setattr(attention, "PRODUCTS", 3 * 37 * 12)  # three queries at a time
    torch.testing.assert_close(m.weights(), alpha)
    torch.testing.assert_close(attention.contributions(m), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_and_strong_decay_neither_overflows_nor_loses_digits(dtype):
    exact = random_mixing(90, channels=3, largest=40.0)
    delta, A, B, C = (getattr(exact.core, name).to(dtype) for name in ("delta", "A", "B", "C"))
    m, alpha = scan.Scan(delta, A, B, C), triple_loop(exact.core)
    assert (alpha[:, :, -1, 0].float() == 0).any(), "some decay should reach zero in float32"
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    weights = m.weights(torch.arange(90), [0, 1, 2])
    assert (weights - alpha).abs().max() < tolerance * alpha.abs().amax()


def test_maps_are_causal(model):
    for mixing in attention.mixings(model, ids_of(model, TEXTS[0])):
        for level in mixing.levels:
            assert (mixing.weights(level).triu(1) == 0).all()
        assert (attention.contributions(mixing).triu(1) == 0).all()


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="one of scan, skip, operator; found 'raw'"):
        random_mixing(4).weights("raw")


@pytest.mark.parametrize("name", models.PAIR)
def test_a_16_bit_model_is_read_closely_and_stays_16_bit(name):
    model = load(name, dtype=torch.bfloat16)
    ids = ids_of(model, TEXTS[0])
    assert error(*with_outputs(model, ids)[1]) < 0.03
    nothing = torch.zeros_like(ids).bool()
    assert attention.block(model, ids, [1], nothing, ~nothing).dtype == torch.bfloat16


# --- maps ----------------------------------------------------------------------------------------


def test_contributions_are_lengths_of_vectors_that_add_up_to_the_output(model):
    mixing, output = with_outputs(model, ids_of(model, TEXTS[1]))[2]
    vectors = torch.einsum("buqs,busw,uwd->bqsd", mixing.weights(), mixing.values(), mixing.projection)
    torch.testing.assert_close(vectors.sum(2) + mixing.constant(), output, rtol=1e-4, atol=1e-4)
    lengths = attention.contributions(mixing)
    torch.testing.assert_close(lengths, vectors.norm(dim=-1), rtol=1e-4, atol=1e-5)
    queries = torch.tensor([5, 1])
    torch.testing.assert_close(
        attention.contributions(mixing, queries), lengths[:, queries], rtol=1e-4, atol=1e-5
    )


def test_value_weighted_maps_see_one_unit_at_a_time(model):
    (mixing,) = attention.mixings(model, ids_of(model, TEXTS[1]), [3])
    vectors = torch.einsum("buqs,busw,uwd->buqsd", mixing.weights(), mixing.values(), mixing.projection)
    lengths = attention.value_weighted(mixing)
    torch.testing.assert_close(lengths, vectors.norm(dim=-1), rtol=1e-3, atol=1e-5)
    last = torch.tensor([6])
    torch.testing.assert_close(attention.value_weighted(mixing, last), lengths[:, :, last])


def test_patterns_are_those_of_transformers():
    model = load("transformer")
    ids = ids_of(model, TEXTS[0])
    expected = model.hf(input_ids=ids, output_attentions=True).attentions
    for mixing, pattern in zip(attention.mixings(model, ids), expected, strict=True):
        torch.testing.assert_close(mixing.weights("operator"), pattern, rtol=0, atol=1e-5)
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))


def test_padding_changes_nothing(model):
    ids, mask = reading.tokens(model, TEXTS)
    together = list(attention.mixings(model, ids))
    for i, (text, length) in enumerate(zip(TEXTS, mask.sum(1).tolist(), strict=True)):
        alone = list(attention.mixings(model, ids_of(model, text)))
        for layer in (0, model.n_layers - 1):
            row, expected = together[layer].row(i, length), alone[layer]
            torch.testing.assert_close(row.weights(), expected.weights(), rtol=1e-3, atol=1e-4)
            lengths = (attention.contributions(mixing) for mixing in (row, expected))
            torch.testing.assert_close(*lengths, rtol=1e-3, atol=1e-4)


@dataclass(frozen=True)
class Average:
    """A third architecture's mixer: every position averages what stands before it."""

    v: Tensor  # [batch unit source width]
    projection: Tensor

    unit: ClassVar[str] = "average"
    levels: ClassVar[tuple[str, ...]] = ("operator",)
    spread: ClassVar[int] = 0
    normalised: ClassVar[bool] = True

    def weights(self, level="operator", queries=None, units=None):
        pos = self.v.shape[2]
        shares = attention.row_normalised(torch.ones(pos, pos).tril()).expand(*self.v.shape[:2], -1, -1)
        shares = shares if units is None else shares[:, units]
        return shares if queries is None else shares[:, :, queries]

    def values(self, level="operator", units=None):
        return self.v if units is None else self.v[:, units]


def test_another_architecture_needs_no_change_here():
    mixing = Average(torch.randn(1, 3, 9, 2), torch.randn(3, 2, 4))
    lengths = attention.contributions(mixing, torch.tensor([8]))
    assert lengths.shape == (1, 1, 9)
    through = torch.einsum("busw,uwd->bsd", mixing.v, mixing.projection) / 9
    torch.testing.assert_close(lengths[0, 0], through[0].norm(dim=-1))
    assert attention.value_weighted(mixing).shape == (1, 3, 9, 9)
    assert attention.rollout([attention.contributions(mixing)[0]]).shape == (9, 9)


# --- rollout and agreement -----------------------------------------------------------------------


def test_rollout_by_hand():
    first = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])  # each position reads the one before
    second = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 4, 0]])  # the last one does; rows are normalised
    # The last position: half of what position 1 has after the first layer, half of its own.
    expected = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.5, 0.25]])
    torch.testing.assert_close(attention.rollout([first, second]), expected)


def test_rollout_rows_sum_to_one(model):
    mixings = attention.mixings(model, ids_of(model, TEXTS[0]))
    reached = attention.rollout([attention.contributions(mixing) for mixing in mixings])
    torch.testing.assert_close(reached.sum(-1), torch.ones_like(reached[..., 0]))
    assert (reached.triu(1) == 0).all()


def test_rollout_refuses_signed_maps_and_no_maps():
    with pytest.raises(ValueError, match="without negative entries"):
        attention.rollout([torch.tensor([[1.0, 0.0], [-1.0, 1.0]])])
    with pytest.raises(ValueError, match="at least one layer"):
        attention.rollout([])


def test_agreement_is_rank_correlation_below_the_diagonal():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.rand(9, 9, generator=draw), torch.rand(9, 9, generator=draw)
    assert attention.agreement(a, a.exp() + torch.eye(9)) == pytest.approx(1)
    assert attention.agreement(a, -a) == pytest.approx(-1)
    assert abs(attention.agreement(a, b)) < 0.4
    with pytest.raises(ValueError, match="of one size"):
        attention.agreement(a, b[:3])


# --- lags and classes ----------------------------------------------------------------------------


def planted(run: attention.Repeats) -> Tensor:
    """Maps [batch unit query source] of four units: lag 3, the word after the match, the first, all."""
    pos = run.ids.shape[1]
    maps = torch.full((len(run.ids), 4, len(run.queries), pos), 0.1 / pos)
    for i, t in enumerate(run.queries.tolist()):
        maps[:, 0, i, t - 3] += 0.8
        maps[:, 1, i, t - run.period + 1] += 0.7
        maps[:, 2, i, 0] += 0.6
    return maps


def test_lag_profiles_and_classes_find_planted_units(monkeypatch):
    runs = attention.repeats(range(60), (9, 13), n=6, batch=4)
    mixings = {
        id(run.ids): SimpleNamespace(weights=lambda level, queries, run=run: planted(run)) for run in runs
    }
    monkeypatch.setattr(attention, "mixings", lambda model, ids: [mixings[id(ids)]])
    (layer,) = attention.lag_profiles(SimpleNamespace(hf=torch.ones(1)), runs)
    classes = attention.classify(layer)
    assert [(c.kind, c.lag) for c in classes] == [
        ("fixed", 3),
        ("match", 1),
        ("first", None),
        ("spread", None),
    ]
    assert classes[0].score > classes[1].score > classes[2].score > 0.5
    assert {c.kind for c in attention.classify(layer, floor=0.95)} == {"spread"}
    for unit in (0, 1, 3):  # the lesson's, which knows no first position
        taught = figures.follows(layer.profiles[:, unit], layer.periods)
        assert taught == (classes[unit].kind, classes[unit].lag)


def test_repeats_repeat_and_differ_in_nothing_else():
    runs = attention.repeats(range(100, 160), (9, 13), n=6, batch=5, seed=1)
    for run in runs:
        assert run.ids.shape == (5, 15 + 6)
        assert run.queries.tolist() == [15, 16, 17, 18, 19]
        for row in run.ids.tolist():
            assert row[15:] == row[15 - run.period :][:6]
            assert len(set(row[:15])) == 15
            assert set(row) <= set(range(100, 160))
    assert torch.equal(runs[0].ids[:, :15], runs[1].ids[:, :15])


def test_repeats_and_profiles_refuse_what_cannot_work():
    with pytest.raises(ValueError, match="2 <= n <= 9"):
        attention.repeats(range(60), (9, 13), n=10)
    with pytest.raises(ValueError, match="at least 15 words; found n = 6 and 14 words"):
        attention.repeats(range(14), (9, 13), n=6)
    with pytest.raises(ValueError, match="at least two periods"):
        attention.lag_profiles(None, attention.repeats(range(60), (9,), n=6))


# --- the world's ground truth --------------------------------------------------------------------


def test_induction_items_have_one_source():
    documents = world.documents("recall", 60, split="validation")
    items = world_questions.induction_items(documents)
    assert len(items) > 50
    for item in items:
        words = item.prompt.split()
        assert words.count(item.answer) == 1
        assert words[item.match] == item.answer
        assert item.query == len(words) - 1
        assert words.count(words[item.query]) == 2
        assert words[item.match - 1] == words[item.query]
    assert {item.match - item.query for item in items} > set(range(-9, -5)), "one lag explains all"


def test_items_need_one_token_per_word(model):
    item = world_questions.Item("mila red", "red", 1, 5)
    with pytest.raises(ValueError, match="one token per word"):
        attention.asked_of(model, [item])


def asked_of(model, split: str, n: int) -> reading.Asked:
    documents = world.documents("recall", n, split=split)
    return attention.asked_of(model, world_questions.induction_items(documents))


def masks(asked: reading.Asked, shift: int = 0) -> tuple[Tensor, Tensor]:
    """The position of the match, or one beside it, and the query, as masks [item pos]."""
    positions = torch.arange(asked.ids.shape[1])
    return positions == (asked.at["match"] + shift)[:, None], positions == asked.last[:, None]


def deciding_layers(model, asked: reading.Asked) -> list[int]:
    """The fewest layers, most decisive first, whose cut from the match to the query undoes recall."""
    shares = [layer.share for layer in attention.matches(model, asked)]
    ranked = sorted(range(len(shares)), key=lambda layer: -shares[layer])
    for k in range(1, len(ranked) + 1):
        logits = attention.block(model, asked.ids, ranked[:k], *masks(asked))
        if attention.accuracy(logits, asked).value < 0.1:
            return ranked[:k]
    raise AssertionError("recall survives every cut")


@pytest.fixture(scope="module")
def circuit(model) -> SimpleNamespace:
    """Deciding layers, found on validation documents; the test items; accuracy when uncut."""
    layers = deciding_layers(model, asked_of(model, "validation", 100))
    asked = asked_of(model, "test", 250)
    uncut = attention.accuracy(model.hf(input_ids=asked.ids).logits, asked)
    return SimpleNamespace(layers=layers, asked=asked, uncut=uncut)


def test_the_match_is_the_top_source_at_the_deciding_layer(model, circuit):
    asked = circuit.asked
    (layer,) = attention.matches(model, asked, circuit.layers[:1])
    assert circuit.uncut.value > 0.9
    assert layer.top.n > 200
    assert layer.top.value >= 0.9
    assert layer.top.low >= 0.85
    lags = (asked.last - asked.at["match"]).roll(1)  # those of other items
    elsewhere = replace(asked, at={"match": (asked.last - lags).clamp(min=0)})
    (control,) = attention.matches(model, elsewhere, circuit.layers[:1])
    assert control.top.high < 0.2


def test_blocking_the_match_proves_it_and_blocking_elsewhere_does_nothing(model, circuit):
    def cut(shift: int, **options) -> float:
        logits = attention.block(
            model, circuit.asked.ids, circuit.layers, *masks(circuit.asked, shift), **options
        )
        return attention.accuracy(logits, circuit.asked).value

    proof, control = cut(0), cut(-6)
    assert len(circuit.layers) < model.n_layers
    assert proof < 0.2
    assert abs(control - circuit.uncut.value) <= 0.05
    (mixing,) = attention.mixings(model, circuit.asked.ids[:1], circuit.layers[:1])
    if mixing.spread:  # a neighbour still holds the word: one column cut is no cut
        assert cut(0, spread=False) - proof > 0.3


def test_ablating_the_match_heads_proves_them_and_their_neighbours_are_idle():
    model = load("transformer")
    words = model.tokenizer.convert_tokens_to_ids(list(world.COPY_WORDS))
    layers = attention.lag_profiles(model, attention.repeats(words))
    kinds = [[c.kind for c in attention.classify(layer)] for layer in layers]
    heads = {l: [h for h, kind in enumerate(row) if kind == "match"] for l, row in enumerate(kinds)}
    others = {l: [h for h in range(4) if h not in heads[l]] for l in heads if heads[l]}
    asked = asked_of(model, "test", 250)

    words = asked.mask.flatten().nonzero()[:, 0]
    draw = torch.Generator().manual_seed(0)
    donors = words[torch.randint(len(words), asked.ids.shape, generator=draw)]

    def cut(units) -> float:
        return attention.accuracy(figures.resampled(model, asked.ids, units, donors), asked).value

    assert 0 < sum(map(len, heads.values())) < 12
    assert cut(heads) < 0.2
    assert cut(others) > 0.95 * cut({})


# --- cuts equal independent implementations ------------------------------------------------------


IDS = torch.tensor([[20, 31, 44, 20, 31, 9, 7], [50, 51, 52, 53, 54, 55, 56]])


def test_blocking_softmax_attention_equals_a_mask():
    model = load("transformer")
    sources, queries = torch.zeros(2, 2, 7, dtype=torch.bool)
    sources[0, 1:3], sources[1, 4], queries[:, 4:] = True, True, True
    allowed = torch.ones(7, 7).tril().bool() & ~(queries[:, :, None] & sources[:, None, :])
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    expected = model.hf(input_ids=IDS, attention_mask=mask).logits
    logits = attention.block(model, IDS, range(model.n_layers), sources, queries)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    assert (logits - model.hf(input_ids=IDS).logits).abs().max() > 1e-2


@pytest.mark.parametrize("spread", [True, False])
def test_blocking_a_mamba_equals_a_second_state_that_never_saw_the_source(spread):
    model, layer, source, query = load("mamba"), 6, 1, 5
    seen = range(source, source + (4 if spread else 1))
    readable = load("mamba", readable=True)
    with readable.trace(IDS):
        decay = scan.tap(readable.mixer(layer), "discrete_A").output.save()
        written = scan.tap(readable.mixer(layer), "deltaB_u").output.save()
        read = scan.tap(readable.mixer(layer), "read").output.save()
    state = torch.zeros_like(written[:, :, 0])
    for t in range(query + 1):
        state = decay[:, :, t] * state + (0 if t in seen else written[:, :, t])
    y_query = (state * read[:, query, None]).sum(-1)
    with readable.trace(IDS):
        y = scan.tap(readable.mixer(layer), "y").output.clone()
        y[:, :, query] = y_query
        scan.tap(readable.mixer(layer), "y").output = y
        expected = readable.logits.save()
    sources, queries = torch.zeros(2, 2, 7, dtype=torch.bool)
    sources[:, source], queries[:, query] = True, True
    logits = attention.block(model, IDS, [layer], sources, queries, spread)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)
    plain = model.hf(input_ids=IDS).logits
    assert (logits[:, query] - plain[:, query]).abs().max() > 1e-3
    torch.testing.assert_close(logits[:, :query], plain[:, :query], rtol=0, atol=2e-5)


def test_blocking_everything_or_nothing(model):
    nothing, everything = torch.zeros_like(IDS).bool(), torch.ones_like(IDS).bool()
    layers = range(model.n_layers)
    plain = model.hf(input_ids=IDS).logits
    for sources, queries in ((nothing, everything), (everything, nothing)):
        logits = attention.block(model, IDS, layers, sources, queries)
        torch.testing.assert_close(logits, plain, rtol=0, atol=2e-4)
    (mixing,) = attention.mixings(model, IDS, [0])
    if mixing.normalised:
        everything[:, 4:] = False  # the sources; of four queries, two lose all
        queries = torch.zeros_like(everything)
        queries[:, [2, 5]] = True
        with pytest.raises(ValueError, match="found 2 of 4 queries with none; leave each one"):
            attention.block(model, IDS, layers, everything, queries)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plots.plt.close("all")


PAIR = ("transformer", "mamba")


def all_figures(*names: str):
    """Every figure of the lesson that compares models, on small made-up results."""
    shares = {name: [0.0, 0.1 * i, 1.0] for i, name in enumerate(names)}
    yield figures.by_block(shares, {name: [0.0, 0.1, 0.1] for name in names}, "share")
    yield figures.around({name: {"raw": [0, 1, 2], "better": [0, 2, 1]} for name in names}, range(-1, 2))


def figures_of_one_model():
    draw = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, 3, generator=draw).tril() for _ in range(2)]
    yield figures.two_ways_to_read()
    yield figures.head_maps(maps, 3)
    yield figures.lag_maps(torch.rand(2, 4, 6, generator=draw), (3, 5), list("wxyz"))


@pytest.mark.parametrize("names", [PAIR[:1], PAIR, ("mamba", "own", "transformer")])
def test_figures_take_any_models(names):
    for figure, alt in all_figures(*names):
        assert not plots.unfit(figure, alt)
        assert all(name in alt for name in names)


def test_figures_are_fit_to_show_and_the_same_every_time():
    first, second = (
        [plots.png(figure) for figure, _ in (*all_figures(*PAIR), *figures_of_one_model())]
        for _ in range(2)
    )
    assert first == second
    for figure, alt in figures_of_one_model():
        assert not plots.unfit(figure, alt)


def test_alt_texts_state_what_is_seen():
    by_block, around = (alt for _, alt in all_figures(*PAIR))
    assert "transformer at block 2 with 100%" in by_block
    assert "transformer, raw: +1; transformer, better: +0" in around


def test_signed_maps_are_centred_on_zero_and_others_start_there():
    (mixing,) = attention.mixings(load("mamba"), IDS[:1], [3])
    words = [str(at) for at in range(IDS.shape[1])]
    for level, signed in (("scan", True), ("contributions", False)):
        figure, alt = figures.one_map(mixing, 0, level, words, "mamba")
        low, high = figure.axes[0].images[0].get_clim()
        assert low == (-high if signed else 0)
        assert not plots.unfit(figure, alt)


def test_the_explorer_draws_what_is_chosen():
    asked = []

    def draw(*choice):
        asked.append(choice)
        return figures.two_ways_to_read()

    box = widgets.choose({"model": ["A", "B"], "block": [0, 1]}, draw)
    box.children[0].children[1].value = 1
    assert asked == [("A", 0), ("A", 1)]
    assert box.children[2].value.endswith(".")


def test_carried_ranks_the_units_that_bring_the_match(model):
    asked = asked_of(model, "validation", 6)
    (mixing,) = attention.mixings(model, asked.ids, [4])
    lengths = attention.carried(mixing, asked)
    assert lengths.shape == (model.units(4),)
    vectors = torch.einsum(
        "buqs,busw,uwd->buqsd",
        mixing.weights(units=[1]),
        mixing.values(units=[1]),
        mixing.projection[[1]],
    )
    at = range(len(asked)), 0, asked.last, asked.at["match"]
    torch.testing.assert_close(lengths[1], vectors[at].norm(dim=-1).mean(), rtol=1e-3, atol=1e-5)


def test_entries_sum_to_the_scan_and_none_is_an_entry_of_attention():
    model = load("mamba")
    (mixing,) = attention.mixings(model, IDS, [3])
    parts = attention.entries(mixing)
    assert len(parts) == model.config.state_size
    queries = torch.tensor([2, 6])
    whole = sum(part.weights("scan", queries) for part in parts)
    torch.testing.assert_close(whole, mixing.weights("scan", queries), rtol=1e-4, atol=1e-5)
    assert attention.of_entries(mixing, queries).shape == (2, len(parts), 2, 7)
    torch.testing.assert_close(
        attention.of_entries(mixing, queries)[:, 1], attention.contributions(parts[1], queries)
    )
    (heads,) = attention.mixings(load("transformer"), IDS, [3])
    assert attention.entries(heads) == []


def test_carried_by_all_is_the_mean_contribution_of_the_match(model):
    asked = asked_of(model, "validation", 6)
    (mixing,) = attention.mixings(model, asked.ids, [4])
    maps = attention.contributions(mixing)
    at = range(len(asked)), asked.last, asked.at["match"]
    assert attention.carried_by_all(mixing, asked) == pytest.approx(maps[at].mean().item(), rel=1e-3)


def test_without_its_convolution_a_mixing_reads_what_the_scan_reads():
    (mixing,) = attention.mixings(load("mamba"), IDS, [3])
    plain, queries = figures.on_u(mixing), torch.tensor([6])
    expected = mixing.weights("skip", queries) * mixing.gate[:, queries].transpose(1, 2)[..., None]
    torch.testing.assert_close(plain.weights("operator", queries), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.values(), mixing.values("scan"))


def test_what_lesson_02_says_of_a_lower_floor_is_what_it_prints():
    """Of Mamba's channels about one in eight follows at a floor of a tenth, and none untrained."""
    lesson = notebooks.parse(files.ROOT / "notebooks" / "02_attention.ipynb")
    (cell,) = (cell for cell in lesson["cells"] if cell["id"] == "claim-classes")
    printed = "".join(o["text"] for o in cell["outputs"] if o["output_type"] == "stream")
    share, untrained = re.search(
        r"mamba, at a floor of \.1: ([\d.]+), untrained ([\d.]+)", printed
    ).groups()
    assert float(share) == pytest.approx(1 / 8, abs=0.02)
    assert float(untrained) == 0
