"""A run of the real loop on simulated engines and a simulated learner, and what it shows.

Real are the loop, the threads of overlapped rollouts, selector, pool, estimator, advantages, ledger, metrics
and trackers. Simulated are engines, learner, weight sync and verdicts. There are no guards and no evaluation.
The one checkpoint, at the end, is not in the figures.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.evaluation.evaluator import Task
from depo.evaluation.in_training import TrainingEvaluation
from depo.loop import train
from depo.recipe.schema import Recipe
from depo.recipe.schema.guards import Guards
from depo.recipe.schema.reward import ExactReward
from depo.reward import VerifierPool
from depo.selection import Ledger, PromptPool
from depo.simulate.clock import SkippingTime
from depo.simulate.engines import (
    EngineSpeed,
    LearnerSpeed,
    SimulatedEngines,
    SimulatedLearner,
    SimulatedSync,
)
from depo.simulate.world import Verdicts, World
from depo.trackers.console import Console
from depo.trackers.tracker import StepRecord, open_trackers
from depo.train.alarms import Alarms
from depo.train.assembly import build_estimator, make_advantages, make_selector
from depo.train.best import BestPolicy
from depo.train.state import Run
from depo.types import Prompt

if TYPE_CHECKING:
    from depo.train.metrics import Time

WARM_UP = 4
"""One step in so many, the first ones, is left out: until selection has begun and steps are in flight."""


def assembled(
    recipe: Recipe,
    directory: Path,
    pool: PromptPool,
    engine: SimulatedEngines,
    learner: SimulatedLearner,
    time: Time,
    heldout: Sequence[Prompt] = (),
) -> Run:
    """A run at its beginning."""
    ledger = Ledger(recipe.batch.group_size, recipe.graded_on == "pass_rate", recipe.learner.epochs)
    reward = VerifierPool(recipe.reward.model_dump())
    tokenizer: Any = Verdicts()
    parts: Any = {"learner": learner, "weight_sync": SimulatedSync(learner, engine), "engine": engine}
    return Run(
        recipe=recipe,
        directory=directory,
        pool=pool,
        estimator=build_estimator(recipe),
        selector=make_selector(recipe, parts["learner"], tokenizer, ledger, engine, reward),
        ledger=ledger,
        reward=reward,
        advantages=make_advantages(recipe),
        evaluator=TrainingEvaluation(
            recipe.evaluation,
            Task("heldout", heldout, reward),
            [],
            engine=engine,
            scorer=parts["learner"],
            tokenizer=tokenizer,
            max_new_tokens=recipe.rollout.max_new_tokens,
            seed=recipe.seed,
            counted=lambda what, rollouts, total: rollouts,
        ),
        best=BestPolicy(recipe.evaluation, directory / "best", learner.export),
        tokenizer=tokenizer,
        console=Console(recipe.steps, quiet=True, name=recipe.name),
        alarms=Alarms(lambda line: None, recipe, directory),
        trackers=open_trackers(recipe.tracking, directory, lambda line: None),
        time=time,
        **parts,
    )


def simulated(recipe: Recipe, steps: int, engines: int, ahead: int) -> Recipe:
    """The recipe of a simulated run: what generates, trains and judges in it is simulated. So it is not
    checked again."""
    vllm = recipe.rollout.vllm.model_copy(update={"workers": engines})
    rollout = {"engine": "vllm", "max_off_policy_steps": ahead, "vllm": vllm}
    evaluation = recipe.evaluation.model_copy(
        update={"every": 0, "every_rollouts": 0, "best": None, "early_stopping": None}
    )
    return recipe.model_copy(
        update={
            "steps": steps,
            "max_rollouts": None,
            "rollout": recipe.rollout.model_copy(update=rollout),
            "reward": ExactReward(type="exact"),
            "evaluation": evaluation,
            "checkpoint": recipe.checkpoint.model_copy(update={"every": 0}),
            "tracking": recipe.tracking.model_copy(update={"trackers": []}),  # nobody's dashboard hears of it
            "guards": Guards(**dict.fromkeys(Guards.model_fields)),
        }
    )


class Marks:
    """A tracker that notes, after every step, totals so far: seconds on the clock, of the driver's computing,
    of each phase, and those in which all engines together and the learner worked; rollouts and tokens."""

    def __init__(self, run: Run) -> None:
        self.run: Any = run
        self.marks: list[dict[str, float]] = []

    def step(self, record: StepRecord) -> None:
        run = self.run
        mark = {"seconds": run.time.perf_counter(), "driver_seconds": run.time.computed()}
        mark |= {"engines": run.engine.busy, "learner": run.learner.busy}
        mark |= {"rollouts": run.ledger.generated, "tokens": run.ledger.generated_tokens}
        phases = {f"phase {name}": seconds for name, seconds in run.seconds.items() if name != "steps"}
        self.marks.append(mark | phases)

    def truncate_after(self, step: int) -> None: ...

    def close(self) -> None: ...


def simulate(
    recipe: Recipe,
    pool: PromptPool,
    world: World,
    engines: EngineSpeed,
    learner: LearnerSpeed,
    directory: Path,
) -> dict[str, Any]:
    """Run a ``simulated`` recipe on the prompts of ``world``; figures of a step, on average, without those of
    the warm-up. Memory in bytes: the process's largest so far."""
    time = SkippingTime()
    simulated_learner = SimulatedLearner(time, learner)
    slots = engines.slots if recipe.rollout.max_off_policy_steps else None  # as `VllmPool`
    simulated_engines = SimulatedEngines(time, world.answer, engines, slots, learner.sync)
    run = assembled(recipe, directory, pool, simulated_engines, simulated_learner, time)
    told = Marks(run)
    run.trackers.append(told)
    run.weight_sync.start(version=0)
    train(run)
    left_out = max(len(told.marks) // WARM_UP, 1)
    first, last, steps = told.marks[left_out - 1], told.marks[-1], len(told.marks) - left_out
    each = {name: (total - first.get(name, 0.0)) / steps for name, total in last.items()}
    seconds = each["seconds"]
    return {
        "engines": engines.engines,
        "max_off_policy_steps": recipe.rollout.max_off_policy_steps,
        "steps": steps,
        "seconds": seconds,
        "steps_per_hour": 3600 / seconds,
        "phases": {
            name.removeprefix("phase "): value for name, value in each.items() if name.startswith("phase ")
        },
        "engine_idle": 1 - each["engines"] / seconds / engines.engines,
        "learner_idle": 1 - each["learner"] / seconds,
        "driver_seconds": each["driver_seconds"],
        "driver_share": each["driver_seconds"] / seconds,
        "rollouts": each["rollouts"],
        "tokens": each["tokens"],
        "peak_memory": peak_memory(),
    }


def peak_memory() -> int:
    """Bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
