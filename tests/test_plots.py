"""Figures: results in, figure and alt text out; the same bytes on every run; not by colour alone."""

import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from tft_utils import stats
from tft_utils.course import plots
from tft_utils.course.verdicts import Verdict
from tft_utils.files import ROOT
from tft_utils.lessons import activation_patching as patching_figures
from tft_utils.lessons import attention as attention_figures
from tft_utils.lessons import knockout_and_edits as cut_figures
from tft_utils.lessons import lenses
from tft_utils.lessons import start_here as figures
from tft_utils.stats import Estimate
from tft_utils.techniques.lenses import Trajectory

CURVE = [stats.proportion(k, 10) for k in (0, 5, 10)]
FLAT = [stats.proportion(0, 10)] * 3
PALETTE = [*plots.COLOURS, *plots.MORE, plots.GREY]
NAMES = ("transformer", "mamba", "mamba/1", "rwkv", "a model that nobody knows yet")


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def all_figures():
    """Each figure that compares models, of one, two and many."""
    yield figures.how_the_past_arrives()
    live = {kind: stats.proportion(9, 10) for kind in ("facts", "persona_uncued")}
    for names in (NAMES[1:2], NAMES[:2], NAMES):
        yield figures.depth_curves(dict.fromkeys(names, CURVE), dict.fromkeys(names, FLAT), "share")
        yield plots.next_words({name: [("x", 0.75), ("y", 0.2)] for name in names})
        yield figures.capabilities(
            dict.fromkeys(names, live), {"facts": 0.95, "persona_uncued": (0.4, 0.6)}
        )
        yield plots.compared(
            dict.fromkeys((*names, "chance"), live), "share", (0, 1), {"chance": plots.CONTROL}
        )


def test_alt_text_is_a_sentence_and_axes_have_labels():
    for figure, alt in all_figures():
        assert alt.endswith(".")
        assert len(alt.split()) >= 8
        for axis in figure.axes:
            assert not axis.axison or axis.get_xlabel()


def test_alt_text_states_the_numbers():
    _, alt = list(all_figures())[1]
    assert "mamba from 0% to 100%" in alt
    assert "at or below 0%" in alt


def test_the_same_result_gives_the_same_bytes():
    first, second = ([plots.png(figure) for figure, _ in all_figures()] for _ in range(2))
    assert first == second


def test_show_puts_alt_text_on_the_image_and_the_caption_below(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    figure, alt = figures.how_the_past_arrives()
    plots.show((figure, alt), "Figure 1. Two ways.")
    image, caption = shown
    data, metadata = image._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt
    assert data["image/png"].startswith("iVBOR")
    assert caption.data == "*Figure 1. Two ways.*"


DOLLARS = "$$ x $$", "$5 and not $6"


def figures_of_words(one: str, two: str):
    """Figures that draw tokens or a reader's text; every kind of text a figure can have is last."""
    yield plots.next_words({two: [(one, 0.75), (two, 0.2)], one: [(one, 0.5), (two, 0.1)]})[0]
    chances = torch.tensor([[0.5, 0.9], [0.9, 0.5]])
    yield lenses.trajectories({two: Trajectory([one, two], [[one, two], [two, one]], chances)})[0]
    yield plots.compared({one: dict(zip((one, two), CURVE, strict=False))}, two, (0, 1))[0]
    figure, axes = plt.subplots(1, 3)
    figure.suptitle(one)
    figure.text(0.5, 0.5, two)
    axes[0].set(xlabel=one, ylabel=two, title=one)
    axes[0].annotate(two, (0, 0))
    axes[0].set_title(two, loc="left")
    axes[0].plot([0, 1], label=one)
    axes[0].legend(title=two)
    axes[1].bar([one, two], [1, 2])
    figure.colorbar(axes[2].imshow([[0, 1]]), label=two).set_ticks([0, 1], labels=[one, two])
    yield figure


def grey(file) -> np.ndarray:
    return np.asarray(PIL.Image.open(file).convert("L"), float)


def test_text_with_dollar_signs_is_drawn_as_it_is():
    with plt.rc_context({"text.parse_math": False}):
        expected = []
        for figure in figures_of_words(*DOLLARS):
            figure.savefig(file := io.BytesIO(), format="png", dpi=100)
            expected.append(grey(file))
    for figure, right in zip(figures_of_words(*DOLLARS), expected, strict=True):
        found = grey(io.BytesIO(plots.png(figure)))
        assert found.shape == right.shape
        assert np.abs(found - right).mean() < 0.5  # png has fewer colours
        assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_every_figure_is_drawn_by_png():
    """So that what it does to text holds for every figure of every lesson."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tft_utils").rglob("*.py")}
    assert [path.name for path, text in sources.items() if "savefig(" in text] == ["plots.py"]


def bare(xlabel: str = "words", colour: str = "white") -> Figure:
    figure, axis = plt.subplots(facecolor=colour)
    axis.set_xlabel(xlabel)
    return figure


@pytest.mark.parametrize(
    ("figure", "alt", "message"),
    [
        (bare, "A plot of one value against another one.", ""),
        (bare, "", "expected alt text that states the finding in a sentence, found ''"),
        (bare, "It grows", "found 'It grows'; write one"),
        (lambda: bare(""), "A plot of one value against another one.", "expected a labelled x axis"),
        (lambda: bare("x", "none"), "A plot of one value against another one.", "opaque background"),
    ],
)
def test_show_refuses_a_figure_that_is_unfit_for_a_page(monkeypatch, figure, alt, message):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    if not message:
        plots.show((figure(), alt), "Figure 1. A line.")
        assert len(shown) == 2
        return
    with pytest.raises(ValueError, match=message):
        plots.show((figure(), alt), "Figure 1. A line.")
    assert not shown


def test_no_two_models_of_the_course_look_alike():
    assert plots.style("transformer") == {"color": "#0072B2", "linestyle": "-", "marker": "o"}
    assert plots.style("mamba") == {"color": "#D55E00", "linestyle": "--", "marker": "s"}
    for a, b in itertools.combinations(map(plots.style, plots.LOOKS), 2):
        assert a["linestyle"] != b["linestyle"]
        assert a["marker"] != b["marker"]


def test_machines_that_one_figure_compares_have_colours_of_their_own():
    """The course's, and all that lesson 09 adds; whether two colours can be told apart is below."""
    names = "transformer mamba mamba-tied mamba2 rwkv xlstm griffin gated_deltanet lstm".split()
    assert len({plots.style(name)["color"] for name in names}) == len(names)


def test_controls_of_several_models_are_told_apart():
    for names in (["mamba"], ["mamba", "mamba-tied"], ["mamba", "lstm", "rwkv"]):
        looks = {f"{name}, untrained": plots.CONTROL for name in names}
        row = {"facts": stats.proportion(9, 10)}
        figure, _ = plots.compared(dict.fromkeys([*names, *looks], row), "share", (0, 1), looks)
        lines = [line for axis in figure.axes for line in axis.lines if line.get_marker() not in "|_"]
        grey = [line for line in lines if line.get_color() == plots.GREY]
        assert len({line.get_marker() for line in grey}) == len(grey) == len(names)


def test_seeds_and_variants_are_seen_to_be_of_one_model():
    looks = [plots.style(f"mamba{variant}") for variant in ("", "/1", "/2", "/state64")]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 1
    assert len({look["marker"] for look in looks}) == len(looks)


def test_an_unknown_model_has_a_look_of_its_own_in_every_process():
    assert plots.style("runs/my-model") == {"color": "#CC79A7", "linestyle": ":", "marker": "4"}
    assert plots.style("runs/my-model") != plots.style("runs/another")


def test_models_that_are_compared_share_their_axes():
    figure, _ = plots.next_words({"A": [("x", 0.9)], "B": [("y", 0.1)], "C": [("z", 0.2)]})
    assert len({axis.get_xlim() for axis in figure.axes}) == 1


# --------------------------------------------------------------------------------------------------
# Legible on a dark page, and to every kind of colour vision

# Machado, Oliveira & Fernandes (2009), IEEE TVCG 15(6), table 1 at severity 1.0: linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
EACH_VISION = pytest.mark.parametrize("vision", VISIONS)
APART = 15  # CIE76 distance: six times what can be told apart side by side


def linear(colour) -> np.ndarray:
    """A colour, or sRGB values [... 3], as linear RGB (IEC 61966-2-1)."""
    rgb = np.asarray(to_rgb(colour) if isinstance(colour, str) else colour)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour) -> np.ndarray:
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b) -> float:
    """WCAG 2's ratio, from 1 to 21."""
    low, high = sorted((float(luminance(a)), float(luminance(b))))
    return (high + 0.05) / (low + 0.05)


def lab(colour, vision: str) -> np.ndarray:
    """CIE L*a*b* [... 3], under D65, of a colour as someone with this vision sees it."""
    rgb = np.clip(linear(colour) @ VISIONS[vision].T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = rgb @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.moveaxis(np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def distance(a, b, vision: str) -> float:
    return float(np.linalg.norm(lab(a, vision) - lab(b, vision)))


def data_colours(figure: Figure) -> set[str]:
    """Every colour of lines, bars, bands and points: what stands for a model or a control."""
    found = [line.get_color() for axis in figure.axes for line in axis.lines]
    for axis in figure.axes:
        for patch in axis.patches:
            found.append(patch.get_facecolor())
        for collection in axis.collections:
            found += [*collection.get_facecolor(), *collection.get_edgecolor()]
    return {mpl.colors.to_hex(to_rgb(colour)) for colour in found if not isinstance(colour, float)}


def test_every_figure_keeps_to_the_palette():
    known = {mpl.colors.to_hex(colour) for colour in PALETTE}
    for figure, alt in all_figures():
        assert data_colours(figure) <= known, f"{alt}: use plots.style or plots.GREY"


def test_figures_are_legible_on_dark_pages():
    """The background is opaque white, so a dark page cannot shine through; all ink is darker."""
    for figure, _ in all_figures():
        for surface in (figure, *figure.axes):
            assert to_rgb(surface.get_facecolor()) == (1, 1, 1)
            assert surface.get_facecolor()[3] == 1
    assert all(contrast(colour, "white") >= 3 for colour in PALETTE)  # WCAG 1.4.11, graphics
    assert contrast(plots.GREY, "white") >= 4.5  # WCAG 1.4.3, text


@EACH_VISION
def test_the_palette_is_told_apart_by_every_vision(vision):
    for a, b in itertools.combinations([*PALETTE, "white"], 2):
        assert distance(a, b, vision) >= APART, f"{a} and {b} look alike with {vision}"


@EACH_VISION
def test_the_sequential_map_grows_lighter_for_every_vision(vision):
    lightness = lab(mpl.colormaps["viridis"](np.linspace(0, 1, 64))[:, :3], vision)[:, 0]
    assert (np.diff(lightness) > 0).all()


@EACH_VISION
def test_the_diverging_map_has_a_light_middle_and_two_different_ends(vision):
    shades = lab(mpl.colormaps["RdBu_r"](np.linspace(0, 1, 65))[:, :3], vision)
    assert np.argmax(shades[:, 0]) == 32
    assert np.linalg.norm(shades[0] - shades[-1]) >= APART


def test_this_colour_check_knows_what_it_should_refuse():
    """Red and green of equal lightness; and closed forms of what the check is made of."""
    red, green = "#CC5A48", "#5C8F39"
    assert distance(red, green, "normal") > 60
    assert distance(red, green, "deuteranopia") < APART
    assert contrast("black", "white") == pytest.approx(21)
    assert lab("white", "normal") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("red", "normal") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    for vision in VISIONS:  # a dichromat sees greys as they are
        assert lab("#777777", vision) == pytest.approx(lab("#777777", "normal"), abs=0.1)


def test_ratios_show_the_word_of_each_and_no_point_without_a_basis():
    judged = {"probe": Verdict("partly", Estimate(0.5, 3, 0.3, 0.7)), "lens": Verdict("no basis", None)}
    figure, alt = plots.ratios(judged)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["partly", "no basis"]
    assert len(axis.containers) == 1  # one point with its interval
    assert sorted(line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--") == [
        0.25,
        0.75,
    ]
    assert "probe: partly, 0.50 [0.30, 0.70]; lens: no basis." in alt
    assert not plots.unfit(figure, alt)


def test_a_map_of_many_names_writes_no_more_of_them_than_fit():
    names = [f"row {i}" for i in range(100)]
    figure, (axis,) = plots.maps({"": plots.Map(np.zeros((100, 3)), names)}, "value", "x")
    assert [label.get_text() for label in axis.get_yticklabels()] == names[::3]
    plt.close(figure)


def test_parts_of_many_machines_look_apart():
    """Four machines' caches have eight parts; there are four series."""
    parts = {"one": ["keys", "values", "scan"], "other": ["shift", "average", "log weight", "keys"]}
    lines = {name: dict.fromkeys(some, FLAT) for name, some in parts.items()}
    figure, _ = cut_figures.curves(lines, dict.fromkeys(lines, [0, 1, 2]), "words", "effect")
    looks = {}
    for line in [line for axis in figure.axes for line in axis.lines]:
        drawn = line.get_color(), line.get_linestyle(), line.get_marker(), line.get_markerfacecolor()
        looks.setdefault(line.get_label(), set()).add(drawn)
    assert set(looks) == {part for some in parts.values() for part in some}
    assert all(len(look) == 1 for look in looks.values()), "a part looks the same in every panel"
    assert len({look for some in looks.values() for look in some}) == len(looks)


@pytest.mark.parametrize(("blocks", "every"), [(12, 1), (24, 2), (48, 4)])
def test_numbers_of_blocks_and_cells_are_written_where_they_have_room(blocks, every):
    effects = {"mixer": torch.linspace(-0.9, 0.9, blocks), "mlp": torch.linspace(0.9, -0.9, blocks)}
    figure, _ = patching_figures.parts({"one": effects, "other": effects}, "")
    texts = [text for axis in figure.axes for text in axis.texts]
    assert bool(texts) == (every == 1)
    for axis in figure.axes[:2]:
        labels = axis.get_xticklabels()
        assert [label.get_text() for label in labels] == [str(k) for k in range(0, blocks, every)]
    figure.canvas.draw()
    for row in [axis.get_xticklabels() for axis in figure.axes[:2]]:
        boxes = [label.get_window_extent() for label in row]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    for one, other in itertools.combinations([text.get_window_extent() for text in texts], 2):
        assert not one.overlaps(other)
    plt.close(figure)


@pytest.mark.parametrize(("blocks", "columns"), [(6, 6), (12, 4)])
def test_a_figure_of_all_heads_is_no_wider_than_a_page(blocks, columns):
    figure, alt = attention_figures.head_maps([torch.zeros(4, 5, 5)] * blocks, 5)
    assert f"Maps of {4 * blocks} heads" in alt
    assert figure.axes[0].get_gridspec().ncols == columns
    assert figure.get_size_inches()[0] < 12
    plt.close(figure)
