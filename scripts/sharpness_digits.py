"""Sharpness of SAM on the digits with label noise, by several protocols on the same weights, and the test error.

    python scripts/sharpness_digits.py --to /tmp/sharpness_out

Trains every radius with every seed (a run that is there is not repeated), measures each, and writes `runs.csv`,
`table.md` (mean ± half of the 95 % t-interval over the seeds) and `sharpness.png` to the folder.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from sam_repro import measure, train

RADII = (0.0, 0.05, 0.2, 0.5)
TIGHT = "sharpness.tolerance=0.001"
MEASURES = {  # column: option with its settings, value
    "lambda_max": (["lambda_max", TIGHT], "lambda_max"),
    "lambda_max, all 1000 images": (["lambda_max", TIGHT, "sharpness.examples=1000"], "lambda_max"),
    "luong2024, lanczos": (["luong2024"], "mean_positive"),
    "luong2024, power": (["luong2024", "sharpness.solver=power"], "mean_positive"),
    "luong2024, lanczos, maximum": (["luong2024"], "maximum"),
    "worst case at 0.05": (["worst_case", "sharpness.rho=0.05"], "loss_rise"),
}
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="folder for the runs and what is made of them")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.to)
    rows = [one(rho, seed) for seed in range(arguments.seeds) for rho in RADII]
    with open("runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    Path("table.md").write_text(table(rows))
    draw(rows)
    print(table(rows))


def one(rho: float, seed: int) -> Row:
    """Train and measure one run."""
    door(train.main, f"rho={rho}", f"seed={seed}", "label_noise.rate=0.4", "name=sharpness", "sharpness=none")
    (home,) = Path("outputs/runs/sharpness").glob(f"*-rho={rho:g}-*/seed={seed}")
    row = {"rho": rho, "seed": seed}
    row["test error %"] = json.loads((home / "result.json").read_text())["metrics"]["test"]["last"]["error_pct"]
    for column, (words, value) in MEASURES.items():
        said = door(measure.main, f"run={home}", f"sharpness={words[0]}", *words[1:])
        file = next(line.split(maxsplit=1)[1] for line in said if line.startswith(("measured", "done")))
        row[column] = json.loads(Path(file).read_text())["values"][value]
    print(row, flush=True)
    return row


def door(action: Callable[[], None], *words: str) -> list[str]:
    """The lines of a command, which is run in this process: importing torch anew for each would take longer."""
    said = io.StringIO()
    sys.argv = ["sam_repro", *words, "wandb=disabled", "progress=silent", "threads=1"]
    try:
        with contextlib.redirect_stdout(said):
            action()
    except SystemExit as end:
        if end.code:
            raise
    return said.getvalue().splitlines()


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % t-interval."""
    count = len(values)
    half = student.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else math.nan
    return statistics.fmean(values), half


def of(rows: list[Row], rho: float, column: str) -> list[float]:
    return [row[column] for row in rows if row["rho"] == rho]


def table(rows: list[Row]) -> str:
    columns = ["test error %", *MEASURES]
    lines = [["ρ", *columns], ["---"] * (len(columns) + 1)]
    for rho in RADII:
        cells = (interval(of(rows, rho, column)) for column in columns)
        lines.append([f"{rho:g}", *(f"{mean:.3g} ± {half:.2g}" for mean, half in cells)])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{text}\n{differences(rows)}"


def differences(rows: list[Row]) -> str:
    """How far the protocols differ on the same weights: ratio to λ_max of the whole training set."""
    base = "lambda_max, all 1000 images"
    lines = [f"Ratio to `{base}` on the same weights, over all runs (lowest, median, highest):\n"]
    for column in MEASURES:
        if column not in (base, "worst case at 0.05"):
            ratios = sorted(row[column] / row[base] for row in rows)
            lines.append(f"* {column}: {ratios[0]:.3g}, {statistics.median(ratios):.3g}, {ratios[-1]:.3g}")
    ratios = sorted(row["luong2024, power"] / row["luong2024, lanczos"] for row in rows)
    lines.append(f"* power over lanczos: {ratios[0]:.5g}, {statistics.median(ratios):.5g}, {ratios[-1]:.5g}")
    return "\n".join(lines) + "\n"


def draw(rows: list[Row]) -> None:
    from matplotlib.figure import Figure

    columns: list[str] = ["test error %", *MEASURES]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column in columns:
        points: list[Any] = [interval(of(rows, rho, column)) for rho in RADII]
        axes = right if column == "test error %" else left
        axes.errorbar(range(len(RADII)), *map(list, zip(*points, strict=True)), marker="o", capsize=3, label=column)
    left.set(yscale="log", ylabel="sharpness", xlabel="ρ", xticks=range(len(RADII)), xticklabels=RADII)
    right.set(ylabel="test error %", xlabel="ρ", xticks=range(len(RADII)), xticklabels=RADII)
    left.legend(fontsize=7)
    figure.savefig("sharpness.png", dpi=150)


if __name__ == "__main__":
    main()
