"""What gated linear recurrences share: one state that every position decays, writes to and reads.

Symbols, at position t of one head:

    q_t  read vector [key]      S_t  state [key value]      a_t  decay, [key] or one number
    k_t  write vector [key]     v_t  what is written [value]    e_t  how much the delta rule erases
                                                                b_t  weight of the present word

    S_t = a_t S_{t-1} + k_t w_t^T,     y_t = q_t S_t,     w_t = v_t, or with the delta rule
    w_t = e_t (v_t - k_t^T a_t S_{t-1}); or, read before it is written, y_t = q_t S_{t-1} + b_t v_t

Frozen at its q, k, a, e and b, a recurrence is linear in v: y_t = sum_s alpha[t,s] v_s. That is the
attention hidden in it (Ali et al. 2024, arXiv 2403.01590); `Mixing` adds what stands around it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import repeat
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.architectures.linear_scan import linear_scan


def keep(name: str, value, t: int | None = None):
    """The `put` that changes nothing."""
    return value


keep.points = ()


def looks(put: Callable, point: str) -> bool:
    """Whether a `put` looks at a point: where it does not, a block may take a shortcut."""
    return point in getattr(put, "points", (point,))


def wide(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms(x: Tensor, weight: Tensor, eps: float, put: Callable = keep, point: str = "scale") -> Tensor:
    """RMSNorm over the last axis; its scale is a point."""
    x_wide = wide(x)
    scale = put(point, torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps))
    return weight * (x_wide * scale).to(weight.dtype)


def silu(x: Tensor, put: Callable = keep, point: str = "slope") -> Tensor:
    """SiLU as x times its slope, which is a point."""
    if not looks(put, point):
        return F.silu(x)
    return x * put(point, torch.sigmoid(x))


def bound(x: Tensor, at: float, put: Callable = keep, point: str = "cap") -> Tensor:
    """x kept within -at and at by a tanh, as x times its slope, which is a point."""
    within = at * torch.tanh(x / at)
    if not looks(put, point):
        return within
    return x * put(point, within / torch.where(x == 0, 1, x))


def convolve(
    x: Tensor, conv: torch.nn.Conv1d, put: Callable = keep, past: Tensor | None = None
) -> Tensor:
    """Causal depthwise convolution of x [... pos channel].

    past: the last inputs before x [... channel tap], with as many axes as x, sizes 1 or equal.
    """
    taps = put(
        "taps", conv.weight[:, 0].flip(-1).T
    )  # w_j [step channel]: the last weight meets the present
    bias = put("convolution bias", taps.new_zeros(taps.shape[1]) if conv.bias is None else conv.bias)
    x, reach = put("x", x), len(taps) - 1
    shape = (*x.shape[:-2], reach, x.shape[-1])
    before = x.new_zeros(shape) if past is None else past[..., past.shape[-1] - reach :].mT.expand(shape)
    x, pos = torch.cat([before, x], -2), x.shape[-2]
    c = bias
    for j, tap in enumerate(taps):
        c = torch.addcmul(c, tap, x[..., reach - j : reach - j + pos, :])
    return c


@dataclass(frozen=True)
class Recurrence:
    """A recurrence frozen on one input: linear in the values that it is called with.

    q, k [... pos head key]; decay [... pos head key or 1]; erase, bonus [... pos head] or None; past:
    the state before [... head key value], sizes of leading axes 1 or equal; None: zero.
    """

    q: Tensor
    k: Tensor
    decay: Tensor
    erase: Tensor | None = None
    bonus: Tensor | None = None
    past: Tensor | None = None
    put: Callable = keep

    def __call__(self, v: Tensor) -> Tensor:
        """y [... pos head value] for v [... pos head value].

        A `put` with a true attribute `stepwise` gets 'state', which y_t reads, and 'carry', which step
        t + 1 takes.
        """
        stepwise, outputs = getattr(self.put, "stepwise", False), []
        if self.k.shape[-1] == 1 and self.erase is None and not stepwise:
            return self._scan(v)
        shape = (*v.shape[:-3], v.shape[-2], self.k.shape[-1], v.shape[-1])
        S = v.new_zeros(shape) if self.past is None else self.past.expand(shape)

        def read(S: Tensor, q: Tensor, t: int) -> Tensor:
            S = self.put("state", S, t) if stepwise else S
            outputs.append((q[..., None, :] @ S)[..., 0, :])
            return S

        # Unbound once: for a slice in the loop, autograd would fill a tensor of the whole length.
        words = (x.unbind(-3) for x in (self.q, self.k, self.decay, v))
        numbers = (repeat(None) if x is None else x.unbind(-2) for x in (self.erase, self.bonus))
        for t, (q, k, decay, write, erase, bonus) in enumerate(zip(*words, *numbers, strict=False)):
            if bonus is not None:
                S = read(S, q, t)
                outputs[t] = outputs[t] + bonus[..., None] * write
            S, write = decay[..., None] * S, write[..., None, :]
            if erase is not None:
                write = write - (k[..., None] * S).sum(-2, keepdim=True)
                write = erase[..., None, None] * write
            S = S + k[..., None] * write
            S = read(S, q, t) if bonus is None else S
            S = self.put("carry", S, t) if stepwise else S
        return torch.stack(outputs, -3)

    def _scan(self, v: Tensor) -> Tensor:
        """The same where keys have one number: every number of the state goes its own way."""
        x = self.k * v
        flat = (x.shape[:-3].numel(), x.shape[-3], x.shape[-2:].numel())
        before = x.new_zeros(()) if self.past is None else self.past[..., 0, :].to(x.dtype)
        before = before.expand(*x.shape[:-3], *x.shape[-2:])
        a = self.decay.to(x.dtype).expand_as(x)
        S = linear_scan(a.reshape(flat), x.reshape(flat), before.reshape(flat[0], -1)).view(x.shape)
        if self.bonus is None:
            return self.q * S
        S = torch.cat([before.unsqueeze(-3), S[..., :-1, :, :]], -3)
        return self.q * S + self.bonus[..., None] * v

    def weights(self, queries: Tensor, heads: list[int] | None = None) -> Tensor:
        """alpha [batch head query source]: the recurrence applied to the identity."""
        part = self._at((slice(None), slice(None), slice(None) if heads is None else heads))
        batch, pos, n = part.k.shape[:3]
        eye = torch.eye(pos, dtype=part.k.dtype, device=part.k.device)[None, :, None]
        return part(eye.expand(batch, pos, n, pos))[:, queries].transpose(1, 2)

    def row(self, i: int, length: int) -> "Recurrence":
        """The first `length` positions of sequence i, as a batch of one."""
        return self._at((slice(i, i + 1), slice(length)))

    def _at(self, index: tuple) -> "Recurrence":
        """A part of it, from a state of zero."""
        q, k, decay, erase, bonus = (
            None if x is None else x[index] for x in (self.q, self.k, self.decay, self.erase, self.bonus)
        )
        return Recurrence(q, k, decay, erase, bonus)

    @property
    def heads(self) -> int:
        return self.k.shape[-2]


@dataclass(frozen=True)
class Mixing:
    """A recurrent mixer on one input, frozen: linear in its values, channel by channel.

    Around the recurrence stand a short convolution (taps w_j, slope sigma of its SiLU), a skip D and a
    gate g. Three nested levels, the last after Zimerman et al. (2024, arXiv 2405.16504):

        scan        y_t = sum_s alpha[t,s] u_s
        skip        y_t = sum_s (alpha[t,s] + D 1{s=t}) u_s
        operator    g_t y_t = sum_k alpha_hat[t,k] x_k + constant, where, with tap j meeting x_{s-j},
                    alpha_hat[t,k] = g_t sum_j (alpha[t,k+j] + D 1{k+j=t}) sigma_{k+j} w_j

    A level is exact for this input, and is no derivative: everything but the values is frozen.
    """

    core: Recurrence  # or any frozen operator with the same methods, on [batch pos unit width]
    x: Tensor  # what the convolution reads [batch pos channel], as are u, sigma and gate
    u: Tensor
    sigma: Tensor
    gate: Tensor
    D: Tensor  # [channel]
    taps: Tensor  # w_j [step channel]
    conv_bias: Tensor  # [channel]
    projection: Tensor  # of every channel [channel 1 d_model]
    bias: Tensor  # [d_model]

    points: ClassVar[list[str]] = (  # what `of` reads, where a block has it
        "mixing,convolution,convolution bias,v,x,slope,gate,gated scale,skip,taps".split(",")
    )
    unit: ClassVar[str] = "channel"
    levels: ClassVar[tuple[str, ...]] = ("scan", "skip", "operator")
    normalised: ClassVar[bool] = False

    @classmethod
    def of(cls, points: dict, linear: torch.nn.Linear) -> "Mixing":
        """From the points that a block handed to `put`, and the projection that writes its output.

        A block without skip or gate lacks their points; without convolution u is the point 'v'.
        """
        points = {
            name: value.detach() if isinstance(value, Tensor) else value for name, value in points.items()
        }
        u = wide(points["convolution" if "convolution" in points else "v"].flatten(2))
        one, none = torch.ones_like(u), torch.zeros_like(u[0, 0])
        weight = wide(linear.weight.detach())
        return cls(
            core=points["mixing"],
            x=wide(points["x"]) if "x" in points else u,
            u=u,
            sigma=wide(points.get("slope", one)),
            gate=wide(points.get("gate", one)) * points.get("gated scale", 1.0),
            D=wide(points["skip"]) if "skip" in points else none,
            taps=wide(points["taps"]) if "taps" in points else one[0, :1],
            conv_bias=wide(points.get("convolution bias", none)),
            projection=weight.T[:, None],
            bias=weight.new_zeros(len(weight)) if linear.bias is None else wide(linear.bias.detach()),
        )

    @property
    def spread(self) -> int:
        """How many positions after a word's own hold its value too: the convolution's reach."""
        return len(self.taps) - 1

    @property
    def _width(self) -> int:
        """Channels of one unit of the recurrence, which share its weights."""
        return self.u.shape[-1] // self.core.heads

    def row(self, i: int, length: int) -> "Mixing":
        """The first `length` positions of sequence i, as a batch of one."""
        words = {name: getattr(self, name)[i : i + 1, :length] for name in ("x", "u", "sigma", "gate")}
        return replace(self, core=self.core.row(i, length), **words)

    def weights(
        self, level: str = "operator", queries: Tensor | None = None, units: list[int] | None = None
    ) -> Tensor:
        """A level's matrix [batch channel query source], for some queries and channels (None: all)."""
        if level not in self.levels:
            raise ValueError(f"expected a level, one of {', '.join(self.levels)}; found {level!r}")
        pos, channels = self.x.shape[1:]
        queries = torch.arange(pos, device=self.x.device) if queries is None else queries
        units = list(range(channels)) if units is None else units
        heads = [unit // self._width for unit in units]
        distinct = sorted(set(heads))
        alpha = self.core.weights(queries, distinct)
        if distinct != heads:  # channels of one head share its weights
            alpha = alpha[:, [distinct.index(head) for head in heads]]
        if level == "scan":
            return alpha
        at = torch.arange(len(queries), device=queries.device)
        alpha[:, :, at, queries] += self.D[units, None]
        if level == "skip":
            return alpha
        alpha *= self.sigma[..., units].transpose(1, 2)[:, :, None]
        taps = self.taps[:, units, None, None]
        operator = alpha * taps[0]
        for j in range(1, len(taps)):
            operator[..., :-j].addcmul_(alpha[..., j:], taps[j])
        return operator.mul_(self.gate[:, queries][..., units].transpose(1, 2)[..., None])

    def values(self, level: str = "operator", units: list[int] | None = None) -> Tensor:
        """What the level's matrix multiplies [batch channel source 1]: u, or x for 'operator'."""
        values = (self.x if level == "operator" else self.u).transpose(1, 2)[..., None]
        return values if units is None else values[:, units]

    def mix(self, values: Tensor) -> Tensor:
        """alpha applied to any u [batch channel source 1], in time linear in the length."""
        by_position = values[..., 0].transpose(1, 2)
        mixed = self.core(by_position.unflatten(-1, (-1, self._width)))
        return mixed.flatten(2).transpose(1, 2)[..., None]

    def read_out(self, mixed: Tensor) -> Tensor:
        """Mixed values [batch channel pos 1] as a change of the mixer's output, without bias."""
        return (mixed[..., 0].transpose(1, 2) * self.gate) @ self.projection[:, 0]

    def constant(self) -> Tensor:
        """The part of the output that no x_k makes [batch pos d_model]: from the biases."""
        u = (self.sigma * self.conv_bias).transpose(1, 2)[..., None]
        return self.read_out(self.mix(u) + self.D[:, None, None] * u) + self.bias
