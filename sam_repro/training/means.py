"""Means over examples of what the steps saw."""

from typing import Any

import torch
from torch import Tensor


class Mean:
    """Means over examples of what the steps saw; sums stay on the device until they are read."""

    def __init__(self) -> None:
        # by the names that came together: steps of different phases see different things
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: dict[str, Tensor], count: int) -> None:
        """Add values that are means over `count` examples."""
        names = tuple(values)
        row = torch.stack([value.double() for value in values.values()]) * count
        self._sums[names] = self._sums[names].to(row.device) + row if names in self._sums else row
        self._counts[names] = self._counts.get(names, 0) + count

    def read(self) -> dict[str, float]:
        """The mean of each value over the steps that saw it."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, row in self._sums.items():
            for name, value in zip(names, row.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[names]
        return {name: value / counts[name] for name, value in sums.items()}

    def state_dict(self) -> list[dict[str, Any]]:
        """All of it, in types that a checkpoint takes."""
        return [{"names": list(n), "sums": row, "count": self._counts[n]} for n, row in self._sums.items()]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Put back what `state_dict` gave."""
        self._sums = {tuple(entry["names"]): entry["sums"] for entry in state}
        self._counts = {tuple(entry["names"]): entry["count"] for entry in state}
