"""A command line, read and checked before anything is composed."""

import itertools
import math
import re
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sam_repro.config import schema
from sam_repro.config.checks import LIMITS, finding
from sam_repro.config.compose import SPELLING, Override, ValueType, hydras_parser, keys_named, parse_word
from sam_repro.config.options import groups_of, nearest, no_such_option
from sam_repro.errors import UserError

OF_A_TABLE = ("table", "cell")
"""Words that stand for a table's cell."""
OF_HYDRA = ("hydra/launcher", "hydra.launcher")
"""The settings of Hydra that a user may choose: how the lines of a sweep are started."""

LONGEST_SWEEP = 10_000  # lines: their composing alone takes minutes


@dataclass(frozen=True)
class Command:
    """A command line.

    Args:
        arguments: options such as -m, as Hydra's parser sorts them.
        overrides: the settings, without Hydra's own.
        of_hydra: Hydra's own settings.
    """

    arguments: Namespace
    overrides: tuple[Override, ...] = ()
    of_hydra: tuple[Override, ...] = ()

    @property
    def is_sweep(self) -> bool:
        """Whether it is several lines: -m."""
        return bool(self.arguments.multirun)

    @property
    def extra_dir(self) -> str | None:
        """The folder with options of one's own."""
        return self.arguments.config_dir

    @property
    def is_hydras(self) -> bool:
        """Whether Hydra itself answers it: help, completion, what it knows of the search path."""
        asks = self.arguments
        return bool(asks.help or asks.hydra_help or asks.info or asks.shell_completion or asks.cfg in ("hydra", "all"))

    @property
    def launcher(self) -> str | None:
        """What starts the lines of a sweep, if not this process."""
        names = [str(o.value()) for o in self.of_hydra if o.key_or_group == "hydra/launcher"]
        return names[-1] if names and names[-1] != "basic" else None

    def lines(self) -> list[list[str]]:
        """Its lines: every sweep is expanded, once, the last one fastest.

        Raises:
            UserError: if a sweep has no values.
        """
        values: list[list[str]] = []
        for override in self.overrides:
            if not override.is_sweep_override():
                values.append([override.input_line or ""])
                continue
            key = override.get_key_element()
            if not (of_this := [f"{key}={value}" for value in override.sweep_string_iterator()]):
                raise UserError(f"{override.input_line}: has no values; write at least one, such as {key}=0,1")
            values.append(of_this)
        if (number := math.prod(map(len, values))) > LONGEST_SWEEP:
            raise UserError(f"-m: these are {number} lines; write at most {LONGEST_SWEEP} in one sweep")
        return [list(line) for line in itertools.product(*values)]


def read_command(argv: Sequence[str], keys: Collection[str] = ()) -> Command:
    """Read a command line, and refuse what can be refused before anything is composed.

    Args:
        argv: its words.
        keys: those keys and groups that may stand there, default all.

    Raises:
        UserError: for options and keys that do not exist, and for values out of range.
    """
    arguments = _read_arguments(list(argv))
    if arguments.shell_completion:
        return Command(arguments)
    overrides = [parse_word(word) for word in arguments.overrides]
    everything = [*schema.Config.__dataclass_fields__, *groups_of(arguments.config_dir), *OF_A_TABLE]
    for override in overrides:
        if keys and _node(override.key_or_group) in set(everything) - set(keys):
            raise UserError(
                f"{(override.input_line or '')[:200]}: is not for this command, which takes {', '.join(keys)}"
            )
        _refuse_override(override, arguments, keys or everything)
    _tell_repeated(overrides)
    hydras = [override for override in overrides if _node(override.key_or_group) == "hydra"]
    command = Command(arguments, tuple(o for o in overrides if o not in hydras), tuple(hydras))
    if hydras and command.launcher is None:
        raise UserError(f"{hydras[0].input_line}: this process has nothing to set; add hydra/launcher=joblib")
    return command


def _read_arguments(argv: list[str]) -> Namespace:
    """The words of a command line as Hydra sorts them. Options that this project does not use are refused."""
    try:
        arguments, unknown = hydras_parser().parse_known_args(argv)
    except ArgumentError as error:
        raise UserError(f"{error}; --help shows how it is written; {SPELLING}") from None
    refuse_repeated_options(argv, ("--config-dir", "-cd"))
    if unknown:
        apart = "=" in unknown[0] and not unknown[0].startswith("-")
        remedy = "options such as -m stand before all settings, or behind" if apart else f"no such option; {SPELLING}"
        raise UserError(f"{unknown[0][:200]}: {remedy}")
    for option in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, option):
            name = option.replace("_", "-")
            raise UserError(f"--{name}: is not for this command; options of your own come with --config-dir")
    modes = [f"--{mode}" for mode in ("run", "multirun", "cfg", "info") if getattr(arguments, mode)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)}: only one of them at a time")
    if arguments.resolve and not arguments.cfg:
        raise UserError("--resolve: says how --cfg job shows a line; add --cfg job, or leave it out")
    return arguments


def _refuse_override(override: Override, arguments: Namespace, known: Collection[str]) -> None:
    key, groups = override.key_or_group, groups_of(arguments.config_dir)
    written = (override.input_line or key)[:200]
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(
            f"{written}: keys can be set, not added or removed; write {key}=value, if --cfg job shows it; an option "
            "file of your own can have others, with --config-dir"
        )
    first = _node(key)
    if first == "hydra":
        _refuse_hydras(override, key, written, bool(arguments.multirun))
        return
    if first in (*schema.RECIPE, "assumed"):
        raise UserError(f"{written}: is what the file of a recipe says of itself, and not set on a command line")
    if first not in known:
        named = [name for name in keys_named(key, arguments.overrides, arguments.config_dir) if _node(name) in known]
        meant = f"; did you mean {' or '.join(named)}?" if named else nearest(first, known)
        raise UserError(f"{written}: no such key{meant}")
    if override.is_sweep_override() and not arguments.multirun:
        takes_list = key not in groups and not finding(key, [0.5])
        listed = f", or write a list as {key}=[…]" if takes_list else ""
        is_text = key in LIMITS and not finding(key, "a,b")
        quoted = f", or quote a text with a comma: \"{key}='{written.partition('=')[2]}'\"" if is_text else ""
        raise UserError(f"{written}: several values are a sweep; add -m{listed}{quoted}")
    for value in _values(override):
        if key in groups and value not in groups[key]:
            raise UserError(no_such_option(key, value, groups))
        if key not in groups and not (arguments.config_dir and first in groups):
            _refuse_value(key, value)


def _refuse_hydras(override: Override, key: str, written: str, sweep: bool) -> None:
    if not key.startswith(OF_HYDRA):
        raise UserError(
            f"{written}: is fixed; of Hydra's own, hydra/launcher=name and hydra.launcher.key=value can be set, sweeps "
            "are written -m key=a,b, own options come with --config-dir"
        )
    if override.is_sweep_override() or (key == "hydra/launcher" and not isinstance(override.value(), str)):
        raise UserError(f"{written}: a sweep has one launcher; write one, such as hydra/launcher=joblib")
    if not sweep:
        raise UserError(f"{written}: is for a sweep; add -m")


def _refuse_value(key: str, value: Any) -> None:
    """Refuse a value that is out of its limits; interpolations are checked once they are resolved."""
    for leaf, item in (schema.flat({key: value}) or {key: value}).items():
        if not (isinstance(item, str) and "${" in item) and (line := finding(leaf, item)):
            raise UserError(line)


def _refuse_range(override: Override) -> None:
    """Refuse a range without an end, before anybody goes through it."""
    values = cast(Any, override.value())
    if values.step == 0 or abs(values.stop - values.start) > LONGEST_SWEEP * abs(values.step):
        raise UserError(f"{override.input_line}: must be of at most {LONGEST_SWEEP} values, with a step other than 0")


def refuse_repeated_options(argv: Sequence[str], options: Sequence[str]) -> None:
    """Refuse an option with a value that stands twice on a command line, of which the last one would count.

    Args:
        argv: the words.
        options: its spellings.
    """
    given = [word for word in argv if word.partition("=")[0] in options]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: write it once, because only one of them can count")


def _tell_repeated(overrides: Sequence[Override]) -> None:
    """Say of each key and group that is set twice which one counts: the last, as in any command."""
    last: dict[str, str] = {}
    for override in reversed(overrides):
        key, written = override.key_or_group, override.input_line or ""
        for leaf in schema.flat({key: override.value()}) or [key]:
            if (later := last.setdefault(leaf, written)) != written:
                what = "does" if leaf == key else f"its {leaf} does"
                told = f"{written[:200]}: {what} not count, because {later[:200]} comes later"
                print(f"sam_repro: {told}", file=sys.stderr)


def _node(key: str) -> str:
    return re.split(r"[./]", key)[0]


def _values(override: Override) -> Iterable[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    if override.value_type is ValueType.RANGE_SWEEP:
        _refuse_range(override)
    if override.value_type in (ValueType.INTERVAL_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
        raise UserError(f"{override.input_line}: write the values one by one, such as {override.key_or_group}=a,b")
    return [getattr(value, "text", value) for value in override.sweep_iterator()]  # a quoted text is an object
