"""A real tracking server that is stopped during a run, and started again or not: training neither dies nor waits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from torch import Tensor

from benchmarks.records import read_rows
from benchmarks.tracking import Tracker
from rewards.base import OutcomeReward
from tests.benchmarks.harness import TRAINED, Bench, replace_reward
from tests.benchmarks.test_tracking import children_in, history, parents_in

ITERATIONS = 12
#: The run is held in these iterations, until the server is stopped, and until it is back or will not be.
STOPPED, BACK = 3, 10
PATIENCE = 120.0
EVALUATION = {
    "every": 6,
    "train_prompts": 1,
    "samples_per_prompt": 2,
    "num_steps": 1,
    "diagnostic_prompts": 0,
}


def until(what: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, message
        time.sleep(0.1)


class Server:
    """`mlflow server` on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'store.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self.answers, "the server does not start")

    def answers(self) -> bool:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        return False

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "store.db")
    server = Server(folder)
    server.start()
    yield server
    server.stop()


class Gate:
    """A reward that waits, in some iterations, until the server is where the test wants it."""

    def __init__(self, sound: OutcomeReward, gates: dict[int, threading.Event]) -> None:
        self.sound, self.gates, self.calls = sound, gates, 0

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        self.calls += len(prompts) == TRAINED
        if len(prompts) == TRAINED and self.calls in self.gates:
            assert self.gates[self.calls].wait(PATIENCE)
        return self.sound(videos, prompts)


@pytest.mark.parametrize("comes_back", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_server_that_stops_during_a_run(
    tracked: Bench, server: Server, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(tracking_uri=server.uri)
    folder = tracked.folder / "out" / "runs" / "dance_grpo-seed0"
    stopped, opened = threading.Event(), threading.Event()
    gates = {STOPPED: stopped, BACK: opened}
    replace_reward(monkeypatch, "motion_quality", lambda sound: Gate(sound, gates))

    trackers: list[Tracker] = []

    def often(*arguments: Any) -> Tracker:
        trackers.append(Tracker(*arguments, every=0.2))
        return trackers[-1]

    monkeypatch.setattr("benchmarks.tracking.Tracker", often)

    def trained() -> int:
        return int(read_rows(folder, "iterations")["iteration"].max())

    def arrived() -> bool:
        with suppress(AssertionError, KeyError):  # no experiment, no child yet
            return len(history(client, children_in(client)["dance_grpo", 0], "train/loss")) > 0
        return False

    def disturb() -> None:
        until(arrived, "nothing arrives at the server")
        server.stop()
        stopped.set()
        until(lambda: trained() == BACK - 1, "training waits for the server")
        until(lambda: trackers[0]._problem != "", "the server is not missed")
        if comes_back:
            server.start()
        opened.set()

    disturbing = threading.Thread(target=disturb, daemon=True)
    disturbing.start()
    result = tracked("--methods", "dance_grpo", budget=ITERATIONS, evaluation=EVALUATION)
    disturbing.join()
    assert result.code == 0, result.err
    assert trained() == ITERATIONS
    if not comes_back:
        (line,) = result.err.splitlines()
        assert line.startswith("warning: MLflow: ")
        assert re.search("[12] of 2 runs were not fully sent", line)
        resume = f"python -m benchmarks.run --resume --output {result.folder}"
        assert line.endswith(f"are complete, and `{resume}` sends the rest")
        server.start()
        assert tracked.resume().err == ""
    else:
        assert result.err == ""
    (parent,) = parents_in(client)
    child = children_in(client)["dance_grpo", 0]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    for metric, rows in result.rows("iterations").groupby("metric"):
        expected = sorted(zip(rows["iteration"], rows["value"], strict=True))
        assert history(client, child, f"train/{metric}") == expected
