"""Compares a method with variants of itself: `python -m benchmarks.ablate euphonium --config FILE.yaml`.

A variant differs from the base in a field or a few. Base and variants run as the methods of one benchmark, with the
same budget, seeds, prompts and noise: records, report, MLflow and --resume are the benchmark's. The table says which
fields differ, and the difference that they make, with intervals corrected for the number of comparisons. Factors that
the file crosses are reported as main effects and interactions, too.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from benchmarks.ablating.crossing import Design
from benchmarks.ablating.variants import (
    Arm,
    described,
    make_arms,
    make_design,
    read_ablation,
    read_arms,
    write_arms,
)
from benchmarks.commandline import (
    Parser,
    add_launching,
    add_running,
    add_settings,
    comma_separated,
    known_names,
    run_program,
    settings_flags,
)
from benchmarks.display import print_table, say
from benchmarks.records import ABLATION_FILE
from benchmarks.resolve import read_config, resolve
from benchmarks.run import Benchmark, carry_out, resumed_settings
from benchmarks.settings import RunSettings, SettingsError
from methods.method import Method

if TYPE_CHECKING:
    from analysis.records import Records

#: Width of tables where the output is no terminal.
_WIDTH = 190


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.ablate", description=__doc__, epilog=known_names())
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
    add_running(parser, resume="the ablation")
    add_launching(parser)
    return parser


class Planned(NamedTuple):
    """The run, its base, the variants, those left out since they are the base, and what is crossed."""

    settings: RunSettings
    base: Method
    arms: list[Arm]
    same: list[str]
    design: Design | None


def plan(given: argparse.Namespace, command: str) -> Planned:
    """What is asked for.

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
    for field in ablation.settings:
        if field not in RunSettings.model_fields or field in ("methods", "method_settings"):
            raise SettingsError(
                f"ablation file {str(given.config)!r}: settings.{field} is no field of a run that it may set"
            )
    config = {**(read_config(given.settings) if given.settings else {}), **ablation.settings}
    flags = {**settings_flags(given), "methods": [name]}
    alone = resolve(given.preset, config, flags, given.set, command)
    base = alone.method_settings[name]
    only = comma_separated(given.factors or "")
    arms, same = make_arms(ablation, base, only)
    if not arms:
        raise SettingsError(
            f"no variant of {name} is left to run: {', '.join(same) or 'none is named'} is what it is already"
        )
    settings = alone.of_methods([base, *(arm.method for arm in arms)])
    return Planned(settings, base, arms, same, make_design(ablation, base, only))


def main(typed: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for what the user can mend, 1 for a fault of this program."""
    return run_program(arguments, typed, _run, "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    if given.resume:
        settings = resumed_settings(given)
        base, arms, design = read_arms(given.output / ABLATION_FILE, settings.method_settings)
    else:
        settings, base, arms, same, design = plan(given, command)
        _print_plan(settings, base, arms, same)
        if given.dry_run:
            return 0
    return carry_out(given, partial(_Ablation, base, arms, design, settings), "ablate")


class _Ablation(Benchmark):
    """A benchmark of a method and its variants, which also writes what differs and what difference it makes.

    Args:
        base: the method.
        arms: its variants.
        design: the cells that those of them are which the file crosses.
        settings, output, workers, resume: the benchmark's.
    """

    def __init__(self, base: Method, arms: list[Arm], design: Design | None, *benchmark: Any) -> None:
        super().__init__(*benchmark)
        self.base, self.arms, self.design = base, arms, design

    def _prepare(self) -> None:
        super()._prepare()
        if not self.resume:
            write_arms(self.output / ABLATION_FILE, self.base, self.arms, self.design)

    def _report(self, seconds: float) -> None:
        super()._report(seconds)
        _report(self.output, self.base, self.arms, self.design)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def _print_plan(settings: RunSettings, base: Method, arms: list[Arm], same: list[str]) -> None:
    """The variants, and what they are compared with."""
    rows = [
        (
            f"{arm.factor}: {arm.variant}",
            described(base, arm.method),
            "base" if arm.against == base.name else arm.against.removeprefix(f"{base.name}."),
        )
        for arm in arms
    ]
    title = f"{base.name} and {len(arms)} variants, {settings.seeds} seeds, {settings.budget_text} each"
    columns, console = ("variant", "differs from the base in", "compared with"), _console()
    print_table(console, title, columns, rows, left=range(3), overflow="fold")
    if same:
        say(console, f"left out, for the base is that already: {', '.join(same)}")


def _report(output: Path, base: Method, arms: list[Arm], design: Design | None) -> None:
    """Writes and prints the table of differences, and that of effects where factors are crossed."""
    from analysis.records import RecordError
    from benchmarks.ablating.table import COLUMNS, cells, compare, note, write_table

    try:
        run, rows = compare(output, base, arms)
    except RecordError as error:
        sys.stderr.write(f"warning: no table: {error}\n")
        return
    write_table(run, rows, output)
    console, title = _console(), f"Ablation of {base.name}"
    print_table(console, title, COLUMNS, cells(rows), note(run, rows), left=(0, 1, 5), overflow="fold")
    say(console, _written(output, "ablation"))
    if design is not None:
        _report_effects(run, base.name, design, output, console)


def _report_effects(run: Records, base: str, design: Design, output: Path, console: Console) -> None:
    """Writes and prints main effects and interactions."""
    from benchmarks.ablating.effects import COLUMNS, effect_cells, effects_note, effects_of, write_effects

    ends, effects = effects_of(run, design)
    write_effects(run, base, design, ends, effects, output)
    title, caption = f"Main effects and interactions of {base}", effects_note(run, design, effects)
    print_table(console, title, COLUMNS, effect_cells(effects), caption, left=(0, 3), overflow="fold")
    say(console, _written(output, "contrasts"))


def _written(output: Path, name: str) -> str:
    return f"{output / 'tables' / name}.md, .csv; {output / 'figures' / name}.png, .svg"


if __name__ == "__main__":
    sys.exit(main())
