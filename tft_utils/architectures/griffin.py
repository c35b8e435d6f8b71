"""Griffin (De et al. 2024, arXiv 2402.19427), as RecurrentGemma: two gated linear recurrences, then one
attention to the words nearby, every block followed by an MLP.

    x_t  input of the convolution [channel]         h_t  state [channel]
    u_t  input of the recurrence [channel]          a_t  decay [channel], between 0 and 1
    i_t  input gate, r_t  recurrence gate [channel] L    how fast a channel forgets [channel]
    z_t  before the gate [channel]

    r_t = sigmoid(W_r u_t + b_r),  i_t = sigmoid(W_i u_t + b_i),  a_t = exp(-8 softplus(L) r_t)
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t, and the first word h_0 = i_0 u_0        (eq. 1 to 4)
    A[t,s] = softmax over the window's last words s of rotate(q_t) rotate(k_s) / sqrt(d_head)

The first block scales what it reads by sqrt(d_model): that scaled embedding is the stream it adds to.

A block, in order (Figure 2):
    1. RMSNorm, then x and z; in attention q, k and v
    2. u, a short convolution of x; in attention rotate q and k by their position
    3. the recurrence, times the gate GELU(z); in attention mix the values by the pattern
    4. project, add to the stream
    5. RMSNorm, MLP (GELU(gate) times up, then down), add to the stream
"""

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import RecurrentGemmaConfig
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import apply_rotary_pos_emb

from tft_utils.architectures import Kind, recurrent, softmax
from tft_utils.architectures.gpt_neox import activate
from tft_utils.architectures.linear_scan import linear_scan
from tft_utils.architectures.recurrent import Recurrence, bound, convolve, keep, rms, wide

WHERE = {
    "embedding": "model.embed_tokens",
    "blocks": "model.layers",
    "final_norm": "model.final_norm",
    "unembedding": "lm_head",
}
NO = {
    "continuation": "transformers' RecurrentGemma keeps its state in its modules and returns no cache",
    "padding on the left": "its recurrence would read padding as words",
}
RECURRENCE = Kind(
    mixer="temporal_block",
    output="linear_out",
    memory="mlp_block.down_proj",
    units="lru_width",
    mixing=recurrent.Mixing,
    components=("convolution", "input gate", "recurrence gate", "read-out", "gate", "mixer", "mlp"),
    stepwise=("state", "carry"),  # h_t [batch channel 1 1]: what y_t is; what step t + 1 takes
)
ATTENTION = Kind(
    mixer="temporal_block",
    output="o_proj",
    memory="mlp_block.down_proj",
    units="num_attention_heads",
    mixing=softmax.Mixing,
    components=("heads", "mixer", "mlp"),
)
RULES = {
    "norm": ("scale",),
    "activation": ("gate slope", "mlp slope"),
    "recurrence": ("input gate", "recurrence gate"),
    "gate": ("read-out", "gate", "mlp gate", "up"),
    "attention": ("q", "k", "v"),
    "cap": ("cap",),
}
_FROZEN = [*RULES["norm"], *RULES["activation"], *RULES["recurrence"], *RULES["cap"]]
_SHARES = dict.fromkeys(_FROZEN, 0) | dict.fromkeys(RULES["gate"], 1 / 2)
RULE_SETS = {  # MambaLRP (Jafari et al. 2024) carried over to this recurrence, and two for attention
    "AttnLRP": _SHARES | {"q": 1 / 4, "k": 1 / 4, "v": 1 / 2},  # see `gpt_neox`
    "CP-LRP": _SHARES | {"q": 0, "k": 0, "v": 1},
}
LEAKS = {"AttnLRP": softmax.leak}
LORA_TARGETS = ["linear_x", "linear_y", "q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "lm_head"]


def prepare(hf, readable: bool = False) -> None:
    """Our scan takes the place of transformers' loop over words."""
    for here in hf.model.layers:
        if hasattr(here.temporal_block, "rg_lru"):
            here.temporal_block.rg_lru._rnn_scan = _scan


def _scan(hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype=torch.float32) -> tuple:
    """transformers' `_rnn_scan`: states [batch pos channel], and the last one."""
    decay = wide(recurrent_gate * ~reset)
    before = None if recurrent_states is None else recurrent_states.to(decay.dtype)
    states = linear_scan(decay, hidden_states.to(decay.dtype), before)
    return states.to(hidden_states.dtype), states[:, -1]


def kind(model, layer: int) -> Kind:
    """Which of the two block `layer` is."""
    return ATTENTION if hasattr(model.model.layers[layer].temporal_block, "o_proj") else RECURRENCE


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here = model.model.layers[layer]
    if layer == 0:
        x = put("stream", x * model.model.normalizer.to(x.dtype))
    mix = _attention if kind(model, layer) is ATTENTION else _recurrence
    x = x + put("mixer", mix(here.temporal_block, norm(here.temporal_pre_norm, x, put), put))
    mlp, read = here.mlp_block, norm(here.channel_pre_norm, x, put)
    gate = put("mlp gate", activate(mlp.act_fn, mlp.gate_proj(read), put, "mlp slope"))
    return x + put("mlp", mlp.down_proj(gate * put("up", mlp.up_proj(read))))


def _recurrence(m, x: Tensor, put) -> Tensor:
    """What a recurrence m makes of the normed stream."""
    u, lru = wide(put("convolution", convolve(m.linear_x(x), m.conv_1d, put))), m.rg_lru

    def gate(weight: Tensor, bias: Tensor) -> Tensor:  # within blocks of channels
        blocks = u.unflatten(-1, bias.shape).unsqueeze(-2) @ wide(weight)
        return torch.sigmoid((blocks[..., 0, :] + bias).flatten(-2))

    i = put("input gate", gate(lru.input_gate_weight, lru.input_gate_bias))
    r = put("recurrence gate", gate(lru.recurrent_gate_weight, lru.recurrent_gate_bias))
    log_a = -8 * r * F.softplus(wide(lru.recurrent_param))
    first = torch.arange(x.shape[-2], device=x.device)[:, None] == 0
    k = torch.where(first, 1, torch.sqrt(1 - torch.exp(2 * log_a))) * i
    mixing = Recurrence(torch.ones_like(k)[..., None], k[..., None], torch.exp(log_a)[..., None], put=put)
    y = put("read-out", put("mixing", mixing)(u[..., None])[..., 0])
    gated = y * put("gate", activate(m.act_fn, m.linear_y(x), put, "gate slope"))
    return m.linear_out(gated.to(x.dtype))


def _attention(m, x: Tensor, put) -> Tensor:
    """What a local attention m makes of the normed stream."""
    q, k, v = (
        f(x).unflatten(-1, (-1, m.head_dim)).transpose(-2, -3) for f in (m.q_proj, m.k_proj, m.v_proj)
    )
    q, k, v = put("q", q), put("k", k), put("v", v)
    rotation = m.rotary_emb(x, torch.arange(x.shape[-2], device=x.device)[None])
    mixing = put("mixing", Local(*apply_rotary_pos_emb(q, k, *rotation), m.sliding_window))
    return m.o_proj(put("heads", mixing(v).transpose(-2, -3)).flatten(-2))


class Local(softmax.Attention):
    """Softmax attention to the last `window` words, the query among them."""

    def __init__(self, q: Tensor, k: Tensor, window: int) -> None:
        super().__init__(q, k)
        self.window = window

    @cached_property
    def pattern(self) -> Tensor:
        """A [... head query source], rows sum to 1."""
        pos, q = self.q.shape[-2], self.q / math.sqrt(self.q.shape[-1])
        near = torch.ones(pos, pos, dtype=torch.bool, device=q.device).tril().triu(1 - self.window)
        scores = (q @ self.k.mT).masked_fill(~near, -torch.inf)
        return torch.softmax(wide(scores), -1).to(q.dtype)

    def __call__(self, v: Tensor) -> Tensor:
        return self.pattern @ v.repeat_interleave(self._groups, -3)


def norm(module, x: Tensor, put=keep) -> Tensor:
    """RMSNorm whose weight is stored less one; its scale is a point."""
    return rms(x, 1 + module.weight, module.eps, put)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.model.final_norm, x, put)


def cap(model, logits: Tensor, put=keep) -> Tensor:
    """Logits [... vocab] within their bound."""
    return bound(logits, model.config.logits_soft_cap, put)


def tiny() -> RecurrentGemmaConfig:
    """A configuration for tests, whose window is shorter than they are."""
    return RecurrentGemmaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        attention_window_size=4,
        logits_soft_cap=1.0,
    )
