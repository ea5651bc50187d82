"""Traces out of Parquet files: a training trace, or a count file.

A *training trace* has one row a prompt with the list ``k_correct``: correct rollouts at each visit, of ``n``.
A *count file* has one row a prompt with scalars, ``k_correct`` of ``n``; what a visit would have shown is
drawn.
N: prompts, T: steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depo.data.text import plain_text, problem_text
from depo.errors import UserError
from depo.replay.trace import Trace
from depo.rng import generator
from depo.types import Prompt

NEEDED = ("prompt_id", "n", "k_correct")

CONDITIONS = ("model", "temperature", "max_tokens", "step", "split", "source")
"""Columns that may tell several counts of one prompt apart."""

CHOICES_SHOWN = 12


def read_parquet(
    path: Path,
    group_size: int | None,
    where: Mapping[str, str],
    prior: str | None,
    visits: int | None,
    seed: int,
) -> tuple[Trace, int]:
    """The trace in ``path``, and the group size it is replayed with.

    ``where`` keeps the rows whose columns have these values; ``prior`` names a column with pass rates, or
    "COLUMN/N" for counts out of N; ``visits`` is the number of steps (default: as many as every prompt has,
    1 for a count file); ``seed`` keys what is drawn. Raises UserError for whatever does not fit.
    """
    table = filtered(read_table(path), path, where)
    if is_list(table.schema.field("k_correct").type):
        return training_trace(table, path, group_size, prior, visits, seed)
    return count_trace(table, path, group_size or 8, prior, visits or 1, seed)


# ---------------------------------------------------------------- the two kinds


def training_trace(
    table: pa.Table, path: Path, group_size: int | None, prior: str | None, visits: int | None, seed: int
) -> tuple[Trace, int]:
    """T is the smallest number of visits: step t offers visit t of every prompt."""
    keys = table["prompt_id"].to_pylist()
    first_row = {key: row for row, key in reversed(list(enumerate(keys)))}
    first = sorted(first_row.values())
    notes = []
    if len(first) < len(keys):
        notes.append(f"{len(keys) - len(first)} rows dropped that repeat a prompt; its first row stays")
    counts = table["k_correct"].to_pylist()
    shortest = min(len(counts[row]) for row in first)
    steps = min(visits or shortest, shortest)
    if visits and visits > shortest:
        raise UserError(f"--visits {visits}: {path} has {shortest} visits of every prompt")
    if steps < 1:
        raise UserError(f"{path}: k_correct holds a prompt without visits")
    k_NT = whole([counts[row][:steps] for row in first], path, "k_correct", 2)
    n_N = whole(table["n"].to_pylist(), path, "n", 1)[first]
    check_counts(path, k_NT, n_N[:, None])
    size = group_size or int(n_N.min())
    if size < 2:
        raise UserError(f"{path}: n is {size}; a group needs at least 2 rollouts to be informative")
    if size > n_N.min():
        raise UserError(f"--group-size {size}: {path} recorded {n_N.min()} rollouts a visit")
    prompts = prompts_of(table, path, first, prior)
    if (n_N != size).any():
        notes.append(f"groups of {size} drawn without replacement from the rollouts of each visit")
        k_NT = np.stack(
            [
                generator(seed, "replay group", key=prompt.key).hypergeometric(k_T, n - k_T, size)
                for prompt, k_T, n in zip(prompts, k_NT, n_N, strict=True)
            ]
        )
    return offered(path, "training", prompts, k_NT, size, None, notes), size


def count_trace(
    table: pa.Table, path: Path, group_size: int, prior: str | None, visits: int, seed: int
) -> tuple[Trace, int]:
    """Outcomes of each visit drawn as Binomial(G, k/n), keyed by seed and prompt; visit t is draw t.

    Prompts with a row ``rep`` > 0 (counted more than once, with results that disagree) are left out.
    """
    keys = table["prompt_id"].to_pylist()
    notes = []
    repeated: set[str] = set()
    if "rep" in table.schema.names:
        repeated = {key for key, rep in zip(keys, table["rep"].to_pylist(), strict=True) if rep}
        if repeated:
            notes.append(f"{len(repeated)} prompts with repeated counts (rep > 0) dropped")
    rows = [row for row, key in enumerate(keys) if key not in repeated]
    if not rows:
        raise UserError(f"{path}: no prompts left")
    require_unique(table.take(rows), path)
    k_N = whole(table["k_correct"].to_pylist(), path, "k_correct", 1)[rows]
    n_N = whole(table["n"].to_pylist(), path, "n", 1)[rows]
    check_counts(path, k_N, n_N)
    if n_N.min() < group_size:
        notes.append(
            f"pass rates come from as few as {n_N.min()} rollouts: groups of {group_size} drawn from such a "
            "rate are informative less often than real ones"
        )
    notes.append(f"outcomes drawn as Binomial({group_size}, k/n) with seed {seed}: the policy does not move")
    prompts = prompts_of(table, path, rows, prior)
    rate_N = k_N / np.maximum(n_N, 1)
    k_NT = np.array(
        [
            generator(seed, "replay visit", key=prompt.key).binomial(group_size, rate, size=visits)
            for prompt, rate in zip(prompts, rate_N, strict=True)
        ],
        dtype=np.int64,
    ).reshape(len(prompts), visits)
    return offered(path, "counts", prompts, k_NT, group_size, rate_N, notes), group_size


def offered(
    path: Path,
    kind: str,
    prompts: Sequence[Prompt],
    k_NT: np.ndarray,
    group_size: int,
    rate_N: np.ndarray | None,
    notes: Sequence[str],
) -> Trace:
    """A trace in which every prompt has an outcome at every step."""
    return Trace(
        source=str(path),
        kind=kind,  # type: ignore[arg-type]
        prompts=tuple(prompts),
        successes_NT=k_NT,
        trials_NT=np.full(k_NT.shape, group_size, dtype=np.int64),
        graded_NT=np.ones(k_NT.shape, dtype=bool),
        steps_T=np.arange(1, k_NT.shape[1] + 1),
        kl_T=np.zeros(k_NT.shape[1]),
        rate_N=rate_N,
        notes=tuple(notes),
    )


# ---------------------------------------------------------------- reading


def read_table(path: Path) -> pa.Table:
    """The file's rows, ``prompt_id`` as text. Raises UserError when there is no such file, it is not Parquet,
    it has no rows, or a column or a value is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error
    missing = [name for name in NEEDED if name not in table.schema.names]
    if missing:
        raise UserError(
            f"{path}: column {missing[0]!r} is missing; a trace has {', '.join(NEEDED)}, "
            f"found {', '.join(table.schema.names)}"
        )
    if not table.num_rows:
        raise UserError(f"{path}: no rows")
    for name in NEEDED:
        values = pc.list_flatten(table[name]) if is_list(table[name].type) else table[name]
        nulls = table[name].null_count or values.null_count
        if nulls:
            raise UserError(f"{path}: column {name!r} has {nulls} empty values")
    return with_text_ids(table, path)


def with_text_ids(table: pa.Table, path: Path) -> pa.Table:
    """Whole numbers in ``prompt_id`` as text. Raises UserError for anything else that is no text."""
    kind = table["prompt_id"].type
    if pa.types.is_integer(kind):
        column = table.schema.get_field_index("prompt_id")
        return table.set_column(column, "prompt_id", table["prompt_id"].cast(pa.string()))
    if not isinstance(table["prompt_id"][0].as_py(), str):
        raise UserError(f"{path}: column 'prompt_id' holds {kind}; text or whole numbers are expected")
    return table


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def whole(values: Sequence[object], path: Path, name: str, dimensions: int) -> np.ndarray:
    """Counts as int64, with so many dimensions. Raises UserError for what is no whole number."""
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} holds values that are no counts: {error}") from error
    if found.ndim != dimensions:
        raise UserError(f"{path}: {name} holds lists; one number a prompt is expected")
    wrong = found[~(np.isfinite(found) & (found == np.floor(found)))]
    if len(wrong):
        raise UserError(
            f"{path}: {name} holds {wrong[0]:g}; counts are expected, for pass rates multiply by n"
        )
    return found.astype(np.int64)


def filtered(table: pa.Table, path: Path, where: Mapping[str, str]) -> pa.Table:
    """The rows whose columns have the values of ``where``; numbers compare as numbers."""
    for name, wanted in where.items():
        if name not in table.schema.names:
            raise UserError(f"--where {name}={wanted}: {path} has no column {name!r}")
        values = table[name].to_pylist()
        keep = [same(value, wanted) for value in values]
        if not any(keep):
            raise UserError(f"--where {name}={wanted}: no such rows in {path}; found {choices(values)}")
        table = table.filter(pa.array(keep))
    return table


def same(value: object, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    try:
        return isinstance(value, int | float) and math.isclose(value, float(wanted), rel_tol=1e-6)
    except ValueError:
        return False


def require_unique(table: pa.Table, path: Path) -> None:
    """Raise UserError, naming what to choose from, when a prompt has several rows."""
    keys = table["prompt_id"].to_pylist()
    if len(set(keys)) == len(keys):
        return
    ambiguous = []
    for name in CONDITIONS:
        if name in table.schema.names:
            values = table[name].to_pylist()
            if len(set(values)) > 1:
                ambiguous.append(f"{name}: {choices(values)}")
    hint = "; choose with --where: " + "; ".join(ambiguous) if ambiguous else ""
    raise UserError(f"{path}: {len(keys)} rows for {len(set(keys))} prompts{hint}")


def choices(values: Sequence[object]) -> str:
    distinct = sorted({f"{value:g}" if isinstance(value, float) else str(value) for value in values})
    more = f", … ({len(distinct)} in all)" if len(distinct) > CHOICES_SHOWN else ""
    return ", ".join(distinct[:CHOICES_SHOWN]) + more


def check_counts(path: Path, k: np.ndarray, n: np.ndarray) -> None:
    if ((k < 0) | (k > n) | (n < 1)).any():
        raise UserError(f"{path}: counts must satisfy 0 <= k_correct <= n and n >= 1")


def prompts_of(table: pa.Table, path: Path, rows: Sequence[int], prior: str | None) -> list[Prompt]:
    """Prompts of the given rows: text from ``question`` where there is one, prior as asked for."""
    keys = table["prompt_id"].to_pylist()
    questions = table["question"].to_pylist() if "question" in table.schema.names else [None] * len(keys)
    priors = prior_column(table, path, prior) if prior else [None] * len(keys)
    return [Prompt(keys[row], question_text(questions[row], path), (), "", prior=priors[row]) for row in rows]


def question_text(question: object, path: Path) -> str:
    """Text, or the contents of chat messages; empty where there is none. Raises UserError for others."""
    try:
        problem = problem_text(question)
    except UserError as error:
        raise UserError(f"{path}: column 'question': {error}") from error
    return "" if problem is None else plain_text(problem)


def prior_column(table: pa.Table, path: Path, prior: str) -> list[float | None]:
    """Pass rates out of "COLUMN" or "COLUMN/N"; None where the column is empty. Raises UserError where a
    value is no pass rate."""
    name, slash, divisor = prior.rpartition("/") if "/" in prior else (prior, "", "1")
    if name not in table.schema.names:
        raise UserError(
            f"--prior {prior}: {path} has no column {name!r}; found {', '.join(table.schema.names)}"
        )
    try:
        scale = float(divisor)
        found = [None if value is None else float(value) / scale for value in table[name].to_pylist()]
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"--prior {prior}: {path} holds values there that are no pass rates: {error}"
        ) from error
    rates = [None if rate is None or math.isnan(rate) else rate for rate in found]
    wrong = [rate for rate in rates if rate is not None and not 0 <= rate <= 1]
    if wrong:
        hint = "" if slash else f"; for counts out of n write {prior}/n with that number"
        raise UserError(f"--prior {prior}: {path} holds {wrong[0]:g}, not a pass rate in [0, 1]{hint}")
    return rates
