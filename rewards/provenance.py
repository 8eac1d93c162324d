"""Provenance: the base model and latent space something was made for."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from samplers.families import ModelError, family_of


class ProvenanceError(ValueError):
    """A process reward made for another model or latent space than the one in use."""


class Provenance(BaseModel):
    """Fingerprints of the base model.

    Attributes:
        family: the pipeline's class name.
        latent_space: fingerprint of the autoencoder: its weights and its latents' mean and deviation.
        transformer: fingerprint of the base model's network, or of both joined by a plus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    latent_space: str
    transformer: str

    @classmethod
    def of(cls, pipeline: Any) -> Provenance:
        """Fingerprints a loaded diffusers pipeline, before any adapter is added to it.

        Raises:
            ProvenanceError: the pipeline is of a family without these parts.
        """
        try:
            family = family_of(type(pipeline).__name__)
        except ModelError as error:
            raise ProvenanceError(str(error)) from error
        networks = family.networks(pipeline).values()
        return cls(
            family=type(pipeline).__name__,
            latent_space=fingerprint(pipeline.vae, family.latent_scale(pipeline)),
            transformer="+".join(map(fingerprint, networks)),
        )

    def require(self, made_for: Provenance, what_it_is: str) -> None:
        """Checks that something was made for this model.

        Args:
            made_for: the model it was made for.
            what_it_is: for the error, e.g. "the process reward at 'weights/prm'".

        Raises:
            ProvenanceError: naming what differs, and the remedy.
        """
        if made_for.family != self.family or made_for.latent_space != self.latent_space:
            what, theirs, ours = "latent space", made_for.latent_space, self.latent_space
        elif made_for.transformer != self.transformer:
            what, theirs, ours = "base model", made_for.transformer, self.transformer
        else:
            return
        raise ProvenanceError(
            f"{what_it_is} was made for another {what} ({made_for.family} {theirs}) than the model in use "
            f"({self.family} {ours}); make preference data for this model with `python -m benchmarks.preferences` and "
            "train a process reward on it with `python -m rewards.train_prm`"
        )


def fingerprint(module: nn.Module, *extra: torch.Tensor) -> str:
    """Sixteen hexadecimal digits that identify a set of weights.

    Hashes each tensor's name, shape and up to 256 evenly spaced elements, rounded to bfloat16: quick on models of
    any size, and the same whether the model was loaded in float32 or bfloat16 (not float16, which rounds differently).
    """
    digest = hashlib.sha256()
    tensors = [
        *sorted(module.state_dict().items()),
        *((f"extra.{i}", value) for i, value in enumerate(extra)),
    ]
    for name, tensor in tensors:
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)][:256]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
