"""Preference data: comes back from disk, splits without a leak, and pairs only what can be compared."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rewards.preferences import PreferenceData
from rewards.provenance import Provenance

MADE_FOR = Provenance(family="WanPipeline", latent_space="a" * 16, transformer="b" * 16)


def data(counts: list[int], **changes: object) -> PreferenceData:
    """Samples whose only latent element is their number."""
    total = sum(counts)
    fields = {
        "latents": torch.arange(total, dtype=torch.float32).view(-1, 1, 1, 1, 1),
        "scores": torch.rand(total, generator=torch.Generator().manual_seed(total)),
        "prompt": torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        "text": {
            "embeds": torch.rand(len(counts), 2, 3, generator=torch.Generator().manual_seed(1)),
            "mask": torch.arange(2).expand(len(counts), 2) > 0,
        },
        "prompts": tuple(f"prompt {i}" for i in range(len(counts))),
        "provenance": MADE_FOR,
        "description": {"sampler": "ode", "num_steps": 8, "shift": 3.0},
    }
    return PreferenceData(**{**fields, **changes})


def test_data_come_back_from_disk(tmp_path):
    made = data([3, 5, 2])
    made.save(tmp_path / "deep" / "data.safetensors")
    again = PreferenceData.load(tmp_path / "deep" / "data.safetensors")
    for name in ("latents", "scores", "prompt"):
        assert torch.equal(getattr(again, name), getattr(made, name))
    assert again.text.keys() == made.text.keys()
    assert all(torch.equal(again.text[name], tensor) for name, tensor in made.text.items())
    assert (again.prompts, again.provenance, again.description) == (
        made.prompts,
        made.provenance,
        made.description,
    )


def test_views_are_saved_whole(tmp_path):
    whole = torch.rand(4, 1, 3, 2, 2)
    data([2, 2], latents=whole.transpose(1, 2)).save(tmp_path / "data.safetensors")
    assert torch.equal(PreferenceData.load(tmp_path / "data.safetensors").latents, whole.transpose(1, 2))


def test_a_file_that_is_missing_or_something_else_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no preference data at '.*none'; make some with `python -m benchmarks"
    ):
        PreferenceData.load(tmp_path / "none")
    with pytest.raises(ValueError, match="no preference data at"):
        PreferenceData.load(tmp_path)
    save_file({"latents": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(
        ValueError, match=r"weights.safetensors' is not preference data: it names no base model"
    ):
        PreferenceData.load(tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("not a tensor in sight")
    with pytest.raises(ValueError, match=r"text' is not preference data"):
        PreferenceData.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(4)}, r"5 latents need as many scores and prompts; got \(4,\) and \(5,\)"),
        ({"prompt": torch.tensor([0, 1, 0, 1, 1])}, "samples must be ordered by prompt"),
        ({"scores": torch.tensor([0.0, 1.0, torch.nan, 0.0, 0.0])}, "values that are not finite"),
        ({"latents": torch.full((5, 1, 1, 1, 1), torch.inf)}, "values that are not finite"),
    ],
)
def test_data_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data([2, 3], **changes)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_split_keeps_each_prompts_share_and_leaks_nothing(counts, held_back, seed):
    if not sum(counts):
        counts[0] = 1
    whole = data(counts)
    training, validation = whole.split(held_back, torch.Generator().manual_seed(seed))
    numbers = [part.latents.flatten().long() for part in (training, validation)]
    assert sorted(torch.cat(numbers).tolist()) == list(range(sum(counts)))  # each once, on one side
    for part, own in zip((training, validation), numbers, strict=True):
        assert torch.equal(part.scores, whole.scores[own])
        assert torch.equal(part.prompt, whole.prompt[own])
        assert part.prompts == whole.prompts
    for prompt, count in enumerate(counts):
        back = int((validation.prompt == prompt).sum())
        assert abs(back - held_back * count) <= 0.5 + 1e-5


def test_a_split_is_random_and_reproducible():
    whole = data([40, 40])
    splits = [whole.split(0.25, torch.Generator().manual_seed(seed))[1] for seed in (0, 0, 1)]
    held = [split.latents.flatten().tolist() for split in splits]
    assert held[0] == held[1] != held[2]
    assert len(held[0]) == 20
    assert held[0] != list(range(10)) + list(range(40, 50))  # not simply the first of each prompt


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=6), st.integers(0, 99))
def test_pairs_are_distinct_samples_of_one_prompt(counts, seed):
    whole = data(counts)
    first, second = whole.pairs(200, torch.Generator().manual_seed(seed))
    assert len(first) == len(second) == 200
    assert (first != second).all()
    assert torch.equal(whole.prompt[first], whole.prompt[second])


def test_every_pair_is_equally_likely_in_both_orders():
    whole = data([4, 4])
    first, second = whole.pairs(24_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(first * 8 + second, minlength=64).view(8, 8)
    possible = counts[counts > 0]
    assert len(possible) == 2 * 4 * 3
    chi_square = ((possible - 1000).square() / 1000.0).sum()
    assert chi_square < 49.7  # 99.9 % of 23 degrees of freedom


def test_a_prompt_without_a_pair_is_named():
    with pytest.raises(ValueError, match="prompt 'prompt 1' has fewer than two samples"):
        data([2, 1, 3]).pairs(4, torch.Generator())
