"""A method's plan: memory by phase, operations by phase, and what the budget pays for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from analysis.schema import CHARGED
from benchmarks.planning.gpus import Gpu
from benchmarks.planning.measuring import CallCost, Measurements
from benchmarks.planning.rehearsal import Call, Rehearsal, rehearse
from benchmarks.settings import RunSettings, SettingsError
from benchmarks.task import share_of
from methods.method import Method
from methods.weights import AVERAGE
from rewards.suites import suite_named

#: The ledger's components by the phases of a plan; work outside of all components belongs to the update.
PHASES = {
    "rollout": "rollout",
    "process_reward": "guidance",
    "decoder": "decode",
    "outcome_rewards": "rewards",
    "update": "update",
    None: "update",
}
#: Adam's two moments.
_MOMENTS = 2


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        held: what stays for the whole training, by name.
        phases: phase -> bytes beyond that, at its peak.
        host: bytes of trajectories kept in the computer's own memory.
    """

    held: Mapping[str, float]
    phases: Mapping[str, float]
    host: float = 0.0

    @property
    def at(self) -> dict[str, float]:
        """Phase -> all bytes at its peak."""
        return {name: self._base(name) + more for name, more in self.phases.items()}

    def _base(self, phase: str) -> float:
        # Prompts are encoded before the rest is moved to the GPU.
        return 0.0 if phase == "prompts" else sum(self.held.values())

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(self.at, key=lambda phase: self.at[phase])

    @property
    def peak(self) -> float:
        """The most at any time."""
        return self.at[self.peak_phase]


@dataclass(frozen=True)
class MethodPlan:
    """What one iteration of a method needs, and how many iterations a budget pays for.

    Attributes:
        method: its name.
        memory: of one GPU.
        work: phase -> operations by dtype, of all GPUs together.
        ledger: (component, unit) -> amount, as the ledger of an iteration will have it, without outcome rewards.
        scored: videos that outcome rewards score in an iteration; their operations are not known.
        differentiated: whether outcome rewards are differentiated.
        pairs: trained rows of one GPU.
    """

    method: str
    memory: Memory
    work: Mapping[str, Mapping[torch.dtype, float]]
    ledger: Mapping[tuple[str, str], float]
    scored: int
    differentiated: bool
    pairs: int

    def used(self, unit: str) -> float:
        """One iteration's cost in the unit of a budget; seconds are not planned here."""
        if unit == "iterations":
            return 1.0
        return sum(self.ledger.get((component, unit), 0.0) for component in CHARGED)

    def tflops(self, phase: str) -> float:
        """Operations of a phase in 10^12."""
        return sum(self.work.get(phase, {}).values()) / 1e12

    def seconds(self, gpu: Gpu, gpus: int, utilisation: float) -> float:
        """Time of one iteration, without outcome rewards."""
        return sum(gpu.seconds(operations, utilisation) for operations in self.work.values()) / gpus


@dataclass(frozen=True)
class Planner:
    """Makes plans of a run's methods.

    Attributes:
        settings: the run.
        costs: of its models.
        gpus: processes, which split the prompts of an iteration.
    """

    settings: RunSettings
    costs: Measurements
    gpus: int = 1

    def plan(self, method: Method) -> MethodPlan:
        """One method's plan.

        Raises:
            SettingsError: the prompts of an iteration cannot be split among the GPUs.
        """
        rehearsal = self.rehearsal(method)
        memory = self.memory(method, rehearsal)  # before the work, which reads its measurements
        work, ledger = self._work(rehearsal)
        differentiated = any(call.what == "reward" and call.through for call in rehearsal.notes.calls)
        scored = sum(call.rows for call in rehearsal.notes.calls if call.what == "decoder")
        return MethodPlan(
            method.name,
            memory,
            work,
            ledger,
            scored * self.gpus,
            differentiated,
            rehearsal.pairs,
        )

    def rehearsal(self, method: Method) -> Rehearsal:
        """The calls of one process in one iteration."""
        settings = self.settings
        prompts = share_of(settings.prompts_per_iteration, self.gpus)
        outcomes = dict(suite_named(settings.suite).training)
        return rehearse(method, prompts, settings.scales.guided, settings.rollout_batch, outcomes)

    def _work(
        self, rehearsal: Rehearsal
    ) -> tuple[dict[str, dict[torch.dtype, float]], dict[tuple[str, str], float]]:
        """Operations by phase, and amounts as the ledger has them, of all processes."""
        work: dict[str, dict[torch.dtype, float]] = defaultdict(lambda: defaultdict(float))
        ledger = {place: amount * self.gpus for place, amount in rehearsal.notes.counts.items()}
        for call in rehearsal.notes.calls:
            for section, cost in self._costs(call):
                for dtype, amount in cost.operations.items():
                    work[PHASES[section]][dtype] += amount * call.rows * self.gpus
                if section is not None:
                    place = section, "tflops"
                    ledger[place] = ledger.get(place, 0.0) + cost.tflops * call.rows * self.gpus
        return {phase: dict(operations) for phase, operations in work.items()}, ledger

    def _costs(self, call: Call) -> list[tuple[str | None, CallCost]]:
        """The cost of a call for each row, and of its backward pass, with the sections that they ran in."""
        if call.what == "reward":
            return []
        forward = self._of(call, frozenset())
        found = [(call.section, forward)]
        if call.through:
            whole = self._of(call, frozenset(call.through))
            found.append((call.backward, whole.plus(forward, -1.0)))
        return found

    def _of(self, call: Call, through: frozenset[str]) -> CallCost:
        if call.what == "network":
            branches = 2 if self.settings.scales.guided else 1
            return CallCost().plus(self.costs.network_row(call.adapters, through), 1 / branches)
        if call.what == "process":
            return self.costs.guidance_row(bool(through))
        return self.costs.decode(1, bool(through))

    def memory(self, method: Method, rehearsal: Rehearsal) -> Memory:
        """The memory of one GPU."""
        sizes, execution = self.costs.sizes, self.settings.execution
        held = self._held(method)
        stored = rehearsal.stored * sizes.latent
        branches = 2 if self.settings.scales.guided else 1
        texts = rehearsal.pairs * sizes.text * branches
        rows = rehearsal.gathered * sizes.latent
        kept, gathered, host = stored + rehearsal.videos * sizes.text, rows + texts, 0.0
        if execution.trajectories == "cpu":  # encoded prompts stay on the GPU
            kept, gathered, host = kept - stored, texts, stored + rows
        batch = rehearsal.batch * sizes.text * branches
        phases = {"prompts": sizes.text_encoders}
        phases["rollout"] = kept + batch + self._sampling(rehearsal).peak
        guided = self._guiding(rehearsal)
        if guided:
            phases["guidance"] = kept + gathered + guided
        decoder = sizes.decoder if execution.offload_decoder else 0.0
        phases["decode"] = kept + decoder + self.costs.decode(rehearsal.batch).peak
        phases["update"] = kept + gathered + self._training(rehearsal)
        return Memory(held, phases, host)

    def _held(self, method: Method) -> dict[str, float]:
        """Bytes that stay on a GPU for the whole training."""
        sizes, settings = self.costs.sizes, self.settings
        copies = len(method.objective.needs.copies | ({AVERAGE} if method.average else set()))
        lora = settings.weights.kind == "lora"
        held = {"networks": sizes.network}
        if not settings.execution.offload_decoder:
            held["decoder"] = sizes.decoder
        if method.needs_process_reward:
            held["process reward"] = self.costs.process_bytes
        trained = sizes.trained_bytes
        held["adapters" if lora else "gradients"] = trained * (2 if lora else 1)
        held["optimiser"] = _MOMENTS * trained
        needs_base = method.needs_base or method.objective.needs.base
        if not lora and (needs_base or settings.evaluation.diagnostic_prompts > 0):
            held["base model"] = sizes.network
        if copies:
            held["copies of the weights"] = copies * trained
        if self.gpus > 1:
            held["gradient buckets"] = trained  # of DistributedDataParallel
        return held

    def _rows(self, rows: int) -> int:
        """Latents of a batch that was noted with two evaluations each."""
        return rows // 2 if self.settings.scales.guided else rows

    def _sampling(self, rehearsal: Rehearsal) -> CallCost:
        rows = self._rows(rehearsal.rows("network", "rollout", graph=False))
        return self.costs.network(rows) if rows else CallCost()

    def _guiding(self, rehearsal: Rehearsal) -> float:
        """Bytes of the largest process reward, and of a gradient through the network at clean estimates."""
        rollouts, sections = rehearsal.batch, ("process_reward",)
        values = rehearsal.rows("process", *sections, graph=False)
        gradients = rehearsal.rows("process", *sections, graph=True)
        most = max(gradients if gradients <= rollouts else 0, 0)
        if gradients > rollouts:  # for the targets of an update, in micro-batches
            most = min(self.settings.micro_batch, gradients)
        peak = self.costs.guidance(values, False).peak if values else 0.0
        peak = max(peak, self.costs.guidance(most, True).peak if most else 0.0)
        network = self._rows(rehearsal.rows("network", "rollout", graph=True))
        through = frozenset({"x"})
        return max(peak, self.costs.network(network, True, through).peak if network else 0.0)

    def _training(self, rehearsal: Rehearsal) -> float:
        """Bytes of a forward and backward pass in training, and of what an objective evaluates of all rows."""
        calls = [call for call in rehearsal.notes.calls if call.section == "update" or call.backward]
        graphs = [call for call in calls if call.what == "network" and "weights" in call.through]
        rows = self._rows(sum(call.rows for call in graphs))
        live = math.ceil(rows / rehearsal.pairs * min(self.settings.micro_batch, self._most(rehearsal)))
        through = frozenset({"weights"})
        peak = self.costs.network(live, True, through).peak
        if any(call.what == "decoder" and call.through for call in calls):
            peak += self.costs.decode(min(self.settings.micro_batch, rehearsal.pairs), True).peak
        whole = min(self._rows(rehearsal.rows("network", None)), self.settings.micro_batch)
        return max(peak, self.costs.network(whole).peak if whole else 0.0)

    @staticmethod
    def _most(rehearsal: Rehearsal) -> int:
        """The rows of one optimiser step."""
        updates = rehearsal.notes.counts.get(("update", "updates"), 1.0)
        return math.ceil(rehearsal.pairs / max(1.0, updates))


@dataclass(frozen=True)
class RunPlan:
    """The plans of all methods of a run on some GPUs.

    Attributes:
        settings: the run.
        gpu: the kind of GPU.
        gpus: how many, for each method and seed.
        utilisation: share of the GPU's peak speed that the models reach.
        methods: the methods' plans.
        parameters: of the denoising network.
        process_blocks: blocks of the process reward.
    """

    settings: RunSettings
    gpu: Gpu
    gpus: int
    utilisation: float
    methods: tuple[MethodPlan, ...]
    parameters: float
    trained: float
    process_blocks: int

    def seconds(self, plan: MethodPlan) -> float:
        """Time of one iteration."""
        return plan.seconds(self.gpu, self.gpus, self.utilisation)

    def used(self, plan: MethodPlan) -> float:
        """One iteration's cost in the budget's unit."""
        unit = self.settings.budget_unit
        return self.seconds(plan) if unit == "seconds" else plan.used(unit)

    def iterations(self, plan: MethodPlan) -> int:
        """The iterations that the budget pays for."""
        return math.floor(self.settings.budget / self.used(plan) * (1 + 1e-9))

    def hours(self, plan: MethodPlan) -> float:
        """Time of a whole run of one seed, without evaluation and outcome rewards."""
        return self.iterations(plan) * self.seconds(plan) / 3600

    def require_budget(self) -> None:
        """Checks that the budget pays for one iteration of every method.

        Raises:
            SettingsError: it does not; names what one iteration needs.
        """
        unit = self.settings.budget_unit
        short = {plan.method: self.used(plan) for plan in self.methods if self.iterations(plan) < 1}
        if short:
            each = ", ".join(f"{name} {used:.4g}" for name, used in short.items())
            raise SettingsError(
                f"budget is {self.settings.budget:g} {unit}, which does not pay for one iteration ({each} {unit}): "
                f"give at least {math.ceil(max(short.values())):g}"
            )


def plan_run(settings: RunSettings, costs: Measurements, gpu: Gpu, gpus: int, utilisation: float) -> RunPlan:
    """The plans of all methods of a run."""
    planner = Planner(settings, costs, gpus)
    methods = tuple(planner.plan(settings.method_settings[name]) for name in settings.methods)
    sizes = costs.sizes
    return RunPlan(
        settings, gpu, gpus, utilisation, methods, sizes.parameters, sizes.trained, costs.process_blocks
    )
