"""A diffusers pipeline as a policy: what diffusers itself generates, batched, and clear errors for other models."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler

from samplers import Noise, Policy, Sampler, SamplerSettings, Trajectory, build, scheduler_sigmas
from samplers.condition import Geometry
from samplers.families import REFUSED, ModelError
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy, Scales

GEOMETRY = Geometry(5, 16, 16)
PROMPTS = ["a small red ball moving left", "a large blue ball moving up", "a medium green ball moving down"]
#: Wan pads prompts to 512 tokens; the tiny tokenizer was made for 12.
MAX_SEQUENCE_LENGTH = 12


@pytest.fixture(scope="module")
def policy(world):
    return load_policy(world / "pipeline", GEOMETRY)


def noise(policy: PipelinePolicy, count: int, seed: int = 0) -> torch.Tensor:
    return policy.initial_noise([torch.Generator().manual_seed(100 * seed + i) for i in range(count)])


def own_ode(policy: PipelinePolicy, num_steps: int) -> Sampler:
    """The probability-flow ODE on the grid that the pipeline's own scheduler would visit."""
    sigmas = scheduler_sigmas(policy.pipeline.scheduler, num_steps)
    settings = {"num_steps": num_steps, "schedule": tuple(sigmas.tolist()), "noise": Noise(kind="zero")}
    return Sampler(SamplerSettings.model_validate(settings))


def by_diffusers(policy: PipelinePolicy, start: torch.Tensor, num_steps: int, scale: float) -> torch.Tensor:
    return policy.pipeline(
        prompt=PROMPTS[: len(start)],
        negative_prompt=[policy.negative_prompt] * len(start),
        num_frames=GEOMETRY.num_frames,
        height=GEOMETRY.height,
        width=GEOMETRY.width,
        num_inference_steps=num_steps,
        guidance_scale=scale,
        latents=start.clone(),
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        output_type="latent",
    ).frames


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("num_steps", [4, 9])
def test_the_ode_is_what_diffusers_own_pipeline_generates(world, scale, num_steps):
    policy = load_policy(world / "pipeline", GEOMETRY, guidance_scale=scale)
    start = noise(policy, 3)
    expected = by_diffusers(policy, start, num_steps, scale)
    found = own_ode(policy, num_steps).rollout(policy, start, policy.encode(PROMPTS)).final
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    other = by_diffusers(policy, start, num_steps, 1.0 if scale > 1 else 4.0)
    assert (found - other).abs().max() > 1e-2  # classifier-free guidance does matter here
    assert (found - start).abs().max() > 0.1


def test_videos_are_those_of_diffusers_too(policy):
    start = noise(policy, 2)
    latents = own_ode(policy, 4).rollout(policy, start, policy.encode(PROMPTS[:2])).final
    expected = policy.pipeline(
        prompt=PROMPTS[:2],
        num_frames=5,
        height=16,
        width=16,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=start.clone(),
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        output_type="pt",
    ).frames
    found = policy.decode(latents)
    assert found.shape == (2, 5, 3, 16, 16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)
    assert found.std() > 0.01


def test_decoding_undoes_the_scale_of_the_latents(world, tmp_path):
    """With latent statistics that are not 0 and 1, as every trained autoencoder has."""
    shutil.copytree(world / "pipeline", tmp_path / "pipeline")
    config = tmp_path / "pipeline" / "vae" / "config.json"
    content = json.loads(config.read_text())
    content |= {"latents_mean": [0.3, -0.5, 0.0, 1.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}
    config.write_text(json.dumps(content))
    policy = load_policy(tmp_path / "pipeline", GEOMETRY)
    latents = noise(policy, 2)
    mean, std = (torch.tensor(content[name]).view(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    plain = load_policy(world / "pipeline", GEOMETRY)
    torch.testing.assert_close(policy.decode(latents), plain.decode(latents * std + mean), atol=1e-5, rtol=0)
    assert (policy.decode(latents) - plain.decode(latents)).abs().max() > 1e-3


def rolled(policy: PipelinePolicy, sampler: Sampler, rows: list[int]) -> Trajectory:
    start = noise(policy, 3)[rows]
    generators = [torch.Generator().manual_seed(50 + row) for row in rows]
    return sampler.rollout(policy, start, policy.encode([PROMPTS[row] for row in rows]), generators)


@pytest.mark.parametrize("name", ["ode", "dance_grpo", "flow_grpo", "cps"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_batch_of_videos_is_its_videos_one_by_one(world, name, scale):
    policy = load_policy(world / "pipeline", GEOMETRY, guidance_scale=scale)
    sampler = build(name, num_steps=4, shift=3.0)
    together = rolled(policy, sampler, [0, 1, 2])
    videos = policy.decode(together.final)
    for row in range(3):
        alone = rolled(policy, sampler, [row])
        torch.testing.assert_close(alone.states[:, 0], together.states[:, row], atol=1e-4, rtol=0)
        torch.testing.assert_close(policy.decode(alone.final)[0], videos[row], atol=1e-4, rtol=0)
    assert (videos[0] - videos[1]).abs().max() > 0.01


def test_decoding_in_parts_changes_nothing(policy):
    latents = noise(policy, 5)
    whole = policy.decode(latents)
    parts = PipelinePolicy(policy.pipeline, GEOMETRY, decode_batch=2).decode(latents)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_velocity_is_guided_as_its_scale_says(world, scale):
    policy = load_policy(world / "pipeline", GEOMETRY, guidance_scale=scale)
    plain = load_policy(world / "pipeline", GEOMETRY)
    x, sigma = noise(policy, 3), torch.tensor([1.0, 0.5, 0.123456])
    found = policy.velocity(x, sigma, policy.encode(PROMPTS))
    said, unsaid = (plain.velocity(x, sigma, plain.encode(texts)) for texts in (PROMPTS, [""] * 3))
    torch.testing.assert_close(found, unsaid + scale * (said - unsaid), atol=1e-4, rtol=1e-4)
    assert found.dtype == torch.float32
    assert (said - unsaid).abs().max() > 1e-3


def test_the_transformer_sees_the_exact_noise_level(policy):
    seen: list[torch.Tensor] = []
    hook = policy.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    sigma = torch.tensor([0.9999999, 0.123456, 0.0])
    policy.velocity(noise(policy, 3), sigma, policy.encode(PROMPTS))
    hook.remove()
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], sigma * 1000)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_each_prompt_is_encoded_once(world, scale, monkeypatch):
    policy = load_policy(world / "pipeline", GEOMETRY, guidance_scale=scale)
    asked: list[str] = []
    encode = policy.pipeline.encode_prompt

    def counting(prompt: list[str], **settings: object) -> object:
        asked.extend(prompt)
        return encode(prompt=prompt, **settings)

    monkeypatch.setattr(policy.pipeline, "encode_prompt", counting)
    first = policy.encode([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    second = policy.encode([PROMPTS[2], PROMPTS[0]])
    assert sorted(asked) == sorted([*PROMPTS, *([""] if scale > 1 else [])])
    assert torch.equal(first.embeds[0], first.embeds[2])
    assert torch.equal(first.embeds[0], second.embeds[1])
    assert (first.embeds[0] - first.embeds[1]).abs().max() > 1e-3
    assert first.embeds.shape == (3, MAX_SEQUENCE_LENGTH, 48)
    assert (first.negative is not None) == (scale > 1)
    assert not first.embeds.requires_grad
    fresh = load_policy(world / "pipeline", GEOMETRY, guidance_scale=scale).encode([PROMPTS[0]])
    torch.testing.assert_close(fresh.embeds[0], first.embeds[0], atol=1e-6, rtol=0)  # whatever the batch


def test_a_condition_selects_its_samples(world):
    condition = load_policy(world / "pipeline", GEOMETRY, guidance_scale=2.0).encode(PROMPTS)
    some = condition.select([2, 0, 0])
    assert len(some) == 3
    assert some.prompts == (PROMPTS[2], PROMPTS[0], PROMPTS[0])
    assert torch.equal(some.embeds, condition.embeds[[2, 0, 0]])
    assert torch.equal(some.negative["embeds"], condition.negative["embeds"][[2, 0, 0]])


def test_initial_noise_is_standard_normal_and_each_samples_own(policy):
    start = noise(policy, 64)
    assert start.shape == (64, *policy.latent_shape) == (64, 4, 2, 2, 2)
    assert abs(start.mean()) < 0.1
    assert abs(start.std() - 1) < 0.1
    assert torch.equal(noise(policy, 3), start[:3])
    assert (start[0] - start[1]).abs().max() > 0.5


def test_a_pipeline_is_a_frozen_policy(policy):
    assert isinstance(policy, Policy)
    for module in (policy.transformer, policy.pipeline.vae, policy.pipeline.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (Geometry(4, 16, 16), "num_frames is 4; this autoencoder needs a multiple of 4 plus 1, such as 1"),
        (Geometry(8, 16, 16), "num_frames is 8; this autoencoder needs a multiple of 4 plus 1, such as 5"),
        (Geometry(5, 24, 16), "height is 24; this model needs a positive multiple of 16"),
        (Geometry(5, 16, 8), "width is 8; this model needs a positive multiple of 16"),
        (Geometry(5, 0, 16), "height is 0; this model needs a positive multiple of 16"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(world, geometry, message):
    with pytest.raises(ModelError, match=message):
        load_policy(world / "pipeline", geometry)


@pytest.mark.parametrize("geometry", [Geometry(1, 16, 16), Geometry(9, 32, 16)])
def test_a_geometry_that_fits_gives_videos_of_that_size(world, geometry):
    policy = load_policy(world / "pipeline", geometry)
    videos = policy.decode(noise(policy, 1))
    assert videos.shape == (1, geometry.num_frames, 3, geometry.height, geometry.width)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model folder '.*nowhere' does not exist"):
        load_policy(tmp_path / "nowhere", GEOMETRY)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"model folder '.*file' does not exist"):
        load_policy(tmp_path / "file", GEOMETRY)
    with pytest.raises(
        ModelError, match=r"is not a diffusers pipeline: it has no model_index.json; name the folder"
    ):
        load_policy(tmp_path, GEOMETRY)


@pytest.mark.parametrize("family", [*REFUSED, "SkyReelsV2Pipeline", None])
def test_a_pipeline_of_another_family_is_refused_before_it_is_loaded(tmp_path, family):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": family}))
    why = f": {REFUSED[family]}" if family in REFUSED else ""
    refusal = (
        f"model folder '{tmp_path}': pipeline family '{family}' is not supported{why}; supported: WanPipeline"
    )
    with pytest.raises(ModelError, match=re.escape(refusal)):
        load_policy(tmp_path, GEOMETRY)


def test_a_boundary_without_a_second_network_is_refused(world, tmp_path):
    shutil.copytree(world / "pipeline", tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "boundary_ratio": 0.875}))
    with pytest.raises(ModelError, match=r"boundary_ratio is 0.875, and there is 1 network \(transformer\)"):
        load_policy(tmp_path / "pipeline", GEOMETRY)


def test_an_object_that_is_no_supported_pipeline_is_refused():
    with pytest.raises(ModelError, match="pipeline family 'object' is not supported; supported: WanPipeline"):
        PipelinePolicy(object(), GEOMETRY)


@pytest.mark.parametrize(
    ("scales", "refusal"),
    [
        (Scales(embedded=6.0), "embedded_guidance is 6, and the network of a WanPipeline takes none"),
        (Scales(3.0, free_2=2.0), "guidance_scale_2 is 2, and this WanPipeline has one network"),
    ],
)
def test_a_scale_that_the_network_has_no_use_for_is_refused(world, scales, refusal):
    with pytest.raises(ModelError, match=refusal):
        load_policy(world / "pipeline", GEOMETRY, scales)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers
def test_wans_own_multistep_grid_can_be_visited(policy):
    """Real Wan checkpoints ship this scheduler: its sigmas serve, whatever its solver."""
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    sigmas = scheduler_sigmas(scheduler, 4)
    settings = {"num_steps": 4, "schedule": tuple(sigmas.tolist()), "noise": Noise(kind="zero")}
    sampler = Sampler(SamplerSettings.model_validate(settings))
    final = sampler.rollout(policy, noise(policy, 1), policy.encode(PROMPTS[:1])).final
    assert torch.isfinite(final).all()


def test_a_loaded_policy_rolls_out_in_bfloat16(world):
    policy = load_policy(world / "pipeline", GEOMETRY, dtype=torch.bfloat16)
    plain = load_policy(world / "pipeline", GEOMETRY)
    start, sampler = noise(plain, 2), build("dance_grpo", num_steps=4)
    half, full = (
        sampler.rollout(
            one, start, one.encode(PROMPTS[:2]), [torch.Generator().manual_seed(i) for i in (0, 1)]
        )
        for one in (policy, plain)
    )
    assert half.states.dtype == torch.float32
    assert policy.decode(half.final).dtype == torch.float32
    torch.testing.assert_close(half.states, full.states, atol=0.1, rtol=0)
    assert isinstance(policy.pipeline, DiffusionPipeline)
