"""Methods and objectives of other packages: the template of docs/adding.md, installed and trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from methods.registry import PluginError, Registry

ROOT = Path(__file__).parents[2]
#: What a process with the package installed does: one iteration on the tiny world, and what is known of the method.
TRAIN = """
import sys
from pathlib import Path
from methods import CATALOG, difference
from tests.methods.small import make
small = make(Path(sys.argv[1]), "signed")
(_, figures), = small.iterate(1)
assert figures["gradient_norm"] > 0
assert difference(CATALOG["awm"], CATALOG["signed"])["objective.kind"] == ("advantage_weighted", "signed_matching")
print(sorted(set(CATALOG) & {"signed", "awm"}))
"""


def block(language: str, name: str) -> str:
    """The code block of docs/adding.md that begins with a comment naming a file."""
    text = (ROOT / "docs" / "adding.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    found = [code for code in blocks if code.startswith(f"# {name}")]
    assert len(found) == 1
    return found[0].removeprefix(f"# {name}\n")


def wheel(folder: Path) -> Path:
    """The template as a wheel, which pip installs without building anything."""
    points = block("toml", "pyproject.toml").partition("[project.entry-points")
    points = re.sub(r'\[project.entry-points."(.*?)"\]', r"[\1]", "".join(points[1:]))
    path = folder / "their_package-1.0-py3-none-any.whl"
    info = "their_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("their_package.py", block("python", "their_package.py"))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", points.replace('"', ""))
        archive.writestr(f"{info}/RECORD", "")
    return path


def run(*arguments: object, path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_template_of_the_documentation_installs_and_trains(world, tmp_path):
    site = tmp_path / "site"
    options = ("--quiet", "--no-deps", "--no-index", "--target", site)
    run("-m", "pip", "install", *options, wheel(tmp_path), path=site)
    assert run("-c", TRAIN, world, path=site) == "['awm', 'signed']"
    # Whoever imports the package first, before this one, finds it as well.
    order = (
        "import their_package; from methods import CATALOG; print(CATALOG['signed'] is their_package.SIGNED)"
    )
    assert run("-c", order, path=site) == "True"


def registry_of(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> Registry[object]:
    monkeypatch.setattr("methods.registry.entry_points", lambda group: list(found))
    return Registry("some.group", {"own": 1})


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch):
    registry = registry_of(monkeypatch, EntryPoint("broken", "no_such_module:x", "some.group"))
    with pytest.raises(
        ValueError, match=r"entry point 'no_such_module:x' .* cannot be loaded: ModuleNotFoundError"
    ):
        registry["own"]


def test_a_name_that_is_taken_is_refused(monkeypatch):
    registry = registry_of(monkeypatch, EntryPoint("own", "math:pi", "some.group"))
    with pytest.raises(PluginError, match="is called 'own', and that name is taken"):
        registry["other"]


def test_another_packages_entry_is_found(monkeypatch):
    registry = registry_of(monkeypatch, EntryPoint("circle", "math:pi", "some.group"))
    assert dict(registry) == {"own": 1, "circle": pytest.approx(3.14159, abs=1e-4)}
    assert len(registry) == 2
    assert "square" not in registry
