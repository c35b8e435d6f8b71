"""GPT-NeoX (Pythia): softmax attention with rotary positions, in parallel with an MLP."""

from torch import Tensor


def prepare(hf, readable: bool) -> None:
    """Nothing to do: transformers' eager attention is already readable."""


def embedding(model):
    return model.gpt_neox.embed_in


def blocks(model):
    return model.gpt_neox.layers


def mixer(block):
    return block.attention


def final_norm(model):
    return model.gpt_neox.final_layer_norm


def unembedding(model):
    return model.lm_head


def state(cache, layer: int) -> dict[str, Tensor]:
    """Keys and values of all past positions, each [batch head pos d_head]: it grows with length."""
    return {"keys": cache.layers[layer].keys, "values": cache.layers[layer].values}
