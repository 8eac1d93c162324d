"""The KL to a reference: the base model, the guided base model, or the guided policy that drew the rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from methods import CATALOG
from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.naming import changed
from methods.terms import Terms
from methods.update import Learner
from samplers import Sampler
from tests.methods.small import MOVING, Small, at_iteration, constant_rewards, make, move

NO_LIMIT = "optimiser.max_grad_norm=1e9"
#: Constant rewards and no process term: what is left of the loss is the KL alone.
ALONE = ("objective.train_fraction=1.0", NO_LIMIT)
KL_ALONE = ("distillation={weight: 2.0, strength: 0}", *ALONE)
GUIDED_ALONE = ("euphonium", "distillation={weight: 2.0, strength: 16}", *ALONE)


@pytest.mark.parametrize(("name", "weights"), [*((name, "lora") for name in CATALOG), ("flow_grpo", "full")])
def test_the_kl_to_the_base_model_is_zero_there_and_positive_elsewhere(world, name, weights):
    small = make(world, name, "distillation={weight: 2.0, strength: 0}", weights=weights)
    experience = small.collect()
    # A preference evaluates the policy for two samples at once, and the base model for one.
    rounding = 1e-12 if small.method.objective.kind == "preference" else 0.0
    assert small.update(experience)["kl_to_base"] <= rounding
    move(small, 0.05)
    figures = small.update(experience)
    assert figures["kl_to_base"] > 1e-6
    assert "kl_to_guided" not in figures


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_the_distance_to_the_base_model_is_recorded_beside_that_to_the_guided_one(world, weights):
    """It is none of the loss; at the base model it is 0, where what is distilled is not reached yet."""
    small, plain = (
        make(world, *settings, "sampler.noise.level=0.7", weights=weights, rewards=constant_rewards())
        for settings in (("euphonium", *ALONE), ("flow_grpo", *KL_ALONE))
    )
    experience = small.collect()
    figures = small.update(experience)
    assert figures["kl_to_base"] == 0
    assert figures["kl_to_guided"] > 1e-4
    move(small, 0.05)
    plain.learner.weights.load_state_dict(small.learner.weights.state_dict())
    figures = small.update(experience)
    assert figures["kl_to_base"] == plain.update(experience)["kl_to_base"] > 1e-6
    assert figures["loss"] == pytest.approx(figures["policy_loss"] + figures["kl_to_guided"])


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize(
    ("settings", "figure"),
    [
        (("flow_grpo", *KL_ALONE), "kl_to_base"),
        (GUIDED_ALONE, "kl_to_guided"),
    ],
    ids=["base", "guided base"],
)
def test_the_kl_terms_gradient_is_its_finite_difference(world, weights, settings, figure):
    small = make(world, *settings, weights=weights, rewards=constant_rewards())
    experience = small.collect()
    move(small, 0.2 if weights == "lora" else 0.05)
    start = small.learner.weights.state_dict()

    def at(name: str, index: int, offset: float) -> tuple[float, dict[str, Tensor]]:
        state = {key: tensor.clone() for key, tensor in start.items()}
        state[name].view(-1)[index] += offset
        small.learner.weights.load_state_dict(state)
        return small.update(experience)[figure], small.gradient()

    _, gradient = at(next(iter(start)), 0, 0.0)
    largest = max(gradient, key=lambda name: float(gradient[name].abs().max()))
    index = int(gradient[largest].abs().argmax())
    key = next(name for name in start if name == largest.replace(".default", ""))
    step = 0.02
    slope = (at(key, index, step)[0] - at(key, index, -step)[0]) / (2 * step)
    assert abs(slope) > 1e-4
    assert gradient[largest].view(-1)[index].item() == pytest.approx(2.0 * slope, rel=2e-2)


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_minimising_the_kl_alone_brings_the_base_model_back(world, weights):
    small = make(world, "flow_grpo", *KL_ALONE, weights=weights, rewards=constant_rewards())
    experience = small.collect()
    move(small, 0.2 if weights == "lora" else 0.05)
    first, *_, last = [small.update(experience)["kl_to_base"] for i in range(30)]
    assert last < 0.2 * first


def distilling(small: Small, iterations: int) -> list[float]:
    """Mean distance of the velocity from v_target before each of some updates on one batch of rollouts."""
    experience, sampler = small.collect(), small.sampler()
    distances = []
    for _ in range(iterations):
        distance = []
        for step, gradient in experience.trajectory.reward_gradients.items():
            if step == sampler.num_steps - 1:
                continue  # never trained
            x, sigma = experience.trajectory.states[step], float(sampler.sigmas[step])
            with torch.no_grad():
                velocity = small.policy.velocity(x, torch.full((len(x),), sigma), experience.condition)
            # v_target = v_old - (g^2 / 2) lam grad r / (1 + g^2 (1 - t) / (2 t))
            g, strength = small.method.sampler.noise.level, small.method.sampler.guidance.strength
            pull = 1 + g**2 * (1 - sigma) / (2 * sigma)
            target = experience.velocities[step] - g**2 / 2 * strength * gradient / pull
            distance.append((velocity - target).square().mean())
        distances.append(torch.stack(distance).mean().item())
        small.update(experience)
    return distances


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_distillation_alone_moves_the_velocity_towards_its_target(world, weights):
    alone = (
        *MOVING,
        "process=null",
        "sampler.guidance.strength=20",
        "sampler.noise.level=0.785",
        "distillation.weight=1.0",
        "objective.train_fraction=1.0",
        f"optimiser.learning_rate={0.02 if weights == 'lora' else 0.003}",
    )
    small = make(world, "euphonium_published", *alone, weights=weights, rewards=constant_rewards())
    distances = distilling(small, 25)
    assert distances[0] > 1e-4
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize("settings", [("euphonium",), ("euphonium_published", *MOVING, "process=null")])
@pytest.mark.parametrize("weight", ["0.5", "3.0"])
def test_the_distillation_loss_is_its_weight_times_the_kl_and_decays(world, settings, weight):
    alone = (f"distillation.weight={weight}", "distillation.decay=0.5", "objective.train_fraction=1.0")
    small = make(world, *settings, *alone, rewards=constant_rewards())
    experience = small.collect()
    state = small.learner.weights.state_dict()
    for iteration in range(3):
        small.learner.weights.load_state_dict(state)
        figures = small.update(at_iteration(experience, iteration))
        assert figures["kl_to_guided"] > 0
        expected = float(weight) * 0.5**iteration * figures["kl_to_guided"] + figures["policy_loss"]
        assert figures["loss"] == pytest.approx(expected, rel=1e-5, abs=1e-9)


@dataclass
class Everything:
    """The condition of a policy that reads none."""

    prompts: tuple[str, ...]
    branches: int = 1

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, positions: list[int]) -> Everything:
        return Everything(tuple(self.prompts[i] for i in positions))


class Linear(nn.Module):
    """v = slope x + offset[step]: linear in x and in what is trained, so that its optimum is known."""

    def __init__(self, sampler: Sampler, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.sigmas = sampler.sigmas[:-1].float()
        self.slope = nn.Parameter(torch.tensor(0.3))
        self.offset = nn.Parameter(torch.zeros(len(self.sigmas), *shape))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        step = (sigma[:, None] - self.sigmas).abs().argmin(dim=1)
        return self.slope * x + self.offset[step]


@pytest.mark.parametrize(
    "guidance", ["{strength: 3.0}", "{scale: 0.8}", "{strength: 3.0, start: 2, stop: 5}"]
)
def test_on_a_linear_policy_and_reward_distillation_recovers_the_target_in_closed_form(guidance):
    method: Method = changed(
        CATALOG["dance_grpo"],
        {
            "sampler.num_steps": 8,
            "sampler.noise.level": 0.6,
            "sampler.guidance": yaml.safe_load(guidance),
            "distillation": {"weight": 1.0, "anchor": "policy"},
            "objective.train_fraction": 1.0,
            "objective.train_last_step": True,
            "optimiser.learning_rate": 0.02,
            "optimiser.weight_decay": 0.0,
            "optimiser.max_grad_norm": 1e9,
        },
        "linear",
    )
    sampler, shape = Sampler(method.sampler), (2, 3)
    numbers = torch.Generator().manual_seed(0)
    slope = torch.randn(shape, generator=numbers)
    network = Linear(sampler, shape)
    condition = Everything(("",) * 24)
    velocities: list[Tensor] = []

    def velocity(x: Tensor, sigma: Tensor, condition: object) -> Tensor:
        velocities.append(network(x, sigma).detach())
        return velocities[-1]

    trajectory = sampler.rollout(
        velocity,
        torch.randn(24, *shape, generator=numbers),
        condition,
        numbers,
        reward=lambda x, sigma, condition: (slope * x).flatten(1).sum(1),
    )
    experience = Experience(
        Draw(0, 0, ("",)),
        trajectory,
        torch.stack(velocities),
        condition,
        {"constant": torch.full((24,), 0.1)},
        torch.arange(8).expand(24, 8),
        torch.arange(24),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.0)
    weights = SimpleNamespace(parameters=list(network.parameters()), copies={})
    policy = SimpleNamespace(
        denoiser=network,
        velocity=lambda x, sigma, condition: policy.denoiser(x, sigma),
        device=torch.device("cpu"),
    )
    accelerator = Accelerator(cpu=True)
    learner = Learner(
        policy,
        network,
        weights,
        method,
        Terms(("constant",), (1.0,)),
        Rewards({}, {}, None, lambda latents: latents),
        accelerator.prepare(optimiser),
        accelerator,
        seed=0,
    )
    losses = [learner.update(experience)["kl_to_guided"] for _ in range(250)]

    assert losses[-1] < 1e-4 * losses[0]
    guided = method.sampler.guidance
    g = 0.6
    for step in range(8):
        t = float(sampler.sigmas[step])
        pull = 1 + g**2 * (1 - t) / (2 * t)
        moves = guided.scale if guided.strength is None else g**2 / 2 * guided.strength
        inside = step in range(8)[guided.start : guided.stop]
        expected = -moves * slope / pull if inside else torch.zeros(shape)
        # The slope of the policy stays where it was: the target's is the same, and the offsets take the rest.
        torch.testing.assert_close(network.offset[step].detach(), expected, atol=0.01, rtol=0.01)
    assert network.slope.item() == pytest.approx(0.3, abs=0.01)
    assert math.isfinite(losses[-1])
