"""Lesson 06b, anomalies: noticing that a run is unusual, and what the notice is about."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import linear, reading
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_equal, expect_tensor, expect_two, pair, refuse
from tft_utils.course.plots import GREY, Drawn, listed, style, write
from tft_utils.stats import Estimate


def unusual(usual, some):
    """How far some [item depth] are from usual [item' depth]: two distances [item].

    The squared Mahalanobis distance, and the same less what the diagonal of the covariance says alone.
    """
    away, S = some - usual.mean(0), torch.cov(usual.T)
    whole = (away * torch.linalg.solve(S, away.T).T).sum(1)
    alone = (away.square() / S.diagonal()).sum(1)
    return whole, whole - alone


def against(near, far):
    """The chance that a distance of `far` [item'] is above one of `near` [item]; ties count half."""
    gap = far[:, None] - near[None, :]
    wins = (gap > 0).float() + 0.5 * (gap == 0).float()
    return wins.mean()


def caught(honest, some, alarms):
    """The share of distances `some` [item] beyond the line that a share `alarms` of `honest` exceeds."""
    line = honest.quantile(1 - alarms)
    return (some > line).float().mean()


def logistic(x, y, decay, steps):
    """w [d], b: logistic regression of labels y [item] on x [item d]; w . x + b > 0 says true.

    Newton steps from 0 towards the least mean cross-entropy + decay |w|^2. Nothing holds b back.
    """
    mean = x.mean(0)
    X = torch.cat((x - mean, torch.ones(len(x), 1)), 1).double()
    pull = torch.full((X.shape[1],), 2 * decay).double()
    pull[-1] = 0
    w = torch.zeros(X.shape[1]).double()
    for _ in range(steps):
        p = torch.sigmoid(X @ w)
        gradient = X.T @ (p - y.double()) / len(X) + pull * w
        bend = X.T @ (X * (p * (1 - p))[:, None]) / len(X) + pull.diag()
        w = w - torch.linalg.solve(bend, gradient)
    w, b = w[:-1].float(), w[-1].float()
    return w, b - w @ mean


def profile(model, prompt, probes):
    """The log-odds for `true` at the prompt's last word, at depths 1, 2, ... [depth].

    probes: (w [d_model], b) of these depths in turn.
    """
    with model.trace(prompt):
        states = []
        for k in range(1, len(probes) + 1):
            states.append(model.residual(k)[0, -1])
        states = torch.stack(states).save()
    odds = []
    for state, (w, b) in zip(states, probes, strict=True):
        odds.append(state @ w + b)
    return torch.stack(odds)


def surprise(usual, some):
    """What each depth adds to the squared distance, once the depths before it are known [item depth]."""
    away, S = some - usual.mean(0), torch.cov(usual.T)
    L = torch.linalg.cholesky(S)
    steps = torch.linalg.solve_triangular(L, away.T, upper=False)
    return steps.T.square()


def beyond(alice, bob, other, about, n, seed):
    """How much better bob is told from alice than another name is: n draws of the difference [n].

    alice, bob, other: distances of the same statements [item]. A draw takes what the statements are
    about with replacement, and all statements about each thing with it.
    """
    draw, values = torch.Generator().manual_seed(seed), []
    groups = [(about == thing).nonzero()[:, 0] for thing in about.unique()]
    for _ in range(n):
        chosen = torch.randint(len(groups), (len(groups),), generator=draw)
        items = torch.cat([groups[i] for i in chosen])
        usual = alice[items]
        values.append(against(usual, bob[items]) - against(usual, other[items]))
    return torch.stack(values)


def lie_or_name(distance, honest, name):
    """How often a false answer is more unusual than a true one under the same name: an AUROC.

    distance, honest (whether the answer is true), name (a number): [item]. It is the mean over the
    names under which both kinds of answer occur.
    """
    values = []
    for one in name.unique():
        same = name == one
        true, false = distance[same & honest], distance[same & ~honest]
        if len(true) and len(false):
            values.append(against(true, false))
    return torch.stack(values).mean()


def by_chance(usual, alice, other, n, seed):
    """How well n detectors tell another name from alice, with random directions for probes [n].

    usual, alice, other: streams [item depth d_model]. A detector reads one direction at each depth.
    """
    draw, values = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        w = torch.randn(usual.shape[1:], generator=draw)
        read = [(streams * w).sum(-1) for streams in (usual, alice, other)]
        near, _ = unusual(read[0], read[1])
        far, _ = unusual(read[0], read[2])
        values.append(against(near, far))
    return torch.stack(values)


def check_unusual(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    usual = torch.randn(200, 3, generator=draw) @ mix + 4
    some = torch.randn(5, 3, generator=draw) + 4
    away, S = some - usual.mean(0), torch.cov(usual.T)
    whole, less = unusual(usual, some)
    alone, centred = whole - less, some - some.mean(0)

    def distances(x: Tensor, covariance: Tensor) -> Tensor:
        return (x * torch.linalg.lstsq(covariance, x.T).solution.T).sum(1)

    mistakes = {
        "you measure plain distance: divide by the covariance of the usual items, so that what "
        "varies much counts little": away.square().sum(1),
        "you divide each depth by its own variance only; the covariances between depths count too": alone,
        "centre on the mean of the usual items, not on that of the new ones": distances(centred, S),
        "you multiply by the covariance; solve with it": (away @ S * away).sum(1),
        "you return the distance; leave it squared": whole.sqrt(),
        "take the covariance of the usual items, not of the new ones": distances(away, torch.cov(some.T)),
    }
    otherwise = "sum over depths of away times S^-1 away, with S the covariance of the usual items"
    first, second = expect_two(attempt(usual, some), "the distance, and the same less the diagonal's")
    expect_tensor(first, (5,), "the distances, one per item of `some`,")
    if not torch.allclose(first, whole, rtol=1e-2):  # a covariance by n or by n - 1
        refuse(first, mistakes, otherwise)
    expect_tensor(second, (5,), "the second distances, one per item of `some`,")
    if not torch.allclose(second, less, rtol=1e-2, atol=0.02 * float(whole.max())):
        wrong = {
            "the second is the whole distance less the diagonal's; you return the diagonal's": alone,
            "the second has the wrong sign: the whole distance less the diagonal's": -less,
            "divide by the variances, the diagonal of S, not by its root": whole
            - (away.square() / S.diagonal().sqrt()).sum(1),
        }
        refuse(second, wrong, "less the sum over depths of away squared, divided by the diagonal of S")


def check_against(attempt) -> None:
    near, far = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([2.0, 1.0, 0.5, 3.0])
    gap = far[:, None] - near[None, :]
    truth = torch.searchsorted(near.sort().values, far).sum() + 0.5  # one tie
    truth = truth / gap.numel()
    mistakes = {
        "a tie counts half; you count it as lost": (gap > 0).float().mean(),
        "a tie counts half; you count it as won": (gap >= 0).float().mean(),
        "you count how often `near` is the greater one": 1 - truth,
        "this is a count; divide by the number of pairs": truth * gap.numel(),
        "compare each of `far` with each of `near`, not with their mean": (far > near.mean())
        .float()
        .mean(),
    }
    found = attempt(near, far)
    found = found if torch.is_tensor(found) else torch.tensor(float(found))
    expect_equal(found.float(), truth, "the AUROC, one number,", mistakes, f"here it is {truth:.3f}")


def check_caught(attempt) -> None:
    honest, some = torch.arange(100.0), torch.tensor([50.0, 85.0, 96.0, 120.0, 3.0])
    mistakes = {
        "the line leaves the share `alarms` *above* it: take the quantile 1 - alarms": torch.tensor(0.8),
        "you return the share below the line; the share above it is caught": torch.tensor(0.4),
        "this is a count; take the share": torch.tensor(3.0),
        "the line comes from `honest`, not from `some`": torch.tensor(0.2),
    }
    found = attempt(honest, some, 0.2)
    found = found if torch.is_tensor(found) else torch.tensor(float(found))
    otherwise = "with a line at the quantile 1 - alarms of `honest`, 3 of 5 lie beyond it: 0.6"
    expect_equal(found.float(), torch.tensor(0.6), "the share caught, one number,", mistakes, otherwise)


def check_logistic(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3 == 0
    x = torch.randn(60, 4, generator=draw) + 1.5 * y[:, None] * torch.tensor([1.0, 0, 0, -1]) + 3
    w, b = expect_two(attempt(x, y, 0.02, 30), "the direction w and the bias b")
    expect_tensor(w, (4,), "w", "one number per feature; the bias is returned apart")

    def solved(x: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        W, B = linear.logistic(x[:, None], y, decay)
        return W[0], B[0]

    def near(found: Tensor, wanted: Tensor) -> bool:
        return torch.allclose(found.float(), wanted, rtol=1e-2, atol=1e-3)

    right, bias = solved(x, 0.02)
    wrong = {
        "the score points from true to false; the gradient has p - y": -right,
        "decay |w|^2 has the gradient 2 decay w: yours is half of that": solved(x, 0.01)[0],
        "average the cross-entropy over the items; you add it up": solved(x, 0.02 / 60)[0],
        "decay pulls at w, and here nothing does: add it to gradient and bend": solved(x, 1e-6)[0],
    }
    if not near(w, right):
        for hint, mistake in wrong.items():
            if near(w, mistake):
                raise Wrong(hint)
        few = attempt(x, y, 0.02, 300)[0]
        if near(few, right):
            raise Wrong("30 of your steps do not arrive: a Newton step solves with the curvature")
        raise Wrong("w is not where mean cross-entropy + decay |w|^2 is least; is b held back, too?")
    if not near(torch.as_tensor(b), bias):
        if near(torch.as_tensor(b), bias + right @ x.mean(0)):
            raise Wrong("x was centred: b must give that back, b - w @ x.mean(0)")
        raise Wrong(f"expected the bias {bias:.3f}, found {float(b):.3f}; nothing holds it back")


def check_profile(attempt) -> None:
    model, prompt = pair()["mamba"], "bob : The keys near the door"
    width, draw = model.hf.config.hidden_size, torch.Generator().manual_seed(0)
    probes = [
        (torch.randn(width, generator=draw), torch.randn((), generator=draw))
        for _ in range(model.n_layers)
    ]
    with torch.no_grad(), reading.caught(reading.depths(model), lambda out: out[0]) as streams:
        model.hf(input_ids=reading.tokens(model, prompt).ids, use_cache=False)
    streams = torch.stack(list(streams))  # [depth word d]
    W, b = (torch.stack(each) for each in zip(*probes, strict=True))
    truth = (streams[1:, -1] * W).sum(-1) + b
    found = expect_tensor(attempt(model, prompt, probes), truth.shape, "the log-odds [depth]")
    mistakes = {
        "the first probe belongs to depth 1, residual(1); depth 0 holds a word and nothing else": (
            streams[:-1, -1] * W
        ).sum(-1)
        + b,
        "you read the first word; take the last one, [0, -1]": (streams[1:, 0] * W).sum(-1) + b,
        "add each probe's b": truth - b,
        "these are probabilities; leave the log-odds as they are": torch.sigmoid(truth),
    }
    if not torch.allclose(found, truth, rtol=1e-3, atol=1e-2):
        for hint, wrong in mistakes.items():
            if torch.allclose(found, wrong, rtol=1e-3, atol=1e-2):
                raise Wrong(hint)
        raise Wrong("these are not the probes' w . x + b at the last word, depth by depth")


def check_surprise(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.4], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    usual = torch.randn(300, 3, generator=draw) @ mix + 4
    some = torch.randn(6, 3, generator=draw) + 4
    away, S = some - usual.mean(0), torch.cov(usual.T)
    columns = []  # an independent way: what a regression on the depths before leaves over
    for k in range(3):
        line = torch.linalg.solve(S[:k, :k], S[:k, k]) if k else torch.zeros(0)
        left = S[k, k] - S[k, :k] @ line
        columns.append((away[:, k] - away[:, :k] @ line).square() / left)
    truth = torch.stack(columns, 1)
    values, vectors = torch.linalg.eigh(S)
    found = expect_tensor(attempt(usual, some), (6, 3), "what each depth adds [item depth]")
    mistakes = {
        "square it: the squares add up to the squared distance": truth.sqrt()
        * torch.sign(torch.linalg.solve_triangular(torch.linalg.cholesky(S), away.T, upper=False).T),
        "this is each depth alone; what is known of the depths before must be taken off": away.square()
        / S.diagonal(),
        "these are the shares of S^-1: they add up, but one may be negative; use the triangle L": away
        * torch.linalg.solve(S, away.T).T,
        "these are the covariance's own axes, not depths: use the triangle L": (away @ vectors).square()
        / values,
    }
    if not torch.allclose(found, truth, rtol=2e-2, atol=1e-3):
        refuse(found, mistakes, "the squares of L^-1 away, with L the triangle of the usual covariance")


def check_beyond(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    about = torch.arange(120) // 4  # thirty things, four statements about each
    shared, his, hers = 1.5 * torch.randn(3, 30, generator=draw)[:, about]
    alice, bob, other = torch.randn(3, 120, generator=draw) + shared
    bob, other, n = bob + his + 1.5, other + hers, 150
    due = beyond(alice, bob, other, about, n, 1)
    found = expect_tensor(attempt(alice, bob, other, about, n, 1), (n,), "one difference for each draw")
    if found.unique().numel() < n // 10:
        raise Wrong("nearly all values are the same; draw anew each time")
    if (found.mean() + due.mean()).abs() < 0.05:
        raise Wrong("bob's AUROC less the other name's, not the other way round")
    if (found.mean() - due.mean()).abs() > 0.05:
        raise Wrong(f"expected a mean difference near {due.mean():.2f}, found {found.mean():.2f}")
    if found.std() < 0.75 * due.std():
        raise Wrong("your draws scatter too little: draw the things, and take all statements about each")
    if found.std() > 1.3 * due.std():
        raise Wrong("your draws scatter too much: one draw serves alice, bob and the other name")


def check_lie_or_name(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    name = torch.arange(90) % 3
    honest = (torch.arange(90) % 7 < 3) | (name == 2)  # under the last name all answers are true
    distance = torch.randn(90, generator=draw) + 0.8 * ~honest + 3.0 * name
    truth = lie_or_name(distance, honest, name)
    kept = name < 2
    only = lie_or_name(distance[name == 0], honest[name == 0], name[name == 0])
    mistakes = {
        "you compare runs under different names: compare within each name": against(
            distance[honest], distance[~honest]
        ),
        "you compare runs under different names: compare within each name, then average": against(
            distance[kept & honest], distance[kept & ~honest]
        ),
        "you count how often the true answer is more unusual": 1 - truth,
        "average over the names; you add up": truth * 2,
        "divide by the names that count; you divide by all of them": truth * 2 / 3,
        "only one of the names counts": only,
    }
    found = torch.as_tensor(attempt(distance, honest, name)).float()
    if found.isnan():
        raise Wrong("a name under which all answers are true has no AUROC: leave it out")
    expect_equal(found, truth, "the AUROC, one number,", mistakes, f"here it is {truth:.3f}")


def check_by_chance(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    n, shape = 200, (80, 3, 6)
    mix = torch.randn(6, 6, generator=draw)
    usual, alice, other = (torch.randn(shape, generator=draw) @ mix + 2 for _ in range(3))
    alice, other = 1.4 * alice, 1.4 * other
    other[:, 1, 0] += 6  # in one direction of one depth
    due = by_chance(usual, alice, other, n, 1)
    found = expect_tensor(attempt(usual, alice, other, n, 1), (n,), "one AUROC for each detector")
    if found.unique().numel() < n // 10:
        raise Wrong("nearly all values are the same; draw new directions for each detector")
    if (found.mean() - due.mean()).abs() < 0.03 and (found.std() - due.std()).abs() < 0.04:
        back = torch.as_tensor(attempt(usual, other, alice, n, 1))
        if (back.mean() + due.mean() - 1).abs() > 0.05:
            raise Wrong("no detector may be turned round: below 0.5 the other is the more usual one")
        return
    if (found.mean() + due.mean() - 1).abs() < 0.03:
        raise Wrong("you count how often alice is the more unusual one")
    same = attempt(usual, usual, usual, 20, 1)
    if (torch.as_tensor(same) - 0.5).abs().max() > 0.05:
        raise Wrong(
            "three times the same streams must give 0.5: compare alice's and the other's distances"
        )
    if found.mean() > due.mean():
        raise Wrong("your detectors see too much: is the other name compared with alice, not with usual?")
    raise Wrong(
        "your detectors see too little: one direction for each depth, and the covariance of usual"
    )


def usual_and_odd() -> Drawn:
    """Two depths of many usual runs, and two new runs that are equally far from their middle."""
    draw = torch.Generator().manual_seed(0)
    common, own = torch.randn(150, 1, generator=draw), torch.randn(150, 2, generator=draw)
    usual = 1.6 * common + 0.5 * own
    figure, (axis,) = plots.titled(
        [""], "what a probe says at one depth", "at a later depth", size=(6.4, 3.9)
    )
    axis.scatter(*usual.T, s=14, color=GREY, alpha=0.7, linewidth=0)
    for at, text, look in (
        ((4.0, 4.0), "far, and usual", plots.SERIES[1]),
        ((1.6, -1.6), "nearer, and unusual", plots.SERIES[2]),
    ):
        axis.plot(*at, linestyle="", markersize=11, color=look["color"], marker=look["marker"])
        write(axis, at[0] + 0.5, at[1] - 0.9, text, look["color"], ha="left", color=look["color"])
    write(axis, -4.6, 2.6, "grey: usual runs", ha="left", color=GREY)
    axis.set(xlim=(-5, 7), ylim=(-5, 5))
    return figure, (
        "Usual runs lie along a rising line; a new run far along the line is usual, and one nearer to "
        "the middle but off the line is not."
    )


WHO = {  # whose runs: their look
    "alice": plots.SERIES[0],
    "bob": plots.SERIES[2],
    "other names": plots.SERIES[1],
}


def by_depth(steps: Mapping[str, Mapping[str, Mapping[str, Sequence[Estimate]]]]) -> Drawn:
    """What each depth adds to the squared distance: a row of panels per model, a column per task.

    steps: model -> task -> one of WHO -> a mean per depth 1, 2, ..., with its interval.
    """
    panels = {f"{name}: {task}": who for name, tasks in steps.items() for task, who in tasks.items()}
    lengths = {title: len(who["bob"]) for title, who in panels.items()}
    grid = {"x": {title: [(k + 1) / n for k in range(n)] for title, n in lengths.items()}}
    grid |= {"columns": len(next(iter(steps.values()))), "size": (2.8, 2.6)}
    looks = list(WHO.values())
    figure, axes = plots.curves(panels, "depth k/L", "what a depth adds", looks, **grid)
    axes[0].set_yscale("log")
    axes[0].set_yticks([1, 10], ["1", "10"])
    most = {
        name: {task: max(plots.plain(who["bob"])) for task, who in tasks.items()}
        for name, tasks in steps.items()
    }
    return figure, f"What each depth adds to the distance; at most for bob, {listed(most, '.0f')}."


FLAGGED = {  # series of the detector: filled for bob, hollow for names never told
    "bob": {"marker": "o"},
    "bob, less the diagonal": {"marker": "s"},
    "other names": {"marker": "o", "markerfacecolor": "white"},
    "other names, less the diagonal": {"marker": "s", "markerfacecolor": "white"},
}


def flagged(
    odd: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    chance: Mapping[str, Mapping[str, Mapping[str, Estimate]]] | None = None,
) -> Drawn:
    """Per model a panel: for each task, how well the detector tells each name's items from alice's.

    odd: model -> one of FLAGGED -> task -> AUROC; chance: the same of random detectors, grey bars from
    the low to the high end.
    """

    def look(model: str, series: str, at: int) -> dict:
        return {"color": style(model)["color"]} | FLAGGED[series]

    label = "AUROC, items under this name against alice's"
    figure, axes = plots.dot_panels(odd, label, (0.2, 1.03), look, size=(4.9, 3.9))
    for axis, name in zip(axes, odd, strict=True):
        axis.axvline(0.5, color="black", linewidth=0.8)
        bars = (chance or {}).get(name, {})
        for shift, row in zip(plots.side_by_side(len(bars) or 1), bars.values(), strict=False):
            for at, bar in enumerate(row.values()):
                axis.hlines(at + shift, bar.low, bar.high, color=GREY, alpha=0.3, linewidth=6, zorder=0)
    means = {name: {who: row["mean"] for who, row in rows.items()} for name, rows in odd.items()}
    beside = " beside random detectors" if chance else ""
    return figure, f"AUROC of the anomaly detector by task{beside}; means, {listed(means, '.2f')}."
