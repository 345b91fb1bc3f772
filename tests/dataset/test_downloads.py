"""Files that are absent, damaged, cut short or interrupted; and, where they are, the real data sets.

The faults are tested on archives of a few bytes in torchvision's formats, served on the loopback.
"""

import gzip
import hashlib
import os
import pickle
import struct
import tarfile
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision import datasets
from torchvision.datasets import utils

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import DataError, downloads
from sam_repro.dataset.downloads import Archive, cifar10, cifar100, fashion_mnist

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
NOWHERE = "http://127.0.0.1:9/"  # refuses at once


def md5(path):
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class CutShort(BaseHTTPRequestHandler):
    """Promises 100 bytes, sends 10 and hangs up."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *_):
        pass


@pytest.fixture
def original(tmp_path):
    """The folder of a server: packed.tar.gz with a/one and a/two."""
    folder = tmp_path / "server"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "one").write_bytes(b"first" * 1000)
    (folder / "a" / "two").write_bytes(b"second" * 1000)
    with tarfile.open(folder / "packed.tar.gz", "w:gz") as packed:
        packed.add(folder / "a", "a")
    return folder


@pytest.fixture
def server(original):
    server = serve(partial(Quiet, directory=str(original)))
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def archive(original, server=NOWHERE):
    contents = {name: md5(original / name) for name in ("a/one", "a/two")}
    packed = original / "packed.tar.gz"
    return Archive(server + "packed.tar.gz", packed.stat().st_size, md5(packed), contents)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_download_leaves_the_contents_and_nothing_else(original, server, tmp_path):
    target = tmp_path / "new" / "data"
    archive(original, server).provide(target, download=True)
    assert files(target) == {"a/one", "a/two"}
    assert (target / "a" / "two").read_bytes() == b"second" * 1000
    archive(original).provide(target, download=False)  # found from now on


@pytest.mark.parametrize("download", [False, True])
def test_an_archive_put_there_by_hand_needs_no_network(original, tmp_path, download):
    target = tmp_path / "data"
    target.mkdir()
    (target / "packed.tar.gz").write_bytes((original / "packed.tar.gz").read_bytes())
    archive(original).provide(target, download)
    assert files(target) == {"packed.tar.gz", "a/one", "a/two"}


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-1], "empty": b"", "changed": bytes([content[0] ^ 1]) + content[1:]}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "changed"])
def test_a_damaged_file_is_refused_and_replaced(original, server, tmp_path, how):
    target = tmp_path / "data"
    archive(original, server).provide(target, download=True)
    damage(target / "a" / "two", how)
    with pytest.raises(DataError, match=r"a/two is damaged, it has (5999|0|6000) bytes\."):
        archive(original, server).provide(target, download=False)
    archive(original, server).provide(target, download=True)
    assert (target / "a" / "two").read_bytes() == b"second" * 1000


def test_a_damaged_archive_is_named(original, tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "packed.tar.gz").write_bytes((original / "packed.tar.gz").read_bytes()[:50])
    with pytest.raises(DataError, match=r"packed.tar.gz is damaged, it has 50 bytes"):
        archive(original).provide(target, download=False)
    assert files(target) == {"packed.tar.gz"}


def test_a_damaged_archive_is_fetched_anew(original, server, tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "packed.tar.gz").write_bytes((original / "packed.tar.gz").read_bytes()[:50])
    archive(original, server).provide(target, download=True)
    assert files(target) == {"packed.tar.gz", "a/one", "a/two"}


def test_the_message_has_all_that_is_needed(original, tmp_path):
    wanted = archive(original)
    with pytest.raises(DataError) as caught:
        wanted.provide(tmp_path / "data", download=False)
    message = str(caught.value)
    for part in (tmp_path / "data" / "a" / "one", wanted.url, f"{wanted.size} bytes", wanted.md5, "download=true"):
        assert str(part) in message
    assert not (tmp_path / "data").exists()


def test_offline(original, tmp_path):
    with pytest.raises(DataError, match=r"a/one is missing, and fetching it failed: .*refused.*MD5 .*yourself"):
        archive(original).provide(tmp_path / "data", download=True)
    assert files(tmp_path / "data") == set()


def test_a_transfer_that_breaks_off_leaves_nothing(original, server, tmp_path):
    broken = serve(CutShort)
    with pytest.raises(DataError, match="a/one is missing, and fetching it failed"):
        archive(original, f"http://127.0.0.1:{broken.server_port}/").provide(tmp_path / "data", download=True)
    broken.shutdown()
    broken.server_close()
    assert list((tmp_path / "data").iterdir()) == []
    archive(original, server).provide(tmp_path / "data", download=True)


def test_another_file_on_the_server_is_refused(original, server, tmp_path):
    wanted = archive(original, server)
    with tarfile.open(original / "packed.tar.gz", "w:gz") as packed:
        packed.add(original / "a" / "one", "a/one")
    with pytest.raises(DataError, match="fetching it failed"):
        wanted.provide(tmp_path / "data", download=True)
    assert files(tmp_path / "data") == set()


def test_unpacking_that_is_interrupted_leaves_nothing_under_a_final_name(original, server, tmp_path, monkeypatch):
    def interrupted(packed, folder):
        (Path(folder) / "a").mkdir()
        (Path(folder) / "a" / "one").write_bytes(b"fir")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            archive(original, server).provide(tmp_path / "data", download=True)
    assert files(tmp_path / "data") == set()
    archive(original, server).provide(tmp_path / "data", download=True)


def test_contents_with_another_checksum_are_not_used(original, server, tmp_path):
    wanted = archive(original, server)
    wrong = Archive(wanted.url, wanted.size, wanted.md5, wanted.contents | {"a/one": "0" * 32})
    with pytest.raises(DataError, match=r"fetching it failed: .*one is damaged"):
        wrong.provide(tmp_path / "data", download=True)
    assert files(tmp_path / "data") == set()


def test_a_place_that_cannot_be_written(original, server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"fetching it failed: .*file"):
        archive(original, server).provide(tmp_path / "file" / "data", download=True)


# What the three sources ask for, with torchvision's own checksums

PARTS = {
    cifar10: ("cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz", "170498071", datasets.CIFAR10.tgz_md5),
    cifar100: ("cifar-100-python/train", "cifar-100-python.tar.gz", "169001437", datasets.CIFAR100.tgz_md5),
    fashion_mnist: (
        "FashionMNIST/raw/train-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "26421880",
        datasets.FashionMNIST.resources[0][1],
    ),
}


@pytest.mark.parametrize("source", PARTS, ids=lambda source: source.__name__)
def test_absent_data(source, tmp_path):
    file, *rest = PARTS[source]
    with pytest.raises(DataError) as caught:
        source(str(tmp_path), download=False)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / file} is missing. The archive is http")
    assert all(part in message for part in rest)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("source", PARTS, ids=lambda source: source.__name__)
def test_absent_data_offline(source, tmp_path):
    with pytest.raises(DataError, match=r"is missing, and fetching it failed: .*refused.* yourself"):
        source(str(tmp_path), download=True)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("source", PARTS, ids=lambda source: source.__name__)
def test_a_file_that_is_not_the_real_one(source, tmp_path):
    file = tmp_path / PARTS[source][0]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cut")
    with pytest.raises(DataError, match=f"{file} is damaged, it has 3 bytes"):
        source(str(tmp_path), download=False)


# What they make of the files


def write_cifar(folder, names, label_key, images, labels):
    for name, rows, classes in zip(names, images, labels, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pickle.dumps({"data": rows, label_key: classes}))


@pytest.mark.parametrize(
    ("source", "kind", "label_key"),
    [(cifar10, datasets.CIFAR10, "labels"), (cifar100, datasets.CIFAR100, "fine_labels")],
)
def test_cifar_keeps_pixels_channels_and_order(source, kind, label_key, tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    trains = [name for name, _ in kind.train_list]
    rows = [random.randint(256, size=(2, 3072)).astype(np.uint8) for _ in [*trains, "test"]]
    labels = [[2 * i, 2 * i + 1] for i in range(len(rows) - 1)] + [[7, 3]]
    folder = tmp_path / kind.base_folder
    test = kind.test_list[0][0]
    write_cifar(folder, [*trains, test], label_key, rows, labels)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: []}))
    monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in trains])
    monkeypatch.setattr(kind, "test_list", [[test, md5(folder / test)]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(meta)})

    images = source(str(tmp_path), download=False)
    expected = torch.from_numpy(np.concatenate(rows))  # a row: red, green, blue, each by lines
    assert torch.equal(torch.cat([images.train_images, images.test_images]).flatten(1), expected)
    assert images.train_images[0, 1, 2, 5] == rows[0][0, 1024 + 2 * 32 + 5]
    assert images.train_labels.tolist() == list(range(2 * len(trains)))
    assert images.test_labels.tolist() == [7, 3]
    assert images.num_classes == (100 if source is cifar100 else 10)
    assert images.train_images.is_contiguous()

    meta.write_bytes(b"")
    with pytest.raises(DataError, match=f"{meta} is damaged, it has 0 bytes"):
        source(str(tmp_path), download=False)


def test_fashion_mnist_keeps_pixels_and_order_and_checks_unpacked_files(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    arrays = [
        random.randint(high, size=shape).astype(np.uint8)
        for shape, high in (((5, 28, 28), 256), ((5,), 10), ((2, 28, 28), 256), ((2,), 10))
    ]
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    resources, unpacked = [], {}
    for name, array in zip(downloads.FASHION_MNIST, arrays, strict=True):
        content = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape) + array.tobytes()
        packed = raw / f"{name}.gz"
        packed.write_bytes(gzip.compress(content))
        resources.append((packed.name, md5(packed)))
        unpacked[name] = (packed.stat().st_size, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(downloads, "FASHION_MNIST", unpacked)
    old = tmp_path / "FashionMNIST" / "processed"  # what torchvision's class would take, unchecked
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)), old / name)

    for _ in range(2):  # unpacked the first time, found the second
        images = fashion_mnist(str(tmp_path), download=False)
        for tensor, array in zip(
            (images.train_images.squeeze(1), images.train_labels, images.test_images.squeeze(1), images.test_labels),
            arrays,
            strict=True,
        ):
            assert (tensor.numpy() == array).all()

    for packed, _ in resources:
        (raw / packed).unlink()
    for how in ("cut", "changed"):
        for name in unpacked:
            intact = (raw / name).read_bytes()
            damage(raw / name, how)
            with pytest.raises(DataError, match=f"{raw / name} is damaged"):
                fashion_mnist(str(tmp_path), download=False)
            (raw / name).write_bytes(intact)


# The real files, where SAM_REPRO_DATA names a folder that has them

ROOT = os.environ.get("SAM_REPRO_DATA", "")


@pytest.mark.skipif(not ROOT, reason="SAM_REPRO_DATA names no folder with the real data sets")
@pytest.mark.parametrize(
    ("source", "shape", "test", "classes", "first", "first_test"),
    [
        (cifar10, (50_000, 3, 32, 32), 10_000, 10, 6, 3),  # frog, cat
        (cifar100, (50_000, 3, 32, 32), 10_000, 100, 19, 49),  # cattle, mountain
        (fashion_mnist, (60_000, 1, 28, 28), 10_000, 10, 9, 9),  # ankle boot
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_real_data(source, shape, test, classes, first, first_test):
    images = source(ROOT, download=False)
    assert images.train_images.shape == shape
    assert images.test_images.shape == (test, *shape[1:])
    assert torch.bincount(images.train_labels).tolist() == [shape[0] // classes] * classes
    assert torch.bincount(images.test_labels).tolist() == [test // classes] * classes
    assert (images.train_labels[0], images.test_labels[0]) == (first, first_test)
    dataset = OmegaConf.load(CONFIGS / f"{source.__name__}.yaml").dataset
    pixels = Augmentation(dataset.mean, dataset.std).normalise(images.train_images).double()
    assert pixels.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (pixels.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.skipif(not ROOT, reason="SAM_REPRO_DATA names no folder with the real data sets")
def test_real_cifar10_asymmetric_noise_is_half_of_what_is_selected():
    from sam_repro.dataset import LabelNoise, Validation, prepare

    data = prepare(
        cifar10(ROOT, download=False),
        Validation(5000),
        LabelNoise(0.4, "asymmetric"),
        Augmentation([0.5] * 3, [0.5] * 3),
    )
    assert (len(data.train), len(data.validation)) == (45_000, 5_000)
    assert data.ledger["selected"] == 20_000
    assert abs(data.ledger["flipped"] - 10_000) < 4 * (20_000 * 0.25) ** 0.5
