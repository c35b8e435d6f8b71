"""Lesson 07, activation_patching: the effect of a patch, a knockout in the scan, a rank-one edit."""

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def effect(patched, clean, corrupt):
    """How much of the way from the corrupt to the clean run a denoising patch goes: 0 nothing, 1 all.

    patched, clean, corrupt: the logit difference of each prompt in the three runs [prompt].
    """
    return (patched - corrupt) / (clean - corrupt)


def dual_state(u, delta, A, B, C, sources, queries):
    """The scan in which no source reaches any query: y [pos channel].

    u, delta [pos channel]; A [channel d_state], negative; B, C [pos d_state]; sources, queries: sets
    of positions. The state decays at a blocked source as it always does. Other positions read as ever.
    """
    whole = kept = torch.zeros_like(A)
    y = []
    for t in range(len(u)):
        decay = torch.exp(delta[t, :, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        whole = decay * whole + write
        kept = decay * kept + (0 if t in sources else write)
        y.append((kept if t in queries else whole) @ C[t])
    return torch.stack(y)


def rank_one(W, k, v, C):
    """W changed by a matrix of rank one, so that it stores v under the key k: [d_out d_in].

    W [d_out d_in]; k [d_in]; v [d_out]; C [d_in d_in]: the mean of k k^T over other keys, which are to
    notice as little as possible.
    """
    u = torch.linalg.solve(C, k)
    return W + torch.outer(v - W @ k, u / (u @ k))


def _tensor(found: object, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {shape}, found {tuple(found.shape)}")
    return found


def check_effect(attempt) -> None:
    clean, corrupt = torch.tensor([4.0, 2.0, 3.0]), torch.tensor([-4.0, -6.0, 1.0])
    patched = torch.tensor([0.0, -4.0, 4.0])
    found = _tensor(attempt(patched, clean, corrupt), (3,), "one effect for each prompt")
    if torch.allclose(found, torch.tensor([0.5, 0.25, 1.5])):
        return
    mistakes = {
        "a patch that does nothing gets 1 and one that restores the clean run gets 0; measure from the "
        "corrupt run": (clean - patched) / (clean - corrupt),
        "you do not divide by the distance between both runs, so effects of two prompts cannot be "
        "compared": patched - corrupt,
        "you divide by the clean run's m; divide by its distance from the corrupt run's":
            (patched - corrupt) / clean,
        "an effect beyond 1 or below 0 is possible and says something; do not clip it":
            torch.tensor([0.5, 0.25, 1.0]),
    }  # fmt: skip
    for mistake, wrong in mistakes.items():
        if torch.allclose(found, wrong):
            raise Wrong(mistake)
    raise Wrong(
        "the effect is the patched run's distance from the corrupt one, over the clean run's"
    )


def _scan_case() -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(6, n, generator=draw) for n in (3, 2, 2))
    delta = 0.2 + torch.rand(6, 3, generator=draw)
    return u, delta, -0.2 - torch.rand(3, 2, generator=draw), B, C


def _masked(u, delta, A, B, C, sources, queries, decays: bool = True) -> Tensor:
    """The same by the matrix alpha[t,s] = d_s sum_n C_t B_s exp(A (S_t - S_s)), entries set to 0."""
    steps = delta.clone()
    if not decays:
        steps[list(sources)] = 0
    S = steps.cumsum(0)
    gap = (S[:, None] - S[None, :])[..., None] * A  # [query source channel n]
    alpha = (torch.exp(gap.clamp(max=0)) * C[:, None, None] * B[None, :, None]).sum(-1) * delta[
        None
    ]
    alpha *= torch.ones(len(u), len(u)).tril()[..., None]
    whole = torch.einsum("tse,se->te", alpha, u)
    for q in queries:
        for s in sources:
            alpha[q, s] = 0
    y = torch.einsum("tse,se->te", alpha, u)
    if not decays:  # only the queries read the other state
        y = torch.where(torch.tensor([t in queries for t in range(len(u))])[:, None], y, whole)
    return y


def check_dual_state(attempt) -> None:
    case, sources, queries = _scan_case(), {1, 2}, {4}
    u, delta, A, B, C = case
    found = _tensor(attempt(*case, sources, queries), (6, 3), "y")
    if torch.allclose(found, _masked(*case, sources, queries), atol=1e-4):
        if not torch.allclose(attempt(*case, set(), {4}), _masked(*case, set(), set()), atol=1e-4):
            raise Wrong("with no source blocked, y must be that of the plain scan")
        return
    silent = u.clone()
    silent[list(sources)] = 0
    if torch.allclose(found, _masked(silent, *case[1:], set(), set()), atol=1e-4):
        raise Wrong("every position loses the sources; only the queries may: keep two states")
    if torch.allclose(found, _masked(*case, set(), set()), atol=1e-4):
        raise Wrong("nothing is blocked: at a query, read the state that never took in the sources")
    frozen = _masked(*case, sources, queries, decays=False)
    if torch.allclose(found[4], frozen[4], atol=1e-4):
        raise Wrong(
            "the second state stands still at a source; it must decay there, and take in nothing"
        )
    others = [t for t in range(6) if t not in queries]
    if not torch.allclose(found[others], _masked(*case, set(), set())[others], atol=1e-4):
        raise Wrong("positions that are no queries must read the whole state, as ever")
    raise Wrong(
        "the query's y is not C times a state that decays like the other and skips the sources' writes"
    )


def check_rank_one(attempt) -> None:
    draw = torch.Generator().manual_seed(1)
    W, k, v = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (4,), (3,)))
    root = torch.randn(4, 4, generator=draw)
    C = root @ root.T + 0.5 * torch.eye(4)
    before = W.clone()
    found = _tensor(attempt(W, k, v, C), (3, 4), "the new matrix")
    if not torch.equal(W, before):
        raise Wrong("you change the W you were given; return a new matrix")
    if torch.linalg.matrix_rank(found - W, atol=1e-4) > 1:
        raise Wrong("the change has a rank above one; it is the outer product of two vectors")
    if not torch.allclose(found @ k, v, atol=1e-3):
        if torch.allclose((found - W) @ k, v, atol=1e-3):
            raise Wrong("you add v to what W stored; only the difference v - W k is missing")
        raise Wrong("the new matrix does not store v: times k it must give v; mind the scale of u")
    if torch.allclose(found, W + torch.outer(v - W @ k, k / (k @ k)), atol=1e-4):
        raise Wrong(
            "v is stored, but you ignore C: keys that are common elsewhere are moved too much"
        )
    best = rank_one(W, k, v, C)
    if not torch.allclose(found, best, atol=1e-3):
        raise Wrong("v is stored, but another u moves the other keys less: solve C u = k")
