"""Weights & Biases as a mirror of the record: it may fail, the run may not."""

import os
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any, TypeVar

from sam_repro import limits
from sam_repro.config.schema import Resolved

if TYPE_CHECKING:
    from subprocess import Popen

    from wandb import Run

START_SECONDS = 5  # until a host counts as dead; the offline start then takes its second
FINISH_SECONDS = 15  # until what is not uploaded is left on disk
SECONDS = 20  # until wandb is left behind, whatever it does
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may say, and what it means."""
OF_A_RUN = ("WANDB_DIR", "WANDB_JOB_TYPE", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_TAGS")
"""Settings of the environment that a run makes itself."""

T = TypeVar("T")


class Mirror:
    """Shows rows on a wandb run; its first failure is one line, and then it shows nothing any more.

    Args:
        run: the wandb run; None shows nothing.
        upload: the command that uploads what is only on disk.
        say: prints a line.
    """

    def __init__(self, run: "Run | None" = None, upload: str = "", say: Callable[[str], None] = print) -> None:
        self._run = run
        self._upload = upload
        self._say = say

    def log(self, row: dict[str, Any]) -> None:
        """Show one row of the record; its `step` is the x axis.

        wandb's own step only counts the rows: given ours, it would drop those that a resumed run repeats.
        """
        self._attempt(lambda run: run.log(row))

    def summary(self, values: dict[str, Any]) -> None:
        """Set numbers that stand for the whole run, in place of what their rows left there."""
        self._attempt(lambda run: run.summary.update(values))

    def picture(self, name: str, path: Path) -> None:
        """Show a picture under a name."""

        def show(run: "Run") -> None:
            import wandb

            run.log({name: wandb.Image(str(path))})

        self._attempt(show)

    def finish(self, exit_code: int) -> None:
        """Close the run on wandb, as failed unless the exit code is 0; a second call does nothing."""
        self._attempt(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _attempt(self, act: "Callable[[Run], object]") -> None:
        if (run := self._run) is None:
            return
        try:
            _within(SECONDS, lambda: act(run))
        except (Exception, SystemExit) as error:
            self._run = None
            _tear_down(error)
            self._say(f"wandb: off ({_first_line(error)}); the run goes on; what was saved uploads with {self._upload}")


def mirror_of(home: Path, config: Resolved, identity: str, mode: str) -> Mirror:
    """Open the wandb run of a home, new or again.

    Args:
        home: of the run.
        config: its resolved configuration, which wandb shows.
        identity: the id of its wandb run, from `run.json`.
        mode: as for `open_mirror`.
    """
    return open_mirror(
        mode,
        directory=home,
        run_id=identity,
        name=f"{home.parent.name} {home.name}",
        group=home.parent.name,
        job_type="train",
        tags=[config["choices"][group] for group in ("dataset", "architecture", "augmentation", "optimizer")],
        config=config,
    )


def open_mirror(
    mode: str,
    *,
    directory: Path,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    tags: list[str],
    config: dict[str, Any],
    project: str | None = None,
    say: Callable[[str], None] = print,
) -> Mirror:
    """Open a run on wandb, online or else offline or else not at all, and say in one line which.

    It never asks anything, and never raises but for a wrong mode. `disabled` does not import wandb.

    Args:
        mode: "online" (offline where no key is configured or the host does not answer), "offline", "disabled", or
            "auto": what the environment says in WANDB_MODE or WANDB_DISABLED, else as "online".
        directory: the run's home; wandb writes below `wandb/` in it.
        run_id: the same for every start of the same run.
        name: shown for the run.
        group: shown for the runs that differ by their seed.
        job_type: shown beside it.
        tags: shown as labels.
        config: the resolved configuration, plain values.
        project: on wandb, default what WANDB_PROJECT says, else "sam_repro".
        say: prints a line, default `print`.

    Raises:
        ValueError: if there is no such mode.
    """
    limits.wandb("wandb", mode)
    if mode == "disabled":
        return Mirror()
    heard = _hear_environment(say)
    if (mode := heard if mode == "auto" else mode) == "disabled":
        return Mirror()
    _name_unheard(say)
    upload = f"wandb sync --include-online {shlex.quote(str(directory / 'wandb'))}"
    reason = ""
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            start = partial(
                _start,
                attempt,
                dir=str(directory),
                id=run_id,
                name=name,
                group=group,
                job_type=job_type,
                tags=tags,
                config=config,
                project=project or os.environ.get("WANDB_PROJECT") or "sam_repro",
            )
            run = _within(SECONDS, start)
        except (Exception, SystemExit) as error:
            reason = f" ({_first_line(error)})"
            _tear_down(error)
        else:
            say(f"wandb: offline{reason}; upload with {upload}" if run.offline else f"wandb: online at {run.url}")
            return Mirror(run, upload, say)
    say(f"wandb: off{reason}")
    return Mirror()


def _hear_environment(say: Callable[[str], None]) -> str:
    """The mode that the environment asks for; one that wandb would not understand is said, and put right for it."""
    given = os.environ.get("WANDB_MODE", "")
    if given:
        if given.lower() not in MODES:
            say(f"wandb: WANDB_MODE = {limits.shown(given)}: must be online, offline or disabled; offline is taken")
        os.environ["WANDB_MODE"] = MODES.get(given.lower(), "offline")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    return os.environ.get("WANDB_MODE") or "online"


def _name_unheard(say: Callable[[str], None]) -> None:
    """Say which settings of the environment are the run's own to decide."""
    if unheard := [name for name in OF_A_RUN if os.environ.get(name)]:
        say(f"wandb: {', '.join(unheard)} not heard; the run's home says name, group and id")


def _start(mode: Any, **identity: Any) -> "Run":
    # wandb reports on itself to the host, also without a key; one that does not answer then holds the exit for 10 s
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        mode=mode,
        silent=True,  # for all of wandb, which then takes this for no terminal and cannot ask for a key
        console="off",
        disable_code=True,
        save_code=False,
        init_timeout=START_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    wandb.setup(settings)
    run = wandb.init(resume="allow", reinit="finish_previous", **identity)
    with suppress(AttributeError):  # of a service that somebody else has started
        _limit_wait()
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def _within(seconds: float, act: Callable[[], T]) -> T:
    """What `act` gives, or its error; after so many seconds it is left to itself, in a thread that holds no exit."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(act())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"no answer in {seconds:g} s") from None


def _service() -> "Popen[bytes]":
    """The process of wandb's service. wandb has no public way to it."""
    from wandb.sdk import wandb_setup

    connection: Any = wandb_setup.singleton()._connection
    return connection._proc._process


def _limit_wait() -> None:
    """Let nobody wait for the service longer than `SECONDS`: wandb does at the exit, also for one that stands still."""
    process = _service()
    wait = process.wait

    def wait_or_kill(timeout: float | None = None) -> int:
        try:
            return wait(SECONDS if timeout is None else timeout)
        except TimeoutExpired:
            process.kill()
            return wait()

    if "wait" not in vars(process):  # of an earlier run of the sweep
        process.wait = wait_or_kill  # type: ignore[method-assign]


def _tear_down(error: BaseException) -> None:
    """End wandb's service: it keeps the id of a failed start, and one that died would fail the next run too."""
    if isinstance(error, TimeoutError):
        with suppress(Exception):
            _service().kill()
    with suppress(Exception, SystemExit):  # it would exit as its service did
        import wandb

        wandb.teardown()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
