"""Files that are whole or not there."""

import errno
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Replace a file as a whole: readers see the old content or the new one, also after a power cut.

    What is written goes to a file of its own beside it, `<name>.<hex>.tmp`, so that two writers do not clash. A link
    is replaced and not followed.

    Args:
        path: the file; it need not exist, its directory must.

    Yields:
        The binary file to write to; on any exception it is removed, and `path` stays as it was.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def regular(path: Path) -> Path:
    """The path, if a plain file is there: a pipe would hold its reader for ever, and a device would flood it.

    Raises:
        OSError: if something else is there, or nothing.
    """
    if not S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return path


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; what is read back equals it, but for tuples, which become lists.

    Args:
        path: the file; its directory must exist.
        value: nested dicts with string keys, lists, strings, booleans, null and finite numbers.

    Raises:
        ValueError: if the value holds a number that is not finite, a key that is not a string, or what is not JSON at
            all; the message names the key, and no file is touched.
    """
    _refuse_other_than_json(path.name, value)
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def _refuse_other_than_json(where: str, value: Any) -> None:
    """`json.dumps` does not say where it fails, and turns keys into strings."""
    match value:
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"{where}: key {key!r}: must be a string")
                _refuse_other_than_json(f"{where}/{key}", item)
        case list() | tuple():
            for index, item in enumerate(value):
                _refuse_other_than_json(f"{where}/{index}", item)
        case float() if not math.isfinite(value):
            raise ValueError(f"{where} = {value}: must be a finite number")
        case None | str() | int() | float():
            pass
        case _:
            raise ValueError(f"{where} = {value!r}: {type(value).__name__} is not a type of JSON")


def _sync_directory(path: Path) -> None:
    """Make a rename survive a power cut, on file systems that can sync a folder."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
