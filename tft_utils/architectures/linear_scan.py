"""Two recurrences over words, channel by channel, compiled for the CPU: what RWKV and Griffin need.

    linear_scan   h_t = a_t h_{t-1} + x_t
    log_sums      l_t = log(exp(l_{t-1} - w) + exp(k_t))

With r_t = dL/dh_t from outside and g_t = dL/dh_t in all, the first one's gradients are the same
recurrence, backwards:

    g_t = r_t + a_{t+1} g_{t+1}     dL/dx_t = g_t     dL/da_t = g_t h_{t-1}     dL/dh_0 = a_1 g_1

and so are the second one's, with p_t = exp(l_{t-1} - w - l_t) for a_t:

    dL/dk_t = exp(k_t - l_t) g_t    dL/dw = -sum_t p_t g_t                      dL/dl_0 = p_1 g_1

Nothing but these functions is used backwards, so that they can be differentiated again. Where numba is
not there, or tensors are on another device, they are loops of PyTorch.
"""

import torch
from torch import Tensor

try:
    from tft_utils.architectures import mamba_kernels as kernels
except ImportError:  # no numba
    kernels = None


def linear_scan(a: Tensor, x: Tensor, before: Tensor | None = None) -> Tensor:
    """h [batch pos channel] for a, x [batch pos channel]; before: h before the first word
    [batch channel], None: 0."""
    before = x.new_zeros(len(x), x.shape[2]) if before is None else before
    return _Linear.apply(a, x, before, False)


def log_sums(k: Tensor, w: Tensor, before: Tensor) -> Tensor:
    """l [batch pos channel] for k [batch pos channel] and w [channel]; before: l before the first word
    [batch channel], about -1e38 where there was none."""
    return _LogSums.apply(k, w, before)


def _shifted(x: Tensor, first: Tensor, backwards: bool = False) -> Tensor:
    """x [batch pos channel] of the word before, or after; first [batch channel] fills what is left."""
    if backwards:
        return torch.cat([x[:, 1:], first[:, None]], 1)
    return torch.cat([first[:, None], x[:, :-1]], 1)


class _Linear(torch.autograd.Function):
    """Backwards in time: h_t = a_t h_{t+1} + x_t, and `before` is what stands after the last word."""

    @staticmethod
    def forward(ctx, a, x, before, backwards):
        if kernels is not None and x.device.type == "cpu":
            h = kernels.linear_scan(a.contiguous(), x.contiguous(), before.contiguous(), backwards)
        else:
            h, last = torch.empty_like(x), before
            for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
                last = h[:, t] = a[:, t] * last + x[:, t]
        ctx.save_for_backward(a, before, h)
        ctx.backwards = backwards
        return h

    @staticmethod
    def backward(ctx, r):
        a, before, h = ctx.saved_tensors
        next_a = _shifted(a, torch.zeros_like(before), not ctx.backwards)
        g = _Linear.apply(next_a, r, torch.zeros_like(before), not ctx.backwards)
        first = -1 if ctx.backwards else 0
        return g * _shifted(h, before, ctx.backwards), g, a[:, first] * g[:, first], None


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, k, w, before):
        if kernels is not None and k.device.type == "cpu":
            sums = kernels.log_sums(k.contiguous(), w.contiguous(), before.contiguous())
        else:
            sums, last = torch.empty_like(k), before
            for t in range(k.shape[1]):
                last = sums[:, t] = torch.logaddexp(last - w, k[:, t])
        ctx.save_for_backward(k, w, before, sums)
        return sums

    @staticmethod
    def backward(ctx, r):
        k, w, before, sums = ctx.saved_tensors
        p = torch.exp(_shifted(sums, before) - w - sums)
        none = torch.zeros_like(before)
        g = _Linear.apply(_shifted(p, none, True), r, none, True)
        return torch.exp(k - sums) * g, -(p * g).sum((0, 1)), p[:, 0] * g[:, 0]
