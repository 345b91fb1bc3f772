"""Answers command lines, each in a process of its own, forked from one that has imported what its arguments name.

An order is a line of JSON: `argv`, the `folder` to work in, the `size` in bytes that no file may exceed, or null, and
which `door`, by default train. The answer is the exit `code`, `out`, `err`, and whether `torch` had been imported by
the end.
"""

import fcntl
import importlib
import json
import os
import resource
import sys
import traceback
from typing import Any

PIPE = 1 << 20  # bytes; what is said goes through pipes, for they have no file size to be limited


def answer(argv: list[str], folder: str, size: int | None, door: str = "train") -> dict[str, Any]:
    pipes = [os.pipe() for _ in range(3)]
    for _, write in pipes:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
    if (child := os.fork()) == 0:
        (_, out), (_, err), (_, torch) = pipes
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        code = started(argv, door)
        os.write(torch, str("torch" in sys.modules).encode())
        os._exit(code)
    for _, write in pipes:
        os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out, err, torch = (os.fdopen(read).read() for read, _ in pipes)
    return {"code": code, "out": out, "err": err, "torch": torch == "True"}


def started(argv: list[str], door: str) -> int:
    """What the interpreter does with `python -m sam_repro.train`, or another door: its exit code."""
    module = importlib.import_module(f"sam_repro.{door}")
    sys.argv = [f"sam_repro.{door}", *argv]
    code: Any = 0
    try:
        module.main()
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
    for order in sys.stdin:
        print(json.dumps(answer(**json.loads(order))), flush=True)
