"""`make bench`: runs every row, prints the table with goals and results, and writes it as JSON."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rows import ROWS, Figure


def main() -> None:
    """Measures the rows that are named; without a name, all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are written")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    console, figures = Console(), list[Figure]()
    for name in options.rows or ROWS:
        console.print(f"{name}: {(ROWS[name].__doc__ or '').strip()}", style="dim")
        figures += ROWS[name]()
    console.print(table(figures))
    options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def table(figures: list[Figure]) -> Table:
    """Goals and results."""
    shown = Table("what", "goal", "result", "")
    for one in figures:
        goal = f"{'≤' if one.most else '≥'} {one.goal:g} {one.unit}"
        verdict = "[green]reached[/]" if one.reached else "[yellow]not yet[/]"
        shown.add_row(one.name, goal, f"{one.value:.3g} {one.unit}", verdict)
    return shown


main()
