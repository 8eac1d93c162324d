"""The embedded testbed: captioned procedural videos and a small Wan pipeline pretrained on them."""

from pathlib import Path

#: Folder of the shipped weights.
WEIGHTS = Path(__file__).parent / "weights"
#: Steps and timestep shift for sampling its videos.
NUM_STEPS, SHIFT = 8, 3.0
