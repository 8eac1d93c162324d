"""Why a worker died or ran out of memory, and which setting helps."""

from __future__ import annotations

import signal
import traceback

#: Part of the code -> the setting that makes it smaller, innermost first. Results do not depend on these.
_SETTINGS = {
    "decode": "execution.decode_batch",
    "evaluate": "evaluation.batch",
    "collect": "rollout_batch",
    "update": "micro_batch",
    "gradient_shares": "micro_batch",
}


def cause_of_death(code: int | None) -> str:
    """The likely cause of a process's end.

    Args:
        code: its exit code, negative for a signal.
    """
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = _name(-code)
    if -code == signal.SIGKILL:
        return (
            f"was killed ({name}), most likely for want of memory: give fewer --workers, or halve micro_batch and "
            "rollout_batch in settings.yaml"
        )
    if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return f"was ended from outside ({name})"
    return f"crashed in native code ({name})"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def memory_advice(error: BaseException) -> str:
    """What to do about an error that says that there is no memory left; empty for others."""
    text = str(error).lower()
    if type(error).__name__ != "OutOfMemoryError" and not (
        isinstance(error, MemoryError) or "can't allocate memory" in text
    ):
        return ""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    for part, setting in _SETTINGS.items():
        if part in names:
            return f"out of memory in {part}: halve {setting} in settings.yaml"
    return "out of memory: halve micro_batch and rollout_batch in settings.yaml"
