"""Doors of a copy of the package, in which a test may change a source, and a run that a fault broke off.

The rule `faulty` (`data/faulty.py`) fails at a known step where a file says so.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from called import home_of
from disturbed import DATA, EVERY_STEP, RUN
from door import ROOT, Server


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package."""
    folder = tmp_path_factory.mktemp("package")
    for part in ("sam_repro", "configs"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="session")
def door(package: Path) -> Iterator[Server]:
    """Doors of the copy."""
    ours, libraries = ("run.run", "table.sweep"), ("safetensors.torch", "sklearn.datasets", "torchvision.datasets")
    modules = [*(f"sam_repro.{name}" for name in ours), *libraries, "torch._dynamo", "torch._inductor"]
    server = Server(*modules, PYTHONPATH=os.pathsep.join([str(package), str(DATA)]))
    yield server
    server.close()


@pytest.fixture(scope="session")
def undisturbed(door: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = door.run(folder, RUN)
    assert answer.code == 0, answer.err
    return home_of(folder)


@pytest.fixture(scope="session")
def broken_off(door: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that broke off at step `AT` and left a checkpoint; nothing is in its way any more."""
    folder = tmp_path_factory.mktemp("broken_off")
    (folder / "fault").write_text("nan gradient")
    assert door.run(folder, EVERY_STEP).code == 1
    (folder / "fault").unlink()
    return folder


@pytest.fixture
def folder(broken_off: Path, tmp_path: Path) -> Path:
    """A copy of `broken_off`."""
    return shutil.copytree(broken_off, tmp_path / "work")
