"""``depo eval`` from options to tables, JSON, Markdown and plots.

What ``depo eval`` and the cascade's command share is here too: options of a suite, and evaluating the sides.
Importing this module imports nothing heavy; what runs does so inside of its function.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.errors import DONE, UserError
from depo.files import check_place, new_directory, write_json

if TYPE_CHECKING:
    from depo.evaluation.model import Target
    from depo.recipe.schema.evaluation import Suite

Document = Mapping[str, Any]
"""The JSON of a finished evaluation."""

EXAMPLES = """\
  depo eval runs/math-7 --suite math --n 32 --engine vllm        a training run's policy
  depo eval DIR --suite aime --data-dir data                     a model directory; files instead of the hub
  depo eval A --vs B --suite math                                two models, paired by problem
  depo eval runs/eval-a --vs runs/eval-b                         two finished evaluations
  depo eval DIR --suite math benchmarks.gsm8k.source.limit=100   any key of the suite, as for recipes

Suites: a name in recipes/eval or a YAML file. See docs/evaluation.md.
"""


def benchmark_names(text: str) -> list[str]:
    """``gsm8k,amc23`` → both."""
    return [name.strip() for name in text.split(",")]


def add_options(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "eval",
        help="measure a model on a suite of benchmarks",
        description="Measure a model on a suite of benchmarks, with intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="MODEL_OR_RUN", help="model directory, hub id, or run directory")
    parser.add_argument("--vs", metavar="MODEL_OR_RUN", help="another model, or evaluation, to compare with")
    add_suite_options(parser, "runs/eval-SUITE-TIMESTAMP")
    return parser


def add_suite_options(parser: argparse.ArgumentParser, directory: str) -> None:
    """Options of every command that evaluates on a suite; ``directory``: where results go by default."""
    add = parser.add_argument
    add("overrides", nargs="*", default=[], metavar="key=value", help="keys of the suite")
    add("--suite", metavar="NAME", help="math, aime, mgsm, reasoning_gym, or a YAML file")
    add("--only", type=benchmark_names, metavar="NAME,...", help="these of its benchmarks")
    add("--n", type=int, metavar="N", help="samples a problem; short for sampling.n=N")
    add("--engine", choices=("transformers", "vllm"), help="short for engine=...")
    add("--data-dir", type=Path, metavar="DIR", help="local copies of the benchmarks")
    add("--run-dir", type=Path, metavar="DIR", help=f"default: {directory}")
    add("--resume", action="store_true", help="continue what is in --run-dir")
    add("--json", type=Path, metavar="OUT", help="write the results there too")
    add("--quiet", action="store_true", help="no progress, only the result")


SIDES = ("first", "second")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what ``depo eval`` was asked for; returns the exit status. Raises UserError for bad input."""
    from depo.evaluation.comparison import check_comparable, compare, comparison_report, show_comparison
    from depo.evaluation.model import is_evaluation
    from depo.report.document import write_result

    check_json(options.json)
    sides = [options.target] + ([options.vs] if options.vs is not None else [])
    if len(sides) == 1 and is_evaluation(options.target):
        raise UserError(f"{options.target}: is a finished evaluation; compare it: --vs MODEL_OR_EVALUATION")
    documents, _, directory = evaluated(sides, SIDES, options, arguments, check_comparable)
    if len(documents) == 1:
        outcome = documents[0]
    else:
        first, second = documents
        outcome = compare(first, second, arguments, sides)
        show_comparison(outcome)
        if directory is not None:
            for path in write_result(outcome, directory / "comparison.json", comparison_report):
                print(path)
    write_copy(outcome, options.json)
    return DONE


def check_json(path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--json {path}: is a directory, expected a file to write")
    check_place(path, "--json")


def write_copy(outcome: Mapping[str, Any], path: Path | None) -> None:
    """Write what ``--json`` asks for, if it was given."""
    if path is None:
        return
    write_json(path, outcome, indent=1)
    print(f"JSON: {path}")


def evaluated(
    sides: Sequence[str],
    labels: Sequence[str],
    options: argparse.Namespace,
    arguments: Sequence[str],
    agree: Callable[[Document, Document], None],
) -> tuple[list[dict[str, Any]], list[Path], Path | None]:
    """The results of every side, and where they lie; what is not yet a finished evaluation is evaluated. Two
    sides go to one directory each, named by ``labels``, below the last value: ``--run-dir`` or a new one,
    None where it was not given and nothing had to be evaluated. ``agree`` raises UserError for two sides that
    cannot be set side by side; it sees what is known of them beforehand (`outlook`)."""
    from depo.evaluation.comparison import read_results
    from depo.evaluation.model import find_target, is_evaluation

    # What is wrong with one side is told before the other's hours, not after.
    stored = {side: read_results(side) for side in sides if is_evaluation(side)}
    targets = {side: find_target(side) for side in sides if side not in stored}
    if not targets:
        check_idle_options(options, list(stored.values()))
        documents = [stored[side] for side in sides]
        agree(*documents)
        return documents, [Path(side) for side in sides], options.run_dir
    suite = chosen_suite(options, [Path(side) / "suite.yaml" for side in stored], labels)
    check_engine(suite)
    directory: Path = options.run_dir or new_directory(f"eval-{suite.name}")
    alone = len(sides) == 1
    places = [
        Path(side) if side in stored else directory if alone else directory / label
        for side, label in zip(sides, labels, strict=False)
    ]
    pairs = list(zip(sides, places, strict=True))
    if not alone:
        agree(*(stored.get(side) or outlook(targets[side], suite, place) for side, place in pairs))
    documents = [
        stored.get(side) or one_evaluation(targets[side], suite, place, options, arguments, alone=alone)
        for side, place in pairs
    ]
    return documents, places, directory


def check_engine(suite: Suite) -> None:
    if suite.engine == "vllm" and find_spec("vllm") is None:
        raise UserError('engine: vllm is not installed; pip install "depo-rl[gpu]", or engine=transformers')


def outlook(target: Target, suite: Suite, place: Path) -> Document:
    """What the document of an evaluation will say that has not begun: model, suite, and which problems."""
    from depo.evaluation.evaluate import without_paths
    from depo.evaluation.evaluator import load_benchmarks
    from depo.evaluation.model import active_parameters, load_tokenizer

    benchmarks = load_benchmarks(suite, load_tokenizer(target.model, suite), place / "problems")
    return {
        "model": {"name": target.name, "active_parameters": active_parameters(target.model)},
        "suite": without_paths(suite),
        "benchmarks": {
            one.name: {"each": [{"key": prompt.key} for prompt in one.prompts]} for one in benchmarks
        },
    }


def check_idle_options(options: argparse.Namespace, documents: Sequence[Document]) -> None:
    """Raise UserError for options that ask for another evaluation than those which are finished."""
    for flag, value in (
        ("--only", options.only),
        ("--n", options.n),
        ("--engine", options.engine),
        ("--data-dir", options.data_dir),
        ("key=value", options.overrides or None),
    ):
        if value is not None:
            raise UserError(
                f"{flag}: both sides are finished evaluations, so there is nothing for it to act on"
            )
    for document in documents:
        name = document["suite"]["name"]
        if options.suite is not None and name not in (options.suite, Path(options.suite).stem):
            raise UserError(
                f"--suite {options.suite}: the finished evaluation is of {name}; leave --suite out"
            )


def one_evaluation(
    target: Target,
    suite: Suite,
    directory: Path,
    options: argparse.Namespace,
    arguments: Sequence[str],
    *,
    alone: bool,
) -> dict[str, Any]:
    """Evaluate one model in ``directory`` and show what came out; ``alone``: not one of two."""
    from depo.evaluation.evaluate import evaluate
    from depo.evaluation.model import RESULTS
    from depo.evaluation.report import show_results

    say: Callable[[str], None] = (
        (lambda line: None) if options.quiet else (lambda line: print(line, flush=True))
    )
    # The second of two models may not have begun when the first was interrupted.
    resume = options.resume and (directory / "evaluation.json").is_file()
    if options.resume and not resume and alone:
        raise UserError(f"--run-dir {directory}: no evaluation to resume here (evaluation.json is missing)")
    say(f"{target.name} on {suite.name}, {suite.sampling.n} samples a problem: {directory}")
    document = evaluate(
        target, suite, directory, resume=resume, quiet=options.quiet, arguments=arguments, say=say
    )
    show_results(document)
    print(f"results: {directory / RESULTS}")
    return document


def chosen_suite(options: argparse.Namespace, stored: Sequence[Path], labels: Sequence[str]) -> Suite:
    """The suite that is asked for: by --suite; on --resume and beside a finished evaluation, whose file is
    among ``stored``, that one's."""
    from depo.recipe.suites import load_suite, parse_suite, restricted

    overrides = list(options.overrides)
    if options.n is not None:
        overrides.append(f"sampling.n={options.n}")
    if options.engine is not None:
        overrides.append(f"engine={options.engine}")
    if options.suite is not None:
        return load_suite(options.suite, overrides, options.data_dir, options.only)
    if options.resume:
        stored = [options.run_dir / "suite.yaml", options.run_dir / labels[0] / "suite.yaml", *stored]
    for path in stored:
        if path.is_file():
            return restricted(parse_suite(path, overrides)[0], options.only)
    raise UserError("--suite is missing: which benchmarks? For example --suite math")
