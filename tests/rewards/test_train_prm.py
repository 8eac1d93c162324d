"""Training of a process reward: both losses learn what can be learnt, and the command line refuses what cannot be."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import rewards.train_prm as train_prm_module
from rewards.fitting import Schedule, optimise
from rewards.preferences import PreferenceData
from rewards.process import LatentProcessReward, cut_denoiser
from rewards.provenance import Provenance
from rewards.train_prm import LEVELS, PrmTraining, accuracy_by_level, main, preference_loss, train_prm
from tests.world import world_policy

PROMPTS = ("a small red ball moving left", "a large blue ball moving up")


@pytest.fixture(scope="module")
def policy(world):
    return world_policy(world)


def separable(policy, per_prompt: int = 60, **changes: object) -> PreferenceData:
    """Samples whose score is a linear function of their latent, with an offset of its own for each prompt."""
    numbers = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * per_prompt, *policy.latent_shape, generator=numbers)
    quality = torch.randn(2 * per_prompt, generator=numbers)
    latents[:, 0] += 1.5 * quality.view(-1, 1, 1, 1)
    prompt = torch.arange(2).repeat_interleave(per_prompt)
    fields = {
        "latents": latents,
        "scores": quality + 100.0 * prompt,  # comparing across prompts would learn the prompt instead
        "prompt": prompt,
        "text": policy.encode(PROMPTS).text,
        "prompts": PROMPTS,
        "provenance": Provenance.of(policy.pipeline),
        "description": {"made": "by a test"},
    }
    return PreferenceData(**{**fields, **changes})


def settings(loss: str, **changes: object) -> PrmTraining:
    schedule = Schedule(steps=60, batch=32, learning_rate=1e-2, warmup=5, weight_decay=0.01)
    return PrmTraining(**{"loss": loss, "blocks": 1, "schedule": schedule, "held_back": 0.25, **changes})


@pytest.mark.parametrize("loss", ["bradley_terry", "binary"])
def test_a_separable_preference_is_learnt_in_a_few_steps(policy, loss):
    before = {name: tensor.clone() for name, tensor in policy.transformer.state_dict().items()}
    data = separable(policy)
    model, measured = train_prm(policy.plain, data, settings(loss))
    assert [float(level) for level in measured] == list(LEVELS)
    assert measured["0"]["accuracy"] > 0.8
    assert measured["0"]["correlation"] > 0.7
    assert measured["0"]["accuracy"] > measured["0.95"]["accuracy"] + 0.1  # noise hides what is to be seen
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    # Held back means held back: samples drawn anew are told apart as well.
    fresh = separable(
        policy, 30, latents=separable(policy).latents[:60], scores=separable(policy).scores[:60]
    )
    again = accuracy_by_level(model, fresh, torch.Generator().manual_seed(3))
    assert again["0"]["accuracy"] > 0.75
    state = policy.transformer.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_what_says_nothing_is_not_learnt(policy):
    """The accuracy above is measured on what the model has not seen: of random scores it learns nothing."""
    scores = torch.rand(120, generator=torch.Generator().manual_seed(9))
    _, measured = train_prm(policy.plain, separable(policy, scores=scores), settings("bradley_terry"))
    assert measured["0"]["accuracy"] < 0.7


def test_what_is_measured_was_never_trained_on(policy, monkeypatch):
    used: dict[str, set[float]] = {"preference_loss": set(), "accuracy_by_level": set()}

    def noting(name: str):
        function = getattr(train_prm_module, name)

        def noted(model: torch.nn.Module, data: PreferenceData, *given: object, **named: object) -> object:
            used[name].update(data.latents[:, 0, 0, 0, 0].tolist())
            return function(model, data, *given, **named)

        return noted

    for name in used:
        monkeypatch.setattr(train_prm_module, name, noting(name))
    short = Schedule(steps=3, batch=8, learning_rate=1e-2)
    train_prm(policy.plain, separable(policy), settings("bradley_terry", schedule=short))
    assert len(used["preference_loss"]) == 90
    assert len(used["accuracy_by_level"]) == 30
    assert not used["preference_loss"] & used["accuracy_by_level"]


def test_micro_batches_change_memory_alone(policy):
    model = LatentProcessReward(cut_denoiser(policy.plain, 2))
    data, gradients = separable(policy), []
    for micro_batch in (None, 3):
        choice = settings("bradley_terry", blocks=2, micro_batch=micro_batch)
        loss = preference_loss(model, data, choice, torch.Generator().manual_seed(0))
        gradients.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
        accuracy = accuracy_by_level(model, data, torch.Generator().manual_seed(0), 64, micro_batch)
        gradients[-1].append(torch.tensor([entry["correlation"] for entry in accuracy.values()]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_training_is_reproducible_by_its_seed(policy):
    short = {"schedule": Schedule(steps=3, batch=8, learning_rate=1e-2)}
    one, two, other = (
        train_prm(policy.plain, separable(policy), settings("bradley_terry", seed=seed, **short))[0]
        for seed in (0, 0, 1)
    )
    states = [model.state_dict() for model in (one, two, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert any(not torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())


class Oracle(torch.nn.Module):
    """Reads the latent's first element: a model whose losses and accuracies are known."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        assert len(condition.text["embeds"]) == len(x) == len(sigma)
        return self.sign * x.flatten(1)[:, 0]


def numbered(scores: list[float]) -> PreferenceData:
    """One prompt; each latent is its score, 30 times as large, so that noise of level 0.2 hides nothing."""
    values = torch.tensor(scores)
    return PreferenceData(
        30 * values.view(-1, 1, 1, 1, 1),
        values,
        torch.zeros(len(values), dtype=torch.long),
        {"embeds": torch.zeros(1, 1, 1)},
        ("p",),
        Provenance(family="a", latent_space="b", transformer="c"),
        {},
    )


def test_accuracy_and_correlation_of_a_model_that_is_right_and_of_one_that_is_wrong():
    data = numbered([0.0, 1.0, 2.0, 3.0])
    right = accuracy_by_level(Oracle(), data, torch.Generator().manual_seed(0))
    wrong = accuracy_by_level(Oracle(-1.0), data, torch.Generator().manual_seed(0))
    assert right["0"] == {"accuracy": 1.0, "correlation": 1.0}
    assert wrong["0"] == {"accuracy": 0.0, "correlation": -1.0}
    assert right["0.2"]["accuracy"] == 1.0
    ties = accuracy_by_level(Oracle(), numbered([1.0, 1.0, 2.0]), torch.Generator().manual_seed(0))
    assert ties["0"]["accuracy"] == 1.0  # ties are not asked about


def test_bradley_terry_is_the_log_likelihood_of_the_preferred():
    """With two samples and no noise to speak of every pair is the same pair."""
    data = numbered([0.0, 0.1])
    count = 4096
    choice = settings("bradley_terry", schedule=Schedule(steps=1, batch=count, learning_rate=1.0))
    found = preference_loss(Oracle(), data, choice, torch.Generator().manual_seed(0))
    numbers = torch.Generator().manual_seed(0)
    first, second = data.pairs(count, numbers)
    uniform = torch.rand(count, generator=numbers)
    sigma = 3 * uniform / (1 + 2 * uniform)  # the shift of sampling
    noise = torch.randn(2 * count, 1, 1, 1, 1, generator=numbers).flatten()
    values = (1 - sigma.repeat(2)) * data.latents.flatten()[torch.cat([first, second])] + sigma.repeat(
        2
    ) * noise
    margin = torch.where(first > second, 1.0, -1.0) * (values[:count] - values[count:])
    assert float(found) == pytest.approx(float(-F.logsigmoid(margin).mean()), rel=1e-5)


def test_a_tie_prefers_neither():
    choice = settings("bradley_terry", schedule=Schedule(steps=1, batch=64, learning_rate=1.0))
    found = preference_loss(Oracle(), numbered([1.0, 1.0, 1.0]), choice, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(0.6931472, abs=1e-6)


def test_too_little_data_is_refused_before_training(policy, monkeypatch):
    def trained(*arguments: object, **named: object) -> None:
        raise AssertionError("trained for nothing")

    monkeypatch.setattr("rewards.train_prm.optimise", trained)
    with pytest.raises(
        ValueError, match=r"prompt '.*left' has 1 held-back samples and needs 2; held_back is 0.25"
    ):
        train_prm(policy.plain, separable(policy, 5), settings("bradley_terry"))
    with pytest.raises(ValueError, match=r"prompt '.*left' has 1 training samples and needs 2"):
        train_prm(policy.plain, separable(policy, 3), settings("bradley_terry", held_back=0.6))


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 25])
def test_minimisation_reports_the_loss_of_its_last_tenth(steps):
    weight = torch.nn.Parameter(torch.tensor(1.0))
    schedule = Schedule(steps=steps, batch=1, learning_rate=1e-9, warmup=1)
    found = optimise([weight], schedule, lambda step: weight * 0 + step)
    tail = [step for step in range(steps) if step >= 0.9 * steps] or [steps - 1]
    assert found == pytest.approx(sum(tail) / len(tail))


def test_minimisation_minimises_and_stops_at_what_is_not_finite():
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    target = torch.tensor([0.5, 1.0])
    schedule = Schedule(steps=300, batch=1, learning_rate=0.1, warmup=5)
    optimise([weight], schedule, lambda _: (weight - target).square().sum())
    torch.testing.assert_close(weight.detach(), target, atol=1e-2, rtol=0)
    with pytest.raises(FloatingPointError, match="fit: the loss became nan at step 2"):
        optimise([weight], schedule, lambda step: weight.sum() * (torch.nan if step == 2 else 1), title="fit")


@pytest.fixture
def command(world, policy, tmp_path):
    """The command line on good data, with changes."""
    separable(policy).save(tmp_path / "data.safetensors")
    good = {
        "--model": world / "pipeline",
        "--data": tmp_path / "data.safetensors",
        "--output": tmp_path / "prm",
        "--steps": 2,
        "--batch": 4,
        "--blocks": 1,
    }

    def run(changes: dict[str, object] | None = None) -> int:
        given = {**good, **(changes or {})}
        return main([str(part) for pair in given.items() for part in pair])

    return run


def test_the_command_line_trains_saves_and_refuses_to_overwrite(command, world, policy, tmp_path, capsys):
    assert command() == 0
    model = LatentProcessReward.load(tmp_path / "prm", Provenance.of(policy.pipeline))
    assert len(model.trunk.blocks) == 1
    config = json.loads((tmp_path / "prm" / "config.json").read_text())
    assert set(config["measured"]) == {"by_noise_level", "data"}
    assert config["measured"]["data"] == {"made": "by a test"}
    assert set(config["measured"]["by_noise_level"]["0"]) == {"accuracy", "correlation"}
    written = (tmp_path / "prm" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert command({"--seed": 1}) == 2
    assert refusal(capsys).endswith("prm already holds a process reward; choose another --output")
    assert (tmp_path / "prm" / "model.safetensors").read_bytes() == written


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--steps": 0}, "steps is 0: Input should be greater than 0"),
        ({"--batch": -3}, "batch is -3: Input should be greater than 0"),
        ({"--lr": 0}, "learning_rate is 0.0: Input should be greater than 0"),
        ({"--blocks": 0}, "blocks is 0: Input should be greater than or equal to 1"),
        ({"--blocks": 3}, "blocks is 3; this transformer has 2: choose 1 to 2"),
        ({"--data": "missing"}, "no preference data at"),
        ({"--model": "missing"}, "missing"),
        ({"--model": "folder"}, "no file named model_index.json"),
        ({"--output": "file"}, "file is a file; choose another --output"),
    ],
)
def test_the_command_line_refuses_bad_input_in_one_line(command, tmp_path, capsys, changes, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    names = {"missing", "folder", "file"}
    assert (
        command({key: tmp_path / value if value in names else value for key, value in changes.items()}) == 2
    )
    captured = capsys.readouterr().err
    errors = captured[captured.index("error: ") :].splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "prm").exists()
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_line_refuses_data_of_another_model(command, policy, tmp_path: Path, capsys):
    other = Provenance.of(policy.pipeline).model_copy(update={"transformer": "0" * 16})
    separable(policy, provenance=other).save(tmp_path / "other.safetensors")
    assert command({"--data": tmp_path / "other.safetensors"}) == 2
    message = refusal(capsys)
    assert "the preference data at" in message
    assert "was made for another base model" in message
    assert "python -m benchmarks.preferences" in message
    assert not (tmp_path / "prm").exists()
