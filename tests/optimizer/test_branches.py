"""Parts side by side are the parts one after the other, and no branch writes where another one reads or writes."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from buffered import LAYERS, Net, batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sam_repro.optimizer import SAM, Rule, SAMBall
from sam_repro.optimizer.trial import base_of, equal, network, oracle_of, state_of
from sam_repro.oracle import Branches, Objective, Oracle

MakeRule = Callable[..., Rule]
STEPS = 3


def step_of(rule: Rule, oracle: Oracle, branches: Branches | None, m: int = 3) -> list[Tensor]:
    """One step; its loss, and the outputs of each term."""
    seen: list[Tensor] = []

    def look(terms: Any) -> None:
        seen.extend(term.outputs for term in terms.values() if term.outputs is not None)

    seen.append(rule.backward(oracle, m=m, observe=look, branches=branches))
    rule.update()
    return seen


def trained(make_rule: MakeRule, branches: Branches | None, model: nn.Module | None = None, **options: Any) -> Any:
    """Weights, buffers, momentum and what the steps told, after some steps."""
    model = network() if model is None else model
    rule, objective, told = make_rule(base_of(model)), Objective(model, F.cross_entropy, **options), list[Tensor]()
    for step in range(STEPS):
        is_vector = isinstance(model, Net)
        oracle = objective(*batch(step), noise=step) if is_vector else oracle_of(objective, step, rule.needs_rows)
        told += step_of(rule, oracle, branches)
    return [*state_of(model, rule), *told]


class Access(TorchDispatchMode):
    """Notes the memory that each branch reads and writes, and holds it, so that none is given out twice."""

    def __init__(self) -> None:
        super().__init__()
        self.branch: int | None = None
        self.read: dict[int | None, set[int]] = defaultdict(set)
        self.written: dict[int | None, set[int]] = defaultdict(set)
        self.held: list[Any] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        results = operation(*arguments, **keywords)
        declared = operation._schema.arguments
        given = dict(zip((one.name for one in declared), arguments, strict=False)) | keywords
        for one in declared:
            writes = one.alias_info is not None and one.alias_info.is_write
            self._note(self.written if writes else self.read, given.get(one.name))
        if not operation.is_view:
            self._note(self.written, results)
        return results

    def _note(self, places: dict[int | None, set[int]], values: Any) -> None:
        for value in tree_iter(values):
            if isinstance(value, Tensor) and not value._is_zerotensor():
                self.held.append(value.detach())
                places[self.branch].add(value.untyped_storage().data_ptr())


def assert_apart(rule: Rule, oracle: Oracle, m: int = 3) -> None:
    """No branch of the step writes into memory that another branch reads or writes."""
    access, branches = Access(), Branches()
    forked, count = branches._forked, iter(range(99))

    @contextmanager
    def noted(*given: Any) -> Iterator[None]:
        access.branch = next(count)
        with forked(*given):
            yield
        access.branch = None

    branches._forked = noted
    with access:
        step_of(rule, oracle, branches, m)
    numbers = [branch for branch in access.written if branch is not None]
    assert numbers == list(range(-(-len(oracle.targets) // m)))
    for one, other in permutations(numbers, 2):
        shared = access.written[one] & (access.read[other] | access.written[other]) - {0}
        assert not shared, f"branch {one} writes what branch {other} uses"


def test_a_step_in_branches_is_the_step_in_sequence(make_rule: MakeRule) -> None:
    ours, theirs = (trained(make_rule, branches) for branches in (Branches(), None))
    assert equal(ours, theirs)


def test_no_branch_of_a_rule_writes_what_another_uses(make_rule: MakeRule) -> None:
    model = network()
    rule, objective = make_rule(base_of(model)), Objective(model, F.cross_entropy)
    for step in range(2):
        assert_apart(rule, oracle_of(objective, step, rule.needs_rows))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("policy", ["mean", "first"])
@pytest.mark.parametrize("layer", LAYERS)
def test_buffers_move_as_in_sequence(layer: str, policy: str) -> None:
    rule = partial(SAM, rho=0.5)
    ours, theirs = (
        trained(rule, branches, Net(layer), batch_norm_statistics=policy) for branches in (Branches(), None)
    )
    assert equal(ours, theirs)
    model = Net(layer)
    oracle = Objective(model, F.cross_entropy, batch_norm_statistics=policy)(*batch(), noise=0)
    assert_apart(rule(base_of(model)), oracle)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"same_noise": False}, {"batch_norm_statistics": "both"}])
def test_an_objective_is_the_same_in_branches(options: dict[str, Any]) -> None:
    rule = partial(SAMBall, rho=0.5, p=2, ascent_steps=2)
    ours, theirs = (trained(rule, branches, **options) for branches in (Branches(), None))
    assert equal(ours, theirs)


def test_ranks_are_averaged_as_in_sequence() -> None:
    def half(tensors: list[Tensor]) -> list[Tensor]:
        return [x / 2 for x in tensors]

    found = []
    for branches in (Branches(), None):
        model = network()
        rule = SAM(base_of(model), rho=0.5)
        loss = rule.backward(oracle_of(Objective(model, F.cross_entropy), 0), m=3, mean=half, branches=branches)
        found.append([loss, *model.buffers(), *(p.grad for p in rule.params if p.grad is not None)])
    assert equal(*found)


@pytest.mark.parametrize("m", [None, 8])
def test_one_part_is_the_batch(m: int | None) -> None:
    model = network()
    rule = SAM(base_of(model), rho=0.5)
    oracle = oracle_of(Objective(model, F.cross_entropy), 0)
    found = []
    for branches in (Branches(), None):
        rule.base.zero_grad()
        loss = rule.backward(oracle, m=m, branches=branches)
        found.append([loss, *(p.grad for p in rule.params if p.grad is not None)])
    assert equal(*found)


def test_after_an_error_weights_and_buffers_are_where_they_were() -> None:
    class Failing(SAM):
        def combine(self, g: Any, g_s: Any) -> Any:
            raise AssertionError("is not reached")

        def terms(self, oracle: Oracle, phase: str) -> Any:
            terms = super().terms(oracle, phase)
            if not oracle.is_first:
                raise MemoryError
            return terms

    model = network()
    rule = Failing(base_of(model), rho=0.5)
    before = [*model.parameters(), *model.buffers()]
    places, copies = [x.data_ptr() for x in before], [x.detach().clone() for x in before]
    with pytest.raises(MemoryError):
        rule.backward(oracle_of(Objective(model, F.cross_entropy), 0), m=3, branches=Branches())
    after = [*model.parameters(), *model.buffers()]
    assert [x.data_ptr() for x in after] == places
    assert equal([x.detach() for x in after], copies)


def test_several_batches_have_no_branches() -> None:
    model = network()
    objective = Objective(model, F.cross_entropy)
    with pytest.raises(ValueError, match="m = 3: several batches are one here"):
        SAM(base_of(model), rho=0.5).backward(
            oracle_of(objective, 0), oracle_of(objective, 1), m=3, branches=Branches()
        )


def test_streams_fork_from_the_current_one_are_joined_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for CUDA's streams that writes down who waits for whom."""
    log: list[str] = []
    made: list[Any] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device, self.name = device, f"s{len(made)}"
            made.append(self)

        def wait_stream(self, other: Any) -> None:
            log.append(f"{self.name} waits for {other.name}")

    current = [Stream(torch.device("cuda"))]

    @contextmanager
    def on(stream: Any) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    branches = Branches()
    for parts in (2, 1):
        with branches._joined() as forks:
            for part in range(parts):
                with branches._forked(forks, torch.device("cuda")):
                    log.append(f"{current[-1].name} does {part}")
        log.append(f"{current[-1].name} adds")
    two = "s1 waits for s0, s1 does 0, s2 waits for s0, s2 does 1, s0 waits for s1, s0 waits for s2, s0 adds"
    assert ", ".join(log) == f"{two}, s1 waits for s0, s1 does 0, s0 waits for s1, s0 adds"
    assert len(made) == 3
