"""Every data set and every augmentation, through the door: two steps of SAM on images of its shape."""

import importlib
import json
import math

import pytest
import torch
from called import command
from images import PHOTOGRAPHS, make_aircraft, make_folder

from sam_repro import train
from sam_repro.config.lines import compose_line
from sam_repro.config.options import groups_of
from sam_repro.dataset import Images

OPTIONS = groups_of(None)
SETTINGS = ["architecture=resnet8", "max_steps=2", "batch_size=6", "sharpness=none", "wandb=disabled"]
OF_FILES = ["dataset.source.size=8", "dataset.workers=0"]


def random_images(classes, channels, size, train=12, test=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (train + test, channels, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(train + test) % classes
    return Images(images[:train], labels[:train], images[train:], labels[train:], classes)


def two_steps(folder, monkeypatch, *words):
    """Run a line on random images, resident ones of the shape that its option names or files, and check its record."""
    dataset = compose_line(list(words))["dataset"]
    module, _, name = dataset["source"]["_target_"].rpartition(".")
    if name == "folder":
        shape = ["dataset.shape=[3, 3, 8]"] if "shape" in dataset else []
        words = (*words, f"data_dir={make_folder(folder / 'images')}", *OF_FILES, *shape)
    elif name == "torchvision_files":
        data = make_aircraft(folder / "data")
        words = (*words, f"data_dir={data}", "dataset.source.name=FGVCAircraft", "download=false", *OF_FILES)
    else:
        images = random_images(*(dataset.get("shape") or [3, 3, 12]))
        monkeypatch.setattr(importlib.import_module(module), name, lambda **_: images)
    said = command(train.main, folder, *words, *SETTINGS)
    assert said.code == 0, said.err
    (result,) = folder.glob("outputs/**/result.json")
    record = json.loads(result.read_text())
    assert record["cost"]["steps"] == 2
    assert math.isfinite(record["metrics"]["train"]["loss"])


@pytest.mark.parametrize("dataset", [name for name in OPTIONS["dataset"] if name not in PHOTOGRAPHS])
def test_every_data_set(dataset, tmp_path, monkeypatch):
    two_steps(tmp_path, monkeypatch, f"dataset={dataset}", "optimizer=sam")


@pytest.mark.parametrize("augmentation", OPTIONS["augmentation"])
def test_every_augmentation(augmentation, tmp_path, monkeypatch):
    words = [f"augmentation={augmentation}", "optimizer=sam"]
    of_files = "resized_crop" in compose_line(words)["augmentation"]["order"]
    two_steps(tmp_path, monkeypatch, f"dataset={'folder' if of_files else 'cifar10'}", *words)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["dataset=cifar10", "augmentation=cutout", "augmentation.cutout.size=60"], 40),
        (["dataset=svhn"], 16),
        (["dataset=folder"], 12),
    ],
)
def test_images_of_another_size(words, size, tmp_path, monkeypatch):
    two_steps(tmp_path, monkeypatch, *words, "optimizer=sam", f"dataset.resize.size={size}")
    (result,) = tmp_path.glob("outputs/**/result.json")
    assert json.loads(result.read_text())["shape"]["image_size"] == size
