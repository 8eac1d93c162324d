"""Diagnostics: each against its definition, and none that changes what it looks at."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from analysis.schema import GRADIENT_SHARE, GUIDED, KL_TO_BASE, PROCESS_ACCURACY
from benchmarks.diagnostics import Rollouts, diagnose, pairwise_accuracy
from benchmarks.evaluation import evenly_spaced
from methods.catalog import CATALOG
from samplers import Noise, Sampler, SamplerSettings
from tests.benchmarks.harness import Result
from tests.benchmarks.trainings import SmallTraining, make
from tests.methods.small import MOVING, move


def figures(small: SmallTraining) -> dict[str, float]:
    training = small.training
    found = diagnose(small.learner, training.session.suite, training.settings, small.process_reward)
    return {name.removeprefix("diagnostic/"): value for name, value in found.items()}


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_what_is_diagnosed(world: Path, tmp_path: Path, name: str) -> None:
    small = make(world, tmp_path, name)
    found = figures(small)
    assert all(math.isfinite(value) for value in found.values())
    kinds = {key.split("/")[0] for key in found}
    expected = {"kl_to_base"}
    if small.method.guided:
        expected |= {"guided", "unguided"}
    if small.method.needs_process_reward:
        expected |= {"process_accuracy", "process_reward"}
    assert kinds == expected
    assert figures(small) == found  # the same noise every time


def test_the_base_model_is_at_no_distance_from_itself(world: Path, tmp_path: Path) -> None:
    small = make(world, tmp_path, "dance_grpo")
    assert figures(small)["kl_to_base"] == 0
    move(small, 0.1)
    assert figures(small)["kl_to_base"] > 0


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_kl_to_base_is_the_path_space_kl_of_the_memoryless_process(
    world: Path, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the velocities differ by a constant, sum of D (1 - t) / t |dv|^2 over the steps after the first.

    At the first, t = 1, the noise is bounded and the weight is taken from the sampler, which has tests of its own.
    """
    small = make(world, tmp_path, "dance_grpo", weights=weights)
    shift, policy = 0.01, small.policy
    trained = policy.velocity
    apart = {"on": True}
    reference = small.learner.weights.reference

    def moved(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        return trained(x, sigma, condition) + (shift if apart["on"] else 0.0)

    class Base:
        def __enter__(self) -> None:
            apart["on"] = False
            self.inner = reference()
            self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(None, None, None)
            apart["on"] = True

    monkeypatch.setattr(policy, "velocity", moved)
    monkeypatch.setattr(small.learner.weights, "reference", Base)
    choice = small.training.settings.evaluation
    sampler = Sampler(
        SamplerSettings(num_steps=choice.num_steps, shift=choice.shift, noise=Noise(kind="memoryless"))
    )
    sigmas = sampler.sigmas.tolist()
    elements = math.prod(policy.latent_shape)
    square = elements * shift**2
    zero = torch.zeros(1, *policy.latent_shape)
    first = sampler.kl_divergence(zero + shift, zero, 0).item() * elements
    rest = sum((t - following) * (1 - t) / t * square for t, following in itertools.pairwise(sigmas) if t < 1)
    assert figures(small)["kl_to_base"] == pytest.approx(first + rest, rel=1e-4)


def test_pairwise_accuracy_by_hand() -> None:
    score = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 4.0])
    values = torch.stack([score, -score, torch.zeros(6), torch.tensor([1.0, 3.0, 2.0, 9.0, 8.0, 9.0])])
    # Groups of three: pairs of equal scores do not count, so five of the six pairs do. In the last row the first
    # group has two of three right, the second one tie and one wrong.
    found = pairwise_accuracy(values, score, group_size=3)
    assert found.tolist() == pytest.approx([1.0, 0.0, 0.5, (2 + 0.5 + 0) / 5])
    assert math.isnan(pairwise_accuracy(values, torch.ones(6), 3)[0])


def test_pairwise_accuracy_is_scipy_s_concordance() -> None:
    """Within one group without ties, (1 + Kendall's tau) / 2."""
    from scipy.stats import kendalltau

    numbers = torch.Generator().manual_seed(0)
    values, score = torch.randn(1, 12, generator=numbers), torch.randn(12, generator=numbers)
    tau = kendalltau(values[0].numpy(), score.numpy()).statistic
    assert pairwise_accuracy(values, score, 12).item() == pytest.approx((1 + tau) / 2)


def test_the_process_reward_is_that_of_the_finished_videos(world: Path, tmp_path: Path) -> None:
    small = make(world, tmp_path, "euphonium")
    settings, suite = small.training.settings, small.training.session.suite
    prompts = evenly_spaced(settings.prompts.train, settings.evaluation.diagnostic_prompts)
    rollouts = Rollouts(small.learner, suite, settings, small.process_reward, prompts)
    clean = rollouts.draw(guided=False).final
    condition = small.policy.encode(rollouts.group)
    expected = small.process_reward(clean, torch.zeros(len(clean)), condition).mean()
    assert figures(small)["process_reward"] == pytest.approx(expected.item())


def test_guidance_that_does_nothing_leaves_no_gap(world: Path, tmp_path: Path) -> None:
    """Guided and unguided rollouts share their noise, so that a gap is guidance's doing alone."""
    small = make(world, tmp_path, "euphonium_published", "sampler.guidance.strength=1e-9")
    found = figures(small)
    for name in ("caption_match", "motion_quality", "accuracy"):
        assert found[f"guided/{name}"] == pytest.approx(found[f"unguided/{name}"], abs=1e-6)
    strong = figures(make(world, tmp_path, "euphonium_published", "sampler.guidance.strength=50"))
    assert strong["guided/caption_match"] != pytest.approx(strong["unguided/caption_match"], abs=1e-6)
    assert strong["unguided/caption_match"] == found["unguided/caption_match"]


def test_full_strength_although_guidance_has_decayed(world: Path, tmp_path: Path) -> None:
    decayed = figures(make(world, tmp_path, "euphonium_published", "guidance_decay=0.5"))
    constant = figures(make(world, tmp_path, "euphonium_published", "guidance_decay=1"))
    assert decayed == constant


def shares(small: SmallTraining, iteration: int = 0) -> dict[str, float]:
    experience = small.collect(iteration)
    choice = torch.Generator().manual_seed(0)
    return small.learner.gradient_shares(experience, choice, most=10**6)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (("euphonium_published", *MOVING), {"outcome", "process", "distillation"}),
        (("euphonium",), {"outcome", "distillation"}),
        (("flow_grpo", "distillation.weight=1"), {"outcome", "kl"}),
    ],
    ids=["moving", "anchored", "kl"],
)
def test_gradient_shares_are_of_each_part_s_own_gradient(
    world: Path, tmp_path: Path, settings: tuple[str, ...], parts: set[str]
) -> None:
    """Each part's norm is that of an update from which the other parts were taken away."""
    norms = {}
    for part, without in {
        "outcome": ("process=null", "distillation=null"),
        "all": (),
    }.items():
        small = make(world, tmp_path / part, *settings, *without, "optimiser.max_grad_norm=1e9")
        move(small, 0.1)
        found = shares(small)
        norms[part] = small.update(small.collect())["gradient_norm"]
        if part == "outcome":
            assert found == {"outcome": 1.0}
            alone = norms[part]
        else:
            assert set(found) == parts
            assert sum(found.values()) == pytest.approx(1)
            # The parts' norms sum to outcome / share; their vectors sum to the update's gradient.
            total = alone / found["outcome"]
            assert total >= norms["all"] * (1 - 1e-4)
            assert total > alone


def test_looking_at_shares_leaves_no_gradient(world: Path, tmp_path: Path) -> None:
    small = make(world, tmp_path, "euphonium")
    experience = small.collect()
    before = small.learner.weights.state_dict()
    small.learner.gradient_shares(experience, torch.Generator().manual_seed(0))
    assert not small.gradient()
    after = small.learner.weights.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_recorded_at_every_evaluation(whole: Result) -> None:
    rows = whole.rows("iterations")
    rows = rows[rows["metric"].str.startswith("diagnostic/")]
    assert not rows.duplicated(["method", "seed", "iteration", "metric"]).any()
    at = rows.groupby("metric")["iteration"].agg(set)
    assert at[KL_TO_BASE] == {0, 1, 2}
    assert at[f"{GUIDED}accuracy"] == {0, 1, 2}
    assert at[f"{GRADIENT_SHARE}process"] == {1, 2}
    assert {f"{PROCESS_ACCURACY}1", f"{PROCESS_ACCURACY}0"} <= set(at.index)
