"""Runs as a finished training leaves them, with the numbers that a test chooses."""

import functools
import json
from pathlib import Path
from typing import Any

import yaml

from sam_repro.config.identity import cell_hash, home
from sam_repro.config.lines import compose_line
from sam_repro.config.schema import SCHEMA
from sam_repro.config.table_file import Cell, Table, spell_words
from sam_repro.config.table_reader import parse_table
from sam_repro.table import runs
from sam_repro.table.report import Report

MINE = """
title: A table of the tests
recipe: digits/label_noise
set: {optimizer: sam}
seeds: [0, 1, 2]
metrics: [test/error_pct]
cells:
  - name: "sam {rho}"
    grid: {rho: [0.1, 0.2]}
  - name: sgd
    set: {optimizer: sgd, epochs: 20}
  - name: sgd twice
    set: {optimizer: sgd, epochs: 40}
  - name: not yet
    waiting: something
"""


@functools.cache
def _settings(line: tuple[str, ...]) -> str:
    return json.dumps(compose_line(list(line)))


def _composed(cell: Cell, own: tuple[str, ...]) -> dict[str, Any]:
    """What composed_cell gives for the table of the tests, each command line once."""
    recipe = {"experiment": "digits/label_noise", "optimizer": "sam"} | cell.overrides
    config = json.loads(_settings((*spell_words(recipe), *(line for line in own if not line.startswith("seed=")))))
    seeds = [int(line.removeprefix("seed=")) for line in own if line.startswith("seed=")]
    return config | {"seed": (seeds or [0])[0]}


class Lab:
    """A folder of constructed runs, and the report on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outputs = root / "outputs"
        self.table = self.tabled("")

    def tabled(self, more: str, base: str = MINE) -> Table:
        """The table of the tests with more fields."""
        self.table = parse_table("mine", yaml.safe_load(base + more))
        return self.table

    def config(self, cell: str, *own: str) -> dict[str, Any]:
        return _composed(self.table.cell(cell), own)

    def run(
        self,
        cell: str,
        seed: int = 0,
        error: float = 10.0,
        validation: float | None = None,
        own: tuple[str, ...] = (),
        numerics: dict[str, Any] | None = None,
        sources: str = "s",
        epochs: dict[float, dict[str, float]] | None = None,
        done_epochs: float | None = None,
        **more: Any,
    ) -> Path:
        """Write one; `epochs` are rows of the record by epoch."""
        config = (
            self.config(cell, f"seed={seed}", *own)
            | {"device": "cpu", "precision": "fp32", "compile": False}
            | (numerics or {})
        )
        folder = self.outputs.parent / self.outputs.name / Path(*home(config).parts[1:])
        folder.mkdir(parents=True, exist_ok=True)
        scores = {"error_pct": error, "accuracy_pct": 100 - error, "epoch": done_epochs or config["epochs"]}
        held = None if validation is None else {"error_pct": validation}
        result = {
            "schema": SCHEMA,
            "seed": seed,
            "config": config,
            "cell_hash": cell_hash(config),
            "metrics": {
                "test": {"last": scores, "best_validation": None, "peak": scores},
                "validation": {"last": held, "best": held},
                "train": {"error_pct": 1.0},
            },
            "sharpness": {},
            "label_noise": {"train_accuracy_flipped_pct": 50.0},
            "cost": {"passes": 100, "products": 0, "steps": 50, "seconds": 10.0},
            "environment": {"host": "elsewhere"},
            "weights_sha256": f"{cell}{seed}{error}",
            "inputs": "0" * 64,
            "sources_sha256": sources,
        } | more
        (folder / "result.json").write_text(json.dumps(result))
        rows = [{"kind": "epoch", "step": 49, "epoch": epoch} | row for epoch, row in (epochs or {20: {}}).items()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def runs(self, cell: str, errors: list[float], **more: Any) -> list[Path]:
        """One for each error, with the seeds 0, 1, 2 …"""
        return [self.run(cell, seed, error, **more) for seed, error in enumerate(errors)]

    def report(self, *roots: Path) -> Report:
        configs = {cell.name: self.config(cell.name) for cell in self.table.cells if not cell.waiting}
        return Report(self.table, configs, runs.find(roots or [self.outputs]))

    def word(self, errors: list[float], claim: str) -> str:
        """The verdict on a claim about "sam 0.1", of which these are the runs."""
        self.tabled(f"claims: [{{row: r, cell: sam 0.1, {claim}}}]\n")
        self.runs("sam 0.1", errors)
        (judged,) = self.report().claims
        return judged.word
