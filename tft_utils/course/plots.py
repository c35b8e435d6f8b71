"""Figures: a result goes in, a figure and its alt text come out; `show` puts both on the page.

House style. A model's name gives its colour, dash and marker (`style`), so that it looks the same in
every lesson and colour is never the only difference (colours: Okabe & Ito 2008). The background is
opaque white: figures stay legible on dark pages. Models that are compared share their axes.
"""

import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tft_utils.course.verdicts import FULLY, PARTLY, Verdict
from tft_utils.stats import Estimate

Drawn = tuple[Figure, str]  # a figure and its alt text

BLUE, VERMILION, GREEN, PURPLE, BLACK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
MAROON, VIOLET, PLUM, NAVY = MORE = ("#7F0000", "#9000E4", "#480054", "#180090")  # of many machines
LOOKS = {  # of the course's models: no two share a dash or a marker
    "transformer": (BLUE, "-", "o"),
    "mamba": (VERMILION, "--", "s"),
    "mamba-tied": (GREEN, "-.", "^"),
    "mamba2": (PURPLE, ":", "D"),
    "rwkv": (BLACK, (0, (5, 1)), "v"),
    "xlstm": (NAVY, (0, (3, 1, 1, 1)), "P"),
    "griffin": (VIOLET, (0, (8, 2)), "X"),
    "gated_deltanet": (PLUM, (0, (6, 2, 1, 2)), "*"),
    "lstm": (MAROON, (0, (1, 3)), "<"),
    "smollm2": (BLUE, (0, (3, 3)), ">"),
}
VARIANTS, OTHERS = "p+dx1", "h8234"  # markers of seeds and variants, and of other models
GREY = "#5F5F5F"
CONTROL = {"color": GREY, "linestyle": "-", "marker": "^"}  # what stands for no model
SERIES = [  # conditions, tasks, parts: never in the colour of a model that every lesson compares
    {"color": BLACK, "linestyle": "-", "marker": "o"},
    {"color": GREEN, "linestyle": "--", "marker": "D"},
    {"color": PURPLE, "linestyle": ":", "marker": "^"},
    {"color": "#8A6D00", "linestyle": "-.", "marker": "s"},
]
THIN = {"color": GREY, "linewidth": 1, "markersize": 3}  # a model's control
LABELS = 40  # along one side of a map; of more names every second is written, or every third
CELL = 16  # points across that a number in a cell of a map needs, or a block's number below it
DEPTH = "depth k/L (blocks applied / all blocks)"
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


def show(result: Drawn, caption: str) -> None:
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


# --------------------------------------------------------------------------------------------------
# Forms. What they draw is grouped by the title of its panel, then by series, which a legend names.

Value = Estimate | float  # a plain number has no interval
Line = Sequence[Value] | Mapping[float, Value]  # values at places in their order; or place -> value
Lines = Mapping[str, Mapping[str, Line]]
Row = Mapping[str, Value | list[Value]]  # condition -> value
# The look of each series in turn, or of its panel's title, its name and its number.
Looks = Sequence[dict] | Callable[[str, str, int], dict]
Panels = tuple[Figure, list[Axes]]


def named(title: str, series: str, at: int) -> dict:
    """The look of what is named by its model; of 'model, control': thin and grey."""
    model, _, what = series.partition(", ")
    return style(model) | (THIN if what == "control" else {})


def plain(values: Iterable[Value]) -> list[float]:
    """The numbers, without their intervals."""
    return [value.value if isinstance(value, Estimate) else value for value in values]


def titled(titles: Iterable, xlabel: str, ylabel="", size=None, columns=None, **options) -> Panels:
    """A panel in the house style for each title; the outer ones name their axes.

    size: of one panel, in inches. columns: of panels; by default they stand in one row. options: of
    plt.subplots; by default the panels share their axes.
    """
    titles = list(titles)
    columns = columns or len(titles)
    rows, (wide, high) = -(-len(titles) // columns), size or (7.2 if columns == 1 else 4.7, 3.7)
    options = {"figsize": (wide * columns, high * rows), "sharex": True, "sharey": True} | options
    with plt.rc_context(RC):
        figure, grid = plt.subplots(rows, columns, squeeze=False, **options)
    for i, (axis, title) in enumerate(zip(grid.flat, titles, strict=False)):
        lowest, first = i + columns >= len(titles), i % columns == 0
        axis.set(title=title, xlabel=xlabel if lowest else "", ylabel=ylabel if first else "")
        axis.tick_params(labelbottom=lowest or not options["sharex"])
    for axis in grid.flat[len(titles) :]:
        axis.axis("off")
    return figure, list(grid.flat[: len(titles)])


def legend(figure: Figure, own: bool = False) -> None:
    """One legend above the panels; own: each panel has its own, because colours differ."""
    for outdated in figure.legends:
        outdated.remove()
    known = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        for label, handle in zip(labels, handles, strict=True):
            known.setdefault(label, handle)
        if own and labels:
            axis.legend(frameon=False, fontsize=9)
    if not own:
        inches = 0.6 + 0.072 * max(map(len, known))  # of a label
        columns = min(len(known), max(1, int(figure.get_figwidth() / inches)))
        place = {"loc": "outside upper center", "ncols": columns, "fontsize": 10}
        figure.legend(known.values(), known, frameon=False, **place)


def points(axis: Axes, at: Sequence[float], values: Sequence[Value], upright=False, **look) -> None:
    """Values as markers, with 95 % intervals: along x at the heights `at`; upright: along y."""
    where, look = [plain(values), at], {"capsize": 3} | look | {"linestyle": ""}
    ends = [(e.value - e.low, e.high - e.value) for e in values if isinstance(e, Estimate)]
    error = {"yerr" if upright else "xerr": np.transpose(ends)} if ends else {}
    axis.errorbar(*(where[::-1] if upright else where), **error, **look)


def curve(axis: Axes, line: Line, x: Sequence[float] | None, label="", bars=False, **look) -> None:
    """A line over x, by default depths k/L from 0 to 1; 95 % intervals are its band, or bars."""
    if isinstance(line, Mapping):
        x, line = list(line), list(line.values())
    elif x is None:
        x = [k / (len(line) - 1) for k in range(len(line))]
    values = list(line)
    axis.plot(x, plain(values), label=label, **look)
    ends = [(e.low, e.high) for e in values if isinstance(e, Estimate)]
    if bars:
        points(axis, x, values, upright=True, **look)
    elif ends:
        axis.fill_between(x, *np.transpose(ends), color=look["color"], alpha=0.2, linewidth=0)


def curves(
    lines: Lines, xlabel: str, ylabel: str, looks: Looks = named, ylim=None, x=None, bars=False, **panels
) -> Panels:
    """Panels of lines on shared axes; x: places of all lines, or by title. The legend stands above them;
    where one label has several colours, as when titles are models, each panel has its own."""
    figure, axes = titled(lines, xlabel, ylabel, **panels)
    colours = set()  # (label, colour)
    for axis, (title, series) in zip(axes, lines.items(), strict=True):
        places = x[title] if isinstance(x, Mapping) else x
        for at, (label, line) in enumerate(series.items()):
            look = looks(title, label, at) if callable(looks) else looks[at]
            curve(axis, line, places, label, bars, **look)
            colours.add((label, look["color"]))
        if places is not None and isinstance(places[0], int):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ylim:
        axes[0].set_ylim(ylim)
    legend(figure, own=len(colours) > len(dict(colours)))
    return figure, axes


def with_controls(lines: Mapping[str, Line], controls: Mapping[str, Line]) -> dict[str, Line]:
    """Each model's line, and behind it its control without a band; see `named`."""
    pairs = ({name: lines[name], f"{name}, control": plain(controls[name])} for name in lines)
    return {label: line for pair in pairs for label, line in pair.items()}


def side_by_side(n: int) -> list[float]:
    """Shifts that set n series apart around one place, at most 0.7 in all."""
    gap = min(0.18, 0.7 / n)
    return [gap * (i - (n - 1) / 2) for i in range(n)]


def dots(axis: Axes, series: Mapping[str, Row], looks: Looks = named) -> None:
    """A line for each condition, on it a marker for each series, or one for each value of a list."""
    conditions = list(next(iter(series.values())))
    shifts = side_by_side(len(series))
    for at, (name, row) in enumerate(series.items()):
        lists = [row[what] if isinstance(row[what], list) else [row[what]] for what in conditions]
        heights = [k + shifts[at] for k, values in enumerate(lists) for _ in values]
        look = looks(axis.get_title(), name, at) if callable(looks) else looks[at]
        points(axis, heights, [value for values in lists for value in values], label=name, **look)
    axis.set_yticks(range(len(conditions)), [condition.replace("_", " ") for condition in conditions])
    axis.set_ylim(len(conditions) - 0.5, -0.5)


def dot_panels(
    groups: Mapping[str, Mapping[str, Row]], xlabel: str, xlim: tuple, looks: Looks = named, **panels
) -> Panels:
    """Panels of dots on shared axes, with one legend above them; an empty group leaves a gap."""
    figure, axes = titled(groups, xlabel, **panels)
    for axis, series in zip(axes, groups.values(), strict=True):
        if series:
            dots(axis, series, looks)
        else:
            axis.axis("off")
    axes[0].set_xlim(xlim)
    legend(figure)
    return figure, axes


def compared(
    series: Mapping[str, Row], xlabel: str, xlim: tuple, looks: Mapping[str, dict] | None = None
) -> Drawn:
    """One panel of dots. A series is named by its model, or 'model, what'; looks: of other series."""
    size = 8, 1.2 + max(0.5, 0.08 * len(series)) * len(next(iter(series.values())))
    known = {name: style(name.partition(",")[0]) for name in series} | (looks or {})
    grey = [name for name in series if known[name] == CONTROL]
    if len(grey) > 1:  # told apart by the markers of their models
        known |= {name: CONTROL | {"marker": style(name.partition(",")[0])["marker"]} for name in grey}
    figure, _ = dot_panels({"": series}, xlabel, xlim, lambda _, name, at: known[name], size=size)
    return figure, f"{xlabel[0].upper() + xlabel[1:]} with intervals. {listed(series, '.2f')}."


def next_words(guesses: Mapping[str, Sequence[tuple[str, float]]]) -> Drawn:
    """Each model's likeliest next words as bars; `guesses` maps model -> (word, probability)."""
    figure, axes = titled(guesses, "probability of the next word", size=(4.5, 2.8), sharey=False)
    for axis, (name, rows) in zip(axes, guesses.items(), strict=True):
        words, chances = zip(*reversed(rows), strict=True)
        axis.barh(range(len(words)), chances, color=style(name)["color"])
        axis.set_yticks(range(len(words)), words)
        axis.set_xlim(0, 1)
        axis.grid(axis="y", visible=False)
    first = ", ".join(f"{name} gives {rows[0][0]!r} {rows[0][1]:.0%}" for name, rows in guesses.items())
    return figure, f"The likeliest next word: {first}."


def ratios(judged: Mapping[str, Verdict]) -> Drawn:
    """Ratios of effects with 95 % intervals over the two borders of the rule, and each one's word.

    judged: what was measured on which architecture -> its verdict. Without a basis there is no ratio.
    """
    size = 8, 1.1 + 0.4 * len(judged)
    figure, (axis,) = titled([""], "effect, as a ratio to the Transformer's", size=size)
    said = []
    for row, (name, (word, ratio)) in enumerate(judged.items()):
        if ratio:
            points(axis, [row], [ratio], color=BLACK, marker="o")
        interval = f", {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""
        axis.text(1.02, row, word, transform=axis.get_yaxis_transform(), va="center")
        said.append(f"{name}: {word}{interval}")
    for border in (PARTLY, FULLY):
        axis.axvline(border, color=GREY, linestyle="--", zorder=0)
    axis.set_yticks(range(len(judged)), judged)
    axis.set(xticks=[0, PARTLY, 0.5, FULLY, 1], ylim=(len(judged) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    borders = "Ratios of effects with intervals, and borders at a quarter and three quarters"
    return figure, f"{borders}. {'; '.join(said)}."


class Map(NamedTuple):
    """A value in each cell."""

    values: Tensor | np.ndarray  # [row column]; nan: no such cell
    rows: Sequence = ()  # names along y, and along x; numbers where there are none
    columns: Sequence = ()
    cells: Sequence[Sequence[str]] = ()  # what is written in each; nothing where cells are narrow
    extent: tuple[float, float, float, float] | None = None  # as imshow takes it
    turn: float = 0  # the angle of names along x
    origin: str = "upper"  # where row 0 stands; or "lower"


def heat(axis: Axes, shown: Map, low: float = 0, high: float = 1) -> AxesImage:
    """Draws a map: in viridis, or in red and blue around 0 if `low` is negative."""
    look = {"cmap": "RdBu_r" if low < 0 else "viridis", "vmin": low, "vmax": high, "aspect": "auto"}
    image = axis.imshow(np.asarray(shown.values), extent=shown.extent, origin=shown.origin, **look)
    axis.grid(visible=False)
    wide = 72 * axis.bbox.width / axis.get_figure().dpi / np.shape(shown.values)[1]  # of a cell, points
    for y, texts in enumerate(shown.cells if wide > CELL else ()):
        for x, text in enumerate(texts):
            light = np.dot(image.to_rgba(shown.values[y][x])[:3], (0.2, 0.7, 0.1)) > 0.45  # luminance
            write(axis, x, y, text, fontsize=8.5, color="black" if light else "white")
    across = {"rotation": shown.turn, "ha": "right" if 0 < shown.turn < 90 else "center"}
    for side, names, turned in ((axis.yaxis, shown.rows, {}), (axis.xaxis, shown.columns, across)):
        if names:
            numbers = isinstance(names, range) and side is axis.xaxis
            every = slice(None, None, math.ceil(CELL / wide if numbers else len(names) / LABELS))
            side.set_ticks(range(len(names))[every], names[every], fontsize=9, **turned)
        elif not shown.extent:
            side.set_major_locator(MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True))
    return image


def maps(grid: Mapping[str, Map], label: str, xlabel: str, ylabel="", scale=(0, 1), **panels) -> Panels:
    """Panels of maps on one scale of colours, which `label` names; by default each with its own axes."""
    figure, axes = titled(grid, xlabel, ylabel, **{"sharex": False, "sharey": False} | panels)
    images = [heat(axis, shown, *scale) for axis, shown in zip(axes, grid.values(), strict=True)]
    figure.colorbar(images[0], ax=axes, label=label, shrink=0.8)
    return figure, axes


# --------------------------------------------------------------------------------------------------
# Sketches, and alt text


def canvas(size: tuple[float, float], xlim: tuple, ylim: tuple, *titles: str) -> Panels:
    """Panels without axes, one for each title, or one without a title; size: of the whole."""
    figure, axes = titled(titles or [""], "", size=(size[0] / max(1, len(titles)), size[1]))
    axes[0].set(xlim=xlim, ylim=ylim)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], **look) -> None:
    """An arrow, grey unless `look` has a colour."""
    look = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 2, "shrinkB": 2} | look
    axis.annotate("", end, start, arrowprops=look)


def write(axis: Axes, x: float, y: float, text: str, edge: str | None = None, **look) -> None:
    """Text, centred unless `look` says otherwise; edge: the colour of a box around it."""
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": edge, "linewidth": 1.6}
    axis.text(x, y, text, **{"ha": "center", "va": "center", "bbox": box if edge else None} | look)


def listed(groups: Mapping[str, Mapping[str, Any]], say: str | Callable[[Any], str]) -> str:
    """'title: name value, name value; title: ...'; say: puts a value into words, or is its format."""

    def said(value: Any) -> str:
        return say(value) if callable(say) else format(*plain([value]), say)

    rows = {
        title: ", ".join(f"{name} {said(x)}" for name, x in row.items()) for title, row in groups.items()
    }
    return "; ".join(f"{title}: {row}" for title, row in rows.items())


def each(groups: Mapping[str, Mapping[str, Any]], say: Callable[[Any], str]) -> str:
    """'title, name: what `say` says of the value; ...'."""
    items = ((title, name, value) for title, row in groups.items() for name, value in row.items())
    return "; ".join(f"{title}, {name}: {say(value)}" for title, name, value in items)
