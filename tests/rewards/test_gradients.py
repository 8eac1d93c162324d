"""Zeroth-order gradients against exact ones."""

from dataclasses import dataclass

import pytest
import torch

from rewards.base import RewardError
from rewards.gradients import ZerothOrderReward


@dataclass(frozen=True)
class Texts:
    prompts: tuple[str, ...]


TEXTS = Texts(("one", "two", "three"))


def linear(slope):
    """The identity decoder's reward <slope, x>, seen as a black box."""
    return lambda videos, prompts: (videos.flatten(1) * slope).sum(dim=1)


def estimate(reward, x, directions, seed=0, radius=0.1):
    source = ZerothOrderReward(
        "black_box", reward, lambda z: z, torch.Generator().manual_seed(seed), directions, radius
    )
    return source.value_and_gradient(x, torch.zeros(len(x)), Texts(TEXTS.prompts[: len(x)]))


def test_linear_reward_has_the_exact_gradient_in_expectation():
    slope = torch.linspace(-1, 1, 12)
    values, gradient = estimate(
        linear(slope), torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(1)), 4000
    )
    error = (gradient.flatten(1) - slope).abs().max()
    # Each element's estimate has variance sum of the other slopes squared, over n.
    assert error < 5 * (slope.square().sum() / 4000).sqrt()
    assert values.shape == (3,)


def test_error_falls_with_the_square_root_of_directions():
    slope = torch.linspace(-1, 1, 12)
    x = torch.zeros(1, 3, 4)

    def error(directions):
        runs = [estimate(linear(slope), x, directions, seed)[1].flatten() - slope for seed in range(64)]
        return torch.stack(runs).square().mean().sqrt()

    assert error(4) / error(64) == pytest.approx(4, rel=0.2)


def test_central_differences_cancel_even_terms():
    """f = sum x^2 at 0 has gradient 0; one-sided differences would give c times the number of elements."""
    _, gradient = estimate(lambda v, p: v.flatten(1).square().sum(dim=1), torch.zeros(2, 3, 4), 1)
    assert torch.equal(gradient, torch.zeros(2, 3, 4))


def test_a_sample_does_not_depend_on_its_neighbours():
    x = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(2))
    reward = lambda v, p: v.flatten(1).pow(3).sum(dim=1)  # noqa: E731
    _, together = estimate(reward, x, 5)
    _, alone = estimate(reward, x[:1], 5)
    assert torch.equal(together[:1], alone)


def test_noised_latents_are_refused():
    source = ZerothOrderReward("black_box", linear(torch.ones(12)), lambda z: z, torch.Generator(), 2)
    with pytest.raises(ValueError, match="x0_hat"):
        source.value_and_gradient(torch.zeros(1, 3, 4), torch.tensor([0.5]), TEXTS)


def test_a_failing_reward_is_named():
    with pytest.raises(RewardError, match="black_box"):
        estimate(lambda v, p: torch.full((len(v),), torch.nan), torch.zeros(2, 3, 4), 1)


@pytest.mark.parametrize(("field", "value"), [("directions", 0), ("radius", 0.0)])
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        ZerothOrderReward("r", linear(torch.ones(1)), lambda z: z, torch.Generator(), **{field: value})
