"""Every option of the command line that sets a field reaches the settings."""

from pathlib import Path

import pytest

from benchmarks.commandline import settings_flags
from benchmarks.run import arguments

FIELDS = {
    "seeds": ("7", 7),
    "first_seed": ("100", 100),
    "budget": ("5", 5.0),
    "budget_unit": ("tflops", "tflops"),
    "charge_prm": (None, True),
    "suite": ("shapes", "shapes"),
    "model": ("somewhere", Path("somewhere")),
    "process_reward": ("somewhere", Path("somewhere")),
    "outcome_model": ("somewhere", Path("somewhere")),
    "precision": ("bf16", "bf16"),
    "methods": ("a,b", ["a", "b"]),
    "video": ("9x32x48", {"num_frames": 9, "height": 32, "width": 48}),
    "weights": ("full", {"kind": "full"}),
}
#: Options that say where settings come from, or how this call runs: no fields of the settings.
OTHERS = {"help", "preset", "set", "config", "workers", "output", "resume", "launcher", "slurm"}
#: Options that `read_question` turns into fields (test_looks.py).
ASKED = {"question", "baseline", "until"}


@pytest.mark.parametrize("field", FIELDS)
def test_option_reaches_its_field(field):
    text, value = FIELDS[field]
    given = arguments().parse_args([f"--{field.replace('_', '-')}", *([] if text is None else [text])])
    assert settings_flags(given) == {field: value}


def test_no_option_is_forgotten_above():
    options = {action.dest for action in arguments()._actions}
    assert options == set(FIELDS) | OTHERS | ASKED
