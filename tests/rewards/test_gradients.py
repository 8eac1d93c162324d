"""Gradients through a decoder: exact ones against finite differences, and zeroth-order estimates against exact ones."""

from dataclasses import dataclass

import pytest
import torch

from rewards.base import RewardError
from rewards.gradients import DecodedReward, ZerothOrderReward
from rewards.shapes.quality import MotionQuality


@dataclass(frozen=True)
class Texts:
    prompts: tuple[str, ...]


TEXTS = Texts(("one", "two", "three"))
SLOPE = torch.linspace(-1, 1, 12)


def linear(slope=SLOPE):
    """The identity decoder's reward <slope, x>, seen as a black box."""
    return lambda videos, prompts: (videos.flatten(1) * slope).sum(dim=1)


def source(reward, count, directions=8, radius=0.1, seed=0, **more):
    return ZerothOrderReward(
        rewards={"black_box": reward},
        weights={"black_box": 1.0},
        decode=lambda z: z,
        generators=[torch.Generator().manual_seed(1000 * seed + row) for row in range(count)],
        directions=directions,
        radius=radius,
        **more,
    )


def estimate(reward, x, *settings, **more):
    estimated = source(reward, len(x), *settings, **more)
    return estimated.value_and_gradient(x, torch.zeros(len(x)), Texts(TEXTS.prompts[: len(x)]))


def latents(count=3, seed=1):
    return torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_of_one_element_the_estimate_is_the_central_difference(radius):
    """A sign times itself is 1, so nothing is random: exact for x^2, and too large by c^2 for x^3."""
    x = torch.tensor([[0.7], [-1.1]], dtype=torch.float64)
    values, gradient = estimate(lambda v, p: v.flatten().square(), x, 3, radius)
    torch.testing.assert_close(values, x.flatten().square().float())
    torch.testing.assert_close(gradient, 2 * x, rtol=1e-5, atol=1e-5)
    _, gradient = estimate(lambda v, p: v.flatten().pow(3), x, 3, radius)
    torch.testing.assert_close(gradient, 3 * x.square() + radius**2, rtol=1e-5, atol=1e-5)


def test_linear_reward_has_the_exact_gradient_in_expectation():
    values, gradient = estimate(linear(), latents(), 4000)
    error = (gradient.flatten(1) - SLOPE).abs().max()
    # Each element's estimate has variance sum of the other slopes squared, over n.
    assert error < 5 * (SLOPE.square().sum() / 4000).sqrt()
    assert values.shape == (3,)


def test_error_falls_with_the_square_root_of_directions():
    x = torch.zeros(1, 3, 4)

    def error(directions):
        runs = [estimate(linear(), x, directions, seed=seed)[1].flatten() - SLOPE for seed in range(64)]
        return torch.stack(runs).square().mean().sqrt()

    assert error(4) / error(64) == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("directions", [1, 4])
def test_the_estimates_norm_grows_with_the_number_of_elements(directions):
    """E|estimate|^2 = |gradient|^2 (1 + (N - 1) / n), as the docstring and `OutcomeGuidance` say."""
    runs = [estimate(linear(), torch.zeros(3, 3, 4), directions, seed=seed)[1] for seed in range(200)]
    squared = torch.cat(runs).flatten(1).square().sum(dim=1).mean()
    assert squared / SLOPE.square().sum() == pytest.approx(1 + (12 - 1) / directions, rel=0.1)


def test_central_differences_cancel_even_terms():
    """f = sum x^2 at 0 has gradient 0; one-sided differences would give c times the number of elements."""
    _, gradient = estimate(lambda v, p: v.flatten(1).square().sum(dim=1), torch.zeros(2, 3, 4), 1)
    assert torch.equal(gradient, torch.zeros(2, 3, 4))


def test_every_sample_has_its_own_directions():
    _, gradient = estimate(linear(), torch.zeros(3, 3, 4), 1)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert (gradient[one] - gradient[two]).abs().max() > 0.1


def test_a_sample_does_not_depend_on_its_neighbours():
    x = latents(seed=2)
    reward = lambda v, p: v.flatten(1).pow(3).sum(dim=1)  # noqa: E731
    _, together = estimate(reward, x, 5)
    _, alone = estimate(reward, x[:1], 5)
    assert torch.equal(together[:1], alone)


def test_directions_come_from_the_generators_alone_and_are_new_every_time():
    x, sigma, before = latents(), torch.zeros(3), torch.get_rng_state()
    first, again = source(linear(), 3), source(linear(), 3)
    gradients = [first.gradient(x, sigma, TEXTS) for _ in range(2)]
    assert torch.equal(gradients[0], again.gradient(x, sigma, TEXTS))
    assert not torch.equal(*gradients)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_rewards_are_summed_with_their_weights():
    rewards = {"down": linear(), "up": linear(SLOPE.square())}
    weights = {"up": 0.25, "down": -2.0}
    x, sigma = latents(), torch.zeros(3)

    def of(rewards, weights):
        generators = [torch.Generator().manual_seed(row) for row in range(3)]
        whole = ZerothOrderReward(rewards, weights, lambda z: z, generators)
        return whole.value_and_gradient(x, sigma, TEXTS)

    values, gradient = of(rewards, weights)
    parts = {name: of({name: reward}, {name: 1.0}) for name, reward in rewards.items()}
    torch.testing.assert_close(values, sum(weights[name] * parts[name][0] for name in parts))
    torch.testing.assert_close(
        gradient, sum(weights[name] * parts[name][1] for name in parts), rtol=1e-4, atol=1e-4
    )


def test_each_answer_costs_what_the_docstring_says():
    calls = []

    def counting(videos, prompts):
        calls.append(len(videos))
        return linear()(videos, prompts)

    counted = source(counting, 3, 5)
    for ask, count in ((counted, 1), (counted.gradient, 10), (counted.value_and_gradient, 11)):
        calls.clear()
        ask(latents(), torch.zeros(3), TEXTS)
        assert calls == [3] * count


def test_half_precision_latents_are_moved_in_float32():
    """The radius is half a spacing of bfloat16 at 1: added there, it would vanish or double."""
    x = torch.ones(1, 1, dtype=torch.bfloat16)
    _, gradient = estimate(lambda v, p: 3 * v.flatten(), x, 1, 2.0**-8)
    assert gradient.dtype == torch.float32
    assert gradient.item() == pytest.approx(3, rel=1e-3)


def test_nothing_is_differentiated():
    weight = torch.ones(12, requires_grad=True)
    values, gradient = estimate(linear(weight), latents(), 2)
    assert not values.requires_grad
    assert not gradient.requires_grad
    assert weight.grad is None


@pytest.mark.parametrize("ask", ["__call__", "gradient", "value_and_gradient"])
def test_noised_latents_are_refused(ask):
    answer = getattr(source(linear(), 1), ask)
    with pytest.raises(ValueError, match=r"\['black_box'\] know clean latents only.*sigma 0.5.*'x0_hat'"):
        answer(torch.zeros(1, 3, 4), torch.tensor([0.5]), Texts(("one",)))


def test_a_failing_reward_is_named():
    def broken(videos, prompts):
        return torch.full((len(videos),), torch.nan)

    with pytest.raises(RewardError, match="'black_box' returned nan for prompt 'one' at iteration 7"):
        estimate(broken, torch.zeros(2, 3, 4), 1, iteration=7)


def test_a_generator_for_each_sample_is_insisted_on():
    with pytest.raises(ValueError, match="2 generators for a batch of 3: give one for each sample"):
        source(linear(), 2).gradient(latents(), torch.zeros(3), TEXTS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("directions", 0, "directions is 0; give at least 1"),
        ("radius", 0.0, "radius is 0.0; give a number > 0"),
        ("weights", {"other": 1.0}, r"rewards are \['judge'\] and weights \['other'\]; give at least one"),
        ("rewards", {}, r"rewards are \[\] and weights \['judge'\]"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    settings = {"rewards": {"judge": linear()}, "weights": {"judge": 1.0}, field: value}
    with pytest.raises(ValueError, match=message):
        ZerothOrderReward(decode=lambda z: z, generators=[], **settings)


# The exact gradient.

MIX = torch.randn(12, 3 * 3 * 2 * 2, generator=torch.Generator().manual_seed(5)) / 3


def decoder(z):
    """(B, 3, 4) latents to (B, 3, 3, 2, 2) videos in [0, 1]: every pixel depends on every element, and not linearly."""
    return (z.flatten(1) @ MIX.to(z)).sigmoid().view(-1, 3, 3, 2, 2)


def bright(videos, prompts):
    return videos.flatten(1).pow(2).mean(dim=1)


def steady(videos, prompts):
    return -videos.diff(dim=1).flatten(1).abs().pow(3).sum(dim=1)


JUDGES, WEIGHTS = {"bright": bright, "steady": steady}, {"steady": 0.5, "bright": -2.0}


def decoded(rewards=JUDGES, weights=WEIGHTS, **more):
    return DecodedReward(rewards, weights, decoder, **more)


def asked(reward, x, sigma=0.0):
    return reward.value_and_gradient(x, torch.full((len(x),), sigma), Texts(TEXTS.prompts[: len(x)]))


def test_the_exact_gradient_is_that_of_finite_differences_through_the_decoder():
    x = latents().double()

    def total(z):
        videos = decoder(z)
        return sum(weight * JUDGES[name](videos, None) for name, weight in WEIGHTS.items())

    values, gradient = asked(decoded(), x)
    torch.testing.assert_close(values, total(x).float())
    step = 1e-5
    for row, column in ((0, 0), (1, 2), (2, 3)):
        moved = torch.zeros_like(x)
        moved[:, row, column] = step
        slope = (total(x + moved) - total(x - moved)) / (2 * step)
        torch.testing.assert_close(gradient[:, row, column], slope, rtol=1e-6, atol=1e-8)
    alone = decoded().gradient(x[1:2], torch.zeros(1), Texts(("two",)))
    torch.testing.assert_close(alone, gradient[1:2], rtol=1e-12, atol=1e-14)  # neighbours have no say


def test_the_estimate_goes_to_the_exact_gradient():
    """The mean over 1000 directions; each element's spread is the norm of the others, over the root of their number."""
    x, count = latents(), 1000
    _, exact = asked(decoded(), x)
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    estimated = ZerothOrderReward(JUDGES, WEIGHTS, decoder, generators, count, radius=0.01)
    spread = exact.flatten(1).norm(dim=1).view(3, 1, 1) / count**0.5
    assert ((asked(estimated, x)[1] - exact).abs() < 5 * spread).all()
    assert (exact.abs() > 10 * spread).any()  # it could tell it from none


def test_the_exact_gradient_is_taken_in_float32_and_leaves_no_graph():
    weight = torch.ones(3 * 3 * 2 * 2, requires_grad=True)
    learnt = {"learnt": lambda videos, prompts: videos.flatten(1) @ weight.to(videos)}
    x = latents().bfloat16()
    with torch.no_grad():  # as a rollout is
        values, gradient = asked(decoded(learnt, {"learnt": 1.0}), x)
    assert gradient.dtype == torch.float32
    assert gradient.abs().max() > 0
    assert torch.equal(gradient, asked(decoded(learnt, {"learnt": 1.0}), x.float())[1])
    assert not values.requires_grad
    assert not gradient.requires_grad
    assert not x.requires_grad
    assert weight.grad is None


def test_one_decoding_serves_all_rewards():
    calls = []

    def counting(z):
        calls.append(len(z))
        return decoder(z)

    DecodedReward(JUDGES, WEIGHTS, counting).gradient(latents(), torch.zeros(3), TEXTS)
    assert calls == [3]


def hidden(videos, prompts):
    with torch.no_grad():
        return bright(videos, prompts)


@pytest.mark.parametrize("place", ["reward", "decoder"])
def test_what_has_no_gradient_is_refused_and_named(place):
    reward = decoded({"bright": bright, "judge": hidden}, {"bright": 1.0, "judge": 1.0})
    if place == "decoder":
        reward = DecodedReward({"judge": bright}, {"judge": 1.0}, lambda z: decoder(z).detach())
    with pytest.raises(ValueError, match=r"'judge' has no gradient in the video: .*estimator 'spsa'"):
        asked(reward, latents())


@pytest.mark.parametrize("ask", ["gradient", "value_and_gradient"])
def test_the_exact_gradient_of_noised_latents_is_refused(ask):
    with pytest.raises(
        ValueError, match=r"\['bright', 'steady'\] know clean latents only.*sigma 0.5.*'x0_hat'"
    ):
        getattr(decoded(), ask)(latents(), torch.tensor([0.0, 0.5, 0.0]), TEXTS)


def out_of_order(videos, prompts):
    raise OSError("no answer")


#: A reward whose value is a number and whose slope is none, and what is said of it.
FLAT = (
    lambda v, p: (v - v).flatten(1).sum(dim=1).sqrt(),
    "gradient of reward 'judge' is not finite at iteration 7",
)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (
            lambda v, p: v.flatten(1).mean(dim=1) * torch.nan,
            "'judge' returned nan for prompt 'one' at iteration 7",
        ),
        (lambda v, p: v.mean(), r"'judge' returned \(\) at iteration 7.*expected \(3,\)"),
        (out_of_order, "'judge' failed at iteration 7 .*OSError: no answer"),
        FLAT,
    ],
    ids=["value", "shape", "failure", "gradient"],
)
def test_a_reward_that_cannot_guide_is_an_error_that_names_it(judge, message):
    with pytest.raises(RewardError, match=message):
        asked(
            decoded({"bright": bright, "judge": judge}, {"bright": 1.0, "judge": 1.0}, iteration=7), latents()
        )


def test_the_quality_of_a_video_without_an_object_has_a_finite_gradient():
    """Its object's size is 0 in every frame, where a spread and a norm have no slope."""
    reward = DecodedReward(
        {"quality": MotionQuality()}, {"quality": 1.0}, lambda z: z.expand(-1, 4, 3, 16, 16)
    )
    for value in (0.0, 0.5):
        _, gradient = asked(reward, torch.full((1, 1, 1, 1, 1), value))
        assert gradient.isfinite().all()
