"""``depo verify FILE``: which gold answers of a data file the math reward can judge by.

Each gold answer is given as a completion, in a box, and judged against itself. Four findings:

- *does not verify*: its own answer would be wrong;
- *prose*: a text about the answer; its rollouts would be unscorable, and teach nothing;
- *as text*: no parser reads it; only an answer that is written alike is right;
- *disputed*: math-verify, asked alone, reads another number than the reward does.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.errors import DONE, UserError

if TYPE_CHECKING:
    from depo.reward import Sample, Score, VerifierPool

FINDINGS = ("does not verify", "prose", "as text", "disputed")
WORKER = {"type": "function", "path": "depo.evaluation.verify:judge"}
TIMEOUT = 10.0  # seconds a gold answer
SHOWN = 20  # rows of each finding that are printed; --json holds all
LOOKED_AT = 200  # golds that are judged when a run starts
TOO_MANY = 0.05  # share of them that does not verify from which on the run warns


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the gold answers of a data file",
        description="Judge each gold answer against itself by the math reward, and list what is doubtful.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".parquet, .jsonl, .json or .csv")
    parser.add_argument("--answer", metavar="COLUMN", help="column of gold answers; default: found by name")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="rows to keep")
    parser.add_argument("--limit", type=int, metavar="N", help="the first rows only")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all findings there")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Print what was found. Raises UserError for a file without usable golds, or when none verifies."""
    from depo.files import check_place, write_json
    from depo.reward import VerifierPool

    if options.json is not None:
        check_place(options.json, "--json")
    golds = read_golds(options.file, options.answer, options.where, options.limit)
    with VerifierPool(WORKER, workers=2, timeout=TIMEOUT) as pool:
        texts = list(dict.fromkeys(golds.values()))
        scores = pool.score([as_sample(text) for text in texts])
    findings = dict(zip(texts, map(finding, scores), strict=True))
    rows = [{"row": row, "gold": gold, **findings[gold]} for row, gold in golds.items() if findings[gold]]
    counts = Counter(row["finding"] for row in rows)
    verified = len(golds) - counts["does not verify"] - counts["prose"]
    for kind in FINDINGS:
        print_finding(kind, [row for row in rows if row["finding"] == kind])
    print(f"gold answers: {verified:,} of {len(golds):,} verify")
    if options.json is not None:
        document = {"file": str(options.file), "golds": len(golds), "verify": verified, "findings": rows}
        write_json(options.json, document, indent=1)
        print(f"JSON: {options.json}")
    if not verified:
        raise UserError(f"{options.file}: no gold answer verifies; --answer COLUMN names another column")
    return DONE


def read_golds(path: Path, answer: str | None, where: Sequence[str], limit: int | None) -> dict[int, str]:
    """Gold answers by row, from 1; rows without one are left out. Raises UserError as data sources do."""
    from depo.data.sources import ANSWER_NAMES, find_column, open_file
    from depo.data.text import answer_text
    from depo.recipe.schema import FileSource

    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    pairs = [text.partition("=") for text in where]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise UserError(f"--where {wrong[0]}: expected COLUMN=VALUE")
    table = open_file(FileSource(path=path), "FILE")
    column = find_column(table, answer, ANSWER_NAMES, "--answer")
    names = [find_column(table, name, (), "--where") for name, _, _ in pairs]
    wanted = [value for _, _, value in pairs]
    golds: dict[int, str] = {}
    kept = 0
    for row, (value, *others) in enumerate(table.rows([column, *names]), start=1):
        if list(map(str, others)) != wanted:
            continue
        kept += 1
        if limit is not None and kept > limit:
            break
        try:
            gold = answer_text(value)
        except UserError as error:
            raise UserError(f"column {column} of {table.name}, row {row}: {error}") from error
        if gold is not None:
            golds[row] = gold
    if not golds:
        raise UserError(f"{path}: column {column} holds no gold answer")
    return golds


def as_sample(gold: str) -> Sample:
    from depo.reward import Sample

    return Sample(f"So it is $\\boxed{{{gold}}}$.", gold, tokens=1, finish_reason="stop", max_tokens=1)


def judge(sample: Sample) -> Score:
    """What the workers do: the verdict on a gold answer against itself; ``detail`` holds a doubt about it."""
    from depo.reward import Score, unscorable
    from depo.reward.math import MathReward, doubt

    (score,) = MathReward().score([sample])
    if score.correct is None:
        return unscorable("prose")
    return Score(score.value, score.correct, detail=doubt(sample.reference) if score.correct else "")


def finding(score: Score) -> Mapping[str, Any]:
    """What is doubtful about a gold answer, and why; empty when nothing is."""
    if score.correct is None:
        kind = "prose" if score.detail == "prose" else "does not verify"
        return {"finding": kind, "why": "" if kind == "prose" else score.detail}
    if not score.correct:
        return {"finding": "does not verify", "why": ""}
    if not score.detail:
        return {}
    return {"finding": "as text" if score.detail == "as text" else "disputed", "why": score.detail}


def print_finding(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    print(f"{kind}: {len(rows):,}")
    for row in rows[:SHOWN]:
        why = f" ({row['why']})" if row["why"] not in ("", kind) else ""
        print(f"  row {row['row']}: {row['gold'][:100]!r}{why}")
    if len(rows) > SHOWN:
        print(f"  and {len(rows) - SHOWN:,} more")


def gold_line(references: Sequence[str], reward: VerifierPool, say: Callable[..., None]) -> None:
    """One line about the gold answers of a run, from a sample of them; a warning when too many fail."""
    step = max(1, len(references) // LOOKED_AT)
    sample = references[::step][:LOOKED_AT]
    scores = reward.score([as_sample(gold) for gold in sample])
    failed = [gold for gold, score in zip(sample, scores, strict=True) if score.correct is not True]
    looked_at = "" if len(sample) == len(references) else f", of {len(references):,}"
    say(f"gold answers: {len(sample) - len(failed):,} of {len(sample):,} verify{looked_at}")
    if len(failed) > TOO_MANY * len(sample):
        say(
            f"warning: {len(failed):,} of {len(sample):,} gold answers do not verify against themselves, "
            f"such as {failed[0][:60]!r}: their rollouts are wrong or unscorable, whatever they say "
            "(depo verify FILE lists them)",
            always=True,
        )
