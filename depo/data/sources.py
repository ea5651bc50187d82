"""The built-in sources of problems: files (Parquet, JSON lines, JSON, CSV), data sets of the hub, and what
`reasoning_gym` generates. Of tables: which columns hold question, answer and prior, their values as text.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depo.data.text import Row, answer_text, inner_problem, prior_rate, problem_text
from depo.errors import UserError
from depo.recipe.schema import TABLE_SUFFIXES, FileSource, HubSource, ReasoningGymSource
from depo.reward.reasoning_gym import read_reference
from depo.rng import seed64

PROMPT_NAMES = ("prompt", "question", "problem")
# Not "solution": it mostly holds prose, of which no verdict can be made.
ANSWER_NAMES = ("answer", "ground_truth", "reward_model.ground_truth")

BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Table:
    """``columns`` in dotted notation, structs before their fields; ``rows(names)`` yields value tuples."""

    name: str
    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[tuple[Any, ...]]]
    length: int


def arrow_table(name: str, table: pa.Table) -> Table:
    """A Table over an Arrow table, converted batch by batch."""
    columns: list[str] = []
    for field in table.schema:
        columns += struct_paths(field.name, field.type)

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        chosen = pa.table(
            [arrow_column(table, name) for name in names], names=[str(i) for i in range(len(names))]
        )
        for batch in chosen.to_batches(max_chunksize=BATCH_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    return Table(name, columns, rows, table.num_rows)


def struct_paths(name: str, kind: pa.DataType) -> list[str]:
    if not pa.types.is_struct(kind):
        return [name]
    return [name] + [path for field in kind for path in struct_paths(f"{name}.{field.name}", field.type)]


def arrow_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column by dotted name; a column whose own name holds the dots comes first."""
    if name in table.column_names:
        return table[name]
    top, *fields = name.split(".")
    return pc.struct_field(table[top], fields)


def object_table(name: str, objects: Sequence[dict[str, Any]]) -> Table:
    """A Table over JSON objects, whose keys and types may differ from row to row."""
    columns: dict[str, None] = {}
    for row in objects:
        note_paths(row, "", columns)

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for row in objects:
            yield tuple(object_value(row, name) for name in names)

    return Table(name, list(columns), rows, len(objects))


def note_paths(row: dict[str, Any], prefix: str, columns: dict[str, None]) -> None:
    for key, value in row.items():
        columns.setdefault(prefix + key)
        if isinstance(value, dict):
            note_paths(value, f"{prefix}{key}.", columns)


def object_value(row: Any, name: str) -> Any:
    """A value by dotted name; None where the row does not have it."""
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    top, _, rest = name.partition(".")
    return object_value(row.get(top), rest) if rest else None


def file_rows(source: FileSource, where: str) -> Iterator[Row | None]:
    """The data source ``file``."""
    return table_rows(open_file(source, where), source, where)


def hub_rows(source: HubSource, where: str) -> Iterator[Row | None]:
    """The data source ``hub``."""
    return table_rows(open_hub(source, where), source, where)


def table_rows(table: Table, source: FileSource | HubSource, where: str) -> Iterator[Row | None]:
    """Rows of a table, converted; None where ``columns.question_pattern`` finds nothing. Raises UserError
    naming column and row for values of the wrong kind."""
    used, question_pattern = 0, source.columns.question_pattern
    wanted = tuple(source.where.values())
    pattern = re.compile(question_pattern) if question_pattern else None
    names, filters = chosen_columns(table, source, where)
    prompt_column, answer_column, *prior_column = names
    for number, values in enumerate(table.rows(names + filters), start=1):
        if tuple(map(str, values[len(names) :])) != wanted:
            continue
        used += 1
        if source.limit is not None and used > source.limit:
            return
        column = prompt_column
        try:
            asked = problem_text(values[0])
            column = answer_column
            reference = answer_text(values[1])
            prior = None
            if prior_column:
                column = prior_column[0]
                prior = prior_rate(values[2])
        except UserError as error:
            raise UserError(f"{where}: column {column} of {table.name}, row {number}: {error}") from error
        if pattern is not None and asked is not None:
            asked = inner_problem(asked, pattern)
            if asked is None:
                yield None
                continue
        yield asked, reference, prior


def chosen_columns(table: Table, source: FileSource | HubSource, where: str) -> tuple[list[str], list[str]]:
    """The columns of prompt, answer and, where asked for, prior; and those that ``where`` filters by. Raises
    UserError for one that is not there."""
    columns = source.columns
    names = [
        find_column(table, columns.prompt, PROMPT_NAMES, f"{where}.columns.prompt"),
        find_column(table, columns.answer, ANSWER_NAMES, f"{where}.columns.answer"),
    ]
    if columns.prior:
        names.append(find_column(table, columns.prior, (), f"{where}.columns.prior"))
    return names, [find_column(table, name, (), f"{where}.where") for name in source.where]


def find_column(table: Table, asked: str | None, usual: Sequence[str], where: str) -> str:
    """The column asked for, or the first usual one there is. Raises UserError, naming the key ``where`` and
    the columns there are."""
    there_are = f"{table.name} has {', '.join(table.columns)}"
    if asked is not None:
        if asked in table.columns:
            return asked
        raise UserError(f"{where}: no column {asked!r}; {there_are}")
    for name in usual:
        if name in table.columns:
            return name
    raise UserError(f"{where}: no column is called {' or '.join(usual)}; {there_are}; name the one to use")


def open_file(source: FileSource, where: str) -> Table:
    """A .jsonl, .json, .parquet or .csv file. ``where`` is the recipe key of the source."""
    path = source.path
    if not path.exists():
        raise UserError(f"{where}: file {path} does not exist")
    if not path.is_file():
        raise UserError(f"{where}: {path} is a directory; name a file")
    readers = {".jsonl": read_jsonl, ".json": read_json, ".parquet": read_parquet, ".csv": read_csv}
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"{where}: {path} must end in {', '.join(TABLE_SUFFIXES)}")
    with reading(path, where):
        table = reader(path)
    return not_empty(table, where)


@contextmanager
def reading(path: Path, where: str) -> Iterator[None]:
    """What goes wrong while a table is read is a UserError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {path} is not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        # ValueError: what the readers below raise, and json's own errors.
        raise UserError(f"{where}: cannot read {path}: {first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: cannot read {path}: its values are nested too deeply") from error


def read_parquet(path: Path) -> Table:
    return arrow_table(path.name, pq.read_table(path))


def read_csv(path: Path) -> Table:
    # Not by pandas or Arrow: they make numbers of gold answers like 007 and 1e5, and pandas shifts the
    # columns of a file whose rows have more cells than its header.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = []
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more cells than the header")
            rows.append(row)
    return object_table(path.name, rows)


def read_jsonl(path: Path) -> Table:
    return object_table(path.name, list(json_lines(path)))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds no JSON object")
            yield row


def read_json(path: Path) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return object_table(path.name, [])
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        hint = "; one object a line needs the name .jsonl" if error.msg == "Extra data" else ""
        raise ValueError(f"not JSON: {error}{hint}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it must hold a list of objects")
    return object_table(path.name, rows)


def parse_json(text: str) -> Any:
    # Floats stay as written: a gold answer 3.10 is not 3.1.
    return json.loads(text, parse_float=str)


def open_hub(source: HubSource, where: str) -> Table:
    """A data set of the Hugging Face hub, downloaded or from its cache."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    name = source.id if source.subset is None else f"{source.id} ({source.subset})"
    try:
        loaded = datasets.load_dataset(
            source.id, name=source.subset, split=source.split, revision=source.revision
        )
    except ConnectionError as error:
        raise UserError(
            f"{where}: cannot reach data set {name} on the Hugging Face hub ({first_line(error)}); "
            f"a local file works offline: {where}=FILE.parquet"
        ) from error
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        # Unknown id, subset, split or revision, a gated data set, a broken file.
        raise UserError(f"{where}: cannot load data set {name}: {first_line(error)}") from error
    return not_empty(arrow_table(name, loaded.with_format("arrow")[:]), where)


def not_empty(table: Table, where: str) -> Table:
    if table.length == 0:
        raise UserError(f"{where}: {table.name} holds no rows")
    return table


def first_line(error: BaseException) -> str:
    """An error's message without what follows its first line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def gym_rows(source: ReasoningGymSource, where: str) -> Iterator[tuple[str, str, None]]:
    """(question, reference, no prior) of each task's problems, task after task.

    The reference is JSON, {"task": name, "entry": {…}}: the task's scorer needs its entry whole. Sources of
    different seeds share no stretch of problems: reasoning_gym makes problem i of seed s from s + i, so that
    its own seeds 0 and 1 are the same problems but for one.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            f'{where}: the package reasoning_gym is missing; pip install "depo-rl[reasoning-gym]"'
        ) from error

    for task in source.tasks:
        if task not in DATASETS:
            near = difflib.get_close_matches(task, DATASETS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(DATASETS))}"
            raise UserError(f"{where}.tasks: reasoning_gym has no task {task!r}; {hint}")
        try:
            seed = seed64(source.seed, "reasoning_gym", key=task) % 2**31
            problems = reasoning_gym.create_dataset(task, size=source.size, seed=seed)
        except (ValueError, AssertionError) as error:
            raise UserError(f"{where}.tasks: {task} cannot be made without options ({error})") from error
        for index in range(source.size):
            entry = problems[index]
            reference = json.dumps({"task": task, "entry": entry}, ensure_ascii=False)
            if index == 0 and entry["answer"] is not None:
                _, restored = read_reference(reference)
                if problems.score_answer(entry["answer"], restored) < problems.score_answer(
                    entry["answer"], entry
                ):
                    raise UserError(f"{where}.tasks: the scorer of {task} does not work on stored problems")
            yield entry["question"], reference, None
