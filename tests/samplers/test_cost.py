"""What a step costs beyond the network, in passes over tensors as large as the state."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samplers import GaussianPolicy, build, draw_noise

FREE = {
    "detach",
    "select",
    "alias",
    "view",
    "_unsafe_view",
    "reshape",
    "expand",
    "empty_like",
}  # no memory is read


class Passes(TorchDispatchMode):
    """Counts the kernels that read or write a tensor of at least ``size`` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        name = function._schema.name.removeprefix("aten::")
        if name not in FREE and any(tensor.numel() >= self.size for tensor in tensors):
            self.kernels[name] += 1
        return result


@pytest.mark.parametrize("name", ["dance_grpo", "flow_grpo", "cps"])
def test_a_step_is_five_passes_and_one_draw(name):
    sampler = build(name)
    x, velocity = (draw_noise((2, 4, 3, 8, 8), torch.Generator()) for _ in range(2))
    with Passes(x.numel()) as passes:
        transition = sampler.transition(x, velocity, 3)
        transition.log_prob(transition.sample(torch.Generator()))
    assert passes.kernels.pop("randn") == 1
    # mean: 2, next state: 1, residual and its norm: 2.
    assert passes.kernels.total() == 5, passes.kernels


def test_guidance_adds_one_pass():
    """The sixth reads the gradient. It stays: what would save it scores the noise that was drawn, not the state that
    was stored, or leaves float32's precision (`torch.cdist` takes residual and norm in one pass, and is wrong by
    0.4 % at 4 million elements)."""
    sampler = build("euphonium")
    x, velocity, gradient = (draw_noise((2, 4, 3, 8, 8), torch.Generator()) for _ in range(3))
    with Passes(x.numel()) as passes:
        transition = sampler.transition(x, velocity, 13, gradient)
        transition.log_prob(transition.sample(torch.Generator()))
    assert passes.kernels.total() - passes.kernels["randn"] == 6, passes.kernels


def test_a_rollout_adds_no_pass_but_storing_the_states():
    sampler = build("dance_grpo", num_steps=8)
    policy = GaussianPolicy()
    x = draw_noise((2, 4, 3, 8, 8), torch.Generator())
    velocity = policy.velocity(x, torch.ones(2))
    with Passes(x.numel()) as passes:
        sampler.rollout(lambda x, sigma, condition: velocity, x, None, torch.Generator())
    assert passes.kernels.pop("stack", 0) + passes.kernels.pop("cat", 0) == 1
    assert passes.kernels.pop("randn") == 8
    assert passes.kernels.total() == 8 * 5, passes.kernels
