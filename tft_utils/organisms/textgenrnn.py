"""A published recurrent model: textgenrnn 2.0.0 (Woolf 2020, MIT), as its package on PyPI holds it.

A character model of titles: embedding 100, two LSTMs of 128, an attention pool over a window of 40
characters, 462,717 parameters. `make real` installs the package. Only two of its files are read, with
h5py and json; nothing of it runs, and TensorFlow is not needed.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tft_utils.files import LoadError, sha256
from tft_utils.organisms import twins

WINDOW, START = 40, "<s>"
SHA256 = {
    "textgenrnn_weights.hdf5": "6a89ca4235ed9f00be7b2acd65d5fe4a099967d676bfe20afb696106286ffbca",
    "textgenrnn_vocab.json": "f9c6c0db9b07fb57da023d32df66e16a488d086c138e15706307bb5177c2be74",
}
REPAIR = "install it with `make real`"


def folder() -> Path | None:
    """Where the package lies, or None without it or without h5py. It is not imported."""
    package = importlib.util.find_spec("textgenrnn")
    if package is None or importlib.util.find_spec("h5py") is None:
        return None
    return Path(package.origin).parent


def checked(name: str) -> Path:
    """One of the package's files.

    Errors: `LoadError` where it is missing, or not the one that was published.
    """
    found = folder()
    if found is None:
        raise LoadError(f"expected the packages textgenrnn and h5py, found one of them missing; {REPAIR}")
    path = found / name
    hashed = sha256(path) if path.is_file() else "no file"
    if hashed != SHA256[name]:
        raise LoadError(
            f"expected {name} with SHA-256 {SHA256[name][:12]}..., found {hashed[:12]}; {REPAIR}"
        )
    return path


def tables() -> dict[str, Tensor]:
    """The weights in the layout of the file, by the names of `twins.stored`."""
    import h5py

    with h5py.File(checked("textgenrnn_weights.hdf5")) as file:

        def table(layer: str, part: str) -> Tensor:
            return torch.from_numpy(file[f"{layer}/{layer}/{part}:0"][()])

        found = {
            "embedding.weight": table("embedding", "embeddings"),
            "pool": table("attention", "attention_W")[:, 0],
            "output.weight": table("output", "kernel").T,
            "output.bias": table("output", "bias"),
        }
        for i in (0, 1):
            for part in ("kernel", "recurrent_kernel", "bias"):
                found[f"layers.{i}.{part}"] = table(f"rnn_{i + 1}", part)
    return found


def model(read_layer: Callable = twins.lstm_tensors) -> twins.Cells:
    """The published model; read_layer: how a layer's tables become PyTorch's tensors."""
    found = twins.Cells(vocab=465, width=100, cells=128)
    found.load_state_dict(twins.restored(tables(), read_layer))
    return found.eval().requires_grad_(False)


def vocabulary() -> dict[str, int]:
    """Number of each character."""
    return json.loads(checked("textgenrnn_vocab.json").read_text(encoding="utf-8"))


def encode(texts: Sequence[str]) -> Tensor:
    """Numbers of the last 40 characters [text 40], the start among them; 0 stands in front of shorter
    texts and for unknown characters, as in the package."""
    known, rows = vocabulary(), []
    for text in texts:
        row = [known.get(character, 0) for character in [START, *text]][-WINDOW:]
        rows.append([0] * (WINDOW - len(row)) + row)
    return torch.tensor(rows)
