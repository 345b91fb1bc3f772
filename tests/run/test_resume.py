"""A run that dies, by SIGKILL at any moment, or is stopped, goes on as if nothing had happened.

Every death is a real one. A server process imports everything once and forks a child for each start of the command. A
fault in a child is a signal that it sends to itself in the middle of writing a file. As a script this file is the
server.
"""

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rates import CLIMBS

from sam_repro.config.lines import compose_line
from sam_repro.config.options import groups_of
from sam_repro.run import build

SEED = 0  # of the moments of the faults
MOMENTS = ("torn", "before fsync", "before replace", "after replace")
TESTS = Path(__file__).parents[1]
SETTINGS = [
    "wandb=disabled",
    "epochs=3",
    "batch_size=60",  # of 200 images: the last batch has 20
    "lr=0.2",
    *CLIMBS,
    "dataset.validation.count=800",
    "label_noise.rate=0.2",
    "augmentation=basic",
    "record_every=3",  # windows reach over checkpoints
    "checkpoint_every=0",
    *("sharpness.examples=20", "sharpness.batch_size=20"),
]
LONG = ["epochs=6", "batch_size=20"]


class Server:
    """The other end of `serve`: starts the command in a folder and waits for its end."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "passive",
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        folder: Path,
        settings: list[str],
        fault: dict[str, Any] | None = None,
        kill: dict[str, Any] | None = None,
        threads: int = 1,
    ) -> int:
        """The exit code, or minus the signal of which it died.

        `fault` are arguments of `arm`, `kill` of `wait`, and `threads` is what torch finds in OMP_NUM_THREADS.
        """
        folder.mkdir(exist_ok=True)
        order = {"folder": str(folder), "settings": settings, "fault": fault, "kill": kill, "threads": threads}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], dict[str, Any]]:
    """Settings → the outcome of a run that nothing disturbs."""
    outcomes: dict[str, dict[str, Any]] = {}

    def run(settings: list[str]) -> dict[str, Any]:
        key = " ".join(settings)
        if key not in outcomes:
            folder = tmp_path_factory.mktemp("uninterrupted")
            assert server.start(folder, settings) == 0, output(folder)
            outcomes[key] = outcome(folder)
        return outcomes[key]

    return run


def home(folder: Path) -> Path:
    (found,) = folder.glob("outputs/runs/*/*/seed=0")
    return found


def output(folder: Path) -> str:
    return (folder / "output").read_text()


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times, and for what describes the machine and the checkout."""
    result = json.loads((home(folder) / "result.json").read_text())
    for key in ("environment", "git", "sources_sha256", "sha256"):  # the last is of times, too
        del result[key]
    for key in ("seconds", "examples_per_second"):
        assert result["cost"].pop(key) > 0
    rows = [json.loads(line) for line in (home(folder) / "metrics.jsonl").read_text().splitlines()]
    assert result.pop("rows")["rows"] == len(rows)  # its bytes and their digest hold times
    for row in rows:
        row.pop("seconds", None)
    weights = {file.name: file.read_bytes() for file in home(folder).glob("*.safetensors")}
    return {
        "result": result,
        "rows": rows,
        "weights": weights,
        "left": sorted(p.name for p in home(folder).glob("*.tmp")),
    }


def starts(folder: Path) -> list[int]:
    """The step from which each start went on."""
    return [start["step"] for start in json.loads((home(folder) / "run.json").read_text())["starts"]]


def rules_with_memory() -> list[str]:
    configs = {name: compose_line([f"optimizer={name}"]) for name in groups_of(None)["optimizer"]}
    return [name for name, config in configs.items() if build.make_smallest_rule(config).memory]


def test_killed_after_every_step(server: Server, uninterrupted: Any, tmp_path: Path) -> None:
    """And rules that keep vectors from step to step after every second; the contract holds a save of every rule."""
    for optimizer in ("sgd", "sam", *rules_with_memory()):
        folder, settings = tmp_path / optimizer, [*SETTINGS, f"optimizer={optimizer}", "max_steps=6"]
        every = 1 if optimizer in ("sgd", "sam") else 2
        for _ in range(0, 6, every):
            fault = {"file": "checkpoint.pt", "moment": "after replace", "nth": every}
            assert server.start(folder, settings, fault) == -signal.SIGKILL
        assert server.start(folder, settings) == 0, output(folder)
        assert starts(folder) == list(range(0, 7, every))
        assert outcome(folder) == uninterrupted(settings), optimizer


@pytest.mark.parametrize("report", ["last", "best_validation"])
def test_killed_while_writing(server: Server, uninterrupted: Any, tmp_path: Path, report: str) -> None:
    settings = [*SETTINGS, f"report={report}"]
    other = "last.safetensors" if report == "best_validation" else "best.safetensors"
    chance = random.Random(SEED)
    files = ["run.json", "metrics.jsonl", *["checkpoint.pt"] * 6, other, "model.safetensors", "result.json"]
    for file, moment in zip(files, itertools.cycle(MOMENTS)):
        moment = "before replace" if (file, moment) == ("result.json", "after replace") else moment
        nth = chance.randint(1, 3) if file == "checkpoint.pt" else 1
        fault = {"file": file, "moment": moment, "nth": nth, "share": chance.random()}
        assert server.start(tmp_path, settings, fault) == -signal.SIGKILL, (fault, output(tmp_path))
    assert server.start(tmp_path, settings) == 0, output(tmp_path)
    assert outcome(tmp_path) == uninterrupted(settings)


def test_killed_after_the_result_is_written_is_done(server: Server, uninterrupted: Any, tmp_path: Path) -> None:
    fault = {"file": "result.json", "moment": "after replace"}
    assert server.start(tmp_path, SETTINGS, fault) == -signal.SIGKILL
    before, checkpoint = outcome(tmp_path), home(tmp_path) / "checkpoint.pt"
    assert checkpoint.exists()
    assert server.start(tmp_path, SETTINGS) == 0
    assert not checkpoint.exists()
    assert len(starts(tmp_path)) == 1
    assert outcome(tmp_path) == before == uninterrupted(SETTINGS)


def test_killed_at_random_times(server: Server, uninterrupted: Any, tmp_path: Path) -> None:
    settings = [*SETTINGS, *LONG, "checkpoint_every=0.2"]
    expected, kills = uninterrupted(settings), 0
    for trajectory in itertools.count():
        folder = tmp_path / str(trajectory)
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            kill = {"rows": 0, "after": random.uniform(0, 1)} if kills < 6 else None
            code = server.start(folder, settings, kill=kill)
            kills += code == -signal.SIGKILL
        assert code == 0, output(folder)
        assert outcome(folder) == expected
        if kills >= 6:
            break


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_stopped_by_a_signal(server: Server, uninterrupted: Any, tmp_path: Path, number: int, code: int) -> None:
    settings = [*SETTINGS, *LONG, "checkpoint_every=1000"]
    for rows in (1, 20):
        assert server.start(tmp_path, settings, kill={"rows": rows, "number": number}) == code
    lines = [line for line in output(tmp_path).splitlines() if line.startswith("sam_repro:")]
    assert len(lines) == 2
    assert all("the same command goes on" in line for line in lines)
    assert "Traceback" not in output(tmp_path)
    assert server.start(tmp_path, settings) == 0
    reached = starts(tmp_path)
    assert reached[0] == 0 < reached[1] < reached[2]
    for line, step in zip(lines, reached[1:], strict=True):
        assert f"after {step} steps" in line
    assert f"resumed    after {reached[2]} of" in output(tmp_path)
    assert outcome(tmp_path) == uninterrupted(settings)


def test_signal_while_a_checkpoint_is_written(server: Server, uninterrupted: Any, tmp_path: Path) -> None:
    wandb = set()
    for nth, moment in enumerate(MOMENTS[1:], start=1):
        fault = {"file": "checkpoint.pt", "moment": moment, "nth": nth, "number": signal.SIGTERM}
        assert server.start(tmp_path, SETTINGS, fault) == 143
        wandb.add(json.loads((home(tmp_path) / "run.json").read_text())["wandb_id"])
    assert len(wandb) == 1
    assert server.start(tmp_path, SETTINGS) == 0
    assert starts(tmp_path) == [0, 1, 3, 6]
    assert outcome(tmp_path) == uninterrupted(SETTINGS)


def test_goes_on_with_the_number_of_threads_that_it_began_with(server: Server, tmp_path: Path) -> None:
    settings = [*SETTINGS, "threads=null", "epochs=2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert server.start(whole, settings, threads=2) == 0, output(whole)
    for nth, threads in ((5, 2), (2, 1)):
        fault = {"file": "checkpoint.pt", "moment": "after replace", "nth": nth}
        assert server.start(broken, settings, fault, threads=threads) == -signal.SIGKILL
    assert server.start(broken, settings) == 0, output(broken)
    run = json.loads((home(broken) / "run.json").read_text())
    assert [start["environment"]["cpu_threads"] for start in run["starts"]] == [2, 2, 2]
    assert json.loads((home(broken) / "result.json").read_text())["environment"]["cpu_threads"] == 2
    assert outcome(broken) == outcome(whole)


def test_the_best_epoch_of_these_runs_is_not_the_last(uninterrupted: Any) -> None:
    outcomes = [uninterrupted([*SETTINGS, f"report={report}"]) for report in ("last", "best_validation")]
    for kept in outcomes:
        assert len(set(kept["weights"].values())) == 2
    last, best = (kept["weights"] for kept in outcomes)
    assert last["model.safetensors"] == best["last.safetensors"]
    assert last["best.safetensors"] == best["model.safetensors"]


def serve() -> None:
    """Fork a child for each order, a line of JSON, and answer with its exit code."""
    import torch
    from sklearn.datasets import load_digits

    from sam_repro.config.lines import compose_line

    torch.use_deterministic_algorithms(False)  # imports a compiler
    load_digits()
    known = functools.cache(lambda *settings: compose_line(list(settings)))
    for line in sys.stdin:
        order = json.loads(line)
        settings = order["settings"]
        config = known(*settings)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(order["threads"])
            become(config, settings, Path(order["folder"]), order["fault"])
        print(wait(child, Path(order["folder"]), **order["kill"] or {}), flush=True)


def become(config: dict[str, Any], settings: list[str], folder: Path, fault: dict[str, Any] | None) -> None:
    """Be the command, once it has composed its configuration; what it says goes to the file `output`."""
    from sam_repro.config.launch import guard
    from sam_repro.config.lines import check_config
    from sam_repro.run.run import run

    os.chdir(folder)
    descriptor = os.open("output", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (0, 1, 2):
        os.dup2(descriptor, stream)
    if fault:
        arm(**fault)
    code = guard(lambda: 0 if run(check_config(config), settings) else 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def arm(file: str, moment: str, nth: int = 1, share: float = 0.5, number: int = signal.SIGKILL) -> None:
    """From now on the `nth` time that `file` is written, this process gets the signal at that moment.

    "torn" is before the fsync, with only a share of the content in the temporary file: what a kill during the write, or
    a power cut, leaves.
    """
    fsync, replace, writes = os.fsync, os.replace, itertools.count(1)

    def hit() -> None:
        os.kill(os.getpid(), number)

    def is_temporary(descriptor: int) -> bool:
        temporaries = Path().glob(f"outputs/runs/*/*/*/{file}.*.tmp")
        return any(os.path.samestat(os.fstat(descriptor), path.stat()) for path in temporaries)

    def faulty_fsync(descriptor: int) -> None:
        early = moment in ("torn", "before fsync")
        if early and is_temporary(descriptor) and next(writes) == nth:
            if moment == "torn":
                os.ftruncate(descriptor, int(share * os.fstat(descriptor).st_size))
            hit()
        fsync(descriptor)

    def faulty_replace(source: Path, target: Path) -> None:
        here = moment in ("before replace", "after replace") and target.name == file and next(writes) == nth
        if here and moment == "before replace":
            hit()
        replace(source, target)
        if here and moment == "after replace":
            hit()

    os.fsync, os.replace = faulty_fsync, faulty_replace


def wait(child: int, folder: Path, rows: int | None = None, after: float = 0.0, number: int = signal.SIGKILL) -> int:
    """The child's exit code; it gets the signal so many seconds after its record has so many rows."""

    def ended() -> bool:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def written() -> int:
        return sum(file.read_bytes().count(b"\n") for file in folder.glob("outputs/runs/*/*/*/metrics.jsonl"))

    if rows is not None:
        while written() < rows and not ended():
            time.sleep(0.001)
        time.sleep(after)
        os.kill(child, number)  # of a process that has ended, too: it is waited for only now
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    serve()
