"""The interface of a policy, and a Gaussian policy for which everything is known in closed form."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Policy(Protocol):
    """A flow-matching model as the sampler sees it."""

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
        """Velocity E[noise - data | x] at time sigma.

        Args:
            x: states (B, ...).
            sigma: float32 (B,), 1 is noise.
            condition: passed through from the caller unchanged.

        Returns:
            shape of x, any floating dtype.
        """
        ...


VelocityFunction = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


def velocity_function(policy: Policy | VelocityFunction) -> VelocityFunction:
    """The velocity of a policy as a function, whether it is an object or a callable."""
    if isinstance(policy, Policy):
        return policy.velocity
    if callable(policy):
        return policy
    raise TypeError(
        f"policy is a {type(policy).__name__}: give an object with velocity(x, sigma, condition), or a "
        "callable"
    )


class GaussianPolicy:
    """The exact velocity of Gaussian data N(mean, std^2), independent over elements.

    With x_t = (1 - t) x0 + t e everything is Gaussian, so marginals, posterior and soft values have closed
    forms. The condition is ignored.

    Args:
        mean: mean of the data, a number or a tensor that broadcasts against a sample.
        std: standard deviation > 0, likewise.
    """

    def __init__(self, mean: float | torch.Tensor = 0.0, std: float | torch.Tensor = 1.0) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std = {std}: give a standard deviation > 0")

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Any = None) -> torch.Tensor:
        """E[e - x0 | x_t = x], shape and dtype of x."""
        del condition  # the data are unconditional
        t = _per_sample(sigma, x)
        offset, variance = self._offset_and_variance(x, t)
        return ((t - (1 - t) * self._std(x).square()) / variance * offset - self._mean(x)).to(x.dtype)

    def marginal(self, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of x_t at t = sigma, float64, shaped like the data's."""
        return (1 - sigma) * self.mean, ((1 - sigma) ** 2 * self.std.square() + sigma**2).sqrt()

    def posterior(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (shape of x) and variance (broadcastable) of x0 given x_t = x, float64."""
        t = _per_sample(sigma, x)
        offset, variance = self._offset_and_variance(x, t)
        data_variance = self._std(x).square()
        return self._mean(x) + (1 - t) * data_variance / variance * offset, data_variance * t**2 / variance

    def soft_value(
        self, x: torch.Tensor, sigma: torch.Tensor, slope: float | torch.Tensor, beta: float
    ) -> torch.Tensor:
        """log E[exp(r(x0) / beta) | x_t = x] for the linear reward r(x0) = <slope, x0>: shape (B,), float64.

        The exact guide of a memoryless process towards p(x0) exp(r(x0) / beta) (docs/theory.md).
        """
        mean, variance = self.posterior(x, sigma)
        slope = torch.as_tensor(slope, dtype=torch.float64, device=x.device) / beta
        return (slope * mean + slope.square() * variance / 2).expand(x.shape).flatten(1).sum(1)

    def _offset_and_variance(self, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        offset = x.double() - (1 - t) * self._mean(x)
        return offset, (1 - t) ** 2 * self._std(x).square() + t**2

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean.to(x.device)

    def _std(self, x: torch.Tensor) -> torch.Tensor:
        return self.std.to(x.device)


def _per_sample(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return sigma.to(device=x.device, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
