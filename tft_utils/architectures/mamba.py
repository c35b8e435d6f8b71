"""Mamba (Gu & Dao 2023): a selective state-space layer behind a short convolution, and no MLP."""

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from tft_utils.architectures import mamba_scan as scan

BLOCK = 16  # queries whose hidden attention is computed together
WORKSPACE = 2**19  # numbers in one scratch array: small enough to stay in the cache
_kept = threading.local()  # each thread's scratch array


def prepare(hf, readable: bool) -> None:
    """Puts our scan into every mixer: the fast one, or the loop whose steps nnsight can edit."""
    scan.install(hf, fast=not readable)
    if hf.dtype == torch.float64:
        for block in blocks(hf):
            block.residual_in_fp32 = False  # it would round the residual stream down to float32


def embedding(model):
    return model.backbone.embeddings


def blocks(model):
    return model.backbone.layers


def mixer(block):
    return block.mixer


def final_norm(model):
    return model.backbone.norm_f


def unembedding(model):
    return model.lm_head


def state(cache, layer: int) -> dict[str, Tensor]:
    """The compressed past, the same size at every length: the recurrent state
    [batch d_inner d_state] and the convolution's last inputs [batch d_inner d_conv]."""
    part = cache.layers[layer]
    return {"ssm": part.recurrent_states[0], "conv": part.conv_states[0]}


# ---- one more word, in many variants: `tft_utils.techniques.steering` ---------------------------------------

CACHE = "cache_params"
COMPRESSED = ("ssm", "conv")


def step(model, layer: int, x: Tensor, past: dict[str, Tensor], mask: Tensor) -> Tensor:
    """One step of the recurrence for every variant; the new states themselves are never stored."""
    block = blocks(model)[layer]
    m = mixer(block)
    u, z = m.in_proj(block.norm(x.to(block.norm.weight.dtype))).chunk(2, -1)
    taps = m.conv1d.weight[:, 0]  # the last one meets the present; the oldest input has left
    c = (past["conv"][..., 1:] * taps[:, :-1]).sum(-1) + u * taps[:, -1]
    u = m.act(c if m.conv1d.bias is None else c + m.conv1d.bias)
    raw, B, C = m.x_proj(u).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], -1)
    delta = F.softplus(m.dt_proj(raw).to(m.A_log.dtype))
    kept = (delta[..., None] * -torch.exp(m.A_log)).exp_() * past["ssm"]  # [... d_inner d_state]
    y = (kept @ C[..., None].to(kept.dtype))[..., 0]
    y = y + (delta * (B * C).sum(-1, keepdim=True) + m.D) * u
    return x + m.out_proj((y * m.act(z)).to(m.out_proj.weight.dtype))


# ---- what positions exchange: `tft_utils.techniques.attention` --------------------------------------------


def output_projection(mixer):
    return mixer.out_proj


def units(mixer) -> int:
    return mixer.intermediate_size


@dataclass(frozen=True)
class Mixing:
    """The attention hidden in one Mamba layer, on one input (Ali et al. 2024, arXiv 2403.01590).

    Symbols as in `tft_utils.architectures.mamba_scan`; x is what the convolution reads, c what it gives, sigma =
    sigmoid(c), and u = SiLU(c) = sigma c. Unrolling the recurrence gives, for s <= t,

        alpha[e,t,s] = d_s[e] sum_n C_t[n] B_s[n] exp(A[e,n] (S_t[e] - S_s[e])),  S_t = d_1 + ... + d_t

    and three nested levels, the last after Zimerman et al. (2024, arXiv 2405.16504):

        scan        y_t = sum_s alpha[t,s] u_s
        skip        y_t = sum_s (alpha[t,s] + D 1{s=t}) u_s
        operator    SiLU(z_t) y_t = sum_k alpha_hat[t,k] x_k + constant, where, with w_j the
                    convolution's weight j steps back,
                    alpha_hat[t,k] = SiLU(z_t) sum_j (alpha[t,k+j] + D 1{k+j=t}) sigma_{k+j} w_j

    d, B, C, sigma and the gate are frozen at their values on this input: a level is exact for it,
    and is no derivative. A channel's matrix takes 4 L^2 bytes; those of all channels exist at once
    only if `weights` is asked for all of them.
    """

    x: Tensor  # [batch pos channel], as are u, sigma, gate = SiLU(z) and delta = d
    u: Tensor
    sigma: Tensor
    gate: Tensor
    delta: Tensor
    A: Tensor  # [channel d_state]
    B: Tensor  # [batch pos d_state]
    C: Tensor  # [batch pos d_state]
    D: Tensor  # [channel]
    taps: Tensor  # w_j [step channel]
    conv_bias: Tensor  # [channel]
    projection: Tensor  # W_out of every channel [channel 1 d_model]
    bias: Tensor  # [d_model]

    unit: ClassVar[str] = "channel"
    levels: ClassVar[tuple[str, ...]] = ("scan", "skip", "operator")
    normalised: ClassVar[bool] = False

    @property
    def spread(self) -> int:
        """How many positions after a word's own hold its value too: the convolution's reach."""
        return len(self.taps) - 1

    def row(self, i: int, length: int) -> "Mixing":
        """The first `length` positions of sequence i, as a batch of one."""
        per_position = ("x", "u", "sigma", "gate", "delta", "B", "C")
        return replace(self, **{name: getattr(self, name)[i : i + 1, :length] for name in per_position})

    def weights(
        self, level: str = "operator", queries: Tensor | None = None, units: list[int] | None = None
    ) -> Tensor:
        """A level's matrix [batch channel query source], for some queries and channels (None: all).

        O(query pos channel d_state) time: matrix products but for the BLOCK next to the diagonal.
        """
        if queries is None:
            queries = torch.arange(self.x.shape[1], device=self.x.device)
        units = slice(None) if units is None else units
        found = self._alpha(queries, units)
        if level == "scan":
            return found
        at = torch.arange(len(queries), device=queries.device)
        found[:, :, at, queries] += self.D[units, None]
        if level == "skip":
            return found
        if level != "operator":
            raise ValueError(f"expected a level, one of {', '.join(self.levels)}; found {level!r}")
        found *= self.sigma[..., units].transpose(1, 2)[:, :, None]
        taps = self.taps[:, units, None, None]
        operator = found * taps[0]
        for j in range(1, len(taps)):
            operator[..., :-j].addcmul_(found[..., j:], taps[j])
        return operator.mul_(self.gate[:, queries][..., units].transpose(1, 2)[..., None])

    def _alpha(self, queries: Tensor, units: slice | list[int]) -> Tensor:
        """alpha [batch channel query source], a block of queries and a group of channels at a time."""
        delta, A = self.delta[..., units].transpose(1, 2), self.A[units]  # [batch channel pos]
        steps = delta.double().cumsum(-1)  # S: in float32 its differences would lose digits
        batch, channels, pos = delta.shape
        found = delta.new_zeros(batch, channels, len(queries), pos)
        group = max(1, WORKSPACE // (pos * A.shape[1]))
        for q in range(0, len(queries), BLOCK):
            for e in range(0, channels, group):
                part = slice(e, e + group)
                self._fill(
                    found[:, part, q : q + BLOCK],
                    queries[q : q + BLOCK],
                    steps[:, part],
                    delta[:, part],
                    A[part],
                )
        return found

    def _fill(self, found: Tensor, queries: Tensor, steps: Tensor, delta: Tensor, A: Tensor) -> None:
        """alpha of a few queries into found [batch channel query source].

        Before the first query, exp(A (S_t - S_s)) = exp(A (S_t - r)) exp(A (r - S_s)) with r = S just
        before it: both exponents are negative, and the sum over n is a matrix product. From the
        first query on, it is taken literally.
        """
        first, last = int(queries.min()), int(queries.max()) + 1
        at = steps[..., queries]  # S_t [batch channel query]
        if first:
            r = steps[..., first - 1 : first]
            left = _decay(at - r, A) * self.C[:, None, queries]  # [batch channel query n]
            right = _decay(r - steps[..., :first], A).mul_(self.B[:, None, :first])
            right *= delta[..., :first, None]  # [batch channel source n]
            found[..., :first] = left @ right.transpose(-1, -2)
        gap = (at[..., None] - steps[..., None, first:last]).clamp(min=0).to(A.dtype)
        CB = torch.einsum("btn,bsn->nbts", self.C[:, queries], self.B[:, first:last])
        CB *= queries[:, None] >= torch.arange(first, last, device=queries.device)
        near = found[..., first:last]
        for n in range(A.shape[1]):
            near += torch.exp(gap * A[:, n, None, None]).mul_(CB[n][:, None])
        near *= delta[..., None, first:last]

    def values(self, level: str = "operator", units: list[int] | None = None) -> Tensor:
        """What the level's matrix multiplies [batch channel source 1]: u, or x for 'operator'."""
        found = (self.x if level == "operator" else self.u).transpose(1, 2)[..., None]
        return found if units is None else found[:, units]

    def mix(self, values: Tensor) -> Tensor:
        """alpha applied to any u [batch channel source 1], in time linear in the length."""
        y = scan.selective_scan(
            values[..., 0],
            self.delta.transpose(1, 2),
            self.A,
            self.B.transpose(1, 2),
            self.C.transpose(1, 2),
        )
        return y[..., None]

    def read_out(self, mixed: Tensor) -> Tensor:
        """Mixed values [batch channel pos 1] as a change of the mixer's output, without bias."""
        return (mixed[..., 0].transpose(1, 2) * self.gate) @ self.projection[:, 0]

    def constant(self) -> Tensor:
        """The part of the output that no x_k makes [batch pos d_model]: from the biases."""
        u = (self.sigma * self.conv_bias).transpose(1, 2)[..., None]
        return self.read_out(self.mix(u) + self.D[:, None, None] * u) + self.bias

    def project(self, direction: Tensor) -> Tensor:
        """Each source's contribution along a direction [d_model]: signed [batch query source].

        It is the direction times W_out alpha_hat x, without any channel's own matrix.
        """
        read = self.gate * (self.projection[:, 0] @ direction)
        batch, pos, _ = self.x.shape
        found = self.x.new_zeros(batch, pos, pos)
        for j, tap in enumerate(self.taps[:pos]):
            # Tap j brings x_{s-j} into u_s: column s of its map belongs to source s - j.
            write = self.sigma * tap * F.pad(self.x, (0, 0, j, 0))[:, :pos]
            columns = self.summed(read, write)
            columns.diagonal(dim1=1, dim2=2).add_((read * self.D * write).sum(-1))
            found[..., : pos - j] += columns[..., j:]
        return found

    def summed(self, read: Tensor, write: Tensor) -> Tensor:
        """sum_e read_t[e] alpha[e,t,s] write_s[e], all rows at once: [batch query source].

        read, write [batch pos channel]. `_join` does it by matrix products, in three scratch arrays
        of WORKSPACE numbers, or of one channel's [pos d_state] where that is more.
        """
        (batch, pos, channels), d_state = read.shape, self.A.shape[1]
        found = read.new_zeros(batch, pos, pos)
        group = max(1, min(channels, WORKSPACE // (pos * d_state)))
        scratch = _scratch(read, 3, pos * group * d_state)
        for b in range(batch):
            delta, B, C, r = self.delta[b], self.B[b], self.C[b], read[b]
            w, width = delta * write[b], 0
            found[b].diagonal().copy_((B * C).sum(-1) * (r * w).sum(-1))
            for e in range(0, channels, group):
                A, part = self.A[e : e + group], slice(e, e + group)
                if len(A) != width:  # the first group, and a smaller last one
                    width = len(A)
                    left, right, decay = scratch[:, : pos * A.numel()].view(3, pos, *A.shape)
                    levels = _levels(found[b], left.flatten(1), right.flatten(1), decay.flatten(1))
                torch.mul(delta[:, part, None], A, out=decay).exp_()
                torch.mul(w[:, part, None], B[:, None], out=right)
                torch.mul(r[:, part, None], C[:, None], out=left).mul_(decay)
                _join(levels)
        return found


def _scratch(like: Tensor, *shape: int) -> Tensor:
    """An array to work in, kept for this thread's next call: fresh memory costs as much time as the
    arithmetic."""
    n, kept = math.prod(shape), getattr(_kept, "array", None)
    if kept is None or len(kept) < n or (kept.dtype, kept.device) != (like.dtype, like.device):
        _kept.array = kept = like.new_empty(n)
    return kept[:n].view(shape)


def _decay(steps: Tensor, A: Tensor) -> Tensor:
    """exp(A S) for steps S [batch channel pos], in A's precision: [batch channel pos n]."""
    return (steps.to(A.dtype)[..., None] * A[:, None]).exp_()


def _levels(found: Tensor, left: Tensor, right: Tensor, decay: Tensor) -> list[tuple]:
    """What `_join` works on, as views that last as long as the arrays do.

    For blocks of 1, 2, 4, ... positions: the joins of two neighbours, then the blocks' decays that
    become those of twice as long blocks. A join has the part of found [query source pair] it fills,
    left of the second and right of the first block [pair pos k], and the decay of each [pair 1 k].
    """
    pos, half, levels = len(left), 1, []
    while half < pos:
        whole, joins = 2 * half, []
        paired = pos // whole * whole
        for lo, hi, pairs in ((0, paired, paired // whole), (paired, pos, 1)):
            if hi - lo <= half:
                continue  # no pair, or a last block without a partner
            second = left[lo:hi].unflatten(0, (pairs, -1))[:, half:]
            first = right[lo:hi].unflatten(0, (pairs, -1))[:, :half]
            blocks = found[lo:hi, lo:hi].unflatten(1, (pairs, -1)).unflatten(0, (pairs, -1))
            blocks = blocks[:, half:, :, :half].diagonal(dim1=0, dim2=2)
            both = decay[lo // half : lo // half + 2 * pairs].unflatten(0, (pairs, 2, 1))
            joins.append((blocks, second, first, both[:, 0], both[:, 1]))
        levels.append((joins, decay[: len(decay) // 2 * 2 : 2], decay[1::2]))
        decay, half = decay[::2], whole
    return levels


def _join(levels: list[tuple]) -> None:
    """Adds left_t (decay_{t-1} ... decay_{s+1}) . right_s to found[t, s], wherever s < t.

    Rows of one block and columns of the block before it make a matrix product once left_t holds the
    decays since its block began and right_s those until its block ended. So each join extends both
    by the other block's decay, for the next level. Nothing is divided, so nothing overflows.
    """
    for joins, decay, odd in levels:
        for blocks, second, first, decay_first, decay_second in joins:
            blocks += torch.bmm(second, first.transpose(1, 2)).permute(1, 2, 0)
            if joins is not levels[-1][0]:
                second *= decay_first
                first *= decay_second
        decay *= odd


def mixing(mixer) -> Mixing:
    """What this Mamba layer does in the trace it is called in."""
    pos = mixer.in_proj.output.shape[1]
    x, z = wide(mixer.in_proj.output).chunk(2, -1)
    rank, d_state = mixer.time_step_rank, mixer.ssm_state_size
    step, B, C = wide(mixer.x_proj.output).split([rank, d_state, d_state], -1)
    taps = wide(mixer.conv1d.weight)[:, 0].flip(-1).T  # the last weight meets the present
    conv_bias = mixer.conv1d.bias
    conv_bias = taps.new_zeros(taps.shape[1]) if conv_bias is None else wide(conv_bias)
    c = conv_bias + sum(w * F.pad(x, (0, 0, j, 0))[:, :pos] for j, w in enumerate(taps))
    projection, bias = wide(mixer.out_proj.weight), mixer.out_proj.bias
    bias = projection.new_zeros(len(projection)) if bias is None else wide(bias)
    return Mixing(
        x=x,
        u=F.silu(c),
        sigma=torch.sigmoid(c),
        gate=F.silu(z),
        delta=F.softplus(step @ wide(mixer.dt_proj.weight).T + wide(mixer.dt_proj.bias)),
        A=-torch.exp(mixer.A_log.detach().float()).to(x.dtype),
        B=B,
        C=C,
        D=wide(mixer.D),
        taps=taps,
        conv_bias=conv_bias,
        projection=projection.T[:, None],
        bias=bias,
    )


def wide(x: Tensor) -> Tensor:
    """x in float32 at least, as transformers' scan computes, cut off from gradients."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


# ---- one block, open to edits: `tft_utils.techniques.patching`, `tft_utils.techniques.editing` ---------------------------

COMPONENTS = ("convolution", "step size", "B", "C", "read-out", "gate", "mixer")
STEPWISE = ("state", "carry")  # h_t [batch channel d_state]: what y_t reads; what step t + 1 takes


def run_block(model, layer: int, x: Tensor, put: Callable, stepwise: bool = False) -> Tensor:
    """Convolution is u, with its SiLU; step size is delta; read-out is y before D and the gate."""
    block = blocks(model)[layer]
    m, pos = mixer(block), x.shape[1]
    read, z = m.in_proj(block.norm(x.to(block.norm.weight.dtype))).chunk(2, -1)
    taps = m.conv1d.weight[:, 0].flip(-1).T  # the last weight meets the present
    c = sum(w * F.pad(read, (0, 0, j, 0))[:, :pos] for j, w in enumerate(taps))
    u = put("convolution", m.act(c if m.conv1d.bias is None else c + m.conv1d.bias))
    raw, B, C = m.x_proj(u).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], -1)
    delta = put("step size", F.softplus(F.linear(raw, m.dt_proj.weight, m.dt_proj.bias)))
    B, C, A = put("B", B), put("C", C), -torch.exp(m.A_log.float())
    if stepwise:
        y = _steps(u, delta, A, B, C, put)
    else:
        y = scan.selective_scan(*(each.mT for each in (u, delta)), A, B.mT, C.mT).mT
    y = put("read-out", y) + m.D * u
    gated = (y * put("gate", m.act(z))).to(m.out_proj.weight.dtype)
    return put("mixer", m.out_proj(gated)) + x


def _steps(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, put: Callable) -> Tensor:
    """The scan, one step at a time: y [batch pos channel]."""
    h, outputs = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        d = delta[:, t, :, None]
        h = put("state", torch.exp(d * A) * h + d * u[:, t, :, None] * B[:, t, None], t)
        outputs.append((h @ C[:, t, :, None])[..., 0])
        h = put("carry", h, t)
    return torch.stack(outputs, 1)


def memory(block) -> Module:
    """The output projection: Sharma et al. 2024, whose best layers are those of this matrix."""
    return mixer(block).out_proj


# ---- relevance: `tft_utils.techniques.relevance` ----------------------------------------------------------

RULES = ("norm", "activation", "scan", "gate")
RULE_SETS = {  # name -> of the product of scan and gate, the scan's share at earlier words and the last
    "MambaLRP": (0.5, 0.5),  # one half each, the uniform rule: Jafari et al. 2024
    "gate-detach": (1.0, 1.0),  # all of it to the scan's output: the gate is a constant
    # Words keep what they make of the words before them, and the last word, which asks, passes on
    # all that it reads. Right only where it reads the causes itself, without a word between.
    "direct": (0.0, 1.0),
}


def relevance_rules(model, name: str, without: Collection[str]) -> list[tuple[Module, Callable]]:
    """(module, what runs in place of its forward) for the rules of a set, those `without` left out."""
    norms = [final_norm(model), *(block.norm for block in blocks(model))]
    forward = partial(_mixer_rule, RULE_SETS[name], frozenset(without))
    return [(norm, _norm_rule) for norm in norms if "norm" not in without] + [
        (mixer(block), forward) for block in blocks(model)
    ]


def relevance_leak(name: str) -> Callable | None:
    """What a set's relevance loses in a mixer: nothing, each of its rules conserves."""
    return None


def _norm_rule(norm, x: Tensor) -> Tensor:
    """RMSNorm whose scale is a constant: linear in x. Computes in float32, as the norm does."""
    wide = x.to(torch.float32)
    variance = wide.detach().square().mean(-1, keepdim=True)
    return norm.weight * (wide * torch.rsqrt(variance + norm.variance_epsilon)).to(x.dtype)


def _silu(x: Tensor, ruled: bool) -> Tensor:
    """SiLU; by the identity rule x times the constant sigmoid(x)."""
    return x * torch.sigmoid(x).detach() if ruled else F.silu(x)


def _mixer_rule(
    shares: tuple[float, float],
    without: frozenset[str],
    mixer,
    hidden_states: Tensor,
    cache_params=None,
    attention_mask: Tensor | None = None,
    **unused,
) -> Tensor:
    """The mixer as a linear map of its input plus its convolution's bias."""
    if cache_params is not None:
        raise ValueError(
            "expected a run without a cache under relevance rules, found one; pass use_cache=False"
        )
    dtype, ruled = hidden_states.dtype, "activation" not in without
    if attention_mask is not None:
        hidden_states = hidden_states * attention_mask[..., None].to(dtype)
    x, z = mixer.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
    c = F.conv1d(
        F.pad(x, (mixer.conv_kernel_size - 1, 0)),
        mixer.conv1d.weight,
        mixer.conv1d.bias,
        groups=mixer.intermediate_size,
    )
    u = _silu(c, ruled)  # [batch channel pos]
    if attention_mask is not None:
        u = u * attention_mask[:, None].to(dtype)
    selected = mixer.x_proj(u.transpose(1, 2))
    step, B, C = selected.split([mixer.time_step_rank] + 2 * [mixer.ssm_state_size], dim=-1)
    step = F.linear(step, mixer.dt_proj.weight, mixer.dt_proj.bias)
    A, D = -torch.exp(mixer.A_log.float()), mixer.D.float()
    if "scan" not in without:  # what the scan selects with is constant, so it is linear in u
        step, A, B, C = step.detach(), A.detach(), B.detach(), C.detach()
    y = scan.selective_scan(
        u, step.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), D, delta_softplus=True
    )
    gate = _silu(z, ruled)
    if "gate" in without:
        product = y * gate
    else:
        earlier, last = shares
        share = y.new_full(y.shape[-1:], earlier)  # [pos]; padding is on the left
        share[-1] = last
        product = y * (share * gate).detach() + gate * ((1 - share) * y).detach()
    return mixer.out_proj(product.transpose(1, 2).to(dtype))


# ---- fine-tuning: `tft_utils.organisms.quirky` -----------------------------------------------------------

# transformers reads dt_proj's weight past the module, so an adapter there would do nothing; peft
# refuses out_proj, whose weight fused kernels read in the same way.
LORA_TARGETS = ["in_proj", "x_proj", "lm_head"]
