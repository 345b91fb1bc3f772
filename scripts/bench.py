"""What the benchmarks share: rounds, clocks, ratios, the table and the JSON lines.

All variants of a table run in one process, one after the other in every round, forwards and backwards in turn. A figure
is the median over the rounds of a ratio within a round, so that a machine that slows down slows both sides. The first
variant is measured twice: what lies between the two is noise, and a difference below it is none. On a CPU: one thread,
and the time of the process, which other people's load hardly moves. On a GPU: CUDA events.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
AGAIN = " (again)"


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Args:
        name: unique in the table.
        run: what is timed.
        units: how many units (steps, images) one run does.
        warm_up: runs before the clock starts, what they compile or capture included.
        prepare: what is done before each timing, off the clock.
        facts: what else the JSON line says: model, precision, layout.
    """

    name: str
    run: Callable[[], object]
    units: int = 1
    warm_up: int = 1
    prepare: Callable[[], object] = lambda: None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Bench:
    """One script: its arguments, its tables, its file of JSON lines."""

    def __init__(self, name: str, description: str, only: Sequence[str] = ()) -> None:
        self.arguments = arguments(description, only)
        self.quick: bool = self.arguments.quick
        self.compile: bool = self.arguments.compile or (self.arguments.gpu and not self.quick)
        self.device = torch.device("cuda" if self.arguments.gpu else "cpu")
        self.rounds: int = self.arguments.rounds or (2 if self.quick else 7)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.name, self._targets = name, []
        self._path: Path = self.arguments.out.absolute() / f"{name}{'-quick' if self.quick else ''}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")
        self._peak: dict[str, int] = {}
        self._warm_up: dict[str, float] = {}
        self._facts = run_facts(self.device) | {"quick": self.quick}
        self.say(**self._facts)

    def measure(self, title: str, variants: Sequence[Variant], unit: str) -> dict[str, list[float]]:
        """Seconds per unit of each variant in each round; prints the table."""
        first = variants[0]
        rows = [*variants, dataclasses.replace(first, name=first.name + AGAIN)]
        seconds: dict[str, list[float]] = {row.name: [] for row in rows}
        repeats = {row.name: self._repeats(row) for row in rows}
        for number in range(self.rounds):
            for row in rows if number % 2 == 0 else reversed(rows):
                row.prepare()
                taken = self._seconds(row.run, repeats[row.name])
                seconds[row.name].append(taken / repeats[row.name] / row.units)
        self._table(title, rows, seconds, unit)
        return seconds

    def target(
        self, name: str, what: str, value: float, limit: float, stretch: float | None = None, *, counted: bool = False
    ) -> None:
        """Note a figure beside what it should be at most.

        G… is judged on a GPU, all else on a CPU, and with --quick only what is `counted`, no time.
        """
        reached = "meets" if value <= limit else "MISSES"
        further = "" if stretch is None else f" (stretch {stretch:g}{', met' if value <= stretch else ''})"
        timed = not self.quick and self.device.type == ("cuda" if name.startswith("G") else "cpu")
        judged = f"{reached} {limit:g}{further}" if counted or timed else f"({limit:g} is not for this run)"
        self._targets.append(f"{name:<5}{what}: {value:.3f} {judged}")
        self.say(target=name, what=what, value=value, limit=limit, stretch=stretch)

    def note(self, text: str) -> None:
        """Note a line for the end."""
        self._targets.append(text)
        self.say(note=text)

    def say(self, **line: Any) -> None:
        """Write a JSON line at once, because a script may be stopped."""
        with self._path.open("a") as file:
            file.write(json.dumps({"script": self.name} | line) + "\n")

    def close(self) -> None:
        """Print where this ran, and the targets last."""
        print(f"\n{json.dumps(self._facts)}")
        print("\n".join(self._targets))

    def _repeats(self, row: Variant) -> int:
        """How often to run for a time that can be told, after a warm-up."""
        row.prepare()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(row.warm_up):
            row.run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self._peak[row.name] = torch.cuda.max_memory_allocated()
        self._warm_up[row.name] = time.perf_counter() - began
        row.prepare()
        enough = 0.2 if self.device.type == "cuda" else 0.05
        return max(1, round(enough / max(self._seconds(row.run, 1), 1e-6)))

    def _seconds(self, run: Callable[[], object], repeats: int) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(repeats):
                run()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1000
        began = time.process_time()
        for _ in range(repeats):
            run()
        return time.process_time() - began

    def _table(self, title: str, rows: Sequence[Variant], seconds: Mapping[str, list[float]], unit: str) -> None:
        base = seconds[rows[0].name]
        print(f"\n{title}: {self.rounds} rounds; ratios to {rows[0].name}, median [quartiles]")
        width = max(len(row.name) for row in rows)
        print(f"  {'':<{width}}  {'ms/' + unit:>10}  {'min':>10}  ratio")
        for row in rows:
            taken = seconds[row.name]
            ratios = [a / b for a, b in zip(taken, base, strict=True)]
            low, middle, high = quartiles(ratios)
            print(
                f"  {row.name:<{width}}  {1000 * statistics.median(taken):10.4g}  {1000 * min(taken):10.4g}  "
                f"{middle:.3f} [{low:.3f}, {high:.3f}]"
            )
            self.say(
                table=title,
                variant=row.name,
                base=rows[0].name,
                unit=unit,
                rounds=self.rounds,
                seconds=dict(zip(("q25", "median", "q75"), quartiles(taken), strict=True)) | {"min": min(taken)},
                ratio={"q25": low, "median": middle, "q75": high},
                warm_up_seconds=self._warm_up[row.name],
                peak_memory_bytes=self._peak.get(row.name),
                **row.facts,
            )


def arguments(description: str, only: Sequence[str] = ()) -> argparse.Namespace:
    """What stands on the command line, the same for every script; what cannot be is refused at once.

    Args:
        description: what the script does.
        only: names of the cases that --only takes; none: there is no --only.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sizes and rounds that show only that it runs")
    parser.add_argument("--gpu", action="store_true", help="on the GPU, with CUDA events")
    parser.add_argument(
        "--compile", action="store_true", help="also compiled variants, where a script has some; --gpu has them"
    )
    parser.add_argument("--rounds", type=int, help="at least 1, default 7, with --quick 2")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "bench", help="folder of the JSON lines")
    parser.add_argument(
        "--data", type=Path, help="folder of the data sets, where a script uses some; default random images"
    )
    if only:
        parser.add_argument("--only", nargs="+", choices=only, help="on a GPU, these cases; default all")
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: must be at least 1")
    if given.data is not None and not given.data.is_dir():
        parser.error(f"--data {given.data}: no such folder")
    if given.gpu and not torch.cuda.is_available():
        parser.error("--gpu: this machine has no CUDA device")
    return given


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of one variant's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def agree(what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> None:
    """Refuse to time what computes something else: ‖ours − theirs‖ ≤ tolerance·‖theirs‖, over all tensors."""
    pairs = [(a.detach().double().cpu(), b.detach().double().cpu()) for a, b in zip(ours, theirs, strict=True)]
    apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    size = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    if not apart <= tolerance * size:
        raise SystemExit(f"{what}: {apart / size:.2e} from the reference, more than {tolerance:g}: not timed")


def run_facts(device: torch.device) -> dict[str, Any]:
    """Where and when this ran, and on what."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = "+changes" if git("status", "--porcelain") else ""
    facts = {
        "commit": git("rev-parse", "--short", "HEAD") + changed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
    }
    if device.type == "cuda":
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts


def processor() -> str:
    """The CPU's name and count, and whether it multiplies bfloat16 itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    bf16 = any("avx512_bf16" in line for line in lines)
    return f"{len(names)} x {names[0]}{', avx512_bf16' if bf16 else ''}" if names else "unknown CPU"
