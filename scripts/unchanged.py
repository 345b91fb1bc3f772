"""Compare this working tree with an older commit: do the same command lines give the same numbers, bit by bit?

    python scripts/unchanged.py                                 # against ca4b332
    python scripts/unchanged.py HEAD~1 --only looksam --keep    # some of the lines; the outputs stay

BASE is checked out into a temporary worktree. Every line runs there and here: float results differ between CPUs.
Compared are the weights and every key of the record's rows and of the result but the times. A line under `STOPPED`
also gets a signal in the middle and is resumed: it must end as if nothing had disturbed it.
Hessian products use torch's own convolutions in both.

Write what is meant to change into `RENAMED` and `ADDED`. Options that one side alone has are named and skipped. The
exit code is 0 if all is equal, else 1.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

RENAMED: dict[str, str] = {
    "optimizer=sam_ball": "optimizer=sam optimizer.p=inf",
    "optimizer=sam_ball optimizer.p=3": "optimizer=sam optimizer.p=3",
    "optimizer=sam_ball optimizer.p=2 optimizer.ascent_steps=3": "optimizer=sam optimizer.ascent_steps=3",
    "optimizer=sam_random": "optimizer=sam optimizer.ascent=random",
    "optimizer=sam_second_order": "optimizer=sam optimizer.second_order=true",
    "rho_schedule=constant": "rho_follows=constant",
    "rho_schedule=like_lr": "rho_follows=lr",
    "rho_schedule.warmup_epochs=1": "rho_warmup_epochs=1",
    "optimizer=sam_magnitude optimizer.scope=element": (
        "optimizer=sam_direction optimizer.scope=element optimizer.names=code"
    ),
    "augmentation.crop.padding_mode=reflect": "augmentation.padding_mode=reflect",
}
"""Words of a line here → BASE's words for the same; where all words of a key are on a line, they are replaced."""

ADDED = {"cost.forwards"}  # keys of the rows or of the result that BASE lacks

TIMES = ("seconds", "examples_per_second")  # keys, or their last parts, that differ from run to run

COMMON = (
    "dataset=digits wandb=disabled progress=silent device=cpu threads=1 precision=fp32 sharpness=none epochs=3 "
    "dataset.validation.count=800 batch_size=60 "  # so 200 images in 4 steps an epoch, the last of them with 20
    "max_steps=10 record_every=1 diagnose_every=4"
)
EACH = "architecture=digits_cnn,resnet8"
"""What every option of configs/optimizer runs with; several values are several lines, as in a sweep."""
FIVE = "optimizer=sgd,sam,looksam,sgdhess,sam_direction"
LINES = (
    f"{FIVE} m=16",
    f"{FIVE} label_noise.rate=0.4",
    f"{FIVE} dataset.validation.count=200 dataset.validation.stratified=true report=best_validation batch_size=200",
    f"{FIVE} precision=bf16",
    f"{FIVE} augmentation=cutout",
    "optimizer=asam optimizer.eta=0.01",
    "optimizer=look_layersam optimizer.formula=layer_wg_globalnorm,layer_unit",
    "optimizer=looksam optimizer.scope=tensor optimizer.period=3 optimizer.alpha=0.1",
    "optimizer=sam_ball rho=0.001",
    "optimizer=sam_ball optimizer.p=3 rho=0.001",
    "optimizer=sam_ball optimizer.p=2 optimizer.ascent_steps=3",
    "optimizer=sam_ball,sam_random,sam_second_order optimizer.perturb=only_norm architecture=resnet8",
    "optimizer=sam optimizer.perturb=no_norm,only_norm architecture=resnet8",
    "optimizer=sam_direction,sam_magnitude optimizer.scope=tensor,element",
    "optimizer=sam_k optimizer.period=3",
    "optimizer=sam_masked optimizer.classes=[1,3] optimizer.rest=sgd,sam optimizer.scale=0.5",
    "optimizer=sgdhess optimizer.curvature=hessian,gauss_newton_diagonal,hutchinson_abs",
    "optimizer=sam weight_decay_in=base,loss weight_decay_on=all,no_norm_no_bias architecture=resnet8",
    "optimizer=sam m=16 batch_norm_statistics=mean,first,both architecture=resnet8",
    "optimizer=sam rho_schedule=constant,like_lr rho_schedule.warmup_epochs=1",
    "optimizer=sam clip_norm=0.5",
    "optimizer=sam drop_last=true label_smoothing=0.1 dataset.validation.count=0 batch_size=300",
    "optimizer=sam base_optimizer=adamw,lamb lr=0.001 weight_decay=0.1",
    "optimizer=sam schedule=constant,multi_step schedule.warmup_epochs=1 base_optimizer.nesterov=true",
    "optimizer=sam augmentation=basic augmentation.crop.padding_mode=reflect diagnostics=drift",
    "optimizer=sam label_noise.rate=0.4 label_noise.kind=symmetric dataset.validation.noisy=true",
    "optimizer=sam augmentation=basic dataset.validation.augmented=true",
    "optimizer=sam sharpness=lambda_max sharpness.every=1 sharpness.examples=64",
    "optimizer=sam sharpness=hessian sharpness.examples=16 sharpness.trace_products=6 sharpness.steps=9",
    "optimizer=sam sharpness=luong2024 sharpness.batches=1 sharpness.tolerance=0.1",
    "optimizer=sam sharpness=worst_case sharpness.steps=3",
    "optimizer=sam sharpness=m_sharpness,average_case",
)
STOPPED = (
    "optimizer=sam SIGKILL",
    "optimizer=looksam architecture=resnet8 SIGKILL",
    "optimizer=sgdhess optimizer.curvature=gauss_newton_diagonal optimizer.period=4 SIGKILL",
    "optimizer=looksam checkpoint_every=1000 report=best_validation SIGTERM",
)
"""Lines that also get the signal in the middle and are started again."""
AT_LENGTH = "epochs=10 max_steps=40 checkpoint_every=0 augmentation=cutout"
ROWS = 12  # of the record are there when the signal comes, and all checkpoints but the last

WORST = 300  # seconds for a line, after which its process ends itself
SHOWN = 6  # differences of a line
NUMBERS = {"F64": "<f8", "F32": "<f4", "I64": "<i8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", default="ca4b332", metavar="BASE", help="the commit, default ca4b332")
    parser.add_argument("--only", default="", metavar="WORD", help="lines in which this occurs")
    parser.add_argument("--keep", action="store_true", help="keep the outputs, and say where they are")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return serve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the worktree goes in this case too
    folder = Path(tempfile.mkdtemp(prefix="unchanged-"))
    try:
        with worktree(arguments.base, folder / "tree") as base:
            code = compared(Path(git("rev-parse", "--show-toplevel")), base, arguments.only, folder)
    finally:
        if arguments.keep:
            print(f"outputs: {folder}")
        else:
            subprocess.run(["rm", "-rf", str(folder)], check=True)
    sys.exit(code)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def worktree(commit: str, path: Path) -> Iterator[Path]:
    """The files of a commit in a folder, for the time of the block."""
    git("worktree", "add", "--quiet", "--detach", str(path), commit)
    try:
        yield path
    finally:
        git("worktree", "remove", "--force", str(path))


def compared(root: Path, base: Path, only: str, folder: Path) -> int:
    """Run every line on both sides, say what differs, and give the exit code."""
    began = time.monotonic()
    lines = {line: (words(line), translated(words(line))) for line in all_lines(root, base) if only in line}
    one_sided = {line: why for line, (ours, theirs) in lines.items() if (why := lacking(root, ours, base, theirs))}
    for why in sorted(set(one_sided.values())):
        print(f"skipped: {why}", flush=True)
    found: dict[str, list[str]] = {}
    with Side("here", root, folder) as here, Side("BASE", base, folder) as there:
        for line in (line for line in lines if line not in one_sided):
            found[line] = differences(line, lines[line], here, there)
            for text in found[line][:SHOWN]:
                print(f"{line}: {text}", flush=True)
            if more := found[line][SHOWN:]:
                print(f"{line}: and {len(more)} more, in {sorted({text.split()[0] for text in more})}", flush=True)
    differing, places = sum(map(bool, found.values())), sum(map(len, found.values()))
    told = f"{differing} differ, in {places} places" if differing else "all equal" if found else "nothing was compared"
    print(f"{len(found)} lines, {told} ({time.monotonic() - began:.0f} s)")
    return 1 if differing or not found else 0


def all_lines(root: Path, base: Path) -> list[str]:
    """Every line as it is shown: without the common words, and where it is stopped with the signal behind it."""
    renamed = {word for theirs in RENAMED.values() for word in theirs.split()}
    rules = {*options(root), *(option for option in options(base) if f"optimizer={option}" not in renamed)}
    each = f"optimizer={','.join(sorted(rules))} {EACH}"
    return [line for sweep in (each, *LINES, *STOPPED) for line in expanded(sweep)]


def options(root: Path) -> list[str]:
    return sorted(file.stem for file in (root / "configs/optimizer").glob("*.yaml")) or sys.exit(f"{root}: no option")


def expanded(sweep: str) -> Iterator[str]:
    """A line for each combination of the values between commas; a list in brackets is one value."""
    keys, _, values = zip(*(word.partition("=") for word in sweep.split()), strict=True)
    for chosen in itertools.product(*([text] if "[" in text else text.split(",") for text in values)):
        yield " ".join(f"{key}={value}" if value else key for key, value in zip(keys, chosen, strict=True))


def signal_of(line: str) -> str:
    """The name of the signal that a line gets; empty if none."""
    return "" if "=" in (last := line.split()[-1]) else last


def words(line: str) -> list[str]:
    """The command line: the common words, with those of the line in their place."""
    stopped = signal_of(line)
    given = f"{COMMON} {AT_LENGTH if stopped else ''} {line.removesuffix(stopped)}".split()
    return list({word.partition("=")[0]: word for word in given}.values())


def translated(ours: Sequence[str]) -> list[str]:
    """BASE's words for the same; the longest entry of the table that fits goes first."""
    left, theirs = list(ours), []
    for entry in sorted(RENAMED, key=lambda entry: -len(entry.split())):
        if set(entry.split()) <= set(left):
            left = [word for word in left if word not in entry.split()]
            theirs += RENAMED[entry].split()
    return left + theirs


def lacking(root: Path, ours: list[str], base: Path, theirs: list[str]) -> str:
    """Which option of a line one side alone has; empty if there is none."""
    here, there = not_there(root, ours), not_there(base, theirs)
    if bool(here) == bool(there):
        return ""
    return f"{' '.join(there)}: only this tree has it" if there else f"{' '.join(here)}: only BASE has it"


def not_there(root: Path, line: list[str]) -> list[str]:
    """The words that choose an option which does not exist."""
    files = {word: root / f"configs/{word.replace('=', '/')}.yaml" for word in line}
    return [word for word, file in files.items() if file.parent.is_dir() and not file.is_file()]


class Side(AbstractContextManager["Side"]):
    """A tree, with the process that runs lines in it; every line gets a folder of its own below `folder`."""

    def __init__(self, name: str, root: Path, folder: Path) -> None:
        self.name, self.root, self.folder = name, root, folder / name
        self.folder.mkdir()
        self.number = itertools.count()
        self._start()

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with the process that it may have started
        self.process.wait()

    def ask(self, line: str, given: list[str]) -> Path:
        """Have a line run, in the folder that is returned."""
        if self.process.poll() is not None:
            self._start()
        folder = self.folder / f"{next(self.number):03}"
        order = json.dumps({"folder": str(folder), "words": given, "stop": signal_of(line)})
        print(order, file=self.process.stdin, flush=True)
        return folder

    def answer(self) -> str:
        """What went wrong with the line that was asked for; empty if it is done."""
        if written := next(self.told, ""):
            return str(json.loads(written))
        self.__exit__()
        return f"the process ended with {self.process.returncode}: {last_line(self.folder / 'stderr')}"

    def _start(self) -> None:
        with open(self.folder / "stderr", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).absolute()), "--worker"],
                cwd=self.root,
                env=os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.told = iter(self.process.stdout or ())
        if not (package := next(self.told, "").strip()):
            sys.exit(f"{self.name}: the door cannot be imported: {last_line(self.folder / 'stderr')}")
        if self.root.resolve() not in Path(package).resolve().parents:
            sys.exit(f"{self.name}: imports {package}, which is not of {self.root}")


def differences(line: str, given: tuple[list[str], list[str]], here: Side, base: Side) -> list[str]:
    """Run a line on both sides at once; a text for each difference."""
    ours, theirs = here.ask(line, given[0]), base.ask(line, given[1])
    answers = {side.name: side.answer() for side in (here, base)}
    if any(answers.values()):
        return [f"{name} failed: {error}" for name, error in answers.items() if error]
    found = [*parted(ours / "run", theirs / "run", "here", "in BASE", across=True)]
    if signal_of(line):
        found += parted(ours / "again", ours / "run", "here when stopped and resumed", "undisturbed")
        found += parted(theirs / "again", theirs / "run", "in BASE when stopped and resumed", "undisturbed")
        found += parted(ours / "again", theirs / "again", "here when resumed", "in BASE when resumed", across=True)
    return found


def parted(one: Path, other: Path, at_one: str, at_other: str, across: bool = False) -> Iterator[str]:
    """Where the files of two runs part: a text for each key, file or tensor; `across` is from here to BASE."""
    first, second = home(one), home(other)
    rows = [[json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()] for run in (first, second)]
    seen: set[str] = set()
    for number, (a, b) in enumerate(zip(*rows, strict=False)):
        for key, x, y in unequal(a, b, across):
            if key not in seen:
                seen.add(key)
                where = f"metrics.jsonl row {number} ({b.get('kind')}, step {b.get('step')}) {key}"
                yield f"{where}: {x} {at_one}, {y} {at_other}"
    if len(rows[0]) != len(rows[1]):
        yield f"metrics.jsonl: {len(rows[0])} rows {at_one}, {len(rows[1])} {at_other}"
    for file in sorted({file.name for run in (first, second) for file in run.glob("*.safetensors")}):
        for name, x, y in unequal_tensors(first / file, second / file):
            yield f"{file} {name}: {x} {at_one}, {y} {at_other}"
    for key, x, y in unequal(result(first), result(second), across):
        yield f"result.json {key}: {x} {at_one}, {y} {at_other}"


def home(folder: Path) -> Path:
    return next(folder.rglob("result.json")).parent


def result(run: Path) -> dict[str, Any]:
    written = json.loads((run / "result.json").read_text())
    return flat({key: written.get(key) for key in ("metrics", "cost", "sharpness", "label_noise")})


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def unequal(one: dict[str, Any], other: dict[str, Any], across: bool) -> Iterator[tuple[str, str, str]]:
    """The keys whose values are not the same JSON, -0.0 and 0.0 or 1 and 1.0 included, and both values."""
    if across:
        one = {key: value for key, value in one.items() if key in other or key not in ADDED}
    for key in {**one, **other}:
        x, y = (json.dumps(side[key]) if key in side else "nothing" for side in (one, other))
        if x != y and not key.endswith(TIMES):
            yield key, x, y


def unequal_tensors(one: Path, other: Path) -> Iterator[tuple[str, str, str]]:
    """The tensors of two files whose dtype, shape or bytes differ, and the first number of each that does."""
    sides = [dict(deserialize(file.read_bytes())) if file.exists() else {} for file in (one, other)]
    for name in {**sides[0], **sides[1]}:
        kinds = [f"{t['dtype']} {t['shape']}" if (t := side.get(name)) else "nothing" for side in sides]
        if kinds[0] != kinds[1]:
            yield name, kinds[0], kinds[1]
        elif sides[0][name]["data"] != sides[1][name]["data"]:
            a, b = (np.frombuffer(side[name]["data"], NUMBERS.get(side[name]["dtype"], "u1")) for side in sides)
            bits = a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}")
            yield f"{name}, {bits.sum()} of {bits.size} numbers", repr(a[bits][0].item()), repr(b[bits][0].item())


def last_line(file: Path) -> str:
    return next((line for line in reversed(file.read_text().splitlines()) if line.strip()), "it said nothing")


def serve() -> None:
    """The process of a side: say where its package is, then what went wrong with each line, mostly nothing."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    from sam_repro import train

    with suppress(ImportError):
        from sam_repro.oracle import products

        vars(products)["TwiceDifferentiable"] = nullcontext  # its products round differently than BASE's
    print(train.__file__, file=answers, flush=True)
    for order in map(json.loads, sys.stdin):
        signal.alarm(WORST)
        folder = Path(order["folder"])
        error = called(train.main, order["words"], folder / "run")
        if order["stop"] and not error:
            error = stopped(order["words"], folder / "again", signal.Signals[order["stop"]])
            error = error or called(train.main, order["words"], folder / "again")
            if not error and "\nresumed " not in (folder / "again/stdout").read_text():
                error = "started again it began anew: no line says that it resumed"
        signal.alarm(0)
        print(json.dumps(error), file=answers, flush=True)


def called(door: Callable[[], None], given: list[str], folder: Path) -> str:
    """Call the door in this process; what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    sys.argv = ["sam_repro.train", *given]
    code: Any = 0
    with open("stdout", "a") as out, open("stderr", "a") as err, redirect_stdout(out), redirect_stderr(err):
        try:
            door()
        except SystemExit as end:
            code = end.code
    return f"exit code {code}: {last_line(folder / 'stderr')}" if code else ""


def stopped(given: list[str], folder: Path, number: signal.Signals) -> str:
    """Start the door as a process of its own, and send it the signal after some rows; what went wrong."""
    folder.mkdir()
    with open(folder / "stdout", "a") as out, open(folder / "stderr", "a") as err:
        command = [sys.executable, "-m", "sam_repro.train", *given]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err)
    while process.poll() is None and sum(f.read_bytes().count(b"\n") for f in folder.rglob("metrics.jsonl")) < ROWS:
        time.sleep(0.005)
    process.send_signal(number)
    good = (code := process.wait()) in (-number, 128 + number)
    return "" if good else f"exit code {code} and not {number.name}: {last_line(folder / 'stderr')}"


if __name__ == "__main__":
    main()
