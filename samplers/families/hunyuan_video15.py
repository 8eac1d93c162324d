"""HunyuanVideo 1.5: two streams of text, and room for an image that text-to-video leaves empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from samplers.condition import Text
from samplers.families.base import Constants, Family


class HunyuanVideo15(Family):
    """`HunyuanVideo15Pipeline`."""

    pipeline = "HunyuanVideo15Pipeline"
    transformer = "HunyuanVideo15Transformer3DModel"
    block_lists = (("transformer_blocks", "num_layers"),)
    head = ("norm_out", "proj_out")
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    # The stream of text that leaves the last block is dropped.
    idle = ("attn.add_q_proj", "attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")
    text_parts = ("text_encoder", "text_encoder_2")
    decode_batch = 1  # the mask in its decoder's attention fits one video

    def constants(self, pipeline: Any, embedded_guidance: float | None) -> dict[str, float]:
        del embedded_guidance
        return {
            "image_tokens": float(pipeline.vision_num_semantic_tokens),
            "image_width": float(pipeline.transformer.config.image_embed_dim),
        }

    def stride(self, pipeline: Any) -> tuple[int, int, int]:
        vae = pipeline.vae
        return vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio

    def patch(self, pipeline: Any) -> tuple[int, int, int]:
        network = pipeline.transformer.config
        return network.patch_size_t, network.patch_size, network.patch_size

    def channels(self, pipeline: Any) -> int:
        return int(pipeline.vae.config.latent_channels)

    def encode(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        embeds, mask, glyphs, glyph_mask = pipeline.encode_prompt(
            prompt=list(prompts),
            batch_size=len(prompts),
            device=pipeline.text_encoder.device,
            dtype=pipeline.transformer.dtype,
        )
        return {"embeds": embeds, "mask": mask, "glyphs": glyphs, "glyph_mask": glyph_mask}

    def arguments(self, x: Tensor, timestep: Tensor, text: Text, constants: Constants) -> dict[str, Any]:
        empty = x.new_zeros(
            len(x), x.shape[1] + 1, *x.shape[2:]
        )  # no conditioning frame, and a mask that says so
        image = x.new_zeros(len(x), int(constants["image_tokens"]), int(constants["image_width"]))
        return {
            "hidden_states": torch.cat([x, empty], dim=1),
            "timestep": timestep.to(
                x.dtype
            ),  # its embedding stays in this precision; the pipeline rounds it too
            "encoder_hidden_states": text["embeds"],
            "encoder_attention_mask": text["mask"],
            "encoder_hidden_states_2": text["glyphs"],
            "encoder_attention_mask_2": text["glyph_mask"],
            "image_embeds": image,
        }

    def latent_scale(self, pipeline: Any) -> Tensor:
        return torch.tensor([pipeline.vae.config.scaling_factor])

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        vae = pipeline.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
