"""The folder of a run: its lock, and how it is set aside."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sam_repro.errors import Busy


@contextmanager
def lock(folder: Path) -> Iterator[None]:
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


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"
