"""Lesson 05b, erasure: minimal pairs, a direction that is erased, controls that move words as far."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import tasks, world
from tft_utils.corpora.lexicon import WORLD, Lexicon
from tft_utils.corpora.tasks import Marked
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, draws, expect_equal, expect_tensor, pair
from tft_utils.course.plots import GREY, Drawn, Line, Lines, Row, listed


def take(x, mean, a, b):
    """x [... d] without what b reads of each vector: x - ((x - mean) . b) a."""
    return x - ((x - mean) @ b)[..., None] * a


def projection(x, z):
    """mean, a and b [d] of the plain way to take z [n] from x [n d]: a = b, a unit covariance."""
    mean = x.mean(0)
    a = (x - mean).T @ (z - z.mean())
    a = a / a.norm()
    return mean, a, a


def erase(x, z):
    """mean, a and b [d], such that x - ((x - mean) . b) a has no linear trace of z [n]: x [n d]."""
    mean = x.mean(0)
    centred = x - mean
    a = centred.T @ (z - z.mean()) / len(x)  # covariance of x and z
    b = torch.linalg.solve(centred.T @ centred / len(x), a)
    return mean, a, b / (a @ b)


def word_bits(model, ids):
    """The surprisal -log2 p of each word but the first, in bits [text pos-1]: ids [text pos]."""
    with model.trace(ids):
        logits = model.logits.save()
    p = logits[:, :-1].float().softmax(-1)
    chosen = p.gather(-1, ids[:, 1:, None])[..., 0]
    return -chosen.log2()


def erase_upwards(model, ids, at, z, depths, find):
    """{k: [mean, a, b]} at these depths, each fitted to what the erasers below it leave.

    ids [text pos]; x[at] are the marked words [n d] of a stream x, with values z [n]; find: erase, or
    projection.
    """
    erasers = {}
    with model.trace(ids):
        for k in depths:
            x = model.residual(k)
            found = find(x[at].cpu().double(), z)
            erasers[k] = [part.to(x) for part in found]
            model.set_residual(k, take(x, *erasers[k]))
    return erasers


def scores_without(model, batch, erasers):
    """Each answer's logit minus its foil's [prompt], when every word loses its part at each depth.

    batch: prompts `ids` [prompt pos], their last words at `last` [prompt]; erasers: {k: [mean, a, b]}.
    """
    with model.trace(batch.ids):
        for k in sorted(erasers):
            model.set_residual(k, take(model.residual(k), *erasers[k]))
        logits = model.logits.save()
    rows = torch.arange(len(batch))
    return batch.score(logits[rows, batch.last])


def vectors_without(model, ids, at, erasers):
    """The marked words' vectors at every depth with these erasers at work: [n depth d].

    ids [text pos]; x[at] are the marked words [n d] of a stream x; erasers: {k: [mean, a, b]}.
    """
    vectors = []
    with model.trace(ids):
        for k in range(model.n_layers + 1):
            x = model.residual(k)
            if k in erasers:
                x = take(x, *erasers[k])
                model.set_residual(k, x)
            vectors.append(x[at].cpu().save())
    return torch.stack(vectors, dim=1)


def another_direction(x, b, seed):
    """A random unit vector u [d], drawn as the vectors x [n d] vary, with u . b = 0."""
    centred = x - x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(x), generator=draw).to(x)
    u = centred.T @ weights
    u = u - (u @ b) / (b @ b) * b
    return u / u.norm()


def matched_control(x, z, far, seed):
    """mean, a and b of a control that moves vectors x [n d] elsewhere, and leaves z [n] readable.

    far: the mean squared distance by which it moves those whose z is not 0.
    """
    mean, _, b = erase(x, z)
    u = another_direction(x, b, seed)
    read = ((x - mean) @ b)[z != 0].square().mean()
    return mean, (far / read).sqrt() * u, b


def place_among(value, others):
    """The share of others that are as low or lower, and p: the same share with the value counted in."""
    as_low = sum(other <= value for other in others)
    return as_low / len(others), (as_low + 1) / (len(others) + 1)


@functools.cache
def _sentences(name: str) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Tokens of short sentences, the places of all their words, and values that differ by sentence."""
    texts = [p.clean.prompt(p.position) for p in world_pairs.minimal_pairs(40, 1, attractors=1)]
    ids, mask = reading.tokens(pair()[name], texts)
    rows, columns = mask.nonzero(as_tuple=True)
    return ids, (rows, columns), torch.where(rows.cpu() % 2 == 0, 1.0, -1.0).double()


def marked_words(model, marked: Sequence[Marked]) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """ids [text pos]; at: x[at] are the marked words [n d] of a stream x; their values z [n]."""
    documents = [document for some in marked for document in some.documents]
    rows, ends = reading.encode(model, documents)
    _, ids = next(reading.batches(rows, model.hf.device, size=len(rows), ordered=False))
    at = [row for some in marked for row in some.at]
    where = [(i, end[j]) for i, (end, row) in enumerate(zip(ends, at, strict=True)) for j in row]
    values = torch.cat([torch.tensor(some.value).flatten() for some in marked])
    return ids, tuple(torch.tensor(where).T), values.double()


def _three(answer: object, d: int) -> list[Tensor]:
    """mean, a and b of an answer."""
    if not (isinstance(answer, tuple | list) and len(answer) == 3):
        raise Wrong("expected three vectors, mean, a and b; return them in this order")
    named = zip(answer, ("mean", "a", "b"), strict=True)
    return [expect_tensor(vector, (d,), name).double() for vector, name in named]


def check_take(attempt) -> None:
    x, (mean, a, b) = draws((2, 3, 4), (3, 4))
    x += 1
    before = x.clone()
    answer = attempt(x, mean, a, b)
    if not torch.equal(x, before):
        raise Wrong("you write into the vectors that you were given; return new ones")
    mistakes = {
        "you return the part; subtract it from x": before - take(before, mean, a, b),
        "subtract the mean before you multiply by b": take(before, 0 * mean, a, b),
        "a and b are exchanged: read along b, subtract along a": take(before, mean, b, a),
    }
    truth = take(before, mean, a, b)
    expect_equal(answer, truth, "the vectors", mistakes, "this is not x - ((x - mean) . b) a")


def check_projection(attempt) -> None:
    z = torch.arange(300).double() % 2 * 2 - 1
    x = draws((300, 4), seed=1)[0].double() * torch.tensor([3, 1, 1, 0.5]) + 2
    x = x + z[:, None] * torch.tensor([1.0, 0.5, 0.0, -1.0])
    mean, a, b = _three(attempt(x.clone(), z), 4)
    true_mean, true_a, _ = projection(x, z)
    if not torch.allclose(mean, true_mean, atol=1e-5):
        raise Wrong("the first vector is not the mean of x")
    if abs(a.norm() - 1) > 1e-4:
        raise Wrong(f"a has the length {a.norm():.2f}; divide it by its length")
    if not torch.allclose(a, b, atol=1e-5):
        raise Wrong("a and b differ; the plain way reads and subtracts along the same direction")
    if abs(a @ true_a) < 0.9999:
        hint = "weight each centred vector by z - z.mean()"
        raise Wrong(f"a is not along the covariance of x and z: {hint}")


def check_erase(attempt) -> None:
    z = (torch.arange(400) % 2 * 2.0 - 1).double()
    mix, x = (each.double() for each in draws((5, 5), (400, 5)))
    x = x @ mix + 3 + z[:, None] * torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0])
    before = x.clone()
    parts = mean, a, b = _three(attempt(x, z), 5)
    if not torch.equal(x, before):
        raise Wrong("you write into the vectors that you were given; leave them as they are")
    if not torch.allclose(mean, x.mean(0), atol=1e-6):
        raise Wrong("the mean of the vectors moves; the first vector must be the mean of x")
    left = take(x, *parts).T @ z / 400
    if left.abs().max() > 1e-6 and abs(a @ b - 1) > 1e-3:
        raise Wrong(
            f"z can still be read: b . a is {(a @ b).item():.2f}, and what is taken away is too much or "
            "too little; divide b by its product with a"
        )
    if left.abs().max() > 1e-6:
        raise Wrong("z can still be read: a has to be the covariance of x and z")
    moved, least = ((take(x, *each) - x).square().sum() for each in (parts, erase(x, z)))
    if moved > least * 1.001:
        raise Wrong(
            f"z is gone, but you move the vectors {(moved / least).sqrt():.1f} times as far as you have "
            "to; read z along the covariance's inverse times a, and subtract along a"
        )


def check_word_bits(attempt) -> None:
    for model in pair().values():
        start = model.tokenizer.eos_token_id
        texts = "The cat beside the bear rests .", "The tall bridges near the cat shine ."
        rows = [model.tokenizer(text, add_special_tokens=False).input_ids[:6] for text in texts]
        ids = torch.tensor([[start, *row] for row in rows], device=model.hf.device)
        bits = word_bits(model, ids)
        with torch.no_grad():
            log_p = model.hf(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        mistakes = {
            "these are nats, of the natural logarithm; bits take log2": bits * math.log(2),
            "surprisal is not negative: it is minus the logarithm": -bits,
            "a word was predicted by the logits *before* it: logits[:, :-1] belong to ids[:, 1:]": (
                -log_p.gather(-1, ids[..., None])[:, 1:, 0] / math.log(2)
            ),
        }
        hint, otherwise = "no word predicts the first", "this is not -log2 of each word's probability"
        expect_equal(attempt(model, ids), bits, "the bits", mistakes, otherwise, hint, 1e-2)


def check_erase_upwards(attempt) -> None:
    for name, model in pair().items():
        ids, at, z = _sentences(name)
        low, top = depths = [model.n_layers - 1, model.n_layers]
        answer = attempt(model, ids, at, z, depths, projection)
        if not (isinstance(answer, dict) and sorted(answer) == depths):
            raise Wrong(f"expected a dict with the keys {depths}, the depths; find one eraser at each")
        answer = torch.stack([torch.stack(_three(answer[k], model.config.hidden_size)) for k in depths])
        stream = reading.streams(model, ids, low)[low]

        def fitted(change, find, x=stream, low=low, model=model, at=at, z=z) -> Tensor:
            found = []
            for k in (low, low + 1):
                found.append(torch.stack(find(x[at].double().cpu(), z)))
                x = model.block(low, change(x, *found[0].to(x))) if k == low else x
            return torch.stack(found)

        mistakes = {
            "each eraser is fitted to the clean stream; give the changed stream back with "
            "`model.set_residual(k, ...)` before you go up": fitted(lambda x, *parts: x, projection),
            "you always use `erase`; use `find`, whichever it is": fitted(take, erase),
        }
        otherwise = "the erasers differ: fit to x[at] and z, then take the part from every word of x"
        expect_equal(answer, fitted(take, projection), "the erasers", mistakes, otherwise, rough=1e-2)


def check_scores_without(attempt) -> None:
    pairs = [p for n in (0, 2) for p in world_pairs.minimal_pairs(4, 1, attractors=n)]
    prompts = [p.clean.prompt(p.position) for p in pairs]
    for model in pair().values():
        batch = reading.ask(model, prompts, [p.answer for p in pairs], [p.foil for p in pairs])
        rows, k = torch.arange(len(batch)), model.n_layers - 1
        stream = reading.streams(model, batch.ids, k)[k]
        a, b = draws((2, stream.shape[-1]), seed=3)[0].to(stream)
        parts = [stream[rows, batch.last].mean(0), 2 * a, b / b.norm() / 4]

        def run(low, high, x=stream, parts=parts, k=k, model=model, batch=batch, rows=rows) -> Tensor:
            x = take(x, *parts) if low else x
            x = model.block(k, x)
            return batch.score(model.to_logits((take(x, *parts) if high else x)[rows, batch.last]))

        mistakes = {
            "nothing changed: give the new stream back with `model.set_residual(k, ...)`, before you "
            "read the logits": run(False, False),
            "erase at every depth of `erasers`, not at the first alone": run(True, False),
        }
        answer = attempt(model, batch, {k + 1: parts, k: parts})
        otherwise = (
            "these are not the scores of the changed run: every word loses its part; and prompts have "
            "different lengths, so read the logits at `batch.last`"
        )
        expect_equal(answer, run(True, True), "the scores", mistakes, otherwise, rough=1e-2)


def check_vectors_without(attempt) -> None:
    for name, model in pair().items():
        ids, (rows, columns), _ = _sentences(name)
        at = rows[::7], columns[::7]
        k, clean = model.n_layers // 2, reading.streams(model, ids)
        parts = [part.to(clean) for part in 0.3 * draws((3, clean.shape[-1]), seed=5)[0]]
        x = [*clean[:k], take(clean[k], *parts)]
        for layer in range(k, model.n_layers):
            x.append(model.block(layer, x[-1]))
        truth = torch.stack([stream[at] for stream in x], 1)
        early = truth.clone()
        early[:, k] = clean[k][at]
        hint = "[n depth d]: stack the depths as dim 1"
        mistakes = {
            "nothing changed: erase, and give the stream back with `model.set_residual(k, ...)`": (
                clean[:, at[0], at[1]].transpose(0, 1)
            ),
            "at an eraser's own depth you keep the stream from before; keep what it leaves": early,
        }
        otherwise = "these are not the vectors at the marked words, x[at]"
        answer = attempt(model, ids, at, {k: parts})
        expect_equal(answer, truth, "the vectors", mistakes, otherwise, hint, 1e-2)


def check_another_direction(attempt) -> None:
    x, b = (each.double() for each in draws((500, 12), (12,), seed=4))
    x = x * torch.linspace(0.1, 5, 12) + 7
    drawn = [expect_tensor(attempt(x.clone(), b, seed), (12,), "the direction") for seed in range(60)]
    u = torch.stack(drawn).double()
    if (u.norm(dim=1) - 1).abs().max() > 1e-4:
        raise Wrong(f"the direction has the length {u[0].norm():.2f}, not 1")
    if (u @ b).abs().max() / b.norm() > 1e-3:
        raise Wrong("b still reads your direction: u . b must be 0")
    if (u[0] - u[1]).abs().max() < 1e-6:
        raise Wrong("another seed gives the same direction; it must be drawn at random")
    if not torch.allclose(attempt(x.clone(), b, 0).double(), u[0]):
        raise Wrong("the same seed gives another direction; draw with a generator that has this seed")
    if u.mean(0).norm() > 0.6:
        raise Wrong("all your directions point to the mean of the vectors; take the mean off first")
    _vary(u, 0.75, "add up the centred vectors themselves, with random weights")


def _vary(u: Tensor, least: float, hint: str) -> None:
    """Refuses unit directions u [n d] of vectors that vary along their second half if that holds less."""
    if u.square()[:, u.shape[1] // 2 :].sum(1).mean() < least:  # an even draw has about a half there
        raise Wrong(f"your directions do not care how the vectors vary; {hint}")


def check_matched_control(attempt) -> None:
    z = torch.tensor([1.0, -1.0, 0.0, 0.0]).double().repeat(100)
    x = draws((400, 6), seed=6)[0].double() * torch.linspace(1, 4, 6) + 3
    x = x + z[:, None] * torch.linspace(-2, 2, 6)
    far = torch.tensor(9.0).double()
    mean, a, b = _three(attempt(x.clone(), z, far, 0), 6)
    true_mean, _, true_b = erase(x, z)
    if not (torch.allclose(mean, true_mean) and torch.allclose(b, true_b, rtol=1e-3)):
        raise Wrong("mean and b are not those of `erase`; a control reads what the eraser reads")
    if abs(a @ b) > 1e-3 * a.norm() * b.norm():
        raise Wrong("number is lost: a is not another direction; use `another_direction`")
    many = torch.stack([attempt(x.clone(), z, far, seed)[1] for seed in range(100)])
    if not torch.allclose(many[0], a) or torch.allclose(many[1], a):
        raise Wrong("a must depend on `seed`, and on it alone; use `another_direction(x, b, seed)`")
    _vary(many / many.norm(dim=1, keepdim=True), 0.72, "use `another_direction(x, b, seed)`")
    squares = (take(x, mean, a, b) - x).square().sum(1)
    if abs(squares[z != 0].mean() - far) < 1e-3:
        return
    if abs(squares.mean() - far) < 1e-3:
        raise Wrong("you match the distance over all words; match it over those whose z is not 0")
    raise Wrong(
        f"words move by {squares[z != 0].mean():.1f} in mean square, expected {far:.1f}; lengthen a "
        "by the square root of what is missing"
    )


def check_place_among(attempt) -> None:
    others = [0.9, 0.5, 1.0, 0.8]
    for value, share, p in ((0.6, 0.25, 0.4), (0.5, 0.25, 0.4), (0.1, 0.0, 0.2), (1.0, 1.0, 1.0)):
        answer = attempt(value, others)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise Wrong("expected two numbers, the share and p; return both")
        found, its_p = map(float, answer)
        if abs(found - share) > 1e-9:
            raise Wrong(f"{value} among {others}: the share as low or lower is {share}, found {found}")
        if abs(its_p - p) > 1e-9:
            raise Wrong(f"{value} among {others}: p is {p}, found {its_p:.2f}; count the value itself in")


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


ERASED = [  # nothing, number, number by projection, other directions
    {"color": plots.BLACK, "marker": "o"},
    {"color": plots.GREEN, "marker": "s"},
    {"color": plots.PURPLE, "marker": "D"},
    {"color": GREY, "marker": "|", "markersize": 10, "alpha": 0.7},
]


def idea() -> Drawn:
    """A concept in vectors of two numbers: as it is, erased, and moved as far elsewhere."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(160, 2, generator=draw) @ torch.tensor([[1.6, 0.7], [0.0, 0.5]])
    z = torch.arange(160) % 2 * 2.0 - 1
    x += z[:, None] * torch.tensor([0.2, 1.3])
    left = take(x, *erase(x, z))
    elsewhere = take(x, *matched_control(x, z, (left - x).square().sum(1).mean(), 0))
    panels = {"as they are": x, "number erased": left, "moved as far, elsewhere": elsewhere}
    figure, axes = plots.titled(panels, "first number of a vector", "second number", size=(3.3, 3.1))
    apart = {}
    for axis, (title, vectors) in zip(axes, panels.items(), strict=True):
        one, many = vectors[z < 0], vectors[z > 0]
        axis.plot(*one.T.numpy(), ".", color=plots.BLACK, alpha=0.6, label="singular")
        axis.plot(*many.T.numpy(), "+", color=plots.GREEN, label="plural")
        apart[title] = {"distance": (many.mean(0) - one.mean(0)).norm().item()}
    plots.legend(figure)
    return figure, f"Two clouds of points; how far their means are apart. {listed(apart, '.2f')}."


def comes_back(curves: Mapping[str, Mapping[str, Line]]) -> Drawn:
    """Accuracy of a fresh probe by depth, a panel a model; `curves`: model -> what is erased -> line."""
    ylabel = "accuracy of a fresh probe"
    figure, axes = plots.curves(curves, "depth k/L", ylabel, plots.SERIES, ylim=(0.35, 1.05))
    for axis in axes:
        axis.axhline(0.5, color=GREY, linestyle=":", linewidth=1.5)
    said = listed(curves, lambda line: f"{plots.plain(line)[-1]:.2f}")
    alt = "Accuracy of a fresh probe for number after the last block, by what is erased."
    return figure, f"{alt} {said}."


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
    size = (4.7 if len(shares) > 1 else 7.2, 3.9)
    figure, axes = plots.dot_panels(shares, "share right", (-0.03, 1.05), ERASED, size=size)
    for axis in axes:
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1.5)

    def say(row: Row) -> str:
        value = row[next(iter(row))]
        ends = [min(value), max(value)] if isinstance(value, list) else [value.value]
        return " to ".join(f"{end:.2f}" for end in ends)

    first = next(iter(next(iter(next(iter(shares.values())).values()))))
    said = listed(shares, say)
    return figure, f"Share of right answers in {first.replace('_', ' ')}, by what is erased. {said}."
