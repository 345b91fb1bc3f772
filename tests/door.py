"""Doors that start at once: each command is a process of its own, forked from a server that has imported what it needs.

The server is this file as a script; its arguments are the modules that it imports. It listens on a socket of this
machine. A connection brings an order, a line of JSON: `argv`, the `folder` to work in, the `environment`, the module of
the `door`, and the `size` in bytes that no file may exceed, or null. It gets the process's number at once and the
`Answer` at the end. `Server` is the other end. A test that is about imports, a terminal or the exit of the interpreter
starts an interpreter.
"""

import atexit
import fcntl
import importlib
import json
import os
import resource
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PIPE = 1 << 20  # bytes; what is said goes through pipes, for they have no file size to be limited


class Answer(NamedTuple):
    """How a command ended, what it said, and whether torch had been imported by then."""

    code: int
    out: str
    err: str
    torch: bool


def assert_one_message(answer: Answer, code: int, *words: str) -> None:
    """The command ended with this code and one line, in which these words stand."""
    assert answer.code == code, answer
    assert answer.err.startswith("sam_repro: ")
    assert answer.err.count("\n") == 1
    for word in words:
        assert word in answer.err


def assert_refused(answer: Answer, folder: Path, *words: str) -> None:
    """A command that was refused has left nothing in its folder."""
    assert_one_message(answer, 2, *words)
    assert not list(folder.iterdir())


class Start:
    """A command that has been started; `pid` is its process."""

    def __init__(self, address: tuple[str, int], order: Mapping[str, Any]) -> None:
        with socket.create_connection(address) as connection:
            self._answer = connection.makefile("rw")
        print(json.dumps(order), file=self._answer, flush=True)
        self.pid = int(self._answer.readline())

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end(self) -> Answer:
        """Wait for the end."""
        with self._answer:
            return Answer(**json.loads(self._answer.readline()))


class Server:
    """A server that has imported these modules, with `environment` on top of this process's."""

    def __init__(self, *modules: str, **environment: str) -> None:
        self.environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"} | environment
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules], env=os.environ | self.environment, stdout=subprocess.PIPE, text=True
        )
        self._address = ("127.0.0.1", int(self.process.stdout.readline()))

    def start(
        self,
        folder: Path,
        line: str | list[str],
        door: str = "train",
        size: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Start:
        """Start a door in a folder.

        Args:
            folder: to work in.
            line: what stands behind the door's name, as it is typed or as words.
            door: its module in the package.
            size: in bytes, that no file may exceed.
            environment: all of it; by default this process's with the server's on top.
        """
        argv = shlex.split(line) if isinstance(line, str) else line
        environment = os.environ | self.environment if environment is None else environment
        order = {"folder": str(folder), "argv": argv, "door": door, "size": size, "environment": dict(environment)}
        return Start(self._address, order)

    def run(self, folder: Path, line: str | list[str], **more: Any) -> Answer:
        """Start a door and wait for its end."""
        return self.start(folder, line, **more).end()

    def close(self) -> None:
        """End the server; what it has started goes on."""
        self.process.kill()
        self.process.communicate()


class Listener(socketserver.ForkingMixIn, socketserver.TCPServer):
    """Forks a process for each connection, which waits for the command."""


class Order(socketserver.StreamRequestHandler):
    """A connection."""

    def handle(self) -> None:
        order = json.loads(self.rfile.readline())
        pipes = [os.pipe() for _ in range(3)]
        for _, write in pipes:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
        if (child := os.fork()) == 0:
            try:
                become(order, *(write for _, write in pipes))
            finally:
                os._exit(1)
        for _, write in pipes:
            os.close(write)
        self.say(child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err, torch = (os.fdopen(read).read() for read, _ in pipes)
        self.say(json.dumps({"code": code, "out": out, "err": err, "torch": torch == "True"}))

    def say(self, line: object) -> None:
        self.wfile.write(f"{line}\n".encode())


def become(order: Mapping[str, Any], out: int, err: int, torch: int) -> None:
    """Be the command, as an interpreter is with `python -m sam_repro.train`."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:1] = [order["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if order["size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["size"], order["size"]))
    code = called(f"sam_repro.{order['door']}", order["argv"])
    os.write(torch, str("torch" in sys.modules).encode())
    threading._shutdown()  # what an interpreter does at its end: threads, then the rest
    atexit._run_exitfuncs()
    os._exit(code)


def called(name: str, argv: list[str]) -> int:
    """The exit code of a door's `main` with these arguments."""
    sys.argv = [name, *argv]
    code: Any = 0
    try:
        importlib.import_module(name).main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    importlib.import_module("sam_repro.config.lines").compose_line([])  # what all lines have in common
    with Listener(("127.0.0.1", 0), Order) as listener:
        print(listener.server_address[1], flush=True)
        listener.serve_forever()
