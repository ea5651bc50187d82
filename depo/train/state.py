"""The parts of a run, and what it remembers between steps.

The order of events inside a step is in ``depo/loop.py``; here is what happens around it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.estimators.base import Context, Estimator
from depo.evaluation.in_training import EvalResult, TrainingEvaluation
from depo.files import latest_checkpoint, load_state, read_json, save_state, write_json
from depo.learner.advantages import Advantages
from depo.recipe.schema import Recipe
from depo.reward.base import Reward
from depo.rollout.engine import RolloutEngine, Sampling
from depo.rollout.weights import WeightSync
from depo.selection import Ledger, OpenStep, PromptPool, Selector
from depo.trackers.console import Console
from depo.trackers.tracker import StepRecord, Tracker
from depo.train.alarms import Alarms
from depo.train.best import BestPolicy
from depo.train.checkpoint import CHECKPOINT_SCHEMA, STATE, prune, rewrite_state, write_checkpoint
from depo.train.metrics import Around, Clock, Time, WallTime
from depo.types import Group, Outcome, Pick, Request, Rollout
from depo.workers.learner import RemoteLearner


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
    advantages: Advantages
    learner: RemoteLearner
    engine: RolloutEngine
    weight_sync: WeightSync
    evaluator: TrainingEvaluation
    best: BestPolicy
    tokenizer: Any
    console: Console
    alarms: Alarms
    trackers: list[Tracker]
    lost: deque[tuple[int, int]] = field(default_factory=deque)
    """Of completions that died with their engine: seed, and tokens decoded."""
    step: int = 0
    kl_travelled: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    before: EvalResult | None = None
    last_metrics: dict[str, float | None] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    time: Time = field(default_factory=WallTime)

    @property
    def sampling(self) -> Sampling:
        rollout = self.recipe.rollout
        routes = self.recipe.learner.routing_replay == "r3"
        return Sampling(rollout.temperature, rollout.max_new_tokens, routes)

    def clock(self, step: int, around: Around = lambda phase: nullcontext()) -> Clock:
        """A new one, of whose phases the console tells."""
        begun = lambda phase: self.console.doing(f"step {step}: {phase}")  # noqa: E731
        return Clock(begun, around, self.time.perf_counter)

    def open_step(self, step: int) -> OpenStep:
        """The step that begins now, or that was in flight when the checkpoint was written."""
        for one in self.selector.open_steps:
            if one.context.step == step:
                return one
        return self.selector.begin(Context(self.recipe.contrast, step, self.kl_travelled))

    def generate(self, requests: Sequence[Request], step: int) -> Iterator[Rollout]:
        """Rollouts as they finish, of a policy that is not too old; the console counts them."""
        oldest = step - 1 - self.recipe.rollout.max_off_policy_steps
        rollouts = self.engine.generate(requests, self.sampling, max(oldest, 0))
        return self.console.counted(f"step {step}: generate", rollouts, sum(one.n for one in requests))

    def count_lost(self, picks: Sequence[Pick], requests: Sequence[Request]) -> None:
        """Account for what of these picks' requests died with an engine. What is of other steps waits for
        them, what is of an evaluation for nobody."""
        origins = {
            seed: pick.origin for pick, request in zip(picks, requests, strict=True) for seed in request.seeds
        }
        for _ in range(len(self.lost)):
            seed, tokens = self.lost.popleft()
            if seed in origins:
                self.ledger.record_ungrouped(origins[seed], Outcome.LOST, 1, tokens)
            else:
                self.lost.append((seed, tokens))

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
        self.ledger.record_evaluation(result.rollouts, result.tokens)
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
        metrics: dict[str, float | None],
        groups: Sequence[Group],
        clock: Clock,
        layers: dict[str, list[float]],
    ) -> None:
        """``layers``: routing by name, a value for each routed layer; empty without a mixture of experts."""
        for phase, seconds in clock.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.seconds["steps"] = self.seconds.get("steps", 0.0) + clock.total
        for tracker in self.trackers:
            tracker.step(StepRecord(step, metrics, groups, layers))
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
            write_json(directory / STATE, self.state_dict())

        self.console.doing("writing a checkpoint")
        root = self.directory / "checkpoints"
        write_checkpoint(root, step, write, self.learner.checkpoint_bytes)
        prune(root, self.recipe.checkpoint.keep, self.alarms.sound_until())

    def note_evaluation(self) -> None:
        """Note what the evaluation after training cost, and whether its policy was the best, in the last
        checkpoint: for a run that is extended later."""
        checkpoint = latest_checkpoint(self.directory / "checkpoints")
        if checkpoint is not None:
            rewrite_state(checkpoint, self.state_dict())

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
            "alarms": self.alarms.state_dict(),
        }

    def load_checkpoint(self, directory: Path) -> None:
        """Continue from ``directory``, which is sound (`depo.train.checkpoint`); rows that were logged after
        it are dropped. What is missing of those before it is told."""
        state = read_json(directory / STATE)
        self.learner.load(directory / "learner")
        self.estimator.load_state_dict(load_state(directory / "estimator"))
        self.pool.load_state_dict(state["pool"])
        self.selector.load_state_dict(state["selector"], self.pool)
        self.ledger.load_state_dict(state["ledger"])
        self.alarms.load_state_dict(state["alarms"])
        self.step = state["step"]
        self.kl_travelled = state["kl_travelled"]
        self.seconds = state["seconds"]
        self.started -= self.seconds.pop("wall")
        yardstick = self.recipe.evaluation.yardstick
        if state["yardstick"] == yardstick:
            self.before = None if state["before"] is None else EvalResult(**state["before"])
            self.best.load_state_dict(state["best"])
        else:
            self.console.say(
                "evaluation: measured otherwise than before the resume, so that nothing is compared"
            )
        for tracker in self.trackers:
            for missing in tracker.truncate_after(self.step) or ():
                self.console.say(f"warning: {missing}", always=True)
        # As before the interruption: summed in another order, beliefs would differ in their last bit.

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
