"""What the doors share: streams that are closed or cannot encode, places that cannot be used, settings of launchers."""

import io
import os
import sys

import pytest

from sam_repro.config.launch import guard

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
