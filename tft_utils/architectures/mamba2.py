"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): heads with one decay each behind a convolution, no MLP.

    u_t  input of a head [head_dim]        S_t  its state [d_state head_dim]
    d_t  its step size, > 0                a    its decay rate, < 0: one number a head
    B_t  write vector, C_t  read vector [d_state], shared by the heads of a group
    D    its skip weight                   z_t  before the gate [channel]

    S_t = exp(d_t a) S_{t-1} + d_t B_t u_t^T        y_t = C_t S_t + D u_t        (sections 2.4 and 6)

A block, in order (Figure 6, right):
    1. RMSNorm, then z, (u, B, C) and d in one product
    2. SiLU(short convolution) of u, B and C
    3. the recurrence of every head, and its skip
    4. times the gate SiLU(z), then RMSNorm within each group
    5. project, add to the stream
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Mamba2Config

from tft_utils.architectures import Kind
from tft_utils.architectures.recurrent import Mixing, Recurrence, convolve, keep, rms, silu, wide

WHERE = {
    "embedding": "backbone.embeddings",
    "blocks": "backbone.layers",
    "final_norm": "backbone.norm_f",
    "unembedding": "lm_head",
}
CACHE = "cache_params"
KIND = Kind(
    mixer="mixer",
    output="out_proj",
    memory="mixer.out_proj",
    units="intermediate_size",
    mixing=Mixing,
    components=("convolution", "step size", "B", "C", "read-out", "gate", "mixer"),
    stepwise=(
        "state",
        "carry",
    ),  # S_t [batch head d_state head_dim]: what y_t reads; what step t + 1 takes
    compressed=("ssm", "conv"),
)
RULES = {
    "norm": ("scale",),
    "activation": ("slope", "gate slope"),
    "scan": ("step size", "B", "C", "rate"),
    "gate": ("mixed", "gate"),
}
RULE_SETS = {  # MambaLRP's rules (Jafari et al. 2024), which say nothing of how many heads there are
    "MambaLRP": {"scale": 0, "slope": 0, "gate slope": 0, "step size": 0, "B": 0, "C": 0, "rate": 0}
    | {"mixed": 1 / 2, "gate": 1 / 2}
}
LORA_TARGETS = [
    "in_proj",
    "lm_head",
]  # peft refuses out_proj, whose weight fused kernels read past the module


def prepare(hf, readable: bool = False) -> None:
    """A stream in float64 stays in float64."""
    for layer in hf.backbone.layers:
        layer.residual_in_fp32 = layer.residual_in_fp32 and hf.dtype != torch.float64


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here, past = model.backbone.layers[layer], past or {}
    m = here.mixer
    groups, entries = m.n_groups * m.ssm_state_size, (m.n_groups, -1)
    z, uBC, raw = m.in_proj(rms(x, here.norm.weight, here.norm.variance_epsilon, put)).split(
        [m.intermediate_size, m.conv_dim, m.num_heads], -1
    )
    uBC, slope = _convolved(uBC, m, put, past.get("conv"))
    u, B, C = wide(uBC * slope).split([m.intermediate_size, groups, groups], -1)
    u = put("convolution", u).unflatten(-1, (m.num_heads, m.head_dim))
    shared = m.num_heads // m.n_groups
    B, C = (
        put(name, v.unflatten(-1, entries).repeat_interleave(shared, -2))
        for name, v in (("B", B), ("C", C))
    )
    delta = put("step size", F.softplus(wide(raw) + m.dt_bias).clamp(*m.time_step_limit))[..., None]
    decay = torch.exp(delta * put("rate", -torch.exp(wide(m.A_log)))[:, None])
    mixing = put("mixing", Recurrence(C, delta * B, decay, past=past.get("ssm"), put=put))
    skip = put("skip", m.D.repeat_interleave(m.head_dim))
    y = put("mixed", put("read-out", mixing(u)).flatten(-2) + skip * u.flatten(-2))
    gated = y * put("gate", silu(z, put, "gate slope"))
    scale = torch.rsqrt(
        gated.unflatten(-1, entries).square().mean(-1, keepdim=True) + m.norm.variance_epsilon
    )
    scale = (put("scale", scale) * m.norm.weight.view(m.n_groups, -1)).flatten(-2)
    return put("mixer", m.out_proj((gated * put("gated scale", scale)).to(m.out_proj.weight.dtype))) + x


def _convolved(uBC: Tensor, m, put, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """The convolution of u, B and C together, and the slope of its SiLU; points hold those of u alone."""
    channels = m.intermediate_size

    def of_u(name: str, value: Tensor) -> Tensor:
        return torch.cat([put(name, value[..., :channels]), value[..., channels:]], -1)

    c = convolve(uBC, m.conv1d, of_u, past)
    slope = put("slope", torch.sigmoid(c[..., :channels]))
    return c, torch.cat([slope, put("slope of B and C", torch.sigmoid(c[..., channels:]))], -1)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    norm = model.backbone.norm_f
    return rms(x, norm.weight, norm.variance_epsilon, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """The compressed past: the recurrent state [batch head d_state head_dim] and the convolution's last
    inputs [batch channel tap], of u, B and C."""
    part = cache.layers[layer]
    return {"ssm": part.recurrent_states[0].mT, "conv": part.conv_states[0]}


def tiny() -> Mamba2Config:
    """A configuration for tests."""
    return Mamba2Config(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        expand=2,
        chunk_size=4,
    )
