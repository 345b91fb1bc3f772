"""Hydra: from the words of a line to a configuration."""

import math
import pickle
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sam_repro.config import checks, schema
from sam_repro.config.identity import is_ours
from sam_repro.config.named_files import hash_named_files
from sam_repro.config.options import (
    config_dir,
    groups_of,
    is_in_an_option,
    meant,
    nearest,
    option_files,
    options_with,
)
from sam_repro.config.schema import Resolved, flat
from sam_repro.config.table_file import quote
from sam_repro.errors import UserError
from sam_repro.limits import LONGEST, shown

__all__ = [
    "SPELLING",
    "Override",
    "Unresolved",
    "ValueType",
    "compose",
    "explain",
    "hydras_parser",
    "keys_named",
    "parse_word",
    "read_yaml",
]

SPELLING = "settings are written key=value, such as rho=0.1"
SIGNS = frozenset("=,:()[]{}&'\"")
NOT_THERE = re.compile(r"Could not override '([^']+)'")
TOP = OmegaConf.structured(schema.Config)
"""The top-level keys with their types, and those of a recipe, two of which no Python field can be called."""
with open_dict(TOP):
    TOP.update({"for": {}, "cases": [], "from": {}})
ConfigStore.instance().store(name="schema", node=TOP)


@dataclass(frozen=True)
class Unresolved:
    """A composed configuration, before its interpolations are resolved.

    Args:
        config: the nodes and keys.
        choices: group → chosen option.
        recipe: what the recipe says of itself, by `schema.RECIPE`.
        origin: where values are from.
        assumed: key → where its value is from, because no paper states it.
    """

    config: DictConfig
    choices: dict[str, str]
    recipe: Resolved
    origin: Resolved
    assumed: dict[str, str]

    def set(self, key: str, value: Any) -> None:
        """Give a key another value.

        Raises:
            OmegaConfBaseException: if there is no such key, or it takes no such value.
        """
        OmegaConf.update(self.config, key, value, merge=False)

    def is_open(self, key: str) -> bool:
        """Whether a top-level key is left to who runs it."""
        return OmegaConf.is_missing(self.config, key)

    def plain(self) -> Resolved:
        """Its plain values."""
        container = OmegaConf.to_container(self.config, resolve=True, throw_on_missing=False, enum_to_str=True)
        return dict(_for_json(container))

    def resolved(self) -> Resolved:
        """The configuration of a run."""
        config = {"choices": self.choices} | self.plain() | {"assumed": self.assumed, "origin": self.origin}
        files = hash_named_files(config)
        return config | ({"files": files} if files else {})

    def shown(self, resolve: bool) -> str:
        """It as YAML, with what no paper states; unless it is resolved, interpolations stand as they are written."""
        assumed = OmegaConf.to_yaml({"assumed": self.assumed}) if self.assumed else ""
        return OmegaConf.to_yaml(self.config, resolve=resolve) + assumed


def compose(words: Sequence[str], extra_dir: str | None = None) -> Unresolved:
    """The configuration of a line: the options that it chooses, then the keys that it sets.

    Args:
        words: group=option and key=value.
        extra_dir: a folder with options of one's own.

    Raises:
        HydraException, OmegaConfBaseException: if Hydra cannot; `explain` says it in a line.
    """
    groups = groups_of(extra_dir)
    overrides = [parse_word(word) for word in words]
    chosen = tuple(o.input_line or "" for o in overrides if o.key_or_group in groups)
    base: Unresolved = pickle.loads(_base(chosen, extra_dir, option_files(extra_dir)))
    keys = [o for o in overrides if o.key_or_group not in groups]
    for override in keys:
        _refuse_value_of_a_node(base.config, override)
    _open_own_nodes(base)
    ConfigLoaderImpl._apply_overrides_to_config(keys, base.config)
    if base.is_open("rho") and "rho" in base.config.optimizer:  # what follows an open radius is open, too
        base.config.optimizer.rho = schema.OPEN
    return base


def _refuse_value_of_a_node(config: DictConfig, override: Override) -> None:
    """Refuse one value where there are keys; what a node builds is not one of them."""
    key, value = override.key_or_group, override.value()
    node = None if isinstance(value, dict) or "${" in repr(value) else OmegaConf.select(config, key)
    names = [str(name) for name in node] if isinstance(node, DictConfig) else []
    if below := [f"{key}.{name}" for name in names if not name.startswith("_")]:
        raise UserError(f"{key} = {shown(value)}: has keys of its own; set {', '.join(below)}")


def _open_own_nodes(base: Unresolved) -> None:
    """A user's option for other code may be given arguments that its file does not name; the dry build tries them.

    A shipped option for torch's code may not, because such an argument could have no effect: the groups have the decay.
    """
    for name in checks.BUILT:
        node = OmegaConf.select(base.config, name)
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        group = name.partition(".")[0]
        shipped = (config_dir() / group / f"{base.choices.get(group)}.yaml").exists()
        if isinstance(target, str) and not is_ours(target) and not shipped:
            OmegaConf.set_struct(node, False)


@lru_cache(maxsize=256)
def _base(chosen: tuple[str, ...], extra_dir: str | None, files: tuple[Any, ...]) -> bytes:
    """The configuration of some options, pickled, because each line changes its own.

    `files` are there for the cache, which must see that one of them changed.
    """
    path = f"file://{Path(extra_dir).absolute()}" if extra_dir else ""
    search = [f"hydra.searchpath=[{quote(path)}]"] if extra_dir else []
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        loader.repository = _ReadOnce(loader.repository, _read_of(extra_dir, files))
        try:
            config = hydra.compose("config", [*chosen, *search], return_hydra_config=True)
        except (ValueError, TypeError, AttributeError, AssertionError) as error:  # of a file that Hydra did not expect
            raise UserError(f"{' '.join(chosen)}: {_one_line(error)}; correct the files of these options") from None
    nodes = schema.Config.__dataclass_fields__
    found = {group: name for group, name in config.hydra.runtime.choices.items() if group in nodes and name is not None}
    if lacking := [group for group in checks.OPTIONS if not isinstance(found.get(group), str)]:
        raise UserError(f"{' '.join(chosen)}: no {lacking[0]} is chosen; add one, such as {lacking[0]}=…")
    if (recipe := config.hydra.runtime.choices.get("experiment")) is not None:
        found["experiment"] = recipe
    with open_dict(config):
        if recipe is not None:
            _drop_lacking(config, [word for word in chosen if not word.startswith("experiment=")], extra_dir, files)
        del config["hydra"]
        apart: Any = {key: _plain(config.pop(key)) for key in (*schema.RECIPE, "assumed")}
    return pickle.dumps(Unresolved(config, found, recipe=apart, origin={}, assumed=apart.pop("assumed")))


class _ReadOnce(CachingConfigRepository):
    """Option files that are read once for all lines, because Hydra would parse each of them anew for every line.

    Args:
        delegate: reads the files.
        read: what has been read, by path; pickled, because Hydra moves the nodes into what it composes.
    """

    def __init__(self, delegate: Any, read: dict[str, bytes]) -> None:
        super().__init__(delegate)
        self.read = read

    def __deepcopy__(self, memo: object) -> "_ReadOnce":
        """Itself: Hydra copies its repository for every line, in order to keep there what it has read."""
        return self

    def load_config(self, config_path: str) -> Any:
        if config_path not in self.read:
            self.read[config_path] = pickle.dumps(self.delegate.load_config(config_path))
        return pickle.loads(self.read[config_path])


@lru_cache(maxsize=8)
def _read_of(extra_dir: str | None, files: tuple[Any, ...]) -> dict[str, bytes]:
    """What has been read of these files."""
    return {}


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _drop_lacking(config: DictConfig, chosen: Sequence[str], extra_dir: str | None, files: tuple[Any, ...]) -> None:
    """Drop what a recipe sets of options that the line chose instead of its own, and that these do not have.

    An option is composed alone, because what it has does not hang on the others, and other lines choose it, too.
    """
    for word in chosen:
        if (node := word.partition("=")[0]) in schema.Config.__dataclass_fields__:
            own = pickle.loads(_base((word,), extra_dir, files)).config[node]
            for key in [key for key in config[node] if key not in own]:
                del config[node][key]


def parse_word(written: str) -> Override:
    """A word of a line as Hydra reads it; a path needs no quotes for the = in it, which the home of each run has.

    Raises:
        UserError: if it cannot be read.
    """
    key, _, value = written.partition("=")
    path = "/" in value and SIGNS.intersection(value) == {"="} and not value.endswith("\\")
    try:
        return OverridesParser.create().parse_override(f"{key}='{value}'" if path else written)
    except (HydraException, ValueError):  # Python reads no integer of more than 4300 digits
        raise UserError(f"{written[:200]}: cannot be read; {SPELLING}{_remedy(written)}") from None


def _remedy(written: str) -> str:
    """The word in quotes, where it can be read so."""
    key, equals, value = written.partition("=")
    if not equals:
        return ", without spaces; a text with spaces needs quotes of its own, such as cell=\"'sam 0.2'\""
    word = f"{key}={quote(value)}"
    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, ValueError):
        return ""
    shell = f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)
    return f"; a text with such signs needs quotes of its own: {shell}" if len(word) <= LONGEST else ""


def hydras_parser() -> Any:
    """Hydra's own parser of options such as -m and --cfg."""
    parser = get_args_parser()
    parser.exit_on_error = False
    return parser


def read_yaml(file: Path, resolve: bool = True) -> Any:
    """The plain content of a YAML file, its interpolations resolved or as they are written.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(file), resolve=resolve)
    except (OmegaConfBaseException, YAMLError, UnicodeError, OSError) as error:
        raise UserError(f"{file}: {_one_line(error)}") from None


@contextmanager
def explain(words: Sequence[str], extra_dir: str | None, where: str = "") -> Iterator[None]:
    """Turns Hydra's report of a key or value that does not fit into one line with the remedy.

    Args:
        words: the line that is being composed.
        extra_dir: its folder of options.
        where: what the line is of, for a table's cell.
    """
    before = f"{where}: " if where else ""
    try:
        yield
    except YAMLError as error:
        raise UserError(f"a file of --config-dir is no YAML: {' '.join(str(error).split())}") from None
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
        if missing := NOT_THERE.search(str(error)):
            raise UserError(f"{before}{_no_such_key(key or missing[1], words, extra_dir)}") from None
        said = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
        said = said.partition(" Config search path:")[0]
        remedy = "; ${…} may name the keys that --cfg job shows" if "nterpolation" in said else ""
        remedy = f"; {SPELLING}" if "could not be converted" in said else remedy
        raise UserError(f"{before}{key}: {said}{remedy}" if key else f"{before}{said}{remedy}") from None


def _no_such_key(key: str, words: Sequence[str], extra_dir: str | None) -> str:
    """The message for a key that the chosen options do not have."""
    key = key[:200]
    node, dot, word = key.rpartition(".")
    known = [leaf.removeprefix(node + dot) for leaf in _keys(words, extra_dir) if leaf.startswith(node + dot)]
    if others := options_with(node, word, extra_dir):
        return f"{key}: no such key; it is a key of {node}={', '.join(others)}"
    level = {leaf.partition(".")[0] for leaf in known}
    return f"{key}: no such key{meant(word, level, node + dot) or nearest(word, known, node + dot)}"


def keys_named(name: str, words: Sequence[str], extra_dir: str | None) -> list[str]:
    """The keys of a line's options that end in this name; none where the options cannot be composed."""
    if not is_in_an_option(name, extra_dir):  # composing takes longer than all else that is said of a key
        return []
    with suppress(UserError, HydraException, OmegaConfBaseException, YAMLError):
        return [key for key in _keys(words, extra_dir) if key.endswith(f".{name}")]
    return []


def _keys(words: Sequence[str], extra_dir: str | None) -> list[str]:
    """The keys that the options of a line have."""
    groups = groups_of(extra_dir)
    chosen = [word for word in words if word.partition("=")[0] in groups and "," not in word]
    leaves = flat(compose(chosen, extra_dir).plain())
    return [leaf for leaf in leaves if not leaf.endswith(("_target_", "_partial_"))]


def _for_json(value: Any) -> Any:
    """The same with "inf" for ∞ and "nan" for no number, which JSON cannot write."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\n    ")[0].split()).partition(" Config search path:")[0]
