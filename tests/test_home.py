"""What makes a cell, what makes a home, and that only one process works in it."""

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam_repro.compose import composed
from sam_repro.home import Busy, cell_hash, home, locked, set_aside
from sam_repro.schema import APART as NODES
from sam_repro.schema import BOOKKEEPING, NEUTRAL, NUMERICS, flat

ROOT = Path(__file__).parents[1]
DEFAULT = composed([])
LEAVES = flat(DEFAULT)
APART = {"seed", *BOOKKEEPING, *NUMERICS}
LOCK = "import sys; from pathlib import Path; from sam_repro.home import *; folder = Path(sys.argv[1])\n"


def with_leaf(config, key, value):
    """The configuration with another value of a dotted key."""
    head, _, rest = key.partition(".")
    return config | {head: with_leaf(config[head], rest, value) if rest else value}


def identity(*overrides):
    return cell_hash(composed(list(overrides)))


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_in_the_identity_but_those_that_change_no_number(key):
    other = cell_hash(with_leaf(DEFAULT, key, "another value"))
    assert (other == cell_hash(DEFAULT)) == (key in APART or key.partition(".")[0] in NODES)


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_neutral_value_is_as_if_the_key_were_not_there(key):
    config = with_leaf(composed(["optimizer=sam"]), key, NEUTRAL[key])
    node, _, leaf = key.rpartition(".")
    older = with_leaf(config, node, {k: v for k, v in config[node].items() if k != leaf}) if node else dict(config)
    older.pop(key, None)
    assert cell_hash(older) == cell_hash(config)
    assert home(older) == home(config)
    other = with_leaf(config, key, "another value")
    assert (cell_hash(other) == cell_hash(config)) == (key in NUMERICS)
    assert home(other) != home(config)


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
    chosen = identity("augmentation=basic")
    written = identity("augmentation.pad=1")
    assert chosen == written


STAYS = ["wandb=disabled", "progress=silent", "download=false", "resume=false", "record_every=3", "data_dir=/data"]
STAYS += ["sharpness=hessian", "sharpness=none", "sharpness.every=3", "sharpness.checkpoint=best"]
STAYS += ["rho=0.050", "label_smoothing=0", "m=null"]
MOVES = ["name=other", "seed=1", "threads=2", "device=cuda", "precision=bf16", "deterministic=true"]
MOVES += ["compile=true", "graph=true", "base_optimizer.fused=false", "channels_last=false", "lr=0.2", "rho=0.1"]


@pytest.mark.parametrize(
    ("override", "moves"),
    [*((override, False) for override in STAYS), *((override, True) for override in MOVES)],
)
def test_a_home_moves_with_name_seed_numerics_and_cell(override, moves):
    assert (home(composed([override])) != home(DEFAULT)) == moves


def test_a_home_can_be_read():
    folder = home(composed(["optimizer=asam", "seed=7", "name=study"]))
    assert folder.parts[:3] == ("outputs", "runs", "study")
    assert folder.name == "seed=7"
    assert folder.parent.name.startswith("digits-digits_cnn-none-asam-rho=0.5-")
    assert home(composed(["optimizer=sgd"])).parent.name.startswith("digits-digits_cnn-none-sgd-")
    seeds = {home(composed([f"seed={seed}"])).parent for seed in (0, 1)}
    assert len(seeds) == 1


def test_a_number_that_is_not_finite_has_no_identity():
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell_hash(with_leaf(DEFAULT, "lr", float("nan")))


def test_a_result_of_schema_1_stays_recognised():
    """The file is the result of the command line in its `overrides`, and is never made again."""
    kept = json.loads((ROOT / "tests" / "data" / "result_schema1.json").read_text())
    assert kept["schema"] == 1
    assert cell_hash(kept["config"]) == kept["cell_hash"]
    assert identity(*kept["overrides"]) == kept["cell_hash"]


def in_another_process(code, folder):
    command = [sys.executable, "-c", LOCK + code, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_lock_keeps_other_processes_out_until_it_ends(tmp_path):
    folder = tmp_path / "new" / "home"
    with locked(folder):
        assert not folder.exists()  # the lock lies beside it
        other = in_another_process("with locked(folder): print('in')", folder)
        assert other.stdout == ""
        assert f"Busy: {folder}: another process is running this; wait for it, or change the seed" in other.stderr
        with pytest.raises(Busy), locked(folder):
            pass
        elsewhere = in_another_process("with locked(folder): print('in')", folder.with_name("other"))
        assert elsewhere.stdout == "in\n", elsewhere.stderr
    again = in_another_process("with locked(folder): print('in')", folder)
    assert again.stdout == "in\n", again.stderr


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
    killed = in_another_process("import os\nwith locked(folder): os.kill(os.getpid(), 9)", tmp_path / "home")
    assert killed.returncode == -9
    with locked(tmp_path / "home"):
        pass


def test_homes_set_aside_are_all_kept(tmp_path):
    folder = tmp_path / "seed=0"
    for number in (1, 2, 3):
        folder.mkdir()
        (folder / "result.json").write_text(str(number))
        assert set_aside(folder) == tmp_path / f"seed=0.aside-{number}"
        assert not folder.exists()
    assert [(tmp_path / f"seed=0.aside-{n}" / "result.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path, monkeypatch):
    """`is_locked` holds it for an instant, which ends here when the other one waits."""
    folder = tmp_path / "home"
    with locked(folder):
        (file,) = tmp_path.iterdir()
    with file.open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: look.close())
        with locked(folder):
            assert look.closed
