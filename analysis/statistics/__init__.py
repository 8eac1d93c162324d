"""Metrics of learning curves and estimates over seeds: functions of arrays that know no run, file or figure.

- `metrics`: one number per seed of a curve: final value, area under the curve, cost to a target
- `intervals`: Student's and Welch's intervals of means and differences, with their p-values and corrections
- `estimates`: what an estimate is, and bootstrap intervals over seeds and over prompts
- `speed`: how many times cheaper one method reaches a target than another
- `planning`: power, and the number of seeds that a speed-up needs to show
- `rivals`: other intervals of a speed-up, kept to be compared with
- `simulation`: learning curves with a known answer; `python -m analysis.statistics.simulation` measures coverage

`docs/statistics.md` says in words what each number is and how far it was found to hold.
"""

from analysis.statistics.estimates import Estimate, bootstrap, bootstrap_prompts
from analysis.statistics.intervals import (
    Difference,
    Interval,
    half_width,
    holm,
    mean_interval,
    p_value,
    paired_difference,
    paired_gain,
    pairwise_differences,
    welch_difference,
)
from analysis.statistics.metrics import (
    area_under_curve,
    cost_to_target,
    final_value,
    interquartile_mean,
    probability_of_improvement,
)
from analysis.statistics.planning import SeedPlan, power_of, seeds_needed
from analysis.statistics.speed import log_cost_spread, mean_cost_to_target, speed_up

__all__ = [
    "Difference",
    "Estimate",
    "Interval",
    "SeedPlan",
    "area_under_curve",
    "bootstrap",
    "bootstrap_prompts",
    "cost_to_target",
    "final_value",
    "half_width",
    "holm",
    "interquartile_mean",
    "log_cost_spread",
    "mean_cost_to_target",
    "mean_interval",
    "p_value",
    "paired_difference",
    "paired_gain",
    "pairwise_differences",
    "power_of",
    "probability_of_improvement",
    "seeds_needed",
    "speed_up",
    "welch_difference",
]
