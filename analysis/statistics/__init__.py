"""Metrics of learning curves and estimates over seeds: functions of arrays that know no run, file or figure.

- `intervals`: Student's, Welch's, and Games and Howell's intervals of means and differences, and who wins how often
- `speed`: how many times cheaper one method learns than another
- `sequential`: how confident each of several planned looks at growing data has to be
- `planning`: how many seeds a speed-up needs to show
- `pooling`: one estimate from several runs that cannot be averaged

`docs/statistics.md` says in words what each number is and how far it was found to hold.
"""

from analysis.statistics.intervals import (
    Difference,
    Interval,
    half_width,
    mean_interval,
    over_prompts,
    paired_gain,
    pairwise_differences,
    probability_of_improvement,
    satterthwaite,
    welch_difference,
)
from analysis.statistics.planning import seeds_needed
from analysis.statistics.pooling import Pooled, pooled
from analysis.statistics.sequential import look_confidences
from analysis.statistics.speed import Estimate, Span, mean_cost, span_targets, speed_up

__all__ = [
    "Difference",
    "Estimate",
    "Interval",
    "Pooled",
    "Span",
    "half_width",
    "look_confidences",
    "mean_cost",
    "mean_interval",
    "over_prompts",
    "paired_gain",
    "pairwise_differences",
    "pooled",
    "probability_of_improvement",
    "satterthwaite",
    "seeds_needed",
    "span_targets",
    "speed_up",
    "welch_difference",
]
