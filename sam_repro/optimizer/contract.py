"""What a rule owes, as functions: the tests ask every option, and `python -m sam_repro.check` asks a rule of yours.

A clause takes a function (base, **settings) → rule, asks the rule's traits what it promises, and raises `Broken` where
that is not kept. It starts warm: the base has momentum, and the memory is filled.
"""

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sam_repro.errors import UserError
from sam_repro.optimizer.sgd import SGD
from sam_repro.optimizer.terms import Terms
from sam_repro.optimizer.trial import (
    BATCH,
    STEPS,
    WARM,
    Broken,
    HostRead,
    Make,
    Read,
    addresses_of,
    base_of,
    copied,
    count_cost,
    equal,
    network,
    oracle_of,
    require,
    state_of,
    train,
    warm,
)
from sam_repro.optimizer.two_pass import Perturbing
from sam_repro.oracle import Objective


def broken(clause: Callable[[Make], None], make: Make) -> str | None:
    """What a rule does not keep of a clause, or None; any error of the rule is one."""
    try:
        clause(make)
    except Broken as error:
        return str(error)
    except Exception as error:  # whatever code of somebody else raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def its_names_are_those_of_combine(make: Make) -> None:
    """Every part of a batch gives the same terms, and `combine` takes them by name."""
    rule, model = warm(make)
    objective = Objective(model, cross_entropy)
    for step in range(WARM, STEPS):
        oracle = oracle_of(objective, step, rule.needs_rows)
        names = [list(rule.terms(part, rule.phase(step))) for part in oracle.parts(4)]
        require(names[0] == names[1], f"terms: {names[0]} of one part and {names[1]} of another; give the same names")
        require(rule.phase(step) == rule.phase(step), "phase: must be a pure function of the step")
        train(rule, model, range(step, step + 1))


def its_weights_come_back(make: Make) -> None:
    """`backward` leaves weights, flags and modes bitwise as they were."""
    for m in (None, 3):
        rule, model = warm(make)
        objective = Objective(model, cross_entropy)
        before = [p.detach().clone() for p in model.parameters()]
        flags = [p.requires_grad for p in model.parameters()]
        rule.backward(oracle_of(objective, WARM, rule.needs_rows), m=m)
        require(
            equal([p.detach() for p in model.parameters()], before),
            "backward: moved the weights; move them inside of `with moved(self.params, by=ε, backup=…)`",
        )
        require(
            [p.requires_grad for p in model.parameters()] == flags and model.training,
            "backward: changed requires_grad or the mode of the network; put them back",
        )


def its_weights_come_back_after_an_error(make: Make) -> None:
    """An exception in any pass leaves the weights and the count of steps."""
    rule, model = warm(make)
    passes = int(rule.cost(WARM).passes)
    objective = Objective(model, cross_entropy)
    before = [p.detach().clone() for p in model.parameters()]
    for fail_at in range(passes):
        seen: list[int] = []

        def hook(*_: Any, seen: list[int] = seen, fail_at: int = fail_at) -> None:
            seen.append(1)
            if len(seen) > fail_at:
                raise MemoryError

        handle = model[6].register_forward_pre_hook(hook)
        try:
            rule.step(oracle_of(objective, WARM, rule.needs_rows))
        except MemoryError:
            pass
        finally:
            handle.remove()
        require(
            equal([p.detach() for p in model.parameters()], before) and rule.steps == WARM,
            f"backward: an error in pass {fail_at + 1} left the weights away; `with moved(…)` puts them back",
        )


def its_base_steps_alone_at_rho_zero(make: Make) -> None:
    """With rho = 0 every step is bitwise the base's (`is_base_at_rho_zero`)."""
    rule, _ = warm(make)
    if rule.rho is None or not rule.is_base_at_rho_zero:
        return
    ours, theirs = network(), network()
    rule, plain = make(base_of(ours), rho=0.0), SGD(base_of(theirs))
    losses = [train(rule, ours, range(STEPS)), train(plain, theirs, range(STEPS))]
    require(
        equal(*losses) and equal(state_of(ours, rule), state_of(theirs, plain)),
        "rho = 0: is not the base alone; if that is meant, say is_base_at_rho_zero = False",
    )


def its_radius_is_the_schedules(make: Make) -> None:
    """`rho` is a tensor that matters and that a schedule may fill."""
    rule, model = warm(make)
    if rule.rho is None:
        return
    rho = float(rule.rho)
    twin = network()
    other = make(base_of(twin), rho=0.0)
    assert other.rho is not None
    other.rho.fill_(rho)
    train(other, twin, range(WARM))
    require(
        equal(state_of(model, rule), state_of(twin, other)),
        "rho: filled later it is not the rho of the constructor; read self.rho in every step",
    )
    _, unmoved = warm(make, rho=0.0)
    same = equal(list(model.parameters()), list(unmoved.parameters()))
    require(not same or rho == 0, "rho: another one gives the same weights; use self.rho in ascent or combine")


def its_perturbation_is_of_what_moves(make: Make) -> None:
    """What `perturb` leaves out does not count in ε: neither its gradient nor what is remembered of it."""
    for perturb in ("no_norm", "only_norm"):
        rule, _ = warm(make)
        if not isinstance(rule, Perturbing):
            return
        rule.perturb = perturb
        g = [torch.ones_like(p, requires_grad=False) for p in rule.params]
        factors = [3 - 2 * x for x in rule.perturbed(g)]  # 1 where the weights move
        torch.manual_seed(0)
        before = rule.climb(g)
        for vector in [g, *(value for value in rule.memory.values() if isinstance(value, list))]:
            torch._foreach_mul_(vector, factors)
        for p, factor in zip(rule.params, factors, strict=True):
            for slot in rule.base.state[p].values():
                slot.mul_(factor)
        torch.manual_seed(0)
        require(equal(before, rule.climb(g)), "perturb: in ascent take self.perturbed(a) of your own vectors")


def its_loss_is_clean(make: Make) -> None:
    """The loss that a step returns is L(w), a 0-dim tensor that stays (`first_loss_is_clean`)."""
    model = network(dropout=0.0)
    rule = make(base_of(model))
    kept: list[Tensor] = []
    for step in range(STEPS):
        oracle = oracle_of(Objective(copy.deepcopy(model), cross_entropy), step)
        clean = cross_entropy(oracle.objective.model(oracle.inputs), oracle.targets).detach()
        (loss,) = train(rule, model, range(step, step + 1))
        require(loss.shape == () and not loss.requires_grad, "loss: must be a 0-dim tensor without a graph")
        close = bool((loss - clean).abs() <= 1e-12 * clean.abs())
        require(
            close or not rule.first_loss_is_clean,
            f"loss: of step {step} is {float(loss):.6g}, and L(w) is {float(clean):.6g}; give a term that was taken "
            'elsewhere at="w+ε", or say first_loss_is_clean = False',
        )
        kept.append(loss)
    copies = [loss.clone() for loss in kept]
    train(rule, model, range(STEPS, STEPS + 1))
    require(equal(kept, copies), "loss: a later step wrote over it; return a fresh tensor")


def its_statistics_move_once(make: Make) -> None:
    """Running statistics move as in one forward, at w where the loss is clean."""
    rule, model = warm(make)
    for step in range(WARM, STEPS):
        twin = copy.deepcopy(model)
        twin(oracle_of(Objective(twin, cross_entropy), step).inputs)
        train(rule, model, range(step, step + 1))
        require(
            model[1].num_batches_tracked == twin[1].num_batches_tracked,
            "running statistics: move more or less often than once a step; ask all but one pass with "
            "update_statistics=False",
        )
        require(
            equal(list(model.buffers()), list(twin.buffers())) or not rule.first_loss_is_clean,
            "running statistics: are not those at w; ask the passes at other weights with update_statistics=False",
        )


def its_cost_is_declared(make: Make) -> None:
    """Passes and products are as `cost` says."""
    for m in (None, 3):
        rule, model = warm(make)
        for step in range(WARM, STEPS):
            with count_cost(model) as cost:
                train(rule, model, range(step, step + 1), m)
            told = rule.cost(step)
            forwards = cost["passes"] - (told.passes + told.forwards)
            require(
                abs(forwards) < 1e-9 and abs(cost["products"] - told.products) < 1e-9,
                f"cost: step {step} took {cost['passes']:g} passes or forwards and {cost['products']:g} products, and "
                f"cost({step}) says {told}",
            )


def its_combination_is_pure(make: Make) -> None:
    """`combine` writes nothing: of the same averaged vectors it makes the gradient again."""
    for m in (None, 4):
        rule, model = warm(make)
        seen: list[Terms] = []
        twin = copy.deepcopy(rule)
        oracle = oracle_of(Objective(model, cross_entropy), WARM, rule.needs_rows)
        rule.backward(oracle, m=m, observe=lambda terms, seen=seen: seen.append(copied(terms)))  # type: ignore[misc]
        vectors = {name: term.vector for name, term in seen[0].items()}
        given = [p.grad is not None for p in rule.params]
        ours = [p.grad for p in rule.params if p.grad is not None]
        for _ in range(2):
            own = {name: [x.clone() for x in vector] for name, vector in vectors.items()}
            with torch.no_grad():
                combined = twin.combine(**own)
            require(
                equal(ours, [x for x, g in zip(combined, given, strict=True) if g]),
                "combine: gives another gradient from the same vectors; write what lasts in remember()",
            )
            require(
                all(equal(own[name], vector) for name, vector in vectors.items()),
                "combine: writes into a vector that it was given; make a new one",
            )


def its_parts_are_averaged(make: Make) -> None:
    """With m the terms of the parts are averaged by size and combined once, and m = B is the batch."""
    rule, model = warm(make)
    twin, other = copy.deepcopy((model, rule))
    train(rule, model, range(WARM, WARM + 2), BATCH)
    train(other, twin, range(WARM, WARM + 2))
    require(
        equal(list(model.parameters()), list(twin.parameters())),
        "m = the whole batch: is not the batch; take all from the oracle that terms() is given",
    )


def it_goes_on_after_a_save(make: Make) -> None:
    """Saved, loaded into a new one and continued, it ends bitwise where an undisturbed one does."""
    straight = network()
    whole = make(base_of(straight))
    train(whole, straight, range(STEPS))
    for stop in range(1, STEPS - 1, 2):
        model = network()
        rule = make(base_of(model))
        train(rule, model, range(stop))
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "rule": rule.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        model = network(seed=1)
        rule = make(base_of(model))
        model.load_state_dict(saved["model"])
        rule.load_state_dict(saved["rule"])
        train(rule, model, range(stop, STEPS))
        require(
            equal(state_of(model, rule), state_of(straight, whole)),
            f"state: stopped after {stop} steps and resumed it ends elsewhere; keep what lasts in self.memory",
        )


def it_declares_its_state(make: Make) -> None:
    """Nothing but `memory`, `room`, `rho` and `steps` changes from step to step."""
    rule, model = warm(make)
    train(rule, model, range(WARM, STEPS))
    try:
        rule.refuse_undeclared_state()
    except UserError as error:
        raise Broken(str(error)) from None


def its_memory_follows_the_parameters(make: Make) -> None:
    """Layers may be frozen, unfrozen and added during training, and a frozen one stands still."""
    rule, model = warm(make)
    frozen = [p.detach().clone() for p in model[6].parameters()]
    model[6].requires_grad_(False)
    train(rule, model, range(WARM, WARM + 2))
    require(
        equal([p.detach() for p in model[6].parameters()], frozen),
        "a frozen layer moved: take self.params anew in every step",
    )
    model[6].requires_grad_(True)
    model[5].requires_grad_(True)
    rule.base.add_param_group({"params": list(model[5].parameters()), "norm": False, "param_names": ["w", "b"]})
    train(rule, model, range(WARM + 2, STEPS))
    require(
        all(bool(p.isfinite().all()) for p in model.parameters()),
        "parameters that appear later made numbers that are not finite: their memory is 0",
    )


def it_leaves_other_parameters_alone(make: Make) -> None:
    """What the loss does not depend on has no gradient and is not moved."""
    rule, model = warm(make)
    idle = [model.get_parameter("unused"), *model[5].parameters()]
    before = [p.detach().clone() for p in idle]
    train(rule, model, range(WARM, STEPS))
    require(
        all(p.grad is None for p in idle) and equal([p.detach() for p in idle], before),
        "a parameter without a gradient moved: combine must give 0 where the vectors are 0",
    )


def its_gradient_may_be_clipped(make: Make) -> None:
    """What it keeps is not the tensors that it hands out: they may be written in place."""
    ends = []
    for in_place in (True, False):
        rule, model = warm(make)
        objective = Objective(model, cross_entropy)
        for step in range(WARM, STEPS):
            rule.backward(oracle_of(objective, step, rule.needs_rows))
            for p in rule.params:
                if p.grad is not None and in_place:
                    p.grad.mul_(0.5)
                elif p.grad is not None:
                    p.grad = p.grad * 0.5
            rule.update()
        ends.append([p.detach() for p in model.parameters()])
    require(equal(*ends), "memory: is the gradient itself, which is clipped in place; give a copy in combine")


def its_addresses_stay(make: Make) -> None:
    """Weights, momentum and memory stay where they are, and the host reads no tensor (`capturable`)."""
    rule, model = warm(make)
    if not rule.capturable:
        return
    before = addresses_of(rule, model)
    try:
        with HostRead():
            train(rule, model, range(WARM, STEPS))
    except Read as read:
        raise Broken(f"{read}: the host waits for the device; stay on tensors, or say capturable = False") from None
    require(
        addresses_of(rule, model) == before,
        "memory: was bound to other tensors; write in place by copy_, or say capturable = False",
    )


def it_says_whether_decay_may_be_in_the_loss(make: Make) -> None:
    """Decay in the loss is refused, or reaches the gradient (`allows_decay_in_loss`)."""
    rule, model = warm(make)
    objective = Objective(model, cross_entropy, weight_decay=0.5)
    try:
        rule.backward(oracle_of(objective, WARM, rule.needs_rows))
    except ValueError:
        require(not rule.allows_decay_in_loss, "weight decay in the loss: raises, and allows_decay_in_loss is True")
        return
    p = model.get_parameter("unused")
    require(
        p.grad is not None and bool((p.grad * p).sum() > 0),
        "weight decay in the loss: does not reach the gradient; say allows_decay_in_loss = False",
    )


CLAUSES: tuple[Callable[[Make], None], ...] = (
    its_names_are_those_of_combine,
    its_weights_come_back,
    its_weights_come_back_after_an_error,
    its_base_steps_alone_at_rho_zero,
    its_radius_is_the_schedules,
    its_perturbation_is_of_what_moves,
    its_loss_is_clean,
    its_statistics_move_once,
    its_cost_is_declared,
    its_combination_is_pure,
    its_parts_are_averaged,
    it_goes_on_after_a_save,
    it_declares_its_state,
    its_memory_follows_the_parameters,
    it_leaves_other_parameters_alone,
    its_gradient_may_be_clipped,
    its_addresses_stay,
    it_says_whether_decay_may_be_in_the_loss,
)
