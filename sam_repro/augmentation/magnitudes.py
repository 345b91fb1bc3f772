"""What a level of AutoAugment or RandAugment does to an image: the readings of three codes."""

from collections.abc import Callable
from typing import NamedTuple

Strengths = dict[str, tuple[float, ...]]
"""What each operation may be given at one level: one number, or two that are equally likely."""


class Reading(NamedTuple):
    """What a code makes of a level.

    Args:
        strengths: share of the highest level, height and width → strengths, of every operation that the code has.
        highest: the level whose share is 1.
        fill: value of what comes from outside of the image; None for the mean colour of the data.
    """

    strengths: Callable[[float, int, int], Strengths]
    highest: int
    fill: int | None


def _released(share: float, height: int, width: int) -> Strengths:
    """The released code of AutoAugment, for images of 32 pixels."""
    return {
        **_moved(0.3 * share, int(10 * share), int(10 * share), int(30 * share)),
        **_enhanced(0.1 + 1.8 * share),
        **_without_level("AutoContrast", "Equalize", "Invert"),
        "Solarize": (256 - int(256 * share),),
        "Posterize": (4 - int(4 * share),),
        "Cutout": (int(20 * share),),
    }


def _efficientnet(pixels: int, cutout: int) -> Callable[[float, int, int], Strengths]:
    """EfficientNet's code, which the code of Foret et al. 2021 took over: its pixels are meant for large images.

    Args:
        pixels: of the widest translation.
        cutout: half of the largest square's side.
    """

    def strengths(share: float, height: int, width: int) -> Strengths:
        return {
            **_moved(0.3 * share, pixels * share, pixels * share, 30 * share),
            **_enhanced(0.1 + 1.8 * share),
            **_without_level("AutoContrast", "Equalize", "Invert"),
            "Solarize": (int(256 * share),),
            "SolarizeAdd": (int(110 * share),),
            "Posterize": (int(4 * share),),
            "Cutout": (2 * int(cutout * share),),
        }

    return strengths


def _torchvision(without_level: str) -> Callable[[float, int, int], Strengths]:
    """Torchvision's classes: translation as a share of the image, enhancement both ways.

    Args:
        without_level: its operation without level beside AutoContrast and Equalize.
    """

    def strengths(share: float, height: int, width: int) -> Strengths:
        down, across = (int(150 / 331 * size * share) for size in (height, width))
        return {
            **_moved(0.3 * share, across, down, 30 * share),
            **_enhanced(1 + 0.9 * share, 1 - 0.9 * share),
            **_without_level("AutoContrast", "Equalize", without_level),
            "Solarize": (255 - 255 * share,),
            "Posterize": (8 - round(4 * share),),
        }

    return strengths


def _moved(shear: float, across: float, down: float, degrees: float) -> Strengths:
    of = {"ShearX": shear, "ShearY": shear, "TranslateX": across, "TranslateY": down, "Rotate": degrees}
    return {name: (strength, -strength) for name, strength in of.items()}


def _enhanced(*factors: float) -> Strengths:
    return dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), factors)


def _without_level(*names: str) -> Strengths:
    return dict.fromkeys(names, (0.0,))


AUTOAUGMENT = {
    "autoaugment": Reading(_released, highest=10, fill=None),
    "efficientnet": Reading(_efficientnet(pixels=250, cutout=100), highest=10, fill=128),
    "torchvision": Reading(_torchvision("Invert"), highest=9, fill=0),
}
RANDAUGMENT = {
    "efficientnet": Reading(_efficientnet(pixels=100, cutout=40), highest=10, fill=128),
    "torchvision": Reading(_torchvision("Identity"), highest=30, fill=0),
}
