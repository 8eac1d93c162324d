"""The figure of docs/theory.md: mean and spread along t for each noise, on data whose marginals are known.

python -m samplers.figures [--output docs/figures/marginals.png]
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from samplers.noise import Noise
from samplers.policy import GaussianPolicy
from samplers.randomness import draw_noise
from samplers.sampler import Sampler
from samplers.settings import SamplerSettings
from samplers.trajectory import Trajectory

DATA = GaussianPolicy(mean=1.5, std=0.5)
NUM_STEPS, SHIFT = 16, 3.0
SAMPLES = 50_000
EXACT = "#4d4d4d"

# Title, noise, kernel and colour (Okabe and Ito's palette, legible without colour vision).
CASES = [
    ("ODE: g = 0", Noise(kind="zero"), "euler_maruyama", "#000000"),
    ("DanceGRPO: g = 0.25", Noise(kind="constant", level=0.25), "euler_maruyama", "#0072b2"),
    ("Flow-GRPO on Wan: g = t₁ t", Noise(kind="linear"), "euler_maruyama", "#009e73"),
    ("Flow-GRPO: g = 0.7 √(t/(1−t))", Noise(kind="flow_grpo", level=0.7), "euler_maruyama", "#d55e00"),
    ("Memoryless: g = √(2t/(1−t))", Noise(kind="memoryless"), "euler_maruyama", "#cc79a7"),
    (
        "Flow-CPS: std = t′ sin(0.7 π/2)",
        Noise(kind="angle", level=0.7),
        "coefficient_preserving",
        "#b8860b",
    ),
]


def roll_out(noise: Noise, kernel: str) -> Trajectory:
    """Many rollouts of one sampler from the same initial noise and seed: states (N + 1, SAMPLES, 1)."""
    settings = SamplerSettings.model_validate(
        {"num_steps": NUM_STEPS, "shift": SHIFT, "noise": noise, "kernel": kernel}
    )
    generator = torch.Generator().manual_seed(0)
    start = draw_noise((SAMPLES, 1), generator)
    start[:3, 0] = torch.tensor([-1.2, 0.0, 1.2])  # the paths that are drawn start alike in every panel
    return Sampler(settings).rollout(DATA, start, generator=generator)


def exact(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and standard deviation at the given times."""
    marginals = [DATA.marginal(float(t)) for t in times]
    return np.array([float(mean) for mean, _ in marginals]), np.array([float(std) for _, std in marginals])


def draw_case(axes: Axes, title: str, trajectory: Trajectory, colour: str) -> None:
    """One noise: the exact mean and spread as a band, the sampled ones as bars, and three paths."""
    fine = np.linspace(0, 1, 201)
    mean, std = exact(fine)
    axes.fill_between(fine, mean - std, mean + std, color=EXACT, alpha=0.15, linewidth=0)
    axes.plot(fine, mean, color=EXACT, linewidth=1)
    times, states = trajectory.sigmas.numpy(), trajectory.states[..., 0].numpy()
    axes.plot(times, states[:, :3], color=colour, linewidth=0.9, alpha=0.55)
    axes.errorbar(
        times,
        states.mean(1),
        yerr=states.std(1),
        fmt="o",
        color=colour,
        markersize=3,
        elinewidth=1.4,
    )
    axes.set_ylim(-3, 3.4)
    axes.set_title(title, fontsize=10)


def draw_spread_error(axes: Axes, rolled: list[tuple[str, Trajectory, str]]) -> None:
    """Sampled minus exact standard deviation of every case along t."""
    axes.axhline(0, color=EXACT, linewidth=0.8)
    for title, trajectory, colour in rolled:
        times = trajectory.sigmas.numpy()
        error = trajectory.states[..., 0].numpy().std(1) - exact(times)[1]
        axes.plot(times, error, "o-", color=colour, markersize=3, linewidth=1.2, label=title)
    axes.set_ylabel("sampled − exact std")
    axes.legend(fontsize=8, ncols=2, frameon=False, loc="upper right")


def draw(output: Path) -> None:
    """Make the figure and write it to ``output``."""
    matplotlib.use("Agg")
    figure = plt.figure(figsize=(10, 9), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=[1, 1, 1.1])
    rolled = [(title, roll_out(noise, kernel), colour) for title, noise, kernel, colour in CASES]
    first: Axes | None = None
    for position, (title, trajectory, colour) in enumerate(rolled):
        axes = figure.add_subplot(grid[divmod(position, 3)], sharex=first, sharey=first)
        first = first or axes
        draw_case(axes, title, trajectory, colour)
        axes.tick_params(labelleft=position % 3 == 0, labelbottom=position >= 3)
        axes.set_xlabel("t" if position >= 3 else "")
    figure.axes[0].set_ylabel("x (band: exact, bars: sampled)")
    figure.axes[3].set_ylabel("x (band: exact, bars: sampled)")
    spread = figure.add_subplot(grid[2, :])
    draw_spread_error(spread, rolled)
    for axes in figure.axes:
        axes.set_xlim(1.03, -0.03)  # time runs from noise to data, left to right
        axes.spines[["top", "right"]].set_visible(False)
    spread.set_xlabel("t (1: noise, 0: data)")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw the figure of docs/theory.md.")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/marginals.png"))
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
