"""What the tests of the benchmark share."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.checkpoint import optimiser_state
from benchmarks.run import main
from rewards.base import OutcomeReward
from rewards.suites import loading
from tests.world import world_flags

TRAINED = 4
"""Videos of one training rollout on the tiny world: 2 prompts of 2. Evaluation scores other numbers at once."""


@dataclass(frozen=True)
class Result:
    """One call of the program."""

    code: int
    out: str
    err: str
    folder: Path

    def rows(self, name: str) -> pd.DataFrame:
        """A table of the records, without the wall-clock times, which differ from run to run."""
        rows = pd.read_parquet(self.folder / "records" / f"{name}.parquet")
        return rows[rows["metric"] != "seconds"] if name == "iterations" else rows

    def runs(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "records" / "runs.csv", keep_default_na=False)

    def checkpoint(self, method: str, seed: int = 0) -> Path:
        return self.folder / "runs" / f"{method}-seed{seed}" / "checkpoint"

    def weights(self, method: str, seed: int = 0) -> dict[str, Tensor]:
        return load_file(self.checkpoint(method, seed) / "weights.safetensors")

    def optimiser(self, method: str, seed: int = 0) -> dict[str, Any]:
        return optimiser_state(self.checkpoint(method, seed) / "optimiser.safetensors")


class Bench:
    """Runs the program on the tiny world."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.world, self.folder = world, folder
        self._calls = 0

    def config(self, **changes: Any) -> Path:
        """A --config file with the tiny world's settings, some changed."""
        values = {**world_flags(self.world), "method_settings": {}, **changes}
        if isinstance(values["evaluation"], dict):
            values["evaluation"] = {"early_until": 0, **values["evaluation"]}
        self._calls += 1
        path = self.folder / f"config{self._calls}.yaml"
        path.write_text(yaml.safe_dump(_plain(values)))
        return path

    def __call__(
        self, *arguments: object, output: str | Path = "out", config: Path | None = None, **changes: Any
    ) -> Result:
        """Runs with --config and --output given; `changes` are fields of the configuration."""
        small = ["--set", "all.group_size=2", "--set", "all.sampler.num_steps=4"]
        given = ["--config", config or self.config(**changes), "--workers", 1, *small, *arguments]
        return self.plain(*given, output=output)

    def plain(self, *arguments: object, output: str | Path = "out") -> Result:
        """Runs with --output alone given."""
        folder = self.folder / output
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([*map(str, arguments), "--output", str(folder)])
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Result(code, out.getvalue(), err.getvalue(), folder)

    def resume(self, output: str | Path = "out", *arguments: object) -> Result:
        return self.plain("--resume", "--workers", 1, *arguments, output=output)

    def close(self) -> None:
        """Insists that nothing was written where the program was called from."""
        left = sorted(path.name for path in Path.cwd().iterdir())
        assert not left, f"left in the working folder: {left}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, Path) else value


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out figures, animations, report page and MLflow, which take most of a tiny run's time."""
    monkeypatch.setattr("benchmarks.run.Benchmark._animate", lambda _: None)
    monkeypatch.setattr("benchmarks.tracking.Tracker", NoTracker)
    monkeypatch.setattr("analysis.report.write_report", lambda folder: folder / "report.html")


class NoTracker:
    """Stands in for `benchmarks.tracking.Tracker`."""

    def __init__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def finish(self, patience: float | None = None) -> str:
        return ""


class Misbehaving:
    """A reward that does something else at the n-th training rollout (evaluation scores other numbers of videos)."""

    def __init__(self, sound: OutcomeReward, at: int, then: Callable[[Tensor], Tensor]) -> None:
        self.sound, self.at, self.then = sound, at, then
        self.calls = 0

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        values = self.sound(videos, prompts)
        if len(prompts) != TRAINED:
            return values
        self.calls += 1
        return self.then(values) if self.calls == self.at else values


def replace_reward(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[OutcomeReward], OutcomeReward]
) -> None:
    """Changes what one entry of every suite makes, each time that it is made."""
    made = loading.made

    def changed(entry: str, *how: Any) -> object:
        sound: Any = made(entry, *how)
        return change(sound) if entry == name else sound

    monkeypatch.setattr(loading, "made", changed)


def misbehave(monkeypatch: pytest.MonkeyPatch, name: str, at: int, then: Callable[[Tensor], Tensor]) -> None:
    """Makes one reward misbehave."""
    replace_reward(monkeypatch, name, lambda sound: Misbehaving(sound, at, then))


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Raises KeyboardInterrupt in the n-th call of a function (counted from 1), before it does anything."""
    function, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


def assert_same_records(first: Result, second: Result, methods: Sequence[str] | None = None) -> None:
    """Insists on equal tables, rows in the same order and values bit for bit; but for wall-clock times.

    Of all methods, or of those given; no row may be there twice.
    """
    for name in ("iterations", "evaluations"):
        tables = [result.rows(name) for result in (first, second)]
        if methods is not None:
            tables = [table[table["method"].isin(methods)] for table in tables]
        one, two = (table.reset_index(drop=True) for table in tables)
        assert len(one)
        pd.testing.assert_frame_equal(one, two, check_exact=True)
        assert not two.duplicated(subset=[column for column in two.columns if column != "value"]).any()


def assert_same_state(first: Result, second: Result, method: str, seed: int = 0) -> None:
    """Insists on equal trained weights and optimiser, bit for bit."""
    assert same_tensors(first.weights(method, seed), second.weights(method, seed))
    assert same_nested(first.optimiser(method, seed), second.optimiser(method, seed))


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def same_nested(first: Any, second: Any) -> bool:
    """Whether two nested states (an optimiser's) are equal bit for bit."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_nested(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_nested, first, second))
    return bool(first == second)


def digest(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
