"""Llama, SmolLM2 and Qwen2: grouped softmax attention with rotary positions, then a gated MLP.

    x  residual stream [pos d_model]        q  queries [head pos d_head]
    k, v  keys, values [group pos d_head]: the heads of a group share them; g(h) is head h's group
    A  attention pattern [head query source]     W_h  a head's part of the output projection
    a, u  gate and up-projection of the MLP [pos d_mlp]

    m  = x + sum_h W_h A_h v_g(h)        A_h = softmax(rotate(q_h) rotate(k_g(h))^T / sqrt(d_head))
    x' = m + W (SiLU(a) u)               a, u = projections of RMSNorm(m)

A block, in order (Touvron et al. 2023, arXiv 2302.13971, section 2.2; Ainslie et al. 2023, arXiv
2305.13245 for the groups; Shazeer 2020, arXiv 2002.05202 for the gated MLP):
    1. RMSNorm, then queries, keys and values; those of Qwen2 have biases
    2. rotate queries and keys by their position
    3. mix the values of each head's group by its pattern, project the heads, add to the stream
    4. RMSNorm, MLP (SiLU(gate) times up, then down)
    5. add to the stream
"""

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tft_utils.architectures import Kind, Unsupported
from tft_utils.architectures.gpt_neox import activate
from tft_utils.architectures.recurrent import keep, rms
from tft_utils.architectures.softmax import Attention, Mixing, leak

WHERE = {
    "embedding": "model.embed_tokens",
    "blocks": "model.layers",
    "final_norm": "model.norm",
    "unembedding": "lm_head",
}
CACHE = "past_key_values"
KIND = Kind(
    mixer="self_attn",
    output="o_proj",
    memory="mlp.down_proj",  # as in `gpt_neox`
    units="config.num_attention_heads",
    mixing=Mixing,
    components=("heads", "mixer", "mlp"),
)
RULES = {
    "norm": ("scale",),
    "activation": ("slope",),
    "gate": ("gate", "up"),
    "attention": ("q", "k", "v"),
}
_SHARES = {"scale": 0, "slope": 0, "gate": 1 / 2, "up": 1 / 2}  # the uniform rule at the gate's product
RULE_SETS = {  # see `gpt_neox`
    "AttnLRP": _SHARES | {"q": 1 / 4, "k": 1 / 4, "v": 1 / 2},
    "CP-LRP": _SHARES | {"q": 0, "k": 0, "v": 1},
}
LEAKS = {"AttnLRP": leak}
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def prepare(hf, readable: bool = False) -> None:
    """Refuses layers that see a window of the past: a cut or a patch would miss what lies before it."""
    if "sliding_attention" in (getattr(hf.config, "layer_types", None) or ()):
        raise Unsupported(hf.config.model_type, "open block", "some of its layers see a window only")


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here = model.model.layers[layer]
    attention, pos, before = here.self_attn, x.shape[-2], past["mask"].shape[-1] if past else 0
    read = norm(here.input_layernorm, x, put)
    projections = zip("qkv", (attention.q_proj, attention.k_proj, attention.v_proj), strict=True)
    q, k, v = (
        put(name, linear(read).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3))
        for name, linear in projections
    )
    positions = torch.arange(before, before + pos, device=x.device)
    q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(x, positions[None]))
    mixing = put("mixing", Attention(q, k, past))
    heads = put("heads", mixing(v).transpose(-2, -3))
    x = x + put("mixer", attention.o_proj(heads.flatten(-2)))
    read = norm(here.post_attention_layernorm, x, put)
    gate = put("gate", activate(here.mlp.act_fn, here.mlp.gate_proj(read), put))
    return x + put("mlp", here.mlp.down_proj(gate * put("up", here.mlp.up_proj(read))))


def norm(module, x: Tensor, put=keep) -> Tensor:
    """RMSNorm; its scale is a point."""
    return rms(x, module.weight, module.variance_epsilon, put)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.model.norm, x, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """Keys and values of all past positions, each [batch group pos d_head]: it grows with length."""
    return {"keys": cache.layers[layer].keys, "values": cache.layers[layer].values}


def tiny() -> LlamaConfig:
    """A configuration for tests: four heads in two groups."""
    return LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
    )
