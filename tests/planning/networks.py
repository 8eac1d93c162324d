"""Networks and their inputs; a process that measures its memory imports little else."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel

SIZE = (4, 32, 32)
"""Frames, height and width of the latents."""


def middling(device: str) -> WanTransformer3DModel:
    """A network whose activations outweigh what else a process allocates."""
    with torch.device(device):
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=4,
            attention_head_dim=32,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=512,
            num_layers=4,
            cross_attn_norm=True,
            rope_max_seq_len=64,
        )


def inputs(network: Any, device: torch.device, rows: int, size: tuple[int, int, int]) -> dict[str, Any]:
    config = network.config
    return {
        "hidden_states": torch.zeros(rows, config.in_channels, *size, device=device),
        "timestep": torch.full((rows,), 500.0, device=device),
        "encoder_hidden_states": torch.zeros(rows, 7, config.text_dim, device=device),
        "return_dict": False,
    }
