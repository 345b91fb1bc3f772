"""Means over examples of what the steps saw."""

from typing import Any

import torch
from torch import Tensor


class Mean:
    """Means over examples of what the steps saw.

    Sums stay on the device until they are read, in tensors that stay, so that a captured step can add to them; the
    host counts.
    """

    def __init__(self) -> None:
        # by the names that came together: steps of different phases see different things
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, names: tuple[str, ...], row: Tensor) -> None:
        """Add a row of `weighted` values on the device."""
        if names in self._sums:
            self._sums[names].add_(row)
        else:
            self._sums[names] = row.clone()

    def count(self, names: tuple[str, ...], examples: int) -> None:
        """Count the examples of a row that was added."""
        self._counts[names] = self._counts.get(names, 0) + examples

    def read(self) -> dict[str, float]:
        """The mean of each value over the steps that saw it."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, count in self._counts.items():
            for name, value in zip(names, self._sums[names].tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        return {name: value / counts[name] for name, value in sums.items()}

    def reset(self) -> None:
        """Begin anew, in the same tensors."""
        self._counts.clear()
        for row in self._sums.values():
            row.zero_()

    def state_dict(self) -> list[dict[str, Any]]:
        """All of it, in types that a checkpoint takes."""
        return [{"names": list(n), "sums": self._sums[n], "count": count} for n, count in self._counts.items()]

    def load_state_dict(self, state: list[dict[str, Any]], device: torch.device) -> None:
        """Put back what `state_dict` gave, on a device, before any step is captured."""
        self._sums = {tuple(entry["names"]): entry["sums"].to(device, copy=True) for entry in state}
        self._counts = {tuple(entry["names"]): entry["count"] for entry in state}


def weighted(values: dict[str, Tensor], examples: int) -> Tensor:
    """Values that are means over so many examples, as one row of sums, float64."""
    return torch.stack([value.double() for value in values.values()]) * examples
