"""Checks of inputs from users and networks. Each error names the value and the remedy."""

import torch

from samplers.precision import step_dtype


class NonFiniteError(FloatingPointError):
    """A velocity, reward, gradient or state that is NaN or infinite: sampling stops and nothing is replaced."""


def check_state(x: torch.Tensor) -> None:
    """Raise unless x is a floating-point batch (B, ...) with at least one element per sample."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}: give a floating-point tensor")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: give a non-empty batch (B, ...)")


def check_like(name: str, tensor: torch.Tensor, x: torch.Tensor) -> None:
    """Raise unless ``tensor`` has the shape and device of the state x."""
    if tensor.shape != x.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, x has {tuple(x.shape)}: the shapes must be equal"
        )
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device}, x on {x.device}: move it with .to(x.device)")


def check_finite(name: str, tensor: torch.Tensor, index: int, sigma: float) -> None:
    """Raise `NonFiniteError`, naming step and samples, unless all of ``tensor`` is finite."""
    # A sum is finite only if every term is: one read of the tensor, no mask as large as the tensor.
    if bool(torch.isfinite(tensor.sum(dtype=step_dtype(tensor.dtype)))):
        return
    bad = torch.nonzero(~torch.isfinite(tensor).reshape(tensor.shape[0], -1).all(dim=1)).flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"{name} is NaN or infinite at step {index} (sigma = {sigma:.6g}) for samples {bad} of the "
            "batch: check the model's weights and precision, and the strength of guidance"
        )
