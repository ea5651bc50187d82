"""Prompts as Parquet in the run directory: what a run trains on, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depo.errors import UserError
from depo.files import file_aside, read_json, write_json
from depo.types import Prompt

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("prior", pa.float64()),
    ],
    metadata={"schema_version": "2"},
)


def save_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write all fields, in order. A file that exists is replaced, whole."""
    columns = [[getattr(prompt, name) for prompt in prompts] for name in SCHEMA.names]
    with file_aside(path) as aside:
        pq.write_table(pa.table(columns, schema=SCHEMA), aside, compression="zstd")


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
        Prompt(key, text, tuple(token_ids), reference, prior)
        for key, text, token_ids, reference, prior in zip(*columns, strict=True)
    ]


TRAIN_FILE, HELDOUT_FILE, PARTS_FILE = "prompts.parquet", "heldout.parquet", "heldout_parts.json"


@dataclass(frozen=True, slots=True)
class RunPrompts:
    """What a run trains on, and what is held out to evaluate it. The two share no key.

    ``parts`` names parts of the held-out prompts, by their keys: accuracy is measured on each of them too.
    """

    train: list[Prompt]
    heldout: list[Prompt]
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def stored(cls, run_dir: Path) -> RunPrompts | None:
        """What an earlier start of the run stored, if it came that far."""
        train, heldout, parts = (run_dir / name for name in (TRAIN_FILE, HELDOUT_FILE, PARTS_FILE))
        if not (train.exists() and heldout.exists()):
            return None
        named = read_json(parts) if parts.exists() else {}
        return cls(
            load_saved(train),
            load_saved(heldout),
            {name: frozenset(keys) for name, keys in named.items()},
        )

    def store(self, run_dir: Path) -> None:
        """Keep the prompts with the run: a resume does not depend on their source."""
        if self.parts:
            write_json(run_dir / PARTS_FILE, {name: sorted(keys) for name, keys in self.parts.items()})
        save_prompts(run_dir / HELDOUT_FILE, self.heldout)
        save_prompts(run_dir / TRAIN_FILE, self.train)  # last: with it the others are there
