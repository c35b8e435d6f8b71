"""Lesson 05, linguistic_probing: a probe and its control, distances in a tree, erasing a concept."""

import functools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import tasks, world
from tft_utils.corpora.lexicon import WORLD, Lexicon
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_tensor, expect_two
from tft_utils.course.plots import GREY, Drawn, Lines, Row, arrow, canvas, listed, style, write
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


def with_control(parts, seed):
    """Accuracy on known words, and the control's there: two tensors [depth].

    parts: 'train' and 'known', each with x["residual"] [n depth d], label [n] and cause, n words.
    """
    train, known = parts["train"], parts["known"]
    x, test = train.x["residual"], known.x["residual"]
    right = accuracy_by_depth(x, train.label, test, known.label)
    drawn = control_task([*train.cause, *known.cause], train.label, seed)
    y, t = drawn[: len(x)], drawn[len(x) :]
    return right, accuracy_by_depth(x, y, test, t)


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
    """mean, a and b [d], such that x - ((x - mean) . b) a has no linear trace of z [n]: x [n d]."""
    mean = x.mean(0)
    centred = x - mean
    a = centred.T @ (z - z.mean()) / len(x)  # covariance of x and z
    b = torch.linalg.solve(centred.T @ centred / len(x), a)
    return mean, a, b / (a @ b)


def scores_without(model, batch, k, mean, a, b):
    """Each answer's logit minus its foil's [prompt], when after k blocks every word loses its part.

    batch: prompts `ids` [prompt pos] with their last words at `last` [prompt]; mean, a, b: of `erase`.
    """
    with model.trace(batch.ids):
        x = model.residual(k)
        part = ((x - mean) @ b)[..., None] * a
        model.set_residual(k, x - part)
        logits = model.logits.save()
    rows = torch.arange(len(batch))
    return batch.score(logits[rows, batch.last])


def another_direction(x, b, seed):
    """A random unit vector u [d], drawn as the vectors x [n d] vary, with u . b = 0."""
    centred = x - x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(x), generator=draw).to(x)
    u = centred.T @ weights
    u = u - (u @ b) / (b @ b) * b
    return u / u.norm()


@functools.cache
def _pair() -> dict[str, models.Model]:
    return models.load_models()


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


def check_with_control(attempt) -> None:
    draw = torch.Generator().manual_seed(2)
    words = torch.randn(40, 60, generator=draw)  # vectors of 40 words, whose label is their oddness

    def part(n: int) -> SimpleNamespace:
        which = torch.randint(40, (n,), generator=draw)
        label = which % 2
        noise = 0.1 * torch.randn(n, 2, 60, generator=draw)
        noise[:, 0] += words[which]  # depth 0: the word
        noise[:, 1, 0] += 2.0 * label - 1  # depth 1: its label alone
        return SimpleNamespace(x={"residual": noise}, label=label, cause=[f"w{int(w)}" for w in which])

    parts = {"train": part(600), "known": part(300)}
    right, control = expect_two(attempt(parts, 0), "accuracy and the control's")
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
    before, z = x.clone(), z.double()
    answer = attempt(x, z)
    if not (isinstance(answer, tuple) and len(answer) == 3):
        raise Wrong("expected three vectors, mean, a and b; return them in this order")
    names = "mean", "a", "b"
    mean, a, b = (expect_tensor(v, (5,), name).to(x) for v, name in zip(answer, names, strict=True))
    if not torch.equal(x, before):
        raise Wrong("you write into the vectors that you were given; leave them as they are")

    def apart(mean, a, b) -> Tensor:
        return x - ((x - mean) @ b)[:, None] * a

    found = apart(mean, a, b)
    if not torch.allclose(found.mean(0), x.mean(0), atol=1e-6):
        raise Wrong("the mean of the vectors moves; the first vector must be the mean of x")
    left = (found - found.mean(0)).T @ (z - z.mean()) / 400
    if left.abs().max() > 1e-6:
        if abs(a @ b - 1) > 1e-3:
            raise Wrong(
                f"z can still be read: b . a is {(a @ b).item():.2f}, and what is taken away is too much "
                "or too little; divide b by its product with a"
            )
        raise Wrong(
            f"z can still be read: the covariance of x and z is up to {left.abs().max():.2f} afterwards, "
            "not 0; a has to be the covariance of x and z"
        )
    moved = (found - x).square().sum()
    least = (apart(*erase(x, z)) - x).square().sum()
    if moved > least * 1.001:
        raise Wrong(
            f"z is gone, but you move the vectors {(moved / least).sqrt():.1f} times as far as you have "
            "to; read z along the covariance's inverse times a, and subtract along a"
        )


def check_scores_without(attempt) -> None:
    pairs = [p for n in (0, 2) for p in world_pairs.minimal_pairs(4, 1, attractors=n)]
    for model in _pair().values():
        prompts = [p.clean.prompt(p.position) for p in pairs]
        batch = reading.ask(model, prompts, [p.answer for p in pairs], [p.foil for p in pairs])
        rows, k = torch.arange(len(batch)), model.n_layers // 2
        x = reading.streams(model, batch.ids, k)[k]
        draw = torch.Generator().manual_seed(3)
        a, b = (torch.randn(x.shape[-1], generator=draw).to(x) for _ in range(2))
        mean, a, b = x[rows, batch.last].mean(0), 2 * a, b / b.norm() / 4

        def run(change, x=x, k=k, model=model, batch=batch) -> Tensor:
            return batch.score(reading.finish(model, change(x), k, batch.last))

        def lost(x, mean=mean, a=a, b=b) -> Tensor:
            return x - ((x - mean) @ b)[..., None] * a

        def last_only(x, lost=lost, rows=rows, batch=batch) -> Tensor:
            x = x.clone()
            x[rows, batch.last] = lost(x[rows, batch.last])
            return x

        with torch.no_grad():
            truth = run(lost)
            mistakes = {
                "nothing changed: give the new stream back with `model.set_residual(k, ...)`, before you "
                "read the logits": run(lambda x: x),
                "every word loses its part, not the last one alone": run(last_only),
                "subtract the mean before you multiply by b": run(
                    lambda x, a=a, b=b: x - (x @ b)[..., None] * a
                ),
                "a and b are exchanged: read along b, subtract along a": run(
                    lambda x, mean=mean, a=a, b=b: x - ((x - mean) @ a)[..., None] * b
                ),
            }
            answer = expect_tensor(attempt(model, batch, k, mean, a, b), truth.shape, "the scores")
        if torch.allclose(answer, truth, rtol=1e-3, atol=1e-3):
            continue
        for hint, wrong in mistakes.items():
            if torch.allclose(answer, wrong, rtol=1e-3, atol=1e-3):
                raise Wrong(hint)
        raise Wrong(
            "these are not the scores of the changed run; prompts have different lengths, so read the "
            "logits at `batch.last`"
        )


def check_another_direction(attempt) -> None:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(500, 12, dtype=torch.float64, generator=draw) * torch.linspace(0.1, 5, 12) + 7
    b, before = torch.randn(12, dtype=torch.float64, generator=draw), x.clone()
    drawn = [
        expect_tensor(attempt(x.clone(), b, seed), (12,), "the direction").double() for seed in range(60)
    ]
    if not torch.equal(x, before):
        raise Wrong("you write into the vectors that you were given; leave them as they are")
    u = torch.stack(drawn)
    if (u.norm(dim=1) - 1).abs().max() > 1e-4:
        raise Wrong(f"the direction has the length {u[0].norm():.2f}, not 1")
    if (u @ b).abs().max() / b.norm() > 1e-3:
        raise Wrong("b still reads your direction: u . b must be 0")
    if (u[0] - u[1]).abs().max() < 1e-6:
        raise Wrong("another seed gives the same direction; it must be drawn at random")
    if not torch.allclose(attempt(x.clone(), b, 0).double(), u[0]):
        raise Wrong("the same seed gives another direction; draw with a generator that has this seed")
    if u.mean(0).norm() > 0.6:
        raise Wrong(
            "all your directions point the same way, to the mean of the vectors; take the mean off first"
        )
    share = u.square()[:, 6:].sum(1).mean()  # an even draw has about a half in the wide axes
    if share < 0.75:
        raise Wrong(
            "your directions do not care how the vectors vary; add up the centred vectors "
            "themselves, with random weights"
        )


def three_ways(pair: world_pairs.Pair, lexicon: Lexicon = WORLD) -> list[str]:
    """A sentence with one attractor: of the same number, of the other, and so with the wrong verb."""

    def with_attractor(document: world.Document, number: str) -> str:
        words = [word.text for word in document.words]
        bare = words[4].strip()
        forms = next(forms for forms in lexicon.nouns.items() if bare in forms)
        words[4] = words[4].replace(bare, forms[number == "plural"])
        return document.gap.join(words)

    number = pair.clean.words[pair.position].number
    (other,) = set(tasks.NUMBERS) - {number}
    asked = (pair.clean, number), (pair.clean, other), (pair.corrupt, other)
    return [with_attractor(document, which) for document, which in asked]


ERASED = [  # nothing, number, other directions
    {"color": plots.BLACK, "marker": "o"},
    {"color": plots.GREEN, "marker": "s"},
    {"color": GREY, "marker": "|", "markersize": 10, "alpha": 0.7},
]


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


def word_by_word(words: Sequence[str], bits: Lines) -> Drawn:
    """Surprisal of each word of a frame, a panel a model; `bits` maps model -> condition -> estimates."""
    names = "word of the sentence", "surprisal (bits)"
    figure, axes = plots.curves(bits, *names, plots.SERIES, x=range(len(words)), bars=True)
    for axis in axes:
        axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
    said = listed(bits, lambda by_word: f"{by_word[-1].value:.1f}")
    return figure, f"Bits of surprisal at the word '{words[-1]}'. {said}."


def after_erasure(shares: Mapping[str, Mapping[str, Row]]) -> Drawn:
    """Per model the share of right answers in each capability; `shares`: model -> what -> capability ->
    a share, or those of many directions."""
    size = (4.7 if len(shares) > 1 else 7.2, 3.4)
    figure, axes = plots.dot_panels(shares, "share right", (-0.03, 1.05), ERASED, size=size)
    for axis in axes:
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1.5)

    def say(row: Row) -> str:
        value = row[next(iter(row))]
        if isinstance(value, list):
            return f"{min(value):.2f} to {max(value):.2f}"
        return f"{value.value:.2f}"

    first = next(iter(next(iter(next(iter(shares.values())).values()))))
    said = listed(shares, say)
    return figure, f"Share of right answers in {first.replace('_', ' ')}, by what is erased. {said}."
