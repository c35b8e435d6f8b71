"""Lesson 05, linguistic_probing: a control task, distances in a tree, erasing a concept.

Figures of lesson 05: a result goes in, a figure and its alt text come out.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from tft_utils.course.exercises import Wrong, expect_tensor
from tft_utils.course.plots import GREY, RC, band, panels, style
from tft_utils.stats import Estimate


def control_task(causes, labels, seed):
    """One label for each distinct cause, drawn from `labels` [n]; the same wherever it stands: [n]."""
    draw = torch.Generator().manual_seed(seed)
    names = sorted(set(causes))
    drawn = labels[torch.randint(len(labels), (len(names),), generator=draw)]
    number = {name: i for i, name in enumerate(names)}
    return drawn[torch.tensor([number[cause] for cause in causes])]


def tree_distance(heads):
    """Edges between each two words of a tree [n n]; heads[i] is word i's head, None for the root."""
    distance = torch.full((len(heads), len(heads)), torch.inf).fill_diagonal_(0)
    for i, head in enumerate(heads):
        if head is not None:
            distance[i, head] = distance[head, i] = 1
    for k in range(len(heads)):  # is the way through word k shorter?
        distance = torch.minimum(distance, distance[:, k, None] + distance[k])
    return distance


def erase(x, z):
    """x [n d] without a linear trace of z [n], moved as little as possible."""
    centred = x - x.mean(0)
    a = centred.T @ (z - z.mean()) / len(x)  # covariance of x and z [d]
    b = torch.linalg.solve(centred.T @ centred / len(x), a)
    return x - (centred @ b / (a @ b))[:, None] * a


def check_control_task(attempt) -> None:
    causes = [f"word{i}" for i in range(400) for _ in range(3)]
    labels = (torch.arange(1200) % 10 == 0).long()  # one in ten
    found = expect_tensor(attempt(causes, labels, 0), (1200,), "the labels")
    by_cause = found.view(400, 3)
    if not (by_cause == by_cause[:, :1]).all():
        raise Wrong("the same cause has different labels in different places; draw once a cause")
    share = by_cause[:, 0].double().mean().item()
    if share == 0:
        raise Wrong("every cause has the most frequent label; draw at random among `labels`")
    if not 0.05 < share < 0.16:
        raise Wrong(
            f"a label that one item in ten has is drawn in {share:.2f} of the cases; draw from `labels` "
            "itself, so that frequent labels are drawn often"
        )
    if not torch.equal(found, attempt(causes, labels, 0)):
        raise Wrong("the same seed gives other labels; draw with a generator that has this seed")
    if torch.equal(found, attempt(causes, labels, 1)):
        raise Wrong("another seed gives the same labels; the draw must depend on `seed` alone")
    true = torch.arange(400).repeat_interleave(3) % 2
    if (attempt(causes, true, 0) == true).double().mean() > 0.7:
        raise Wrong("the labels are those the words have; a control must not know them")


def check_tree_distance(attempt) -> None:
    chain = expect_tensor(attempt([1, 2, None]), (3, 3), "the distances")
    if chain[0, 2] == 1 and chain[0, 1] == 1:
        raise Wrong(
            "word 0 hangs on word 1 and word 1 on word 2: from 0 to 2 there are two edges, you count 1"
        )
    if (chain.diagonal() != 0).any():
        raise Wrong("a word is at distance 0 from itself")
    if not torch.equal(chain, chain.T):
        raise Wrong("the way from i to j is as long as the way back; fill both halves")
    if not torch.isfinite(chain).all():
        raise Wrong("all words of a tree are connected, but some of your distances are infinite")
    heads = [1, 4, 1, 2, None, 4, 5]
    found = attempt(heads)
    truth = tree_distance(heads)
    if torch.equal(found.double(), (torch.arange(7)[:, None] - torch.arange(7)).abs().double()):
        raise Wrong("you count words between words; count edges of the tree")
    if not torch.equal(found.double(), truth.double()):
        i, j = (found != truth).nonzero()[0].tolist()
        raise Wrong(
            f"with heads {heads}, words {i} and {j} are {truth[i, j]:.0f} edges apart, you say "
            f"{float(found[i, j]):.0f}; go up from both words to where their ways meet"
        )


def check_erase(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.arange(400) % 2 * 2.0 - 1
    mix = torch.randn(5, 5, dtype=torch.float64, generator=draw)
    x = torch.randn(400, 5, dtype=torch.float64, generator=draw) @ mix + 3
    x = x + z[:, None] * torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0])
    before = x.clone()
    found = expect_tensor(attempt(x, z.double()), (400, 5), "the vectors")
    if not torch.equal(x, before):
        raise Wrong("you write into the vectors that you were given; return new ones")
    left = (found - found.mean(0)).T @ (z - z.mean()).double() / 400
    if not torch.allclose(found.mean(0), x.mean(0), atol=1e-6):
        raise Wrong("the mean of the vectors moves; work on x minus its mean, and keep the mean")
    if left.abs().max() > 1e-6:
        raise Wrong(
            f"z can still be read: the covariance of x and z is up to {left.abs().max():.2f} afterwards, "
            "not 0"
        )
    if torch.linalg.matrix_rank(found - found.mean(0)) < 4:
        raise Wrong("you remove more than one direction; z is a single number and needs one")
    moved = (found - x).square().sum()
    least = (erase(x, z.double()) - x).square().sum()
    if moved > least * 1.001:
        raise Wrong(
            f"z is gone, but you move the vectors {(moved / least).sqrt():.1f} times as far as you have "
            "to; read z along the covariance's inverse times a, and subtract along a"
        )


CAUSE, PROBED = (style(name)["color"] for name in ("transformer", "mamba"))
LOOKS = [
    style(name) for name in ("transformer", "mamba", "mamba-tied")
]  # of three conditions of one model


def where_probes_read() -> tuple[Figure, str]:
    """The cause, the word that is probed, and the three places to read at it."""
    words = "The keys near the old cabinet that the boy likes are ...".split()
    with plt.rc_context(RC | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(9, 2.3))
    axis.set(xlim=(-0.6, 11.6), ylim=(-0.75, 2.1))
    axis.axis("off")
    for x, word in enumerate(words):
        colour = {1: CAUSE, 9: PROBED}.get(x, "black")
        axis.text(
            x, 0, word, ha="center", fontsize=12, color=colour, weight="bold" if x in (1, 9) else "normal"
        )
    axis.text(1, -0.5, "the cause: plural", ha="center", color=CAUSE)
    axis.text(5.5, -0.5, "other nouns try to mislead", ha="center", color=GREY)
    axis.text(9, -0.5, "the probed word", ha="center", color=PROBED)
    places = (
        "residual stream\nafter k blocks",
        "what a block's\nmixer adds",
        "the state that\na layer carries",
    )
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": PROBED}
    for x, place in zip((5.6, 8, 10.4), places, strict=True):
        arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.5}
        axis.annotate("", (x, 1.2), (9, 0.4), arrowprops=arrow)
        axis.text(x, 1.65, place, ha="center", va="center", bbox=box)
    axis.text(
        2.2, 1.65, "A probe: a linear map from\none such vector to 'plural'", ha="center", va="center"
    )
    alt = (
        "A sentence whose subject is far from its verb; a probe reads the subject's number at the "
        "word before the verb, in the stream, in a mixer's output, or in a state."
    )
    return figure, alt


def by_depth(
    tasks: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]], ylabel: str
) -> tuple[Figure, str]:
    """A panel a task: per model the accuracy at every depth, and its control thin and grey.

    tasks: title -> model -> (accuracy, control), one estimate a depth.
    """
    rows, columns = (2, -(-len(tasks) // 2)) if len(tasks) > 2 else (1, len(tasks))
    figure, axes = panels(
        rows, columns, (9.4 if rows > 1 else 7, 1.4 + 2.1 * rows), sharex=True, sharey=True
    )
    for axis, (title, models) in zip(axes.flat, tasks.items(), strict=False):
        for name, (right, control) in models.items():
            depth = [k / (len(right) - 1) for k in range(len(right))]
            band(axis, depth, right, label=name, **style(name) | {"markersize": 4})
            thin = style(name) | {"color": GREY, "linewidth": 1, "markersize": 2}
            axis.plot(depth, [e.value for e in control], label=f"{name}, control", **thin)
        axis.set(title=title, ylim=(-0.03, 1.05))
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis in axes.flat[max(0, len(tasks) - columns) : len(tasks)]:
        axis.set_xlabel("depth k/L")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    ends = {
        title: ", ".join(
            f"{name} {a[-1].value:.2f} against {b[-1].value:.2f}" for name, (a, b) in by_model.items()
        )
        for title, by_model in tasks.items()
    }
    said = "; ".join(f"{title}: {end}" for title, end in ends.items())
    return figure, f"{ylabel} and its control after the last block. {said}."


def travelling(lines: Mapping[tuple[str, str], Mapping[int, Estimate]]) -> tuple[Figure, str]:
    """Accuracy against the number of words since the cause; `lines`: (model, place) -> distance."""
    with plt.rc_context(RC):
        figure, axis = plt.subplots(figsize=(7, 3.6))
    streams = {place for _, place in lines if "stream" in place}
    for (name, place), right in lines.items():
        look = (
            style(name)
            if place in streams
            else style(name) | {"linestyle": ":", "markerfacecolor": "white"}
        )
        band(axis, list(right), list(right.values()), label=f"{name}, {place}", **look)
    distances = list(right)
    axis.axhline(0.5, color=GREY, linestyle=":", linewidth=1.5)
    axis.text(distances[-1], 0.52, "chance", color=GREY, ha="right")
    axis.set(
        xlabel="words since the subject (its verb is still to come)",
        ylim=(0.2, 1.03),
        ylabel="accuracy of a probe for\nthe subject's number",
        xticks=distances,
    )
    axis.legend(frameon=False, loc="lower left")
    ends = "; ".join(
        f"{name}, {place} from {right[distances[0]].value:.2f} to {right[distances[-1]].value:.2f}"
        for (name, place), right in lines.items()
    )
    return figure, f"Accuracy from {distances[0]} to {distances[-1]} words behind the subject: {ends}."


def word_by_word(
    words: Sequence[str], bits: Mapping[str, Mapping[str, Sequence[Estimate]]]
) -> tuple[Figure, str]:
    """Surprisal of each word of a frame, a panel a model; `bits` maps model -> condition -> estimates."""
    figure, axes = panels(1, len(bits), (max(5, 4.5 * len(bits)), 3.4), sharey=True)
    for axis, (name, conditions) in zip(axes.flat, bits.items(), strict=True):
        for look, (condition, by_word) in zip(LOOKS, conditions.items(), strict=True):
            error = [[e.value - e.low for e in by_word], [e.high - e.value for e in by_word]]
            values = [e.value for e in by_word]
            axis.errorbar(
                range(len(words)),
                values,
                yerr=error,
                label=condition,
                capsize=3,
                **look | {"markersize": 5},
            )
        axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
        axis.set(title=name, xlabel="word of the sentence")
    axes.flat[0].set_ylabel("surprisal (bits)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    said = _said(bits, lambda by_word: by_word[-1], ".1f")
    return figure, f"Bits of surprisal at the word '{words[-1]}'. {said}."


def after_erasure(shares: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> tuple[Figure, str]:
    """Per model the share of right answers in each capability; `shares`: model -> what -> capability."""
    figure, axes = panels(1, len(shares), (max(5, 4.5 * len(shares)), 3), sharex=True, sharey=True)
    for axis, (name, conditions) in zip(axes.flat, shares.items(), strict=True):
        for shift, look, (condition, right) in zip(
            (-0.2, 0, 0.2), LOOKS[::-1], conditions.items(), strict=True
        ):
            values = list(right.values())
            error = [[e.value - e.low for e in values], [e.high - e.value for e in values]]
            places = [i + shift for i in range(len(values))]
            look = look | {"linestyle": "", "markersize": 5}
            axis.errorbar(
                [e.value for e in values], places, xerr=error, label=condition, capsize=3, **look
            )
        axis.set_yticks(range(len(right)), [kind.replace("_", " ") for kind in right])
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1.5)
        axis.set(title=name, xlabel="share right", xlim=(0.3, 1.03))
    axes.flat[0].invert_yaxis()
    axes.flat[0].legend(frameon=False, fontsize=9, loc="lower left")
    first = next(iter(right))
    said = _said(shares, lambda kinds: kinds[first], ".2f")
    return figure, f"Share of right answers in {first.replace('_', ' ')}, by what is erased. {said}."


def _said(results: Mapping, pick: Callable, form: str) -> str:
    """'model: condition value, condition value; model: ...' for alt text."""
    rows = {
        name: ", ".join(
            f"{condition} {pick(values).value:{form}}" for condition, values in conditions.items()
        )
        for name, conditions in results.items()
    }
    return "; ".join(f"{name}: {row}" for name, row in rows.items())
