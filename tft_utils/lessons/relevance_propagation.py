"""Lesson 03, relevance_propagation: two rules of LRP, and removing the words it points at."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong
from tft_utils.course.plots import GREY, RC, STYLES
from tft_utils.stats import Estimate


def constant_scale(x, eps=1e-5):
    """x [... d] over its root mean square, which counts as a constant: linear in x."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * scale.detach()


def identity_rule(x, y):
    """y = phi(x), elementwise, rewritten as x times a constant: the values of y, the slope y / x."""
    slope = torch.where(x == 0, 0.0, y / x)
    return x * slope.detach()


def remove_most(embeddings, relevance, k, baseline):
    """A copy of embeddings [pos d_model] with `baseline` [d_model] at the k most relevant words.

    relevance: [pos]. The last word always stays, because it asks the question.
    """
    gone = relevance[:-1].argsort(descending=True)[:k]
    changed = embeddings.clone()
    changed[gone] = baseline
    return changed


def _tensor(found: object, shape: torch.Size, what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if found.shape != shape:
        raise Wrong(f"expected {what} of shape {tuple(shape)}, found {tuple(found.shape)}")
    return found


def _relevance(f: Tensor, x: Tensor) -> Tensor:
    """x df/dx for a graph that leads from x to f."""
    if not f.requires_grad:
        raise Wrong("no gradient reaches x: detach the factor, and leave x itself in the graph")
    (gradient,) = torch.autograd.grad(f.sum(), x)
    return x.detach() * gradient


@torch.enable_grad()
def check_constant_scale(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 4, 6, generator=draw) + 1).requires_grad_()
    truth = (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()).detach()
    found = _tensor(attempt(x), x.shape, "the scaled x")
    if not torch.allclose(found, truth, atol=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        if torch.allclose(found, centred / centred.square().mean(-1, keepdim=True).sqrt(), atol=1e-3):
            raise Wrong("you subtract the mean; the root mean square is taken of x as it is")
        if torch.allclose(found, x / x.square().sum(-1, keepdim=True).sqrt(), atol=1e-3):
            raise Wrong("you divide by the length of x; take the mean of the squares, not their sum")
        raise Wrong("the values are not x over its root mean square, taken over the last axis")
    total, f = _relevance(found, x).sum(-1), found.detach().sum(-1)
    if torch.allclose(total, torch.zeros_like(total), atol=1e-3):
        raise Wrong(
            "the values are right, but the gradient still knows that the scale depends on x, so the "
            "relevance of each vector sums to 0; detach the scale"
        )
    if not torch.allclose(total, f, rtol=1e-3, atol=1e-3):
        raise Wrong("the relevance of x does not sum to what comes out; only the scale is constant")
    small = torch.full((1, 4), 1e-3)
    if not torch.allclose(attempt(small, 1e-2), small / (1e-6 + 1e-2) ** 0.5, rtol=1e-3):
        raise Wrong("you leave out `eps`, which is added to the mean of the squares before the root")


@torch.enable_grad()
def check_identity_rule(attempt) -> None:
    for name, phi in (("GELU", F.gelu), ("SiLU", F.silu)):
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]).requires_grad_()
        y = phi(x)
        found = _tensor(attempt(x, y), x.shape, "the new output")
        if found.isnan().any():
            raise Wrong("at x = 0 you divide 0 by 0 and get nan; give the slope a finite value there")
        if not torch.allclose(found, y):
            raise Wrong(f"the values must stay those of y, here of {name}(x); only the slope changes")
        kept, plain = _relevance(found, x), _relevance(phi(x), x)
        if torch.allclose(kept[x != 0], plain[x != 0]):
            raise Wrong(
                f"the gradient is still {name}'s own derivative; the factor y / x must be a constant: "
                "detach it"
            )
        if not torch.allclose(kept, y.detach(), atol=1e-6):
            raise Wrong("x times the slope must be y: every unit hands on exactly what it received")


def check_remove_most(attempt) -> None:
    embeddings = torch.arange(15.0).reshape(5, 3)
    relevance, baseline = torch.tensor([0.5, -3.0, 2.0, 1.0, 9.0]), torch.tensor([-1.0, -2.0, -3.0])

    def without(*rows: int) -> Tensor:
        changed = embeddings.clone()
        changed[list(rows)] = baseline
        return changed

    before = embeddings.clone()
    found = _tensor(attempt(embeddings, relevance, 2, baseline), embeddings.shape, "the prompt")
    if not torch.equal(embeddings, before):
        raise Wrong("you write into the embeddings that you were given; work on a clone")
    mistakes = {
        "you remove the last word; it asks the question and always stays": without(4, 2),
        "you remove the least relevant words first": without(1, 0),
        "you go by the size of the relevance; its sign counts too: a word against the answer must not "
        "go first": without(1, 2),
        "you put zeros there; put `baseline`": without(2, 3).masked_fill(without(2, 3) < 0, 0),
        "you remove one word, whatever k is": without(2),
    }
    if torch.equal(found, without(2, 3)):
        if not torch.equal(attempt(embeddings, relevance, 0, baseline), embeddings):
            raise Wrong("with k = 0 nothing is removed")
        return
    for mistake, wrong in mistakes.items():
        if torch.equal(found, wrong):
            raise Wrong(mistake)
    raise Wrong("replace exactly the k words with the largest relevance, the last word aside")


def handed_back() -> tuple[Figure, str]:
    """A sketch of conservation: one number, shared out anew at each depth, always the same sum."""
    rows = {  # label -> words and their shares
        "the answer's logit": {"f": 10},
        "after the last block": {"is": 10},
        "half-way": {"Zabar": 4, "of": 1, "is": 4, "biases": 1},
        "the words": {"The": 0.8, "capital": 2.2, "of": 0.8, "Zabar": 4, "is": 0.8, "biases": 1.4},
    }
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 2.9))
    for y, (label, parts) in enumerate(rows.items()):
        left = 0.0
        for word, width in parts.items():
            ink = STYLES[0]["color"] if word == "Zabar" else GREY
            axis.barh(
                -y,
                width,
                left=left,
                height=0.62,
                color="white",
                edgecolor=ink,
                linestyle=":" if word == "biases" else "-",
                linewidth=1.8,
            )
            axis.text(left + width / 2, -y, word, ha="center", va="center", color=ink)
            left += width
        axis.text(-0.2, -y, label, ha="right", va="center")
        if y:
            arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6}
            axis.annotate("", (10.3, -y), (10.3, 1 - y), arrowprops=arrow)
    axis.text(10.5, -1.5, "backward", rotation=270, va="center", color=GREY)
    axis.set(xlim=(-3.2, 11), ylim=(-3.5, 0.5))
    axis.axis("off")
    alt = (
        "Four bars of one length: the answer's logit, then the same amount shared out among more "
        "words and a little for biases, down to the words of the prompt."
    )
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
                axis.text(
                    at,
                    row,
                    f"{value:+.2f}".replace("0.", "."),
                    fontsize=8.5,
                    color=ink,
                    ha="center",
                    va="center",
                )
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


def removals(
    panels: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]], ylabel: str
) -> tuple[Figure, str]:
    """The explained number while words go: per model and method (most first, least first). The first
    method is in colour with 95 % bands, the others are thin and grey."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.4, 3.8), sharex=True, sharey=True)
    said, greys = [], ({"linestyle": "-.", "marker": "^"}, {"linestyle": ":", "marker": "v"})
    for axis, style, (model, methods) in zip(axes, STYLES, panels.items(), strict=True):
        (method, lines), *others = methods.items()
        x = [j / (len(lines[0]) - 1) for j in range(len(lines[0]))]
        for which, dashes, line in zip(("most", "least"), ("-", "--"), lines, strict=True):
            axis.plot(
                x,
                [e.value for e in line],
                **style | {"linestyle": dashes},
                label=f"{method}, {which} relevant first",
            )
            axis.fill_between(
                x,
                [e.low for e in line],
                [e.high for e in line],
                color=style["color"],
                alpha=0.2,
                linewidth=0,
            )
        for look, (other, lines_of) in zip(greys, others, strict=False):
            for label, line in zip((f"{other}, both", None), lines_of, strict=True):
                axis.plot(
                    x, [e.value for e in line], color=GREY, linewidth=1, markersize=4, label=label, **look
                )
        gap = sum(b.value - a.value for a, b in zip(*lines, strict=True)) / len(x)
        said.append(f"{model} {gap:.1f}")
        axis.set(title=model, xlabel="share of the words removed")
        axis.legend(frameon=False, fontsize=8.5, loc="upper right")
    low, high = axes[0].get_ylim()
    axes[0].set(ylabel=ylabel, ylim=(low, high + 0.35 * (high - low)))  # room for the legend
    return figure, (
        f"Removing the most relevant words first breaks the answer sooner than removing "
        f"the least relevant first; mean gap in logits: {', '.join(said)}."
    )
