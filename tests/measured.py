"""Short runs on the digits whose sharpness is measured."""

import json
from pathlib import Path
from typing import Any

from called import Said, command, home_of

from sam_repro import measure, train

SETTINGS = ["wandb=disabled", "progress=silent", "epochs=3", "lr=0.5", "dataset.validation.count=850"]
SMALL = ["sharpness.examples=40", "sharpness.batch_size=40", "sharpness.max_products=100", "sharpness.tolerance=0.1"]


def home(folder: Path) -> Path:
    return home_of(folder).relative_to(folder)


def trained(folder: Path, *words: str) -> Said:
    said = command(train.main, folder, *SETTINGS, *words)
    assert said.code == 0, said
    return said


def measured(folder: Path, *words: str, **more: Any) -> Said:
    return command(measure.main, folder, f"run={home(folder)}", *words, "wandb=disabled", *more)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / home(folder) / "result.json").read_text())
