"""Mamba's selective scan: exact, fast on CPU, differentiable, continued from any state.

Symbols (Gu & Dao 2023, "Mamba", eq. 2a-2b and Algorithm 2), for batch b, channel e of d_inner,
position t, state entry n of d_state:

    u_t[e]  input of the recurrence     B_t[n]  write vector     h_t[e,n]  state ("memory")
    d_t[e]  step size Delta, d > 0      C_t[n]  read vector      y_t[e]    output
    A[e,n]  decay rate, A < 0           D[e]    skip weight      z_t[e]    gate

Forward, with a_t = exp(d_t A) (zero-order hold for A, Euler for B, as in the official code):

    h_t = a_t h_{t-1} + d_t u_t B_t           y_t = sum_n C_t h_t   (+ D u_t, times SiLU(z_t))

Backward. Write r_t = dL/dy_t (given) and g_t = dL/dh_t through every path. h_t is read by y_t and
by h_{t+1}, so

    g_t = C_t r_t + a_{t+1} g_{t+1}           where dL/dh_T of the last state stands for the
                                              missing a_{T+1} g_{T+1}

and differentiating the forward line, with w_t = g_t a_t h_{t-1} (what flows into exponent d_t A):

    dL/dC_t[n] = sum_e r_t h_t                dL/dB_t[n] = sum_e g_t d_t u_t
    dL/du_t[e] = d_t sum_n g_t B_t            dL/dd_t[e] = u_t sum_n g_t B_t + sum_n w_t A
    dL/dA[e,n] = sum_{b,t} w_t d_t            dL/dh_0    = a_1 g_1

What stands around the recurrence, out_t = (y_t + D u_t) SiLU(z_t) and d_t = softplus(raw_t + bias),
is part of the same pass. With R_t = dL/dout_t and s = sigmoid(z_t), SiLU'(z) = s (1 + z (1 - s)), so

    r_t = R_t z_t s                           dL/dz_t = R_t (y_t + D u_t) s (1 + z_t (1 - s))
    dL/dD = sum_{b,t} r_t u_t                 dL/draw_t = dL/dd_t sigmoid(raw_t + bias)
    dL/du_t gains D r_t                       dL/dbias = sum_{b,t} dL/draw_t

The same for the convolution before it, u = SiLU(c) with c_t = b + sum_k w_k x_{t-3+k}: with q = dL/dc,
dL/dw_k = sum_{b,t} q_t x_{t-3+k}, dL/db = sum_{b,t} q_t and dL/dx_t = sum_k w_k q_{t+3-k}. The backward
needs every h_t: the forward keeps one state per CHUNK steps and the backward recomputes the others
chunk by chunk, last chunk first, so no [b t e n] tensor of the whole sequence ever exists.

Two cores do this arithmetic: plain PyTorch on any device (it leaves the convolution to
transformers) and, on CPU, `mamba_kernels`, compiled by numba, when it is there. Neither can be
differentiated twice, so a backward with `create_graph` runs through readable PyTorch (`_again`).
`selective_scan_loop` is the readable version, whose named lines nnsight reads and edits (`TAPS`).
`install` puts either into a transformers Mamba.
"""

import importlib
import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from operator import attrgetter
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.architectures.recurrent import keep, wide

try:
    from tft_utils.architectures import mamba_kernels as kernels
except ImportError:  # no numba: the plain PyTorch core needs nothing
    kernels = None

CHUNK = 16  # steps between stored states: with d_state 16 they take the memory of one more u
BLOCK = 16  # positions whose hidden attention is computed together
WORKSPACE = 2**19  # numbers in one scratch array: small enough to stay in the cache


# ---- the pure functions -------------------------------------------------------------------------


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    initial_state=None,
):
    """Fast exact scan; computes in float32, or float64 if any input is; y has the dtype of u.

    u, delta, z [batch d_inner pos]; A [d_inner d_state]; B, C [batch d_state pos];
    D, delta_bias [d_inner]; initial_state [batch d_inner d_state], zeros if None.
    Returns y [batch d_inner pos], or (y, last_state [batch d_inner d_state]).
    """
    h0 = _first_state(u, delta, A, B, C, D, z, delta_bias, initial_state)
    D, bias = (h0.new_zeros(len(A)) if x is None else x.to(h0.dtype) for x in (D, delta_bias))
    # Channels last from here on, so that every loop below runs over contiguous memory.
    *inputs, h0 = (x.to(h0.dtype).mT.contiguous() for x in (u, delta, A, B, C, h0))
    z = None if z is None else z.to(h0.dtype).mT
    y, last = _Scan.apply(*inputs, D.contiguous(), z, bias.contiguous(), h0, delta_softplus)
    y = y.mT.to(u.dtype)
    return (y, last.mT) if return_last_state else y


def selective_scan_loop(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    initial_state=None,
):
    """Readable scan: same arguments and result as `selective_scan`, one named line each (TAPS)."""
    state = _first_state(u, delta, A, B, C, D, z, delta_bias, initial_state)
    dtype, bias = state.dtype, None if delta_bias is None else delta_bias[:, None]
    delta = _step_size(delta.to(dtype), bias, delta_softplus)  # [batch d_inner pos]
    discrete_A = torch.exp(delta[..., None] * A[:, None])  # [batch d_inner pos d_state]
    write = B.to(dtype).transpose(1, 2)  # [batch pos d_state]
    discrete_B = delta[..., None] * write[:, None]  # [batch d_inner pos d_state]
    deltaB_u = discrete_B * u[..., None]  # [batch d_inner pos d_state]
    read = C.to(dtype).transpose(1, 2)  # [batch pos d_state]
    outputs = []
    # Unbind once: for a slice inside the loop, autograd would fill a full-size tensor every step.
    for a_t, x_t, C_t in zip(discrete_A.unbind(2), deltaB_u.unbind(2), read.unbind(1), strict=True):
        state = a_t * state + x_t  # [batch d_inner d_state]
        y_t = (state @ C_t[..., None])[..., 0]  # [batch d_inner]
        outputs.append(y_t)
    y = torch.stack(outputs, dim=-1)  # [batch d_inner pos]
    if D is not None:
        skip = u * D[:, None]
        y = y + skip
    if z is not None:
        gate = F.silu(z)
        y = y * gate
    y = y.to(u.dtype)
    return (y, state) if return_last_state else y


def _step_size(delta, delta_bias, delta_softplus):
    """Delta from its raw projection, in whichever layout its bias broadcasts to."""
    if delta_bias is not None:
        delta = delta + delta_bias
    return F.softplus(delta) if delta_softplus else delta


INPUTS = "u delta A B C D z delta_bias initial_state".split()
AXES = "bet bet en bnt bnt e bet e ben".split()  # of each: batch, d_inner, pos, d_state as above


def _first_state(*inputs):
    """The state to start from, of the dtype to compute in; one clear sentence on a wrong shape."""
    u, _, A, *_ = inputs
    if u.dim() != 3 or A.dim() != 2 or u.shape[2] == 0:
        raise ValueError(
            f"selective_scan expected u [batch d_inner pos] with pos >= 1 and A [d_inner d_state], "
            f"found {list(u.shape)} and {list(A.shape)}; transpose or reshape them first."
        )
    size = dict(zip("betn", (*u.shape, A.shape[1]), strict=True))
    for name, x, axes in zip(INPUTS, inputs, AXES, strict=True):
        if x is not None and x.shape != (shape := tuple(size[axis] for axis in axes)):
            raise ValueError(
                f"selective_scan expected {name} of shape {list(shape)} to go with u {list(u.shape)} "
                f"and d_state {size['n']}, found {list(x.shape)}; check the order of its axes."
            )
    dtype = reduce(torch.promote_types, (x.dtype for x in inputs if x is not None), torch.float32)
    return u.new_zeros(len(u), *A.shape, dtype=dtype) if inputs[-1] is None else inputs[-1].to(dtype)


# ---- the scan frozen on one input -------------------------------------------------------------------


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

    @property
    def entries(self) -> int:
        return self.A.shape[1]

    def entry(self, n: int) -> "Scan":
        """The scan through entry n of every channel's state alone; over all n they sum to the whole."""
        return Scan(self.delta, self.A[:, [n]], self.B[..., [n]], self.C[..., [n]])

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
        return selective_scan(u, delta, self.A, B, C, initial_state=start).mT.unflatten(0, lead)[
            ..., None
        ]

    def _one_step(self, u: Tensor) -> Tensor:
        """y of one more word, in several variants of one past: the new states are never stored."""
        delta, B, C = self.delta[..., 0, :], self.B[..., 0, :], self.C[..., 0, :]
        kept = (delta[..., None] * self.A).exp_()  # [... channel d_state]
        kept = kept * self.past if kept.requires_grad else kept.mul_(self.past)
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
        delta = wide(self.delta.detach()[..., heads]).mT.contiguous()
        A = self.A.detach()[heads] / math.log(2)  # exp2 takes a third of exp's time
        steps = delta.double().cumsum(-1)  # S: in float32 its differences would lose digits
        alpha = delta.new_zeros(len(delta), len(heads), len(queries), delta.shape[-1])
        group, blocks = max(1, WORKSPACE // (delta.shape[-1] * A.shape[1])), queries // BLOCK
        for block in blocks.unique():
            rows = (blocks == block).nonzero()[:, 0]
            for e in range(0, len(heads), group):
                part = slice(e, e + group)
                self._fill(alpha[:, part], rows, queries[rows], steps[:, part], delta[:, part], A[part])
        return alpha

    def _fill(
        self, alpha: Tensor, rows: Tensor, queries: Tensor, steps: Tensor, delta: Tensor, A: Tensor
    ) -> None:
        """alpha of the queries of one BLOCK, written into rows of [batch channel query source].

        A is in units of ln 2 here. Before the first query, 2^(A (S_t - S_s)) = 2^(A (S_t - r))
        2^(A (r - S_s)) with r = S just before it: both exponents are negative, and the sum over n is a
        matrix product. From the first query on, the recurrence runs on the identity.
        """
        B, C = wide(self.B.detach()), wide(self.C.detach())
        first, last = int(queries.min()), int(queries.max()) + 1

        def decay(gap: Tensor) -> Tensor:  # 2^(A gap) [batch channel pos n]
            return (gap.to(A.dtype)[..., None] * A[:, None]).exp2_()

        if first:
            r = steps[..., first - 1 : first]
            left = decay(steps[..., queries] - r) * C[:, None, queries]  # [batch channel query n]
            right = decay(r - steps[..., :first]).mul_(B[:, None, :first])
            right *= delta[..., :first, None]  # [batch channel source n]
            alpha[..., rows, :first] = left @ right.transpose(-1, -2)
        d = delta[..., first:last].permute(2, 0, 1)[:, :, None]  # [pos batch 1 channel]
        kept, written = (d * A.T).exp2_(), d * B[:, first:last].transpose(0, 1)[..., None]
        h = A.new_zeros(*written.shape[1:], last - first)  # [batch n channel source]
        near = A.new_empty(last - first, len(delta), 1, h[0, 0].numel())
        for t in range(last - first):
            h *= kept[t, ..., None]
            h[..., t] = written[t]
            torch.matmul(C[:, first + t, None], h.flatten(2), out=near[t])
        near = near.view(last - first, len(delta), -1, last - first)[queries - first]
        alpha[..., rows, first:last] = near.permute(1, 2, 0, 3)


# What nnsight can read and edit below a mixer's `.source` after `install(model, fast=False)`: SiLU
# behind the convolution, and the lines of the loop.
_LOOP = "mamba_selective_scan_0.source.running_scan_0.source."
TAPS = {
    "silu": "causal_conv1d_fn_0.source.reference_1.source.ACT2FN_0",  # u [batch d_inner pos]
    "delta": _LOOP + "delta_0",  # [batch d_inner pos], after bias and softplus
    "discrete_A": _LOOP + "discrete_A_0",  # [batch d_inner pos d_state]
    "discrete_B": _LOOP + "discrete_B_0",  # [batch d_inner pos d_state]
    "deltaB_u": _LOOP + "deltaB_u_0",  # [batch d_inner pos d_state]
    "read": _LOOP + "read_0",  # C, [batch pos d_state]
    "state": _LOOP + "state_1",  # h_t [batch d_inner d_state], once per step t
    "y_t": _LOOP + "y_t_0",  # [batch d_inner], once per step t
    "y": _LOOP + "y_0",  # [batch d_inner pos], before skip and gate
    "skip": _LOOP + "skip_0",  # [batch d_inner pos]
    "gate": _LOOP + "gate_0",  # [batch d_inner pos]
    "gated": _LOOP + "y_2",  # [batch d_inner pos], what out_proj receives
}


def tap(mixer, name):
    """The nnsight operation `TAPS[name]` of a wrapped mixer: read or set its `.output` in a trace.

    For what happens once per step, take the tap before the loop, not inside it:

        state = tap(mixer, "state")
        for _ in tracer.iter[t]:
            state.output = ...
    """
    return attrgetter(TAPS[name])(mixer.source)


# ---- the differentiable core: channel axis last -------------------------------------------------


def _again(function, inputs, grads):
    """The gradients of `function`'s inputs by plain PyTorch: themselves differentiable."""
    # Views: where one input is made from another, the path between them is not this function's.
    inputs = [x if x is None else x.view_as(x) for x in inputs]
    total = sum((y * g).sum() for y, g in zip(function(*inputs), grads, strict=True))
    wanted = {i: x for i, x in enumerate(inputs) if x is not None and x.requires_grad}
    gradients = torch.autograd.grad(total, [*wanted.values()], create_graph=True, allow_unused=True)
    return tuple(map(dict(zip(wanted, gradients, strict=True)).get, range(len(inputs))))


class _Scan(torch.autograd.Function):
    """u, delta, z [b t e]; A [n e]; B, C [b t n]; D, bias [e]; h0 [b n e] -> y [b t e], h_T."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, bias, h0, softplus):
        forward = kernels.scan_forward if _compiled(u) else _forward_torch
        y, last, checkpoints = forward(u, delta, A, B, C, D, z, bias, h0, softplus)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, h0, checkpoints)
        ctx.softplus = softplus
        return y, last

    @staticmethod
    def backward(ctx, r, g_last):
        *inputs, h0, checkpoints = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *_again(partial(_Scan.readable, ctx.softplus), [*inputs, h0], [r, g_last]), None
        backward = kernels.scan_backward if _compiled(r) else _backward_torch
        return *backward(*inputs, checkpoints, r.contiguous(), g_last.contiguous(), ctx.softplus), None

    @staticmethod
    def readable(softplus, *inputs):
        """The same, by plain PyTorch."""
        *inputs, h0 = (x if x is None or x.dim() == 1 else x.mT for x in inputs)
        y, last = selective_scan_loop(*inputs, softplus, True, h0)
        return y.mT, last.mT


class _Convolution(torch.autograd.Function):
    """x [b t e], weight [e taps], bias [e] -> SiLU of the causal convolution [b t e]."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        return kernels.conv_forward(x, weight, bias)

    @staticmethod
    def backward(ctx, dy):
        if torch.is_grad_enabled():  # create_graph=True
            return _again(_Convolution.readable, ctx.saved_tensors, [dy])
        return kernels.conv_backward(*ctx.saved_tensors, dy.contiguous())

    @staticmethod
    def readable(x, weight, bias):
        """The same, by plain PyTorch, in a list."""
        c = F.conv1d(x.mT, weight[:, None], bias, padding=weight.shape[1] - 1, groups=len(weight))
        return [F.silu(c[..., : x.shape[1]]).mT]


def _compiled(x):
    return kernels is not None and x.device.type == "cpu"


def _forward_torch(u, raw, A, B, C, D, z, bias, h0, softplus):
    delta = _step_size(raw, bias, softplus)
    y, h, checkpoints = torch.empty_like(u), h0, []
    for t in range(0, u.shape[1], CHUNK):
        checkpoints.append(h)
        step = slice(t, t + CHUNK)
        _, states = _chunk_states(u[:, step], delta[:, step], A, B[:, step], h)
        h = states[-1]
        y[:, step] = torch.einsum("tbne,btn->bte", states[1:], C[:, step])
    y.addcmul_(u, D)
    if z is not None:
        y *= F.silu(z)
    return y, h.clone(), torch.stack(checkpoints, 1)


def _backward_torch(u, raw, A, B, C, D, z, bias, checkpoints, r, g_last, softplus):
    delta = _step_size(raw, bias, softplus)
    dz = None
    if z is not None:
        s = torch.sigmoid(z)
        dz = r * s * (1 + z * (1 - s))  # still to be multiplied by y before the gate
        r = r * z * s
    du, dd, dB, dC = (torch.empty_like(x) for x in (u, u, B, C))
    dA, carry = torch.zeros_like(A), g_last  # carry = a_{t+1} g_{t+1}
    for k in reversed(range(checkpoints.shape[1])):
        step = slice(k * CHUNK, (k + 1) * CHUNK)
        u_k, d_k, B_k, C_k, r_k = u[:, step], delta[:, step], B[:, step], C[:, step], r[:, step]
        a, states = _chunk_states(u_k, d_k, A, B_k, checkpoints[:, k])
        if z is not None:
            dz[:, step] *= torch.einsum("tbne,btn->bte", states[1:], C_k).addcmul_(u_k, D)
        g = torch.einsum("btn,bte->tbne", C_k, r_k).contiguous()
        for g_t, a_t in zip(reversed(g.unbind(0)), reversed(a.unbind(0)), strict=True):
            g_t += carry
            carry = a_t * g_t
        w = a.mul_(states[:-1]).mul_(g)
        read = torch.einsum("tbne,btn->bte", g, B_k)
        dC[:, step] = torch.einsum("bte,tbne->btn", r_k, states[1:])
        dB[:, step] = torch.einsum("tbne,bte->btn", g, d_k * u_k)
        du[:, step] = d_k * read + D * r_k
        dd[:, step] = u_k * read + torch.einsum("tbne,ne->bte", w, A)
        dA += torch.einsum("tbne,bte->ne", w, d_k)
    if softplus:
        dd *= torch.sigmoid(raw + bias)
    return du, dd, dA, dB, dC, (r * u).sum((0, 1)), dz, dd.sum((0, 1)), carry


def _chunk_states(u, delta, A, B, h):
    """Decays a [t b n e] and states [t+1 b n e] (the first one is h) of one chunk."""
    a = torch.exp(delta.transpose(0, 1)[:, :, None] * A)
    x = (delta * u).transpose(0, 1)[:, :, None] * B.transpose(0, 1)[..., None]
    states = torch.cat([h[None], x])
    for t, a_t in enumerate(a.unbind(0)):
        states[t + 1].addcmul_(a_t, states[t])
    return a, states


# ---- inside transformers ------------------------------------------------------------------------

# The functions that transformers binds to mamba-ssm and causal-conv1d wherever it finds them.
KERNELS = (
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "mamba_selective_state_update",
    "mamba_selective_scan",
)


def _shared():
    """What a reload of this module must find again, so it is kept beside the patches: transformers'
    own functions, the hooks of each mixer, and the scan and state of the one a thread is running."""
    modeling = importlib.import_module("transformers.models.mamba.modeling_mamba")
    if not hasattr(modeling, "_our_scan"):
        modeling._our_scan = SimpleNamespace(
            modeling=modeling,
            originals={name: getattr(modeling, name) for name in KERNELS},
            hooks=WeakKeyDictionary(),
            running=threading.local(),
        )
    return modeling._our_scan


def _remove(mixers):
    """Take our scan out of these mixers, and with the last of all out of transformers."""
    shared = _shared()
    for mixer in mixers:
        for hook in shared.hooks.pop(mixer, ()):
            hook.remove()
    if not shared.hooks:
        vars(shared.modeling).update(shared.originals)


def install(model, fast=True):
    """Give each Mamba mixer of a transformers model our scan (the readable loop if not `fast`).

    It continues from the cache for any number of tokens, where transformers' own restarts from
    zero, and on CPU our convolution with the fast scan. All other kernels become transformers'
    PyTorch reference, on any device; so they do for models without `install`, scan included. Call
    before nnsight wraps the model, because nnsight keeps the functions it found then. A second call
    replaces the first. Returns a handle with `remove()`.
    """
    shared, modeling = _shared(), _shared().modeling
    mixers = [module for module in model.modules() if isinstance(module, modeling.MambaMixer)]
    if not mixers:
        raise ValueError(
            "install expected a transformers Mamba model, found no MambaMixer in "
            f"{type(model).__name__}; load one with MambaForCausalLM.from_pretrained."
        )

    def before(mixer, args, kwargs):
        past = kwargs.get("cache_params", args[1] if len(args) > 1 else None)
        shared.running.scan = selective_scan if fast else selective_scan_loop
        shared.running.state = None if past is None else past.get_recurrent_state(mixer.layer_idx)

    def after(mixer, args, output):
        vars(shared.running).clear()

    _remove(mixers)
    for mixer in mixers:
        first = mixer.register_forward_pre_hook(before, with_kwargs=True)
        shared.hooks[mixer] = first, mixer.register_forward_hook(after, always_call=True)
    vars(modeling).update({name: original.__wrapped__ for name, original in shared.originals.items()})
    modeling.mamba_selective_scan = _dispatch
    modeling.causal_conv1d_fn = _dispatch_convolution
    return SimpleNamespace(remove=partial(_remove, mixers))


def _dispatch(
    *args, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, **unused
):
    """Stands in for transformers' `mamba_selective_scan`, which is not told the mixer's state."""
    running = _shared().running
    args = *args, D, z, delta_bias, delta_softplus, return_last_state
    if not hasattr(running, "scan"):  # a model without `install`
        return _shared().originals["mamba_selective_scan"].__wrapped__(*args, **unused)
    # a copy, because the mixer then overwrites its cache in place and the backward needs this state
    state = None if running.state is None else running.state.clone()
    return running.scan(*args, state)


def _dispatch_convolution(x, weight, bias=None, activation=None, **unused):
    """Stands in for transformers' `causal_conv1d_fn`."""
    fast = getattr(_shared().running, "scan", None) is selective_scan and _compiled(x)
    known = x.dtype == weight.dtype in (torch.float32, torch.float64) and activation == "silu"
    if fast and known and bias is not None and weight.shape[1] == kernels.TAPS:
        return _Convolution.apply(x.transpose(1, 2), weight.contiguous(), bias).transpose(1, 2)
    reference = _shared().originals["causal_conv1d_fn"].__wrapped__
    return reference(x, weight, bias, activation, **unused)


@contextmanager
def use_cuda_kernels():
    """Within: the fused kernels of mamba-ssm and causal-conv1d, for plain generation on CUDA.

    They hide what interpretability reads, and only our scan continues a cache by several tokens.
    """
    missing = [] if torch.cuda.is_available() else ["CUDA device"]
    for package in ("mamba_ssm", "causal_conv1d"):
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise RuntimeError(
            "use_cuda_kernels expected a CUDA device, mamba_ssm and causal_conv1d, found no "
            f"{' and no '.join(missing)}; install the [cuda] extra on a machine with CUDA, or "
            "leave this switch out for the same results."
        )
    modeling = _shared().modeling
    ours = {name: getattr(modeling, name) for name in KERNELS}
    vars(modeling).update(_shared().originals)
    try:
        yield
    finally:
        vars(modeling).update(ours)
