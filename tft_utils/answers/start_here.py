"""Lesson 00, start_here: reading the residual stream, and writing into it.

The checks know the truth from plain PyTorch hooks, so they also judge answers that avoid nnsight.
"""

import functools

import torch
from torch import Tensor

from tft_utils import models, world
from tft_utils.exercises import Wrong


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
    return dict(zip(models.PAIR, models.load_pair(), strict=True))


@torch.no_grad()
def _run(model, prompt: str, k: int = 0, edit=None) -> tuple[Tensor, Tensor, Tensor]:
    """Residual streams [k pos d_model], mixer outputs [layer pos d_model] and logits [vocab] of a
    run in which `edit`, when given, changes the stream [1 pos d_model] after k blocks in place."""
    parts, streams, mixers = model.architecture, [], []

    def keep(module, inputs, output):
        if edit and len(streams) == k:
            edit(output)
        streams.append(output[0].clone())

    def keep_mixer(module, inputs, output):
        mixers.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    blocks = list(parts.blocks(model.hf))
    hooks = [m.register_forward_hook(keep) for m in (parts.embedding(model.hf), *blocks)]
    hooks += [parts.mixer(block).register_forward_hook(keep_mixer) for block in blocks]
    try:
        ids = model.tokenizer(prompt, return_tensors="pt").input_ids
        logits = model.hf(input_ids=ids, use_cache=False).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(streams), torch.stack(mixers), logits


def _expect_shape(found: object, shape: tuple[int, ...], names: str, hint: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise Wrong(f"expected a tensor {names}, found {type(found).__name__}; return one tensor")
    if tuple(found.shape) != shape:
        raise Wrong(f"expected the shape {shape}, {names}, found {tuple(found.shape)}; {hint}")
    return found.detach()


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def check_last_word(attempt) -> None:
    prompt = world.documents("facts", 1, seed=1)[0].prompt(5)
    for name, model in _pair().items():
        streams, mixers, _ = _run(model, prompt)
        truth = streams[:, -1]
        found = _expect_shape(
            attempt(model, prompt), tuple(truth.shape), "[k d_model]",
            f"{name} has {model.n_layers} blocks, so {model.n_layers + 1} depths, and you keep one "
            "vector for each of them: that of the first prompt of the batch and its last word",
        )  # fmt: skip
        if _same(found, truth):
            continue
        if _same(found, streams[:, 0]):
            raise Wrong("these are the vectors of the first word; the last word stands at index -1")
        if _same(found[1:], mixers[:, -1]):
            raise Wrong("this is what each block's mixer adds; read the stream itself, `residual`")
        k = next(k for k in range(len(truth)) if not _same(found[k], truth[k]))
        raise Wrong(
            f"on {name}, your vector at depth k = {k} is not the last word's residual stream"
        )


def check_transplant_at(attempt) -> None:
    pair = world.fact_pairs(1, seed=1)[0]
    source, target = pair.corrupt.prompt(pair.position), pair.clean.prompt(pair.position)
    subject = pair.clean.positions("subject")
    mistakes = {
        "your edit changes nothing: assign to the positions of `model.residual(k)` itself, not to "
        "a copy": (target, target, subject),
        "the roles are exchanged: the donor's vectors come from `source`, and you return what "
        "`target` says with them": (target, source, subject),
        "you replace the last word; replace the words at `positions`": (source, target, [-1]),
        "you replace the whole stream; replace only the words at `positions`":
            (source, target, slice(None)),
    }  # fmt: skip
    for name, model in _pair().items():
        depths = (0, model.n_layers // 2, model.n_layers)
        hint = "return the logits after the last word of the first prompt: `logits[0, -1]`"
        found = [
            _expect_shape(attempt(model, source, target, k, subject), (model.config.vocab_size,),
                          "[vocab]", hint) for k in depths
        ]  # fmt: skip
        if _all_same(found, model, depths, source, target, subject):
            continue
        for mistake, arguments in mistakes.items():
            if _all_same(found, model, depths, *arguments):
                raise Wrong(mistake)
        raise Wrong(
            f"on {name}, your logits differ from those of an edit at `positions` after k blocks; "
            "at k = 0, replacing every word of the subject must give what `source` itself gives"
        )


def _all_same(found: list[Tensor], model, depths, source: str, target: str, where) -> bool:
    """Are these the logits of transplants from `source` into `target` at each of the depths?"""
    donors, _, _ = _run(model, source)

    def logits(k: int) -> Tensor:
        def edit(stream: Tensor) -> None:
            stream[:, where] = donors[k, where]

        return _run(model, target, k, edit)[2]

    return all(_same(f, logits(k)) for f, k in zip(found, depths, strict=True))
