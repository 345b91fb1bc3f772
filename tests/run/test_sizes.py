"""Sizes of batches that a network cannot take are refused before training, and no others."""

import copy

import pytest
import torch
from torch import nn

from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.run.build import Shape, make_network
from sam_repro.run.dry_build import findings
from sam_repro.run.sizes import refuse_sizes
from sam_repro.training.plan import Plan

SHAPE = Shape(num_classes=3, in_channels=2, image_size=4)
BATCH_NORM = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
REST = "batch_size = 9: the last batch of an epoch of 28 images has 1 image, which the network cannot take"
PART = "m = 3: the last part of a batch of 4 has 1 image, which the network cannot take"


class Squeezes(nn.Module):
    """What many networks do to the 1 x 1 pixels at their end; of one image it takes the batch, too."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 5, 4), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x).squeeze())


class Reads(nn.Module):
    """Looks at its numbers, so it cannot be tried without."""

    def forward(self, x):
        return x.flatten(1)[:, :3] * x.sum().item()


def plan(**numbers):
    return Plan(**({"seed": 0, "epochs": 2, "batch_size": 9, "lr": 0.1} | numbers))


@pytest.mark.parametrize(
    ("network", "numbers", "images", "said"),
    [
        (BATCH_NORM, {}, 28, f"{REST} (Expected more than 1 value per channel"),
        (BATCH_NORM, {"drop_last": True}, 28, None),
        (BATCH_NORM, {"max_steps": 3}, 28, None),
        (BATCH_NORM, {"max_steps": 4}, 28, REST),
        (BATCH_NORM, {}, 27, None),
        (BATCH_NORM, {}, 29, None),
        (BATCH_NORM, {"m": 4, "batch_size": 8, "drop_last": True}, 28, None),
        (BATCH_NORM, {"m": 3, "batch_size": 4}, 28, PART),
        (BATCH_NORM, {"m": 1, "batch_size": 4}, 28, "m = 1: a part of a batch has 1 image"),
        (BATCH_NORM, {"batch_size": 1}, 28, "batch_size = 1: a batch has 1 image"),
        (Squeezes(), {}, 28, f"{REST} (its outputs have shape [3], not [1, 3])"),
        (Squeezes(), {}, 27, None),
        (Reads(), {}, 28, None),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), {"m": 1}, 28, None),
    ],
)
def test_a_size_that_training_comes_to(network, numbers, images, said):
    if said is None:
        refuse_sizes(network, SHAPE, plan(**numbers), images, [20])
    else:
        with pytest.raises(UserError) as refusal:
            refuse_sizes(network, SHAPE, plan(**numbers), images)
        assert str(refusal.value).startswith(said)
        assert "; add drop_last=true, or choose" in str(refusal.value) or "; choose " in str(refusal.value)


@pytest.mark.parametrize(("count", "refused"), [(2001, True), (2002, False), (1, True)])
def test_a_size_that_evaluation_comes_to(count, refused):
    if not refused:
        refuse_sizes(Squeezes(), SHAPE, plan(), 27, [count])
        return
    with pytest.raises(UserError, match=f"^evaluation: the last batch of {count} images has 1 image, which"):
        refuse_sizes(Squeezes(), SHAPE, plan(), 27, [500, count])


def test_the_network_stays_as_it_is():
    network = copy.deepcopy(BATCH_NORM).train()
    network[2].eval()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    refuse_sizes(network, SHAPE, plan(), 27, [20])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [module.training for module in network] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("architecture", ["resnet18", "wrn16_4", "resnet20"])
def test_every_batch_that_is_refused_fails_and_no_other_does(architecture):
    """Against a real forward of one image; ResNet-18 has one pixel left of 8 x 8, the others have more."""
    config = compose_line([f"architecture={architecture}", "batch_size=333"])  # of 1000 digits
    network = make_network(config, Shape(10, 1, 8)).train()
    try:
        network(torch.zeros(1, 1, 8, 8))
    except ValueError:
        assert "the last batch of an epoch of 1000 images has 1 image" in findings([config])[0]
    else:
        assert findings([config]) == []
