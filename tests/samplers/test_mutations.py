"""Each formula broken on purpose, and the test that notices.

A mutation replaces a piece of one function's source; the named test must then fail. MUTATIONS.md beside this
file lists the same pairs (``python -m tests.samplers.test_mutations`` prints them).
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from rewards import gradients
from rewards.gradients import DecodedReward, ZerothOrderReward
from samplers import draw_noise, guidance, kernels, noise, schedules, shape_gradient
from samplers.guidance import Guidance
from samplers.rollout import Rollout, clean_estimate, reward_at_clean
from samplers.sampler import Sampler
from samplers.trajectory import Trajectory
from samplers.transition import Transition
from samplers.windows import Window
from tests.mutations import Mutation, table
from tests.rewards import test_gradients
from tests.samplers import (
    test_equations,
    test_guidance,
    test_marginals,
    test_presets,
    test_special_cases,
    test_trajectory,
    test_traps,
    test_windows,
)
from tests.samplers.gaussian import EULER, POLICY, PRESERVING


def converges(kernel: str, kind: str, level: float) -> Callable[[], object]:
    times = (0, 0.75) if kind == "memoryless" else (0, 1)
    return partial(test_marginals.test_marginals_converge_at_first_order, kernel, kind, level, times, POLICY)


SDE = partial(test_equations.test_euler_maruyama_is_the_guided_sde, "constant", 0.3)
FLOW_SDE = partial(test_equations.test_euler_maruyama_is_the_guided_sde, "flow_grpo", 0.7)
DENSITY = partial(test_equations.test_log_probability_is_the_gaussian_density, "mean", "unguided")
TILT = partial(test_marginals.test_memoryless_guidance_converges_to_the_tilted_density, EULER)
STORED = partial(test_traps.test_the_stored_state_is_what_was_scored, "dance_grpo", torch.bfloat16)
BOUND = partial(
    test_traps.test_noise_is_bounded_at_the_first_step_whatever_its_last_bit, "flow_grpo", 0.99999994
)
ABSOLUTE = partial(test_equations.test_absolute_guidance_shifts_by_scale_times_step, EULER, "constant", 0.25)
TARGET = partial(
    test_equations.test_the_target_velocity_moves_unguided_where_the_old_one_moves_guided,
    EULER,
    "constant",
    0.25,
)
CLEAN = partial(
    test_guidance.test_guidance_through_the_clean_estimate_includes_the_networks_jacobian,
    test_guidance.linear,
)
ESTIMATE, SIGNS = ZerothOrderReward._estimate, ZerothOrderReward._signs
CENTRAL = partial(test_gradients.test_of_one_element_the_estimate_is_the_central_difference, 0.5)

MUTATIONS = [
    # The step
    Mutation("sign of the score, state part", kernels.euler_maruyama, "1 - pull", "1 + pull", SDE),
    Mutation(
        "sign of the score, velocity part",
        kernels.euler_maruyama,
        "-step - pull",
        "-step + pull",
        converges(EULER, "constant", 1.0),
    ),
    Mutation(
        "half of the score lost",
        kernels.euler_maruyama,
        "(2 * sigma)",
        "sigma",
        converges(EULER, "linear", 1.0),
    ),
    Mutation(
        "sign of the velocity", kernels.euler_maruyama, "-step -", "step -", converges(EULER, "zero", 0.0)
    ),
    Mutation(
        "sqrt(D) dropped from the std",
        noise.step_std,
        " * (sigmas[:-1] - sigmas[1:]).sqrt()",
        "",
        converges(EULER, "constant", 0.25),
    ),
    Mutation(
        "D in place of sqrt(D)",
        noise.step_std,
        "(sigmas[:-1] - sigmas[1:]).sqrt()",
        "(sigmas[:-1] - sigmas[1:])",
        FLOW_SDE,
    ),
    Mutation(
        "bound of g by equality of floats",
        noise.diffusion_coefficient,
        "(1 - t).clamp(min=float(1 - sigmas[1]))",
        "torch.where(t == 1, 1 - sigmas[1], 1 - t)",
        BOUND,
    ),
    Mutation(
        "memoryless without its factor 2",
        noise.diffusion_coefficient,
        "math.sqrt(2.0)",
        "1.0",
        test_marginals.test_memoryless_noise_makes_the_sample_independent_of_the_initial_noise,
    ),
    Mutation(
        "linear noise without sigma_1",
        noise.diffusion_coefficient,
        "noise.level * sigmas[1] * t",
        "noise.level * t",
        partial(test_equations.test_euler_maruyama_is_the_guided_sde, "linear", 0.9),
    ),
    Mutation(
        "Flow-CPS keeps all old noise",
        kernels.coefficient_preserving,
        "sigma_next.square() - std.square()",
        "sigma_next.square()",
        partial(test_equations.test_coefficient_preserving_is_flow_cps, 0.7),
    ),
    Mutation(
        "Flow-CPS data coefficient at the old time",
        kernels.coefficient_preserving,
        "(1 - sigma_next) * sigma",
        "(1 - sigma) * sigma",
        converges(PRESERVING, "linear", 1.0),
    ),
    Mutation(
        "schedule shifted the other way",
        schedules.sigma_schedule,
        "return shift * u / (1 + (shift - 1) * u)",
        "return u / (shift - (shift - 1) * u)",
        test_traps.test_the_default_schedule_of_diffusers_is_not_the_shifted_linear_one,
    ),
    Mutation(
        "step done in half precision",
        Sampler.transition,
        "step_dtype(x.dtype, velocity.dtype)",
        "x.dtype",
        test_traps.test_a_step_of_half_precision_states_is_done_in_float32,
    ),
    # Guidance
    Mutation(
        "guidance pushes down", Guidance.shift, "return self.strength *", "return -self.strength *", TILT
    ),
    Mutation("half of the guidance lost", Guidance.shift, "std.square() / 2", "std.square() / 4", TILT),
    Mutation(
        "relative guidance without D",
        Guidance.shift,
        "std.square() / 2",
        "std.square() / step / 2",
        SDE,
    ),
    Mutation("absolute guidance without D", Guidance.shift, "self.scale * step", "self.scale", ABSOLUTE),
    Mutation(
        "guidance window off by one",
        Guidance.steps,
        "self.start :",
        "self.start + 1 :",
        test_presets.test_published_settings,
    ),
    Mutation(
        "norm of the whole batch",
        shape_gradient,
        "gradient / (torch.linalg.vector_norm(gradient, dim=dims, keepdim=True) + NORM_EPS)",
        "gradient / (torch.linalg.vector_norm(gradient) + NORM_EPS)",
        test_traps.test_normalised_guidance_does_not_depend_on_neighbours,
    ),
    Mutation(
        "clipping by the norm, not the rms",
        shape_gradient,
        "keepdim=True) / size",
        "keepdim=True)",
        test_guidance.test_clipping_limits_the_rms_and_leaves_the_rest_alone,
    ),
    Mutation("sign of x0_hat", clean_estimate, "velocity, -wide", "velocity, wide", CLEAN),
    Mutation(
        "Jacobian of x0_hat left out",
        reward_at_clean,
        "(gradient,) = torch.autograd.grad(clean, leaf, at_clean.to(clean.dtype))",
        "gradient = at_clean",
        CLEAN,
    ),
    Mutation(
        "mean of the batch's rewards differentiated",
        guidance.reward_value_and_gradient,
        "values.sum()",
        "values.mean()",
        test_guidance.test_gradient_of_a_callable_is_autograds_and_touches_no_parameter,
    ),
    # The zeroth-order gradient of outcome rewards
    Mutation("sign of the zeroth-order gradient", ESTIMATE, "slope.view", "-slope.view", CENTRAL),
    Mutation("zeroth-order gradient without its radius", ESTIMATE, "(2 * self.radius)", "2", CENTRAL),
    Mutation("factor 2 of the central difference", ESTIMATE, "(2 * self.radius)", "self.radius", CENTRAL),
    Mutation("sum over the directions for their mean", ESTIMATE, "total / self.directions", "total", CENTRAL),
    Mutation(
        "one-sided difference",
        ESTIMATE,
        "self._value(x - step",
        "self._value(x",
        test_gradients.test_central_differences_cancel_even_terms,
    ),
    Mutation(
        "directions of 0 and 1 for signs", SIGNS, "2 * torch.stack(bits) - 1", "torch.stack(bits)", CENTRAL
    ),
    Mutation(
        "the same directions for all samples",
        SIGNS,
        "torch.stack(bits)",
        "torch.stack(bits[:1] * len(bits))",
        test_gradients.test_every_sample_has_its_own_directions,
    ),
    Mutation(
        "one generator for the directions of all samples",
        SIGNS,
        "for g in self.generators]",
        "for g in self.generators[:1] * len(self.generators)]",
        test_gradients.test_a_sample_does_not_depend_on_its_neighbours,
    ),
    Mutation(
        "directions from the global generator",
        SIGNS,
        "generator=g, device=g.device",
        "device=g.device",
        test_gradients.test_directions_come_from_the_generators_alone_and_are_new_every_time,
    ),
    Mutation(
        "weights of the outcome rewards ignored",
        ZerothOrderReward._value,
        "self.weights[name] * scored",
        "scored",
        test_gradients.test_several_rewards_are_summed_with_their_weights,
    ),
    Mutation(
        "latent moved in half precision",
        gradients._wide,
        "x.to(torch.promote_types(x.dtype, torch.float32))",
        "x",
        test_gradients.test_half_precision_latents_are_moved_in_float32,
    ),
    # Their exact gradient
    Mutation(
        "weights of the rewards ignored in the exact gradient",
        DecodedReward.value_and_gradient,
        "total += self.weights[name] * slope",
        "total += slope",
        test_gradients.test_the_exact_gradient_is_that_of_finite_differences_through_the_decoder,
    ),
    Mutation(
        "the batch's mean differentiated through the decoder",
        DecodedReward.value_and_gradient,
        "value.sum()",
        "value.mean()",
        test_gradients.test_the_exact_gradient_is_that_of_finite_differences_through_the_decoder,
    ),
    Mutation(
        "only the last reward differentiated",
        DecodedReward.value_and_gradient,
        "total += self.weights",
        "total = self.weights",
        test_gradients.test_the_exact_gradient_is_that_of_finite_differences_through_the_decoder,
    ),
    Mutation(
        "an exact gradient in half precision",
        DecodedReward.value_and_gradient,
        "leaf = _wide(x)",
        "leaf = x",
        test_gradients.test_the_exact_gradient_is_taken_in_float32_and_leaves_no_graph,
    ),
    Mutation(
        "an exact gradient that is not finite passes",
        DecodedReward.value_and_gradient,
        "not torch.isfinite(slope).all()",
        "False",
        partial(
            test_gradients.test_a_reward_that_cannot_guide_is_an_error_that_names_it,
            *test_gradients.FLAT,
        ),
    ),
    Mutation(
        "outcome rewards of a noised latent",
        gradients._check_clean,
        "bool((sigma != 0).any())",
        "False",
        partial(test_gradients.test_noised_latents_are_refused, "gradient"),
    ),
    # Scoring
    Mutation("sum for mean", Transition.log_prob, "square() / elements", "square()", DENSITY),
    Mutation("reduction ignored", Transition.log_prob, 'self.reduction == "mean"', "False", DENSITY),
    Mutation("log std left out", Transition.log_prob, " - std.log()", "", DENSITY),
    Mutation("factor 2 of the variance", Transition.log_prob, "(2 * std.square())", "std.square()", DENSITY),
    Mutation(
        "guided mean scores where the unguided one should",
        Transition.log_prob,
        'self.score_mean == "guided"',
        'self.score_mean != "guided"',
        DENSITY,
    ),
    Mutation(
        "scored before rounding",
        Rollout.run,
        "x = transition.sample(generator).to(x.dtype)\n        builder.step(index, self._score(transition, "
        "x, seen, index), "
        "seen.gradient)",
        "drawn = transition.sample(generator)\n        builder.step(index, self._score(transition, drawn, "
        "seen, index), "
        "seen.gradient)\n        x = drawn.to(x.dtype)",
        STORED,
    ),
    Mutation(
        "density of a deterministic step",
        Transition.log_prob,
        "not bool(self.stochastic.all())",
        "False",
        test_traps.test_the_last_step_keeps_its_noise_under_the_sde_and_has_none_under_cps,
    ),
    # KL and distillation
    Mutation(
        "factor 2 of the KL",
        Sampler._kl_weights,
        "self.coefficients.velocity.square() / (2 * variance)",
        "self.coefficients.velocity.square() / variance",
        partial(test_equations.test_kl_is_that_of_the_two_transitions, EULER, "flow_grpo", 0.7, "mean"),
    ),
    Mutation(
        "KL by the step alone, without the score",
        Sampler._kl_weights,
        "self.coefficients.velocity.square() / (2 * variance)",
        "(self.sigmas[:-1] - self.sigmas[1:]).square() / (2 * variance)",
        test_equations.test_kl_of_euler_maruyama_in_closed_form,
    ),
    Mutation(
        "KL without a gradient",
        Sampler.kl_divergence,
        "wide(velocity) -",
        "wide(velocity).detach() -",
        test_equations.test_kl_has_a_gradient,
    ),
    Mutation(
        "sign of the distillation target",
        Sampler.distillation_target,
        "gradient, c / b",
        "gradient, -c / b",
        TARGET,
    ),
    Mutation(
        "distillation target by the step alone",
        Sampler.distillation_target,
        "gradient, c / b",
        "gradient, c / (-self.coefficients.std.square()[self._steps(index)] / 0.0625)",
        test_equations.test_minimising_the_kl_to_the_guided_transition_recovers_the_target,
    ),
    # The loop
    Mutation(
        "integer timesteps",
        Rollout._sigma,
        "float(self.sampler.sigmas[index])",
        "int(1000 * self.sampler.sigmas[index]) / 1000",
        test_traps.test_the_policy_receives_the_exact_sigma_and_no_integer_timestep,
    ),
    Mutation(
        "one generator for the whole batch",
        draw_noise,
        "for g in generator]",
        "for g in [generator[0]] * len(generator)]",
        test_traps.test_a_group_rolled_out_at_once_equals_its_members_one_by_one,
    ),
    Mutation(
        "noise from the global generator",
        draw_noise,
        "generator=generator, device=generator.device",
        "device=generator.device",
        test_traps.test_noise_comes_from_the_generator_alone,
    ),
    Mutation(
        "a reward that is NaN passes",
        Rollout._evaluate,
        "seen is not None",
        "False",
        test_traps.test_a_failed_reward_raises_and_names_the_step_and_the_sample,
    ),
    Mutation(
        "a velocity that is infinite passes",
        Rollout._score,
        "not bool(torch.isfinite(suspect).all())",
        "False",
        partial(test_traps.test_nan_and_infinity_raise_at_the_step_where_they_appear, "velocity"),
    ),
    Mutation(
        "next_state credit reads the state",
        Trajectory.process_credit,
        "rewards[1:]\n        case",
        "rewards[:-1]\n        case",
        test_trajectory.test_process_reward_credit,
    ),
    Mutation(
        "the window slides every iteration",
        Window.steps,
        "iteration // self.period",
        "iteration",
        test_windows.test_a_sliding_window_moves_every_period_and_begins_again,
    ),
    Mutation(
        "euphonium keeps guidance that was switched off",
        Guidance.shift,
        "return self.strength *",
        "return (self.strength or 1.0) *",
        test_special_cases.test_euphonium_without_guidance_is_dance_grpo_bit_for_bit,
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.what for mutation in MUTATIONS])
def test_a_broken_formula_fails_the_named_test(mutation: Mutation, request: pytest.FixtureRequest):
    mutation.check(request)


def test_the_document_lists_every_mutation():
    assert table(MUTATIONS) in (Path(__file__).parent / "MUTATIONS.md").read_text()


if __name__ == "__main__":
    sys.stdout.write(table(MUTATIONS) + "\n")
