"""Euphonium without guidance, process reward and distillation is the method it was built on, bit for bit."""

import pytest
import torch

from methods import difference
from tests.methods.small import Small, make

#: What makes a Euphonium a plain policy-gradient method.
OFF = ("sampler.guidance.strength=0", "guidance_decay=1", "process=null", "distillation=null")
ITERATIONS = 3


def assert_same_training(one: Small, two: Small) -> None:
    pairs = zip(one.iterate(ITERATIONS), two.iterate(ITERATIONS), strict=True)
    for (first, figures), (second, same) in pairs:
        for part in ("states", "log_probs", "sigmas"):
            assert torch.equal(getattr(first.trajectory, part), getattr(second.trajectory, part))
        assert torch.equal(first.videos, second.videos)
        assert torch.equal(first.steps, second.steps)
        assert all(torch.equal(values, second.rewards[name]) for name, values in first.rewards.items())
        assert figures == same
        assert figures["gradient_norm"] > 0
    left, right = one.learner.weights.state_dict(), two.learner.weights.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.parametrize("name", ["euphonium", "euphonium_published"])
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_euphonium_without_guidance_is_dance_grpo_bit_for_bit(world, tmp_path, name, weights):
    off = OFF if name == "euphonium" else OFF[:1] + OFF[2:3]
    level = ("sampler.noise.level=0.7",)
    one = make(world, tmp_path, name, *off, *level, weights=weights)
    two = make(world, tmp_path, "dance_grpo", *level, weights=weights)
    assert set(difference(two.method, one.method)) == {
        f"sampler.guidance.{field}" for field in ("strength", "start", "interval", "normalisation", "at")
    }
    assert one.process_reward is None  # no reward model is even loaded
    assert_same_training(one, two)


@pytest.mark.parametrize("target", ["flow_grpo", "dance_grpo"])
@pytest.mark.parametrize("updates", [1, 2])
def test_euphonium_with_another_methods_settings_is_that_method_bit_for_bit(world, tmp_path, target, updates):
    common = (f"updates_per_rollout={updates}", "sampler.noise.level=0.6")
    two = make(world, tmp_path, target, *common)
    plain = make(world, tmp_path, "euphonium", *OFF, *common).method
    theirs = [
        f"{name}={value}"
        for name, (_, value) in difference(plain, two.method).items()
        if not name.startswith("sampler.guidance.")
    ]
    one = make(world, tmp_path, "euphonium", *OFF, *common, *theirs)
    assert all(name.startswith("sampler.guidance.") for name in difference(two.method, one.method))
    assert_same_training(one, two)


@pytest.mark.parametrize(
    "part",
    [
        ("sampler.guidance.strength=0", "distillation=null"),  # the process term alone
        ("process=null",),  # guidance and its distillation
        ("process=null", "distillation=null"),  # guidance alone
    ],
)
def test_each_part_of_euphonium_makes_a_difference(world, tmp_path, part):
    """The tests above mean nothing if they could not tell a part that is on."""
    common = ("sampler.noise.level=0.7", "train_fraction=1.0")
    one = make(world, tmp_path, "euphonium", *common, *part)
    two = make(world, tmp_path, "dance_grpo", *common)
    with pytest.raises(AssertionError):
        assert_same_training(one, two)
