"""Exercises that check themselves: right, not attempted, or wrong with a hint.

A notebook's stub ends with `raise NotAttempted`, and its check cell reads

    last_word = check("start_here/last_word", last_word)

The module `tft_utils.lessons.start_here` holds the reference `last_word` and `check_last_word`,
which raises `Wrong` with a hint when an attempt is wrong. So the lesson goes on in every case but a
wrong attempt: with the learner's function when it is right, with the reference when it is untouched.
"""

import functools
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from tft_utils import models


class NotAttempted(Exception):
    """Raised by a stub that nobody has filled in yet."""


class Wrong(Exception):
    """An attempt is wrong; the text is a hint in plain language, not the answer."""


@functools.cache
def pair() -> dict[str, models.Model]:
    """The course's pair of models, loaded once, for checks that run an attempt on them."""
    return models.load_models()


def draws(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Normal numbers of these shapes, the same at each call, for checks to try an attempt on."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=draw) for shape in shapes]


def expect_tensor(answer: object, shape: Sequence[int], what: str, hint: str = "") -> Tensor:
    """The answer, if it is a tensor of this shape; `what` names it, the hint ends the sentence if not."""
    if not isinstance(answer, Tensor):
        raise Wrong(f"expected {what} as a tensor, found {type(answer).__name__}; return one tensor")
    if tuple(answer.shape) != tuple(shape):
        end = f"; {hint}" if hint else ""
        raise Wrong(f"expected {what} of shape {tuple(shape)}, found {tuple(answer.shape)}{end}")
    return answer


def expect_two(answer: object, what: str) -> tuple[Tensor, Tensor]:
    """The answer, if it is two tensors; `what` names them."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and all(map(torch.is_tensor, answer))):
        raise Wrong(f"expected two tensors, {what}, found {type(answer).__name__}; return both")
    return answer


def close(answer: Tensor, truth: Tensor, rough: float = 1e-4) -> bool:
    """Whether two tensors are equal up to a share `rough` and a tenth of it, wherever they lie. What
    comes from a model's run needs more than rounding does."""
    one, other = (x.float().cpu() for x in (answer, truth))
    return one.shape == other.shape and torch.allclose(one, other, rtol=rough, atol=rough / 10)


def refuse(
    answer: Tensor, mistakes: Mapping[str, Tensor], otherwise: str = "", rough: float = 1e-4
) -> None:
    """Raises the hint of the mistake that gives this answer; if none does, `otherwise`, unless empty."""
    hint = next((hint for hint, wrong in mistakes.items() if close(answer, wrong, rough)), otherwise)
    if hint:
        raise Wrong(hint)


def expect_equal(
    answer: object,
    truth: Tensor,
    what: str,
    mistakes: Mapping[str, Tensor],
    otherwise: str,
    hint: str = "",
    rough: float = 1e-4,
) -> None:
    """Refuses an answer, which `what` names, unless it is the truth; see `expect_tensor`, `refuse`."""
    if not close(expect_tensor(answer, truth.shape, what, hint), truth, rough):
        refuse(answer, mistakes, otherwise, rough)


def check(name: str, attempt: Callable) -> Callable:
    """Judges an attempt at the exercise `name`, '<lesson>/<exercise>', and returns what to use.

    Returns `attempt` when it is right and the reference when it raises `NotAttempted`.
    Errors: `Wrong` with a hint when it is wrong, also when it stops with an exception.
    """
    lesson, _, exercise = name.partition("/")
    answers = _answers(lesson)
    judge = getattr(answers, f"check_{exercise}", None)
    if judge is None:
        known = [key.removeprefix("check_") for key in vars(answers) if key.startswith("check_")]
        raise ValueError(
            f"expected an exercise of lesson {lesson}, found {exercise!r}; use one of {', '.join(known)}"
        )
    if not callable(attempt):
        raise Wrong(f"expected a function, found {attempt!r}; run the cell that defines {exercise} again")
    try:
        judge(attempt)
    except NotAttempted:
        print(f"{name}: not attempted, the reference is used")
        return getattr(answers, exercise)
    except Wrong as hint:
        raise Wrong(f"{name}: {hint}") from None
    except Exception as error:
        raise Wrong(f"{name}: {_where(error, attempt)} {type(error).__name__}: {error}") from error
    print(f"{name}: right")
    return attempt


def _answers(lesson: str) -> ModuleType:
    module = f"tft_utils.lessons.{lesson}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(
            f"expected a name like 'start_here/last_word', found no lesson {lesson!r}; "
            "copy the name from the notebook's check cell"
        ) from None


def _where(error: Exception, attempt: Callable) -> str:
    """Names the line of the attempt that stopped; a result that the check cannot use has none."""
    code = getattr(attempt, "__code__", None)
    at = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    if not at:
        return "the check cannot use what your function returns:"
    return f"line {at[-1] - code.co_firstlineno + 1} of your function stopped with"
