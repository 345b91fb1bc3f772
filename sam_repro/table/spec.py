"""What a table file says: cells that somebody wants run, claims that somebody printed, effects, a search."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sam_repro import limits

Fields = dict[str, Any]
Overrides = dict[str, Any]

_PLACE = re.compile(r"\{([\w.]+)\}")
METRICS = ("test", "validation", "train", "label_noise", "sharpness", "epoch")


class TableError(ValueError):
    """A table file says something that cannot be meant."""


@dataclass(frozen=True)
class Cell:
    """One configuration, without seed, that somebody wants run.

    Args:
        index: its number in the table, from 0.
        name: its name, unique in the table.
        series: what it shares with the cells that differ from it by a grid: its name before that was filled in.
        overrides: key → value, on top of the recipe.
        waiting: what does not exist yet, so that it cannot be composed; None (default) for nothing.
    """

    index: int
    name: str
    series: str
    overrides: Overrides
    waiting: str | None = None


@dataclass(frozen=True)
class Pick:
    """The cell that a number is taken from: the only one, or the best of several.

    Args:
        cells: names.
        by: what chooses among several: "test" or "validation", by the mean over seeds; None for one cell.
    """

    cells: tuple[str, ...]
    by: str | None = None


@dataclass(frozen=True)
class Claim:
    """A printed number and where ours would come from.

    Args:
        row: what it is of.
        metric: what it measures, a path into the result such as test/error_pct.
        readings: label → pick; several are an undecided reading, each of which is shown.
        value: the printed number; None for a blank that is ours to fill.
        plus_minus: its printed spread, and `spread` what that is: "ci95" (half-width, default) or "sd".
        runs: runs behind the printed number, default 1.
        bound: "<", ">" or "~" (default None) where a bound is printed instead of a number; it gets no verdict.
        printed: where.
        suspect: why the printed number is doubted, default None.
        epoch: of which our number is taken, default the one that the run reports.
        derived: a formula over the names of `readings`, such as 100 * (sgd - sam) / sgd; default None.
    """

    row: str
    metric: str
    readings: Mapping[str, Pick]
    value: float | None = None
    plus_minus: float | None = None
    spread: str = "ci95"
    runs: int = 1
    bound: str | None = None
    printed: str = ""
    suspect: str | None = None
    epoch: float | None = None
    derived: str | None = None


@dataclass(frozen=True)
class Effect:
    """A cell against its twin, paired by seed.

    Args:
        name: what is compared.
        cell: name of the one.
        twin: name of the other, whose value is subtracted.
        metric: of which.
        equal: what both have the same of: epochs, passes.
    """

    name: str
    cell: str
    twin: str
    metric: str
    equal: str


@dataclass(frozen=True)
class Search:
    """A grid from which the validation split chooses; the test split chooses nothing.

    Args:
        over: the key that is searched.
        metric: what chooses, the smallest mean over seeds; of the validation split.
        series: of the cells that are the grid.
        per: the key for each of whose values there is a search of its own; None (default) for one search.
        retrain: overrides of the chosen cell for the run on all data.
        printed: value of `per` (or "") → the choice that was printed.
    """

    over: str
    metric: str
    series: str
    per: str | None = None
    retrain: Overrides = field(default_factory=dict)
    printed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """What the picture shows: a metric against a key of the cells."""

    x: str
    y: str


@dataclass(frozen=True)
class Table:
    """A table file.

    Args:
        name: its path below configs/table, without the ending.
        title: one line.
        source: where the claims are printed.
        recipe: the experiment that the cells share; None for none.
        shared: overrides that the cells share, on top of the recipe.
        seeds: that each cell is wanted with.
        metrics: of each cell, the first one in effects and picture.
        cells: in order.
        claims: in order; none is a study of one's own.
        effects: in order.
        search: a search over the cells, or None.
        plot: or None.
        literature: rows that are shown and never run: of name and printed value.
        notes: lines below the table.
    """

    name: str
    title: str
    source: str
    recipe: str | None
    shared: Overrides
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]
    effects: tuple[Effect, ...]
    search: Search | None
    plot: Plot | None
    literature: tuple[Fields, ...]
    notes: tuple[str, ...]

    def cell(self, which: int | str) -> Cell:
        """The cell of this number or name.

        Raises:
            TableError: if there is none.
        """
        for cell in self.cells:
            if which in (cell.index, cell.name):
                return cell
        raise TableError(f"cell = {which}: {self.name} has the cells 0 … {len(self.cells) - 1}")

    def overrides(self, cell: Cell) -> Overrides:
        """All that the cell sets, the recipe first."""
        recipe = {"experiment": self.recipe} if self.recipe else {}
        return recipe | self.shared | cell.overrides


def written(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as a command line has them."""
    return [f"{key}={_spelled(value)}" for key, value in overrides.items()]


def read(name: str, file: Path) -> Table:
    """The table in a file.

    Raises:
        TableError: if it is no table; the message says where.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise TableError(f"{file}: no YAML: {' '.join(str(error).split())}") from None
    try:
        return _table(name, _known(content, "the table", "title", optional=_TABLE))
    except ValueError as error:
        raise TableError(f"{file}: {error}") from None


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
    "literature",
    "notes",
)
_WAYS = ("cell", "best_of", "candidates")
_PRINTED = ("value", "plus_minus", "spread", "runs", "bound", "printed", "suspect", "epoch", "derived")


def _table(name: str, content: Fields) -> Table:
    cells = _cells(content.get("cells", []))
    names = {cell.name for cell in cells}
    metrics = tuple(_metric(metric) for metric in content.get("metrics", ["test/error_pct"]))
    claims = tuple(_claim(fields, names, metrics[0]) for fields in _filled(content.get("claims", [])))
    effects = tuple(_effect(fields, names, metrics[0]) for fields in _filled(content.get("effects", [])))
    seeds = content.get("seeds", [0, 1, 2])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise TableError("seeds: must be a list of whole numbers, such as [0, 1, 2]")
    return Table(
        name=name,
        title=content["title"],
        source=content.get("source", ""),
        recipe=content.get("recipe"),
        shared=content.get("set", {}),
        seeds=tuple(seeds),
        metrics=metrics,
        cells=cells,
        claims=claims,
        effects=effects,
        search=_search(content["search"], cells) if "search" in content else None,
        plot=Plot(**_known(content["plot"], "plot", "x", "y")) if "plot" in content else None,
        literature=tuple(content.get("literature", [])),
        notes=tuple(content.get("notes", [])),
    )


def _cells(groups: Sequence[Fields]) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for group in _list(groups, "cells"):
        _known(group, "cells", "name", optional=("set", "grid", "waiting"))
        grid = {key: _list(values, f"grid: {key}") for key, values in group.get("grid", {}).items()}
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            name = _fill(group["name"], chosen)
            overrides = {key: _fill(value, chosen) for key, value in group.get("set", {}).items()} | chosen
            cells.append(Cell(len(cells), name, group["name"], overrides, group.get("waiting")))
    if not cells:
        raise TableError("cells: a table has at least one")
    if twice := {cell.name for cell in cells if [other.name for other in cells].count(cell.name) > 1}:
        raise TableError(f"cells: {', '.join(sorted(twice))}: a name is for one cell; put the grid's keys into it")
    return tuple(cells)


def _filled(groups: Sequence[Fields]) -> list[Fields]:
    """Claims and effects, written one by one or as a group: fields with {places} and, under `of`, what goes there."""
    filled = []
    for group in _list(groups, "claims and effects"):
        places = set(_PLACE.findall(str(group)))
        for entry in group.get("of", [{}]):
            fields = {key: value for key, value in (group | entry).items() if key != "of"}
            filled.append({key: _fill(value, fields) for key, value in fields.items() if key not in places})
    return filled


def _claim(fields: Fields, names: set[str], metric: str) -> Claim:
    row = str(fields.get("row", "a claim"))
    _known(fields, row, "row", optional=("metric", *_WAYS, "by", *_PRINTED))
    ways = [key for key in _WAYS if key in fields]
    if len(ways) != 1:
        raise TableError(f"{row}: needs one of {', '.join(_WAYS)}")
    picks = fields[ways[0]] if ways[0] == "candidates" else {"": fields[ways[0]]}
    readings = {str(label): _pick(pick, fields, names, row) for label, pick in picks.items()}
    printed = {key: fields[key] for key in _PRINTED if key in fields}
    limits.number(f"{row}: value", printed.get("value"), optional=True)
    limits.number(f"{row}: plus_minus", printed.get("plus_minus"), low=0, optional=True)
    limits.integer(f"{row}: runs", printed.get("runs", 1), low=1)
    limits.choice(f"{row}: spread", printed.get("spread", "ci95"), ("ci95", "sd"))
    limits.choice(f"{row}: bound", printed.get("bound", "<"), ("<", ">", "~"))
    return Claim(row=row, metric=_metric(fields.get("metric", metric)), readings=readings, **printed)


def _pick(written: Any, fields: Fields, names: set[str], what: str) -> Pick:
    cells = tuple(written) if isinstance(written, list) else (written,)
    if unknown := [cell for cell in cells if cell not in names]:
        raise TableError(f"{what}: no cell of the name {', '.join(map(str, unknown))}")
    if len(cells) > 1 and fields.get("by") not in ("test", "validation"):
        raise TableError(f"{what}: best_of needs by: test or by: validation, what chooses the best")
    return Pick(cells, fields["by"] if len(cells) > 1 else None)


def _effect(fields: Fields, names: set[str], metric: str) -> Effect:
    _known(fields, "effects", "name", "cell", "twin", "equal", optional=("metric",))
    for end in ("cell", "twin"):
        if fields[end] not in names:
            raise TableError(f"effects: {fields['name']}: no cell of the name {fields[end]}")
    return Effect(**fields | {"metric": _metric(fields.get("metric", metric))})


def _search(fields: Fields, cells: Sequence[Cell]) -> Search:
    _known(fields, "search", "over", "metric", "series", optional=("per", "retrain", "printed"))
    search = Search(**fields)
    if not search.metric.startswith("validation/"):
        raise TableError(f"search.metric = {search.metric}: the validation split chooses; write validation/…")
    if not any(cell.series == search.series and search.over in cell.overrides for cell in cells):
        raise TableError(f"search: no cells of the series {search.series} that set {search.over}")
    return search


def _metric(name: Any) -> str:
    if not isinstance(name, str) or name.partition("/")[0] not in METRICS or "/" not in name:
        raise TableError(f"metric = {name}: must be a path such as test/error_pct; it begins with {', '.join(METRICS)}")
    return name


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise TableError(f"{where}: must be a list")
    return value


def _known(fields: Any, where: str, *needed: str, optional: Sequence[str] = ()) -> Fields:
    if not isinstance(fields, dict):
        raise TableError(f"{where}: must be a mapping")
    if unknown := [key for key in fields if key not in (*needed, *optional)]:
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


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
