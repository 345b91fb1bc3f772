"""Which values are allowed, and which combinations are not."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sam_repro import limits
from sam_repro.config.schema import OPEN, flat


def _one_of(*allowed: str | bool) -> Callable[[str, Any], None]:
    return partial(limits.choice, allowed=allowed)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {limits.shown(value)}: must be a non-empty text")


def _folder(name: str, value: Any) -> None:
    _text(name, value)
    if value.startswith("~") and os.path.expanduser(value) == value:
        raise ValueError(f"{name} = {limits.shown(value)}: there is no such user; write the path without ~")


def _optional_text(name: str, value: Any) -> None:
    if value is not None:
        _text(name, value)


def _plain_name(name: str, value: Any) -> None:
    if (
        not isinstance(value, str | int)
        or isinstance(value, bool)
        or not re.fullmatch(r"[\w-][\w.-]{0,59}", str(value))
    ):
        raise ValueError(
            f"{name} = {limits.shown(value)}: must be at most 60 letters, digits, '-', '_' and '.', the first not '.', "
            f"such as {name}=first-try"
        )


def _device(name: str, value: Any) -> None:
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdigit()):
        raise ValueError(f"{name} = {limits.shown(value)}: must be auto, cpu, cuda or cuda:<number>")


def _cell(name: str, value: Any) -> None:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not number and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{name} = {limits.shown(value)}: must be a number from 0 on, a name of the table, or null")


def _shape(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list) or len(value) != 3:
        remedy = "must be [classes, channels, size], such as [10, 3, 32], or null"
        raise ValueError(f"{name} = {limits.shown(value)}: {remedy}")
    for index, (size, low) in enumerate(zip(value, (2, 1, 1), strict=True)):
        limits.integer(f"{name}[{index}]", size, low=low)


LIMITS: dict[str, Callable[[str, Any], None]] = {
    "rho": partial(limits.radius, optional=True),
    "seed": limits.seed,
    "epochs": limits.positive,
    "batch_size": limits.positive,
    "lr": partial(limits.number, above=0),
    "weight_decay": limits.weight_decay,
    "weight_decay_in": _one_of("base", "loss"),
    "weight_decay_on": limits.weight_decay_on,
    "m": partial(limits.positive, optional=True),
    "clip_norm": partial(limits.number, above=0, optional=True),
    "drop_last": limits.boolean,
    "max_steps": partial(limits.positive, optional=True),
    "batch_norm_statistics": limits.batch_norm_statistics,
    "same_noise": limits.boolean,
    "label_smoothing": partial(limits.number, low=0, below=1),
    "label_noise.rate": limits.share,
    "label_noise.kind": limits.noise_kind,
    "label_noise.seed": limits.seed,
    "report": _one_of("last", "best_validation"),
    "precision": _one_of("auto", "fp32", "tf32", "bf16"),
    "channels_last": limits.boolean,
    "device": _device,
    "deterministic": limits.boolean,
    "compile": _one_of("auto", True, False),
    "micro_batch": partial(limits.positive, optional=True),
    "parts": limits.parts,
    "graph": _one_of("auto", True, False),
    "threads": partial(limits.integer, low=1, high=1024, optional=True),
    "name": _plain_name,
    "data_dir": _folder,
    "download": limits.boolean,
    "wandb": limits.wandb,
    "resume": limits.boolean,
    "progress": _one_of("auto", "bar", "lines", "silent"),
    "record_every": partial(limits.positive, optional=True),
    "diagnostics": limits.diagnostics,
    "diagnose_every": partial(limits.positive, optional=True),
    "checkpoint_every": partial(limits.number, low=0),
    "cell": _cell,
    "dataset.in_data_dir": limits.boolean,
    "dataset.train_images": limits.positive,
    "dataset.verified": limits.boolean,
    "dataset.shape": _shape,
    "dataset.cache": _optional_text,
    "dataset.verify": limits.boolean,
    "dataset.workers": partial(limits.integer, low=0, high=256),
    "dataset.shuffle_buffer": limits.shuffle_buffer,
    "dataset.augmentation.pad": limits.natural,
    "dataset.augmentation.flip": limits.share,
    "dataset.augmentation.cutout": limits.natural,
    "sharpness.every": partial(limits.positive, optional=True),
    "sharpness.checkpoint": _one_of("last", "best"),
}
"""What a value may be, by key: those that no constructor takes, and those that are wanted before torch is imported.

What a node's other keys may be, the constructor says that its `_target_` names: `run/dry_build.py` asks it.
"""
BUILT = {
    "dataset.source": True,
    "architecture": True,
    "augmentation": True,
    "optimizer": True,
    "base_optimizer": True,
    "schedule": False,
    "rho_schedule": False,
    "sharpness": False,
}
"""The nodes that name an object to build, and whether arguments are added when it is built: their `_partial_`."""
OPTIONS = tuple(dict.fromkeys(node.partition(".")[0] for node in BUILT))
"""The groups of which each configuration has an option."""


def _nodes_above(key: str) -> list[str]:
    """The keys of which a key is a part, the nearest first."""
    return [key[:dot] for dot in range(len(key) - 1, 0, -1) if key[dot] == "."]


PARTS: dict[str, list[str]] = {}
"""The keys with limits below a node."""
for _key in LIMITS:
    for _node in _nodes_above(_key):
        PARTS.setdefault(_node, []).append(_key)


def check(config: dict[str, Any]) -> list[str]:
    """What is wrong with a resolved configuration, one line for each finding; nothing is said of what is `OPEN`."""
    leaves = flat(config)
    given = {key: value for key, value in leaves.items() if value != OPEN}
    findings = [line for key, value in given.items() if (line := finding(key, value))]
    return findings or _unbuilt(leaves) or (list(contradictions(leaves)) if len(given) == len(leaves) else [])


def finding(key: str, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    if parts := PARTS.get(key):
        return f"{key} = {limits.shown(value)}: has keys of its own; set {', '.join(parts)}"
    if whole := [node for node in _nodes_above(key) if node in LIMITS]:
        return f"{key}: no such key, because {whole[0]} is one value; write {whole[0]}=value"
    try:
        LIMITS.get(key, lambda *_: None)(key, value)
    except ValueError as error:
        return str(error)
    return None


def _unbuilt(leaves: dict[str, Any]) -> list[str]:
    """Findings about nodes that do not say what they build."""
    if astray := [node for node in BUILT if f"{node.partition('.')[0]}.{node}._target_" in leaves]:
        return [f"{node}: the first line of its file must be # @package _global_" for node in astray]
    return [
        f"{node}: its file must say what it builds, by _target_: package.module.name"
        + (" and _partial_: true" if partial else "")
        for node, partial in BUILT.items()
        if not isinstance(leaves.get(f"{node}._target_"), str) or leaves.get(f"{node}._partial_", False) is not partial
    ]


def contradictions(leaves: dict[str, Any]) -> Iterator[str]:
    """What cannot be together and no constructor can know: a paragraph each."""
    rule, rho = leaves.get("choices.optimizer", "this optimizer"), leaves["rho"]
    if rho is not None and "optimizer.rho" not in leaves:
        yield f"rho = {rho}: {rule} has no rho; leave rho out, or choose optimizer=sam"

    if rho is None and "optimizer.rho" in leaves:
        yield f"rho = null: {rule} needs a radius; give one, such as rho=0.05"

    if leaves.get("optimizer.rho", rho) != rho:
        yield f"optimizer.rho = {limits.shown(leaves['optimizer.rho'])}: follows rho; write rho=value"

    batch_size = leaves["batch_size"]
    if (leaves["m"] or 0) > batch_size:
        yield f"m = {leaves['m']}: must be at most batch_size = {batch_size}, of which it is a part"

    if leaves["micro_batch"] is not None and leaves["micro_batch"] < (leaves["m"] or 0):
        remedy = f"must be at least m = {leaves['m']}, whose examples share one perturbation; choose micro_batch="
        yield f"micro_batch = {leaves['micro_batch']}: {remedy}{leaves['m']}"

    if (leaves.get("dataset.mean") is None) != (leaves.get("dataset.std") is None):
        yield "dataset.mean, dataset.std: one is null; give both, or neither to have them computed"

    if leaves["report"] == "best_validation" and not leaves.get("dataset.validation.count"):
        remedy = "hold images out, such as dataset.validation.count=200"
        yield f"report = best_validation: there is no validation split; {remedy}"

    yield from _contradictions_of_schedules(leaves)

    if leaves["precision"] == "tf32" and leaves["device"] == "cpu":
        yield "precision = tf32: is for CUDA; on the CPU choose fp32 or bf16"

    if leaves["graph"] is True and leaves["device"] == "cpu":
        yield "graph = true: needs a GPU; leave graph out"

    if leaves["parts"] == "branches":
        yield from _contradictions_of_branches(leaves)

    yield from contradictions_of_sharpness(leaves, rho)


def _contradictions_of_schedules(leaves: dict[str, Any]) -> Iterator[str]:
    """What a schedule says that does not fit into the run, or to its radius."""
    epochs, inside = leaves["epochs"], {"schedule.warmup_epochs", "rho_schedule.epochs"}
    for key in (*sorted(inside), "rho_schedule.warmup_epochs"):
        value = leaves.get(key)
        if isinstance(value, int | float) and (value > epochs or (value == epochs and key in inside)):
            most = "less than" if key in inside else "at most"
            yield f"{key} = {limits.shown(value)}: must be {most} epochs = {epochs}"

    low, rho = leaves.get("rho_schedule.low"), leaves["rho"]
    if isinstance(low, int | float) and rho is not None and low > rho:
        yield f"rho_schedule.low = {limits.shown(low)}: must be at most rho = {limits.shown(rho)}"


def _contradictions_of_branches(leaves: dict[str, Any]) -> Iterator[str]:
    """What cannot be together with `parts = branches`."""
    if leaves["m"] is None:
        yield "parts = branches: there is one part; say how many examples share a perturbation, such as m=32"
    if leaves["device"] == "cpu":
        yield "parts = branches: needs a GPU; leave parts out"
    if leaves["graph"] is False:
        yield "parts = branches: needs a CUDA graph; leave graph out"
    if leaves["micro_batch"] is not None:
        yield "parts = branches: all parts go through the network at once; leave micro_batch out"
    if leaves["batch_norm_statistics"] == "both":
        yield "parts = branches: choose batch_norm_statistics=mean or first; with both a part starts from another's end"


def contradictions_of_sharpness(leaves: dict[str, Any], rho: float | None) -> Iterator[str]:
    """What of a measure cannot be together, and cannot be on a run with this radius: a paragraph each."""
    name, every = leaves.get("choices.sharpness"), leaves.get("sharpness.every")
    if leaves.get("sharpness.rho", 0) is None and not rho:
        yield f"sharpness.rho = null: the run has no rho for {name}; give one, such as sharpness.rho=0.05"

    if name == "none" and every is not None:
        yield f"sharpness.every = {every}: nothing is measured; choose sharpness=lambda_max"
