"""Lesson 00, start_here: reading the residual stream, and writing into it.

The checks know the truth from plain PyTorch hooks, so they also judge answers that avoid nnsight.
"""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import world
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_tensor
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, style, write
from tft_utils.stats import Estimate


def last_word(model, prompt):
    """The last word's residual stream after k = 0 ... L blocks: [k d_model]."""
    with model.trace(prompt):
        stream = [model.residual(k)[0, -1] for k in range(model.n_layers + 1)].save()
    return torch.stack(stream)


def transplant_at(model, source, target, k, positions):
    """Logits [vocab] after `target`, its stream at depth k and `positions` that of `source`."""
    with model.trace(source):
        donor = model.residual(k)[:, positions].save()
    with model.trace(target):
        model.residual(k)[:, positions] = donor
        logits = model.output.logits[0, -1].save()
    return logits


@functools.cache
def _pair() -> dict[str, models.Model]:
    return models.load_models()


@torch.no_grad()
def _run(model, prompt: str, k: int = 0, edit=None) -> tuple[Tensor, Tensor, Tensor]:
    """Residual streams [k pos d_model], mixer outputs [layer pos d_model] and logits [vocab] of a
    run in which `edit`, when given, changes the stream [1 pos d_model] after k blocks in place."""
    values: dict[str, list[Tensor]] = {"residual": [], "mixer": []}

    def note(site: str, depth: int, value: Tensor) -> None:
        if edit and (site, depth) == ("residual", k):
            edit(value)
        values[site].append(value[0].clone())

    with reading.watch(model, note):
        logits = model.hf(input_ids=reading.tokens(model, prompt).ids, use_cache=False).logits[0, -1]
    return torch.stack(values["residual"]), torch.stack(values["mixer"]), logits


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def check_last_word(attempt) -> None:
    prompt = world.documents("facts", 1, seed=1)[0].prompt(5)
    for name, model in _pair().items():
        streams, mixers, _ = _run(model, prompt)
        truth = streams[:, -1]
        vectors = expect_tensor(
            attempt(model, prompt),
            truth.shape,
            "vectors [k d_model]",
            f"{name} has {model.n_layers} blocks, so {model.n_layers + 1} depths, and you keep one "
            "vector for each of them: that of the first prompt of the batch and its last word",
        )
        if _same(vectors, truth):
            continue
        if _same(vectors, streams[:, 0]):
            raise Wrong("these are the vectors of the first word; the last word stands at index -1")
        if _same(vectors[1:], mixers[:, -1]):
            raise Wrong("this is what each block's mixer adds; read the stream itself, `residual`")
        k = next(k for k in range(len(truth)) if not _same(vectors[k], truth[k]))
        raise Wrong(f"on {name}, your vector at depth k = {k} is not the last word's residual stream")


def check_transplant_at(attempt) -> None:
    pair = world_pairs.fact_pairs(1, seed=1)[0]
    source, target = pair.corrupt.prompt(pair.position), pair.clean.prompt(pair.position)
    subject, whole = pair.clean.positions("subject"), slice(None)
    mistakes = {
        "your edit changes nothing: assign to the positions of `model.residual(k)` itself, not to a "
        "copy": (target, target, subject),
        "the roles are exchanged: the donor's vectors come from `source`, and you return what `target` "
        "says with them": (target, source, subject),
        "you replace the last word; replace the words at `positions`": (source, target, [-1]),
        "you replace the whole stream; replace only the words at `positions`": (source, target, whole),
    }
    for name, model in _pair().items():
        depths = (0, model.n_layers // 2, model.n_layers)
        hint = "return the logits after the last word of the first prompt: `logits[0, -1]`"
        attempts = [attempt(model, source, target, k, subject) for k in depths]
        logits = [expect_tensor(x, [model.config.vocab_size], "logits [vocab]", hint) for x in attempts]
        if _all_same(logits, model, depths, source, target, subject):
            continue
        for mistake, arguments in mistakes.items():
            if _all_same(logits, model, depths, *arguments):
                raise Wrong(mistake)
        raise Wrong(
            f"on {name}, your logits differ from those of an edit at `positions` after k blocks; "
            "at k = 0, replacing every word of the subject must give what `source` itself gives"
        )


def _all_same(logits: list[Tensor], model, depths, source: str, target: str, where) -> bool:
    """Are these the logits of transplants from `source` into `target` at each of the depths?"""
    donors, _, _ = _run(model, source)

    def expected(k: int) -> Tensor:
        def edit(stream: Tensor) -> None:
            stream[:, where] = donors[k, where]

        return _run(model, target, k, edit)[2]

    return all(_same(x, expected(k)) for x, k in zip(logits, depths, strict=True))


def how_the_past_arrives() -> Drawn:
    """A picture of the one difference that the course is about."""
    left, right = ({"color": style(name)["color"]} for name in ("transformer", "mamba"))
    titles = "Transformer: look back at every word", "Mamba: carry one state of fixed size"
    figure, axes = canvas((9, 3), (-0.6, 4.6), (-0.35, 2.2), *titles)
    for x, word in enumerate(("The", "keys", "near", "it", "are")):
        for axis in axes:
            write(axis, x, 0, word, fontsize=13)
        arrow(axes[1], (x, 0.2), (x, 1.0))
        write(axes[1], x, 1.2, "state", fontsize=10, edge=right["color"])
    for x in range(4):
        arrow(axes[0], (x, 0.2), (4, 1.45), connectionstyle="arc3,rad=-0.15", **left)
        arrow(axes[1], (x + 0.32, 1.2), (x + 0.68, 1.2), **right)
    write(axes[0], 4, 1.8, "reads all\nof the past", **left)
    write(axes[1], 4, 1.8, "reads only\nthe state", **right)
    return figure, (
        "Left: in a Transformer the last word has an arrow from every earlier word. "
        "Right: in Mamba each word updates one state that is handed from word to word."
    )


def capabilities(live: Mapping[str, Mapping[str, Estimate]], bars: Mapping[str, object]) -> Drawn:
    """Accuracy per capability and model with 95 % intervals; a tick marks what was asked for."""
    rows = {name: {kind: row[kind] for kind in bars} for name, row in live.items()}
    xlabel = "accuracy (for 'persona uncued': mean probability)"
    low = min(e.low for row in live.values() for e in row.values())
    figure, _ = plots.compared(rows, xlabel, (min(0.3, low - 0.02), 1.02))
    for i, bar in enumerate(bars.values()):
        figure.axes[0].vlines(bar, i - 0.35, i + 0.35, color=GREY, linewidth=2)
    least = {
        name: min(e.value for kind, e in measured.items() if kind != "persona_uncued")
        for name, measured in live.items()
    }
    lowest = "; ".join(f"{name}'s lowest accuracy is {value:.0%}" for name, value in least.items())
    return figure, f"Accuracy on held-out questions with intervals beside each bar: {lowest}."


def depth_curves(
    curves: Mapping[str, Sequence[Estimate]], controls: Mapping[str, Sequence[Estimate]], ylabel: str
) -> Drawn:
    """One estimate per depth k and model, with 95 % bands, over k/L; controls are thin and grey."""
    lines = plots.with_controls(curves, controls)
    figure, _ = plots.curves({"": lines}, plots.DEPTH, ylabel, ylim=(-0.03, 1.03))
    ends = " and ".join(
        f"{name} from {e[0].value:.0%} to {e[-1].value:.0%}" for name, e in curves.items()
    )
    top = max(e.value for estimates in controls.values() for e in estimates)
    return figure, f"{ylabel} rises with depth: {ends}; the control stays at or below {top:.0%}."
