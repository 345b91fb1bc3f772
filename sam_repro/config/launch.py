"""What the doors share: one run or a sweep, an exit code, one message for every mistake."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_repro.config.command_line import check_overrides, read_arguments
from sam_repro.config.compose import ADDED, check_config, frame, resolve
from sam_repro.config.identity import home
from sam_repro.config.lines import (
    compose_sweep,
    drop_foreign_rho,
    explained,
    has_foreign_rho,
    line_of_cell,
    own_or_cell,
)
from sam_repro.config.options import config_dir
from sam_repro.config.schema import Resolved
from sam_repro.errors import Busy, Failure, Stopped, UserError


def guarded(action: Callable[[], int]) -> int:
    """Exit code of an action: 0 done, 1 crash, 2 user error, 3 busy, 128 + n stopped by signal n; one message each."""
    try:
        return action()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return _said(error, 2)
    except Busy as error:
        return _said(error, 3)
    except Stopped as stop:
        return _said(stop, 128 + stop.signal)
    except Failure as error:
        return _said(error, 1)
    except BrokenPipeError:  # whoever read our lines has gone: no traceback into the void
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def launch(task: Callable[[Resolved, list[str]], int]) -> list[Resolved]:
    """Check the command line, then let Hydra compose the configuration and call the task with it.

    A single run ends the process with the task's exit code. In a sweep every cell is composed and checked before the
    first one starts; a cell that fails does not end the sweep, one that is stopped by a signal does.

    Args:
        task: (resolved and checked configuration, overrides) → exit code. Equal cells of a sweep are one call.

    Returns:
        The configurations of a sweep's cells; nothing where Hydra only showed something (`--cfg job`, `--help`).
    """
    arguments = read_arguments(sys.argv[1:])
    overrides = [] if arguments.shell_completion else check_overrides(arguments)
    cells = compose_sweep(arguments, overrides) if arguments.multirun else []
    started: set[tuple[Path, str]] = set()

    def job(config: DictConfig) -> None:
        runtime = HydraConfig.get()
        sweep = runtime.mode == RunMode.MULTIRUN

        def action() -> int:
            written: Any = OmegaConf.to_container(runtime.overrides.task)  # as written: ${…} is not resolved
            given = [override.removeprefix(ADDED) for override in written]
            with explained(arguments):
                resolved, given = own_or_cell(resolve(config, runtime.runtime.choices), given, arguments.config_dir)
            if sweep and has_foreign_rho(resolved):
                resolved = drop_foreign_rho(resolved)
                given = [override for override in given if not override.startswith("rho=")]
            cell = home(check_config(resolved)), str(resolved["sharpness"])  # another measure is of the same home
            if cell in started:
                return 0
            started.add(cell)
            return task(resolved, given)

        code = guarded(action)
        if not sweep or code >= 128:
            sys.exit(code)

    if arguments.cfg and not arguments.multirun and (line := line_of_cell(arguments, overrides)):
        sys.argv[1:] = [word for word in sys.argv[1:] if word not in arguments.overrides] + line
    else:
        framed = dict(zip(arguments.overrides, frame(arguments.overrides), strict=True))
        sys.argv[1:] = [framed.get(word, word) for word in sys.argv[1:]]
    sys.path.insert(0, os.getcwd())  # for a _target_ in the working directory; `python -m` does it, a script does not
    # Hydra would print its own long report and leave with 1; with this it lets the exception through to `guarded`.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with explained(arguments):
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
    return cells


def _said(message: BaseException, code: int) -> int:
    print(f"sam_repro: {message}", file=sys.stderr)
    return code
