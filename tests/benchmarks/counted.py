"""Counts what a lesson would multiply at the true shapes of `small`, from a run on narrow models.

The narrow models have the depth and the vocabulary of the published ones, and widths that nothing else
has. Wherever such a width turns up in a product or a factorisation, the published width is put in its
place. So a lesson that takes hours at true shapes is counted in minutes.

Counted: matrix products, forward and backward, and factorisations (Golub & Van Loan 2013, 4th edition).
Not counted: scores of attention within a head and everything that works number by number, the scan
among it.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry
from transformers import GPTNeoXConfig, MambaConfig

HEADS, WIDE = 12, 84
NARROW = {
    "transformer": GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=WIDE,
        num_hidden_layers=12,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDE,
        max_position_embeddings=2048,
        rotary_pct=0.3,  # two dimensions of a head
        tie_word_embeddings=False,
    ),
    "mamba": MambaConfig(
        vocab_size=50280,
        hidden_size=WIDE,
        num_hidden_layers=24,
        time_step_rank=43,
        tie_word_embeddings=True,
    ),
}
TRUE = {  # width there -> width of Pythia-160m and Mamba-130m
    WIDE: 768,
    WIDE + 1: 769,  # with a bias
    2 * WIDE: 1536,  # Mamba's channels; both answers of a pair
    3 * WIDE: 2304,  # queries, keys and values
    4 * WIDE: 3072,  # an MLP; Mamba's channels and gates
    43: 48,  # rank of Mamba's step sizes
    43 + 32: 80,  # that, with B and C
}


def _square(share: float):
    """Of a factorisation of [... n n]: so many n^3."""
    return lambda a, *_: share * _size(a[:-1]) * a[-1] ** 2


def _tall(a, *_) -> float:
    """A singular value decomposition of [... m n] into its thin factors."""
    n, m = sorted(a[-2:])
    return _size(a[:-2]) * (14 * m * n**2 + 8 * n**3)


def _size(shape) -> int:
    return torch.Size(shape).numel()


FACTORISATIONS = {
    "linalg_cholesky_ex": _square(1 / 3),
    "_linalg_solve_ex": _square(2 / 3),
    "cholesky_solve": lambda b, a, *_: 2 * _size(a[:-1]) * a[-1] * b[-1],
    "_linalg_eigh": _square(9.0),
    "_linalg_svd": _tall,
    "linalg_qr": lambda a, *_: 4 * _size(a[:-1]) * a[-1] ** 2,
}


class Counter(TorchDispatchMode):
    """Floating-point operations of what runs within, at the true widths: `total`."""

    def __init__(self, widths: dict[int, int] = TRUE) -> None:
        super().__init__()
        self.widths, self.total = widths, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, count = function.overloadpacket.__name__, flop_registry.get(function.overloadpacket)
        if name in FACTORISATIONS:
            self.total += FACTORISATIONS[name](*self._shapes(args))
        elif count is not None:
            options = {k: v for k, v in self._shapes(kwargs or {}).items() if k != "out"}
            self.total += count(*self._shapes(args), out_val=self._shapes(out), **options)
        return out

    def _shapes(self, values):
        return tree_map(self._shape, values)

    def _shape(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        return torch.Size(self.widths.get(n, n) for n in value.shape)


def start() -> Counter:
    """A counter of all that this thread does from now on."""
    return Counter().__enter__()
