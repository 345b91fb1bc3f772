"""A finished run: written, found done, read back."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam_repro.config.identity import cell_hash, numerics
from sam_repro.config.named_files import without_missing
from sam_repro.config.schema import SCHEMA, Resolved, flat
from sam_repro.config.schema1 import modern
from sam_repro.errors import UserError, refuse_damaged
from sam_repro.limits import counted
from sam_repro.run import build, provenance
from sam_repro.run.belongs import REMEDY, refuse_other_config
from sam_repro.run.metrics import Written
from sam_repro.run.record import home_of, read_result, read_run, write_record
from sam_repro.run.sharpness import RunSharpness
from sam_repro.run.trust import refuse_foreign
from sam_repro.training import checkpoint, evaluation
from sam_repro.training.trainer import Trainer
from sam_repro.vectors import tensors_sha256

Result = dict[str, Any]


class Loaded(NamedTuple):
    """A finished run, read back."""

    model: nn.Module
    config: Resolved
    result: Result

    @property
    def classes(self) -> list[str] | None:
        """Names of the network's outputs, in their order; None if the data have none."""
        return self.result.get("classes")


def find_finished(folder: Path, config: Resolved) -> Result | None:
    """The result in a home; None if the run is not finished. Nothing that the files name is imported.

    Args:
        folder: the home.
        config: the configuration, with its numerics resolved.

    Raises:
        UserError: if a file is damaged or of another run.
    """
    if not (folder / "result.json").exists():
        return None
    if not (folder / "run.json").exists():
        raise UserError(f"{folder}: result.json without its run.json, which a run writes when it starts; {REMEDY}")
    with refuse_damaged(folder / "run.json") as path:
        refuse_other_config(path, read_run(folder)["config"], config)
    with refuse_damaged(folder / "result.json") as path:
        result: Result = read_result(folder)
        refuse_other_config(path, result["config"], config)
    return result


def announce_finished(folder: Path, config: Resolved, result: Result) -> None:
    """Say that a run is done, and which sources changed since; clear what a kill after the result left."""
    with refuse_damaged(folder / "run.json"):
        now = provenance.sources(targets_of(config))
        changed = provenance.describe_changed(read_run(folder)["sources"], now)
    with suppress(OSError):  # a disk that is read-only takes nothing from a finished run
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    print(f"done       {folder}")
    print(summarize(result))
    if changed:
        print(f"changed    since that run: {changed}; add resume=false to set it aside and run again")


def load(folder: str | Path, trust: bool = False) -> Loaded:
    """Read a finished run back: the model with the weights that `report` names, on the CPU and in eval mode.

    Args:
        folder: the home of the run, which its last lines name.
        trust: build a network that is no part of sam_repro, torch.nn or timm, too; default false.

    Raises:
        UserError: if it is not finished, its files are damaged, or it names a network that is not trusted.
    """
    if not str(folder).strip():
        raise UserError("load: names no run; give the home of one, such as outputs/runs/main/…/seed=0")
    folder = home_of(folder)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: no finished run; result.json is missing; the last lines of a run name its home")
    with refuse_damaged(folder / "result.json"):
        result = read_result(folder)
        config, shape = modern(result["config"]), build.Shape(**result["shape"])
    if not trust:
        refuse_foreign({"architecture": config["architecture"]}, folder / "result.json")
    config = without_missing(config)  # initial weights, which the run's own replace
    model = build.make_model(config | {"device": "cpu"}, shape)
    with refuse_damaged(folder / "model.safetensors") as path:
        weights = checkpoint.read_weights(path)
        if tensors_sha256(weights) != result["weights_sha256"]:
            raise ValueError("its weights are not those of result.json")
        model.load_state_dict(weights)
    return Loaded(model.eval(), config, result)


def targets_of(config: Resolved) -> list[str]:
    """What the configuration builds, by name."""
    return [value for key, value in flat(config).items() if key.endswith("_target_")]


def finish(
    config: Resolved, overrides: list[str], folder: Path, trainer: Trainer, sharpness: RunSharpness, rows: Written
) -> Result:
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
        "numerics": numerics(config),
        "inputs": trainer.data.inputs,
        "normalisation": trainer.data.normalisation,
        "classes": trainer.data.classes,
        "rows": rows,
        "overrides": overrides,
        "cell": config["origin"].get("cell"),
        "metrics": _metrics(trainer.scores),
        "sharpness": sharpness.measure_end({"last": last, "best": best}),
        "label_noise": _noise_ledger(trainer),
        "cost": _cost(trainer),
        "cut_budget": trainer.step < trainer.plan.epochs * trainer.plan.steps_per_epoch(len(trainer.data.train)),
        "shape": vars(build.shape_of(trainer.data)),
        "weights_sha256": tensors_sha256(weights),
        "sources_sha256": provenance.digest(provenance.sources(targets_of(config))),
        "bit_exact": config["device"] == "cpu" or config["deterministic"],
        "environment": provenance.environment(torch.device(config["device"])),
        "git": provenance.git(),
    }
    write_record(folder / "result.json", result)
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
    seconds, cost = trainer.clock.seconds, trainer.rule.total_cost(steps)
    return {
        "passes": cost.passes,
        "forwards": cost.forwards,
        "products": cost.products,
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
    predicted = evaluation.outputs(trainer.model, train, trainer.objective.autocast).argmax(dim=1)
    flipped = train.labels != train.clean_labels
    return data.ledger | {
        "train_accuracy_clean_pct": _accuracy(predicted[~flipped], train.labels[~flipped]),
        "train_accuracy_flipped_pct": _accuracy(predicted[flipped], train.labels[flipped]),
        "train_accuracy_flipped_true_pct": _accuracy(predicted[flipped], train.clean_labels[flipped]),
    }


def _accuracy(predicted: Tensor, labels: Tensor) -> float | None:
    return 100 * (predicted == labels).double().mean().item() if len(labels) else None


def summarize(result: Result) -> str:
    """A line with the test errors and the cost."""
    test, cost = result["metrics"]["test"]["last"], result["cost"]
    lines = [f"test error {test['error_pct']:.2f} % after epoch {test['epoch']:g}"]
    if best := result["metrics"]["test"]["best_validation"]:
        lines.append(f"{best['error_pct']:.2f} % at the best validation error, epoch {best['epoch']:g}")
    lines.append(f"{counted(cost['passes'], 'pass')} in {cost['seconds']:.1f} s")
    return "; ".join(lines)
