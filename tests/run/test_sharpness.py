"""Sharpness measured by a run itself: at its end, and during training, which it changes in no bit."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from called import command, rewrite
from measured import SETTINGS, SMALL, files, home, measured, result, trained
from rates import CLIMBS
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

import sam_repro
from sam_repro import train
from sam_repro.sharpness import LambdaMax, Unmeasurable

UNMEASURED = "not measured, as is said above; the run itself is done"


def test_a_plain_run_ends_with_lambda_max_and_its_protocol(plain_folder: Path) -> None:
    node = result(plain_folder)["sharpness"]
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
            "weights_sha256": result(plain_folder)["weights_sha256"],
        }
        == protocol
    )
    assert node["lambda_max"]["values"]["lambda_max"] > 0
    assert not (plain_folder / home(plain_folder) / "sharpness").exists()


def test_lambda_max_of_a_run_is_that_of_its_weights_and_images(folder: Path) -> None:
    """Recomputed from the weights and scikit-learn's images with torch alone, by power iteration."""
    said = measured(folder, "sharpness=lambda_max", "sharpness.examples=150", "sharpness.tolerance=1e-4")
    assert said.code == 0, said
    model, config, _ = sam_repro.load(folder / home(folder))
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
    (file,) = (folder / home(folder) / "sharpness").glob("lambda_max-last-*.json")
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
    said = command(train.main, tmp_path, *SETTINGS, "sharpness.every=1")
    assert (said.code, said.err) == (1, f"sam_repro: sharpness lambda_max: {UNMEASURED}\n")
    assert said.out.count("sharpness  lambda_max: not on Sundays\n") == 4
    assert result(tmp_path)["sharpness"] == {}


def test_a_measure_that_breaks_loses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*arguments: Any) -> None:
        raise ZeroDivisionError("in a measure of one's own")

    monkeypatch.setattr(LambdaMax, "__call__", no)
    said = command(train.main, tmp_path, *SETTINGS)
    assert (said.code, said.err) == (1, f"sam_repro: sharpness lambda_max: {UNMEASURED}\n")
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
    assert f"other settings so far: {key} in the rows is {first}\n           and from here on {third}\n" in said.out
    protocols = json.loads((tmp_path / home(tmp_path) / "run.json").read_text())["protocols"]
    assert (protocols[first]["seed"], protocols[third]["seed"]) == (0, 9)


def test_measures_of_one_run_are_not_taken_side_by_side(tmp_path: Path) -> None:
    said = command(train.main, tmp_path, "-m", *SETTINGS, "sharpness=lambda_max,average_case", "hydra/launcher=joblib")
    assert said.code == 2
    assert "measures of one run cannot be taken side by side" in said.err
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_measured_and_not_trained_again(folder: Path) -> None:
    before = files(folder)
    words = [*SMALL, "sharpness.seed=4"]
    said = trained(folder, *words)
    assert "done       " in said.out
    assert "measured   " in said.out
    new = files(folder).keys() - before.keys()
    assert len(new) == 1
    assert {name: content for name, content in files(folder).items() if name not in new} == before
    assert "measured" not in trained(folder, *words).out
    assert "measured" not in trained(folder, *SMALL).out
    again = trained(folder, *SMALL, "sharpness.every=2")
    assert "sharpness.every = 2: only possible during training; add resume=false" in again.out
    assert "sharpness  " not in trained(folder, "sharpness=none").out


def test_a_sweep_over_measures_trains_once(tmp_path: Path) -> None:
    said = command(train.main, tmp_path, "-m", *SETTINGS, "sharpness=average_case,lambda_max", "sharpness.examples=40")
    assert said.code == 0, said
    assert said.out.count("result     ") == 1
    assert said.out.count("measured   ") == 1
    assert result(tmp_path)["sharpness"].keys() == {"average_case"}
    assert len(list((tmp_path / home(tmp_path) / "sharpness").glob("lambda_max-*.json"))) == 1


def test_a_run_of_before_is_measured_without_its_data_or_says_why_not(folder: Path) -> None:
    path = folder / home(folder) / "result.json"

    def age(result: dict[str, Any]) -> None:
        del result["config"]["sharpness"], result["config"]["choices"]["sharpness"]
        result["sharpness"] = {}

    rewrite(path, age)
    save_file({}, folder / home(folder) / "model.safetensors")
    said = command(train.main, folder, *SETTINGS, *SMALL)
    assert said.code == 1
    assert "sharpness lambda_max: not measured; " in said.err
    assert "model.safetensors: damaged (its weights are not those of result.json)" in said.err
    swept = command(train.main, folder, "-m", *SETTINGS, *SMALL)
    assert swept.code == 1
    assert swept.out.splitlines()[-2].endswith("seed 0: lambda_max not measured")
