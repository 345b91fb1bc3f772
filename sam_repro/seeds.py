"""Seeds by name: what is random in a run is a function of the run's seed and of where it happens."""

import hashlib


def derived(seed: int, *place: str | int) -> int:
    """A seed of 63 bits for a place such as ("augmentation", step)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *place)).encode()).digest()[:8], "little") >> 1
