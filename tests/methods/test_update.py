"""The one update: ratio 1 to begin with, the loss as the equations have it, no dependence on how a batch is split."""

import dataclasses

import numpy as np
import pytest
import torch

from methods import CATALOG
from methods.experience import Experience
from methods.naming import changed
from methods.terms import reward_terms
from tests.methods.by_hand import loss_by_hand, reward_rows
from tests.methods.small import (
    MOVING,
    PLAIN,
    Small,
    constant_rewards,
    half_precision,
    make,
    move,
    opened,
    pairs_of,
)

EVERY_STEP = "objective.train_fraction=1.0"
NO_LIMIT = "optimiser.max_grad_norm=1e9"
CLEAN = "sampler.guidance={strength: 0, at: x0_hat}"
#: Each plain method, and settings that none of them has.
VARIANTS = {
    **{name: (name,) for name in PLAIN},
    # A target that moves with the policy.
    "moving target": ("euphonium_published", *MOVING),
    "on-policy scoring": ("euphonium_published", *MOVING, "sampler.score_mean=guided"),
    "credit by difference": ("euphonium_published", *MOVING, "process.credit=difference"),
    "absolute guidance": ("euphonium_published", *MOVING, "sampler.guidance={scale: 3.0, start: 1}"),
    "guidance of some steps": (
        "euphonium_published",
        *MOVING,
        "sampler.guidance={strength: 2.0, start: 0, interval: 2}",
    ),
    "the process term alone": ("euphonium_published", *MOVING, "outcome_weight=0"),
    "moving target of unguided rollouts": (
        "dance_grpo",
        "distillation={weight: 1.0, anchor: policy, strength: 4}",
        "sampler.guidance={strength: 0, at: x0_hat, stop: 2}",
    ),
    "moving target at the clean estimate": ("euphonium_published", *MOVING, "sampler.guidance.at=x0_hat"),
    # A target that stands still.
    "everything at once": (
        "euphonium_published",
        "guidance_decay=0.9",
        "process={weight: 0.5, credit: next_state}",
        "distillation={weight: 0.3, decay: 0.8, strength: 16}",
        "advantage.std=batch",
        "outcome_weight=0.7",
    ),
    "anchored, guided as the rollouts": (
        "euphonium_published",
        "guidance_decay=0.9",
        "sampler.guidance.strength=8",
        "process=null",
        "distillation={weight: 1.0}",
    ),
    "the target alone": ("euphonium", "outcome_weight=0"),
    "a shaped gradient": (
        "euphonium",
        "sampler.guidance={strength: 0, start: 1, normalisation: sample, clip: 0.15}",
    ),
    "at the clean estimate of the base model": ("euphonium", "sampler.guidance={strength: 3, at: x0_hat}"),
    "by the outcome rewards' gradient": ("euphonium", CLEAN, "outcome_guidance={estimator: autograd}"),
    "by an estimate of it": ("euphonium", CLEAN, "outcome_guidance={directions: 2}"),
    # None.
    "a process term without guidance": ("dance_grpo", "process.weight=2.0"),
}
#: Those that change what is distilled, and nothing of rollouts, their scores or their advantages.
OF_THE_TARGET = {
    "euphonium",
    "euphonium_dance",
    "the target alone",
    "a shaped gradient",
    "at the clean estimate of the base model",
    "by the outcome rewards' gradient",
    "by an estimate of it",
    "moving target of unguided rollouts",
}
ALL = pytest.mark.parametrize("name", CATALOG)
EACH = pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in OF_THE_TARGET])
#: The catalogue's methods with another loss, or with a choice of steps or samples.
OTHERS = {name: (name,) for name in CATALOG if name not in PLAIN}
#: Full weights differ in where the base model comes from, so those that have a KL to it stand for all.
FULL = ("flow_grpo", "everything at once", "by the outcome rewards' gradient")
EACH_WEIGHTS = [*((name, "lora") for name in VARIANTS), *((name, "full") for name in FULL)]


def ratios(small: Small, experience: Experience, rows: int, iteration: int) -> torch.Tensor:
    """rho of every trained pair under the policy as it is now, scored `rows` at a time."""
    pairs = pairs_of(small, experience)
    sampler, found = small.sampler(iteration), []
    for part in torch.arange(len(pairs)).split(rows):
        some = pairs.rows(part)
        sigma = experience.trajectory.sigmas[some.step].float()
        velocity = small.policy.velocity(some.x, sigma, some.condition).detach()
        gradient = some.gradient if small.method.sampler.score_mean == "guided" else None
        log_prob = sampler.transition(some.x, velocity, some.step, gradient).log_prob(some.x_next)
        found.append((log_prob - some.log_prob).exp())
    return torch.cat(found)


@EACH
def test_the_ratio_is_one_before_the_first_update(world, variant):
    name, *settings = VARIANTS[variant]
    small = make(world, name, EVERY_STEP, *settings)
    for iteration in range(2):  # of the base model, and of one whose adapters are no longer the identity
        experience = small.collect(iteration)
        state = small.learner.weights.state_dict()
        for micro_batch in (512, 3):
            small.learner.weights.load_state_dict(state)
            ratio = ratios(small, experience, micro_batch, iteration)
            assert len(ratio) == 12
            assert (ratio - 1).abs().max() < 1e-5
            small.learner.micro_batch = micro_batch
            figures = small.update(experience)
            assert figures["ratio_deviation"] < 1e-5
            assert figures["clip_fraction"] == 0
    assert (ratios(small, experience, 512, 1) - 1).abs().max() > 1e-5  # and it moves with the weights


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of its own dispatch
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_half_precision_changes_neither_the_ratio_nor_the_kl_of_the_base_model(world, weights):
    plain = opened(world).policy  # in single precision
    with half_precision() as accelerator:
        small = make(world, "flow_grpo", EVERY_STEP, weights=weights, accelerator=accelerator)
        experience = small.collect()
        given = experience.trajectory.states[0], torch.ones(4), experience.condition
        assert not torch.equal(small.policy.velocity(*given), plain.velocity(*given))  # it is on
        assert (ratios(small, experience, 3, 0) - 1).abs().max() < 1e-5
        figures = small.update(experience)
    assert figures["ratio_deviation"] < 1e-5
    assert figures["kl_to_base"] == 0


@pytest.mark.parametrize(
    ("variant", "weights"), [pair for pair in EACH_WEIGHTS if pair[0] != "by an estimate of it"]
)
def test_loss_and_gradient_are_those_of_the_equations(world, variant, weights):
    name, *settings = VARIANTS[variant]
    small = make(world, name, EVERY_STEP, NO_LIMIT, "objective.clip_range=0.004", *settings, weights=weights)
    experience = small.collect(2)  # iteration 2, so that decays count
    move(small, 0.1 if weights == "lora" else 0.02)
    base = small.world.copy()
    expected = loss_by_hand(small.policy, base, small.method, experience, small.learner.rewards, 2)
    gradient = torch.autograd.grad(expected, small.learner.weights.parameters)
    figures = small.update(experience)
    assert 0 < figures["clip_fraction"] < 1  # both branches of the clip are compared
    assert figures["loss"] == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    norm = torch.stack([part.norm() for part in gradient]).norm()
    assert figures["gradient_norm"] == pytest.approx(norm.item(), rel=1e-3)
    for parameter, part in zip(small.learner.weights.parameters, gradient, strict=True):
        assert (parameter.grad - part).norm() < 2e-3 * norm


@pytest.mark.parametrize(("variant", "weights"), [*EACH_WEIGHTS, *((name, "lora") for name in OTHERS)])
def test_the_gradient_does_not_depend_on_the_micro_batch(world, variant, weights):
    name, *settings = {**VARIANTS, **OTHERS}[variant]
    every = () if name in OTHERS else (EVERY_STEP,)
    small = make(world, name, *every, NO_LIMIT, *settings, weights=weights)
    experience = small.collect(1)
    move(small, 1e-4)
    weights, found = small.learner.weights, []
    state, copies = weights.state_dict(), weights.copies_state_dict()
    for small.learner.micro_batch in (512, 5):
        weights.load_state_dict(state)
        weights.load_copies_state_dict(copies)
        found.append((small.update(experience), small.gradient()))
    (whole, gradient), (figures, other) = found
    assert whole["gradient_norm"] > 0
    assert figures == pytest.approx(whole, rel=1e-3, abs=2e-6)
    assert figures["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-4)
    for parameter, part in gradient.items():
        torch.testing.assert_close(
            other[parameter], part, rtol=1e-4, atol=1e-4 * float(part.abs().max()) + 1e-9
        )


@ALL
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_an_update_changes_the_trained_weights_and_nothing_else(world, name, weights):
    small = make(world, name, weights=weights)
    network = small.policy.transformer
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    others = [small.policy.pipeline.vae, small.policy.pipeline.text_encoder, small.process_reward]
    modules = [module for module in others if module is not None]
    kept = [{key: tensor.clone() for key, tensor in module.state_dict().items()} for module in modules]
    for _ in small.iterate(2):
        pass
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    trained = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    if weights == "lora":
        assert changed == trained
        assert all("lora" in key for key in trained)
    else:
        assert changed <= trained == {key for key, _ in network.named_parameters()}
        assert len(changed) > 0.8 * len(trained)
    for module, state in zip(modules, kept, strict=True):
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("name", [name for name, method in CATALOG.items() if method.objective.needs.density])
def test_equal_rewards_alone_give_a_gradient_of_exactly_zero(world, name):
    alone = ("distillation=null", "process=null", EVERY_STEP)
    small = make(world, name, *alone, rewards=constant_rewards())
    experience = small.collect()
    move(small, 0.01)  # so that the ratio is not 1 either
    figures = small.update(experience)
    assert figures["ratio_deviation"] > 1e-6
    assert figures["gradient_norm"] == 0
    gradient = small.gradient()
    assert gradient.keys() == {
        key for key, p in small.policy.transformer.named_parameters() if p.requires_grad
    }
    assert all(torch.equal(part, torch.zeros_like(part)) for part in gradient.values())


@EACH
def test_advantages_of_the_pairs_are_those_of_their_sample_and_step(world, variant):
    name, *settings = VARIANTS[variant]
    small = make(world, name, *settings)
    experience = small.collect(4)
    weights = small.suite.suite.training
    pairs = pairs_of(small, experience)
    sample = pairs.sample
    assert torch.equal(sample, torch.arange(4).repeat_interleave(experience.steps.shape[1]))
    rows = reward_rows(experience, small.method, weights)
    assert small.learner.terms.weights == tuple(weight for weight, _ in rows)
    expected = np.stack([row[pairs.step.numpy(), sample.numpy()] for _, row in rows])
    np.testing.assert_allclose(pairs.advantages.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).min(axis=1).max() > 0.1
    assert torch.equal(pairs.step, experience.steps.flatten())
    for row in range(len(pairs)):
        own = sample[row]
        assert torch.equal(pairs.x[row], experience.trajectory.states[pairs.step[row], own])
        assert torch.equal(pairs.x_next[row], experience.trajectory.states[pairs.step[row] + 1, own])
        assert pairs.condition.prompts[row] == experience.condition.prompts[own]


def test_reward_terms_keep_the_suites_order_and_weights():
    weights = {"one": 1.0, "two": 0.25}
    assert reward_terms(CATALOG["dance_grpo"], weights).names == ("one", "two")
    dual = reward_terms(CATALOG["euphonium_published"], weights)
    assert dual.names == ("one", "two", "process")
    assert dual.weights == (1.0, 0.25, 1.0)
    half = changed(CATALOG["euphonium_published"], {"outcome_weight": 0.5, "process.weight": 3.0}, "half")
    assert reward_terms(half, weights).weights == (0.5, 0.125, 3.0)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [(("euphonium_published", *MOVING), {"process", "distillation"}), (("euphonium",), {"distillation"})],
    ids=["moving", "anchored"],
)
def test_without_outcome_terms_outcome_rewards_have_no_say(world, settings, parts):
    """Their values change nothing; process rewards still do."""
    gradients = {}
    for name, rewards in (("own", None), ("constant", constant_rewards())):
        small = make(world, *settings, EVERY_STEP, "outcome_weight=0", rewards=rewards)
        figures = small.update(small.collect())
        assert "guidance_advantage_correlation" not in figures
        gradients[name] = small.gradient()
        shares = small.learner.gradient_shares(small.collect(), torch.Generator().manual_seed(0))
        assert shares.keys() == parts
    assert max(part.abs().max() for part in gradients["own"].values()) > 0
    for parameter, part in gradients["own"].items():
        assert torch.equal(gradients["constant"][parameter], part)


@pytest.mark.parametrize("updates", [1, 2, 4])
def test_each_sample_is_trained_once_whatever_the_number_of_updates(world, updates):
    small = make(world, "dance_grpo", EVERY_STEP, f"updates_per_rollout={updates}", micro_batch=2)
    experience = small.collect()
    events: list[object] = []
    small.policy.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: events.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    small.learner.optimiser.optimizer.register_step_post_hook(lambda *_: events.append("step"))
    small.update(experience)
    assert events.count("step") == updates
    parts: list[list[torch.Tensor]] = [[]]
    for event in events[:-1]:
        if isinstance(event, torch.Tensor):
            parts[-1].append(event)
        else:
            parts.append([])
    trained = [torch.cat(part).flatten(1) for part in parts]
    assert [len(part) for part in trained] == [12 // updates] * updates  # four samples, three steps each
    states = experience.trajectory.states[:-2].flatten(0, 1).flatten(1)
    found = torch.cat(trained)
    assert torch.equal(found[found[:, 0].argsort()], states[states[:, 0].argsort()])


def test_more_updates_than_samples_are_refused(world):
    small = make(world, "dance_grpo", "updates_per_rollout=5")
    with pytest.raises(ValueError, match="dance_grpo: updates_per_rollout is 5, more than the 4 samples"):
        small.update(small.collect())


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_before_the_optimiser_steps(world, broken):
    small = make(world, "dance_grpo")
    experience = small.collect()
    if broken == "loss":
        log_probs = experience.trajectory.log_probs * torch.nan
        trajectory = dataclasses.replace(experience.trajectory, log_probs=log_probs)
        experience = dataclasses.replace(experience, trajectory=trajectory)
    else:
        small.learner.weights.parameters[0].register_hook(lambda gradient: gradient * torch.inf)
        small.learner.weights.parameters[1].register_hook(lambda gradient: gradient * torch.inf)
    before = small.learner.weights.state_dict()
    with pytest.raises(FloatingPointError, match=r"dance_grpo: the (loss|gradient's norm) is (nan|inf)"):
        small.update(experience)
    after = small.learner.weights.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_gradients_norm_is_limited(world):
    small = make(world, "dance_grpo", EVERY_STEP, "optimiser.max_grad_norm=1e-4")
    figures = small.update(small.collect())
    assert figures["gradient_norm"] > 1e-3  # as it was before
    after = torch.stack([part.norm() for part in small.gradient().values()]).norm()
    assert after.item() == pytest.approx(1e-4, rel=1e-2)


def test_the_size_of_the_guidance_is_correlated_with_the_outcome_advantage(world):
    """The trap of scoring guided samples with the unguided mean: what the log must show."""
    small = make(world, "euphonium_published", EVERY_STEP, "group_size=6")
    experience = small.collect()
    figures = small.update(experience)
    weights = small.suite.suite.training
    rows = reward_rows(experience, small.method, weights)[: len(weights)]
    total = sum(weight * row for weight, row in rows)
    pairs = [(step, b) for b, steps in enumerate(experience.steps.tolist()) for step in steps if step >= 1]
    size = [float(experience.trajectory.reward_gradients[step][b].norm()) for step, b in pairs]
    advantage = [total[step, b] for step, b in pairs]
    assert figures["guidance_size"] == pytest.approx(np.mean(size), rel=1e-4)
    expected = np.corrcoef(size, advantage)[0, 1]
    assert figures["guidance_advantage_correlation"] == pytest.approx(expected, abs=1e-4)
    assert "guidance_size" not in make(world, "dance_grpo").update(make(world, "dance_grpo").collect())
