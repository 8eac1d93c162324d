"""A run's folder as data frames."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from analysis.schema import (
    BASE,
    COLUMNS,
    LOOKS_FILE,
    RUN_COLUMNS,
    RUNS_FILE,
    SAMPLES_FILE,
    SETTINGS_FILE,
    SPLITS,
    Asked,
    BudgetUnit,
    Table,
    in_words,
    run_folder,
    table_file,
)

_TYPES = {"iteration": "int32", "sample": "int32", "value": "float64"}
_TYPES |= dict.fromkeys(
    ("method", "split", "prompt", "reward", "metric", "component", "quantity"), "category"
)
"""Of columns that have millions of rows."""

_WITHOUT = {
    "records/iterations.parquet": "there are no training curves.",
    RUNS_FILE: "there are no training times, and a seed counts as finished when it was evaluated as late as any of its "
    "method.",
    "records/ledger.parquet": "compute is known in iterations and seconds, not in videos, network evaluations or "
    "FLOPs.",
}


class RecordError(ValueError):
    """A run's folder that cannot be analysed; the message names the file and what to do."""


class RecordedSuite(BaseModel, frozen=True):
    """The rewards of a run: trained on (with weights), held out from it, and the one that answers the question."""

    name: str
    training: dict[str, float]
    held_out: tuple[str, ...]
    headline: str
    descriptions: dict[str, str] = {}

    @property
    def listed(self) -> list[str]:
        """Its rewards: the headline first, then those held out, then those trained on."""
        return list(dict.fromkeys([self.headline, *self.held_out, *self.training]))

    def role(self, reward: str) -> str:
        """`training`, or `untrained` for one that only judges; `other` for a reward that the suite does not list."""
        if reward in self.training:
            return "training"
        return "untrained" if reward in self.held_out else "other"


class RecordedQuestion(BaseModel, frozen=True):
    """A run's primary question, named before it began: about `speed` or `final` rewards, against which baseline."""

    asks: Asked = "speed"
    baseline: str | None = None


class _Needed(BaseModel):
    """What must be among a run's settings; older runs lack what has a default."""

    methods: tuple[str, ...]
    seeds: int
    first_seed: int = 0
    budget: float
    budget_unit: BudgetUnit
    suite: RecordedSuite
    question: RecordedQuestion | None = None


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
        notes: sentences on what is missing or worth knowing.
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
        seen = [*self.evaluations["method"].unique(), *self.runs["method"].unique()]
        asked = [str(name) for name in self.settings["methods"]]
        return tuple(dict.fromkeys(name for name in [*asked, *sorted(seen)] if name != BASE))

    @cached_property
    def rewards(self) -> tuple[str, ...]:
        """Recorded rewards: the headline first, then held-out ones, then those trained on."""
        recorded = set(self.evaluations["reward"].unique())
        return tuple(
            dict.fromkeys(name for name in [*self.suite.listed, *sorted(recorded)] if name in recorded)
        )

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Recorded prompt splits, held-out prompts first."""
        recorded = set(self.evaluations["split"].unique())
        return tuple(split for split in SPLITS if split in recorded)

    @property
    def split(self) -> str:
        """The split that answers the question: held-out prompts, if any were evaluated."""
        return next(iter(self.splits), SPLITS[0])

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
        return RecordedQuestion(**(self.settings.get("question") or {}))

    @property
    def charges_prm(self) -> bool:
        """Whether the budget pays for training the process reward model."""
        return bool(self.settings.get("charge_prm", False))

    def samples(self) -> list[Samples]:
        """Sample videos of the base model, then of each method's first seed that has them."""
        found = []
        for method in (BASE, *self.methods):
            seeds = (0,) if method == BASE else self.seeds(method)
            files = [
                (run_folder(at, method, seed) / SAMPLES_FILE, seed) for seed in seeds for at in self.folders
            ]
            present = [(file, seed) for file, seed in files if file.is_file()]
            found += [_samples(file, method, seed) for file, seed in present[:1]]
        return found

    @cached_property
    def last_evaluated(self) -> pd.Series:
        """The last iteration with an evaluation; index method, seed."""
        frame = self.evaluations.groupby(["method", "seed"], observed=True)["iteration"].max().reset_index()
        frame = frame.astype({"method": "str", "seed": "int64", "iteration": "int64"})
        return frame.set_index(["method", "seed"])["iteration"]

    def seeds(self, method: str) -> tuple[int, ...]:
        """Seeds of a method: those asked for and those that left a record."""
        known = self.runs.loc[self.runs["method"] == method, "seed"]
        evaluated = (seed for name, seed in self.last_evaluated.index if name == method)
        return tuple(sorted({*self.asked.get(method, ()), *map(int, known), *map(int, evaluated)}))


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
    settings, needed = _settings(folder / SETTINGS_FILE)
    if not table_file(folder, "evaluations").is_file():
        raise RecordError(
            f"{table_file(folder, 'evaluations')}: not there, so nothing was evaluated in this run; "
            "run the benchmark again, or resume it"
        )
    looks, seeds, confidence = 1, needed.seeds, 0.95
    if (folder / LOOKS_FILE).is_file():
        made = pd.read_csv(folder / LOOKS_FILE)
        looks, seeds, confidence = len(made), int(made["seeds"].iloc[-1]), float(made["confidence"].iloc[-1])
    return Records(
        folders=(folder,),
        settings=settings,
        suite=needed.suite,
        evaluations=_table(folder, "evaluations"),
        iterations=_table(folder, "iterations"),
        ledger=_table(folder, "ledger"),
        runs=_run_list(folder / RUNS_FILE),
        asked=dict.fromkeys(needed.methods, tuple(range(needed.first_seed, needed.first_seed + seeds))),
        notes=tuple(
            f"{file} is missing: {so}" for file, so in _WITHOUT.items() if not (folder / file).is_file()
        ),
        looks=looks,
        confidence=confidence,
    )


@contextmanager
def _reading(file: Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read becomes a `RecordError`."""
    try:
        yield
    except RecordError:
        raise
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, yaml.YAMLError) as error:
        raise RecordError(f"{file}: not {kind} ({error}); restore it, or resume or repeat the run") from error


def _require(present: Iterable[str], required: Iterable[str], file: Path) -> None:
    known = list(present)
    missing = [name for name in required if name not in known]
    if missing:
        raise RecordError(
            f"{file}: no column {', '.join(missing)} (there are {', '.join(known)}); it was edited, or written by "
            "another version of the benchmark: analyse it with that one, or run again"
        )


def _settings(file: Path) -> tuple[dict[str, Any], _Needed]:
    """The settings as they are, and what is needed of them, checked."""
    if not file.is_file():
        raise RecordError(f"{file}: not there; give the --output folder of a benchmark run")
    with _reading(file, "valid YAML"):
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        return settings, _Needed.model_validate(settings)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise RecordError(
            f"{file}: {place} is {reprlib.repr(wrong['input'])}: {wrong['msg']}; it was edited, or written by another "
            "version of the benchmark: analyse it with that one, or run again"
        ) from error


def _table(folder: Path, rows: Table) -> pd.DataFrame:
    """Parquet with its text columns as categories: a few megabytes where strings would need hundreds."""
    file, columns = table_file(folder, rows), COLUMNS[rows]
    if not file.is_file():
        return pd.DataFrame(columns=list(columns), dtype="object")
    types = {name: _TYPES[name] for name in columns if name in _TYPES}
    text = [name for name, kind in types.items() if kind == "category"]
    with _reading(file, "a readable parquet file"):
        _require(parquet.read_schema(file).names, columns, file)
        table = parquet.read_table(file, columns=list(columns), read_dictionary=text)
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame.astype(types)


def _run_list(file: Path) -> pd.DataFrame:
    if not file.is_file():
        return pd.DataFrame(columns=list(RUN_COLUMNS), dtype="object")
    with _reading(file, "a readable CSV file"):
        frame = pd.read_csv(file, dtype={"method": str, "status": str, "error": str})
    _require(frame.columns, RUN_COLUMNS, file)
    return frame.fillna({"error": ""})


def _samples(file: Path, method: str, seed: int) -> Samples:
    with _reading(file, "a readable .npz file"), np.load(file, allow_pickle=False) as archive:
        videos, prompts = archive["videos"], archive["prompts"]
    if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != np.uint8 or len(prompts) != len(videos):
        raise RecordError(
            f"{file}: videos must be uint8 (prompts, frames, height, width, 3) with one prompt each, not "
            f"{videos.dtype} {videos.shape} with {len(prompts)} prompts"
        )
    return Samples(method, seed, videos, tuple(map(str, prompts)))
