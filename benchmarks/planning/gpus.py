"""GPUs that a plan can be made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

#: Left to CUDA's own context, to workspaces and to fragmentation: bytes, and a share of the memory.
_CONTEXT, _FRAGMENTS = 1.0e9, 0.03


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory and speed, as its data sheet has them.

    Attributes:
        title: its name in full.
        memory: bytes that the driver reports.
        bf16, fp32: dense operations per second, in 10^12; float32 without TF32.
    """

    title: str
    memory: float
    bf16: float
    fp32: float

    @property
    def usable(self) -> float:
        """Bytes for tensors."""
        return self.memory * (1 - _FRAGMENTS) - _CONTEXT

    def seconds(self, operations: Mapping[torch.dtype, float], utilisation: float) -> float:
        """The time of some operations at a share of the peak speed."""
        speed = {torch.float32: self.fp32, torch.float64: self.fp32 / 2}
        return sum(n / (1e12 * speed.get(dtype, self.bf16) * utilisation) for dtype, n in operations.items())


GPUS: dict[str, Gpu] = {
    "h200": Gpu("NVIDIA H200 SXM", 150.1e9, 989, 67),
    "h100": Gpu("NVIDIA H100 SXM", 85.0e9, 989, 67),
    "a100-80g": Gpu("NVIDIA A100 80 GB", 85.0e9, 312, 19.5),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 25.3e9, 165, 82.6),
}
