"""What a run shows while it runs: a bar on a terminal, one line an epoch otherwise."""

import sys
import time
from typing import Any

from sam_repro.limits import counted

LONG = 20.0  # seconds of an epoch; the evaluation after a shorter one is no long silence


class Progress:
    """Shows the steps and epochs of a run.

    Args:
        mode: "bar", "lines", "silent", or "auto": a bar where the error stream is a terminal, lines otherwise.
        total: steps of the run.
        done: steps done before, by the runs that this one continues.
        epochs: epochs of the run.
        steps_per_epoch: after so many steps the network is evaluated.
    """

    def __init__(self, mode: str, total: int, done: int, epochs: int, steps_per_epoch: int) -> None:
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self.total, self.first, self.epochs, self.steps_per_epoch = total, done, epochs, steps_per_epoch
        self.start = self.evaluated = time.monotonic()
        self.lines = mode == "lines"
        self.bar: Any = None
        if mode == "bar":
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def step(self, done: int) -> None:
        """A step is done."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif self.lines and done - self.first == min(10, self.total - self.first):
            after = f"from the first {counted(done - self.first, 'step')}, evaluation not included"
            print(f"estimated  {self._left(done)} {after}", flush=True)
        if self.lines and done % self.steps_per_epoch == 0 and time.monotonic() - self.evaluated > LONG:
            print(f"evaluating after {done:,} of {counted(self.total, 'step')}", flush=True)

    def epoch(self, row: dict[str, Any], done: int) -> None:
        """An epoch is done and evaluated."""
        self.evaluated = time.monotonic()
        parts = [f"epoch {row['epoch']:g}/{self.epochs}", f"train loss {row['epoch/loss']:.4f}"]
        for name, key in (("train", "epoch/error_pct"), *((n, f"{n}/error_pct") for n in ("validation", "test"))):
            if key in row:
                parts.append(f"{name} error {row[key]:.2f} %")
        if self.bar is not None:
            self.bar.set_postfix_str("  ".join(parts[1:]))
        elif self.lines:
            print("  ".join([*parts, f"{self._left(done)} to go"]), flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self.bar is not None:
            self.bar.close()

    def _left(self, done: int) -> str:
        seconds = (time.monotonic() - self.start) / (done - self.first) * (self.total - done)
        hours, minutes = divmod(round(seconds) // 60, 60)
        if seconds < 1:
            return "less than 1 s" if seconds else "0 s"
        return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 2 else f"{seconds:.0f} s"
