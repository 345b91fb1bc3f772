"""Networks that draw numbers, and fine-tuning: a run that is stopped and goes on is bitwise the one that is not."""

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from called import command
from torch.optim.optimizer import register_optimizer_step_post_hook

from sam_repro import train

VIT = "{depth:2,embed_dim:12,num_heads:2,patch_size:4,proj_drop_rate:0.2,attn_drop_rate:0.2,drop_path_rate:0.5}"
NETWORKS = {
    "shake_shake": ["architecture=shake_shake_26_2x96d", "architecture.depth=8", "architecture.width=2"],
    "shakedrop": ["architecture=pyramidnet110_shakedrop", "architecture.depth=8", "architecture.alpha=6"],
    "vit": [
        "architecture=timm",
        "architecture.name=vit_tiny_patch16_224",
        f"architecture.arguments={VIT}",
        "micro_batch=7",
    ],
    "tuned": [
        "architecture.freeze='^stage1'",
        "lr_factors=[[classifier,10],[norm,0.5]]",
        "architecture.batch_norm.frozen=true",
        "base_optimizer=adamw",
        "lr=0.01",
        "micro_batch=6",
    ],
}
QUIET = ["wandb=disabled", "progress=silent", "device=cpu", "threads=1", "precision=fp32", "sharpness=none"]
SETTINGS = [*QUIET, "optimizer=looksam", "optimizer.period=3", "dataset.validation.count=950", "batch_size=20"]
STEPS = 5


def ends(folder: Path, words: list[str]) -> int:
    return command(train.main, folder, *SETTINGS, f"max_steps={STEPS}", *words).code


def left(folder: Path) -> tuple[bytes, list[dict[str, Any]], list[int]]:
    """Weights and record of the run, and the steps from which it went on."""
    (home,) = folder.glob("outputs/runs/*/*/seed=0")
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    starts = [start["step"] for start in json.loads((home / "run.json").read_text())["starts"]]
    return (home / "model.safetensors").read_bytes(), rows, starts


@pytest.mark.parametrize("name", NETWORKS)
def test_goes_on_bitwise(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert ends(whole, NETWORKS[name]) == 0

    steps = itertools.count(1)

    def stop_after_two(*_: Any) -> None:
        if next(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop_after_two)
    assert ends(broken, NETWORKS[name]) == 128 + signal.SIGTERM
    hook.remove()
    torch.manual_seed(123)  # no number of the rest depends on where torch's generator stands
    assert ends(broken, NETWORKS[name]) == 0
    weights, rows, _ = left(whole)
    assert left(broken) == (weights, rows, [0, 2])
