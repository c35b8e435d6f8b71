"""Every lesson at SCALE = "small", from the first cell to the last, through a hub on loopback.

The hub serves small models with random weights in its own layout, and a byte-level BPE that was trained
here: what is tested is that every lesson gets its text from what the models can read, that positions are
those of tokens, and that a result that finds nothing is said and stops nobody. What the lessons find on
models that know something is in tests/real.

The cells run in this process, in one IPython shell after the other: a kernel for each would spend most of
its time with imports. A few sizes are smaller than in the lesson, see SMALLER.
"""

import json
from pathlib import Path

import hub
import huggingface_hub
import matplotlib.pyplot as plt
import pytest
import shell
import torch

from tft_utils import models, reading, storage
from tft_utils.corpora.corpus import corpus_of
from tft_utils.course import claims, notebooks, plots
from tft_utils.organisms import quirky

PATHS = notebooks.all_notebooks()
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
KINDS = {"transformer": "gpt_neox", "mamba": "mamba", "mamba2": "mamba2", "rwkv": "rwkv"}
PIXEL = b"\x89PNG\r\n\x1a\n"
SMALLER = {  # lesson -> what stands in its code -> what is run
    "01b_selection": {"(kind, 24, seed": "(kind, 8, seed", "content, 200, SEED": "content, 20, SEED"},
    "02_attention": {'("validation", 100), ("test", 200)': '("validation", 40), ("test", 60)'},
    "04_lenses": {"RATE = 80,": "RATE = 20,", "(model, 40,": "(model, 10,", "(model, 20,": "(model, 5,"},
    "05a_linguistic_probing": {
        '"known": 200, "new": 200': '"known": 60, "new": 60',
        '200 if part == "train" else 80': '60 if part == "train" else 30',
    },
    "05b_erasure": {"(600, SEED + 1)": "(200, SEED + 1)", ", 20, 24": ", 5, 6"},
    "06a_latent_knowledge": {
        '"validation": 288, "test": 576': '"validation": 32, "test": 48',
        '("grammar", 160': '("grammar", 40',
        "seed, 300)": "seed, 30)",
        "DEALS = 20": "DEALS = 3",
    },
    "06b_anomalies": {'"validation": 288, "test": 576': '"validation": 32, "test": 48'},
    "07b_knockout_and_edits": {
        "fact_edits(50,": "fact_edits(12,",
        "fact_edits(40,": "fact_edits(24,",
        "facts[:10]": "facts[:2]",
    },
    "08a_steering": {"corpus.cued(b, 24,": "corpus.cued(b, 12,"},
    "08b_steering_the_state": {
        "corpus.cued(b, 24,": "corpus.cued(b, 12,",
        '("validation", 30, 15), ("test", 50, 40)': '("validation", 6, 15), ("test", 10, 40)',
        "cut(900, split, 15)": "cut(200, split, 15)",
        "bad[split], 24, push": "bad[split], 8, push",
    },
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The hub with the models of the scales `small` and `paper`, and a cache of its own."""
    root = tmp_path_factory.mktemp("hub")
    folders = {
        source.repository: hub.write(root / scale / name, KINDS[name], pickled=source.pickled)
        for scale in ("small", "paper")
        for name, source in models.SCALES[scale].items()
    }
    with hub.serving(folders) as server, pytest.MonkeyPatch.context() as patch:
        hub.point_to(server.endpoint, root / "cache", patch)
        yield server


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Figures are made, not drawn; adapters learn next to nothing, and leave no run behind."""
    monkeypatch.setattr(plots, "png", lambda figure: plt.close(figure) or PIXEL)
    monkeypatch.setattr(quirky, "LIVE_EPOCHS", 1)
    monkeypatch.setattr(quirky, "SAMPLE", dict.fromkeys(quirky.SAMPLE, 16))
    monkeypatch.setattr(quirky, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "BUILD", tmp_path)
    monkeypatch.chdir(notebooks.NOTEBOOKS)
    yield
    torch.set_grad_enabled(True)


def cells(path: Path, **parameters: object) -> list[tuple[str, str]]:
    """(id, source) of a lesson's code cells, with these parameters and SMALLER sizes."""
    found, left = [], dict(SMALLER.get(path.stem, {}))
    for cell in notebooks.parse(path)["cells"]:
        source = cell["source"]
        if cell["cell_type"] != "code":
            continue
        for there in [there for there in left if there in source]:
            source = source.replace(there, left.pop(there))
        if "parameters" in cell["metadata"].get("tags", []):
            source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
        found.append((cell["id"], source))
    assert not left, f"{path.name}: found no {', '.join(left)}"
    return found


def run(path: Path, **parameters: object) -> list[str]:
    """What went wrong, cell by cell."""
    ran = shell.executed(cells(path, **parameters))
    return [f"{path.name}, cell {cell}: {error}" for cell, _, error in ran if error]


@EACH
@pytest.mark.usefixtures("quick")
def test_a_lesson_runs_on_models_of_the_hub(path, served, tmp_path):
    problems = run(path, SCALE="small", DEVICE="cpu")
    assert not problems, "\n".join(problems)
    lesson, file = path.stem.partition("_")[2], tmp_path / "claims-small.json"
    if lesson != "a_real_rnn":  # it has models of its own, at tiny alone, and one published one
        kept = json.loads(file.read_text(encoding="utf-8"))
        assert {record["name"].partition("/")[0] for record in kept} == {lesson}


# The first lesson, and the one that shows every part of what each machine carries.
@pytest.mark.parametrize("path", [p for p in PATHS if p.stem[:3] in ("00_", "07b")], ids=lambda p: p.stem)
def test_a_lesson_runs_on_every_model_of_the_scale(path, served, quick):
    problems = run(path, SCALE="small", DEVICE="cpu", MODELS=tuple(models.SCALES["small"]))
    assert not problems, "\n".join(problems)


# Their matrices lie in bfloat16 there: the lesson that goes back through all blocks and wants exact sums.
@pytest.mark.parametrize("path", [p for p in PATHS if p.stem[:3] == "03_"], ids=lambda p: p.stem)
def test_a_lesson_runs_on_the_models_of_paper(path, served, quick):
    assert storage.stored_in(models.load("mamba", "paper").hf) == torch.bfloat16
    problems = run(path, SCALE="paper", DEVICE="cpu")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("network", ["a captive portal", "no network"])
def test_a_lesson_runs_on_what_is_cached(network, served, quick, monkeypatch):
    models.load_models(scale="small")
    served.asked.clear()
    if network == "no network":
        hub.point_to("http://127.0.0.1:9", Path(huggingface_hub.constants.HF_HUB_CACHE), monkeypatch)
    monkeypatch.setattr(served, "is_portal", True)
    problems = run(PATHS[0], SCALE="small", DEVICE="cpu")
    assert not problems, "\n".join(problems)
    assert not served.asked


def test_the_tokenizer_is_as_wild_as_a_published_one(served):
    """What the lessons stand here is what they must stand there."""
    pair = models.load_models(scale="small")
    corpus = corpus_of(pair)
    assert corpus.name == "English"
    sizes = {corpus.lexicon.size(entity) for entity in corpus.lexicon.entities}
    assert len(sizes) > 2, "names of several tokens"
    assert len(corpus.words("a 🙂")) > 3, "an emoji is several tokens"
    for model in pair.values():
        assert model.config.vocab_size > len(model.tokenizer), "rows without a token"
        (row,) = reading.tokens(model, "A lamp 🙂").ids.tolist()
        assert model.tokenizer.decode(row) == "A lamp 🙂"
        assert model.tokenizer.convert_ids_to_tokens(row)[1].startswith("Ġ"), "a space of its own"
