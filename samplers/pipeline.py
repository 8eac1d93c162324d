"""A diffusers video pipeline as a sampler sees it: velocity, prompt encoding, initial noise, decoding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from pydantic import ConfigDict, PositiveInt
from torch import Tensor

#: Pipeline classes whose velocity this module can evaluate.
FAMILIES = ("WanPipeline",)


class ModelError(ValueError):
    """A model folder cannot be used; gives the reason and the remedy."""


@dataclass(frozen=True)
class Geometry:
    """The videos to generate: frames, height and width in pixels. Checked where it is a field of settings."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    num_frames: PositiveInt = 9
    height: PositiveInt = 32
    width: PositiveInt = 32


@dataclass(frozen=True)
class Condition:
    """Encoded prompts of a batch.

    Attributes:
        prompts: the B texts.
        embeds: (B, L, D) prompt embeddings.
        negative_embeds: (B, L, D) embeddings of the negative prompt; None without classifier-free guidance.
    """

    prompts: tuple[str, ...]
    embeds: Tensor
    negative_embeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def branches(self) -> int:
        """Evaluations of the network for one velocity: 2 with classifier-free guidance."""
        return 1 if self.negative_embeds is None else 2

    def select(self, positions: Sequence[int]) -> Condition:
        """The condition of the samples at `positions`, repeats allowed."""
        rows = torch.as_tensor(positions, device=self.embeds.device)
        negative = None if self.negative_embeds is None else self.negative_embeds[rows]
        return Condition(tuple(self.prompts[i] for i in rows.tolist()), self.embeds[rows], negative)


@dataclass
class PipelinePolicy:
    """A text-to-video flow-matching pipeline as a `samplers.Policy`.

    `transformer` is a separate attribute, so that training can wrap it (LoRA, accelerate) while the pipeline
    still encodes and decodes.

    Attributes:
        pipeline: a loaded diffusers pipeline of one of `FAMILIES`.
        geometry: the videos to generate.
        guidance_scale: classifier-free guidance inside the velocity, v_u + w (v_c - v_u); 1 turns it off.
        negative_prompt: prompt of the unconditional branch.
        decode_batch: videos decoded at a time, to bound the decoder's memory.
    """

    pipeline: Any
    geometry: Geometry
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    decode_batch: int = 64
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        name = type(self.pipeline).__name__
        if name not in FAMILIES:
            raise ModelError(f"pipeline family {name!r} is not supported; supported: {', '.join(FAMILIES)}")
        if self.pipeline.config.get("boundary_ratio") is not None or self.pipeline.config.get(
            "expand_timesteps"
        ):
            raise ModelError(
                f"this {name} uses two transformers or per-token timesteps (Wan 2.2), which is not supported; "
                "use a single-transformer checkpoint such as Wan 2.1"
            )
        self.transformer: Any = self.pipeline.transformer
        for module in (self.transformer, self.pipeline.vae, self.pipeline.text_encoder):
            module.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """The device of the pipeline's weights."""
        return self.pipeline.vae.device

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, F', H', W') of one sample's latents."""
        vae = self.pipeline.vae.config
        frames = (self.geometry.num_frames - 1) // vae.scale_factor_temporal + 1
        side = vae.scale_factor_spatial
        return vae.z_dim, frames, self.geometry.height // side, self.geometry.width // side

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity v = E[e - x0 | x_t].

        Args:
            x: (B, C, F', H', W') latents.
            sigma: (B,) noise levels in [0, 1]; never rounded to integer timesteps.
            condition: the encoded prompts.

        Returns:
            (B, C, F', H', W') in float32.
        """
        embeds = condition.embeds
        guided = condition.negative_embeds is not None
        if condition.negative_embeds is not None:
            embeds = torch.cat([embeds, condition.negative_embeds])
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
        timestep = sigma.to(torch.float32) * self.pipeline.scheduler.config.num_train_timesteps
        velocity = self.transformer(
            hidden_states=x.to(embeds.dtype),
            timestep=timestep,
            encoder_hidden_states=embeds,
            return_dict=False,
        )[0].float()
        if not guided:
            return velocity
        conditional, unconditional = velocity.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Encodes prompts; each distinct text is encoded once and cached."""
        guided = self.guidance_scale != 1.0
        wanted = [*prompts, self.negative_prompt] if guided else list(prompts)
        missing = [text for text in dict.fromkeys(wanted) if text not in self._cache]
        if missing:
            embeds, _ = self.pipeline.encode_prompt(
                prompt=missing,
                do_classifier_free_guidance=False,
                max_sequence_length=self._max_sequence_length,
                device=self.device,
            )
            self._cache.update(zip(missing, embeds.to(self.pipeline.transformer.dtype), strict=True))
        embeds = torch.stack([self._cache[prompt] for prompt in prompts])
        negative = self._cache[self.negative_prompt].expand_as(embeds) if guided else None
        return Condition(tuple(prompts), embeds, negative)

    @property
    def _max_sequence_length(self) -> int:
        # Wan pads to 512 tokens and attends to the padding too; a tokenizer with a shorter maximum was trained with it.
        return min(self.pipeline.tokenizer.model_max_length, 512)

    def initial_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, C, F', H', W') standard normal latents, one generator per sample."""
        shape = self.latent_shape
        return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators]).to(
            self.device
        )

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F', H', W') normalised latents to (B, F, 3, H, W) videos in [0, 1], float32.

        Differentiable in the latents; the decoder's weights are frozen, so latents without a gradient build no graph.
        """
        vae = self.pipeline.vae
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=torch.float32).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        scaled = (latents.float() * std + mean).to(vae.dtype)
        parts = [vae.decode(part, return_dict=False)[0].float() for part in scaled.split(self.decode_batch)]
        return ((torch.cat(parts) + 1) / 2).clamp(0, 1).transpose(1, 2)


def load_policy(
    path: str | Path, geometry: Geometry, guidance_scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> PipelinePolicy:
    """Loads a local pipeline directory.

    Raises:
        ModelError: there is no pipeline at `path`, its family is not supported, or `geometry` does not fit its
            autoencoder.
    """
    folder = Path(path)
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise ModelError(f"model folder {str(folder)!r} does not exist")
    if not index.is_file():
        raise ModelError(
            f"model folder {str(folder)!r} is not a diffusers pipeline: it has no model_index.json; "
            "name the folder that `pipeline.save_pretrained` wrote"
        )
    family = json.loads(index.read_text()).get("_class_name")
    if family not in FAMILIES:
        raise ModelError(
            f"model folder {str(folder)!r} holds a {family!r}, which is not supported; "
            f"supported families: {', '.join(FAMILIES)}"
        )
    pipeline = DiffusionPipeline.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    _check_geometry(pipeline, geometry)
    return PipelinePolicy(pipeline, geometry, guidance_scale)


def _check_geometry(pipeline: Any, geometry: Geometry) -> None:
    """Refuses sizes that the autoencoder's strides and the transformer's patches do not divide."""
    vae, patch = pipeline.vae.config, pipeline.transformer.config.patch_size
    temporal = vae.scale_factor_temporal
    if (geometry.num_frames - 1) % temporal:
        raise ModelError(
            f"num_frames is {geometry.num_frames}; this autoencoder needs a multiple of {temporal} plus 1, "
            f"such as {(geometry.num_frames - 1) // temporal * temporal + 1}"
        )
    for name, size, side in (("height", geometry.height, patch[1]), ("width", geometry.width, patch[2])):
        stride = vae.scale_factor_spatial * side
        if size % stride or size < stride:
            raise ModelError(f"{name} is {size}; this model needs a positive multiple of {stride}")
