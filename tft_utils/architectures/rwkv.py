"""RWKV, version 4 (Peng et al. 2023, arXiv 2305.13048): a weighted average of all values so far, whose
weights decay with distance, channel by channel; then an MLP with a gate.

    x_t  normed stream [d_model]           w  decay [channel], > 0     u  bonus of the present [channel]
    k_t  key, v_t  value [channel]         A_t  average of the values to t [channel]
    r_t  receptance, the gate [channel]    l_t  logarithm of the weights' sum [channel]

    y_t = (sum_{s<t} exp(k_s - (t-1-s) w) v_s + exp(k_t + u) v_t) / the same sum of weights    (eq. 16)

Numerator and denominator overflow. Their quotient is a recurrence of its own, whose numbers are between
0 and 1, with the denominator as a second one, of logarithms:

    l_t = log(exp(l_{t-1} - w) + exp(k_t))
    A_t = exp(l_{t-1} - w - l_t) A_{t-1} + exp(k_t - l_t) v_t
    y_t = p_t A_{t-1} + (1 - p_t) v_t,    p_t = sigmoid(l_{t-1} - k_t - u)

A block, in order (Figure 2):
    1. LayerNorm; k, v and r, each of its own mixture of x_t and x_{t-1} (token shift), by a linear layer
    2. the average, times the gate sigmoid(r)
    3. project, add to the stream
    4. LayerNorm, again two mixtures of x_t and x_{t-1}, up-projection, square of ReLU, down-projection
    5. times a gate sigmoid(r) of its own, add to the stream

The first block norms what it reads: that is the stream it adds to.
"""

from dataclasses import replace
from functools import partial
from types import MethodType

import torch
from torch import Tensor
from transformers import RwkvConfig

from tft_utils.architectures import Kind, recurrent
from tft_utils.architectures.gpt_neox import activate, norm
from tft_utils.architectures.linear_scan import log_sums
from tft_utils.architectures.recurrent import Recurrence, keep, wide

WHERE = {
    "embedding": "rwkv.embeddings",
    "blocks": "rwkv.blocks",
    "final_norm": "rwkv.ln_out",
    "unembedding": "head",
    "stream": "rwkv.blocks.0.pre_ln",
}
CACHE = "state"


class Mixing(recurrent.Mixing):
    """The average on one input. Its rows sum to 1, as those of softmax attention do."""

    normalised = True
    spread = 1  # by the token shift, the next word's value holds a word's own too


KIND = Kind(
    mixer="attention",
    output="output",
    memory="feed_forward.value",
    units="attention_hidden_size",
    mixing=Mixing,
    components=("key", "v", "read-out", "gate", "mixer", "mlp"),
    stepwise=("state", "carry"),  # [batch channel 1 1]: A_{t-1}, which y_t reads; A_t
    compressed=("shift", "mlp shift", "average", "log weight"),
)
NO = {"padding on the left": "transformers' RWKV takes no mask, and would read padding as words"}
RULES = {
    "norm": ("scale",),
    "activation": ("mlp slope",),
    "average": ("key",),
    "gate": ("gate", "mlp gate"),
}
RULE_SETS = {  # MambaLRP's rules (Jafari et al. 2024); a sigmoid gate is a constant (Arras et al. 2019)
    "MambaLRP": dict.fromkeys([point for rule in RULES.values() for point in rule], 0)
}
LORA_TARGETS = ["key", "value", "receptance", "output", "head"]


def prepare(hf, readable: bool = False) -> None:
    """In evaluation transformers would halve weights and stream every few blocks, against the overflow
    of half precision; the logits are the same without. And it mixes up a batch that reads one word."""
    hf.config.rescale_every = 0
    for here in hf.rwkv.blocks:
        here.attention.forward = MethodType(_attend, here.attention)
        here.feed_forward.forward = MethodType(_row_by_row, here.feed_forward)


def _attend(module, hidden: Tensor, state: list[Tensor] | None = None, use_cache: bool = False) -> tuple:
    """transformers' forward, with our scan for its loop over words. What it carries are a sum of weighted
    values, one of weights, and the exponent of both. Here they are A, 1 and l, which it goes on from
    alike: whoever adds to a sum of weights may turn it negative, and divides by it."""
    past = None if state is None else [part[..., module.layer_id] for part in state[2:]]
    if hidden.shape[1] == 1:
        output, state = _row_by_row(module, hidden, state, use_cache=use_cache)
        if past:
            past[2].add_(past[1].log())
            past[0].div_(past[1])
            past[1].fill_(1)
        return output, state
    gate, k, v, state = module.extract_key_value(hidden, state)
    k, v = wide(k), wide(v)
    mixing, sums = frozen(module, k, past and past[::2])
    y = mixing(v[..., None])[..., 0]  # before what it goes on from is written over
    if past:
        average = replace(mixing, q=torch.ones_like(k)[..., None], bonus=None)(v[..., None])[:, -1, :, 0]
        for part, value in zip(past, (average, torch.ones_like(average), sums[:, -1]), strict=True):
            part.copy_(value)
    return module.output(gate * y.to(gate.dtype)), state


def _row_by_row(module, hidden: Tensor, state: list[Tensor] | None = None, **options) -> tuple:
    """transformers' forward. Its token shift of one word lacks the axis of positions, which broadcasts
    the rows of a batch over each other: so each row goes by itself, with its own part of the state."""
    forward = partial(type(module).forward, module, **options)
    if state is None or hidden.shape[1] > 1:
        return forward(hidden, state=state)
    rows = [
        forward(hidden[i : i + 1], state=[s[i : i + 1] for s in state])[0] for i in range(len(hidden))
    ]
    return torch.cat(rows), state


def block(model, layer: int, x: Tensor, put=keep, past: dict | None = None) -> Tensor:
    """Block `layer` on x [... pos d_model]; every named point goes through `put`."""
    here, past = model.rwkv.blocks[layer], past or {}
    if layer == 0:
        x = put("stream", norm(here.pre_ln, x, put))
    x = x + put("mixer", _average(here.attention, norm(here.ln1, x, put), put, past))
    mlp, read = here.feed_forward, norm(here.ln2, x, put)
    before = shifted(read, past.get("mlp shift"))
    key = activate(_squared, mlp.key(mix(read, before, mlp.time_mix_key)), put, "mlp slope")
    gate = torch.sigmoid(mlp.receptance(mix(read, before, mlp.time_mix_receptance)))
    return x + put("mlp", put("mlp gate", gate) * mlp.value(key))


def _average(m, x: Tensor, put, past: dict) -> Tensor:
    """What a time mixing m makes of the normed stream."""
    before = shifted(x, past.get("shift"))
    k = put("key", wide(m.key(mix(x, before, m.time_mix_key))))
    v = put("v", wide(m.value(mix(x, before, m.time_mix_value))))
    gate = put("gate", torch.sigmoid(m.receptance(mix(x, before, m.time_mix_receptance))))
    mixing, _ = frozen(m, k, [past[name] for name in ("average", "log weight")] if past else None, put)
    y = put("read-out", put("mixing", mixing)(v[..., None])[..., 0])
    return m.output((gate * y).to(x.dtype))


def frozen(m, k: Tensor, past: list[Tensor] | None, put=keep) -> tuple[Recurrence, Tensor]:
    """The average as a recurrence, and l [... pos channel]; past: A and l of the word before."""
    w, u, A, before = torch.exp(wide(m.time_decay)), wide(m.time_first), None, k.new_full((), -1e38)
    if past:
        A, before = past[0][..., None, None].to(k.dtype), past[1].to(k.dtype)
    before = before.expand_as(k[..., 0, :])
    sums = log_sums(k.reshape(-1, *k.shape[-2:]), w, before.reshape(-1, k.shape[-1])).view(k.shape)
    earlier = torch.cat([before[..., None, :], sums[..., :-1, :]], -2)
    q, write, decay = (earlier - k - u).sigmoid(), (k - sums).exp(), (earlier - w - sums).exp()
    parts = (part[..., None] for part in (q, write, decay))
    return Recurrence(*parts, bonus=(u + k - earlier).sigmoid(), past=A, put=put), sums


def shifted(x: Tensor, past: Tensor | None = None) -> Tensor:
    """The word before each of x [... pos d_model]; past: the one before the first [... d_model]."""
    first = (
        torch.zeros_like(x[..., :1, :]) if past is None else past[..., None, :].expand_as(x[..., :1, :])
    )
    return torch.cat([first, x[..., :-1, :]], -2)


def mix(x: Tensor, before: Tensor, share: Tensor) -> Tensor:
    """Of each channel a share of x, the rest of the word before; share [1 1 d_model]."""
    return x * share[0, 0] + before * (1 - share[0, 0])


def _squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def final(model, x: Tensor, put=keep) -> Tensor:
    """The final norm on x [... d_model]."""
    return norm(model.rwkv.ln_out, x, put)


def state(cache, layer: int) -> dict[str, Tensor]:
    """Each [batch channel] at every length: the last words that both token shifts saw, A and l."""
    names = {"mlp shift": 0, "shift": 1, "average": 2, "log weight": 4}  # 3 is 1: see `_attend`
    return {name: cache[at][..., layer] for name, at in names.items()}


def tiny() -> RwkvConfig:
    """A configuration for tests."""
    return RwkvConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3, intermediate_size=64)
