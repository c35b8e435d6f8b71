"""Figures: a result goes in, a figure and its alt text come out; `show` puts both on the page.

House style. The first model is blue, solid, round; the second vermilion, dashed, square (Okabe &
Ito 2008), so that colour is never the only difference. The background is opaque white: figures stay
legible on dark pages. The models of a pair always share their axes.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from tft_utils.stats import Estimate

STYLES = (  # one per model of a pair
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
)
GREY = "#5F5F5F"
RC = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#DDDDDD", "axes.axisbelow": True, "figure.constrained_layout.use": True,
}  # fmt: skip


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same on every run: no software name, no date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def show(result: tuple[Figure, str], caption: str) -> None:
    """Displays a figure with its alt text, and its caption below it."""
    figure, alt = result
    display(Image(data=png(figure), format="png", alt=alt))
    display(Markdown(f"*{caption}*"))


def how_the_past_arrives() -> tuple[Figure, str]:
    """A picture of the one difference that the course is about."""
    words = ["The", "keys", "near", "it", "are"]
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    for axis, title in zip(axes, ("Transformer: look back at every word",
                                  "Mamba: carry one state of fixed size"), strict=True):  # fmt: skip
        axis.set(xlim=(-0.6, 4.6), ylim=(-0.35, 2.2), title=title)
        axis.axis("off")
        for x, word in enumerate(words):
            axis.text(x, 0, word, ha="center", va="center", fontsize=13)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.8, "shrinkA": 2, "shrinkB": 2}
    for x in range(4):
        axes[0].annotate("", (4, 1.45), (x, 0.2), arrowprops=arrow | {
            "color": STYLES[0]["color"], "connectionstyle": "arc3,rad=-0.15"})  # fmt: skip
    axes[0].text(4, 1.6, "reads all\nof the past", ha="center", color=STYLES[0]["color"])
    for x in range(5):
        axes[1].annotate("", (x, 1.0), (x, 0.2), arrowprops=arrow | {"color": GREY})
        axes[1].text(x, 1.2, "state", ha="center", va="center", fontsize=10, bbox={
            "boxstyle": "round", "facecolor": "#FBE3D3", "edgecolor": STYLES[1]["color"]})  # fmt: skip
        if x < 4:
            axes[1].annotate("", (x + 0.68, 1.2), (x + 0.32, 1.2),
                             arrowprops=arrow | {"color": STYLES[1]["color"]})
    axes[1].text(4, 1.6, "reads only\nthe state", ha="center", color=STYLES[1]["color"])
    alt = ("Left: in a Transformer the last word has an arrow from every earlier word. "
           "Right: in Mamba each word updates one state that is handed from word to word.")  # fmt: skip
    return figure, alt


def next_words(guesses: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[Figure, str]:
    """Each model's likeliest next words as bars; `guesses` maps model -> (word, probability)."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(guesses), figsize=(9, 2.8), sharex=True)
        for axis, style, (name, rows) in zip(axes, STYLES, guesses.items(), strict=True):
            words, chances = zip(*reversed(rows), strict=True)
            axis.barh(range(len(words)), chances, color=style["color"])
            axis.set_yticks(range(len(words)), words)
            axis.set(title=name, xlabel="probability of the next word", xlim=(0, 1))
            axis.grid(axis="y", visible=False)
    first = ", ".join(f"{name} gives {rows[0][0]!r} {rows[0][1]:.0%}"
                      for name, rows in guesses.items())  # fmt: skip
    return figure, f"The likeliest next word: {first}."


def depth_curves(curves: Mapping[str, Sequence[Estimate]], controls: Mapping[str, Sequence[Estimate]],
                 ylabel: str) -> tuple[Figure, str]:  # fmt: skip
    """One estimate per depth k and model, with 95 % bands, over k/L; controls are thin and grey."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7, 3.6))
        for style, (name, estimates) in zip(STYLES, curves.items(), strict=True):
            x = [k / (len(estimates) - 1) for k in range(len(estimates))]
            axis.plot(x, [e.value for e in estimates], label=name, **style)
            axis.fill_between(x, [e.low for e in estimates], [e.high for e in estimates],
                              color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
            axis.plot(x, [e.value for e in controls[name]], label=f"{name}, control",
                      **style | {"color": GREY, "linewidth": 1, "markersize": 3})  # fmt: skip
        axis.set(xlabel="depth k/L (blocks applied / all blocks)", ylabel=ylabel, ylim=(-0.03, 1.03))
        axis.legend(frameon=False)
    ends = " and ".join(f"{name} from {e[0].value:.0%} to {e[-1].value:.0%}"
                        for name, e in curves.items())  # fmt: skip
    top = max(e.value for estimates in controls.values() for e in estimates)
    return figure, f"{ylabel} rises with depth: {ends}; the control stays at or below {top:.0%}."


def capabilities(live: Mapping[str, Mapping[str, Estimate]], bars: Mapping[str, object],
                 ) -> tuple[Figure, str]:  # fmt: skip
    """Accuracy per capability and model with 95 % intervals; a tick marks what was asked for."""
    kinds = list(bars)
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 4.2))
        for shift, style, (name, found) in zip((-0.14, 0.14), STYLES, live.items(), strict=True):
            y = [i + shift for i in range(len(kinds))]
            values = [found[kind].value for kind in kinds]
            spread = [[v - found[k].low for v, k in zip(values, kinds, strict=True)],
                      [found[k].high - v for v, k in zip(values, kinds, strict=True)]]  # fmt: skip
            axis.errorbar(values, y, xerr=spread, label=name, color=style["color"],
                          marker=style["marker"], linestyle="none", capsize=3)  # fmt: skip
        for i, bar in enumerate(bars.values()):
            for edge in bar if isinstance(bar, tuple) else (bar,):
                axis.plot([edge, edge], [i - 0.35, i + 0.35], color=GREY, linewidth=2)
        axis.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
        axis.invert_yaxis()
        axis.set(xlabel="accuracy (for 'persona uncued': mean probability)", xlim=(0.3, 1.02))
        axis.legend(frameon=False, loc="lower left")
    lowest = "; ".join(
        f"{name}'s lowest accuracy is {min(v.value for k, v in found.items() if k != 'persona_uncued'):.0%}"
        for name, found in live.items()
    )
    return figure, f"Accuracy on held-out questions with intervals beside each bar: {lowest}."
