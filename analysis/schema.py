"""The names under which a run lies on disk: `benchmarks` writes them and `analysis` reads them, both from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

SETTINGS_FILE = "settings.yaml"
RUNS_FILE = "records/runs.csv"
LOOKS_FILE = "records/looks.csv"
SAMPLES_FILE = "samples.npz"

BASE = "base"
"""The untrained model, where a method's name would stand."""

FINISHED = "finished"
"""The status of a run that used its whole budget."""

SPLITS = ("held_out", "train")
"""Prompt splits, the one that answers the question first."""

Table = Literal["iterations", "evaluations", "ledger"]
COLUMNS: dict[Table, tuple[str, ...]] = {
    "iterations": ("method", "seed", "iteration", "metric", "value"),
    "evaluations": ("method", "seed", "iteration", "split", "prompt", "sample", "reward", "value"),
    "ledger": ("method", "seed", "iteration", "component", "quantity", "value"),
}
"""Table -> its columns: training metrics; rewards of evaluated videos; what each iteration used."""


@dataclass
class Status:
    """How one (method, seed) stands, written with each checkpoint and at the end; a sweep may prune it on the way."""

    method: str
    seed: int
    status: Literal["waiting", "running", "finished", "failed", "pruned"] = "waiting"
    iterations: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    error: str = ""


RUN_COLUMNS = tuple(field.name for field in fields(Status))
"""Of `RUNS_FILE`."""


def table_file(output: Path, table: Table) -> Path:
    """Where the rows of all runs lie."""
    return output / "records" / f"{table}.parquet"


def run_folder(output: Path, method: str, seed: int) -> Path:
    """Where one (method, seed) keeps its files."""
    return output / "runs" / (BASE if method == BASE else f"{method}-seed{seed}")


CHARGED = ("rollout", "update", "process_reward", "decoder", "outcome_rewards")
"""Components of the ledger that a method is charged for."""

EVALUATION = "evaluation"
"""Counted apart and never charged: evaluation with its diagnostics."""

PRM_TRAINING = "process_reward_training"
"""Paid once, before the first iteration, by methods that use a process reward; charged if a run asks for it."""

WHOLE = "whole"
"""The iteration as one: its wall-clock seconds without evaluation, and its `PEAK_MEMORY`."""

PEAK_MEMORY = "peak_memory_mb"

KL_TO_BASE = "diagnostic/kl_to_base"
"""A metric: nats per video, of the whole path under the memoryless SDE; recorded at evaluations."""

GUIDED, UNGUIDED = "diagnostic/guided/", "diagnostic/unguided/"
PROCESS_ACCURACY, GRADIENT_SHARE = "diagnostic/process_accuracy/", "diagnostic/gradient_share/"
"""How metrics begin that end in a reward, a noise level, or a term of the loss."""

BudgetUnit = Literal["iterations", "videos", "nfe", "tflops", "seconds"]

Asked = Literal["speed", "final"]
"""What a run's primary question is about: whole learning curves, or the reward at the end."""

BASELINES = ("flow_grpo", "dance_grpo")
"""The baseline where none is named: the first of these that is trained, else the run's first method."""


def default_baseline(methods: Sequence[str]) -> str:
    """Flow-GRPO, which the others build on, if it is trained; else DanceGRPO; else the first method."""
    return next((name for name in BASELINES if name in methods), methods[0] if methods else "")


class UnitWords(NamedTuple):
    """What several of a unit are called; and what it counts."""

    several: str
    counts: str


UNITS: dict[str, UnitWords] = {
    "iterations": UnitWords("iterations", "batches of rollouts, each with its updates"),
    "videos": UnitWords("videos", "videos generated for training"),
    "nfe": UnitWords(
        "network evaluations",
        "forward evaluations of the policy's network for one latent, in rollouts and updates",
    ),
    "tflops": UnitWords(
        "TFLOP", "10^12 floating-point operations of policy, process reward, decoder and outcome rewards"
    ),
    "seconds": UnitWords("seconds", "wall-clock time of training"),
}
"""What a budget of one (method, seed) can be counted in; evaluation never counts."""

SUMMED = ("videos", "nfe", "tflops")
"""Units that are added over the charged components; seconds are those of whole iterations."""


def in_words(budget: float, unit: str) -> str:
    """A budget as in `30 iterations` or `2.5 TFLOP`."""
    name = UNITS[unit].several
    return f"{budget:,.6g} {name.removesuffix('s') if budget == 1 else name}"
