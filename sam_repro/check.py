"""The door to the contract of a rule: `python -m sam_repro.check optimizer=mine [--config-dir DIR]`."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from collections.abc import Sequence

from sam_repro.config.launch import guard
from sam_repro.config.lines import compose_part
from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError

USAGE = """python -m sam_repro.check optimizer=NAME [--config-dir DIR] [optimizer.key=value …]

Tries what a rule owes, clause by clause, on a small network, in less than a minute. NAME is an option of
configs/optimizer, here or in DIR. A rule that promises something else says so by its traits: see Rule in
sam_repro/optimizer/rule.py. Several, one after the other: -m optimizer=NAME,NAME"""


def main() -> None:
    """Print a line for each clause; the exit code is 0 if all are kept, 1 if one is not, 2 for bad input."""
    sys.exit(guard(lambda: _main(sys.argv[1:])))


def _main(argv: Sequence[str]) -> int:
    if {"--help", "-h"} & set(argv):
        print(USAGE)
        return 0
    if not any(word.startswith("optimizer=") for word in argv):
        raise UserError("optimizer: is missing; say which rule, such as optimizer=sam")
    kept = [_is_kept(words, config) for words, config in compose_part(argv, ("optimizer", "rho"))]
    return 0 if all(kept) else 1


def _is_kept(words: Sequence[str], config: Resolved) -> bool:
    """Whether the rule of a line keeps every clause; a line is printed for each of them."""
    from sam_repro.optimizer import contract, trial
    from sam_repro.run import build

    make = build.make_rule_factory(config)
    with build.refuse_by_key(config, "optimizer"):
        make(trial.base_of(trial.network()))
    print(f"rule    {' '.join(words)}")
    kept = True
    for clause in contract.CLAUSES:
        broken = contract.broken(clause, make)
        kept &= broken is None
        told = (clause.__doc__ or "").strip()
        print(f"ok      {told}" if broken is None else f"broken  {told}\n        {broken}", flush=True)
    return kept


if __name__ == "__main__":
    main()
