"""A reward that fails stops the run, and says which, for which prompt, and when."""

from collections.abc import Callable

import pytest
import torch

from rewards.base import RewardError, scored

PROMPTS = ["a red ball", "a blue ball", "a green ball"]
VIDEOS = torch.rand(3, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def broken_at(row: int, value: float, dtype: torch.dtype = torch.float32) -> Callable[..., torch.Tensor]:
    def reward(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        values = torch.ones(len(prompts), dtype=dtype)
        values[row] = value
        return values

    return reward


def raising(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    raise ConnectionError("judge\n  unreachable")


@pytest.mark.parametrize(
    ("reward", "prompt", "what"),
    [
        (raising, PROMPTS[0], "failed.*on 3 videos.*ConnectionError: judge unreachable"),
        (broken_at(1, float("nan")), PROMPTS[1], r"returned nan.*1 of 3 values are not finite"),
        (broken_at(2, float("inf")), PROMPTS[2], "returned inf"),
        (broken_at(2, float("-inf")), PROMPTS[2], "returned -inf"),
        (broken_at(1, 1e300, torch.float64), PROMPTS[1], "returned inf"),  # as the loss would see it
        (lambda videos, prompts: torch.ones(2), PROMPTS[0], r"returned \(2,\).*expected \(3,\)"),
        (lambda videos, prompts: torch.ones(3, 1), PROMPTS[0], r"returned \(3, 1\)"),
        (lambda videos, prompts: torch.tensor(1.0), PROMPTS[0], r"returned \(\)"),
        (lambda videos, prompts: [1.0, 1.0, 1.0], PROMPTS[0], "returned list"),
        (lambda videos, prompts: None, PROMPTS[0], "returned NoneType"),
        (lambda videos, prompts: videos.mean(dim=(1, 2, 3, 4)).numpy(), PROMPTS[0], "returned ndarray"),
    ],
)
def test_a_failure_names_reward_prompt_and_iteration(reward, prompt, what):
    with pytest.raises(RewardError, match=what) as error:
        scored("judge", reward, VIDEOS, PROMPTS, 17)
    message = str(error.value)
    assert "reward 'judge'" in message
    assert "iteration 17" in message
    assert repr(prompt) in message
    assert "\n" not in message


def test_the_cause_is_kept():
    with pytest.raises(RewardError) as error:
        scored("judge", raising, VIDEOS, PROMPTS, 1)
    assert isinstance(error.value.__cause__, ConnectionError)


def test_interrupts_are_not_turned_into_failed_rewards():
    def interrupted(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored("judge", interrupted, VIDEOS, PROMPTS, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_values_arrive_as_float32_and_unchanged(dtype):
    values = scored("judge", lambda videos, prompts: torch.tensor([0, 1, 1]).to(dtype), VIDEOS, PROMPTS, 1)
    assert values.dtype == torch.float32
    assert values.tolist() == [0.0, 1.0, 1.0]


def test_values_carry_no_graph():
    """A differentiable reward's graph would reach the loss through the advantages."""
    weight = torch.ones(3, requires_grad=True)
    values = scored("judge", lambda videos, prompts: weight * 2, VIDEOS, PROMPTS, 1)
    assert not values.requires_grad
