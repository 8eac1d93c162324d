"""The embedded testbed: captioned procedural videos and a small Wan pipeline pretrained on them."""

from pathlib import Path

#: Where the shipped weights lie.
WEIGHTS = Path(__file__).parent / "weights"
#: Steps and timestep shift with which its videos are sampled.
NUM_STEPS, SHIFT = 8, 3.0
