"""One evaluation on disk, from suite to results: load, draw what is missing, judge, measure, write.

It can be continued with the same model and samples of one kind only.

DIR/suite.yaml         the resolved suite
   /evaluation.json    which model, which versions
   /problems/*.parquet what is asked, in token ids
   /samples/*.parquet  every completion with its verdict, as they come
   /results.json, .md  written last: a directory with results is a finished evaluation
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.evaluation.answers import Votes
from depo.evaluation.evaluator import (
    Evaluator,
    LoadedBenchmark,
    context_for,
    load_benchmarks,
    save_benchmarks,
    suite_requests,
    suite_tasks,
)
from depo.evaluation.model import RESULTS, Target, active_parameters, fingerprint, load_tokenizer, serving
from depo.evaluation.report import eval_report
from depo.evaluation.results import SCHEMA_VERSION, check_estimator, figures, means
from depo.evaluation.samples import EvalProgress, SampleStore, SampleWriter
from depo.files import read_json, write_json, write_text
from depo.recipe.schema.evaluation import Suite
from depo.recipe.suites import dump_suite, parse_suite
from depo.report.document import write_result
from depo.report.provenance import provenance
from depo.rollout.engine import Sampling

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


def evaluate(
    target: Target,
    suite: Suite,
    directory: Path,
    *,
    resume: bool,
    quiet: bool,
    arguments: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate a model on a suite in ``directory``; returns the results, which are written there too.

    Raises UserError for bad input. Nothing is written before the model serves: what was refused leaves no
    directory in the way of the corrected command.
    """
    if resume:
        check_resumable(target, suite, directory)
    tokenizer = load_tokenizer(target.model, suite)
    benchmarks = load_benchmarks(suite, tokenizer, directory / "problems")
    for one in benchmarks:
        say(f"{one.name}: {one.rows}")
    store = SampleStore(directory / "samples")
    n = suite.sampling.n
    requests = suite_requests(benchmarks, n, suite.seed, store.done())
    missing = sum(request.n for request in requests)
    total = n * sum(len(one.prompts) for one in benchmarks)
    if missing < total:
        say(f"{total - missing:,} of {total:,} samples are there already")
    seconds = 0.0
    with ExitStack() as stack:
        if requests:
            context = context_for(target.model, suite, benchmarks)
            sampling = Sampling(suite.sampling.temperature, suite.sampling.max_new_tokens)
            evaluator = Evaluator(suite_tasks(benchmarks, suite, stack), tokenizer, sampling)
            progress = EvalProgress(suite.name, total, total - missing, quiet)
            writer = SampleWriter(evaluator.judge, store, progress)
            engine = stack.enter_context(serving(target.model, suite, tokenizer, context, writer.heartbeat))
            begin(target, suite, directory, benchmarks)
            stack.enter_context(progress)
            started = time.perf_counter()
            writer.write(engine.generate(requests, sampling))
            seconds = time.perf_counter() - started
        else:
            begin(target, suite, directory, benchmarks)
    say("measuring")
    document = results(target, suite, benchmarks, store, arguments)
    document["last_session"] = {"samples": missing, "seconds": seconds}
    write_result(document, directory / RESULTS, eval_report)
    return document


def begin(target: Target, suite: Suite, directory: Path, benchmarks: Sequence[LoadedBenchmark]) -> None:
    """Write what is evaluated: the suite, the problems, the model's fingerprint."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / SUITE, dump_suite(suite))
    save_benchmarks(benchmarks, directory / "problems")
    identity = {
        "schema_version": SCHEMA_VERSION,
        "model": target.name,
        "fingerprint": fingerprint(target.model),
    }
    write_json(directory / MANIFEST, identity)


def results(
    target: Target,
    suite: Suite,
    benchmarks: Sequence[LoadedBenchmark],
    store: SampleStore,
    arguments: Sequence[str],
) -> dict[str, Any]:
    """Everything about the evaluation, from what is on disk."""
    rows: dict[str, list[dict[str, Any]]] = {one.name: [] for one in benchmarks}
    for row in store.rows():
        rows[row["benchmark"]].append(row)
    with Votes(suite.verification) as votes:
        found = {one.name: figures(one, rows[one.name], suite, votes) for one in benchmarks}
    return {
        "kind": "eval",
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": target.name,
            "fingerprint": fingerprint(target.model),
            "active_parameters": active_parameters(target.model),
        },
        "suite": without_paths(suite),
        "benchmarks": found,
        "mean": means(found, suite),
        "estimator": check_estimator(target, benchmarks, found, suite.sampling.n),
        "provenance": provenance(arguments, [suite.seed]),
    }


def without_paths(suite: Suite) -> dict[str, Any]:
    """The suite as JSON, files by their names alone: where they lay is nobody's business."""
    dumped = suite.model_dump(mode="json")
    for benchmark in dumped["benchmarks"].values():
        if "path" in benchmark["source"]:
            benchmark["source"]["path"] = Path(benchmark["source"]["path"]).name
    return dumped
