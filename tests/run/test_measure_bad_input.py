"""What the door `sam_repro.measure` refuses, and what training refuses to measure."""

import json
import shutil
from pathlib import Path

import pytest
from called import command
from door import Server, assert_one_message
from measured import SMALL, files, home

from sam_repro import train

REFUSED = {
    "": "run: give one run=<home>, such as run=outputs/runs/main/…/seed=0, or several with -m run=a,b",
    "run=RUN run=RUN": "run: give one run=<home>",
    "run=nowhere": "run = nowhere: no finished run; result.json is missing; the last lines of a run name its home",
    "run=outputs": "no finished run; result.json is missing; there are: RUN",
    "run=RUN,RUN": "several runs are a sweep; add -m",
    "run=RUN sharpness=lamda_max": "sharpness = lamda_max: no such option; did you mean lambda_max?",
    "run=RUN sharpness=none": "sharpness = none: measures nothing; choose a measure",
    "run=RUN sharpnes=hessian": "sharpnes=hessian: no such key; did you mean sharpness?",
    "run=RUN sharpness=hessian,lambda_max": "several values are a sweep; add -m",
    "run=RUN lr=0.1": "lr=0.1: is not for this command, which takes sharpness, data_dir, download,",
    "run=RUN seed=1": "seed=1: is not for this command",
    "run=RUN optimizer=sgd": "optimizer=sgd: is not for this command",
    "run=RUN +sharpness.x=1": "+sharpness.x=1: keys can be set, not added or removed",
    "run=RUN sharpness.steps=3": "sharpness.steps: no such key; it is a key of sharpness=hessian,",
    "run=RUN sharpness=hessian sharpness.step=3": "sharpness.step: no such key; did you mean sharpness.steps?",
    "run=RUN sharpness.every=2": "sharpness.every = 2: is for training",
    "run=RUN checkpoint=worst": "sharpness.checkpoint = worst: must be one of last, best",
    "run=RUN checkpoint=": "sharpness.checkpoint = '': must be one of last, best",
    "run=RUN device=tpu": "device = tpu: must be auto, cpu, cuda or cuda:<number>",
    "run=RUN --cfg job": "--cfg: is not for this command; --help says what is",
    "run=RUN rho": "rho: cannot be read; settings are written key=value",
    "run=DAMAGED": "result.json: damaged (",
    "run=OLD": "result.json: damaged (result.json is of schema 0, this version reads 1 to 2)",
    "run=WITHOUT": "model.safetensors: missing; add resume=false to set this home aside and run again",
    "run=SGD sharpness=worst_case": "sharpness.rho = null: the run has no rho for worst_case; give one, such as",
    "-m run=RUN,nowhere": "run = nowhere: no finished run",
}


REFUSED_BY_DRY_BUILD = {
    "run=RUN sharpness.examples=0": "sharpness.examples = 0: must be an integer >= 1",
    "run=RUN sharpness=hessian sharpness.trace_products=3": "sharpness.trace_products = 3: must be an integer >= 6",
    "run=RUN sharpness.mode=test": "sharpness.mode = test: must be one of eval, train",
    "run=RUN 'sharpness.parameters=\"[\"'": "sharpness.parameters = '[': must be a pattern of names",
    "run=RUN sharpness=worst_case sharpness.p=1": "sharpness.p = 1: must be one of 2, inf",
    "run=RUN sharpness=landscape sharpness.points=4": "sharpness.points = 4: must be odd",
    "run=RUN sharpness.tolerance=nan": "sharpness.tolerance = nan: must be a finite number > 0",
    "run=RUN sharpness=hessian sharpness.steps=1": "sharpness.steps = 1: must be an integer >= 2",
}


@pytest.fixture(scope="module")
def homes(plain_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("homes")
    shutil.copytree(plain_folder / "outputs", folder / "outputs")
    own = home(folder)
    content = json.loads((folder / own / "result.json").read_text())
    del content["sha256"]
    for name, text in (
        ("DAMAGED", "{"),
        ("OLD", '{"schema": 0}'),
        ("WITHOUT", json.dumps(content | {"sharpness": {}})),
        ("SGD", json.dumps(content | {"config": content["config"] | {"rho": None}})),
    ):
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(text)
    return folder, {"RUN": str(own)}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_without_torch(light: Server, homes: tuple[Path, dict[str, str]], line: str) -> None:
    folder, names = homes
    before = files(folder)
    answer = light.run(folder, line.replace("RUN", names["RUN"]), door="measure")
    assert_one_message(answer, 2, REFUSED[line].replace("RUN", names["RUN"]))
    assert not answer.torch
    assert files(folder) == before


@pytest.mark.parametrize("line", REFUSED_BY_DRY_BUILD)
def test_refused_by_the_measure(door: Server, homes: tuple[Path, dict[str, str]], line: str) -> None:
    folder, names = homes
    before = files(folder)
    assert_one_message(
        door.run(folder, line.replace("RUN", names["RUN"]), door="measure"), 2, REFUSED_BY_DRY_BUILD[line]
    )
    assert files(folder) == before


def test_help_and_what_is_done_need_no_torch(light: Server, homes: tuple[Path, dict[str, str]]) -> None:
    folder, names = homes
    answer = light.run(folder, "--help", door="measure")
    assert (answer.code, answer.err, answer.torch) == (0, "", False)
    assert "python -m sam_repro.measure run=<home> sharpness=hessian" in answer.out
    answer = light.run(folder, f"run={names['RUN']} {' '.join(SMALL)}", door="measure")
    assert (answer.code, answer.err, answer.torch) == (0, "", False)
    assert "result.json\nsharpness  lambda_max: " in answer.out


TRAINING = {
    "optimizer=sgd sharpness=worst_case": "sharpness.rho = null: the run has no rho for worst_case; give one, such as",
    "sharpness=none sharpness.every=2": "sharpness.every = 2: nothing is measured; choose sharpness=lambda_max",
    "sharpness.every=0": "sharpness.every = 0: must be an integer >= 1, or null",
    "sharpness=hesian": "sharpness = hesian: no such option; did you mean hessian?",
}


@pytest.mark.parametrize("line", TRAINING)
def test_training_refuses_what_could_not_be_measured(tmp_path: Path, line: str) -> None:
    said = command(train.main, tmp_path, *line.split())
    assert said.code == 2
    assert TRAINING[line] in said.err
    assert not list(tmp_path.iterdir())
