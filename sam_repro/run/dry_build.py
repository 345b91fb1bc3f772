"""A dry build: every object of a run but its data, on the smallest network or on none, to hear what it refuses."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sam_repro.architecture.layers import NetworkWarning
from sam_repro.config.identity import home
from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError
from sam_repro.run import build
from sam_repro.run.numerics import with_numerics
from sam_repro.run.record import read_result
from sam_repro.run.request import WHEN, find_measurement, make_request
from sam_repro.run.sizes import refuse_sizes
from sam_repro.training import graphs


def findings(configs: Sequence[Resolved]) -> list[str]:
    """What constructors refuse of checked configurations, one line each; nothing is loaded, nothing is written.

    Configurations that differ in their seed alone are one cell, which is built once, and so is a network that several
    cells train. Where every seed of a cell is done and measured it has been built before: its rule and its network,
    which take time, are left out.

    Args:
        configs: of the lines of a command.

    Returns:
        The findings about the first cell that has any.
    """
    cells: dict[str, list[Resolved]] = {}
    for config in configs:
        cells.setdefault(str(config | {"seed": None}), []).append(config)
    networks: set[str] = set()
    for seeds in cells.values():
        stages = [LIGHT] if all(map(_is_done, seeds)) else [(*LIGHT, _rule)]
        if stages != [LIGHT] and (network := _around_network(seeds[0])) not in networks:
            networks.add(network)
            stages = [(*LIGHT, _rule, _network), (_sizes,)]
        for parts in stages:
            if heard := dict.fromkeys(line for part in parts for line in _refusals(part, seeds[0])):
                return list(heard)
    return []


def measure_findings(node: Resolved) -> list[str]:
    """What the constructor of a measure refuses of its node, one line each; nothing is loaded, nothing is written."""
    return _refusals(_measure, {"sharpness": node})


def _augmentation(config: Resolved) -> None:
    """With the data set's constants, or of its shape with others where they are computed later."""
    node, shape = config["dataset"], _told_shape(config)
    half = [0.5] * (1 if shape is None else shape.in_channels)
    told = {key: half if node.get(key) is None else node[key] for key in ("mean", "std")}
    augmentation = build.make_augmentation(config, told)
    if shape is not None:
        with build.refuse_by_key(config, "augmentation", "dataset"):
            augmentation.check(_blank(shape))


def _rule(config: Resolved) -> None:
    rule = build.make_smallest_rule(config)
    with build.refuse_by_key(config):
        graphs.refuse(build.make_plan(config).needs_graph, rule, config["diagnostics"])


def _network(config: Resolved) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NetworkWarning)
        network = _bare_network(config)
    for warning in told:
        if warning.category is NetworkWarning:
            print(f"warning    {warning.message}")
    if network is not None:
        build.make_groups(config, network, 0.0)
        _measure(config, network)


def _sizes(config: Resolved) -> None:
    """Last, because the forwards take longer than all else: a line with a bad value does not wait for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours have been printed; torch says that it copies no numbers without numbers
        network = _bare_network(config)
    images = config["dataset"].get("train_images", 0) - build.make_validation(config).count
    shape = _told_input(config)
    # where any of it is not told, the data say so, once they are there
    if network is not None and shape is not None and images >= config["batch_size"]:
        refuse_sizes(network, shape, build.make_plan(config), images)


def _bare_network(config: Resolved) -> nn.Module | None:
    """Without numbers; None where the shape of the data is not told, or where the network looks at its numbers."""
    if (shape := _told_input(config)) is None:
        return None
    try:
        with torch.device("meta"):
            return build.make_network(config, shape)
    except RuntimeError:
        return None
    except UserError as refusal:
        if KEY.match(str(refusal)):
            raise
        return build.make_network(config, shape)  # maybe it was refused because there are no numbers


def _around_network(config: Resolved) -> str:
    """All that `_network` may look at, as a text to compare."""
    return str({key: value for key, value in config.items() if key not in (*NOT_OF_NETWORK, "seed")})


def _measure(config: Resolved, network: nn.Module | None = None) -> None:
    build.make_measure({key: value for key, value in config["sharpness"].items() if key not in WHEN}, network)


def _told_shape(config: Resolved) -> build.Shape | None:
    told = config["dataset"].get("shape")
    return None if told is None else build.Shape(*told)


def _told_input(config: Resolved) -> build.Shape | None:
    """What the network gets, where the data set's file tells its shape."""
    shape, size = _told_shape(config), build.make_resize(config).size
    return shape if shape is None or size is None else replace(shape, image_size=size)


def _blank(shape: build.Shape) -> torch.Tensor:
    size = shape.image_size
    return torch.empty(1, shape.in_channels, size, size, dtype=torch.uint8, device="meta")


def _is_done(config: Resolved) -> bool:
    if not config["resume"]:
        return False
    try:
        folder = home(with_numerics(config))
        if not (folder / "result.json").exists():
            return False
        request = make_request(config, folder, read_result(folder))
        return request.is_nothing or find_measurement(request) is not None
    except (UserError, ValueError, OSError):  # the run itself says it; another machine, of a launcher, may run it
        return False


Part = Callable[[Resolved], Any]
LIGHT: tuple[Part, ...] = (
    *(build.make_validation, build.make_noise, build.check_source),
    *(_augmentation, build.make_schedule, build.make_rho_schedule, _measure),
)
NOT_OF_NETWORK = (
    *("optimizer", "base_optimizer", "rho", "rho_schedule", "lr", "weight_decay", "schedule"),
    *("augmentation", "choices", "origin", "assumed"),
)
"""Nodes and keys by which cells of a table differ, and at which no network looks."""
KEY = re.compile(r"([\w.]+)(?:\[\d+\])? = ")
"""How a refusal begins that is about one key."""


def _refusals(part: Part, config: Resolved) -> list[str]:
    """What a part refuses: one bad argument after the other, those before it left to the constructor's default.

    A refusal that speaks of an argument before it is left out, because it is about that default.
    """
    said: list[str] = []
    bad: list[str] = []
    while True:
        try:
            part(config)
            return said
        except UserError as refusal:
            line = str(refusal)
        except Exception:
            if not said:
                raise
            return said  # what was left out was needed
        key = KEY.match(line)
        if key is None or not _has(config, path := key[1].split(".")):
            return said or [line]
        if not any(re.search(rf"\b{name}\b", line[key.end() :]) for name in bad):
            said.append(line)
        bad.append(path[-1])
        config = _without(config, path)


def _has(config: Resolved, path: Sequence[str]) -> bool:
    node: Any = config
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _without(config: Resolved, path: Sequence[str]) -> Resolved:
    head, *rest = path
    if not rest:
        return {key: value for key, value in config.items() if key != head}
    return config | {head: _without(config[head], rest)}
