"""Planned operations are those that the ledger of a real iteration records."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planning.estimate import Planner
from benchmarks.planning.measuring import Measurements
from benchmarks.planning.models import configs_of
from benchmarks.resolve import resolve
from benchmarks.session import Session
from benchmarks.settings import RunSettings
from benchmarks.task import Training
from methods.catalog import CATALOG

COMPONENTS = ("rollout", "update", "process_reward", "decoder")


def settings_of(*methods: str, **flags: object) -> RunSettings:
    given = {
        "methods": list(methods),
        "seeds": 1,
        "prompts_per_iteration": 2,
        "evaluation": {"diagnostic_prompts": 0},
        **flags,
    }
    return resolve("default", {}, given, ["all.group_size=4"], "test")


@pytest.fixture(scope="module")
def costs() -> Measurements:
    settings = settings_of(*CATALOG)
    return Measurements(configs_of(settings.model), settings)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_planned_operations_are_the_ledgers(tmp_path: Path, costs: Measurements, name: str) -> None:
    settings = settings_of(name)
    training = Training(Session.open(settings), tmp_path, name, 0)
    training._timed_iteration(0)
    recorded = training.recorder.usages()[0]
    plan = Planner(settings, costs).plan(settings.method_settings[name])
    for component in COMPONENTS:
        place = component, "tflops"
        print(name, component, plan.ledger.get(place, 0), recorded.get(place, 0))
        assert plan.ledger.get(place, 0.0) == pytest.approx(recorded.get(place, 0.0), rel=0.02)
    for unit in ("nfe", "videos"):
        assert plan.used(unit) == sum(recorded.get((part, unit), 0.0) for part in COMPONENTS)
