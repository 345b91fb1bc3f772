"""A request to measure a run, and where its result would be. Does not import torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_repro.config.schema import Resolved
from sam_repro.errors import refuse_damaged
from sam_repro.run.record import read_measurement

WHEN = ("every", "checkpoint")


@dataclass(frozen=True)
class Request:
    """A measure of a run.

    Args:
        run: the run's home.
        name: of the measure, as the option is called.
        settings: what the measure is built of.
        every: epochs between two measurements in training; None is at the end only.
        checkpoint: "last" or "best".
        result: of the run, where it is finished.
    """

    run: Path
    name: str
    settings: Resolved
    every: int | None
    checkpoint: str
    result: Resolved

    @property
    def settings_id(self) -> str:
        """8 hex digits of the settings: tells the rows of one protocol, and its pieces, from those of another."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is to be measured: `sharpness=none`."""
        return self.name == "none"


def make_request(config: Resolved, run: Path, result: Resolved | None = None) -> Request:
    """The request of a configuration. A finished run without a best checkpoint is measured at its last."""
    node = config["sharpness"]
    which = node.get("checkpoint", "last")
    if result is not None and not _has_best(result):
        which = "last"
    settings = {key: value for key, value in node.items() if key not in WHEN}
    return Request(run, config["choices"]["sharpness"], settings, node.get("every"), which, result or {})


def find_measurement(request: Request) -> Path | None:
    """The file that has the measurement: `result.json`, or one beside it; None if there is none.

    Raises:
        UserError: if a file beside the result is damaged.
    """
    own = request.result["sharpness"].get(request.name)
    if own and _same(request, own["protocol"]):
        return request.run / "result.json"
    for file in sorted((request.run / "sharpness").glob(f"{request.name}-{request.checkpoint}-*.json")):
        with refuse_damaged(file, "remove it and measure again"):
            if _same(request, read_measurement(file, request.result)["protocol"]):
                return file
    return None


def weights_file(request: Request) -> Path:
    """The file with the weights: `model.safetensors` are those that the run reports, the others bear their name."""
    reported = "best" if request.result["config"]["report"] == "best_validation" else "last"
    return request.run / f"{'model' if request.checkpoint == reported else request.checkpoint}.safetensors"


def describe(name: str, content: dict[str, Any]) -> str:
    """A line with the values of a record."""
    return f"sharpness  {name}: " + ", ".join(f"{key} {value:.5g}" for key, value in content["values"].items())


def _has_best(result: Resolved) -> bool:
    return result["metrics"]["test"]["best_validation"] is not None


def _same(request: Request, protocol: Resolved) -> bool:
    return (protocol.get("settings"), protocol.get("checkpoint")) == (request.settings, request.checkpoint)
