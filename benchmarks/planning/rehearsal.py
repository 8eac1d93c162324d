"""A rehearsal: one iteration of the real training code on a stand-in model that only notes how it is called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from methods.batches import Pairs
from methods.experience import Draw, Experience
from methods.guiding import Rewards
from methods.method import Method
from methods.networks import Networks
from methods.terms import reward_terms
from methods.update import Learner
from methods.weights import AVERAGE
from rewards.base import Encoded, OutcomeReward, ProcessReward
from samplers.condition import Condition

#: The stand-in's latents.
_LATENT = (1, 2, 2, 2)
#: One batch for all rows.
_ALL_ROWS = 10**9


@dataclass
class Call:
    """One call of a model.

    Attributes:
        what: "network", "process", "decoder", or "reward".
        rows: the batch.
        section: the ledger's component; None outside of all.
        adapters: whether it is the base model with trained weights on top.
        graph: whether a backward pass may follow.
        through: what the backward passes computed gradients of: "x", "weights".
        backward: the section they ran in.
    """

    what: str
    rows: int
    section: str | None
    adapters: bool
    graph: bool
    through: set[str] = field(default_factory=set)
    backward: str | None = None


class _Mark(torch.autograd.Function):
    """The identity, which notes that a backward pass came through."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, note: Callable[[], None]) -> Tensor:
        ctx.note = note
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.note()
        return gradients[0], None


@dataclass
class Notes:
    """The calls of one iteration, and what the ledger counts besides operations.

    Attributes:
        calls: in order.
        counts: (component, quantity) -> amount.
        network: the weights in use: "policy", "base" or a copy's name.
    """

    calls: list[Call] = field(default_factory=list)
    counts: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    network: str = "policy"
    _open: list[str] = field(default_factory=list)

    @property
    def section(self) -> str | None:
        """The innermost open section."""
        return self._open[-1] if self._open else None

    @contextmanager
    def meter(self, component: str, key: Hashable, **counts: float) -> Iterator[None]:  # noqa: ARG002
        """A `methods.metering.Meter`."""
        for quantity, amount in counts.items():
            self.counts[component, quantity] += amount
        self._open.append(component)
        try:
            yield
        finally:
            self._open.pop()

    def call(self, what: str, rows: int, trained: bool) -> Call:
        """Notes a call; `trained` says whether its input or its weights require a gradient."""
        graph = trained and torch.is_grad_enabled()
        made = Call(what, rows, self.section, self.network != "base", graph)
        self.calls.append(made)
        return made

    def marked(self, call: Call, through: str, tensor: Tensor) -> Tensor:
        """The tensor; a backward pass through it is noted with the call."""

        def note() -> None:
            call.through.add(through)
            call.backward = self.section

        return _Mark.apply(tensor, note) if call.graph else tensor


class _Policy:
    """Stands for a `PipelinePolicy`: latents of a few numbers, and a network of one weight."""

    device = torch.device("cpu")

    def __init__(self, notes: Notes, guided: bool) -> None:
        self.notes, self._guided = notes, guided
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.denoiser = torch.nn.Module()

    def velocity(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        del sigma
        trained = x.requires_grad or self.notes.network == "policy"
        call = self.notes.call("network", len(x) * condition.branches, trained)
        own = self.notes.marked(call, "weights", self.weight) if call.adapters else self.weight.detach()
        return self.notes.marked(call, "x", 0.5 * x) + own

    def encode(self, prompts: Sequence[str]) -> Condition:
        text = {"embeds": torch.zeros(len(prompts), 1, 1)}
        return Condition(tuple(prompts), text, text if self._guided else None)

    def initial_noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(_LATENT, generator=one) for one in generators])

    def decode(self, latents: Tensor) -> Tensor:
        call = self.notes.call("decoder", len(latents), latents.requires_grad)
        frames = self.notes.marked(call, "x", latents.mean(dim=(1, 2)))
        return frames.view(len(latents), 1, 1, 2, 2).expand(-1, -1, 3, -1, -1)


class _Weights:
    """Stands for `TrainedWeights`."""

    def __init__(self, policy: _Policy, copies: frozenset[str]) -> None:
        self._notes, self.parameters = policy.notes, [policy.weight]
        self.copies = {name: [torch.zeros(())] for name in copies}

    @contextmanager
    def using(self, network: str) -> Iterator[None]:
        before, self._notes.network = self._notes.network, network
        try:
            yield
        finally:
            self._notes.network = before

    def reference(self) -> AbstractContextManager[None]:
        return self.using("base")


class _Alone:
    """Stands for an `Accelerator` of one process."""

    num_processes, process_index = 1, 0
    device = torch.device("cpu")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clip_grad_norm_(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)


class _Learner(Learner):
    """Keeps the rows that it trains on."""

    pairs: Pairs

    def _batch(self, experience: Experience, at: Networks) -> Pairs:
        self.pairs = super()._batch(experience, at)
        return self.pairs


@dataclass(frozen=True)
class Rehearsal:
    """What one iteration of a process does.

    Attributes:
        notes: the calls.
        videos: rollouts.
        pairs: trained rows.
        stored: latents kept of the rollouts.
        gathered: latents gathered for the trained rows.
        batch: rollouts at a time.
    """

    notes: Notes
    videos: int
    pairs: int
    stored: int
    gathered: int
    batch: int

    def rows(self, what: str, *sections: str | None, graph: bool | None = None) -> int:
        """The largest batch of such calls; 0 if there are none."""
        rows = (
            call.rows
            for call in self.notes.calls
            if call.what == what and call.section in sections and graph in (None, call.graph)
        )
        return max(rows, default=0)


def rehearse(
    method: Method, prompts: int, guided: bool, rollout_batch: int | None, outcomes: dict[str, float]
) -> Rehearsal:
    """One iteration of a method, with all its rows trained in one batch.

    Args:
        method: its settings.
        prompts: of one process in an iteration.
        guided: whether velocities take two evaluations.
        rollout_batch: rollouts drawn at a time; None for all.
        outcomes: the suite's training rewards with their weights.
    """
    notes = Notes()
    policy, accelerator = _Policy(notes, guided), _Alone()
    wanted = method.objective.needs.copies | ({AVERAGE} if method.average else frozenset())
    weights = _Weights(policy, frozenset(wanted))
    optimiser = torch.optim.SGD(weights.parameters, lr=0.0)
    rewards = Rewards({name: _reward(notes) for name in outcomes}, outcomes, _process(notes), policy.decode)
    terms = reward_terms(method, outcomes)
    parts = policy, policy.denoiser, weights, method, terms, rewards, optimiser, accelerator
    make: Any = _Learner  # from parts that only behave like its own
    learner: _Learner = make(*parts, seed=0, micro_batch=_ALL_ROWS, rollout_batch=rollout_batch)
    experience = learner.collect(Draw(0, 0, [f"prompt {row}" for row in range(prompts)]), notes.meter)
    learner.update(experience, notes.meter)
    trajectory, videos = experience.trajectory, len(experience.steps)
    guiding = len(trajectory.reward_gradients)
    velocities = 0 if experience.velocities is None else len(experience.velocities)
    return Rehearsal(
        notes,
        videos,
        len(learner.pairs),
        videos * (len(trajectory.kept) + guiding + velocities),
        _latents(learner.pairs),
        videos if rollout_batch is None else min(rollout_batch, videos),
    )


def _reward(notes: Notes) -> OutcomeReward:
    def reward(videos: Tensor, prompts: Sequence[str]) -> Tensor:
        call = notes.call("reward", len(prompts), videos.requires_grad)
        return notes.marked(call, "x", videos.flatten(1).mean(dim=1))

    return reward


def _process(notes: Notes) -> ProcessReward:
    def process(x: Tensor, sigma: Tensor, condition: Encoded) -> Tensor:  # noqa: ARG001
        return notes.marked(notes.call("process", len(x), x.requires_grad), "x", x.flatten(1).mean(dim=1))

    return process


def _latents(pairs: Pairs) -> int:
    """The number of latents that some rows hold."""
    held = [getattr(pairs, entry.name) for entry in fields(pairs)]
    return sum(len(value) for value in held if isinstance(value, Tensor) and value.ndim == 1 + len(_LATENT))
