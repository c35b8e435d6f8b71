"""Mamba (Gu & Dao 2023): a selective state-space layer behind a short convolution, and no MLP.

    x_t  input of the convolution [channel]     h_t  state [channel d_state]
    u_t  input of the scan [channel]            d_t  step size [channel], > 0
    z_t  before the gate [channel]              A    decay rate [channel d_state], < 0
    B_t  write vector, C_t  read vector [d_state]   D  skip weight [channel]

    h_t = exp(d_t A) h_{t-1} + d_t u_t B_t          y_t = C_t h_t + D u_t          (eq. 2a, 2b)

A block, in order (Figure 3):
    1. RMSNorm, then x and z in one product
    2. u = SiLU(short convolution of x)
    3. d, B and C from u: this is the selection
    4. the scan, the skip, times the gate SiLU(z)
    5. project, add to the stream
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MambaConfig

from tft_utils.architectures import Kind
from tft_utils.architectures.mamba_scan import Scan, install
from tft_utils.architectures.recurrent import Mixing, convolve, keep, rms, silu, wide

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
    memory="mixer.out_proj",  # Sharma et al. 2024, arXiv 2404.03646
    units="intermediate_size",
    mixing=Mixing,
    components=("convolution", "step size", "B", "C", "read-out", "gate", "mixer"),
    stepwise=("state", "carry"),  # h_t [batch channel d_state]: what y_t reads; what step t + 1 takes
    compressed=("ssm", "conv"),
)
RULES = {
    "norm": ("scale",),
    "activation": ("slope", "gate slope"),
    "scan": ("step size", "B", "C", "rate"),
    "gate": ("mixed", "gate"),
}
_FROZEN = {"scale": 0, "slope": 0, "gate slope": 0, "step size": 0, "B": 0, "C": 0, "rate": 0}
RULE_SETS = {  # the shares of the product of scan and gate
    "MambaLRP": _FROZEN
    | {"mixed": 1 / 2, "gate": 1 / 2},  # uniform: Jafari et al. 2024, arXiv 2406.07592
    "gate-detach": _FROZEN | {"mixed": 1, "gate": 0},  # the gate is a constant
    # Words keep what they make of the words before them, and the last word, which asks, passes on
    # all that it reads. Right only where it reads the causes itself, without a word between.
    "direct": _FROZEN | {"mixed": (0, 1), "gate": (1, 0)},
}
# transformers reads dt_proj's weight past the module, so an adapter there would do nothing; peft
# refuses out_proj, whose weight fused kernels read in the same way.
LORA_TARGETS = ["in_proj", "x_proj", "lm_head"]


def prepare(hf, readable: bool = False) -> None:
    """Puts our scan into every mixer: the fast one, or the loop whose steps nnsight can edit."""
    install(hf, fast=not readable)
    if hf.dtype == torch.float64:
        for layer in hf.backbone.layers:
            layer.residual_in_fp32 = False  # it would round the residual stream down to float32


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here, past = model.backbone.layers[layer], past or {}
    if put is keep and not past and x.dim() == 3:  # nobody looks: transformers' module, on our fused scan
        return here(x).to(x.dtype)
    m = here.mixer
    read, z = m.in_proj(rms(x, here.norm.weight, here.norm.variance_epsilon, put)).chunk(2, -1)
    u = put("convolution", silu(convolve(read, m.conv1d, put, past.get("conv")), put))
    raw, B, C = m.x_proj(u).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], -1)
    delta = put("step size", F.softplus(F.linear(raw, m.dt_proj.weight, m.dt_proj.bias)))
    B, C, A = put("B", B), put("C", C), put("rate", -torch.exp(wide(m.A_log)))
    mixing = put("mixing", Scan(delta, A, B, C, past.get("ssm"), put))
    y = put("mixed", put("read-out", mixing(u[..., None])[..., 0]) + put("skip", m.D) * u)
    gated = y * put("gate", silu(z, put, "gate slope"))
    return put("mixer", m.out_proj(gated.to(m.out_proj.weight.dtype))) + x


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    norm = model.backbone.norm_f
    return rms(x, norm.weight, norm.variance_epsilon, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """The compressed past, the same size at every length: the recurrent state
    [batch channel d_state] and the convolution's last inputs [batch channel tap]."""
    part = cache.layers[layer]
    return {"ssm": part.recurrent_states[0], "conv": part.conv_states[0]}


def tiny() -> MambaConfig:
    """A configuration for tests."""
    return MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3, state_size=8, time_step_rank=4)
