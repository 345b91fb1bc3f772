"""From a resolved configuration to the objects of a run."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from sam_repro.architecture.batch_norm import BatchNorm
from sam_repro.architecture.layers import NetworkWarning
from sam_repro.architecture.start import freeze, load_weights
from sam_repro.augmentation import Augmentation, Resize
from sam_repro.config.schema import Resolved
from sam_repro.dataset import Data, Examples, LabelNoise, Validation, prepare
from sam_repro.errors import UserError
from sam_repro.limits import shown
from sam_repro.optimizer import Cost, Rule, parameter_groups
from sam_repro.optimizer.base import check_base
from sam_repro.oracle import Objective
from sam_repro.rho_schedule import RhoSchedule
from sam_repro.schedule import Schedule
from sam_repro.seeds import derived
from sam_repro.sharpness import Measure
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.plan import Plan


@dataclass(frozen=True)
class Shape:
    """What a network has to know of a data set."""

    num_classes: int
    in_channels: int
    image_size: int


PREPARED = ("batch_norm", "weights", "new_head", "freeze")
"""Keys of the network that no constructor takes: what any network is told when it has been made."""


def make_data(config: Resolved, recorded: Mapping[str, Any] | None = None) -> Data:
    """The data of the run, split, with label noise and augmentation, on the device.

    Args:
        config: the resolved configuration.
        recorded: what the run or its result has written, with the mean and std that were computed then.
    """
    node = config["dataset"]
    validation, noise = make_validation(config), make_noise(config)
    with refuse_by_key(config, "dataset"):
        source = _make(node["source"])
    with refuse_by_key(config, "dataset.source"):
        examples: Examples = source(data_dir=config["data_dir"], download=config["download"])
    augmentation = make_augmentation(config, _normalisation(config, examples, recorded or {}))
    with refuse_by_key(config, "dataset", "augmentation"):
        data = prepare(examples, validation, noise, augmentation)
    _refuse_shape(config, data)
    with refuse_by_key(config, "augmentation", "dataset"):
        augmentation.check(torch.empty(1, *data.train.shape, dtype=torch.uint8, device="meta"))
    if config["batch_size"] > len(data.train):
        raise UserError(
            f"batch_size = {config['batch_size']}: the training set has {len(data.train)} images; "
            f"choose batch_size={len(data.train)} or less"
        )
    return data.to(torch.device(config["device"]))


def check_source(config: Resolved) -> None:
    """Refuse a source that is not there, or does not take what it would be given; nothing is loaded."""
    with refuse_by_key(config, "dataset.source"):
        source = _make(config["dataset"]["source"])
        inspect.signature(source.func).bind(*source.args, **source.keywords, data_dir="", download=False)


def _normalisation(config: Resolved, examples: Examples, recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mean and std: given, or recorded, or computed once over the training images."""
    node = config["dataset"]
    if node["mean"] is not None:
        return node
    if "normalisation" in recorded and recorded.get("inputs") in (None, examples.sha256()):  # else it is of other data
        known: Mapping[str, Any] = recorded["normalisation"]
        return known
    print(f"data       mean and std of {len(examples.train_labels)} training images are computed", flush=True)
    mean, std = examples.mean_and_std()
    if not all(std):
        raise UserError("dataset.mean = null: all training images are of one colour; give dataset.mean and dataset.std")
    return {"mean": mean, "std": std}


def _refuse_shape(config: Resolved, data: Data) -> None:
    channels, height, width = data.train.shape
    if height != width and data.train.augmentation.resize.size is None:
        raise UserError(
            f"dataset: its images are {width}×{height} pixels, and networks here take squares; resize them, or squeeze "
            f"them by dataset.resize.size={min(height, width)}"
        )
    told, found = config["dataset"].get("shape"), [data.train.num_classes, channels, height]
    if told not in (None, found):
        raise UserError(
            f"dataset.shape = {shown(told)}: the data are {found} [classes, channels, size]; correct its file"
        )


def make_validation(config: Resolved) -> Validation:
    """Which training images are held out."""
    with refuse_by_key(config, "dataset.validation"):
        return Validation(**config["dataset"].get("validation", {}))


def make_noise(config: Resolved) -> LabelNoise:
    """Which training labels are replaced."""
    with refuse_by_key(config, "label_noise"):
        return LabelNoise(**config["label_noise"])


def shape_of(data: Data) -> Shape:
    """The shape of a data set, as a network gets it."""
    channels, size, _ = data.train.input_shape
    return Shape(data.train.num_classes, channels, size)


def make_model(config: Resolved, shape: Shape) -> nn.Module:
    """The network with its initial weights, a function of the seed alone."""
    torch.default_generator.manual_seed(derived(config["seed"], "initialisation"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # the dry build has said it
        model = make_network(config, shape)
    layout = torch.channels_last if config["channels_last"] else torch.contiguous_format
    return model.to(config["device"], memory_format=layout)  # type: ignore[call-overload]


def make_network(config: Resolved, shape: Shape) -> nn.Module:
    """The network, with weights from torch's own generator, on torch's default device."""
    node = {key: value for key, value in config["architecture"].items() if key not in PREPARED}
    told = {key: config["architecture"].get(key) for key in PREPARED}  # older records have none of them
    with refuse_by_key(config, "architecture"):
        batch_norm = BatchNorm(**(told["batch_norm"] or {}))
        network: nn.Module = _make(node)(**vars(shape))
        batch_norm.set(network)
        load_weights(network, told["weights"], shape.num_classes, config["architecture"].get("new_head", "network"))
        freeze(network, told["freeze"])
        return network


def make_augmentation(config: Resolved, normalisation: Mapping[str, Any]) -> Augmentation:
    """The augmentation, with the data set's normalisation: `mean` and `std`."""
    resize, numbers = make_resize(config), {key: normalisation[key] for key in ("mean", "std")}
    with refuse_by_key(config, "augmentation", "dataset"):
        made: Augmentation = _make(config["augmentation"])(**numbers, resize=resize)
        return made


def make_resize(config: Resolved) -> Resize:
    """What makes images of another size."""
    with refuse_by_key(config, "dataset.resize"):
        return Resize(**config["dataset"].get("resize", {}))  # older records have none


def make_objective(config: Resolved, model: nn.Module) -> Objective:
    """The loss of the network; it carries the weight decay where the configuration puts it in the loss."""
    smoothing = config["label_smoothing"]

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    groups = make_groups(config, model, config["weight_decay"])
    in_loss = {p: group["weight_decay"] for group in groups for p in group["params"]}
    return Objective(
        model,
        cross_entropy,
        autocast=torch.bfloat16 if config["precision"] == "bf16" else None,
        weight_decay=in_loss if config["weight_decay_in"] == "loss" else 0.0,
        batch_norm_statistics=config["batch_norm_statistics"],
        same_noise=config["same_noise"],
        compile=config["compile"],
        # an epoch's last, smaller batch is not worth the seconds that its own kernels take to build
        compiled_examples=config["m"] or config["micro_batch"] or config["batch_size"],
    )


def make_rule(config: Resolved, model: nn.Module, images: int = 0) -> Rule:
    """The rule on its base optimizer, for so many training images."""
    in_base = config["weight_decay"] if config["weight_decay_in"] == "base" else 0.0
    groups = make_groups(config, model, in_base)
    with refuse_by_key(config, "base_optimizer"):
        if config["base_optimizer"]["_target_"].partition(".")[0] in ("torch", "timm"):
            check_base(config["base_optimizer"])
        base = _make(config["base_optimizer"])(groups, lr=config["lr"])
    with refuse_by_key(config, "optimizer"):
        rule: Rule = _make(config["optimizer"])(base)
    if config["weight_decay_in"] == "loss" and not rule.allows_decay_in_loss:
        name = config["choices"]["optimizer"]
        raise UserError(f"weight_decay_in = loss: {name} takes gradients without it; choose weight_decay_in=base")
    if rule.needs_rows and rule.examples < images:
        raise UserError(f"optimizer.examples = {rule.examples}: the data have {images} training images; give as many")
    return rule


def make_groups(config: Resolved, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters, by decay and learning rate."""
    with refuse_by_key(config):
        return parameter_groups(model, weight_decay, config["weight_decay_on"], config["lr_factors"])


def make_rule_factory(config: Resolved) -> Callable[..., Rule]:
    """The rule of a configuration as a function of a base, whose further arguments are stronger than the settings."""
    with refuse_by_key(config, "optimizer"):
        return _make(config["optimizer"])


def make_schedule(config: Resolved) -> Schedule:
    """The schedule of the learning rate."""
    with refuse_by_key(config, "schedule"):
        return _make(config["schedule"])


def make_rho_schedule(config: Resolved) -> RhoSchedule:
    """The schedule of the radius."""
    with refuse_by_key(config, "rho_schedule"):
        return _make(config["rho_schedule"])


def make_plan(config: Resolved) -> Plan:
    """The numbers of the loop."""
    graph = None if config["graph"] == "auto" else config["graph"]
    keys = {**config, "graph": graph, "shuffle_buffer": config["dataset"].get("shuffle_buffer")}
    with refuse_by_key(config, "dataset"):
        return Plan(**{key: keys[key] for key in Plan.__dataclass_fields__})


def declared_cost(config: Resolved) -> Cost | None:
    """What a whole run costs, as its rule declares it; None where the number of images is not told."""
    images = config["dataset"].get("train_images")
    if images is None:
        return None
    rule = make_smallest_rule(config)
    steps = make_plan(config).steps(images - make_validation(config).count)
    return rule.total_cost(steps)


def make_smallest_rule(config: Resolved) -> Rule:
    """The rule where no network is at hand: it costs as many passes, and has parameters of each kind."""
    smallest = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    return make_rule(config | {"lr_factors": []}, smallest)


def make_diagnostics(config: Resolved) -> Diagnostics:
    """What is told of each step."""
    return Diagnostics(config["diagnostics"], config["diagnose_every"])


def make_measure(node: Resolved, model: nn.Module | None = None) -> Measure | None:
    """The measure of sharpness that a node describes, of this network; None where nothing is measured."""
    with refuse_by_key({"sharpness": node}, "sharpness"):
        measure: Measure | None = _make(node)
        if measure is not None and model is not None:
            measure.refuse(model)
        return measure


def _make(node: Resolved) -> Any:
    made: Callable[..., Any] = instantiate(node, _convert_="all")
    return made


@contextmanager
def refuse_by_key(config: Resolved, *nodes: str) -> Iterator[None]:
    """What a constructor refuses is the user's to change, who knows it by the key in the configuration.

    Args:
        config: the configuration.
        nodes: where the arguments are from, dotted; what is about none of their keys is told of the first.
    """
    try:
        yield
    except InstantiationException as error:
        inner = re.search(r"^full_key: (\S+)", str(error), re.MULTILINE)
        where = (f"{nodes[0]}.{inner[1]}",) if inner else nodes
        raise UserError(_in_node(error.__cause__ or error, config, where)) from error
    except (ValueError, TypeError, OSError) as error:
        raise UserError(_in_node(error, config, nodes)) from error


def _in_node(error: BaseException, config: Resolved, nodes: tuple[str, ...]) -> str:
    message = " ".join(str(error).split())
    if lost := re.match(r"Error loading '([^']+)': (?:\w+\([\"'])?(.+?)(?:[\"']\))? Are you sure ", message):
        module = lost[1].partition(".")[0]
        elsewhere = f"No module named '{module}'" in lost[2]
        remedy = f"start in the folder that holds {module}, or correct the name" if elsewhere else "correct the name"
        return f"{nodes[0]}._target_ = {lost[1]}: {lost[2]}; {remedy}"
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}; name another place, or one that may be read and written"
    about = re.match(r"\w+(?=[\w.\[\]]* = )", message)
    for node in nodes:
        if about and about[0] in reduce(getitem, node.split("."), config):
            return f"{node}.{message}"
    return f"{nodes[0]}: {message}" if nodes else message
