"""Lesson 00, start_here: reading the residual stream, and writing into it.

The checks know the truth from plain PyTorch hooks, so they also judge answers that avoid nnsight.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from nnsight import NNsight
from torch import Tensor

from tft_utils import models, reading, stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.course.exercises import NotAttempted, Wrong, close, expect_tensor, expect_two
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, style, write
from tft_utils.course.verdicts import word_for
from tft_utils.stats import Estimate


def both_layers(net, x):
    """What the first and the second layer of a network give for x: two tensors."""
    with net.trace(x):
        first = net[0].output.save()
        second = net[1].output.save()
    return first, second


def likeliest(model, prompt, n):
    """The n likeliest next words, each with its probability: a list of (word, float), likeliest first."""
    with model.trace(prompt):
        logits = model.output.logits[0, -1].save()
    chances, ids = logits.softmax(-1).topk(n)
    return [(model.tokenizer.decode(i), p.item()) for i, p in zip(ids, chances, strict=True)]


def last_word(model, prompt):
    """The last word's residual stream after k = 0 ... L blocks: [k d_model]."""
    with model.trace(prompt):
        stream = [model.residual(k)[0, -1] for k in range(model.n_layers + 1)].save()
    return torch.stack(stream)


def transplant(model, source, target, k, positions):
    """Next-word logits [prompt vocab] after `target`, its stream at depth k and `positions`, a list,
    replaced by that of `source`. Both are a prompt, or lists of equally many prompts."""
    with model.trace(source):
        donor = model.residual(k)[:, positions].save()
    with model.trace(target):
        model.residual(k)[:, positions] = donor
        logits = model.output.logits[:, -1].save()
    return logits


def moved(model, sources, targets, answers, k):
    """How often a transplant of the last word at depth k makes the answer the likeliest next word.

    Three lists, one item a pair: where vectors come from, where they go, what to count. Returns an
    `Estimate`."""
    logits = transplant(model, sources, targets, k, [-1])
    hits = 0
    for row, answer in zip(logits, answers, strict=True):
        word = model.tokenizer.decode(row.argmax())
        if word == answer:
            hits += 1
    return stats.proportion(hits, len(answers))


def wrong_donors(sources, answers):
    """For each pair the prompt of another pair, whose own answer is not the one that is counted."""
    donors, n = [], len(sources)
    for i, counted in enumerate(answers):
        other = (i + 1) % n
        while answers[other] == counted:
            other = (other + 1) % n
        donors.append(sources[other])
    return donors


def noisy(model, target, k, seed):
    """Next-word logits [prompt vocab] after `target`, a prompt or a list of prompts, the last word's
    stream at depth k replaced by noise: a random direction, as long as the vector that was there."""
    draws = torch.Generator().manual_seed(seed)
    with model.trace(target):
        own = model.residual(k)[:, -1]
        noise = torch.randn(own.shape, generator=draws).to(own)
        noise = noise / noise.norm(dim=-1, keepdim=True)
        noise = noise * own.norm(dim=-1, keepdim=True)
        model.residual(k)[:, -1] = noise
        logits = model.output.logits[:, -1].save()
    return logits


def arrives(shares):
    """The depth k/L at which the shares, of k = 0 ... L, first reach one half.

    Between two depths on a straight line; nan if they never do."""
    if shares[0] >= 0.5:
        return 0.0
    L = len(shares) - 1
    for k in range(1, L + 1):
        before, after = shares[k - 1], shares[k]
        if after >= 0.5:
            return (k - 1 + (0.5 - before) / (after - before)) / L
    return float("nan")


def call_it(low, high, basis=(1, 1)):
    """The verdict on a ratio whose 95 % interval reaches from low to high.

    basis: the two ends of the interval of the Transformer's own effect, by which the ratio divides.
    """
    if basis[0] <= 0:
        return "no basis"
    if low > 0.75:
        return "transfers"
    if high < 0.25:
        return "no"
    if low >= 0.25 and high <= 0.75:
        return "partly"
    if low >= 0.25:
        return "at least partly"
    if high <= 0.75:
        return "at most partly"
    return "undecided"


@functools.cache
def _pair() -> dict[str, models.Model]:
    return models.load_models()


@torch.no_grad()
def _run(model, prompt: str, k: int = 0, edit=None) -> tuple[Tensor, Tensor, Tensor]:
    """Residual streams [k pos d_model], mixer outputs [layer pos d_model] and logits [vocab] of a
    run in which `edit`, when given, changes the stream [1 pos d_model] after k blocks in place."""
    values: dict[str, list[Tensor]] = {"residual": [], "mixer": []}

    def note(site: str, depth: int, value: Tensor) -> None:
        if edit and (site, depth) == ("residual", k):
            edit(value)
        values[site].append(value[0].clone())

    with reading.watch(model, note):
        logits = model.hf(input_ids=reading.tokens(model, prompt).ids, use_cache=False).logits[0, -1]
    return torch.stack(values["residual"]), torch.stack(values["mixer"]), logits


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def check_both_layers(attempt) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
    net, x = NNsight(torch.nn.Sequential(*layers)), torch.tensor([1.0, 2.0])
    try:
        first, second = expect_two(attempt(net, x), "what the first layer gives and what the second")
    except (NotAttempted, Wrong):
        raise
    except Exception as error:
        hints = {
            "OutOfOrderError": "the trace runs once, from first to last: ask for the first layer first",
            "UnboundLocalError": "what a trace computes is gone after it, unless you call .save() on it",
            "NameError": "what a trace computes is gone after it, unless you call .save() on it",
        }
        if type(error).__name__ in hints:
            raise Wrong(f"{type(error).__name__}: {hints[type(error).__name__]}") from error
        raise
    truth = layers[0](x), layers[1](layers[0](x))
    if close(first, truth[1]) and close(second, truth[0]):
        raise Wrong("both are right, in the wrong order: return the first layer's output first")
    for found, expected, name, i in zip((first, second), truth, ("first", "second"), (0, 1), strict=True):
        if not close(found, expected):
            raise Wrong(f"your {name} tensor is not what the {name} layer gives: `net[{i}].output`")


def check_likeliest(attempt) -> None:
    pair = world_pairs.fact_pairs(1, seed=1)[0]
    prompt, n = pair.clean.prompt(pair.position), 3
    for name, model in _pair().items():
        logits = _run(model, prompt)[2]
        chances, ids = logits.softmax(-1).sort(descending=True)
        words = [model.tokenizer.decode(i) for i in ids]
        found = attempt(model, prompt, n)
        if not isinstance(found, list) or not all(isinstance(x, tuple) and len(x) == 2 for x in found):
            raise Wrong("expected a list of pairs (word, probability)")
        if len(found) != n:
            raise Wrong(f"asked for {n} words, found {len(found)}")
        said, numbers = [word for word, _ in found], torch.tensor([float(p) for _, p in found])
        if not all(isinstance(word, str) for word in said):
            raise Wrong(
                f"expected words, found {said[0]!r}; `model.tokenizer.decode` turns an id into one"
            )
        if said == words[-n:][::-1] or said == words[:n][::-1]:
            raise Wrong("the likeliest word comes first; you sort the other way round")
        if said != words[:n]:
            raise Wrong(
                f"after '{prompt}' {name} says {words[:n]}, and you {said}; the logits of the last "
                "position are about the next word"
            )
        if _same(numbers, logits.sort(descending=True).values[:n]):
            raise Wrong("these are logits; a softmax over the whole vocabulary makes probabilities")
        if not _same(numbers, chances[:n]):
            raise Wrong(
                f"probabilities {[round(p, 3) for p in numbers.tolist()]} are not those of {name}: "
                "take the softmax over the whole vocabulary, then the n largest"
            )


def check_last_word(attempt) -> None:
    prompt = world.documents("facts", 1, seed=1)[0].prompt(5)
    for name, model in _pair().items():
        streams, mixers, _ = _run(model, prompt)
        truth = streams[:, -1]
        vectors = expect_tensor(
            attempt(model, prompt),
            truth.shape,
            "vectors [k d_model]",
            f"{name} has {model.n_layers} blocks, so {model.n_layers + 1} depths, and you keep one "
            "vector for each of them: that of the first prompt of the batch and its last word",
        )
        if _same(vectors, truth):
            continue
        if _same(vectors, streams[:, 0]):
            raise Wrong("these are the vectors of the first word; the last word stands at index -1")
        if _same(vectors[1:], mixers[:, -1]):
            raise Wrong("this is what each block's mixer adds; read the stream itself, `residual`")
        k = next(k for k in range(len(truth)) if not _same(vectors[k], truth[k]))
        raise Wrong(f"on {name}, your vector at depth k = {k} is not the last word's residual stream")


def check_transplant(attempt) -> None:
    pair = world_pairs.fact_pairs(1, seed=1)[0]
    source, target = pair.corrupt.prompt(pair.position), pair.clean.prompt(pair.position)
    subject, whole = pair.clean.positions("subject"), slice(None)
    mistakes = {
        "your edit changes nothing: assign to the positions of `model.residual(k)` itself, not to a "
        "copy": (target, target, subject),
        "the roles are exchanged: the donor's vectors come from `source`, and you return what `target` "
        "says with them": (target, source, subject),
        "you replace the last word; replace the words at `positions`": (source, target, [-1]),
        "you replace the whole stream; replace only the words at `positions`": (source, target, whole),
    }
    for name, model in _pair().items():
        depths = (0, model.n_layers // 2, model.n_layers)
        hint = "one row for each prompt, the logits after its last word: `logits[:, -1]`"
        shape = [1, model.config.vocab_size]
        attempts = [attempt(model, source, target, k, subject) for k in depths]
        logits = [expect_tensor(x, shape, "logits [prompt vocab]", hint)[0] for x in attempts]
        if not _all_same(logits, model, depths, source, target, subject):
            for mistake, arguments in mistakes.items():
                if _all_same(logits, model, depths, *arguments):
                    raise Wrong(mistake)
            raise Wrong(
                f"on {name}, your logits differ from those of an edit at `positions` after k blocks; "
                "at k = 0, replacing every word of the subject must give what `source` itself gives"
            )
        both = attempt(model, [source, target], [target, source], depths[1], [-1])
        rows = expect_tensor(both, [2, shape[1]], "logits [prompt vocab] of two prompts", hint)
        for row, (here, there) in zip(rows, ((source, target), (target, source)), strict=True):
            if not _all_same([row], model, depths[1:2], here, there, [-1]):
                raise Wrong(
                    "right for one prompt, wrong for a list of two: keep the first axis, `[:, ...]`"
                )


def _all_same(logits: list[Tensor], model, depths, source: str, target: str, where) -> bool:
    """Are these the logits of transplants from `source` into `target` at each of the depths?"""
    donors, _, _ = _run(model, source)

    def expected(k: int) -> Tensor:
        def edit(stream: Tensor) -> None:
            stream[:, where] = donors[k, where]

        return _run(model, target, k, edit)[2]

    return all(_same(x, expected(k)) for x, k in zip(logits, depths, strict=True))


def check_moved(attempt) -> None:
    pairs = world_pairs.fact_pairs(6, seed=1)
    targets = [pair.clean.prompt(pair.position) for pair in pairs]
    sources = [pair.corrupt.prompt(pair.position) for pair in pairs]
    own, donors = [pair.answer for pair in pairs], [pair.foil for pair in pairs]
    half = donors[:3] + ["nothing"] * 3  # what no model says
    for name, model in _pair().items():
        last = model.n_layers
        found = attempt(model, sources, targets, half, last)
        if not isinstance(found, Estimate):
            raise Wrong(
                f"expected an Estimate, found {found!r}; `stats.proportion(hits, n)` gives a share "
                "its interval"
            )
        if found.n != len(pairs):
            raise Wrong(f"the share is one of {len(pairs)} pairs, yours of {found.n}")
        truth = moved(model, sources, targets, half, last).value
        if found.value != truth:
            everything = moved(model, sources, targets, donors, last).value
            if found.value in (everything, everything - truth):
                raise Wrong(
                    "you count edits that change the answer; count those that give the one in `answers`"
                )
            if attempt(model, sources, targets, own, last).value == 1:
                raise Wrong("source and target are exchanged: vectors come from sources, go to targets")
            raise Wrong(f"{name}: at the last depth the share is {truth:.0%}, yours is {found.value:.0%}")
        for k in (0, last // 2):
            found, truth = (
                attempt(model, sources, targets, own, k),
                moved(model, sources, targets, own, k),
            )
            if found.value != truth.value:
                raise Wrong(
                    f"{name}, depth {k}: the targets' own answers come out in {truth.value:.0%}, you say "
                    f"{found.value:.0%}; transplant the last word at depth k"
                )


def check_wrong_donors(attempt) -> None:
    answers = ["cotton", "cotton", "rice", "oats", "rice", "rice", "cotton"]
    sources = [f"prompt {i}" for i in range(len(answers))]
    donors = attempt(list(sources), list(answers))
    if not isinstance(donors, list) or len(donors) != len(sources):
        raise Wrong("expected a list with one prompt for each pair")
    if donors == sources:
        raise Wrong("these are the pairs' own donors; a control needs those of other pairs")
    for i, (donor, counted) in enumerate(zip(donors, answers, strict=True)):
        if donor not in sources:
            raise Wrong(f"pair {i} gets {donor!r}, which is none of the prompts in `sources`")
        if answers[sources.index(donor)] == counted:
            raise Wrong(
                f"you give pair {i}, where {counted!r} is counted, the donor {donor!r}, which leads to "
                f"{counted!r} too: look further along the list, and after its end go on at its start"
            )


@torch.no_grad()
def check_noisy(attempt) -> None:
    pairs = [world_pairs.fact_pairs(1, seed=seed)[0] for seed in (1, 2)]
    prompts = [pair.clean.prompt(pair.position) for pair in pairs]
    for name, model in _pair().items():
        for k in (0, model.n_layers // 2):
            seen: list[Tensor] = []

            def note(module, inputs, seen=seen) -> None:
                seen.append(inputs[0].clone())

            hook = model.module("block", k).register_forward_pre_hook(note)
            try:
                logits = attempt(model, prompts, k, 0)
            finally:
                hook.remove()
            shape = [2, model.config.vocab_size]
            expect_tensor(logits, shape, "logits [prompt vocab]", "one row a prompt: `logits[:, -1]`")
            own = torch.stack([_run(model, prompt)[0][k, -1] for prompt in prompts])
            there = seen[-1][:, -1]
            where = f"on {name}, at depth {k}, "
            if _same(there, own):
                raise Wrong(f"{where}the last word's vector is as before: assign to the stream itself")
            lengths, wanted = there.norm(dim=-1), own.norm(dim=-1)
            if not torch.allclose(lengths, wanted, rtol=1e-3):
                raise Wrong(
                    f"{where}your noise has the lengths {[round(v, 1) for v in lengths.tolist()]}, "
                    f"the stream had {[round(v, 1) for v in wanted.tolist()]}: scale each row"
                )
            if _same(there[0] / there[0].norm(), there[1] / there[1].norm()):
                raise Wrong("both prompts get the same direction: draw a vector for each")
            if torch.cosine_similarity(there, own).abs().max() > 0.7:
                raise Wrong(f"{where}your noise points where the stream did: take a random direction")
            for i, prompt in enumerate(prompts):

                def edit(stream: Tensor, i=i, there=there) -> None:
                    stream[:, -1] = there[i]

                if not _same(logits[i], _run(model, prompt, k, edit)[2]):
                    raise Wrong(
                        "replace the last word's vector alone, and return what the edited run says"
                    )
        once, again, other = (attempt(model, prompts, 0, seed) for seed in (0, 0, 1))
        if not _same(once, again) or _same(once, other):
            raise Wrong("the same seed must give the same noise, and another seed other noise")


def check_arrives(attempt) -> None:
    cases = {  # shares, depth
        (0.0, 0.2, 0.4, 0.6, 1.0): 0.625,
        (0.0, 0.0, 1.0): 0.75,
        (0.6, 0.4, 0.9): 0.0,
        (0.1, 0.5, 0.3, 0.7, 0.9): 0.25,
        (0.0, 0.1, 0.2): math.nan,
    }
    hints = {
        0.625: "it lies half-way between k = 2 and k = 3 of L = 4",
        0.75: "it lies half-way between k = 1 and k = 2 of L = 2",
        0.0: "it is reached before any block",
        0.25: "what counts is the first time, here at k = 1 of L = 4",
    }
    for shares, truth in cases.items():
        found = attempt(list(shares))
        if not isinstance(found, (int, float)):
            raise Wrong(f"expected a number, found {found!r}")
        if math.isnan(truth) and not math.isnan(found):
            raise Wrong('shares that never reach one half have no such depth: return float("nan")')
        if not math.isnan(truth) and not math.isclose(found, truth, abs_tol=1e-6):
            k = math.isclose(found, truth * (len(shares) - 1)) or math.isclose(
                found, math.ceil(truth * (len(shares) - 1))
            )
            count = "; divide k by L, the number of blocks" if k and truth else ""
            raise Wrong(f"for {list(shares)} expected {truth}, found {found:.4g}: {hints[truth]}{count}")


def check_call_it(attempt) -> None:
    ends = [-0.4, 0.1, 0.24, 0.26, 0.5, 0.74, 0.76, 1.0, 1.3]
    for low, high in ((a, b) for a in ends for b in ends if a < b):
        word, right = attempt(low, high), word_for(low, high)
        if word != right:
            sides = {
                "transfers": "all of it lies above three quarters",
                "no": "all of it lies below a quarter",
                "partly": "it lies between the two borders",
                "at least partly": "it excludes 'no', and not 'transfers'",
                "at most partly": "it excludes 'transfers', and not 'no'",
                "undecided": "it holds both borders",
            }
            raise Wrong(f"[{low}, {high}] is '{right}', you say {word!r}: {sides[right]}")
    for basis, why in (
        ((-0.1, 0.2), "the Transformer's own effect may be 0, so there is nothing to divide by"),
        ((-0.4, -0.2), "an effect below 0 means that the technique does worse than its control"),
    ):
        if (word := attempt(0.8, 1.2, basis)) != "no basis":
            raise Wrong(f"with the basis {list(basis)} it is 'no basis', you say {word!r}: {why}")
    if attempt(0.8, 1.2, (0.02, 0.3)) == "no basis":
        raise Wrong("[0.02, 0.3] is a basis: all of it lies above 0")


def how_the_past_arrives() -> Drawn:
    """A picture of the one difference that the course is about."""
    left, right = ({"color": style(name)["color"]} for name in ("transformer", "mamba"))
    titles = "Transformer: look back at every word", "Mamba: carry one state of fixed size"
    figure, axes = canvas((9, 3), (-0.6, 4.6), (-0.35, 2.2), *titles)
    for x, word in enumerate(("The", "keys", "near", "it", "are")):
        for axis in axes:
            write(axis, x, 0, word, fontsize=13)
        arrow(axes[1], (x, 0.2), (x, 1.0))
        write(axes[1], x, 1.2, "state", fontsize=10, edge=right["color"])
    for x in range(4):
        arrow(axes[0], (x, 0.2), (4, 1.45), connectionstyle="arc3,rad=-0.15", **left)
        arrow(axes[1], (x + 0.32, 1.2), (x + 0.68, 1.2), **right)
    write(axes[0], 4, 1.8, "reads all\nof the past", **left)
    write(axes[1], 4, 1.8, "reads only\nthe state", **right)
    return figure, (
        "Left: in a Transformer the last word has an arrow from every earlier word. "
        "Right: in Mamba each word updates one state that is handed from word to word."
    )


def capabilities(live: Mapping[str, Mapping[str, Estimate]], bars: Mapping[str, object]) -> Drawn:
    """Accuracy per capability and model with 95 % intervals; a tick marks what was asked for."""
    rows = {name: {kind: row[kind] for kind in bars} for name, row in live.items()}
    xlabel = "accuracy (for 'persona uncued': mean probability)"
    low = min(e.low for row in live.values() for e in row.values())
    figure, _ = plots.compared(rows, xlabel, (min(0.3, low - 0.02), 1.02))
    for i, bar in enumerate(bars.values()):
        figure.axes[0].vlines(bar, i - 0.35, i + 0.35, color=GREY, linewidth=2)
    least = {
        name: min(e.value for kind, e in measured.items() if kind != "persona_uncued")
        for name, measured in live.items()
    }
    lowest = "; ".join(f"{name}'s lowest accuracy is {value:.0%}" for name, value in least.items())
    return figure, f"Accuracy on held-out questions with intervals beside each bar: {lowest}."


def depth_curves(
    curves: Mapping[str, Sequence[Estimate]], controls: Mapping[str, Sequence[Estimate]], ylabel: str
) -> Drawn:
    """One estimate per depth k and model, with 95 % bands, over k/L; controls are thin and grey."""
    lines = plots.with_controls(curves, controls)
    figure, _ = plots.curves({"": lines}, plots.DEPTH, ylabel, ylim=(-0.03, 1.03))
    ends = " and ".join(
        f"{name} from {e[0].value:.0%} to {e[-1].value:.0%}" for name, e in curves.items()
    )
    top = max(e.value for estimates in controls.values() for e in estimates)
    return figure, f"{ylabel} rises with depth: {ends}; the control stays at or below {top:.0%}."
