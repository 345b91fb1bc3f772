"""Seeds: what is random in a run is a function of the run's seed and of where it happens."""

import hashlib


def derived(seed: int, *place: str | int) -> int:
    """A seed of 63 bits for a place such as ("augmentation", step)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *place)).encode()).digest()[:8], "little") >> 1


def of_noise(noise: int) -> int:
    """The seed of the generators for the noise of a pass."""
    # The multiplier keeps the next step's noise, which starts from this seed, apart from this step's.
    return (noise * 6364136223846793005 + 1442695040888963407) % 2**63


def of_shared_noise(noise: int) -> int:
    """The seed for what all parts of a batch draw alike; it is not the seed of any pass's noise."""
    return (noise * 2862933555777941757 + 3037000493) % 2**63


def of_measure(seed: int, *place: int) -> int:
    """The seed of a measure of sharpness for a place such as (batch, probe)."""
    from numpy import uint32
    from numpy.random import SeedSequence

    high, low = map(int, SeedSequence([seed, *place]).generate_state(2, uint32))
    return high << 31 | low >> 1
