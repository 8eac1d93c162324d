from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import plots, style, videos
from analysis.answer import answer
from analysis.records import EVALUATION_COLUMNS, Samples, load_run
from analysis.report import main, write_report
from analysis.tables import differences_table, final_table, format_table, status_table, to_markdown
from tests.analysis.synthetic import Plan, write_run

ROOT = Path(__file__).parents[2]


def test_final_table_is_tidy_and_right(whole_run: Path) -> None:
    run = load_run(whole_run)
    table = final_table(run)
    assert len(table) == 2 * 4 * 7
    row = table.set_index(["split", "method", "reward"]).loc[("held_out", "euphonium", "accuracy")]
    records = run.evaluations
    here = (records["split"] == "held_out") & (records["reward"] == "accuracy")
    base = records[here & (records["method"] == "base")]["value"].mean()
    ended = records[here & (records["method"] == "euphonium") & (records["iteration"] == 30)]["value"].mean()
    assert (row["base"], row["final"], row["gain"]) == pytest.approx((base, ended, ended - base))
    assert row["low"] < row["gain"] < row["high"]
    assert (row["seeds"], row["iterations"], row["role"]) == (3, 30, "held-out")
    assert row["seconds"] > 0


def test_terminal_table_is_wide_or_fits_80_columns(whole_run: Path) -> None:
    table = final_table(load_run(whole_run))
    wide = format_table(table)
    assert wide.columns[:2] == ("method", "accuracy")
    assert [row[0] for row in wide.rows] == ["base", "euphonium", "flow_grpo", "dance_grpo"]
    assert re.fullmatch(r"0\.\d{3} → 0\.\d{3}\n\+0\.\d{3} ± 0\.\d{3}", wide.rows[1][1])
    narrow = format_table(table, "train", width=80)
    assert narrow.columns[0] == "reward / method"
    assert narrow.width <= 80
    assert len(narrow.rows) == 7 * 4
    few = format_table(table, rewards=["accuracy"], width=80)
    assert few.columns == ("method", "accuracy", "seeds", "time")
    with pytest.raises(ValueError, match="split must be one of"):
        format_table(table, "test")


def test_markdown_escapes_what_would_break_a_row(broken_run: Path) -> None:
    run = load_run(broken_run)
    text = to_markdown(status_table(run))
    assert "| flow_grpo | 1 | failed | 10 |" in text
    assert "RewardError" in text


def _answer(folder: Path, plan: Plan) -> str:
    return answer(load_run(write_run(folder, plan))).sentence


def test_answer_of_a_clear_winner(tmp_path: Path) -> None:
    sentence = _answer(tmp_path, Plan(seeds=10, spread=0.004, samples=8, with_samples=False))
    assert sentence.startswith("euphonium ended highest: accuracy on held-out prompts rose from 0.")
    assert "95 % interval +0." in sentence
    assert "with 10 seeds each it can be told apart from" in sentence


def test_answer_of_two_copies(tmp_path: Path) -> None:
    plan = Plan(methods=("one", "two"), spread=0.03, with_samples=False)
    assert "cannot be told apart from" in _answer(tmp_path, plan)


def test_answer_of_one_seed_claims_nothing(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(seeds=1, with_samples=False))))
    assert "1 seed, so no interval" in found.sentence
    assert "cannot be told from chance" in found.sentence
    assert any("no spread, no interval" in limit for limit in found.limits)
    assert all(row[-1] == "cannot be said (one seed)" for row in differences_table(found.differences).rows)


def test_answer_of_a_single_method(tmp_path: Path) -> None:
    found = answer(load_run(write_run(tmp_path, Plan(methods=("dance_grpo",), with_samples=False))))
    assert found.question.startswith("How far does dance_grpo align the video model within 30 iterations")
    assert found.sentence.startswith("dance_grpo was trained: accuracy on held-out prompts rose")
    assert found.differences == ()


def test_answer_before_any_seed_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=1, failed=dict.fromkeys([("euphonium", 0), ("flow_grpo", 0), ("dance_grpo", 0)], 0))
    found = answer(load_run(write_run(tmp_path, plan)))
    assert found.sentence.startswith("There is no answer yet: no seed of euphonium, flow_grpo or dance_grpo")


def test_answer_says_who_has_not_finished(tmp_path: Path) -> None:
    plan = Plan(seeds=2, failed={("dance_grpo", 0): 10, ("dance_grpo", 1): 0}, with_samples=False)
    found = answer(load_run(write_run(tmp_path / "two", plan)))
    assert found.sentence.startswith("Of the 2 methods that finished, ")
    assert any("No seed of dance_grpo has finished" in limit for limit in found.limits)
    plan = replace(plan, methods=("euphonium", "dance_grpo"))
    found = answer(load_run(write_run(tmp_path / "one", plan)))
    assert found.sentence.startswith("Only euphonium has finished: ")


def test_report_of_a_whole_run(whole_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    page = write_report(folder)
    text = page.read_text()
    assert page == folder / "report.html"
    assert "ended highest" in text
    assert "Missing from this run" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    names = {"gains", "rewards_held_out", "rewards_train", "training"}
    figures = {file.name for file in (folder / "figures").iterdir()}
    assert figures >= {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    assert figures >= {"videos.webp", "videos.gif", "videos.png"}
    assert len(pd.read_csv(folder / "tables" / "final.csv")) == 2 * 4 * 7
    assert "Final rewards on held-out prompts" in (folder / "tables" / "final.md").read_text()


def test_report_of_a_broken_run_lists_what_failed(broken_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(broken_run, tmp_path / "run"))
    shutil.rmtree(folder / "runs" / "dance_grpo-seed0")
    shutil.rmtree(folder / "runs" / "flow_grpo-seed1")
    for seed in (1, 2):
        shutil.rmtree(folder / "runs" / f"dance_grpo-seed{seed}")
    text = write_report(folder).read_text()
    assert "2 of 9 seeds did not finish" in text
    assert "RewardError: caption_match returned NaN" in text
    assert "There are no sample videos of dance_grpo." in text


@pytest.mark.parametrize(
    "plan",
    [
        Plan(seeds=1, methods=("dance_grpo",), with_samples=False),
        Plan(seeds=1, failed={("euphonium", 0): 0}, methods=("euphonium",), with_samples=False),
        Plan(seeds=2, methods=("a <b>", "flow_grpo"), failed={("flow_grpo", 0): 10, ("flow_grpo", 1): 10}),
    ],
    ids=["one seed", "only the base", "one method failed"],
)
def test_report_of_part_of_a_run(tmp_path: Path, plan: Plan) -> None:
    folder = write_run(tmp_path, plan)
    text = write_report(folder).read_text()
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).replace("returned NaN", "").lower().split()
    assert "a <b>" not in text


ONLY_BASE = Plan(seeds=1, failed={("dance_grpo", 0): 0}, methods=("dance_grpo",))


def test_report_without_run_list_and_with_broken_samples(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ONLY_BASE)
    (folder / "records" / "runs.csv").unlink()
    (folder / "runs" / "base" / "samples.npz").write_bytes(b"cut off")
    text = write_report(folder).read_text()
    assert "records/runs.csv is missing" in text
    assert "Sample videos cannot be shown" in text


def test_report_of_a_run_that_recorded_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, replace(ONLY_BASE, with_samples=False))
    file = folder / "records" / "evaluations.parquet"
    pd.DataFrame(columns=list(EVALUATION_COLUMNS)).to_parquet(file, index=False)
    text = write_report(folder).read_text()
    assert "There is no answer yet" in text
    assert "The base model was not evaluated" in text


def test_evaluations_that_are_not_numbers_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ONLY_BASE)
    file = folder / "records" / "evaluations.parquet"
    frame = pd.read_parquet(file)
    frame.loc[:1, "value"] = np.nan
    frame.to_parquet(file, index=False)
    assert "Not a number: 2 evaluated values." in write_report(folder).read_text()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", ONLY_BASE)
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_torch_is_not_needed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Plan(seeds=2, methods=("euphonium",), with_samples=False))
    program = (
        "import pkgutil, importlib, sys\n"
        "for name in ('torch', 'diffusers', 'samplers', 'rewards', 'methods', 'benchmarks'):\n"
        "    sys.modules[name] = None\n"
        "import analysis\n"
        "for module in pkgutil.walk_packages(analysis.__path__, 'analysis.'):\n"
        "    importlib.import_module(module.name)\n"
        "from analysis.report import write_report\n"
        f"write_report({str(folder)!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert (folder / "report.html").is_file()


def test_large_run_is_reported_in_time(tmp_path: Path) -> None:
    methods = [f"method_{place}" for place in range(10)]
    plan = Plan(methods, seeds=10, iterations=500, every=10, prompts=8, samples=1, with_samples=False)
    folder = write_run(tmp_path, plan)
    begin = time.perf_counter()
    write_report(folder)
    assert time.perf_counter() - begin < 20


def test_colours_are_fixed_and_distinct() -> None:
    names = ["euphonium", "flow_grpo", "dance_grpo", "mine", "other"]
    look = style.looks(names)
    assert look["dance_grpo"] == style.looks(["dance_grpo"])["dance_grpo"]
    assert len({(entry.colour, entry.marker, entry.line) for entry in look.values()}) == len(names) + 1
    many = style.looks([f"m{place}" for place in range(11)])
    assert len({(entry.colour, entry.marker, entry.line) for entry in many.values()}) == 12


def test_figures_are_reproducible(whole_run: Path, tmp_path: Path) -> None:
    run = load_run(whole_run)
    first = style.save(plots.final_comparison(run), tmp_path / "a", "gains")
    second = style.save(plots.final_comparison(run), tmp_path / "b", "gains")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def _samples(method: str, prompts: list[str], value: int) -> Samples:
    videos_ = np.full((len(prompts), 3, 16, 16, 3), value, dtype=np.uint8)
    videos_ += np.arange(len(prompts), dtype=np.uint8)[:, None, None, None, None]
    return Samples(method, 0, videos_, tuple(prompts))


def test_samples_are_matched_by_prompt_and_noise() -> None:
    grid = videos.arrange([_samples("base", ["a", "a", "b"], 10), _samples("m", ["b", "a", "a", "c"], 50)])
    assert grid is not None
    assert grid.prompts == ("a", "a", "b")
    assert grid.videos[0, :, 0, 0, 0, 0].tolist() == [10, 11, 12]
    assert grid.videos[1, :, 0, 0, 0, 0].tolist() == [51, 52, 50]


def test_samples_that_do_not_go_together() -> None:
    assert videos.arrange([]) is None
    assert videos.arrange([_samples("base", ["a"], 0), _samples("m", ["b"], 0)]) is None
    other = Samples("m", 0, np.zeros((1, 5, 16, 16, 3), np.uint8), ("a",))
    with pytest.raises(ValueError, match="made with different models"):
        videos.arrange([_samples("base", ["a"], 0), other])


def test_pixels_are_enlarged_by_a_whole_factor() -> None:
    video = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    large = videos.enlarge(video, 17)
    assert large.shape == (2, 12, 15, 3)
    assert (large[:, ::3, ::3] == video).all()
    assert videos.enlarge(video, 2).shape == video.shape


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animation_loops_over_all_frames(tmp_path: Path, suffix: str) -> None:
    grid = videos.arrange([_samples("base", ["a", "b"], 10), _samples("m", ["a", "b"], 99)])
    assert grid is not None
    file = videos.save_animation(videos.animation_frames(grid), tmp_path / f"grid{suffix}")
    with Image.open(file) as image:
        assert image.n_frames == 3
        assert image.info["loop"] == 0
    with pytest.raises(ValueError, match=r"\.webp or \.gif"):
        videos.save_animation(videos.animation_frames(grid), tmp_path / "grid.mp4")
