"""One run: from a resolved configuration to `result.json` in its home."""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam_repro import build, checkpoint, evaluation, limits, provenance, record
from sam_repro.asked import Asked, asked, measured, summary
from sam_repro.compose import Failure, Stopped, UserError, intact
from sam_repro.config.identity import cell_hash, home
from sam_repro.config.schema1 import modern
from sam_repro.home import locked, set_aside
from sam_repro.measuring import Gauge, measure_finished, mirrored
from sam_repro.mirror import Mirror, open_mirror
from sam_repro.progress import Progress
from sam_repro.schema import NEUTRAL, SCHEMA, flat
from sam_repro.trainer import Interrupted, NonFinite, Trainer

Config = dict[str, Any]
Result = dict[str, Any]


class Loaded(NamedTuple):
    """A finished run, read back."""

    model: nn.Module
    config: Config
    result: Result


@dataclass(frozen=True)
class _Watch:
    """Passes on what happens in a run: to the record first, which is the truth."""

    metrics: record.Metrics
    mirror: Mirror
    progress: Progress

    def step(self, done: int) -> None:
        self.progress.step(done)

    def row(self, row: dict[str, Any]) -> None:
        self.metrics.append(row)
        self.mirror.log(row)
        if row["kind"] == "epoch":
            self.progress.epoch(row, row["step"] + 1)

    def saving(self) -> None:
        self.metrics.sync()

    def close(self, exit_code: int) -> None:
        self.progress.close()
        with suppress(OSError):  # the rows of a finished run are on the disk; a full disk has been told of
            self.metrics.close()
        self.mirror.finish(exit_code)


def run(config: Config, overrides: list[str]) -> Result:
    """Train one cell with one seed, or go on where it was left, or find it done.

    Args:
        config: the resolved configuration, checked.
        overrides: what the command line set, for the record.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: if the data, the device or the output folder are not what the configuration needs.
        Busy: if another process is running it.
        Failure: if the run broke off; `failed.json` says where.
        Stopped: if a signal stopped it; the same command goes on.
    """
    config = build.with_numerics(config)
    folder = home(config)
    if config["resume"] and (done := finished(folder)):
        _complete(config, folder, done)
        return done
    build.set_numerics(config)
    data = build.make_data(config)
    model = build.make_model(config, build.shape_of(data))
    objective, augmentation = build.make_objective(config, model), build.make_augmentation(config, data)
    wanted = asked(config, folder)
    gauge = Gauge(wanted, build.make_measure(wanted.settings), config, objective, data, augmentation, folder)
    trainer = Trainer(
        objective,
        build.make_rule(config, model),
        build.make_schedule(config),
        data,
        augmentation,
        build.make_plan(config),
        build.make_diagnostics(config),
        folder,
        gauge.during,
    )
    with _writable(folder), locked(folder):
        done = finished(folder) if config["resume"] else None  # by another process, while this one got ready
        if done is None:
            if not config["resume"] and folder.exists():
                print(f"aside      {set_aside(folder)}")
            folder.mkdir(parents=True, exist_ok=True)
            return _train(config, overrides, folder, trainer, gauge)
    _complete(config, folder, done)
    return done


def finished(folder: Path) -> Result | None:
    """The result of a finished run, after saying so and which sources changed since; None if it is not finished."""
    if not (folder / "result.json").exists():
        return None
    with intact(folder / "result.json") as path:
        result: Result = json.loads(path.read_text())
        summary = _summary(result)
    with intact(folder / "run.json") as path:
        sources = provenance.sources(_targets(result["config"]))
        changed = provenance.changed(json.loads(path.read_text())["sources"], sources)
    (folder / "checkpoint.pt").unlink(missing_ok=True)  # left by a kill right after the result was written
    print(f"done       {folder}")
    print(summary)
    if changed:
        print(f"changed    since that run: {', '.join(changed)}; resume=false sets it aside and runs again")
    return result


def load(folder: str | Path) -> Loaded:
    """Read a finished run back: the model with the weights that `report` names, on the CPU and in eval mode.

    Args:
        folder: the home of the run, which its last lines name.

    Raises:
        UserError: if it is not finished or its files are damaged.
    """
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: no finished run; result.json is missing")
    with intact(folder / "result.json") as path:
        result = json.loads(path.read_text())
        config, shape = modern(result["config"]), build.Shape(**result["shape"])
    model = build.make_model(config | {"device": "cpu"}, shape)
    with intact(folder / "model.safetensors") as path:
        weights = checkpoint.read_weights(path)
        if provenance.weights_sha256(weights) != result["weights_sha256"]:
            raise ValueError("its weights are not those of result.json")
        model.load_state_dict(weights)
    return Loaded(model.eval(), config, result)


def _complete(config: Config, folder: Path, result: Result) -> None:
    """Measure of a finished run what is asked for now and was not then; the run is done, whatever comes of it."""
    wanted = asked(config, folder, result)
    if wanted.every not in (None, result["config"].get("sharpness", {}).get("every")):
        print(f"sharpness.every = {wanted.every}: cannot be had afterwards; resume=false sets it aside and runs again")
    try:
        if not wanted.is_nothing and measured(wanted) is None:
            measure_finished(wanted, config)
    except (UserError, Failure) as error:
        print(f"sharpness  {wanted.name}: not measured; {error}")


def _train(config: Config, overrides: list[str], folder: Path, trainer: Trainer, gauge: Gauge) -> Result:
    with intact(trainer.path):
        done = trainer.resume()
    before = _before(folder, done)
    with intact(folder / "metrics.jsonl") as path:
        metrics = record.Metrics(path, resume_at=done)
    _begin(config, overrides, folder, before, done, gauge.asked)
    _tell_of_two_protocols(folder / "metrics.jsonl", gauge.asked, done)
    _announce(config, folder, trainer, done)
    watch = _Watch(
        metrics,
        _open_mirror(config, folder, before["wandb_id"]),
        Progress(config["progress"], trainer.plan.steps(len(trainer.data.train)), done, config["epochs"]),
    )
    code = 1
    try:
        with _told(folder, trainer):
            trainer.run(watch)
            watch.saving()
            if gauge.measure is not None:
                trainer.save()  # measuring may take long, and may be stopped
            result = _finish(config, overrides, folder, trainer, gauge)
        watch.mirror.summary({"final": result["metrics"]["test"][config["report"]]})
        mirrored(watch.mirror, result["sharpness"], folder)
        code = 0
    finally:
        watch.close(code)
    print(_summary(result))
    for name, content in result["sharpness"].items():
        print(summary(name, content))
    print(f"result     {folder}/result.json")
    return result


def _before(folder: Path, done: int) -> dict[str, Any]:
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
    with intact(folder / "run.json") as path:
        written = {"protocols": {}} | json.loads(path.read_text())  # a run begun before there were any has none
        return {key: written[key] for key in fresh}


def _tell_of_two_protocols(rows: Path, asked: Asked, done: int) -> None:
    """Say so where the rows of a measure will be of more than one protocol."""
    if not done or asked.every is None:
        return
    key = f"sharpness/{asked.name}/protocol"
    others = {row[key] for row in record.read_metrics(rows) if row["step"] < done and key in row} - {asked.settings_id}
    if others:
        print(f"protocol   {key} of the rows so far: {', '.join(sorted(others))}; from here on {asked.settings_id}")


def _begin(
    config: Config, overrides: list[str], folder: Path, before: dict[str, Any], done: int, wanted: Asked
) -> None:
    """Write what starts here into `run.json`, and clear what an earlier start left.

    The order of a sum depends on the number of threads: a run goes on with the number that it began with.
    """
    torch.set_num_threads(before["threads"])
    sources = provenance.sources(_targets(config))
    if done and (changed := provenance.changed(before["sources"], sources)):
        print(f"changed    since {done} steps were done: {', '.join(changed)}; resume=false would begin anew")
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
        "cell_hash": cell_hash(config),
        "wandb_id": before["wandb_id"],
        "threads": before["threads"],
        "sources": sources,
        "protocols": before["protocols"] | ({} if wanted.every is None else {wanted.settings_id: wanted.settings}),
        "starts": [*before["starts"], start],
    }
    record.write_json(folder / "run.json", run)
    for left in [folder / "failed.json", folder / "uncommitted.diff", *folder.glob("*.tmp")]:
        left.unlink(missing_ok=True)
    if (diff := provenance.git_diff()) is not None:
        with record.replacing(folder / "uncommitted.diff") as file:
            file.write(diff.encode())


def _targets(config: Config) -> list[str]:
    """What the configuration builds, by name."""
    return [value for key, value in flat(config).items() if key.endswith("_target_")]


def _announce(config: Config, folder: Path, trainer: Trainer, done: int) -> None:
    """What will run and where it goes."""
    choices, plan, data = config["choices"], trainer.plan, trainer.data
    weights = sum(p.numel() for p in trainer.model.parameters())
    steps = plan.steps(len(data.train))
    held = f" + {len(data.validation)} validation" if data.validation else ""
    noise = f", {config['label_noise']['rate']:.0%} {config['label_noise']['kind']} label noise" if data.ledger else ""
    print(f"data       {choices['dataset']}: {len(data.train)} training{held} + {len(data.test)} test images{noise}")
    print(f"network    {choices['architecture']}, {weights:,} weights; augmentation {choices['augmentation']}")
    print(f"rule       {choices['optimizer']} on {choices['base_optimizer']}{_rho(config)}{_settings(config)}")
    if "optimizer" in config["assumed"]:  # names of rules that a study and its code do not agree on
        print(f"reading    {config['assumed']['optimizer']}")
    print(
        f"loop       {plan.epochs} epochs in batches of {plan.batch_size}, lr {plan.lr:g} ({choices['schedule']}), "
        f"seed {plan.seed}: {steps} steps, {_passes(trainer, steps)}"
    )
    if recipe := choices.get("experiment"):
        origin = config["origin"]
        cell = f", cell {origin['cell']} of {origin['table']}" if "cell" in origin else ""
        assumed = f"; not stated by the paper: {', '.join(config['assumed'])}" if config["assumed"] else ""
        print(f"recipe     {recipe}{cell}{assumed}")
    unusual = {key: config[key] for key, neutral in NEUTRAL.items() if config.get(key, neutral) != neutral}
    if unusual:
        print(f"unusual    {', '.join(f'{key}={limits.shown(value)}' for key, value in unusual.items())}")
    print(f"numerics   {config['precision']} on {config['device']}, threads: {torch.get_num_threads()}")
    print(f"home       {folder}")
    if done:
        print(f"resumed    after {done} of {steps} steps")
    sys.stdout.flush()


def _rho(config: Config) -> str:
    """The radius and where it came from."""
    return "" if config["rho"] is None else f", rho {config['rho']:g} ({config['origin']['rho']})"


def _settings(config: Config) -> str:
    """What else the rule is told: its name alone does not say what is computed."""
    settings = {key: value for key, value in config["optimizer"].items() if key != "rho" and not key.startswith("_")}
    return "".join(f", {key} {limits.shown(value)}" for key, value in settings.items())


def _passes(trainer: Trainer, steps: int) -> str:
    products = sum(map(trainer.rule.products, range(steps)))
    passes = sum(map(trainer.rule.passes, range(steps)))
    return f"{passes} passes" + (f" and {products} products" if products else "")


def _open_mirror(config: Config, folder: Path, identity: str) -> Mirror:
    choices = config["choices"]
    return open_mirror(
        config["wandb"],
        directory=folder,
        run_id=identity,
        name=f"{folder.parent.name} {folder.name}",
        group=folder.parent.name,
        job_type="train",
        tags=[choices[group] for group in ("dataset", "architecture", "augmentation", "optimizer")],
        config=config,
    )


def _finish(config: Config, overrides: list[str], folder: Path, trainer: Trainer, gauge: Gauge) -> Result:
    """Write the weights, then `result.json`, whose existence means success; then drop the checkpoint."""
    last = {name: value.detach().cpu().clone() for name, value in trainer.model.state_dict().items()}
    best = trainer.best_weights
    if best is not None and config["report"] == "best_validation":
        trainer.model.load_state_dict(best)
        checkpoint.write_weights(folder / "last.safetensors", last)
    elif best is not None:
        checkpoint.write_weights(folder / "best.safetensors", best)
    weights = trainer.model.state_dict()
    checkpoint.write_weights(folder / "model.safetensors", weights)
    result = {
        "schema": SCHEMA,
        "name": config["name"],
        "seed": config["seed"],
        "config": config,
        "cell_hash": cell_hash(config),
        "overrides": overrides,
        "cell": config["origin"].get("cell"),
        "metrics": _metrics(trainer.scores),
        "sharpness": gauge.at_the_end({"last": last, "best": best}),
        "label_noise": _noise_ledger(trainer),
        "cost": _cost(trainer),
        "cut_budget": trainer.step < trainer.plan.epochs * trainer.plan.steps_per_epoch(len(trainer.data.train)),
        "shape": vars(build.shape_of(trainer.data)),
        "weights_sha256": provenance.weights_sha256(weights),
        "sources_sha256": provenance.digest(provenance.sources(_targets(config))),
        "bit_exact": config["device"] == "cpu" or config["deterministic"],
        "environment": provenance.environment(torch.device(config["device"])),
        "git": provenance.git(),
    }
    record.write_json(folder / "result.json", result)
    trainer.path.unlink(missing_ok=True)
    return result


def _metrics(scores: dict[str, Any]) -> dict[str, Any]:
    last, best = scores["last"], scores["best"]
    return {
        "test": {"last": last["test"], "best_validation": best and best["test"], "peak": scores["peak"]},
        "validation": {"last": last["validation"], "best": best and best["validation"]},
        "train": {key: last["train"].get(key) for key in ("error_pct", "loss", "perturbed_loss")},
    }


def _cost(trainer: Trainer) -> dict[str, Any]:
    steps, device = trainer.step, trainer.clock.device
    seconds = trainer.clock.seconds
    return {
        "passes": sum(map(trainer.rule.passes, range(steps))),
        "products": sum(map(trainer.rule.products, range(steps))),
        "steps": steps,
        "seconds": seconds,
        "examples_per_second": trainer.plan.seen(steps, len(trainer.data.train)) / seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _noise_ledger(trainer: Trainer) -> dict[str, Any] | None:
    """What label noise did, and what the reported weights made of it: training accuracy on clean and flipped labels."""
    data, train = trainer.data, trainer.data.train
    if data.ledger is None:
        return None
    transform = trainer.augmentation.normalise
    predicted = evaluation.outputs(trainer.model, train.images, transform, trainer.objective.autocast).argmax(dim=1)
    flipped = train.labels != train.clean_labels
    return data.ledger | {
        "train_accuracy_clean_pct": _accuracy(predicted[~flipped], train.labels[~flipped]),
        "train_accuracy_flipped_pct": _accuracy(predicted[flipped], train.labels[flipped]),
        "train_accuracy_flipped_true_pct": _accuracy(predicted[flipped], train.clean_labels[flipped]),
    }


def _accuracy(predicted: Tensor, labels: Tensor) -> float | None:
    return 100 * (predicted == labels).double().mean().item() if len(labels) else None


def _summary(result: Result) -> str:
    test, cost = result["metrics"]["test"]["last"], result["cost"]
    lines = [f"test error {test['error_pct']:.2f} % after epoch {test['epoch']:g}"]
    if best := result["metrics"]["test"]["best_validation"]:
        lines.append(f"{best['error_pct']:.2f} % at the best validation error, epoch {best['epoch']:g}")
    lines.append(f"{cost['passes']} passes in {cost['seconds']:.1f} s")
    return "; ".join(lines)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}); start in a folder that can") from error


@contextmanager
def _told(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Says where a run broke off and what is left, and leaves `failed.json` for the tables."""
    try:
        yield
    except Interrupted as stop:
        raise Stopped(
            stop.signal, f"saved after {stop.steps} steps at signal {stop.signal}; the same command goes on"
        ) from None
    except NonFinite as error:
        _failed(folder, str(error), error.step)
        raise Failure(f"{error}; try a smaller lr or rho, or clip_norm=1.0. {_kept(trainer)}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        _failed(folder, str(error), trainer.step)
        raise Failure(f"{folder}: writing failed ({error}). {_kept(trainer)}") from None
    except Exception as error:
        _failed(folder, repr(error), trainer.step)
        raise


def _kept(trainer: Trainer) -> str:
    if not trainer.path.exists():
        return "No checkpoint had been written"
    steps = checkpoint.read(trainer.path)["rule"]["steps"]
    return f"The checkpoint after {steps} steps is kept: {trainer.path}"


def _failed(folder: Path, error: str, step: int) -> None:
    with suppress(OSError):  # a full disk must not hide why the run failed
        record.write_json(folder / "failed.json", {"error": error, "step": step})
