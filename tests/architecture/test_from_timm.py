"""timm's networks: they are timm's own, with the task's sizes; attention has the kernel that a derivative allows."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sam_repro.architecture import timm_network
from sam_repro.architecture.layers import NetworkWarning
from sam_repro.oracle import Objective
from sam_repro.oracle.products import hvp

VIT = {"depth": 2, "embed_dim": 12, "num_heads": 2, "patch_size": 4}


def small_vit() -> nn.Module:
    """Two layers of attention on four patches, whose last norm and head are not those of the start, which are flat."""
    torch.manual_seed(0)
    model = timm_network(num_classes=3, in_channels=1, image_size=8, name="vit_tiny_patch16_224", arguments=VIT)
    for weight in model.parameters():
        nn.init.normal_(weight, 0.0, 0.5)
    return model.double()


@pytest.mark.parametrize(
    ("name", "given", "theirs"),
    [
        ("vit_tiny_patch16_224", VIT, VIT | {"img_size": 8}),
        ("test_efficientnet", {"drop_rate": 0.5}, {"drop_rate": 0.5}),
    ],
)
def test_is_timms_network_of_the_tasks_sizes(name: str, given: dict[str, object], theirs: dict[str, object]) -> None:
    models = []
    for make in (
        lambda: timm_network(num_classes=3, in_channels=2, image_size=8, name=name, arguments=given),
        lambda: timm.create_model(name, num_classes=3, in_chans=2, **theirs),
    ):
        torch.manual_seed(0)
        models.append(make().eval())
    images = torch.randn(4, 2, 8, 8)
    assert type(models[0]) is type(models[1])
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))
    assert torch.equal(models[0](images), models[1](images))


@pytest.mark.parametrize(
    ("name", "arguments", "size", "classes", "parameters"),
    [
        ("vit_small_patch32_224", None, 224, 1000, 22_878_952),
        ("vit_small_patch16_224", None, 224, 1000, 22_050_664),
        ("vit_base_patch32_224", None, 224, 1000, 88_224_232),
        ("vit_base_patch16_224", None, 224, 1000, 86_567_656),
        ("vit_small_patch16_224", {"patch_size": 4}, 32, 10, 21_342_346),
        ("tf_efficientnet_b7", None, 64, 1000, 66_347_960),
    ],
)
def test_parameter_counts(
    name: str, arguments: dict[str, int] | None, size: int, classes: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = timm_network(num_classes=classes, in_channels=3, image_size=size, name=name, arguments=arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters


def kernels(output: Tensor) -> set[str]:
    """The names of the attention kernels in a graph."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [other for other, _ in node.next_functions]
    return {node.name() for node in seen if "ttention" in node.name()}


def test_a_gradient_has_the_fused_kernel_and_a_hessian_product_is_right() -> None:
    model = small_vit()
    images, labels = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    graphs: list[Tensor] = []
    model.register_forward_hook(lambda _module, _given, logits: graphs.append(logits))
    oracle, params = Objective(model.eval(), cross_entropy)(images, labels), list(model.parameters())
    oracle.gradient(params)
    assert any("FlashAttention" in name for name in kernels(graphs[-1]))
    v = [torch.randn_like(p) for p in params]
    product = hvp(oracle, params, v)
    assert kernels(graphs[-1]) == set()

    def gradient_at(step: float) -> list[Tensor]:
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=step)
        gradient = oracle.gradient(params).vector
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=-step)
        return gradient

    quotient = [(a - b) / 2e-6 for a, b in zip(gradient_at(1e-6), gradient_at(-1e-6), strict=True)]
    torch.testing.assert_close(product, quotient, rtol=1e-5, atol=1e-6)


def test_what_timm_lists_has_no_decay() -> None:
    assert small_vit().no_weight_decay() >= {"pos_embed", "cls_token"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "vit_smal_patch16_22"},
            r"^name = .*: must be a network of timm; did you mean vit_small_patch16_224, ",
        ),
        ({"name": "hf-hub:timm/x"}, r"^name = 'hf-hub:timm/x': must be a network of timm"),
        ({"name": None}, r"^name = null: must be a network of timm"),
        ({"arguments": {"foo": 1}}, r"^arguments = .*: vit_small_patch16_224 refuses them \(.*'foo'"),
        ({"arguments": [1]}, r"^arguments = \[1\]: must be given by name, such as {drop_path_rate: 0.1}, or null$"),
        ({"arguments": {"pretrained": True}}, r"^arguments = pretrained: not to be given here"),
        (
            {"image_size": 30},
            r"^image_size = 30: does not fit vit_small_patch16_224, whose patches have 16 pixels a side; resize",
        ),
        ({"num_classes": 1}, r"^num_classes = 1: must be an integer >= 2$"),
        ({"name": "inception_v3"}, r"^image_size = 32: does not fit inception_v3 \(Calculated padded input size"),
    ],
)
def test_bad_arguments_are_one_line(given: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message) as refusal:
        timm_network(**({"num_classes": 10, "in_channels": 3, "image_size": 32} | given))
    assert "\n" not in str(refusal.value)


def test_small_images_are_told() -> None:
    with torch.device("meta"), pytest.warns(NetworkWarning, match=r"^images of 32 pixels have less than 2 x 2 places"):
        timm_network(num_classes=10, in_channels=3, image_size=32, name="resnet18")
