"""Finished runs that many tests look at, made once.

`run` is each of the runs `plain`, `noisy` and `best`; `folder` is a copy of `plain_folder` that a test may change.
"""

import shutil
from pathlib import Path

import pytest
from finished import HELD_OUT, NOISY, Run, finished
from measured import SMALL, trained
from rates import CLIMBS


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(tmp_path_factory.mktemp("plain"), "optimizer=sgd", "name=first-try", "seed=3")


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(tmp_path_factory.mktemp("noisy"), "rho=0.1", *NOISY, *HELD_OUT, *CLIMBS)


@pytest.fixture(scope="session")
def best(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = ["rho=0.1", *NOISY, *HELD_OUT, *CLIMBS, "report=best_validation"]
    return finished(tmp_path_factory.mktemp("best"), *settings)


@pytest.fixture(params=["plain", "noisy", "best"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert "sharpness  lambda_max: lambda_max" in trained(folder, *SMALL).out
    return folder


@pytest.fixture
def folder(plain_folder: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    shutil.copytree(plain_folder / "outputs", tmp_path / "outputs")
    return tmp_path
