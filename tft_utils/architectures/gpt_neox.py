"""GPT-NeoX (Pythia): softmax attention with rotary positions, in parallel with an MLP.

    x  residual stream [pos d_model]        q, k, v  queries, keys, values [head pos d_head]
    A  attention pattern [head query source]     W_h  a head's part of the output projection

    x' = x + sum_h W_h A_h v_h + b + MLP(norm2(x))
    A_h = softmax(rotate(q_h) rotate(k_h)^T / sqrt(d_head))

A block, in order (Black et al. 2022, arXiv 2204.06745, section 2.1; Su et al. 2021 for the rotation):
    1. norm1, then queries, keys and values of all heads in one product
    2. rotate queries and keys by their position
    3. mix the values by the pattern, project the heads
    4. norm2 of the same stream, up-projection, GELU, down-projection
    5. add both to the stream
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from tft_utils.architectures import Kind
from tft_utils.architectures.recurrent import keep, looks
from tft_utils.architectures.softmax import Attention, Mixing, leak

WHERE = {
    "embedding": "gpt_neox.embed_in",
    "blocks": "gpt_neox.layers",
    "final_norm": "gpt_neox.final_layer_norm",
    "unembedding": "lm_head",
}
CACHE = "past_key_values"
KIND = Kind(
    mixer="attention",
    output="dense",
    memory="mlp.dense_4h_to_h",  # the MLP's down-projection: Meng et al. 2022
    units="config.num_attention_heads",
    mixing=Mixing,
    components=("heads", "mixer", "mlp"),
)
RULES = {"norm": ("scale",), "activation": ("slope",), "attention": ("q", "k", "v")}
RULE_SETS = {  # point -> the share of the gradient that flows through it
    # The uniform rule at A v, then at q k: Achtibat et al. 2024, arXiv 2402.05602.
    "AttnLRP": {"scale": 0, "slope": 0, "q": 1 / 4, "k": 1 / 4, "v": 1 / 2},
    # The pattern is a constant: Ali et al. 2022, arXiv 2202.07304.
    "CP-LRP": {"scale": 0, "slope": 0, "q": 0, "k": 0, "v": 1},
}
LEAKS = {"AttnLRP": leak}
LORA_TARGETS = ["query_key_value", "dense_h_to_4h", "dense_4h_to_h", "lm_head"]


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here = model.gpt_neox.layers[layer]
    attention, pos, before = here.attention, x.shape[-2], past["mask"].shape[-1] if past else 0
    qkv = attention.query_key_value(norm(here.input_layernorm, x, put))
    qkv = qkv.unflatten(-1, (attention.config.num_attention_heads, -1)).transpose(-2, -3)
    q, k, v = (put(name, part) for name, part in zip("qkv", qkv.chunk(3, -1), strict=True))
    positions = torch.arange(before, before + pos, device=x.device)
    rotation = model.gpt_neox.rotary_emb(x, positions[None])
    q, k = apply_rotary_pos_emb(q, k, *rotation)
    mixing = put("mixing", Attention(q, k, past))
    heads = put("heads", mixing(v).transpose(-2, -3))
    mixed = put("mixer", attention.dense(heads.flatten(-2)))
    read = x if here.use_parallel_residual else x + mixed
    up = here.mlp.dense_h_to_4h(norm(here.post_attention_layernorm, read, put))
    return put("mlp", here.mlp.dense_4h_to_h(activate(here.mlp.act, up, put))) + mixed + x


def norm(module, x: Tensor, put=keep) -> Tensor:
    """LayerNorm over the last axis; its scale is a point."""
    if not looks(put, "scale"):
        weight, bias = module.weight.to(x.dtype), module.bias.to(x.dtype)
        return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
    centred = x - x.mean(-1, keepdim=True)
    scale = put("scale", torch.rsqrt(centred.square().mean(-1, keepdim=True) + module.eps))
    return centred * scale * module.weight + module.bias


def activate(act, x: Tensor, put=keep, point: str = "slope") -> Tensor:
    """phi(x) as x times its slope phi(x) / x, which is a point."""
    if not looks(put, point):  # the slope costs more than phi
        return act(x)
    return x * put(point, act(x) / torch.where(x == 0, 1, x))


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.gpt_neox.final_layer_norm, x, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """Keys and values of all past positions, each [batch head pos d_head]: it grows with length."""
    return {"keys": cache.layers[layer].keys, "values": cache.layers[layer].values}


def tiny() -> GPTNeoXConfig:
    """A configuration for tests."""
    return GPTNeoXConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
