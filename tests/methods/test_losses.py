"""The clipped loss against PPO in plain Python, and the correlation against numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses import clipped_loss, correlation


def ppo(log_ratio: float, advantage: float, clip: float) -> float:
    """The negative of PPO's surrogate, min(rho A, clip(rho) A)."""
    ratio = math.exp(log_ratio)
    bounded = min(max(ratio, 1 - clip), 1 + clip)
    return -min(ratio * advantage, bounded * advantage)


def ppo_slope(log_ratio: float, advantage: float, clip: float) -> float:
    """d loss / d log_ratio: none where the ratio has already moved the way that the advantage asks."""
    ratio = math.exp(log_ratio)
    done = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
    return 0.0 if done else -ratio * advantage


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(-5, 5)), min_size=1, max_size=20),
    st.sampled_from([1e-4, 1e-3, 0.2]),
)
def test_the_loss_and_its_gradient_are_ppos(cases, clip):
    log_ratio = torch.tensor([case[0] for case in cases], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([case[1] for case in cases], dtype=torch.float64)
    losses = clipped_loss(log_ratio, advantages, clip)
    assert losses.tolist() == pytest.approx([ppo(*case, clip) for case in cases], abs=1e-12)
    losses.sum().backward()
    for (value, advantage), slope in zip(cases, log_ratio.grad.tolist(), strict=True):
        if abs(abs(math.expm1(value)) - clip) > 1e-9:  # at the corner any slope between the two will do
            assert slope == pytest.approx(ppo_slope(value, advantage, clip), abs=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [
        (0.3, 1.0, False),  # already likelier, and it should be
        (-0.3, -1.0, False),  # already less likely, and it should be
        (0.3, -1.0, True),  # went the wrong way: the clip must not shelter it
        (-0.3, 1.0, True),
        (0.0, 1.0, True),
        (0.0, -1.0, True),
        (0.0, 0.0, False),
    ],
)
def test_the_gradient_stops_only_where_the_clip_and_the_advantage_say_so(log_ratio, advantage, moves):
    variable = torch.tensor([log_ratio], requires_grad=True)
    clipped_loss(variable, torch.tensor([advantage]), 0.1).backward()
    assert (variable.grad.item() != 0) == moves
    if moves:
        assert math.copysign(1, variable.grad.item()) == -math.copysign(1, advantage)


def test_losses_of_several_reward_terms_share_one_ratio():
    log_ratio = torch.tensor([0.05, -0.05, 0.0], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 2.0], [-2.0, 0.5, 0.0]])
    losses = clipped_loss(log_ratio, advantages, 0.01)
    assert losses.shape == (2, 3)
    for row in range(2):
        assert torch.equal(losses[row], clipped_loss(log_ratio, advantages[row], 0.01))


def test_the_ratio_is_differentiated_through_the_exponential():
    assert torch.autograd.gradcheck(
        lambda log_ratio: clipped_loss(log_ratio, torch.tensor([1.0, -2.0, 0.5]).double(), 0.2),
        torch.tensor([0.05, -0.1, 0.7], dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("seed", range(3))
def test_correlation_is_pearsons(seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(50, generator=generator)
    second = 0.3 * first + torch.randn(50, generator=generator) + 100
    expected = np.corrcoef(first.double().numpy(), second.double().numpy())[0, 1]
    assert correlation(first, second).item() == pytest.approx(expected, abs=1e-9)
    assert correlation(first, -2 * first).item() == pytest.approx(-1, abs=1e-9)


def test_correlation_with_a_constant_is_zero():
    assert correlation(torch.arange(4.0), torch.full((4,), 0.25)).item() == 0.0
    assert correlation(torch.tensor([3.0]), torch.tensor([1.0])).item() == 0.0
