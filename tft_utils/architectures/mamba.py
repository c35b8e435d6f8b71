"""Mamba (Gu & Dao 2023): a selective state-space layer behind a short convolution, and no MLP."""

import torch
from torch import Tensor

from tft_utils import scan


def prepare(hf, readable: bool) -> None:
    """Puts our scan into every mixer: the fast one, or the loop whose steps nnsight can edit."""
    scan.install(hf, fast=not readable)
    if hf.dtype == torch.float64:
        for block in blocks(hf):
            block.residual_in_fp32 = False  # it would round the residual stream down to float32


def embedding(model):
    return model.backbone.embeddings


def blocks(model):
    return model.backbone.layers


def mixer(block):
    return block.mixer


def final_norm(model):
    return model.backbone.norm_f


def unembedding(model):
    return model.lm_head


def state(cache, layer: int) -> dict[str, Tensor]:
    """The compressed past, the same size at every length: the recurrent state
    [batch d_inner d_state] and the convolution's last inputs [batch d_inner d_conv]."""
    part = cache.layers[layer]
    return {"ssm": part.recurrent_states[0], "conv": part.conv_states[0]}
