"""Lesson 03, relevance_propagation: two rules of LRP, and removing the words it points at."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.exercises import Wrong


def constant_scale(x, eps=1e-5):
    """x [... d] over its root mean square, which counts as a constant: linear in x."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * scale.detach()


def identity_rule(x, y):
    """y = phi(x), elementwise, rewritten as x times a constant: the values of y, the slope y / x."""
    slope = torch.where(x == 0, 0.0, y / x)
    return x * slope.detach()


def remove_most(embeddings, relevance, k, baseline):
    """A copy of embeddings [pos d_model] with `baseline` [d_model] at the k most relevant words.

    relevance: [pos]. The last word always stays, because it asks the question.
    """
    gone = relevance[:-1].argsort(descending=True)[:k]
    changed = embeddings.clone()
    changed[gone] = baseline
    return changed


def _tensor(found: object, shape: torch.Size, what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if found.shape != shape:
        raise Wrong(f"expected {what} of shape {tuple(shape)}, found {tuple(found.shape)}")
    return found


def _relevance(f: Tensor, x: Tensor) -> Tensor:
    """x df/dx for a graph that leads from x to f."""
    if not f.requires_grad:
        raise Wrong("no gradient reaches x: detach the factor, and leave x itself in the graph")
    (gradient,) = torch.autograd.grad(f.sum(), x)
    return x.detach() * gradient


@torch.enable_grad()
def check_constant_scale(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 4, 6, generator=draw) + 1).requires_grad_()
    truth = (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()).detach()
    found = _tensor(attempt(x), x.shape, "the scaled x")
    if not torch.allclose(found, truth, atol=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        if torch.allclose(
            found, centred / centred.square().mean(-1, keepdim=True).sqrt(), atol=1e-3
        ):
            raise Wrong("you subtract the mean; the root mean square is taken of x as it is")
        if torch.allclose(found, x / x.square().sum(-1, keepdim=True).sqrt(), atol=1e-3):
            raise Wrong(
                "you divide by the length of x; take the mean of the squares, not their sum"
            )
        raise Wrong("the values are not x over its root mean square, taken over the last axis")
    total, f = _relevance(found, x).sum(-1), found.detach().sum(-1)
    if torch.allclose(total, torch.zeros_like(total), atol=1e-3):
        raise Wrong(
            "the values are right, but the gradient still knows that the scale depends on x, so the "
            "relevance of each vector sums to 0; detach the scale"
        )
    if not torch.allclose(total, f, rtol=1e-3, atol=1e-3):
        raise Wrong("the relevance of x does not sum to what comes out; only the scale is constant")
    small = torch.full((1, 4), 1e-3)
    if not torch.allclose(attempt(small, 1e-2), small / (1e-6 + 1e-2) ** 0.5, rtol=1e-3):
        raise Wrong(
            "you leave out `eps`, which is added to the mean of the squares before the root"
        )


@torch.enable_grad()
def check_identity_rule(attempt) -> None:
    for name, phi in (("GELU", F.gelu), ("SiLU", F.silu)):
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]).requires_grad_()
        y = phi(x)
        found = _tensor(attempt(x, y), x.shape, "the new output")
        if found.isnan().any():
            raise Wrong(
                "at x = 0 you divide 0 by 0 and get nan; give the slope a finite value there"
            )
        if not torch.allclose(found, y):
            raise Wrong(
                f"the values must stay those of y, here of {name}(x); only the slope changes"
            )
        kept, plain = _relevance(found, x), _relevance(phi(x), x)
        if torch.allclose(kept[x != 0], plain[x != 0]):
            raise Wrong(
                f"the gradient is still {name}'s own derivative; the factor y / x must be a constant: "
                "detach it"
            )
        if not torch.allclose(kept, y.detach(), atol=1e-6):
            raise Wrong("x times the slope must be y: every unit hands on exactly what it received")


def check_remove_most(attempt) -> None:
    embeddings = torch.arange(15.0).reshape(5, 3)
    relevance, baseline = torch.tensor([0.5, -3.0, 2.0, 1.0, 9.0]), torch.tensor([-1.0, -2.0, -3.0])

    def without(*rows: int) -> Tensor:
        changed = embeddings.clone()
        changed[list(rows)] = baseline
        return changed

    before = embeddings.clone()
    found = _tensor(attempt(embeddings, relevance, 2, baseline), embeddings.shape, "the prompt")
    if not torch.equal(embeddings, before):
        raise Wrong("you write into the embeddings that you were given; work on a clone")
    mistakes = {
        "you remove the last word; it asks the question and always stays": without(4, 2),
        "you remove the least relevant words first": without(1, 0),
        "you go by the size of the relevance; its sign counts too: a word against the answer must not "
        "go first": without(1, 2),
        "you put zeros there; put `baseline`": without(2, 3).masked_fill(without(2, 3) < 0, 0),
        "you remove one word, whatever k is": without(2),
    }  # fmt: skip
    if torch.equal(found, without(2, 3)):
        if not torch.equal(attempt(embeddings, relevance, 0, baseline), embeddings):
            raise Wrong("with k = 0 nothing is removed")
        return
    for mistake, wrong in mistakes.items():
        if torch.equal(found, wrong):
            raise Wrong(mistake)
    raise Wrong("replace exactly the k words with the largest relevance, the last word aside")
