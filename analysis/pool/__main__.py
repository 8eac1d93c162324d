"""`python -m analysis.pool RUN RUN ...`: one estimate from benchmarks that cannot be joined."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import style, text
from analysis.commandline import command
from analysis.convergence import check_baseline
from analysis.plots.forest import forest_figure
from analysis.pool import pool
from analysis.records import load_run
from analysis.tables.pool import pool_frame, pool_table
from analysis.tables.text_table import to_text, write_table


def _report(options: argparse.Namespace, output: Path) -> str:
    runs = [load_run(path) for path in options.runs]
    found = pool(runs, options.method, options.baseline)
    baseline = text.listed(list(dict.fromkeys(check_baseline(run, options.baseline) for run in runs)), "or")
    tables = [pool_table(entry, options.method, baseline) for entry in found]
    write_table(output / "tables", "pooled", pool_frame(found), tables)
    style.save(forest_figure(found, options.method, baseline), output / "figures", "pooled")
    return "\n".join(map(to_text, tables))


main = command(
    "analysis.pool",
    "One random-effects estimate of a method against a baseline, from several benchmarks.",
    _report,
    method=True,
)


if __name__ == "__main__":
    sys.exit(main())
