"""The keys of a configuration; what each is to a cell stands at its field."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

SCHEMA = 2
Plain = dict[str, Any]
"""Plain values by key: of a recipe, a table's cell, a command line."""
Resolved = Plain
"""A resolved configuration, as plain values."""
Role = Literal["definition", "seed", "numerics", "bookkeeping"]
OPEN = "???"
"""What stands for a value that only who runs a cell can give, such as a file of weights. Hydra writes it so."""
NONE: Any = object()
"""No neutral value: the key has always been there."""
DEFAULT: Any = object()
"""The neutral value is the default of the field."""


@dataclass(frozen=True)
class Facts:
    """What a key is to a cell.

    Args:
        role: "definition" (default) can change a number, and makes the cell; "seed" makes one of its runs; "numerics"
            is how it was computed, and makes another home; "bookkeeping" changes no number.
        neutral: the value under which the code does what it did before the key existed: it enters no hash.
        idle: whether this key and those below it never have an effect of their own.
        switch: they have none where this key has one of the values `off`, or is not there.
        off: see `switch`.
        whole: the key has none where its value is at least that of one of these keys: of what is no part of it.
    """

    role: Role = "definition"
    neutral: Any = NONE
    idle: bool = False
    switch: str | None = None
    off: tuple[Any, ...] = (0,)
    whole: tuple[str, ...] = ()


NUMERICS, BOOKKEEPING, YOUNG = Facts("numerics"), Facts("bookkeeping"), Facts(neutral=DEFAULT)


@dataclass
class LabelNoise:
    """Labels of the training set replaced on purpose."""

    rate: float = 0.0
    kind: str = "uniform"
    seed: int = 0


@dataclass
class Config:
    """The top-level keys; what belongs to a group lies in its node.

    In a field's metadata stand its own facts under "", and those of a key below it under that key.
    """

    # groups
    dataset: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "validation": Facts(switch="dataset.validation.count"),
            "validation.stream": Facts(neutral="numpy"),
            "shuffle_buffer": Facts(neutral=None),
            "resize": Facts(switch="dataset.resize.size", off=(None,)),
            "augmentation": Facts(idle=True),  # only names values for the augmentation to take
            "in_data_dir": BOOKKEEPING,
            "train_images": BOOKKEEPING,
            "verified": BOOKKEEPING,
            "shape": BOOKKEEPING,
            "workers": BOOKKEEPING,
            "source.workers": BOOKKEEPING,
            "cache": BOOKKEEPING,
            "source.cache": BOOKKEEPING,
            "verify": BOOKKEEPING,
            "source.verify": BOOKKEEPING,
            "source.share": Facts(switch="dataset.source.size", off=(None,)),
            "source.interpolation": Facts(switch="dataset.source.size", off=(None,)),
        },
    )
    architecture: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "weights": Facts(neutral=None),
            "new_head": Facts(switch="architecture.weights", off=(None,)),
            "freeze": Facts(neutral=None),
            "batch_norm.momentum": Facts(neutral=None),
            "batch_norm.eps": Facts(neutral=None),
            "batch_norm.variance": Facts(neutral="unbiased"),
            "batch_norm.frozen": Facts(neutral=False),
            "norm": Facts(neutral="batch"),
            "shortcut": Facts(neutral="pad"),
            "zero_gamma": Facts(neutral=False),
        },
    )
    augmentation: dict[str, Any] = field(  # a transform that `order` does not name is idle, too
        default_factory=dict,
        metadata={
            "flip": Facts(switch="augmentation.flip.probability"),
            "crop": Facts(switch="augmentation.crop.pad"),
            "cutout": Facts(switch="augmentation.cutout.size"),
        },
    )
    optimizer: dict[str, Any] = field(
        default_factory=dict, metadata={"perturb": Facts(neutral="all"), "adapt": Facts(neutral="all")}
    )
    base_optimizer: dict[str, Any] = field(default_factory=dict, metadata={"fused": NUMERICS})
    schedule: dict[str, Any] = field(default_factory=dict)
    rho_schedule: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "_target_": Facts(neutral="sam_repro.rho_schedule.Constant"),
            "warmup_epochs": Facts(neutral=0.0),
            "": Facts(switch="rho", off=(None, 0)),
        },
    )
    sharpness: dict[str, Any] = field(default_factory=dict)
    # the experiment
    rho: float | None = None
    seed: int = field(default=0, metadata={"": Facts("seed")})
    epochs: int = 1
    batch_size: int = 128
    lr: float = 0.1
    lr_factors: list[Any] = field(default_factory=list, metadata={"": YOUNG})
    weight_decay: float = 0.0
    weight_decay_in: str = field(default="base", metadata={"": Facts(neutral=DEFAULT, switch="weight_decay")})
    weight_decay_on: str = field(default="all", metadata={"": YOUNG})
    m: int | None = field(default=None, metadata={"": Facts(neutral=DEFAULT, whole=("batch_size",))})
    clip_norm: float | None = field(default=None, metadata={"": YOUNG})
    drop_last: bool = False
    max_steps: int | None = field(default=None, metadata={"": YOUNG})
    batch_norm_statistics: str = field(default="mean", metadata={"": YOUNG})
    same_noise: bool = field(default=True, metadata={"": YOUNG})
    label_smoothing: float = field(default=0.0, metadata={"": YOUNG})
    label_noise: LabelNoise = field(default_factory=LabelNoise, metadata={"": Facts(switch="label_noise.rate")})
    report: str = field(default="last", metadata={"": YOUNG})
    # how it is computed
    precision: str = field(default="auto", metadata={"": NUMERICS})
    channels_last: bool = field(default=True, metadata={"": NUMERICS})
    device: str = field(default="auto", metadata={"": NUMERICS})
    deterministic: bool = field(default=False, metadata={"": NUMERICS})
    compile: Any = field(default="auto", metadata={"": Facts("numerics", neutral=False)})  # what "auto" is on a CPU
    micro_batch: int | None = field(
        default=None, metadata={"": Facts("numerics", neutral=None, whole=("m", "batch_size"))}
    )
    parts: str = field(default="sequence", metadata={"": Facts("numerics", neutral="sequence")})
    threads: int | None = field(default=None, metadata={"": NUMERICS})
    # bookkeeping
    graph: Any = field(
        default="auto", metadata={"": BOOKKEEPING}
    )  # a captured step is bitwise the eager one: a GPU test holds it
    name: str = field(default="main", metadata={"": BOOKKEEPING})
    data_dir: str = field(
        default="data", metadata={"": Facts("bookkeeping", switch="dataset.in_data_dir", off=(False,))}
    )
    download: bool = field(default=True, metadata={"": BOOKKEEPING})
    wandb: str = field(default="auto", metadata={"": BOOKKEEPING})
    resume: bool = field(default=True, metadata={"": BOOKKEEPING})
    progress: str = field(default="auto", metadata={"": BOOKKEEPING})
    record_every: int | None = field(default=10, metadata={"": BOOKKEEPING})
    diagnostics: str = field(default="standard", metadata={"": BOOKKEEPING})
    diagnose_every: int | None = field(
        default=100, metadata={"": Facts("bookkeeping", switch="diagnostics", off=("loss",))}
    )
    checkpoint_every: float = field(default=60.0, metadata={"": BOOKKEEPING})
    assumed: dict[str, str] = field(default_factory=dict)


def _of_fields() -> Iterator[tuple[str, Facts]]:
    for one in fields(Config):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        for inner, facts in one.metadata.items():
            own = replace(facts, neutral=default) if facts.neutral is DEFAULT else facts
            yield (f"{one.name}.{inner}" if inner else one.name), own


FACTS = dict(_of_fields())
"""Key → its facts; a key that is not here is a definition that has always been there."""
RECIPE = ("for", "cases", "from")
"""Keys that describe a recipe. The door takes them out, so a run has none of them."""
APART = ("choices", "origin", "assumed", *RECIPE, "sharpness", "files")
"""Nodes that enter no hash: how a value was chosen, and what is measured. Neither changes a number."""


def facts_of(key: str) -> Facts:
    """What a key is to a cell, by its dotted name."""
    return FACTS.get(key, Facts())


def keys_of(role: Role) -> tuple[str, ...]:
    """The top-level keys of a role, in order."""
    return tuple(key for key, facts in FACTS.items() if facts.role == role and "." not in key)


def neutral_values() -> dict[str, Any]:
    """Key → the value under which the code does what it did before the key existed."""
    return {key: facts.neutral for key, facts in FACTS.items() if facts.neutral is not NONE}


def what_is_open(config: Resolved) -> dict[str, str]:
    """The keys that the configuration leaves `OPEN`, each with what its recipe says of it."""
    said = config["assumed"] | config["origin"].get("from", {})
    leaves = flat({node: value for node, value in config.items() if node not in APART})
    return {key: said.get(key, "") for key, value in leaves.items() if value == OPEN and key != "optimizer.rho"}


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration with dotted keys; lists and scalars are the leaves."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
