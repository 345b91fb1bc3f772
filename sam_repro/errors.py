"""What a command can end in, each with one message."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what to change."""


class Failure(Exception):
    """A run broke off; the message says where and what is left."""


class Stopped(KeyboardInterrupt):
    """A signal ended the command; the message says what was saved. Like Ctrl-C it is no error that anybody handles."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


NOT_OF_THE_FILE = (*(errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG), *(errno.EROFS, errno.EMFILE))


@contextmanager
def refuse_damaged(path: Path, remedy: str = "add resume=false to set this home aside and run again") -> Iterator[Path]:
    """Turn any error of reading a file into a UserError: JSON, torch and safetensors each have errors of their own.

    What the place refuses, such as a right or space, says nothing of the file.
    """
    try:
        yield path
    except UserError:
        raise
    except OSError as error:
        if error.errno in NOT_OF_THE_FILE:
            raise UserError(f"{path}: {error.strerror}; once this is mended, the same command goes on") from error
        raise UserError(f"{path}: damaged ({first_line(error)}); {remedy}") from error
    except Exception as error:
        raise UserError(f"{path}: damaged ({first_line(error)}); {remedy}") from error


class Busy(Exception):
    """Another process is working in this home."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its name where it says nothing."""
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this machine or its GPU has too little memory. On a CPU torch has no error of its own for it."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator: " in str(error)
