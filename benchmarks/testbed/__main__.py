"""`python -m benchmarks.testbed build` makes the shipped weights from scratch; `... verify` checks them."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from benchmarks.commandline import Parser
from benchmarks.testbed import WEIGHTS, manifest
from benchmarks.testbed.build import Build, measure_again
from benchmarks.testbed.recipe import Recipe


def _arguments() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make all weights (about an hour on 2 CPU cores)")
    build.add_argument(
        "--output", type=Path, default=Path("results/testbed"), help="folder for the weights (%(default)s)"
    )
    build.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    verify = commands.add_parser("verify", help="check checksums, and measure the weights again")
    verify.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to check (the shipped one)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given = _arguments().parse_args(arguments)
    try:
        if given.command == "build":
            work = given.output.with_name(given.output.name + "-work")
            figures = Build(given.output, work, Recipe(seed=given.seed)).run()
            problems: list[str] = []
        else:
            problems = manifest.file_problems(given.weights)
            figures = {} if problems else measure_again(given.weights)
            problems += manifest.figure_problems(given.weights, figures)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for name, value in figures.items():
        print(f"{name:45s} {value:.4f}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    if not problems:
        print(
            "all files match their checksums and measure as documented"
            if given.command == "verify"
            else "built"
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
