"""Imports run one way: samplers and rewards are leaves, methods joins them, benchmarks runs methods, analysis reads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Package -> packages of the project that it may import.
ARROWS: dict[str, set[str]] = {
    "samplers": set(),
    "rewards": set(),
    "methods": {"samplers", "rewards"},
    "benchmarks": {"samplers", "rewards", "methods", "analysis"},
    "analysis": set(),
}
#: Package -> libraries that it must do without.
WITHOUT: dict[str, set[str]] = {
    "samplers": {"transformers", "peft", "accelerate", "mlflow", "pandas"},
    "rewards": {"peft", "accelerate", "mlflow", "pandas"},
    "methods": {"mlflow", "pandas"},
    "analysis": {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "mlflow"},
}
#: The modules of `benchmarks` that turn records into reports, tables and figures.
READS_ANALYSIS = {
    "benchmarks/run.py",
    "benchmarks/ablate.py",
    "benchmarks/ablating/table.py",
    "benchmarks/sweeping/plots.py",
}
#: Libraries that some modules of samplers name, but `import samplers` must not load.
SAMPLERS_CORE_WITHOUT = {"diffusers", "matplotlib"}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no sources of {package} below {ROOT}"
    return found


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions and those by name included."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (
                node.lineno,
                node.module or "" if node.level == 0 else ".".join(package[: len(package) - node.level]),
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "import_module",
            "importlib.import_module",
            "__import__",
        ):
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno} imports a name made at run time"
            yield node.lineno, str(name.value)


def offences(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imported(path)
        if module.split(".")[0] in forbidden
    ]


def test_every_package_is_covered():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ARROWS)


@pytest.mark.parametrize("package", ARROWS)
def test_imports_follow_the_arrows(package):
    assert offences(package, {*ARROWS, "tests"} - ARROWS[package] - {package}) == []


@pytest.mark.parametrize("package", WITHOUT)
def test_a_package_does_without_the_libraries_of_the_others(package):
    assert offences(package, WITHOUT[package]) == []


def test_only_some_modules_turn_records_into_reports():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources("benchmarks")
        for _, module in imported(path)
        if module.split(".")[0] == "analysis"
    }
    assert found <= READS_ANALYSIS


def test_arrows_point_one_way():
    def below(package: str) -> set[str]:
        return ARROWS[package].union(*(below(other) for other in ARROWS[package]))

    assert all(package not in below(package) for package in ARROWS)


def test_the_reader_of_imports_finds_every_kind(tmp_path, monkeypatch):
    """The tests above mean nothing if this walk overlooks an import."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "analysis" / "probe.py"
    path.parent.mkdir()
    path.write_text(
        "import torch.nn as nn\nfrom samplers.noise import Noise\ndef f():\n    import rewards\n"
        "    from . import curves\n    return __import__('methods')\n"
    )
    assert [module for _, module in imported(path)] == [
        "torch.nn",
        "samplers.noise",
        "rewards",
        "analysis",
        "methods",
    ]
    assert offences("analysis", {"torch"}) == ["analysis/probe.py:1 imports torch.nn"]


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("analysis", WITHOUT["analysis"] | (set(ARROWS) - {"analysis"})),
        ("samplers", WITHOUT["samplers"] | SAMPLERS_CORE_WITHOUT | (set(ARROWS) - {"samplers"})),
    ],
)
def test_importing_the_package_loads_nothing_unwanted(package, unwanted):
    """As a process sees it: also what the libraries of a package bring along."""
    found = [p.relative_to(ROOT).with_suffix("").parts for p in sources(package)]
    modules = [package] if package == "samplers" else [".".join(parts) for parts in found]
    modules = [name.removesuffix(".__init__") for name in modules]
    code = f"import sys, {', '.join(modules)}; print(*set({sorted(unwanted)}).intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
