"""The wheel carries all that the command needs, and the command works from any directory."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HERE = sysconfig.get_path("purelib")  # the dependencies; the repository itself is not in it


def run(*command, folder, **environment):
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | environment
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new virtual environment with pip."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", str(folder), folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []  # else pip fetches it
    pip = [str(environment / "bin" / "pip"), "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", *isolation, "-w", str(folder), str(ROOT), folder=folder, PYTHONPATH=HERE)
    (file,) = folder.glob("sam_repro-*-py3-none-any.whl")
    return file


@pytest.fixture(scope="module")
def installed(environment, wheel):
    """The environment with the wheel, which sees the dependencies of this one but not the repository."""
    run(str(environment / "bin" / "pip"), "install", "--no-deps", "--no-index", str(wheel), folder=environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(HERE)
    return environment


def test_the_wheel_is_the_package_and_its_options(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {f"sam_repro/{file.relative_to(ROOT / 'sam_repro')}" for file in (ROOT / "sam_repro").rglob("*.py")}
    options = {f"sam_repro/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    texts = {name for name in packed if name.endswith("/README.md")}
    assert packed - texts == sources | options


def test_the_command_works_from_another_directory(installed, tmp_path):
    where = run(str(installed / "bin" / "python"), "-c", "import sam_repro; print(sam_repro.__file__)", folder=tmp_path)
    assert Path(where).is_relative_to(installed)
    command = str(installed / "bin" / "sam-repro-train")
    assert "rho: 0.1\n" in run(command, "--cfg", "job", "--resolve", "rho=0.1", folder=tmp_path)
    assert "sam_repro.train" in run(command, "--help", folder=tmp_path)
    assert not list(tmp_path.iterdir())
    run(command, "epochs=1", "wandb=disabled", folder=tmp_path, OMP_NUM_THREADS="1")
    (file,) = tmp_path.glob("outputs/runs/main/*/seed=0/result.json")
    result = json.loads(file.read_text())
    assert result["cost"]["steps"] == 16
    assert result["git"] == {"commit": None, "dirty": None}
