"""Precision of the arithmetic: a step is computed in at least float32, whatever dtype states are stored in."""

import torch


def step_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The smallest dtype that holds all of ``dtypes`` and float32."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in at least float32."""
    return tensor.to(step_dtype(tensor.dtype))
