"""VideoReward and HPSv3 on tiny models in their published formats, against an independent reading of the arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from rewards.hpsv3 import HPSv3
from rewards.qwen2vl import Backbone, constant, merged_lora, normalised, renamed, resized
from rewards.scoring import Clips
from rewards.suites import SuiteError
from rewards.video_reward import TOKENS, VideoReward
from tests.rewards.published import (
    VIDEO_TEMPLATE,
    frame_head,
    grown,
    old_names,
    video_config,
    write_hpsv3,
    write_qwen2vl,
)

RANK, ALPHA = 3, 12.0
PROMPTS = ("a dog", "a much longer prompt, é")


@pytest.fixture(autouse=True)
def _small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published preprocessing enlarges frames below 100352 pixels."""
    monkeypatch.setattr("rewards.video_reward._LEAST_PIXELS", 28 * 28)
    monkeypatch.setattr("rewards.hpsv3._PIXELS", 4 * 28 * 28)


@dataclass(frozen=True)
class Made:
    """A published checkpoint, and the model that it stands for: adapters merged by hand."""

    folder: Path
    base: Path
    model: Qwen2VLModel
    head: torch.Tensor


@pytest.fixture(scope="module", params=["whole", "adapters"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """As `trainer.save_model` writes it: a PEFT model's state whole, or its adapters beside what else was trained."""
    folder = tmp_path_factory.mktemp("video_reward")
    base, place = folder / "base", folder / "checkpoint-20"
    model = grown(write_qwen2vl(base), 3)
    plain = old_names(model)
    generator = torch.Generator().manual_seed(7)
    head = torch.randn(1, 32, generator=generator)
    layers = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    default = ".default" if request.param == "whole" else ""
    adapters, rest = {}, {f"base_model.model.{name}": value for name, value in plain.items()}
    for layer in layers:
        weight = rest.pop(f"base_model.model.{layer}.weight")
        rest[f"base_model.model.{layer}.base_layer.weight"] = weight
        a = torch.randn(RANK, weight.shape[1], generator=generator) * 0.2
        b = torch.randn(weight.shape[0], RANK, generator=generator) * 0.2
        adapters[f"base_model.model.{layer}.lora_A{default}.weight"] = a
        adapters[f"base_model.model.{layer}.lora_B{default}.weight"] = b
        module = model.get_submodule(layer.replace("model.", "language_model.", 1))
        module.weight.data += ALPHA / RANK * b @ a
    place.mkdir()
    (folder / "checkpoint-3").mkdir()  # an earlier one, which must not be read
    trained = {"base_model.model.rm_head.weight": head}
    trained["base_model.model.model.embed_tokens.weight"] = plain["model.embed_tokens.weight"]
    if request.param == "whole":
        torch.save({**rest, **adapters, **trained}, place / "model.pth")
    else:
        save_file(adapters, place / "adapter_model.safetensors")
        torch.save(trained, place / "non_lora_state_dict.pth")
        save_file({name: value.contiguous() for name, value in plain.items()}, base / "model.safetensors")
    (folder / "model_config.json").write_text(json.dumps(video_config(base, RANK, ALPHA)))
    (folder / "prompt_template.py").write_text(f'import os\n\n{VIDEO_TEMPLATE}\nraise RuntimeError("run")\n')
    return Made(folder, base, model, head)


def videos(count: int, frames: int, height: int, width: int) -> torch.Tensor:
    small = torch.rand(count * frames, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").unflatten(
        0, (count, frames)
    )


def patches_by_hand(frames: np.ndarray) -> np.ndarray:
    """(T, 3, H, W) to patches, one after another, as the processor's documentation orders them."""
    t, _, height, width = frames.shape
    rows = []
    for time in range(0, t, 2):
        for block_row in range(0, height, 28):
            for block_column in range(0, width, 28):
                for row in (block_row, block_row + 14):
                    for column in (block_column, block_column + 14):
                        patch = frames[time : time + 2, :, row : row + 14, column : column + 14]
                        rows.append(patch.transpose(1, 0, 2, 3).ravel())
    return np.stack(rows)


def hidden_by_hand(
    made: Made,
    frames: torch.Tensor,
    text: str,
    sequential: bool,
    tokens: tuple[str, ...] = TOKENS,
    pad: str = "<|video_pad|>",
) -> torch.Tensor:
    """Hidden states at the reward tokens, by the forward of transformers 5, with or without its own positions."""
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    grid = torch.tensor([[len(frames) // 2, frames.shape[2] // 14, frames.shape[3] // 14]])
    seen = pad * (int(grid.prod()) // 4)
    chat = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        f"{seen}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(chat, return_tensors="pt")["input_ids"]
    kind = 2 if pad == "<|video_pad|>" else 1
    pixels = torch.from_numpy(patches_by_hand(normalised(frames).numpy()))
    sight = (
        {"pixel_values_videos": pixels, "video_grid_thw": grid}
        if kind == 2
        else {"pixel_values": pixels, "image_grid_thw": grid}
    )
    if sequential:
        sight["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
    types = kind * (ids == tokenizer.convert_tokens_to_ids(pad)).int()
    with torch.no_grad():
        hidden = made.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **sight
        )
    places = [ids[0].tolist().index(tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    return hidden.last_hidden_state[0, places]


def test_scores_are_the_heads_at_the_reward_tokens_normalised(made):
    scorer = VideoReward(str(made.folder), dtype="float32")
    clips = Clips(videos(2, 16, 56, 56), PROMPTS, fps=4.0)  # 4 s at 2 a second: 8 frames
    found = scorer(clips)
    positions = torch.linspace(0, 15, 8).round().long()
    for row, prompt in enumerate(PROMPTS):
        text = f"\nQ <|VQ_reward|>\nM <|MQ_reward|>\nT {prompt}: <|TA_reward|>\n"
        hidden = hidden_by_hand(made, clips.videos[row, positions], text, sequential=True)
        expected = (hidden @ made.head[0] - 0.5) / 2.0
        got = torch.stack([found[name][row] for name in ("VQ", "MQ", "TA")])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        other = (
            hidden_by_hand(made, clips.videos[row, positions], text, sequential=False) @ made.head[0] - 0.5
        ) / 2
        assert (other - expected).abs().max() > 0.01, "positions make no difference here"


def test_the_loaded_weights_are_the_merged_ones(made):
    scorer = VideoReward(str(made.folder), dtype="float32")
    for name, value in made.model.state_dict().items():
        torch.testing.assert_close(scorer.backbone.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    for name, buffer in made.model.named_buffers():
        torch.testing.assert_close(dict(scorer.backbone.model.named_buffers())[name], buffer)


def test_frequencies_are_rounded_as_the_published_cast_rounds_them(made):
    """`model.to(bfloat16)` casts buffers too; later versions of the library compute them in float32."""
    half = VideoReward(str(made.folder), dtype="bfloat16").backbone.model.language_model.rotary_emb.inv_freq
    full = made.model.language_model.rotary_emb.inv_freq
    assert torch.equal(half, full.bfloat16().float())
    assert not torch.equal(half, full)


def test_videos_and_prompts_do_not_affect_their_neighbours(made):
    scorer = VideoReward(str(made.folder), dtype="float32")
    both = videos(2, 8, 56, 84)
    together = scorer(Clips(both, PROMPTS))
    for row in (0, 1):
        alone = scorer(Clips(both[row : row + 1], PROMPTS[row : row + 1]))
        for name in scorer.names:
            torch.testing.assert_close(alone[name], together[name][row : row + 1], atol=1e-5, rtol=1e-4)


def test_it_has_a_gradient_and_says_where_it_comes_from(made):
    scorer = VideoReward(str(made.folder), dtype="float32")
    video = videos(1, 4, 56, 56).requires_grad_(True)
    scorer(Clips(video, PROMPTS[:1]))["MQ"].sum().backward()
    assert (video.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
    assert scorer.provenance["positions"] == "sequential"
    assert scorer.provenance["normalisation"]["VQ_std"] == 2.0


@pytest.mark.parametrize(
    ("total", "fps", "count"), [(16, 4.0, 8), (81, 16.0, 10), (9, 16.0, 4), (5, 1.0, 4), (33, 8.0, 8)]
)
def test_frames_are_sampled_as_published(made, total, fps, count):
    """An even number, two a second, at least four and no more than there are."""
    assert VideoReward(str(made.folder), dtype="float32")._frames(total, fps) == count


def test_what_it_cannot_score_is_refused(made):
    scorer = VideoReward(str(made.folder), dtype="float32")
    assert "needs at least 4" in str(scorer.refusal(Clips(videos(1, 3, 56, 56), ("a",))))
    assert "contains a reward token" in str(scorer.refusal(Clips(videos(1, 8, 56, 56), ("<|VQ_reward|>",))))


def test_patches_are_the_published_processors():
    """Of a picture: a frame twice. Sizes by the processor's own rule."""
    picture = (videos(1, 1, 84, 56)[0, 0] * 255).round() / 255
    processor = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=10**6)
    theirs = processor(
        images=Image.fromarray((picture * 255).to(torch.uint8).permute(1, 2, 0).numpy()), return_tensors="pt"
    )
    ours = patches_by_hand(normalised(picture.expand(2, -1, -1, -1)).numpy())
    torch.testing.assert_close(torch.from_numpy(ours), theirs["pixel_values"], atol=1e-5, rtol=1e-5)
    for height, width, least, most in (
        (480, 832, 100352, 200704),
        (64, 64, 100352, 200704),
        (720, 1280, 784, 10**7),
    ):
        shape = resized(torch.zeros(1, 3, height, width), least, most).shape[-2:]
        assert tuple(shape) == smart_resize(height, width, 28, least, most)


def test_missing_parts_say_what_to_download(made, tmp_path):
    (tmp_path / "model_config.json").write_text((made.folder / "model_config.json").read_text())
    with pytest.raises(
        SuiteError, match=r"no instruction at '.*'; download prompt_template.py from github.com/KwaiVGI"
    ):
        VideoReward(str(tmp_path))
    (tmp_path / "prompt_template.py").write_text(VIDEO_TEMPLATE)
    with pytest.raises(
        SuiteError, match=r"has no checkpoint-N/model.pth; run `hf download KwaiVGI/VideoReward`"
    ):
        VideoReward(str(tmp_path))
    with pytest.raises(SuiteError, match=r"base model: folder '.*gone' does not exist.*'base'"):
        VideoReward(str(made.folder), base=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="assigns no text to OTHER"):
        constant(tmp_path / "prompt_template.py", "OTHER")


def test_weights_of_another_model_are_refused(made):
    body, _ = renamed(old_names(made.model))
    with pytest.raises(SuiteError, match=r"the weights embed .* tokens, and the tokenizer in"):
        Backbone(made.base, body, [f"<|{i}|>" for i in range(9)], torch.float32)
    body.pop("visual.merger.ln_q.weight")
    with pytest.raises(SuiteError, match=r"not those of the model.*visual\.merger\.ln_q\.weight"):
        Backbone(made.base, body, TOKENS, torch.float32)


def test_half_an_adapter_is_refused():
    weight = torch.ones(2, 2)
    with pytest.raises(ValueError, match="adapter of 'x' is not whole"):
        merged_lora({"x.base_layer.weight": weight, "x.lora_A.default.weight": weight}, 1.0)
    with pytest.raises(ValueError, match="of a kind that is not merged"):
        merged_lora({"x.lora_embedding_A.default": weight}, 1.0)


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, torch.nn.Sequential]:
    folder = write_hpsv3(tmp_path_factory.mktemp("hpsv3"))
    model = grown(write_qwen2vl(tmp_path_factory.mktemp("again")), 1)
    return Made(folder, folder / "base", model, torch.empty(0)), frame_head()


def test_hpsv3_is_the_heads_answer_averaged_over_frames(preference):
    made, head = preference
    scorer = HPSv3(str(made.folder), base=str(made.base), frames=2, dtype="float32")
    clips = Clips(videos(2, 5, 56, 56), PROMPTS)
    found = scorer(clips)
    for row, prompt in enumerate(PROMPTS):
        text, answers = f"\nRate {prompt}\n\nNow: <|Reward|>\n", []
        for frame in (0, 4):
            picture = clips.videos[row, frame].expand(2, -1, -1, -1)
            hidden = hidden_by_hand(made, picture, text, True, ("<|Reward|>",), "<|image_pad|>")
            with torch.no_grad():
                answers.append(head(hidden[0]))
        expected = torch.stack(answers).mean(dim=0)
        got = torch.stack([found["mean"][row], found["uncertainty"][row]])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_hpsv3s_missing_parts_say_what_to_download(preference, tmp_path):
    made, _ = preference
    with pytest.raises(SuiteError, match=r"has no HPSv3.safetensors"):
        HPSv3(str(tmp_path))
    with pytest.raises(
        SuiteError, match=r"no instruction at '.*none.py'; download hpsv3/dataset/data_collator_qwen.py"
    ):
        HPSv3(str(made.folder), template=str(tmp_path / "none.py"), base=str(made.base))
    assert "contains a reward token" in str(
        HPSv3(str(made.folder), base=str(made.base)).refusal(Clips(videos(1, 1, 28, 28), ("<|Reward|>",)))
    )
