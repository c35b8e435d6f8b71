"""Lesson 11 on the published model that it is about. `make real` installs the package textgenrnn 2.0.0.

What is measured here stands in data/published/textgenrnn.json, which the lesson shows beside its twins:

    python -m tests.real.test_textgenrnn       measures again and writes that file
"""

import json

import pytest
import torch

from tft_utils import stats
from tft_utils.corpora import titles
from tft_utils.files import replace_file
from tft_utils.lessons import a_real_rnn as lesson
from tft_utils.organisms import textgenrnn, twins

LONG = "and all of the people who live with their dog and the other cat near the end of a long river"
SHORT = 15  # letters of an aside that ends a long one
LETTERS = (20, 25, 31, 34, 40, 45, 55)  # inside a bracket, at most
RANDOM = 24
FEW, DRAWS = 6, 4000  # asides in a small set of prompts, and how many such sets are drawn


def skip_without_it() -> None:
    if textgenrnn.folder() is None:
        pytest.skip("skipped loudly: no textgenrnn on this machine; `make real` installs it")


def listed(estimate: stats.Estimate) -> list[float]:
    return [round(float(x), 4) for x in estimate]


def of_mark(model, mark: str) -> dict:
    """The cell that tells best whether such an aside is open, and what a patch of it restores."""
    known = textgenrnn.vocabulary()
    told = [pair.clean + pair.answer + " is here" for pair in titles.english("choose", mark)]
    values, is_inside = lesson.labelled(model, told, textgenrnn.encode, mark)
    layer, cell = lesson.best_number(values, is_inside)
    closes, at = known[titles.ASIDES[mark]], textgenrnn.WINDOW - 1 - lesson.BACK
    pairs = titles.english("score", mark)
    asides = [pair.clean.partition(mark)[2] for pair in pairs]
    clean, corrupt = (textgenrnn.encode([pair[side] for pair in pairs]) for side in (0, 1))
    high, low = (lesson.says(model, ids, closes) for ids in (clean, corrupt))
    donor = lesson.numbers(model, clean)

    def gains(put) -> torch.Tensor:
        return lesson.says(model, corrupt, closes, put) - low

    def back(put) -> stats.Estimate:
        return lesson.by_aside(gains(put), high - low, asides)

    def whole(here, t, numbers):
        return donor[here, :, t] if (here, t) == (layer, at) else numbers

    def both(here, t, numbers):
        return donor[here, :, t] if t == at else numbers

    def held(here, t, numbers):
        return lesson.patch_number(donor, layer, cell, t)(here, t, numbers) if t >= at else numbers

    once, seen = lesson.patch_number(donor, layer, cell, at), []

    def watched(here, t, numbers):
        found = once(here, t, numbers)
        if here == layer:
            seen.append(found[:, cell])
        return found

    gained = gains(watched)
    left = seen[-1] / donor[layer, :, at, cell]  # what the last character finds of what was carried over
    parts = {"half of it or more": left >= 0.5, "less than half": left < 0.5}
    quiet = values[layer, ~is_inside, cell].mean()
    without = lesson.says(model, clean, closes, lesson.hold_number(layer, cell, quiet))
    blind = [
        back(lesson.patch_number(donor, layer, j, at)).value
        for j in lesson.others(cell, donor.shape[-1], RANDOM, seed=0)
    ]
    inside, outside = (x[layer, :, at, cell] for x in (donor, lesson.numbers(model, corrupt)))
    of_asides = shares(gained, high - low, asides)
    few = stats_of_few(list(of_asides.values()))
    return {
        "layer": layer + 1,
        "cell": cell,
        "prompts": len(pairs),
        "asides": len(of_asides),
        "p inside": listed(lesson.by_aside(high.exp(), torch.ones(len(pairs)), asides)),
        "p outside": listed(lesson.by_aside(low.exp(), torch.ones(len(pairs)), asides)),
        "cell inside": [round(inside.mean().item(), 3), round(inside.std().item(), 3)],
        "cell outside": [round(outside.mean().item(), 3), round(outside.std().item(), 3)],
        "one number": listed(lesson.by_aside(gained, high - low, asides)),
        "as if prompts were independent": listed(lesson.restored(high, low, low + gained)),
        "one number, where the last character finds": {
            name: listed(lesson.by_aside(gained[chosen], (high - low)[chosen], of(asides, chosen)))
            for name, chosen in parts.items()
            if len(set(of(asides, chosen))) > 1
        },
        "of each aside": {aside: round(share, 3) for aside, share in of_asides.items()},
        f"of {FEW} asides": few,
        "the number held": listed(back(held)),
        "the whole layer": listed(back(whole)),
        "both layers": listed(back(both)),
        f"{RANDOM} random cells, mean": listed(stats.mean(blind)),
        f"{RANDOM} random cells, most": round(max(blind), 4),
        "ablated: gap that goes": listed(lesson.by_aside(high - without, high - low, asides)),
        "gains and gaps": [
            [aside, round(gain, 3), round(gap, 3)]
            for aside, gain, gap in zip(asides, gained.tolist(), (high - low).tolist(), strict=True)
        ],
    }


def of(asides: list[str], chosen: torch.Tensor) -> list[str]:
    return [aside for aside, kept in zip(asides, chosen.tolist(), strict=True) if kept]


def shares(gains: torch.Tensor, gaps: torch.Tensor, asides: list[str]) -> dict[str, float]:
    """Aside -> the share of its gap that comes back."""
    found = {}
    for aside in dict.fromkeys(asides):
        mine = torch.tensor([name == aside for name in asides])
        found[aside] = (gains[mine].sum() / gaps[mine].sum()).item()
    return found


def stats_of_few(of_asides: list[float]) -> list[float]:
    """Of the mean share in small sets of asides: its 2.5, 50 and 97.5 % points; how many are above .9."""
    draw, values = torch.Generator().manual_seed(0), torch.tensor(of_asides)
    sets = [values[torch.randperm(len(values), generator=draw)[:FEW]].mean() for _ in range(DRAWS)]
    means = torch.stack(sets)
    ends = means.quantile(torch.tensor([0.025, 0.5, 0.975])).tolist()
    return [round(x, 3) for x in [*ends, (means > 0.9).float().mean().item()]]


def by_letters(model) -> dict[str, dict]:
    """Letters inside an open bracket -> p(')') over the starts of `score` and short asides behind a long
    text: its mean, and of the 23 letters or so the mean for each ending."""
    closes, found, of_endings = textgenrnn.vocabulary()[")"], {}, {}
    asides = dict.fromkeys(pair.clean.partition("(")[2] for pair in titles.english("score"))
    ends = [f" {aside}" for aside in asides if len(aside) <= SHORT]
    for n in LETTERS:
        texts = [
            f"{start} ({LONG[: LONG.rfind(' ', 0, n + 1 - len(end))]}{end}"
            for start in titles.STARTS["score"]
            for end in ends
        ]
        p = lesson.says(model, textgenrnn.encode(texts), closes).exp()
        length = round(sum(len(text) - text.index("(") - 1 for text in texts) / len(texts))
        inside = [text.partition("(")[2] for text in texts]
        found[str(length)] = listed(lesson.by_aside(p, torch.ones(len(p)), inside))
        if n == LETTERS[1]:
            means = p.view(-1, len(ends)).mean(0).tolist()
            of_endings = {end.strip(): round(mean, 4) for end, mean in zip(ends, means, strict=True)}
    return {"p of ) by letters inside": found, "p of ) by ending": of_endings}


def measure() -> dict:
    model = textgenrnn.model()
    return {
        "source": "textgenrnn 2.0.0 (PyPI, MIT); made by tests/real/test_textgenrnn.py",
        "sha256": textgenrnn.SHA256["textgenrnn_weights.hdf5"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "marks": {mark: of_mark(model, mark) for mark in titles.ASIDES},
        **by_letters(model),
    }


@pytest.fixture(scope="module")
def measured() -> dict:
    skip_without_it()
    with torch.no_grad():
        return measure()


def nats(model) -> float:
    """Per character of a sentence that is no prompt here."""
    text = "What is the best way to learn a new language?"
    steps = range(5, len(text))
    ids, known = textgenrnn.encode([text[:i] for i in steps]), textgenrnn.vocabulary()
    said = model(ids)[torch.arange(len(ids)), -1, torch.tensor([known[text[i]] for i in steps])]
    return -said.mean().item()


def test_the_mapping_reads_english_and_others_do_not():
    skip_without_it()
    assert nats(textgenrnn.model()) < 1.6

    def transposed(kernel, recurrent_kernel, bias):
        return kernel.T, recurrent_kernel.T, *bias.chunk(2)

    def blocks_transposed(kernel, recurrent_kernel, bias):
        tables = [torch.cat([b.T for b in table.chunk(4, 1)]) for table in (kernel, recurrent_kernel)]
        return *tables, *bias.chunk(2)

    for other in (transposed, blocks_transposed):
        assert nats(textgenrnn.model(other)) > 3


def test_weights_go_back_into_the_file_as_they_came():
    skip_without_it()
    model, file = textgenrnn.model(), textgenrnn.tables()
    again = twins.stored(model)
    assert again.keys() == file.keys()
    assert all(torch.equal(again[name], file[name].half()) for name in file)
    assert sum(p.numel() for p in model.parameters()) == 462_717


def test_committed_figures_are_what_is_measured(measured):
    committed = json.loads(lesson.FIGURES.read_text(encoding="utf-8"))

    def compare(a, b, where: str) -> None:
        if isinstance(b, dict):
            assert a.keys() == b.keys(), where
            for key in b:
                compare(a[key], b[key], f"{where}/{key}")
        elif isinstance(b, list):
            assert len(a) == len(b), where
            for i, (mine, theirs) in enumerate(zip(a, b, strict=True)):
                compare(mine, theirs, f"{where}/{i}")
        elif isinstance(b, str):
            assert a == b, where
        else:
            assert a == pytest.approx(b, abs=2e-3), where

    compare(committed, measured, "")


def test_one_cell_is_for_brackets_and_one_for_quotation_marks(measured):
    bracket, quote = measured["marks"]["("], measured["marks"]['"']
    assert (bracket["layer"], bracket["cell"]) == (1, 14)
    assert (quote["layer"], quote["cell"]) == (1, 43)
    for found in (bracket, quote):
        assert found["one number"][2] > 10 * found[f"{RANDOM} random cells, most"]


if __name__ == "__main__":
    with torch.no_grad():
        text = json.dumps(measure(), indent=1, ensure_ascii=False) + "\n"
    replace_file(lesson.FIGURES, lambda part: part.write_text(text, encoding="utf-8"))
