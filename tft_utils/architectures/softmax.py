"""What softmax attentions share: a pattern that is computed when somebody asks for it, and its algebra.

A[h,t,s] = softmax_s(q_t[h] . k_s[h] / sqrt(d_head))      out_t = sum_h W_h sum_s A[h,t,s] v_s[h] + b
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class Attention:
    """Softmax attention frozen at its queries and keys: linear in the values that it is called with.

    q [... head pos d_head], k [... head pos d_head]; past, of several variants of one prompt: keys,
    values [prompt 1 head before d_head] and mask [prompt before], 0 at padding; q, k then
    [prompt variant head pos d_head].
    """

    def __init__(self, q: Tensor, k: Tensor, past: dict[str, Tensor] | None = None) -> None:
        groups = q.shape[-3] // k.shape[-3]  # queries may share keys: grouped attention
        self.q, self.past, self._groups = q, past, groups
        self.k = k if groups == 1 else k.repeat_interleave(groups, -3)

    @cached_property
    def pattern(self) -> Tensor:
        """A [... head query source], rows sum to 1; sources are the past's words, then the new ones."""
        pos, q = self.q.shape[-2], self.q / math.sqrt(self.q.shape[-1])
        if pos == 1:  # as a product of matrices of one number each it would be slow
            scores = (q * self.k).sum(-1, keepdim=True)
        else:
            later = torch.ones(pos, pos, dtype=torch.bool, device=q.device).triu(1)
            scores = (q @ self.k.mT).masked_fill_(later, -torch.inf)
        if self.past:
            unseen = ~self.past["mask"].bool()[:, None, None, None]
            before = self._past_with(q, "keys").masked_fill_(unseen, -torch.inf)
            scores = torch.cat([before, scores], -1)
        return torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(
            scores.dtype
        )

    def _past_with(self, x: Tensor, part: str) -> Tensor:
        """x [prompt variant head pos ...] times the past's keys or values, which the variants share."""
        held = self.past[part][:, 0]
        held = held.repeat_interleave(self._groups, 1) if self._groups > 1 else held
        folded = x.transpose(1, 2).flatten(2, 3)  # [prompt head variant*pos ...]
        product = folded @ (held.mT if part == "keys" else held)
        return product.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2)

    def __call__(self, v: Tensor) -> Tensor:
        """Mixed values [... head pos width] of v [... head pos width].

        The pattern is never built unless somebody has read it, or there is a past.
        """
        v = v if self._groups == 1 else v.repeat_interleave(self._groups, -3)
        if not self.past and "pattern" not in self.__dict__:
            return F.scaled_dot_product_attention(self.q, self.k, v, is_causal=True)
        before = self.pattern.shape[-1] - v.shape[-2]
        own = self.pattern[..., before:]
        mixed = own * v if v.shape[-2] == 1 else own @ v
        return mixed + self._past_with(self.pattern[..., :before], "values") if before else mixed


def leak(pattern: Tensor, gradient: Tensor) -> Tensor:
    """What AttnLRP loses in one layer's softmax A = softmax(x): sum A dA - sum x dx, one number [batch].

    pattern [batch head query source]; gradient: that of A, before the uniform rule halves it. The
    derivative's rows sum to zero, so log A stands in for the scores x (Achtibat et al. 2024).
    """
    gradient = gradient / 2
    scores = pattern * (gradient - (pattern * gradient).sum(-1, keepdim=True))
    return (pattern * gradient - torch.xlogy(scores, pattern)).sum((1, 2, 3))


@dataclass(frozen=True)
class Mixing:
    """Softmax attention on one input. Every level of `weights` is the pattern A itself."""

    pattern: Tensor  # A [batch head query source], rows sum to 1
    v: Tensor  # [batch head source d_head]
    projection: Tensor  # W_h of every head [head d_head d_model]
    bias: Tensor  # b [d_model]

    points: ClassVar[tuple[str, ...]] = ("mixing", "v")  # what `of` reads
    unit: ClassVar[str] = "head"
    levels: ClassVar[tuple[str, ...]] = ("operator",)
    spread: ClassVar[int] = 0  # a word's value stands at its own position only
    normalised: ClassVar[bool] = True

    @classmethod
    def of(cls, points: dict, linear: torch.nn.Linear) -> "Mixing":
        """From the points that a block handed to `put`, and the projection that writes its output."""
        pattern, v = points["mixing"].pattern.detach(), points["v"].detach()
        v = v.repeat_interleave(pattern.shape[1] // v.shape[1], 1)
        weight = linear.weight.detach()
        bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        return cls(pattern, v, weight.T.unflatten(0, (pattern.shape[1], -1)), bias)

    def row(self, i: int, length: int) -> "Mixing":
        """The first `length` positions of sequence i, as a batch of one."""
        pattern, v = self.pattern[i : i + 1, :, :length, :length], self.v[i : i + 1, :, :length]
        return replace(self, pattern=pattern, v=v)

    def weights(
        self, level: str = "operator", queries: Tensor | None = None, units: list[int] | None = None
    ) -> Tensor:
        """A [batch head query source], for some queries and heads (None: all)."""
        pattern = self.pattern if units is None else self.pattern[:, units]
        return pattern if queries is None else pattern[:, :, queries]

    def values(self, level: str = "operator", units: list[int] | None = None) -> Tensor:
        """v [batch head source d_head]."""
        return self.v if units is None else self.v[:, units]

    def mix(self, values: Tensor) -> Tensor:
        """The pattern applied to any values [batch head source d_head]."""
        return self.pattern.to(values.dtype) @ values

    def read_out(self, mixed: Tensor) -> Tensor:
        """Mixed values [batch head pos d_head] as a change of the mixer's output, without bias."""
        return torch.einsum("bhtw,hwd->btd", mixed, self.projection)

    def constant(self) -> Tensor:
        """The part of the output that no position's value makes [batch pos d_model]."""
        return self.bias.expand(len(self.v), self.v.shape[2], -1)
