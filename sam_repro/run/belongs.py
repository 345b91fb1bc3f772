"""Compares what a file of a run says it is of with what was asked. No file is believed because of its place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_repro.config.identity import identity, numerics
from sam_repro.config.schema import Resolved
from sam_repro.config.schema1 import modern
from sam_repro.errors import UserError
from sam_repro.limits import shown

REMEDY = "put back its own file, or add resume=false to set this home aside and run again"


def refuse_other_config(file: Path, config: Resolved, asked: Resolved) -> None:
    """Refuse a record whose configuration is not the one that was asked for.

    Raises:
        UserError: naming what differs, with both values.
    """
    then = modern(config)
    refuse_other(file, _facts(then), _facts(asked))


def refuse_other(file: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a file that is of something else.

    Args:
        file: for the message.
        then: what the file says that it is of.
        now: what was asked for.

    Raises:
        UserError: naming what differs, with both values.
    """
    keys = [key for key in {**now, **then} if then.get(key) != now.get(key)]
    if keys:
        told = ", ".join(f"{key} {_show(then.get(key))} and not {_show(now.get(key))}" for key in keys[:3])
        more = f" and {len(keys) - 3} keys more" if len(keys) > 3 else ""
        raise UserError(f"{file}: is of another run: {told}{more}; {REMEDY}")


def refuse_other_inputs(file: Path, then: str | None, now: str | None, remedy: str) -> None:
    """Refuse data that are not those of a record; one that was written before inputs were recorded says nothing.

    Raises:
        UserError: with both digests.
    """
    if then is not None and then != now:
        raise UserError(f"{file}: is of other data: inputs {then[:16]}, and here {str(now)[:16]}; {remedy}")


def _facts(config: Resolved) -> dict[str, Any]:
    return identity(config) | numerics(config) | {"seed": config["seed"]}


def _show(value: Any) -> str:
    return shown(value[:12] if isinstance(value, str) and len(value) == 64 else value)
