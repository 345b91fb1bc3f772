"""What a run leaves as JSON: sealed when it is written, and checked as a whole before anybody asks it anything.

Needs neither torch nor Hydra.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sam_repro import limits
from sam_repro.config.checks import LIMITS, finding
from sam_repro.config.schema import SCHEMA, flat
from sam_repro.config.schema1 import modern
from sam_repro.files import regular, write_json
from sam_repro.limits import shown

Record = dict[str, Any]
Shape = Mapping[str, Any] | Callable[[str, Any], None]
SEAL = "sha256"
"""The key under which a file holds the digest of everything else in it; records from before 2026-12 have none."""


def write_record(file: Path, content: Record) -> None:
    """Write a record atomically, with its seal.

    Raises:
        ValueError: if it is not JSON, or holds a number that is not finite.
    """
    write_json(file, content | {SEAL: _digest(content)})


def read_record(file: Path) -> Record:
    """A record as it was written.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not JSON, holds a number that is not finite, or was changed after it was written.
    """
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply, or too large") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    _refuse_infinite("", content)
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _digest(content):
        raise ValueError("it was changed after it was written")
    return content


def read_result(home: Path) -> Record:
    """The result of a finished run, of today's or an older schema.

    Raises:
        OSError: if there is none that can be read.
        ValueError: if it is damaged.
    """
    result = read_record(home / "result.json")
    if (schema := result.get("schema")) not in range(1, SCHEMA + 1):
        raise ValueError(f"result.json is of schema {shown(schema)}, this version reads 1 to {SCHEMA}")
    _check("", result, RESULT)
    config = _check_config(result)
    if result["seed"] != config["seed"]:
        raise ValueError(f"seed = {result['seed']}, and its configuration says {config['seed']}")
    if result["metrics"]["test"].get(config["report"]) is None:
        raise ValueError(f"result.json has no test error of the weights that report = {config['report']} names")
    return result


def read_run(home: Path) -> Record:
    """What a run wrote when it started.

    Raises:
        OSError: if there is no `run.json` that can be read.
        ValueError: if it is damaged.
    """
    run = read_record(home / "run.json")
    _check("", run, RUN)
    _check_config(run)
    return run


def read_measurement(file: Path, result: Record) -> Record:
    """A measurement that was taken of a finished run.

    Args:
        file: beside its result.
        result: of the run.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, or of other weights than those that the run reports.
    """
    content = read_record(file)
    _check("", content, MEASUREMENT)
    protocol, reported = content["protocol"], result["config"].get("report", "last").removesuffix("_validation")
    weights = protocol.get("weights_sha256", result["weights_sha256"])
    if protocol.get("checkpoint") == reported and weights != result["weights_sha256"]:
        raise ValueError("it is of other weights than those of result.json")
    return content


def read_failure(home: Path) -> str:
    """Why a run broke off, in a line.

    Raises:
        OSError: if there is no `failed.json` that can be read.
        ValueError: if it is damaged.
    """
    failed = read_record(home / "failed.json")
    _check("", failed, {"error": _text})
    return " ".join(failed["error"].split())


def home_of(path: str | Path) -> Path:
    """The home of a run that is named by its folder or by its `result.json`."""
    path = Path(path)
    return path.parent if path.name == "result.json" else path


def _check_config(record: Record) -> Record:
    """The configuration of a record in today's keys, those of the top level within their limits.

    A node's keys are its option's, which may have moved since: a constructor checks them when the node is built.
    """
    _check("config", record["config"], CONFIG)
    _check("config.choices", record["config"]["choices"], dict.fromkeys(NAMED, _text))
    try:
        config = modern(record["config"])
        noise = config["label_noise"]
        values = {key: value for key, value in config.items() if key in LIMITS} | flat({"label_noise": noise})
        findings = [line for key, value in values.items() if (line := finding(key, value))]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"config: {error!r}") from None
    if findings:
        raise ValueError(f"config: {findings[0]}")
    return config


def _check(name: str, value: Any, shape: Shape) -> None:
    """Refuse a value that has another shape; a key that ends in ? may be missing."""
    if callable(shape):
        return shape(name, value)
    _mapping(name, value)
    for key, inner in shape.items():
        where = f"{name}.{key.rstrip('?')}".lstrip(".")
        if key.rstrip("?") in value:
            _check(where, value[key.rstrip("?")], inner)
        elif not key.endswith("?"):
            raise ValueError(f"{where} is missing")


def _mapping(name: str, value: Any, each: Shape = lambda *_: None, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"{name} = {shown(value)}: must be a mapping")
    for key, item in value.items():
        _check(f"{name}.{key}", item, each)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} = {shown(value)}: must be a text")


def _names(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, list) or not all(isinstance(item, str) for item in value)):
        raise ValueError(f"{name} = {shown(value)}: must be a list of texts, or null")


def _scores(name: str, value: Any) -> None:
    _mapping(name, value, partial(limits.number, optional=True))
    _check(name, value, {"error_pct": PERCENT, "epoch?": partial(limits.number, low=0)})


def _optional_scores(name: str, value: Any) -> None:
    if value is not None:
        _scores(name, value)


def _refuse_infinite(name: str, value: Any) -> None:
    """JSON has no infinite numbers, but Python reads NaN, Infinity and 1e999; nor is 10^400 a float."""
    match value:
        case dict():
            for key, item in value.items():
                _refuse_infinite(f"{name}.{key}".lstrip("."), item)
        case list():
            for index, item in enumerate(value):
                _refuse_infinite(f"{name}[{index}]", item)
        case float() if not math.isfinite(value):
            raise ValueError(f"{name} = {value}: must be a finite number")
        case int() if abs(value) >= 2**63:
            raise ValueError(f"{name} = {shown(value)}: must be an integer of at most 63 bits")


def _digest(content: Record) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


NAMED = ("dataset", "architecture", "augmentation", "optimizer")
PERCENT = partial(limits.number, low=0, high=100)
NUMBERS = partial(_mapping, each=partial(limits.number, optional=True))
CONFIG = {
    "choices": partial(_mapping, each=_text),
    **dict.fromkeys(("dataset", "architecture", "augmentation", "optimizer", "base_optimizer", "schedule"), _mapping),
    **dict.fromkeys(("seed", "epochs", "batch_size", "rho", "report", "name"), lambda *_: None),  # as LIMITS says
    "rho_schedule?": _mapping,
    "assumed?": partial(_mapping, each=_text),
}
MEASURED = {"values": partial(_mapping, each=limits.number), "protocol": {"settings?": _mapping}}
MEASUREMENT = {"measure": _text, **MEASURED}
NORMALISATION = {"mean": limits.numbers, "std": partial(limits.numbers, above=0)}
RUN = {
    "config": _mapping,
    "normalisation?": NORMALISATION,
    "wandb_id?": _text,
    "sources?": partial(_mapping, each=_text),
    "starts?": lambda *_: None,
}
RESULT = {
    "seed": limits.seed,
    "config": _mapping,
    "metrics": {
        "test": {"last": _scores, "best_validation?": _optional_scores, "peak?": _optional_scores},
        "validation": {"last?": _optional_scores, "best?": _optional_scores},
        "train": NUMBERS,
    },
    "sharpness": partial(_mapping, each=MEASURED),
    "label_noise?": partial(_mapping, optional=True),
    "cost": {
        "passes": partial(limits.number, low=0),
        "forwards?": partial(limits.number, low=0),
        "products": partial(limits.number, low=0),
        "steps": limits.positive,
        "seconds": partial(limits.number, low=0),
    },
    "rows?": {"rows": limits.natural, "bytes": limits.natural, "sha256": _text},
    "shape?": dict.fromkeys(("num_classes", "in_channels", "image_size"), limits.positive),
    "inputs?": lambda name, value: None if value is None else _text(name, value),
    "normalisation?": NORMALISATION,
    "classes?": _names,
    "weights_sha256": _text,
    "sources_sha256": _text,
    "environment": {"host?": _text},
}
