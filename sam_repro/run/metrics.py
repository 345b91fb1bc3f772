"""The rows of a run, which survive a kill."""

import json
import math
import os
from pathlib import Path
from typing import Any

from sam_repro import limits
from sam_repro.files import replacing


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
