"""What an update trains on: rows from a batch of rollouts, each one sample at one step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from samplers.condition import Condition


@dataclass(frozen=True)
class Pairs:
    """n rows to train on, each one sample at one step.

    Attributes:
        sample: (n,) which sample of the rollouts it is.
        step: (n,) the step, whose sigma is the noise level of `x`.
        x: (n, ...) where the network is evaluated.
        condition: the n encoded prompts.
        advantages: (terms, n) one row per reward term.
    """

    sample: Tensor
    step: Tensor
    x: Tensor
    condition: Condition
    advantages: Tensor

    def __len__(self) -> int:
        return len(self.step)

    def to(self, device: torch.device) -> Self:
        """The same rows on a device; their conditions are there already."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: value.to(device)
            for name, value in given.items()
            if isinstance(value, Tensor) and name not in ("sample", "step")  # positions stay on the CPU
        }
        return type(self)(**{**given, **moved})

    def rows(self, rows: Tensor) -> Self:
        """The pairs at `rows`, with all fields of a subclass."""
        return type(self)(
            **{field.name: _rows(field.name, getattr(self, field.name), rows) for field in fields(self)}
        )


def _rows(name: str, value: Any, rows: Tensor) -> Any:
    if name == "condition":
        return value.select(rows.tolist())
    if value is None:
        return None
    return value[:, rows] if name == "advantages" else value[rows]


@dataclass(frozen=True)
class Transitions(Pairs):
    """Steps of the rollouts themselves.

    Attributes:
        x_next: (n, ...) the state after `x`.
        log_prob: (n,) of `x_next` under the policy that drew it.
        gradient: (n, ...) the reward gradient that guided it, 0 at unguided steps; None for unguided methods.
        velocity: (n, ...) of the policy that drew it; None unless it was kept.
    """

    x_next: Tensor
    log_prob: Tensor
    gradient: Tensor | None
    velocity: Tensor | None


@dataclass(frozen=True)
class Noised(Pairs):
    """Finished samples, noised again: x = (1 - t) clean + t noise.

    Attributes:
        clean: (n, ...) the samples.
        noise: (n, ...) standard normal.
        velocity: (n, ...) at `x`, of the policy before the update; None unless requested.
    """

    clean: Tensor
    noise: Tensor
    velocity: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """(n, ...) the velocity of the straight path between them, e - x0."""
        return self.noise - self.clean


def noised(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t e.

    Args:
        clean: (n, ...) x0.
        noise: (n, ...) e.
        sigma: (n,) t.
    """
    level = sigma.view(-1, *[1] * (clean.ndim - 1))
    return torch.lerp(clean, noise, level)
