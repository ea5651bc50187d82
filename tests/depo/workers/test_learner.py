"""How the driver waits for the learner's process: a real Ray actor that sleeps instead of learning."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray

from depo.rollout import calls as module
from depo.rollout.calls import Calls
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
    learner.actor, learner.calls, learner.updating = Sleeper.remote(), Calls(), None
    assert learner.call("score") == "score"
    monkeypatch.setattr(module, "AT_LEAST", 0.5)
    learner.calls.longest["score"] = 0.01
    finish = learner.begin_update([])
    assert learner.call("score") == "score"
    assert finish() == "update"
    ray.kill(learner.actor)
