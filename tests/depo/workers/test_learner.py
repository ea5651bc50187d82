"""How the driver asks the learner's processes: real Ray actors that sleep or listen instead of learning."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import pytest
import ray

from depo.rollout import calls as module
from depo.rollout.calls import Calls
from depo.workers.group import ActorGroup
from depo.workers.learner import RemoteLearner

pytestmark = pytest.mark.usefixtures("cluster")


def group_of(*actors: Any) -> ActorGroup:
    """These actors in place of a learner's ranks."""
    group = ActorGroup.__new__(ActorGroup)
    group.calls, group.asking, group.places = Calls(), Lock(), None
    group.actors = {f"rank {rank}": actor for rank, actor in enumerate(actors)}
    return group


@ray.remote(num_cpus=0)
class Hearer:
    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def call(self, who: str, number: int) -> None:
        self.heard.append((who, number))

    def order(self) -> list[tuple[str, int]]:
        return self.heard


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
    learner.group = group = group_of(Sleeper.remote())
    learner.calls, learner.updating = group.calls, None
    assert learner.call("score") == "score"
    monkeypatch.setattr(module, "AT_LEAST", 0.5)
    learner.calls.longest["score"] = 0.01
    finish = learner.begin_update([])
    assert learner.call("score") == "score"
    assert finish() == "update"
    group.close()


def test_all_ranks_hear_the_calls_of_two_threads_in_the_same_order() -> None:
    """Else one rank would begin an update and the other a probe, and each wait for the other for ever."""
    group = group_of(Hearer.remote(), Hearer.remote())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(lambda who: [group.ask("call", who, number) for number in range(200)], who)
                for who in ("update", "probe")
            ]
            for one in asked:
                for answers in one.result():
                    answers()
    finally:
        sys.setswitchinterval(interval)
    first, second = group.ask("order")()
    assert len(first) == 400
    assert first == second
    assert sorted(first) != first != sorted(first, reverse=True), "the threads took turns"
    group.close()
