"""Tunes methods with equal numbers of trials and equal budgets per trial: `python -m benchmarks.sweep --help`.

Trials train with tuning seeds on some of the training prompts and are judged by the suite's headline reward on the
others. They see neither the seeds nor the held-out prompts of the results. An optional final trains the best trials of
each method again on further tuning seeds, and only these decide. Running the same command again continues the sweep
and repeats trials whose process was killed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from analysis.schema import BASE, run_folder
from benchmarks.commandline import run_program
from benchmarks.display import say
from benchmarks.launching import launched
from benchmarks.locking import alone, turn
from benchmarks.records import replace_text
from benchmarks.settings import SettingsError
from benchmarks.sweeping.choosing import are_over, best_trial, finalists_of, trials_of
from benchmarks.sweeping.final import FINALS_FOLDER, Final
from benchmarks.sweeping.options import arguments, make_plan, place
from benchmarks.sweeping.plan import Plan, quiet
from benchmarks.sweeping.results import FINALS_FILE, SWEEP_FILE, TRIALS_FILE, TUNED_FILE, write_results
from benchmarks.sweeping.space import caution
from benchmarks.sweeping.storage import masked, open_storage, open_study, recover
from benchmarks.workers import Failure, quieten, side_by_side, told

if TYPE_CHECKING:
    from benchmarks.sweeping.tracking import SweepTracker


def main(typed: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for an error the user can fix, 1 for a bug in this program."""
    again = "finished work is kept; run the same command to continue"
    return run_program(partial(arguments, __doc__ or ""), typed, _run, again)


def _run(given: argparse.Namespace, command: str) -> int:
    if launched():
        raise SettingsError(
            "a sweep runs one process per trial: start it without accelerate launch, and give --workers"
        )
    quiet()
    study, storage, output = place(given)
    plan = make_plan(given, study, storage, masked(command))
    return Sweep(plan, output, given.workers, given.retry_running).run()


class Sweep:
    """One sweep: prepares the folder and the studies, runs trials, collects the results.

    Args:
        plan: the plan of the sweep.
        output: its folder.
        workers: parallel trials; None to choose by the machine.
        retry_running: whether to treat running trials as lost.
    """

    def __init__(self, plan: Plan, output: Path, workers: int | None, retry_running: bool) -> None:
        self.plan, self.output, self.retry_running = plan, output, retry_running
        self.total = sum(map(plan.trials_of, plan.methods))
        self.workers = workers if workers is not None else side_by_side(self.total)
        self.final: Final | None = None
        self.console = Console(width=None if sys.stdout.isatty() else 140)

    def run(self) -> int:
        """Runs everything and returns the exit code."""
        from benchmarks.session import check

        quieten()
        self._check_folder()
        check(self.plan.base)
        storage = open_storage(self.plan.storage)
        self.studies = {method: open_study(self.plan, storage, method) for method in self.plan.methods}
        self._write_down()
        with alone(self.output):
            self._say_what()
            with turn(self.output):
                for method, study in self.studies.items():
                    for number in recover(study, self.retry_running):
                        self._say(f"{method} trial {number} was lost and restarts")
            return self._run()

    def _say(self, line: str) -> None:
        say(self.console, line)

    def _say_what(self) -> None:
        plan = self.plan
        self._say(
            f"{plan.trials} trials of each of {', '.join(plan.methods)}: at most "
            f"{plan.base.budget_text} each, {len(plan.seeds)} seed(s) from {plan.seeds[0]}, {self.workers} side by "
            f"side; study {plan.study} in {masked(plan.storage)}, records in {self.output}"
        )
        if plan.finalists:
            self._say(f"then a final among the best {plan.finalists} of each, with {plan.final_seeds_text}")
        for method, space in plan.spaces.items():
            self._say(f"  {method}: {', '.join(parameter.text for parameter in space)}")
            for parameter in space:
                why = caution(parameter, plan.base.method_settings[method], space, plan.base.budget_unit)
                if why:
                    sys.stderr.write(f"warning: {why}\n")

    def _check_folder(self) -> None:
        """Checks that the folder holds nothing but this sweep."""
        path = self.output / SWEEP_FILE
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return
        known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if (known.get("study"), known.get("storage")) != (self.plan.study, masked(self.plan.storage)):
            raise SettingsError(
                f"--output {str(self.output)!r} is not empty and not of study {self.plan.study!r} in "
                f"{masked(self.plan.storage)}; choose another folder"
            )

    def _write_down(self) -> None:
        """Creates the folder and writes the plan."""
        described = {
            "command": self.plan.run.command,
            "study": self.plan.study,
            "storage": masked(self.plan.storage),
            "trials": self.plan.trials,
            "finalists": self.plan.finalists,
            "final_seeds": list(self.plan.final_seed_range),
            **self.plan.described(),
        }
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            replace_text(
                self.output / SWEEP_FILE,
                yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110),
            )
        except OSError as error:
            raise SettingsError(f"--output {str(self.output)!r} cannot be written: {error}") from error

    def _run(self) -> int:
        """Runs trials, tracks and collects; returns the exit code."""
        from benchmarks.sweeping.tracking import SweepTracker
        from benchmarks.sweeping.workers import Stop

        tracker = SweepTracker(self.plan, self.output)
        tracker.start()
        stop: Stop | None = None
        failures: list[Failure] = []
        try:
            stop = self._trials()
            if stop is None:
                failures = self._train_final(tracker)
        except KeyboardInterrupt:
            self._gather()
            tracker.finish(patience=5.0)
            raise
        finished = self._gather()
        problem = tracker.finish()
        if problem:
            sys.stderr.write(f"warning: {problem}\n")
        if failures:
            return told(failures)
        if stop is not None:
            sys.stderr.write(f"error: {stop.line}\n")
            (self.output / "error.txt").write_text(stop.detail, encoding="utf-8")
            return 2 if stop.expected else 1
        return 0 if finished else 1

    def _trials(self) -> Any:
        """Runs the remaining trials; returns what stopped it, if anything."""
        from benchmarks.sweeping.display import SweepDisplay
        from benchmarks.sweeping.workers import Pool, run_here

        done, best = 0, {}
        for method, study in self.studies.items():
            done += sum(trial.state.is_finished() for trial in trials_of(self.plan, study, method))
            leading = best_trial(self.plan, study, method)
            if leading is not None:
                best[method] = (leading.values[0], leading.number)
        workers = min(self.workers, max(1, self.total - done))
        with SweepDisplay(self.console, self.total, done, best) as display:
            if workers == 1:
                return run_here(self.plan, self.output, display.show)
            return Pool(self.plan, self.output, workers, display.show, display.say).run()

    def _train_final(self, tracker: SweepTracker) -> list[Failure]:
        """Runs the rest of the final, if there is one; returns the failed runs."""
        plan = self.plan
        if not plan.finalists:
            return []
        if not all(are_over(plan, study, method) for method, study in self.studies.items()):
            self._say("the final starts when all trials have ended")
            return []
        finalists = [
            entry for method, study in self.studies.items() for entry in finalists_of(plan, study, method)
        ]
        if not finalists:
            return []
        tracker.finalists = finalists
        self.final = Final(plan, finalists, self.output, self.workers)
        for method in plan.methods:
            numbers = [str(entry.trial.number) for entry in finalists if entry.method == method]
            self._say(f"final of {method}: trials {', '.join(numbers)} with {plan.final_seeds_text}")
        return self.final.train()

    def _base(self) -> float | None:
        """The base model's reward on the judging prompts, as recorded by trials or final."""
        from benchmarks.sweeping.trial import headline_values
        from rewards.suites import suite_named

        headline = suite_named(self.plan.base.suite).headline
        for folder in (self.output / "base", self.output / FINALS_FOLDER):
            values = headline_values(run_folder(folder, BASE, 0), headline)
            if values:
                return values[0]
        return None

    def _gather(self) -> bool:
        """Writes tables, tuned settings and figures; returns whether each method has a chosen trial."""
        from benchmarks.sweeping.plots import write_figures

        base, verdicts = self._base(), self.final.verdicts() if self.final else {}
        table, lines = write_results(self.plan, self.studies, verdicts, self.output, base)
        figures = write_figures(self.plan, self.studies, self.output, base)
        for line in lines:
            self._say(line)
        running = int(table["state"].isin(["running", "waiting"]).sum()) if len(table) else 0
        if running:
            self._say(f"{running} trials are still running; run the same command later to collect them")
        if not self.plan.finalists and (self.output / FINALS_FILE).is_file():
            sys.stderr.write(
                f"warning: {FINALS_FILE} is of an earlier final, and {TUNED_FILE} has the best trials of the search; "
                "give --finalists to let the final choose\n"
            )
        best = [best_trial(self.plan, study, method) for method, study in self.studies.items()]
        if any(trial is not None for trial in best):
            files = ", ".join([TRIALS_FILE, *([FINALS_FILE] if verdicts else []), TUNED_FILE])
            self._say(f"{files} and {len(figures)} files in figures/ are in {self.output}")
        return all(trial is not None for trial in best) and all(entry.winner for entry in verdicts.values())


if __name__ == "__main__":
    sys.exit(main())
