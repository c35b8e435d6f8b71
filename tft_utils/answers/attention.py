"""Lesson 02, attention: the matrix inside a scan, what heads follow, and how not to misread it."""

import math

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def unroll(delta, A, B, C):
    """The weights with which a scan reads its inputs: [channel query source].

    delta: step sizes [pos channel]; A: decay rates [channel d_state], all negative;
    B, C: write and read vectors [pos d_state].
    """
    passed = delta.cumsum(0).T  # [channel pos]
    gap = passed[:, :, None] - passed[:, None, :]  # between source and query
    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])  # [channel query source n]
    written = delta.T[:, :, None] * B  # [channel source n]
    return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()


def lag_profile(weights, queries, lags):
    """Mean weight on the word k back, over the queries, for k = 0 to lags - 1: [head lag].

    weights: [head query source], its rows belong to the positions in queries [query].
    """
    rows = torch.arange(len(queries))
    return torch.stack([weights[:, rows, queries - k].mean(1) for k in range(lags)], dim=1)


def to_words(alpha, D, sigma, taps, gate):
    """The weights from the convolution's input x to the gated output: [channel query source].

    alpha: weights on u [channel query source]; D: skip weight [channel]; sigma: u = sigma * c
    [pos channel]; taps: the convolution's weight j words back [step channel]; gate: [pos channel].
    """
    on_u = alpha + D[:, None, None] * torch.eye(alpha.shape[-1])
    on_c = on_u * sigma.T[:, None]
    on_x = torch.zeros_like(on_c)
    for j, tap in enumerate(taps):
        n = on_c.shape[-1] - j
        on_x[..., :n] += tap[:, None, None] * on_c[..., j:]
    return gate.T[:, :, None] * on_x


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def _expect_shape(found, shape: tuple[int, ...], what: str) -> None:
    if not torch.is_tensor(found):
        raise Wrong(f"expected one tensor, found {type(found).__name__}; return {what}")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {list(shape)}, found {list(found.shape)}")


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draws) for shape in shapes]


def check_unroll(attempt) -> None:
    draws = torch.Generator().manual_seed(1)
    delta = 0.3 + torch.rand(5, 3, generator=draws)
    A = -0.3 - torch.rand(3, 2, generator=draws)
    B, C = _random((5, 2), (5, 2))
    found = attempt(delta, A, B, C)
    _expect_shape(found, (3, 5, 5), "weights [channel query source]")
    truth = unroll(delta, A, B, C)
    if _close(found, truth):
        long = torch.full((200, 1), 5.0)  # gaps of up to 1,000: exp of them is infinite
        if not attempt(long, torch.tensor([[-1.0]]), *torch.ones(2, 200, 1)).isfinite().all():
            raise Wrong(
                "right on five words, not finite on 200: for a source after its query the gap is "
                "negative and its exponential explodes; cut the gap off at 0 before exp"
            )
        return
    if found.triu(1).abs().max() > 1e-6:
        raise Wrong("a word reads words after it; sources after the query get weight 0")
    written = delta.T[:, :, None] * B
    passed = delta.cumsum(0).T
    gap = (passed[:, :, None] - passed[:, None, :]).clamp(min=0)

    def with_gap(gap: Tensor, written: Tensor = written) -> Tensor:
        kept = torch.exp(gap[..., None] * A[:, None, None])
        return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()

    mistakes = {
        "the source's own step fades it already: what is written at s fades from s + 1 on":
            with_gap(gap + delta.T[:, None, :]),
        "the last step is missing: what is written at s also fades at the query itself":
            with_gap((gap - delta.T[:, :, None]).clamp(min=0)),
        "the step size is missing from what is written: delta times B": with_gap(gap, B.expand(3, 5, 2)),
        "nothing fades: each later word keeps exp(delta A) of it": with_gap(torch.zeros_like(gap)),
        "B and C are exchanged: the source writes with B, the query reads with C":
            torch.einsum("sn,ctsn,tn,cs->cts", C, torch.exp(gap[..., None] * A[:, None, None]), B,
                         delta.T).tril(),
    }  # fmt: skip
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    raise Wrong(
        "expected weight [c, t, s] to be the sum over n of C_t exp(A (delta_{s+1} + ... + delta_t)) "
        "delta_s B_s; try one channel with one entry on paper"
    )


def check_lag_profile(attempt) -> None:
    queries = torch.tensor([4, 5, 7])
    (weights,) = _random((2, 3, 9))
    found = attempt(weights, queries, 4)
    _expect_shape(found, (2, 4), "profiles [head lag]")
    truth = lag_profile(weights, queries, 4)
    if _close(found, truth):
        return
    rows = torch.arange(3)
    ahead = [weights[:, rows, (queries + k).clamp(max=8)].mean(1) for k in range(4)]
    mistakes = {
        "you add the weights up; take their mean over the queries": 3 * truth,
        "your lag 0 is the word before; lag 0 is the query itself":
            lag_profile(weights, queries - 1, 4),
        "your lags are in reverse order: k = 0 comes first": truth.flip(1),
        "the source of row i is queries[i] - k, not i - k: rows start at the first query":
            lag_profile(weights, rows, 4),
    }  # fmt: skip
    if _close(found[:, 0], torch.stack(ahead, 1)[:, 0]) and _close(found[:, 1], ahead[1]):
        raise Wrong("you look ahead: k words back from t is t - k")
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    raise Wrong("expected entry [h, k] to be the mean over i of weights[h, i, queries[i] - k]")


def check_to_words(attempt) -> None:
    alpha, D, sigma, taps, gate = _random((2, 6, 6), (2,), (6, 2), (3, 2), (6, 2))
    alpha = alpha.tril()
    before = alpha.clone()
    found = attempt(alpha, D, sigma, taps, gate)
    if not torch.equal(alpha, before):
        raise Wrong("you change alpha in place; build a new tensor instead")
    _expect_shape(found, (2, 6, 6), "weights [channel query source]")
    truth = to_words(alpha, D, sigma, taps, gate)
    if _close(found, truth):
        return
    if found.triu(1).abs().max() > 1e-6:
        raise Wrong(
            "a word reads words after it: tap j takes column s to column s - j, and the first j "
            "columns fall off; they do not come back at the other end"
        )
    on_c = (alpha + D[:, None, None] * torch.eye(6)) * sigma.T[:, None]
    forward = torch.zeros_like(on_c)
    for j, tap in enumerate(taps):
        forward[..., j:] += tap[:, None, None] * on_c[..., : 6 - j]
    mistakes = {
        "the skip is missing: D u_t also goes into the output":
            to_words(alpha, 0 * D, sigma, taps, gate),
        "u is not c: the activation's factor sigma_s belongs to each column":
            to_words(alpha, D, torch.ones_like(sigma), taps, gate),
        "the gate is missing: each row is multiplied by its query's gate":
            to_words(alpha, D, sigma, taps, torch.ones_like(gate)),
        "the gate belongs to the query, so to rows; you multiplied columns":
            to_words(alpha, D, sigma, taps, torch.ones_like(gate)) * gate.T[:, None],
        "you move columns the wrong way: tap j brings x_k into u_{k+j}, so column k + j counts for k":
            gate.T[:, :, None] * forward.tril(),
        "the taps are in reverse order: taps[0] meets the word itself":
            to_words(alpha, D, sigma, taps.flip(0), gate),
        "only the first tap arrives: add up all of them":
            to_words(alpha, D, sigma, taps[:1], gate),
    }  # fmt: skip
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    scale = math.sqrt(float((found**2).sum() / (truth**2).sum()))
    raise Wrong(
        "expected gate_t (alpha + D on the diagonal)[t, k + j] sigma_{k+j} taps[j], summed over j; "
        f"yours is {scale:.2g} times as large"
    )
