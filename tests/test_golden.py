"""What each door says, as a text in tests/data/golden: `pytest tests/test_golden.py --record` writes them anew.

The runs that the tables read are constructed, so their numbers are the same everywhere. What a run really measures, and
hashes, digests and seconds, are masked.
"""

import re
from pathlib import Path

import pytest
from called import command
from lab import MINE, Lab

from sam_repro import __main__ as package
from sam_repro import check, measure, train
from sam_repro.table import __main__ as table

RULES = {"HOME": "sam-rho=0.1", "SAM": "sam-rho=0.1", "SGD": "sgd"}
GOLDEN = Path(__file__).parent / "data/golden"
TABLE = """
claims:
  - {row: SAM, cell: sam 0.1, value: 10.0, plus_minus: 0.1, runs: 5}
  - {row: SGD, best_of: [sgd, sgd twice], by: test, value: 11.5, suspect: pasted from another row}
  - {row: one of two, candidates: {text: sam 0.1, code: sam 0.2}, value: 12.5}
  - {row: gain in %, derived: 100 * (sgd - sam) / sgd, candidates: {sam: sam 0.1, sgd: sgd}, value: 15.0}
  - {row: later, cell: not yet, value: 9.0}
  - {row: theirs, literature: true, metric: images/s, value: 501}
effects: [{name: SAM − SGD, cell: sam 0.1, twin: sgd, equal: epochs}]
search: {over: rho, metric: validation/error_pct, series: "sam {rho}", printed: {"": 0.2}}
plot: {x: rho, y: test/error_pct}
"""
RUN = ["precision=fp32", "threads=1", "device=cpu", "wandb=disabled", "progress=lines", "batch_size=500"]
ONE = ["epochs=1", "rho=0.1", "label_noise.rate=0.3", "dataset.validation.count=200", "sharpness=none", *RUN]
MEASURE = ["run=HOME", "sharpness=lambda_max", "sharpness.examples=100", "progress=silent"]
COMMANDS = {
    "package": (package, []),
    "train": (train, ONE),
    "train_help": (train, ["--help"]),
    "train_done": (train, ONE),
    "train_sweep": (train, ["-m", "optimizer=sgd,sam", "seed=0,1", "max_steps=1", "sharpness=none", *RUN]),
    "train_cfg": (train, ["--cfg", "job", "experiment=digits/label_noise", "optimizer=asam"]),
    "train_wrong": (train, ["epochs=0", "lr=-1"]),
    "measure": (measure, MEASURE),
    "measure_wrong": (measure, ["run=HOME", "sharpness=lambda_max", "sharpness.every=1"]),
    "check_help": (check, ["--help"]),
    "check": (check, ["optimizer=sgd"]),
    "table": (table, []),
    "table_wrong": (table, ["export"]),
    "table_name": (table, ["mine"]),
    "table_search": (table, ["search", "mine"]),
    "table_keep": (table, ["keep", "mine"]),
    "table_why": (table, ["why", "SAM", "mine"]),
    "table_compare": (table, ["compare", "SAM", "SGD"]),
    "table_diff": (table, ["diff", "luong2024/cifar100", "luong2024/cifar100_clean"]),
    "table_recipe": (table, ["recipe", "foret2021/cifar", "optimizer=asam", "epochs=1800"]),
}
NUMBER = r"[-+]?\d[\d.]*(?:e[-+]?\d+)?"
MASKS = (
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"-[0-9a-f]{10}(?=/|$)", "-HASH"),
    (r"-[0-9a-f]{8}(?=\.json)", "-DIGEST"),
    (rf"((?:train|test|validation) (?:loss|error)|lambda_max: lambda_max) +{NUMBER}", r"\1 #"),
    (rf"(?:less than )?{NUMBER} (?:h \d+ )?(?:min|s)(?= from| to go)", "TIME"),
    (rf"{NUMBER}(?= % at the best)", "#"),
    (rf"(pass(?:es)? in) {NUMBER} s", r"\1 TIME"),
    (r"(2/2 +)\d\S+", r"\1#"),  # in the table of a sweep
    (r"(?:^[\w/]+: [\w, ]+\n)+\n== Configuration ==\n\n(?:.+\n)+", "OPTIONS\n\n== Configuration ==\n\nKEYS\n"),
    (r"(?:^(?!mine )[\w/]+ .* cells, \d+ claims\)\n)+", "TABLES\n"),
    (r"^mine +", "mine  "),
)
"""What differs from machine to machine and commit to commit, such as the shipped options, and what stands for it."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and constructed runs of its cells, and below it one with a trained run."""
    lab = Lab(tmp_path_factory.mktemp("golden"))
    (lab.root / "configs/table").mkdir(parents=True)
    (lab.root / "configs/table/mine.yaml").write_text(MINE + TABLE, encoding="utf-8")
    lab.tabled(TABLE)
    for seed, error in enumerate([9.9, 10.0, 10.1]):
        lab.run("sam 0.1", seed, error, validation=error + 1)
        lab.run("sam 0.2", seed, error + 3, validation=error + 2)
    lab.runs("sgd", [11.0, 11.3])
    for place in ("trained", "swept"):
        (lab.root / place).mkdir()
    (lab.root / "train.txt").write_text(text_of("train", lab.root), encoding="utf-8")
    return lab.root


def text_of(name: str, folder: Path) -> str:
    """The command, its exit code and what it says, masked."""
    door, words = COMMANDS[name]
    place = folder if door is table else folder / ("swept" if "-m" in words else "trained")
    homes = {file.parent.relative_to(place) for file in place.glob("outputs/runs/*/*/seed=0/result.json")}
    known = {word: str(home) for word, rule in RULES.items() for home in homes if f"-{rule}-" in str(home)}
    given = [re.sub("HOME|SAM|SGD", lambda word: known[word[0]], word) for word in words]
    said = command(door.main, place, *given, *(["--config-dir", "configs"] if door is table else []))
    lines = [f"$ {door.__name__} {' '.join(words)}", f"exit {said.code}", said.out]
    text = "\n".join([*lines, *([f"errors:\n{said.err}"] if said.err else [])])
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_door_says_what_it_said(name: str, folder: Path, pytestconfig: pytest.Config) -> None:
    text = (folder / "train.txt").read_text(encoding="utf-8") if name == "train" else text_of(name, folder)
    file = GOLDEN / f"{name}.txt"
    if pytestconfig.getoption("record"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_each_text_is_of_a_door() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(COMMANDS)
