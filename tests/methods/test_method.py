"""Methods are data: frozen, comparable, complete in JSON, and their difference is the ablation."""

import pytest
import torch
from pydantic import ValidationError

from methods import CATALOG, Method, difference, method_named
from methods.method import Distillation, OutcomeGuidance, ProcessLoss, flatten
from methods.naming import changed, closest
from samplers import Guidance, Sampler

EUPHONIUM, PUBLISHED, FLOW, DANCE = (
    CATALOG[name] for name in ("euphonium", "euphonium_published", "flow_grpo", "dance_grpo")
)


#: Euphonium, guided by the outcome rewards instead of the process reward.
OUTCOME = changed(EUPHONIUM, {"outcome_guidance.directions": 4, "sampler.guidance.at": "x0_hat"}, "outcome")


@pytest.mark.parametrize("name", CATALOG)
def test_every_method_is_valid_named_and_referenced(name):
    method = CATALOG[name]
    assert method.name == name
    assert "arXiv" in method.reference
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


def test_published_settings_are_those_of_the_papers():
    """DESIGN.md, section 3."""
    assert (DANCE.sampler.num_steps, DANCE.sampler.shift, DANCE.sampler.noise.level) == (20, 3.0, 0.3)
    assert (DANCE.group_size, DANCE.train_fraction, DANCE.optimiser.learning_rate) == (12, 0.6, 1e-5)
    assert (FLOW.sampler.num_steps, FLOW.sampler.noise.level, FLOW.group_size) == (10, 0.7, 24)
    assert (FLOW.train_fraction, FLOW.kl_weight, FLOW.updates_per_rollout) == (0.99, 0.01, 2)
    assert (FLOW.advantage.std, FLOW.advantage.unbiased, FLOW.advantage.eps) == ("batch", False, 1e-4)
    assert (PUBLISHED.sampler.num_steps, PUBLISHED.sampler.shift) == (16, 5.0)
    assert PUBLISHED.sampler.guidance == Guidance(strength=0.32, start=12)
    assert (PUBLISHED.group_size, PUBLISHED.train_fraction, PUBLISHED.updates_per_rollout) == (8, 0.6, 2)
    assert PUBLISHED.process == ProcessLoss(weight=1.0, credit="state")
    for method in CATALOG.values():
        assert method.advantage.clip == 5
        assert method.clip_range == 1e-4
        assert not method.train_last_step
    assert (FLOW.same_initial_noise, DANCE.same_initial_noise, PUBLISHED.same_initial_noise) == (
        False,
        True,
        True,
    )


def test_what_euphonium_adds_to_the_published_code():
    assert difference(PUBLISHED, EUPHONIUM) == {
        "guidance_decay": (1.0, 0.93),
        "process.credit": ("state", "next_state"),
        "distillation.weight": (None, 1.0),
        "distillation.decay": (None, 0.93),
    }


def test_what_flow_grpo_and_dance_grpo_differ_in():
    assert difference(FLOW, DANCE) == {
        "sampler.num_steps": (10, 20),
        "sampler.noise.kind": ("flow_grpo", "constant"),
        "sampler.noise.level": (0.7, 0.3),
        "group_size": (24, 12),
        "same_initial_noise": (False, True),
        "train_fraction": (0.99, 0.6),
        "advantage.std": ("batch", "group"),
        "advantage.unbiased": (False, True),
        "advantage.eps": (1e-4, 1e-8),
        "kl_weight": (0.01, 0.0),
        "updates_per_rollout": (2, 1),
        "optimiser.learning_rate": (3e-4, 1e-5),
    }


def test_what_dance_grpo_and_euphonium_differ_in():
    assert difference(DANCE, EUPHONIUM) == {
        "sampler.num_steps": (20, 16),
        "sampler.shift": (3.0, 5.0),
        "sampler.noise.level": (0.3, 0.25),
        "sampler.guidance.strength": (None, 0.32),
        "sampler.guidance.start": (None, 12),
        "sampler.guidance.interval": (None, 1),
        "sampler.guidance.normalisation": (None, "none"),
        "sampler.guidance.at": (None, "state"),
        "guidance_decay": (1.0, 0.93),
        "group_size": (12, 8),
        "process.weight": (None, 1.0),
        "process.credit": (None, "next_state"),
        "distillation.weight": (None, 1.0),
        "distillation.decay": (None, 0.93),
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
    whole = [part for part in ("process", "distillation") if getattr(two, part) is None]
    if two.sampler.guidance is None:
        whole.append("sampler.guidance")
    changes = {
        name: value
        for name, (_, value) in fields.items()
        if not any(name.startswith(f"{part}.") for part in whole)
    }
    again = changed(one, {**dict.fromkeys(whole), **changes}, first)
    assert again == two.model_copy(update={"name": one.name, "reference": one.reference})


def test_nested_parts_that_are_absent_are_one_entry_and_present_ones_are_not():
    assert flatten(DANCE)["process"] is None
    assert flatten(EUPHONIUM)["process.credit"] == "next_state"
    assert "process" not in flatten(EUPHONIUM)


def test_the_source_of_guidance_prints_as_the_fields_that_differ():
    """At one place of guidance the ablation is the source alone."""
    assert OUTCOME.outcome_guidance == OutcomeGuidance(directions=4)
    parts = {"outcome_guidance.directions": (None, 4), "outcome_guidance.radius": (None, 0.1)}
    assert difference(EUPHONIUM, OUTCOME) == {"sampler.guidance.at": ("state", "x0_hat"), **parts}
    assert difference(changed(EUPHONIUM, {"sampler.guidance.at": "x0_hat"}, "x"), OUTCOME) == parts
    wider = changed(OUTCOME, {"outcome_guidance.radius": 0.5}, "wider")
    assert difference(OUTCOME, wider) == {"outcome_guidance.radius": (0.1, 0.5)}
    assert flatten(EUPHONIUM)["outcome_guidance"] is None
    assert flatten(OUTCOME)["outcome_guidance.directions"] == 4
    assert Method.model_validate_json(OUTCOME.model_dump_json()) == OUTCOME


def test_a_change_makes_an_absent_part_from_its_defaults_and_keeps_the_original():
    guided = changed(DANCE, {"sampler.guidance.strength": 2.0, "distillation.weight": 3}, "x")
    assert guided.sampler.guidance == Guidance(strength=2.0)
    assert guided.distillation == Distillation(weight=3.0)
    assert DANCE.sampler.guidance is None
    assert changed(EUPHONIUM, {"process": None}, "x").process is None
    assert changed(EUPHONIUM, {"process.weight": 2}, "x").process == ProcessLoss(
        weight=2.0, credit="next_state"
    )
    assert changed(DANCE, {}, "x") == DANCE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groupsize": 4}, "mine: unknown field 'groupsize'; did you mean 'group_size'?"),
        ({"sampler.noise.levle": 0.3}, "unknown field 'levle' in 'sampler.noise'; did you mean 'level'?"),
        ({"process.crdit": "state"}, "unknown field 'crdit' in 'process'; did you mean 'credit'?"),
        ({"zzz": 1}, "unknown field 'zzz'; known: advantage, clip_range"),
        ({"group_size.members": 4}, "field 'group_size' has no parts, so there is no 'group_size.members'"),
        ({"group_size": 1}, "mine: group_size is 1: Input should be greater than or equal to 2"),
        ({"group_size": "many"}, "group_size is 'many'"),
        ({"advantage.std": "prompt"}, "advantage.std is 'prompt': Input should be 'group' or 'batch'"),
        ({"train_fraction": 0}, "train_fraction is 0: Input should be greater than 0"),
        ({"sampler.guidance.scale": 1.0}, "strength = 0.32 and guidance.scale = 1.0: give exactly one"),
        ({"sampler.guidance.start": 16}, "guidance.start = 16 lies outside the 16 steps"),
        ({"sampler.guidance": None}, "distillation is set, but sampler.guidance is not"),
        (
            {"sampler.guidance": None, "distillation": None},
            "guidance_decay is 0.93, but sampler.guidance is not set",
        ),
        ({"distillation.weight": -1}, "distillation.weight is -1: Input should be greater than 0"),
        ({"optimiser.learning_rate": 0}, "optimiser.learning_rate is 0"),
        ({"kl_weight": float("nan")}, "kl_weight is nan"),
        ({"outcome_weight": -0.1}, "outcome_weight is -0.1: Input should be greater than or equal to 0"),
        ({"outcome_weight": 0, "process": None}, "no reward is left to learn from; give outcome_weight > 0"),
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
        ({"outcome_guidance.samples": 8}, "unknown field 'samples' in 'outcome_guidance'; known: dir"),
    ],
)
def test_a_change_that_cannot_be_says_field_value_and_remedy(changes, message):
    with pytest.raises(ValueError, match="mine: ") as error:
        changed(EUPHONIUM, changes, "mine")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown method 'flowgrpo'; did you mean 'flow_grpo'\?"):
        method_named("flowgrpo")
    with pytest.raises(ValueError, match="known: dance_grpo, euphonium, euphonium_published, flow_grpo"):
        method_named("zzzzzz")
    assert closest("x", []) == "known: "


@pytest.mark.parametrize("field", ["strength", "scale"])
def test_guidance_decays_by_its_factor_and_nothing_else_changes(field):
    start = {"strength": None, "scale": None, field: 0.4}
    guided = changed(
        EUPHONIUM, {f"sampler.guidance.{name}": value for name, value in start.items()}, "guided"
    )
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
    slow = changed(EUPHONIUM, {"distillation.weight": 3.0, "distillation.decay": 0.5}, "slow")
    assert [slow.distillation_weight(i) for i in range(4)] == [3.0, 1.5, 0.75, 0.375]
    constant = changed(EUPHONIUM, {"distillation.decay": 1.0}, "constant")
    assert constant.distillation_weight(50) == 1.0
    assert PUBLISHED.distillation_weight(0) == 0.0
    idle = changed(EUPHONIUM, {"sampler.guidance.strength": 0.0}, "idle")
    assert idle.distillation_weight(0) == 0.0  # no guidance, so nothing to distil


@pytest.mark.parametrize(
    ("method", "guided", "needs"),
    [
        (EUPHONIUM, True, True),
        (FLOW, False, False),
        (changed(EUPHONIUM, {"sampler.guidance.strength": 0.0}, "x"), False, True),
        (changed(EUPHONIUM, {"sampler.guidance.strength": 0.0, "process": None}, "x"), False, False),
        (changed(EUPHONIUM, {"process": None}, "x"), True, True),
        (changed(DANCE, {"process.weight": 1.0}, "x"), False, True),
        (OUTCOME, True, True),
        (changed(OUTCOME, {"process": None}, "x"), True, False),
        (changed(OUTCOME, {"sampler.guidance.strength": 0.0}, "x"), False, True),
        (changed(OUTCOME, {"sampler.guidance.strength": 0.0, "process": None}, "x"), False, False),
    ],
)
def test_a_process_reward_is_loaded_only_where_it_is_used(method, guided, needs):
    assert method.guided == guided
    assert method.needs_process_reward == needs
