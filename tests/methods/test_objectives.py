"""Every objective on Gaussian data, where the policy is its mean and all that a loss should do is known."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import CATALOG
from methods.batches import Noised, Transitions, noised
from methods.experience import Draw, Experience
from methods.losses import matching_log_prob, negative_aware_loss, negative_aware_losses
from methods.method import Method
from methods.objectives import (
    OBJECTIVES,
    AdvantageWeighted,
    ClippedRatio,
    DirectReward,
    DivergenceMask,
    GuardedRatio,
    NegativeAware,
    Objective,
    Preference,
    RejectionSampling,
)
from methods.objectives.divergence_mask import masked_loss
from methods.seeding import generator
from methods.terms import reward_terms, step_advantages
from samplers import GaussianPolicy, Sampler, build

MEAN, STD, SHAPE, GROUP, STEPS = 0.4, 0.6, (4,), 8, 6
#: Kinds that score the rollouts' own steps; the others learn from finished samples.
STEPWISE = [kind for kind, objective in OBJECTIVES.items() if objective().needs.density]


@dataclass
class Prompts:
    """The condition of a policy that reads none."""

    prompts: tuple[str, ...]
    branches: int = 1

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, positions: list[int]) -> Prompts:
        return Prompts(tuple(self.prompts[i] for i in positions))


@dataclass
class Gaussian:
    """A policy whose data are Gaussian, seen as a loss sees a run. Its mean is what is trained."""

    sampler: Sampler
    mean: Tensor = field(default_factory=lambda: torch.tensor(MEAN, requires_grad=True))
    old: float = MEAN
    iteration: int = 0
    names: tuple[str, ...] = ("sum",)

    @property
    def weights(self) -> Tensor:
        return torch.ones(1)

    def velocity(self, of: str, x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        mean = {"policy": self.mean, "base": torch.tensor(MEAN), "old": torch.tensor(self.old)}[of]
        return GaussianPolicy(mean, STD).velocity(x, sigma).float()

    def reward(self, latents: Tensor, condition: object) -> Tensor:
        return latents.flatten(1).sum(dim=1)


def sampler_for(objective: Objective) -> Sampler:
    """Flow-GRPO's noise, or the ODE where noise is refused."""
    noisy = build("flow_grpo", num_steps=STEPS)
    return build("ode", num_steps=STEPS, shift=3.0) if objective.refusal(noisy) else noisy


def drawn(objective: Objective, groups: int = 200, seed: int = 0) -> tuple[Experience, Gaussian, Tensor]:
    """Rollouts of the Gaussian policy, rewarded by the sum of their elements; the policy; their advantages."""
    sampler = sampler_for(objective)
    at, count = Gaussian(sampler), groups * GROUP
    noise = torch.randn(count, *SHAPE, generator=generator(seed, "start"))
    velocities: list[Tensor] = []

    def velocity(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        velocities.append(at.velocity("base", x, sigma, condition))
        return velocities[-1]

    condition = Prompts(("p",) * count)
    trajectory = sampler.rollout(velocity, noise, condition, generator(seed, "steps"))
    draw = Draw(seed, 0, ("p",) * groups)
    steps = torch.stack([objective.steps(sampler, generator(seed, "trained", row)) for row in range(count)])
    rewards = {"sum": trajectory.final.flatten(1).sum(dim=1)}
    experience = Experience(
        draw, trajectory, torch.stack(velocities), condition, rewards, steps, torch.arange(count)
    )
    method = CATALOG["dance_grpo"].model_copy(update={"group_size": GROUP})
    advantages = step_advantages(experience, method, reward_terms(method, {"sum": 1.0}))
    return experience, at, advantages


def total(objective: Objective, pairs: Any, at: Gaussian) -> Tensor:
    return torch.stack([part.mean() for part in objective.loss(pairs, at).parts.values()]).sum()


def slope(objective: Objective, pairs: Any, at: Gaussian) -> float:
    """The loss's derivative in the policy's mean."""
    (gradient,) = torch.autograd.grad(total(objective, pairs, at), at.mean)
    return gradient.item()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_step_down_the_loss_raises_the_expected_reward(kind):
    """The expected reward is the mean of the data times the number of elements, so its gradient in it is positive."""
    objective = OBJECTIVES[kind]()
    slopes = []
    for seed in range(4):
        experience, at, advantages = drawn(objective, seed=seed)
        slopes.append(slope(objective, objective.batch(experience, advantages, at), at))
    assert max(slopes) < 0
    assert abs(np.mean(slopes)) > 3 * np.std(slopes) / 2  # no matter of chance


@pytest.mark.parametrize("kind", STEPWISE)
def test_without_an_advantage_a_stepwise_loss_has_no_gradient(kind):
    objective = OBJECTIVES[kind]()
    experience, at, advantages = drawn(objective, groups=3)
    at.mean = torch.tensor(MEAN + 1e-3, requires_grad=True)
    assert slope(objective, objective.batch(experience, 0 * advantages, at), at) == 0


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_rows_loss_is_its_own(kind):
    """Computed with others or alone: otherwise the micro-batch would be a setting."""
    objective = OBJECTIVES[kind]()
    experience, at, advantages = drawn(objective, groups=3)
    pairs = objective.batch(experience, advantages, at)
    at.mean = torch.tensor(MEAN + 0.01, requires_grad=True)
    whole = objective.loss(pairs, at)
    for name, losses in whole.parts.items():
        assert losses.shape == (len(pairs),)
        for row in (0, len(pairs) // 2, len(pairs) - 1):
            alone = objective.loss(pairs.rows(torch.tensor([row])), at).parts[name]
            torch.testing.assert_close(alone, losses[[row]], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_network_is_asked_as_often_as_the_ledger_is_told(kind):
    objective = OBJECTIVES[kind]()
    experience, at, advantages = drawn(objective, groups=3)
    asked: list[int] = []
    velocity = at.velocity

    def noting(of: str, x: Tensor, *rest: Any) -> Tensor:
        asked.append(len(x))
        return velocity(of, x, *rest)

    at.velocity = noting  # type: ignore[method-assign]
    pairs = objective.batch(experience, advantages, at)
    objective.loss(pairs, at)
    assert sum(asked) == objective.evaluations(len(pairs))


# Losses of public implementations


DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "public_losses.json").read_text())


def load(case: dict[str, Any], part: str, name: str) -> Tensor:
    with np.load(DATA / "public_losses.npz") as arrays:
        return torch.from_numpy(np.asarray(arrays[case[part][name].replace("/", "__")]))


@pytest.mark.parametrize("case", [c for c in CASES if c["expected"] == "f27"], ids=lambda case: case["id"])
def test_the_negative_aware_loss_is_the_published_one(case):
    x0, xt, t, v, old, advantages = (
        load(case, "inputs", name) for name in ("x0", "xt", "t", "v", "v_old", "advantages")
    )
    v.requires_grad_(True)
    loss = negative_aware_loss(x0, xt, t, v, old, advantages, case["params"]["beta"])
    assert loss.item() == pytest.approx(load(case, "outputs", "loss").item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, v)
    torch.testing.assert_close(gradient, load(case, "outputs", "grad_v"), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c["expected"] == "f29"], ids=lambda case: case["id"])
def test_the_matching_likelihood_is_the_published_one(case):
    velocity, target, timestep = (
        load(case, "inputs", name) for name in ("model_output", "target", "timestep")
    )
    found = matching_log_prob(
        velocity, target, timestep / 1000, case["params"]["weighting"].lower(), case["params"]["ghuber_power"]
    )
    torch.testing.assert_close(found, load(case, "outputs", "log_prob"), atol=1e-6, rtol=1e-6)


def test_an_unknown_weighting_is_an_error():
    with pytest.raises(ValueError, match=r"weighting is 'none'; choose uniform, t, t\*\*2, huber, ghuber"):
        matching_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), "none")


# What each loss is at, or comes to rest at


def test_a_sure_success_draws_the_positive_policy_onto_the_sample_and_a_sure_failure_the_negative_one():
    """At r = 1 the loss vanishes where v_old + b (v - v_old) is the target; at r = 0 at its mirror image."""
    numbers = torch.Generator().manual_seed(0)
    x0, noise, old = (torch.randn(5, 3, generator=numbers, dtype=torch.float64) for _ in range(3))
    t, beta = torch.full((5,), 0.6, dtype=torch.float64), 0.2
    x_t = noised(x0, noise, t)
    for advantage, sign in ((7.0, 1), (-7.0, -1)):
        at_rest = (old + sign * (noise - x0 - old) / beta).requires_grad_(True)
        advantages = torch.full((5,), advantage, dtype=torch.float64)
        losses = negative_aware_losses(x0, x_t, t, at_rest, old, advantages, beta)
        assert losses.max() < 1e-20
    unsure = old.clone().requires_grad_(True)
    losses = negative_aware_losses(x0, x_t, t, unsure, old, torch.zeros(5, dtype=torch.float64), beta)
    (gradient,) = torch.autograd.grad(losses.sum(), unsure)
    assert gradient.abs().max() < 1e-14


def test_the_matching_ratio_is_one_before_the_update():
    objective = AdvantageWeighted()
    experience, at, advantages = drawn(objective, groups=2)
    figures = objective.loss(objective.batch(experience, advantages, at), at).figures
    assert figures["ratio_deviation"] == 0
    assert figures["clip_fraction"] == 0


def test_rejection_sampling_comes_to_rest_at_the_mean_of_the_samples_that_it_keeps():
    """Flow matching of a Gaussian family has its least loss where the mean is that of the kept samples."""
    objective = RejectionSampling(keep=2)
    experience, at, advantages = drawn(objective, groups=400)
    pairs = objective.batch(experience, advantages, at)
    kept = pairs.clean[pairs.step == 0]
    assert len(kept) == 800
    best = experience.rewards["sum"].view(-1, GROUP).topk(2, dim=1).values.flatten()
    assert kept.flatten(1).sum(dim=1).sort().values.tolist() == pytest.approx(best.sort().values.tolist())
    slopes = []
    for shift in (-0.1, 0.1):
        at.mean = (kept.mean() + shift).requires_grad_(True)
        slopes.append(slope(objective, pairs, at))
    assert slopes[0] < 0 < slopes[1]


def test_a_preference_begins_undecided_and_prefers_what_it_has_learnt():
    objective = Preference(beta=10.0)
    experience, at, advantages = drawn(objective, groups=50)
    pairs = objective.batch(experience, advantages, at)
    values = experience.rewards["sum"].view(-1, GROUP)
    assert len(pairs) == 50 * experience.steps.shape[1]
    better, worse = (side[pairs.step == 0].flatten(1).sum(dim=1) for side in (pairs.clean, pairs.worse))
    assert better.tolist() == pytest.approx(values.amax(dim=1).tolist())
    assert worse.tolist() == pytest.approx(values.amin(dim=1).tolist())
    begun = objective.loss(pairs, at).parts["outcome"]
    torch.testing.assert_close(begun, torch.full_like(begun, math.log(2)))
    at.mean = torch.tensor(MEAN + 0.2, requires_grad=True)
    learnt = objective.loss(pairs, at)
    assert learnt.figures["preferred"] > 0.8
    assert learnt.parts["outcome"].mean() < math.log(2)


def test_a_group_of_equal_rewards_prefers_nothing():
    objective = Preference()
    experience, at, advantages = drawn(objective, groups=3)
    advantages[:, :, :GROUP] = 0
    assert set((objective.batch(experience, advantages, at).sample // GROUP).tolist()) == {1, 2}


def test_the_preference_loss_is_diffusion_dpos_by_hand():
    objective = Preference(beta=7.0)
    experience, at, advantages = drawn(objective, groups=2)
    at.mean = torch.tensor(MEAN + 0.3, requires_grad=True)
    pairs = objective.batch(experience, advantages, at)
    found = objective.loss(pairs, at).parts["outcome"]
    for row in range(len(pairs)):
        t = at.sampler.sigmas[pairs.step[row]].float().view(1)
        terms = []
        for x0 in (pairs.clean[row], pairs.worse[row]):
            x = ((1 - t) * x0 + t * pairs.noise[row]).unsqueeze(0)
            gaps = [
                (at.velocity(of, x, t, None)[0] - (pairs.noise[row] - x0)).square().mean()
                for of in ("policy", "base")
            ]
            terms.append(gaps[0] - gaps[1])
        expected = -math.log(1 / (1 + math.exp(3.5 * (terms[0] - terms[1]).item())))
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("last", [1, 3])
def test_the_direct_gradient_is_that_of_the_reward_through_the_last_steps(last):
    """Against finite differences of whole rollouts that change their policy for the last steps only."""
    objective = DirectReward(last=last)
    experience, at, advantages = drawn(objective, groups=2)
    pairs = objective.batch(experience, advantages, at)

    def reward(mean: float) -> float:
        x, policy = experience.trajectory.state(STEPS - last).double(), GaussianPolicy(mean, STD)
        for step in range(STEPS - last, STEPS):
            t = float(at.sampler.sigmas[step])
            velocity = policy.velocity(x, torch.full((len(x),), t, dtype=torch.float64))
            x = x - (t - float(at.sampler.sigmas[step + 1])) * velocity
        return x.flatten(1).sum(dim=1).mean().item()

    expected = (reward(MEAN + 1e-4) - reward(MEAN - 1e-4)) / 2e-4
    assert -slope(objective, pairs, at) == pytest.approx(expected, rel=1e-3)
    assert -total(objective, pairs, at).item() == pytest.approx(reward(MEAN), rel=1e-5)


def test_refl_differentiates_the_clean_estimate_at_a_random_late_step():
    objective = DirectReward(through="estimate", last=3, scale=0.5)
    experience, at, advantages = drawn(objective, groups=10)
    pairs = objective.batch(experience, advantages, at)
    assert set(pairs.step.tolist()) == {3, 4, 5}
    sigma = at.sampler.sigmas[pairs.step].float()
    for row in range(0, len(pairs), 7):
        clean, _ = GaussianPolicy(MEAN, STD).posterior(pairs.x[row : row + 1], sigma[row : row + 1])
        found = objective.loss(pairs.rows(torch.tensor([row])), at).parts["outcome"]
        assert found.item() == pytest.approx(-0.5 * clean.sum().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (DirectReward(last=2), "the last 2 steps draw noise; set sampler.noise.kind to 'zero'"),
        (DirectReward(last=7), "objective.last is 7, more than sampler.num_steps, 6"),
        (GuardedRatio(), None),
        (ClippedRatio(), None),
    ],
)
def test_a_sampler_that_does_not_suit_is_refused(objective, message):
    found = objective.refusal(build("flow_grpo", num_steps=STEPS))
    assert (found is None) if message is None else (message in found)
    if objective.needs.density:
        assert "none of the steps that may be trained has noise" in objective.refusal(
            build("ode", num_steps=STEPS)
        )


# Corrections of the clipped ratio


def stepped(objective: Objective, mean: float) -> tuple[Transitions, Gaussian]:
    experience, at, advantages = drawn(objective, groups=2)
    at.mean = torch.tensor(mean, requires_grad=True)
    return objective.batch(experience, advantages, at), at


def test_the_guarded_ratio_is_the_product_of_noise_and_move_and_nothing_else():
    """log rho' = mean(e dmu), with mu_old + s e the state that was reached: centred, and no wider where s is small."""
    objective = GuardedRatio(clip_range=10.0, balanced=False)
    pairs, at = stepped(objective, MEAN + 0.05)
    sigma = at.sampler.sigmas[pairs.step].float()
    old = at.sampler.transition(pairs.x, at.velocity("old", pairs.x, sigma, None), pairs.step)
    new = at.sampler.transition(pairs.x, at.velocity("policy", pairs.x, sigma, None), pairs.step)
    noise = (pairs.x_next - old.mean) / old.std
    log_ratio = (noise * (new.mean - old.mean)).mean(dim=1)
    expected = -pairs.advantages[0] * log_ratio.exp()
    torch.testing.assert_close(objective.loss(pairs, at).parts["outcome"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_balanced_steps_have_gradients_of_one_size_in_the_velocity(shift):
    """At a ratio of 1 each step's is A e (1 + g^2 (1 - t) / (2 t)), and Flow-GRPO's g makes the bracket a constant."""
    sampler = build("flow_grpo", num_steps=STEPS, shift=shift)
    objective = GuardedRatio(clip_range=1e-3)
    sizes = []
    for step in range(1, STEPS):  # Flow-GRPO's g is bounded at the first
        x, noise = (torch.randn(4, 3, generator=generator(step, name)) for name in ("x", "e"))
        velocity = torch.randn(4, 3, generator=generator(step, "v"), requires_grad=True)
        steps = torch.full((4,), step)
        transition = sampler.transition(x, velocity.detach(), steps)
        x_next = transition.mean + transition.std * noise
        pairs = Transitions(
            torch.arange(4), steps, x, Prompts(("",) * 4), torch.full((1, 4), 2.0), x_next,
            transition.log_prob(x_next), None, velocity.detach(),
        )  # fmt: skip
        at = dataclasses.replace(Gaussian(sampler))
        at.velocity = partial(lambda known, *_: known, velocity)  # type: ignore[method-assign]
        (gradient,) = torch.autograd.grad(objective.loss(pairs, at).parts["outcome"].sum(), velocity)
        bracket = 1 + 0.7**2 / 2
        torch.testing.assert_close(gradient, 2.0 * noise * bracket / 3, atol=1e-4, rtol=1e-4)
        sizes.append(gradient.abs().mean().item() / noise.abs().mean().item())
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-3)


def test_noise_weighted_steps_have_the_published_constant():
    """TempFlow-GRPO's code multiplies by 2.25 std where this divides by the mean std of its steps."""
    std = build("flow_grpo").coefficients.std[:-1]
    assert 1 / std.mean().item() == pytest.approx(2.25, rel=5e-3)


def test_the_weight_of_a_step_is_its_noise():
    equal, weighted = ClippedRatio(clip_range=10.0), ClippedRatio(clip_range=10.0, step_weight="noise")
    pairs, at = stepped(equal, MEAN + 0.05)
    std = at.sampler.coefficients.std
    ratio = weighted.loss(pairs, at).parts["outcome"] / equal.loss(pairs, at).parts["outcome"]
    torch.testing.assert_close(ratio, (std / std[:-1].mean())[pairs.step].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "distance", "kept"),
    [
        (0.1, 1.0, 0.5, False),  # far away, and pushed further
        (-0.1, -1.0, 0.5, False),
        (0.1, -1.0, 0.5, True),  # far away, and brought back
        (-0.1, 1.0, 0.5, True),
        (0.1, 1.0, 0.05, True),  # near
        (0.1, 1.0, 0.1, False),  # at the limit
    ],
)
def test_a_step_is_left_out_if_it_is_far_and_goes_further(log_ratio, advantage, distance, kept):
    variable = torch.tensor([log_ratio], requires_grad=True)
    losses, masked = masked_loss(variable, torch.tensor([[advantage]]), torch.tensor([distance]), 0.1)
    assert masked.item() != kept
    assert losses.item() == pytest.approx(-advantage * math.exp(log_ratio) if kept else 0.0)
    (gradient,) = torch.autograd.grad(losses.sum(), variable)
    assert (gradient.item() != 0) == kept


def test_the_trust_region_is_the_kl_of_the_two_transitions():
    objective = DivergenceMask(limit=1e9)
    pairs, at = stepped(objective, MEAN + 0.05)
    sigma = at.sampler.sigmas[pairs.step].float()
    means = [
        at.sampler.transition(pairs.x, at.velocity(of, pairs.x, sigma, None), pairs.step)
        for of in ("policy", "old")
    ]
    kl = ((means[0].mean - means[1].mean).square() / (2 * means[0].std.square())).mean()
    assert objective.loss(pairs, at).figures["kl_to_rollout"] == pytest.approx(kl.item(), rel=1e-4)


# Copies


def test_the_old_policy_follows_as_published():
    """It keeps min(0.001 i, 0.5) of itself after iteration i: at first it is the policy, later it lags."""
    objective = NegativeAware()
    for iteration, kept in ((0, 0.0), (100, 0.1), (500, 0.5), (5000, 0.5)):
        old = [torch.tensor([1.0]), torch.tensor([2.0])]
        objective.after_update({"old": old}, [torch.tensor([3.0]), torch.tensor([6.0])], iteration)
        assert [tensor.item() for tensor in old] == pytest.approx([3 - 2 * kept, 6 - 4 * kept])


def test_a_reference_that_is_refreshed_becomes_the_policy_every_so_often():
    objective, old = Preference(refresh=3), [torch.zeros(2)]
    for iteration in range(5):
        objective.after_update({"old": old}, [torch.full((2,), iteration + 1.0)], iteration)
        assert old[0].tolist() == ([3.0, 3.0] if iteration >= 2 else [0.0, 0.0])


def test_noised_samples_lie_on_the_straight_path():
    objective = NegativeAware()
    experience, at, advantages = drawn(objective, groups=20)
    pairs: Noised = objective.batch(experience, advantages, at)
    t = at.sampler.sigmas[pairs.step].float().unsqueeze(1)
    torch.testing.assert_close(pairs.x, (1 - t) * pairs.clean + t * pairs.noise)
    torch.testing.assert_close(pairs.target, pairs.noise - pairs.clean)
    assert torch.equal(pairs.clean, experience.trajectory.final[pairs.sample])
    assert abs(pairs.noise.mean()) < 5 / math.sqrt(pairs.noise.numel())
    assert len(pairs.noise.unique(dim=0)) == len(pairs)


def test_every_kind_is_found_by_its_name():
    for kind, objective in OBJECTIVES.items():
        method = Method.model_validate(
            CATALOG["dance_grpo"].model_dump() | {"name": "x", "objective": {"kind": kind}}
        )
        assert type(method.objective) is objective
        assert method.objective.kind == kind
        assert Method.model_validate_json(method.model_dump_json()) == method
