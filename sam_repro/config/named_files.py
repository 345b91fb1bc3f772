"""Files that a configuration names: what counts is what is in them, not where they lie."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from sam_repro.config.schema import Resolved, flat

BUILT = ("architecture", "augmentation", "base_optimizer", "dataset", "optimizer", "rho_schedule", "schedule")


def hash_named_files(config: Resolved) -> dict[str, str]:
    """SHA-256 of each file that a key of an option names, by the key.

    A value names a file if it has a separator or an ending, such as weights.pt, and there is a file of that name.
    """
    leaves = flat({node: config[node] for node in BUILT})
    files = {key: _path(value) for key, value in leaves.items() if _may_be_path(key, value)}
    return {key: f"sha256:{_digest_now(file)}" for key, file in files.items() if _is_file(file)}


def without_missing(config: Resolved) -> Resolved:
    """The configuration with null in place of each missing file. Trained weights do not need the file any more."""
    for key in (key for key in config.get("files", {}) if not _is_file(_path(flat(config)[key]))):
        config = _with_leaf(config, key.split("."), None)
    return config


def _may_be_path(key: str, value: Any) -> bool:
    return isinstance(value, str) and not key.endswith("_target_") and ("/" in value or bool(Path(value).suffix))


def _path(value: str) -> Path:
    """With the home of a user written out, and the ~ left where there is no such user."""
    return Path(os.path.expanduser(value))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


def _digest_now(file: Path) -> str:
    state = file.stat()
    return _digest(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, size: int, mtime: int) -> str:
    """Of the file as it is now: size and time of the last change are there for the cache."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _with_leaf(config: Resolved, path: list[str], value: Any) -> Resolved:
    head, *rest = path
    return config | {head: _with_leaf(config[head], rest, value) if rest else value}
