"""Where option files lie, and what they are called."""

import codecs
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from sam_repro.errors import UserError
from sam_repro.limits import shown


def require_option(group: str, name: str, extra_dir: str | None = None) -> None:
    """Refuse a name that is no option of the group.

    Raises:
        UserError: with the nearest name, or all of them.
    """
    groups = groups_of(extra_dir)
    if name not in groups.get(group, []):
        raise UserError(no_such_option(group, name, groups))


def no_such_option(group: str, name: Any, groups: Mapping[str, Sequence[str]]) -> str:
    """The message for a name that is no option of its group: the one group that has it, or else the nearest name."""
    others = [other for other, options in groups.items() if name in options]
    meant = f"; {others[0]} has it: write {others[0]}={name}" if len(others) == 1 else ""
    return f"{group} = {shown(name)}: no such option{meant or nearest(str(name), groups.get(group, []))}"


def comment_of(group: str, name: str, extra_dir: str | None = None) -> str:
    """What the file of an option says that it is: its first comment, in one line."""
    file = next(file for root in roots_of(extra_dir) if (file := root / f"{group}/{name}.yaml").exists())
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @"))
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def table_names(extra_dir: str | None = None) -> list[str]:
    """The names of all tables."""
    return groups_of(extra_dir).get("table", [])


def config_dir() -> Path:
    """The configs/ folder: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def groups_of(extra_dir: str | None) -> dict[str, list[str]]:
    """The options of every group."""
    groups: dict[str, list[str]] = {}
    for root in roots_of(extra_dir):
        for file in sorted(_files(root)):
            group, below, option = file.removesuffix(".yaml").partition("/")
            if below:
                groups.setdefault(group, []).append(option)
    return groups


def is_in_an_option(key: str, extra_dir: str | None) -> bool:
    """Whether the file of an option has a key of this name, at any depth."""
    return any(options_with(group, key, extra_dir) for group in groups_of(extra_dir))


def options_with(group: str, key: str, extra_dir: str | None) -> list[str]:
    """The options of a group whose file has a key of this name, at any depth."""
    name = re.compile(rf"^ *{re.escape(key.rpartition('.')[2])}:", re.MULTILINE)
    return [
        option
        for option in groups_of(extra_dir).get(group, [])
        for root in roots_of(extra_dir)
        if (file := root / f"{group}/{option}.yaml").exists()
        and name.search(file.read_text(encoding="utf-8", errors="replace"))
    ]


def option_files(extra_dir: str | None) -> tuple[tuple[str, int], ...]:
    """The user's own option files and when they last changed; ours do not change while a command runs."""
    own = sorted(Path(extra_dir).glob("**/*.yaml")) if extra_dir else []
    return tuple((str(file), file.stat().st_mtime_ns) for file in own)


def roots_of(extra_dir: str | None) -> list[Path]:
    """The search path for options: the user's folder, then ours.

    A user's file must not have the name of a shipped one, because Hydra would silently ignore it.
    """
    if extra_dir is None:
        return [config_dir()]
    if not extra_dir or not Path(extra_dir).is_dir():
        raise UserError(f"--config-dir {shlex.quote(extra_dir)}: no such folder")
    if taken := _files(Path(extra_dir)) & _files(config_dir()):
        raise UserError(f"{Path(extra_dir) / min(taken)}: sam_repro has an option of this name; give it another one")
    own = sorted(Path(extra_dir).glob("**/*.yaml"))
    if odd := [file for file in own if not file.is_file()]:  # a pipe would hold who reads it
        raise UserError(f"{odd[0]}: is no plain file; take it away, or give it another ending")
    if marked := [file for file in own if _has_mark(file)]:
        raise UserError(
            f"{marked[0]}: begins with a byte order mark, behind which Hydra sees no first line; save it without"
        )
    return [Path(extra_dir), config_dir()]


def _files(root: Path) -> frozenset[str]:
    """The option files below a folder; ours are listed once, because they do not change while a command runs."""
    return _shipped() if root == config_dir() else _listed(root)


@cache
def _shipped() -> frozenset[str]:
    return _listed(config_dir())


def _listed(root: Path) -> frozenset[str]:
    return frozenset(file.relative_to(root).as_posix() for file in root.glob("**/*.yaml"))


def _has_mark(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as content:  # one that cannot be read is told of where it is chosen
        return content.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    return False


def meant(word: str, known: Iterable[str], node: str = "") -> str:
    """The known words below this one, or else the nearest, whatever its capitals; nothing where none is near."""
    names = {name.lower(): name for name in sorted(known)}
    if below := [name for name in names.values() if name.startswith((f"{word}/", f"{word}."))]:
        return f"; there are: {', '.join(node + name for name in below)}"
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {node}{names[close[0]]}?" if close else ""


def nearest(word: str, known: Iterable[str], node: str = "") -> str:
    """The known word that was probably meant, or else all of them; `node` is what stands before each of them."""
    known = sorted(set(known))
    if hint := meant(word, known, node):
        return hint
    if known:
        return f"; there are: {', '.join(node + word for word in known)}"
    return f"; {node.rstrip('.')} has none that can be set: an option file of your own can give it, with --config-dir"
