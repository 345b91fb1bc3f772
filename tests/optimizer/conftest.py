"""The rules under test are the files of configs/optimizer: a new one is tested without an edit here."""

import contextlib
from functools import partial

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from sam_repro.config.lines import compose_line
from sam_repro.config.options import config_dir
from sam_repro.optimizer import Rule
from sam_repro.vectors import Vector, rademacher

FILES = sorted((config_dir() / "optimizer").glob("*.yaml"))
MakeRule = partial[Rule]


def _made(name: str) -> MakeRule:
    return instantiate(compose_line([f"optimizer={name}"])["optimizer"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rule_name" in metafunc.fixturenames:
        without = "rho" not in metafunc.fixturenames
        names = [file.stem for file in FILES if without or "rho: ${rho}" in file.read_text()]
        metafunc.parametrize("rule_name", names)


@pytest.fixture(scope="session")
def rules() -> dict[str, MakeRule]:
    """By name: (base, settings to change) → the rule of that file; one that cannot be imported is left out."""
    made = {}
    for file in FILES:
        with contextlib.suppress(InstantiationException):
            made[file.stem] = _made(file.stem)
    return made


@pytest.fixture
def make_rule(rules: dict[str, MakeRule], rule_name: str) -> MakeRule:
    """One of `rules` after the other; one that cannot be imported says so in its own tests."""
    return rules.get(rule_name) or _made(rule_name)


@pytest.fixture
def rho(make_rule: MakeRule) -> float:
    """The rule's own radius; a test that takes it runs for the rules that have one."""
    return make_rule.keywords["rho"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Vector]:
    """The sign vectors that SGDHESS draws, in their order."""
    seen: list[Vector] = []

    def recorded(like: Vector, generator: torch.Generator | None = None) -> Vector:
        seen.append(rademacher(like, generator))
        return seen[-1]

    monkeypatch.setattr("sam_repro.oracle.products.rademacher", recorded)
    monkeypatch.setattr("sam_repro.optimizer.sgdhess.rademacher", recorded)
    return seen
