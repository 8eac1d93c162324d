"""The budget of a run, in one of several units, and when it is used up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.ledger import Ledger
from benchmarks.settings import RunSettings, SettingsError


@dataclass(frozen=True)
class Budget:
    """A limit on training.

    Attributes:
        amount: the limit.
        unit: its unit, a key of `analysis.schema.UNITS`.
    """

    amount: float
    unit: str

    @classmethod
    def of(cls, settings: RunSettings) -> Budget:
        """The budget of each (method, seed) of a run."""
        return cls(settings.budget, settings.budget_unit)

    def has_room(self, ledger: Ledger) -> bool:
        """Whether one more iteration fits at the cost of the last ones."""
        return ledger.used(self.unit) + ledger.each(self.unit) <= self.amount * (1 + 1e-9)

    def require(self, ledger: Ledger, method: str) -> None:
        """Checks that the budget pays for one iteration.

        Raises:
            SettingsError: it does not.
        """
        used = ledger.used(self.unit)
        if ledger.iterations == 1 and used > self.amount * (1 + 1e-9):
            raise SettingsError(
                f"budget is {self.amount:g} {self.unit}, less than one iteration of {method} costs: give at least "
                f"{used:.3g}, and a new --output"
            )

    def expected_iterations(self, ledger: Ledger) -> int:
        """Expected total number of iterations; those done so far, until a cost is known."""
        each = ledger.each(self.unit)
        if not each:
            return ledger.iterations
        return ledger.iterations + max(0, math.floor((self.amount - ledger.used(self.unit)) / each + 1e-9))

    def share(self, ledger: Ledger) -> float:
        """The fraction of the budget used, 0 to 1."""
        return min(1.0, ledger.used(self.unit) / self.amount)
