"""Plans a run before anything is downloaded: memory, operations, hours: `python -m benchmarks.plan --help`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from rich.console import Console

from benchmarks.commandline import Parser, add_methods, add_settings, known_names, run_program, settings_of
from benchmarks.planning.gpus import GPUS
from benchmarks.settings import RunSettings, SettingsError


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.plan", description=__doc__, epilog=known_names())
    add = parser.add_argument
    add_methods(parser)
    add_settings(parser)
    add("--gpu", choices=tuple(GPUS), default="h100", help="kind of GPU (%(default)s)")
    add("--gpus", type=int, default=1, metavar="N", help="GPUs that share each method and seed (%(default)s)")
    add(
        "--utilisation",
        type=float,
        default=0.4,
        metavar="X",
        help="share of the GPU's peak speed that the models reach (%(default)s)",
    )
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(typed: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for an error that the user can fix."""
    return run_program(arguments, typed, _run, "nothing was written")


def _run(given: argparse.Namespace, command: str) -> int:
    from benchmarks.planning.advice import advise
    from benchmarks.planning.report import as_json, show

    if not 0 < given.utilisation <= 1:
        raise SettingsError(f"--utilisation is {given.utilisation:g}; give a number above 0, at most 1")
    if given.gpus < 1:
        raise SettingsError(f"--gpus is {given.gpus}; give at least 1")
    _quieten()
    planning = _Planning(given.gpu, given.gpus, given.utilisation)
    plan = planning(settings_of(given, command))
    plan.require_budget()
    advice = advise(plan, planning)
    if given.json:
        sys.stdout.write(json.dumps(as_json(plan, advice), indent=2) + "\n")
    else:
        show(plan, advice, Console(width=None if sys.stdout.isatty() else 120))
    return 0


class _Planning:
    """Plans one run with several settings; what does not change is measured once."""

    def __init__(self, gpu: str, gpus: int, utilisation: float) -> None:
        self._on = GPUS[gpu], gpus, utilisation
        self._costs: dict[str, Any] = {}

    def __call__(self, settings: RunSettings) -> Any:
        """The plan of a run."""
        from benchmarks.planning.estimate import plan_run
        from benchmarks.planning.measuring import Measurements, measured_alike
        from benchmarks.planning.models import configs_of

        key = measured_alike(settings)
        if key not in self._costs:
            self._costs[key] = Measurements(configs_of(settings.model), settings)
        return plan_run(settings, self._costs[key], *self._on)


def _quieten() -> None:
    """Without the libraries' remarks on casting, and on image libraries that no video model here needs."""
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
