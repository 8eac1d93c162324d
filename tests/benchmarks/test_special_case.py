"""Euphonium without what it adds *is* the method it builds on: a whole benchmark, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from methods.catalog import difference
from methods.method import flatten
from tests.benchmarks.harness import Bench, same_nested, same_tensors
from tests.world import world_settings

#: Name -> a Euphonium, what is taken away from it, and what it is then. In the published one: the guided sampler, the
#: dual reward; guidance may be left in place at strength 0, and a distillation that then has nothing to distil.
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "KL to the base model alone": (
        "euphonium",
        {"distillation.strength": 0.0, "distillation.weight": 0.01},
        "flow_grpo",
    ),
    "no distillation": ("euphonium_dance", {"distillation": None}, "dance_grpo"),
    "without": ("euphonium_published", {"sampler.guidance": None, "process": None}, "dance_grpo"),
    "strength 0": (
        "euphonium_published",
        {"sampler.guidance.strength": 0.0, "sampler.guidance.start": 1, "process": None},
        "dance_grpo",
    ),
    "nothing to distil": (
        "euphonium_published",
        {
            "sampler.guidance.strength": 0.0,
            "sampler.guidance.start": 1,
            "process": None,
            "distillation.weight": 1.0,
            "distillation.anchor": "policy",
        },
        "dance_grpo",
    ),
}


def assignments(bench: Bench, name: str, changes: dict[str, Any], target: str) -> list[str]:
    """`--set` texts: `changes`, and whatever else differs (noise level, group size, ...) as the target has it."""
    first = [f"{name}.{field}={yaml.safe_dump(value).split()[0]}" for field, value in changes.items()]
    methods = world_settings(bench.world, [name, target], first).method_settings
    rest = {
        field: theirs
        for field, (_, theirs) in difference(methods[name], methods[target]).items()
        if not field.startswith(("sampler.guidance", "distillation"))
    }
    assert rest.keys() <= flatten(methods[target]).keys()
    return [*first, *(f"{name}.{field}={value}" for field, value in rest.items())]


@pytest.mark.parametrize("variant", VARIANTS)
def test_euphonium_without_its_parts_is_what_it_builds_on(bench: Bench, variant: str) -> None:
    name, changes, target = VARIANTS[variant]
    given = [word for text in assignments(bench, name, changes, target) for word in ("--set", text)]
    result = bench(
        "--methods",
        f"{name},{target}",
        *given,
        "--process-reward",
        "nowhere",  # nothing asks for one
        budget=2,
        evaluation={"every": 2, "samples_per_prompt": 2, "train_prompts": 2, "num_steps": 2},
    )
    assert result.code == 0, result.err
    for table in ("iterations", "evaluations"):
        rows = result.rows(table)
        one, two = (
            rows[rows["method"] == method].drop(columns="method").reset_index(drop=True)
            for method in (name, target)
        )
        assert len(one)
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert same_tensors(result.weights(name), result.weights(target))
    assert same_nested(result.optimiser(name), result.optimiser(target))
    one, two = (
        np.load(result.checkpoint(method).parent / "samples.npz")["videos"] for method in (name, target)
    )
    assert (one == two).all()


def test_euphonium_with_its_parts_is_not(whole: Any) -> None:
    """The comparison above can fail: with guidance the same seeds give other weights."""
    assert not same_tensors(whole.weights("euphonium"), whole.weights("dance_grpo"))
