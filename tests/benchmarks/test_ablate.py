"""Ablations: a variant is the base but for what is named, and the table says what that did."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from scipy.stats import t, ttest_ind
from torch import Tensor

from benchmarks import ablate
from benchmarks.ablating.variants import make_arms, read_ablation, shown_difference
from benchmarks.records import resume_command
from benchmarks.resolve import resolve
from benchmarks.settings import SettingsError
from benchmarks.task import Training
from methods.catalog import difference
from methods.method import Method, flatten
from methods.naming import changed
from tests.benchmarks.harness import NoTracker, Result, _plain, interrupt, replace_reward
from tests.world import world_flags

SHIPPED = sorted((Path(__file__).parents[2] / "benchmarks" / "ablations").glob("*.yaml"))


def base_method(name: str = "euphonium") -> Method:
    return resolve("default", {}, {"methods": [name]}, [], "").method_settings[name]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_variants_differ_from_the_base_in_what_they_name_and_nothing_else(path: Path) -> None:
    ablation = read_ablation(path)
    assert ablation.base is not None
    base = base_method(ablation.base)
    arms, same = make_arms(ablation, base)
    named = {
        f"{factor}-{name}": variant.change
        for factor, entry in ablation.factors.items()
        for name, variant in entry.variants.items()
    }
    assert len(arms) > 12
    absent = [field for field, value in flatten(base).items() if value is None]
    names = [arm.name for arm in arms]
    assert len({arm.method.model_dump_json(exclude={"name"}) for arm in arms}) == len(arms)
    for arm in arms:
        fields = named.get(f"{arm.factor}-{arm.variant}") or {ablation.factors[arm.factor].field: ...}
        found = difference(base, arm.method)
        # What makes a part anew has the part's defaults beside what is named.
        made = [part for part in absent if any(f"{field}.".startswith(f"{part}.") for field in fields)]
        strangers = [
            name
            for name in found
            if not any(f"{name}.".startswith(f"{field}.") for field in (*fields, *made))
        ]
        assert not strangers, (arm.name, strangers)
        assert found
        assert arm.against in (base.name, *names)
    assert not same


@pytest.mark.parametrize("strength", [16.0, 41.5], ids=["catalogue", "tuned otherwise"])
def test_shipped_strengths_are_rescaled_as_they_say(strength: float) -> None:
    """Sources of a gradient are compared at one place and one length, and move the target as far as the base's does.

    The raw gradient's mean length is 0.52, as the records of untrained policies have it; a normalised one's is 1.
    """
    (path,) = [path for path in SHIPPED if path.stem == "euphonium"]
    base = changed(base_method(), {"distillation.strength": strength}, "")
    arms = {arm.variant: arm.method for arm in make_arms(read_ablation(path), base)[0]}
    sources = {}
    for name in ("process_reward", "outcome_exact", "outcome_estimated"):
        method = arms[name]
        assert not method.guided
        guidance = method.target_guidance(0)
        assert guidance is not None
        assert (guidance.at, guidance.normalisation) == ("x0_hat", "sample")
        assert guidance.strength == pytest.approx(0.52 * strength, rel=1e-3)
        sources[name] = method.gradient_source
    assert sources == {"process_reward": "process", "outcome_exact": "autograd", "outcome_estimated": "spsa"}


def test_a_multiple_follows_the_base(ablated: Ablated) -> None:
    """Of the changed field, of others with powers, and within a part; to four digits."""
    content = {
        "factors": {
            "f": {
                "variants": {
                    "own": {"sampler.noise.level": {"times": 0.3333}},
                    "others": {
                        "objective.clip_range": {
                            "times": 2,
                            "of": {"optimiser.learning_rate": 1, "group_size": -2},
                        }
                    },
                    "nested": {"optimiser": {"learning_rate": {"times": 3}}},
                }
            }
        }
    }
    given = ("--set", f"{BASE}.sampler.noise.level=0.7", "--set", f"{BASE}.optimiser.learning_rate=0.004")
    arms = [flatten(arm.method) for arm in dry(ablated, content, *given)[2]]
    assert arms[0]["sampler.noise.level"] == 0.2333
    assert arms[1]["objective.clip_range"] == pytest.approx(2 * 0.004 / 2**2)
    assert arms[2]["optimiser.learning_rate"] == pytest.approx(0.012)


class Ablated:
    """Runs the command line on the tiny world, in this process."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.world, self.folder = world, folder

    def file(self, content: dict[str, Any], **settings: Any) -> Path:
        small = {"all": {"group_size": 2, "sampler.num_steps": 4}, BASE: {"sampler.guidance.start": 2}}
        values = {**world_flags(self.world), "method_settings": small, **settings}
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(_plain(values)))
        path = self.folder / "ablation.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def __call__(self, *arguments: object, output: str = "out") -> Result:
        where = ["--output", self.folder / output, "--workers", 1]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = ablate.main(list(map(str, [*arguments, *where])))
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Result(code, out.getvalue(), err.getvalue(), self.folder / output)

    def run(self, content: dict[str, Any], *arguments: object, **settings: Any) -> Result:
        file = self.file(content, **settings)
        return self(BASE, "--config", file, "--settings", self.folder / "settings.yaml", *arguments)


@pytest.fixture
def ablated(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablated:
    """Without the report page and MLflow, and judged by the videos' brightness, which training changes."""
    monkeypatch.setattr("benchmarks.run.Benchmark._animate", lambda _: None)
    monkeypatch.setattr("benchmarks.tracking.Tracker", NoTracker)
    monkeypatch.setattr("analysis.report.write_report", lambda folder: folder / "report.html")
    replace_reward(monkeypatch, "accuracy", lambda _: brightness)
    return Ablated(world, tmp_path)


def brightness(videos: Tensor, prompts: Sequence[str]) -> Tensor:
    return videos.mean(dim=(1, 2, 3, 4))


#: Rollouts that are guided and a process term in the loss: what an ablation's table can say most of.
BASE = "euphonium_published"
FILE: dict[str, Any] = {
    "factors": {
        "guidance": {
            "about": "Does guidance help?",
            "variants": {"unguided": {"sampler.guidance": None}},
        },
        "credit": {"field": "process.credit", "values": ["state", "next_state", "difference"]},
        "rate": {
            "variants": {
                "high": {"optimiser": {"learning_rate": 0.01}},
                "higher": {"change": {"optimiser.learning_rate": 0.03}, "against": "rate-high"},
            }
        },
    }
}


def test_a_whole_ablation_that_was_interrupted(ablated: Ablated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, resume and table: every number as it follows from the records, by other code."""
    given = ("--seeds", 2, "--budget", 2)
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 9)
        stopped = ablated.run(FILE, *given)
    assert stopped.code == 130
    command = f"python -m benchmarks.ablate --resume --output {stopped.folder}"
    assert f"continue with `{command}`" in stopped.err
    assert resume_command(stopped.folder) == command
    result = ablated("--resume")
    assert result.code == 0, result.err
    table = pd.read_csv(
        result.folder / "tables" / "ablation.csv", keep_default_na=False, na_values={"low": ""}
    )
    assert table["variant"].tolist() == [BASE, "unguided", "next_state", "difference", "high", "higher"]
    evaluations = result.rows("evaluations")
    last = evaluations[(evaluations["iteration"] == 2) & (evaluations["split"] == "held_out")]
    seeds = last[last["reward"] == "accuracy"].groupby(["method", "seed"])["value"].mean()
    names = dict(zip(table["variant"], [BASE, *_names(result)], strict=True))
    compared = {**dict.fromkeys(names, BASE), "higher": "high"}
    for _, row in table.iterrows():
        mine = seeds[names[row["variant"]]].to_numpy()
        assert row["seeds"] == 2
        assert row["final"] == pytest.approx(mine.mean(), rel=1e-5)
        if row["variant"] == BASE:
            continue
        test = ttest_ind(mine, seeds[names[compared[row["variant"]]]].to_numpy(), equal_var=False)
        interval = test.confidence_interval(1 - 0.05 / 5)
        assert (row["low"], float(row["high"])) == pytest.approx((interval.low, interval.high), rel=1e-4)
        assert float(row["confidence"]) == pytest.approx(0.99)
        assert row["verdict"] == ("beyond chance" if test.pvalue < 0.05 / 5 else "not shown")
    rollouts = result.rows("iterations")
    guided = rollouts[rollouts["metric"] == "diagnostic/guided/accuracy"]
    ends = guided[guided["method"] == BASE].groupby("iteration")["value"].mean()
    assert float(table["guided_before"][0]) == pytest.approx(ends[0], rel=1e-4)
    assert float(table["guided_after"][0]) == pytest.approx(ends[2], rel=1e-4)
    assert table["guided_after"][1] == ""  # the unguided one has no such rollouts
    kl = rollouts[(rollouts["metric"] == "diagnostic/kl_to_base") & (rollouts["iteration"] == 2)]
    means = kl.groupby("method")["value"].mean()
    assert [float(value) for value in table["kl_to_base"]] == pytest.approx(
        [means[names[name]] for name in table["variant"]], rel=1e-4
    )
    text = (result.folder / "tables" / "ablation.md").read_text()
    assert "| *Does guidance help?* |" in text
    assert "process.credit: state → next_state |" in text
    assert "(to rate-high) |" in text
    assert "each at 99 % so that all 5 hold together" in text
    assert {"ablation.png", "ablation.svg"} <= {path.name for path in (result.folder / "figures").iterdir()}


def _names(result: Result) -> list[str]:
    return [arm["name"] for arm in yaml.safe_load((result.folder / "ablation.yaml").read_text())["arms"]]


def test_a_dry_run_prints_the_variants_and_does_nothing(ablated: Ablated) -> None:
    result = ablated.run(FILE, "--dry-run")
    assert result.code == 0, result.err
    assert not result.folder.exists()
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    rate = base_method(BASE).optimiser.learning_rate
    assert any("credit: next_state │ process.credit: state → next_state │ base" in line for line in lines)
    assert any(
        f"rate: higher │ optimiser.learning_rate: {rate:g} → 0.03 │ rate-high" in line for line in lines
    )
    assert not any("│ credit: state │" in line for line in lines)


def dry(ablated: Ablated, content: dict[str, Any], *arguments: object, **settings: Any) -> tuple[Any, ...]:
    file = ablated.file(content, **settings)
    given = [BASE, "--config", file, "--settings", ablated.folder / "settings.yaml", *arguments]
    return ablate.plan(ablate.arguments().parse_args(list(map(str, given))), "")


def test_variants_follow_the_base_as_it_is_set(ablated: Ablated) -> None:
    """--set changes the base, and the variants with it but for what they change; what becomes the base is left out."""
    given = (
        "--set",
        f"{BASE}.process.credit=next_state",
        "--set",
        "all.objective.clip_range=0.5",
        "--seeds",
        2,
    )
    settings, _, arms, same, _ = dry(ablated, FILE, *given)
    assert [arm.variant for arm in arms] == ["unguided", "state", "difference", "high", "higher"]
    assert same == []
    assert settings.methods == (BASE, *(arm.name for arm in arms))
    assert settings.seeds == 2
    for arm in arms:
        assert settings.method_settings[arm.name] == arm.method
        assert arm.method.objective.clip_range == 0.5
        assert arm.method.group_size == 2
    assert flatten(arms[0].method)["process.credit"] == "next_state"
    _, _, arms, same, _ = dry(ablated, FILE, "--set", "all.optimiser.learning_rate=0.01")
    assert same == ["rate-high"]
    assert {arm.variant: arm.against for arm in arms}["higher"] == BASE


def test_a_grid_is_every_combination_but_the_base(ablated: Ablated) -> None:
    grid = {"grid": {"sampler.noise.level": [0.5, 1.0], "process.credit": ["state", "next_state"]}}
    _, base, arms, same, _ = dry(ablated, grid, "--set", f"{BASE}.sampler.noise.level=1")
    assert [arm.name.removeprefix(f"{BASE}.grid-") for arm in arms] == [
        "level-0.5+credit-state",
        "level-0.5+credit-next_state",
        "level-1+credit-next_state",
    ]
    assert same == ["grid-level-1+credit-state"]
    assert shown_difference(base, arms[1].method) == {
        "sampler.noise.level": (1.0, 0.5),
        "process.credit": ("state", "next_state"),
    }


CROSS: dict[str, Any] = {
    "cross": {
        "process.credit": ["state", "next_state"],
        "rate": {
            "about": "Does a higher rate help?",
            "levels": {"usual": {}, "high": {"optimiser": {"learning_rate": 0.03}}},
        },
    }
}


def test_a_crossed_design_runs_every_cell_once(ablated: Ablated) -> None:
    """The base is a cell of it; what a level does not name stays the base's."""
    settings, base, arms, same, design = dry(ablated, CROSS)
    names = ["credit-state+rate-high", "credit-next_state+rate-usual", "credit-next_state+rate-high"]
    assert [arm.name for arm in arms] == [f"{BASE}.cross-{name}" for name in names]
    assert same == ["cross-credit-state+rate-usual"]
    assert settings.methods == (BASE, *(arm.name for arm in arms))
    assert list(design.methods.values()) == list(settings.methods)
    assert shown_difference(base, arms[-1].method) == {
        "process.credit": ("state", "next_state"),
        "optimiser.learning_rate": (base.optimiser.learning_rate, 0.03),
    }
    both = {**FILE, **CROSS}
    assert dry(ablated, both).design is not None
    assert dry(ablated, both, "--factors", "rate").design is None
    assert [arm.factor for arm in dry(ablated, both, "--factors", "cross").arms] == ["cross"] * 3


@pytest.mark.nightly
def test_a_whole_crossed_design_of_which_a_run_is_missing(
    ablated: Ablated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, resumed, each effect by hand; then one seed of a cell is lost, and its effects say so."""
    with monkeypatch.context() as patch:
        interrupt(patch, Training, "_iterate", 5)
        assert ablated.run(CROSS, "--seeds", 2, "--budget", 1).code == 130
    result = ablated("--resume")
    assert result.code == 0, result.err
    evaluations = result.rows("evaluations").query(
        "split == 'held_out' and reward == 'accuracy' and iteration == 1"
    )
    ends = evaluations.groupby(["method", "seed"])["value"].mean().unstack()
    cells = [ends.loc[name].to_numpy() for name in [BASE, *_names(result)]]
    table = pd.read_csv(result.folder / "tables" / "contrasts.csv").set_index("effect")
    labels = ["credit: next_state − state", "rate: high − usual", "credit next_state × rate high"]
    assert table.index.tolist() == labels
    for name, signs, share in zip(
        labels, [(-1, -1, 1, 1), (-1, 1, -1, 1), (1, -1, -1, 1)], (2, 2, 1), strict=True
    ):
        shares = [values.var(ddof=1) / 2 / share**2 for values in cells]
        width = t.ppf(1 - 0.05 / 3 / 2, sum(shares) ** 2 / sum(s**2 for s in shares)) * sum(shares) ** 0.5
        mean = sum(sign * values.mean() for sign, values in zip(signs, cells, strict=True)) / share
        row = table.loc[name]
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
            (mean, mean - width, mean + width), rel=1e-4
        )
        assert row["confidence"] == pytest.approx(1 - 0.05 / 3)
        assert row["verdict"] == ("beyond chance" if abs(mean) > width else "not shown")
    text = (result.folder / "tables" / "contrasts.md").read_text()
    assert "each at 98.33 % so that all 3 hold together with 95 %" in text
    assert "rate: Does a higher rate help?" in text
    assert "| next_state | high |" in text
    assert "Main effects and interactions of" in result.out
    assert {"contrasts.png", "contrasts.svg"} <= {path.name for path in (result.folder / "figures").iterdir()}
    lost = result.folder / "runs" / f"{_names(result)[-1]}-seed1"
    monkeypatch.setattr(Training, "_iterate", _broken)
    shutil.rmtree(lost)
    again = ablated("--resume")
    assert again.code == 2
    table = pd.read_csv(result.folder / "tables" / "contrasts.csv")
    assert set(table["missing"]) == {"one seed of credit-next_state+rate-high"}
    assert table["low"].isna().all()
    assert table["estimate"].notna().all()


def _broken(*_: object) -> dict[str, float]:
    raise FloatingPointError("the loss is NaN")


def test_some_factors_only(ablated: Ablated) -> None:
    _, _, arms, _, _ = dry(ablated, FILE, "--factors", "guidance,rate")
    assert [arm.factor for arm in arms] == ["guidance", "rate", "rate"]


def test_settings_of_the_file_and_of_the_command_line(ablated: Ablated) -> None:
    content = {**FILE, "settings": {"budget": 7, "seeds": 4, "evaluation": {"every": 3}}}
    settings = dry(ablated, content, "--seeds", 5)[0]
    assert (settings.budget, settings.seeds, settings.evaluation.every) == (7, 5, 3)


def variant(**fields: Any) -> dict[str, Any]:
    return {
        "factors": {
            "f": {"variants": {"v": {name.replace("__", "."): value for name, value in fields.items()}}}
        }
    }


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            variant(sampler__noise__levle=1),
            (),
            f"{BASE}.f-v: unknown field 'levle' in 'sampler.noise'; did you mean",
        ),
        (
            variant(objective__clip_range={"times": 2, "of": {"sampler.guidance.scale": 1}}),
            (),
            "f-v: objective.clip_range is to be 2 times sampler.guidance.scale, "
            f"which is none in {BASE}; give a number",
        ),
        (
            variant(kl_weight=0.1),
            (),
            "unknown field 'kl_weight'; a KL to the base model is distillation: {weight: W, strength: 0}",
        ),
        (variant(objective__clip_range={"times": "x"}), (), "f-v: objective.clip_range: times is 'x'"),
        (
            variant(objective__clip_range={"times": 1, "off": {}}),
            (),
            "f-v: objective.clip_range: unknown field 'off'",
        ),
        (variant(group_size=1), (), f"{BASE}.f-v: group_size is 1: Input should be greater"),
        (variant(outcome_weight=0, process=None), (), "no reward is left to learn from"),
        (
            {"factors": {"f": {"variants": {"v": {"change": {}, "against": "g-v"}}}}},
            (),
            "f-v: against is 'g-v'; ",
        ),
        ({"factors": {"f": {"field": "group_size"}}}, (), "factors.f: give field and values, or variants"),
        ({"factors": {"f": {"about": "?"}}}, (), "factors.f: give field and values, or variants"),
        ({"factor": {}}, (), "unknown field 'factor'; did you mean 'factors'?"),
        ({}, (), "it names neither factors nor grid nor cross"),
        ({**FILE, "settings": {"bugdet": 3}}, (), "settings.bugdet is no field of a run"),
        ({**FILE, "settings": {"methods": ["x"]}}, (), "settings.methods is no field of a run"),
        (FILE, ("--factors", "guidence"), "--factors names 'guidence'; did you mean 'guidance'?"),
        (
            FILE,
            ("--set", "dance_grpo.group_size=4"),
            "--set names method 'dance_grpo', which is not part of this run",
        ),
        (
            {"factors": {"f": {"field": "objective.clip_range", "values": [1e-4]}}},
            (),
            f"no variant of {BASE} is left to run",
        ),
        ({"cross": {"group_size": [2, 4]}}, (), "cross has group_size alone: give two factors or more"),
        (
            {"cross": {"group_size": [2], "f": {"levels": {"a": {}, "b": {}}}}},
            (),
            "levels are 2: give two or more",
        ),
        (
            {"cross": {"group_size": [2, 2]}},
            (),
            "cross.group_size: levels are 2: give two or more that differ",
        ),
        (
            {"cross": {"group_size": [2, 4], "f": {"levels": {"a": {}, "b": {}}}}},
            (),
            "cross: group_size-2+f-a and group_size-2+f-b are the same; give levels that differ",
        ),
        (
            {"cross": {"group_size": [2, 4], "f": {"levels": {"a": {}, "b": {"group_size": 8}}}}},
            (),
            "cross: group_size and f both change group_size; let one factor change it",
        ),
        (
            {
                "cross": {
                    "process.credit": ["state", "next_state"],
                    "f": {"levels": {"a": {}, "b": {"process": None}}},
                }
            },
            (),
            "cross: process.credit and f both change process.credit",
        ),
        (
            {"cross": {"f": {"field": "group_size", "levels": {"a": {}}}}},
            (),
            "cross.f: give field and values, or levels",
        ),
        ({"cross": {"f": {}, "g": {}}}, (), "cross.f: give field and values, or levels, and not both"),
        (
            {"factors": {"cross": {"field": "group_size", "values": [4]}}},
            (),
            "a factor cannot be called 'cross'",
        ),
        ({**FILE, "cross": {"group_size": [2, 4], "kl_weight": [0, 1]}}, (), "unknown field 'kl_weight'"),
        (
            {
                "factors": {
                    "f": {
                        "field": "objective.clip_range",
                        "values": [0.1],
                        "variants": {"0.1": {"objective.clip_range": 0.2}},
                    }
                }
            },
            (),
            "asks for f-0.1 twice",
        ),
    ],
)
def test_what_cannot_be_run_says_value_and_remedy(
    ablated: Ablated, content: dict[str, Any], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        dry(ablated, content, *arguments)
    assert message in " ".join(str(error.value).split())


def test_files_and_names_that_are_missing(ablated: Ablated, tmp_path: Path) -> None:
    nowhere: list[tuple[Callable[[], Result], str]] = [
        (lambda: ablated("euphonium"), "--config is missing; name an ablation file"),
        (lambda: ablated("euphonium", "--config", tmp_path / "no.yaml"), "does not exist"),
        (lambda: ablated("--config", ablated.file(FILE)), "no base is named"),
        (lambda: ablated("euphonim", "--config", ablated.file(FILE)), "did you mean 'euphonium'?"),
        (lambda: ablated("--resume"), "holds no run"),
    ]
    for call, message in nowhere:
        result = call()
        assert result.code == 2
        assert message in result.err
        assert not result.folder.exists()
