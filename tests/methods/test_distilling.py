"""What is distilled: a target that stands still or moves, whose gradient it takes, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from methods import CATALOG
from methods.batches import Transitions
from methods.distilling import Distiller, Target
from methods.experience import Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.naming import changed
from samplers import (
    GaussianPolicy,
    Guidance,
    Noise,
    NonFiniteError,
    Sampler,
    SamplerSettings,
)
from tests.methods.small import MOVING, Small, make, move, pairs_of
from tests.methods.test_special_cases import assert_same_training
from tests.samplers.gaussian import order

EVERY_STEP = "objective.train_fraction=1.0"
#: Rollouts that are guided as well as what is distilled.
GUIDED = ("sampler.guidance={strength: 4, start: 1, clip: 10}",)
CLEAN = ("sampler.guidance={strength: 0, at: x0_hat}",)
BY_OUTCOME = (*CLEAN, "outcome_guidance={estimator: autograd}")
ESTIMATED = (*CLEAN, "outcome_guidance={directions: 2}")


# Gaussian data with a linear reward, where an exact update and all that comes of it are known.
MEAN, STD, SLOPE, BETA = 0.8, 0.5, 0.6, 0.4
BASE = GaussianPolicy(MEAN, STD)
TILT = STD**2 * SLOPE / BETA


def soft_value(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
    """log h of the base model, for the reward SLOPE x."""
    return BASE.soft_value(x, sigma, SLOPE, BETA)


@dataclasses.dataclass(frozen=True)
class Anything:
    """The condition of policies that read none."""

    prompts: tuple[str, ...]

    def select(self, rows: list[int]) -> Anything:
        return Anything(tuple(self.prompts[row] for row in rows))


Velocity = Callable[[Tensor, Tensor, object], Tensor]


@dataclass(frozen=True)
class Gaussians:
    """The networks of a run, as a distiller sees them: a Gaussian base model and what has become of it."""

    sampler: Sampler
    rewards: Rewards
    policy: SimpleNamespace
    iteration: int = 0

    def velocity(self, of: str, x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        return (BASE if of == "base" else self.policy).velocity(x, sigma, condition)


def gaussian_method(anchor: str, num_steps: int) -> Method:
    """One whose guidance is exact for memoryless noise: log h at strength 2 (docs/theory.md).

    Unshifted sigmas of a power of two are the same in float32, in which policies are asked, and in float64.
    """
    return changed(
        CATALOG["dance_grpo"],
        {
            "sampler": {"num_steps": num_steps, "noise": {"kind": "memoryless"}},
            "distillation": {"weight": 1.0, "anchor": anchor, "strength": 2.0},
        },
        "gaussian",
    )


def updated(now: Velocity, method: Method) -> Velocity:
    """The policy after an exact update: its velocity is the target that the package makes for it."""
    sampler = Sampler(method.sampler)
    rewards = Rewards({}, {}, soft_value, lambda latents: latents)

    def velocity(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        step = (sigma[:, None] - sampler.sigmas[:-1]).abs().argmin(dim=1)
        rows = torch.arange(len(x))
        seen = now(x, sigma, condition) if method.distillation.anchor == "policy" else None
        nothing = torch.zeros(len(x))
        prompts = Anything(("",) * len(x))
        pairs = Transitions(rows, step, x, prompts, nothing[None], x, nothing, None, seen)
        at = Gaussians(sampler, rewards, SimpleNamespace(velocity=now))
        target = Distiller(method, at).targets(pairs, [])
        return target.velocity

    return velocity


def after(updates: int, method: Method) -> Velocity:
    policy = BASE.velocity
    for _ in range(updates):
        policy = updated(policy, method)
    return policy


def end(policy: Velocity, num_steps: int) -> tuple[float, float]:
    """Mean and standard deviation of the ODE's samples: the velocity is affine, so two of them say it all."""
    ode = Sampler(SamplerSettings(num_steps=num_steps, noise=Noise(kind="zero")))
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    at_zero, at_one = ode.rollout(policy, points).final.flatten().tolist()
    return at_zero, at_one - at_zero


@pytest.mark.parametrize(
    ("anchor", "updates", "tilts"),
    [("base", 1, 1), ("base", 2, 1), ("base", 5, 1), ("policy", 1, 1), ("policy", 3, 3)],
)
def test_repeated_exact_updates_stay_at_the_tilted_density_or_leave_it(anchor, updates, tilts):
    """On N(mu, s^2) the samples' mean goes to mu + s^2 a / beta and stays; a moving target adds that every time.

    With memoryless noise c / b = -t / (1 - t) at any step size, and v_base + (c / b) grad log h *is* the velocity of
    the tilted data, in floating point as well. Only the first step, where log h is flat and g is bounded, is not
    moved: an error of the order of its size, as the ODE's own.
    """
    method = gaussian_method(anchor, 16)
    policy, tilted = after(updates, method), GaussianPolicy(MEAN + tilts * TILT, STD)
    x = torch.linspace(-2, 3, 7, dtype=torch.float64)[:, None]
    for sigma in Sampler(method.sampler).sigmas[1:-1].tolist():
        t = torch.full((7,), sigma)
        torch.testing.assert_close(policy(x, t, None), tilted.velocity(x, t), rtol=1e-12, atol=1e-12)
    first = torch.ones(7)
    assert torch.equal(policy(x, first, None), BASE.velocity(x, first))
    ends = [end(after(updates, gaussian_method(anchor, n)), n) for n in (16, 32)]
    assert ends[0][1] == pytest.approx(end(BASE.velocity, 16)[1], abs=1e-12)  # no wider, no narrower
    errors = [abs(mean - float(tilted.mean)) for mean, _ in ends]
    assert errors[1] < 0.02 * (1 + tilts)
    assert order(*errors) == pytest.approx(1, abs=0.1)


def test_a_target_that_stands_still_is_the_same_bit_for_bit_after_every_exact_update():
    method = gaussian_method("base", 8)
    first, fifth = (after(updates, method) for updates in (1, 5))
    x = torch.linspace(-2, 3, 7, dtype=torch.float64)[:, None]
    for sigma in Sampler(method.sampler).sigmas[:-1].tolist():
        assert torch.equal(first(x, torch.full((7,), sigma), None), fifth(x, torch.full((7,), sigma), None))


# The tiny world from here on.


def targets(small: Small, experience: Experience, iteration: int = 0) -> tuple[Transitions, Target]:
    """All trained pairs and their targets, anchored at the policy as it is now where they are anchored at a policy."""
    if experience.velocities is not None:
        trajectory, now = experience.trajectory, torch.zeros_like(experience.velocities)
        for state, x in zip(trajectory.kept[:-1], trajectory.states[:-1], strict=True):
            sigma = trajectory.sigmas[state].float().expand(len(x))
            now[state] = small.policy.velocity(x, sigma, experience.condition).detach()
        experience = dataclasses.replace(experience, velocities=now)
    learner = small.learner
    pairs = pairs_of(small, experience)
    at = dataclasses.replace(learner._at(experience), iteration=iteration, sampler=small.sampler(iteration))
    target = learner._target(pairs, experience, at)
    assert target is not None
    return pairs, target


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize(
    ("settings", "stands"),
    [
        (("euphonium",), True),
        (("euphonium", *CLEAN), True),
        (("euphonium", *BY_OUTCOME), True),
        (("euphonium", *ESTIMATED), True),
        (("euphonium", *GUIDED), True),
        (("euphonium", "distillation.anchor=policy"), False),
        (("euphonium_published", *MOVING), False),
    ],
    ids=["state", "clean", "outcome", "estimated", "reused", "policy", "published"],
)
def test_a_target_anchored_at_the_base_model_does_not_move_with_the_policy(world, settings, stands, weights):
    small = make(world, *settings, EVERY_STEP, weights=weights)
    experience = small.collect()
    first = targets(small, experience)[1]
    assert torch.equal(targets(small, experience)[1].velocity, first.velocity)
    small.update(experience)
    move(small, 0.05)
    for iteration in (0, 7):
        later = targets(small, experience, iteration)[1].velocity
        assert torch.equal(later, first.velocity) == stands
    if not stands:
        assert (later - first.velocity).abs().max() > 1e-3


def test_strength_0_is_the_kl_to_the_base_model_bit_for_bit(world, monkeypatch):
    """Against a divergence from the base model that the test adds to the loss of a method without distillation."""
    one = make(world, "flow_grpo", "distillation={weight: 0.7, strength: 0}")
    two = make(world, "flow_grpo", "distillation=null")
    learner, last = two.learner, {}
    parts, velocity = learner._parts, two.policy.velocity

    def noting(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        last["velocity"] = velocity(x, sigma, condition)
        return last["velocity"]

    def with_kl(pairs, target, at):
        assert target is None
        found, figures = parts(pairs, None, at)
        with torch.no_grad(), learner.weights.reference():
            base = velocity(pairs.x, at.sampler.sigmas[pairs.step].float(), pairs.condition)
        kl = at.sampler.kl_divergence(last["velocity"], base, pairs.step).mean()
        return {**found, "kl": 0.7 * kl}, {**figures, "kl_to_base": kl.item()}

    monkeypatch.setattr(two.policy, "velocity", noting)
    monkeypatch.setattr(learner, "_parts", with_kl)
    assert_same_training(one, two)


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_strength_0_is_what_unguided_rollouts_give(world, weights):
    own = make(world, "flow_grpo", "distillation={weight: 0.7, strength: 0}", weights=weights)
    theirs = make(
        world,
        "flow_grpo",
        "distillation={weight: 0.7}",
        "sampler.guidance.strength=0",
        weights=weights,
    )
    assert own.process_reward is theirs.process_reward is None
    assert_same_training(own, theirs)


class Asked:
    """A process reward that notes what is asked of it."""

    def __init__(self, small: Small) -> None:
        self.reward = small.process_reward
        self.states: list[Tensor] = []
        self.differentiated = 0
        small.learner.rewards = dataclasses.replace(small.learner.rewards, process=self)

    def __call__(self, x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        self.states.append(x.detach())
        self.differentiated += len(x) * x.requires_grad
        assert x.is_leaf
        return self.reward(x, sigma, condition)


def watch(small: Small, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Tensor, bool]]]:
    """Notes (states, whether a graph was built) of every evaluation of "base" and "policy" from now on."""
    seen: dict[str, list[tuple[Tensor, bool]]] = {"base": [], "policy": []}
    velocity, reference, at_base = small.policy.velocity, small.learner.weights.reference, []

    def noting(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        result = velocity(x, sigma, condition)
        seen["base" if at_base else "policy"].append((x, result.requires_grad))
        return result

    @contextmanager
    def entered() -> Iterator[None]:
        with reference():
            at_base.append(True)
            yield
            at_base.pop()

    monkeypatch.setattr(small.policy, "velocity", noting)
    monkeypatch.setattr(small.learner.weights, "reference", entered)
    return seen


def same_rows(first: list[Tensor], second: Tensor) -> bool:
    """Whether two collections of distinct states are the same, in whatever order."""
    one, two = torch.cat(first).flatten(1), second.flatten(1)
    return len(one) == len(two) and torch.equal(one[one[:, 0].argsort()], two[two[:, 0].argsort()])


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_what_an_update_of_euphonium_costs(world, monkeypatch, weights):
    """One gradient of the process reward and one velocity of the base model for each trained pair, and no graph."""
    small = make(world, "euphonium", "objective.train_fraction=0.7", weights=weights, micro_batch=3)
    asked = Asked(small)
    experience = small.collect()
    assert asked.states == []  # the rollouts are unguided
    pairs = pairs_of(small, experience)
    assert len(pairs) == 8
    seen = watch(small, monkeypatch)
    small.update(experience)
    assert same_rows(asked.states, pairs.x)
    assert asked.differentiated == len(pairs)
    for network, graph in (("base", False), ("policy", True)):
        assert same_rows([x for x, _ in seen[network]], pairs.x)
        assert all(built == graph for _, built in seen[network])
    _, target = targets(small, experience)
    assert not target.velocity.requires_grad
    assert not target.base.requires_grad
    assert all(parameter.grad is None for parameter in small.process_reward.parameters())


@pytest.mark.parametrize("settings", [CLEAN, BY_OUTCOME], ids=["process", "outcome"])
@pytest.mark.parametrize("anchor", ["base", "policy"])
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_target_at_the_clean_estimate_leaves_no_gradient_in_any_weight(
    world, monkeypatch, settings, anchor, weights
):
    """Its graph leads through a network, once for each pair, but to the state alone."""
    small = make(world, "euphonium", f"distillation.anchor={anchor}", *settings, weights=weights)
    experience = small.collect()
    move(small, 0.05)
    learner = small.learner
    pairs = pairs_of(small, experience)
    seen = watch(small, monkeypatch)
    target = learner._target(pairs, experience, learner._at(experience))
    assert [network for network, calls in seen.items() if calls] == [anchor]
    assert same_rows([x for x, _ in seen[anchor]], pairs.x)
    assert not target.velocity.requires_grad
    assert all(parameter.grad is None for parameter in small.policy.transformer.parameters())
    assert (target.base is not None) == (anchor == "base")


@pytest.mark.parametrize("anchor", ["base", "policy"])
def test_gradients_that_guided_the_rollouts_serve_the_target(world, anchor):
    """They are those that a target of unguided rollouts takes afresh at the same states, and are not taken again."""
    settings = ("euphonium", f"distillation.anchor={anchor}", "objective.train_fraction=1.0")
    small = make(world, *settings, *GUIDED)
    asked = Asked(small)
    experience = small.collect()
    guided = (len(experience.trajectory.sigmas) - 2) * len(experience.steps)  # from step 1 on
    assert asked.differentiated == guided
    afresh = make(world, *settings, GUIDED[0].replace("strength: 4", "strength: 0"))
    assert not afresh.method.reuses_gradient
    asked.differentiated = 0
    found, expected = (targets(one, experience)[1] for one in (small, afresh))
    assert asked.differentiated == 0
    torch.testing.assert_close(found.velocity, expected.velocity, atol=1e-6, rtol=1e-6)
    assert torch.equal(found.counts, expected.counts)
    small.update(experience)
    assert asked.differentiated == 0


def test_at_the_clean_estimate_the_base_models_gradient_is_not_the_rollouts(world):
    """Once the policy has left the base model, its rollouts' gradients went through another network."""
    small = make(world, "euphonium", "sampler.guidance={strength: 4, at: x0_hat}", EVERY_STEP)
    asked = Asked(small)
    move(small, 0.2)
    experience = small.collect()
    asked.differentiated = 0
    pairs, target = targets(small, experience)
    assert asked.differentiated == len(pairs)
    sampler = small.sampler().guided_by(Guidance(strength=16.0))
    reused = sampler.distillation_target(target.base, pairs.gradient, pairs.step)
    assert (reused - target.velocity).abs().max() > 1e-4


def test_where_no_step_of_an_iteration_is_guided_the_target_is_its_anchor(world):
    """A window of noise that moves may miss the guided steps altogether."""
    window = ("sampler.window={kind: range, start: 0, stop: 2}", "sampler.guidance={strength: 4, start: 2}")
    for anchor, counted in (("base", 1.0), ("policy", 0.0)):
        small = make(world, "euphonium", f"distillation.anchor={anchor}", *window, EVERY_STEP)
        experience = small.collect()
        assert not experience.trajectory.reward_gradients
        pairs, target = targets(small, experience)
        assert torch.equal(target.counts, torch.full((len(pairs),), counted))
        assert torch.equal(target.velocity, pairs.velocity if target.base is None else target.base)
        small.update(experience)


def test_a_target_has_the_noise_of_the_window_as_it_is_now(world):
    """The target's guidance acts where the noise of this iteration is."""
    window = ("sampler.window={kind: sliding, count: 1, stop: 3}", "distillation.anchor=policy", EVERY_STEP)
    small = make(world, "euphonium", *window)
    for iteration in range(3):
        pairs, target = targets(small, small.collect(iteration), iteration)
        assert (pairs.step == iteration).all()
        assert (target.counts == 1).all()
        assert ((target.velocity - pairs.velocity).flatten(1).abs().amax(dim=1) > 1e-4).all()


def test_directions_are_each_pairs_own_and_new_in_every_iteration(world):
    small = make(world, "euphonium", *ESTIMATED, EVERY_STEP)
    experience = small.collect()
    pairs = pairs_of(small, experience)
    drawn = []

    class Noting(Distiller):
        def targets(self, pairs, generators):
            drawn.append(torch.stack([torch.rand(4, generator=generator) for generator in generators]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("methods.update.Distiller", Noting)
        for seen in (
            experience,
            dataclasses.replace(experience, draw=dataclasses.replace(experience.draw, iteration=1)),
        ):
            small.learner._target(pairs, seen, small.learner._at(seen))
    assert len(torch.cat(drawn).unique(dim=0)) == 2 * len(pairs)


@pytest.mark.parametrize("settings", [(), CLEAN], ids=["state", "clean"])
def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_step(world, settings):
    small = make(world, "euphonium", *settings, EVERY_STEP)
    experience = small.collect()
    broken = experience.trajectory.states[2, 1]
    reward = small.process_reward

    def not_finite(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        scale = torch.ones(len(x))
        same = (x - broken).flatten(1).abs().amax(dim=1) == 0 if not settings else torch.arange(len(x)) == 5
        return reward(x, sigma, condition) * scale.masked_fill(same, torch.nan)

    small.learner.rewards = dataclasses.replace(small.learner.rewards, process=not_finite)
    before = small.learner.weights.state_dict()
    message = (
        r"gradient for the distillation's target is not finite at step 2 \(sigma 0\.\d+\), in 1 of 12 pairs"
    )
    with pytest.raises(NonFiniteError, match=message):
        small.update(experience)
    after = small.learner.weights.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
