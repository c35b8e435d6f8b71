"""Models of any shape, with random weights and the world's tokenizer: a speed does not ask for more."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from tft_utils import models
from tft_utils.organisms.evaluation import tokenizer


def random_model(config: PretrainedConfig) -> models.Model:
    """The same weights at every call."""
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    models.prepare(hf)
    return models.Model(hf, tokenizer())
