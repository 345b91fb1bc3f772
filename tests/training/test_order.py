"""The order of an epoch: any, or one from a buffer."""

from collections import Counter

import pytest
import torch

from sam_repro.training.order import shuffled


@pytest.mark.parametrize("buffer", [None, 1, 3, 7, 10, 50])
def test_every_example_comes_once(buffer):
    for seed in range(20):
        assert shuffled(10, seed, buffer).sort().values.tolist() == list(range(10))


def test_without_a_buffer_it_is_torchs_permutation():
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    assert torch.equal(shuffled(100, 3), expected)
    assert torch.equal(shuffled(100, 3, 100), expected)
    assert not torch.equal(shuffled(100, 4), expected)


def test_a_buffer_of_one_is_file_order():
    assert shuffled(10, 0, 1).tolist() == list(range(10))


def test_no_example_comes_before_it_lies_in_the_buffer():
    for seed in range(20):
        order = shuffled(200, seed, 16)
        assert (order <= torch.arange(200) + 15).all()
    assert (shuffled(200, 0, 16)[:100] > 50).any()


def law(count, buffer):
    """The probability of each order, by going through all draws."""

    def continued(held, left, drawn):
        if not held:
            yield drawn, 1.0
            return
        for i, example in enumerate(held):
            rest = held[:i] + held[i + 1 :]
            for order, share in continued(rest + left[:1], left[1:], (*drawn, example)):
                yield order, share / len(held)

    shares = Counter()
    for order, share in continued(list(range(buffer)), list(range(buffer, count)), ()):
        shares[order] += share
    return shares


def test_orders_are_of_the_law_of_a_buffer():
    trials = 3000
    seen = Counter(tuple(shuffled(4, seed, 2).tolist()) for seed in range(trials))
    expected = law(4, 2)
    assert set(seen) == set(expected)
    for order, share in expected.items():
        assert abs(seen[order] - trials * share) < 5 * (trials * share * (1 - share)) ** 0.5
