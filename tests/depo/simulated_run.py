"""A run without Ray or a model: the real loop, selector, pool, estimator, ledger, checkpoints and trackers.

Engine and learner are stand-ins that take the time they are told to. Both check that one thing is asked of
them at a time. ``events`` say what happened, in order: ("begin", step), ("generate", version), ("evaluate",
version), ("update", step), ("updated", step), ("probe", prompts).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depo.evaluation.evaluator import Task
from depo.evaluation.in_training import TrainingEvaluation
from depo.files import latest_checkpoint
from depo.recipe.schema import Recipe
from depo.rng import generator
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.weights import SharedWeights
from depo.selection import Ledger, OpenStep, PromptPool
from depo.trackers.console import Console
from depo.trackers.tracker import open_trackers
from depo.train.alarms import Alarms
from depo.train.assembly import build_estimator, make_advantages, make_selector
from depo.train.best import BestPolicy
from depo.train.state import Run
from depo.types import Prompt, Request, Rollout, TrainSample, UpdateResult
from estimators.base import Context
from reward import VerifierPool

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


class Digits:
    """Stands in for a tokenizer: a token is a digit."""

    def batch_decode(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        return ["".join(map(str, one)) for one in ids]


@contextmanager
def alone(lock: threading.Lock) -> Iterator[None]:
    assert lock.acquire(blocking=False), "two callers at once"
    try:
        yield
    finally:
        lock.release()


class Engine:
    """Answers "1", right, or "0", wrong, after ``seconds`` for all requests of a call."""

    def __init__(self, seconds: float, events: Events) -> None:
        self.seconds, self.events = seconds, events
        self.version = -1
        self.lock = threading.Lock()

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        requests, version = list(requests), self.version
        name = "evaluate" if sampling.temperature == 0 else "generate"
        self.events.append((name, version))
        with alone(self.lock):
            time.sleep(self.seconds)
        for request in requests:
            for offset, seed in enumerate(request.seeds):
                right = generator(seed, "answer").random() < pass_rate(request.prompt.key)
                yield Rollout(
                    request.prompt.key,
                    request.first_index + offset,
                    seed,
                    np.array([int(right)], np.int32),
                    np.array([-0.5], np.float32),
                    "stop",
                    self.says(version),
                )

    def says(self, version: int) -> int:
        """The version that a rollout claims."""
        return version

    def load_weights(self, update: WeightUpdate) -> int:
        with alone(self.lock):
            self.version = update.version
        return self.version

    def close(self) -> None: ...


class Learner:
    """An update takes ``seconds``; a probe that comes meanwhile waits for it, as in the learner's process."""

    checkpoint_bytes = 0

    def __init__(self, seconds: float, events: Events) -> None:
        self.seconds, self.events = seconds, events
        self.free_at = 0.0
        self.updates = 0
        self.trained: list[list[TrainSample]] = []

    def begin_update(self, batch: Sequence[TrainSample]) -> Callable[[], UpdateResult]:
        self.updates += 1
        self.trained.append(list(batch))
        self.events.append(("update", self.updates))
        self.free_at = time.monotonic() + self.seconds
        return self.finish_update

    def finish_update(self) -> UpdateResult:
        self.wait()
        self.events.append(("updated", self.updates))
        metrics = {"seconds": self.seconds, "optimizer_steps": 1.0, "policy_kl": 0.001}
        return UpdateResult(metrics, [np.zeros(sample.trained) for sample in self.trained[-1]])

    def prompt_features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        self.wait()
        self.events.append(("probe", len(prompts)))
        return np.zeros((len(prompts), 2), np.float32)

    def wait(self) -> None:
        time.sleep(max(self.free_at - time.monotonic(), 0.0))

    def export(self, directory: Path, trained_only: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text("{}")

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "updates").write_text(str(self.updates))

    def load(self, directory: Path) -> None:
        self.updates = int((directory / "updates").read_text())


def simulated_run(
    recipe: Recipe,
    directory: Path,
    engine_seconds: float = 0.0,
    learner_seconds: float = 0.0,
    pool: int = 100,
    engine_class: type[Engine] = Engine,
) -> Run:
    """A run at its beginning or, where the directory has a checkpoint, after that. Its stand-ins share
    ``run.engine.events``."""
    directory.mkdir(exist_ok=True)
    events: Events = []
    engine, learner = engine_class(engine_seconds, events), Learner(learner_seconds, events)
    ledger = Ledger(recipe.batch.group_size, by_signal=recipe.graded_on == "pass_rate")
    reward = VerifierPool(recipe.reward.model_dump())
    weight_sync = SharedWeights(engine)
    run = Run(
        recipe=recipe,
        directory=directory,
        pool=PromptPool(prompts_of(pool), recipe.seed),
        estimator=build_estimator(recipe),
        selector=make_selector(recipe, learner, Digits(), ledger),
        ledger=ledger,
        reward=reward,
        advantages=make_advantages(recipe),
        learner=learner,
        engine=engine,
        weight_sync=weight_sync,
        evaluator=TrainingEvaluation(
            recipe.evaluation,
            Task("heldout", prompts_of(8, "held"), reward),
            [],
            engine=engine,
            scorer=learner,
            tokenizer=Digits(),
            max_new_tokens=1,
            seed=0,
            counted=lambda what, rollouts, total: rollouts,
        ),
        best=BestPolicy(recipe.evaluation, directory / "best", learner.export),
        tokenizer=Digits(),
        console=Console(recipe.steps, quiet=True, name="simulated"),
        alarms=Alarms(lambda line: None, recipe, directory),
        trackers=open_trackers(recipe.tracking, directory, lambda line: None),
    )
    begin = run.selector.begin

    def told(context: Context) -> OpenStep:
        events.append(("begin", context.step))
        return begin(context)

    run.selector.begin = told
    checkpoint = latest_checkpoint(directory / "checkpoints")
    if checkpoint is not None:
        run.load_checkpoint(checkpoint)
    weight_sync.start(version=run.step)
    return run


def rows_of(run: Run) -> pd.DataFrame:
    """Every rollout that was written."""
    files = sorted((run.directory / "rollouts").glob("step_*.parquet"))
    return pd.concat(pd.read_parquet(file).assign(step=int(file.stem[-6:])) for file in files)
