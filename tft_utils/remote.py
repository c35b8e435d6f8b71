"""A published model on nnsight's servers (NDIF): its traces run there, no weight comes here.

    model = remote.served("transformer", "paper")     # or remote.served("meta-llama/Llama-3.1-8B")
    with model.trace("The capital of France is"):
        h = model.residual(4).save()                 # [batch pos d_model], as of any model

Which models are served changes: `nnsight.ndif_status()` lists them. A key stands in NDIF_API_KEY. The
verbs of a trace work as everywhere; techniques that run blocks one by one have no weights to run them on.
"""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import nnsight
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoTokenizer

from tft_utils import models
from tft_utils.architectures import ARCHITECTURES
from tft_utils.files import LoadError, explain

# No server has this package: what a trace uses of these two modules travels with it, as source. So a
# `Remote` holds plain data alone, and borrows the verbs of `Model` instead of being one.
nnsight.register("tft_utils.models")
nnsight.register("tft_utils.remote")
VERBS = (
    *("n_layers", "_envoy", "blocks", "mixer", "final_norm", "unembedding", "_at_depth"),
    *("residual", "set_residual", "mixer_output", "unit_outputs", "logits"),
)


class Remote(TransformersModel):
    """A model whose weights lie elsewhere: see `served`.

    remote of `trace`: True, a server's address, or "local", for which weights must lie here: the trace
    is made ready for a server and runs here.
    """

    def trace(self, *inputs, remote: bool | str = True, **options):
        return TransformersModel.trace(self, *inputs, remote=remote, **options)

    def kind(self, layer: int) -> SimpleNamespace:
        return self.architecture.KIND

    def _capped(self, logits):
        return logits

    def _remoteable_class(self) -> type:
        return TransformersModel  # a server does not know ours

    def _remoteable_model_key(self) -> str:
        repository, revision, *_ = self.served
        return json.dumps({"repo_id": repository, "revision": revision, "task": self.task})


for name in VERBS:
    setattr(Remote, name, vars(models.Model)[name])


def open_folder(folder: Path, source: models.Source) -> Remote:
    """The model whose config and tokenizer are in a folder, and whose weights a server has.

    Errors: `LoadError` for blocks of several kinds and for bounded logits: their verbs need more of this
    package than travels with a trace.
    """
    what = f"a config of {', '.join(ARCHITECTURES)}, and a tokenizer, in {folder}"
    with explain(what, "take another model"), warnings.catch_warnings():  # as in `Model`
        warnings.filterwarnings("ignore", "Module .* has a submodule named")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = Remote(
            str(folder), tokenizer=tokenizer, task="text-generation", attn_implementation="eager"
        )
        whole = ARCHITECTURES[model.config.model_type]
    if hasattr(whole, "kind") or hasattr(whole, "cap"):
        raise LoadError(
            "expected blocks of one kind and logits without a bound, found "
            f"{model.config.model_type}; load it with `models.load`"
        )
    kind = SimpleNamespace(mixer=whole.KIND.mixer, output=whole.KIND.output)
    model.architecture = SimpleNamespace(WHERE=dict(whole.WHERE), KIND=kind)
    model.served = tuple(source)
    return model


def served(name: str, scale: str = "paper", revision: str = "main") -> Remote:
    """A model by its name at a scale, or by its repository; only its config and tokenizer are downloaded.

    revision: what is served is a branch, not the commit that `models.SCALES` pins.
    Errors: `LoadError` where they cannot be had, or the architecture is not among ours.
    """
    if scale not in models.SCALES:
        known = ", ".join(map(repr, models.SCALES))
        raise LoadError(f"expected a scale, found {scale!r}; use one of {known}")
    known = models.SCALES[scale].get(name)
    repository = known.repository if isinstance(known, models.Source) else name
    source = models.Source(repository, revision)
    folder = models.download(source, ["*.json", "*.txt", "tokenizer.model"])
    return open_folder(folder, source)
