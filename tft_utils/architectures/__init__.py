"""One file per architecture. Each answers the same questions, so no technique names one.

    prepare(hf, readable)   called once on a bare transformers model, before nnsight wraps it
    embedding(model)        the module whose output is the residual stream before the first block
    blocks(model)           the blocks; a block's output is the residual stream after it
    mixer(block)            the module through which a block's positions exchange information
    final_norm(model)       the norm before the unembedding
    unembedding(model)      the module that turns the normed residual stream into logits
    state(cache, layer)     what a layer carries from past positions: name -> live tensor

`model` is a transformers model or its nnsight wrapper: both have the same attribute paths. To add
an architecture, write its file and its line in `ARCHITECTURES`.
"""

from types import ModuleType

from tft_utils.architectures import gpt_neox, mamba

ARCHITECTURES: dict[str, ModuleType] = {  # by transformers' `model_type`
    "gpt_neox": gpt_neox,
    "mamba": mamba,
}
