"""What a command line composes to, what is stronger than what, and one exit code and one message for every end."""

from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import ConfigKeyError

from sam_repro.config.launch import guard
from sam_repro.config.lines import check_config, compose_line
from sam_repro.config.options import config_dir
from sam_repro.config.schema import flat
from sam_repro.errors import Busy, Failure, Stopped, UserError, refuse_damaged

ROOT = Path(__file__).parents[2]


def test_the_command_line_is_stronger_than_the_data_set_and_that_than_the_file():
    plain, large = compose_line([]), compose_line(["dataset=cifar100"])
    assert plain["choices"] == {
        "rho_schedule": "constant",
        "dataset": "digits",
        "architecture": "digits_cnn",
        "augmentation": "none",
        "sharpness": "lambda_max",
        "optimizer": "sam",
        "base_optimizer": "sgd",
        "schedule": "cosine",
    }
    assert (plain["epochs"], plain["batch_size"], plain["threads"]) == (20, 64, 1)
    assert large["choices"] == plain["choices"] | {
        "dataset": "cifar100",
        "architecture": "resnet20",
        "augmentation": "basic",
    }
    assert (large["epochs"], large["batch_size"], large["threads"]) == (200, 128, None)
    mine = compose_line(["dataset=cifar100", "architecture=wrn16_4", "augmentation=cutout", "epochs=3", "threads=2"])
    assert mine["choices"] == large["choices"] | {"architecture": "wrn16_4", "augmentation": "cutout"}
    assert (mine["epochs"], mine["batch_size"], mine["threads"]) == (3, 128, 2)
    assert mine["lr"] == large["lr"]


def test_the_home_of_a_run_needs_no_quotes():
    home = "outputs/runs/main/digits-rho=0.05-1/seed=0/model.safetensors"
    plain, quoted = (
        compose_line([word]) for word in (f"architecture.weights={home}", f"architecture.weights='{home}'")
    )
    assert plain["architecture"]["weights"] == quoted["architecture"]["weights"] == home


def test_rho_is_the_rules_own_unless_the_command_line_gives_one():
    assert [compose_line([f"optimizer={name}"])["rho"] for name in ("sam", "asam", "sgd")] == [0.05, 0.5, None]
    given = compose_line(["rho=0.2", "optimizer=asam"])
    assert given["rho"] == given["optimizer"]["rho"] == 0.2
    assert (
        compose_line(["rho_schedule=like_lr"])["origin"]
        == compose_line([])["origin"]
        != compose_line(["rho=0.05"])["origin"]
    )


def test_augmentation_takes_the_sizes_of_the_data_set():
    for dataset, pad, flip, cutout in (("digits", 1, 0, 4), ("cifar10", 4, 0.5, 16)):
        made = compose_line([f"dataset={dataset}", "augmentation=cutout"])["augmentation"]
        assert (made["crop"]["pad"], made["flip"]["probability"], made["cutout"]["size"]) == (pad, flip, cutout)
        assert "cutout" not in compose_line([f"dataset={dataset}", "augmentation=basic"])["augmentation"]
    words = ["augmentation=cutout", "dataset.augmentation.cutout=3", "augmentation.crop.pad=2"]
    mine = compose_line(words)["augmentation"]
    assert (mine["crop"]["pad"], mine["cutout"]["size"]) == (2, 3)


def test_interpolations_are_resolved():
    config = check_config(compose_line(["rho=${lr}", "lr=0.3"]))
    assert config["rho"] == config["optimizer"]["rho"] == 0.3
    assert not any("${" in str(value) for value in flat(config).values())


def test_values_have_the_types_of_the_schema():
    config = compose_line(["lr=1", "weight_decay=0", "name=2026", "label_noise={rate:1}"])
    assert (config["lr"], type(config["lr"])) == (1.0, float)
    assert type(config["weight_decay"]) is type(config["label_noise"]["rate"]) is float
    assert config["name"] == "2026"
    assert (
        compose_line(["optimizer=sam_ball", "optimizer.p=inf"])["optimizer"]["p"] == "inf"
    )  # JSON has no number for it


def test_composing_leaves_no_trace():
    first = compose_line(["lr=0.3", "optimizer=asam"])
    assert compose_line([]) == compose_line([])
    assert compose_line(["lr=0.3", "optimizer=asam"]) == first


def test_options_of_ones_own(tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("_target_: mine.Schedule\nspeed: 3\n")
    config = check_config(compose_line(["schedule=mine", "schedule.speed=4"], str(tmp_path)))
    assert config["choices"]["schedule"] == "mine"
    assert config["schedule"] == {"_target_": "mine.Schedule", "speed": 4}


def test_a_file_of_ones_own_is_read_again_once_it_has_changed(tmp_path):
    file = tmp_path / "schedule" / "mine.yaml"
    file.parent.mkdir()
    for speed in (3, 4):
        file.write_text(f"_target_: mine.Schedule\nspeed: {speed}\n")
        for _ in range(2):
            assert compose_line(["schedule=mine"], str(tmp_path))["schedule"]["speed"] == speed


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["optimizer=sam", "rho=0.1", "lr=1", "dataset=cifar10", "label_noise.rate=0.4"],
        ["experiment=foret2021/cifar", "epochs=1800", "dataset=cifar100"],
        ["table=foret2021/table1", "cell=3", "seed=2"],
    ],
)
def test_what_is_shown_is_what_runs(light, tmp_path, line):
    said = light.run(tmp_path, ["--cfg", "job", "--resolve", *line]).out
    shown, config = yaml.safe_load(said), compose_line(line)
    del config["choices"], config["origin"]
    assert {"assumed": {}} | shown == config


def test_checked_tells_every_finding():
    assert check_config(compose_line([])) == compose_line([])
    with pytest.raises(UserError, match=r"^epochs = 0: must be an integer >= 1\nlr = -1: must be a finite number > 0$"):
        check_config(compose_line([]) | {"epochs": 0, "lr": -1})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\nJSON"), r"^file: damaged \(no\); remedy$"),
        (KeyError("steps"), r"^file: damaged \(no 'steps'\); remedy$"),
        (UserError("what to change"), "^what to change$"),
    ],
)
def test_what_cannot_be_read_back_is_damaged_and_a_message_stays_as_it_is(error, said):
    with pytest.raises(UserError, match=said), refuse_damaged(Path("file"), "remedy"):
        raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("lr = 0: no"), 2, "sam_repro: lr = 0: no\n"),
        (HydraException("what"), 2, "sam_repro: what\n"),
        (ConfigKeyError("what"), 2, "sam_repro: what\n"),
        (Busy("home: busy"), 3, "sam_repro: home: busy\n"),
        (Failure("step 3"), 1, "sam_repro: step 3\n"),
        (Stopped(2, "saved"), 130, "sam_repro: saved\n"),
        (Stopped(15, "saved"), 143, "sam_repro: saved\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_has_its_code_and_one_message(capsys, error, code, said):
    def action():
        raise error

    assert guard(action) == code
    assert capsys.readouterr() == ("", said)


def test_a_crash_shows_where(capsys):
    assert guard(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert guard(lambda: 0) == 0


def test_the_folder_of_options_is_there():
    assert (config_dir() / "config.yaml").is_file()
