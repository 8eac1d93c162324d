"""Group-relative advantages against numpy and scipy, and the trap of equal rewards."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.advantages import group_advantages
from methods.parts import AdvantageSettings

GROUPS, SIZE = 5, 6


def rewards(seed: int = 0, *lead: int) -> torch.Tensor:
    return torch.randn(*lead, GROUPS * SIZE, generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.3


def by_numpy(values: torch.Tensor, size: int, choice: AdvantageSettings) -> np.ndarray:
    """The published formula, one row of samples at a time."""
    groups = values.double().numpy().reshape(-1, size)
    std = groups.std(axis=1 if choice.std == "group" else None, ddof=int(choice.unbiased), keepdims=True)
    advantages = (groups - groups.mean(axis=1, keepdims=True)) / (std + choice.eps)
    return advantages.clip(-choice.clip, choice.clip).flatten()


@pytest.mark.parametrize("std", ["group", "batch"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4, 0.5])
def test_advantages_are_the_published_formula(std, unbiased, eps):
    choice = AdvantageSettings(std=std, unbiased=unbiased, eps=eps)
    found = group_advantages(rewards(), SIZE, choice)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_numpy(rewards(), SIZE, choice), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("unbiased", [True, False])
def test_without_eps_a_group_is_standardised_as_scipy_does_it(unbiased):
    choice = AdvantageSettings(unbiased=unbiased, eps=0.0)
    found = group_advantages(rewards(1), SIZE, choice).unflatten(0, (-1, SIZE))
    expected = scipy.stats.zscore(rewards(1).double().numpy().reshape(-1, SIZE), axis=1, ddof=int(unbiased))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)


def published_in_float32(values: torch.Tensor, size: int) -> torch.Tensor:
    groups = values.unflatten(-1, (-1, size))
    return ((groups - groups.mean(-1, keepdim=True)) / (groups.std(-1, keepdim=True) + 1e-8)).flatten(-2)


@pytest.mark.parametrize("choice", [AdvantageSettings(), AdvantageSettings(std="batch", eps=0.0)])
@pytest.mark.parametrize("size", [2, 3, 6, 8, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(choice, size, dtype):
    values = [0.0, 0.1, 1 / 3, 0.7, -2.1, 1e-30, 1e30, 3.4e38, 1.1754944e-38, 12345.678]
    values += torch.randn(300, generator=torch.Generator().manual_seed(0)).tolist()
    found = group_advantages(torch.tensor(values, dtype=dtype).repeat_interleave(size), size, choice)
    assert torch.equal(found, torch.zeros_like(found))


def test_the_same_in_float32_would_not_be_zero():
    """What the test above guards against: the published arithmetic turns rounding into advantages near 1."""
    values = torch.randn(300, generator=torch.Generator().manual_seed(0)).repeat_interleave(6)
    assert published_in_float32(values, 6).abs().max() > 0.5


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-1e6, 1e6, width=32),
    st.integers(2, 24),
    st.sampled_from(["group", "batch"]),
    st.booleans(),
)
def test_a_group_of_equal_rewards_is_exactly_zero_beside_any_other(value, size, std, unbiased):
    other = torch.linspace(-1, 1, size) * 7 + 0.1
    found = group_advantages(
        torch.cat([torch.full((size,), value), other]), size, AdvantageSettings(std=std, unbiased=unbiased)
    )
    assert torch.equal(found[:size], torch.zeros(size))
    assert found[size:].abs().max() > 0


def test_advantages_of_a_group_sum_to_zero_and_keep_the_order():
    choice = AdvantageSettings(eps=0.0, clip=100.0)
    found = group_advantages(rewards(2), SIZE, choice).unflatten(0, (-1, SIZE))
    torch.testing.assert_close(found.sum(1), torch.zeros(GROUPS), atol=1e-5, rtol=0)
    assert torch.equal(found.argsort(1), rewards(2).unflatten(0, (-1, SIZE)).argsort(1))


@pytest.mark.parametrize("std", ["group", "batch"])
def test_neither_the_order_of_groups_nor_that_of_members_matters(std):
    choice = AdvantageSettings(std=std)
    generator = torch.Generator().manual_seed(3)
    members = torch.randperm(SIZE, generator=generator)
    groups = torch.randperm(GROUPS, generator=generator)
    shuffled = rewards().unflatten(0, (-1, SIZE))[groups][:, members].flatten()
    expected = (
        group_advantages(rewards(), SIZE, choice).unflatten(0, (-1, SIZE))[groups][:, members].flatten()
    )
    torch.testing.assert_close(group_advantages(shuffled, SIZE, choice), expected, rtol=1e-6, atol=1e-7)


def test_a_group_is_never_ranked_or_scaled_against_another_prompt():
    alone = group_advantages(rewards()[:SIZE], SIZE, AdvantageSettings())
    moved = rewards()
    moved[SIZE:] = 1000 * moved[SIZE:] + 50
    assert torch.equal(group_advantages(moved, SIZE, AdvantageSettings())[:SIZE], alone)


def test_the_std_of_the_batch_scales_groups_but_never_shifts_them():
    choice = AdvantageSettings(std="batch")
    moved = rewards()
    moved[SIZE:] = 30 * moved[SIZE:] + 50
    one, two = (group_advantages(values, SIZE, choice)[:SIZE] for values in (rewards(), moved))
    torch.testing.assert_close(one / one[0], two / two[0], rtol=1e-5, atol=0)
    assert two.abs().max() < 0.1 * one.abs().max()


def test_advantages_are_clipped_on_both_sides():
    values = torch.zeros(32)
    values[0], values[31] = 1.0, -1.0
    found = group_advantages(values, 16, AdvantageSettings(clip=2.0))
    assert found.max() == 2.0
    assert found.min() == -2.0
    free = group_advantages(values, 16, AdvantageSettings(clip=100.0))
    assert free.max() > 3
    kept = free.abs() < 2
    assert torch.equal(found[kept], free[kept])


@pytest.mark.parametrize("std", ["group", "batch"])
def test_leading_steps_are_kept_apart(std):
    choice = AdvantageSettings(std=std)
    values = rewards(5, 4, 3)
    values[1] *= 100
    found = group_advantages(values, SIZE, choice)
    assert found.shape == values.shape
    for first in range(4):
        for second in range(3):
            torch.testing.assert_close(
                found[first, second],
                group_advantages(values[first, second], SIZE, choice),
                rtol=1e-6,
                atol=1e-7,
            )


def test_rewards_that_do_not_fill_their_groups_are_refused():
    with pytest.raises(ValueError, match="7 rewards do not divide into groups of 3"):
        group_advantages(torch.zeros(7), 3, AdvantageSettings())
