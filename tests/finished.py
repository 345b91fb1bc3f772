"""Short runs on the digits, from end to end."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from called import Said, command, home_of

from sam_repro import train

COUNT, RATE, NOISE_SEED = 200, 0.3, 5
SETTINGS = [
    "wandb=disabled",
    "epochs=3",
    "record_every=5",
    "lr=0.1",
    "schedule=constant",
    *("sharpness.examples=40", "sharpness.batch_size=40"),
]
NOISY = [f"label_noise.rate={RATE}", f"label_noise.seed={NOISE_SEED}"]
HELD_OUT = [f"dataset.validation.count={COUNT}", "dataset.validation.seed=7"]


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    home: Path
    said: Said
    settings: list[str]

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.home / "result.json").read_text())

    def rows(self, kind: str) -> list[dict[str, Any]]:
        rows = map(json.loads, (self.home / "metrics.jsonl").read_text().splitlines())
        return [row for row in rows if row["kind"] == kind]


def finished(folder: Path, *settings: str) -> Run:
    words = [*(word for word in SETTINGS if word not in settings), *settings]  # an option is chosen once
    said = command(train.main, folder, *words)
    assert said.code == 0, said
    return Run(folder, home_of(folder), said, words)
