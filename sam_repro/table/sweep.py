"""The table at the end of a sweep, made from the homes of its cells."""

import json
from pathlib import Path
from typing import Any

from sam_repro.config.identity import home
from sam_repro.config.schema import Resolved, flat
from sam_repro.run.lock import is_locked
from sam_repro.run.numerics import with_numerics
from sam_repro.table import statistic
from sam_repro.table.render import shown


def table(cells: list[Resolved]) -> tuple[str, bool]:
    """A row for each cell: what distinguishes it, its seeds, test error with a 95 % t-interval, and what is missing.

    Args:
        cells: the resolved configurations of the sweep, one for each cell and seed.

    Returns:
        The table, and whether every run of it is done.
    """
    columns = _varying(cells)
    groups: dict[Path, list[Resolved]] = {}
    for folder, cell in {home(with_numerics(cell)): cell for cell in cells}.items():  # auto may be another cell's bf16
        groups.setdefault(folder.parent, []).append(cell)
    rows = [[*columns, "done", "test error %", "state"]]
    complete = True
    for group in groups.values():
        leaves = flat(group[0])
        states = [_state(cell) for cell in group]
        errors = [state for state in states if isinstance(state, float)]
        notes = [f"seed {c['seed']}: {state}" for c, state in zip(group, states, strict=True) if isinstance(state, str)]
        complete = complete and not notes
        rows.append(
            [
                *(_shown(leaves.get(column)) for column in columns.values()),
                f"{len(errors)}/{len(group)}",
                shown(statistic.estimate(errors)),
                "; ".join(notes) or "done",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = "(mean over seeds, of the weights that `report` names, ± half of the 95 % t-interval)"
    return "\n".join(["", *lines, note]), complete


def _state(cell: Resolved) -> float | str:
    """The test error of a run in percent, or why there is none."""
    folder = home(with_numerics(cell))
    try:
        if (folder / "result.json").exists():
            tested = json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"]["test"]
            return float(tested[cell["report"]]["error_pct"])
        if is_locked(folder):
            return "running elsewhere"
        if (folder / "failed.json").exists():
            return "failed: " + str(json.loads((folder / "failed.json").read_text(encoding="utf-8"))["error"])
    except (ValueError, KeyError, TypeError):
        return f"damaged: {folder}"
    return "missing"


def _varying(cells: list[Resolved]) -> dict[str, str]:
    """The keys in which the cells differ, under the names that a command line gives them.

    Keys that follow from an option are not listed: a key of a group counts where cells of one option differ in it.
    """
    leaves = [flat(cell) for cell in cells]
    told = ("origin.rho", "origin.table", "origin.from", "origin.cases", "origin.no_case", "assumed.")
    keys = {
        key: None
        for cell in leaves
        for key in cell
        if key not in ("seed", "optimizer.rho") and not key.startswith(told)
    }

    def differs(key: str) -> bool:
        choice = f"choices.{key.partition('.')[0]}"
        return any(
            one.get(key) != other.get(key) for one in leaves for other in leaves if one.get(choice) == other.get(choice)
        )

    return {key.removeprefix("choices.").removeprefix("origin."): key for key in keys if differs(key)} or {
        "optimizer": "choices.optimizer"
    }


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
