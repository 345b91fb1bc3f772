"""The door to the contract of a rule: `python -m sam_repro.check optimizer=mine [--config-dir DIR]`."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from collections.abc import Sequence

from sam_repro.config.command_line import read_command
from sam_repro.config.launch import guard
from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError

USAGE = """python -m sam_repro.check optimizer=NAME [--config-dir DIR] [optimizer.key=value …]

Tries what a rule owes, clause by clause, on a small network, in less than a minute. NAME is an option of
configs/optimizer, here or in DIR. A rule that promises something else says so by its traits: see Rule in
sam_repro/optimizer/rule.py."""


def main() -> None:
    """Print a line for each clause; the exit code is 0 if all are kept, 1 if one is not, 2 for bad input."""
    sys.exit(guard(lambda: _main(sys.argv[1:])))


def _main(argv: Sequence[str]) -> int:
    if {"--help", "-h"} & set(argv):
        print(USAGE)
        return 0
    arguments = read_command(argv, ("optimizer", "rho")).arguments
    if not any(word.startswith("optimizer=") for word in arguments.overrides):
        raise UserError("optimizer: is missing; say which rule, such as optimizer=sam")
    config = compose_line(arguments.overrides, arguments.config_dir)
    from sam_repro.optimizer import contract, trial
    from sam_repro.run import build

    make = build.make_rule_factory(config)
    with build.refuse_by_key(config, "optimizer"):
        make(trial.base_of(trial.network()))
    kept = True
    for clause in contract.CLAUSES:
        broken = contract.broken(clause, make)
        kept &= broken is None
        told = (clause.__doc__ or clause.__name__).strip()  # python -OO drops texts
        print(f"ok      {told}" if broken is None else f"broken  {told}\n        {broken}", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    main()
