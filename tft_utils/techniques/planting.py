"""Plant a change in a state, and see how much of it is left: how long a recurrence keeps what is written.

    planted(model, streams, at)      run the model twice, once with a change; what is left, layer by layer
    fades(model, ids, at, words)     its mean over layers, after so many words
    decays(core)                     what multiplies a state at each word, to say the same in closed form

Where later gates read the state, as in an LSTM, a change moves them too, and that counts as well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tft_utils import reading


def recurrent(model) -> list[int]:
    """The layers that carry a state of their own from word to word."""
    return [layer for layer in range(model.n_layers) if "carry" in model.kind(layer).stepwise]


@torch.no_grad()
def planted(model, streams: Tensor, at: int, seed: int = 0) -> dict[int, Tensor]:
    """How much of a random change of the state after the word at `at` is left after each later word.

    streams [depth batch pos d_model] of a run. For each layer that has a state of its own, shares of the
    change's length [batch later]. The change is a tenth as long as the state.
    Errors: `ValueError` where no word comes after the one at `at`.
    """
    if not 0 <= at < (pos := streams.shape[2]) - 1:
        raise ValueError(f"expected a word with others after it, found {at} of {pos} words")
    left = {}
    for layer in recurrent(model):
        carried, draws = [], torch.Generator().manual_seed(seed + layer)

        def put(name, value, t=None, carried=carried, draws=draws):
            if name != "carry" or t < at:
                return value
            half = len(value) // 2
            if t == at:
                noise = torch.randn(value[half:].shape, generator=draws).to(value)
                size = 0.1 * value[half:].flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
                noise = noise * size.view(-1, *(1,) * (value.dim() - 1))
                value = torch.cat([value[:half], value[half:] + noise])
            carried.append((value[half:] - value[:half]).flatten(1).norm(dim=1))
            return value

        put.stepwise, put.points = True, ("carry",)
        model.block(layer, streams[layer].repeat(2, 1, 1), put)
        left[layer] = torch.stack([c / carried[0] for c in carried[1:]], 1)
    return left


def fades(model, ids: Tensor, at: int, words: Sequence[int]) -> Tensor:
    """What is left of a change planted after the word at `at` so many words later, a mean over layers
    [words text], in texts of ids [text pos]."""
    left = torch.stack([*planted(model, reading.streams(model, ids), at).values()]).mean(0)
    return left[:, [n - 1 for n in words]].T


def decays(core) -> Tensor:
    """The decay of a frozen recurrence as matrices [batch pos head key key], with what it erases."""
    eye = torch.eye(core.k.shape[-1], dtype=core.k.dtype)
    decay = core.decay[..., None, :] * eye if core.decay.shape[-1] > 1 else core.decay[..., None] * eye
    if core.erase is None:
        return decay
    return (eye - core.erase[..., None, None] * core.k[..., :, None] * core.k[..., None, :]) @ decay
