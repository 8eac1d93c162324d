"""The trained weights: adapters that begin as the identity, the base model kept apart, states that come back."""

import pytest
import torch

from methods.weights import TrainedWeights, WeightSettings
from samplers.pipeline import PipelinePolicy
from tests.methods.small import make, move
from tests.world import world_policy

LORA, FULL = WeightSettings(rank=2, alpha=4), WeightSettings(kind="full")
KINDS = pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "full"])


def velocity(policy: PipelinePolicy) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(3)
    x = torch.randn(3, *policy.latent_shape, generator=numbers)
    condition = policy.encode(["a small red ball moving left"] * 2 + ["a large blue ball moving up"])
    with torch.no_grad():
        return policy.velocity(x, torch.tensor([1.0, 0.6, 0.1]), condition)


def disturb(weights: TrainedWeights, size: float = 0.1) -> None:
    numbers = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in weights.parameters:
            parameter += size * torch.randn(parameter.shape, generator=numbers)


def trained(world, settings: WeightSettings, seed: int = 0) -> tuple[PipelinePolicy, TrainedWeights]:
    policy = world_policy(world)
    return policy, TrainedWeights(policy, settings, seed, reference=True)


@KINDS
def test_the_policy_begins_as_the_base_model(world, settings):
    base = velocity(world_policy(world))
    policy, weights = trained(world, settings)
    assert torch.equal(velocity(policy), base)
    disturb(weights)
    assert (velocity(policy) - base).abs().max() > 1e-3


@KINDS
def test_the_reference_is_the_base_model_and_training_goes_on_after_it(world, settings):
    base = velocity(world_policy(world))
    policy, weights = trained(world, settings)
    disturb(weights)
    now, count = velocity(policy), len(weights.parameters)
    with weights.reference():
        assert torch.equal(velocity(policy), base)
    assert torch.equal(velocity(policy), now)
    with pytest.raises(RuntimeError, match="in the middle"), weights.reference():
        raise RuntimeError("in the middle")
    assert torch.equal(velocity(policy), now)
    assert len(weights.parameters) == count
    assert all(parameter.requires_grad for parameter in weights.parameters)


@KINDS
def test_a_reference_inside_a_step_leaves_the_gradient_alone(world, settings):
    """peft freezes adapters while they are disabled: a graph made before must still reach them."""
    policy, weights = trained(world, settings)
    disturb(weights)
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    condition, sigma = policy.encode(["a small red ball moving left"] * 2), torch.tensor([0.9, 0.4])

    def gradient(look_away: bool) -> list[torch.Tensor]:
        for parameter in weights.parameters:
            parameter.grad = None
        loss = policy.velocity(x, sigma, condition).square().mean()
        if look_away:
            with torch.no_grad(), weights.reference():
                policy.velocity(x, sigma, condition)
        loss.backward()
        return [parameter.grad.clone() for parameter in weights.parameters]

    plain, interrupted = gradient(look_away=False), gradient(look_away=True)
    assert sum(float(part.norm()) for part in plain) > 0
    assert all(torch.equal(one, two) for one, two in zip(plain, interrupted, strict=True))


@KINDS
def test_the_reference_is_no_alias_of_what_is_trained(world, settings):
    base = velocity(world_policy(world))
    small = make(world, "flow_grpo", weights=settings.kind)
    for _ in small.iterate(3):
        pass
    assert (velocity(small.policy) - base).abs().max() > 1e-4
    with small.learner.weights.reference():
        assert torch.equal(velocity(small.policy), base)


@KINDS
def test_a_state_comes_back_bit_for_bit(world, settings):
    policy, weights = trained(world, settings)
    disturb(weights)
    state, expected = weights.state_dict(), velocity(policy)
    other, fresh = trained(world, settings, seed=99)
    assert not torch.equal(velocity(other), expected)
    fresh.load_state_dict(state)
    assert torch.equal(velocity(other), expected)
    assert fresh.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())
    assert all(parameter.requires_grad for parameter in fresh.parameters)


@KINDS
def test_a_state_is_a_copy_both_ways(world, settings):
    policy, weights = trained(world, settings)
    state = weights.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    disturb(weights)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())
    weights.load_state_dict(state)
    expected = velocity(policy)
    for tensor in state.values():
        tensor.fill_(100.0)
    assert torch.equal(velocity(policy), expected)


def test_a_state_that_does_not_fit_is_refused_and_names_the_tensor(world):
    policy, weights = trained(world, LORA)
    state, expected = weights.state_dict(), velocity(policy)
    name = sorted(state)[0]
    _, higher = trained(world, WeightSettings(rank=3, alpha=6))
    with pytest.raises(
        ValueError, match=r"does not fit these weights \(lora\).*\[3, 24\].*\[2, 24\]"
    ) as error:
        weights.load_state_dict(higher.state_dict())
    assert name in str(error.value)
    missing = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(ValueError, match=f"{name} is None, expected"):
        weights.load_state_dict(missing)
    with pytest.raises(ValueError, match=r"stranger is torch.Size\(\[1\]\), expected None"):
        weights.load_state_dict({**state, "a.stranger": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"does not fit these weights \(full\)"):
        trained(world, FULL)[1].load_state_dict(state)
    assert torch.equal(velocity(policy), expected)  # nothing was half loaded


def test_adapters_depend_on_their_seed_alone(world):
    policies = [world_policy(world) for _ in range(4)]
    before = torch.get_rng_state()
    one, two, other = (
        TrainedWeights(policy, LORA, seed, reference=False).state_dict()
        for policy, seed in zip(policies, (5, 5, 6), strict=False)
    )
    assert torch.equal(torch.get_rng_state(), before)  # peft draws from the global generator
    torch.manual_seed(123)
    again = TrainedWeights(policies[3], LORA, 5, reference=False).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_lora_trains_every_projection_of_every_block_and_nothing_else(world):
    policy, weights = trained(world, LORA)
    names = [name for name, parameter in policy.transformer.named_parameters() if parameter.requires_grad]
    assert (
        len(names) == len(weights.parameters) == 2 * 2 * (4 + 4 + 2)
    )  # blocks, A and B, two attentions and MLP
    for block in range(2):
        for part in ("attn1.to_q", "attn1.to_out.0", "attn2.to_v", "ffn.net.0.proj", "ffn.net.2"):
            assert sum(name.startswith(f"blocks.{block}.{part}.lora_") for name in names) == 2


@pytest.mark.parametrize(("rank", "alpha"), [(2, 4.0), (4, 4.0), (3, 1.5)])
def test_adapters_are_scaled_by_alpha_over_rank(world, rank, alpha):
    policy, weights = trained(world, WeightSettings(rank=rank, alpha=alpha))
    layer = policy.transformer.blocks[0].attn1.to_q
    disturb(weights)
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape == (rank, 24)
    expected = layer.base_layer(x) + alpha / rank * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_full_weights_without_a_reference_keep_no_second_model(world):
    policy = world_policy(world)
    weights = TrainedWeights(policy, FULL, 0, reference=False)
    assert len(weights.parameters) == len(list(policy.transformer.parameters()))
    with pytest.raises(ValueError, match="create TrainedWeights with reference=True"), weights.reference():
        pass


def test_moving_weights_moves_the_policy(world):
    """The helper that other tests perturb weights with does what they rely on."""
    small = make(world, "dance_grpo")
    before = velocity(small.policy)
    move(small, 0.1)
    assert (velocity(small.policy) - before).abs().max() > 1e-3
