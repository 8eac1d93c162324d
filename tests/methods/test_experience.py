"""Collecting experience: whose noise is whose, which steps train, and that a batch changes nothing."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from methods import CATALOG
from methods.experience import Experience
from methods.method import Method
from rewards.base import RewardError
from samplers import NonFiniteError
from tests.methods.small import MOVING, NUM_STEPS, PLAIN, PROMPTS, Small, constant_rewards, make

#: Rewards that say nothing, of videos that nobody decodes: where only the draw matters.
BLIND = {"rewards": constant_rewards(), "decoding": False}
ALL = pytest.mark.parametrize("name", CATALOG)
EACH_PLAIN = pytest.mark.parametrize("name", PLAIN)


def groups(method: Method) -> list[range]:
    size = method.group_size
    return [range(start, start + size) for start in range(0, len(PROMPTS) * size, size)]


def step_noise(small: Small, experience: Experience) -> torch.Tensor:
    """(N, B, ...) the standard normal noise that each step must have drawn, solved from its two states."""
    sampler, trajectory = small.sampler(), experience.trajectory
    noise = []
    for step in range(NUM_STEPS):
        x = trajectory.states[step]
        sigma = torch.full((len(x),), float(sampler.sigmas[step]))
        velocity = small.policy.velocity(x, sigma, experience.condition)
        moved = trajectory.reward_gradients.get(step)
        transition = sampler.transition(x, velocity, step, moved)
        noise.append((trajectory.states[step + 1] - transition.mean) / transition.std)
    return torch.stack(noise)


@ALL
def test_members_share_the_initial_noise_if_and_only_if_the_setting_says_so(world, name):
    for same in (True, False):
        small = make(world, name, f"same_initial_noise={same}", **BLIND)
        start = small.collect().trajectory.states[0]
        for group in groups(small.method):
            for one, two in itertools.combinations(group, 2):
                assert torch.equal(start[one], start[two]) == same
        firsts = [start[group[0]] for group in groups(small.method)]
        for one, two in itertools.combinations(firsts, 2):
            assert (one - two).abs().max() > 0.5  # groups never share theirs


@EACH_PLAIN
def test_step_noise_is_never_shared_and_is_standard_normal(world, name):
    small = make(world, name)
    noise = step_noise(small, small.collect()).flatten(0, 1).flatten(1)
    for one, two in itertools.combinations(noise, 2):
        assert (one - two).abs().max() > 0.5
    count = noise.numel()
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.square().mean() - 1) < 5 * math.sqrt(2 / count)


@ALL
def test_noise_is_new_in_every_iteration_and_for_every_seed(world, name):
    small, reseeded = make(world, name), make(world, name, seed=1)
    draws = [(small, small.collect(0)), (small, small.collect(1)), (reseeded, reseeded.collect(0))]
    starts = [experience.trajectory.states[0] for _, experience in draws]
    steps = [step_noise(owner, experience).flatten(0, 1) for owner, experience in draws if name in PLAIN]
    for noise in (starts, steps):
        for one, two in itertools.combinations(noise, 2):
            assert ((one - two).flatten(1).abs().amax(dim=1) > 0.5).all()


@ALL
def test_the_same_draw_gives_the_same_rollouts(world, name):
    one, two = (make(world, name).collect(3) for _ in range(2))
    assert torch.equal(one.trajectory.states, two.trajectory.states)
    assert torch.equal(one.steps, two.steps)
    assert all(torch.equal(values, two.rewards[reward]) for reward, values in one.rewards.items())


@ALL
def test_a_samples_rollout_is_the_same_whichever_batch_it_is_in(world, name):
    small = make(world, name)
    together = small.collect()
    for number, prompt in enumerate(PROMPTS):
        alone = small.collect(prompts=(prompt,), first=number)
        rows = slice(number * small.method.group_size, (number + 1) * small.method.group_size)
        torch.testing.assert_close(
            alone.trajectory.states, together.trajectory.states[:, rows], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            alone.trajectory.log_probs,
            together.trajectory.log_probs[:, rows],
            atol=1e-5,
            rtol=1e-5,
            equal_nan=True,
        )
        assert torch.equal(alone.steps, together.steps[rows])
        for reward, values in alone.rewards.items():
            torch.testing.assert_close(values, together.rewards[reward][rows], atol=1e-5, rtol=1e-5)
    larger = make(world, name, "group_size=3").collect()
    rows = [0, 1, 3, 4]
    torch.testing.assert_close(
        larger.trajectory.states[:, rows], together.trajectory.states, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(larger.steps[rows], together.steps)


@ALL
def test_samples_stand_group_by_group_under_their_own_prompts(world, name):
    small = make(world, name)
    experience = small.collect()
    size = small.method.group_size
    assert experience.condition.prompts == tuple(prompt for prompt in PROMPTS for _ in range(size))
    assert experience.rewards.keys() == small.suite.training.keys()
    videos = small.policy.decode(experience.trajectory.final)
    assert videos.shape == (len(PROMPTS) * size, 5, 3, 16, 16)
    for reward, function in small.suite.training.items():
        values = function(videos, experience.condition.prompts)
        assert torch.equal(experience.rewards[reward], values)


@pytest.mark.parametrize("name", [*PLAIN, "diffusion_nft", "grpo_guard"])
@pytest.mark.parametrize(("share", "last"), [("0.01", False), ("0.67", False), ("0.99", True)])
def test_trained_steps_are_the_share_that_is_set_and_the_last_only_where_allowed(world, name, share, last):
    settings = (f"objective.train_fraction={share}", f"objective.train_last_step={last}", "group_size=16")
    small = make(world, name, *settings, **BLIND)
    steps = small.collect().steps
    eligible = NUM_STEPS if last else NUM_STEPS - 1
    assert steps.shape == (16 * len(PROMPTS), max(1, int(Fraction(share) * eligible)))
    assert (steps.diff(dim=1) > 0).all()  # sorted, and none twice
    assert steps.unique().tolist() == list(range(eligible))  # each in turn, and none that is not eligible
    if steps.shape[1] < eligible:
        assert len(steps.unique(dim=0)) == math.comb(eligible, steps.shape[1])  # drawn for each sample


def test_every_eligible_step_is_drawn_equally_often(world):
    small = make(world, "dance_grpo", "group_size=64", **BLIND)
    steps = small.collect().steps
    counts = torch.bincount(steps.flatten(), minlength=NUM_STEPS)
    expected = steps.numel() / (NUM_STEPS - 1)
    chi_square = ((counts[:-1] - expected).square() / expected).sum()
    assert counts[-1] == 0
    assert chi_square < 13.8  # 99.9 % of two degrees of freedom


def test_only_steps_with_noise_are_trained(world):
    small = make(
        world,
        "dance_grpo",
        "sampler.window.kind=range",
        "sampler.window.start=1",
        "sampler.window.stop=3",
        "objective.train_fraction=1.0",
    )
    assert torch.equal(small.collect().steps, torch.tensor([[1, 2]] * 4))


@pytest.mark.parametrize(
    "settings",
    [
        ("sampler.noise={kind: zero}",),
        ("sampler.window.kind=range", f"sampler.window.start={NUM_STEPS - 1}"),
    ],
)
def test_a_method_with_no_step_to_train_is_refused(world, settings):
    with pytest.raises(
        ValueError, match=r"dance_grpo: none of the steps.* has noise.*objective.train_last_step"
    ):
        make(world, "dance_grpo", *settings).collect()


@pytest.mark.parametrize(
    "settings",
    [
        *((name,) for name in CATALOG),
        ("euphonium_published", *MOVING),
        ("euphonium_published", "distillation={weight: 1}"),
        ("dance_grpo", "distillation={weight: 1, anchor: policy, strength: 1}"),
    ],
    ids=" ".join,
)
def test_process_rewards_and_velocities_are_kept_only_where_they_are_used(world, settings):
    small = make(world, *settings)
    experience, method = small.collect(), small.method
    assert (experience.trajectory.process_rewards is not None) == (method.process is not None)
    moving = method.distillation is not None and method.distillation.anchor == "policy"
    assert (experience.velocities is not None) == (moving or method.objective.needs.velocities)
    assert bool(experience.trajectory.reward_gradients) == method.guided
    assert (small.process_reward is not None) == method.needs_process_reward
    if method.guided:
        assert sorted(experience.trajectory.reward_gradients) == list(range(1, NUM_STEPS))
        for gradient in experience.trajectory.reward_gradients.values():
            assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()
    if experience.velocities is not None:
        for step in set(experience.steps.flatten().tolist()):
            sigma = torch.full((len(experience.steps),), float(small.sampler().sigmas[step]))
            velocity = small.policy.velocity(experience.trajectory.state(step), sigma, experience.condition)
            assert torch.equal(experience.velocities[step], velocity)


@pytest.mark.parametrize("at", ["state", "x0_hat"])
def test_velocities_are_kept_once_a_step_wherever_the_gradient_is_taken(world, at):
    small = make(world, "euphonium_published", *MOVING, f"sampler.guidance.at={at}")
    experience = small.collect()
    assert experience.velocities.shape == experience.trajectory.states[1:].shape
    assert not experience.velocities.requires_grad
    small.update(experience)


def test_a_generator_for_a_sample_and_step_depends_on_nothing_else(world):
    """Neither on the batch and its group size, nor on which pairs are asked for together."""
    small = make(world, "dance_grpo", **BLIND)
    together, alone = small.collect(2), small.collect(2, prompts=PROMPTS[1:], first=1)
    later = small.collect(3)

    def numbers(experience: Experience, purpose: str, samples: list[int], steps: list[int]) -> torch.Tensor:
        made = experience.generators(purpose, torch.tensor(samples), torch.tensor(steps))
        return torch.stack([torch.randn(4, generator=generator) for generator in made])

    every = [(sample, step) for sample in range(4) for step in range(3)]
    drawn = numbers(together, "a", *zip(*every, strict=True))
    assert len(drawn.unique(dim=0)) == len(every)
    for number, (sample, step) in enumerate(every):
        assert torch.equal(numbers(together, "a", [sample], [step])[0], drawn[number])
        if sample >= 2:
            assert torch.equal(numbers(alone, "a", [sample - 2], [step])[0], drawn[number])
    for other in (numbers(together, "b", [0], [0]), numbers(later, "a", [0], [0])):
        assert not torch.equal(other[0], drawn[0])


@ALL
def test_collecting_leaves_the_policy_and_the_global_generator_alone(world, name):
    small = make(world, name)
    before, numbers = small.learner.weights.state_dict(), torch.get_rng_state()
    experience = small.collect()
    after = small.learner.weights.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(numbers, torch.get_rng_state())
    assert not experience.trajectory.states.requires_grad
    assert not experience.trajectory.log_probs.requires_grad
    assert all(parameter.grad is None for parameter in small.learner.weights.parameters)


def test_a_failed_reward_stops_the_collection_and_names_prompt_and_iteration(world: Path):
    def broken(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        values = torch.zeros(len(prompts))
        values[3] = torch.nan
        return values

    small = make(world, "dance_grpo", rewards={"judge": broken})
    with pytest.raises(RewardError, match=rf"'judge' returned nan for prompt '{PROMPTS[1]}' at iteration 5"):
        small.collect(4)


def test_a_velocity_that_is_not_finite_stops_the_collection_at_its_step(world: Path):
    small = make(world, "dance_grpo")
    with torch.no_grad():
        small.policy.transformer.proj_out.bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="the velocity is NaN or infinite at step 0"):
        small.collect()
