"""The ledger: its counts against closed forms and torch's own counter, and that it counts once and all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.schema import CHARGED, EVALUATION, PEAK_MEMORY, PRM_TRAINING, WHOLE
from benchmarks.ledger import (
    Ledger,
    UsageMeter,
    charged,
)
from benchmarks.records import read_rows
from benchmarks.resolve import resolve
from benchmarks.session import Session
from benchmarks.task import Training
from methods.catalog import CATALOG
from rewards.cost import Cost, FlopCounter
from samplers.pipeline import PipelinePolicy
from tests.benchmarks.harness import Bench, Result
from tests.benchmarks.trainings import make
from tests.world import world_policy

PROMPTS, GROUP = 2, 2


@dataclass(frozen=True)
class ClosedForm:
    """Operations of a Wan transformer for one latent of T tokens and a prompt of L: 2 m n k a matrix product."""

    config: Any
    tokens: int
    text: int

    @property
    def width(self) -> int:
        return self.config.num_attention_heads * self.config.attention_head_dim

    @property
    def first(self) -> int:
        """Matrix products whose input is data: no gradient is taken there."""
        d, c = self.width, self.config
        patch = self.tokens * c.in_channels * 4 * d
        return 2 * (patch + c.freq_dim * d + self.text * c.text_dim * d)

    @property
    def inner(self) -> int:
        """All other matrix products."""
        d, c, t, text = self.width, self.config, self.tokens, self.text
        embedders = d * d + 6 * d * d + text * d * d
        block = 4 * t * d * d + 2 * t * d * d + 2 * text * d * d + 2 * t * d * c.ffn_dim
        return 2 * (embedders + c.num_layers * block + t * d * c.out_channels * 4)

    @property
    def attention(self) -> int:
        """Scores and weighted sums of self- and cross-attention."""
        return 4 * self.config.num_layers * self.width * self.tokens * (self.tokens + self.text)

    @property
    def forward(self) -> int:
        return self.first + self.inner + self.attention

    @property
    def backward(self) -> float:
        """Of all weights: one product for the weights and one for the input, five for attention's two."""
        return self.first + 2 * self.inner + 2.5 * self.attention


def on_testbed(folder: Path, *assignments: str, **flags: Any) -> Training:
    """One method on the testbed as it is shipped, with few videos."""
    given = {
        "methods": ["dance_grpo"],
        "seeds": 1,
        "prompts_per_iteration": PROMPTS,
        "evaluation": {"diagnostic_prompts": 0},
        **flags,
    }
    settings = resolve("default", {}, given, [f"all.group_size={GROUP}", *assignments], "test")
    return Training(Session.open(settings), folder, settings.methods[0], 0)


def closed_form(policy: PipelinePolicy) -> ClosedForm:
    channels, frames, height, width = policy.latent_shape
    assert channels == policy.transformer.config.in_channels
    text = policy.encode(["a small red ball moving left"]).embeds.shape[1]
    return ClosedForm(policy.transformer.config, frames * (height // 2) * (width // 2), text)


def entered(training: Training) -> dict[tuple[str, str], float]:
    """What the training's first iteration used, as recorded."""
    training._timed_iteration(0)
    return training.recorder.usages()[0]


def test_flops_are_those_of_the_closed_form(tmp_path: Path) -> None:
    training = on_testbed(tmp_path, weights={"kind": "full"})
    expected = closed_form(training.policy)
    usage = entered(training)
    videos, steps = PROMPTS * GROUP, 8
    rollout = videos * steps * expected.forward / 1e12
    assert usage["rollout", "tflops"] == pytest.approx(rollout, rel=0.02)
    assert usage["rollout", "nfe"] == videos * steps
    trained = videos * int(0.6 * (steps - 1))
    update = trained * (expected.forward + expected.backward) / 1e12
    assert usage["update", "nfe"] == trained
    assert usage["update", "tflops"] == pytest.approx(update, rel=0.02)


def test_the_kl_to_the_base_model_is_counted(tmp_path: Path) -> None:
    """A forward pass of the base model for every trained transition, and no backward one."""
    without = entered(on_testbed(tmp_path / "a", weights={"kind": "full"}))
    kl = "all.distillation={weight: 0.1, strength: 0}"
    training = on_testbed(tmp_path / "b", kl, weights={"kind": "full"})
    usage = entered(training)
    trained = without["update", "nfe"]
    more = usage["update", "tflops"] - without["update", "tflops"]
    assert more == pytest.approx(trained * closed_form(training.policy).forward / 1e12, rel=0.02)
    assert usage["update", "nfe"] == 2 * trained


def test_classifier_free_guidance_doubles_the_evaluations(tmp_path: Path) -> None:
    one = entered(on_testbed(tmp_path / "a"))
    two = entered(on_testbed(tmp_path / "b", guidance_scale=2.0))
    for component in ("rollout", "update"):
        assert two[component, "nfe"] == 2 * one[component, "nfe"]
        assert two[component, "tflops"] == pytest.approx(2 * one[component, "tflops"], rel=0.02)


def test_counts_are_those_of_torch_and_change_no_bit(world: Path) -> None:
    """torch's counter leaves the CPU's attention out; all else is the same, and so are the gradients."""
    policy = world_policy(world)
    policy.transformer.requires_grad_(True)
    noise = policy.initial_noise([torch.Generator().manual_seed(k) for k in range(3)])
    condition = policy.encode(["a ball"] * 3)

    def gradients() -> list[torch.Tensor]:
        loss = policy.velocity(noise, torch.full((3,), 0.5), condition).square().sum()
        trained = list(policy.transformer.parameters())
        return list(torch.autograd.grad(loss, trained, allow_unused=True))

    plain = gradients()
    with FlopCounter() as counter:
        counted = gradients()
    for one, two in zip(plain, counted, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    with FlopCounterMode(display=False) as theirs:
        gradients()
    form = closed_form(policy)
    assert counter.flops == pytest.approx(theirs.get_total_flops() + 3 * 3.5 * form.attention)


def test_sections_count_their_own_part_once() -> None:
    """A product within an inner section belongs to that; the second time nothing is counted, and all is known."""
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    meter = UsageMeter()
    for _ in range(2):
        with meter("rollout", "outer", videos=3):
            a @ b
            with meter("process_reward", "inner", reward_calls=1):
                a @ b
                a @ b
                time.sleep(0.02)
    usage = meter.take()
    product = 2 * 10 * 20 * 30 / 1e12
    assert usage["rollout", "tflops"] == pytest.approx(2 * product)
    assert usage["process_reward", "tflops"] == pytest.approx(4 * product)
    assert (usage["rollout", "videos"], usage["process_reward", "reward_calls"]) == (6, 2)
    assert usage["process_reward", "seconds"] >= 0.04
    assert usage["rollout", "seconds"] < 0.04  # without the inner part
    assert meter.take() == {}


def test_a_section_that_fails_is_not_counted() -> None:
    meter = UsageMeter()
    with pytest.raises(KeyError), meter("rollout", 0, videos=1):
        raise KeyError("broken")
    assert meter.take() == {}
    with meter("rollout", 0, videos=1):
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert meter.take()["rollout", "tflops"] == pytest.approx(16e-12)


PEAK = """
import os
import torch
from benchmarks.ledger import peak_memory_mb, reset_peak_memory
cpu = torch.device("cpu")
reset_peak_memory(cpu)
before = peak_memory_mb(cpu)
held = torch.ones(400_000_000 // 4)
during = peak_memory_mb(cpu)
del held
reset_peak_memory(cpu)
print(before, during, peak_memory_mb(cpu), int(os.access("/proc/self/clear_refs", os.W_OK)))
"""


def test_peak_memory_is_of_the_iteration() -> None:
    """In a process of its own: in this one an allocation may be served from memory that earlier tests freed."""
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, during, after, resets = map(float, told.stdout.split())
    assert during >= before + 300
    assert after <= during
    if resets:
        assert after < during - 300


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_method_enters_every_component(world: Path, tmp_path: Path, name: str) -> None:
    """What a method does is in its ledger, whatever method it is."""
    small = make(world, tmp_path, name)
    training = small.training
    usage = entered(training)
    expected = {"rollout", "update", "decoder", "outcome_rewards", WHOLE}
    if training.method.needs_process_reward:
        expected.add("process_reward")
    assert {component for component, _ in usage} == expected
    for component in expected - {WHOLE}:
        assert usage[component, "tflops"] > 0
        assert usage[component, "seconds"] > 0
    videos = 2 * training.method.group_size
    assert usage["rollout", "videos"] == videos
    scorings = (
        2 if training.method.objective.needs.differentiable else 1
    )  # of rollouts, and where they are trained
    calls = scorings * videos * len(training.session.suite.training)
    assert usage["outcome_rewards", "reward_calls"] == calls
    assert usage["update", "updates"] == training.method.updates_per_rollout
    parts = sum(usage[component, "seconds"] for component in expected - {WHOLE})
    assert parts <= usage[WHOLE, "seconds"]
    assert usage[WHOLE, PEAK_MEMORY] > 10


def test_outcome_guidance_pays_for_what_it_decodes(world: Path, tmp_path: Path) -> None:
    """Two decodings for each direction and guided step, in the decoder's account and not in the rollout's."""
    by_process = ("sampler.guidance.at=x0_hat",)
    plain = entered(make(world, tmp_path / "a", "euphonium_published", *by_process).training)
    directions = 3
    by_outcome = (*by_process, f"outcome_guidance.directions={directions}")
    usage = entered(make(world, tmp_path / "b", "euphonium_published", *by_outcome).training)
    guided = 3  # of the four steps, see `assignments`
    factor = 1 + 2 * directions * guided
    assert usage["decoder", "tflops"] == pytest.approx(factor * plain["decoder", "tflops"])
    assert usage["outcome_rewards", "reward_calls"] == factor * plain["outcome_rewards", "reward_calls"]


def test_guidance_at_the_clean_estimate_pays_for_the_network_s_gradient(world: Path, tmp_path: Path) -> None:
    """At three of the four steps, and only in the blocks: the embedders of time and text have no gradient in x."""
    usages = [
        entered(make(world, tmp_path / at, "euphonium_published", f"sampler.guidance.at={at}").training)
        for at in ("state", "x0_hat")
    ]
    assert usages[0]["rollout", "nfe"] == usages[1]["rollout", "nfe"]
    assert usages[1]["rollout", "tflops"] > 1.2 * usages[0]["rollout", "tflops"]


def test_a_guided_target_pays_for_its_gradient_and_its_base_model(world: Path, tmp_path: Path) -> None:
    """A velocity of the base model and a gradient for each trained pair, in the accounts of those that do the work."""

    def usage(name: str, *settings: str) -> dict[tuple[str, str], float]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return entered(make(world, folder, name, "objective.train_fraction=1.0", *settings).training)

    clean = ("sampler.guidance={strength: 0, at: x0_hat}",)
    plain, target, at_clean = usage("flow_grpo"), usage("euphonium"), usage("euphonium", *clean)
    pairs = 2 * 2 * 3  # prompts, members, trained steps
    assert plain["update", "nfe"] == target["update", "nfe"] == at_clean["update", "nfe"] == 2 * pairs
    assert target["update", "tflops"] == pytest.approx(plain["update", "tflops"])
    for component in ("rollout", "decoder", "outcome_rewards"):
        assert target[component, "tflops"] == pytest.approx(plain[component, "tflops"])
    assert ("process_reward", "tflops") not in plain
    for found in (target, at_clean):
        assert found["process_reward", "reward_calls"] == pairs
    assert at_clean["update", "tflops"] > 1.1 * target["update", "tflops"]  # through the network to the state
    exact, estimated = (
        usage("euphonium", *clean, f"outcome_guidance={source}")
        for source in ("{estimator: autograd}", "{directions: 2}")
    )
    rewards, videos = 2, 4
    assert exact["outcome_rewards", "reward_calls"] == rewards * (videos + pairs)
    assert estimated["outcome_rewards", "reward_calls"] == rewards * (videos + 2 * 2 * pairs + pairs)
    assert (
        exact["update", "tflops"] > estimated["update", "tflops"]
    )  # the way back through decoder and rewards
    assert not {part for found in (exact, estimated) for part, _ in found} & {"process_reward"}


def ledger_rows(result: Result) -> pd.DataFrame:
    return result.rows("ledger")


def test_evaluation_is_counted_apart(whole: Result) -> None:
    rows = ledger_rows(whole)
    evaluation = rows[rows["component"] == EVALUATION]
    assert set(evaluation["method"]) == {"base", "euphonium", "dance_grpo"}
    assert set(evaluation[evaluation["method"] == "base"]["iteration"]) == {0}
    assert set(evaluation[evaluation["method"] == "euphonium"]["iteration"]) == {0, 1, 2}
    trained = evaluation[(evaluation["method"] != "base") & (evaluation["iteration"] > 0)]
    assert (trained.groupby("quantity")["value"].min() > 0).all()
    assert EVALUATION not in CHARGED
    usage = {(EVALUATION, "tflops"): 5.0, ("update", "tflops"): 1.0}
    assert charged(usage, "tflops") == 1.0
    assert not rows.duplicated(["method", "seed", "iteration", "component", "quantity"]).any()


def test_components_are_those_of_the_schema(whole: Result) -> None:
    """Methods name the components that they meter; those that are charged or reported are named once more there."""
    assert set(ledger_rows(whole)["component"]) - {PRM_TRAINING} == {*CHARGED, EVALUATION, WHOLE}


def test_time_of_evaluation_is_not_training_time(whole: Result) -> None:
    rows = ledger_rows(whole)
    seconds = rows[(rows["component"] == WHOLE) & (rows["quantity"] == "seconds")]
    for _, run in whole.runs().iterrows():
        own = seconds[(seconds["method"] == run["method"]) & (seconds["seed"] == run["seed"])]
        assert own["value"].sum() == pytest.approx(run["train_seconds"])


def test_a_resumed_run_goes_on_with_its_ledger(bench: Bench) -> None:
    """Its rows are those of a run in one go, but for what clocks and memory say."""
    changes = {"budget": 4, "checkpoint_every": 2}
    given = ("--methods", "euphonium")
    whole = bench(*given, output="whole", **changes)
    first = bench(*given, budget=2, checkpoint_every=2)
    settings = first.folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("budget: 2.0", "budget: 4.0"))
    status = first.folder / "runs" / "euphonium-seed0" / "status.json"
    status.write_text(status.read_text().replace("finished", "running"))
    resumed = bench.resume()
    assert resumed.code == 0
    tables = []
    for result in (whole, resumed):
        rows = ledger_rows(result)
        rows = rows[rows["component"].isin([*CHARGED, PRM_TRAINING])]
        tables.append(rows[~rows["quantity"].isin(["seconds"])].reset_index(drop=True))
    pd.testing.assert_frame_equal(*tables)


def test_a_checkpoint_without_its_ledger_is_told(bench: Bench) -> None:
    assert bench("--methods", "dance_grpo", budget=2, checkpoint_every=1).code == 0
    folder = bench.folder / "out" / "runs" / "dance_grpo-seed0"
    (folder / "ledger.csv").unlink()
    status = folder / "status.json"
    status.write_text(status.read_text().replace("finished", "running"))
    resumed = bench.resume()
    assert resumed.code == 2
    assert "is of iteration 2, and its ledger knows 0" in resumed.err
    assert len(read_rows(folder, "iterations"))


def test_what_was_paid_before_counts() -> None:
    ledger = Ledger(paid=Cost(tflops=2, nfe=30, videos=4, seconds=5))
    assert [ledger.used(unit) for unit in ("tflops", "nfe", "videos", "seconds")] == [2, 30, 4, 5]
    ledger.add(
        {("rollout", "tflops"): 1, ("rollout", "videos"): 8, (WHOLE, "seconds"): 2, ("update", "nfe"): 3}
    )
    assert [ledger.used(unit) for unit in ("tflops", "nfe", "videos", "seconds")] == [3, 33, 12, 7]
    assert [ledger.each(unit) for unit in ("tflops", "nfe", "videos", "iterations")] == [1, 3, 8, 1]


def test_a_loss_is_charged_its_own_operations(world: Path, tmp_path: Path) -> None:
    """Two objectives on rows of equal shapes: what the first was measured to cost is not the second's."""
    known: dict[tuple[str, Hashable], float] = {}
    usages = {}
    for order in (("flow_grpo", "flow_dppo"), ("flow_dppo", "flow_grpo")):
        known.clear()
        for name in order:
            window = "sampler.window={kind: range, start: 0, stop: 3}"
            training = make(
                world, tmp_path / "-".join((*order, name)), name, window, "distillation=null"
            ).training
            training.meter.known = known
            usages.setdefault(name, []).append(entered(training)["update", "tflops"])
    for first, second in usages.values():
        assert first == second
    updates = [key for component, key in known if component == "update"]
    assert len([key for key in updates if key[0] != "rows"]) == 2  # apart from making the rows


@pytest.mark.parametrize("name", CATALOG)
def test_every_operation_of_an_iteration_is_charged(world: Path, tmp_path: Path, name: str) -> None:
    """Also those between sections: AWM evaluates the policy on all rows before it updates it."""
    training = make(world, tmp_path, name).training
    with FlopCounter() as counter:
        training.learner.update(training.learner.collect(training._draw(0)))
    charged = make(world, tmp_path / "charged", name).training
    charged.learner.update(charged.learner.collect(charged._draw(0), charged.meter), charged.meter)
    usage = charged.meter.take()
    entries = [amount for (_, quantity), amount in usage.items() if quantity == "tflops"]
    assert sum(entries) == pytest.approx(counter.tflops, rel=1e-6)


@pytest.mark.parametrize("name", CATALOG)
def test_every_methods_network_evaluations_are_those_that_it_makes(
    world: Path, tmp_path: Path, name: str
) -> None:
    """Rows of the transformer's inputs, in rollouts and updates, against the ledger."""
    training = make(world, tmp_path, name).training
    rows: list[int] = []
    training.policy.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    experience = training.learner.collect(training._draw(0), training.meter)
    training.learner.update(experience, training.meter)
    usage = training.meter.take()
    assert sum(rows) == usage["rollout", "nfe"] + usage["update", "nfe"]
