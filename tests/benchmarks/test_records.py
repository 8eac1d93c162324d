"""Records: what is appended comes back as it was, whatever happened to the file's end."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.schema import BASE, COLUMNS, Status, Table, run_folder
from benchmarks.records import Recorder, consolidate, read_rows, read_status, run_status

AWKWARD = [0.1, 1 / 3, 1e-300, 2**-1074, -0.0, 123456789.123456789, 0.30000000000000004, 1e22, 5e-324]
"""Numbers that a fast, inexact parser of decimals gets wrong in the last bit."""


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, "dance_grpo", 3)


def test_numbers_come_back_bit_for_bit(recorder: Recorder) -> None:
    recorder.iteration(1, {f"m{i}": value for i, value in enumerate(AWKWARD)})
    for _ in range(3):  # reading, and writing again what was read
        assert list(read_rows(recorder.folder, "iterations")["value"]) == AWKWARD
        recorder.forget_after(1)


def test_text_comes_back_as_it_was(recorder: Recorder) -> None:
    """Commas, quotes, and words that a table reader takes for a missing value."""
    prompts = ['a "red", round ball', "null", "NA", "", "étoile\t蓝"]
    recorder.evaluation(2, [("train", prompt, 0, "accuracy", 1.0) for prompt in prompts])
    recorder.forget_after(2)
    recorder.evaluation(4, [("train", prompt, 0, "accuracy", math.nan) for prompt in prompts])
    rows = read_rows(recorder.folder, "evaluations")
    assert list(rows["prompt"]) == prompts * 2
    assert list(rows["iteration"]) == [2] * 5 + [4] * 5
    assert rows["value"].isna().tolist() == [False] * 5 + [True] * 5


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_is_left_out(recorder: Recorder, cut: int) -> None:
    """The process was killed while it wrote the third iteration."""
    for iteration in (1, 2, 3):
        recorder.iteration(iteration, {"loss": iteration / 10})
    path = recorder.folder / "iterations.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    rows = read_rows(recorder.folder, "iterations")
    assert list(rows["iteration"]) == [1, 2, 3][: len(rows)]
    assert rows.dtypes["iteration"] == "int64"
    recorder.forget_after(1)
    recorder.iteration(2, {"loss": 0.2})
    kept = [1, 2] if len(rows) else [2]
    assert list(read_rows(recorder.folder, "iterations")["iteration"]) == kept
    assert list(pd.read_csv(path).columns) == list(COLUMNS["iterations"])


def test_a_torn_header_is_written_again(recorder: Recorder) -> None:
    path = recorder.folder / "iterations.csv"
    path.write_text("method,se")
    assert read_rows(recorder.folder, "iterations").empty
    recorder.forget_after(0)
    recorder.iteration(1, {"loss": 0.5})
    assert list(read_rows(recorder.folder, "iterations")["value"]) == [0.5]


@pytest.mark.parametrize(
    ("name", "columns"), [("iterations", COLUMNS["iterations"]), ("evaluations", COLUMNS["evaluations"])]
)
def test_no_rows_yet(recorder: Recorder, name: Table, columns: tuple[str, ...]) -> None:
    rows = read_rows(recorder.folder, name)
    assert rows.empty
    assert tuple(rows.columns) == columns


def test_tables_are_gathered_with_the_status_of_every_run(tmp_path: Path) -> None:
    """Of a run that did not finish, what it recorded counts, not what its last checkpoint knew."""
    base = Recorder(tmp_path, BASE, 0)
    base.evaluation(0, [("held_out", "p", 0, "accuracy", 0.25)])
    ended, broken = Recorder(tmp_path, "a", 0), Recorder(tmp_path, "b", 0)
    ended.iteration(1, {"loss": 1.0, "seconds": 2.5})
    ended.status = Status("a", 0, "finished", 1, 2.5, 1.0)
    ended.save_status()
    for iteration in (1, 2, 3):
        broken.iteration(iteration, {"loss": 1.0, "seconds": 2.0 * iteration})
    broken.status = Status("b", 0, "failed", 2, 4.0, error="reward 'x' returned nan")
    broken.save_status()
    consolidate(tmp_path, [("a", 0), ("b", 0), ("a", 1)])
    runs = pd.read_csv(tmp_path / "records" / "runs.csv")
    assert list(runs["status"]) == ["finished", "failed", "waiting"]
    assert list(runs["iterations"]) == [1, 3, 0]
    assert list(runs["train_seconds"]) == [2.5, 6.0, 0.0]
    assert len(pd.read_parquet(tmp_path / "records" / "iterations.parquet")) == 2 + 6
    assert set(pd.read_parquet(tmp_path / "records" / "evaluations.parquet")["method"]) == {BASE}


def test_gathering_nothing_makes_empty_tables(tmp_path: Path) -> None:
    consolidate(tmp_path, [("a", 0)])
    for name in COLUMNS:
        assert pd.read_parquet(tmp_path / "records" / f"{name}.parquet").empty


def test_a_status_survives(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "a", 1)
    assert read_status(recorder.folder) is None
    recorder.status = Status("a", 1, "running", 4, 1.5, 0.5)
    recorder.save_status()
    assert read_status(run_folder(tmp_path, "a", 1)) == recorder.status
    assert Recorder(tmp_path, "a", 1).status == recorder.status
    assert run_status(tmp_path, "a", 1).iterations == 0  # nothing is recorded
    assert not list(recorder.folder.glob("*.tmp"))
