"""Figures of the report, drawn from records; each function returns a figure that `style.save` writes."""

from analysis.plots.rewards import final_comparison, reward_curves
from analysis.plots.training import training_curves

__all__ = ["final_comparison", "reward_curves", "training_curves"]
