"""Images per second from a folder into normalised batches: ours against torchvision's ImageFolder and DataLoader.

    python scripts/bench_folder.py --data FOLDER [--quick] [--gpu] [--rounds N]

FOLDER has train/<class>/*. Random resized crop and flip at 64 pixels, an epoch for each timing, with 0 and 2 workers,
in turns, on the wall clock: worker processes are what is timed. Views differ from run to run; before the clock starts,
ours is compared with torchvision's for a given crop. After it an epoch is read once more, and the memory of all
processes of this script is told at its quarters.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench import Bench, agree
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional

from sam_repro.augmentation import Augmentation, Flip, ResizedCrop
from sam_repro.dataset import LabelNoise, Validation, prepare
from sam_repro.dataset.folder import folder
from sam_repro.dataset.split import Split

MEAN, STD, SIZE, BATCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 64, 64
CROP = ResizedCrop()


def our_split(root: Path, workers: int, device: torch.device) -> Split:
    """The training images, as a run has them."""
    augmentation = Augmentation(MEAN, STD, order=["crop", "flip", "normalise"], crop=CROP, flip=Flip())
    found = folder(str(root), download=False, size=SIZE, workers=workers)
    return prepare(found, Validation(), LabelNoise(), augmentation).train.to(device)


def our_epoch(split: Split, after: Callable[[int], None] = lambda step: None) -> None:
    """Each image once, in a random order, as the trainer reads them."""
    rows = torch.randperm(len(split)).split(BATCH)
    generator = torch.Generator(split.drawn_on).manual_seed(0)
    for step, raw in enumerate(split.read(rows, range(len(rows)))):
        split.batch(raw, generator)
        after(step)
    if split.device.type == "cuda":
        torch.cuda.synchronize()


def their_epoch(root: Path, workers: int, device: torch.device) -> Callable[[], None]:
    """What most training scripts for ImageNet do."""
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = ImageFolder(root / "train", transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")

    def epoch() -> None:
        for inputs, targets in loader:
            inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def check(split: Split, root: Path) -> None:
    """The square of one image against torchvision's, for the same part of it."""
    with Image.open(root / split.files[0]) as opened:
        image = opened.convert("RGB")
    left, top, width, height = CROP.box(*image.size, torch.Generator().manual_seed(1))
    theirs = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE])
    ours = CROP(image, SIZE, torch.Generator().manual_seed(1))
    agree("resized crop", [functional.to_tensor(ours)], [functional.to_tensor(theirs)], 0.0)


def memory_mib() -> float:
    """Resident memory of this process and its workers; what they share counts for each of them."""
    own = Path("/proc/self")
    children = (own / "task" / str(os.getpid()) / "children").read_text().split()
    pages = [int((Path("/proc") / pid / "statm").read_text().split()[1]) for pid in ["self", *children]]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    bench = Bench("bench_folder", __doc__)
    root = bench.arguments.data
    if root is None or not (root / "train").is_dir():
        raise SystemExit("--data: name a folder of train/<class>/*")
    check(our_split(root, 0, torch.device("cpu")), root)
    counts = (0,) if bench.quick else (0, 2)
    splits = {workers: our_split(root, workers, bench.device) for workers in counts}
    rows: dict[str, Callable[[], None]] = {}
    for workers, split in splits.items():
        rows[f"torchvision, {workers} workers"] = their_epoch(root, workers, bench.device)
        rows[f"ours, {workers} workers"] = lambda split=split: our_epoch(split)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(1 + bench.rounds):  # the first fills the disk cache
        for name in rows if number % 2 else reversed(rows):
            began = time.perf_counter()
            rows[name]()
            seconds[name] += [time.perf_counter() - began] if number else []
    images = len(splits[0])
    for name, taken in seconds.items():
        rates = sorted(images / x for x in taken)
        bench.note(f"{name}: {statistics.median(rates):.0f} images/s ({rates[0]:.0f} to {rates[-1]:.0f})")
        bench.say(variant=name, images_per_second=statistics.median(rates), rounds=len(rates))
    seen: list[float] = []
    our_epoch(splits[counts[-1]], lambda step: seen.append(memory_mib()))
    quarters = [round(seen[len(seen) * i // 4 - 1]) for i in range(1, 5)]
    bench.note(f"memory at the quarters of an epoch, {counts[-1]} workers: {quarters} MiB")
    bench.say(memory_mib=quarters)
    for workers in counts:
        pairs = zip(seconds[f"ours, {workers} workers"], seconds[f"torchvision, {workers} workers"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        bench.target("", f"ours / torchvision, {workers} workers", ratio, 1.1)
    bench.close()


if __name__ == "__main__":
    main()
