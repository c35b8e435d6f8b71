"""Lesson 07b, knockout_and_edits: its exercises, and figures of cuts, carried parts and edits."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_tensor, refuse
from tft_utils.course.plots import BLACK, BLUE, GREY, VERMILION, Drawn, Lines, canvas, each, style, write
from tft_utils.stats import Estimate
from tft_utils.techniques import attention, patching


def dual_state(u, delta, A, B, C, sources, queries):
    """The scan in which no source reaches any query: y [pos channel].

    u, delta [pos channel]; A [channel d_state], negative; B, C [pos d_state]; sources, queries: sets
    of positions. The state decays at a blocked source as it always does. Other positions read as ever.
    """
    whole = kept = torch.zeros_like(A)
    y = []
    for t in range(len(u)):
        decay = torch.exp(delta[t, :, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        whole = decay * whole + write
        kept = decay * kept + (0 if t in sources else write)
        y.append((kept if t in queries else whole) @ C[t])
    return torch.stack(y)


def reach(sources, width):
    """The mask `sources` [prompt pos], with the `width` positions after each source added."""
    wider = sources.clone()
    for j in range(1, width + 1):
        wider[:, j:] |= sources[:, :-j]
    return wider


def knockout(model, batch, sources, readers, window):
    """Whether each answer survives when in `window` blocks, from each one on, no source reaches a
    reader: 1 or 0 [window prompt].

    sources, readers: masks [prompt pos] of the clean prompts.
    """
    rows, right = torch.arange(len(batch)), []
    for first in range(model.n_layers - window + 1):
        layers = range(first, first + window)
        logits = attention.block(model, batch.ids, layers, sources, readers, spread=False)
        right.append(batch.right(logits[rows, batch.last]))
    return torch.stack(right).float()


def handed_over(model, batch, n, parts):
    """m of the corrupt prompts when, after n words, they go on from parts of the clean run: [prompt].

    parts: names of what the model carries. What is not handed over stays as the corrupt run had it.
    """
    donor, mixed = (reading.run(model, ids[:, :n])[0] for ids in (batch.ids, batch.corrupt))
    for layer in range(model.n_layers):
        source, target = (model.state(cache, layer) for cache in (donor, mixed))
        for name in target.keys() & set(parts):
            target[name].copy_(source[name])
    past = {model.architecture.CACHE: mixed}
    logits = model.hf(input_ids=batch.corrupt[:, n:], use_cache=True, **past).logits
    return batch.score(logits[torch.arange(len(batch)), batch.last - n])


def descend(surprise, size, rate, stop=0.05, steps=30):
    """The first change of a value with which a surprise is below `stop`, by gradient descent: [size].

    surprise: takes a change [size], gives one number. rate: of Adam, which begins at a change of 0 and
    takes at most `steps` steps.
    """
    change = torch.zeros(size, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=rate)
    for _ in range(steps):
        with torch.enable_grad():
            loss = surprise(change)
        if loss < stop:
            break
        (change.grad,) = torch.autograd.grad(loss, change)
        optimiser.step()
    return change.detach()


def rank_one(W, k, v, C):
    """W changed by a matrix of rank one, so that it stores v under the key k: [d_out d_in].

    W [d_out d_in]; k [d_in]; v [d_out]; C [d_in d_in]: the mean of k k^T over other keys, which are to
    notice as little as possible.
    """
    u = torch.linalg.solve(C, k)
    return W + torch.outer(v - W @ k, u / (u @ k))


def five_tests(fact, says):
    """Each test's share of right answers after one edit: a dict of five, nan where nothing is asked.

    fact: a `FactEdit`. says: a prompt -> the likeliest next word of the edited model.
    """
    asked = {
        "efficacy": [(fact.prompt, fact.new)],
        "paraphrase": [(prompt, fact.new) for prompt in fact.paraphrases],
    }
    to_stay = {"neighbourhood": fact.neighbours, "kin": fact.kin, "other relations": fact.others}
    for test, questions in to_stay.items():
        asked[test] = [(prompt, answer) for prompt, answer in questions if answer != fact.new]
    shares = {}
    for test, questions in asked.items():
        right = [says(prompt) == answer for prompt, answer in questions]
        shares[test] = sum(right) / len(right) if right else float("nan")
    return shares


def together(shares):
    """The harmonic mean of the five tests' means; shares [edit test], nan where nothing was asked."""
    means = torch.as_tensor(shares).nanmean(0)
    means = means[means.isfinite()]
    return float(len(means) / (1 / means).sum())


@functools.cache
def _asked() -> list[tuple[models.Model, reading.Asked, Tensor]]:
    """Each organism of the pair, a few pairs of prompts with 4 words or more behind the subject, and
    a mask of the subjects."""
    drawn = world_pairs.fact_pairs(60, seed=3)
    pairs = [p for p in drawn if p.position - 1 - p.clean.positions("subject")[-1] > 3][:6]
    last = torch.tensor([pair.clean.positions("subject")[-1] for pair in pairs])
    found = []
    for model in models.load_models().values():
        batch = patching.asked_of(model, pairs)
        found.append((model, batch, reading.at_positions(batch, last)))
    return found


def check_dual_state(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(6, n, generator=draw) for n in (3, 2, 2))
    delta = 0.2 + torch.rand(6, 3, generator=draw)
    A, query, none = -0.2 - torch.rand(3, 2, generator=draw), 4, set()
    answer = expect_tensor(attempt(u, delta, A, B, C, {1, 2}, {query}), (6, 3), "y")
    plain = dual_state(u, delta, A, B, C, none, none)
    unblocked = expect_tensor(attempt(u, delta, A, B, C, none, none), (6, 3), "y")
    hints = {
        "a word writes delta * u * B; your write lacks delta": dual_state(
            u / delta, delta, A, B, C, none, none
        ),
        "the state is exp(delta * A) times what it was, not delta * A or A alone": dual_state(
            u * delta, torch.ones_like(delta), A, B, C, none, none
        ),
    }
    if not close(unblocked, plain):
        refuse(unblocked, hints, "with no source and no query, y must be that of the plain scan")
    if close(answer, dual_state(u, delta, A, B, C, {1, 2}, {query})):
        if not close(attempt(u, delta, A, B, C, none, {query}), plain):
            raise Wrong("with no source blocked, y must be that of the plain scan")
        return
    outside = torch.tensor([1, 0, 0, 1, 1, 1])[:, None]  # of the sources
    hints = {
        "every position loses the sources; only the queries may: keep two states": (u * outside, delta),
        "nothing is blocked: at a query, read the state that never took in the sources": (u, delta),
    }
    refuse(answer, {hint: dual_state(*case, A, B, C, none, none) for hint, case in hints.items()})
    hint = "the second state stands still at a source; it must decay there, and take in nothing"
    refuse(answer[query], {hint: dual_state(u, delta * outside, A, B, C, none, none)[query]})
    others = [t for t in range(6) if t != query]
    if not close(answer[others], plain[others]):
        raise Wrong("positions that are no queries must read the whole state, as ever")
    raise Wrong(
        "the query's y is not C times a state that decays like the other and skips the sources' writes"
    )


def check_reach(attempt) -> None:
    sources = torch.zeros(2, 8, dtype=torch.bool)
    sources[0, 1] = sources[1, 2] = sources[1, 6] = True
    before = sources.clone()
    for width in (3, 0, 1):
        answer = expect_tensor(attempt(sources, width), (2, 8), "the mask")
        if not torch.equal(sources, before):
            raise Wrong("you change the mask you were given; return a new one")
        truth = reach(before, width)
        if torch.equal(answer.bool(), truth):
            continue
        if torch.equal(answer.bool(), truth & ~before) and width:
            raise Wrong("the sources themselves are missing; they stay in")
        if torch.equal(answer.bool().flip(1), reach(before.flip(1), width)):
            raise Wrong(
                "you add the words before a source; a convolution looks back, so the words after it"
            )
        if torch.equal(answer.bool(), reach(before, width + 1)):
            raise Wrong(f"you add {width + 1} words instead of {width}")
        if torch.equal(answer.bool(), before):
            raise Wrong("nothing was added; shift the mask to the right by 1, 2 ... width places")
        raise Wrong(
            f"with width {width}, each source and the {width} positions after it are in, no other"
        )


@torch.no_grad()
def check_knockout(attempt) -> None:
    for model, batch, sources in _asked():
        last, earlier = (reading.at_positions(batch, batch.last - i) for i in (0, 1))
        sources = reach(sources, 3)
        for window in (max(1, model.n_layers // 3), model.n_layers):
            truth = patching.knockout(model, batch, sources, last, window, spread=False)
            hint = "a row for each first block of a window, a column for each prompt"
            answer = expect_tensor(attempt(model, batch, sources, last, window), truth.shape, "it", hint)
            mistakes = {
                "you cut from the wrong reader; hand `readers` over": patching.knockout(
                    model, batch, sources, earlier, window, spread=False
                ),
                "1 is an answer that survives": 1 - truth,
                "the sources and the readers have changed places": torch.ones_like(truth),
            }
            if not close(answer.float(), truth):
                refuse(answer.float(), mistakes)
                raise Wrong(
                    "these are not the answers that survive; block `window` blocks at a time, from "
                    "`first` on, with spread=False, and read logits at `batch.last`"
                )


@torch.no_grad()
def check_handed_over(attempt) -> None:
    for model, batch, sources in _asked():
        n = int(sources.long().argmax(1)[0]) + 2
        same = batch[sources.long().argmax(1) == n - 2]
        names = list(model.state(reading.run(model, same.ids[:, :n])[0], 0))
        m = [
            same.score(reading.finish(model, reading.streams(model, ids)[-1], model.n_layers, same.last))
            for ids in (same.ids, same.corrupt)
        ]
        for parts in (names, names[:1]):
            answer = attempt(model, same, n, parts)
            truth = patching.transplant(model, same, torch.full_like(same.last, n - 1), parts)
            truth = m[1] + truth * (m[0] - m[1])
            answer = expect_tensor(answer, (len(same),), "m", "one number for each prompt")
            mistakes = {
                "nothing is handed over: copy into what the corrupt run carries, before it goes on": m[1],
                "all is handed over, whatever `parts` says": m[0],
            }
            for hint, wrong in mistakes.items():
                if not _alike(answer, truth) and _alike(answer, wrong):
                    raise Wrong(hint)
            if not _alike(answer, truth):
                raise Wrong(
                    "not m after the hand-over: both runs read n words, every layer hands over parts, "
                    "the corrupt prompts go on with their words from n on"
                )


def _alike(answer: Tensor, truth: Tensor) -> bool:
    return torch.allclose(answer.double(), truth.double(), rtol=1e-2, atol=5e-3)


@torch.no_grad()
def check_descend(attempt) -> None:
    goal, calls = torch.tensor([1.0, -2.0, 0.5]), []

    def surprise(change: Tensor) -> Tensor:
        calls.append(change.detach().clone())
        return (change - goal).square().sum()

    for rate, stop, steps in ((0.1, 0.5, 100), (0.1, 0.05, 100), (0.1, 0.0, 7)):
        calls.clear()
        answer = expect_tensor(attempt(surprise, 3, rate, stop, steps), (3,), "the change")
        seen, right = list(calls), descend(surprise, 3, rate, stop, steps)
        if answer.requires_grad:
            raise Wrong("the change still asks for a gradient; return `change.detach()`")
        if close(answer, right):
            continue
        if not seen or seen[0].abs().max() > 0:
            raise Wrong("begin at a change of 0, which is where the value is as it was")
        if close(answer, torch.zeros(3)):
            raise Wrong("the change never moves: set its `.grad`, then take a step of the optimiser")
        if (answer - goal).norm() > goal.norm():
            raise Wrong("you climb: a step must make the surprise smaller")
        if stop and (answer - goal).square().sum() < 0.9 * (right - goal).square().sum():
            raise Wrong(
                "you go on after the surprise is below `stop`; an edit that overshoots breaks more"
            )
        raise Wrong(
            "not where Adam stops: at most `steps` steps at `rate`, and none once the surprise is below "
            "`stop`"
        )


def check_rank_one(attempt) -> None:
    draw = torch.Generator().manual_seed(1)
    W, k, v = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (4,), (3,)))
    root = torch.randn(4, 4, generator=draw)
    C, before = root @ root.T + 0.5 * torch.eye(4), W.clone()
    answer = expect_tensor(attempt(W, k, v, C), (3, 4), "the new matrix")
    if not torch.equal(W, before):
        raise Wrong("you change the W you were given; return a new matrix")
    if torch.linalg.matrix_rank(answer - W, atol=1e-4) > 1:
        raise Wrong("the change has a rank above one; it is the outer product of two vectors")
    if not torch.allclose(answer @ k, v, atol=1e-3):
        if torch.allclose((answer - W) @ k, v, atol=1e-3):
            raise Wrong("you add v to what W stored; only the difference v - W k is missing")
        raise Wrong("the new matrix does not store v: times k it must give v; mind the scale of u")
    if close(answer, W + torch.outer(v - W @ k, k / (k @ k))):
        raise Wrong("v is stored, but you ignore C: keys that are common elsewhere are moved too much")
    if not torch.allclose(answer, rank_one(W, k, v, C), atol=1e-3):
        raise Wrong("v is stored, but another u moves the other keys less: solve C u = k")


def check_five_tests(attempt) -> None:
    fact = world_pairs.FactEdit(
        prompt="a is",
        subject=0,
        old="x",
        new="y",
        paraphrases=("it is a :", "of a :"),
        neighbours=(("b is", "x"), ("c is", "y"), ("d is", "z")),
        kin=(("a a is", "z"),),
        known=("a has", 0),
        others=(("a eats", "u"), ("a sees", "v"), ("a hears", "w"), ("a likes", "y")),
    )
    said = {"a is": "y", "it is a :": "y", "b is": "x", "d is": "y", "c is": "y", "a a is": "z"}
    said |= {"a eats": "u", "a sees": "y"}

    def says(prompt: str) -> str:
        return said.get(prompt, "y")

    nothing = fact._replace(kin=(("a a is", "y"),), paraphrases=())
    for each_fact in (fact, nothing):
        answer, right = attempt(each_fact, says), five_tests(each_fact, says)
        if not isinstance(answer, dict) or answer.keys() != right.keys():
            raise Wrong(f"expected a dict with the keys {', '.join(right)}")
        if answer == {test: 100 * share for test, share in right.items()}:
            raise Wrong("shares lie between 0 and 1")
        for test, share in right.items():
            found = float(answer[test])
            if math.isnan(share) != math.isnan(found):
                raise Wrong(f"{test}: nothing is asked of this fact; its share is nan")
            if not math.isnan(share) and abs(found - share) > 1e-6:
                raise Wrong(
                    f"{test}: expected {share:.2f} for one case, found {found:.2f}; the prompt and its "
                    "paraphrases ask for the new object, the others for their own; leave out a "
                    "question whose own answer is the new object"
                )


def check_together(attempt) -> None:
    shares = torch.tensor([[1.0, 0.5, 1, 1, 0.2], [1.0, 1.0, 1, math.nan, 0.6]]).double()
    lost = shares.clone()
    lost[:, 3] = math.nan
    for each_case in (shares, lost):
        right = together(each_case)
        found = float(attempt(each_case))
        means = each_case.nanmean(0)
        means = means[means.isfinite()]
        if abs(found - right) < 1e-6:
            continue
        if math.isnan(found):
            raise Wrong(
                "a test that asks an edit nothing holds nan there: take `nanmean`, drop empty tests"
            )
        if abs(found - float(means.mean())) < 1e-6:
            raise Wrong("this is the plain mean; in the harmonic one, one bad test spoils the score")
        if abs(found - float((1 / means).mean())) < 1e-6:
            raise Wrong("you return the mean of the inverses; the score is its inverse")
        raise Wrong(f"expected {right:.3f} for one case, found {found:.3f}: n over the sum of 1 / mean")


def known_first(
    pair: Mapping[str, models.Model], facts: Sequence[world_pairs.Pair]
) -> list[world_pairs.Pair]:
    """The facts, those first whose answer every model finds likeliest of all words; prints how many.

    Among these, and among the others, a prompt that stood before comes after all that are new.
    """
    known = torch.ones(len(facts), dtype=torch.bool)
    for model in pair.values():
        asked = patching.asked_of(model, facts)
        x = reading.streams(model, asked.ids)[-1]
        known &= asked.right(reading.finish(model, x, model.n_layers, asked.last)).cpu()
    print(f"{int(known.sum())} of {len(facts)} prompts are answered by every model; those come first")
    prompts = [fact.clean.prompt(fact.position) for fact in facts]
    ranks = [(not right, prompts.index(prompts[i]) < i) for i, right in enumerate(known.tolist())]
    return [facts[i] for i in sorted(range(len(facts)), key=ranks.__getitem__)]


CONTROL = {"color": GREY, "linestyle": "-.", "marker": "v"}


def two_cuts() -> Drawn:
    """A sketch: the same edge blocked in attention and in a scan, and the way round it."""
    figure, axes = canvas(
        (9.6, 3.3), (-0.6, 3.6), (-0.75, 2.4), "attention", "a scan, and a convolution before it"
    )
    words = ("in", "Lesor", "grow", "...")
    for axis, late in zip(axes, (False, True), strict=True):
        for i, word in enumerate(words):
            write(axis, i, -0.45, word, color=VERMILION if i == 1 else BLACK)
            ring = VERMILION if i == 1 or (late and i == 2) else GREY
            axis.plot(i, 0, marker="o", markersize=13, markerfacecolor="white", markeredgecolor=ring)
        axis.plot(3, 1.6, marker="o", markersize=13, markerfacecolor="white", markeredgecolor=BLUE)
        write(axis, 3, 2.05, "reads", color=BLUE)
        for i in range(3):
            plots.arrow(axis, (i, 0.16), (2.86, 1.5), color=VERMILION if i == 1 else GREY)
        write(axis, 1.75, 0.76, "x", color=VERMILION, fontsize=17, weight="bold")
    plots.arrow(axes[1], (1.14, 0), (1.86, 0), color=VERMILION, linewidth=2.2)
    write(axes[1], 1.5, 0.26, "mixed in", color=VERMILION, fontsize=9)
    return figure, (
        "The last word reads three words; the edge from the subject is blocked. In the right panel a "
        "convolution has already mixed the subject into the next word, whose edge is open."
    )


def curves(lines: Lines, x: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Drawn:
    """Lines with 95 % bands, a panel a model on the same axes; a label that begins 'control' is grey.
    From the fifth label on, markers are hollow."""
    labels = list(dict.fromkeys(label for row in lines.values() for label in row))

    def look(name: str, label: str, at: int) -> dict:
        again, i = divmod(labels.index(label), len(plots.SERIES))
        own = CONTROL if label.startswith("control") else plots.SERIES[i]
        return {"markersize": 5} | own | ({"markerfacecolor": "white"} if again else {})

    def ends(line: Sequence[Estimate]) -> str:
        values = [e.value for e in line if e.n]
        return f"{values[0]:.2f} to {values[-1]:.2f}, lowest {min(values):.2f}"

    figure, _ = plots.curves(lines, xlabel, ylabel, look, ylim=(-0.05, 1.05), x=x)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {each(lines, ends)}."


def tests_of(rows: Mapping[str, Mapping[str, plots.Row]]) -> Drawn:
    """The five tests of an edit: a panel for each matrix, in it a marker for each model."""
    size = (4.7, 3.0)
    figure, _ = plots.dot_panels(rows, "share of right answers", (-0.03, 1.03), size=size)
    return figure, f"Right answers after an edit, by test. {each(rows, _lowest)}."


def _lowest(row: plots.Row) -> str:
    worst = min(row, key=lambda test: plots.plain([row[test]])[0])
    return f"lowest {worst}, {plots.plain([row[worst]])[0]:.2f}"


Points = tuple[Sequence[float], Sequence[float]]  # relative depths, scores


def sweep(
    scores: Mapping[str, Mapping[str, Sequence[float]]], published: Mapping[str, Mapping[str, Points]]
) -> Drawn:
    """An edit's score by layer: per panel the models over relative depth, and in grey the published
    sweeps of another model (label -> its points)."""
    lines = {title: dict(by_model) for title, by_model in scores.items()}
    for title, others in published.items():
        lines[title] |= {label: dict(zip(*line, strict=True)) for label, line in others.items()}

    def look(title: str, label: str, at: int) -> dict:
        ours = len(scores[title])
        return style(label) if at < ours else {"color": GREY, "linestyle": ":", "marker": "^v"[at - ours]}

    names = "block / last block", "score (harmonic mean)"
    figure, _ = plots.curves(lines, *names, look, ylim=(-0.03, 1.03))
    said = each(scores, lambda line: f"block {line.index(max(line))} with {max(line):.2f}")
    return figure, f"The best block for an edit: {said}."
