"""Each family's velocity is its pipeline's: the ODE arrives where the pipeline's own call does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from samplers import Noise, Sampler, SamplerSettings
from samplers.families import FAMILIES
from samplers.pipeline import PipelinePolicy, Scales
from tests.families.pipelines import OWN_OPTIONS, VARIANTS, built, by_diffusers, start_noise
from tests.families.tokenizers import PROMPTS

STEPS = 4


def test_every_family_has_a_tiny_pipeline():
    covered = {type(built(name)).__name__ for name in VARIANTS}
    assert covered == set(FAMILIES) == set(OWN_OPTIONS)


def on_the_pipelines_own_grid(policy: PipelinePolicy, start: Tensor) -> Tensor:
    """Our ODE through the noise levels that the pipeline's scheduler visited in its last call."""
    grid = tuple(policy.pipeline.scheduler.sigmas.tolist())
    settings = {"num_steps": len(grid) - 1, "schedule": grid, "noise": Noise(kind="zero")}
    sampler = Sampler(SamplerSettings.model_validate(settings))
    return sampler.rollout(policy, start, policy.encode(PROMPTS[: len(start)])).final


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("guided", [False, True])
def test_the_ode_is_what_the_pipeline_itself_generates(tiny, name, guided):
    policy = tiny.policy(name, VARIANTS[name].guided if guided else None)
    start = start_noise(policy, 3)
    expected = by_diffusers(policy, start, STEPS)
    torch.testing.assert_close(on_the_pipelines_own_grid(policy, start), expected, atol=1e-4, rtol=0)
    assert distance(expected, start) > 0.5
    if guided:  # and it does matter here
        assert distance(by_diffusers(tiny.policy(name), start, STEPS), expected) > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_is_called_as_the_pipeline_calls_it(tiny, name, dtype):
    """Equal inputs, not only equal outputs: TI2V-5B has a timestep for every token, all of them equal here."""
    policy = tiny.policy(name, dtype=dtype)
    start, condition = start_noise(policy, 2), policy.encode(PROMPTS[:2])
    calls: list[dict[str, Any]] = []
    hook = policy.transformer.register_forward_pre_hook(
        lambda module, args, given: calls.append(given), with_kwargs=True
    )
    by_diffusers(policy, start, STEPS)
    theirs = calls[0]
    calls.clear()
    policy.velocity(start, torch.ones(2), condition)
    hook.remove()
    (ours,) = calls
    assert set(ours) == set(theirs) - {"attention_kwargs"}
    for key, expected in theirs.items():
        if isinstance(expected, Tensor):
            assert ours[key].shape == expected.shape, key
            assert torch.equal(ours[key].float(), expected.float()), key
            assert "mask" in key or ours[key].dtype == expected.dtype, key
        elif key != "attention_kwargs":
            assert ours[key] == expected, key


def test_in_half_the_precision_as_well(tiny, name):
    """The first velocity is equal; then most pipelines round their states to bfloat16, and ours are float32."""
    policy = tiny.policy(name, dtype=torch.bfloat16)
    start, condition = start_noise(policy, 2), policy.encode(PROMPTS[:2])
    seen: list[Tensor] = []
    hook = policy.transformer.register_forward_hook(lambda module, given, result: seen.append(result[0]))
    expected = by_diffusers(policy, start, STEPS)
    hook.remove()
    velocity = policy.velocity(start, torch.ones(2), condition)
    assert velocity.dtype == torch.float32
    assert torch.equal(velocity, policy.family.velocity(seen[0], start).float())
    found = on_the_pipelines_own_grid(policy, start)
    torch.testing.assert_close(found, expected.float(), atol=0.05, rtol=0)
    assert distance(found, start) > 0.5


def test_the_embedded_scale_is_an_input_of_the_network(tiny, name):
    family = tiny.policy(name).family
    if family.embedded_guidance is None:
        assert not {"guidance"} & set(tiny.policy(name).plain.constants)
        return
    start, scale = start_noise(tiny.policy(name), 2), family.embedded_guidance
    default = by_diffusers(tiny.policy(name), start, STEPS)
    for embedded, same in ((scale, True), (scale / 2, False)):
        policy = tiny.policy(name, Scales(embedded=embedded))
        expected = by_diffusers(policy, start, STEPS)
        torch.testing.assert_close(on_the_pipelines_own_grid(policy, start), expected, atol=1e-4, rtol=0)
        assert (distance(expected, default) < 1e-6) == same
        assert same or distance(expected, default) > 1e-3


def test_both_kinds_of_guidance_together(tiny):
    policy = tiny.policy("hunyuan_video", Scales(3.0, embedded=2.0))
    start = start_noise(policy, 2)
    expected = by_diffusers(policy, start, STEPS)
    torch.testing.assert_close(on_the_pipelines_own_grid(policy, start), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guided", [False, True])
def test_a_row_is_the_same_whatever_its_neighbours(tiny, name, guided):
    """Each at its own noise level: for two networks, above the boundary, on it, and below."""
    policy = tiny.policy(name, VARIANTS[name].guided if guided else None)
    sigma = torch.tensor([0.3, 0.999, 0.875, 0.8749])
    x, condition = start_noise(policy, 4), policy.encode([*PROMPTS, PROMPTS[0]])
    together = policy.velocity(x, sigma, condition)
    assert together.shape == x.shape
    for row in range(4):
        alone = policy.velocity(x[row : row + 1], sigma[row : row + 1], condition.select([row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_noise_level_and_prompt_matter(tiny, name):
    policy = tiny.policy(name)
    x, sigma, condition = start_noise(policy, 3), torch.tensor([0.9, 0.5, 0.2]), policy.encode(PROMPTS)
    found = policy.velocity(x, sigma, condition)
    for other in (
        policy.velocity(x, sigma * 0.8, condition),
        policy.velocity(x, sigma, condition.select([1, 2, 0])),
    ):
        assert (other - found).abs().flatten(1).amax(dim=1).min() > 1e-3


def test_two_networks_share_the_noise_levels_at_the_boundary(tiny):
    policy = tiny.policy("wan22_a14b", Scales(4.0, free_2=2.0))
    high, low = policy.plain.networks.values()
    seen: dict[str, list[float]] = {"high": [], "low": []}
    hooks = [
        network.register_forward_pre_hook(
            lambda module, args, given, where=where: seen[where].extend(given["timestep"].tolist()),
            with_kwargs=True,
        )
        for where, network in (("high", high), ("low", low))
    ]
    sigma = torch.tensor([1.0, 0.5, 0.875, 0.87499])
    velocity = policy.velocity(start_noise(policy, 4), sigma, policy.encode([PROMPTS[0]] * 4))
    for hook in hooks:
        hook.remove()
    assert seen["high"] == pytest.approx([1000, 875] * 2)
    assert seen["low"] == pytest.approx([500, 874.99] * 2)
    for row, (network, scale) in enumerate([(high, 4.0), (low, 2.0), (high, 4.0), (low, 2.0)]):
        condition = policy.encode([PROMPTS[0]])
        x = start_noise(policy, 4)[row : row + 1]
        said, unsaid = (
            network(x, sigma[row : row + 1] * 1000, text["embeds"], return_dict=False)[0]
            for text in (condition.text, condition.negative)
        )
        expected = unsaid + scale * (said - unsaid)
        torch.testing.assert_close(velocity[row : row + 1], expected, atol=1e-4, rtol=0)
    assert distance(high.proj_out.weight, low.proj_out.weight) > 0.01


def test_ltx_videos_grid_ends_where_its_scheduler_says(tiny):
    policy = tiny.policy("ltx")
    by_diffusers(policy, start_noise(policy, 1), STEPS)
    grid = policy.pipeline.scheduler.sigmas
    assert grid[-2:].tolist() == pytest.approx([0.1, 0.0])
    assert 1 - grid[1] != pytest.approx(1 / STEPS, abs=0.01)  # and it is shifted
