"""The record: what is on disk after a kill, a full disk, a wrong value."""

import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_repro.files import replacing, write_json
from sam_repro.run.metrics import Metrics, read_metrics, record_flaw

VALUE = {
    "z": 1,
    "a": [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 2**70],
    "ρ": {"nested": [{"deep": None}, True, 'tab\t, quote", line\n, \udcff']},
    "empty": [{}, []],
}


@contextmanager
def files_of_at_most(size):
    """A full disk: what would make a file longer fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_comes_back_as_it_was(tmp_path):
    write_json(tmp_path / "value.json", VALUE)
    text = (tmp_path / "value.json").read_text()
    assert repr(strict(text)) == repr(VALUE)
    assert text.endswith("}\n")
    assert text.startswith('{\n  "z": 1,\n')
    assert os.listdir(tmp_path) == ["value.json"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metrics": {"test": {"error_pct": math.nan}}}, "value.json/metrics/test/error_pct = nan"),
        ({"curve": [0.5, [1.0, -math.inf]]}, "value.json/curve/1/1 = -inf"),
        (math.inf, "value.json = inf"),
        ({"counts": {3: "three"}}, "value.json/counts: key 3"),
        ({"home": Path("x")}, "value.json/home = .*Path"),
        ({"loss": np.float32(0.5)}, "value.json/loss = .*float32"),
        ({"loss": torch.tensor(0.5)}, "value.json/loss = .*Tensor"),
        ({"loss": np.float64("nan")}, "value.json/loss = nan"),
        ({"seeds": {1, 2}}, "value.json/seeds = .*set"),
        ({"tuple": (1, b"bytes")}, "value.json/tuple/1 = .*bytes"),
    ],
)
def test_what_is_not_json_is_refused_by_name_and_nothing_is_touched(tmp_path, value, message):
    path = tmp_path / "value.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        write_json(path, value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, "old")
    with files_of_at_most(5000), pytest.raises(OSError, match="too large"):
        write_json(path, list(range(5000)))
    assert json.loads(path.read_text()) == "old"
    assert os.listdir(tmp_path) == ["value.json"]


def new_then_interrupt():
    yield b"new"
    raise KeyboardInterrupt


def test_an_interrupt_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.writelines(new_then_interrupt())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_reader_sees_whole_files_only(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, [0] * 20_000)
    seen = []
    writing = threading.Event()

    def read():
        while not writing.is_set():
            seen.append(json.loads(path.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        write_json(path, [number] * 20_000)
    writing.set()
    reader.join()
    assert seen
    assert all(len(value) == 20_000 and len(set(value)) == 1 for value in seen)


def test_a_rename_comes_between_the_syncs_of_file_and_directory(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(descriptor):
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append("directory" if target.is_dir() else f"{target.stat().st_size} bytes")
        fsync(descriptor)

    def spied_replace(source, target):
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    write_json(tmp_path / "value.json", 12345)
    assert done == ["6 bytes", "rename", "directory"]


def test_rows_are_synced_when_it_is_asked_for_and_at_the_end(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "metrics.jsonl", [], os.fsync
    metrics = Metrics(path)

    def spied_fsync(descriptor):
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        synced.append(read_metrics(path))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    metrics.append({"step": 0})
    metrics.sync()
    metrics.append({"step": 1})
    metrics.close()
    assert synced == [[{"step": 0}], [{"step": 0}, {"step": 1}]]


def rows_of(steps):
    """Rows as the loop makes them: one a step, and after every third the row of an epoch with the same step."""
    rows = []
    for step in range(steps):
        rows.append({"kind": "train", "step": step, "loss": 1 / (step + 3), "note": "ρ\n"})
        if step % 3 == 2:
            rows.append({"kind": "epoch", "step": step, "test/error_pct": 0.1 * step, "test/loss": math.inf})
    return rows


def write_rows(path, rows, kept=None):
    """Write rows behind those that are kept; returns what a checkpoint would count on after each of them."""
    metrics = Metrics(path, kept)
    written = [metrics.written]
    for row in rows:
        metrics.append(row)
        written.append(metrics.written)
    metrics.close()
    return written


def test_a_run_cut_at_any_byte_and_resumed_at_any_row_leaves_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of them on a busy disk take a minute
    rows = rows_of(4)
    written = write_rows(tmp_path / "whole", rows)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "metrics.jsonl"
    for length in range(len(whole) + 1):
        for kept, counted in enumerate(written):
            path.write_bytes(whole[:length])
            if counted["bytes"] > length:
                with pytest.raises(ValueError, match=f"the checkpoint counts on {kept} rows that are not all there"):
                    Metrics(path, counted)
                assert path.read_bytes() == whole[:length]
            else:
                write_rows(path, rows[kept:], counted)
                assert path.read_bytes() == whole, (length, kept)
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "whole"]


def test_reading_drops_a_broken_last_line_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_rows(path, rows_of(4))
    whole, rows = path.read_bytes(), read_metrics(path)
    assert [row["step"] for row in rows] == [0, 1, 2, 2, 3]
    for tail in (b'{"step": 4, "lo', b"\0" * 50, b"\xff\xfe", b'{"step": 4}}\n'):
        path.write_bytes(whole + tail)
        assert read_metrics(path) == rows
        assert path.read_bytes() == whole + tail
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"step": 2, "lo\n', *lines[3:]]))
    with pytest.raises(ValueError, match="line 3 of 5 is broken"):
        read_metrics(path)
    assert path.read_bytes().splitlines(keepends=True)[3:] == lines[3:]


def test_rows_that_were_changed_doubled_or_of_another_run_are_not_counted_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written = write_rows(path, rows_of(4))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    wrong = {
        "doubled": b"".join([*lines[:2], *lines[1:]]),
        "cut in the middle": b"".join([*lines[:1], *lines[2:]]),
        "changed": whole.replace(b"0", b"1", 1),
        "of another run": b"".join(line.replace(b"loss", b"lost") for line in lines),
        "gone": None,
    }
    for name, content in wrong.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
            assert record_flaw(path, written[-1]) is not None, name
        with pytest.raises(ValueError, match="counts on 4 rows"):
            Metrics(path, written[4])
    path.write_bytes(whole)
    assert record_flaw(path, written[-1]) is None
    assert record_flaw(path, written[3]) == "rows were added behind its 3"


def test_a_new_start_drops_old_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_rows(path, rows_of(4))
    write_rows(path, [{"step": 0, "loss": 1.5}])
    assert read_metrics(path) == [{"step": 0, "loss": 1.5}]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = {"step": 0, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "numpy": np.float64("nan"), "one": 1.0}
    write_rows(path, [row])
    assert strict(path.read_text()) == {"step": 0, "nan": None, "inf": None, "-inf": None, "numpy": None, "one": 1.0}
    assert math.isinf(row["inf"]), "the caller's row goes on to the mirror"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "step = null"),
        ({"step": -1}, "step = -1"),
        ({"step": 1.0}, "step = 1.0"),
        ({"step": True}, "step = true"),
        ({"step": 0, "validation/error_pct": None}, "validation/error_pct = None"),
        ({"step": 0, "loss": torch.tensor(1.0)}, "loss = tensor"),
        ({"step": 0, "test": {"loss": 1.0}}, "test = {'loss'"),
    ],
)
def test_a_row_that_says_no_number_is_refused_by_name_and_leaves_no_trace(tmp_path, row, message):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": 0})
    with pytest.raises(ValueError, match=message):
        metrics.append(row)
    metrics.append({"step": 1})
    metrics.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0}, {"step": 1}]


def test_a_full_disk_keeps_the_rows_that_fitted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    with files_of_at_most(1000):
        for step in range(20):
            metrics.append({"step": step, "note": "x" * 20})
        with pytest.raises(OSError, match="too large"):
            metrics.append({"step": 20, "note": "x" * 1000})
    assert [row["step"] for row in read_metrics(path)] == list(range(20))


def test_rows_survive_a_kill(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = f"""
import itertools, pathlib
from sam_repro.run.metrics import Metrics
metrics = Metrics(pathlib.Path({str(path)!r}))
for step in itertools.count():
    metrics.append({{"step": step, "loss": 1 / (step + 1)}})
    print(step, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    told = [int(line) for line in itertools.islice(child.stdout, 50)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().split()[:-1]]
    child.wait()
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert len(rows) >= len(told) >= 50
