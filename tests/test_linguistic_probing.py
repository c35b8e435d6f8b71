"""Lesson 05's figures: results in, figure and alt text out; and its reference answers against theory."""

import matplotlib.pyplot as plt
import pytest
import torch
from concept_erasure import LeaceFitter

from tft_utils import stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course import plots
from tft_utils.lessons import linguistic_probing as answers
from tft_utils.lessons import linguistic_probing as figures

HALF, MOST, ALL = (stats.proportion(k, 10) for k in (5, 9, 10))
CURVES = {"A": ([HALF, MOST], [HALF, HALF]), "B": ([HALF, ALL], [HALF, HALF])}


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def every_figure():
    yield figures.where_probes_read()
    yield figures.by_depth({"number": CURVES, "mood": CURVES, "depth": CURVES}, "accuracy")
    yield figures.by_depth({"tree": CURVES}, "share of right edges")
    yield figures.travelling(
        {
            ("A", "stream"): {0: ALL, 3: HALF},
            ("B", "stream"): {0: ALL, 3: MOST},
            ("B", "state"): {0: ALL, 3: ALL},
        }
    )
    conditions = {"same": [HALF, MOST], "other": [HALF, ALL], "wrong": [MOST, MOST]}
    yield figures.word_by_word(["The", "verb"], {"A": conditions, "B": conditions})
    shares = {
        "nothing": {"agreement": ALL, "facts": ALL},
        "number": {"agreement": HALF, "facts": ALL},
        "directions": {"agreement": [1.0, 0.9], "facts": [1.0, 1.0]},
    }
    yield figures.after_erasure({"A": shares, "B": shares})


def test_figures_are_fit_for_a_page():
    for figure, alt in every_figure():
        assert not plots.unfit(figure, alt)


def test_the_same_result_gives_the_same_bytes():
    first, second = ([plots.png(figure) for figure, _ in every_figure()] for _ in range(2))
    assert first == second


def test_alt_texts_state_the_numbers():
    alts = [alt for _, alt in every_figure()]
    assert "number: A 0.90 against 0.50, B 1.00 against 0.50" in alts[1]
    assert "B, state from 1.00 to 1.00" in alts[3]
    assert "A: same 0.9, other 1.0, wrong 0.9" in alts[4]
    assert "B: nothing 1.00, number 0.50, directions 0.90 to 1.00" in alts[5]


def test_curves_differ_by_more_than_colour():
    lines = {(name, "stream"): {0: ALL} for name in ("transformer", "mamba", "mamba-tied")}
    figure, _ = figures.travelling(lines | {("mamba", "state"): {0: ALL}})
    drawn = figure.axes[0].get_lines()[:4]
    looks = [(line.get_marker(), line.get_linestyle(), line.get_markerfacecolor()) for line in drawn]
    assert len({marker for marker, _, _ in looks[:3]}) == len({dash for _, dash, _ in looks[:3]}) == 3
    assert looks[3][2] != looks[1][2]  # the state's marker is hollow


def test_the_reference_eraser_is_leace():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, dtype=torch.float64, generator=draw) @ torch.randn(8, 8).double() + 1
    z = (x[:, 0] + torch.randn(300, dtype=torch.float64, generator=draw) > 0).double()
    theirs = LeaceFitter.fit(x, z[:, None], shrinkage=False, constrain_cov_trace=False).eraser
    mean, a, b = answers.erase(x, z)
    assert torch.allclose(x - ((x - mean) @ b)[:, None] * a, theirs(x), atol=1e-8)


def test_reference_distances_are_those_of_the_trees():
    for document in world_pairs.probe_documents("grammar", 20, 0, "new"):
        heads = world_pairs.heads(document.words)
        distance = answers.tree_distance(heads)
        assert distance.max() < len(heads)
        assert all(distance[i, head] == 1 for i, head in enumerate(heads) if head is not None)
        assert int((distance == 1).sum()) == 2 * (len(heads) - 1)
