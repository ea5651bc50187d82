"""`depo train`: one run from recipe to summary: assemble its parts, go on from a checkpoint, loop, finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from depo.evaluation.in_training import EvalResult
from depo.files import latest_checkpoint
from depo.loop import train as run_loop
from depo.recipe.loading import write_resolved
from depo.recipe.resume import changes_on_resume
from depo.recipe.schema import Recipe
from depo.trackers.console import Console
from depo.train.run_directory import check_continuable, claimed
from depo.train.state import Run
from depo.workers.cluster import ray_cluster


def train(recipe: Recipe, run_dir: Path, resume: bool, quiet: bool) -> None:
    """Run a recipe to its end: what ``depo train`` calls.

    Raises UserError for bad input, WeightSyncError when an engine does not serve the learner's weights.
    """
    from depo.train.assembly import assemble, build_estimator, verifier
    from depo.train.summary import finish

    started = time.perf_counter()
    changes = changes_on_resume(recipe, run_dir) if resume else []
    if resume:
        check_continuable(run_dir)
    with ExitStack() as stack:
        stack.enter_context(claimed(run_dir))
        if not resume:
            write_resolved(recipe, run_dir / "recipe.yaml")
        console = stack.enter_context(Console(recipe.steps, quiet, recipe.name))
        estimator = build_estimator(recipe)
        reward = verifier("reward", recipe.reward, recipe, stack)
        stack.enter_context(ray_cluster(recipe))
        run = assemble(recipe, run_dir, estimator, reward, console, stack)
        run.started = started
        checkpoint = latest_checkpoint(run_dir / "checkpoints") if resume else None
        if checkpoint is not None:
            run.load_checkpoint(checkpoint)
            console.say(f"resuming after step {run.step} from {checkpoint}")
        if changes:  # only now: a recipe that cannot go on does not replace the one that could
            write_resolved(recipe, run_dir / "recipe.yaml")
            for change in changes:
                console.say(change)
        run.weight_sync.start(version=run.step)
        if checkpoint is None:
            if resume:
                console.say("no checkpoint yet: starting from the beginning")
            run.metrics_log.truncate_after(0)
            run.routing_log.truncate_after(0)
            if recipe.evaluation.at_start:
                run.before = timed_evaluation(run, console.say, "before training")
            run.save_checkpoint(0)
        run_loop(run)
        after = None
        if recipe.evaluation.at_end:
            after = timed_evaluation(run, console.say, "after training")
            run.note_evaluation()
        finish(run, after)


def timed_evaluation(run: Run, say: Callable[[str], None], when: str) -> EvalResult:
    start = time.perf_counter()
    result = run.evaluator.run()
    run.ledger.record_evaluation(result.rollouts, result.tokens)
    run.best.consider(run.step, result.scalars())
    run.seconds["evaluate"] = run.seconds.get("evaluate", 0.0) + time.perf_counter() - start
    parts = [f"{name} {value:.3f}" for name, value in result.scalars().items()]
    if parts:
        say(f"accuracy {when}: " + ", ".join(part.removeprefix("eval/") for part in parts))
    return result
