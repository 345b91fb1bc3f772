"""Small folders of images, as users have them."""

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, size: tuple[int, int] = (14, 10), seed: int = 0, mode: str = "RGB") -> None:
    """A random image of (width, height); colours change slowly over it, so that sizes and places matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


def make_folder(root: Path, parts: tuple[str, ...] = ("train", "val"), classes: int = 3, each: int = 6) -> Path:
    """`part`/`class`/* images of several sizes, one of them grey; a part "" is the root."""
    for p, part in enumerate(parts):
        for c in range(classes):
            for i in range(each):
                seed = 100 * p + 10 * c + i
                size, mode = (10 + 3 * (i % 3), 9 + 2 * (i % 2)), "L" if seed == 11 else "RGB"
                save(root / part / f"class {c}" / f"{i}.png", size, seed, mode)
    return root


PHOTOGRAPHS = ("fgvc_aircraft", "flowers", "food101", "oxford_iiit_pets", "stanford_cars")
"""The options that name a set of `torchvision_files`, and say no more than how large it is."""


def make_aircraft(root: Path) -> Path:
    """FGVC Aircraft as torchvision finds it in a folder of data sets: 12 images of 2 variants, and 6 for tests."""
    folder = root / "torchvision" / "fgvc-aircraft-2013b" / "data"
    for part, count, seed in (("trainval", 12, 0), ("test", 6, 100)):
        for i in range(count):
            save(folder / "images" / f"{part}{i}.jpg", (8, 8), seed + i)
        lines = [f"{part}{i} Boeing 7{i % 2}7\n" for i in range(count)]
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("Boeing 707\nBoeing 717\n")
    return root
