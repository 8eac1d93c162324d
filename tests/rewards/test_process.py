"""The latent process reward: a copy of the policy's first blocks, differentiable in the latent, tied to its model."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanPipeline

from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance, ProvenanceError, fingerprint
from tests.world import GEOMETRY, build_world, tiny_transformer, world_policy


@pytest.fixture(scope="module")
def policy(world):
    return world_policy(world)


@pytest.fixture
def reward(world):
    return LatentProcessReward.load(world / "process_reward")


def inputs(policy, count: int = 3, seed: int = 0):
    x = torch.randn(count, *policy.latent_shape, generator=torch.Generator().manual_seed(seed))
    sigma = torch.linspace(0.99987, 0.05037, count)  # no integer timesteps
    prompts = [
        "a small red ball moving left",
        "a large blue ball moving up",
        "a medium green ball moving down",
    ]
    return x, sigma, policy.encode([prompts[i % 3] for i in range(count)])


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_trunk_is_a_copy_of_the_first_blocks(policy, blocks):
    transformer = policy.transformer
    trunk = cut_denoiser(policy.plain, blocks).first
    assert len(trunk.blocks) == trunk.config.num_layers == blocks
    state, cut = transformer.state_dict(), trunk.state_dict()
    for part in ("patch_embedding", "condition_embedder", *(f"blocks.{i}" for i in range(blocks))):
        names = [name for name in state if name.startswith(f"{part}.")]
        assert names
        assert all(torch.equal(cut[name], state[name]) for name in names)
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_the_trunk_is_no_alias_of_the_policy(policy):
    transformer = policy.transformer
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    trunk = cut_denoiser(policy.plain, 2)
    theirs = {tensor.data_ptr() for tensor in transformer.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in trunk.state_dict().values()}
    model = LatentProcessReward(trunk)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in transformer.state_dict().items())
    assert transformer.config.num_layers == 2
    assert not isinstance(transformer.proj_out, torch.nn.Identity)


def test_the_trunk_sees_what_the_policy_sees(policy):
    """Its hidden states are those of the policy's own forward pass after the same blocks."""
    x, sigma, condition = inputs(policy)
    for blocks in (1, 2):
        seen: list[torch.Tensor] = []
        hook = policy.transformer.blocks[blocks - 1].register_forward_hook(
            lambda module, given, output, seen=seen: seen.append(output)
        )
        policy.velocity(x, sigma, condition)
        hook.remove()
        model = LatentProcessReward(cut_denoiser(policy.plain, blocks))
        hidden: list[torch.Tensor] = []
        model.norm.register_forward_pre_hook(lambda module, given, hidden=hidden: hidden.append(given[0]))
        model.trunk.condition_embedder.register_forward_pre_hook(
            lambda module, given, hidden=hidden: hidden.append(given[0])
        )
        model(x, sigma, condition)
        assert torch.equal(hidden.pop(0), sigma * 1000)
        torch.testing.assert_close(hidden[0], seen[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", [0, -1, 3])
def test_blocks_that_the_transformer_does_not_have_are_refused(policy, blocks):
    with pytest.raises(ValueError, match=f"blocks is {blocks}; this transformer has 2: choose 1 to 2"):
        cut_denoiser(policy.plain, blocks)


def test_the_reward_depends_on_latent_noise_level_and_prompt(policy, reward):
    x, sigma, condition = inputs(policy)
    values = reward(x, sigma, condition)
    assert values.shape == (3,)
    assert values.dtype == torch.float32
    for other in (
        reward(x + 0.5, sigma, condition),
        reward(x, sigma * 0.5, condition),
        reward(x, sigma, condition.select([1, 2, 0])),
    ):
        assert (other - values).abs().min() > 1e-5


def test_a_samples_reward_does_not_depend_on_its_neighbours(policy, reward):
    x, sigma, condition = inputs(policy, 6)
    together = reward(x, sigma, condition)
    for row in range(6):
        alone = reward(x[row : row + 1], sigma[row : row + 1], condition.select([row]))
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-6, rtol=1e-5)


def test_the_gradient_in_the_latent_is_its_finite_difference(policy, reward):
    x, sigma, condition = inputs(policy)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(reward(leaf, sigma, condition).sum(), leaf)
    numbers = torch.Generator().manual_seed(8)
    # Along the gradient itself, where there is most to see, and along any other direction.
    for direction in (gradient, torch.randn(x.shape, generator=numbers)):
        direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        up, down = (reward(x + 0.05 * sign * direction, sigma, condition) for sign in (1, -1))
        expected = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close((up - down) / 0.1, expected, rtol=2e-2, atol=1e-3)
    assert gradient.flatten(1).norm(dim=1).min() > 0.02


def test_a_reward_comes_back_frozen_and_bit_for_bit(policy, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        trunk = cut_denoiser(policy.plain, 2)
        trunk.train_timesteps = 500
        model = LatentProcessReward(trunk)
        torch.nn.init.normal_(model.query)
    made_for, measured = Provenance.of(policy.pipeline), {"by_noise_level": {"0.5": {"accuracy": 0.75}}}
    model.save(tmp_path / "deep" / "prm", made_for, measured)
    again = LatentProcessReward.load(tmp_path / "deep" / "prm", made_for)
    given = inputs(policy)
    assert torch.equal(again(*given), model.requires_grad_(False).eval()(*given))
    assert again.num_train_timesteps == 500
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    config = json.loads((tmp_path / "deep" / "prm" / "config.json").read_text())
    assert config["provenance"] == made_for.model_dump()
    assert config["measured"] == measured


def test_no_reward_at_a_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(
        ProvenanceError, match=r"no process reward model at '.*none'; train one with `python -m rew"
    ):
        LatentProcessReward.load(tmp_path / "none")


REMEDY = r"make preference data for this model .*benchmarks.preferences.* train .*rewards.train_prm"


@pytest.mark.parametrize(
    ("part", "what"),
    [("transformer", "base model"), ("latent_space", "latent space"), ("family", "latent space")],
)
def test_a_reward_of_another_model_is_refused_with_what_differs_and_the_remedy(world, policy, part, what):
    own = Provenance.of(policy.pipeline)
    other = own.model_copy(update={part: "0123456789abcdef"})
    with pytest.raises(ProvenanceError, match=f"was made for another {what}.*{REMEDY}") as error:
        LatentProcessReward.load(world / "process_reward", other)
    message = str(error.value)
    assert str(world / "process_reward") in message
    assert "0123456789abcdef" in message
    assert "\n" not in message
    LatentProcessReward.load(world / "process_reward", own)


def test_another_seeds_world_is_another_model(world, tmp_path):
    """As a user meets it: the reward of one folder, the pipeline of another."""
    build_world(tmp_path, seed=1)
    expected = Provenance.of(world_policy(tmp_path).pipeline)
    with pytest.raises(ProvenanceError, match="was made for another latent space"):
        LatentProcessReward.load(world / "process_reward", expected)


def wan_pipeline(vae: torch.nn.Module, transformer: torch.nn.Module) -> WanPipeline:
    parts = dict.fromkeys(("tokenizer", "text_encoder", "scheduler"))
    return WanPipeline(vae=vae, transformer=transformer, **parts)


def test_provenance_tells_models_and_latent_spaces_apart(policy):
    pipeline, own = policy.pipeline, Provenance.of(policy.pipeline)
    assert Provenance.of(pipeline) == own
    with torch.random.fork_rng():
        torch.manual_seed(5)
        transformer = tiny_transformer()
    other = wan_pipeline(pipeline.vae, transformer)
    assert Provenance.of(other).transformer != own.transformer
    assert Provenance.of(other).latent_space == own.latent_space
    # The same weights with another scale of the latents are another latent space.
    vae = AutoencoderKLWan.from_config({**pipeline.vae.config, "latents_mean": [0.5] + [0.0] * 3})
    vae.load_state_dict(pipeline.vae.state_dict())
    assert Provenance.of(wan_pipeline(vae, transformer)).latent_space != own.latent_space


def test_a_pipeline_of_no_supported_family_has_no_provenance():
    with pytest.raises(
        ProvenanceError, match="pipeline family 'SimpleNamespace' is not supported; supported: Wan"
    ):
        Provenance.of(SimpleNamespace(transformer=tiny_transformer()))


def test_the_same_weights_in_half_the_precision_are_the_same_model(world, policy):
    half = DiffusionPipeline.from_pretrained(
        str(world / "pipeline"), dtype=torch.bfloat16, local_files_only=True
    )
    assert half.transformer.dtype == torch.bfloat16
    assert Provenance.of(half) == Provenance.of(policy.pipeline)


def test_the_fingerprint_notices_training():
    network = torch.nn.Linear(40, 30)
    before = fingerprint(network)
    assert fingerprint(network) == before
    assert len(before) == 16
    with torch.no_grad():
        network.weight *= 1.05
    assert fingerprint(network) != before
    assert fingerprint(network, torch.ones(2)) != fingerprint(network)
    assert fingerprint(torch.nn.Linear(30, 40)) != fingerprint(torch.nn.Linear(40, 30))


@pytest.mark.parametrize("count", [1, 5, 256, 257, 511, 512, 10_000])
def test_the_fingerprint_looks_at_more_than_half_of_a_tensors_length(count):
    network = torch.nn.Linear(count, 1, bias=False)
    before = fingerprint(network)
    with torch.no_grad():
        network.weight[:, count // 2 - 1 if count > 1 else 0 :] += 1.0
    assert fingerprint(network) != before


def test_the_geometry_is_not_part_of_the_model(policy):
    """The same reward serves other lengths and sizes of video: it pools over tokens."""
    model = LatentProcessReward(cut_denoiser(policy.plain, 1))
    longer = torch.randn(2, policy.latent_shape[0], 3, 4, 4, generator=torch.Generator().manual_seed(0))
    condition = policy.encode(["a small red ball moving left"] * 2)
    assert model(longer, torch.tensor([0.5, 0.2]), condition).shape == (2,)
    assert GEOMETRY.num_frames == 5
