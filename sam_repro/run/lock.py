"""The folder of a run: its lock, and how it is set aside."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam_repro.errors import Busy, UserError


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep every other process out of a home. The lock lies beside it, ends with the process, and goes with the block.

    Raises:
        Busy: if another process holds it.
        UserError: if a link is in its place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = _lock(folder)
    if file.is_symlink():
        raise UserError(f"{file}: is a link, and locks nothing; remove it")
    descriptor = _take(file)
    if descriptor is None:
        raise Busy(f"{folder}: another process is running this; wait for it, or change the seed or a key")
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that has become read-only keeps it
            file.unlink()
        os.close(descriptor)


def _take(file: Path) -> int | None:
    """The lock, open; None if another process holds it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if not _is_taken(descriptor):
            time.sleep(0.1)  # `is_locked` of another process may have held it for an instant
            if not _is_taken(descriptor):
                os.close(descriptor)
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)  # its owner removed it before it was ours


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process is working in a home now."""
    try:
        descriptor = os.open(_lock(folder), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def set_aside(folder: Path) -> Path:
    """Rename a home to the next free name beside it; nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.aside-{number}")).exists():
        number += 1
    return folder.rename(aside)


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"
