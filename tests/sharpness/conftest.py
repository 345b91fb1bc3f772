"""A small network and what it was trained on; the tests of this folder import their toys by name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toys import Net, make_subject

from sam_repro.sharpness import Subject


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def subject(net: Net) -> Subject:
    return make_subject(net)
