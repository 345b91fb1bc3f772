"""From the content of a table file to the table that it describes, with a line for what cannot be meant."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sam_repro import limits
from sam_repro.config import formula
from sam_repro.config.options import nearest
from sam_repro.config.schema import Plain
from sam_repro.config.table_file import Cell, Claim, Effect, Pick, Plot, Search, Surfaces, Table, TableError

_PLACE = re.compile(r"\{([\w.]+)\}")
_SCORES = ("error_pct", "error_top5_pct", "accuracy_pct", "loss")
METRICS = {
    "test": _SCORES,
    "validation": _SCORES,
    "train": ("error_pct", "loss", "perturbed_loss"),
    "label_noise": (
        *("rate", "achieved_rate", "selected", "flipped", "train_accuracy_clean_pct"),
        *("train_accuracy_flipped_pct", "train_accuracy_flipped_true_pct"),
    ),
    "sharpness": (),
    "epoch": (),
    "cost": ("steps", "passes", "forwards", "products", "seconds", "examples_per_second", "peak_memory_bytes"),
}
"""Part of a result → the numbers in it; empty where a rule or a measure says what they are called."""
SPREADS = ("ci95", "ci68", "sd")


def parse_table(name: str, content: Any) -> Table:
    """The table of a file with this content.

    Raises:
        TableError: if it is no table; the message says where.
    """
    try:
        return _table(name, _check_fields(content, "the table", "title", optional=_TABLE))
    except ValueError as error:
        raise TableError(str(error)) from None


_TABLE = (
    "source",
    "recipe",
    "set",
    "seeds",
    "metrics",
    "cells",
    "claims",
    "effects",
    "search",
    "plot",
    "notes",
)
EQUAL = ("epochs", "passes", "epochs and passes")
_WAYS = ("cell", "best_of", "candidates")
_PRINTED = ("value", "plus_minus", "spread", "runs", "bound", "printed", "suspect", "epoch", "derived", "tolerance")
_CLAIM = ("row", "metric", *_WAYS, "by", *_PRINTED, "literature")
_EFFECT = ("name", "cell", "twin", "metric", "equal")


def _table(name: str, content: Plain) -> Table:
    cells = _cells(content.get("cells", []))
    names = {cell.name for cell in cells}
    metrics = tuple(_metric(metric) for metric in _distinct(content.get("metrics", ["test/error_pct"]), "metrics"))
    claims = tuple(_claim(fields, names, metrics[0]) for fields in _expand(content.get("claims", []), _CLAIM))
    effects = tuple(_effect(fields, names, metrics[0]) for fields in _expand(content.get("effects", []), _EFFECT))
    seeds = _distinct(content.get("seeds", [0, 1, 2]), "seeds")
    for seed in seeds:
        limits.integer("seeds", seed, low=0)
    return Table(
        name=name,
        title=_text(content["title"], "title"),
        source=_text(content.get("source", ""), "source"),
        recipe=_optional_text(content.get("recipe"), "recipe"),
        shared=_overrides(content.get("set", {}), "set"),
        seeds=tuple(seeds),
        metrics=metrics,
        cells=cells,
        claims=claims,
        effects=effects,
        search=_search(content["search"], cells) if "search" in content else None,
        plot=_plot(content["plot"], metrics, cells) if "plot" in content else None,
        notes=tuple(_text(note, "notes") for note in _list(content.get("notes", []), "notes")),
    )


def _cells(groups: Any) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for group in _list(groups, "cells"):
        _check_fields(group, "cells", "name", optional=("set", "grid", "waiting"))
        series, fixed = _text(group["name"], "cells: name"), _overrides(group.get("set", {}), "cells: set")
        grid = _overrides(group.get("grid", {}), "cells: grid")
        for values in itertools.product(*(_list(values, f"grid: {key}") for key, values in grid.items())):
            chosen = dict(zip(grid, values, strict=True))
            overrides = {key: _fill(value, chosen) for key, value in fixed.items()} | chosen
            waiting = _optional_text(group.get("waiting"), "cells: waiting")
            cells.append(Cell(len(cells), _fill(series, chosen), series, overrides, waiting))
    if not cells:
        raise TableError("cells: a table has at least one")
    if twice := {cell.name for cell in cells if [other.name for other in cells].count(cell.name) > 1}:
        raise TableError(f"cells: {', '.join(sorted(twice))}: a name is for one cell; put the grid's keys into it")
    return tuple(cells)


def _expand(groups: Any, known: Sequence[str]) -> list[Plain]:
    """Claims and effects, written one by one or as a group: fields with {places} and, under `of`, what goes there."""
    filled = []
    for group in _list(groups, "claims and effects"):
        places = set(_PLACE.findall(str(group))) - set(known)
        for entry in _list(_mapping(group, "claims and effects").get("of", [{}]), "of"):
            fields = {key: value for key, value in (group | _mapping(entry, "of")).items() if key != "of"}
            filled.append({key: _fill(value, fields) for key, value in fields.items() if key not in places})
    return filled


def _claim(fields: Plain, names: set[str], metric: str) -> Claim:
    row = str(fields.get("row", "a claim"))
    _check_fields(fields, row, "row", optional=[field for field in _CLAIM if field != "row"])
    printed = {key: fields[key] for key in _PRINTED if key in fields}
    limits.number(f"{row}: value", printed.get("value"), optional=True)
    limits.number(f"{row}: plus_minus", printed.get("plus_minus"), low=0, optional=True)
    limits.number(f"{row}: epoch", printed.get("epoch"), above=0, optional=True)
    limits.number(f"{row}: tolerance", printed.get("tolerance"), above=0, optional=True)
    limits.integer(f"{row}: runs", printed.get("runs", 1), low=1)
    limits.choice(f"{row}: spread", printed.get("spread", "ci95"), SPREADS)
    limits.choice(f"{row}: bound", printed.get("bound", "<"), ("<", ">", "~"))
    if "literature" in fields:
        return _literature(fields, printed, row, metric)
    ways = [key for key in _WAYS if key in fields]
    if len(ways) != 1:
        raise TableError(f"{row}: needs one of {', '.join(_WAYS)}")
    picks = _mapping(fields[ways[0]], f"{row}: candidates") if ways[0] == "candidates" else {"": fields[ways[0]]}
    metric = _metric(fields.get("metric", metric))
    if not metric.endswith("_pct") and not metric.startswith("sharpness/") and "tolerance" not in printed:
        raise TableError(f"{row}: metric = {metric}: neither a percentage nor a sharpness, so it needs a tolerance")
    readings = {str(label): _pick(pick, fields, metric, names, row) for label, pick in picks.items()}
    if "derived" in printed and (unknown := formula.names(printed["derived"]) - set(readings)):
        raise TableError(f"{row}: derived: no candidate of the name {', '.join(sorted(unknown))}")
    return Claim(row=row, metric=metric, readings=readings, **printed)


def _literature(fields: Plain, printed: Plain, row: str, metric: str) -> Claim:
    """Somebody else's number: of no cell, and of any metric."""
    if fields["literature"] is not True or (set(fields) & {*_WAYS, "by", "epoch", "derived", "tolerance"}):
        raise TableError(f"{row}: literature: true is shown and not run: it has no cell, and nothing that ours needs")
    if printed.get("value") is None:
        raise TableError(f"{row}: literature: needs a value")
    return Claim(row, _text(fields.get("metric", metric), f"{row}: metric"), {}, **printed, literature=True)


def _pick(written: Any, fields: Plain, metric: str, names: set[str], row: str) -> Pick:
    cells = tuple(_text(cell, f"{row}: cell") for cell in (written if isinstance(written, list) else [written]))
    if unknown := [cell for cell in cells if cell not in names]:
        raise TableError(f"{row}: no cell of the name {', '.join(map(str, unknown))}")
    if len(cells) == 1:
        return Pick(cells)
    if fields.get("by") not in ("test", "validation"):
        raise TableError(f"{row}: best_of needs by: test or by: validation, what chooses the best")
    if metric.partition("/")[0] not in ("test", "validation"):
        raise TableError(f"{row}: best_of is of a metric of the test or the validation split, not {metric}")
    return Pick(cells, fields["by"])


def _effect(fields: Plain, names: set[str], metric: str) -> Effect:
    _check_fields(fields, "effects", "name", "cell", "twin", "equal", optional=("metric",))
    where = f"effects: {fields['name']}"
    for end in ("cell", "twin"):
        if _text(fields[end], f"{where}: {end}") not in names:
            raise TableError(f"{where}: no cell of the name {fields[end]}")
    if fields["cell"] == fields["twin"]:
        raise TableError(f"{where}: a cell is no twin of itself")
    limits.choice(f"{where}: equal", fields["equal"], EQUAL)
    return Effect(**fields | {"metric": _metric(fields.get("metric", metric))})


def _search(fields: Any, cells: Sequence[Cell]) -> Search:
    _check_fields(fields, "search", "over", "metric", "series", optional=("per", "retrain", "printed"))
    search = Search(**fields)
    for key in ("over", "metric", "series"):
        _text(fields[key], f"search: {key}")
    _optional_text(search.per, "search: per")
    _metric(search.metric)
    if not search.metric.startswith("validation/"):
        raise TableError(f"search.metric = {search.metric}: the validation split chooses; write validation/…")
    grid = [cell for cell in cells if cell.series == search.series]
    if not grid or not all(search.over in cell.overrides for cell in grid):
        raise TableError(f"search: no cells of the series {search.series} that set {search.over}")
    if search.per is not None and not all(search.per in cell.overrides for cell in grid):
        raise TableError(f"search.per = {search.per}: the cells of the series do not set it")
    _overrides(search.retrain, "search: retrain")
    _mapping(search.printed, "search: printed")
    return search


def _plot(fields: Any, metrics: Sequence[str], cells: Sequence[Cell]) -> Plot | Surfaces:
    if "surfaces" in _mapping(fields, "plot"):
        return Surfaces(_text(_check_fields(fields, "plot", "surfaces")["surfaces"], "plot: surfaces"))
    plot = Plot(**_check_fields(fields, "plot", "x", "y"))
    _text(plot.x, "plot: x")
    limits.choice("plot: y", plot.y, metrics)
    if not any(plot.x in cell.overrides for cell in cells):
        raise TableError(f"plot: x = {plot.x}: no cell sets it")
    return plot


def _metric(name: Any) -> str:
    part, slash, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    if part not in METRICS or not slash:
        raise TableError(f"metric = {name}: must be a path such as test/error_pct; it begins with {', '.join(METRICS)}")
    if METRICS[part] and rest not in METRICS[part]:
        raise TableError(f"metric = {name}: no such number{nearest(rest, METRICS[part], f'{part}/')}")
    if part == "sharpness" and "/" not in rest:
        raise TableError(f"metric = {name}: must name a measure and one of its values: sharpness/lambda_max/lambda_max")
    return str(name)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise TableError(f"{where}: must be a list")
    return value


def _distinct(value: Any, where: str) -> list[Any]:
    if not _list(value, where) or any(value.count(item) > 1 for item in value):
        raise TableError(f"{where}: must be a list of different ones, at least one")
    return value


def _mapping(value: Any, where: str) -> Plain:
    if not isinstance(value, dict):
        raise TableError(f"{where}: must be a mapping")
    return value


def _overrides(value: Any, where: str) -> Plain:
    if "seed" in _mapping(value, where):
        raise TableError(f"{where}: seed: a cell has none; seeds: [0, 1, 2] are the table's")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TableError(f"{where} = {limits.shown(value)}: must be a text")
    return value


def _optional_text(value: Any, where: str) -> str | None:
    return None if value is None else _text(value, where)


def _check_fields(fields: Any, where: str, *needed: str, optional: Sequence[str] = ()) -> Plain:
    if unknown := [key for key in _mapping(fields, where) if key not in (*needed, *optional)]:
        raise TableError(
            f"{where}: {', '.join(map(str, unknown))}: no such field; there are {', '.join((*needed, *optional))}"
        )
    if missing := [key for key in needed if key not in fields]:
        raise TableError(f"{where}: {', '.join(missing)} is missing")
    return fields


def _fill(value: Any, fields: Mapping[str, Any]) -> Any:
    """The value with {place} replaced by the field of that name, at any depth."""
    if isinstance(value, dict):
        return {_fill(key, fields): _fill(item, fields) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, fields) for item in value]
    if not isinstance(value, str):
        return value
    return _PLACE.sub(lambda place: str(fields.get(place[1], place[0])), value)
