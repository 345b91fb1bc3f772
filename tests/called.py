"""A door's command, called in this process as the interpreter would call it."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sam_repro.run.record import write_record


class Said(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def command(main: Callable[[], None], folder: Path, *words: str) -> Said:
    """Call `main` in a folder with these words on its command line."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["sam_repro", *words])
        with pytest.raises(SystemExit) as end:
            main()
    return Said(int(end.value.code or 0), out.getvalue(), err.getvalue())


def with_other(words: list[str], setting: str) -> list[str]:
    """A command line with this setting in the place of its own of that key."""
    key, _, _ = setting.partition("=")
    return [*(word for word in words if not word.startswith(f"{key}=")), setting]


def home_of(folder: Path) -> Path:
    """The home of the one run in a folder."""
    (home,) = folder.glob("outputs/runs/*/*/seed=[0-9]")
    return home


def rewrite(file: Path, change: Callable[[Any], object]) -> None:
    """Change a record and seal it again, as a run would have written it."""
    content = json.loads(file.read_text())
    seal = content.pop("sha256", None)
    change(content)
    if seal is None:
        file.write_text(json.dumps(content))
    else:
        write_record(file, content)
