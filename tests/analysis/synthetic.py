"""A run's folder with plausible numbers, so that analysis is tested and looked at without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

COLOURS = {"red": (220, 50, 47), "blue": (38, 100, 210), "green": (60, 160, 60), "yellow": (230, 190, 40)}
MOTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
TRAINING = {"caption_match": 1.0, "motion_quality": 0.5}
HELD_OUT = ("accuracy", "colour_accuracy", "shape_accuracy", "motion_accuracy", "diversity")
START = {
    "caption_match": 0.55,
    "motion_quality": 0.62,
    "accuracy": 0.67,
    "colour_accuracy": 0.74,
    "shape_accuracy": 0.82,
    "motion_accuracy": 0.44,
    "diversity": 0.41,
}
GAIN = {
    "caption_match": 0.22,
    "motion_quality": 0.10,
    "accuracy": 0.12,
    "colour_accuracy": 0.13,
    "shape_accuracy": 0.08,
    "motion_accuracy": 0.16,
    "diversity": -0.09,
}
SPEED = {"euphonium": 1.0, "flow_grpo": 0.55, "dance_grpo": 0.72}
TFLOPS = {
    "rollout": 0.010,
    "update": 0.024,
    "process_reward": 0.008,
    "decoder": 0.003,
    "outcome_rewards": 0.001,
}
"""Of one iteration of a method that uses everything."""

VIDEOS, STEPS = 64, 8
SIGMAS = ("1", "0.955", "0.875", "0.75", "0.5", "0")


@dataclass(frozen=True)
class Plan:
    """What a synthetic run holds.

    `iterations` is also the budget, unless `budget_tflops` is given: then each method stops where that is
    used up. `overdone` is how much of the untrained rewards' gain is lost again by the end. Without
    `ledger` and `diagnostics` the records are those of an older version.
    """

    methods: Sequence[str] = ("euphonium", "flow_grpo", "dance_grpo")
    seeds: int = 3
    first_seed: int = 0
    iterations: int = 30
    budget_tflops: float | None = None
    charge_prm: bool = False
    ledger: bool = True
    diagnostics: bool = True
    rewards: Sequence[str] = tuple(START)
    overdone: float = 0.0
    settings: Mapping[str, object] = field(default_factory=dict)
    method_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    every: int = 5
    prompts: int = 4
    samples: int = 2
    failed: Mapping[tuple[str, int], int] = field(default_factory=dict)
    with_samples: bool = True
    spread: float = 0.012
    rng: int = 0

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every (method, seed)."""
        return [(name, self.first_seed + seed) for name in self.methods for seed in range(self.seeds)]

    def whole(self, method: str) -> int:
        """Iterations that the budget pays for."""
        if self.budget_tflops is None:
            return self.iterations
        paid = self.budget_tflops - (PRM_TFLOPS if self.charge_prm and guided(method) else 0.0)
        return int(paid / sum(tflops(method).values()) + 1e-9)

    def stop(self, method: str, seed: int) -> int:
        """Iterations that a run made: all, or those before it failed."""
        return self.failed.get((method, seed), self.whole(method))

    def evaluated(self, method: str, seed: int) -> list[int]:
        """Iterations with an evaluation: every `every` ones, and the last of a run that finished."""
        stop = self.stop(method, seed)
        ends = {stop} if stop == self.whole(method) else set()
        return sorted({*range(self.every, stop + 1, self.every)} | ends)


PRM_TFLOPS = 0.3


def guided(method: str) -> bool:
    """Whether a synthetic method uses the process reward model."""
    return method.startswith("euphonium")


def tflops(method: str) -> dict[str, float]:
    """Of one iteration, by component."""
    used = {name: value for name, value in TFLOPS.items() if guided(method) or name != "process_reward"}
    return used | ({"update": 0.030} if method == "flow_grpo" else {})


def captions(count: int, offset: int = 0) -> list[str]:
    """Distinct captions of coloured, moving shapes."""
    shapes, sizes = ("ball", "square", "triangle"), ("small", "large")
    every = [
        f"a {size} {colour} {shape} moving {motion}"
        for shape in shapes
        for size in sizes
        for motion in MOTIONS
        for colour in COLOURS
    ]
    return [every[(offset + 7 * place) % len(every)] for place in range(count)]


def write_run(folder: Path, plan: Plan | None = None) -> Path:
    """Write the folder of a run as `python -m benchmarks.run` would."""
    plan = plan or Plan()
    rng = np.random.default_rng([plan.rng, plan.first_seed])
    (folder / "records").mkdir(parents=True, exist_ok=True)
    _settings(folder, plan)
    _evaluations(plan, rng).to_parquet(folder / "records" / "evaluations.parquet", index=False)
    iterations = [_iterations(plan, rng), *([_diagnostics(plan, rng)] if plan.diagnostics else [])]
    pd.concat(iterations).to_parquet(folder / "records" / "iterations.parquet", index=False)
    if plan.ledger:
        _ledger(plan, rng).to_parquet(folder / "records" / "ledger.parquet", index=False)
    _runs(plan, rng).to_csv(folder / "records" / "runs.csv", index=False)
    if plan.with_samples:
        _samples(folder, plan, rng)
    return folder


def _settings(folder: Path, plan: Plan) -> None:
    settings = {
        "command": f"python -m benchmarks.run --methods {','.join(plan.methods)} --seeds {plan.seeds}",
        "preset": "default",
        "methods": list(plan.methods),
        "method_settings": {
            name: {
                "name": name,
                "reference": f"{name}, made up",
                "group_size": 8,
                "sampler": {
                    "noise": {"level": 0.7},
                    "guidance": {"strength": 12.0} if guided(name) else None,
                },
                **plan.method_settings.get(name, {}),
            }
            for name in plan.methods
        },
        "seeds": plan.seeds,
        "first_seed": plan.first_seed,
        "budget": float(plan.budget_tflops or plan.iterations),
        "budget_unit": "iterations" if plan.budget_tflops is None else "tflops",
        "charge_prm": plan.charge_prm,
        "model": "benchmarks/testbed/weights/pipeline",
        "video": {"num_frames": 5, "height": 32, "width": 32},
        "prompts": {"train": captions(plan.prompts), "held_out": captions(plan.prompts, offset=3)},
        "evaluation": {"every": plan.every, "samples_per_prompt": plan.samples},
        **plan.settings,
        "suite": {
            "name": "shapes",
            "training": {name: weight for name, weight in TRAINING.items() if name in plan.rewards},
            "held_out": [name for name in HELD_OUT if name in plan.rewards],
            "headline": "accuracy",
            "descriptions": {"accuracy": "share of attributes that measurement finds as the caption says"},
        },
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def _evaluations(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    prompts = [("train", name) for name in captions(plan.prompts)]
    prompts += [("held_out", name) for name in captions(plan.prompts, offset=3)]
    cells = [(split, prompt, sample) for split, prompt in prompts for sample in range(plan.samples)]
    block = pd.DataFrame(cells, columns=["split", "prompt", "sample"]).merge(
        pd.DataFrame({"reward": list(plan.rewards)}), how="cross"
    )
    fixed = np.random.default_rng(plan.rng)  # the base model is one, whatever seeds a run trains
    start = block["reward"].map(START).to_numpy() - np.where(block["split"] == "held_out", 0.02, 0.0)
    start = start + fixed.normal(0, 0.05, len(block))
    gain = block["reward"].map(GAIN).to_numpy() * np.where(block["split"] == "held_out", 0.85, 1.0)
    parts = [block.assign(method="base", seed=0, iteration=0, value=start)]
    untrained = ~block["reward"].isin(list(TRAINING)).to_numpy()
    for method, seed in plan.runs:
        drift = {reward: rng.normal(0, plan.spread) for reward in START}
        wander = block["reward"].map(drift).to_numpy()
        for iteration in plan.evaluated(method, seed):
            time = iteration / plan.iterations
            share = 1 - np.exp(-3 * SPEED.get(method, 0.6) * time)
            lost = plan.overdone * SPEED.get(method, 0.6) * time**2 * gain * untrained
            value = start + share * (gain + wander) - lost + rng.normal(0, 0.02, len(block))
            parts.append(block.assign(method=method, seed=seed, iteration=iteration, value=value))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["method", "seed", "iteration", "split", "prompt", "sample", "reward", "value"]]


def _iterations(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for method, seed in plan.runs:
        time = np.arange(1, plan.stop(method, seed) + 1)
        share = 1 - np.exp(-3 * SPEED.get(method, 0.6) * time / plan.iterations)
        metrics = {
            "reward/caption_match": 0.55 + 0.22 * share + rng.normal(0, 0.02, len(time)),
            "reward/motion_quality": 0.62 + 0.1 * share + rng.normal(0, 0.02, len(time)),
            "policy_loss": rng.normal(0, 0.02, len(time)),
            "loss": rng.normal(0, 0.02, len(time)),
            "gradient_norm": np.exp(rng.normal(-0.5, 0.2, len(time))),
            "ratio_deviation": np.exp(rng.normal(-6, 0.3, len(time))),
            "clip_fraction": np.clip(rng.normal(0.4, 0.05, len(time)), 0, 1),
            "seconds": 0.7 * time,
        }
        if guided(method):
            metrics["reward/process"] = 0.1 + 0.5 * share + rng.normal(0, 0.05, len(time))
            metrics["kl_to_guided"] = np.exp(rng.normal(-4, 0.2, len(time)) - 4 * share)
            metrics["guidance_size"] = np.exp(rng.normal(0, 0.1, len(time)))
            metrics["guidance_advantage_correlation"] = rng.normal(-0.2, 0.06, len(time))
        parts += [_rows(method, seed, time, metric=metric, value=value) for metric, value in metrics.items()]
    if not parts:
        return pd.DataFrame(columns=["method", "seed", "iteration", "metric", "value"])
    return pd.concat(parts, ignore_index=True)


def _rows(method: str, seed: int, iteration: np.ndarray, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"method": method, "seed": seed, "iteration": iteration, **columns})


def _diagnostics(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """What is measured at the evaluations, some of it also before training."""
    parts = []
    for method, seed in plan.runs:
        later = np.array(plan.evaluated(method, seed), dtype=int)
        time = np.concatenate([[0], later])
        share = 1 - np.exp(-3 * SPEED.get(method, 0.6) * time / plan.iterations)
        metrics = {"kl_to_base": 40 * SPEED.get(method, 0.6) * share * np.exp(rng.normal(0, 0.1, len(time)))}
        if guided(method):
            for reward, gain in (("caption_match", 0.22), ("motion_quality", 0.1), ("accuracy", 0.12)):
                own = START[reward] + gain * share
                metrics[f"unguided/{reward}"] = own + rng.normal(0, 0.01, len(time))
                metrics[f"guided/{reward}"] = own + gain * (1 - share) + rng.normal(0, 0.01, len(time))
            for place, sigma in enumerate(SIGMAS):
                known = 0.55 + 0.3 * place / (len(SIGMAS) - 1)
                noise = rng.normal(0, 0.01, len(time))
                metrics[f"process_accuracy/{sigma}"] = known - 0.15 * share * (known - 0.5) + noise
            metrics["gradient_share/outcome"] = 0.5 + 0.2 * share
            metrics["gradient_share/process"] = np.full(len(time), 0.2)
            metrics["gradient_share/distillation"] = 0.3 - 0.2 * share
        for metric, value in metrics.items():
            name = f"diagnostic/{metric}"
            parts.append(_rows(method, seed, time, metric=name, value=value))
    frame = pd.concat(parts, ignore_index=True)
    from_start = frame["metric"].str.contains("guided/|process_accuracy/")
    return frame[(frame["iteration"] > 0) | from_start]


def _ledger(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    parts = [_evaluation("base", 0, np.array([0]), plan)]
    for method, seed in plan.runs:
        time = np.arange(1, plan.stop(method, seed) + 1)
        used = tflops(method)
        entries: dict[tuple[str, str], object] = {(name, "tflops"): value for name, value in used.items()}
        seconds = {name: 20 * value * rng.uniform(0.9, 1.2, len(time)) for name, value in used.items()}
        entries |= {(name, "seconds"): value for name, value in seconds.items()}
        entries |= {
            ("rollout", "videos"): VIDEOS,
            ("rollout", "nfe"): VIDEOS * STEPS,
            ("update", "nfe"): 5 * VIDEOS * (2 if method == "flow_grpo" else 1),
            ("update", "updates"): 1,
            ("outcome_rewards", "reward_calls"): VIDEOS,
            ("whole", "seconds"): sum(seconds.values()) * 1.05,
            ("whole", "peak_memory_mb"): 900.0 if guided(method) else 700.0,
        }
        parts += [
            _rows(method, seed, time, component=component, quantity=quantity, value=value)
            for (component, quantity), value in entries.items()
        ]
        parts.append(_evaluation(method, seed, np.array(plan.evaluated(method, seed), dtype=int), plan))
        if guided(method):
            trained = {"tflops": PRM_TFLOPS, "seconds": 30.0, "videos": 1500.0}
            parts += [
                _rows(
                    method,
                    seed,
                    np.zeros(1, int),
                    component="process_reward_training",
                    quantity=name,
                    value=value,
                )
                for name, value in trained.items()
            ]
    return pd.concat(parts, ignore_index=True).astype({"value": "float64"})


def _evaluation(method: str, seed: int, iterations: np.ndarray, plan: Plan) -> pd.DataFrame:
    videos = 2.0 * plan.prompts * plan.samples
    used = {"tflops": 2e-4 * videos, "seconds": 5e-3 * videos, "videos": videos, "nfe": STEPS * videos}
    parts = [
        _rows(method, seed, iterations, component="evaluation", quantity=name, value=value)
        for name, value in used.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _runs(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for method, seed in plan.runs:
        stop = plan.stop(method, seed)
        failed = stop < plan.whole(method)
        error = "RewardError: caption_match returned NaN for 'a small red ball moving left' at step 3"
        rows.append(
            {
                "method": method,
                "seed": seed,
                "status": "failed" if failed else "finished",
                "iterations": stop,
                "train_seconds": stop * rng.uniform(0.6, 0.9),
                "evaluation_seconds": 5.0,
                "error": error if failed else "",
            }
        )
    columns = ["method", "seed", "status", "iterations", "train_seconds", "evaluation_seconds", "error"]
    return pd.DataFrame(rows, columns=columns)


def _samples(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    prompts = captions(8, offset=3)
    for name in ["base", *(f"{method}-seed{seed}" for method, seed in plan.runs)]:
        target = folder / "runs" / name
        target.mkdir(parents=True, exist_ok=True)
        blur = 40 if name == "base" else 15
        videos = np.stack([draw(prompt, rng, blur) for prompt in prompts])
        np.savez_compressed(target / "samples.npz", videos=videos, prompts=np.array(prompts))


def draw(prompt: str, rng: np.random.Generator, noise: float, frames: int = 5, size: int = 32) -> np.ndarray:
    """A noisy video (frames, size, size, 3) of a caption's shape."""
    words = prompt.split()
    colour, motion = np.array(COLOURS[words[2]]), np.array(MOTIONS[words[5]])
    radius = 4 if words[1] == "small" else 7
    y, x = np.mgrid[:size, :size]
    video = np.full((frames, size, size, 3), 235.0)
    for frame in range(frames):
        centre = size / 2 + motion * 4 * (frame - (frames - 1) / 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        if words[3] == "square":
            inside = np.maximum(abs(y - centre[0]), abs(x - centre[1])) < radius
        video[frame][inside] = colour
    return np.clip(video + rng.normal(0, noise / 2, video.shape), 0, 255).astype(np.uint8)
