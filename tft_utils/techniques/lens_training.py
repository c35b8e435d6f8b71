"""Training a lens: all depths in one pass over residual streams.

The translators of `lenses` learn to minimise KL(model || lens) at the same word. With q = softmax(z)
the lens's distribution, p the model's own and e(q) = sum_v q_v U_v, the mean unembedding row,

    KL = log sum exp z - x . e(p) + const,     dKL/dx = e(q) - e(p),     x = n(r + A r + b)

so one number and one vector a word are all that training needs of the vocabulary: `mean_row`.

    texts = lenses.encode(model, ["The capital of Zabar is Dovella ."])
    lens = train(model, cached(model, texts, 2048), steps=200)
    lenses.measure(model, lens, texts).bits_per_byte("ce")        # an Estimate for each depth
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tft_utils.files import replace_file
from tft_utils.techniques.lenses import (
    ROWS,
    Lens,
    Texts,
    by_length,
    digest,
    logit_lens,
    normed,
    residuals,
    some,
    unembedding,
)

RATE, BETAS = 0.05, (0.8, 0.9)  # of Adam; for matrices at width 128, and less for wider ones
RIDGE = 3.0  # of a depth's mean variance: directions below it are left as they are
SAY_EVERY, SAVE_EVERY = 5.0, 60.0  # seconds between two lines of progress, and two checkpoints


# ---- where residual streams come from --------------------------------------------------------------


def streamed(model, texts: Texts, batch: int, seed: int = 0) -> Callable[[int], Tensor]:
    """step -> residuals [k word d_model] of `batch` texts, which the model reads at that step.

    Every text comes once an epoch. A step's texts follow from seed and step alone.
    """

    def read(step: int) -> Tensor:
        return residuals(model, *some(texts, _drawn(len(texts), batch, step, seed)))

    return read


def cached(model, texts: Texts, batch: int, seed: int = 0, read: int = 64) -> Callable[[int], Tensor]:
    """step -> residuals [k word d_model] of `batch` words, mixed from all texts, which the model reads
    once, `read` texts at a time, and which are kept: word * (L + 1) * d_model numbers."""
    states = torch.cat([residuals(model, *some(texts, rows)) for rows in by_length(texts, read)], 1)

    def pick(step: int) -> Tensor:
        return states[:, _drawn(states.shape[1], batch, step, seed).to(states.device)]

    return pick


def _drawn(n: int, batch: int, step: int, seed: int) -> Tensor:
    """The items of a step when all n are dealt out in a new order every epoch."""
    if not 0 < batch <= n:
        raise ValueError(f"expected a batch of 1 to {n} items, found {batch}; choose a smaller one")
    epoch, at = divmod(step, n // batch)
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=draw)[at * batch : (at + 1) * batch]


# ---- the loss and its gradient ---------------------------------------------------------------------


@torch.no_grad()
def mean_row(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Under q = softmax(x . rows) the mean row sum_v q_v rows_v [word d_model] and log sum exp [word],
    both float32, for x [word d_model] and rows [vocab d_model].

    The logits of at most `ROWS` words exist at a time, in one float32 array that is used again.
    """
    mean, log_sum = (torch.empty_like(x, dtype=torch.float32), x.new_empty(len(x), dtype=torch.float32))
    scratch = x.new_empty(min(ROWS, len(x)), len(rows))
    for part, out, total in zip(x.split(ROWS), mean.split(ROWS), log_sum.split(ROWS), strict=True):
        logits = torch.mm(part, rows.mT, out=scratch[: len(part)])
        z = logits.float()  # the same memory when it is float32 already
        most = z.amax(-1, keepdim=True)
        z.sub_(most).exp_()
        sums = z.sum(-1, keepdim=True)
        torch.div(logits.copy_(z) @ rows, sums, out=out)
        total.copy_((most + sums.log())[:, 0])
    return mean, log_sum


class _Divergence(torch.autograd.Function):
    """KL(p || q) [k word] of q = softmax(x . rows), x [k word d_model], from p = softmax(final . rows).

    The gradient e(q) - e(p) is made on the way forward, while the logits exist.
    """

    @staticmethod
    def forward(ctx, x: Tensor, final: Tensor, rows: Tensor) -> Tensor:
        target, own = mean_row(final, rows)
        mean, log_sum = mean_row(x.flatten(0, 1), rows)
        ctx.save_for_backward(mean.view(x.shape).sub_(target).to(x.dtype))
        away = ((final.float() - x.float()) * target).sum(-1)
        return log_sum.view(x.shape[:-1]) - own + away

    @staticmethod
    def backward(ctx, given: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * given[..., None].to(gradient.dtype), None, None


def divergence(model, lens: Lens, states: Tensor) -> Tensor:
    """Mean KL(model || lens) of each depth [k] in nats a word, k < L, for states [k word d_model];
    differentiable in the translators."""
    x = normed(model, lens.translate(states))
    return _Divergence.apply(x[:-1], x[-1].detach(), unembedding(model)).mean(-1)


# ---- recipes ---------------------------------------------------------------------------------------


def train(
    model,
    source: Callable[[int], Tensor],
    steps: int,
    checkpoint: Path | None = None,
    say: Callable = print,
) -> Lens:
    """Trains the translators of all depths at once on source(0) ... source(steps - 1).

    Adam, each depth on its own, in coordinates where the residual stream has no direction that dwarfs
    the others (`_whitened`): A = M P and b = c - M P mean for what is learned, M and c, which start at
    zero. The rate falls linearly to zero. checkpoint: a file that is written every minute and that a
    later call with the same source carries on from.
    """
    center, P, scale = _whitened(source(0))
    M = torch.zeros_like(P, requires_grad=True)
    c = torch.zeros_like(center, requires_grad=True)
    rates = (RATE * 128 / len(P[0]), RATE)  # a sum over more inputs moves further: Yang et al. 2022
    optimiser = torch.optim.Adam([{"params": [each]} for each in (M, c)], betas=BETAS)
    parameters, done = {"M": M, "c": c}, 0
    identity = {"digest": digest(model), "steps": steps}
    if checkpoint is not None and checkpoint.exists():
        saved = _carried_on(checkpoint, identity)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
        optimiser.load_state_dict(saved["optimiser"])
        done = saved["step"]
        say(f"lens: carrying on from step {done} ...", file=sys.stderr)

    def lens() -> Lens:
        A = M @ P
        return Lens(A, (c * scale - center @ A.mT)[:, 0])

    def save(step: int) -> None:
        whole = {name: each.detach() for name, each in parameters.items()} | identity
        whole |= {"optimiser": optimiser.state_dict(), "step": step}
        replace_file(checkpoint, functools.partial(torch.save, whole))

    start = said = kept = time.monotonic()
    for step in range(done, steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        with torch.enable_grad():
            kl = divergence(model, lens(), source(step))
            optimiser.zero_grad()
            kl.sum().backward()
        optimiser.step()
        now, last = time.monotonic(), step + 1 == steps
        if now - said > SAY_EVERY or last:
            said, left = now, (steps - step - 1) * (now - start) / (step + 1 - done)
            say(
                f"lens: step {step + 1}/{steps}, KL {kl.mean():.3f} nats, {left:.0f} s left ...",
                file=sys.stderr,
            )
        if checkpoint is not None and (now - kept > SAVE_EVERY or last):
            kept = now
            save(step + 1)
    with torch.no_grad():
        return lens()


def _whitened(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each depth k < L of states [k word d_model]: the mean [k 1 d_model], P [k d_model d_model]
    and the typical size of a coordinate [k 1 1]. P (r - mean) is about as large in every direction of
    much variance, and keeps the rest in proportion; as the stream comes, a few directions dwarf the
    others, which then learn slowly."""
    r = states[:-1].float()
    center = r.mean(1, keepdim=True)
    covariance = (r - center).mT @ (r - center) / r.shape[1]
    values, vectors = torch.linalg.eigh(covariance.double())
    mean = values.mean(-1, keepdim=True)
    gains = (mean / (values.clamp(min=0) + RIDGE * mean)).sqrt()
    P = (vectors * gains[:, None]) @ vectors.mT
    return center, P.float(), mean.sqrt()[..., None].float()


def _carried_on(checkpoint: Path, identity: dict) -> dict:
    try:
        saved = torch.load(checkpoint, weights_only=True)
    except Exception as error:  # which one depends on where the file was cut
        raise ValueError(
            f"expected a lens's checkpoint in {checkpoint}, found a damaged file; remove it to train "
            "from the start"
        ) from error
    for key, value in identity.items():
        if saved[key] != value:
            raise ValueError(
                f"expected a checkpoint with {key} {value} in {checkpoint}, found {saved[key]}; "
                "remove it, or train with the model and the steps it was written for"
            )
    return saved


def train_as_published(model, source: Callable[[int], Tensor], steps: int) -> Lens:
    """The published recipe (Belrose et al. 2023; Paulo et al. 2024), for comparison: SGD with Nesterov
    momentum 0.9 at rate 0.1 falling linearly, weight decay 1e-3, and one gradient norm, over all
    depths together, clipped at 1."""
    A, b = (each.requires_grad_() for each in vars(logit_lens(model)).values())
    optimiser = torch.optim.SGD([A, b], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        with torch.enable_grad():
            optimiser.zero_grad()
            divergence(model, Lens(A, b), source(step)).sum().backward()
        torch.nn.utils.clip_grad_norm_([A, b], 1.0)
        optimiser.step()
    return Lens(A.detach(), b.detach())


def shuffled(source: Callable[[int], Tensor], seed: int = 0) -> Callable[[int], Tensor]:
    """A source whose last states belong to other words of the batch: the control. All that a lens can
    learn from it is what the model says on average."""

    def read(step: int) -> Tensor:
        states = source(step).clone()
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        order = torch.randperm(states.shape[1], generator=draw).to(states.device)
        states[-1] = states[-1, order]
        return states

    return read
