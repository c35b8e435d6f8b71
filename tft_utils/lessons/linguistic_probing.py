"""Lesson 05a, linguistic_probing: a probe and its control, on known and new words; a tree's distances."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_equal, expect_tensor, expect_two, pair
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, listed, style, write
from tft_utils.stats import Estimate


def two_class_probe(x, y):
    """w [d] and b, such that w . x + b > 0 says class 1: x [n d], y [n] of 0 and 1."""
    m0, m1 = x[y == 0].mean(0), x[y == 1].mean(0)
    within = torch.where(y[:, None] == 1, x - m1, x - m0)
    S = within.T @ within / len(x)
    S.diagonal().add_(0.01)
    w = torch.linalg.solve(S, m1 - m0)
    odds = (y == 1).sum() / (y == 0).sum()
    return w, odds.log() - w @ (m0 + m1) / 2


def control_task(causes, labels, seed):
    """One label for each distinct cause, drawn from `labels` [n]; the same wherever it stands: [n]."""
    draw = torch.Generator().manual_seed(seed)
    names = sorted(set(causes))
    drawn = labels[torch.randint(len(labels), (len(names),), generator=draw)]
    number = {name: i for i, name in enumerate(names)}
    return drawn[torch.tensor([number[cause] for cause in causes])]


def stream_at_end(model, prompt):
    """The residual stream at the prompt's last word, after k = 0 ... L blocks: [depth d]."""
    rows = []
    with model.trace(prompt):
        for k in range(model.n_layers + 1):
            rows.append(model.residual(k)[0, -1].cpu().save())
    return torch.stack(rows)


def accuracy_by_depth(x, y, test, t):
    """The share of test labels that a probe gets right at each depth [depth].

    x [n depth d] with labels y [n] is for fitting; test [m depth d] with labels t [m] for scoring.
    """
    shares = []
    for k in range(x.shape[1]):
        scale = x[:, k].std()
        w, b = two_class_probe(x[:, k] / scale, y)
        says = (test[:, k] / scale) @ w + b > 0
        shares.append((says == t).double().mean())
    return torch.stack(shares)


def with_control(parts, where, seed):
    """Accuracy on a part's words, and the control's there: two tensors [depth].

    parts: 'train' and the part `where`, each with x["residual"] [n depth d], label [n], n causes.
    """
    train, asked = parts["train"], parts[where]
    x, test = train.x["residual"], asked.x["residual"]
    right = accuracy_by_depth(x, train.label, test, asked.label)
    drawn = control_task([*train.cause, *asked.cause], train.label, seed)
    y, t = drawn[: len(x)], drawn[len(x) :]
    return right, accuracy_by_depth(x, y, test, t)


def selectivity(parts, draws):
    """Accuracy minus the control's on known words, over control tasks: mean and deviation [depth]."""
    gaps = []
    for seed in range(draws):
        right, control = with_control(parts, "known", seed)
        gaps.append(right - control)
    gaps = torch.stack(gaps)
    return gaps.mean(0), gaps.std(0)


def first_axes(x, most):
    """The mean [d] of x [n d], and the axes [d most] along which it varies most, each of length 1."""
    mean = x.mean(0)
    _, _, V = torch.linalg.svd(x - mean, full_matrices=False)
    return mean, V[:most].T


def tree_distance(heads):
    """Edges between each two words of a tree [n n]; heads[i] is word i's head, None for the root."""
    distance = torch.full((len(heads), len(heads)), torch.inf).fill_diagonal_(0)
    for i, head in enumerate(heads):
        if head is not None:
            distance[i, head] = distance[head, i] = 1
    for k in range(len(heads)):  # is the way through word k shorter?
        distance = torch.minimum(distance, distance[:, k, None] + distance[k])
    return distance


def right_edges(measured, distance):
    """The share of a tree's edges in the minimum spanning tree of measured distances; both [n n].

    distance: edges of the true tree between each two words.
    """
    inside, hits = [0], 0
    while len(inside) < len(measured):
        outside = [i for i in range(len(measured)) if i not in inside]
        gaps = measured[inside][:, outside]
        i, j = divmod(int(gaps.argmin()), len(outside))
        hits += int(distance[inside[i], outside[j]] == 1)
        inside.append(outside[j])
    return hits / (len(measured) - 1)


def check_two_class_probe(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = (torch.arange(900) % 5 == 0).long()  # one in five
    x = torch.randn(900, 4, generator=draw) * torch.tensor([1.0, 2.0, 0.5, 1.5])
    x[:, 1] += x[:, 0]
    x = 10 * (x + y[:, None] * torch.tensor([1.0, 0.5, 0.5, -1.0]) + 1)
    w, b = expect_two(attempt(x.clone(), y), "w and b")
    found = torch.cat([expect_tensor(w, (4,), "w"), b.reshape(-1)])
    m0, m1 = (x[y == label].mean(0) for label in (0, 1))

    def line(w, b) -> Tensor:  # the same decision whatever the scale
        return torch.cat([w, b.reshape(1) / 10]).double() / w.norm().double()

    truth_w, truth_b = two_class_probe(x, y)
    if found.shape != (5,):
        raise Wrong("b must be one number")
    odds = torch.log((y == 1).sum() / (y == 0).sum())
    centred = x - x.mean(0)
    total = torch.linalg.solve(centred.T @ centred / len(x), m1 - m0)
    flat = m1 - m0
    wrong = {
        "it says class 0 where it should say class 1; w points from the mean of class 0 to that of 1": (
            -truth_w,
            -truth_b,
        ),
        "you use the difference of the means alone; divide it by the spread within the classes, with "
        "`torch.linalg.solve(S, ...)`": (flat, odds - flat @ (m0 + m1) / 2),
        "b is missing half-way between the means: w . (m0 + m1) / 2 must give 0 but for the odds": (
            truth_w,
            odds,
        ),
        "b leaves out how frequent the classes are; add the logarithm of their odds": (
            truth_w,
            truth_b - odds,
        ),
        "S holds the distance between the means as well; subtract each item's own class mean": (
            total,
            odds - total @ (m0 + m1) / 2,
        ),
    }
    answer = line(found[:4], found[4])
    if (answer - line(truth_w, truth_b)).abs().max() < 0.02:
        return
    for hint, case in wrong.items():
        if (answer - line(*case)).abs().max() < 0.02:
            raise Wrong(hint)
    raise Wrong("w is not S^-1 (m1 - m0), or b does not belong to it; S is the spread within the classes")


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


def check_stream_at_end(attempt) -> None:
    for model in pair().values():
        prompt = "The keys near the old cabinet"
        truth = reading.streams(model, reading.tokens(model, prompt).ids)[:, 0].cpu()
        shape = model.n_layers + 1, truth.shape[-1]
        hint = "one row for k = 0, the embedding, and one for each block"
        answer = expect_tensor(attempt(model, prompt), shape, "the stream", hint).float().cpu()
        if not torch.allclose(answer, truth[:, -1], rtol=1e-3, atol=1e-3):
            if torch.allclose(answer, truth[:, 0], rtol=1e-3, atol=1e-3):
                raise Wrong("this is the first word; the last one stands at -1")
            raise Wrong("these are not the streams `model.residual(k)` at the last word, in their order")


def check_accuracy_by_depth(attempt) -> None:
    draw = torch.Generator().manual_seed(1)

    def planted(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (n,), generator=draw)
        x = torch.randn(n, 3, 6, generator=draw)
        x[:, :, 0] += (2.0 * y - 1)[:, None] * torch.tensor([0.0, 0.7, 2.5])
        return 10 * x, y

    (x, y), (test, t) = planted(300), planted(200)
    answer = expect_tensor(attempt(x, y, test, t), (3,), "the shares", "one for each depth").double()
    truth = accuracy_by_depth(x, y, test, t)
    mistakes = {
        "you score the words that the probe was fitted to; score `test` and its labels `t`": (
            accuracy_by_depth(x, y, x, y)
        ),
        "the probe was fitted to the test words; fit it to x and y alone": (
            accuracy_by_depth(test, t, test, t)
        ),
        "every depth has the same share; fit a probe to x[:, k] at each k": truth[2].expand(3),
        "you count what is wrong; count what is right": 1 - truth,
    }
    if (answer - truth).abs().max() > 0.012:
        for hint, wrong in mistakes.items():
            if (answer - wrong).abs().max() < 0.012:
                raise Wrong(hint)
        raise Wrong("these are not the shares of right labels, w . x + b > 0 for class 1, at each depth")


def _planted() -> dict[str, SimpleNamespace]:
    """Words whose vectors say which word it is, and at depth 1 its label alone."""
    draw = torch.Generator().manual_seed(2)
    words = torch.randn(40, 60, generator=draw)  # vectors of 40 words, whose label is their oddness

    def part(n: int) -> SimpleNamespace:
        which = torch.randint(40, (n,), generator=draw)
        label = which % 2
        noise = 0.1 * torch.randn(n, 2, 60, generator=draw)
        noise[:, 0] += words[which]  # depth 0: the word
        noise[:, 1, 0] += 2.0 * label - 1  # depth 1: its label alone
        return SimpleNamespace(x={"residual": noise}, label=label, cause=[f"w{int(w)}" for w in which])

    return {"train": part(600), "known": part(300)}


def check_with_control(attempt) -> None:
    parts = _planted()
    right, control = expect_two(attempt(parts, "known", 0), "accuracy and the control's")
    truth = accuracy_by_depth(
        parts["train"].x["residual"],
        parts["train"].label,
        parts["known"].x["residual"],
        parts["known"].label,
    )
    right, control = (
        expect_tensor(v, (2,), what).double()
        for v, what in ((right, "the accuracies"), (control, "the control's accuracies"))
    )
    if (right - truth).abs().max() > 0.02:
        raise Wrong(
            "the first tensor is the accuracy of a probe fitted to `train`'s real labels, on `known`"
        )
    if control[1] > 0.9:
        raise Wrong(
            "the control is as right as the probe where a vector says nothing but the label; give the "
            "words drawn labels, in `known` as well"
        )
    if control[0] < 0.9:
        raise Wrong(
            "a vector that says which word it is must be enough for the control: a word has one label, "
            "drawn once for `train` and `known` together; test on drawn labels, too"
        )


def check_selectivity(attempt) -> None:
    parts, draws = _planted(), 12
    found = expect_two(attempt(parts, draws), "the mean and the standard deviation")
    whats = "the mean", "the deviation"
    mean, deviation = (expect_tensor(x, (2,), what) for x, what in zip(found, whats, strict=True))
    due, scatter = selectivity(parts, draws)  # whose control tasks may be other ones than the attempt's
    if (mean + due).abs().max() < 0.1:
        raise Wrong("you subtract the accuracy from the control's; it is the other way round")
    if deviation[1] < 0.005:
        raise Wrong("every draw is the same; give `with_control` another seed each time")
    if (mean - due).abs().max() > 0.1:
        raise Wrong("this is not accuracy minus the control's, over the seeds 0, 1, ... on known words")
    if not (scatter[1] / 3 < deviation[1] < 3 * scatter[1] and deviation[0] < 0.1):
        raise Wrong("the deviation is that over draws, dim 0")


def check_first_axes(attempt) -> None:
    draw = torch.Generator().manual_seed(3)
    turned, _ = torch.linalg.qr(torch.randn(8, 8, generator=draw))
    x = (torch.randn(60, 8, generator=draw) * torch.linspace(8, 1, 8)) @ turned + 20
    mean, axes = expect_two(attempt(x.clone(), 3), "the mean and the axes")
    expect_equal(mean, x.mean(0), "the mean", {}, "the first tensor is not the mean of x")
    axes = expect_tensor(axes, (8, 3), "the axes", "an axis is a column: turn the rows of V")
    if not torch.allclose(axes.T @ axes, torch.eye(3), atol=1e-4):
        raise Wrong("the axes are not of length 1, or not at right angles")
    kept = ((x - x.mean(0)) @ axes).square().sum()
    _, sizes, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    if torch.allclose(kept, (x - x.mean(0)).matmul(V[-3:].T).square().sum(), rtol=1e-3):
        raise Wrong("along these axes the vectors vary least; the first rows of V come first")
    if kept < 0.999 * sizes[:3].square().sum():
        raise Wrong("other axes hold more of how the vectors vary; take the mean off before the SVD")


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


def check_right_edges(attempt) -> None:
    distance = tree_distance([1, 4, 1, 2, None, 4, 5])
    draw = torch.Generator().manual_seed(4)
    noise = torch.rand(7, 7, generator=draw)
    chain = (torch.arange(7)[:, None] - torch.arange(7)).abs().float()
    line = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0, 30.0])
    apart = (line[:, None] - line).abs()
    for measured in (distance, chain, distance + 2 * (noise + noise.T), apart):
        truth, answer = right_edges(measured, distance), attempt(measured.clone(), distance.clone())
        if not isinstance(answer, int | float | Tensor):
            raise Wrong(f"expected a share, found {type(answer).__name__}; return one number")
        nearest = (measured + 99 * torch.eye(7)).argmin(1).tolist()
        linked = {frozenset(edge) for edge in enumerate(nearest)}
        right = sum(bool(distance[tuple(edge)] == 1) for edge in map(sorted, linked)) / 6
        mistakes = {
            "a tree of n words has n - 1 edges; divide by that": torch.tensor(truth * 6 / 7),
            "you link each word to its nearest one; the edges must connect all words": torch.tensor(
                right
            ),
        }
        otherwise = (
            "of all pairs of a word inside and a word outside the nearest joins, until all are inside; "
            f"with one set of distances the share is {truth:.2f}, you say {float(answer):.2f}"
        )
        expect_equal(torch.tensor(float(answer)), torch.tensor(truth), "the share", mistakes, otherwise)


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
    panels: Mapping[str, Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]]], ylabel: str
) -> Drawn:
    """A panel a task: per model the accuracy at every depth, and its control thin and grey.

    panels: title -> model -> (accuracy, control), one estimate a depth.
    """
    lines = {}
    for title, by_model in panels.items():
        right, control = ({name: both[i] for name, both in by_model.items()} for i in (0, 1))
        lines[title] = plots.with_controls(right, control)
    columns, size = min(3, len(panels)), (3.2, 2.8) if len(panels) > 1 else None
    figure, _ = plots.curves(lines, "depth k/L", ylabel, size=size, columns=columns, ylim=(-0.03, 1.05))
    said = listed(panels, lambda both: f"{both[0][-1].value:.2f} against {both[1][-1].value:.2f}")
    return figure, f"{ylabel} and its control after the last block. {said}."


def trees(curves: Mapping[str, tuple[Sequence[Estimate], Sequence[Estimate]]], chain: float) -> Drawn:
    """Right edges by depth; `curves`: model -> (probe, its control); chain: a parse without a model."""
    figure, said = by_depth({"syntactic tree": curves}, "share of right edges")
    (axis,) = figure.axes
    axis.axhline(chain, color=plots.BLACK, linestyle=":", linewidth=1.5)
    axis.text(0, chain + 0.02, "each word linked to the next", color=plots.BLACK)
    return figure, f"{said} Each word linked to the next: {chain:.2f}."


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
    axis.text(first, 0.52, "chance", color=GREY)
    ends = "; ".join(
        f"{label} from {right[first].value:.2f} to {right[last].value:.2f}"
        for label, right in labelled.items()
    )
    return figure, f"Accuracy from {first} to {last} words behind the subject: {ends}."
