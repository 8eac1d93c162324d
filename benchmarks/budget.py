"""How much a run may use."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.settings import RunSettings


@dataclass(frozen=True)
class Budget:
    """A limit on training.

    Attributes:
        amount: how much may be used.
        unit: of what; "iterations" counts batches of rollouts with their updates.
    """

    amount: float
    unit: str

    @classmethod
    def of(cls, settings: RunSettings) -> Budget:
        """The budget of each (method, seed) of a run."""
        return cls(settings.budget, settings.budget_unit)

    @property
    def iterations(self) -> int:
        """Iterations that fit."""
        return math.floor(self.amount)
