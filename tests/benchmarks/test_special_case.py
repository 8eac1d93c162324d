"""Euphonium without guidance, process reward and distillation *is* DanceGRPO: a whole benchmark, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from methods.method import difference, flatten
from tests.benchmarks.harness import Bench, same_nested, same_tensors
from tests.world import world_settings

#: What makes Euphonium more than DanceGRPO, taken away: the guided sampler, the dual reward, the distillation.
WITHOUT = {
    "sampler.guidance": None,
    "guidance_decay": 1.0,
    "process": None,
    "distillation": None,
}
#: The same with the guidance left in place at strength 0.
AT_ZERO = {"sampler.guidance.strength": 0.0, "process": None, "distillation": None}
#: And with a distillation that has nothing to distil.
NOTHING_TO_DISTIL = {"sampler.guidance.strength": 0.0, "process": None}

VARIANTS = {"without": WITHOUT, "strength 0": AT_ZERO, "nothing to distil": NOTHING_TO_DISTIL}


def assignments(bench: Bench, changes: dict[str, Any]) -> list[str]:
    """`--set` texts: `changes`, and whatever else differs (noise level, group size, ...) as DanceGRPO has it."""
    first = [f"euphonium.{field}={yaml.safe_dump(value).split()[0]}" for field, value in changes.items()]
    settings = world_settings(bench.world, ["euphonium", "dance_grpo"], first)
    methods = settings.method_settings
    rest = {
        field: theirs
        for field, (_, theirs) in difference(methods["euphonium"], methods["dance_grpo"]).items()
        if not field.startswith(("sampler.guidance", "guidance_decay", "distillation"))
    }
    assert rest.keys() <= flatten(methods["dance_grpo"]).keys()
    return [*first, *(f"euphonium.{field}={value}" for field, value in rest.items())]


@pytest.mark.parametrize("name", VARIANTS)
def test_euphonium_without_its_parts_is_dance_grpo(bench: Bench, name: str) -> None:
    given = [word for text in assignments(bench, VARIANTS[name]) for word in ("--set", text)]
    result = bench(
        "--methods",
        "euphonium,dance_grpo",
        *given,
        "--process-reward",
        "nowhere",  # nothing asks for one
        budget=4,
        evaluation={"every": 4, "samples_per_prompt": 2, "train_prompts": 2},
    )
    assert result.code == 0, result.err
    for table in ("iterations", "evaluations"):
        rows = result.rows(table)
        one, two = (
            rows[rows["method"] == method].drop(columns="method").reset_index(drop=True)
            for method in ("euphonium", "dance_grpo")
        )
        assert len(one)
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert same_tensors(result.weights("euphonium"), result.weights("dance_grpo"))
    assert same_nested(result.optimiser("euphonium"), result.optimiser("dance_grpo"))
    one, two = (
        np.load(result.checkpoint(method).parent / "samples.npz")["videos"]
        for method in ("euphonium", "dance_grpo")
    )
    assert (one == two).all()


def test_euphonium_with_its_parts_is_not(whole: Any) -> None:
    """The comparison above can fail: with guidance the same seeds give other weights."""
    assert not same_tensors(whole.weights("euphonium"), whole.weights("dance_grpo"))
