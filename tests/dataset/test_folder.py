"""Folders of images: what is found, what it is called, what is refused; and that reading has no state."""

import multiprocessing
import re
from contextlib import closing
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch
from images import make_folder, save
from PIL import Image
from torchvision.datasets import ImageFolder

from sam_repro.augmentation import Augmentation, CentreCrop, Flip, ResizedCrop
from sam_repro.dataset import DataError, LabelNoise, Validation, prepare
from sam_repro.dataset.folder import folder
from sam_repro.seeds import derived

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
VIEW = ResizedCrop()
AUGMENTED = Augmentation(MEAN, STD, order=["view", "flip", "normalise"], view=VIEW, flip=Flip())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


def found(root, **arguments):
    return folder(str(root), False, **{"size": 8} | arguments)


def train_of(root, workers=0, validation=0):
    noise = LabelNoise(rate=0.5)
    return prepare(found(root, workers=workers), Validation(validation), noise, AUGMENTED).train


def test_files_and_labels_are_those_of_torchvision(root):
    ours = found(root)
    for part, files, labels in (
        ("train", ours.train_files, ours.train_labels),
        ("val", ours.test_files, ours.test_labels),
    ):
        theirs = ImageFolder(root / part)
        assert [(str(root / file), int(label)) for file, label in zip(files, labels, strict=True)] == theirs.samples
        assert theirs.classes == ours.classes == ["class 0", "class 1", "class 2"]


def test_layouts(tmp_path):
    make_folder(tmp_path / "test", ("train", "test"))
    assert len(found(tmp_path / "test").test_files) == 18
    for parts in (("train",), ("",)):
        root = make_folder(tmp_path / f"apart{parts[0]}", parts, each=10)
        one, again, other = (found(root, test_share=0.3, split_seed=seed) for seed in (0, 0, 1))
        assert one.test_labels.bincount().tolist() == [3, 3, 3]
        assert one.train_labels.bincount().tolist() == [7, 7, 7]
        assert one.test_files == again.test_files != other.test_files
        assert len({*one.train_files, *one.test_files}) == 30


def test_a_batch_is_image_by_image_what_its_row_and_seed_say(root):
    """Decoded here by hand; grey becomes colour; the device's half draws from the generator that it is given."""
    train, rows, seed = train_of(root), torch.tensor([7, 3, 11, 0]), 5
    (raw,) = train.read([rows], [seed])
    batch = train.batch(raw, torch.Generator().manual_seed(9))
    flipped = torch.rand(4, generator=torch.Generator().manual_seed(9)) < 0.5
    assert 0 < flipped.sum() < 4
    for i, row in enumerate(rows.tolist()):
        generator = torch.Generator().manual_seed(derived(seed, row))
        with Image.open(root / train.files[row]) as image:
            square = VIEW(image.convert("RGB"), 8, generator)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        assert torch.equal(raw.images[i], pixels)
        expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        torch.testing.assert_close(batch.inputs[i], expected.flip(-1) if flipped[i] else expected, rtol=0, atol=2e-6)
    assert torch.equal(batch.targets, train.labels[rows])
    assert torch.equal(batch.rows, rows)


def test_what_is_measured_is_the_middle_and_nothing_is_drawn(root):
    train, rows = train_of(root), torch.tensor([7, 3])
    (raw,) = train.read([rows])
    for i, row in enumerate(rows.tolist()):
        with Image.open(root / train.files[row]) as image:
            square = CentreCrop(0.875)(image.convert("RGB"), 8, torch.Generator())
        assert torch.equal(raw.images[i], torch.from_numpy(np.array(square)).permute(2, 0, 1))
    assert torch.equal(train.batch(raw).inputs, AUGMENTED.normalise(raw.images))
    assert [len(batch.rows) for batch in train.batches(4)] == [4, 4, 4, 4, 2]


def test_any_number_of_workers_reads_the_same_from_any_step_on_and_leaves_torch_alone(root):
    batches = torch.randperm(18, generator=torch.Generator().manual_seed(0)).split(4)
    before = torch.get_rng_state()
    whole = list(train_of(root).read(batches, range(5)))
    for workers, start in ((2, 0), (2, 3), (0, 3)):
        again = list(train_of(root, workers).read(batches[start:], range(start, 5)))
        for one, other in zip(whole[start:], again, strict=True):
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.images, other.images)
    other = list(train_of(root).read(batches, repeat(7)))
    assert not any(torch.equal(a.images, b.images) for a, b in zip(whole, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_who_stops_early_leaves_no_worker(root):
    with closing(train_of(root, workers=2).read(torch.arange(18).split(2), range(9))) as reading:
        next(reading)
        assert len(multiprocessing.active_children()) == 2
    del reading
    assert multiprocessing.active_children() == []


def test_kept_images_are_the_decoded_ones_until_their_file_changes(tmp_path):
    root, cache = make_folder(tmp_path / "images"), tmp_path / "cache"
    rows = torch.arange(18).split(6)

    def read(**arguments):
        train = prepare(found(root, **arguments), Validation(), LabelNoise(), AUGMENTED).train
        return [raw.images for raw in train.read(rows, range(3))]

    fresh = read()
    for workers in (2, 0):
        assert all(map(torch.equal, read(cache=str(cache), workers=workers), fresh))
        assert len(list(cache.rglob("*.npy"))) == len(list(cache.rglob("*.*"))) == 18
    save(root / "train/class 0/0.png", seed=99)
    assert not torch.equal(read(cache=str(cache))[0], fresh[0])
    assert all(map(torch.equal, read(cache=str(cache)), read()))


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_of_a_cpu(root, workers):
    rows = torch.arange(18).split(4)
    here, there = (train_of(root, workers).to(device) for device in ("cpu", "cuda"))
    for one, other in zip(here.read(rows, range(5)), there.read(rows, range(5)), strict=True):
        batches = [split.batch(raw, torch.Generator().manual_seed(1)) for split, raw in ((here, one), (there, other))]
        assert batches[1].inputs.device.type == "cuda"
        for x, y in zip(*batches, strict=True):
            torch.testing.assert_close(y.cpu(), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_a_line(tmp_path, workers):
    root = make_folder(tmp_path)
    bad = root / "train/class 1/3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(
        DataError, match=f"^{re.escape(str(bad))}: cannot be decoded \\(.*\\); mend it or take it away$"
    ):
        list(train_of(root, workers).batches(5))


def test_pixels_of_16_bits_are_refused(tmp_path):
    root = make_folder(tmp_path)
    Image.fromarray(np.full((9, 9), 3000, dtype=np.uint16)).save(root / "train/class 0/2.png")
    with pytest.raises(
        DataError, match=re.escape("2.png: cannot be decoded (its pixels have more than 8 bits, mode I;16)")
    ):
        found(root).mean_and_std()


def test_mean_and_std_are_those_of_all_pixels_as_they_are_measured(root):
    for channels, mode in ((3, "RGB"), (1, "L")):
        files = found(root, channels=channels)
        pixels = []
        for name in files.train_files:
            with Image.open(root / name) as image:
                pixels.append(np.array(CentreCrop(0.875)(image.convert(mode), 8, torch.Generator())).reshape(64, -1))
        values = np.concatenate(pixels) / 255
        mean, std = files.mean_and_std()
        np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(std, values.std(axis=0), rtol=1e-12)


def test_the_digest_is_of_names_and_sizes(tmp_path):
    root = make_folder(tmp_path)
    first = found(root).sha256()
    assert found(root, size=4).sha256() == first
    (root / "train/class 0/notes.txt").write_text("not an image")
    assert found(root).sha256() == first
    (root / "val/class 2/5.png").rename(root / "val/class 2/6.png")
    renamed = found(root).sha256()
    save(root / "val/class 2/6.png", (40, 40))
    assert len({first, renamed, found(root).sha256()}) == 3


def test_a_part_knows_its_own_rows(root):
    data = prepare(found(root), Validation(5), LabelNoise(), AUGMENTED)
    assert sorted([*data.train.files, *data.validation.files]) == found(root).train_files
    for split in (data.train, data.validation, data.test):
        assert [f"class {label}" for label in split.labels.tolist()] == [file.split("/")[1] for file in split.files]
    assert data.classes == ["class 0", "class 1", "class 2"]
    assert replace(data, inputs=None).to("cpu").train.shape == (3, 8, 8)


def without(root, *names):
    for name in names:
        for file in (root / name).iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: "nowhere", "nowhere: is missing; write data_dir=FOLDER for a folder of train/<class>/*"),
        (lambda root: "train/class 0/0.png", "0.png: is no folder; write data_dir=FOLDER"),
        (lambda root: "train/class 0", "class 0: has no folder of a class, and at least two are needed"),
        (lambda root: without(root, "train/class 1"), "train/class 1: has no image (.bmp, .gif,"),
        (lambda root: without(root, "val/class 1"), "val/class 1: has no image"),
        (lambda root: save(root / "val/class 9/0.png"), "val/class 9: is a class that"),
    ],
)
def test_refused_folders(tmp_path, spoil, message):
    root = make_folder(tmp_path)
    with pytest.raises(DataError, match=re.escape(message)):
        found(root / (spoil(root) or ""))


def test_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="train: has the one class class 0, and at least two are needed"):
        found(make_folder(tmp_path, classes=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size = 0"),
        ({"channels": 2}, "channels = 2: must be one of 1, 3"),
        ({"test_share": 1}, "test_share = 1"),
        ({"split_seed": -1}, "split_seed = -1"),
        ({"workers": -1}, "workers = -1"),
        ({"share": 2}, "share = 2"),
    ],
)
def test_refused_arguments(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        found(root, **arguments)
