"""The published samplers, by name."""

import pytest
import torch

from samplers import PRESETS, GaussianPolicy, Guidance, Noise, build, draw_noise


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_rolls_out(name):
    generator = torch.Generator().manual_seed(0)
    sampler = build(name).at_iteration(0, generator)
    trajectory = sampler.rollout(
        GaussianPolicy(0.1, 0.9),
        draw_noise((2, 3, 4), generator),
        None,
        generator,
        lambda x, sigma, condition: x.flatten(1).mean(1),
    )
    assert sampler.settings == PRESETS[name]
    assert trajectory.states.shape == (sampler.num_steps + 1, 2, 3, 4)


def test_published_settings():
    euphonium = build("euphonium").settings
    assert (euphonium.num_steps, euphonium.shift) == (16, 5.0)
    assert euphonium.noise == Noise(kind="constant", level=0.25)
    assert euphonium.guidance == Guidance(strength=2 * 0.01 / 0.25**2, start=12)
    assert euphonium.score_mean == "unguided"
    assert build("euphonium").guided_steps == (False,) * 12 + (True,) * 4
    flow = build("flow_grpo").settings
    assert (flow.num_steps, flow.shift, flow.noise) == (10, 3.0, Noise(kind="flow_grpo", level=0.7))
    dance, wan = build("dance_grpo").settings, build("dance_grpo_wan").settings
    assert (dance.num_steps, dance.shift, dance.noise) == (16, 5.0, Noise(kind="constant", level=0.25))
    assert (wan.num_steps, wan.shift, wan.noise) == (20, 3.0, Noise(kind="constant", level=0.3))
    ode, cps = build("ode").settings, build("cps").settings
    assert (ode.num_steps, ode.shift, ode.noise) == (16, 5.0, Noise(kind="zero"))
    assert (cps.num_steps, cps.shift, cps.noise) == (10, 3.0, Noise(kind="angle", level=0.7))
    assert cps.kernel == "coefficient_preserving"
    assert all(PRESETS[name].log_prob_reduction == "mean" for name in PRESETS)


@pytest.mark.parametrize(
    ("num_steps", "first"), [(16, 12), (20, 15), (10, 7), (8, 6), (4, 3), (2, 1), (1, 0)]
)
def test_published_guidance_follows_the_number_of_steps(num_steps, first):
    sampler = build("euphonium", num_steps=num_steps)
    assert sampler.guided_steps == tuple(index >= first for index in range(num_steps))


def test_overrides():
    sampler = build("dance_grpo", num_steps=4, shift=1.0, noise_level=0.5, guidance=0.1)
    assert sampler.sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert sampler.settings.noise == Noise(kind="constant", level=0.5)
    assert sampler.settings.guidance == Guidance(strength=0.1)
    assert sampler.guided_steps == (True,) * 4
    exact = Guidance(scale=0.2, stop=2)
    assert build("euphonium", guidance=exact).settings.guidance == exact
