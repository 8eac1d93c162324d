"""Every method trains every kind of family: one iteration moves adapters and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from methods import CATALOG
from methods.experience import Draw
from methods.guiding import Rewards
from methods.update import Learner
from methods.weights import WeightSettings
from rewards.process import LatentProcessReward, cut_denoiser
from samplers.pipeline import Scales
from tests.families.pipelines import VARIANTS, with_copied_networks
from tests.families.tokenizers import PROMPTS
from tests.methods.small import NUM_STEPS, half_precision, small_method

#: These run every method; the others one method of each objective, and one that a process reward guides.
WHOLE = ("hunyuan_video", "ltx_timed")
SOME = {method.objective.kind: name for name, method in reversed(list(CATALOG.items()))}
PAIRS = [
    (name, method)
    for name in VARIANTS
    for method in (CATALOG if name in WHOLE else sorted({*SOME.values(), "euphonium_published"}))
]


def brightness(videos: Tensor, prompts: Sequence[str]) -> Tensor:
    """(B,) of the first frame's upper half: differentiable, and different for every video."""
    return 10 * videos[:, 0, :, : videos.shape[3] // 2].mean(dim=(1, 2, 3))


def learner_of(
    tiny,
    name: str,
    method: str,
    dtype: torch.dtype = torch.float32,
    accelerator: Accelerator | None = None,
    scales: Scales | None = None,
) -> Learner:
    whole = hasattr(CATALOG[method].objective, "train_fraction")
    small = small_method(method, *(["objective.train_fraction=1.0"] if whole else []))
    policy = with_copied_networks(tiny.policy(name, scales, dtype))
    process = None
    if small.needs_process_reward:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            process = LatentProcessReward(cut_denoiser(policy.plain, 1))
            torch.nn.init.normal_(process.query)
        process.requires_grad_(False).eval()
    return Learner.of(
        policy,
        small,
        Rewards({"brightness": brightness}, {"brightness": 1.0}, process, policy.decode),
        accelerator or Accelerator(cpu=True),
        0,
        WeightSettings(rank=2, alpha=4),
        reference=True,
    )


def weights_of(learner: Learner) -> dict[str, Tensor]:
    named = {f"network {name}": tensor for name, tensor in learner.policy.denoiser.state_dict().items()}
    named |= {f"decoder {name}": tensor for name, tensor in learner.policy.pipeline.vae.state_dict().items()}
    if learner.rewards.process is not None:
        named |= {f"reward {name}": tensor for name, tensor in learner.rewards.process.state_dict().items()}
    return {name: tensor.clone() for name, tensor in named.items()}


def test_all_objectives_are_covered():
    assert {CATALOG[method].objective.kind for method in SOME.values()} == {
        method.objective.kind for method in CATALOG.values()
    }
    assert {method for name, method in PAIRS if name == WHOLE[0]} == set(CATALOG)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_an_iteration_moves_adapters_and_nothing_else(tiny, name, method):
    learner = learner_of(tiny, name, method)
    before = weights_of(learner)
    experience = learner.collect(Draw(0, 0, PROMPTS[:1], 0))
    figures = learner.update(experience)
    after = weights_of(learner)
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert moved
    assert all(key.startswith("network ") and "lora_" in key for key in moved), moved
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    if set(experience.steps.flatten().tolist()) >= {0, NUM_STEPS - 2}:  # noise levels of both networks
        assert all(any(f".{network}." in key for key in moved) for network in learner.weights.networks)
    assert figures["gradient_norm"] > 0
    values = experience.rewards["brightness"]
    assert (values[0] - values[1]).abs() > 1e-4
    if CATALOG[method].objective.needs.density:
        assert figures["ratio_deviation"] < 1e-4
    if learner.method.guided:
        assert figures["guidance_size"] > 1e-3
    if learner.method.distils_guidance:
        assert figures["kl_to_guided"] > 0


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of its own dispatch
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_and_guidance_train_what_was_drawn(tiny, name, dtype):
    """Rollouts and updates see the same velocity, whatever rounds it; a frozen model may be in bfloat16 itself."""
    tiny.policy(name, dtype=dtype)  # loaded in its own precision
    with half_precision() as accelerator:
        learner = learner_of(tiny, name, "euphonium", dtype, accelerator, VARIANTS[name].guided)
        before = weights_of(learner)
        figures = learner.update(learner.collect(Draw(0, 0, PROMPTS[:1], 0)))
    moved = {key for key, tensor in weights_of(learner).items() if not torch.equal(tensor, before[key])}
    assert moved
    assert all("lora_" in key for key in moved)
    assert figures["ratio_deviation"] < 1e-3
    assert 0 < figures["gradient_norm"] < float("inf")
