"""One process for the learners of many runs: its imports take longer than a tiny run."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, ClassVar

import ray
from ray.exceptions import RayActorError

from depo.rollout.calls import Calls
from depo.workers.group import LEARNER, ActorGroup
from depo.workers.learner import LearnerActor


def shared_actor() -> type:
    """Made here, so that Ray sends the class itself: its workers do not find the modules of tests."""

    class SharedLearnerActor(LearnerActor):
        begin_anew = LearnerActor.__init__

    return SharedLearnerActor


class SharedGroup(ActorGroup):
    """Learners of one rank without a GPU follow each other in one process, replaced when it has died."""

    process: ClassVar[Any] = None

    def __init__(self, actor: type, recipe: Any, gpus: int, calls: Calls) -> None:
        self.own = recipe.learner.ranks > 1 or gpus > 0
        if self.own:
            super().__init__(actor, recipe, gpus, calls)
            return
        self.calls, self.asking = calls, threading.Lock()
        self.actors = {LEARNER: self.ready_for(recipe)}

    @classmethod
    def ready_for(cls, recipe: Any) -> Any:
        if cls.process is not None:
            with suppress(RayActorError):
                ray.get(cls.process.begin_anew.remote(recipe))
                return cls.process
        cls.process = ray.remote(num_cpus=0)(shared_actor()).remote(recipe)
        return cls.process

    def close(self) -> None:
        if self.own:
            super().close()
        self.actors = {}
