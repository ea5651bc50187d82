"""``depo eval`` from parsed options to tables, JSON, Markdown and plots."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depo.bench.report import write_result
from depo.config.suite import Suite
from depo.errors import UserError
from depo.evaluation.comparison import compare, read_results, show_comparison
from depo.evaluation.report import show_results
from depo.evaluation.target import RESULTS, Target, find_target, is_evaluation
from depo.failures import DONE
from depo.recipe.suites import load_suite, parse_suite

SIDES = ("first", "second")


def evaluate_command(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what ``depo eval`` was asked for; returns the exit status. Raises UserError for bad input."""
    if options.json is not None and options.json.is_dir():
        raise UserError(f"--json {options.json}: is a directory, expected a file to write")
    sides = [options.target] + ([options.vs] if options.vs is not None else [])
    finished = [is_evaluation(side) for side in sides]
    if finished == [True]:
        raise UserError(f"{options.target}: is a finished evaluation; compare it: --vs MODEL_OR_EVALUATION")
    targets = [None if done else find_target(side) for side, done in zip(sides, finished, strict=True)]
    suite = None if all(finished) else chosen_suite(options, sides, finished)
    directory = options.run_dir
    if directory is None and suite is not None:
        directory = new_directory(suite.name)
    documents = []
    for side, target, label in zip(sides, targets, SIDES, strict=False):
        if target is None:
            documents.append(read_results(side))
            continue
        assert suite is not None
        own = directory if len(sides) == 1 else directory / label
        documents.append(one_evaluation(target, suite, own, options, arguments))
    if len(documents) == 1:
        outcome = documents[0]
    else:
        outcome = compare(*documents, arguments)
        show_comparison(outcome)
        if directory is not None:
            for path in write_result(outcome, directory / "comparison.json"):
                print(path)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(outcome, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"JSON: {options.json}")
    return DONE


def one_evaluation(
    target: Target, suite: Suite, directory: Path, options: argparse.Namespace, arguments: Sequence[str]
) -> dict[str, Any]:
    """Evaluate one model in ``directory`` and show what came out."""
    from depo.evaluation.evaluate import evaluate

    say: Callable[[str], None] = (
        (lambda line: None) if options.quiet else (lambda line: print(line, flush=True))
    )
    # The second of two models may not have begun when the first was interrupted.
    resume = options.resume and (directory / "evaluation.json").is_file()
    if options.resume and not resume and options.vs is None:
        raise UserError(f"--run-dir {directory}: no evaluation to resume here (evaluation.json is missing)")
    say(f"{target.name} on {suite.name}, {suite.sampling.n} samples a problem: {directory}")
    document = evaluate(
        target, suite, directory, resume=resume, quiet=options.quiet, arguments=arguments, say=say
    )
    show_results(document)
    print(f"results: {directory / RESULTS}")
    return document


def chosen_suite(options: argparse.Namespace, sides: Sequence[str], finished: Sequence[bool]) -> Suite:
    """The suite that is asked for: by --suite; on --resume and beside a finished evaluation, that one's."""
    overrides = list(options.overrides)
    if options.n is not None:
        overrides.append(f"sampling.n={options.n}")
    if options.engine is not None:
        overrides.append(f"engine={options.engine}")
    if options.suite is not None:
        return load_suite(options.suite, overrides, options.data_dir)
    stored = [Path(side) / "suite.yaml" for side, done in zip(sides, finished, strict=True) if done]
    if options.resume:
        stored = [options.run_dir / "suite.yaml", options.run_dir / SIDES[0] / "suite.yaml", *stored]
    for path in stored:
        if path.is_file():
            return parse_suite(path, overrides)[0]
    raise UserError("--suite is missing: which benchmarks? For example --suite math")


def new_directory(suite: str) -> Path:
    """runs/eval-SUITE-TIMESTAMP (UTC), numbered when two start in the same second."""
    stem = f"eval-{suite}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, attempt = Path("runs") / stem, 1
    while directory.exists():
        attempt += 1
        directory = Path("runs") / f"{stem}-{attempt}"
    return directory
