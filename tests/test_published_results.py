"""What docs/results holds beside text can still be used: settings run, studies load, and say what is told of them."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from benchmarks.resolve import read_config, resolve
from methods.method import Method, flatten

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CONFIGS = sorted(RESULTS.rglob("*.yaml"))
COMPARISON = RESULTS / "comparison"
#: Columns of finals.csv -> fields of a method.
FIELDS = {
    "target": "distillation.strength",
    "distillation": "distillation.weight",
    "noise": "sampler.noise.level",
    "learning_rate": "optimiser.learning_rate",
}


def named(path: Path) -> str:
    return str(path.relative_to(RESULTS))


def methods_of(path: Path) -> dict[str, Method]:
    """The methods of a configuration, as `--config` takes it."""
    config = read_config(path)
    return resolve(config.pop("preset", "default"), config, {}, [], "").method_settings


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_settings_still_run(path: Path) -> None:
    assert methods_of(path)


def test_presets_are_the_winners_of_the_final() -> None:
    finals = pd.read_csv(COMPARISON / "finals.csv")
    methods = methods_of(COMPARISON / "run.yaml")
    assert set(finals["method"]) == set(methods)
    for name, method in methods.items():
        own = finals[finals["method"] == name]
        assert own.groupby("trial").size().tolist() == [3] * 5
        winner = own.groupby("trial")["reward"].mean().idxmax()
        row, settings = own[own["trial"] == winner].iloc[0], flatten(method)
        for column, field in FIELDS.items():
            if pd.notna(row[column]):
                assert settings[field] == pytest.approx(row[column], rel=5e-3), f"{name}: {field}"


def test_the_finalists_are_the_five_best_trials_of_studies_of_forty(tmp_path: Path) -> None:
    copy = tmp_path / "tuning.db"  # opening a database may write to it
    copy.write_bytes((COMPARISON / "tuning.db").read_bytes())
    storage = f"sqlite:///{copy}"
    finals = pd.read_csv(COMPARISON / "finals.csv")
    names = optuna.get_all_study_names(storage)
    assert {name.rpartition("/")[2] for name in names} == set(finals["method"])
    for name in names:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        assert len(trials) == 40
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda trial: -trial.values[0])[:5]
        own = finals[finals["method"] == name.rpartition("/")[2]]
        assert {trial.number for trial in best} == set(own["trial"])


def test_every_file_of_the_results_is_named_by_a_page() -> None:
    """At most four folders, and no table that no page reads."""
    folders = [path for path in RESULTS.iterdir() if path.is_dir()]
    assert len(folders) <= 4
    docs = RESULTS.parent
    pages = [docs.parent / "README.md", *docs.rglob("*.md")]
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not link.startswith("http")
    }
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for path in RESULTS.rglob("*"):
        if path.is_file():
            named_in_a_command = str(path.relative_to(docs.parent)) in text
            assert path.resolve() in linked or named_in_a_command or path.name == "README.md", path
