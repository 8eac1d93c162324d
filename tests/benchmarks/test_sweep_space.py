"""What a sweep searches: short names, ranges, and what a person mistypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks.settings import SettingsError
from benchmarks.sweeping.options import arguments as options
from benchmarks.sweeping.options import make_plan
from benchmarks.sweeping.plan import Plan, differing_settings, split_prompts
from benchmarks.sweeping.space import SHORT, Parameter, caution, lacking, parse
from benchmarks.testbed.scenes import prompt_split
from methods.catalog import CATALOG
from methods.method import Method, flatten
from methods.naming import changed, field_names, field_type

EUPHONIUM = CATALOG["euphonium"]
#: Guided rollouts, a process term and a distillation: every short name's field is one of its.
GUIDED = changed(CATALOG["euphonium_published"], {"distillation.weight": 1.0}, "guided")


def plan(*arguments: str) -> Plan:
    return make_plan(options("").parse_args(arguments), "study", "sqlite:///unused.db", "")


def one(text: str, full_weights: bool = False) -> Parameter:
    (parameter,) = parse(text, GUIDED, full_weights)
    return parameter


@pytest.mark.parametrize("name", SHORT)
def test_every_short_name_sets_a_field_within_a_range_that_the_method_takes(name: str) -> None:
    """Both ends of the default range are valid settings of a method that has the field."""
    parameter = one(name)
    assert parameter.field == SHORT[name].field
    assert lacking(parameter, GUIDED) == ""
    found = []
    for value in parameter.ends():
        method = changed(GUIDED, {parameter.field: value, "updates_per_rollout": 1}, name)
        found.append(flatten(method)[parameter.field])
    assert found == parameter.ends()
    assert len(set(found)) >= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guidance", {"low": 0.5, "high": 64.0, "log": True, "integer": False}),
        ("guidance=1..4", {"low": 1.0, "high": 4.0, "log": False, "name": "guidance"}),
        ("optimiser.learning_rate=1e-4..3e-3:log", {"low": 1e-4, "high": 3e-3, "log": True, "points": None}),
        ("target", {"low": 2.0, "high": 64.0, "log": True, "field": "distillation.strength"}),
        ("distillation=.01..1.5:log:7", {"field": "distillation.weight", "low": 0.01, "points": 7}),
        ("target=.5..9:log:7", {"field": "distillation.strength", "low": 0.5, "high": 9.0, "points": 7}),
        ("updates_per_rollout=1..4", {"integer": True}),
        ("guidance_window", {"low": 0, "high": 15, "integer": True, "field": "sampler.guidance.start"}),
        ("sampler.guidance.stop=8..16", {"integer": True}),  # int | None
        ("group_size=4|8", {"choices": (4, 8)}),
        ("process.credit=state|next_state", {"choices": ("state", "next_state")}),
        ("same_initial_noise=true|false", {"choices": (True, False)}),
        ("objective.clip_range=1e-4|1e-3", {"choices": (1e-4, 1e-3)}),
        ("sampler.guidance.clip=null|0.5", {"choices": (None, 0.5)}),
    ],
)
def test_parameters_are_read(text: str, expected: dict[str, Any]) -> None:
    parameter = one(text)
    assert {name: getattr(parameter, name) for name in expected} == expected
    written = one(parameter.text)  # as it is in sweep.yaml
    for field in ("field", "low", "high", "log", "integer", "choices", "points"):
        assert getattr(written, field) == getattr(parameter, field), field


def test_a_learning_rate_for_all_weights_is_smaller() -> None:
    assert one("learning_rate", full_weights=True).limits == (1e-6, 1e-4)
    assert one("learning_rate=1e-3..1e-2", full_weights=True).limits == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "guidence",
            "'guidence', which is neither a short name nor a method's field; did you mean 'guidance'?",
        ),
        ("sampler.noise.levle=0..1", "did you mean 'sampler.noise.level'?"),
        ("sampler.noise=0..1", "'sampler.noise', which is neither"),
        ("name=a|b", "'name', which is neither a short name nor a method's field; known: advantage.clip, "),
        (
            "objective.clip_range",
            "'objective.clip_range' without a range; give objective.clip_range=LOW..HIGH",
        ),
        ("noise=1..0.5", "noise=1..0.5; give a lower end below the upper one"),
        ("noise=0..1:log", "a logarithmic range must start above 0"),
        ("noise=0..1:logg", "after the range give :log"),
        ("noise=0..1:0", "after the range give :log, and :POINTS"),
        ("noise=low..high", "give LOW..HIGH as numbers"),
        ("noise=0.5", "give a range LOW..HIGH or at least two values A|B"),
        ("noise=", "give a range LOW..HIGH or at least two values"),
        ("process.credit=state|state", "at least two values"),
        ("process.credit=state|[next", "not a YAML value"),
        ("process.credit=state|{a: 1}", "not a single value"),
        ("updates_per_rollout=1.5..4", "updates_per_rollout takes integers"),
        ("guidance,sampler.guidance.strength=1..2", "names sampler.guidance.strength twice"),
        (" , ", "give names, such as guidance,noise"),
    ],
)
def test_what_cannot_be_read_says_value_and_remedy(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=r"^--params ") as error:
        parse(text, EUPHONIUM, False)
    assert message in str(error.value)


def test_suggestions_lie_in_the_range_and_on_its_scale() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    parameters = parse("guidance=1..100:log,noise,updates_per_rollout=1..4,group_size=4|8", EUPHONIUM, False)
    drawn: dict[str, list[Any]] = {parameter.name: [] for parameter in parameters}
    for _ in range(400):
        trial = study.ask()
        for parameter in parameters:
            value = parameter.suggest(trial)
            assert parameter.contains(value)
            known = vars(trial.distributions[parameter.name])
            given: dict[str, Any] = {"choices": parameter.choices}
            if not parameter.choices:
                given = {"low": parameter.low, "high": parameter.high, "log": parameter.log}
            assert {name: known.get(name) for name in given} == given
            drawn[parameter.name].append(value)
    assert 8 < np.median(drawn["guidance"]) < 12.5  # sqrt(1 * 100): uniform in the logarithm
    assert 0.7 < np.median(drawn["noise"]) < 0.8
    assert set(drawn["updates_per_rollout"]) == {1, 2, 3, 4}
    assert set(drawn["group_size"]) == {4, 8}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("noise=0..1", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("noise=0..1:3", [0.0, 0.5, 1.0]),
        ("guidance=1..100:log:3", [1.0, 10.0, 100.0]),
        ("updates_per_rollout=1..4", [1, 2, 3, 4]),
        ("updates_per_rollout=1..4:2", [1, 4]),
        ("group_size=4|8", [4, 8]),
    ],
)
def test_a_grid_has_the_ends_and_evenly_spaced_points(text: str, values: list[Any]) -> None:
    assert one(text).grid() == values


def test_of_several_methods_each_is_tuned_in_what_it_has() -> None:
    """A KL to the unguided base model has a weight, and no strength to tune."""
    methods = ("euphonium", "euphonium_published", "flow_grpo")
    given = ("--methods", ",".join(methods), "--params", "target,guidance,noise,distillation")
    spaces = plan(*given).spaces
    assert {name: [parameter.name for parameter in spaces[name]] for name in methods} == {
        "euphonium": ["target", "noise", "distillation"],
        "euphonium_published": ["guidance", "noise"],
        "flow_grpo": ["noise", "distillation"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "dance_grpo", "--params", "guidance"), "dance_grpo has no sampler.guidance"),
        (("--methods", "euphonium", "--params", "guidance_decay"), "euphonium has no sampler.guidance"),
        (("--methods", "dance_grpo", "--params", "target"), "dance_grpo has no distillation"),
        (("--methods", "flow_grpo", "--params", "target"), "flow_grpo distils no guidance"),
        (
            ("--methods", "dance_grpo", "--params", "noise,distillation"),
            "dance_grpo has no distillation; leave it out",
        ),
        (
            ("--methods", "euphonium_published", "--params", "sampler.guidance.scale=1..2"),
            "euphonium_published is guided by sampler.guidance.strength",
        ),
        (
            (
                "--methods",
                "dance_grpo",
                "--params",
                "noise",
                "--set",
                "dance_grpo.sampler.noise={kind: memoryless}",
            ),
            "noise of kind memoryless, whose level is fixed",
        ),
        (
            ("--methods", "euphonium", "--params", "group_size=1|4"),
            "--params group_size: at 1, euphonium: group_size",
        ),
        (("--methods", "euphonium", "--params", "noise=0..1"), "--params noise: at 0.0, euphonium: "),
        (
            ("--methods", "euphonium", "--params", "updates_per_rollout=1..100"),
            "at 100, euphonium: updates_per_rollout",
        ),
        (("--params", "noise"), "--methods is missing"),
        (("--methods", "euphonim"), "did you mean 'euphonium'?"),
        (("--methods", "euphonium", "--trials", "0"), "--trials is 0; give at least 1"),
        (("--methods", "euphonium", "--objectives", "rewards"), "did you mean 'reward'?"),
        (
            ("--methods", "euphonium", "--objectives", "kl"),
            "the first, which chooses the best trial, is reward",
        ),
        (
            ("--methods", "euphonium", "--objectives", "reward,kl", "--pruner", "median"),
            "cannot be pruned; give none",
        ),
        (
            ("--methods", "euphonium", "--pruner", "wilcoxon", "--seeds", "3"),
            "the test needs 4 seeds a trial",
        ),
        (("--methods", "euphonium", "--set", "dance_grpo.group_size=4"), "which is not part of this run"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_it_begins(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        plan(*arguments)
    assert message in str(error.value)


def test_defaults() -> None:
    found = plan("--methods", "euphonium,euphonium_published,flow_grpo")
    assert (found.trials, found.search, found.pruner, found.objectives) == (40, "tpe", "median", ("reward",))
    assert list(found.seeds) == [100]
    assert {name: [parameter.name for parameter in space] for name, space in found.spaces.items()} == {
        "euphonium": ["target", "noise", "learning_rate"],
        "euphonium_published": ["guidance", "noise", "learning_rate"],
        "flow_grpo": ["noise", "learning_rate"],
    }
    assert plan("--methods", "euphonium", "--preset", "smoke").trials == 4
    assert plan("--methods", "euphonium", "--sampler", "grid").pruner == "none"  # a heat map without holes
    assert plan("--methods", "euphonium", "--objectives", "reward,kl").pruner == "none"
    assert plan("--methods", "euphonium", "--pruner", "wilcoxon", "--seeds", "4").pruner == "wilcoxon"


def test_judged_prompts_are_training_prompts_that_are_not_trained_on() -> None:
    """Every word as often among the judged as among the trained on; held-out prompts nowhere."""
    train, held_out = prompt_split()
    trained, judged = split_prompts(train)
    assert sorted(trained + judged) == sorted(train)
    assert len(judged) == len(train) / 3
    words = {word for prompt in train for word in prompt.split()}
    for word in words:
        count = [sum(word in prompt.split() for prompt in part) for part in (trained, judged)]
        assert count[0] == 2 * count[1], word
    settings = plan("--methods", "euphonium").settings("euphonium", {})
    assert list(settings.prompts.train) == trained
    assert list(settings.prompts.held_out) == judged
    assert not set(held_out) & set(settings.prompts.train + settings.prompts.held_out)
    with pytest.raises(SettingsError, match=r"prompts\.train has 2 prompts; a sweep needs at least 3"):
        split_prompts(train[:2])


def test_a_trial_is_what_the_runner_would_make_of_the_same_assignments() -> None:
    """Preset, --set and the trial's own value, the last one winning; everything else as it was."""
    given = ("--set", "all.group_size=12", "--set", "euphonium.objective.clip_range=0.1")
    space = "noise=1e-6..1,distillation.anchor=base|policy"
    asked = plan("--methods", "euphonium,dance_grpo", *given, "--params", space)
    method = asked.settings("euphonium", {"noise": 1e-05, "distillation.anchor": "policy"}).method_settings
    assert method.keys() == {"euphonium"}
    before = flatten(asked.base.method_settings["euphonium"])
    after = flatten(method["euphonium"])
    assert {name for name in after if after[name] != before[name]} == {
        "sampler.noise.level",
        "distillation.anchor",
    }
    assert (after["sampler.noise.level"], after["distillation.anchor"]) == (1e-05, "policy")
    assert (after["group_size"], after["objective.clip_range"]) == (12, 0.1)
    assert (
        asked.base.method_settings["dance_grpo"].objective.clip_range
        == CATALOG["dance_grpo"].objective.clip_range
    )


def test_the_methods_own_values_come_first_where_the_space_has_them() -> None:
    """As preset and --set have them; a range or choices without the method's own value leave all to the search."""
    given = ["--methods", "euphonium"]
    preset = plan(*given, "--params", "noise=0.01..9")
    own = preset.run.method_settings["euphonium"].sampler.noise.level
    assert preset.current("euphonium") == {"noise": own}
    for field in (
        "distillation.strength=12",
        "sampler.noise.level=1",
        "optimiser.learning_rate=0.0003",
        "group_size=8",
    ):
        given += ["--set", f"euphonium.{field}"]
    assert plan(*given).current("euphonium") == {"target": 12.0, "noise": 1.0, "learning_rate": 3e-4}
    assert plan(*given, "--params", "target=10..30,noise").current("euphonium") == {
        "target": 12.0,
        "noise": 1.0,
    }
    assert plan(*given, "--params", "target=20..30,noise").current("euphonium") is None
    assert plan(*given, "--params", "group_size=4|8").current("euphonium") == {"group_size": 8}
    assert plan(*given, "--params", "group_size=2|4").current("euphonium") is None


def test_a_parameter_that_changes_nothing_or_buys_compute_is_told() -> None:
    clip, group = one("clip"), one("group_size")
    two = changed(EUPHONIUM, {"updates_per_rollout": 2}, "two")
    once = changed(EUPHONIUM, {"updates_per_rollout": 1}, "once")
    assert "the ratio is 1 and never clipped" in caution(clip, once, [clip], "tflops")
    assert caution(clip, two, [clip], "tflops") == ""
    assert caution(clip, once, [clip, one("updates_per_rollout=1..2")], "tflops") == ""
    assert "so trials differ in compute" in caution(group, two, [group], "iterations")
    assert caution(group, two, [group], "tflops") == ""


def test_descriptions_differ_where_results_would() -> None:
    given = ("--methods", "euphonium")
    first = plan(*given).described()
    assert differing_settings(first, plan(*given, "--trials", "80").described()) == []
    assert differing_settings(first, plan(*given, "--first-seed", "7").described()) == ["run.first_seed"]
    assert differing_settings(first, plan(*given, "--set", "all.objective.clip_range=0.5").described()) == [
        "methods.euphonium.objective.clip_range"
    ]
    assert differing_settings(first, plan(*given, "--params", "target").described()) == [
        "parameters.euphonium.noise",
        "parameters.euphonium.learning_rate",
    ]


def test_field_names_and_types() -> None:
    names = field_names(Method)
    assert {"group_size", "sampler.guidance.strength", "process.credit"} <= set(names)
    assert "sampler.guidance" not in names  # it holds parts
    # A part that is absent stands for its fields.
    assert set(flatten(GUIDED)) - set(names) == {"average", "best_of", "outcome_guidance", "process_refresh"}
    assert set(flatten(CATALOG["dance_grpo"])) - set(names) == {
        "average",
        "best_of",
        "outcome_guidance",
        "process_refresh",
        "sampler.guidance",
        "process",
        "distillation",
    }
    assert field_type(Method, "sampler.guidance.stop", "x") == int | None
    assert field_type(Method, "group_size", "x") is int
