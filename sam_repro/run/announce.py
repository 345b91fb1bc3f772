"""The first lines of a run: what will run, and where it goes."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from sam_repro import limits
from sam_repro.config import cases
from sam_repro.config.identity import idle_by
from sam_repro.config.schema import Resolved, facts_of, flat, neutral_values
from sam_repro.run.metrics import read_metrics
from sam_repro.run.request import Request
from sam_repro.training.trainer import Trainer

LINE = 150  # characters
DIVERGED = 2  # times the loss of a constant prediction: in its first epochs a run may well be above once that
ABSURD = 1e8  # sharpness of a network that has learnt something is below 1e6


def announce_two_protocols(rows: Path, request: Request, done: int) -> None:
    """Say so where the rows of a measure will be of more than one protocol."""
    if not done or request.every is None:
        return
    key = f"sharpness/{request.name}/protocol"
    others = {row[key] for row in read_metrics(rows) if row["step"] < done and key in row} - {request.settings_id}
    if others:
        then = ", ".join(sorted(others))
        print(f"protocol   {request.name} was measured with other settings so far: {key} in the rows is {then}")
        print(f"           and from here on {request.settings_id}")


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
        f"loop       {limits.counted(plan.epochs, 'epoch')} in batches of {plan.batch_size}, "
        f"lr {plan.lr:g} ({choices['schedule']}), "
        f"seed {plan.seed}: {limits.counted(steps, 'step')}, {_passes(trainer, steps)}"
    )
    if recipe := choices.get("experiment"):
        origin = config["origin"]
        cell = f", cell {origin['cell']} of {origin['table']}" if "cell" in origin else ""
        assumed = f"; assumed: {', '.join(config['assumed'])}" if config["assumed"] else ""
        print("\n".join([f"recipe     {recipe}{cell}{assumed}", *map(_cut, cases.describe(config))]))
        print(f"sources    python -m sam_repro.table recipe {recipe} shows each definition, and where it is from")
    told = {"optimizer", "compile"}  # by the lines of the rule and the numerics
    leaves, neutral = flat(config), neutral_values()
    live = [key for key in leaves if key.partition(".")[0] not in told and idle_by(key, leaves) is None]
    unusual = {key: leaves[key] for key in live if key in neutral and leaves[key] != neutral[key]}
    if unusual:
        print(f"unusual    {', '.join(f'{key}={limits.shown(value)}' for key, value in unusual.items())}")
    print("\n".join(_numerics(config, trainer)))
    print(f"home       {folder}")
    if done:
        print(f"resumed    after {done:,} of {limits.counted(steps, 'step')}")
    sys.stdout.flush()


def _numerics(config: Resolved, trainer: Trainer) -> list[str]:
    """How this machine will compute, what was decided for a GPU unasked, and what is slower or other than it looks."""
    threads, batch_size, m = torch.get_num_threads(), config["batch_size"], config["m"]
    compiled = ", compiled" if config["compile"] else ""
    told = [f"numerics   {config['precision']} on {config['device']}, threads: {threads}{compiled}"]
    if why := config["origin"].get("compile"):
        told.append(f"compile    {why}")
    if trainer.plan.graph is None and config["device"] != "cpu" and trainer.no_graph:
        told.append(f"graph      off, which is slower: {trainer.no_graph}")
    if config["device"] == "cpu" and threads > (os.cpu_count() or 1):
        told.append(f"warning    threads: {threads} on {os.cpu_count()} cores are slower than one for each")
    if m and batch_size % m:
        told.append(f"warning    m = {m} does not divide batch_size = {batch_size}: the last part has {batch_size % m}")
    return told


def warnings(result: Resolved) -> list[str]:
    """What a finished run has to be asked about: whether it has diverged, and values that no network in use has."""
    train, constant = result["metrics"]["train"], math.log(result["shape"]["num_classes"])
    said = []
    if train["loss"] is not None and train["loss"] > DIVERGED * constant:
        said.append(
            f"the training loss {train['loss']:.3g} is more than twice {constant:.2f} = log "
            f"{result['shape']['num_classes']}, that of a constant prediction: the run has diverged; try a smaller lr "
            "or rho, or clip_norm=1.0"
        )
    return said + [line for name, content in result["sharpness"].items() for line in absurd(name, content["values"])]


def absurd(name: str, values: Mapping[str, float]) -> list[str]:
    """Lines about values of a sharpness that are as large as only weights of a run that diverged have them."""
    large = [f"{key} = {value:.3g}" for key, value in values.items() if abs(value) > ABSURD]
    return [f"{name}: {', '.join(large)}: absurd; have these weights diverged?"] if large else []


def _cut(line: str) -> str:
    """What fits into about a line of a terminal: all of it is in the table of the recipe."""
    return line if len(line) <= LINE else line[:LINE].rpartition(" ")[0] + " …"


def _rho(config: Resolved) -> str:
    """The radius and where it came from."""
    if config["rho"] is None:
        return ""
    schedule = {key: value for key, value in config["rho_schedule"].items() if key != "_target_"}
    settings = "".join(f", {key} {limits.shown(value)}" for key, value in schedule.items())
    shape = config["choices"]["rho_schedule"]
    plain = shape == "constant" and schedule.get("warmup_epochs") == 0
    return f", rho {config['rho']:g} ({config['origin']['rho']}" + ("" if plain else f"; {shape}{settings}") + ")"


def _settings(config: Resolved) -> str:
    """What else the rule is told: its name alone does not say what is computed."""
    settings = {
        key: value
        for key, value in config["optimizer"].items()
        if key != "rho" and not key.startswith("_") and facts_of(f"optimizer.{key}").neutral != value
    }
    return "".join(f", {key} {limits.shown(value)}" for key, value in settings.items())


def _passes(trainer: Trainer, steps: int) -> str:
    return str(trainer.rule.total_cost(steps))
