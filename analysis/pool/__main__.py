"""`python -m analysis.pool RUN RUN ...`: one estimate from benchmarks that cannot be joined."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import style, text
from analysis.commandline import output_folder
from analysis.convergence import check_baseline
from analysis.plots.forest import forest_figure
from analysis.pool import pool
from analysis.records import RecordError, load_run
from analysis.tables.pool import pool_frame, pool_table
from analysis.tables.text_table import to_text, write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Pool runs; exit code 2 and one line where that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pool",
        description="One random-effects estimate of a method against a baseline, from several benchmarks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder given to benchmarks.run as --output"
    )
    parser.add_argument("--method", required=True, metavar="METHOD", help="the method whose effect is pooled")
    parser.add_argument(
        "--baseline", metavar="METHOD", help="what it is compared with (each run's own baseline)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where table and figure go")
    options = parser.parse_args(arguments)
    try:
        output = output_folder([*options.runs, *options.runs], options.output)
        runs = [load_run(path) for path in options.runs]
        found = pool(runs, options.method, options.baseline)
    except RecordError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    baseline = options.baseline or text.listed(
        list(dict.fromkeys(check_baseline(run, None) for run in runs)), "or"
    )
    tables = [pool_table(entry, options.method, baseline) for entry in found]
    write_table(output / "tables", "pooled", pool_frame(found), tables)
    style.save(forest_figure(found, options.method, baseline), output / "figures", "pooled")
    sys.stdout.write("\n".join(map(to_text, tables)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
