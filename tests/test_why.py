"""Lesson 10's comparisons: against scipy, and on planted models."""

import numpy as np
import pytest
import shell
from scipy import stats as scipy_stats

from tft_utils import models
from tft_utils.course import notebooks, scoreboard, standings
from tft_utils.lessons import why


def test_the_interval_is_that_of_a_t_test():
    rng = np.random.default_rng(0)
    seeds, own = rng.normal(0.8, 0.1, 5).tolist(), [0.3]
    gap, low, high = why.difference(own, seeds)
    error = np.std(seeds, ddof=1) * np.sqrt(1 + 1 / 5)
    assert (low, high) == pytest.approx(scipy_stats.t.interval(0.95, 4, gap, error))
    assert gap == pytest.approx(0.3 - np.mean(seeds))


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3), (3, 3), (3, 4)])
def test_dealing_labels_agrees_with_scipy_and_reaches_the_smallest_p(sizes):
    rng = np.random.default_rng(1)
    for far in (0.0, 100.0):
        a, b = rng.normal(far, 1, sizes[0]), rng.normal(0, 1, sizes[1])
        known = scipy_stats.permutation_test(
            (a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), alternative="greater", n_resamples=10**6
        )
        assert why.permutation_p(a.tolist(), b.tolist()) == pytest.approx(known.pvalue)
    assert why.permutation_p(a.tolist(), b.tolist()) == pytest.approx(why.smallest_p(*sizes))


def test_the_planned_seeds_show_the_gap_and_fewer_do_not():
    n, rng = why.seeds_needed(0.5, 0.4), np.random.default_rng(2)
    rates = [
        np.mean(scipy_stats.ttest_ind(*rng.normal([[[0.5]], [[0.0]]], 0.4, (2, k, 3000))).pvalue < 0.05)
        for k in (n, n // 2)
    ]
    assert rates[0] == pytest.approx(0.8, abs=0.05)
    assert rates[1] < 0.6


def planted() -> list[why.Measured]:
    of = {"mamba": {0: 0.9, 1: 0.88, 2: 0.92}, "transformer": {0: 0.9}}
    tied = [("far", 0.1), ("near", 0.9), ("rough", 0.5)]
    found = [why.Measured(name, of | {"mamba-tied": {0: x}}, {"mamba": 0.01}) for name, x in tied]
    found[2].of["mamba"] = {0: 0.9, 1: 0.2, 2: 0.6}
    return found


def test_planted_changes_get_their_word_and_parts_without_models_are_left_out():
    rows = why.compared(planted(), why.difference)
    assert [(row.part, row.name, row.word) for row in rows] == [
        ("tying", "far", "differs"),
        ("tying", "near", "same within a quarter"),
        ("tying", "rough", "open"),
    ]
    t = rows[0].gap / (0.02 * np.sqrt(4 / 3))
    assert rows[0].p == pytest.approx(2 * scipy_stats.t.sf(abs(t), 2))


def test_the_measures_of_a_part_share_a_correction():
    rows = why.compared(planted(), why.difference)
    other = [row._replace(part="depth") for row in rows]
    alone = why.holm([row.p for row in rows])
    assert why.by_part(rows + other, why.holm) == pytest.approx(alone + alone)
    assert "apart, but not after Holm" in why.table(rows, [0.2, 1.0, 1.0])


def test_what_is_missing_is_named():
    board = {"rows": [{"architecture": "mamba", "seeds": {"0": {}, "1": {}}}]}
    said = why.missing(board, {"mamba-tied": {}})
    assert said[0] == "tying: mamba-tied is trained, its lessons are not run; `make scoreboard`"
    assert "organisms train mamba-state4" in " ".join(said)
    assert len(said) == len(why.FACTORS)


def test_the_committed_data_has_the_measures_of_cards_and_board():
    names = {m.name for m in why.measured(standings.read_board(), standings.cards())}
    assert {"can do: story", "steering, state: reach, up minus down (share)"} <= names


def test_one_against_three_reaches_a_quarter():
    assert why.permutation_p([0.0], [9.0, 9.1, 9.2]) == why.smallest_p(1, 3) == 0.25


def test_models_of_several_seeds_are_compared_or_the_pair_is_and_it_is_said(capsys):
    board = standings.read_board()
    assert why.repeated(board, ("mamba-tied", "mamba", "transformer")) == ["mamba", "transformer"]
    assert not capsys.readouterr().out
    assert why.repeated(board, ("lstm", "mamba-tied")) == list(models.PAIR)
    said = "seeds are compared here, and the board has no two of lstm, mamba-tied: see the pair's"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("names", [("transformer", "mamba", "mamba-tied"), ("lstm",)])
def test_the_lesson_runs_on_models_of_which_one_seed_is_trained(names, monkeypatch):
    monkeypatch.setenv("TFT_CLAIMS", "show")
    (path,) = notebooks.NOTEBOOKS.glob("*_why.ipynb")
    lesson = scoreboard.with_parameters(notebooks.parse(path), MODELS=names)
    code = [(cell["id"], cell["source"]) for cell in lesson["cells"] if cell["cell_type"] == "code"]
    assert not shell.in_a_fork(code, path.parent, notebooks.SECONDS_PER_CELL)[-1].error
