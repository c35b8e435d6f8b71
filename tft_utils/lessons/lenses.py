"""Lesson 04, lenses: its exercises, and figures of what a model would say after k of its blocks."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import DEPTH, GREY, Drawn, Map, arrow, canvas, each, listed, style, write
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
    states = expect_tensor(attempt(r, A, b), r.shape, "states")
    if close(states, translate(r, A, b)):
        return
    if not torch.allclose(attempt(r, torch.zeros_like(A), torch.zeros_like(b)), r):
        raise Wrong(
            "with A and b zero the states must come out as they are: the translator adds to r, so that "
            "it starts as a logit lens"
        )
    mistakes = {
        "states are rows here, so A r for every row is r @ A.T; you use A itself": r + r @ A + b,
        "you leave out b": r + r @ A.T,
    }
    refuse(states, mistakes, "the result is not r + A r + b at every position")


def check_bits_per_byte(attempt) -> None:
    text, nats = "is wolof señor", torch.tensor([math.log(2) * 6, math.log(2) * 7])
    bits = torch.tensor(float(attempt(nats, text)))
    mistakes = {  # what 13 bits on 6 and 7 bytes would give
        "you leave nats as they are; a bit is log 2 nats, so divide by it": math.log(2),
        "you multiply by log 2; a nat is more than a bit, so divide": math.log(2) ** 2,
        "you count the bytes of the first word too, but nothing predicts it": 13 / 15,
        "you leave out the spaces; each belongs to the word after it": 13 / 11,
        "you count characters; 'ñ' is two bytes, see `text.encode()`": 13 / 12,
        "you average over words; sum their nats, then divide by bytes": 1 / 2,
        "you divide by words, not by bytes": 13 / 2,
    }
    due = "13 bits on ' wolof' and ' señor', which are 6 and 7 bytes, make 1 bit per byte"
    wrong = {hint: torch.tensor(value) for hint, value in mistakes.items()}
    expect_equal(bits, torch.tensor(1.0), "bits", wrong, f"{due}; you find {bits:.4f}")


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


LENSES = ({"linestyle": "-", "marker": "o"}, {"linestyle": "--", "marker": "s"}, plots.THIN)
PUBLISHED = {"pythia-1.4b": style("transformer"), "mamba-1.4b": style("mamba"), "rwkv-1b5": style("rwkv")}
Lines = Mapping[str, Mapping[str, Sequence[Estimate]]]  # of each panel, and an estimate for each depth


def early_exits() -> Drawn:
    """A sketch: the stream of one word, and a translator, norm and unembedding at every depth."""
    figure, (axis,) = canvas((9, 3.1), (-1.2, 9), (-0.5, 2.15))
    colour = style("mamba")["color"]
    for k, said in enumerate(("sang", "the", "Dovella", "Dovella")):
        x, last, i = 2.6 * k, k == 3, "₀₁₂₃"[k]
        write(axis, x, 0, f"r{i}", fontsize=13, style="italic")
        arrow(axis, (x, 0.2), (x, 1.75), color=GREY if last else colour)
        if not last:
            arrow(axis, (x + 0.3, 0), (x + 2.35, 0))
            write(axis, x + 1.3, -0.3, f"block {k}", fontsize=10)
            write(axis, x, 0.62, f"r{i} + A{i} r{i} + b{i}", style="italic", color=colour, edge=colour)
        write(axis, x, 1.2, "U n(·)", style="italic", edge=GREY)
        write(axis, x, 1.95, said, fontsize=12, weight="bold")
    write(axis, 0, -0.3, "embedding", fontsize=10)
    return figure, (
        "After every block a word's stream leaves through a translator, the final norm and the "
        "unembedding; after the last block there is no translator, and the model speaks."
    )


def trajectories(rows: Mapping[str, Trajectory]) -> Drawn:
    """Per row the likeliest next word in every cell and its probability as colour; depth grows upwards,
    the words that the last row reads stand below."""
    depths = [len(row.chances) for row in rows.values()]
    grid = {
        name: Map(row.chances, (), row.words, row.guesses, origin="lower") for name, row in rows.items()
    }
    names = "probability of the word in the cell", "word read", "k"
    look = {"size": (9.4, 0.3 * sum(depths) / len(depths) + 0.6), "height_ratios": depths, "sharex": True}
    figure, _ = plots.maps(grid, *names, columns=1, **look)
    said = []
    for name, (_, guesses, _) in rows.items():
        last = guesses[-1][-1]
        first = settled([row[-1] == last for row in guesses])
        said.append(f"{name} says '{last}' from k = {first} of {len(guesses) - 1} on")
    return figure, f"After the last word, {' and '.join(said)}."


def lens_curves(models: Lines, ylabel: str) -> Drawn:
    """Per model, in its colour, a line for each lens with its 95 % band; the third is thin and grey."""

    def look(model: str, lens: str, at: int) -> dict:
        return style(model) | {"markersize": 5} | LENSES[at]

    figure, _ = plots.curves(models, DEPTH, ylabel, look, ylim=(0, None))
    said = each(models, lambda e: f"{e[0].value:.2f} at k = 0, {e[len(e) // 2].value:.2f} half-way")
    return figure, f"{ylabel[0].upper() + ylabel[1:]} by depth. {said}."


def transfer_maps(maps: Mapping[str, Tensor], ylabel: str) -> Drawn:
    """What translator i costs at depth j beyond j's own: per model a map [i j] on one scale."""
    most = max(float(costs.max()) for costs in maps.values())
    grid, said = {name: Map(costs, origin="lower") for name, costs in maps.items()}, []
    names = f"extra {ylabel}", "read at depth k", "translator of depth k (last: none)"
    figure, _ = plots.maps(grid, *names, (0, most), size=(4.7, 4.1))
    for name, costs in maps.items():
        near, far = float(costs.diagonal(1)[:-1].mean()), float(costs[0, 1:-1].mean())
        said.append(f"{name}: {near:.2f} one depth too early, {far:.2f} with the embedding's")
    return figure, f"Mean cost of a foreign translator, in {ylabel}. {'; '.join(said)}."


def knowing(kinds: Lines) -> Drawn:
    """Per kind of question a line for each model, the share answered rightly at each depth; lines that
    are named '<model>, control' are thin and grey."""
    names, size = ("depth k/L", "share of questions answered"), (9.4 / len(kinds), 3.9)
    figure, _ = plots.curves(kinds, *names, size=size, ylim=(-0.03, 1.03))
    half = {
        kind: {name: line[len(line) // 2] for name, line in lines.items() if ", " not in name}
        for kind, lines in kinds.items()
    }
    return figure, f"Share of the questions that are answered half-way, {listed(half, '.0%')}."


def beside_published(sources: Mapping[str, Mapping[str, Mapping[str, tuple]]]) -> Drawn:
    """Per source and model the excess over the model's own cross-entropy, on a log axis, of the logit
    lens and the tuned lens: (depths, bits per byte)."""
    lines = {}
    for title, models in sources.items():
        lines[title] = {
            f"{model}, {lens.removesuffix(' lens')}": dict(zip(x, y, strict=True))
            for model, lenses in models.items()
            for lens, (x, y) in lenses.items()
        }

    def look(title: str, label: str, at: int) -> dict:
        model = label.partition(",")[0]
        dash = {"linestyle": "-" if at % 2 else ":", "markersize": 3}
        return (PUBLISHED.get(model) or style(model)) | dash

    ylabel = "excess over the model itself (bits per byte)"
    figure, axes = plots.curves(lines, DEPTH, ylabel, look, size=(4.7, 4.6))
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    said = each(sources, lambda lenses: " then ".join(f"{y[0]:.1f}" for _, y in lenses.values()))
    alt = "Excess over the model at the first depth, in bits per byte, of the logit and then the tuned"
    return figure, f"{alt} lens: {said}."
