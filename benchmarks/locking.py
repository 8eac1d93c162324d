"""One process at a time for a folder: a killed benchmark may leave a worker behind that still trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.settings import SettingsError

if sys.platform != "win32":
    import fcntl

FILE = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other process gets in for the same folder. However a process ends, the system lets the next one in.

    Raises:
        SettingsError: another one is in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SettingsError(
                    f"another process is at work in {str(folder)!r}; end it, or wait until it has ended"
                ) from None
        yield
