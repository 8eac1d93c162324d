"""Noise from an explicit source. Nothing here touches a global generator."""

from collections.abc import Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator]


def draw_noise(
    shape: Sequence[int],
    generator: Generators,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal noise.

    Args:
        shape: (B, ...).
        generator: one generator for the whole batch, or one per sample, so that a sample's noise does not
            depend on the batch it is drawn in. A generator on the CPU gives the same noise on every device.
        device: where the noise is needed.
        dtype: dtype of the draw and of the result.
    """
    if isinstance(generator, torch.Generator):
        noise = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
        return noise.to(device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"{len(generator)} generators for a batch of {shape[0]}: give one, or one per sample"
        )
    rows = [torch.randn(tuple(shape[1:]), generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack([row.to(device) for row in rows])
