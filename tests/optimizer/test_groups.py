"""Which parameters decay, and which belong to a normalisation."""

import pytest
import timm
import torch
from torch import nn

from sam_repro.optimizer import parameter_groups


class Net(nn.Module):
    """Every kind of parameter: convolution, norms, attention, a tied and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.batch_norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.recurrent = nn.LSTM(4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.linear = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.linear.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(model: nn.Module, parameters: list[torch.Tensor]) -> set[str]:
    known = {parameter: name for name, parameter in model.named_parameters()}
    return {known[parameter] for parameter in parameters}


def test_all_parameters_decay_by_default_each_once() -> None:
    model = Net()
    groups = parameter_groups(model, 0.1)
    assert {group["weight_decay"] for group in groups} == {0.1}
    parameters = [p for group in groups for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == len(set(parameters)) == len(trainable)
    assert set(parameters) == set(trainable)


def test_norms_and_biases_do_not_decay_on_request() -> None:
    model = Net()
    groups = parameter_groups(model, 0.1, on="no_norm_no_bias")
    decays = names(model, [p for group in groups if group["weight_decay"] == 0.1 for p in group["params"]])
    spared = names(model, [p for group in groups if group["weight_decay"] == 0.0 for p in group["params"]])
    assert decays == {
        "convolution.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "token",
        "linear.weight",
    }
    assert spared == names(model, [p for p in model.parameters() if p.requires_grad]) - decays


@pytest.mark.parametrize("on", ["all", "no_norm_no_bias"])
def test_normalisations_carry_the_flag(on: str) -> None:
    model = Net()
    groups = parameter_groups(model, 0.1, on)
    flagged = names(model, [p for group in groups if group["norm"] for p in group["params"]])
    assert flagged == {
        f"{norm}.{name}" for norm in ("batch_norm", "layer_norm", "group_norm") for name in ("weight", "bias")
    }
    torch.optim.SGD(groups, lr=0.1)


def test_what_a_network_lists_does_not_decay_either() -> None:
    class Listed(Net):
        def no_weight_decay(self) -> set[str]:
            return {"token", "attention.in_proj_weight"}

    model = Listed()
    groups = parameter_groups(model, 0.1, on="no_norm_no_bias")
    decays = names(model, [p for group in groups if group["weight_decay"] == 0.1 for p in group["params"]])
    assert decays & {"token", "attention.in_proj_weight", "linear.weight"} == {"linear.weight"}
    assert len(parameter_groups(model, 0.1, on="all")) == len(parameter_groups(Net(), 0.1, on="all"))


def test_factors_of_the_learning_rate_go_by_name_and_the_last_counts() -> None:
    model = Net()
    groups = parameter_groups(model, 0.1, lr_factors=[("linear", 10), (r"linear\.bias", 0.5), ("frozen", 3)])
    factors = {name: group["lr_factor"] for group in groups for name in names(model, group["params"])}
    assert factors.pop("linear.weight") == 10
    assert factors.pop("linear.bias") == 0.5
    assert set(factors.values()) == {1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "weight_decay = -1.0"),
        ((0.1, "weights"), "weight_decay_on = weights: must be one of all"),
        ((0.1, "all", [["head", 10]]), r"lr_factors\[0\] = head: has the name of no parameter; there is token$"),
        ((0.1, "all", [["linear", 0]]), r"lr_factors\[0\] = 0: must be a finite number > 0$"),
        (
            (0.1, "all", ["linear"]),
            r"lr_factors\[0\] = linear: must be a pattern and a factor, such as \[classifier, 10\]$",
        ),
        ((0.1, "all", [[None, 2]]), r"lr_factors\[0\] = \[null, 2\]: must be a pattern and a factor"),
    ],
)
def test_out_of_range_is_refused(arguments: tuple[float, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(Net(), *arguments)


class Spared(nn.Module):
    """A network with normalisations of other makers, inside of another, whose `no_weight_decay` names parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("test_vit")
        self.instance = nn.InstanceNorm2d(3, affine=True)
        self.rms = timm.layers.RmsNorm(4)
        self.response = timm.layers.grn.GlobalResponseNorm(4)
        self.fusing = timm.layers.BatchNormAct2d(4)


def test_other_normalisations_and_what_the_network_spares() -> None:
    model = Spared()
    groups = parameter_groups(model, 0.1, on="no_norm_no_bias")
    norms = names(model, [p for group in groups if group["norm"] for p in group["params"]])
    own = {"instance", "rms", "response", "fusing"}
    assert own <= {name.partition(".")[0] for name in norms}
    assert {name for name in norms if name.startswith("vit")} == {
        name for name, _ in model.named_parameters() if name.startswith("vit") and "norm" in name
    }
    spared = names(model, [p for group in groups if group["weight_decay"] == 0.0 for p in group["params"]])
    assert {"vit.pos_embed", "vit.cls_token"} <= spared
    assert not {name for name in spared if name.endswith((".fc1.weight", ".qkv.weight"))}
    decays = [group["weight_decay"] for group in parameter_groups(model, 0.1) for _ in group["params"]]
    assert set(decays) == {0.1}


@pytest.mark.parametrize("on", ["all", "no_norm_no_bias"])
def test_groups_know_the_names(on: str) -> None:
    model = Net()
    for group in torch.optim.SGD(parameter_groups(model, 0.1, on), lr=0.1).param_groups:
        known = dict(model.named_parameters())
        assert all(known[name] is p for name, p in zip(group["param_names"], group["params"], strict=True))
