"""The door to measuring: `python -m sam_repro.measure run=outputs/runs/…/seed=0 sharpness=hessian`."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sam_repro import limits
from sam_repro.config.checks import contradictions_of_sharpness
from sam_repro.config.launch import guard
from sam_repro.config.lines import compose_part
from sam_repro.config.schema import flat
from sam_repro.config.schema1 import modern
from sam_repro.errors import UserError, refuse_damaged
from sam_repro.run.record import home_of, read_record, read_result
from sam_repro.run.request import Request, describe, find_measurement, make_request, weights_file

HERE = ("data_dir", "download", "device", "threads", "wandb", "progress")
"""Keys that `measure` may change. Those that are not given stay as in the run."""

HELP = """Measure a finished run:  python -m sam_repro.measure run=<home> sharpness=hessian checkpoint=best
With settings:           python -m sam_repro.measure run=<home> sharpness=luong2024 sharpness.solver=power
Several:                 python -m sam_repro.measure -m run=<home>,<home> sharpness=lambda_max,worst_case

run         the home of a run, outputs/runs/…/seed=…
sharpness   a measure, an option of configs/sharpness (default lambda_max); sharpness.key=value sets what its file says
--trust     build a network or data set of one's own that the run names: its code is run
checkpoint  last (default, but for luong2024) or best (by validation error; last where a run has none)
The run's own data and device are taken, unless said otherwise: """ + ", ".join(HERE)


def main() -> None:
    """Measure what the command line says; the exit code is 0 done, 1 failed, 2 bad input, 3 busy, 128 + n signal n."""
    sys.exit(guard(_main))


def _main() -> int:
    argv = sys.argv[1:]
    if {"--help", "-h"} & set(argv):
        print(HELP)
        return 0
    trust = "--trust" in argv
    requests = _requests([word for word in argv if word != "--trust"])
    if len(requests) == 1:
        return _task(*requests[0], trust)
    worst = 0
    for request in requests:
        if (code := guard(partial(_task, *request, trust))) >= 128:
            return code
        worst = max(worst, min(code, 1))
    return worst


def _requests(argv: list[str]) -> list[tuple[Request, dict[str, Any]]]:
    """The requests of a command line, with the runs' configurations; all are checked before the first is measured."""
    given = [word for word in argv if word.startswith("run=")]
    if len(given) != 1:
        raise UserError("run: give one run=<home>, such as run=outputs/runs/main/…/seed=0, or several with -m run=a,b")
    runs = given[0].removeprefix("run=").split(",")
    if len(runs) > 1 and not {"-m", "--multirun"} & set(argv):
        raise UserError(f"{given[0]}: several runs are a sweep; add -m")
    rest = [_in_group(word) for word in argv if word not in given]
    cells = compose_part(rest, ("sharpness", *HERE))
    requests = [_read_request(Path(run), config, words) for run in runs for words, config in cells]
    _refuse_settings([request for request, _ in requests if find_measurement(request) is None])
    return requests


def _in_group(word: str) -> str:
    """`checkpoint` is short for `sharpness.checkpoint`."""
    return f"sharpness.{word}" if word.startswith("checkpoint=") else word


def _read_request(run: Path, config: dict[str, Any], line: list[str]) -> tuple[Request, dict[str, Any]]:
    run = home_of(run)
    if not (run / "result.json").exists():
        raise UserError(f"run = {limits.shown(str(run))}: no finished run; result.json is missing{_meant(run)}")
    with refuse_damaged(run / "result.json"):
        result = read_result(run)
        of_run = modern(result["config"])
        request = make_request(config, run, result)
        done, weights = find_measurement(request), weights_file(request)
    if request.is_nothing:
        raise UserError("sharpness = none: measures nothing; choose a measure, such as sharpness=lambda_max")
    if findings := list(contradictions_of_sharpness(flat(config), of_run["rho"])):
        raise UserError("\n".join(findings))
    if request.every is not None:
        raise UserError(f"sharpness.every = {request.every}: is for training; a finished run has one set of weights")
    if not done and not weights.is_file():
        raise UserError(f"{weights}: missing; add resume=false to set this home aside and run again")
    here = {key: config[key] for key in HERE if any(word.startswith(f"{key}=") for word in line)}
    return request, of_run | {"progress": config["progress"]} | here


def _refuse_settings(requests: list[Request]) -> None:
    """Refuse what a measure's constructor refuses, before data are loaded; only here torch is needed."""
    if not requests:
        return
    from sam_repro.run.dry_build import measure_findings

    for request in requests:
        if findings := measure_findings(request.settings):
            raise UserError("\n".join(findings))


def _meant(run: Path) -> str:
    """A hint for a folder that is not a run: the finished runs below it."""
    above = ("", "*/", "*/*/", "runs/*/*/", "outputs/runs/*/*/")
    found = (file for folder in above for file in run.glob(f"{folder}seed=*/result.json"))
    below: list[str] = []
    with suppress(OSError):  # a folder that has gone, or cannot be read
        below += [str(file.parent) for file in islice(found, 3)]
    return f"; there are: {', '.join(below)}" if below else "; the last lines of a run name its home"


def _task(request: Request, config: dict[str, Any], trust: bool) -> int:
    if file := find_measurement(request):
        content = read_record(file)
        print(f"done       {file}")
        print(describe(request.name, content["sharpness"][request.name] if file.name == "result.json" else content))
        return 0
    from sam_repro.run.sharpness import measure_finished  # torch: not before the command line has been checked

    measure_finished(request, config, trust)
    return 0


if __name__ == "__main__":
    main()
