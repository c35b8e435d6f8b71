"""Lesson 11, a_real_rnn: one number inside a recurrent model that knows a bracket is open.

A `put` takes (layer, position, numbers [text number]) and returns the numbers: see `organisms.twins`.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tft_utils import models, stats
from tft_utils.corpora import titles
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, VERMILION, Drawn, arrow, canvas, write
from tft_utils.files import DATA, ROOT
from tft_utils.organisms import twins
from tft_utils.stats import Estimate

BACK = 8  # characters before the end of a prompt: where a number is patched
FIGURES = DATA / "published" / "textgenrnn.json"
LOOKS = DATA / "published" / "smollm2.json"


def lstm_step(W, U, b, x, h, c):
    """h and c [cell] after one more input x [d], from h and c before.

    W [4*cell d], U [4*cell cell], b [4*cell]: rows of input gate, forget gate, candidate, output gate."""
    i, f, g, o = (W @ x + U @ h + b).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, c


def lstm_layer(W, U, b, x):
    """All h and all c [pos cell] of a layer that reads x [pos d] from h = c = 0; W, U, b as in a step."""
    h = c = torch.zeros(U.shape[1])
    shown, kept = [], []
    for one in x:
        h, c = lstm_step(W, U, b, one, h, c)
        shown.append(h)
        kept.append(c)
    return torch.stack(shown), torch.stack(kept)


def as_pytorch(kernel, recurrent_kernel, bias):
    """PyTorch's four tensors of an LSTM from three tables in CuDNN's layout.

    kernel [d 4*cell], recurrent_kernel [cell 4*cell], bias [8*cell]; in this order: weight_ih [4*cell d],
    weight_hh [4*cell cell], bias_ih [4*cell], bias_hh [4*cell]."""
    matrices = []
    for table in (kernel, recurrent_kernel):
        rows = table.shape[0]
        gates = []
        for block in table.chunk(4, 1):
            gates.append(block.reshape(-1, rows))
        matrices.append(torch.cat(gates))
    bias_ih, bias_hh = bias.chunk(2)
    return *matrices, bias_ih, bias_hh


def best_number(values, is_inside):
    """(layer, number) that tells best whether an aside is open.

    values: what each number is at many characters [layer character number]; is_inside: bool [character].
    Best: the distance of the two means, over the root of the sum of the two variances."""
    inner, outer = values[:, is_inside], values[:, ~is_inside]
    distance = (inner.mean(1) - outer.mean(1)).abs()
    spread = (inner.var(1) + outer.var(1)).sqrt()
    best = int((distance / (spread + 1e-6)).argmax())
    return divmod(best, values.shape[2])


def patch_number(donor, layer, number, position):
    """A put that replaces one number at one position by what it was in another run.

    donor: all numbers of that run [layer text position number]."""

    def put(at, t, numbers):
        if (at, t) == (layer, position):
            numbers = numbers.clone()
            numbers[:, number] = donor[layer, :, position, number]
        return numbers

    return put


def restored(clean, corrupt, patched):
    """The share of the gap from corrupt to clean that a patch restores: an `Estimate` over texts.

    Three tensors of log-probabilities [text]. The gaps are added up first, and so are the gains."""
    return stats.ratio(patched - corrupt, clean - corrupt)


def by_place(model, clean, corrupt, mark, layer, number):
    """Position -> the share of the gap that comes back, an `Estimate`, where one number is carried there.

    clean, corrupt: ids [text pos]; mark: the number of the mark whose log-probability is asked for.
    """
    high, low = says(model, clean, mark), says(model, corrupt, mark)
    donor = numbers(model, clean)
    found = {}
    for at in range(clean.shape[1]):
        put = patch_number(donor, layer, number, at)
        found[at] = restored(high, low, says(model, corrupt, mark, put))
    return found


def by_aside(gains, gaps, asides):
    """The share of the gap that comes back, an `Estimate` whose independent observations are asides.

    gains, gaps [prompt]: what came back, and what could; asides: a list, the aside of each prompt.
    """
    sums = {aside: [0.0, 0.0] for aside in asides}
    for aside, gain, gap in zip(asides, gains, gaps, strict=True):
        sums[aside][0] += float(gain)
        sums[aside][1] += float(gap)
    of_asides = torch.tensor(list(sums.values()))
    return stats.ratio(of_asides[:, 0], of_asides[:, 1])


def hold_number(layer, number, value):
    """A put that holds one number at a value, at every position."""

    def put(at, t, numbers):
        if at == layer:
            numbers = numbers.clone()
            numbers[:, number] = value
        return numbers

    return put


def others(number, size, n, seed):
    """n different numbers of 0 ... size - 1, drawn with a seed, never `number` itself: a list."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    order.remove(number)
    return order[:n]


# --------------------------------------------------------------------------------------------------
# What the lesson measures on a twin, and `tests/real` on the published model


def kinds(names: Sequence[str], scale: str, seed: int) -> list[str]:
    """Which of the models' names are kinds of twin. All twins are measured in one run, that of scale
    'tiny' and seed 0: another run would count the same trainings again."""
    return [name for name in names if name in twins.KINDS and (scale, seed) == ("tiny", 0)]


@torch.no_grad()
def numbers(model: nn.Module, ids: Tensor) -> Tensor:
    """All numbers of a run [layer text position number]."""
    found: dict[int, list[Tensor]] = {}

    def note(layer: int, t: int, values: Tensor) -> Tensor:
        found.setdefault(layer, []).append(values)
        return values

    model(ids, note)
    return torch.stack([torch.stack(found[layer], 1) for layer in sorted(found)])


def labelled(model: nn.Module, texts: Sequence[str], encode: Callable = titles.encode, mark: str = "("):
    """Numbers at every character of texts [layer character number], and whether an aside of this mark is
    open there [character]."""
    found, inside = [], []
    for text in texts:
        seen = numbers(model, encode([text]))[:, 0, -len(text) :]  # a window may be shorter
        found.append(seen)
        inside += titles.inside(text, mark)[-seen.shape[1] :]
    return torch.cat(found, 1), torch.tensor(inside)


@torch.no_grad()
def says(model: nn.Module, ids: Tensor, mark: int, put: Callable | None = None) -> Tensor:
    """Log-probability that the mark with this number comes next [text]."""
    return model(ids, put)[:, -1, mark]


def told(values: Tensor, is_inside: Tensor, border: Tensor | float) -> Tensor:
    """How often one number [... character] tells right which side of a border it is on, the two sides
    weighted alike; whichever side is the open one."""
    above = (values > border).double()
    share = (above[..., is_inside].mean(-1) + 1 - above[..., ~is_inside].mean(-1)) / 2
    return torch.maximum(share, 1 - share)


@torch.no_grad()
def carried(model, clean: Tensor, corrupt: Tensor, closes: Sequence[int], at: int) -> float:
    """Log-probability of the closing tokens after corrupt [1 pos], whose token `at`, counted from the
    end, hands on what it would in clean [1 pos]: its whole stream, after every block."""
    donor, x = model.embed(clean), model.embed(corrupt)
    x[:, at] = donor[:, at]
    for layer in range(model.n_layers):
        donor, x = model.block(layer, donor), model.block(layer, x)
        x[:, at] = donor[:, at]
    return model.to_logits(x[:, -1]).log_softmax(-1)[0, closes].logsumexp(0).item()


@torch.no_grad()
def reads(model, ids: Tensor, closes: Sequence[int], hide: int | None = None) -> tuple[float, Tensor]:
    """Log-probability of the closing tokens after ids [1 pos], and where the last token's heads look
    [layer head pos]. hide: a token, counted from the end, at which the last one may not look."""
    n = ids.shape[1]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    if hide is not None:
        mask[..., -1, hide] = mask.min()
    out = model.hf(ids, attention_mask=mask, output_attentions=True)
    said = out.logits[0, -1].log_softmax(-1)[closes].logsumexp(0).item()
    return said, torch.stack(out.attentions)[:, 0, :, -1]


def in_attention(model, head: tuple[int, int] | None = None) -> dict:
    """A model that reads English with attention, on the prompts that the published LSTM gets: one start
    an aside. Its head that looks most at the bracket, on prompts of their own; what it looks at; and what
    a token hands on to the last one. head: where it is known already."""
    tokenizer = model.tokenizer
    closes = [i for token, i in tokenizer.get_vocab().items() if token.startswith(")")]

    def split(text: str) -> tuple[Tensor, list[tuple[int, int]]]:
        both = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return torch.tensor([both["input_ids"]]), both["offset_mapping"]

    def measured(pair: titles.TitlePair) -> dict:
        (clean, places), (corrupt, _) = split(pair.clean), split(pair.corrupt)

        def token(character: int) -> int:
            return next(i for i, (start, end) in enumerate(places) if start <= character < end) - len(
                places
            )

        bracket, before = token(pair.clean.index("(")), token(len(pair.clean) - 1 - BACK)
        (high, looks), (low, _) = (reads(model, ids, closes) for ids in (clean, corrupt))
        there = {"the bracket": bracket, f"{BACK} characters before the end": before}
        return {
            "high": high,
            "low": low,
            "looks": looks[:, :, bracket],
            "looks elsewhere": looks[:, :, bracket + 1 :].mean(-1),
            "hidden": reads(model, clean, closes, bracket)[0],
            **{where: carried(model, clean, corrupt, closes, at) for where, at in there.items()},
        }

    def one_start(which: str) -> list[dict]:
        first = {pair.clean.partition("(")[2]: pair for pair in reversed(titles.english(which))}
        return [measured(pair) for pair in first.values()]

    if head is None:
        looks = torch.stack([found["looks"] for found in one_start("choose")]).mean(0)
        head = divmod(int(looks.argmax()), looks.shape[1])
    rows = one_start("score")
    high, low, hidden = (torch.tensor([row[key] for row in rows]) for key in ("high", "low", "hidden"))
    places = ("the bracket", f"{BACK} characters before the end")
    return {
        "head": list(head),
        "p inside": stats.mean(high.exp().tolist()),
        "p outside": stats.mean(low.exp().tolist()),
        "looks at the bracket": stats.mean([row["looks"][head].item() for row in rows]),
        "looks at a later token": stats.mean([row["looks elsewhere"][head].item() for row in rows]),
        "a head's mean look at it": stats.mean([row["looks"].mean().item() for row in rows]),
        "not allowed to look: gap that goes": stats.ratio(high - hidden, high - low),
        "carried": {
            at: stats.ratio(torch.tensor([row[at] for row in rows]) - low, high - low) for at in places
        },
    }


def smollm2():
    """SmolLM2, where `make real` has unpacked it; else None."""
    folder = ROOT / "build" / "real" / "smollm2"
    return models.load(folder) if folder.is_dir() else None


# --------------------------------------------------------------------------------------------------
# Checks


def check_lstm_layer(attempt) -> None:
    torch.manual_seed(4)
    layer, x = nn.LSTM(3, 5), torch.randn(6, 3)
    W, U = layer.weight_ih_l0.detach(), layer.weight_hh_l0.detach()
    b = (layer.bias_ih_l0 + layer.bias_hh_l0).detach()
    h, c = lstm_layer(W, U, b, x)
    found = attempt(W, U, b, x.clone())
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Wrong("expected two tensors, all h and all c; return both, h first")
    alone = [torch.stack([lstm_step(W, U, b, one, 0 * h[0], 0 * c[0])[k] for one in x]) for k in (0, 1)]
    stale, c_before = [], 0 * c[0]
    for one in x:
        stale.append(lstm_step(W, U, b, one, 0 * h[0], c_before))
        c_before = stale[-1][1]
    stale = [torch.stack(both) for both in zip(*stale, strict=True)]
    for k, (truth, other) in enumerate(((h, c), (c, h))):
        expect_equal(
            found[k],
            truth,
            "h or c [pos cell]",
            {
                "both are right, in the wrong order: h, then c": other,
                "each step starts from nothing: hand h and c on to the next one": alone[k],
                "you hand on c and not h": stale[k],
            },
            "begin with zeros of U.shape[1], step through x, and keep h and c of every step",
        )


def check_by_place(attempt) -> None:
    torch.manual_seed(5)
    model, pairs = twins.Cells(width=6, cells=5).requires_grad_(False), titles.pairs(5, seed=9)
    clean, corrupt = (titles.encode([pair[side][14:] for pair in pairs]) for side in (0, 1))
    given = model, clean, corrupt, titles.NUMBER[")"], 1, 3
    found, truth = attempt(*given), by_place(*given)
    if not isinstance(found, dict) or list(found) != list(truth):
        raise Wrong(f"expected a dict with the positions 0 to {len(truth) - 1}, in their order")
    if not all(isinstance(value, Estimate) for value in found.values()):
        raise Wrong("expected an Estimate at each position: what `restored` gives")
    away = by_place(model, corrupt, clean, *given[3:])
    other = by_place(*given[:4], 0, 3)

    def same(values: Mapping) -> bool:
        return all(abs(found[at].value - values[at].value) < 1e-4 for at in truth)

    if same(truth):
        return
    if same(away):
        raise Wrong("you carry from the corrupt run into the clean one; it is the other way round")
    if same(other):
        raise Wrong("you patch another layer than the one that is given")
    if len({round(value.value, 6) for value in found.values()}) == 1:
        raise Wrong("every position gives the same: patch at each position alone, in its turn")
    raise Wrong("numbers of the clean run as donor, one patch a position, asked of the corrupt run")


def check_by_aside(attempt) -> None:
    gains, gaps = torch.tensor([3.0, 2.0, 0.0, 0.5, 4.0]), torch.tensor([4.0, 2.0, 6.0, 2.0, 4.0])
    asides = ["a", "a", "b", "b", "c"]
    found, truth = attempt(gains, gaps, list(asides)), by_aside(gains, gaps, asides)
    if not isinstance(found, Estimate):
        raise Wrong(
            f"expected an Estimate, found {type(found).__name__}; `stats.ratio(gains, gaps)` is one"
        )
    prompts = stats.ratio(gains, gaps)
    shares = stats.mean([5 / 6, 0.5 / 8, 1.0])
    for value, hint in (
        (prompts, "these are prompts as observations: add up gains and gaps of each aside first"),
        (shares, "you average the asides' shares: give the sums to `stats.ratio`"),
    ):
        if all(abs(x - y) < 1e-5 for x, y in zip(found, value, strict=True)):
            raise Wrong(hint)
    if not all(abs(x - y) < 1e-5 for x, y in zip(found, truth, strict=True)):
        raise Wrong(
            f"expected {truth.value:.3f} from {truth.n} asides, found {found.value:.3f} from {found.n}"
        )


def check_lstm_step(attempt) -> None:
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 5)
    W, U, b = cell.weight_ih.detach(), cell.weight_hh.detach(), (cell.bias_ih + cell.bias_hh).detach()
    x, h, c = torch.randn(3), torch.randn(5), torch.randn(5)
    truth = [z.detach() for z in cell(x, (h, c))]
    found = attempt(W, U, b, x, h.clone(), c.clone())
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Wrong("expected two tensors, h and c; return both, h first")
    for name, z in zip("hc", found, strict=True):
        expect_tensor(z, (5,), f"{name} [cell]")
    i, f, g, o = (W @ x + U @ h + b).chunk(4)
    if close(found[0], truth[1]) and close(found[1], truth[0]):
        raise Wrong("both are right, in the wrong order: return h, then c")
    mistakes = {
        "the candidate goes through tanh, only the gates through sigma": f.sigmoid() * c
        + i.sigmoid() * g.sigmoid(),
        "the third block of rows is the candidate and the fourth the output gate": f.sigmoid() * c
        + i.sigmoid() * o.tanh(),
        "the forget gate multiplies what was there, the input gate what is new": i.sigmoid() * c
        + f.sigmoid() * g.tanh(),
    }
    if not close(found[1], truth[1]):
        refuse(
            found[1], mistakes, "c is not f c + i g, with sigma of the gates and tanh of the candidate"
        )
    refuse(found[0], {"h is o tanh(c): you leave the tanh out": o.sigmoid() * truth[1]})
    if not close(found[0], truth[0]):
        raise Wrong("c is right and h is not: h = sigma(o) tanh(c), with the new c")


def check_as_pytorch(attempt) -> None:
    torch.manual_seed(1)
    d, cell = 3, 4
    ih, hh, bias = torch.randn(4 * cell, d), torch.randn(4 * cell, cell), torch.randn(8 * cell)
    found = attempt(twins.packed(ih), twins.packed(hh), bias.clone())
    if not (isinstance(found, tuple) and len(found) == 4):
        raise Wrong("expected four tensors: weight_ih, weight_hh, bias_ih, bias_hh; return all four")
    kernel, recurrent = twins.packed(ih), twins.packed(hh)
    expect_equal(
        found[0],
        ih,
        "weight_ih [4*cell d]",
        {
            "you transpose the table, whole or block by block; a block of CuDNN's holds a gate's matrix "
            "[cell d] in its order, in a table of another shape: reshape it": kernel.T,
            "you reshape the whole table; cut it into its four blocks first": kernel.reshape(-1, d),
        },
        "weight_ih is not the one that was packed: four blocks of columns, each reshaped to [cell d], "
        "one under the other",
    )
    expect_equal(
        found[1],
        hh,
        "weight_hh [4*cell cell]",
        {
            "weight_hh is transposed: a square block fits both ways, and only one is right": torch.cat(
                [block.T for block in recurrent.chunk(4, 1)]
            )
        },
        "weight_hh is not the one that was packed: treat it as weight_ih",
    )
    first, second = bias.chunk(2)
    for z, truth, other in ((found[2], first, second), (found[3], second, first)):
        expect_equal(
            z,
            truth,
            "a bias [4*cell]",
            {"the two biases are exchanged": other},
            "the table of biases holds that of the inputs, then that of h: cut it in two",
        )


def check_best_number(attempt) -> None:
    draw = torch.Generator().manual_seed(2)
    is_inside = torch.arange(200) % 4 == 0
    values = torch.randn(2, 200, 5, generator=draw)
    values[1, :, 3] = 0.3 * values[1, :, 3] - is_inside.float()  # tells best: lower inside
    values[0, :, 1] = 9 * values[0, :, 1] + 4 * is_inside  # farther apart, and far wider
    values[0, :, 4] = 0.6 * values[0, :, 4] + 1.2 * is_inside  # the best with a plus
    found = attempt(values.clone(), is_inside.clone())
    if not (isinstance(found, tuple) and len(found) == 2):
        raise Wrong("expected a pair (layer, number)")
    hints = {
        (
            0,
            1,
        ): "you take the largest distance; number 1 of layer 0 is far apart and wider still: divide by "
        "the spread",
        (
            0,
            4,
        ): "number 3 of layer 1 tells better, and is lower inside; take the distance without its sign",
        (3, 1): "the order is (layer, number)",
    }
    if tuple(map(int, found)) != (1, 3):
        raise Wrong(
            hints.get(tuple(map(int, found)), f"expected (1, 3) in a made-up case, found {found}")
        )


def check_patch_number(attempt) -> None:
    donor = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    put = attempt(donor, 1, 2, 3)
    if not callable(put):
        raise Wrong(f"expected a function put(at, t, numbers), found {type(put).__name__}; return one")
    for at in (0, 1):
        for t in range(4):
            own = -torch.ones(3, 5)
            given = own.clone()
            found = expect_tensor(put(at, t, given), (3, 5), "numbers [text number]")
            truth = own.clone()
            if (at, t) == (1, 3):
                truth[:, 2] = donor[1, :, 3, 2]
            if close(found, truth):
                if not close(given, own):
                    raise Wrong("you change the numbers that you are given; clone them first")
                continue
            if (at, t) != (1, 3):
                raise Wrong(
                    f"at layer {at}, position {t} nothing should change: only at layer 1, position 3"
                )
            whole = {"you replace all numbers of the layer; replace one": donor[1, :, 3]}
            refuse(
                found, whole, "number 2 of each text should be its donor's, at the same layer and place"
            )


def check_restored(attempt) -> None:
    clean, corrupt = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([-4.0, -2.0, -8.0])
    patched = torch.tensor([-1.0, -2.5, -6.0])
    truth = restored(clean, corrupt, patched)
    found = attempt(clean, corrupt, patched)
    if not isinstance(found, Estimate):
        raise Wrong(
            f"expected an Estimate, found {type(found).__name__}; `stats.ratio(gains, gaps)` is one"
        )
    hints = {
        stats.mean(((patched - corrupt) / (clean - corrupt)).tolist()).value: "you average the shares of "
        "single texts; a text with a small gap then counts as much as one with a large one: add up first",
        stats.ratio(
            clean - patched, clean - corrupt
        ).value: "this is what is still missing, not what came back",
    }
    if abs(found.value - truth.value) > 1e-6:
        known = [hint for value, hint in hints.items() if abs(found.value - value) < 1e-6]
        raise Wrong((known or [f"expected {truth.value:.3f}, found {found.value:.3f}"])[0])


def check_hold_number(attempt) -> None:
    put = attempt(1, 2, 0.5)
    if not callable(put):
        raise Wrong(f"expected a function put(at, t, numbers), found {type(put).__name__}; return one")
    for at in (0, 1):
        for t in (0, 3):
            own = -torch.ones(3, 5)
            given = own.clone()
            found = expect_tensor(put(at, t, given), (3, 5), "numbers [text number]")
            truth = own.clone()
            if at == 1:
                truth[:, 2] = 0.5
            if not close(found, truth):
                where = f"at layer {at}, position {t} "
                refuse(found, {f"{where}nothing happens; hold it at every position": own} if at else {})
                raise Wrong(f"{where}{'number 2 alone should be 0.5' if at else 'nothing should change'}")
            if not close(given, own):
                raise Wrong("you change the numbers that you are given; clone them first")


def check_others(attempt) -> None:
    for number in (0, 3, 7):
        found = attempt(number, 8, 5, 1)
        if not isinstance(found, list) or len(found) != 5:
            raise Wrong("expected a list of 5 numbers")
        if number in found:
            raise Wrong(f"{number} is the number that was found; a control leaves it out")
        if len(set(found)) < 5:
            raise Wrong(f"a number comes twice in {found}; draw without putting back")
        if not all(0 <= int(j) < 8 for j in found):
            raise Wrong(f"expected numbers of 0 ... 7, found {found}")
        if attempt(number, 8, 5, 1) != found:
            raise Wrong("another list for the same seed; use a torch.Generator with the seed")
        if all(attempt(number, 8, 5, seed) == found for seed in (2, 3, 4)):
            raise Wrong("the same list for every seed; draw with the seed")


# --------------------------------------------------------------------------------------------------
# Figures


def one_number() -> Drawn:
    """Two prompts, and what is carried from one run into the other."""
    figure, (axis,) = canvas((9, 3), (0, 10), (0, 4))
    for y, text, colour in (
        (3, "song (cat of the river", BLUE),
        (1, "songs cat of the river", VERMILION),
    ):
        for i, character in enumerate(text):
            write(axis, 0.7 + 0.36 * i, y, character, color=colour, fontsize=15, family="monospace")
    at = 0.7 + 0.36 * (22 - 1 - BACK)
    arrow(axis, (at, 2.7), (at, 1.35))
    write(axis, at + 0.2, 2.05, "one number", color=GREY, ha="left")
    write(axis, 9.2, 3, "then ) ?", BLUE)
    write(axis, 9.2, 1, "then ) ?", VERMILION)
    return figure, (
        "Two prompts of equal length, one with an open bracket; eight characters before the end one "
        "number is copied from the first run into the second, and both are asked for the closing bracket."
    )


def trace(texts: Mapping[str, str], values: Mapping[str, Sequence[float]]) -> Drawn:
    """A number after each character of texts, a panel for each; title -> text, and title -> values."""
    figure, axes = plots.titled(
        texts, "character", "the number", size=(8.6, 2.1), columns=1, sharex=False
    )
    said = []
    for axis, (title, text) in zip(axes, texts.items(), strict=True):
        line = list(values[title])
        axis.plot(range(len(text)), line, color=BLUE, marker=".")
        axis.set_xticks(range(len(text)), list(text), family="monospace", fontsize=9)
        inside = torch.tensor(titles.inside(text))
        shown = torch.tensor(line)
        whole, shade = axis.get_xaxis_transform(), {"alpha": 0.15, "color": GREY, "step": "mid"}
        axis.fill_between(range(len(text)), 0, 1, where=inside.tolist(), transform=whole, **shade)
        axis.tick_params(labelbottom=True)
        means = [f"{shown[side].mean():.1f}" if side.any() else "none" for side in (inside, ~inside)]
        said.append(f"{title}: mean {means[0]} inside, {means[1]} outside")
    return figure, f"The found number along titles, bracketed stretches shaded. {'; '.join(said)}."


def effects(rows: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Drawn:
    """A panel for each measure, a line for each kind of model, a marker for each trained twin.

    rows: measure -> kind -> 'found' and 'control', one value a twin."""
    figure, axes = plots.titled(rows, "one marker a trained twin", size=(4.2, 2.9), sharex=False)
    said = []
    for axis, (measure, kinds) in zip(axes, rows.items(), strict=True):
        names = []
        for kind, both in kinds.items():
            for what, values in both.items():
                look = (
                    plots.style(kind) | ({"color": GREY} if what == "control" else {}) | {"linestyle": ""}
                )
                axis.plot(values, [len(names)] * len(values), alpha=0.8, **look)
                names.append(f"{kind}, {what}")
            mean = {what: sum(values) / len(values) for what, values in both.items()}
            said.append(f"{measure}, {kind}: {mean['found']:.2f}, control {mean['control']:.2f}")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
    return figure, f"Effects of one number in each twin, means: {'; '.join(said)}."


def sweeps(found: Mapping[str, Mapping[int, Estimate]], openings: Sequence[int]) -> Drawn:
    """Shares of the gap that come back, against where a number is carried; openings: of the brackets."""
    look = {name: plots.SERIES[i] for i, name in enumerate(found)}
    xlabel, ylabel = "character of the prompt at which it is carried", "share of the gap"
    figure, (axis,) = plots.curves(
        {"": found}, xlabel, ylabel, lambda _, name, at: look[name], size=(8, 3)
    )
    axis.axvspan(min(openings), max(openings), color=GREY, alpha=0.15)
    middle = {name: line[len(line) - 1 - BACK].value for name, line in found.items()}
    said = ", ".join(f"{name} {value:.2f}" for name, value in middle.items())
    return figure, f"Share of the gap that comes back, carried {BACK} characters before the end: {said}."


def published() -> dict:
    """What `tests/real/test_textgenrnn.py` measured on the published model."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def looks() -> dict:
    """Where SmolLM2 looks: measured now, where it is unpacked, else by `tests/real/test_attention.py`."""
    kept, model = json.loads(LOOKS.read_text(encoding="utf-8")), smollm2()
    carried = {at: estimate(numbers) for at, numbers in kept["carried"].items()}
    kept = {k: estimate(v) if isinstance(v, list) and len(v) == 4 else v for k, v in kept.items()}
    kept["carried"] = carried
    return in_attention(model, tuple(kept["head"])) if model else kept


def each_aside(real: Mapping) -> Drawn:
    """What one carried cell of the published model brings back, aside by aside."""
    marks = {
        f"for {titles.ASIDES[mark]}": found["of each aside"] for mark, found in real["marks"].items()
    }
    order = sorted(next(iter(marks.values())), key=next(iter(marks.values())).get)
    figure, axes = plots.titled(marks, "share of the gap", size=(3.4, 5.2))
    for axis, of_asides in zip(axes, marks.values(), strict=True):
        axis.plot([of_asides[aside] for aside in order], range(len(order)), "o", color=BLUE)
        axis.set_yticks(range(len(order)), order, fontsize=8)
        axis.set_xlim(-0.15, 1.15)
    said = []
    for title, of_asides in marks.items():
        few = sum(share < 0.25 for share in of_asides.values())
        said.append(f"{title} {few} of {len(of_asides)} below a quarter")
    return figure, f"One cell carried, a point for each aside: {'; '.join(said)}."


def estimate(numbers: Sequence[float]) -> Estimate:
    """An estimate from the four numbers that a file keeps."""
    value, n, low, high = numbers
    return Estimate(value, int(n), low, high)


def beside(real: Mapping) -> Drawn:
    """Shares of the gap that come back in the published model, for each mark."""
    rows = {
        f"for {mark}": {
            "one number": estimate(found["one number"]),
            "the number held": estimate(found["the number held"]),
            "the whole layer": estimate(found["the whole layer"]),
            "24 random cells": estimate(found["24 random cells, mean"]),
        }
        for mark, found in real["marks"].items()
    }
    looks = {
        name: {"color": colour, "marker": marker, "linestyle": ""}
        for name, colour, marker in zip(rows, plots.COLOURS, "osD", strict=False)
    }
    return plots.compared(rows, "share of the gap restored", (-0.1, 1.15), looks)


def forgetting(real: Mapping) -> Drawn:
    """p of the closing bracket over letters inside it, in the published model."""
    line = {int(n): estimate(found) for n, found in real["p of ) by letters inside"].items()}
    look = {"color": BLUE, "marker": "o"}
    lines, xlabel = {"": {"published model": line}}, "letters since the bracket opened"
    figure, (axis,) = plots.curves(lines, xlabel, "p of )", lambda *_: look, size=(7, 3), bars=True)
    axis.axvline(39, color=GREY, linestyle="--")
    write(axis, 39.5, 0.9 * max(e.high for e in line.values()), "the window ends", color=GREY, ha="left")
    said = ", ".join(f"{e.value:.4f} at {n}" for n, e in line.items())
    return figure, f"The closing bracket's probability falls with the letters inside: {said}."
