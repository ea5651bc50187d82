"""The command line: ``depo train RECIPE [key=value ...]``, ``depo eval MODEL_OR_RUN``, ``depo route``,
``depo replay TRACE``, ``depo upcycle DENSE OUT`` and ``depo fetch NAME DIR``.

Exit status 0: done; 2: bad input, one line that names file and key; 1: anything else; 130: interrupted;
143: terminated (SIGTERM, ``depo train``).
``--help`` and ``--dry-run`` import neither torch nor Ray; but for a recipe that asks for something not every
model has (an adapter, routing replay), where the model's config is at hand to check that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from depo.errors import BAD_INPUT, DONE, UserError, report_failure, say, terminations
from depo.evaluation.cascade.command import add_route
from depo.evaluation.command import add_eval
from depo.files import check_place, new_directory
from depo.moe.upcycle.command import add_upcycle
from depo.recipe.budget import budget_text
from depo.recipe.checks import check_inputs, demands, notes, unchecked
from depo.recipe.loading import dump_recipe, read_recipe
from depo.recipe.suites import recipe_suite
from depo.replay.command import add_options as add_replay_options
from depo.replay.command import run as run_replay
from depo.report.provenance import installed_version

OVERRIDES = """\
overrides: key=value on top of the recipe, the value as in YAML
  steps=5 learner.lr=1e-5           plain values
  data.train=problems.jsonl         a whole block; for data: a file or a hub id
  learner.loss=gspo                 another type of a block, short for learner.loss.type=gspo; the recipe's
                                    other keys of that block are dropped: they were meant for the old type
  policy.lora=null                  switch a block off
  evaluation.sets=[]                lists and maps as in YAML

--dry-run prints the recipe that results.
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        say(f"error: {message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    try:
        if options.command == "fetch":
            from depo.models.fetch import fetch

            fetch(options.name, options.directory)
            print(f"{options.name}: {options.directory}")
            return DONE
        if options.command == "replay":
            return run_replay(options, list(sys.argv[1:] if arguments is None else arguments))
        if options.command == "upcycle":
            from depo.moe.upcycle.command import upcycle

            return upcycle(options)
        if options.command == "eval":
            from depo.evaluation.command import evaluate_command

            check_run_dir(options.run_dir, options.resume)
            return evaluate_command(options, list(sys.argv[1:] if arguments is None else arguments))
        if options.command == "route":
            from depo.evaluation.cascade.command import route_command

            check_run_dir(options.run_dir, options.resume)
            return route_command(options, list(sys.argv[1:] if arguments is None else arguments))
        return train(options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: all of it is reported
        return report_failure(error, None)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parsed options; overrides may stand before, between and after the flags."""
    version = installed_version("depo") or "(not installed)"
    parser = Parser(
        prog="depo", description="RL post-training that asks which prompts are worth rolling out."
    )
    parser.add_argument("--version", action="version", version=f"depo {version}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    train_parser = commands.add_parser(
        "train",
        help="train a policy by a recipe",
        description="Train a policy by a recipe.",
        epilog=OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train_parser.add_argument(
        "recipe", nargs="?", help="YAML file; with --resume, the run's own when left out"
    )
    train_parser.add_argument("overrides", nargs="*", metavar="key=value", help="see below")
    train_parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/NAME-TIMESTAMP")
    train_parser.add_argument("--resume", action="store_true", help="continue the run in --run-dir")
    train_parser.add_argument("--dry-run", action="store_true", help="check and show the recipe and its cost")
    train_parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    fetch_parser = commands.add_parser(
        "fetch",
        help="download a small model",
        description="Write a small model to DIR in Hugging Face format.",
    )
    fetch_parser.add_argument("name", help="smollm2 (a language model) or minilm (a text encoder)")
    fetch_parser.add_argument("directory", type=Path, metavar="DIR")
    suite_parsers = {"eval": add_eval(commands), "route": add_route(commands)}
    others = [fetch_parser, add_replay_options(commands), add_upcycle(commands)]

    options, rest = parser.parse_known_args(arguments)
    if options.command in suite_parsers:
        return sort_overrides(options, rest, suite_parsers[options.command])
    if options.command != "train":
        if rest:
            name = " ".join(filter(None, [options.command, getattr(options, "benchmark", None)]))
            used = next(other for other in others if other.prog == f"depo {name}")
            used.error(f"unrecognized arguments: {' '.join(rest)}")
        return options
    unknown = [text for text in rest if text.startswith("-")]
    if unknown:
        train_parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return sort_positionals(options, rest, train_parser)


def sort_overrides(
    options: argparse.Namespace, rest: list[str], parser: argparse.ArgumentParser
) -> argparse.Namespace:
    """Overrides of a suite may stand after the flags too."""
    strange = [text for text in rest if "=" not in text or text.startswith("-")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if options.resume and options.run_dir is None:
        parser.error("--resume needs --run-dir: the directory of the evaluation to continue")
    options.overrides = [*options.overrides, *rest]
    return options


def sort_positionals(options: argparse.Namespace, rest: list[str], parser: Parser) -> argparse.Namespace:
    """Tell the recipe file from the overrides, wherever the flags stood."""
    positionals = [text for text in (options.recipe, *options.overrides, *rest) if text is not None]
    has_recipe = bool(positionals) and ("=" not in positionals[0] or Path(positionals[0]).exists())
    options.recipe = positionals.pop(0) if has_recipe else None
    options.overrides = positionals
    if options.resume and options.run_dir is None:
        parser.error("--resume needs --run-dir: the directory of the run to continue")
    if options.recipe is None:
        if not options.resume:
            parser.error("the recipe file is missing; it comes before key=value")
        options.recipe = str(options.run_dir / "recipe.yaml")
    return options


def train(options: argparse.Namespace) -> int:
    """Check the recipe, then run it, or with --dry-run show it."""
    check_run_dir(options.run_dir, options.resume)
    recipe, sources = read_recipe(options.recipe, options.overrides)
    check_inputs(recipe, sources)
    recipe_suite(recipe.evaluation)
    if options.dry_run:
        missing = unchecked(recipe)
        if demands(recipe) and missing is None:
            from depo.learner.outline import check_architecture  # torch and transformers: only where needed

            check_architecture(recipe, sources)
        print(dump_recipe(recipe))
        print(budget_text(recipe))
        for note in notes(recipe):
            print(f"note: {note}")
        if missing is not None:
            print(missing)
        return DONE
    for note in notes(recipe):
        say(f"note: {note}")
    run_dir = options.run_dir or new_directory(recipe.name)
    with terminations() as received:
        try:
            from depo.run import train as run_recipe

            run_recipe(recipe, run_dir, options.resume, options.quiet)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: all of it is reported
            return report_failure(error, run_dir, terminated=bool(received))
    return DONE


def check_run_dir(run_dir: Path | None, resume: bool) -> None:
    """Raise UserError when a run would overwrite another one, or resume nothing."""
    if run_dir is None:
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir}: is a file, not a directory")
    check_place(run_dir, "--run-dir")
    if resume and not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir}: no such directory, so there is no run to resume")
    if not resume and run_dir.is_dir() and any(run_dir.iterdir()):
        raise UserError(
            f"--run-dir {run_dir}: is not empty; add --resume to continue it, or name another directory"
        )
