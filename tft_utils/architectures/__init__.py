"""One file per architecture. Each writes its block once, open to everyone; no technique names one.

    WHERE        dotted paths from the model: embedding, blocks, final_norm, unembedding; stream, the
                 module that makes what a first block adds to, where that is not what it reads
    KIND         what its blocks have (`Kind`); a hybrid has `kind(model, layer)` instead
    block(model, layer, x, put, past)   the forward of one block, see below
    final(model, x, put)     the final norm on x [... d_model], its scale a point 'scale'
    state(cache, layer)      what a layer carries from past positions: name -> live tensor
    CACHE        the keyword under which the model takes and returns its cache
    RULES        relevance rules: name -> the points they concern
    RULE_SETS    name -> {point: share of the gradient}, the first one the default; a point without a
                 share keeps all of it; a pair is (at earlier words, at the last)
    LORA_TARGETS modules that a LoRA adapter is put on; `tft_utils.organisms.quirky`
    tiny()       a small configuration, for `tests/test_architectures.py`

and where it needs them

    prepare(hf, readable)    called once on a bare transformers model, before nnsight wraps it
    cap(model, logits, put)  what the model does to the unembedding's output [... vocab]
    LEAKS        rule set -> what its relevance loses in a pattern: leak(pattern, gradient) -> [batch]
    NO           capability -> why this architecture has none: `Unsupported` says so

`block` runs on x [... pos d_model], without padding on the left. Every named point goes through
`put(name, value)`, which returns what to go on with: keep it, record it, replace it, scale its gradient.
Values are [... pos ...]. Points common to all: 'mixing', the frozen operator through which positions
exchange values (a callable on them); 'mixer', what the mixer adds to the stream; 'stream', what the
block adds to, where a first block scales or norms what it reads. A `put` may name in `points` the
points it looks at: past others a block may take a shortcut. One with a true attribute `stepwise` is
also called with the STEPWISE points, put(name, value, t), one step at a time.
`past` holds the tensors of `state` before x, and 'mask' [batch before], 0 at padding. One more word in
several variants is x [prompt variant 1 d_model] with past [prompt 1 ...]: the variants do not see each
other, and `past` is not changed.

So one more word, patching, relevance and hidden attention are readings of the one forward. `model` is
the transformers model. To add an architecture, write its file and its line in `ARCHITECTURES`.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType


class Unsupported(NotImplementedError):
    """An architecture cannot do what is asked. Figures say n/a, tests skip and say why."""

    def __init__(self, architecture: str, capability: str, reason: str) -> None:
        super().__init__(f"{architecture} has no {capability}: {reason}")
        self.architecture, self.capability, self.reason = architecture, capability, reason


@dataclass(frozen=True)
class Kind:
    """What one kind of block has. Paths are dotted: of mixer and memory below the block, of output and
    units below the mixer."""

    mixer: str  # the module through which positions exchange information
    output: str  # the linear module that writes its units into the residual stream
    memory: str  # the linear module whose weight a factual edit changes
    units: str  # how many units (heads, channels) that module reads, side by side
    mixing: type  # its frozen mixing: `of(points, output)`; see `softmax.Mixing`, `recurrent.Mixing`
    components: tuple[str, ...]  # the points that patching may replace
    stepwise: tuple[str, ...] = ()  # points that exist only step by step
    compressed: tuple[str, ...] = ()  # parts of its state that have one size at every length


class _Registry(Mapping):
    """Architectures by transformers' `model_type`; a file is imported when it is asked for."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def __getitem__(self, model_type: str) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self._files[model_type]}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


ARCHITECTURES = _Registry(
    {
        "gpt_neox": "gpt_neox",
        "llama": "llama",  # and SmolLM2
        "lstm": "lstm",
        "mamba": "mamba",
        "mamba2": "mamba2",
        "qwen2": "llama",  # one file may serve several model types
        "qwen3_next": "gated_deltanet",
        "recurrent_gemma": "griffin",
        "rwkv": "rwkv",
        "xlstm": "xlstm",
    }
)
