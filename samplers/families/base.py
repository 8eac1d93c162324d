"""What differs between families of video pipelines; everything else is `samplers.pipeline`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samplers.condition import Geometry, Text

#: Numbers that a network reads besides state, time and prompt, such as a guidance scale; written to JSON with a
#: process reward.
Constants = Mapping[str, float]


class ModelError(ValueError):
    """A model cannot be used; gives the reason and the remedy."""


class Family(ABC):
    """One family of diffusers text-to-video pipelines.

    All have timestep 1000 sigma and predict v = noise - data. States are (B, C, F', H', W') latents, normalised to unit
    variance, whatever the network packs them into. A family has no state: it is handed the pipeline.

    Attributes:
        pipeline: class name of the diffusers pipeline.
        transformer: class name of its network.
        block_lists: the network's lists of blocks in order, each with the field of its config that counts them.
        head: the network's parts after the blocks, which predict the velocity.
        lora_targets: name endings of the linear layers that adapters are added to: attention and feed-forward.
        idle: name endings of layers of the last block whose output nothing reads; they get no adapters.
        text_parts: modules of the pipeline that only encode prompts.
        decode_batch: most videos that the decoder takes at a time; None for any number.
        slices: whether the decoder's slicing works.
        embedded_guidance: the guidance scale that the network was distilled with and takes as an input, by
            default; None for a network that takes none.
    """

    pipeline: ClassVar[str]
    transformer: ClassVar[str]
    block_lists: ClassVar[tuple[tuple[str, str], ...]]
    head: ClassVar[tuple[str, ...]]
    lora_targets: ClassVar[tuple[str, ...]]
    idle: ClassVar[tuple[str, ...]] = ()
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)
    decode_batch: ClassVar[int | None] = None
    slices: ClassVar[bool] = True
    embedded_guidance: ClassVar[float | None] = None

    def networks(self, pipeline: Any) -> dict[str, nn.Module]:
        """The denoising networks by their names in the pipeline, the one for high noise first."""
        return {"transformer": pipeline.transformer}

    def boundary(self, pipeline: Any) -> float | None:
        """The sigma from which on the first network is used, and below which the second; None for one network."""
        del pipeline
        return None

    @abstractmethod
    def constants(self, pipeline: Any, embedded_guidance: float | None) -> dict[str, float]:
        """What the network reads besides state, time and prompt.

        Args:
            pipeline: the loaded pipeline.
            embedded_guidance: guidance scale given to a network that takes one; None for the family's own.
        """

    def idle_layers(self, network: Any) -> list[str]:
        """Names of the layers that `idle` means."""
        last, _ = self.block_lists[-1]
        return [f"{last}.{len(getattr(network, last)) - 1}.{ending}" for ending in self.idle]

    @abstractmethod
    def stride(self, pipeline: Any) -> tuple[int, int, int]:
        """Frames, and pixels in height and width, of one latent position."""

    @abstractmethod
    def patch(self, pipeline: Any) -> tuple[int, int, int]:
        """Latent positions of one token, in time, height and width."""

    @abstractmethod
    def channels(self, pipeline: Any) -> int:
        """Channels of the latents."""

    def latent_shape(self, pipeline: Any, geometry: Geometry) -> tuple[int, int, int, int]:
        """(C, F', H', W') of one sample's latents."""
        time, height, width = self.stride(pipeline)
        frames = (geometry.num_frames - 1) // time + 1
        return self.channels(pipeline), frames, geometry.height // height, geometry.width // width

    def check(self, pipeline: Any, geometry: Geometry) -> None:
        """Refuses sizes that the autoencoder's strides and the network's patches do not divide.

        Raises:
            ModelError: naming the size, and those that would do.
        """
        strides, patches = self.stride(pipeline), self.patch(pipeline)
        if (geometry.num_frames - 1) % strides[0]:
            raise ModelError(
                f"num_frames is {geometry.num_frames}; this autoencoder needs a multiple of {strides[0]} plus 1, "
                f"such as {(geometry.num_frames - 1) // strides[0] * strides[0] + 1}"
            )
        for name, size, stride, patch in (
            ("height", geometry.height, strides[1], patches[1]),
            ("width", geometry.width, strides[2], patches[2]),
        ):
            if size % (stride * patch) or size < stride * patch:
                raise ModelError(
                    f"{name} is {size}; this model needs a positive multiple of {stride * patch}"
                )

    @abstractmethod
    def encode(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encoded prompts, (B, ...) each; `embeds` is among them."""

    @abstractmethod
    def arguments(self, x: Tensor, timestep: Tensor, text: Text, constants: Constants) -> dict[str, Any]:
        """What the network is called with.

        Args:
            x: (B, C, F', H', W') latents, in the prompts' precision.
            timestep: (B,) float32, 1000 sigma.
            text: the encoded prompts.
            constants: those of `constants`.
        """

    def velocity(self, prediction: Tensor, x: Tensor) -> Tensor:
        """The network's prediction in the shape of the latents x."""
        del x
        return prediction

    @abstractmethod
    def latent_scale(self, pipeline: Any) -> Tensor:
        """What defines the scale of the latents, as one tensor; part of the latent space's fingerprint."""

    @abstractmethod
    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """(B, C, F', H', W') float32 latents to (B, 3, F, H, W) videos in [-1, 1], differentiable."""


def per_channel(values: Any, like: Tensor) -> Tensor:
    """One number a channel, (1, C, 1, 1, 1), in float32 on the device of `like`."""
    return torch.as_tensor(values, device=like.device, dtype=torch.float32).view(1, -1, 1, 1, 1)
