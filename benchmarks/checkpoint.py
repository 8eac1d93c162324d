"""Checkpoints: trained weights, optimiser and position, with a digest of every file; the last two are kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.refreshing import Refresher
from methods.weights import TrainedWeights

logger = logging.getLogger(__name__)

STATE = "state.json"
WEIGHTS, COPIES, OPTIMISER = "weights.safetensors", "copies.safetensors", "optimiser.safetensors"
PROCESS, PROCESS_OPTIMISER = "process_reward.safetensors", "process_optimiser.safetensors"


class CheckpointError(ValueError):
    """A checkpoint does not belong to this run, or none can be read."""


class _Damaged(ValueError):
    """A checkpoint's files are not those that were written; names the file."""


class Checkpointed(Protocol):
    """The parts of a learner that are saved: `methods.update.Learner`, `methods.best_of_n.FineTuner`."""

    weights: TrainedWeights
    optimiser: torch.optim.Optimizer


def save(
    folder: Path,
    learner: Checkpointed,
    identity: Mapping[str, Any],
    iteration: int,
    refresher: Refresher | None = None,
) -> None:
    """Writes a checkpoint beside the last one, then takes its place; the last one is kept until the next.

    All randomness is derived from the seed and the iteration (`methods.seeding`), so weights, optimiser and
    iteration are the whole state of a run. Everything is on the disk before the older checkpoint moves.

    Args:
        folder: the checkpoint's folder.
        learner: the object being trained.
        identity: the run's (method, seed); checked on loading.
        iteration: iterations done.
        refresher: the process reward trained alongside the policy, if any.
    """
    temporary, previous = _beside(folder, "tmp"), _beside(folder, "previous")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(learner.weights.state_dict(), temporary / WEIGHTS)
    save_file(learner.weights.copies_state_dict(), temporary / COPIES)
    save_optimiser(learner.optimiser, temporary / OPTIMISER)
    if refresher is not None:
        save_file(refresher.model.state_dict(), temporary / PROCESS)
        save_optimiser(refresher.optimiser, temporary / PROCESS_OPTIMISER)
    digests = {file.name: _digest(file) for file in sorted(temporary.iterdir())}
    state = {**identity, "iteration": iteration, "sha256": digests}
    (temporary / STATE).write_text(json.dumps(state, indent=1) + "\n")
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    temporary.rename(folder)
    _sync(folder.parent)


def load(
    folder: Path, learner: Checkpointed, identity: Mapping[str, Any], refresher: Refresher | None = None
) -> int:
    """Restores the last checkpoint, or the one before it where the last one is damaged.

    Returns:
        Iterations done; 0 if there is no checkpoint.

    Raises:
        CheckpointError: it belongs to another method or seed, does not fit, or neither can be read.
    """
    problems = []
    for candidate in (folder, _beside(folder, "previous")):
        if not candidate.exists():
            continue  # the run was killed between the two renames of `save`, or has made one checkpoint
        try:
            state = _checked(candidate)
        except _Damaged as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning(
                "%s; going on from the checkpoint before it (iteration %d)", problems[0], state["iteration"]
            )
            shutil.rmtree(_beside(folder, "damaged"), ignore_errors=True)
            folder.rename(_beside(folder, "damaged"))
        _restore(candidate, state, learner, identity, refresher)
        return int(state["iteration"])
    if problems:
        raise CheckpointError(
            f"{'; '.join(problems)}; delete {str(folder)!r} and what stands beside it to train this run from the "
            "beginning"
        )
    return 0


def _checked(folder: Path) -> dict[str, Any]:
    """A checkpoint's state, once every file is known to be as it was written."""
    try:
        state = json.loads((folder / STATE).read_text())
        digests = state["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(
            f"checkpoint {str(folder)!r}: {STATE} cannot be read ({type(error).__name__}: {error})"
        ) from error
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or _digest(file) != digest:
            raise _Damaged(
                f"checkpoint {str(folder)!r}: {name} is {'damaged' if file.is_file() else 'missing'}"
            )
    return state


def _restore(
    folder: Path,
    state: Mapping[str, Any],
    learner: Checkpointed,
    identity: Mapping[str, Any],
    refresher: Refresher | None,
) -> None:
    found = {name: state.get(name) for name in identity}
    if found != identity:
        raise CheckpointError(f"checkpoint {str(folder)!r} belongs to {found}, not to {identity}")
    try:
        learner.weights.load_state_dict(load_file(folder / WEIGHTS))
        learner.weights.load_copies_state_dict(load_file(folder / COPIES))
        learner.optimiser.load_state_dict(optimiser_state(folder / OPTIMISER))
        if refresher is not None:
            refresher.model.load_state_dict(load_file(folder / PROCESS))
            refresher.optimiser.load_state_dict(optimiser_state(folder / PROCESS_OPTIMISER))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r}: {error}") from error


def save_optimiser(optimiser: torch.optim.Optimizer, file: Path) -> None:
    """Writes an optimiser's state as safetensors: tensors by parameter and name, all else as JSON."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers.setdefault(str(parameter), {})[name] = value
    save_file(tensors, file, {"groups": json.dumps(state["param_groups"]), "numbers": json.dumps(numbers)})


def optimiser_state(file: Path) -> dict[str, Any]:
    """What `save_optimiser` wrote, for `load_state_dict`."""
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata()
    state: dict[int, dict[str, Any]] = {
        int(parameter): dict(entries) for parameter, entries in json.loads(metadata["numbers"]).items()
    }
    for key, tensor in load_file(file).items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = tensor
    return {"state": state, "param_groups": json.loads(metadata["groups"])}


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
