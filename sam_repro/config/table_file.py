"""What a table file says: cells that somebody wants run, claims that somebody printed, effects, a search."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam_repro.config.schema import Plain

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_WORDS = ("null", "none", "true", "false", "nan", "inf")  # texts that would be read as something else


class TableError(ValueError):
    """A table file that cannot be right; the message says where."""


@dataclass(frozen=True)
class Cell:
    """One configuration, without seed, that somebody wants run.

    Args:
        index: its number in the table, from 0.
        name: its name, unique in the table.
        series: the cell's name template; all cells of one grid share it.
        overrides: key → value, on top of the recipe.
        waiting: what does not exist yet, so that it cannot be composed; None (default) for nothing.
    """

    index: int
    name: str
    series: str
    overrides: Plain
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
        readings: label → pick; several are an undecided reading, each of which is shown; none for literature.
        value: the printed number; None for a blank that is ours to fill.
        plus_minus: its printed spread, and `spread` what that is: "ci95" (half-width, default), "ci68" or "sd".
        runs: runs behind the printed number, default 1.
        bound: "<", ">" or "~" (default None) where a bound is printed instead of a number; it gets no verdict.
        printed: where.
        suspect: why the printed number is doubted, default None.
        epoch: of which our number is taken, default the one that the run reports.
        derived: a formula over the names of `readings`, such as 100 * (sgd - sam) / sgd; default None.
        tolerance: how far ours may be from it, for what is neither a percentage nor a sharpness; default None.
        literature: whether it is somebody else's number, which is shown and never run; default False.
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
    tolerance: float | None = None
    literature: bool = False


@dataclass(frozen=True)
class Effect:
    """A cell against its twin, paired by seed.

    Args:
        name: what is compared.
        cell: name of the one.
        twin: name of the other, whose value is subtracted.
        metric: of which.
        equal: what both have the same of: "epochs", "passes" or "epochs and passes".
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
    retrain: Plain = field(default_factory=dict)
    printed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """What the picture shows: a metric against a key of the cells."""

    x: str
    y: str


@dataclass(frozen=True)
class Surfaces:
    """What the picture shows: the loss surface of each cell, as the measure `surfaces` found it."""

    surfaces: str


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
        notes: lines below the table.
    """

    name: str
    title: str
    source: str
    recipe: str | None
    shared: Plain
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]
    effects: tuple[Effect, ...]
    search: Search | None
    plot: Plot | Surfaces | None
    notes: tuple[str, ...]

    def cell(self, which: int | str) -> Cell:
        """The cell of this number or name.

        Raises:
            TableError: if there is no such cell.
        """
        for cell in self.cells:
            if which in (cell.index, cell.name):
                return cell
        between = re.fullmatch(r"(\d+)\s*(?:-|–|:|\.\.+|…)\s*(\d+)", str(which))
        if between and int(between[1]) < int(between[2]) < len(self.cells):
            numbers = ",".join(map(str, range(int(between[1]), int(between[2]) + 1)))
            raise TableError(f"cell = {which}: write the numbers one by one: -m cell={numbers}")
        near = difflib.get_close_matches(str(which), [cell.name for cell in self.cells], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise TableError(f"cell = {which}: {self.name} has the cells 0 … {len(self.cells) - 1}{meant}")

    def overrides(self, cell: Cell) -> Plain:
        """All that the cell sets, the recipe first."""
        recipe = {"experiment": self.recipe} if self.recipe else {}
        return recipe | self.shared | cell.overrides


def spell_words(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as a command line has them."""
    return [f"{key}={_spell(value)}" for key, value in overrides.items()]


def quote(text: str) -> str:
    """A text in the quotes of Hydra's grammar, where a backslash counts only before a quote or at the end."""
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    return "'" + re.sub(r"\\+$", lambda found: found[0] * 2, escaped) + "'"


def _spell(value: Any) -> str:
    """A value as Hydra's grammar reads it back: a text stays one, whatever is in it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_spell, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or value.lower() in _WORDS):
        return quote(value)
    return str(value)
