"""Lesson 04, lenses: its exercises, and figures of what a model would say after k of its blocks."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, band, panels, style
from tft_utils.stats import Estimate
from tft_utils.techniques.lenses import Trajectory


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
    if not torch.allclose(attempt(r, torch.zeros_like(A), torch.zeros_like(b)), r):
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
    due = "13 bits on ' wolof' and ' señor', which are 6 and 7 bytes, make 1 bit per byte"
    raise Wrong(f"{due}; you find {found:.4f}")


def check_settled(attempt) -> None:
    T, F = True, False
    for right, depth in (([F, F, T, T], 2), ([T, F, T, T], 2), ([F, F, F, T], 3), ([T, T, T], 0)):
        found = attempt(right)
        if found != depth and found == right.index(True):
            raise Wrong(f"for {right} you give {found}, the first time it is right; it must also stay so")
        if found != depth:
            raise Wrong(f"for {right} expected {depth}, found {found}")
    for right in ([T, T, F], [F, F]):
        if (found := attempt(right)) is not None:
            raise Wrong(f"for {right} the model's own answer is wrong: return None, not {found}")


DEPTH = "depth k/L (blocks applied / all blocks)"
THIN = {"color": GREY, "linestyle": ":", "marker": "^", "linewidth": 1, "markersize": 3}
LENSES = ({"linestyle": "-", "marker": "o"}, {"linestyle": "--", "marker": "s"}, THIN)
PUBLISHED = {"pythia-1.4b": style("transformer"), "mamba-1.4b": style("mamba"), "rwkv-1b5": THIN}
Lines = Mapping[str, Mapping[str, Sequence[Estimate]]]  # of each panel, and an estimate for each depth


def early_exits() -> tuple[Figure, str]:
    """A sketch: the stream of one word, and a translator, norm and unembedding at every depth."""
    figure, ((axis,),) = panels(1, 1, (9, 3.1))
    colour, middle = style("mamba")["color"], {"ha": "center", "va": "center"}
    plain, coloured = ({"facecolor": "white", "edgecolor": edge} for edge in (GREY, colour))
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": GREY, "shrinkA": 2, "shrinkB": 2}
    for k, said in enumerate(("sang", "the", "Dovella", "Dovella")):
        x, last, i = 2.6 * k, k == 3, "₀₁₂₃"[k]
        axis.text(x, 0, f"r{i}", fontsize=13, style="italic", **middle)
        axis.annotate("", (x, 1.75), (x, 0.2), arrowprops=arrow | ({} if last else {"color": colour}))
        if not last:
            axis.annotate("", (x + 2.35, 0), (x + 0.3, 0), arrowprops=arrow)
            axis.text(x + 1.3, -0.32, f"block {k}", ha="center", fontsize=10)
            moved = f"r{i} + A{i} r{i} + b{i}"
            axis.text(x, 0.62, moved, style="italic", color=colour, bbox=coloured, **middle)
        axis.text(x, 1.2, "U n(·)", style="italic", bbox=plain, **middle)
        axis.text(x, 1.95, said, fontsize=12, weight="bold", **middle)
    axis.text(0, -0.32, "embedding", ha="center", fontsize=10)
    axis.set(xlim=(-1.2, 9), ylim=(-0.5, 2.15))
    axis.axis("off")
    alt = (
        "After every block a word's stream leaves through a translator, the final norm and the "
        "unembedding; after the last block there is no translator, and the model speaks."
    )
    return figure, alt


def trajectories(rows: Mapping[str, Trajectory]) -> tuple[Figure, str]:
    """Per row the likeliest next word in every cell and its probability as colour; depth grows upwards,
    the words that the last row reads stand below."""
    n = [len(row.chances) for row in rows.values()]
    figure, axes = panels(len(rows), 1, (9.4, 0.3 * sum(n) + 1.3), height_ratios=n, sharex=True)
    said = []
    for axis, (name, (_, guesses, chances)) in zip(axes[:, 0], rows.items(), strict=True):
        image = axis.imshow(chances.numpy(), "viridis", aspect="auto", vmin=0, vmax=1, origin="lower")
        for k, row in enumerate(guesses):
            for at, word in enumerate(row):
                ink = "black" if chances[k, at] > 0.6 else "white"
                axis.text(at, k, word, ha="center", va="center", fontsize=8.5, color=ink)
        axis.set(ylabel="k", yticks=range(0, len(chances), 2))
        axis.set_title(name, fontsize=11, loc="left")
        axis.grid(False)
        last = guesses[-1][-1]
        first = next(k for k in range(len(guesses)) if all(row[-1] == last for row in guesses[k:]))
        said.append(f"{name} says '{last}' from k = {first} of {len(guesses) - 1} on")
    *_, lowest = rows.values()
    axes[-1, 0].set_xticks(range(len(lowest.words)), lowest.words, fontsize=9.5)
    axes[-1, 0].set_xlabel("word read")
    figure.colorbar(image, ax=axes, label="probability of the word in the cell", shrink=0.8)
    return figure, f"After the last word, {' and '.join(said)}."


def _depths(line: Sequence[Estimate]) -> list[float]:
    return [k / (len(line) - 1) for k in range(len(line))]


def lens_curves(models: Lines, ylabel: str) -> tuple[Figure, str]:
    """Per model, in its colour, a line for each lens with its 95 % band; the third is thin and grey."""
    figure, (axes,) = panels(1, len(models), (4.7 * len(models), 3.7), sharex=True, sharey=True)
    said = []
    for axis, (model, lines) in zip(axes, models.items(), strict=True):
        own = {"color": style(model)["color"], "markersize": 5}
        for look, (lens, line) in zip(LENSES, lines.items(), strict=False):
            band(axis, _depths(line), line, lens, **own | look)
            start, half = line[0].value, line[len(line) // 2].value
            said.append(f"{model}, {lens}: {start:.2f} at k = 0, {half:.2f} half-way")
        axis.set(title=model, xlabel=DEPTH)
        axis.legend(frameon=False, fontsize=9)
    axes[0].set(ylim=(0, None), ylabel=ylabel)
    return figure, f"{ylabel[0].upper() + ylabel[1:]} by depth. {'; '.join(said)}."


def transfer_maps(maps: Mapping[str, Tensor], ylabel: str) -> tuple[Figure, str]:
    """What translator i costs at depth j beyond j's own: per model a map [i j] on one scale."""
    most = max(float(costs.max()) for costs in maps.values())
    figure, (axes,) = panels(1, len(maps), (4.7 * len(maps), 4.1))
    said = []
    for axis, (name, costs) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(costs.numpy(), "viridis", vmin=0, vmax=most, origin="lower")
        ticks = range(0, len(costs), 2)
        axis.set(title=name, xlabel="read at depth k", xticks=ticks, yticks=ticks)
        axis.grid(False)
        near, far = float(costs.diagonal(1)[:-1].mean()), float(costs[0, 1:-1].mean())
        said.append(f"{name}: {near:.2f} one depth too early, {far:.2f} with the embedding's")
    axes[0].set_ylabel("translator of depth k (last: none)")
    figure.colorbar(image, ax=axes, label=f"extra {ylabel}", shrink=0.8)
    return figure, f"Mean cost of a foreign translator, in {ylabel}. {'; '.join(said)}."


def knowing(kinds: Lines) -> tuple[Figure, str]:
    """Per kind of question a line for each model, the share answered rightly at each depth; lines that
    are named '<model>, ...' are controls, thin and grey."""
    figure, (axes,) = panels(1, len(kinds), (3.13 * len(kinds), 3.6), sharex=True, sharey=True)
    said = []
    for axis, (kind, lines) in zip(axes, kinds.items(), strict=True):
        for name, line in lines.items():
            band(axis, _depths(line), line, name, **THIN if ", " in name else style(name))
            if ", " not in name:
                said.append(f"{kind}, {name} {line[len(line) // 2].value:.0%}")
        axis.set(title=kind, xlabel="depth k/L", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share of questions answered")
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure, f"Share of the questions that are answered half-way: {'; '.join(said)}."


def beside_published(sources: Mapping[str, Mapping[str, Mapping[str, tuple]]]) -> tuple[Figure, str]:
    """Per source and model the excess over the model's own cross-entropy, on a log axis, of the logit
    lens and the tuned lens: (depths, bits per byte)."""
    figure, (axes,) = panels(1, len(sources), (4.7 * len(sources), 4.1), sharex=True, sharey=True)
    said = []
    for axis, (title, models) in zip(axes, sources.items(), strict=True):
        for model, lenses in models.items():
            look = PUBLISHED.get(model) or style(model)
            for dash, (lens, (x, y)) in zip((":", "-"), lenses.items(), strict=True):
                label = f"{model}, {lens.removesuffix(' lens')}"
                own = look | {"linestyle": dash, "markersize": 3, "linewidth": 1.5}
                axis.plot(x, y, label=label, **own)
            logit, tuned = (y[0] for _, y in lenses.values())
            said.append(f"{title}, {model}: {logit:.1f} then {tuned:.1f}")
        axis.set(title=title, xlabel=DEPTH, yscale="log")
        axis.legend(frameon=False, fontsize=8.5)
    axes[0].set_ylabel("excess over the model itself (bits per byte)")
    alt = (
        "Excess over the model at the first depth, in bits per byte, of the logit and then the tuned lens"
    )
    return figure, f"{alt}: {'; '.join(said)}."
