"""Every shipped recipe parses, is planned at its real size, and trains for an iteration on its family's tiny model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.planning.advice import fits
from benchmarks.planning.estimate import plan_run
from benchmarks.planning.gpus import GPUS
from benchmarks.resolve import config_file, read_config, recipes, resolve
from benchmarks.session import Session
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.task import Training
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance
from samplers.loading import load_policy
from tests.families.pipelines import VARIANTS
from tests.geometry import GEOMETRY
from tests.planning.conftest import costs_of

HUNYUAN = VARIANTS["hunyuan_video"]

NAMES = sorted(recipes())
#: Recipe -> GPUs that it is made for.
GPUS_OF = {"matched_wan_8gpu": 8, "dance_grpo_hunyuan": 8, "euphonium_hunyuan": 8}


def settings_of(name: str, **flags: Any) -> RunSettings:
    """A recipe with a suite that is always there."""
    return resolve(None, read_config(Path(name)), {"suite": "shapes", **flags}, [], "test")


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny HunyuanVideo and a process reward for it."""
    folder = tmp_path_factory.mktemp("hunyuan")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        HUNYUAN.build().save_pretrained(folder / "pipeline")
        policy = load_policy(folder / "pipeline", HUNYUAN.geometry)
        reward = LatentProcessReward(cut_denoiser(policy.plain, 1))
        torch.nn.init.normal_(reward.query)
        reward.save(folder / "process_reward", Provenance.of(policy.pipeline), {})
    return folder


def test_all_recipes_are_shipped() -> None:
    assert set(NAMES) == {
        *("euphonium_hunyuan", "dance_grpo_hunyuan", "dance_grpo_wan", "flow_grpo_wan"),
        *("matched_wan_1gpu", "matched_wan_8gpu"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_needs_and_where_it_is_from(name: str) -> None:
    text = recipes()[name].read_text()
    comment = text[: text.index("\npreset:")]
    assert all(line.startswith("#") or not line for line in comment.splitlines())
    for part in ("# NEEDS", "# FRAMES", "# WHERE VALUES COME FROM", "# DIFFERENT"):
        assert part in comment
    assert re.search(r"arXiv\s+(# +)?\d{4}\.\d{5}", comment)
    assert "planned, not measured" in comment
    assert str(settings_of(name).video.num_frames) in comment or "one." in comment


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_on_the_gpus_that_it_names(name: str) -> None:
    """Planned at its real size; the peak is the one that its comment gives."""
    settings = settings_of(name, process_reward="none")  # measured together, as the default one is planned
    gpus = GPUS_OF.get(name, 1)
    plan = plan_run(settings, costs_of(settings), GPUS["h100"], gpus, 0.4)
    assert fits(plan)
    plan.require_budget()
    peak = max(method.memory.peak for method in plan.methods) / 1e9
    hours = sum(plan.hours(method) for method in plan.methods) * settings.seeds
    told = re.search(r"(\d+) GPUs? of 80 GB; peak ([\d.]+) GB; ([\d.]+) hours", recipes()[name].read_text())
    assert told is not None
    assert int(told[1]) == gpus
    assert (float(told[2]), float(told[3])) == (pytest.approx(peak, rel=0.03), pytest.approx(hours, rel=0.03))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_on_the_tiny_model(
    name: str, tmp_path: Path, world: Path, request: pytest.FixtureRequest
) -> None:
    family: Path = request.getfixturevalue("hunyuan") if "hunyuan" in name else world
    video = HUNYUAN.geometry if "hunyuan" in name else GEOMETRY
    evaluation = {"every": 1, "train_prompts": 1, "samples_per_prompt": 2, "num_steps": 2}
    settings = settings_of(
        name,
        model=family / "pipeline",
        outcome_model=world / "outcome",
        process_reward=family / "process_reward",
        video=vars(video),
        prompts={"train": ["a small red ball moving left"], "held_out": ["a large blue ball moving up"]},
        evaluation=evaluation,
        prompts_per_iteration=1,
        rollout_batch=None,
        micro_batch=512,
        execution={"dtype": "float32", "prompt_cache": None},
        precision="no",
    )
    session = Session.open(settings)
    for method in settings.methods:
        training = Training(session, tmp_path, method, 0)
        before = [tensor.detach().clone() for tensor in training.learner.weights.parameters]
        metrics = training._timed_iteration(0)
        assert metrics["gradient_norm"] > 0
        after = training.learner.weights.parameters
        assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_prompts_of_a_config_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "texts.yaml").write_text("train: [a, b]\nheld_out: [c]\n")
    (tmp_path / "run.yaml").write_text("prompts: {file: texts.yaml}\n")
    assert read_config(tmp_path / "run.yaml")["prompts"] == {"train": ["a", "b"], "held_out": ["c"]}
    (tmp_path / "both.yaml").write_text("prompts: {file: texts.yaml, train: [a]}\n")
    with pytest.raises(SettingsError, match="give either a file or lists"):
        read_config(tmp_path / "both.yaml")
    (tmp_path / "lost.yaml").write_text("prompts: {file: missing.yaml}\n")
    with pytest.raises(SettingsError, match=r"prompts file .*missing.yaml' does not exist"):
        read_config(tmp_path / "lost.yaml")
    (tmp_path / "texts.yaml").write_text("trian: [a, b]\n")
    with pytest.raises(SettingsError, match="unknown field 'trian'; did you mean 'train'"):
        read_config(tmp_path / "run.yaml")


def test_a_run_of_a_recipe_can_be_repeated_from_its_settings(tmp_path: Path) -> None:
    """The prompts themselves are written down, not the file."""
    settings = settings_of("matched_wan_1gpu")
    again = yaml.safe_load(settings.dump({"name": "shapes"}))
    assert len(again["prompts"]["train"]) == 24
    (tmp_path / "settings.yaml").write_text(settings.dump({"name": "shapes"}))
    repeated = resolve(None, read_config(tmp_path / "settings.yaml"), {}, [], "test")
    assert repeated.prompts == settings.prompts
    assert repeated.method_settings == settings.method_settings
    assert repeated.execution == settings.execution


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file(Path("dance_grpo_wan")) == recipes()["dance_grpo_wan"]
    Path("dance_grpo_wan").write_text("seeds: 2\n")
    assert config_file(Path("dance_grpo_wan")) == Path("dance_grpo_wan")


def test_the_documentation_has_the_planned_figures() -> None:
    """The tables of docs/scaling.md: of recipes, and of Wan 2.1 1.3B by phase."""
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    for name in NAMES:
        told = re.search(r"peak ([\d.]+) GB; ([\d.]+) hours", recipes()[name].read_text())
        assert told is not None
        assert re.search(rf"\| `{name}` .*\| {told[1]} \| {told[2]} \|", text)
    video = {"num_frames": 33, "height": 480, "width": 832}
    settings = settings_of("matched_wan_1gpu", process_reward="none", video=video, methods=["euphonium"])
    plan = plan_run(settings, costs_of(settings), GPUS["h200"], 1, 0.4)
    (method,) = plan.methods
    for phase, start in (("rollout", "rollout"), ("guidance", "process reward's"), ("update", "update")):
        row = re.search(rf"\| {start}[^|]*\| ([\d.]+) \| ([\d,]+) \|", text)
        assert row is not None
        assert float(row[1]) == pytest.approx(method.memory.at[phase] / 1e9, rel=0.02)
        assert float(row[2].replace(",", "")) == pytest.approx(method.tflops(phase), rel=0.02)
