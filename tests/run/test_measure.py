"""Sharpness asked for later, by the door `sam_repro.measure`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from called import command, rewrite
from door import Server
from measured import SMALL, files, home, measured, result, trained

from sam_repro import measure
from sam_repro.run import sharpness
from sam_repro.sharpness import Hessian


def test_a_run_of_before_a_key_existed_is_measured(folder: Path) -> None:
    """Its configuration lacks keys whose neutral value is what the code did then."""
    file = folder / home(folder) / "result.json"

    def age(result: dict[str, Any]) -> None:
        for key in ("compile", "graph", "clip_norm", "sharpness"):
            del result["config"][key]
        result["sharpness"] = {}

    rewrite(file, age)
    said = measured(folder, "sharpness=lambda_max", "sharpness.examples=40", "sharpness.tolerance=0.1")
    assert said.code == 0, said
    assert "measured   " in said.out


def test_a_damaged_measurement_is_named(folder: Path) -> None:
    sharpness_folder = folder / home(folder) / "sharpness"
    sharpness_folder.mkdir()
    (sharpness_folder / "lambda_max-last-01234567.json").write_text("{")
    said = measured(folder, "sharpness=lambda_max", "sharpness.seed=9")
    assert said.code == 2
    assert "lambda_max-last-01234567.json: damaged (" in said.err
    assert "; remove it and measure again" in said.err
    assert said.err.count("damaged") == 1


def test_progress_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "SECONDS", 0.0)
    said = measured(folder, "sharpness=landscape", "sharpness.points=3", "sharpness.examples=40")
    assert [line.partition(", about")[0] for line in said.out.splitlines() if line.startswith("measuring")] == [
        f"measuring  landscape: {done} of 3" for done in (1, 2, 3)
    ]


def test_one_file_beside_the_result_which_is_untouched(folder: Path) -> None:
    before = files(folder)
    said = measured(folder, "sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=2", "checkpoint=best")
    assert said.code == 0, said
    (name,) = files(folder).keys() - before.keys()
    assert all(files(folder)[key] == content for key, content in before.items())
    content = json.loads((folder / name).read_text())
    assert content.keys() == {"schema", "measure", "values", "protocol", "sha256"}
    assert (content["schema"], content["measure"], content["protocol"]["checkpoint"]) == (2, "worst_case", "best")
    assert content["protocol"]["rho"] == 0.05
    stem = Path(name).stem
    assert stem.startswith("worst_case-best-")
    assert len(stem.removeprefix("worst_case-best-")) == 8
    assert Path(name).parent == home(folder) / "sharpness"
    words = ["sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=2"]
    assert measured(folder, *words, "checkpoint=best").out.startswith(
        f"done       {name}\nsharpness  worst_case: loss_rise"
    )
    assert "measured" in measured(folder, *words).out
    assert "measured" in measured(folder, "sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=1").out
    assert len(list((folder / home(folder) / "sharpness").iterdir())) == 3


def test_what_was_measured_at_the_end_is_done(folder: Path) -> None:
    said = measured(folder, *SMALL)
    assert said.out.startswith(f"done       {home(folder)}/result.json\nsharpness  lambda_max: lambda_max ")


def test_the_door_measures_what_training_would_have(folder: Path, tmp_path: Path) -> None:
    words = ["sharpness=average_case", "sharpness.examples=40", "sharpness.pairs=2"]
    assert measured(folder, *words).code == 0
    (file,) = (folder / home(folder) / "sharpness").glob("*.json")
    other = tmp_path / "other"
    other.mkdir()
    trained(other, *words)
    content = json.loads(file.read_text())
    assert {key: content[key] for key in ("values", "protocol")} == result(other)["sharpness"]["average_case"]


def test_a_picture_and_resuming(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sharpness=hessian", "sharpness.examples=40", "sharpness.batch_size=40", "sharpness.tolerance=0.3"]
    words += ["sharpness.trace_products=6", "sharpness.probes=2", "sharpness.steps=3"]
    probe = Hessian._probe

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Hessian, "_probe", dies)
    assert measured(folder, *words).code == 130
    (partial,) = (folder / home(folder) / "sharpness").iterdir()
    pieces = json.loads(partial.read_text())["pieces"]
    assert pieces.keys() == {"eigenvalues", "trace"}
    marked = pieces | {"trace": [12345.0, 1.0]}
    partial.write_text(json.dumps(json.loads(partial.read_text()) | {"pieces": marked}))
    monkeypatch.setattr(Hessian, "_probe", probe)
    assert measured(folder, *words).code == 0
    picture, content = sorted(
        (folder / home(folder) / "sharpness").iterdir(), key=lambda path: path.suffix, reverse=True
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stem == content.stem
    found = json.loads(content.read_text())
    assert found["values"]["trace"] == 12345  # taken from the pieces, not computed again
    assert found["arrays"].keys() == {"eigenvalue", "density", "density_se"}


def test_several_runs_and_measures(folder: Path) -> None:
    own = home(folder)
    other = own.with_name("seed=1")
    shutil.copytree(folder / own, folder / other)
    words = ["sharpness=average_case,m_sharpness", "sharpness.examples=40", "wandb=disabled"]
    said = command(measure.main, folder, "-m", f"run={own},{other}", *words)
    assert said.code == 0, said
    assert said.out.count("measured   ") == 4
    (folder / other / "model.safetensors").write_bytes(b"x")
    said = command(measure.main, folder, "-m", f"run={other},{own}", *words, "sharpness.seed=1")
    assert said.code == 1
    assert said.err.count("model.safetensors: damaged") == 2
    assert said.out.count("measured   ") == 2


def test_wandb_gets_values_and_pictures_under_the_id_of_the_run(door: Server, folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    words = [
        f"run={home(folder)}",
        "sharpness=landscape",
        "sharpness.points=3",
        "sharpness.examples=40",
        "wandb=offline",
    ]
    answer = door.run(folder, words, door="measure", environment=environment | {"HOME": str(folder)})
    assert answer.code == 0, answer
    (log,) = (folder / home(folder)).glob("wandb/offline-run-*/*.wandb")
    identity = json.loads((folder / home(folder) / "run.json").read_text())["wandb_id"]
    assert log.stem == f"run-{identity}"
    assert list(log.parent.glob("files/media/images/sharpness/landscape*.png"))
    assert b"sharpness/landscape/highest_rise" in log.read_bytes()


def test_a_measure_outside_the_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "slopes.py").write_text(
        "from dataclasses import dataclass\n"
        "from sam_repro.sharpness import Measurement, OnSample\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class GradientNorm(OnSample):\n"
        "    power: int = 1\n\n"
        "    def __call__(self, subject, notes):\n"
        "        with self.curvature(subject) as curvature:\n"
        "            value = float(curvature.gradient().norm()) ** self.power\n"
        "            protocol = self.protocol(subject, curvature, power=self.power)\n"
        "        return Measurement('mine', {'gradient_norm': value}, protocol)\n"
    )
    option = folder / "options" / "sharpness" / "slope.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: slopes.GradientNorm\npower: 2\n")
    monkeypatch.syspath_prepend(str(folder))
    said = measured(folder, "--config-dir", "options", "sharpness=slope", "sharpness.power=1")
    assert said.code == 0, said
    (file,) = (folder / home(folder) / "sharpness").glob("slope-last-*.json")
    content = json.loads(file.read_text())
    assert content["measure"] == "slope"
    assert content["protocol"]["power"] == 1
    assert content["values"]["gradient_norm"] > 0
