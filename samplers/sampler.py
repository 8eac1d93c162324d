"""The sampler: one step, one rollout loop, and the closed forms that share the step's coefficients."""

from operator import index as as_index
from typing import Any

import torch

from samplers.checks import check_finite, check_like, check_state
from samplers.guidance import Reward, reward_value, reward_value_and_gradient, shape_gradient
from samplers.kernels import Coefficients, step_coefficients
from samplers.noise import step_std
from samplers.policy import Policy, VelocityFunction, velocity_function
from samplers.randomness import Generators
from samplers.settings import SamplerSettings
from samplers.trajectory import Keep, Recorder, Trajectory, states_to_keep
from samplers.transition import Transition

Index = int | torch.Tensor


class Sampler:
    """A sampler of the guided family, for any policy, latent shape, dtype and device.

    Args:
        settings: what to do.
        window_steps: the stochastic steps, num_steps booleans, instead of those of ``settings.window`` at
            iteration 0. :meth:`at_iteration` sets them for windows that move.

    Attributes:
        settings: the settings.
        sigmas: float64, shape (N + 1,), on the CPU.
        num_steps: N.
        coefficients: float64 coefficients of every step.
    """

    def __init__(self, settings: SamplerSettings, window_steps: tuple[bool, ...] | None = None) -> None:
        self.settings = settings
        self.sigmas = settings.sigmas()
        self.num_steps = settings.num_steps
        random = settings.window.kind == "random"
        if window_steps is None and not random:
            window_steps = settings.window.steps(self.num_steps)
        self._resolved = window_steps is not None
        std = step_std(settings.noise, self.sigmas)
        # An unresolved random window counts as fully stochastic until it is drawn; rollout refuses it.
        std = std * torch.tensor(window_steps if window_steps is not None else [True] * self.num_steps)
        self.coefficients: Coefficients = step_coefficients(
            settings.kernel, self.sigmas, std, settings.guidance
        )
        self._stochastic = self.coefficients.std > 0
        self._guided = self.coefficients.gradient > 0

    def __repr__(self) -> str:
        return f"Sampler({self.settings!r})"

    def at_iteration(self, iteration: int, generator: torch.Generator | None = None) -> "Sampler":
        """This sampler with its window resolved for a training iteration.

        Args:
            iteration: counted from 0.
            generator: on the CPU, for ``random`` windows.
        """
        return Sampler(self.settings, self.settings.window.steps(self.num_steps, iteration, generator))

    def stochastic(self, index: Index) -> bool | torch.Tensor:
        """Whether step ``index`` has noise, hence a density: bool, or bool (B,) on the CPU for a tensor."""
        return _at(self._stochastic, self._index(index))

    def guided(self, index: Index) -> bool | torch.Tensor:
        """Whether step ``index`` uses a reward gradient: bool, or bool (B,) on the CPU for a tensor."""
        return _at(self._guided, self._index(index))

    def transition(
        self,
        x: torch.Tensor,
        velocity: torch.Tensor,
        index: Index,
        reward_gradient: torch.Tensor | None = None,
    ) -> Transition:
        """The distribution of the state after step ``index``, DESIGN's guided SDE or its kernel's
        counterpart.

        Arithmetic is float32 at least, whatever the dtypes of the arguments.

        Args:
            x: states (B, ...).
            velocity: (B, ...); the means are differentiable in it.
            index: step 0..N-1, or a LongTensor (B,) with one step per sample.
            reward_gradient: (B, ...), normalised and clipped already (``shape_gradient``), or None. Samples
                at unguided steps ignore theirs.
        """
        check_state(x)
        check_like("velocity", velocity, x)
        steps = self._index(index)
        a, b, c, std = self._coefficients(steps, x, torch.promote_types(x.dtype, velocity.dtype))
        unguided = (x * a).addcmul_(velocity, b)
        guided = None
        if reward_gradient is not None:
            check_like("reward_gradient", reward_gradient, x)
            if self.settings.guidance is None:
                raise ValueError(
                    "a reward_gradient was given to a sampler without guidance: set settings.guidance"
                )
            guided = torch.addcmul(unguided, reward_gradient, c)
        elif self.settings.score_mean == "guided" and bool(self._guided[steps].any()):
            raise ValueError(
                f"score_mean = 'guided' needs the reward gradient of guided step {index}: pass "
                "reward_gradient "
                "(trajectory.reward_gradients[step])"
            )
        stochastic = self._stochastic[steps].expand(x.shape[0])
        return Transition(
            unguided, guided, std, stochastic, self.settings.score_mean, self.settings.log_prob_reduction
        )

    def kl_divergence(
        self, velocity: torch.Tensor, reference_velocity: torch.Tensor, index: Index
    ) -> torch.Tensor:
        """Exact KL between the transitions of two velocities at the same state: shape (B,), differentiable.

        b^2 / (2 std^2) |v - v_ref|^2; for Euler-Maruyama D (1 + g^2 (1-t) / (2t))^2 / (2 g^2) |v - v_ref|^2.
        Reduced over elements as log-probabilities are.

        Raises:
            ValueError: at a step without noise, where the KL is infinite.
        """
        check_state(velocity)
        check_like("reference_velocity", reference_velocity, velocity)
        steps = self._index(index)
        if not bool(self._stochastic[steps].all()):
            raise ValueError(
                f"the KL of step {index} is infinite, its std is 0: ask only at stochastic steps"
            )
        weight = (self.coefficients.velocity / self.coefficients.std).square()[steps] / 2
        square = torch.linalg.vector_norm(
            _wide(velocity) - _wide(reference_velocity), dim=tuple(range(1, velocity.ndim))
        ).square()
        if self.settings.log_prob_reduction == "mean":
            square = square / velocity[0].numel()
        return square * weight.to(square.dtype).to(square.device)

    def distillation_target(
        self, velocity: torch.Tensor, reward_gradient: torch.Tensor, index: Index
    ) -> torch.Tensor:
        """The velocity whose unguided transition is the guided one of ``velocity``: v + (c / b) gradient.

        For Euler-Maruyama and relative guidance v - (g^2/2) lam gradient / (1 + g^2 (1-t) / (2t)). Regress on
        it with :meth:`kl_divergence` to distil the guidance into the network.

        Args:
            velocity: (B, ...).
            reward_gradient: (B, ...), normalised and clipped already.
            index: step, or steps (B,).
        """
        check_state(velocity)
        check_like("reward_gradient", reward_gradient, velocity)
        _, b, c, _ = self._coefficients(self._index(index), velocity, velocity.dtype)
        return torch.addcmul(_wide(velocity), reward_gradient, c / b)

    @torch.no_grad()
    def rollout(
        self,
        policy: Policy | VelocityFunction,
        x: torch.Tensor,
        condition: Any = None,
        generator: Generators | None = None,
        reward: Reward | None = None,
        *,
        score_states: bool = True,
        keep: Keep = "all",
        storage_dtype: torch.dtype | None = None,
    ) -> Trajectory:
        """Sample from noise to data.

        Args:
            policy: ``policy(x, sigma, condition) -> velocity`` or an object with ``velocity``; sigma is
                float32 (B,).
            x: initial noise (B, ...); its dtype is the storage dtype unless one is given.
            condition: handed to policy and reward untouched.
            generator: a torch.Generator, or one per sample, for the noise of stochastic steps. With one per
                sample a batch gives exactly what its samples give one by one (if the policy does).
            reward: ``reward(x, sigma, condition) -> (B,)``, or an object with ``value_and_gradient``.
            score_states: record the reward of every state, if there is a reward.
            keep: which states to store, see :func:`samplers.trajectory.states_to_keep`. To recompute dropped
                states, roll out again from generators seeded alike.
            storage_dtype: dtype of the stored states. Every state is rounded to it first, then scored and
                stepped from.

        Raises:
            ValueError: if guided steps have no reward, or stochastic steps no generator.
            NonFiniteError: naming the step, if a velocity, reward, gradient or state is NaN or infinite.
        """
        check_state(x)
        self._check_rollout(reward)
        x = x.to(storage_dtype or x.dtype)
        recorder = Recorder(states_to_keep(keep, self._stochastic.tolist()))
        recorder.state(0, x)
        score = reward if score_states else None
        velocity_of = velocity_function(policy)
        for index in range(self.num_steps):
            sigma = self._sigma(index, x)
            velocity, values, gradient = self._evaluate(
                velocity_of, x, sigma, condition, index, reward, score
            )
            transition = self.transition(x, velocity, index, gradient)
            x = transition.sample(generator).to(x.dtype)
            log_prob = self._score(transition, x, velocity, gradient, index)
            recorder.step(index, log_prob, gradient)
            recorder.state(index + 1, x)
            if values is not None:
                recorder.reward(values)
        if score is not None:
            values = reward_value(score, x, self._sigma(self.num_steps, x), condition)
            check_finite("the reward", values, self.num_steps, float(self.sigmas[-1]))
            recorder.reward(values)
        return recorder.finish(self.sigmas, self._stochastic.tolist())

    def _evaluate(
        self,
        velocity_of: VelocityFunction,
        x: torch.Tensor,
        sigma: torch.Tensor,
        condition: Any,
        index: int,
        reward: Reward | None,
        score: Reward | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Velocity, reward values (None if not scored) and shaped gradient (None if unguided) at a state."""
        guidance = self.settings.guidance
        guided = guidance is not None and bool(self._guided[index])
        clean = guidance is not None and guidance.at == "x0_hat"
        if guided and clean:
            assert reward is not None
            velocity, values, gradient = _through_clean(velocity_of, x, sigma, condition, reward)
        else:
            velocity, values, gradient = velocity_of(x, sigma, condition), None, None
            check_like("the policy's velocity", velocity, x)
            if guided:
                assert reward is not None
                values, gradient = reward_value_and_gradient(reward, x, sigma, condition)
            elif score is not None and clean:
                values = reward_value(
                    score, clean_estimate(x, velocity, sigma), torch.zeros_like(sigma), condition
                )
            elif score is not None:
                values = reward_value(score, x, sigma, condition)
        if values is not None:
            check_finite("the reward", values, index, float(self.sigmas[index]))
        if gradient is not None:
            assert guidance is not None
            gradient = shape_gradient(gradient, guidance)
        return velocity, values if score is not None else None, gradient

    def _score(
        self,
        transition: Transition,
        x_next: torch.Tensor,
        velocity: torch.Tensor,
        gradient: torch.Tensor | None,
        index: int,
    ) -> torch.Tensor:
        """Log-probability of the stored state, NaN at a deterministic step; all checked finite."""
        if bool(self._stochastic[index]):
            log_prob = transition.log_prob(x_next)
            suspect = log_prob  # not finite if the state is not: no further read of the state is needed
        else:
            log_prob = torch.full(
                (x_next.shape[0],), torch.nan, dtype=transition.mean.dtype, device=x_next.device
            )
            suspect = x_next.sum(dtype=transition.mean.dtype)
        if not bool(torch.isfinite(suspect).all()):
            sigma = float(self.sigmas[index])
            check_finite("the velocity", velocity, index, sigma)
            if gradient is not None:
                check_finite("the reward's gradient", gradient, index, sigma)
            check_finite("the next state", x_next, index, sigma)
        return log_prob

    def _check_rollout(self, reward: Reward | None) -> None:
        if not self._resolved:
            raise ValueError(
                "the window is random and was not drawn: roll out with sampler.at_iteration(i, generator)"
            )
        if reward is None and bool(self._guided.any()):
            steps = torch.nonzero(self._guided).flatten().tolist()
            raise ValueError(
                f"steps {steps} are guided and no reward was given: pass reward=..., or guidance=None"
            )

    def _sigma(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return torch.full((x.shape[0],), float(self.sigmas[index]), dtype=torch.float32, device=x.device)

    def _index(self, index: Index) -> torch.Tensor:
        """Steps as a LongTensor on the CPU, shape () or (B,), checked."""
        if isinstance(index, torch.Tensor):
            if index.is_floating_point() or index.dtype == torch.bool or index.ndim > 1:
                raise TypeError(
                    f"index is a {index.dtype} tensor of shape {tuple(index.shape)}: give an int or a "
                    "LongTensor (B,)"
                )
            steps = index.detach().cpu().long()
        else:
            steps = torch.tensor(as_index(index))
        if steps.numel() and (int(steps.min()) < 0 or int(steps.max()) >= self.num_steps):
            raise IndexError(
                f"step {index} lies outside the {self.num_steps} steps: give 0..{self.num_steps - 1}"
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
        table = table.to(torch.promote_types(dtype, torch.float32)).to(x.device)
        return table.reshape(4, batch, *[1] * (x.ndim - 1))


def clean_estimate(x: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The predicted clean sample x0_hat = x - t v, shape (B, ...), float32 at least.

    Args:
        x: states (B, ...).
        velocity: (B, ...).
        sigma: t of each sample, (B,).
    """
    return torch.addcmul(_wide(x), velocity, -_wide(sigma).reshape(-1, *[1] * (x.ndim - 1)))


def _through_clean(
    velocity_of: VelocityFunction,
    x: torch.Tensor,
    sigma: torch.Tensor,
    condition: Any,
    reward: Reward,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Velocity, reward at x0_hat and its exact gradient at x, the network's Jacobian included."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        velocity = velocity_of(leaf, sigma, condition)
        check_like("the policy's velocity", velocity, x)
        clean = clean_estimate(leaf, velocity, sigma)
    values, at_clean = reward_value_and_gradient(reward, clean.detach(), torch.zeros_like(sigma), condition)
    (gradient,) = torch.autograd.grad(clean, leaf, at_clean.to(clean.dtype))
    return velocity.detach(), values, gradient


def _at(mask: torch.Tensor, steps: torch.Tensor) -> bool | torch.Tensor:
    return mask[steps] if steps.ndim else bool(mask[steps])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
