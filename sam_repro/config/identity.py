"""What a run is: the identity of its cell, its numerics, its home. Functions of the configuration alone."""

import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from sam_repro.config.schema import APART, FACTS, NONE, OPEN, Facts, Resolved, facts_of, flat

RUNS = Path("outputs/runs")
ORDER = "augmentation.order"


def cell_hash(config: dict[str, Any]) -> str:
    """Hash of a cell: of all that `identity` keeps of the resolved configuration."""
    return _digest(identity(config))


class Sought(NamedTuple):
    """What the runs of a cell have in common.

    Args:
        hash: of the cell's identity, but for what it leaves open.
        open: the keys that it leaves open.
    """

    hash: str
    open: tuple[str, ...] = ()

    def fits(self, of_run: dict[str, Any], hash_of_run: str) -> bool:
        """Whether a run, given by its identity and the hash of that, is one of the cell."""
        return self.hash == (_digest(_but_for(self.open, of_run)) if self.open else hash_of_run)


def sought(config: dict[str, Any]) -> Sought:
    """What to look for when the runs of a cell are wanted."""
    cell = identity(config)
    left = tuple(key for key, value in cell.items() if value == OPEN)
    return Sought(_digest(_but_for(left, cell)), left)


def home(config: dict[str, Any]) -> Path:
    """The folder of a run, relative to the working directory: outputs/runs/name/choices-hash/seed=n.

    Its hash is the cell's with the numerics beside it, whose "auto" must be resolved before.
    """
    words = [config["choices"][group] for group in ("dataset", "architecture", "augmentation", "optimizer")]
    if config["rho"] is not None:
        words.append(f"rho={config['rho']:g}")
    words.append(_digest(identity(config) | {"numerics": numerics(config)})[:10])
    return RUNS / config["name"] / "-".join(words) / f"seed={config['seed']}"


def of(config: dict[str, Any]) -> dict[str, Any]:
    """What a file of a run must say that it is of: cell, seed and numerics."""
    return {"cell_hash": cell_hash(config), "seed": config["seed"], "numerics": numerics(config)}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a cell what it is: the keys that can change a number, with their values.

    Left out are seed, bookkeeping and numerics; keys at their neutral value; keys without effect here. A
    `_target_` of this package is its last component, so that modules may move; one from elsewhere stands in full. A
    file that a key names stands by its contents.
    """
    leaves = _without_idle_names(flat({node: value for node, value in config.items() if node not in APART}))
    files = config.get("files", {})
    return {
        key: _canonical(_named(key, files.get(key, value)))
        for key, value in leaves.items()
        if facts_of(key).role == "definition"
        and not key.endswith("._partial_")
        and not _neutral(key, value)
        and idle_by(key, leaves) is None
    }


def numerics(config: dict[str, Any]) -> dict[str, Any]:
    """How a cell was computed: tables never pool two of these in one mean."""
    leaves = flat(config)
    keys = [key for key, facts in FACTS.items() if facts.role == "numerics" and key in leaves]
    return {key: leaves[key] for key in keys if not _neutral(key, leaves[key]) and idle_by(key, leaves) is None}


def _neutral(key: str, value: Any) -> bool:
    neutral = facts_of(key).neutral
    return neutral is not NONE and _canonical(_named(key, value)) == _canonical(_named(key, neutral))


def idle_by(key: str, leaves: Resolved) -> str | None:
    """The key whose value leaves this one without effect; None if it has one, as those of code from elsewhere may."""
    node, _, inner = key.partition(".")
    target, order = leaves.get(f"{node}._target_"), leaves.get(ORDER)
    if target is not None and not is_ours(target):
        return None
    if node == "augmentation" and "." in inner and isinstance(order, list) and inner.partition(".")[0] not in order:
        return ORDER
    for end in range(len(key) + 1):
        if key[end : end + 1] in (".", "") and (found := _idle_at(key[:end], facts_of(key[:end]), leaves)):
            return found
    return None


def _idle_at(key: str, facts: Facts, leaves: Resolved) -> str | None:
    if facts.idle:
        return ORDER  # it names values for transforms
    if facts.switch is not None and leaves.get(facts.switch, facts.off[0]) in facts.off:
        return facts.switch
    size = leaves.get(key)
    whole = [other for other in facts.whole if isinstance(size, int) and size >= (leaves.get(other) or math.inf)]
    return whole[0] if whole else None


def _without_idle_names(leaves: dict[str, Any]) -> dict[str, Any]:
    """The leaves, where the order of the augmentation names only transforms that do something."""
    if not isinstance(order := leaves.get(ORDER), list):
        return leaves
    return leaves | {ORDER: [name for name in order if idle_by(f"augmentation.{name}.", leaves) is None]}


def _named(key: str, value: Any) -> Any:
    return value.rpartition(".")[2] if key.endswith("._target_") and is_ours(value) else value


def is_ours(target: Any) -> bool:
    """Whether a `_target_` is of this package."""
    return isinstance(target, str) and target.startswith("sam_repro.")


def _canonical(value: Any) -> Any:
    """The same number is the same identity, whether it was written 1 or 1.0."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _but_for(keys: Collection[str], of: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in of.items() if key not in keys}


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()
