"""Adapters of every family: each target is there, each adapter learns, nothing else does."""

import pytest
import torch
from torch import nn

from methods.weights import TrainedWeights, WeightsError, WeightSettings
from samplers.families import FAMILIES
from samplers.pipeline import PipelinePolicy
from tests.families.pipelines import start_noise, with_copied_networks
from tests.families.tokenizers import PROMPTS


@pytest.fixture
def policy(tiny, name) -> PipelinePolicy:
    """With networks of its own."""
    return with_copied_networks(tiny.policy(name))


def trained(policy: PipelinePolicy, **settings: object) -> TrainedWeights:
    given = {"rank": 2, "alpha": 4, **settings}
    return TrainedWeights(policy, WeightSettings.model_validate(given), 0, reference=True)


def disturb(weights: TrainedWeights) -> None:
    """Adapters begin as the identity, where half of their weights have no gradient yet."""
    numbers = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in weights.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=numbers)


def velocity(policy: PipelinePolicy) -> torch.Tensor:
    """At mixed noise levels, on both sides of any boundary."""
    sigma = torch.tensor([1.0, 0.9, 0.5, 0.05])
    return policy.velocity(start_noise(policy, 4), sigma, policy.encode([*PROMPTS, PROMPTS[0]]))


def test_every_target_is_a_layer_of_every_network(policy):
    for network in policy.plain.networks.values():
        layers = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
        for target in policy.family.lora_targets:
            assert any(layer.endswith(f".{target}") for layer in layers), target
        blocks = [name for name, _ in policy.family.block_lists]
        left = {
            layer
            for layer in layers
            if layer.split(".")[0] in blocks
            and not any(layer.endswith(f".{target}") for target in policy.family.lora_targets)
        }
        assert all("norm" in layer or layer.endswith("proj_out") for layer in left), left


@pytest.mark.parametrize("pipeline", FAMILIES)
def test_the_family_names_the_right_network(pipeline):
    import diffusers

    family = FAMILIES[pipeline]
    assert hasattr(diffusers, family.pipeline)
    assert hasattr(diffusers, family.transformer)


def test_a_misspelt_target_is_refused_with_the_closest_name(policy):
    for target in policy.family.lora_targets:
        with pytest.raises(WeightsError, match="has no such linear layer") as caught:
            trained(policy, targets=("to_q", f"{target}x"))
        assert f"weights.targets names '{target}x', and transformer " in str(caught.value)
        assert f"did you mean {target!r}?" in str(caught.value)
    assert not any(parameter.requires_grad for parameter in policy.denoiser.parameters())


def test_every_adapter_learns_and_nothing_else_does(policy):
    weights = trained(policy)
    names = {name for name, parameter in policy.denoiser.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert not any(idle in name for idle in policy.family.idle_layers(policy.transformer) for name in names)
    for network in weights.networks:
        for target in policy.family.lora_targets:
            assert any(f".{network}." in name and f".{target}.lora_" in name for name in names), target
    disturb(weights)
    velocity(policy).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in policy.denoiser.named_parameters()}
    learning = {name for name, gradient in gradients.items() if gradient is not None}
    assert sorted(names - learning) == []
    assert learning <= names
    for name in names:
        assert torch.isfinite(gradients[name]).all(), name
        assert gradients[name].abs().max() > 0, name
    for part in ("vae", *policy.family.text_parts):
        assert all(parameter.grad is None for parameter in getattr(policy.pipeline, part).parameters())


def test_every_weight_that_is_trained_learns(policy):
    """A weight without a gradient would stop training in several processes."""
    weights = trained(policy, kind="full")
    velocity(policy).square().mean().backward()
    trains = {name: p.grad for name, p in policy.denoiser.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trains.items() if gradient is None] == []
    assert len(trains) == len(weights.parameters)
    assert len(trains) > 0.9 * len(list(policy.denoiser.parameters()))


def test_adapters_learn_in_float32_on_a_model_in_half_the_precision(tiny, name):
    """As large models are trained."""
    policy = with_copied_networks(tiny.policy(name, dtype=torch.bfloat16))
    weights = trained(policy)
    assert {parameter.dtype for parameter in weights.parameters} == {torch.float32}
    found = velocity(policy)
    assert found.dtype == torch.float32
    found.square().mean().backward()
    norms = [float(parameter.grad.norm()) for parameter in weights.parameters if parameter.grad is not None]
    assert len(norms) == len(weights.parameters)
    assert all(norm < float("inf") for norm in norms)
    assert sum(norm > 0 for norm in norms) == len(norms) // 2  # as yet only what follows the adapters' zeros


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_base_trained_and_restored(tiny, policy, name, kind):
    with torch.no_grad():
        base = velocity(policy)
        weights = trained(policy, kind=kind)
        assert torch.equal(velocity(policy), base)
        disturb(weights)
        now, state = velocity(policy), weights.state_dict()
        assert (now - base).abs().flatten(1).amax(dim=1).min() > 1e-3  # of every network
        with weights.reference():
            assert torch.equal(velocity(policy), base)
        assert torch.equal(velocity(policy), now)
        other = with_copied_networks(tiny.policy(name))
        again = trained(other, kind=kind)
        again.load_state_dict(state)
        assert torch.equal(velocity(other), now)
