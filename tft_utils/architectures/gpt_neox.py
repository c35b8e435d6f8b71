"""GPT-NeoX (Pythia): softmax attention with rotary positions, in parallel with an MLP."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb


def prepare(hf, readable: bool) -> None:
    """Nothing to do: transformers' eager attention is already readable."""


def embedding(model):
    return model.gpt_neox.embed_in


def blocks(model):
    return model.gpt_neox.layers


def mixer(block):
    return block.attention


def final_norm(model):
    return model.gpt_neox.final_layer_norm


def unembedding(model):
    return model.lm_head


def state(cache, layer: int) -> dict[str, Tensor]:
    """Keys and values of all past positions, each [batch head pos d_head]: it grows with length."""
    return {"keys": cache.layers[layer].keys, "values": cache.layers[layer].values}


# ---- one more word, in many variants: `tft_utils.techniques.steering` ---------------------------------------

CACHE = "past_key_values"
COMPRESSED = ()  # what is carried grows with the past


def step(model, layer: int, x: Tensor, past: dict[str, Tensor], mask: Tensor) -> Tensor:
    """The variants stand side by side as words at one position, and do not see each other."""
    n = x.shape[1]
    itself = torch.eye(n, dtype=torch.bool, device=x.device).expand(len(x), -1, -1)
    sees = torch.cat([mask.bool()[:, None].expand(-1, n, -1), itself], -1)
    bias = torch.zeros(sees.shape, dtype=x.dtype, device=x.device)
    bias.masked_fill_(~sees, torch.finfo(x.dtype).min)
    at = torch.full((1, n), mask.shape[1], device=x.device)
    return blocks(model)[layer](
        x,
        attention_mask=bias[:, None],
        layer_past=_Past(past["keys"][:, 0], past["values"][:, 0]),
        position_embeddings=model.gpt_neox.rotary_emb(x, position_ids=at),
    )


@dataclass(frozen=True)
class _Past:
    """Keys and values of one layer, as its attention asks for them; nothing is kept."""

    keys: Tensor
    values: Tensor

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)


# ---- what positions exchange: `tft_utils.techniques.attention` --------------------------------------------


def output_projection(mixer):
    return mixer.dense


def units(mixer) -> int:
    return mixer.config.num_attention_heads


@dataclass(frozen=True)
class Mixing:
    """Softmax attention on one input: out_t = sum_h W_h sum_s A[h,t,s] v_s[h] + b.

    Every level of `weights` is the pattern A itself: nothing stands between it and the values.
    """

    pattern: Tensor  # A [batch head query source], rows sum to 1
    v: Tensor  # [batch head source d_head]
    projection: Tensor  # W_h of every head [head d_head d_model]
    bias: Tensor  # b [d_model]

    unit: ClassVar[str] = "head"
    levels: ClassVar[tuple[str, ...]] = ("operator",)
    spread: ClassVar[int] = 0  # a word's value stands at its own position only
    normalised: ClassVar[bool] = True

    def row(self, i: int, length: int) -> "Mixing":
        """The first `length` positions of sequence i, as a batch of one."""
        pattern, v = self.pattern[i : i + 1, :, :length, :length], self.v[i : i + 1, :, :length]
        return replace(self, pattern=pattern, v=v)

    def weights(
        self, level: str = "operator", queries: Tensor | None = None, units: list[int] | None = None
    ) -> Tensor:
        """A [batch head query source], for some queries and heads (None: all)."""
        pattern = self.pattern if units is None else self.pattern[:, units]
        return pattern if queries is None else pattern[:, :, queries]

    def values(self, level: str = "operator", units: list[int] | None = None) -> Tensor:
        """v [batch head source d_head]."""
        return self.v if units is None else self.v[:, units]

    def mix(self, values: Tensor) -> Tensor:
        """The pattern applied to any values [batch head source d_head]."""
        return self.pattern @ values

    def read_out(self, mixed: Tensor) -> Tensor:
        """Mixed values [batch head pos d_head] as a change of the mixer's output, without bias."""
        return torch.einsum("bhtw,hwd->btd", mixed, self.projection)

    def constant(self) -> Tensor:
        """The part of the output that no position's value makes [batch pos d_model]."""
        return self.bias.expand(len(self.v), self.v.shape[2], -1)

    def project(self, direction: Tensor) -> Tensor:
        """Each source's contribution along a direction [d_model]: signed [batch query source]."""
        along = torch.einsum("bhsw,hwd,d->bhs", self.v, self.projection, direction)
        return torch.einsum("bhts,bhs->bts", self.pattern, along)


def mixing(mixer) -> Mixing:
    """What this attention does in the trace it is called in."""
    heads, width = mixer.config.num_attention_heads, mixer.head_size
    qkv = mixer.query_key_value.output
    pattern = mixer.output[1]
    if pattern is None:
        raise ValueError(
            "expected attention that hands out its pattern, found none; load the model with "
            "attn_implementation='eager', as `models.load` does"
        )
    v = qkv.unflatten(-1, (heads, 3 * width))[..., 2 * width :].transpose(1, 2)
    weight, bias = mixer.dense.weight.detach(), mixer.dense.bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    return Mixing(pattern.detach(), v.detach(), weight.T.unflatten(0, (heads, width)), bias)


# ---- one block, open to edits: `tft_utils.techniques.patching`, `tft_utils.techniques.editing` ---------------------------

COMPONENTS = ("heads", "mixer", "mlp")
STEPWISE = ()  # nothing is carried from step to step


def run_block(model, layer: int, x: Tensor, put: Callable, stepwise: bool = False) -> Tensor:
    """Heads are what each head reads before the projection, [batch pos head d_head]."""
    block = blocks(model)[layer]
    attention, pos = block.attention, x.shape[1]
    qkv = attention.query_key_value(block.input_layernorm(x))
    qkv = qkv.unflatten(-1, (attention.config.num_attention_heads, -1)).transpose(1, 2)
    q, k, v = qkv.chunk(3, -1)  # [batch head pos d_head]
    rotation = model.gpt_neox.rotary_emb(x, torch.arange(pos, device=x.device)[None])
    q, k = apply_rotary_pos_emb(q, k, *rotation)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scaling)
    mixed = put("heads", mixed.transpose(1, 2))
    mixed = put("mixer", attention.dense(mixed.flatten(2)))
    read = x if block.use_parallel_residual else x + mixed
    return put("mlp", block.mlp(block.post_attention_layernorm(read))) + mixed + x


def memory(block) -> Module:
    """The down-projection of the MLP: Meng et al. 2022."""
    return block.mlp.dense_4h_to_h


# ---- relevance: `tft_utils.techniques.relevance` ----------------------------------------------------------

RULES = ("norm", "activation", "attention")
RULE_SETS = {  # name -> the shares of the gradient that flow into queries, keys and values
    "AttnLRP": (1 / 4, 1 / 4, 1 / 2),  # the uniform rule at A v, then at q k: Achtibat et al. 2024
    "CP-LRP": (0.0, 0.0, 1.0),  # the weights A are constants: Ali et al. 2022
}


def relevance_rules(model, name: str, without: Collection[str]) -> list[tuple[Module, Callable]]:
    """(module, what runs in place of its forward) for the rules of a set, those `without` left out.

    Rotation is linear in queries and keys, so scaling the gradient where they are made equals
    scaling it where they meet.
    """
    found = {rule: [] for rule in RULES}
    found["norm"].append((final_norm(model), _norm_rule))
    for block in blocks(model):
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            found["norm"].append((norm, _norm_rule))
        found["activation"].append((block.mlp.act, _activation_rule))
        shares = partial(_attention_rule, block.attention.head_size, RULE_SETS[name])
        found["attention"].append((block.attention.query_key_value, shares))
    return [pair for rule in RULES if rule not in without for pair in found[rule]]


def _norm_rule(norm, x: Tensor) -> Tensor:
    """LayerNorm whose scale is a constant: linear in x, plus its bias."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.detach().square().mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


def _activation_rule(act, x: Tensor) -> Tensor:
    """phi(x) as x times the constant phi(x) / x: the identity rule."""
    slope = type(act).forward(act, x.detach()) / x.detach()
    return x * torch.where(x == 0, 0, slope)


def _attention_rule(width: int, shares: tuple[float, ...], linear, x: Tensor) -> Tensor:
    """Queries, keys and values of all heads, each with its share of the gradient."""
    made = F.linear(x, linear.weight, linear.bias)
    share = made.new_tensor(shares).repeat_interleave(width).repeat(made.shape[-1] // (3 * width))
    return made * share + (made * (1 - share)).detach()


def relevance_leak(name: str) -> Callable | None:
    """What the set's relevance loses in a mixer, from the weights it hands out; None: nothing."""
    return _softmax_leak if name == "AttnLRP" else None


def _softmax_leak(weights: Tensor, gradient: Tensor) -> Tensor:
    """sum A dA - sum x dx [batch] over one layer's softmax A = softmax(x) [batch head query source].

    The gradient [batch head query source] is that of A before the uniform rule halves it. The
    derivative's rows sum to zero, so log A stands in for the scores x.
    """
    gradient = gradient / 2
    scores = weights * (gradient - (weights * gradient).sum(-1, keepdim=True))
    return (weights * gradient - torch.xlogy(scores, weights)).sum((1, 2, 3))


# ---- fine-tuning: `tft_utils.organisms.quirky` -----------------------------------------------------------

LORA_TARGETS = ["query_key_value", "dense_h_to_4h", "dense_4h_to_h", "lm_head"]
