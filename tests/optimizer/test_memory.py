"""What a rule keeps from step to step: it follows the parameters, it is saved, and nothing else may change."""

import copy
import io
import pickle
import random
from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sam_repro.errors import UserError
from sam_repro.optimizer import SGD, LookSAM, Rule, SGDHess, TwoPass, moved
from sam_repro.oracle import Objective
from sam_repro.vectors import ratio, scaled

pytestmark = pytest.mark.usefixtures("float64")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(rule: Rule, model: nn.Module, steps: range) -> None:
    objective = Objective(model, cross_entropy)
    for step in steps:
        rule.step(objective(*batch(step)))


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


# State made for the parameters of then

REMEMBERING = {
    "looksam": lambda base: LookSAM(base, rho=0.05, period=2),
    "sgdhess": lambda base: SGDHess(base, rho=0.1, curvature="hutchinson_abs", period=2),
}
each = pytest.mark.parametrize("make", REMEMBERING.values(), ids=REMEMBERING)


@each
def test_an_unfrozen_layer_has_zeros_in_memory_and_the_others_keep_theirs(make: Any) -> None:
    model = network()
    model[1].requires_grad_(False)
    rule = make(sgd(model))
    train(rule, model, range(1))
    (name,) = rule.memory
    kept = flat(rule.memory[name])
    model[1].requires_grad_(True)
    train(rule, model, range(1, 2))  # one pass: what is in memory is used, and not written
    assert torch.equal(flat(rule.memory[name][:2]), torch.zeros(35))
    assert torch.equal(flat(rule.memory[name][2:]), kept)
    train(rule, model, range(2, 3))
    assert flat(rule.memory[name][:2]).abs().sum() > 0


@each
def test_a_frozen_layer_leaves_the_memory(make: Any) -> None:
    model = network()
    rule = make(sgd(model))
    train(rule, model, range(1))
    (name,) = rule.memory
    kept = [x.clone() for x in rule.memory[name][2:]]
    model[1].requires_grad_(False)
    before = flat(model[1].parameters())
    train(rule, model, range(1, 4))
    assert [x.shape for x in rule.memory[name]] == [x.shape for x in kept]
    assert torch.equal(flat(model[1].parameters()), before)


@each
def test_a_group_that_is_added_later_has_zeros_in_memory(make: Any) -> None:
    model = network()
    rule = make(torch.optim.SGD(model[1].parameters(), lr=0.1))
    train(rule, model, range(1))
    rule.base.add_param_group({"params": list(model[3].parameters())})
    train(rule, model, range(1, 4))
    (name,) = rule.memory
    assert [x.shape for x in rule.memory[name]] == [p.shape for p in model.parameters()]


@each
def test_memory_follows_a_dtype(make: Any) -> None:
    model = network()
    rule = make(sgd(model))
    train(rule, model, range(1))
    model.float()
    for state in rule.base.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].float()
    x, y = batch(1)
    rule.step(Objective(model, cross_entropy)(x.float(), y))
    assert all(x.dtype == torch.float32 for vector in rule.memory.values() for x in vector)


def test_saved_while_a_layer_was_frozen_and_loaded_after() -> None:
    model = network()
    model[1].requires_grad_(False)
    rule = LookSAM(sgd(model), rho=0.05)
    train(rule, model, range(1))
    state = rule.state_dict()
    whole = LookSAM(sgd(network()), rho=0.05)
    with pytest.raises(ValueError, match="memory does not fit LookSAM, which keeps g_v: it is of another rule"):
        whole.load_state_dict(state)
    assert whole.steps == 0
    assert not whole.base.state


def test_a_state_from_before_there_was_memory_is_refused_in_a_line() -> None:
    rule = LookSAM(sgd(network()), rho=0.05)
    old = {"steps": 3, "base": rule.base.state_dict(), "g_v": rule.memory["g_v"]}
    with pytest.raises(ValueError, match="of an older version; load the state of this rule, or start anew"):
        rule.load_state_dict(old)


# A rule with a memory of its own


class Friendly(TwoPass):
    """An average of g, a count, and a float as a 0-dim tensor, all in memory; climbs along what is new in g."""

    def __init__(self, base: torch.optim.Optimizer, rho: float) -> None:
        super().__init__(base, rho)
        self.memory["m"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]
        self.memory["seen"] = torch.zeros((), dtype=torch.int64)

    def ascent(self, g: Any, w: Any) -> Any:
        d = torch._foreach_sub(g, self.memory["m"])
        return scaled(d, ratio(self.rho, torch.linalg.vector_norm(flat(d))))

    def combine(self, g: Any, g_s: Any) -> Any:
        return g_s

    def remember(self, g: Any, g_s: Any) -> None:
        torch._foreach_lerp_(self.memory["m"], g, 0.1)
        self.memory["seen"].add_(1)


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_memory_goes_on_bitwise(way: str) -> None:
    straight, stopped = network(), network()
    whole, rule = Friendly(sgd(straight), 0.1), Friendly(sgd(stopped), 0.1)
    train(whole, straight, range(6))
    train(rule, stopped, range(3))
    if way == "state_dict":
        file = io.BytesIO()
        torch.save([stopped.state_dict(), rule.state_dict()], file)
        file.seek(0)
        model = network()
        again: Rule = Friendly(sgd(model), 0.1)
        weights, state = torch.load(file, weights_only=True)
        model.load_state_dict(weights)
        again.load_state_dict(state)
    else:
        copied = copy.deepcopy if way == "deepcopy" else lambda both: pickle.loads(pickle.dumps(both))
        model, again = copied((stopped, rule))
    train(again, model, range(3, 6))
    assert torch.equal(flat(model.parameters()), flat(straight.parameters()))
    assert again.memory["seen"] == 6
    again.refuse_undeclared_state()
    train(rule, stopped, range(3, 6))
    assert torch.equal(flat(stopped.parameters()), flat(straight.parameters()))


# State that nobody would save


class Average:
    def __init__(self) -> None:
        self.value = 0.0


def kept_in(make: Any, write: Any) -> type[SGD]:
    """The plain gradient, with something that is made in the constructor and written in every step."""

    class Keeps(SGD):
        def __init__(self, base: torch.optim.Optimizer) -> None:
            super().__init__(base)
            if make is not None:
                self.kept = make(self)

        def combine(self, g: Any) -> Any:
            write(self, g)
            return g

    return Keeps


def bound(value: Any) -> Any:
    return lambda rule, g: setattr(rule, "kept", value(rule, g))


UNDECLARED = {
    "a float": (lambda rule: 0.0, bound(lambda rule, g: 0.9 * rule.kept + 1)),
    "a tensor that is bound anew": (lambda rule: torch.zeros(()), bound(lambda rule, g: rule.kept + g[0].sum())),
    "a tensor that is written": (lambda rule: torch.zeros(()), lambda rule, g: rule.kept.add_(1)),
    "a vector that is written": (
        lambda rule: [torch.zeros_like(p) for p in rule.params],
        lambda rule, g: torch._foreach_lerp_(rule.kept, g, 0.1),
    ),
    "a dict of vectors": (
        lambda rule: {"m": [torch.zeros_like(p) for p in rule.params]},
        lambda rule, g: rule.kept["m"].__setitem__(0, rule.kept["m"][0] + g[0]),
    ),
    "what appears": (None, bound(lambda rule, g: [x.clone() for x in g])),
    "a deque": (lambda rule: deque(maxlen=3), lambda rule, g: rule.kept.append(1)),
    "an object": (lambda rule: Average(), lambda rule, g: setattr(rule.kept, "value", rule.kept.value + 1)),
    "a generator": (lambda rule: torch.Generator(), lambda rule, g: torch.rand(1, generator=rule.kept)),
    "a generator of Python": (lambda rule: random.Random(0), lambda rule, g: rule.kept.random()),
    "a tensor that is written through .data": (lambda rule: torch.zeros(()), lambda rule, g: rule.kept.data.add_(1)),
    "a module of its own": (lambda rule: nn.Linear(2, 2), lambda rule, g: rule.kept.weight.add_(1)),
    "beside what cannot be pickled": (
        lambda rule: [lambda: None, torch.zeros(())],
        lambda rule, g: rule.kept[1].add_(1),
    ),
}


@pytest.mark.parametrize(("make", "write"), UNDECLARED.values(), ids=UNDECLARED)
def test_state_that_nobody_saves_is_refused_by_name(make: Any, write: Any) -> None:
    model = network()
    rule = kept_in(make, write)(sgd(model))
    rule.state_dict()  # nothing has changed yet
    train(rule, model, range(2))
    for refuse in (rule.state_dict, rule.refuse_undeclared_state):
        with pytest.raises(UserError, match=r"^Keeps.kept: changes during training, .* in self.memory in the const"):
            refuse()


def test_memory_that_is_made_in_a_step_is_refused_by_name() -> None:
    def remember(rule: Rule, g: Any) -> None:
        rule.memory.setdefault("m", [torch.zeros_like(x) for x in g])

    model = network()
    rule = kept_in(None, remember)(sgd(model))
    train(rule, model, range(2))
    with pytest.raises(UserError, match=r"memory\['m'\]"):
        rule.state_dict()


ALLOWED = {
    "a number": (lambda rule: 0.9, lambda rule, g: None),
    "a tensor with NaN": (lambda rule: torch.tensor([1.0, torch.nan]), lambda rule, g: None),
    "a mask": (lambda rule: torch.tensor([True, False]), lambda rule, g: None),
    "the weights": (lambda rule: rule.params, lambda rule, g: None),
    "the weights, bound anew": (lambda rule: rule.params, bound(lambda rule, g: rule.params)),
    "an alias of memory": (
        lambda rule: rule.memory.setdefault("m", [torch.zeros_like(p) for p in rule.params]),
        lambda rule, g: torch._foreach_lerp_(rule.kept, g, 0.1),
    ),
    "scratch": (None, lambda rule, g: rule.room.__setitem__("x", [x.clone() for x in g])),
    "a function": (lambda rule: lambda x: x, lambda rule, g: None),
    "a generator that is not drawn from": (lambda rule: torch.Generator(), lambda rule, g: None),
}


@pytest.mark.parametrize(("make", "write"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_declared_or_stands_still_is_not_refused(make: Any, write: Any) -> None:
    model = network()
    rule = kept_in(make, write)(sgd(model))
    train(rule, model, range(3))
    rule.state_dict()
    twin_model, twin = copy.deepcopy((model, rule))
    train(twin, twin_model, range(3, 5))
    twin.state_dict()


def test_a_rule_may_hold_the_network_that_it_trains() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    rule = kept_in(lambda rule: model, lambda rule, g: None)(sgd(model))
    train(rule, model, range(2))
    rule.state_dict()


# Where a term was taken


class Behind(Rule):
    """One pass, away from the weights."""

    def terms(self, oracle: Any, phase: str) -> Any:
        step = [0.1 * torch.ones_like(p) for p in self.params]
        self.room.setdefault("w", [torch.empty_like(p) for p in self.params])
        with moved(self.params, by=step, backup=self.room["w"]):
            away = oracle.gradient(self.params)._replace(at="w+ε")
        return {"away": away}

    def combine(self, away: Any) -> Any:
        return away


class Both(Behind):
    def terms(self, oracle: Any, phase: str) -> Any:
        return super().terms(oracle, phase) | {"g": oracle.gradient(self.params, update_statistics=False)}

    def combine(self, away: Any, g: Any) -> Any:
        return away


@pytest.mark.parametrize("m", [None, 4])
def test_the_loss_is_that_of_the_first_term_at_w(m: int | None) -> None:
    model = network()
    here, away = (Objective(net, cross_entropy)(*batch()).loss() for net in (model, shifted(model)))
    assert here != away
    for rule_class, loss in ((Both, here), (Behind, away)):
        found = rule_class(sgd(model)).backward(Objective(model, cross_entropy)(*batch()), m=m)
        torch.testing.assert_close(found, loss, rtol=1e-14, atol=0)


def shifted(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.1
    return other
