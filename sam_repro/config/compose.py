"""Hydra: from a line to a resolved configuration."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from sam_repro.config import schema
from sam_repro.config.checks import check
from sam_repro.config.named_files import named_files
from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError

OPTIONAL = ("experiment", "table")
"""Groups of which none may be chosen."""
ADDED = "++"
"""How Hydra marks a setting whose key may be missing; nobody types it, for `_checked_overrides` refuses it."""
NOT_THERE = re.compile(r"Could not override '([^']+)'")
ConfigStore.instance().store(name="schema", node=schema.Config)


def check_config(config: Resolved) -> Resolved:
    """The configuration, if it may run.

    Raises:
        UserError: with a line for each thing that is wrong.
    """
    if findings := check(config):
        raise UserError("\n".join(findings))
    return config


def resolve(config: DictConfig, choices: dict[str, Any]) -> Resolved:
    """Plain values of a composed configuration, with the options chosen under `choices`."""
    ours = OmegaConf.masked_copy(config, list(schema.Config.__dataclass_fields__))
    plain: Any = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True, enum_to_str=True)
    chosen = {group: choice for group, choice in choices.items() if group in (*plain, *OPTIONAL) and choice is not None}
    resolved = {"choices": chosen} | _for_json(plain)
    files = named_files(resolved)
    return resolved | ({"files": files} if files else {})


def _for_json(value: Any) -> Any:
    """The same with "inf" for ∞ and "nan" for no number, which JSON cannot write."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def hydra_apart() -> Iterator[None]:
    """Inside the block Hydra is as if it had not been started: a job that it runs may compose a configuration too."""
    started = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = started


def frame(line: Sequence[str]) -> list[str]:
    """The line as Hydra composes it: where it names a table, every key of a group may stand on it.

    What comes of such a line is thrown away, for the cell says which options there are: `_own` composes it.
    """
    if not any(override.startswith("table=") for override in line):
        return list(line)
    return [
        ADDED + override if "." in override.partition("=")[0] and not override.startswith("hydra.") else override
        for override in line
    ]
