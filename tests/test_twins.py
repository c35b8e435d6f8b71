"""The twins of lesson 11: their titles, their models, their file."""

import json

import pytest
import torch

from tft_utils import stats
from tft_utils.corpora import titles
from tft_utils.files import LoadError
from tft_utils.lessons import a_real_rnn, your_turn
from tft_utils.organisms import textgenrnn, twins
from tft_utils.organisms.evaluation import random_model

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


@pytest.mark.parametrize("mark", titles.ASIDES)
def test_english_prompts_fit_into_the_window_and_share_no_aside(mark):
    seen = {}
    for split in titles.STARTS:
        pairs = titles.english(split, mark)
        for pair in pairs:
            assert len(pair.clean) == len(pair.corrupt) <= textgenrnn.WINDOW - 1
            assert titles.inside(pair.clean, mark)[-1 - a_real_rnn.BACK :] == [True] * (
                a_real_rnn.BACK + 1
            )
        seen[split] = {pair.clean.partition(mark)[2] for pair in pairs}
    assert not seen["choose"] & seen["score"]
    assert [len(asides) for asides in seen.values()] == [6, 25]
    with pytest.raises(ValueError, match="expected a split of choose, score, found 'test'"):
        titles.english("test")


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


@pytest.mark.parametrize("seed", [0, 5])
def test_a_layer_by_hand_is_torchs(seed):
    model, x = twins.twin("lstm", seed), torch.randn(9, 24)
    for layer in model.layers:
        b = layer.bias_ih_l0 + layer.bias_hh_l0
        h, c = a_real_rnn.lstm_layer(layer.weight_ih_l0, layer.weight_hh_l0, b, x)
        theirs, (_, last) = layer(x)
        torch.testing.assert_close(h, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(c[-1], last[0], atol=1e-5, rtol=1e-5)
        x = h


def test_asides_are_the_clusters_of_a_clustered_mean():
    draw = torch.Generator().manual_seed(0)
    asides, gains = [str(i // 3) for i in range(12)], torch.randn(12, generator=draw)
    found = a_real_rnn.by_aside(gains, torch.ones(12), asides)
    known = stats.clustered_mean(gains.tolist(), asides)
    assert found == pytest.approx(known._replace(n=4), abs=1e-6)


def test_a_token_that_is_all_that_differs_hands_on_the_other_run():
    model = random_model("llama")
    clean = torch.tensor([[5, 9, 7, 11, 13]])
    corrupt, closes = clean.clone(), [2, 3]
    corrupt[0, 2] = 8
    said, looks = a_real_rnn.reads(model, clean, closes)
    assert a_real_rnn.carried(model, clean, corrupt, closes, -3) == pytest.approx(said, abs=1e-5)
    assert a_real_rnn.carried(model, clean, corrupt, closes, -1) == pytest.approx(said, abs=1e-5)
    assert a_real_rnn.carried(model, clean, clean, closes, -4) == pytest.approx(said, abs=1e-5)
    other = a_real_rnn.reads(model, corrupt, closes)[0]
    assert a_real_rnn.carried(model, clean, corrupt, closes, 0) == pytest.approx(other, abs=1e-5)
    known = model.hf(clean).logits[0, -1].log_softmax(-1)[closes].logsumexp(0)
    assert said == pytest.approx(known.item(), abs=1e-5)
    assert looks.shape == (model.n_layers, model.config.num_attention_heads, 5)
    torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:2]))
    hidden, blind = a_real_rnn.reads(model, clean, closes, hide=-3)
    assert (blind[:, :, -3] == 0).all()
    assert hidden != pytest.approx(said, abs=1e-6)


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
