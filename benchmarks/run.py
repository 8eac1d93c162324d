"""Trains alignment methods under one budget and compares them: `python -m benchmarks.run --help`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from analysis.schema import BASE, SAMPLES_FILE, SETTINGS_FILE, Asked, run_folder
from benchmarks.budget import Budget
from benchmarks.cluster import JOBS_FILE, Cluster, in_queue
from benchmarks.commandline import (
    Parser,
    add_launching,
    add_methods,
    add_running,
    add_settings,
    exit_code,
    known_names,
    run_program,
    settings_of,
)
from benchmarks.display import Display, print_table, say
from benchmarks.launching import (
    again_in_words,
    check_count,
    check_launch,
    ending,
    forget_endings,
    is_main_process,
    launched,
    shape,
)
from benchmarks.ledger import Ledger
from benchmarks.locking import alone, turn
from benchmarks.looks import UNTIL, planned_looks, seeds_option, take_look
from benchmarks.records import Recorder, consolidate, read_status, resume_command
from benchmarks.resolve import read_config, resolve, write_settings
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.workers import Failure, quieten, run_all, side_by_side, told

if TYPE_CHECKING:
    from benchmarks.task import Progress
    from benchmarks.tracking import Tracker


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.run", description=__doc__, epilog=known_names())
    add_methods(parser)
    add_settings(
        parser, "number of training seeds per method; with --until a range such as 5..20", seeds_option
    )
    parser.add_argument(
        "--until",
        choices=UNTIL,
        help="with --seeds 5..20: train 5 seeds and 5 more at a time until the primary question is decided",
    )
    parser.add_argument(
        "--question",
        choices=get_args(Asked),
        help="the primary question: who learns faster than the baseline, or who ends higher (speed)",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="of the primary question (flow_grpo, else dance_grpo, else the first)",
    )
    add_running(parser)
    add_launching(parser)
    return parser


def read_question(given: argparse.Namespace) -> None:
    """Turns the options on seeds and the primary question into fields of `RunSettings`.

    Raises:
        SettingsError: a range of seeds without --until, or the reverse.
    """
    found = given.seeds
    if isinstance(found, tuple) != (given.until is not None):
        raise SettingsError(
            "--until decided needs a range of seeds, such as --seeds 5..20, and a range needs --until decided"
        )
    if isinstance(found, tuple):
        given.looks, given.seeds = planned_looks(*found), found[1]
    named = {"asks": given.question, "baseline": given.baseline}
    given.question = {name: value for name, value in named.items() if value is not None} or None


#: Options allowed with --resume.
_WITH_RESUME = ("resume", "output", "workers", "launcher", "slurm")


def resumed_file(given: argparse.Namespace) -> Path:
    """The settings file of the run to resume.

    Raises:
        SettingsError: --output holds no run, or other options are given.
    """
    if given.output is None:
        raise SettingsError("--resume needs --output, the folder of the run to resume")
    for name, value in vars(given).items():
        if name not in _WITH_RESUME and value not in (None, [], False):
            raise SettingsError(
                f"--resume uses the run's own settings; give only --output and how it runs, not "
                f"--{name.replace('_', '-')}"
            )
    file: Path = given.output / SETTINGS_FILE
    if not file.is_file():
        raise SettingsError(f"--resume: {str(given.output)!r} holds no run ({SETTINGS_FILE} is missing)")
    return file


def resumed_settings(given: argparse.Namespace) -> RunSettings:
    """The settings of the run to resume; raises like `resumed_file`."""
    config = read_config(resumed_file(given))
    return resolve(None, config, {}, [], str(config.get("command", "")))


def output_folder(given: argparse.Namespace) -> Path:
    """The run's folder.

    Raises:
        SettingsError: the folder is not empty and is not to be resumed.
    """
    if launched():
        if given.output is None:
            raise SettingsError("under accelerate launch, name one folder for all processes with --output")
        if not is_main_process():
            return Path(given.output)  # the main process checks or creates it
    if given.output is None:
        return Path("results") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    output: Path = given.output
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output {str(output)!r} is a file; name a folder")
    if given.resume or not output.exists() or not any(output.iterdir()):
        return output
    what = (
        "already holds a run; give --resume to continue it"
        if (output / SETTINGS_FILE).is_file()
        else "is not empty"
    )
    raise SettingsError(f"--output {str(output)!r} {what}, or choose another folder")


def main(typed: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for an error the user can fix, 1 for a bug in this program."""
    return run_program(arguments, typed, _run, "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    if given.resume:
        settings = resumed_settings(given)
    else:
        read_question(given)
        settings = settings_of(given, command)
    return carry_out(given, partial(Benchmark, settings))


def carry_out(
    given: argparse.Namespace, make: Callable[[Path, int | None, bool], Benchmark], module: str = "run"
) -> int:
    """Runs a benchmark; returns the exit code.

    Args:
        given: the options of `add_running`.
        make: makes the benchmark from its folder, number of workers and whether to resume.
        module: whose command line resumes it.

    Raises:
        SettingsError: naming option, value and remedy.
    """
    if given.workers is not None and given.workers < 1:
        raise SettingsError(f"--workers is {given.workers}; give at least 1")
    cluster = cluster_of(given)
    output = output_folder(given)
    command = again_in_words(resume_command(output, module))
    again = f"the records so far are kept; continue with `{command}`"
    benchmark = make(output, given.workers, given.resume)
    benchmark.cluster = cluster
    with ending(output, again):
        benchmark.check()
        return exit_code(benchmark.run, again)


def cluster_of(given: argparse.Namespace) -> Cluster | None:
    """Where the runs' jobs go; None to train on this machine.

    Raises:
        SettingsError: the options contradict each other.
    """
    if given.launcher == "local":
        if given.slurm:
            raise SettingsError("--slurm needs --launcher slurm")
        return None
    if launched():
        raise SettingsError(
            "--launcher slurm submits jobs of one process each: start it without accelerate launch"
        )
    if given.workers is not None:
        raise SettingsError("--workers is for --launcher local; Slurm has `--slurm array_parallelism=N`")
    return Cluster.parse(given.slurm)


class Benchmark:
    """One benchmark: prepares the folder, trains, tracks and reports.

    Args:
        settings: what to run.
        output: its folder.
        workers: parallel processes; None to choose by the machine.
        resume: whether to continue the run in the folder.
    """

    def __init__(self, settings: RunSettings, output: Path, workers: int | None, resume: bool) -> None:
        self.settings, self.output, self.resume = settings, output, resume
        self.runs = settings.runs()
        self.cluster: Cluster | None = None
        self.workers = workers if workers is not None else self._default_workers()
        self.console = Console(width=None if sys.stdout.isatty() else 120)

    def _default_workers(self) -> int:
        return 1 if launched() else side_by_side(len(self.runs))

    def run(self) -> int:
        """Runs everything, after `check`, and returns the exit code."""
        if not is_main_process():
            run_all(self.settings, self.output, self._waiting(self.runs), 1, lambda _: None)
            return 0
        self._prepare()
        forget_endings(self.output)
        with alone(self.output):
            return self._run() if self.cluster is None else self._submit(self.cluster)

    def _waiting(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """The runs of these that have not finished."""
        statuses = {run: read_status(run_folder(self.output, *run)) for run in runs}
        return [run for run, status in statuses.items() if status is None or status.status != "finished"]

    def _share_done(self, runs: Sequence[tuple[str, int]]) -> float:
        """Budget that these runs have used already, up to the last checkpoints, in runs."""
        budget, done = Budget.of(self.settings), 0.0
        for run in runs if self.resume or self.settings.looks else []:
            recorder = Recorder(self.output, *run)
            ledger = Ledger.of(recorder.usages()[: recorder.status.iterations])
            done += 1.0 if recorder.status.status == "finished" else budget.share(ledger)
        return done

    def _submit(self, cluster: Cluster) -> int:
        """Submits a job for each run that has neither finished nor a job already."""
        runs, queued = [(BASE, 0), *self.runs], in_queue(self.output)
        tasks = [run for run in self._waiting(runs) if run not in queued]
        if queued:
            say(self.console, f"{len(queued)} runs have a job already: {', '.join(queued.values())}")
        if not tasks:
            say(self.console, "nothing is left to submit")
            return 0
        jobs = cluster.submit(self.settings, self.output, tasks)
        say(self.console, f"{len(jobs)} jobs of {cluster.kind}, one for each run: {', '.join(jobs)}")
        page = shlex.join(["python", "-m", "analysis.report", str(self.output)])
        say(
            self.console,
            f"what has finished, at any time: `{page}`; in the end `{resume_command(self.output)}` collects all "
            "and trains what is missing; logs are in " + str(self.output / "jobs"),
        )
        return 0

    def _run(self) -> int:
        """Trains, tracks and reports; returns the exit code."""
        from benchmarks.tracking import Tracker

        say(
            self.console,
            f"{shape(self.workers)}: {len(self.runs)} runs ({', '.join(self.settings.methods)}; "
            f"{self.settings.seeds} seeds), {self.settings.budget_text} each; results in {self.output}",
        )
        tracker = Tracker(self.settings, self.output, self.runs)
        started = time.monotonic()
        tracker.start()
        try:
            failures = self._train_looks(tracker) if self.settings.looks else self._train(self.runs)
        except KeyboardInterrupt:
            tracker.finish(patience=5.0)
            raise
        self._report(time.monotonic() - started)
        problem = tracker.finish()
        if problem:
            sys.stderr.write(f"warning: {problem}\n")
        return told(failures)

    def _train(self, runs: Sequence[tuple[str, int]]) -> list[Failure]:
        """Trains the unfinished of these runs and collects the records; returns the failed runs."""
        queued = in_queue(self.output)
        waiting = [run for run in self._waiting(runs) if run not in queued]
        workers = min(self.workers, max(1, len(waiting)))

        def show(progress: Progress) -> None:
            display.show(progress)
            if progress.status == "finished":  # for reports that are made meanwhile
                self._collect(runs)

        try:
            with Display(self.console, len(runs), self._share_done(runs)) as display:
                base = (BASE, 0) not in queued
                return run_all(self.settings, self.output, waiting, workers, show, base)
        finally:
            self._collect(runs)
            if queued:
                say(
                    self.console,
                    f"{len(queued)} runs wait in the queue or run as jobs {', '.join(queued.values())}; run the "
                    f"same command later (if they are gone, delete {JOBS_FILE})",
                )

    def _collect(self, runs: Sequence[tuple[str, int]]) -> None:
        """Writes the tables of all records; jobs of a cluster do so too."""
        with turn(self.output):
            consolidate(self.output, runs)

    def _train_looks(self, tracker: Tracker) -> list[Failure]:
        """Trains the seeds of each planned look until one settles the primary question; returns what failed."""
        for number, seeds in enumerate(self.settings.looks, start=1):
            runs = self.settings.runs(seeds)
            failures = self._train(runs)
            if failures:
                return failures
            look = take_look(self.settings, self.output, number)
            say(self.console, f"look {number} of {len(self.settings.looks)}, {seeds} seeds: {look.answer}")
            if look.decided:
                tracker.spared = set(self.runs) - set(runs)
                break
        return []

    def check(self) -> None:
        """Fails, before anything is written, if model, suite or process reward cannot be used."""
        from benchmarks.session import check

        if self.settings.looks and launched():
            raise SettingsError(
                "--until decided looks at the records between seeds, which several processes cannot agree on; "
                "run it in one process, or give a fixed number of --seeds"
            )

        check_launch(self.settings)
        if self.settings.looks and self.cluster is not None:
            raise SettingsError(
                "--until decided looks at the records between seeds, which jobs of a cluster do not; give a fixed "
                "number of --seeds, or --launcher local"
            )
        quieten()
        check(self.settings)
        check_count()

    def _prepare(self) -> None:
        """Creates the folder and writes the resolved settings."""
        if self.resume:
            return
        try:
            write_settings(self.settings, self.output)
        except OSError as error:
            raise SettingsError(f"--output {str(self.output)!r} cannot be written: {error}") from error

    def _report(self, seconds: float) -> None:
        """Writes report, tables and figures, and prints the final table."""
        from analysis.answer import answer
        from analysis.convergence import convergence
        from analysis.records import RecordError, load_run
        from analysis.report import write_report
        from analysis.tables.final import final_table, format_table

        self._animate()
        try:
            page = write_report(self.output)
            run = load_run(self.output)
            shown = format_table(final_table(run), "held_out", width=self.console.width)
            found = answer(run, convergence(run))
        except RecordError as error:
            sys.stderr.write(f"warning: no report: {error}\n")
            return
        print_table(self.console, shown.title, shown.columns, shown.rows, shown.note, no_wrap=True)
        self.console.print(found.sentence, highlight=False, markup=False)
        say(self.console, f"{seconds:.0f} s; report: {page}; mlflow: {self._store()}")

    def _animate(self) -> None:
        """Writes `samples.gif` beside each run's sample videos, for any viewer including MLflow's page."""
        import numpy as np

        from analysis.records import Samples
        from analysis.videos import animation_frames, arrange, save_animation

        for method, seed in [(BASE, 0), *self.runs]:
            source = run_folder(self.output, method, seed) / SAMPLES_FILE
            if source.is_file():
                with np.load(source, allow_pickle=False) as archive:
                    prompts = tuple(str(prompt) for prompt in archive["prompts"])
                    grid = arrange([Samples(method, seed, archive["videos"], prompts)])
                if grid is not None:
                    save_animation(animation_frames(grid), source.with_suffix(".gif"))

    def _store(self) -> str:
        if os.environ.get("MLFLOW_TRACKING_URI"):
            return "the store given by MLFLOW_TRACKING_URI"
        own = f"sqlite:///{self.output / 'mlflow.db'}"
        return f"mlflow ui --backend-store-uri {shlex.quote(own)}"


if __name__ == "__main__":
    sys.exit(main())
