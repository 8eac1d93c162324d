"""How many processes and devices train, and how several processes that share a run end together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.settings import RunSettings, SettingsError

#: Exit code of a process that SIGTERM ended.
TERMINATED = 143
#: Settings of accelerate that start several processes, on GPUs or the CPU.
CONFIG = Path(__file__).parent / "launch" / "ddp.yaml"


class ProcessLost(Exception):
    """Another process of this run has ended, so this one cannot go on."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: a scheduler or a container ends this program, which leaves as after Ctrl-C."""


def process_count() -> int:
    """Number of processes that share each run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether `accelerate launch` started several processes."""
    return process_count() > 1


def is_main_process() -> bool:
    """Whether this is the process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_here() -> bool:
    """Whether this is the process of its machine that says what all of them would say."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def check_launch(settings: RunSettings) -> None:
    """Checks that the processes that were asked for are there, and that their settings are the run's.

    Raises:
        SettingsError: there are fewer, or accelerate has another precision or a kind of parallelism that the run does
            not support.
    """
    if launched() and "RANK" not in os.environ:
        raise SettingsError(
            f"WORLD_SIZE is {process_count()} and RANK is not set: start the processes with `accelerate launch`, or "
            "unset WORLD_SIZE"
        )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if by_accelerate and "WORLD_SIZE" not in os.environ and "MASTER_PORT" in os.environ:
        raise SettingsError(
            "accelerate launch was asked for several processes and has started 1, as it does with --cpu; give it "
            f"`--config_file {CONFIG} --num_processes N` in place of --cpu, which also starts them on the CPU"
        )
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(variable, "false").lower() == "true":
            raise SettingsError(
                f"accelerate is set to {name}, which this version does not support: evaluation and checkpoints need "
                f"whole weights in the main process; use `--config_file {CONFIG}` (each GPU holds the whole network), "
                "with weights.kind lora, execution.dtype bfloat16 and execution.gradient_checkpointing to save memory"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", settings.precision):
        raise SettingsError(
            f"accelerate's mixed_precision is {precision!r}, and the run's precision is {settings.precision!r}: give "
            f"--precision {precision}, or change accelerate's"
        )


def check_count() -> None:
    """Checks, once they are connected, that accelerate has as many processes as the environment says.

    Raises:
        SettingsError: it has another number.
    """
    from accelerate import PartialState

    found = PartialState().num_processes
    if found != process_count():
        raise SettingsError(
            f"WORLD_SIZE is {process_count()}, and accelerate has {found} process(es); start them with `accelerate "
            f"launch --config_file {CONFIG} --num_processes {process_count()}`"
        )


def devices() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; empty without any."""
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def seeing(device: str | None) -> Iterator[None]:
    """Processes started in this context see this GPU alone; all of them with None."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif device is not None:
            del os.environ["CUDA_VISIBLE_DEVICES"]


def shape(workers: int) -> str:
    """What trains: "1 process, 2 workers, cpu", "8 processes, 8 GPUs (NVIDIA H200)".

    Args:
        workers: runs that train side by side.
    """
    import torch

    count = process_count()
    parts = [f"{count} processes" if count > 1 else "1 process"]
    if count == 1:
        parts.append(f"{workers} workers" if workers > 1 else "1 worker")
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        # A lone run has the first GPU; processes and workers have one each while there are enough.
        used = min(max(local if count > 1 else workers, 1), torch.cuda.device_count())
        gpus = f"{used} GPUs" if used > 1 else "1 GPU"
        parts.append(f"{gpus} ({torch.cuda.get_device_name(0)})" + (" on each machine" * (local < count)))
    else:
        parts.append("cpu")
    return ", ".join(parts)


@contextmanager
def ending(output: Path, again: str) -> Iterator[None]:
    """In this context SIGTERM ends the program as Ctrl-C does, and several processes end together.

    Launchers end all processes of a run when one has ended, by SIGTERM. The main thread may be waiting for a
    collective that never completes, where no Python handler runs: a thread of its own then leaves.

    Args:
        output: the benchmark's folder.
        again: how to go on, for the last line.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if launched():
        here, there = socket.socketpair()
        there.setblocking(False)
        signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_leave_when_told, args=(here, output, again), daemon=True).start()
    before = signal.signal(signal.SIGTERM, _nothing if launched() else _terminate)
    try:
        yield
    except ProcessLost:
        _leave(output, again, 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated


def _nothing(*_: object) -> None:
    """The thread leaves."""


def _leave_when_told(told: socket.socket, output: Path, again: str) -> None:
    while told.recv(1) != bytes([signal.SIGTERM]):
        pass
    _leave(output, again, TERMINATED)


def _leave(output: Path, again: str, code: int) -> None:
    """Ends this process at once; the first one on this machine says how to go on."""
    if _first(output):
        sys.stderr.write(f"error: a process of this run was ended, and the others with it; {again}\n")
        sys.stderr.flush()
    os._exit(code)


def _first(output: Path) -> bool:
    """Whether no other process of this launcher was here before."""
    try:
        (output / f".ended-{os.getppid()}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # the folder is not there yet
    return True


def forget_endings(output: Path) -> None:
    """Removes what earlier processes left in `_leave`."""
    for path in output.glob(".ended-*"):
        path.unlink(missing_ok=True)


def lost(error: BaseException) -> bool:
    """Whether an error of a collective says that another process has gone."""
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        part in words
        for part in ("connection closed by peer", "connection reset", "broken pipe", "remote process", "gloo")
    )


def again_in_words(command: str) -> str:
    """The command line that goes on with as many processes.

    Args:
        command: the one that goes on with one, `python -m ...`.
    """
    if not launched():
        return command
    return command.replace(
        "python -m", f"accelerate launch --config_file {CONFIG} --num_processes {process_count()} -m", 1
    )
