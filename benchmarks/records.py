"""Records: append-only files while a run goes on, tidy tables when it ends. Nothing else keeps results."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BASE = "base"
ITERATION_COLUMNS = ("method", "seed", "iteration", "metric", "value")
EVALUATION_COLUMNS = ("method", "seed", "iteration", "split", "prompt", "sample", "reward", "value")


@dataclass
class Status:
    """How one (method, seed) stands."""

    method: str
    seed: int
    status: Literal["waiting", "running", "finished", "failed"] = "waiting"
    iterations: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    error: str = ""


def run_folder(output: Path, method: str, seed: int) -> Path:
    """Where one (method, seed) keeps its files."""
    return output / "runs" / (BASE if method == BASE else f"{method}-seed{seed}")


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


class Recorder:
    """Appends one run's rows as they come; every row is on disk before training goes on.

    Args:
        output: the benchmark's folder.
        method: method's name, or `BASE`.
        seed: training seed.
    """

    def __init__(self, output: Path, method: str, seed: int) -> None:
        self.folder = run_folder(output, method, seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.method, self.seed = method, seed
        self.status = read_status(self.folder) or Status(method, seed)

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """One training iteration's metrics; `iteration` counts from 1."""
        rows = [(self.method, self.seed, iteration, name, value) for name, value in metrics.items()]
        _append(self.folder / "iterations.csv", ITERATION_COLUMNS, rows)

    def evaluation(self, iteration: int, rows: Iterable[tuple[str, str, int, str, float]]) -> None:
        """One evaluation's rows: (split, prompt, sample, reward, value)."""
        full = [(self.method, self.seed, iteration, *row) for row in rows]
        _append(self.folder / "evaluations.csv", EVALUATION_COLUMNS, full)

    def samples(self, videos: NDArray[np.uint8], prompts: Sequence[str]) -> None:
        """Sample videos (P, F, H, W, 3), one a prompt."""
        np.savez_compressed(self.folder / "samples.npz", videos=videos, prompts=np.array(prompts))

    def save_status(self) -> None:
        """Writes how the run stands."""
        replace_text(self.folder / "status.json", json.dumps(asdict(self.status)) + "\n")

    def forget_after(self, iteration: int) -> None:
        """Drops rows of iterations after `iteration`: a resumed run makes them again."""
        for name in ("iterations.csv", "evaluations.csv"):
            path = self.folder / name
            if path.is_file():
                rows = pd.read_csv(path)
                replace_text(path, rows[rows["iteration"] <= iteration].to_csv(index=False))


def _append(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(columns)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def read_status(folder: Path) -> Status | None:
    """A run's status; None where it has not begun."""
    path = folder / "status.json"
    return Status(**json.loads(path.read_text())) if path.is_file() else None


def read_rows(folder: Path, name: Literal["iterations", "evaluations"]) -> pd.DataFrame:
    """The rows that a run has recorded so far; empty with the right columns where there are none."""
    path = folder / f"{name}.csv"
    if path.is_file():
        return pd.read_csv(path)
    return pd.DataFrame(columns=list(ITERATION_COLUMNS if name == "iterations" else EVALUATION_COLUMNS))


def consolidate(output: Path, runs: Sequence[tuple[str, int]]) -> None:
    """Gathers all runs' rows into `records/`: two parquet tables and `runs.csv`."""
    folder = output / "records"
    folder.mkdir(exist_ok=True)
    folders = [run_folder(output, BASE, 0), *(run_folder(output, *run) for run in runs)]
    for name in ("iterations", "evaluations"):
        parts = [read_rows(path, name) for path in folders]
        filled = [part for part in parts if len(part)] or parts[:1]
        pd.concat(filled, ignore_index=True).to_parquet(folder / f"{name}.parquet", index=False)
    statuses = [read_status(run_folder(output, *run)) or Status(*run) for run in runs]
    pd.DataFrame([asdict(status) for status in statuses]).to_csv(folder / "runs.csv", index=False)
