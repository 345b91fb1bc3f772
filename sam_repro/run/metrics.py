"""The rows of a run, which survive a kill."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, TypedDict

from sam_repro import limits
from sam_repro.files import regular, replacing

NEWLINE = b"\n"


class Written(TypedDict):
    """Rows in a file: how many, in how many bytes, and the SHA-256 of these."""

    rows: int
    bytes: int
    sha256: str


class Metrics:
    """The rows of a run: JSON lines in an append-only file, each handed to the system as it comes.

    A row is a flat dict; its `step` is the step after which it was made, counted from 0, also in the row of an epoch.
    A float that is not finite is written as null, because JSON has no word for it: null says "measured, and not
    finite". A value that was not measured has no key.

    Args:
        path: the file, `metrics.jsonl`; its directory must exist.
        kept: what a checkpoint counts on, default None for a new start. All behind it is cut, atomically.

    Raises:
        ValueError: if the file does not begin with these rows.
    """

    def __init__(self, path: Path, kept: Written | None = None) -> None:
        content = b"" if kept is None else _beginning(path, kept)
        with replacing(path) as file:
            file.write(content)
        self._rows, self._bytes = (0, 0) if kept is None else (kept["rows"], kept["bytes"])
        self._sha = hashlib.sha256(content)
        self._file = path.open("ab")

    @property
    def written(self) -> Written:
        """The rows so far, for a checkpoint or a result that counts on them."""
        return {"rows": self._rows, "bytes": self._bytes, "sha256": self._sha.hexdigest()}

    def append(self, row: dict[str, Any]) -> None:
        """Append one row; from then on it survives the death of this process.

        Args:
            row: `step`, an integer >= 0, and what was measured: numbers, booleans, strings.

        Raises:
            ValueError: if there is no such step or a value is of another kind; the message names the key.
        """
        limits.integer("step", row.get("step"), low=0)
        line = _line({key: _finite(key, value) for key, value in row.items()})
        self._file.write(line)
        self._file.flush()
        self._rows += 1
        self._bytes += len(line)
        self._sha.update(line)

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
    lines = regular(path).read_bytes().splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} of {len(lines)} is broken: {error}") from None
    return rows


def record_flaw(path: Path, written: Written) -> str | None:
    """What is wrong with a file that should hold exactly these rows; None if nothing is.

    Raises:
        OSError: if the file cannot be read.
    """
    size = regular(path).stat().st_size
    if size < written["bytes"]:
        return f"cut: {size} of {written['bytes']} bytes are left"
    if hashlib.sha256(_first_bytes(path, written)).hexdigest() != written["sha256"]:
        return f"its first {written['rows']} rows are not those that this run wrote"
    return f"rows were added behind its {written['rows']}" if size > written["bytes"] else None


def _beginning(path: Path, kept: Written) -> bytes:
    """The rows that a checkpoint counts on, as bytes."""
    content = _first_bytes(path, kept) if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != kept["sha256"]:
        whole = (
            "rows were changed" if len(content) == kept["bytes"] else f"{content.count(NEWLINE)} whole rows are left"
        )
        found = whole if path.exists() else "no file"
        raise ValueError(f"{found}, and the checkpoint counts on {kept['rows']} rows that are not all there")
    return content


def _first_bytes(path: Path, written: Written) -> bytes:
    with regular(path).open("rb") as file:
        return file.read(written["bytes"])


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _finite(key: str, value: Any) -> Any:
    """The value as a row keeps it: null for what is not finite."""
    if not isinstance(value, int | float | str):
        raise ValueError(f"{key} = {value!r}: must be a number, boolean or string; what was not measured has no key")
    return None if isinstance(value, float) and not math.isfinite(value) else value
