"""xLSTM (Beck et al. 2024, arXiv 2405.04517; as in xLSTM-7B, Beck et al. 2025, arXiv 2503.13427): mLSTM
blocks, a matrix memory with exponential input gates and a normaliser, each followed by an MLP.

    q_t  query, k_t  key [key], v_t  value [value] of a head        C_t  memory [key value]
    i_t, f_t  before the input and the forget gate, a number a head   n_t  normaliser [key]
    m_t  the largest exponent so far, a number a head                 o_t  output gate [channel]

    C_t = sigmoid(f_t) C_{t-1} + exp(i_t) k_t v_t^T,    n_t = sigmoid(f_t) n_{t-1} + exp(i_t) k_t
    y_t = q_t C_t / max(|q_t n_t|, 1),   q_t over sqrt(key)          (section 2.3, eq. 19 to 27)

n is the recurrence of C on the number 1, and sees no value: frozen, it divides q. transformers keeps C
and n divided by exp(m_t), m_t = max(log sigmoid(f_t) + m_{t-1}, i_t); here i is bounded, and they are
not. The norm behind takes away the mean of a head's channels, which commutes with all of this, so that
v is centred first: y, and the points 'state' and 'carry', are centred too.

A block, in order (Beck et al. 2025, Figure 1):
    1. RMSNorm, then q, k, v, o and the bounded i and f, each by a linear layer
    2. the memory and its normaliser, read by q
    3. LayerNorm within each head, times sigmoid(o)
    4. project, add to the stream
    5. RMSNorm, MLP (SiLU(gate) times up, then down), add to the stream
"""

import torch
from torch import Tensor
from transformers import xLSTMConfig

from tft_utils.architectures import Kind, Unsupported
from tft_utils.architectures.recurrent import Mixing, Recurrence, bound, keep, rms, silu, wide

WHERE = {
    "embedding": "backbone.embeddings",
    "blocks": "backbone.blocks",
    "final_norm": "backbone.out_norm",
    "unembedding": "lm_head",
}
CACHE = "cache_params"
KIND = Kind(
    mixer="mlstm_layer",
    output="out_proj",
    memory="ffn.proj_down",
    units="v_dim",
    mixing=Mixing,
    components=("query", "key", "v", "input gate", "forget gate", "read-out", "gate", "mixer", "mlp"),
    stepwise=("state", "carry"),  # C_t [batch head key value]: what y_t reads; what step t + 1 takes
    compressed=("C", "n", "m"),
)
NO = {"padding on the left": "transformers' xLSTM takes no mask, and would read padding as words"}
RULES = {
    "norm": ("scale",),
    "activation": ("mlp slope",),
    "memory": ("query", "key", "input gate", "forget gate", "normaliser"),
    "gate": ("gate", "mlp gate", "up"),
    "cap": ("cap",),
}
RULE_SETS = {  # MambaLRP's rules (Jafari et al. 2024); a sigmoid gate is a constant (Arras et al. 2019)
    "MambaLRP": dict.fromkeys([point for rule in RULES.values() for point in rule], 0)
    | {"mlp gate": 1 / 2, "up": 1 / 2}
}
LORA_TARGETS = ["q", "k", "v", "proj_up", "proj_down", "lm_head"]


def prepare(hf, readable: bool = False) -> None:
    """Refuses settings that no published model has."""
    if hf.config.use_bias or hf.config.weight_mode != "single":
        raise Unsupported("xlstm", "open block", "it is written for use_bias=False, weight_mode='single'")


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here = model.backbone.blocks[layer]
    x = x + put("mixer", _memory(here.mlstm_layer, norm(here.norm_mlstm, x, put), put, past or {}))
    read = norm(here.norm_ffn, x, put)
    gate = put("mlp gate", silu(here.ffn.proj_up_gate(read), put, "mlp slope"))
    return x + put("mlp", here.ffn.proj_down(gate * put("up", here.ffn.proj_up(read))))


def _memory(m, x: Tensor, put, past: dict) -> Tensor:
    """What an mLSTM layer m makes of the normed stream."""
    q, k, v = (wide(linear(x)).unflatten(-1, (m.config.num_heads, -1)) for linear in (m.q, m.k, m.v))
    q, k = put("query", q * q.shape[-1] ** -0.5), put("key", k)
    v = put("v", v - v.mean(-1, keepdim=True))
    i, f = (bound(wide(linear(x)), m.config.gate_soft_cap) for linear in (m.igate_preact, m.fgate_preact))
    i, f = put("input gate", torch.exp(i)[..., None]), put("forget gate", torch.sigmoid(f)[..., None])
    C = n = None
    exponent = log_f = torch.log(f.clamp(min=1e-30)).cumsum(-3)  # a gate may be patched to 0
    if past:
        C, n = (torch.exp(past["m"])[..., None] * part for part in (past["C"], past["n"][..., None]))
        C = C - C.mean(-1, keepdim=True)
        exponent = exponent + past["m"].unsqueeze(-3)
    exponent = torch.maximum(exponent, log_f + (torch.log(i) - log_f).cummax(-3).values)  # m_t
    qn = Recurrence(q, i * k, f, past=n)(torch.ones_like(i))
    normaliser = qn.abs().clamp(min=1) + m.config.eps * torch.exp(exponent)
    mixing = put("mixing", Recurrence(q / put("normaliser", normaliser), i * k, f, past=C, put=put))
    y = put("read-out", mixing(v))
    scale = put("scale", torch.rsqrt(y.square().mean(-1, keepdim=True) + m.multihead_norm.eps))
    scale = put("gated scale", scale.mul(m.multihead_norm.weight.view(*y.shape[-2:])).flatten(-2))
    gated = y.flatten(-2) * scale * put("gate", torch.sigmoid(m.ogate_preact(x)))
    return m.out_proj(gated.to(x.dtype))


def norm(module, x: Tensor, put=keep) -> Tensor:
    """RMSNorm; its scale is a point."""
    return rms(x, module.weight, module.eps, put)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.backbone.out_norm, x, put)


def cap(model, logits: Tensor, put=keep) -> Tensor:
    """Logits [... vocab] within their bound."""
    return bound(logits, model.config.output_logit_soft_cap, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """The same size at every length: C [batch head key value] and n [batch head key], both divided by
    exp(m), and m [batch head 1]."""
    return dict(zip("Cnm", cache.rnn_state[layer], strict=True))


def tiny() -> xLSTMConfig:
    """A configuration for tests; transformers' cache takes keys and values of 64 numbers."""
    return xLSTMConfig(
        vocab_size=60,
        hidden_size=64,
        num_hidden_layers=3,
        num_heads=4,
        qk_dim_factor=1.0,
        gate_soft_cap=2.0,
        output_logit_soft_cap=1.0,
    )
