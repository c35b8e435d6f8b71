"""Lesson 05a's figures: results in, figure and alt text out; and its reference answers against theory."""

import matplotlib.pyplot as plt
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from toys import check_figures

from tft_utils import models, reading, stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course.exercises import check
from tft_utils.lessons import linguistic_probing as answers
from tft_utils.lessons import linguistic_probing as figures
from tft_utils.techniques import probes

HALF, MOST, ALL = (stats.proportion(k, 10) for k in (5, 9, 10))
CURVES = {"A": ([HALF, MOST], [HALF, HALF]), "B": ([HALF, ALL], [HALF, HALF])}


@pytest.fixture(scope="module")
def pairs():
    return models.load_models()


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


def test_figures_are_fit_for_a_page_and_the_same_each_time():
    check_figures(every_figure)


def test_alt_texts_state_the_numbers():
    alts = [alt for _, alt in every_figure()]
    assert "number: A 0.90 against 0.50, B 1.00 against 0.50" in alts[1]
    assert "B, state from 1.00 to 1.00" in alts[3]


def test_curves_differ_by_more_than_colour():
    lines = {(name, "stream"): {0: ALL} for name in ("transformer", "mamba", "mamba-tied")}
    figure, _ = figures.travelling(lines | {("mamba", "state"): {0: ALL}})
    drawn = figure.axes[0].get_lines()[:4]
    looks = [(line.get_marker(), line.get_linestyle(), line.get_markerfacecolor()) for line in drawn]
    assert len({marker for marker, _, _ in looks[:3]}) == len({dash for _, dash, _ in looks[:3]}) == 3
    assert looks[3][2] != looks[1][2]  # the state's marker is hollow


def test_reference_distances_are_those_of_the_trees():
    for document in world_pairs.probe_documents("grammar", 20, 0, "new"):
        heads = world_pairs.heads(document.words)
        distance = answers.tree_distance(heads)
        assert distance.max() < len(heads)
        assert all(distance[i, head] == 1 for i, head in enumerate(heads) if head is not None)
        assert int((distance == 1).sum()) == 2 * (len(heads) - 1)


def test_a_reference_parse_is_scipys_minimum_spanning_tree():
    draw = torch.Generator().manual_seed(0)
    for document in world_pairs.probe_documents("grammar", 20, 0, "new"):
        distance = answers.tree_distance(world_pairs.heads(document.words))
        measured = torch.rand(distance.shape, generator=draw) + distance / 4
        measured = torch.triu(measured, 1) + torch.triu(measured, 1).T
        tree = torch.tensor(minimum_spanning_tree(measured.numpy()).toarray()) > 0
        truth = (distance[tree] == 1).double().mean().item()
        assert answers.right_edges(measured, distance) == pytest.approx(truth)


def test_reference_axes_are_the_covariances():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(50, 9, dtype=torch.float64, generator=draw) @ torch.randn(9, 9).double() + 3
    mean, axes = answers.first_axes(x, 4)
    sizes, vectors = torch.linalg.eigh(torch.cov(x.T))
    assert torch.allclose(mean, x.mean(0))
    assert torch.allclose((axes.T @ vectors[:, -4:]).abs(), torch.eye(4).double().flip(1), atol=1e-6)
    assert torch.allclose(torch.var(x @ axes, 0), sizes[-4:].flip(0))


@pytest.mark.parametrize("name", ["transformer", "mamba"])
def test_the_reference_probe_reads_as_the_library_does(pairs, name):
    """One stream, two readers; number with LDA of one's own and with the library's, shrunk one."""
    model = pairs[name]
    sentence = world_pairs.probe_documents("grammar", 1, 0, "new")[0]
    mine = answers.stream_at_end(model, sentence.prompt(4))
    assert torch.allclose(mine, reading.read(model, [sentence], [[3]])["residual"][0, 0], 1e-3, 1e-3)
    sizes = {"train": 300, "known": 100, "new": 100}
    parts = probes.collect(model, ["number"], sizes, 0)["number"]
    theirs = probes.probe(parts, 2, seeds=4)
    right, control = answers.with_control(parts, "known", 0)
    assert abs(right[-1] - theirs.known[-1].value) < 0.03
    new, guessing = answers.with_control(parts, "new", 0)
    assert new[-1] > 0.95 > 0.75 > guessing[-1]
    mean, _ = answers.selectivity(parts, 6)
    assert right[-1] > control[-1]
    assert abs(mean[-1] - theirs.selectivity[-1].value) < 0.15


def test_control_tasks_of_ones_own_are_right():
    """A learner's `control_task` may draw in another order than the reference does."""

    def selectivity(parts, draws):
        seeds = range(1000, 1000 + draws)
        gaps = [torch.sub(*answers.with_control(parts, "known", seed)) for seed in seeds]
        return torch.stack(gaps).mean(0), torch.stack(gaps).std(0)

    assert check("linguistic_probing/selectivity", selectivity) is selectivity
