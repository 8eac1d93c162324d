"""Scorers of frames against an independent reading of the published arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards.clip import Aesthetic, ClipScore, PickScore
from rewards.gradients import DecodedReward
from rewards.pretrained import pretrained
from rewards.scoring import Clips
from rewards.suites import SuiteError
from tests.rewards.published import write_clip, write_head

PROMPTS = ["a red ball", "a dog runs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


def videos(height: int, width: int) -> torch.Tensor:
    """(2, 5, 3, H, W) smooth random videos whose values are bytes."""
    small = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return ((large * 255).round() / 255).unflatten(0, (2, 5))


def published(folder: Path, frame: torch.Tensor, prompt: str) -> tuple[torch.Tensor, float]:
    """The model's own answer for one PIL image and one text: (image embedding, logit)."""
    model = CLIPModel.from_pretrained(folder).eval()
    picture = Image.fromarray((frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=picture, return_tensors="pt")[
        "pixel_values"
    ]
    tokens = AutoTokenizer.from_pretrained(folder)(prompt, truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=pixels, input_ids=tokens["input_ids"])
    return output.image_embeds[0], output.logits_per_image.item()


@pytest.mark.parametrize(("shape", "tolerance"), [((32, 32), 1e-4), ((64, 48), 2e-2), ((40, 100), 2e-2)])
def test_pick_score_is_the_models_logit_averaged_over_frames(folder, shape, tolerance):
    """Exactly where nothing is resized; else but for the processor's rounding to bytes."""
    clips = Clips(videos(*shape), PROMPTS)
    found = PickScore(str(folder), str(folder), frames=3)(clips)["score"]
    logits = torch.tensor(
        [[published(folder, clips.videos[b, f], PROMPTS[b])[1] for f in (0, 2, 4)] for b in (0, 1)]
    )
    torch.testing.assert_close(found, logits.mean(dim=1), atol=tolerance * logits.abs().max().item(), rtol=0)
    assert (found[0] - found[1]).abs() > 0.1


def test_clip_score_is_the_cosine(folder):
    clips = Clips(videos(32, 32), PROMPTS)
    cosine = ClipScore(str(folder), frames=1)(clips)["score"]
    logit = PickScore(str(folder), str(folder), frames=1)(clips)["score"]
    scale = CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    torch.testing.assert_close(cosine * scale, logit)
    assert cosine.abs().max() <= 1


def test_the_aesthetic_head_is_linear_layers_on_unit_embeddings(folder, tmp_path):
    state = write_head(tmp_path / "head.pth")
    clips = Clips(videos(32, 32), PROMPTS)
    found = Aesthetic(str(tmp_path / "head.pth"), str(folder), frames=2)(clips)["score"]
    expected = []
    for b in (0, 1):
        values = []
        for f in (0, 4):
            x = published(folder, clips.videos[b, f], PROMPTS[b])[0].double()
            for place in (0, 2, 4, 6, 7):
                x = state[f"layers.{place}.weight"].double() @ x + state[f"layers.{place}.bias"].double()
            values.append(x.item())
        expected.append(sum(values) / 2)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 4])
def test_scores_have_a_gradient_in_every_frame_that_is_seen(folder, frames):
    scorer = ClipScore(str(folder), frames=frames)
    video = videos(64, 48)[:1].requires_grad_(True)
    scorer(Clips(video, PROMPTS[:1]))["score"].sum().backward()
    moved = video.grad.abs().amax(dim=(0, 2, 3, 4)) > 0
    seen = [0] if frames == 1 else [0, 1, 3, 4]
    assert moved.nonzero().flatten().tolist() == seen


def test_the_gradient_is_that_of_the_score(folder):
    scorer = ClipScore(str(folder), frames=2)
    decoded = DecodedReward(
        {"clip": lambda videos, prompts: scorer(Clips(videos, prompts))["score"]}, {"clip": 1.0}, lambda x: x
    )
    x = videos(40, 40)[:1]
    condition = type("Prompted", (), {"prompts": PROMPTS[:1]})()
    _, slope = decoded.value_and_gradient(x, torch.zeros(1), condition)
    direction = slope / slope.norm()
    step = 0.05
    with torch.no_grad():
        ahead, behind = (scorer(Clips(x + sign * step * direction, PROMPTS[:1]))["score"] for sign in (1, -1))
    assert ((ahead - behind) / (2 * step)).item() == pytest.approx(slope.norm().item(), rel=0.05)


def test_long_prompts_are_cut_off_and_neighbours_do_not_matter(folder):
    scorer = ClipScore(str(folder), frames=1)
    long = " ".join(["a red ball"] * 30)
    both = scorer(Clips(videos(32, 32), [long, PROMPTS[1]]))["score"]
    alone = scorer(Clips(videos(32, 32)[1:], PROMPTS[1:]))["score"]
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_provenance_names_model_frames_and_weights(folder, tmp_path):
    write_head(tmp_path / "head.pth")
    found = Aesthetic(str(tmp_path / "head.pth"), str(folder), frames=2).provenance
    assert found["model"] == str(folder)
    assert found["frames"] == 2
    assert len(found["weights"]) == len(found["head_weights"]) == 16


def test_missing_weights_say_what_to_download(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        SuiteError, match=r"PickScore: 'no-one/none@v1'.*hf download no-one/none --revision v1.*'model'"
    ):
        PickScore("no-one/none@v1")
    with pytest.raises(SuiteError, match=r"ClipScore: folder '.*gone' does not exist.*'model'"):
        ClipScore(str(tmp_path / "gone"))
    with pytest.raises(SuiteError, match=r"Aesthetic: no file '.*x.pth'; download sac\+logos"):
        Aesthetic(str(tmp_path / "x.pth"), str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SuiteError, match=r"has no config.json"):
        ClipScore(str(tmp_path / "empty"))
    write_head(tmp_path / "wide.pth", width=20)
    with pytest.raises(ValueError, match="reads embeddings of 20 elements, and the model's have 16"):
        Aesthetic(str(tmp_path / "wide.pth"), str(folder))
    assert pretrained(folder, "x", "model") == folder
