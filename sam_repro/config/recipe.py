"""What a recipe's file says of itself: for which data sets and networks, in which cases, and where that is from."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sam_repro import limits
from sam_repro.config.schema import RECIPE, Plain, flat

SPEAKS_FOR = ("dataset", "architecture")
CASE = ("when", "set", "from", "assumed")


class RecipeError(ValueError):
    """A recipe that contradicts itself, or that does not cover the chosen options."""


@dataclass(frozen=True)
class Case:
    """Where all of `when` holds, the keys of `set` get these values.

    Args:
        when: choice or key → what it must be; a list is any of these.
        set: key → value.
        source: where the paper or its code says so.
        assumed: key → where its value is from, because neither the paper nor its code states it for this case.
    """

    when: Plain
    set: Plain
    source: str
    assumed: dict[str, str]

    def failing(self, seen: Mapping[str, Any]) -> list[str]:
        """The keys of `when` that are something else."""
        return [key for key, wanted in self.when.items() if not _is_any_of(seen.get(key), wanted)]


@dataclass(frozen=True)
class Recipe:
    """A recipe's file, as far as it speaks of itself.

    Args:
        name: of the experiment.
        speaks_for: "dataset", "architecture" → options; a missing one is all of them.
        cases: in order, a later one over an earlier one.
        sources: key → where the paper or its code states the recipe's value.
        assumed: key → where the recipe's value is from, because neither states it.
    """

    name: str
    speaks_for: dict[str, list[str]]
    cases: tuple[Case, ...]
    sources: dict[str, str]
    assumed: dict[str, str]


def parse_recipe(name: str, config: Plain, options: Mapping[str, Collection[str]]) -> Recipe:
    """The recipe in a plain configuration that still has the keys of `RECIPE`.

    Args:
        name: of the experiment.
        config: all of it.
        options: group → its options.

    Raises:
        RecipeError: if it is not a recipe; one line.
    """
    where, leaves = f"experiment = {name}", flat({key: value for key, value in config.items() if key not in RECIPE})
    if not isinstance(config["cases"], list):
        raise RecipeError(f"{where}: cases = {limits.shown(config['cases'])}: must be a list of when, set, from")
    speaks_for = {key: as_list(value) for key, value in _mapping(config["for"], f"{where}: for", SPEAKS_FOR).items()}
    cases = tuple(_case(fields, f"{where}: case {n}") for n, fields in enumerate(config["cases"], start=1))
    touched = {key for case in cases for key in case.set}
    for key, wanted in (*speaks_for.items(), *(pair for case in cases for pair in case.when.items())):
        if key in touched:
            raise RecipeError(f"{where}: when looks at {key}, which a case sets; look at keys that no case sets")
        if key.partition(".")[0] not in options:
            _refuse_unknown(f"{where}: when looks at {key}: no such key", key, leaves)
        for option in as_list(wanted) if key in options else ():
            _refuse_unknown(f"{where}: {key} = {limits.shown(option)}: no such option", option, options[key])
    return Recipe(name, speaks_for, cases, *(_texts(config[key], f"{where}: {key}") for key in ("from", "assumed")))


def as_list(value: Any) -> list[Any]:
    """A list as it is, any other value as the only one of a list."""
    return value if isinstance(value, list) else [value]


def _refuse_unknown(message: str, word: Any, known: Collection[str]) -> None:
    if word not in known:
        near = difflib.get_close_matches(str(word), known, n=1)
        raise RecipeError(f"{message}; did you mean {near[0]}?" if near else f"{message}; there are {', '.join(known)}")


def _case(fields: Any, where: str) -> Case:
    fields = _mapping(fields, where, CASE)
    when, sets = _mapping(fields.get("when"), f"{where}: when"), _mapping(fields.get("set", {}), f"{where}: set")
    if nodes := [key for key, value in sets.items() if isinstance(value, dict)]:
        raise RecipeError(f"{where}: set {nodes[0]}: must be a value, not keys below it; write {nodes[0]}.key: value")
    source = fields.get("from", "")
    if not isinstance(source, str) or bool(sets) != bool(source):
        raise RecipeError(f"{where}: from = {limits.shown(source)}: must say where set is from, such as from: Table 6")
    return Case(when, sets, source, _texts(fields.get("assumed", {}), f"{where}: assumed"))


def _texts(value: Any, where: str) -> dict[str, str]:
    for key, text in _mapping(value, where).items():
        if not isinstance(text, str) or not text:
            raise RecipeError(f"{where}: {key} = {limits.shown(text)}: must be a text, where the value is from")
    return dict(value)


def _mapping(value: Any, where: str, known: Collection[str] | None = None) -> Plain:
    if not isinstance(value, dict):
        raise RecipeError(f"{where} = {limits.shown(value)}: must be a mapping, key: value")
    if known and (unknown := [key for key in value if key not in known]):
        raise RecipeError(f"{where}: {unknown[0]}: no such field; there are {', '.join(known)}")
    return value


def _is_any_of(value: Any, wanted: Any) -> bool:
    """Numbers compare as numbers, and true is no number."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in as_list(wanted))
