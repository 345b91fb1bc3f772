"""The door to the contract, and rules of which each breaks one clause."""

from pathlib import Path
from typing import Any

import pytest
import torch
from called import command

from sam_repro import check
from sam_repro.optimizer import SAM, SGD, Cost, Rule, Term, TwoPass, contract
from sam_repro.optimizer.contract import CLAUSES, broken
from sam_repro.vectors import moved, norm, ratio, scaled


class Forgetful(SAM):
    """Moves the weights and not back."""

    def terms(self, oracle: Any, phase: str) -> Any:
        g = oracle.gradient(self.params)
        with torch.no_grad():
            torch._foreach_add_(self.params, self.climb(g.vector))
        return {"g": g, "g_s": oracle.gradient(self.params, update_statistics=False)}


class Careless(SAM):
    """Moves back, but not after an error."""

    def terms(self, oracle: Any, phase: str) -> Any:
        g = oracle.gradient(self.params)
        saved = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            torch._foreach_add_(self.params, self.climb(g.vector))
        g_s = oracle.gradient(self.params, update_statistics=False)
        with torch.no_grad():
            torch._foreach_copy_(self.params, saved)
        return {"g": g, "g_s": g_s}


class Offset(SAM):
    def combine(self, g: Any, g_s: Any) -> Any:
        return torch._foreach_mul(g_s, 1.01)


class Deaf(SAM):
    """Reads its radius once."""

    def __init__(self, base: Any, rho: float) -> None:
        super().__init__(base, rho)
        self.once = rho

    def ascent(self, g: Any, w: Any) -> Any:
        return scaled(g, torch.tensor(self.once, dtype=torch.float64))


class Counts(TwoPass):
    """Climbs along what is new in g, over all parameters, whichever move."""

    def __init__(self, base: Any, rho: float = 0.05) -> None:
        super().__init__(base, rho)
        self.memory["m"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def own(self) -> Any:
        return self.memory["m"]

    def ascent(self, g: Any, w: Any) -> Any:
        d = list(torch._foreach_sub(g, self.own()))
        return scaled(d, ratio(self.rho, norm(d)))

    def combine(self, g: Any, g_s: Any) -> Any:
        return g_s

    def remember(self, g: Any, g_s: Any) -> None:
        torch._foreach_copy_(self.memory["m"], g)


class CountsWhatMoves(Counts):
    def own(self) -> Any:
        return self.perturbed(self.memory["m"])


class Away(Rule):
    """Takes its only gradient elsewhere, and says that it was taken at w."""

    at = "w"

    def terms(self, oracle: Any, phase: str) -> Any:
        self.room.setdefault("w", [torch.empty_like(p, requires_grad=False) for p in self.params])
        by = [torch.full_like(p, 0.1) for p in self.params]
        with moved(self.params, by=by, backup=self.room["w"]):
            return {"g": oracle.gradient(self.params)._replace(at=self.at)}

    def combine(self, g: Any) -> Any:
        return g


class Twice(SAM):
    """Moves the running statistics in both passes."""

    def at_top(self, oracle: Any, g: Any) -> Term:
        with moved(self.params, by=self.climb(g), backup=self.backup()):
            return oracle.gradient(self.params)._replace(at="w+ε")


class Dear(SAM):
    def cost(self, step: int) -> Cost:
        return Cost(passes=1)


class Decoupled(TwoPass):
    """The base takes g, and beside it the weights move along g_s − g, kept in the room from backward to update."""

    def combine(self, g: Any, g_s: Any) -> Any:
        return g

    def remember(self, g: Any, g_s: Any) -> None:
        apart = self.room.setdefault("apart", [torch.empty_like(p, requires_grad=False) for p in self.params])
        torch._foreach_copy_(apart, g_s)
        torch._foreach_sub_(apart, g)

    @torch.no_grad()
    def move(self) -> None:
        super().move()
        for group in self.base.param_groups:
            torch._foreach_add_(self.params, self.room["apart"], alpha=-0.9 * group["lr"])


class Average(TwoPass):
    """An average of g, in memory."""

    def __init__(self, base: Any, rho: float = 0.05) -> None:
        super().__init__(base, rho)
        self.memory["m"] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def combine(self, g: Any, g_s: Any) -> Any:
        return torch._foreach_add(g_s, self.memory["m"])

    def remember(self, g: Any, g_s: Any) -> None:
        torch._foreach_lerp_(self.memory["m"], g_s, 0.1)


class Writes(Average):
    is_base_at_rho_zero = False

    def combine(self, g: Any, g_s: Any) -> Any:
        self.remember(g, g_s)
        return super().combine(g, g_s)


class Scales(SAM):
    """Writes into what `combine` is given, which `remember` and diagnostics read."""

    def combine(self, g: Any, g_s: Any) -> Any:
        torch._foreach_mul_(g_s, 2)
        return g_s


class Hidden(SAM):
    """Keeps an average where nobody saves it."""

    kept: Any = None

    def combine(self, g: Any, g_s: Any) -> Any:
        self.kept = g_s if self.kept is None else torch._foreach_lerp(self.kept, g_s, 0.5)
        return torch._foreach_add(g_s, self.kept)


class Rebinds(Average):
    def remember(self, g: Any, g_s: Any) -> None:
        self.memory["m"] = torch._foreach_lerp(self.memory["m"], g_s, 0.1)


class Aliases(Average):
    def combine(self, g: Any, g_s: Any) -> Any:
        return g_s if self.steps % 2 == 0 else self.memory["m"]


class Fixed(SAM):
    """Looks its parameters up once."""

    def __init__(self, base: Any, rho: float = 0.05) -> None:
        super().__init__(base, rho)
        self.those = self.params

    def terms(self, oracle: Any, phase: str) -> Any:
        return {"g": (g := oracle.gradient(self.those)), "g_s": g}


class Moves(SGD):
    """Moves what has no gradient."""

    def move(self) -> None:
        super().move()
        with torch.no_grad():
            torch._foreach_mul_(self.params, 0.99)


class Reads(SGD):
    def combine(self, g: Any) -> Any:
        return g if float(g[0].sum()) > -1e9 else []


class Named(SGD):
    """Other names for another part of the batch."""

    count = 0

    def terms(self, oracle: Any, phase: str) -> Any:
        type(self).count += 1
        return {f"g{type(self).count}": oracle.gradient(self.params)}

    def combine(self, **vectors: Any) -> Any:
        return next(iter(vectors.values()))


class Undecayed(SGD):
    """Takes only gradients that were given without decay, and does not say so."""

    def combine(self, g: Any) -> Any:
        return [x * (x.shape != (2,)) for x in g]


BROKEN = {
    "its_names_are_those_of_combine": Named,
    "its_weights_come_back": Forgetful,
    "its_weights_come_back_after_an_error": Careless,
    "its_base_steps_alone_at_rho_zero": Offset,
    "its_radius_is_the_schedules": Deaf,
    "its_perturbation_is_of_what_moves": Counts,
    "its_loss_is_clean": Away,
    "its_statistics_move_once": Twice,
    "its_cost_is_declared": Dear,
    "its_combination_is_pure": Writes,
    "it_goes_on_after_a_save": Hidden,
    "it_declares_its_state": Hidden,
    "its_memory_follows_the_parameters": Fixed,
    "it_leaves_other_parameters_alone": Moves,
    "its_gradient_may_be_clipped": Aliases,
    "its_addresses_stay": Rebinds,
    "it_says_whether_decay_may_be_in_the_loss": Undecayed,
}


def made(rule: type[Rule]) -> Any:
    default = {"rho": 0.05} if issubclass(rule, TwoPass) else {}
    return lambda base, **settings: rule(base, **(default | settings))


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_breaks_a_clause_hears_of_it(name: str) -> None:
    said = broken(getattr(contract, name), made(BROKEN[name]))
    assert said is not None
    assert "\n" not in said


def test_a_read_by_the_host_is_a_broken_clause() -> None:
    assert "the host waits for the device" in str(broken(contract.its_addresses_stay, made(Reads)))


def test_a_vector_that_is_written_into_is_a_broken_clause() -> None:
    assert "writes into a vector" in str(broken(contract.its_combination_is_pure, made(Scales)))


@pytest.mark.parametrize("trait", ["is_base_at_rho_zero", "first_loss_is_clean", "capturable"])
def test_a_trait_takes_a_promise_back(trait: str) -> None:
    rule, clause = {
        "is_base_at_rho_zero": (Offset, contract.its_base_steps_alone_at_rho_zero),
        "first_loss_is_clean": (Away, contract.its_loss_is_clean),
        "capturable": (Reads, contract.its_addresses_stay),
    }[trait]
    assert broken(clause, made(rule)) is not None
    assert broken(clause, made(type("Honest", (rule,), {trait: False}))) is None


def test_a_rule_whose_memory_enters_the_ascent_keeps_every_clause() -> None:
    assert [clause.__name__ for clause in CLAUSES if broken(clause, made(CountsWhatMoves))] == []


def test_a_rule_that_moves_the_weights_beside_the_base_keeps_every_clause() -> None:
    assert [clause.__name__ for clause in CLAUSES if broken(clause, made(Decoupled))] == []


def test_a_rule_with_memory_keeps_every_clause_but_that_of_rho() -> None:
    found = {clause.__name__ for clause in CLAUSES if broken(clause, made(Average))}
    assert found == {"its_base_steps_alone_at_rho_zero"}  # it promises to be the base, and is not


MINE = """from sam_repro.optimizer import SAM, SGD
class Good(SAM): pass
class Bad(SGD):
    def combine(self, g):
        self.m = [x.clone() for x in g]
        return g
"""


def option(folder: Path, name: str, rule: str, rho: bool) -> None:
    radius = "rho: 0.05\n" if rho else ""
    inner = "  rho: ${rho}\n" if rho else ""
    text = f"# @package _global_\n{radius}optimizer:\n  _target_: {rule}\n  _partial_: true\n{inner}"
    (folder / "optimizer").mkdir(exist_ok=True)
    (folder / "optimizer" / f"{name}.yaml").write_text(text)


def test_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_of_check.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    option(tmp_path, "good", "rules_of_check.Good", rho=True)
    option(tmp_path, "bad", "rules_of_check.Bad", rho=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    said = command(check.main, folder, "-m", "optimizer=good,bad", "--config-dir", str(tmp_path))
    assert (said.code, said.err) == (1, "")
    good, bad = said.out.removeprefix("rule    optimizer=good\n").split("rule    optimizer=bad\n")
    assert [line.split()[0] for line in good.splitlines()] == ["ok"] * len(CLAUSES)
    assert [line.split()[0] for line in bad.splitlines() if not line.startswith(" ")].count("broken") >= 1
    assert "broken  Nothing but `memory`" in said.out
    assert "Bad.m: changes during training" in said.out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "optimizer: is missing; say which rule, such as optimizer=sam"),
        (["optimizer=same"], "no such option; did you mean sam?"),
        (["optimizer=sam", "seed=1"], "seed"),
        (["optimizer=sam,sgd"], "several values are a sweep; add -m"),
        (["--cfg", "job", "optimizer=sam"], "--cfg: is not for this command"),
        (["optimizer=sam", "optimizer.perturb=some"], "perturb = some: must be one of all, no_norm, only_norm"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    said = command(check.main, tmp_path, *words)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
