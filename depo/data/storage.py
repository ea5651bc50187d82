"""Prompts as Parquet in the run directory: a resumed run needs neither the source nor the same file order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depo.errors import UserError
from depo.types import Prompt

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("prior", pa.float64()),
        pa.field("level", pa.string()),
    ],
    metadata={"schema_version": "1"},
)


def save_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write all fields, in order; written aside and renamed. A file that exists is replaced."""
    columns = [[getattr(prompt, name) for prompt in prompts] for name in SCHEMA.names]
    table = pa.table(columns, schema=SCHEMA)
    aside = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, aside, compression="zstd")
    os.replace(aside, path)


def load_saved(path: Path) -> list[Prompt]:
    """The prompts that ``save_prompts`` wrote, equal in every field. Raises UserError for any other file."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the stored prompts {path}: {error}") from error
    version = (table.schema.metadata or {}).get(b"schema_version")
    if version != SCHEMA.metadata[b"schema_version"] or table.column_names != SCHEMA.names:
        raise UserError(f"{path} does not hold prompts as this version of depo stores them")
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    return [
        Prompt(key, text, tuple(token_ids), reference, prior, level)
        for key, text, token_ids, reference, prior, level in zip(*columns, strict=True)
    ]
