"""Checkpoints: trained weights, optimiser and position, replaced as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from methods.refreshing import Refresher
from methods.weights import TrainedWeights


class CheckpointError(ValueError):
    """A checkpoint does not belong to this run."""


class Checkpointed(Protocol):
    """The parts of a learner that are saved: `methods.update.Learner`, `methods.best_of_n.FineTuner`."""

    weights: TrainedWeights
    optimiser: torch.optim.Optimizer


def save(
    folder: Path,
    learner: Checkpointed,
    identity: dict[str, Any],
    iteration: int,
    refresher: Refresher | None = None,
) -> None:
    """Writes a checkpoint beside the last one, then replaces it.

    All randomness is derived from the seed and the iteration (`methods.seeding`), so weights, optimiser and
    iteration are the whole state of a run.

    Args:
        folder: the checkpoint's folder.
        learner: the object being trained.
        identity: the run's (method, seed); checked on loading.
        iteration: iterations done.
        refresher: the process reward trained alongside the policy, if any.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(learner.weights.state_dict(), temporary / "weights.safetensors")
    save_file(learner.weights.copies_state_dict(), temporary / "copies.safetensors")
    torch.save(learner.optimiser.state_dict(), temporary / "optimiser.pt")
    if refresher is not None:
        save_file(refresher.model.state_dict(), temporary / "process_reward.safetensors")
        torch.save(refresher.optimiser.state_dict(), temporary / "process_optimiser.pt")
    (temporary / "state.json").write_text(json.dumps({**identity, "iteration": iteration}) + "\n")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(
    folder: Path, learner: Checkpointed, identity: dict[str, Any], refresher: Refresher | None = None
) -> int:
    """Restores a checkpoint.

    Returns:
        Iterations done; 0 if there is no checkpoint.

    Raises:
        CheckpointError: it belongs to another method or seed, does not fit, or is damaged.
    """
    if not folder.exists():
        old = folder.with_name(folder.name + ".old")
        if not old.exists():
            return 0
        old.rename(folder)  # the run was killed between the two renames of `save`
    try:
        state = json.loads((folder / "state.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        copies = load_file(folder / "copies.safetensors")
        optimiser = torch.load(folder / "optimiser.pt", weights_only=True)
        if refresher is not None:
            process = load_file(folder / "process_reward.safetensors")
            process_optimiser = torch.load(folder / "process_optimiser.pt", weights_only=True)
    except Exception as error:  # damaged bytes can make the readers raise anything
        raise CheckpointError(
            f"checkpoint {str(folder)!r} cannot be read ({type(error).__name__}: {error}); delete it to train this "
            "run from the beginning"
        ) from error
    found = {name: state.get(name) for name in identity}
    if found != identity:
        raise CheckpointError(f"checkpoint {str(folder)!r} belongs to {found}, not to {identity}")
    try:
        learner.weights.load_state_dict(weights)
        learner.weights.load_copies_state_dict(copies)
        learner.optimiser.load_state_dict(optimiser)
        if refresher is not None:
            refresher.model.load_state_dict(process)
            refresher.optimiser.load_state_dict(process_optimiser)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r}: {error}") from error
    return int(state["iteration"])
