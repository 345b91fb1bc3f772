"""What a recipe says for some choices: on plain values one by one, then at the door."""

import functools
from pathlib import Path

import pytest

from sam_repro.config.cases import Line, answer, describe
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_cell, compose_line, read_table
from sam_repro.config.options import config_dir
from sam_repro.config.recipe import RecipeError, parse_recipe
from sam_repro.config.schema import APART, RECIPE
from sam_repro.errors import UserError

OPTIONS = {
    "dataset": ["cifar10", "cifar100", "digits"],
    "architecture": ["small", "large"],
    "optimizer": ["sgd", "sam", "mix"],
}
CHOICES = {"dataset": "cifar10", "architecture": "small", "optimizer": "sam"}


CONFIG = {
    "dataset": {"mean": [0.5], "std": [0.5]},
    "architecture": {"initialisation": "torch"},
    "optimizer": {"rho": 0.05},
    "label_noise": {"rate": 0.2, "kind": "uniform"},
    "rho": 0.05,
    "epochs": 200,
    "lr": 0.1,
    "weight_decay": 0.0,
    "drop_last": True,
    "assumed": {"lr": "not stated"},
}


def recipe(*cases, assumed=None, **spoken):
    said = {"for": spoken.pop("speaks_for", {}), "cases": list(cases), "from": spoken.pop("sources", {})}
    return parse_recipe("paper/runs", CONFIG | said | {"assumed": assumed or {}}, OPTIONS)


def case(when, sets=None, source="Table 6", **more):
    return {"when": when} | ({"set": sets, "from": source} if sets else {}) | more


def said(*cases, keys=(), groups=(), choices=None, brings=False, **spoken):
    return answer(recipe(*cases, **spoken), CHOICES | (choices or {}), CONFIG, Line(keys, groups), brings)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"epochs": 200}, True),
        ({"epochs": 200.0}, True),
        ({"epochs": [100, 200]}, True),
        ({"epochs": [100, 400]}, False),
        ({"epochs": "200"}, False),
        ({"label_noise.rate": [0.2, 0.4]}, True),
        ({"label_noise.rate": 0.3}, False),
        ({"drop_last": True}, True),
        ({"drop_last": 1}, False),
        ({"optimizer": "sam"}, True),
        ({"optimizer": ["sgd", "sam"]}, True),
        ({"optimizer": "sgd"}, False),
        ({"optimizer": "sam", "epochs": 200}, True),
        ({"optimizer": "sam", "epochs": 400}, False),
        ({"optimizer.scope": "element"}, False),
    ],
)
def test_a_case_holds_where_all_of_its_entries_do(when, holds):
    assert said(case(when, {"lr": 0.3})).sets == ({"lr": 0.3} if holds else {})


def test_a_later_case_is_stronger_and_its_source_counts():
    first, second = case({"epochs": 200}, {"lr": 0.3, "rho": 0.1}), case({"optimizer": "sam"}, {"lr": 0.4}, "section 3")
    assert said(first, second).sets == {"lr": 0.4, "rho": 0.1}
    assert said(first, second).origin["cases"] == {"lr": "section 3", "rho": "Table 6"}
    assert said(second, first).sets == {"lr": 0.3, "rho": 0.1}


@pytest.mark.parametrize("keys", [["dataset.mean"], ["dataset"], ["dataset.mean", "rho"]])
def test_what_the_line_sets_itself_or_by_a_node_above_is_left_alone(keys):
    found = said(case({"epochs": 200}, {"dataset.mean": [0.1], "lr": 0.3}), keys=keys)
    assert found.sets == {"lr": 0.3}
    assert found.origin["cases"] == {"lr": "Table 6"}
    assert "no_case" not in found.origin


def test_a_key_of_a_similar_name_or_a_chosen_option_is_no_node_above():
    new = {"dataset.mean": [0.1]}
    assert said(case({}, new), keys=["data", "dataset.mea"], groups=["dataset"]).sets == new


def test_a_key_that_a_case_sets_is_stated_and_one_it_assumes_is_not():
    found = said(
        case({"epochs": 200}, {"lr": 0.3}),
        case({"optimizer": "sam"}, assumed={"label_noise": "not stated"}),
        case({"optimizer": "sgd"}, assumed={"epochs": "not stated for SGD"}),
        sources={"epochs": "Table 1", "label_noise.kind": "section 3", "rho": "section 4", "weight_decay": "the code"},
        assumed={"lr": "a guess", "weight_decay": "our own"},
        keys=["rho"],
    )
    assert found.assumed == {"weight_decay": "our own", "label_noise": "not stated"}
    assert found.origin["from"] == {"epochs": "Table 1", "lr": "Table 6"}


def test_what_the_line_sets_is_not_assumed():
    guess = {"lr": "a guess", "label_noise": "not stated", "architecture": "not stated"}
    found = said(assumed=guess, keys=["lr", "label_noise.rate"], groups=["architecture"])
    assert found.assumed == {key: guess[key] for key in ("label_noise", "architecture")}


def test_an_option_that_the_line_chooses_leaves_the_recipes_keys_below_it():
    sources = {"architecture": "section 3", "architecture.initialisation": "the code"}
    found = said(sources=sources, groups=["architecture"])
    assert found.origin["from"] == {"architecture.initialisation": "the code"}


def test_a_key_on_which_no_case_fits_is_named_with_the_reason():
    table = [
        case({"architecture": "small", "epochs": [300, 400]}, {"lr": 0.3, "weight_decay": 0.1}),
        case({"architecture": "large", "epochs": 200}, {"weight_decay": 0.2}),
        case({"label_noise.rate": 0.4}, {"rho": 0.1}),
    ]
    assert said(*table).origin["no_case"] == {
        "lr": "none for epochs 200",
        "weight_decay": "none for epochs 200, architecture small",
        "rho": "none for label_noise.rate 0.2",
    }
    assert "lr" not in said(*table, keys=["lr"]).origin["no_case"]
    assert "lr" not in said(*table, sources={"lr": "Table 1"}).origin["no_case"]
    assert "lr" not in said(*table, case({}, assumed={"lr": "not stated"})).origin["no_case"]


def test_a_key_that_the_options_lack_needs_no_case():
    table = [case({"optimizer": "mix"}, {"optimizer.scope": "element", "rho": 0.2})]
    without = CONFIG | {"optimizer": {}, "rho": None}
    assert answer(recipe(*table), CHOICES | {"optimizer": "sgd"}, without, Line()).origin == {}


def test_the_first_lines_name_what_held_and_what_did_not():
    found = said(
        case({"epochs": 200}, {"lr": 0.3, "weight_decay": 0.1}),
        case({"optimizer": "sam"}, {"rho": 0.1}, "section 3.3"),
        case({"architecture": "large"}, {"architecture.initialisation": "he"}),
    )
    config = CONFIG | found.sets | {"origin": found.origin}
    assert describe(config) == [
        "cases      lr 0.3, weight_decay 0.1 (Table 6); rho 0.1 (section 3.3)",
        "no case    architecture.initialisation: none for architecture small",
    ]
    assert describe(CONFIG | {"origin": {}}) == []


@pytest.mark.parametrize(
    ("cases", "line"),
    [
        ([case({"lr": 0.1}, {"rho": 1}), case({}, {"lr": 1})], "when looks at lr, which a case sets; look at keys"),
        ([case({"epoch": 200}, {"lr": 1})], "when looks at epoch: no such key; did you mean epochs?"),
        ([case({"architecture": ["smal"]}, {"lr": 1})], "architecture = smal: no such option; did you mean small?"),
        ([case({"optimizer": "zzz"}, {"lr": 1})], "optimizer = zzz: no such option; there are sgd, sam, mix"),
        ([case({}, {"dataset": {"mean": 1}})], "case 1: set dataset: must be a value, not keys below it"),
        ([{"when": {}, "set": {"lr": 1}}], "case 1: from = '': must say where set is from, such as from: Table 6"),
        ([{"when": {}, "sets": {"lr": 1}}], "case 1: sets: no such field; there are when, set, from, assumed"),
        ([{"set": {"lr": 1}, "from": "Table 6"}], "case 1: when = null: must be a mapping"),
        ([case({}, assumed={"lr": ""})], "case 1: assumed: lr = '': must be a text, where the value is from"),
        (["lr"], "case 1 = lr: must be a mapping"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_in_one_line(cases, line):
    with pytest.raises(RecipeError) as refused:
        recipe(*cases)
    assert line in str(refused.value)
    assert str(refused.value).startswith("experiment = paper/runs: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("speaks_for", "line"),
    [
        ({"optimizer": "sam"}, "for: optimizer: no such field"),
        ({"dataset": "mnist"}, "dataset = mnist: no such option"),
    ],
)
def test_a_recipe_speaks_for_data_sets_and_networks_that_exist(speaks_for, line):
    with pytest.raises(RecipeError, match=line):
        recipe(speaks_for=speaks_for)


@pytest.mark.parametrize(("key", "node"), [("optimizer.scope", "optimizer"), ("epoch", "epoch"), ("rho", "optimizer")])
def test_a_case_that_sets_what_the_options_lack_is_refused(key, node):
    config = CONFIG | {"optimizer": {}, "rho": None}
    wrong = recipe(case({"epochs": 200}, {key: 1}))
    with pytest.raises(RecipeError, match=f"a case of Table 6 sets {key}, which the chosen {node} lacks"):
        answer(wrong, CHOICES, config, Line())
    assert answer(recipe(case({"epochs": 3}, {key: 1})), CHOICES, config, Line()).sets == {}


def test_another_data_set_is_refused_unless_its_constants_come_with_it():
    other = {"speaks_for": {"dataset": ["cifar10", "cifar100"]}, "choices": {"dataset": "digits"}}
    with pytest.raises(RecipeError, match=r"^dataset = digits: paper/runs is for cifar10, cifar100; choose one of"):
        said(**other)
    with pytest.raises(RecipeError, match="dataset = digits"):
        said(keys=["dataset.mean"], **other)
    both = {"dataset.mean": [0.1], "dataset.std": [0.2]}
    assert said(keys=["dataset.mean", "dataset.std"], **other).sets == {}
    assert said(keys=["dataset"], **other).sets == {}
    assert said(case({"dataset": "digits"}, both), **other).sets == both
    assert said(brings=True, **other).sets == {}
    assert said(speaks_for={"dataset": "cifar10"}).sets == {}


def test_another_network_runs_and_is_said_to_be_none_of_the_papers():
    found = said(speaks_for={"architecture": ["large"]})
    why = "the paper has no small; its are large"
    assert found.assumed["architecture"] == found.origin["no_case"]["architecture"] == why
    assert said(speaks_for={"architecture": ["small"]}).origin == {}


# The door: a recipe of somebody's own.

MINE = """# @package _global_
for: {dataset: digits, architecture: [digits_cnn]}
epochs: 3
lr: 0.5
cases:
  - {when: {epochs: 3}, set: {lr: 1, base_optimizer.momentum: 0.5}, from: Table 1}
  - {when: {optimizer: sam}, set: {rho: 0.3}, from: section 2}
  - {when: {optimizer: asam}, set: {optimizer.scope: element}, from: section 2}
from: {epochs: Table 1}
assumed: {lr: a guess}
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(MINE)
    (tmp_path / "dataset").mkdir()
    own = (config_dir() / "dataset" / "digits.yaml").read_text()
    (tmp_path / "dataset" / "own.yaml").write_text(own)
    (tmp_path / "table").mkdir()
    cells = "cells: [{name: plain}, {name: given, set: {lr: 0.2, base_optimizer.momentum: 0.1}}]\n"
    (tmp_path / "table" / "mine.yaml").write_text(f"title: mine\nrecipe: mine\n{cells}")
    return functools.partial(compose_line, extra_dir=str(tmp_path))


def test_the_cases_of_ones_own_recipe_make_the_cell_of_the_same_keys_typed(mine):
    config = mine(["experiment=mine"])
    by_hand = compose_line(["epochs=3", "lr=1.0", "base_optimizer.momentum=0.5", "rho=0.3"])
    assert cell_hash(config) == cell_hash(by_hand)
    assert type(config["lr"]) is float
    assert config["optimizer"]["rho"] == 0.3
    assert config["assumed"] == {}
    assert config["origin"] == {
        "rho": "from the recipe mine (section 2)",
        "from": {"epochs": "Table 1", "lr": "Table 1", "base_optimizer.momentum": "Table 1", "rho": "section 2"},
        "cases": {"lr": "Table 1", "base_optimizer.momentum": "Table 1", "rho": "section 2"},
    }
    assert not set(RECIPE) & set(config)


def test_line_then_cases_then_recipe_then_data_set_then_option(mine):
    assert mine(["experiment=mine"])["lr"] == 1.0
    assert mine(["experiment=mine", "lr=0.7"])["lr"] == 0.7
    assert mine(["experiment=mine", "epochs=4"])["lr"] == 0.5
    assert compose_line([])["lr"] == 0.1
    assert (
        mine(["experiment=mine", "optimizer=look_layersam"])["rho"] == compose_line(["optimizer=look_layersam"])["rho"]
    )
    given = mine(["experiment=mine", "rho=0.05"])
    assert (given["rho"], given["origin"]["rho"]) == (0.05, "from the command line")


def test_a_cell_is_as_strong_as_the_command_line(mine):
    folder = mine.keywords["extra_dir"]
    table = read_table("mine", folder)
    plain, given = (compose_cell(table, cell, (), folder) for cell in table.cells)
    assert (plain["lr"], plain["base_optimizer"]["momentum"]) == (1.0, 0.5)
    assert (given["lr"], given["base_optimizer"]["momentum"]) == (0.2, 0.1)
    assert given["rho"] == 0.3
    assert mine(["table=mine", "cell=given"]) == given
    assert mine(["table=mine", "cell=given", "lr=0.9"])["lr"] == 0.9


def test_a_metric_of_no_measure_is_refused(mine):
    file = Path(mine.keywords["extra_dir"], "table/mine.yaml")
    file.write_text(f"{file.read_text()}metrics: [sharpness/lamda_max/lambda_max]\n")
    with pytest.raises(UserError, match="lamda_max/lambda_max: no such measure; did you mean lambda_max"):
        read_table("mine", mine.keywords["extra_dir"])


def test_what_is_wrong_with_ones_own_recipe_is_said_in_one_line(mine):
    with pytest.raises(UserError, match=r"sets optimizer\.scope, which the chosen optimizer lacks; say in its when"):
        mine(["experiment=mine", "optimizer=asam"])
    with pytest.raises(UserError, match=r"^dataset = cifar10: mine is for digits; choose one of these"):
        mine(["experiment=mine", "dataset=cifar10"])
    own = mine(["experiment=mine", "dataset=own"])
    assert own["dataset"]["mean"] == compose_line([])["dataset"]["mean"]


def test_no_recipe_says_nothing():
    assert compose_line([])["origin"] == {"rho": "the default of sam"}
    assert set(RECIPE) < set(APART)
