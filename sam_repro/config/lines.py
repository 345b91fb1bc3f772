"""From the words of a line to the configuration that it stands for: a table's cell, a recipe's cases, a seed."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sam_repro.config import cases, recipe, table_file
from sam_repro.config.checks import check
from sam_repro.config.command_line import Command, read_command
from sam_repro.config.compose import Unresolved, compose, explain, parse_word, read_yaml
from sam_repro.config.identity import home, idle_by
from sam_repro.config.options import groups_of, nearest, require_option, roots_of
from sam_repro.config.schema import OPEN, Resolved, flat, what_is_open
from sam_repro.config.table_reader import parse_table
from sam_repro.errors import UserError
from sam_repro.limits import shown


class Line(NamedTuple):
    """One command line of a sweep, complete: its words, a table's cell written out, and what they stand for."""

    words: list[str]
    config: Resolved


def compose_line(words: Sequence[str], extra_dir: str | None = None) -> Resolved:
    """The resolved configuration of a line, as plain values, with the options chosen under `choices`."""
    (line,) = compose_lines([list(words)], extra_dir)
    return line.config


def compose_lines(lines: Sequence[Sequence[str]], extra_dir: str | None = None) -> list[Line]:
    """The configurations of lines; those that differ in their seed alone are one cell, which is composed once.

    Raises:
        UserError: if a line cannot be composed.
    """
    cells: dict[tuple[str, ...], tuple[list[str], Unresolved]] = {}
    composed = []
    for words in lines:
        seeds = [word for word in words if word.startswith("seed=")]
        rest = tuple(word for word in words if word not in seeds)
        if rest not in cells:
            cells[rest] = compose_unresolved(rest, extra_dir)
        written, unresolved = cells[rest]
        with explain(words, extra_dir):
            for seed in seeds:
                unresolved.set("seed", parse_word(seed).value())
            composed.append(Line([*written, *seeds], unresolved.resolved()))
    return composed


def compose_cell(
    table: table_file.Table, cell: table_file.Cell, own: Sequence[str] = (), extra_dir: str | None = None
) -> Resolved:
    """The resolved configuration of a table's cell; `own` are overrides on top of it.

    Raises:
        UserError: if the cell waits for something that does not exist yet.
    """
    return _compose_cell(table, cell, own, extra_dir).resolved()


def compose_unresolved(words: Sequence[str], extra_dir: str | None = None) -> tuple[list[str], Unresolved]:
    """A line with its cell written out, and its configuration with its cell's and its recipe's values.

    Raises:
        UserError: if it names a cell that does not exist, or cannot be composed.
    """
    given = {word.partition("=")[0]: word for word in words if word.startswith(("table=", "cell="))}
    own = [word for word in words if word not in given.values()]
    if not given:
        with explain(own, extra_dir):
            return own, _with_cases(own, extra_dir)
    table, cell = _choose_cell(given, extra_dir)
    return cell_overrides(table, cell, own), _compose_cell(table, cell, own, extra_dir)


def cell_overrides(table: table_file.Table, cell: table_file.Cell, own: Sequence[str] = ()) -> list[str]:
    """The line that a table's cell stands for, with `own` overrides in the place of its own."""
    taken = {override.partition("=")[0] for override in own}
    return [*table_file.spell_words({k: v for k, v in table.overrides(cell).items() if k not in taken}), *own]


def read_table(name: str, extra_dir: str | None = None) -> table_file.Table:
    """The table of this name.

    Raises:
        UserError: if there is no such table, or its file is not one.
    """
    require_option("table", name, extra_dir)
    file = next(file for root in roots_of(extra_dir) if (file := root / f"table/{name}.yaml").exists())
    table, measures = _read_table(name, file, file.stat().st_mtime_ns), groups_of(extra_dir)["sharpness"]
    named = (*(claim.metric for claim in table.claims), *(effect.metric for effect in table.effects))
    for metric in (*table.metrics, *named):
        part, _, rest = metric.partition("/")
        if part == "sharpness" and (measure := rest.rpartition("/")[0]) not in measures:
            raise UserError(f"{file}: metric = {metric}: no such measure{nearest(measure, measures)}")
    return table


@lru_cache
def _read_table(name: str, file: Path, changed: int) -> table_file.Table:
    """A sweep names its table on every line; `changed` is there for the cache."""
    try:
        return parse_table(name, read_yaml(file))
    except table_file.TableError as error:
        raise UserError(f"{file}: {error}") from None


def compose_sweep(command: Command) -> list[Line]:
    """Every line of a command, composed and checked; equal ones once.

    Raises:
        UserError: if a line may not run, or two of them cannot be told apart.
    """
    lines = compose_lines(command.lines(), command.extra_dir)
    if command.is_sweep:
        lines = _without_foreign_rho(lines)
        _refuse_side_by_side(command, lines)
    checked = [Line(words, _whole(check_config(config))) for words, config in lines]
    _refuse_two_places_of_data(checked)
    return list({(home(line.config), str(line.config["sharpness"])): line for line in checked}.values())


def compose_part(argv: Sequence[str], keys: Collection[str]) -> list[Line]:
    """The lines of a command on which only these keys and groups may stand, composed and checked."""
    command = read_command(argv, keys)
    for option in ("run", "cfg", "info", "hydra_help", "shell_completion"):
        if getattr(command.arguments, option):
            raise UserError(f"--{option.replace('_', '-')}: is not for this command; --help says what is")
    lines = compose_lines(command.lines(), command.extra_dir)
    return [Line(words, _whole(check_config(config))) for words, config in lines]


def tell_idle(command: Command, lines: Sequence[Line]) -> None:
    """Say of each key of the command line why it changes nothing, if it changes nothing on any of its lines."""
    for key in dict.fromkeys(override.key_or_group for override in command.overrides):
        if not all(_idle_by(key, line.config) for line in lines):
            continue
        settings = {tuple(_split(key, words)[0]): words for words in command.lines()}
        if any(_is_lost(key, words, command.extra_dir) for words in settings.values()):
            because = _idle_by(key, lines[0].config) or ""
            value = shown(flat(lines[0].config).get(because))
            print(f"sam_repro: {key}: has no effect, because {because} = {value}", file=sys.stderr)


def check_config(config: Resolved) -> Resolved:
    """The configuration, if it may run once what it leaves open is given.

    Raises:
        UserError: with a line for each thing that is wrong.
    """
    if findings := check(config):
        raise UserError("\n".join(findings))
    return config


def _whole(config: Resolved) -> Resolved:
    """The configuration, if it leaves nothing open."""
    if asked := what_is_open(config):
        told = (
            f"{key} = {OPEN}: is yours to give{what and f' ({what})'}; write {key}=…" for key, what in asked.items()
        )
        raise UserError("\n".join(told))
    return config


def _compose_cell(
    table: table_file.Table, cell: table_file.Cell, own: Sequence[str], extra_dir: str | None
) -> Unresolved:
    where = f"cell = {cell.index} ({cell.name}) of {table.name}"
    if cell.waiting:
        raise UserError(f"{where} waits for {cell.waiting}")
    words = cell_overrides(table, cell, own)
    with explain(words, extra_dir, where):
        composed = _with_cases(words, extra_dir)
    composed.origin.update(table=table.name, cell=cell.name)
    if "rho" in table.overrides(cell) and not any(word.startswith("rho=") for word in own):
        composed.origin["rho"] = "from the cell"
    return composed


def _choose_cell(given: dict[str, str], extra_dir: str | None) -> tuple[table_file.Table, table_file.Cell]:
    values = {key: parse_word(word).value() for key, word in given.items()}
    if values.get("table") is None:
        raise UserError(f"cell = {values['cell']}: of which table? Write table=name cell={values['cell']}")
    name = str(values["table"])
    table = read_table(name, extra_dir)
    if values.get("cell") is None:
        raise UserError(f"table = {name}: which cell? Write cell=0; python -m sam_repro.table {name} lists them")
    which: Any = values["cell"]
    try:
        return table, table.cell(which)
    except table_file.TableError as error:
        raise UserError(str(error)) from None


def _with_cases(words: Sequence[str], extra_dir: str | None) -> Unresolved:
    """The configuration of a line with the cases of its recipe that hold, and where its values are from."""
    composed = compose(words, extra_dir)
    if "experiment" in composed.choices:
        said = _ask_recipe(composed, words, extra_dir)
        for key, value in said.sets.items():
            composed.set(key, value)
        composed = replace(composed, assumed=said.assumed, origin=dict(said.origin))
    composed.origin.update(_origin_of_rho(composed, words, extra_dir))
    return composed


def _ask_recipe(composed: Unresolved, words: Sequence[str], extra_dir: str | None) -> cases.Answer:
    groups, plain = groups_of(extra_dir), composed.plain()
    keys = {word.partition("=")[0] for word in words} - {"seed"}  # what is assumed of seeds holds for each of them
    given = cases.Line(keys=keys - groups.keys(), groups=keys & groups.keys())
    own = extra_dir is not None and (Path(extra_dir) / f"dataset/{composed.choices['dataset']}.yaml").exists()
    try:
        said_of_itself = composed.recipe | {"assumed": composed.assumed}
        spoken = recipe.parse_recipe(composed.choices["experiment"], plain | said_of_itself, groups)
        return cases.answer(spoken, composed.choices, plain, given, brings_constants=own)
    except recipe.RecipeError as error:
        raise UserError(str(error)) from None


def _origin_of_rho(composed: Unresolved, words: Sequence[str], extra_dir: str | None) -> dict[str, str]:
    """Where the radius came from, for the first lines of a run."""
    if composed.is_open("rho") or (rho := composed.config.rho) is None:
        return {}
    rule, experiment = composed.choices["optimizer"], composed.choices.get("experiment")
    if any(word.startswith("rho=") for word in words):
        return {"rho": "from the command line"}
    if case := composed.origin.get("cases", {}).get("rho"):
        return {"rho": f"from the recipe {experiment} ({case})"}
    files = [file for root in roots_of(extra_dir) if (file := root / f"optimizer/{rule}.yaml").exists()]
    if experiment and read_yaml(files[0], resolve=False).get("rho") != rho:
        return {"rho": f"from the recipe {experiment}"}
    return {"rho": f"the default of {rule}"}


def _idle_by(key: str, config: Resolved) -> str | None:
    """The key whose value leaves all at or below this one without effect; None if any of it has one."""
    leaves = flat(config)
    found = [idle_by(leaf, leaves) for leaf in leaves if leaf == key or leaf.startswith(f"{key}.")]
    return found[0] if found and all(found) else None


def _is_lost(key: str, words: Sequence[str], extra_dir: str | None) -> bool:
    """Whether what a line sets at or below a key is another value than without it, and the same run."""
    both = (compose_line(line, extra_dir) for line in (words, _split(key, words)[1]))
    with_it, without = ({**config, "origin": {}, "assumed": {}} for config in both)
    return with_it != without and home(with_it) == home(without)


def _split(key: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a line that set something at or below a key, and the others."""
    own = [word for word in words if word.startswith((f"{key}=", f"{key}."))]
    return own, [word for word in words if word not in own]


def _without_foreign_rho(lines: Sequence[Line]) -> list[Line]:
    """In a sweep over optimizers a rule that has no rho drops the sweep's, so that its cells become one."""
    foreign = [line.config["rho"] is not None and "rho" not in line.config["optimizer"] for line in lines]
    if all(foreign):  # this is no sweep over rules: `check` refuses the line
        return list(lines)
    for rule in sorted(
        {line.config["choices"]["optimizer"] for line, is_so in zip(lines, foreign, strict=True) if is_so}
    ):
        print(f"{rule} has no rho: the sweep's is dropped there, and cells that are then equal are one")
    return [_without_rho(line) if is_so else line for line, is_so in zip(lines, foreign, strict=True)]


def _without_rho(line: Line) -> Line:
    origin = {key: value for key, value in line.config["origin"].items() if key != "rho"}
    words = [word for word in line.words if not word.startswith("rho=")]
    return Line(words, line.config | {"rho": None, "origin": origin})


def _refuse_side_by_side(command: Command, lines: Sequence[Line]) -> None:
    """Lines that differ in their sharpness alone are one run: its measures are taken one after the other."""
    if command.launcher and len({str(line.config["sharpness"]) for line in lines}) > 1:
        raise UserError(
            f"hydra/launcher = {command.launcher}: measures of one run cannot be taken side by side; leave the "
            "launcher out, or train with one and take the others with python -m sam_repro.measure -m"
        )


def _refuse_two_places_of_data(lines: Sequence[Line]) -> None:
    """Two lines of one home that read their data from two folders would be taken for one run."""
    folders: dict[Path, str] = {}
    for line in lines:
        here = line.config["data_dir"]
        if (first := folders.setdefault(home(line.config), here)) != here:
            raise UserError(
                f"data_dir = {first}, {here}: does not make another run of a line; start these one by one, each with a "
                "name of its own, such as name=other-data"
            )
