"""Lesson 04, lenses: the translator, the unit that every tokenizer shares, and when a model knows.

Figures of lesson 04: what a model would say after k of its blocks.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate


def translate(r, A, b):
    """The states r [pos d_model] after a translator A [d_model d_model], b [d_model]: r + A r + b."""
    return r + r @ A.T + b


def bits_per_byte(nats, text):
    """Nats of each word of `text` after its first, nats [word], as bits per UTF-8 byte of those words.

    Words are separated by single spaces, and a space belongs to the word that it comes before.
    """
    first = text.split()[0]
    n_bytes = len(text.encode()) - len(first.encode())
    return float(nats.sum()) / math.log(2) / n_bytes


def settled(right):
    """The first depth from which on an answer stays right, for right [k] (booleans, k = 0 ... L).

    None when it is wrong at the last depth.
    """
    depth = None
    for k in reversed(range(len(right))):
        if not right[k]:
            break
        depth = k
    return depth


def check_translate(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    r, A, b = (torch.randn(*shape, generator=draw) for shape in ((5, 3), (3, 3), (3,)))
    found = attempt(r, A, b)
    if not isinstance(found, Tensor) or found.shape != r.shape:
        shape = tuple(getattr(found, "shape", ()))
        raise Wrong(f"expected states of shape (5, 3), found {type(found).__name__} of shape {shape}")
    if torch.allclose(found, r + r @ A.T + b, atol=1e-5):
        return
    zeros = attempt(r, torch.zeros_like(A), torch.zeros_like(b))
    if not torch.allclose(zeros, r):
        raise Wrong(
            "with A and b zero the states must come out as they are: the translator adds to r, so that "
            "it starts as a logit lens"
        )
    if torch.allclose(found, r + r @ A + b, atol=1e-5):
        raise Wrong("states are rows here, so A r for every row is r @ A.T; you use A itself")
    if torch.allclose(attempt(r, A, torch.zeros_like(b)), found):
        raise Wrong("you leave out b")
    raise Wrong("the result is not r + A r + b at every position")


def check_bits_per_byte(attempt) -> None:
    text, nats = "is wolof señor", torch.tensor([math.log(2) * 6, math.log(2) * 7])
    found = float(attempt(nats, text))
    if abs(found - 1) < 1e-6:  # 13 bits for ' wolof' and ' señor', which are 6 and 7 bytes
        return
    mistakes = {
        "you leave nats as they are; a bit is log 2 nats, so divide by it": math.log(2),
        "you multiply by log 2; a nat is more than a bit, so divide": math.log(2) ** 2,
        "you count the bytes of the first word too, but nothing predicts it": 13 / 15,
        "you leave out the spaces; each belongs to the word after it": 13 / 11,
        "you count characters; 'ñ' is two bytes, see `text.encode()`": 13 / 12,
        "you average over words; sum their nats, then divide by bytes": 1 / 2,
        "you divide by words, not by bytes": 13 / 2,
    }
    for mistake, value in mistakes.items():
        if abs(found - value) < 1e-4:
            raise Wrong(mistake)
    raise Wrong(
        f"13 bits on ' wolof' and ' señor', which are 6 and 7 bytes, make 1 bit per byte; you find "
        f"{found:.4f}"
    )


def check_settled(attempt) -> None:
    T, F = True, False
    for right, depth in (([F, F, T, T], 2), ([T, F, T, T], 2), ([F, F, F, T], 3), ([T, T, T], 0)):
        found = attempt(right)
        if found == depth and found is not None:
            continue
        if found == right.index(True):
            raise Wrong(
                f"for {right} you give {found}, the first time it is right; it must also stay right"
            )
        raise Wrong(f"for {right} expected {depth}, found {found}")
    for right in ([T, T, F], [F, F]):
        if (found := attempt(right)) is not None:
            raise Wrong(f"for {right} the model's own answer is wrong: return None, not {found}")


DEPTH = "depth k/L (blocks applied / all blocks)"
DASHES = ("-", "--", ":")  # first, second and third line of a panel
MARKERS = ("o", "s", "^")


def early_exits() -> tuple[Figure, str]:
    """A sketch: the stream of one word, and a translator, norm and unembedding at every depth."""
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 3.1))
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 2, "shrinkB": 2}
    lens = arrow | {"color": STYLES[1]["color"]}
    for k, said in enumerate(("sang", "the", "Dovella", "Dovella")):
        x, last = 2.6 * k, k == 3
        axis.text(x, 0, f"$r_{k}$", ha="center", va="center", fontsize=13)
        if not last:
            axis.annotate("", (x + 2.35, 0), (x + 0.3, 0), arrowprops=arrow)
            axis.text(x + 1.3, -0.32, f"block {k}", ha="center", fontsize=10)
        axis.annotate("", (x, 1.75), (x, 0.2), arrowprops=arrow if last else lens)
        if not last:
            axis.text(
                x,
                0.62,
                f"$r_{k} + A_{k} r_{k} + b_{k}$",
                ha="center",
                va="center",
                fontsize=10.5,
                color=STYLES[1]["color"],
                bbox={"facecolor": "white", "edgecolor": STYLES[1]["color"]},
            )
        axis.text(
            x,
            1.2,
            "$U\\,n(\\cdot)$",
            ha="center",
            va="center",
            fontsize=11,
            bbox={"facecolor": "white", "edgecolor": GREY},
        )
        axis.text(x, 1.95, said, ha="center", va="center", fontsize=12, weight="bold")
    axis.text(0, -0.32, "embedding", ha="center", fontsize=10)
    axis.set(xlim=(-1.2, 9), ylim=(-0.5, 2.15))
    axis.axis("off")
    alt = (
        "After every block a word's stream leaves through a translator, the final norm and the "
        "unembedding; after the last block there is no translator, and the model speaks."
    )
    return figure, alt


def trajectories(
    panels: Mapping[str, tuple[Sequence[Sequence[str]], Tensor]], words: Sequence[str]
) -> tuple[Figure, str]:
    """Per panel the likeliest next word in every cell and its probability as colour: (guesses, chances
    [k pos]); depth grows upwards, the words read stand below."""
    depths = [len(chances) for _, chances in panels.values()]
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(
            len(panels),
            1,
            figsize=(9.4, 0.3 * sum(depths) + 1.3),
            squeeze=False,
            height_ratios=depths,
            sharex=True,
        )
    said = []
    for axis, (name, (guesses, chances)) in zip(axes[:, 0], panels.items(), strict=True):
        image = axis.imshow(
            chances.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower"
        )
        for k, row in enumerate(guesses):
            for at, word in enumerate(row):
                ink = "black" if chances[k, at] > 0.6 else "white"
                axis.text(at, k, word, ha="center", va="center", fontsize=8.5, color=ink)
        axis.set_yticks(range(0, len(chances), 2))
        axis.set(ylabel="k")
        axis.set_title(name, fontsize=11, loc="left")
        last = guesses[-1][-1]
        first = next(k for k in range(len(guesses)) if all(row[-1] == last for row in guesses[k:]))
        said.append(f"{name} says '{last}' from k = {first} of {len(guesses) - 1} on")
    axes[-1, 0].set_xticks(range(len(words)), words, fontsize=9.5)
    axes[-1, 0].set_xlabel("word read")
    figure.colorbar(image, ax=axes, label="probability of the word in the cell", shrink=0.8)
    return figure, f"After the last word, {' and '.join(said)}."


def lens_curves(
    panels: Mapping[str, Mapping[str, Sequence[Estimate]]],
    ylabel: str,
    styles: Sequence[Mapping] = STYLES,
) -> tuple[Figure, str]:
    """Per model, in its style, a line for each lens over k/L, with 95 % bands; a third line is thin
    and grey."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 3.7), sharex=True, sharey=True)
    said = []
    for axis, style, (model, lines) in zip(axes, styles, panels.items(), strict=True):
        for i, (name, line) in enumerate(lines.items()):
            x = [k / (len(line) - 1) for k in range(len(line))]
            colour = GREY if i == 2 else style["color"]
            axis.plot(
                x,
                [e.value for e in line],
                color=colour,
                linestyle=DASHES[i],
                label=name,
                marker=MARKERS[i],
                markersize=3 if i == 2 else 5,
            )
            axis.fill_between(
                x, [e.low for e in line], [e.high for e in line], color=colour, alpha=0.2, linewidth=0
            )
            said.append(
                f"{model}, {name}: {line[0].value:.2f} at k = 0, "
                f"{line[len(line) // 2].value:.2f} half-way"
            )
        axis.set(title=model, xlabel=DEPTH)
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylim(0, None)
    axes[0].set_ylabel(ylabel)
    return figure, f"{ylabel[0].upper() + ylabel[1:]} by depth. {'; '.join(said)}."


def transfer_maps(panels: Mapping[str, Tensor], ylabel: str) -> tuple[Figure, str]:
    """What translator i costs at depth j beyond j's own: per model a map [i j] on one scale."""
    most = max(float(each.max()) for each in panels.values())
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 4.1))
    said = []
    for axis, (name, each) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(each.numpy(), cmap="viridis", vmin=0, vmax=most, origin="lower")
        axis.set(title=name, xlabel="read at depth k")
        n = len(each) - 1
        axis.set_xticks(range(0, n + 1, 2), range(0, n + 1, 2))
        axis.set_yticks(range(0, n + 1, 2), range(0, n + 1, 2))
        near = float(each.diagonal(1)[:-1].mean())
        far = float(each[0, 1:-1].mean())
        said.append(f"{name}: {near:.2f} one depth too early, {far:.2f} with the embedding's")
    axes[0].set_ylabel("translator of depth k (last: none)")
    figure.colorbar(image, ax=axes, label=f"extra {ylabel}", shrink=0.8)
    return figure, f"Mean cost of a foreign translator, in {ylabel}. {'; '.join(said)}."


def knowing(panels: Mapping[str, Mapping[str, Sequence[Estimate]]]) -> tuple[Figure, str]:
    """Per kind of question and model the share answered rightly at each depth; any further lines are
    controls, thin and grey."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 3.6), sharex=True, sharey=True)
    said = []
    for axis, (kind, lines) in zip(axes, panels.items(), strict=True):
        for i, (name, line) in enumerate(lines.items()):
            x = [k / (len(line) - 1) for k in range(len(line))]
            look = (
                STYLES[i]
                if i < 2
                else {"color": GREY, "linestyle": ":", "marker": "^", "linewidth": 1, "markersize": 3}
            )
            axis.plot(x, [e.value for e in line], label=name, **look)
            axis.fill_between(
                x,
                [e.low for e in line],
                [e.high for e in line],
                color=look["color"],
                alpha=0.2 if i < 2 else 0.1,
                linewidth=0,
            )
            if i < 2:
                said.append(f"{kind}, {name} {line[len(line) // 2].value:.0%}")
        axis.set(title=kind, xlabel="depth k/L", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share of questions answered")
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure, f"Share of the questions that are answered half-way: {'; '.join(said)}."


def beside_published(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> tuple[Figure, str]:
    """Excess over the model's own cross-entropy on a log axis: per panel and model (depths, bits per
    byte) for 'logit' and 'tuned'; panels: {title: {model: {lens: (x, y)}}}."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 4.1), sharex=True, sharey=True)
    said, looks = [], [*STYLES, {"color": GREY, "marker": "^"}]
    for axis, (title, models) in zip(axes, panels.items(), strict=True):
        for look, (model, lenses) in zip(looks, models.items(), strict=False):
            for dash, (lens, (x, y)) in zip((":", "-"), lenses.items(), strict=True):
                axis.plot(
                    x,
                    y,
                    color=look["color"],
                    marker=look["marker"],
                    linestyle=dash,
                    markersize=3,
                    label=f"{model}, {lens.removesuffix(' lens')}",
                )
            first, second = (y[0] for _, y in lenses.values())
            said.append(f"{title}, {model}: {first:.1f} then {second:.1f}")
        axis.set(title=title, xlabel=DEPTH, yscale="log")
        axis.legend(frameon=False, fontsize=8.5)
    axes[0].set_ylabel("excess over the model itself (bits per byte)")
    return figure, (
        f"At its first depth a tuned lens is closer to the model than a logit lens in every "
        f"model. Excess in bits per byte: {'; '.join(said)}."
    )
