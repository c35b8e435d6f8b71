"""Small models of any architecture, with random weights and the world's tokenizer."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from tft_utils import models
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora.lexicon import VOCABULARY
from tft_utils.organisms.evaluation import tokenizer


def tiny(model_type: str) -> PreTrainedConfig:
    """The architecture's `tiny()` configuration; the same settings for each model type of its file."""
    config = ARCHITECTURES[model_type].tiny()
    if config.model_type == model_type:
        return config
    settings = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    return AutoConfig.for_model(model_type, **settings)


def toy(model_type: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> models.Model:
    """The architecture's `tiny()` configuration with other settings; no bias is zero, nor any weight
    that training starts at zero."""
    config = tiny(model_type)
    for name, value in ({"vocab_size": len(VOCABULARY)} | changes).items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith("bias") or not parameter.any():
                parameter += 0.1 * torch.randn_like(parameter)
    hf = hf.to(dtype).eval()
    models.prepare(hf)
    return models.Model(hf, tokenizer())
