"""``depo train``: one run from options to summary: check the recipe, assemble the parts, loop, finish."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from depo.errors import DONE, UserError, fitted, say
from depo.files import new_directory
from depo.models.first_prompt import first_prompt
from depo.recipe.budget import budget_text
from depo.recipe.checks import check_inputs, demands, missing_model, notes, uncached, unchecked
from depo.recipe.errors import Sources
from depo.recipe.loading import (
    changes_on_resume,
    completed_recipe,
    dump_recipe,
    read_recipe,
    write_resolved,
)
from depo.recipe.schema import HubSource, Recipe, TinyMoePolicy
from depo.recipe.schema.evaluation import Suite
from depo.recipe.suites import recipe_suite

if TYPE_CHECKING:
    from depo.evaluation.in_training import EvalResult
    from depo.train.state import Run

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


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a policy by a recipe",
        description="Train a policy by a recipe.",
        epilog=OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    about = "YAML file or shipped recipe; with --resume, the run's own when left out"
    recipe = add("recipe", nargs="?", help=about)
    recipe.completer = completed_recipe
    add("overrides", nargs="*", metavar="key=value", help="see below")
    add("--run-dir", type=Path, metavar="DIR", help="default: runs/NAME-TIMESTAMP")
    add("--resume", action="store_true", help="continue the run in --run-dir")
    add("--dry-run", action="store_true", help="check and show the recipe and its cost")
    add("--quiet", action="store_true", help="no progress, only the result")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Check the recipe, then train by it or, with --dry-run, show it. Returns the exit status."""
    path, overrides = recipe_and_overrides(options)
    recipe, sources = read_recipe(path, overrides)
    check_inputs(recipe, sources, fetched=not options.dry_run)
    suite = recipe_suite(recipe.evaluation)
    data = None if options.resume else check_tables(recipe)
    if options.dry_run:
        dry_run(recipe, sources, suite, data)
        return DONE
    for note in notes(recipe):
        say(f"note: {note}")
    options.run_dir = options.run_dir or new_directory(recipe.name)  # there for whoever reports a failure
    train(recipe, options.run_dir, options.resume, options.quiet)
    return DONE


def recipe_and_overrides(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Tell the recipe file from the overrides, wherever the flags stood."""
    positionals = [text for text in (options.recipe, *options.overrides) if text is not None]
    if positionals and ("=" not in positionals[0] or Path(positionals[0]).exists()):
        return positionals[0], positionals[1:]
    if not options.resume:
        raise UserError("the recipe file is missing; it comes before key=value (see depo train --help)")
    return str(options.run_dir / "recipe.yaml"), positionals


def check_tables(recipe: Recipe) -> str | None:
    """A line on how many prompts there are, where that can be told. Raises UserError for local data that the
    run could not use. pyarrow is imported only where there is any."""
    sources = [recipe.data.train, *(one.source for one in recipe.evaluation.sets)]
    if any(not isinstance(source, HubSource) for source in sources):
        from depo.data.preview import check_data

        return check_data(recipe)
    return None


def dry_run(recipe: Recipe, sources: Sources, suite: Suite | None, data: str | None) -> None:
    """Print the recipe, its cost, its data (one line), a prompt, and what cannot be told before the run.
    torch is imported only for a recipe that asks for what not every model has, where the model's config is at
    hand to check it."""
    missing = unchecked(recipe)
    if demands(recipe) and missing is None:
        from depo.learner.outline import check_architecture

        check_architecture(recipe, sources)
    prompt = first_prompt(recipe)
    print(dump_recipe(recipe))
    lines = [budget_text(recipe), *filter(None, [data]), *prompt]
    lines += [f"note: {note}" for note in notes(recipe)]
    lines.append("no mistake found; nothing was started. The same command without --dry-run trains")
    lines += filter(None, (*uncached(recipe, suite), missing, missing_model(recipe)))
    print("\n".join(map(fitted, lines)))


def train(recipe: Recipe, run_dir: Path, resume: bool, quiet: bool) -> None:
    """Run a recipe to its end.

    Raises UserError for bad input, WeightSyncError when an engine does not serve the learner's weights,
    RunFailed when a guard ends it or nothing was trained.
    """
    gc.disable()  # or it looks through all that is imported again and again: a fifth of the time
    from depo.loop import train as run_loop
    from depo.models.loading import pretrained_view
    from depo.rng import one_thread_for_numpy
    from depo.toy.prepare import prepare
    from depo.trackers.console import Console, columns_for
    from depo.trackers.tracker import sound_rows
    from depo.train.assembly import assemble, build_estimator, check_cluster, verifier
    from depo.train.checkpoint import sound_checkpoint
    from depo.train.run_directory import check_continuable, claimed
    from depo.train.summary import finish
    from depo.workers.cluster import ray_cluster

    gc.enable()
    started = time.perf_counter()
    one_thread_for_numpy()
    changes = changes_on_resume(recipe, run_dir) if resume else []
    if resume:
        check_continuable(run_dir)
    with ExitStack() as stack:
        stack.enter_context(claimed(run_dir))
        if not resume:
            write_resolved(recipe, run_dir / "recipe.yaml")
        console = stack.enter_context(Console(recipe.steps, quiet, recipe.name, columns_for(recipe)))
        say = partial(console.say, always=True)
        checkpoint = sound_checkpoint(run_dir / "checkpoints", say) if resume else None
        estimator = build_estimator(recipe)
        reward = verifier("reward", recipe.reward, recipe, stack)
        console.doing("starting Ray")
        stack.enter_context(ray_cluster(recipe))
        check_cluster(recipe)
        console.doing("loading policy and prompts")
        policy, prompts = pretrained_view(recipe.policy, run_dir / "initial_policy"), None
        if isinstance(recipe.policy, TinyMoePolicy):
            console.doing("making policy and problems")
            prompts = prepare(recipe, Path(policy.model), run_dir, console.say)
        run = assemble(recipe, run_dir, policy, prompts, estimator, reward, console, stack)
        run.started = started
        if checkpoint is not None:
            run.load_checkpoint(checkpoint)
            console.say(f"resuming after step {run.step} from {checkpoint}")
            log = run_dir / "metrics.jsonl"
            console.remember(sound_rows(log)[0] if log.exists() else ())
        if changes:  # only now: a recipe that cannot go on does not replace the one that could
            write_resolved(recipe, run_dir / "recipe.yaml")
            for change in changes:
                console.say(change)
        run.weight_sync.start(version=run.step)
        if checkpoint is None:
            if resume:
                console.say("no checkpoint yet: starting from the beginning")
            for tracker in run.trackers:
                tracker.truncate_after(0)
            if recipe.evaluation.at_start:
                run.before = timed_evaluation(run, "before training")
            run.save_checkpoint(0)
        run_loop(run)
        after = None
        if recipe.evaluation.at_end:
            after = timed_evaluation(run, "after training")
            run.note_evaluation()
        console.doing("writing the policy")
        finish(run, after)


def timed_evaluation(run: Run, when: str) -> EvalResult:
    start = time.perf_counter()
    run.console.doing("evaluating")
    result = run.evaluator.run()
    run.ledger.record_evaluation(result.rollouts, result.tokens)
    run.best.consider(run.step, result.scalars())
    run.seconds["evaluate"] = run.seconds.get("evaluate", 0.0) + time.perf_counter() - start
    parts = [f"{name.removeprefix('eval/')} {value:.3f}" for name, value in result.scalars().items()]
    if parts:
        run.console.say(f"accuracy {when}: " + ", ".join(parts))
    return result
