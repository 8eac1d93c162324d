"""Nothing leaves the machine: a whole run, MLflow and report included, looks up and calls nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.world import world_flags

ROOT = Path(__file__).parents[2]

#: Runs a benchmark and prints every host that was looked up or called, in this process and all its threads.
WATCHED = """
import json, sys
asked = set()

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        asked.add(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.add(str(arguments[1][0]))

sys.addaudithook(watch)
from benchmarks.run import main
code = main(sys.argv[1:])
print("ASKED " + json.dumps(sorted(asked)))
sys.exit(code)
"""


def test_a_run_asks_nobody(world: Path, tmp_path: Path) -> None:
    flags = {**world_flags(world), "methods": ["dance_grpo"], "budget": 1}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    small = ["--workers", "1", "--set", "all.group_size=2", "--output", str(tmp_path / "out")]
    unset = {"MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "--config", str(tmp_path / "config.yaml"), *small],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    asked = json.loads(done.stdout.rsplit("ASKED ", 1)[1])
    assert [host for host in asked if host not in ("127.0.0.1", "localhost", "::1")] == []
