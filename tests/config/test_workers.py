"""The processes of a sweep: a signal to one, or the end of the door, stops all, and each saves what it is at."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sam_repro.config.workers import Sweep, open_sweep
from sam_repro.errors import Stopped

ROOT = Path(__file__).parents[2]
WORKER = """
import sys, time
from pathlib import Path
from sam_repro.config.workers import Sweep
from sam_repro.signals import note_signals
sweep = Sweep(Path(sys.argv[1]), int(sys.argv[2]))
time.sleep(float(sys.argv[3]))
for line in (1, 2):
    if sweep.stopped_by():
        break
    with sweep.watch(), note_signals() as caught:
        print("at", line, flush=True)
        while not caught:
            time.sleep(0.01)
        print("saved at", *caught, flush=True)
        if len(sys.argv) > 4:
            sweep.stop(caught[0])
input()
"""
DOOR = f"""
import subprocess, sys
from sam_repro.config.workers import open_sweep
with open_sweep() as sweep:
    words = [sys.executable, "-c", {WORKER!r}, str(sweep.mark), str(sweep.door), "0"]
    subprocess.Popen(words, stdin=sys.stdin).wait()
"""


def worker(sweep: Sweep, delay: float = 0, *words: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", WORKER, str(sweep.mark), str(sweep.door), str(delay), *words]
    return subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], object]) -> None:
    for _ in range(20000):
        if what():
            return
        time.sleep(0.01)
    pytest.fail("waited in vain")


def homes_with_a_row(folder: Path) -> list[Path]:
    return [file.parent for file in folder.glob("outputs/runs/*/*/*/metrics.jsonl") if file.stat().st_size]


def test_a_signal_to_the_door_stops_the_workers_and_those_that_are_still_starting() -> None:
    with pytest.raises(Stopped) as stop, open_sweep() as sweep:  # noqa: PT012
        early, late = worker(sweep), worker(sweep, 0.5)
        assert early.stdout.readline() == "at 1\n"
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(sweep.stopped_by)  # another thread is given the signal, perhaps only once this one waits below
        for process in (early, late):
            process.send_signal(signal.SIGINT)  # as a terminal does, to the one that still starts as well
        said = [process.communicate("\n") for process in (early, late)]
    assert stop.value.signal == signal.SIGHUP
    assert said[0][0].startswith(("saved at 2", "saved at 15"))  # the terminal's or the door's, which came first
    assert said[1][0] == ""
    assert [early.returncode, late.returncode] == [0, 0]
    assert not sweep.mark.parent.exists()


def test_a_worker_that_is_stopped_stops_the_sweep() -> None:
    with pytest.raises(Stopped) as stop, open_sweep() as sweep:  # noqa: PT012
        hit, other = worker(sweep, 0, "tell"), worker(sweep)
        for process in (hit, other):
            assert process.stdout.readline() == "at 1\n"
        hit.send_signal(signal.SIGUSR1)
        said = [process.communicate("\n")[0] for process in (hit, other)]
    assert said == [f"saved at {int(signal.SIGUSR1)}\n", f"saved at {int(signal.SIGTERM)}\n"]
    assert stop.value.signal == signal.SIGUSR1


def test_a_second_signal_to_the_door_interrupts_it() -> None:
    seen = []
    with pytest.raises(Stopped), open_sweep() as sweep:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(sweep.stopped_by)
        seen.append("went on")
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(500):
            time.sleep(0.01)
        seen.append("went on again")
    assert seen == ["went on"]


def test_workers_save_and_end_when_their_door_is_killed() -> None:
    door = subprocess.Popen(
        [sys.executable, "-c", DOOR], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert door.stdout.readline() == "at 1\n"
    door.kill()
    assert door.stdout.read() == f"saved at {int(signal.SIGTERM)}\n"  # to its end: the worker has closed it, too


def test_a_sweep_with_joblib_that_is_stopped_at_one_worker(tmp_path: Path) -> None:
    """Both runs are saved, the third is not begun, and nothing is left over."""
    words = ["wandb=disabled", "sharpness=none", "progress=silent", "epochs=999", "batch_size=20", "record_every=1"]
    line = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2", "checkpoint_every=999", *words]
    door = subprocess.Popen(
        [sys.executable, "-m", "sam_repro.train", *line],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(homes_with_a_row(tmp_path)) == 2 or door.poll() is not None)
        children = subprocess.run(["pgrep", "-f", "-P", str(door.pid), "loky_posix"], capture_output=True, text=True)
        os.kill(int(children.stdout.split()[0]), signal.SIGUSR1)
        said = door.communicate()[1].splitlines()
    finally:
        door.kill()
    assert door.returncode == 128 + signal.SIGUSR1
    assert [words.endswith("the same command goes on") for words in said] == [True] * 3, said
    assert sorted(words.split()[1] for words in said) == ["saved", "saved", "stopped"]
    (cell,) = tmp_path.glob("outputs/runs/main/*")
    assert sorted(home.name for home in cell.iterdir()) == ["seed=0", "seed=1"]
    for home in cell.iterdir():
        assert {file.name for file in home.iterdir()} - {"uncommitted.diff"} == {
            "checkpoint.pt",
            "metrics.jsonl",
            "run.json",
        }
    assert not list(tmp_path.glob("sam_repro-*"))
