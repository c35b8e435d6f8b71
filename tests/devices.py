"""A second device where there is none: tensors say that they lie on it, and work with no other.

Numbers are those of the CPU. Each tensor carries its device as a mark, which results inherit. An
operation on tensors of two devices is an error, as on real ones, but for numbers without an axis.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

HERE, THERE = torch.device("cpu"), torch.device("cuda:1")


def device(x: Tensor) -> torch.device:
    return getattr(x, "mark", HERE)


class TwoDevices(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # a new object each time
            return device(args[0])
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        places = {device(x) for x in read if x.ndim} or {device(x) for x in read}
        if func is Tensor.to:
            return self.move(*args, **kwargs)
        asked = kwargs.pop("device", None)
        if len(places) > 1:
            raise RuntimeError(f"tensors on two devices in {getattr(func, '__name__', func)}")
        return marked(func(*args, **kwargs), torch.device(asked) if asked else next(iter(places), HERE))

    def move(self, x: Tensor, *args, **kwargs) -> Tensor:
        place, kept = device(x), []
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.device | str):
                place = torch.device(value)
            elif isinstance(value, Tensor):
                place = device(value)
                kept.append(value.dtype)
            else:
                kept.append(value)
        moved = x.to(*kept) if kept else x
        if moved is x and place != device(x):
            moved = x.view_as(x)
        return moved if moved is x else marked(moved, place)


def marked(value, place: torch.device):
    for x in tree_leaves(value):
        if isinstance(x, Tensor):
            x.mark = place
    return value


@contextmanager
def split(model) -> Iterator[None]:
    """The second half of the model's blocks, its final norm and its unembedding lie on another device."""
    half = range(model.n_layers // 2, model.n_layers)
    modules = [model.module("final_norm"), model.module("unembedding")]
    modules += [model.module("block", layer) for layer in half]
    tensors = [x for module in modules for x in (*module.parameters(), *module.buffers())]
    before = {x: device(x) for x in model.hf.parameters()}
    try:
        for x in tensors:
            x.mark = THERE
        model.hf.hf_device_map = {"": HERE, "half": THERE}
        with TwoDevices():
            yield
    finally:
        del model.hf.hf_device_map
        for x in [*tensors, *before]:
            x.mark = HERE
