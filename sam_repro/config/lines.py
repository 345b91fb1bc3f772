"""From a line to the configuration that it stands for: a table's cell, a sweep, a part of one."""

from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from sam_repro.config import schema, table_file
from sam_repro.config.command_line import check_overrides, read_arguments
from sam_repro.config.compose import NOT_THERE, check_config, frame, hydra_apart, resolve
from sam_repro.config.identity import home
from sam_repro.config.options import config_dir, groups_of, nearest, require_option, roots_of
from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError


def compose_line(overrides: list[str], extra_dir: str | None = None) -> Resolved:
    """The resolved configuration of a command line, as plain values, with the options chosen under `choices`."""
    search = [f"hydra.searchpath=[file://{Path(extra_dir).absolute()}]"] if extra_dir else []
    with hydra_apart(), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("config", frame(overrides) + search, return_hydra_config=True)
    return own_or_cell(resolve(config, config.hydra.runtime.choices), overrides, extra_dir)[0]


def compose_cell(
    table: table_file.Table, cell: table_file.Cell, own: Sequence[str] = (), extra_dir: str | None = None
) -> Resolved:
    """The resolved configuration of a table's cell; `own` are overrides on top of it.

    Raises:
        UserError: if the cell waits for something that does not exist yet.
    """
    where = f"cell = {cell.index} ({cell.name}) of {table.name}"
    if cell.waiting:
        raise UserError(f"{where} waits for {cell.waiting}")
    try:
        config = compose_line(cell_overrides(table, cell, own), extra_dir)
    except (HydraException, OmegaConfBaseException) as error:
        if missing := NOT_THERE.search(str(error)):
            line = cell_overrides(table, cell, own)
            raise UserError(f"{where}: {_no_such_key(missing[1], line, extra_dir)}") from None
        raise UserError(f"{where}: {one_line(error)}") from None
    origin = config["origin"] | {"table": table.name, "cell": cell.name}
    if "rho" in table.overrides(cell) and not any(override.startswith("rho=") for override in own):
        origin["rho"] = "from the cell"
    return config | {"origin": origin}


def cell_overrides(table: table_file.Table, cell: table_file.Cell, own: Sequence[str] = ()) -> list[str]:
    """The command line that a table's cell stands for, with `own` overrides in the place of its own."""
    taken = {override.partition("=")[0] for override in own}
    return [*table_file.written({k: v for k, v in table.overrides(cell).items() if k not in taken}), *own]


def read_table(name: str, extra_dir: str | None = None) -> table_file.Table:
    """The table of this name.

    Raises:
        UserError: if there is none, or its file is none.
    """
    require_option("table", name, extra_dir)
    file = next(file for root in roots_of(extra_dir) if (file := root / f"table/{name}.yaml").exists())
    try:
        return table_file.parsed(name, OmegaConf.to_container(OmegaConf.load(file), resolve=True))
    except (table_file.TableError, OmegaConfBaseException, YAMLError, UnicodeError, OSError) as error:
        raise UserError(f"{file}: {one_line(error)}") from None


def drop_foreign_rho(config: Resolved) -> Resolved:
    """In a sweep over optimizers, a rule that has no rho drops the sweep's, so that its cells become one."""
    return config | {"rho": None, "origin": {}} if has_foreign_rho(config) else config


def compose_part(argv: list[str], keys: Collection[str]) -> list[tuple[Resolved, list[str]]]:
    """Check a command line on which only these keys and groups may stand.

    Returns:
        For each cell of a sweep (one, where it is none) the composed and checked configuration, and its overrides.
    """
    arguments = read_arguments(argv)
    for option in ("run", "cfg", "info", "hydra_help", "shell_completion"):
        if getattr(arguments, option):
            raise UserError(f"--{option.replace('_', '-')}: is not for this command; --help says what is")
    overrides = check_overrides(arguments, keys)
    with explained(arguments):
        lines = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        return [(check_config(compose_line(line, arguments.config_dir)), line) for line in lines]


def own_or_cell(config: Resolved, line: list[str], extra_dir: str | None) -> tuple[Resolved, list[str]]:
    """The configuration that a job runs, and its command line: where it names a table, those of the table's cell."""
    which, table = config.pop("cell"), config["choices"].pop("table", None)
    config.pop("table")
    if (chosen := _chosen_cell(table, which, extra_dir)) is None:
        return config | {"origin": _origin(config, line, extra_dir)}, line
    own = [override for override in line if override.partition("=")[0] not in ("table", "cell")]
    return compose_cell(*chosen, own, extra_dir), cell_overrides(*chosen, own)


def _chosen_cell(
    table: str | None, which: Any, extra_dir: str | None
) -> tuple[table_file.Table, table_file.Cell] | None:
    """The table and its cell; None where neither is named."""
    if table is None and which is None:
        return None
    if table is None:
        raise UserError(f"cell = {which}: of which table? Write table=name cell={which}")
    content = read_table(table, extra_dir)
    if which is None:
        raise UserError(f"table = {table}: which cell? Write cell=0; python -m sam_repro.table {table} lists them")
    try:
        return content, content.cell(which)
    except table_file.TableError as error:
        raise UserError(str(error)) from None


def line_of_cell(arguments: Namespace, overrides: Sequence[Override]) -> list[str]:
    """The command line with a table's cell written out, so that what is shown is what would run; empty without one."""
    given: dict[str, Any] = {override.key_or_group: override.value() for override in overrides}
    chosen = _chosen_cell(given.get("table"), given.get("cell"), arguments.config_dir)
    if chosen is None:
        return []
    own = [override.input_line or "" for override in overrides if override.key_or_group not in ("table", "cell")]
    compose_cell(*chosen, own, arguments.config_dir)  # refuses what a run would refuse
    return cell_overrides(*chosen, own)


def _origin(config: Resolved, line: Sequence[str], extra_dir: str | None) -> dict[str, str]:
    """Where the radius came from, for the first lines of a run."""
    if config["rho"] is None:
        return {}
    rule, recipe = config["choices"]["optimizer"], config["choices"].get("experiment")
    if any(override.startswith("rho=") for override in line):
        return {"rho": "from the command line"}
    files = [file for root in roots_of(extra_dir) if (file := root / f"optimizer/{rule}.yaml").exists()]
    if recipe and safe_load(files[0].read_text()).get("rho") != config["rho"]:
        return {"rho": f"from the recipe {recipe}"}
    return {"rho": f"the default of {rule}"}


def compose_sweep(arguments: Namespace, overrides: list[Override]) -> list[Resolved]:
    """Every cell of a sweep, composed and checked, equal ones once."""
    with explained(arguments):
        lines = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        configs = [compose_line(line, arguments.config_dir) for line in lines]
    _refuse_side_by_side(overrides, configs)
    if any("rho" in config["optimizer"] for config in configs):
        for rule in sorted({config["choices"]["optimizer"] for config in configs if has_foreign_rho(config)}):
            print(f"{rule} has no rho: the sweep's is dropped there, and cells that are then equal are one")
        configs = [drop_foreign_rho(config) for config in configs]
    _refuse_two_places_of_data(configs)
    return list({home(check_config(config)): config for config in configs}.values())


def _refuse_two_places_of_data(configs: Sequence[Resolved]) -> None:
    """Two lines of one home that read their data from two folders would be taken for one run."""
    folders: dict[Path, str] = {}
    for config in configs:
        first = folders.setdefault(home(config), config["data_dir"])
        if first != config["data_dir"]:
            raise UserError(
                f"data_dir = {first}, {config['data_dir']}: does not make another run of a line; "
                "start these one by one, each with a name of its own, such as name=other-data"
            )


def _refuse_side_by_side(overrides: Sequence[Override], configs: Sequence[Resolved]) -> None:
    """Cells that differ in their sharpness alone are one run: its measures are taken one after the other."""
    launcher = [o.value() for o in overrides if o.key_or_group == "hydra/launcher" and o.value() != "basic"]
    measures = {str(config["sharpness"]) for config in configs}
    if launcher and len(measures) > 1:
        raise UserError(
            f"hydra/launcher = {launcher[0]}: measures of one run cannot be taken side by side; leave the launcher "
            "out, or train with one and take the others with python -m sam_repro.measure -m"
        )


def has_foreign_rho(config: Resolved) -> bool:
    """Whether a radius is given to a rule that has none."""
    return config["rho"] is not None and "rho" not in config["optimizer"]


@contextmanager
def explained(arguments: Namespace) -> Iterator[None]:
    """Turns Hydra's report of a key or value that does not fit into one line with the remedy."""
    try:
        yield
    except YAMLError as error:
        raise UserError(f"a file of --config-dir is no YAML: {' '.join(str(error).split())}") from None
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
        if missing := NOT_THERE.search(str(error)):
            raise UserError(_no_such_key(key or missing[1], arguments.overrides, arguments.config_dir)) from None
        told = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
        told = told.partition(" Config search path:")[0]
        remedy = "; ${…} may name the keys that --cfg job shows" if "nterpolation" in told else ""
        raise UserError(f"{key}: {told}{remedy}" if key else f"{told}{remedy}") from None


def _no_such_key(key: str, line: Sequence[str], extra_dir: str | None) -> str:
    """What to say of a key that is not there with the options that the line chooses."""
    node, dot, word = key.rpartition(".")
    groups = {*groups_of(extra_dir)} - {"table"}
    chosen = [override for override in line if override.partition("=")[0] in groups and "," not in override]
    config = compose_line(chosen, extra_dir)
    leaves = [leaf.removeprefix(node + dot) for leaf in schema.flat(config) if leaf.startswith(node + dot)]
    known = [leaf for leaf in leaves if not leaf.endswith(("_target_", "_partial_"))]
    return f"{key}: no such key{nearest(word, known, node + dot)}"


def one_line(error: Exception) -> str:
    """The first sentence of an error of Hydra."""
    return " ".join(str(error).partition("\n    ")[0].split()).partition(" Config search path:")[0]
