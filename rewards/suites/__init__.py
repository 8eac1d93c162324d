"""Suites: the training rewards with their weights, and the held-out rewards that judge. Each is a YAML file."""

from rewards.suites.loading import LoadedSuite, load_suite
from rewards.suites.model import ScorerEntry, Suite, SuiteError, SuitePrompts
from rewards.suites.reading import shipped, suite_named

__all__ = [
    "LoadedSuite",
    "ScorerEntry",
    "Suite",
    "SuiteError",
    "SuitePrompts",
    "load_suite",
    "shipped",
    "suite_named",
]
