"""Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464) between layers of gated softmax attention: the
hybrid of Qwen3-Next, every block followed by an MLP.

    x_t  input of the convolution: (q, k, v)          S_t  state of a head [key value]
    q_t  read vector, k_t  write vector [key], of length 1/sqrt(key) and 1
    v_t  what is to be written [value]                 z_t  before the gate [channel]
    a_t  decay, e_t  how much is erased: one number a head, between 0 and 1    g_t  gate [d_head]

    S_t = a_t S_{t-1} + e_t k_t (v_t - k_t^T a_t S_{t-1})^T        y_t = q_t S_t        (eq. 10)
    o_t = sigmoid(g_t) sum_s A[t,s] v_s        A = softmax(rotate(q) rotate(k)^T / sqrt(d_head))

First a head of the delta rule: v_t takes the place of what stood under k_t; then one of attention.

A block, in order (Figure 1, right; Qiu et al. 2025, arXiv 2505.06708 for the gate of attention):
    1. RMSNorm, then q, k, v, z, a and e; in attention q, its gate g, k and v, RMSNorm of q and k
    2. SiLU(short convolution) of q, k and v, then q and k to their length; in attention the rotation
    3. the delta rule, RMSNorm within each head, times SiLU(z); in attention the pattern, its gate
    4. project, add to the stream; then RMSNorm, MLP (SiLU(gate) times up, then down), add to the stream
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import apply_rotary_pos_emb

from tft_utils.architectures import Kind, Unsupported, recurrent, softmax
from tft_utils.architectures.recurrent import Recurrence, convolve, keep, rms, silu, wide

WHERE = {
    "embedding": "model.embed_tokens",
    "blocks": "model.layers",
    "final_norm": "model.norm",
    "unembedding": "lm_head",
}
CACHE = "past_key_values"
RULES = {
    "norm": ("scale",),
    "activation": ("slope", "gate slope", "mlp slope"),
    "delta rule": ("read", "write", "decay", "erase"),
    "gate": ("mixed", "gate", "output gate", "mlp gate", "up"),
    "attention": ("q", "k", "v"),
}
_FROZEN = [*RULES["norm"], *RULES["activation"], *RULES["delta rule"], "output gate"]
_SHARES = dict.fromkeys(_FROZEN, 0) | dict.fromkeys(["mixed", "gate", "mlp gate", "up"], 1 / 2)
RULE_SETS = {  # MambaLRP (Jafari et al. 2024) carried over to the delta rule, and two for attention
    "AttnLRP": _SHARES | {"q": 1 / 4, "k": 1 / 4, "v": 1 / 2},  # see `gpt_neox`
    "CP-LRP": _SHARES | {"q": 0, "k": 0, "v": 1},
}
LEAKS = {"AttnLRP": softmax.leak}
# Not those of the MLP: peft takes their names for those of experts, which these sizes do not have.
LORA_TARGETS = ["in_proj_qkvz", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "lm_head"]


class Attention(softmax.Attention):
    """Softmax attention on values [... pos head d_head], as a recurrence takes them."""

    def __call__(self, v: Tensor) -> Tensor:
        return super().__call__(v.transpose(-2, -3).to(self.q.dtype)).transpose(-2, -3).to(v.dtype)

    @property
    def heads(self) -> int:
        return self.q.shape[-3]

    def weights(self, queries: Tensor, heads: list[int]) -> Tensor:
        """A [batch head query source]."""
        return self.pattern.detach()[:, heads][:, :, queries]

    def row(self, i: int, length: int) -> "Attention":
        """The first `length` positions of sequence i, as a batch of one."""
        return Attention(self.q[i : i + 1, :, :length], self.k[i : i + 1, :, :length])


class Gated(recurrent.Mixing):
    """Gated attention on one input, a unit for each channel: the gate does not treat a head as one."""

    normalised = True  # the rows of 'scan', which is the pattern

    @classmethod
    def of(cls, points: dict, linear: torch.nn.Linear) -> "Gated":
        core = Attention(points["mixing"].q, points["mixing"].k)  # its keys are those of each head
        v = points["v"].repeat_interleave(core.heads // points["v"].shape[-2], -2)
        gate = points["output gate"].flatten(2)
        return super().of({"mixing": core, "v": v, "gate": gate}, linear)


DELTA = Kind(
    mixer="linear_attn",
    output="out_proj",
    memory="mlp.down_proj",
    units="value_dim",
    mixing=recurrent.Mixing,
    components=("convolution", "read", "write", "decay", "erase", "read-out", "gate", "mixer", "mlp"),
    stepwise=("state", "carry"),  # S_t [batch head key value]: what y_t reads; what step t + 1 takes
    compressed=("delta", "conv"),
)
ATTENTION = Kind(
    mixer="self_attn",
    output="o_proj",
    memory="mlp.down_proj",
    units="o_proj.in_features",
    mixing=Gated,
    components=("heads", "output gate", "mixer", "mlp"),
)


def kind(model, layer: int) -> Kind:
    """Which of the two block `layer` is."""
    return DELTA if model.config.layer_types[layer] == "linear_attention" else ATTENTION


def prepare(hf, readable: bool = False) -> None:
    """Refuses mixtures of experts."""
    if not all(hasattr(layer.mlp, "down_proj") for layer in hf.model.layers):
        raise Unsupported("qwen3_next", "open block", "its MLPs are mixtures of experts")


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here, past = model.model.layers[layer], past or {}
    read = norm(here.input_layernorm, x, put)
    if kind(model, layer) is DELTA:
        x = x + put("mixer", _delta(here.linear_attn, read, put, past))
    else:
        x = x + put("mixer", _attention(here.self_attn, read, put, past, model.model.rotary_emb))
    read = norm(here.post_attention_layernorm, x, put)
    gate = put("mlp gate", silu(here.mlp.gate_proj(read), put, "mlp slope"))
    return x + put("mlp", here.mlp.down_proj(gate * put("up", here.mlp.up_proj(read))))


def _delta(m, x: Tensor, put, past: dict) -> Tensor:
    """What a delta rule m makes of the normed stream."""
    shared, key, value = m.num_v_heads // m.num_k_heads, m.head_k_dim, m.head_v_dim
    groups, numbers = (f(x).unflatten(-1, (m.num_k_heads, -1)) for f in (m.in_proj_qkvz, m.in_proj_ba))
    *qkv, z = (part.flatten(-2) for part in groups.split([key, key, shared * value, shared * value], -1))
    erase, raw = (part.flatten(-2) for part in numbers.chunk(2, -1))

    def of_v(name: str, part: Tensor) -> Tensor:  # points of the convolution hold the channels of v alone
        return torch.cat([part[..., : -m.value_dim], put(name, part[..., -m.value_dim :])], -1)

    c = wide(silu(convolve(torch.cat(qkv, -1), m.conv1d, of_v, past.get("conv")), of_v))
    q, k, v = c.split([m.key_dim, m.key_dim, m.value_dim], -1)
    v = put("convolution", v.unflatten(-1, (m.num_v_heads, value)))
    q, k = (part.unflatten(-1, (m.num_k_heads, key)).repeat_interleave(shared, -2) for part in (q, k))
    q, k = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (q, k))
    q, k = put("read", q * key**-0.5), put("write", k)
    decay = put("decay", torch.exp(-torch.exp(wide(m.A_log)) * F.softplus(wide(raw) + m.dt_bias)))
    erase = put("erase", torch.sigmoid(wide(erase)))
    mixing = put("mixing", Recurrence(q, k, decay[..., None], erase, past=past.get("delta"), put=put))
    y = put("read-out", mixing(v))
    scale = put("scale", torch.rsqrt(y.square().mean(-1, keepdim=True) + m.norm.variance_epsilon))
    mixed = put("mixed", y.flatten(-2) * put("gated scale", (scale * m.norm.weight).flatten(-2)))
    return m.out_proj((mixed * put("gate", silu(z, put, "gate slope"))).to(x.dtype))


def _attention(m, x: Tensor, put, past: dict, rotary) -> Tensor:
    """What a gated attention m makes of the normed stream."""
    before = past["mask"].shape[-1] if past else 0
    rotation = rotary(x, torch.arange(before, before + x.shape[-2], device=x.device)[None])
    q, gate = m.q_proj(x).unflatten(-1, (m.config.num_attention_heads, -1)).chunk(2, -1)
    k, v = (linear(x).unflatten(-1, (-1, m.head_dim)) for linear in (m.k_proj, m.v_proj))
    q, k = put("q", norm(m.q_norm, q, put)), put("k", norm(m.k_norm, k, put))
    q, k = apply_rotary_pos_emb(q.transpose(-2, -3), k.transpose(-2, -3), *rotation)
    heads = put("heads", put("mixing", Attention(q, k, past))(put("v", v)))
    return m.o_proj((heads * put("output gate", torch.sigmoid(gate))).flatten(-2))


def norm(module, x: Tensor, put=keep) -> Tensor:
    """RMSNorm whose weight is stored less one; its scale is a point."""
    return rms(x, 1 + module.weight, module.eps, put)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.model.norm, x, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """The state [batch head key value] and the convolution's last inputs [batch channel tap], of one
    size; of attention keys and values [batch head pos d_head]."""
    part = cache.layers[layer]
    if hasattr(part, "recurrent_states"):
        return {"delta": part.recurrent_states[0], "conv": part.conv_states[0]}
    return {"keys": part.keys, "values": part.values}


def tiny() -> Qwen3NextConfig:
    """A configuration for tests."""
    return Qwen3NextConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_attention_heads=4,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        num_experts=0,
        **dict.fromkeys(["head_dim", "linear_key_head_dim", "linear_value_head_dim"], 8),
    )
