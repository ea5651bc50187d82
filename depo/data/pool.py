"""The prompts of a run: the pool that a selector draws from, and its copy as Parquet in the run directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depo import rng
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


SCHEMA_VERSION = 1


class PromptPool:
    """The training prompts. State: pass number, position in the pass, deferred prompts.

    ``by_key`` lists the prompts in the order of their keys, whatever the file's order was.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Raises UserError for an empty pool or two prompts with the same key."""
        if not prompts:
            raise UserError("data.train: the pool holds no prompts")
        self.prompts = list(prompts)
        self.seed = seed
        self.by_key = sorted(self.prompts, key=lambda prompt: prompt.key)
        for first, second in zip(self.by_key, self.by_key[1:], strict=False):
            if first.key == second.key:
                raise UserError(
                    f"data.train: the pool holds the prompt {first.key[:12]} twice: {first.text[:60]!r}"
                )
        keys = "\n".join(prompt.key for prompt in self.by_key)
        self.fingerprint = hashlib.sha256(keys.encode()).hexdigest()
        # Of the passes met last: sorting 100,000 prompts takes time.
        self._orders: dict[int, list[Prompt]] = {}
        self._pass, self._position = 0, 0
        self._order: list[Prompt] = []
        self._start_pass(0)
        self._deferred: list[Prompt] = []

    def __len__(self) -> int:
        return len(self.prompts)

    def next(self, n: int) -> list[Prompt]:
        """The next ``n`` prompts. None comes twice while ``n`` ≤ len; beyond, all come equally often ± 1."""
        picked: list[Prompt] = []
        taken: set[str] = set()
        for _ in range(n):
            if len(taken) == len(self):
                taken.clear()
            prompt = self._next_not_in(taken)
            taken.add(prompt.key)
            picked.append(prompt)
        return picked

    def peek(self, n: int) -> list[Prompt]:
        """What ``next(n)`` would return; ``next(k)`` returns its first k. The position does not move."""
        here = self._pass, self._position, self._order, list(self._deferred)
        prompts = self.next(n)
        self._pass, self._position, self._order, self._deferred = here
        return prompts

    def put_back(self, prompts: Sequence[Prompt]) -> None:
        """These are the next ones, in this order."""
        self._deferred[:0] = prompts

    def candidates(self, n: int, rng: np.random.Generator) -> list[Prompt]:
        """``min(n, len)`` distinct prompts, uniformly; the position does not move."""
        chosen = rng.choice(len(self), size=min(n, len(self)), replace=False)
        return [self.by_key[index] for index in chosen]

    def state_dict(self) -> dict[str, Any]:
        """JSON; the prompts themselves are named by a fingerprint of their keys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "pass": self._pass,
            "position": self._position,
            "deferred": [prompt.key for prompt in self._deferred],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of a pool with other prompts or another seed."""
        if state["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"checkpoint: the pool's schema_version is {state['schema_version']}, "
                f"this depo reads {SCHEMA_VERSION}"
            )
        if state["fingerprint"] != self.fingerprint:
            raise UserError("data.train: these are not the prompts that the checkpoint was made with")
        if state["seed"] != self.seed:
            raise UserError(f"seed: the checkpoint was made with {state['seed']}, the recipe has {self.seed}")
        self._start_pass(state["pass"])
        self._position = state["position"]
        by_key = {prompt.key: prompt for prompt in self.by_key}
        self._deferred = [by_key[key] for key in state["deferred"]]

    def _start_pass(self, number: int) -> None:
        self._pass = number
        self._position = 0
        if number not in self._orders:
            order = sorted(
                self.by_key, key=lambda prompt: rng.seed64(self.seed, "pool pass", number, prompt.key)
            )
            near = {known: self._orders[known] for known in self._orders if abs(known - number) == 1}
            self._orders = near | {number: order}
        self._order = self._orders[number]

    def _next_not_in(self, taken: set[str]) -> Prompt:
        for index, prompt in enumerate(self._deferred):
            if prompt.key not in taken:
                return self._deferred.pop(index)
        while True:
            if self._position == len(self._order):
                self._start_pass(self._pass + 1)
            prompt = self._order[self._position]
            self._position += 1
            if prompt.key not in taken:
                return prompt
            self._deferred.append(prompt)
