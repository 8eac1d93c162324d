"""Euphonium without what it adds is the method it was built on, bit for bit."""

import pytest
import torch

from methods import difference
from tests.methods.small import MOVING, Small, make

#: What makes the published Euphonium a plain policy-gradient method.
OFF = ("sampler.guidance.strength=0", "process=null")
ITERATIONS = 3


def assert_same_training(one: Small, two: Small) -> None:
    pairs = zip(one.iterate(ITERATIONS), two.iterate(ITERATIONS), strict=True)
    for (first, figures), (second, same) in pairs:
        for part in ("states", "log_probs", "sigmas"):
            assert torch.equal(getattr(first.trajectory, part), getattr(second.trajectory, part))
        assert torch.equal(first.steps, second.steps)
        assert all(torch.equal(values, second.rewards[name]) for name, values in first.rewards.items())
        assert figures == same
        assert figures["gradient_norm"] > 0
    left, right = one.learner.weights.state_dict(), two.learner.weights.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize(
    ("settings", "target"),
    [
        (("euphonium", "distillation={weight: 0.01, strength: 0}"), "flow_grpo"),
        (("euphonium_dance", "distillation=null"), "dance_grpo"),
    ],
    ids=["flow_grpo", "dance_grpo"],
)
def test_euphonium_that_distils_no_guidance_is_the_method_it_builds_on_bit_for_bit(
    world, settings, target, weights
):
    level = "sampler.noise.level=0.7"
    one = make(world, *settings, level, weights=weights)
    two = make(world, target, level, weights=weights)
    assert difference(two.method, one.method) == {}
    assert one.process_reward is None  # no reward model is even loaded
    assert_same_training(one, two)


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_published_euphonium_without_guidance_is_dance_grpo_bit_for_bit(world, weights):
    level = ("sampler.noise.level=0.7",)
    one = make(world, "euphonium_published", *OFF, *level, weights=weights)
    two = make(world, "dance_grpo", *level, weights=weights)
    assert set(difference(two.method, one.method)) == {
        f"sampler.guidance.{field}" for field in ("strength", "start", "interval", "normalisation", "at")
    }
    assert one.process_reward is None
    assert_same_training(one, two)


@pytest.mark.parametrize("target", ["flow_grpo", "dance_grpo"])
@pytest.mark.parametrize("updates", [1, 2])
def test_euphonium_with_another_methods_settings_is_that_method_bit_for_bit(world, target, updates):
    """Also with a target that has nothing to move it: guidance at strength 0 distils nothing."""
    common = (f"updates_per_rollout={updates}", "sampler.noise.level=0.6")
    two = make(world, target, *common)
    idle = (*MOVING, *OFF, "guidance_decay=1", *common)
    plain = make(world, "euphonium_published", *idle).method
    assert plain.distillation is not None
    kept = ("sampler.guidance.", "distillation.") if target == "dance_grpo" else ("sampler.guidance.",)
    theirs = [
        f"{name}={value}"
        for name, (_, value) in difference(plain, two.method).items()
        if not name.startswith(kept)
    ]
    one = make(world, "euphonium_published", *idle, *theirs)
    assert all(name.startswith(kept) for name in difference(two.method, one.method))
    assert_same_training(one, two)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("euphonium_published", (*OFF[:1],)),  # the process term alone
        ("euphonium_published", (*MOVING, "process=null")),  # guidance and its distillation
        ("euphonium_published", ("process=null",)),  # guidance alone
        ("euphonium_dance", ()),  # the anchored target alone
    ],
    ids=["process term", "guidance and distillation", "guidance", "target"],
)
def test_each_part_of_euphonium_makes_a_difference(world, name, part):
    """The tests above mean nothing if they could not tell a part that is on."""
    common = ("sampler.noise.level=0.7", "objective.train_fraction=1.0")
    one = make(world, name, *common, *part)
    two = make(world, "dance_grpo", *common)
    with pytest.raises(AssertionError):
        assert_same_training(one, two)
