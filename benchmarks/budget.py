"""How much a run may use, in one of several units, and when it has used it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.ledger import Ledger
from benchmarks.settings import RunSettings, SettingsError


@dataclass(frozen=True)
class Budget:
    """A limit on training.

    Attributes:
        amount: how much may be used.
        unit: of what, a key of `analysis.schema.UNITS`.
    """

    amount: float
    unit: str

    @classmethod
    def of(cls, settings: RunSettings) -> Budget:
        """The budget of each (method, seed) of a run."""
        return cls(settings.budget, settings.budget_unit)

    def has_room(self, ledger: Ledger) -> bool:
        """Whether one more iteration fits, if it costs what the last ones did."""
        return ledger.used(self.unit) + ledger.each(self.unit) <= self.amount * (1 + 1e-9)

    def require(self, ledger: Ledger, method: str) -> None:
        """Insists that the budget pays for one iteration.

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
        """Iterations that the run will have done at its end; those done so far, before any is known."""
        each = ledger.each(self.unit)
        if not each:
            return ledger.iterations
        return ledger.iterations + max(0, math.floor((self.amount - ledger.used(self.unit)) / each + 1e-9))

    def share(self, ledger: Ledger) -> float:
        """The part of the budget that is used, 0 to 1."""
        return min(1.0, ledger.used(self.unit) / self.amount)
