"""Published samplers by name. A preset is a set of settings and nothing else."""

import difflib

from samplers.guidance import Guidance
from samplers.noise import Noise, NoiseKind
from samplers.sampler import Sampler
from samplers.settings import SamplerSettings
from samplers.windows import Window

# arXiv 2505.05470, SD3 script: 10 training steps, the model's shift of 3.
_FLOW_GRPO = SamplerSettings(num_steps=10, shift=3.0, noise=Noise(kind="flow_grpo", level=0.7))
# arXiv 2505.07818, HunyuanVideo.
_DANCE_GRPO = SamplerSettings(num_steps=16, shift=5.0, noise=Noise(kind="constant", level=0.25))

# Published settings, each with its paper; where they differ by model, the name says which.
PRESETS: dict[str, SamplerSettings] = {
    "flow_grpo": _FLOW_GRPO,
    "dance_grpo": _DANCE_GRPO,
    # The same paper, Wan 2.1.
    "dance_grpo_wan": _DANCE_GRPO.replace(num_steps=20, shift=3.0, noise=Noise(kind="constant", level=0.3)),
    # arXiv 2602.04928, HunyuanVideo as DanceGRPO has it; guidance 0.01 * D * gradient on the last quarter, as
    # a relative strength.
    "euphonium": _DANCE_GRPO.replace(guidance=Guidance(strength=0.32, start=12)),
    "ode": _DANCE_GRPO.replace(noise=Noise(kind="zero")),
    # arXiv 2509.05952, SD3 settings of Flow-GRPO.
    "cps": _FLOW_GRPO.replace(noise=Noise(kind="angle", level=0.7), kernel="coefficient_preserving"),
    # The same paper's log-probability, and the level that Flow-GRPO's repository recommends with it.
    "flow_cps": _FLOW_GRPO.replace(
        noise=Noise(kind="angle", level=0.8), kernel="coefficient_preserving", density="squared_error"
    ),
    # arXiv 2507.21802: 25 steps, four of them stochastic; the window moves by one every 25 iterations.
    "mix_grpo": _FLOW_GRPO.replace(
        num_steps=25, window=Window(kind="sliding", count=4, stop=23, stride=1, period=25)
    ),
    # Flow-GRPO's repository: two random consecutive steps.
    "flow_grpo_fast": _FLOW_GRPO.replace(window=Window(kind="random", count=2)),
    # arXiv 2606.11025: three random steps of the first half.
    "flow_dppo": _FLOW_GRPO.replace(window=Window(kind="random", count=3, stop=5, contiguous=False)),
    # arXiv 2509.16117: rollouts by the ODE, in as many steps as Flow-GRPO.
    "ode_sd3": _FLOW_GRPO.replace(noise=Noise(kind="zero")),
    # arXiv 2409.08861: 40 steps, no shift.
    "memoryless": SamplerSettings(num_steps=40, shift=1.0, noise=Noise(kind="memoryless")),
}


def build(
    name: str,
    num_steps: int | None = None,
    shift: float | None = None,
    noise_level: float | None = None,
    guidance: float | Guidance | None = None,
) -> Sampler:
    """A published sampler, with some settings changed.

    Args:
        name: a key of `PRESETS`, such as flow_grpo, dance_grpo, euphonium, ode, cps or memoryless.
        num_steps: steps; None for the published number.
        shift: time shift; None for the published one.
        noise_level: level of the sampler's kind of noise; None for the published one.
        guidance: a number sets the relative strength lam = 1 / beta at every step. None keeps the published
            guidance: no guidance, except lam = 0.32 on the last quarter of the steps for euphonium.

    Raises:
        ValueError: for an unknown name, naming the closest match, or for settings that contradict each other.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown sampler {name!r}: {hint}known are {', '.join(sorted(PRESETS))}")
    published = PRESETS[name]
    steps = published.num_steps if num_steps is None else num_steps
    if isinstance(guidance, int | float):
        guidance = Guidance(strength=guidance)
    elif guidance is None and published.guidance is not None:
        guidance = published.guidance.model_copy(update={"start": last_quarter(steps)})
    kind: NoiseKind = published.noise.kind
    return Sampler(
        published.replace(
            num_steps=steps,
            shift=published.shift if shift is None else shift,
            noise=published.noise if noise_level is None else Noise(kind=kind, level=noise_level),
            guidance=guidance,
        )
    )


def last_quarter(num_steps: int) -> int:
    """First step of the last quarter of a rollout, at least the last step: 12 of 16."""
    return min(3 * num_steps // 4, num_steps - 1)
