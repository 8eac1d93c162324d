"""A process reward from the first blocks of every family: what the policy sees, and differentiable."""

import pytest
import torch

from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance, ProvenanceError, fingerprint
from samplers.condition import Condition
from samplers.loading import load_policy
from samplers.pipeline import PipelinePolicy, Scales
from tests.families.pipelines import VARIANTS, start_noise
from tests.families.tokenizers import PROMPTS

SIGMA = torch.tensor([0.95, 0.6, 0.2])


@pytest.fixture
def policy(tiny, name) -> PipelinePolicy:
    return tiny.policy(name)


def blocks_of(network) -> list[torch.nn.Module]:
    """Wan calls them `blocks`; the others have streams of video and text, then perhaps of both joined."""
    names = ("blocks", "transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(network, name, [])]


def counts(policy: PipelinePolicy) -> range:
    """1 to all blocks; for HunyuanVideo on both sides of the border between its two kinds."""
    return range(1, len(blocks_of(policy.transformer)) + 1)


def reward_of(policy: PipelinePolicy, blocks: int) -> LatentProcessReward:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        reward = LatentProcessReward(cut_denoiser(policy.plain, blocks))
        torch.nn.init.normal_(reward.query)
    return reward


def given(policy: PipelinePolicy) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    return start_noise(policy, 3), SIGMA, policy.encode(PROMPTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_tokens_are_the_policys_own_hidden_states(tiny, name, dtype):
    policy = tiny.policy(name, dtype=dtype)
    x, _, condition = given(policy)
    sigma = torch.tensor([1.0, 0.95, 0.9])  # where the first of two networks is used
    for blocks in counts(policy):
        seen: list[torch.Tensor] = []
        hook = blocks_of(policy.transformer)[blocks - 1].register_forward_hook(
            lambda module, args, result, seen=seen: seen.append(
                result[0] if isinstance(result, tuple) else result
            )
        )
        policy.velocity(x, sigma, condition)
        hook.remove()
        reward = reward_of(policy, blocks)
        hidden: list[torch.Tensor] = []
        reward.norm.register_forward_pre_hook(lambda module, args, hidden=hidden: hidden.append(args[0]))
        values = reward(x, sigma, condition)
        torch.testing.assert_close(hidden[0], seen[0].float(), atol=1e-5, rtol=1e-5)
        assert values.shape == (3,)
        assert values.dtype == torch.float32
        tokens = torch.tensor(policy.latent_shape[1:]) // torch.tensor(policy.family.patch(policy.pipeline))
        assert hidden[0].shape[1] == int(tokens.prod())  # of the video alone
    with pytest.raises(ValueError, match=f"this transformer has {blocks}: choose 1 to {blocks}"):
        cut_denoiser(policy.plain, blocks + 1)


def test_it_comes_back_bit_for_bit(policy, tmp_path):
    made_for = Provenance.of(policy.pipeline)
    for blocks in (1, counts(policy)[-1]):
        reward = reward_of(policy, blocks)
        folder = tmp_path / str(blocks)
        reward.save(folder, made_for, {})
        again = LatentProcessReward.load(folder, made_for)
        inputs = given(policy)
        assert torch.equal(again(*inputs), reward.requires_grad_(False).eval()(*inputs))
        assert again.family is policy.family
        assert len(blocks_of(again.trunk)) == blocks
        assert dict(again.constants) == dict(policy.plain.constants)


def test_its_gradient_in_the_latent_is_its_finite_difference(policy):
    for blocks in (1, counts(policy)[-1]):
        reward = reward_of(policy, blocks).requires_grad_(False).eval()
        x, sigma, condition = given(policy)
        leaf = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(reward(leaf, sigma, condition).sum(), leaf)
        assert torch.isfinite(gradient).all()
        size = gradient.flatten(1).norm(dim=1)
        assert size.min() > 1e-3
        step = 0.02 * gradient / size.view(-1, 1, 1, 1, 1)
        up, down = (reward(x + sign * step, sigma, condition) for sign in (1, -1))
        torch.testing.assert_close((up - down) / 0.04, size, rtol=0.05, atol=1e-3)


def test_it_reads_latent_noise_level_and_prompt_of_its_own_row(policy):
    reward, (x, sigma, condition) = reward_of(policy, 1).eval(), given(policy)
    values = reward(x, sigma, condition)
    for other in (
        reward(x.roll(1, 0), sigma, condition),
        reward(x, sigma.roll(1), condition),
        reward(x, sigma, condition.select([1, 2, 0])),
    ):
        assert (other - values).abs().max() > 1e-4
    alone = reward(x[1:2], sigma[1:2], condition.select([1]))
    torch.testing.assert_close(alone, values[1:2], atol=1e-5, rtol=1e-5)


def test_training_it_reaches_the_trunk(policy):
    reward = reward_of(policy, counts(policy)[-1])
    reward(*given(policy)).sum().backward()
    first = blocks_of(reward.trunk)[0]
    reached = [p for p in first.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(reached) >= 6
    assert all(torch.isfinite(p.grad).all() for p in reward.parameters() if p.grad is not None)
    assert not any(p.grad is not None for p in policy.denoiser.parameters())


def test_provenance_differs_between_all_and_survives_loading(tiny, tmp_path):
    found = {}
    for name, variant in VARIANTS.items():
        own = Provenance.of(tiny.policy(name).pipeline)
        pipeline = load_policy(tiny.folder(name), variant.geometry).pipeline
        pipeline.save_pretrained(tmp_path / name)
        again = load_policy(tmp_path / name, variant.geometry).pipeline
        assert Provenance.of(pipeline) == Provenance.of(again) == own
        assert own.transformer.count("+") == ("a14b" in name)
        found[name] = own
    for field in ("latent_space", "transformer"):
        assert len({getattr(own, field) for own in found.values()}) == len(VARIANTS)
    with pytest.raises(ProvenanceError, match="was made for another latent space"):
        found["ltx"].require(found["hunyuan_video"], "the process reward")


def test_the_scale_of_the_latents_is_part_of_the_latent_space(policy):
    """Configured (Wan, HunyuanVideo) or stored with the weights (LTX-Video)."""
    scale, vae = policy.family.latent_scale(policy.pipeline), policy.pipeline.vae
    own = Provenance.of(policy.pipeline).latent_space
    assert fingerprint(vae, scale) == own
    assert fingerprint(vae, 1.1 * scale) != own


def test_two_networks_are_both_part_of_the_model(tiny):
    pipeline = load_policy(tiny.folder("wan22_a14b"), VARIANTS["wan22_a14b"].geometry).pipeline
    own = Provenance.of(pipeline)
    with torch.no_grad():
        pipeline.transformer_2.proj_out.weight += 0.1
    assert Provenance.of(pipeline).transformer.split("+")[0] == own.transformer.split("+")[0]
    with pytest.raises(ProvenanceError, match="was made for another base model"):
        Provenance.of(pipeline).require(own, "the process reward")


def test_the_embedded_scale_is_kept_with_the_reward(tiny, tmp_path):
    policy = tiny.policy("hunyuan_video", Scales(embedded=2.0))
    reward = reward_of(policy, 3)
    reward.save(tmp_path, Provenance.of(policy.pipeline), {})
    values = LatentProcessReward.load(tmp_path)(*given(policy))
    default = reward_of(tiny.policy("hunyuan_video"), 3)
    assert (values - default(*given(policy))).abs().min() > 1e-6
