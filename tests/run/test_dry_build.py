"""The door builds everything but the data before it loads any: what a constructor refuses is told by its key."""

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from called import command
from hydra.utils import get_object

from sam_repro import train
from sam_repro.architecture.batch_norm import BatchNorm
from sam_repro.augmentation import Augmentation, Crop, Cutout, Flip
from sam_repro.config.checks import LIMITS, finding
from sam_repro.config.lines import compose_line
from sam_repro.config.options import config_dir
from sam_repro.config.schema import flat
from sam_repro.dataset import LabelNoise, Validation, digits
from sam_repro.optimizer import SAM, SGDHess, parameter_groups
from sam_repro.oracle import Objective
from sam_repro.run import build, dry_build
from sam_repro.run.dry_build import findings
from sam_repro.run.mirror import open_mirror
from sam_repro.run.numerics import with_numerics
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.plan import Plan

NODES = compose_line([])
OPTIONS = sorted(
    f"{file.parent.name}={file.stem}" for file in config_dir().glob("*/*.yaml") if file.parent.name in NODES
)
BAD = [math.nan, -1, "nonsense"]
TEXTS = {"sharpness.parameters"}  # a pattern of names: any word is one
INHERITED = {"optimizer.rho"}  # ${rho}, a top-level key: `contradictions` refuses another value
OF_THE_DATA = {"dataset.mean", "dataset.std"}  # arguments of the augmentation


@functools.cache
def composed(option: str) -> dict[str, Any]:
    """The configuration with an option; what is too large for a digit, with a data set of three channels, 32 x 32."""
    large = option.startswith("augmentation=") or "name" in compose_line([option])["architecture"]
    return compose_line([option, *(["dataset=cifar10"] if large else [])])


def nodes_of(option: str) -> Iterator[tuple[str, Mapping[str, Any], Callable[..., Any]]]:
    """The nodes of an option with their settings and what takes them."""
    group = option.partition("=")[0]
    config = composed(option)
    if group == "dataset":
        yield "dataset.validation", config["dataset"]["validation"], Validation
        yield "dataset.source", config["dataset"]["source"], get_object(config["dataset"]["source"]["_target_"])
        return
    prepared = build.PREPARED if group == "architecture" else ()
    own = {key: value for key, value in config[group].items() if key not in prepared}
    below = {f"{group}.{key}": node for key, node in own.items() if isinstance(node, dict) and "_target_" in node}
    for node, settings in {group: own, **below}.items():
        yield node, settings, get_object(settings["_target_"])
    if option == "architecture=digits_cnn":  # of any network
        yield "architecture.batch_norm", config[group]["batch_norm"], BatchNorm


def changed(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at a dotted key."""
    first, _, rest = key.partition(".")
    return {**config, first: changed(config[first], rest, value) if rest else value}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_built_dry(option: str) -> None:
    assert findings([composed(option)]) == []


@pytest.mark.parametrize("option", OPTIONS)
def test_every_key_of_an_option_is_an_argument_or_has_limits(option: str) -> None:
    for node, settings, target in nodes_of(option):
        keys = [key for key, value in settings.items() if not key.startswith("_") and not isinstance(value, dict)]
        rest = [key for key in keys if f"{node}.{key}" not in LIMITS]
        assert [key for key in rest if key not in inspect.signature(target).parameters] == []
    if option.startswith("dataset="):
        keys = [key for key in flat(compose_line([option])) if key.startswith("dataset.") and "._" not in key]
        below = ("dataset.validation.", "dataset.source.", "dataset.resize.")  # of which a constructor says it
        rest = {key for key in keys if key not in LIMITS and not key.startswith(below)}
        assert rest == OF_THE_DATA
        assert {"mean", "std"} <= inspect.signature(Augmentation).parameters.keys()


def keys_of(option: str) -> Iterator[tuple[Any, str]]:
    """The keys of an option that a constructor takes, each with its class or, of a function, its module."""
    for node, settings, target in nodes_of(option):
        checked = target if inspect.isclass(target) else target.__module__
        keys = [f"{node}.{key}" for key, value in settings.items() if key[0] != "_" and not isinstance(value, dict)]
        if node != "dataset.source":  # loads the data: tests/dataset
            yield from ((checked, key) for key in keys if key not in LIMITS and key not in INHERITED)
    if option.startswith("dataset="):
        yield from ((Augmentation, key) for key in sorted(OF_THE_DATA))


@pytest.mark.parametrize("group", sorted({option.partition("=")[0] for option in OPTIONS}))
def test_a_bad_value_of_a_key_is_refused_in_one_line_that_names_it(group: str) -> None:
    """A key of a class or module once, in the option of the shortest name, because large networks take seconds."""
    options = [option for option in OPTIONS if option.startswith(f"{group}=")]
    tried: set[tuple[Any, str]] = set()
    for option in sorted(options, key=lambda option: (len(option), option)):
        config = composed(option)
        for checked, key in keys_of(option):
            if (checked, key) not in tried:
                check_bad_values(config, key)
                tried.add((checked, key))
    assert tried


def check_bad_values(config: Mapping[str, Any], key: str) -> None:
    for value in BAD:
        if key in TEXTS and value != -1:
            continue
        heard = findings([changed(config, key, "nan" if value != value else value)])  # JSON has no NaN
        assert len(heard) == 1, (key, value, heard)
        assert heard[0].startswith(f"{key} = "), (key, value, heard)
        assert "must be" in heard[0]


def base() -> torch.optim.Optimizer:
    return torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)


SHARED: dict[str, Callable[[Any], Any]] = {
    "rho": lambda value: (SAM(base(), value), SGDHess(base(), value)),
    "weight_decay": lambda value: parameter_groups(torch.nn.Linear(1, 1), value),
    "weight_decay_on": lambda value: parameter_groups(torch.nn.Linear(1, 1), 0.0, value),
    "batch_norm_statistics": lambda value: Objective(
        torch.nn.Linear(1, 1), torch.nn.functional.cross_entropy, batch_norm_statistics=value
    ),
    "label_noise.rate": lambda value: LabelNoise(rate=value),
    "label_noise.kind": lambda value: LabelNoise(kind=value),
    "label_noise.seed": lambda value: LabelNoise(seed=value),
    "diagnostics": lambda value: Diagnostics(value),
    "diagnose_every": lambda value: Diagnostics(every=value),
    "dataset.augmentation.pad": lambda value: Crop(value),
    "dataset.augmentation.flip": lambda value: Flip(value),
    "dataset.augmentation.cutout": lambda value: Cutout(value),
    "dataset.shuffle_buffer": lambda value: Plan(0, 1, 1, 0.1, shuffle_buffer=value),
    "wandb": lambda value: open_mirror(
        value, directory=Path(), run_id="", name="", group="", job_type="", tags=[], config={}
    ),
}
"""Keys that are known without torch, and the constructors that take the same value."""
TRIED = [*BAD, None, True, 0, 1, 1.5, 2**32 - 1, 2**32, 10**400, [1], "", *("uniform", "all", "mean", "loss")]


@pytest.mark.parametrize("key", SHARED)
def test_a_top_level_key_and_the_constructor_that_takes_it_say_the_same(key: str) -> None:
    for value in TRIED:
        line = finding(key, value)
        if value is None and line is None:
            continue  # rho = null is for rules that have none
        try:
            SHARED[key](value)
            said = None
        except ValueError as error:
            said = str(error)
        if line is None or said is None:
            assert line is said is None, (key, value)
        else:
            assert line.partition(" = ")[2].removesuffix(", or null") == said.partition(" = ")[2].removesuffix(
                ", or null"
            )


def test_all_that_constructors_refuse_is_told_at_once() -> None:
    words = ["optimizer.perturb=up", "schedule.final=2", "sharpness.examples=0", "dataset.validation.count=-1"]
    assert [line.partition(" = ")[0] for line in findings([compose_line(words)])] == [
        "dataset.validation.count",
        "schedule.final",
        "sharpness.examples",
        "optimizer.perturb",
    ]


def test_a_cell_is_built_once_for_all_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    built, make_rule = [], build.make_rule
    monkeypatch.setattr(build, "make_rule", lambda config, model: built.append(config) or make_rule(config, model))
    assert findings([compose_line([f"seed={seed}", f"rho={rho}"]) for rho in (0.1, 0.2) for seed in range(3)]) == []
    assert [config["rho"] for config in built] == [0.1, 0.2]


def test_a_network_that_several_cells_train_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(dry_build, "refuse_sizes", lambda network, *given: tried.append(network))
    rules = ["optimizer=sam", "optimizer=sgd", "optimizer=sgd lr=0.2", "optimizer=sgd weight_decay=0.1"]
    assert findings([compose_line(line.split()) for line in rules]) == []
    assert len(tried) == 1
    others = ["batch_size=32", "drop_last=true", "lr_factors=[[weight,2]]", "m=8", "weight_decay_on=no_norm_no_bias"]
    assert findings([compose_line(["optimizer=sgd", line]) for line in others]) == []
    assert len(tried) == 1 + len(others)


def test_a_done_cell_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("max_steps=1", "wandb=disabled", "progress=silent", "sharpness=none")
    assert command(train.main, tmp_path, *words).code == 0
    monkeypatch.chdir(tmp_path)
    config, built, make_rule = compose_line(words), [], build.make_rule
    monkeypatch.setattr(build, "make_rule", lambda config, model: built.append(config) or make_rule(config, model))
    assert findings([config]) == built == []
    for again in ([config, config | {"seed": 1}], [config | {"resume": False}]):
        assert findings(again) == []
    assert len(built) == 2
    (refusal,) = findings([compose_line([*words[:-1], "sharpness.examples=0"])])  # a done run can be measured again
    assert refusal.startswith("sharpness.examples = 0: ")


def test_what_is_built_from_elsewhere_has_limits_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "import torch\nfrom sam_repro.optimizer import SGD\n"
        "class Rule(SGD):\n"
        "    def __init__(self, base, rho, scope):\n"
        "        super().__init__(base)\n"
        "        if scope != 'layer': raise ValueError(f'scope = {scope}: must be layer')\n"
        "def looks(num_classes, in_channels, image_size):\n"
        "    return torch.nn.Linear(1, int(torch.ones(1)))\n"
        "def numpys(num_classes, in_channels, image_size):\n"
        "    return torch.nn.Linear(1, len(torch.ones(1).numpy()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = compose_line(["optimizer=sam"])
    rule = {"_target_": "elsewhere.Rule", "_partial_": True, "rho": 0.05}
    assert findings([config | {"optimizer": rule | {"scope": "layer"}}]) == []
    assert findings([config | {"optimizer": rule | {"scope": 3}}]) == ["optimizer.scope = 3: must be layer"]
    assert findings([config | {"optimizer": rule}])[0].startswith("optimizer: Rule.__init__() missing 1 required")
    for network in ("looks", "numpys"):  # which the meta device cannot build
        assert findings([config | {"architecture": {"_target_": f"elsewhere.{network}", "_partial_": True}}]) == []


def test_a_network_of_an_unknown_shape_is_not_built() -> None:
    config = compose_line(["architecture.initialisation=he"])
    assert len(findings([config])) == 1
    assert findings([changed(config, "dataset.shape", None)]) == []
    del config["dataset"]["shape"]
    assert findings([config]) == []


def test_the_told_shape_is_that_of_the_data() -> None:
    data = build.make_data(with_numerics(compose_line([])))
    assert list(vars(build.shape_of(data)).values()) == compose_line([])["dataset"]["shape"]
    for name in ("cifar10", "cifar100", "fashion_mnist"):
        node = compose_line([f"dataset={name}"])["dataset"]
        assert node["shape"][1] == len(node["mean"])


def test_nothing_is_loaded_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "digits", lambda data_dir, download: pytest.fail("data were loaded"))
    monkeypatch.chdir(tmp_path)
    assert findings([compose_line([])]) == []
    assert not list(tmp_path.iterdir())


def test_a_measure_that_cannot_be_is_refused_before_the_data_are_loaded(tmp_path: Path) -> None:
    words = ("max_steps=1", "wandb=disabled", "progress=silent", "sharpness=none")
    assert command(train.main, tmp_path, *words).code == 0
    (run,) = tmp_path.glob("outputs/runs/*/*/seed=0")
    from sam_repro import measure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_data", None)
        said = command(measure.main, tmp_path, f"run={run}", "sharpness=hessian", "sharpness.steps=1")
    assert (said.code, said.err) == (2, "sam_repro: sharpness.steps = 1: must be an integer >= 2 and <= 10000\n")
    assert json.loads((run / "result.json").read_text())["sharpness"] == {}


def test_every_bad_argument_of_a_node_is_told() -> None:
    words = ["optimizer=looksam", "optimizer.alpha=-1", "optimizer.period=0", "schedule.final=2", "schedule.per=x"]
    found = findings([compose_line(words)])
    assert sorted(line.partition(" = ")[0] for line in found) == [
        "optimizer.alpha",
        "optimizer.period",
        "schedule.final",
        "schedule.per",
    ]


def test_weights_that_the_network_does_not_have_are_told_before_training() -> None:
    (line,) = findings([compose_line(["sharpness.parameters=nope"])])
    assert line.startswith("sharpness.parameters = nope: is in no parameter's name; there are 14, such as ")
    assert findings([compose_line(["sharpness.parameters=weight"])]) == []


def test_a_home_that_cannot_be_looked_at_is_the_run_s_to_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line of a sweep fails by itself, and takes no other with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").symlink_to("a" * 300)
    assert findings([compose_line(["sharpness=none"])]) == []
