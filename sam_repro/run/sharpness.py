"""The sharpness of a run: during it, at its end, or of a finished one, beside its result."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_repro.config.named_files import without_missing
from sam_repro.config.schema import SCHEMA, Resolved
from sam_repro.config.schema1 import modern
from sam_repro.dataset import Data
from sam_repro.errors import Failure, refuse_damaged
from sam_repro.files import regular, replacing, write_json
from sam_repro.oracle import Objective
from sam_repro.run import build
from sam_repro.run.announce import absurd
from sam_repro.run.belongs import refuse_other_inputs
from sam_repro.run.lock import lock
from sam_repro.run.mirror import Mirror, mirror_of
from sam_repro.run.numerics import set_numerics, with_numerics
from sam_repro.run.record import read_run, write_record
from sam_repro.run.request import Request, describe, weights_file
from sam_repro.run.trust import rebuilt, refuse_foreign
from sam_repro.sharpness import Measure, Measurement, Notes, Subject, Unmeasurable
from sam_repro.sharpness.notes import Say
from sam_repro.training import checkpoint
from sam_repro.vectors import tensors_sha256

SECONDS = 5.0  # between two lines of progress


@dataclass(frozen=True)
class RunSharpness:
    """Measures the network of a run.

    Args:
        request: what is measured.
        measure: the measure that was built of it; None measures nothing.
        config: the resolved configuration of the run.
        objective: its loss, with the network.
        data: its images.
        folder: its home.
    """

    request: Request
    measure: Measure | None
    config: Resolved
    objective: Objective
    data: Data
    folder: Path

    def measure_epoch(self, epoch: float) -> dict[str, Any]:
        """What the row of an epoch holds: the values and their protocol, where `sharpness.every` says so."""
        if self.measure is None or self.request.every is None or epoch % self.request.every != 0:
            return {}
        try:
            values = self._measure("last", Notes()).values
        except (Unmeasurable, torch.OutOfMemoryError) as error:
            print(f"sharpness  {self.request.name}: {error}")
            return {}
        told = values | {"protocol": self.request.settings_id}
        return {f"sharpness/{self.request.name}/{key}": value for key, value in told.items()}

    def measure_end(self, weights: dict[str, dict[str, Tensor] | None]) -> dict[str, Any]:
        """The `sharpness` entry of result.json. If measuring fails, the run finishes without it.

        Args:
            weights: what the last step left, and the best by validation error, None where there is none. The network is
                left with those that it has.
        """
        if self.measure is None:
            return {}
        model = self.objective.model
        which = self.request.checkpoint if weights[self.request.checkpoint] else "last"
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights[which] or {})
        try:
            measurement = self.measure_kept(which)
        except Exception as error:  # whatever a measure does, a trained run is not lost to it
            print(f"sharpness  {self.request.name}: {str(error) or type(error).__name__}")
            return {}
        finally:
            model.load_state_dict(before)
        return {self.request.name: measurement.record()}

    def measure_kept(self, which: str) -> Measurement:
        """The measurement at the weights now in the network, of the checkpoint `which`; its picture is drawn.

        What is done in pieces is kept beside the result until it is complete.
        """
        name = self.request.name.replace("/", ".")
        partial = self._folder / f".{name}-{which}-{self.request.settings_id}.partial.json"
        identity = {"settings": self.request.settings, "weights_sha256": self._sha256()}
        measurement = self._measure(
            which, _notes(partial, identity, _Progress(self.request.name, self.config["progress"] == "silent"))
        )
        partial.unlink(missing_ok=True)
        if measurement.draw:
            _draw(measurement, self._folder / f"{measurement.stem}.png")
        with suppress(OSError):  # not empty, or never made
            self._folder.rmdir()
        return measurement

    @property
    def _folder(self) -> Path:
        return self.folder / "sharpness"

    def _measure(self, which: str, notes: Notes) -> Measurement:
        assert self.measure is not None
        config, train, noise = self.config, self.data.train, self.config["label_noise"]
        subject = Subject(
            self.objective.model,
            self.objective.criterion,
            train,
            facts={
                "data": config["choices"]["dataset"],
                "split": "train",
                "images": len(train),
                "label_noise": f"{noise['rate']:g} {noise['kind']}" if noise["rate"] else "none",
                "augmentation": config["choices"]["augmentation"],
                "loss": "mean cross-entropy",
                "label_smoothing": config["label_smoothing"],
                "weight_decay": "excluded",
                "checkpoint": which,
                "weights_sha256": self._sha256(),
                "device": train.device.type,
            },
            rho=config["rho"],
        )
        measurement = self.measure(subject, notes)
        settings = {"settings": self.request.settings}
        return replace(measurement, measure=self.request.name, protocol=measurement.protocol | settings)

    def _sha256(self) -> str:
        return tensors_sha256(self.objective.model.state_dict())


def measure_finished(request: Request, config: Resolved, trust: bool = False) -> Path:
    """Measure a finished run and write one file beside its result, which stays as it is.

    Args:
        request: what, of which run.
        config: the run's configuration, with the data, the device and the like as they are to be used here.
        trust: build what is no part of sam_repro, torch.nn, torch.optim or timm, too; default false.

    Returns:
        The file.

    Raises:
        UserError: if the data or the device are not there, or a file of the run is damaged or not trusted.
        Failure: if there is no such value.
        Busy: if another process is working in the run's home.
    """
    if not trust:
        refuse_foreign(rebuilt(config), request.run / "result.json")
    plain = {
        "precision": "fp32",
        "compile": False,
        "graph": False,
        "parts": "sequence",
    }  # whatever the run was trained with
    config = without_missing(with_numerics(config | plain))
    set_numerics(config)
    data = build.make_data(config, request.result)
    remedy = "measure it on the data that it was trained on: data_dir=…"
    refuse_other_inputs(request.run / "result.json", request.result.get("inputs"), data.inputs, remedy)
    model = build.make_model(config, build.shape_of(data))
    measure = build.make_measure(request.settings, model)
    with refuse_damaged(weights_file(request)) as path:
        weights = checkpoint.read_weights(path)
        if path.name == "model.safetensors" and tensors_sha256(weights) != request.result["weights_sha256"]:
            raise ValueError("its weights are not those of result.json")
        model.load_state_dict(weights)
    objective = build.make_objective(config, model)
    sharpness = RunSharpness(request, measure, config, objective, data, request.run)
    with lock(request.run):
        try:
            measurement = sharpness.measure_kept(request.checkpoint)
        except (Unmeasurable, torch.OutOfMemoryError) as error:
            raise Failure(f"{request.name}: {error}") from None
        file = request.run / "sharpness" / f"{measurement.stem}.json"
        file.parent.mkdir(exist_ok=True)
        write_record(file, {"schema": SCHEMA, "measure": measurement.measure} | measurement.record())
        print(describe(request.name, measurement.record()))
        for warning in absurd(request.name, measurement.values):
            print(f"warning    {warning}")
        print(f"measured   {file}")
        _show_later(request, config, measurement)
    return file


def show_sharpness(mirror: Mirror, sharpness: dict[str, Any], folder: Path) -> None:
    """Show the node `sharpness` of a result, with its pictures."""
    for name, content in sharpness.items():
        mirror.summary({f"sharpness/{name}/{key}": value for key, value in content["values"].items()})
        for picture in sorted((folder / "sharpness").glob(f"{name}-*.png")):
            mirror.picture(f"sharpness/{name}", picture)


def _show_later(request: Request, config: Resolved, measurement: Measurement) -> None:
    with refuse_damaged(request.run / "run.json"):
        identity = read_run(request.run)["wandb_id"]
    mirror = mirror_of(request.run, modern(request.result["config"]), identity, config["wandb"])
    show_sharpness(mirror, {request.name: measurement.record()}, request.run)
    mirror.finish(0)


def _notes(file: Path, identity: dict[str, Any], say: Say) -> Notes:
    """Notes in a file, taken up if they are of the same measurement."""
    pieces: dict[str, Any] = {}
    if file.exists():
        try:
            content = json.loads(regular(file).read_text(encoding="utf-8"))
            pieces = content["pieces"] if content["identity"] == identity else {}
        except (ValueError, KeyError, TypeError, OSError):  # a piece more to compute, no reason to stop
            pieces = {}

    def keep(pieces: dict[str, Any]) -> None:
        file.parent.mkdir(exist_ok=True)
        write_json(file, {"identity": identity, "pieces": pieces})

    return Notes(pieces, keep, say)


class _Progress:
    """Prints how far a measurement is, now and then."""

    def __init__(self, name: str, silent: bool) -> None:
        self.name, self.silent = name, silent
        self.first: int | None = None
        self.began = self.told = time.monotonic()

    def __call__(self, done: int, of: int, at_most: bool = False) -> None:
        now = time.monotonic()
        self.first = done - 1 if self.first is None else self.first  # what was kept before took no time
        if not self.silent and now - self.told >= SECONDS:
            each = (now - self.began) / (done - self.first)
            # how many of a budget it takes, nobody knows: mostly few
            rest = f"{done} products, {each:.2g} s each, at most {of}" if at_most else ""
            rest = rest or f"{done} of {of}, about {each * (of - done):.0f} s to go"
            print(f"measuring  {self.name}: {rest}", flush=True)
            self.told = now


def _draw(measurement: Measurement, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert measurement.draw is not None
    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    measurement.draw(figure)
    figure.suptitle(f"{measurement.measure}, {measurement.protocol['checkpoint']} weights", fontsize=10)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
