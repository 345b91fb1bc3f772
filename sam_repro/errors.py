"""What a command can end in, each with one message."""

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


@contextmanager
def refuse_damaged(path: Path, remedy: str = "add resume=false to set this home aside and run again") -> Iterator[Path]:
    """Turn any error of reading a file into a UserError: JSON, torch and safetensors each have errors of their own."""
    try:
        yield path
    except UserError:
        raise
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged ({reason}); {remedy}") from error


class Busy(Exception):
    """Another process is working in this home."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
