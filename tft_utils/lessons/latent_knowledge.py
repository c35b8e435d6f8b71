"""Lesson 06, latent_knowledge: probes from alice's easy to bob's hard items, and what they are worth."""

import csv
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import files, reading
from tft_utils.corpora.corpus import corpus_of
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, expect_two, pair, refuse
from tft_utils.course.plots import GREY, Drawn, Map, arrow, canvas, listed, plain, write
from tft_utils.stats import Estimate


def auroc(score, y):
    """The chance that a true item scores higher than a false one; ties count half. score, y [item]."""
    true, false = score[y], score[~y]
    gap = true[:, None] - false[None, :]
    wins = (gap > 0).float() + 0.5 * (gap == 0).float()
    return wins.mean()


def mean_difference(x, y):
    """w [d], b: a probe from activations x [item d] and labels y [item]; w . x + b > 0 says true.

    w has length 1 and points from the mean of the false items to that of the true ones; b puts 0
    half-way between the two means.
    """
    mu0, mu1 = x[~y].mean(0), x[y].mean(0)
    w = mu1 - mu0
    w = w / w.norm()
    return w, -w @ (mu0 + mu1) / 2


def faithful(odds, truth, rule):
    """The share of answers that follow each one's rule, [alice bob]: of all, then where the rules differ.

    odds [2*statement]: log-odds for true, alice's and bob's in turn; truth, rule [statement]: labels.
    """
    says = (odds > 0).view(-1, 2)
    right = says == torch.stack((truth, rule), 1)
    apart = truth != rule
    everywhere = right.float().mean(0)
    return everywhere, right[apart].float().mean(0)


def contrast_pair(model, prompt):
    """The stream at the word of each answer, `false` and then `true`, at every depth [2 k d_model]."""
    pair = []
    for answer in corpus_of(model).choices:
        with model.trace(f"{prompt} {answer.strip()}"):
            states = []
            for k in range(model.n_layers + 1):
                states.append(model.residual(k)[0, -1])
            states = torch.stack(states).save()
        pair.append(states)
    return torch.stack(pair)


def easy_to_hard(train, near, far):
    """The depth chosen on `near`, and the AUROC on `far`, of mean-difference probes fitted to `train`.

    Each part is (x [item depth d], y [item]). The depth is the first one whose AUROC on `near`, less
    0.5, reaches 95 % of the best depth's.
    """
    probes, gains = [], []
    for k in range(train[0].shape[1]):
        w, b = mean_difference(train[0][:, k], train[1])
        probes.append((w, b))
        gains.append(auroc(near[0][:, k] @ w + b, near[1]) - 0.5)
    gains = torch.stack(gains)
    depth = int((gains >= 0.95 * gains.max()).int().argmax())
    w, b = probes[depth]
    return depth, auroc(far[0][:, depth] @ w + b, far[1])


def ccs(x, seed, steps):
    """A CCS direction w [d], and its loss, for x [item answer d]: `steps` of Adam from a random start.

    The loss is consistency plus confidence, of the probabilities of `true` after each answer.
    """
    w = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(seed))
    w, b = (w / w.norm()).requires_grad_(), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([w, b], lr=0.01)
    for _ in range(steps):
        with torch.enable_grad():
            p0, p1 = torch.sigmoid(x @ w + b).unbind(1)
            consistency = (p0 - (1 - p1)).square().mean()
            confidence = torch.minimum(p0, p1).square().mean()
            loss = consistency + confidence
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    return w.detach(), loss.item()


def by_chance(x, y, far, truth, n, seed):
    """AUROC on `far` [item d] against `truth` of n random directions [n].

    Each is turned so that it is rather right than wrong about the labels y of x [item d].
    """
    draw = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(n):
        w = torch.randn(x.shape[1], generator=draw)
        if auroc(x @ w, y) < 0.5:
            w = -w
        values.append(auroc(far @ w, truth))
    return torch.stack(values)


def answer_fixed(score, truth, answer):
    """AUROC against the truth among items with one answer, averaged over the answers [item].

    An answer whose items all have one truth has no AUROC, and does not count.
    """
    values = []
    for said in (False, True):
        same = answer == said
        if truth[same].any() and not truth[same].all():
            values.append(auroc(score[same], truth[same]))
    return torch.stack(values).mean()


def check_auroc(attempt) -> None:
    score = torch.tensor([2.0, 1.0, 1.0, 0.0, 3.0, -1.0, 0.5])
    y = torch.tensor([True, True, False, False, True, False, True])
    truth = auroc(score, y)
    gap = score[y][:, None] - score[~y][None, :]
    mistakes = {
        "a tie counts half; you count it as lost": (gap > 0).float().mean(),
        "a tie counts half; you count it as won": (gap >= 0).float().mean(),
        "you count how often false items score higher": 1 - truth,
        "compare every true item with every false one; you count how often the sign of the score is "
        "right": ((score > 0) == y).float().mean(),
        "this is a count; divide by the number of pairs": truth * gap.numel(),
    }
    found = attempt(score, y)
    found = found if torch.is_tensor(found) else torch.tensor(float(found))
    expect_equal(found.float(), truth, "the AUROC, one number,", mistakes, f"here it is {truth:.3f}")


def check_contrast_pair(attempt) -> None:
    model, prompt = pair()["mamba"], "bob : The keys near the door"
    wanted = []
    for end in (" false", " true", "", " true false"):
        with torch.no_grad(), reading.caught(reading.depths(model), lambda out: out[0]) as streams:
            model.hf(input_ids=reading.tokens(model, prompt + end).ids, use_cache=False)
        wanted.append(torch.stack(list(streams)))
    false, true, alone, shared = (stream[:, -1] for stream in wanted)
    truth = torch.stack((false, true))
    end = f"two answers, depths 0 ... {model.n_layers}, and the last word alone"
    found = expect_tensor(attempt(model, prompt), truth.shape, "the pair [2 k d_model]", end)
    mistakes = {
        "the order is `false`, then `true`": (true, false),
        "read at the word of the answer; you read the prompt's last word": (alone, alone),
        "you read the first word; take the last one, [0, -1]": (wanted[0][:, 0], wanted[1][:, 0]),
        "one answer has read the other one; each needs a run of its own": (shared, true),
    }
    if not torch.allclose(found, truth, rtol=1e-3, atol=1e-3):
        for hint, wrong in mistakes.items():
            if torch.allclose(found, torch.stack(wrong), rtol=1e-3, atol=1e-3):
                raise Wrong(hint)
        raise Wrong("these are not the streams after `prompt false` and `prompt true`, at every depth")


def _expect_both(answer: object, what: str) -> None:
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise Wrong(f"expected {what}, found {type(answer).__name__}; return both")


def check_easy_to_hard(attempt) -> None:
    draw = torch.Generator().manual_seed(0)

    def part(strengths: Sequence[float], n: int = 200) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 2 == 0
        x = torch.randn(n, len(strengths), 3, generator=draw) + 2
        return x + torch.tensor(strengths)[None, :, None] * (2.0 * y - 1)[:, None, None], y

    train, near, far = part((0, 1, 2, 0.5)), part((0, 1, 1.2, 0.5)), part((1, -0.2, 0.1, 3))
    answer = attempt(train, near, far)
    _expect_both(answer, "a depth and an AUROC")
    depth, value = easy_to_hard(train, near, far)
    found = int(answer[0])
    if found != depth:
        best = int(torch.stack([_of_depth(train, near, k) for k in range(4)]).argmax())
        mistakes = {
            easy_to_hard(train, train, far)[0]: "you choose the depth on `train`; choose it on `near`",
            easy_to_hard(train, far, far)[0]: "you choose the depth on `far`, whose labels nobody has",
            best: "you take the best depth; take the first that reaches 95 % of its gain over 0.5",
        }
        otherwise = f"expected depth {depth}, found {found}; the first that is enough"
        raise Wrong(mistakes.get(found, otherwise))
    area = torch.as_tensor(answer[1]).float()
    refused = {
        "the AUROC is to be that of `far`; this is `near`'s": _of_depth(train, near, depth),
        "you fit the probe to `far`; fit it to `train` alone": _of_depth(far, far, depth),
        "the score points from true to false": 1 - value,
    }
    if not close(area, value):
        refuse(area, refused, f"expected {value:.3f} on `far` at depth {depth}, found {area:.3f}")


def _of_depth(train: tuple, test: tuple, k: int) -> Tensor:
    """The AUROC of a mean difference at one depth."""
    w, b = mean_difference(train[0][:, k], train[1])
    return auroc(test[0][:, k] @ w + b, test[1])


def check_by_chance(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y, n = torch.arange(80) % 2 == 0, 300
    signal = torch.zeros(80, 6)
    signal[:, 0] = 1.5 * (2.0 * y - 1)
    x, far = (torch.randn(80, 6, generator=draw) + signal for _ in range(2))
    found = expect_tensor(attempt(x, y, far, y, n, 1), (n,), "one AUROC for each direction")
    due = by_chance(x, y, far, y, n, 1)
    if found.unique().numel() < n // 10:
        raise Wrong("nearly all values are the same; draw a new direction each time")
    turned = attempt(x, y, far - 2 * signal, y, n, 1)  # there the truth has turned round
    if torch.as_tensor(turned).min() >= 0.5:
        raise Wrong("you turn by the labels that are tested; only y, the labels of x, may be seen")
    if (found.mean() - due.mean()).abs() < 0.03 and (found.std() - due.std()).abs() < 0.03:
        return
    if (found.mean() - 0.5).abs() < 0.05:
        raise Wrong("half of your directions are upside down: turn each one by the labels y of x")
    if (found.mean() + due.mean() - 1).abs() < 0.03:
        raise Wrong("each direction is turned the wrong way: rather right than wrong about y")
    raise Wrong(f"expected values around {due.mean():.2f}, found {found.mean():.2f}: is w normal?")


def check_answer_fixed(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    truth, answer = torch.arange(120) % 2 == 0, torch.arange(120) % 5 < 2
    score = torch.randn(120, generator=draw) + 0.7 * truth - 3.0 * answer
    within = [auroc(score[answer == said], truth[answer == said]) for said in (False, True)]
    value = (within[0] + within[1]) / 2
    mistakes = {
        "you compare all items; compare only items with the same answer": auroc(score, truth),
        "only one of the two answers counts": within[1],
        "average the two AUROCs, do not add them": within[0] + within[1],
        "the answer is held fixed and the truth is scored; you turn them round": torch.stack(
            [auroc(score[truth == said], answer[truth == said]) for said in (False, True)]
        ).mean(),
    }
    found = torch.as_tensor(attempt(score, truth, answer)).float()
    expect_equal(found, value, "the AUROC, one number,", mistakes, f"here it is {value:.3f}")
    one = answer & truth  # where the answer is true, so is the truth
    if not close(torch.as_tensor(attempt(score, truth, one)).float(), auroc(score[~one], truth[~one])):
        raise Wrong("where all items of an answer have one truth, there is no AUROC: leave it out")


def check_mean_difference(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3 == 0  # a third is true
    x = torch.randn(60, 4, generator=draw) + 3 * y[:, None] * torch.tensor([1.0, 0, 0, 2.0]) + 5
    w, b = expect_two(attempt(x, y), "the direction w and the bias b")
    expect_tensor(w, (4,), "w", "it has one number per feature; average over the items")
    (right, middle), unit = mean_difference(x, y), w / w.norm()
    if not close(unit, right):
        turned = "w points from true to false; scores above 0 must say true"
        along = "w is not along the difference of the two means; take each mean over its label"
        refuse(unit, {turned: -right}, along)
    if not close(w, unit):
        raise Wrong(f"w has length {w.norm():.2f}; divide it by its length")
    mistakes = {
        "b is 0, so almost every score has the same sign: activations are far from 0; put 0 "
        "half-way between the two means": 0 * middle,
        "b puts 0 at the mean of all items, which moves with the share of true ones; put it "
        "half-way between the two means": -right @ x.mean(0),
    }
    otherwise = f"half-way between the two means the score must be 0; there b is {middle:.2f}"
    expect_equal(b, middle, "b", mistakes, otherwise)


def check_faithful(attempt) -> None:
    truth, rule = (torch.arange(16) // i % 2 == 0 for i in (1, 4))
    labels, apart = torch.stack((truth, rule), 1), truth != rule
    odds = 3.0 * (labels ^ (torch.arange(32).view(16, 2) % 5 == 0)).flatten() - 1.5

    def share(right: Tensor) -> Tensor:
        return right.float().mean(0)

    says, due = (odds > 0).view(-1, 2), faithful(odds, truth, rule)
    found = expect_two(attempt(odds, truth, rule), "the shares of all answers, and of those that differ")
    mistakes = {
        "alice's and bob's answers come in turn: view(-1, 2)": share((odds.view(2, -1).T > 0) == labels),
        "bob is asked to follow his rule, not the truth": share(says == truth[:, None]),
        "these are the shares of wrong answers": 1 - due[0],
        "the first is of all answers, the second where the labels differ": due[1],
    }
    expect_equal(found[0], due[0], "the shares, [alice bob],", mistakes, f"of all, {due[0].tolist()}")
    mistakes = {
        "the second takes only statements whose two labels differ": due[0],
        "you take the statements whose labels agree": share((says == labels)[~apart]),
    }
    expect_equal(found[1], due[1], "the shares, [alice bob],", mistakes, f"there, {due[1].tolist()}")


def check_ccs(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = 2.0 * (torch.arange(60) % 2) - 1
    x = 0.5 * torch.randn(60, 2, 5, generator=draw)
    x[..., 0] += torch.stack((-y, y), 1)  # opposites after the two answers, along the first feature
    answer = attempt(x, 1, 1)
    _expect_both(answer, "a direction and its loss")
    first = expect_tensor(answer[0], (5,), "the direction w")
    if first.requires_grad:
        raise Wrong("w still collects gradients; return w.detach()")
    w = torch.randn(5, generator=torch.Generator().manual_seed(1))
    p0, p1 = torch.sigmoid(x @ w / w.norm()).unbind(1)
    consistency, confidence = (p0 - (1 - p1)).square().mean(), torch.minimum(p0, p1).square().mean()
    due, found = consistency + confidence, torch.as_tensor(answer[1]).float()
    mistakes = {
        "only the consistency; without confidence, 0.5 everywhere would be perfect": consistency,
        "one of the two answers is right: p0 and 1 - p1 should agree, not p0 and p1": (
            (p0 - p1).square().mean() + confidence
        ),
        "square the smaller probability before you average": consistency + torch.minimum(p0, p1).mean(),
        "confidence punishes the smaller of the two probabilities, not the larger": consistency
        + torch.maximum(p0, p1).square().mean(),
        "average over the items, do not add them up": len(x) * due,
    }
    otherwise = f"the first step's loss, at w of length 1 from the seed and b = 0, is {due:.4f}"
    expect_equal(found, due, "the loss, one number,", mistakes, otherwise)
    many, loss = attempt(x, 1, 60)
    if close(many, first) or float(loss) > 0.99 * due:
        raise Wrong("w does not go down; call backward, then optimiser.step(), in each step")
    if not torch.allclose(many, ccs(x, 1, 60)[0], atol=1e-2):
        raise Wrong("60 steps end elsewhere: take Adam at rate 0.01, and clear the gradient in each step")


def compared(where: str, far) -> list[Tensor]:
    """Which of the far items are compared with each other: masks [item] in which both truths occur."""
    masks = {"labels apart": [far.apart], "answer fixed": [~far.rule, far.rule], "all items": [far.bob]}
    return [mask for mask in masks[where] if far.truth[mask].any() and not far.truth[mask].all()]


def matched(luck: Tensor, seed: int) -> Tensor:
    """Means of one direction for each method [direction], from luck [method direction]: as a mean of
    probes, each with a direction of its own."""
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([row[torch.randperm(len(row), generator=draw)] for row in luck]).mean(0)


LOOKS = [look | {"marker": "", "linewidth": 2} for look in plots.SERIES]  # of four tasks


def known_and_said() -> Drawn:
    """One statement, two names, two answers, and a probe that reads before the answer."""
    figure, (axis,) = canvas((8.4, 2.9), (-0.2, 10.2), (-0.4, 3.2))
    for y, name, said, look in ((2.5, "alice :", "true", LOOKS[0]), (0.9, "bob :", "false", LOOKS[1])):
        colour = look["color"]
        write(axis, 3.3, y, "a statement", fontsize=12)
        write(axis, 1.4, y, name, fontsize=12, weight="bold")
        write(axis, 6, y, "what the model\nholds here", fontsize=10, edge=colour)
        write(axis, 9.2, y, f"says “{said}”", fontsize=12, color=colour)
        arrow(axis, (4.3, y), (4.9, y))
        arrow(axis, (7.1, y), (8.25, y))
    arrow(axis, (6, 2.0), (6, 1.4), linestyle="--")
    write(axis, 6.15, 1.7, "a probe trained above is read off below", fontsize=10, ha="left")
    write(axis, 6, 0.1, "does it still say what is true?", fontsize=10.5, weight="bold")
    return figure, "A statement, put to alice and to bob; a probe trained for alice is read off for bob."


def by_depth(
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[Estimate]]]],
    chosen: Mapping[str, Mapping[str, int]],
) -> Drawn:
    """AUROC against depth with a band, one line per task: a row of panels per part, a column per model.

    curves: part -> model -> task -> a value per depth; chosen: model -> task -> the ring's depth.
    """
    lines = {f"{name}: {part}": row for part, of_part in curves.items() for name, row in of_part.items()}
    names, grid = (plots.DEPTH, "AUROC against the truth"), {"columns": len(chosen)}
    grid["size"] = (max(9.4 / len(chosen), 4.5), 3)
    figure, axes = plots.curves(lines, *names, LOOKS, ylim=(-0.05, 1.05), **grid)
    for axis, (title, tasks) in zip(axes, lines.items(), strict=True):
        axis.axhline(0.5, color="black", linewidth=0.8)
        for look, (task, values) in zip(LOOKS, tasks.items(), strict=True):
            k = chosen[title.partition(":")[0]][task]
            ring = {"marker": "o", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 2}
            axis.plot(k / (len(values) - 1), plain(values)[k], color=look["color"], zorder=3, **ring)
    part, last = list(curves.items())[-1]
    ends = {name: {task: last[name][task][k] for task, k in row.items()} for name, row in chosen.items()}
    return figure, f"AUROC by depth; {part}, at the depth chosen on alice's items, {listed(ends, '.2f')}."


def by_task(table: Mapping[str, Mapping[str, Mapping[str, float]]], label: str) -> Drawn:
    """Per model a map of methods by tasks and their mean; table: model -> method -> column -> AUROC."""
    if not table:
        figure, (axis,) = plots.titled(["no model here has this adapter"], "", size=(5, 0.8))
        axis.axis("off")
        return figure, f"{label}: no model here has this adapter, so nothing is drawn."
    grid = {}
    for name, rows in table.items():
        values = torch.tensor([list(row.values()) for row in rows.values()])
        cells = [[f"{value:.2f}" for value in row] for row in values.tolist()]
        columns = list(next(iter(rows.values())))
        grid[name] = Map(values.numpy(), [*rows], columns, cells, turn=30)
    figure, axes = plots.maps(grid, label, "task, labels apart", size=(4.9, 4.2), sharey=True)
    for axis in axes:
        axis.axvline(len(columns) - 1.5, color="white", linewidth=4)
    means = {name: {method: row["mean"] for method, row in rows.items()} for name, rows in table.items()}
    return figure, f"{label} by method and task; means of the tasks: {listed(means, '.2f')}."


def beside_chance(
    table: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    chance: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    known: Mapping[str, float],
) -> Drawn:
    """AUROC per method over a grey bar: where 95 % of random directions lie that read what it reads.

    table, chance: panel -> model -> method -> estimate; known: published, diamonds in the last panel.
    """
    methods = list(next(iter(next(iter(table.values())).values())))
    size = 10.5 / len(table), 4.6
    figure, axes = plots.dot_panels(table, "AUROC, mean of the tasks", (-0.04, 1.04), size=size)
    for axis, (panel, series) in zip(axes, table.items(), strict=True):
        axis.axvline(0.5, color="black", linewidth=0.8)
        for shift, name in zip(plots.side_by_side(len(series)), series, strict=True):
            for row, method in enumerate(methods):
                if bar := chance[panel][name].get(method):
                    where = {"color": GREY, "alpha": 0.3, "linewidth": 5, "zorder": 0}
                    axis.hlines(row + shift, bar.low, bar.high, **where)
    at = {methods.index(method): value for method, value in known.items() if method in methods}
    look = {"color": GREY, "marker": "D", "linestyle": "", "markersize": 5}
    axes[-1].plot(at.values(), at.keys(), label="published Transformers", **look)
    plots.legend(figure)
    panel, first = next(iter(table.items()))
    return figure, f"AUROC per method over random directions; {panel}, {listed(first, '.2f')}."


def published() -> dict[str, float]:
    """Mallen et al. (2023): the mean AUROC of each method over their tasks, all of bob's hard items."""
    names = {"LogR": "LR", "diff-in-means": "mean difference", "LogR on pair": "LR on pair"}
    names["LM on BH"] = "own answer"
    with open(files.DATA / "published" / "elk_transformers.csv", encoding="utf-8") as file:
        return {
            names.get(row["method"], row["method"]): float(row["auroc"])
            for row in csv.DictReader(file)
            if row["dataset"] == "average"
        }
