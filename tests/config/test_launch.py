"""What the doors share: streams that are closed or cannot encode, places that cannot be used, settings of launchers."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from sam_repro.config.launch import guard
from sam_repro.errors import UserError

SAID = "4.33 ± 0.5 — Δ ≤ ρ, 日"


def say() -> int:
    print(SAID)
    return 0


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", SAID), ("ascii", "4.33 +- 0.5 - delta <= rho, ?"), ("latin-1", None)]
)
def test_a_terminal_that_cannot_encode_a_sign(monkeypatch, encoding, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert guard(say) == 0
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    assert written == f"{shown or '4.33 ± 0.5 - delta <= rho, ?'}\n"


def test_a_closed_stream_swallows_what_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert guard(say) == 0
    sys.stdout.close(), sys.stderr.close()


@pytest.mark.parametrize("given", ["ACTIVE", None])
def test_threads_of_torch_sleep_while_they_wait_unless_the_user_says_otherwise(given):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    doors = (
        "import os, sys, sam_repro.measure, sam_repro.train, sam_repro.check; from sam_repro.config.launch import guard"
    )
    tell = "guard(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules) or 0)"
    told = subprocess.run(
        [sys.executable, "-c", f"{doors}; {tell}"],
        env=environment | ({"OMP_WAIT_POLICY": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{given or 'PASSIVE'} False\n"  # torch reads it when it is imported


def test_a_place_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / "my file").touch()
    assert guard(lambda: os.mkdir(tmp_path / "my file/below") or 0) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sam_repro: '{tmp_path}/my file/below': Not a directory; name another folder")
    assert said.count("\n") == 1


def test_a_full_disk_is_one_line(capsys):
    def fill() -> int:
        raise OSError(28, "No space left on device")

    assert guard(fill) == 1
    assert capsys.readouterr().err.startswith("sam_repro: No space left on device; ")


def test_a_path_that_the_locale_cannot_spell(capsys):
    assert guard(lambda: len("josé".encode("ascii"))) == 2
    assert "set PYTHONUTF8=1" in capsys.readouterr().err


def test_any_other_error_is_a_crash_with_its_traceback(capsys):
    assert guard(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_machine_without_memory_is_one_line(capsys, error):
    def load() -> int:
        raise error

    assert guard(load) == 1
    assert capsys.readouterr().err == (
        "sam_repro: out of memory; choose a smaller network, data set or batch_size, or a larger machine\n"
    )


def test_a_library_that_cannot_be_imported_is_one_line(capsys):
    def load() -> int:
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object", name="torch._C")

    assert guard(load) == 1
    assert capsys.readouterr().err.startswith("sam_repro: torch._C: cannot be imported (libtorch_cpu.so: failed to map")


def test_our_own_import_that_fails_is_a_crash_with_its_traceback(capsys):
    def load() -> int:
        raise ImportError("cannot import name 'x'", name="sam_repro.seeds")

    assert guard(load) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_that_was_removed_is_one_line(tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    with contextlib.chdir(tmp_path / "gone"):
        os.rmdir(tmp_path / "gone")
        assert guard(say) == 2
    assert capsys.readouterr().err == "sam_repro: the working directory is gone; start in one that is there\n"


def test_a_text_of_a_user_is_not_repeated_without_an_end(capsys):
    def refuse() -> int:
        raise UserError(f"{'a' * 100_000}: no such thing\nshort")

    assert guard(refuse) == 2
    assert list(map(len, capsys.readouterr().err.splitlines())) == [1501, 5]
