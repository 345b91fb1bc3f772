"""What the top-level keys may be, and what cannot be together: known without torch."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from sam_repro.config import schema
from sam_repro.config.checks import BUILT, LIMITS, check, finding
from sam_repro.config.lines import compose_line
from sam_repro.config.options import config_dir
from sam_repro.config.schema import FACTS, LabelNoise, flat, neutral_values

NODES = compose_line([])
OPTIONS = sorted(
    f"{file.parent.name}={file.stem}" for file in config_dir().glob("*/*.yaml") if file.parent.name in NODES
)
OPTIONAL = {
    "dataset.shuffle_buffer",
    "rho",
    "m",
    "clip_norm",
    "max_steps",
    "threads",
    "micro_batch",
    "record_every",
    "diagnose_every",
    "dataset.shape",
    "sharpness.every",
}
ACCEPTED = {
    ("data_dir", "no such value"),
    ("name", -1),
    ("name", True),
    *((key, None) for key in (*OPTIONAL, "cell")),
    ("cell", "no such value"),
    ("dataset.cache", "no such value"),
    ("dataset.cache", None),
}
WRONG = [None, "", "no such value", math.nan, -math.inf, math.inf, -1, [], [[]], ["a"]]
DEFAULT = compose_line([])
LEAVES = flat(DEFAULT)


@pytest.fixture(scope="module")
def options():
    """What every option composes to."""
    return {option: compose_line([option]) for option in OPTIONS}


def nested(leaves):
    """The configuration with these dotted keys."""
    config = {}
    for key, value in leaves.items():
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return config


def changed(**values):
    """The default configuration with other values; `__` stands for a dot."""
    return nested(LEAVES | {key.replace("__", "."): value for key, value in values.items()})


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_may_run(options, option):
    config = options[option]
    group, _, name = option.partition("=")
    assert config["choices"][group] == name
    assert check(config) == []


def test_every_limit_is_of_a_key_of_some_option(options):
    known = {"cell"} | {key for config in options.values() for key in flat(config)}  # the door takes the cell out
    assert set(LIMITS) - known == set()
    nodes = {key[:dot] for key in known for dot in range(len(key)) if key[dot] == "."}
    assert set(FACTS) - known - nodes == set()
    assert {facts.switch for facts in FACTS.values()} - known == {None}
    assert {key for facts in FACTS.values() for key in facts.whole} <= known


def test_every_group_is_built():
    groups = {field.name for field in fields(schema.Config) if field.type == dict[str, Any]} - {"table"}
    assert {node.partition(".")[0] for node in BUILT} == groups == set(DEFAULT["choices"])


def test_every_top_level_key_has_limits_and_a_default_within():
    for field in fields(schema.Config):
        default = getattr(schema.Config(), field.name)
        if is_dataclass(default):
            assert {f"{field.name}.{part.name}" for part in fields(default)} <= set(LIMITS)
        elif field.name not in {node.partition(".")[0] for node in BUILT} | {"table", "assumed"}:
            assert finding(field.name, default) is None
    assert [finding(f"label_noise.{key}", value) for key, value in vars(LabelNoise()).items()] == [None] * 3


def test_neutral_values_are_allowed_and_the_top_level_keys_stand_at_them():
    assert [line for key, value in neutral_values().items() if (line := finding(key, value))] == []
    top = {key: value for key, value in neutral_values().items() if "." not in key}
    assert {key: LEAVES[key] for key in top} == top | {"compile": "auto"}  # which is the neutral one on a CPU
    assert {FACTS[key].role for key in neutral_values()} == {"definition", "numerics"}


def accepts(key, value):
    """Whether a value that few keys take is right for this one."""
    return any(key == other and value == right for other, right in ACCEPTED)


@pytest.mark.parametrize("key", LIMITS)
def test_a_wrong_value_is_refused_in_one_line(key):
    for value in WRONG:
        line = finding(key, value)
        if accepts(key, value):
            assert line is None
            continue
        assert line is not None, value
        assert line.startswith(f"{key} = ") or line.startswith(f"{key}[0] = ")
        assert "must be" in line
        assert "\n" not in line


@pytest.mark.parametrize("key", LIMITS)
def test_true_and_1_are_two_things(key):
    if finding(key, True) is None and (key, True) not in ACCEPTED:
        assert finding(key, False) is None
        allowed = "one of auto, true, false" if finding(key, "auto") is None else "true or false"
        assert finding(key, 1) == f"{key} = 1: must be {allowed}"


def test_a_node_is_no_value_and_a_value_no_node():
    assert finding("label_noise", 0.4).startswith("label_noise = 0.4: has keys of its own; set label_noise.rate,")
    assert finding("lr.x", 1) == "lr.x: no such key, because lr is one value; write lr=value"
    assert finding("a.key.of.somebody.else", "anything") is None


def test_flat_keeps_lists_and_the_order():
    assert list(flat({"b": {"y": [1, {"z": 2}], "x": {"w": None}}, "a": 0}).items()) == [
        ("b.y", [1, {"z": 2}]),
        ("b.x.w", None),
        ("a", 0),
    ]


def test_wrong_values_are_all_told_before_what_does_not_go_together():
    assert check(changed(lr=-1, epochs=0, m=1000)) == [
        "epochs = 0: must be an integer >= 1",
        "lr = -1: must be a finite number > 0",
    ]
    assert len(check(changed(m=1000, report="best_validation"))) == 2


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"m": 64}, True),
        ({"m": 65}, False),
        ({"m": 65, "batch_size": 65}, True),
        ({"epochs": 3, "schedule__warmup_epochs": 2.9}, True),
        ({"epochs": 3, "schedule__warmup_epochs": 3}, False),
        ({"report": "best_validation"}, False),
        ({"report": "best_validation", "dataset__validation__count": 1}, True),
        ({"schedule__warmup_epochs": "long"}, True),  # the schedule's constructor refuses it
        ({"epochs": 3, "rho_schedule__warmup_epochs": 3}, True),
        ({"epochs": 3, "rho_schedule__warmup_epochs": 3.1}, False),
        ({"graph": True, "device": "cpu"}, False),
        ({"graph": True}, True),  # known only on the machine
        ({"precision": "tf32", "device": "cpu"}, False),
        ({"precision": "tf32", "device": "cuda"}, True),
        ({"precision": "tf32"}, True),  # known only on the machine
        ({"sharpness__rho": None}, True),  # the run has a radius
        ({"sharpness__every": 1, "choices__sharpness": "none"}, False),
        ({"rho": 0, "optimizer__rho": 0}, True),
        ({"rho": 0.2}, False),  # the rule's own did not follow
        ({"rho": None, "optimizer__rho": None}, False),
        ({"optimizer___target_": None}, False),
        ({"optimizer___partial_": False}, False),
        ({"dataset__source___target_": 3}, False),
        ({"schedule___partial_": True}, False),
    ],
)
def test_what_goes_together(values, allowed):
    findings = check(changed(**values))
    assert (findings == []) == allowed, findings
    assert all("\n" not in line for line in findings)
