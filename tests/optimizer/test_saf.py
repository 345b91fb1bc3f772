"""SAF against a reference that keeps the outputs of each example in a list."""

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import flat, loss, outputs, toy
from torch import Tensor

from sam_repro.optimizer import SAF, SGD
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")
EXAMPLES, EPOCHS, BATCH = 20, 6, 8  # of 8, 8 and 4
BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
SETTINGS = [
    {"strength": 3.0, "temperature": 5.0, "ago": 2, "start": 3},
    {"strength": 2.0, "temperature": 1.0, "ago": 1, "start": 0},
    {"strength": 3.0, "temperature": 2.0, "ago": 3, "start": 1},
]


def batches(epochs: int = EPOCHS) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each example once an epoch, in another order and augmented anew."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (EXAMPLES,), generator=generator)
    orders = [torch.randperm(EXAMPLES, generator=generator) for _ in range(epochs)]
    rows = [rows for order in orders for rows in order.split(BATCH)]
    return [(torch.randn(len(own), 6, generator=generator), targets[own], own) for own in rows]


def made(rule: Any = SAF, **settings: Any) -> Any:
    model = toy()
    return model, rule(torch.optim.SGD(model.parameters(), **BASE), **settings)


def train(model: Any, rule: Any, steps: Any, m: int | None = None, pieces: int = 1) -> Tensor:
    objective = Objective(model, F.cross_entropy)
    for x, y, rows in steps:
        split = zip(*(t.tensor_split(pieces) for t in (x, y, rows)), strict=True)
        rule.step(*(objective(*piece[:2], rows=piece[2]) for piece in split), m=m)
    return flat(model.parameters())


def by_hand(strength: float, temperature: float, ago: int, start: int) -> Tensor:
    w = flat(toy().parameters())
    velocity = torch.zeros_like(w)
    seen: list[list[Tensor]] = [[] for _ in range(EXAMPLES)]
    for x, y, rows in batches():
        w.requires_grad_()
        now = outputs(w, x)
        total = loss(w, x, y)
        for row, z in zip(rows.tolist(), now, strict=True):
            if len(seen[row]) >= max(start, ago):
                theirs, ours = ((a / temperature).softmax(0) for a in (seen[row][-ago], z))
                total = total + strength * temperature**2 * (theirs * (theirs / ours).log()).sum() / len(rows)
            seen[row].append(z.detach())
        (g,) = torch.autograd.grad(total, w)
        w = w.detach()
        velocity = 0.9 * velocity + g + 1e-2 * w
        w = w - 0.1 * velocity
    return w


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_a_reference_by_hand(settings: dict[str, Any]) -> None:
    expected = by_hand(**settings)
    ours = train(*made(examples=EXAMPLES, **settings), batches())
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)
    plain = train(*made(SGD), batches())
    assert not torch.allclose(plain, expected, rtol=1e-2)


@pytest.mark.parametrize("how", [{"m": 3}, {"pieces": 3}])
def test_parts_and_pieces_are_the_batch(how: dict[str, int]) -> None:
    """Without batch norm the mean over parts is that over the batch."""
    whole, split = (train(*made(examples=EXAMPLES, **SETTINGS[1]), batches(), **own) for own in ({}, how))
    torch.testing.assert_close(split, whole, rtol=1e-11, atol=1e-13)


def test_saved_in_the_middle_it_goes_on_bitwise() -> None:
    steps = batches()
    straight = train(*made(examples=EXAMPLES, **SETTINGS[0]), steps)
    for stop in (0, 11):
        model, rule = made(examples=EXAMPLES, **SETTINGS[0])
        train(model, rule, steps[:stop])
        file = io.BytesIO()
        torch.save([model.state_dict(), rule.state_dict()], file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        model, rule = made(examples=EXAMPLES, **SETTINGS[0])
        model.load_state_dict(weights)
        rule.load_state_dict(state)
        assert torch.equal(train(model, rule, steps[stop:]), straight)


def test_a_state_for_other_examples_is_refused() -> None:
    model, rule = made(examples=EXAMPLES)
    train(model, rule, batches(1))
    _, other = made(examples=EXAMPLES + 1)
    with pytest.raises(ValueError, match="its memory does not fit SAF, which keeps visits, earlier"):
        other.load_state_dict(rule.state_dict())


def test_it_is_the_base_before_the_start_and_without_strength() -> None:
    for epochs, settings in ((4, {"start": 4}), (EPOCHS, {"strength": 0.0})):
        ours = train(*made(examples=EXAMPLES, **settings), batches(epochs))
        assert torch.equal(ours, train(*made(SGD), batches(epochs)))


def test_batches_without_numbers_and_several_ranks_are_refused() -> None:
    model, rule = made(examples=EXAMPLES)
    x, y, rows = batches(1)[0]
    objective = Objective(model, F.cross_entropy)
    with pytest.raises(ValueError, match=r"^SAF remembers something of each example: number them, objective\(inputs"):
        rule.step(objective(x, y))
    with pytest.raises(ValueError, match=r"^SAF: each rank would remember its own examples alone"):
        rule.backward(objective(x, y, rows=rows), mean=lambda tensors: tensors)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": 0}, r"examples = 0: must be an integer >= 1"),
        ({"ago": 0}, r"ago = 0: must be an integer >= 1"),
        ({"start": -1}, r"start = -1: must be an integer >= 0"),
        ({"strength": -1.0}, r"strength = -1.0: must be a finite number >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        made(**{"examples": EXAMPLES} | given)
