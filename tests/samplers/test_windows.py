"""Which steps are stochastic, and what a rollout does at the others."""

import pytest
import torch

from samplers import GaussianPolicy, Guidance, Noise, Sampler, SamplerSettings, Window, draw_noise

POLICY = GaussianPolicy(0.3, 0.7)


def members(window: Window, num_steps: int = 10, iteration: int = 0, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    steps = window.steps(num_steps, iteration, generator)
    return [index for index, chosen in enumerate(steps) if chosen]


def sampler_with(window: Window, **settings: object) -> Sampler:
    noise = Noise(kind="constant", level=0.5)
    return Sampler(SamplerSettings(num_steps=10, noise=noise, window=window, **settings))


def test_fixed_windows():
    assert members(Window()) == list(range(10))
    assert members(Window(kind="first", count=3)) == [0, 1, 2]
    assert members(Window(kind="range", start=2, stop=9, interval=3)) == [2, 5, 8]
    assert members(Window(kind="range", start=7)) == [7, 8, 9]


def test_a_sliding_window_moves_every_period_and_begins_again():
    window = Window(kind="sliding", count=4, stride=2, period=25)
    assert all(members(window, iteration=i) == [0, 1, 2, 3] for i in range(25))
    assert members(window, iteration=25) == [2, 3, 4, 5]
    assert members(window, iteration=75) == [6, 7, 8, 9]
    assert members(window, iteration=100) == [0, 1, 2, 3]
    bounded = Window(kind="sliding", count=2, start=1, stop=4)
    assert [members(bounded, iteration=i)[0] for i in range(4)] == [1, 2, 1, 2]


def test_a_random_window_is_drawn_from_its_range_and_its_generator():
    window = Window(kind="random", count=2, start=1, stop=6)
    drawn = {tuple(members(window, seed=seed)) for seed in range(200)}
    assert drawn == {(1, 2), (2, 3), (3, 4), (4, 5)}
    scattered = Window(kind="random", count=2, start=1, stop=6, contiguous=False)
    drawn = {tuple(members(scattered, seed=seed)) for seed in range(200)}
    assert len(drawn) == 10
    assert all(1 <= low < high < 6 for low, high in drawn)
    assert members(window, seed=3) == members(window, seed=3)


def test_a_random_window_must_be_drawn_before_use():
    sampler = sampler_with(Window(kind="random", count=3))
    x = draw_noise((2, 4), torch.Generator().manual_seed(0))
    for use in (
        lambda: sampler.rollout(POLICY, x, None, torch.Generator()),
        lambda: sampler.transition(x, x, 0),
        lambda: sampler.stochastic(0),
        lambda: sampler.kl_divergence(x, x, 0),
    ):
        with pytest.raises(ValueError, match=r"random and has not been drawn: use sampler.at_iteration"):
            use()
    with pytest.raises(ValueError, match="needs a generator"):
        sampler.at_iteration(0)
    drawn = sampler.at_iteration(0, torch.Generator().manual_seed(2))
    assert sum(drawn.stochastic_steps) == 3


def test_steps_outside_the_window_are_ode_steps_without_density():
    sampler = sampler_with(Window(kind="sliding", count=3, period=5)).at_iteration(20)
    ode = Sampler(sampler.settings.replace(noise=Noise(kind="zero"), window=Window()))
    generator = torch.Generator().manual_seed(0)
    trajectory = sampler.rollout(POLICY, draw_noise((2, 4), generator), None, generator)
    assert trajectory.stochastic.tolist() == [4 <= index < 7 for index in range(10)]
    for index in range(10):
        x, inside = trajectory.state(index), 4 <= index < 7
        velocity = POLICY.velocity(x, torch.full((2,), float(sampler.sigmas[index])))
        assert sampler.stochastic(index) == inside
        assert trajectory.log_probs[index].isnan().all() == (not inside)
        if not inside:
            assert torch.equal(ode.transition(x, velocity, index).mean, trajectory.state(index + 1))
    mixed = sampler.stochastic(torch.tensor([3, 4, 9]))
    assert mixed.tolist() == [False, True, False]


def test_relative_guidance_is_idle_at_ode_steps_and_absolute_guidance_is_not():
    window = Window(kind="first", count=4)
    relative = sampler_with(window, guidance=Guidance(strength=1.0))
    absolute = sampler_with(window, guidance=Guidance(scale=1.0))
    assert relative.guided_steps == tuple(index < 4 for index in range(10))
    assert absolute.guided_steps == (True,) * 10
    assert relative.guided(torch.tensor([3, 4])).tolist() == [True, False]
