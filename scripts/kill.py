"""Kill a training run again and again, half of the times in the middle of writing a checkpoint, and compare the ends.

    python scripts/kill.py --kills 50

It runs the real command in a temporary folder, ends it with SIGKILL, and starts it again until it is done, over as many
runs as the kills need. A kill counts as one in the middle of writing if the temporary file of the checkpoint is left.
The other half comes at random times, from the moment on when the command has said where it will write. Every run must
end in the weights, the record and the best checkpoint of a run that nothing disturbed; else the exit code is 1.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "sam_repro.train", "wandb=disabled", "progress=silent"]
SETTINGS = [
    "optimizer=sam",
    "epochs=4",
    "batch_size=32",
    "lr=0.2",
    "dataset.validation.count=200",
    "label_noise.rate=0.2",
    "augmentation=basic",
    "checkpoint_every=0",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments that are aimed at")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        sys.exit(campaign(Path(name), arguments.kills))


def campaign(folder: Path, kills: int) -> int:
    """Kill so many times, over as many runs as that takes; the exit code."""
    process = started(folder / "undisturbed")
    began = time.monotonic()
    assert process.wait() == 0
    seconds = time.monotonic() - began
    expected = outcome(folder / "undisturbed")
    writing = anywhere = runs = differing = 0
    while writing + anywhere < kills:
        runs += 1
        here = folder / str(runs)
        process = started(here)
        while writing + anywhere < kills and (
            killed_while_writing(process, here) if writing <= anywhere else killed_within(process, seconds)
        ):
            if list(temporaries(here)):
                writing += 1
            else:
                anywhere += 1
            process = started(here)
        differing += process.wait() != 0 or outcome(here) != expected
    print(
        f"{writing + anywhere} kills, {writing} of them while a checkpoint was being written, over {runs} runs: "
        f"{runs - differing} ended as the undisturbed one, weights {expected['sha256'][:12]}, and {differing} did not"
    )
    return 1 if differing else 0


def started(folder: Path) -> subprocess.Popen[str]:
    """The command in a folder, as soon as it has named its home, or ended."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([*COMMAND, *SETTINGS], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while (line := process.stdout.readline()) and not line.startswith("home"):
        pass
    return process


def killed_within(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill at a random time; False if the command was done before."""
    time.sleep(random.uniform(0, seconds))
    process.kill()
    return process.wait() != 0


def killed_while_writing(process: subprocess.Popen[str], folder: Path) -> bool:
    """Kill as soon as the temporary file of one of the next checkpoints is seen; False if the command was done before.

    The kill may still come too late: then no temporary file is left.
    """
    for _ in range(random.randint(1, 5)):
        while process.poll() is None and list(temporaries(folder)):
            pass
        while process.poll() is None and not list(temporaries(folder)):
            pass
    process.kill()
    return process.wait() != 0


def temporaries(folder: Path) -> Iterator[Path]:
    return folder.glob("outputs/runs/*/*/seed=0/checkpoint.pt.*.tmp")


def outcome(folder: Path) -> dict[str, Any]:
    """What must be equal: the hash of the weights, every row but its seconds, the metrics, and the weights' files."""
    (home,) = folder.glob("outputs/runs/*/*/seed=0")
    result = json.loads((home / "result.json").read_text())
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    return {
        "sha256": result["weights_sha256"],
        "metrics": result["metrics"],
        "label_noise": result["label_noise"],
        "passes": result["cost"]["passes"],
        "rows": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        "files": {file.name: file.read_bytes() for file in home.glob("*.safetensors")},
    }


if __name__ == "__main__":
    main()
