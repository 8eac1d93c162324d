"""`python -m analysis.process_cost RUN [RUN ...]`: what a process reward costs, and when it pays for itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.combine import load_runs
from analysis.commandline import command
from analysis.convergence import check_baseline
from analysis.plots.process_cost import write_process_cost
from analysis.process_cost import process_costs
from analysis.tables.process_cost import process_cost_tables
from analysis.tables.text_table import to_text, write_table


def _report(options: argparse.Namespace, output: Path) -> str:
    run = load_runs(options.runs)
    prices, name = process_costs(run, options.baseline), check_baseline(run, options.baseline)
    frame, tables = process_cost_tables(prices, name, run)
    write_process_cost(prices, name, run, output / "figures")
    return "\n".join(map(to_text, write_table(output / "tables", "process_cost", frame, tables)))


main = command(
    "analysis.process_cost",
    "What the process reward costs, and after how many runs it has paid for itself.",
    _report,
)


if __name__ == "__main__":
    sys.exit(main())
