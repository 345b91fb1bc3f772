"""Settings of a base optimizer: the constructors of torch and timm let through what they then cannot compute with."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sam_repro import limits

LIMITS: dict[str, Callable[[str, Any], None]] = {
    "momentum": partial(limits.number, low=0, below=1),
    "dampening": partial(limits.number, low=0),
    "nesterov": limits.boolean,
    "fused": limits.boolean,
    "betas": partial(limits.numbers, length=2, low=0, below=1),
    "eps": partial(limits.number, above=0),
    "max_grad_norm": partial(limits.number, above=0, optional=True),
}


def check_base(settings: Mapping[str, Any]) -> None:
    """Refuse settings that a base optimizer of torch or timm should have refused; of other keys nothing is known.

    Args:
        settings: the keyword arguments of its constructor.

    Raises:
        ValueError: naming the first that is out of its limits.
    """
    for key, value in settings.items():
        if key in LIMITS:
            LIMITS[key](key, value)
    if settings.get("nesterov") and (not settings.get("momentum") or settings.get("dampening")):
        raise ValueError("nesterov = true: needs momentum > 0 and dampening = 0")
