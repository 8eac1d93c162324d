"""One estimate from several benchmarks whose numbers cannot be averaged: other suites, other models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from statsmodels.stats.meta_analysis import combine_effects

from analysis.statistics import Interval


@dataclass(frozen=True)
class Pooled:
    """A random-effects mean over runs.

    Attributes:
        mean: with its interval; `n` is the number of runs.
        weights: of each run in it, (runs,), summing to one.
        between: standard deviation of the true effects between runs.
        heterogeneity: I-squared, the share of the runs' variance that is not their own error.
    """

    mean: Interval
    weights: tuple[float, ...]
    between: float
    heterogeneity: float


def pooled(effects: Sequence[float], errors: Sequence[float], confidence: float = 0.95) -> Pooled:
    """Random-effects mean of `effects` with standard `errors`, both (runs,).

    Paule and Mandel's variance between runs, and Hartung and Knapp's interval (Student's t, one degree of freedom less
    than runs), which holds for few runs where the usual normal interval is too narrow; from statsmodels. Runs that
    agree by chance would make it as narrow as one likes: it is never based on less than the runs' own errors
    (Röver, Knapp and Friede, BMC Med. Res. Methodol. 15, 2015).

    Raises:
        ValueError: fewer than two runs, or an error that is not above zero.
    """
    values, spreads = np.asarray(effects, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if values.shape != spreads.shape or values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"pooling needs two runs or more, each with an error: {values.shape} and {spreads.shape}"
        )
    if not (np.isfinite(values).all() and np.isfinite(spreads).all() and (spreads > 0).all()):
        raise ValueError(
            f"effects must be finite and errors above 0: {values.tolist()} and {spreads.tolist()}"
        )
    with np.errstate(divide="ignore"):  # of runs that agree altogether, whose heterogeneity is none
        found = combine_effects(values, spreads**2, method_re="pm")
    error = max(float(found.sd_eff_w_re_hksj), float(found.sd_eff_w_re))
    width = float(student.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Pooled(
        Interval.around(found.mean_effect_re, width, len(values), confidence),
        weights=tuple(map(float, found.weights_rel_re)),
        between=math.sqrt(max(float(found.tau2), 0.0)),
        heterogeneity=max(float(found.i2), 0.0),
    )
