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

Skip, gate, softplus and the bias of Delta are ordinary autograd around this core. The backward
needs every h_t: the forward keeps one state per CHUNK steps and the backward recomputes the others
chunk by chunk, last chunk first, so no [b t e n] tensor of the whole sequence ever exists.

Two cores do this arithmetic: plain PyTorch on any device and, on CPU, kernels compiled by numba
when it is there. `selective_scan_loop` is the readable version, whose named lines nnsight reads
and edits (`TAPS`). `install` puts either into a transformers Mamba; call it before nnsight wraps
the model, because nnsight keeps the functions it found then.
"""

import importlib
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from operator import attrgetter

import torch
import torch.nn.functional as F

try:
    import numba
    import numba.extending
    import numpy as np
except ImportError:  # the plain PyTorch core needs neither
    numba = None

CHUNK = 16  # steps between stored states: with d_state 16 they take the memory of one more u
BLOCK = 256  # channels per compiled work item


# ---- the pure functions -------------------------------------------------------------------------


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                   return_last_state=False, initial_state=None):
    """Fast exact scan; computes in float32, or float64 if any input is; y has the dtype of u.

    u, delta, z [batch d_inner pos]; A [d_inner d_state]; B, C [batch d_state pos];
    D, delta_bias [d_inner]; initial_state [batch d_inner d_state], zeros if None.
    Returns y [batch d_inner pos], or (y, last_state [batch d_inner d_state]).
    """
    dtype = _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape, dtype=dtype)
    # Channels last from here on, so that every loop below runs over contiguous memory.
    out_dtype = u.dtype
    u, delta, A, B, C, initial_state = (
        x.to(dtype).transpose(-1, -2).contiguous() for x in (u, delta, A, B, C, initial_state)
    )
    delta = _step_size(delta, delta_bias, delta_softplus)
    y, last_state = _Scan.apply(u, delta, A, B, C, initial_state)
    if D is not None:
        y = torch.addcmul(y, u, D.to(dtype))
    if z is not None:
        y = y * F.silu(z).transpose(1, 2)
    y = y.transpose(1, 2).to(out_dtype)
    return (y, last_state.transpose(1, 2)) if return_last_state else y


def selective_scan_loop(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                        return_last_state=False, initial_state=None):
    """Readable scan: same arguments and result as `selective_scan`, one named line each (TAPS)."""
    dtype = _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    bias = None if delta_bias is None else delta_bias[:, None]
    delta = _step_size(delta.to(dtype), bias, delta_softplus)  # [batch d_inner pos]
    discrete_A = torch.exp(delta[..., None] * A[:, None])  # [batch d_inner pos d_state]
    write = B.to(dtype).transpose(1, 2)  # [batch pos d_state]
    discrete_B = delta[..., None] * write[:, None]  # [batch d_inner pos d_state]
    deltaB_u = discrete_B * u[..., None]  # [batch d_inner pos d_state]
    read = C.to(dtype).transpose(1, 2)  # [batch pos d_state]
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape, dtype=dtype)

    state = initial_state.to(dtype)
    outputs = []
    # Unbind once: for a slice inside the loop, autograd would fill a full-size tensor every step.
    steps = zip(discrete_A.unbind(2), deltaB_u.unbind(2), read.unbind(1), strict=True)
    for a_t, x_t, C_t in steps:
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


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state):
    """Raise one clear sentence on inconsistent shapes; return the dtype to compute in."""
    if u.dim() != 3 or A.dim() != 2 or u.shape[2] == 0:
        raise ValueError(
            f"selective_scan expected u [batch d_inner pos] with pos >= 1 and A [d_inner d_state], "
            f"found {list(u.shape)} and {list(A.shape)}; transpose or reshape them first."
        )
    (batch, d_inner, pos), d_state = u.shape, A.shape[1]
    expected = {
        "u": (u, [batch, d_inner, pos]),
        "delta": (delta, [batch, d_inner, pos]),
        "A": (A, [d_inner, d_state]),
        "B": (B, [batch, d_state, pos]),
        "C": (C, [batch, d_state, pos]),
        "D": (D, [d_inner]),
        "z": (z, [batch, d_inner, pos]),
        "delta_bias": (delta_bias, [d_inner]),
        "initial_state": (initial_state, [batch, d_inner, d_state]),
    }
    given = {name: (x, shape) for name, (x, shape) in expected.items() if x is not None}
    for name, (x, shape) in given.items():
        if list(x.shape) != shape:
            raise ValueError(
                f"selective_scan expected {name} of shape {shape} to go with u {list(u.shape)} and "
                f"d_state {d_state}, found {list(x.shape)}; check the order of its axes."
            )
    is_double = any(x.dtype == torch.float64 for x, _ in given.values())
    return torch.float64 if is_double else torch.float32


# The lines of the loop that `install(model, fast=False)` uses, as nnsight names them below a
# mixer's `.source`.
_LOOP = "mamba_selective_scan_0.source._running_scan_0.source."
TAPS = {
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


class _Scan(torch.autograd.Function):
    """u, delta [b t e]; A [n e]; B, C [b t n]; h0 [b n e] -> y [b t e], last state [b n e]."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, h0):
        forward = _forward_numba if _use_numba(u) else _forward_torch
        y, last, checkpoints = forward(u, delta, A, B, C, h0)
        ctx.save_for_backward(u, delta, A, B, C, checkpoints)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, r, g_last):
        backward = _backward_numba if _use_numba(r) else _backward_torch
        return backward(*ctx.saved_tensors, r.contiguous(), g_last.contiguous())


def _use_numba(x):
    return numba is not None and x.device.type == "cpu"


def _forward_torch(u, delta, A, B, C, h0):
    y, h, checkpoints = torch.empty_like(u), h0, []
    for t in range(0, u.shape[1], CHUNK):
        checkpoints.append(h)
        step = slice(t, t + CHUNK)
        _, states = _chunk_states(u[:, step], delta[:, step], A, B[:, step], h)
        h = states[-1]
        y[:, step] = torch.einsum("tbne,btn->bte", states[1:], C[:, step])
    return y, h.clone(), torch.stack(checkpoints, 1)


def _backward_torch(u, delta, A, B, C, checkpoints, r, g_last):
    du, dd, dB, dC = (torch.empty_like(x) for x in (u, delta, B, C))
    dA, carry = torch.zeros_like(A), g_last  # carry = a_{t+1} g_{t+1}
    for k in reversed(range(checkpoints.shape[1])):
        step = slice(k * CHUNK, (k + 1) * CHUNK)
        u_k, d_k, B_k, C_k, r_k = u[:, step], delta[:, step], B[:, step], C[:, step], r[:, step]
        a, states = _chunk_states(u_k, d_k, A, B_k, checkpoints[:, k])
        g = torch.einsum("btn,bte->tbne", C_k, r_k).contiguous()
        for g_t, a_t in zip(reversed(g.unbind(0)), reversed(a.unbind(0)), strict=True):
            g_t += carry
            carry = a_t * g_t
        w = a.mul_(states[:-1]).mul_(g)
        read = torch.einsum("tbne,btn->bte", g, B_k)
        dC[:, step] = torch.einsum("bte,tbne->btn", r_k, states[1:])
        dB[:, step] = torch.einsum("tbne,bte->btn", g, d_k * u_k)
        du[:, step] = d_k * read
        dd[:, step] = u_k * read + torch.einsum("tbne,ne->bte", w, A)
        dA += torch.einsum("tbne,bte->ne", w, d_k)
    return du, dd, dA, dB, dC, carry


def _chunk_states(u, delta, A, B, h):
    """Decays a [t b n e] and states [t+1 b n e] (the first one is h) of one chunk."""
    a = torch.exp(delta.transpose(0, 1)[:, :, None] * A)
    x = (delta * u).transpose(0, 1)[:, :, None] * B.transpose(0, 1)[..., None]
    states = torch.cat([h[None], x])
    for t, a_t in enumerate(a.unbind(0)):
        states[t + 1].addcmul_(a_t, states[t])
    return a, states


# ---- the same core compiled by numba for CPU ----------------------------------------------------

if numba is not None:

    def _jit(function):
        """Compile without the GIL, so that plain Python threads can share the work."""
        # fast math may reorder sums and fuse multiply-add, but keeps inf and nan
        options = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable place for the cache
            return numba.njit(**options)(function)

    def _exp(x):
        """exp that LLVM can vectorise (libm's it cannot): relative error 1e-7, in float64 2e-16."""

    @numba.extending.overload(_exp, jit_options={"fastmath": {"contract"}})
    def _exp_for_type(x):
        # exp(x) = 2^n exp(r), n = round(x / ln 2): a Taylor series for |r| < 0.35, and 2^n written
        # into the exponent bits. ln 2 = ln2_a + ln2_b, so that r is exact. Beyond the ends of the
        # range the result is 0 or inf; nan stays nan. No fastmath "reassoc": it would undo r.
        if x == numba.float32:
            f, i = np.float32, np.int32
            low, high, inv_ln2 = f(-104), f(89), f(1 / math.log(2))
            ln2_a, ln2_b = f(0.693359375), f(-2.12194440e-4)
            one, c2, c3, c4, c5, c6, c7 = (f(1 / math.factorial(k)) for k in range(1, 8))
            zero, bias, top, shift = i(0), i(127), i(255), i(23)

            def exp(x):
                x = min(max(x, low), high)
                n = np.rint(x * inv_ln2)
                r = x - n * ln2_a - n * ln2_b
                p = c3 + r * (c4 + r * (c5 + r * (c6 + r * c7)))
                p = one + r * (one + r * (c2 + r * p))
                bits = np.int32(min(max(np.int32(n) + bias, zero), top))
                return p * np.int32(bits << shift).view(np.float32)
        else:
            low, high, inv_ln2 = -746.0, 711.0, 1 / math.log(2)
            ln2_a, ln2_b = 6.93147180369123816490e-01, 1.90821492927058770002e-10
            c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (
                1 / math.factorial(k) for k in range(2, 14)
            )

            def exp(x):
                x = min(max(x, low), high)
                n = np.rint(x * inv_ln2)
                r = x - n * ln2_a - n * ln2_b
                p = c7 + r * (c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13)))))
                p = 1.0 + r * (1.0 + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * p))))))
                bits = min(max(np.int64(n) + 1023, 0), 2047)
                return p * np.int64(bits << 52).view(np.float64)
        return exp

    # Rows run over channels. Each function is small because LLVM vectorises a loop only where few
    # run-time checks tell that its arrays do not overlap.

    @_jit
    def _row_decay(a, d, A):
        for i in range(a.size):
            a[i] = _exp(d[i] * A[i])

    @_jit
    def _row_state(h, before, a, x, B):
        for i in range(h.size):
            h[i] = a[i] * before[i] + x[i] * B

    @_jit
    def _row_step(h, y, d, A, x, B, C):
        for i in range(h.size):
            h[i] = _exp(d[i] * A[i]) * h[i] + x[i] * B
            y[i] += C * h[i]

    @_jit
    def _row_grad_BC(g, read, r, h, x, B, C):
        dB = dC = g.dtype.type(0)
        for i in range(g.size):
            g[i] += C * r[i]
            dB += g[i] * x[i]
            dC += r[i] * h[i]
            read[i] += B * g[i]
        return dB, dC

    @_jit
    def _row_grad_A(g, dA, a, before, d):
        for i in range(g.size):
            g[i] *= a[i]
            dA[i] += g[i] * before[i] * d[i]

    @_jit
    def _row_grad_delta(dd, g, before, A):
        for i in range(dd.size):
            dd[i] += g[i] * before[i] * A[i]

    @_jit
    def _kernel_forward(u, delta, A, B, C, h, y, checkpoints, first, stride):
        """Advances h [b n e] in place. Takes every stride-th (sequence, block of channels)."""
        batch, pos, d_inner = u.shape
        n_blocks = (d_inner + BLOCK - 1) // BLOCK
        x = np.empty(BLOCK, u.dtype)
        for item in range(first, batch * n_blocks, stride):
            b, lo = item // n_blocks, item % n_blocks * BLOCK
            hi = min(lo + BLOCK, d_inner)
            for t in range(pos):
                if t % CHUNK == 0:
                    checkpoints[b, t // CHUNK, :, lo:hi] = h[b, :, lo:hi]
                d_t, y_t = delta[b, t, lo:hi], y[b, t, lo:hi]
                x_t = x[: hi - lo]
                x_t[:] = d_t * u[b, t, lo:hi]
                y_t[:] = 0
                for n in range(A.shape[0]):
                    h_n, A_n = h[b, n, lo:hi], A[n, lo:hi]
                    _row_step(h_n, y_t, d_t, A_n, x_t, B[b, t, n], C[b, t, n])

    @_jit
    def _kernel_backward(u, delta, A, B, C, checkpoints, r, g, du, dd, dA, dB, dC, first, stride):
        """g [b n e] carries a_{t+1} g_{t+1}; dA [b n e], dB, dC [block b t n] are partial sums."""
        batch, pos, d_inner = u.shape
        d_state = A.shape[0]
        n_blocks = (d_inner + BLOCK - 1) // BLOCK
        width = min(BLOCK, d_inner)
        a = np.empty((CHUNK, d_state, width), u.dtype)
        states = np.empty((CHUNK + 1, d_state, width), u.dtype)
        x, read = np.empty((CHUNK, width), u.dtype), np.empty(width, u.dtype)
        for item in range(first, batch * n_blocks, stride):
            b, block = item // n_blocks, item % n_blocks
            lo = block * BLOCK
            hi = min(lo + BLOCK, d_inner)
            w = hi - lo
            for k in range(checkpoints.shape[1] - 1, -1, -1):
                start, stop = k * CHUNK, min((k + 1) * CHUNK, pos)
                states[0, :, :w] = checkpoints[b, k, :, lo:hi]
                for j in range(stop - start):
                    d_t = delta[b, start + j, lo:hi]
                    x_t = x[j, :w]
                    x_t[:] = d_t * u[b, start + j, lo:hi]
                    for n in range(d_state):
                        a_n, before, after = a[j, n, :w], states[j, n, :w], states[j + 1, n, :w]
                        _row_decay(a_n, d_t, A[n, lo:hi])
                        _row_state(after, before, a_n, x_t, B[b, start + j, n])
                for j in range(stop - start - 1, -1, -1):
                    t = start + j
                    d_t, dd_t, r_t = delta[b, t, lo:hi], dd[b, t, lo:hi], r[b, t, lo:hi]
                    read[:w] = 0
                    dd_t[:] = 0
                    for n in range(d_state):
                        g_n, before, after = g[b, n, lo:hi], states[j, n, :w], states[j + 1, n, :w]
                        dB[block, b, t, n], dC[block, b, t, n] = _row_grad_BC(
                            g_n, read[:w], r_t, after, x[j, :w], B[b, t, n], C[b, t, n]
                        )
                        _row_grad_A(g_n, dA[b, n, lo:hi], a[j, n, :w], before, d_t)
                        _row_grad_delta(dd_t, g_n, before, A[n, lo:hi])
                    du[b, t, lo:hi] = d_t * read[:w]
                    dd_t += u[b, t, lo:hi] * read[:w]

    @cache
    def _pool(pid):
        """Worker threads of this process (a forked child gets its own)."""
        return ThreadPoolExecutor(os.cpu_count())

    def _run(kernel, *tensors):
        """Run a kernel on as many threads as PyTorch uses; results do not depend on how many."""
        arrays = [x.detach().numpy() for x in tensors]
        stride = min(torch.get_num_threads(), os.cpu_count())
        pool = _pool(os.getpid()) if stride > 1 else None
        others = [pool.submit(kernel, *arrays, first, stride) for first in range(1, stride)]
        kernel(*arrays, 0, stride)
        for other in others:
            other.result()

    def _forward_numba(u, delta, A, B, C, h0):
        (batch, pos, d_inner), d_state = u.shape, A.shape[0]
        y, h = torch.empty_like(u), h0.clone()
        checkpoints = u.new_empty(batch, -(-pos // CHUNK), d_state, d_inner)
        _run(_kernel_forward, u, delta, A, B, C, h, y, checkpoints)
        return y, h, checkpoints

    def _backward_numba(u, delta, A, B, C, checkpoints, r, g_last):
        du, dd = torch.empty_like(u), torch.empty_like(u)
        g, dA = g_last.clone(), torch.zeros_like(g_last)
        dB, dC = B.new_empty(2, -(-u.shape[2] // BLOCK), *B.shape)
        _run(_kernel_backward, u, delta, A, B, C, checkpoints, r, g, du, dd, dA, dB, dC)
        return du, dd, dA.sum(0), dB.sum(0), dC.sum(0), g


# ---- inside transformers ------------------------------------------------------------------------

# The functions that transformers binds to mamba-ssm and causal-conv1d wherever it finds them.
KERNELS = ("causal_conv1d_fn", "causal_conv1d_update", "mamba_inner_fn",
           "mamba_selective_state_update", "mamba_selective_scan")

_running = threading.local()  # the scan and the state of the mixer that this thread is running
_originals = {}  # transformers' own functions while ours are in place
_installed = set()  # live handles


class Installed:
    """What `install` returns. The last one removed restores transformers' functions."""

    def __init__(self, hooks):
        self._hooks = hooks

    def remove(self):
        for hook in self._hooks:
            hook.remove()
        _installed.discard(self)
        if not _installed:
            _bind(_originals)
            _originals.clear()


def install(model, fast=True):
    """Give each Mamba mixer of a transformers model our scan (the readable loop if not `fast`).

    It continues from the cache for any number of tokens, where transformers' own restarts from
    zero. All other kernels become transformers' PyTorch reference, on any device; so they do for
    models without `install`, scan included. Call before nnsight wraps the model. Returns a handle
    with `remove()`.
    """
    modeling = _modeling()
    mixers = [module for module in model.modules() if isinstance(module, modeling.MambaMixer)]
    if not mixers:
        raise ValueError(
            "install expected a transformers Mamba model, found no MambaMixer in "
            f"{type(model).__name__}; load one with MambaForCausalLM.from_pretrained."
        )
    if not _installed:
        _originals.update({name: getattr(modeling, name) for name in KERNELS})
        references = {name: original.__wrapped__ for name, original in _originals.items()}
        _bind(references | {"mamba_selective_scan": _dispatch})
    scan = selective_scan if fast else selective_scan_loop

    def before(mixer, args, kwargs):
        past = kwargs.get("cache_params", args[1] if len(args) > 1 else None)
        _running.scan = scan
        _running.state = None if past is None else past.get_recurrent_state(mixer.layer_idx)

    def after(mixer, args, output):
        _running.__dict__.clear()

    handle = Installed(
        [mixer.register_forward_pre_hook(before, with_kwargs=True) for mixer in mixers]
        + [mixer.register_forward_hook(after, always_call=True) for mixer in mixers]
    )
    _installed.add(handle)
    return handle


def _dispatch(hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
              return_last_state=False, **unused):
    """Stands in for transformers' `mamba_selective_scan`, which is not told the mixer's state."""
    if not hasattr(_running, "scan"):  # a model without `install`
        reference = _originals["mamba_selective_scan"].__wrapped__
        return reference(
            hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state,
            **unused,
        )
    # a copy, because the mixer then overwrites its cache in place and the backward needs this state
    state = None if _running.state is None else _running.state.clone()
    return _running.scan(
        hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, state
    )


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
    ours = {name: getattr(_modeling(), name) for name in KERNELS}
    _bind(_originals)
    try:
        yield
    finally:
        _bind(ours)


def _modeling():
    return importlib.import_module("transformers.models.mamba.modeling_mamba")


def _bind(functions):
    for name, function in functions.items():
        setattr(_modeling(), name, function)
