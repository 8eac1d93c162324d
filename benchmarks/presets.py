"""Presets: the testbed's changes to the published settings, for all methods or for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.testbed import NUM_STEPS, SHIFT, WEIGHTS
from benchmarks.testbed.scenes import prompt_split
from samplers.presets import last_quarter

DEFAULT_PRESET = "default"


@dataclass(frozen=True)
class Preset:
    """Defaults of a run.

    Attributes:
        summary: one line for `--help`.
        run: values of `RunSettings`.
        every_method: dotted method fields set for all methods, for a fair comparison.
        per_method: method -> dotted fields set for it alone.
    """

    summary: str
    run: dict[str, Any]
    every_method: dict[str, Any] = field(default_factory=dict)
    per_method: dict[str, dict[str, Any]] = field(default_factory=dict)


def _testbed() -> dict[str, Any]:
    train, held_out = prompt_split()
    return {
        "methods": ["euphonium", "flow_grpo", "dance_grpo"],
        "seeds": 3,
        "suite": "shapes",
        "model": WEIGHTS / "pipeline",
        "outcome_model": WEIGHTS / "outcome",
        "process_reward": WEIGHTS / "process_reward",
        "prompts": {"train": train, "held_out": held_out},
    }


#: Shared by every method on the testbed: few steps and small groups, as its videos are small; one update per rollout.
#: Nothing is averaged over the few updates of a run.
_SHARED = {
    "sampler.num_steps": NUM_STEPS,
    "sampler.shift": SHIFT,
    "group_size": 8,
    "updates_per_rollout": 1,
    "average": None,
}

# Tuned settings: docs/tuning.md says how they were found.


def _tuned(noise: float, learning_rate: float) -> dict[str, Any]:
    return {"sampler.noise.level": noise, "optimiser.learning_rate": learning_rate}


#: Settings of single methods.
_PER_METHOD: dict[str, dict[str, Any]] = {
    # Winners of forty trials and a final each.
    "flow_grpo": _tuned(1.13, 1.11e-3),
    "dance_grpo": _tuned(0.785, 5.47e-4),
    "euphonium": {**_tuned(1.14, 2.99e-3), "distillation.strength": 59.2, "distillation.weight": 0.347},
    # Best of twenty trials each, without a final (docs/tuning.md); windows and selections in proportion to 8 steps and
    # 8 videos.
    "euphonium_dance": {
        **_tuned(1.01, 2.1e-3),
        "distillation.strength": 18.9,
        "distillation.weight": 0.442,
    },
    "euphonium_published": {
        **_tuned(0.913, 2.97e-4),
        "sampler.guidance.start": last_quarter(NUM_STEPS),
        "sampler.guidance.strength": 1.24,
    },
    "flow_grpo_fast": _tuned(1.13, 1.11e-3),
    "flow_cps": _tuned(0.671, 1.99e-3),
    "flow_dppo": {
        **_tuned(0.833, 8.91e-4),
        "sampler.window": {"kind": "random", "count": 2, "stop": NUM_STEPS // 2, "contiguous": False},
    },
    "grpo_guard": _tuned(1.27, 1.77e-3),
    "tempflow_grpo": _tuned(1.29, 1.03e-3),
    "dance_grpo_hunyuan": {**_tuned(0.785, 5.47e-4), "best_of": {"best": 2, "worst": 2}},
    "mix_grpo": {
        **_tuned(1.15, 1.58e-3),
        "sampler.window": {"kind": "sliding", "count": 2, "stop": NUM_STEPS - 1, "stride": 1, "period": 4},
    },
    "diffusion_nft": {"optimiser.learning_rate": 2.09e-4, "objective.beta": 0.418},
    "awm": {"optimiser.learning_rate": 1.92e-3, "distillation.weight": 0.0374},
    "rejection_sampling": {"optimiser.learning_rate": 2.32e-3, "distillation.weight": 0.0149},
    "online_dpo": {"optimiser.learning_rate": 1.34e-3, "objective.beta": 198, "objective.refresh": 4},
    "refl": {
        "optimiser.learning_rate": 1.41e-3,
        "distillation": {"weight": 2.41e-3, "strength": 0},
        "objective.last": 2,
        "objective.scale": 1.0,
    },
    "draft": {"optimiser.learning_rate": 7.84e-4, "distillation": {"weight": 1.2e-3, "strength": 0}},
}

PRESETS: dict[str, Preset] = {
    "default": Preset(
        "the testbed, 5 seeds, 1 TFLOP each (16 to 22 iterations): about 13 CPU minutes",
        {
            **_testbed(),
            "seeds": 5,
            "budget": 1,
            "budget_unit": "tflops",
            "evaluation": {"every": 6, "early_until": 6, "train_prompts": 6},
        },
        _SHARED,
        _PER_METHOD,
    ),
    "smoke": Preset(
        "the testbed, 1 seed, 2 iterations, small groups: under a minute, proves nothing",
        {
            **_testbed(),
            "budget": 2,
            "seeds": 1,
            "prompts_per_iteration": 4,
            "evaluation": {"every": 1, "train_prompts": 4, "samples_per_prompt": 2},
        },
        {**_SHARED, "group_size": 4},
        _PER_METHOD,
    ),
    "published": Preset(
        "published steps, groups and learning rates; requires --model and its companions",
        {**_testbed(), "budget": 300},
    ),
}
