"""A table, evaluated: what the runs that are there say about its cells, claims and effects."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sam_repro import limits
from sam_repro.config import formula
from sam_repro.config.identity import Sought, sought
from sam_repro.config.schema import Resolved, flat
from sam_repro.config.table_file import Cell, Claim, Effect, Pick, Search, Table
from sam_repro.table import statistic
from sam_repro.table.runs import Found, Run, asked_settings, label, meant_metric
from sam_repro.table.statistic import Estimate

Numerics = tuple[tuple[str, Any], ...]

DASH = "—"


@dataclass(frozen=True)
class Line:
    """One row of a table: what it is of, what the runs gave, and how that was had."""

    row: str
    numerics: str = ""
    estimates: tuple[Estimate | None, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A claim in one reading: the printed number beside ours."""

    claim: Claim
    reading: str
    line: Line
    word: str
    delta: float | None = None


@dataclass(frozen=True)
class Choice:
    """What a search chose: the key's value by mean validation error, or why it chose nothing yet."""

    per: str
    curve: tuple[tuple[Any, Line], ...]
    chosen: Cell | None
    printed: Any
    missing: int


@dataclass
class Report:
    """All that a table shows, from its cells' configurations and the runs that were found.

    Args:
        table: the table file.
        configs: name → resolved configuration of every cell that can be composed.
        found: the runs.
    """

    table: Table
    configs: Mapping[str, Resolved]
    found: Found

    @cached_property
    def sought(self) -> dict[str, Sought]:
        """What is looked for as the runs of each of these cells, by name."""
        return {name: sought(config) for name, config in self.configs.items()}

    @cached_property
    def cells(self) -> list[Line]:
        """A line for each cell and numerics, then one for each shorter length of its runs."""
        lines = []
        for cell in self.table.cells:
            whole = self._lines(cell.name, self._runs(cell.name))
            lines += whole or [Line(cell.name, marks=self._nothing(cell))]
            lines += self._cut(cell.name)
        return lines

    @cached_property
    def claims(self) -> list[Judged]:
        """A row for each claim and reading."""
        return [judged for claim in self.table.claims for judged in self._judged(claim)]

    @cached_property
    def effects(self) -> list[tuple[Effect, str, Estimate | None, float | None]]:
        """Each effect: in which numerics, its estimate over the seeds of both, and the difference that was printed."""
        return [row for effect in self.table.effects for row in self._effect(effect)]

    @cached_property
    def choices(self) -> list[Choice]:
        """What the search chose, for each of its groups."""
        search = self.table.search
        if search is None:
            return []
        grid = [cell for cell in self.table.cells if cell.series == search.series]
        groups: dict[str, list[Cell]] = {}
        for cell in grid:
            groups.setdefault(str(cell.overrides[search.per] if search.per else ""), []).append(cell)
        return [self._choice(search, per, cells) for per, cells in groups.items()]

    @cached_property
    def assumed(self) -> dict[str, str]:
        """The keys of the cells that the paper does not state, and where they are from."""
        return {key: why for config in self.configs.values() for key, why in config.get("assumed", {}).items()}

    def missing(self, cell: Cell) -> list[int]:
        """The seeds of a cell that are still to be run: those of the numerics that lacks the fewest."""
        if cell.waiting:
            return []
        done = [{run.seed for run in runs} for runs in _by_numerics(self._runs(cell.name)).values()]
        return min(([seed for seed in self.table.seeds if seed not in seeds] for seeds in [*done, set()]), key=len)

    def state(self, cell: Cell) -> str:
        """How far a cell is."""
        if cell.waiting:
            return f"waiting: {cell.waiting}"
        missing = self.missing(cell)
        told = [
            f"seed {run.seed}: {run.state}"
            for run in self.found.unfinished
            if self.sought[cell.name].fits(run.identity, run.cell_hash) and run.seed in missing
        ]
        return "; ".join(told) or ("missing" if missing else "done")

    def _runs(self, name: str) -> list[Run]:
        return self.found.of(self.sought[name]) if name in self.sought else []

    def _nothing(self, cell: Cell) -> tuple[str, ...]:
        return (f"waiting: {cell.waiting}",) if cell.waiting else ()

    def _lines(self, row: str, runs: Sequence[Run], mark: str = "") -> list[Line]:
        """A line for each numerics."""
        return [
            Line(
                row,
                label(numerics),
                tuple(statistic.estimate(self._values(group, metric)) for metric in self.table.metrics),
                (*([mark] if mark else []), *_mixed(group), *self._lacking(group, self.table.metrics)),
            )
            for numerics, group in _by_numerics(runs).items()
        ]

    def _cut(self, name: str) -> list[Line]:
        if name not in self.configs:
            return []
        config, whole = self.configs[name], set(self.sought.values())
        budgets: dict[str, list[Run]] = {}
        for run in self.found.cut(config):
            if any(cell.fits(run.identity, run.cell_hash) for cell in whole):
                continue
            budgets.setdefault(_budget(run, config), []).append(run)
        return [line for words, runs in budgets.items() for line in self._lines(name, runs, f"shortened: {words}")]

    def _judged(self, claim: Claim) -> list[Judged]:
        if claim.literature:
            return [Judged(claim, "", Line(claim.row), "literature")]
        if claim.derived is not None:
            return self._derived(claim)
        return [row for reading, pick in claim.readings.items() for row in self._reading(claim, reading, pick)]

    def _reading(self, claim: Claim, reading: str, pick: Pick) -> list[Judged]:
        picked = self._picked(claim, pick)
        if not picked:
            waiting = [self.table.cell(name).waiting for name in pick.cells]
            return [Judged(claim, reading, Line(claim.row), f"waiting: {waiting[0]}" if all(waiting) else DASH)]
        rows = []
        for numerics, runs, marks, incomplete in picked:
            values = self._values(runs, claim.metric, claim.epoch)
            word, delta = statistic.verdict(claim, values)
            kept = (*marks, *_mixed(runs), *self._lacking(runs, (claim.metric,), claim.epoch))
            line = Line(claim.row, label(numerics), (statistic.estimate(values),), kept)
            rows.append(Judged(claim, reading, line, "incomplete" if incomplete else word, delta))
        return rows

    def _picked(self, claim: Claim, pick: Pick) -> list[tuple[Numerics, list[Run], tuple[str, ...], bool]]:
        """In each numerics the runs of the cell, or of the best of several, and whether some of these have none."""
        groups: dict[Numerics, dict[str, list[Run]]] = {}
        for name in pick.cells:
            for numerics, runs in _by_numerics(self._runs(name)).items():
                groups.setdefault(numerics, {})[name] = runs
        chosen = []
        for numerics, by_cell in groups.items():
            best = next(iter(by_cell))
            marks: tuple[str, ...] = ()
            if pick.by is not None:
                best = self._best(by_cell, claim.metric, pick.by)
                marks = (f"{best}: best of {len(by_cell)} of {len(pick.cells)} cells by {pick.by}",)
            chosen.append((numerics, by_cell[best], marks, len(by_cell) < len(pick.cells)))
        return chosen

    def _derived(self, claim: Claim) -> list[Judged]:
        """A formula of several cells, evaluated for each seed that all of them have."""
        assert claim.derived is not None
        picked: dict[Numerics, dict[str, list[Run]]] = {}
        for name, pick in claim.readings.items():
            for numerics, runs, _, incomplete in self._picked(claim, pick):
                if not incomplete:
                    picked.setdefault(numerics, {})[name] = runs
        rows = []
        for numerics, by_name in picked.items():
            if len(by_name) < len(claim.readings):
                continue
            seeds = {name: self._by_seed(runs, claim.metric, claim.epoch) for name, runs in by_name.items()}
            shared = sorted(set.intersection(*(set(values) for values in seeds.values())))
            found = [formula.value(claim.derived, {name: of[seed] for name, of in seeds.items()}) for seed in shared]
            values = [value for value in found if value is not None]
            word, delta = statistic.verdict(claim, values)
            marks = _mixed([run for runs in by_name.values() for run in runs])
            rows.append(
                Judged(claim, "", Line(claim.row, label(numerics), (statistic.estimate(values),), marks), word, delta)
            )
        return rows or [Judged(claim, "", Line(claim.row), DASH)]

    def _effect(self, effect: Effect) -> list[tuple[Effect, str, Estimate | None, float | None]]:
        ours, twin = _by_numerics(self._runs(effect.cell)), _by_numerics(self._runs(effect.twin))
        printed = self._printed_difference(effect)
        rows = []
        for numerics in ours.keys() & twin.keys():
            pair = [self._by_seed(group[numerics], effect.metric) for group in (ours, twin)]
            rows.append((effect, label(numerics), statistic.paired(*pair), printed))
        return sorted(rows, key=lambda row: row[1]) or [(effect, "", None, printed)]

    def _printed_difference(self, effect: Effect) -> float | None:
        """Claim of the one less claim of the other, in the reading that these two cells are."""
        printed = [self._printed(name, effect.metric) for name in (effect.cell, effect.twin)]
        return None if printed[0] is None or printed[1] is None else printed[0] - printed[1]

    def _printed(self, name: str, metric: str) -> float | None:
        """What was printed of a cell; None where several claims could be of it."""
        claims = [
            claim for claim in self.table.claims if claim.metric == metric and not claim.bound and not claim.derived
        ]
        of_it = [claim for claim in claims if any(pick.cells == (name,) for pick in claim.readings.values())]
        return of_it[0].value if len(of_it) == 1 else None

    def _choice(self, search: Search, per: str, cells: Sequence[Cell]) -> Choice:
        """The best mean over a whole grid of one numerics; of equal means the first of the grid."""
        groups = {cell.name: _by_numerics(self._runs(cell.name)) for cell in cells}
        whole = [numerics for numerics in groups[cells[0].name] if self._is_whole(numerics, groups.values())]
        curve: dict[str, Line] = {}
        for cell in cells:
            numerics = whole[0] if whole else next(iter(groups[cell.name]), ())
            ours = statistic.estimate(self._values(groups[cell.name].get(numerics, []), search.metric))
            curve[cell.name] = Line(cell.name, label(numerics), (ours,))
        estimates = {name: line.estimates[0] for name, line in curve.items()}
        chosen = None
        if whole and all(estimates.values()):
            chosen = min(cells, key=lambda cell: _badness(estimates[cell.name], search.metric))
        missing = sum(len(self.missing(cell)) for cell in cells)
        values = tuple((cell.overrides[search.over], curve[cell.name]) for cell in cells)
        return Choice(per, values, chosen, _printed_choice(search, per), missing)

    def _is_whole(self, numerics: Numerics, groups: Iterable[Mapping[Numerics, Sequence[Run]]]) -> bool:
        """Whether every cell has every seed of the table in these numerics."""
        wanted = set(self.table.seeds)
        return all(wanted <= {run.seed for run in by_numerics.get(numerics, [])} for by_numerics in groups)

    def _best(self, by_cell: Mapping[str, Sequence[Run]], metric: str, by: str) -> str:
        """The cell with the best mean of the split that chooses; of equal ones the first."""
        judge = f"{by}/{metric.partition('/')[2]}"
        estimates = {name: statistic.estimate(self._values(runs, judge)) for name, runs in by_cell.items()}
        return min(by_cell, key=lambda name: _badness(estimates[name], judge))

    def _values(self, runs: Sequence[Run], metric: str, epoch: float | None = None) -> list[float]:
        return list(self._by_seed(runs, metric, epoch).values())

    def _by_seed(self, runs: Sequence[Run], metric: str, epoch: float | None = None) -> dict[int, float]:
        """The values by seed; a sharpness as the whole table has it, and within one protocol."""
        if not metric.startswith("sharpness/") or epoch is not None:
            found = {run.seed: run.value(metric, epoch) for run in runs}
            return {seed: value for seed, value in found.items() if value is not None}
        settings = self.settings_of(metric)
        measured = {
            run.seed: {
                protocol.done: v for protocol, v in run.by_protocol(metric).items() if protocol.settings == settings
            }
            for run in runs
        }
        done = _most_common(protocol for values in measured.values() for protocol in values)
        return {seed: values[done] for seed, values in measured.items() if done in values}

    def settings_of(self, metric: str) -> str:
        """The settings of a sharpness in this table; empty where no run has it.

        They are those that the table's cells ask for, if a run was measured so; else those of most runs.
        """
        if metric not in self._settings:
            measured = [[protocol.settings for protocol in run.by_protocol(metric)] for run in self._counted]
            asked = _most_common(map(asked_settings, self.configs.values()))
            most = _most_common(settings[0] for settings in measured if settings)  # in training, or the first later
            self._settings[metric] = asked if any(asked in settings for settings in measured) else most
        return self._settings[metric]

    @cached_property
    def _counted(self) -> list[Run]:
        """The runs of all cells."""
        return [run for name in self.configs for run in [*self._runs(name), *self.found.cut(self.configs[name])]]

    @cached_property
    def _settings(self) -> dict[str, str]:
        return {}

    def _lacking(self, runs: Sequence[Run], metrics: Sequence[str], epoch: float | None = None) -> tuple[str, ...]:
        """What is to be said of metrics that not all of the runs have: a mean of a part of the seeds must be seen."""
        counts = {metric: len(self._by_seed(runs, metric, epoch)) for metric in metrics}
        return tuple(
            f"{metric}: in {f'{n} of {len(runs)} runs' if n else 'no run'}"
            f"{(self._otherwise(runs, metric) if epoch is None else '') or meant_metric(self._counted, metric)}"
            for metric, n in counts.items()
            if n < len(runs)
        )

    def _otherwise(self, runs: Sequence[Run], metric: str) -> str:
        """With which other settings some of the runs were measured: these are never in one column."""
        if not metric.startswith("sharpness/"):
            return ""
        own = self.settings_of(metric)
        measured = [[protocol.settings for protocol in run.by_protocol(metric)] for run in runs]
        others = [settings[0] for settings in measured if settings and own not in settings]
        keys = {
            f"{k} {limits.shown(v)}"
            for text in others
            for k, v in json.loads(text).items()
            if json.loads(own).get(k) != v
        }
        return f"; {len(others)} with other settings: {', '.join(sorted(keys))}" if others else ""


def difference(ours: Resolved, other: Resolved) -> list[tuple[str, Any, Any]]:
    """Keys in which two resolved configurations differ, with both values; a key that one has not is None there."""
    a, b = flat(ours), flat(other)
    keys = [key for key in sorted(a.keys() | b.keys()) if key.partition(".")[0] not in ("choices", "origin", "assumed")]
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _by_numerics(runs: Iterable[Run]) -> dict[Numerics, list[Run]]:
    """Runs that may share a mean: of equal numerics, of equal data as far as recorded, and given the same."""
    runs = list(runs)
    recorded, given = {run.inputs for run in runs if run.inputs is not None}, _given(runs)
    groups: dict[Numerics, list[Run]] = {}
    for run in runs:
        inputs = (("inputs", run.inputs or "not recorded"),) if len(recorded) > 1 else ()
        groups.setdefault((*run.numerics, *inputs, *((key, str(run.identity.get(key))) for key in given)), []).append(
            run
        )
    return groups


def _given(runs: Sequence[Run]) -> list[str]:
    """The keys in which runs of one cell differ, because it leaves them open, and those that name files."""
    keys = {key for run in runs for key in run.config.get("files", {})}
    for run in runs[1:] if len({run.cell_hash for run in runs}) > 1 else ():
        one, other = runs[0].identity, run.identity
        keys |= {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return sorted(keys - {"optimizer.rho"})  # it follows rho


def _mixed(runs: Sequence[Run]) -> tuple[str, ...]:
    digests = {run.sources for run in runs}
    marks = [f"of {len(digests)} versions of the sources"] if len(digests) > 1 else []
    kept = sum("evidence" in run.folder.parts for run in runs)
    marks += [f"kept evidence: {kept} of {len(runs)} runs"] if 0 < kept < len(runs) else []
    if unrecorded := sum(run.inputs is None for run in runs):
        marks.append(
            "inputs not recorded" + (f": in {unrecorded} of {len(runs)} runs" if unrecorded < len(runs) else "")
        )
    return tuple(marks)


def _most_common(texts: Iterable[str]) -> str:
    """The text that comes most often, of equal ones the first in the alphabet; empty of none."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text), default="")


def _badness(ours: Estimate | None, metric: str) -> float:
    """Small is good: the mean of an error or a loss, less that of an accuracy."""
    if ours is None:
        return math.inf
    return -ours.mean if "accuracy" in metric else ours.mean


def _budget(run: Run, config: Resolved) -> str:
    done = run.result["cost"]["steps"]
    if run.config["epochs"] != config["epochs"]:
        return f"{run.config['epochs']} of {limits.counted(config['epochs'], 'epoch')}, {limits.counted(done, 'step')}"
    return f"{limits.counted(done, 'step')} of {limits.counted(config['epochs'], 'epoch')}"


def _printed_choice(search: Search, per: str) -> Any:
    return {str(key): value for key, value in search.printed.items()}.get(per)
