"""What a recipe says for some choices: on plain values one by one, then at the door, then the shipped recipes."""

import functools
from pathlib import Path

import pytest
import yaml

from sam_repro.config.cases import Line, answer, describe
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_cell, compose_line, read_table
from sam_repro.config.options import config_dir
from sam_repro.config.recipe import RecipeError, parse_recipe
from sam_repro.config.schema import APART, RECIPE, flat
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


# The shipped recipes, against the papers.

CIFAR, FASHION = ["cifar10", "cifar100"], ["fashion_mnist"]
TABLES_6_AND_7 = {  # network, data set, epochs: lr, weight decay, rho of SAM
    ("wrn28_10", "cifar10", 200): (0.1, 0.0005, 0.05),
    ("wrn28_10", "cifar100", 200): (0.1, 0.0005, 0.1),
    ("wrn28_10", "cifar10", 400): (0.1, 0.0005, 0.05),
    ("wrn28_10", "cifar100", 400): (0.1, 0.0005, 0.1),
    ("wrn28_10", "cifar10", 1800): (0.05, 0.001, 0.05),
    ("wrn28_10", "cifar100", 1800): (0.05, 0.001, 0.1),
    ("wrn28_10", "cifar10", 3600): (0.05, 0.001, 0.05),
    ("wrn28_10", "cifar100", 3600): (0.05, 0.001, 0.1),
    ("wrn28_10", "fashion_mnist", 200): (0.1, 0.0005, 0.05),
}
CONSTANTS = {
    ("foret2021/cifar", "cifar10"): (
        [0.49139968, 0.48215841, 0.44653091],
        [0.24703223, 0.24348513, 0.26158784],
    ),
    ("foret2021/cifar", "cifar100"): (
        [0.50707516, 0.48654887, 0.44091784],
        [0.26733429, 0.25643846, 0.27615047],
    ),
    ("foret2021/cifar", "fashion_mnist"): ([0.1307], [0.3081]),
    ("luong2024/cifar100", "cifar100"): ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    ("luong2024/cifar100", "cifar10"): ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    ("luong2024/cifar100_clean", "cifar10"): ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
}


@pytest.mark.parametrize(("network", "dataset", "epochs"), TABLES_6_AND_7)
def test_foret_tables_6_and_7(network, dataset, epochs):
    line = ["experiment=foret2021/cifar", f"architecture={network}", f"dataset={dataset}", f"epochs={epochs}"]
    wanted = TABLES_6_AND_7[network, dataset, epochs]
    sam, sgd = compose_line(line), compose_line([*line, "optimizer=sgd"])
    assert (sam["lr"], sam["weight_decay"], sam["rho"]) == wanted
    assert (sgd["lr"], sgd["weight_decay"], sgd["rho"]) == (*wanted[:2], None)
    assert sam["batch_size"] == sgd["batch_size"] == 256
    table = "Table 7" if dataset == "fashion_mnist" else "Table 6"
    assert {key: sam["origin"]["from"][key] for key in ("lr", "weight_decay", "rho")} == dict.fromkeys(
        ("lr", "weight_decay", "rho"), table
    )
    assert not {"lr", "weight_decay"} & sam["assumed"].keys()


@pytest.mark.parametrize(("rate", "rho"), [(0.2, 0.1), (0.4, 0.1), (0.6, 0.1), (0.8, 0.05)])
def test_foret_section_3_3_chooses_rho_by_noise(rate, rho):
    config = compose_line(["experiment=foret2021/cifar", "architecture=resnet32", f"label_noise.rate={rate}"])
    assert (config["rho"], config["origin"]["rho"]) == (rho, "from the recipe foret2021/cifar (section 3.3)")
    assert config["assumed"]["clip_norm"] == "not stated; as the CIFAR runs"
    assert "clip_norm" not in config["origin"]["from"]


@pytest.mark.parametrize(("recipe", "dataset"), CONSTANTS)
@pytest.mark.parametrize("network", ["wrn28_10", "resnet18"])
def test_the_constants_go_by_data_set_not_by_network(recipe, dataset, network):
    config = compose_line([f"experiment={recipe}", f"dataset={dataset}", f"architecture={network}"])
    assert (config["dataset"]["mean"], config["dataset"]["std"]) == CONSTANTS[recipe, dataset]


@pytest.mark.parametrize("network", ["wrn16_4", "wrn16_8", "wrn28_10", "wrn40_2"])
def test_every_wide_resnet_of_foret_is_the_codes(network):
    config = compose_line(["experiment=foret2021/cifar", f"architecture={network}"])
    assert (config["architecture"]["shortcut"], config["architecture"]["initialisation"]) == ("pool", "he_fan_out")


@pytest.mark.parametrize("line", ["foret2021/cifar dataset=digits", "luong2024/cifar100 dataset=fashion_mnist"])
def test_a_papers_recipe_refuses_a_data_set_without_constants(line):
    experiment, dataset = line.split()
    with pytest.raises(UserError, match=r"dataset\.mean=\[…\] dataset\.std=\[…\]$"):
        compose_line([f"experiment={experiment}", dataset])
    given = compose_line([f"experiment={experiment}", dataset, "dataset.mean=[0.5]", "dataset.std=[0.25]"])
    assert given["dataset"]["mean"] == [0.5]


def test_a_length_of_which_table_6_does_not_speak_is_said():
    config = compose_line(["experiment=foret2021/cifar", "epochs=800"])
    assert describe(config)[-1] == "no case    lr, weight_decay: none for epochs 800"
    assert {"lr", "weight_decay"} <= config["assumed"].keys()
    assert not [line for line in describe(compose_line(["experiment=foret2021/cifar"])) if line.startswith("no case")]


def test_a_rule_of_which_the_paper_does_not_speak_has_its_own_defaults_and_that_is_said():
    config = compose_line(["experiment=foret2021/cifar", "optimizer=asam"])
    assert (config["rho"], config["origin"]["rho"]) == (0.5, "the default of asam")
    assert describe(config)[-1] == "no case    rho: none for optimizer asam"


def test_a_network_of_which_the_paper_does_not_speak_runs_and_that_is_said():
    config = compose_line(["experiment=luong2024/cifar100", "architecture=resnet20"])
    assert (
        config["assumed"]["architecture"] == "the paper has no resnet20; its are resnet18, resnet34, resnet50, wrn28_10"
    )


def test_the_weight_decay_of_luongs_sgd_is_undecided():
    assert "5e-4" in compose_line(["experiment=luong2024/cifar100", "optimizer=sgd"])["assumed"]["weight_decay"]
    assert "weight_decay" not in compose_line(["experiment=luong2024/cifar100"])["assumed"]
    table = read_table("luong2024/resnet18")
    decays = {
        compose_cell(table, table.cell(cell))["weight_decay"]
        for claim in table.claims
        if claim.row.startswith("SGD:")
        for pick in claim.readings.values()
        for cell in pick.cells
    }
    assert decays == {0.001, 0.0005}


FILES = sorted((config_dir() / "experiment").rglob("*.yaml"))
NAMES = [file.relative_to(config_dir() / "experiment").with_suffix("").as_posix() for file in FILES]
WITH_SOURCES = [name for name in NAMES if not name.startswith("digits/")]  # a study of our own states its values itself
EVERYTHING = functools.cache(
    lambda: {
        key
        for file in config_dir().glob("*/*.yaml")
        if file.parent.name not in ("experiment", "table")
        for config in [compose_line([f"{file.parent.name}={file.stem}"])]
        for key in (*flat(config), *config["choices"])
    }
)


def is_a_key(key):
    return any(known == key or known.startswith(f"{key}.") for known in EVERYTHING())


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_key_of_which_a_recipe_speaks_exists(file):
    content = yaml.safe_load(file.read_text())
    keys = {*content.get("from", {}), *content.get("assumed", {})}
    for each in content.get("cases", []):
        keys |= {*each["when"], *each.get("set", {}), *each.get("assumed", {})}
    assert {key for key in keys if not is_a_key(key)} == set()


@pytest.mark.parametrize("name", WITH_SOURCES)
def test_every_key_that_a_recipe_sets_has_a_source(name):
    content = yaml.safe_load(Path(config_dir() / "experiment" / f"{name}.yaml").read_text())
    apart = {"defaults", "assumed", *RECIPE}
    keys = set(flat({key: value for key, value in content.items() if key not in apart}))
    keys |= {str(next(iter(o))).rpartition("/")[2] for o in content["defaults"] if isinstance(o, dict)}
    config = compose_line([f"experiment={name}"])
    assert keys - {*config["origin"].get("from", {}), *config["assumed"]} == set()
    assert not set(config["origin"].get("from", {})) & set(config["assumed"])


# Cells that moved when the trees by_network, by_optimizer and by_both became cases.

FORET, LUONG = "experiment=foret2021/cifar", "experiment=luong2024/cifar100"
CONV = "dataset.mean=[0.4914,0.4822,0.4465] dataset.std=[0.2470,0.2435,0.2616] architecture.shortcut=conv"
CIFAR100 = "dataset.mean=[0.5071,0.4865,0.4409] dataset.std=[0.2673,0.2564,0.2762]"
RESNET18 = "dataset.mean=[0.4914,0.4822,0.4465] dataset.std=[0.2470,0.2435,0.2616]"
NOISE = "section 3.3: rho 0.1 at this rate"
LONG = "Table 6: lr 0.05 and weight decay 0.001 at this length"
WRN = "the code has one Wide ResNet, with the pooled shortcut, and constants of eight digits"
EIGHT = "the code's constants have eight digits, whatever the network"
TEN = "the study's constants of CIFAR-10, not CIFAR-100's"
CHANGED = {  # line → what it was before, its cell_hash then, why it is another cell now
    f"{FORET} architecture=resnet32 label_noise.rate=0.2": ("rho=0.05", "b750a874cb683848", NOISE),
    f"{FORET} architecture=resnet32 label_noise.rate=0.4": ("rho=0.05", "1799d75fb57a547a", NOISE),
    f"{FORET} architecture=resnet32 label_noise.rate=0.6": ("rho=0.05", "59ef03be1138355a", NOISE),
    f"{FORET} epochs=1800": ("lr=0.1 weight_decay=0.0005", "efe3cc6367ea616f", LONG),
    f"{FORET} dataset=cifar100 optimizer=sgd epochs=3600": ("lr=0.1 weight_decay=0.0005", "842a051699502596", LONG),
    f"{FORET} architecture=wrn40_2": (CONV, "4fea1f5f5dd1d618", WRN),
    f"{FORET} architecture=wrn16_4": (CONV, "4c2f0d4188bdcde0", WRN),
    f"{FORET} architecture=wrn16_8": (CONV, "078ea39aba418335", WRN),
    f"{FORET} architecture=resnet18": (RESNET18, "bc46bea5cc7aae85", EIGHT),
    f"{FORET} architecture=resnet32 dataset=cifar100": (CIFAR100, "9718f94bc08f82cf", EIGHT),
    f"{FORET} architecture=wrn40_2 dataset=cifar100": (
        f"{CIFAR100} architecture.shortcut=conv",
        "5ebea61555d884e5",
        WRN,
    ),
    f"{FORET} dataset=fashion_mnist": (
        "dataset.mean=[0.2860] dataset.std=[0.3530] architecture.shortcut=conv dataset.shuffle_buffer=null",
        "001046bbfe92d613",
        "the code's constants of Fashion-MNIST are MNIST's, its Wide ResNet has the pooled shortcut, its buffer 50,000",
    ),
    f"{LUONG} dataset=cifar10": (CIFAR100, "926cd93d1050a394", TEN),
    f"{LUONG}_clean dataset=cifar10": (CIFAR100, "ceb8c0fb048d30cc", TEN),
    f"{LUONG} dataset=cifar10 architecture=wrn28_10": (
        f"{CIFAR100} architecture.initialisation=torch",
        "2abe4f4e044044e7",
        f"{TEN}, and the study's initialisation, on both data sets",
    ),
}
STAYED = {
    f"{FORET} architecture=resnet32 label_noise.rate=0.8": "9c8648c0c793d052",
    f"{FORET} architecture=resnet32": "640d7462124d83b4",
    f"{FORET} epochs=400 optimizer=sgd": "ec09afae5eeb78ec",
    f"{FORET} epochs=800": "183a099bb731bed3",
    f"{LUONG} architecture=wrn28_10": "d436948e230bf872",
    f"{LUONG} architecture=wrn40_2": "9f6241bb7bd473d3",
    f"{LUONG} optimizer=sgd": "b8d49e48751114a3",
}


@pytest.mark.parametrize("line", CHANGED)
def test_a_line_that_is_another_cell_now_was_meant_to_be(line):
    before, then, _ = CHANGED[line]
    assert cell_hash(compose_line([*line.split(), *before.split()]))[:16] == then
    assert cell_hash(compose_line(line.split()))[:16] != then


@pytest.mark.parametrize("line", STAYED)
def test_a_line_of_which_the_cases_say_the_same_is_the_same_cell(line):
    assert cell_hash(compose_line(line.split()))[:16] == STAYED[line]
