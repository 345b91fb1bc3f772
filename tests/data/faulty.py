"""A rule with a fault at a known step."""

import time
from pathlib import Path

import torch

from sam_repro.optimizer import SGD

FAULT = Path("fault")


class Faulty(SGD):
    """The plain gradient, but for step `at`, in which the file `fault` says what goes wrong."""

    def __init__(self, base, at):
        super().__init__(base)
        self.at = at

    def terms(self, oracle, phase):
        term = super().terms(oracle, phase)["g"]
        match FAULT.read_text() if self.steps == self.at and FAULT.exists() else "":
            case "nan gradient":
                term.vector[0].view(-1)[0] = torch.nan
            case "infinite loss":
                term = term._replace(loss=term.loss * torch.inf)
            case "crash":
                raise RuntimeError("a fault\nof two lines")
            case "memory":
                torch.empty(2**50)
            case "wait":
                Path("waiting").touch()
                while FAULT.exists():
                    time.sleep(0.01)
        return {"g": term}
