"""The `shapes` world: its vocabulary, and exact measurement of what a video shows."""

from rewards.shapes.attributes import ATTRIBUTES, Attributes, parse_caption
from rewards.shapes.measurement import Measurement, measure

__all__ = ["ATTRIBUTES", "Attributes", "Measurement", "measure", "parse_caption"]
