"""Images per second into the network: crop and flip, and AutoAugment, as a batch, against PIL, torchvision and kornia.

    python scripts/bench_data.py [--quick] [--gpu]

Everything ends in normalised float32 of the same shape. The loaders work in this process; on a GPU their time is still
the processor's. Random choices differ: before the clock starts, ours is compared with PIL for given choices.
"""

import itertools
from collections.abc import Callable, Iterator

import kornia.augmentation as kornia
import numpy as np
import torch
from bench import Bench, Variant, agree, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional, v2

from sam_repro.augmentation import Augmentation, AutoAugment, Crop, Cutout, Flip

MEAN, STD, PAD, SIZE = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 4, 32


class Images(Dataset):
    """Images one by one, through a transform."""

    def __init__(self, images: Tensor, transform: Callable[[object], Tensor], pil: bool) -> None:
        self.items = [Image.fromarray(np.asarray(x.permute(1, 2, 0))) for x in images] if pil else list(images)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(self.items[i])


def pil_loader(images: Tensor, batch: int, *first: Callable[[object], object]) -> DataLoader:
    """What most training scripts for CIFAR do, after other transforms."""
    transform = transforms.Compose(
        [
            *first,
            transforms.RandomCrop(SIZE, padding=PAD),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(Images(images, transform, pil=True), batch, shuffle=True)


def v2_loader(images: Tensor, batch: int) -> DataLoader:
    """The same on tensors."""
    transform = v2.Compose(
        [
            v2.RandomCrop(SIZE, padding=PAD),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(Images(images, transform, pil=False), batch, shuffle=True)


def kornia_batches(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Rows → a batch, augmented by kornia; without what it needs not, which is its fastest use."""
    transform = torch.nn.Sequential(
        kornia.RandomCrop((SIZE, SIZE), padding=PAD),
        kornia.RandomHorizontalFlip(),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(images.device)
    return lambda rows: transform(images[rows].float() / 255)


def crop_and_flip(cutout: int = 0) -> Augmentation:
    """Flip, crop, normalise, and cutout if it has a size."""
    order = ["flip", "crop", "normalise", "cutout"]
    return Augmentation(MEAN, STD, order=order, flip=Flip(), crop=Crop(PAD), cutout=Cutout(cutout))


def autoaugment() -> Augmentation:
    """Torchvision's AutoAugment for CIFAR, then flip and crop."""
    order = ["autoaugment", "flip", "crop", "normalise"]
    policy = AutoAugment("cifar", "paper", "torchvision")
    return Augmentation(MEAN, STD, order=order, autoaugment=policy, flip=Flip(), crop=Crop(PAD))


def our_batches(images: Tensor, augmentation: Augmentation) -> Callable[[Tensor], Tensor]:
    """Rows → a batch, as the trainer makes it."""
    generator = torch.Generator(images.device).manual_seed(0)
    return lambda rows: augmentation(images[rows], generator)


def check(images: Tensor) -> None:
    """Ours against PIL with the same choices."""
    few = images[:32].cpu()
    flip, (top, left) = torch.arange(32) % 2 == 0, torch.randint(2 * PAD + 1, (2, 32))
    ours = crop_and_flip().apply(few, [(flip,), (top, left)])
    theirs = []
    for i, image in enumerate(Images(few, lambda x: x, pil=True).items):
        if flip[i]:
            image = functional.hflip(image)
        image = functional.crop(functional.pad(image, PAD), int(top[i]), int(left[i]), SIZE, SIZE)
        theirs.append(functional.normalize(functional.to_tensor(image), MEAN, STD))
    agree("crop and flip", [ours], theirs if len(theirs) == 1 else [torch.stack(theirs)], 1e-6)


def batch_by_batch(make: Callable[[Tensor], Tensor], rows: Iterator[Tensor]) -> Callable[[], Tensor]:
    """The next batch."""
    return lambda: make(next(rows))


def main() -> None:
    bench = Bench("bench_data", __doc__)
    count, batch = (256, 64) if bench.quick else (2048, 128)
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    resident = images.to(bench.device)
    check(images)
    turns = itertools.cycle(torch.randperm(count).to(bench.device).split(batch))
    pil, tensors = pil_loader(images, batch), v2_loader(images, batch)
    policy = pil_loader(images, batch, transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    with torch.no_grad():
        variants = [
            Variant("DataLoader, PIL", lambda: sum(len(x) for x in pil), count),
            Variant("DataLoader, torchvision v2 on tensors", lambda: sum(len(x) for x in tensors), count),
            Variant("kornia", batch_by_batch(kornia_batches(resident), turns), batch),
            Variant("ours", batch_by_batch(our_batches(resident, crop_and_flip()), turns), batch),
            Variant("ours, with cutout", batch_by_batch(our_batches(resident, crop_and_flip(16)), turns), batch),
        ]
        seconds = bench.measure(f"crop and flip, batch {batch}", variants, "image")
        variants = [
            Variant("DataLoader, PIL", lambda: sum(len(x) for x in policy), count),
            Variant("ours", batch_by_batch(our_batches(resident, autoaugment()), turns), batch),
        ]
        bench.measure(f"AutoAugment, crop and flip, batch {batch}", variants, "image")
    bench.target("S5", "ours / DataLoader + PIL", ratio(seconds, "ours", "DataLoader, PIL"), 0.1, 0.05)
    bench.target("S5", "ours / kornia", ratio(seconds, "ours", "kornia"), 0.5, 0.3)
    bench.close()


if __name__ == "__main__":
    main()
