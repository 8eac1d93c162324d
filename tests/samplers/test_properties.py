"""Any shape, batch, shift, number of steps, dtype and mixture of steps: finite, independent, reproducible."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import GaussianPolicy, Guidance, Noise, Sampler, SamplerSettings, Window, draw_noise

POLICY = GaussianPolicy(-0.2, 0.8)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
NOISES = st.one_of(
    st.floats(0.05, 1.0).map(lambda level: Noise(kind="constant", level=level)),
    st.floats(0.1, 1.4).map(lambda level: Noise(kind="flow_grpo", level=level)),
    st.floats(0.1, 1.0).map(lambda level: Noise(kind="linear", level=level)),
    st.floats(0.1, 1.5).map(lambda level: Noise(kind="angle", level=level)),
    st.just(Noise(kind="memoryless")),
)
SHAPES = st.integers(3, 5).flatmap(lambda n: st.tuples(*[st.integers(1, 4)] * n))  # 4-D to 6-D with the batch


GUIDANCES = st.one_of(
    st.none(),
    st.floats(0, 2).map(lambda strength: Guidance(strength=strength, normalisation="sample")),
    st.floats(0, 2).map(lambda scale: Guidance(scale=scale, clip=1.0)),
)


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    num_steps = draw(st.integers(1, 50))
    first = st.integers(1, num_steps).map(lambda count: Window(kind="first", count=count))
    return Sampler(
        SamplerSettings(
            num_steps=num_steps,
            shift=draw(st.floats(1.0, 13.0)),
            noise=draw(NOISES),
            kernel=draw(st.sampled_from(["euler_maruyama", "coefficient_preserving"])),
            window=draw(st.one_of(st.just(Window()), first)),  # the steps after a window are those of the ODE
            guidance=draw(GUIDANCES),
        )
    )


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def linear(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
    return x.float().flatten(1).mean(1)


@settings(max_examples=200, deadline=None)
@given(sampler=samplers(), shape=SHAPES, batch=st.integers(1, 5), dtype=DTYPES, seed=st.integers(0, 2**31))
def test_transitions_are_finite_and_independent_of_neighbours(sampler, shape, batch, dtype, seed):
    source = torch.Generator().manual_seed(seed)
    x, v, r = (draw_noise((batch, *shape), source).to(dtype) for _ in range(3))
    steps = torch.randint(sampler.num_steps, (batch,), generator=source)
    gradient = r if sampler.settings.guidance is not None else None
    mixed = sampler.transition(x, v, steps, gradient)
    x_next = mixed.sample(generators(list(range(batch)))).to(dtype)
    assert mixed.mean.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(mixed.mean).all()
    assert torch.isfinite(x_next).all()
    for row in range(batch):
        one = slice(row, row + 1)
        alone = sampler.transition(
            x[one], v[one], int(steps[row]), None if gradient is None else gradient[one]
        )
        assert torch.equal(alone.mean, mixed.mean[one])
        assert torch.equal(alone.sample(generators([row])).to(dtype), x_next[one])
        if sampler.stochastic(int(steps[row])):
            log_prob = alone.log_prob(x_next[one])
            assert torch.isfinite(log_prob).all()
            if bool(mixed.stochastic.all()):
                torch.testing.assert_close(log_prob, mixed.log_prob(x_next)[one], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(sampler=samplers(), shape=SHAPES, batch=st.integers(1, 4), dtype=DTYPES, seed=st.integers(0, 2**31))
def test_rollouts_are_finite_independent_and_reproducible(sampler, shape, batch, dtype, seed):
    seeds = [seed + row for row in range(batch)]
    noise = draw_noise((batch, *shape), generators(seeds)).to(dtype)
    trajectory = sampler.rollout(POLICY, noise, None, generators(seeds), linear)
    again = sampler.rollout(POLICY, noise, None, generators(seeds), linear)
    assert torch.isfinite(trajectory.states).all()
    assert torch.isfinite(trajectory.log_probs[trajectory.stochastic]).all()
    assert trajectory.log_probs[~trajectory.stochastic].isnan().all()
    assert torch.equal(trajectory.states, again.states)
    assert torch.equal(trajectory.log_probs.nan_to_num(), again.log_probs.nan_to_num())
    row = seed % batch
    alone = sampler.rollout(POLICY, noise[row : row + 1], None, generators(seeds[row : row + 1]), linear)
    assert torch.equal(trajectory.states[:, row], alone.states[:, 0])


@settings(max_examples=60, deadline=None)
@given(num_steps=st.integers(1, 50), shift=st.floats(1.0, 13.0))
def test_schedules_run_from_one_to_zero(num_steps, shift):
    sigmas = SamplerSettings(num_steps=num_steps, shift=shift, noise=Noise(kind="zero")).sigmas()
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (num_steps + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
