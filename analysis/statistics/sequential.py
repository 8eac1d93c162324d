"""Looking at a benchmark several times while seeds are added, without raising more false alarms.

A look after n of N seeds may spend a part of the 5 % that all looks share: alpha log(1 + (e - 1) n / N), Pocock's kind
of spending (Lan and DeMets, Biometrika 70, 1983). It leaves early looks a fair chance, which is what adding seeds
until the answer is known is for; O'Brien and Fleming's kind would leave a look at a quarter of the seeds a
thousandth of the 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from analysis.statistics import Floats, check_confidence

_POINTS = 64
"""Of Gauss and Legendre's quadrature between the bounds."""


def look_confidences(looks: Sequence[int], confidence: float = 0.95) -> list[float]:
    """Confidence that each look's interval needs, so that those of all looks hold together, (looks,).

    `looks` are the numbers of seeds at which one looks, growing. A test at look k sees the same seeds as the one before
    and some more, so its statistic is a step of a random walk: the chance of leaving the bounds for the first
    time at look k is integrated numerically (Armitage, McPherson and Rowe, JRSS A 132, 1969) and set to
    what the look may spend.

    Raises:
        ValueError: the looks do not grow, or the confidence is none.
    """
    check_confidence(confidence)
    if not looks or (np.diff([0, *looks]) <= 0).any():
        raise ValueError(f"looks must be growing numbers of seeds, such as 5, 10, 15, not {list(looks)}")
    spent = [(1 - confidence) * math.log1p((math.e - 1) * n / looks[-1]) for n in looks]
    found: list[float] = []
    grid, quadrature = np.polynomial.legendre.leggauss(_POINTS)
    places, weights = np.zeros(1), np.ones(1)  # of the walk among those that have not stopped yet
    for seeds, step, allowed in zip(looks, np.sqrt(np.diff([0, *looks])), np.diff([0, *spent]), strict=True):
        excess = partial(_excess, step=step, places=places, weights=weights, allowed=allowed)
        bound = float(brentq(excess, 1e-6, 10 * math.sqrt(seeds)))
        found.append(1 - 2 * float(norm.sf(bound / math.sqrt(seeds))))
        weights = bound * quadrature * (norm.pdf((bound * grid[:, None] - places) / step) / step @ weights)
        places = bound * grid
    return found


def _excess(bound: float, step: float, places: Floats, weights: Floats, allowed: float) -> float:
    """Chance to leave the bounds in the next step, less what is allowed."""
    leaves = norm.cdf((places - bound) / step) + norm.cdf((-bound - places) / step)
    return float(leaves @ weights) - allowed
