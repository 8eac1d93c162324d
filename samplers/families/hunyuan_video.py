"""HunyuanVideo, distilled with classifier-free guidance: the scale is an input of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from samplers.condition import Text
from samplers.families.base import Constants, Family


class HunyuanVideo(Family):
    """`HunyuanVideoPipeline`."""

    pipeline = "HunyuanVideoPipeline"
    transformer = "HunyuanVideoTransformer3DModel"
    block_lists = (
        ("transformer_blocks", "num_layers"),
        ("single_transformer_blocks", "num_single_layers"),
    )
    head = ("norm_out", "proj_out")
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    )
    text_parts = ("text_encoder", "text_encoder_2")
    embedded_guidance = 6.0

    def constants(self, pipeline: Any, embedded_guidance: float | None) -> dict[str, float]:
        if not pipeline.transformer.config.guidance_embeds:
            return {}
        return {"guidance": self.embedded_guidance if embedded_guidance is None else embedded_guidance}

    def stride(self, pipeline: Any) -> tuple[int, int, int]:
        vae = pipeline.vae.config
        return vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio

    def patch(self, pipeline: Any) -> tuple[int, int, int]:
        network = pipeline.transformer.config
        return network.patch_size_t, network.patch_size, network.patch_size

    def channels(self, pipeline: Any) -> int:
        return int(pipeline.vae.config.latent_channels)

    def encode(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        embeds, pooled, mask = pipeline.encode_prompt(
            prompt=list(prompts), device=pipeline.text_encoder.device
        )
        return {"embeds": embeds, "mask": mask, "pooled": pooled}

    def arguments(self, x: Tensor, timestep: Tensor, text: Text, constants: Constants) -> dict[str, Any]:
        scale = constants.get("guidance")
        return {
            "hidden_states": x,
            "timestep": timestep,
            "encoder_hidden_states": text["embeds"],
            "encoder_attention_mask": text["mask"],
            "pooled_projections": text["pooled"],
            # Rounded before it is multiplied, as the pipeline does.
            "guidance": None if scale is None else x.new_full((len(x),), scale) * 1000.0,
        }

    def latent_scale(self, pipeline: Any) -> Tensor:
        return torch.tensor([pipeline.vae.config.scaling_factor])

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        vae = pipeline.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
