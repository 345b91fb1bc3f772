"""From a resolved configuration to the objects of a run."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from sam_repro.augmentation import Augmentation
from sam_repro.compose import UserError
from sam_repro.dataset import Data, DataError, LabelNoise, Validation, prepare
from sam_repro.diagnostics import Diagnostics
from sam_repro.optimizer import Rule, parameter_groups
from sam_repro.oracle import Objective
from sam_repro.schedule import Schedule
from sam_repro.seeds import derived
from sam_repro.sharpness import Measure
from sam_repro.trainer import Plan

Config = dict[str, Any]

_THREADS = torch.get_num_threads()
"""The machine's own number, for runs that name none: a sweep in one process sets others in between."""


@dataclass(frozen=True)
class Shape:
    """What a network has to know of a data set."""

    num_classes: int
    in_channels: int
    image_size: int


def with_numerics(config: Config) -> Config:
    """The configuration with every "auto" of the numerics resolved for this machine."""
    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device = {device}: this machine has no CUDA device; choose device=cpu")
    if ":" in device and int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise UserError(f"device = {device}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    precision = config["precision"]
    if precision == "auto":
        precision = "bf16" if _multiplies_bfloat16(device) else "fp32"
    if precision == "tf32" and device == "cpu":
        raise UserError("precision = tf32: is for CUDA; on the CPU choose fp32 or bf16")
    if config["graph"] and device == "cpu":
        raise UserError("graph = true: needs a GPU; leave graph out")
    if config["compile"] and device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("compile = true: needs a C++ compiler, g++ or what CXX names; leave compile out")
    return config | {"device": device, "precision": precision}


def _multiplies_bfloat16(device: str) -> bool:
    """Whether bfloat16 is the device's own, and not emulated, which is slower than float32."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11, the oldest that is allowed, may not have it
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def set_numerics(config: Config) -> None:
    """Set this process to the run's numerics: TF32 or not, deterministic kernels or the fastest, threads."""
    torch.set_num_threads(config["threads"] or _THREADS)
    tf32 = "tf32" if config["precision"] == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = tf32
    torch.backends.cudnn.conv.fp32_precision = tf32  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not config["deterministic"]
    if config["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config["deterministic"])


def make_data(config: Config) -> Data:
    """Images and labels of the run, split and with label noise, on the device."""
    node = config["dataset"]
    with _refused("dataset"):
        images = _made(node["source"])(data_dir=config["data_dir"], download=config["download"])
        data = prepare(images, validation=Validation(**node["validation"]), noise=LabelNoise(**config["label_noise"]))
    if config["batch_size"] > len(data.train):
        raise UserError(
            f"batch_size = {config['batch_size']}: the training set has {len(data.train)} images; "
            f"choose batch_size={len(data.train)} or less"
        )
    channels = data.train.images.shape[1]
    if len(node["mean"]) != channels:
        raise UserError(
            f"dataset.mean = {node['mean']}: must be one number for each channel, of which there are {channels}"
        )
    return data.to(torch.device(config["device"]))


def shape_of(data: Data) -> Shape:
    """The shape of a data set."""
    _, channels, size, _ = data.train.images.shape
    return Shape(data.num_classes, channels, size)


def make_model(config: Config, shape: Shape) -> nn.Module:
    """The network with its initial weights, a function of the seed alone."""
    torch.default_generator.manual_seed(derived(config["seed"], "initialisation"))
    with _refused("architecture"):
        model: nn.Module = _made(config["architecture"])(**vars(shape))
    layout = torch.channels_last if config["channels_last"] else torch.contiguous_format
    return model.to(config["device"], memory_format=layout)  # type: ignore[call-overload]


def make_augmentation(config: Config, data: Data) -> Augmentation:
    """The augmentation, with the data set's normalisation and fit for its images."""
    with _refused("augmentation"):
        node = config["dataset"]
        augmentation: Augmentation = _made(config["augmentation"])(mean=node["mean"], std=node["std"])
        augmentation.check(data.train.images[:1])
        return augmentation


def make_objective(config: Config, model: nn.Module) -> Objective:
    """The loss of the network; it carries the weight decay where the configuration puts it in the loss."""
    smoothing = config["label_smoothing"]

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    groups = parameter_groups(model, config["weight_decay"], config["weight_decay_on"])
    in_loss = {p: group["weight_decay"] for group in groups for p in group["params"]}
    return Objective(
        model,
        cross_entropy,
        autocast=torch.bfloat16 if config["precision"] == "bf16" else None,
        weight_decay=in_loss if config["weight_decay_in"] == "loss" else 0.0,
        batch_norm_statistics=config["batch_norm_statistics"],
        same_noise=config["same_noise"],
        compile=config["compile"],
    )


def make_rule(config: Config, model: nn.Module) -> Rule:
    """The rule on its base optimizer."""
    in_base = config["weight_decay"] if config["weight_decay_in"] == "base" else 0.0
    groups = parameter_groups(model, in_base, config["weight_decay_on"])
    with _refused("base_optimizer"):
        base = _made(config["base_optimizer"])(groups, lr=config["lr"])
    with _refused("optimizer"):
        rule: Rule = _made(config["optimizer"])(base)
    if config["weight_decay_in"] == "loss" and not rule.allows_decay_in_loss:
        name = config["choices"]["optimizer"]
        raise UserError(f"weight_decay_in = loss: {name} takes gradients without it; choose weight_decay_in=base")
    return rule


def make_schedule(config: Config) -> Schedule:
    """The schedule of the learning rate."""
    with _refused("schedule"):
        return _made(config["schedule"])


def make_plan(config: Config) -> Plan:
    """The numbers of the loop."""
    return Plan(**{key: config[key] for key in Plan.__dataclass_fields__})


def declared_cost(config: Config) -> tuple[int | None, int | None]:
    """Passes and products of a whole run, as its rule declares them; None where the number of images is not told."""
    images = config["dataset"].get("train_images")
    if images is None:
        return None, None
    rule = make_rule(config, nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))  # any network costs as many
    steps = make_plan(config).steps(images - config["dataset"]["validation"]["count"])
    return sum(map(rule.passes, range(steps))), sum(map(rule.products, range(steps)))


def make_diagnostics(config: Config) -> Diagnostics:
    """What is told of each step."""
    return Diagnostics(config["diagnostics"], config["diagnose_every"])


def make_measure(node: Config) -> Measure | None:
    """The measure of sharpness that a node describes; None where nothing is measured."""
    with _refused("sharpness"):
        return _made(node)


def _made(node: Config) -> Any:
    made: Callable[..., Any] = instantiate(node, _convert_="all")
    return made


@contextmanager
def _refused(group: str) -> Iterator[None]:
    """What a constructor refuses is the user's to change."""
    try:
        yield
    except InstantiationException as error:
        raise UserError(f"{group}: {' '.join(str(error.__cause__ or error).split())}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{group}: {error}") from error
    except DataError as error:
        raise UserError(str(error)) from error
