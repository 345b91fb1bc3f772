"""Two gloo processes, each with half of a batch, against one process with m = half the batch."""

import os
import pickle
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_repro.optimizer import Rule

SCRIPT = Path(__file__).with_name("two_processes.py")
HALF = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def ranks(rules: dict[str, partial[Rule]], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the two processes saved."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "rules.pickle").write_bytes(pickle.dumps(rules))
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(folder)], env=environment) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", list(HALF["CASES"]))
def test_two_halves_equal_one_process_with_m(
    ranks: list[Any], rule_name: str, rules: dict[str, partial[Rule]], case: str
) -> None:
    if not HALF["runs"](rules[rule_name].func, case):
        assert (rule_name, case) not in ranks[0]
        return
    first, second = (saved[rule_name, case] for saved in ranks)
    one = HALF["trained"](rules[rule_name], case, None)
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-10, atol=1e-12, msg=name)
        assert torch.equal(first[name], second[name]), f"{name} differs between the ranks"
