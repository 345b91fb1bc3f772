"""The first lines of a run: what will run, and where it goes."""

import sys
from pathlib import Path

import torch

from sam_repro import limits
from sam_repro.config import cases
from sam_repro.config.schema import NEUTRAL, Resolved
from sam_repro.run.metrics import read_metrics
from sam_repro.run.request import Request
from sam_repro.training.trainer import Trainer


def announce_two_protocols(rows: Path, request: Request, done: int) -> None:
    """Say so where the rows of a measure will be of more than one protocol."""
    if not done or request.every is None:
        return
    key = f"sharpness/{request.name}/protocol"
    others = {row[key] for row in read_metrics(rows) if row["step"] < done and key in row} - {request.settings_id}
    if others:
        print(f"protocol   {key} of the rows so far: {', '.join(sorted(others))}; from here on {request.settings_id}")


def announce(config: Resolved, folder: Path, trainer: Trainer, done: int) -> None:
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
        assumed = f"; assumed: {', '.join(config['assumed'])}" if config["assumed"] else ""
        print("\n".join([f"recipe     {recipe}{cell}{assumed}", *cases.told(config)]))
    unusual = {key: config[key] for key, neutral in NEUTRAL.items() if config.get(key, neutral) != neutral}
    if unusual:
        print(f"unusual    {', '.join(f'{key}={limits.shown(value)}' for key, value in unusual.items())}")
    print(f"numerics   {config['precision']} on {config['device']}, threads: {torch.get_num_threads()}")
    print(f"home       {folder}")
    if done:
        print(f"resumed    after {done} of {steps} steps")
    sys.stdout.flush()


def _rho(config: Resolved) -> str:
    """The radius and where it came from."""
    return "" if config["rho"] is None else f", rho {config['rho']:g} ({config['origin']['rho']})"


def _settings(config: Resolved) -> str:
    """What else the rule is told: its name alone does not say what is computed."""
    settings = {key: value for key, value in config["optimizer"].items() if key != "rho" and not key.startswith("_")}
    return "".join(f", {key} {limits.shown(value)}" for key, value in settings.items())


def _passes(trainer: Trainer, steps: int) -> str:
    cost = trainer.rule.total_cost(steps)
    return f"{cost.passes} passes" + (f" and {cost.products} products" if cost.products else "")
