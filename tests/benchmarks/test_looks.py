"""Seeds until the answer is known: planned looks, when training stops, and that a resumed run looks again alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.records import load_run
from analysis.schema import LOOKS_FILE
from analysis.statistics.sequential import look_confidences
from benchmarks.looks import TakenLook, parse_seeds, planned_looks
from benchmarks.settings import SettingsError
from tests.benchmarks.harness import Bench, quick
from tests.world import world_settings


def test_seeds_are_a_number_or_a_range() -> None:
    assert parse_seeds("5") == 5
    assert parse_seeds("5..20") == (5, 20)
    for text in ("five", "5..", "5..10..20", "-3"):
        with pytest.raises(SettingsError, match=r"--seeds is .*; give a number such as 5"):
            parse_seeds(text)


def test_looks_come_after_equal_steps_and_at_the_end() -> None:
    assert planned_looks(5, 20) == (5, 10, 15, 20)
    assert planned_looks(2, 5) == (2, 4, 5)
    for fewest, most in ((1, 5), (5, 5), (6, 5)):
        with pytest.raises(SettingsError, match="give a range that grows and begins with 2 or more"):
            planned_looks(fewest, most)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"looks": (2, 2, 3), "seeds": 3}, "give growing numbers of seeds"),
        ({"looks": (2, 3), "seeds": 4}, r"that end with seeds \(4\)"),
        ({"looks": (1, 3), "seeds": 3}, "2 or more"),
        ({"question": {"baseline": "dance_gpo"}}, r"did you mean 'dance_grpo'\?"),
        ({"question": {"asks": "speeed"}}, "speeed"),
    ],
)
def test_what_cannot_be_asked_is_refused(world: Path, changes: dict[str, Any], words: str) -> None:
    settings = world_settings(world, ["euphonium", "dance_grpo"])
    with pytest.raises(SettingsError, match=words):
        settings.replace(**changes)


def test_one_method_has_nothing_to_be_decided(world: Path) -> None:
    with pytest.raises(SettingsError, match="needs a second method"):
        world_settings(world, ["dance_grpo"]).replace(looks=(2, 3), seeds=3)


def test_options_that_need_each_other(bench: Bench) -> None:
    for arguments in (["--seeds", "2..4"], ["--seeds", "3", "--until", "decided"], ["--until", "decided"]):
        done = bench(*arguments)
        assert done.code == 2
        assert "--until decided needs a range of seeds, such as --seeds 5..20" in done.err


def _stop_at(monkeypatch: pytest.MonkeyPatch, number: int, seen: list[int]) -> None:
    """Makes look `number` the one that decides, whatever the tiny world's rewards are."""
    from benchmarks import looks, run

    def look(settings: Any, output: Path, place: int) -> TakenLook:
        found = looks.take_look(settings, output, place)
        seen.append(place)
        return TakenLook(found.number, found.seeds, place == number, found.answer)

    monkeypatch.setattr(run, "take_look", look)


def test_training_stops_at_the_look_that_decides(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    seen: list[int] = []
    _stop_at(monkeypatch, 2, seen)
    options = ("--methods", "flow_grpo,dance_grpo", "--seeds", "2..6", "--until", "decided", "--budget", 1)
    done = bench(*options, "--question", "final")
    assert done.code == 0, done.err
    assert seen == [1, 2]
    settings = yaml.safe_load((done.folder / "settings.yaml").read_text())
    assert (settings["seeds"], settings["looks"]) == (6, [2, 4, 6])
    assert settings["question"] == {"asks": "final", "baseline": "flow_grpo"}
    looks = pd.read_csv(done.folder / LOOKS_FILE)
    assert looks["seeds"].tolist() == [2, 4]
    assert looks["confidence"].tolist() == pytest.approx(look_confidences([2, 4, 6])[:2])
    run = load_run(done.folder)
    assert (run.looks, run.confidence) == (2, pytest.approx(looks["confidence"].iloc[-1]))
    assert {method: run.seeds(method) for method in run.methods} == dict.fromkeys(run.methods, (0, 1, 2, 3))
    assert set(done.runs()["seed"]) == {0, 1, 2, 3}

    seen.clear()
    again = bench.resume()
    assert again.code == 0, again.err
    assert seen == [1, 2]
    assert set(again.runs()["seed"]) == {0, 1, 2, 3}
    pd.testing.assert_frame_equal(pd.read_csv(done.folder / LOOKS_FILE), looks)


def test_the_question_is_written_before_the_run(world: Path) -> None:
    settings = world_settings(world, ["euphonium", "dance_grpo"])
    written = yaml.safe_load(settings.dump({}))
    assert written["question"] == {"asks": "speed", "baseline": "dance_grpo"}
    assert yaml.safe_load(world_settings(world, ["awm"]).dump({}))["question"]["baseline"] is None
