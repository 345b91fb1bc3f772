"""The door to tables: `python -m sam_repro.table` lists them, `python -m sam_repro.table NAME` shows one."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import dataclasses
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NoReturn

from sam_repro.config.command_line import refuse_repeated_options
from sam_repro.config.identity import identity
from sam_repro.config.launch import guard
from sam_repro.config.lines import compose_cell, compose_line, read_table
from sam_repro.config.options import table_names
from sam_repro.config.schema import OPEN, Resolved, flat, what_is_open
from sam_repro.config.table_file import Cell, Search, Table, spell_words
from sam_repro.errors import UserError, first_line
from sam_repro.files import replacing, write_json
from sam_repro.limits import shown
from sam_repro.run.record import home_of
from sam_repro.table import plot, render, runs
from sam_repro.table.compare import compare
from sam_repro.table.cost import prices
from sam_repro.table.definitions import HEADER, definitions
from sam_repro.table.names import TAKES, refuse_words, require_recipe, require_table
from sam_repro.table.report import Choice, Report, difference

USAGE = """python -m sam_repro.table                    lists the tables
python -m sam_repro.table NAME               its cells, what is missing and what that costs, and the table itself
python -m sam_repro.table search NAME        what its search chose, and the command that retrains on all data
python -m sam_repro.table keep NAME          copy the runs that count, table and picture to outputs/evidence
python -m sam_repro.table why RUN [NAME]     for which cell a run counts, or what keeps it from counting
python -m sam_repro.table compare RUN RUN    differences of configuration and metrics
python -m sam_repro.table diff RECIPE RECIPE differences of two recipes, key by key
python -m sam_repro.table recipe NAME [LINE] each definition and its source, for a line like optimizer=sgd epochs=400,
                                             or table=NAME cell=3; --all: the idle ones too; --markdown

A cell is run by  python -m sam_repro.train -m table=NAME cell=0,3 seed=0,1,2"""


def main() -> None:
    """Show what the command line says; the exit code is 0 done, 1 failed, 2 bad input."""
    sys.exit(guard(lambda: _main(sys.argv[1:])))


def _main(argv: Sequence[str]) -> int:
    options = _options(argv)
    match options.words:
        case []:
            _list(options)
        case ["search", name]:
            _search(_report(name, options), options)
        case ["keep", name]:
            _keep(_report(name, options), options)
        case ["why", run]:
            _why(Path(run), table_names(options.config_dir), options)
        case ["why", run, name]:
            require_table(name, options.config_dir)
            _why(Path(run), [name], options)
        case ["compare", one, other]:
            _compare(_run(one), _run(other))
        case ["diff", one, other]:
            _diff(one, other, options)
        case ["recipe", name, *line]:
            _recipe(name, line, options)
        case [name] if name not in TAKES:
            _show(_report(name, options), options)
        case words:
            refuse_words(words, USAGE)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; it is one of\n{USAGE}")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m sam_repro.table", usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument(
        "--outputs", action="append", metavar="DIR", help="where runs lie; may be given several times, default outputs"
    )
    parser.add_argument("--to", default="outputs/tables", metavar="DIR", help="where a table is written to")
    parser.add_argument("--config-dir", metavar="DIR", help="options of your own, as for sam_repro.train")
    parser.add_argument("--all", action="store_true", help="of a recipe: also the defaults that have no effect")
    parser.add_argument("--markdown", action="store_true", help="of a recipe: as a Markdown table")
    options = parser.parse_intermixed_args(argv)
    for option in ("--to", "--config-dir"):
        refuse_repeated_options(argv, (option,))
    options.outputs = [Path(root) for root in options.outputs or ["outputs"]]
    for root in options.outputs[0 if options.outputs != [Path("outputs")] else 1 :]:
        if not root.is_dir():
            raise UserError(f"--outputs {root}: no such folder")
    return options


def _list(options: argparse.Namespace) -> None:
    names = table_names(options.config_dir)
    width = max(map(len, names))
    for table in _tables(names, options):
        size = f"{len(table.cells)} cells, {len(table.claims)} claims"
        print(f"{table.name:{width}}  {render.in_a_line(table.title)} ({size})")


def _tables(names: Iterable[str], options: argparse.Namespace) -> Iterator[Table]:
    """The tables of these names. A file that is not a table is reported and skipped."""
    for name in names:
        try:
            yield read_table(name, options.config_dir)
        except UserError as error:
            print(f"sam_repro: {error}", file=sys.stderr)


def _report(name: str, options: argparse.Namespace) -> Report:
    require_table(name, options.config_dir)
    table = read_table(name, options.config_dir)
    configs: dict[str, Resolved] = {}
    for cell in (cell for cell in table.cells if not cell.waiting):
        try:
            configs[cell.name] = compose_cell(table, cell, extra_dir=options.config_dir)
        except UserError as error:  # the other cells are there all the same
            waiting = dataclasses.replace(cell, waiting=f"a mended file: {error}")
            table = dataclasses.replace(table, cells=tuple(waiting if c is cell else c for c in table.cells))
    report = Report(table, configs, runs.find(options.outputs))
    for problem in report.found.problems:
        print(f"sam_repro: {problem}", file=sys.stderr)
    return report


def _show(report: Report, options: argparse.Namespace) -> None:
    _state(report, options)
    print()
    print(render.markdown(report), end="")
    print()
    for file in _write(report, Path(options.to) / report.table.name):
        print(f"written    {file}")


def _state(report: Report, options: argparse.Namespace) -> None:
    """Cells, how far they are, what is still to pay, and the command for it."""
    table = report.table
    todo = {cell.name: len(report.missing(cell)) for cell in table.cells}
    price, refused = prices({name: report.configs[name] for name, n in todo.items() if n}, report.found.runs)
    for cell in table.cells:
        left = todo[cell.name]
        wanted = "" if cell.waiting else f"{len(table.seeds) - left}/{len(table.seeds)}"
        cost = f"  {price[cell.name].times(left)}" if cell.name in price else ""
        cost += f"  {refused[cell.name]}" if cell.name in refused else ""
        print(
            f"{cell.index:4}  {wanted:5}  {render.in_a_line(cell.name)}: {render.in_a_line(report.state(cell))}{cost}"
        )
    if price:
        print(f"to pay     {reduce(add, (one.times(todo[name]) for name, one in price.items()))}")
    asked = {name: what_is_open(report.configs[name]) for name in price}
    for open_ in {str(what): what for what in asked.values()}.values():
        cells = [cell for cell in table.cells if asked.get(cell.name) == open_]
        print(" ".join([f"to run     {_command(table, cells, options.config_dir)}", *(f"{key}=…" for key in open_)]))
        print("".join(f"to give    {key}{what and f': {what}'}\n" for key, what in open_.items()), end="")
    untimed = [name for name, one in price.items() if one.seconds is None]
    if untimed:
        cell = table.cell(untimed[0])
        line = f"to time    {_command(table, [cell], options.config_dir, seeds=[0])} max_steps=3 name=timing"
        print(" ".join([line, *(f"{key}=…" for key in asked[cell.name])]))


def _command(table: Table, cells: Iterable[Cell], extra_dir: str | None, seeds: Sequence[int] | None = None) -> str:
    numbers = ",".join(str(cell.index) for cell in cells)
    wanted = ",".join(map(str, seeds or table.seeds))
    return f"python -m sam_repro.train{_extra(extra_dir)} -m table={table.name} cell={numbers} seed={wanted}"


def _extra(config_dir: str | None) -> str:
    return f" --config-dir {shlex.quote(config_dir)}" if config_dir else ""


def _write(report: Report, folder: Path) -> list[Path]:
    contents = {"table.md": render.markdown(report).encode(), "table.csv": render.comma_separated(report).encode()}
    if (picture := plot.picture(report)) is not None:
        contents["plot.png"] = picture
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with replacing(folder / name) as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({first_line(error)}); name another folder by --to") from None
    return [folder / name for name in contents]


def _search(report: Report, options: argparse.Namespace) -> None:
    """Print and write the choices, with the command that retrains each chosen cell on all data."""
    table, search = report.table, report.table.search
    if search is None:
        raise UserError(f"{table.name}: has no search; {', '.join(_with_search(options))} have one")
    choices = []
    for choice in report.choices:
        where = f"{search.per} = {choice.per}: " if search.per else ""
        curve = ", ".join(f"{value}: {render.shown(line.estimates[0])}" for value, line in choice.curve)
        print(f"{where}{search.metric} by {search.over}: {curve}")
        entry: dict[str, Any] = {"per": choice.per, "curve": _curve(choice.curve), "printed": choice.printed}
        choices.append(entry | _queue(report, search, choice, options))
    folder = Path(options.to) / table.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "search.json", {"over": search.over, "metric": search.metric, "choices": choices})
    print(f"written    {folder / 'search.json'}")


def _queue(report: Report, search: Search, choice: Choice, options: argparse.Namespace) -> dict[str, Any]:
    """Print what was chosen, the command that retrains it on all data, and what that has given so far."""
    if choice.chosen is None:
        print(f"  no choice: {choice.missing} runs of the grid are missing, or they are of different numerics")
        return {"chosen": None, "retrain": None}
    value = choice.chosen.overrides[search.over]
    line = spell_words(report.table.overrides(choice.chosen) | search.retrain)
    seeds = ",".join(map(str, report.table.seeds))
    printed = "" if choice.printed is None else f" (the paper chose {choice.printed})"
    print(f"  chosen: {search.over}={value}{printed}; retrain on all data:")
    print(f"  python -m sam_repro.train{_extra(options.config_dir)} -m {shlex.join(line)} seed={seeds}")
    print(f"  {_describe_retraining(report, line, options)}")
    return {"chosen": value, "retrain": line}


def _curve(curve: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"value": value, **({} if (ours := line.estimates[0]) is None else ours._asdict()), "numerics": line.numerics}
        for value, line in curve
    ]


def _describe_retraining(report: Report, line: list[str], options: argparse.Namespace) -> str:
    """What the retraining gave, as far as it is done."""
    cell = Cell(0, "retrained", "retrained", {})
    table = dataclasses.replace(report.table, cells=(cell,), metrics=("test/error_pct",), claims=(), effects=())
    retrained = Report(table, {cell.name: compose_line(line, options.config_dir)}, report.found)
    lines = [
        f"{render.shown(done.estimates[0])} ({done.estimates[0].n} seeds, {done.numerics})"
        for done in retrained.cells
        if done.estimates and done.estimates[0] is not None
    ]
    return f"retrained: test error % {'; '.join(lines) or 'not yet'}"


def _with_search(options: argparse.Namespace) -> list[str]:
    return [table.name for table in _tables(table_names(options.config_dir), options) if table.search]


def _keep(report: Report, options: argparse.Namespace) -> None:
    """Copy what counts for the table to outputs/evidence, and write the table beside it."""
    folder = options.outputs[0] / "evidence" / report.table.name
    counted = [run for name in report.configs for run in report.found.of(report.sought[name])]
    cut = [run for config in report.configs.values() for run in report.found.cut(config)]
    counted = list({run.folder: run for run in [*counted, *cut]}.values())
    if not counted:
        raise UserError(f"{report.table.name}: no run of it is finished; there is nothing to keep")
    taken: dict[Path, Path] = {}
    for run in counted:
        to = folder / "runs" / run.folder.parent.name / run.folder.name
        if (other := taken.setdefault(to, run.folder)) != run.folder:
            raise UserError(f"{other} and {run.folder}: are one seed of a cell on other data; move one of them away")
        if to.resolve() == run.folder.resolve():
            continue
        if to not in run.copies:  # what was measured of an older run is not of this one
            shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True, exist_ok=True)
        records = [run.folder / name for name in ("result.json", "run.json", "metrics.jsonl")]
        for file in [*records, *runs.measurement_files(run.folder)]:
            if file.exists():
                (to / file.relative_to(run.folder)).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, to / file.relative_to(run.folder))
    _write(report, folder)
    print(f"kept       {len(counted)} runs, table and picture in {folder}; commit it")


def _why(folder: Path, names: Sequence[str], options: argparse.Namespace) -> None:
    """Print for which cells a run counts, or how it differs from the nearest one."""
    run = _run(folder)
    if (problem := runs.record_problem(run)) is not None:
        print(problem)
    cells = [(table, cell) for table in _tables(names, options) for cell in table.cells if not cell.waiting]
    least = min((_words_apart(table, cell, run) for table, cell in cells), default=0)
    differences = {
        f"{table.name}, cell {cell.index} ({cell.name})": _apart_from(
            run, compose_cell(table, cell, extra_dir=options.config_dir)
        )
        for table, cell in cells
        if _words_apart(table, cell, run) == least
    }
    for where in (where for where, keys in differences.items() if not keys):
        print(f"counts for {where}, seed {run.seed}")
    if differences and all(differences.values()):
        where, keys = min(differences.items(), key=lambda entry: len(entry[1]))
        print(f"counts for no cell; the nearest is {where}, from which it differs in:")
        _print_difference(keys, "run", "cell")


def _apart_from(run: runs.Run, cell: Resolved) -> list[tuple[str, Any, Any]]:
    """The keys in which a run is no run of a cell."""
    return [entry for entry in difference(run.identity, identity(cell)) if entry[-1] != OPEN]


def _words_apart(table: Table, cell: Cell, run: runs.Run) -> int:
    """In how much of what it names a cell differs from a run: to compose all cells takes a minute."""
    chosen, files = run.config["choices"], run.config.get("files", {})  # a file counts by its content
    known = {key: value for key, value in flat(run.config).items() if key in run.identity and key not in files}
    known |= {group: chosen[group] for group in ("dataset", "architecture", "optimizer")}
    return sum(known.get(key, value) != value for key, value in flat(table.overrides(cell)).items())


def _compare(one: runs.Run, other: runs.Run) -> None:
    """Print in which keys two runs differ, where they were made, and what they measured."""
    found = compare(one, other)
    print("\n".join(found.told))
    _print_difference(found.keys, "first", "second")
    print()
    rows = [("metric", "first", "second", "second − first")]
    _print_columns([*rows, *((key, _metric(a), _metric(b), _delta(a, b)) for key, a, b in found.metrics)])


def _metric(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _delta(a: Any, b: Any) -> str:
    return f"{b - a:+.6g}" if isinstance(a, float) and isinstance(b, float) else ""


def _diff(one: str, other: str, options: argparse.Namespace) -> None:
    """Print in which keys two recipes differ."""
    for recipe in (one, other):
        require_recipe(recipe, options.config_dir)
    configs = [compose_line([f"experiment={recipe}"], options.config_dir) for recipe in (one, other)]
    _print_difference(difference(*configs), one, other)
    for recipe, config in zip((one, other), configs, strict=True):
        for key, why in config["assumed"].items():
            print(f"assumed in {recipe}: {key}: {why}")


def _recipe(name: str, line: Sequence[str], options: argparse.Namespace) -> None:
    """Print each definition of a recipe's line, and where it is from."""
    found = definitions(name, line, options.config_dir)
    rows = [row.cells() for row in found.rows(options.all)]
    if options.markdown:
        print(
            "\n".join(
                [f"# {' '.join((name, *line))}", "", *(f"* {' '.join(told.split())}" for told in found.describe()), ""]
            )
        )
        print("\n".join(render.rows(render.Section(name, HEADER, rows))))
        return
    print("\n".join([f"recipe     {' '.join((name, *line))}", *found.describe(), ""]))
    _print_columns([HEADER, *rows])


def _print_difference(keys: Sequence[tuple[str, Any, Any]], one: str, other: str) -> None:
    if not keys:
        print("no key differs")
        return
    _print_columns([("key", one, other), *((key, shown(a), shown(b)) for key, a, b in keys)])


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _run(folder: str | Path) -> runs.Run:
    try:
        return runs.read(home_of(folder))
    except ValueError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main()
