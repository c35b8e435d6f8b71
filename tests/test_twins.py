"""The twins of lesson 11: their titles, their models, their file."""

import json

import pytest
import torch

from tft_utils.corpora import titles
from tft_utils.files import LoadError
from tft_utils.lessons import a_real_rnn, your_turn
from tft_utils.organisms import textgenrnn, twins

pytestmark = pytest.mark.usefixtures("without_gradients")
KINDS = pytest.mark.parametrize("kind", twins.KINDS)


def test_titles_fit_into_the_window_and_close_their_asides():
    found = titles.titles(500, 1)
    assert found[:50] == titles.titles(50, 1)
    for text in found:
        assert len(text) <= titles.LONGEST
        assert text.count("(") == text.count(")") <= 1
        assert not titles.inside(text)[-1]
        assert not titles.inside(text, '"')[-1]
    shares = [sum(mark in text for text in found) / len(found) for mark in titles.ASIDES]
    assert min(shares) > 0.05


@pytest.mark.parametrize("mark", titles.ASIDES)
def test_a_pair_differs_in_its_mark_alone(mark):
    for pair in titles.pairs(20, 0, mark):
        assert len(pair.clean) == len(pair.corrupt) == 30
        assert titles.inside(pair.clean, mark)[-9:] == [True] * 9
        differ = [i for i, (a, b) in enumerate(zip(pair.clean, pair.corrupt, strict=True)) if a != b]
        assert len(differ) == 2
        assert differ[1] == pair.clean.index(mark)
        assert pair.answer == titles.ASIDES[mark]


def test_what_titles_cannot_be_is_explained():
    with pytest.raises(ValueError, match="expected a mark of"):
        titles.pairs(1, 0, "<")
    with pytest.raises(ValueError, match="expected characters of .* found 'Q'"):
        titles.encode(["Quiet"])


@KINDS
def test_later_characters_and_padding_change_nothing_before(kind):
    model = twins.twin(kind, 0)
    short, long = titles.encode(["the old cat"]), titles.encode(["the old cat", "the old cat (of the"])
    for row in long:
        found = model(row[None])[:, : short.shape[1]]
        torch.testing.assert_close(found, model(short), atol=1e-5, rtol=1e-5)


def test_the_pool_is_a_softmax_over_all_characters_so_far():
    model, ids = twins.twin("lstm", 1), titles.encode(["my old boat"])
    x, stream = model.embedding(ids), [model.embedding(ids)]
    for layer in model.layers:
        x = layer(x)[0]
        stream.append(x)
    seen = torch.cat(stream, -1)[0]
    for end in (1, 5, len(seen)):
        mixed = (seen[:end] @ model.pool).softmax(0) @ seen[:end]
        torch.testing.assert_close(model.output(mixed).log_softmax(-1), model(ids)[0, end - 1])


@KINDS
def test_a_put_that_keeps_changes_nothing_and_sees_every_number(kind):
    model, ids = twins.twin(kind, 0), titles.encode(titles.titles(3, 5))
    numbers = a_real_rnn.numbers(model, ids)
    assert numbers.shape[1:3] == ids.shape
    assert len(numbers) == {"lstm": 2, "transformer": 1}[kind]
    torch.testing.assert_close(model(ids, lambda at, t, x: x), model(ids), atol=1e-5, rtol=1e-5)


def test_an_lstms_numbers_are_its_cells():
    """h of the LSTM is o tanh(c), so |h| is never above |tanh(c)|."""
    model, ids = twins.twin("lstm", 2), titles.encode(["the dog (my cats from"])
    (c,) = a_real_rnn.numbers(model, ids)[:1]
    layer, x = model.layers[0], model.embedding(ids)
    _, (h, last) = layer(x)
    torch.testing.assert_close(c[:, -1], last[0], atol=1e-5, rtol=1e-5)
    assert (h[0].abs() <= last[0].tanh().abs() + 1e-6).all()


def test_a_patch_of_everything_from_the_first_change_on_gives_the_other_run():
    (pair,) = titles.pairs(1, 0)
    model = twins.twin("transformer", 0)
    clean, corrupt = titles.encode([pair.clean]), titles.encode([pair.corrupt])
    donor = a_real_rnn.numbers(model, clean)
    found = model(corrupt, lambda at, t, x: donor[at, :, t])
    torch.testing.assert_close(found, model(clean), atol=1e-5, rtol=1e-5)


def test_weights_are_packed_as_cudnn_has_them():
    """The layout itself: gate by gate, the numbers of [cell d] in their order."""
    matrix = torch.arange(4 * 2 * 3.0).view(8, 3)  # 2 cells, 3 inputs
    table = twins.packed(matrix)
    assert table.shape == (3, 8)
    for gate in range(4):
        assert table[:, 2 * gate : 2 * gate + 2].flatten().tolist() == list(range(6 * gate, 6 * gate + 6))
    assert torch.equal(twins.unpacked(table), matrix)
    torch.manual_seed(0)
    model = twins.Cells()
    again = twins.restored(twins.stored(model))
    assert again.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again[name], value, atol=2e-3, rtol=2e-3)


@KINDS
def test_twins_are_as_good_as_their_card_says(kind):
    card = json.loads(twins.CARD.read_text(encoding="utf-8"))
    held = titles.encode(titles.titles(500, 1000))
    for seed in twins.SEEDS[kind]:
        said = card["held-out nats per character"][f"{kind}/{seed}"]
        assert twins.loss_of(twins.twin(kind, seed), held).item() == pytest.approx(said, abs=0.005)
    assert card["parameters"][kind] == sum(p.numel() for p in twins.KINDS[kind]().parameters())


def test_training_learns(monkeypatch):
    monkeypatch.setitem(twins.STEPS, "lstm", 40)
    held = titles.encode(titles.titles(20, 1000))
    with torch.enable_grad():
        model = twins.trained("lstm", 0)
    torch.manual_seed(0)
    assert twins.loss_of(model, held) < twins.loss_of(twins.Cells(), held) - 0.3


def test_a_file_that_differs_or_lacks_a_twin_is_refused(monkeypatch, tmp_path):
    with pytest.raises(LoadError, match="expected a twin of .*, found lstm/99; use one of them"):
        twins.twin("lstm", 99)
    other = tmp_path / "twins.safetensors"
    other.write_bytes(twins.FILE.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(twins, "FILE", other)
    with pytest.raises(LoadError, match="with SHA-256 .*, found .*; restore it with"):
        twins.twin("lstm", 0)


def test_a_published_file_that_is_missing_or_another_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(textgenrnn, "folder", lambda: None)
    with pytest.raises(LoadError, match="found one of them missing; install it with `make real`"):
        textgenrnn.checked("textgenrnn_vocab.json")
    monkeypatch.setattr(textgenrnn, "folder", lambda: tmp_path)
    (tmp_path / "textgenrnn_vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(LoadError, match="expected textgenrnn_vocab.json with SHA-256 f9c6c0db9b07"):
        textgenrnn.checked("textgenrnn_vocab.json")


PLAN = your_turn.StudyPlan("Is it so?", "no", "probe", "share", "other labels", "higher")


def test_a_complete_plan_is_settled_and_every_letter_counts(capsys):
    assert your_turn.settled(PLAN) == PLAN
    first = capsys.readouterr().out.splitlines()[-1]
    your_turn.settled(PLAN._replace(metric="shares"))
    assert capsys.readouterr().out.splitlines()[-1] != first


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("question", "It is so", "a question that ends with a question mark, found 'It is so'"),
        ("prediction", "yes", "a prediction, one of transfers"),
        ("technique", " ", "the name of a technique"),
        ("metric", "", "a metric"),
        ("control", "probe", "a control that is not the technique itself, found 'probe'"),
        ("better", "more", "as better one of higher, lower"),
    ],
)
def test_a_plan_that_lacks_something_is_refused(field, value, hint):
    with pytest.raises(ValueError, match=hint):
        your_turn.settled(PLAN._replace(**{field: value}))
