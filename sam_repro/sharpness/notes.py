"""What a long measurement has done so far."""

from collections.abc import Callable
from typing import Any, Protocol


class Say(Protocol):
    """Told how far a measurement is: so many of a number, which is a budget where it is `at_most`."""

    def __call__(self, done: int, of: int, at_most: bool = False) -> None:
        """Called with each piece or product that is done."""


class Notes:
    """Keeps the pieces of a measurement, so that one that was stopped goes on where it was.

    Args:
        pieces: what was done before, by name; default nothing.
        keep: called with all pieces whenever one is added; default nothing.
        say: called with the pieces done and their number, likewise.
    """

    def __init__(
        self,
        pieces: dict[str, Any] | None = None,
        keep: Callable[[dict[str, Any]], None] = lambda pieces: None,
        say: Say = lambda done, of, at_most=False: None,
    ) -> None:
        self._pieces = dict(pieces or {})
        self._keep = keep
        self.say = say

    def piece(self, name: str, of: int, compute: Callable[[], Any]) -> Any:
        """One of `of` pieces: the one that was kept under this name, or else what is computed now; plain JSON."""
        if name not in self._pieces:
            self._pieces[name] = compute()
            self._keep(self._pieces)
        self.say(len(self._pieces), of)
        return self._pieces[name]
