"""Lesson 03, relevance_propagation: two rules of LRP, and removing the words it points at."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from tft_utils.course.exercises import Wrong, close, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, band, panels, style
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
    truth = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    found = expect_tensor(attempt(x), x.shape, "the scaled x")
    if not close(found, truth):
        unit = F.normalize(x, dim=-1)
        mistakes = {
            "you subtract the mean; the root mean square is taken of x as it is": F.layer_norm(x, (6,)),
            "you divide by the length of x; take the mean of the squares, not their sum": unit,
        }
        refuse(found, mistakes, "the values are not x over its root mean square, over the last axis")
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
        found = expect_tensor(attempt(x, y), x.shape, "the new output")
        if found.isnan().any():
            raise Wrong("at x = 0 you divide 0 by 0 and get nan; give the slope a finite value there")
        if not close(found, y):
            raise Wrong(f"the values must stay those of y, here of {name}(x); only the slope changes")
        kept, plain = _relevance(found, x), _relevance(phi(x), x)
        if close(kept[x != 0], plain[x != 0]):
            own = f"the gradient is still {name}'s own derivative"
            raise Wrong(f"{own}; the factor y / x must be a constant: detach it")
        if not close(kept, y):
            raise Wrong("x times the slope must be y: every unit hands on exactly what it received")


def check_remove_most(attempt) -> None:
    embeddings = torch.arange(15.0).reshape(5, 3)
    relevance, baseline = torch.tensor([0.5, -3.0, 2.0, 1.0, 9.0]), torch.tensor([-1.0, -2.0, -3.0])

    def without(*rows: int) -> Tensor:
        changed = embeddings.clone()
        changed[list(rows)] = baseline
        return changed

    before = embeddings.clone()
    found = expect_tensor(attempt(embeddings, relevance, 2, baseline), embeddings.shape, "the prompt")
    if not torch.equal(embeddings, before):
        raise Wrong("you write into the embeddings that you were given; work on a clone")
    if torch.equal(found, without(2, 3)):
        if not torch.equal(attempt(embeddings, relevance, 0, baseline), embeddings):
            raise Wrong("with k = 0 nothing is removed")
        return
    mistakes = {
        "you remove the last word; it asks the question and always stays": without(4, 2),
        "you remove the least relevant words first": without(1, 0),
        "you go by the size of the relevance; its sign counts too: a word against the answer must not "
        "go first": without(1, 2),
        "you put zeros there; put `baseline`": without(2, 3).masked_fill(without(2, 3) < 0, 0),
        "you remove one word, whatever k is": without(2),
    }
    refuse(found, mistakes, "replace exactly the k words with the largest relevance, the last one aside")


def handed_back() -> tuple[Figure, str]:
    """A sketch of conservation: one number, shared out anew at each depth, always the same sum."""
    rows = {  # label -> words and their shares
        "the answer's logit": {"f": 10},
        "after the last block": {"is": 10},
        "half-way": {"Zabar": 4, "of": 1, "is": 4, "biases": 1},
        "the words": {"The": 0.8, "capital": 2.2, "of": 0.8, "Zabar": 4, "is": 0.8, "biases": 1.4},
    }
    figure, ((axis,),) = panels(1, 1, (9, 2.9))
    arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6}
    for y, (label, owners) in enumerate(rows.items()):
        left = 0.0
        for word, width in owners.items():
            ink, line = BLUE if word == "Zabar" else GREY, ":" if word == "biases" else "-"
            look = {"height": 0.62, "color": "white", "edgecolor": ink, "linewidth": 1.8}
            axis.barh(-y, width, left=left, linestyle=line, **look)
            axis.text(left + width / 2, -y, word, ha="center", va="center", color=ink)
            left += width
        axis.text(-0.2, -y, label, ha="right", va="center")
        if y:
            axis.annotate("", (10.3, -y), (10.3, 1 - y), arrowprops=arrow)
    axis.text(10.5, -1.5, "backward", rotation=270, va="center", color=GREY)
    axis.set(xlim=(-3.2, 11), ylim=(-3.5, 0.5))
    axis.axis("off")
    return figure, (
        "Four bars of one length: the answer's logit, then the same amount shared out among more "
        "words and a little for biases, down to the words of the prompt."
    )


class Reading(NamedTuple):
    """One prompt, and what each model's explanation gives its words as shares of the explained."""

    title: str
    words: Sequence[str]
    shares: Mapping[str, Tensor]  # model -> [word]
    causes: Sequence[int]


def _maps(rows: int, columns: int, size: tuple[float, float], shares: Iterable[Tensor], **options):
    """Panels for maps of shares, and how to draw a map: one scale of colours, white at 0, for all."""
    figure, axes = panels(rows, columns, size, **options)
    for axis in axes.flat:
        axis.grid(visible=False)
    most = max(float(values.abs().max()) for values in shares)
    return figure, axes, {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "aspect": "auto"}


def word_shares(readings: Sequence[Reading]) -> tuple[Figure, str]:
    """Prompts as rows of coloured words, one row a model; a dot marks each known cause."""
    models, tops = list(readings[0].shares), []
    size = (9.4, (0.95 + 0.3 * len(models)) * max(1.3, len(readings)))
    values = (shares for prompt in readings for shares in prompt.shares.values())
    figure, axes, look = _maps(len(readings), 1, size, values)
    for axis, prompt in zip(axes[:, 0], readings, strict=True):
        image = axis.imshow([prompt.shares[name].tolist() for name in models], **look)
        for row, name in enumerate(models):
            for at, value in enumerate(prompt.shares[name].tolist()):
                ink = "white" if abs(value) > look["vmax"] / 2 else "black"
                said = f"{value:+.2f}".replace("0.", ".")
                axis.text(at, row, said, fontsize=8.5, color=ink, ha="center", va="center")
        marked = [f"• {word}" if at in prompt.causes else word for at, word in enumerate(prompt.words)]
        axis.set_xticks(range(len(marked)), marked, fontsize=9)
        axis.set_yticks(range(len(models)), models, fontsize=9)
        axis.set_xlabel(" ", fontsize=3)
        axis.tick_params(length=0)
        axis.set_title(prompt.title, fontsize=10, loc="left")
        axis.spines[:].set_visible(False)
        top = [f"'{prompt.words[int(prompt.shares[name].argmax())]}' for {name}" for name in models]
        tops.append(" and ".join(top))
    figure.colorbar(image, ax=axes, label="share of the explained number", shrink=0.7)
    return figure, f"The word with the largest share, prompt by prompt: {'; '.join(tops)}."


def by_depth(words: Sequence[str], shares: Mapping[str, Tensor]) -> tuple[Figure, str]:
    """Where the explained number stands after k blocks: per model a map [k word] of shares."""
    size, said = (4.7 * len(shares), 4.2), []
    figure, axes, look = _maps(1, len(shares), size, shares.values(), sharex=True)
    for axis, (name, depths) in zip(axes[0], shares.items(), strict=True):
        image = axis.imshow(depths.tolist(), origin="lower", **look)
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=9)
        axis.set_yticks(range(0, len(depths), 2))
        axis.set(title=name, xlabel="position")
        k = int((depths[:, -1] > 0.5).float().argmax())
        said.append(f"{name} holds more than half there from k = {k} of {len(depths) - 1}")
    axes[0, 0].set_ylabel("blocks applied, k")
    figure.colorbar(image, ax=axes, label="share of the explained number")
    return figure, f"Relevance moves to the last word as blocks are applied: {' and '.join(said)}."


Curves = tuple[Sequence[Estimate], Sequence[Estimate]]  # the most relevant words first, the least first
OTHERS = ({"linestyle": "-.", "marker": "^"}, {"linestyle": ":", "marker": "v"})


def removals(measured: Mapping[str, Mapping[str, Curves]], ylabel: str) -> tuple[Figure, str]:
    """The explained number while words go: model -> method -> curves. The first method is in colour
    with 95 % bands, at most two others are thin and grey."""
    size, said = (4.7 * len(measured), 3.8), []
    figure, axes = panels(1, len(measured), size, sharex=True, sharey=True)
    for axis, (model, methods) in zip(axes[0], measured.items(), strict=True):
        (method, (most, least)), *others = methods.items()
        x = [j / (len(most) - 1) for j in range(len(most))]
        for which, dashes, line in (("most", "-", most), ("least", "--", least)):
            look = style(model) | {"linestyle": dashes}
            band(axis, x, line, f"{method}, {which} relevant first", **look)
        for look, (other, lines) in zip(OTHERS, others, strict=False):
            for label, line in zip((f"{other}, both", None), lines, strict=True):
                thin = {"color": GREY, "linewidth": 1, "markersize": 4}
                axis.plot(x, [e.value for e in line], label=label, **thin, **look)
        gap = sum(b.value - a.value for a, b in zip(most, least, strict=True)) / len(x)
        said.append(f"{model} {gap:.1f}")
        axis.set(title=model, xlabel="share of the words removed")
        axis.legend(frameon=False, fontsize=8.5, loc="upper right")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set(ylabel=ylabel, ylim=(low, high + 0.35 * (high - low)))  # room for the legend
    return figure, (
        f"Removing the most relevant words first breaks the answer sooner than removing "
        f"the least relevant first; mean gap in logits: {', '.join(said)}."
    )
