"""The cases of the shipped recipes against the papers, the source of every key, and the cells that moved."""

import functools
from pathlib import Path

import pytest
import yaml

from sam_repro.config.cases import describe
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_cell, compose_line, read_table
from sam_repro.config.options import config_dir
from sam_repro.config.schema import RECIPE, flat
from sam_repro.errors import UserError

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
    if key.startswith("architecture.arguments."):  # what a constructor of timm takes
        return True
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
