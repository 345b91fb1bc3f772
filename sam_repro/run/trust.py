"""Whose code a record may name: this package's, torch.nn's, torch.optim's and timm's, and no other's."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError

ROOMS = ("architecture", "augmentation", "dataset", "optimizer", "rho_schedule", "schedule", "sharpness")
TRUSTED = (*(f"sam_repro.{room}" for room in ROOMS), "torch.nn", "torch.optim", "timm")
"""Packages whose own classes and functions may be built. Of ours only the options: no other room builds a network."""


def rebuilt(config: Resolved) -> dict[str, Any]:
    """What is built again to measure a finished run, by its key in the configuration."""
    nodes = {key: config[key] for key in ("architecture", "augmentation")}
    return {"dataset.source": config["dataset"]["source"], **nodes}


def refuse_foreign(nodes: Mapping[str, Any], file: Path) -> None:
    """Refuse a record that names what must not be run, before any of it is built or imported.

    Args:
        nodes: what is about to be built, by its key in the configuration.
        file: the record, for the message.

    Raises:
        UserError: for a `_target_`, at any depth, that is not trusted, and for an interpolation, which could make one.
    """
    for key, value in _texts(nodes):
        if "${" in value:
            raise UserError(f"{file}: {key} = {value[:80]}: a record holds no interpolations; {_REMEDY}")
        if key.rpartition(".")[2] == "_target_" and not is_trusted(value):
            raise UserError(
                f"{file}: {key} = {value[:80]}: is no part of sam_repro, torch.nn, torch.optim or timm; {_REMEDY}"
            )


_REMEDY = "if you know where this run is from, say so: --trust, or trust=True in sam_repro.load"


def is_trusted(target: str) -> bool:
    """Whether a dotted name is a class or function that a trusted package itself defines, or a partial of one.

    `torch.nn.functional.torch.load` begins well and is `torch.load`: so all but the last word must be a module, and
    what it holds must have been defined in the same package. Nothing outside of the trusted packages is imported.
    """
    module, _, name = target.rpartition(".")
    package = next((package for package in TRUSTED if f"{module}.".startswith(f"{package}.")), None)
    if package is None:
        return False
    try:
        if importlib.util.find_spec(module) is None:
            return False
        made = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return False
    made = made.func if isinstance(made, partial) else made
    return callable(made) and f"{getattr(made, '__module__', '')}.".startswith(f"{package}.")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value, its keys too, with the path to it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield key, str(name)
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{key}.{index}")
