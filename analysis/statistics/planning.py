"""How many seeds would show a speed-up: the power of Student's test on its logarithm."""

from __future__ import annotations

import math

import numpy as np
from statsmodels.stats.power import TTestIndPower

MOST_SEEDS = 1000
"""Where more seeds than this are needed the answer is None: no benchmark will run them."""


def seeds_needed(
    ratio: float, spread: float, *, power: float = 0.8, confidence: float = 0.95, comparisons: int = 1
) -> int | None:
    """Fewest seeds a method with which a speed-up by `ratio` shows with probability `power`.

    `spread` is the standard deviation over seeds of the logarithm of the speed-up's either side, the same for both
    methods; `comparisons` is how many are to hold together at `confidence` (Bonferroni, as in `speed_up`).
    """
    if not (ratio > 0 and math.isfinite(ratio)) or ratio == 1:
        raise ValueError(f"ratio must be a positive number other than 1, such as 1.25, not {ratio}")
    if not (spread > 0 and math.isfinite(spread)):
        raise ValueError(f"spread must be a standard deviation above 0, not {spread}")
    if not 0 < power < 1 or not 0 < confidence < 1 or comparisons < 1:
        raise ValueError(
            f"power ({power}) and confidence ({confidence}) must lie between 0 and 1, comparisons ({comparisons}) "
            "must be 1 or more"
        )
    effect, alpha = abs(math.log(ratio)) / spread, (1 - confidence) / comparisons
    seeds = np.arange(2, MOST_SEEDS + 1)
    # To the right side only: the chance of the wrong one is nothing, and scipy has no number for it.
    powers = TTestIndPower().power(effect, seeds, alpha / 2, alternative="larger")
    enough = seeds[powers >= power]
    return int(enough[0]) if len(enough) else None
