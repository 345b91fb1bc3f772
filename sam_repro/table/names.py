"""What a word of the table door may name: a table or a recipe, each refused where the other is meant."""

from collections.abc import Sequence

from sam_repro.config.lines import read_table
from sam_repro.config.options import groups_of, meant, require_option, table_names
from sam_repro.errors import UserError

DOOR = "python -m sam_repro.table"


def require_table(name: str, extra_dir: str | None, verbs: Sequence[str]) -> None:
    """Refuse a name that is no table.

    Args:
        name: of a table.
        extra_dir: a folder with options of one's own.
        verbs: that may stand in the place of a table.

    Raises:
        UserError: saying what it is instead, or the nearest name.
    """
    known = table_names(extra_dir)
    if name in known:
        return
    if name in groups_of(extra_dir)["experiment"]:
        raise UserError(f"{name}: is a recipe, and no table; {DOOR} recipe {name} shows it")
    there = f"; without a word the tables are listed, and the verbs are {', '.join(verbs)}"
    raise UserError(f"{name}: no such table or verb{meant(name, [*known, *verbs]) or there}")


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
