"""Each run's sample videos as an animation that any viewer plays, MLflow's page included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.records import Samples
from analysis.videos import animation_frames, arrange, save_animation
from benchmarks.records import BASE, run_folder


def write_animations(output: Path, runs: Sequence[tuple[str, int]]) -> list[Path]:
    """Writes `samples.gif` beside the `samples.npz` of the base model and of each run that has one.

    Returns:
        What was written.
    """
    written = []
    for method, seed in [(BASE, 0), *runs]:
        source = run_folder(output, method, seed) / "samples.npz"
        if not source.is_file():
            continue
        with np.load(source, allow_pickle=False) as archive:
            prompts = tuple(str(prompt) for prompt in archive["prompts"])
            samples = Samples(method, seed, archive["videos"], prompts)
        grid = arrange([samples])
        if grid is not None:
            written.append(save_animation(animation_frames(grid), source.with_suffix(".gif")))
    return written
