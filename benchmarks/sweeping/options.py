"""From a command line to the plan of a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from benchmarks.commandline import Parser, add_settings, comma_separated, known_names, settings_of
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.sweeping.plan import (
    FIRST_SEED,
    OBJECTIVES,
    PRUNERS,
    SEARCHES,
    WILCOXON_SEEDS,
    Plan,
    for_trials,
)
from benchmarks.sweeping.space import DEFAULT_PARAMS, SHORT, Parameter, lacking, parse
from methods.naming import closest

#: Default number of trials per method, by preset.
TRIALS, SMOKE_TRIALS = 40, 4
#: Default number of seeds in a final.
FINAL_SEEDS = 3


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


def _choices(entries: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {what}" for name, what in entries.items())


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.sweep", description=description, epilog=_epilog())
    add = parser.add_argument
    add(
        "--methods",
        "--method",
        metavar="A,B,...",
        help="methods to tune, by name, comma-separated (required)",
    )
    add(
        "--trials",
        type=int,
        metavar="N",
        help=f"total number of trials per method ({TRIALS}; {SMOKE_TRIALS} with preset smoke)",
    )
    add(
        "--params",
        metavar="P,Q,...",
        help="what to tune: short names (below), or any field of a method with NAME=LOW..HIGH[:log][:GRID_POINTS] or "
        f"NAME=A|B|C ({','.join(DEFAULT_PARAMS)}, for each method, those it has)",
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
    add("--search-seed", type=int, default=0, metavar="N", help="seed of the search itself (0)")
    add(
        "--pruner",
        choices=tuple(PRUNERS),
        help=f"when to stop a trial early: {_choices(PRUNERS)} (median; none for a grid and with several objectives)",
    )
    add(
        "--objectives",
        default="reward",
        metavar="A[,B]",
        help=f"{_choices({name: what for name, (what, _) in OBJECTIVES.items()})} (reward)",
    )
    add(
        "--finalists",
        type=int,
        metavar="N",
        help="end with a final among the best N trials of each method, 2 or more, on seeds of its own (no final)",
    )
    add(
        "--final-seeds",
        type=int,
        metavar="N",
        help=f"number of seeds in the final, following the trials' own; their mean decides ({FINAL_SEEDS})",
    )
    add("--every", type=int, metavar="N", help="iterations between evaluations (the preset's)")
    add_settings(
        parser,
        seeds="training seeds of each trial; its reward is their mean (1)",
        first_seed=f"first training seed ({FIRST_SEED}); results use other seeds",
    )
    add("--workers", type=int, metavar="N", help="trials in parallel (one per CPU core, or 1 on a GPU)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="output folder (results/STUDY, or by date without --storage)",
    )
    add(
        "--retry-running",
        action="store_true",
        help="restart every trial recorded as running; for a journal whose other machines are gone",
    )
    return parser


def _spaces(given: argparse.Namespace, run: RunSettings) -> dict[str, tuple[Parameter, ...]]:
    """Each method's parameters: those requested that it has.

    Raises:
        SettingsError: a method has none of them, or no method has one of them.
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


def _final(given: argparse.Namespace) -> tuple[int, int]:
    """Number of finalists per method and of seeds in the final; 0 and 0 for no final."""
    finalists, seeds = given.finalists, given.final_seeds
    if not finalists and seeds is not None:
        raise SettingsError(
            f"--final-seeds is {seeds} but there is no final; give --finalists as well, or omit --final-seeds"
        )
    if not finalists:
        return 0, 0
    if finalists < 2:
        raise SettingsError(f"--finalists is {finalists}; give at least 2, or omit it for no final")
    if seeds is not None and seeds < 1:
        raise SettingsError(f"--final-seeds is {seeds}; give at least 1")
    return finalists, FINAL_SEEDS if seeds is None else seeds


def make_plan(given: argparse.Namespace, study: str, storage: str, command: str) -> Plan:
    """The sweep specified by a command line.

    Args:
        given: its options.
        study, storage: the result of `place`.
        command: the command line, for the records.

    Raises:
        SettingsError: naming option, value and remedy.
    """
    _positive(given)
    if given.methods is None:
        raise SettingsError("--methods is missing; name what to tune, such as --methods euphonium")
    run = settings_of(given, command)
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
    finalists, final_seeds = _final(given)
    plan = Plan(
        study=study,
        storage=storage,
        run=run,
        base=for_trials(run, seeds, first, given.every, "kl" in objectives),
        spaces=_spaces(given, run),
        trials=given.trials or (SMOKE_TRIALS if run.preset == "smoke" else TRIALS),
        objectives=objectives,
        search=given.search,
        pruner=_pruner(given, objectives, seeds),
        search_seed=given.search_seed,
        finalists=finalists,
        final_seeds=final_seeds,
    )
    _check_ends(plan)
    for method in plan.methods:
        if finalists > plan.trials_of(method):
            raise SettingsError(
                f"--finalists is {finalists} and {method} has {plan.trials_of(method)} trials; give fewer finalists, "
                "or more trials"
            )
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
    """Checks, before any trial starts, that the ends of ranges are valid for the methods."""
    from benchmarks.session import check_methods

    for method in plan.methods:
        for parameter in plan.spaces[method]:
            for value in parameter.ends():
                try:
                    check_methods(plan.settings(method, {parameter.name: value}))
                except SettingsError as error:
                    raise SettingsError(f"--params {parameter.name}: at {value!r}, {error}") from error
