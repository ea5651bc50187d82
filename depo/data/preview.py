"""What can be told of the data before anything is started: unreadable files, columns that are not there, and
a held-out part that leaves nothing to train on. A large table is known by its header or footer alone.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from depo.data.prompts import DataReport, Problem, check_heldout, none_usable, unique_problems
from depo.data.sources import Table, arrow_table, chosen_columns, json_lines, object_table, reading
from depo.errors import UserError
from depo.recipe.schema import ArithmeticSource, FileSource, ReasoningGymSource, Recipe, Source

READ_WHOLE = 8 * 2**20
"""Bytes of a file that is read row by row here, which takes about a second."""

FIRST_ROWS = 1000
"""Rows by which the columns of a larger file of JSON lines are known."""


def check_data(recipe: Recipe) -> str:
    """A line on the prompts to train on and those held out, where they can be counted. Raises UserError for
    training and evaluation data that the run could not use."""
    source, grade = recipe.data.train, recipe.data.grade
    rows = most_prompts(source, "data.train")
    if rows is None:
        line = f"data: the prompts of {source.label} are counted by the run only"
    elif grade is None:
        heldout = check_heldout(recipe.data.heldout, rows)
        line = f"data: {source.label}: {rows - heldout:,} prompts to train on, {heldout:,} held out"
        line += f", less what is longer than data.max_prompt_tokens {recipe.data.max_prompt_tokens}"
    else:
        line = f"data: {grade.pool:,} prompts to train on, {grade.heldout:,} held out, chosen from {rows:,}"
    for index, one in enumerate(recipe.evaluation.sets):
        most_prompts(one.source, f"evaluation.sets.{index}.source")
    return line


def sample_problem(source: Source) -> Problem:
    """The first usable problem of a source that `check_data` has read; for others, "{question}" stands in."""
    read = isinstance(source, FileSource) and source.path.stat().st_size <= READ_WHOLE
    if read or isinstance(source, ArithmeticSource):
        return next(unique_problems(source, DataReport(source=source.label), "data.train"))
    return Problem("", "{question}", "{question}", "", None)


def most_prompts(source: Source, where: str) -> int | None:
    """How many prompts the source has at most; None where that cannot be told. Raises UserError for a source
    that cannot be used."""
    if isinstance(source, ArithmeticSource):
        return source.size
    if isinstance(source, ReasoningGymSource):
        return source.size * len(source.tasks)
    if not isinstance(source, FileSource):
        return None
    if source.path.stat().st_size <= READ_WHOLE:
        report = DataReport(source=source.label)
        count = sum(1 for _ in unique_problems(source, report, where))
        if not count:
            raise UserError(none_usable(source, report, where))
        return count
    table = outline(source.path, where)
    if table is None:
        return None
    chosen_columns(table, source, where)
    return min(table.length, source.limit or table.length) if table.length else None


def outline(path: Path, where: str) -> Table | None:
    """A table's columns, and its length where a footer tells it (else 0); None for one that has neither."""
    with reading(path, where):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                empty = arrow_table(path.name, file.schema_arrow.empty_table())
                return Table(path.name, empty.columns, empty.rows, file.metadata.num_rows)
        if path.suffix == ".jsonl":
            first = object_table(path.name, list(islice(json_lines(path), FIRST_ROWS)))
            return replace(first, length=0)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as text:
                names = csv.DictReader(text).fieldnames or []
            return replace(object_table(path.name, [dict.fromkeys(names)]), length=0)
    return None
