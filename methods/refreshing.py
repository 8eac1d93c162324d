"""Continued training of the process reward on videos of the policy it guides."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from methods.experience import Experience
from methods.metering import Meter, unmetered
from methods.parts import ProcessRefresh
from rewards.train_prm import bradley_terry_loss, noised_values
from samplers.condition import selected


@dataclass
class Refresher:
    """A process reward whose training continues.

    Attributes:
        model: the process reward that the method uses; its weights change.
        settings: settings of the training.
        weights: outcome reward -> weight in the score that ranks videos.
        shift: shift of the noise levels, as in the rollouts' schedule.
    """

    model: nn.Module
    settings: ProcessRefresh
    weights: dict[str, float]
    shift: float
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.99)
        )

    def refresh(
        self, experience: Experience, choice: torch.Generator, meter: Meter = unmetered
    ) -> dict[str, float]:
        """Trains on pairs of one batch of rollouts.

        Args:
            experience: the rollouts, the members of a group side by side.
            choice: chooses pairs, noise levels and noise.
            meter: counts the compute, under the process reward.

        Returns:
            The loss, averaged over the steps.

        Raises:
            FloatingPointError: the loss is not finite; no optimiser step was taken.
        """
        losses = []
        self.model.requires_grad_(True)
        try:
            for _ in range(self.settings.steps):
                with meter(
                    "process_reward", ("refresh", self.settings.batch, experience.trajectory.final.shape[1:])
                ):
                    losses.append(self._step(experience, choice))
        finally:
            self.model.requires_grad_(False)  # everything else reads it frozen
        return {"process_refresh_loss": sum(losses) / len(losses)}

    def _step(self, experience: Experience, choice: torch.Generator) -> float:
        first, second = _pairs(experience, self.settings.batch, choice)
        rows = torch.cat([first, second])
        score = torch.stack([weight * experience.rewards[name] for name, weight in self.weights.items()]).sum(
            0
        )
        with torch.enable_grad():
            values = noised_values(
                self.model,
                experience.trajectory.final[rows].to(experience.condition.embeds.device, torch.float32),
                selected(experience.condition.text, rows),
                self.shift,
                choice,
            )
            loss = bradley_terry_loss(*values, score[first] - score[second])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of the process reward on the policy's videos is {loss.item()}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()


def _pairs(experience: Experience, count: int, choice: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` random pairs of two members of one group: positions among the rollouts, (count,) each."""
    samples = len(experience.steps)
    size = experience.group_size
    first = torch.randint(samples, (count,), generator=choice)
    step = torch.randint(1, size, (count,), generator=choice)
    return first, first // size * size + (first % size + step) % size
