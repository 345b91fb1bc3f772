"""A run that fails at a known step where a file says so, and what it leaves."""

import json
from pathlib import Path
from typing import Any

from called import home_of, with_other
from door import ROOT, Server

DATA = ROOT / "tests" / "data"
AT = 12  # the step of the fault
RUN = [
    *("--config-dir", str(DATA / "configs")),
    *("optimizer=faulty", "epochs=3", "batch_size=20", "dataset.validation.count=800", "record_every=1", "device=cpu"),
    *("sharpness.examples=20", "sharpness.batch_size=20"),
]
EVERY_STEP = [*RUN, "checkpoint_every=0"]


SELDOM = with_other(RUN, "record_every=null")  # a fault is noticed at the end of the epoch


def outcome(home: Path) -> tuple[str, list[dict[str, Any]]]:
    """The weights and the record, without times."""
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    return json.loads((home / "result.json").read_text())["weights_sha256"], rows


def files(home: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in home.iterdir()}


def assert_goes_on(door: Server, folder: Path, undisturbed: Path, step: int) -> None:
    """The same command goes on after so many steps, to the same end."""
    answer = door.run(folder, EVERY_STEP)
    assert (answer.code, answer.err) == (0, "")
    assert (f"resumed    after {step} of 30 steps" in answer.out) == (step > 0)
    assert outcome(home_of(folder)) == outcome(undisturbed)
    left = {"run.json", "metrics.jsonl", "result.json", "model.safetensors", "best.safetensors"}
    assert {file.name for file in home_of(folder).iterdir()} == left
