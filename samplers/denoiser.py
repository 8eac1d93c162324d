"""The denoising networks of a pipeline as one module, so that adapters, wrappers and copies treat one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from samplers.condition import Text, selected
from samplers.families import Constants, Family, ModelError, family_of


class Denoiser(nn.Module):
    """v(x, t, text): one network, or two of which each row's noise level chooses one.

    Rows are sorted by network in here, and not by the caller: a wrapper that averages gradients over processes must see
    one forward pass for a loss.

    Args:
        family: how a network is called.
        networks: name in the pipeline -> network, the one for high noise first.
        constants: what the family's networks read besides state, time and prompt.
        boundary: sigma from which on the first network is used; None for a single one.
        train_timesteps: timestep of sigma 1.

    Raises:
        ModelError: number of networks and boundary do not fit.
    """

    def __init__(
        self,
        family: Family,
        networks: Mapping[str, nn.Module],
        constants: Constants,
        boundary: float | None = None,
        train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        if len(networks) != (1 if boundary is None else 2):
            raise ModelError(
                f"boundary_ratio is {boundary}, and there is {len(networks)} network ({', '.join(networks)}): a "
                "pipeline with a boundary has two, any other one; its folder is incomplete"
            )
        self.family, self.constants, self.boundary = family, constants, boundary
        self.train_timesteps = train_timesteps
        self.networks = nn.ModuleDict(networks)

    @classmethod
    def of(cls, pipeline: Any, embedded_guidance: float | None = None) -> Denoiser:
        """The networks of a loaded diffusers pipeline.

        Args:
            pipeline: of one of `samplers.families.FAMILIES`.
            embedded_guidance: guidance scale given to a network that takes one; None for the family's own.

        Raises:
            ModelError: its family is not supported.
        """
        family = family_of(type(pipeline).__name__)
        return cls(
            family,
            family.networks(pipeline),
            family.constants(pipeline, embedded_guidance),
            family.boundary(pipeline),
            pipeline.scheduler.config.num_train_timesteps,
        )

    @property
    def first(self) -> Any:
        """The only network, or the one for high noise."""
        return next(iter(self.networks.values()))

    def high(self, sigma: Tensor) -> Tensor:
        """(B,) whether the first network is used at sigma (B,)."""
        if self.boundary is None:
            return torch.ones_like(sigma, dtype=torch.bool)
        # As timesteps, which is how the pipeline compares them.
        return self._timestep(sigma) >= self.boundary * self.train_timesteps

    def forward(self, x: Tensor, sigma: Tensor, text: Text) -> Tensor:
        """(B, C, F', H', W') float32 velocity of latents x at sigma (B,), without classifier-free guidance."""
        if self.boundary is None:
            return self._velocity(self.first, x, sigma, text)
        high = self.high(sigma)
        result = torch.empty_like(x, dtype=torch.float32)
        for network, chosen in zip(self.networks.values(), (high, ~high), strict=True):
            rows = torch.nonzero(chosen).flatten()
            if len(rows):
                part = self._velocity(network, x[rows], sigma[rows], selected(text, rows))
                result = result.index_copy(0, rows, part)
        return result

    def _timestep(self, sigma: Tensor) -> Tensor:
        return sigma.to(torch.float32) * self.train_timesteps

    def _velocity(self, network: Any, x: Tensor, sigma: Tensor, text: Text) -> Tensor:
        arguments = self.family.arguments(
            x.to(text["embeds"].dtype), self._timestep(sigma), text, self.constants
        )
        prediction = network(**arguments, return_dict=False)[0]
        return self.family.velocity(prediction, x).float()
