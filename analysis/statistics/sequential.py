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
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

Floats = NDArray[np.float64]

_POINTS = 64


def look_confidences(looks: Sequence[int], confidence: float = 0.95) -> list[float]:
    """Confidence that each look's interval needs, so that those of all looks hold together, (looks,).

    `looks` are the numbers of seeds at which one looks, growing. A test at look k sees the same seeds as the one before
    and some more, so its statistic is a step of a random walk: the chance of leaving the bounds for the first
    time at look k is integrated numerically (Armitage, McPherson and Rowe, JRSS A 132, 1969) and set to
    what the look may spend.

    Raises:
        ValueError: the looks do not grow, or the confidence is none.
    """
    if not looks or any(after <= before for before, after in zip([0, *looks], looks, strict=False)):
        raise ValueError(f"looks must be growing numbers of seeds, such as 5, 10, 15, not {list(looks)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
    spent = [(1 - confidence) * math.log1p((math.e - 1) * n / looks[-1]) for n in looks]
    found: list[float] = []
    places, weights = np.zeros(1), np.ones(1)  # of the walk among those that have not stopped yet
    for seeds, before, now, already in zip(looks, [0, *looks], spent, [0.0, *spent], strict=False):
        step = math.sqrt(seeds - before)
        excess = partial(_excess, step=step, places=places, weights=weights, allowed=now - already)
        bound = float(brentq(excess, 1e-6, 10 * math.sqrt(seeds)))
        found.append(1 - 2 * float(norm.sf(bound / math.sqrt(seeds))))
        grid, quadrature = _legendre(bound)
        weights = quadrature * (norm.pdf((grid[:, None] - places) / step) / step @ weights)
        places = grid
    return found


def _excess(bound: float, step: float, places: Floats, weights: Floats, allowed: float) -> float:
    """Chance to leave the bounds in the next step, less what is allowed."""
    leaves = norm.cdf((places - bound) / step) + norm.cdf((-bound - places) / step)
    return float(leaves @ weights) - allowed


def _legendre(bound: float) -> tuple[Floats, Floats]:
    """Places and weights of Gauss and Legendre's quadrature between the bounds."""
    places, weights = np.polynomial.legendre.leggauss(_POINTS)
    return bound * places, bound * weights
