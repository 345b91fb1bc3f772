"""A place has a seed of its own, and the same one in every process."""

import os
import subprocess
import sys
from itertools import product

from sam_repro.seeds import derived


def test_every_place_of_every_seed_has_a_seed_of_its_own() -> None:
    parts = [*range(13), "order", "noise", "1"]
    places = [(seed, *place) for seed in range(13) for depth in range(3) for place in product(parts, repeat=depth)]
    seeds = {derived(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_place_has_the_same_seed_in_every_process() -> None:
    program = "from sam_repro.seeds import derived; print(derived(3, 'order', 1))"
    for hashing in ("1", "2"):
        command = [sys.executable, "-c", program]
        environment = os.environ | {"PYTHONHASHSEED": hashing}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert int(told) == derived(3, "order", 1)
