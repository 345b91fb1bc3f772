"""What the doors do with what nobody meant: odd command lines, changed option files and results, damaged files.

    python scripts/faults.py                       # 1,200 command lines, 400 option files, changes and cuts
    python scripts/faults.py --seed 1 --lines 5000

All of it runs in this process, so that imports are paid once; one small run is trained. A command line survives if it
ends in 0, or in 2 with one line that a person can read; never a traceback, never more than `PATIENCE` seconds. A
changed result survives if the table is printed all the same and the change is named; a damaged file if the door names
it. Prints a line for each that does not, and figures tried / survived. The exit code is 0 if all survived, else 1.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sam_repro import measure, train
from sam_repro.config.compose import compose
from sam_repro.config.launch import guard, launch
from sam_repro.config.options import config_dir, groups_of
from sam_repro.config.schema import Config, flat
from sam_repro.table import __main__ as table

PATIENCE = 20
TINY = ["epochs=1", "max_steps=1", "sharpness=none", "wandb=disabled", "progress=silent", "record_every=null"]
ODD = (
    *("", "null", "true", "-1", "0", "1", "0.5", "1e308", "nan", "inf", "-inf", "1" + "0" * 400, "word", "é", "日本"),
    *("[]", "[1]", "[0.9,0.9,0.9]", "{}", "{a:1}", "'a b'", "'a\nb'", "${seed}", "${nope}", "???", "a,b", "range(0,0)"),
    *(
        "choice(1,2)",
        "glob(*)",
        "interval(0,1)",
        "[",
        "'",
        "\\",
        "~",
        "/",
        "..",
        "a" * 300,
        "\udcff",
        "=",
        "@x",
        "None",
    ),
)
HYDRAS = ("--resolve", "--cfg=job", "--cfg=nope", "--info", "-s", "--hydra-help", "--package", "-cd", "--version", "-m")
OTHER_VALUES = (None, True, -1, 1.5, "text", [], {}, float("nan"), float("inf"), 10**400)
ODD_TEXTS = ("", "é\n|", "${nope}", "${seed}", "a" * 999, "range(3)", [[]], {"a": {"b": [None]}}, 0, 1e308, 2**70)
RECORDS = ("result.json", "run.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1200, help="command lines, default 1200")
    parser.add_argument("--options", type=int, default=400, help="changed option files, default 400")
    parser.add_argument("--every", type=int, default=8, help="of the single changes every n-th, default 8")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn, default 0")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, raise_late)
    os.environ["WANDB_MODE"] = "disabled"
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, contextlib.chdir(folder):
        home = finished_run()
        parts = {
            "command lines": lines(draw, given.lines),
            "option files": options(draw, given.options),
            "single changes": changes(home, given.every),
            "cut and flipped files": damages(home),
        }
        failed = [told(name, outcomes) for name, outcomes in parts.items()]
    sys.exit(1 if any(failed) else 0)


def told(name: str, outcomes: Iterator[str]) -> int:
    """Print what did not survive, and the figures; how many did not."""
    tried, faults = 0, []
    for fault in outcomes:
        tried += 1
        if fault:
            faults.append(fault)
            print(f"  {fault[:300]}", flush=True)
    print(f"{name}: {tried} tried, {tried - len(faults)} survived", flush=True)
    return len(faults)


class Late(BaseException):
    """No door handles it."""


def raise_late(*_: object) -> None:
    raise Late


def finished_run() -> Path:
    code, _, err = call(train.main, TINY)
    if code:
        sys.exit(f"the run to start from failed: {err}")
    return next(Path().glob("outputs/runs/*/*/*/result.json")).parent


def call(door: Callable[[], None], words: list[str]) -> tuple[int, str, str]:
    """Exit code, and what was said; a traceback is said too."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    before, sys.argv = sys.argv, ["sam_repro", *words]
    signal.alarm(3 * PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            door()
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        code = 1
        err.write(f"Traceback: {error!r}")
    finally:
        signal.alarm(0)
        sys.argv = before
    return int(code), out.getvalue(), err.getvalue()


def refused_well(code: int, err: str) -> str:
    """What is wrong with an end; empty if it is 0, or 2 with one line."""
    if "Traceback" in err:
        return err.strip().splitlines()[-1]
    if code not in (0, 2):
        return f"exit code {code}: {err.strip()[:200]}"
    if code == 2 and (not err.startswith("sam_repro: ") or max(map(len, err.splitlines())) > 2000):
        return f"no line for a person: {err[:200]!r}"
    return ""


def lines(draw: random.Random, number: int) -> Iterator[str]:
    """Command lines of all doors, made of the keys and options that there are and of values that nobody means."""
    groups = groups_of(None)
    keys = [*Config.__dataclass_fields__, *flat(compose([]).plain()), *groups, "table", "cell", "hydra/launcher"]
    home = next(Path().glob("outputs/runs/*/*/*/result.json")).parent
    recipes, tables = groups["experiment"], groups["table"]

    def word() -> str:
        if draw.random() < 0.3:
            group = draw.choice([*groups])
            return f"{group}={draw.choice(groups[group])}"
        sign = draw.choice(["", "", "", "", "+", "~", "++"])
        return f"{sign}{draw.choice(keys)}{draw.choice(['', '', '', '.x', '@y'])}={draw.choice(ODD)}"

    def trained() -> list[str]:
        options = [draw.choice(HYDRAS)] if draw.random() < 0.15 else []
        return [*options, "--cfg", "job", *(word() for _ in range(draw.randint(1, 3)))]

    def measured() -> list[str]:
        run = draw.choice([str(home), str(home), f"{home}/result.json", "/", "", "nope", f"{home},{home}"])
        return [f"run={run}", draw.choice([word(), "sharpness=none", f"sharpness={draw.choice(ODD)}", "checkpoint=x"])]

    def tabled() -> list[str]:
        verb = draw.choice(["", "search", "keep", "why", "compare", "diff", "recipe", "export"])
        names = [str(home), "nope", "", draw.choice(tables), draw.choice(recipes), draw.choice(ODD), word()]
        return [*([verb] if verb else []), *draw.sample(names, draw.randint(0, 2))]

    doors = [(train.main, trained)] * 6 + [(measure.main, measured)] * 2 + [(table.main, tabled)]
    for _ in range(number):
        door, make = draw.choice(doors)
        words = make()
        began = time.process_time()
        code, _, err = call(door, words)
        wrong = refused_well(code, err)
        if time.process_time() - began > PATIENCE / 2:
            wrong = f"took {time.process_time() - began:.0f} s"
        yield f"{door.__module__} {words!r:.200}: {wrong}" if wrong else ""


def options(draw: random.Random, number: int) -> Iterator[str]:
    """Shipped options, recipes and tables with one value changed, as a user's own, at the doors that read them."""
    files = sorted(config_dir().glob("*/**/*.yaml"))
    for _ in range(number):
        file = draw.choice(files)
        group = file.relative_to(config_dir()).parts[0]
        content = yaml.safe_load(text := file.read_text())
        path, value = draw.choice([*leaves(content)]), draw.choice(OTHER_VALUES[:-1] + ODD_TEXTS)
        first = "# @package _global_\n" * text.startswith("# @package _global_")
        own = Path("own") / group / "odd.yaml"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(first + yaml.safe_dump(changed(content, path, value), allow_unicode=True))
        calls = {
            "table": [(table.main, ["odd"]), (train.main, ["-m", "table=odd", "cell=0", "seed=0", "--cfg", "job"])],
            "experiment": [(table.main, ["recipe", "odd"]), (train.main, ["experiment=odd", "--cfg", "job"])],
        }.get(group, [(dry, [f"{group}=odd", *TINY])])
        said = [call(door, ["--config-dir", "own", *words]) for door, words in calls]
        own.unlink()
        wrong = next(filter(None, (refused_well(code, err) for code, _, err in said)), "")
        what = f"{file.relative_to(config_dir())} {'.'.join(map(str, path))} = {value!r:.40}"
        yield f"{what}: {wrong}" if wrong else ""


def dry() -> None:
    """The door to training without the training."""
    sys.exit(guard(lambda: 0 * len(launch(lambda config, words: 0, train._dry_build))))


def changes(home: Path, every: int) -> Iterator[str]:
    """Every n-th single change of a value in result.json: a table names the run, and is printed all the same."""
    whole = (home / "result.json").read_text()
    content = json.loads(whole)
    all_changes = [(path, value) for path in leaves(content) for value in OTHER_VALUES if path != ("sha256",)]
    for path, value in all_changes[::every]:
        (home / "result.json").write_text(json.dumps(changed(content, path, value)))
        if json.loads(whole) == json.loads((home / "result.json").read_text()):
            continue
        for words, end in ((["digits/label_noise"], 0), (["why", str(home), "digits/label_noise"], 2)):
            code, _, err = call(table.main, words)
            wrong = refused_well(code, err) or ("" if "damaged" in err else "accepted without a word")
            wrong = wrong or ("" if code == end else f"exit code {code} and not {end}")
            yield f"{'.'.join(map(str, path))} = {value!r:.40}: {wrong}" if wrong else ""
    (home / "result.json").write_text(whole)


def damages(home: Path) -> Iterator[str]:
    """Every file of a finished run, cut at each eighth, with a bit flipped there, and a pipe or folder in its place."""
    for file in (home / name for name in (*RECORDS, "metrics.jsonl", "model.safetensors")):
        whole = file.read_bytes()
        for eighth in range(8):
            at = len(whole) * eighth // 8
            for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
                file.write_bytes(content)
                yield damage_told(home, file, f"{file.name} {'cut' if len(content) == at else 'flipped'} at {at}")
        for make, remove in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir)):
            file.unlink()
            make(file)
            yield damage_told(home, file, f"{file.name} by {make.__name__}")
            remove(file)
            file.write_bytes(whole)


def damage_told(home: Path, file: Path, what: str) -> str:
    """Whether the door that reads the file names its damage."""
    door, words = train.main, TINY
    if file.name == "metrics.jsonl":
        door, words = table.main, ["why", str(home), "digits/label_noise"]
    elif file.name == "model.safetensors":
        door, words = measure.main, [f"run={home}", "sharpness=average_case", "sharpness.examples=8"]
    code, out, err = call(door, words)
    wrong = refused_well(code, err)
    if not wrong and file.name not in out + err:
        wrong = "nothing says so"
    return f"{what}: {wrong}" if wrong else ""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in nested mappings and lists."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from leaves(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """The value with another one at a path."""
    if not path:
        return to
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], to)
    return copy


if __name__ == "__main__":
    main()
