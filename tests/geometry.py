"""The size of the tiny world's videos."""

from samplers.condition import Geometry

GEOMETRY = Geometry(5, 16, 16)
