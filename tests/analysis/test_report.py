"""The page: whole, broken and old runs, without torch, self-contained."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.report import main, write_report
from analysis.schema import COLUMNS
from tests.analysis.synthetic import Plan, write_run

ROOT = Path(__file__).parents[2]
FEW = ("accuracy", "caption_match", "diversity")


class _Tags(HTMLParser):
    """Checks that tags close in the order in which they were opened, and collects headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def _headings(page: str) -> list[str]:
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    return tags.headings


def _blank(_: object, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}{suffix}" for suffix in (".png", ".svg")]
    Image.new("L", (1, 1)).save(files[0])
    return files


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not written, which takes most of the time: for runs that lack this or that."""
    monkeypatch.setattr("analysis.style.save", _blank)


WITHOUT = ("torch", "diffusers", "transformers", "mlflow", "samplers", "rewards", "methods", "benchmarks")

REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {WITHOUT}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with its report, made where torch and the project's other packages cannot be imported."""
    folder = write_run(tmp_path_factory.mktemp("reported"), Plan(rewards=FEW))
    program = (
        f"{REFUSE}"
        "from analysis.report import main\n"
        f"code = main([{str(folder)!r}])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(folder / "report.html")
    return folder


def test_page_of_a_whole_run_goes_from_answer_to_evidence(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    assert "ended highest" in text
    assert "Missing, or worth knowing" not in text
    assert _headings(text) == [
        "What each method used",
        "Final rewards",
        "Convergence",
        "Reward hacking",
        "What guidance does",
        "Sample videos",
        "During training",
        "How many seeds it would take",
        "Settings in which the methods differ",
        "How to read this",
        "Run settings",
    ]
    assert text.index("From 25 % to 85 % of flow_grpo") < text.index("<h2>")


def test_page_is_self_contained(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "http" not in re.sub(r'base64,[^"]*', "", text)


def test_every_figure_is_there_in_both_formats_and_not_blank(reported: Path) -> None:
    figures = reported / "figures"
    names = {"convergence", "gains", "speed_up", "rewards_held_out", "rewards_train", "tradeoffs", "training"}
    present = {file.name for file in figures.iterdir()}
    drawn = {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    assert present == drawn | {"videos.webp", "videos.gif", "videos.png"}
    for file in figures.glob("*.png"):
        with Image.open(file) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_every_table_is_there_as_numbers_and_as_text(reported: Path) -> None:
    tables = reported / "tables"
    names = {"final", "alignment", "pairs", "budget", "speed_up", "hacking", "tradeoffs", "guidance"}
    names |= {"process_accuracy", "process_cost", "methods", "power", "runs"}
    written = {f"{name}{suffix}" for name in names for suffix in (".csv", ".md", ".tex")}
    assert {file.name for file in tables.iterdir()} == written | {"curves.csv", "prompts.csv"}
    assert len(pd.read_csv(tables / "final.csv")) == 2 * 4 * 3
    assert "Final rewards on held-out prompts" in (tables / "final.md").read_text()
    methods = pd.read_csv(tables / "methods.csv", index_col="field")
    assert methods.columns.tolist() == ["euphonium", "flow_grpo", "dance_grpo"]


def test_few_seeds_are_doubted_on_the_page(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    assert "3 seeds a method are few" in text
    assert "with a bootstrap from 10 seeds on" in text
    assert "†" not in text


def test_the_page_is_in_plain_english(reported: Path) -> None:
    text = re.sub(r'base64,[^"]*', "", (reported / "report.html").read_text())
    for stilted in ("told apart", "cannot be told", "walked", "mend", "1 seeds", "1 runs", "1 pairs"):
        assert stilted not in text


def test_captions_say_seeds_budget_and_units(reported: Path) -> None:
    for name in ("convergence", "rewards_held_out", "tradeoffs"):
        svg = (reported / "figures" / f"{name}.svg").read_text()
        assert "budget 30 iterations a run, 3 seeds a method" in svg
    svg = (reported / "figures" / "convergence.svg").read_text()
    for unit in ("compute (TFLOP)", "videos generated", "network evaluations (NFE)", "training time (s)"):
        assert unit in svg


@pytest.mark.usefixtures("unsaved")
def test_report_of_a_broken_run_lists_what_failed(tmp_path: Path) -> None:
    failed = {("flow_grpo", 1): 10, ("dance_grpo", 2): 3}
    folder = write_run(tmp_path / "run", Plan(failed=failed, rewards=FEW))
    shutil.rmtree(folder / "runs" / "flow_grpo-seed1")
    for seed in (0, 1, 2):
        shutil.rmtree(folder / "runs" / f"dance_grpo-seed{seed}")
    text = write_report(folder).read_text()
    assert "2 of 9 seeds did not finish" in text
    assert "RewardError: caption_match returned NaN" in text
    assert "There are no sample videos of dance_grpo." in text
    assert "Seeds that did not finish" in _headings(text)


@pytest.mark.usefixtures("unsaved")
def test_report_of_records_from_an_older_version(tmp_path: Path) -> None:
    plan = Plan(seeds=2, ledger=False, diagnostics=False, rewards=FEW, with_samples=False)
    text = write_report(write_run(tmp_path, plan)).read_text()
    assert "records/ledger.parquet is missing" in text
    assert "What guidance does" not in _headings(text)
    assert "in iterations" in text
    assert "in TFLOP" not in text


@pytest.mark.parametrize(
    "plan",
    [
        Plan(seeds=1, methods=("dance_grpo",), with_samples=False, rewards=FEW),
        Plan(seeds=1, failed={("euphonium", 0): 0}, methods=("euphonium",), with_samples=False, rewards=FEW),
        Plan(
            seeds=2,
            methods=("a <b>", "flow_grpo"),
            failed={("flow_grpo", 0): 10, ("flow_grpo", 1): 10},
            rewards=FEW,
        ),
    ],
    ids=["one seed", "only the base", "one method failed"],
)
@pytest.mark.usefixtures("unsaved")
def test_report_of_part_of_a_run(tmp_path: Path, plan: Plan) -> None:
    text = write_report(write_run(tmp_path, plan)).read_text()
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).replace("returned NaN", "").lower().split()
    assert "a <b>" not in text
    assert _headings(text)[0] in ("What each method used", "Final rewards")


ONLY_BASE = Plan(seeds=1, failed={("dance_grpo", 0): 0}, methods=("dance_grpo",), rewards=FEW)


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
    pd.DataFrame(columns=list(COLUMNS["evaluations"])).to_parquet(file, index=False)
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
    for wrong in ([str(tmp_path / "nowhere")], [str(folder), "--baseline", "dance_gpo"]):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert error.endswith("did you mean 'dance_grpo'?\n")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert {"--baseline", "--output", "RUN"} <= set(capsys.readouterr().out.replace("[", " ").split())


def test_every_module_can_be_imported_without_torch() -> None:
    program = (
        "import pkgutil, importlib\n"
        f"{REFUSE}"
        "import analysis\n"
        "for module in pkgutil.walk_packages(analysis.__path__, 'analysis.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.usefixtures("unsaved")
def test_many_methods_and_seeds_fit_the_page(tmp_path: Path) -> None:
    """What a large report takes is measured by `python -m tests.analysis.measure_report`."""
    methods = ("dance_grpo", *(f"method_{place}" for place in range(5)))
    plan = Plan(methods, iterations=20, prompts=2, samples=1, with_samples=False, rewards=("accuracy",))
    text = write_report(write_run(tmp_path, replace(plan, every=10))).read_text()
    assert "Speed-up over dance_grpo in iterations" in text
    assert "Speed-ups in other units" in text
    assert "<summary>Methods in pairs: accuracy on held-out prompts" in text
