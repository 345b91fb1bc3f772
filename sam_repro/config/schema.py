"""The keys of a configuration, and which of them make a cell what it is."""

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2
Plain = dict[str, Any]
"""Plain values by key: of a recipe, a table's cell, a command line."""
Resolved = Plain
"""A resolved configuration, as plain values."""


@dataclass
class LabelNoise:
    """Labels of the training set replaced on purpose."""

    rate: float = 0.0
    kind: str = "uniform"
    seed: int = 0


@dataclass
class Config:
    """The top-level keys; what belongs to a group lies in its node."""

    # groups
    dataset: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    base_optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    rho_schedule: dict[str, Any] = field(default_factory=dict)
    sharpness: dict[str, Any] = field(default_factory=dict)
    # the experiment
    rho: float | None = None
    seed: int = 0
    epochs: int = 1
    batch_size: int = 128
    lr: float = 0.1
    lr_factors: list[Any] = field(default_factory=list)
    weight_decay: float = 0.0
    weight_decay_in: str = "base"
    weight_decay_on: str = "all"
    m: int | None = None
    clip_norm: float | None = None
    drop_last: bool = False
    max_steps: int | None = None
    batch_norm_statistics: str = "mean"
    same_noise: bool = True
    label_smoothing: float = 0.0
    label_noise: LabelNoise = field(default_factory=LabelNoise)
    report: str = "last"
    # numerics
    precision: str = "auto"
    channels_last: bool = True
    device: str = "auto"
    deterministic: bool = False
    compile: Any = "auto"
    micro_batch: int | None = None
    threads: int | None = None
    # bookkeeping
    graph: Any = "auto"
    name: str = "main"
    data_dir: str = "data"
    download: bool = True
    wandb: str = "auto"
    resume: bool = True
    progress: str = "auto"
    record_every: int | None = 10
    diagnostics: str = "standard"
    diagnose_every: int | None = 100
    checkpoint_every: float = 60.0
    assumed: dict[str, str] = field(default_factory=dict)


NUMERICS = (
    "precision",
    "channels_last",
    "device",
    "deterministic",
    "compile",
    "micro_batch",
    "threads",
    "base_optimizer.fused",
)
BOOKKEEPING = (
    "name",
    "data_dir",
    "download",
    "wandb",
    "resume",
    "progress",
    "record_every",
    "diagnostics",
    "diagnose_every",
    "checkpoint_every",
    "graph",  # a captured step is bitwise the eager one: a GPU test holds it
    "dataset.train_images",
    "dataset.verified",
    "dataset.shape",
    "dataset.workers",
    "dataset.source.workers",
    "dataset.cache",
    "dataset.source.cache",
    "dataset.verify",
    "dataset.source.verify",
)
RECIPE = ("for", "cases", "from")
"""Keys that describe a recipe. The door takes them out, so a run has none of them."""
APART = ("choices", "origin", "assumed", *RECIPE, "sharpness", "files")
"""Nodes that enter no hash: how a value was chosen, and what is measured. Neither changes a number."""
IDLE: tuple[tuple[str, str | None, Any], ...] = (
    ("label_noise.", "label_noise.rate", 0),
    ("dataset.validation.", "dataset.validation.count", 0),
    ("dataset.augmentation.", None, None),  # only names values for the augmentation to take
    ("augmentation.flip.", "augmentation.flip.probability", 0),
    ("augmentation.crop.", "augmentation.crop.pad", 0),
    ("augmentation.cutout.", "augmentation.cutout.size", 0),
    ("rho_schedule.", "rho", None),
)
"""Keys without effect, by how they begin: always, or where the switch beside them is off.

A transform that `augmentation.order` does not name is idle, too.
"""
NEUTRAL: dict[str, Any] = {
    "lr_factors": [],
    "m": None,
    "clip_norm": None,
    "max_steps": None,
    "weight_decay_in": "base",
    "weight_decay_on": "all",
    "batch_norm_statistics": "mean",
    "same_noise": True,
    "label_smoothing": 0.0,
    "report": "last",
    "rho_schedule._target_": "sam_repro.rho_schedule.Constant",
    "rho_schedule.warmup_epochs": 0.0,
    "compile": False,  # what "auto" is on a CPU
    "micro_batch": None,
    "dataset.validation.stream": "numpy",
    "dataset.shuffle_buffer": None,
    "optimizer.perturb": "all",
    "architecture.weights": None,
    "architecture.freeze": None,
    "architecture.batch_norm.momentum": None,
    "architecture.batch_norm.eps": None,
    "architecture.batch_norm.variance": "unbiased",
    "architecture.batch_norm.frozen": False,
    "optimizer.adapt": "all",
    "architecture.norm": "batch",
    "architecture.shortcut": "pad",
    "architecture.zero_gamma": False,
}
"""Values under which the code does what it did before the key existed: they do not enter the hashes."""


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration with dotted keys; lists and scalars are the leaves."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
