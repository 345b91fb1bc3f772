"""A dry build: every object of a run but its data, on the smallest network or on none, to hear what it refuses."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from sam_repro.architecture.layers import NetworkWarning
from sam_repro.config.identity import home
from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError
from sam_repro.run import build
from sam_repro.run.numerics import with_numerics
from sam_repro.run.request import WHEN
from sam_repro.training import graphs


def findings(configs: Sequence[Resolved]) -> list[str]:
    """What constructors refuse of checked configurations, one line each; nothing is loaded, nothing is written.

    Configurations that differ in their seed alone are one cell, which is built once. Where every seed of a cell is
    done it has been built before: its rule and its network, which take time, are left out.

    Args:
        configs: of the lines of a command.

    Returns:
        The findings about the first cell that has any.
    """
    cells: dict[str, list[Resolved]] = {}
    for config in configs:
        cells.setdefault(str(config | {"seed": None}), []).append(config)
    for seeds in cells.values():
        if heard := _heard(_light(seeds[0]) + ([] if all(map(_is_done, seeds)) else _heavy(seeds[0]))):
            return heard
    return []


def measure_findings(node: Resolved) -> list[str]:
    """What the constructor of a measure refuses of its node, in a line; nothing is loaded, nothing is written."""
    return _heard([partial(_measure, node)])


Parts = list[Callable[[], Any]]


def _light(config: Resolved) -> Parts:
    shape = _told_shape(config)
    images = None if shape is None else _blank(shape)
    return [
        partial(build.make_validation, config),
        partial(build.make_noise, config),
        partial(build.make_augmentation, config, images),
        partial(build.make_schedule, config),
        partial(_measure, config["sharpness"]),
    ]


def _heavy(config: Resolved) -> Parts:
    return [partial(_rule, config), partial(_network, config)]


def _rule(config: Resolved) -> None:
    rule = build.make_smallest_rule(config)
    if config["graph"]:
        with build.refused(config):
            graphs.refuse(rule, config["diagnostics"])


def _network(config: Resolved) -> None:
    if (shape := _told_shape(config)) is None:
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NetworkWarning)
        try:
            with torch.device("meta"):
                network = build.make_network(config, shape)
        except RuntimeError:  # one that looks at its numbers, of which there are none
            return
        except UserError:  # maybe for the same reason
            network = build.make_network(config, shape)
    for warning in told:
        if warning.category is NetworkWarning:
            print(f"warning    {warning.message}")
    build.make_groups(config, network, 0.0)


def _measure(node: Resolved) -> None:
    build.make_measure({key: value for key, value in node.items() if key not in WHEN})


def _told_shape(config: Resolved) -> build.Shape | None:
    told = config["dataset"].get("shape")
    return None if told is None else build.Shape(*told)


def _blank(shape: build.Shape) -> torch.Tensor:
    size = shape.image_size
    return torch.empty(1, shape.in_channels, size, size, dtype=torch.uint8, device="meta")


def _is_done(config: Resolved) -> bool:
    if not config["resume"]:
        return False
    try:
        return (home(with_numerics(config)) / "result.json").exists()
    except UserError:  # this machine cannot run it, which the run itself says; another one, of a launcher, may
        return False


def _heard(parts: Parts) -> list[str]:
    heard = []
    for part in parts:
        try:
            part()
        except UserError as refusal:
            heard.append(str(refusal))
    return heard
