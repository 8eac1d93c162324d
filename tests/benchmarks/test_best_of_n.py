"""`python -m benchmarks.best_of_n`: fine-tuning on the best preference videos, its budget and its records."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from analysis.combine import load_runs
from analysis.costs import cumulative_costs, totals
from analysis.report import main as report
from benchmarks import checkpoint
from benchmarks.best_of_n import main
from benchmarks.finetuning import FineTuning
from benchmarks.preferences import sample_preferences
from benchmarks.testbed.scenes import prompt_split
from methods.best_of_n import Batch, BestOfN, FineTuner, Kept, best_share, flow_matching_loss
from methods.parts import Optimiser
from methods.weights import TrainedWeights, WeightSettings
from rewards.cost import Cost
from rewards.preferences import PreferenceData
from rewards.provenance import Provenance
from rewards.suites import load_suite
from samplers.condition import Condition
from tests.benchmarks.harness import Bench, Result, assert_same_records, assert_same_state, interrupt
from tests.world import build_world, world_policy

PROMPTS = prompt_split()[0][:3]
NAME = "best_of_n"
SMALL = ("--keep", "0.5", "--batch", "4", "--steps", "2", "--every", "1")


@pytest.fixture(scope="module")
def data(world: Path) -> PreferenceData:
    """Six samples of each of three prompts."""
    suite = load_suite("shapes", world / "outcome")
    policy = world_policy(world)
    return sample_preferences(policy, suite.training, suite.suite.training, PROMPTS, 6, 2, 3.0, 0)


@pytest.fixture(scope="module")
def file(data: PreferenceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "preferences.safetensors"
    data.save(path)
    return path


@pytest.fixture(scope="module")
def budget(data: PreferenceData) -> float:
    """Pays the data and some iterations."""
    assert data.cost is not None
    return 1.5 * data.cost.tflops


@pytest.fixture
def tune(bench: Bench, file: Path, budget: float) -> Callable[..., Result]:
    return lambda *arguments, **options: tuned(bench, file, budget, *arguments, **options)


def tuned(
    bench: Bench, file: Path, budget: float, *arguments: object, output: str = "out", **changes: Any
) -> Result:
    """Runs with --config, --data and --output given."""
    config = bench.config(**{"budget": budget, "budget_unit": "tflops", **changes})
    given = ["--config", config, "--data", file, "--workers", 1, *SMALL]
    return called(bench, *given, *arguments, output=output)


def called(bench: Bench, *arguments: object, output: str = "out") -> Result:
    folder = bench.folder / output
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([*map(str, arguments), "--output", str(folder)])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Result(code, out.getvalue(), err.getvalue(), folder)


def test_the_best_share_of_each_prompt_is_kept(data: PreferenceData) -> None:
    scores = torch.tensor([0.1, 0.9, 0.3, 0.9, 0.2, 0.8, *[0.5] * 6, 1, 2, 3, 4, 5, 6])
    known = dataclasses.replace(data, scores=scores)
    assert best_share(known, 0.5).tolist() == [1, 3, 5, 6, 7, 8, 15, 16, 17]
    assert best_share(known, 0.01).tolist() == [1, 6, 17]
    assert best_share(known, 1).tolist() == list(range(18))


def test_batches_are_drawn_from_the_kept_alone_with_their_own_prompts(
    data: PreferenceData, world: Path
) -> None:
    policy = world_policy(world)
    rows = best_share(data, 0.5)
    kept = Kept.of(data, 0.5, policy)
    batch = kept.batch(64, 3.0, seed=0, step=0)
    seen = set()
    for clean, prompt in zip(batch.clean, batch.condition.prompts, strict=True):
        (place,) = [int(row) for row in rows if torch.equal(data.latents[row], clean)]
        assert data.prompts[data.prompt[place]] == prompt
        seen.add(place)
    assert seen == set(rows.tolist())
    torch.testing.assert_close(batch.condition.embeds, policy.encode(batch.condition.prompts).embeds)
    assert ((batch.sigma > 0) & (batch.sigma < 1)).all()
    assert torch.equal(kept.batch(64, 3.0, 0, 0).noise, batch.noise)
    assert not torch.equal(kept.batch(64, 3.0, 0, 1).noise, batch.noise)
    assert not torch.equal(kept.batch(64, 3.0, 1, 0).clean, batch.clean)


def test_noise_levels_are_uniform_and_shifted(data: PreferenceData, world: Path) -> None:
    sigma = Kept.of(data, 1, world_policy(world)).batch(4000, 3.0, 0, 0).sigma
    uniform = sigma / (3.0 - 2.0 * sigma)  # the shift undone
    quantiles = torch.linspace(0, 1, 4001)[1:]
    assert (uniform.sort().values - quantiles).abs().max() < 0.03


@pytest.mark.parametrize("micro_batch", [3, 512])
def test_a_step_follows_the_gradient_written_by_hand(
    data: PreferenceData, world: Path, micro_batch: int
) -> None:
    """d/dw mean |v - (e - x0)|^2 = 2 / N sum r dv/dw; plain gradient descent at rate 1 moves by just that."""
    policy, accelerator = world_policy(world), Accelerator(cpu=True)
    weights = TrainedWeights(policy, WeightSettings(rank=2, alpha=4), 0, reference=False)
    with torch.no_grad():  # adapters begin at zero, where half of the gradients vanish
        for number, parameter in enumerate(weights.parameters):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    batch = Kept.of(data, 0.5, policy).batch(8, 3.0, 0, 0)
    level = batch.sigma[:, None, None, None, None]
    velocity = policy.velocity(
        batch.clean + level * (batch.noise - batch.clean), batch.sigma, batch.condition
    )
    residual = (velocity - batch.noise + batch.clean).detach()
    slopes = torch.autograd.grad(velocity, weights.parameters, 2 * residual / residual.numel())
    before = [parameter.detach().clone() for parameter in weights.parameters]
    method = BestOfN(data=Path("any"), optimiser=Optimiser(learning_rate=1.0, max_grad_norm=1e9))
    optimiser = torch.optim.SGD(weights.parameters, lr=1.0)
    tuner = FineTuner(policy, policy.denoiser, weights, method, optimiser, accelerator, micro_batch)
    figures = tuner.step(batch)
    assert figures["loss"] == pytest.approx(residual.square().mean().item(), rel=1e-5)
    for parameter, old, slope in zip(weights.parameters, before, slopes, strict=True):
        torch.testing.assert_close(parameter.detach() - old, -slope, rtol=1e-3, atol=1e-6)
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_the_loss_is_zero_for_the_exact_velocity() -> None:
    class Exact:
        def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
            return noise - clean

    clean, noise = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    batch = Batch(clean, noise, torch.rand(2), Condition(("a", "b"), {"embeds": torch.zeros(2, 1, 1)}))
    assert flow_matching_loss(Exact(), batch).item() == 0


def test_a_step_that_diverges_is_not_taken(data: PreferenceData, world: Path) -> None:
    policy = world_policy(world)
    weights = TrainedWeights(policy, WeightSettings(rank=2, alpha=4), 0, reference=False)
    optimiser = torch.optim.SGD(weights.parameters, lr=1.0)
    tuner = FineTuner(
        policy,
        policy.denoiser,
        weights,
        BestOfN(data=Path("any")),
        optimiser,
        Accelerator(cpu=True),
    )
    batch, before = Kept.of(data, 0.5, policy).batch(4, 3.0, 0, 0), weights.state_dict()
    broken = dataclasses.replace(batch, clean=batch.clean * float("nan"))
    with pytest.raises(FloatingPointError, match=r"best_of_n.*learning_rate, which is 0.001"):
        tuner.step(broken)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.state_dict().items())


@pytest.mark.parametrize("charge_prm", [False, True])
def test_the_budget_includes_the_data_once_and_is_used_to_within_an_iteration(
    tune: Callable[..., Result], data: PreferenceData, budget: float, charge_prm: bool
) -> None:
    result = tune(charge_prm=charge_prm)
    assert result.code == 0, result.err
    assert data.cost is not None
    ledger = result.rows("ledger").query(f"method == '{NAME}' and quantity == 'tflops'")
    entered = ledger.query("component == 'rollout'")
    assert entered[["iteration", "value"]].to_numpy().tolist() == [[0, data.cost.tflops]]
    updates = ledger.query("component == 'update'")["value"]
    assert updates.nunique() == 1
    assert updates.iloc[0] > 0
    used = data.cost.tflops + updates.sum()
    assert used <= budget < used + updates.iloc[0]
    run = load_runs([result.folder])
    assert totals(run)["tflops"].item() == pytest.approx(used)
    start = cumulative_costs(run).query("iteration == 0")
    assert start["tflops"].item() == pytest.approx(data.cost.tflops)
    assert start["videos"].item() == data.cost.videos == 18


def test_records_are_those_of_an_ordinary_run(tune: Callable[..., Result]) -> None:
    result = tune("--seeds", 2, "--first-seed", 7, "--every", 2)
    assert result.code == 0, result.err
    runs = result.runs()
    assert runs["seed"].tolist() == [7, 8]
    assert set(runs["status"]) == {"finished"}
    last = int(runs["iterations"].iloc[0])
    for seed in (7, 8):
        mine = result.rows("evaluations").query(f"method == '{NAME}' and seed == {seed}")
        assert sorted(mine["iteration"].unique()) == sorted({*range(2, last + 1, 2), last})
    metrics = result.rows("iterations").query("iteration == 1")["metric"]
    assert {"loss", "gradient_norm"} <= set(metrics)
    settings = yaml.safe_load((result.folder / "settings.yaml").read_text())
    assert settings["methods"] == [NAME]
    own = settings["method_settings"][NAME]
    assert (own["keep"], own["batch"], own["steps"], own["every"]) == (0.5, 4, 2, 2)
    assert not {"sampler", "group_size", "clip_range"} & own.keys()
    assert f"{NAME} seed 8" in result.out


def test_the_same_seed_trains_the_same_weights_and_resuming_changes_nothing(
    tune: Callable[..., Result], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint_every": 1}
    first = tune(**changes)
    tune(output="again", **changes)
    second = Result(0, "", "", bench.folder / "again")
    assert_same_state(first, second, NAME)
    assert_same_records(first, second)
    with monkeypatch.context() as patch:
        interrupt(patch, FineTuning, "_iteration", 3)
        cut = tune(output="cut", **changes)
    assert cut.code == 130
    assert "python -m benchmarks.best_of_n --resume --output" in cut.err
    resumed = called(bench, "--resume", "--workers", 1, output="cut")
    assert resumed.code == 0, resumed.err
    assert_same_state(first, resumed, NAME)
    assert_same_records(first, resumed)
    other = tune("--first-seed", 1, output="other")
    weights = zip(first.weights(NAME).values(), other.weights(NAME, 1).values(), strict=True)
    assert not all(torch.equal(one, two) for one, two in weights)


def test_reported_together_with_an_ordinary_run(reporting: Bench, file: Path, budget: float) -> None:
    """The ordinary run's settings.yaml is the --config: model, prompts, evaluation and budget are its own."""
    ordinary = reporting("--methods", "dance_grpo", output="ordinary", budget=budget, budget_unit="tflops")
    assert ordinary.code == 0, ordinary.err
    given = ["--config", ordinary.folder / "settings.yaml", "--data", file, "--workers", 1, *SMALL]
    own = called(reporting, *given, output="own")
    assert own.code == 0, own.err
    both = reporting.folder / "both"
    assert report([str(ordinary.folder), str(own.folder), "--output", str(both)]) == 0
    run = load_runs([ordinary.folder, own.folder])
    assert run.methods == ("dance_grpo", NAME)
    page = (both / "report.html").read_text()
    assert NAME in page
    for table in ("budget", "final", "methods"):
        assert NAME in (both / "tables" / f"{table}.csv").read_text(), table
    again = called(reporting, "--config", own.folder / "settings.yaml", "--workers", 1, output="again")
    assert again.code == 0, again.err
    assert_same_state(own, again, NAME)


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        (("--data", "nowhere"), {}, ("--data", "'nowhere'", "benchmarks.preferences")),
        (("--data", "DAMAGED"), {}, ("--data", "DAMAGED")),
        (("--data", "UNPRICED"), {}, ("does not say what it cost",)),
        (("--data", "OTHER MODEL"), {}, ("another base model",)),
        (("--data", "OTHER SCORE"), {}, ("'beauty'", "suite 'shapes'")),
        (("--data", "HELD OUT"), {}, (prompt_split()[1][0], "not a training prompt")),
        (("--data", "LARGER"), {}, ("latents of (4, 2, 3, 3)", "--video")),
        (("--budget", "1e-9"), {}, ("budget is 1e-09", "nothing is left")),
        (("--budget", "2", "--budget-unit", "iterations"), {}, ("--budget-unit tflops",)),
        (("--keep", "0"), {}, ("keep is 0",)),
        (("--learning-rate", "-1"), {}, ("learning_rate",)),
        (("--batch", "0"), {}, ("batch is 0",)),
        (("--name", "base"), {}, ("'base'",)),
        (("--set", "flow_grpo.group_size=3"), {}, ("only method is 'best_of_n'",)),
        (("--set", "best_of_n.group_size=3"), {}, ("unknown field 'group_size'",)),
        (("--workers", "0"), {}, ("--workers is 0",)),
        (("--resume",), {}, ("--resume", "not --data")),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_written(
    tune: Callable[..., Result],
    data: PreferenceData,
    tmp_path: Path,
    arguments: tuple[str, ...],
    changes: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    named = [str(make_bad(word, data, tmp_path)) if word in BAD else word for word in arguments]
    result = tune(*named, **changes)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert not result.folder.exists()


def _other_model(data: PreferenceData) -> PreferenceData:
    other = Provenance(**{**data.provenance.model_dump(), "transformer": "0"})
    return dataclasses.replace(data, provenance=other)


BAD: dict[str, Callable[[PreferenceData], PreferenceData]] = {
    "DAMAGED": lambda data: data,
    "UNPRICED": lambda data: dataclasses.replace(data, cost=None),
    "OTHER MODEL": _other_model,
    "OTHER SCORE": lambda data: dataclasses.replace(data, description={"score": "beauty"}),
    "HELD OUT": lambda data: dataclasses.replace(data, prompts=(prompt_split()[1][0], *PROMPTS[1:])),
    "LARGER": lambda data: dataclasses.replace(data, latents=torch.zeros(18, 4, 2, 3, 3)),
}


def make_bad(kind: str, data: PreferenceData, folder: Path) -> Path:
    path = folder / kind
    BAD[kind](data).save(path)
    if kind == "DAMAGED":
        path.write_bytes(path.read_bytes()[:100])
    return path


def test_a_budget_that_pays_the_data_and_no_iteration_ends_in_a_line(
    tune: Callable[..., Result], data: PreferenceData
) -> None:
    assert data.cost is not None
    result = tune("--budget", data.cost.tflops * (1 + 1e-9))
    assert result.code == 2
    assert "less than one iteration of best_of_n costs: give at least" in result.err


def test_a_run_of_another_kind_is_not_resumed(bench: Bench, tune: Callable[..., Result]) -> None:
    ordinary = bench("--methods", "dance_grpo")
    assert ordinary.code == 0, ordinary.err
    refused = called(bench, "--resume")
    assert refused.code == 2
    assert "not of benchmarks.best_of_n" in refused.err
    assert tune(output="own").code == 0
    other_way = bench.resume("own")
    assert other_way.code == 2
    assert "best_of_n" in other_way.err


def test_a_checkpoint_that_does_not_fit_is_refused(
    tune: Callable[..., Result], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint_every": 1}
    with monkeypatch.context() as patch:
        interrupt(patch, FineTuning, "_iteration", 3)
        tune(**changes)
    folder = bench.folder / "out" / "runs" / f"{NAME}-seed0" / "checkpoint"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "method": "other"}))
    resumed = called(bench, "--resume", "--workers", 1)
    assert resumed.code == 2
    assert "belongs to" in resumed.err


def test_a_file_of_another_world_is_refused(
    tune: Callable[..., Result], data: PreferenceData, tmp_path: Path
) -> None:
    """Fingerprints come from the weights themselves."""
    other = tmp_path / "other"
    build_world(other, seed=1)
    path = tmp_path / "other.safetensors"
    provenance = Provenance.of(world_policy(other).pipeline)
    dataclasses.replace(data, provenance=provenance, cost=Cost(tflops=1e-6)).save(path)
    result = tune("--data", path)
    assert result.code == 2
    assert "was made for another latent space" in result.err


def test_a_checkpoint_holds_what_was_trained(tune: Callable[..., Result], world: Path) -> None:
    result = tune()
    policy = world_policy(world)
    weights = TrainedWeights(policy, WeightSettings(rank=2, alpha=4), 0, reference=False)
    optimiser = torch.optim.AdamW(weights.parameters)
    tuner = FineTuner(
        policy, policy.denoiser, weights, BestOfN(data=Path("any")), optimiser, Accelerator(cpu=True)
    )
    identity = {"method": NAME, "seed": 0}
    done = checkpoint.load(result.checkpoint(NAME), tuner, identity)
    assert done == result.runs()["iterations"].item()
