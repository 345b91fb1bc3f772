"""What a recipe says for one configuration: the values of the cases that hold, and where all of its values are from.

Pure functions of plain values: `compose` asks with a composed configuration, and writes the answer into it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sam_repro import limits
from sam_repro.config.recipe import Case, Recipe, RecipeError
from sam_repro.config.schema import Plain, flat

CONSTANTS = ("dataset.mean", "dataset.std")
"""What a data set that the recipe does not name must bring along."""


@dataclass(frozen=True)
class Line:
    """What somebody wrote, on the command line or in a table's cell: the keys of values, and the groups of options."""

    keys: Collection[str] = ()
    groups: Collection[str] = ()

    def sets(self, key: str) -> bool:
        """Whether the line sets the key or a node above it."""
        return _is_at_or_below(key, self.keys)


@dataclass(frozen=True)
class Answer:
    """What a recipe says for one configuration: the values of its cases, and where all of its values are from."""

    sets: Plain
    assumed: dict[str, str]
    origin: dict[str, dict[str, str]]


def answer(
    recipe: Recipe, choices: Mapping[str, str], config: Plain, line: Line, brings_constants: bool = False
) -> Answer:
    """What the recipe says for a configuration.

    Args:
        recipe: the recipe.
        choices: group → chosen option.
        config: the plain configuration without the cases.
        line: what is stronger than the recipe.
        brings_constants: whether the data set is an option of one's own, with constants of its own.

    Raises:
        RecipeError: if a case sets a key that the chosen options lack, or the recipe does not speak for the data set.
    """
    leaves = flat(config)
    seen = leaves | dict(choices)
    sets: Plain = {}
    assumed, held, spoken, unstated = dict(recipe.assumed), dict[str, str](), set(recipe.sources), set[str]()
    for case in recipe.cases:
        if case.failing(seen):
            continue
        _refuse_lacking(recipe, case, leaves)
        new = {key: value for key, value in case.set.items() if not line.sets(key)}
        sets |= new
        held |= dict.fromkeys(new, case.source)
        spoken |= case.set.keys() | case.assumed.keys()
        unstated |= case.assumed.keys()
        assumed = {key: why for key, why in assumed.items() if key not in new} | case.assumed
    if not brings_constants and not all(line.sets(key) or key in sets for key in CONSTANTS):
        _refuse_strange_data(recipe, choices["dataset"])
    unmet = _unmet(recipe, seen, spoken, line)
    network, known = choices["architecture"], recipe.speaks_for.get("architecture")
    if known and network not in known:
        assumed["architecture"] = unmet["architecture"] = f"the paper has no {network}; its are {', '.join(known)}"
    assumed = {key: why for key, why in assumed.items() if not line.sets(key)}
    stronger = (*unstated, *line.keys)  # not what lies below a group of the line: the recipe's keys hold for any option
    stated = {
        key: at for key, at in recipe.sources.items() if key not in line.groups and not _is_at_or_below(key, stronger)
    }
    sources = {key: at for key, at in (stated | held).items() if key not in assumed}
    origin = {"from": sources, "cases": held, "no_case": unmet}
    return Answer(sets, assumed, {part: told for part, told in origin.items() if told})


def describe(config: Plain) -> list[str]:
    """The first lines of a run on its recipe's cases: those that held, and the keys for which none did."""
    leaves = flat({key: value for key, value in config.items() if key != "origin"})
    parts: dict[str, dict[str, list[str]]] = {"cases": {}, "no_case": {}}
    for part, groups in parts.items():
        for key, why in config["origin"].get(part, {}).items():
            value = f" {limits.shown(leaves[key])}" if part == "cases" else ""
            groups.setdefault(why, []).append(f"{key}{value}")
    held = [f"{', '.join(keys)} ({why})" for why, keys in parts["cases"].items()]
    unmet = [f"{', '.join(keys)}: {why}" for why, keys in parts["no_case"].items()]
    lines = {"cases": "; ".join(held), "no case": "; ".join(unmet)}
    return [f"{word:<10} {line}" for word, line in lines.items() if line]


def _unmet(recipe: Recipe, seen: Plain, spoken: Collection[str], line: Line) -> dict[str, str]:
    """The keys for which the recipe has cases but none holds, each with the choice that no case covers."""
    unmet = {}
    for key in dict.fromkeys(key for case in recipe.cases for key in case.set):
        if key in spoken or line.sets(key) or not _has(seen, key):
            continue
        cases = [(case.failing(seen), case) for case in recipe.cases if key in case.set]
        fewest = min(len(names) for names, _ in cases)
        nearest = [names for names, _ in cases if len(names) == fewest]
        fitting = {name for names, case in cases for name in case.when if name not in names}
        failing = dict.fromkeys(name for names in nearest for name in names)
        reasons = [name for name in failing if name not in fitting] or failing  # each fits some case, but none all
        unmet[key] = f"none for {', '.join(f'{name} {limits.shown(seen.get(name))}' for name in reasons)}"
    return unmet


def _refuse_lacking(recipe: Recipe, case: Case, leaves: Plain) -> None:
    for key in case.set:
        if not _has(leaves, key):
            node = "optimizer" if key == "rho" else key.partition(".")[0]
            raise RecipeError(
                f"experiment = {recipe.name}: a case of {case.source} sets {key}, which the chosen {node} lacks; "
                "say in its when which options have it"
            )


def _is_at_or_below(key: str, nodes: Collection[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def _has(leaves: Plain, key: str) -> bool:
    """Whether the chosen options have the key: each configuration has a rho, but not each rule."""
    return key in leaves and (key != "rho" or "optimizer.rho" in leaves)


def _refuse_strange_data(recipe: Recipe, dataset: str) -> None:
    known = recipe.speaks_for.get("dataset")
    if known and dataset not in known:
        raise RecipeError(
            f"dataset = {dataset}: {recipe.name} is for {', '.join(known)}; choose one of these, or give the "
            "constants of yours: dataset.mean=[…] dataset.std=[…]"
        )
