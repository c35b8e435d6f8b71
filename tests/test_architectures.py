"""Every architecture of the registry keeps the contract of `tft_utils.architectures`, by one suite.

To add an architecture is to pass this file: its block is transformers' block, goes on from transformers'
cache, and everything that is derived from it agrees with what is computed otherwise.
"""

import pytest
import torch
from devices import THERE, device, split
from toys import toy

from tft_utils import models, reading
from tft_utils.architectures import ARCHITECTURES, Unsupported
from tft_utils.architectures.recurrent import keep, looks
from tft_utils.organisms.training import CHANGES
from tft_utils.techniques import patching, relevance

CLOSE = {"rtol": 1e-5, "atol": 2e-6}
PROMPTS = ["The capital of Zabar is", "mila : red . tomo : blue . mila :", "The keys near the door are"]


# Organisms with one part changed: what `ORGANISMS` sets, and what `CHANGES` does to a model.
FACTORS = {
    "mamba-unconvolved": ("mamba", {"conv_kernel": 1}),
    "mamba-unselective": ("mamba", {}),
    "mamba-state4": ("mamba", {"state_size": 4}),
}


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *FACTORS])
def model(request) -> models.Model:
    model_type, settings = FACTORS.get(request.param, (request.param, {}))
    made = toy(model_type, **settings)
    if request.param in FACTORS.keys() & CHANGES.keys():
        CHANGES[request.param](made.hf)
    return made


@pytest.fixture(scope="module")
def ids(model) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(3, model.config.vocab_size, (2, 9), generator=draw)


@pytest.fixture(scope="module")
def run(model, ids) -> torch.Tensor:
    """The residual stream of transformers' own run [depth batch pos d_model]."""
    with torch.no_grad(), reading.caught(reading.depths(model)) as streams:
        model.hf(ids, use_cache=False)
    return torch.stack(streams)


def supported(model, capability: str) -> None:
    try:
        model.requires(capability)
    except Unsupported as lacks:
        pytest.skip(f"skipped loudly: {lacks}")


def past_of(model, ids: torch.Tensor, layer: int) -> dict:
    """What transformers' cache carries after ids, with an axis for variants."""
    cache = model.hf(ids, use_cache=True)[model.architecture.CACHE]
    carried = {name: part[:, None] for name, part in model.state(cache, layer).items()}
    return carried | {"mask": torch.ones_like(ids)}


# ---- the forward -----------------------------------------------------------------------------------


@torch.no_grad()
def test_blocks_and_logits_are_those_of_transformers(model, ids, run):
    torch.testing.assert_close(reading.streams(model, ids), run, check_dtype=False, **CLOSE)
    last = torch.full((len(ids),), ids.shape[1] - 1)
    theirs = model.hf(ids, use_cache=False).logits[:, -1]
    for k in range(model.n_layers + 1):
        ours = reading.finish(model, run[k], k, last)
        torch.testing.assert_close(ours, theirs, check_dtype=False, **CLOSE)  # theirs may be float32


@torch.no_grad()
def test_a_model_on_two_devices_is_the_same(model, ids, run):
    """What enters a block, from the stream or from a `put`, goes where the block is, and its output comes
    back; a device is a mark here, see `devices`."""
    last, k = torch.full((len(ids),), ids.shape[1] - 1), model.n_layers - 1
    whole, donor, seen = reading.finish(model, run[k], k, last), torch.zeros_like(run[0]), {}

    def put(name, value, t=None):
        seen[name] = value
        return donor if name == "mixer" else value

    put.points = ("mixer",)
    patched = model.block(k, run[k], put)
    with split(model):
        with pytest.raises(RuntimeError, match="tensors on two devices"):
            model.architecture.block(model.hf, k, run[k], put)
        assert model.is_split
        torch.testing.assert_close(reading.finish(model, run[k], k, last), whole)
        torch.testing.assert_close(model.block(k, run[k], put), patched)
        assert device(seen["mixer"]) == THERE
        assert device(model.block(k, run[k], put)) == device(run[k])
    assert not model.is_split


@torch.no_grad()
def test_a_block_is_the_same_whoever_looks(model, run):
    """At every point, at some, or at none: a shortcut past the others changes no number."""

    def some(name, value, t=None):
        return value

    some.points = ("mixing", "mixer")
    for layer in range(model.n_layers):
        for put in (keep, some, lambda name, value: value):
            torch.testing.assert_close(model.block(layer, run[layer], put), run[layer + 1], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("prefix", range(1, 9))
def test_a_block_goes_on_from_transformers_cache(model, ids, run, prefix):
    supported(model, "continuation")
    for layer in range(model.n_layers):
        past = past_of(model, ids[:, :prefix], layer)
        x = run[layer][:, None, prefix : prefix + 1].expand(-1, 3, -1, -1)  # three variants of one word
        moved = torch.cat([x[:, :2], 2 * x[:, 2:]], 1)
        kept = {name: part.clone() for name, part in past.items()}
        after = model.block(layer, moved, past=past)
        for variant in range(2):
            torch.testing.assert_close(after[:, variant, 0], run[layer + 1][:, prefix], **CLOSE)
        assert (after[:, 2] - after[:, 0]).abs().max() > 1e-3  # and the third one reads another word
        assert all(torch.equal(past[name], kept[name]) for name in past), "the past was changed"


@torch.no_grad()
def test_step_by_step_is_the_block(model, run):
    for layer in range(model.n_layers):
        names = []

        def put(name, value, t=None, names=names):
            names.append(name)
            return value

        put.stepwise = True
        torch.testing.assert_close(model.block(layer, run[layer], put), run[layer + 1], **CLOSE)
        assert set(model.kind(layer).components) | set(model.kind(layer).stepwise) | {"mixing"} <= set(
            names
        )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_stream_keeps_its_precision(model, dtype):
    small = toy(model.config.model_type, dtype=dtype)
    ids = torch.arange(3, 11)[None]
    logits = small.to_logits(reading.streams(small, ids)[-1])
    theirs = small.hf(ids, use_cache=False).logits
    assert logits.dtype == dtype
    tolerance = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    assert (logits - theirs).abs().max() <= tolerance * theirs.abs().max()


@torch.no_grad()
def test_padding_does_not_change_a_run(model):
    model = toy(
        model.config.model_type, dtype=torch.float32
    )  # in float64 transformers' attention cannot pad
    single = [reading.tokens(model, prompt) for prompt in PROMPTS]
    alone = torch.cat([model.hf(ids, use_cache=False).logits[:, -1] for ids, _ in single])
    right = reading.tokens(model, PROMPTS)
    ended = reading.finish(model, model.embed(right.ids), 0, right.lengths - 1)
    torch.testing.assert_close(ended, alone, **CLOSE)
    supported(model, "padding on the left")
    left = reading.tokens(model, PROMPTS, side="left")
    cache, _ = reading.run(model, left.ids[:, :-1], left.mask[:, :-1])
    _, logits = reading.run(model, left.ids[:, -1:], left.mask, cache)
    torch.testing.assert_close(logits, alone, **CLOSE)


# ---- what is derived from it -------------------------------------------------------------------------


@torch.no_grad()
def test_a_patch_of_everything_restores_and_one_of_nothing_changes_nothing(model, ids, run):
    other = ids.flip(1)
    corrupt = reading.streams(model, other)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    for layer in range(model.n_layers):
        kind = model.kind(layer)
        for component in (*kind.components, *kind.stepwise):
            own = patching.held(model, run[layer], layer, component)
            same = model.block(
                layer, run[layer], patching.replace(model, layer, component, everywhere, own)
            )
            torch.testing.assert_close(same, run[layer + 1], **CLOSE)
        added, met = {}, {}  # what the block adds to the stream, and the stream of the other run

        def record(name, value, t=None, added=added):
            added[name] = value
            return value

        def meet(name, value, t=None, met=met):
            met[name] = value
            return value

        model.block(layer, run[layer], record)
        model.block(layer, corrupt[layer], meet)
        outputs = [name for name in ("mixer", "mlp") if name in added]

        def put(name, value, t=None, added=added, outputs=outputs):
            return added[name] if name in outputs else value

        # With all that a block adds taken from the clean run, only the stream it meets differs.
        change = run[layer + 1] - added.get("stream", run[layer])
        expected = met.get("stream", corrupt[layer]) + change
        torch.testing.assert_close(model.block(layer, corrupt[layer], put), expected, **CLOSE)


@torch.no_grad()
def test_the_mixing_rebuilds_the_mixers_output_from_its_parts(model, run):
    supported(model, "hidden attention")
    for layer in range(model.n_layers):
        mixing, output = model.mixing(layer, run[layer]), patching.held(model, run[layer], layer, "mixer")
        weights, values = mixing.weights(), mixing.values()
        assert (weights.triu(1) == 0).all(), "a position reads a later one"
        vectors = torch.einsum("buqs,busw,uwd->bqd", weights, values, mixing.projection)
        torch.testing.assert_close(vectors + mixing.constant(), output, **CLOSE)
        first = mixing.levels[0]
        mixed = mixing.weights(first) @ mixing.values(first)
        torch.testing.assert_close(mixing.mix(mixing.values(first)), mixed, **CLOSE)
        row = mixing.row(1, 5)
        torch.testing.assert_close(row.weights(), weights[1:, :, :5, :5], **CLOSE)
        some = torch.tensor([2, 6])
        torch.testing.assert_close(
            mixing.weights(queries=some, units=[0, 3]), weights[:, [0, 3]][:, :, some]
        )


@pytest.fixture(scope="module")
def asked(model) -> reading.Asked:
    supported(model, "relevance")
    return reading.ask(model, ["The keys near the door of the garden are"], ["green"], ["old"])


def rule_sets() -> list[tuple[str, str]]:
    return [
        (name, rules) for name in ARCHITECTURES for rules in getattr(ARCHITECTURES[name], "RULE_SETS", ())
    ]


@pytest.mark.parametrize(("name", "rules"), rule_sets())
def test_relevance_conserves_and_each_rule_dropped_breaks_it(name, rules):
    model = toy(name)
    supported(model, "relevance")
    asked = reading.ask(model, ["The keys near the door of the garden are"], ["green"], ["old"])
    assert relevance.conservation(model, asked, rules).gap < 1e-6
    shares = model.architecture.RULE_SETS[rules]
    for rule, points in model.architecture.RULES.items():
        if all(shares.get(point, 1) == 1 for point in points):
            continue  # this set has no such rule
        assert relevance.conservation(model, asked, rules, without=[rule]).gap > 1e-4, rule


def test_relevance_without_any_rule_is_gradient_times_input(model, asked):
    rules = list(model.architecture.RULES)
    found = relevance.flow(model, asked, without=rules)[0]
    x = model.embed(asked.ids).detach().requires_grad_()
    logits = model.hf(inputs_embeds=x, use_cache=False).logits[:, -1]
    (gradient,) = torch.autograd.grad(asked.score(logits).sum(), x)
    torch.testing.assert_close(found, (x * gradient).sum(-1).detach(), **CLOSE)


def test_a_llama_with_a_window_is_refused():
    options = {"sliding_window": 4, "layer_types": ["full_attention", *["sliding_attention"] * 2]}
    with pytest.raises(Unsupported, match="qwen2 has no open block: some of its layers see a window"):
        toy("qwen2", **options)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"num_key_value_heads": 1, "hidden_act": "gelu"},
        {"num_key_value_heads": 4, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"tie_word_embeddings": True},  # SmolLM2
    ],
)
def test_other_settings_of_llama_are_transformers_blocks_too(settings):
    model, ids = toy("llama", **settings), torch.arange(5, 14)[None]
    with reading.caught(reading.depths(model)) as streams:
        logits = model.hf(ids, use_cache=False).logits
    ours = reading.streams(model, ids)
    torch.testing.assert_close(ours, torch.stack(streams), check_dtype=False, **CLOSE)
    torch.testing.assert_close(model.to_logits(ours[-1]), logits, check_dtype=False, **CLOSE)


# ---- what it says about itself, and what it refuses ----------------------------------------------------


def test_the_paths_lead_to_modules_and_the_units_fill_the_projection(model):
    for what in ("embedding", "final_norm", "unembedding"):
        assert isinstance(model.module(what), torch.nn.Module)
    for layer in range(model.n_layers):
        assert model.module("output", layer).weight.shape[1] % model.units(layer) == 0
        assert isinstance(model.module("memory", layer), torch.nn.Linear)
        assert model.module("mixer", layer) is not model.module("block", layer)
    unembedding = model.architecture.WHERE["unembedding"].rpartition(".")[2]
    assert unembedding in model.architecture.LORA_TARGETS, "an adapter learns to say new words"
    for target in model.architecture.LORA_TARGETS:
        assert any(name.endswith(target) for name, _ in model.hf.named_modules()), target


@torch.no_grad()
def test_the_state_is_live_and_compressed_parts_keep_their_size(model, ids):
    supported(model, "continuation")
    keyword = model.architecture.CACHE
    sizes = []
    for length in (4, 8):
        cache = model.hf(ids[:, :length], use_cache=True)[keyword]
        sizes.append(
            [{n: p.shape for n, p in model.state(cache, k).items()} for k in range(model.n_layers)]
        )
        before = model.hf(ids[:, 8:], use_cache=True, **{keyword: cache}).logits
        cache = model.hf(ids[:, :length], use_cache=True)[keyword]
        for layer in range(model.n_layers):
            for part in model.state(cache, layer).values():
                part.zero_()
        assert (
            model.hf(ids[:, 8:], use_cache=True, **{keyword: cache}).logits - before
        ).abs().max() > 1e-4
    for layer in range(model.n_layers):
        short, long = sizes[0][layer], sizes[1][layer]
        assert set(model.kind(layer).compressed) == {name for name in short if short[name] == long[name]}


def test_a_saved_model_loads_and_answers_alike(model, ids, tmp_path):
    small = toy(model.config.model_type, dtype=torch.float32)
    small.hf.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    loaded = models.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.hf(ids).logits, small.hf(ids).logits)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda m: m.residual(99), "expected a depth k from 0 to 3; found 99"),
        (lambda m: reading.tokens(m, []), "expected texts of one token or more"),
        (lambda m: reading.tokens(m, "red", side="top"), "a side 'left' or 'right'"),
        (
            lambda m: reading.token_ids(m, ["red blue"]),
            "expected words of one token each, found 'red blue'",
        ),
        (
            lambda m: reading.token_ids(m, ["nowhere"]),
            "expected words of one token each, found 'nowhere'",
        ),
        (lambda m: reading.ask(m, ["red", "blue"], ["red"]), "expected one answer for each of 2 prompts"),
        (lambda m: reading.ask(m, ["red"], ["red"], corrupt=["red blue"]), "prompts of equal length"),
        (lambda m: reading.ask(m, ["red"], ["red"], corrupt=["red"]), "pairs whose prompts differ"),
        (lambda m: reading.ask(m, ["red"], ["red"], at={"subject": [3]}), "behind its last word"),
        (
            lambda m: reading.run(m, *reading.tokens(m, ["red", "red blue"])),
            "expected padding on the left",
        ),
        (lambda m: relevance.flow(m, reading.ask(m, "red", ["blue"]), "no rules"), "expected a rule set"),
    ],
)
def test_a_misuse_gets_its_sentence(model, misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse(model)


def test_one_string_is_one_prompt(model):
    assert torch.equal(reading.tokens(model, "red blue").ids, reading.tokens(model, ["red blue"]).ids)
    assert len(reading.ask(model, "red blue", ["red"])) == 1


def test_keep_keeps_and_looks_at_nothing():
    value = object()
    assert keep("anything", value) is value
    assert not looks(keep, "scale")
    assert looks(lambda name, value: value, "scale")
