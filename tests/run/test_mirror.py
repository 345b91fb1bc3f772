"""The mirror: what wandb's own tools read from the disk, and that nothing of wandb stops or holds a run."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sam_repro.run.mirror import open_mirror

# One process plays a sweep: wandb takes a second to start and keeps its state for the process.
SWEEP = """
import json, math, os, signal, subprocess, sys
from pathlib import Path
from sam_repro.run import mirror

home = Path("runs/seed=0 x")
told = []

def open_mirror(mode, run_id):
    return mirror.open_mirror(
        mode, directory=home, run_id=run_id, name=f"name {run_id}", group="cell", job_type="train",
        tags=["digits", "sam"], config={"lr": 0.1, "choices": {"optimizer": "sam"}, "rho": None}, say=told.append)

def cell(mode, run_id, exit_code=0, broken=lambda: None):
    opened = open_mirror(mode, run_id)
    for step in range(3):
        opened.log({"kind": "train", "step": step, "epoch": (step + 1) / 2, "loss": 1 / (step + 1)})
        broken()
    # the row of an epoch has the step of the row before; and what a resumed run repeats has a smaller one
    opened.log({"kind": "epoch", "step": 2, "epoch": 1.5, "test/error_pct": 5.0, "test/loss": math.nan})
    opened.log({"kind": "epoch", "step": 1, "epoch": 1.0, "test/error_pct": 7.5, "test/loss": 0.5})
    opened.summary({"peak/error_pct": 5.0})
    opened.finish(exit_code)
    opened.finish(0)
    opened.log({"step": 9})

def stop_service(number):
    for child in subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True).stdout.split():
        os.kill(int(child), number)

def leave(*arguments, **settings):
    sys.exit("wandb leaves")

home.mkdir(parents=True)
cell("disabled", "none")
os.environ["WANDB_MODE"] = "disabled"
cell("auto", "none")
assert not told
assert "wandb" not in sys.modules
del os.environ["WANDB_MODE"]
cell("auto", "one", exit_code=130)
open_mirror("auto", "left")
cell("auto", "two")
cell("auto", "one")
os.environ["WANDB_API_KEY"] = "a" * 40
mirror.START_SECONDS = 1
cell("auto", "dead")
cell("offline", "killed", broken=lambda: stop_service(signal.SIGKILL))
cell("offline", "next")
mirror.SECONDS = 2
cell("offline", "still", broken=lambda: stop_service(signal.SIGSTOP))
import wandb
cell("offline", "leaves", broken=lambda: setattr(wandb.run, "log", leave))
os.environ["WANDB_MODE"], os.environ["WANDB_PROJECT"] = "ofline", "mine"
cell("auto", "mistyped")
os.environ["WANDB_DISABLED"] = "true"
cell("auto", "none")
stop_service(signal.SIGSTOP)  # nothing waits for it at the exit
json.dump(told, sys.stdout)
"""


def wandb_tool(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "wandb", *arguments], cwd=cwd, capture_output=True, text=True, check=True
    )


def play(program, folder, host):
    """What a fresh process prints that finds nothing of wandb's in its surroundings but the host."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {
        "HOME": str(folder),
        "NETRC": str(folder / "netrc"),
        "WANDB_BASE_URL": host,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Folder and printed lines of a sweep without a key, then with one and a dead host."""
    folder = tmp_path_factory.mktemp("mirror")
    return folder, json.loads(play(SWEEP, folder, "http://127.0.0.1:9"))


def records(folder, run_id):
    """What wandb wrote for the first start of a run, by type of record."""
    path = min(folder.glob(f"runs/*/wandb/offline-run-*-{run_id}/*.wandb"))
    lines = wandb_tool("leet", "inspect", "--json", str(path), cwd=folder).stdout.splitlines()
    by_type = {}
    for line in map(json.loads, lines):
        by_type.setdefault(line["type"], []).append(line[line["type"]])
    return by_type


@pytest.mark.parametrize(("run_id", "exit_code"), [("one", 130), ("two", 0)])
def test_two_cells_of_one_process_are_two_whole_runs(sweep, run_id, exit_code):
    found = records(sweep[0], run_id)
    (run,) = found["run"]
    assert (run["run_id"], run["display_name"], run["run_group"]) == (run_id, f"name {run_id}", "cell")
    assert (run["project"], run["job_type"], run["tags"]) == ("sam_repro", "train", ["digits", "sam"])
    assert run["resume"]
    config = run["config"]["update"]
    assert (config["lr"], config["choices"], config["rho"]) == (0.1, {"optimizer": "sam"}, None)
    rows = [row["item"] for row in found["history"]]
    assert [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows] == [
        {"kind": "train", "step": 0, "epoch": 0.5, "loss": 1},
        {"kind": "train", "step": 1, "epoch": 1, "loss": 0.5},
        {"kind": "train", "step": 2, "epoch": 1.5, "loss": 1 / 3},
        {"kind": "epoch", "step": 2, "epoch": 1.5, "test/error_pct": 5, "test/loss": "NaN"},
        {"kind": "epoch", "step": 1, "epoch": 1, "test/error_pct": 7.5, "test/loss": 0.5},
    ]
    summary = {}
    for update in found["summary"]:
        summary |= update["update"]
    assert summary["test/error_pct"] == 7.5, "the smallest test error is nobody's result"
    assert summary["peak/error_pct"] == 5
    axes = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in found["metric"]}
    assert axes == {"step": None, "*": "step"}
    assert [end["exit_code"] for end in found["exit"]] == [exit_code]


def test_one_line_says_where_each_run_goes_and_why(sweep):
    _, told = sweep
    upload = "wandb sync --include-online 'runs/seed=0 x/wandb'"
    no_key = f"wandb: offline (No API key configured. Use `wandb login` to log in); upload with {upload}"
    assert told[:4] == [no_key] * 4
    dead, killed_start, killed, following, _, still, _, leaves, mistyped, offline = told[4:]
    assert dead.startswith("wandb: offline (Failed to get resume status for run dead: ")
    assert dead.endswith(f"; upload with {upload}")
    assert killed_start == following == f"wandb: offline; upload with {upload}"
    goes_on = f"); the run goes on; what was saved uploads with {upload}"
    assert killed.startswith("wandb: off (")  # wandb's own reason is one of two, as its service dies
    assert killed.endswith(goes_on)
    assert still == f"wandb: off (no answer in 2 s{goes_on}"
    assert leaves == f"wandb: off (wandb leaves{goes_on}"
    assert mistyped == "wandb: WANDB_MODE = ofline: must be online, offline or disabled; offline is taken"
    assert offline == killed_start


def test_the_printed_command_finds_every_start(sweep):
    folder, told = sweep
    program, *arguments = shlex.split(told[0].split("upload with ")[1])
    assert program == "wandb"
    said = wandb_tool(*arguments, "--dry-run", cwd=folder).stderr
    assert said.count(".wandb\n") == 11, "ten that went offline and the one that found no host"


def test_the_project_is_the_one_of_the_environment(sweep):
    (run,) = records(sweep[0], "mistyped")["run"]
    assert run["project"] == "mine"


@pytest.mark.parametrize("run_id", ["dead", "next"])
def test_a_dead_host_and_a_dead_service_cost_no_row_of_what_follows(sweep, run_id):
    found = records(sweep[0], run_id)
    assert len(found["history"]) == 5
    assert [end["exit_code"] for end in found["exit"]] == [0]


def test_without_a_key_nothing_is_asked_of_the_host(tmp_path):
    program = """
from pathlib import Path
from sam_repro.run import mirror
opened = mirror.open_mirror(
    "auto", directory=Path(), run_id="a", name="a", group="a", job_type="a", tags=[], config={})
opened.log({"step": 0})
opened.finish(0)
"""
    with socket.create_server(("127.0.0.1", 0)) as host:
        play(program, tmp_path, f"http://127.0.0.1:{host.getsockname()[1]}")
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.accept()


def test_a_wrong_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wandb = of: must be one of auto, online, offline, disabled"):
        open_mirror("of", directory=tmp_path, run_id="", name="", group="", job_type="", tags=[], config={})
