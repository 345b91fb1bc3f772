"""The door to tables, on runs of the digits: from nothing to table and picture, and every wrong word."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from called import command, rewrite

from sam_repro import train
from sam_repro.table import __main__ as table_door

CONFIGS = Path(__file__).parents[1] / "data/configs"
QUIET = ["wandb=disabled", "sharpness=none", "progress=silent", "record_every=null"]
SWEEP = ["-m", "--config-dir", str(CONFIGS), "table=tiny", "cell=0,1", "seed=0,1", *QUIET]


def table(folder, *words):
    return command(table_door.main, folder, *words, "--config-dir", str(CONFIGS))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the two cells of the tiny table have been run."""
    folder = tmp_path_factory.mktemp("tables")
    ended = command(train.main, folder, *SWEEP)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def trained(folder, *words):
    ended = command(train.main, folder, *words, *QUIET)
    assert ended.code == 0, ended.err
    return ended.out


def homes(folder):
    return sorted(path.parent for path in folder.glob("outputs/runs/main/*/seed=*/result.json"))


def written(folder, name="tiny"):
    return {file.name: file.read_bytes() for file in (folder / "outputs/tables" / name).iterdir()}


def test_the_list(tmp_path):
    said = table(tmp_path)
    assert said.code == 0
    assert "tiny " in said.out
    assert "luong2024/resnet18" in said.out
    assert not list(tmp_path.iterdir())


def test_a_table_with_its_runs(done):
    said = table(done, "tiny")
    assert said.code == 0
    errors = [
        json.loads((home / "result.json").read_text())["metrics"]["test"]["last"]["error_pct"] for home in homes(done)
    ]
    assert f"| {(errors[2] + errors[3]) / 2:.2f} " in said.out
    assert "0  2/2    rho 0: done" in said.out
    assert re.search(r"to pay     64 passes, about \d+ s", said.out), "the runs tell how long a pass takes"
    assert "provisional" in said.out
    assert "40 % uniform" not in said.out
    files = written(done)
    assert set(files) == {"table.md", "table.csv", "plot.png"}
    assert files["plot.png"].startswith(b"\x89PNG")
    assert files["table.md"].decode() in said.out


def test_the_table_of_a_sweep_that_was_killed_and_repeated_is_the_same(door, done, tmp_path):
    """Killed with -9 after its first run; the second start runs the rest only."""
    start = door.start(tmp_path, SWEEP)
    while not homes(tmp_path) and start.runs():
        time.sleep(0.01)
    os.kill(start.pid, signal.SIGKILL)
    assert start.end().code == -signal.SIGKILL
    kept = {home: (home / "result.json").stat().st_mtime_ns for home in homes(tmp_path)}
    assert 1 <= len(kept) < 4
    assert command(train.main, tmp_path, *SWEEP).code == 0
    assert {home: (home / "result.json").stat().st_mtime_ns for home in kept} == kept
    table(done, "tiny"), table(tmp_path, "tiny")
    assert written(tmp_path) == written(done)


def test_a_cell_that_fails_stops_nothing_and_is_named(copy):
    sweep = [word.replace("cell=0,1", "cell=2,0") for word in SWEEP]
    ended = command(train.main, copy, *sweep)
    assert ended.code == 1
    assert "done" in ended.out
    said = table(copy, "tiny")
    assert "fails: seed 0: failed: the loss or the gradient of step 1 is not finite" in said.out


def test_two_starts_of_the_same_sweep_divide_its_cells(door, tmp_path):
    starts = [door.start(tmp_path, SWEEP) for _ in range(2)]
    ends = [start.end() for start in starts]
    trained = [home for end in ends for home in re.findall(r"^result +(\S+)", end.out, flags=re.MULTILINE)]
    assert len(trained) == len(set(trained)) == 4, ends
    assert len(homes(tmp_path)) == 4


@pytest.mark.parametrize(
    "line",
    [
        ["--config-dir", str(CONFIGS), "table=tiny", "cell=1", "seed=1"],
        ["--config-dir", str(CONFIGS), "table=tiny", "cell=rho 0.1", "seed=1"],
        ["label_noise.rate=0.4", "precision=fp32", "epochs=1", "rho=0.1", "seed=1"],
        ["-m", "experiment=digits/label_noise", "epochs=1", "rho=0.1", "seed=1"],
        ["-m", "--config-dir", str(CONFIGS), "table=tiny", "cell=1", "seed=1,0", "hydra/launcher=joblib"],
    ],
)
def test_every_way_to_a_cell_finds_its_run(door, copy, line):
    before = {home: (home / "result.json").read_bytes() for home in homes(copy)}
    answer = door.run(copy, [*line, *QUIET])
    assert answer.code == 0, answer
    assert "done       outputs/runs/main/digits-digits_cnn-none-sam-rho=0.1-" in answer.out
    assert {home: (home / "result.json").read_bytes() for home in homes(copy)} == before


def test_the_record_says_which_cell_it_was(done):
    result = json.loads((homes(done)[0] / "result.json").read_text())
    assert result["cell"] == "rho 0"
    assert result["config"]["origin"] == {"rho": "from the cell", "table": "tiny", "cell": "rho 0"}
    assert result["overrides"][:4] == ["experiment=digits/label_noise", "optimizer=sam", "epochs=1", "rho=0"]
    assert "seed=0" in result["overrides"]


def test_why_a_run_counts_and_why_not(done, tmp_path):
    home = homes(done)[0]
    assert table(done, "why", str(home)).out.startswith("counts for tiny, cell 0 (rho 0), seed 0\n")
    shutil.copytree(home, tmp_path / "seed=0")

    def change(result):
        result["config"] |= {"lr": 0.3}
        result["config"]["optimizer"] |= {"perturb": "no_norm"}

    rewrite(tmp_path / "seed=0/result.json", change)
    (tmp_path / "seed=0/run.json").unlink()  # it would say that the result is of another run
    said = table(tmp_path, "why", str(tmp_path / "seed=0"), "tiny")
    assert said.out.splitlines() == [
        "counts for no cell; the nearest is tiny, cell 0 (rho 0), from which it differs in:",
        "key                run      cell",
        "lr                 0.3      0.1",
        "optimizer.perturb  no_norm  null",  # neutral values are no part of what a cell is
    ]


def test_why_composes_only_cells_that_name_what_the_run_has(done, monkeypatch):
    composed = []
    compose = table_door.compose_cell
    monkeypatch.setattr(
        table_door,
        "compose_cell",
        lambda *of, **more: composed.append((of[0].name, of[1].name)) or compose(*of, **more),
    )
    assert "counts for tiny, cell 1 (rho 0.1), seed 0" in table(done, "why", str(homes(done)[2])).out
    assert ("tiny", "rho 0.1") in composed
    assert {cell for _, cell in composed} == {"rho 0.1"}


def test_compare_two_runs(done):
    first, _, third, _ = homes(done)
    said = table(done, "compare", str(first), str(third))
    assert said.out.startswith("different cells\nsources equal\nthe records ")
    assert re.search(r"^rho +0 +0.1$", said.out, flags=re.MULTILINE)
    one, other = (json.loads((home / "result.json").read_text())["metrics"]["test"]["last"] for home in (first, third))
    delta = other["error_pct"] - one["error_pct"]
    assert re.search(rf"^test/error_pct .* {delta:+.6g}$".replace("+", r"\+"), said.out, flags=re.MULTILINE)
    assert table(done, "compare", str(first), str(homes(done)[1])).out.startswith(
        "the same cell\nsources equal\nthe records part at step 15 (epoch): "
    )


def test_a_recipe_differs_in_nothing_from_itself(tmp_path):
    assert "no key differs" in table(tmp_path, "diff", "foret2021/cifar", "foret2021/cifar").out


def test_search_and_the_command_that_it_gives(tmp_path):
    grid = ["-m", "--config-dir", str(CONFIGS), "table=tiny_search", "cell=0,1", "seed=0", *QUIET]
    assert "no choice: 2 runs of the grid are missing" in table(tmp_path, "search", "tiny_search").out
    assert command(train.main, tmp_path, *grid).code == 0
    said = table(tmp_path, "search", "tiny_search")
    errors = [
        json.loads((home / "result.json").read_text())["metrics"]["validation"]["last"]["error_pct"]
        for home in homes(tmp_path)
    ]
    chosen = 0 if errors[0] <= errors[1] else 0.1
    assert f"chosen: rho={chosen}; retrain on all data:" in said.out
    assert "retrained: test error % not yet" in said.out
    (line,) = re.findall(r"python -m sam_repro\.train (.*)", said.out)
    assert command(train.main, tmp_path, *line.split(), *QUIET).code == 0
    again = table(tmp_path, "search", "tiny_search").out
    assert re.search(r"retrained: test error % [\d.]+ \(1 seeds, fp32 on cpu, threads: 1\)", again)
    (choice,) = json.loads(written(tmp_path, "tiny_search")["search.json"])["choices"]
    assert choice["chosen"] == chosen
    assert [point["mean"] for point in choice["curve"]] == errors


def test_keep_copies_what_counts_and_it_counts_there(copy):
    said = table(copy, "keep", "tiny")
    assert said.out.startswith("kept       4 runs")
    evidence = copy / "outputs/evidence/tiny"
    assert {file.name for file in evidence.iterdir()} == {"runs", "table.md", "table.csv", "plot.png"}
    assert {file.name for file in next(evidence.glob("runs/*/seed=0")).iterdir()} == {
        "result.json",
        "run.json",
        "metrics.jsonl",
    }
    older = next(evidence.glob("runs/*/seed=0/result.json"))
    rewrite(older, lambda result: result.update(weights_sha256="other"))
    (older.parent / "sharpness").mkdir()
    (older.parent / "sharpness/m-last-0.json").write_text("{}")
    assert table(copy, "keep", "tiny").code == 0
    assert not (older.parent / "sharpness").exists()
    before = table(copy, "tiny")
    shutil.rmtree(copy / "outputs/runs")
    after = table(copy, "tiny")
    assert after.out.partition("\n# ")[2] == before.out.partition("\n# ")[2]
    assert not after.err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"title: [", b"", b"- 1\n", b"title: ${nowhere}\ncells: []\n"])
def test_a_file_that_is_no_table_is_told_of_and_hides_no_other(tmp_path, content):
    (tmp_path / "mine/table").mkdir(parents=True)
    (tmp_path / "mine/table/broken.yaml").write_bytes(content)
    listed = command(table_door.main, tmp_path, "--config-dir", "mine")
    assert listed.code == 0
    assert listed.err.startswith("sam_repro: mine/table/broken.yaml: ")
    assert "luong2024/resnet18" in listed.out
    shown = command(table_door.main, tmp_path, "--config-dir", "mine", "broken")
    assert (shown.code, len(shown.err.splitlines())) == (2, 1)


def test_several_outputs_are_read_together(copy, tmp_path):
    other = tmp_path / "elsewhere"
    moved = homes(copy)[0]
    shutil.move(moved, other / "runs" / moved.relative_to(copy / "outputs/runs"))
    assert "1/2    rho 0: missing" in table(copy, "tiny").out
    assert "2/2    rho 0: done" in table(copy, "tiny", "--outputs", "outputs", "--outputs", str(other)).out


def test_what_is_damaged_is_named_and_the_rest_is_rendered(copy):
    first, second, *_ = homes(copy)
    (first / "result.json").write_text("{")
    with (second / "metrics.jsonl").open("r+") as file:
        file.truncate(20)
    said = table(copy, "tiny")
    assert said.code == 0
    assert len(said.err.splitlines()) == 2
    assert "damaged, not counted" in said.err
    assert "metrics.jsonl: cut: 20 of" in said.err
    assert "1/2    rho 0: missing" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tinny"], "tinny: no such table or verb; did you mean tiny?"),
        (
            ["foret2021/cifar"],
            "foret2021/cifar: is a recipe, and no table; python -m sam_repro.table recipe foret2021/cif",
        ),
        (["search", "foret2021/cifar"], "foret2021/cifar: is a recipe, and no table"),
        (
            ["recipe", "foret2021/table1"],
            "foret2021/table1: is a table, and no recipe; python -m sam_repro.table recipe foret2021/cifar table=fo",
        ),
        (["diff", "foret2021/cifar", "tiny"], "tiny: is a table, and no recipe; python -m sam_repro.table "),
        (["tiny", "--to", "a", "--to", "b"], "--to and --to: write it once, because only one of them can count"),
        (["comparre"], "comparre: no such table or verb; did you mean compare?"),
        (
            ["export"],
            "export: no such table or verb; without a word the tables are listed, and the verbs are search, keep",
        ),
        (["digits"], "digits: no such table or verb; there are: digits/label_noise, digits/landscape, digits/search"),
        (["why", "a", "b", "c"], "why: takes a run, and a table if you like; 3 given: a b c"),
        (["keep", "tiny", "b"], "keep: takes one table, such as digits/label_noise; 2 given: tiny b"),
        (["tiny", "cell=0"], "cell=0: is for training: python -m sam_repro.train table=tiny cell=0"),
        (["tiny", "more"], "tiny more: cannot be read; it is one of"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["why"], "why: of what?"),
        (["why", "nowhere"], "nowhere: no finished run; result.json is missing"),
        (["compare", "a", "b"], "a: no finished run"),
        (["compare", "a"], "compare: takes two runs, such as outputs/runs/main/…/seed=0; 1 given: a"),
        (["diff", "a", "b", "c"], "diff: takes two recipes, such as foret2021/cifar; 3 given: a b c"),
        (["diff", "foret2021/cifr", "foret2021/cifar"], "did you mean foret2021/cifar?"),
        (["search", "tiny"], "tiny: has no search; tiny_search, digits/search"),
        (["keep", "tiny"], "no run of it is finished; there is nothing to keep"),
        (["tiny", "--outputs", "nowhere"], "--outputs nowhere: no such folder"),
    ],
)
def test_wrong_words_are_refused_in_a_line_and_nothing_is_written(tmp_path, words, told):
    said = table(tmp_path, *words)
    assert said.code == 2
    assert said.err.startswith("sam_repro: ")
    assert told in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["table=tiny"], "table = tiny: which cell? Write cell=0; python -m sam_repro.table tiny lists them"),
        (["table=tiny", "cell=9"], "cell = 9: tiny has the cells 0 … 3"),
        (["table=tiny", "cell=rho 0.3"], "cell = rho 0.3: tiny has the cells 0 … 3; did you mean rho 0.1?"),
        (["table=tiny", "cell=0-2"], "cell = 0-2: write the numbers one by one: -m cell=0,1,2"),
        (["table=null", "cell=0"], "table = null: no such option"),
        (["--cfg", "job", "table=tiny", "cell=3"], "cell = 3 (later) of tiny waits for something"),
        (["--cfg", "job", "table=tiny"], "table = tiny: which cell?"),
        (
            ["table=tiny", "cell=0", "optimizer.alpha=1"],
            "cell = 0 (rho 0) of tiny: optimizer.alpha: no such key; it is a key of",
        ),
        (["table=tiny", "cell=0", "optimizer.perturbs=all"], "no such key; did you mean optimizer.perturb?"),
        (["table=tiny", "cell=0", "++optimizer.alpha=1"], "++optimizer.alpha"),
        (["table=tiny", "cell=3"], "cell = 3 (later) of tiny waits for something"),
        (["table=tinny", "cell=0"], "table = tinny: no such option; did you mean tiny?"),
        (["cell=0"], "cell = 0: of which table? Write table=name cell=0"),
        (["table=tiny", "cell=-1"], "cell = -1: must be a number from 0 on"),
        (["table=tiny", "cell=0,1"], "several values are a sweep; add -m"),
        (["-m", "table=tiny", "cell=0,9"], "cell = 9: tiny has the cells 0 … 3"),
        (["table=tiny", "cell=0", "rho=-1"], "rho = -1: must be"),
        (["experiment=digits/label_nose"], "did you mean digits/label_noise?"),
    ],
)
def test_a_cell_that_is_none_is_refused_before_anything_is_written(tmp_path, line, told):
    ended = command(train.main, tmp_path, "--config-dir", str(CONFIGS), *line)
    assert ended.code == 2
    assert told in ended.err
    assert not list(tmp_path.iterdir())


def test_a_key_that_a_table_has_wrong_is_named(tmp_path):
    (tmp_path / "mine/table").mkdir(parents=True)
    cell = "{name: a, set: {optimizer: looksam, optimizer.alphas: 1}}"
    (tmp_path / "mine/table/mine.yaml").write_text(
        f"title: t\nseeds: [0]\nmetrics: [test/error_pct]\ncells: [{cell}]\n"
    )
    said = "cell = 0 (a) of mine: optimizer.alphas: no such key; did you mean optimizer.alpha?"
    ended = command(train.main, tmp_path, "--config-dir", "mine", "table=mine", "cell=0")
    assert (ended.code, said in ended.err) == (2, True), ended
    shown = command(table_door.main, tmp_path, "--config-dir", "mine", "mine")
    assert (shown.code, f"a mended file: {said}" in shown.out) == (0, True), shown  # the other cells are shown, too


@pytest.mark.parametrize("line", [["cell=0"], ["-m", "cell=0,1"]])
def test_a_key_that_only_the_rule_of_the_cell_has(tmp_path, line):
    (tmp_path / "mine/table").mkdir(parents=True)
    cells = [f"{{name: {rule}, set: {{optimizer: {rule}, max_steps: 1}}}}" for rule in ("looksam", "look_layersam")]
    text = f"title: mine\nseeds: [0]\nmetrics: [test/error_pct]\ncells: [{', '.join(cells)}]\n"
    (tmp_path / "mine/table/mine.yaml").write_text(text)
    trained(tmp_path, "--config-dir", "mine", *line, "table=mine", "optimizer.alpha=0.25")
    results = [json.loads((home / "result.json").read_text()) for home in homes(tmp_path)]
    assert len(results) == 1 + ("cell=0,1" in line)
    for result in results:
        assert result["config"]["optimizer"]["alpha"] == 0.25
        assert "optimizer.alpha=0.25" in result["overrides"]
    assert "done       " in trained(tmp_path, "optimizer=looksam", "max_steps=1", "optimizer.alpha=0.25")


def test_what_is_shown_of_a_cell_is_what_would_run(light, tmp_path):
    cell = ["--config-dir", str(CONFIGS), "table=tiny", "cell=1", "seed=3"]
    typed = ["experiment=digits/label_noise", "epochs=1", "rho=0.1", "seed=3"]
    shown, same = (light.run(tmp_path, ["--cfg", "job", "--resolve", *words]).out for words in (cell, typed))
    assert shown == same
    assert "rho: 0.1\nseed: 3\nepochs: 1\n" in shown
