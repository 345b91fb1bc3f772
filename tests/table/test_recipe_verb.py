"""`table recipe`: which definitions hold for a recipe's line, and where each of them is from."""

import re
import subprocess
import sys

import pytest
from called import command

from sam_repro.config.schema import Config
from sam_repro.table import __main__ as door
from sam_repro.table.definitions import ASSUMED, CODE, DEFAULT, LINE, PART_OF, PARTS, STATED, definitions

FORET, LUONG = "foret2021/cifar", "luong2024/cifar100"


def rows(line, everything=False):
    name, *words = line.split()
    return {row.key: row for row in definitions(name, words).rows(everything)}


@pytest.mark.parametrize(
    ("line", "key", "value", "kind", "words"),
    [
        # Did Foret's CIFAR runs decay the weights of batch norm, and how do we know?
        (
            FORET,
            "weight_decay_on",
            "all",
            CODE,
            "the README of its first commit calls the decay of batch norm critical",
        ),
        # Is the decay in the loss, or in the base?
        (FORET, "weight_decay_in", "loss", CODE, "equation 1 keeps the decay outside of the maximum"),
        (LUONG, "weight_decay_in", "base", CODE, "the code"),
        # The batch, and how many examples share one perturbation?
        (FORET, "batch_size", 256, STATED, "Tables 6 and 7"),
        (f"{FORET} optimizer=sgd", "m", 32, ASSUMED, "not stated as a number; the batch of 256 over 8 devices"),
        (LUONG, "m", None, CODE, "which runs on one GPU"),
        # Are gradients clipped? Is the momentum Nesterov's?
        (FORET, "clip_norm", 5.0, CODE, "by default; not in the paper"),
        (FORET, "base_optimizer.nesterov", True, CODE, "the paper has momentum 0.9"),
        (LUONG, "base_optimizer.nesterov", False, CODE, "the code"),
        # Which rho at 40 % of label noise? And what of that run does the paper not say?
        (f"{FORET} architecture=resnet32 label_noise.rate=0.4", "rho", 0.1, STATED, "section 3.3"),
        (f"{FORET} architecture=resnet32 label_noise.rate=0.4", "label_noise.rate", 0.4, LINE, "label_noise.rate=0.4"),
        (f"{FORET} architecture=resnet32 label_noise.rate=0.4", "schedule.per", "step", ASSUMED, "as the CIFAR runs"),
        # Where are the constants of CIFAR-100 from?
        (f"{FORET} dataset=cifar100", "dataset.mean", [0.50707516, 0.48654887, 0.44091784], CODE, "the code"),
        (LUONG, "dataset.std", [0.2673, 0.2564, 0.2762], CODE, "the code"),
        # Which scope, and which class of the study, does sam_direction run?
        (
            f"{LUONG} optimizer=sam_direction",
            "optimizer.scope",
            "element",
            CODE,
            "the text defines a vector's direction",
        ),
        (
            f"{LUONG} optimizer=sam_direction",
            "optimizer",
            "sam_direction",
            ASSUMED,
            "class sammagnitude of the study's",
        ),
        # The weight decay of the rows of SGD?
        (f"{LUONG} optimizer=sgd", "weight_decay", 0.001, ASSUMED, "the code's configuration has 5e-4"),
        (f"{FORET} optimizer=sgd epochs=1800", "weight_decay", 0.001, STATED, "Table 6"),
        # Which epoch is reported?
        (LUONG, "report", "best_validation", CODE, "the code"),
        (FORET, "report", "last", ASSUMED, "the code evaluates each epoch and names none"),
        # Is cutout one square for each image, and with which probability?
        (LUONG, "augmentation.cutout.per", "image", CODE, "the code"),
        (LUONG, "augmentation.cutout.probability", 0.5, CODE, "the code"),
        (f"{FORET} augmentation=cutout", "augmentation.cutout.per", "batch", CODE, "that it is on purpose"),
        # The precision?
        (FORET, "precision", "auto", ASSUMED, "JAX's float32, on a TPU by default with bfloat16 products"),
        (LUONG, "precision", "auto", ASSUMED, "float32, on a GPU with TF32 in convolutions"),
    ],
)
def test_the_questions_that_users_ask(line, key, value, kind, words):
    row = rows(line)[key]
    assert (row.value, row.kind) == (value, kind)
    assert words in row.where


def test_the_default_is_that_of_the_same_options_without_the_recipe():
    found = rows(f"{FORET} dataset=cifar100 epochs=1800 rho=0.3")
    assert {key: (found[key].value, found[key].default) for key in ("architecture", "batch_size", "lr", "epochs")} == {
        "architecture": ("wrn28_10", "resnet20"),
        "batch_size": (256, 128),
        "lr": (0.05, 0.1),
        "epochs": (1800, 200),
    }
    assert (found["rho"].kind, found["rho"].where) == (LINE, "rho=0.3")
    assert found["architecture.shortcut"].default == "conv"


def test_what_the_line_writes_is_the_lines_and_a_chosen_option_does_not_speak_for_the_keys_below_it():
    found = rows(f"{FORET} augmentation=cutout base_optimizer.momentum=0.5 lr=0.3 epochs=800")
    lines = [key for key, row in found.items() if row.kind == LINE]
    assert lines == ["augmentation", "base_optimizer.momentum", "lr", "epochs"]
    assert (found["augmentation.crop.padding_mode"].value, found["augmentation.crop.padding_mode"].kind) == (
        "reflect",
        CODE,
    )
    assert found["augmentation.crop.pad"].kind == STATED
    assert found["weight_decay"].where.startswith("not stated for this network and these epochs")


@pytest.mark.parametrize(
    ("line", "noted", "own", "set_keys"),
    [
        ("liu2022/cifar", "architecture", {"architecture.freeze", "architecture.initialisation"}, set()),
        ("liu2022/imagenet_vit", "dataset", {"dataset.source.split_seed"}, {"dataset.source.share"}),
        (f"{FORET} architecture=resnet32", "architecture", {"architecture.new_head"}, {"architecture.initialisation"}),
    ],
)
def test_what_is_assumed_of_a_group_is_not_said_of_the_values_that_its_option_brings(line, noted, own, set_keys):
    found = rows(line, everything=True)
    assert found[noted].kind == ASSUMED
    assert {found[key].kind for key in own} == {DEFAULT}
    assert {found[key].kind for key in set_keys} <= {ASSUMED}


@pytest.mark.parametrize("network", ["resnet32", "wrn28_10"])
def test_the_kind_of_the_label_noise_is_assumed_for_every_network(network):
    found = rows(f"{FORET} architecture={network} label_noise.rate=0.4")
    assert found["label_noise.kind"].where == "not stated; the errors of SGD fit labels drawn anew from all classes"


def test_the_cell_of_a_table_is_a_line():
    found = definitions(LUONG, ["table=luong2024/resnet18", "cell='sam 0.1'", "rho=0.3"])
    by_key = {row.key: row for row in found.rows()}
    assert by_key["optimizer"].where == "cell sam 0.1 of luong2024/resnet18: optimizer=sam"
    assert by_key["rho"].where == "rho=0.3"


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        (FORET, {"sharpness"}),  # a measure of our own beside the paper's error rates
        (f"{FORET} dataset=fashion_mnist augmentation=cutout", {"sharpness"}),
        (f"{FORET} architecture=resnet32 label_noise.rate=0.4", {"sharpness", "label_noise.seed"}),
        (LUONG, {"dataset.validation.noisy"}),  # there is no label noise
        (f"{LUONG} optimizer=sgdhess dataset=cifar10 architecture=wrn28_10", {"dataset.validation.noisy"}),
        ("luong2024/cifar100_clean optimizer=sam_magnitude", set()),
    ],
)
def test_of_a_papers_recipe_hardly_a_definition_is_our_default(line, unknown):
    assert {key for key, row in rows(line).items() if row.kind == DEFAULT} == unknown


def test_an_option_of_which_the_recipe_does_not_speak_keeps_its_own_values():
    """The augmentation of the paper must not come back through the keys below it."""
    for line in (FORET, LUONG):
        none = rows(f"{line} augmentation=none", everything=True)
        assert none["augmentation.order"].value == ["normalise"]
        assert none["augmentation.order"].where == "no case: none for augmentation none"
    assert rows(f"{LUONG} augmentation=basic")["augmentation.order"].value == ["flip", "crop", "normalise"]


def test_all_shows_what_is_neutral_or_idle_and_no_bookkeeping():
    few, everything = rows(FORET), rows(FORET, everything=True)
    assert few.keys() < everything.keys()
    new = everything.keys() - few.keys()
    assert {
        "optimizer.perturb",
        "rho_schedule.warmup_epochs",
        "max_steps",
        "label_noise.kind",
        "sharpness.batch_size",
    } <= new
    assert not {"name", "graph", "device", "base_optimizer.fused", "optimizer.rho"} & everything.keys()
    assert rows(f"{FORET} device=cpu seed=3")["device"].kind == LINE
    assert "rho" not in rows(f"{FORET} optimizer=sgd", everything=True)


def test_the_rows_stand_in_the_order_of_the_parts():
    parts = [row.part for row in definitions(LUONG, []).rows()]
    assert list(dict.fromkeys(parts)) == [part for part in PARTS if part in parts]
    assert set(Config.__dataclass_fields__) - set(PART_OF) == {"assumed"}


def test_markdown_is_a_table_whose_cells_are_one_line_each(tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    mine = '# @package _global_\nepochs: 3\nlr: 0.5\nassumed: {lr: "a |bold|\\n guess"}\n'
    (tmp_path / "mine/experiment/own.yaml").write_text(mine)
    said = command(door.main, tmp_path, "recipe", "own", "rho=0.2", "--markdown", "--config-dir", "mine")
    assert said.out.startswith("# own rho=0.2\n\n")
    table = [line for line in said.out.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}
    (lr,) = [line for line in table if "| lr " in line]
    assert re.search(r"\| assumed +\| a \\\|bold\\\| guess +\|$", lr)
    (epochs,) = [line for line in table if "| epochs " in line]
    assert "the recipe itself" in epochs


def test_it_needs_no_torch_and_no_data():
    code = (
        "import sys; from sam_repro.table.__main__ import _main; _main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "recipe", LUONG], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["foret2021/cifr"], "experiment = 'foret2021/cifr': no such option; did you mean foret2021/cifar?"),
        ([FORET, "epoch=3"], "epoch=3: no such key; did you mean epochs?"),
        ([FORET, "optimizer=samm"], "optimizer = samm: no such option; did you mean sam?"),
        ([FORET, "sgd"], "sgd: cannot be read; settings are written key=value"),
        ([FORET, "lr=-1"], "lr = -1: must be a finite number > 0"),
        ([FORET, "optimizer=sgd", "rho=0.1"], "rho = 0.1: sgd has no rho"),
        ([FORET, "dataset=digits"], "dataset = digits: foret2021/cifar is for cifar10, cifar100, svhn, fashion_mnist"),
        ([FORET, "rho=0.1,0.2"], "rho=0.1,0.2: several values are a sweep; a recipe is shown for one line"),
        ([FORET, "experiment=luong2024/cifar100"], "experiment=luong2024/cifar100: the recipe stands before its line"),
        ([FORET, "table=luong2024/resnet18", "cell=1"], "its recipe is luong2024/cifar100, not foret2021/cifar"),
        ([LUONG, "table=luong2024/resnet18"], "table = luong2024/resnet18: which cell? Write cell=0"),
        ([LUONG, "table=luong2024/resnet18", "cell=99"], "cell = 99: luong2024/resnet18 has the cells"),
    ],
)
def test_wrong_words_are_refused_in_a_line(tmp_path, words, told):
    said = command(door.main, tmp_path, "recipe", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("sam_repro: ")
    assert told in said.err
    assert len(said.err.splitlines()) == 1


def test_a_recipe_without_a_name_is_asked_for(tmp_path):
    assert "recipe: of what?" in command(door.main, tmp_path, "recipe").err
