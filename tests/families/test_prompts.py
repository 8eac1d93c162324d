"""Encoded prompts of every family: kept on disk, read without text encoders, and as they were encoded."""

import pytest
import torch

from samplers.families import ModelError
from samplers.loading import load_policy, prompt_cache
from samplers.pipeline import PipelinePolicy
from samplers.prompts import PromptCache
from tests.families.pipelines import VARIANTS
from tests.families.tokenizers import PROMPTS


def loaded(tiny, name: str, prompts: PromptCache, **components: None) -> PipelinePolicy:
    """As a run loads it; texts in their full lengths."""
    variant = VARIANTS[name]
    return load_policy(tiny.folder(name), variant.geometry, variant.guided, prompts=prompts, **components)


def equal(one, other) -> bool:
    return set(one) == set(other) and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def test_a_filled_cache_needs_no_text_encoder(tiny, name, tmp_path):
    first = loaded(tiny, name, prompt_cache(tiny.folder(name), tmp_path))
    expected = first.encode(PROMPTS)
    assert expected.negative is not None
    missing = dict.fromkeys(first.family.text_parts)
    policy = loaded(tiny, name, prompt_cache(tiny.folder(name), tmp_path), **missing)
    for part in first.family.text_parts:
        assert getattr(policy.pipeline, part) is None
    found = policy.encode(PROMPTS)
    assert equal(found.text, expected.text)
    assert equal(found.negative, expected.negative)
    x, sigma = policy.initial_noise([torch.Generator().manual_seed(0)] * 3), torch.tensor([0.9, 0.5, 0.1])
    if name != "hunyuan_video15":  # 2000 tokens
        assert torch.equal(policy.velocity(x, sigma, found), first.velocity(x, sigma, expected))
    with pytest.raises(
        ModelError, match=r"prompt 'another' was not encoded before the text encoder was freed"
    ):
        policy.encode([PROMPTS[0], "another"])


def test_freeing_the_text_encoders_is_the_same(tiny, name):
    policy = loaded(tiny, name, PromptCache())
    expected = policy.encode(PROMPTS)
    policy.free_text_encoders()
    assert all(getattr(policy.pipeline, part) is None for part in policy.family.text_parts)
    assert equal(policy.encode(PROMPTS).text, expected.text)
    with pytest.raises(ModelError, match="was not encoded before"):
        policy.encode(["another"])


def test_a_text_encodes_the_same_in_any_company(tiny, name):
    policy = tiny.policy(name)
    together = policy.encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = PipelinePolicy(policy.pipeline, policy.geometry).encode([prompt])
        for key, tensor in alone.text.items():
            torch.testing.assert_close(tensor[0], together.text[key][row], atol=1e-5, rtol=1e-5)
    assert (together.embeds[0] - together.embeds[1]).abs().max() > 1e-2


def test_masks_mark_the_words_and_keep_their_kind(tiny, name):
    """A mask is not text: it is as the pipeline makes it, in any precision of the network."""
    full, half = tiny.policy(name), tiny.policy(name, dtype=torch.bfloat16)
    condition, rounded = full.encode(PROMPTS), half.encode(PROMPTS)
    for key, tensor in condition.text.items():
        if "mask" not in key:
            assert tensor.dtype == torch.float32
            assert rounded.text[key].dtype == torch.bfloat16
            continue
        assert set(tensor.unique().tolist()) <= {0, 1}
        assert torch.equal(tensor.bool(), rounded.text[key].bool())
        for policy, seen in ((full, tensor), (half, rounded.text[key])):
            with torch.no_grad():
                assert seen.dtype == policy.family.encode(policy.pipeline, PROMPTS)[key].dtype
        if key == "mask":  # each prompt's words, and what its template or tokenizer closes it with
            words = tensor.sum(dim=1) - torch.tensor([len(prompt.split()) for prompt in PROMPTS])
            assert len(set(words.tolist())) == 1
            assert words[0] >= 1
        else:  # what is to be rendered
            assert (tensor.sum(dim=1) > 0).tolist() == ['"' in prompt for prompt in PROMPTS]


def test_other_text_encoders_have_another_cache(tiny, tmp_path):
    folders = {prompt_cache(tiny.folder(name), tmp_path).folder for name in VARIANTS}
    assert len(folders) == len(VARIANTS)
    again = {prompt_cache(tiny.folder(name), tmp_path).folder for name in VARIANTS}
    assert again == folders
