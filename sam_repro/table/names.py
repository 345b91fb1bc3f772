"""What a word of the table door may name: a table or a recipe, each refused where the other is meant."""

from collections.abc import Sequence
from typing import NoReturn

from sam_repro.config.lines import read_table
from sam_repro.config.options import groups_of, meant, require_option, table_names
from sam_repro.errors import UserError

DOOR = "python -m sam_repro.table"
TAKES = {
    "search": "one table, such as digits/search",
    "keep": "one table, such as digits/label_noise",
    "why": "a run, and a table if you like",
    "compare": "two runs, such as outputs/runs/main/…/seed=0",
    "diff": "two recipes, such as foret2021/cifar",
    "recipe": "a recipe, and a line for it if you like",
}
"""Verb → what stands behind it."""


def refuse_words(words: Sequence[str], usage: str) -> NoReturn:
    """Refuse words that say nothing together.

    Args:
        words: of the command line.
        usage: the lines that would say something.
    """
    first, *given = words
    if first in TAKES and not given:
        raise UserError(f"{first}: of what? It is one of\n{usage}")
    if first in TAKES:
        raise UserError(f"{first}: takes {TAKES[first]}; {len(given)} given: {' '.join(given)}")
    if all("=" in word for word in given):
        line = " ".join(given)
        raise UserError(f"{line}: is for training: python -m sam_repro.train table={first} {line}")
    raise UserError(f"{' '.join(words)}: cannot be read; it is one of\n{usage}")


def require_table(name: str, extra_dir: str | None) -> None:
    """Refuse a name that is no table.

    Args:
        name: of a table.
        extra_dir: a folder with options of one's own.

    Raises:
        UserError: saying what it is instead, or the nearest name.
    """
    known = table_names(extra_dir)
    if name in known:
        return
    if name in groups_of(extra_dir)["experiment"]:
        raise UserError(f"{name}: is a recipe, and no table; {DOOR} recipe {name} shows it")
    there = f"; without a word the tables are listed, and the verbs are {', '.join(TAKES)}"
    raise UserError(f"{name}: no such table or verb{meant(name, [*known, *TAKES]) or there}")


def require_recipe(name: str, extra_dir: str | None) -> None:
    """Refuse a name that is no recipe.

    Raises:
        UserError: saying what it is instead, or the nearest name.
    """
    if name in table_names(extra_dir) and name not in groups_of(extra_dir)["experiment"]:
        recipe = read_table(name, extra_dir).recipe
        what = f"recipe {recipe} table={name} cell=0 shows a cell of it" if recipe else f"{name} shows it"
        raise UserError(f"{name}: is a table, and no recipe; {DOOR} {what}")
    require_option("experiment", name, extra_dir)
