"""Only one process works in a home, and a home that is set aside is kept."""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam_repro.errors import Busy, UserError
from sam_repro.run.lock import is_locked, lock, set_aside

ROOT = Path(__file__).parents[2]
LOCK = "import sys; from pathlib import Path; from sam_repro.run.lock import *; folder = Path(sys.argv[1])\n"


def in_another_process(code, folder):
    command = [sys.executable, "-c", LOCK + code, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_lock_keeps_other_processes_out_until_it_ends(tmp_path):
    folder = tmp_path / "new" / "home"
    with lock(folder):
        assert not folder.exists()  # the lock lies beside it
        other = in_another_process("with lock(folder): print('in')", folder)
        assert other.stdout == ""
        assert f"Busy: {folder}: another process is running this; wait for it, or change the seed" in other.stderr
        with pytest.raises(Busy), lock(folder):
            pass
        elsewhere = in_another_process("with lock(folder): print('in')", folder.with_name("other"))
        assert elsewhere.stdout == "in\n", elsewhere.stderr
    again = in_another_process("with lock(folder): print('in')", folder)
    assert again.stdout == "in\n", again.stderr


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
    killed = in_another_process("import os\nwith lock(folder): os.kill(os.getpid(), 9)", tmp_path / "home")
    assert killed.returncode == -9
    with lock(tmp_path / "home"):
        pass


def test_a_lock_leaves_nothing_and_clears_what_a_kill_left(tmp_path):
    with lock(tmp_path / "home"):
        assert [file.name for file in tmp_path.iterdir()] == [".home.lock"]
    assert not list(tmp_path.iterdir())
    (tmp_path / ".home.lock").touch()
    with pytest.raises(RuntimeError), lock(tmp_path / "home"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_lock_is_of_the_file_that_lies_there(tmp_path, monkeypatch):
    """Its owner removes it at its end, and who has opened it meanwhile holds what lies there no more."""
    owner = contextlib.ExitStack()
    owner.enter_context(lock(tmp_path / "home"))
    monkeypatch.setattr(time, "sleep", lambda _: owner.close())
    with lock(tmp_path / "home"), pytest.raises(Busy), lock(tmp_path / "home"):
        pass


def test_a_link_in_the_place_of_a_lock_is_refused_and_not_followed(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / ".home.lock").symlink_to("file")
    with (
        pytest.raises(UserError, match=r"\.home\.lock: is a link, and locks nothing; remove it"),
        lock(tmp_path / "home"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_lock_is_not_waited_for(tmp_path):
    """A look at a pipe would wait for a writer; one at a link would be at another file's lock."""
    os.mkfifo(tmp_path / ".pipe.lock")
    (tmp_path / ".link.lock").symlink_to(".home.lock")
    with lock(tmp_path / "home"):
        assert [is_locked(tmp_path / name) for name in ("home", "link", "pipe", "nowhere")] == [True, *[False] * 3]


def test_homes_set_aside_are_all_kept(tmp_path):
    folder = tmp_path / "seed=0"
    for number in (1, 2, 3):
        folder.mkdir()
        (folder / "result.json").write_text(str(number))
        assert set_aside(folder) == tmp_path / f"seed=0.aside-{number}"
        assert not folder.exists()
    assert [(tmp_path / f"seed=0.aside-{n}" / "result.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path, monkeypatch):
    """`is_locked` holds it for an instant, which ends here when the other one waits."""
    folder = tmp_path / "home"
    (tmp_path / ".home.lock").touch()
    with (tmp_path / ".home.lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: look.close())
        with lock(folder):
            assert look.closed
