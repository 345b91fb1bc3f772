"""Images for tests that compare pixel by pixel."""

import pytest
import torch
from torch.nn import functional


@pytest.fixture(scope="session")
def views():
    """Makes images of 20×33: noise, one colour, a channel of one value, little contrast, and smooth ones."""

    def make(count=12):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 3, 4, 5, generator=generator)
        images = 300 * functional.interpolate(coarse, (20, 33), mode="bicubic") - 20
        special = [255 * torch.rand(3, 20, 33, generator=generator), torch.full((3, 20, 33), 77.0)]
        special += [
            images[0] * torch.tensor([1, 0, 1])[:, None, None],
            100 + 3 * torch.rand(3, 20, 33, generator=generator),
        ]
        return torch.stack([*special, *images])[:count].clamp(0, 255).to(torch.uint8)

    return make
