"""Methods are data: frozen, comparable, complete in JSON, and their difference is the ablation."""

import pytest
import torch
from pydantic import ValidationError

from methods import CATALOG, Method, difference, method_named
from methods.method import flatten
from methods.naming import changed, closest
from methods.parts import Distillation, OutcomeGuidance, ProcessLoss
from samplers import PRESETS, Guidance, Sampler, build

EUPHONIUM, PUBLISHED, FLOW, DANCE = (
    CATALOG[name] for name in ("euphonium", "euphonium_published", "flow_grpo", "dance_grpo")
)
#: Guided rollouts, a process term, and a target that moves with the policy.
MOVING = changed(
    PUBLISHED,
    {
        "guidance_decay": 0.93,
        "process.credit": "next_state",
        "distillation": {"weight": 1.0, "decay": 0.93, "anchor": "policy"},
    },
    "moving",
)
#: The same, guided by the outcome rewards instead of the process reward.
OUTCOME = changed(MOVING, {"outcome_guidance.directions": 4, "sampler.guidance.at": "x0_hat"}, "outcome")
#: Euphonium, where what is distilled is guided at the clean estimate and the rollouts are not.
CLEAN = changed(EUPHONIUM, {"sampler.guidance": {"strength": 0.0, "at": "x0_hat"}}, "clean")


@pytest.mark.parametrize("name", CATALOG)
def test_every_method_is_valid_named_and_referenced(name):
    method = CATALOG[name]
    assert method.name == name
    assert "arXiv" in method.reference or "github.com" in method.reference
    assert Method.model_validate(method.model_dump()) == method  # model_copy() validates nothing
    assert Sampler(method.sampler).num_steps == method.sampler.num_steps
    assert method_named(name) is method


@pytest.mark.parametrize("name", CATALOG)
def test_every_method_survives_json(name):
    again = Method.model_validate_json(CATALOG[name].model_dump_json())
    assert again == CATALOG[name]
    assert hash(again) == hash(CATALOG[name])
    assert difference(again, CATALOG[name]) == {}


@pytest.mark.parametrize("name", CATALOG)
def test_methods_are_frozen_to_the_last_part(name):
    method = CATALOG[name]
    for part, field in ((method, "group_size"), (method.sampler, "num_steps"), (method.advantage, "eps")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, 3)


@pytest.mark.parametrize(
    ("method", "sampler"),
    [
        ("flow_grpo", "flow_grpo"),
        ("dance_grpo", "dance_grpo_wan"),
        ("euphonium_published", "euphonium"),
        ("euphonium", "flow_grpo"),
        ("euphonium_dance", "dance_grpo_wan"),
    ],
)
def test_a_methods_sampler_is_a_published_one(method, sampler):
    """The same object: what a paper publishes for a model is written down once."""
    assert CATALOG[method].sampler is PRESETS[sampler]
    assert build(sampler).settings == CATALOG[method].sampler


def test_published_settings_are_those_of_the_papers():
    """DESIGN.md, section 3."""
    assert (DANCE.sampler.num_steps, DANCE.sampler.shift, DANCE.sampler.noise.level) == (20, 3.0, 0.3)
    assert (DANCE.group_size, DANCE.objective.train_fraction, DANCE.optimiser.learning_rate) == (
        12,
        0.6,
        1e-5,
    )
    assert (FLOW.sampler.num_steps, FLOW.sampler.noise.level, FLOW.group_size) == (10, 0.7, 24)
    assert (FLOW.objective.train_fraction, FLOW.updates_per_rollout) == (0.99, 2)
    assert FLOW.distillation == Distillation(
        weight=0.01, strength=0.0, anchor="base", decay=1.0
    )  # its KL term
    assert (FLOW.advantage.std, FLOW.advantage.unbiased, FLOW.advantage.eps) == ("batch", False, 1e-4)
    assert (PUBLISHED.sampler.num_steps, PUBLISHED.sampler.shift) == (16, 5.0)
    assert PUBLISHED.sampler.guidance == Guidance(strength=0.32, start=12)
    assert (PUBLISHED.group_size, PUBLISHED.objective.train_fraction, PUBLISHED.updates_per_rollout) == (
        8,
        0.6,
        2,
    )
    assert PUBLISHED.process == ProcessLoss(weight=1.0, credit="state")
    for method in CATALOG.values():
        assert method.advantage.clip == 5
    for method in (FLOW, DANCE, PUBLISHED):
        assert method.objective.kind == "clipped_ratio"
        assert method.objective.clip_range == 1e-4
        assert not method.objective.train_last_step
    assert (FLOW.same_initial_noise, DANCE.same_initial_noise, PUBLISHED.same_initial_noise) == (
        False,
        True,
        True,
    )


def test_what_euphonium_adds_to_flow_grpo_and_dance_grpo():
    """Rollouts and outcome terms are theirs; what the policy is drawn to is the guided base model."""
    assert difference(FLOW, EUPHONIUM) == {
        "distillation.weight": (0.01, 1.0),
        "distillation.strength": (0.0, 16.0),
    }
    assert difference(DANCE, CATALOG["euphonium_dance"]) == {
        "distillation.weight": (None, 1.0),
        "distillation.decay": (None, 1.0),
        "distillation.anchor": (None, "base"),
        "distillation.strength": (None, 16.0),
    }


def test_what_flow_grpo_and_dance_grpo_differ_in():
    assert difference(FLOW, DANCE) == {
        "sampler.num_steps": (10, 20),
        "sampler.noise.kind": ("flow_grpo", "constant"),
        "sampler.noise.level": (0.7, 0.3),
        "group_size": (24, 12),
        "same_initial_noise": (False, True),
        "objective.train_fraction": (0.99, 0.6),
        "advantage.std": ("batch", "group"),
        "advantage.unbiased": (False, True),
        "advantage.eps": (1e-4, 1e-8),
        "distillation.weight": (0.01, None),
        "distillation.decay": (1.0, None),
        "distillation.anchor": ("base", None),
        "distillation.strength": (0.0, None),
        "updates_per_rollout": (2, 1),
        "average.decay": (0.9, None),
        "average.every": (8, None),
        "optimiser.learning_rate": (3e-4, 1e-5),
    }


def test_methods_are_compared_by_name_as_well():
    found = difference("flow_grpo", "diffusion_nft")
    assert found == difference(FLOW, CATALOG["diffusion_nft"])
    assert found["objective.kind"] == ("clipped_ratio", "negative_aware")
    assert found["sampler.noise.kind"] == ("flow_grpo", "zero")
    assert found["objective.beta"] == (None, 0.1)
    with pytest.raises(ValueError, match="unknown method 'difusion_nft'; did you mean 'diffusion_nft'"):
        difference("flow_grpo", "difusion_nft")


def test_what_dance_grpo_and_the_published_euphonium_differ_in():
    assert difference(DANCE, PUBLISHED) == {
        "sampler.num_steps": (20, 16),
        "sampler.shift": (3.0, 5.0),
        "sampler.noise.level": (0.3, 0.25),
        "sampler.guidance.strength": (None, 0.32),
        "sampler.guidance.start": (None, 12),
        "sampler.guidance.interval": (None, 1),
        "sampler.guidance.normalisation": (None, "none"),
        "sampler.guidance.at": (None, "state"),
        "group_size": (12, 8),
        "process.weight": (None, 1.0),
        "process.credit": (None, "state"),
        "updates_per_rollout": (1, 2),
        "optimiser.learning_rate": (1e-5, 1e-6),
    }


@pytest.mark.parametrize("first", CATALOG)
@pytest.mark.parametrize("second", CATALOG)
def test_the_difference_is_all_that_separates_two_methods(first, second):
    one, two = CATALOG[first], CATALOG[second]
    fields = difference(one, two)
    assert {name: pair[::-1] for name, pair in difference(two, one).items()} == fields
    assert (fields == {}) == (first == second)
    assert not {"name", "reference"} & fields.keys()
    # Applied to the first, it gives the second: nothing is missing. A part that the second lacks is taken away.
    parts = ("process", "distillation", "average", "best_of")
    whole = [part for part in parts if getattr(two, part) is None]
    if two.sampler.guidance is None:
        whole.append("sampler.guidance")
    changes = {
        name: value
        for name, (_, value) in fields.items()
        if not any(name.startswith(f"{part}.") for part in whole)
        # What the second's objective has no field for is None there.
        and (value is not None or not name.startswith("objective."))
    }
    again = changed(one, {**dict.fromkeys(whole), **changes}, first)
    assert again == two.model_copy(update={"name": one.name, "reference": one.reference})


def test_nested_parts_that_are_absent_are_one_entry_and_present_ones_are_not():
    assert flatten(DANCE)["process"] is None
    assert flatten(MOVING)["process.credit"] == "next_state"
    assert "process" not in flatten(MOVING)


def test_the_source_of_guidance_prints_as_the_fields_that_differ():
    """At one place of guidance the ablation is the source alone."""
    assert OUTCOME.outcome_guidance == OutcomeGuidance(directions=4)
    parts = {
        "outcome_guidance.estimator": (None, "spsa"),
        "outcome_guidance.directions": (None, 4),
        "outcome_guidance.radius": (None, 0.1),
    }
    assert difference(MOVING, OUTCOME) == {"sampler.guidance.at": ("state", "x0_hat"), **parts}
    assert difference(changed(MOVING, {"sampler.guidance.at": "x0_hat"}, "x"), OUTCOME) == parts
    wider = changed(OUTCOME, {"outcome_guidance.radius": 0.5}, "wider")
    assert difference(OUTCOME, wider) == {"outcome_guidance.radius": (0.1, 0.5)}
    assert flatten(MOVING)["outcome_guidance"] is None
    assert flatten(OUTCOME)["outcome_guidance.directions"] == 4
    assert Method.model_validate_json(OUTCOME.model_dump_json()) == OUTCOME


def test_a_change_makes_an_absent_part_from_its_defaults_and_keeps_the_original():
    guided = changed(DANCE, {"sampler.guidance.strength": 2.0, "distillation.weight": 3}, "x")
    assert guided.sampler.guidance == Guidance(strength=2.0)
    assert guided.distillation == Distillation(weight=3.0)
    assert DANCE.sampler.guidance is None
    assert changed(MOVING, {"process": None}, "x").process is None
    assert changed(MOVING, {"process.weight": 2}, "x").process == ProcessLoss(weight=2.0, credit="next_state")
    assert changed(DANCE, {}, "x") == DANCE


NOTHING_TO_DISTIL = (
    "distillation.anchor is 'policy', and neither sampler.guidance nor distillation.strength is set"
)
IN_PARTS = (
    "normalisation is 'batch', and the distillation's gradient is taken in micro-batches: set it to 'sample'"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groupsize": 4}, "mine: unknown field 'groupsize'; did you mean 'group_size'?"),
        ({"sampler.noise.levle": 0.3}, "unknown field 'levle' in 'sampler.noise'; did you mean 'level'?"),
        ({"process.crdit": "state"}, "unknown field 'crdit' in 'process'; did you mean 'credit'?"),
        ({"zzz": 1}, "unknown field 'zzz'; known: advantage, average"),
        ({"group_size.members": 4}, "field 'group_size' has no parts, so there is no 'group_size.members'"),
        ({"group_size": 1}, "mine: group_size is 1: Input should be greater than or equal to 2"),
        ({"group_size": "many"}, "group_size is 'many'"),
        ({"advantage.std": "prompt"}, "advantage.std is 'prompt': Input should be 'group' or 'batch'"),
        ({"objective.train_fraction": 0}, "objective.train_fraction is 0: Input should be greater than 0"),
        ({"sampler.guidance.scale": 1.0}, "strength = 0.32 and guidance.scale = 1.0: give exactly one"),
        ({"sampler.guidance.start": 16}, "guidance.start = 16 lies outside the 16 steps"),
        ({"sampler.guidance": None, "guidance_decay": 1}, NOTHING_TO_DISTIL),
        ({"sampler.guidance": None, "guidance_decay": 1, "distillation.strength": 0}, NOTHING_TO_DISTIL),
        (
            {"sampler.guidance": None, "distillation": None},
            "guidance_decay is 0.93, but sampler.guidance is not set",
        ),
        ({"distillation.weight": -1}, "distillation.weight is -1: Input should be greater than 0"),
        ({"distillation.strength": -1}, "distillation.strength is -1: Input should be greater than or equal"),
        ({"distillation.decay": 1.5}, "distillation.decay is 1.5: Input should be less than or equal to 1"),
        (
            {"distillation.anchor": "model"},
            "distillation.anchor is 'model': Input should be 'base' or 'policy'",
        ),
        (
            {
                "distillation.anchor": "base",
                "sampler.guidance.normalisation": "batch",
                "sampler.guidance.at": "x0_hat",
            },
            IN_PARTS,
        ),
        (
            {
                "sampler.guidance.strength": 0,
                "sampler.guidance.normalisation": "batch",
                "distillation.strength": 1,
            },
            IN_PARTS,
        ),
        ({"optimiser.learning_rate": 0}, "optimiser.learning_rate is 0"),
        (
            {"kl_weight": 0.1},
            "unknown field 'kl_weight'; a KL to the base model is distillation: {weight: W, strength: 0}",
        ),
        ({"objective.clip_range": float("nan")}, "objective.clip_range is nan"),
        ({"clip_range": 0.1}, "unknown field 'clip_range'; it is objective.clip_range now"),
        (
            {"objective.clp_range": 0.1},
            "unknown field 'clp_range' in 'objective'; did you mean 'clip_range'?",
        ),
        ({"objective.beta": 0.1}, "objective.beta is 0.1: there is no such field for this kind"),
        (
            {"objective": "guarded_ratio"},
            "objective is 'guarded_ratio': give an objective's fields, such as {kind:",
        ),
        ({"objective.kind": "negative"}, "kind is 'negative'; did you mean 'negative_aware'?"),
        ({"outcome_weight": -0.1}, "outcome_weight is -0.1: Input should be greater than or equal to 0"),
        (
            {"outcome_weight": 0, "process": None, "distillation": None},
            "no reward is left to learn from; give outcome_weight > 0, process.weight or distillation.strength",
        ),
        (  # a KL to the base model reinforces nothing
            {"outcome_weight": 0, "process": None, "distillation": {"weight": 1, "strength": 0}},
            "outcome_weight is 0, process is not set and no guidance is distilled",
        ),
        (
            {"optimiser.learning_rate": float("inf")},
            "optimiser.learning_rate is inf: Input should be a finite",
        ),
        ({"advantage.clip": float("inf")}, "advantage.clip is inf"),  # JSON would bring it back as null
        (
            {"outcome_guidance.directions": 4},
            "sampler.guidance.at is 'state': outcome rewards judge clean videos only, set sampler.guidance.at to "
            "'x0_hat'",
        ),
        (
            {
                "sampler.guidance": None,
                "distillation": None,
                "guidance_decay": 1,
                "outcome_guidance.radius": 1,
            },
            "outcome_guidance is set, but sampler.guidance is not: give sampler.guidance.strength or .scale",
        ),
        ({"outcome_guidance.directions": 0}, "outcome_guidance.directions is 0: Input should be greater"),
        ({"outcome_guidance.radius": 0}, "outcome_guidance.radius is 0: Input should be greater than 0"),
        (
            {"outcome_guidance.estimator": "exact"},
            "outcome_guidance.estimator is 'exact': Input should be 'spsa'",
        ),
        ({"outcome_guidance.samples": 8}, "unknown field 'samples' in 'outcome_guidance'; known: dir"),
    ],
)
def test_a_change_that_cannot_be_says_field_value_and_remedy(changes, message):
    with pytest.raises(ValueError, match="mine: ") as error:
        changed(MOVING, changes, "mine")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_batchs_norm_is_no_obstacle_where_the_rollouts_gradients_serve():
    """They are those of the whole batch already."""
    by_batch = changed(MOVING, {"sampler.guidance.normalisation": "batch"}, "x")
    assert by_batch.reuses_gradient
    changed(by_batch, {"distillation.anchor": "base"}, "x")
    assert changed(by_batch, {"distillation": {"weight": 1.0, "strength": 0.0}}, "x").needs_base


OLD = PUBLISHED.model_dump(exclude={"distillation"})
FADING = {"weight": 2.0, "decay": 0.93}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"kl_weight": 0.0, "distillation": None}, None),
        ({"kl_weight": 0.0}, None),
        ({"kl_weight": 0.04, "distillation": None}, Distillation(weight=0.04, strength=0.0)),
        ({"kl_weight": 0.04}, Distillation(weight=0.04, anchor="base", decay=1.0, strength=0.0)),
        (
            {"kl_weight": 0.0, "distillation": FADING},
            Distillation(weight=2.0, decay=0.93, anchor="policy", strength=None),
        ),
        (
            {"distillation": FADING},
            Distillation(weight=2.0, decay=0.93, anchor="base", strength=None),
        ),  # today's
        ({}, None),
    ],
)
def test_settings_of_earlier_versions_mean_what_they_meant(written, meant):
    """They had `kl_weight` beside a `distillation` built on the policy that drew the rollouts, guided as those were."""
    read = Method.model_validate({**OLD, **written})
    assert read.distillation == meant
    assert read == PUBLISHED.model_copy(update={"distillation": meant})


def test_settings_of_earlier_versions_that_set_both_are_refused():
    with pytest.raises(
        ValidationError, match=r"kl_weight is 0.04 and distillation is set: they are one setting now"
    ):
        Method.model_validate({**OLD, "kl_weight": 0.04, "distillation": FADING})


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown method 'flowgrpo'; did you mean 'flow_grpo'\?"):
        method_named("flowgrpo")
    with pytest.raises(ValueError, match="known: awm, dance_grpo, dance_grpo_hunyuan, diffusion_nft, draft"):
        method_named("zzzzzz")
    assert closest("x", []) == "known: "


@pytest.mark.parametrize("field", ["strength", "scale"])
def test_guidance_decays_by_its_factor_and_nothing_else_changes(field):
    start = {"strength": None, "scale": None, field: 0.4}
    guided = changed(MOVING, {f"sampler.guidance.{name}": value for name, value in start.items()}, "guided")
    assert guided.sampler_at(0) == guided.sampler
    for iteration in (1, 2, 30):
        found = guided.sampler_at(iteration)
        assert getattr(found.guidance, field) == pytest.approx(0.4 * 0.93**iteration)
        undone = found.guidance.model_copy(update={field: 0.4})
        assert found.replace(guidance=undone) == guided.sampler
    # The sampler's own coefficient decays with it: what is set is what moves the mean.
    first, later = (Sampler(guided.sampler_at(i)).coefficients for i in (0, 5))
    assert torch.equal(first.velocity, later.velocity)
    torch.testing.assert_close(later.gradient, first.gradient * 0.93**5)
    assert later.gradient[12] > 0


def test_without_decay_or_guidance_the_sampler_stays():
    assert PUBLISHED.sampler_at(100) is PUBLISHED.sampler
    assert DANCE.sampler_at(100) is DANCE.sampler


def test_distillation_decays_by_its_own_factor():
    for method in (MOVING, EUPHONIUM):
        slow = changed(method, {"distillation.weight": 3.0, "distillation.decay": 0.5}, "slow")
        assert [slow.distillation_weight(i) for i in range(4)] == [3.0, 1.5, 0.75, 0.375]
        constant = changed(method, {"distillation.decay": 1.0}, "constant")
        assert constant.distillation_weight(50) == 1.0
    assert PUBLISHED.distillation_weight(0) == 0.0
    idle = changed(MOVING, {"sampler.guidance.strength": 0.0}, "idle")
    assert idle.distillation_weight(0) == 0.0  # no guidance, so nothing to distil
    assert FLOW.distillation_weight(3) == 0.01  # the base model is there without guidance


def test_what_guides_the_target_is_shaped_as_the_guidance_of_the_rollouts():
    """At its own strength, or with theirs, which decays."""
    assert EUPHONIUM.target_guidance(9) == Guidance(strength=16.0)
    assert FLOW.target_guidance(0) is None
    assert DANCE.target_guidance(0) is None
    assert PUBLISHED.target_guidance(0) is None
    for anchor in ("base", "policy"):
        method = changed(MOVING, {"distillation.anchor": anchor}, "x")
        assert method.target_guidance(0) == MOVING.sampler.guidance
        assert method.target_guidance(2) == MOVING.sampler_at(2).guidance
        own = changed(method, {"distillation.strength": 5.0}, "own")
        assert own.target_guidance(2) == Guidance(strength=5.0, start=12)
        absolute = changed(own, {"sampler.guidance": {"scale": 1.0, "clip": 2.0, "interval": 3}}, "absolute")
        assert absolute.target_guidance(2) == Guidance(strength=5.0, clip=2.0, interval=3)
        assert changed(absolute, {"distillation.strength": None}, "x").target_guidance(0).scale == 1.0
        assert changed(method, {"distillation.strength": 0.0}, "x").target_guidance(0) is None


def needs(method: Method) -> dict[str, object]:
    """What training a method asks for."""
    return {
        "guided": method.guided,
        "process": method.needs_process_reward,
        "base": method.needs_base,
        "source": method.gradient_source,
        "through": method.distilled_through,
        "reuses": method.reuses_gradient,
    }


UNGUIDED_ALONE = {"sampler.guidance.strength": 0.0, "process": None}


@pytest.mark.parametrize(
    ("method", "changes", "guided", "process", "base", "source", "through", "reuses"),
    [
        (FLOW, {}, False, False, True, None, "base", False),
        (DANCE, {}, False, False, False, None, None, False),
        (DANCE, {"process.weight": 1.0}, False, True, False, None, None, False),
        (PUBLISHED, {}, True, True, False, "process", None, False),
        (PUBLISHED, {"process": None}, True, True, False, "process", None, False),
        (PUBLISHED, {"sampler.guidance.strength": 0.0}, False, True, False, None, None, False),
        (PUBLISHED, UNGUIDED_ALONE, False, False, False, None, None, False),
        (EUPHONIUM, {}, False, True, True, "process", "base", False),
        (EUPHONIUM, {"distillation.strength": 0.0}, False, False, True, None, "base", False),
        (EUPHONIUM, {"distillation.anchor": "policy"}, False, True, False, "process", None, False),
        (EUPHONIUM, {"sampler.guidance.strength": 4.0}, True, True, True, "process", "base", True),
        (CLEAN, {}, False, True, True, "process", "base", False),
        (CLEAN, {"outcome_guidance.directions": 4}, False, False, True, "spsa", "base", False),
        (CLEAN, {"outcome_guidance.estimator": "autograd"}, False, False, True, "autograd", "base", False),
        (CLEAN, {"sampler.guidance.strength": 4.0}, True, True, True, "process", "base", False),
        (CLEAN, {"distillation.anchor": "policy"}, False, True, False, "process", "policy", False),
        (MOVING, {}, True, True, False, "process", None, True),
        (MOVING, {"sampler.guidance.strength": 0.0}, False, True, False, None, None, False),
        (MOVING, {"distillation.anchor": "base"}, True, True, True, "process", "base", True),
        (MOVING, {"sampler.guidance.at": "x0_hat"}, True, True, False, "process", None, True),
        (OUTCOME, {}, True, True, False, "spsa", None, True),
        (OUTCOME, {"process": None}, True, False, False, "spsa", None, True),
        (OUTCOME, UNGUIDED_ALONE, False, False, False, None, None, False),
    ],
)
def test_what_training_a_method_asks_for(method, changes, guided, process, base, source, through, reuses):
    """A process reward and a base model are loaded only where they are used."""
    assert needs(changed(method, changes, "x")) == {
        "guided": guided,
        "process": process,
        "base": base,
        "source": source,
        "through": through,
        "reuses": reuses,
    }
