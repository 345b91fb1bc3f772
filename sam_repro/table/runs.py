"""The runs below some folders: what they are, how far they are, and what they measured."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sam_repro.config.identity import Sought, cell_hash, identity, numerics, of
from sam_repro.config.options import meant
from sam_repro.config.schema import OPEN, Resolved, facts_of, flat
from sam_repro.config.schema1 import modern
from sam_repro.files import regular
from sam_repro.limits import counted
from sam_repro.run.lock import is_locked
from sam_repro.run.metrics import read_metrics, record_flaw
from sam_repro.run.record import read_failure, read_measurement, read_result, read_run

BUDGET = ("epochs", "max_steps")
"""Keys that say how long a cell is trained: a run that differs in these alone, and is shorter, is a shortened one."""


class Protocol(NamedTuple):
    """How a sharpness was measured, as texts to compare.

    Args:
        settings: settings and checkpoint; equal for all runs of a table.
        done: the protocol without weights hash and outcome; equal for all runs of a cell.
    """

    settings: str
    done: str


@dataclass(frozen=True)
class Run:
    """A finished run, from its `result.json`.

    Args:
        folder: its home.
        result: the content of `result.json`.
        copies: other homes with the same weights, whose measurements are its own too.
    """

    folder: Path
    result: dict[str, Any]
    copies: tuple[Path, ...] = ()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its resolved configuration, in today's keys."""
        return modern(self.result["config"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.result["seed"]

    @property
    def sources(self) -> str:
        """Digest of the sources that made it."""
        return self.result["sources_sha256"]

    @property
    def inputs(self) -> str | None:
        """Digest of the data that it was trained on; None in a record from before inputs were recorded."""
        return self.result.get("inputs")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its cell is, key by key."""
        return identity(self.config)

    @cached_property
    def cell_hash(self) -> str:
        """The cell that it is a run of."""
        return cell_hash(self.config)

    @cached_property
    def numerics(self) -> tuple[tuple[str, Any], ...]:
        """How it was computed; runs that differ in it are not averaged."""
        return tuple(sorted(numerics(self.config).items()))

    @cached_property
    def epochs(self) -> dict[float, dict[str, Any]]:
        """The rows of its epochs, by epoch; empty where the record is not whole."""
        try:
            rows = read_metrics(self.folder / "metrics.jsonl") if record_problem(self) is None else []
        except ValueError:  # `find` lists it under problems
            return {}
        return {row["epoch"]: row for row in rows if row.get("kind") == "epoch"}

    def value(self, metric: str, epoch: float | None = None) -> float | None:
        """What it measured; None for what it did not.

        Args:
            metric: a path: test/…, validation/… (of the weights that `report` names), train/…, label_noise/…,
                sharpness/<measure>/…, epoch/… (means over an epoch of the training).
            epoch: take it from that epoch's row; default the end, and for epoch/… the last epoch.
        """
        part, _, rest = metric.partition("/")
        if epoch is not None or part == "epoch":
            rows = self.epochs
            return rows.get(max(rows) if epoch is None else epoch, {}).get(metric) if rows else None
        if part == "sharpness":
            return next(iter(self.by_protocol(metric).values()), None)
        return _at(self._part(part), rest.split("/"))

    def by_protocol(self, metric: str) -> dict[Protocol, float]:
        """What it measured as sharpness/<measure>/<value>, by the protocol; what was measured in training is first."""
        measure, _, value = metric.removeprefix("sharpness/").rpartition("/")
        found: dict[Protocol, float] = {}
        for measurement in self.measurements:
            if measurement["measure"] == measure and (number := _at(measurement["values"], [value])) is not None:
                found.setdefault(_protocol(measurement["protocol"]), number)
        return found

    def arrays(self, measure: str, settings: str) -> dict[str, Any] | None:
        """The arrays, such as a grid of losses, of a measure with these settings; None where it has none."""
        found = (one for one in self.measurements if one["measure"] == measure and one.get("arrays"))
        return next((one["arrays"] for one in found if _protocol(one["protocol"]).settings == settings), None)

    def text(self, part: str, rest: str) -> str | None:
        """A text in a part of the result, by the rest of its path."""
        inside = self._part(part)
        value = flat(inside).get(rest.replace("/", ".")) if isinstance(inside, dict) else None
        return value if isinstance(value, str) else None

    def leaves(self, part: str) -> list[str]:
        """The leaves of a part of the result, or of the rows of its epochs, as the rest of their paths."""
        if part == "epoch":
            return list(dict.fromkeys(key.removeprefix("epoch/") for row in self.epochs.values() for key in row))
        inside = self._part(part)
        return [key.replace(".", "/") for key in flat(inside)] if isinstance(inside, dict) else []

    def _part(self, part: str) -> Any:
        report, metrics = self.config["report"], self.result["metrics"]
        if part == "test":
            return metrics["test"][report]
        if part == "validation":
            return metrics["validation"]["best" if report == "best_validation" else "last"]
        if part == "train":
            return metrics["train"]
        if part == "sharpness":
            return {name: measured["values"] for name, measured in self.result["sharpness"].items()}
        return self.result[part]

    @cached_property
    def measurements(self) -> list[dict[str, Any]]:
        """Sharpness, each measurement with its protocol: of the result, then what was measured later."""
        own = [measured | {"measure": name} for name, measured in self.result["sharpness"].items()]
        files = (file for folder in (self.folder, *self.copies) for file in measurement_files(folder))
        later = [measurement for file in files if not isinstance(measurement := _measurement(file, self), str)]
        return own + later


@dataclass(frozen=True)
class Unfinished:
    """A run without a result: "running", "failed: why" or "broken off"."""

    folder: Path
    seed: int
    identity: dict[str, Any]
    cell_hash: str
    state: str


@dataclass
class Found:
    """What lies below some folders; `problems` names what could not be read, a line each."""

    runs: list[Run] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, cell: Sought) -> list[Run]:
        """The finished runs of a cell, by seed."""
        return sorted((run for run in self.runs if cell.fits(run.identity, run.cell_hash)), key=lambda run: run.seed)

    def cut(self, config: dict[str, Any]) -> list[Run]:
        """The finished runs that differ from a cell in nothing but a smaller budget, by seed.

        Not those of less than an epoch, such as to time a pass.
        """
        wanted = identity(config)
        apart = {*BUDGET, *(key for key, value in wanted.items() if value == OPEN)}
        wanted = {key: value for key, value in wanted.items() if key not in apart}
        return sorted(
            (
                run
                for run in self.runs
                if _is_smaller(run.config, config)
                and run.result["metrics"]["test"]["last"]["epoch"] >= 1
                and {key: value for key, value in run.identity.items() if key not in apart} == wanted
            ),
            key=lambda run: run.seed,
        )


def find(roots: Iterable[Path]) -> Found:
    """Read every run below the folders; of two of the same cell, seed, numerics and inputs the first counts.

    Inputs that were not recorded may be those of another run, unless there are several that they may be.

    Args:
        roots: folders, such as outputs; in each, what lies below `runs` comes before `evidence`.
    """
    found = Found()
    seen: dict[tuple[Any, ...], list[Run]] = {}
    twice: list[tuple[Path, Path]] = []
    for folder in (folder for root in roots for folder in _homes(root, found.problems)):
        try:
            if (folder / "result.json").exists():
                run = _read_finished(folder)
                seen.setdefault((run.cell_hash, run.seed, run.numerics), []).append(run)
            else:
                found.unfinished.append(_read_unfinished(folder))
        except (ValueError, OSError) as error:
            found.problems.append(f"{folder}: damaged, not counted ({error})")
    for first, *others in (runs for alike in seen.values() for runs in _by_inputs(alike)):
        copies = [run for run in others if run.result["weights_sha256"] == first.result["weights_sha256"]]
        found.runs.append(Run(first.folder, first.result, tuple(run.folder for run in copies)))
        found.problems += _problems(first)
        twice += [(run.folder, first.folder) for run in others if run not in copies]
    if twice:
        more = f", nor are {len(twice) - 1} others that another comes before" if len(twice) > 1 else ""
        found.problems.append(f"{twice[0][0]}: not counted, because {twice[0][1]} is of the same cell and seed{more}")
    return found


def _by_inputs(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one seed by their inputs; where one digest was recorded at most, they are taken for runs of the same."""
    groups: dict[str | None, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.inputs, []).append(run)
    return list(groups.values()) if len(groups.keys() - {None}) > 1 else [list(runs)]


def read(folder: Path) -> Run:
    """The finished run in a home.

    Raises:
        ValueError: if it has no result, or that is damaged or of another schema.
    """
    if not (folder / "result.json").exists():
        raise ValueError(f"{folder}: no finished run; result.json is missing")
    try:
        return _read_finished(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}: damaged ({error})") from None


def record_problem(run: Run) -> str | None:
    """What is wrong with the record of a finished run: it must be the one that was written, to the last step."""
    path, steps = run.folder / "metrics.jsonl", run.result["cost"]["steps"]
    lost = "what the result holds counts, what only the record holds does not"
    try:
        if written := run.result.get("rows"):
            flaw = record_flaw(path, written)
            return None if flaw is None else f"{path}: {flaw}; {lost}"
        with regular(path).open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            *_, last = file.read().splitlines()
        step = json.loads(last)["step"]
    except (ValueError, KeyError, TypeError, OSError):
        return f"{path}: damaged or cut; {lost}"
    return None if step == steps - 1 else f"{path}: cut: it ends after {step + 1} of {counted(steps, 'step')}"


def meant_metric(runs: Sequence[Run], metric: str) -> str:
    """What a metric probably means, where the runs have none of this name."""
    part, _, rest = metric.partition("/")
    known = {leaf for run in runs for leaf in run.leaves(part)}
    return "" if rest in known else meant(rest, known, f"{part}/")


def measurement_files(folder: Path) -> list[Path]:
    """The measurements beside the result of a run; what begins with a dot is not complete."""
    return sorted(file for file in folder.glob("sharpness/*.json") if not file.name.startswith("."))


def label(numerics: Sequence[tuple[str, Any]]) -> str:
    """Numerics in words: precision and device, and what is not at its default."""
    given = dict(numerics)
    words = [" on ".join(str(given[key]) for key in ("precision", "device") if given.get(key))]
    words += [f"threads: {threads}"] if (threads := given.get("threads")) is not None else []
    words += ["compile"] if given.get("compile") else []
    words += [f"micro_batch {size}"] if (size := given.get("micro_batch")) is not None else []
    words += ["parts as branches"] if given.get("parts") == "branches" else []
    words += ["contiguous"] if given.get("channels_last") is False else []
    words += ["deterministic"] if given.get("deterministic") else []
    words += [f"inputs {given['inputs'][:12]}"] if given.get("inputs") else []
    words += [f"{k} {v[:19]}" for k, v in numerics if k != "inputs" and facts_of(k).role == "definition"]
    words += ["not fused"] if given.get("base_optimizer.fused") is False else []
    return ", ".join(word for word in words if word)


def _read_finished(folder: Path) -> Run:
    run = Run(folder, read_result(folder))
    _refuse_other(run)
    return run


def _refuse_other(run: Run) -> None:
    """Refuse a result that was copied from another home."""
    if re.fullmatch(r"seed=\d+", run.folder.name) and run.folder.name != f"seed={run.seed}":
        raise ValueError(f"result.json is of seed {run.seed}; put back this home's own")
    if (run.folder / "run.json").exists():
        begun = modern(read_run(run.folder)["config"])
        if begun != run.config and of(begun) != of(run.config):
            parts = [key for key, value in of(run.config).items() if of(begun)[key] != value]
            raise ValueError(f"result.json and run.json differ in {', '.join(parts)}: one of them is of another run")


def _read_unfinished(folder: Path) -> Unfinished:
    config = modern(read_run(folder)["config"])
    state = "broken off"
    if is_locked(folder):
        state = "running"
    elif (folder / "failed.json").exists():
        state = f"failed: {read_failure(folder)}"
    return Unfinished(folder, config["seed"], identity(config), cell_hash(config), state)


def _homes(root: Path, problems: list[str]) -> Iterator[Path]:
    """Every home below a folder; one that was set aside does not count. What cannot be read is told."""
    seen = set()

    def tell(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            problems.append(f"{error.filename}: cannot be read ({error.strerror}), so its runs are not counted")

    for path, folders, files in os.walk(root, onerror=tell, followlinks=True):
        if (real := os.path.realpath(path)) in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (name != "runs", name))
        folder = Path(path)
        if re.fullmatch(r"seed=\d+", folder.name):
            folders.clear()
            if {"result.json", "run.json"} & set(files):
                yield folder


def _problems(run: Run) -> list[str]:
    """What is wrong beside a result that is whole."""
    read = [(file, _measurement(file, run)) for file in measurement_files(run.folder)]
    damaged = [f"{file}: damaged, not counted ({content})" for file, content in read if isinstance(content, str)]
    problem = record_problem(run)
    return ([] if problem is None else [problem]) + damaged


def _measurement(file: Path, run: Run) -> dict[str, Any] | str:
    """What a file of a measurement says, or what is wrong with it."""
    try:
        return read_measurement(file, run.result)
    except (ValueError, OSError) as error:
        return str(error)


def asked_settings(config: Resolved) -> str:
    """The settings with which a configuration asks for its sharpness, as a `Protocol` tells them."""
    return _text({key: value for key, value in config["sharpness"].items() if key != "every"})


def _protocol(protocol: dict[str, Any]) -> Protocol:
    settings = {"checkpoint": protocol.get("checkpoint"), **protocol.get("settings", {})}
    done = {key: value for key, value in protocol.items() if key not in ("weights_sha256", "outcome")}
    return Protocol(_text(settings), _text(done))


def _text(part: dict[str, Any]) -> str:
    return json.dumps(part, sort_keys=True)


def _is_smaller(config: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether a budget is smaller than the whole."""
    shorter = config["epochs"] < whole["epochs"]
    return shorter or (config["epochs"] == whole["epochs"] and config["max_steps"] not in (None, whole["max_steps"]))


def _at(value: Any, path: Sequence[str]) -> float | None:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
