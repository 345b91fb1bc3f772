"""Photographs of torchvision's sets, as its own classes read them from the files that a download leaves."""

import pytest
import torch
from images import PHOTOGRAPHS, make_aircraft, save

from sam_repro.augmentation import Augmentation
from sam_repro.config.lines import check_config, compose_line
from sam_repro.dataset import DataError
from sam_repro.dataset.torchvision_files import PARTS, torchvision_files
from sam_repro.dataset.torchvision_set import torchvision_set

COUNTS = {"trainval": 12, "test": 6}


def pets(root):
    folder = root / "torchvision" / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for p, (part, count) in enumerate(COUNTS.items()):
        for i in range(count):
            save(folder / "images" / f"{part}_{i}.jpg", (8, 8), 10 * p + i, "RGB")
        lines = [f"{part}_{i} {1 + i % 2} 1 1\n" for i in range(count)]
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))


SETS = {"FGVCAircraft": make_aircraft, "OxfordIIITPet": pets}


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_are_those_of_torchvisions_class(name, tmp_path):
    SETS[name](tmp_path)
    files, theirs = (
        torchvision_files(str(tmp_path), False, name, size=8, share=None),
        torchvision_set(str(tmp_path), False, name),
    )
    assert (files.num_classes, files.classes) == (theirs.num_classes, theirs.classes)
    for part, count in zip(("train", "test"), COUNTS.values(), strict=True):
        labels, images = (getattr(theirs, f"{part}_{what}") for what in ("labels", "images"))
        split = files.split(part, torch.ones(count, dtype=torch.bool), labels, Augmentation([0.5] * 3, [0.5] * 3))
        (raw,) = split.read([torch.arange(count)])
        assert torch.equal(split.pixels(raw), images)
        assert torch.equal(getattr(files, f"{part}_labels"), labels)


def test_a_file_that_the_list_has_and_the_folder_has_not(tmp_path):
    make_aircraft(tmp_path)
    gone = tmp_path / "torchvision/fgvc-aircraft-2013b/data/images/test1.jpg"
    gone.unlink()
    with pytest.raises(DataError, match=f"^torchvision's FGVCAircraft lacks {gone}; unpack it again"):
        torchvision_files(str(tmp_path), False, "FGVCAircraft")


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"^torchvision.s Food101 cannot be had: Dataset not found"):
        torchvision_files(str(tmp_path), False, "Food101")
    with pytest.raises(ValueError, match=r"^name = Birdsnap: must be one of FGVCAircraft, "):
        torchvision_files(str(tmp_path), False, "Birdsnap")


def test_every_set_has_an_option():
    options = [check_config(compose_line([f"dataset={name}"]))["dataset"] for name in PHOTOGRAPHS]
    assert sorted(dataset["source"]["name"] for dataset in options) == sorted(PARTS)
    assert all(dataset["shape"][1:] == [3, 224] for dataset in options)
