"""Sweeps of several processes: workers share a study, a killed one loses its trial only, servers work as files do."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from benchmarks import sweep
from benchmarks.settings import SettingsError
from benchmarks.sweeping import storage as store
from benchmarks.sweeping.storage import counted, history, is_gone, masked, open_storage, recover, this_process
from benchmarks.testbed.scenes import prompt_split
from tests.benchmarks.harness import NoTracker, _plain
from tests.world import world_flags


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def ended() -> dict[str, Any]:
    """A process that has ended: its marks as they were while it ran."""
    with subprocess.Popen(["sleep", "60"]) as process:
        marks = {**this_process(), "pid": process.pid, "started": store._started(process.pid)}
        assert not is_gone(marks)
        process.kill()
    return marks


def test_a_process_is_gone_only_if_that_can_be_seen_from_here(ended: dict[str, Any]) -> None:
    assert not is_gone(this_process())
    assert is_gone(ended)
    assert is_gone({**this_process(), "started": "0"})  # its number belongs to another process now
    assert is_gone({**this_process(), "boot": "another"})
    assert not is_gone({**ended, "host": "another"})
    assert not is_gone({**ended, "space": "pid:[1]"})  # a container's numbers mean nothing here


def running(study: optuna.Study, process: dict[str, Any]) -> optuna.Trial:
    """A trial that a process has begun."""
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("process", {**process, "trial": trial.number})
    return trial


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("url", ["sqlite:///{}/s.db", "journal://{}/sub/journal", "{}/s.log"])
def test_a_lost_trial_begins_again_with_its_values(tmp_path: Path, ended: dict[str, Any], url: str) -> None:
    """Once, whoever looks; those of living processes and of other machines are left alone."""
    study = optuna.create_study(storage=open_storage(url.format(tmp_path)), study_name="s")
    lost = running(study, ended)
    kept = [running(study, this_process()), running(study, {**ended, "host": "another"})]
    assert recover(study) == [lost.number]
    assert recover(study) == []
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING, TrialState.WAITING]
    assert sum(map(counted, study.trials)) == 3
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == lost.params["x"]
    assert history(study.trials[again.number]) == [lost.number]
    assert recover(study) == []  # it has the marks of the dead process, and is not its
    assert recover(study, everything=True) == [kept[0].number, kept[1].number, again.number]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_that_is_killed_again_and_again_is_given_up(tmp_path: Path, ended: dict[str, Any]) -> None:
    """It keeps its place, so that a sweep that always dies there comes to an end."""
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db"), study_name="s")
    running(study, ended)
    for attempt in range(store.RETRIES):
        assert recover(study) == [attempt]
        running(study, ended)
    assert recover(study) == []
    assert len(study.trials) == 1 + store.RETRIES
    assert [counted(trial) for trial in study.trials] == [False] * store.RETRIES + [True]


def test_urls() -> None:
    for url in ("sweep", "sweep.yaml", "sqlite://", "nonsense://x/y"):
        with pytest.raises(SettingsError, match="--storage "):
            open_storage(url)
    assert masked("at postgresql://me:secret@host/x and mysql://a:b@c") == (
        "at postgresql://me:***@host/x and mysql://a:***@c"
    )
    assert masked("sqlite:///a@b:c.db") == "sqlite:///a@b:c.db"


def config(world: Path, folder: Path, **changes: Any) -> Path:
    train, held_out = prompt_split()
    values = {
        **world_flags(world),
        "method_settings": {"all": {"group_size": 2}},
        "prompts": {"train": train[:9], "held_out": held_out[:2]},
        **changes,
    }
    del values["seeds"]
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(_plain(values)))
    return path


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MLflow and figures."""
    monkeypatch.setattr("benchmarks.sweeping.tracking.SweepTracker", NoTracker)
    monkeypatch.setattr("benchmarks.sweeping.plots.write_figures", lambda *_: [])


@pytest.mark.nightly
def test_a_killed_worker_loses_its_trial_only(
    world: Path, tmp_path: Path, plain: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers on one study; one is killed in the middle of a trial, which another one takes up."""
    changes = {"budget": 30, "checkpoint_every": 2, "evaluation": {"every": 15, "num_steps": 2}}
    given = ["--methods", "dance_grpo", "--params", "noise", "--trials", "3", "--workers", "2"]
    where = ["--storage", f"sqlite:///{tmp_path}/s.db", "--study", "s", "--output", str(tmp_path / "out")]
    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(_kill_worker_of, tmp_path, "0000-dance_grpo", rows=5)
        code = sweep.main(["--config", str(config(world, tmp_path, **changes)), *given, *where])
    pid, other, done = killed.result()
    assert pid != other
    out, err = capsys.readouterr()
    assert code == 0, err
    assert f"trial 0: stopped (worker {pid} ended by signal 9; it restarts)" in out
    study = optuna.load_study(study_name="s/dance_grpo", storage=f"sqlite:///{tmp_path}/s.db")
    states = [trial.state.name for trial in study.trials]
    assert sorted(states) == ["COMPLETE"] * 3 + ["FAIL"]
    assert states[0] == "FAIL"
    (again,) = [trial for trial in study.trials if history(trial) == [0]]
    assert again.params == study.trials[0].params
    assert again.user_attrs["iterations"] == 30
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert pid not in {trial.user_attrs["process"]["pid"] for trial in complete}
    ledger = pd.read_csv(tmp_path / "out" / "trials" / "0000-dance_grpo" / RUN / "ledger.csv")
    assert not ledger.duplicated(["iteration", "component", "quantity"]).any()
    assert 0 < done < 30


#: Where the one run of a trial here lies.
RUN = "runs/dance_grpo-seed100"


def _kill_worker_of(folder: Path, trial: str, rows: int) -> tuple[int, int, int]:
    """Kills the process that works on a trial, once it has trained for a while and another has begun beside it.

    Returns:
        The killed process, the other trial's, and the killed one's iterations.
    """
    path, url = folder / "out" / "trials" / trial / RUN / "iterations.csv", f"sqlite:///{folder}/s.db"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        done = path.read_text().count(",loss,") if path.is_file() else 0
        if done >= rows and path.parents[3].joinpath("0001-dance_grpo", "trial.json").is_file():
            trials = optuna.load_study(study_name="s/dance_grpo", storage=url).trials
            pid, other = (int(entry.user_attrs["process"]["pid"]) for entry in trials[:2])
            os.kill(pid, signal.SIGKILL)
            return pid, other, done
        time.sleep(0.02)
    raise AssertionError(f"no trial has begun in {path}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of its own; its URL."""
    pytest.importorskip(
        "psycopg", reason="psycopg is not installed: pip install 'video-alignment-bench[postgres]'"
    )
    places = [Path("/usr/local/bin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which("initdb", path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))
    if found is None:
        pytest.skip("no PostgreSQL server is installed (initdb is missing)")
    folder = tmp_path_factory.mktemp("postgres")
    # It refuses to run as root.
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    if user:
        for part in (folder, *folder.parents[:2]):
            part.chmod(0o777)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, **user}
    initialise = [found, "-D", str(folder / "data"), "-A", "trust", "-U", "tester", "--no-sync"]
    if subprocess.run(initialise, **quiet).returncode:
        pytest.skip("PostgreSQL's initdb does not run here")
    options = ["-D", str(folder / "data"), "-k", str(folder), "-h", "", "-F"]
    process = subprocess.Popen([str(Path(found).with_name("postgres")), *options], **quiet)
    try:
        deadline = time.monotonic() + 30
        while not (folder / ".s.PGSQL.5432").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_of_a_machine_that_is_gone_begins_again_on_another(
    server: str, ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot be seen from here: what tells is that it gives no sign of life."""
    monkeypatch.setattr(store, "HEARTBEAT", 1)
    monkeypatch.setattr(store, "GRACE", 2)
    storage = open_storage(server)
    study = optuna.create_study(storage=storage, study_name="remote")
    lost = running(study, {**ended, "host": "another"})
    assert isinstance(storage, optuna.storages.RDBStorage)
    storage.record_heartbeat(lost._trial_id)
    assert recover(study) == []
    time.sleep(3)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    states = [(trial.state, trial.params["x"]) for trial in study.trials]
    assert states == [(TrialState.FAIL, lost.params["x"]), (TrialState.COMPLETE, lost.params["x"])]


def test_a_sweep_on_a_server(server: str, world: Path, tmp_path: Path, plain: None) -> None:
    """Two command lines one after the other, with folders of their own, as two machines have them."""
    given = [
        "--config",
        str(config(world, tmp_path, budget=1)),
        "--methods",
        "dance_grpo",
        "--params",
        "noise",
    ]
    for machine, trials in (("one", 1), ("two", 2)):
        where = [
            "--storage",
            server,
            "--study",
            "shared",
            "--output",
            str(tmp_path / machine),
            "--workers",
            "1",
        ]
        assert sweep.main([*given, *where, "--trials", str(trials)]) == 0
    table = pd.read_csv(tmp_path / "two" / "trials.csv")
    assert table["state"].tolist() == ["complete", "complete"]
    assert [Path(folder).parts[-3] for folder in table["folder"]] == ["one", "two"]
    assert (tmp_path / "two" / "tuned.yaml").is_file()


def test_two_machines_at_once_share_a_study(world: Path, tmp_path: Path, plain: None) -> None:
    """Two command lines with the same --study and --storage, and folders of their own."""
    given = [
        "--config",
        str(config(world, tmp_path, budget=1)),
        "--methods",
        "dance_grpo",
        "--params",
        "noise",
    ]
    given += [
        "--storage",
        str(tmp_path / "shared.log"),
        "--study",
        "shared",
        "--trials",
        "4",
        "--workers",
        "1",
    ]
    context = multiprocessing.get_context("fork")  # with what is imported and patched here
    machines = [
        context.Process(target=_sweep_of_a_machine, args=([*given, "--output", str(tmp_path / name)],))
        for name in ("one", "two")
    ]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(120)
    assert [machine.exitcode for machine in machines] == [0, 0]
    study = optuna.load_study(
        study_name="shared/dance_grpo", storage=open_storage(str(tmp_path / "shared.log"))
    )
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len(study.trials) in (4, 5)  # both may begin the last one at the same instant
    where = [
        len(list((tmp_path / name / "trials").glob("*/runs/dance_grpo-seed*"))) for name in ("one", "two")
    ]
    assert sum(where) == len(study.trials)
    assert min(where) > 0


def _sweep_of_a_machine(arguments: list[str]) -> None:
    raise SystemExit(sweep.main(arguments))
