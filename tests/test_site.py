"""The documentation site builds, every link and anchor in it leads somewhere, and it fetches nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_readme_is_the_landing_page(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="theory.html#a-target-that-stands-still"' in text
    assert 'src="results/comparison/convergence.png"' in text
    assert "benchmarks.run --methods" in re.sub("<[^>]*>", "", text)


def test_the_reference_has_every_package(site: Path) -> None:
    for package, name in {
        "samplers": "samplers.sampler.Sampler.rollout",
        "methods": "methods.method.Method",
        "rewards": "rewards.suites",
        "benchmarks": "benchmarks.settings",
        "analysis": "analysis.statistics.speed",
    }.items():
        text = (site / "reference" / f"{package}.html").read_text(encoding="utf-8")
        assert f'id="{name}"' in text


def test_formulas_are_drawn_without_a_script(site: Path) -> None:
    text = (site / "theory.html").read_text(encoding="utf-8")
    assert "<math" in text
    assert "arithmatex" not in text


def test_readers_fetch_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r"""<(?:script|img|link|iframe)\b[^>]*(?:src|href)=["']?(?:https?:)?//""")
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_broken_links_fail_the_build(tmp_path: Path) -> None:
    """With the site's own settings, on a site of two pages."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = re.sub(r"^nav:\n(?:[ ].*\n)+", "", settings, flags=re.MULTILINE)
    settings = re.sub(r"^  - mkdocstrings:\n(?:    .*\n)+", "", settings, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("site_hooks.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, docs)
    broken = ["gone.md", "index.md#gone-anchor", "../tests/gone.py", "/gone-root", "gone.png"]
    (docs / "index.md").write_text("# Start\n\n[more](more.md#more)\n", encoding="utf-8")
    links = "\n".join(f"![]({link})" if link.endswith(".png") else f"[x]({link})" for link in broken)
    (docs / "more.md").write_text(f"# More\n\n{links}\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for link in broken:
        assert f"'{link}'" in done.stderr
    assert f"{len(broken)} warnings" in done.stdout + done.stderr
