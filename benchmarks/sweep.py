"""Tunes methods: each gets the same number of trials and the same budget a trial: `python -m benchmarks.sweep --help`.

Trials train with tuning seeds on some of the training prompts and are judged by the suite's headline reward on the
others. Neither the seeds nor the held-out prompts that results use are seen. The same command given again goes on with
what is there, and repeats trials whose process was killed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.commandline import (
    DEFAULT_PRESET,
    Parser,
    add_settings,
    comma_separated,
    exit_code,
    known_names,
    settings_flags,
)
from benchmarks.locking import alone
from benchmarks.records import replace_text
from benchmarks.resolve import read_config, resolve
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.sweeping.plan import (
    FIRST_SEED,
    OBJECTIVES,
    PRUNERS,
    SEARCHES,
    WILCOXON_SEEDS,
    Plan,
    quiet,
    trial_flags,
)
from benchmarks.sweeping.results import (
    SWEEP_FILE,
    TRIALS_FILE,
    TUNED_FILE,
    best_trial,
    trials_of,
    write_results,
)
from benchmarks.sweeping.space import DEFAULT_PARAMS, SHORT, Parameter, caution, lacking, parse
from benchmarks.sweeping.storage import masked, open_storage, open_study, recover, turn
from methods.naming import closest

#: Trials of each method unless it is said, by preset.
TRIALS, SMOKE_TRIALS = 40, 4


def _epilog() -> str:
    lines = []
    for name, short in SHORT.items():
        if short.choices:
            given = "|".join(map(str, short.choices))
        else:
            high = "last step" if short.high is None else f"{short.high:g}"
            given = f"{short.low:g}..{high}{':log' if short.log else ''}"
        lines.append(f"  {name:16s} {short.field:28s} {given:18s} {short.about}")
    title = "parameters, with their default ranges (learning_rate 1e-6..1e-4 with --weights full):"
    return "\n".join([title, *lines, "", known_names()])


def _choices(entries: Any) -> str:
    return "; ".join(f"{name}: {what}" for name, what in entries.items())


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--methods", "--method", metavar="A,B,...", help="methods to tune, by name, comma-separated (needed)")
    add(
        "--trials",
        type=int,
        metavar="N",
        help=f"trials of each method, in all ({TRIALS}; {SMOKE_TRIALS} with preset smoke)",
    )
    add(
        "--params",
        metavar="P,Q,...",
        help="what to tune: short names (below), or any field of a method with NAME=LOW..HIGH[:log][:GRID_POINTS] or "
        f"NAME=A|B|C ({','.join(DEFAULT_PARAMS)}, of each method what it has)",
    )
    add(
        "--storage",
        metavar="URL",
        help="shared storage: sqlite:///FILE, FILE.log (journal), postgresql://... (a file in --output)",
    )
    add(
        "--study",
        metavar="NAME",
        help="name of the sweep in its storage (that of the storage's file, or sweep)",
    )
    add(
        "--sampler",
        dest="search",
        choices=tuple(SEARCHES),
        default="tpe",
        help=f"how values are chosen: {_choices(SEARCHES)} (tpe)",
    )
    add("--search-seed", type=int, default=0, metavar="N", help="of the search's own draws (0)")
    add(
        "--pruner",
        choices=tuple(PRUNERS),
        help=f"when to end a trial early: {_choices(PRUNERS)} (median; none for a grid and with several objectives)",
    )
    add(
        "--objectives",
        default="reward",
        metavar="A[,B]",
        help=f"{_choices({name: what for name, (what, _) in OBJECTIVES.items()})} (reward)",
    )
    add("--every", type=int, metavar="N", help="iterations between evaluations (the preset's)")
    add_settings(
        parser,
        seeds="training seeds of each trial; its reward is their mean (1)",
        first_seed=f"the first of them ({FIRST_SEED}); results use others",
    )
    add("--workers", type=int, metavar="N", help="trials side by side (one a CPU core, or 1 on a GPU)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for everything (results/STUDY, or by date without --storage)",
    )
    add(
        "--retry-running",
        action="store_true",
        help="begin again every trial that is recorded as running: for a journal whose other machines are gone",
    )
    return parser


def _base(given: argparse.Namespace) -> tuple[str, dict[str, Any], dict[str, Any], RunSettings]:
    """Preset, file and flags, and the run that they would make without a sweep."""
    if given.methods is None:
        raise SettingsError("--methods is missing; name what to tune, such as --methods euphonium")
    config = read_config(given.config) if given.config else {}
    config.pop("command", None)
    preset = given.preset or config.pop("preset", DEFAULT_PRESET)
    config.pop("preset", None)
    flags = settings_flags(given)
    return preset, config, flags, resolve(preset, config, flags, given.set, "")


def _spaces(given: argparse.Namespace, run: RunSettings) -> dict[str, tuple[Parameter, ...]]:
    """Each method's parameters: of those asked for, what it has.

    Raises:
        SettingsError: a method has none of them, or one of them no method.
    """
    text = given.params if given.params is not None else ",".join(DEFAULT_PARAMS)
    spaces: dict[str, tuple[Parameter, ...]] = {}
    without: dict[tuple[str, str], str] = {}
    for name, method in run.method_settings.items():
        parameters = parse(text, method, run.weights.kind == "full")
        reasons = {parameter.name: lacking(parameter, method) for parameter in parameters}
        spaces[name] = tuple(parameter for parameter in parameters if not reasons[parameter.name])
        without |= {(parameter, name): why for parameter, why in reasons.items() if why}
        if not spaces[name]:
            raise SettingsError(
                f"--params {text}: nothing of it is left to tune in {name}: {'; '.join(filter(None, reasons.values()))}"
            )
    if given.params is not None:
        for parameter in dict.fromkeys(parameter for parameter, _ in without):
            whys = [why for (other, _), why in without.items() if other == parameter]
            if len(whys) == len(run.methods):
                raise SettingsError(
                    f"--params names {parameter}, and {'; '.join(whys)}; leave it out, or --set what is missing"
                )
    return spaces


def _positive(given: argparse.Namespace) -> None:
    for name in ("trials", "workers", "every", "seeds"):
        value = vars(given)[name]
        if value is not None and value < 1:
            raise SettingsError(f"--{name} is {value}; give at least 1")


def make_plan(given: argparse.Namespace, study: str, storage: str, command: str) -> Plan:
    """The sweep that a command line asks for.

    Args:
        given: its options.
        study, storage: what `place` says.
        command: the whole of it, to be recorded.

    Raises:
        SettingsError: naming option, value and remedy.
    """
    _positive(given)
    preset, config, flags, run = _base(given)
    objectives = tuple(comma_separated(given.objectives))
    for name in objectives:
        if name not in OBJECTIVES:
            raise SettingsError(f"--objectives names {name!r}; {closest(name, OBJECTIVES)}")
    if not objectives or objectives[0] != "reward" or len(set(objectives)) < len(objectives):
        raise SettingsError(
            f"--objectives is {given.objectives!r}; the first, which chooses the best trial, is reward: give reward or "
            "reward,kl"
        )
    seeds = 1 if given.seeds is None else given.seeds
    first = FIRST_SEED if given.first_seed is None else given.first_seed
    plan = Plan(
        study=study,
        storage=storage,
        methods=run.methods,
        spaces=_spaces(given, run),
        trials=given.trials or (SMOKE_TRIALS if preset == "smoke" else TRIALS),
        objectives=objectives,
        search=given.search,
        pruner=_pruner(given, objectives, seeds),
        search_seed=given.search_seed,
        preset=preset,
        config=config,
        flags=trial_flags(run, flags, seeds, first, given.every, "kl" in objectives),
        assignments=tuple(given.set),
        command=command,
    )
    _check_ends(plan)
    return plan


def _pruner(given: argparse.Namespace, objectives: tuple[str, ...], seeds: int) -> str:
    asked = given.pruner
    if len(objectives) > 1 and asked not in (None, "none"):
        raise SettingsError(
            f"--pruner is {asked}, and trials with several objectives cannot be pruned; give none"
        )
    if asked == "wilcoxon" and seeds < WILCOXON_SEEDS:
        raise SettingsError(
            f"--pruner is wilcoxon and --seeds is {seeds}: the test needs {WILCOXON_SEEDS} seeds a trial"
        )
    if asked is None:
        return "none" if len(objectives) > 1 or given.search == "grid" else "median"
    return str(asked)


def place(given: argparse.Namespace) -> tuple[str, str, Path]:
    """Name and storage of the study, and the folder of the records."""
    if given.storage is None:
        name = f"sweep_{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}"
        output = given.output or Path("results") / (given.study or name)
        return given.study or "sweep", f"sqlite:///{output / 'sweep.db'}", output
    local = "://" not in given.storage or given.storage.startswith(("sqlite:", "journal:"))
    stem = Path(given.storage.rpartition("/")[2]).stem if local else ""
    study = given.study or stem or "sweep"
    return study, given.storage, given.output or Path("results") / study


def _check_ends(plan: Plan) -> None:
    """Refuses ranges whose ends do not fit the methods, before any trial begins."""
    from benchmarks.session import check_methods

    for method in plan.methods:
        for parameter in plan.spaces[method]:
            for value in parameter.ends():
                try:
                    check_methods(plan.settings(method, {parameter.field: value}))
                except SettingsError as error:
                    raise SettingsError(f"--params {parameter.name}: at {value!r}, {error}") from error


def main(given_arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for what the user can mend, 1 for a fault of this program."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    typed = sys.argv[1:] if given_arguments is None else given_arguments
    command = masked(shlex.join(["python", "-m", "benchmarks.sweep", *typed]))
    given = arguments().parse_args(given_arguments)
    return exit_code(lambda: _run(given, command), "what is done is kept; the same command goes on with it")


def _run(given: argparse.Namespace, command: str) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "a sweep runs one process a trial: start it without accelerate launch, and give --workers"
        )
    quiet()
    study, storage, output = place(given)
    plan = make_plan(given, study, storage, command)
    return Sweep(plan, output, given.workers, given.retry_running).run()


class Sweep:
    """One sweep: prepares the folder and the studies, runs trials, gathers what they found.

    Args:
        plan: what to do.
        output: its folder.
        workers: trials side by side; None for what the machine has.
        retry_running: whether trials under way are taken for lost.
    """

    def __init__(self, plan: Plan, output: Path, workers: int | None, retry_running: bool) -> None:
        self.plan, self.output, self.retry_running = plan, output, retry_running
        self.total = sum(map(plan.trials_of, plan.methods))
        self.workers = workers if workers is not None else self._default_workers()
        self.console = Console(width=None if sys.stdout.isatty() else 140)

    def _default_workers(self) -> int:
        import torch

        from benchmarks.workers import cores

        return 1 if torch.cuda.is_available() else min(cores(), self.total)

    def run(self) -> int:
        """Everything, and the exit code."""
        from benchmarks.session import check
        from benchmarks.workers import quieten

        quieten()
        self._check_folder()
        for method in self.plan.methods:
            check(self.plan.settings(method, {}))
        storage = open_storage(self.plan.storage)
        self.studies = {method: open_study(self.plan, storage, method) for method in self.plan.methods}
        self._write_down()
        with alone(self.output):
            self._say_what()
            with turn(self.output):
                for method, study in self.studies.items():
                    for number in recover(study, self.retry_running):
                        self._say(f"{method} trial {number} was lost and begins again")
            return self._run()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _say_what(self) -> None:
        plan = self.plan
        self._say(
            f"{plan.trials} trials of each of {', '.join(plan.methods)}: at most {plan.base.budget:g} "
            f"{plan.base.budget_unit} each, {len(plan.seeds)} seed(s) from {plan.seeds[0]}, {self.workers} side by "
            f"side; study {plan.study} in {masked(plan.storage)}, records in {self.output}"
        )
        for method, space in plan.spaces.items():
            self._say(f"  {method}: {', '.join(parameter.text for parameter in space)}")
            for parameter in space:
                why = caution(parameter, plan.base_method(method), space, plan.base.budget_unit)
                if why:
                    sys.stderr.write(f"warning: {why}\n")

    def _check_folder(self) -> None:
        """Refuses a folder that holds anything but this sweep."""
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
        """Creates the folder and writes what is done."""
        described = {
            "command": self.plan.command,
            "study": self.plan.study,
            "storage": masked(self.plan.storage),
            "trials": self.plan.trials,
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
        """Runs trials, tracks, and gathers; returns the exit code."""
        from benchmarks.sweeping.tracking import SweepTracker
        from benchmarks.sweeping.workers import Stop

        tracker = SweepTracker(self.plan, self.output)
        tracker.start()
        stop: Stop | None = None
        try:
            stop = self._trials()
        except KeyboardInterrupt:
            self._gather()
            tracker.finish(patience=5.0)
            raise
        finished = self._gather()
        problem = tracker.finish()
        if problem:
            sys.stderr.write(f"warning: {problem}\n")
        if stop is not None:
            sys.stderr.write(f"error: {stop.line}\n")
            (self.output / "error.txt").write_text(stop.detail, encoding="utf-8")
            return 2 if stop.expected else 1
        return 0 if finished else 1

    def _trials(self) -> Any:
        """Runs what is left to run; returns what stopped it, if anything did."""
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

    def _gather(self) -> bool:
        """Writes table, tuned settings and figures; returns whether each method has a complete trial."""
        from benchmarks.records import BASE, run_folder
        from benchmarks.sweeping.plots import write_figures
        from benchmarks.sweeping.trial import headline_values
        from rewards.suites import suite_named

        values = headline_values(
            run_folder(self.output / "base", BASE, 0), suite_named(self.plan.base.suite).headline
        )
        base = values.get(0)
        table, lines = write_results(self.plan, self.studies, self.output, base)
        figures = write_figures(self.plan, self.studies, self.output, base)
        for line in lines:
            self._say(line)
        running = int(table["state"].isin(["running", "waiting"]).sum()) if len(table) else 0
        if running:
            self._say(f"{running} trials are not over; the same command gathers them when they are")
        best = [best_trial(self.plan, study, method) for method, study in self.studies.items()]
        if any(trial is not None for trial in best):
            self._say(
                f"{TRIALS_FILE}, {TUNED_FILE} and {len(figures)} files in figures/ are in {self.output}"
            )
        return all(trial is not None for trial in best)


if __name__ == "__main__":
    sys.exit(main())
