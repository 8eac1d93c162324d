"""More videos at the end: the first of them are those of any other evaluation, records and ledger have them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.alignment import prompt_means
from analysis.curves import final_values, seed_means
from analysis.records import load_run
from analysis.schema import BASE, EVALUATION
from benchmarks import task
from benchmarks.evaluation import evaluate
from benchmarks.session import Session
from benchmarks.settings import Evaluation, SettingsError
from benchmarks.task import Training
from benchmarks.testbed.scenes import prompt_split
from tests.benchmarks.harness import Bench, Result, assert_same_records, assert_same_state, interrupt, quick
from tests.world import world_settings

EACH, FINAL, PROMPTS = 2, 6, 5
"""Videos of a prompt on the way and at the end; three held-out prompts and two of training."""
CHOICE = {"every": 1, "train_prompts": 2, "samples_per_prompt": EACH, "num_steps": 2}
KEYS = ["method", "seed", "iteration", "split", "prompt", "sample", "reward"]
GIVEN = ("--methods", "euphonium")
CHANGES = {
    "budget": 3,
    "checkpoint_every": 2,
    "prompts": {"train": list(prompt_split()[0][:4]), "held_out": list(prompt_split()[1][:3])},
}


def run(bench: Bench, output: str, final: int | None) -> Result:
    choice = {**CHOICE, "final_samples_per_prompt": final}
    return bench(*GIVEN, output=output, evaluation=choice, **CHANGES)


@pytest.fixture(scope="module")
def results(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """The same run with as many videos at the end as on the way, and with thrice as many."""
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        bench = Bench(world, tmp_path_factory.mktemp("final"))
        usual, more = run(bench, "usual", None), run(bench, "more", FINAL)
    assert (usual.code, more.code) == (0, 0), usual.err + more.err
    return usual, more


@pytest.mark.parametrize("batch", [1, 9, 1000])
def test_the_first_videos_are_those_of_the_smaller_evaluation(world: Path, batch: int) -> None:
    """Bit for bit whatever the batch, diversity among them; the others have noise of their own."""
    choice = {**CHOICE, "final_samples_per_prompt": FINAL, "batch": batch}
    settings = world_settings(world, ["dance_grpo"], evaluation=choice)
    session = Session.open(settings)
    small, large = (evaluate(session.policy(), session.suite, settings, 0, final) for final in (False, True))
    assert large.rows[: len(small.rows)] == small.rows
    assert (large.videos == small.videos).all()
    assert [row[2] for row in small.rows[:EACH]] == [0, 1]
    assert {row[2] for row in large.rows[len(small.rows) :]} == set(range(EACH, FINAL))
    frame = pd.DataFrame(large.rows, columns=[*KEYS[3:], "value"])
    assert not frame.duplicated(KEYS[3:]).any()
    rounds = frame.assign(round=frame["sample"] // EACH).groupby("round")["value"]
    assert len({tuple(values) for _, values in rounds}) == FINAL // EACH


def test_records_have_the_same_rows_and_more_at_both_ends(results: tuple[Result, Result]) -> None:
    """Training is the same, and so is every evaluation on the way."""
    usual, more = (result.rows("evaluations").set_index(KEYS)["value"] for result in results)
    pd.testing.assert_series_equal(more.loc[usual.index], usual, check_exact=True)
    counts = {
        at: part["sample"].nunique()
        for at, part in results[1].rows("evaluations").groupby(["method", "iteration"])
    }
    assert counts == {
        (BASE, 0): FINAL,
        ("euphonium", 1): EACH,
        ("euphonium", 2): EACH,
        ("euphonium", 3): FINAL,
    }
    iterations = [result.rows("iterations") for result in results]
    pd.testing.assert_frame_equal(*iterations, check_exact=True)
    assert_same_state(*results, "euphonium")


def test_the_ledger_counts_every_video_as_evaluation(results: tuple[Result, Result]) -> None:
    """Videos, network evaluations and operations; what is charged stays as it was."""
    usual, more = (result.rows("ledger") for result in results)
    for quantity in ("videos", "nfe"):
        own = more.query(f"component == '{EVALUATION}' and quantity == '{quantity}'")
        per = PROMPTS * (1 if quantity == "videos" else CHOICE["num_steps"])
        amounts = own.set_index(["method", "iteration"])["value"]
        assert amounts[BASE, 0] == amounts["euphonium", 3] == FINAL * per
        assert amounts["euphonium", 1] == amounts["euphonium", 2] == EACH * per
    tflops = [
        frame.query(f"component == '{EVALUATION}' and quantity == 'tflops'").set_index(
            ["method", "iteration"]
        )["value"]
        for frame in (usual, more)
    ]
    # The first round encodes the prompts, for all: the others cost a little less than a whole evaluation.
    added = tflops[1][BASE, 0] - tflops[0][BASE, 0]
    rounds = FINAL / EACH - 1
    assert 0.8 < added / (rounds * tflops[0][BASE, 0]) < 1
    assert tflops[1]["euphonium", 2] == tflops[0]["euphonium", 2]
    # The policy's have adapters, and what is remembered of its first evaluation encodes prompts.
    assert tflops[1]["euphonium", 3] - tflops[0]["euphonium", 3] == pytest.approx(added, rel=0.1)
    charged = [
        frame[(frame["component"] != EVALUATION) & ~frame["quantity"].isin(["seconds", "peak_memory_mb"])]
        for frame in (usual, more)
    ]
    pd.testing.assert_frame_equal(*(part.reset_index(drop=True) for part in charged), check_exact=True)


def test_means_are_over_the_videos_that_there_are(results: tuple[Result, Result]) -> None:
    """Finals, gains and prompts over all of both ends, the curve's start among them; on the way over the few."""
    records = load_run(results[1].folder)
    rows = results[1].rows("evaluations")
    accuracy = rows[(rows["split"] == "held_out") & (rows["reward"] == "accuracy")]
    expected = accuracy.groupby(["method", "iteration"])["value"].mean()
    (final,) = final_values(records).query("split == 'held_out' and reward == 'accuracy'").to_dict("records")
    assert final["base"] == pytest.approx(expected[BASE, 0])
    assert final["final"] == pytest.approx(expected["euphonium", 3])
    curve = seed_means(records).query(
        "method == 'euphonium' and split == 'held_out' and reward == 'accuracy'"
    )
    assert curve["value"].tolist() == pytest.approx([expected[BASE, 0], *expected["euphonium"]])
    prompts = prompt_means(records).query("split == 'held_out' and reward == 'accuracy'")
    by_hand = accuracy[accuracy["iteration"].isin([0, 3])].groupby(["method", "prompt"])["value"].mean()
    found = prompts.set_index(["method", "prompt"])["value"]
    np.testing.assert_allclose(found.sort_index(), by_hand.sort_index())


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (task, "evaluate", 1),  # the base model's
        (Training, "_iterate", 3),  # before the last iteration
        (task, "evaluate", 4),  # the last iteration is recorded, and its evaluation is not
        (Training, "_record", 3),  # it is made, and not recorded
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_interrupted_run_makes_it_once_at_the_end(
    bench: Bench,
    results: tuple[Result, Result],
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call)
        assert run(bench, "out", FINAL).code == 130
    resumed = bench.resume()
    assert resumed.code == 0, resumed.err
    assert_same_records(resumed, results[1])
    assert_same_state(resumed, results[1], "euphonium")
    assert bench.resume().code == 0  # a finished run is not evaluated again
    assert_same_records(resumed, results[1])


def test_how_many_videos() -> None:
    choice = Evaluation(samples_per_prompt=4, final_samples_per_prompt=12)
    assert (choice.samples(final=False), choice.samples(final=True)) == (4, 12)
    assert Evaluation(samples_per_prompt=4).samples(final=True) == 4


@pytest.mark.parametrize("final", [5, 2])
def test_other_than_whole_rounds_are_refused(world: Path, final: int) -> None:
    choice = {**CHOICE, "samples_per_prompt": 4, "final_samples_per_prompt": final}
    with pytest.raises(SettingsError) as error:
        world_settings(world, ["dance_grpo"], evaluation=choice)
    assert (
        f"final_samples_per_prompt is {final}: give a multiple of samples_per_prompt, which is 4, or null"
        in str(error.value)
    )
