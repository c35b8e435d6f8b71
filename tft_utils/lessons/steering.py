"""Lesson 08a, steering: references, checks and figures."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from tft_utils import models, reading, stats
from tft_utils.corpora import questions
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, expect_two, refuse
from tft_utils.course.plots import BLUE, GREEN, GREY, PURPLE, Drawn, Map, arrow, canvas, style, write
from tft_utils.techniques import steering

in_points = partial(PercentFormatter, xmax=1, decimals=0, symbol="")  # shows shares in points


def steering_vector(behaving, other):
    """The direction [...] from texts of one side [n ...] and of the other [m ...]: a mean difference."""
    return behaving.mean(0) - other.mean(0)


def last_words(model, texts):
    """The residual stream at the last word of each text, after 0 ... n_layers blocks [text k d_model].

    Texts are of one length.
    """
    with model.trace(list(texts)):
        depths = [model.residual(k)[:, -1] for k in range(model.n_layers + 1)]
        streams = torch.stack(depths, 1).save()
    return streams


def steer(model, asked, k, word, change):
    """Matching probability [prompt] when `change` [d_model] is added to one word after k blocks.

    asked: questions of one length. word: the position of the steered word; -1 is the last.
    """
    letters = steering.letter_tokens(model, asked)
    with model.trace([question.prompt for question in asked]):
        stream = model.residual(k).clone()
        stream[:, word] += change
        model.set_residual(k, stream)
        logits = model.logits[:, -1].save()
    return logits.gather(1, letters).softmax(1)[:, 0]


def swept(answers, depths, multipliers):
    """Reach and nonsense of every cell, two tables [depth multiplier].

    answers(k, m) gives matching probability and nonsense, both [prompt], when m times the direction is
    added at depth k. Reach: the mean matching probability at m minus that at -m. Nonsense: the larger
    of the two means.
    """
    reach, nonsense = torch.zeros(2, len(depths), len(multipliers))
    for i, k in enumerate(depths):
        for j, m in enumerate(multipliers):
            up, odd_up = answers(k, m)
            down, odd_down = answers(k, -m)
            reach[i, j] = up.mean() - down.mean()
            nonsense[i, j] = max(odd_up.mean(), odd_down.mean())
    return reach, nonsense


def choose(reach, nonsense, depths, multipliers, most=0.1):
    """(k, m): the cell of two tables [depth multiplier] that reaches farthest.

    Cells with more nonsense than `most` do not count. Of those within 0.005 of the farthest, the
    smallest multiplier is taken, and of its depths the smallest.
    """
    allowed = torch.where(nonsense <= most, reach, -torch.inf)
    near = allowed >= allowed.max() - 0.005
    cells = []
    for i, k in enumerate(depths):
        for j, m in enumerate(multipliers):
            if near[i, j]:
                cells.append((m, k))
    m, k = min(cells)
    return k, m


def random_like(v, n, seed):
    """n random directions [n ...] of the shape and length of v [...]; one seed gives the same ones."""
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, *v.shape, generator=draw).to(v)
    lengths = drawn.flatten(1).norm(dim=1)
    return drawn * (v.norm() / lengths).view(-1, *[1] * v.dim())


def beside(reach_of, own, n, seed):
    """Reach of the behaviours' own vectors and of what they are set beside: name -> [vector behaviour].

    reach_of(v) gives each behaviour's reach [behaviour] when v [behaviour d_model] holds its vector; own:
    the vectors of the behaviours. "its own vector" has one row, "another's" one for every shift of
    `own` by 1, 2, ... behaviours, "random" n: behaviour i draws them by `random_like` with seed + i.
    """
    drawn = torch.stack([random_like(v, n, seed + i) for i, v in enumerate(own)], 1)
    shifted = [own.roll(i, 0) for i in range(1, len(own))]
    found = {"its own vector": reach_of(own)[None]}
    found["another's"] = torch.stack([reach_of(vectors) for vectors in shifted])
    found["random"] = torch.stack([reach_of(vectors) for vectors in drawn])
    return found


def half_dose(reach_at, most, steps=6):
    """The multiplier from 0 to `most` whose reach is half of reach_at(most), by bisection."""
    goal = reach_at(most) / 2
    low, high = 0.0, most
    for _ in range(steps):
        middle = (low + high) / 2
        if reach_at(middle) < goal:
            low = middle
        else:
            high = middle
    return high


def labellings(per_cue):
    """The directions [10 ...] of all ways to set three of six cues [6 ...] against the other three.

    Cue 0 always stands on the first side. The first direction is that of cues 0, 1, 2: the true one.
    """
    found = []
    for three in itertools.combinations(range(6), 3):
        if 0 in three:
            rest = [i for i in range(6) if i not in three]
            found.append(steering_vector(per_cue[list(three)], per_cue[rest]))
    return torch.stack(found)


def check_steering_vector(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    planted = torch.tensor([3.0, 0.0, -2.0, 0.5])
    behaving = torch.randn(6, 4, generator=draw) + 10 + planted
    other = torch.randn(4, 4, generator=draw) + 10
    truth = behaving.mean(0) - other.mean(0)
    mistakes = {
        "the sign is turned: the direction leads from the other texts to the behaving ones": -truth,
        "you scale it to length 1; then a multiplier of 1 no longer means 'as far apart as the texts "
        "are'": truth / truth.norm(),
        "you add up the texts; with 6 on one side and 4 on the other that is no difference of "
        "means": behaving.sum(0) - other.sum(0),
        "that is the mean of one side; what both sides share must go": behaving.mean(0),
        "you halve it; the multiplier 1 should lead from one side's mean to the other's": truth / 2,
    }
    otherwise = "it is not the mean of one side minus the mean of the other"
    expect_equal(attempt(behaving, other), truth, "the direction", mistakes, otherwise)


def _questions(n: int) -> list[questions.Question]:
    return questions.questions("refusal", "validation")[:n]


@torch.no_grad()
def check_last_words(attempt) -> None:
    model, texts = models.load("transformer"), questions.cued("refusal", 3).behaviour
    streams = reading.streams(model, reading.tokens(model, texts).ids)  # [k text pos d_model]
    truth = streams[:, :, -1].transpose(0, 1)
    hint = "one for each text, depth 0 ... n_layers and dimension, in this order"
    answer = expect_tensor(attempt(model, texts), truth.shape, "the streams", hint)
    mistakes = {
        "you read the first word; the last one is at -1": streams[:, :, 0].transpose(0, 1),
        "you take the mean over words; take the last one": streams.mean(2).transpose(0, 1),
    }
    if not torch.allclose(answer, truth, atol=1e-4):
        refuse(answer, mistakes, "it is not model.residual(k)[:, -1] at every k, stacked along axis 1")


@torch.no_grad()
def check_steer(attempt) -> None:
    model, asked = models.load("transformer"), _questions(4)
    change = 6 * torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    read = {word: steering.read_word(model, asked, word) for word in (2, 3, 21)}

    def at(k: int, word: int, times: float = 1.0) -> Tensor:
        return steering.respond(model, read[word], k, {"residual": times * change.expand(4, -1)})[0]

    ids, _ = reading.tokens(model, [question.prompt for question in asked])
    everywhere = reading.streams(model, ids, 2)[-1] + change
    logits = reading.finish(model, everywhere, 2, torch.full((4,), 21))
    of_all = logits.gather(1, steering.letter_tokens(model, asked)).softmax(1)[:, 0]
    matching, nonsense = steering.respond(model, read[3], 2, {"residual": change.expand(4, -1)})
    of_letter = matching * (1 - nonsense)
    mistakes = {
        "nothing was steered; give the changed stream back with model.set_residual": at(2, 3, 0.0),
        "you steer the last word; steer the one at `word`": at(2, 21),
        "you steer every word; the change belongs at `word` alone": of_all,
        "you steer after k + 1 blocks; model.residual(k) is the stream after k": at(3, 3),
        "you steer after k - 1 blocks; model.residual(k) is the stream after k": at(1, 3),
        "you subtract the change; add it": at(2, 3, -1.0),
        "that is the letter's probability among all words; take the softmax over the two letters alone": (
            of_letter
        ),
        "that is the other letter's probability; the matching one comes first": 1 - at(2, 3),
    }
    otherwise = "it is not the answer with `change` added to that word's stream; add to what stands there"
    answer = attempt(model, asked, 2, 3, change)
    expect_equal(answer, at(2, 3), "the matching probabilities", mistakes, otherwise)


def _table(k: float, m: float) -> tuple[Tensor, Tensor]:
    """Made-up answers of three prompts: matching probability and nonsense."""
    matching = torch.tensor([0.5, 0.6, 0.4]) + 0.1 * k * m + (0.03 * m if m > 0 else 0)
    return matching, torch.tensor([0.0, 0.1, 0.2]) * abs(m) + (0.02 * k if m < 0 else 0)


def check_swept(attempt) -> None:
    depths, multipliers, asked = (0, 1, 2), (0.5, 1.0), []

    def answers(k, m):
        asked.append((k, m))
        return _table(k, m)

    found = expect_two(attempt(answers, depths, multipliers), "reach and nonsense")
    reach, odd = (expect_tensor(x, (3, 2), "a table [depth multiplier]") for x in found)
    if not any(m < 0 for _, m in asked):
        raise Wrong("you ask for no negative multiplier; reach goes from -m to m")
    ends = [[(_table(k, m), _table(k, -m)) for m in multipliers] for k in depths]
    means = torch.tensor([[[x.mean() for side in cell for x in side] for cell in row] for row in ends])
    up, odd_up, down, odd_down = means.unbind(-1)
    mistakes = {
        "the sign is turned: reach is the mean at m minus that at -m": down - up,
        "that is half the way; do not divide by 2": (up - down) / 2,
        "that is the distance from 0.5 of one end; take both ends": up - 0.5,
        "you keep the absolute value; what steers the wrong way has a negative reach": (up - down).abs(),
    }
    if not close(reach, up - down):
        refuse(reach, mistakes, "the reach is not the mean at m minus the mean at -m")
    mistakes = {
        "that is the nonsense of one end; take the larger of the two": odd_up,
        "you average the nonsense of the two ends; take the larger": (odd_up + odd_down) / 2,
    }
    if not close(odd, torch.maximum(odd_up, odd_down)):
        refuse(odd, mistakes, "the nonsense is not the larger of the two means")


def check_choose(attempt) -> None:
    depths, multipliers = (0, 3, 6), (0.1, 1.0, 5.0)
    reach = torch.tensor([[0.1, 0.7, 0.2], [0.2, 0.798, 0.8], [0.1, 0.797, 0.99]])
    nonsense = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.4]])
    shown = reach.clone()
    answer = attempt(reach, nonsense, depths, multipliers)
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise Wrong(f"expected two numbers, (k, m), found {answer!r}")
    if not torch.equal(shown, reach):
        raise Wrong("you change the table that you were given; work on a copy")
    k, m = (float(x) for x in answer)
    hints = {
        (6, 5): "that cell is mostly nonsense; leave out cells with more than `most`",
        (3, 5): "a smaller multiplier comes within 0.005 of the farthest; take the gentlest",
        (6, 1): "two depths are near the top at this multiplier; take the smaller depth",
        (1, 1): "you return the row of the cell; return its depth and its multiplier",
        (1, 3): "the order is (k, m): first the depth",
    }
    if (k, m) == (3, 1):
        low = torch.full((3, 3), -0.4)
        low[1, 0] = -0.1
        k, m = attempt(low, torch.zeros(3, 3), depths, multipliers)
        if (float(k), float(m)) != (3, 0.1):
            raise Wrong(
                "where all reach is negative, the cell nearest to 0 wins; mark nonsense with -inf, "
                "not with 0"
            )
        return
    raise Wrong(
        hints.get((k, m), f"found k = {k:g} and m = {m:g}, which is not the farthest allowed cell")
    )


def check_random_like(attempt) -> None:
    for v in (torch.arange(1.0, 41), torch.ones(6, 8) / 3):
        drawn = expect_tensor(attempt(v, 50, 3), (50, *v.shape), "the directions")
        lengths = drawn.flatten(1).double().norm(dim=1)
        if not torch.allclose(lengths, v.double().norm().expand(50), rtol=1e-3):
            if torch.allclose(lengths, torch.ones(50).double(), rtol=1e-3):
                raise Wrong("they have length 1; multiply by the length of v")
            if torch.allclose(drawn.double().norm(), v.double().norm(), rtol=1e-3):
                raise Wrong("all of them together are as long as v; each one should be")
            raise Wrong("each direction should be as long as v, whatever v's shape: v.norm()")
        unit = drawn.flatten(1).double() / lengths[:, None]
        if (unit[1:] @ unit[0]).min() > 0.99:
            raise Wrong("they are all the same; draw n of them")
        if unit.mean(0).norm() > 0.5:
            raise Wrong("they lean to one side; draw from a normal distribution, which has none")
        again = attempt(v, 50, 3)
        if not close(again, drawn):
            raise Wrong("the same seed should give the same directions; use a torch.Generator")
        if close(attempt(v, 50, 4), drawn):
            raise Wrong("another seed should give other directions; hand the seed to the generator")


def check_beside(attempt) -> None:
    own = torch.arange(1.0, 13).view(4, 3)

    def reach_of(vectors):
        return vectors @ torch.tensor([1.0, 0.5, -0.2])

    truth, found = beside(reach_of, own, 5, 7), attempt(reach_of, own, 5, 7)
    if not (isinstance(found, dict) and set(found) == set(truth)):
        raise Wrong(f"expected a dict with the keys {', '.join(map(repr, truth))}")
    for whose, right in truth.items():
        hint = "one row for each set of vectors, one column for each behaviour"
        expect_tensor(found[whose], right.shape, f"reach of {whose!r}", hint)
    if not close(found["its own vector"], truth["its own vector"]):
        raise Wrong("'its own vector' is reach_of(own), as one row")
    if ((found["another's"] - truth["its own vector"]).abs() < 1e-5).any():
        raise Wrong("another's: some behaviour gets its own vector; own.roll(i, 0) with i from 1 on")
    if not close(found["another's"].sort(0).values, truth["another's"].sort(0).values):
        raise Wrong("another's: every behaviour should get each other one's vector once")
    if (found["random"] - found["random"][:1]).abs().max() < 1e-5:
        raise Wrong("random: all rows are the same; row j holds the j-th random vector of each behaviour")
    if not close(found["random"], truth["random"]):
        raise Wrong("random: behaviour i draws its vectors by random_like(own[i], n, seed + i)")


def check_half_dose(attempt) -> None:
    for most, reach_at in (
        (2.0, lambda m: 0.4 * m),
        (1.0, lambda m: m**3),
        (3.0, lambda m: 0.9 * float(np.tanh(8 * m))),
    ):
        goal = reach_at(most) / 2
        grid = np.linspace(0, most, 100_001)
        truth = grid[int(np.argmax([reach_at(m) >= goal for m in grid]))]
        found = float(attempt(reach_at, most, 6))
        if abs(found - truth) <= most / 2**6 + 1e-4:
            continue
        if abs(found - most / 2) < 1e-6:
            raise Wrong("that is half of the multiplier; find the one that has half of the reach")
        fixed = grid[int(np.argmax([reach_at(m) >= 0.5 for m in grid]))]
        if abs(found - fixed) <= most / 2**5:
            raise Wrong("you look for a reach of 0.5; the goal is half of reach_at(most)")
        if found <= 2 * most / 2**6 or found >= most * (1 - 2 / 2**6):
            raise Wrong(
                "your interval shrinks to the wrong end; a middle that reaches too little becomes low"
            )
        raise Wrong(f"reach_at({found:.3g}) is {reach_at(found):.3g}, half would be {goal:.3g}")


def check_labellings(attempt) -> None:
    per_cue = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    answer = attempt(per_cue)
    if isinstance(answer, Tensor) and len(answer) == 20:
        raise Wrong("20 ways are 10 and their mirrors; keep those with cue 0 on the first side")
    if isinstance(answer, Tensor) and len(answer) == 120:
        raise Wrong("order within a side changes nothing; use combinations, not permutations")
    answer, truth = expect_tensor(answer, (10, 2, 3), "the directions"), labellings(per_cue)
    mistakes = {
        "the signs are turned: cue 0 stands on the side that is not subtracted": -truth,
        "you take sums of three; take means, as steering_vector does": 3 * truth,
    }
    if not close(answer[0], truth[0]):
        refuse(answer, mistakes, "the first direction should be that of cues 0, 1, 2 against 3, 4, 5")
    order = [next((i for i, v in enumerate(answer) if close(v, w)), None) for w in truth]
    if None in order:
        raise Wrong("one of the ten ways is missing; each three with cue 0 stands once against the rest")


def three_words() -> Drawn:
    """A sketch: the words of a question that can be steered, each in a place of its own."""
    figure, (axis,) = canvas((9, 2.5), (-0.7, 12.2), (-0.9, 2.0))
    words = ("This", "is", "a", "machine", ".", "The", "guest", "...", "Answer", ":", "(")
    places = {"announcement": (3, PURPLE), "first word": (5, GREEN), "last word": (10, BLUE)}
    for x, word in enumerate(words):
        write(axis, 1.1 * x, 0, word, fontsize=11)
        arrow(axis, (1.1 * x, 0.2), (1.1 * x, 1.5), linewidth=1)
    for place, (x, color) in places.items():
        arrow(axis, (1.1 * x, 0.2), (1.1 * x, 1.5), color=color, linewidth=3)
        write(axis, 1.1 * x, 1.75, "+ m v", fontsize=13, weight="bold", color=color)
        write(axis, 1.1 * x, -0.5, place, fontsize=10, color=color)
    write(axis, 11.9, 0, "?", fontsize=11)
    return figure, (
        "A vector, m times v, can be added to the residual stream of one word: the last word before the "
        "answer, the first word of the question, or the word machine of an announcement before it."
    )


def grids(tables: Mapping[str, tuple[Tensor, Sequence[str], Sequence[float]]], columns: int) -> Drawn:
    """Reach in points over depth x multiplier: title -> (reach, names of the depths, multipliers)."""
    drawn = {
        title: Map(
            100 * reach,
            depths,
            [f"{m:g}" for m in multipliers],
            [[str(round(100 * x)) for x in row] for row in reach.tolist()],
            origin="lower",
        )
        for title, (reach, depths, multipliers) in tables.items()
    }
    rows = max(len(depths) for _, depths, _ in tables.values())
    size = {"size": (3.1, max(2.8, 0.9 + 0.25 * rows)), "columns": columns}
    figure, _ = plots.maps(drawn, "reach (points)", "multiplier m", "depth k/L", (-100, 100), **size)
    said = "; ".join(f"{title} at most {100 * reach.max():.0f}" for title, (reach, *_) in tables.items())
    return figure, f"Reach over depth and multiplier on validation questions, in points: {said}."


def beside_chance(runs: Mapping[tuple[str, str], Mapping[str, Tensor]]) -> Drawn:
    """Reach beside chance: (model, place) -> whose vector -> reach [vector behaviour]. Random is grey."""
    panels: dict = {}
    for (name, place), run in runs.items():
        sizes, others = run["random"].abs(), run["another's"].abs().mean(0)
        for series, value in {
            "its own vector": stats.mean(run["its own vector"][0].tolist()),
            "another's, either way": stats.mean(others.tolist()),
            "random, mean": sizes.mean().item(),
            "random, 95th percentile": sizes.quantile(0.95).item(),
        }.items():
            panels.setdefault(name, {}).setdefault(series, {})[place] = value

    def look(title: str, series: str, at: int) -> dict:
        if "random" in series:
            return {"color": GREY, "marker": "^x"["mean" in series]}
        dot = {"color": style(title)["color"]}
        return dot | (
            {"marker": "D", "markerfacecolor": "none"} if "another" in series else {"marker": "o"}
        )

    places = max(len(next(iter(rows.values()))) for rows in panels.values())
    size = {"size": (9 / len(panels), 1.7 + 0.5 * places), "sharey": False}
    figure, axes = plots.dot_panels(panels, "reach (points)", (-0.15, 1.05), look, **size)
    axes[0].xaxis.set_major_formatter(in_points())
    said = "; ".join(
        f"{name}, {place}: {round(100 * run['its own vector'].mean().item())}, "
        f"random {round(100 * run['random'].abs().mean().item())}"
        for (name, place), run in runs.items()
    )
    return figure, f"Mean reach in points beside that of random vectors. {said}."


def relabelled(models: Mapping[str, Mapping[str, Sequence[float]]]) -> Drawn:
    """Reach under every labelling of six cues: model -> behaviour -> 10 labellings, the true one first.

    The mirrors are drawn as the negatives.
    """
    groups, said = {}, []
    for name, rows in models.items():
        groups[name] = {
            "true labels": {b: [ways[0]] for b, ways in rows.items()},
            "the 19 others": {b: [*ways[1:], *(-x for x in ways)] for b, ways in rows.items()},
        }
        top = sum(ways[0] > max(map(abs, ways[1:])) for ways in rows.values())
        said.append(f"in {name} the true labels reach farthest for {top} of {len(rows)} behaviours")

    def look(name: str, series: str, at: int) -> dict:
        dot = {"color": style(name)["color"], "marker": "o"}
        return dot | ({"markerfacecolor": "none"} if at else {})

    xlabel, size = "reach at the half dose (points)", (max(4.7, 9 / len(models)), 4.2)
    figure, axes = plots.dot_panels(groups, xlabel, (-1.05, 1.05), look, size=size)
    axes[0].xaxis.set_major_formatter(in_points())
    return figure, f"Every labelling of six cue words: {'; '.join(said)}."
