"""Weights that lie in two bytes each, and are computed with in float32.

In bfloat16 a model of three billion numbers takes half the memory. But what techniques add up (streams,
relevance, states) must not be rounded to eight bits, and a sum that has to hold to 1e-5 would not. So the
matrices of the blocks alone are kept narrow, nearly all of a large model, and each is widened where it is
used. What comes out is exactly what the rounded weights say.
"""

from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from tft_utils.architectures import ARCHITECTURES
from tft_utils.files import LoadError

ATEN = torch.ops.aten


class Narrow(Tensor):
    """A float32 tensor whose numbers lie in two bytes each, in `kept`.

    Views and clones are narrow, too, and so is `float()`; a wide copy is `narrow + 0`. Whatever else
    reads it gets a copy in float32, also on the way back through a graph: no wide one is stored there.
    What is written into it, or into a view, is rounded: a change below 2^-9 of a number in bfloat16 is
    lost.
    """

    @staticmethod
    def __new__(cls, kept: Tensor) -> "Narrow":
        like = {"strides": kept.stride(), "storage_offset": kept.storage_offset(), "device": kept.device}
        return Tensor._make_wrapper_subclass(cls, kept.shape, dtype=torch.float32, **like)

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["kept"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict, *_) -> "Narrow":
        return Narrow(inner["kept"])

    @property
    def data(self) -> "Narrow":
        return super().data

    @data.setter
    def data(self, new: Tensor) -> None:
        if (new.shape, new.dtype) != (self.shape, self.dtype):
            raise TypeError(
                f"expected {list(self.shape)} numbers in float32 for a weight that is kept in "
                f"{self.kept.dtype}, found {list(new.shape)} in {new.dtype}; load the model without "
                "storage_dtype"
            )
        self.kept.copy_(new.detach())

    # What PyTorch refuses to do, or should, for a tensor without numbers of its own.

    def __repr__(self, **_) -> str:
        return f"{self.kept.float()}, kept in {self.kept.dtype}"

    def tolist(self) -> list:
        return self.kept.tolist()

    def numpy(self, **options):
        return self.kept.float().numpy(**options)

    def __dlpack__(self, **options):
        return self.kept.float().__dlpack__(**options)

    def share_memory_(self) -> "Narrow":
        self.kept.share_memory_()
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, call, types, args=(), kwargs=None):
        kwargs, schema = kwargs or {}, call._schema
        if call is ATEN.view.dtype:
            raise TypeError(
                "expected a tensor that lies in float32 to look at its bits; take `narrow + 0`"
            )
        looks = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        moves = call is ATEN._to_copy.default and kwargs.get("dtype") in (None, torch.float32)
        if args and isinstance(args[0], Narrow) and (looks or moves or call is ATEN.clone.default):
            kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
            found = call(args[0].kept, *args[1:], **kwargs)
            return tree_map_only(Tensor, Narrow, found)
        wide = tree_map_only(Narrow, lambda narrow: narrow.kept.float(), (args, kwargs))
        found = call(*wide[0], **wide[1])
        written = {}
        for i, argument in enumerate(schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            pair = (a[i] if i < len(a) else k.get(argument.name) for a, k in ((args, kwargs), wide))
            for old, new in zip(*map(tree_leaves, pair), strict=True):
                if isinstance(old, Narrow):
                    if old.shape != new.shape:
                        raise TypeError(
                            f"expected a write that keeps the shape of a weight, found {call}"
                        )
                    written[id(new)] = old, new
        for old, new in written.values():
            old.kept.copy_(new)
        return tree_map_only(Tensor, lambda new: written.get(id(new), (new,))[0], found)


def matrices(hf) -> dict[str, torch.nn.Linear]:
    """The linear maps of a model's blocks, by their names in it."""
    blocks = ARCHITECTURES[hf.config.model_type].WHERE["blocks"]
    inside = ((name, part) for name, part in hf.named_modules() if name.startswith(f"{blocks}."))
    return {name: part for name, part in inside if type(part) is torch.nn.Linear}


def store(hf, dtype: torch.dtype) -> None:
    """Keeps the matrices of a model's blocks in this dtype, in place. Nothing trains or saves them then.

    Embeddings, norms, biases and decay rates stay as they are. Errors: `LoadError` where a number is too
    large for the dtype.
    """
    hf.config.dtype = torch.float32  # of what is made after it: transformers has read it in `dtype`
    for name, linear in matrices(hf).items():
        kept = linear.weight.detach().to(dtype)
        if not kept.is_meta and not kept.isfinite().all():
            instead = "torch.bfloat16" if dtype == torch.float16 else "dtype=torch.float32 alone"
            raise LoadError(
                f"expected weights that {dtype} can hold, found one in {name} that it cannot; "
                f"use {instead}"
            )
        linear.weight = torch.nn.Parameter(Narrow(kept), requires_grad=False)


def stored_in(hf) -> torch.dtype | None:
    """The dtype that the matrices of its blocks are kept in, if `store` was here."""
    kept = (getattr(linear.weight, "kept", None) for linear in matrices(hf).values())
    return next((each.dtype for each in kept if each is not None), None)


def size(hf) -> int:
    """Bytes of all weights."""
    return sum(getattr(weight, "kept", weight).nbytes for weight in hf.parameters())


def read_wide(hf):
    """A context in which transformers reads all but the matrices of the blocks in float32, whatever dtype
    it is asked for; hf: any model of the same settings."""
    narrow = {f"{name}.weight" for name in matrices(hf)}
    names = {name for name, _ in hf.named_parameters(remove_duplicate=False)} - narrow
    return patch.object(type(hf), "_keep_in_fp32_modules_strict", names)
