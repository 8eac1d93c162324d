"""Each formula of what is distilled broken on purpose, and the test that notices.

MUTATIONS.md beside this file lists the same pairs (``python -m tests.methods.test_mutations`` prints them).
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from methods import batches, earlier, losses
from methods.collecting import _Network
from methods.distilling import Distiller, _check_finite
from methods.experience import Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.objectives import ClippedRatio, DirectReward, GuardedRatio, NegativeAware, Preference
from methods.objectives.clipped_ratio import transitions
from methods.objectives.divergence_mask import masked_loss
from methods.parts import Distillation
from methods.selection import best_of_each
from methods.update import Learner
from methods.weights import TrainedWeights
from samplers import clean_estimate, reward_at_clean
from samplers.sampler import Sampler
from tests.methods import (
    test_collecting,
    test_distilling,
    test_experience,
    test_guiding,
    test_kl,
    test_method,
    test_objectives,
    test_update,
)
from tests.mutations import Mutation, table


def equations(variant: str, weights: str = "lora") -> Callable[..., object]:
    return partial(
        test_update.test_loss_and_gradient_are_those_of_the_equations, variant=variant, weights=weights
    )


def stands(*settings: str) -> Callable[..., object]:
    return partial(
        test_distilling.test_a_target_anchored_at_the_base_model_does_not_move_with_the_policy,
        settings=("euphonium", *settings),
        stands=True,
        weights="lora",
    )


def exact_updates(anchor: str, updates: int, tilts: int) -> Callable[..., object]:
    test = test_distilling.test_repeated_exact_updates_stay_at_the_tilted_density_or_leave_it
    return partial(test, anchor, updates, tilts)


TARGETS, WEIGHT, CLEAN = (
    Distiller.targets,
    Method.distillation_weight,
    "at the clean estimate of the base model",
)
EARLIER = partial(
    test_method.test_settings_of_earlier_versions_mean_what_they_meant,
    {"kl_weight": 0.0, "distillation": test_method.FADING},
    Distillation(weight=2.0, decay=0.93, anchor="policy"),
)

MUTATIONS = [
    # The target
    Mutation(
        "target pushed down the gradient",
        TARGETS,
        "guided.distillation_target(anchor, gradient,",
        "guided.distillation_target(anchor, -gradient,",
        exact_updates("base", 1, 1),
    ),
    Mutation(
        "c / b of the rollouts' guidance",
        TARGETS,
        "guided.distillation_target(",
        "sampler.distillation_target(",
        equations("everything at once"),
    ),
    Mutation(
        "stochastic steps forgotten under another guidance",
        Sampler.guided_by,
        ", self._given_steps",
        "",
        test_distilling.test_a_target_has_the_noise_of_the_window_as_it_is_now,
    ),
    Mutation(
        "half of the target's guidance lost",
        TARGETS,
        "(anchor, gradient,",
        "(anchor, gradient / 2,",
        exact_updates("base", 1, 1),
    ),
    Mutation(
        "target built on the policy as it is",
        Distiller._anchor,
        'return self.at.velocity("base", pairs.x, sigma, pairs.condition)',
        'return self.at.velocity("policy", pairs.x, sigma, pairs.condition)',
        exact_updates("base", 2, 1),
    ),
    Mutation(
        "base model with its adapters on",
        TrainedWeights.reference,
        "network.disable_adapters()",
        "pass",
        stands(),
    ),
    Mutation(
        "base model that is the trained one",
        TrainedWeights.reference,
        "self._policy.denoiser = self._base",
        "",
        equations("everything at once", "full"),
    ),
    Mutation(
        "guided steps alone count at the base model",
        TARGETS,
        "if self.method.needs_base:",
        "if False:",
        equations("anchored, guided as the rollouts"),
    ),
    Mutation(
        "unguided steps count at the policy",
        TARGETS,
        "torch.as_tensor(guided.guided(pairs.step)).to(everywhere)",
        "everywhere",
        equations("guidance of some steps"),
    ),
    Mutation(
        "rollouts' mask of guided steps for the target's",
        TARGETS,
        "guided.guided(pairs.step)",
        "sampler.guided(pairs.step)",
        equations("moving target of unguided rollouts"),
    ),
    Mutation(
        "gradient at the next state",
        Distiller._anchor_and_gradient,
        "reward_value_and_gradient(reward, pairs.x,",
        "reward_value_and_gradient(reward, pairs.x_next,",
        equations("euphonium"),
    ),
    Mutation(
        "gradient that is not shaped",
        Distiller._anchor_and_gradient,
        "shape_gradient(gradient, guidance)",
        "gradient",
        equations("a shaped gradient"),
    ),
    Mutation(
        "gradient through the policy for the base model's",
        Distiller._anchor_and_gradient,
        'partial(self.at.velocity, "base") if self.method.needs_base else self.at.policy.velocity',
        "self.at.policy.velocity",
        stands(*test_distilling.CLEAN),
    ),
    Mutation(
        "anchor at the policy as it is, for the one that drew the pairs",
        Distiller._anchor_and_gradient,
        "if not self.method.needs_base:\n            anchor =",
        "if False:\n            anchor =",
        equations("moving target of unguided rollouts"),
    ),
    Mutation("sign of x0_hat", clean_estimate, "velocity, -wide", "velocity, wide", equations(CLEAN)),
    Mutation(
        "Jacobian of x0_hat left out",
        reward_at_clean,
        "(gradient,) = torch.autograd.grad(clean, leaf, at_clean.to(clean.dtype))",
        "gradient = at_clean",
        equations(CLEAN),
    ),
    Mutation(
        "clean estimate judged at the state's noise level",
        reward_at_clean,
        "sigma * 0, condition",
        "sigma, condition",
        equations(CLEAN),
    ),
    Mutation(
        "rollouts' gradients serve at the clean estimate of another network",
        Method.reuses_gradient,
        'self.sampler.guidance.at == "state" or',
        "True or",
        test_distilling.test_at_the_clean_estimate_the_base_models_gradient_is_not_the_rollouts,
    ),
    Mutation(
        "rollouts' gradients taken again",
        TARGETS,
        "if self.method.reuses_gradient:",
        "if False:",
        partial(test_distilling.test_gradients_that_guided_the_rollouts_serve_the_target, anchor="base"),
    ),
    Mutation(
        "a gradient that is NaN named by its row",
        _check_finite,
        "int(steps[first])",
        "first",
        partial(
            test_distilling.test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_step, settings=()
        ),
    ),
    Mutation(
        "base model evaluated twice for a pair",
        Distiller._anchor_and_gradient,
        "anchor = self._anchor(pairs, sigma)\n        _, gradient",
        "anchor = self._anchor(pairs, sigma)\n        _ = self._anchor(pairs, sigma)\n        _, gradient",
        partial(test_distilling.test_what_an_update_of_euphonium_costs, weights="lora"),
    ),
    # Its settings
    Mutation(
        "strength 0 taken for none given",
        Method.target_guidance,
        "if strength is not None:",
        "if strength:",
        test_method.test_what_guides_the_target_is_shaped_as_the_guidance_of_the_rollouts,
    ),
    Mutation(
        "target's guidance does not fade with the rollouts'",
        Method.target_guidance,
        "self.sampler_at(iteration).guidance",
        "self.sampler.guidance",
        equations("anchored, guided as the rollouts"),
    ),
    Mutation(
        "window and shape of the guidance forgotten",
        Method.target_guidance,
        "Guidance(strength=strength) if guidance is None else guidance",
        "Guidance(strength=strength)",
        equations("a shaped gradient"),
    ),
    Mutation(
        "weight does not decay",
        WEIGHT,
        " * self.distillation.decay**iteration",
        "",
        equations("everything at once"),
    ),
    Mutation(
        "no KL to the base model without guidance",
        WEIGHT,
        "(self.needs_base or self.distils_guidance)",
        "self.distils_guidance",
        test_distilling.test_strength_0_is_the_kl_to_the_base_model_bit_for_bit,
    ),
    Mutation(
        "earlier settings anchored at the base model",
        earlier.translated,
        '{"anchor": "policy", **distillation}',
        "dict(distillation)",
        EARLIER,
    ),
    Mutation(
        "earlier KL weight guided as the rollouts",
        earlier.translated,
        ', "strength": 0.0',
        "",
        partial(
            test_method.test_settings_of_earlier_versions_mean_what_they_meant,
            {"kl_weight": 0.04},
            Distillation(weight=0.04, strength=0.0),
        ),
    ),
    # The loss
    Mutation(
        "KL without its weight",
        Learner._parts,
        'parts["distillation"] = weight * distance',
        'parts["distillation"] = distance',
        partial(
            test_kl.test_the_distillation_loss_is_its_weight_times_the_kl_and_decays,
            settings=("euphonium",),
            weight="3.0",
        ),
    ),
    Mutation(
        "KL to the target of a policy that stands still",
        Learner._parts,
        "(seen.velocity, target.velocity",
        "(seen.velocity.detach(), target.velocity",
        partial(
            test_kl.test_the_kl_terms_gradient_is_its_finite_difference,
            weights="lora",
            settings=test_kl.GUIDED_ALONE,
            figure="kl_to_guided",
        ),
    ),
    Mutation(
        "distance to the base model taken for that to the target",
        Learner._parts,
        "(seen.velocity.detach(), target.base",
        "(seen.velocity.detach(), target.velocity",
        partial(
            test_kl.test_the_distance_to_the_base_model_is_recorded_beside_that_to_the_guided_one,
            weights="lora",
        ),
    ),
    # What it is made of
    Mutation(
        "velocities of the policy kept for nothing",
        _Network.__init__,
        'method.distillation.anchor == "policy"',
        "True",
        partial(
            test_experience.test_process_rewards_and_velocities_are_kept_only_where_they_are_used,
            settings=("euphonium",),
        ),
    ),
    Mutation(
        "pairs that forget their samples",
        transitions,
        "sample=sample,",
        "sample=step,",
        partial(
            test_update.test_advantages_of_the_pairs_are_those_of_their_sample_and_step, variant="flow_grpo"
        ),
    ),
    Mutation(
        "the same directions at every step of a sample",
        Experience.generators,
        "*members[sample], step)",
        "*members[sample])",
        test_distilling.test_directions_are_each_pairs_own_and_new_in_every_iteration,
    ),
    Mutation(
        "the same directions in every iteration",
        Experience.generators,
        "self.draw.iteration, ",
        "",
        test_distilling.test_directions_are_each_pairs_own_and_new_in_every_iteration,
    ),
    Mutation(
        "directions by position in the process",
        Experience.generators,
        "*members[sample]",
        "sample",
        test_experience.test_a_generator_for_a_sample_and_step_depends_on_nothing_else,
    ),
    Mutation(
        "rollouts guided by what guides the target alone",
        Rewards.of_rollouts,
        "if method.guided else None",
        "if True else None",
        test_guiding.test_the_source_of_guidance_is_a_setting_and_nothing_else,
    ),
    # Objectives
    Mutation(
        "positive and negative policy swapped",
        losses.negative_aware_losses,
        "(share * positive + (1 - share) * negative)",
        "(share * negative + (1 - share) * positive)",
        test_objectives.test_a_sure_success_draws_the_positive_policy_onto_the_sample_and_a_sure_failure_the_negative_one,
    ),
    Mutation(
        "squared errors that are not normalised",
        losses._normalised_square,
        "mean_square(error) / size",
        "mean_square(error)",
        partial(test_objectives.test_the_negative_aware_loss_is_the_published_one, test_objectives.CASES[0]),
    ),
    Mutation(
        "a likelihood that falls as the error falls",
        losses.matching_log_prob,
        "return -result.float()",
        "return result.float()",
        partial(
            test_objectives.test_a_step_down_the_loss_raises_the_expected_reward, kind="advantage_weighted"
        ),
    ),
    Mutation(
        "the worst of a group kept for the best",
        best_of_each,
        "descending=True",
        "descending=False",
        test_objectives.test_rejection_sampling_comes_to_rest_at_the_mean_of_the_samples_that_it_keeps,
    ),
    Mutation(
        "a preference for the worse sample",
        Preference.loss,
        "-self.beta / 2 * (better - worse)",
        "self.beta / 2 * (better - worse)",
        test_objectives.test_the_preference_loss_is_diffusion_dpos_by_hand,
    ),
    Mutation(
        "a preference without its reference",
        Preference.loss,
        "mean_square(velocity - target) - mean_square(reference - target)",
        "mean_square(velocity - target)",
        test_objectives.test_the_preference_loss_is_diffusion_dpos_by_hand,
    ),
    Mutation(
        "a reward that is minimised",
        DirectReward.loss,
        "-self.scale * reward",
        "self.scale * reward",
        partial(
            test_objectives.test_the_direct_gradient_is_that_of_the_reward_through_the_last_steps, last=1
        ),
    ),
    Mutation(
        "the gradient of the first of the last steps alone",
        DirectReward._finished,
        "x = at.sampler.transition(x, velocity, step).mean",
        "x = at.sampler.transition(x.detach(), velocity, step).mean",
        partial(
            test_objectives.test_the_direct_gradient_is_that_of_the_reward_through_the_last_steps, last=3
        ),
    ),
    Mutation(
        "a ratio that is not centred",
        GuardedRatio.loss,
        "(log_ratio + moved)",
        "log_ratio",
        test_objectives.test_the_guarded_ratio_is_the_product_of_noise_and_move_and_nothing_else,
    ),
    Mutation(
        "balanced by the square root of a step",
        GuardedRatio.loss,
        "lengths[pairs.step]",
        "lengths[pairs.step].sqrt()",
        partial(test_objectives.test_balanced_steps_have_gradients_of_one_size_in_the_velocity, shift=3.0),
    ),
    Mutation(
        "noise weights of the squared noise",
        ClippedRatio.loss,
        "std / std[self.eligible(at.sampler)].mean()",
        "std**2 / std[self.eligible(at.sampler)].mean()",
        test_objectives.test_the_weight_of_a_step_is_its_noise,
    ),
    Mutation(
        "a mask that holds back what comes back",
        masked_loss,
        "log_ratio.detach() > 0",
        "log_ratio.detach() < 0",
        partial(
            test_objectives.test_a_step_is_left_out_if_it_is_far_and_goes_further,
            log_ratio=0.1,
            advantage=1.0,
            distance=0.5,
            kept=False,
        ),
    ),
    Mutation(
        "an old policy that never moves",
        NegativeAware.after_update,
        "min(self.old_growth * iteration, self.old_limit)",
        "1.0",
        test_objectives.test_the_old_policy_follows_as_published,
    ),
    Mutation(
        "noise and sample swapped",
        batches.noised,
        "torch.lerp(clean, noise, level)",
        "torch.lerp(noise, clean, level)",
        test_objectives.test_noised_samples_lie_on_the_straight_path,
    ),
    # Copies and selections
    Mutation(
        "an average that starts from nothing",
        Learner._follow,
        "(1 + step) / (10 + step)",
        "1.0",
        test_collecting.test_the_average_of_the_weights_is_what_is_evaluated,
    ),
    Mutation(
        "best of the whole batch",
        best_of_each,
        "scores.view(-1, group_size)",
        "scores.view(1, -1)",
        test_collecting.test_the_best_and_the_worst_of_each_group_are_chosen_within_it,
    ),
    Mutation(
        "a group that is one for a step too long",
        _Network.__init__,
        ".index(True) if method.same_initial_noise else 0",
        ".index(True) + 1 if method.same_initial_noise else 0",
        partial(test_collecting.test_a_group_that_has_not_parted_yet_is_evaluated_once, start=1, batch=None),
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.what for mutation in MUTATIONS])
def test_a_broken_formula_fails_the_named_test(mutation: Mutation, request: pytest.FixtureRequest):
    mutation.check(request)


def test_the_document_lists_every_mutation():
    assert table(MUTATIONS) in (Path(__file__).parent / "MUTATIONS.md").read_text()


if __name__ == "__main__":
    sys.stdout.write(table(MUTATIONS) + "\n")
