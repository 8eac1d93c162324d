"""Guidance by the outcome rewards: which reward guides and which one scores, and that its gradient is the gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch

from methods import CATALOG
from methods.guiding import Rewards
from methods.method import Method
from methods.naming import changed
from methods.seeding import generator
from rewards.base import OutcomeReward, ProcessReward, RewardError
from rewards.gradients import DecodedReward, ZerothOrderReward
from rewards.process import LatentProcessReward
from rewards.provenance import Provenance
from rewards.suites import suite_named
from samplers import GaussianPolicy, Sampler, Trajectory, reward_value_and_gradient
from samplers.pipeline import PipelinePolicy
from tests.world import world_policy

PROMPTS = ("a small red ball moving left", "a large blue ball moving up")
WEIGHTS = suite_named("shapes").training
STEPS, GUIDED = 4, (2, 3)


def by_outcome(*, process: bool = False, strength: float = 2.0, **source: object) -> Method:
    """The published Euphonium, guided by the outcome rewards on the last two of four steps."""
    changes = {
        "sampler.num_steps": STEPS,
        "sampler.guidance": {"strength": strength, "start": GUIDED[0], "at": "x0_hat"},
        "outcome_guidance": {"directions": 2, **source},
    }
    published = CATALOG["euphonium_published"]
    return changed(published, changes if process else {**changes, "process": None}, "by_outcome")


def rewards_of(
    outcomes: Mapping[str, OutcomeReward],
    weights: Mapping[str, float],
    process: ProcessReward | None = None,
    decode: Callable[[torch.Tensor], torch.Tensor] = lambda latents: latents,
) -> Rewards:
    return Rewards(outcomes, weights, process, decode)


@dataclass(frozen=True)
class Texts:
    prompts: tuple[str, ...]


def process(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    """A process reward in closed form, whose gradient is no outcome's."""
    return -3 * x.flatten(1).sum(dim=1)


def quadratic(videos: torch.Tensor, prompts: object) -> torch.Tensor:
    """A pixel reward in closed form: its gradient at x is -2 (x - 1)."""
    return -(videos - 1).square().flatten(1).sum(dim=1)


def linear(videos: torch.Tensor, prompts: object) -> torch.Tensor:
    return videos.flatten(1).sum(dim=1)


def directions_of(count: int, first: int = 0, seed: int = 0) -> list[torch.Generator]:
    return [generator(seed, "spsa", 0, row) for row in range(first, first + count)]


def gaussian_rollout(method: Method, count: int = 3) -> tuple[Sampler, Trajectory]:
    """A rollout of Gaussian data, "videos" being the latents themselves, guided by 2 quadratic + 0.5 linear."""
    rewards = rewards_of(
        {"quadratic": quadratic, "linear": linear},
        {"quadratic": 2.0, "linear": 0.5},
        process if method.needs_process_reward else None,
    )
    guide, score = rewards.of_rollouts(method, directions_of(count), 1)
    sampler = Sampler(method.sampler)
    start = torch.stack([torch.randn(3, 2, generator=generator(1, row)) for row in range(count)])
    steps = [generator(2, row) for row in range(count)]
    trajectory = sampler.rollout(
        GaussianPolicy(0.3, 0.7),
        start,
        Texts(("p",) * count),
        steps,
        guide=guide,
        score=score,
    )
    return sampler, trajectory


@pytest.mark.parametrize("estimator", ["spsa", "autograd"])
def test_outcome_guidance_follows_the_gradient_of_the_weighted_sum_through_the_clean_estimate(estimator):
    sampler, trajectory = gaussian_rollout(by_outcome(estimator=estimator, directions=1000))
    assert tuple(trajectory.reward_gradients) == GUIDED
    policy = GaussianPolicy(0.3, 0.7)
    for step, found in trajectory.reward_gradients.items():
        t = float(sampler.sigmas[step])
        clean, _ = policy.posterior(trajectory.state(step), torch.full((3,), t))
        at_clean = 2.0 * -2 * (clean - 1) + 0.5
        jacobian = (1 - t) * 0.7**2 / ((1 - t) ** 2 * 0.7**2 + t**2)
        if estimator == "autograd":
            torch.testing.assert_close(found.double(), jacobian * at_clean, rtol=1e-4, atol=1e-4)
            continue
        spread = jacobian * (at_clean.square().sum(dim=(1, 2), keepdim=True) / 1000).sqrt()
        assert ((found - jacobian * at_clean).abs() < 5 * spread).all()
        assert (found.abs() > 5 * spread).any()  # the test could tell it from no gradient


@pytest.mark.parametrize("estimator", ["spsa", "autograd"])
def test_the_process_reward_is_recorded_where_the_outcome_guides(estimator):
    """The dual reward's process term keeps its values; no step is moved by the process reward's gradient."""
    sampler, alone = gaussian_rollout(by_outcome(estimator=estimator))
    _, both = gaussian_rollout(by_outcome(process=True, estimator=estimator))
    assert alone.process_rewards is None
    assert torch.equal(alone.states, both.states)
    for step in GUIDED:
        assert torch.equal(alone.reward_gradients[step], both.reward_gradients[step])
    for step in range(STEPS):
        x, t = both.state(step), torch.full((3,), float(sampler.sigmas[step]))
        clean, _ = GaussianPolicy(0.3, 0.7).posterior(x, t)
        torch.testing.assert_close(
            both.process_rewards[step].double(), process(clean, t, None), rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(both.process_rewards[-1], process(both.final, torch.zeros(3), None))


#: Euphonium guides what is distilled, at the state; here at the clean estimate, so that outcome rewards can do so.
TARGET = changed(CATALOG["euphonium"], {"sampler.guidance": {"strength": 0.0, "at": "x0_hat"}}, "target")


def test_the_source_of_guidance_is_a_setting_and_nothing_else():
    outcome, exact = by_outcome(process=True), {"outcome_guidance.estimator": "autograd"}
    for method, kind in (
        (outcome, ZerothOrderReward),
        (changed(outcome, exact, "x"), DecodedReward),
        (by_outcome(), ZerothOrderReward),
        (changed(by_outcome(), exact, "x"), DecodedReward),
        (by_outcome(strength=0.0), type(None)),
        (CATALOG["dance_grpo"], type(None)),
        (CATALOG["euphonium"], type(None)),  # its rollouts are not guided, what it distils is
        (TARGET, type(None)),
    ):
        rewards = rewards_of({"a": linear}, {"a": 1.0}, process if method.needs_process_reward else None)
        guide, score = rewards.of_rollouts(method, [], 1)
        assert type(guide) is kind
        assert score is (None if method.process is None else process)
    chosen, rewards = by_outcome(directions=3, radius=0.5), rewards_of({"a": linear}, {"a": 1.0})
    for guide in (rewards.of_rollouts(chosen, [], 6)[0], rewards.guide(chosen, [], 6)):
        assert (guide.directions, guide.radius, guide.iteration) == (3, 0.5, 6)
    assert rewards.guide(changed(chosen, exact, "x"), [], 6).iteration == 6
    scored = rewards_of({"a": linear}, {"a": 1.0}, process)
    for method in (
        changed(outcome, {"outcome_guidance": None}, "by_process"),
        by_outcome(process=True, strength=0.0),
        changed(CATALOG["dance_grpo"], {"process.weight": 1.0}, "scored"),
    ):
        guide, score = scored.of_rollouts(method, [], 1)
        assert score is process
        assert guide is (process if method.guided else None)
    for method in (CATALOG["euphonium"], TARGET, changed(CATALOG["euphonium"], {"process.weight": 1.0}, "x")):
        assert scored.guide(method, [], 1) is process
    assert type(scored.guide(changed(TARGET, exact, "x"), [], 1)) is DecodedReward


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        (CATALOG["euphonium_published"], "of_rollouts"),
        (by_outcome(process=True), "of_rollouts"),
        (changed(CATALOG["dance_grpo"], {"process.weight": 1.0}, "scored"), "of_rollouts"),
        (CATALOG["euphonium"], "guide"),
    ],
    ids=["guide", "score beside a guide", "score", "target"],
)
def test_a_process_reward_that_is_needed_and_missing_is_an_error(method, ask):
    with pytest.raises(ValueError, match=r"needs a process reward and none was given.*outcome_guidance"):
        getattr(rewards_of({"a": linear}, {"a": 1.0}), ask)(method, [], 1)


@pytest.fixture(scope="module")
def policy(world):
    return world_policy(world)


def tiny_reward(policy: PipelinePolicy, method: Method, rows: range, seed: int = 0, **more: object):
    """Guidance of the tiny world's policy: brightness and a quadratic reward of its decoded videos."""
    rewards = {
        "caption_match": lambda videos, prompts: -(videos - 0.5).square().flatten(1).mean(dim=1),
        "motion_quality": lambda videos, prompts: videos.flatten(1).mean(dim=1),
    }
    generators = directions_of(len(rows), rows.start, seed)
    score = more.pop("score", None)
    return rewards_of({**rewards, **more}, WEIGHTS, score, policy.decode).of_rollouts(method, generators, 5)[
        0
    ]


def tiny_rollout(
    policy: PipelinePolicy, method: Method, rows: range = range(4), seed: int = 0, **more: object
) -> Trajectory:
    return Sampler(method.sampler).rollout(
        policy,
        policy.initial_noise([generator(0, "initial", row) for row in rows]),
        policy.encode([PROMPTS[row % 2] for row in rows]),
        [generator(0, "steps", row) for row in rows],
        guide=tiny_reward(policy, method, rows, seed, **more),
        score=more.get("score"),
    )


def test_the_estimate_through_the_decoder_is_the_gradient(policy):
    """Against autograd through the same decoder; 32 elements and n directions give a cosine near sqrt(n / (n + 31))."""
    count = 64
    reward = tiny_reward(policy, by_outcome(directions=count, radius=0.02), range(2))
    x = policy.initial_noise([generator(0, row) for row in range(2)])
    values, found = reward_value_and_gradient(reward, x, torch.zeros(2), policy.encode(PROMPTS))
    leaf = x.requires_grad_(True)
    videos = policy.decode(leaf)
    pixels = -(videos - 0.5).square().flatten(1).mean(dim=1), videos.flatten(1).mean(dim=1)
    exact_values = WEIGHTS["caption_match"] * pixels[0] + WEIGHTS["motion_quality"] * pixels[1]
    (exact,) = torch.autograd.grad(exact_values.sum(), leaf)
    torch.testing.assert_close(values, exact_values, rtol=1e-4, atol=1e-5)
    cosine = torch.cosine_similarity(found.flatten(1), exact.flatten(1))
    expected = (count / (count + x[0].numel() - 1)) ** 0.5
    assert (cosine - expected).abs().max() < 0.12
    along = (found * exact).flatten(1).sum(dim=1) / exact.flatten(1).square().sum(dim=1)
    assert (along - 1).abs().max() < 0.4
    decoded = tiny_reward(policy, by_outcome(estimator="autograd"), range(2))
    values, found = reward_value_and_gradient(decoded, x.detach(), torch.zeros(2), policy.encode(PROMPTS))
    torch.testing.assert_close(values, exact_values.detach())
    torch.testing.assert_close(found, exact)


def test_a_guided_rollout_repeats_and_depends_on_the_directions_seed(policy):
    method = by_outcome(strength=500.0)
    first, again = (tiny_rollout(policy, method) for _ in range(2))
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.log_probs, again.log_probs)
    other = tiny_rollout(policy, method, seed=1)
    before = range(GUIDED[0] + 1)
    assert torch.equal(first.states[before], other.states[before])
    assert (first.final - other.final).flatten(1).abs().amax(dim=1).min() > 1e-3


def test_a_sample_is_guided_alike_in_every_batch(policy):
    method = by_outcome(strength=50.0)
    together = tiny_rollout(policy, method)
    for row in range(4):
        alone = tiny_rollout(policy, method, range(row, row + 1))
        torch.testing.assert_close(alone.states[:, 0], together.states[:, row], atol=1e-4, rtol=0)


def test_the_worlds_process_reward_scores_while_the_outcome_guides(world, policy):
    score = LatentProcessReward.load(world / "process_reward", Provenance.of(policy.pipeline))
    scored = tiny_rollout(policy, by_outcome(process=True), score=score)
    plain = tiny_rollout(policy, by_outcome())
    assert torch.equal(scored.states, plain.states)
    assert scored.process_rewards.shape == (STEPS + 1, 4)
    condition = policy.encode([PROMPTS[row % 2] for row in range(4)])
    with torch.no_grad():
        last = score(scored.final, torch.zeros(4), condition)
    torch.testing.assert_close(scored.process_rewards[-1], last)


@pytest.mark.parametrize("estimator", ["spsa", "autograd"])
def test_a_reward_that_fails_where_it_guides_names_itself_its_prompt_and_the_iteration(policy, estimator):
    def broken(videos: torch.Tensor, prompts: object) -> torch.Tensor:
        return torch.tensor([0.0, torch.nan, 0.0, 0.0])

    message = rf"'motion_quality' returned nan for prompt '{PROMPTS[1]}' at iteration 5"
    with pytest.raises(RewardError, match=message):
        tiny_rollout(policy, by_outcome(estimator=estimator), motion_quality=broken)
