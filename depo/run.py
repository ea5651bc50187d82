"""One run from recipe to summary: assemble its parts, take up where a checkpoint left off, finish.

The order of events inside a step is in ``depo/loop.py``; here is what happens before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depo.alarms import Alarms
from depo.checkpoint import (
    latest_checkpoint,
    load_state,
    prune,
    read_json,
    save_state,
    write_checkpoint,
    write_json,
)
from depo.clock import Clock
from depo.cluster import ray_cluster
from depo.config import Recipe
from depo.console import Console
from depo.data import PromptPool
from depo.errors import UserError
from depo.evaluation.best import BestPolicy
from depo.evaluation.heldout import EvalResult, Evaluator
from depo.learner.actor import RemoteLearner
from depo.ledger import Ledger
from depo.loop import train as run_loop
from depo.recipe import write_resolved
from depo.resume import changes_on_resume, check_continuable, claimed
from depo.rollout.engine import RolloutEngine, Sampling
from depo.rollout.sync import WeightSync
from depo.selection import Selector
from depo.tracking.metrics_log import MetricsLog
from depo.tracking.rollout_log import RolloutLog
from depo.tracking.tensorboard_log import TensorBoardLog
from depo.types import Group
from estimators.base import Estimator, Prepares
from reward.base import Reward

CHECKPOINT_SCHEMA = 1


@dataclass
class Run:
    """The parts of a training run, and what it has to remember between steps."""

    recipe: Recipe
    directory: Path
    pool: PromptPool
    estimator: Estimator
    selector: Selector
    ledger: Ledger
    reward: Reward
    learner: RemoteLearner
    engine: RolloutEngine
    weight_sync: WeightSync
    evaluator: Evaluator
    best: BestPolicy
    tokenizer: Any
    console: Console
    alarms: Alarms
    metrics_log: MetricsLog
    routing_log: MetricsLog
    rollout_log: RolloutLog | None
    tensorboard: TensorBoardLog | None
    step: int = 0
    kl_travelled: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    before: EvalResult | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def sampling(self) -> Sampling:
        rollout = self.recipe.rollout
        routes = self.recipe.learner.routing_replay == "r3"
        return Sampling(rollout.temperature, rollout.max_new_tokens, routes)

    @property
    def advantage_scale(self) -> str:
        """The recipe's, or what the loss was published with."""
        chosen = self.recipe.learner.advantage_scale
        return chosen or ("none" if self.recipe.learner.loss.type == "dr_grpo" else "group")

    def look_ahead(self, step: int) -> None:
        """Let the estimator work out, ahead of time, what the selector will ask at ``step``."""
        if isinstance(self.estimator, Prepares):
            self.estimator.prepare(self.selector.preview(self.pool, step), step)

    def sync(self, version: int) -> dict[str, float]:
        return self.weight_sync(version)

    # -------------------------------------------------------- after each step

    @property
    def spent(self) -> bool:
        """Whether training has used up the recipe's steps or rollouts, or early stopping's patience."""
        limit = self.recipe.max_rollouts
        used_up = self.step >= self.recipe.steps or (limit is not None and self.ledger.generated >= limit)
        return used_up or self.best.run_out

    def evaluation_due(self, step: int, new_rollouts: int) -> bool:
        """After ``step`` with its ``new_rollouts``. Not after the last one: that is ``at_end``'s."""
        due = crossed(step, 1, self.recipe.evaluation.every)
        due |= crossed(self.ledger.generated, new_rollouts, self.recipe.evaluation.every_rollouts)
        return due and not self.spent

    def evaluate(self, step: int) -> dict[str, float]:
        result = self.evaluator.run()
        self.ledger.book_evaluation(result.rollouts, result.tokens)
        scalars = result.scalars()
        self.best.consider(step, scalars)
        measure = self.recipe.evaluation.best or "all"
        if f"eval/{measure}" in scalars:
            self.console.say(f"evaluation after step {step}: {measure} {scalars[f'eval/{measure}']:.3f}")
        if self.best.run_out:
            self.console.say(f"early stopping after step {step}: {self.best}")
        return scalars

    def log_step(
        self,
        step: int,
        metrics: dict[str, float],
        groups: Sequence[Group],
        clock: Clock,
        layers: dict[str, list[float]],
    ) -> None:
        """``layers``: routing by name, a value for each routed layer; empty without a mixture of experts."""
        for phase, seconds in clock.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.seconds["steps"] = self.seconds.get("steps", 0.0) + clock.total
        if self.rollout_log is not None:
            self.rollout_log.write(step, groups)
        self.metrics_log.write(metrics)
        if layers:
            self.routing_log.write({"step": step} | layers)
        if self.tensorboard is not None:
            self.tensorboard.write(step, metrics)
        self.console.step(metrics)
        self.last_metrics = metrics
        self.alarms.step(step, groups, metrics)

    def checkpoint_due(self, step: int) -> bool:
        return self.spent or crossed(step, 1, self.recipe.checkpoint.every)

    def save_checkpoint(self, step: int) -> None:
        """Everything a resumed run needs. Randomness is keyed, so the seed in the recipe is all of it."""

        def write(directory: Path) -> None:
            self.learner.save(directory / "learner")
            self.learner.export(directory / "policy")
            check_seen(directory / "policy" / "config.json")
            save_state(directory / "estimator", self.estimator.state_dict())
            write_json(directory / "run.json", self.state_dict())

        root = self.directory / "checkpoints"
        write_checkpoint(root, step, write)
        prune(root, self.recipe.checkpoint.keep)

    def note_evaluation(self) -> None:
        """Note what the evaluation after training cost, and whether its policy was the best, in the last
        checkpoint: for a run that is extended later."""
        checkpoint = latest_checkpoint(self.directory / "checkpoints")
        if checkpoint is not None:
            write_json(checkpoint / "run.json", self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """JSON: all that is neither the learner's nor the estimator's."""
        return {
            "schema_version": CHECKPOINT_SCHEMA,
            "step": self.step,
            "kl_travelled": self.kl_travelled,
            "seconds": self.seconds | {"wall": self.wall_seconds},
            "yardstick": self.recipe.evaluation.yardstick,
            "before": None if self.before is None else vars_of(self.before),
            "pool": self.pool.state_dict(),
            "selector": self.selector.state_dict(),
            "ledger": self.ledger.state_dict(),
            "best": self.best.state_dict(),
        }

    def load_checkpoint(self, directory: Path) -> None:
        """Continue from ``directory``; rows that were logged after it are dropped."""
        state = read_json(directory / "run.json")
        self.learner.load(directory / "learner")
        self.estimator.load_state_dict(load_state(directory / "estimator"))
        self.pool.load_state_dict(state["pool"])
        self.selector.load_state_dict(state["selector"])
        self.ledger.load_state_dict(state["ledger"])
        self.step = state["step"]
        self.kl_travelled = state["kl_travelled"]
        self.seconds = state["seconds"]
        self.started -= self.seconds.pop("wall")
        yardstick = self.recipe.evaluation.yardstick
        if state.get("yardstick", yardstick) == yardstick:  # earlier versions kept none
            self.before = None if state["before"] is None else EvalResult(**state["before"])
            self.best.load_state_dict(state.get("best", {}))
        else:
            self.console.say(
                "evaluation: measured otherwise than before the resume, so that nothing is compared"
            )
        self.metrics_log.truncate_after(self.step)
        self.routing_log.truncate_after(self.step)
        RolloutLog(self.directory / "rollouts").truncate_after(self.step)
        # As before the interruption: summed in another order, beliefs would differ in their last bit.
        self.look_ahead(self.step + 1)

    @property
    def wall_seconds(self) -> float:
        """Seconds of wall time, those before a resume included."""
        return time.perf_counter() - self.started


def crossed(count: int, new: int, every: int) -> bool:
    """Whether a count passed a multiple of ``every`` with its ``new`` last ones; never when that is 0."""
    return bool(every) and count // every > (count - new) // every


def check_seen(file: Path) -> None:
    """Raise UserError unless what the learner's process wrote is here too: a checkpoint without weights would
    only be found out when it is needed."""
    if not file.is_file():
        raise UserError(
            f"--run-dir: the learner wrote {file.absolute()}, but it is not there for the driver; name a "
            "directory that all machines of the Ray cluster share"
        )


def vars_of(result: EvalResult) -> dict[str, object]:
    return {name: getattr(result, name) for name in EvalResult.__slots__}


def train(recipe: Recipe, run_dir: Path, resume: bool, quiet: bool) -> None:
    """Run a recipe to its end: what ``depo train`` calls.

    Raises UserError for bad input, WeightSyncError when an engine does not serve the learner's weights.
    """
    from depo.setup import assemble, build_estimator, verifier
    from depo.summary import finish

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
    run.ledger.book_evaluation(result.rollouts, result.tokens)
    run.best.consider(run.step, result.scalars())
    run.seconds["evaluate"] = run.seconds.get("evaluate", 0.0) + time.perf_counter() - start
    parts = [f"{name} {value:.3f}" for name, value in result.scalars().items()]
    if parts:
        say(f"accuracy {when}: " + ", ".join(part.removeprefix("eval/") for part in parts))
    return result
