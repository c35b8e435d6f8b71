"""Lesson 01b: what a state holds, against the library's state, the scan and plain loops."""

import math

import pytest
import torch
from toys import check_figures

from tft_utils import models, stats
from tft_utils.architectures import mamba_scan as scan
from tft_utils.corpora import world
from tft_utils.course import plots, widgets
from tft_utils.lessons import selection as answers
from tft_utils.lessons import selection as figures


def inputs(pos=9, d_inner=5, d_state=3):
    g = torch.Generator().manual_seed(0)
    shapes = [(pos, d_inner), (pos, d_inner), (d_inner, d_state), (pos, d_state)]
    u, delta, A, B = (torch.randn(*shape, generator=g).double() for shape in shapes)
    return u, delta.exp(), -A.exp(), B


def test_the_parts_sum_to_the_state_of_the_scan():
    u, delta, A, B = inputs()
    _, last = scan.selective_scan(
        u.T[None], delta.T[None], A, B.T[None], B.T[None], return_last_state=True
    )
    torch.testing.assert_close(answers.in_state(u, delta, A, B).sum(0), last[0])


def test_a_part_is_what_the_state_loses_when_a_word_writes_nothing():
    u, delta, A, B = inputs()
    parts = answers.in_state(u, delta, A, B)
    for t in range(len(u)):
        without = u.clone()
        without[t] = 0
        lost = parts.sum(0) - answers.in_state(without, delta, A, B).sum(0)
        torch.testing.assert_close(parts[t], lost)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parts_sum_to_the_library_s_state_in_every_layer(dtype):
    model = models.load("mamba", dtype=dtype)
    ids = torch.tensor([model.tokenizer(world.documents("facts", 1, seed=3)[0].text).input_ids])
    seen = []
    hooks = [
        model.module("mixer", i).x_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
        for i in range(model.n_layers)
    ]
    cache = model.hf(input_ids=ids, use_cache=True)[1]
    for hook in hooks:
        hook.remove()
    assert len(seen) == model.n_layers
    for i, u in enumerate(seen):
        layer = model.module("mixer", i)
        delta, B, _ = answers.select(layer, u)
        found = answers.in_state(u, delta, -layer.A_log.exp(), B).sum(0)
        torch.testing.assert_close(found, model.state(cache, i)["ssm"][0], rtol=1e-4, atol=1e-5)


def test_missing_on_paper():
    parts = torch.tensor([1.0, 0.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(answers.missing(parts), torch.tensor([1.0, 0.2, 0.2, 0.0]))


def test_contrast_equals_a_walk_through_the_documents():
    g = torch.Generator().manual_seed(0)
    words = [torch.randint(6, (n,), generator=g) for n in (9, 12, 20)] + [torch.tensor([0, 1])]
    values = [torch.randn(2, len(row), generator=g) for row in words]  # [layer pos]
    content = torch.tensor([True, True, False, False, True, False])
    one_hot = [torch.nn.functional.one_hot(row, 6).float() for row in words]
    sums = torch.stack([v @ hot for v, hot in zip(values, one_hot, strict=True)], 1)
    counts = torch.stack([hot.sum(0) for hot in one_hot])
    found = answers.contrast(sums, counts, content)
    expected = [
        v[:, content[row]].mean(1) - v[:, ~content[row]].mean(1)
        for v, row in zip(values[:3], words, strict=False)
    ]
    torch.testing.assert_close(found, torch.stack(expected, 1))  # the last document has no filler


def test_horizon_equals_a_walk_along_the_words():
    _, delta, A, _ = inputs(pos=40)
    delta, found = delta / 20, answers.horizon(delta / 20, A)
    for e, n in torch.cartesian_prod(*map(torch.arange, A.shape)).tolist():
        left, words = 1.0, 0
        while left >= 1 / math.e and words < len(delta):
            left *= math.exp(delta[words, e] * A[e, n])
            words += 1
        assert found[e, n] == (words if left < 1 / math.e else len(delta) + 1)
    assert found.min() < 10 < 41 == found.max(), "both ends should occur"


def all_figures():
    words, draw = ["The", "keys", "are", "old"], torch.linspace(0, 1, 12).view(3, 4)
    effect = [stats.mean([0.0, 1.0, float(i)]) for i in range(3)]
    share = {part: stats.proportion(9, 10) for part in ("nothing", "B")}
    yield figures.choices()
    yield figures.along_sentence(words, draw - 0.5, draw)
    yield figures.along_sentence(words, draw - 0.5, draw, at=2)
    spread = torch.tensor([[2.0, 3], [4, 5], [9, 9], [20, 30], [65, 65]])
    yield figures.horizons({"trained": spread, "untrained": spread}, 64)
    yield figures.last_words({"trained": effect * 2, "untrained": effect * 2})
    band = torch.tensor([[-1.0] * 3, [1.0] * 3])
    yield figures.effect_by_block({"trained": (effect, band), "untrained": (effect, band)}, "log2")
    yield figures.frozen_parts({"recall": {"mamba": share}, "facts": {"mamba": share}})
    both = {"average": share, "another word's": share}
    yield figures.frozen_parts({"recall": both, "facts": both}, plots.SERIES)


def test_figures_are_fit_for_a_page_and_the_same_each_time():
    check_figures(all_figures)


def test_moving_the_slider_redraws_the_figure():
    words, draw = ["The", "keys", "are"], torch.rand(3, 3)
    slider, image, alt = widgets.step_through(
        3, lambda at: figures.along_sentence(words, draw, draw, at)
    ).children
    first, said = image.value, alt.value
    assert (slider.min, slider.max) == (0, 2)
    slider.value = 1
    assert image.value != first
    assert said != alt.value == figures.along_sentence(words, draw, draw, 1)[1]
