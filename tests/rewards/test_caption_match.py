"""The learned outcome model: what it reads of a caption, its range, and that it comes back from disk."""

import json

import pytest
import torch

from benchmarks.testbed.scenes import all_prompts, sample_scenes
from rewards.shapes import ATTRIBUTES
from rewards.shapes.caption_match import STOP_WORDS, CaptionMatch, VideoWordModel

VOCABULARY = tuple(word for words in ATTRIBUTES.values() for word in words)


def model(seed: int = 0, side: int = 32, width: int = 8) -> VideoWordModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VideoWordModel(VOCABULARY, side, width).requires_grad_(False).eval()


SCENES = sample_scenes(6, torch.Generator().manual_seed(0))
CAPTIONS = SCENES.captions()


def test_the_score_is_the_mean_probability_of_the_captions_words():
    network = model()
    found = CaptionMatch(network)(SCENES.videos, CAPTIONS)
    probabilities = network(SCENES.videos).sigmoid()
    for row, caption in enumerate(CAPTIONS):
        words = [word for word in caption.split() if word not in ("a", "ball", "moving")]
        expected = sum(float(probabilities[row, VOCABULARY.index(word)]) for word in words) / 3
        assert float(found[row]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [-100.0, -1.0, 1.0, 100.0])
def test_scores_lie_between_zero_and_one_whatever_the_logits(scale):
    network = model()
    network.head[2].weight.mul_(scale)
    network.head[2].bias.add_(scale)
    found = CaptionMatch(network)(SCENES.videos, CAPTIONS)
    assert found.dtype == torch.float32
    assert found.shape == (6,)
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_a_model_that_sees_what_is_there_scores_one_and_what_is_not_zero():
    network = model()
    network.head = torch.nn.Identity()
    truth = torch.zeros(6, len(VOCABULARY))
    for row, caption in enumerate(CAPTIONS):
        truth[row, network.words_of(caption)] = 1
    network.forward = lambda videos: 100 * (2 * truth - 1)
    torch.testing.assert_close(CaptionMatch(network)(SCENES.videos, CAPTIONS), torch.ones(6))
    network.forward = lambda videos: 100 * (1 - 2 * truth)
    torch.testing.assert_close(CaptionMatch(network)(SCENES.videos, CAPTIONS), torch.zeros(6))


def test_only_words_that_a_video_could_show_are_asserted():
    network = model()
    for caption in all_prompts():
        words = [VOCABULARY[i] for i in network.words_of(caption)]
        assert words == [word for word in caption.split() if word not in STOP_WORDS]
        assert len(words) == 3
    asserted = network.asserted(all_prompts())
    torch.testing.assert_close(asserted.sum(dim=1), torch.ones(len(asserted)))
    assert network.words_of("A  Red ball\n") == [VOCABULARY.index("red")]


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a small pink ball moving left", "was not trained on pink"),
        ("a tiny pink ball", "was not trained on tiny, pink"),
        ("a ball moving", "was not trained on an empty prompt"),
        ("", "was not trained on an empty prompt"),
    ],
)
def test_an_unknown_word_is_an_error_that_names_it(prompt, named):
    with pytest.raises(ValueError, match=named) as error:
        CaptionMatch(model())(SCENES.videos[:1], [prompt])
    assert repr(prompt) in str(error.value)
    assert "it knows small, medium" in str(error.value)


def test_videos_of_another_size_are_resized():
    network = model(side=16)
    assert network(torch.rand(2, 9, 3, 48, 32)).shape == (2, len(VOCABULARY))
    small = torch.rand(2, 9, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    doubled = small.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    torch.testing.assert_close(network(doubled), network(small), atol=0.1, rtol=0.1)


def test_a_videos_score_does_not_depend_on_its_neighbours():
    network = model()
    together = CaptionMatch(network)(SCENES.videos, CAPTIONS)
    for row in range(6):
        alone = CaptionMatch(network)(SCENES.videos[row : row + 1], CAPTIONS[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-6, rtol=1e-5)


def test_a_model_comes_back_frozen_and_bit_for_bit(tmp_path):
    network = model(seed=3, side=24, width=16)
    network.save(tmp_path / "deep" / "outcome", {"made": "by a test"})
    again = VideoWordModel.load(tmp_path / "deep" / "outcome")
    assert (again.vocabulary, again.side, again.width) == (VOCABULARY, 24, 16)
    assert torch.equal(again(SCENES.videos), network(SCENES.videos))
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    config = json.loads((tmp_path / "deep" / "outcome" / "config.json").read_text())
    assert config["provenance"] == {"made": "by a test"}
