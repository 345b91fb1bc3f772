"""What the README shows is what there is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = ROOT / "tests" / "outside"
README = (ROOT / "README.md").read_text()
GROUPS = ["optimizer", "dataset", "architecture", "augmentation", "base_optimizer", "schedule", "sharpness"]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block(language, containing):
    (found,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return found


def train(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(OUTSIDE)])}
    command = [sys.executable, "-m", "sam_repro.train", *arguments, "wandb=disabled", "sharpness=none"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_outside_rule_is_the_readmes():
    code = (OUTSIDE / "mine.py").read_text().partition('"""\n\n')[2]
    assert block("python", "USAM") == code
    assert block("yaml", "USAM") == (OUTSIDE / "configs" / "optimizer" / "usam.yaml").read_text()


def test_a_rule_outside_the_repository_trains(tmp_path):
    done = train(tmp_path, "--config-dir", str(OUTSIDE / "configs"), "optimizer=usam", "max_steps=3")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("outputs/runs/main/*/seed=0/result.json")
    result = json.loads(file.read_text())
    assert result["config"]["choices"]["optimizer"] == "usam"
    assert result["cost"]["passes"] == 6
    assert "rho 0.05 (the default of usam)" in done.stdout


def test_an_edited_rule_outside_is_noticed(tmp_path):
    (tmp_path / "mine.py").write_text((OUTSIDE / "mine.py").read_text())
    arguments = ["--config-dir", str(OUTSIDE / "configs"), "optimizer=usam", "max_steps=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "sam_repro.train", *arguments, "wandb=disabled", "sharpness=none"]

    def said():
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    said()
    assert "changed" not in said()
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# edited\n")
    assert "changed    since that run: mine;" in said()


def test_the_readmes_own_table_is_one(tmp_path):
    (tmp_path / "configs/table").mkdir(parents=True)
    (tmp_path / "configs/table/mine.yaml").write_text(block("yaml", "Does the radius matter?"))
    command = [sys.executable, "-m", "sam_repro.table", "--config-dir", "configs", "mine"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "2  0/3    rho 0.3: missing" in done.stdout
    assert "| 0.3 − 0 | epochs" in (tmp_path / "outputs/tables/mine/table.md").read_text()


def test_the_snippet_runs():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    images = torch.randn(20, 8, 4)
    loader = [(x, x[:, :3].argmax(dim=1)) for x in images] * 5
    names = {"model": model, "loader": loader}
    first = torch.nn.functional.cross_entropy(model(loader[0][0]), loader[0][1])
    exec(block("python", "rule.step"), names)
    assert torch.nn.functional.cross_entropy(model(loader[0][0]), loader[0][1]) < first


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_listed(group):
    options = {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")}
    rows = [line for line in README.splitlines() if line.startswith("| `") and f"`{group}`" in line.split("|")[1]]
    assert rows
    missing = {option for option in options if f"`{option}`" not in rows[0]}
    assert not missing
