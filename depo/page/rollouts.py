"""Which rollouts of a run are on its page, and in which form the page gets them.

All of them, where they fit into the budget. Else whole groups by this rule: half of the budget goes to what
people look for (`SOUGHT`, each the same share), the other half to the whole histories of prompts in the order
of their keys, which are hashes: a random sample that stays the same. Long completions are cut in the middle.

The form: ``prompts`` are [key, text, reference, history], a history is [step, believed pass rate, right,
judged] a visit. ``groups`` are [prompt, step, origin, believed, its sd, z, rollouts], where z is how many
standard deviations the outcome is away from the belief. A rollout is [completion, verdict, score, advantage,
finish reason, tokens, outcome, unparseable, detail, components, shades], and shades are [level, characters,
level, characters, ...]: how unlikely the tokens of these characters were.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depo.errors import UserError
from depo.files import complete_checkpoints

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CUT = 4000
"""Characters of a completion."""

FIGURES = 64
"""Bytes of a rollout beside its texts, about."""

LEVEL_NATS = 0.5
"""Of surprise from one shade of a token to the next; there are ten."""

LIGHT = ["prompt_key", "sample_index", "predicted_mean", "predicted_sd", "correct", "advantage"]


@dataclass(frozen=True, slots=True)
class Visit:
    """A group as it is looked at to choose: rows ``first`` to ``last`` of its step's file."""

    key: str
    step: int
    first: int
    last: int
    believed: float | None
    sd: float | None
    right: int
    judged: int
    largest: float  # |advantage|
    truncated: bool
    bytes: int

    @property
    def z(self) -> float | None:
        """Standard deviations between the realised pass rate and the believed one, sampling included."""
        if self.believed is None or not self.judged:
            return None
        variance = (self.sd or 0.0) ** 2 + self.believed * (1 - self.believed) / self.judged
        return (self.right / self.judged - self.believed) / math.sqrt(variance + 1e-6)


SOUGHT = {
    "surprising outcomes": lambda visit: abs(visit.z or 0.0),
    "truncated ones": lambda visit: visit.truncated * visit.step,
    "unscorable ones": lambda visit: (visit.judged < visit.last - visit.first) * visit.step,
    "largest advantages": lambda visit: visit.largest,
}
"""What is looked for: the larger, the sooner taken; 0 is none of it. Of alike ones the newest."""


def rollouts_data(run_dir: Path, budget: int) -> dict[str, Any] | None:
    """What the page gets, of about ``budget`` bytes; None where the run kept no rollouts. Raises UserError
    for a file that cannot be read."""
    files = {int(file.stem.removeprefix("step_")): file for file in run_dir.glob("rollouts/step_*.parquet")}
    tokenizer = find_tokenizer(run_dir)
    visits = [visit for step in sorted(files) for visit in read_visits(files[step], step, tokenizer)]
    if not visits:
        return None
    histories: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        histories[visit.key].append(visit)
    kept = visits if sum(one.bytes for one in visits) <= budget else sample(visits, histories, budget)
    by_step: dict[int, list[Visit]] = defaultdict(list)
    for visit in kept:
        by_step[visit.step].append(visit)
    prompts: dict[str, list[Any]] = {}
    groups: list[list[Any]] = []
    for step, here in sorted(by_step.items()):
        table = read(files[step])
        for visit in here:
            rows = table.slice(visit.first, visit.last - visit.first).to_pylist()
            if visit.key not in prompts:
                history = [
                    [one.step, short(one.believed), one.right, one.judged] for one in histories[visit.key]
                ]
                prompts[visit.key] = [len(prompts), rows[0]["prompt"], rows[0]["reference"], history]
            belief = map(short, (visit.believed, visit.sd, visit.z))
            drawn = [rollout(row, tokenizer) for row in rows]
            groups.append([prompts[visit.key][0], step, rows[0]["origin"], *belief, drawn])
    return {
        "prompts": [[key[:16], *rest] for key, (_, *rest) in prompts.items()],
        "groups": groups,
        "shown": sum(visit.last - visit.first for visit in kept),
        "total": sum(visit.last - visit.first for visit in visits),
        "rule": rule(run_dir, len(kept) == len(visits)),
    }


def rule(run_dir: Path, whole: bool) -> str:
    said = (
        "All rollouts of the run are here."
        if whole
        else (
            "Not all fit. Half of the place went to groups of these kinds, each the same share: "
            f"{', '.join(SOUGHT)}. The other half went to whole histories of prompts, taken at random (in "
            "the order of their keys)."
        )
    )
    where = f"{run_dir.resolve().name}/rollouts/*.parquet"
    return f"{said} Completions over {CUT:,} characters are cut in the middle. Everything is in {where}."


def sample(visits: Sequence[Visit], histories: dict[str, list[Visit]], budget: int) -> list[Visit]:
    kept: dict[tuple[int, int], Visit] = {}
    spent = 0

    def take(order: Iterator[Visit], limit: float) -> None:
        nonlocal spent
        for visit in order:
            if (visit.step, visit.first) not in kept and spent + visit.bytes <= limit:
                kept[visit.step, visit.first] = visit
                spent += visit.bytes

    for place, wanted in enumerate(SOUGHT.values(), 1):
        found = sorted(filter(wanted, visits), key=lambda visit: (-wanted(visit), -visit.step))
        take(iter(found), budget / 2 * place / len(SOUGHT))
    take((visit for key in sorted(histories) for visit in histories[key]), budget)
    return sorted(kept.values(), key=lambda visit: (visit.step, visit.first))


# ---------------------------------------------------------------- reading


def read(file: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{file}: cannot be read as rollouts ({str(error).splitlines()[0]}); move it away to see the rest"
        ) from None


def read_visits(file: Path, step: int, tokenizer: object) -> Iterator[Visit]:
    table = read(file, [*LIGHT, "finish_reason", "prompt", "completion", "engine_logprobs"])
    column = {name: table[name].to_pylist() for name in LIGHT}
    size_R = np.minimum(pc.binary_length(table["completion"].cast(pa.binary())).to_numpy(), CUT) + FIGURES
    if tokenizer is not None:
        size_R = size_R + np.minimum(2 * pc.list_value_length(table["engine_logprobs"]).to_numpy(), CUT)
    prompt_R = pc.binary_length(table["prompt"].cast(pa.binary())).to_numpy()
    cut_R = pc.equal(table["finish_reason"], "length").to_pylist()
    keys, indices = column["prompt_key"], column["sample_index"]
    begins = [r for r in range(len(keys)) if not r or keys[r] != keys[r - 1] or indices[r] <= indices[r - 1]]
    for first, last in zip(begins, [*begins[1:], len(keys)], strict=True):
        verdicts = [one for one in column["correct"][first:last] if one is not None]
        yield Visit(
            key=keys[first],
            step=step,
            first=first,
            last=last,
            believed=column["predicted_mean"][first],
            sd=column["predicted_sd"][first],
            right=sum(verdicts),
            judged=len(verdicts),
            largest=max(
                (abs(one) for one in column["advantage"][first:last] if one is not None), default=0.0
            ),
            truncated=any(cut_R[first:last]),
            bytes=int(size_R[first:last].sum() + prompt_R[first]),
        )


def rollout(row: dict[str, Any], tokenizer: Tokenizer | None) -> list[Any]:
    text, shades = row["completion"], "" if tokenizer is None else surprise(row, tokenizer)
    if len(text) > CUT:  # the answer is at the end
        half = CUT // 2
        gap = f"\n[… {len(text) - 2 * half:,} characters left out …]\n"
        text = text[:half] + gap + text[-half:]
        shades = shades and shades[:half] + "0" * len(gap) + shades[-half:]
    verdict = {True: 1, False: 0, None: None}[row["correct"]]
    components = {name: short(value) for name, value in row["components"]}
    figures = [short(row["value"]), short(row["advantage"]), row["finish_reason"], len(row["token_ids"])]
    judged = [row["outcome"], int(row["unparseable"]), row["detail"], components]
    return [text, verdict, *figures, *judged, [n for run in runs(shades) for n in run]]


def surprise(row: dict[str, Any], tokenizer: Tokenizer) -> str:
    """A digit for each character of the completion: how unlikely the engine found its token. Empty where the
    tokens do not spell the completion."""
    from tokenizers.decoders import DecodeStream

    stream, text, levels, nats = DecodeStream(ids=[], skip_special_tokens=True), "", "", 0.0
    for token, logprob in zip(row["token_ids"], row["engine_logprobs"], strict=True):
        nats -= logprob
        piece = stream.step(tokenizer, token)
        if piece:  # or the token is but a part of a character
            text += piece
            levels += str(max(0, min(int(nats / LEVEL_NATS), 9))) * len(piece)
            nats = 0.0
    return levels if text == row["completion"] else ""


def runs(shades: str) -> Iterator[tuple[int, int]]:
    """(level, characters) one after another."""
    return ((int(level), len(list(alike))) for level, alike in groupby(shades))


def find_tokenizer(run_dir: Path) -> Tokenizer | None:
    """Of the run's policy, where the run directory has one."""
    from tokenizers import Tokenizer

    checkpoints = sorted(complete_checkpoints(run_dir / "checkpoints"), reverse=True)
    for place in (run_dir / "policy", *(one / "policy" for one in checkpoints), run_dir / "initial_policy"):
        if (place / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(place / "tokenizer.json"))
    return None


def short(value: float | None) -> float | None:
    """Four digits are enough to look at."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
