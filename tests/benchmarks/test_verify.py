"""`python -m benchmarks.testbed verify` names every file that is not as it was made, and every figure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.testbed import manifest
from benchmarks.testbed.__main__ import main

FIGURES = {"base_accuracy": 0.25, "base_size_accuracy": 0.5}


@pytest.fixture
def weights(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny world with a manifest, as if a build had made and measured it."""
    folder = Path(shutil.copytree(world, tmp_path / "weights"))
    manifest.write(folder, {"seed": 0}, FIGURES)
    monkeypatch.setattr("benchmarks.testbed.__main__.measure_again", lambda _: dict(FIGURES))
    return folder


def verified(folder: Path) -> int:
    return main(["verify", "--weights", str(folder)])


def test_all_is_well(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(weights) == 0
    out = capsys.readouterr().out
    assert "all files match their checksums and measure as documented" in out
    assert "base_accuracy" in out


def flip(path: Path) -> None:
    """One bit of one byte, the length unchanged."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "tamper", "problem"),
    [
        ("pipeline/transformer/diffusion_pytorch_model.safetensors", flip, "differs from its checksum"),
        ("process_reward/config.json", lambda path: path.write_text("{}"), "differs from its checksum"),
        ("outcome/model.safetensors", Path.unlink, "is missing"),
        ("pipeline/model_index.json", Path.unlink, "is missing"),
        ("pipeline/vae/extra.bin", lambda path: path.write_text("?"), "is not in the manifest"),
        ("hidden/.more", lambda path: (path.parent.mkdir(), path.write_text("")), "is not in the manifest"),
    ],
)
def test_a_tampered_file_is_named(
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    tamper: Callable[[Path], object],
    problem: str,
) -> None:
    tamper(weights / name)
    assert verified(weights) == 1
    out = capsys.readouterr().out
    assert out.splitlines() == [f"PROBLEM: {name} {problem}"]


def test_a_moved_file_is_both_missing_and_unknown(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights / "outcome" / "config.json").rename(weights / "outcome" / "settings.json")
    assert verified(weights) == 1
    assert capsys.readouterr().out.splitlines() == [
        "PROBLEM: outcome/config.json is missing",
        "PROBLEM: outcome/settings.json is not in the manifest",
    ]


def test_a_figure_that_measures_otherwise_is_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"base_accuracy": 0.25 + 0.9 * manifest.TOLERANCE, "base_size_accuracy": 0.4}
    monkeypatch.setattr("benchmarks.testbed.__main__.measure_again", lambda _: measured)
    assert verified(weights) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert problems == ["PROBLEM: base_size_accuracy measures 0.4000, documented as 0.5000"]


@pytest.mark.parametrize("content", [None, "{"])
def test_no_manifest(weights: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    if content is None:
        (weights / manifest.NAME).unlink()
    else:
        (weights / manifest.NAME).write_text(content)
    assert verified(weights) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
