"""Whether an evaluation can be continued: the same model, and samples of one kind only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depo.checkpoint import read_json
from depo.config.suite import Suite
from depo.errors import UserError
from depo.evaluation.target import Target, fingerprint
from depo.recipe.suites import parse_suite

SUITE, MANIFEST = "suite.yaml", "evaluation.json"
MAY_CHANGE = {"k", "extrapolate", "resamples", "threads", "transformers", "vllm", "verification"}
"""What a resumed evaluation may set anew, beside a larger ``sampling.n``: none of it changes a sample that is
there already."""


def check_resumable(target: Target, suite: Suite, directory: Path) -> None:
    """Raise UserError unless the evaluation in ``directory`` is of the same model and samples alike."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise UserError(f"--run-dir {directory}: no evaluation to resume here ({MANIFEST} is missing)")
    stored, found = read_json(manifest), fingerprint(target.model)
    if stored["fingerprint"] != found:
        raise UserError(
            f"--resume: {directory} was begun with the model {stored['model']} (fingerprint "
            f"{stored['fingerprint']}), this is {target.name} ({found}); name another directory"
        )
    check_same(parse_suite(directory / SUITE)[0], suite, directory / SUITE)


def check_same(before: Suite, now: Suite, file: Path) -> None:
    """Raise UserError when a resumed evaluation would mix samples of two kinds."""
    if set(before.benchmarks) != set(now.benchmarks):
        raise UserError(
            f"--resume: {file} has the benchmarks {', '.join(before.benchmarks)}, now asked for are "
            f"{', '.join(now.benchmarks)}; ask for the same (--only {','.join(before.benchmarks)}), or name "
            "another directory"
        )
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    drawn_before, drawn_now = old["sampling"].pop("n"), new["sampling"].pop("n")
    # The problems are stored: where they once came from matters no more, but how many were asked for does.
    for benchmark in [*old["benchmarks"].values(), *new["benchmarks"].values()]:
        benchmark["source"] = {"limit": benchmark["source"].get("limit")}
        del benchmark["local"]
    for key in MAY_CHANGE:
        del old[key], new[key]
    changed = [f"{key} was {value!r}, now {other!r}" for key, value, other in differences(old, new)]
    if changed:
        raise UserError(
            f"--resume: {'; '.join(changed)}; what {file} says may only change in "
            f"{', '.join(sorted(MAY_CHANGE))} and to a larger sampling.n"
        )
    if drawn_now < drawn_before:
        raise UserError(f"--resume: sampling.n {drawn_now} is less than the {drawn_before} of {file}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two nested mappings differ."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from ((f"{key}.{rest}", *values) for rest, *values in differences(before, now))
        elif before != now:
            yield key, before, now
