"""Two runs side by side: what they were told, where and from what they were made, what they gave, where they part."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sam_repro.config.identity import identity
from sam_repro.limits import shown
from sam_repro.run.metrics import read_metrics
from sam_repro.run.provenance import describe_changed
from sam_repro.run.record import read_run
from sam_repro.table.report import difference
from sam_repro.table.runs import Run

PARTS = ("test", "validation", "train", "label_noise", "sharpness", "cost")
MADE = ("cpu", "gpu", "cuda", "cudnn", "torch", "torchvision", "timm", "numpy", "python", "cpu_threads")
"""Keys of a result's environment that can move a number."""
CLOCK = ("seconds", "examples_per_second")


class Comparison(NamedTuple):
    """What differs between two runs: texts, and rows with both values."""

    told: list[str]
    keys: list[tuple[str, Any, Any]]
    metrics: list[tuple[str, Any, Any]]


def compare(one: Run, other: Run) -> Comparison:
    """Compare two finished runs. What cannot matter, such as wandb or progress, is left out."""
    same = "the same cell" if one.cell_hash == other.cell_hash else "different cells"
    keys = difference(_deciding(one), _deciding(other))
    made = difference(_made(one), _made(other))
    metrics = [
        (f"{part}/{leaf}", _value(one, part, leaf), _value(other, part, leaf))
        for part in PARTS
        for leaf in dict.fromkeys([*one.leaves(part), *other.leaves(part)])
    ]
    metrics = [(key, a, b) for key, a, b in metrics if a is not None or b is not None]
    return Comparison([same, _sources(one, other), _parting(one, other)], [*keys, *made], metrics)


def _deciding(run: Run) -> dict[str, Any]:
    return identity(run.config) | dict(run.numerics) | {"seed": run.seed, "report": run.config["report"]}


def _made(run: Run) -> dict[str, Any]:
    environment, commit = run.result["environment"], (run.result.get("git") or {}).get("commit")
    return {key: environment.get(key) for key in MADE} | {"commit": commit and commit[:12], "inputs": run.inputs}


def _value(run: Run, part: str, leaf: str) -> Any:
    """A number, or a text such as a mask's digest, or None for what was not measured."""
    number = run.value(f"{part}/{leaf}")
    return run.text(part, leaf) if number is None else number


def _sources(one: Run, other: Run) -> str:
    if one.sources == other.sources:
        return "sources equal"
    try:
        files = describe_changed(*(read_run(run.folder)["sources"] for run in (one, other)))
    except (OSError, ValueError, KeyError):
        return "sources different; which files is not recorded"
    return f"sources different: {files}"


def _parting(one: Run, other: Run) -> str:
    """The first row of the records, of those that both have, at which two runs are not the same any more."""
    try:
        first, second = (
            {(row.get("kind"), row["step"]): row for row in read_metrics(run.folder / "metrics.jsonl")}
            for run in (one, other)
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return "a record is damaged or missing, so that rows cannot be compared"
    both = [place for place in first if place in second]
    for kind, step in both:
        a, b = first[kind, step], second[kind, step]
        if keys := list(_unequal(a, b)):
            values = ", ".join(f"{key} {shown(a.get(key))} and {shown(b.get(key))}" for key in keys[:2])
            return f"the records part at step {step} ({kind}): {values}"
    return f"the records are equal in the {len(both)} rows that both have"


def _unequal(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in {**one, **other}:
        if json.dumps(one.get(key)) != json.dumps(other.get(key)) and not key.endswith(CLOCK):
            yield key
