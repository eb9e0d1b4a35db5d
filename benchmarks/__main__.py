"""`make bench`: runs every row, prints the table with goals and results, and writes it as JSON."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import api_rows, long_rows, rows, table_rows
from benchmarks.compare import Unusable, compare
from benchmarks.figures import Figure, yardstick
from shared.errors import GuiAgentError

ROWS = api_rows.ROWS | rows.ROWS | long_rows.ROWS | table_rows.ROWS
ROUNDS = 3


def main() -> None:
    """Measures the rows that are named; without a name, all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are written")
    parser.add_argument(
        "--base", metavar="REV", help="a commit to measure as well, in turns, and compare with"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many turns; {ROUNDS}")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    console, names = Console(), options.rows or list(ROWS)
    try:
        if options.base:
            written: object = compare(options.base, names, options.rounds, console)
        else:
            written = [asdict(figure) for figure in measure(names, console)]
    except (GuiAgentError, Unusable) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: nothing is written\n")
    options.json.write_text(json.dumps(written, indent=1) + "\n")


def measure(names: list[str], console: Console) -> list[Figure]:
    """Runs the rows and prints their figures."""
    figures = list[Figure]()
    for name in names:
        console.print(f"{name}: {(ROWS[name].__doc__ or '').strip()}", style="dim")
        before = yardstick()
        figures += ROWS[name]()
        console.print(
            f"  a fixed piece of work: {before:.0f} ms before, {yardstick():.0f} ms after", style="dim"
        )
    console.print(table(figures))
    return figures


def table(figures: list[Figure]) -> Table:
    """Goals and results."""
    shown = Table("what", "goal", "result", "")
    for one in figures:
        goal = f"{'≤' if one.most else '≥'} {one.goal:g} {one.unit}"
        verdict = "[green]reached[/]" if one.reached else "[yellow]not yet[/]"
        shown.add_row(one.name, goal, f"{one.value:.3g} {one.unit}", verdict)
    return shown


if __name__ == "__main__":
    main()
