"""Wan 2.1 (one network), Wan 2.2 A14B (two, one for high and one for low noise) and Wan 2.2 TI2V-5B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from samplers.condition import Text
from samplers.families.base import Constants, Family, per_channel

_PADDED = 512


class Wan(Family):
    """`WanPipeline`."""

    pipeline = "WanPipeline"
    transformer = "WanTransformer3DModel"
    block_lists = (("blocks", "num_layers"),)
    head = ("norm_out", "proj_out", "scale_shift_table")
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def networks(self, pipeline: Any) -> dict[str, nn.Module]:
        names = ("transformer", "transformer_2")
        found = {name: getattr(pipeline, name, None) for name in names}
        return {name: network for name, network in found.items() if network is not None}

    def boundary(self, pipeline: Any) -> float | None:
        ratio = pipeline.config.get("boundary_ratio")
        return None if ratio is None else float(ratio)

    def constants(self, pipeline: Any, embedded_guidance: float | None) -> dict[str, float]:
        del embedded_guidance
        # TI2V-5B has a timestep for every token, so that an image can stand for the first frame without noise.
        return {"timestep_per_token": 1.0} if pipeline.config.get("expand_timesteps") else {}

    def stride(self, pipeline: Any) -> tuple[int, int, int]:
        vae = pipeline.vae.config
        return vae.scale_factor_temporal, vae.scale_factor_spatial, vae.scale_factor_spatial

    def patch(self, pipeline: Any) -> tuple[int, int, int]:
        return tuple(pipeline.transformer.config.patch_size)

    def channels(self, pipeline: Any) -> int:
        return int(pipeline.vae.config.z_dim)

    def encode(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        # Wan pads to 512 tokens and attends to the padding too; a tokenizer with a shorter maximum was trained with it.
        embeds, _ = pipeline.encode_prompt(
            prompt=list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=min(pipeline.tokenizer.model_max_length, _PADDED),
            device=pipeline.text_encoder.device,
        )
        return {"embeds": embeds}

    def arguments(self, x: Tensor, timestep: Tensor, text: Text, constants: Constants) -> dict[str, Any]:
        if "timestep_per_token" in constants:
            tokens = x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2)
            timestep = timestep.unsqueeze(1).expand(-1, tokens)
        return {"hidden_states": x, "timestep": timestep, "encoder_hidden_states": text["embeds"]}

    def latent_scale(self, pipeline: Any) -> Tensor:
        vae = pipeline.vae.config
        return torch.tensor([vae.latents_mean, vae.latents_std])

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        vae = pipeline.vae
        mean, std = (
            per_channel(values, latents) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0]
