"""Compares a method with variants of itself: `python -m benchmarks.ablate euphonium --config FILE.yaml`.

A variant differs from the base in a field or a few. Base and variants run as the methods of one benchmark, with the
same budget, seeds, prompts and noise: records, report, MLflow and --resume are the benchmark's. The table says which
fields differ, and the difference that they make, with intervals corrected for the number of comparisons.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ablating.variants import (
    Arm,
    described,
    make_arms,
    read_ablation,
    read_arms,
    write_arms,
)
from benchmarks.commandline import (
    DEFAULT_PRESET,
    Parser,
    add_settings,
    comma_separated,
    exit_code,
    known_names,
    settings_flags,
)
from benchmarks.records import ABLATION_FILE, resume_command
from benchmarks.resolve import read_config, resolve
from benchmarks.run import Benchmark, output_folder, resumed_settings
from benchmarks.settings import RunSettings, SettingsError
from methods.method import Method

#: Width of tables where the output is no terminal.
_WIDTH = 190


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.ablate",
        description=__doc__,
        epilog=known_names(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("base", nargs="?", help="the method that variants are made of (the file's)")
    add_settings(
        parser, config="ablation file: what is changed; docs/ablations.md says how to write one (needed)"
    )
    add(
        "--settings",
        type=Path,
        metavar="FILE.yaml",
        help="settings of the run as benchmarks.run takes them with --config, such as a sweep's tuned.yaml",
    )
    add("--factors", metavar="A,B,...", help="only these factors of the file (all)")
    add("--dry-run", action="store_true", help="print the table of variants, and run nothing")
    add("--workers", type=int, metavar="N", help="runs side by side (one a CPU core, or 1 on a GPU)")
    add("--output", type=Path, metavar="DIR", help="folder for everything (results/<date and time>)")
    add(
        "--resume", action="store_true", help="go on with the ablation in --output, from its last checkpoints"
    )
    return parser


def plan(given: argparse.Namespace, command: str) -> tuple[RunSettings, Method, list[Arm], list[str]]:
    """What is asked for: the run, its base, the variants, and those left out since they are the base.

    Raises:
        SettingsError: naming option or field, value and remedy.
    """
    if given.config is None:
        raise SettingsError(
            "--config is missing; name an ablation file, such as benchmarks/ablations/euphonium.yaml"
        )
    ablation = read_ablation(given.config)
    name = given.base or ablation.base
    if name is None:
        raise SettingsError(
            "no base is named, neither on the command line nor in the file; give a method's name"
        )
    config: dict[str, Any] = read_config(given.settings) if given.settings else {}
    config = {**config, **ablation.settings}
    for field in ablation.settings:
        if field not in RunSettings.model_fields or field in ("methods", "method_settings"):
            raise SettingsError(
                f"ablation file {str(given.config)!r}: settings.{field} is no field of a run that it may set"
            )
    config.pop("command", None)
    preset = given.preset or config.pop("preset", DEFAULT_PRESET)
    config.pop("preset", None)
    flags = settings_flags(given)
    alone = resolve(preset, config, {**flags, "methods": [name]}, given.set, command)
    base = alone.method_settings[name]
    arms, same = make_arms(ablation, base, comma_separated(given.factors or ""))
    if not arms:
        raise SettingsError(
            f"no variant of {name} is left to run: {', '.join(same) or 'none is named'} is what it is already"
        )
    methods = [base, *(arm.method for arm in arms)]
    whole = {method.name: method.model_dump(mode="json") for method in methods}
    settings = resolve(
        preset, {**config, "method_settings": whole}, {**flags, "methods": list(whole)}, [], command
    )
    return settings, base, arms, same


def main(given_arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for what the user can mend, 1 for a fault of this program."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    typed = sys.argv[1:] if given_arguments is None else given_arguments
    command = shlex.join(["python", "-m", "benchmarks.ablate", *typed])
    given = arguments().parse_args(given_arguments)
    return exit_code(lambda: _run(given, command), "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    if given.workers is not None and given.workers < 1:
        raise SettingsError(f"--workers is {given.workers}; give at least 1")
    if given.resume:
        settings = resumed_settings(given)
        base, arms = read_arms(given.output / ABLATION_FILE, settings.method_settings)
    else:
        settings, base, arms, same = plan(given, command)
        _print_plan(settings, base, arms, same)
        if given.dry_run:
            return 0
    output = output_folder(given)
    return exit_code(
        _Ablation(settings, output, given.workers, given.resume, base, arms).run,
        f"the records so far are kept, go on with `{resume_command(output, 'ablate')}`",
    )


class _Ablation(Benchmark):
    """A benchmark of a method and its variants, which also writes what differs and what difference it makes.

    Args:
        settings, output, workers, resume: the benchmark's.
        base: the method.
        arms: its variants.
    """

    def __init__(
        self,
        settings: RunSettings,
        output: Path,
        workers: int | None,
        resume: bool,
        base: Method,
        arms: list[Arm],
    ) -> None:
        super().__init__(settings, output, workers, resume)
        self.base, self.arms = base, arms

    def _prepare(self) -> None:
        super()._prepare()
        if not self.resume:
            write_arms(self.output / ABLATION_FILE, self.base, self.arms)

    def _report(self, seconds: float) -> None:
        super()._report(seconds)
        _report(self.output, self.base, self.arms)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def _print_plan(settings: RunSettings, base: Method, arms: list[Arm], same: list[str]) -> None:
    """The variants, and what they are compared with."""
    console = _console()
    title = f"{base.name} and {len(arms)} variants, {settings.seeds} seeds, {settings.budget_text} each"
    table = Table(title=title, title_justify="left")
    for column in ("variant", "differs from the base in", "compared with"):
        table.add_column(column, overflow="fold")
    for arm in arms:
        against = "base" if arm.against == base.name else arm.against.removeprefix(f"{base.name}.")
        table.add_row(f"{arm.factor}: {arm.variant}", described(base, arm.method), against)
    console.print(table, highlight=False, markup=False)
    if same:
        console.print(
            f"left out, for the base is that already: {', '.join(same)}", highlight=False, markup=False
        )


def _report(output: Path, base: Method, arms: list[Arm]) -> None:
    """Writes and prints the table of differences."""
    from analysis.records import RecordError
    from benchmarks.ablating.table import COLUMNS, cells, compare, note, write_table

    try:
        run, rows = compare(output, base, arms)
    except RecordError as error:
        sys.stderr.write(f"warning: no table: {error}\n")
        return
    write_table(run, rows, output)
    console = _console()
    table = Table(
        title=f"Ablation of {base.name}",
        caption=note(run, rows),
        title_justify="left",
        caption_justify="left",
    )
    for number, column in enumerate(COLUMNS):
        table.add_column(column, overflow="fold", justify="left" if number in (0, 1, 5) else "right")
    for row in cells(rows):
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
    console.print(f"{output / 'tables' / 'ablation.md'}, .csv; {output / 'figures' / 'ablation.png'}, .svg")


if __name__ == "__main__":
    sys.exit(main())
