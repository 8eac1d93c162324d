"""`python -m benchmarks.preferences`: from a base model's own samples to data that trains a process reward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.preferences import main
from benchmarks.testbed.scenes import prompt_split
from rewards.preferences import PreferenceData
from rewards.provenance import Provenance
from rewards.suites import load_suite, suite_named
from rewards.train_prm import main as train_prm
from tests.benchmarks.harness import Bench
from tests.world import world_policy

PROMPTS = prompt_split()[0][:3]


@pytest.fixture
def flags(world: Path, tmp_path: Path) -> dict[str, object]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(["", *PROMPTS, "  ", ""]))
    return {
        "--model": world / "pipeline",
        "--outcome-model": world / "outcome",
        "--prompts": prompts,
        "--video": "5x16x16",
        "--samples-per-prompt": 4,
        "--num-steps": 2,
        "--output": tmp_path / "new" / "preferences.safetensors",
    }


def called(flags: dict[str, object]) -> int:
    return main([str(word) for pair in flags.items() for word in pair])


def test_samples_are_scored_with_the_training_rewards(world: Path, flags: dict[str, object]) -> None:
    assert called(flags) == 0
    data = PreferenceData.load(Path(str(flags["--output"])))
    policy = world_policy(world)
    assert data.prompts == tuple(PROMPTS)
    assert data.prompt.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.provenance == Provenance.of(policy.pipeline)
    suite = load_suite("shapes", world / "outcome")
    videos, prompts = policy.decode(data.latents), [PROMPTS[i] for i in data.prompt]
    scores = sum(
        weight * suite.training[name](videos, prompts) for name, weight in suite.suite.training.items()
    )
    torch.testing.assert_close(data.scores, scores)
    torch.testing.assert_close(data.text["embeds"], policy.encode(PROMPTS).embeds)
    assert data.description["score"] == " + ".join(
        f"{weight:g} {name}" for name, weight in suite_named("shapes").training.items()
    )


def test_samples_depend_on_seed_and_prompt_alone(flags: dict[str, object], tmp_path: Path) -> None:
    """Fewer prompts in another order, or more samples, and the shared ones are the same."""
    called(flags)
    first = PreferenceData.load(Path(str(flags["--output"])))
    Path(str(flags["--prompts"])).write_text(f"{PROMPTS[2]}\n{PROMPTS[0]}\n")
    called({**flags, "--output": tmp_path / "other", "--samples-per-prompt": 5})
    second = PreferenceData.load(tmp_path / "other")
    torch.testing.assert_close(second.latents[:4], first.latents[8:], rtol=0, atol=1e-5)
    torch.testing.assert_close(second.latents[5:9], first.latents[:4], rtol=0, atol=1e-5)
    called({**flags, "--output": tmp_path / "third", "--seed": 1})
    assert not torch.allclose(PreferenceData.load(tmp_path / "third").latents[:4], second.latents[5:9])


def test_the_testbed_s_training_prompts_are_the_default(flags: dict[str, object]) -> None:
    del flags["--prompts"]
    assert called({**flags, "--samples-per-prompt": 2}) == 0
    prompts = PreferenceData.load(Path(str(flags["--output"]))).prompts
    assert prompts == tuple(prompt_split()[0])
    assert not set(prompts) & set(prompt_split()[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--model": "nowhere"}, ("model folder 'nowhere' does not exist",)),
        ({"--outcome-model": "nowhere"}, ("no outcome model at 'nowhere'",)),
        ({"--suite": "shape"}, ("did you mean 'shapes'?",)),
        ({"--prompts": "nowhere.txt"}, ("nowhere.txt",)),
        ({"--prompts": "EMPTY"}, ("no prompt",)),
        ({"--prompts": "OTHER"}, ("'a purple cube'",)),
        ({"--video": "5x16"}, ("FRAMESxHEIGHTxWIDTH",)),
        ({"--video": "5x17x16"}, ("height is 17",)),
        ({"--samples-per-prompt": 0}, ("--samples-per-prompt is 0", "at least 2")),
        ({"--samples-per-prompt": 1}, ("--samples-per-prompt is 1", "at least 2")),
        ({"--samples-per-prompt": "many"}, ("--samples-per-prompt", "'many'")),
        ({"--num-steps": 0}, ("num_steps",)),
        ({"--shift": -1}, ("shift",)),
        ({"--output": "EXISTS"}, ("exists", "choose another --output")),
        ({"--output": "EXISTS/below"}, ("EXISTS",)),
    ],
    ids=str,
)
def test_bad_input(
    flags: dict[str, object],
    changes: dict[str, object],
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "EMPTY").write_text(" \n\n")
    (tmp_path / "OTHER").write_text("a purple cube\n")
    (tmp_path / "EXISTS").write_text("mine")
    named = {
        key: tmp_path / str(value) if str(value).split("/")[0] in ("EMPTY", "OTHER", "EXISTS") else value
        for key, value in changes.items()
    }
    before = sorted(tmp_path.rglob("*"))
    try:
        code = called({**flags, **named})
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "EXISTS").read_text() == "mine"


def test_a_process_reward_of_one_s_own_guides_a_run(
    bench: Bench, flags: dict[str, object], world: Path
) -> None:
    """The whole way: preference data, a process reward trained on it, a benchmark that uses it."""
    assert called({**flags, "--samples-per-prompt": 20}) == 0
    made = bench.folder / "own"
    training = ["--model", world / "pipeline", "--data", flags["--output"], "--output", made]
    training += ["--blocks", 1, "--steps", 2, "--batch", 4]
    assert train_prm([str(word) for word in training]) == 0
    result = bench("--methods", "euphonium", "--process-reward", made, budget=1)
    assert result.code == 0, result.err
