"""The record of a run, in its home: files that are whole or not there, and rows that survive a kill."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sam_repro import limits


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Replace a file as a whole: readers see the old content or the new one, also after a power cut.

    What is written goes to `<name>.tmp` beside it, so two writers at a time would clash: hold the home's lock.

    Args:
        path: the file; it need not exist, its directory must.

    Yields:
        The binary file to write to; on any exception it is removed, and `path` stays as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


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


class Metrics:
    """The rows of a run: JSON lines in an append-only file, each handed to the system as it comes.

    A row is a flat dict; its `step` is the step after which it was made, counted from 0, also in the row of an epoch.
    A float that is not finite is written as null, for JSON has no word for it: null says "measured, and not finite";
    what was not measured has no key.

    Args:
        path: the file, `metrics.jsonl`; its directory must exist.
        resume_at: the next step, default 0 for a new start. Rows at or beyond it and a broken tail are cut, atomically.

    Raises:
        ValueError: if the file that is there is broken before its last line.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        limits.integer("resume_at", resume_at, low=0)
        rows = read_metrics(path) if path.exists() else []
        with replacing(path) as file:
            file.writelines(_line(row) for row in rows if row["step"] < resume_at)
        self._file = path.open("ab")

    def append(self, row: dict[str, Any]) -> None:
        """Append one row; from then on it survives the death of this process.

        Args:
            row: `step`, an integer >= 0, and what was measured: numbers, booleans, strings.

        Raises:
            ValueError: if there is no such step or a value is of another kind; the message names the key.
        """
        limits.integer("step", row.get("step"), low=0)
        self._file.write(_line({key: _measured(key, value) for key, value in row.items()}))
        self._file.flush()

    def sync(self) -> None:
        """Make the rows so far survive a power cut too, before a checkpoint counts on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file in the order in which they were written, without a broken last line.

    Args:
        path: the file.

    Raises:
        ValueError: if a line before the last is broken, which no kill of the writer explains.
    """
    lines = path.read_bytes().splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} of {len(lines)} is broken: {error}") from None
    return rows


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _measured(key: str, value: Any) -> Any:
    """The value as a row keeps it: null for what is not finite."""
    if not isinstance(value, int | float | str):
        raise ValueError(f"{key} = {value!r}: must be a number, boolean or string; what was not measured has no key")
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    """Make a rename survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
