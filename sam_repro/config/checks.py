"""Which values are allowed, and which combinations are not."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from sam_repro import limits
from sam_repro.config.schema import flat

_natural = partial(limits.integer, low=0)
_positive = partial(limits.integer, low=1)
_seed = partial(limits.integer, low=0, high=2**32 - 1)  # what NumPy's frozen streams take
_share = partial(limits.number, low=0, below=1)


def _one_of(*allowed: str) -> Callable[[str, Any], None]:
    return partial(limits.choice, allowed=allowed)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {limits.shown(value)}: must be a non-empty text")


def _plain_name(name: str, value: Any) -> None:
    if not isinstance(value, str | int) or not re.fullmatch(r"[\w-][\w.-]{0,59}", str(value)):
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


def _ball_norm(name: str, value: Any) -> None:
    if value not in (2, math.inf, "inf"):
        raise ValueError(f"{name} = {limits.shown(value)}: must be 2 or inf")


def _pattern(name: str, value: Any) -> None:
    try:
        if value is not None:
            _text(name, value)
            re.compile(value)
    except re.error as error:
        raise ValueError(f"{name} = {limits.shown(value)}: must be a pattern of names ({error}), or null") from None
    except ValueError as error:
        raise ValueError(f"{error}, or null") from None


def _odd(name: str, value: Any) -> None:
    limits.integer(name, value, low=3)
    if value % 2 == 0:
        raise ValueError(f"{name} = {value}: must be odd, so that the weights themselves are on the grid")


def _order(name: str, value: Any) -> None:
    if value not in (math.inf, "inf"):
        try:
            limits.number(name, value, above=1)
        except ValueError as error:
            raise ValueError(f"{error}, or inf") from None


LIMITS: dict[str, Callable[[str, Any], None]] = {
    "rho": partial(limits.number, low=0, optional=True),
    "seed": _seed,
    "epochs": _positive,
    "batch_size": _positive,
    "lr": partial(limits.number, above=0),
    "weight_decay": partial(limits.number, low=0),
    "weight_decay_in": _one_of("base", "loss"),
    "weight_decay_on": _one_of("all", "no_norm_no_bias"),
    "m": partial(limits.integer, low=1, optional=True),
    "clip_norm": partial(limits.number, above=0, optional=True),
    "drop_last": limits.boolean,
    "max_steps": partial(limits.integer, low=1, optional=True),
    "batch_norm_statistics": _one_of("mean", "first", "both"),
    "same_noise": limits.boolean,
    "label_smoothing": _share,
    "label_noise.rate": partial(limits.number, low=0, high=1),
    "label_noise.kind": _one_of("uniform", "symmetric", "asymmetric"),
    "label_noise.seed": _seed,
    "report": _one_of("last", "best_validation"),
    "rho_follows": _one_of("constant", "lr"),
    "rho_warmup_epochs": partial(limits.number, low=0),
    "precision": _one_of("auto", "fp32", "tf32", "bf16"),
    "channels_last": limits.boolean,
    "device": _device,
    "deterministic": limits.boolean,
    "compile": limits.boolean,
    "graph": limits.boolean,
    "threads": partial(limits.integer, low=1, optional=True),
    "name": _plain_name,
    "data_dir": _text,
    "download": limits.boolean,
    "wandb": _one_of("auto", "online", "offline", "disabled"),
    "resume": limits.boolean,
    "progress": _one_of("auto", "bar", "lines", "silent"),
    "record_every": partial(limits.integer, low=1, optional=True),
    "diagnostics": _one_of("standard", "loss", "drift"),
    "diagnose_every": partial(limits.integer, low=1, optional=True),
    "checkpoint_every": partial(limits.number, low=0),
    "cell": _cell,
    "dataset.train_images": _positive,
    "dataset.verified": limits.boolean,
    "dataset.mean": limits.numbers,
    "dataset.std": partial(limits.numbers, above=0),
    "dataset.augmentation.pad": _natural,
    "dataset.augmentation.flip": limits.boolean,
    "dataset.augmentation.cutout": _natural,
    "dataset.validation.count": _natural,
    "dataset.validation.seed": _seed,
    "dataset.validation.stratified": limits.boolean,
    "dataset.validation.augmented": limits.boolean,
    "dataset.validation.noisy": limits.boolean,
    "augmentation.pad": _natural,
    "augmentation.padding_mode": _one_of("zero", "reflect"),
    "augmentation.flip": limits.boolean,
    "augmentation.cutout.size": _natural,
    "augmentation.cutout.per": _one_of("image", "batch"),
    "augmentation.cutout.probability": partial(limits.number, low=0, high=1),
    "architecture.initialisation": _one_of("torch", "he_fan_in", "he_fan_out", "he_fan_in_uniform_norm"),
    "architecture.stem": _one_of("auto", "cifar", "imagenet"),
    "architecture.shortcut": _one_of("conv", "pool"),
    "base_optimizer.momentum": _share,
    "base_optimizer.dampening": partial(limits.number, low=0),
    "base_optimizer.nesterov": limits.boolean,
    "base_optimizer.fused": limits.boolean,
    "base_optimizer.betas": partial(limits.numbers, low=0, below=1),
    "base_optimizer.eps": partial(limits.number, above=0),
    "base_optimizer.max_grad_norm": partial(limits.number, above=0, optional=True),
    "optimizer.p": _order,
    "optimizer.ascent_steps": _positive,
    "optimizer.ascent": _one_of("gradient", "random"),
    "optimizer.second_order": limits.boolean,
    "optimizer.perturb": _one_of("all", "no_norm", "only_norm"),
    "optimizer.eta": partial(limits.number, low=0),
    "optimizer.scope": _one_of("global", "tensor", "element"),
    "optimizer.classes": partial(limits.integers, low=1, high=4),
    "optimizer.scale": partial(limits.number, low=0),
    "optimizer.rest": _one_of("sgd", "sam"),
    "optimizer.period": _positive,
    "optimizer.alpha": partial(limits.number, low=0),
    "optimizer.formula": _one_of("layer_wg", "layer_wg_globalnorm", "layer_unit"),
    "optimizer.curvature": _one_of("gauss_newton", "hessian", "gauss_newton_diagonal", "hutchinson_abs"),
    "schedule.per": _one_of("step", "epoch"),
    "schedule.warmup_epochs": partial(limits.number, low=0),
    "schedule.final": partial(limits.number, low=0, high=1),
    "schedule.milestones": partial(limits.numbers, above=0, below=1),
    "schedule.gamma": partial(limits.number, above=0, high=1),
    "sharpness.every": partial(limits.integer, low=1, optional=True),
    "sharpness.checkpoint": _one_of("last", "best"),
    "sharpness.examples": _positive,
    "sharpness.batch_size": _positive,
    "sharpness.batches": _positive,
    "sharpness.mode": _one_of("eval", "train"),
    "sharpness.parameters": _pattern,
    "sharpness.seed": _seed,
    "sharpness.solver": _one_of("lanczos", "power"),
    "sharpness.tolerance": partial(limits.number, above=0),
    "sharpness.max_products": _positive,
    "sharpness.trace_products": partial(limits.integer, low=6),
    "sharpness.probes": partial(limits.integer, low=2),
    "sharpness.steps": _positive,
    "sharpness.width": partial(limits.number, above=0, high=1),
    "sharpness.rho": partial(limits.number, above=0, optional=True),
    "sharpness.p": _ball_norm,
    "sharpness.adaptive": limits.boolean,
    "sharpness.starts": _positive,
    "sharpness.m": _positive,
    "sharpness.pairs": partial(limits.integer, low=2),
    "sharpness.dimensions": partial(limits.choice, allowed=(1, 2)),
    "sharpness.points": _odd,
    "sharpness.extent": partial(limits.number, above=0),
}
"""What a value may be, by key: enough to refuse a command line before anything heavy is imported."""
BUILT = {
    "dataset.source": True,
    "architecture": True,
    "augmentation": True,
    "optimizer": True,
    "base_optimizer": True,
    "schedule": False,
    "sharpness": False,
}
"""The nodes that name an object to build, and whether arguments are added when it is built: their `_partial_`."""


def check(config: dict[str, Any]) -> list[str]:
    """What is wrong with a resolved configuration: one line for each finding, none if it may run."""
    leaves = flat(config)
    ours = (key for key in leaves if _is_ours(key, leaves))
    findings = [line for key in ours if (line := finding(key, leaves[key]))]
    return findings or _unbuilt(leaves) or [line for line in _cross(config, leaves) if line]


def finding(key: str, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    if parts := [part for part in LIMITS if part.startswith(f"{key}.")]:
        return f"{key} = {limits.shown(value)}: has keys of its own; set {', '.join(parts)}"
    if whole := [whole for whole in LIMITS if key.startswith(f"{whole}.")]:
        return f"{key}: no such key, because {whole[0]} is one value; write {whole[0]}=value"
    try:
        LIMITS.get(key, lambda *_: None)(key, value)
    except ValueError as error:
        return str(error)
    return None


def _is_ours(key: str, leaves: dict[str, Any]) -> bool:
    """Whether the limits speak of this key: what is built from elsewhere has keys of its own, by whatever name."""
    target = leaves.get(f"{key.partition('.')[0]}._target_")
    return (
        key in ("sharpness.every", "sharpness.checkpoint")
        or not isinstance(target, str)
        or target.partition(".")[0] in ("sam_repro", "torch", "timm")
    )


def _unbuilt(leaves: dict[str, Any]) -> list[str]:
    """Findings about nodes that do not say what they build."""
    return [
        f"{node}: its file must say what it builds, by _target_: package.module.name"
        + (" and _partial_: true" if partial else "")
        for node, partial in BUILT.items()
        if not isinstance(leaves.get(f"{node}._target_"), str) or leaves.get(f"{node}._partial_", False) is not partial
    ]


def _cross(config: dict[str, Any], leaves: dict[str, Any]) -> list[str | None]:
    """Findings between keys."""
    has_rho = "optimizer.rho" in leaves
    rule = config.get("choices", {}).get("optimizer", "this optimizer")
    validation = leaves.get("dataset.validation.count", 0)
    warmup = leaves.get("schedule.warmup_epochs", 0)
    momentum = leaves.get("base_optimizer.momentum", 0)
    curvature, period = leaves.get("optimizer.curvature"), leaves.get("optimizer.period", 1)
    return [
        f"rho = {config['rho']}: {rule} has no rho; leave rho out, or choose optimizer=sam"
        if config["rho"] is not None and not has_rho
        else None,
        f"rho = null: {rule} needs a radius; give one, such as rho=0.05" if has_rho and config["rho"] is None else None,
        f"optimizer.rho = {limits.shown(leaves['optimizer.rho'])}: follows rho; write rho=value"
        if has_rho and leaves["optimizer.rho"] != config["rho"]
        else None,
        f"m = {config['m']}: must be at most batch_size = {config['batch_size']}, of which it is a part"
        if (config["m"] or 0) > config["batch_size"]
        else None,
        "report = best_validation: there is no validation split; hold images out, such as dataset.validation.count=200"
        if config["report"] == "best_validation" and not validation
        else None,
        f"optimizer.period = {period}: {curvature} has no diagonal to keep; choose optimizer.period=1, or "
        "optimizer.curvature=gauss_newton_diagonal or hutchinson_abs"
        if curvature in ("gauss_newton", "hessian") and period > 1
        else None,
        f"schedule.warmup_epochs = {warmup}: must be less than epochs = {config['epochs']}"
        if warmup >= config["epochs"]
        else None,
        "base_optimizer.nesterov = true: needs base_optimizer.momentum > 0 and dampening = 0"
        if leaves.get("base_optimizer.nesterov") and (not momentum or leaves.get("base_optimizer.dampening"))
        else None,
        "precision = tf32: is for CUDA; on the CPU choose fp32 or bf16"
        if config["precision"] == "tf32" and config["device"] == "cpu"
        else None,
        f"dataset.std = {limits.shown(leaves['dataset.std'])}: must be as many numbers as dataset.mean, "
        f"{len(leaves['dataset.mean'])}"
        if len(leaves.get("dataset.mean", [])) != len(leaves.get("dataset.std", []))
        else None,
        *_of_the_ascent(leaves),
        *sharpness_findings(config, config["rho"]),
        *_of_the_graph(leaves),
    ]


def sharpness_findings(config: dict[str, Any], rho: float | None) -> list[str]:
    """Findings about the measure of a configuration, on a run with this radius."""
    node, name = config.get("sharpness", {}), config.get("choices", {}).get("sharpness")
    findings = []
    if "rho" in node and node["rho"] is None and not rho:
        findings.append(f"sharpness.rho = null: the run has no rho for {name}; give one, such as sharpness.rho=0.05")
    if name == "none" and node.get("every") is not None:
        findings.append(f"sharpness.every = {node['every']}: nothing is measured; choose sharpness=lambda_max")
    return findings


def _of_the_ascent(leaves: dict[str, Any]) -> list[str]:
    """Findings between the keys of optimizer=sam."""
    keys = [f"optimizer.{key}" for key in ("p", "ascent_steps", "ascent", "second_order")]
    if not leaves.keys() >= set(keys):
        return []
    p, steps, ascent, second_order = (leaves[key] for key in keys)
    findings = []
    if steps > 1 and p not in (2, "inf"):
        findings.append(f"optimizer.ascent_steps = {steps}: needs optimizer.p=2 or optimizer.p=inf")
    if ascent == "random" and (p != 2 or steps > 1):
        findings.append("optimizer.ascent = random: needs optimizer.p=2 and optimizer.ascent_steps=1")
    if second_order and (p != 2 or steps > 1 or ascent == "random"):
        needed = "optimizer.p=2, optimizer.ascent_steps=1 and optimizer.ascent=gradient"
        findings.append(f"optimizer.second_order = true: needs {needed}")
    return findings


def _of_the_graph(leaves: dict[str, Any]) -> list[str]:
    """Findings about steps that no CUDA graph can hold."""
    if not leaves["graph"]:
        return []
    needs = {"diagnostics=standard or loss": leaves["diagnostics"] == "drift", "a GPU": leaves["device"] == "cpu"}
    stateful = "base_optimizer.betas" in leaves  # AdamW and LAMB count steps on the host
    needs["base_optimizer=sgd, fused"] = stateful or leaves.get("base_optimizer.fused") is not True
    needs["a rule without Hessian products"] = "optimizer.curvature" in leaves or leaves.get("optimizer.second_order")
    return [f"graph = true: needs {what}" for what, missing in needs.items() if missing]
