"""Who may import whom: read from the sources, and from what a fresh interpreter has loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sam_repro

ROOT = Path(sam_repro.__file__).parent
MODULES = {file.relative_to(ROOT).with_suffix("").as_posix(): file for file in ROOT.rglob("*.py")}
DOORS = {"train", "compose", "build", "table/__main__"}
SIBLINGS = {"optimizer", "dataset", "augmentation", "architecture"}
HEAVY = {"torch", "torchvision", "timm", "wandb", "matplotlib", "sklearn", "scipy"}
LAZY = HEAVY - {"torch", "scipy"}


def imports(file: Path, everywhere: bool = True) -> Iterator[str]:
    """Full names of what a file imports, `sam_repro` from-imports down to the module; or those at module level."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if everywhere else at_import(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "sam_repro" else [str(node.module)]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not the bodies of functions, nor what is for type checkers."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def tops(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def ours(names: Iterator[str]) -> set[str]:
    """The module or package of sam_repro behind each name."""
    return {name.split(".")[1] for name in names if name.startswith("sam_repro.")}


def test_that_the_reader_sees_imports() -> None:
    tree = ast.parse(
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c\n"
        "def f():\n    import d\nclass K:\n    import e\ntry:\n    import g\nexcept ImportError:\n    pass\n"
    )
    found = {alias.name for node in at_import(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert found == {"a.b", "e", "g"}
    assert {"hydra", "sam_repro"} <= tops(imports(MODULES["compose"]))
    assert {"limits", "oracle", "vectors"} <= ours(imports(MODULES["optimizer/rule"]))


@pytest.mark.parametrize("module", sorted(set(MODULES) - DOORS))
def test_configuration_stays_at_the_doors(module: str) -> None:
    assert not tops(imports(MODULES[module])) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.split("/")[0] in SIBLINGS))
def test_siblings_know_only_the_floor_below(module: str) -> None:
    package = module.split("/")[0]
    below = {"limits", "oracle", "vectors"} if package == "optimizer" else {"limits"}
    assert ours(imports(MODULES[module])) <= below | {package}


@pytest.mark.parametrize("module", ["oracle", "schedule", "vectors", "limits", "schema", "home", "seeds"])
def test_the_lowest_floor_looks_down_only(module: str) -> None:
    assert ours(imports(MODULES[module])) <= {"limits", "schema", "vectors"} - {module}


@pytest.mark.parametrize("module", ["limits", "schema", "home", "seeds"])
def test_standard_library_only(module: str) -> None:
    names = set(imports(MODULES[module]))
    assert tops(iter(names)) <= set(sys.stdlib_module_names) | {"sam_repro"}
    assert ours(iter(names)) <= {"limits", "schema"}


@pytest.mark.parametrize("module", ["vectors", "schedule", "record", "provenance"])
def test_torch_numpy_or_standard_library_only(module: str) -> None:
    names = set(imports(MODULES[module], everywhere=False))
    assert tops(iter(names)) <= set(sys.stdlib_module_names) | {"torch", "numpy", "sam_repro"}
    assert ours(iter(names)) <= {"limits"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("table/")))
def test_tables_need_no_torch(module: str) -> None:
    assert "torch" not in tops(imports(MODULES[module]))
    if module not in (
        "table/__main__",
        "table/cost",
    ):  # the door, and what is asked of the rules only if runs are missing
        assert ours(imports(MODULES[module])) <= {"limits", "schema", "home", "record", "table"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    assert not tops(imports(MODULES[module], everywhere=False)) & LAZY


@pytest.mark.parametrize("door", ["sam_repro.train", "sam_repro.table.__main__"])
def test_the_door_opens_without_torch(door: str) -> None:
    code = f"import sys, {door}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "hydra" in loaded
    assert not HEAVY & set(loaded)
