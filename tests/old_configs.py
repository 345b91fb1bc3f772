"""The configurations of every option, recipe with rule, and cell, as commit ca4b332 resolved them."""

import json
from pathlib import Path

OLD = json.loads((Path(__file__).parent / "data" / "schema1_configs.json").read_text())
"""`bare` is the bare start; `options` and `cells` are differences from it, by line, and by table, number, name."""


def with_leaf(config, key, value):
    """The configuration with another value of a dotted key."""
    head, _, rest = key.partition(".")
    return config | {head: with_leaf(config[head], rest, value) if rest else value}


def resolved_then(entry):
    """The whole configuration of an entry."""
    config = OLD["bare"]
    for key, value in entry["set"].items():
        config = with_leaf(config, key, value)
    for key in entry["without"]:
        config = without_leaf(config, key)
    return config


def without_leaf(config, key):
    head, _, rest = key.partition(".")
    if rest and not (inner := without_leaf(config[head], rest)):
        return {k: v for k, v in config.items() if k != head}
    return config | {head: inner} if rest else {k: v for k, v in config.items() if k != head}
