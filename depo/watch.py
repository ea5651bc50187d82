"""``depo watch RUN``: the step lines of a run that goes on elsewhere, as they come, or of one that is over.

It reads metrics.jsonl and shows it on the console that ``depo train`` has. The run is never touched.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depo.errors import DONE, UserError
from depo.files import read_json
from depo.recipe.loading import load_recipe

EVERY = 1.0
"""Seconds between two looks."""


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "watch",
        help="follow a run on the terminal",
        description="Show a run's steps as they come. Reads RUN/metrics.jsonl, writes nothing. Ends with the "
        "run, or on Ctrl-C.",
        epilog="example: depo watch runs/math-7",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--last", type=int, default=20, metavar="N", help="steps to begin with (%(default)s)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Show steps until the run is over. Raises UserError for what is no run."""
    from depo.trackers.console import COLUMNS, Console, columns_for

    directory: Path = options.run
    if options.last < 1:
        raise UserError(f"--last {options.last}: must be at least 1")
    if not (directory / "recipe.yaml").is_file() and not (directory / "metrics.jsonl").is_file():
        what = "neither recipe.yaml nor metrics.jsonl in it" if directory.is_dir() else "no such directory"
        raise UserError(f"{directory}: {what}; expected the directory of a training run")
    rows = rows_of(directory)
    try:
        recipe = load_recipe(directory / "recipe.yaml")
        steps, columns = recipe.steps, columns_for(recipe)
    except UserError:  # of another version of depo: its metrics are still worth a look
        steps, columns = max((row["step"] for row in rows), default=0), COLUMNS
    with Console(steps, quiet=False, name=directory.resolve().name, columns=columns) as console:
        console.remember(rows[: -options.last])
        shown = rows[-options.last - 1]["step"] if len(rows) > options.last else 0
        while True:
            over = ending(directory)  # before the rows: then all of them are there
            rows = rows_of(directory)
            if rows and rows[-1]["step"] < shown:
                shown = rows[-1]["step"]
                console.say(f"the run was resumed after step {shown}")
            for row in rows:
                if row["step"] > shown:
                    console.step(row)
                    shown = row["step"]
            if over is not None and over["steps"] == shown:  # else it is of before the run was extended
                for sentence in over["verdict"]:
                    console.say(f"verdict: {sentence}")
                return DONE
            console.doing(f"waiting for step {shown + 1}")
            time.sleep(EVERY)


def rows_of(directory: Path) -> list[dict[str, Any]]:
    from depo.trackers.tracker import sound_rows

    log = directory / "metrics.jsonl"
    return sound_rows(log)[0] if log.is_file() else []


def ending(directory: Path) -> dict[str, Any] | None:
    """The summary of a run that is over."""
    path = directory / "summary.json"
    return read_json(path) if path.is_file() else None
