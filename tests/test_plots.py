"""Figures: results in, figure and alt text out; the same bytes on every run; not by colour alone."""

from tft_utils import plots, stats

CURVE = [stats.proportion(k, 10) for k in (0, 5, 10)]
FLAT = [stats.proportion(0, 10)] * 3


def figures():
    yield plots.how_the_past_arrives()
    yield plots.next_words({"A": [("x", 0.75), ("y", 0.2)], "B": [("x", 0.5), ("z", 0.1)]})
    yield plots.depth_curves({"A": CURVE, "B": CURVE}, {"A": FLAT, "B": FLAT}, "share")
    live = {kind: stats.proportion(9, 10) for kind in ("facts", "persona_uncued")}
    yield plots.capabilities({"A": live, "B": live}, {"facts": 0.95, "persona_uncued": (0.4, 0.6)})


def test_alt_text_is_a_sentence_and_axes_have_labels():
    for figure, alt in figures():
        assert alt.endswith(".")
        assert len(alt.split()) >= 8
        for axis in figure.axes:
            assert not axis.axison or axis.get_xlabel()


def test_alt_text_states_the_numbers():
    _, alt = list(figures())[2]
    assert "A from 0% to 100%" in alt
    assert "at or below 0%" in alt


def test_the_same_result_gives_the_same_bytes():
    first, second = ([plots.png(figure) for figure, _ in figures()] for _ in range(2))
    assert first == second


def test_models_differ_in_more_than_colour_and_share_their_axes():
    first, second = plots.STYLES
    assert all(first[key] != second[key] for key in ("color", "linestyle", "marker"))
    figure, _ = plots.next_words({"A": [("x", 0.9)], "B": [("y", 0.1)]})
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_the_background_is_opaque():
    figure, _ = plots.how_the_past_arrives()
    assert figure.get_facecolor()[3] == 1
