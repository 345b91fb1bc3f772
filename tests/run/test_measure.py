"""Sharpness of real runs: during training, at its end, and asked for later by the door `sam_repro.measure`."""

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from called import Said, command, rewrite
from door import Answer, Server
from rates import CLIMBS
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

import sam_repro
from sam_repro import measure, train
from sam_repro.run import sharpness
from sam_repro.sharpness import Hessian, LambdaMax, Unmeasurable

SETTINGS = ["wandb=disabled", "progress=silent", "epochs=3", "lr=0.5", "dataset.validation.count=850"]
SMALL = ["sharpness.examples=40", "sharpness.batch_size=40", "sharpness.max_products=100", "sharpness.tolerance=0.1"]


def home(folder: Path) -> Path:
    (found,) = folder.glob("outputs/runs/*/*/seed=*[0-9]")
    return found.relative_to(folder)


def trained(folder: Path, *words: str) -> Said:
    said = command(train.main, folder, *SETTINGS, *words)
    assert said.code == 0, said
    return said


def measured(folder: Path, *words: str, **more: Any) -> Said:
    return command(measure.main, folder, f"run={home(folder)}", *words, "wandb=disabled", *more)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / home(folder) / "result.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert "sharpness  lambda_max: lambda_max" in trained(folder, *SMALL).out
    return folder


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    shutil.copytree(plain / "outputs", tmp_path / "outputs")
    return tmp_path


def test_a_run_of_before_a_key_existed_is_measured(run: Path) -> None:
    """Its configuration lacks keys whose neutral value is what the code did then."""
    file = run / home(run) / "result.json"

    def age(result: dict[str, Any]) -> None:
        for key in ("compile", "graph", "clip_norm", "sharpness"):
            del result["config"][key]
        result["sharpness"] = {}

    rewrite(file, age)
    said = measured(run, "sharpness=lambda_max", "sharpness.examples=40", "sharpness.tolerance=0.1")
    assert said.code == 0, said
    assert "measured   " in said.out


# in training


def test_a_plain_run_ends_with_lambda_max_and_its_protocol(plain: Path) -> None:
    node = result(plain)["sharpness"]
    assert node.keys() == {"lambda_max"}
    assert node["lambda_max"].keys() == {"values", "protocol"}
    protocol = node["lambda_max"]["protocol"]
    assert (
        protocol
        | {
            "data": "digits",
            "split": "train",
            "images": 150,
            "examples": 40,
            "batch_size": 40,
            "augmentation": "none",
            "mode": "eval",
            "loss": "mean cross-entropy",
            "label_smoothing": 0.0,
            "weight_decay": "excluded",
            "label_noise": "none",
            "dtype": "float32",
            "weights": 65834,
            "checkpoint": "last",
            "device": "cpu",
            "solver": "lanczos",
            "tolerance": 0.1,
            "weights_sha256": result(plain)["weights_sha256"],
        }
        == protocol
    )
    assert node["lambda_max"]["values"]["lambda_max"] > 0
    assert not (plain / home(plain) / "sharpness").exists()


def test_lambda_max_of_a_run_is_that_of_its_weights_and_images(run: Path) -> None:
    """Recomputed from the weights and scikit-learn's images with torch alone, by power iteration."""
    said = measured(run, "sharpness=lambda_max", "sharpness.examples=150", "sharpness.tolerance=1e-4")
    assert said.code == 0, said
    model, config, _ = sam_repro.load(run / home(run))
    digits = load_digits()
    order = sam_repro.dataset.Validation(**config["dataset"]["validation"])
    kept = ~order.held_out(torch.from_numpy(digits.target[:1000])).numpy()
    pixels = (digits.images[:1000][kept] / 255 - config["dataset"]["mean"][0]) / config["dataset"]["std"][0]
    inputs, labels = torch.from_numpy(pixels).float().unsqueeze(1), torch.from_numpy(digits.target[:1000][kept])
    params = list(model.parameters())
    g = torch.autograd.grad(F.cross_entropy(model(inputs), labels), params, create_graph=True)
    v, theta = [torch.randn_like(p) for p in params], 0.0
    for _ in range(60):
        length = math.sqrt(sum(float((x * x).sum()) for x in v))
        v = [x / length for x in v]
        image = torch.autograd.grad(g, params, v, retain_graph=True)
        theta, v = sum(float((a * b).sum()) for a, b in zip(v, image, strict=True)), list(image)
    (file,) = (run / home(run) / "sharpness").glob("lambda_max-last-*.json")
    assert json.loads(file.read_text())["values"]["lambda_max"] == pytest.approx(theta, rel=1e-3)


def weights_and_rows(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (folder / home(folder) / "metrics.jsonl").read_text().splitlines()]
    return load_file(folder / home(folder) / "model.safetensors"), rows


def test_measuring_in_training_changes_no_bit_of_the_rest(tmp_path: Path) -> None:
    """In train mode, too: batch norm and gradients are at stake; momentum and the best epoch with them."""
    ends = {}
    for name, words in (
        ("without", ["sharpness=none"]),
        ("with", [*SMALL, "sharpness.every=1", "sharpness.mode=train"]),
        ("ascent", ["sharpness=worst_case", "sharpness.every=2", "sharpness.examples=40", "sharpness.steps=2"]),
    ):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, "augmentation=basic", *words)
        ends[name] = weights_and_rows(tmp_path / name)
    weights, rows = ends.pop("without")
    for name, (others, told) in ends.items():
        assert all(torch.equal(value, others[key]) for key, value in weights.items()), name
        for ours, theirs in zip(rows, told, strict=True):
            kept = {key: value for key, value in theirs.items() if not key.startswith("sharpness/")}
            assert kept | {"seconds": 0} == ours | {"seconds": 0}
        epochs = [row["epoch"] for row in told if any(key.startswith("sharpness/") for key in row)]
        assert epochs == ([1, 2, 3] if name == "with" else [2])
    assert len({home(tmp_path / name) for name in ("without", *ends)}) == 1
    best = [load_file(tmp_path / n / home(tmp_path / n) / "best.safetensors") for n in ("without", *ends)]
    assert all(torch.equal(value, other[key]) for other in best[1:] for key, value in best[0].items())


def test_best_weights_are_measured_at_the_end(tmp_path: Path) -> None:
    values, settings = {}, [*SMALL, *CLIMBS, "lr=0.1", "dataset.validation.count=200"]
    for report, which in (("last", "best"), ("best_validation", "last"), ("best_validation", "best")):
        folder = tmp_path / f"{report}-{which}"
        folder.mkdir()
        trained(folder, *settings, f"report={report}", f"sharpness.checkpoint={which}")
        node = result(folder)["sharpness"]["lambda_max"]
        assert node["protocol"]["checkpoint"] == which
        own = which == ("best" if report == "best_validation" else "last")
        assert (node["protocol"]["weights_sha256"] == result(folder)["weights_sha256"]) == own
        values[report, which] = node["values"]["lambda_max"]
    assert values["last", "best"] == values["best_validation", "best"] != values["best_validation", "last"]


def test_a_run_whose_sharpness_cannot_be_had_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*arguments: Any) -> None:
        raise Unmeasurable("not on Sundays")

    monkeypatch.setattr(LambdaMax, "__call__", no)
    said = trained(tmp_path, "sharpness.every=1")
    assert said.out.count("sharpness  lambda_max: not on Sundays\n") == 4
    assert result(tmp_path)["sharpness"] == {}


def test_a_measure_that_breaks_loses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*arguments: Any) -> None:
        raise ZeroDivisionError("in a measure of one's own")

    monkeypatch.setattr(LambdaMax, "__call__", no)
    said = trained(tmp_path)
    assert "sharpness  lambda_max: in a measure of one's own\n" in said.out
    assert result(tmp_path)["sharpness"] == {}


def test_what_is_stopped_while_it_measures_has_been_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LambdaMax, "__call__", stop)
        assert command(train.main, tmp_path, *SETTINGS).code == 130
    said = trained(tmp_path)
    assert "resumed    after 9 of 9 steps" in said.out
    assert result(tmp_path)["sharpness"].keys() == {"lambda_max"}


def test_the_rows_of_a_run_say_of_which_protocol_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch, calls, true = 2, [0], LambdaMax.__call__

    def stop(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return true(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LambdaMax, "__call__", stop)
        assert command(train.main, tmp_path, *SETTINGS, *SMALL, "sharpness.every=1").code == 143
    said = trained(tmp_path, *SMALL, "sharpness.every=1", "sharpness.seed=9")
    key = "sharpness/lambda_max/protocol"
    rows = [json.loads(line) for line in (tmp_path / home(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    first, second, third = [row[key] for row in rows if key in row]
    assert first == second != third
    assert f"protocol   {key} of the rows so far: {first}; from here on {third}" in said.out
    protocols = json.loads((tmp_path / home(tmp_path) / "run.json").read_text())["protocols"]
    assert (protocols[first]["seed"], protocols[third]["seed"]) == (0, 9)


def test_measures_of_one_run_are_not_taken_side_by_side(tmp_path: Path) -> None:
    said = command(train.main, tmp_path, "-m", *SETTINGS, "sharpness=lambda_max,average_case", "hydra/launcher=joblib")
    assert said.code == 2
    assert "measures of one run cannot be taken side by side" in said.err
    assert not list(tmp_path.iterdir())


# asked for later


def test_a_finished_run_is_measured_and_not_trained_again(run: Path) -> None:
    before = files(run)
    words = [*SMALL, "sharpness.seed=4"]
    said = trained(run, *words)
    assert "done       " in said.out
    assert "measured   " in said.out
    new = files(run).keys() - before.keys()
    assert len(new) == 1
    assert {name: content for name, content in files(run).items() if name not in new} == before
    assert "measured" not in trained(run, *words).out
    assert "measured" not in trained(run, *SMALL).out
    again = trained(run, *SMALL, "sharpness.every=2")
    assert "sharpness.every = 2: only possible during training; add resume=false" in again.out
    assert "sharpness  " not in trained(run, "sharpness=none").out


def test_a_sweep_over_measures_trains_once(tmp_path: Path) -> None:
    said = command(train.main, tmp_path, "-m", *SETTINGS, "sharpness=average_case,lambda_max", "sharpness.examples=40")
    assert said.code == 0, said
    assert said.out.count("result     ") == 1
    assert said.out.count("measured   ") == 1
    assert result(tmp_path)["sharpness"].keys() == {"average_case"}
    assert len(list((tmp_path / home(tmp_path) / "sharpness").glob("lambda_max-*.json"))) == 1


def test_a_damaged_measurement_is_named(run: Path) -> None:
    folder = run / home(run) / "sharpness"
    folder.mkdir()
    (folder / "lambda_max-last-01234567.json").write_text("{")
    said = measured(run, "sharpness=lambda_max", "sharpness.seed=9")
    assert said.code == 2
    assert "lambda_max-last-01234567.json: damaged (" in said.err
    assert "; remove it and measure again" in said.err
    assert said.err.count("damaged") == 1


def test_progress_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "SECONDS", 0.0)
    said = measured(run, "sharpness=landscape", "sharpness.points=3", "sharpness.examples=40")
    assert [line.partition(", about")[0] for line in said.out.splitlines() if line.startswith("measuring")] == [
        f"measuring  landscape: {done} of 3" for done in (1, 2, 3)
    ]


def test_a_run_of_before_is_measured_without_its_data_or_says_why_not(run: Path) -> None:
    path = run / home(run) / "result.json"

    def age(result: dict[str, Any]) -> None:
        del result["config"]["sharpness"], result["config"]["choices"]["sharpness"]
        result["sharpness"] = {}

    rewrite(path, age)
    save_file({}, run / home(run) / "model.safetensors")
    said = trained(run, *SMALL)
    assert "sharpness  lambda_max: not measured; " in said.out
    assert "model.safetensors: damaged (its weights are not those of result.json)" in said.out


def test_one_file_beside_the_result_which_is_untouched(run: Path) -> None:
    before = files(run)
    said = measured(run, "sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=2", "checkpoint=best")
    assert said.code == 0, said
    (name,) = files(run).keys() - before.keys()
    assert all(files(run)[key] == content for key, content in before.items())
    content = json.loads((run / name).read_text())
    assert content.keys() == {"schema", "measure", "values", "protocol", "sha256"}
    assert (content["schema"], content["measure"], content["protocol"]["checkpoint"]) == (2, "worst_case", "best")
    assert content["protocol"]["rho"] == 0.05
    stem = Path(name).stem
    assert stem.startswith("worst_case-best-")
    assert len(stem.removeprefix("worst_case-best-")) == 8
    assert Path(name).parent == home(run) / "sharpness"
    words = ["sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=2"]
    assert measured(run, *words, "checkpoint=best").out.startswith(
        f"done       {name}\nsharpness  worst_case: loss_rise"
    )
    assert "measured" in measured(run, *words).out
    assert "measured" in measured(run, "sharpness=worst_case", "sharpness.examples=40", "sharpness.steps=1").out
    assert len(list((run / home(run) / "sharpness").iterdir())) == 3


def test_what_was_measured_at_the_end_is_done(run: Path) -> None:
    said = measured(run, *SMALL)
    assert said.out.startswith(f"done       {home(run)}/result.json\nsharpness  lambda_max: lambda_max ")


def test_the_door_measures_what_training_would_have(run: Path, tmp_path: Path) -> None:
    words = ["sharpness=average_case", "sharpness.examples=40", "sharpness.pairs=2"]
    assert measured(run, *words).code == 0
    (file,) = (run / home(run) / "sharpness").glob("*.json")
    other = tmp_path / "other"
    other.mkdir()
    trained(other, *words)
    content = json.loads(file.read_text())
    assert {key: content[key] for key in ("values", "protocol")} == result(other)["sharpness"]["average_case"]


def test_a_picture_and_resuming(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sharpness=hessian", "sharpness.examples=40", "sharpness.batch_size=40", "sharpness.tolerance=0.3"]
    words += ["sharpness.trace_products=6", "sharpness.probes=2", "sharpness.steps=3"]
    probe = Hessian._probe

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Hessian, "_probe", dies)
    assert measured(run, *words).code == 130
    (partial,) = (run / home(run) / "sharpness").iterdir()
    pieces = json.loads(partial.read_text())["pieces"]
    assert pieces.keys() == {"eigenvalues", "trace"}
    marked = pieces | {"trace": [12345.0, 1.0]}
    partial.write_text(json.dumps(json.loads(partial.read_text()) | {"pieces": marked}))
    monkeypatch.setattr(Hessian, "_probe", probe)
    assert measured(run, *words).code == 0
    picture, content = sorted((run / home(run) / "sharpness").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stem == content.stem
    found = json.loads(content.read_text())
    assert found["values"]["trace"] == 12345  # taken from the pieces, not computed again
    assert found["arrays"].keys() == {"eigenvalue", "density", "density_se"}


def test_several_runs_and_measures(run: Path) -> None:
    own = home(run)
    other = own.with_name("seed=1")
    shutil.copytree(run / own, run / other)
    words = ["sharpness=average_case,m_sharpness", "sharpness.examples=40", "wandb=disabled"]
    said = command(measure.main, run, "-m", f"run={own},{other}", *words)
    assert said.code == 0, said
    assert said.out.count("measured   ") == 4
    (run / other / "model.safetensors").write_bytes(b"x")
    said = command(measure.main, run, "-m", f"run={other},{own}", *words, "sharpness.seed=1")
    assert said.code == 1
    assert said.err.count("model.safetensors: damaged") == 2
    assert said.out.count("measured   ") == 2


def test_wandb_gets_values_and_pictures_under_the_id_of_the_run(door: Server, run: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    words = [f"run={home(run)}", "sharpness=landscape", "sharpness.points=3", "sharpness.examples=40", "wandb=offline"]
    answer = door.run(run, words, door="measure", environment=environment | {"HOME": str(run)})
    assert answer.code == 0, answer
    (log,) = (run / home(run)).glob("wandb/offline-run-*/*.wandb")
    identity = json.loads((run / home(run) / "run.json").read_text())["wandb_id"]
    assert log.stem == f"run-{identity}"
    assert list(log.parent.glob("files/media/images/sharpness/landscape*.png"))
    assert b"sharpness/landscape/highest_rise" in log.read_bytes()


# refused


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
    "run=RUN sharpness.steps=3": "sharpness.steps: no such key; there are: sharpness.",
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
def homes(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("homes")
    shutil.copytree(plain / "outputs", folder / "outputs")
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


def assert_refused(answer: Answer, said: str) -> None:
    assert answer.code == 2, answer
    assert answer.err.startswith("sam_repro: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err


@pytest.mark.parametrize("line", REFUSED)
def test_refused_without_torch(light: Server, homes: tuple[Path, dict[str, str]], line: str) -> None:
    folder, names = homes
    before = files(folder)
    answer = light.run(folder, line.replace("RUN", names["RUN"]), door="measure")
    assert_refused(answer, REFUSED[line].replace("RUN", names["RUN"]))
    assert not answer.torch
    assert files(folder) == before


@pytest.mark.parametrize("line", REFUSED_BY_DRY_BUILD)
def test_refused_by_the_measure(door: Server, homes: tuple[Path, dict[str, str]], line: str) -> None:
    folder, names = homes
    before = files(folder)
    assert_refused(door.run(folder, line.replace("RUN", names["RUN"]), door="measure"), REFUSED_BY_DRY_BUILD[line])
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


def test_a_measure_outside_the_repository(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "slopes.py").write_text(
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
    option = run / "options" / "sharpness" / "slope.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: slopes.GradientNorm\npower: 2\n")
    monkeypatch.syspath_prepend(str(run))
    said = measured(run, "--config-dir", "options", "sharpness=slope", "sharpness.power=1")
    assert said.code == 0, said
    (file,) = (run / home(run) / "sharpness").glob("slope-last-*.json")
    content = json.loads(file.read_text())
    assert content["measure"] == "slope"
    assert content["protocol"]["power"] == 1
    assert content["values"]["gradient_norm"] > 0
