"""Every refusal names the value and the remedy."""

import pytest
import torch

from samplers import (
    PRESETS,
    GaussianPolicy,
    Guidance,
    Noise,
    Sampler,
    SamplerSettings,
    Window,
    build,
    draw_noise,
    explicit_sigmas,
    sigma_schedule,
)

POLICY = GaussianPolicy()
CONSTANT = Noise(kind="constant", level=0.25)
X = torch.zeros(2, 3, 4)


def settings(**changes: object) -> SamplerSettings:
    return SamplerSettings(**{"num_steps": 4, "noise": CONSTANT, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Guidance(strength=0.3, scale=0.1),
            r"strength = 0.3 and guidance.scale = 0.1: give exactly one",
        ),
        (lambda: Guidance(), r"strength = None and guidance.scale = None: give exactly one"),
        (lambda: Guidance(strength=-0.1), r"guidance.strength = -0.1: give a finite number >= 0"),
        (lambda: Guidance(scale=float("inf")), r"guidance.scale = inf"),
        (lambda: Guidance(scale=1.0, clip=0.0), r"guidance.clip = 0.0: give a number > 0"),
        (lambda: Guidance(scale=1.0, start=-1), r"guidance.start = -1: steps are counted from 0"),
        (lambda: Guidance(scale=1.0, start=3, stop=3), r"guidance.stop = 3 with start = 3"),
        (lambda: Guidance(scale=1.0, interval=0), r"guidance.interval = 0: give at least 1"),
        (
            lambda: settings(guidance=Guidance(scale=1.0, start=4)),
            r"guidance.start = 4 lies outside the 4 steps",
        ),
        (
            lambda: settings(guidance=Guidance(scale=1.0, stop=5)),
            r"guidance.stop = 5 lies outside the 4 steps",
        ),
        (
            lambda: settings(noise=Noise(kind="zero"), guidance=Guidance(strength=0.3)),
            r"strength = 0.3 without noise has no effect.*give guidance.scale",
        ),
        (
            lambda: settings(window=Window(kind="range", start=4)),
            r"window.start = 4 lies outside the 4 steps",
        ),
        (lambda: settings(window=Window(kind="range", stop=9)), r"window.stop = 9 lies outside the 4 steps"),
        (
            lambda: settings(window=Window(kind="first", count=5)),
            r"window.count = 5 does not fit the 4 steps",
        ),
        (lambda: Window(kind="first"), r"window.count = 0 for kind 'first': give at least 1"),
        (lambda: Window(kind="all", count=3), r"window.count is not used by kind 'all'"),
        (lambda: Window(kind="sliding", count=2, period=0), r"window.period = 0: give at least 1"),
        (lambda: Noise(kind="constant"), r"noise.level is missing for kind 'constant'"),
        (lambda: Noise(kind="constant", level=-0.1), r"noise.level = -0.1: give a finite number >= 0"),
        (lambda: Noise(kind="zero", level=0.3), r"noise.level = 0.3 for kind 'zero', whose level is 0"),
        (lambda: Noise(kind="memoryless", level=0.5), r"kind 'memoryless', whose level is 1"),
        (lambda: Noise(kind="angle", level=2.0), r"noise.level = 2.0 for kind 'angle'"),
        (lambda: Noise(kind="cosine", level=2.0), r"Input should be 'zero', 'constant'"),
        (lambda: settings(num_steps=0), r"num_steps = 0: give at least 1"),
        (lambda: settings(shift=0.0), r"shift = 0.0: give a finite number > 0"),
        (lambda: settings(schedule=(1.0, 0.5, 0.0)), r"schedule has 3 sigmas for num_steps = 4"),
        (
            lambda: settings(schedule=(1.0, 0.7, 0.7, 0.5, 0.0)),
            r"schedule\[2\] = 0.7 is not below schedule\[1\] = 0.7: sigmas must decrease",
        ),
        (
            lambda: settings(schedule=(999.0, 0.7, 0.6, 0.5, 0.0)),
            r"schedule\[0\] = 999.0: sigmas lie in \[0, 1\]",
        ),
        (
            lambda: settings(schedule=(1.0, 0.7, 0.6, 0.5, 0.0), shift=3.0),
            r"shift = 3.0 with an explicit schedule",
        ),
        (lambda: explicit_sigmas([1.0, float("nan")]), r"schedule\[1\] = nan"),
        (lambda: settings(schedule=(1.0, 0.7, 0.6, 0.5, 0.1)), r"schedule ends at 0.1: end at 0"),
        (lambda: explicit_sigmas([1.0]), r"at least 2 sigmas"),
        (lambda: sigma_schedule(0), r"num_steps = 0"),
        (lambda: sigma_schedule(4, -1.0), r"shift = -1.0"),
        (lambda: settings(nosie=CONSTANT), r"nosie"),
        (lambda: build("flow-grpo"), r"unknown sampler 'flow-grpo': did you mean 'flow_grpo'\?"),
        (lambda: build("zzz"), r"unknown sampler 'zzz': known are cps"),
        (lambda: build("ode", noise_level=0.3), r"noise.level = 0.3 for kind 'zero'"),
        (lambda: build("ode", guidance=0.3), r"give guidance.scale"),
        (lambda: GaussianPolicy(0.0, 0.0), r"std = 0.0: give a standard deviation > 0"),
        (lambda: Sampler(settings(), (True, False)), r"window_steps has 2 entries: give one per step, 4"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s: s.transition(X, X[:1], 0),
            ValueError,
            r"velocity has shape \(1, 3, 4\), x has \(2, 3, 4\)",
        ),
        (lambda s: s.transition(X, X.to("meta"), 0), ValueError, r"velocity is on meta, x on cpu: move it"),
        (
            lambda s: s.transition(X.long(), X, 0),
            TypeError,
            r"x has dtype torch.int64: give a floating-point",
        ),
        (
            lambda s: s.transition(X[0, 0], X[0, 0], 0),
            ValueError,
            r"x has shape \(4,\): give a non-empty batch",
        ),
        (lambda s: s.transition(X, X, 4), IndexError, r"step 4 lies outside the 4 steps: give 0..3"),
        (lambda s: s.transition(X, X, -1), IndexError, r"step -1 lies outside the 4 steps"),
        (lambda s: s.transition(X, X, torch.tensor([0, 4])), IndexError, r"step 4 lies outside"),
        (
            lambda s: s.transition(X, X, torch.tensor([0, 1, 2])),
            ValueError,
            r"index has 3 steps for a batch of 2",
        ),
        (lambda s: s.transition(X, X, torch.tensor([0.5, 1])), TypeError, r"index is a torch.float32 tensor"),
        (
            lambda s: s.transition(X, X, 0, X[:1]),
            ValueError,
            r"reward_gradient has shape \(1, 3, 4\), x has \(2, 3, 4\)",
        ),
        (lambda s: s.transition(X, X, 0, X.to("meta")), ValueError, r"reward_gradient is on meta, x on cpu"),
        (
            lambda s: s.transition(X, X, 0, X),
            ValueError,
            r"got a reward_gradient, but the sampler has no guidance",
        ),
        (
            lambda s: s.transition(X, X, 0).sample(),
            ValueError,
            r"no generator was given: pass a torch.Generator",
        ),
        (
            lambda s: s.transition(X, X, 0).sample([torch.Generator()]),
            ValueError,
            r"1 generators for a batch of 2",
        ),
        (lambda s: s.transition(X, X, 0).log_prob(X[:1]), ValueError, r"x_next has shape \(1, 3, 4\)"),
        (lambda s: s.transition(X, X, 0).log_prob(X.to("meta")), ValueError, r"x_next is on meta, x on cpu"),
        (
            lambda s: s.kl_divergence(X, X[:1], 0),
            ValueError,
            r"reference_velocity has shape \(1, 3, 4\), x has",
        ),
        (
            lambda s: s.distillation_target(X, X[..., :2], 0),
            ValueError,
            r"reward_gradient has shape \(2, 3, 2\), x has",
        ),
        (lambda s: s.rollout(POLICY, X), ValueError, r"no generator was given"),
        (lambda s: s.kl_divergence(X, X, 0, "l2"), ValueError, r"KL weighting 'l2': choose 'exact'"),
        (lambda s: s.rollout(lambda x, s, c: x[..., 0], X), ValueError, r"the policy's velocity has shape"),
    ],
)
def test_calls_that_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        call(Sampler(settings()))


def test_guidance_without_a_reward():
    with pytest.raises(ValueError, match=r"steps \[12, 13, 14, 15\] are guided and no reward was given"):
        build("euphonium").rollout(POLICY, X, None, torch.Generator())


def test_a_guided_score_needs_the_gradient_of_the_step():
    sampler = Sampler(build("euphonium").settings.replace(score_mean="guided"))
    sampler.transition(X, X, 0)
    with pytest.raises(ValueError, match=r"needs the reward gradient of guided step 12"):
        sampler.transition(X, X, 12)
    with pytest.raises(ValueError, match="guided step"):
        sampler.transition(X, X, torch.tensor([0, 13]))


def test_no_density_and_no_kl_where_there_is_no_noise():
    ode = build("ode", num_steps=4)
    with pytest.raises(
        ValueError, match=r"std is 0 for samples \[0, 1\], so there is no density.*stochastic"
    ):
        ode.transition(X, X, 1).log_prob(X)
    with pytest.raises(
        ValueError, match=r"KL of step 1 is infinite because its std is 0: ask only at stochastic steps"
    ):
        ode.kl_divergence(X, X + 1, 1)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        settings().num_steps = 5
    with pytest.raises(ValueError, match="frozen"):
        CONSTANT.level = 0.5


def test_settings_survive_json():
    for preset in PRESETS.values():
        assert SamplerSettings.model_validate_json(preset.model_dump_json()) == preset
    explicit = settings(
        schedule=(1.0, 0.7, 0.6, 0.5, 0.0),
        window=Window(kind="sliding", count=2, stride=1, period=25),
        guidance=Guidance(scale=0.1, clip=1.0, at="x0_hat"),
    )
    assert SamplerSettings.model_validate_json(explicit.model_dump_json()) == explicit
    assert hash(explicit) == hash(explicit.model_copy())


def test_generators_give_each_sample_its_own_noise():
    both = draw_noise((2, 5), [torch.Generator().manual_seed(s) for s in (1, 2)])
    assert torch.equal(both[1:], draw_noise((1, 5), [torch.Generator().manual_seed(2)]))
    assert not torch.equal(both[0], both[1])
