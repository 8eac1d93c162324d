"""Measures what a large report costs: `python -m tests.analysis.measure_report`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.analysis.synthetic import Plan, write_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a large run, reports it in a process of its own, and says how long that took and how much memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.analysis.measure_report", description=main.__doc__)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--every", type=int, default=10, help="iterations between evaluations (%(default)s)")
    parser.add_argument("--prompts", type=int, default=12, help="of each split (%(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="videos of each prompt (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, help="folder for the run, kept; nothing is written if it is there"
    )
    given = parser.parse_args(arguments)
    names = (
        "euphonium",
        "flow_grpo",
        "dance_grpo",
        *(f"euphonium_{place}" for place in range(given.methods)),
    )
    plan = Plan(
        methods=names[: given.methods],
        seeds=given.seeds,
        iterations=given.iterations,
        every=given.every,
        prompts=given.prompts,
        samples=given.samples,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if not (folder / "settings.yaml").is_file():
            write_run(folder, plan)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "analysis.report", str(folder)], check=True)
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(
        f"{given.methods} methods, {given.seeds} seeds, {given.iterations} iterations: {seconds:.1f} s, of which "
        f"{used.ru_utime + used.ru_stime:.1f} s on the processor; {used.ru_maxrss / 1e6:.2f} GB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
