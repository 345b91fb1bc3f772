"""The shipped recipes and tables: what they set against the papers' facts, and that all of it composes."""

import functools
from pathlib import Path

import pytest
from old_configs import OLD, resolved_then

from sam_repro.config.compose import read_yaml
from sam_repro.config.identity import cell_hash, home, sought
from sam_repro.config.lines import check_config, compose_cell, compose_line, read_table
from sam_repro.config.options import config_dir, table_names
from sam_repro.config.recipe import as_list
from sam_repro.config.schema import OPEN, flat
from sam_repro.config.schema1 import modern
from sam_repro.run.build import declared_cost
from sam_repro.table import runs

EVIDENCE = Path(__file__).parents[2] / "outputs" / "evidence"

LUONG = {
    "choices.dataset": "cifar100",
    "choices.architecture": "resnet18",
    "epochs": 200,
    "batch_size": 256,
    "lr": 0.1,
    "weight_decay": 0.001,
    "weight_decay_in": "base",
    "weight_decay_on": "all",
    "drop_last": False,
    "base_optimizer.momentum": 0.9,
    "base_optimizer.nesterov": False,
    "schedule.per": "epoch",
    "report": "best_validation",
    "dataset.validation.count": 5000,
    "dataset.validation.seed": 42,
    "dataset.validation.augmented": True,
    "augmentation.crop.pad": 4,
    "augmentation.crop.padding_mode": "zero",
    "augmentation.cutout.size": 16,
    "augmentation.cutout.per": "image",
    "augmentation.cutout.probability": 0.5,
    "architecture.initialisation": "torch",
    "clip_norm": None,
    "m": None,
    "precision": "auto",
    "rho": 0.2,
}
FORET = {
    "choices.dataset": "cifar10",
    "choices.architecture": "wrn28_10",
    "choices.augmentation": "basic",
    "epochs": 200,
    "batch_size": 256,
    "m": 32,
    "weight_decay_in": "loss",
    "weight_decay_on": "all",
    "clip_norm": 5.0,
    "drop_last": True,
    "base_optimizer.momentum": 0.9,
    "base_optimizer.nesterov": True,
    "schedule.per": "step",
    "report": "last",
    "augmentation.crop.padding_mode": "reflect",
    "augmentation.crop.pad": 4,
    "augmentation.order": ["flip", "crop", "normalise"],
    "architecture.shortcut": "pool",
    "lr": 0.1,
    "weight_decay": 0.0005,
    "rho": 0.05,
    "dataset.mean": [0.49139968, 0.48215841, 0.44653091],
}
RECIPES = [
    *("luong2024/cifar100", "luong2024/cifar100_clean", "foret2021/cifar", "digits/label_noise"),
    *("becker2024/cifar100", "liu2022/cifar", "du2022/cifar", "foret2021/svhn", "foret2021/fashion_mnist"),
    *("foret2021/imagenet", "becker2024/imagenet", "liu2022/imagenet_vit", "du2022/imagenet"),
    *("foret2021/finetune", "foret2021/finetune_cifar"),
]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["experiment=luong2024/cifar100"], LUONG),
        (["experiment=luong2024/cifar100", "optimizer=sgd"], {"rho": None, "weight_decay": 0.001}),
        (
            ["experiment=luong2024/cifar100", "optimizer=sam_direction"],
            {"rho": 0.2, "optimizer.scope": "element"},
        ),
        (
            ["experiment=luong2024/cifar100", "optimizer=sam_magnitude"],
            {"rho": 0.2, "optimizer.scope": "element"},
        ),
        (["experiment=luong2024/cifar100", "optimizer=sgdhess"], {"optimizer.curvature": "hutchinson_abs"}),
        (
            ["experiment=luong2024/cifar100", "architecture=wrn28_10"],
            {"architecture.shortcut": "conv", "architecture.initialisation": "he_fan_in_uniform_norm"},
        ),
        (
            ["experiment=luong2024/cifar100_clean", "optimizer=sam_direction"],
            {"report": "last", "dataset.validation.count": 0, "rho": 0.2, "batch_size": 256},
        ),
        (["experiment=foret2021/cifar"], FORET),
        (
            ["experiment=foret2021/cifar", "dataset=cifar100", "augmentation=cutout"],
            {
                "rho": 0.1,
                "augmentation.cutout.size": 16,
                "augmentation.cutout.per": "batch",
                "dataset.std": [0.26733429, 0.25643846, 0.27615047],
            },
        ),
        (
            ["experiment=foret2021/svhn", "augmentation=autoaugment_svhn"],
            {
                **{"rho": 0.01, "lr": 0.01, "dataset.shuffle_buffer": 50000, "dataset.source.extra": True},
                **{"augmentation.cutout.per": "batch", "augmentation.order": ["autoaugment", "normalise", "cutout"]},
            },
        ),
        (["experiment=foret2021/fashion_mnist"], {"rho": 0.05, "dataset.mean": [0.1307], "lr": 0.1}),
        (["experiment=foret2021/cifar", "optimizer=sgd"], {"m": 32, "rho": None, "base_optimizer.nesterov": True}),
        (
            ["experiment=foret2021/imagenet", "architecture=resnet152", "epochs=400"],
            {"rho": 0.05, "m": 128, "lr": 1.0, "label_smoothing": 0.1, "architecture.zero_gamma": True, "epochs": 400},
        ),
        (
            ["experiment=foret2021/finetune", "dataset=flowers", "architecture=efficientnet_l2"],
            {
                **{"batch_size": 512, "m": 4, "lr": 0.008, "weight_decay": 0.00001, "max_steps": 10000, "epochs": 3334},
                **{"architecture.batch_norm.frozen": True, "dataset.source.size": 475, "dataset.resize.size": None},
                **{"architecture.weights": OPEN, "architecture.new_head": "network", "rho": 0.05},
            },
        ),
        (
            ["experiment=foret2021/finetune_cifar", "dataset=cifar100"],
            {
                **{
                    "batch_size": 1024,
                    "m": 16,
                    "lr": 0.016,
                    "dataset.resize.size": 600,
                    "epochs": 105,
                    "max_steps": 5000,
                },
                "augmentation.order": ["autoaugment", "flip", "crop", "normalise"],
            },
        ),
        (
            ["experiment=becker2024/imagenet", "architecture=resnet50", "base_optimizer=sgd"],
            {
                **{"base_optimizer.nesterov": False, "weight_decay": 0.0001, "clip_norm": None, "batch_size": 1024},
                **{"lr": 1.0, "epochs": 100, "schedule.warmup_epochs": 1.0, "rho": 0.2, "rho_schedule.epochs": 0.0},
            },
        ),
        (
            ["experiment=becker2024/imagenet", "architecture=vit_s16", "optimizer=looksam"],
            {"lr": 0.001, "epochs": 90, "rho_schedule.epochs": 8.0, "rho": 0.05, "label_smoothing": 0.0},
        ),
        (
            ["experiment=du2022/imagenet", "architecture=resnet101"],
            {"lr": 1.6, "weight_decay_on": "no_norm_no_bias", "base_optimizer.nesterov": True, "label_smoothing": 0.1},
        ),
        (
            ["experiment=liu2022/imagenet_vit", "base_optimizer=lamb", "optimizer=look_layersam"],
            {"lr": 0.01, "weight_decay": 0.1, "clip_norm": 1.0, "optimizer.period": 5},
        ),
        (["experiment=digits/label_noise"], {"label_noise.rate": 0.4, "label_noise.kind": "uniform", "rho": 0.05}),
    ],
)
def test_a_recipe_sets_what_its_paper_says(line, wanted):
    leaves = flat(compose_line(line))
    assert {key: leaves[key] for key in wanted} == wanted


def test_fine_tuning_takes_the_fewest_epochs_that_hold_its_steps():
    cases = read_yaml(config_dir() / "experiment/foret2021/finetune.yaml", resolve=False)["cases"]
    counted = [case for case in cases if "epochs" in case.get("set", {}) and "max_steps" in case["set"]]
    assert len(counted) == 12
    for case in counted:
        option = as_list(case["when"]["dataset"])[0]
        images = read_yaml(config_dir() / f"dataset/{option}.yaml", resolve=False)["dataset"]["train_images"]
        per_epoch = images // {5000: 1024, 10000: 512}[case["set"]["max_steps"]]
        assert case["set"]["epochs"] == -(-case["set"]["max_steps"] // per_epoch), option


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sams_rho_does_not_leak_into_another_rule(recipe):
    assert compose_line([f"experiment={recipe}", "optimizer=asam"])["rho"] == 0.5


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_line_is_stronger_than_the_recipe(recipe):
    given = compose_line([f"experiment={recipe}", "rho=0.3", "lr=0.7", "epochs=3", "augmentation=none"])
    assert (given["rho"], given["lr"], given["epochs"], given["choices"]["augmentation"]) == (0.3, 0.7, 3, "none")
    assert given["origin"]["rho"] == "from the command line"


def test_where_rho_came_from():
    line = ["experiment=foret2021/cifar", "dataset=cifar100"]
    assert compose_line(line)["origin"]["rho"] == "from the recipe foret2021/cifar (Table 6)"
    assert compose_line([*line, "optimizer=asam"])["origin"]["rho"] == "the default of asam"
    assert compose_line(["optimizer=sgd"])["origin"] == {}
    table = read_table("foret2021/table1")
    cell = table.cell("cifar100 cutout sam, 1800 epochs")
    assert compose_cell(table, cell)["origin"]["rho"] == "from the recipe foret2021/cifar (Table 6)"
    table = read_table("digits/label_noise")
    assert compose_cell(table, table.cell(1))["origin"] == {
        "rho": "from the cell",
        "table": "digits/label_noise",
        "cell": "rho 0.05",
    }
    assert compose_cell(table, table.cell(1), ["rho=0.3"])["origin"]["rho"] == "from the command line"


@functools.cache
def cells(name):
    """The configuration of every cell that can be composed."""
    table = read_table(name)
    return {cell.name: compose_cell(table, cell) for cell in table.cells if not cell.waiting}


@pytest.mark.parametrize("name", table_names())
def test_every_cell_of_every_table_composes_and_is_another_one(name):
    assert len({cell_hash(check_config(config)) for config in cells(name).values()}) == len(cells(name))


@pytest.mark.parametrize("name", sorted({cell.partition(" ")[0] for cell in OLD["cells"]}))
def test_a_cell_of_schema_1_is_the_cell_of_this_name_now(name):
    then = {
        cell.split(" ", maxsplit=2)[2]: cell_hash(modern(resolved_then(entry)))
        for cell, entry in OLD["cells"].items()
        if cell.startswith(f"{name} ")
    }
    now = {cell: cell_hash(config) for cell, config in cells(name).items()}
    assert {cell: now.get(cell) for cell in then} == then


@pytest.mark.parametrize("name", [name for name in table_names() if (EVIDENCE / name).is_dir()])
def test_every_committed_record_counts_for_its_table(name):
    found = runs.find([EVIDENCE / name])
    counted = {run.folder for config in cells(name).values() for run in found.of(sought(config))}
    cut = {run.folder for config in cells(name).values() for run in found.cut(config)}
    assert found.problems == []
    assert counted | cut == {file.parent for file in (EVIDENCE / name).glob("**/result.json")}


@pytest.mark.parametrize("name", [name for name in table_names() if read_table(name).effects])
def test_the_two_of_an_effect_have_in_common_what_it_says(name):
    for effect in read_table(name).effects:
        pair = [cells(name)[end] for end in (effect.cell, effect.twin)]
        if "epochs" in effect.equal:
            assert pair[0]["epochs"] == pair[1]["epochs"], effect.name
        if "passes" in effect.equal:
            assert declared_cost(pair[0]) == declared_cost(pair[1]), effect.name


@pytest.mark.parametrize(
    ("table", "cell", "typed"),
    [
        (
            "luong2024/resnet18",
            "direction of g_s, magnitude of g, element, 0.2",
            ["experiment=luong2024/cifar100", "optimizer=sam_direction"],
        ),
        ("luong2024/resnet18", "sam 0.1", ["experiment=luong2024/cifar100", "rho=0.1"]),
        (
            "foret2021/table1",
            "cifar100 cutout sam, 200 epochs",
            ["experiment=foret2021/cifar", "dataset=cifar100", "augmentation=cutout"],
        ),
        (
            "foret2021/table1",
            "cifar10 basic sgd, 400 epochs",
            ["experiment=foret2021/cifar", "optimizer=sgd", "epochs=400"],
        ),
        ("digits/label_noise", "rho 0.2", ["label_noise.rate=0.4", "precision=fp32", "rho=0.2"]),
    ],
)
def test_a_cell_typed_by_hand_is_the_cell(table, cell, typed):
    content = read_table(table)
    of_the_table = compose_cell(content, content.cell(cell), ["seed=2", "device=cpu"])
    by_hand = compose_line([*typed, "seed=2", "device=cpu"])
    assert cell_hash(by_hand) == cell_hash(of_the_table)
    assert home(by_hand) == home(of_the_table)
