"""Lesson 08b, steering the state: references, checks and figures."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from tft_utils import models, reading, stats
from tft_utils.corpora import pairs, questions
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, PURPLE, VERMILION, Drawn, Map, arrow, canvas, style, write
from tft_utils.techniques import contrasts, steering
from tft_utils.techniques.contrasts import Direction

in_points = partial(PercentFormatter, xmax=1, decimals=0, symbol="")  # shows shares in points
KINDS = {  # of steering
    "residual": {"color": BLUE, "marker": "o"},
    "state": {"color": VERMILION, "marker": "s"},
    "both": {"color": PURPLE, "marker": "D"},
}


def carried_on(x, B, C, decay, change, at):
    """What a recurrence says at every word [t]: y_t = C_t h_t, where h_t = decay h_(t-1) + B_t x_t.

    x: inputs [t]; B and C: vectors [t d_state]. After word `at` has made its h, `change` [d_state] is
    added to it.
    """
    h, said = torch.zeros_like(B[0]), []
    for t in range(len(x)):
        h = decay * h + B[t] * x[t]
        if t == at:
            h = h + change
        said.append(C[t] @ h)
    return torch.stack(said)


def state_vectors(model, behaving, other):
    """Of each block, compressed part -> its direction, from texts of two sides.

    It is the mean state that reaches the last word of the one side, minus that of the other. Returns a
    list with one dict for each block, empty where a block has no compressed part.
    """
    ids, mask = reading.tokens(model, [*behaving, *other], side="left")
    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])
    n, found = len(behaving), []
    for layer in range(model.n_layers):
        vectors = {}
        for part in model.kind(layer).compressed:
            state = model.state(cache, layer)[part]
            vectors[part] = state[:n].mean(0) - state[n:].mean(0)
        found.append(vectors)
    return found


def steer_state(model, asked, k, part, change):
    """Matching probability [prompt] when `change` is added to a part of the state in the k-th block.

    The state is the one that reaches the last word. asked: questions of any lengths.
    """
    ids, mask = reading.tokens(model, [question.prompt for question in asked], side="left")
    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])
    state = model.state(cache, k - 1)[part]
    state += change
    _, logits = reading.run(model, ids[:, -1:], mask, cache)
    letters = steering.letter_tokens(model, asked)
    return logits.gather(1, letters).softmax(1)[:, 0]


def reach_of_groups(model, asked, vectors, groups, m):
    """Reach of each group of places [group]: the mean matching probability at m minus that at -m.

    vectors: as `state_vectors` gives them. A group is a list of places (k, part) that are changed
    together, each by its own vector. The prompts, of one length, are read once up to their last word;
    each change is made in a copy of what that leaves.
    """
    ids, mask = reading.tokens(model, [question.prompt for question in asked])
    before, _ = reading.run(model, ids[:, :-1], mask[:, :-1])
    letters, reach = steering.letter_tokens(model, asked), []
    for group in groups:
        ends = []
        for times in (m, -m):
            cache = copy.deepcopy(before)
            for k, part in group:
                state = model.state(cache, k - 1)[part]
                state += times * vectors[k - 1][part]
            _, logits = reading.run(model, ids[:, -1:], mask, cache)
            ends.append(logits.gather(1, letters).softmax(1)[:, 0].mean())
        reach.append(ends[0] - ends[1])
    return torch.stack(reach)


def put_given(given, change, end):
    """A `put` for one block, which runs step by step.

    The state that word end - 1 leaves behind, the point 'carry', gets `change` added. Every point that
    `given` names has the value that stands there, and all others keep theirs.
    """

    def put(name, value, t=None):
        if name == "carry" and t == end - 1:
            return value + change
        return given.get(name, value)

    put.stepwise = True
    return put


def continued(model, prompts, n, change, seed):
    """n sampled tokens behind each prompt, at temperature 1: texts.

    change(cache) is called once, after all words but the last have been read. Special tokens are never
    sampled. Prompts are of one length.
    """
    ids, _ = reading.tokens(model, prompts)
    draw = torch.Generator(ids.device).manual_seed(seed)
    cache, _ = reading.run(model, ids[:, :-1])
    change(cache)
    words = [ids[:, -1:]]
    for _ in range(n):
        cache, logits = reading.run(model, words[-1], cache=cache)
        logits[:, model.tokenizer.all_special_ids] = -torch.inf
        words.append(torch.multinomial(logits.softmax(-1), 1, generator=draw))
    return model.tokenizer.batch_decode(torch.cat(words[1:], 1))


def affordable(tried, most=1.2):
    """The multiplier that turns most stories at a price.

    tried: multiplier -> (share of stories turned, perplexity ratio). Those with a ratio above `most` do
    not count. Of equals the smallest is taken, and 0 where none turns any.
    """
    chosen, turned = 0.0, 0.0
    for m in sorted(tried):
        share, ratio = tried[m]
        if ratio <= most and share > turned:
            chosen, turned = m, share
    return chosen


def check_carried_on(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    x, B, C = (torch.randn(size, generator=draw) for size in (5, (5, 3), (5, 3)))
    change = torch.tensor([2.0, -1.0, 0.5])

    def run(decay: float, at: int, change: Tensor, C: Tensor = C) -> Tensor:
        return carried_on(x, B, C, decay, change, at)

    every = sum(run(0.5, t, change) for t in range(5)) - 4 * run(0.5, 0, 0 * change)
    said_only = run(0.5, 2, 0 * change)
    said_only[2] += C[2] @ change
    mistakes = {
        "you change nothing; at t == at, add `change` to h": run(0.5, 2, 0 * change),
        "you change h before it decays; change it when word `at` has made it": run(0.5, 2, 0.5 * change),
        "you change what word at + 1 leaves; count from 0": run(0.5, 3, change),
        "you change h at every word; the change comes once": every,
        "the change reaches one word alone; put it into h itself, which goes on": said_only,
        "h keeps all of its past; multiply it by decay at each word": run(1.0, 2, change),
        "h forgets all of its past; keep decay times what it was": run(0.0, 2, change),
    }
    otherwise = "it is not C_t h_t at every word; update h first, change it if t == at, then read it out"
    answer = attempt(x, B, C, 0.5, change, 2)
    expect_equal(answer, run(0.5, 2, change), "what is said at every word", mistakes, otherwise)


@torch.no_grad()
def check_state_vectors(attempt) -> None:
    model, (behaving, other) = models.load("mamba"), questions.cued("refusal", 3)[:2]
    other = [text.partition(" . ")[2] for text in other[:2]]  # without the cue, and so shorter
    truth = contrasts.directions(model, questions.Contrast(behaving, other))["behaviour"].state
    found = attempt(model, behaving, other)
    if not (isinstance(found, list | tuple) and all(isinstance(block, dict) for block in found)):
        raise Wrong(f"expected a list of dicts, one for each block, found {type(found).__name__}")
    if len(found) != model.n_layers:
        raise Wrong(f"expected {model.n_layers} dicts, one for each block, found {len(found)}")
    ids, mask = reading.tokens(model, [*behaving, *other], side="left")
    late, blind = reading.run(model, ids, mask)[0], reading.run(model, ids[:, :-1])[0]
    caches = {
        "you read the state behind the last word; read all words but the last": late,
        "padding is read as words; hand the mask to reading.run": blind,
    }
    for layer, parts in enumerate(truth):
        if set(found[layer]) != set(parts):
            raise Wrong(
                f"block {layer + 1} should have {', '.join(parts)}, found "
                f"{', '.join(found[layer]) or 'nothing'}; take the names of model.kind(layer).compressed"
            )
        for part, vector in parts.items():
            mistakes = {"the sign is turned: behaving minus other": -vector}
            for hint, cache in caches.items():
                state = model.state(cache, layer)[part]
                mistakes[hint] = state[:3].mean(0) - state[3:].mean(0)
            expect_equal(
                found[layer][part],
                vector,
                f"the direction of {part} in block {layer + 1}",
                mistakes,
                "it is not the mean of one side minus that of the other, each over its own texts",
            )
    without = attempt(models.load("transformer"), behaving, other)
    if any(without):
        raise Wrong(
            "a Transformer carries nothing of one size, so its dicts are empty; take the names of "
            "model.kind(layer).compressed"
        )


def _questions(n: int, behaviour: str = "refusal") -> list[questions.Question]:
    return questions.questions(behaviour, "validation")[:n]


@torch.no_grad()
def check_steer_state(attempt) -> None:
    model, asked = models.load("mamba"), [*_questions(2), *_questions(2, "hallucination")]
    k, part = model.n_layers, model.kind(model.n_layers - 1).compressed[0]
    read = steering.read_once(model, asked)
    states = read.past[k - 1][part][:, 0]
    change = torch.randn(states.shape[1:], generator=torch.Generator().manual_seed(1))
    change *= states[0].norm() / change.norm()

    def at(times: float, k: int = k) -> Tensor:
        return steering.respond(model, read, k, {part: times * change.expand_as(states)})[0]

    mistakes = {
        "nothing was steered; `state += change` changes the cache itself, `state = state + change` makes "
        "a copy": at(0.0),
        "you change block k + 1's or another block's state; the k-th block is layer k - 1": at(
            1.0, k - 1
        ),
        "you subtract the change; add it": at(-1.0),
    }
    cache, _ = reading.run(
        model, *(x[:, :-1] for x in reading.tokens(model, [q.prompt for q in asked[:2]]))
    )
    if model.state(cache, 0)[part].shape[0] != 2:
        raise RuntimeError("expected one state for each prompt")
    otherwise = (
        "it is not the answer with the change made before the last word; read all words but the last, "
        "change, then read the last with the mask of all"
    )
    answer = attempt(model, asked, k, part, change)
    expect_equal(answer, at(1.0), "the matching probabilities", mistakes, otherwise)


@torch.no_grad()
def check_reach_of_groups(attempt) -> None:
    model, asked = models.load("mamba"), _questions(4)
    vectors, n = (
        contrasts.directions(model, questions.cued("refusal", 4))["behaviour"].state,
        model.n_layers,
    )
    groups = [[(n, "ssm"), (n, "conv")], [(n - 1, "ssm")], [(n, "ssm")]]
    ready, m = steering.read_once(model, asked), 0.05

    def end(group: list, m: float) -> Tensor:
        k = group[0][0]
        changes = {part: vectors[k - 1][part] for _, part in group}
        changes = {part: m * v.expand(4, *v.shape) for part, v in changes.items()}
        return steering.respond(model, ready, k, changes)[0].mean()

    up, down = (torch.stack([end(group, times) for group in groups]) for times in (m, -m))
    answer = expect_tensor(attempt(model, asked, vectors, groups, m), (3,), "the reaches")
    mistakes = {
        "the sign is turned: reach is the mean at m minus that at -m": down - up,
        "nothing was steered; `state += ...` changes the copy itself, `state = state + ...` makes "
        "another": torch.zeros(3),
        "that is one end; reach goes from -m to m": up,
        "that is the distance from 0.5 of one end; take both ends": up - 0.5,
    }
    if not torch.allclose(answer, up - down, atol=2e-4):
        refuse(
            answer,
            mistakes,
            "it is not the reach of each group by itself; take a fresh copy of the cache for every "
            "change, or what was changed before stays in it",
        )


def check_put_given(attempt) -> None:
    C, change = torch.tensor([7.0, 8.0]), torch.tensor([1.0, 2.0])
    put, value = attempt({"C": C}, change, 5), torch.tensor([10.0, 20.0])
    if not callable(put):
        raise Wrong(f"expected a function, found {type(put).__name__}; define put inside and return it")
    if not getattr(put, "stepwise", False):
        raise Wrong("set put.stepwise = True; the state is there only step by step")
    for name, t, truth, hint in (
        ("gate", None, value, "a point that is not given keeps its value; return value"),
        ("C", None, C, "the point C should have the value that is given for it"),
        (
            "carry",
            4,
            value + change,
            "the state that word end - 1 leaves behind should get the change added",
        ),
        (
            "carry",
            5,
            value,
            "word end itself leaves a state behind, too late for the answer: t is end - 1",
        ),
        ("carry", 2, value, "you change the state at every word; the change comes once, at end - 1"),
    ):
        answer = put(name, value.clone()) if t is None else put(name, value.clone(), t)
        if not (isinstance(answer, Tensor) and close(answer, truth)):
            raise Wrong(hint)


@torch.no_grad()
def check_continued(attempt) -> None:
    model = models.load("mamba")
    prompts = [pair.corrupt.prompt(6) for pair in pairs.mood_pairs(3)]
    layer, called = model.n_layers - 1, []

    def change(cache) -> None:
        called.append(1)
        state = model.state(cache, layer)["ssm"]
        state += 1.0

    shape = steering.read_once(model, _questions(1)).past[layer]["ssm"].shape[2:]
    state = tuple({"ssm": torch.full(shape, float(i == layer))} for i in range(model.n_layers))
    push = steering.Push(Direction(torch.zeros(1), state), 1.0, (layer + 1,), ("ssm",))
    found = attempt(model, prompts, 6, change, 3)
    if not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
        raise Wrong(f"expected a list of texts, found {type(found).__name__}; decode with batch_decode")
    if len(called) != 1:
        raise Wrong(f"change should be called once, found {len(called)} calls; call it before the loop")
    plain, truth = (steering.continuations(model, prompts, 6, how, 3) for how in (None, push))
    if found == truth:
        return
    if found == plain:
        raise Wrong(
            "nothing was changed in what you go on from; call change(cache) on the cache of all words "
            "but the last"
        )
    if [text.split()[1:] for text in found] == [text.split() for text in truth]:
        raise Wrong("you decode the prompt's last word as well; leave it out")
    if [len(text.split()) for text in found] != [6, 6, 6]:
        raise Wrong(f"expected 6 words behind each prompt, found {found[0]!r}")
    if found != attempt(model, prompts, 6, change, 3):
        raise Wrong("the same seed should give the same texts; use a torch.Generator")
    raise Wrong(
        "these are not the model's own samples; take softmax of the logits, sample with the generator, "
        "and go on from the cache with the sampled word alone"
    )


def check_affordable(attempt) -> None:
    tried = {2.0: (0.9, 1.5), 0.5: (0.3, 1.0), 1.0: (0.6, 1.2), 1.5: (0.6, 1.1)}
    hints = {
        2.0: "that one costs too much; ratios above `most` do not count",
        1.5: "a smaller multiplier turns as many; of equals take the smallest",
        0.5: "a larger one that is allowed turns more; a ratio of `most` itself is allowed",
        0.6: "you return the share; return the multiplier",
    }
    for most, truth in ((1.2, 1.0), (2.0, 2.0)):
        found = attempt(dict(tried), most)
        if not isinstance(found, int | float):
            raise Wrong(f"expected one multiplier, found {type(found).__name__}")
        if found != truth:
            raise Wrong(hints.get(found, f"found {found:g}, which is not the best that is allowed"))
    for none in ({1.0: (0.5, 1.3)}, {1.0: (0.0, 1.0)}):
        try:
            found = attempt(none, 1.2)
        except (ValueError, KeyError) as error:
            raise Wrong("where nothing is allowed or nothing turns, return 0.0") from error
        if found != 0:
            raise Wrong("where nothing is allowed or nothing turns, return 0.0")


def in_one_order(
    model, asked: Sequence[questions.Question], told: questions.Contrast, m: float = 1.0
) -> tuple[stats.Estimate, stats.Estimate]:
    """Reach of all compressed states at once, by vectors read from texts of one letter order alone: on
    questions of that order, and of the other. Each question is asked under both orders' vectors.

    told: pairs of texts as of `cued`. Reach: the matching probability at m minus that at -m.
    """
    ready, reach = steering.read_once(model, asked), {True: [], False: []}
    letter = min(question.matching for question in asked)
    for first in (True, False):  # the behaviour's letter
        sides = [[t for t, f in zip(side, told.first, strict=True) if f == first] for side in told[:2]]
        vectors = contrasts.directions(model, questions.Contrast(*sides))["behaviour"].state
        ends = []
        for times in (m, -m):
            x = ready.residual[0][:, None, None]  # [prompt variant 1 d_model]
            for layer, (past, changes) in enumerate(zip(ready.past, vectors, strict=True)):
                steered = {part: past[part] + times * change for part, change in changes.items()}
                x = model.block(layer, x, past=past | steered)
            chances = model.to_logits(x[:, 0, 0]).gather(1, ready.letters).softmax(1)
            ends.append(chances[:, 0])
        for question, moved in zip(asked, (ends[0] - ends[1]).tolist(), strict=True):
            reach[(question.matching == letter) == first].append(moved)
    return stats.mean(reach[True]), stats.mean(reach[False])


def two_places() -> Drawn:
    """A sketch: what can be steered at a word of either model."""
    figure, axes = canvas((9, 3.1), (-0.6, 4.0), (-0.4, 2.3), "Transformer", "Mamba")
    looks = [{"color": style(name)["color"]} for name in ("transformer", "mamba")]
    for axis, look in zip(axes, looks, strict=True):
        for x, word in enumerate(("...", "Answer", ":", "(")):
            write(axis, x, -0.2, word, fontsize=13)
            arrow(axis, (x, 0.05), (x, 2.0))
        write(axis, 3.08, 1.5, "+ m v", ha="left", fontsize=14, weight="bold", **look)
        write(axis, 3.08, 1.15, "residual\nstream", ha="left", fontsize=9, va="top", **look)
    for x in range(3):
        arrow(axes[0], (x + 0.05, 0.6), (2.95, 1.0), connectionstyle="arc3,rad=-0.1", **looks[0])
        arrow(axes[1], (x + 0.05, 0.8), (x + 0.95, 0.8), **looks[1])
    write(axes[1], 2.5, 0.5, "+ m s", fontsize=14, weight="bold", **looks[1])
    write(axes[1], 2.5, 0.3, "state", fontsize=9, va="top", **looks[1])
    return figure, (
        "In both models a vector can be added to the residual stream of the last word; in Mamba "
        "also to the state that reaches that word."
    )


def blocks(reaches: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Drawn:
    """Reach in points of blocks' states, changed alone: title -> (reach [row block], names of rows)."""
    drawn, said = {}, []
    for title, (reach, rows) in reaches.items():
        cells = [[str(round(100 * x)) for x in row] for row in reach.tolist()]
        drawn[title] = Map(100 * reach, rows, range(1, reach.shape[1] + 1), cells)
        row, at = divmod(int(reach.argmax()), reach.shape[1])
        said.append(f"{title}: {rows[row]} of block {at + 1} reaches {round(100 * reach.max().item())}")
    tall = 1.0 + 0.4 * max(len(rows) for _, rows in reaches.values())
    size = {"size": (4.5, tall), "columns": min(2, len(drawn))}
    figure, _ = plots.maps(drawn, "reach (points)", "block", "", (-100, 100), **size)
    return figure, f"Reach of each block's state, changed alone, in points. {'; '.join(said)}."


def both_ways(rows: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Drawn:
    """Reach. Of each row: model -> kind of steering -> behaviour -> share.

    All panels have one list of behaviours beside them: that of the last row.
    """
    behaviours = list(next(iter(next(iter(rows[-1].values())).values())))
    columns, groups = max(map(len, rows)), {}
    for row in rows:
        for name, kinds in row.items():
            groups[name] = {kind: {b: x.get(b, np.nan) for b in behaviours} for kind, x in kinds.items()}
        groups |= {" " * (len(groups) + at): {} for at in range(len(row), columns)}

    def look(title: str, kind: str, at: int) -> dict:
        return KINDS[kind]

    grid = {"size": (2.9, 3.3), "columns": columns}
    figure, axes = plots.dot_panels(groups, "reach or range (points)", (-0.03, 1.05), look, **grid)
    axes[0].xaxis.set_major_formatter(in_points())
    for axis in axes:
        axis.tick_params(labelbottom=True)  # also where the panel below is empty
    said = plots.each(groups, lambda row: f"median {100 * np.nanmedian(list(row.values())):.0f}")
    return figure, f"Range or reach of the matching probability in points. {said}."


def moods(tried: Mapping[str, Mapping[float, tuple[float, float]]], n: int) -> Drawn:
    """Per model multiplier -> (share of n stories turned, perplexity ratio): two panels."""
    figure, (good, harm) = plots.titled(["", ""], "multiplier m", size=(4.6, 3.4), sharey=False)
    said = []
    for name, rows in tried.items():
        shares, ratios = zip(*rows.values(), strict=True)
        bars = [stats.proportion(round(share * n), n) for share in shares]
        plots.curve(good, bars, list(rows), name, bars=True, **style(name))
        plots.curve(harm, ratios, list(rows), **style(name))
        said.append(
            f"{name} from {shares[0]:.0%} to {shares[-1]:.0%} good continuations "
            f"at {ratios[-1]:.2f} times the perplexity"
        )
    good.set(ylabel="good-mood continuations (%)", ylim=(-0.03, 1.03))
    good.yaxis.set_major_formatter(in_points())
    harm.axhline(1.2, color=GREY, linewidth=1, linestyle=":")
    harm.set(ylabel="perplexity, steered / unsteered", ylim=(0.9, 2))
    plots.legend(figure)
    return figure, f"Stories that began badly: {'; '.join(said)}."
