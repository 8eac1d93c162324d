"""A suite given by path: workers read it, a run resumes with it, and not once it has changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.schema import SETTINGS_FILE
from benchmarks.resolve import read_config, resolve
from benchmarks.settings import SettingsError
from rewards.suites import reading, suite_named
from tests.benchmarks.harness import Bench
from tests.rewards.published import write_clip, write_hpsv3, write_video_reward
from tests.rewards.servers import answering

OWN = {
    "name": "own",
    "scorers": {
        "still": {"scorer": "rewards.shapes.quality:MotionQuality", "batch": 3},
        "size": {"scorer": "rewards.shapes.held_out:AttributeAccuracy", "options": {"attribute": "size"}},
    },
    "training": {"still": 1.0},
    "held_out": ["size"],
    "headline": "size",
    "descriptions": {"still": "even motion", "size": "the caption's size"},
}
PROMPTS = {
    "train": ["a small red ball moving left", "a large red ball moving left"],
    "held_out": ["a small blue ball moving up"],
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**OWN, "prompts": PROMPTS}))
    return path


def without_prompts(bench: Bench, **changes: Any) -> Path:
    """A configuration that leaves the prompts to the suite."""
    path = bench.config(**changes)
    content = yaml.safe_load(path.read_text())
    content.pop("prompts", None)
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_with_workers_resumes_until_the_suite_changes(bench: Bench, suite: Path) -> None:
    arguments = ("--methods", "dance_grpo", "--suite", suite, "--workers", 2)
    result = bench(*arguments, config=without_prompts(bench, budget=1))
    assert result.code == 0, result.err
    rows = result.rows("evaluations")
    assert set(rows["reward"]) == {"still", "size"}
    assert set(rows["prompt"]) == {*PROMPTS["train"], *PROMPTS["held_out"]}
    recorded = yaml.safe_load((result.folder / SETTINGS_FILE).read_text())["suite"]
    assert recorded["file"] == str(suite)
    assert recorded["scorers"]["still"]["batch"] == 3
    assert (result.folder / "scorers.json").is_file()
    assert bench.resume().code == 0
    suite.write_text(suite.read_text().replace("attribute: size", "attribute: colour"))
    changed = bench.resume()
    assert changed.code == 2
    assert f"the suite at {str(suite)!r} has changed since (scorers)" in changed.err


def test_a_suites_prompts_yield_to_those_of_a_file_or_flag(suite: Path) -> None:
    flags = {"methods": ["dance_grpo"], "suite": str(suite), "prompts_per_iteration": 1}
    settings = resolve("default", {}, flags, [], "")
    assert settings.prompts.train == tuple(PROMPTS["train"])
    given = {"train": ["a"], "held_out": ["b"]}
    assert resolve("default", {"prompts": given}, flags, [], "").prompts.train == ("a",)
    shapes = resolve("default", {}, {"methods": ["dance_grpo"]}, [], "")
    assert shapes.prompts.train[0].endswith(("left", "right", "up", "down"))


def test_settings_of_runs_before_suites_were_files_read_back(tmp_path: Path) -> None:
    old = suite_named("shapes").recorded()
    assert old.keys() == {"name", "training", "held_out", "headline", "descriptions"}
    (tmp_path / SETTINGS_FILE).write_text(yaml.safe_dump({"suite": old}))
    assert read_config(tmp_path / SETTINGS_FILE) == {"suite": "shapes"}


def test_facts_are_part_of_what_may_not_change(suite: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(suite.read_text())
    content["prompts"]["held_out"] = [{"prompt": "a sign", "text": "STOP"}]
    suite.write_text(yaml.safe_dump(content))
    (tmp_path / SETTINGS_FILE).write_text(yaml.safe_dump({"suite": suite_named(str(suite)).recorded()}))
    assert read_config(tmp_path / SETTINGS_FILE) == {"suite": str(suite)}
    suite.write_text(suite.read_text().replace("STOP", "GO"))
    with pytest.raises(SettingsError, match=r"has changed since \(facts\)"):
        read_config(tmp_path / SETTINGS_FILE)


def test_a_lost_suite_file_is_named(suite: Path, tmp_path: Path) -> None:
    recorded = suite_named(str(suite)).recorded()
    suite.unlink()
    (tmp_path / SETTINGS_FILE).write_text(yaml.safe_dump({"suite": recorded}))
    with pytest.raises(SettingsError, match=r"own.yaml' does not exist"):
        read_config(tmp_path / SETTINGS_FILE)


def test_the_motion_suite_end_to_end(bench: Bench) -> None:
    """Two scores of one scorer: one trains, the other judges."""
    result = bench("--methods", "dance_grpo", "--suite", "motion", budget=1)
    assert result.code == 0, result.err
    rows = result.rows("evaluations")
    suite = suite_named("motion")
    assert set(rows["reward"]) == {*suite.training, *suite.held_out}
    assert rows["value"].notna().all()
    assert "DIS" in (result.folder / "scorers.json").read_text()
    refused = bench("--methods", "refl", "--suite", "motion", output="other")
    assert refused.code == 2
    assert "'flow_smoothness' of suite 'motion' has no gradient" in refused.err
    assert not refused.folder.exists()


def copied(name: str, folder: Path, options: dict[str, dict[str, Any]]) -> Path:
    """A shipped suite as a file of one's own: some options changed, a few of its prompts."""
    content = yaml.safe_load((Path(reading.__file__).parent / f"{name}.yaml").read_text())
    for entry, changes in options.items():
        content["scorers"][entry]["options"] = {**content["scorers"][entry].get("options", {}), **changes}
    content["name"] = f"tiny-{name}"
    content["prompts"] = {part: texts[:2] for part, texts in content["prompts"].items()}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def judged(path: str, body: bytes, number: int) -> tuple[int, Any]:
    tops = [{"token": token, "logprob": math.log(0.5)} for token in ("Yes", "No")]
    return 200, {"choices": [{"logprobs": {"content": [{"token": "Yes", "top_logprobs": tops}]}}]}


def test_the_quality_suite_end_to_end(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scorer of it, on tiny models in their published formats and a judge over HTTP."""
    monkeypatch.setattr("rewards.video_reward._LEAST_PIXELS", 28 * 28)
    monkeypatch.setattr("rewards.hpsv3._PIXELS", 28 * 28)
    video, preference = write_video_reward(tmp_path / "video"), write_hpsv3(tmp_path / "hpsv3")
    clip = str(write_clip(tmp_path / "clip"))
    with answering(judged) as (url, asked):
        options = {
            "video_reward": {"model": str(video), "dtype": "float32"},
            "hpsv3": {"model": str(preference), "base": str(preference / "base"), "dtype": "float32"},
            "judge": {"url": url},
            "pick_score": {"model": clip, "processor": clip},
        }
        suite = copied("wan-quality", tmp_path, options)
        result = bench("--methods", "dance_grpo", "--suite", suite, config=without_prompts(bench, budget=1))
        assert result.code == 0, result.err
        assert asked
    rows = result.rows("evaluations")
    shipped = suite_named("wan-quality")
    assert set(rows["reward"]) == {*shipped.training, *shipped.held_out}
    assert rows["value"].notna().all()
    assert (rows["value"][rows["reward"] == "judge_motion"] == 0.5).all()
    provenance = json.loads((result.folder / "scorers.json").read_text())
    assert provenance["video_reward"]["positions"] == "sequential"
    assert provenance["judge"]["remote"] == url


class Reader:
    """Reads the same from every picture; the real one takes a second each."""

    def __init__(self, params: dict[str, str]) -> None: ...

    def __call__(self, frame: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(txts=("OPEN",))


def test_the_text_suite_end_to_end(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapidocr.RapidOCR", Reader)
    clip = str(write_clip(tmp_path / "clip"))
    options = {"ocr": {"frames": 1}, "pick_score": {"model": clip, "processor": clip}}
    suite = copied("text", tmp_path, options)
    result = bench("--methods", "dance_grpo", "--suite", suite, config=without_prompts(bench, budget=1))
    assert result.code == 0, result.err
    shipped = suite_named("text")
    rows = result.rows("evaluations")
    assert set(rows["reward"]) == {*shipped.training, *shipped.held_out}
    read = rows[(rows["reward"] == "ocr") & rows["prompt"].str.contains("OPEN")]
    assert (read["value"] == 1).all()
