"""One run: from a resolved configuration to `result.json` in its home."""

import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam_repro.config.identity import home, of
from sam_repro.config.schema import SCHEMA, Resolved
from sam_repro.dataset import Data
from sam_repro.errors import Failure, Stopped, UserError, is_out_of_memory, refuse_damaged
from sam_repro.files import replacing, write_json
from sam_repro.limits import counted
from sam_repro.run import build, provenance
from sam_repro.run.announce import announce, announce_two_protocols, warnings
from sam_repro.run.belongs import refuse_other, refuse_other_config, refuse_other_inputs
from sam_repro.run.lock import lock, set_aside
from sam_repro.run.metrics import Metrics
from sam_repro.run.mirror import Mirror, mirror_of
from sam_repro.run.numerics import set_numerics, with_numerics
from sam_repro.run.progress import Progress
from sam_repro.run.record import read_run, write_record
from sam_repro.run.request import Request, describe, find_measurement, make_request
from sam_repro.run.result import Result, announce_finished, find_finished, finish, summarize, targets_of
from sam_repro.run.sharpness import RunSharpness, measure_finished, show_sharpness
from sam_repro.run.sizes import refuse_sizes
from sam_repro.run.trust import is_trusted, rebuilt
from sam_repro.training import checkpoint
from sam_repro.training.plan import Plan
from sam_repro.training.trainer import Interrupted, NonFinite, Trainer


@dataclass(frozen=True)
class _Watch:
    """Passes on what happens in a run: to the record first, which is the truth."""

    metrics: Metrics
    mirror: Mirror
    progress: Progress
    of: dict[str, Any]

    def step(self, done: int) -> None:
        self.progress.step(done)

    def row(self, row: dict[str, Any]) -> None:
        self.metrics.append(row)
        self.mirror.log(row)
        if row["kind"] == "epoch":
            self.progress.epoch(row, row["step"] + 1)

    def saving(self) -> dict[str, Any]:
        self.metrics.sync()
        return {"of": self.of, "rows": dict(self.metrics.written)}

    def close(self, exit_code: int) -> None:
        self.progress.close()
        with suppress(OSError):  # the rows of a finished run are on the disk; a full disk has been told of
            self.metrics.close()
        self.mirror.finish(exit_code)


def run(config: Resolved, overrides: list[str]) -> Result:
    """Train one cell with one seed, or go on where it was left, or find it done.

    Args:
        config: the resolved configuration, checked.
        overrides: what the command line set, for the record.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: if the data, the device or the output folder are not what the configuration needs.
        Busy: if another process is running it.
        Failure: if the run broke off, and `failed.json` says where; or if it is done, but could not be measured.
        Stopped: if a signal stopped it; the same command goes on.
    """
    config = with_numerics(config)
    folder = home(config)
    done = find_finished(folder, config) if config["resume"] else None
    if done and config["dataset"].get("verified"):
        return _complete(config, folder, done)
    set_numerics(config)
    data = build.make_data(config, _begun(folder) if config["resume"] else None)
    if config["resume"]:
        _refuse_other_data(folder, data)
    if done:
        return _complete(config, folder, done)
    model = build.make_model(config, build.shape_of(data))
    evaluated = [len(split) for split in (data.validation, data.test) if split]
    refuse_sizes(model, build.shape_of(data), build.make_plan(config), len(data.train), evaluated)
    objective = build.make_objective(config, model)
    request = make_request(config, folder)
    sharpness = RunSharpness(request, build.make_measure(request.settings, model), config, objective, data, folder)
    trainer = Trainer(
        objective,
        build.make_rule(config, model, len(data.train)),
        build.make_schedule(config),
        data,
        build.make_plan(config),
        build.make_diagnostics(config),
        folder,
        sharpness.measure_epoch,
        build.make_rho_schedule(config),
    )
    with _writable(folder), lock(folder):
        if config["resume"]:
            _refuse_other_data(folder, data)  # another process may have begun it in the meantime
        done = find_finished(folder, config) if config["resume"] else None  # by another process, in the meantime
        if done is None:
            if not config["resume"] and folder.exists():
                print(f"aside      {set_aside(folder)}")
            folder.mkdir(parents=True, exist_ok=True)
            return _train(config, overrides, folder, trainer, sharpness)
    return _complete(config, folder, done)


def _begun(folder: Path) -> dict[str, Any] | None:
    """What a run wrote when it started; None if it never did."""
    if not (file := folder / "run.json").exists():
        return None
    with refuse_damaged(file):
        return read_run(folder)


def _refuse_other_data(folder: Path, data: Data) -> None:
    """Refuse to go on with, or to call done, what was begun on other images or labels.

    Where neither a checkpoint nor a result came of them, as when an image was damaged, the run begins anew.
    """
    if not any((folder / name).exists() for name in ("checkpoint.pt", "result.json")):
        return
    remedy = "give this run a name of its own, such as name=other-data; or add resume=false to redo the old one"
    if begun := _begun(folder):
        refuse_other_inputs(folder / "run.json", begun.get("inputs"), data.inputs, remedy)
        if data.contents is not None:
            refuse_other_inputs(folder / "run.json", begun.get("contents"), data.contents, remedy)


def _complete(config: Resolved, folder: Path, result: Result) -> Result:
    """Measure what this command asks for and the finished run lacks."""
    announce_finished(folder, config, result)
    request = make_request(config, folder, result)
    if request.every not in (None, result["config"].get("sharpness", {}).get("every")):
        print(
            f"sharpness.every = {request.every}: only possible during training; add resume=false to train again (the "
            "finished run is kept aside)"
        )
    try:
        if not request.is_nothing and find_measurement(request) is None:
            measure_finished(request, config, trust=True)  # this command's own configuration
    except (UserError, Failure, OSError) as error:
        raise Failure(f"sharpness {request.name}: not measured; {error}; the run itself is done") from None
    return result


def _train(config: Resolved, overrides: list[str], folder: Path, trainer: Trainer, sharpness: RunSharpness) -> Result:
    kept: dict[str, Any] = {}

    def check(beside: dict[str, Any]) -> None:
        refuse_other(trainer.path, beside["of"], of(config))
        kept.update(beside)

    with refuse_damaged(trainer.path):
        done = trainer.resume(check)
    before = _before(folder, config, done)
    with refuse_damaged(folder / "metrics.jsonl") as path:
        metrics = Metrics(path, kept.get("rows"))
    _begin(config, overrides, folder, before, done, sharpness.request, trainer.data)
    announce_two_protocols(folder / "metrics.jsonl", sharpness.request, done)
    announce(config, folder, trainer, done)
    watch = _Watch(
        metrics,
        mirror_of(folder, config, before["wandb_id"], config["wandb"]),
        Progress(
            config["progress"],
            trainer.plan.steps(len(trainer.data.train)),
            done,
            config["epochs"],
            trainer.plan.steps_per_epoch(len(trainer.data.train)),
        ),
        of(config),
    )
    code = 1
    try:
        with _tell(folder, trainer):
            trainer.run(watch)
            beside = watch.saving()
            if sharpness.measure is not None:
                trainer.save(beside)  # measuring may take long, and may be stopped
            result = finish(config, overrides, folder, trainer, sharpness, metrics.written)
        watch.mirror.summary({"final": result["metrics"]["test"][config["report"]]})
        show_sharpness(watch.mirror, result["sharpness"], folder)
        code = 0
    finally:
        watch.close(code)
    _print_end(result, folder, sharpness.request)
    if sharpness.measure is not None and not result["sharpness"]:
        raise Failure(f"sharpness {sharpness.request.name}: not measured, as is said above; the run itself is done")
    return result


def _print_end(result: Result, folder: Path, request: Request) -> None:
    """What came of the run, where it lies, and what one may ask next."""
    print(summarize(result))
    for name, content in result["sharpness"].items():
        print(describe(name, content))
    for warning in warnings(result):
        print(f"warning    {warning}")
    print(f"result     {folder}/result.json")
    other = "lambda_max" if request.is_nothing else "hessian"
    own = "" if all(map(is_trusted, targets_of(rebuilt(result["config"])))) else " --trust"
    print(f"next       python -m sam_repro.measure run={shlex.quote(str(folder))} sharpness={other}{own}")


def _before(folder: Path, config: Resolved, done: int) -> dict[str, Any]:
    """What the starts before this one left in `run.json`, and what the first one begins with."""
    fresh = {
        "wandb_id": uuid.uuid4().hex[:12],
        "threads": torch.get_num_threads(),
        "sources": {},
        "protocols": {},
        "starts": [],
    }
    if not done and not (folder / "run.json").exists():
        return fresh
    with refuse_damaged(folder / "run.json") as path:
        written: dict[str, Any] = {"protocols": {}} | read_run(folder)  # a run begun before there were any has none
        refuse_other_config(path, written["config"], config)
        return {key: written[key] for key in fresh}


def _begin(
    config: Resolved,
    overrides: list[str],
    folder: Path,
    before: dict[str, Any],
    done: int,
    request: Request,
    data: Data,
) -> None:
    """Write what starts here into `run.json`, and clear what an earlier start left.

    The order of a sum depends on the number of threads: a run goes on with the number that it began with.
    """
    torch.set_num_threads(before["threads"])
    sources = provenance.sources(targets_of(config))
    if done and (changed := provenance.describe_changed(before["sources"], sources)):
        print(f"changed    since step {done}: {changed}; add resume=false to begin anew")
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": done,
        "argv": sys.argv,
        "sources_sha256": provenance.digest(sources),
        "environment": provenance.environment(torch.device(config["device"])),
        "git": provenance.git(),
    }
    run = {
        "schema": SCHEMA,
        "config": config,
        "overrides": overrides,
        **of(config),
        "inputs": data.inputs,
        "contents": data.contents or (_begun(folder) or {}).get("contents"),
        "normalisation": data.normalisation,
        "wandb_id": before["wandb_id"],
        "threads": before["threads"],
        "sources": sources,
        "protocols": before["protocols"] | ({} if request.every is None else {request.settings_id: request.settings}),
        "starts": [*before["starts"], start],
    }
    write_record(folder / "run.json", run)
    for left in [folder / "failed.json", folder / "uncommitted.diff", *folder.glob("*.tmp")]:
        left.unlink(missing_ok=True)
    if (diff := provenance.git_diff()) is not None:
        with replacing(folder / "uncommitted.diff") as file:
            file.write(diff.encode())


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}); start in a folder that can") from error


@contextmanager
def _tell(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Says where a run broke off and what is left, and leaves `failed.json` for the tables."""
    try:
        yield
    except Interrupted as stop:
        raise Stopped(
            stop.signal, f"saved after {counted(stop.steps, 'step')} at signal {stop.signal}; the same command goes on"
        ) from None
    except NonFinite as error:
        _write_failure(folder, str(error), error.step)
        raise Failure(f"{error}; try a smaller lr or rho, or clip_norm=1.0. {_describe_checkpoint(trainer)}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        _write_failure(folder, str(error), trainer.step)
        raise Failure(f"{folder}: writing failed ({error}). {_describe_checkpoint(trainer)}") from None
    except Exception as error:
        _write_failure(folder, repr(error), trainer.step)
        if not is_out_of_memory(error):
            raise
        told = f"out of memory in step {trainer.step}; {_less_memory(trainer.plan)}"
        raise Failure(f"{told}. {_describe_checkpoint(trainer)}") from None


def _less_memory(plan: Plan) -> str:
    """What takes less memory than this plan; the parts of `m` examples are already pieces of a batch."""
    if plan.m is None:
        half = max(1, plan.batch_size // 2)
        return f"try micro_batch={half}, which takes a batch in pieces, or a smaller batch_size"
    return "try parts=sequence" if plan.parts == "branches" else "try a smaller m"


def _describe_checkpoint(trainer: Trainer) -> str:
    if not trainer.path.exists():
        return "No checkpoint had been written"
    steps = checkpoint.read(trainer.path)["rule"]["steps"]
    return f"The checkpoint after {counted(steps, 'step')} is kept: {trainer.path}"


def _write_failure(folder: Path, error: str, step: int) -> None:
    with suppress(OSError):  # a full disk must not hide why the run failed
        write_json(folder / "failed.json", {"error": error, "step": step})
