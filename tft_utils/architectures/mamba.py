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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MambaConfig

from tft_utils.architectures import Kind
from tft_utils.architectures import mamba_scan as scan
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
BLOCK = 16  # queries whose hidden attention is computed together
WORKSPACE = 2**19  # numbers in one scratch array: small enough to stay in the cache


def prepare(hf, readable: bool = False) -> None:
    """Puts our scan into every mixer: the fast one, or the loop whose steps nnsight can edit."""
    scan.install(hf, fast=not readable)
    if hf.dtype == torch.float64:
        for layer in hf.backbone.layers:
            layer.residual_in_fp32 = False  # it would round the residual stream down to float32


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here, past = model.backbone.layers[layer], past or {}
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


@dataclass(frozen=True)
class Scan:
    """The selective scan frozen on one input: a `Recurrence` whose decay differs in every entry.

    delta [... pos channel]; A [channel d_state]; B, C [... pos d_state]; past: the state before,
    [... channel d_state], sizes of leading axes 1 or equal.
    """

    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    past: Tensor | None = None
    put: object = keep

    @property
    def heads(self) -> int:
        return self.delta.shape[-1]

    def __call__(self, u: Tensor) -> Tensor:
        """y [... pos channel 1] for u [... pos channel 1]."""
        u = u[..., 0]
        if getattr(self.put, "stepwise", False):
            return self._step_by_step(u)[..., None]
        if self.past is not None and u.shape[-2] == 1:
            return self._one_step(u)[..., None]
        lead = u.shape[:-2]
        start = None if self.past is None else self.past.expand(*lead, -1, -1).flatten(0, -3)
        flat = (
            part.expand(*lead, *part.shape[-2:]).flatten(0, -3).mT
            for part in (u, self.delta, self.B, self.C)
        )
        u, delta, B, C = flat
        return scan.selective_scan(u, delta, self.A, B, C, initial_state=start).mT.unflatten(0, lead)[
            ..., None
        ]

    def _one_step(self, u: Tensor) -> Tensor:
        """y of one more word, in several variants of one past: the new states are never stored."""
        delta, B, C = self.delta[..., 0, :], self.B[..., 0, :], self.C[..., 0, :]
        kept = (delta[..., None] * self.A).exp_() * self.past  # [... channel d_state]
        y = (kept @ C[..., None].to(kept.dtype))[..., 0]
        return (y + delta * (B * C).sum(-1, keepdim=True) * u[..., 0, :])[..., None, :]

    def _step_by_step(self, u: Tensor) -> Tensor:
        """y [... pos channel]; `put` gets 'state', h_t, and 'carry', what step t + 1 takes."""
        h = u.new_zeros(*u.shape[:-2], *self.A.shape) if self.past is None else self.past
        outputs = []
        for t in range(u.shape[-2]):
            d = self.delta[..., t, :, None]
            h = torch.exp(d * self.A) * h + d * u[..., t, :, None] * self.B[..., t, None, :]
            h = self.put("state", h, t)
            outputs.append((h @ self.C[..., t, :, None])[..., 0])
            h = self.put("carry", h, t)
        return torch.stack(outputs, -2)

    def row(self, i: int, length: int) -> "Scan":
        """The first `length` positions of sequence i, as a batch of one."""
        delta, B, C = (part[i : i + 1, :length] for part in (self.delta, self.B, self.C))
        return Scan(delta, self.A, B, C)

    def weights(self, queries: Tensor, heads: list[int]) -> Tensor:
        """alpha [batch channel query source], for some queries and channels.

        alpha[e,t,s] = d_s[e] sum_n C_t[n] B_s[n] exp(A[e,n] (S_t[e] - S_s[e])), S_t = d_1 + ... + d_t.
        O(query pos channel d_state) time: matrix products but for the BLOCK next to the diagonal.
        """
        delta, A = wide(self.delta.detach()[..., heads]).transpose(1, 2), self.A.detach()[heads]
        steps = delta.double().cumsum(-1)  # S: in float32 its differences would lose digits
        alpha = delta.new_zeros(len(delta), len(heads), len(queries), delta.shape[-1])
        group = max(1, WORKSPACE // (delta.shape[-1] * A.shape[1]))
        for q in range(0, len(queries), BLOCK):
            for e in range(0, len(heads), group):
                part, some = slice(e, e + group), queries[q : q + BLOCK]
                self._fill(alpha[:, part, q : q + BLOCK], some, steps[:, part], delta[:, part], A[part])
        return alpha

    def _fill(self, alpha: Tensor, queries: Tensor, steps: Tensor, delta: Tensor, A: Tensor) -> None:
        """alpha of a few queries, written into [batch channel query source].

        Before the first query, exp(A (S_t - S_s)) = exp(A (S_t - r)) exp(A (r - S_s)) with r = S just
        before it: both exponents are negative, and the sum over n is a matrix product. From the
        first query on, it is taken literally.
        """
        B, C = wide(self.B.detach()), wide(self.C.detach())
        first, last = int(queries.min()), int(queries.max()) + 1

        def decay(gap: Tensor) -> Tensor:  # exp(A gap) [batch channel pos n]
            return (gap.to(A.dtype)[..., None] * A[:, None]).exp_()

        at = steps[..., queries]  # S_t [batch channel query]
        if first:
            r = steps[..., first - 1 : first]
            left = decay(at - r) * C[:, None, queries]  # [batch channel query n]
            right = decay(r - steps[..., :first]).mul_(B[:, None, :first])
            right *= delta[..., :first, None]  # [batch channel source n]
            alpha[..., :first] = left @ right.transpose(-1, -2)
        gap = (at[..., None] - steps[..., None, first:last]).clamp(min=0).to(A.dtype)
        CB = torch.einsum("btn,bsn->nbts", C[:, queries], B[:, first:last])
        CB *= queries[:, None] >= torch.arange(first, last, device=queries.device)
        near = alpha[..., first:last]
        for n in range(A.shape[1]):
            near += torch.exp(gap * A[:, n, None, None]).mul_(CB[n][:, None])
        near *= delta[..., None, first:last]
