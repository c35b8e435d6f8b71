"""Lesson 03, relevance_propagation: two rules of LRP, and removing the words it points at."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, Drawn, Map, arrow, canvas, style, write
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
    found, unit = attempt(x), F.normalize(x, dim=-1)
    mistakes = {
        "you subtract the mean; the root mean square is taken of x as it is": F.layer_norm(x, (6,)),
        "you divide by the length of x; take the mean of the squares, not their sum": unit,
    }
    otherwise = "the values are not x over its root mean square, over the last axis"
    expect_equal(found, truth, "the scaled x", mistakes, otherwise)
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


def handed_back() -> Drawn:
    """A sketch of conservation: one number, shared out anew at each depth, always the same sum."""
    rows = {  # label -> words and their shares
        "the answer's logit": {"f": 10},
        "after the last block": {"is": 10},
        "half-way": {"Zabar": 4, "of": 1, "is": 4, "biases": 1},
        "the words": {"The": 0.8, "capital": 2.2, "of": 0.8, "Zabar": 4, "is": 0.8, "biases": 1.4},
    }
    figure, (axis,) = canvas((9, 2.9), (-3.2, 11), (-3.5, 0.5))
    for y, (label, owners) in enumerate(rows.items()):
        left = 0.0
        for word, width in owners.items():
            ink, line = BLUE if word == "Zabar" else GREY, ":" if word == "biases" else "-"
            look = {"height": 0.62, "color": "white", "edgecolor": ink, "linewidth": 1.8}
            axis.barh(-y, width, left=left, linestyle=line, **look)
            write(axis, left + width / 2, -y, word, color=ink)
            left += width
        write(axis, -0.2, -y, label, ha="right")
        if y:
            arrow(axis, (10.3, 1 - y), (10.3, -y))
    write(axis, 10.7, -1.5, "backward", rotation=270, color=GREY)
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


SHARE = "share of the explained number"


def word_shares(readings: Sequence[Reading]) -> Drawn:
    """Prompts as rows of coloured words, one row a model; a dot marks each known cause."""
    grid, tops = {}, []
    for title, words, shares, causes in readings:
        values = torch.stack([row.cpu() for row in shares.values()])
        cells = [[f"{share:+.2f}".replace("0.", ".") for share in row] for row in values.tolist()]
        marked = [f"• {word}" if at in causes else word for at, word in enumerate(words)]
        grid[title] = Map(values, list(shares), marked, cells)
        top = [f"'{words[int(row.argmax())]}' for {name}" for name, row in shares.items()]
        tops.append(" and ".join(top))
    size = (9.4, max(2.8, (0.95 + 0.3 * len(shares)) * len(grid)) / len(grid))
    figure, axes = plots.maps(grid, SHARE, " ", "", _around_zero(grid), size=size, columns=1)
    for axis, title in zip(axes, grid, strict=True):
        axis.set_title("")
        axis.set_title(title, fontsize=10, loc="left")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure, f"The word with the largest share, prompt by prompt: {'; '.join(tops)}."


def by_depth(words: Sequence[str], shares: Mapping[str, Tensor]) -> Drawn:
    """Where the explained number stands after k blocks: per model a map [k word] of shares."""
    grid = {
        name: Map(depths.cpu(), columns=words, turn=90, origin="lower") for name, depths in shares.items()
    }
    names, scale = (SHARE, "position", "blocks applied, k"), _around_zero(grid)
    figure, _ = plots.maps(grid, *names, scale, size=(4.7, 4.2))
    said = " and ".join(
        f"{name} holds more than half there from k = {int((depths[:, -1] > 0.5).float().argmax())} "
        f"of {len(depths) - 1}"
        for name, depths in shares.items()
    )
    return figure, f"Relevance moves to the last word as blocks are applied: {said}."


def _around_zero(grid: Mapping[str, Map]) -> tuple[float, float]:
    most = max(float(shown.values.abs().max()) for shown in grid.values())
    return -most, most


Curves = tuple[Sequence[Estimate], Sequence[Estimate]]  # the most relevant words first, the least first


def removals(measured: Mapping[str, Mapping[str, Curves]], ylabel: str) -> Drawn:
    """The explained number while words go: model -> method -> curves. The first method is in colour
    with 95 % bands, at most two others are thin and grey."""
    lines, gaps = {}, []
    for model, methods in measured.items():
        lines[model] = {
            f"{method}, {which} relevant first": line if at == 0 else plots.plain(line)
            for at, (method, both) in enumerate(methods.items())
            for which, line in zip(("most", "least"), both, strict=True)
        }
        most, least, *_ = map(plots.plain, lines[model].values())
        gap = (sum(least) - sum(most)) / len(most)
        gaps.append(f"{model} {gap:.1f}")

    def look(model: str, label: str, at: int) -> dict:
        own = style(model) if at < 2 else plots.THIN | {"marker": "^v"[at // 2 - 1]}
        return own | {"linestyle": "--" if at % 2 else "-"}

    figure, (axis, *_) = plots.curves(lines, "share of the words removed", ylabel, look)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.75 * (high - low) * bool(axis.get_legend()))  # room for the legend
    return figure, (
        f"Removing the most relevant words first breaks the answer sooner than removing "
        f"the least relevant first; mean gap in logits: {', '.join(gaps)}."
    )
