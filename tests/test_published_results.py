"""What docs/results holds beside text can still be used: settings run, studies load, and say what is told of them."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from benchmarks.ablating.variants import make_arms, read_ablation
from benchmarks.resolve import read_config, resolve
from methods.method import flatten

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FILES = [path for path in sorted(RESULTS.rglob("*.yaml")) if path.name != "sweep.yaml"]
CONFIGS = [path for path in FILES if "factors" not in yaml.safe_load(path.read_text())]
ABLATIONS = [path for path in FILES if path not in CONFIGS]
TUNED = RESULTS / "tuned"


def named(path: Path) -> str:
    return str(path.relative_to(RESULTS))


def methods_of(path: Path, *names: str) -> dict[str, dict[str, object]]:
    """Method -> its settings by dotted name, as `--config` takes them."""
    config = read_config(path)
    preset = config.pop("preset", "default")
    flags = {"methods": list(names)} if names else {}
    settings = resolve(preset, config, flags, [], "")
    return {name: flatten(method) for name, method in settings.method_settings.items()}


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_settings_still_run(path: Path) -> None:
    assert methods_of(path)


@pytest.mark.parametrize("path", ABLATIONS, ids=named)
def test_ablations_still_run(path: Path) -> None:
    ablation = read_ablation(path)
    assert ablation.base is not None
    config = read_config(TUNED / "grid_tuned.yaml")
    base = resolve(config.pop("preset"), config, {}, [], "").method_settings[ablation.base]
    arms, same = make_arms(ablation, base)
    assert arms
    assert not same


@pytest.mark.parametrize(
    ("database", "tuned", "methods"),
    [
        ("tuning.db", "tuned.yaml", {"euphonium", "flow_grpo", "dance_grpo"}),
        ("grid.db", "grid_tuned.yaml", {"euphonium"}),
    ],
)
def test_studies_load_and_their_best_trials_are_the_tuned_settings(
    database: str, tuned: str, methods: set[str], tmp_path: Path
) -> None:
    copy = tmp_path / database  # opening a database may write to it
    copy.write_bytes((TUNED / database).read_bytes())
    storage = f"sqlite:///{copy}"
    settings = methods_of(TUNED / tuned)
    fields = {
        "guidance": "sampler.guidance.strength",
        "noise": "sampler.noise.level",
        "learning_rate": "optimiser.learning_rate",
    }
    assert settings.keys() == methods
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        method = name.rpartition("/")[2]
        methods.remove(method)
        states = [trial.state for trial in study.trials]
        assert len(states) == 40
        assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
        for parameter, value in study.best_params.items():
            assert settings[method][fields[parameter]] == pytest.approx(value)
    assert not methods
