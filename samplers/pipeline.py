"""A diffusers video pipeline as a sampler sees it: velocity, prompt encoding, initial noise, decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from samplers.condition import Condition, Geometry
from samplers.denoiser import Denoiser
from samplers.families import ModelError, family_of
from samplers.prompts import PromptCache


@dataclass(frozen=True)
class Scales:
    """Guidance scales of a velocity.

    Attributes:
        free: classifier-free guidance, v_u + w (v_c - v_u); 1 turns it off.
        free_2: the same below the boundary of a pipeline with two networks; None for `free`.
        embedded: scale given to a network distilled with guidance (HunyuanVideo); None for the family's own.
    """

    free: float = 1.0
    free_2: float | None = None
    embedded: float | None = None

    @property
    def low(self) -> float:
        """Classifier-free guidance below the boundary."""
        return self.free if self.free_2 is None else self.free_2

    @property
    def guided(self) -> bool:
        """Whether a velocity takes two evaluations of the network."""
        return self.free != 1.0 or self.low != 1.0


@dataclass
class PipelinePolicy:
    """A text-to-video flow-matching pipeline as a `samplers.Policy`.

    Attributes:
        pipeline: a loaded diffusers pipeline of one of `samplers.families.FAMILIES`.
        geometry: the videos to generate.
        guidance_scale: classifier-free guidance, or all scales.
        negative_prompt: prompt of the unconditional branch.
        decode_batch: videos decoded at a time, to bound the decoder's memory.
        offload_decoder: keeps the decoder on the CPU while it does not decode.
        prompts: encoded prompts; may be shared by policies of one pipeline.
        denoiser: the networks; training replaces it by a wrapped or copied one.
    """

    pipeline: Any
    geometry: Geometry
    guidance_scale: float | Scales = 1.0
    negative_prompt: str = ""
    decode_batch: int = 64
    offload_decoder: bool = False
    prompts: PromptCache = field(default_factory=PromptCache, repr=False)
    denoiser: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.family = family_of(type(self.pipeline).__name__)
        given = self.guidance_scale
        self.scales = given if isinstance(given, Scales) else Scales(given)
        self._check_scales()
        self.denoiser = Denoiser.of(self.pipeline, self.scales.embedded)
        texts = (getattr(self.pipeline, name) for name in self.family.text_parts)
        for module in (self.denoiser, self.pipeline.vae, *texts):
            if module is not None:
                module.requires_grad_(False).eval()

    def _check_scales(self) -> None:
        name = type(self.pipeline).__name__
        if self.scales.embedded is not None and self.family.embedded_guidance is None:
            raise ModelError(
                f"embedded_guidance is {self.scales.embedded:g}, and the network of a {name} takes none; "
                "set guidance_scale for classifier-free guidance"
            )
        if self.scales.free_2 is not None and self.family.boundary(self.pipeline) is None:
            raise ModelError(
                f"guidance_scale_2 is {self.scales.free_2:g}, and this {name} has one network; set guidance_scale"
            )

    @property
    def plain(self) -> Denoiser:
        """The networks below any wrapper."""
        module: Any = self.denoiser
        while not isinstance(module, Denoiser):
            module = module.module
        return module

    @property
    def transformer(self) -> Any:
        """The only network, or the one for high noise."""
        return self.plain.first

    @property
    def device(self) -> torch.device:
        """The device of the networks' weights."""
        return next(self.denoiser.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, F', H', W') of one sample's latents."""
        return self.family.latent_shape(self.pipeline, self.geometry)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity v = E[e - x0 | x_t].

        Args:
            x: (B, C, F', H', W') latents.
            sigma: (B,) noise levels in [0, 1]; never rounded to integer timesteps.
            condition: the encoded prompts.

        Returns:
            (B, C, F', H', W') in float32.
        """
        if condition.negative is None:
            return self.denoiser(x, sigma, condition.text)
        both = {
            name: torch.cat([tensor, condition.negative[name]]) for name, tensor in condition.text.items()
        }
        velocity = self.denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both)
        conditional, unconditional = velocity.chunk(2)
        return unconditional + self._scale(sigma) * (conditional - unconditional)

    def _scale(self, sigma: Tensor) -> float | Tensor:
        """Classifier-free guidance at sigma: a number, or (B, 1, 1, 1, 1) where it differs between rows."""
        if self.scales.free == self.scales.low:
            return self.scales.free
        scale = torch.where(self.plain.high(sigma), self.scales.free, self.scales.low)
        return scale.view(-1, 1, 1, 1, 1)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Encodes prompts; each distinct text is encoded once and cached.

        Raises:
            ModelError: a text is new, and the text encoder was freed.
        """
        guided = self.scales.guided
        self.prompts.encode([*prompts, self.negative_prompt] if guided else prompts, self._encoded)
        dtype = self.transformer.dtype
        text = self.prompts.rows(prompts, self.device, dtype)
        if not guided:
            return Condition(tuple(prompts), text)
        negative = self.prompts.rows([self.negative_prompt], self.device, dtype)
        expanded = {name: tensor.expand_as(text[name]) for name, tensor in negative.items()}
        return Condition(tuple(prompts), text, expanded)

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if any(getattr(self.pipeline, name) is None for name in self.family.text_parts):
            raise ModelError(
                f"prompt {texts[0]!r} was not encoded before the text encoder was freed; encode all prompts first"
            )
        return self.family.encode(self.pipeline, texts)

    def free_text_encoders(self) -> None:
        """Frees the memory of all that only encodes prompts; from now on only texts encoded before are known."""
        self.pipeline.register_modules(**dict.fromkeys(self.family.text_parts))

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
        most = min(self.decode_batch, self.family.decode_batch or self.decode_batch)
        with self._decoder():
            latents = latents.to(self.device, torch.float32)
            parts = [self.family.decode(self.pipeline, part).float() for part in latents.split(most)]
        return ((torch.cat(parts) + 1) / 2).clamp(0, 1).transpose(1, 2)

    @contextmanager
    def _decoder(self) -> Iterator[None]:
        """In this context the decoder is on the device of the networks."""
        vae = self.pipeline.vae.to(self.device)
        try:
            yield
        finally:
            if self.offload_decoder:
                vae.to("cpu")
