"""``depo replay``: its options, and the way from them to tables, JSON and plots."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from depo.errors import DONE, UserError, say
from depo.files import check_place, write_json

if TYPE_CHECKING:
    from depo.replay.comparison import Spec
    from depo.replay.trace import Trace

DEFAULT_SELECTOR = "thompson"


def add_options(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The options of ``depo replay``; `check` judges their values."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="compare estimators and selectors on recorded outcomes",
        description="Compare estimators and selectors on recorded outcomes, before spending a GPU.",
        epilog="NAME may carry options: mopps:discount=0.9,prior_successes=0.5. See docs/replay.md.",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE_OR_RUN", help="Parquet file or depo run directory")
    parser.add_argument("--estimator", action="append", required=True, metavar="NAME", help="repeatable")
    parser.add_argument("--selector", action="append", metavar="NAME", help="repeatable; default: thompson")
    parser.add_argument(
        "--group-size", type=int, metavar="G", help="default: as recorded; 8 for a count file"
    )
    parser.add_argument(
        "--budget", type=float, default=0.25, help="share of the prompts picked a step (%(default)s)"
    )
    parser.add_argument("--audit", type=float, default=0.05, help="uniform share of the picks (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="replays with censored feedback (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="first seed; keys all that is drawn (%(default)s)"
    )
    parser.add_argument("--split", choices=("odd", "even", "all"), default="odd", help="prompts to report on")
    parser.add_argument(
        "--fit-on",
        choices=("split", "all"),
        default="split",
        help="prompts that estimators see, full feedback",
    )
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="rows to keep")
    parser.add_argument(
        "--prior", metavar="COLUMN", help="pass rates to start from; COLUMN/N for counts of N"
    )
    parser.add_argument("--visits", type=int, metavar="V", help="steps; default: all, 1 for a count file")
    parser.add_argument("--batch", type=int, metavar="B", help="full feedback: B prompts a step, in passes")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write reliability diagrams and the front")
    return parser


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what ``depo replay`` was asked for; returns the exit status. Raises UserError for bad input."""
    from depo.replay.comparison import Settings, compare, parse_spec
    from depo.replay.report import draw, replay_result, tables
    from depo.replay.trace import split_rows
    from depo.report.document import show
    from depo.report.provenance import package_versions, source_commit

    check(options)
    estimators = distinct([parse_spec(text, "--estimator") for text in options.estimator], "--estimator")
    selectors = distinct(
        [parse_spec(text, "--selector") for text in options.selector or [DEFAULT_SELECTOR]], "--selector"
    )
    trace, group_size = read_trace(options)
    keep_N = split_rows(trace, options.split)
    pool = trace.take(keep_N)
    graded = trace.grade_only(keep_N) if options.fit_on == "all" else pool
    settings = Settings(
        group_size,
        options.budget,
        options.audit,
        options.seeds,
        options.seed,
        options.resamples,
        options.batch,
    )
    heading(graded, len(trace.prompts), options)
    comparison = compare(graded, pool, estimators, selectors, settings, say)
    show(*tables(comparison))
    if not comparison.censored and trace.kind != "run":
        print("Censored replay left out: it needs at least two visits of every prompt (--visits).")
    if options.json is not None:
        described = {
            **asdict(settings),
            "split": options.split,
            "fit_on": options.fit_on,
            "prompts": int(keep_N.sum()),
            "prompts_in_trace": len(trace.prompts),
            "where": options.where,
            "prior": options.prior,
            "estimators": [spec.label for spec in estimators],
            "selectors": [spec.label for spec in selectors],
            "command": "depo " + shlex.join(arguments),
            "versions": package_versions() | {"commit": source_commit()},
        }
        labels = [spec.label for spec in selectors]
        write_json(options.json, replay_result(graded, comparison, labels, described))
        print(f"JSON: {options.json}")
    if options.plots is not None:
        print(f"plots: {', '.join(str(path) for path in draw(comparison, options.plots))}")
    return DONE


def check(options: argparse.Namespace) -> None:
    """Raise UserError for a number that makes no sense; no file has been touched yet."""
    if not 0 < options.budget <= 1:
        raise UserError(f"--budget {options.budget:g}: expected a share of the prompts in (0, 1]")
    if not 0 <= options.audit <= 1:
        raise UserError(f"--audit {options.audit:g}: expected a share of the picks in [0, 1]")
    if options.group_size is not None and options.group_size < 2:
        raise UserError(
            f"--group-size {options.group_size}: a group needs at least 2 rollouts to be informative"
        )
    for flag in ("seeds", "visits", "resamples", "batch"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: expected at least 1")
    if options.json is not None and options.json.is_dir():
        raise UserError(f"--json {options.json}: is a directory, expected a file to write")
    if options.plots is not None and options.plots.exists() and not options.plots.is_dir():
        raise UserError(f"--plots {options.plots}: is a file, expected a directory to write to")
    for flag, path in (("--json", options.json), ("--plots", options.plots)):
        if path is not None:
            check_place(path, flag)


def distinct(specs: list[Spec], flag: str) -> list[Spec]:
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"{flag} {label}: given twice")
    return specs


def read_trace(options: argparse.Namespace) -> tuple[Trace, int]:
    """The trace that the first argument names, and the group size."""
    from depo.replay.comparison import parse_where
    from depo.replay.parquet import read_parquet
    from depo.replay.run_directory import is_run, read_run

    path: Path = options.trace
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if not path.is_dir():
        return read_parquet(
            path, options.group_size, parse_where(options.where), options.prior, options.visits, options.seed
        )
    if not is_run(path):
        raise UserError(f"{path}: no rollouts/ in it, so this is not a depo run directory")
    for flag, value in (
        ("--where", options.where),
        ("--prior", options.prior),
        ("--visits", options.visits),
        ("--batch", options.batch),
    ):
        if value:
            raise UserError(f"{flag} does not apply to a run directory: {path}")
    trace, recorded = read_run(path)
    if options.group_size not in (None, recorded):
        raise UserError(f"--group-size {options.group_size}: the groups of {path} have {recorded} rollouts")
    return trace, recorded


def heading(trace: Trace, prompts: int, options: argparse.Namespace) -> None:
    """What the figures are about, before the figures."""
    graded = int(trace.graded_NT.any(axis=1).sum())
    kinds = {"training": "training trace", "counts": "count file", "run": "depo run"}
    print(f"{trace.source}: {kinds[trace.kind]}, {prompts} prompts, {trace.trials_NT.shape[1]} steps")
    rule = "all prompts" if options.split == "all" else f"prompts whose SHA-256 is {options.split}"
    seen = "all prompts" if options.fit_on == "all" else "these prompts only"
    print(f"split {options.split!r}: {rule}, {graded} graded; with full feedback the estimators see {seen}")
    if options.batch:
        print(f"with full feedback each visit is a shuffled pass, {options.batch} prompts a step")
    for note in trace.notes:
        print(f"note: {note}")
    print()
