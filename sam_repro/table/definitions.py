"""Which definitions hold for a line of a recipe, and where each is from: paper, code, nobody, the line itself."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sam_repro.config import cases
from sam_repro.config.command_line import read_command
from sam_repro.config.compose import compose, parse_word
from sam_repro.config.identity import identity
from sam_repro.config.lines import check_config, compose_line, compose_lines, read_table
from sam_repro.config.options import comment_of, groups_of
from sam_repro.config.schema import APART, Resolved, facts_of, flat, keys_of
from sam_repro.errors import UserError
from sam_repro.limits import shown
from sam_repro.table.names import require_recipe

HEADER = ("part", "key", "value", "default", "from", "where or why")
STATED, CODE, ASSUMED, LINE, DEFAULT = "stated", "the authors' code", "assumed", "the line", "our default"
PARTS: dict[str, tuple[str, ...]] = {
    "data": ("dataset", "label_noise"),
    "network": ("architecture", "batch_norm_statistics"),
    "augmentation": ("augmentation",),
    "rule": ("optimizer", "rho", "rho_schedule", "m", "same_noise"),
    "base": ("base_optimizer", "lr", "lr_factors", "weight_decay", "weight_decay_in", "weight_decay_on", "clip_norm"),
    "schedule": ("schedule",),
    "loop": ("epochs", "batch_size", "drop_last", "max_steps", "label_smoothing", "seed"),
    "measure": ("report", "sharpness"),
    "numerics": keys_of("numerics"),
    "bookkeeping": keys_of("bookkeeping"),
}
"""Part of the table → the top-level keys and groups in it, in order."""
PART_OF = {node: part for part, nodes in PARTS.items() for node in nodes}


class Row(NamedTuple):
    """One definition: the value that holds, the one that the same options have without the recipe, and its source."""

    part: str
    key: str
    value: Any
    default: Any
    kind: str
    where: str

    def cells(self) -> tuple[str, ...]:
        """Its texts, in one line each."""
        words = (self.part, self.key, shown(self.value), shown(self.default), self.kind, self.where)
        return tuple(" ".join(word.split()) for word in words)


@dataclass(frozen=True)
class Definitions:
    """A recipe's line as it would run, and what stands beside it.

    Args:
        config: the resolved configuration.
        bare: that of the same options without the recipe.
        written: what stands on the line or in its cell: key → where.
        set_keys: the keys that the recipe or one of its cases sets, and says where from.
        groups: the groups of options.
        about: what the recipe's file says that it is.
    """

    config: Resolved
    bare: Resolved
    written: Mapping[str, str]
    set_keys: Collection[str]
    groups: Sequence[str]
    about: str

    def rows(self, everything: bool = False) -> list[Row]:
        """The definitions by part; `everything` also has the defaults that are idle, or as if the key did not exist."""
        defining = set(identity(self.config))
        nodes = {_node(key) for key in defining}
        defining |= {group for group in self.config["choices"] if group in nodes or group in APART}
        rows = [row for row in self._all_rows() if row.kind != DEFAULT or everything or row.key in defining]
        return sorted(rows, key=lambda row: list(PART_OF).index(_node(row.key)))

    def describe(self) -> list[str]:
        """What the recipe is, and the keys for which none of its cases held; of those that did, the rows tell."""
        unmet = [line for line in cases.describe(self.config) if not line.startswith("cases ")]
        return [*([f"about      {self.about}"] if self.about else []), *unmet]

    def _all_rows(self) -> Iterator[Row]:
        values, defaults = ({**config["choices"], **_leaves(config)} for config in (self.config, self.bare))
        for key, value in values.items():
            kind, where = self._source(key, value == defaults.get(key))
            if _node(key) in PART_OF and (kind != DEFAULT or _defines(key)):
                yield Row(PART_OF[_node(key)], key, value, defaults.get(key), kind, where)

    def _source(self, key: str, is_default: bool) -> tuple[str, str]:
        """What kind of source a value has, and where it says so."""
        assumed, origin = self.config["assumed"], self.config["origin"]
        nodes = [key] + [key[:dot] for dot in range(len(key) - 1, 0, -1) if key[dot] == "." and _defines(key)]
        if key in assumed and key in self.groups:
            return ASSUMED, assumed[key]  # what an option of this name stands for
        for node in nodes:
            if node in self.written and (node == key or node not in self.groups):
                return LINE, self.written[node]
        if at := origin.get("from", {}).get(key):
            return CODE if at.startswith("the code") else STATED, at
        for node in nodes:  # what is said of a node is not said of the option's own values in it
            if node in assumed and (node == key or key in self.set_keys or not is_default):
                return ASSUMED, assumed[node]
        if not is_default:
            return STATED, "the recipe itself"
        unmet = origin.get("no_case", {}).get(key)
        return DEFAULT, f"no case: {unmet}" if unmet else ""


def definitions(name: str, line: Sequence[str], extra_dir: str | None = None) -> Definitions:
    """The definitions of a recipe with further words of a line, which may name a cell of one of the recipe's tables.

    Raises:
        UserError: if there is no such recipe, or the line is none that would run.
    """
    require_recipe(name, extra_dir)
    words = [*line] if _table(name, line, extra_dir) else [f"experiment={name}", *line]
    read_command([*(["--config-dir", extra_dir] if extra_dir else []), *words])
    (composed,) = compose_lines([words], extra_dir)
    config, groups = check_config(composed.config), list(groups_of(extra_dir))
    options = {group: option for group, option in config["choices"].items() if group != "experiment"}
    bare = compose_line([f"{group}={option}" for group, option in options.items()], extra_dir)
    given = compose_line([f"dataset={options['dataset']}"], extra_dir)["choices"]  # a data set brings its network along
    start = {"dataset": compose_line([], extra_dir)["choices"]["dataset"]}
    cell = "cell {cell} of {table}: ".format(**config["origin"]) if "cell" in config["origin"] else ""
    recipe = compose([f"experiment={name}"], extra_dir).recipe
    set_keys = {*recipe["from"], *(key for case in recipe["cases"] for key in case.get("set", {}))}
    written = {word.partition("=")[0]: word if word in line else cell + word for word in composed.words}
    return Definitions(
        config, bare | {"choices": given | start}, written, set_keys, groups, comment_of("experiment", name, extra_dir)
    )


def _table(name: str, line: Sequence[str], extra_dir: str | None) -> str | None:
    """The table that the line names; words that cannot stand on a recipe's line are refused."""
    table = None
    for word, override in ((word, parse_word(word)) for word in line):
        if override.key_or_group == "experiment":
            raise UserError(f"{word}: the recipe stands before its line: python -m sam_repro.table recipe NAME [line]")
        if override.is_sweep_override():
            raise UserError(f"{word}: several values are a sweep; a recipe is shown for one line, write one value")
        if override.key_or_group == "table":
            table = str(override.value())
    if table and (recipe := read_table(table, extra_dir).recipe) != name:
        raise UserError(f"table = {table}: its recipe is {recipe or 'none'}, not {name}")
    return table


def _leaves(config: Resolved) -> dict[str, Any]:
    """The keys that can be set; a rule's rho is the top-level one, which is left out where the rule has none."""
    apart = {*APART} - {"sharpness"}
    leaves = flat({node: value for node, value in config.items() if node not in apart})
    rho = "optimizer.rho" if "optimizer.rho" in leaves else "rho"
    return {k: v for k, v in leaves.items() if not k.endswith(("._target_", "._partial_")) and k != rho}


def _defines(key: str) -> bool:
    """Whether it can change a number; another key has a row where the line or the recipe speaks of it."""
    return facts_of(key).role == "definition"


def _node(key: str) -> str:
    return key.partition(".")[0]
