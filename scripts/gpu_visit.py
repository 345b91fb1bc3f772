"""A visit to a GPU that is lent for minutes and has no network: one command does what there is time for, and packs it.

    python scripts/gpu_visit.py --wheels wheels --data data --seconds 840 --to out     # on the machine
    python scripts/gpu_visit.py --rehearse --to out                                    # all of it, small, on a CPU

In this order: wheels are installed and archives of data unpacked; the tests that need a GPU; ceilings, steps beside
public ones, kernels of a step, Hessian products; then the cells of `CELLS`, one after the other. A cell that the time
does not allow to end is told to save, and the same command goes on with it. Records, tables and what was said are
packed into files of at most 15 MiB, whatever failed; `cat visit.tar.gz.* | tar xz` unpacks them.
"""

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LARGEST = 15 * 2**20
"""Bytes of a packed file."""
RESERVE = 40
"""Seconds that are kept for saving and packing."""
CELLS = (
    "luong2024/resnet18|sam 0.2",
    "luong2024/resnet18|direction of g, magnitude of g_s, element, 0.2",
    "luong2024/resnet18|direction of g_s, magnitude of g, element, 0.2",
    "luong2024/resnet18|direction of g, magnitude of g_s, global, 0.2",
    "luong2024/resnet18|direction of g_s, magnitude of g, global, 0.2",
    "luong2024/resnet18|sam 0.1",
    "luong2024/resnet18|sam 0.4",
    "luong2024/resnet18|sgd",
)
"""Tables and names of their cells, the most wanted first."""
COMPILED = (
    "ResNet-18 256",
    "ResNet-20 128",
    "ResNet-18 128",
    "WRN-28-10 128",
    "ViT-S/16 128",
    "ResNet-18 128 in parts",
)
"""Cases of bench_step that the compiler is given early."""
SMALL = ("digits/label_noise|rho 0",)
SHORT = ("epochs=1", "max_steps=4", "sharpness=none", "threads=1")
GPU_TESTS = (
    "tests/test_devices.py",
    "tests/training/test_graphs_on_a_tape.py",
    "tests/run/test_provenance.py",
    "tests/dataset/test_folder.py",
)
TRAIN = [sys.executable, "-m", "sam_repro.train", "-m", "wandb=disabled", "progress=lines"]


class Part(NamedTuple):
    """A part of the visit: a command, and the most seconds that it may take."""

    name: str
    command: list[str]
    seconds: float


class Visit:
    """Runs parts until the time is over, and keeps what they say.

    Args:
        to: folder of what comes back.
        seconds: of the whole visit, packing included.
    """

    def __init__(self, to: Path, seconds: float) -> None:
        self.end = time.monotonic() + seconds - RESERVE
        self.to = to
        self.said = ROOT / "outputs" / "visit"
        self.said.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until packing must begin."""
        return self.end - time.monotonic()

    def run(self, *parts: Part) -> list[Part]:
        """Run parts in the repository, beside each other; those that failed, or for which no time was left.

        A part that takes too long gets SIGINT, on which a run saves, and is killed 20 seconds later.
        """
        if self.left <= 0:
            print(f"{', '.join(part.name for part in parts)}: no time left")
            return list(parts)
        began = time.monotonic()
        running = [(part, self._start(part)) for part in parts]
        failed = []
        for part, process in running:
            code = _waited(process, began + min(part.seconds, self.left) - time.monotonic())
            print(f"{part.name}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
            failed += [part] if code else []
        return failed

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        with (self.said / f"{part.name}.txt").open("w") as file:
            return subprocess.Popen(part.command, cwd=ROOT, env=here(), stdout=file, stderr=subprocess.STDOUT)


def here() -> dict[str, str]:
    """The environment, in which the package is that of this checkout: it need not be installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _waited(process: subprocess.Popen[bytes], seconds: float) -> int:
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def checks(rehearse: bool) -> Iterator[list[Part]]:
    """Tests and benchmarks, with the seconds that each may take; those of a list run beside each other.

    Beside the tests each case of the steps runs once, untimed: that leaves its kernels in the compiler's cache.
    """
    python, where = sys.executable, ["--quick"] if rehearse else ["--gpu"]
    tests = ["-n0", "-k", "host_does_nothing or each_seeding"] if rehearse else ["-n4", "-m", "gpu"]
    files = GPU_TESTS[1:2] if rehearse else GPU_TESTS
    first = [Part("tests", [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *files], 150)]
    for case in [] if rehearse else COMPILED:
        words = ["--gpu", "--rounds", "1", "--only", case, "--out", "outputs/visit/warm-up"]
        first.append(Part(f"warm-up-{_plain(case)}", [python, "scripts/bench_step.py", *words], 150))
    yield first
    for name, seconds in (("roofline", 40), ("step", 200), ("kernels", 60), ("hessian", 60)):
        rounds = ["--rounds", "1" if rehearse else "3"]
        yield [Part(name, [python, f"scripts/bench_{name}.py", *where, *rounds], seconds)]


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def trained(cell: str, data: Path | None, settings: Sequence[str]) -> Part:
    """A cell of a table, to its end."""
    table, _, name = cell.partition("|")
    words = [f"table={table}", f"cell='{name}'", "seed=0", *settings]
    if data is not None:
        words += [f"data_dir={data.absolute()}", "download=false"]
    return Part(_plain(cell), [*TRAIN, *words], float("inf"))


def pack(folders: Sequence[Path], to: Path, largest: int = LARGEST, weights: bool = False) -> list[Path]:
    """Pack folders of the repository into `to`: one compressed archive, cut into files.

    Args:
        folders: below the root of the repository; those that are not there are left out.
        to: where `visit.tar.gz.000`, …, are written; older ones are removed.
        largest: bytes of a file.
        weights: whether weights and checkpoints come along.

    Returns:
        The files, in order.
    """
    heavy = () if weights else (".safetensors", ".pt")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.suffix not in heavy:
                    archive.add(file, file.relative_to(folder.parent))
    to.mkdir(parents=True, exist_ok=True)
    for old in to.glob("visit.tar.gz.*"):
        old.unlink()
    content, files = buffer.getvalue(), []
    for number, start in enumerate(range(0, len(content), largest)):
        files.append(to / f"visit.tar.gz.{number:03d}")
        files[-1].write_bytes(content[start : start + largest])
    return files


def prepare(wheels: Path | None, data: Path | None) -> None:
    """Install wheels, and unpack the archives in the folder of the data where they lie."""
    if wheels is not None:
        found = sorted(map(str, wheels.glob("*.whl")))
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", *found], check=True)
    for archive in [] if data is None else sorted(data.glob("*.t*gz")) + sorted(data.glob("*.zip")):
        shutil.unpack_archive(archive, data)


def visit(arguments: argparse.Namespace) -> int:
    """All parts, and the packing; the exit code."""
    now = Visit(arguments.to, arguments.seconds)
    failed: list[Part] = []
    try:
        prepare(arguments.wheels, arguments.data)
        parts = list(checks(arguments.rehearse)) if not arguments.cells_only else []
        asked = CELLS if arguments.cells is None else arguments.cells
        cells, settings = (SMALL, SHORT) if arguments.rehearse else (asked, ())
        parts += [[trained(cell, arguments.data, settings)] for cell in cells]
        for table in dict.fromkeys(cell.partition("|")[0] for cell in cells):
            parts.append([Part(f"table-{_plain(table)}", [sys.executable, "-m", "sam_repro.table", table], 60)])
        for beside in parts:
            failed += now.run(*beside)
    finally:
        outputs = ROOT / "outputs"
        files = pack([outputs / "visit", outputs / "bench", outputs / "runs"], now.to, weights=arguments.weights)
        print(f"packed: {', '.join(f'{file} ({file.stat().st_size:,} bytes)' for file in files)}")
    print(f"failed, or stopped by the time: {', '.join(part.name for part in failed) or 'nothing'}")
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install; default none")
    parser.add_argument("--data", type=Path, help="folder of data sets, or of their archives; default none")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole visit, default 540")
    parser.add_argument(
        "--to", type=Path, default=os.environ.get("OUT"), help="folder for the packed files, default $OUT"
    )
    parser.add_argument(
        "--cells", nargs="*", help="'table|name of a cell', the most wanted first; default CELLS; none: no cells"
    )
    parser.add_argument("--cells-only", action="store_true", help="no tests and no benchmarks, as on a second visit")
    parser.add_argument("--weights", action="store_true", help="pack weights and checkpoints too")
    parser.add_argument("--rehearse", action="store_true", help="all of it on a CPU, small")
    arguments = parser.parse_args()
    if arguments.to is None:
        parser.error("--to: needs a folder, because $OUT is not set")
    sys.exit(visit(arguments))


if __name__ == "__main__":
    main()
