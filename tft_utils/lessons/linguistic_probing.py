"""Lesson 05, linguistic_probing: a control task, distances in a tree, erasing a concept."""

from collections.abc import Mapping, Sequence

import torch

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_tensor
from tft_utils.course.plots import GREY, Drawn, Lines, Row, arrow, canvas, listed, style, write
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


LOOKS = [style(name) for name in ("transformer", "mamba", "mamba-tied")]  # of three conditions


def where_probes_read() -> Drawn:
    """The cause, the word that is probed, and the three places to read at it."""
    cause, probed = (style(name)["color"] for name in ("transformer", "mamba"))
    figure, (axis,) = canvas((9, 2.3), (-0.6, 11.6), (-0.75, 2.1))
    for x, word in enumerate("The keys near the old cabinet that the boy likes are ...".split()):
        marked = {1: {"color": cause, "weight": "bold"}, 9: {"color": probed, "weight": "bold"}}
        write(axis, x, 0.1, word, fontsize=12, **marked.get(x, {}))
    write(axis, 1, -0.4, "the cause: plural", color=cause)
    write(axis, 5.5, -0.4, "other nouns try to mislead", color=GREY)
    write(axis, 9, -0.4, "the probed word", color=probed)
    places = (
        "residual stream\nafter k blocks",
        "what a block's\nmixer adds",
        "the state that\na layer carries",
    )
    for x, place in zip((5.6, 8, 10.4), places, strict=True):
        arrow(axis, (9, 0.4), (x, 1.2))
        write(axis, x, 1.65, place, edge=probed)
    write(axis, 2.2, 1.65, "A probe: a linear map from\none such vector to 'plural'")
    return figure, (
        "A sentence whose subject is far from its verb; a probe reads the subject's number at the "
        "word before the verb, in the stream, in a mixer's output, or in a state."
    )


def by_depth(
    tasks: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]], ylabel: str
) -> Drawn:
    """A panel a task: per model the accuracy at every depth, and its control thin and grey.

    tasks: title -> model -> (accuracy, control), one estimate a depth.
    """
    lines = {}
    for title, models in tasks.items():
        right, control = ({name: both[i] for name, both in models.items()} for i in (0, 1))
        lines[title] = plots.with_controls(right, control)
    columns, size = min(3, len(tasks)), (3.2, 2.8) if len(tasks) > 1 else None
    figure, _ = plots.curves(lines, "depth k/L", ylabel, size=size, columns=columns, ylim=(-0.03, 1.05))
    said = listed(tasks, lambda both: f"{both[0][-1].value:.2f} against {both[1][-1].value:.2f}")
    return figure, f"{ylabel} and its control after the last block. {said}."


def travelling(lines: Mapping[tuple[str, str], Mapping[int, Estimate]]) -> Drawn:
    """Accuracy against the number of words since the cause; `lines`: (model, place) -> distance."""
    labelled = {f"{name}, {place}": right for (name, place), right in lines.items()}

    def look(title: str, label: str, at: int) -> dict:
        name, _, place = label.partition(", ")
        hollow = {} if "stream" in place else {"linestyle": ":", "markerfacecolor": "white"}
        return style(name) | hollow

    distances = list(next(iter(lines.values())))
    first, last = distances[0], distances[-1]
    xlabel = "words since the subject (its verb is still to come)"
    ylabel = "accuracy of a probe for\nthe subject's number"
    figure, (axis,) = plots.curves({"": labelled}, xlabel, ylabel, look, ylim=(0.2, 1.03))
    axis.set_xticks(distances)
    axis.axhline(0.5, color=GREY, linestyle=":", linewidth=1.5)
    axis.text(last, 0.52, "chance", color=GREY, ha="right")
    ends = "; ".join(
        f"{label} from {right[first].value:.2f} to {right[last].value:.2f}"
        for label, right in labelled.items()
    )
    return figure, f"Accuracy from {first} to {last} words behind the subject: {ends}."


def word_by_word(words: Sequence[str], bits: Lines) -> Drawn:
    """Surprisal of each word of a frame, a panel a model; `bits` maps model -> condition -> estimates."""
    names = "word of the sentence", "surprisal (bits)"
    figure, axes = plots.curves(bits, *names, LOOKS, x=range(len(words)), bars=True)
    for axis in axes:
        axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
    said = listed(bits, lambda by_word: f"{by_word[-1].value:.1f}")
    return figure, f"Bits of surprisal at the word '{words[-1]}'. {said}."


def after_erasure(shares: Mapping[str, Mapping[str, Row]]) -> Drawn:
    """Per model the share of right answers in each capability; `shares`: model -> what -> capability."""
    size = (4.7 if len(shares) > 1 else 7.2, 3.2)
    figure, axes = plots.dot_panels(shares, "share right", (0.3, 1.03), LOOKS[::-1], size=size)
    for axis in axes:
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1.5)
    first, *_ = next(iter(next(iter(shares.values())).values()))
    said = listed(shares, lambda right: f"{right[first].value:.2f}")
    return figure, f"Share of right answers in {first.replace('_', ' ')}, by what is erased. {said}."
