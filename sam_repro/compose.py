"""What the doors share: checks before Hydra, the composed configuration, one message for every mistake."""

import difflib
import math
import os
import re
import sys
import traceback
from argparse import ArgumentError, Namespace
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from sam_repro import limits, schema
from sam_repro.config.identity import cell_hash, home
from sam_repro.home import Busy
from sam_repro.table import spec

__all__ = ["Failure", "Stopped", "UserError", "cell_hash", "composed", "guarded", "home", "intact", "launch"]

SPELLING = "settings are written key=value, such as rho=0.1"
FIXED = ("hydra.mode", "hydra.searchpath", "hydra.sweeper.params", "hydra/sweeper")
OPTIONAL = ("experiment", "table")
"""Groups of which none may be chosen."""
ADDED = "++"
"""How Hydra marks a setting whose key may be missing; nobody types it, for `_checked_overrides` refuses it."""
NOT_THERE = re.compile(r"Could not override '([^']+)'")

Config = dict[str, Any]

ConfigStore.instance().store(name="schema", node=schema.Config)


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what to change."""


class Failure(Exception):
    """A run broke off; the message says where and what is left."""


class Stopped(Exception):
    """A run was interrupted by a signal and saved its state."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def guarded(action: Callable[[], int]) -> int:
    """Exit code of an action: 0 done, 1 crash, 2 user error, 3 busy, 128 + n stopped by signal n; one message each."""
    try:
        return action()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return _said(error, 2)
    except Busy as error:
        return _said(error, 3)
    except Stopped as stop:
        return _said(stop, 128 + stop.signal)
    except Failure as error:
        return _said(error, 1)
    except BrokenPipeError:  # whoever read our lines has gone: no traceback into the void
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def launch(task: Callable[[Config, list[str]], int]) -> list[Config]:
    """Check the command line, then let Hydra compose the configuration and call the task with it.

    A single run ends the process with the task's exit code. In a sweep every cell is composed and checked before the
    first one starts; a cell that fails does not end the sweep, one that is stopped by a signal does.

    Args:
        task: (resolved and checked configuration, overrides) → exit code. Equal cells of a sweep are one call.

    Returns:
        The configurations of a sweep's cells; nothing where Hydra only showed something (`--cfg job`, `--help`).
    """
    arguments = _arguments(sys.argv[1:])
    overrides = [] if arguments.shell_completion else _checked_overrides(arguments)
    cells = _cells(arguments, overrides) if arguments.multirun else []
    started: set[tuple[Path, str]] = set()

    def job(config: DictConfig) -> None:
        runtime = HydraConfig.get()
        sweep = runtime.mode == RunMode.MULTIRUN

        def action() -> int:
            written: Any = OmegaConf.to_container(runtime.overrides.task)  # as written: ${…} is not resolved
            given = [override.removeprefix(ADDED) for override in written]
            with _explained(arguments):
                resolved, given = _own(_resolved(config, runtime.runtime.choices), given, arguments.config_dir)
            if sweep and _has_foreign_rho(resolved):
                resolved = without_foreign_rho(resolved)
                given = [override for override in given if not override.startswith("rho=")]
            cell = home(checked(resolved)), str(resolved["sharpness"])  # another measure is of the same home
            if cell in started:
                return 0
            started.add(cell)
            return task(resolved, given)

        code = guarded(action)
        if not sweep or code >= 128:
            sys.exit(code)

    if arguments.cfg and not arguments.multirun and (line := _of_the_cell(arguments, overrides)):
        sys.argv[1:] = [word for word in sys.argv[1:] if word not in arguments.overrides] + line
    else:
        framed = dict(zip(arguments.overrides, _frame(arguments.overrides), strict=True))
        sys.argv[1:] = [framed.get(word, word) for word in sys.argv[1:]]
    sys.path.insert(0, os.getcwd())  # for a _target_ in the working directory; `python -m` does it, a script does not
    # Hydra would print its own long report and leave with 1; with this it lets the exception through to `guarded`.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _explained(arguments):
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
    return cells


def composed(overrides: list[str], extra_dir: str | None = None) -> Config:
    """The resolved configuration of a command line, as plain values, with the options chosen under `choices`."""
    search = [f"hydra.searchpath=[file://{Path(extra_dir).absolute()}]"] if extra_dir else []
    with _hydra_apart(), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("config", _frame(overrides) + search, return_hydra_config=True)
    return _own(_resolved(config, config.hydra.runtime.choices), overrides, extra_dir)[0]


def composed_cell(table: spec.Table, cell: spec.Cell, own: Sequence[str] = (), extra_dir: str | None = None) -> Config:
    """The resolved configuration of a table's cell; `own` are overrides on top of it.

    Raises:
        UserError: if the cell waits for something that does not exist yet.
    """
    where = f"cell = {cell.index} ({cell.name}) of {table.name}"
    if cell.waiting:
        raise UserError(f"{where} waits for {cell.waiting}")
    try:
        config = composed(cell_overrides(table, cell, own), extra_dir)
    except (HydraException, OmegaConfBaseException) as error:
        if missing := NOT_THERE.search(str(error)):
            line = cell_overrides(table, cell, own)
            raise UserError(f"{where}: {_no_such_key(missing[1], line, extra_dir)}") from None
        raise UserError(f"{where}: {_one_line(error)}") from None
    origin = config["origin"] | {"table": table.name, "cell": cell.name}
    if "rho" in table.overrides(cell) and not any(override.startswith("rho=") for override in own):
        origin["rho"] = "from the cell"
    return config | {"origin": origin}


def cell_overrides(table: spec.Table, cell: spec.Cell, own: Sequence[str] = ()) -> list[str]:
    """The command line that a table's cell stands for, with `own` overrides in the place of its own."""
    taken = {override.partition("=")[0] for override in own}
    return [*spec.written({k: v for k, v in table.overrides(cell).items() if k not in taken}), *own]


def read_table(name: str, extra_dir: str | None = None) -> spec.Table:
    """The table of this name.

    Raises:
        UserError: if there is none, or its file is none.
    """
    known_option("table", name, extra_dir)
    file = next(file for root in _roots(extra_dir) if (file := root / f"table/{name}.yaml").exists())
    try:
        return spec.parsed(name, OmegaConf.to_container(OmegaConf.load(file), resolve=True))
    except (spec.TableError, OmegaConfBaseException, YAMLError, UnicodeError, OSError) as error:
        raise UserError(f"{file}: {_one_line(error)}") from None


def known_option(group: str, name: str, extra_dir: str | None = None) -> None:
    """Refuse a name that is no option of the group.

    Raises:
        UserError: with the nearest name, or all of them.
    """
    known = _groups(extra_dir).get(group, [])
    if name not in known:
        raise UserError(f"{group} = {name}: no such option{_nearest(name, known)}")


def tables(extra_dir: str | None = None) -> list[str]:
    """The names of all tables."""
    return _groups(extra_dir).get("table", [])


def checked(config: Config) -> Config:
    """The configuration, if it may run.

    Raises:
        UserError: with a line for each thing that is wrong.
    """
    if findings := schema.check(config):
        raise UserError("\n".join(findings))
    return config


def without_foreign_rho(config: Config) -> Config:
    """In a sweep over optimizers, a rule that has no rho drops the sweep's, so that its cells become one."""
    return config | {"rho": None, "origin": {}} if _has_foreign_rho(config) else config


@contextmanager
def intact(path: Path, remedy: str = "resume=false sets this home aside and runs again") -> Iterator[Path]:
    """What cannot be read back is damaged; JSON, torch and safetensors each have errors of their own for that."""
    try:
        yield path
    except UserError:
        raise
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged ({reason}); {remedy}") from error


def partly(argv: list[str], keys: Collection[str]) -> list[tuple[Config, list[str]]]:
    """Check a command line on which only these keys and groups may stand.

    Returns:
        For each cell of a sweep (one, where it is none) the composed and checked configuration, and its overrides.
    """
    arguments = _arguments(argv)
    for option in ("run", "cfg", "info", "hydra_help", "shell_completion"):
        if getattr(arguments, option):
            raise UserError(f"--{option.replace('_', '-')}: is not for this command; --help says what is")
    overrides = _checked_overrides(arguments, keys)
    with _explained(arguments):
        lines = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        return [(checked(composed(line, arguments.config_dir)), line) for line in lines]


def config_dir() -> Path:
    """The configs/ folder: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def _resolved(config: DictConfig, choices: dict[str, Any]) -> Config:
    ours = OmegaConf.masked_copy(config, list(schema.Config.__dataclass_fields__))
    plain: Any = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True, enum_to_str=True)
    chosen = {group: choice for group, choice in choices.items() if group in (*plain, *OPTIONAL) and choice is not None}
    return {"choices": chosen} | _for_json(plain)


def _own(config: Config, line: list[str], extra_dir: str | None) -> tuple[Config, list[str]]:
    """The configuration that a job runs, and its command line: where it names a table, those of the table's cell."""
    which, table = config.pop("cell"), config["choices"].pop("table", None)
    config.pop("table")
    if (chosen := _chosen_cell(table, which, extra_dir)) is None:
        return config | {"origin": _origin(config, line, extra_dir)}, line
    own = [override for override in line if override.partition("=")[0] not in ("table", "cell")]
    return composed_cell(*chosen, own, extra_dir), cell_overrides(*chosen, own)


def _chosen_cell(table: str | None, which: Any, extra_dir: str | None) -> tuple[spec.Table, spec.Cell] | None:
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
    except spec.TableError as error:
        raise UserError(str(error)) from None


def _of_the_cell(arguments: Namespace, overrides: Sequence[Override]) -> list[str]:
    """The command line with a table's cell written out, so that what is shown is what would run; empty without one."""
    given: dict[str, Any] = {override.key_or_group: override.value() for override in overrides}
    chosen = _chosen_cell(given.get("table"), given.get("cell"), arguments.config_dir)
    if chosen is None:
        return []
    own = [override.input_line or "" for override in overrides if override.key_or_group not in ("table", "cell")]
    composed_cell(*chosen, own, arguments.config_dir)  # refuses what a run would refuse
    return cell_overrides(*chosen, own)


def _origin(config: Config, line: Sequence[str], extra_dir: str | None) -> dict[str, str]:
    """Where the radius came from, for the first lines of a run."""
    if config["rho"] is None:
        return {}
    rule, recipe = config["choices"]["optimizer"], config["choices"].get("experiment")
    if any(override.startswith("rho=") for override in line):
        return {"rho": "from the command line"}
    files = [file for root in _roots(extra_dir) if (file := root / f"optimizer/{rule}.yaml").exists()]
    if recipe and safe_load(files[0].read_text()).get("rho") != config["rho"]:
        return {"rho": f"from the recipe {recipe}"}
    return {"rho": f"the default of {rule}"}


def _for_json(value: Any) -> Any:
    """The same with "inf" for ∞ and "nan" for no number, which JSON cannot write."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _arguments(argv: list[str]) -> Namespace:
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        arguments, unknown = parser.parse_known_args(argv)
    except ArgumentError as error:
        raise UserError(f"{error}; --help shows how it is written; {SPELLING}") from None
    if unknown:
        apart = "=" in unknown[0] and not unknown[0].startswith("-")
        remedy = "options such as -m stand before all settings, or behind" if apart else f"no such option; {SPELLING}"
        raise UserError(f"{unknown[0]}: {remedy}")
    for option in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, option):
            name = option.replace("_", "-")
            raise UserError(f"--{name}: is not for this command; options of your own come with --config-dir")
    modes = [f"--{mode}" for mode in ("run", "multirun", "cfg", "info") if getattr(arguments, mode)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: only one of them at a time")
    return arguments


def _checked_overrides(arguments: Namespace, keys: Collection[str] = ()) -> list[Override]:
    """What can be refused before Hydra starts: keys that nobody has, options that do not exist, values out of range.

    `keys` are those that may stand there, if not all.
    """
    overrides = [_parsed(override) for override in arguments.overrides]
    groups = _groups(arguments.config_dir)
    known = keys or [*schema.Config.__dataclass_fields__, *groups]
    for override in overrides:
        key = override.key_or_group
        written = override.input_line or key
        if override.is_add() or override.is_force_add() or override.is_delete():
            raise UserError(f"{written}: keys can be set, not added or removed; write {key}=value")
        first = re.split(r"[./]", key)[0]
        if key.startswith(FIXED):
            raise UserError(f"{written}: is fixed; sweeps are written -m key=a,b, own options come with --config-dir")
        if first == "hydra":
            continue
        if first not in known:
            raise UserError(f"{written}: no such key{_nearest(first, known)}")
        if override.is_sweep_override() and not arguments.multirun:
            takes_list = key not in groups and not schema.finding(key, [0.5])
            listed = f", or write a list as {key}=[…]" if takes_list else ""
            raise UserError(f"{written}: several values are a sweep; add -m{listed}")
        for value in _values(override):
            if key in groups and value not in groups[key]:
                raise UserError(f"{key} = {limits.shown(value)}: no such option{_nearest(str(value), groups[key])}")
            if key not in groups and not (arguments.config_dir and first in groups):
                _refuse(key, value)
    return overrides


def _parsed(written: str) -> Override:
    try:
        return OverridesParser.create().parse_override(written)
    except HydraException:
        raise UserError(f"{written}: cannot be read; {SPELLING}, without spaces") from None


def _refuse(key: str, value: Any) -> None:
    """Refuse a value that is out of its limits; interpolations are checked once they are resolved."""
    for leaf, item in schema.flat({key: value}).items():
        if not (isinstance(item, str) and "${" in item) and (line := schema.finding(leaf, item)):
            raise UserError(line)


def _values(override: Override) -> Iterable[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    if override.value_type in (ValueType.INTERVAL_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
        raise UserError(f"{override.input_line}: write the values one by one, such as {override.key_or_group}=a,b")
    return override.sweep_iterator()


def _groups(extra_dir: str | None) -> dict[str, list[str]]:
    """The options of every group."""
    groups: dict[str, list[str]] = {}
    for root in _roots(extra_dir):
        for file in sorted(root.glob("*/**/*.yaml")):
            group, _, option = file.relative_to(root).with_suffix("").as_posix().partition("/")
            if not (
                group == "experiment" and option.startswith("by_")
            ):  # what recipes have for a choice is none of them
                groups.setdefault(group, []).append(option)
    return groups


def _roots(extra_dir: str | None) -> list[Path]:
    """The folders with options: the user's own, which has no name of ours, for Hydra would not look at it, and ours."""
    if not extra_dir:
        return [config_dir()]
    if not Path(extra_dir).is_dir():
        raise UserError(f"--config-dir {extra_dir}: no such folder")
    if taken := _files(Path(extra_dir)) & _files(config_dir()):
        raise UserError(f"{Path(extra_dir) / min(taken)}: sam_repro has an option of this name; give it another one")
    return [Path(extra_dir), config_dir()]


def _files(root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in root.glob("**/*.yaml")}


def _nearest(word: str, known: Iterable[str], node: str = "") -> str:
    """The known word that was probably meant, or else all of them; `node` is what stands before each of them."""
    known = sorted(set(known))
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {node}{close[0]}?"
    return f"; there are: {', '.join(node + word for word in known)}" if known else "; --cfg job shows them all"


def _cells(arguments: Namespace, overrides: list[Override]) -> list[Config]:
    """Every cell of a sweep, composed and checked, equal ones once."""
    with _explained(arguments):
        lines = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        configs = [composed(line, arguments.config_dir) for line in lines]
    _refuse_side_by_side(overrides, configs)
    if any("rho" in config["optimizer"] for config in configs):
        for rule in sorted({config["choices"]["optimizer"] for config in configs if _has_foreign_rho(config)}):
            print(f"{rule} has no rho: the sweep's is dropped there, and cells that are then equal are one")
        configs = [without_foreign_rho(config) for config in configs]
    return list({home(checked(config)): config for config in configs}.values())


def _refuse_side_by_side(overrides: Sequence[Override], configs: Sequence[Config]) -> None:
    """Cells that differ in their sharpness alone are one run: its measures are taken one after the other."""
    launcher = [o.value() for o in overrides if o.key_or_group == "hydra/launcher" and o.value() != "basic"]
    measures = {str(config["sharpness"]) for config in configs}
    if launcher and len(measures) > 1:
        raise UserError(
            f"hydra/launcher = {launcher[0]}: measures of one run cannot be taken side by side; leave the launcher "
            "out, or train with one and take the others with python -m sam_repro.measure -m"
        )


def _has_foreign_rho(config: Config) -> bool:
    return config["rho"] is not None and "rho" not in config["optimizer"]


@contextmanager
def _hydra_apart() -> Iterator[None]:
    """Inside the block Hydra is as if it had not been started: a job that it runs may compose a configuration too."""
    started = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = started


@contextmanager
def _explained(arguments: Namespace) -> Iterator[None]:
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
    groups = {*_groups(extra_dir)} - {"table"}
    chosen = [override for override in line if override.partition("=")[0] in groups and "," not in override]
    config = composed(chosen, extra_dir)
    leaves = [leaf.removeprefix(node + dot) for leaf in schema.flat(config) if leaf.startswith(node + dot)]
    known = [leaf for leaf in leaves if not leaf.endswith(("_target_", "_partial_"))]
    return f"{key}: no such key{_nearest(word, known, node + dot)}"


def _frame(line: Sequence[str]) -> list[str]:
    """The line as Hydra composes it: where it names a table, every key of a group may stand on it.

    What comes of such a line is thrown away, for the cell says which options there are: `_own` composes it.
    """
    if not any(override.startswith("table=") for override in line):
        return list(line)
    return [
        ADDED + override if "." in override.partition("=")[0] and not override.startswith("hydra.") else override
        for override in line
    ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\n    ")[0].split()).partition(" Config search path:")[0]


def _said(message: BaseException, code: int) -> int:
    print(f"sam_repro: {message}", file=sys.stderr)
    return code
