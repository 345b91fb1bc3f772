"""Kill and stop runs and sweeps at any moment, on odd and full disks too, start them again, and compare the ends.

    python scripts/kill.py --kills 200              # runs, sweeps, signals, full and odd disks
    python scripts/kill.py --kills 8 --only joblib  # processes of a sweep; each start takes seconds

Everything is imported once, and each start of the command is a fork, so that kills hit the command and not its imports;
joblib's are whole processes. Every run must end in the weights, the record and the files of one that nothing disturbed,
with no traceback on the way and nothing left over; else the exit code is 1.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN = [
    *("wandb=disabled", "progress=silent", "threads=1", "optimizer=sam", "lr=0.2", "epochs=2", "batch_size=50"),
    *("dataset.validation.count=600", "label_noise.rate=0.2", "augmentation=basic", "checkpoint_every=0.05"),
]
SWEEP = ["-m", "optimizer=sam,sgd", "seed=0,1", "max_steps=6", *RUN[:3], "checkpoint_every=0", "sharpness=none"]
JOBLIB = [*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "epochs=99", "max_steps=400"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
MOST = 8  # disturbances of one run, after which it may end


class Campaign:
    """Disturbs one command line in new folders until so many disturbances are done, and counts what came of it."""

    def __init__(self, line: list[str], disturb: Callable[[int, float], None], size: int | None = None) -> None:
        self.line, self.disturb, self.size = line, disturb, size
        self.figures: Counter[str] = Counter()
        self.faults: list[str] = []

    def go(self, folder: Path, times: int, until: float) -> None:
        """Disturb so often, or until that time, below a folder."""
        self.seconds = -time.monotonic()
        assert self._end(self.start(folder / "undisturbed")) == 0
        self.seconds += time.monotonic()
        expected = outcome(folder / "undisturbed")
        while self.figures["tried"] < times and time.monotonic() < until:
            self.figures["ends"] += 1
            here = folder / str(self.figures["ends"])
            for _ in range(random.randint(1, MOST)):
                child = self.start(here, self.size and random.randint(0, self.size))
                self.disturb(child, self.seconds)
                code = self._end(child)
                self.figures["tried"] += 1
                self.figures["while writing"] += bool(list(here.glob("outputs/**/*.tmp")))
                if code == 0:
                    break
            if (code := self._end(self.start(here))) or outcome(here) != expected:
                self.faults.append(f"{here.name}: code {code}, ended otherwise")
            if "Traceback" in (said := (here / "said").read_text()):
                self.faults.append(f"{here.name}: {said[said.index('Traceback') :][:2000]}")
            if left := leftovers(here):
                self.faults.append(f"{here.name}: left {left}")

    def start(self, folder: Path, size: int | None = None) -> int:
        """The command in a folder, in a fork of this process; no file may grow beyond the size."""
        folder.mkdir(exist_ok=True)
        if child := os.fork():
            return child
        os.setsid()
        os.chdir(folder)
        descriptor = os.open("said", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            descriptor = os.open("/dev/null", os.O_WRONLY)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.argv = ["train", *self.line]
        code: Any = 1
        try:
            from sam_repro import train

            train.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def _end(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Joblib(Campaign):
    """The same with whole processes, because joblib's workers are."""

    def start(self, folder: Path, size: int | None = None) -> int:
        """The command in a folder, in a process of its own."""
        folder.mkdir(exist_ok=True)
        with open(folder / "said", "a") as said:
            words = [sys.executable, "-m", "sam_repro.train", *self.line]
            return subprocess.Popen(words, cwd=folder, stdout=said, stderr=said, start_new_session=True).pid


def kill(child: int, seconds: float) -> None:
    time.sleep(random.uniform(0, 1.1 * seconds))
    os.kill(child, signal.SIGKILL)


def stop(child: int, seconds: float) -> None:
    """A signal to all processes of the command, as a terminal and a scheduler send it, or to the first alone."""
    time.sleep(random.uniform(0.02, 1.1 * seconds))
    random.choice([os.kill, os.killpg])(child, random.choice(SIGNALS))


def hit(child: int, seconds: float) -> None:
    """Kill or stop the door of a sweep or one of its workers; orphans end before the next start."""
    time.sleep(random.uniform(0, 1.1 * seconds))
    said = subprocess.run(["pgrep", "-f", "-P", str(child), "loky_posix"], capture_output=True, text=True).stdout
    workers = [int(word) for word in said.split()]
    number = random.choice([signal.SIGKILL, *SIGNALS])
    with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
        if number != signal.SIGKILL and random.random() < 0.5:
            os.killpg(child, number)
        else:
            os.kill(random.choice([child, *workers]), number)
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        time.sleep(0.1)


def leave(child: int, seconds: float) -> None:
    """Nothing: the disk disturbs."""


def outcome(folder: Path) -> dict[str, Any]:
    """What must be equal of every run: the weights, the rows but their seconds, the metrics, the weights' files."""
    found = {}
    for home in sorted(folder.glob("outputs/runs/*/*/seed=*")):
        if not (home / "result.json").exists():
            return {}
        result = json.loads((home / "result.json").read_text())
        rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        found[f"{home.parent.name}/{home.name}"] = {
            "result": [result[key] for key in ("weights_sha256", "metrics", "label_noise", "inputs")],
            "passes": result["cost"]["passes"],
            "rows": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
            "files": {file.name: file.read_bytes() for file in home.glob("*.safetensors")},
        }
    return found


def leftovers(folder: Path) -> list[str]:
    files = [file.name for file in folder.glob("outputs/runs/*/*/**/*") if file.is_file()]
    return [name for name in files if name.endswith((".tmp", ".lock")) or name in ("checkpoint.pt", "failed.json")]


def odd_places(folder: Path) -> list[str]:
    """Faults of a start where outputs is a file, a link to nothing, a link to a folder, or in a folder with signs."""
    faults = []
    for name, expected in (("file", 2), ("nowhere", 2), ("elsewhere", 0), ("jos\u00e9 &=[,", 0)):
        here = folder / name
        (here / "real").mkdir(parents=True)
        if name == "file":
            (here / "outputs").touch()
        elif name in ("nowhere", "elsewhere"):
            (here / "outputs").symlink_to("/proc/none" if name == "nowhere" else "real")
        campaign = Campaign(RUN, leave)
        code = campaign._end(campaign.start(here))
        said = (here / "said").read_text()
        if code != expected or "Traceback" in said:
            faults.append(f"outputs, {name}: code {code}, {said[-500:]}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="disturbances of each kind")
    parser.add_argument("--seconds", type=float, default=600, help="after which no other run is begun, for each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments that are aimed at")
    parser.add_argument("--only", help="one kind: runs, sweeps, signals, stopped sweeps, full disks, joblib")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    import torch
    from sklearn.datasets import load_digits

    import sam_repro.run.dry_build
    import sam_repro.run.run
    import sam_repro.table.sweep
    import sam_repro.train  # noqa: F401

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # imports a compiler
    load_digits()
    kinds: dict[str, Campaign] = {
        "runs": Campaign(RUN, kill),
        "sweeps": Campaign(SWEEP, kill),
        "signals": Campaign(RUN, stop),
        "stopped sweeps": Campaign(SWEEP, stop),
        "full disks": Campaign(RUN, leave, size=200_000),
    }
    if arguments.only == "joblib":
        kinds["joblib"] = Joblib(JOBLIB, hit)
    faults = []
    with tempfile.TemporaryDirectory() as name:
        for kind, campaign in kinds.items():
            if arguments.only in (None, kind):
                (folder := Path(name) / kind).mkdir()
                campaign.go(folder, arguments.kills, time.monotonic() + arguments.seconds)
                print(f"{kind}: {dict(campaign.figures)}, {len(campaign.faults)} faults", flush=True)
                faults += campaign.faults
        if arguments.only is None:
            faults += odd_places(Path(name))
    print("\n".join(faults))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
