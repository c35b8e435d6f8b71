"""Lesson 01, two_machines: attention and the selective scan by hand, and what each keeps."""

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def attend(q, k, v):
    """Causal attention: the weights [... pos pos] and the mixed values [... pos d_head].

    q, k, v: queries, keys and values [... pos d_head]; word t may look at the words 0 to t.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return weights, weights @ v


def step(h, u, delta, A, B, C):
    """One word of the scan: the new state [d_inner d_state] and the output [d_inner].

    h: state before [d_inner d_state]; u: input [d_inner]; delta: step size [d_inner];
    A: decay rates [d_inner d_state], all negative; B, C: write and read vector [d_state].
    """
    keep = torch.exp(delta[:, None] * A)
    write = (delta * u)[:, None] * B
    h = keep * h + write
    return h, h @ C


def crossover(transformer, mamba):
    """The length in words of the shortest text whose key-value cache holds more than the state.

    transformer: a config with num_hidden_layers and hidden_size;
    mamba: a config with num_hidden_layers, intermediate_size, state_size and conv_kernel.
    """
    per_word = transformer.num_hidden_layers * 2 * transformer.hidden_size
    per_layer = mamba.intermediate_size * (mamba.state_size + mamba.conv_kernel)
    return mamba.num_hidden_layers * per_layer // per_word + 1


def horizon(delta, A):
    """Words until exp(sum of delta * A) is below 1/e, for each entry: [d_inner d_state].

    delta: step sizes of the words that follow [pos d_inner]; A: decay rates [d_inner d_state].
    Entries that are still above 1/e after the last word get pos + 1.
    """
    passed = delta.cumsum(0)
    alive = torch.exp(passed[:, :, None] * A) >= 1 / math.e
    return alive.sum(0) + 1


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def _pair_of_tensors(found: object, names: str) -> tuple[Tensor, Tensor]:
    if not (isinstance(found, tuple) and len(found) == 2 and all(map(torch.is_tensor, found))):
        raise Wrong(f"expected two tensors, {names}, found {type(found).__name__}; return both")
    return found


def _expect_shape(found: Tensor, shape: tuple[int, ...], what: str) -> None:
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {shape}, found {tuple(found.shape)}")


def check_attend(attempt) -> None:
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 4, generator=draws) for _ in range(3))
    weights, mixed = _pair_of_tensors(attempt(q, k, v), "the weights and the mixed values")
    _expect_shape(weights, (3, 3), "weights, one row per word that looks,")
    truth, values = attend(q, k, v)
    if not _close(weights, truth):
        raise Wrong(_what_is_wrong_with(weights, q @ k.T))
    if not _close(mixed, values):
        raise Wrong(
            "the weights are right, the mixed values are not: row t is the sum of all values, each "
            "times its weight in row t, so a product of two matrices"
        )
    heads = [torch.stack([x, 2 * x]) for x in (q, k, v)]
    again, _ = _pair_of_tensors(attempt(*heads), "the weights and the mixed values")
    _expect_shape(again, (2, 3, 3), "weights for two heads at once")
    if not _close(again, attend(*heads)[0]):
        raise Wrong(
            "right for one head, wrong for two at once: only the last two axes belong to one head, "
            "so transpose(-2, -1) and softmax(-1)"
        )


def _what_is_wrong_with(weights: Tensor, scores: Tensor) -> str:
    ahead = weights.triu(1).abs().max() > 1e-6
    if _close(weights.sum(0), torch.ones(3)):
        return "each column of your weights sums to 1; each row must: softmax over the last axis"
    if ahead:
        return "a word looks at words after it; a score above the diagonal must become -inf"
    if not _close(weights.sum(1), torch.ones(3)):
        return (
            "the rows of your weights do not sum to 1; hide the future in the scores, before the "
            "softmax, not in the weights after it"
        )
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    for scale, mistake in ((1, "do not divide them"), (1 / 4, "divide them by d_head itself")):
        if _close(weights, (scores * scale).masked_fill(future, -math.inf).softmax(-1)):
            return f"the scores have the wrong size: you {mistake}; divide by the root of d_head"
    return "row t must be the softmax of q_t . k_s / sqrt(d_head) over the words s up to t"


def check_step(attempt) -> None:
    draws = torch.Generator().manual_seed(0)
    h, A = torch.randn(3, 2, generator=draws), -0.5 - torch.rand(3, 2, generator=draws)
    u, delta = torch.randn(3, generator=draws), 0.5 + torch.rand(3, generator=draws)
    B, C = torch.randn(2, 2, generator=draws)
    before = h.clone()
    new, y = _pair_of_tensors(attempt(h, u, delta, A, B, C), "the new state and the output")
    if not torch.equal(h, before):
        raise Wrong("you change the old state in place; build a new one instead")
    _expect_shape(new, (3, 2), "a new state [d_inner d_state]")
    _expect_shape(y, (3,), "an output [d_inner]")
    truth, read = step(h, u, delta, A, B, C)
    keep, write = torch.exp(delta[:, None] * A), (delta * u)[:, None] * B
    mistakes = {
        "the step size is missing from what you write: a word with step 0 must leave no trace":
            keep * h + u[:, None] * B,
        "the step size is missing from what you keep: a word with step 0 must change nothing":
            torch.exp(A) * h + write,
        "old memories grow: A is negative already, so the sign in exp(delta * A) is a plus":
            torch.exp(-delta[:, None] * A) * h + write,
        "you keep delta * A times the old state; keep exp(delta * A) times it":
            delta[:, None] * A * h + write,
    }  # fmt: skip
    for mistake, state in mistakes.items():
        if _close(new, state):
            raise Wrong(mistake)
    if not _close(new, truth):
        raise Wrong("expected the new state exp(delta A) h + delta u B, entry by entry")
    if _close(y, h @ C):
        raise Wrong("you read the old state; first write, then read the new one")
    if not _close(y, read):
        raise Wrong("the state is right; the output is its product with C, summed over d_state")


def check_crossover(attempt) -> None:
    pairs = {  # blocks and width, then blocks, d_inner, d_state and kernel: the length
        "the organisms": (6, 128, 10, 256, 16, 4),
        "Pythia-160m and Mamba-130m": (12, 768, 24, 1536, 16, 4),
        "Pythia-2.8b and Mamba-2.8b with a state of 64": (32, 2560, 64, 5120, 64, 4),
        "two models of one block": (1, 100, 1, 30, 10, 2),
    }
    for name, (blocks, width, layers, d_inner, d_state, kernel) in pairs.items():
        transformer = SimpleNamespace(num_hidden_layers=blocks, hidden_size=width)
        mamba = SimpleNamespace(num_hidden_layers=layers, intermediate_size=d_inner,
                                state_size=d_state, conv_kernel=kernel)  # fmt: skip
        per_word, state = blocks * 2 * width, layers * d_inner * (d_state + kernel)
        mistakes = {
            "a word leaves a key and a value: twice as many numbers": state / (per_word / 2),
            "Mamba also carries the last inputs of its convolution":
                layers * d_inner * d_state / per_word,
            "every layer has a cache, and every layer has a state": state / layers * blocks / per_word,
        }  # fmt: skip
        found, right = attempt(transformer, mamba), crossover(transformer, mamba)
        if found == right:
            continue
        if not isinstance(found, int):
            raise Wrong(f"expected a whole number of words, found {found!r}; which way to round?")
        hints = [text for text, length in mistakes.items() if found == int(length) + 1]
        if abs(found - right) == 1 and not hints:
            hints = [
                f"{found} words hold {found * per_word} numbers, the state {state}: the cache must "
                "hold more, not as many, and one word less must not"
            ]
        raise Wrong(f"for {name}: {hints[0] if hints else 'count both sides, then divide'}")


def check_horizon(attempt) -> None:
    delta = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    A = torch.tensor([[-0.3, -2.0, -0.01], [-0.3, -2.0, -0.01]])
    found = attempt(delta, A)
    if not torch.is_tensor(found):
        raise Wrong(f"expected one tensor [d_inner d_state], found {type(found).__name__}")
    _expect_shape(found, (2, 3), "horizons [d_inner d_state]")
    truth = horizon(delta, A)  # [[4 1 6] [3 3 6]]
    mistakes = {
        "you count the words before the fading word; count that word too": truth - 1,
        "a memory fades through all words together: add up the steps from the first on":
            (torch.exp(delta[:, :, None] * A) >= 1 / math.e).sum(0) + 1,
        "a word with step 0 costs nothing: use the step sizes that you are given":
            horizon(torch.ones_like(delta), A),
    }  # fmt: skip
    if _close(found, truth):
        return
    for mistake, wrong in mistakes.items():
        if _close(found, wrong):
            raise Wrong(mistake)
    if _close(found[:, :2], truth[:, :2]):
        raise Wrong("a memory that outlives the text gets pos + 1, here 6")
    raise Wrong(
        f"with steps of 1, exp(-0.3 k) is first below 1/e at k = 4, and you say {found[0, 0]:g}"
    )
