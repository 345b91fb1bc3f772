"""AutoAugment: a sub-policy of a learnt policy for each image."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sam_repro import limits
from sam_repro.augmentation.magnitudes import AUTOAUGMENT, Reading
from sam_repro.augmentation.policies import POLICIES
from sam_repro.augmentation.random_operations import RandomOperations


@dataclass(eq=False)
class AutoAugment(RandomOperations):
    """One of the policy's sub-policies for each image; its two operations happen, each with its probability.

    Args:
        data: what the policy was found on: "cifar" (default), "svhn" or "imagenet".
        policy: "paper" (default), the 25 sub-policies that Cubuk et al. 2019 print; "code", those of the released code:
            95, 25 and 25. For SVHN both are one.
        magnitudes: what a level means: "autoaugment" (default), the released code for 32 pixels; "efficientnet", the
            code that Foret et al. 2021 took over, which moves by up to 250 pixels; "torchvision". They fill with the
            mean colour of the data, with 128, and with 0.

    Raises:
        ValueError: if an argument is outside of what is said here, or if the policy has an operation that `magnitudes`
            does not know; on use, if images do not have three channels.

    Reference: Cubuk et al., AutoAugment: learning augmentation strategies from data, CVPR 2019.
    """

    readings: ClassVar[dict[str, Reading]] = AUTOAUGMENT
    data: str = "cifar"
    policy: str = "paper"
    magnitudes: str = "autoaugment"

    def __post_init__(self) -> None:
        limits.choice("data", self.data, list(POLICIES))
        limits.choice("policy", self.policy, ("paper", "code"))
        limits.choice("magnitudes", self.magnitudes, list(self.readings))
        self.sub_policies = POLICIES[self.data][self.policy]
        self.entries = tuple((name, level) for sub_policy in self.sub_policies for name, _, level in sub_policy)
        known = self.reading.strengths(0, 1, 1)
        if unknown := sorted({name for name, _ in self.entries} - known.keys()):
            raise ValueError(
                f"magnitudes = {self.magnitudes}: has no {unknown[0]}, which this policy uses; choose efficientnet"
            )

    def pick(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """A sub-policy for each image, and which of its operations happen: [count, 2] each."""
        device = generator.device
        drawn = torch.randint(len(self.sub_policies), (count,), generator=generator, device=device)
        shares = _shares(tuple(tuple(share for _, share, _ in sub_policy) for sub_policy in self.sub_policies), device)
        happens = torch.rand((count, 2), generator=generator, device=device) < shares[drawn]
        return 2 * drawn[:, None] + torch.arange(2, device=device), happens


@cache
def _shares(shares: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(shares, device=device)
