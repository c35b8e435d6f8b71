"""Figures: a result goes in, a figure and its alt text come out; `show` puts both on the page.

House style. The first model is blue, solid, round; the second vermilion, dashed, square (Okabe &
Ito 2008), so that colour is never the only difference. The background is opaque white: figures stay
legible on dark pages. The models of a pair always share their axes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from torch import Tensor

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
    """The figure as PNG bytes, the same on every run: no software name, no date.

    A palette of 256 colours makes it a third as large, and looks the same.
    """
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
    least = {name: min(e.value for kind, e in found.items() if kind != "persona_uncued")
             for name, found in live.items()}  # fmt: skip
    lowest = "; ".join(f"{name}'s lowest accuracy is {value:.0%}" for name, value in least.items())
    return figure, f"Accuracy on held-out questions with intervals beside each bar: {lowest}."


def two_blocks() -> tuple[Figure, str]:
    """One block of each machine, from the residual stream at the bottom to what it adds."""
    stacks = {  # where the past comes in stands third
        "One block of the Transformer": (
            ["norm", "query, key, value", "weights: softmax(q · k)", "weighted sum of values",
             "project back"], ["norm", "MLP"], (4.3, 5.3), "keys, values\nof every\nword",
        ),
        "One block of Mamba": (
            ["norm, project", "convolution, SiLU: u", "state: keep, write B, read C",
             "+ D u, × gate", "project back"], ["norm, project: z", "gate: SiLU(z)"], (2.45, 3.5),
            "one state\nof fixed\nsize",
        ),
    }  # fmt: skip
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.4))
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 0, "shrinkB": 0}
    for axis, style, (title, stack) in zip(axes, STYLES, stacks.items(), strict=True):
        main, side, joins, past = stack
        axis.set(xlim=(-1.3, 5.4), ylim=(-0.9, 5.9), title=title)
        axis.axis("off")
        for x, boxes in ((1.6, main), (4.3, side)):
            for y, text in enumerate(boxes):
                edge = style["color"] if y == 2 else GREY
                axis.annotate("", (x, y + 0.2), (x, y - 0.2), arrowprops=arrow)
                axis.text(x, y + 0.5, text, ha="center", va="center", fontsize=10, bbox={
                    "boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": edge,
                    "linewidth": 1.8})  # fmt: skip
        axis.annotate("", (1.6, 5.3), (1.6, 4.8), arrowprops=arrow)
        bend = "arc3" if joins[0] == 4.3 else "angle,angleA=90,angleB=0"
        axis.annotate("", joins, (4.3, 1.8), arrowprops=arrow | {"connectionstyle": bend})
        axis.text(-0.75, 2.95, past, ha="center", fontsize=10, color=style["color"])
        axis.annotate("", (-0.12, 2.5), (-1.25, 2.5), arrowprops=arrow | {"color": style["color"]})
        for y, text in ((-0.5, "residual stream of this word"), (5.55, "added to the stream")):
            axis.text(2.8, y, text, ha="center", va="center", fontsize=10.5, weight="bold")
    alt = ("Two block diagrams: the Transformer's past enters at the softmax, from the keys and "
           "values of every word; Mamba's enters through one state of fixed size.")  # fmt: skip
    return figure, alt


def kept_numbers(lengths: Sequence[int], kept: Mapping[str, Sequence[int]], crossing: int,
                 ) -> tuple[Figure, str]:  # fmt: skip
    """How many numbers each model carries from a text, against the text's length in words."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7, 3.4))
    for style, (name, numbers) in zip(STYLES, kept.items(), strict=True):
        axis.plot(lengths, [n / 1000 for n in numbers], label=name, **style)
    axis.axvline(crossing, color=GREY, linestyle=":", linewidth=1.5)
    axis.text(crossing + 1, axis.get_ylim()[1] * 0.93, f"{crossing} words", color=GREY)
    axis.set(xlabel="length of the text (words)", ylabel="numbers kept (thousands)", ylim=(0, None))
    axis.legend(frameon=False)
    ends = " and ".join(f"{name} keeps {n[0]:,} to {n[-1]:,} numbers" for name, n in kept.items())
    return figure, f"From {lengths[0]} to {lengths[-1]} words {ends}; they cross at {crossing} words."


def along_sentence(words: Sequence[str], steps: Tensor, norms: Tensor) -> tuple[Figure, str]:
    """Two maps [layer word]: step size against the layer's mean (log2), state length (share of
    the layer's largest)."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(2, 1, figsize=(8.6, 4.8), sharex=True)
    most = float(steps.abs().max())
    maps = ((steps, "step size, in doublings\nagainst the layer's mean", "RdBu_r", -most, most),
            (norms, "length of the state,\nshare of its largest", "viridis", 0, 1))  # fmt: skip
    for axis, (values, label, colours, low, high) in zip(axes, maps, strict=True):
        image = axis.imshow(values.numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto")
        figure.colorbar(image, ax=axis, label=label)
        axis.set_yticks(range(0, len(values), 3))
        axis.set_ylabel("block")
    axes[1].set_xticks(range(len(words)), words, rotation=45, ha="right")
    axes[1].set_xlabel("word read")
    jump = (norms[:, 1:] - norms[:, :-1]).max(0).values.argmax() + 1
    return figure, (f"The step size moves by at most {most:.2f} doublings within a block, while a "
                    f"state's length jumps at the word '{words[jump]}'.")  # fmt: skip


def at_word(words: Sequence[str], steps: Tensor, norms: Tensor, at: int) -> tuple[Figure, str]:
    """One column of `along_sentence`: every block's step size at a word, its state until then."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    steps, norms = steps.numpy(), norms.numpy()
    blocks, most = range(len(steps)), float(abs(steps).max())
    axes[0].barh(blocks, steps[:, at], color=STYLES[1]["color"])
    axes[0].set(xlim=(-most, most), xlabel="step size (doublings against the mean)", ylabel="block",
                yticks=blocks)  # fmt: skip
    axes[0].invert_yaxis()
    for values in norms:
        axes[1].plot(range(at + 1), values[: at + 1], color=STYLES[1]["color"], alpha=0.5)
    axes[1].plot([at] * len(norms), norms[:, at], color=STYLES[1]["color"], marker="s", linestyle="")
    for block, value in enumerate(norms[:, at]):
        axes[1].text(at + 0.35 + block % 3 * 0.6, value, str(block), fontsize=8, va="center")
    axes[1].set(xlim=(-0.5, len(words) - 0.5), ylim=(0, 1.05), xlabel="word read",
                ylabel="length of the state, share of its largest")  # fmt: skip
    axes[1].set_xticks(range(len(words)), words, rotation=45, ha="right", fontsize=9)
    axes[1].get_xticklabels()[at].set_weight("bold")
    largest = int(norms[:, at].argmax())
    return figure, (f"At word {at + 1}, '{words[at]}', the state of block {largest} is closest to its "
                    f"largest length, {norms[:, at].max():.0%} of it.")  # fmt: skip


def horizons(spread: Mapping[str, Tensor], longest: int) -> tuple[Figure, str]:
    """Memory horizons in words: per model [5 layer], the quantiles 10, 25, 50, 75 and 90 %."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 3.8))
    looks = ((STYLES[1]["color"], "s", -0.16), (GREY, "o", 0.16))
    for (colour, marker, shift), (name, rows) in zip(looks, spread.items(), strict=True):
        rows = rows.numpy()
        y = [layer + shift for layer in range(rows.shape[1])]
        axis.hlines(y, rows[0], rows[4], color=colour, linewidth=1.2)
        axis.hlines(y, rows[1], rows[3], color=colour, linewidth=5, alpha=0.45)
        axis.plot(rows[2], y, color=colour, marker=marker, linestyle="", label=name)
    axis.set(xscale="log", ylabel="block", yticks=range(rows.shape[1]),
             xlabel="words until a memory falls below 1/e (middle 50 % thick, middle 80 % thin)")
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64) if t <= longest]
    axis.set_xticks(ticks, [f"{t}+" if t == longest else str(t) for t in ticks])
    axis.xaxis.minorticks_off()
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    medians = "; ".join(f"{name}: medians from {rows[2].min():.0f} to {rows[2].max():.0f} words"
                        for name, rows in spread.items())  # fmt: skip
    shortest = min(int(rows[0].min()) for rows in spread.values())
    return figure, f"The middle 80 % of memories last {shortest} to over {longest} words; {medians}."


def effect_by_block(panels: Mapping[str, tuple[Sequence[Estimate], Tensor]], ylabel: str,
                    ) -> tuple[Figure, str]:  # fmt: skip
    """Per panel an estimate a block, before the 95 % range [2 layer] of the same with shuffled labels."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.4), sharex=True, sharey=True)
    outside = []
    for axis, (name, (found, band)) in zip(axes, panels.items(), strict=True):
        blocks, values = range(len(found)), [e.value for e in found]
        axis.use_sticky_edges = False  # room below the lowest bar
        axis.bar(blocks, (band[1] - band[0]).numpy(), bottom=band[0].numpy(), color="#CCCCCC", width=0.7,
                 label="shuffled labels, 95 %")  # fmt: skip
        axis.axhline(0, color=GREY, linewidth=1)
        axis.errorbar(blocks, values, color=STYLES[1]["color"], marker="s", linestyle="", capsize=3,
                      yerr=[[e.value - e.low for e in found], [e.high - e.value for e in found]],
                      label="true labels, naive 95 %")  # fmt: skip
        axis.set(title=name, xlabel="block", xticks=blocks)
        beyond = sum(not low <= v <= high for v, low, high in zip(values, *band.tolist(), strict=True))
        outside.append(f"{name}, {beyond} of {len(found)} blocks")
    axes[0].set_ylabel(ylabel)
    axes[0].legend(frameon=False, fontsize=9)
    return figure, f"The effect leaves the range of shuffled labels in: {'; '.join(outside)}."


def frozen_parts(shares: Mapping[str, Mapping[str, Estimate]]) -> tuple[Figure, str]:
    """Per kind of document and frozen part the share of right words, with 95 % intervals."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(shares), figsize=(9, 2.6), sharex=True, sharey=True)
    look = STYLES[1] | {"linestyle": "", "capsize": 3}
    for axis, (kind, found) in zip(axes, shares.items(), strict=True):
        values = [e.value for e in found.values()]
        spread = [[e.value - e.low for e in found.values()], [e.high - e.value for e in found.values()]]
        axis.errorbar(values, range(len(found)), xerr=spread, **look)
        axis.set(title=kind.replace("_", " "), xlim=(-0.05, 1.05), xlabel="share right")
        axis.set_yticks(range(len(found)), found)
    axes[0].set(ylim=(len(found) - 0.5, -0.5), ylabel="held at its mean")
    said = "; ".join(f"{kind}: " + ", ".join(f"{part} {e.value:.0%}" for part, e in found.items())
                     for kind, found in shares.items())  # fmt: skip
    return figure, f"Share of right words with each part held at its mean. {said}."


def two_ways_to_read() -> tuple[Figure, str]:
    """A weight in each machine: one score there, a path through the state here."""
    words = ["mila", "red", ".", "mila"]
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.2), sharey=True)
    for axis, title in zip(axes, ("Transformer: a weight is a score",
                                  "Mamba: a weight is a path"), strict=True):  # fmt: skip
        axis.set(xlim=(-0.6, 3.9), ylim=(-0.4, 2.6), title=title)
        axis.axis("off")
        for x, word in enumerate(words):
            axis.text(x, 0, word, ha="center", va="center", fontsize=13)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.2, "color": GREY, "shrinkA": 3, "shrinkB": 3}
    for x in range(4):
        bold = {"color": STYLES[0]["color"], "linewidth": 2.6} if x == 1 else {}
        axes[0].annotate("", (3, 1.6), (x, 0.2), arrowprops=arrow | bold)
    axes[0].text(3, 1.8, "softmax(q · k) times v", ha="center", color=STYLES[0]["color"])
    bold = {"color": STYLES[1]["color"], "linewidth": 2.6}
    for x in range(4):
        axes[1].annotate("", (x, 0.95), (x, 0.2), arrowprops=arrow | (bold if x == 1 else {}))
        axes[1].text(x, 1.2, "state", ha="center", va="center", fontsize=10, bbox={
            "boxstyle": "round", "facecolor": "white", "edgecolor": STYLES[1]["color"]})  # fmt: skip
        if x < 3:
            axes[1].annotate("", (x + 0.68, 1.2), (x + 0.32, 1.2),
                             arrowprops=arrow | (bold if x else {}))  # fmt: skip
            if x:
                axes[1].text(x + 0.5, 1.36, "keep", ha="center", fontsize=10, color=bold["color"])
    axes[1].annotate("", (3, 2.15), (3, 1.45), arrowprops=arrow | bold)
    axes[1].text(1.08, 0.55, "write B", fontsize=10, color=bold["color"])
    axes[1].text(3.08, 1.75, "read C", fontsize=10, color=bold["color"])
    axes[1].text(3.8, 2.3, "write · keep · keep · read, times u", ha="right", color=bold["color"])
    alt = ("Left: the last word has an arrow from each word, weighed by a score. Right: from the second "
           "word a path leads through write, keep, keep and read to the last word.")  # fmt: skip
    return figure, alt


def head_maps(maps: Sequence[Tensor], n_words: int) -> tuple[Figure, str]:
    """A small map [query source] for each head of each layer; maps: [head query source] a layer."""
    heads = len(maps[0])
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(heads, len(maps), figsize=(9.2, 6.4), sharex=True, sharey=True)
    for layer, column in enumerate(axes.T):
        for head, axis in enumerate(column):
            image = axis.imshow(maps[layer][head], vmin=0, vmax=1, cmap="viridis")
            axis.set_title(f"block {layer}, head {head}", fontsize=9)
            axis.tick_params(labelsize=8)
        column[-1].set_xlabel("source word", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("query word", fontsize=9)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    back = [float(each.diagonal(-1).mean()) for layer in maps for each in layer]
    return figure, (f"Maps of {len(back)} heads on a text of {n_words} words. Number of heads with most "
                    f"weight on the word before: {sum(b > 0.5 for b in back)}.")  # fmt: skip


def lag_maps(profiles: Tensor, periods: Sequence[int], labels: Sequence[str]) -> tuple[Figure, str]:
    """Profiles [period unit lag] as one map a period, rows labelled, the same scale for all."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(periods), figsize=(9.2, 5.6), sharey=True)
    for axis, period, profile in zip(axes, periods, profiles, strict=True):
        image = axis.imshow(profile, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set(title=f"text repeats after {period} words", xlabel="lag (words back)")
        axis.set_xticks(range(0, profile.shape[-1], 2))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axes[0].set_ylabel("block, head")
    figure.colorbar(image, ax=axes, label="mean attention weight")
    peaks = profiles.argmax(-1)
    strong = profiles.amax(-1).amin(0) > 0.5
    moved = (strong & (peaks[1] - peaks[0] == periods[1] - periods[0])).sum()
    return figure, (f"Mean attention of {len(labels)} heads by lag: in {int(moved)} heads with a strong "
                    f"peak it moves when the period goes from {periods[0]} to {periods[1]}.")  # fmt: skip


def by_block(found: Mapping[str, Sequence[float]], controls: Mapping[str, Sequence[float]],
             ylabel: str) -> tuple[Figure, str]:  # fmt: skip
    """A value per block and model over relative depth; controls are thin and grey."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7.4, 3.6))
    for style, (name, values) in zip(STYLES, found.items(), strict=True):
        x = [i / (len(values) - 1) for i in range(len(values))]
        axis.plot(x, values, label=name, **style)
        axis.plot(x, controls[name], label=f"{name}, control",
                  **style | {"color": GREY, "linewidth": 1, "markersize": 3})  # fmt: skip
    axis.set(xlabel="block / last block", ylabel=ylabel, ylim=(-0.03, 1.03))
    axis.legend(frameon=False)
    peaks = " and ".join(f"{name} at block {max(range(len(v)), key=v.__getitem__)} with {max(v):.0%}"
                         for name, v in found.items())  # fmt: skip
    top = max(value for values in controls.values() for value in values)
    return figure, f"{ylabel} peaks for {peaks}; the control stays at or below {top:.0%}."


def around(panels: Mapping[str, Mapping[str, Sequence[float]]], offsets: Sequence[int],
           ) -> tuple[Figure, str]:  # fmt: skip
    """Per panel the mean weight at positions around the match: a raw map, then a better one."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.4), sharex=True, sharey=True)
    said = []
    raw = {"color": GREY, "linestyle": ":", "marker": "^"}
    for axis, better, (name, lines) in zip(axes, STYLES, panels.items(), strict=True):
        axis.axvline(0, color="#BBBBBB", linewidth=1.5)
        for style, (kind, values) in zip((raw, better), lines.items(), strict=True):
            axis.plot(offsets, values, label=kind, **style)
            peak = offsets[max(range(len(offsets)), key=values.__getitem__)]
            said.append(f"{name}, {kind}: {peak:+d}")
        axis.set(title=name, xlabel="source, words after the match", xticks=offsets, ylim=(0, None))
        axis.legend(frameon=False, fontsize=9, loc="upper left")
    axes[0].set_ylabel("share of the row")
    return figure, f"Position of the peak against the word to copy: {'; '.join(said)}."


def compared(found: Mapping[str, Mapping[str, Estimate]], xlabel: str, xlim: tuple[float, float],
             ) -> tuple[Figure, str]:  # fmt: skip
    """Estimates with 95 % intervals: a row for each condition, a marker for each series."""
    conditions = list(next(iter(found.values())))
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.5 * len(conditions)))
    looks = [*STYLES, {"color": GREY, "marker": "^"}]
    for i, (look, (name, row)) in enumerate(zip(looks, found.items(), strict=False)):
        y = [k + 0.18 * (i - (len(found) - 1) / 2) for k in range(len(conditions))]
        values = [row[condition] for condition in conditions]
        axis.errorbar([e.value for e in values], y, color=look["color"], marker=look["marker"],
                      linestyle="", capsize=3, label=name, xerr=[[e.value - e.low for e in values],
                      [e.high - e.value for e in values]])  # fmt: skip
    axis.set_yticks(range(len(conditions)), conditions)
    axis.set(xlabel=xlabel, xlim=xlim, ylim=(len(conditions) - 0.5, -0.5))
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0)
    said = "; ".join(f"{name}: " + ", ".join(f"{condition} {row[condition].value:.2f}"
                     for condition in conditions) for name, row in found.items())  # fmt: skip
    return figure, f"{xlabel[0].upper() + xlabel[1:]} with intervals. {said}."


def word_maps(words: Sequence[str], maps: Mapping[str, Tensor], label: str) -> tuple[Figure, str]:
    """Maps [query source] over the same words, side by side: non-negative ones on one scale from 0,
    signed ones on one scale around 0. The first word has one source only and may exceed the scale."""
    most = max(float(each[1:].abs().max()) for each in maps.values())
    signed = any(bool((each < 0).any()) for each in maps.values())
    colours, low = ("RdBu_r", -most) if signed else ("viridis", 0)
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(maps), figsize=(4.6 * len(maps) + 0.6, 4.6), sharey=True,
                                    squeeze=False)  # fmt: skip
    said = []
    for axis, (name, each) in zip(axes[0], maps.items(), strict=True):
        image = axis.imshow(each, cmap=colours, vmin=low, vmax=most)
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
        axis.set_yticks(range(len(words)), words, fontsize=8)
        axis.set(title=name, xlabel="source")
        source = int(each[-1].abs().argmax())
        said.append(f"{name}'s strongest source is '{words[source]}', word {source + 1}")
    axes[0][0].set_ylabel("query")
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure, f"For the last word '{words[-1]}', {' and '.join(said)}."


def handed_back() -> tuple[Figure, str]:
    """A sketch of conservation: one number, shared out anew at each depth, always the same sum."""
    rows = {  # label -> words and their shares
        "the answer's logit": {"f": 10}, "after the last block": {"is": 10},
        "half-way": {"Zabar": 4, "of": 1, "is": 4, "biases": 1},
        "the words": {"The": 0.8, "capital": 2.2, "of": 0.8, "Zabar": 4, "is": 0.8, "biases": 1.4},
    }  # fmt: skip
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 2.9))
    for y, (label, parts) in enumerate(rows.items()):
        left = 0.0
        for word, width in parts.items():
            ink = STYLES[0]["color"] if word == "Zabar" else GREY
            axis.barh(-y, width, left=left, height=0.62, color="white", edgecolor=ink,
                      linestyle=":" if word == "biases" else "-", linewidth=1.8)  # fmt: skip
            axis.text(left + width / 2, -y, word, ha="center", va="center", color=ink)
            left += width
        axis.text(-0.2, -y, label, ha="right", va="center")
        if y:
            arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6}
            axis.annotate("", (10.3, -y), (10.3, 1 - y), arrowprops=arrow)
    axis.text(10.5, -1.5, "backward", rotation=270, va="center", color=GREY)
    axis.set(xlim=(-3.2, 11), ylim=(-3.5, 0.5))
    axis.axis("off")
    alt = ("Four bars of one length: the answer's logit, then the same amount shared out among more "
           "words and a little for biases, down to the words of the prompt.")  # fmt: skip
    return figure, alt


class Reading(NamedTuple):
    """One prompt, and what each model's explanation gives its words as shares of the explained."""

    title: str
    words: Sequence[str]
    shares: Mapping[str, Tensor]  # model -> [word]
    causes: Sequence[int]


def word_shares(readings: Sequence[Reading]) -> tuple[Figure, str]:
    """Prompts as rows of coloured words, one row a model; a dot marks each known cause."""
    most = max(float(each.abs().max()) for one in readings for each in one.shares.values())
    models, size = list(readings[0].shares), (9.4, 1.55 * max(1.3, len(readings)))
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(len(readings), 1, figsize=size, squeeze=False)
    said = []
    for axis, one in zip(axes[:, 0], readings, strict=True):
        values = [one.shares[name].tolist() for name in models]
        image = axis.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        for row, line in enumerate(values):
            for at, value in enumerate(line):
                ink = "white" if abs(value) > most / 2 else "black"
                axis.text(at, row, f"{value:+.2f}".replace("0.", "."), fontsize=8.5, color=ink,
                          ha="center", va="center")  # fmt: skip
        marked = [f"• {word}" if at in one.causes else word for at, word in enumerate(one.words)]
        axis.set_xticks(range(len(marked)), marked, fontsize=9)
        axis.set_yticks(range(len(models)), models, fontsize=9)
        axis.set_xlabel(" ", fontsize=3)
        axis.tick_params(length=0)
        axis.set_title(one.title, fontsize=10, loc="left")
        axis.spines[:].set_visible(False)
        tops = [f"'{one.words[int(one.shares[name].argmax())]}' for {name}" for name in models]
        said.append(" and ".join(tops))
    figure.colorbar(image, ax=axes, label="share of the explained number", shrink=0.7)
    return figure, f"The word with the largest share, prompt by prompt: {'; '.join(said)}."


def by_depth(words: Sequence[str], shares: Mapping[str, Tensor]) -> tuple[Figure, str]:
    """Where the explained number stands after k blocks: per model a map [k word] of shares."""
    most = max(float(each.abs().max()) for each in shares.values())
    look = {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "aspect": "auto", "origin": "lower"}
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(shares), figsize=(9.4, 4.2), sharex=True)
    said = []
    for axis, (name, each) in zip(axes, shares.items(), strict=True):
        image = axis.imshow(each.tolist(), **look)
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=9)
        axis.set_yticks(range(0, len(each), 2))
        axis.set(title=name, xlabel="position")
        k = int((each[:, -1] > 0.5).float().argmax())
        said.append(f"{name} holds more than half there from k = {k} of {len(each) - 1}")
    axes[0].set_ylabel("blocks applied, k")
    figure.colorbar(image, ax=axes, label="share of the explained number")
    return figure, f"Relevance moves to the last word as blocks are applied: {' and '.join(said)}."


def removals(panels: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]],
             ylabel: str) -> tuple[Figure, str]:  # fmt: skip
    """The explained number while words go: per model and method (most first, least first). The first
    method is in colour with 95 % bands, the others are thin and grey."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 3.8), sharex=True, sharey=True)
    said, greys = [], ({"linestyle": "-.", "marker": "^"}, {"linestyle": ":", "marker": "v"})
    for axis, style, (model, methods) in zip(axes, STYLES, panels.items(), strict=True):
        (method, lines), *others = methods.items()
        x = [j / (len(lines[0]) - 1) for j in range(len(lines[0]))]
        for which, dashes, line in zip(("most", "least"), ("-", "--"), lines, strict=True):
            axis.plot(x, [e.value for e in line], **style | {"linestyle": dashes},
                      label=f"{method}, {which} relevant first")  # fmt: skip
            axis.fill_between(x, [e.low for e in line], [e.high for e in line],
                              color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
        for look, (other, lines_of) in zip(greys, others, strict=False):
            for label, line in zip((f"{other}, both", None), lines_of, strict=True):
                axis.plot(x, [e.value for e in line], color=GREY, linewidth=1, markersize=4,
                          label=label, **look)  # fmt: skip
        gap = sum(b.value - a.value for a, b in zip(*lines, strict=True)) / len(x)
        said.append(f"{model} {gap:.1f}")
        axis.set(title=model, xlabel="share of the words removed")
        axis.legend(frameon=False, fontsize=8.5, loc="upper right")
    low, high = axes[0].get_ylim()
    axes[0].set(ylabel=ylabel, ylim=(low, high + 0.35 * (high - low)))  # room for the legend
    return figure, (f"Removing the most relevant words first breaks the answer sooner than removing "
                    f"the least relevant first; mean gap in logits: {', '.join(said)}.")  # fmt: skip
