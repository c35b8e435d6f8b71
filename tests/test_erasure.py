"""Lesson 05b's figures: results in, figure and alt text out; its reference answers and the library's."""

import matplotlib.pyplot as plt
import pytest
import torch
from concept_erasure import LeaceFitter
from toys import check_figures

from tft_utils import models, reading, stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import tasks
from tft_utils.course.exercises import check
from tft_utils.lessons import erasure as answers
from tft_utils.lessons import erasure as figures
from tft_utils.techniques import erasure, minimal_pairs

HALF, MOST, ALL = (stats.proportion(k, 10) for k in (5, 9, 10))
EACH = pytest.mark.parametrize("name", ["transformer", "mamba"])


@pytest.fixture(scope="module")
def pair():
    return models.load_models()


@pytest.fixture(scope="module")
def marked():
    return [tasks.numbers_before_verbs(160), tasks.other_words(4)]


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def every_figure():
    yield figures.idea()
    conditions = {"same": [HALF, MOST], "other": [HALF, ALL], "wrong": [MOST, MOST]}
    yield figures.word_by_word(["The", "verb"], {"A": conditions, "B": conditions})
    curves = {"erased nowhere": [HALF, ALL], "erased half-way": [HALF, HALF]}
    yield figures.comes_back({"A": curves, "B": curves})
    shares = {
        "nothing": {"agreement": ALL, "facts": ALL},
        "number": {"agreement": HALF, "facts": ALL},
        "number, by projection": {"agreement": HALF, "facts": HALF},
        "directions": {"agreement": [1.0, 0.9], "facts": [1.0, 1.0]},
    }
    yield figures.after_erasure({"A": shares, "B": shares})


def test_figures_are_fit_for_a_page_and_the_same_each_time():
    check_figures(every_figure)


def test_alt_texts_state_the_numbers():
    alts = [alt for _, alt in every_figure()]
    assert "number erased: distance 0.00" in alts[0]
    assert "A: same 0.9, other 1.0, wrong 0.9" in alts[1]
    assert "A: erased nowhere 1.00, erased half-way 0.50" in alts[2]
    assert "number, by projection 0.50, directions 0.90 to 1.00" in alts[3]


def test_the_reference_eraser_is_leace():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, dtype=torch.float64, generator=draw) @ torch.randn(8, 8).double() + 1
    z = (x[:, 0] + torch.randn(300, dtype=torch.float64, generator=draw) > 0).double()
    theirs = LeaceFitter.fit(x, z[:, None], shrinkage=False, constrain_cov_trace=False).eraser
    least = answers.take(x, *answers.erase(x, z))
    assert torch.allclose(least, theirs(x), atol=1e-8)
    plain = answers.take(x, *answers.projection(x, z))
    for left in (least, plain):
        assert ((left - left.mean(0)).T @ (z - z.mean())).abs().max() < 1e-9
    assert (plain - x).square().sum() > (least - x).square().sum()


@EACH
def test_reference_surprisal_is_the_library_s(pair, name):
    model, texts = pair[name], ["The cat beside the bears rests", "The tall bridges near the cat"]
    start = model.tokenizer.eos_token_id
    ids = [[start, *model.tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
    mine = answers.word_bits(model, torch.tensor(ids))
    assert torch.allclose(mine, torch.stack(minimal_pairs.surprisal(model, texts)), atol=1e-2)


@EACH
def test_reference_erasers_act_as_the_library_s_do(pair, name, marked):
    """One trace against hooks: fitted depth by depth, at work in other texts, read again."""
    model, (ids, at, z) = pair[name], answers.marked_words(pair[name], marked)
    depths = [model.n_layers // 2, model.n_layers]
    mine = answers.erase_upwards(model, ids, at, z, depths, answers.erase)
    at_work = {k: erasure.along(*parts) for k, parts in mine.items()}
    made = erasure.one_by_one(
        model, depths, marked, lambda k, x: erasure.along(*answers.erase(x.double(), z))
    )
    moved, library = (erasure.distances(model, each, marked[0]) for each in (at_work, made))
    assert moved == pytest.approx(library, rel=1e-2)
    asked = [p for n in (0, 2) for p in world_pairs.minimal_pairs(20, 3, attractors=n)]
    prompts = [p.clean.prompt(p.position) for p in asked]
    batch = reading.ask(model, prompts, [p.answer for p in asked], [p.foil for p in asked])
    with erasure.erased(model, at_work):
        hits = minimal_pairs.prefers(model, asked)
        theirs = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0]
    scores = answers.scores_without(model, batch, mine)
    assert ((scores > 0) == hits).double().mean() >= 0.95
    of_numbers, places, _ = answers.marked_words(model, marked[:1])
    vectors = answers.vectors_without(model, of_numbers, places, mine)
    assert torch.allclose(vectors, theirs, rtol=1e-2, atol=1e-2)


@EACH
def test_a_reference_control_moves_as_far_as_the_eraser_at_every_depth(pair, name, marked):
    model, z = pair[name], answers.marked_words(pair[name], marked)[2]
    depths = [model.n_layers - 1, model.n_layers]
    far = erasure.distances(model, erasure.fit_erasers(model, depths, marked), marked[0])

    def make(k, x):
        parts = answers.matched_control(x.double(), z, torch.tensor(far[k]), seed=1)
        return erasure.along(*parts)

    control = erasure.one_by_one(model, far, marked, make)
    assert erasure.distances(model, control, marked[0]) == pytest.approx(far, rel=1e-2)


def test_a_p_value_is_even_where_the_value_is_drawn_like_the_others():
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(2000, 20, generator=draw).tolist()
    p = torch.tensor([answers.place_among(row[0], row[1:])[1] for row in rows])
    assert (p <= 0.1).double().mean() == pytest.approx(0.1, abs=0.02)
    assert p.min() == pytest.approx(1 / 20)


def test_an_attractor_changes_and_then_the_verb():
    pairs = world_pairs.minimal_pairs(30, 0, attractors=1)
    for p in pairs:
        if [word.pos for word in p.clean.words[:6]] == ["DET", "NOUN", "ADP", "DET", "NOUN", "VERB"]:
            same, other, wrong = (text.split() for text in figures.three_ways(p))
            assert [i for i, both in enumerate(zip(same, other, strict=True)) if len(set(both)) > 1] == [
                4
            ]
            assert [i for i, both in enumerate(zip(other, wrong, strict=True)) if len(set(both)) > 1] == [
                5
            ]


def test_a_direction_of_ones_own_is_right():
    """A learner's `another_direction` may draw its weights in another way than the reference does."""

    def matched_control(x, z, far, seed):
        return answers.matched_control(x, z, far, 1000 + seed)

    assert check("erasure/matched_control", matched_control) is matched_control
