"""The model of `tft_utils.architectures.lstm`, which transformers lacks: configuration and modules, made,
saved and loaded as any other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput


class LSTMConfig(PreTrainedConfig):
    model_type = "lstm"

    vocab_size: int = 778
    hidden_size: int = 128
    num_hidden_layers: int = 8
    initializer_range: float = 0.05
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    use_cache: bool = True


@dataclass
class Output(ModelOutput):
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    state: list | None = None  # of each block h and c [batch channel], or None before its first word


class Mixer(nn.Module):
    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.in_proj = nn.Linear(self.hidden_size, 4 * self.hidden_size)
        self.recurrent = nn.Linear(self.hidden_size, 4 * self.hidden_size, bias=False)
        self.out_proj = nn.Linear(self.hidden_size, self.hidden_size, bias=False)

    def forward(self, x: Tensor, state: list, layer: int) -> Tensor:
        y, state[layer] = self.run(x, state[layer])
        return self.out_proj(y)

    def run(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple:
        """h [batch pos channel] on the normed stream, and h and c after its last word; past: those
        before."""
        start = (
            [x.new_zeros(1, len(x), self.hidden_size)] * 2 if past is None else [p[None] for p in past]
        )
        weight, bias = self.in_proj.weight, self.in_proj.bias
        none = torch.zeros_like(bias)
        if type(self.in_proj) is not nn.Linear or self.in_proj._forward_hooks:  # they must be called
            x, weight, bias = self.in_proj(x), torch.eye(len(bias), dtype=x.dtype, device=x.device), none
        weights = [weight, self.recurrent.weight, bias, none]
        y, h, c = torch.lstm(x, start, weights, True, 1, 0.0, False, False, True)
        return y, (h[0], c[0])


class Block(nn.Module):
    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.mixer = Mixer(config)

    def forward(self, x: Tensor, state: list, layer: int) -> Tensor:
        return x + self.mixer(self.norm(x), state, layer)


class LSTMPreTrainedModel(PreTrainedModel):
    config_class = LSTMConfig
    base_model_prefix = "lstm"
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and module.bias is not None:
            gates = torch.tensor(
                [0.0, 1.0, 0.0, 0.0]
            )  # a forget gate starts open: Jozefowicz et al. 2015
            initialization.copy_(module.bias, gates.repeat_interleave(module.in_features))


class LSTMModel(LSTMPreTrainedModel):
    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(self, input_ids=None, inputs_embeds=None, state=None, use_cache=None, **unused) -> Output:
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        state = [None] * len(self.blocks) if state is None else list(state)
        for layer, block in enumerate(self.blocks):
            x = block(x, state, layer)
        return Output(last_hidden_state=self.norm(x), state=state if use_cache else None)


class LSTMForCausalLM(LSTMPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "lstm.embeddings.weight"}  # where the configuration ties them

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.lstm = LSTMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, logits_to_keep: int = 0, **options) -> Output:
        out = self.lstm(input_ids, **options)
        out.logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        return out


AutoConfig.register("lstm", LSTMConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
