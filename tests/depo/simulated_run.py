"""A run without Ray or a model: the real loop, selector, pool, estimator, ledger, checkpoints and trackers.

Engine and learner are those of `depo.simulate` on the real clock: they take the time they are told to.
``events`` say what happened, in order: ("begin", step), ("generate",), ("evaluate", versions…) once it is
done, ("update", step), ("updated", step), ("probe", prompts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depo.estimators.base import Context
from depo.files import latest_checkpoint
from depo.recipe.schema import Recipe
from depo.rng import generator
from depo.rollout.engine import Sampling
from depo.selection import OpenStep, PromptPool
from depo.simulate.engines import (
    EngineSpeed,
    LearnerSpeed,
    SimulatedEngine,
    SimulatedEngines,
    SimulatedLearner,
)
from depo.simulate.simulation import assembled
from depo.train.metrics import Time, WallTime
from depo.train.state import Run
from depo.types import Prompt, Request, Rollout, TrainSample, UpdateResult

Events = list[tuple[Any, ...]]


def simulated_recipe(ahead: int = 0, **blocks: Any) -> Recipe:
    """4 groups of 4; drawn uniformly, with refill, unless ``blocks`` say otherwise."""
    base = {
        "name": "simulated",
        "steps": 8,
        "policy": {"type": "pretrained", "model": "organisation/model"},
        "data": {"train": "sums.jsonl"},
        "batch": {"prompts": 4, "group_size": 4},
        "reward": {"type": "exact"},
        "estimator": {"type": "mopps"},
        "selection": {"type": "uniform", "refill": True},
        "checkpoint": {"every": 1},
    }
    rollout = {"engine": "vllm"} | ({"max_off_policy_steps": ahead} if ahead else {})
    return Recipe.model_validate(base | {"rollout": rollout} | blocks)


def prompts_of(n: int, name: str = "prompt") -> list[Prompt]:
    return [Prompt(f"{name} {i:03d}", f"problem {i}", (1, 2, 3), "1") for i in range(n)]


def pass_rate(prompt_key: str) -> float:
    """A quarter of the prompts is never solved, a quarter always, and half now and then."""
    return (0.0, 0.5, 0.5, 1.0)[int(prompt_key.rpartition(" ")[2]) % 4]


def answer(key: str, seed: int, version: int, limit: int) -> np.ndarray:
    """One token: 1, right, or 0, wrong."""
    return np.array([generator(seed, "answer").random() < pass_rate(key)], np.int32)


class Engine(SimulatedEngines):
    """One engine that takes ``seconds`` for a completion, however many there are. It checks that it is given
    new weights only while it makes none."""

    def __init__(
        self, seconds: float, events: Events, time: Time, engines: int = 1, slots: int = 10**6
    ) -> None:
        speed = EngineSpeed(engines, slots, sequence=1 / seconds if seconds else math.inf)
        super().__init__(time, answer, speed, slots)
        self.events = events

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        if sampling.temperature:
            self.events.append(("generate",))
        rollouts = list(super().generate(requests, sampling, oldest))
        if not sampling.temperature:
            self.events.append(("evaluate", *sorted({one.policy_version for one in rollouts})))
        yield from rollouts

    def rollouts(self, request: Request, sampling: Sampling, engine: SimulatedEngine) -> Iterator[Rollout]:
        for rollout in super().rollouts(request, sampling, engine):
            yield replace(rollout, policy_version=self.says(rollout.policy_version))

    def says(self, version: int) -> int:
        """The version that a rollout claims."""
        return version

    def load(self, name: str) -> None:
        assert not self.engines[name].under_way
        super().load(name)


class LongTail(Engine):
    """Two engines of six places; one completion of eight takes ten times as long. So steps do not end in the
    order in which they begin, and requests wait for places and for new weights."""

    def __init__(self, seconds: float, events: Events, time: Time) -> None:
        super().__init__(seconds, events, time, engines=2, slots=6)
        self.answer = lambda key, seed, version, limit: np.resize(
            answer(key, seed, version, limit), 1 if seed % 8 else 10
        )


@dataclass(frozen=True)
class ConstantSpeed(LearnerSpeed):
    """The same ``seconds`` for every update."""

    seconds: float = 0.0

    def update(self, batch: Sequence[TrainSample]) -> float:
        return self.seconds


class Learner(SimulatedLearner):
    """An update takes ``seconds``."""

    def __init__(self, seconds: float, events: Events, time: Time) -> None:
        super().__init__(time, ConstantSpeed(math.inf, math.inf, 0.0, seconds))
        self.events = events
        self.trained: list[list[TrainSample]] = []

    def begin_update(self, batch: Sequence[TrainSample]) -> Callable[[], UpdateResult]:
        finish = super().begin_update(batch)
        step = self.updates
        self.trained.append(list(batch))
        self.events.append(("update", step))

        def finish_update() -> UpdateResult:
            result = finish()
            self.events.append(("updated", step))
            return result

        return finish_update

    def prompt_features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        features = super().prompt_features(prompts)
        self.events.append(("probe", len(prompts)))
        return features


def simulated_run(
    recipe: Recipe,
    directory: Path,
    engine_seconds: float = 0.0,
    learner_seconds: float = 0.0,
    pool: int = 100,
    engine_class: type[Engine] = Engine,
    time: Time | None = None,
) -> Run:
    """A run at its beginning or, where the directory has a checkpoint, after that. Its stand-ins share
    ``run.engine.events``."""
    directory.mkdir(exist_ok=True)
    events: Events = []
    time = time or WallTime()
    engine, learner = engine_class(engine_seconds, events, time), Learner(learner_seconds, events, time)
    prompts = PromptPool(prompts_of(pool), recipe.seed)
    run = assembled(recipe, directory, prompts, engine, learner, time, prompts_of(8, "held"))
    begin = run.selector.begin

    def told(context: Context) -> OpenStep:
        events.append(("begin", context.step))
        return begin(context)

    run.selector.begin = told
    checkpoint = latest_checkpoint(directory / "checkpoints")
    if checkpoint is not None:
        run.load_checkpoint(checkpoint)
    run.weight_sync.start(version=run.step)
    return run


def rows_of(run: Run) -> pd.DataFrame:
    """Every rollout that was written."""
    files = sorted((run.directory / "rollouts").glob("step_*.parquet"))
    return pd.concat(pd.read_parquet(file).assign(step=int(file.stem[-6:])) for file in files)
