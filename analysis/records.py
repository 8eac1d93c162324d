"""A run's folder as data frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet
import yaml
from numpy.typing import NDArray

from analysis.schema import (
    BASE,
    COLUMNS,
    LOOKS_FILE,
    RUN_COLUMNS,
    RUNS_FILE,
    SAMPLES_FILE,
    SETTINGS_FILE,
    SPLITS,
    UNITS,
    Table,
    in_words,
    run_folder,
    table_file,
)

SETTINGS = ("methods", "seeds", "budget", "budget_unit", "suite")
SUITE_SETTINGS = ("name", "training", "held_out", "headline")
_TEXT = ("method", "split", "prompt", "reward", "metric", "component", "quantity")


class RecordError(ValueError):
    """A run's folder that cannot be analysed; the message names the file and what to do."""


@dataclass(frozen=True)
class RecordedSuite:
    """The rewards of a run: trained on (with weights), held out from it, and the one that answers the question."""

    name: str
    training: Mapping[str, float]
    held_out: tuple[str, ...]
    headline: str
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def role(self, reward: str) -> str:
        """`training`, or `untrained` for one that only judges; `other` for a reward that the suite does not list."""
        if reward in self.training:
            return "training"
        return "untrained" if reward in self.held_out else "other"


@dataclass(frozen=True)
class RecordedQuestion:
    """A run's primary question, named before it began: about `speed` or `final` rewards, against which baseline."""

    asks: str = "speed"
    baseline: str | None = None


@dataclass(frozen=True)
class Samples:
    """Sample videos of one model: `videos` uint8 (prompts, frames, height, width, 3), one prompt each."""

    method: str
    seed: int
    videos: NDArray[np.uint8]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Records:
    """Everything that one run, or several combined, recorded; in `notes` what they did not.

    Attributes:
        folders: where the records came from.
        settings: resolved settings; of combined runs, the first's with the methods of all.
        suite: the rewards.
        evaluations, iterations, ledger: tidy frames, with the columns of `schema.COLUMNS`.
        runs: one row per (method, seed), how it ended.
        asked: the seeds that were asked for, by method.
        looks: planned looks at a growing number of seeds that were made, 1 where seeds were fixed.
        confidence: that the primary question is answered at; above 0.95 where there are several looks.
        notes: sentences on what is missing or to be minded.
    """

    folders: tuple[Path, ...]
    settings: Mapping[str, Any]
    suite: RecordedSuite
    evaluations: pd.DataFrame
    iterations: pd.DataFrame
    runs: pd.DataFrame
    ledger: pd.DataFrame
    asked: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
    looks: int = 1
    confidence: float = 0.95
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The run's folder; of combined runs the first's."""
        return self.folders[0]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Trained methods: those asked for, in that order, then any other that left records."""
        seen = [*_unique(self.evaluations["method"]), *_unique(self.runs["method"])]
        asked = [str(name) for name in self.settings["methods"]]
        return tuple(dict.fromkeys(name for name in [*asked, *sorted(seen)] if name != BASE))

    @cached_property
    def rewards(self) -> tuple[str, ...]:
        """Recorded rewards: the headline first, then held-out ones, then those trained on."""
        recorded = _unique(self.evaluations["reward"])
        listed = [self.suite.headline, *self.suite.held_out, *self.suite.training]
        return tuple(dict.fromkeys(name for name in [*listed, *sorted(recorded)] if name in recorded))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Recorded prompt splits, held-out prompts first."""
        recorded = _unique(self.evaluations["split"])
        return tuple(split for split in SPLITS if split in recorded)

    @property
    def budget_unit(self) -> str:
        """What the budget counts, one of `schema.UNITS`."""
        return str(self.settings["budget_unit"])

    @property
    def budget(self) -> str:
        """The budget of each run in words, such as `30 iterations` or `2.5 TFLOP`."""
        return in_words(float(self.settings["budget"]), self.budget_unit)

    @property
    def question(self) -> RecordedQuestion:
        """The primary question; older records, which name none, ask about speed."""
        entry = self.settings.get("question") or {}
        return RecordedQuestion(str(entry.get("asks", "speed")), entry.get("baseline"))

    @property
    def charges_prm(self) -> bool:
        """Whether the budget pays for training the process reward model."""
        return bool(self.settings.get("charge_prm", False))

    def samples(self) -> list[Samples]:
        """Sample videos of the base model, then of each method's first seed that has them."""
        wanted = [(BASE, 0), *((name, seed) for name in self.methods for seed in self.seeds(name))]
        found: dict[str, Samples | None] = {}
        for method, seed in wanted:
            files = [run_folder(folder, method, seed) / SAMPLES_FILE for folder in self.folders]
            present = [file for file in files if file.is_file()]
            if present and method not in found:
                found[method] = _samples(present[0], method, seed)
        return [sample for sample in found.values() if sample is not None]

    @cached_property
    def last_evaluated(self) -> Mapping[tuple[str, int], int]:
        """The last iteration with an evaluation, by (method, seed)."""
        last = self.evaluations.groupby(["method", "seed"], observed=True)["iteration"].max().reset_index()
        return {(str(name), int(seed)): int(at) for name, seed, at in last.itertuples(index=False)}

    def seeds(self, method: str) -> tuple[int, ...]:
        """Seeds of a method: those asked for and those that left a record."""
        known = self.runs.loc[self.runs["method"] == method, "seed"]
        evaluated = (seed for name, seed in self.last_evaluated if name == method)
        return tuple(sorted({*self.asked.get(method, ()), *map(int, known), *evaluated}))


def once(compute: Callable[[Records], pd.DataFrame]) -> Callable[[Records], pd.DataFrame]:
    """A frame that is computed when it is first asked for and kept with the records; every caller gets a copy."""

    @wraps(compute)
    def kept(run: Records) -> pd.DataFrame:
        name = f"{compute.__module__}.{compute.__name__}"
        if name not in run._frames:
            run._frames[name] = compute(run)
        return run._frames[name].copy()

    return kept


def load_run(path: Path | str) -> Records:
    """Read the folder of a run made by `python -m benchmarks.run`.

    Settings and evaluations are needed; without training metrics, ledger or the list of runs the rest still
    works and `Records.notes` says what is missing. Anything unreadable raises `RecordError`.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; give the --output folder of a benchmark run")
    settings = _settings(folder / SETTINGS_FILE)
    evaluations = _table(folder, "evaluations")
    if evaluations is None:
        raise RecordError(
            f"{table_file(folder, 'evaluations')}: not there, so nothing was evaluated in this run; "
            "run the benchmark again, or resume it"
        )
    notes = []
    iterations = _table(folder, "iterations")
    if iterations is None:
        iterations = _empty(COLUMNS["iterations"])
        notes.append("records/iterations.parquet is missing: there are no training curves.")
    runs = _run_list(folder / RUNS_FILE)
    if runs is None:
        runs = _empty(RUN_COLUMNS)
        notes.append(
            "records/runs.csv is missing: there are no training times, and a seed counts as finished when it "
            "was evaluated as late as any of its method."
        )
    ledger = _table(folder, "ledger")
    if ledger is None:
        ledger = _empty(COLUMNS["ledger"])
        notes.append(
            "records/ledger.parquet is missing: compute is known in iterations and seconds, not in videos, "
            "network evaluations or FLOPs."
        )
    first, seeds, looks, confidence = int(settings.get("first_seed", 0)), int(settings["seeds"]), 1, 0.95
    if (folder / LOOKS_FILE).is_file():
        made = pd.read_csv(folder / LOOKS_FILE)
        looks, seeds, confidence = len(made), int(made["seeds"].iloc[-1]), float(made["confidence"].iloc[-1])
    asked = tuple(range(first, first + seeds))
    return Records(
        folders=(folder,),
        settings=settings,
        suite=_suite(folder, settings),
        evaluations=evaluations,
        iterations=iterations,
        runs=runs,
        ledger=ledger,
        asked={str(method): asked for method in settings["methods"]},
        notes=tuple(notes),
        looks=looks,
        confidence=confidence,
    )


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in columns})


def _unique(column: pd.Series) -> set[str]:
    return {str(value) for value in column.unique()}


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise RecordError(f"{file}: not there; give the --output folder of a benchmark run")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecordError(f"{file}: not valid YAML ({error}); restore it from the run") from error
    if not isinstance(settings, dict):
        raise RecordError(f"{file}: must hold a mapping of settings, not {type(settings).__name__}")
    _require(settings, SETTINGS, str(file))
    if settings["budget_unit"] not in UNITS:
        raise RecordError(
            f"{file}: budget_unit is {settings['budget_unit']!r}, not one of {', '.join(UNITS)}"
        )
    return settings


def _suite(folder: Path, settings: Mapping[str, Any]) -> RecordedSuite:
    entry = settings["suite"]
    place = f"{folder / SETTINGS_FILE} under suite"
    if not isinstance(entry, dict):
        raise RecordError(f"{place}: must be a mapping with {', '.join(SUITE_SETTINGS)}, not {entry!r}")
    _require(entry, SUITE_SETTINGS, place)
    return RecordedSuite(
        name=str(entry["name"]),
        training={str(name): float(weight) for name, weight in entry["training"].items()},
        held_out=tuple(str(name) for name in entry["held_out"]),
        headline=str(entry["headline"]),
        descriptions={str(name): str(text) for name, text in (entry.get("descriptions") or {}).items()},
    )


def _require(entry: Mapping[str, Any], names: Sequence[str], place: str) -> None:
    missing = [name for name in names if name not in entry]
    if missing:
        raise RecordError(
            f"{place}: no setting {', '.join(missing)} (there are {', '.join(map(str, entry))}); "
            "it was edited, or written by another version of the benchmark"
        )


def _columns(present: Sequence[str], required: Sequence[str], file: Path) -> None:
    missing = [name for name in required if name not in present]
    if missing:
        raise RecordError(
            f"{file}: no column {', '.join(missing)} (there are {', '.join(present)}); "
            "it was written by another version of the benchmark: analyse it with that one, or run again"
        )


def _table(folder: Path, rows: Table) -> pd.DataFrame | None:
    """Parquet with its text columns as categories: a few megabytes where strings would need hundreds."""
    file, columns = table_file(folder, rows), COLUMNS[rows]
    if not file.is_file():
        return None
    try:
        present = parquet.read_schema(file).names
        _columns(present, columns, file)
        text = [name for name in columns if name in _TEXT]
        table = parquet.read_table(file, columns=list(columns), read_dictionary=text)
    except (OSError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{file}: not a readable parquet file ({error}); resume or repeat the run"
        ) from error
    for place, name in enumerate(table.column_names):
        if name in ("iteration", "sample"):  # of which there are millions
            table = table.set_column(place, name, table.column(name).cast(arrow.int32()))
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    del table
    for name in text:
        column = frame[name].astype("category")
        frame[name] = column.cat.rename_categories([str(label) for label in column.cat.categories])
    frame["value"] = frame["value"].astype("float64")
    return frame


def _run_list(file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        frame = pd.read_csv(file, dtype={"method": str, "status": str, "error": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not a readable CSV file ({error}); resume or repeat the run") from error
    _columns(list(frame.columns), RUN_COLUMNS, file)
    frame["error"] = frame["error"].fillna("")
    return frame


def _samples(file: Path, method: str, seed: int) -> Samples | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            _columns(archive.files, ("videos", "prompts"), file)
            videos, prompts = archive["videos"], archive["prompts"]
    except (OSError, EOFError, BadZipFile, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{file}: not a readable .npz file ({error}); delete it or repeat the run"
        ) from error
    if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != np.uint8 or len(prompts) != len(videos):
        raise RecordError(
            f"{file}: videos must be uint8 (prompts, frames, height, width, 3) with one prompt each, not "
            f"{videos.dtype} {videos.shape} with {len(prompts)} prompts"
        )
    return Samples(method, seed, videos, tuple(str(prompt) for prompt in prompts))
