"""The table at the end of a sweep, made from the homes of its cells."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from sam_repro.config.identity import home
from sam_repro.config.schema import Resolved, flat
from sam_repro.errors import UserError, first_line
from sam_repro.limits import counted
from sam_repro.run.lock import is_locked
from sam_repro.run.numerics import with_numerics
from sam_repro.run.record import Record, read_failure, read_result
from sam_repro.run.request import find_measurement, make_request
from sam_repro.table import statistic
from sam_repro.table.render import shown

ELSEWHERE = "running elsewhere"


def table(cells: list[Resolved]) -> tuple[str, int]:
    """A row for each cell: what distinguishes it, its seeds, test error with a 95 % t-interval, and what is missing.

    Args:
        cells: the resolved configurations of the sweep, one for each cell and seed.

    Returns:
        The table, and the exit code: 0 if every run of it is done and measured, 3 if other processes run what is
        missing, else 1.
    """
    columns = _varying(cells)
    groups: dict[Path, list[Resolved]] = {}
    for folder, cell in {_home(cell): cell for cell in cells}.items():  # auto may be another cell's bf16
        groups.setdefault(folder.parent, []).append(cell)
    lost = _unmeasured(cells)
    rows = [[*columns, "done", "test error %", "state"]]
    missing: list[str] = []
    for folder, group in groups.items():
        leaves = flat(group[0])
        read = [_result(cell) for cell in group]
        results = [result for result in read if not isinstance(result, str)]
        errors = [result["metrics"]["test"][group[0]["report"]]["error_pct"] for result in results]
        notes = [f"seed {c['seed']}: {why}" for c, why in zip(group, read, strict=True) if isinstance(why, str)]
        missing += [why for why in read if isinstance(why, str)]
        cut = any(result.get("cut_budget") for result in results)
        notes += [f"shortened: {counted(results[0]['cost']['steps'], 'step')}"] if cut else []
        notes += lost.get(folder, [])
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
    code = 1 if lost or set(missing) - {ELSEWHERE} else 3 if missing else 0
    return "\n".join(["", *lines, note]), code


def _home(cell: Resolved) -> Path:
    try:
        return home(with_numerics(cell))
    except UserError:  # this machine cannot run it, so it has not been run here either
        return home(cell)


def _result(cell: Resolved) -> Record | str:
    """The result of a run, or why there is none."""
    folder = _home(cell)
    try:
        with_numerics(cell)
        if (folder / "result.json").exists():
            return read_result(folder)
        if is_locked(folder):
            return ELSEWHERE
        if (folder / "failed.json").exists():
            return f"failed: {read_failure(folder)}"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{folder}: {first_line(error)}"
    except ValueError:
        return f"damaged: {folder}"
    return "missing"


def _unmeasured(cells: list[Resolved]) -> dict[Path, list[str]]:
    """What was asked to be measured of finished runs, and is not there, by cell."""
    lost: dict[Path, list[str]] = {}
    for cell in cells:
        if isinstance(result := _result(cell), str):
            continue
        request = make_request(cell, _home(cell), result)
        with suppress(UserError):  # a damaged file, which the line of the run has named
            if request.is_nothing or find_measurement(request) is not None:
                continue
        lost.setdefault(_home(cell).parent, []).append(f"seed {cell['seed']}: {request.name} not measured")
    return lost


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
