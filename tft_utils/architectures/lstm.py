"""LSTM (Hochreiter & Schmidhuber 1997; with forget gates, Gers et al. 2000) in blocks of today's form: a
norm before it, a projection behind it, added to the stream. transformers has none: see `lstm_model`.

    x_t  normed stream [d_model]              h_t  what a block remembers and writes [channel]
    i_t, f_t, o_t  input, forget, output gate [channel], between 0 and 1
    g_t  candidate, c_t  cell [channel]

    (i_t, f_t, g_t, o_t) = (sigma, sigma, tanh, sigma)(W x_t + U h_{t-1} + b)
    c_t = f_t c_{t-1} + i_t g_t               h_t = o_t tanh(c_t)

The gates read h_{t-1}: nothing here is computed for all words at once. Frozen at the gates and at the
slopes of both tanh, the recurrence is linear in W x_t + b. But U mixes all channels at every step, and so
between two words stands a matrix, with an entry for every pair of channels, and no weight.

A block, in order:
    1. RMSNorm
    2. the drive W x + b of all gates and of the candidate, in one product
    3. word by word: gates and candidate, the cell, h
    4. project, add to the stream
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from tft_utils.architectures import Kind
from tft_utils.architectures.lstm_model import LSTMConfig, Mixer
from tft_utils.architectures.recurrent import keep, rms

WHERE = {
    "embedding": "lstm.embeddings",
    "blocks": "lstm.blocks",
    "final_norm": "lstm.norm",
    "unembedding": "lm_head",
}
CACHE = "state"
NO = {
    "hidden attention": "even frozen, its step mixes all channels: a word has no one weight for another",
    "padding on the left": "it takes no mask, and would read padding as words",
}


@dataclass(frozen=True)
class Cells:
    """The cells of a block, called with their drive [... pos 4*channel]; gives h [... pos channel].

    past: h and c before [... channel]. frozen: i, f, o and the slopes of both tanh [... pos channel],
    which make it linear. A `put` with a true attribute `stepwise` gets 'state', c_t, and 'carry', h_t
    and c_t side by side.
    """

    recurrent: Callable  # U
    past: tuple[Tensor, Tensor] | None
    put: Callable = keep
    frozen: list[Tensor] | None = None

    def __call__(self, drive: Tensor) -> Tensor:
        return self.run(drive)[0]

    def run(self, drive: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tensor]]:
        """h of every word, h and c of the last one, and what `frozen` takes."""
        lead, put = (*drive.shape[:-2], drive.shape[-1] // 4), self.put
        h, c = (drive.new_zeros(lead),) * 2 if self.past is None else (p.expand(lead) for p in self.past)
        stepwise, steps, outputs = getattr(put, "stepwise", False), [], []
        # Unbound once: for a slice in the loop, autograd would fill a tensor of the whole length.
        frozen = (
            repeat(None)
            if self.frozen is None
            else zip(*(p.unbind(-2) for p in self.frozen), strict=True)
        )
        for t, (word, known) in enumerate(zip(drive.unbind(-2), frozen, strict=False)):
            i, f, g, o = (word + self.recurrent(h)).chunk(4, -1)
            if known is None:
                i, f, o, slope = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), _slope(g)
            else:
                i, f, o, slope, of_cell = known
            c = f * c + i * (slope * g)
            c = put("state", c, t) if stepwise else c
            of_cell = _slope(c) if known is None else of_cell
            h = o * (of_cell * c)
            outputs.append(h)
            steps.append((i, f, o, slope, of_cell))
            h, c = put("carry", torch.cat([h, c], -1), t).chunk(2, -1) if stepwise else (h, c)
        return torch.stack(outputs, -2), (h, c), [torch.stack(p, -2) for p in zip(*steps, strict=True)]


def _slope(x: Tensor) -> Tensor:
    """tanh(x) / x."""
    return torch.where(x == 0, 1, torch.tanh(x) / torch.where(x == 0, 1, x))


KIND = Kind(
    mixer="mixer",
    output="out_proj",
    memory="mixer.out_proj",
    units="hidden_size",
    mixing=Cells,
    components=("drive", "read-out", "mixer"),
    stepwise=("state", "carry"),
    compressed=("h", "c"),
)
RULES = {
    "norm": ("scale",),
    "gate": ("input gate", "forget gate", "output gate"),
    "activation": ("candidate slope", "cell slope"),
}
RULE_SETS = {  # gates are constants, and a product's relevance is its signal's: Arras et al. 2019
    "LRP-all": dict.fromkeys([point for rule in RULES.values() for point in rule], 0)
}
LORA_TARGETS = ["in_proj", "out_proj", "lm_head"]


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here = model.lstm.blocks[layer]
    read = rms(x, here.norm.weight, here.norm.eps, put)
    h = put("read-out", _cells(here.mixer, read, put, (past["h"], past["c"]) if past else None))
    return x + put("mixer", here.mixer.out_proj(h))


def _cells(m: Mixer, x: Tensor, put, past: tuple[Tensor, Tensor] | None) -> Tensor:
    """h [... pos channel] on the normed stream."""
    if put is keep:  # nobody looks
        start = past and tuple(p.expand(*x.shape[:-2], -1).reshape(-1, p.shape[-1]) for p in past)
        return m.run(x.flatten(0, -3), start)[0].unflatten(0, x.shape[:-2])
    drive = put("drive", m.in_proj(x))
    if getattr(put, "stepwise", False):
        return put("mixing", Cells(m.recurrent, past, put))(drive)
    names = ("input gate", "forget gate", "output gate", "candidate slope", "cell slope")
    frozen = Cells(m.recurrent, past).run(drive)[2]
    frozen = [put(name, part) for name, part in zip(names, frozen, strict=True)]
    return put("mixing", Cells(m.recurrent, past, frozen=frozen))(drive)


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return rms(x, model.lstm.norm.weight, model.lstm.norm.eps, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """h and c [batch channel], the same size at every length."""
    return dict(zip("hc", cache[layer], strict=True))


def tiny() -> LSTMConfig:
    """A configuration for tests."""
    return LSTMConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3)
