"""Lesson 08, steering: references and checks."""

import torch
from torch import Tensor

from tft_utils.exercises import Wrong


def steering_vector(behaving, other):
    """The direction [d] from texts of one side [n d] and of the other [m d]: a mean difference."""
    return behaving.mean(0) - other.mean(0)


def matching_probability(logits, matching, other):
    """Share of the matching letter among the two letters [prompt].

    logits: next-word logits [prompt vocab]; matching, other: token ids of the letters [prompt].
    """
    letters = torch.stack([matching, other], 1)
    return logits.gather(1, letters).softmax(1)[:, 0]


def order_averaged(values, asks):
    """One mean per question, in the order in which questions first occur.

    values: one number for each prompt; asks: the question that each prompt asks.
    """
    together = {}
    for value, question in zip(values, asks, strict=True):
        together.setdefault(question, []).append(value)
    return [sum(found) / len(found) for found in together.values()]


def _tensor(found: object, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(found).__name__}; return one tensor")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected {what} of shape {shape}, found {tuple(found.shape)}")
    return found


def check_steering_vector(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    planted = torch.tensor([3.0, 0.0, -2.0, 0.5])
    behaving = torch.randn(6, 4, generator=draw) + 10 + planted
    other = torch.randn(4, 4, generator=draw) + 10
    truth = behaving.mean(0) - other.mean(0)
    found = _tensor(attempt(behaving, other), (4,), "the direction")
    mistakes = {
        "the sign is turned: the direction leads from the other texts to the behaving ones": -truth,
        "you scale it to length 1; then a multiplier of 1 no longer means 'as far apart as the texts "
        "are'": truth / truth.norm(),
        "you add up the texts; with 6 on one side and 4 on the other that is no difference of means":
            behaving.sum(0) - other.sum(0),
        "that is the mean of one side; what both sides share must go": behaving.mean(0),
        "you halve it; the multiplier 1 should lead from one side's mean to the other's": truth / 2,
    }  # fmt: skip
    if torch.allclose(found, truth, atol=1e-5):
        return
    for mistake, wrong in mistakes.items():
        if torch.allclose(found, wrong, atol=1e-5):
            raise Wrong(mistake)
    raise Wrong("it is not the mean of one side minus the mean of the other")


def check_matching_probability(attempt) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 4.0, 1.0, -1.0], [1.0, 1.0, 5.0, 5.0]])
    matching, other = torch.tensor([0, 2, 0]), torch.tensor([2, 0, 1])
    chances, rows = logits.softmax(1), torch.arange(3)
    right, wrong = chances[rows, matching], chances[rows, other]
    found = _tensor(attempt(logits, matching, other), (3,), "the matching probabilities")
    if torch.allclose(found, right / (right + wrong), atol=1e-5):
        return
    if torch.allclose(found, right, atol=1e-5):
        raise Wrong(
            "that is p(matching letter) among all words; divide by the two letters' sum, or nonsense "
            "counts as the other answer"
        )
    if torch.allclose(found, wrong / (right + wrong), atol=1e-5):
        raise Wrong("that is the share of the other letter")
    if torch.allclose(found, chances[:, 0] / (chances[:, 0] + chances[:, 2]), atol=1e-5):
        raise Wrong("you use the first prompt's letters for all; each prompt has its own matching one")
    values = logits.gather(1, torch.stack([matching, other], 1))
    if torch.allclose(found, values[:, 0] / values.sum(1), atol=1e-5):
        raise Wrong("you divide logits; turn them into probabilities first")
    raise Wrong("it is not p(matching) / (p(matching) + p(other)) of each prompt")


def check_order_averaged(attempt) -> None:
    values, asks = [0.9, 0.2, 0.3, 0.6, 0.5], ["lamp", "bell", "lamp", "bell", "rope"]
    found = attempt(values, asks)
    if not isinstance(found, list):
        raise Wrong(f"expected a list of numbers, found {type(found).__name__}")
    truth = [0.6, 0.4, 0.5]
    if len(found) == len(values):
        raise Wrong("one number per question, not per prompt: two letter orders are no two questions")
    if len(found) == 1:
        raise Wrong("that is one mean of everything; an interval needs one number per question")
    if len(found) == 3 and all(abs(a - b) < 1e-9 for a, b in zip(found, truth, strict=True)):
        return
    if sorted(round(each, 9) for each in found) == sorted(truth):
        raise Wrong("keep the order in which the questions first occur")
    if [round(each, 9) for each in found] == [0.9, 0.2, 0.5]:
        raise Wrong("you keep one letter order and drop the other; average both")
    if [round(each, 9) for each in found] == [1.2, 0.8, 0.5]:
        raise Wrong("you add the orders up; divide by how many there are")
    raise Wrong("expected the mean over the prompts of each question")
