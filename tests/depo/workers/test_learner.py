"""How the driver waits for the learner's process: a real Ray actor that sleeps instead of learning."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

import pytest
import ray

from depo.rollout import calls as module
from depo.rollout.calls import Calls
from depo.workers.group import ActorGroup
from depo.workers.learner import RemoteLearner

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Sleeper:
    def call(self, method: str, *arguments: Any) -> str:
        time.sleep({"update": 2.5}.get(method, 0.0))
        return method


def test_a_question_in_the_middle_of_an_update_may_take_as_long_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe is quick by itself; behind an update it must not look like a process that hangs."""
    learner = RemoteLearner.__new__(RemoteLearner)
    learner.calls, learner.updating = Calls(), None
    learner.group = group = ActorGroup.__new__(ActorGroup)
    group.calls, group.asking, group.placed = learner.calls, Lock(), None
    group.actors = {"the learner": Sleeper.remote()}
    assert learner.call("score") == "score"
    monkeypatch.setattr(module, "AT_LEAST", 0.5)
    learner.calls.longest["score"] = 0.01
    finish = learner.begin_update([])
    assert learner.call("score") == "score"
    assert finish() == "update"
    group.close()
