"""A folder of images through the doors: with noise, parts, a validation split and a measure, stopped and taken up."""

import json
import multiprocessing
import re
import signal

import pytest
import torch
from called import command
from images import make_folder
from safetensors.torch import load_file

import sam_repro
from sam_repro import measure, train
from sam_repro.run.progress import Progress

WORDS = [
    *("dataset=folder", "architecture=resnet8", "device=cpu", "precision=fp32", "threads=1", "wandb=disabled"),
    *("dataset.source.size=8", "epochs=3", "batch_size=5", "m=3", "record_every=1", "progress=silent"),
    *("label_noise.rate=0.5", "dataset.validation.count=4", "dataset.validation.augmented=true"),
    *("sharpness=lambda_max", "sharpness.examples=6", "sharpness.tolerance=0.3"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


def home(folder):
    (found,) = folder.glob("outputs/runs/*/*/seed=0")
    return found


def left_by(folder):
    result = json.loads((home(folder) / "result.json").read_text())
    rows = [json.loads(row) for row in (home(folder) / "metrics.jsonl").read_text().splitlines()]
    kept = {key: result[key] for key in ("metrics", "label_noise", "sharpness", "normalisation", "inputs", "classes")}
    return kept, [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A run that nothing disturbs, without workers."""
    folder = tmp_path_factory.mktemp("whole")
    ended = command(train.main, folder, *WORDS, f"data_dir={root}", "dataset.workers=0")
    assert ended.code == 0, ended.err
    return folder


def test_two_workers_and_a_signal_in_the_middle_change_no_bit(root, whole, tmp_path, monkeypatch):
    words = [*WORDS, f"data_dir={root}", "dataset.workers=2"]
    monkeypatch.setattr(Progress, "step", lambda self, done: done == 4 and signal.raise_signal(signal.SIGINT))
    stopped = command(train.main, tmp_path, *words)
    assert (stopped.code, multiprocessing.active_children()) == (130, [])
    assert "saved after 4 steps" in stopped.err
    assert command(train.main, tmp_path, *words).code == 0
    assert home(tmp_path).parent.name == home(whole).parent.name
    assert left_by(tmp_path) == left_by(whole)
    ours, theirs = (load_file(home(folder) / "model.safetensors") for folder in (tmp_path, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_finished_run_knows_its_classes_and_can_be_measured(root, whole):
    loaded = sam_repro.load(home(whole))
    assert loaded.classes == ["class 0", "class 1", "class 2"]
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    words = [f"run={home(whole)}", "sharpness=luong2024", "sharpness.batches=1", "sharpness.batch_size=4"]
    ended = command(measure.main, whole, *words, "sharpness.tolerance=0.3")
    assert ended.code == 0, ended.err


def test_a_folder_that_changed_since_is_refused(whole, tmp_path):
    changed = make_folder(tmp_path / "changed")
    (changed / "train/class 0/0.png").unlink()
    ended = command(train.main, whole, *WORDS, f"data_dir={changed}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is of other data: inputs" in ended.err


def test_bytes_are_compared_where_that_is_asked_for(tmp_path):
    root = make_folder(tmp_path / "images")
    words = [*WORDS, f"data_dir={root}", "max_steps=1", "dataset.workers=0"]
    assert command(train.main, tmp_path, *words, "dataset.verify=true").code == 0
    file = root / "train/class 0/1.png"
    file.write_bytes(bytes([*file.read_bytes()[:-1], 0]))
    assert "done" in command(train.main, tmp_path, *words).out  # names and sizes are the same
    ended = command(train.main, tmp_path, *words, "dataset.verify=true")
    assert ended.code == 2
    assert "run.json: is of other data: inputs" in ended.err


def test_an_image_that_cannot_be_decoded_ends_a_run_with_its_name(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "val/class 1/2.png").write_text("no image")
    ended = command(train.main, tmp_path, *WORDS, f"data_dir={root}", "dataset.workers=1")
    assert ended.code == 2
    assert re.fullmatch(
        r"sam_repro: .*val/class 1/2.png: cannot be decoded \(.*\); mend it or take it away\n", ended.err
    )
    assert multiprocessing.active_children() == []
    assert "2.png" in json.loads((home(tmp_path) / "failed.json").read_text())["error"]


def test_the_share_of_waiting_for_images_is_recorded(whole):
    rows = [json.loads(row) for row in (home(whole) / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    waited = [row["waiting_seconds"] for row in epochs]
    assert len(waited) == 3
    assert 0 < waited[0] <= waited[1] <= waited[2]
    assert all(row["waiting_seconds"] <= row["seconds"] for row in epochs)
