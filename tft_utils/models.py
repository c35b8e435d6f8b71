"""Loading: three scales, one code path, and the same verbs for every architecture.

    model = load("mamba")                        # the bundled organism: offline, CPU, seconds
    model = load("mamba", seed=1)                # another draw of it, from the population
    pair = load_models(("transformer", "mamba"), "small")    # Pythia-160m and Mamba-130m, from the hub
    model = load("path/to/a/folder")             # any folder in Hugging Face format

    with model.trace("The capital of Zabar is"):
        h = model.residual(4).save()             # [batch pos d_model], after four blocks

A `Model` is nnsight's `TransformersModel` with verbs. Depth is k, the number of blocks applied:
k = 0 is the embedding and k = `n_layers` is what the final norm reads, for every architecture.
"""

import difflib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tft_utils import files, storage
from tft_utils.architectures import ARCHITECTURES, Kind, Unsupported
from tft_utils.architectures.recurrent import keep
from tft_utils.files import LoadError, explain, read_json

PAIR = ("transformer", "mamba")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


class Source(NamedTuple):
    """A hub repository at one commit, so that tomorrow's download is today's."""

    repository: str
    revision: str
    # Weights in pytorch_model.bin, which could hide code: at a pinned commit alone, and never unpickled
    # as anything but tensors.
    pickled: bool = False
    stored: torch.dtype | None = None  # what its matrices are kept in, if narrower: see `storage`


SCALES: dict[str, dict[str, Path | Source]] = {
    "tiny": {name: files.ORGANISMS / f"{name}-0" for name in (*PAIR, "mamba-tied")},
    "small": {
        "transformer": Source("EleutherAI/pythia-160m", "50f5173d932e8e61f858120bcb800b97af589f46"),
        "mamba": Source("state-spaces/mamba-130m-hf", "1e76775f628fbf1350fbe4dbb3d971ba64af25a1"),
        # state-spaces' own Mamba-2 is in the authors' format; this is a conversion of it.
        "mamba2": Source("AntonV/mamba2-130m-hf", "05e8773fc4ac1cd067e8a18a5c45372ce5178405"),
        # Nobody has merged a safetensors file there.
        "rwkv": Source("RWKV/rwkv-4-169m-pile", "dc37d17f17477b74e75f2dd076f555aa937c52c9", pickled=True),
    },
    "paper": {
        "transformer": Source(
            "EleutherAI/pythia-2.8b", "2a259cdd96a4beb1cdf467512e3904197345f6a9", stored=torch.bfloat16
        ),
        "mamba": Source(
            "state-spaces/mamba-2.8b-hf",
            "96c48e0292b63f5346b6d30061af2551f7101e26",
            stored=torch.bfloat16,
        ),
    },
}


class _There:
    """A `put` for a block on another device: what comes back is moved to where the point's value lies."""

    def __init__(self, put: Callable) -> None:
        self.put = put

    def __getattr__(self, name: str):
        return getattr(self.put, name)  # what it looks at

    def __call__(self, name: str, value, *t: int):
        found = self.put(name, value, *t)
        return found.to(value.device) if isinstance(found, Tensor) else found


class Model(TransformersModel):
    """A causal language model under nnsight, with the same verbs for every architecture.

    Inside `with model.trace(...)`, `residual`, `mixer_output` and `logits` give live tensors: save
    them with `.save()`, change them in place, or replace them with the `set_` verb. In plain PyTorch,
    `block` runs one block open to everyone, and `module` gives any module.
    """

    def __init__(self, hf, tokenizer) -> None:
        with warnings.catch_warnings():  # of names that nnsight keeps for itself: see `unit_outputs`
            warnings.filterwarnings("ignore", "Module .* has a submodule named")
            super().__init__(hf, tokenizer=tokenizer, task="text-generation")
        self.architecture = ARCHITECTURES[hf.config.model_type]

    @property
    def hf(self) -> PreTrainedModel:
        """The transformers model itself, for plain PyTorch."""
        return self._module

    @property
    def n_layers(self) -> int:
        return self.config.num_hidden_layers

    # ---- where things are

    def kind(self, layer: int) -> Kind:
        """What block `layer` has: its paths, components and compressed parts."""
        find = getattr(self.architecture, "kind", None)
        return find(self.hf, layer) if find else self.architecture.KIND

    def module(self, what: str, layer: int | None = None) -> torch.nn.Module:
        """A module of the transformers model: 'embedding', 'final_norm', 'unembedding', or of a layer
        'block', 'mixer', 'output' (of its units, into the stream) or 'memory' (what an edit changes)."""
        if layer is None:
            return self.hf.get_submodule(self.architecture.WHERE[what])
        block = self.hf.get_submodule(f"{self.architecture.WHERE['blocks']}.{layer}")
        kind = self.kind(layer)
        below = {
            "block": "",
            "mixer": kind.mixer,
            "output": f"{kind.mixer}.{kind.output}",
            "memory": kind.memory,
        }
        return block.get_submodule(below[what])

    def units(self, layer: int) -> int:
        """How many heads (or channels) the mixer of block `layer` has."""
        return attrgetter(self.kind(layer).units)(self.module("mixer", layer))

    def lacks(self, capability: str) -> str:
        """Why the architecture lacks a capability; empty where it has it."""
        return getattr(self.architecture, "NO", {}).get(capability, "")

    def requires(self, capability: str) -> None:
        """Raises `Unsupported` where the architecture says that it lacks a capability, and why."""
        if reason := self.lacks(capability):
            raise Unsupported(self.config.model_type, capability, reason)

    @property
    def compressed(self) -> bool:
        """Whether all that the model carries has one size at every length."""
        return all(self.kind(layer).compressed for layer in range(self.n_layers))

    def _envoy(self, what: str):
        return attrgetter(self.architecture.WHERE[what])(self)

    # ---- inside a trace

    @property
    def blocks(self):
        return self._envoy("blocks")

    def mixer(self, layer: int):
        """The module of block `layer` through which positions exchange information."""
        return attrgetter(self.kind(layer).mixer)(self.blocks[layer])

    @property
    def final_norm(self):
        return self._envoy("final_norm")

    @property
    def unembedding(self):
        return self._envoy("unembedding")

    def _at_depth(self, k: int):
        if not 0 <= k <= self.n_layers:
            raise ValueError(f"expected a depth k from 0 to {self.n_layers}; found {k}")
        return self.blocks[k - 1] if k else self._envoy("embedding")

    def residual(self, k: int) -> Tensor:
        """The residual stream [batch pos d_model] after k blocks. Only inside a trace."""
        out = self._at_depth(k).output
        return out[0] if isinstance(out, tuple) else out  # RWKV's blocks give their state beside it

    def set_residual(self, k: int, value: Tensor) -> None:
        """Replaces the residual stream [batch pos d_model] after k blocks. Only inside a trace."""
        module = self._at_depth(k)
        out = module.output
        value = value.to((out[0] if isinstance(out, tuple) else out).device)
        module.output = (value, *out[1:]) if isinstance(out, tuple) else value

    def mixer_output(self, layer: int) -> Tensor:
        """What the mixer of block `layer` adds to the residual stream. Only inside a trace."""
        out = self.mixer(layer).output
        return out[0] if isinstance(out, tuple) else out

    def unit_outputs(self, layer: int) -> Tensor:
        """What the mixer's units hand to its output projection, side by side
        [batch pos unit*width]. Only inside a trace; change it in place."""
        mixer, output = self.mixer(layer), self.kind(layer).output
        # A module named like one of nnsight's own words gets another name there.
        return attrgetter(f"E_{output}" if hasattr(type(mixer), output) else output)(mixer).input

    @property
    def logits(self) -> Tensor:
        """The next-word logits [batch pos vocab]. Only inside a trace."""
        return self._capped(self.unembedding.output)

    # ---- in plain PyTorch

    def embed(self, ids: Tensor) -> Tensor:
        """The residual stream before the first block [batch pos d_model]."""
        return self.module("embedding")(ids)

    def block(self, layer: int, x: Tensor, put: Callable = keep, past: dict | None = None) -> Tensor:
        """Block `layer` on x [... pos d_model], open to `put`: see `tft_utils.architectures`."""
        if past:
            self.requires("continuation")
        if not self.is_split:
            return self.architecture.block(self.hf, layer, x, put, past)
        there = next(self.module("block", layer).parameters()).device
        past = {name: part.to(there) for name, part in past.items()} if past else past
        put = put if put is keep else _There(put)
        return self.architecture.block(self.hf, layer, x.to(there), put, past).to(x.device)

    @property
    def is_split(self) -> bool:
        """Whether its blocks lie on several devices. What enters a block is moved there then, and what
        leaves it is moved back; points are where the block is."""
        return len({*getattr(self.hf, "hf_device_map", {}).values()}) > 1

    def mixing(self, layer: int, x: Tensor):
        """What block `layer`'s mixer does when the block reads x [batch pos d_model], frozen: linear in
        its values. See `architectures.softmax.Mixing` and `architectures.recurrent.Mixing`."""
        self.requires("hidden attention")
        points: dict = {}

        def record(name: str, value, t: int | None = None):
            points[name] = value
            return value

        self.block(layer, x, record)
        return self.kind(layer).mixing.of(points, self.module("output", layer))

    def to_logits(self, residual: Tensor, put: Callable = keep) -> Tensor:
        """Final norm and unembedding: [... d_model] -> [... vocab]. Also inside a trace."""
        linear, home = self.module("unembedding"), residual.device
        if self.is_split:
            residual = residual.to(next(self.module("final_norm").parameters()).device)
            put = put if put is keep else _There(put)
        normed = self.architecture.final(self.hf, residual, put).to(linear.weight)
        return self._capped(F.linear(normed, linear.weight, linear.bias), put).to(home)

    @property
    def capped(self) -> bool:
        """Whether logits are more than the unembedding's product with the normed stream."""
        return hasattr(self.architecture, "cap")

    def _capped(self, logits: Tensor, put: Callable = keep) -> Tensor:
        """The unembedding's output as the model hands it out: some bound it."""
        cap = getattr(self.architecture, "cap", None)
        return cap(self.hf, logits, put) if cap else logits

    def state(self, cache, layer: int) -> dict[str, Tensor]:
        """What `layer` carries from past positions in a cache: name -> live tensor."""
        self.requires("continuation")
        return self.architecture.state(cache, layer)


def load(
    name: str | Path = "transformer",
    scale: str = "tiny",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    readable: bool = False,
    seed: int = 0,
    storage_dtype: torch.dtype | None = None,
) -> Model:
    """Loads a model by its name at a scale, or from a local folder in Hugging Face format.

    device: "auto" is CUDA, else the CPU; a model too large for one CUDA device is split over all of them
    then, block by block. Apple's MPS is refused, for it has no float64, which several techniques sum in.
    seed: of an organism. A published model and a folder are one draw each, whatever the seed.
    dtype: what is computed in, streams and sums included.
    storage_dtype: what the matrices of the blocks are kept in, torch.bfloat16 or torch.float16, while all
    is computed in float32 (`tft_utils.storage`). By default as dtype, but bfloat16 for the
    published models of `paper`.
    readable: run Mamba's scan as a Python loop whose every step nnsight can read and edit
    (`tft_utils.architectures.mamba_scan.TAPS`). Same numbers, slower.
    """
    places = _cuda_devices() if device == "auto" else []
    if device == "auto":
        device = "cuda" if places else "cpu"
    source = _resolve(name, scale, seed)
    _check_device_and_dtype(device, dtype)
    stored = storage_dtype or (dtype == torch.float32 and getattr(source, "stored", None)) or dtype
    _check_storage(stored, dtype)
    folder = source if isinstance(source, Path) else download(source, ["*.json"])
    if folder.parent == files.ORGANISMS:
        files.verify_checksums(folder)
    config = _read_config(folder)
    empty = _without_weights(config, str(name), dtype, stored)
    split = _check_memory(empty, str(name), device, places)
    pickled = isinstance(source, Source) and source.pickled
    if isinstance(source, Source):
        folder = download(source, ["*.json", "*.bin" if pickled else "*.safetensors", "*.txt"])
    for weights in [] if pickled else _weight_files(folder):
        _verify_safetensors(weights)
    if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would invent one
        raise LoadError(
            f"expected a tokenizer in {folder}, found none of {', '.join(TOKENIZERS)}; "
            "save or download it there"
        )
    local = {"local_files_only": True, "trust_remote_code": False}
    what = f"a model and its tokenizer in {folder}"
    with (
        explain(what, "download its files again"),
        _progress_bars(isinstance(source, Source)),
        nullcontext() if stored == dtype else storage.read_wide(empty),
    ):
        # Eager attention is the one that hands out its weights.
        hf, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=stored,
            use_safetensors=not pickled,
            weights_only=True,
            attn_implementation="eager",
            output_loading_info=True,
            **({"device_map": "auto"} if split else {}),
            **local,
        )
        hf = (hf if split else hf.to(device)).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    if found["missing_keys"]:  # transformers would leave random numbers there
        raise LoadError(
            f"expected every weight of the model in {folder}, found none for "
            f"{', '.join(sorted(found['missing_keys'])[:3])}; download the files again"
        )
    if elsewhere := {"cpu", "disk"} & {*map(str, getattr(hf, "hf_device_map", {}).values())}:
        raise LoadError(
            f"expected room on {len(places)} CUDA devices for all blocks of {name}, found some left on "
            f"{', '.join(sorted(elsewhere))}; use a smaller scale or a larger machine"
        )
    if stored != dtype:
        storage.store(hf, stored)
    prepare(hf, readable)
    return Model(hf, tokenizer)


@contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """A local model loads in a blink: its progress bar would only litter a notebook's outputs."""
    before = transformers_logging.is_progress_bar_enabled()
    if not wanted:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            transformers_logging.enable_progress_bar()


def prepare(hf, readable: bool = False) -> None:
    """What an architecture does to a bare transformers model before nnsight wraps it."""
    if not torch.cuda.is_available():  # each kernel that only a GPU has would say that it is missing
        transformers_logging.get_logger("transformers.integrations.hub_kernels").setLevel("ERROR")
    getattr(ARCHITECTURES[hf.config.model_type], "prepare", lambda *_: None)(hf, readable)


def load_models(names: Sequence[str] = PAIR, scale: str = "tiny", **options) -> dict[str, Model]:
    """Models by name, in order: what a lesson's MODELS asks for. options: as of `load`."""
    return {name: load(name, scale, **options) for name in names}


def untrained(model: Model, seed: int = 0) -> Model:
    """The same architecture, sizes and tokenizer, with random weights as its configuration draws them:
    those that training starts from, but for what `organisms.training.CHANGES` does to a few. Drawn whole
    in float32, whatever its matrices are stored in after that."""
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")
    prepare(hf)
    hf = hf.to(model.hf.dtype)
    if stored := storage.stored_in(model.hf):
        storage.store(hf, stored)
    return Model(hf.to(model.hf.device).eval(), model.tokenizer)


def _cuda_devices() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _check_device_and_dtype(device: str, dtype: torch.dtype) -> None:
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise LoadError(
            f"expected a floating-point dtype, found {dtype!r}; use dtype=torch.float32, "
            "torch.float64 or torch.bfloat16"
        )
    with explain(f"{device!r} to be a device of this machine, with float64", "use device='cpu'"):
        torch.zeros(1, device=device, dtype=torch.float64)


def _check_storage(stored: torch.dtype, dtype: torch.dtype) -> None:
    narrow = (torch.bfloat16, torch.float16)
    if stored != dtype and not (stored in narrow and dtype == torch.float32):
        raise LoadError(
            "expected storage_dtype=torch.bfloat16 or torch.float16 beside dtype=torch.float32, found "
            f"{stored} beside {dtype}; leave one of them out"
        )


def _resolve(name: str | Path, scale: str, seed: int = 0) -> Path | Source:
    if scale not in SCALES:
        raise LoadError(f"expected a scale, found {scale!r}; use one of {', '.join(map(repr, SCALES))}")
    tiny = scale == "tiny"
    known = [*SCALES[scale]]
    if tiny:
        seeds = files.seeds()
        known = [*dict.fromkeys([*known, *seeds])]
        if isinstance(name, str) and name in known:
            there = seeds.get(name, [])
            if seed in there:
                return files.ORGANISMS / f"{name}-{seed}"
            raise LoadError(
                f"expected a trained organism {name} of seed {seed}, found "
                f"{'seeds ' + ', '.join(map(str, there)) if there else 'none'}; train it with "
                f"`python -m tft_utils.organisms train {name} --seed {seed} --ship`"
            )
    elif isinstance(name, str) and name in known:
        return SCALES[scale][name]
    if Path(name).is_dir():
        return Path(name).resolve()
    nearest = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"use one of {', '.join(known)}"
    raise LoadError(f"expected a model's name or a local folder, found {str(name)!r}; {hint}")


def download(
    source: Source,
    patterns: list[str],
    repo_type: str = "model",
    instead: str = "use scale='tiny', which needs none",
) -> Path:
    """The repository's files at the pinned commit: from the local cache where they are known to be
    complete, else from the hub, else from a cache that may be complete."""
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.utils import get_session

    commit = {"repo_id": source.repository, "revision": source.revision, "repo_type": repo_type}

    def snapshot(local: bool) -> Path:
        return Path(snapshot_download(**commit, allow_patterns=patterns, local_files_only=local))

    with suppress(Exception):  # without its list of files, nobody can tell whether a cache is complete
        get_cached_repo_tree(**commit)
        return snapshot(local=True)
    what = f"a way to the {repo_type} {source.repository} at {source.revision[:12]} on the hub"
    with explain(what, f"connect to the network, or {instead}"):
        try:  # ask once whether the hub is there: without an answer, a download retries for minutes
            get_session().head(constants.ENDPOINT, timeout=5)
            return snapshot(local=False)
        except Exception:  # no network, or one that answers with its login page
            with suppress(Exception):
                return snapshot(local=True)
            raise


NEXT_WORD = ("ForCausalLM", "LMHeadModel")  # how classes that predict it are called
ORIGINAL_SIZES = {  # state-spaces/mamba-* on the hub: d_model x n_layer
    "768 x 24": "130m",
    "1024 x 48": "370m",
    "1536 x 48": "790m",
    "2048 x 48": "1.4b",
    "2560 x 64": "2.8b",
}


def _read_config(folder: Path):
    path = folder / "config.json"
    if not path.is_file():
        raise LoadError(
            f"expected a model in Hugging Face format, found no config.json in {folder}; check the path"
        )
    found = read_json(path, "download or write it again")
    if "auto_map" in found:
        raise LoadError(
            f"expected a model that transformers knows, found one in {folder} that would run "
            "its own code (auto_map); convert it to a built-in architecture first"
        )
    if "ssm_cfg" in found and "model_type" not in found:
        size = ORIGINAL_SIZES.get(f"{found.get('d_model')} x {found.get('n_layer')}")
        known = size and "layer" not in str(found["ssm_cfg"])  # whoever names a layer is its successor
        instead = f"state-spaces/mamba-{size}-hf" if known else "the one of this size that ends in -hf"
        raise LoadError(
            f"expected a checkpoint in Hugging Face format, found one in the authors' own in {folder}; "
            f"take {instead} instead"
        )
    (head,) = [*map(str, found.get("architectures") or ()), ""][:1]
    if head and not head.endswith(NEXT_WORD):
        raise LoadError(
            f"expected a model that predicts the next word from those before it, found {head} in "
            f"{folder}; take one whose class ends in ForCausalLM"
        )
    if found.get("model_type") not in ARCHITECTURES:
        raise LoadError(
            f"expected an architecture among {', '.join(ARCHITECTURES)}, found "
            f"{found.get('model_type')!r} in {folder}; add its file to tft_utils/architectures"
        )
    ARCHITECTURES[found["model_type"]]  # imported: it may be one that transformers lacks
    with explain(f"the settings of a {found['model_type']} in {path}", "correct them"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _without_weights(config, name: str, dtype: torch.dtype, stored: torch.dtype) -> PreTrainedModel:
    """The model as it will lie in memory, from its config alone."""
    with (
        explain(f"settings that make a {config.model_type} for {name}", "correct its config.json"),
        torch.device("meta"),
    ):
        empty = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if stored != dtype:
            storage.store(empty, stored)
    return empty


def _check_memory(empty: PreTrainedModel, name: str, device: str, places: Sequence[str]) -> bool:
    """Refuses a model that cannot fit: before any weight is downloaded.

    Returns whether it fits only if it is split over `places`, the CUDA devices that may be used.
    """
    needed = 1.2 * storage.size(empty)  # a fifth for activations
    free = {"cpu": psutil.virtual_memory().available}  # weights pass through it to any device
    if torch.device(device).type == "cuda":
        free[str(device)] = torch.cuda.mem_get_info(device)[0]
    split = len(places) > 1 and needed > free[str(device)]
    if split:
        del free[str(device)]
        free[" and ".join(places)] = sum(torch.cuda.mem_get_info(place)[0] for place in places)
    place = min(free, key=free.get)
    if needed > free[place]:
        whole = empty.dtype == torch.float32 and not storage.stored_in(empty)
        half = " storage_dtype=torch.bfloat16," if whole else ""
        raise LoadError(
            f"expected {needed / 2**30:.1f} GiB of free memory on {place} for {name}, found "
            f"{free[place] / 2**30:.1f} GiB; use a smaller scale,{half} or a larger machine"
        )
    return split


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors file, or the several that an index lists; other formats can hide code."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        raise LoadError(
            f"expected weights in the safetensors format in {folder}, found "
            f"{', '.join(others) or 'no weights'}; convert or download model.safetensors"
        )
    with explain(f"the names of weight files in {index}", "download it again"):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        weights = sorted({folder / name for name in names})
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise LoadError(
            f"expected the {len(weights)} files that {index} lists, found no {missing[0]}; "
            "download it again"
        )
    return weights


def _verify_safetensors(path: Path) -> None:
    """The file is as long as its header says: a download that was cut is caught here."""
    size, repair = path.stat().st_size, "delete it, then download or restore it again"
    with path.open("rb") as file, explain(f"{path} ({size} bytes) to be whole", repair):
        header = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(min(header, size)))
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        expected = 8 + header + max(ends, default=0)
    if size != expected:
        raise LoadError(
            f"expected {expected} bytes in {path}, found {size}, so it is cut short or damaged; {repair}"
        )
