"""Lesson 01b, selection: what a state holds, and whether the model needs what it selects by.

The checks know the truth from plain PyTorch hooks, so they also judge answers that avoid nnsight.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, draws, expect_equal, expect_tensor, expect_two, pair
from tft_utils.course.plots import GREY, Drawn, Row, arrow, canvas, listed, points, style, write
from tft_utils.stats import Estimate

MAMBA = style("mamba")  # of the figures that walk through one machine
PROJECTIONS = {"transformer": "query_key_value", "mamba": "x_proj"}  # of the organisms


def in_state(u, delta, A, B):
    """What each word has left in the state after the last word: [pos d_inner d_state].
    u: inputs [pos d_inner]; delta: step sizes [pos d_inner]; A: decay rates [d_inner d_state],
    negative; B: write vectors [pos d_state]. Summed over the words it is the state."""
    later = delta.flip(0).cumsum(0).flip(0) - delta
    left = torch.exp(later[:, :, None] * A)
    written = (delta * u)[:, :, None] * B[:, None]
    return left * written


def missing(parts):
    """The share of the state's length that the last k words do not explain, k = 0 ... pos: [pos + 1].
    parts: what each word has left in the state [pos d_inner d_state]."""
    state = parts.sum(0)
    lengths = [state.norm()]
    for k in range(1, len(parts) + 1):
        rest = state - parts[-k:].sum(0)
        lengths.append(rest.norm())
    return torch.stack(lengths) / state.norm()


def horizon(delta, A):
    """Words until exp(sum of delta * A) is below 1/e, for each entry: [d_inner d_state].

    delta: step sizes of the words that follow [pos d_inner]; A: decay rates [d_inner d_state].
    Entries that are still above 1/e after the last word get pos + 1.
    """
    passed = delta.cumsum(0)
    alive = torch.exp(passed[:, :, None] * A) >= 1 / math.e
    return alive.sum(0) + 1


def pool(model, name, texts):
    """What the layer `name` of each block's mixer gives, at all words of all texts: a list with
    [word number] for each block. texts: lists of token ids, all equally long."""
    with model.trace(texts):
        mixers = [model.mixer(i) for i in range(model.n_layers)]
        found = [getattr(mixer, name).output.flatten(0, 1) for mixer in mixers].save()
    return found


def replaced(model, name, texts, part, values):
    """The likeliest next word after each word of each text, as ids [text pos], while in every block
    the numbers `part`, a tensor of indices, of what the layer `name` gives are replaced.
    values: for each block all its numbers, [number] for every word, or [text pos number]."""
    with model.trace(texts):
        for i in range(model.n_layers):
            layer = getattr(model.mixer(i), name)
            layer.output[..., part] = values[i][..., part]
        guesses = model.logits.argmax(-1).save()
    return guesses


def share_right(tokenizer, documents, guesses):
    """For each document the share of its determined words that were guessed: a list of floats.
    guesses: ids of next words [text pos]; shorter texts are padded on the left."""
    shares = []
    for document, row in zip(documents, guesses, strict=True):
        ids = tokenizer(document.text).input_ids
        said = row[-len(ids) :].tolist()
        at = [i for i, word in enumerate(document.words) if word.determined]
        right = sum(said[i - 1] == ids[i] for i in at)
        shares.append(right / len(at))
    return shares


def select(layer, u):
    """What words select by: step sizes [... pos d_inner], write and read vectors [... pos d_state].
    layer: a Mamba mixer; u: the inputs of its scan [... pos d_inner]."""
    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]
    low, B, C = F.linear(u, layer.x_proj.weight).split(sizes, dim=-1)
    raw = F.linear(low, layer.dt_proj.weight, layer.dt_proj.bias)
    return F.softplus(raw), B, C


def contrast(sums, counts, content):
    """The mean at content words minus that at the others, per block and document: [layer doc].
    sums: of a measure, for each word of a vocabulary [layer doc word]; counts: how often it comes
    [doc word]; content: whether it is a content word [word]. Documents without either are left out."""
    c, f = content.float(), (~content).float()
    at_content = sums @ c / (counts @ c)
    at_filler = sums @ f / (counts @ f)
    difference = at_content - at_filler
    return difference[:, difference[0].isfinite()]


def foreign(found, texts, words, seed):
    """For each block what a foreign word has, at each place: a list of [text pos number].
    found: as of `pool`; texts, words: how many. A place gets one random word, the same in all blocks."""
    draws = torch.Generator().manual_seed(seed)
    order = torch.randint(len(found[0]), (texts, words), generator=draws)
    return [block[order] for block in found]


def shuffled(measure, labels, times, seed):
    """Effects under shuffled labels: their means [shuffle layer], and shares of layers starred [shuffle].

    measure: from labels to effects [layer doc]. Starred: a mean beyond 1.96 standard errors from 0.
    """
    draws = torch.Generator().manual_seed(seed)
    means, stars = [], []
    for _ in range(times):
        order = torch.randperm(len(labels), generator=draws)
        effects = measure(labels[order])
        mean = effects.mean(-1)
        half = 1.96 * effects.std(-1) / math.sqrt(effects.shape[-1])
        means.append(mean)
        stars.append((mean.abs() > half).float().mean())
    return torch.stack(means), torch.stack(stars)


def check_in_state(attempt) -> None:
    u, raw, B = draws((4, 3), (4, 3), (4, 2))
    delta, A = raw.exp(), -torch.tensor([[0.2, 1.0], [0.5, 1.5], [2.0, 0.1]])
    truth, written = in_state(u, delta, A, B), (delta * u)[:, :, None] * B[:, None]
    own = truth * torch.exp(delta[:, :, None] * A)
    before = written * torch.exp(delta.cumsum(0)[:, :, None] * A)
    mistakes = {
        "a word's own step does not fade what it writes: sum the steps of the words after it": own,
        "you let a word fade by the steps up to it; what fades it are the steps after it": before,
        "the step size is missing from what a word writes: delta u B": truth / delta[:, :, None],
        "nothing fades: multiply by exp(A times the sum of the later steps)": written,
    }
    hint = "a part for each word: do not sum over words yet"
    otherwise = "word t has exp(A times the sum of the later steps) delta_t u_t B_t left"
    expect_equal(attempt(u, delta, A, B), truth, "parts [pos d_inner d_state]", mistakes, otherwise, hint)


def check_missing(attempt) -> None:
    (parts,) = draws((4, 3, 2))
    truth, length = missing(parts), parts.sum(0).norm()
    told = torch.stack([parts[4 - k :].sum(0).norm() for k in range(5)]) / length
    all_at_0 = truth * torch.tensor([0.0, 1, 1, 1, 1])
    mistakes = {
        "no words explain nothing, so the first number is 1; parts[-0:] are all words": all_at_0,
        "you start with the first words; the last k words are parts[-k:]": missing(parts.flip(0)),
        "divide by the length of the state": length * truth,
        "you measure the part of the last k words; measure what the state has besides": told,
        "you take one minus the length of that part; vectors can cancel: subtract first": 1 - told,
    }
    otherwise = "for each k: the norm of the state minus the last k parts, over the state's norm"
    expect_equal(attempt(parts), truth, "shares [pos + 1]", mistakes, otherwise)


def _run(model, name: str, texts: list, part=(), values=None, first=0) -> tuple[list[Tensor], Tensor]:
    """What the layer `name` of each mixer gives [text pos number], and the guesses [text pos], by hooks
    of plain PyTorch; from block `first` on `values` are put at the numbers `part`, as in `replaced`."""
    layers = [getattr(model.module("mixer", i), name) for i in range(model.n_layers)]
    blocks = itertools.count()

    def put(output: Tensor) -> Tensor:
        if (i := next(blocks)) >= first and values is not None:
            output[..., part] = values[i][..., part]
        return output.clone()

    with reading.caught(layers, put) as given, torch.no_grad():
        guesses = model.hf(input_ids=torch.tensor(texts), use_cache=False).logits.argmax(-1)
    return given, guesses


def _asked() -> Iterator[tuple]:
    """Each model, its name, the name of its projection, and the beginnings of four texts."""
    for key, model in pair().items():
        texts = [model.tokenizer(d.text).input_ids[:24] for d in world.documents("recall", 4, seed=1)]
        yield key, model, PROJECTIONS[key], texts


def check_pool(attempt) -> None:
    for key, model, name, texts in _asked():
        found, (given, _) = attempt(model, name, texts), _run(model, name, texts)
        if not isinstance(found, list) or len(found) != model.n_layers:
            raise Wrong(f"expected a list with a tensor for each of {model.n_layers} blocks")
        for i, (block, x) in enumerate(zip(found, given, strict=True)):
            otherwise = f"block {i} of {key}: this is not what `mixer(i).{name}` gives"
            expect_equal(block, x.flatten(0, 1), "the words of all texts in one row", {}, otherwise)


def check_replaced(attempt) -> None:
    for key, model, name, texts in _asked():
        given, plain = _run(model, name, texts)
        part = torch.arange(n := given[0].shape[-1])[n // 3 :]
        for values in ([x.mean((0, 1)) for x in given], [x.flip(0) for x in given]):
            found = attempt(model, name, texts, part, values)
            _, truth = _run(model, name, texts, part, values)
            _, of_all = _run(model, name, texts, slice(None), values)
            _, of_last = _run(model, name, texts, part, values, model.n_layers - 1)
            mistakes = {
                "nothing was replaced: assign to `layer.output[..., part]` itself, not to a copy": plain,
                "you replace all numbers; only those of `part`": of_all,
                "you replace them in the last block alone: in every block": of_last,
            }
            otherwise = f"{key} guesses otherwise after `output[..., part] = values[i][..., part]`"
            expect_equal(found, truth, "ids [text pos]", mistakes, otherwise, "the likeliest: argmax(-1)")


def check_share_right(attempt) -> None:
    tokenizer = pair()["mamba"].tokenizer
    documents = [world.documents(kind, 1, seed=3)[0] for kind in ("facts", "recall", "arithmetic")]
    texts = [tokenizer(document.text).input_ids for document in documents]
    longest = max(map(len, texts))
    guesses = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, ids in zip(guesses, texts, strict=True):
        row[longest - len(ids) : -1] = torch.tensor(ids[1:])  # every next word
        row[torch.arange(longest - 3, 0, -4)] = -1  # but for some

    def score(shift: int = 1, start=lambda ids: longest - len(ids), every: bool = False) -> Tensor:
        shares = []
        for document, row, ids in zip(documents, guesses.tolist(), texts, strict=True):
            said = row[start(ids) :]
            at = [i for i, word in enumerate(document.words) if i and (every or word.determined)]
            shares.append(sum(said[i - shift] == ids[i] for i in at) / len(at))
        return torch.tensor(shares)

    found = attempt(tokenizer, documents, guesses)
    if not isinstance(found, list) or len(found) != len(documents):
        raise Wrong(f"expected a list with a share for each of {len(documents)} documents")
    mistakes = {
        "a guess at a word is about the next one: word i was guessed at i - 1": score(0),
        "texts are padded on the left: a text's words are the last of its row": score(1, lambda ids: 0),
        "you count every word; only those that are `determined`": score(every=True),
    }
    expect_equal(torch.tensor(found), score(), "shares", mistakes, "right ones of the determined words")


@torch.no_grad()
def check_select(attempt) -> None:
    u, read, step, start = draws((2, 5, 4), (5, 4), (4, 1), (4,))
    low, B, C = (u @ read.T).split([1, 2, 2], dim=-1)
    x_proj, dt_proj = SimpleNamespace(weight=read), SimpleNamespace(weight=step, bias=start)
    layer = SimpleNamespace(x_proj=x_proj, dt_proj=dt_proj, time_step_rank=1, ssm_state_size=2)
    found = attempt(layer, u)
    if not (isinstance(found, tuple) and len(found) == 3 and all(map(torch.is_tensor, found))):
        raise Wrong("expected three tensors: step sizes, write vectors and read vectors")
    raw = low @ step.T
    mistakes = {
        "softplus is missing: a step size is positive": raw + start,
        "the bias of dt_proj is missing": F.softplus(raw),
        "this is the part of x_proj that goes into dt_proj; it comes first": low,
    }
    otherwise = "delta is the softplus of dt_proj, with its bias, of the first part of x_proj"
    expect_equal(found[0], F.softplus(raw + start), "step sizes", mistakes, otherwise)
    swapped = {"B and C are exchanged: first the write vector, then the read vector": C}
    expect_equal(found[1], B, "write vectors", swapped, "B is the second part of x_proj")
    expect_equal(found[2], C, "read vectors", {}, "C is the third part of x_proj")


def check_contrast(attempt) -> None:
    (values,), content = draws((2, 4, 5)), torch.tensor([True, False, True, False, False])
    counts = torch.tensor([[2.0, 1, 1, 3, 0], [1, 0, 4, 0, 1], [3, 0, 1, 0, 0], [1, 1, 1, 2, 2]])
    sums, c = values * counts, content.float()
    truth = contrast(sums, counts, content)  # the third document has no filler
    per_word = (sums @ c / c.sum() - sums @ (1 - c) / (1 - c).sum())[:, [0, 1, 3]]
    found = attempt(sums, counts, content)
    if torch.is_tensor(found) and found.shape == (len(sums), len(counts)):
        raise Wrong("a document without filler words has no contrast, nan: leave it out")
    mistakes = {
        "content minus filler: you have it the other way round": -truth,
        "divide by how often the words come, `counts`, not by how many words there are": per_word,
    }
    otherwise = "(sum at content) / (count of content) - (sum at filler) / (count of filler)"
    expect_equal(found, truth, "contrasts [layer doc]", mistakes, otherwise)


def check_foreign(attempt) -> None:
    found = [torch.arange(50.0)[:, None] + torch.tensor([0.0, 0.25, 0.5]) + 100 * i for i in range(2)]
    given = attempt(found, 4, 6, 0)
    if not isinstance(given, list) or len(given) != 2:
        raise Wrong("expected a list with a tensor for each of 2 blocks")
    for block in given:
        expect_tensor(block, (4, 6, 3), "numbers [text pos number]")
    first, second = given[0] - found[0][0], given[1] - found[1][0]
    if not all(close(x, x[..., :1].expand(x.shape)) for x in (first, second)):
        raise Wrong("a place gets numbers of several words: draw one word for each place, whole")
    if not close(first, second):
        raise Wrong("a place gets another word in each block: draw once, before you go through them")
    if len(first[..., 0].unique()) < 12:
        raise Wrong("many places get the same word: draw one for each place, [texts words]")
    if not all(map(torch.equal, given, attempt(found, 4, 6, 0))):
        raise Wrong("a second call draws other words: use a generator with the seed")


def check_horizon(attempt) -> None:
    delta = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    A = torch.tensor([[-0.3, -2.0, -0.01], [-0.3, -2.0, -0.01]])
    words = expect_tensor(attempt(delta, A), (2, 3), "horizons [d_inner d_state]")
    truth = horizon(delta, A)  # [[4 1 6] [3 3 6]]
    alone = (torch.exp(delta[:, :, None] * A) >= 1 / math.e).sum(0) + 1
    mistakes = {
        "you count the words before the fading word; count that word too": truth - 1,
        "a memory fades through all words together: add up the steps from the first on": alone,
        "a word with step 0 costs nothing: use the given steps": horizon(torch.ones_like(delta), A),
    }
    otherwise = f"with steps of 1, exp(-0.3 k) is first below 1/e at k = 4, and you say {words[0, 0]:g}"
    if close(words[:, :2], truth[:, :2]):
        otherwise = "a memory that outlives the text gets pos + 1, here 6"
    expect_equal(words, truth, "horizons", mistakes, otherwise)


def check_shuffled(attempt) -> None:
    (weights,), labels, times = draws((3, 8, 40)), torch.arange(40) < 12, 6
    shift, handed = torch.tensor([[0.2], [-0.3], [-0.4]]), []

    def measure(given: Tensor) -> Tensor:
        handed.append(torch.as_tensor(given).clone())
        return weights @ given.float() / 12 + shift

    means, stars = expect_two(attempt(measure, labels, times, 0), "the means and the shares of stars")
    if len(handed) != times:
        raise Wrong(f"asked for {times} shuffles, and you measure {len(handed)} times: once for each")
    if any(given.shape != labels.shape or given.sum() != labels.sum() for given in handed):
        raise Wrong("as many words as before must be content: shuffle the labels, do not draw new ones")
    if any(torch.equal(given, labels) for given in handed):
        raise Wrong("you measure with the true labels: hand over `labels[order]`, in a random order")
    if all(torch.equal(given, handed[0]) for given in handed):
        raise Wrong("every shuffle is the same: make the generator once, before the loop")
    effects = torch.stack([measure(given) for given in handed[:times]])
    otherwise = "your means are not those of the effects: take each over the documents, the last axis"
    expect_equal(means, effects.mean(-1), "means [shuffle layer]", {}, otherwise)
    spreads = effects.mean(-1) / effects.std(-1)
    errors = spreads * math.sqrt(effects.shape[-1])  # how many standard errors from 0
    truth, wide, up = ((x > 1.96).float().mean(-1) for x in (errors.abs(), spreads.abs(), errors))
    mistakes = {
        "you take the spread of documents; the standard error is that by the root of their number": wide,
        "a mean below 0 can earn a star as well: compare its absolute value": up,
    }
    otherwise = "a layer is starred where |mean| > 1.96 std / sqrt(n), over documents"
    expect_equal(stars, truth, "shares of stars [shuffle]", mistakes, otherwise)


def choices() -> Drawn:
    """What a word says about itself in each machine, and through which one projection."""
    titles = "A word in the Transformer", "A word in Mamba"
    figure, axes = canvas((9.6, 3.6), (-0.2, 6.2), (-0.5, 4.6), *titles)
    asks = "query\nwhat it asks for", "key\nwhat it is found by", "value\nwhat it hands over"
    reads = "C\nwhere it reads", "B\nwhere it writes", "Δ\nhow much it keeps\nand writes"
    pasts = "weights of\nall words so far", "one state\nof fixed size"
    rows = zip(axes, PROJECTIONS.items(), (asks, reads), pasts, strict=True)
    for axis, (name, layer), parts, past in rows:
        colour = style(name)["color"]
        write(axis, 3, 0.1, layer, edge=colour, weight="bold")
        for x, text in zip((0.9, 3, 5.1), parts, strict=True):
            arrow(axis, (3, 0.4), (x, 1.35))
            write(axis, x, 1.95, text, edge=GREY, fontsize=10)
            arrow(axis, (x, 2.55), (3, 3.45), color=colour)
        write(axis, 3, 3.95, past, fontsize=10.5, color=colour)
    alt = "Two diagrams: one projection gives three parts of a word, and these meet the past"
    return figure, f"{alt}, which is all words so far there and one state here."


def frozen_parts(shares: Mapping[str, Mapping[str, Row]], looks: plots.Looks = plots.named) -> Drawn:
    """Share of right words with 95 % intervals: kind of document -> series -> replaced part -> share."""
    panels = {kind.replace("_", " "): series for kind, series in shares.items()}
    figure, axes = plots.dot_panels(panels, "share right", (-0.05, 1.05), looks, size=(2.3, 3.0))
    axes[0].set_ylabel("part that is replaced")
    flat = {f"{kind}, {name}": row for kind, of in panels.items() for name, row in of.items()}
    return figure, f"Share of right words with each part replaced. {listed(flat, '.0%')}."


def last_words(lacks: Mapping[str, Sequence[Estimate]]) -> Drawn:
    """The share of a state's length that its last k words leave unexplained, against k."""
    looks = ({**MAMBA, "marker": ""}, {"color": GREY, "linestyle": "-"})
    names = "last words counted (k)", "share of the state unexplained"
    k = list(range(len(next(iter(lacks.values())))))
    figure, _ = plots.curves({"": lacks}, *names, looks, (0, 1.05), k, size=(7.2, 3.4))
    ends = {name: f"{line[4].value:.2f} then {line[-1].value:.2f}" for name, line in lacks.items()}
    return figure, f"Share of a state that 4, then all words leave unexplained{listed({'': ends}, str)}."


def along_sentence(words: Sequence[str], steps: Tensor, norms: Tensor, at: int | None = None) -> Drawn:
    """Two maps [layer word]: step size against the layer's mean (log2), state length (share of
    the layer's largest). at: only the words up to this one."""
    most = float(steps.abs().max())
    later = torch.arange(len(words)) > (len(words) if at is None else at)
    figure, axes = plots.titled(["", ""], "word read", size=(8.6, 2.4), columns=1)
    for axis, values, low, high, label in (
        (axes[0], steps, -most, most, "step size, in doublings\nagainst the layer's mean"),
        (axes[1], norms, 0, 1, "length of the state,\nshare of its largest"),
    ):
        shown = plots.Map(values.masked_fill(later, math.nan), columns=words, turn=45)
        figure.colorbar(plots.heat(axis, shown, low, high), ax=axis, label=label)
        axis.set(ylabel="block", yticks=range(0, len(values), 3))
    if at is not None:
        block = int(norms[:, at].argmax())
        return figure, f"At word {at + 1}, '{words[at]}', block {block} is closest to its longest state."
    grown, at = (norms[:, 1:] - norms[:, :-1]).max(0).values.max(0)
    alt = f"The step size moves by at most {most:.2f} doublings within a block, while a state's length"
    return figure, f"{alt} grows most, by {grown:.2f} of its largest, at the word '{words[at + 1]}'."


def horizons(spread: Mapping[str, Tensor], longest: int) -> Drawn:
    """Memory horizons in words, trained and untrained: [5 layer], the quantiles 10, 25, 50, 75, 90 %."""
    xlabel = "words until a memory falls below 1/e (middle 50 % thick, middle 80 % thin)"
    figure, (axis,) = plots.titled([""], xlabel, "block", (8, 3.8))
    looks = ((MAMBA, -0.16), ({"color": GREY, "marker": "o"}, 0.16))
    for (look, shift), (name, (p10, p25, p50, p75, p90)) in zip(looks, spread.items(), strict=True):
        y = [block + shift for block in range(len(p50))]
        axis.hlines(y, p10, p90, color=look["color"], linewidth=1.2)
        axis.hlines(y, p25, p75, color=look["color"], linewidth=5, alpha=0.45)
        axis.plot(p50, y, label=name, **look | {"linestyle": ""})
    axis.set(xscale="log", yticks=range(len(p50)), ylim=(len(p50) - 0.5, -0.5))
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64) if t <= longest]
    axis.set_xticks(ticks, [f"{t}+" if t == longest else str(t) for t in ticks])
    axis.xaxis.minorticks_off()
    plots.legend(figure)
    ends = {name: f"{q[2].min():.0f} to {q[2].max():.0f} words" for name, q in spread.items()}
    shortest, medians = min(int(q[0].min()) for q in spread.values()), listed({"medians": ends}, str)
    return figure, f"The middle 80 % of memories last {shortest} to over {longest} words; {medians}."


def effect_by_block(effects: Mapping[str, tuple[Sequence[Estimate], Tensor]], ylabel: str) -> Drawn:
    """A panel each: an estimate a block, before the 95 % range [2 layer] of it under shuffled labels."""
    figure, axes = plots.titled(effects, "block", ylabel, (4.5, 3.4))
    grey = {"color": "#CCCCCC", "width": 0.7, "label": "shuffled labels, 95 %"}
    outside = []
    for axis, (name, (estimates, (low, high))) in zip(axes, effects.items(), strict=True):
        blocks = range(len(estimates))
        axis.use_sticky_edges = False  # room below the lowest bar
        axis.bar(blocks, (high - low).numpy(), bottom=low.numpy(), **grey)
        axis.axhline(0, color=GREY, linewidth=1)
        points(axis, blocks, estimates, upright=True, label="true labels, naive 95 %", **MAMBA)
        axis.set_xticks(blocks[:: 1 + len(blocks) // 16])
        beyond = sum(not a <= e.value <= b for e, a, b in zip(estimates, low, high, strict=True))
        outside.append(f"{name}, {beyond} of {len(estimates)} blocks")
    plots.legend(figure)
    return figure, f"The effect leaves the range of shuffled labels in: {'; '.join(outside)}."
