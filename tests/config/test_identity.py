"""What makes a cell, and what makes a home."""

import copy
import functools
import json
import operator
from pathlib import Path

import pytest
from old_configs import OLD, resolved_then, with_leaf

from sam_repro.config.checks import finding
from sam_repro.config.identity import cell_hash, home
from sam_repro.config.lines import compose_line
from sam_repro.config.schema import APART as NODES
from sam_repro.config.schema import facts_of, flat, neutral_values
from sam_repro.config.schema1 import modern

ROOT = Path(__file__).parents[2]
DEFAULT = compose_line([])
LIVELY = compose_line(
    [
        *("label_noise.rate=0.2", "dataset.validation.count=200", "optimizer=sam"),
        *("augmentation=cutout", "augmentation.flip.probability=0.5", "architecture.weights=start.pt"),
        "dataset.resize.size=16",
    ]
)
"""A configuration in which nothing is idle."""
LEAVES = flat(LIVELY)
NEUTRAL = neutral_values()


def identity(*overrides):
    return cell_hash(compose_line(list(overrides)))


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_in_the_identity_but_those_that_change_no_number(key):
    other = cell_hash(with_leaf(LIVELY, key, "another value"))
    stays = facts_of(key).role != "definition" or key.partition(".")[0] in NODES or key.endswith("._partial_")
    assert (other == cell_hash(LIVELY)) == (stays or key.startswith("dataset.augmentation."))


IDLE = [
    ("label_noise.seed=1", ""),
    ("label_noise.kind=symmetric", ""),
    ("dataset.validation.seed=7", ""),
    ("dataset.validation.augmented=true", ""),
    ("dataset.augmentation.cutout=2", ""),
    ("dataset.resize.interpolation=bilinear", ""),
    ("dataset.source.share=0.5", "dataset=torchvision"),
    ("dataset.source.interpolation=bicubic", "dataset=torchvision"),
    ("architecture.new_head=network", ""),
    ("augmentation.flip.probability=0.0", "augmentation=basic"),
    ("augmentation.crop.padding_mode=reflect", "augmentation=basic augmentation.crop.pad=0"),
    ("augmentation.cutout.per=batch", "augmentation=cutout augmentation.order=[flip,crop,normalise]"),
    ("augmentation.cutout.size=0", "augmentation=cutout augmentation.cutout.probability=0.5"),
    ("rho_schedule=late", "optimizer=sgd"),
    ("rho_schedule=like_lr", "rho=0"),
    ("weight_decay_in=loss", "weight_decay=0"),
    ("m=64", "batch_size=64"),
]


@pytest.mark.parametrize(("override", "line"), IDLE)
def test_a_key_without_effect_makes_no_other_cell(override, line):
    plain = line.split() if "size=0" not in override else ["augmentation=basic"]
    assert identity(*line.split(), override) == identity(*plain)


@pytest.mark.parametrize(
    ("switch", "override"),
    [
        ("label_noise.rate=0.2", "label_noise.seed=1"),
        ("dataset.validation.count=200", "dataset.validation.seed=7"),
        ("architecture.weights=start.pt", "architecture.new_head=network"),
        ("dataset.resize.size=16", "dataset.resize.interpolation=bilinear"),
        ("augmentation=cutout", "augmentation.cutout.per=batch"),
        ("augmentation=basic", "augmentation.crop.padding_mode=reflect"),
        ("augmentation=cutout", "augmentation.order=[cutout,crop,normalise]"),
        ("rho=0.1", "rho_schedule=like_lr"),
        ("weight_decay=0.001", "weight_decay_in=loss"),
        ("batch_size=65", "m=64"),
    ],
)
def test_the_same_key_with_an_effect_makes_another_cell(switch, override):
    assert len({identity(), identity(switch), identity(switch, override)}) == 3


def test_nobody_knows_what_is_idle_in_a_node_from_elsewhere():
    idle = compose_line(["augmentation=cutout", "augmentation.cutout.size=0"])
    elsewhere = with_leaf(idle, "augmentation._target_", "mine.Augmentation")
    assert cell_hash(idle) == cell_hash(with_leaf(idle, "augmentation.cutout.per", "batch"))
    assert cell_hash(elsewhere) != cell_hash(with_leaf(elsewhere, "augmentation.cutout.per", "batch"))


def test_a_module_that_moves_makes_no_other_cell():
    """Of a target of this package the last component counts, of any other all of it."""
    targets = [key for key, value in flat(DEFAULT).items() if key.endswith("_target_") and "sam_repro" in value]
    assert len(targets) >= 4
    for key in targets:
        name = flat(DEFAULT)[key].rpartition(".")[2]
        assert cell_hash(with_leaf(DEFAULT, key, f"sam_repro.another.room.{name}")) == cell_hash(DEFAULT)
        if not key.startswith("sharpness"):
            assert cell_hash(with_leaf(DEFAULT, key, f"sam_repro.another.room.{name}2")) != cell_hash(DEFAULT)
            assert cell_hash(with_leaf(DEFAULT, key, f"mine.{name}")) != cell_hash(DEFAULT)
    base = with_leaf(DEFAULT, "base_optimizer._target_", "elsewhere.SGD")
    assert cell_hash(base) != cell_hash(DEFAULT)


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_neutral_value_is_as_if_the_key_were_not_there(key):
    config = with_leaf(compose_line(["optimizer=sam", "dataset.validation.count=10"]), key, NEUTRAL[key])
    older = copy.deepcopy(config)
    functools.reduce(operator.getitem, key.split(".")[:-1], older).pop(key.rpartition(".")[2], None)
    assert cell_hash(older) == cell_hash(config)
    assert home(older) == home(config)
    other = with_leaf(config, key, "another value")
    assert (cell_hash(other) == cell_hash(config)) == (facts_of(key).role != "definition")
    assert (home(other) == home(config)) == (facts_of(key).role == "bookkeeping")


def test_the_same_number_is_the_same_cell_however_it_is_written():
    assert identity("rho=0.05") == identity("rho=5e-2") == identity("rho=.05") == identity()
    assert identity("schedule.warmup_epochs=0") == identity("schedule.warmup_epochs=0.0")
    assert identity("m=null", "clip_norm=null", "label_smoothing=0") == identity()
    assert identity("dataset.mean=[1]") == identity("dataset.mean=[1.0]") != identity("dataset.mean=[1.5]")
    assert cell_hash(with_leaf(DEFAULT, "lr", 1)) == cell_hash(with_leaf(DEFAULT, "lr", 1.0))


def test_the_order_of_what_is_written_does_not_matter():
    assert identity("lr=0.2", "optimizer=asam", "rho=1", "m=32") == identity(
        "m=32", "rho=1", "optimizer=asam", "lr=0.2"
    )
    turned = {key: DEFAULT[key] for key in reversed(DEFAULT)}
    assert cell_hash(turned) == cell_hash(DEFAULT)


def test_what_runs_is_the_identity_not_how_it_was_chosen():
    assert identity() == identity("augmentation=basic", "augmentation.crop.pad=0")
    written = identity("augmentation=cutout", "augmentation.order=[flip,crop,normalise]")
    assert identity("augmentation=basic") == written != identity()


STAYS = ["wandb=disabled", "progress=silent", "download=false", "resume=false", "record_every=3", "data_dir=/data"]
STAYS += ["sharpness=hessian", "sharpness=none", "sharpness.every=3", "sharpness.checkpoint=best"]
STAYS += ["graph=true", "rho=0.050", "label_smoothing=0", "m=null"]
MOVES = ["name=other", "seed=1", "threads=2", "device=cuda", "precision=bf16", "deterministic=true"]
MOVES += ["compile=true", "base_optimizer.fused=false", "channels_last=false", "lr=0.2", "rho=0.1"]


@pytest.mark.parametrize(
    ("override", "moves"),
    [*((override, False) for override in STAYS), *((override, True) for override in MOVES)],
)
def test_a_home_moves_with_name_seed_numerics_and_cell(override, moves):
    assert (home(compose_line([override])) != home(DEFAULT)) == moves


@pytest.mark.parametrize(
    ("line", "same"),
    [("micro_batch=64", True), ("micro_batch=999", True), ("micro_batch=63", False), ("m=16 micro_batch=32", True)],
)
def test_pieces_that_are_the_whole_make_no_other_home(line, same):
    words = line.split()
    assert (home(compose_line(words)) == home(compose_line(words[:-1]))) == same


def test_a_home_can_be_read():
    folder = home(compose_line(["optimizer=asam", "seed=7", "name=study"]))
    assert folder.parts[:3] == ("outputs", "runs", "study")
    assert folder.name == "seed=7"
    assert folder.parent.name.startswith("digits-digits_cnn-none-asam-rho=0.5-")
    assert home(compose_line(["optimizer=sgd"])).parent.name.startswith("digits-digits_cnn-none-sgd-")
    seeds = {home(compose_line([f"seed={seed}"])).parent for seed in (0, 1)}
    assert len(seeds) == 1


def test_a_number_that_is_not_finite_has_no_identity():
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell_hash(with_leaf(DEFAULT, "lr", float("nan")))


def test_a_result_of_schema_1_stays_recognised():
    """The file is the result of the command line in its `overrides`, and is never made again."""
    kept = json.loads((ROOT / "tests" / "data" / "result_schema1.json").read_text())
    assert kept["schema"] == 1
    assert cell_hash(modern(kept["config"])) == identity(*kept["overrides"])


def test_what_is_of_today_is_modern():
    assert modern(DEFAULT) == DEFAULT
    assert modern(modern(OLD["bare"])) == modern(OLD["bare"])


CALLED = {  # what a line of then is called today: names=code has gone
    f"experiment=luong2024/{recipe} optimizer=sam_{old}": f"experiment=luong2024/{recipe} optimizer=sam_{new}"
    for recipe in ("cifar100", "cifar100_clean")
    for old, new in (("direction", "magnitude"), ("magnitude", "direction"))
}


@pytest.mark.parametrize("line", OLD["options"])
def test_an_option_of_schema_1_is_the_cell_that_its_line_is_now(line):
    then = resolved_then(OLD["options"][line])
    assert cell_hash(modern(then)) == identity(*CALLED.get(line, line).split())


@pytest.mark.parametrize("line", OLD["options"])
def test_an_option_of_schema_1_is_within_the_limits_of_today(line):
    config = modern(resolved_then(OLD["options"][line]))
    assert [said for key, value in flat(config).items() if (said := finding(key, value))] == []
