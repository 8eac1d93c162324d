"""The result of a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

Keep = Literal["all", "stochastic", "final"] | Sequence[int]
Credit = Literal["state", "next_state", "difference"]


@dataclass(frozen=True)
class Trajectory:
    """A batch of rollouts of N steps.

    Attributes:
        states: kept states, shape (K, B, ...), in the storage dtype; K = N + 1 when all are kept.
        kept: which state each row of ``states`` is, K indices in 0..N, ascending.
        log_probs: shape (N, B), under the mean chosen by ``score_mean``; NaN at deterministic steps,
            which have no density. ``stochastic`` is the mask.
        stochastic: bool, shape (N,), on the CPU: the steps with noise.
        sigmas: float64, shape (N + 1,), on the CPU.
        process_rewards: shape (N + 1, B), the reward at every state including the last (at x0_hat of that state
            if guidance is set so), or None if states were not scored.
        reward_gradients: guided step -> gradient (B, ...) as it was used, normalised and clipped:
            ``sampler.transition(x, v, step, reward_gradients[step])`` is the step that was taken.
    """

    states: torch.Tensor
    kept: tuple[int, ...]
    log_probs: torch.Tensor
    stochastic: torch.Tensor
    sigmas: torch.Tensor
    process_rewards: torch.Tensor | None
    reward_gradients: dict[int, torch.Tensor]

    @property
    def num_steps(self) -> int:
        """Number of steps N."""
        return len(self.sigmas) - 1

    @property
    def final(self) -> torch.Tensor:
        """The last state, shape (B, ...)."""
        return self.state(self.num_steps)

    def state(self, index: int) -> torch.Tensor:
        """State x_index, shape (B, ...); index 0 is the initial noise, N the sample.

        Raises:
            KeyError: if the rollout did not keep it.
        """
        if index not in self.kept:
            raise KeyError(
                f"state {index} was not kept (kept: {self.kept}): roll out with keep='all' or name it"
            )
        return self.states[self.kept.index(index)]

    def process_credit(self, kind: Credit) -> torch.Tensor:
        """Process reward credited to each step, shape (N, B).

        Args:
            kind: ``state`` reads step i at x_i (the published code), ``next_state`` at x_{i+1},
                ``difference`` is the gain from x_i to x_{i+1}.
        """
        rewards = self.process_rewards
        if rewards is None:
            raise ValueError(
                "this trajectory has no process rewards: roll out with reward=... and score_states=True"
            )
        match kind:
            case "state":
                return rewards[:-1]
            case "next_state":
                return rewards[1:]
            case "difference":
                return rewards[1:] - rewards[:-1]
        raise ValueError(f"process credit {kind!r}: choose 'state', 'next_state' or 'difference'")


def states_to_keep(keep: Keep, stochastic: Sequence[bool]) -> tuple[int, ...]:
    """Indices of the states to store: the last one and those requested by ``keep``, ascending.

    Args:
        keep: ``all``; ``stochastic``, both ends of every step with noise, which is all that re-scoring needs;
            ``final``; or explicit state indices in 0..N.
        stochastic: which of the N steps have noise.
    """
    num_steps = len(stochastic)
    if keep == "all":
        return tuple(range(num_steps + 1))
    wanted = {num_steps}
    if keep == "stochastic":
        wanted.update(end for i, noisy in enumerate(stochastic) if noisy for end in (i, i + 1))
    elif not isinstance(keep, str):
        wanted.update(keep)
    elif keep != "final":
        raise ValueError(f"keep = {keep!r}: choose 'all', 'stochastic', 'final' or a list of state indices")
    outside = sorted(index for index in wanted if not 0 <= index <= num_steps)
    if outside:
        raise ValueError(f"keep asks for state {outside[0]}: states are 0..{num_steps}")
    return tuple(sorted(wanted))


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """Rollouts of one sampler, drawn in parts, as one batch.

    Args:
        parts: all with the same kept states, and either all or none with process rewards.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    values = [part.process_rewards for part in parts if part.process_rewards is not None]
    return replace(
        first,
        states=torch.cat([part.states for part in parts], dim=1),
        log_probs=torch.cat([part.log_probs for part in parts], dim=1),
        process_rewards=torch.cat(values, dim=1) if values else None,
        reward_gradients={
            step: torch.cat([part.reward_gradients[step] for part in parts])
            for step in first.reward_gradients
        },
    )


class TrajectoryBuilder:
    """Collects a rollout step by step and keeps only what was requested.

    Args:
        kept: the states to keep.
        store: device on which states and gradients are kept; None for where they arise.
    """

    def __init__(self, kept: tuple[int, ...], store: torch.device | str | None = None) -> None:
        self._kept, self._store = kept, store
        self._states: dict[int, torch.Tensor] = {}
        self._log_probs: list[torch.Tensor] = []
        self._rewards: list[torch.Tensor] = []
        self._gradients: dict[int, torch.Tensor] = {}

    def state(self, index: int, x: torch.Tensor) -> None:
        """Record state x_index."""
        if index in self._kept:
            self._states[index] = self._stored(x)

    def step(self, index: int, log_prob: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Record the result of step ``index``."""
        self._log_probs.append(log_prob)
        if gradient is not None:
            self._gradients[index] = self._stored(gradient)

    def _stored(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._store is None else tensor.to(self._store)

    def reward(self, values: torch.Tensor) -> None:
        """Record the rewards of the next state, in order."""
        self._rewards.append(values)

    def finish(self, sigmas: torch.Tensor, stochastic: Sequence[bool]) -> Trajectory:
        """The finished trajectory."""
        return Trajectory(
            states=torch.stack([self._states[index] for index in self._kept]),
            kept=self._kept,
            log_probs=torch.stack(self._log_probs),
            stochastic=torch.tensor(stochastic),
            sigmas=sigmas,
            process_rewards=torch.stack(self._rewards) if self._rewards else None,
            reward_gradients=self._gradients,
        )
