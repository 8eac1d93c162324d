"""LTX-Video: latents packed into tokens, positions in seconds, and a decoder that may denoise a last bit itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from samplers.condition import Text
from samplers.families.base import Constants, Family, per_channel

FRAMES_PER_SECOND = 25
"""Frame rate that positions in time are computed for; the pipeline's default."""

DECODE_TIMESTEP = 0.05
DECODE_NOISE = 0.025
"""Time and noise of a decoder with timestep conditioning (LTX-Video 0.9.1 and later), as its model card has them."""

_SEED = 0
"""Of the decoder's noise: the same for every video, so that a latent has one video, whatever it is decoded with."""


class LTXVideo(Family):
    """`LTXPipeline`. Its scheduler stretches the grid (`shift_terminal`): give the sampler an explicit schedule."""

    pipeline = "LTXPipeline"
    transformer = "LTXVideoTransformer3DModel"
    block_lists = (("transformer_blocks", "num_layers"),)
    head = ("norm_out", "proj_out", "scale_shift_table")
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    slices = False  # with a decoding time, it does not pair the videos with their times

    def constants(self, pipeline: Any, embedded_guidance: float | None) -> dict[str, float]:
        del embedded_guidance
        time, height, width = self.stride(pipeline)
        return {"seconds": time / FRAMES_PER_SECOND, "height": float(height), "width": float(width)}

    def stride(self, pipeline: Any) -> tuple[int, int, int]:
        vae = pipeline.vae
        return vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio

    def patch(self, pipeline: Any) -> tuple[int, int, int]:
        network = pipeline.transformer.config
        return network.patch_size_t, network.patch_size, network.patch_size

    def channels(self, pipeline: Any) -> int:
        return int(pipeline.vae.config.latent_channels)

    def encode(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompt=list(prompts), do_classifier_free_guidance=False, device=pipeline.text_encoder.device
        )
        return {"embeds": embeds, "mask": mask}

    def arguments(self, x: Tensor, timestep: Tensor, text: Text, constants: Constants) -> dict[str, Any]:
        frames, height, width = x.shape[2:]
        return {
            "hidden_states": x.flatten(2).transpose(1, 2),
            "timestep": timestep,
            "encoder_hidden_states": text["embeds"],
            "encoder_attention_mask": text["mask"],
            "num_frames": frames,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (constants["seconds"], constants["height"], constants["width"]),
        }

    def velocity(self, prediction: Tensor, x: Tensor) -> Tensor:
        return prediction.transpose(1, 2).unflatten(2, x.shape[2:])

    def latent_scale(self, pipeline: Any) -> Tensor:
        vae = pipeline.vae
        factor = vae.latents_mean.new_full((1,), vae.config.scaling_factor)
        return torch.cat([vae.latents_mean, vae.latents_std, factor])

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        vae = pipeline.vae
        mean, std = per_channel(vae.latents_mean, latents), per_channel(vae.latents_std, latents)
        scaled = (latents * std / vae.config.scaling_factor + mean).to(vae.dtype)
        time = None
        if vae.config.timestep_conditioning:
            noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(_SEED)).to(scaled)
            scaled = torch.lerp(scaled, noise.expand_as(scaled), DECODE_NOISE)
            time = scaled.new_full((len(scaled),), DECODE_TIMESTEP)
        with _seeded(scaled.device):
            return vae.decode(scaled, time, return_dict=False)[0]


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Within, the global generators that the decoder draws from (LTX-Video 0.9.1) begin at the same numbers."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        yield
