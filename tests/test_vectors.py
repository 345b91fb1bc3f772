"""Norms and products to float64 accuracy; weights that come back bitwise."""

import math

import pytest
import torch
from torch import Tensor, nn

from sam_repro.vectors import dot, dots, moved, norm, norms, rademacher, ratio, scaled


def large() -> tuple[list[Tensor], list[Tensor]]:
    """Two million float32 numbers, in tensors of three sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1_900_000, 99_999, 1]
    return [torch.rand(size, generator=generator) for size in sizes], [
        torch.rand(size, generator=generator) for size in sizes
    ]


def test_norm_of_two_million_numbers() -> None:
    a, _ = large()
    exact = math.sqrt(sum(tensor.double().square().sum().item() for tensor in a))
    assert norm(a).dtype == torch.float64
    assert norm(a).shape == ()
    assert norm(a).item() == pytest.approx(exact, rel=1e-11)


def test_dot_of_two_million_numbers() -> None:
    a, b = large()
    exact = math.fsum(torch.cat(a).double().mul(torch.cat(b).double()).tolist())
    assert dot(a, b).dtype == torch.float64
    assert dot(a, b).shape == ()
    assert dot(a, b).item() == pytest.approx(exact, rel=1e-11)
    assert dot(a, a).sqrt().item() == pytest.approx(norm(a).item(), rel=1e-11)


def test_dot_whatever_the_order_in_memory() -> None:
    """Pairs of tensors that lie differently, some of them with gaps, in groups of several and alone."""
    torch.manual_seed(0)
    image = torch.randn(6, 3, 5, 4)
    a = [image, image.to(memory_format=torch.channels_last), image, torch.randn(7, 9).T, torch.randn(8, 2)[:, 0]]
    b = [image.to(memory_format=torch.channels_last), image, image[:1].expand(6, 3, 5, 4), torch.randn(9, 7)]
    b += [torch.randn(8, dtype=torch.float64)]
    a, b = [*a, torch.tensor(2.0), torch.randn(300, 500)], [*b, torch.tensor(3.0), torch.randn(500, 300).T]
    exact = math.fsum(math.fsum((x.double() * y.double()).flatten().tolist()) for x, y in zip(a, b, strict=True))
    assert dot(a, b).item() == pytest.approx(exact, rel=1e-12)
    assert dot(b, a).item() == pytest.approx(exact, rel=1e-12)
    assert dot([nn.Parameter(image)], [image]).item() == pytest.approx(image.double().square().sum().item(), rel=1e-12)


def test_tensor_by_tensor() -> None:
    a, b = large()
    assert [n.item() for n in norms(a)] == pytest.approx([math.sqrt(dot([x], [x]).item()) for x in a], rel=1e-11)
    assert [d.item() for d in dots(a, b)] == pytest.approx([dot([x], [y]).item() for x, y in zip(a, b, strict=True)])
    assert {tensor.dtype for tensor in norms(a) + dots(a, b)} == {torch.float64}


def test_norm_of_numbers_whose_squares_leave_float32() -> None:
    for size in (1e-30, 1e30):
        assert norm([torch.full((4,), size)]).item() == pytest.approx(2 * size, rel=1e-6)


def test_norm_of_reduced_precision_and_of_mixed_types() -> None:
    a = [torch.full((1000,), 0.1, dtype=torch.bfloat16), torch.ones(3), torch.ones((), dtype=torch.float64)]
    exact = math.sqrt(1000 * a[0][0].double().item() ** 2 + 4)
    assert norm(a).item() == pytest.approx(exact, rel=1e-13)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        dot([torch.ones(2)], [torch.ones(2), torch.ones(2)])


def test_scaled_takes_a_factor_of_a_narrower_type() -> None:
    (y,) = scaled([torch.tensor([3.0], dtype=torch.float64)], torch.tensor(0.5, dtype=torch.float32))
    assert y.dtype == torch.float64
    assert y == 1.5


def test_scaled_keeps_type_and_layout() -> None:
    a = [torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(3), torch.randn(())]
    for x, y in zip(a, scaled(a, torch.tensor(3.0, dtype=torch.float64)), strict=True):
        assert y.dtype == x.dtype
        assert y.stride() == x.stride()
        assert torch.equal(y, 3 * x)


def test_a_factor_out_of_range_is_the_largest_number() -> None:
    for y in scaled([torch.tensor([0.0, 1e-40])], torch.tensor([1e300], dtype=torch.float64)):
        assert y.tolist() == [0.0, pytest.approx(1e-40 * torch.finfo(torch.float32).max, rel=1e-4)]


def test_signs_are_those_of_the_shapes_and_the_generator() -> None:
    like = [torch.zeros(20, 3, 5, 5), torch.zeros(500)]
    other = [like[0].double().to(memory_format=torch.channels_last), like[1].double()]
    first, again = (rademacher(x, torch.Generator().manual_seed(0)) for x in (like, other))
    for x, y, z in zip(first, again, other, strict=True):
        assert torch.equal(x.double(), y)
        assert (y.dtype, y.stride()) == (z.dtype, z.stride())
    signs = torch.cat([x.flatten() for x in first])
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / math.sqrt(len(signs))  # four standard deviations
    assert not torch.equal(first[0], rademacher(like, torch.Generator().manual_seed(1))[0])


def test_ratio() -> None:
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    assert ratio(3 * one, 2 * one) == 1.5
    assert ratio(one, zero) == 0
    assert ratio(zero, zero) == 0
    assert ratio(zero, one) == 0


def weights() -> list[Tensor]:
    torch.manual_seed(0)
    return [
        nn.Parameter(torch.randn(100)),
        nn.Parameter(1e-8 * torch.randn(3, 4)),
        nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.tensor([0.0, -0.0, float("inf")])),
    ]


def bits(tensors: list[Tensor]) -> list[bytes]:
    return [tensor.detach().contiguous().numpy().tobytes() for tensor in tensors]


def room(w: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(p, requires_grad=False) for p in w]


def test_moved_stands_at_the_sum_and_comes_back_bitwise() -> None:
    w = weights()
    by = [torch.rand_like(p) for p in w]
    before, addresses = bits(w), [p.data_ptr() for p in w]
    expected = bits([p.detach() + e for p, e in zip(w, by, strict=True)])
    with moved(w, by, room(w)):
        assert bits(w) == expected
    assert bits(w) == before
    assert [p.data_ptr() for p in w] == addresses
    with torch.no_grad():
        assert bits([(p + e) - e for p, e in zip(w, by, strict=True)]) != before  # what subtracting would leave


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_moved_comes_back_after_an_exception(error: type[BaseException]) -> None:
    w = weights()
    before = bits(w)
    with pytest.raises(error), moved(w, [torch.rand_like(p) for p in w], room(w)):
        raise error
    assert bits(w) == before


def test_moved_comes_back_where_the_perturbation_does_not_fit() -> None:
    """The first tensors have moved already when a later one is found not to fit."""
    w = weights()
    before = bits(w)
    with pytest.raises(RuntimeError, match="size"), moved(w, [torch.rand(p.shape[0] + 1) for p in w], room(w)):
        pass
    unfit = [torch.rand_like(p) for p in w[:-1]] + [torch.rand(7)]
    with pytest.raises(RuntimeError, match="size"), moved(w, unfit, room(w)):
        pass
    assert bits(w) == before


def test_moved_leaves_no_trace_for_autograd() -> None:
    w = weights()
    with moved(w, [torch.ones_like(p) for p in w], room(w)):
        sum(p[0].sum() for p in w).backward()
    assert all(p.is_leaf and p.requires_grad and p.grad_fn is None for p in w)
