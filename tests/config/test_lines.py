"""From a command to its lines: sweeps are expanded once, a cell is composed once, and any character works."""

import os
from pathlib import Path
from typing import Any

import pytest
from called import command
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from sam_repro import train
from sam_repro.config import compose as hydra_side
from sam_repro.config import lines, table_file
from sam_repro.config.command_line import read_command
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import Line, compose_line, compose_sweep, tell_idle
from sam_repro.errors import UserError
from sam_repro.table import __main__ as table_door

QUIET = ["wandb=disabled", "progress=silent", "sharpness=none", "epochs=1", "max_steps=1"]


def swept(*words: str) -> list[Line]:
    return compose_sweep(read_command(["-m", *words]))


SWEEPS = [
    ["seed=range(3)"],
    ["seed=range(1,7,2)", "lr=0.1"],
    ["lr=choice(0.1,0.2)", "seed=2"],
    ["lr=sort(0.3,0.1,0.2)"],
    ["lr=sort(0.3,0.1,0.2,reverse=true)"],
    ["lr=tag(mine,choice(0.1,0.2))"],
    ["optimizer=sgd,sam", "seed=0,1", "base_optimizer.momentum=0.5,0.9"],
    ["name='a','b'"],
    ["dataset.mean=[0.1],[0.2]"],
    ["m=null,16"],
]


@pytest.mark.parametrize("words", SWEEPS)
def test_a_sweep_has_the_lines_that_hydras_own_sweeper_makes_of_it(words: list[str]) -> None:
    read = read_command(["-m", *words])
    assert read.lines() == BasicSweeper.split_arguments(list(read.overrides), max_batch_size=None)[0]


def test_a_shuffled_sweep_is_shuffled_once() -> None:
    """What is checked, what runs and the table at the end are the same lines, whatever their order."""
    seeds = [line.config["seed"] for line in swept("seed=shuffle(0,1,2,3,4,5,6,7)")]
    assert sorted(seeds) == list(range(8))


@pytest.mark.parametrize("words", [["seed=range(0,0)"], ["seed=range(3,1)", "lr=0.1,0.2"]])
def test_a_sweep_without_values_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^seed=range.*: has no values; write at least one, such as seed=0,1$"):
        swept(*words)


def test_a_cell_is_composed_once_whatever_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[Any] = []
    real = lines.compose
    monkeypatch.setattr(lines, "compose", lambda *arguments: composed.append(arguments) or real(*arguments))
    found = swept("table=luong2024/resnet18", "cell=0,1,2", "seed=0,1,2")
    assert len(composed) == 3
    assert [line.config["seed"] for line in found] == [0, 1, 2] * 3
    assert len({cell_hash(line.config) for line in found}) == 3
    assert found[4].config == compose_line(["table=luong2024/resnet18", "cell=1", "seed=1"])


def test_options_that_lines_share_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hydra_side._base.cache_clear()
    swept("optimizer=sgd,sam", "lr=0.1,0.2,0.3", "seed=0,1")
    assert hydra_side._base.cache_info().misses == 2


def test_what_one_line_sets_is_not_in_the_next() -> None:
    one, other = swept("lr=0.3,0.1", "rho=0.2")
    assert (one.config["lr"], other.config["lr"]) == (0.3, 0.1)
    assert compose_line([])["lr"] == 0.1
    assert compose_line([])["rho"] == 0.05


def test_a_rho_is_dropped_where_a_swept_rule_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    found = swept("optimizer=sgd,sam", "rho=0.1,0.2")
    assert [(line.config["choices"]["optimizer"], line.config["rho"]) for line in found] == [
        ("sgd", None),
        ("sam", 0.1),
        ("sam", 0.2),
    ]
    assert found[0].config == compose_line(["optimizer=sgd"])
    assert found[0].words == ["optimizer=sgd"]
    assert capsys.readouterr().out.count("sgd has no rho") == 1
    with pytest.raises(UserError, match=r"rho = 0.1: sgd has no rho"):
        swept("optimizer=sgd", "rho=0.1,0.2")


TEXTS = [
    "a b",
    "é",
    "a&b",
    "epoch=9",
    "a,b",
    "a'b",
    'a"b',
    "[x]",
    "{y}",
    "a:b",
    "c\\d",
    "null",
    "true",
    "1e-3",
    "#x",
    "~x",
    "%s",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_a_table_is_that_text_in_a_run(text: str) -> None:
    (word,) = table_file.spell_words({"data_dir": text})
    assert compose_line([word])["data_dir"] == text


def test_lists_and_nodes_of_a_table_are_those_of_a_run() -> None:
    written = table_file.spell_words(
        {"dataset.mean": [0.5], "label_noise": {"rate": 0.2, "kind": "uniform"}, "m": None}
    )
    config = compose_line(written)
    assert (config["dataset"]["mean"], config["label_noise"]["rate"], config["m"]) == ([0.5], 0.2, None)


@pytest.mark.parametrize("name", ["jos\u00e9 & b", "epoch=9", "[x],b", "it's", "a #b"])
def test_a_folder_of_options_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "optimizer").mkdir(parents=True)
    (folder / "table").mkdir()
    (folder / "optimizer" / "mysam.yaml").write_text(
        "# @package _global_\nrho: 0.05\noptimizer: {_target_: sam_repro.optimizer.SAM, _partial_: true, rho: 0.05}\n"
    )
    (folder / "table" / "mine.yaml").write_text("title: t\nseeds: [0]\ncells: [{name: a, set: {optimizer: mysam}}]\n")
    own = ["--config-dir", str(folder)]
    single = command(train.main, tmp_path, *own, "optimizer=mysam", "seed=3", *QUIET)
    assert single.code == 0, single
    sweep = command(train.main, tmp_path, *own, "-m", "optimizer=mysam", "seed=3,4", *QUIET)  # seed 3 is done
    assert sweep.code == 0, sweep
    assert len(list(tmp_path.glob("outputs/runs/*/*/seed=*/result.json"))) == 2
    assert command(table_door.main, tmp_path, "mine", *own).code == 0


@pytest.mark.parametrize("folder", ["a b", "epoch=9", "it's", "jos\u00e9,x"])
def test_a_folder_of_data_may_have_any_name(folder: str) -> None:
    quoted = folder.replace("'", "\\'")
    assert compose_line([f"data_dir='{quoted}'"])["data_dir"] == folder


def test_an_option_that_the_line_chose_gets_no_key_of_the_recipe_that_it_lacks() -> None:
    """The recipe sets momentum and nesterov, of the optimizer that it runs: AdamW has neither."""
    line = ["experiment=foret2021/cifar", "architecture=wrn28_10"]
    of_recipe = compose_line(line)["base_optimizer"]
    chosen = compose_line([*line, "base_optimizer=adamw"])["base_optimizer"]
    assert of_recipe["nesterov"] is True
    assert chosen == compose_line(["base_optimizer=adamw"])["base_optimizer"]


@pytest.mark.parametrize("spelled", ["0.05", "5e-2", "50e-3"])
def test_where_a_radius_is_from_does_not_hang_on_its_spelling(tmp_path: Path, spelled: str) -> None:
    (tmp_path / "optimizer").mkdir()
    node = "optimizer: {_target_: sam_repro.optimizer.SAM, _partial_: true, rho: '${rho}'}"
    (tmp_path / "optimizer/mine.yaml").write_text(f"# @package _global_\nrho: {spelled}\n{node}\n")
    config = compose_line(["experiment=digits/label_noise", "optimizer=mine"], str(tmp_path))
    assert (config["rho"], config["origin"]["rho"]) == (0.05, "the default of mine")


def test_a_file_with_a_byte_order_mark_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("# @package _global_\nrho: 0.1\n", encoding="utf-8-sig")
    with pytest.raises(UserError, match=r"mine\.yaml: begins with a byte order mark.*; save it without$"):
        compose_line([], str(tmp_path))


IDLE = {  # a line: what of it changes nothing, and which value is why
    "data_dir=x": ["data_dir: has no effect, because dataset.in_data_dir = false"],
    "data_dir=x dataset=arrays": [],
    "data_dir=data": [],  # the default
    "optimizer=sgd rho_schedule=late": ["rho_schedule: has no effect, because rho = null"],
    "-m optimizer=sgd,sam rho_schedule=late": [],  # it has one on a line
    "label_noise.seed=3": ["label_noise.seed: has no effect, because label_noise.rate = 0.0"],
    "label_noise.seed=3 label_noise.rate=0.1": [],
    "-m label_noise.kind=uniform,symmetric": ["label_noise.kind: has no effect, because label_noise.rate = 0.0"],
    "experiment=digits/label_noise label_noise.rate=0": [],  # which the recipe has at 0.4
    "diagnostics=loss diagnose_every=3": ["diagnose_every: has no effect, because diagnostics = loss"],
    "dataset.augmentation.pad=3": ["dataset.augmentation.pad: has no effect, because augmentation.order = [normalise]"],
    "dataset.augmentation.pad=3 augmentation=basic": [],
    "augmentation=cutout augmentation.cutout.size=0": [],
    "m=64 micro_batch=64": [
        "m: has no effect, because batch_size = 64",
        "micro_batch: has no effect, because m = 64",
    ],
}


@pytest.mark.parametrize("line", IDLE)
def test_a_key_that_changes_nothing_is_named(capsys: pytest.CaptureFixture[str], line: str) -> None:
    given = read_command(line.split())
    tell_idle(given, compose_sweep(given))
    assert capsys.readouterr().err == "".join(f"sam_repro: {said}\n" for said in IDLE[line])


RECIPE = "# @package _global_\ndefaults: [{override /dataset: digits}]\nassumed: {}\nfor: {}\ncases: []\nfrom: {}\n"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("defaults: [{override /dataset: digits}]", "defaults: 3", "defaults must be a list .*; correct the files of"),
        ("{override /dataset: digits}", "true", "Unsupported type in defaults : bool; correct the files of these"),
        ("digits", "[]", "experiment=mine: no dataset is chosen; add one, such as dataset="),
        ("assumed: {}", "assumed: {lr: []}", r"mine: assumed: lr = \[\]: must be a text, where the value is from"),
        ("for: {}", "for: text", "mine: for = text: must be a mapping"),
        ("cases: []", "cases: '${seed}'", "mine: cases = 0: must be a list of when, set, from"),
    ],
)
def test_a_file_with_values_of_another_type_is_refused_in_a_line(
    tmp_path: Path, before: str, after: str, told: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(RECIPE.replace(before, after))
    with pytest.raises(UserError, match=told):
        compose_line(["experiment=mine"], str(tmp_path))


def test_what_lies_among_option_files_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    os.mkfifo(tmp_path / "optimizer/mine.yaml")
    with pytest.raises(UserError, match=r"mine\.yaml: is no plain file; take it away"):
        compose_line(["optimizer=mine"], str(tmp_path))
