"""Folder locks: one process at a time. The system releases a lock however its process ends.

A killed benchmark may leave a worker behind that is still training; the jobs of a cluster share a benchmark's folder,
and each locks its run's; and the workers of a sweep take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.settings import SettingsError

if sys.platform != "win32":
    import fcntl


class Busy(SettingsError):
    """Another process uses the folder."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; no other process can enter.

    Raises:
        Busy: another process holds the lock.
    """
    with _locked(folder / ".lock", wait=False):
        yield


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, after waiting for it."""
    with _locked(folder / ".turn", wait=True):
        yield


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Busy(
                    f"another process is using {str(path.parent)!r}; stop it, or wait until it finishes"
                ) from None
        yield
