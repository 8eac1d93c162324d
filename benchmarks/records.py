"""Records: append-only files while a run goes on, tidy tables when it ends. Results are stored nowhere else."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.schema import (
    BASE,
    COLUMNS,
    EVALUATION,
    RUNS_FILE,
    SAMPLES_FILE,
    Status,
    Table,
    run_folder,
    table_file,
)
from benchmarks.ledger import Usage

_TYPES = {"seed": "int64", "iteration": "int64"}


#: In an ablation's folder: the comparisons.
ABLATION_FILE = "ablation.yaml"


def resume_command(output: Path, module: str | None = None) -> str:
    """The command line that resumes a benchmark or an ablation.

    Args:
        output: its folder.
        module: "run" or "ablate"; None to infer it from the folder.
    """
    module = module or ("ablate" if (output / ABLATION_FILE).is_file() else "run")
    return shlex.join(["python", "-m", f"benchmarks.{module}", "--resume", "--output", str(output)])


def replace_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


class Recorder:
    """Appends one run's rows as they arrive; every row is on disk before training continues.

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
        """One training iteration's metrics; `iteration` counts from 1, and 0 is the policy before training."""
        self._append("iterations", iteration, metrics.items())

    def usage(self, iteration: int, usage: Mapping[tuple[str, str], float]) -> None:
        """Usage of one iteration: (component, quantity) -> amount."""
        self._append("ledger", iteration, ((*place, amount) for place, amount in usage.items()))

    def evaluation(self, iteration: int, rows: Iterable[tuple[str, str, int, str, float]]) -> None:
        """One evaluation's rows: (split, prompt, sample, reward, value)."""
        self._append("evaluations", iteration, rows)

    def _append(self, table: Table, iteration: int, rows: Iterable[Sequence[object]]) -> None:
        full = [(self.method, self.seed, iteration, *row) for row in rows]
        _append(self.folder / f"{table}.csv", COLUMNS[table], full)

    def samples(self, videos: NDArray[np.uint8], prompts: Sequence[str]) -> None:
        """Sample videos (P, F, H, W, 3), one per prompt."""
        temporary = self.folder / f"{SAMPLES_FILE}.tmp"
        with temporary.open("wb") as file:
            np.savez_compressed(file, videos=videos, prompts=np.array(prompts))
        os.replace(temporary, self.folder / SAMPLES_FILE)

    def save_status(self) -> None:
        """Writes the run's status."""
        replace_text(self.folder / "status.json", json.dumps(asdict(self.status)) + "\n")

    def forget_after(self, iteration: int) -> None:
        """Drops rows of iterations after `iteration`; a resumed run repeats them."""
        for name in COLUMNS:
            path = self.folder / f"{name}.csv"
            if path.is_file():
                rows = read_rows(self.folder, name)
                replace_text(path, rows[rows["iteration"] <= iteration].to_csv(index=False))

    def usages(self) -> list[Usage]:
        """Usage of each recorded training iteration, in order."""
        rows = read_rows(self.folder, "ledger")
        trained = rows[(rows["iteration"] > 0) & (rows["component"] != EVALUATION)]
        usages: dict[int, Usage] = {}
        columns = (trained[name].tolist() for name in ("iteration", "component", "quantity", "value"))
        for iteration, component, quantity, value in zip(*columns, strict=True):
            usages.setdefault(iteration, {})[component, quantity] = value
        return [usages[iteration] for iteration in sorted(usages)]

    def train_seconds(self) -> float:
        """Training time up to the last recorded iteration."""
        return _train_seconds(read_rows(self.folder, "iterations"))


def _append(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def read_status(folder: Path) -> Status | None:
    """A run's status; None if it has not started."""
    path = folder / "status.json"
    return Status(**json.loads(path.read_text())) if path.is_file() else None


def read_rows(folder: Path, name: Table) -> pd.DataFrame:
    """The rows a run has recorded so far; an empty table with the right columns if there are none.

    Values are restored exactly. An incomplete last line was cut off when the run was killed, or is being written; it
    is ignored.
    """
    columns = COLUMNS[name]
    path = folder / f"{name}.csv"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = io.StringIO(text[: text.rfind("\n") + 1] or ",".join(columns))
    types = {column: _TYPES.get(column, "str") for column in columns if column != "value"}
    return pd.read_csv(lines, dtype=types, converters={"value": float}, keep_default_na=False)


def _train_seconds(iterations: pd.DataFrame) -> float:
    seconds = iterations.loc[iterations["metric"] == "seconds", "value"]
    return float(seconds.max()) if len(seconds) else 0.0


def run_status(output: Path, method: str, seed: int) -> Status:
    """A run's status; for an unfinished run, the number of recorded iterations, with or without a checkpoint."""
    folder = run_folder(output, method, seed)
    status = read_status(folder) or Status(method, seed)
    if status.status != "finished":
        rows = read_rows(folder, "iterations")
        status.iterations = int(rows["iteration"].max()) if len(rows) else 0
        status.train_seconds = _train_seconds(rows)
    return status


def consolidate(output: Path, runs: Sequence[tuple[str, int]]) -> None:
    """Collects all runs' rows in `records/`: parquet tables and `runs.csv`."""
    (output / RUNS_FILE).parent.mkdir(exist_ok=True)
    folders = [run_folder(output, BASE, 0), *(run_folder(output, *run) for run in runs)]
    for name in COLUMNS:
        parts = [read_rows(path, name) for path in folders]
        filled = [part for part in parts if len(part)] or parts[:1]
        _replace_table(table_file(output, name), pd.concat(filled, ignore_index=True))
    statuses = [asdict(run_status(output, *run)) for run in runs]
    replace_text(output / RUNS_FILE, pd.DataFrame(statuses).to_csv(index=False))


def _replace_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a parquet file atomically: reports may read it while a benchmark goes on."""
    temporary = path.with_name(path.name + ".tmp")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)
