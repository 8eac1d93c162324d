"""One trial: a method variant trained for the budget with each tuning seed, and its score."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from benchmarks.budget import Budget
from benchmarks.ledger import Ledger
from benchmarks.locking import turn
from benchmarks.records import BASE, Recorder, consolidate, read_rows, replace_text, run_folder
from benchmarks.resolve import write_settings
from benchmarks.session import Session, check_methods
from benchmarks.settings import RunSettings
from benchmarks.sweeping.plan import MARKS, Plan
from benchmarks.sweeping.storage import ERROR, history
from benchmarks.task import Progress, Training, evaluate_base

TRIAL_FILE = "trial.json"


@dataclass(frozen=True)
class Sheet:
    """The state of a trial, saved with its records and reported while it runs.

    Attributes:
        method, number: which trial.
        repeats: numbers of the lost trials that it repeats.
        state: "running", "complete", "pruned", "failed" or "stopped".
        values: parameter -> value.
        share: fraction of the trial's budget used.
        reward: latest headline reward on the judging prompts, mean over the seeds so far.
        scores: the objectives, once known.
        seconds: training and evaluation so far.
        error: the error that ended it.
    """

    method: str
    number: int
    repeats: tuple[int, ...] = ()
    state: str = "running"
    values: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.0
    reward: float | None = None
    scores: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


def trial_folder(output: Path, method: str, number: int) -> Path:
    """Where a trial keeps its records."""
    return output / "trials" / f"{number:04d}-{method}"


def read_sheets(output: Path) -> list[tuple[Path, Sheet]]:
    """The trials with records below a sweep's folder."""
    found = sorted((output / "trials").glob(f"*/{TRIAL_FILE}"))
    return [(path.parent, Sheet(**json.loads(path.read_text()))) for path in found]


class TrialRun:
    """A running trial.

    Args:
        plan: the sweep's.
        method: what is tuned.
        trial: Optuna's.
        output: the sweep's folder.
        report: called with its progress.
    """

    def __init__(
        self, plan: Plan, method: str, trial: Trial, output: Path, report: Callable[[Sheet], None]
    ) -> None:
        self.plan, self.method, self.trial, self.output, self.report = plan, method, trial, output, report
        repeats = tuple(history(trial.study.get_trials(deepcopy=False)[trial.number]))
        values = {parameter.name: parameter.suggest(trial) for parameter in plan.spaces[method]}
        self.sheet = Sheet(method, trial.number, repeats, values=values)
        # A lost trial resumes from its checkpoint, in its own folder.
        self.folder = trial_folder(output, method, repeats[0] if repeats else trial.number)
        self._finals: list[float] = []
        self._started = time.monotonic()
        self._marks = 0

    def run(self) -> tuple[float, ...]:
        """Trains; returns the objectives.

        Raises:
            TrialPruned: the trial was stopped early.
            SettingsError: the values do not fit.
            FloatingPointError: training diverged.
            RewardError: a reward failed.
        """
        settings = self._prepare()
        try:
            scores = self._train(settings)
        except TrialPruned:
            self._end(settings, "pruned")
            raise
        except FloatingPointError as error:
            self.trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            self._end(settings, "failed", error=str(error))
            raise
        except BaseException as error:
            self._end(settings, "stopped", error=f"{type(error).__name__}: {error}")
            raise
        self._end(settings, "complete", scores=scores)
        return scores

    def _prepare(self) -> RunSettings:
        settings = self.plan.settings(self.method, self.sheet.values)
        check_methods(settings)
        write_settings(settings, self.folder)
        self._tell()
        return settings

    def _tell(self, **changes: Any) -> None:
        """Reports the trial's state, on disk and to the display."""
        self.sheet = replace(self.sheet, seconds=time.monotonic() - self._started, **changes)
        replace_text(self.folder / TRIAL_FILE, json.dumps(asdict(self.sheet)) + "\n")
        self.report(self.sheet)

    def _train(self, settings: RunSettings) -> tuple[float, ...]:
        session = Session.open(settings)
        base = self._base(session)
        divergences = []
        for position, seed in enumerate(self.plan.seeds):
            training = Training(session, self.folder, self.method, seed)
            try:
                self._train_seed(position, training, base)
            except TrialPruned:
                training.recorder.status.status = "pruned"
                training.recorder.save_status()
                raise
            finally:
                session.accelerator.free_memory()
            divergences.append(_last_kl(training.recorder))
        scores = {"reward": float(np.mean(self._finals)), "kl": float(np.mean(divergences))}
        return tuple(scores[name] for name in self.plan.objectives)

    def _train_seed(self, position: int, training: Training, base: float) -> None:
        """Trains with one seed, unless a lost trial that this one repeats already did."""
        if training.recorder.status.status != "finished":
            after = partial(self._after_evaluation, position, training, base)
            training.run(partial(self._progress, position), after)
        curve = self._curve(training, base)
        self._finals.append(curve[-1][1])
        self._seed_done(position, curve)

    def _base(self, session: Session) -> float:
        """The untrained model's headline reward on the judged prompts; it is evaluated once for all trials."""
        shared = self.output / "base"
        with turn(shared):
            evaluate_base(session, shared, lambda _: None)
        shutil.copytree(run_folder(shared, BASE, 0), run_folder(self.folder, BASE, 0), dirs_exist_ok=True)
        return headline_values(run_folder(shared, BASE, 0), session.suite.suite.headline)[0]

    def _progress(self, position: int, progress: Progress) -> None:
        self.report(replace(self.sheet, share=(position + progress.share) / len(self.plan.seeds)))

    def _curve(self, training: Training, base: float) -> list[tuple[float, float]]:
        """(fraction of the budget used, headline reward on the judging prompts) at each evaluation so far."""
        values = headline_values(training.recorder.folder, training.session.suite.suite.headline)
        budget, ledger, shares = Budget.of(training.settings), Ledger(paid=training.ledger.paid), {0: 0.0}
        for usage in training.recorder.usages():
            ledger.add(usage)
            shares[ledger.iterations] = budget.share(ledger)
        return [(0.0, base), *((shares[iteration], value) for iteration, value in sorted(values.items()))]

    def _after_evaluation(
        self, position: int, training: Training, base: float, _iteration: int, last: bool
    ) -> None:
        """Reports the intermediate values and asks whether to continue."""
        curve = self._curve(training, base)
        reward = float(np.mean([*self._finals, curve[-1][1]]))
        share = (position + (1.0 if last else curve[-1][0])) / len(self.plan.seeds)
        self._tell(reward=reward, share=share)
        if last or len(self.plan.objectives) > 1 or self.plan.pruner == "wilcoxon":
            return  # the end of a seed is reported once it is there, also by a run that is resumed there
        self._report_marks(position, curve, int(curve[-1][0] * MARKS + 1e-9))
        self._prune_if_worse()

    def _seed_done(self, position: int, curve: list[tuple[float, float]]) -> None:
        """Reports a seed's final value, and asks whether to continue with the next."""
        if len(self.plan.objectives) > 1:
            return
        if self.plan.pruner == "wilcoxon":
            self.trial.report(curve[-1][1], self.plan.seeds[position])
        else:
            self._report_marks(position, [*curve[:-1], (1.0, curve[-1][1])], MARKS)
        if position + 1 < len(self.plan.seeds):
            self._prune_if_worse()

    def _report_marks(self, position: int, curve: list[tuple[float, float]], reached: int) -> None:
        """Reports the reward at the tenths of the budget up to `reached`, those in between interpolated.

        Trials are thus compared at equal fractions of the budget, whatever their iterations cost. With several
        seeds the value is the mean of the finished seeds' ends and this one's.
        """
        shares, values = zip(*curve, strict=True)
        for mark in range(1, reached + 1):
            step = position * MARKS + mark
            if step > self._marks:
                here = float(np.interp(mark / MARKS, shares, values))
                others = self._finals[:position]
                self.trial.report(float(np.mean([*others, here])), step)
                self._marks = step

    def _prune_if_worse(self) -> None:
        if self.trial.should_prune():
            raise TrialPruned(f"trial {self.trial.number} is worse than the others")

    def _end(
        self, settings: RunSettings, state: str, scores: tuple[float, ...] = (), error: str = ""
    ) -> None:
        """Collects the records and writes the trial's result and cost."""
        consolidate(self.folder, settings.runs())
        if state in ("complete", "pruned"):
            for run in settings.runs():  # it will not be resumed
                shutil.rmtree(run_folder(self.folder, *run) / "checkpoint", ignore_errors=True)
        reward = float(np.mean(self._finals)) if self._finals and not scores else self.sheet.reward
        cost = cost_of(self.folder, settings.runs())
        for name, amount in cost.items():
            self.trial.set_user_attr(name, amount)
        self.trial.set_user_attr("folder", str(self.folder))
        self.trial.set_user_attr("seed_rewards", self._finals)
        share = 1.0 if state == "complete" else self.sheet.share
        self._tell(state=state, scores=scores, error=" ".join(error.split()), reward=reward, share=share)


def cost_of(output: Path, runs: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Compute used in the training of some runs: unit -> total amount.

    Args:
        output: the folder that their records lie below.
        runs: each (method, seed).
    """
    ledgers = [Ledger.of(Recorder(output, *run).usages()) for run in runs]
    units = ("tflops", "seconds", "iterations")
    return {unit: sum(ledger.used(unit) for ledger in ledgers) for unit in units}


def headline_values(folder: Path, headline: str) -> dict[int, float]:
    """Iteration -> recorded mean headline reward on the judging prompts."""
    rows = read_rows(folder, "evaluations")
    judged = rows[(rows["split"] == "held_out") & (rows["reward"] == headline)]
    means = judged.groupby("iteration")["value"].mean()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))


def _last_kl(recorder: Recorder) -> float:
    """The KL to the base model at the last evaluation; NaN without diagnostics."""
    rows = read_rows(recorder.folder, "iterations")
    found = rows.loc[rows["metric"] == "diagnostic/kl_to_base", "value"]
    return float(found.iloc[-1]) if len(found) else float("nan")
