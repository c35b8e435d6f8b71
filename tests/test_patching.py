"""Patching: by construction, against traces and caches, and against what the world knows."""

import math
from dataclasses import replace
from types import SimpleNamespace

import nnsight
import pytest
import torch
from torch import Tensor
from toys import toy

from tft_utils import reading, stats
from tft_utils.architectures import mamba_scan as scan
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course import plots
from tft_utils.lessons import activation_patching, knockout_and_edits
from tft_utils.models import Model, load
from tft_utils.reading import Asked, at_positions, finish, streams
from tft_utils.techniques import attention, patching
from tft_utils.techniques.patching import Effects

CLOSE = 1e-5  # of a normalised effect
TYPES = ("gpt_neox", "mamba")

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def transformer() -> Model:
    return load("transformer")


def facts(model, n: int = 6, seed: int = 0) -> Asked:
    return patching.asked_of(model, world_pairs.fact_pairs(n, seed))


def small(model_type: str) -> Model:
    """A random model that bends: its weights are large."""
    return toy(model_type, initializer_range=0.3)


def random_asked(n: int = 3, pos: int = 7) -> Asked:
    """Pairs that differ in one word of a random text, with answers at random."""
    draw = torch.Generator().manual_seed(1)
    clean = torch.randint(50, (n, pos), generator=draw)
    corrupt = clean.clone()
    corrupt[:, 2] = (clean[:, 2] + 7) % 50
    answers = torch.arange(n)
    return Asked(clean, torch.full((n,), pos - 1), answers, answers + 9, corrupt)


def strongest(effects: Effects, depth: int) -> Tensor:
    """The position with the largest effect of each prompt [pair]."""
    return effects.values[depth].nan_to_num(-torch.inf).argmax(-1)


def difference(model, asked: Asked, ids: Tensor) -> Tensor:
    """m by transformers itself."""
    logits = model.hf(input_ids=ids, use_cache=False).logits
    return asked.score(logits[torch.arange(len(ids)), asked.last])


# --------------------------------------------------------------------------------------------------
# What is asked, and what a block holds


def test_pairs_are_asked_as_prompts_with_an_answer_and_a_foil(model):
    pairs = world_pairs.fact_pairs(3)
    asked = patching.asked_of(model, pairs)
    for i, pair in enumerate(pairs):
        for ids, document in ((asked.ids, pair.clean), (asked.corrupt, pair.corrupt)):
            said = model.tokenizer.decode(ids[i, : asked.last[i] + 1])
            assert said.split() == document.prompt(pair.position).split()
        words = model.tokenizer.batch_decode(torch.stack([asked.answers, asked.foils])[:, i, None])
        assert words == [pair.answer, pair.foil]


def test_components_are_what_nnsight_reads(model):
    ids, layer = facts(model).ids, 1
    x = streams(model, ids)[layer]
    with model.trace(ids, use_cache=False):
        units = model.unit_outputs(layer).save()
        mixed = model.mixer_output(layer).save()
    assert torch.allclose(patching.held(model, x, layer, "mixer"), mixed, atol=1e-5)
    if "heads" in model.kind(layer).components:
        heads = patching.held(model, x, layer, "heads")
        assert torch.allclose(heads.flatten(2), units, atol=1e-5)
        with model.trace(ids, use_cache=False):
            added = model.blocks[layer].mlp.output.save()
        assert torch.allclose(patching.held(model, x, layer, "mlp"), added, atol=1e-5)


def test_mambas_components_are_the_lines_of_the_readable_scan(mamba):
    readable, layer = load("mamba", readable=True), 1
    ids = facts(mamba).ids
    x, last = streams(mamba, ids)[layer], ids.shape[1] - 1
    mixer = readable.mixer(layer)
    with readable.trace(ids, use_cache=False) as tracer:
        _ = mixer.source  # rewrites the mixer, so it comes before the mixer runs
        seen = nnsight.save({"convolution": scan.tap(mixer, "silu").output.mT})
        seen["step size"] = scan.tap(mixer, "delta").output.mT
        seen["C"] = scan.tap(mixer, "read").output
        state = scan.tap(mixer, "state")
        for _ in tracer.iter[last]:
            h = state.output.save()
        seen["read-out"] = scan.tap(mixer, "y").output.mT
        seen["gate"] = scan.tap(mixer, "gate").output.mT
    for name, expected in seen.items():
        assert torch.allclose(patching.held(mamba, x, layer, name), expected, atol=1e-4), name
    assert torch.allclose(patching.held(mamba, x, layer, "state")[:, last], h, atol=1e-4)


# --------------------------------------------------------------------------------------------------
# By construction


def test_cells_before_the_difference_are_zero_and_those_beyond_the_end_are_nan(model):
    pairs = world_pairs.fact_pairs(12)
    asked = patching.asked_of(model, pairs)
    found = patching.grid(model, asked, "mixer").values
    for i, pair in enumerate(pairs):
        first = pair.clean.positions("subject")[0]
        while pair.clean.words[first].text == pair.corrupt.words[first].text:
            first += 1
        assert (found[:, i, :first] == 0).all()
        assert found[:, i, pair.position :].isnan().all()
        assert found[:, i, first : pair.position].isfinite().all()


def test_the_first_depth_is_the_words_and_the_last_is_the_answer(model):
    pairs = [pair for pair in world_pairs.indirect_object_pairs(8) if pair]
    asked = patching.asked_of(model, pairs)
    found = patching.grid(model, asked)
    giver = torch.tensor([pair.clean.positions("giver")[0] for pair in pairs])
    # The prompts differ in one word, so putting it back is the clean run.
    assert torch.allclose(found.at(giver)[0], torch.ones(8), atol=CLOSE)
    assert torch.allclose(found.at(asked.last)[-1], torch.ones(8), atol=CLOSE)
    assert (strongest(found, 0) == giver).all()


# --------------------------------------------------------------------------------------------------
# Against one trace per cell


def by_trace(model, asked: Asked, k: int, at: int, noising: bool) -> Tensor:
    """The effect of the residual stream at (k, at), by nnsight, for all pairs in one run."""
    donor, base = (asked.corrupt, asked.ids) if noising else (asked.ids, asked.corrupt)
    with model.trace(donor, use_cache=False):
        value = model.residual(k)[:, at].save()
    with model.trace(base, use_cache=False):
        model.residual(k)[:, at] = value
        logits = model.logits.save()
    m = asked.score(logits[torch.arange(len(asked)), asked.last])
    of_base, of_donor = difference(model, asked, base), difference(model, asked, donor)
    return (m - of_base) / (of_donor - of_base)


@pytest.mark.parametrize("noising", [False, True])
def test_a_grid_is_one_trace_per_cell(model, noising):
    asked = facts(model)
    found = patching.grid(model, asked, noising=noising).values
    for k in range(model.n_layers + 1):
        for at in (2, 4):
            real = at <= asked.last
            expected = by_trace(model, asked, k, at, noising)
            assert torch.allclose(found[k, real, at], expected[real], atol=CLOSE)


def test_a_component_grid_is_one_trace_per_cell(model):
    asked, layer = facts(model), 1
    found = patching.grid(model, asked, "mixer").values[layer]
    with model.trace(asked.ids, use_cache=False):
        value = model.mixer_output(layer).save()
    of_base, of_donor = (difference(model, asked, ids) for ids in (asked.corrupt, asked.ids))
    for at in (2, 4):
        with model.trace(asked.corrupt, use_cache=False):
            model.mixer_output(layer)[:, at] = value[:, at]
            logits = model.logits.save()
        m = asked.score(logits[torch.arange(len(asked)), asked.last])
        real = at <= asked.last
        assert torch.allclose(found[real, at], ((m - of_base) / (of_donor - of_base))[real], atol=CLOSE)


def test_cells_where_both_runs_hold_the_same_are_not_run(model, monkeypatch):
    """At depth 0 those are the words that both prompts share; a patch there would do nothing."""
    asked, rows = facts(model), []
    monkeypatch.setattr(
        reading, "finish", lambda m, x, k, *rest: rows.append((k, len(x))) or finish(m, x, k, *rest)
    )
    effects = patching.grid(model, asked).values
    different = asked.mask & (asked.ids != asked.corrupt)
    assert sum(n for k, n in rows if k == 0) == different.sum() < patching.cells(asked).sum()
    assert (effects[0][asked.mask & ~different] == 0).all()
    assert (by_trace(model, asked, 0, 4, False)[~different[:, 4]].abs() < CLOSE).all()
    last = patching.grid(model, asked, where=at_positions(asked, asked.last))  # nothing to run at depth 0
    assert (last.at(asked.last)[0] == 0).all()
    assert torch.allclose(last.at(asked.last)[-1], torch.ones(len(asked)), atol=CLOSE)


def test_a_grid_of_some_positions_is_that_part_of_the_whole(model):
    asked = facts(model)
    where = at_positions(asked, asked.last)
    whole, part = (
        patching.grid(model, asked, "mixer"),
        patching.grid(model, asked, "mixer", where=where),
    )
    assert torch.allclose(whole.at(asked.last), part.at(asked.last), atol=CLOSE)
    assert part.values[:, ~where].isnan().all()


def test_a_block_without_the_component_holds_nan(monkeypatch):
    """In a hybrid, whose blocks differ."""
    one, asked = small("mamba"), random_asked()
    kind, whole = one.kind(0), patching.grid(one, asked, "gate").values
    bare = replace(kind, components=("mixer",), stepwise=())
    monkeypatch.setattr(one.architecture, "kind", lambda _, k: bare if k == 1 else kind, raising=False)
    assert patching.components(one) == ["residual", *kind.components, *kind.stepwise]
    found = patching.grid(one, asked, "gate").values
    assert found[1].isnan().all()
    assert torch.allclose(found[[0, 2]], whole[[0, 2]], atol=1e-12)
    with pytest.raises(ValueError, match=r"expected a component of block 1, found 'gate'"):
        patching.held(one, streams(one, asked.ids)[1], 1, "gate")


def test_one_head_is_patched_alone():
    one, asked = small("gpt_neox"), random_asked()
    x = streams(one, asked.corrupt)[1]
    value = patching.held(one, streams(one, asked.ids)[1], 1, "heads")
    head = torch.arange(4) == 2
    where = at_positions(asked, torch.full((3,), 4))[..., None] & head
    seen = []
    put = patching.replace(one, 1, "heads", where, value)

    def watch(name: str, old: Tensor, t: int | None = None) -> Tensor:
        new = put(name, old, t)
        if name == "heads":
            seen.append((old, new))
        return new

    one.block(1, x, watch)
    ((old, new),) = seen
    assert torch.equal(new[:, 4, 2], value[:, 4, 2])
    assert torch.equal(new.masked_fill(where[..., None], 0), old.masked_fill(where[..., None], 0))


# --------------------------------------------------------------------------------------------------
# The state


def test_the_carry_is_what_the_cache_holds(mamba):
    """Replacing what step t hands on equals editing the cache after step t."""
    asked, layer, at = facts(mamba, 10), 2, 3
    asked = asked[(asked.last > at).nonzero()[:, 0]]
    donor, base = (streams(mamba, ids) for ids in (asked.ids, asked.corrupt))
    where = at_positions(asked, torch.full((len(asked),), at))
    value = patching.held(mamba, donor[layer], layer, "carry")
    put = {layer: patching.replace(mamba, layer, "carry", where, value)}
    found = finish(mamba, base[layer], layer, asked.last, put)
    cache = mamba.hf(input_ids=asked.corrupt[:, : at + 1], use_cache=True).cache_params
    given = mamba.hf(input_ids=asked.ids[:, : at + 1], use_cache=True).cache_params
    state = mamba.state(cache, layer)["ssm"]
    assert not torch.allclose(state, mamba.state(given, layer)["ssm"], atol=1e-2)
    state.copy_(mamba.state(given, layer)["ssm"])
    out = mamba.hf(input_ids=asked.corrupt[:, at + 1 :], cache_params=cache, use_cache=True)
    expected = out.logits[torch.arange(len(asked)), asked.last - at - 1]
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_state_is_read_and_carried_and_a_carry_is_carried_alone():
    one, at = small("mamba"), 4
    asked = random_asked()
    x = streams(one, asked.corrupt)[1]
    where = at_positions(asked, torch.full((3,), at))
    outputs = {}
    for name in ("state", "carry"):
        value = torch.zeros_like(patching.held(one, x, 1, name))
        outputs[name] = one.block(1, x, patching.replace(one, 1, name, where, value))
    plain = one.block(1, x)
    assert torch.allclose(outputs["carry"][:, : at + 1], plain[:, : at + 1], atol=1e-12)
    assert torch.allclose(outputs["state"][:, :at], plain[:, :at], atol=1e-12)
    assert (outputs["state"][:, at] - plain[:, at]).abs().max() > 1e-3
    assert torch.allclose(outputs["state"][:, at + 1 :], outputs["carry"][:, at + 1 :], atol=1e-12)


def test_a_full_transplant_goes_on_as_the_clean_run(model):
    pairs = world_pairs.fact_pairs(8)
    asked = patching.asked_of(model, pairs)
    at = torch.tensor([pair.clean.positions("subject")[-1] for pair in pairs])
    kept = (at < asked.last).nonzero()[:, 0]
    asked, at = asked[kept], at[kept]
    found = patching.transplant(model, asked, at)
    assert torch.allclose(found, torch.ones(len(found)), atol=CLOSE)
    # and it is the cache that does it: without any part nothing happens
    nothing = patching.transplant(model, asked, at, parts=[])
    assert torch.allclose(nothing, torch.zeros(len(found)), atol=CLOSE)
    # the words after the cut are the same in both prompts, so the clean run is what it should be
    for clean, corrupt, cut in zip(asked.ids, asked.corrupt, at, strict=True):
        assert torch.equal(clean[cut + 1 :], corrupt[cut + 1 :])


# --------------------------------------------------------------------------------------------------
# Knockout


def test_the_dual_state_is_the_masked_matrix_and_what_block_does(mamba):
    ids = patching.asked_of(mamba, world_pairs.indirect_object_pairs(1)).ids
    layer, sources, queries = 3, [2, 3], [6]
    (mixing,) = attention.mixings(mamba, ids, [layer])
    u, core = mixing.u[0], mixing.core
    arguments = (u, core.delta[0], core.A, core.B[0], core.C[0])
    by_state = knockout_and_edits.dual_state(*arguments, sources, queries)
    alpha = mixing.weights("scan")[0].clone()  # [channel query source]
    whole = torch.einsum("ets,se->te", alpha, u)
    alpha[:, queries[0], sources] = 0
    by_matrix = torch.einsum("ets,se->te", alpha, u)
    assert torch.allclose(by_state, by_matrix, atol=1e-5)
    assert (by_state - whole)[queries].abs().max() > 1e-3
    # attention.block subtracts from the mixer's output what the sources brought
    masks = [torch.zeros_like(ids, dtype=torch.bool) for _ in range(2)]
    for mask, positions in zip(masks, (sources, queries), strict=True):
        mask[:, positions] = True
    x = streams(mamba, ids)[layer]
    y = patching.held(mamba, x, layer, "read-out")
    changed = y + (by_state - whole)[None]
    new = {layer: patching.replace(mamba, layer, "read-out", masks[1], changed)}
    found = finish(mamba, x, layer, torch.tensor([6]), new)
    expected = attention.block(mamba, ids, [layer], *masks, spread=False)[:, 6]
    assert torch.allclose(found, expected, atol=1e-4)


def test_knockout_leaves_earlier_positions_as_they_were(model):
    asked = facts(model)
    sources, queries = (at_positions(asked, at) for at in (asked.last - 2, asked.last))
    layers = range(model.n_layers)
    before = model.to_logits(streams(model, asked.ids)[-1])
    nothing = attention.block(model, asked.ids, layers, sources, torch.zeros_like(queries))
    found = attention.block(model, asked.ids, layers, sources, queries)
    assert torch.allclose(nothing, before, atol=1e-4)
    for i, last in enumerate(asked.last.tolist()):
        assert (found[i, :last] - nothing[i, :last]).abs().max() == 0.0
        assert (found[i, last] - nothing[i, last]).abs().max() > 1e-2


def test_knockout_windows_are_blocks_of_those_layers(model):
    asked = facts(model)
    sources = at_positions(asked, asked.last - 2, asked.last - 1)
    queries = at_positions(asked, asked.last)
    found = patching.knockout(model, asked, sources, queries, 3)
    assert found.shape == (model.n_layers - 2, len(asked))
    logits = attention.block(model, asked.ids, [1, 2, 3], sources, queries)
    right = logits[torch.arange(len(asked)), asked.last].argmax(-1) == asked.answers
    assert torch.equal(found[1], right.float())


def test_a_prompt_whose_query_would_read_nothing_is_left_out_and_the_others_are_not(transformer):
    asked = facts(transformer, 5)
    before, queries = at_positions(asked, asked.last - 1), at_positions(asked, asked.last)
    alone = patching.knockout(transformer, asked, before, queries, 2)
    everything = before.clone()
    everything[3] = True  # the query itself, too
    found = patching.knockout(transformer, asked, everything, queries, 2)
    assert found[:, 3].isnan().all()
    others = [0, 1, 2, 4]
    assert torch.equal(found[:, others], alone[:, others])
    assert set(alone.flatten().tolist()) <= {0.0, 1.0}
    with pytest.raises(attention.NothingLeft, match="found 1 of 5 queries with none") as nothing:
        attention.block(transformer, asked.ids, [2], everything, queries)
    assert nothing.value.rows.tolist() == [False, False, False, True, False]


@torch.no_grad()
def test_a_cut_of_an_average_is_that_of_its_keys_however_little_is_left():
    """A word whose key is minus infinity has no weight. One block's keys are large, so that next to no
    weight is left to the other words."""
    model = toy("rwkv")
    attend = model.hf.rwkv.blocks[1].attention
    attend.key.weight *= 60
    asked = facts(load("transformer"), 4)
    sources, queries = at_positions(asked, asked.last - 1, asked.last), at_positions(asked, asked.last)
    found = attention.block(model, asked.ids, [1], sources, queries, spread=False)
    least = []

    def without(name: str, value: Tensor, t: int | None = None) -> Tensor:
        if name != "key":
            return value
        w = attend.time_decay.exp()
        lag = asked.last[:, None] - torch.arange(value.shape[1])
        kept = ((lag >= 0) & ~sources)[..., None]
        whole = (value - w * lag[..., None]).masked_fill((lag < 0)[..., None], -1e9).logsumexp(1)
        least.append(((value - w * lag[..., None]).masked_fill(~kept, -1e9).logsumexp(1) - whole).min())
        return value.masked_fill(sources[..., None], -1e6)

    x = reading.streams(model, asked.ids, 2)
    seen = {}

    def keep_mixer(name: str, value: Tensor, t: int | None = None) -> Tensor:
        return without(name, seen.setdefault(name, value))

    model.block(1, x[1], keep_mixer)
    of_query = patching.replace(model, 1, "mixer", queries, seen["mixer"])
    expected = reading.finish(model, x[1], 1, asked.last, {1: of_query})
    assert -200 < least[0] < -40  # float64 rounds at e^-36
    rows = torch.arange(len(asked))
    torch.testing.assert_close(found[rows, asked.last], expected, rtol=1e-3, atol=1e-3)


def test_any_other_error_of_a_cut_is_seen(transformer, monkeypatch):
    asked = facts(transformer, 2)
    mask = at_positions(asked, asked.last)

    def block(*_):
        raise ValueError("expected something else")

    monkeypatch.setattr(attention, "block", block)
    with pytest.raises(ValueError, match="expected something else"):
        patching.blocked(transformer, asked, [1], mask, mask)


# --------------------------------------------------------------------------------------------------
# Attribution patching


@pytest.mark.parametrize("model_type", TYPES)
def test_attribution_is_the_derivative_of_the_patch(model_type):
    """A patch scaled down to a hundredth changes m by a hundredth of the estimate."""
    one, asked = small(model_type), random_asked()
    donor, base = (streams(one, ids) for ids in (asked.ids, asked.corrupt))
    m = [asked.score(finish(one, run[-1], 3, asked.last)) for run in (donor, base)]
    found = patching.attribution(one, asked).values[1]
    for at in (2, 5):
        where = at_positions(asked, torch.full((3,), at))[..., None]
        ends = []
        for step in (0.01, -0.01):
            x = torch.where(where, torch.lerp(base[1], donor[1], step), base[1])
            ends.append(asked.score(finish(one, x, 1, asked.last)))
        expected = (ends[0] - ends[1]) / 0.02 / (m[0] - m[1])
        assert torch.allclose(found[:, at], expected, rtol=0.02, atol=1e-3), at


@pytest.mark.parametrize("model_type", TYPES)
def test_integrated_attribution_of_the_words_is_complete(model_type):
    """Their effects add up to the whole change of m, by the fundamental theorem of calculus."""
    one, asked = small(model_type), random_asked()
    many = patching.attribution(one, asked, steps=200).values[0].sum(-1)
    assert torch.allclose(many, torch.ones(3, dtype=many.dtype), atol=1e-2), many
    once = patching.attribution(one, asked, steps=1).values[0].sum(-1)
    assert (once - 1).abs().max() > 0.1


def test_integrated_attribution_ranks_better_than_one_gradient_does(model):
    """Facts, over pairs of cells whose exact effects are more than .1 apart."""
    asked = facts(model, 24, seed=3)
    exact = patching.grid(model, asked)
    plain, integrated = (
        wrong_order(exact, patching.attribution(model, asked, steps=steps)) for steps in (1, 5)
    )
    assert integrated < 0.05, integrated
    assert integrated < plain


def wrong_order(exact: Effects, estimate: Effects) -> Tensor:
    """The mean share of pairs of cells in the wrong order, of the cells that do anything."""
    kept = (exact.values.nan_to_num() != 0) & estimate.values.isfinite()
    rows = zip(*(x.unbind(1) for x in (exact.values, estimate.values, kept)), strict=True)
    shares = [activation_patching.in_order(a[some], b[some]) for a, b, some in rows]
    return 1 - torch.stack(shares).nanmean()


def test_pairs_are_counted_where_exact_effects_differ():
    exact, estimate = torch.tensor([[1.0, 0.99, 0.5], [0.6, 0.7, 0.65]])
    # of (1, .99), (1, .5), (.99, .5) the first is no order and the second is wrong
    assert float(activation_patching.in_order(exact, estimate, apart=0.1)) == 0.5
    assert float(activation_patching.in_order(exact, estimate, apart=0.005)) == pytest.approx(1 / 3)
    assert float(activation_patching.in_order(exact, exact, apart=0.0)) == 1
    assert activation_patching.in_order(exact, exact, apart=2.0).isnan()


# --------------------------------------------------------------------------------------------------
# What the world knows


def test_the_route_of_a_fact_is_from_its_subject_to_the_last_word(model):
    pairs = world_pairs.fact_pairs(64, seed=5)
    asked = patching.asked_of(model, pairs)
    found = patching.grid(model, asked)
    words = [pair.clean.positions("subject") for pair in pairs]
    subject = torch.tensor([[some[0], some[-1]] for some in words])
    path = torch.stack([strongest(found, k) for k in range(model.n_layers + 1)])  # [depth pair]
    on_route = (path[..., None] == subject).any(-1) | (path == asked.last)
    estimate = stats.proportion(int(on_route.all(0).sum()), len(pairs))
    assert estimate.value >= 0.9, estimate
    assert (strongest(found, 0)[:, None] == subject).any(1).all()
    assert (strongest(found, model.n_layers) == asked.last).all()


def test_the_indirect_object_is_decided_at_the_giver_then_at_the_last_word(model):
    pairs = world_pairs.indirect_object_pairs(32, seed=5)
    asked = patching.asked_of(model, pairs)
    found = patching.grid(model, asked)
    giver = torch.tensor([pair.clean.positions("giver")[0] for pair in pairs])
    path = torch.stack([strongest(found, k) for k in range(model.n_layers + 1)])  # [depth pair]
    assert ((path == giver) | (path == asked.last)).float().mean() >= 0.9
    assert (path[0] == giver).all()
    assert (path[-2] == asked.last).float().mean() >= 0.9


# --------------------------------------------------------------------------------------------------
# Bad input


def test_bad_input_gets_one_sentence(model):
    asked = facts(model, 3)
    with pytest.raises(ValueError, match=r"expected a component, one of residual, .*; found 'attn'"):
        patching.grid(model, asked, "attn")
    with pytest.raises(ValueError, match=r"found 3 with two equal prompts"):
        patching.asked_of(model, world_pairs.minimal_pairs(3))
    with pytest.raises(ValueError, match=r"expected each cut before the last word"):
        patching.transplant(model, asked, asked.last)
    with pytest.raises(ValueError, match=r"expected parts among \w+, \w+; found \['nothing'\]"):
        patching.transplant(model, asked, asked.last - 1, parts=["nothing"])
    mask = torch.zeros_like(asked.ids, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"expected a window of 1 to \d+ layers; found 0"):
        patching.knockout(model, asked, mask, mask, 0)


def test_a_tokenizer_that_splits_words_is_refused(model):
    def tokenizer(texts: list[str]) -> SimpleNamespace:
        """Two tokens a word."""
        return SimpleNamespace(input_ids=[[1] * 2 * len(text.split()) for text in texts])

    tokenizer.pad_token_id = 0
    split = SimpleNamespace(hf=model.hf, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="expected pairs whose words are this tokenizer.s tokens"):
        patching.asked_of(split, world_pairs.fact_pairs(2))


# --------------------------------------------------------------------------------------------------
# Figures


def drawn(result) -> tuple:
    figure, alt = result
    assert plots.unfit(figure, alt) == ""
    return figure, alt


def test_figures_are_fit_for_a_page():
    drawn(activation_patching.two_runs())
    map_ = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.8, 1.0]])
    _, alt = drawn(activation_patching.one_prompt({"A": map_.T, "B": map_.T.flip(0)}, ["x", "y"]))
    assert "A: x, then y; B: y, then x" in alt
    figure, alt = drawn(
        activation_patching.routes({"fact": {"A": map_, "B": map_.flip(1)}}, {"fact": ["x", "y"]})
    )
    assert "fact, A: k = 1 of 2; fact, B: k = 0 of 2" in alt
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert not figure.axes[0].texts
    beyond = torch.tensor(
        [[1.0, -29.1, 0.0], [0.0, 25.8, 1.4]]
    )  # what the colours cannot show is written
    figure, _ = drawn(activation_patching.routes({"fact": {"A": beyond}}, {"fact": ["x", "y"]}))
    assert [(t.get_text(), *t.get_position()) for t in figure.axes[0].texts] == [
        ("-29", 0.5, 0),
        ("26", 0.5, 1),
    ]
    _, alt = drawn(activation_patching.parts({"A": {"mixer": map_[0]}, "B": {"state": map_[1]}}, "fact"))
    assert "A: mixer, block 0, 1.00; B: state, block 2, 1.00" in alt
    row = {"A": {"trained": [0.2, 0.25], "untrained": [0.5]}, "B": {"trained": [0.9], "untrained": [0.6]}}
    figure, alt = drawn(activation_patching.moves({"fact": row, "name": row}))
    assert "fact, A: trained 0.20 0.25, untrained 0.50" in alt
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    clouds = {"plain": (map_[0], map_[0] + 0.5), "better": (map_[0], map_[0])}
    figure, alt = drawn(
        activation_patching.estimates({kind: dict.fromkeys("AB", clouds) for kind in ("name", "fact")})
    )
    assert "name, A, plain: 0.50; name, A, better: 0.00" in alt
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    line = [stats.proportion(k, 10) for k in (9, 1, 5)]
    lost = stats.Estimate(*[math.nan, 0, math.nan, math.nan])
    for names in ("A", "AB", "ABC"):
        lines = {name: {"subject": line, "control": [lost, *line[1:]]} for name in names}
        figure, alt = drawn(
            knockout_and_edits.curves(lines, {name: [0, 1, 2] for name in names}, "window", "right")
        )
        assert "A, subject: 0.90 to 0.50, lowest 0.10" in alt
        assert "A, control: 0.10 to 0.50, lowest 0.10" in alt
        assert len({axis.get_ylim() for axis in figure.axes}) == 1
    swept = {title: {"A": [0.9, 0.1], "B": [0.2, 0.8, 0.0]} for title in ("writes", "reads")}
    line = ([0, 1], [0.9, 0.1])
    published = {"writes": {"whole": line}, "reads": {"one half": line, "other half": line}}
    figure, alt = drawn(knockout_and_edits.sweep(swept, published))
    assert "writes, A: block 0 with 0.90; writes, B: block 1 with 0.80" in alt
    assert [len(axis.lines) for axis in figure.axes] == [3, 4]
    drawn(knockout_and_edits.two_cuts())
    nine, one, five = (stats.proportion(k, 10) for k in (9, 1, 5))
    row = {"A": {"kin": nine, "paraphrase": one}, "B": {"kin": five, "paraphrase": nine}}
    _, alt = drawn(knockout_and_edits.tests_of({"writes": row}))
    assert "writes, A: lowest paraphrase, 0.10; writes, B: lowest kin, 0.50" in alt


# --------------------------------------------------------------------------------------------------
# The lessons' own functions, on other prompts than their checks use


def test_the_depth_of_the_move_is_read_off_a_grid(model):
    asked = facts(model, 12, seed=4)
    at_last = patching.grid(model, asked).at(asked.last)
    for column, depth in zip(at_last.T, activation_patching.depth_of_move(at_last), strict=True):
        k = round(float(depth) * model.n_layers)
        assert (column[k:] > 0.5).all()
        assert k == 0 or column[k - 1] <= 0.5


def test_a_component_is_needed_as_the_noising_grid_says(model):
    asked = facts(model, 5, seed=6)
    where = at_positions(asked, asked.last)
    grid = patching.grid(model, asked, "mixer", noising=True, where=where).at(asked.last)
    for layer in range(model.n_layers):
        assert torch.allclose(activation_patching.needed(model, asked, layer), grid[layer], atol=2e-3)


def test_another_prompts_effects_stand_at_the_words_of_their_role():
    """The control of lesson 07a: word by word from the next prompt whose role has as many words; where
    none has, one mean for all words of the role."""
    roles = [
        {"name": [0, 1], "after": [], "last": [3]},
        {"name": [0], "after": [1], "last": [2]},
        {"name": [1], "after": [2], "last": [3]},
    ]
    effects = torch.arange(12.0).view(1, 3, 4)  # [depth prompt pos]
    found = activation_patching.moved(effects, roles)[0]
    nan = torch.nan
    wanted = [[4, 4, nan, 6], [9, 10, 11, nan], [nan, 4, 5, 3]]
    assert torch.allclose(found, torch.tensor(wanted), equal_nan=True)
    two = activation_patching.moved(effects[:, :2], [{"name": [0, 1]}, {"name": [2, 3]}])[0]
    wanted = [[6, 7, nan, nan], [nan, nan, 0, 1]]
    assert torch.allclose(two, torch.tensor(wanted), equal_nan=True)
