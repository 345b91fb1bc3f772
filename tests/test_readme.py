"""What the README and those of the rooms show is what there is."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from sam_repro.config.command_line import read_command
from sam_repro.config.lines import compose_sweep

ROOT = Path(__file__).parents[1]
OUTSIDE = ROOT / "tests" / "outside"
PACKAGE = ["sam_repro", "sam_repro/optimizer", "sam_repro/sharpness", "sam_repro/table"]
ROOMS = ["", "configs", *PACKAGE, "scripts", "outputs"]
TEXTS = {room: (ROOT / room / "README.md").read_text() for room in ROOMS}
GROUPS = sorted(folder.name for folder in (ROOT / "configs").iterdir() if folder.is_dir())
OPTIONS = sorted(file for file in (ROOT / "configs").glob("*/**/*.yaml") if file.relative_to(ROOT).parts[1] != "table")
LINES = [
    line
    for text in TEXTS.values()
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("python -m sam_repro.train")
]


def block(language, containing, room=""):
    blocks = re.findall(r"```(\w+)\n(.*?)```", TEXTS[room], re.DOTALL)
    (found,) = [text for kind, text in blocks if kind == language and containing in text]
    return found


def trained(door, folder, *words, path):
    """What the command says; its interpreter finds modules in `path`, too."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = door.run(folder, [*words, "wandb=disabled", "sharpness=none"], environment=environment)
    assert answer.code == 0, answer
    return answer.out


def test_the_outside_rule_is_the_readmes():
    code = (OUTSIDE / "mine.py").read_text()
    imports, rule = block("python", "USAM").split("\n\n\n")
    assert rule in code
    assert set(imports.splitlines()) <= set(code.splitlines())
    assert block("yaml", "USAM") == (OUTSIDE / "configs" / "optimizer" / "usam.yaml").read_text()


def test_a_rule_outside_the_repository_trains(door, tmp_path):
    line = ["--config-dir", str(OUTSIDE / "configs"), "optimizer=usam", "max_steps=3"]
    said = trained(door, tmp_path, *line, path=OUTSIDE)
    (file,) = tmp_path.glob("outputs/runs/main/*/seed=0/result.json")
    result = json.loads(file.read_text())
    assert result["config"]["choices"]["optimizer"] == "usam"
    assert result["cost"]["passes"] == 6
    assert "rho 0.05 (the default of usam)" in said


def test_an_edited_rule_outside_is_noticed(door, tmp_path):
    """It lies where the command is typed."""
    (tmp_path / "mine.py").write_text((OUTSIDE / "mine.py").read_text())
    line = ["--config-dir", str(OUTSIDE / "configs"), "optimizer=usam", "max_steps=1"]
    trained(door, tmp_path, *line, path="")
    assert "changed" not in trained(door, tmp_path, *line, path="")
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# edited\n")
    assert "changed    since that run: mine.py;" in trained(door, tmp_path, *line, path="")


def test_the_readmes_own_table_is_one(door, tmp_path):
    (tmp_path / "configs/table").mkdir(parents=True)
    (tmp_path / "configs/table/mine.yaml").write_text(block("yaml", "Does the radius matter?", room="configs"))
    answer = door.run(tmp_path, "--config-dir configs mine", door="table.__main__")
    assert answer.code == 0, answer
    assert "2  0/3    rho 0.3: missing" in answer.out
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


def test_ones_own_loop_clips_skips_and_measures(capsys):
    import torch
    from torch.func import functional_call, hessian
    from torch.nn.functional import cross_entropy

    from sam_repro.optimizer import LookSAM
    from sam_repro.oracle import Objective

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3, bias=False)
    batches = [(x, x[:, :3].argmax(dim=1)) for x in torch.randn(6, 8, 4)]
    before = cross_entropy(model(batches[0][0]), batches[0][1])
    loader = [*batches, (batches[0][0] * torch.inf, batches[0][1]), *batches]
    names = {"torch": torch, "Objective": Objective, "LookSAM": LookSAM, "criterion": cross_entropy}
    names |= {"model": model, "loader": loader, "batches": batches}
    exec(block("python", "clip_grad_norm_", room="sam_repro/optimizer"), names)
    assert names["rule"].steps == 12
    assert cross_entropy(model(batches[0][0]), batches[0][1]) < before
    exec(block("python", "Curvature", room="sam_repro/optimizer"), names)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    w = model.weight.detach()
    matrix = hessian(lambda w: cross_entropy(functional_call(model, {"weight": w}, inputs), targets))(w).reshape(12, 12)
    value, converged = capsys.readouterr().out.split()
    assert converged == "True"
    assert float(value) == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-3)


def test_the_readme_is_short():
    assert len(TEXTS[""].splitlines()) <= 200


@pytest.mark.parametrize("room", ROOMS)
def test_links_lead_somewhere(room):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXTS[room])
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / room / link).exists()]
    assert not missing


@pytest.mark.parametrize("room", [room for room in ROOMS if room])
def test_every_room_is_on_the_map(room):
    assert f"]({room}/README.md)" in TEXTS[""]


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_of_options_is_on_the_map(group):
    assert f"| [`{group}`]({group})" in TEXTS["configs"]


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: "/".join(file.relative_to(ROOT / "configs").parts))
def test_every_option_says_what_it_is(file):
    comments = [line for line in file.read_text().splitlines()[:2] if re.match(r"# [^@]", line)]
    assert comments, "its first line, behind # @package, is a comment that says what the option is"


@pytest.mark.parametrize("group", ["optimizer", "sharpness"])
def test_a_table_of_options_has_none_that_is_not_there(group):
    rows = [line.split("|")[1] for line in TEXTS[f"sam_repro/{group}"].splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row)[:1]}
    assert named
    assert named <= {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")}


def test_every_script_is_listed():
    scripts = {file.name for file in (ROOT / "scripts").glob("*.py")} - {"bench.py"}  # what the others share
    assert not {name for name in scripts if f"`{name}" not in TEXTS["scripts"]}


@pytest.mark.parametrize("line", [line for line in LINES if "…" not in line and "--config-dir" not in line])
def test_a_command_is_one(line):
    words = [word for word in shlex.split(line, comments=True)[3:] if word not in ("--help", "--resolve")]
    assert compose_sweep(read_command(words))
