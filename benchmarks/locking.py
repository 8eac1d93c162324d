"""One process at a time for a folder. However a process ends, the system lets the next one in.

A killed benchmark may leave a worker behind that still trains; and the workers of a sweep take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.settings import SettingsError

if sys.platform != "win32":
    import fcntl


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other process gets in for the same folder.

    Raises:
        SettingsError: another one is in.
    """
    with _locked(folder / ".lock", wait=False):
        yield


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Within, no other process of this folder is; waits for its turn."""
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
                raise SettingsError(
                    f"another process is at work in {str(path.parent)!r}; end it, or wait until it has ended"
                ) from None
        yield
