"""Where a run lives: the hash of its cell, its folder, its lock."""

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sam_repro.schema import APART, BOOKKEEPING, NEUTRAL, NUMERICS, flat

RUNS = Path("outputs/runs")


class Busy(Exception):
    """Another process is working in this home."""


def cell_hash(config: dict[str, Any]) -> str:
    """Identity of a cell: the resolved configuration without seed, bookkeeping, numerics and neutral values."""
    return _digest(identity(config))


def home(config: dict[str, Any]) -> Path:
    """The folder of a run, relative to the working directory: outputs/runs/name/choices-hash/seed=n.

    Its hash is the cell's with the numerics beside it, whose "auto" must be resolved before.
    """
    words = [config["choices"][group] for group in ("dataset", "architecture", "augmentation", "optimizer")]
    if config["rho"] is not None:
        words.append(f"rho={config['rho']:g}")
    words.append(_digest(identity(config) | {"numerics": numerics(config)})[:10])
    return RUNS / config["name"] / "-".join(words) / f"seed={config['seed']}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a home; the lock lies beside it and ends with the process.

    Raises:
        Busy: if another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(_lock(folder), "w") as file:
        if not _taken(file):
            time.sleep(0.1)  # `is_locked` of another process may have held it for an instant
            if not _taken(file):
                raise Busy(f"{folder}: another process is running this; wait for it, or change the seed or a key")
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process is working in a home now."""
    try:
        with open(_lock(folder)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def set_aside(folder: Path) -> Path:
    """Rename a home to the next free name beside it; nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.aside-{number}")).exists():
        number += 1
    return folder.rename(aside)


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a cell what it is: its keys and values, without those that `cell_hash` leaves out."""
    apart = {"seed", *BOOKKEEPING, *NUMERICS}
    return {
        key: _canonical(value)
        for key, value in flat(config).items()
        if key not in apart and key.partition(".")[0] not in APART and not _neutral(key, value)
    }


def numerics(config: dict[str, Any]) -> dict[str, Any]:
    """How a cell was computed: tables never pool two of these in one mean."""
    leaves = flat(config)
    return {key: leaves[key] for key in NUMERICS if key in leaves and not _neutral(key, leaves[key])}


def _neutral(key: str, value: Any) -> bool:
    return key in NEUTRAL and _canonical(value) == _canonical(NEUTRAL[key])


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _canonical(value: Any) -> Any:
    """The same number is the same identity, whether it was written 1 or 1.0."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()
