"""What the doors share: one run or a sweep, an exit code, one message for every mistake."""

import codecs
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from functools import partial

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sam_repro.config.command_line import Command, read_command
from sam_repro.config.compose import Override, explain
from sam_repro.config.lines import Line, check_config, compose_sweep, compose_unresolved, tell_idle
from sam_repro.config.options import config_dir
from sam_repro.config.schema import Resolved
from sam_repro.config.workers import Sweep, open_sweep
from sam_repro.errors import Busy, Failure, Stopped, UserError, first_line, is_out_of_memory
from sam_repro.limits import shown
from sam_repro.signals import handle_signals, raise_stopped

Task = Callable[[Resolved, list[str]], int]
DryBuild = Callable[[Sequence[Resolved]], list[str]]

ConfigStore.instance().store(  # a launcher of Hydra composes only the number of a line, and writes nothing
    name="line",
    node={
        "defaults": ["_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
        "line": 0,
        "hydra": {"run": {"dir": "."}, "sweep": {"dir": "outputs/.sweeps", "subdir": "."}, "output_subdir": None},
    },
)


WIDEST = 1500  # characters of a line of a message: somebody's text may stand in it
SPELLINGS = {"±": "+-", "−": "-", "—": "-", "…": "...", "≤": "<=", "≥": ">=", "Δ": "delta", "ρ": "rho", "λ": "lambda"}
"""What a stream gets that cannot encode a sign; of any other sign it gets a question mark."""


def spell(error: UnicodeError) -> tuple[str, int]:
    """What stands in the place of a sign, and where the text goes on: a handler of encoding errors."""
    assert isinstance(error, UnicodeEncodeError)
    return SPELLINGS.get(error.object[error.start], "?"), error.start + 1


codecs.register_error("spelling", spell)


def guard(action: Callable[[], int]) -> int:
    """Exit code of an action: 0 done, 1 crash, 2 user error, 3 busy, 128 + n stopped by signal n; one message each."""
    _prepare_streams()
    # read when torch is imported: threads that wait for each other would spin, and slow a shared core down tenfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with handle_signals(raise_stopped):
            _refuse_deleted_folder()
            return action()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return _say(error, 2)
    except Busy as error:
        return _say(error, 3)
    except Stopped as stop:
        return _say(stop, 128 + stop.signal)
    except Failure as error:
        return _say(error, 1)
    except BrokenPipeError:  # the reader of our lines has gone, and would see no traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is None:
            return _say(Failure(f"{error.strerror or error}; what was saved is kept, and the same command goes on"), 1)
        where = f"{shlex.quote(str(error.filename))}: {error.strerror}"
        return _say(UserError(f"{where}; name another folder, or start in one that can be used"), 2)
    except UnicodeEncodeError as error:
        return _say(UserError(f"{shown(error.object)}: is no path in this locale; set PYTHONUTF8=1"), 2)
    except Exception as error:
        if remedy := _remedy(error):
            return _say(remedy, 1)
        traceback.print_exc()
        return 1


def launch(task: Task, dry_build: DryBuild) -> list[Resolved]:
    """Check the command line, compose every line of it once, build all of them dry, and call the task with each.

    A single run ends the process with the task's exit code. A line of a sweep that fails does not end the sweep, one
    that is stopped by a signal does.

    Args:
        task: (resolved and checked configuration, words) → exit code; a function of a module, so that a launcher can
            send it to another process.
        dry_build: configurations → what constructors refuse of them, one line each; none if all may run.

    Returns:
        The configurations of a sweep's lines; nothing where something was only shown (`--cfg job`, `--help`).
    """
    command = read_command(sys.argv[1:])
    sys.path.insert(0, os.getcwd())  # for a _target_ in the working directory; `python -m` does it, a script does not
    if command.is_hydras:
        _let_hydra_answer(command)
        return []
    if command.arguments.cfg:
        _show(command)
        return []
    lines = compose_sweep(command)
    launcher = _compose_launcher(command) if command.launcher else None
    if findings := dry_build([line.config for line in lines]):
        raise UserError("\n".join(findings))
    tell_idle(command, lines)
    if not command.is_sweep:
        sys.exit(guard(partial(task, lines[0].config, lines[0].words)))
    if launcher is None:
        for line in lines:
            run_line(task, line)
    else:
        _send(launcher, task, lines, command.of_hydra)
    return [line.config for line in lines]


def run_line(task: Task, line: Line) -> None:
    """Run one line of a sweep. A signal ends the sweep; a failed line does not."""
    if (code := guard(partial(task, line.config, line.words))) >= 128:
        sys.exit(code)


def run_numbered(task: Task, lines: Sequence[Line], sweep: Sweep, config: DictConfig) -> None:
    """Run the line of this number, unless the sweep was stopped. A launcher of Hydra calls it in another process."""
    if sweep.stopped_by():
        return
    line = lines[config.line]
    with sweep.watch():
        code = guard(partial(task, line.config, line.words))
    if code >= 128:
        sweep.stop(code - 128)


def _remedy(error: Exception) -> str | None:
    """What to do where the machine or the installation is at fault; None for a fault of the program."""
    if is_out_of_memory(error):
        return "out of memory; choose a smaller network, data set or batch_size, or a larger machine"
    if isinstance(error, ImportError) and not (error.name or "").startswith("sam_repro"):
        said = f"{error.name or 'a library'}: cannot be imported ({first_line(error)})"
        return f"{said}; mend the installation as the README says, or give the process more memory"
    return None


def _refuse_deleted_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory is gone; start in one that is there") from None


def _prepare_streams() -> None:
    """A closed stream swallows what is said, and one that cannot encode a sign gets another: neither ends a run."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # its file was exchanged under it
                stream.reconfigure(errors="spelling")


def _compose_launcher(command: Command) -> DictConfig:
    """The configuration of one of Hydra's launchers, and of a line as it sees one."""
    words = ["hydra.mode=MULTIRUN", *(override.input_line or "" for override in command.of_hydra)]
    with explain([], None), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("line", words, return_hydra_config=True)


def _send(config: DictConfig, task: Task, lines: Sequence[Line], of_hydra: Sequence[Override]) -> None:
    """Let one of Hydra's launchers start the lines: it gets their numbers, and composes nothing of ours."""
    with explain([], None), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        try:
            with open_sweep() as sweep:
                job = partial(run_numbered, task, list(lines), sweep)
                launcher = Plugins.instance().instantiate_launcher(context, job, config)
                launcher.launch([[f"line={number}"] for number in range(len(lines))], initial_job_idx=0)
        except (ValueError, TypeError) as error:  # of the launcher's own settings: a line's errors end with the line
            raise UserError(f"hydra.launcher: {error}; {', '.join(o.input_line or '' for o in of_hydra)}") from None
        except RuntimeError as error:  # the table says which lines are missing
            reason = str(error).partition(". ")[0]
            _say(f"a worker ended ({reason}), and the others with it; the same command goes on", 1)


def _show(command: Command) -> None:
    """Print the configuration that would run: as it is written, or resolved."""
    (words,) = command.lines()
    line, unresolved = compose_unresolved(words, command.extra_dir)
    with explain(line, command.extra_dir):
        check_config(unresolved.resolved())
        print(unresolved.shown(resolve=bool(command.arguments.resolve)), end="")


def _let_hydra_answer(command: Command) -> None:
    # Hydra would print its own long report and leave with 1; with this it lets the exception through to `guard`.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    said = io.StringIO()
    try:
        with explain([], command.extra_dir), redirect_stdout(said) if command.arguments.help else nullcontext():
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(lambda config: None)()
    except ValueError as error:
        raise UserError(f"{error}; --hydra-help shows how it is written") from None
    finally:  # Hydra leaves by sys.exit
        print(said.getvalue().partition("assumed: {}\n")[0], end="")  # behind it are the keys of a recipe's file


def _say(message: object, code: int) -> int:
    lines = f"sam_repro: {message}".splitlines()
    print("\n".join(line if len(line) <= WIDEST else f"{line[:WIDEST]}…" for line in lines), file=sys.stderr)
    return code
