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
