"""Lesson 04, lenses: the translator, the unit that every tokenizer shares, and when a model knows."""

import math

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def translate(r, A, b):
    """The states r [pos d_model] after a translator A [d_model d_model], b [d_model]: r + A r + b."""
    return r + r @ A.T + b


def bits_per_byte(nats, text):
    """Nats of each word of `text` after its first, nats [word], as bits per UTF-8 byte of those words.

    Words are separated by single spaces, and a space belongs to the word that it comes before.
    """
    first = text.split()[0]
    n_bytes = len(text.encode()) - len(first.encode())
    return float(nats.sum()) / math.log(2) / n_bytes


def settled(right):
    """The first depth from which on an answer stays right, for right [k] (booleans, k = 0 ... L).

    None when it is wrong at the last depth.
    """
    depth = None
    for k in reversed(range(len(right))):
        if not right[k]:
            break
        depth = k
    return depth


def check_translate(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    r, A, b = (torch.randn(*shape, generator=draw) for shape in ((5, 3), (3, 3), (3,)))
    found = attempt(r, A, b)
    if not isinstance(found, Tensor) or found.shape != r.shape:
        shape = tuple(getattr(found, "shape", ()))
        raise Wrong(f"expected states of shape (5, 3), found {type(found).__name__} of shape {shape}")
    if torch.allclose(found, r + r @ A.T + b, atol=1e-5):
        return
    zeros = attempt(r, torch.zeros_like(A), torch.zeros_like(b))
    if not torch.allclose(zeros, r):
        raise Wrong(
            "with A and b zero the states must come out as they are: the translator adds to r, so that "
            "it starts as a logit lens"
        )
    if torch.allclose(found, r + r @ A + b, atol=1e-5):
        raise Wrong("states are rows here, so A r for every row is r @ A.T; you use A itself")
    if torch.allclose(attempt(r, A, torch.zeros_like(b)), found):
        raise Wrong("you leave out b")
    raise Wrong("the result is not r + A r + b at every position")


def check_bits_per_byte(attempt) -> None:
    text, nats = "is wolof señor", torch.tensor([math.log(2) * 6, math.log(2) * 7])
    found = float(attempt(nats, text))
    if abs(found - 1) < 1e-6:  # 13 bits for ' wolof' and ' señor', which are 6 and 7 bytes
        return
    mistakes = {
        "you leave nats as they are; a bit is log 2 nats, so divide by it": math.log(2),
        "you multiply by log 2; a nat is more than a bit, so divide": math.log(2) ** 2,
        "you count the bytes of the first word too, but nothing predicts it": 13 / 15,
        "you leave out the spaces; each belongs to the word after it": 13 / 11,
        "you count characters; 'ñ' is two bytes, see `text.encode()`": 13 / 12,
        "you average over words; sum their nats, then divide by bytes": 1 / 2,
        "you divide by words, not by bytes": 13 / 2,
    }
    for mistake, value in mistakes.items():
        if abs(found - value) < 1e-4:
            raise Wrong(mistake)
    raise Wrong(
        f"13 bits on ' wolof' and ' señor', which are 6 and 7 bytes, make 1 bit per byte; you find "
        f"{found:.4f}"
    )


def check_settled(attempt) -> None:
    T, F = True, False
    for right, depth in (([F, F, T, T], 2), ([T, F, T, T], 2), ([F, F, F, T], 3), ([T, T, T], 0)):
        found = attempt(right)
        if found == depth and found is not None:
            continue
        if found == right.index(True):
            raise Wrong(
                f"for {right} you give {found}, the first time it is right; it must also stay right"
            )
        raise Wrong(f"for {right} expected {depth}, found {found}")
    for right in ([T, T, F], [F, F]):
        if (found := attempt(right)) is not None:
            raise Wrong(f"for {right} the model's own answer is wrong: return None, not {found}")
