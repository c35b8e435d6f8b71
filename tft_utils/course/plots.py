"""Figures: a result goes in, a figure and its alt text come out; `show` puts both on the page.

House style. A model's name gives its colour, dash and marker (`style`), so that it looks the same in
every lesson and colour is never the only difference (colours: Okabe & Ito 2008). The background is
opaque white: figures stay legible on dark pages. Models that are compared share their axes.
"""

import io
import zlib
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from tft_utils.course.verdicts import FULLY, PARTLY, Verdict
from tft_utils.stats import Estimate

BLUE, VERMILION, GREEN, PURPLE, BLACK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
LOOKS = {  # of the course's models: no two share a dash or a marker
    "transformer": (BLUE, "-", "o"),
    "mamba": (VERMILION, "--", "s"),
    "mamba-tied": (GREEN, "-.", "^"),
    "mamba2": (PURPLE, ":", "D"),
    "rwkv": (BLACK, (0, (5, 1)), "v"),
    "xlstm": (GREEN, (0, (3, 1, 1, 1)), "P"),
    "griffin": (PURPLE, (0, (8, 2)), "X"),
    "gated_deltanet": (BLACK, (0, (6, 2, 1, 2)), "*"),
    "lstm": (VERMILION, (0, (1, 3)), "<"),
    "smollm2": (BLUE, (0, (3, 3)), ">"),
}
VARIANTS, OTHERS = "p+dx1", "h8234"  # markers of seeds and variants, and of other models
GREY = "#5F5F5F"
CONTROL = {"color": GREY, "linestyle": "-", "marker": "^"}  # what stands for no model
RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
}


def style(name: str) -> dict:
    """A model's colour, linestyle and marker, the same in every figure.

    A seed or variant ('mamba/1') keeps the colour and dash of its base and has another marker; a name
    that is not in `LOOKS` gets a look of its own, always the same.
    """
    base, _, variant = name.partition("/")
    if base in LOOKS:
        colour, dash, marker = LOOKS[base]
        marker = VARIANTS[zlib.crc32(variant.encode()) % len(VARIANTS)] if variant else marker
    else:
        code, dashes = zlib.crc32(name.encode()), [dash for _, dash, _ in LOOKS.values()]
        colour, dash = COLOURS[code % len(COLOURS)], dashes[code // 5 % len(dashes)]
        marker = OTHERS[code // 50 % len(OTHERS)]
    return {"color": colour, "linestyle": dash, "marker": marker}


def panels(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A figure with panels [rows columns], in the house style, for any number of models."""
    with plt.rc_context(RC):
        return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def band(axis: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, **look) -> None:
    """Estimates over x as a line with its 95 % band."""
    axis.plot(x, [e.value for e in estimates], label=label, **look)
    ends = [e.low for e in estimates], [e.high for e in estimates]
    axis.fill_between(x, *ends, color=look["color"], alpha=0.2, linewidth=0)


def points(axis: Axes, at: Sequence[float], estimates: Sequence[Estimate], upright=False, **look) -> None:
    """Estimates as markers with 95 % intervals: along x at the heights `at`; upright: along y."""
    values = [e.value for e in estimates]
    spread = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    where = (at, values) if upright else (values, at)
    axis.errorbar(
        *where, **{"yerr" if upright else "xerr": spread, "capsize": 3} | look | {"linestyle": ""}
    )


def side_by_side(n: int, gap: float = 0.18) -> list[float]:
    """Shifts that set n series apart around one place, at most 0.7 in all."""
    gap = min(gap, 0.7 / n)
    return [gap * (i - (n - 1) / 2) for i in range(n)]


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same on every run: no software name, no date.

    A palette of 256 colours makes it a third as large, and looks the same. All text is drawn as it is:
    tokens and prices hold dollar signs, which would start a formula.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=100)
    plt.close(figure)
    pixels = PIL.Image.open(whole).convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)
    pixels.save(small, format="png", optimize=True)
    return small.getvalue()


def show(result: tuple[Figure, str], caption: str) -> None:
    """Displays a figure with its alt text, and its caption below it.

    Errors: `ValueError` when the figure is not fit for a page: see `unfit`.
    """
    figure, alt = result
    if lacks := unfit(figure, alt):
        raise ValueError(lacks)
    display(Image(data=png(figure), format="png", alt=alt))
    display(Markdown(f"*{caption}*"))


def unfit(figure: Figure, alt: str) -> str:
    """What a page asks for and the figure lacks, in one sentence; empty when it is fit.

    Checked where it is shown, so every figure of every lesson is checked whenever the lesson runs.
    """
    if not (alt.endswith(".") and len(alt.split()) >= 8):
        return f"expected alt text that states the finding in a sentence, found '{alt}'; write one"
    if any(surface.get_facecolor()[3] < 1 for surface in (figure, *figure.axes)):
        return "expected an opaque background, found a clear one; draw inside plt.rc_context(RC)"
    drawn = [axis for axis in figure.axes if axis.axison]
    if drawn and not any(axis.get_xlabel() for axis in drawn):
        return "expected a labelled x axis, found none; name the quantity and its unit"
    return ""


def compared(
    found: Mapping[str, Mapping[str, Estimate]],
    xlabel: str,
    xlim: tuple[float, float],
    looks: Mapping[str, dict] | None = None,
) -> tuple[Figure, str]:
    """Estimates with 95 % intervals: a row for each condition, a marker for each series.

    A series is named by its model, or 'model, what'. looks: of series that stand for no model.
    """
    conditions = list(next(iter(found.values())))
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.5 * len(conditions)))
    for shift, (name, row) in zip(side_by_side(len(found)), found.items(), strict=True):
        look = (looks or {}).get(name) or style(name.partition(",")[0])
        heights = [k + shift for k in range(len(conditions))]
        points(axis, heights, [row[condition] for condition in conditions], label=name, **look)
    axis.set_yticks(range(len(conditions)), conditions)
    axis.set(xlabel=xlabel, xlim=xlim, ylim=(len(conditions) - 0.5, -0.5))
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0)
    said = "; ".join(
        f"{name}: " + ", ".join(f"{condition} {row[condition].value:.2f}" for condition in conditions)
        for name, row in found.items()
    )
    return figure, f"{xlabel[0].upper() + xlabel[1:]} with intervals. {said}."


def next_words(guesses: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[Figure, str]:
    """Each model's likeliest next words as bars; `guesses` maps model -> (word, probability)."""
    with plt.rc_context(RC):
        figure, axes = panels(1, len(guesses), (4.5 * len(guesses), 2.8), sharex=True)
        for axis, (name, rows) in zip(axes[0], guesses.items(), strict=True):
            words, chances = zip(*reversed(rows), strict=True)
            axis.barh(range(len(words)), chances, color=style(name)["color"])
            axis.set_yticks(range(len(words)), words)
            axis.set(title=name, xlabel="probability of the next word", xlim=(0, 1))
            axis.grid(axis="y", visible=False)
    first = ", ".join(f"{name} gives {rows[0][0]!r} {rows[0][1]:.0%}" for name, rows in guesses.items())
    return figure, f"The likeliest next word: {first}."


def ratios(judged: Mapping[str, Verdict]) -> tuple[Figure, str]:
    """Ratios of effects with 95 % intervals over the two borders of the rule, and each one's word.

    judged: what was measured on which architecture -> its verdict. Without a basis there is no ratio.
    """
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 1.1 + 0.4 * len(judged)))
    for row, (word, ratio) in enumerate(judged.values()):
        if ratio:
            points(axis, [row], [ratio], color=BLACK, marker="o")
        axis.text(1.02, row, word, transform=axis.get_yaxis_transform(), va="center")
    for border in (PARTLY, FULLY):
        axis.axvline(border, color=GREY, linestyle="--", zorder=0)
    axis.set_yticks(range(len(judged)), judged)
    axis.set_xticks([0, PARTLY, 0.5, FULLY, 1])
    axis.set(xlabel="effect, as a ratio to the Transformer's", ylim=(len(judged) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    said = "; ".join(
        f"{name}: {word}" + (f", {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "")
        for name, (word, ratio) in judged.items()
    )
    return (
        figure,
        f"Ratios of effects with intervals, and borders at a quarter and three quarters. {said}.",
    )
