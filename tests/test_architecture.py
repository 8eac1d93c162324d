"""Imports run one way: rewards reads the samplers' pipeline families, methods joins them, benchmarks runs methods.

The analysis reads what they record and imports none of them.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Package -> packages of the project that it may import.
ARROWS: dict[str, set[str]] = {
    "samplers": set(),
    "rewards": {"samplers"},
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
#: The modules of `benchmarks` that turn records into reports, tables and figures; any may read `analysis.schema`.
READS_ANALYSIS = {
    "benchmarks/run.py",
    "benchmarks/looks.py",
    "benchmarks/ablate.py",
    "benchmarks/ablating/effects.py",
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
    """(line, name) of every import in a file, those inside functions and those by name included.

    `from a import b` is `a.b`, whether b is a module or something in a.
    """
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level] if node.level else ()
            names = (*above, *filter(None, [node.module]))
            yield from ((node.lineno, ".".join((*names, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "import_module",
            "importlib.import_module",
            "__import__",
        ):
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno} imports a name made at run time"
            yield node.lineno, str(name.value)


def module_graph() -> dict[str, set[str]]:
    """Module of the project -> those that it imports, wherever in its text.

    Whoever imports `a.b.c` imports that module, and `a` and `a.b`, which Python runs first; but not a package that it
    lies in itself, for that has begun already.
    """
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ARROWS
        for path in sources(package)
    }
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        graph[module] = set()
        for _, name in imported(path):
            parts = name.split(".")
            found = [entry for end in range(len(parts)) if (entry := ".".join(parts[: end + 1])) in paths]
            around = [entry for entry in found[:-1] if not f"{module}.".startswith(f"{entry}.")]
            graph[module].update(around, found[-1:])
    return graph


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


def test_methods_are_tested_without_benchmarks():
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "tests" / "methods").rglob("*.py"))
        for line, module in imported(path)
        if module.split(".")[0] == "benchmarks" or module.startswith("tests.benchmarks")
    ]
    assert found == []


def test_only_some_modules_turn_records_into_reports():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources("benchmarks")
        for _, module in imported(path)
        if module.split(".")[0] == "analysis" and not module.startswith("analysis.schema.")
    }
    assert found <= READS_ANALYSIS


def test_arrows_point_one_way():
    def below(package: str) -> set[str]:
        return ARROWS[package].union(*(below(other) for other in ARROWS[package]))

    assert all(package not in below(package) for package in ARROWS)


def test_no_modules_import_each_other():
    graphlib.TopologicalSorter(module_graph()).prepare()  # CycleError names a circle


def test_a_public_class_has_its_name_alone():
    places: dict[str, list[str]] = {}
    for path in [path for package in ARROWS for path in sources(package)]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_finder_of_circles_finds_one(tmp_path, monkeypatch):
    """Through a package's `__init__`, a function, and a type's import alone; not between a module and its package."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "ARROWS", {"analysis": set()})
    texts = {
        "analysis/__init__.py": "from analysis.curves import mean\n",
        "analysis/curves.py": "from analysis import text\ndef mean():\n    import analysis.plots.panels\n",
        "analysis/text.py": "",
        "analysis/plots/__init__.py": "if TYPE_CHECKING:\n    from analysis.report import Report\n",
        "analysis/plots/panels.py": "from . import lines\n",
        "analysis/plots/lines.py": "",
        "analysis/report.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert module_graph()["analysis.curves"] == {"analysis.text", "analysis.plots", "analysis.plots.panels"}
    test_no_modules_import_each_other()
    (tmp_path / "analysis/report.py").write_text("from .curves import mean\n")
    with pytest.raises(graphlib.CycleError) as caught:
        test_no_modules_import_each_other()
    assert set(caught.value.args[1]) == {"analysis.curves", "analysis.plots", "analysis.report"}


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
        "samplers.noise.Noise",
        "rewards",
        "analysis.curves",
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
