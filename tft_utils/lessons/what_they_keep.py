"""Lesson 09b, what_they_keep: how much trained machines hold, how long, and what they can overwrite."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora import world
from tft_utils.corpora.lexicon import WORLD, Lexicon, Rng
from tft_utils.corpora.pairs import Pair
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_equal, expect_two
from tft_utils.course.plots import GREY, Drawn, canvas, listed, points, style, write
from tft_utils.course.standings import Cell
from tft_utils.course.verdicts import WORDS
from tft_utils.lessons.other_machines import draws, gated_delta
from tft_utils.models import SCALES
from tft_utils.organisms.evaluation import random_model
from tft_utils.reading import Asked
from tft_utils.stats import Estimate
from tft_utils.techniques import patching


def misread(machine, keys, again):
    """Squared error of what is read under the keys of each table [table], after all were told a value.

    machine: (keys [pos table key], values [pos table value], on [pos table]) -> what is read [pos table
    value]; it writes where `on` is 1. keys [n table key]. Each value is a direction of its own, of length
    1. again: every key is told a second time, another value, and that is the one to be read.
    """
    told = torch.cat([keys, keys]) if again else keys
    n, tables = keys.shape[:2]
    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)
    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)
    on[-n:] = 0  # to ask is not to write
    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)
    return (read[-n:] - values[-n:]).square().sum(-1).mean(0)


def lay_out(lexicon, names, colours, between, order):
    """A document that tells each name its colour, says the words `between`, and then asks for names.

    names, colours: what is told, in turn; who is told twice is there twice. order: which of what was told
    is asked for, as indices. A colour that is told has the role 'item', one that is asked for 'value'.
    """
    draft = world.Draft(lexicon)
    draft.fill(lexicon.opening)

    def state(i, role):
        draft.add(names[i])
        draft.add(colours[i], role=role)
        draft.add(".")

    for i in range(len(names)):
        state(i, "item")
    for word in between:
        draft.add(word)
    for i in order:
        state(i, "value")
    return draft.document("recall")


def recalled(logits, at, wanted):
    """The share of right answers of each document [doc]: the wanted word is the likeliest one.

    logits [doc pos vocab]; at [doc n]: where the answers stand; wanted [doc n]: their token ids.
    """
    rows = torch.arange(len(logits))[:, None]
    guesses = logits[rows, at - 1].argmax(-1)
    return (guesses == wanted).float().mean(-1)


def survival(decay, planted):
    """What is left of a planted state after each word that follows, as a share of its length: [pos head].

    decay [pos head key key], of the words that follow; planted [head key value].
    """
    left, shares = planted, []
    for D in decay:
        left = D @ left
        shares.append(left.norm(dim=(-2, -1)) / planted.norm(dim=(-2, -1)))
    return torch.stack(shares)


def told_again(ids, logits, told, asked):
    """Shares of each document [3 doc]: at the first question new and old colour, else the right one.

    ids [doc pos]; logits [doc pos vocab]; told, asked [doc n]: where colours are told and asked for. The
    first that is told is the old colour of the name that is asked for first.
    """
    wanted = ids.gather(1, asked)
    old = ids.gather(1, told[:, :1])
    first, others = asked[:, :1], asked[:, 1:]
    says_new = recalled(logits, first, wanted[:, :1])
    says_old = recalled(logits, first, old)
    says_others = recalled(logits, others, wanted[:, 1:])
    return torch.stack([says_new, says_old, says_others])


def lost(model, asked, layers, where):
    """What clean runs lose when mixers of these blocks write at `where` what they write in the corrupt
    ones, and what there is to lose, clean minus corrupt: two tensors [pair].

    asked: an `Asked`, whose `ids` are the clean prompts; where [pair pos], a mask.
    """
    clean = reading.streams(model, asked.ids)
    corrupt = reading.streams(model, asked.corrupt)
    puts = {}
    for layer in layers:
        other = patching.held(model, corrupt[layer], layer, "mixer")
        puts[layer] = patching.replace(model, layer, "mixer", where, other)
    first, end = min(layers), model.n_layers
    whole = asked.score(reading.finish(model, clean[end], end, asked.last))
    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))
    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))
    return whole - cut, whole - none


def read_off(cells, name):
    """What a board says of an architecture: how often each word, from how many trainings, and the middle
    width of its ratios' intervals: a dict, an int and a float, nan where there is no ratio.

    cells: each has an architecture, a word, effects (by seed) and a ratio, an `Estimate` or None. What is
    not in WORDS is no verdict.
    """
    words, seeds, widths = {}, 0, []
    for cell in cells:
        if cell.architecture != name or cell.word not in WORDS:
            continue
        words[cell.word] = words.get(cell.word, 0) + 1
        seeds = max(seeds, len(cell.effects))
        if cell.ratio is not None:
            widths.append(cell.ratio.high - cell.ratio.low)
    width = torch.tensor(widths).quantile(0.5).item() if widths else float("nan")
    return words, seeds, width


def late_less_early(ids, logits, told, asked):
    """Share right of the half of the names told last, minus that of the half told first [doc].

    ids [doc pos]; logits [doc pos vocab]; told, asked [doc n]: where colours are told and asked for.
    """
    wanted, colours = ids.gather(1, asked), ids.gather(1, told)
    turn = (wanted[:, :, None] == colours[:, None, :]).float().argmax(-1)  # when it was told [doc n]
    first, last = turn.argsort(1).chunk(2, 1)
    early = recalled(logits, asked.gather(1, first), wanted.gather(1, first))
    late = recalled(logits, asked.gather(1, last), wanted.gather(1, last))
    return late - early


# --------------------------------------------------------------------------------------------------
# Checks


def check_misread(attempt) -> None:
    keys = F.normalize(draws((4, 3, 6))[0], dim=-1)

    def machine(k: Tensor, v: Tensor, on: Tensor, back: int = 0, least: int = 0) -> Tensor:
        return gated_delta(k, k, v, torch.ones_like(on), on.clamp(min=least) / 2).roll(back, -1)

    old, always = partial(machine, back=4), partial(machine, least=1)
    for again in (False, True):
        truth = misread(machine, keys, again)
        mistakes = {
            "keys are written again where they are asked: `on` is 0 there": misread(always, keys, again),
            "again: every key is told a second time": misread(machine, keys, not again),
            "it is the last value told that should be read": misread(old, keys, again),
            "take the sum over a value's numbers, and the mean over keys": truth / (8 if again else 4),
            "that is a sum over keys; take the mean": 4 * truth,
        }
        hint = "tell all keys, ask with all keys, and compare what is read with the last values told"
        expect_equal(attempt(machine, keys, again), truth, "errors [table]", mistakes, hint)


def check_lay_out(attempt) -> None:
    lexicon = dataclasses.replace(WORLD, opening=WORLD.places[0])
    names, told, order = [*WORLD.names[:3], WORLD.names[0]], [*WORLD.colours[:4]], [3, 1, 2]
    given = lexicon, names, told, [*WORLD.things[:2]]
    document, truth = attempt(*given, order), lay_out(*given, order)
    if not isinstance(document, world.Document):
        raise Wrong(f"expected a Document, found {type(document).__name__}; end with draft.document")
    hints = {
        lay_out(lexicon, names, told, [], order).text: "the words in between are missing",
        lay_out(*given, range(4)).text: "ask in the given order: it holds indices of what was told",
        lay_out(*given, []).text: "the questions are missing: each name again, with its colour",
        lay_out(WORLD, *given[1:], order).text: "begin with the lexicon's opening: draft.fill",
    }
    if document.text != truth.text:
        hint = hints.get(document.text, "each statement is a name, a colour and a full stop")
        raise Wrong(f"{hint}; expected '{truth.text}', found '{document.text}'")
    if any(document.positions(role) != truth.positions(role) for role in ("item", "value")):
        raise Wrong("the roles stand elsewhere: mark told colours 'item', those asked for 'value'")


def check_recalled(attempt) -> None:
    (logits,), at = draws((3, 7, 10)), torch.tensor([[2, 5], [3, 6], [1, 4]])
    best = logits.argmax(-1)
    wanted = (best.gather(1, at - 1) + torch.tensor([[0, 0], [1, 0], [1, 1]])) % 10
    truth, late = recalled(logits, at, wanted), (best.gather(1, at) == wanted).float().mean(-1)
    mistakes = {
        "the logits at a position are about the next word: ask one position earlier": late,
        "you count answers; take the mean": 2 * truth,
    }
    hint = "an answer is right where the likeliest of all words is the wanted one"
    expect_equal(attempt(logits, at, wanted), truth, "shares [doc]", mistakes, hint)


def check_survival(attempt) -> None:
    decay, planted = draws((4, 2, 3, 3), (2, 3, 5))
    truth, length = survival(decay, planted), planted.norm(dim=(-2, -1))
    single = (decay @ planted).norm(dim=(-2, -1)) / length
    mistakes = {
        "these are lengths; divide by the length of what was planted": truth * length,
        "each share knows one word: what is left passes through all": single,
        "you begin before the first word": torch.cat([torch.ones(1, 2), truth[:-1]]),
    }
    hint = "hand on what is left, decay @ left, and compare its length head by head"
    expect_equal(attempt(decay, planted), truth, "shares [pos head]", mistakes, hint)


def _answers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, logits, told and asked of three documents, where some answers are right."""
    told, asked = torch.tensor([[1, 3, 5, 7]] * 3), torch.tensor([[9, 11, 13, 15]] * 3)
    ids, (logits,) = torch.arange(10, 27).repeat(3, 1), draws((3, 17, 40))
    turn = torch.tensor([[3, 1, 2, 0], [2, 0, 3, 1], [0, 1, 3, 2]])
    ids.scatter_(1, asked, ids.gather(1, told).gather(1, turn))
    for doc, n in ((0, 0), (0, 1), (1, 3), (2, 0), (2, 2)):
        logits[doc, asked[doc, n] - 1, ids[doc, asked[doc, n]]] = 9
    logits[1, asked[1, 0] - 1, ids[1, told[1, 0]]] = 9
    return ids, logits, told, asked


def check_told_again(attempt) -> None:
    given = ids, logits, told, asked = _answers()
    (new, old, others), everywhere = told_again(*given), recalled(logits, asked, ids.gather(1, asked))
    last = recalled(logits, asked[:, :1], ids.gather(1, told[:, -1:]))
    mistakes = {
        "new and old are exchanged: the old one was told first": torch.stack([old, new, others]),
        "the other questions are all but the first": torch.stack([new, old, everywhere]),
        "new and old are about the first question alone": torch.stack([everywhere, old, others]),
        "the old colour is what was told first, `told[:, :1]`": torch.stack([new, last, others]),
    }
    hint = "three calls of recalled: two at the first question, one at all others"
    expect_equal(attempt(*given), told_again(*given), "shares [3 doc]", mistakes, hint)


def check_lost(attempt) -> None:
    model, layers = random_model("mamba"), [0, 2]
    ids = torch.randint(5, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    corrupt, last = ids.clone(), torch.full((4,), 5)
    corrupt[:, 1] += 1
    asked = Asked(ids, last, torch.arange(4), torch.arange(4, 8), corrupt)
    where, back = reading.at_positions(asked, last), Asked(corrupt, last, asked.answers, asked.foils, ids)
    answer = expect_two(attempt(model, asked, layers, where), "what is lost, and what there is to lose")
    gone, whole = lost(model, asked, layers, where)
    mistakes = {
        "you write into the corrupt run: start from the clean one": lost(model, back, layers, where),
        "you write at every word: only where the mask says": lost(model, asked, layers, asked.mask),
        "one block is missing: put all layers into puts": lost(model, asked, layers[1:], where),
        "you write what stands there anyway: take the corrupt run's streams": (0 * gone, whole),
        "that is what is left; what is lost is whole - cut": (whole - gone, whole),
    }
    stacked = {hint: torch.stack(wrong) for hint, wrong in mistakes.items()}
    truth, hint = torch.stack((gone, whole)), "return whole - cut and whole - none, of each pair"
    expect_equal(torch.stack(answer), truth, "both [2 pair]", stacked, hint)


def check_read_off(attempt) -> None:
    def cell(who: str, word: str, seeds: int, width: float | None) -> Cell:
        ratio = None if width is None else Estimate(0.5, seeds, 0.5 - width / 2, 0.5 + width / 2)
        effects = dict.fromkeys(range(seeds), Estimate(0.5, 9, 0.4, 0.6))
        return Cell("00", "a", "b", who, word, "", ratio, effects, effects, 9, [])

    rows = [("one", "no", 3, 0.2), ("one", "no", 3, 0.4), ("one", "no basis", 2, None)]
    rows += [("one", "n/a", 5, 9.0), ("two", "no", 1, 7.0), ("one", "transfers", 1, 0.8)]
    answers = [attempt([cell(*row) for row in rows], name) for name in ("one", "three")]
    if not all(isinstance(answer, tuple) and len(answer) == 3 for answer in answers):
        raise Wrong("expected three things: words with their counts, trainings, and a width")
    (words, seeds, width), (*_, nothing) = answers
    hints = {
        "n/a is no verdict: count the words of WORDS alone": "n/a" not in words,
        f"count the words of the one architecture; found {words}": sorted(words.values()) == [1, 1, 2],
        f"the most effects behind a verdict are 3, found {seeds}": seeds == 3,
        f"of widths 0.2, 0.4 and 0.8 the middle one is 0.4, found {width}": abs(width - 0.4) < 1e-6,
        f"without a ratio the width is nan, found {nothing}": nothing != nothing,
    }
    if wrong := [hint for hint, right in hints.items() if not right]:
        raise Wrong(wrong[0])


def check_late_less_early(attempt) -> None:
    given = ids, logits, told, asked = _answers()
    truth, (first, last) = late_less_early(*given), asked.chunk(2, 1)
    halves = [recalled(logits, half, ids.gather(1, half)) for half in (first, last)]
    mistakes = {
        "you take the first told minus the last told": -truth,
        "you split by when names are asked for; split by when they were told": halves[1] - halves[0],
    }
    hint = "find when each wanted colour was told, sort the questions by that, and cut into two halves"
    expect_equal(attempt(*given), truth, "differences [doc]", mistakes, hint)


# --------------------------------------------------------------------------------------------------
# What the lesson asks the models


def recall_document(rng: Rng, lexicon: Lexicon, n: int, gap: int = 0, changed: bool = False) -> tuple:
    """What `lay_out` takes: n names, each with a colour; `gap` other words; all names in another order.

    changed: at the end the first name is told another colour, and is asked for first.
    """
    names, colours = rng.sample(list(lexicon.names), n), rng.sample(list(lexicon.colours), n + changed)
    between = [rng.choice([*lexicon.things, *lexicon.places]) for _ in range(gap)]
    if changed:
        return lexicon, [*names, names[0]], colours, between, [n, *range(1, n)]
    return lexicon, names, colours, between, rng.sample(range(n), n)


def recall_pair(rng: Rng, lexicon: Lexicon, n: int, of_names: bool = False) -> Pair:
    """n names with colours, then the first again; corrupt: two colours exchanged, or their two names."""
    names, colours = rng.sample(list(lexicon.names), n), rng.sample(list(lexicon.colours), n)
    clean, exchanged = lay_out(lexicon, names, colours, [], [0]), names if of_names else colours
    exchanged[:2] = exchanged[1::-1]
    corrupt = lay_out(lexicon, names, colours, [], [int(of_names)])
    (at,) = clean.positions("value")
    return Pair(clean, corrupt, at, *(lexicon.spoken(text.words[at].text) for text in (clean, corrupt)))


def places(documents: Sequence[world.Document], role: str) -> Tensor:
    """Where words of a role stand, of which each document has equally many [doc n]."""
    return torch.tensor([document.positions(role) for document in documents])


def one_part_changed(names: Sequence[str]) -> list[str]:
    """Those that are another organism with one part changed, as their names say: in a figure their looks
    would be near-twins of others'. Whichever the lessons load by name has a curve."""
    return [name for name in names if "-" in name and name not in SCALES["tiny"]]


def without(lines: Mapping, names: Sequence[str]) -> dict:
    """All lines but those of these names."""
    return {name: line for name, line in lines.items() if name not in names}


def five_sentences(cells: Sequence[Cell], known: Sequence[str], read_off) -> str:
    """What a board says, as a list in Markdown; known: the architectures that it could hold."""
    said = {name: found for name in known if (found := read_off(cells, name))[0]}
    words = {name: ", ".join(f"{n} {w}" for w, n in found[0].items()) for name, found in said.items()}
    counts = [sum(found[0].values()) for found in said.values()]
    nothing = [found[0].get("no basis", 0) for found in said.values()]
    trained = ", ".join(f"{name} {found[1]}" for name, found in said.items())
    widths = ", ".join(f"{name} {found[2]:.2f}" for name, found in said.items())
    lessons = {cell.lesson for cell in cells if cell.word in WORDS}
    missing = ", ".join(name for name in known if name not in said) or "none"
    lines = (
        f"It holds {sum(counts)} verdicts. So many trainings stand behind each: {trained or 'none'}.",
        f"Its words: {'; '.join(f'{name}: {text}' for name, text in words.items())}.",
        f"The {sum(nothing)} without a basis say nothing about either: the Transformer's own effect may "
        "be chance there, or its seeds differ too much.",
        "Half of an architecture's intervals are wider than this share of the Transformer's effect: "
        f"{widths or 'none'}; and {len(lessons)} lessons on the same models are not independent.",
        f"About these it says nothing, since no lesson has run on them: {missing}.",
    )
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, start=1))


# --------------------------------------------------------------------------------------------------
# Figures


def three_ways() -> Drawn:
    """Three ways to lose names that were told one after the other."""
    shapes = {
        "it fades": [0.1, 0.15, 0.25, 0.4, 0.65, 1.0],
        "all share the room": [0.45] * 6,
        "the first ones stay": [1.0, 1.0, 0.9, 0.25, 0.1, 0.05],
    }
    figure, axes = canvas((9.0, 2.6), (-0.8, 5.8), (-0.35, 1.15), *shapes)
    for axis, heights in zip(axes, shapes.values(), strict=True):
        axis.bar(range(6), heights, color=style("mamba")["color"], width=0.7)
        write(axis, 0, -0.2, "told first", fontsize=10)
        write(axis, 5, -0.2, "told last", fontsize=10)
    return figure, "Three sketches of what is left of six names: the last, all a little, or the first."


def recall_curves(
    found: Mapping[str, Mapping[str, Mapping[int, Estimate]]], control: Mapping, known: Mapping[str, int]
) -> Drawn:
    """A panel for each way to make recall harder: each model's share right; grey, the highest control;
    dotted, how far training went."""
    name_of_control = "another name's colour, highest of all"
    lines = {title: {**series, name_of_control: control[title]} for title, series in found.items()}

    def look(_: str, name: str, at: int) -> dict:
        grey = {"color": GREY, "linewidth": 1, "marker": "^", "linestyle": "-"}
        return grey if name == name_of_control else style(name)

    panels = {"size": (4.9, 4.2), "sharex": False}
    figure, axes = plots.curves(lines, "", "share of colours right", look, (-0.03, 1.03), **panels)
    for axis, title in zip(axes, found, strict=True):
        axis.set(xlabel=title, title="", xticks=list(control[title]))
        axis.axvline(known[title], color=GREY, linestyle=":", linewidth=1.5)
    ends = {title: {k: [*line.values()][-1] for k, line in row.items()} for title, row in found.items()}
    return figure, f"Share of colours right at the right end of each panel. {listed(ends, '.2f')}."


def memories(found: Mapping[str, Mapping[str, Mapping[int, Estimate]]], key: int) -> Drawn:
    """A panel for each task: squared error of what is read against the number of keys; dotted: numbers in
    a key; at 1 one might as well read nothing."""
    figure, axes = plots.curves(found, "keys written", "squared error of what is read", ylim=(-0.05, 2.6))
    for axis in axes:
        axis.axvline(key, color=GREY, linestyle=":", linewidth=1.5)
        axis.axhline(1, color=GREY, linewidth=1)
    ends = {title: {name: line[16] for name, line in series.items()} for title, series in found.items()}
    return figure, f"Squared error of what is read with 16 keys. {listed(ends, '.2f')}."


def fading(found: Mapping[str, Mapping[str, Mapping[int, Estimate]]]) -> Drawn:
    """Panels: what is left of a planted change after so many words, each architecture."""
    figure, axes = plots.curves(found, "words since then", "share of its length left", ylim=(0, 1.0))
    ticks = list(next(iter(next(iter(found.values())).values())))
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, map(str, ticks))
    at = ticks[-2]
    middle = {title: {name: line[at] for name, line in series.items()} for title, series in found.items()}
    return figure, f"Of a planted change is left after {at} words. {listed(middle, '.2f')}."


def by_block(found: Mapping[str, Mapping[str, Sequence[Estimate]]], attends: Mapping) -> Drawn:
    """A panel for each model: what each block's mixer brings to the last word, for each question; blocks
    that attend stand on grey."""
    wide = 2.2 + 0.24 * max(map(len, attends.values()))
    columns = len(found) if len(found) < 4 else 2
    figure, axes = plots.titled(found, "block", "share of the answer", (wide, 3.6), columns, sharex=False)
    looks = (style("transformer") | {"marker": "o"}, style("mamba") | {"marker": "s"})
    for axis, (name, series) in zip(axes, found.items(), strict=True):
        for look, (what, values), shift in zip(looks, series.items(), (-0.12, 0.12), strict=True):
            at = [k + shift for k in range(len(values))]
            points(axis, at, values, upright=True, label=what, **look)
        for k, attending in enumerate(attends[name]):
            if attending:
                axis.axvspan(k - 0.5, k + 0.5, color="#E4E4E4", zorder=0)
        blocks = range(len(attends[name]))
        axis.set_xticks(blocks[:: 1 + len(blocks) // 16])
    plots.legend(figure)

    def top(values: Sequence[Estimate]) -> str:
        return f"block {max(range(len(values)), key=lambda k: values[k].value)}"

    return figure, f"The block whose mixer brings most to the last word. {listed(found, top)}."
