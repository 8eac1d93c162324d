"""Costs of the testbed's models, measured once."""

from __future__ import annotations

import pytest

from benchmarks.planning.measuring import Measurements, measured_alike
from benchmarks.planning.models import configs_of
from benchmarks.resolve import resolve
from benchmarks.settings import RunSettings
from methods.catalog import CATALOG


def settings_of(*methods: str, **flags: object) -> RunSettings:
    """Settings on the testbed, with few videos."""
    given = {
        "methods": list(methods),
        "seeds": 1,
        "prompts_per_iteration": 1,
        "evaluation": {"diagnostic_prompts": 0},
        **flags,
    }
    return resolve("default", {}, given, ["all.group_size=4"], "test")


_KNOWN: dict[str, Measurements] = {}


def costs_of(settings: RunSettings) -> Measurements:
    """Costs of a run's models, measured once for all tests."""
    key = measured_alike(settings)
    if key not in _KNOWN:
        _KNOWN[key] = Measurements(configs_of(settings.model), settings)
    return _KNOWN[key]


@pytest.fixture(scope="session")
def costs() -> Measurements:
    return costs_of(settings_of(*CATALOG))
