"""The operations of AutoAugment and RandAugment, each image by its own, as PIL computes them to the last bit."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from sam_repro.augmentation.colour import per_channel

BITS = 16
"""PIL's coordinates are integers in units of 2⁻¹⁶ pixel."""


class Constants(NamedTuple):
    """What is known of each of R operations, on a device.

    Args:
        stage: [R], int64: the number of its stage, −1 for none.
        matrix: [R, 6], int32: an affine map in units of 2⁻¹⁶ pixel; the identity where nothing moves.
        table: [R, 256], uint8: the new value of each value, where that does not depend on the image.
        strength: [R], float32.
    """

    stage: Tensor
    matrix: Tensor
    table: Tensor
    strength: Tensor


class Operations:
    """R operations, of which each image gets one.

    On a GPU every image goes through every stage, and what a stage makes of the images that are not its own is thrown
    away: the host never waits, and a CUDA graph can hold it. On a CPU a stage works on its own images alone.

    Args:
        operations: name and strength of each. ShearX, ShearY: pixels per pixel; TranslateX, TranslateY: pixels; Rotate:
            degrees; Posterize: bits that are kept; Solarize: the lowest value that is inverted; SolarizeAdd: what is
            added to values below 128; Brightness, Color, Contrast, Sharpness: the factor of PIL's `enhance`; Cutout:
            side in pixels; AutoContrast, Equalize, Invert and Identity have none.
        fill: colour of what comes from outside of the image, and of Cutout: a number for each channel.
    """

    def __init__(self, operations: Sequence[tuple[str, float]], fill: Sequence[int]) -> None:
        self.operations = tuple(operations)
        self.fill = tuple(fill)
        self.stages = {_stage(name) for name, _ in operations}

    def __call__(self, images: Tensor, chosen: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The images, each after its operation.

        Args:
            images: [B, 3, H, W], uint8.
            chosen: [B], int64: the number of each image's operation.
            row: [B], int64: centre of the square of Cutout.
            column: like `row`.
        """
        of = _constants(self.operations, images.shape[2], images.shape[3], images.device)
        fill = per_channel(self.fill, torch.uint8, images.device)[0]
        some = grouped if images.device.type == "cpu" else everywhere
        for number, (stage, change) in enumerate(STAGES.items()):
            if stage in self.stages:
                images = some(images, chosen, of.stage[chosen] == number, partial(change, of=of, fill=fill))
        return self._cut(images, of, chosen, row, column, fill) if "Cutout" in self.stages else images

    def _cut(self, images: Tensor, of: Constants, chosen: Tensor, row: Tensor, column: Tensor, fill: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size = torch.where(of.stage[chosen] == CUTOUT, of.strength[chosen].long(), 0)
        square = _covered(height, row, size)[:, :, None] & _covered(width, column, size)[:, None, :]
        return torch.where(square[:, None], fill, images)


Change = Callable[[Tensor, Tensor], Tensor]
"""What a stage makes of images, by the numbers of their operations."""


def grouped(images: Tensor, chosen: Tensor, mine: Tensor, change: Change) -> Tensor:
    """The change of those images that a mask [B] names, of them alone: the host must know which they are."""
    some = mine.nonzero().squeeze(1)
    return images.index_put((some,), change(images[some], chosen[some]))


def everywhere(images: Tensor, chosen: Tensor, mine: Tensor, change: Change) -> Tensor:
    """The same, made of all images and kept of those: nothing depends on the mask but values."""
    return torch.where(mine[:, None, None, None], change(images, chosen), images)


# Geometry


def affine(images: Tensor, matrix: Tensor, fill: Tensor) -> Tensor:
    """Each pixel (x, y) is the image's pixel (⌊ax + by + c⌋, ⌊dx + ey + f⌋), or `fill` where that is outside.

    Args:
        images: [B, C, H, W].
        matrix: [B, 6], int32: a … f, in units of 2⁻¹⁶.
        fill: [C, 1, 1].
    """
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    column, row = (a * x + b * y + c) >> BITS, (d * x + e * y + f) >> BITS
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = torch.where(inside, row * width + column, 0).long().flatten(1)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return torch.where(inside[:, None], moved, fill)


def matrix(name: str, strength: float, height: int, width: int) -> list[int]:
    """The affine map of an operation, as PIL rounds it, for pixels that are counted from their centres."""
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "ShearX":
        b = strength
    elif name == "ShearY":
        d = strength
    elif name == "TranslateX":
        c = strength
    elif name == "TranslateY":
        f = strength
    elif name == "Rotate":  # about the middle of the image
        angle = -math.radians(strength % 360)
        a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
        d, e = -b, a
        c, f = width / 2 - a * width / 2 - b * height / 2, height / 2 - d * width / 2 - e * height / 2
    return [math.floor(v * 2**BITS + 0.5) for v in (a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2)]


# New values for the values 0 … 255


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """The entry of each value in its table: of images [B, C, H, W] and tables [B, 1 or C, 256], both uint8."""
    tables = tables.expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


TABLES: dict[str, Callable[[int, float], int]] = {
    "Invert": lambda value, _: 255 - value,
    "Solarize": lambda value, threshold: value if value < threshold else 255 - value,
    "SolarizeAdd": lambda value, added: min(value + int(added), 255) if value < 128 else value,
    "Posterize": lambda value, bits: value & ~(2 ** max(8 - int(bits), 0) - 1),
}
"""What an operation makes of a value, whatever the image."""


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0 … 255."""
    low, high = (bound.double()[..., None] for bound in images.flatten(2).aminmax(dim=2))
    values = _values(images).double()
    scale = torch.full_like(low, 255) / (high - low)  # 255 / x would be 255 · (1/x)
    stretched = (values * scale + (-low * scale)).clamp(0, 255)
    return look_up(images, torch.where(high > low, stretched, values).to(torch.uint8))


def equalize(images: Tensor) -> Tensor:
    """The histogram of each channel as flat as whole values allow."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    highest = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - highest) // 255
    below = counts.cumsum(dim=2) - counts
    spread = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return look_up(images, torch.where(step > 0, spread, _values(images)).to(torch.uint8))


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from black, or towards it."""
    values = _values(images)[None, None]
    return look_up(images, blend(torch.zeros_like(values), values, factor[:, None, None]))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean grey of the image, or towards it."""
    luma = grey(images).flatten(1)
    count = luma.shape[1]
    mean = (2 * luma.sum(dim=1) + count) // (2 * count)
    return look_up(images, blend(mean[:, None, None], _values(images), factor[:, None, None]))


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the image in grey, or towards it."""
    return blend(grey(images), images, factor[:, None, None, None])


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the smoothed image, or towards it."""
    return blend(smoothed(images), images, factor[:, None, None, None])


def blend(degenerate: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """D + factor·(x − d), cut off to 0 … 255 and to whole numbers: uint8; in float32, as PIL."""
    degenerate = degenerate.float()
    difference = factor * (values.float() - degenerate)
    return (degenerate + difference).clamp(0, 255).to(torch.uint8)


def smoothed(images: Tensor) -> Tensor:
    """The rounded mean over 3×3 pixels, the middle one counted five times; pixels at the border stay."""
    pixels = images.to(torch.int16)
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * pixels[..., 1:-1, 1:-1]
    result = images.clone()
    result[..., 1:-1, 1:-1] = (sums / 13 + 0.5).to(torch.uint8)
    return result


def grey(images: Tensor) -> Tensor:
    """Luma of each pixel, as PIL rounds it: [B, 1, H, W], int32."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16


def _values(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device)


# Which operation is done by what

STAGES: dict[str, Callable[..., Tensor]] = {
    "move": lambda images, chosen, of, fill: affine(images, of.matrix[chosen], fill),
    "table": lambda images, chosen, of, fill: look_up(images, of.table[chosen][:, None]),
    "AutoContrast": lambda images, chosen, of, fill: autocontrast(images),
    "Equalize": lambda images, chosen, of, fill: equalize(images),
    "Brightness": lambda images, chosen, of, fill: brightness(images, of.strength[chosen]),
    "Contrast": lambda images, chosen, of, fill: contrast(images, of.strength[chosen]),
    "Color": lambda images, chosen, of, fill: color(images, of.strength[chosen]),
    "Sharpness": lambda images, chosen, of, fill: sharpness(images, of.strength[chosen]),
}
CUTOUT, NONE = len(STAGES), -1
MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def _stage(name: str) -> str:
    return "move" if name in MOVES else "table" if name in TABLES else name


def _number(name: str) -> int:
    return {stage: number for number, stage in enumerate([*STAGES, "Cutout"])}.get(_stage(name), NONE)


@cache
def _constants(operations: tuple[tuple[str, float], ...], height: int, width: int, device: torch.device) -> Constants:
    unchanged: Callable[[int, float], int] = lambda value, _: value  # noqa: E731
    tables = [[TABLES.get(name, unchanged)(value, strength) for value in range(256)] for name, strength in operations]
    matrices = [matrix(name, strength, height, width) for name, strength in operations]
    return Constants(
        torch.tensor([_number(name) for name, _ in operations], device=device),
        torch.tensor(matrices, dtype=torch.int32, device=device),
        torch.tensor(tables, dtype=torch.uint8, device=device),
        torch.tensor([strength for _, strength in operations], dtype=torch.float32, device=device),
    )


def _covered(length: int, centre: Tensor, size: Tensor) -> Tensor:
    """Which of the positions 0 … length − 1 a stretch of each size around each centre covers: [B, length]."""
    offset = torch.arange(length, device=centre.device) - (centre - size // 2)[:, None]
    return (offset >= 0) & (offset < size[:, None])
