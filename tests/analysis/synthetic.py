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


@dataclass(frozen=True)
class Plan:
    """What a synthetic run holds."""

    methods: Sequence[str] = ("euphonium", "flow_grpo", "dance_grpo")
    seeds: int = 3
    iterations: int = 30
    every: int = 5
    prompts: int = 4
    samples: int = 2
    failed: Mapping[tuple[str, int], int] = field(default_factory=dict)
    with_samples: bool = True
    spread: float = 0.012
    rng: int = 0


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
    rng = np.random.default_rng(plan.rng)
    (folder / "records").mkdir(parents=True, exist_ok=True)
    _settings(folder, plan)
    _evaluations(plan, rng).to_parquet(folder / "records" / "evaluations.parquet", index=False)
    _iterations(plan, rng).to_parquet(folder / "records" / "iterations.parquet", index=False)
    _runs(plan, rng).to_csv(folder / "records" / "runs.csv", index=False)
    if plan.with_samples:
        _samples(folder, plan, rng)
    return folder


def _settings(folder: Path, plan: Plan) -> None:
    settings = {
        "command": f"python -m benchmarks.run --methods {','.join(plan.methods)} --seeds {plan.seeds}",
        "methods": list(plan.methods),
        "seeds": plan.seeds,
        "budget": float(plan.iterations),
        "budget_unit": "iterations",
        "preset": "default",
        "model": "benchmarks/testbed/weights/pipeline",
        "suite": {
            "name": "shapes",
            "training": dict(TRAINING),
            "held_out": list(HELD_OUT),
            "headline": "accuracy",
            "descriptions": {"accuracy": "share of attributes that measurement finds as the caption says"},
        },
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def _stop(plan: Plan, method: str, seed: int) -> int:
    return plan.failed.get((method, seed), plan.iterations)


def _evaluations(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    prompts = [("train", name) for name in captions(plan.prompts)]
    prompts += [("held_out", name) for name in captions(plan.prompts, offset=3)]
    cells = [(split, prompt, sample) for split, prompt in prompts for sample in range(plan.samples)]
    block = pd.DataFrame(cells, columns=["split", "prompt", "sample"]).merge(
        pd.DataFrame({"reward": list(START)}), how="cross"
    )
    start = block["reward"].map(START).to_numpy() - np.where(block["split"] == "held_out", 0.02, 0.0)
    start = start + rng.normal(0, 0.05, len(block))
    gain = block["reward"].map(GAIN).to_numpy() * np.where(block["split"] == "held_out", 0.85, 1.0)
    parts = [block.assign(method="base", seed=0, iteration=0, value=start)]
    for method in plan.methods:
        for seed in range(plan.seeds):
            drift = {reward: rng.normal(0, plan.spread) for reward in START}
            wander = block["reward"].map(drift).to_numpy()
            for iteration in range(plan.every, _stop(plan, method, seed) + 1, plan.every):
                share = 1 - np.exp(-3 * SPEED.get(method, 0.6) * iteration / plan.iterations)
                noise = rng.normal(0, 0.02, len(block))
                value = start + share * (gain + wander) + noise
                parts.append(block.assign(method=method, seed=seed, iteration=iteration, value=value))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["method", "seed", "iteration", "split", "prompt", "sample", "reward", "value"]]


def _iterations(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for method in plan.methods:
        for seed in range(plan.seeds):
            time = np.arange(1, _stop(plan, method, seed) + 1)
            share = 1 - np.exp(-3 * SPEED.get(method, 0.6) * time / plan.iterations)
            metrics = {
                "reward/caption_match": 0.55 + 0.22 * share + rng.normal(0, 0.02, len(time)),
                "reward/motion_quality": 0.62 + 0.1 * share + rng.normal(0, 0.02, len(time)),
                "loss": rng.normal(0, 0.02, len(time)),
                "grad_norm": np.exp(rng.normal(-0.5, 0.2, len(time))),
                "ratio_deviation": np.exp(rng.normal(-6, 0.3, len(time))),
                "clip_fraction": np.clip(rng.normal(0.4, 0.05, len(time)), 0, 1),
                "seconds": 0.7 * time,
            }
            if method.startswith("euphonium"):
                metrics["reward/process"] = 0.1 + 0.5 * share + rng.normal(0, 0.05, len(time))
                metrics["kl_to_guided"] = np.exp(rng.normal(-4, 0.2, len(time)) - 4 * share)
                metrics["guidance_size"] = np.exp(rng.normal(0, 0.1, len(time)))
                metrics["guidance_advantage_correlation"] = rng.normal(-0.2, 0.06, len(time))
            for metric, value in metrics.items():
                columns = {
                    "method": method,
                    "seed": seed,
                    "iteration": time,
                    "metric": metric,
                    "value": value,
                }
                parts.append(pd.DataFrame(columns))
    if not parts:
        return pd.DataFrame(columns=["method", "seed", "iteration", "metric", "value"])
    return pd.concat(parts, ignore_index=True)


def _runs(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for method in plan.methods:
        for seed in range(plan.seeds):
            stop = _stop(plan, method, seed)
            failed = stop < plan.iterations
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
    for name in ["base", *(f"{method}-seed{seed}" for method in plan.methods for seed in range(plan.seeds))]:
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
