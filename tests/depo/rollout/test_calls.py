"""Waiting for real Ray actors that hang, die or fail."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray

from depo.errors import RunStopped
from depo.rollout import calls as module
from depo.rollout.calls import AT_LEAST, FIRST, TIMES, Calls

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    def items(self, seconds: list[float]):
        for number, wait in enumerate(seconds):
            time.sleep(wait)
            yield number


@pytest.fixture(scope="module")
def worker(cluster):
    """One process for all tests; the last of them kills it."""
    actor = Worker.remote()
    ray.get(actor.pid.remote())
    yield actor
    ray.kill(actor)


def test_an_answer_comes_through_and_its_time_is_learned(worker) -> None:
    calls = Calls()
    assert calls.limit("work") == FIRST
    assert calls.get(worker.work.remote(0.3), "the learner", "work") == "done"
    assert 0.3 <= calls.longest["work"] < 30
    assert calls.limit("work") == AT_LEAST, "never so short that a slow moment ends a run"
    calls.longest["work"] = 100.0
    assert calls.limit("work") == TIMES * 100


def test_a_process_that_hangs_ends_the_run_with_its_name(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.5)
    said: list[str] = []
    pid = ray.get(worker.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RunStopped, match=r"the learner: no answer to 'work' after 2 s; it hangs"):
            Calls(1.8, said.append).get(worker.work.remote(0), "the learner", "work")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert 2 <= len(said) <= 4
    assert said[0].startswith("waiting for the learner: work, ")


def test_each_item_of_a_stream_is_waited_for_by_itself(worker) -> None:
    stream = worker.items.options(num_returns="streaming")
    assert list(Calls(1.5).items(stream.remote([0.6] * 4), "an engine", "generating")) == [0, 1, 2, 3]
    with pytest.raises(RunStopped, match="an engine: no answer to 'generating'"):
        list(Calls(1.5).items(stream.remote([0.1, 3.0]), "an engine", "generating"))


def test_a_process_that_was_killed_is_said_to_have_died(worker) -> None:
    pid = ray.get(worker.pid.remote())
    pending = worker.work.remote(60)
    time.sleep(0.3)  # until it is at work
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunStopped, match="the learner died during 'update': killed, or out of memory"):
        Calls().get(pending, "the learner", "update")
