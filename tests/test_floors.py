"""Who may import whom: read from the sources, and from what a fresh interpreter has loaded."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sam_repro

ROOT = Path(sam_repro.__file__).parent
MODULES = {file.relative_to(ROOT).with_suffix("").as_posix(): file for file in ROOT.rglob("*.py")}
DOORS = {"__main__", "start", "train", "measure", "check", "table/__main__"}
FLOORS = [
    {"errors", "files", "limits", "seeds", "signals", "vectors"},
    {"config", "oracle", "dataset", "augmentation", "architecture", "rho_schedule", "schedule"},
    {"optimizer", "sharpness"},
    {"training"},
    {"run"},
    {"table"},
]
"""The rooms, from the ground up: imports go down, or level without circles."""
HYDRA = {"config/compose", "config/launch", "run/build"}
WITHOUT_TORCH = {"config", "table", "errors", "files", "limits", "seeds", "signals"}
HEAVY = {"torch", "torchvision", "timm", "wandb", "matplotlib", "sklearn", "scipy"}
LAZY = HEAVY - {"torch", "scipy"}


def imports(file: Path, everywhere: bool = True) -> Iterator[str]:
    """Full names of what a file imports, our own down to the module; or those at module level."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if everywhere else at_import(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else str(node.module) for name in names)


def is_module(name: str) -> bool:
    """Whether a full name is one of a module of this package."""
    return name.removeprefix("sam_repro.").replace(".", "/") in MODULES


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
    """The modules of sam_repro behind the names, by their path in the package; a package stands for itself."""
    return {name.removeprefix("sam_repro.").replace(".", "/") for name in names if name.startswith("sam_repro.")}


def room(module: str) -> str:
    return module.split("/")[0]


def floor(module: str) -> int:
    """0 is the ground; the package itself and the doors stand on top."""
    if module in DOORS or module == "__init__":
        return len(FLOORS)
    return next(level for level, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_that_the_reader_sees_imports() -> None:
    tree = ast.parse(
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c\n"
        "def f():\n    import d\nclass K:\n    import e\ntry:\n    import g\nexcept ImportError:\n    pass\n"
    )
    found = {alias.name for node in at_import(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert found == {"a.b", "e", "g"}
    assert {"hydra", "sam_repro"} <= tops(imports(MODULES["config/compose"]))
    assert {"limits", "oracle", "vectors"} <= ours(imports(MODULES["optimizer/two_pass"]))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_or_level(module: str) -> None:
    for other in ours(imports(MODULES[module])):
        assert other not in DOORS, other
        assert floor(other) <= floor(module), other


@pytest.mark.parametrize("by", [str, room])
def test_there_are_no_circles(by: Callable[[str], str]) -> None:
    """Neither of modules nor of rooms; what a function imports when it is called counts too."""
    graph: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        here = module.removesuffix("/__init__")
        graph.setdefault(by(here), set()).update(by(other) for other in ours(imports(file)) if by(other) != by(here))
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", sorted(set(MODULES) - DOORS))
def test_hydra_stays_where_lines_are_composed_and_objects_are_built(module: str) -> None:
    assert module in HYDRA or not tops(imports(MODULES[module])) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) in WITHOUT_TORCH))
def test_what_is_asked_and_what_is_said_need_no_torch(module: str) -> None:
    assert "torch" not in tops(imports(MODULES[module]))


@pytest.mark.parametrize("module", ["errors", "files", "limits", "config/identity", "config/schema", "config/schema1"])
def test_a_result_is_read_with_the_standard_library(module: str) -> None:
    assert tops(imports(MODULES[module])) <= set(sys.stdlib_module_names) | {"sam_repro"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    assert not tops(imports(MODULES[module], everywhere=False)) & LAZY


@pytest.mark.parametrize("door", ["train", "measure", "table.__main__"])
def test_the_door_opens_without_torch(door: str) -> None:
    code = f"import sys, sam_repro.{door}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "hydra" in loaded
    assert not HEAVY & set(loaded)


def test_little_lies_at_the_top() -> None:
    tops = {name for name in MODULES if "/" not in name} - {"__init__", "__main__", "check", "evaluate"}
    assert len(tops) <= 9, tops


@pytest.mark.parametrize("module", MODULES)
def test_a_file_and_its_functions_are_short(module: str) -> None:
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            first = node.body[0]
            told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) and first.end_lineno else 0
            assert node.end_lineno - node.lineno + 1 - told <= 45, node.name
