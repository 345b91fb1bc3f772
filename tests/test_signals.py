"""Signals: which are heard, what they do, and that everything is as before afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sam_repro.errors import Stopped
from sam_repro.signals import SIGNALS, block_signals, handle_signals, note_signals, raise_stopped

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_a_sigint_after_it_interrupts(number):
    with note_signals() as caught:
        signal.raise_signal(number)
        assert caught == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert caught == [number, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_can_be_saved_a_signal_ends_the_command(number):
    with (
        pytest.raises(Stopped, match=f"stopped by signal {int(number)}; the same command") as stop,
        handle_signals(raise_stopped),
    ):
        signal.raise_signal(number)
    assert stop.value.signal == number


def test_an_error_handler_for_everything_does_not_hear_a_signal():
    with pytest.raises(Stopped), handle_signals(raise_stopped), contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def test_a_hangup_that_was_ignored_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with note_signals() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert caught == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone():
    def look() -> None:
        with note_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_blocked_signals_reach_this_process_and_wait_in_those_that_it_starts():
    """A process that begins with them blocked gets them when it handles them, and not before."""
    child = (
        "import time; from sam_repro.signals import *\n"
        "print('up', flush=True); input()\n"
        "with note_signals() as caught: print(caught)"
    )
    end = threading.Event()
    threading.Thread(target=end.wait, daemon=True).start()  # takes what is blocked here
    with note_signals() as caught, block_signals():
        process = subprocess.Popen(
            [sys.executable, "-c", child], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate("\n")
        os.kill(os.getpid(), signal.SIGUSR1)
        while not caught:  # the other thread tells this one
            pass
    end.set()
    assert (process.returncode, said) == (0, f"[{int(signal.SIGTERM)}]\n")
    assert caught == [signal.SIGUSR1]


@pytest.mark.parametrize("door", ["train", "measure", "table", "__main__"])
def test_ctrl_c_while_a_door_is_imported_ends_it_without_a_word(door):
    assert_ends_in_silence(f"import runpy; runpy.run_module('sam_repro.{door}', run_name='__main__')")


@pytest.mark.parametrize("command", ["train", "measure"])
def test_ctrl_c_while_an_installed_command_is_imported_ends_it_without_a_word(command):
    assert_ends_in_silence(f"from sam_repro.start import {command}; {command}()")


def assert_ends_in_silence(start: str) -> None:
    program = (
        "import builtins, signal\n"
        "true = builtins.__import__\n"
        "def find(name, *rest, **more):\n"
        "    if name == 'argparse' or name.startswith('sam_repro.config'): signal.raise_signal(signal.SIGINT)\n"
        "    return true(name, *rest, **more)\n"
        f"builtins.__import__ = find\n{start}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
