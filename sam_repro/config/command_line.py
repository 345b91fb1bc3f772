"""A command line, read and checked before anything is composed."""

import re
from argparse import ArgumentError, Namespace
from collections.abc import Collection, Iterable
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from sam_repro import limits
from sam_repro.config import schema
from sam_repro.config.checks import finding
from sam_repro.config.options import groups_of, nearest
from sam_repro.errors import UserError

SPELLING = "settings are written key=value, such as rho=0.1"
FIXED = ("hydra.mode", "hydra.searchpath", "hydra.sweeper.params", "hydra/sweeper")


def read_arguments(argv: list[str]) -> Namespace:
    """The words of a command line as Hydra sorts them; what this project has no use for is refused."""
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


def check_overrides(arguments: Namespace, keys: Collection[str] = ()) -> list[Override]:
    """What can be refused before Hydra starts: keys that nobody has, options that do not exist, values out of range.

    `keys` are those that may stand there, if not all.
    """
    overrides = [_parsed(override) for override in arguments.overrides]
    groups = groups_of(arguments.config_dir)
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
            raise UserError(f"{written}: no such key{nearest(first, known)}")
        if override.is_sweep_override() and not arguments.multirun:
            takes_list = key not in groups and not finding(key, [0.5])
            listed = f", or write a list as {key}=[…]" if takes_list else ""
            raise UserError(f"{written}: several values are a sweep; add -m{listed}")
        for value in _values(override):
            if key in groups and value not in groups[key]:
                raise UserError(f"{key} = {limits.shown(value)}: no such option{nearest(str(value), groups[key])}")
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
        if not (isinstance(item, str) and "${" in item) and (line := finding(leaf, item)):
            raise UserError(line)


def _values(override: Override) -> Iterable[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    if override.value_type in (ValueType.INTERVAL_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
        raise UserError(f"{override.input_line}: write the values one by one, such as {override.key_or_group}=a,b")
    return override.sweep_iterator()
