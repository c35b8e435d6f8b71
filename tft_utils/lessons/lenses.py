"""Lesson 04, lenses: its exercises, and figures of what a model would say after k of its blocks."""

import csv
from collections.abc import Mapping
from unittest.mock import patch

import torch
from torch import Tensor

from tft_utils import files, reading
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, draws, expect_equal, expect_tensor, expect_two, pair
from tft_utils.course.plots import GREY, Drawn, Lines, Map, arrow, canvas, each, listed, style, write
from tft_utils.techniques import lenses


def translate(r, A, b):
    """The states r [pos d_model] after a translator A [d_model d_model], b [d_model]: r + A r + b."""
    return r + r @ A.T + b


def logit_lens(model, text):
    """Log-probabilities of the next word at every depth, after every word of a text: [k pos vocab]."""
    with model.trace(text):
        states = []
        for k in range(model.n_layers + 1):
            states.append(model.residual(k)[0])
        states = torch.stack(states).save()
    logits = model.to_logits(states)
    return logits.log_softmax(-1)


def divergence(log_p, log_q):
    """KL(p || q) in nats, averaged over words, at every depth [k].

    log_p [word vocab] and log_q [k word vocab] are log-probabilities of the model and of the lens.
    """
    gap = log_p - log_q
    per_word = (log_p.exp() * gap).sum(-1)
    return per_word.mean(-1)


def train(model, source, steps, rate=0.01):
    """A lens after so many steps of Adam on KL(model || lens), summed over depths.

    source(step) gives the residual streams [k word d_model] that the step learns from.
    """
    start = lenses.logit_lens(model)
    A, b = start.A.requires_grad_(), start.b.requires_grad_()
    optimiser = torch.optim.Adam([A, b], lr=rate)
    for step in range(steps):
        states = source(step)
        with torch.enable_grad():
            kl = lenses.divergence(model, lenses.Lens(A, b), states)
            optimiser.zero_grad()
            kl.sum().backward()
        optimiser.step()
    return lenses.Lens(A.detach(), b.detach())


def costs(model, lens, ids):
    """Cross-entropy and entropy of a lens at every depth, in nats summed over a text: two of [k].

    ids [pos]: the text's tokens. Each word but the last is read, and the next one is what follows.
    """
    read = torch.ones_like(ids[None]).bool()
    states = lenses.residuals(model, ids[None], read)
    log_q = model.to_logits(lens.translate(states[:, :-1])).log_softmax(-1)
    following = ids[1:].expand(len(log_q), -1)[..., None]
    cost = -log_q.gather(-1, following).sum((1, 2))
    entropy = -(log_q.exp() * log_q).sum((1, 2))
    return cost, entropy


def shuffled(source):
    """A source of states [k word d_model] whose last depth belongs to other words of the batch."""

    def pick(step):
        states = source(step)
        draw = torch.Generator().manual_seed(step)
        order = torch.randperm(states.shape[1], generator=draw).to(states.device)
        return torch.cat([states[:-1], states[-1:, order]])

    return pick


def cost_of_average(model, source, texts):
    """What the average word costs on each text, in nats summed over its words: [text].

    source(step): streams [k word d_model]; the average is over the model's own words in 20 steps.
    texts: `ids` [text pos], and `counted` [text pos], True at words that another word follows.
    """
    last = torch.cat([source(step)[-1] for step in range(20)])
    total = 0.0
    for log_p in lenses.log_probs(model, last):  # a few words at a time [word vocab]
        total = total + log_p.exp().sum(0)
    log_average = (total / len(last)).log()
    following = texts.ids[:, 1:]
    counts = texts.counted[:, :-1]
    cost = -log_average[following] * counts
    return cost.sum(1).cpu().double()


def settled(right):
    """The first depth from which on an answer stays right, for right [k] (booleans, k = 0 ... L).

    None when it is wrong at the last depth.
    """
    depth = None
    for k in reversed(range(len(right))):
        if not right[k]:
            break
        depth = k
    return depth


def layer_transfer(cost, A, b, states):
    """What translator i costs on the states of depth j beyond j's own translator: [i j].

    A [k d d], b [k d], states [k word d]; cost(states [word d]) gives one number.
    """
    n = len(states)
    table = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            translated = states[j] + states[j] @ A[i].T + b[i]
            table[i, j] = cost(translated)
    return table - table.diagonal()


def check_translate(attempt) -> None:
    r, A, b = draws((5, 3), (3, 3), (3,))
    states = expect_tensor(attempt(r, A, b), r.shape, "states")
    if not close(attempt(r, 0 * A, 0 * b), r):
        hint = "the translator adds to r, so that it starts as a logit lens"
        raise Wrong(f"with A and b zero the states must come out as they are: {hint}")
    mistakes = {
        "states are rows here, so A r for every row is r @ A.T; you use A itself": r + r @ A + b,
        "you leave out b": r + r @ A.T,
    }
    otherwise = "the result is not r + A r + b at every position"
    expect_equal(states, translate(r, A, b), "states", mistakes, otherwise)


@torch.no_grad()
def check_logit_lens(attempt) -> None:
    model = pair()["mamba"]
    ids, mask = reading.tokens(model, PROMPT)
    states = lenses.residuals(model, ids, mask.bool())
    logits, raw = model.to_logits(states), model.module("unembedding")(states).log_softmax(-1)
    truth, found = logits.log_softmax(-1), attempt(model, PROMPT)
    if torch.is_tensor(found) and found.shape == truth[:, -1].shape:
        raise Wrong("you read the last word alone; keep every position of the text")
    mistakes = {
        "these are logits; `log_softmax(-1)` makes log-probabilities of them": logits,
        "these are probabilities; take their logarithm": truth.exp(),
        "you leave out the final norm; `model.to_logits` applies norm and unembedding": raw,
        "the softmax belongs over the vocabulary, the last dimension": logits.log_softmax(1),
    }
    otherwise = "these are not the streams of depths 0 ... L in their order, read as the model reads"
    hint = f"depths k = 0 ... {model.n_layers}, the embedding first, then the words of the text"
    expect_equal(found, truth, "log-probabilities [k pos vocab]", mistakes, otherwise, hint, 1e-2)


def check_divergence(attempt) -> None:
    log_p, log_q = (x.log_softmax(-1) for x in draws((5, 7), (3, 5, 7)))
    p, q, gap = log_p.exp(), log_q.exp(), log_p - log_q

    def per_word(terms: Tensor) -> Tensor:
        return terms.sum(-1).mean(-1)

    truth, both = per_word(p * gap), "sum over the vocabulary first, then average over words; you average"
    mistakes = {
        "the weights are the model's p; you weigh with the lens's q": per_word(q * gap),
        "this is KL(q || p); the model's p comes first": -per_word(q * gap),
        "the sign is turned around: a divergence is at least 0": -truth,
        f"{both} over both": (p * gap).mean((1, 2)),
        "average over the words, do not add them up": (p * gap).sum((1, 2)),
        "log p is no weight; the weights are the probabilities, `log_p.exp()`": per_word(log_p * gap),
        "this is the cross-entropy of q under p; subtract p's own entropy": -per_word(p * log_q),
    }
    otherwise = f"for a random p and q expected {truth.tolist()}"
    expect_equal(attempt(log_p, log_q), truth, "one divergence per depth", mistakes, otherwise)


def check_train(attempt) -> None:
    model, steps, asked = pair()["mamba"], 6, []
    texts = lenses.encode(model, [d.text for d in world.documents("facts", 8)])
    words = lenses.cached(model, texts, 64)

    def source(step: int) -> Tensor:
        asked.append(step)
        return words(step)

    found = attempt(model, source, steps)
    if not isinstance(found, lenses.Lens):
        raise Wrong(f"expected a `lenses.Lens(A, b)`, found {type(found).__name__}; return one")
    if found.A.requires_grad or found.b.requires_grad:
        raise Wrong("the lens still asks for gradients; return `A.detach()` and `b.detach()`")
    if asked and set(asked) == {asked[0]}:
        raise Wrong("every step learns from the same words; ask for `source(step)` in the loop")
    if sorted(set(asked)) != list(range(steps)):
        raise Wrong(f"expected source(0) ... source({steps - 1}), found {asked}; one for each step")
    if not found.A.any():
        raise Wrong("A is still zero: give A and b to the optimiser, and call its `step()`")
    if not found.b.any():
        raise Wrong("b is still zero: give both A and b to the optimiser")
    with patch.object(torch.optim.Adam, "zero_grad"):  # by someone who forgets it
        added_up = train(model, words, steps)
    if (added_up.A - found.A).abs().mean() < 1e-3:  # also of a mean over depths: Adam divides it out
        raise Wrong("gradients add up from step to step; call `zero_grad()` before each `backward()`")
    known = lenses.logit_lens(model), found, train(model, words, steps)
    start, end, due = (lenses.divergence(model, lens, words(0)).sum() for lens in known)
    if end >= start:
        raise Wrong("the divergence does not fall; step down its gradient, not up")
    if start - end < 0.5 * (start - due):
        raise Wrong("the divergence falls less than half as far as it should; take a step each time")


@torch.no_grad()
def check_costs(attempt) -> None:
    model = pair()["mamba"]
    ids, lens = reading.tokens(model, PROMPT).ids[0], lenses.logit_lens(model)
    lens.A.add_(0.01 * draws(lens.A.shape)[0])
    states = lenses.residuals(model, ids[None], torch.ones_like(ids[None]).bool())
    plain, log_q = (model.to_logits(h).log_softmax(-1) for h in (states, lens.translate(states)))

    def cost(log_q: Tensor, following: Tensor) -> Tensor:
        picked = following.expand(len(log_q), -1)[..., None]
        return -log_q[:, : len(following)].gather(-1, picked).sum((1, 2))

    truth, own = cost(log_q, ids[1:]), -(log_q.exp() * log_q).sum(-1)
    answer, depths = attempt(model, lens, ids), f"depths 0 ... {model.n_layers}"
    found, entropy = expect_two(answer, "cross-entropy and entropy of each depth")
    mistakes = {
        "you score the word that was read; what follows position i is ids[i + 1]": cost(log_q, ids),
        "you leave out the translators: `lens.translate(states)`": cost(plain, ids[1:]),
        "you average over words; add them up": truth / (len(ids) - 1),
        "a cost is minus the log-probability": -truth,
    }
    otherwise = "minus the log-probability of each next word, summed over the text"
    expect_equal(found, truth, "the cross-entropy", mistakes, otherwise, depths, 1e-3)
    mistakes = {
        "nothing follows the last word: its entropy does not count": own.sum(1),
        "entropy is minus the sum of q log q": -own[:, :-1].sum(1),
    }
    otherwise = "the entropy is minus sum over the vocabulary of q log q, then over words"
    expect_equal(entropy, own[:, :-1].sum(1), "the entropy", mistakes, otherwise, depths, 1e-3)


def check_shuffled(attempt) -> None:
    (states,) = draws((3, 40, 4))
    found = attempt(lambda step: states.clone())
    if not callable(found):
        raise Wrong(f"expected a function of the step, found {type(found).__name__}; return `pick`")
    found = expect_tensor(found(1), states.shape, "states [k word d_model]")

    def words(x: Tensor) -> list:  # whatever their order
        return sorted(x.transpose(0, 1).flatten(1).tolist())

    if close(found, states):
        raise Wrong("nothing is shuffled; give the last depth's states to other words")
    if words(found[[0, -1]]) == words(states[[0, -1]]):
        raise Wrong("you move all depths together, so each word keeps its own target")
    if not close(found[:-1], states[:-1]):
        raise Wrong("only the last depth may change: it is the target, the others are read")
    if words(found[-1:]) != words(states[-1:]):
        raise Wrong("each word's target must occur once, in another order: see `torch.randperm`")
    if (found[-1] == states[-1]).all(-1).sum() > 8:
        raise Wrong("most words keep their own target; put them in a random order")


@torch.no_grad()
def check_cost_of_average(attempt) -> None:
    model = pair()["mamba"]
    texts = lenses.encode(model, [d.text for d in world.documents("facts", 6)])
    source = lenses.cached(model, texts, 32)
    states = torch.cat([source(step) for step in range(20)], 1)  # of 32 words a step
    first, last = (model.to_logits(states[k]).softmax(-1) for k in (0, -1))

    def cost(log_average: Tensor, shift: int = 1) -> Tensor:
        rows = zip(texts.ids, texts.n_words.tolist(), strict=True)
        return torch.stack([-log_average[row[shift : n + shift]].sum() for row, n in rows])

    log_average = last.mean(0).log()
    mistakes = {
        "you average logarithms; average the chances, then take the logarithm": cost(last.log().mean(0)),
        "this is the average after the embedding; the model is the last depth": cost(first.mean(0).log()),
        "you average over the words of one step; take 20": cost(last[:32].mean(0).log()),
        "you score the word that was read; what follows position i is ids[i + 1]": cost(log_average, 0),
        "padding counts in yours; see `texts.counted`": -log_average[texts.ids[:, 1:]].sum(1),
        "you average over words; add them up": cost(log_average) / texts.n_words,
        "a cost is minus the log-probability": -cost(log_average),
    }
    otherwise = "minus the average word's log-probability of each next word, summed"
    what, found = "the cost of each text [text]", attempt(model, source, texts)
    expect_equal(found, cost(log_average), what, mistakes, otherwise, "one sum for each", 1e-3)


def check_settled(attempt) -> None:
    T, F = True, False
    known = ([F, F, T, T], 2), ([T, F, T, T], 2), ([F, F, F, T], 3), ([T, T, T], 0)
    for right, depth in (*known, ([T, T, F], None), ([F, F], None)):
        found = attempt(right)
        if found != depth and depth is None:
            raise Wrong(f"for {right} the model's own answer is wrong: return None, not {found}")
        if found != depth and found == right.index(True):
            raise Wrong(f"for {right} you give {found}, the first time it is right; it must also stay so")
        if found != depth:
            raise Wrong(f"for {right} expected {depth}, found {found}")


def check_layer_transfer(attempt) -> None:
    states, A, b = draws((3, 5, 2), (3, 2, 2), (3, 2))

    def cost(h: Tensor) -> Tensor:
        expect_tensor(h, (5, 2), "what `cost` is given", "the states of one depth, after one translator")
        return h.abs().sqrt().sum()

    def table(A: Tensor, own: float = 1.0) -> Tensor:
        maps = zip(A, b, strict=True)
        return torch.tensor([[cost(own * r + r @ m.T + c) for r in states] for m, c in maps])

    whole, turned, alone = table(A), table(A.mT), table(A, 0.0)
    mistakes = {
        "rows are translators and columns depths; yours are turned": (whole - whole.diagonal()).T,
        "subtract what depth j pays with its own translator": whole,
        "column j loses its own diagonal entry, not row i": whole - whole.diagonal()[:, None],
        "states are rows: A r for every row is r @ A.T": turned - turned.diagonal(),
        "the translator adds to r: r + A r + b": alone - alone.diagonal(),
    }
    otherwise = "entry (i, j) is cost(r_j + A_i r_j + b_i) less that of i = j"
    found = attempt(cost, A, b, states)
    expect_equal(found, whole - whole.diagonal(), "the table [i j]", mistakes, otherwise)


PROMPT = "The capital of Zabar is"  # of the checks
LENSES = {  # one dash for each lens in every figure; colour and marker are the model's
    "logit lens": {"linestyle": ":"},
    "tuned lens": {"linestyle": "-"},
    **dict.fromkeys(("shuffled targets", "control"), plots.THIN | {"linestyle": "--"}),
}
PUBLISHED = {"pythia-1.4b": style("transformer"), "mamba-1.4b": style("mamba"), "rwkv-1b5": style("rwkv")}


def early_exits() -> Drawn:
    """A sketch: the stream of one word, and a translator, norm and unembedding at every depth."""
    figure, (axis,) = canvas((9, 3.1), (-1.2, 9), (-0.5, 2.15))
    colour = style("mamba")["color"]
    for k, said in enumerate(("sang", "the", "Dovella", "Dovella")):
        x, last, i = 2.6 * k, k == 3, "₀₁₂₃"[k]
        write(axis, x, 0, f"r{i}", fontsize=13, style="italic")
        arrow(axis, (x, 0.2), (x, 1.75), color=GREY if last else colour)
        if not last:
            arrow(axis, (x + 0.3, 0), (x + 2.35, 0))
            write(axis, x + 1.3, -0.3, f"block {k}", fontsize=10)
            write(axis, x, 0.62, f"r{i} + A{i} r{i} + b{i}", style="italic", color=colour, edge=colour)
        write(axis, x, 1.2, "U n(·)", style="italic", edge=GREY)
        write(axis, x, 1.95, said, fontsize=12, weight="bold")
    write(axis, 0, -0.3, "embedding", fontsize=10)
    return figure, (
        "After every block a word's stream leaves through a translator, the final norm and the "
        "unembedding; after the last block there is no translator, and the model speaks."
    )


def trajectories(rows: Mapping[str, lenses.Trajectory]) -> Drawn:
    """Per row the likeliest next word in every cell and its probability as colour; depth grows upwards,
    the words that the last row reads stand below."""
    depths = [len(row.chances) for row in rows.values()]
    grid = {name: Map(x.chances, (), x.words, x.guesses, origin="lower") for name, x in rows.items()}
    names = "probability of the word in the cell", "word read", "k"
    look = {"size": (9.4, 0.3 * sum(depths) / len(depths) + 0.6), "height_ratios": depths, "sharex": True}
    figure, _ = plots.maps(grid, *names, columns=1, **look)
    said = []
    for name, (_, guesses, _) in rows.items():
        last = guesses[-1][-1]
        first = settled([row[-1] == last for row in guesses])
        said.append(f"{name} says '{last}' from k = {first} of {len(guesses) - 1} on")
    return figure, f"After the last word, {' and '.join(said)}."


def _look(title: str, series: str, at: int) -> dict:
    """Of 'model, lens', or of a lens in the panel of its model; of 'model' alone, its tuned lens."""
    model, _, lens = (f"{title}, {series}" if series in LENSES else series).partition(", ")
    return (PUBLISHED.get(model) or style(model)) | {"markersize": 4} | LENSES[lens or "tuned lens"]


def lens_curves(models: Lines, ylabel: str) -> Drawn:
    """Per model, in its colour, a line for each lens with its 95 % band; the control is thin and grey."""
    figure, _ = plots.curves(models, plots.DEPTH, ylabel, _look, ylim=(0, None))
    said = each(models, lambda e: f"{e[0].value:.2f} at k = 0, {e[len(e) // 2].value:.2f} half-way")
    return figure, f"{ylabel[0].upper() + ylabel[1:]} by depth. {said}."


def transfer_maps(maps: Mapping[str, Tensor], ylabel: str) -> Drawn:
    """What translator i costs at depth j beyond j's own: per model a map [i j] on one scale."""
    most = max(float(costs.max()) for costs in maps.values())
    grid, said = {name: Map(costs, origin="lower") for name, costs in maps.items()}, []
    names = f"extra {ylabel}", "read at depth k", "translator of depth k (last: none)"
    figure, _ = plots.maps(grid, *names, (0, most), size=(4.7, 4.1))
    for name, costs in maps.items():
        near, far = float(costs.diagonal(1)[:-1].mean()), float(costs[0, 1:-1].mean())
        said.append(f"{name}: {near:.2f} one depth too early, {far:.2f} with the embedding's")
    return figure, f"Mean cost of a foreign translator, in {ylabel}. {'; '.join(said)}."


def knowing(kinds: Lines) -> Drawn:
    """Per kind of question a line for each model, the share answered rightly at each depth by the tuned
    lens; lines that are named '<model>, control' are thin and grey, with the model's marker."""
    names, size = ("depth k/L", "share of questions answered"), (9.4 / len(kinds), 3.9)
    figure, _ = plots.curves(kinds, *names, _look, size=size, ylim=(-0.03, 1.03))
    own = {kind: {n: x for n, x in lines.items() if ", " not in n} for kind, lines in kinds.items()}
    half = {kind: {name: x[len(x) // 2] for name, x in lines.items()} for kind, lines in own.items()}
    return figure, f"Share of the questions that are answered half-way, {listed(half, '.0%')}."


def published() -> dict[str, dict[str, tuple]]:
    """Paulo et al. (2024): model -> lens -> (k/L, excess over the model itself in bits per byte)."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    with open(files.DATA / "published" / "tuned_lens.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            line = found.setdefault(row["model"], {}).setdefault(row["lens"], {})
            line[int(row["k"]) / int(row["blocks"])] = float(row["ce_bits_per_byte"])
    for model, curves in found.items():
        (own,) = curves.pop("model").values()
        rows = {lens: [(x, y - own) for x, y in line.items() if x < 1] for lens, line in curves.items()}
        found[model] = {f"{lens} lens": tuple(zip(*row, strict=True)) for lens, row in rows.items()}
    return found


def beside_published(sources: Mapping[str, Mapping[str, Mapping[str, tuple]]]) -> Drawn:
    """Per source and model the excess over the model's own cross-entropy, on a log axis, of the logit
    lens and the tuned lens: (depths, bits per byte)."""
    lines = {
        title: {
            f"{model}, {lens}": dict(zip(x, y, strict=True))
            for model, of_lenses in of_models.items()
            for lens, (x, y) in of_lenses.items()
        }
        for title, of_models in sources.items()
    }
    ylabel = "excess over the model itself (bits per byte)"
    figure, axes = plots.curves(lines, plots.DEPTH, ylabel, _look, size=(4.7, 4.6))
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    for line in (line for axis in axes for line in axis.get_lines()):
        line.set_markevery(0.12)  # of the panel's diagonal: a marker at each depth would hide the dashes
    said = each(sources, lambda lines: " then ".join(f"{y[0]:.1f}" for _, y in lines.values()))
    alt = "Excess over the model at the first depth, in bits per byte, of the logit and then the tuned"
    return figure, f"{alt} lens: {said}."
