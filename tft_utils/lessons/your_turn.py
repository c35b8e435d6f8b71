"""Lesson 12, your_turn: a plan that is settled before its run; references, checks and figures."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora.corpus import corpus_of
from tft_utils.course import claims, plots, verdicts
from tft_utils.course.exercises import Wrong, expect_equal
from tft_utils.course.plots import BLUE, GREEN, GREY, VERMILION, Drawn, arrow, canvas, write
from tft_utils.course.verdicts import effect_of, verdict
from tft_utils.stats import Estimate


def late_start(model, asked):
    """Credit of each word [prompt pos], 0 at padding: what the answer's score gains when reading starts
    at this word and not at the next one."""
    credit, later = torch.zeros(asked.ids.shape), torch.zeros(len(asked))
    for t in reversed(range(asked.ids.shape[1])):
        rows = asked.last >= t
        part = asked[rows]
        logits = model.hf(input_ids=part.ids[:, t:]).logits
        here = part.score(logits[torch.arange(len(part)), part.last - t])
        credit[rows, t] = here - later[rows]
        later[rows] = here
    return credit


def conclude(score, control, basis, basis_control, better):
    """The verdict's word on a model with this score and control, from the Transformer's own two.

    Four estimates, each with its interval. better: 'higher' or 'lower' scores are better."""
    own = effect_of(score, control, better)
    theirs = effect_of(basis, basis_control, better)
    return verdict([own], [theirs]).word


class StudyPlan(NamedTuple):
    """What is settled before anything runs."""

    question: str  # about models, ends with a question mark
    prediction: str  # a word of `verdicts.WORDS`
    technique: str
    metric: str  # what is measured, in units
    control: str  # where the technique should find nothing: the same metric, of the same size and place
    better: str  # 'higher' or 'lower'


def settled(plan: StudyPlan) -> StudyPlan:
    """The plan, printed with a number that changes when a letter of it does.

    Errors: `ValueError` that names the first thing a plan lacks.
    """
    lacks = {
        "a question that ends with a question mark": plan.question.strip().endswith("?"),
        f"a prediction, one of {', '.join(verdicts.WORDS)}": plan.prediction in verdicts.WORDS,
        "the name of a technique": bool(plan.technique.strip()),
        "a metric": bool(plan.metric.strip()),
        "a control that is not the technique itself": plan.control.strip() not in ("", plan.technique),
        f"as better one of {', '.join(claims.BETTER)}": plan.better in claims.BETTER,
    }
    for (what, there), found in zip(lacks.items(), plan, strict=True):
        if not there:
            raise ValueError(f"expected {what}, found {found!r}; settle it before the run")
    for field, value in plan._asdict().items():
        print(f"{field:11s} {value}")
    print(f"settled as  {hashlib.sha256(repr(tuple(plan)).encode()).hexdigest()[:12]}")
    return plan


# --------------------------------------------------------------------------------------------------
# Checks


@functools.cache
def _pair() -> dict[str, models.Model]:
    return models.load_models()


def _slow(model, asked) -> Tensor:
    """The same credits, a prompt and a start at a time."""
    credit = torch.zeros(asked.ids.shape)
    for i, last in enumerate(asked.last.tolist()):
        one, scores = asked[i : i + 1], [0.0]
        for t in range(last, -1, -1):
            logits = model.hf(input_ids=one.ids[:, t : last + 1]).logits[:, -1]
            scores.append(one.score(logits).item())
            credit[i, t] = scores[-1] - scores[-2]
    return credit


@torch.no_grad()
def check_late_start(attempt) -> None:
    for name, model in _pair().items():
        corpus = corpus_of(model)
        cases = corpus.cases("indirect object", 4, seed=3) + corpus.cases("agreement", 2, seed=3)
        prompts, answers, foils = zip(*((c.prompt, c.answer, c.foil) for c in cases), strict=True)
        asked = reading.ask(model, prompts, answers, foils)
        truth = _slow(model, asked)
        totals = truth.flip(1).cumsum(1).flip(1) * asked.mask
        shifted = torch.zeros_like(truth)
        shifted[:, :-1] = truth[:, 1:]
        earlier = torch.cat([torch.zeros(len(asked), 1), totals[:, :-1]], 1)
        rows, tailless = torch.arange(len(asked)), truth.clone()
        tailless[rows, asked.last - 1] += tailless[rows, asked.last]
        tailless[rows, asked.last] = 0
        mistakes = {
            "the last word has a credit, too: a start at it reads one word": tailless,
            "you subtract the start one word earlier; a word's credit is what its start adds to the next "
            "one, at t + 1": (totals - earlier) * asked.mask,
            "these are the scores themselves; a word's credit is the score with it minus the score "
            "without it, that of the next start": totals,
            "the sign is turned: a word that helps the answer has a positive credit": -truth,
            "each credit stands one word too early; t is the word that reading starts at": shifted,
        }
        expect_equal(
            attempt(model, asked),
            truth,
            "credits [prompt pos]",
            mistakes,
            f"on {name} the credits differ; prompts have different lengths: a prompt's score is read at "
            "its own last word, which stands at `last - t` when reading starts at t, and a start behind "
            "the last word has no credit",
        )


def _made(value: float, half: float) -> Estimate:
    return Estimate(value, 100, value - half, value + half)


def check_conclude(attempt) -> None:
    ours, theirs = _made(0.2, 0.02), _made(0.18, 0.02)
    cases = [  # score, its control, basis, its control, better
        (_made(0.95, 0.02), ours, _made(0.95, 0.02), theirs, "higher"),
        (_made(0.21, 0.02), ours, _made(0.9, 0.02), theirs, "higher"),
        (_made(0.55, 0.02), ours, _made(0.9, 0.02), theirs, "higher"),
        (_made(0.9, 0.02), ours, _made(0.22, 0.05), theirs, "higher"),
        (_made(0.02, 0.01), _made(0.6, 0.02), _made(0.02, 0.01), _made(0.62, 0.02), "lower"),
        (_made(0.55, 0.005), _made(0.45, 0.005), _made(0.7, 0.005), _made(0.1, 0.005), "higher"),
    ]
    for score, own_control, basis, basis_control, better in cases:
        found = attempt(score, own_control, basis, basis_control, better)
        truth = conclude(score, own_control, basis, basis_control, better)
        if found == truth:
            continue
        if not isinstance(found, str):
            raise Wrong(f"expected a word such as {truth!r}, found {type(found).__name__}")
        mistakes = {
            f"scores {score.value} and {basis.value} alone would give {found!r}; subtract each model's "
            "control first: `effect_of` does": verdict([score], [basis]).word,
            "the two models are exchanged: the Transformer's effect is what one divides by": conclude(
                basis, basis_control, score, own_control, better
            ),
            "the Transformer has a control of its own: subtract that one from its score": conclude(
                score, own_control, basis, own_control, better
            ),
            f"{better} is better: hand `better` on to `effect_of`, twice": conclude(
                score, own_control, basis, basis_control, "higher"
            ),
            "`effect_of` takes a score first, and then its control": conclude(
                own_control, score, basis_control, basis, better
            ),
        }
        if hint := next((hint for hint, word in mistakes.items() if word == found), ""):
            raise Wrong(hint)
        raise Wrong(
            f"a score of {score.value} with control {own_control.value}, against {basis.value} with "
            f"{basis_control.value} in the Transformer, {better} is better: expected {truth!r}, found "
            f"{found!r}"
        )


# --------------------------------------------------------------------------------------------------
# Figures


def order_of_work() -> Drawn:
    """What comes first in a study, and what may depend on what."""
    figure, (axis,) = canvas((9, 2.6), (0, 10), (0, 3))
    steps = [
        ("question", BLUE),
        ("prediction", BLUE),
        ("control", BLUE),
        ("numbers", GREEN),
        ("verdict", VERMILION),
    ]
    for i, (text, colour) in enumerate(steps):
        write(axis, 1 + 2 * i, 1.7, text, colour)
        if i:
            arrow(axis, (2 * i - 0.25, 1.7), (2 * i + 0.25, 1.7))
    axis.axvline(6, 0.12, 0.95, color=GREY, linestyle="--")
    write(axis, 3, 0.5, "settled before anything runs", color=BLUE)
    write(axis, 8, 0.5, "computed, nobody types it", color=VERMILION)
    return figure, (
        "Question, prediction and control stand before a dashed line and are settled before anything "
        "runs; numbers and the verdict follow behind it."
    )


def credits(rows: Mapping[str, tuple[Sequence[str], Sequence[float], Sequence[int]]]) -> Drawn:
    """Bars of each word's credit; model -> words, credits, positions of the causes."""
    figure, axes = plots.titled(rows, "credit of the word (logits)", size=(4.6, 4.2), sharey=False)
    said = []
    for axis, (name, (words, values, causes)) in zip(axes, rows.items(), strict=True):
        hatches = ["//" if i in causes else "" for i in range(len(words))]
        axis.barh(range(len(words)), values, color=plots.style(name)["color"], hatch=hatches, ec="white")
        axis.set_yticks(range(len(words)), words)
        axis.invert_yaxis()
        best = max(range(len(words)), key=lambda i: values[i])
        said.append(f"in {name} {words[best]!r} has the most, {values[best]:.1f}")
    return figure, f"Credit of each word by a late start, causes hatched: {', '.join(said)}."
