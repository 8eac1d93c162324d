"""One (method, seed): the training loop, which exists once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from analysis.schema import BASE, EVALUATION, PRM_TRAINING, WHOLE
from benchmarks import checkpoint
from benchmarks.adapters import WEIGHTS_FOLDER, model_card, write_weights
from benchmarks.budget import Budget
from benchmarks.diagnostics import diagnose
from benchmarks.evaluation import Evaluated, evaluate, evaluation_prompts
from benchmarks.ledger import Ledger, Usage, merged, peak_memory_mb, reset_peak_memory
from benchmarks.records import Recorder, replace_text
from benchmarks.session import Session, paid_before
from benchmarks.settings import RunSettings, SettingsError
from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.refreshing import Refresher
from methods.seeding import generator
from methods.update import Learner

#: Where each score of a benchmark comes from: class, options, model, revision, frames, normalisation.
SCORERS_FILE = "scorers.json"


@dataclass(frozen=True)
class Progress:
    """Progress reported by a run after each iteration.

    Attributes:
        method, seed: which run.
        iteration, total: iterations done, and expected in all.
        share: fraction of the budget used.
        reward: mean of the first training reward over the last rollouts, or the base's headline.
        status: "running" or "finished".
    """

    method: str
    seed: int
    iteration: int
    total: int
    share: float
    reward: float | None = None
    status: str = "running"


Report = Callable[[Progress], None]
#: Called with the iteration after which the policy was evaluated, and whether it was the last.
AfterEvaluation = Callable[[int, bool], None]


def evaluate_base(session: Session, output: Path, report: Report) -> None:
    """Evaluates the untrained model, in the main process; does nothing if that is already done."""
    if not session.accelerator.is_main_process:
        return
    recorder = Recorder(output, BASE, 0)
    if recorder.status.status == "finished":
        return
    recorder.forget_after(-1)
    started = time.perf_counter()
    meter = session.meter()
    policy = session.policy()
    # As trained policies are evaluated: under accelerate's mixed precision.
    policy.denoiser = session.accelerator.prepare_model(policy.denoiser, evaluation_mode=True)
    with meter(EVALUATION, "base model", **evaluation_counts(session.settings, final=True)):
        result = evaluate(policy, session.suite, session.settings, 0, final=True)
    recorder.evaluation(0, result.rows)
    recorder.usage(0, meter.take())
    recorder.samples(result.videos, result.prompts)
    replace_text(output / SCORERS_FILE, json.dumps(session.suite.provenance(), indent=2, default=str) + "\n")
    recorder.status.status = "finished"
    recorder.status.evaluation_seconds = time.perf_counter() - started
    recorder.save_status()
    headline = result.mean("held_out", session.suite.suite.headline)
    report(Progress(BASE, 0, 1, 1, 1.0, headline, status="finished"))


def evaluation_counts(settings: RunSettings, final: bool) -> dict[str, float]:
    """Videos and network evaluations of one evaluation."""
    videos = len(evaluation_prompts(settings)) * settings.evaluation.samples(final)
    branches = 2 if settings.scales.guided else 1
    return {"videos": videos, "nfe": videos * settings.evaluation.num_steps * branches}


class Training:
    """One (method, seed) being trained.

    Args:
        session: parts shared between runs.
        output: the benchmark's folder.
        method: a name in the settings.
        seed: training seed.
    """

    def __init__(self, session: Session, output: Path, method: str, seed: int) -> None:
        self.session, self.settings, self.seed = session, session.settings, seed
        self.method: Method = session.settings.method_settings[method]
        self.recorder = Recorder(output, method, seed)
        self.budget = Budget.of(session.settings)
        self.policy = session.policy()
        self.process_reward = (
            session.process_reward(self.policy, self.method) if self.method.needs_process_reward else None
        )
        self.learner = self._learner()
        self.refresher = self._refresher()
        self.meter = session.meter()
        self.ledger = Ledger(paid=paid_before(session.settings, self.process_reward))
        self._apart: Usage = {}  # evaluation within the iteration that is under way
        self._headline: float | None = None  # at the end, for the model card
        self._identity = {"method": method, "seed": seed}
        self._checkpoint = self.recorder.folder / "checkpoint"

    def _learner(self) -> Learner:
        suite, settings = self.session.suite, self.settings
        return Learner.of(
            self.policy,
            self.method,
            Rewards(suite.training, suite.suite.training, self.process_reward, self.policy.decode),
            self.session.accelerator,
            self.seed,
            settings.weights,
            reference=settings.evaluation.diagnostic_prompts > 0,
            micro_batch=settings.micro_batch,
            rollout_batch=settings.rollout_batch,
            store="cpu" if settings.execution.trajectories == "cpu" else None,
        )

    def _refresher(self) -> Refresher | None:
        """Continues training the process reward, if the method does so.

        Raises:
            SettingsError: there are several processes, each of which would train its own.
        """
        settings = self.method.process_refresh
        if settings is None:
            return None
        if self.session.accelerator.num_processes > 1:
            raise SettingsError(
                f"{self.method.name}: process_refresh runs in one process; there are "
                f"{self.session.accelerator.num_processes}"
            )
        assert self.process_reward is not None  # a method that refreshes one needs one
        weights = self.session.suite.suite.training
        return Refresher(self.process_reward, settings, weights, self.method.sampler.shift)

    def run(self, report: Report, after_evaluation: AfterEvaluation | None = None) -> None:
        """Trains until the budget is used up, from the last checkpoint if there is one.

        Args:
            report: called after each iteration, and at the end.
            after_evaluation: called once an evaluation is recorded and its iteration's checkpoint, if due, is written.
                An exception ends the run there.

        Raises:
            SettingsError: the budget does not pay for one iteration.
        """
        done = checkpoint.load(self._checkpoint, self.learner, self._identity, self.refresher)
        self._begin(done)
        while self.budget.has_room(self.ledger):
            metrics = self._timed_iteration(self.ledger.iterations)
            last = not self.budget.has_room(self.ledger)
            evaluated = self._evaluate_and_save(self.ledger.iterations, last)
            if evaluated and after_evaluation is not None:
                after_evaluation(self.ledger.iterations, last)
            first = next(iter(self.session.suite.training))
            report(self._progress(metrics[f"reward/{first}"]))
        self.budget.require(self.ledger, self.method.name)
        self.recorder.status.status = "finished"
        if self._main:
            self._write_weights()
            self.recorder.save_status()
        report(self._progress(status="finished"))

    @property
    def _main(self) -> bool:
        return self.session.accelerator.is_main_process

    def _progress(self, reward: float | None = None, status: str = "running") -> Progress:
        done, total = self.ledger.iterations, self.budget.expected_iterations(self.ledger)
        share = self.budget.share(self.ledger)
        return Progress(self.method.name, self.seed, done, total, share, reward, status)

    def _begin(self, done: int) -> None:
        """Brings records and ledger to the checkpoint's state; runs diagnostics before the first iteration."""
        status = self.recorder.status
        status.status, status.iterations, status.error = "running", done, ""
        if self._main:
            self.recorder.forget_after(done if done else -1)
            status.train_seconds = self.recorder.train_seconds()
            self.recorder.save_status()
        for entered in broadcast_object_list([self.recorder.usages() if self._main else None])[0]:
            self.ledger.add(entered)
        if self.ledger.iterations != done:
            raise checkpoint.CheckpointError(
                f"the checkpoint of {self.recorder.folder} is of iteration {done}, and its ledger knows "
                f"{self.ledger.iterations}: records are missing, or an earlier version wrote them; delete the "
                "checkpoint to train this run from the beginning"
            )
        if done == 0 and self._main:
            usage = self._diagnose(0)
            if self.process_reward is not None and self.process_reward.cost is not None:
                cost = self.process_reward.cost.model_dump()
                usage |= {(PRM_TRAINING, quantity): amount for quantity, amount in cost.items()}
            self.recorder.usage(0, usage)

    def _timed_iteration(self, iteration: int) -> dict[str, float]:
        """One iteration, entered in ledger and records."""
        device = self.session.accelerator.device
        reset_peak_memory(device)
        started = time.perf_counter()
        metrics = self._iterate(iteration)
        usage = self.meter.take()
        self._apart = {place: usage.pop(place) for place in list(usage) if place[0] == EVALUATION}
        apart = self._apart.get((EVALUATION, "seconds"), 0.0)
        usage[WHOLE, "seconds"] = time.perf_counter() - started - apart
        usage[WHOLE, "peak_memory_mb"] = peak_memory_mb(device)
        usage = self._over_processes(usage)
        self.ledger.add(usage)
        self.budget.require(self.ledger, self.method.name)
        status = self.recorder.status
        status.train_seconds += usage[WHOLE, "seconds"]
        status.iterations = iteration + 1
        if self._main:
            self.recorder.iteration(iteration + 1, {**metrics, "seconds": status.train_seconds})
            self.recorder.usage(iteration + 1, usage)
        return metrics

    def _over_processes(self, usage: Usage) -> Usage:
        """Usage summed over processes; seconds and memory are averages per process."""
        accelerator = self.session.accelerator
        values = torch.tensor(list(usage.values()), dtype=torch.float64, device=accelerator.device)
        total = dict(zip(usage, accelerator.reduce(values, reduction="sum").tolist(), strict=True))
        per_process = ("seconds", "peak_memory_mb", "updates")
        return {
            place: amount / accelerator.num_processes if place[1] in per_process else amount
            for place, amount in total.items()
        }

    def _iterate(self, iteration: int) -> dict[str, float]:
        """One batch of rollouts and its update; returns the metrics, averaged over processes."""
        experience = self.learner.collect(self._draw(iteration), self.meter)
        metrics = _reward_figures(experience)
        if self.settings.evaluation.diagnosed(iteration + 1):
            metrics |= self._gradient_shares(experience, iteration)
        metrics |= self.learner.update(experience, self.meter)
        if self.refresher is not None:
            choice = generator(self.seed, "refresh", iteration)
            metrics |= self.refresher.refresh(experience, choice, self.meter)
        values = torch.tensor(
            list(metrics.values()), dtype=torch.float64, device=self.session.accelerator.device
        )
        averaged = self.session.accelerator.reduce(values, reduction="mean")
        return dict(zip(metrics, averaged.tolist(), strict=True))

    @property
    def _diagnoses(self) -> bool:
        return self.settings.evaluation.diagnostic_prompts > 0

    def _gradient_shares(self, experience: Experience, iteration: int) -> dict[str, float]:
        """Gradient shares of the parts of the loss, if there are several; counted as evaluation, not charged."""
        choice = generator(self.seed, "gradient shares", iteration)
        with self.meter(EVALUATION, f"gradient shares of {self.method.name}"):
            shares = self.learner.gradient_shares(experience, choice)
        if len(shares) < 2:
            return {}
        return {f"diagnostic/gradient_share/{name}": share for name, share in shares.items()}

    def _draw(self, iteration: int) -> Draw:
        """This process's share of the iteration's prompts."""
        train, accelerator = self.settings.prompts.train, self.session.accelerator
        order = torch.randperm(len(train), generator=generator(self.seed, "prompts", iteration)).tolist()
        chosen = [train[i] for i in order[: self.settings.prompts_per_iteration]]
        share = share_of(len(chosen), accelerator.num_processes)
        first = share * accelerator.process_index
        return Draw(self.seed, iteration, chosen[first : first + share], first)

    def _evaluate_and_save(self, done: int, last: bool) -> bool:
        """Evaluates and checkpoints if due, in the main process while others wait; returns whether it evaluated."""
        due = last or self.settings.evaluation.due(done)
        if self._main and due:
            started = time.perf_counter()
            counts = evaluation_counts(self.settings, last)
            with self.meter(EVALUATION, ("policy", counts["videos"]), **counts), self.learner.evaluated():
                result = evaluate(self.policy, self.session.suite, self.settings, done, last)
            self._record(result, done, last)
            diagnosed = last or self.settings.evaluation.diagnosed(done)
            self.recorder.usage(done, self._diagnose(done) if diagnosed else self._evaluation_usage())
            self.recorder.status.evaluation_seconds += time.perf_counter() - started
        if self._main and (last or done % self.settings.checkpoint_every == 0):
            checkpoint.save(self._checkpoint, self.learner, self._identity, done, self.refresher)
            self.recorder.save_status()
        self.session.accelerator.wait_for_everyone()
        return due

    def _diagnose(self, done: int) -> Usage:
        """Records diagnostics of the current policy; returns the usage of the whole evaluation."""
        if self._diagnoses:
            name = f"diagnostics of {self.method.name}"
            with self.meter(EVALUATION, name), self.learner.evaluated():
                figures = diagnose(self.learner, self.session.suite, self.settings, self.process_reward)
            self.recorder.iteration(done, figures)
        return self._evaluation_usage()

    def _evaluation_usage(self) -> Usage:
        """Usage of evaluation since the last call."""
        usage, self._apart = merged(self._apart, self.meter.take()), {}
        return usage

    def _write_weights(self) -> None:
        """Writes what was trained, in diffusers' format."""
        suite, choice = self.session.suite.suite, self.settings
        card = model_card(choice, suite, self.policy, self.method.name, self.seed, self._headline)
        with self.learner.evaluated():
            write_weights(self.recorder.folder / WEIGHTS_FOLDER, self.learner.weights, card)

    def _record(self, result: Evaluated, iteration: int, last: bool) -> None:
        self.recorder.evaluation(iteration, result.rows)
        if last:
            self.recorder.samples(result.videos, result.prompts)
            self._headline = result.mean("held_out", self.session.suite.suite.headline)


def share_of(prompts: int, processes: int) -> int:
    """Number of prompts per process.

    Raises:
        SettingsError: they do not divide evenly.
    """
    if prompts % processes:
        raise SettingsError(
            f"prompts_per_iteration is {prompts}; give a multiple of the {processes} processes"
        )
    return prompts // processes


def _reward_figures(experience: Experience) -> dict[str, float]:
    figures = {f"reward/{name}": values.mean().item() for name, values in experience.rewards.items()}
    process = experience.trajectory.process_rewards
    if process is not None:
        figures["reward/process"] = process[-1].mean().item()
    return figures
