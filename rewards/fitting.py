"""Plain minimisation, shared by everything fitted before the benchmark."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class Schedule(BaseModel):
    """One optimisation: AdamW, linear warm-up, cosine decay to zero, gradient norm at most 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=100, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


def optimise(
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    loss_at: Callable[[int], Tensor],
    after_step: Callable[[int], None] | None = None,
    title: str = "training",
) -> float:
    """Minimises `loss_at(step)` over `parameters`.

    Returns:
        The loss averaged over the last tenth of the steps, the last one at least.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    trained = list(parameters)
    optimiser = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
    )

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / schedule.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))

    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    tail: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=schedule.steps)
        for step in range(schedule.steps):
            loss = loss_at(step)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(f"{title}: the loss became {value} at step {step}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            rate.step()
            if after_step is not None:
                after_step(step)
            if step >= min(0.9 * schedule.steps, schedule.steps - 1):
                tail.append(value)
            if step % 100 == 0:
                logger.info("%s: step %d of %d, loss %.4f", title, step, schedule.steps, value)
            progress.update(task, advance=1, description=f"{title} (loss {value:.4f})")
    return sum(tail) / len(tail)
