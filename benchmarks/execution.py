"""How a model is held and run: precision, memory and speed. No result depends on it beyond rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from samplers.families import ModelError
from samplers.pipeline import PipelinePolicy

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Execution(BaseModel):
    """Choices for models that fill a GPU. The defaults suit the testbed.

    Attributes:
        dtype: of the base model's weights. Adapters, the sampler's steps and log-probabilities stay in float32.
        gradient_checkpointing: keeps only each block's input of a training pass and computes the rest again.
        compile_blocks: `torch.compile` of the network's repeated blocks, once for all of them.
        vae_tiling: decodes videos in overlapping tiles, which blends their borders.
        vae_slicing: decodes one video of a batch at a time.
        decode_batch: videos decoded at a time.
        offload_decoder: keeps the decoder on the CPU while it does not decode.
        trajectories: where the states of rollouts are kept; "cpu" moves only the rows being trained to the GPU.
        prompt_cache: folder in which encoded prompts are kept for later runs; None to encode them in every process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    compile_blocks: bool = False
    vae_tiling: bool = False
    vae_slicing: bool = False
    decode_batch: int = Field(default=64, ge=1)
    offload_decoder: bool = False
    trajectories: Literal["device", "cpu"] = "device"
    prompt_cache: Path | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the base model's weights."""
        return _DTYPES[self.dtype]

    def prepare(self, policy: PipelinePolicy) -> None:
        """Sets a freshly loaded policy up.

        Raises:
            ModelError: a choice does not work with its family.
        """
        vae = policy.pipeline.vae
        if self.vae_slicing and not policy.family.slices:
            raise ModelError(
                f"execution.vae_slicing is true, and the decoder of a {policy.family.pipeline} fails with it; set "
                "execution.decode_batch to 1"
            )
        if self.vae_tiling:
            vae.enable_tiling()
        if self.vae_slicing:
            vae.enable_slicing()
        policy.decode_batch, policy.offload_decoder = self.decode_batch, self.offload_decoder
        network: Any  # diffusers models are typed as plain modules
        for network in policy.plain.networks.values():
            if self.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            if self.compile_blocks:
                network.compile_repeated_blocks()
