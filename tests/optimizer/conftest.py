"""The rules under test are the files of configs/optimizer: a new one is tested without an edit here."""

from functools import partial

import pytest
from hydra.utils import instantiate

from sam_repro.compose import composed, config_dir
from sam_repro.optimizer import Rule

FILES = sorted((config_dir() / "optimizer").glob("*.yaml"))
MakeRule = partial[Rule]


class Rules(dict[str, MakeRule]):
    def __missing__(self, name: str) -> MakeRule:
        self[name] = instantiate(composed([f"optimizer={name}"])["optimizer"])
        return self[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rule_name" in metafunc.fixturenames:
        without = "rho" not in metafunc.fixturenames
        names = [file.stem for file in FILES if without or "rho: ${rho}" in file.read_text()]
        metafunc.parametrize("rule_name", names)


@pytest.fixture(scope="session")
def rules() -> dict[str, MakeRule]:
    """By name: (base, settings to change) → the rule of that file; one that cannot be imported fails its own tests."""
    return Rules()


@pytest.fixture
def make_rule(rules: dict[str, MakeRule], rule_name: str) -> MakeRule:
    """One of `rules` after the other."""
    return rules[rule_name]


@pytest.fixture
def rho(make_rule: MakeRule) -> float:
    """The rule's own radius; a test that takes it runs for the rules that have one."""
    return make_rule.keywords["rho"]
