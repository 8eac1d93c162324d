"""Precision of the arithmetic: the dtype of a step is float32 at least, whatever states are stored in."""

import torch


def step_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The smallest dtype that holds all of ``dtypes`` and float32."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 at least."""
    return tensor.to(step_dtype(tensor.dtype))
