"""The studies of a sweep in their shared storage, and trials whose process is gone."""

from __future__ import annotations

import copy
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.settings import SettingsError
from benchmarks.sweeping.plan import Plan, differing_settings

#: Seconds between heartbeats of a trial, and without one until it counts as lost (databases only).
HEARTBEAT, GRACE = 30, 180
#: How often a trial whose process was killed is restarted.
RETRIES = 3
#: Attributes recorded for a trial besides Optuna's own.
SETTINGS, PROCESS, ERROR = "settings", "process", "error"


def open_storage(url: str) -> BaseStorage:
    """The storage at a URL: sqlite:///FILE, FILE.log or journal://FILE, postgresql://..., mysql://...

    Raises:
        SettingsError: it is not such a URL, or cannot be opened.
    """
    try:
        return _journal(url) if _is_journal(url) else _database(url)
    except (SQLAlchemyError, ImportError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        text = masked(" ".join(str(error).split()))[:300]
        if isinstance(error, ImportError):
            text += " (for PostgreSQL: pip install '.[postgres]')"
        raise SettingsError(
            f"--storage {masked(url)!r} cannot be opened: {type(error).__name__}: {text}"
        ) from error


def masked(text: str) -> str:
    """A text without the passwords of its URLs."""
    return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:***@", text)


def _is_journal(url: str) -> bool:
    return url.startswith("journal://") or ("://" not in url and url.endswith(".log"))


def _journal(url: str) -> BaseStorage:
    path = Path(url.removeprefix("journal://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _database(url: str) -> BaseStorage:
    scheme, _, rest = url.partition("://")
    if not rest:
        raise SettingsError(
            f"--storage is {masked(url)!r}; give sqlite:///FILE.db, FILE.log for a journal, or a server's URL such as "
            "postgresql://user:password@host/database"
        )
    options: dict[str, Any] = {"pool_pre_ping": True}
    if scheme == "sqlite":
        Path(rest.removeprefix("/")).parent.mkdir(parents=True, exist_ok=True)
        options = {
            "connect_args": {"timeout": 60}
        }  # seconds that a worker waits for another to finish writing
    if scheme == "postgresql":
        url = f"postgresql+psycopg://{rest}"
    return RDBStorage(
        url,
        engine_kwargs=options,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
    )


def study_name(plan: Plan, method: str) -> str:
    """The name of one method's study."""
    return f"{plan.study}/{method}"


def open_study(plan: Plan, storage: BaseStorage, method: str) -> Study:
    """Opens one method's study, or creates it with the method's own values as first trial.

    Raises:
        SettingsError: the storage holds a study of that name with other settings.
    """
    name, described = study_name(plan, method), plan.described(method)
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=plan.directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        _check(study, described)
        return study
    study.set_user_attr(SETTINGS, described)
    current = plan.current(method)
    if current is not None and plan.search != "grid":
        study.enqueue_trial(current)
    return study


def _check(study: Study, described: dict[str, Any]) -> None:
    """Checks that an existing study was made with the same settings."""
    for _ in range(50):  # the process that created it may not have written them yet
        found = study.user_attrs.get(SETTINGS)
        if found is not None:
            break
        time.sleep(0.1)
    else:
        raise SettingsError(
            f"study {study.study_name!r} was not made by a sweep; choose another --study or --storage"
        )
    names = differing_settings(found, described)
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise SettingsError(
            f"the storage holds a study {study.study_name!r} with other settings: {shown}; repeat its settings to "
            "continue it, or choose another --study"
        )


def mark(trial: Trial) -> None:
    """Records which process runs a trial."""
    trial.set_user_attr(PROCESS, {**this_process(), "trial": trial.number})


def this_process() -> dict[str, Any]:
    """An identifier of this process."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "space": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def is_gone(process: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; False if it cannot be seen from here."""
    here = this_process()
    if process["host"] != here["host"]:
        return False
    if process["boot"] != here["boot"]:
        return True  # before the last boot
    if process["space"] != here["space"]:
        return False  # another container
    return bool(_started(process["pid"]) != process["started"])


def _started(pid: int) -> str:
    """Start time of a process in the system's own units; empty if it has ended."""
    if not Path("/proc/self/stat").is_file():
        return _exists(pid)
    status = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if not status or status[0] == "Z" else status[19]


def _exists(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "running"
    return "running"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def counted(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the sweep's total: lost ones do only if they are not restarted."""
    if trial.state != TrialState.FAIL:
        return True
    return ERROR in trial.user_attrs or len(history(trial)) >= RETRIES


def history(trial: FrozenTrial) -> list[int]:
    """Numbers of the lost trials that this one repeats, oldest first."""
    return list(trial.system_attrs.get("retry_history", []))


def recover(study: Study, everything: bool = False) -> list[int]:
    """Restarts lost trials, whose process was killed or interrupted.

    Args:
        study: one method's.
        everything: whether to treat every running trial as lost, for a journal whose other machines are gone.

    Returns:
        Numbers of the trials waiting to be restarted.
    """
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING and (everything or _lost(trial)):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    repeated = {number for trial in trials for number in history(trial)}
    again = []
    for trial in trials:
        if trial.state == TrialState.FAIL and not counted(trial) and trial.number not in repeated:
            # A copy, for it writes into the trial that it is given.
            RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, copy.deepcopy(trial))
            again.append(trial.number)
    return again


def _lost(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(PROCESS)
    # A trial that repeats another one has its marks, until it is under way itself.
    return process is not None and process["trial"] == trial.number and is_gone(process)
