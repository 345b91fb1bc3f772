"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import sam_repro

PACKAGE = Path(sam_repro.__file__).parent
FILES = [file.relative_to(PACKAGE.parent) for file in sorted(PACKAGE.rglob("*.py")) if ">>> " in file.read_text()]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_run(file: Path) -> None:
    found = doctest.testmod(importlib.import_module(".".join(file.with_suffix("").parts)))
    assert (found.failed, found.attempted > 0) == (0, True)


def test_there_are_examples() -> None:
    assert {"oracle.py", "curvature.py"} <= {file.name for file in FILES}
