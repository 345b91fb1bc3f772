"""One of two gloo processes that each hold half of every batch: python two_processes.py <rank> <folder>.

In the folder: `rules.pickle`, by name (base) → rule; there come `rendezvous` and `<rank>.pt`.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.oracle import Objective

BATCH, STEPS = 8, 6
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "no batch norm": (False, {}),
    "batch norm": (True, {}),
    "both passes move": (True, {"batch_norm_statistics": "both"}),
    "decay in the loss": (True, {"weight_decay": 0.1}),
}


def network(batch_norm: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(7) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(5, 7), norm, nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, 3)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (BATCH,), generator=generator)


def trained(make_rule: Any, case: str, rank: int | None) -> dict[str, Tensor]:
    """Losses and state after the steps: of one process with m = half the batch, or of a rank with its half."""
    batch_norm, options = CASES[case]
    model = network(batch_norm)
    rule = make_rule(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2))
    objective = Objective(model, F.cross_entropy, **options)
    losses = []
    for step in range(STEPS):
        inputs, targets = batch(step)
        if rank is None:
            losses.append(rule.step(objective(inputs, targets, noise=step), m=BATCH // 2))
        else:
            mine = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
            oracle = objective(inputs[mine], targets[mine], noise=step + rank)
            losses.append(rule.backward(oracle, mean=all_reduce_mean))
            rule.update()
    return {"losses": torch.stack(losses)} | model.state_dict()


def all_reduce_mean(tensors: list[Tensor]) -> list[Tensor]:
    row = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(row)
    pieces = (row / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def runs(rule: Any, case: str) -> bool:
    """Whether a rule allows the case, and several processes."""
    return not rule.needs_rows and (rule.allows_decay_in_loss or case != "decay in the loss")


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rules = pickle.loads((folder / "rules.pickle").read_bytes())
    results = {
        (name, case): trained(rule, case, rank)
        for name, rule in rules.items()
        for case in CASES
        if runs(rule.func, case)
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
