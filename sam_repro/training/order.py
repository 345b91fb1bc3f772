"""The order of an epoch."""

import torch
from torch import Tensor


def shuffled(count: int, seed: int, buffer: int | None = None) -> Tensor:
    """The numbers 0 … count − 1 in a random order, [count], int64, the same on every device.

    Args:
        count: examples.
        seed: of the order.
        buffer: None (default): every order is equally likely. A number: examples come in file order into a buffer of so
            many, and the next one is drawn from those that lie in it, as `tf.data` shuffles.
    """
    generator = torch.Generator().manual_seed(seed)
    if buffer is None or buffer >= count:
        return torch.randperm(count, generator=generator)
    held = list(range(buffer))
    places = torch.randint(buffer, (count - buffer,), generator=generator).tolist()
    drawn = []
    for number, place in enumerate(places, start=buffer):
        drawn.append(held[place])
        held[place] = number
    rest = torch.tensor(held)[torch.randperm(buffer, generator=generator)]  # nothing comes in any more
    return torch.cat([torch.tensor(drawn), rest])
