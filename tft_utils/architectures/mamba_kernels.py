"""The kernels of `mamba_scan` for CPU, compiled by numba; the gradients are derived there.

A work item is one sequence and a block of at most BLOCK channels. It goes through time in chunks of
CHUNK steps: load a chunk into scratch memory that the cache holds, compute there, store the result.
Every innermost loop runs over channels, all BLOCK of them, so that LLVM makes vector instructions of
it. LLVM does so for few arrays only, because it has to test that they do not overlap. So the scratch
is three arrays, and in each of them a row has several fields, a constant BLOCK apart:

    row[j]       step j of the chunk     U, DELTA, ...    (see below)
    state[n]     entry n of the states   RATE: A, H: h, G: gradient of h, DA: gradient of A
    once[0]      the channels            SKIP: D, BIAS of Delta, DSKIP and DBIAS: their gradients

Loops over steps are inside these small functions, because a call costs as much as sixteen channels.
"""

import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numba.extending
import numpy as np
import torch

CHUNK = 16  # steps between stored states: with d_state 16 they take the memory of one more u
BLOCK = 256  # channels of a work item
TAPS = 4  # width of the convolution
ZERO, ONE = np.int8(0), np.int8(1)  # a plain 1 is an int64 and would make a float32 a float64

# Fields of row[j]. WRITE is Delta u, OUT is y before skip and gate, R its gradient, READ is
# sum_n g B, DDELTA the gradient of Delta, SLOPE that of softplus, Z the gate; DECAY is a_t and
# BEFORE h_{t-1} of the one entry n that the backward is at.
FIELDS = 11
U, DELTA, SLOPE, WRITE, OUT, Z, R, READ, DDELTA, DECAY, BEFORE = (k * BLOCK for k in range(FIELDS))
ROW = FIELDS * BLOCK + 16  # no power of two: rows would compete for the same places in the cache
RATE, H, G, DA = SKIP, BIAS, DSKIP, DBIAS = [k * BLOCK for k in range(4)]


def _jit(function):
    """Compile without the GIL, so that plain Python threads can share the work."""
    # fast math may reorder sums and fuse multiply-add, but keeps inf and nan
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(**options)(function)


# ---- functions of one number, which LLVM can vectorise (libm's it cannot) ------------------------


def _exp(x):
    """exp, held between 1e-38 and 3e38 in float32; relative error 1e-7."""


def _log1p(x):
    """log(1 + x) for 0 <= x <= 1; relative error 1e-7."""


@numba.extending.overload(_exp, jit_options={"fastmath": {"contract"}})
def _exp_of_type(x):
    if x != numba.float32:
        return lambda x: math.exp(x)
    # exp(x) = 2^n exp(r), n = round(x / ln 2). Adding `magic` rounds, and leaves n + 127 in the
    # last bits: moved to the place of the exponent they are 2^n. ln 2 = ln2_a + ln2_b, so that r
    # is exact. The last four coefficients minimise the error for |r| < 0.35. nan stays nan. No
    # fastmath "reassoc": it would undo the rounding.
    f = np.float32
    low, high, inv_ln2, magic = f(-87.3), f(88.7), f(1 / math.log(2)), f(1.5 * 2**23 + 127)
    ln2_a, ln2_b = f(0.693359375), f(-2.12194440e-4)
    one, c2, c3, c4, c5, c6 = map(f, (1, 0.5, 0.16666534, 0.04166724, 0.00836751, 0.00138638))
    shift = np.int32(23)

    def exp(x):
        x = min(max(x, low), high)
        shifted = np.float32(x * inv_ln2 + magic)
        n = shifted - magic
        r = x - n * ln2_a - n * ln2_b
        p = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        return p * np.int32(shifted.view(np.int32) << shift).view(np.float32)

    return exp


@numba.extending.overload(_log1p)
def _log1p_of_type(x):
    if x != numba.float32:
        return lambda x: math.log1p(x)
    # log(1 + x) = 2 atanh(q) with q = x / (2 + x) <= 1/3, where the series is short
    two, c1, c3, c5, c7, c9, c11, c13 = map(
        np.float32, (2, 2, 2 / 3, 2 / 5, 2 / 7, 2 / 9, 2 / 11, 2 / 13)
    )

    def log1p(x):
        q = x / (two + x)
        s = q * q
        return q * (c1 + s * (c3 + s * (c5 + s * (c7 + s * (c9 + s * (c11 + s * c13))))))

    return log1p


@_jit
def _sigmoid(x):
    return ONE / (ONE + _exp(-x))


# ---- in and out of the scratch ------------------------------------------------------------------


@_jit
def _copy(to, values, width):
    for i in range(width):
        to[i] = values[i]


@_jit
def _load(row, field, source, start, steps, column, width):
    for j in range(steps):
        _copy(row[j, field:], source[start + j, column:], width)


@_jit
def _store(target, row, field, start, steps, column, width):
    for j in range(steps):
        _copy(target[start + j, column:], row[j, field:], width)


# ---- the scan, one chunk ------------------------------------------------------------------------


@_jit
def _step_sizes(row, once, steps, softplus):
    """Delta and its slope from the raw Delta, and what is written: Delta u."""
    for j in range(steps):
        for i in range(BLOCK):
            raw = row[j, DELTA + i] + once[0, BIAS + i]
            delta = max(raw, ZERO * raw) + _log1p(_exp(-abs(raw))) if softplus else raw
            row[j, SLOPE + i] = _sigmoid(raw) if softplus else ONE
            row[j, DELTA + i] = delta
            row[j, WRITE + i] = delta * row[j, U + i]


@_jit
def _advance(row, state, n, B, C, start, steps):
    for j in range(steps):
        B_t, C_t = B[start + j, n], C[start + j, n]
        for i in range(BLOCK):
            h = _exp(row[j, DELTA + i] * state[n, RATE + i]) * state[n, H + i]
            h += row[j, WRITE + i] * B_t
            state[n, H + i] = h
            row[j, OUT + i] += C_t * h


@_jit
def _skip_and_gate(row, once, steps, gated):
    """The output takes the place of the gate."""
    for j in range(steps):
        for i in range(BLOCK):
            y, z = row[j, OUT + i] + once[0, SKIP + i] * row[j, U + i], row[j, Z + i]
            row[j, Z + i] = y * (z * _sigmoid(z)) if gated else y


@_jit
def _back_through_gate(row, steps):
    """R becomes the gradient before the gate, Z what turns that y into the gate's gradient."""
    for j in range(steps):
        for i in range(BLOCK):
            z, s, r = row[j, Z + i], _sigmoid(row[j, Z + i]), row[j, R + i]
            row[j, Z + i] = r * (s * (ONE + z * (ONE - s)))
            row[j, R + i] = r * (z * s)


@_jit
def _advance_again(row, state, n, B, C, dC, start, steps):
    for j in range(steps):
        B_t, C_t, dC_t = B[start + j, n], C[start + j, n], row.dtype.type(0)
        for i in range(BLOCK):
            a, before = _exp(row[j, DELTA + i] * state[n, RATE + i]), state[n, H + i]
            h = a * before + row[j, WRITE + i] * B_t
            row[j, DECAY + i] = a
            row[j, BEFORE + i] = before
            state[n, H + i] = h
            row[j, OUT + i] += C_t * h
            dC_t += row[j, R + i] * h
        dC[start + j, n] = dC_t


@_jit
def _back(row, state, n, B, C, dB, start, backwards):
    for j in backwards:  # an array: a loop with step -1 fails LLVM's test for overlap
        B_t, C_t, dB_t = B[start + j, n], C[start + j, n], row.dtype.type(0)
        for i in range(BLOCK):
            g = state[n, G + i] + C_t * row[j, R + i]
            dB_t += g * row[j, WRITE + i]
            row[j, READ + i] += B_t * g
            carry = row[j, DECAY + i] * g
            state[n, G + i] = carry
            w = carry * row[j, BEFORE + i]
            state[n, DA + i] += w * row[j, DELTA + i]
            row[j, DDELTA + i] += w * state[n, RATE + i]
        dB[start + j, n] = dB_t


@_jit
def _grad_gate(row, once, steps):
    for j in range(steps):
        for i in range(BLOCK):
            row[j, Z + i] *= row[j, OUT + i] + once[0, SKIP + i] * row[j, U + i]


@_jit
def _back_through_step_sizes(row, once, steps):
    """READ becomes the gradient of u, DDELTA that of the raw Delta."""
    for j in range(steps):
        for i in range(BLOCK):
            u, r, read = row[j, U + i], row[j, R + i], row[j, READ + i]
            d_raw = (row[j, DDELTA + i] + u * read) * row[j, SLOPE + i]
            row[j, READ + i] = row[j, DELTA + i] * read + once[0, SKIP + i] * r
            row[j, DDELTA + i] = d_raw
            once[0, DSKIP + i] += r * u
            once[0, DBIAS + i] += d_raw


# ---- the scan, whole sequences ------------------------------------------------------------------


@_jit
def _scan_forward(u, raw, A, B, C, D, z, z_column, bias, h, softplus, y, checkpoints, first, stride):
    """Advances h [b n e] in place. Takes every stride-th work item, as all kernels do."""
    (batch, pos, d_inner), d_state = u.shape, A.shape[0]
    n_blocks = (d_inner + BLOCK - 1) // BLOCK
    row, once = np.zeros((CHUNK, ROW), u.dtype), np.zeros((1, 2 * BLOCK), u.dtype)
    state = np.zeros((d_state, 2 * BLOCK), u.dtype)
    for item in range(first, batch * n_blocks, stride):
        b, lo = item // n_blocks, item % n_blocks * BLOCK
        width = min(BLOCK, d_inner - lo)
        B_b, C_b = B[b], C[b]
        _copy(once[0, SKIP:], D[lo:], width)
        _copy(once[0, BIAS:], bias[lo:], width)
        for n in range(d_state):
            _copy(state[n, RATE:], A[n, lo:], width)
            _copy(state[n, H:], h[b, n, lo:], width)
        for k in range(checkpoints.shape[1]):
            start, steps = k * CHUNK, min(CHUNK, pos - k * CHUNK)
            _load(row, U, u[b], start, steps, lo, width)
            _load(row, DELTA, raw[b], start, steps, lo, width)
            _step_sizes(row, once, steps, softplus)
            row[:, OUT : OUT + BLOCK] = 0
            for n in range(d_state):
                _copy(checkpoints[b, k, n, lo:], state[n, H:], width)
                _advance(row, state, n, B_b, C_b, start, steps)
            if z.size:
                _load(row, Z, z[b], start, steps, z_column + lo, width)
            _skip_and_gate(row, once, steps, z.size > 0)
            _store(y[b], row, Z, start, steps, lo, width)
        for n in range(d_state):
            _copy(h[b, n, lo:], state[n, H:], width)


@_jit
def _scan_backward(
    u,
    raw,
    A,
    B,
    C,
    D,
    z,
    z_column,
    bias,
    checkpoints,
    r,
    g,
    softplus,
    du,
    d_raw,
    dA,
    dB,
    dC,
    dD,
    dz,
    d_bias,
    first,
    stride,
):
    """g [b n e] carries a_{t+1} g_{t+1}; dA [b n e], dB, dC [block b t n], dD, d_bias [b e]."""
    (batch, pos, d_inner), d_state = u.shape, A.shape[0]
    n_blocks = (d_inner + BLOCK - 1) // BLOCK
    row, once = np.zeros((CHUNK, ROW), u.dtype), np.zeros((1, 4 * BLOCK), u.dtype)
    state = np.zeros((d_state, 4 * BLOCK), u.dtype)
    backwards = np.arange(CHUNK)[::-1].copy()
    for item in range(first, batch * n_blocks, stride):
        b, block = item // n_blocks, item % n_blocks
        lo = block * BLOCK
        width = min(BLOCK, d_inner - lo)
        B_b, C_b, dB_b, dC_b = B[b], C[b], dB[block, b], dC[block, b]
        row[:] = 0  # for the sums over channels, when this block has fewer than the one before
        once[:] = 0
        _copy(once[0, SKIP:], D[lo:], width)
        _copy(once[0, BIAS:], bias[lo:], width)
        state[:] = 0
        for n in range(d_state):
            _copy(state[n, RATE:], A[n, lo:], width)
            _copy(state[n, G:], g[b, n, lo:], width)
        for k in range(checkpoints.shape[1] - 1, -1, -1):
            start, steps = k * CHUNK, min(CHUNK, pos - k * CHUNK)
            _load(row, U, u[b], start, steps, lo, width)
            _load(row, DELTA, raw[b], start, steps, lo, width)
            _step_sizes(row, once, steps, softplus)
            _load(row, R, r[b], start, steps, lo, width)
            if z.size:
                _load(row, Z, z[b], start, steps, z_column + lo, width)
                _back_through_gate(row, steps)
            row[:, OUT : OUT + BLOCK] = 0
            row[:, READ : DDELTA + BLOCK] = 0
            for n in range(d_state):
                _copy(state[n, H:], checkpoints[b, k, n, lo:], width)
                _advance_again(row, state, n, B_b, C_b, dC_b, start, steps)
                _back(row, state, n, B_b, C_b, dB_b, start, backwards[CHUNK - steps :])
            if z.size:
                _grad_gate(row, once, steps)
                _store(dz[b], row, Z, start, steps, lo, width)
            _back_through_step_sizes(row, once, steps)
            _store(du[b], row, READ, start, steps, lo, width)
            _store(d_raw[b], row, DDELTA, start, steps, lo, width)
        for n in range(d_state):
            _copy(g[b, n, lo:], state[n, G:], width)
            _copy(dA[b, n, lo:], state[n, DA:], width)
        _copy(dD[b, lo:], once[0, DSKIP:], width)
        _copy(d_bias[b, lo:], once[0, DBIAS:], width)


# ---- the causal convolution and its SiLU --------------------------------------------------------

# x[j + PAST] is step j of the chunk, after the PAST steps before it. conv[j] is what SiLU reads,
# in the backward its gradient, with the PAST steps after the chunk behind it. taps[0] has the
# TAPS weights of the channels and their bias in its fields, then the gradients of all these.
PAST = TAPS - 1
CONV_BIAS, DTAPS = TAPS * BLOCK, (TAPS + 1) * BLOCK


@_jit
def _scratch(like):
    return np.zeros((CHUNK + PAST, BLOCK), like.dtype)


@_jit
def _load_taps(taps, weight, bias, lo, width):
    for i in range(width):
        for k in range(TAPS):
            taps[0, k * BLOCK + i] = weight[lo + i, k]
        taps[0, CONV_BIAS + i] = bias[lo + i]


@_jit
def _load_with_past(x, source, start, steps, column, width):
    for j in range(PAST + steps):
        if start + j < PAST:
            x[j] = 0
        else:
            _copy(x[j], source[start + j - PAST, column:], width)


@_jit
def _convolve(conv, x, taps, steps):
    for j in range(steps):
        for i in range(BLOCK):
            total = taps[0, CONV_BIAS + i]
            for k in range(TAPS):
                total += taps[0, k * BLOCK + i] * x[j + k, i]
            conv[j, i] = total


@_jit
def _silu(conv, steps):
    for j in range(steps):
        for i in range(BLOCK):
            conv[j, i] *= _sigmoid(conv[j, i])


@_jit
def _back_through_silu(conv, dy, steps):
    for j in range(steps):
        for i in range(BLOCK):
            s = _sigmoid(conv[j, i])
            conv[j, i] = dy[j, i] * (s * (ONE + conv[j, i] * (ONE - s)))


@_jit
def _grad_taps(taps, conv, x, steps):
    for j in range(steps):
        for k in range(TAPS):
            for i in range(BLOCK):
                taps[0, DTAPS + k * BLOCK + i] += conv[j, i] * x[j + k, i]
        for i in range(BLOCK):
            taps[0, DTAPS + CONV_BIAS + i] += conv[j, i]


@_jit
def _grad_x(dx, conv, taps, steps):
    for j in range(steps):
        for i in range(BLOCK):
            total = ZERO * taps[0, i]
            for k in range(TAPS):
                total += taps[0, k * BLOCK + i] * conv[j + PAST - k, i]
            dx[j, i] = total


@_jit
def _conv_forward(x, column, weight, bias, y, first, stride):
    batch, pos, d_inner = y.shape
    n_blocks = (d_inner + BLOCK - 1) // BLOCK
    window, conv = _scratch(y), _scratch(y)
    taps = np.zeros((1, 2 * DTAPS), y.dtype)
    for item in range(first, batch * n_blocks, stride):
        b, lo = item // n_blocks, item % n_blocks * BLOCK
        width = min(BLOCK, d_inner - lo)
        _load_taps(taps, weight, bias, lo, width)
        for start in range(0, pos, CHUNK):
            steps = min(CHUNK, pos - start)
            _load_with_past(window, x[b], start, steps, column + lo, width)
            _convolve(conv, window, taps, steps)
            _silu(conv, steps)
            _store(y[b], conv, 0, start, steps, lo, width)


@_jit
def _conv_backward(x, column, weight, bias, dy, dx, d_taps, first, stride):
    """d_taps [b taps+1 e] has the gradients of the weights and of the bias."""
    batch, pos, d_inner = dy.shape
    n_blocks = (d_inner + BLOCK - 1) // BLOCK
    window, conv, grad = _scratch(dy), _scratch(dy), _scratch(dy)
    taps = np.zeros((1, 2 * DTAPS), dy.dtype)
    for item in range(first, batch * n_blocks, stride):
        b, lo = item // n_blocks, item % n_blocks * BLOCK
        width = min(BLOCK, d_inner - lo)
        taps[:] = 0
        _load_taps(taps, weight, bias, lo, width)
        conv[:] = 0
        for start in range((pos - 1) // CHUNK * CHUNK, -1, -CHUNK):
            steps = min(CHUNK, pos - start)
            for j in range(PAST):
                _copy(conv[steps + j], conv[j], width)
            _load_with_past(window, x[b], start, steps, column + lo, width)
            _load(grad, 0, dy[b], start, steps, lo, width)
            _convolve(conv, window, taps, steps)
            _back_through_silu(conv, grad, steps)
            _grad_taps(taps, conv, window, steps)
            _grad_x(grad, conv, taps, steps)
            _store(dx[b], grad, 0, start, steps, lo, width)
        for k in range(TAPS + 1):
            _copy(d_taps[b, k, lo:], taps[0, DTAPS + k * BLOCK :], width)


# ---- from and to PyTorch ------------------------------------------------------------------------


# PyTorch's threads wait for their next work in a busy loop, for milliseconds, and would take the
# cores from other threads. So the kernels run on them, by GNU OpenMP's entry point, which other
# OpenMP libraries have too. Where PyTorch brought none, they get threads of their own.
_openmp = ctypes.CDLL(None) if os.name == "posix" else None
_openmp = _openmp if hasattr(_openmp, "GOMP_parallel") else None


@cache
def _pool(pid):
    """Worker threads of this process (a forked child gets its own)."""
    return ThreadPoolExecutor(os.cpu_count())


def _run(kernel, *arguments):
    """Run a kernel on as many threads as PyTorch uses; results do not depend on how many."""
    arrays = [x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in arguments]
    threads = torch.get_num_threads()
    if threads == 1:
        kernel(*arrays, 0, 1)
    elif _openmp:
        failures = []

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def share(_):
            try:
                kernel(*arrays, _openmp.omp_get_thread_num(), _openmp.omp_get_num_threads())
            except BaseException as failure:  # which C would drop
                failures.append(failure)

        _openmp.GOMP_parallel(share, None, threads, 0)
        if failures:
            raise failures[0]
    else:
        list(_pool(os.getpid()).map(lambda first: kernel(*arrays, first, threads), range(threads)))


def _rows(x):
    """The rows of memory that hold x [b t e], and the column where its channels begin.

    The input of the convolution and the gate are the halves of one projection: no copy of them.
    """
    length = x.stride(1)
    column = x.storage_offset() % max(length, 1)
    first = x.storage_offset() - column
    # A half of one word that was cast keeps the stride of the whole, and has no more memory than its own.
    there = x.untyped_storage().nbytes() >= (first + x.shape[0] * x.shape[1] * length) * x.element_size()
    if x.stride() == (x.shape[1] * length, length, 1) and column + x.shape[2] <= length and there:
        return x.as_strided((*x.shape[:2], length), x.stride(), first), column
    return x.contiguous(), 0


def scan_forward(u, raw, A, B, C, D, z, bias, h0, softplus):
    """u, raw, z [b t e]; A [n e]; B, C [b t n]; D, bias [e]; h0 [b n e]; z may be None.

    Returns y [b t e], the last state, and the states between chunks [b chunk n e].
    """
    y, h = torch.empty_like(u), h0.clone()
    checkpoints = u.new_empty(u.shape[0], -(-u.shape[1] // CHUNK), *A.shape)
    z, column = (u.new_empty(0, 0, 0), 0) if z is None else _rows(z)
    _run(_scan_forward, u, raw, A, B, C, D, z, column, bias, h, softplus, y, checkpoints)
    return y, h, checkpoints


def scan_backward(u, raw, A, B, C, D, z, bias, checkpoints, r, g_last, softplus):
    """The gradients of u, raw, A, B, C, D, z, bias and h0 from r of y and g_last of the last."""
    batch, _, d_inner = u.shape
    du, d_raw, dA, g = (torch.empty_like(x) for x in (u, u, g_last, g_last))
    g.copy_(g_last)
    dB, dC = B.new_empty(2, -(-d_inner // BLOCK), *B.shape)
    dD, d_bias = u.new_empty(2, batch, d_inner)
    dz = u.new_empty(0, 0, 0) if z is None else torch.empty_like(u)
    z_rows, column = (dz, 0) if z is None else _rows(z)
    _run(
        _scan_backward,
        u,
        raw,
        A,
        B,
        C,
        D,
        z_rows,
        column,
        bias,
        checkpoints,
        r,
        g,
        softplus,
        du,
        d_raw,
        dA,
        dB,
        dC,
        dD,
        dz,
        d_bias,
    )
    dA, dB, dC, dD, d_bias = (x.sum(0) for x in (dA, dB, dC, dD, d_bias))
    return du, d_raw, dA, dB, dC, dD, None if z is None else dz, d_bias, g


def conv_forward(x, weight, bias):
    """SiLU of the causal convolution of x [b t e] with weight [e taps] and bias [e]; y [b t e]."""
    y = x.new_empty(x.shape)
    _run(_conv_forward, *_rows(x), weight, bias, y)
    return y


def conv_backward(x, weight, bias, dy):
    batch, _, d_inner = x.shape
    dx, d_taps = x.new_empty(x.shape), x.new_empty(batch, TAPS + 1, d_inner)
    _run(_conv_backward, *_rows(x), weight, bias, dy, dx, d_taps)
    d_taps = d_taps.sum(0)
    return dx, d_taps[:TAPS].T, d_taps[TAPS]


# ---- recurrences of one number a channel: see `linear_scan` --------------------------------------


@_jit
def _multiply_add(y, a, before, x):
    for i in range(len(y)):
        y[i] = a[i] * before[i] + x[i]


@_jit
def _log_add(y, before, w, k):
    for i in range(len(y)):
        decayed = before[i] - w[i]
        y[i] = max(decayed, k[i]) + _log1p(_exp(-abs(decayed - k[i])))


@_jit
def _linear_scan(a, x, before, backwards, h, first, stride):
    batch, pos, _ = x.shape
    for b in range(first, batch, stride):
        last = before[b]
        for j in range(pos):
            t = pos - 1 - j if backwards else j
            _multiply_add(h[b, t], a[b, t], last, x[b, t])
            last = h[b, t]


@_jit
def _log_sums(k, w, before, sums, first, stride):
    batch, pos, _ = k.shape
    for b in range(first, batch, stride):
        last = before[b]
        for t in range(pos):
            _log_add(sums[b, t], last, w, k[b, t])
            last = sums[b, t]


def linear_scan(a, x, before, backwards):
    """a, x [b t e]; before [b e]. Returns h [b t e]."""
    h = torch.empty_like(x)
    _run(_linear_scan, a, x, before, backwards, h)
    return h


def log_sums(k, w, before):
    """k [b t e]; w [e]; before [b e]. Returns l [b t e]."""
    sums = torch.empty_like(k)
    _run(_log_sums, k, w, before, sums)
    return sums
