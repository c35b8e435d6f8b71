"""Loading: three scales, one code path, and the same verbs for every architecture.

    model = load("mamba")                        # the bundled organism: offline, CPU, seconds
    transformer, mamba = load_pair("small")      # Pythia-160m and Mamba-130m, from the hub
    model = load("path/to/a/folder")             # any folder in Hugging Face format

    with model.trace("The capital of Zabar is"):
        h = model.residual(4).save()             # [batch pos d_model], after four blocks

A `Model` is nnsight's `TransformersModel` with verbs. Depth is k, the number of blocks applied:
k = 0 is the embedding and k = `n_layers` is what the final norm reads, for every architecture.
"""

import difflib
import hashlib
import json
import struct
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tft_utils.architectures import ARCHITECTURES

DATA = Path(__file__).resolve().parent.parent / "data"
ORGANISMS = DATA / "organisms"
PAIR = ("transformer", "mamba")


class Source(NamedTuple):
    """A hub repository at one commit, so that tomorrow's download is today's."""

    repository: str
    revision: str


SCALES: dict[str, dict[str, Path | Source]] = {
    "tiny": {name: ORGANISMS / name for name in PAIR},
    "small": {
        "transformer": Source(
            "EleutherAI/pythia-160m", "50f5173d932e8e61f858120bcb800b97af589f46"
        ),
        "mamba": Source(
            "state-spaces/mamba-130m-hf", "1e76775f628fbf1350fbe4dbb3d971ba64af25a1"
        ),
    },
    "paper": {
        "transformer": Source(
            "EleutherAI/pythia-2.8b", "2a259cdd96a4beb1cdf467512e3904197345f6a9"
        ),
        "mamba": Source(
            "state-spaces/mamba-2.8b-hf", "96c48e0292b63f5346b6d30061af2551f7101e26"
        ),
    },
}  # fmt: skip


class LoadError(RuntimeError):
    """A model could not be loaded; the message says what to do."""


class Model(TransformersModel):
    """A causal language model under nnsight, with the same verbs for every architecture.

    Inside `with model.trace(...)`, `residual`, `mixer_output` and `logits` give live tensors: save
    them with `.save()`, change them in place, or replace them with the `set_` verb.
    """

    def __init__(self, hf, tokenizer) -> None:
        super().__init__(hf, tokenizer=tokenizer, task="text-generation")
        self.architecture = ARCHITECTURES[hf.config.model_type]

    @property
    def hf(self) -> PreTrainedModel:
        """The transformers model itself, for plain PyTorch."""
        return self._module

    @property
    def n_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def blocks(self):
        return self.architecture.blocks(self)

    def mixer(self, layer: int):
        """The module of block `layer` through which positions exchange information."""
        return self.architecture.mixer(self.blocks[layer])

    @property
    def final_norm(self):
        return self.architecture.final_norm(self)

    @property
    def unembedding(self):
        return self.architecture.unembedding(self)

    def _at_depth(self, k: int):
        if not 0 <= k <= self.n_layers:
            raise ValueError(f"expected a depth k from 0 to {self.n_layers}; found {k}")
        return self.blocks[k - 1] if k else self.architecture.embedding(self)

    def residual(self, k: int) -> Tensor:
        """The residual stream [batch pos d_model] after k blocks. Only inside a trace."""
        return self._at_depth(k).output

    def set_residual(self, k: int, value: Tensor) -> None:
        """Replaces the residual stream [batch pos d_model] after k blocks. Only inside a trace."""
        self._at_depth(k).output = value

    def mixer_output(self, layer: int) -> Tensor:
        """What the mixer of block `layer` adds to the residual stream. Only inside a trace."""
        out = self.mixer(layer).output
        return out[0] if isinstance(out, tuple) else out

    def state(self, cache, layer: int) -> dict[str, Tensor]:
        """What `layer` carries from past positions in a cache: name -> live tensor."""
        return self.architecture.state(cache, layer)

    def to_logits(self, residual: Tensor) -> Tensor:
        """Final norm and unembedding: [... d_model] -> [... vocab]."""
        return self.unembedding(self.final_norm(residual))


def load(name: str | Path = "transformer", scale: str = "tiny", device: str = "cpu",
         dtype: torch.dtype = torch.float32, readable: bool = False) -> Model:  # fmt: skip
    """Loads a model by its name at a scale, or from a local folder in Hugging Face format.

    readable: run Mamba's scan as a Python loop whose every step nnsight can read and edit
    (`tft_utils.scan.TAPS`). Same numbers, slower.
    """
    source = _resolve(name, scale)
    folder = source if isinstance(source, Path) else _download(source, ["*.json"])
    config = _read_config(folder, f"{name} at scale {scale}" if folder is source else source[0])
    _check_memory(config, str(name), device, dtype)
    if isinstance(source, Source):
        folder = _download(source, ["*.json", "*.safetensors", "*.txt"])
    if folder.parent == ORGANISMS:
        _verify_checksums(folder)
    for weights in sorted(folder.glob("*.safetensors")):
        _verify_safetensors(weights)
    # Eager attention is the one that hands out its weights.
    hf = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
        trust_remote_code=False, attn_implementation="eager",
    )  # fmt: skip
    hf = hf.to(device).eval()
    ARCHITECTURES[config.model_type].prepare(hf, readable)
    return Model(hf, AutoTokenizer.from_pretrained(folder, local_files_only=True))


def load_pair(scale: str = "tiny", **options) -> tuple[Model, Model]:
    """The Transformer and the Mamba of a scale."""
    return tuple(load(name, scale, **options) for name in PAIR)


def _resolve(name: str | Path, scale: str) -> Path | Source:
    if scale not in SCALES:
        raise LoadError(f"expected a scale, one of {', '.join(SCALES)}; found {scale!r}")
    if str(name) in SCALES[scale]:
        return SCALES[scale][str(name)]
    if Path(name).is_dir():
        return Path(name).resolve()
    known = list(SCALES[scale])
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}" if nearest else f"use one of {', '.join(known)}"
    raise LoadError(f"expected a model's name or a local folder; found {name!r}; {hint}?")


def _download(source: Source, patterns: list[str]) -> Path:
    """The repository's files at the pinned commit, from the local cache where they are complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled,
    )  # fmt: skip

    try:
        return Path(snapshot_download(
            source.repository, revision=source.revision, allow_patterns=patterns
        ))  # fmt: skip
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise LoadError(
            f"expected to download {source.repository} from the model hub, found no way there "
            f"({type(error).__name__}); connect to the network and try again, or use "
            "scale='tiny', which needs none"
        ) from error


def _read_config(folder: Path, what: str):
    path = folder / "config.json"
    if not path.is_file():
        raise LoadError(
            f"expected a config.json for {what}, found none in {folder}; "
            "check the path, or run `make organisms` if this is a bundled organism"
        )
    found = json.loads(path.read_text())
    if "auto_map" in found:
        raise LoadError(
            f"expected a model that transformers knows, found one in {folder} that would run "
            "its own code (auto_map); convert it to a built-in architecture first"
        )
    if found.get("model_type") not in ARCHITECTURES:
        raise LoadError(
            f"expected an architecture among {', '.join(ARCHITECTURES)}, found "
            f"{found.get('model_type')!r} in {folder}; add its file to tft_utils/architectures"
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _check_memory(config, name: str, device: str, dtype: torch.dtype) -> None:
    """Refuses a model that cannot fit, from its config alone: before any weight is downloaded."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    needed = 1.2 * parameters * dtype.itemsize  # weights, and a fifth for activations
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise LoadError(
            f"expected {needed / 2**30:.1f} GiB of free memory on {device} for {name}, found "
            f"{free / 2**30:.1f} GiB; use a smaller scale, dtype=torch.bfloat16, or a larger device"
        )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_checksums(folder: Path) -> None:
    """Every file of a bundled organism is the one that was shipped."""
    manifest = json.loads((ORGANISMS / "manifest.json").read_text())
    for name, expected in manifest[folder.name].items():
        path = folder / name
        found = sha256(path) if path.is_file() else "no file"
        if found != expected:
            raise LoadError(
                f"expected {path} with SHA-256 {expected[:12]}..., found {found[:12]}; restore it "
                f"with `git checkout -- data/organisms/{folder.name}`"
            )


def _verify_safetensors(path: Path) -> None:
    """The file is as long as its header says: a download that was cut is caught here."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + header <= size:
            tensors = json.loads(file.read(header))
            tensors.pop("__metadata__", None)
            expected = 8 + header + max(t["data_offsets"][1] for t in tensors.values())
            if size == expected:
                return
        else:
            expected = 8 + header
    raise LoadError(
        f"expected {expected} bytes in {path}, found {size}: the file is cut short or damaged; "
        "delete it and download or restore it again"
    )
