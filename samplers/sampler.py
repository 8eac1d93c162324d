"""The sampler: one step, and the closed forms that share the step's coefficients."""

from __future__ import annotations

from operator import index as as_index
from typing import Any, Literal

import torch

from samplers.checks import check_like, check_state
from samplers.guidance import Guidance, Reward
from samplers.kernels import Coefficients, step_coefficients
from samplers.noise import step_std
from samplers.policy import Policy, VelocityFunction, velocity_function
from samplers.precision import step_dtype, wide
from samplers.randomness import Generators
from samplers.rollout import Rollout
from samplers.settings import SamplerSettings
from samplers.trajectory import Keep, Trajectory, states_to_keep
from samplers.transition import Transition

Index = int | torch.Tensor
KLWeighting = Literal["exact", "inverse_time", "velocity"]


class Sampler:
    """A sampler of the guided family, for any policy, latent shape, dtype and device.

    Args:
        settings: the sampler's settings.
        window_steps: the stochastic steps as num_steps booleans; by default those of ``settings.window`` at
            iteration 0. `at_iteration` sets them for windows that move.

    Attributes:
        settings: the settings.
        sigmas: float64, shape (N + 1,), on the CPU.
        num_steps: N.
        coefficients: float64 coefficients of every step.
        stochastic_steps: N booleans, the steps with noise, hence with a density.
        guided_steps: N booleans, the steps that a reward gradient moves.

    A ``random`` window has no steps until `at_iteration` draws them. Until then both are all false, and every
    other method raises ValueError.
    """

    def __init__(self, settings: SamplerSettings, window_steps: tuple[bool, ...] | None = None) -> None:
        self.settings = settings
        self.sigmas = settings.sigmas()
        self.num_steps = settings.num_steps
        # A random window has no steps until at_iteration draws them; any use before that is an error.
        self._undrawn = window_steps is None and settings.window.kind == "random"
        self._given_steps = window_steps
        if self._undrawn:
            window_steps = (False,) * self.num_steps
        elif window_steps is None:
            window_steps = settings.window.steps(self.num_steps)
        elif len(window_steps) != self.num_steps:
            raise ValueError(
                f"window_steps has {len(window_steps)} entries: give one per step, {self.num_steps}"
            )
        std = step_std(settings.noise, self.sigmas) * torch.tensor(window_steps)
        self.coefficients: Coefficients = step_coefficients(
            settings.kernel, self.sigmas, std, settings.guidance
        )
        self.stochastic_steps: tuple[bool, ...] = tuple((self.coefficients.std > 0).tolist())
        self.guided_steps: tuple[bool, ...] = tuple((self.coefficients.gradient > 0).tolist())

    def __repr__(self) -> str:
        return f"Sampler({self.settings!r})"

    def at_iteration(self, iteration: int, generator: torch.Generator | None = None) -> Sampler:
        """This sampler with its window resolved for a training iteration.

        Args:
            iteration: counted from 0.
            generator: on the CPU; ``random`` windows need one.
        """
        return Sampler(self.settings, self.settings.window.steps(self.num_steps, iteration, generator))

    def guided_by(self, guidance: Guidance | None) -> Sampler:
        """This sampler, its stochastic steps included, under another guidance."""
        return Sampler(self.settings.replace(guidance=guidance), self._given_steps)

    def stochastic(self, index: Index) -> bool | torch.Tensor:
        """Whether step ``index`` has noise, hence a density: bool, or bool (B,) on the CPU for a tensor."""
        return _at(self.stochastic_steps, self._steps(index))

    def guided(self, index: Index) -> bool | torch.Tensor:
        """Whether step ``index`` uses a reward gradient: bool, or bool (B,) on the CPU for a tensor."""
        return _at(self.guided_steps, self._steps(index))

    def transition(
        self,
        x: torch.Tensor,
        velocity: torch.Tensor,
        index: Index,
        reward_gradient: torch.Tensor | None = None,
    ) -> Transition:
        """The distribution of the state after step ``index``: mean a x + b v + c gradient, and std.

        Arithmetic is at least float32, whatever the dtypes of the arguments.

        Args:
            x: states (B, ...).
            velocity: (B, ...); the means are differentiable in it.
            index: step 0..N-1, or a LongTensor (B,) with one step per sample.
            reward_gradient: (B, ...), already normalised and clipped (``shape_gradient``), or None. It is
                ignored for samples at unguided steps.
        """
        check_state(x)
        check_like("velocity", velocity, x)
        steps = self._steps(index)
        a, b, c, std = self._coefficients(steps, x, step_dtype(x.dtype, velocity.dtype))
        unguided = (x * a).addcmul_(velocity, b)
        guided = None
        if reward_gradient is not None:
            check_like("reward_gradient", reward_gradient, x)
            if self.settings.guidance is None:
                raise ValueError(
                    "got a reward_gradient, but the sampler has no guidance: set settings.guidance first"
                )
            guided = torch.addcmul(unguided, reward_gradient, c)
        elif self.settings.score_mean == "guided" and bool(torch.as_tensor(self.guided(index)).any()):
            raise ValueError(
                f"score_mean = 'guided' needs the reward gradient of guided step {index}: pass "
                "reward_gradient "
                "(trajectory.reward_gradients[step])"
            )
        return Transition(
            unguided_mean=unguided,
            guided_mean=guided,
            std=std,
            stochastic=torch.tensor(self.stochastic_steps)[steps].expand(x.shape[0]),
            score_mean=self.settings.score_mean,
            reduction=self.settings.log_prob_reduction,
            density=self.settings.density,
        )

    def rollout(
        self,
        policy: Policy | VelocityFunction,
        x: torch.Tensor,
        condition: Any = None,
        generator: Generators | None = None,
        reward: Reward | None = None,
        *,
        guide: Reward | None = None,
        score: Reward | None = None,
        keep: Keep = "all",
        storage_dtype: torch.dtype | None = None,
        store: torch.device | str | None = None,
    ) -> Trajectory:
        """Sample from noise to data, without building a graph.

        Args:
            policy: ``policy(x, sigma, condition) -> velocity`` or an object with ``velocity``; sigma is
                float32 (B,).
            x: initial noise (B, ...); its dtype is the storage dtype by default.
            condition: passed to policy and rewards unchanged.
            generator: a torch.Generator, or one per sample, for the noise of stochastic steps. With one per
                sample, a batch gives exactly the samples drawn one by one, if the policy does.
            reward: guides and scores, unless ``guide`` or ``score`` is given:
                ``reward(x, sigma, condition) -> (B,)``, or an object with ``value_and_gradient``.
            guide: its gradient moves the guided steps.
            score: its value at every state is recorded (at x0_hat of that state if guidance is set so).
            keep: which states to store, see `samplers.trajectory.states_to_keep`. Dropped states can be
                recomputed by rolling out again from generators with the same seeds.
            storage_dtype: dtype of the states. Each state is rounded to it before it is scored and stepped from.
            store: device on which states and gradients are kept; None for that of x.

        Raises:
            ValueError: if guided steps have no reward, or stochastic steps no generator.
            NonFiniteError: naming the step, if a velocity, reward, gradient or state is NaN or infinite.
        """
        check_state(x)
        self._check_window()
        guide, score = (reward if own is None else own for own in (guide, score))
        if guide is None and any(self.guided_steps):
            steps = [index for index, guided in enumerate(self.guided_steps) if guided]
            raise ValueError(
                f"steps {steps} are guided and no reward was given: pass reward=... or guide=..., or guidance=None"
            )
        kept = states_to_keep(keep, self.stochastic_steps)
        rollout = Rollout(self, velocity_function(policy), condition, guide, score)
        with torch.no_grad():
            return rollout.run(x.to(storage_dtype or x.dtype), generator, kept, store)

    def kl_divergence(
        self,
        velocity: torch.Tensor,
        reference_velocity: torch.Tensor,
        index: Index,
        weighting: KLWeighting = "exact",
    ) -> torch.Tensor:
        """KL between the transitions of two velocities at the same state: shape (B,), differentiable.

        Args:
            velocity: (B, ...).
            reference_velocity: (B, ...).
            index: step, or steps (B,).
            weighting: the factor of |v - v_ref|^2.
                ``exact``: b^2 / (2 std^2); for Euler-Maruyama D (1 + g^2 (1-t) / (2t))^2 / (2 g^2).
                ``inverse_time``: D^2 / (2 std^2 t^2) = D / (2 g^2 t^2), Euphonium's public code; not the KL.
                ``velocity``: 1, the plain squared difference of DanceGRPO-style code; not the KL.

        Returns:
            reduced over elements as log-probabilities are.

        Raises:
            ValueError: at a step without noise, where the KL is infinite.
        """
        check_state(velocity)
        check_like("reference_velocity", reference_velocity, velocity)
        steps = self._steps(index)
        weight = self._kl_weights(weighting)[steps]
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"the KL of step {index} is infinite because its std is 0: ask only at stochastic steps"
            )
        dims = tuple(range(1, velocity.ndim))
        square = torch.linalg.vector_norm(wide(velocity) - wide(reference_velocity), dim=dims).square()
        if self.settings.log_prob_reduction == "mean":
            square = square / velocity[0].numel()
        return square * weight.to(square.dtype).to(square.device)

    def distillation_target(
        self, velocity: torch.Tensor, reward_gradient: torch.Tensor, index: Index
    ) -> torch.Tensor:
        """The velocity whose unguided transition is the guided one of ``velocity``: v + (c / b) gradient.

        For Euler-Maruyama and relative guidance v - (g^2/2) lam gradient / (1 + g^2 (1-t) / (2t)). Regress on
        it with `kl_divergence` to distil the guidance into the network.

        Args:
            velocity: (B, ...).
            reward_gradient: (B, ...), already normalised and clipped.
            index: step, or steps (B,).
        """
        check_state(velocity)
        check_like("reward_gradient", reward_gradient, velocity)
        _, b, c, _ = self._coefficients(self._steps(index), velocity, step_dtype(velocity.dtype))
        return torch.addcmul(wide(velocity), reward_gradient, c / b)

    def _kl_weights(self, weighting: KLWeighting) -> torch.Tensor:
        variance = self.coefficients.std.square()
        match weighting:
            case "exact":
                return self.coefficients.velocity.square() / (2 * variance)
            case "inverse_time":
                sigma = self.sigmas[:-1]
                return ((sigma - self.sigmas[1:]) / sigma).square() / (2 * variance)
            case "velocity":
                return torch.ones_like(variance)
        raise ValueError(f"KL weighting {weighting!r}: choose 'exact', 'inverse_time' or 'velocity'")

    def _check_window(self) -> None:
        if self._undrawn:
            raise ValueError(
                "the window is random and has not been drawn: use sampler.at_iteration(i, generator)"
            )

    def _steps(self, index: Index) -> torch.Tensor:
        """Steps as a LongTensor on the CPU, shape () or (B,), checked."""
        self._check_window()
        if isinstance(index, torch.Tensor):
            if index.is_floating_point() or index.dtype == torch.bool or index.ndim > 1:
                kind = f"{index.dtype} tensor of shape {tuple(index.shape)}"
                raise TypeError(f"index is a {kind}: give an int, or a LongTensor (B,)")
            steps = index.detach().cpu().long()
        else:
            steps = torch.tensor(as_index(index))
        outside = steps[(steps < 0) | (steps >= self.num_steps)]
        if outside.numel():
            raise IndexError(
                f"step {int(outside.flatten()[0])} lies outside the {self.num_steps} steps: give "
                f"0..{self.num_steps - 1}"
            )
        return steps

    def _coefficients(self, steps: torch.Tensor, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Coefficients a, b, c and std of the given steps: shape (4, B, 1, ...) on x's device."""
        batch = x.shape[0]
        if steps.ndim == 1 and len(steps) != batch:
            raise ValueError(
                f"index has {len(steps)} steps for a batch of {batch}: give one per sample, or an int"
            )
        table = torch.stack(self.coefficients)[:, steps.expand(batch)]
        return table.to(dtype).to(x.device).reshape(4, batch, *[1] * (x.ndim - 1))


def _at(steps_mask: tuple[bool, ...], steps: torch.Tensor) -> bool | torch.Tensor:
    return torch.tensor(steps_mask)[steps] if steps.ndim else steps_mask[int(steps)]
