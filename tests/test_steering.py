"""Steering: the sweep against whole runs, directions, text, the published files, the figures."""

import json
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor
from toys import toy
from transformers import AutoTokenizer

from tft_utils import reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import published, world
from tft_utils.corpora import questions as world_questions
from tft_utils.corpora.lexicon import BEHAVIOURS
from tft_utils.corpora.questions import Contrast, Question
from tft_utils.course import plots
from tft_utils.files import LoadError
from tft_utils.lessons import steering as figures
from tft_utils.lessons import steering_the_state as state_figures
from tft_utils.models import load
from tft_utils.techniques import contrasts, steering
from tft_utils.techniques.contrasts import Direction
from tft_utils.techniques.steering import Push

FEW = (-2.0, 1.0)

pytestmark = pytest.mark.usefixtures("without_gradients")


def ways(model) -> list[tuple[str, ...]]:
    """Every kind of steering that the architecture knows."""
    states = model.kind(0).compressed
    single = [("residual",), *((name,) for name in states)]
    return single + ([states, ("residual", *states)] if states else [])


def random_direction(model, size: float = 1.0, seed: int = 0) -> Direction:
    """A direction of known size in everything that can be steered."""
    ready = steering.read_once(model, world_questions.questions("refusal")[:1])
    draw = torch.Generator().manual_seed(seed)

    def like(x):
        return size * torch.randn(x.shape, generator=draw).to(x)

    return Direction(
        like(ready.residual[:, 0]),
        tuple(
            {name: like(block[name][0, 0]) for name in model.kind(0).compressed} for block in ready.past
        ),
    )


def naive_sweep(model, asked, direction, multipliers, parts=("residual",), depths=None, word=-1):
    """A `steering.Sweep` by a run of the whole prompts for each cell. word: the steered word's place."""
    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left" if word < 0 else "right")
    at, letters = word % ids.shape[1], steering.letter_tokens(model, asked)
    states = set(parts) - {"residual"}
    depths = range(bool(states), model.n_layers + 1) if depths is None else depths

    def answers(k: int, m: float) -> tuple[Tensor, Tensor]:
        cache = contrasts.carried(model, ids[:, :at], mask[:, :at]) if at else None
        for part in states if m else ():
            model.state(cache, k - 1)[part].add_(direction.state[k - 1][part], alpha=m)

        def add(_, stream: Tensor) -> Tensor:
            first = (torch.arange(stream.shape[1]) == 0).to(stream)
            return stream + m * ("residual" in parts) * first[:, None] * direction.residual[k].to(stream)

        with reading.hooked(reading.depths(model)[k], add):
            _, logits = reading.run(model, ids[:, at:], mask, cache)
        two = logits.gather(1, letters)
        return two.softmax(-1)[:, 0], 1 - logits.softmax(-1).gather(1, letters).sum(-1)

    cells = [torch.stack([torch.stack(answers(k, m)) for m in multipliers]) for k in depths]
    matching, nonsense = torch.stack(cells).unbind(2)  # [depth multiplier prompt]
    unsteered = answers(model.n_layers, 0.0)[0]
    return steering.Sweep(tuple(depths), tuple(multipliers), matching, nonsense, unsteered)


# --------------------------------------------------------------------------------------------------
# The fast sweep


def test_the_fast_sweep_is_the_naive_sweep_on_every_cell(model):
    asked, direction = world_questions.questions("refusal")[:3], random_direction(model, 0.3)
    ready = steering.read_once(model, asked)
    for parts in (("residual",), ways(model)[-1]):
        fast = steering.sweep(model, ready, direction, FEW, parts)
        naive = naive_sweep(model, asked, direction, FEW, parts)
        assert fast.depths == naive.depths
        for field in ("matching", "nonsense", "unsteered"):
            assert torch.allclose(getattr(fast, field), getattr(naive, field), atol=1e-4, rtol=0)
        shift = (fast.matching - fast.unsteered).abs().max()
        assert shift > 1e-3, "the direction steered nothing"


def test_the_sweep_reads_prompts_of_several_lengths(model):
    """Padding changes nothing: each prompt alone gives the same row."""
    asked = [world_questions.questions(behaviour)[0] for behaviour in ("refusal", "hallucination")]
    direction = random_direction(model, 0.3)
    parts = ways(model)[-1]
    together = steering.sweep(model, steering.read_once(model, asked), direction, FEW, parts)
    for i, question in enumerate(asked):
        alone = steering.sweep(model, steering.read_once(model, [question]), direction, FEW, parts)
        assert torch.allclose(together.matching[..., i], alone.matching[..., 0], atol=1e-4)
    naive = naive_sweep(model, asked, direction, FEW, parts)
    assert torch.allclose(together.matching, naive.matching, atol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "rwkv", "xlstm"])
def test_an_architecture_that_would_read_padding_reads_each_length_by_itself(kind):
    model = toy(kind)
    assert model.lacks("padding on the left")
    behaviours = ("refusal", "hallucination", "refusal", "sycophancy")
    asked = [world_questions.questions(name)[i] for i, name in enumerate(behaviours)]
    prompts = [question.prompt for question in asked]
    assert len({len(prompt.split()) for prompt in prompts}) > 1
    direction, state = (
        random_direction(model, 0.3),
        "average" if kind == "rwkv" else model.kind(0).compressed[0],
    )
    parts = ("residual", state)
    together = steering.sweep(model, steering.read_once(model, asked), direction, FEW, parts)
    assert (together.matching - together.unsteered).abs().max() > 1e-3, "the direction steered nothing"
    for i, question in enumerate(asked):
        alone = steering.sweep(model, steering.read_once(model, [question]), direction, FEW, parts)
        assert torch.allclose(together.matching[..., i], alone.matching[..., 0], atol=1e-6)
    found = contrasts.directions(model, Contrast(prompts[:2], prompts[2:]))["behaviour"]
    halves = [contrasts.directions(model, Contrast([p], [prompts[0]]))["behaviour"] for p in prompts]
    signs = (0.5, 0.5, -0.5, -0.5)
    residual = sum(sign * half.residual for sign, half in zip(signs, halves, strict=True))
    assert torch.allclose(found.residual, residual, atol=1e-6)
    states = sum(sign * half.state[1][state] for sign, half in zip(signs, halves, strict=True))
    assert torch.allclose(found.state[1][state], states, atol=1e-6)


def test_an_architecture_without_a_cache_is_steered_by_reading_all_words_again():
    """Each prompt alone, changed by hand; prompts of several lengths."""
    model, draw = toy("recurrent_gemma"), torch.Generator().manual_seed(3)
    assert model.lacks("continuation")
    asked = [world_questions.questions(name)[0] for name in ("refusal", "hallucination", "sycophancy")]
    ready = steering.read_once(model, asked)
    found = contrasts.directions(model, Contrast([q.prompt for q in asked[:2]], [asked[2].prompt]))
    alone, change = [], 0.3 * torch.randn(model.config.hidden_size, generator=draw)
    for k in (0, 1, model.n_layers):
        matching, nonsense = steering.respond(model, ready, k, {"residual": change.expand(3, -1)})
        for i, question in enumerate(asked):
            ids, _ = reading.tokens(model, question.prompt)
            x = reading.streams(model, ids)[k]
            alone += [x[0, -1].clone()] * (k == 1)
            x[:, -1] += change
            chances = reading.finish(model, x, k, torch.tensor([ids.shape[1] - 1])).softmax(-1)[0]
            two = chances[ready.letters[i]]
            torch.testing.assert_close(matching[i], two[0] / two.sum())
            torch.testing.assert_close(nonsense[i], 1 - two.sum(), atol=1e-6, rtol=1e-4)
    direction = found["behaviour"]
    assert not any(direction.state)
    torch.testing.assert_close(direction.residual[1], (alone[0] + alone[1]) / 2 - alone[2])
    swept = steering.sweep(model, ready, direction, [0.5], depths=[1])
    expected = steering.respond(model, ready, 1, {"residual": 0.5 * direction.residual[1].expand(3, -1)})
    torch.testing.assert_close(swept.matching[0, 0], expected[0])


def test_where_a_state_overflows_no_cell_is_chosen():
    """One answer of many is enough, on either side."""
    logits = torch.zeros(3, 1, 9)
    logits[1] = torch.nan
    matching, nonsense = steering._letters(logits, torch.tensor([[0, 1]] * 3))
    assert matching[1].isnan().all()
    assert nonsense[:, 0].tolist() == pytest.approx([7 / 9, torch.inf, 7 / 9])

    def answers(k, m):  # far, and broken below -0.5 alone
        broken = torch.tensor([0.0, 1.0]) * (m < -0.5) > 0
        value = torch.tensor([0.5 + m / 2, 0.5 + m / 2]).masked_fill(broken, torch.nan)
        return value, torch.zeros(2).masked_fill(broken, torch.inf)

    tables = figures.swept(answers, [1, 2], [0.2, 1.0])
    assert figures.choose(*tables, [1, 2], [0.2, 1.0]) == (1, 0.2)


def test_rwkvs_state_can_be_added_to_without_dividing_by_less_than_nothing():
    model = load("rwkv")
    asked = world_questions.questions("refusal")[:4]
    ready = steering.read_once(model, asked)
    for k, block in enumerate(ready.past, start=1):
        changes = {
            part: -3 * (block[part][:1] - block[part][1:2])[:, 0] for part in model.kind(0).compressed
        }
        changes = {part: change.expand(4, -1) for part, change in changes.items()}
        assert all(answer.isfinite().all() for answer in steering.respond(model, ready, k, changes))


def test_a_sweep_leaves_what_it_starts_from_untouched(model):
    asked, direction = world_questions.questions("refusal")[:4], random_direction(model)
    ready = steering.read_once(model, asked)
    before = [ready.residual.clone(), *(t.clone() for block in ready.past for t in block.values())]
    once = steering.sweep(model, ready, direction, FEW, ways(model)[-1])
    after = [ready.residual, *(t for block in ready.past for t in block.values())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    again = steering.sweep(model, ready, direction, FEW, ways(model)[-1])
    assert torch.equal(once.matching, again.matching)


def test_what_is_read_together_is_not_copied(model, monkeypatch):
    """For a large model what is carried is large: there is one of it."""
    caches = []
    monkeypatch.setattr(
        steering, "carried", lambda *given: caches.append(contrasts.carried(*given)) or caches[-1]
    )
    ready = steering.read_once(model, world_questions.questions("refusal")[:4])
    (cache,) = caches
    for layer, past in enumerate(ready.past):
        for part, value in model.state(cache, layer).items():
            assert past[part].data_ptr() == value.data_ptr(), (layer, part)


def test_at_the_last_depth_the_answer_follows_in_closed_form(model):
    """Nothing runs behind the last block: norm and unembedding of r + m v are the whole answer."""
    asked, direction = world_questions.questions("refusal")[:4], random_direction(model)
    ready = steering.read_once(model, asked)
    swept = steering.sweep(model, ready, direction, [2.0], depths=[model.n_layers])
    logits = model.to_logits(ready.residual[-1] + 2.0 * direction.residual[-1])
    chances = logits.softmax(-1).gather(1, ready.letters)
    assert torch.allclose(swept.matching[0, 0], chances[:, 0] / chances.sum(1), atol=1e-5)
    assert torch.allclose(swept.nonsense[0, 0], 1 - chances.sum(1), atol=1e-5)


def test_steering_through_nnsight_gives_the_same(model):
    """The lesson steers in a trace first; the sweep must be the same thing."""
    asked, direction = world_questions.questions("refusal")[:3], random_direction(model, 0.3)
    swept = steering.sweep(model, steering.read_once(model, asked), direction, [1.0])
    tokens = steering.letter_tokens(model, asked)
    for k in swept.depths:
        with model.trace([q.prompt for q in asked]):
            changed = model.residual(k).clone()
            changed[:, -1] += direction.residual[k]
            model.set_residual(k, changed)
            logits = model.logits[:, -1].save()
        assert torch.allclose(
            logits.gather(1, tokens).softmax(1)[:, 0], swept.matching[swept.depths.index(k), 0], atol=1e-4
        )


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("gpt_neox", {"use_parallel_residual": False}), ("mamba", {"use_bias": True, "conv_kernel": 3})],
)
def test_one_more_word_for_other_settings_and_lengths_too(model_type, changes):
    """Sequential residuals, biases, another kernel width, prompts padded on the left: the last word is
    the one of a whole run, at every depth."""
    model = toy(model_type, dtype=torch.float32, **changes)
    asked = [world_questions.questions(behaviour)[0] for behaviour in ("refusal", "hallucination")]
    ready = steering.read_once(model, asked)
    ids, mask = reading.tokens(model, [q.prompt for q in asked])
    assert not mask.all()
    whole = reading.streams(model, ids)[:, torch.arange(2), mask.sum(1) - 1]
    torch.testing.assert_close(ready.residual, whole, rtol=1e-4, atol=1e-4)


def test_another_default_dtype_changes_nothing(model):
    asked, contrast = world_questions.questions("refusal")[:3], world_questions.cued("refusal", 4)

    def steered():
        direction = contrasts.directions(model, contrast, relabel=False)["letters"]
        ready = steering.read_once(model, asked)
        return [
            steering.sweep(model, ready, direction, FEW, ways(model)[-1]).matching,
            naive_sweep(model, asked, direction, FEW, ways(model)[-1], depths=[2]).matching,
        ]

    once = steered()
    torch.set_default_dtype(torch.float64)
    try:
        again = steered()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(once, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_padding_on_the_right_is_refused_where_a_cache_goes_on(model):
    texts = ["The guest asks", "The guest"]
    right, left = reading.tokens(model, texts), reading.tokens(model, texts, side="left")
    with pytest.raises(ValueError, match="expected padding on the left, found it on the right"):
        reading.run(model, *right)
    _, logits = reading.run(model, *left)
    alone = [model.hf(reading.tokens(model, text).ids).logits[0, -1] for text in texts]
    torch.testing.assert_close(logits, torch.stack(alone), rtol=0, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# One answer, for any change


def test_a_response_is_the_cell_of_a_sweep(model):
    asked, direction = world_questions.questions("refusal")[:3], random_direction(model, 0.3)
    ready, k = steering.read_once(model, asked), model.n_layers - 1
    for parts in ways(model):
        of = {p: direction.residual[k] if p == "residual" else direction.state[k - 1][p] for p in parts}
        changes = {part: -2.0 * x.expand(3, *x.shape) for part, x in of.items()}
        matching, nonsense = steering.respond(model, ready, k, changes)
        cell = steering.sweep(model, ready, direction, FEW, parts, [k])
        assert torch.allclose(matching, cell.matching[0, 0], atol=1e-5)
        assert torch.allclose(nonsense, cell.nonsense[0, 0], atol=1e-5)


def test_a_response_at_an_early_word_is_that_of_whole_runs(model):
    """Prompts of several lengths together give what each length gives alone."""
    several = [world_questions.questions(b)[0] for b in ("refusal", "hallucination")]
    direction, k = random_direction(model, 0.3), 1
    read = steering.read_word(model, several, 3)
    matching, _ = steering.respond(model, read, k, {"residual": direction.residual[k].expand(2, -1)})
    for question, found in zip(several, matching, strict=True):
        alone = naive_sweep(model, [question], direction, (1.0,), depths=[k], word=3)
        assert torch.allclose(found, alone.matching[0, 0, 0], atol=1e-4)


def test_each_prompt_can_have_a_change_of_its_own(model):
    asked = world_questions.questions("refusal")[:2]
    for read in (steering.read_once(model, asked), steering.read_word(model, asked, 0)):
        changes = random_direction(model).residual[:2]
        both, _ = steering.respond(model, read, 1, {"residual": changes})
        for i, change in enumerate(changes):
            same, _ = steering.respond(model, read, 1, {"residual": change.expand(2, -1)})
            assert torch.allclose(both[i], same[i], atol=1e-6)


def test_a_state_at_an_early_word_and_a_word_that_is_missing_are_refused(model):
    asked = world_questions.questions("refusal")[:2]
    read = steering.read_word(model, asked, 0)
    with pytest.raises(ValueError, match="found ssm; states are steered before the last word"):
        steering.respond(model, read, 1, {"ssm": torch.zeros(2)})
    for word in (-1, 22):
        with pytest.raises(ValueError, match=f"expected a word from 0 to 21, found {word}"):
            steering.read_word(model, asked, word)


# --------------------------------------------------------------------------------------------------
# One string is one text


def test_one_string_is_one_text(model):
    text = "The guest asks"
    assert len(reading.tokens(model, text, side="left").ids) == 1
    assert steering.continuations(model, text, 3) == steering.continuations(model, [text], 3)
    assert steering.surprise(model, text, 2) == steering.surprise(model, [text], 2)
    one, several = (
        contrasts.directions(model, Contrast(side, other))["behaviour"].residual
        for side, other in ((text, "The guest"), ([text], ["The guest"]))
    )
    assert torch.equal(one, several)


def test_texts_without_a_word_before_the_last_are_refused(model):
    for read in (
        lambda: steering.continuations(model, "The", 3),
        lambda: contrasts.directions(model, Contrast("The", "A")),
        lambda: steering.read_once(model, [Question("The ", "A", "B", "")]),
    ):
        with pytest.raises(ValueError, match="expected texts of two words or more, found one of one"):
            read()


# --------------------------------------------------------------------------------------------------
# Directions


def test_a_contrast_is_the_difference_of_means(model):
    contrast = world_questions.cued("refusal", 6)
    found = contrasts.directions(model, contrast)["behaviour"]
    means = []
    for texts in (contrast.behaviour, contrast.other):
        rows = []
        for text in texts:
            with model.trace(text):
                rows.append(
                    torch.stack([model.residual(k)[0, -1] for k in range(model.n_layers + 1)]).save()
                )
        means.append(torch.stack(rows).mean(0))
    assert torch.allclose(found.residual, means[0] - means[1], atol=1e-4)


def test_the_state_is_the_one_that_reaches_the_last_word(mamba):
    """Read where it is written: adding the difference of two texts' states turns one into the other."""
    contrast = world_questions.cued("refusal", 2)
    pair = Contrast(contrast.behaviour[:1], contrast.other[:1], [True])
    found = contrasts.directions(mamba, pair)["behaviour"]
    ids, mask = reading.tokens(mamba, [*pair.other, *pair.behaviour], side="left")
    truth = mamba.hf(ids, attention_mask=mask).logits[1, -1]
    cache, _ = reading.run(mamba, ids[:1, :-1])
    push = Push(found, 1.0, tuple(range(1, mamba.n_layers + 1)), ("ssm", "conv"))
    with steering._pushed(mamba, cache, push):
        _, logits = reading.run(mamba, ids[:1, -1:], cache=cache)
    assert torch.allclose(logits[0], truth, atol=1e-3)


def test_texts_that_differ_in_their_last_word_have_no_direction_of_a_state(mamba):
    """The published recipe and the announced cue: the states are equal, exactly, and steer nothing."""
    asked = world_questions.questions("refusal", "train")
    ready = steering.read_once(mamba, asked[:2])
    for contrast in (world_questions.answered(asked[:100]), world_questions.announced("refusal")):
        direction = contrasts.directions(mamba, contrast)["behaviour"]
        assert direction.residual.norm() > 0.1
        assert not any(S.any() for block in direction.state for S in block.values())
        push = Push(direction, 1.0, (1,), ("ssm",))
        for steer in (
            lambda v=direction: steering.sweep(mamba, ready, v, FEW, ("residual", "ssm")),
            lambda v=direction: steering.sweep(mamba, ready, v, FEW, ("ssm", "conv")),
            lambda p=push: steering.continuations(mamba, asked[0].prompt, 3, p),
        ):
            with pytest.raises(ValueError, match="its texts differ in their last word alone"):
                steer()


def test_letters_cancel_in_balanced_contrasts():
    for behaviour in BEHAVIOURS:
        contrast = world_questions.cued(behaviour, 20)
        assert sum(contrast.first) == 10
        asked = world_questions.questions(behaviour, "validation")
        assert sum(q.matching == "A" for q in asked) * 2 == len(asked)
        assert {q.asks for q in asked if q.matching == "A"} == {q.asks for q in asked if q.other == "A"}


def test_letters_are_a_direction_of_the_same_texts(model):
    """The mean of the texts that go with the first letter minus that of the others, by hand."""
    contrast = world_questions.cued("refusal", 8)
    found = contrasts.directions(model, contrast)
    assert list(found) == ["behaviour", "letters"]
    texts = [*contrast.behaviour, *contrast.other]
    first = [*contrast.first, *(not each for each in contrast.first)]  # the other side: turned
    with model.trace(texts):
        last = torch.stack([model.residual(k)[:, -1] for k in range(model.n_layers + 1)]).save()
    sides = last[:, torch.tensor(first)], last[:, ~torch.tensor(first)]
    assert torch.allclose(found["letters"].residual, sides[0].mean(1) - sides[1].mean(1), atol=1e-4)
    assert list(contrasts.directions(model, world_questions.announced("refusal"))) == ["behaviour"]


def test_every_relabelling_moves_whole_cues():
    """With their mirrors: all 20 splits of six cues, and all 36 of two against two without a label."""
    true = torch.tensor([1.0] * 3 + [-1.0] * 3) / 3
    for behaviour, b in BEHAVIOURS.items():
        for contrast in (world_questions.announced(behaviour), world_questions.cued(behaviour, 60)):
            texts = [*contrast.behaviour, *contrast.other]
            holds = torch.tensor(
                [
                    [float(cue in text.split()) for text in texts]
                    for cue in (*b.matching_cues, *b.other_cues)
                ]
            )
            weights = contrasts.relabelled(texts, contrast.cues)
            labels, cancelled = (
                torch.stack([w for key, w in weights.items() if name in key]) @ holds.T
                for name in ("labels", "cancelled")
            )
            assert torch.allclose(labels[0], true)
            assert torch.allclose(labels.abs(), torch.full((10, 6), 1 / 3))
            kept = labels @ true / (true @ true)
            assert torch.allclose(kept[1:].abs(), torch.full((9,), 1 / 3))
            assert torch.allclose(cancelled @ true, torch.zeros(18), atol=1e-6)
            assert torch.allclose(cancelled.abs().sort(1).values, torch.tensor([0, 0, *[0.5] * 4]))
            for found, n in ((labels, 20), (cancelled, 36)):
                assert torch.allclose(found.sum(1), torch.zeros(n // 2), atol=1e-6)
                both = [tuple(row.round(decimals=3).tolist()) for row in torch.cat([found, -found])]
                assert len({tuple(x + 0.0 for x in row) for row in both}) == n
    with pytest.raises(ValueError, match="expected six cues"):
        contrasts.relabelled(texts[:1], contrast.cues)


def test_true_labels_give_the_direction_itself(model):
    found = contrasts.directions(model, world_questions.announced("coordination"), relabel=True)
    assert len(found) == 1 + 10 + 18
    assert torch.allclose(found["labels 0"].residual, found["behaviour"].residual, atol=1e-5)
    without_cues = world_questions.answered(world_questions.questions("refusal")[:2])
    with pytest.raises(ValueError, match="found no cues"):
        contrasts.directions(model, without_cues, relabel=True)


def test_held_out_questions_stay_held_out():
    for behaviour in BEHAVIOURS:
        test = {
            q.prompt
            for split in ("validation", "test")
            for q in world_questions.questions(behaviour, split)
        }
        texts = [
            *world_questions.cued(behaviour, 40).behaviour,
            *world_questions.cued(behaviour, 40).other,
        ]
        assert not any(prompt.strip() in text for prompt in test for text in texts)


NO_CUED = {("myopic_reward", "validation"), ("corrigibility", "validation"), ("coordination", "test")}


@pytest.mark.parametrize("split", world.SPLITS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_cued_pairs_of_a_small_split_are_its_own_or_refused(behaviour, split):
    """Behind its cue each is one of the split's questions without a cue, so never another split's."""
    if (behaviour, split) in NO_CUED:
        with pytest.raises(ValueError, match=f"questions of {behaviour} that are {split} under two cues"):
            world_pairs.cued_pairs(behaviour, 20, split=split)
        return
    uncued = {p.clean.prompt(p.position) for p in world_pairs.persona_questions(behaviour, split)}
    for pair in world_pairs.cued_pairs(behaviour, 20, split=split):
        assert pair.clean.prompt(pair.position).split(" . ", 1)[1] in uncued


def test_cued_pairs_differ_in_the_cue_alone():
    for pair in world_pairs.cued_pairs("corrigibility", 20):
        both = zip(pair.clean.words, pair.corrupt.words, strict=True)
        assert [a.role for a, b in both if a.text != b.text] == ["cue", "letter"]
        assert {pair.answer, pair.foil} == {"A", "B"}
    with pytest.raises(ValueError, match="expected a behaviour, one of sycophancy"):
        world_pairs.cued_pairs("courage", 2)


# --------------------------------------------------------------------------------------------------
# Choosing and measuring


@pytest.mark.parametrize(
    ("parts", "depths", "message"),
    [
        ((), None, "found none"),
        (("memory",), None, "expected parts among residual"),
        (("residual",), [99], "expected depths from 0 to"),
    ],
)
def test_what_cannot_be_steered_is_refused(model, parts, depths, message):
    ready = steering.read_once(model, world_questions.questions("refusal")[:1])
    with pytest.raises(ValueError, match=message):
        steering.sweep(model, ready, random_direction(model), FEW, parts, depths)


def test_a_state_has_no_depth_zero(mamba):
    ready = steering.read_once(mamba, world_questions.questions("refusal")[:1])
    with pytest.raises(ValueError, match="no state has depth 0"):
        steering.sweep(mamba, ready, random_direction(mamba), FEW, ("ssm",), [0])


def test_ambiguous_letters_are_refused(model):
    with pytest.raises(ValueError, match="one more token each behind"):
        steering.letter_tokens(model, [Question("Answer : ( ", "A", "A", "")])
    with pytest.raises(ValueError, match="one more token each behind"):
        steering.letter_tokens(model, [Question("Answer : (", "A", "B", "")])  # '(A' is one word here


# --------------------------------------------------------------------------------------------------
# The lesson's findings, on few items


def moved(model, behaviour: str, parts: tuple[str, ...], kind: str = "behaviour") -> list[float]:
    """Held-out choice, then the mean effect on test questions, down and up."""
    found = contrasts.directions(model, world_questions.cued(behaviour, 40))[kind]
    ready = {
        split: steering.read_once(model, world_questions.questions(behaviour, split)[:16])
        for split in ("validation", "test")
    }
    cells = steering.sweep(model, ready["validation"], found, (-1.0, -0.25, 0.25, 1.0), parts)
    effects = []
    means = (cells.matching - cells.unsteered).mean(-1)  # [depth multiplier]
    for best in (means.argmin(), means.argmax()):
        i, j = divmod(int(best), len(cells.multipliers))
        k, m = cells.depths[i], cells.multipliers[j]
        swept = steering.sweep(model, ready["test"], found, [m], parts, [k])
        effects.append((swept.matching - swept.unsteered).mean().item())
    return effects


def test_the_recurrent_state_carries_the_persona_and_the_rest_does_not(mamba):
    down, up = moved(mamba, "refusal", ("ssm",))
    assert down < -0.2
    assert up > 0.2
    for parts in (("conv",), ("residual",)):
        assert max(map(abs, moved(mamba, "refusal", parts))) < 0.1


def test_letters_move_no_balanced_answer_but_an_unbalanced_one(mamba):
    """A direction of letters alone looks like a behaviour as soon as the test leans to one letter."""
    found = contrasts.directions(mamba, world_questions.cued("refusal", 40))["letters"]
    asked = world_questions.questions("refusal")
    ready = steering.read_once(mamba, asked)
    cells = steering.sweep(mamba, ready, found, [2.0], depths=[mamba.n_layers])
    shift = (cells.matching - cells.unsteered)[0, 0]
    with_a = torch.tensor([q.matching == "A" for q in asked])
    assert shift[with_a].mean() > 0.2
    assert abs(shift.mean()) < 0.1


def test_text_pushed_far_says_what_the_direction_alone_says():
    """Behind the last block r + m v is m v for a large m: norm and unembedding give the chances."""
    model = load("transformer")
    direction = random_direction(model)
    chances = model.to_logits(1e4 * direction.residual[-1]).softmax(-1)
    word = model.tokenizer.convert_ids_to_tokens(int(chances.argmax()))
    prompts = [doc.prompt(4) for doc in world.documents("story", 100)]
    push = Push(direction, 1e4, (model.n_layers,))
    texts = steering.continuations(model, prompts, 5, push)
    said = sum(text.split().count(word) for text in texts)
    assert said / 500 == pytest.approx(chances.max().item(), abs=0.1)
    assert chances.max() > 0.15  # unsteered, no word is that frequent


def test_surprise_is_the_models_own_loss_and_steering_raises_it(model):
    texts = [doc.prompt(14) for doc in world.documents("facts", 30) if len(doc.words) >= 14][:5]
    ids = reading.tokens(model, texts).ids
    found = steering.surprise(model, texts, 5)
    chances = model.hf(ids).logits.log_softmax(-1)[:, 4:-1].gather(-1, ids[:, 5:, None])[..., 0]
    assert torch.allclose(torch.tensor(found), -chances.mean(1), atol=1e-4)
    push = Push(random_direction(model, 5.0), 1.0, (model.n_layers,))
    assert sum(steering.surprise(model, texts, 5, push)) > sum(found)
    with pytest.raises(ValueError, match="expected texts of one length"):
        steering.surprise(model, ["The guest asks", "The guest"], 1)


# --------------------------------------------------------------------------------------------------
# The published questions

COUNTS = {  # train, test: n, more than two options, matching letter beyond B, share of A
    "coordinate-other-ais": ((360, 0, 0, 0.497), (50, 0, 0, 0.52)),
    "corrigible-neutral-HHH": ((290, 0, 0, 0.510), (50, 0, 0, 0.44)),
    "hallucination": ((1000, 0, 0, 0.504), (50, 0, 0, 0.46)),
    "myopic-reward": ((950, 0, 0, 0.499), (50, 0, 0, 0.52)),
    "refusal": ((408, 0, 0, 0.471), (50, 0, 0, 0.46)),
    "survival-instinct": ((903, 239, 88, 0.618), (50, 8, 4, 0.64)),
    "sycophancy": ((1000, 0, 0, 0.489), (50, 0, 0, 0.56)),
}


@pytest.fixture(scope="module")
def published_sets(shared_dir):
    return published.question_sets(shared_dir / "data" / "caa")


def test_the_published_sets_and_their_faults_are_counted(published_sets):
    for behaviour, expected in COUNTS.items():
        for split, row in zip(("train", "test"), expected, strict=True):
            found = published.faults(published_sets[behaviour][split])
            assert (found.n, found.more_than_two, found.beyond_b) == row[:3]
            assert found.first == pytest.approx(row[3], abs=5e-4)
            assert found.repeated == 0
    assert sum(len(published_sets[b]["train"]) for b in published_sets) == 4911
    assert sum(len(published_sets[b]["test"]) for b in published_sets) == 350


def test_balanced_questions_ask_both_orders_and_nothing_else(published_sets):
    items = published_sets["survival-instinct"]["test"]
    found = published.balanced(items)
    assert len(found) == 2 * (50 - 8)
    assert sum(q.matching == "A" for q in found) == len(found) / 2
    first, second = found[:2]
    assert first.asks == second.asks
    assert first.prompt != second.prompt
    item = next(item for item in items if len(item.options) == 2)
    right = item.options["AB".index(item.matching)]
    assert f"(A) {right}" in first.prompt
    assert f"(B) {right}" in second.prompt


def test_the_published_tokenizer_resolves_the_letters(published_sets, shared_dir):
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "data" / "pythia-tokenizer")
    model = SimpleNamespace(tokenizer=tokenizer, hf=SimpleNamespace(device="cpu"))
    asked = published.balanced(published_sets["refusal"]["test"])[:4]
    assert steering.letter_tokens(model, asked).tolist() == [[34, 35], [35, 34]] * 2
    spaced = [q._replace(prompt=q.prompt + " ") for q in asked]
    with pytest.raises(ValueError, match="end the prompt where a token ends"):
        steering.letter_tokens(model, spaced)


ITEM = {
    "question": "Stay?\n\nChoices:\n (A) Yes\n (B) No",
    "answer_matching_behavior": "(A)",
    "answer_not_matching_behavior": "(B)",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_matching_behavior": "(C)"}, r"item 0: expected options .* with C and B among them"),
        ({"question": "Stay?"}, "found none; correct or remove the item"),
        ({"extra": 1}, "item 0: expected the fields answer_matching_behavior"),
    ],
)
def test_a_damaged_item_is_named(tmp_path, change, message):
    for behaviour in published.BEHAVIOURS:
        (tmp_path / behaviour).mkdir()
        for file in published.FILES.values():
            (tmp_path / behaviour / file).write_text(json.dumps([ITEM]), encoding="utf-8")
    assert published.question_sets(tmp_path)["refusal"]["test"][0].options == ("Yes", "No")
    damaged = json.dumps([ITEM | change])
    (tmp_path / "refusal" / "generate_dataset.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(LoadError, match=message):
        published.question_sets(tmp_path)
    (tmp_path / "refusal" / "generate_dataset.json").write_text("no JSON", encoding="utf-8")
    with pytest.raises(LoadError, match="expected JSON in .*generate_dataset.json, found JSOND"):
        published.question_sets(tmp_path)


def test_a_clone_of_the_authors_repository_is_read(tmp_path):
    for behaviour in published.BEHAVIOURS:
        for split, file in published.FILES.items():
            folder = tmp_path / "datasets" / {"train": "generate"}.get(split, split) / behaviour
            folder.mkdir(parents=True)
            item = ITEM | {"question": ITEM["question"].replace("Stay", f"{behaviour}, {split}")}
            (folder / file).write_text(json.dumps([item]), encoding="utf-8")
    found = published.question_sets(tmp_path)
    for behaviour, splits in found.items():
        for split, (entry,) in splits.items():
            assert entry.text.startswith(f"{behaviour}, {split}?")


def test_missing_data_says_where_to_get_it(tmp_path):
    with pytest.raises(LoadError, match=r"github.com/nrimsky/CAA"):
        published.question_sets(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="expected JSON in .*generate_dataset.json, found FileN"):
        published.question_sets(tmp_path)


# --------------------------------------------------------------------------------------------------
# Figures


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def drawn():
    table = (torch.linspace(-1, 1, 6).view(2, 3), ["0/2", "2/2"], (0.1, 1.0, 3.0))
    run = {
        "its own vector": torch.rand(1, 7, generator=torch.Generator().manual_seed(0)),
        "another's": torch.linspace(-1, 1, 42).view(6, 7),
        "random": torch.linspace(-0.1, 0.1, 56).view(8, 7),
    }
    yield figures.three_words()
    yield state_figures.two_places()
    ranges = {"residual": {"refusal": 0.1}, "state": {"refusal": 0.9}}
    for names in (("mamba",), ("mamba", "transformer", "somebody's")):
        yield figures.grids({f"{name}, first word": table for name in names}, 3)
        yield figures.beside_chance({(name, place): run for name in names for place in ("a", "b")})
        yield state_figures.both_ways([{"theirs": ranges}, dict.fromkeys(names, ranges)])
        yield state_figures.blocks(dict.fromkeys(names, (table[0], ["one part", "all"])))
        yield figures.relabelled(dict.fromkeys(names, {"refusal": [0.9] + [0.5] * 9}))
        yield state_figures.moods(dict.fromkeys(names, {0.0: (0.1, 1.0), 1.0: (0.7, 1.1)}), 30)


def test_a_grid_shows_every_cell_at_its_depth_and_multiplier():
    """The shallowest depth stands below; every cell holds its reach in points."""
    reach = torch.tensor([[0.1, -0.004], [0.5, 1.0]])
    figure, alt = figures.grids({"A": (reach, ["0/6", "3/6"], (0.1, 3.0))}, 1)
    assert "A at most 100" in alt
    axis, (image,) = figure.axes[0], figure.axes[0].images
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.1", "3"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0/6", "3/6"]
    assert image.origin == "lower"
    assert [text.get_text() for text in axis.texts] == ["10", "0", "50", "100"]


def test_a_share_stands_beside_its_behaviour_whatever_the_order_of_the_panels():
    """Panels share the names along y; what was published is listed in another order than ours."""
    theirs = {"residual": {"coordination": 0.2, "refusal": 0.7}, "state": {"refusal": 0.3}}
    ours = {"residual": {"refusal": 0.1, "coordination": 0.6}}
    figure, _ = state_figures.both_ways([{"theirs": theirs}, {"here": ours}])
    first, second = figure.axes
    assert [label.get_text() for label in second.get_yticklabels()] == ["refusal", "coordination"]
    (residual, state), (own,) = ([line.get_xdata() for line in axis.lines] for axis in (first, second))
    assert residual.tolist() == [0.7, 0.2]
    assert state[0] == 0.3
    assert math.isnan(state[1])
    assert own.tolist() == [0.1, 0.6]


def test_figures_are_fit_and_the_same_on_every_run():
    for figure, alt in drawn():
        assert not plots.unfit(figure, alt)
    first, second = ([plots.png(figure) for figure, _ in drawn()] for _ in range(2))
    assert first == second


def test_a_state_read_in_one_order_moves_the_persona_or_the_letter():
    """Against the reference of the exercise, which goes on from transformers' own cache."""
    found = {}
    for name in ("mamba", "mamba-unconvolved"):
        model = load(name)
        told, asked = (
            world_questions.cued("refusal", 8),
            world_questions.questions("refusal", "validation")[:16],
        )
        found[name] = state_figures.in_one_order(model, asked, told)
        by_hand = {True: [], False: []}
        for first, letter in ((True, "A"), (False, "B")):
            sides = [
                [t for t, f in zip(side, told.first, strict=True) if f == first] for side in told[:2]
            ]
            vectors = state_figures.state_vectors(model, *sides)
            whole = [[(k, part) for k, parts in enumerate(vectors, 1) for part in parts]]
            for question in asked:
                moved = state_figures.reach_of_groups(model, [question], vectors, whole, 1.0)
                by_hand[question.matching == letter].append(moved.item())
        for reach, same in zip(found[name], (True, False), strict=True):
            assert reach.n == len(asked)
            assert reach.value == pytest.approx(sum(by_hand[same]) / len(asked), abs=1e-4)
    assert min(found["mamba"][0].low, found["mamba"][1].low) > 0.99, "the persona, in either order"
    assert found["mamba-unconvolved"][0].low > 0.99 > -0.99 > found["mamba-unconvolved"][1].high, (
        "a letter"
    )
